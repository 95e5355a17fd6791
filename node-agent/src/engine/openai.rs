//! Engines that speak OpenAI's dialect and each tell of themselves in their own: LM Studio, vLLM, Lemonade.
//!
//! Lemonade: `/api/v1/health` lists what is loaded, `/api/v1/models` what is there. LM Studio:
//! `/api/v1/models`, before 0.4 `/api/v0/models`. vLLM: `/v1/models`, `/version` and `/metrics`, one model.

use super::{Ask, AskError, Engine, Held, LoadRequest, Observation};
use futures_util::future::BoxFuture;
use mesh_core::machine::{Abilities, Capabilities, EngineState, ReplicaState};
use mesh_core::units::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a load may take: a hundred gigabytes from a slow disk.
const LOAD_WITHIN: Duration = Duration::from_secs(15 * 60);
/// The most models reported.
const MODEL_LIMIT: usize = 1000;

/// Adapter for one engine of these kinds.
pub struct OpenAi {
    dialect: Dialect,
    ask: Ask,
    /// LM Studio unloads an instance, not a model: instances by model, as last seen.
    instances: BTreeMap<String, Vec<String>>,
    /// An LM Studio before 0.4, which loads and unloads nothing by request.
    is_old: bool,
    /// Whether vLLM's metrics could be read when it was last seen.
    counts: bool,
}

/// How these engines tell of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Lemonade.
    Lemonade,
    /// LM Studio.
    LmStudio,
    /// vLLM.
    Vllm,
}

impl OpenAi {
    /// The engine of `dialect` that `ask` reaches.
    #[must_use]
    pub fn new(dialect: Dialect, ask: Ask) -> Self {
        Self { dialect, ask, instances: BTreeMap::new(), is_old: false, counts: true }
    }

    async fn look(&mut self) -> Result<Observation, AskError> {
        match self.dialect {
            Dialect::Lemonade => self.look_at_lemonade().await,
            Dialect::LmStudio => self.look_at_lm_studio().await,
            Dialect::Vllm => self.look_at_vllm().await,
        }
    }

    async fn look_at_lemonade(&self) -> Result<Observation, AskError> {
        let (health, models) = futures_util::join!(
            self.ask.json::<LemonadeHealth>("/v1/health"),
            self.ask.json::<List<LemonadeModel>>("/v1/models"),
        );
        let (health, models) = (health?, models?);
        let held = models.data.iter().take(MODEL_LIMIT).filter_map(|m| m.held(&health)).collect();
        Ok(Observation { version: health.version, state: EngineState::Up, queued: None, held })
    }

    async fn look_at_lm_studio(&mut self) -> Result<Observation, AskError> {
        let new = self.ask.json::<LmStudioModels>("/api/v1/models").await;
        self.is_old = new.is_err();
        let models = match new {
            Ok(list) => list.models,
            Err(error) if matches!(error, AskError::Silent { .. } | AskError::Refused { .. }) => {
                return Err(error);
            }
            Err(_) => {
                let old = self.ask.json::<List<OldLmStudioModel>>("/api/v0/models").await?;
                old.data.into_iter().map(LmStudioModel::from).collect()
            }
        };
        let models = &models[..models.len().min(MODEL_LIMIT)];
        self.instances = models
            .iter()
            .map(|m| (m.key.clone(), m.loaded_instances.iter().map(|i| i.id.clone()).collect()))
            .collect();
        let held = models.iter().filter_map(LmStudioModel::held).collect();
        Ok(Observation { version: None, state: EngineState::Up, queued: None, held })
    }

    async fn look_at_vllm(&mut self) -> Result<Observation, AskError> {
        let (models, version, metrics) = futures_util::join!(
            self.ask.json::<List<VllmModel>>("/v1/models"),
            self.ask.json::<Version>("/version"),
            self.ask.text("/metrics"),
        );
        let models = models?.data;
        let metrics = metrics.unwrap_or_default();
        let busy = gauges(&metrics, "vllm:num_requests_running");
        let queued = gauges(&metrics, "vllm:num_requests_waiting");
        // The count is of the whole server, so it belongs to a model only where there is one.
        let busy = busy.filter(|_| models.len() == 1);
        let mut held: Vec<Held> = models.iter().take(MODEL_LIMIT).filter_map(|m| m.held(busy)).collect();
        if let [only] = held.as_mut_slice() {
            only.kv_used = part(&metrics, &["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"]);
        }
        self.counts = queued.is_some();
        Ok(Observation { version: version.ok().map(|v| v.version), state: EngineState::Up, queued, held })
    }
}

impl Engine for OpenAi {
    fn observe(&mut self) -> BoxFuture<'_, Observation> {
        Box::pin(async { self.look().await.unwrap_or_else(|error| Observation::down(error.to_string())) })
    }

    fn capabilities(&self) -> Capabilities {
        let abort_safe = true;
        match self.dialect {
            Dialect::Lemonade | Dialect::LmStudio => Capabilities {
                can_load: !self.is_old,
                can_unload: !self.is_old,
                has_context: true,
                abort_safe,
                can_size: !self.is_old,
                ..Capabilities::default()
            },
            Dialect::Vllm => Capabilities {
                has_queue: self.counts,
                has_context: true,
                has_kv_usage: self.counts,
                abort_safe,
                ..Capabilities::default()
            },
        }
    }

    fn load(&self, request: &LoadRequest) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        let (path, body) = match self.dialect {
            Dialect::Lemonade => {
                let mut body = json!({ "model_name": request.upstream });
                if let Some(context) = request.context {
                    body["ctx_size"] = json!(context);
                }
                ("/v1/load", body)
            }
            Dialect::LmStudio if self.is_old => return None,
            Dialect::LmStudio => {
                let mut body = json!({ "model": request.upstream });
                if let Some(context) = request.context {
                    body["context_length"] = json!(context);
                }
                ("/api/v1/models/load", body)
            }
            Dialect::Vllm => return None,
        };
        Some(post_all(self.ask.clone(), path, vec![body]))
    }

    fn unload(&self, upstream: &str) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        match self.dialect {
            Dialect::Lemonade => {
                Some(post_all(self.ask.clone(), "/v1/unload", vec![json!({ "model_name": upstream })]))
            }
            Dialect::LmStudio if self.is_old => None,
            Dialect::LmStudio => {
                let instances = self.instances.get(upstream).into_iter().flatten();
                let bodies = instances.map(|id| json!({ "instance_id": id })).collect();
                Some(post_all(self.ask.clone(), "/api/v1/models/unload", bodies))
            }
            Dialect::Vllm => None,
        }
    }

    fn base_url(&self) -> &str {
        self.ask.base()
    }

    fn api_key(&self) -> Option<&str> {
        self.ask.key()
    }
}

fn post_all(ask: Ask, path: &'static str, bodies: Vec<Value>) -> BoxFuture<'static, Result<(), AskError>> {
    Box::pin(async move {
        for body in bodies {
            ask.post::<Value>(path, &body, LOAD_WITHIN).await?;
        }
        Ok(())
    })
}

#[derive(Debug, Deserialize)]
struct List<T> {
    data: Vec<T>,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: String,
}

#[derive(Debug, Deserialize)]
struct LemonadeHealth {
    version: Option<String>,
    all_models_loaded: Vec<LemonadeLoaded>,
}

#[derive(Debug, Deserialize)]
struct LemonadeLoaded {
    model_name: String,
    is_busy: Option<bool>,
    #[serde(default)]
    recipe_options: RecipeOptions,
}

#[derive(Debug, Default, Deserialize)]
struct RecipeOptions {
    ctx_size: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct LemonadeModel {
    id: String,
    #[serde(default)]
    labels: Vec<String>,
    /// Gigabytes.
    size: Option<f64>,
    downloaded: Option<bool>,
}

impl LemonadeModel {
    fn held(&self, health: &LemonadeHealth) -> Option<Held> {
        let loaded = health.all_models_loaded.iter().find(|l| l.model_name == self.id);
        // A model that would first have to be downloaded is not on this machine.
        if loaded.is_none() && self.downloaded == Some(false) {
            return None;
        }
        let state = if loaded.is_some() { ReplicaState::Loaded } else { ReplicaState::Available };
        let mut held = Held::new(&self.id, state).ok()?;
        held.replica.context = loaded.and_then(|l| l.recipe_options.ctx_size).filter(|&n| n > 0);
        held.replica.busy = loaded.and_then(|l| l.is_busy).map(u32::from);
        held.replica.size = self.size.filter(|gb| (0.0..1e5).contains(gb)).map(|gb| Bytes((gb * 1e9) as u64));
        let has = |label: &str| self.labels.iter().any(|l| l == label);
        let embed = has("embeddings");
        held.replica.abilities = Abilities {
            chat: Some(!embed && !has("reranking") && !has("image") && !has("audio")),
            embed: Some(embed),
            tools: has("tool-calling").then_some(true),
            vision: Some(has("vision")),
            fim: None,
        };
        Some(held)
    }
}

#[derive(Debug, Deserialize)]
struct LmStudioModels {
    models: Vec<LmStudioModel>,
}

#[derive(Debug, Deserialize)]
struct LmStudioModel {
    key: String,
    #[serde(rename = "type")]
    kind: String,
    size_bytes: Option<u64>,
    params_string: Option<String>,
    max_context_length: Option<u32>,
    #[serde(default)]
    loaded_instances: Vec<LmStudioInstance>,
    #[serde(default)]
    capabilities: Option<LmStudioCapabilities>,
}

#[derive(Debug, Deserialize)]
struct LmStudioInstance {
    id: String,
    #[serde(default)]
    config: LmStudioConfig,
}

#[derive(Debug, Default, Deserialize)]
struct LmStudioConfig {
    context_length: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
struct LmStudioCapabilities {
    vision: Option<bool>,
    trained_for_tool_use: Option<bool>,
}

impl LmStudioModel {
    fn held(&self) -> Option<Held> {
        let instance = self.loaded_instances.first();
        let state = if instance.is_some() { ReplicaState::Loaded } else { ReplicaState::Available };
        let mut held = Held::new(&self.key, state).ok()?;
        let embed = self.kind.starts_with("embedding");
        held.replica.context = instance.and_then(|i| i.config.context_length).filter(|&n| n > 0);
        held.replica.trained_context = self.max_context_length;
        held.replica.parameters = self.params_string.as_deref().and_then(parameters);
        held.replica.size = self.size_bytes.map(Bytes);
        let told = self.capabilities.as_ref();
        held.replica.abilities = Abilities {
            chat: Some(!embed),
            embed: Some(embed),
            tools: told.and_then(|c| c.trained_for_tool_use),
            vision: told.and_then(|c| c.vision).or((self.kind == "vlm").then_some(true)),
            fim: None,
        };
        Some(held)
    }
}

/// An entry of LM Studio's list before 0.4.
#[derive(Debug, Deserialize)]
struct OldLmStudioModel {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    state: String,
    max_context_length: Option<u32>,
    loaded_context_length: Option<u32>,
}

impl From<OldLmStudioModel> for LmStudioModel {
    fn from(old: OldLmStudioModel) -> Self {
        let config = LmStudioConfig { context_length: old.loaded_context_length };
        let loaded = (old.state == "loaded").then(|| LmStudioInstance { id: old.id.clone(), config });
        Self {
            key: old.id,
            kind: old.kind,
            size_bytes: None,
            params_string: None,
            max_context_length: old.max_context_length,
            loaded_instances: loaded.into_iter().collect(),
            capabilities: None,
        }
    }
}

#[derive(Debug, Deserialize)]
struct VllmModel {
    id: String,
    max_model_len: Option<u32>,
}

impl VllmModel {
    fn held(&self, busy: Option<u32>) -> Option<Held> {
        let mut held = Held::new(&self.id, ReplicaState::Loaded).ok()?;
        held.replica.context = self.max_model_len;
        held.replica.busy = busy;
        Some(held)
    }
}

/// The sum of a gauge over all its labels in a Prometheus text.
pub(super) fn gauges(metrics: &str, name: &str) -> Option<u32> {
    let values: Vec<f64> = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .filter(|value| (0.0..1e6).contains(value))
        .collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() as u32)
}

/// The first of these gauges, a part between 0 and 1; the newest name first.
pub(super) fn part(metrics: &str, names: &[&str]) -> Option<f32> {
    let line = names.iter().find_map(|name| {
        metrics.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
    })?;
    line.rsplit(' ').next()?.parse().ok().filter(|value| (0.0..=1.0).contains(value))
}

/// `7B`, `1.5B`, `270M` as a number of parameters; `8x7B` and other texts are unknown.
fn parameters(text: &str) -> Option<u64> {
    let (number, factor) = match text.trim().split_at_checked(text.trim().len().checked_sub(1)?)? {
        (number, "B" | "b") => (number, 1e9),
        (number, "M" | "m") => (number, 1e6),
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    (0.0..1e6).contains(&number).then_some((number * factor) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("as documented")
    }

    #[test]
    fn lemonade_tells_loaded_from_downloaded_from_offered() {
        let health: LemonadeHealth = read(json!({
            "status": "ok", "version": "10.0.0", "max_models": {"llm": 1},
            "all_models_loaded": [{"model_name": "Qwen3-8B-GGUF", "type": "llm", "is_busy": true,
                                   "recipe_options": {"ctx_size": 32768}}],
        }));
        let list: List<LemonadeModel> = read(json!({"object": "list", "data": [
            {"id": "Qwen3-8B-GGUF", "labels": ["tool-calling"], "size": 5.25, "downloaded": true},
            {"id": "nomic-embed", "labels": ["embeddings"], "downloaded": true},
            {"id": "not-here", "labels": [], "downloaded": false},
        ]}));
        let held: Vec<Held> = list.data.iter().filter_map(|m| m.held(&health)).collect();
        assert_eq!(held.len(), 2);
        assert_eq!((&held[0].replica.state, held[0].replica.context), (&ReplicaState::Loaded, Some(32768)));
        assert_eq!((held[0].replica.busy, held[0].replica.size), (Some(1), Some(Bytes(5_250_000_000))));
        assert_eq!(held[1].replica.state, ReplicaState::Available);
        assert_eq!(held[1].replica.abilities.embed, Some(true));
    }

    #[test]
    fn both_generations_of_lm_studio_are_read() {
        let new: LmStudioModels = read(json!({"models": [
            {"type": "llm", "key": "openai/gpt-oss-20b", "size_bytes": 12_000_000_000_u64, "params_string": "20B",
             "max_context_length": 131_072, "capabilities": {"vision": false, "trained_for_tool_use": true},
             "loaded_instances": [{"id": "openai/gpt-oss-20b", "config": {"context_length": 8192}}]},
        ]}));
        let replica = new.models[0].held().expect("a good name").replica;
        assert_eq!((replica.state, replica.context), (ReplicaState::Loaded, Some(8192)));
        assert_eq!((replica.parameters, replica.abilities.tools), (Some(20_000_000_000), Some(true)));

        let old: OldLmStudioModel = read(
            json!({"id": "qwen2-vl", "type": "vlm", "state": "not-loaded", "max_context_length": 32768}),
        );
        let replica = LmStudioModel::from(old).held().expect("a good name").replica;
        assert_eq!((replica.state, replica.abilities.vision), (ReplicaState::Available, Some(true)));
    }

    #[test]
    fn vllm_gauges_are_summed_and_sizes_are_read() {
        let metrics = "# HELP x\nvllm:num_requests_running{model_name=\"a b\"} 3.0\n";
        assert_eq!(gauges(metrics, "vllm:num_requests_running"), Some(3));
        assert_eq!(gauges("nothing", "vllm:num_requests_running"), None);
        let names = ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"];
        assert_eq!(part("vllm:gpu_cache_usage_perc{model_name=\"a\"} 0.25\n", &names), Some(0.25));
        for garbage in ["", "vllm:kv_cache_usage_perc 25", "vllm:kv_cache_usage_perc NaN"] {
            assert_eq!(part(garbage, &names), None, "{garbage}");
        }
        for (text, number) in [
            ("7B", Some(7_000_000_000)),
            ("1.5B", Some(1_500_000_000)),
            ("8x7B", None),
            ("", None),
            ("é", None),
        ] {
            assert_eq!(parameters(text), number, "{text}");
        }
    }
}
