//! llama.cpp's own server with one model, whoever started it.
//!
//! Asked each 1.1 s: `/health`, `/props`, and `/metrics` where it is on; `/v1/models` when the model changed.
//! Never `/slots`: that keeps a server with an idle timer from sleeping. It has no call to load or unload.

use super::{Ask, AskError, Engine, Held, Observation};
use futures_util::future::BoxFuture;
use mesh_core::machine::{Abilities, Capabilities, EngineState, ReplicaState};
use mesh_core::units::Bytes;
use serde::Deserialize;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// `/metrics` waits for the batch being computed, on a slow machine for seconds; `/health` and `/props` do not.
const COUNT_WITHIN: Duration = Duration::from_millis(500);
/// How long it is not asked again when it was late.
const COUNT_PAUSE: Duration = Duration::from_secs(5);

/// Adapter for one llama-server.
pub struct LlamaServer {
    ask: Ask,
    /// Known for a child from its configuration; an endpoint does not tell.
    embedding: Option<bool>,
    gauges: Gauges,
    /// Whether it was started with `--metrics`, once it has said so.
    counts_requests: Option<bool>,
    /// What `/v1/models` said, with the model it was about.
    model: Option<(String, ModelEntry)>,
}

impl LlamaServer {
    /// A server that `ask` reaches. `embedding` says whether it was started to make embeddings.
    #[must_use]
    pub fn new(ask: Ask, embedding: Option<bool>) -> Self {
        Self { ask, embedding, gauges: Gauges::default(), counts_requests: None, model: None }
    }

    async fn look(&mut self) -> Result<Observation, AskError> {
        let props: Props = match self.ask.json("/props").await {
            Err(error) if error.status() == Some(503) => {
                // While the model loads every path answers so.
                self.model = None;
                return Ok(Observation::starting());
            }
            other => other?,
        };
        let Some(slots) = props.total_slots else {
            return Err(self
                .ask
                .unexpected("/props", "no `total_slots`; in router mode its kind is `llama-router`"));
        };
        self.counts_requests = props.endpoint_metrics;
        let health = self.ask.any("/health");
        let health = if props.endpoint_metrics == Some(false) {
            self.gauges = Gauges::default();
            health.await
        } else {
            futures_util::join!(health, self.gauges.ask(&self.ask, "/metrics")).0
        };
        if !health?.status.is_success() {
            return Ok(Observation::starting());
        }
        let entry = self.entry(&props).await?;
        let upstream = props.name().unwrap_or(&entry.id).to_owned();
        let mut held = Held::new(&upstream, ReplicaState::Loaded)
            .map_err(|e| self.ask.unexpected("/props", e.to_string()))?;
        held.replica.slots = Some(slots);
        held.replica.busy = self.gauges.busy();
        held.replica.context = props.context();
        held.replica.trained_context = entry.meta.n_ctx_train;
        held.replica.parameters = entry.meta.n_params;
        held.replica.size = entry.meta.size.map(Bytes);
        held.replica.abilities = Abilities {
            // A server that runs already does not say whether it was started for embeddings.
            chat: self.embedding.map(|embedding| !embedding),
            embed: self.embedding,
            tools: props.calls_tools(),
            vision: props.modalities.vision,
            fim: None,
        };
        Ok(Observation {
            version: props.version(),
            state: EngineState::Up,
            queued: self.gauges.queued(),
            held: vec![held],
        })
    }

    /// `/v1/models`, asked again only when the server serves another model than before.
    async fn entry(&mut self, props: &Props) -> Result<ModelEntry, AskError> {
        let about = format!("{}\n{}", props.model_alias, props.model_path);
        if let Some((known, entry)) = &self.model
            && *known == about
        {
            return Ok(entry.clone());
        }
        let list: ModelList = self.ask.json("/v1/models").await?;
        let entry =
            list.data.into_iter().next().ok_or_else(|| self.ask.unexpected("/v1/models", "an empty list"))?;
        self.model = Some((about, entry.clone()));
        Ok(entry)
    }
}

impl Engine for LlamaServer {
    fn observe(&mut self) -> BoxFuture<'_, Observation> {
        Box::pin(async {
            match self.look().await {
                Ok(seen) => seen,
                Err(error) => {
                    self.model = None;
                    Observation::down(explained(&error))
                }
            }
        })
    }

    fn capabilities(&self) -> Capabilities {
        // `/metrics` counts them, where it is on.
        let has_queue = self.counts_requests != Some(false);
        Capabilities {
            has_slots: true,
            has_queue,
            has_context: true,
            has_timings: true,
            abort_safe: true,
            ..Capabilities::default()
        }
    }

    fn base_url(&self) -> &str {
        self.ask.base()
    }

    fn api_key(&self) -> Option<&str> {
        self.ask.key()
    }
}

fn explained(error: &AskError) -> String {
    match error.status() {
        Some(401 | 403) => format!("{error}; give its key as `api_key` in the agent's configuration"),
        Some(501) => format!("{error}; it must not be started with --no-props"),
        _ => error.to_string(),
    }
}

/// `GET /props` as far as it is used.
#[derive(Debug, Deserialize)]
pub(super) struct Props {
    /// Absent in router mode.
    pub(super) total_slots: Option<u32>,
    #[serde(default)]
    default_generation_settings: GenerationSettings,
    #[serde(default)]
    model_alias: String,
    #[serde(default)]
    model_path: String,
    #[serde(default)]
    modalities: Modalities,
    #[serde(default)]
    chat_template_caps: TemplateCaps,
    endpoint_metrics: Option<bool>,
    build_info: String,
}

#[derive(Debug, Default, Deserialize)]
struct GenerationSettings {
    /// Tokens per slot.
    n_ctx: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
struct Modalities {
    vision: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
struct TemplateCaps {
    supports_tools: Option<bool>,
}

impl Props {
    fn name(&self) -> Option<&str> {
        (!self.model_alias.is_empty()).then_some(self.model_alias.as_str())
    }

    /// Tokens one request may hold.
    pub(super) fn context(&self) -> Option<u32> {
        self.default_generation_settings.n_ctx.filter(|&n| n > 0)
    }

    /// Whether its chat template knows tools.
    pub(super) fn calls_tools(&self) -> Option<bool> {
        self.chat_template_caps.supports_tools
    }

    /// A build without a number says `b0-unknown`, which tells nothing.
    fn version(&self) -> Option<String> {
        (self.build_info != "b0-unknown").then(|| self.build_info.chars().take(64).collect())
    }
}

#[derive(Debug, Deserialize)]
struct ModelList {
    data: Vec<ModelEntry>,
}

#[derive(Debug, Clone, Deserialize)]
struct ModelEntry {
    id: String,
    #[serde(default)]
    meta: ModelMeta,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct ModelMeta {
    n_ctx_train: Option<u32>,
    n_params: Option<u64>,
    size: Option<u64>,
}

/// What `/metrics` counts; `None` where it does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    busy: Option<u32>,
    queued: Option<u32>,
}

impl Counts {
    /// From a Prometheus text.
    fn of(metrics: &str) -> Self {
        Self {
            busy: gauge(metrics, "llamacpp:requests_processing "),
            queued: gauge(metrics, "llamacpp:requests_deferred "),
        }
    }
}

/// The counts of one model's requests, asked for with patience.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// As last told.
    counts: Counts,
    /// When to ask again.
    next: Option<Instant>,
}

impl Gauges {
    /// Asks at `path`, unless the engine was late a moment ago; the last counts stand then.
    pub(super) async fn ask(&mut self, ask: &Ask, path: &str) {
        if self.next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        match timeout(COUNT_WITHIN, ask.text(path)).await {
            Ok(answer) => {
                self.counts = answer.map(|text| Counts::of(&text)).unwrap_or_default();
                self.next = None;
            }
            // Asking on would take the server's threads one by one.
            Err(_) => self.next = Some(Instant::now() + COUNT_PAUSE),
        }
    }

    /// Requests being answered.
    pub(super) fn busy(&self) -> Option<u32> {
        self.counts.busy
    }

    /// Requests that wait.
    pub(super) fn queued(&self) -> Option<u32> {
        self.counts.queued
    }
}

fn gauge(metrics: &str, name: &str) -> Option<u32> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse::<f64>().ok().filter(|v| (0.0..1e6).contains(v)).map(|v| v as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROPS: &[u8] = include_bytes!("../../tests/captures/llama-server-props.json");
    const SLEEPING: &[u8] = include_bytes!("../../tests/captures/llama-server-sleeping-props.json");
    const ROUTER: &[u8] = include_bytes!("../../tests/captures/llama-server-router-props.json");
    const MODELS: &[u8] = include_bytes!("../../tests/captures/llama-server-v1-models.json");
    const METRICS: &str = include_str!("../../tests/captures/llama-server-metrics.txt");

    #[test]
    fn the_context_is_that_of_one_slot() {
        let props: Props = serde_json::from_slice(PROPS).expect("captured");
        assert_eq!(props.total_slots, Some(2));
        assert_eq!(props.default_generation_settings.n_ctx, Some(1024));
        assert_eq!(props.name(), Some("tiny"));
        assert_eq!(props.chat_template_caps.supports_tools, Some(false));
        assert_eq!(props.modalities.vision, Some(false));
        assert_eq!(props.version(), None);
    }

    #[test]
    fn a_sleeping_server_still_tells_what_it_serves() {
        let props: Props = serde_json::from_slice(SLEEPING).expect("captured");
        assert_eq!((props.name(), props.total_slots), (Some("tiny-sleepy"), Some(2)));
    }

    #[test]
    fn router_mode_is_told_from_a_single_model() {
        let props: Props = serde_json::from_slice(ROUTER).expect("captured");
        assert_eq!(props.total_slots, None);
        assert_eq!(props.version().as_deref(), Some("b1-0c1e570"));
    }

    #[test]
    fn the_model_entry_has_size_parameters_and_training() {
        let list: ModelList = serde_json::from_slice(MODELS).expect("captured");
        let meta = &list.data[0].meta;
        assert_eq!(
            (meta.n_ctx_train, meta.n_params, meta.size),
            (Some(2048), Some(1_377_600), Some(1_467_648))
        );
    }

    #[test]
    fn the_counts_are_the_gauges_of_requests() {
        assert_eq!(Counts::of(METRICS), Counts { busy: Some(0), queued: Some(0) });
        let text = "llamacpp:requests_processing 2\nllamacpp:requests_deferred 3\n";
        assert_eq!(Counts::of(text), Counts { busy: Some(2), queued: Some(3) });
        assert_eq!(Counts::of("llamacpp:requests_processing NaN\nother 1"), Counts::default());
        assert_eq!(Counts::of(""), Counts::default());
    }
}
