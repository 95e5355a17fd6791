//! What a machine says of itself: memory, sensors, engines and the models they hold.
//!
//! Unknown is a value here: a sensor that is missing is a [`Reading::Unknown`] with its reason, never 0.

use crate::id::ModelId;
use crate::units::{Bytes, Celsius};
use serde::{Deserialize, Serialize};

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

/// One temperature sensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Temperature {
    /// Which sensor, as the kernel names it: `k10temp Tctl`.
    pub sensor: String,
    /// What it reads.
    pub value: Celsius,
    /// The limit the hardware itself reports, where it does.
    pub limit: Option<Celsius>,
}

/// A graphics processor as far as it is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// Product or driver name.
    pub name: String,
    /// Its own memory.
    pub memory: Reading<Capacity>,
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

/// What changes from second to second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vitals {
    /// Main memory.
    pub ram: Reading<Capacity>,
    /// The disk that holds the models.
    pub disk: Reading<Capacity>,
    /// Graphics processors, or why none is known.
    pub gpus: Reading<Vec<Gpu>>,
    /// Temperature sensors, or why there are none.
    pub temperatures: Reading<Vec<Temperature>>,
    /// Load average over one minute.
    pub load: Reading<f32>,
    /// Seconds since the machine started.
    pub uptime_s: Reading<u64>,
}

impl Vitals {
    /// The sensor closest to its limit, or the hottest where no limit is known.
    #[must_use]
    pub fn hottest(&self) -> Option<&Temperature> {
        self.temperatures.known()?.iter().max_by(|a, b| a.value.0.total_cmp(&b.value.0))
    }
}

/// The kinds of engine an agent can speak to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// llama.cpp's own server, in any of its packages.
    LlamaServer,
    /// Ollama.
    Ollama,
    /// Lemonade.
    Lemonade,
    /// LM Studio.
    LmStudio,
    /// vLLM.
    Vllm,
}

impl EngineKind {
    /// All kinds, in the order in which they are looked for: Lemonade also answers as Ollama.
    pub const ALL: [Self; 5] = [Self::Lemonade, Self::Ollama, Self::LlamaServer, Self::LmStudio, Self::Vllm];

    /// The word used in configuration, reports and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::LlamaServer => "llama-server",
            Self::Ollama => "ollama",
            Self::Lemonade => "lemonade",
            Self::LmStudio => "lm-studio",
            Self::Vllm => "vllm",
        }
    }

    /// Whether a request for a model on disk makes this engine load it by itself.
    #[must_use]
    pub fn loads_on_demand(self) -> bool {
        match self {
            Self::Ollama | Self::Lemonade | Self::LmStudio => true,
            Self::LlamaServer | Self::Vllm => false,
        }
    }

    /// The kind that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// Whether an engine answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineState {
    /// It answers.
    Up,
    /// It is being started, or loads its model.
    Starting,
    /// It does not answer, and why.
    Down(String),
}

/// One engine on a machine with the models it can serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Engine {
    /// Unique on its machine: `llama-server-1`.
    pub name: String,
    /// What it is.
    pub kind: EngineKind,
    /// Its version where it tells.
    pub version: Option<String>,
    /// Whether it answers.
    pub state: EngineState,
    /// Whether the agent started it (and will stop it).
    pub supervised: bool,
    /// Models it holds or could load.
    pub replicas: Vec<Replica>,
}

/// The life of a model on an engine.
///
/// ```text
/// Available ──load──► Loading ──► Loaded ──unload──► Available
///                        └──► Failed(why) ──load──► Loading
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// On disk, not in memory.
    Available,
    /// On its way into memory.
    Loading,
    /// In memory, serving.
    Loaded,
    /// Could not be loaded, and why.
    Failed(String),
}

impl ReplicaState {
    /// The word used in reports and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Loading => "loading",
            Self::Loaded => "loaded",
            Self::Failed(_) => "failed",
        }
    }
}

/// What a model can do on this engine. `None` = the engine does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Abilities {
    /// Answers chats and completions.
    pub chat: Option<bool>,
    /// Makes embeddings.
    pub embed: Option<bool>,
    /// Calls tools.
    pub tools: Option<bool>,
    /// Reads images.
    pub vision: Option<bool>,
    /// Fills in the middle.
    pub fim: Option<bool>,
}

/// One whole model on one engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replica {
    /// Its name towards clients.
    pub model: ModelId,
    /// Where it is in its life.
    pub state: ReplicaState,
    /// Requests it serves at once; `None` = the engine does not say.
    pub slots: Option<u32>,
    /// Requests it serves now, by the engine's own count.
    pub busy: Option<u32>,
    /// Tokens one request may hold, prompt and answer together.
    pub context: Option<u32>,
    /// Tokens it was trained for.
    pub trained_context: Option<u32>,
    /// Parameters, where known: what "best model" is judged by before anything is measured.
    pub parameters: Option<u64>,
    /// Bytes of the weights, where known.
    pub size: Option<Bytes>,
    /// What it can do.
    pub abilities: Abilities,
}

impl Replica {
    /// A replica of which nothing is known but its name and state.
    #[must_use]
    pub fn new(model: ModelId, state: ReplicaState) -> Self {
        Self {
            model,
            state,
            slots: None,
            busy: None,
            context: None,
            trained_context: None,
            parameters: None,
            size: None,
            abilities: Abilities::default(),
        }
    }
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
    /// The agent is leaving: no new requests, please.
    pub draining: Option<bool>,
}

impl Report {
    /// Whether every section is there.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.hardware.is_some() && self.vitals.is_some() && self.engines.is_some() && self.draining.is_some()
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
        replace(&mut self.draining, delta.draining);
    }
}

/// A wish of the router towards one machine. The agent may refuse; the next report tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Directive {
    /// Bring this model into memory.
    Load(ModelId),
    /// Take this model out of memory.
    Unload(ModelId),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vitals(load: f32) -> Vitals {
        Vitals {
            ram: Reading::unknown("test"),
            disk: Reading::unknown("test"),
            gpus: Reading::unknown("test"),
            temperatures: Reading::unknown("test"),
            load: Reading::Known(load),
            uptime_s: Reading::Known(1),
        }
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
