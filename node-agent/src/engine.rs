//! What the agent can say to an inference engine, and the adapters that say it.
//!
//! An [`Engine`] is asked how it is with GETs only and, where its API can, told to load or unload a model.
//! It never carries a request: `serve.rs` does that with what a lease tells it. Called by the supervisor.

pub(crate) mod answer;
mod ask;
pub mod bundled;
pub mod child;
pub mod child_log;
pub mod discover;
pub mod flags;
pub mod generic;
pub mod guard;
mod last_words;
pub mod llama_router;
pub mod llama_server;
pub mod ollama;
pub mod openai;
mod sizing;

pub use ask::{Ask, AskError};
pub use child_log::{Buffer, BufferKind, Reported};
pub use sizing::Sizing;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use generic::Generic;
use mesh_core::id::{IdError, ModelId};
use mesh_core::machine::{Capabilities, EngineKind, EngineState, Replica, ReplicaState};
use mesh_core::memory::{CacheType, Shape};
use openai::OpenAi;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// An engine the agent is told to use.
#[derive(Clone, PartialEq, Eq)]
pub enum EngineConfig {
    /// One that runs already.
    Endpoint {
        /// Its name on this machine, unique.
        name: String,
        /// What it is.
        kind: EngineKind,
        /// Where it answers: `http://127.0.0.1:11434`.
        url: String,
        /// The key it asks for.
        api_key: Option<String>,
    },
    /// One that the agent starts, watches, restarts and stops.
    Child {
        /// Its name on this machine, unique.
        name: String,
        /// What to start.
        program: Program,
        /// The GGUF file.
        model: PathBuf,
        /// The model's name towards clients.
        alias: ModelId,
        /// Tokens one request may hold.
        context: u32,
        /// Requests served at once.
        slots: u32,
        /// Whether it makes embeddings and not text.
        embedding: bool,
    },
}

impl EngineConfig {
    /// The engine's name on this machine.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Endpoint { name, .. } | Self::Child { name, .. } => name,
        }
    }
}

// By hand: the API key must not reach a log.
impl fmt::Debug for EngineConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint { name, kind, url, .. } => {
                write!(out, "Endpoint({name}, {}, {url})", kind.word())
            }
            Self::Child { name, program, model, alias, .. } => {
                write!(out, "Child({name}, {program:?}, {}, {alias})", model.display())
            }
        }
    }
}

/// The program behind a child engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// The engine that modemesh brings along.
    Bundled,
    /// A `llama-server`, as a path or as a name on the search path.
    Path(PathBuf),
}

/// A running engine as its adapter sees it.
pub trait Engine: Send + 'static {
    /// Asks the engine how it is, with GETs that neither wake nor load anything. The caller sets the limit.
    fn observe(&mut self) -> BoxFuture<'_, Observation>;

    /// What this engine can be asked and told.
    fn capabilities(&self) -> Capabilities;

    /// Brings a model into memory and ends well only once it can serve; `None` when this engine has no call for that.
    fn load(&self, _request: &LoadRequest) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        None
    }

    /// Takes a model out of memory; `None` when this engine has no call for that.
    fn unload(&self, _upstream: &str) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        None
    }

    /// Fetches a model onto the disk, telling how far it is; dropping the stream cancels. `None` when this
    /// engine fetches nothing.
    fn pull(&self, _upstream: &str) -> Option<PullStream> {
        None
    }

    /// Deletes a model from the disk; `None` when this engine has no call for that.
    fn delete(&self, _upstream: &str) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        None
    }

    /// Where requests go: the engine's path is this and `/v1/chat/completions`.
    fn base_url(&self) -> &str;

    /// The key requests must carry.
    fn api_key(&self) -> Option<&str>;
}

/// A model that shall be loaded. What is `None` the engine decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadRequest {
    /// What the engine calls the model.
    pub upstream: String,
    /// Tokens one request may hold.
    pub context: Option<u32>,
    /// Requests at once.
    pub slots: Option<u32>,
    /// Type of the KV cache.
    pub cache: Option<CacheType>,
}

impl LoadRequest {
    /// `upstream` as the engine likes it.
    #[must_use]
    pub fn of(upstream: &str) -> Self {
        Self { upstream: upstream.to_owned(), context: None, slots: None, cache: None }
    }
}

/// How far an engine is with fetching a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes on disk.
    pub done: u64,
    /// Bytes in all, once known.
    pub total: Option<u64>,
    /// The engine's own word for what it does.
    pub status: String,
}

/// Progress until the model is there, or an error.
pub type PullStream = BoxStream<'static, Result<PullProgress, AskError>>;

/// What an engine says that a loaded model takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineMemory {
    /// All of it.
    pub size: u64,
    /// What of it is on graphics processors.
    pub size_vram: u64,
}

/// What an engine said of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// Its version where it tells.
    pub version: Option<String>,
    /// Whether it answers.
    pub state: EngineState,
    /// Requests that wait in it, by its own count.
    pub queued: Option<u32>,
    /// The models it has, loaded or not.
    pub held: Vec<Held>,
}

impl Observation {
    /// The engine does not answer, and why.
    #[must_use]
    pub fn down(reason: impl Into<String>) -> Self {
        Self::without_models(EngineState::Down(reason.into()))
    }

    fn without_models(state: EngineState) -> Self {
        Self { version: None, state, queued: None, held: Vec::new() }
    }

    /// The engine answers that it is not ready yet.
    #[must_use]
    pub fn starting() -> Self {
        Self::without_models(EngineState::Starting)
    }
}

/// A model on an engine under both its names.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// As the mesh sees it.
    pub replica: Replica,
    /// What the engine calls it.
    pub upstream: String,
    /// What the engine says that it takes.
    pub memory: Option<EngineMemory>,
    /// What decides its memory, where the engine tells its header's keys.
    pub shape: Option<Arc<Shape>>,
    /// How full its KV cache is, from 0 to 1.
    pub kv_used: Option<f32>,
}

impl Held {
    /// A model named by its engine, of which nothing else is known yet.
    ///
    /// # Errors
    /// [`IdError`] when not even the last part of the name is a valid model name.
    pub fn new(upstream: &str, state: ReplicaState) -> Result<Self, IdError> {
        let replica = Replica::new(model_id(upstream)?, state);
        Ok(Self { replica, upstream: upstream.to_owned(), memory: None, shape: None, kv_used: None })
    }
}

/// The mesh's name for what an engine calls `upstream`: the same where it can be, else the file's name
/// without folder and `.gguf`, because a llama-server without an alias names its model by its path.
///
/// # Errors
/// [`IdError`] when that is no valid name either.
pub fn model_id(upstream: &str) -> Result<ModelId, IdError> {
    ModelId::new(upstream).or_else(|_| {
        let file = upstream.rsplit(['/', '\\']).next().unwrap_or_default();
        ModelId::new(file.strip_suffix(".gguf").unwrap_or(file))
    })
}

/// The adapter for an engine of `kind` at `url`.
///
/// # Errors
/// [`AskError::BadUrl`] when `url` is not one the agent may speak to.
pub fn adapter(kind: EngineKind, url: &str, api_key: Option<String>) -> Result<Box<dyn Engine>, AskError> {
    let ask = |base: String| Ask::new(&base, api_key.clone());
    let root = ask::root_of(url)?;
    Ok(match kind {
        EngineKind::LlamaServer => Box::new(llama_server::LlamaServer::new(ask(root)?, None)),
        EngineKind::Ollama => Box::new(ollama::Ollama::new(ask(root)?)),
        EngineKind::LlamaRouter => Box::new(llama_router::LlamaRouter::new(ask(root)?)),
        EngineKind::Sglang => Box::new(Generic::new(generic::Dialect::Sglang, ask(root)?)),
        EngineKind::TabbyApi => Box::new(Generic::new(generic::Dialect::TabbyApi, ask(root)?)),
        EngineKind::KoboldCpp => Box::new(Generic::new(generic::Dialect::KoboldCpp, ask(root)?)),
        EngineKind::LocalAi => Box::new(Generic::new(generic::Dialect::LocalAi, ask(root)?)),
        EngineKind::OpenAi => Box::new(Generic::new(generic::Dialect::Plain, ask(root)?)),
        // Its paths begin with `/api`.
        EngineKind::Lemonade => Box::new(OpenAi::new(openai::Dialect::Lemonade, ask(format!("{root}/api"))?)),
        EngineKind::LmStudio => Box::new(OpenAi::new(openai::Dialect::LmStudio, ask(root)?)),
        EngineKind::Vllm => Box::new(OpenAi::new(openai::Dialect::Vllm, ask(root)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_named_by_its_path_gets_its_file_name() {
        for (upstream, id) in [
            ("qwen3:8b", "qwen3:8b"),
            ("org/model:Q4_K_M", "org/model:Q4_K_M"),
            ("/srv/models/tiny-q8_0.gguf", "tiny-q8_0"),
            ("C:\\models\\tiny.gguf", "tiny"),
        ] {
            assert_eq!(model_id(upstream).map(String::from), Ok(id.to_owned()), "{upstream}");
        }
        assert!(model_id("").is_err() && model_id("a b").is_err());
    }

    #[test]
    fn a_key_is_in_no_debug_text() {
        let config = EngineConfig::Endpoint {
            name: "one".into(),
            kind: EngineKind::Ollama,
            url: "http://127.0.0.1:1".into(),
            api_key: Some("hidden-key".into()),
        };
        assert!(!format!("{config:?}").contains("hidden-key"));
    }

    #[test]
    fn base_urls_are_what_the_request_path_is_appended_to() {
        for (kind, url, base) in [
            (EngineKind::LlamaServer, "http://127.0.0.1:8080/v1/", "http://127.0.0.1:8080"),
            (EngineKind::Ollama, "http://localhost:11434", "http://localhost:11434"),
            (EngineKind::Lemonade, "http://127.0.0.1:13305", "http://127.0.0.1:13305/api"),
            (EngineKind::Lemonade, "http://127.0.0.1:13305/api/v1", "http://127.0.0.1:13305/api"),
            (EngineKind::Vllm, "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ] {
            let engine = adapter(kind, url, None).map(|engine| engine.base_url().to_owned());
            assert_eq!(engine.expect("a good address"), base);
        }
    }
}
