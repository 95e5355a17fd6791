//! A model that was written instead of trained: the real engine serves it, and it says what a test needs.
//!
//! It knows phrases, each one token. The output row of a phrase points only at the embedding of the one before it,
//! and the one layer between them is all zeros, so each phrase calls for the next with a logit that leaves no other
//! choice at any temperature. What comes first is said by the end of the prompt, which the chat template makes:
//! calls of tools where there are tools and the user speaks, words otherwise.

use crate::writer::{Gguf, Meta};
use std::path::{Path, PathBuf};

const F32: u32 = 0;
const EMBEDDING: usize = 64;
const FEED_FORWARD: usize = 32;
/// How strongly a phrase calls for the next one. The norm before the output makes it eight times as much.
const CALL: f32 = 10.0;
/// Where nothing is called for, the answer ends.
const END: f32 = CALL / 2.0;

/// A word before two calls at once. llama.cpp finds out how calls look from the template below.
const CALLS: [&str; 13] = [
    "assistant \n",
    "I",
    " look.",
    "\n\n",
    "<tool_call>",
    "\n{\"name\": \"clock\", \"arguments\": {\"zone",
    "\": \"Europe/",
    "Zürich\"}}",
    "\n</tool_call>\n<tool_call>\n",
    "{\"name\": \"weather\", \"arguments\": {\"city\": \"",
    "Zürich\", \"days\": ",
    "3}}",
    "\n</tool_call>",
];
const WORDS: [&str; 5] = ["assistant\n", "It is", " noon", " in Zürich", ", 3 °C."];
/// The engine looks for these when it reads the template.
const PIECES: [&str; 1] = ["\n"];

/// As strict about the place of instructions as those of published models are.
const TEMPLATE: &str = r#"{%- if tools %}{{ '<|im_start|>system\nTools:\n' }}
{%- for t in tools %}{{ t | tojson }}{{ '\n' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif -%}
{%- for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}
{{- '<|im_start|>' + m.role + '\n' }}{% if m.content %}{{ m.content }}{% endif %}
{%- for c in m.tool_calls or [] %}{{ '\n<tool_call>\n{"name": "' + c.function.name + '", "arguments": ' }}
{{- c.function.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant' }}
{%- if tools and messages[-1].role == 'user' %}{{ ' ' }}{% endif %}{{ '\n' }}{% endif %}"#;

/// Writes the model into `folder`.
///
/// # Panics
/// When the folder takes no file.
pub(crate) fn phrase_model(folder: &Path) -> PathBuf {
    let vocabulary = Vocabulary::new();
    let tokens = vocabulary.texts.len();
    let (mut input, mut output) = (vec![0.0; tokens * EMBEDDING], vec![0.0; tokens * EMBEDDING]);
    // What calls for nothing has the first embedding.
    for token in 0..tokens {
        input[token * EMBEDDING] = 1.0;
    }
    let mut used = 1;
    for chain in [CALLS.as_slice(), &WORDS] {
        for (at, text) in chain.iter().enumerate() {
            let (this, next) = (vocabulary.of(text), chain.get(at + 1).map(|next| vocabulary.of(next)));
            input[this * EMBEDDING] = 0.0;
            input[this * EMBEDDING + used] = 1.0;
            output[next.unwrap_or(vocabulary.end) * EMBEDDING + used] = CALL;
            used += 1;
        }
    }
    assert!(used <= EMBEDDING, "{used} phrases need a larger embedding than {EMBEDDING}");
    for wish in &mut output[vocabulary.end * EMBEDDING..(vocabulary.end + 1) * EMBEDDING] {
        *wish = wish.max(END);
    }

    let file = folder.join("phrases.gguf");
    std::fs::write(&file, written(vocabulary, &input, &output)).expect("a folder of the test");
    file
}

struct Vocabulary {
    texts: Vec<String>,
    kinds: Vec<i32>,
    end: usize,
}

impl Vocabulary {
    fn new() -> Self {
        const NORMAL: i32 = 1;
        const UNKNOWN: i32 = 2;
        const CONTROL: i32 = 3;
        const WRITTEN: i32 = 4;
        const BYTE: i32 = 6;
        let mut both = vec![("<unk>".to_owned(), UNKNOWN)];
        both.extend(["<s>", "</s>", "<|im_start|>", "<|im_end|>"].map(|text| (text.to_owned(), CONTROL)));
        let end = both.len() - 1;
        both.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), BYTE)));
        let phrases = CALLS.iter().chain(&WORDS).chain(&PIECES);
        both.extend(phrases.map(|&text| (text.to_owned(), WRITTEN)));
        while both.len() % 32 != 0 {
            both.push((format!("word{}", both.len()), NORMAL));
        }
        let (texts, kinds) = both.into_iter().unzip();
        Self { texts, kinds, end }
    }

    fn of(&self, text: &str) -> usize {
        self.texts.iter().position(|known| known == text).expect("a phrase of ours")
    }
}

fn written(vocabulary: Vocabulary, input: &[f32], output: &[f32]) -> Vec<u8> {
    let (wide, narrow, tokens) = (EMBEDDING, FEED_FORWARD, vocabulary.texts.len());
    let scores = (0..tokens).map(|at| -(at as f32)).collect();
    let file = Gguf::new()
        .text("general.architecture", "llama")
        .number("llama.context_length", 65_536)
        .number("llama.embedding_length", wide as u32)
        .number("llama.block_count", 1)
        .number("llama.feed_forward_length", narrow as u32)
        .number("llama.attention.head_count", 1)
        .number("llama.attention.head_count_kv", 1)
        .entry("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5))
        .number("llama.rope.dimension_count", wide as u32)
        .number("llama.vocab_size", tokens as u32)
        .text("tokenizer.ggml.model", "llama")
        .number("tokenizer.ggml.eos_token_id", vocabulary.end as u32)
        .entry("tokenizer.ggml.add_bos_token", Meta::Bool(false))
        .entry("tokenizer.ggml.add_space_prefix", Meta::Bool(false))
        .entry("tokenizer.ggml.scores", Meta::F32s(scores))
        .entry("tokenizer.ggml.token_type", Meta::I32s(vocabulary.kinds))
        .entry("tokenizer.ggml.tokens", Meta::Texts(vocabulary.texts))
        .text("tokenizer.chat_template", TEMPLATE);

    let (ones, zeros) = (vec![1.0; wide], |count: usize| vec![0.0; count]);
    let tensors = [
        ("token_embd.weight", vec![wide, tokens], input.to_vec()),
        ("output.weight", vec![wide, tokens], output.to_vec()),
        ("output_norm.weight", vec![wide], ones.clone()),
        ("blk.0.attn_norm.weight", vec![wide], ones.clone()),
        ("blk.0.ffn_norm.weight", vec![wide], ones),
        ("blk.0.attn_q.weight", vec![wide, wide], zeros(wide * wide)),
        ("blk.0.attn_k.weight", vec![wide, wide], zeros(wide * wide)),
        ("blk.0.attn_v.weight", vec![wide, wide], zeros(wide * wide)),
        ("blk.0.attn_output.weight", vec![wide, wide], zeros(wide * wide)),
        ("blk.0.ffn_gate.weight", vec![wide, narrow], zeros(wide * narrow)),
        ("blk.0.ffn_up.weight", vec![wide, narrow], zeros(wide * narrow)),
        ("blk.0.ffn_down.weight", vec![narrow, wide], zeros(wide * narrow)),
    ];
    let described = tensors.iter().fold(file, |file, (name, dims, weights)| {
        let dims: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        file.tensor(name, &dims, F32, 4 * weights.len() as u64)
    });
    // Every tensor is a multiple of the alignment, so they follow each other.
    let mut out = described.header();
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(tensors.iter().flat_map(|(_, _, weights)| weights).flat_map(|weight| weight.to_le_bytes()));
    out
}
