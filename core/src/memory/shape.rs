//! What of a model decides its memory: read from a GGUF header.

mod keys;
mod recurrence;
mod windows;

use super::Confidence;

use crate::gguf::{Header, Value, is_expert};
use crate::units::Bytes;
use keys::Keys;
use recurrence::Recurrence;
use serde::{Deserialize, Serialize};
use windows::Windows;

/// The most layers; the deepest published models have 126.
const LAYER_LIMIT: u64 = 4096;

/// Why a header does not describe a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// It has no architecture: it is no language model.
    #[error("the header names no architecture")]
    NoArchitecture,
    /// A key that every model has is not there.
    #[error("the header has no `{0}`")]
    Missing(String),
    /// A number is over its limit.
    #[error("{key} is {found}, over the limit of {limit}")]
    TooMuch {
        /// Which.
        key: String,
        /// What the header says.
        found: u64,
        /// What is accepted.
        limit: u64,
    },
}

/// How far the architecture's formula is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// To the byte.
    Exactly,
    /// Roughly.
    Roughly,
    /// Only the file's size is known.
    SizeOnly,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Layer {
    /// Bytes of weights that are no experts.
    pub dense: u64,
    /// Bytes of experts.
    pub experts: u64,
    /// Heads of keys and values; 0 = this layer has no attention.
    pub kv_heads: u64,
    /// Elements of one key.
    pub head_k: u64,
    /// Elements of one value.
    pub head_v: u64,
    /// Tokens it looks back; `None` = all.
    pub window: Option<u64>,
    /// Recurrent state of one sequence, in 32-bit floats, whatever the context.
    pub state_floats: u64,
}

/// What of a model decides its memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// As llama.cpp names it.
    pub architecture: String,
    /// All layers, those for predicting further tokens last.
    pub layers: Vec<Layer>,
    /// How many of them predict further tokens.
    pub nextn: u64,
    /// Tokens it was trained for.
    pub trained_context: Option<u64>,
    /// Elements of an embedding.
    pub embedding: u64,
    /// Tokens it knows.
    pub vocabulary: u64,
    /// Heads of the layer with the most.
    pub most_heads: u64,
    /// Elements of all queries of the widest layer.
    pub widest_attention: u64,
    /// Elements of the widest feed-forward that is computed for one token.
    pub widest_feed_forward: u64,
    /// Bytes of what is looked up for each token, the embeddings among it: always on the host.
    pub input: u64,
    /// Bytes of the token embeddings alone.
    pub embeddings: u64,
    /// The output uses the embeddings' weights.
    pub tied: bool,
    /// Bytes of the output's own matrix.
    pub output: u64,
    /// Bytes of what else belongs to the output.
    pub output_rest: u64,
    /// Values are made from keys: no cache for them.
    pub mla: bool,
    /// How far the formula is known.
    pub known: Known,
    /// What was assumed.
    pub notes: Vec<String>,
}

/// Architectures with a cache beside keys and values that no formula here covers.
const INDEXED: [&str; 5] = ["deepseek32", "glm-dsa", "deepseek4", "qwen4exp", "minimax-m3"];

/// Architectures without windows, recurrence or other surprises.
const PLAIN: [&str; 30] = [
    "llama",
    "mistral3",
    "qwen2",
    "qwen2moe",
    "qwen3",
    "qwen3moe",
    "qwen2vl",
    "qwen3vl",
    "qwen3vlmoe",
    "starcoder2",
    "starcoder",
    "minimax-m2",
    "phi2",
    "phi3",
    "gemma",
    "falcon",
    "mpt",
    "gpt2",
    "gptneox",
    "stablelm",
    "internlm2",
    "command-r",
    "olmo",
    "olmo2",
    "granite",
    "granitemoe",
    "glm4",
    "glm4moe",
    "dots1",
    "ernie4_5",
];

impl Shape {
    /// What `header` says.
    ///
    /// # Errors
    /// [`ShapeError`] when it is no language model's or its numbers are absurd.
    pub fn from_header(header: &Header) -> Result<Self, ShapeError> {
        let architecture = header.architecture().ok_or(ShapeError::NoArchitecture)?.to_owned();
        let need = |key: &str| header.arch_number(key).ok_or_else(|| ShapeError::Missing(key.to_owned()));
        let (layers, embedding) = (need("block_count")?, need("embedding_length")?);
        if layers > LAYER_LIMIT {
            return Err(ShapeError::TooMuch { key: "block_count".into(), found: layers, limit: LAYER_LIMIT });
        }
        let keys = Keys { header, layers, embedding };
        let recurrent = Recurrence::of(&architecture, header);
        let windows = Windows::of(&architecture, header);
        let mla =
            architecture_has_mla(&architecture) && header.arch_number("attention.key_length_mla").is_some();
        let mut notes = Vec::new();
        let mut shape = Self {
            layers: Vec::new(),
            nextn: header.arch_number("nextn_predict_layers").unwrap_or(0).min(layers),
            trained_context: header.arch_number("context_length"),
            embedding,
            vocabulary: vocabulary(header),
            most_heads: 0,
            widest_attention: 0,
            widest_feed_forward: 0,
            input: 0,
            embeddings: 0,
            tied: true,
            output: 0,
            output_rest: 0,
            mla,
            known: Known::Exactly,
            notes: Vec::new(),
            architecture,
        };
        for number in 0..layers {
            let heads = keys.per_layer("attention.head_count", number).unwrap_or(0);
            let kv_heads = keys.per_layer("attention.head_count_kv", number).unwrap_or(heads);
            let window = windows.of_layer(number);
            let (head_k, head_v) = keys.head_sizes(heads, window.is_some());
            let is_recurrent =
                recurrent.takes(number, kv_heads, keys.per_layer("feed_forward_length", number));
            let has_attention = !is_recurrent || recurrent.beside_attention;
            let layer = Layer {
                kv_heads: if has_attention { kv_heads } else { 0 },
                head_k,
                head_v,
                window,
                state_floats: if is_recurrent { recurrent.floats } else { 0 },
                ..Layer::default()
            };
            shape.most_heads = shape.most_heads.max(heads);
            shape.widest_attention = shape.widest_attention.max(heads.saturating_mul(head_k));
            shape.widest_feed_forward = shape.widest_feed_forward.max(keys.feed_forward(number));
            shape.layers.push(layer);
        }
        shape.place_tensors(header);
        let is_known = PLAIN.contains(&shape.architecture.as_str())
            || windows::has_windows(&shape.architecture)
            || recurrent.is_known
            || architecture_has_mla(&shape.architecture);
        if INDEXED.contains(&shape.architecture.as_str()) {
            notes.push(format!(
                "{} keeps an index beside keys and values that is not counted",
                shape.architecture
            ));
            shape.known = Known::Roughly;
        } else if !is_known {
            notes.push(format!("architecture `{}` is counted as a plain transformer", shape.architecture));
            shape.known = Known::Roughly;
        }
        if !header.sizes_complete || !header.unknown_types.is_empty() {
            notes.push(
                "some tensors are of unknown types: their sizes come from their places in the file".into(),
            );
        }
        shape.notes = notes;
        Ok(shape)
    }

    /// A model of which an engine tells some keys and the file's size only.
    ///
    /// # Errors
    /// As [`Shape::from_header`].
    pub fn without_tensors(header: &Header, file: Bytes) -> Result<Self, ShapeError> {
        let mut shape = Self::from_header(header)?;
        let layers = (shape.layers.len() as u64).max(1);
        // The embeddings' share of the parameters is their share of the bytes, near enough.
        let embeddings = shape.vocabulary.saturating_mul(shape.embedding).min(file.0 / 4);
        shape.input = embeddings;
        shape.embeddings = embeddings;
        shape.tied = false;
        shape.output = embeddings;
        let rest = file.0.saturating_sub(embeddings.saturating_mul(2));
        for layer in &mut shape.layers {
            layer.dense = rest / layers;
        }
        shape.output_rest = rest % layers;
        shape.known = Known::Roughly;
        shape.notes.push("the weights are the file's size, spread evenly".into());
        Ok(shape)
    }

    /// A file of which nothing but its size is known.
    #[must_use]
    pub fn of_size(file: Bytes) -> Self {
        let layer = Layer { dense: file.0, ..Layer::default() };
        Self {
            architecture: "unknown".into(),
            layers: vec![layer],
            nextn: 0,
            trained_context: None,
            embedding: 0,
            vocabulary: 0,
            most_heads: 0,
            widest_attention: 0,
            widest_feed_forward: 0,
            input: 0,
            embeddings: 0,
            tied: false,
            output: 0,
            output_rest: 0,
            mla: false,
            known: Known::SizeOnly,
            notes: vec!["only the file's size is known: no context is counted".into()],
        }
    }

    /// Layers that make the answer, without those for predicting further tokens.
    #[must_use]
    pub fn trunk(&self) -> u64 {
        (self.layers.len() as u64).saturating_sub(self.nextn)
    }

    /// Bytes of all weights in the file.
    #[must_use]
    pub fn weights(&self) -> Bytes {
        let layers = self.layers.iter().map(|layer| layer.dense.saturating_add(layer.experts));
        let rest = [self.input, self.output, self.output_rest];
        Bytes(layers.chain(rest).fold(0, u64::saturating_add))
    }

    /// How far a footprint of it can be trusted.
    #[must_use]
    pub fn confidence(&self) -> Confidence {
        match self.known {
            Known::Exactly => Confidence::Exact,
            Known::Roughly => Confidence::Estimated,
            Known::SizeOnly => Confidence::Guessed,
        }
    }

    fn place_tensors(&mut self, header: &Header) {
        for tensor in &header.tensors {
            let name = tensor.name.as_str();
            let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
            let layer = layer.and_then(|(number, part)| Some((number.parse::<usize>().ok()?, part)));
            if let Some((number, part)) = layer
                && let Some(layer) = self.layers.get_mut(number)
            {
                let sum = if is_expert(part) { &mut layer.experts } else { &mut layer.dense };
                *sum = sum.saturating_add(tensor.bytes);
            } else if name == "output.weight" {
                self.tied = false;
                self.output = self.output.saturating_add(tensor.bytes);
            } else if name.starts_with("output") {
                self.output_rest = self.output_rest.saturating_add(tensor.bytes);
            } else if let Some(first) = self.layers.first_mut().filter(|_| name.starts_with("rope_")) {
                first.dense = first.dense.saturating_add(tensor.bytes);
            } else {
                if name == "token_embd.weight" {
                    self.embeddings = tensor.bytes;
                }
                self.input = self.input.saturating_add(tensor.bytes);
            }
        }
    }
}

fn architecture_has_mla(architecture: &str) -> bool {
    matches!(architecture, "deepseek2" | "deepseek32" | "glm-dsa" | "mistral4" | "minicpm3" | "plm")
}

fn vocabulary(header: &Header) -> u64 {
    let listed = match header.value("tokenizer.ggml.tokens") {
        Some(Value::Array(tokens)) => Some(tokens.length),
        Some(Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::Bool(_) | Value::Text(_))
        | None => None,
    };
    let embedded = || {
        let tensor = header.tensors.iter().find(|tensor| tensor.name == "token_embd.weight")?;
        tensor.dims.get(1).copied()
    };
    header.arch_number("vocab_size").or(listed).or_else(embedded).unwrap_or(0)
}
