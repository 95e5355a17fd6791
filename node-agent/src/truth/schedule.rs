//! When which loaded model is checked. Told what there is and what came out; sleeps never.

use crate::supervisor::load_facts::Subject;
use mesh_core::id::ModelId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How often an idle model is checked again.
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// How soon a model that failed is tried again, doubling to [`LONGEST`]: a driver that was reset answers soon.
const FIRST_AGAIN: Duration = Duration::from_secs(30);
/// The longest pause before a model that failed is tried again.
const LONGEST: Duration = Duration::from_secs(600);
/// How soon a check that made way is tried again.
const AFTER_DISTURBANCE: Duration = Duration::from_secs(5);
/// How long a model of our own waits for its keeper's figures: as long as those wait for a reading, and a second.
const FIGURES_WITHIN: Duration = Duration::from_secs(4);
/// Checks in a row without any answer until a model is quarantined.
pub(super) const FAILURES: u32 = 3;

/// Why a model is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It was loaded.
    Loaded,
    /// The machine slept meanwhile.
    Resumed,
    /// Its engine has another version.
    Upgraded,
    /// An hour has passed.
    Hourly,
    /// It failed last time.
    Again,
}

impl Why {
    /// Whether the three prompts are part of it.
    pub(super) fn with_prompts(self) -> bool {
        match self {
            Self::Loaded | Self::Resumed | Self::Upgraded | Self::Again => true,
            Self::Hourly => false,
        }
    }
}

/// What came out of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing to complain about.
    Good,
    /// Degraded or quarantined.
    Bad,
    /// The engine gave no answer.
    Failed,
    /// Somebody else needed the model.
    Disturbed,
}

/// A model on an engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    engine: String,
    model: ModelId,
}

impl Key {
    pub(super) fn of(subject: &Subject) -> Self {
        Self { engine: subject.engine.clone(), model: subject.replica.model.clone() }
    }
}

#[derive(Debug)]
struct Entry {
    load: u64,
    version: Option<String>,
    why: Why,
    due: Instant,
    /// Due at once when the figures of its load come.
    waits_for_figures: bool,
    /// Checks in a row that were bad, or without an answer.
    bad: u32,
    failed: u32,
}

/// All that are to be checked.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    entries: BTreeMap<Key, Entry>,
}

impl Schedule {
    /// Takes in what is loaded now.
    pub(super) fn see(&mut self, subjects: &[Subject], now: Instant) {
        self.entries.retain(|key, _| subjects.iter().any(|subject| Key::of(subject) == *key));
        for subject in subjects {
            // The figures of a load come shortly after it.
            let waits_for_figures = subject.supervised && subject.facts.is_none();
            let due = if waits_for_figures { now + FIGURES_WITHIN } else { now };
            let fresh = |why, due| Entry {
                load: subject.load,
                version: subject.version.clone(),
                why,
                due,
                waits_for_figures,
                bad: 0,
                failed: 0,
            };
            match self.entries.get_mut(&Key::of(subject)) {
                Some(entry) if entry.load != subject.load => *entry = fresh(Why::Loaded, due),
                Some(entry) if subject.version.is_some() && entry.version.is_none() => {
                    entry.version.clone_from(&subject.version);
                }
                Some(entry) if subject.version.is_some() && entry.version != subject.version => {
                    *entry = fresh(Why::Upgraded, due);
                }
                Some(entry) if entry.waits_for_figures && subject.facts.is_some() => {
                    (entry.waits_for_figures, entry.due) = (false, entry.due.min(now));
                }
                Some(_) => {}
                None => {
                    self.entries.insert(Key::of(subject), fresh(Why::Loaded, due));
                }
            }
        }
    }

    /// All again, now: the machine has slept.
    pub(super) fn all_again(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            (entry.why, entry.due) = (Why::Resumed, now);
        }
    }

    /// The one to check now: due for longest, and idle.
    pub(super) fn next<'a>(&self, subjects: &'a [Subject], now: Instant) -> Option<(&'a Subject, Why)> {
        let due = subjects.iter().filter(|subject| subject.idle).filter_map(|subject| {
            let entry = self.entries.get(&Key::of(subject)).filter(|entry| entry.due <= now)?;
            Some((entry.due, subject, entry.why))
        });
        due.min_by_key(|(due, ..)| *due).map(|(_, subject, why)| (subject, why))
    }

    /// When to look again: at the next that becomes due; within `look` where one is due and not idle.
    pub(super) fn wake(&self, now: Instant, look: Duration) -> Instant {
        let next = self.entries.values().map(|entry| if entry.due <= now { now + look } else { entry.due });
        next.min().unwrap_or(now + HOUR)
    }

    /// Takes in what came out; returns how many checks in a row had no answer.
    pub(super) fn outcome(&mut self, key: &Key, outcome: Outcome, now: Instant) -> u32 {
        let Some(entry) = self.entries.get_mut(key) else { return 0 };
        let again = |times: u32| FIRST_AGAIN.saturating_mul(1 << times.min(10)).min(LONGEST);
        match outcome {
            Outcome::Good => {
                (entry.bad, entry.failed) = (0, 0);
                (entry.why, entry.due) = (Why::Hourly, now + HOUR);
            }
            Outcome::Bad => {
                (entry.why, entry.due) = (Why::Again, now + again(entry.bad));
                (entry.bad, entry.failed) = (entry.bad.saturating_add(1), 0);
            }
            Outcome::Failed => {
                (entry.why, entry.due) = (Why::Again, now + again(entry.failed));
                entry.failed = entry.failed.saturating_add(1);
            }
            Outcome::Disturbed => entry.due = now + AFTER_DISTURBANCE,
        }
        entry.failed
    }
}
