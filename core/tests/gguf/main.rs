//! The reader of GGUF headers: against files that it did not write, against an independent reader, and against
//! files that lie.

mod corpus;
mod crosscheck;
mod hostile;
mod sizes;
mod splits;
mod truncation;
mod writer;

use mesh_core::gguf::{GgufError, Header, Outcome, read};
use writer::{Gguf, Meta};

/// Of a whole file.
fn complete(file: &[u8]) -> Header {
    match read(file, Some(file.len() as u64)).expect("a good file") {
        Outcome::Complete(header) => header,
        Outcome::NeedMore { at_least } => panic!("{at_least} bytes of {} are needed", file.len()),
    }
}

fn refused(file: &[u8]) -> GgufError {
    read(file, Some(file.len() as u64)).expect_err("a bad file")
}

/// A model of one layer with every kind of metadata.
fn small() -> Gguf {
    Gguf::new()
        .text("general.architecture", "llama")
        .number("llama.block_count", 1)
        .entry("llama.context_length", Meta::U64(2048))
        .entry("llama.rope.freq_base", Meta::F32(10_000.0))
        .entry("tokenizer.ggml.add_bos_token", Meta::Bool(true))
        .entry("tokenizer.ggml.tokens", Meta::Texts(vec!["a".into(), "bc".into(), String::new()]))
        .entry("tokenizer.ggml.token_type", Meta::I32s(vec![1, -2, 3]))
        .entry("tokenizer.ggml.scores", Meta::F32s(vec![0.5, -1.0]))
        .entry("llama.feed_forward_length", Meta::U32s(vec![64]))
        .entry("llama.attention.sliding_window_pattern", Meta::Flags(vec![true, false]))
        .tensor("token_embd.weight", &[64, 3], 1, 384)
        .tensor("blk.0.attn_q.weight", &[64, 64], 8, 4352)
        .tensor("output_norm.weight", &[64], 0, 256)
}
