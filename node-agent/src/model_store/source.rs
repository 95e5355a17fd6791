//! Where the bytes of a model come from: an HTTP server or another machine, asked from any offset.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use mesh_core::machine::Digest;
use std::time::Duration;

/// Why there are no bytes, or no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SourceError {
    /// Trying again may help.
    #[error("{0}")]
    Broke(String),
    /// The source has its hands full; it costs no try. With how long it asks us to wait.
    #[error("{why}")]
    Busy {
        /// In words.
        why: String,
        /// Longer waits than ours count.
        wait: Option<Duration>,
    },
    /// It has another file than before: what has come is worth nothing.
    #[error("the server has another file than before")]
    Changed,
    /// It will never give them.
    #[error("{0}")]
    Never(String),
}

/// A file whose bytes come.
pub(super) struct Opened {
    /// The offset of the first byte that comes: what was asked for, or 0 when the source begins anew.
    pub start: u64,
    /// Bytes of the whole file, where the source says.
    pub total: Option<u64>,
    /// What tells whether the source still has the same file later.
    pub validator: Option<String>,
    /// The source says what the file is.
    pub digest: Option<Digest>,
    /// What the source takes it for, for the complaint when it is no model.
    pub content_type: Option<String>,
    /// The bytes.
    pub body: BoxStream<'static, Result<Bytes, SourceError>>,
}

/// One source of one file.
pub(super) trait Source: Send + Sync {
    /// Asks for the bytes from `offset`, of the same file as before: the one that `validator` names, where known.
    fn open(&mut self, offset: u64, validator: Option<String>) -> BoxFuture<'_, Result<Opened, SourceError>>;

    /// Where the bytes come from, for people: never with credentials.
    fn label(&self) -> String;

    /// The bytes broke off or did not come.
    fn broke(&mut self) {}
}
