//! Published models as GGUF headers: their keys and, where every tensor is known, the list of their tensors.
//!
//! Shapes are those of the models' public configurations; types follow the rule by which llama.cpp makes Q4_K_M:
//! embeddings Q4_K (tied: Q6_K), output Q6_K, values and the second feed-forward matrix Q6_K in the layers that
//! [`has_more_bits`] names and else Q4_K, norms and routers F32.

use crate::writer::{Gguf, Meta};
use mesh_core::gguf::{Header, Outcome, read};

/// Number, elements and bytes of a block of a tensor's type.
type Kind = (u32, u64, u64);
const F32: Kind = (0, 1, 4);
const Q4_0: Kind = (2, 32, 18);
const Q8_0: Kind = (8, 32, 34);
const Q4_K: Kind = (12, 256, 144);
const Q5_K: Kind = (13, 256, 176);
const Q6_K: Kind = (14, 256, 210);
const MXFP4: Kind = (39, 32, 17);

/// A model that people can fetch.
pub(crate) struct Published {
    pub(crate) name: &'static str,
    /// How its weights are stored; empty where their sizes are not known here.
    pub(crate) quantisation: &'static str,
    pub(crate) header: Header,
}

/// Whether `layer` of `layers` keeps more bits for its most sensitive matrices.
fn has_more_bits(layer: u32, layers: u32) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

/// The numbers that all transformers have.
#[derive(Clone, Copy)]
struct Numbers {
    layers: u32,
    embedding: u32,
    heads: u32,
    kv_heads: u32,
    head: u32,
    /// Of the dense feed-forward, or of one expert.
    feed: u32,
    vocabulary: u32,
}

impl Numbers {
    fn head_of(self, architecture: &str) -> Gguf {
        let key = |name: &str| format!("{architecture}.{name}");
        Gguf::new()
            .text("general.architecture", architecture)
            .number(&key("block_count"), self.layers)
            .number(&key("embedding_length"), self.embedding)
            .number(&key("attention.head_count"), self.heads)
            .number(&key("attention.head_count_kv"), self.kv_heads)
            .number(&key("attention.key_length"), self.head)
            .number(&key("attention.value_length"), self.head)
            .number(&key("vocab_size"), self.vocabulary)
    }

    fn queries(self) -> u64 {
        u64::from(self.heads) * u64::from(self.head)
    }

    fn keys(self) -> u64 {
        u64::from(self.kv_heads) * u64::from(self.head)
    }
}

/// A file to which tensors are added.
struct Tensors(Gguf);

impl Tensors {
    fn put(&mut self, name: &str, dims: &[u64], (kind, elements, bytes): Kind) {
        let all: u64 = dims.iter().product();
        let file = std::mem::replace(&mut self.0, Gguf::new());
        self.0 = file.tensor(name, dims, kind, all / elements * bytes);
    }

    fn of_layer(&mut self, layer: u32, name: &str, dims: &[u64], kind: Kind) {
        self.put(&format!("blk.{layer}.{name}"), dims, kind);
    }
}

fn header(file: &Gguf) -> Header {
    match read(&file.header(), None).expect("a good file") {
        Outcome::Complete(header) => header,
        Outcome::NeedMore { at_least } => panic!("{at_least} bytes are needed of a whole header"),
    }
}

/// What distinguishes the dense models from each other.
#[derive(Clone, Copy, Default)]
struct Dense {
    /// Rotary factors of Llama 3: 64 numbers.
    rope_factors: bool,
    /// Queries, keys and values have a bias.
    attention_bias: bool,
    /// The 70B model shares each value among 8 queries: values have Q5_K where they have no more.
    precious_values: bool,
    /// The output uses the embeddings; norms before and after both halves of a layer, and of queries and keys.
    gemma: bool,
}

fn dense(architecture: &str, of: Numbers, what: Dense) -> Header {
    let (d, vocabulary, feed) = (u64::from(of.embedding), u64::from(of.vocabulary), u64::from(of.feed));
    let mut file = Tensors(
        of.head_of(architecture)
            .number(&format!("{architecture}.feed_forward_length"), of.feed)
            .number(&format!("{architecture}.attention.sliding_window"), if what.gemma { 1024 } else { 0 }),
    );
    file.put("token_embd.weight", &[d, vocabulary], if what.gemma { Q6_K } else { Q4_K });
    if !what.gemma {
        file.put("output.weight", &[d, vocabulary], Q6_K);
    }
    file.put("output_norm.weight", &[d], F32);
    if what.rope_factors {
        file.put("rope_freqs.weight", &[u64::from(of.head) / 2], F32);
    }
    for layer in 0..of.layers {
        let more = has_more_bits(layer, of.layers);
        let values = match (more, what.precious_values) {
            (true, _) => Q6_K,
            (false, true) => Q5_K,
            (false, false) => Q4_K,
        };
        file.of_layer(layer, "attn_norm.weight", &[d], F32);
        file.of_layer(layer, "ffn_norm.weight", &[d], F32);
        file.of_layer(layer, "attn_q.weight", &[d, of.queries()], Q4_K);
        file.of_layer(layer, "attn_k.weight", &[d, of.keys()], Q4_K);
        file.of_layer(layer, "attn_v.weight", &[d, of.keys()], values);
        file.of_layer(layer, "attn_output.weight", &[of.queries(), d], Q4_K);
        file.of_layer(layer, "ffn_gate.weight", &[d, feed], Q4_K);
        file.of_layer(layer, "ffn_up.weight", &[d, feed], Q4_K);
        file.of_layer(layer, "ffn_down.weight", &[feed, d], if more { Q6_K } else { Q4_K });
        if what.attention_bias {
            file.of_layer(layer, "attn_q.bias", &[of.queries()], F32);
            file.of_layer(layer, "attn_k.bias", &[of.keys()], F32);
            file.of_layer(layer, "attn_v.bias", &[of.keys()], F32);
        }
        if what.gemma {
            file.of_layer(layer, "post_attention_norm.weight", &[d], F32);
            file.of_layer(layer, "post_ffw_norm.weight", &[d], F32);
            file.of_layer(layer, "attn_q_norm.weight", &[u64::from(of.head)], F32);
            file.of_layer(layer, "attn_k_norm.weight", &[u64::from(of.head)], F32);
        }
    }
    header(&file.0)
}

/// `experts` of which `used` are computed for a token.
fn with_experts(architecture: &str, of: Numbers, experts: u32, used: u32) -> Gguf {
    let key = |name: &str| format!("{architecture}.{name}");
    of.head_of(architecture)
        .number(&key("expert_count"), experts)
        .number(&key("expert_used_count"), used)
        .number(&key("expert_feed_forward_length"), of.feed)
}

/// Qwen3 and MiniMax with experts. MiniMax norms all queries at once and has a bias in its router.
fn experts(architecture: &str, of: Numbers, experts: u32, used: u32) -> Header {
    let (d, vocabulary, feed) = (u64::from(of.embedding), u64::from(of.vocabulary), u64::from(of.feed));
    let (all, is_minimax) = (u64::from(experts), architecture == "minimax-m2");
    let mut file = Tensors(with_experts(architecture, of, experts, used));
    file.put("token_embd.weight", &[d, vocabulary], Q4_K);
    file.put("output.weight", &[d, vocabulary], Q6_K);
    file.put("output_norm.weight", &[d], F32);
    for layer in 0..of.layers {
        let more = if has_more_bits(layer, of.layers) { Q6_K } else { Q4_K };
        let head = u64::from(of.head);
        let (q_norm, k_norm) = if is_minimax { (of.queries(), of.keys()) } else { (head, head) };
        file.of_layer(layer, "attn_norm.weight", &[d], F32);
        file.of_layer(layer, "ffn_norm.weight", &[d], F32);
        file.of_layer(layer, "attn_q_norm.weight", &[q_norm], F32);
        file.of_layer(layer, "attn_k_norm.weight", &[k_norm], F32);
        file.of_layer(layer, "attn_q.weight", &[d, of.queries()], Q4_K);
        file.of_layer(layer, "attn_k.weight", &[d, of.keys()], Q4_K);
        file.of_layer(layer, "attn_v.weight", &[d, of.keys()], more);
        file.of_layer(layer, "attn_output.weight", &[of.queries(), d], Q4_K);
        file.of_layer(layer, "ffn_gate_inp.weight", &[d, all], F32);
        if is_minimax {
            file.of_layer(layer, "exp_probs_b.bias", &[all], F32);
        }
        file.of_layer(layer, "ffn_gate_exps.weight", &[d, feed, all], Q4_K);
        file.of_layer(layer, "ffn_up_exps.weight", &[d, feed, all], Q4_K);
        file.of_layer(layer, "ffn_down_exps.weight", &[feed, d, all], more);
    }
    header(&file.0)
}

/// Experts in MXFP4, the rest in Q8_0, a bias everywhere.
fn gpt_oss(layers: u32, experts: u32) -> Header {
    let of = Numbers {
        layers,
        embedding: 2880,
        heads: 64,
        kv_heads: 8,
        head: 64,
        feed: 2880,
        vocabulary: 201_088,
    };
    let (d, vocabulary, all) = (2880, u64::from(of.vocabulary), u64::from(experts));
    let head = with_experts("gpt-oss", of, experts, 4).number("gpt-oss.attention.sliding_window", 128);
    let mut file = Tensors(head);
    file.put("token_embd.weight", &[d, vocabulary], Q8_0);
    file.put("output.weight", &[d, vocabulary], Q8_0);
    file.put("output_norm.weight", &[d], F32);
    for layer in 0..layers {
        file.of_layer(layer, "attn_norm.weight", &[d], F32);
        file.of_layer(layer, "post_attention_norm.weight", &[d], F32);
        for (part, width) in [("q", of.queries()), ("k", of.keys()), ("v", of.keys())] {
            file.of_layer(layer, &format!("attn_{part}.weight"), &[d, width], Q8_0);
            file.of_layer(layer, &format!("attn_{part}.bias"), &[width], F32);
        }
        file.of_layer(layer, "attn_output.weight", &[of.queries(), d], Q8_0);
        file.of_layer(layer, "attn_output.bias", &[d], F32);
        file.of_layer(layer, "attn_sinks.weight", &[u64::from(of.heads)], F32);
        file.of_layer(layer, "ffn_gate_inp.weight", &[d, all], F32);
        file.of_layer(layer, "ffn_gate_inp.bias", &[all], F32);
        for part in ["gate", "up", "down"] {
            file.of_layer(layer, &format!("ffn_{part}_exps.weight"), &[d, d, all], MXFP4);
            file.of_layer(layer, &format!("ffn_{part}_exps.bias"), &[d, all], F32);
        }
    }
    header(&file.0)
}

/// No gate in the feed-forward, a bias everywhere.
fn starcoder2() -> Header {
    let of = Numbers {
        layers: 40,
        embedding: 6144,
        heads: 48,
        kv_heads: 4,
        head: 128,
        feed: 24_576,
        vocabulary: 49_152,
    };
    let (d, feed) = (6144, 24_576);
    let mut file = Tensors(of.head_of("starcoder2").number("starcoder2.feed_forward_length", of.feed));
    file.put("token_embd.weight", &[d, u64::from(of.vocabulary)], Q4_0);
    file.put("output.weight", &[d, u64::from(of.vocabulary)], Q6_K);
    for part in ["weight", "bias"] {
        file.put(&format!("output_norm.{part}"), &[d], F32);
    }
    for layer in 0..of.layers {
        for (name, from, to) in [
            ("attn_q", d, of.queries()),
            ("attn_k", d, of.keys()),
            ("attn_v", d, of.keys()),
            ("attn_output", of.queries(), d),
            ("ffn_up", d, feed),
            ("ffn_down", feed, d),
        ] {
            file.of_layer(layer, &format!("{name}.weight"), &[from, to], Q4_0);
            file.of_layer(layer, &format!("{name}.bias"), &[to], F32);
        }
        for name in ["attn_norm.weight", "attn_norm.bias", "ffn_norm.weight", "ffn_norm.bias"] {
            file.of_layer(layer, name, &[d], F32);
        }
    }
    header(&file.0)
}

/// Keys and values share one small cache; in a file made before that was known, each head has its own.
pub(crate) fn deepseek_v3() -> Header {
    let of = Numbers {
        layers: 61,
        embedding: 7168,
        heads: 128,
        kv_heads: 1,
        head: 576,
        feed: 2048,
        vocabulary: 129_280,
    };
    let file = with_experts("deepseek2", of, 256, 8)
        .number("deepseek2.feed_forward_length", 18_432)
        .number("deepseek2.attention.kv_lora_rank", 512)
        .number("deepseek2.attention.key_length_mla", 192)
        .number("deepseek2.attention.value_length_mla", 128);
    header(&file)
}

/// 6 layers with attention, 23 with a state, 23 with experts alone.
fn nemotron_nano() -> Header {
    let (attention, mut others) = ([5, 12, 19, 26, 33, 42], 0);
    let (mut heads, mut feed) = (Vec::new(), Vec::new());
    for layer in 0..52 {
        let has_attention = attention.contains(&layer);
        others += u32::from(!has_attention);
        heads.push(if has_attention { 2 } else { 0 });
        feed.push(if has_attention || others % 2 == 1 { 0 } else { 1856 });
    }
    let mut file = Gguf::new()
        .text("general.architecture", "nemotron_h_moe")
        .entry("nemotron_h_moe.attention.head_count_kv", Meta::U32s(heads))
        .entry("nemotron_h_moe.feed_forward_length", Meta::U32s(feed));
    for (key, value) in [
        ("block_count", 52),
        ("embedding_length", 2688),
        ("attention.head_count", 32),
        ("attention.key_length", 128),
        ("attention.value_length", 128),
        ("vocab_size", 131_072),
        ("expert_count", 128),
        ("expert_used_count", 6),
        ("expert_feed_forward_length", 1856),
        ("expert_shared_feed_forward_length", 3712),
        ("ssm.conv_kernel", 4),
        ("ssm.inner_size", 4096),
        ("ssm.state_size", 128),
        ("ssm.group_count", 8),
    ] {
        file = file.number(&format!("nemotron_h_moe.{key}"), value);
    }
    header(&file)
}

/// Every fourth layer has attention.
fn qwen3_next() -> Header {
    let of = Numbers {
        layers: 48,
        embedding: 2048,
        heads: 16,
        kv_heads: 2,
        head: 256,
        feed: 512,
        vocabulary: 151_936,
    };
    let mut file = with_experts("qwen3next", of, 512, 10);
    for (key, value) in [
        ("expert_shared_feed_forward_length", 512),
        ("ssm.conv_kernel", 4),
        ("ssm.inner_size", 4096),
        ("ssm.state_size", 128),
        ("ssm.group_count", 16),
    ] {
        file = file.number(&format!("qwen3next.{key}"), value);
    }
    header(&file)
}

/// layers, embedding, heads, heads of keys and values, size of a head, feed-forward, vocabulary
fn numbers([layers, embedding, heads, kv_heads, head, feed, vocabulary]: [u32; 7]) -> Numbers {
    Numbers { layers, embedding, heads, kv_heads, head, feed, vocabulary }
}

/// The models of `docs/memory.md`.
pub(crate) fn published() -> Vec<Published> {
    let llama3 = Dense { rope_factors: true, ..Dense::default() };
    let llama_70b = Dense { precious_values: true, ..llama3 };
    let qwen2 = Dense { attention_bias: true, ..Dense::default() };
    let qwen2_32b = || dense("qwen2", numbers([64, 5120, 40, 8, 128, 27_648, 152_064]), qwen2);
    let gemma = Dense { gemma: true, ..Dense::default() };
    let plain = Dense::default();
    [
        ("Llama-3.1-8B", "Q4_K_M", dense("llama", numbers([32, 4096, 32, 8, 128, 14_336, 128_256]), llama3)),
        (
            "Llama-3.1-70B",
            "Q4_K_M",
            dense("llama", numbers([80, 8192, 64, 8, 128, 28_672, 128_256]), llama_70b),
        ),
        (
            "Qwen2.5-Coder-7B",
            "Q4_K_M",
            dense("qwen2", numbers([28, 3584, 28, 4, 128, 18_944, 152_064]), qwen2),
        ),
        ("Qwen2.5-32B", "Q4_K_M", qwen2_32b()),
        ("Qwen2.5-Coder-32B", "Q4_K_M", qwen2_32b()),
        (
            "Qwen3-30B-A3B",
            "Q4_K_M",
            experts("qwen3moe", numbers([48, 2048, 32, 4, 128, 768, 151_936]), 128, 8),
        ),
        ("gpt-oss-20b", "MXFP4", gpt_oss(24, 32)),
        ("gpt-oss-120b", "MXFP4", gpt_oss(36, 128)),
        ("CodeLlama-34B", "Q4_K_M", dense("llama", numbers([48, 8192, 64, 8, 128, 22_016, 32_000]), plain)),
        (
            "DeepSeek-Coder-33B",
            "Q4_K_M",
            dense("llama", numbers([62, 7168, 56, 8, 128, 19_200, 32_256]), plain),
        ),
        (
            "Mistral-Nemo-12B",
            "Q4_K_M",
            dense("llama", numbers([40, 5120, 32, 8, 128, 14_336, 131_072]), plain),
        ),
        ("StarCoder2-15B", "Q4_0", starcoder2()),
        (
            "MiniMax-M2.1",
            "Q4_K_M",
            experts("minimax-m2", numbers([62, 3072, 48, 8, 128, 1536, 200_064]), 256, 8),
        ),
        ("DeepSeek-V3.1", "", deepseek_v3()),
        ("gemma-3-27b", "Q4_K_M", dense("gemma3", numbers([62, 5376, 32, 16, 128, 21_504, 262_144]), gemma)),
        ("Nemotron-3-Nano-30B-A3B", "", nemotron_nano()),
        ("Qwen3-Next-80B-A3B", "", qwen3_next()),
    ]
    .into_iter()
    .map(|(name, quantisation, header)| Published { name, quantisation, header })
    .collect()
}
