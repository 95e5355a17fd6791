//! What can be asked of the steward.

use super::on_demand;
use super::what_if::WhatIf;
use super::wished::{Change, Changed, NotChanged};
use crate::strategies::Strategy;
use mesh_core::eviction::Answer;
use mesh_core::placement::Plan;
use mesh_core::strategy::Wishes;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// A plan with what it was made for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Planned {
    /// What is to be where.
    pub plan: Plan,
    /// What was wished.
    pub wishes: Wishes,
    /// Whether the mesh follows it.
    pub following: bool,
    /// Why nothing is moved although it follows; empty = nothing stands in the way.
    pub stopped: Vec<String>,
    /// Why changes of it are not made yet; only in an answer, for it tells times.
    pub waiting: Vec<String>,
    /// Why the strategy that is to hold does not.
    pub broken: Option<String>,
}

/// What a question is about.
#[derive(Debug, Clone, Default)]
pub enum Of {
    /// What is wished now.
    #[default]
    Now,
    /// The configuration's own modes.
    Configured,
    /// A strategy.
    Strategy(Arc<Strategy>),
}

/// A question and where its answer goes.
pub(super) enum Ask {
    Plan { of: Of, what_if: Vec<WhatIf>, reply: oneshot::Sender<Result<Planned, String>> },
    Wishes { reply: oneshot::Sender<(Wishes, bool)> },
    Change { change: Change, reply: oneshot::Sender<Result<Changed, NotChanged>> },
    Place { asked: on_demand::Asked, reply: oneshot::Sender<Option<Answer>> },
}

/// A cheap way to the steward.
#[derive(Clone)]
pub struct StewardHandle {
    pub(super) inbox: mpsc::Sender<Ask>,
    pub(super) planned: watch::Receiver<Arc<Planned>>,
}

/// The steward has ended: the router is stopping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlan {
    /// The router stops.
    #[error("the router is stopping")]
    Stopping,
    /// The question makes no sense.
    #[error("{0}")]
    Senseless(String),
}

impl StewardHandle {
    /// The latest plan of what is wished, and every later one.
    #[must_use]
    pub fn planned(&self) -> watch::Receiver<Arc<Planned>> {
        self.planned.clone()
    }

    /// A plan made now, which changes nothing.
    ///
    /// # Errors
    /// [`NoPlan`] when the suppositions name something that is not there.
    pub async fn plan(&self, of: Of, what_if: Vec<WhatIf>) -> Result<Planned, NoPlan> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Ask::Plan { of, what_if, reply }).await.map_err(|_| NoPlan::Stopping)?;
        answer.await.map_err(|_| NoPlan::Stopping)?.map_err(NoPlan::Senseless)
    }

    /// Where a model is loaded that a request asks for; `None` = its machine decides alone. The plan leaves the machine
    /// to that load.
    pub async fn place(&self, asked: on_demand::Asked) -> Option<Answer> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Ask::Place { asked, reply }).await.ok()?;
        answer.await.ok().flatten()
    }

    /// What is wished now, and whether the mesh follows it.
    ///
    /// # Errors
    /// [`NoPlan::Stopping`].
    pub async fn wishes(&self) -> Result<(Wishes, bool), NoPlan> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Ask::Wishes { reply }).await.map_err(|_| NoPlan::Stopping)?;
        answer.await.map_err(|_| NoPlan::Stopping)
    }

    /// What a change of a mode comes to; nothing is changed yet.
    ///
    /// # Errors
    /// [`NotChanged`].
    pub async fn change(&self, change: Change) -> Result<Changed, NotChanged> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Ask::Change { change, reply }).await.map_err(|_| NotChanged::Stopping)?;
        answer.await.map_err(|_| NotChanged::Stopping)?
    }
}
