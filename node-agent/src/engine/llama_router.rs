//! llama.cpp's server in router mode: many models behind one address, each in a process of its own.
//!
//! Asked each 1.1 s: `/props`, `/models`, and of each loaded model `/metrics`; a model's `/props` once for each life
//! of its process. A sleeping model is asked nothing, and every question says `autoload=false`, so that none of
//! them brings a model into memory.
//!
//! It evicts by number of models and never by bytes, and it evicts before it knows whether the new model loads. So
//! the agent loads nothing while the router is full: somebody has to unload first.

use super::llama_server::{Gauges, Props};
use super::{Ask, AskError, Engine, Held, LoadRequest, Observation};
use futures_util::future::{BoxFuture, join_all};
use mesh_core::machine::{Abilities, Capabilities, EngineState, ReplicaState};
use mesh_core::units::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a load may take: a hundred gigabytes from a slow disk.
const LOAD_WITHIN: Duration = Duration::from_secs(15 * 60);
/// The most models reported.
const MODEL_LIMIT: usize = 1000;
/// How often the router is asked whether a load is done.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long after a load was accepted the list may still tell of the life before.
const STALE_WITHIN: Duration = Duration::from_secs(2);
/// The most loaded models that are counted; each is a process with a model in memory.
const COUNTED_LIMIT: usize = 32;
/// Adapter for one router.
pub struct LlamaRouter {
    ask: Ask,
    lives: BTreeMap<String, Life>,
    warned_of_autoload: bool,
}

/// What is known of a loaded model, while its process lives.
struct Life {
    /// The arguments of its process, with its port: another life has another.
    args: Vec<String>,
    props: Option<Props>,
    gauges: Gauges,
}

impl LlamaRouter {
    /// The router that `ask` reaches.
    #[must_use]
    pub fn new(ask: Ask) -> Self {
        Self { ask, lives: BTreeMap::new(), warned_of_autoload: false }
    }

    async fn look(&mut self) -> Result<Observation, AskError> {
        let (props, list) = futures_util::join!(
            self.ask.json::<RouterProps>("/props?autoload=false"),
            self.ask.json::<List>("/models?autoload=false"),
        );
        let props = props?;
        if props.role.as_deref() != Some("router") {
            return Err(self.ask.unexpected("/props", "it serves one model; its kind is `llama-server`"));
        }
        if props.models_autoload == Some(true) && !self.warned_of_autoload {
            self.warned_of_autoload = true;
            tracing::warn!(
                url = self.ask.base(),
                "this router loads whatever a request names, and evicts for it; start it with --no-models-autoload"
            );
        }
        let mut list = list?;
        list.data.truncate(MODEL_LIMIT);
        self.learn(&list.data).await;
        if list.data.iter().any(|model| model.status.is_none()) {
            let build = version_of(&props.build_info).unwrap_or_else(|| "this build".into());
            let why = format!("{build} says nothing of its models' states: update llama.cpp");
            return Err(self.ask.unexpected("/models", why));
        }
        let held: Vec<Held> = list.data.iter().filter_map(|model| self.held(model)).collect();
        let counts = self.lives.values().filter_map(|life| life.gauges.queued());
        let queued = counts.reduce(u32::saturating_add);
        Ok(Observation { version: version_of(&props.build_info), state: EngineState::Up, queued, held })
    }

    /// Asks the loaded models, all at once, and forgets those that are not.
    async fn learn(&mut self, models: &[Model]) {
        let loaded = models.iter().filter(|model| model.state() == "loaded").take(COUNTED_LIMIT);
        let mut known = std::mem::take(&mut self.lives);
        let asked = loaded.map(|model| {
            let args = model.status.as_ref().map(|status| status.args.clone()).unwrap_or_default();
            let same = known.remove(&model.id).filter(|life| life.args == args);
            let life = same.unwrap_or_else(|| Life::new(args));
            let ask = &self.ask;
            async move { (model.id.clone(), life.asked(ask, &model.id).await) }
        });
        self.lives = join_all(asked).await.into_iter().collect();
    }

    fn held(&self, model: &Model) -> Option<Held> {
        let status = model.status.as_ref()?;
        let state = match status.value.as_str() {
            "loaded" => ReplicaState::Loaded,
            "loading" => ReplicaState::Loading,
            // Its memory is given back; it has to be loaded anew, which only the agent may decide.
            "sleeping" => ReplicaState::Available,
            "unloaded" if status.failed => ReplicaState::Failed(status.why()),
            "unloaded" => ReplicaState::Available,
            // Not on this machine yet, or a state of a later build.
            _ => return None,
        };
        let mut held = Held::new(&model.id, state).ok()?;
        let embedding = status.has_flag(&["--embedding", "--embeddings"]);
        held.replica.abilities = Abilities {
            chat: Some(!embedding),
            embed: Some(embedding),
            vision: model.reads_images(),
            ..Abilities::default()
        };
        if let Some(meta) = &model.meta {
            held.replica.trained_context = meta.n_ctx_train;
            held.replica.parameters = meta.n_params;
            held.replica.size = meta.size.map(Bytes);
        }
        if let Some(life) = self.lives.get(&model.id) {
            held.replica.busy = life.gauges.busy();
            held.replica.context = model.meta.as_ref().and_then(|meta| meta.n_ctx).filter(|&n| n > 0);
            if let Some(props) = &life.props {
                held.replica.slots = props.total_slots;
                held.replica.context = props.context().or(held.replica.context);
                held.replica.abilities.tools = props.calls_tools();
            }
        }
        Some(held)
    }
}

impl Life {
    fn new(args: Vec<String>) -> Self {
        Self { args, props: None, gauges: Gauges::default() }
    }

    async fn asked(mut self, ask: &Ask, model: &str) -> Self {
        let model = in_query(model);
        if self.props.is_none() {
            // One that cannot be had now is asked for again with the next look.
            self.props = ask.json(&format!("/props?model={model}&autoload=false")).await.ok();
        }
        self.gauges.ask(ask, &format!("/metrics?model={model}&autoload=false")).await;
        self
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
        Some(Box::pin(load(self.ask.clone(), request.upstream.clone())))
    }

    fn unload(&self, upstream: &str) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        Some(Box::pin(unload(self.ask.clone(), upstream.to_owned())))
    }

    fn base_url(&self) -> &str {
        self.ask.base()
    }

    fn api_key(&self) -> Option<&str> {
        self.ask.key()
    }
}

/// Loads and returns once the list says `loaded`: the answer to the POST comes at once.
async fn load(ask: Ask, model: String) -> Result<(), AskError> {
    const PATH: &str = "/models/load";
    let refused = |why: String| ask.unexpected(PATH, why);
    let deadline = Instant::now() + LOAD_WITHIN;
    let (status, room) = status_and_room(&ask, &model).await?;
    match status.value.as_str() {
        "loaded" => return Ok(()),
        "loading" => {}
        "downloading" => return Err(refused("it is still being downloaded".into())),
        _ => {
            if status.value == "sleeping" {
                // "already running" is all that a load of a sleeping model is told.
                unload(ask.clone(), model.clone()).await?;
            } else if let Some(full) = room {
                return Err(refused(full));
            }
            let body = json!({ "model": model });
            match ask.post::<Value>(PATH, &body, super::ask::ANSWER_WITHIN).await {
                Ok(_) => {}
                // Somebody else was faster: what becomes of it is what counts.
                Err(error)
                    if error.status() == Some(400) && error.to_string().contains("already running") => {}
                Err(error) => return Err(error),
            }
        }
    }
    let begun = Instant::now();
    let mut seen_loading = false;
    loop {
        sleep(ASK_EVERY).await;
        let status = match status_of(&ask, &model).await {
            // A disk at its limit may keep the router busy too.
            Err(AskError::Silent { .. }) if Instant::now() < deadline => continue,
            status => status?,
        };
        match status.value.as_str() {
            "loaded" => return Ok(()),
            "loading" => seen_loading = true,
            // The failure of an earlier life is listed until this one has begun.
            _ if !seen_loading && begun.elapsed() < STALE_WITHIN => {}
            _ if status.failed => return Err(refused(status.why())),
            other => return Err(refused(format!("it is {other} again: another model took its place"))),
        }
        if Instant::now() >= deadline {
            return Err(refused(format!("not loaded within {} min", LOAD_WITHIN.as_secs() / 60)));
        }
    }
}

/// Unloads and returns once its process is gone.
async fn unload(ask: Ask, model: String) -> Result<(), AskError> {
    const PATH: &str = "/models/unload";
    let deadline = Instant::now() + LOAD_WITHIN;
    ask.post::<Value>(PATH, &json!({ "model": model }), super::ask::ANSWER_WITHIN).await?;
    loop {
        if status_of(&ask, &model).await?.value == "unloaded" {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ask.unexpected(PATH, "it is still not unloaded"));
        }
        sleep(ASK_EVERY).await;
    }
}

async fn status_of(ask: &Ask, model: &str) -> Result<Status, AskError> {
    let list: List = ask.json("/models?autoload=false").await?;
    status_in(ask, list, model)
}

fn status_in(ask: &Ask, list: List, model: &str) -> Result<Status, AskError> {
    let found = list.data.into_iter().find(|entry| entry.id == model).and_then(|entry| entry.status);
    found.ok_or_else(|| ask.unexpected("/models", format!("it says nothing of {model}")))
}

/// The state of `model`, and why there is no room for another one.
async fn status_and_room(ask: &Ask, model: &str) -> Result<(Status, Option<String>), AskError> {
    let props: RouterProps = ask.json("/props?autoload=false").await?;
    let list: List = ask.json("/models?autoload=false").await?;
    let lives = |entry: &&Model| matches!(entry.state(), "loaded" | "loading" | "sleeping");
    let running: Vec<&str> = list.data.iter().filter(lives).map(|entry| entry.id.as_str()).collect();
    let full = props.max_instances.filter(|&most| most > 0 && running.len() as u64 >= most).map(|most| {
        let names: String = running.join(", ").chars().take(120).collect();
        format!("it holds {names} and at most {most} at a time (--models-max); unload one first")
    });
    Ok((status_in(ask, list, model)?, full))
}

/// A model's name as it stands in a query.
fn in_query(model: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/' | b':');
    model
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// A build without a number says `b0-unknown`, which tells nothing.
fn version_of(build_info: &str) -> Option<String> {
    let told = !build_info.is_empty() && build_info != "b0-unknown";
    told.then(|| build_info.chars().take(64).collect())
}

/// `GET /props` of the router itself.
#[derive(Debug, Deserialize)]
struct RouterProps {
    role: Option<String>,
    max_instances: Option<u64>,
    models_autoload: Option<bool>,
    #[serde(default)]
    build_info: String,
}

#[derive(Debug, Deserialize)]
struct List {
    data: Vec<Model>,
}

#[derive(Debug, Deserialize)]
struct Model {
    id: String,
    /// Absent in the first builds of router mode.
    status: Option<Status>,
    #[serde(default)]
    architecture: Architecture,
    /// Only while it is loaded.
    meta: Option<Meta>,
}

impl Model {
    fn state(&self) -> &str {
        self.status.as_ref().map_or("", |status| status.value.as_str())
    }

    fn reads_images(&self) -> Option<bool> {
        let inputs = &self.architecture.input_modalities;
        (!inputs.is_empty()).then(|| inputs.iter().any(|input| input == "image"))
    }
}

#[derive(Debug, Deserialize)]
struct Status {
    value: String,
    #[serde(default)]
    failed: bool,
    exit_code: Option<i64>,
    #[serde(default)]
    args: Vec<String>,
}

impl Status {
    fn why(&self) -> String {
        match self.exit_code {
            Some(code) => format!("its process exited with code {code}; the router's log tells why"),
            None => "its process failed; the router's log tells why".into(),
        }
    }

    fn has_flag(&self, spellings: &[&str]) -> bool {
        self.args.iter().any(|arg| spellings.contains(&arg.as_str()))
    }
}

#[derive(Debug, Default, Deserialize)]
struct Architecture {
    #[serde(default)]
    input_modalities: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Meta {
    n_ctx: Option<u32>,
    n_ctx_train: Option<u32>,
    n_params: Option<u64>,
    size: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_LOADED: &[u8] = include_bytes!("../../tests/captures/llama-router-models-one-loaded.json");
    const AFTER_BROKEN: &[u8] = include_bytes!("../../tests/captures/llama-router-models-after-broken.json");

    fn router() -> LlamaRouter {
        LlamaRouter::new(Ask::new("http://127.0.0.1:1", None).expect("a good address"))
    }

    fn states(captured: &[u8]) -> Vec<(String, String)> {
        let list: List = serde_json::from_slice(captured).expect("captured");
        let held = list.data.iter().filter_map(|model| router().held(model));
        held.map(|held| (held.upstream, format!("{:?}", held.replica.state))).collect()
    }

    #[test]
    fn each_model_has_the_state_that_the_server_says() {
        let seen = states(ONE_LOADED);
        assert_eq!(seen.iter().filter(|(_, state)| state == "Loaded").count(), 1, "{seen:?}");
        assert!(seen.contains(&("broken".into(), "Available".into())), "{seen:?}");
        let failed = "Failed(\"its process exited with code 1; the router's log tells why\")".to_owned();
        assert!(states(AFTER_BROKEN).contains(&("broken".into(), failed)));
    }

    #[test]
    fn sleeping_is_not_loaded_downloading_is_not_here_and_what_is_new_is_left_out() {
        let list: List = serde_json::from_value(json!({"data": [
            {"id": "sleepy", "status": {"value": "sleeping", "args": ["--embeddings"]}},
            {"id": "coming", "status": {"value": "downloading", "progress": {"url": {"done": 1, "total": 2}}}},
            {"id": "later", "status": {"value": "hibernating"}},
        ]}))
        .expect("as documented");
        let held: Vec<Held> = list.data.iter().filter_map(|model| router().held(model)).collect();
        assert_eq!(held.len(), 1);
        let replica = &held[0].replica;
        assert_eq!((&replica.state, replica.abilities.embed), (&ReplicaState::Available, Some(true)));
    }

    #[test]
    fn a_name_cannot_leave_the_query() {
        assert_eq!(in_query("org/model:Q4_K_M"), "org/model:Q4_K_M");
        assert_eq!(in_query("a&autoload=true#é"), "a%26autoload%3Dtrue%23%C3%A9");
    }
}
