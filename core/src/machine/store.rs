//! The models on a machine's disk, and what is on its way there.

use crate::id::ModelId;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The SHA-256 of a file, as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no SHA-256: it takes 64 digits of 0-9 and a-f")]
pub struct DigestError {
    text: String,
}

impl Digest {
    /// Checks `text`; upper case and a leading `sha256:` are accepted.
    ///
    /// # Errors
    /// [`DigestError`] names the text.
    pub fn new(text: &str) -> Result<Self, DigestError> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
        if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Self(digits));
        }
        Err(DigestError { text: text.chars().take(80).collect() })
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        Self::new(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0)
    }
}

/// A model in a machine's store: one GGUF file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredModel {
    /// Its name towards clients.
    pub model: ModelId,
    /// Of its file; `None` until it was computed.
    pub digest: Option<Digest>,
    /// Bytes of the file.
    pub size: Bytes,
    /// `general.architecture` of its header.
    pub architecture: Option<String>,
    /// Its quantisation: `Q4_K_M`.
    pub quantisation: Option<String>,
    /// Parameters, from its tensors.
    pub parameters: Option<u64>,
    /// Parameters that one token uses, of a sparse model.
    pub active_parameters: Option<u64>,
    /// Tokens it was trained for.
    pub trained_context: Option<u32>,
    /// Bytes of the file that turns images or sound into tokens for it, which is loaded with it.
    pub projector: Option<Bytes>,
    /// Why it cannot be loaded, where its header tells.
    pub broken: Option<String>,
    /// The name under which the machine's configuration has an engine for this file, where that is another.
    pub served_as: Option<ModelId>,
}

impl StoredModel {
    /// A model of which nothing is known but its name and size.
    #[must_use]
    pub fn new(model: ModelId, size: Bytes) -> Self {
        Self {
            model,
            digest: None,
            size,
            architecture: None,
            quantisation: None,
            parameters: None,
            active_parameters: None,
            trained_context: None,
            projector: None,
            broken: None,
            served_as: None,
        }
    }
}

/// What a transfer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransferKind {
    /// From an HTTP(S) server.
    Download,
    /// From another machine of the mesh.
    Copy,
    /// An engine pulls it by itself.
    Engine,
}

impl TransferKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Download, Self::Copy, Self::Engine];

    /// The word used in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Copy => "copy",
            Self::Engine => "engine",
        }
    }

    /// The kind that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// Where a transfer is.
///
/// ```text
/// Waiting ──► Running ──► Verifying ──► Done
///    └───────────┴────────────┴──► Failed(why) | Cancelled
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferState {
    /// Others go first.
    Waiting,
    /// Bytes come.
    Running,
    /// All bytes are there; their digest is computed.
    Verifying,
    /// The model is in the store.
    Done,
    /// It ended, and why. What had come is kept for another try, unless it was wrong.
    Failed(String),
    /// It was cancelled.
    Cancelled,
}

impl TransferState {
    /// The word used in reports.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Verifying => "verifying",
            Self::Done => "done",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match self {
            Self::Done | Self::Failed(_) | Self::Cancelled => true,
            Self::Waiting | Self::Running | Self::Verifying => false,
        }
    }
}

/// A model on its way to a machine's disk, or that got there lately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// What.
    pub model: ModelId,
    /// How.
    pub kind: TransferKind,
    /// Where from, for people: a host name, a machine, an engine.
    pub source: String,
    /// Where it is.
    pub state: TransferState,
    /// Bytes on disk.
    pub done: Bytes,
    /// Bytes in all, once known.
    pub total: Option<Bytes>,
    /// Bytes each second over the last seconds.
    pub rate: Option<Bytes>,
}

/// A wish about a model's files or about its load that was not followed lately although nothing failed, so that whoever
/// wished learns why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRefusal {
    /// Which.
    pub model: ModelId,
    /// What was not done and why, in words for a person.
    pub reason: String,
    /// When, in milliseconds since 1970 by the machine's clock: the same words again are another refusal.
    pub at_ms: u64,
}

/// All of a machine's store.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Store {
    /// Models that are whole.
    pub models: Vec<StoredModel>,
    /// Models on their way, and those that ended within the last minutes.
    pub transfers: Vec<Transfer>,
    /// Wishes of the last minutes that were refused.
    pub refusals: Vec<StoreRefusal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_hexadecimal_digits_however_they_are_written() {
        let digits = "ab".repeat(32);
        for text in [digits.clone(), digits.to_uppercase(), format!("sha256:{digits}")] {
            assert_eq!(Digest::new(&text).map(String::from), Ok(digits.clone()));
        }
        for text in ["", "ab", &"g".repeat(64), "../etc/passwd", &"a".repeat(65)] {
            assert!(Digest::new(text).is_err(), "{text}");
        }
    }
}
