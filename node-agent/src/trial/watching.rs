//! The machine while it is tried: what its sensors read, once a second, and what other programs used of its processors.

use super::Told;
use super::processors::{Processors, Ticks};
use mesh_core::ladder::BUSY;
use mesh_core::machine::{ThermalState, Vitals};
use mesh_core::trial::{Event, Sample};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// One machine, looked at while it works.
#[derive(Debug)]
pub(super) struct Machine {
    vitals: watch::Receiver<Arc<Vitals>>,
    began: Instant,
    /// `None` where nobody can tell which processes are the engine's.
    processors: Option<Processors>,
    last: Option<Ticks>,
    troubles: Troubles,
}

/// What makes figures worse than the machine can do.
#[derive(Debug, Default)]
struct Troubles {
    slowed: bool,
    /// What others used, in ticks, of so many.
    others: f64,
    ticks: f64,
}

impl Troubles {
    fn see(&mut self, sample: &Sample, ticks: u64) {
        self.slowed |= sample.throttled == Some(true) || sample.thermal >= ThermalState::Derated;
        if let Some(share) = sample.others {
            self.others += f64::from(share) * ticks as f64;
            self.ticks += ticks as f64;
        }
    }

    fn any(&self) -> bool {
        self.slowed || (self.ticks > 0.0 && self.others / self.ticks >= BUSY)
    }
}

impl Machine {
    /// `is_ours`: the agent started the engine.
    pub(super) fn of(vitals: watch::Receiver<Arc<Vitals>>, began: Instant, is_ours: bool) -> Self {
        let processors = is_ours.then(Processors::of_this_machine);
        Self { vitals, began, processors, last: None, troubles: Troubles::default() }
    }

    /// Whether what was measured meanwhile may be less than the machine can do.
    pub(super) fn was_troubled(&self) -> bool {
        self.troubles.any()
    }

    /// Tells each reading until there are no more.
    pub(super) async fn watch(&mut self, told: &Told) {
        loop {
            self.look(told).await;
            if self.vitals.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells what others used since the last look: work may end before the next one.
    pub(super) async fn last_look(&mut self, told: &Told) {
        if self.last.is_some() {
            self.look(told).await;
        }
    }

    async fn look(&mut self, told: &Told) {
        let now = match &self.processors {
            Some(processors) => processors.read().await,
            None => None,
        };
        let since = now.zip(self.last).map_or(0, |(now, last)| now.since(&last));
        let others = now.zip(self.last).and_then(|(now, last)| now.others_since(&last));
        self.last = now;
        let seen = Sample::of(&self.vitals.borrow_and_update(), self.began.elapsed().as_secs_f64());
        let seen = Sample { others, ..seen };
        self.troubles.see(&seen, since);
        told.event(Event::Sample(seen)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_look_at_a_slowed_or_hot_machine_is_enough() {
        let seen = |throttled: Option<bool>, thermal: ThermalState| {
            let mut troubles = Troubles::default();
            troubles.see(&Sample { throttled, thermal, ..Sample::default() }, 200);
            troubles.see(&Sample::default(), 200);
            troubles.any()
        };
        assert!(!seen(None, ThermalState::Unknown) && !seen(Some(false), ThermalState::Warm));
        assert!(seen(Some(true), ThermalState::Ok) && seen(None, ThermalState::Derated));
    }

    #[test]
    fn others_are_a_trouble_by_their_share_of_the_whole_time() {
        let seen = |shares: &[Option<f32>]| {
            let mut troubles = Troubles::default();
            shares
                .iter()
                .for_each(|others| troubles.see(&Sample { others: *others, ..Sample::default() }, 200));
            troubles.any()
        };
        assert!(!seen(&[None, None]), "what is not known speaks against nothing");
        assert!(!seen(&[None, Some(0.05), Some(0.02)]));
        assert!(!seen(&[Some(0.3), Some(0.0), Some(0.0), Some(0.0)]), "for a moment");
        assert!(seen(&[None, Some(0.9), Some(0.8)]));
    }
}
