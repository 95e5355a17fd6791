//! Ollama: many models on disk, some in memory, loaded and unloaded by its own API.
//!
//! Asked each 1.1 s: `/api/version`, `/api/tags`, `/api/ps`. `POST /api/show` once per model and digest, in
//! the background. It has no view of slots or load, so those stay unknown.

use super::{Ask, AskError, Engine, EngineMemory, Held, LoadRequest, Observation, PullProgress, PullStream};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use mesh_core::gguf::{self, Header};
use mesh_core::machine::{Abilities, Capabilities, Digest, EngineState, ReplicaState};
use mesh_core::memory::Shape;
use mesh_core::units::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a load may take: a hundred gigabytes from a slow disk.
const LOAD_WITHIN: Duration = Duration::from_secs(15 * 60);
/// How long `/api/show` may take on a busy machine.
const SHOW_WITHIN: Duration = Duration::from_secs(10);
/// How long a pull may say nothing: it verifies a hundred gigabytes in silence.
const PULL_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// How long a deletion may take.
const DELETE_WITHIN: Duration = Duration::from_secs(60);
/// Layers of one model; models have under ten.
const LAYER_LIMIT: usize = 256;
/// Shows at a time, so that a library of hundreds is no storm.
const SHOWS_AT_ONCE: usize = 2;
/// The most models reported.
const MODEL_LIMIT: usize = 1000;

/// Adapter for one Ollama.
pub struct Ollama {
    ask: Ask,
    /// By name and digest; a model whose show failed has the empty details.
    details: BTreeMap<Key, Details>,
    shows: JoinSet<(Key, Details)>,
    asked: Vec<Key>,
}

type Key = (String, String);

impl Ollama {
    /// The Ollama that `ask` reaches.
    #[must_use]
    pub fn new(ask: Ask) -> Self {
        Self { ask, details: BTreeMap::new(), shows: JoinSet::new(), asked: Vec::new() }
    }

    async fn look(&mut self) -> Result<Observation, AskError> {
        let (version, tags, running) = futures_util::join!(
            self.ask.json::<Version>("/api/version"),
            self.ask.json::<Tags>("/api/tags"),
            self.ask.json::<Running>("/api/ps"),
        );
        let (version, mut tags, running) =
            (version?.version, tags?.models.unwrap_or_default(), running?.models.unwrap_or_default());
        tags.truncate(MODEL_LIMIT);
        self.learn(&tags);
        let loaded: BTreeMap<&str, &Process> = running.iter().map(|p| (p.name.as_str(), p)).collect();
        let held = tags
            .iter()
            .filter_map(|tag| held(tag, loaded.get(tag.name.as_str()).copied(), self.details.get(&tag.key())))
            .collect();
        Ok(Observation {
            version: Some(version.chars().take(64).collect()),
            state: EngineState::Up,
            queued: None,
            held,
        })
    }

    /// Takes in the shows that ended and starts those still to be asked.
    fn learn(&mut self, tags: &[Tag]) {
        while let Some(done) = self.shows.try_join_next() {
            if let Ok((key, details)) = done {
                self.details.insert(key, details);
            }
        }
        self.details.retain(|key, _| tags.iter().any(|tag| tag.key() == *key));
        self.asked.retain(|key| tags.iter().any(|tag| tag.key() == *key));
        for tag in tags {
            if self.shows.len() >= SHOWS_AT_ONCE {
                break;
            }
            let key = tag.key();
            if self.asked.contains(&key) {
                continue;
            }
            self.asked.push(key.clone());
            let (ask, model, size) = (self.ask.clone(), tag.name.clone(), tag.size.map(Bytes));
            self.shows.spawn(async move {
                let shown = ask.post::<Shown>("/api/show", &json!({ "model": model }), SHOW_WITHIN).await;
                let Ok(shown) = shown else { return (key, Details::default()) };
                let shape = size.and_then(|size| shape_of(&shown, size));
                (key, Details { shape, ..Details::from(shown) })
            });
        }
    }

    fn makes_only_embeddings(&self, upstream: &str) -> bool {
        self.details
            .iter()
            .any(|((name, _), d)| name == upstream && d.embed == Some(true) && d.chat == Some(false))
    }
}

impl Engine for Ollama {
    fn observe(&mut self) -> BoxFuture<'_, Observation> {
        Box::pin(async { self.look().await.unwrap_or_else(|error| Observation::down(error.to_string())) })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            can_load: true,
            can_unload: true,
            can_pull: true,
            can_delete: true,
            has_context: true,
            has_timings: true,
            abort_safe: true,
            can_size: true,
            ..Capabilities::default()
        }
    }

    fn load(&self, request: &LoadRequest) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        let (ask, upstream) = (self.ask.clone(), request.upstream.as_str());
        // An embedding model refuses /api/generate; an empty list of inputs loads it all the same.
        let (path, mut body) = if self.makes_only_embeddings(upstream) {
            ("/api/embed", json!({ "model": upstream, "input": [], "keep_alive": -1 }))
        } else {
            ("/api/generate", json!({ "model": upstream, "keep_alive": -1, "stream": false }))
        };
        // Its own default depends on the memory of the machine and cuts prompts without a word. Slots and cache
        // type are settings of the whole server.
        if let Some(context) = request.context {
            body["options"] = json!({ "num_ctx": context });
        }
        let (upstream, wanted) = (request.upstream.clone(), request.context);
        Some(Box::pin(async move {
            ask.post::<Value>(path, &body, LOAD_WITHIN).await?;
            match wanted {
                Some(wanted) => check_context(&ask, &upstream, wanted).await,
                None => Ok(()),
            }
        }))
    }

    fn unload(&self, upstream: &str) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        let ask = self.ask.clone();
        let body = json!({ "model": upstream, "keep_alive": 0, "stream": false });
        Some(Box::pin(async move { ask.post::<Value>("/api/generate", &body, LOAD_WITHIN).await.map(drop) }))
    }

    fn pull(&self, upstream: &str) -> Option<PullStream> {
        let body = json!({ "model": upstream, "stream": true });
        let lines = self.ask.lines::<PullLine>("/api/pull", &body, PULL_PATIENCE);
        let (ask, ask_ended) = (self.ask.clone(), self.ask.clone());
        // Layers are fetched one after the other, each with its own count.
        let mut layers: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut ended = false;
        // A connection may end between two lines as if all were said.
        let lines = lines.map(Some).chain(futures_util::stream::iter([None]));
        let told = lines.filter_map(move |line| {
            futures_util::future::ready(match line {
                Some(line) => {
                    ended |=
                        line.as_ref().map_or(true, |line| line.error.is_some() || line.status == "success");
                    Some(line)
                }
                None if ended => None,
                None => Some(Err(ask_ended.unexpected("/api/pull", "it ended before the model was there"))),
            })
        });
        Some(Box::pin(told.map(move |line| {
            let line = line?;
            if let Some(error) = line.error {
                return Err(ask.unexpected("/api/pull", error.chars().take(200).collect::<String>()));
            }
            if let Some(digest) = line.digest.filter(|_| layers.len() < LAYER_LIMIT) {
                layers.insert(digest, (line.completed.unwrap_or(0), line.total.unwrap_or(0)));
            }
            let sum = |part: fn(&(u64, u64)) -> u64| layers.values().map(part).fold(0, u64::saturating_add);
            Ok(PullProgress {
                done: sum(|layer| layer.0),
                total: Some(sum(|layer| layer.1)).filter(|&total| total > 0),
                status: line.status.chars().take(64).collect(),
            })
        })))
    }

    fn delete(&self, upstream: &str) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        let (ask, body) = (self.ask.clone(), json!({ "model": upstream }));
        Some(Box::pin(async move { ask.delete("/api/delete", &body, DELETE_WITHIN).await }))
    }

    fn base_url(&self) -> &str {
        self.ask.base()
    }

    fn api_key(&self) -> Option<&str> {
        self.ask.key()
    }
}

/// What was asked for and what was allocated may differ: Ollama cuts a context to what the model was trained for.
async fn check_context(ask: &Ask, upstream: &str, wanted: u32) -> Result<(), AskError> {
    const PATH: &str = "/api/ps";
    let running = ask.json::<Running>(PATH).await?.models.unwrap_or_default();
    let found = running.iter().find(|process| process.name == upstream);
    match found.map(|process| process.context_length) {
        Some(Some(got)) if got < wanted => {
            Err(ask
                .unexpected(PATH, format!("it was loaded with {got} tokens of context instead of {wanted}")))
        }
        // Versions before 0.9 do not tell.
        Some(_) => Ok(()),
        None => Err(ask.unexpected(PATH, format!("{upstream} is not in memory after it was loaded"))),
    }
}

/// A model as the mesh sees it; `None` when its name cannot be one.
fn held(tag: &Tag, running: Option<&Process>, details: Option<&Details>) -> Option<Held> {
    let state = if running.is_some() { ReplicaState::Loaded } else { ReplicaState::Available };
    let mut held = Held::new(&tag.name, state).ok()?;
    held.replica.size = tag.size.map(Bytes);
    // What is allocated, which Ollama chooses by memory and not by the model.
    held.replica.context = running.and_then(|p| p.context_length).filter(|&n| n > 0);
    held.replica.digest = Digest::new(&tag.digest).ok();
    held.shape = details.and_then(|details| details.shape.clone());
    held.memory = running.and_then(|p| Some(EngineMemory { size: p.size?, size_vram: p.size_vram? }));
    if let Some(details) = details {
        held.replica.trained_context = details.trained_context;
        held.replica.parameters = details.parameters;
        held.replica.abilities = Abilities {
            chat: details.chat,
            embed: details.embed,
            tools: details.tools,
            vision: details.vision,
            fim: details.fim,
        };
    }
    Some(held)
}

#[derive(Debug, Deserialize)]
struct Version {
    version: String,
}

#[derive(Debug, Deserialize)]
struct Tags {
    /// `null` in old versions when there is none.
    models: Option<Vec<Tag>>,
}

#[derive(Debug, Deserialize)]
struct Tag {
    name: String,
    size: Option<u64>,
    #[serde(default)]
    digest: String,
}

impl Tag {
    fn key(&self) -> Key {
        (self.name.clone(), self.digest.clone())
    }
}

#[derive(Debug, Deserialize)]
struct Running {
    models: Option<Vec<Process>>,
}

#[derive(Debug, Deserialize)]
struct Process {
    name: String,
    context_length: Option<u32>,
    size: Option<u64>,
    size_vram: Option<u64>,
}

/// A line of `POST /api/pull`.
#[derive(Debug, Deserialize)]
struct PullLine {
    #[serde(default)]
    status: String,
    digest: Option<String>,
    total: Option<u64>,
    completed: Option<u64>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Shown {
    #[serde(default)]
    model_info: BTreeMap<String, Value>,
    #[serde(default)]
    capabilities: Vec<String>,
}

/// What `/api/show` tells of a model; `None` when it does not.
#[derive(Debug, Clone, Default, PartialEq)]
struct Details {
    trained_context: Option<u32>,
    parameters: Option<u64>,
    chat: Option<bool>,
    embed: Option<bool>,
    tools: Option<bool>,
    vision: Option<bool>,
    fim: Option<bool>,
    /// What decides its memory.
    shape: Option<Arc<Shape>>,
}

/// What of a model of so many bytes decides its memory, where its keys tell.
fn shape_of(shown: &Shown, size: Bytes) -> Option<Arc<Shape>> {
    let keys = shown.model_info.iter().filter(|(key, _)| !key.starts_with("tokenizer."));
    let header = Header {
        version: 3,
        metadata: keys.filter_map(|(key, value)| Some((key.clone(), key_value(value)?))).collect(),
        tensors: Vec::new(),
        alignment: 32,
        data_offset: 0,
        unknown_types: BTreeSet::new(),
        sizes_complete: true,
    };
    Shape::without_tensors(&header, size).ok().map(Arc::new)
}

/// A value of a header as JSON has it; lists tell nothing, because Ollama sends them only when asked at length.
fn key_value(value: &Value) -> Option<gguf::Value> {
    if let Some(number) = value.as_u64() {
        return Some(gguf::Value::Unsigned(number));
    }
    if let Some(number) = value.as_f64() {
        return Some(gguf::Value::Float(number));
    }
    match value {
        Value::String(text) => Some(gguf::Value::Text(text.clone())),
        Value::Bool(flag) => Some(gguf::Value::Bool(*flag)),
        Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

impl From<Shown> for Details {
    fn from(shown: Shown) -> Self {
        let info = |key: &str| shown.model_info.get(key);
        let architecture = info("general.architecture").and_then(Value::as_str).unwrap_or_default();
        // Old versions tell no capabilities at all: unknown, not unable.
        let can = |word: &str| {
            (!shown.capabilities.is_empty()).then(|| shown.capabilities.iter().any(|have| have == word))
        };
        Self {
            trained_context: info(&format!("{architecture}.context_length"))
                .and_then(Value::as_u64)
                .and_then(|n| u32::try_from(n).ok()),
            parameters: info("general.parameter_count").and_then(Value::as_u64),
            chat: can("completion"),
            embed: can("embedding"),
            tools: can("tools"),
            vision: can("vision"),
            fim: can("insert"),
            shape: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::memory::{Options, footprint};

    #[test]
    fn a_model_in_memory_has_its_allocated_context_and_one_on_disk_has_none() {
        let tag = Tag { name: "qwen3:8b".into(), size: Some(5_200_000_000), digest: "d".into() };
        let running = Process {
            name: "qwen3:8b".into(),
            context_length: Some(4096),
            size: Some(6_000_000_000),
            size_vram: Some(4_000_000_000),
        };
        let loaded = held(&tag, Some(&running), None).expect("a good name");
        let memory = EngineMemory { size: 6_000_000_000, size_vram: 4_000_000_000 };
        assert_eq!(loaded.memory, Some(memory), "a third of it is in RAM");
        let loaded = loaded.replica;
        assert_eq!((loaded.state, loaded.context), (ReplicaState::Loaded, Some(4096)));
        let on_disk = held(&tag, None, None).expect("a good name").replica;
        assert_eq!((on_disk.state, on_disk.context, on_disk.slots), (ReplicaState::Available, None, None));
    }

    #[test]
    fn show_is_read_by_architecture_and_capabilities() {
        let shown: Shown = serde_json::from_value(json!({
            "model_info": {"general.architecture": "qwen3", "general.parameter_count": 8_190_735_360_u64,
                           "qwen3.context_length": 40960},
            "capabilities": ["completion", "tools"],
        }))
        .expect("as documented");
        let details = Details::from(shown);
        assert_eq!((details.trained_context, details.parameters), (Some(40960), Some(8_190_735_360)));
        assert_eq!((details.tools, details.embed, details.fim), (Some(true), Some(false), Some(false)));
    }

    #[test]
    fn the_keys_of_show_tell_the_cache_of_a_context() {
        let shown: Shown = serde_json::from_value(json!({"model_info": {
            "general.architecture": "qwen3", "qwen3.block_count": 36, "qwen3.context_length": 40960,
            "qwen3.embedding_length": 4096, "qwen3.attention.head_count": 32,
            "qwen3.attention.head_count_kv": 8, "qwen3.attention.key_length": 128,
            "qwen3.attention.value_length": 128, "qwen3.rope.freq_base": 1e6,
            "tokenizer.ggml.tokens": null,
        }}))
        .expect("as documented");
        let shape = shape_of(&shown, Bytes(5_200_000_000)).expect("enough keys");
        let needs = footprint(&shape, &Options::new(32_768, 1));
        // 36 layers × 8 heads × (128 + 128) elements × 2 bytes
        assert_eq!(needs.device.kv, Bytes(32_768 * 147_456));
        assert_eq!(shape.weights(), Bytes(5_200_000_000));
        let nothing: Shown = serde_json::from_value(json!({})).expect("all fields may lack");
        assert_eq!(shape_of(&nothing, Bytes(1)), None);
    }

    #[test]
    fn an_old_version_without_capabilities_leaves_them_unknown() {
        let shown: Shown = serde_json::from_value(json!({ "license": "MIT" })).expect("all fields may lack");
        assert_eq!(Details::from(shown), Details::default());
    }
}
