//! Layers that keep a state instead of keys and values.

use crate::gguf::{Header, Value};

/// Which layers keep a state instead of keys and values.
pub(super) struct Recurrence {
    choice: Choice,
    /// 32-bit floats of one sequence in one layer.
    pub(super) floats: u64,
    /// A recurrent layer has attention too.
    pub(super) beside_attention: bool,
    pub(super) is_known: bool,
}

enum Choice {
    Nobody,
    Everybody,
    /// Layers without heads of keys and values.
    WithoutHeads,
    /// The same, and without a feed-forward.
    WithoutHeadsAndFeedForward,
    /// Said for each layer.
    Listed(Vec<bool>),
    /// All but every so many-th.
    Period(u64),
}

impl Recurrence {
    pub(super) fn of(architecture: &str, header: &Header) -> Self {
        let number = |key: &str| header.arch_number(key).unwrap_or(0);
        let convolution = number("ssm.conv_kernel").saturating_sub(1);
        let (inner, state) = (number("ssm.inner_size"), number("ssm.state_size"));
        let width =
            inner.saturating_add(2_u64.saturating_mul(number("ssm.group_count")).saturating_mul(state));
        let ssm = convolution.saturating_mul(width).saturating_add(state.saturating_mul(inner));
        let short = number("shortconv.l_cache").saturating_sub(1).saturating_mul(number("embedding_length"));
        let (choice, floats, beside_attention) = match architecture {
            "mamba" | "mamba2" => (Choice::Everybody, ssm, false),
            "nemotron_h" | "nemotron_h_moe" => (Choice::WithoutHeadsAndFeedForward, ssm, false),
            "jamba" | "granitehybrid" => (Choice::WithoutHeads, ssm, false),
            "lfm2" | "lfm2moe" => (Choice::WithoutHeads, short, false),
            "falcon-h1" => (Choice::Everybody, ssm, true),
            "qwen3next" | "qwen35" | "qwen35moe" => {
                let choice = match header.arch("attention.recurrent_layers") {
                    Some(Value::Array(array)) => {
                        let items = array.items.iter().flatten();
                        let flag =
                            |item: &Value| matches!(item, Value::Bool(true)) || item.number() == Some(1);
                        Choice::Listed(items.map(flag).collect())
                    }
                    Some(_) | None => Choice::Period(
                        header.arch_number("full_attention_interval").filter(|&n| n > 0).unwrap_or(4),
                    ),
                };
                (choice, ssm, false)
            }
            _ => return Self { choice: Choice::Nobody, floats: 0, beside_attention: false, is_known: false },
        };
        Self { choice, floats, beside_attention, is_known: true }
    }

    pub(super) fn takes(&self, layer: u64, kv_heads: u64, feed_forward: Option<u64>) -> bool {
        match &self.choice {
            Choice::Nobody => false,
            Choice::Everybody => true,
            Choice::WithoutHeads => kv_heads == 0,
            Choice::WithoutHeadsAndFeedForward => kv_heads == 0 && feed_forward.unwrap_or(0) == 0,
            Choice::Listed(list) => {
                usize::try_from(layer).ok().and_then(|at| list.get(at)).copied().unwrap_or(false)
            }
            Choice::Period(period) => !(layer + 1).is_multiple_of(*period),
        }
    }
}
