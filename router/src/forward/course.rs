//! Where a request stands between attempts, and what its client is told at the end of all of them.

use super::Incoming;
use super::ticket::Ticket;
use super::waiting_room::{Progress, Stay};
use super::wanted::Wanted;
use crate::http::dialect::faults;
use crate::http::head::Head;
use crate::http::reply::ApiError;
use http::StatusCode;
use mesh_core::fleet::ReplicaKey;
use mesh_core::id::{MachineId, ModelId};
use std::sync::Arc;

/// Nodes that are tried in one round: the first and two others.
pub(super) const ATTEMPTS: usize = 3;

/// Where a request stands between attempts.
pub(super) struct Course<'a> {
    pub(super) wanted: Arc<Wanted>,
    pub(super) incoming: &'a Incoming,
    pub(super) head: &'a Head,
    pub(super) stay: &'a Stay,
    /// What to tell the client if no other node can do what those tried so far cannot.
    pub(super) beyond: Option<Box<ApiError>>,
    pub(super) round: Round,
    /// It has looked again already.
    pub(super) looked_again: bool,
}

/// What came of the nodes that were tried since the request last waited for a load. It may have waited for a slot of the
/// next one in between.
#[derive(Default)]
pub(super) struct Round {
    pub(super) tried: usize,
    /// One is loading the model: which, and which model.
    pub(super) loading: Option<(MachineId, ModelId)>,
    /// One has failed.
    pub(super) broken: bool,
    /// An engine was not there.
    pub(super) absent: bool,
    /// An engine may have begun with the request, and it may be what that failed of.
    pub(super) begun: bool,
    /// Something else than engines' failures stood in the way.
    pub(super) otherwise: bool,
    /// Trying the next one costs of the budget for retries.
    pub(super) costs: bool,
    /// Those that were not there for a moment, or took no more requests then.
    pub(super) passing: Vec<ReplicaKey>,
    /// The last one, and why it was not the last.
    pub(super) failed: Option<(MachineId, String)>,
}

impl Course<'_> {
    pub(super) fn tell(&self, progress: Progress) {
        if let Some(teller) = &self.incoming.caller.progress {
            teller.send_if_modified(|old| std::mem::replace(old, progress.clone()) != progress);
        }
    }

    /// Whoever was tried may be tried again.
    pub(super) fn new_round(&mut self) {
        self.round = Round::default();
        Arc::make_mut(&mut self.wanted).tried.clear();
    }

    /// Nobody else is left: whoever was away for a moment may be tried once more. Says whether there is such a one.
    pub(super) fn forgive(&mut self) -> bool {
        let passing = std::mem::take(&mut self.round.passing);
        let again = self.round.tried < ATTEMPTS && !passing.is_empty();
        if again {
            Arc::make_mut(&mut self.wanted).tried.retain(|key| !passing.contains(key));
        }
        again
    }

    /// Whether to look for a node once more, because of an engine that was absent. Once: those that are never there
    /// would have it for ever.
    pub(super) fn looks_again(&mut self) -> bool {
        self.round.absent && !self.round.begun && !std::mem::replace(&mut self.looked_again, true)
    }

    /// What the client is told when nobody is left to try.
    pub(super) fn verdict(&mut self, ticket: &Ticket) -> ApiError {
        if !self.round.broken
            && let Some(error) = self.beyond.take()
        {
            return *error;
        }
        // A fault that none of the engines named, but each of them failed: nobody would do better.
        if self.round.broken
            && !self.round.otherwise
            && let Some(fault) = faults::of_body(self.incoming.door, &self.incoming.body)
        {
            return fault;
        }
        let asked = &self.head.model;
        let message = format!("every node that could serve `{asked}` failed: {}", ticket.attempts_text());
        ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, "all_nodes_failed", message).retry_after(2)
    }
}
