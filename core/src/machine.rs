//! What a machine says of itself: memory, sensors, engines and the models they hold.
//!
//! Unknown is a value here: a sensor that is missing is a [`Reading::Unknown`] with its reason, never 0.

mod engine;
mod gpu;
mod store;
mod vitals;
mod wish;

pub use engine::{
    Abilities, Capabilities, Engine, EngineKind, EngineState, Replica, ReplicaHealth, ReplicaMemory,
    ReplicaState,
};
pub use gpu::{
    Gpu, GpuFault, GpuProcess, GpuSensors, GpuState, GpuVendor, Pool, ThrottleCause, UnifiedLimit,
};
pub use store::{
    Digest, DigestError, Store, StoreRefusal, StoredModel, Transfer, TransferKind, TransferState,
};
pub use vitals::{HostMemory, Power, Swap, Temperature, Thermal, ThermalState, Vitals};
pub use wish::{Directive, LoadWish, PullSource, PullWish};

use crate::units::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A measured value, or the reason why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading<T> {
    /// The value as read.
    Known(T),
    /// Why it could not be read, in words for a person.
    Unknown(String),
}

impl<T> Reading<T> {
    /// The value if there is one.
    #[must_use]
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }

    /// The value changed, or the reason kept.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Reading<U> {
        self.and_then(|value| Reading::Known(change(value)))
    }

    /// The value read on, or the reason kept.
    pub fn and_then<U>(self, read: impl FnOnce(T) -> Reading<U>) -> Reading<U> {
        match self {
            Self::Known(value) => read(value),
            Self::Unknown(reason) => Reading::Unknown(reason),
        }
    }

    /// An unknown value with its reason.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown(reason.into())
    }
}

/// Memory with a total and what is free to use now, both in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// All there is.
    pub total: Bytes,
    /// What a new model could take now (for RAM: the kernel's `MemAvailable`).
    pub available: Bytes,
}

/// What does not change while the agent runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hardware {
    /// The host name as the kernel has it.
    pub hostname: String,
    /// The processor's model name.
    pub cpu: Reading<String>,
    /// Logical processors.
    pub cpu_threads: u32,
    /// The kernel and its release: `Linux 6.1.0-18-amd64`.
    pub system: Reading<String>,
    /// The agent's version.
    pub agent_version: String,
}

/// A message from a machine about itself. A section that is `None` has not changed since the last report;
/// a full report has all of them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// What does not change.
    pub hardware: Option<Hardware>,
    /// What changes all the time.
    pub vitals: Option<Vitals>,
    /// All engines of the machine (a section is replaced whole).
    pub engines: Option<Vec<Engine>>,
    /// The models on its disk.
    pub store: Option<Store>,
    /// The machine profile as a JSON document: `core/profile.rs`. Text, because the router only passes it on.
    pub profile: Option<Arc<str>>,
    /// The agent is leaving: no new requests, please.
    pub draining: Option<bool>,
}

impl Report {
    /// Whether every section is there.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.hardware.is_some()
            && self.vitals.is_some()
            && self.engines.is_some()
            && self.store.is_some()
            && self.profile.is_some()
            && self.draining.is_some()
    }

    /// The sections of `self` that differ from `previous`; `None` when nothing does.
    #[must_use]
    pub fn changes_since(&self, previous: &Self) -> Option<Self> {
        fn changed<T: Clone + PartialEq>(new: &Option<T>, old: &Option<T>) -> Option<T> {
            if new == old { None } else { new.clone() }
        }
        let delta = Self {
            hardware: changed(&self.hardware, &previous.hardware),
            vitals: changed(&self.vitals, &previous.vitals),
            engines: changed(&self.engines, &previous.engines),
            store: changed(&self.store, &previous.store),
            profile: changed(&self.profile, &previous.profile),
            draining: changed(&self.draining, &previous.draining),
        };
        (delta != Self::default()).then_some(delta)
    }

    /// Replaces the sections that `delta` has.
    pub fn absorb(&mut self, delta: Self) {
        fn replace<T>(old: &mut Option<T>, new: Option<T>) {
            if new.is_some() {
                *old = new;
            }
        }
        replace(&mut self.hardware, delta.hardware);
        replace(&mut self.vitals, delta.vitals);
        replace(&mut self.engines, delta.engines);
        replace(&mut self.store, delta.store);
        replace(&mut self.profile, delta.profile);
        replace(&mut self.draining, delta.draining);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vitals(load: f32) -> Vitals {
        Vitals { load: Reading::Known(load), ..Vitals::unknown("test") }
    }

    #[test]
    fn a_delta_holds_only_what_changed_and_restores_the_whole() {
        let old = Report { vitals: Some(vitals(0.5)), engines: Some(vec![]), ..Report::default() };
        let new = Report { vitals: Some(vitals(0.7)), ..old.clone() };
        let delta = new.changes_since(&old).expect("the load changed");
        assert!(delta.engines.is_none() && delta.vitals.is_some());
        let mut rebuilt = old.clone();
        rebuilt.absorb(delta);
        assert_eq!(rebuilt, new);
        assert_eq!(new.changes_since(&new), None);
    }

    #[test]
    fn lemonade_is_looked_for_before_ollama() {
        let at = |kind| EngineKind::ALL.iter().position(|&k| k == kind);
        assert!(at(EngineKind::Lemonade) < at(EngineKind::Ollama));
        for kind in EngineKind::ALL {
            assert_eq!(EngineKind::from_word(kind.word()), Some(kind));
        }
    }
}
