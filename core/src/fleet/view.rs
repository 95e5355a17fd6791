//! The snapshot of the fleet that decisions, status and the dashboard read.

use super::serving::{self, Answers, Servings};
use crate::eviction::Uses;
use crate::health::Liveness;
use crate::id::{MachineId, ModelId};
use crate::machine::{Engine, Hardware, Replica, Store, Vitals};
use crate::speed::Speed;
use crate::units::Moment;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How requests reach a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataPath {
    /// By the QUIC connection that its agent dialled.
    Quic,
    /// By an HTTP/2 connection over TCP that its agent dialled, because UDP does not pass.
    H2,
    /// By a function call: router and agent share a process.
    InProcess,
}

impl DataPath {
    /// The word used in status and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::H2 => "h2",
            Self::InProcess => "in-process",
        }
    }
}

/// One machine as decisions see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MachineView {
    /// Its name.
    pub id: MachineId,
    /// What is believed of it.
    pub liveness: Liveness,
    /// When its last message came.
    pub last_heard: Moment,
    /// How requests reach it, `None` while they cannot.
    pub path: Option<DataPath>,
    /// It is leaving: no new requests.
    pub draining: bool,
    /// What does not change, once it has reported.
    pub hardware: Option<Hardware>,
    /// What changes all the time, once it has reported.
    pub vitals: Option<Vitals>,
    /// Its engines.
    pub engines: Vec<Engine>,
    /// The models on its disk.
    pub store: Store,
    /// Seconds for a round trip to it, once measured.
    pub rtt_s: Option<f64>,
    /// Its machine profile as a JSON document, once it has reported.
    #[serde(skip)]
    pub profile: Option<Arc<str>>,
    /// What is known of each of its models beyond the report.
    pub history: BTreeMap<ModelId, History>,
}

/// What requests have told about a replica.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct History {
    /// How long it is to be left alone, and after how many failures; zero seconds = until a probe has succeeded.
    pub resting: Option<(Duration, u32)>,
    /// How fast it is.
    pub speed: Speed,
    /// The number of its latest load, of all loads that were seen: its cache was empty then.
    pub load: u32,
    /// When it came into memory, as far as that was seen.
    pub loaded_at: Option<Moment>,
    /// How often requests ended on it.
    pub uses: Uses,
}

impl MachineView {
    /// The replica of `model` on this machine that is furthest on its way to serving, with its engine.
    #[must_use]
    pub fn replica(&self, model: &ModelId) -> Option<(&Engine, &Replica)> {
        use crate::machine::ReplicaState::{Available, Failed, Loaded, Loading};
        self.engines
            .iter()
            .flat_map(|engine| engine.replicas.iter().map(move |replica| (engine, replica)))
            .filter(|(_, replica)| replica.model == *model)
            .min_by_key(|(_, replica)| match (&replica.state, replica.health.why()) {
                (Loaded, None) => 0,
                (Loaded, Some(_)) => 1,
                (Loading, _) => 2,
                (Available, _) => 3,
                (Failed(_), _) => 4,
            })
    }
}

/// A snapshot of the fleet. Machines are sorted by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct FleetView {
    /// All machines that were ever heard of since the router started.
    pub machines: Vec<MachineView>,
    /// The replicas of each model.
    #[serde(skip)]
    index: BTreeMap<ModelId, Servings>,
}

impl FleetView {
    /// A snapshot of `machines`, which are sorted by name.
    #[must_use]
    pub fn new(machines: Vec<MachineView>, answers: &Answers) -> Self {
        let index = serving::index(&machines, answers);
        Self { machines, index }
    }

    /// All replicas of `model`, `None` when no machine has it.
    #[must_use]
    pub fn servings(&self, model: &ModelId) -> Option<&Servings> {
        self.index.get(model)
    }

    /// The machine with this name.
    #[must_use]
    pub fn machine(&self, id: &MachineId) -> Option<&MachineView> {
        self.machines.binary_search_by(|machine| machine.id.cmp(id)).ok().map(|at| &self.machines[at])
    }

    /// The model with this name, where any machine has it, loaded or not.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&ModelId> {
        self.index.get_key_value(name).map(|(model, _)| model)
    }

    /// The names of all models, each once, sorted.
    #[must_use]
    pub fn model_names(&self) -> Vec<&ModelId> {
        self.index.keys().collect()
    }
}
