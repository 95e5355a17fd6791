//! Keys of a header that may be one number or one for each layer.

use crate::gguf::{Header, Value};

/// Keys that may be one number or one for each layer.
pub(super) struct Keys<'a> {
    pub(super) header: &'a Header,
    pub(super) layers: u64,
    pub(super) embedding: u64,
}

impl Keys<'_> {
    pub(super) fn per_layer(&self, key: &str, layer: u64) -> Option<u64> {
        match self.header.arch(key)? {
            Value::Array(array) => {
                let items = array.items.as_ref()?;
                items.get(usize::try_from(layer).ok()?)?.number()
            }
            single @ (Value::Unsigned(_)
            | Value::Signed(_)
            | Value::Float(_)
            | Value::Bool(_)
            | Value::Text(_)) => single.number(),
        }
    }

    /// Elements of one key and of one value.
    pub(super) fn head_sizes(&self, heads: u64, windowed: bool) -> (u64, u64) {
        let usual = self.embedding.checked_div(heads).unwrap_or(0);
        let size = |key: &str| self.header.arch_number(key);
        let (k, v) = ("attention.key_length", "attention.value_length");
        let of_window = |key: &str| size(&format!("{key}_swa")).filter(|_| windowed);
        (of_window(k).or_else(|| size(k)).unwrap_or(usual), of_window(v).or_else(|| size(v)).unwrap_or(usual))
    }

    /// Elements of the feed-forward that is computed for one token.
    pub(super) fn feed_forward(&self, layer: u64) -> u64 {
        debug_assert!(layer < self.layers, "asked for existing layers only");
        let dense = self.per_layer("feed_forward_length", layer).unwrap_or(0);
        let used = self.header.arch_number("expert_used_count").unwrap_or(0);
        let expert = self.header.arch_number("expert_feed_forward_length").unwrap_or(0);
        let shared = self.header.arch_number("expert_shared_feed_forward_length").unwrap_or(0);
        dense.max(used.saturating_mul(expert).saturating_add(shared))
    }
}
