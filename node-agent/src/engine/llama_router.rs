//! llama.cpp's server in router mode: many models behind one address, each in a child process of the server.
//!
//! Asked each 1.3 s: `/models` and `/props`, which wake nothing; `/props` and `/metrics` of a model only while it
//! is loaded, with `autoload=false`, because a question about any other model would load it. A load ends when
//! `/models` says `loaded`: the call itself only begins it.

use super::{Ask, AskError, Engine, Held, LoadRequest, Observation};
use futures_util::future::{BoxFuture, join_all};
use mesh_core::machine::{Capabilities, EngineState, ReplicaState};
use mesh_core::units::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a load may take: a hundred gigabytes from a slow disk.
const LOAD_WITHIN: Duration = Duration::from_secs(15 * 60);
/// Between two looks whether a load has ended.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// The most models reported.
const MODEL_LIMIT: usize = 1000;
/// The most models that are asked for their slots: llama-server keeps four loaded unless told otherwise.
const LOADED_LIMIT: usize = 16;

/// Adapter for one server in router mode.
pub struct LlamaRouter {
    ask: Ask,
    said_autoload: bool,
}

impl LlamaRouter {
    /// The server that `ask` reaches.
    #[must_use]
    pub fn new(ask: Ask) -> Self {
        Self { ask, said_autoload: false }
    }

    async fn look(&mut self) -> Result<Observation, AskError> {
        let (props, models) =
            futures_util::join!(self.ask.json::<Props>("/props"), self.ask.json::<Models>("/models"));
        let (props, mut models) = (props?, models?.data);
        if props.role.as_deref() != Some("router") {
            return Err(self.ask.unexpected("/props", "no router; configure it as kind \"llama-server\""));
        }
        if props.models_autoload == Some(true) && !self.said_autoload {
            self.said_autoload = true;
            tracing::warn!(
                engine = self.ask.base(),
                "this llama-server loads models behind the agent's back; start it with --no-models-autoload"
            );
        }
        models.truncate(MODEL_LIMIT);
        let loaded: Vec<&str> = models
            .iter()
            .filter(|m| m.state() == Ok("loaded"))
            .map(|m| m.id.as_str())
            .take(LOADED_LIMIT)
            .collect();
        let details = join_all(loaded.iter().map(|id| self.details(id))).await;
        let mut held = Vec::new();
        for model in &models {
            let about = loaded.iter().position(|id| *id == model.id).map(|at| &details[at]);
            held.extend(model.held(about).map_err(|why| self.ask.unexpected("/models", why))?);
        }
        let queued = details.iter().filter_map(|model| model.queued).reduce(u32::saturating_add);
        Ok(Observation { version: props.version(), state: EngineState::Up, queued, held })
    }

    /// Slots and counts of a loaded model; what it does not say is unknown.
    async fn details(&self, id: &str) -> Details {
        let query = format!("?model={}&autoload=false", encoded(id));
        let (props, metrics) = (format!("/props{query}"), format!("/metrics{query}"));
        let (props, metrics) =
            futures_util::join!(self.ask.json::<ModelProps>(&props), self.ask.text(&metrics));
        let (props, metrics) = (props.unwrap_or_default(), metrics.unwrap_or_default());
        Details {
            slots: props.total_slots,
            context: props.default_generation_settings.n_ctx.filter(|&n| n > 0),
            busy: super::llama_server::gauge(&metrics, "llamacpp:requests_processing "),
            queued: super::llama_server::gauge(&metrics, "llamacpp:requests_deferred "),
        }
    }
}

impl Engine for LlamaRouter {
    fn observe(&mut self) -> BoxFuture<'_, Observation> {
        Box::pin(async { self.look().await.unwrap_or_else(|error| Observation::down(error.to_string())) })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            can_load: true,
            can_unload: true,
            has_slots: true,
            has_queue: true,
            has_context: true,
            has_timings: true,
            abort_safe: true,
            ..Capabilities::default()
        }
    }

    fn load(&self, request: &LoadRequest) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        let (ask, model) = (self.ask.clone(), request.upstream.clone());
        Some(Box::pin(async move {
            let begun = ask.post::<Value>("/models/load", &json!({ "model": model }), LOAD_WITHIN).await;
            // Who is loading or loaded already answers 400 `model is already running`.
            match begun {
                Err(error) if error.status() != Some(400) => return Err(error),
                Ok(_) | Err(_) => {}
            }
            let waited = tokio::time::timeout(LOAD_WITHIN, until_loaded(&ask, &model)).await;
            waited.unwrap_or_else(|_| Err(ask.unexpected("/models", "the load did not end within 15 min")))
        }))
    }

    fn unload(&self, upstream: &str) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        let (ask, body) = (self.ask.clone(), json!({ "model": upstream }));
        Some(Box::pin(async move { ask.post::<Value>("/models/unload", &body, LOAD_WITHIN).await.map(drop) }))
    }

    fn base_url(&self) -> &str {
        self.ask.base()
    }

    fn api_key(&self) -> Option<&str> {
        self.ask.key()
    }
}

async fn until_loaded(ask: &Ask, model: &str) -> Result<(), AskError> {
    let mut began = false;
    loop {
        let models = ask.json::<Models>("/models").await?.data;
        let Some(entry) = models.iter().find(|entry| entry.id == model) else {
            return Err(ask.unexpected("/models", format!("`{model}` is gone")));
        };
        match entry.state() {
            Ok("loaded") => return Ok(()),
            Ok("unloaded") if began || entry.status.as_ref().is_some_and(|s| s.failed) => {
                return Err(ask.unexpected("/models", entry.failure()));
            }
            Ok(state) => began |= state == "loading",
            Err(why) => return Err(ask.unexpected("/models", why)),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A model's name in a query: everything but letters, digits, `-`, `_`, `.` and `~` as `%XX`.
fn encoded(name: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    name.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[derive(Debug, Deserialize)]
struct Props {
    role: Option<String>,
    models_autoload: Option<bool>,
    #[serde(default)]
    build_info: String,
}

impl Props {
    fn version(&self) -> Option<String> {
        let told = !self.build_info.is_empty() && self.build_info != "b0-unknown";
        told.then(|| self.build_info.chars().take(64).collect())
    }
}

#[derive(Debug, Default, Deserialize)]
struct ModelProps {
    total_slots: Option<u32>,
    #[serde(default)]
    default_generation_settings: GenerationSettings,
}

#[derive(Debug, Default, Deserialize)]
struct GenerationSettings {
    n_ctx: Option<u32>,
}

#[derive(Debug, Default)]
struct Details {
    slots: Option<u32>,
    context: Option<u32>,
    busy: Option<u32>,
    queued: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Models {
    data: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    id: String,
    status: Option<Status>,
    #[serde(default)]
    meta: Meta,
}

#[derive(Debug, Deserialize)]
struct Status {
    value: String,
    #[serde(default)]
    failed: bool,
    exit_code: Option<i32>,
}

#[derive(Debug, Default, Deserialize)]
struct Meta {
    n_ctx: Option<u32>,
    n_ctx_train: Option<u32>,
    n_params: Option<u64>,
    size: Option<u64>,
}

impl Entry {
    /// The engine's word for where the model is.
    fn state(&self) -> Result<&str, &'static str> {
        let status = self.status.as_ref();
        status
            .map(|s| s.value.as_str())
            .ok_or("this build says nothing of its models' states: update llama.cpp")
    }

    fn failure(&self) -> String {
        match self.status.as_ref().and_then(|status| status.exit_code) {
            Some(code) => format!("`{}` could not be loaded: its process exited with code {code}", self.id),
            None => format!("`{}` could not be loaded", self.id),
        }
    }

    /// `None` for a name that the mesh cannot use.
    fn held(&self, details: Option<&Details>) -> Result<Option<Held>, &'static str> {
        let state = match self.state()? {
            "loaded" => ReplicaState::Loaded,
            "loading" => ReplicaState::Loading,
            // Not in memory; a request would have to wake it, and it is loaded again like any other.
            "sleeping" | "unloaded" if self.status.as_ref().is_some_and(|s| s.failed) => {
                ReplicaState::Failed(self.failure())
            }
            "sleeping" | "unloaded" => ReplicaState::Available,
            // Still being fetched: not on this machine.
            "downloading" => return Ok(None),
            _ => return Ok(None),
        };
        let Ok(mut held) = Held::new(&self.id, state) else { return Ok(None) };
        let replica = &mut held.replica;
        replica.trained_context = self.meta.n_ctx_train;
        replica.parameters = self.meta.n_params;
        replica.size = self.meta.size.map(Bytes);
        if let Some(details) = details {
            replica.slots = details.slots;
            replica.busy = details.busy;
            replica.context = details.context.or(self.meta.n_ctx);
        }
        Ok(Some(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_LOADED: &[u8] = include_bytes!("../../tests/captures/llama-router-models-one-loaded.json");
    const AFTER_BROKEN: &[u8] = include_bytes!("../../tests/captures/llama-router-models-after-broken.json");

    fn states(captured: &[u8]) -> Vec<(String, String)> {
        let models: Models = serde_json::from_slice(captured).expect("captured");
        let held = models.data.iter().filter_map(|entry| entry.held(None).expect("it has states"));
        held.map(|held| (held.upstream, format!("{:?}", held.replica.state))).collect()
    }

    #[test]
    fn each_model_has_the_state_that_the_server_says() {
        let seen = states(ONE_LOADED);
        assert_eq!(seen.iter().filter(|(_, state)| state == "Loaded").count(), 1, "{seen:?}");
        assert!(seen.contains(&("broken".into(), "Available".into())), "{seen:?}");
        let failed = "Failed(\"`broken` could not be loaded: its process exited with code 1\")".to_owned();
        assert!(states(AFTER_BROKEN).contains(&("broken".into(), failed)));
    }

    #[test]
    fn a_loaded_model_tells_what_it_is() {
        let models: Models = serde_json::from_slice(ONE_LOADED).expect("captured");
        let loaded = models.data.iter().find(|entry| entry.state() == Ok("loaded")).expect("one is");
        let details = Details { slots: Some(2), context: None, busy: Some(1), queued: Some(0) };
        let replica = loaded.held(Some(&details)).expect("a state").expect("a name").replica;
        assert_eq!((replica.slots, replica.busy, replica.context), (Some(2), Some(1), Some(1024)));
        assert!(replica.parameters.is_some() && replica.size.is_some());
    }

    #[test]
    fn a_build_without_states_is_told_so() {
        let old: Models = serde_json::from_value(json!({"data": [{"id": "a"}]})).expect("an old list");
        let why = old.data[0].held(None).expect_err("no state");
        assert!(why.contains("update llama.cpp"), "{why}");
    }

    #[test]
    fn names_are_safe_in_a_query() {
        assert_eq!(encoded("org/model:Q4_K_M&x=1"), "org%2Fmodel%3AQ4_K_M%26x%3D1");
    }
}
