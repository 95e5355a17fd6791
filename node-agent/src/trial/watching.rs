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
    /// `processors` is `None` where nobody can tell which processes are the engine's.
    pub(super) fn of(
        vitals: watch::Receiver<Arc<Vitals>>,
        began: Instant,
        processors: Option<Processors>,
    ) -> Self {
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
    use crate::trial::tests::proc_tree::{AGENT, PORT, Process, Tree};
    use tokio::sync::mpsc;

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

    /// The agent 7 with its engine 9 and a stranger 10, who worked so much.
    fn processes(engine: u64, stranger: u64) -> [Process; 3] {
        [(AGENT, 1, [1, 0, 0, 0]), (9, AGENT, [engine, 0, 0, 0]), (10, 1, [stranger, 0, 0, 0])]
    }

    fn stat(engine: u64, stranger: u64, idle: u64) -> String {
        format!("cpu  {} 0 0 {idle} 0 0 0 0\n", engine + stranger)
    }

    /// What two looks tell of others, and whether that was a trouble. Between them the engine worked 100 ticks more than
    /// `lost`, the stranger so many, and 100 were idle.
    async fn seen(listener: Option<u32>, is_ours: bool, stranger: u64, lost: u64) -> (Option<f32>, bool) {
        let tree = Tree::of(&stat(500, 500, 1000), &processes(500, 500));
        if let Some(pid) = listener {
            tree.listens(pid);
        }
        let vitals = watch::channel(Arc::new(Vitals::unknown("a test"))).1;
        let (lines, mut told) = mpsc::channel(8);
        let told_to = Told { lines };
        let processors = Processors::beside(tree.root(), is_ours, &format!("http://127.0.0.1:{PORT}"));
        let processors = processors.map(|processors| processors.of_agent(AGENT));
        let mut machine = Machine::of(vitals, Instant::now(), processors);
        machine.look(&told_to).await;
        assert!(!machine.was_troubled(), "one look tells of no time");
        tree.becomes(&stat(600, 500 + stranger, 1100), &processes(600 - lost, 500 + stranger));
        machine.look(&told_to).await;
        drop(told_to);
        let mut shares = Vec::new();
        while let Some(event) = told.recv().await {
            let Event::Sample(sample) = event else { panic!("{event:?}") };
            shares.push(sample.others);
        }
        assert_eq!((shares.len(), shares[0]), (2, None));
        (shares[1], machine.was_troubled())
    }

    #[tokio::test]
    async fn a_look_tells_what_others_used_and_a_tenth_of_it_is_a_trouble() {
        assert_eq!(seen(Some(9), true, 0, 0).await, (Some(0.0), false), "the engine's own work");
        assert_eq!(seen(Some(9), true, 20, 0).await, (Some(20.0 / 220.0), false));
        assert_eq!(seen(Some(9), true, 50, 0).await, (Some(50.0 / 250.0), true));
    }

    #[tokio::test]
    async fn an_engine_that_is_none_of_the_agent_s_leaves_unknown_what_others_used() {
        assert_eq!(seen(Some(9), false, 50, 0).await, (None, false), "somebody else started it");
        // The script that the agent started waits; its engine runs in a container, or has let go of it.
        assert_eq!(seen(Some(10), true, 50, 0).await, (None, false), "it listens elsewhere");
        assert_eq!(seen(None, true, 50, 0).await, (None, false), "nobody listens");
        assert_eq!(seen(Some(9), true, 50, 101).await, (None, false), "a part of it has left");
    }
}
