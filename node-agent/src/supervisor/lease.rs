//! The right to use a loaded model, counted: a leased model is not unloaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio::sync::Notify;

/// Why a lease was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRefusal {
    /// No engine of this machine has the model.
    #[error("no engine of this machine has this model")]
    NoSuchModel,
    /// An engine has it, not in memory, and why.
    #[error("the model is not loaded: {0}")]
    NotLoaded(String),
    /// It is on its way into memory.
    #[error("the model is being loaded")]
    Loading,
    /// Its engine does not answer, and why.
    #[error("the model's engine is down: {0}")]
    EngineDown(String),
}

impl LeaseRefusal {
    /// The word for this refusal on the wire.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoSuchModel => "no_such_model",
            Self::NotLoaded(_) => "not_loaded",
            Self::Loading => "loading",
            Self::EngineDown(_) => "engine_down",
        }
    }
}

/// The right to send one request to a model, which stays loaded until this is dropped. Its texts are shared, for each request
/// takes one.
pub struct Lease {
    /// The engine's path is this and `/v1/chat/completions`.
    pub base_url: Arc<str>,
    /// The key the request must carry.
    pub api_key: Option<Arc<str>>,
    /// The engine's name on this machine.
    pub engine: Arc<str>,
    /// Whether a connection may be kept for the next request.
    pub keeps_connections: bool,
    /// What the engine calls the model.
    pub upstream_model: Arc<str>,
    pub(super) _guard: LeaseGuard,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Lease({} on {})", self.upstream_model, self.engine)
    }
}

/// How many requests hold a model on an engine.
#[derive(Debug, Default)]
pub(crate) struct LeaseCount {
    held: AtomicU32,
    /// The model is about to be unloaded.
    leaving: AtomicBool,
    changed: Notify,
}

impl LeaseCount {
    pub(super) fn held(&self) -> u32 {
        self.held.load(Ordering::Acquire)
    }

    /// The model is about to be unloaded, or no longer.
    pub(super) fn leaves(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Resolves when no request holds the model.
    pub(crate) async fn none_held(&self) {
        loop {
            let changed = self.changed.notified();
            if self.held() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Resolves when somebody else than the one holder wants the model, or wants it gone.
    pub(crate) async fn disturbed(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before the look, or a lease taken in between would go unheard.
            changed.as_mut().enable();
            if self.held() > 1 || self.leaving.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }
}

#[derive(Debug)]
pub(super) struct LeaseGuard(Arc<LeaseCount>);

impl LeaseGuard {
    pub(super) fn new(count: &Arc<LeaseCount>) -> Self {
        count.held.fetch_add(1, Ordering::AcqRel);
        count.changed.notify_waiters();
        Self(Arc::clone(count))
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }
}
