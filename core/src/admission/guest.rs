//! One request that is here: what it does at the moment, and how urgent it is.

use super::{Entry, Priority};
use crate::id::ModelId;
use crate::units::Moment;
use std::time::Duration;

/// After each such time of waiting a request moves up by one tier. Five tiers: what waits in the background is before
/// everything new after 75 s, well within its own deadline.
pub const AGEING: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Neither waits for a slot nor has one: just arrived, or its model is being loaded.
    Lobby,
    /// Waits for a slot of this model, once it was looked for; until `held`, if something better is to come free.
    Waiting {
        since: Moment,
        model: Option<ModelId>,
        held: Option<Moment>,
    },
    Running {
        since: Moment,
        model: ModelId,
    },
    /// It was told to end and has not left yet.
    Ended,
}

#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub(super) entry: Entry,
    pub(super) arrived: Moment,
    pub(super) phase: Phase,
    /// How long it holds its slot tells nothing of how long others will.
    pub(super) in_vain: bool,
}

/// The order without regard to keys: less goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Urgency {
    pub(super) tier: i64,
    /// The deadline; for completions the newest first.
    pub(super) within: i128,
}

impl Guest {
    pub(super) fn waits(&self) -> bool {
        matches!(self.phase, Phase::Waiting { .. })
    }

    pub(super) fn waits_for(&self) -> Option<&ModelId> {
        match &self.phase {
            Phase::Waiting { model, .. } => model.as_ref(),
            Phase::Lobby | Phase::Running { .. } | Phase::Ended => None,
        }
    }

    pub(super) fn urgency(&self, now: Moment) -> Urgency {
        let steps = now.since(self.arrived).as_secs() / AGEING.as_secs();
        let within = match self.entry.priority {
            Priority::Autocomplete => -i128::from(self.arrived.0),
            Priority::Ask | Priority::Code | Priority::Architect | Priority::Background => {
                i128::from(self.entry.deadline.0)
            }
        };
        let steps = i64::try_from(steps).unwrap_or(i64::MAX);
        Urgency { tier: self.entry.priority.tier().saturating_sub(steps), within }
    }
}
