//! Layers that look back a window only.

use crate::gguf::{Header, Value};

/// Architectures whose layers look back a window only, and their pattern when the file has none: every so
/// many-th layer sees everything (`set_swa_pattern` in llama.cpp).
const WINDOWED: [(&str, u64); 9] = [
    ("gpt-oss", 2),
    ("gemma2", 2),
    ("gemma3", 6),
    ("gemma3n", 5),
    ("gemma4", 6),
    ("cohere2", 4),
    ("exaone4", 4),
    ("llama4", 4),
    ("smallthinker", 4),
];

/// Whether this architecture can have windows.
pub(super) fn has_windows(architecture: &str) -> bool {
    WINDOWED.iter().any(|(name, _)| *name == architecture)
}

/// Which layers look back a window only.
pub(super) struct Windows {
    window: Option<u64>,
    pattern: Pattern,
}

enum Pattern {
    /// Said for each layer.
    Listed(Vec<bool>),
    /// Every so many-th layer sees everything.
    Period(u64),
}

impl Windows {
    pub(super) fn of(architecture: &str, header: &Header) -> Self {
        let none = Self { window: None, pattern: Pattern::Period(1) };
        let Some((_, period)) = WINDOWED.iter().find(|(name, _)| *name == architecture) else { return none };
        // llama4 looks back to the beginning of a chunk.
        let key = if architecture == "llama4" { "attention.chunk_size" } else { "attention.sliding_window" };
        let Some(window) = header.arch_number(key).filter(|&window| window > 0) else { return none };
        let pattern = match header.arch("attention.sliding_window_pattern") {
            Some(Value::Array(array)) => {
                let items = array.items.iter().flatten();
                Pattern::Listed(
                    items.map(|item| matches!(item, Value::Bool(true)) || item.number() == Some(1)).collect(),
                )
            }
            Some(other) => Pattern::Period(other.number().filter(|&n| n > 0).unwrap_or(*period)),
            None => Pattern::Period(*period),
        };
        Self { window: Some(window), pattern }
    }

    pub(super) fn of_layer(&self, layer: u64) -> Option<u64> {
        let is_windowed = match &self.pattern {
            Pattern::Listed(list) => {
                usize::try_from(layer).ok().and_then(|at| list.get(at)).copied().unwrap_or(false)
            }
            Pattern::Period(period) => layer % period < period - 1,
        };
        self.window.filter(|_| is_windowed)
    }
}
