//! Engines that speak OpenAI's dialect and tell little of themselves: SGLang, TabbyAPI, KoboldCpp, LocalAI, and
//! whatever else is configured as kind `openai`.
//!
//! SGLang: `/v1/models`, `/server_info` or `/get_server_info`, `/metrics` where it is on; one model. TabbyAPI:
//! `/v1/model` is what is loaded, `/v1/models` what is there. KoboldCpp: `/api/extra/{version,perf,
//! true_max_context_length}`; one model. LocalAI: `/v1/models`, and `/system` for what is loaded.

use super::openai::{gauges, part};
use super::{Ask, AskError, Engine, Held, LoadRequest, Observation};
use futures_util::future::BoxFuture;
use mesh_core::machine::{Capabilities, EngineState, ReplicaState};
use mesh_core::memory::CacheType;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a load may take: a hundred gigabytes from a slow disk.
const LOAD_WITHIN: Duration = Duration::from_secs(15 * 60);
/// The most models reported.
const MODEL_LIMIT: usize = 1000;

/// How these engines tell of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SGLang.
    Sglang,
    /// TabbyAPI.
    TabbyApi,
    /// KoboldCpp.
    KoboldCpp,
    /// LocalAI.
    LocalAi,
    /// Nothing but OpenAI's own calls.
    Plain,
}

/// Adapter for one engine of these kinds.
pub struct Generic {
    dialect: Dialect,
    ask: Ask,
    /// Whether its metrics could be read when it was last seen.
    counts: bool,
}

impl Generic {
    /// The engine of `dialect` that `ask` reaches.
    #[must_use]
    pub fn new(dialect: Dialect, ask: Ask) -> Self {
        Self { dialect, ask, counts: true }
    }

    async fn look(&mut self) -> Result<Observation, AskError> {
        match self.dialect {
            Dialect::Sglang => self.look_at_sglang().await,
            Dialect::TabbyApi => self.look_at_tabby().await,
            Dialect::KoboldCpp => self.look_at_kobold().await,
            Dialect::LocalAi => self.look_at_local_ai().await,
            Dialect::Plain => self.look_at_models(None).await,
        }
    }

    /// What `/v1/models` lists, all of it taken for loaded: nothing here says otherwise.
    async fn look_at_models(&self, version: Option<String>) -> Result<Observation, AskError> {
        let models = self.ask.json::<List>("/v1/models").await?.data;
        let held =
            models.iter().take(MODEL_LIMIT).filter_map(|model| model.held(ReplicaState::Loaded)).collect();
        Ok(Observation { version, state: EngineState::Up, queued: None, held })
    }

    async fn look_at_sglang(&mut self) -> Result<Observation, AskError> {
        let (metrics, info) = futures_util::join!(self.ask.text("/metrics"), self.server_info());
        let mut seen = self.look_at_models(info.version).await?;
        let metrics = metrics.unwrap_or_default();
        seen.queued = gauges(&metrics, "sglang:num_queue_reqs");
        self.counts = seen.queued.is_some();
        if let [only] = seen.held.as_mut_slice() {
            only.replica.busy = gauges(&metrics, "sglang:num_running_reqs");
            only.replica.context = only.replica.context.or(info.context_length);
            only.replica.slots = info.max_running_requests;
            only.kv_used = part(&metrics, &["sglang:token_usage"]);
        }
        Ok(seen)
    }

    async fn server_info(&self) -> ServerInfo {
        match self.ask.json("/server_info").await {
            Ok(info) => info,
            // Its name before 0.5.
            Err(_) => self.ask.json("/get_server_info").await.unwrap_or_default(),
        }
    }

    async fn look_at_tabby(&self) -> Result<Observation, AskError> {
        let (current, all) =
            futures_util::join!(self.ask.json::<Model>("/v1/model"), self.ask.json::<List>("/v1/models"));
        let current = match current {
            Ok(model) => Some(model),
            // Nothing is loaded.
            Err(error) if matches!(error.status(), Some(400 | 404 | 503)) => None,
            Err(error) => return Err(error),
        };
        let is_current = |model: &&Model| current.as_ref().is_none_or(|current| current.id != model.id);
        // Listing what is there takes an admin's key.
        let others = all.map(|list| list.data).unwrap_or_default();
        let others = others.iter().filter(is_current).filter_map(|model| model.held(ReplicaState::Available));
        let loaded = current.iter().filter_map(|model| model.held(ReplicaState::Loaded));
        let held = loaded.chain(others).take(MODEL_LIMIT).collect();
        Ok(Observation { version: None, state: EngineState::Up, queued: None, held })
    }

    async fn look_at_kobold(&self) -> Result<Observation, AskError> {
        let (version, perf, context) = futures_util::join!(
            self.ask.json::<Value>("/api/extra/version"),
            self.ask.json::<Value>("/api/extra/perf"),
            self.ask.json::<Value>("/api/extra/true_max_context_length"),
        );
        let version = version?["version"].as_str().map(|text| text.chars().take(64).collect());
        let mut seen = self.look_at_models(version).await?;
        let perf = perf.unwrap_or_default();
        let small = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        seen.queued = small(&perf["queue"]);
        if let [only] = seen.held.as_mut_slice() {
            only.replica.context = context.ok().and_then(|value| small(&value["value"]));
            only.replica.busy = small(&perf["idle"]).map(|idle| u32::from(idle == 0));
            only.replica.slots = Some(1);
        }
        Ok(seen)
    }

    async fn look_at_local_ai(&self) -> Result<Observation, AskError> {
        let (models, system, version) = futures_util::join!(
            self.ask.json::<List>("/v1/models"),
            self.ask.json::<Value>("/system"),
            self.ask.json::<Value>("/version"),
        );
        let version =
            version.unwrap_or_default()["version"].as_str().map(|text| text.chars().take(64).collect());
        let system = system.unwrap_or_default();
        let loaded = |id: &str| {
            let list = system["loaded_models"].as_array();
            list.is_some_and(|list| list.iter().any(|model| model["id"] == id || model == id))
        };
        let state = |id: &str| if loaded(id) { ReplicaState::Loaded } else { ReplicaState::Available };
        let models = models?.data;
        let held = models.iter().take(MODEL_LIMIT).filter_map(|model| model.held(state(&model.id))).collect();
        Ok(Observation { version, state: EngineState::Up, queued: None, held })
    }
}

impl Engine for Generic {
    fn observe(&mut self) -> BoxFuture<'_, Observation> {
        Box::pin(async { self.look().await.unwrap_or_else(|error| Observation::down(error.to_string())) })
    }

    fn capabilities(&self) -> Capabilities {
        let plain = Capabilities { abort_safe: true, ..Capabilities::default() };
        match self.dialect {
            Dialect::Sglang => Capabilities {
                has_slots: true,
                has_queue: self.counts,
                has_context: true,
                has_kv_usage: self.counts,
                ..plain
            },
            Dialect::TabbyApi => {
                Capabilities { can_load: true, can_unload: true, has_context: true, can_size: true, ..plain }
            }
            Dialect::KoboldCpp => {
                Capabilities { has_slots: true, has_queue: true, has_context: true, ..plain }
            }
            Dialect::LocalAi => Capabilities { can_load: true, can_unload: true, ..plain },
            // Of a stranger it is not known whether it stops when nobody listens any more.
            Dialect::Plain => Capabilities::default(),
        }
    }

    fn load(&self, request: &LoadRequest) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        let ask = self.ask.clone();
        match self.dialect {
            Dialect::TabbyApi => {
                let body = tabby_load(request);
                // An answer in events, which ends when the model is loaded, or with an error of status 200.
                Some(Box::pin(async move {
                    const PATH: &str = "/v1/model/load";
                    let events = ask.post_text(PATH, &body, LOAD_WITHIN).await?;
                    error_among(&events).map_or(Ok(()), |why| Err(ask.unexpected(PATH, why)))
                }))
            }
            Dialect::LocalAi => {
                let body = json!({ "model": request.upstream });
                Some(Box::pin(async move { ask.post_unread("/backend/load", &body, LOAD_WITHIN).await }))
            }
            Dialect::Sglang | Dialect::KoboldCpp | Dialect::Plain => None,
        }
    }

    fn unload(&self, upstream: &str) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        let (path, body) = match self.dialect {
            Dialect::TabbyApi => ("/v1/model/unload", json!({})),
            Dialect::LocalAi => ("/backend/shutdown", json!({ "model": upstream })),
            Dialect::Sglang | Dialect::KoboldCpp | Dialect::Plain => return None,
        };
        let ask = self.ask.clone();
        Some(Box::pin(async move { ask.post_unread(path, &body, LOAD_WITHIN).await }))
    }

    fn base_url(&self) -> &str {
        self.ask.base()
    }

    fn api_key(&self) -> Option<&str> {
        self.ask.key()
    }
}

/// What TabbyAPI is told to load; the model's name under both keys that it has had.
fn tabby_load(request: &LoadRequest) -> Value {
    let mut body = json!({ "model_name": request.upstream, "name": request.upstream });
    if let Some(context) = request.context {
        body["max_seq_len"] = json!(context);
        // One cache that all requests share.
        body["cache_size"] = json!(u64::from(context) * u64::from(request.slots.unwrap_or(1).max(1)));
    }
    // The nearest that is not smaller.
    if let Some(cache) = request.cache {
        body["cache_mode"] = json!(match cache {
            CacheType::F32 | CacheType::F16 | CacheType::Bf16 => "FP16",
            CacheType::Q8_0 => "Q8",
            CacheType::Q5_1 | CacheType::Q5_0 => "Q6",
            CacheType::Q4_1 | CacheType::Q4_0 | CacheType::Iq4Nl => "Q4",
        });
    }
    body
}

/// The first error among server-sent events; `None` when there is none.
fn error_among(events: &str) -> Option<String> {
    events.lines().filter_map(|line| line.strip_prefix("data:")).find_map(|data| {
        let event: Value = serde_json::from_str(data.trim()).ok()?;
        let error = event.get("error")?;
        let text = error["message"].as_str().or_else(|| error.as_str()).unwrap_or("it failed");
        Some(text.chars().filter(|c| !c.is_control()).take(200).collect())
    })
}

#[derive(Debug, Deserialize)]
struct List {
    data: Vec<Model>,
}

#[derive(Debug, Deserialize)]
struct Model {
    id: String,
    max_model_len: Option<u32>,
    #[serde(default)]
    parameters: Option<Parameters>,
}

#[derive(Debug, Deserialize)]
struct Parameters {
    max_seq_len: Option<u32>,
}

impl Model {
    fn held(&self, state: ReplicaState) -> Option<Held> {
        let mut held = Held::new(&self.id, state).ok()?;
        let told = self.parameters.as_ref().and_then(|parameters| parameters.max_seq_len);
        held.replica.context = self.max_model_len.or(told).filter(|&n| n > 0);
        Some(held)
    }
}

/// What SGLang says of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServerInfo {
    version: Option<String>,
    context_length: Option<u32>,
    max_running_requests: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tabby_is_told_sizes_in_its_own_words() {
        let sized = LoadRequest {
            context: Some(4096),
            slots: Some(2),
            cache: Some(CacheType::Q8_0),
            ..LoadRequest::of("a")
        };
        let body = tabby_load(&sized);
        assert_eq!((&body["model_name"], &body["name"]), (&json!("a"), &json!("a")));
        assert_eq!((&body["max_seq_len"], &body["cache_size"]), (&json!(4096), &json!(8192)));
        assert_eq!(body["cache_mode"], "Q8");
        assert_eq!(tabby_load(&LoadRequest::of("a")).get("cache_size"), None, "its own business then");
    }

    #[test]
    fn an_error_among_the_events_is_found_although_the_status_is_200() {
        let good = "data: {\"model_type\":\"model\",\"module\":1,\"modules\":2,\"status\":\"processing\"}\r\n\r\n\
                    data: {\"model_type\":\"model\",\"module\":2,\"modules\":2,\"status\":\"finished\"}\r\n";
        assert_eq!(error_among(good), None);
        let bad = "data: {\"error\":{\"message\":\"Insufficient VRAM\",\"trace\":\"…\"}}\n";
        assert_eq!(error_among(bad).as_deref(), Some("Insufficient VRAM"));
        assert_eq!(error_among("data: {\"error\":\"no\"}").as_deref(), Some("no"));
        assert_eq!(error_among("<html>"), None);
    }
}
