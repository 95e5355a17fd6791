//! Engines and the models they hold.

use super::store::Digest;
use crate::fit::Offload;
use crate::id::ModelId;
use crate::memory::CacheType;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

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
    /// llama.cpp's server in router mode: many models behind one address.
    LlamaRouter,
    /// SGLang.
    Sglang,
    /// TabbyAPI.
    TabbyApi,
    /// KoboldCpp.
    KoboldCpp,
    /// LocalAI.
    LocalAi,
    /// Anything else that speaks OpenAI's dialect.
    OpenAi,
}

impl EngineKind {
    /// All kinds, in the order in which they are looked for: Lemonade also answers as Ollama.
    /// What is told apart by less comes later.
    pub const ALL: [Self; 11] = [
        Self::Lemonade,
        Self::Ollama,
        Self::LlamaRouter,
        Self::LlamaServer,
        Self::LmStudio,
        Self::KoboldCpp,
        Self::TabbyApi,
        Self::LocalAi,
        Self::Sglang,
        Self::Vllm,
        Self::OpenAi,
    ];

    /// The word used in configuration, reports and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::LlamaServer => "llama-server",
            Self::Ollama => "ollama",
            Self::Lemonade => "lemonade",
            Self::LmStudio => "lm-studio",
            Self::Vllm => "vllm",
            Self::LlamaRouter => "llama-router",
            Self::Sglang => "sglang",
            Self::TabbyApi => "tabbyapi",
            Self::KoboldCpp => "koboldcpp",
            Self::LocalAi => "localai",
            Self::OpenAi => "openai",
        }
    }

    /// Whether a request for a model on disk makes this engine load it by itself.
    #[must_use]
    pub fn loads_on_demand(self) -> bool {
        match self {
            Self::Ollama | Self::Lemonade | Self::LmStudio | Self::LocalAi => true,
            Self::LlamaServer
            | Self::Vllm
            | Self::LlamaRouter
            | Self::Sglang
            | Self::TabbyApi
            | Self::KoboldCpp
            | Self::OpenAi => false,
        }
    }

    /// The kind that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// What an engine can be asked and told. What it cannot, the mesh does not know or does itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// It can be told to load a model.
    pub can_load: bool,
    /// It can be told to unload one.
    pub can_unload: bool,
    /// It can fetch models by itself.
    pub can_pull: bool,
    /// It can delete models from its disk.
    pub can_delete: bool,
    /// It says how many requests it serves at once.
    pub has_slots: bool,
    /// It says how many requests wait.
    pub has_queue: bool,
    /// It says how many tokens a request may hold.
    pub has_context: bool,
    /// It says how full its KV cache is.
    pub has_kv_usage: bool,
    /// Its answers carry its own timings.
    pub has_timings: bool,
    /// Closing the connection stops the work on a request.
    pub abort_safe: bool,
    /// The context and slots of a load can be chosen.
    pub can_size: bool,
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
    /// What it can be asked and told.
    pub capabilities: Capabilities,
    /// Requests that wait in it, by its own count.
    pub queued: Option<u32>,
    /// Models it holds or could load.
    pub replicas: Vec<Replica>,
}

impl Engine {
    /// An engine that has not been looked at yet.
    #[must_use]
    pub fn new(name: &str, kind: EngineKind, supervised: bool) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            version: None,
            state: EngineState::Starting,
            supervised,
            capabilities: Capabilities::default(),
            queued: None,
            replicas: Vec::new(),
        }
    }

    /// Whether it does not answer.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.state, EngineState::Down(_))
    }

    /// Whether it is a stored model's own that the agent starts when the model is loaded: nothing runs, and nothing is wrong.
    #[must_use]
    pub fn rests(&self) -> bool {
        let is_stored = |replica: &Replica| replica.state == ReplicaState::Available;
        self.supervised && self.state == EngineState::Up && self.replicas.iter().all(is_stored)
    }
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

/// What the truth checks found of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaHealth {
    /// Not checked yet.
    #[default]
    Unchecked,
    /// It answers sensibly, at the speed it has.
    Good,
    /// It answers, but not as it should (it fell back to the CPU): nothing is routed to it while another can serve.
    Degraded(String),
    /// Its answers are empty or gibberish: nothing is routed to it until it passes.
    Quarantined(String),
}

impl ReplicaHealth {
    /// The word used in reports and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Good => "good",
            Self::Degraded(_) => "degraded",
            Self::Quarantined(_) => "quarantined",
        }
    }

    /// Why it is not good, where it is not.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Degraded(why) | Self::Quarantined(why) => Some(why),
            Self::Unchecked | Self::Good => None,
        }
    }
}

/// The memory a loaded model holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaMemory {
    /// Bytes on graphics processors.
    pub device: Bytes,
    /// Bytes of RAM.
    pub host: Bytes,
    /// Whether it was measured, or only predicted.
    pub measured: bool,
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
    /// Of its file, where known.
    pub digest: Option<Digest>,
    /// Type of its KV cache, where known.
    pub cache_type: Option<CacheType>,
    /// Which part of it lies on a graphics processor, where known.
    pub offload: Option<Offload>,
    /// What it holds while loaded, where known.
    pub memory: Option<ReplicaMemory>,
    /// How full its KV cache is, 0 to 1, where the engine tells.
    pub kv_used: Option<f32>,
    /// What the truth checks found.
    pub health: ReplicaHealth,
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
            digest: None,
            cache_type: None,
            offload: None,
            memory: None,
            kv_used: None,
            health: ReplicaHealth::default(),
        }
    }
}
