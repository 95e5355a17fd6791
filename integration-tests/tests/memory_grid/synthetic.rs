//! Models that no one trained, with what the tiny ones lack: windows, experts, recurrent layers, no attention at
//! all. All weights are zero; loading them is enough to see their buffers.

use crate::writer::{Gguf, Meta};

const F32: u32 = 0;
/// 3 special tokens, one for each byte, and some to make it a multiple of 32.
const VOCABULARY: u64 = 288;
const EMBEDDING: u64 = 64;

struct Model(Gguf);

impl Model {
    fn new(architecture: &'static str, keys: &[(&str, u32)]) -> Self {
        let mut tokens = vec!["<unk>".to_owned(), "<s>".into(), "</s>".into()];
        tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
        tokens.extend((0..VOCABULARY as usize - tokens.len()).map(|number| format!("word{number}")));
        // unknown, control, control, then 256 bytes, then normal ones
        let kind = |at: usize| [2, 3, 3].get(at).copied().unwrap_or(if at < 259 { 6 } else { 1 });
        let kinds = (0..tokens.len()).map(kind).collect();
        let scores = (0..tokens.len()).map(|at| -(at as f32)).collect();
        let mut file = Gguf::new()
            .text("general.architecture", architecture)
            .text("tokenizer.ggml.model", "llama")
            .entry("tokenizer.ggml.scores", Meta::F32s(scores))
            .entry("tokenizer.ggml.token_type", Meta::I32s(kinds))
            .entry("tokenizer.ggml.tokens", Meta::Texts(tokens))
            .number(&format!("{architecture}.context_length"), 8192)
            .number(&format!("{architecture}.embedding_length"), EMBEDDING as u32)
            .entry(&format!("{architecture}.attention.layer_norm_rms_epsilon"), Meta::F32(1e-5));
        for (key, value) in keys {
            file = file.number(&format!("{architecture}.{key}"), *value);
        }
        let mut model = Self(file);
        model.put("token_embd.weight", &[EMBEDDING, VOCABULARY]);
        model.put("output_norm.weight", &[EMBEDDING]);
        model
    }

    fn put(&mut self, name: &str, dims: &[u64]) {
        let file = std::mem::replace(&mut self.0, Gguf::new());
        self.0 = file.tensor(name, dims, F32, 4 * dims.iter().product::<u64>());
    }

    fn of_layer(&mut self, layer: u32, tensors: &[(&str, &[u64])]) {
        for (name, dims) in tensors {
            self.put(&format!("blk.{layer}.{name}"), dims);
        }
    }
}

/// Eight layers, of which 0–4, 6 and 7 look back 128 tokens.
pub(crate) fn gemma3() -> Vec<u8> {
    let mut model = Model::new(
        "gemma3",
        &[
            ("block_count", 8),
            ("feed_forward_length", 128),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("attention.key_length", 32),
            ("attention.value_length", 32),
            ("attention.sliding_window", 128),
        ],
    );
    for layer in 0..8 {
        model.of_layer(
            layer,
            &[
                ("attn_norm.weight", &[64]),
                ("attn_q.weight", &[64, 128]),
                ("attn_k.weight", &[64, 64]),
                ("attn_v.weight", &[64, 64]),
                ("attn_output.weight", &[128, 64]),
                ("attn_q_norm.weight", &[32]),
                ("attn_k_norm.weight", &[32]),
                ("post_attention_norm.weight", &[64]),
                ("ffn_norm.weight", &[64]),
                ("ffn_gate.weight", &[64, 128]),
                ("ffn_up.weight", &[64, 128]),
                ("ffn_down.weight", &[128, 64]),
                ("post_ffw_norm.weight", &[64]),
            ],
        );
    }
    model.0.file()
}

/// Every other layer looks back 64 tokens; four experts.
pub(crate) fn gpt_oss() -> Vec<u8> {
    let mut model = Model::new(
        "gpt-oss",
        &[
            ("block_count", 4),
            ("feed_forward_length", 96),
            ("expert_feed_forward_length", 96),
            ("expert_count", 4),
            ("expert_used_count", 2),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("attention.key_length", 32),
            ("attention.value_length", 32),
            ("attention.sliding_window", 64),
        ],
    );
    model.put("output.weight", &[64, VOCABULARY]);
    for layer in 0..4 {
        model.of_layer(
            layer,
            &[
                ("attn_norm.weight", &[64]),
                ("post_attention_norm.weight", &[64]),
                ("attn_q.weight", &[64, 128]),
                ("attn_q.bias", &[128]),
                ("attn_k.weight", &[64, 64]),
                ("attn_k.bias", &[64]),
                ("attn_v.weight", &[64, 64]),
                ("attn_v.bias", &[64]),
                ("attn_output.weight", &[128, 64]),
                ("attn_output.bias", &[64]),
                ("attn_sinks.weight", &[4]),
                ("ffn_gate_inp.weight", &[64, 4]),
                ("ffn_gate_inp.bias", &[4]),
                ("ffn_gate_exps.weight", &[64, 96, 4]),
                ("ffn_gate_exps.bias", &[96, 4]),
                ("ffn_up_exps.weight", &[64, 96, 4]),
                ("ffn_up_exps.bias", &[96, 4]),
                ("ffn_down_exps.weight", &[96, 64, 4]),
                ("ffn_down_exps.bias", &[64, 4]),
            ],
        );
    }
    model.0.file()
}

/// States and no attention.
pub(crate) fn mamba() -> Vec<u8> {
    let mut model = Model::new(
        "mamba",
        &[
            ("block_count", 3),
            ("feed_forward_length", 0),
            ("attention.head_count", 0),
            ("ssm.conv_kernel", 4),
            ("ssm.inner_size", 128),
            ("ssm.state_size", 16),
            ("ssm.time_step_rank", 4),
        ],
    );
    for layer in 0..3 {
        model.of_layer(
            layer,
            &[
                ("attn_norm.weight", &[64]),
                ("ssm_in.weight", &[64, 256]),
                ("ssm_conv1d.weight", &[4, 128]),
                ("ssm_conv1d.bias", &[128]),
                ("ssm_x.weight", &[128, 36]),
                ("ssm_dt.weight", &[4, 128]),
                ("ssm_dt.bias", &[128]),
                ("ssm_a", &[16, 128]),
                ("ssm_d", &[128]),
                ("ssm_out.weight", &[128, 64]),
            ],
        );
    }
    model.0.file()
}

/// In turn a state, a feed-forward, attention.
pub(crate) fn nemotron_h() -> Vec<u8> {
    let mut model = Model::new(
        "nemotron_h",
        &[
            ("block_count", 6),
            ("attention.head_count", 4),
            ("attention.key_length", 32),
            ("attention.value_length", 32),
            ("ssm.conv_kernel", 4),
            ("ssm.inner_size", 128),
            ("ssm.state_size", 16),
            ("ssm.group_count", 2),
            ("ssm.time_step_rank", 4),
        ],
    );
    let turns = |values: [u32; 3]| Meta::U32s(values.repeat(2));
    model.0 = model
        .0
        .entry("nemotron_h.attention.layer_norm_epsilon", Meta::F32(1e-5))
        .entry("nemotron_h.attention.head_count_kv", turns([0, 0, 2]))
        .entry("nemotron_h.feed_forward_length", turns([0, 128, 0]));
    model.put("output.weight", &[64, VOCABULARY]);
    for layer in 0..6 {
        model.of_layer(layer, &[("attn_norm.weight", &[64])]);
        let rest: &[(&str, &[u64])] = match layer % 3 {
            0 => &[
                // The gate and the inner size, two groups of two states, and one step for each head.
                ("ssm_in.weight", &[64, 2 * 128 + 2 * 2 * 16 + 4]),
                ("ssm_conv1d.weight", &[4, 128 + 2 * 2 * 16]),
                ("ssm_conv1d.bias", &[128 + 2 * 2 * 16]),
                ("ssm_dt.bias", &[4]),
                ("ssm_a", &[1, 4]),
                ("ssm_d", &[1, 4]),
                ("ssm_norm.weight", &[64, 2]),
                ("ssm_out.weight", &[128, 64]),
            ],
            1 => &[("ffn_up.weight", &[64, 128]), ("ffn_down.weight", &[128, 64])],
            _ => &[
                ("attn_q.weight", &[64, 128]),
                ("attn_k.weight", &[64, 64]),
                ("attn_v.weight", &[64, 64]),
                ("attn_output.weight", &[128, 64]),
            ],
        };
        model.of_layer(layer, rest);
    }
    model.0.file()
}
