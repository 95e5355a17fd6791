//! The ways to the agents: one link for each machine, over QUIC or inside the process.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use mesh_core::id::MachineId;
use mesh_proto::v1::{BlobRequest, RequestHead, ResponseHead};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Why a request on a link ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// There is no link to that machine, or it broke.
    #[error("the link to the node is gone: {0}")]
    Gone(String),
    /// The engine's connection broke in the middle of its answer.
    #[error("the engine broke off its answer")]
    EngineBroke,
    /// The agent is shutting down.
    #[error("the node is shutting down")]
    Shutdown,
    /// The agent broke the rules of the frame.
    #[error("the node sent nonsense: {0}")]
    BadFrame(String),
}

/// The bytes of an answer. Dropping it cancels the request down to the engine.
pub type AnswerBody = BoxStream<'static, Result<Bytes, LinkError>>;

/// An agent's answer.
pub struct AgentAnswer {
    /// What happened.
    pub head: ResponseHead,
    /// The engine's bytes.
    pub body: AnswerBody,
}

/// One way to one agent.
pub trait AgentLink: Send + Sync {
    /// Sends a request and completes with the head of the answer. Dropping the future, or later the body,
    /// cancels the request on the engine.
    fn open(&self, head: RequestHead, body: Bytes) -> BoxFuture<'static, Result<AgentAnswer, LinkError>>;

    /// Asks for bytes of a model file and completes with the head of the answer. Its bytes go after those of
    /// requests. Dropping the future, or later the body, ends it.
    fn blob(&self, request: BlobRequest) -> BoxFuture<'static, Result<AgentAnswer, LinkError>>;

    /// Time for a round trip to the machine, where the link measures it.
    fn round_trip(&self) -> Option<Duration> {
        None
    }

    /// The machine's end of its control connection was gone without a goodbye. Looks whether the agent still answers here, and ends what runs
    /// on this link when it does not: true.
    fn doubt(&self) -> BoxFuture<'static, bool> {
        Box::pin(async { false })
    }
}

type Links = BTreeMap<MachineId, (u64, Arc<dyn AgentLink>)>;

/// All links. Clones share them; readers get a snapshot without a lock.
#[derive(Clone)]
pub struct AgentLinks {
    links: Arc<watch::Sender<Arc<Links>>>,
    last_number: Arc<AtomicU64>,
}

impl Default for AgentLinks {
    fn default() -> Self {
        Self { links: Arc::new(watch::Sender::new(Arc::default())), last_number: Arc::default() }
    }
}

impl AgentLinks {
    /// Keeps `link` as the way to `machine`, in place of an older one. Returns its number for
    /// [`AgentLinks::remove`].
    pub fn insert(&self, machine: MachineId, link: Arc<dyn AgentLink>) -> u64 {
        // Never the same number twice: an old link that is noticed late must not pass for a new one.
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        self.links.send_modify(|links| {
            Arc::make_mut(links).insert(machine, (number, link));
        });
        number
    }

    /// Forgets link `number` of `machine`; false when a newer one has taken its place.
    #[must_use]
    pub fn remove(&self, machine: &MachineId, number: u64) -> bool {
        self.links.send_if_modified(|links| {
            let ours = links.get(machine).is_some_and(|(kept, _)| *kept == number);
            if ours {
                Arc::make_mut(links).remove(machine);
            }
            ours
        })
    }

    /// The way to `machine`.
    #[must_use]
    pub fn get(&self, machine: &MachineId) -> Option<Arc<dyn AgentLink>> {
        self.links.borrow().get(machine).map(|(_, link)| link.clone())
    }

    /// Time for a round trip to `machine`, where its link measures it.
    #[must_use]
    pub fn round_trip(&self, machine: &MachineId) -> Option<Duration> {
        self.links.borrow().get(machine).and_then(|(_, link)| link.round_trip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;

    impl AgentLink for Nowhere {
        fn open(&self, _: RequestHead, _: Bytes) -> BoxFuture<'static, Result<AgentAnswer, LinkError>> {
            Box::pin(async { Err(LinkError::Shutdown) })
        }

        fn blob(&self, _: BlobRequest) -> BoxFuture<'static, Result<AgentAnswer, LinkError>> {
            Box::pin(async { Err(LinkError::Shutdown) })
        }
    }

    #[test]
    fn an_old_link_that_is_noticed_late_does_not_take_the_new_one_with_it() {
        let (links, name) = (AgentLinks::default(), MachineId::new("a").expect("valid"));
        let first = links.insert(name.clone(), Arc::new(Nowhere));
        let second = links.insert(name.clone(), Arc::new(Nowhere));
        assert!(links.remove(&name, second));
        let third = links.insert(name.clone(), Arc::new(Nowhere));
        assert!(third != first && !links.remove(&name, first) && links.get(&name).is_some());
    }
}
