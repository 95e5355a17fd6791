//! The types a KV cache can have.

use serde::{Deserialize, Serialize};

/// Type of a KV cache's keys or values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheType {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    #[default]
    F16,
    /// 2 bytes.
    Bf16,
    /// 34 bytes for 32.
    Q8_0,
    /// 24 bytes for 32.
    Q5_1,
    /// 22 bytes for 32.
    Q5_0,
    /// 20 bytes for 32.
    Q4_1,
    /// 18 bytes for 32.
    Q4_0,
    /// 18 bytes for 32.
    Iq4Nl,
}

impl CacheType {
    /// All types, widest first.
    pub const ALL: [Self; 9] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4_1,
        Self::Q4_0,
        Self::Iq4Nl,
    ];

    /// The word that llama.cpp's command line takes.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q5_1 => "q5_1",
            Self::Q5_0 => "q5_0",
            Self::Q4_1 => "q4_1",
            Self::Q4_0 => "q4_0",
            Self::Iq4Nl => "iq4_nl",
        }
    }

    /// The type that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Whether its elements come in blocks of 32; then values of this type need flash attention.
    #[must_use]
    pub fn is_quantised(self) -> bool {
        self.block().0 > 1
    }

    /// Bytes of a row of `elements`, rounded up to whole blocks.
    #[must_use]
    pub fn row_bytes(self, elements: u64) -> u64 {
        let (per_block, bytes) = self.block();
        elements.div_ceil(per_block).saturating_mul(bytes)
    }

    /// (elements, bytes) of a block: `ggml-common.h`.
    fn block(self) -> (u64, u64) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (32, 34),
            Self::Q5_1 => (32, 24),
            Self::Q5_0 => (32, 22),
            Self::Q4_1 => (32, 20),
            Self::Q4_0 | Self::Iq4Nl => (32, 18),
        }
    }
}
