//! Checks whether loaded models are what they should be: on the device, as fast as they were, and sound of mind.
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | [`Checks::run`] | the roster, the profile, news of a resume | each replica's health; speeds in the profile | stopped |
//!
//! After a load, a resume and an engine's upgrade: did its memory land where it was to, is it as fast as the profile
//! knows it, and are its answers to three fixed prompts text? Each hour while it is idle: memory and speed again.
//!
//! A check is a guest. It looks only at models that are in memory and that nobody uses, holds a lease like any
//! request, and goes at once when somebody else comes or the model shall be unloaded. It never loads and never wakes
//! anything. Answers are judged and forgotten: none gets into a log.

mod examine;
mod question;
mod schedule;

pub(crate) use examine::{RAM, other_name, speed_key};
pub(crate) use question::{HttpProber, LEAST_PROMPT, LEAST_TOKENS};

use crate::profile::ProfileHandle;
use crate::reservation::Ledger;
use crate::supervisor::load_facts::Subject;
use crate::supervisor::roster::Roster;
use examine::{Examiner, Found};
use mesh_core::machine::ReplicaHealth;
use question::{Prober, Target};
use schedule::{Key, Outcome, Schedule, Why};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How often a check that is due looks whether its model is idle: leases come and go without a word.
const IDLE_LOOK: Duration = Duration::from_millis(1300);

/// What is checked: the `[truth]` section of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TruthConfig {
    /// Whether anything is.
    pub enabled: bool,
    /// Whether answers to the three prompts are judged. Models with random weights fail them by nature.
    pub prompts: bool,
}

impl Default for TruthConfig {
    fn default() -> Self {
        Self { enabled: true, prompts: true }
    }
}

impl TruthConfig {
    /// Nothing is checked.
    pub const OFF: Self = Self { enabled: false, prompts: false };
}

/// The checks of one machine.
pub(crate) struct Checks {
    roster: Arc<Roster>,
    examiner: Examiner,
    resumed: Arc<Notify>,
    schedule: Schedule,
}

impl Checks {
    pub(crate) fn new(
        config: TruthConfig,
        roster: Arc<Roster>,
        ledger: Ledger,
        profile: ProfileHandle,
        prober: Arc<dyn Prober>,
        resumed: Arc<Notify>,
    ) -> Self {
        let examiner = Examiner { prompts: config.prompts, ledger, profile, prober };
        Self { roster, examiner, resumed, schedule: Schedule::default() }
    }

    /// Checks what is due, one model at a time, until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut engines = self.roster.watch();
        loop {
            engines.mark_unchanged();
            let subjects = self.roster.subjects();
            self.schedule.see(&subjects, Instant::now());
            if let Some((subject, why)) = self.schedule.next(&subjects, Instant::now()) {
                let subject = subject.clone();
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = self.check(&subject, why) => {}
                }
                continue;
            }
            let wake = self.schedule.wake(Instant::now(), IDLE_LOOK);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.resumed.notified() => self.schedule.all_again(Instant::now()),
                changed = engines.changed() => if changed.is_err() { return },
                () = sleep_until(wake) => {}
            }
        }
    }

    async fn check(&mut self, subject: &Subject, why: Why) {
        let key = Key::of(subject);
        let model = &subject.replica.model;
        let Some((lease, count)) = self.roster.lease_idle(&subject.engine, model) else {
            self.schedule.outcome(&key, Outcome::Disturbed, Instant::now());
            return;
        };
        let target = Target {
            kind: subject.kind,
            base_url: lease.base_url.clone(),
            api_key: lease.api_key.clone(),
            upstream: lease.upstream_model.clone(),
        };
        let found = tokio::select! {
            biased;
            () = count.disturbed() => None,
            found = self.examiner.examine(subject, &target, why) => Some(found),
        };
        drop(lease);
        let (engine, now) = (&subject.engine, Instant::now());
        let health = match found {
            None => {
                tracing::debug!(engine, %model, "a truth check made way for a request");
                self.schedule.outcome(&key, Outcome::Disturbed, now);
                return;
            }
            Some(Found::Health(health)) => {
                let good = matches!(health, ReplicaHealth::Good | ReplicaHealth::Unchecked);
                self.schedule.outcome(&key, if good { Outcome::Good } else { Outcome::Bad }, now);
                health
            }
            Some(Found::Failed(why)) => {
                tracing::debug!(engine, %model, %why, "a truth check got no answer");
                if self.schedule.outcome(&key, Outcome::Failed, now) < schedule::FAILURES {
                    return;
                }
                ReplicaHealth::Quarantined(format!("the test prompts get no answer: {why}"))
            }
        };
        let told = subject.replica.health.clone();
        if told != health {
            match &health {
                ReplicaHealth::Good | ReplicaHealth::Unchecked => {
                    tracing::info!(engine, %model, "passes the truth checks");
                }
                ReplicaHealth::Degraded(why) => {
                    tracing::warn!(engine, %model, "degraded, gets no requests until it passes: {why}");
                }
                ReplicaHealth::Quarantined(why) => {
                    tracing::warn!(engine, %model, "quarantined until it passes: {why}");
                }
            }
        }
        self.roster.change(&subject.engine, |row| row.judge(model, subject.load, health));
    }
}

#[cfg(test)]
#[path = "truth/tests.rs"]
mod tests;
