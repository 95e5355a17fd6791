//! llama.cpp's own server with one model, whoever started it.
//!
//! Asked each 1.3 s: `/health`, `/props`, and `/metrics` where it is on; `/v1/models` when the model changed.
//! Never `/slots`: that keeps a server with an idle timer from sleeping. It has no call to load or unload.

use super::{Ask, AskError, Engine, Held, LoadRequest, Observation};
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
    /// The last counts of requests, and when to ask for them again.
    counts: Counts,
    ask_busy_at: Instant,
    /// What `/v1/models` said, with the model it was about.
    model: Option<(String, ModelEntry)>,
}

impl LlamaServer {
    /// A server that `ask` reaches. `embedding` says whether it was started to make embeddings.
    #[must_use]
    pub fn new(ask: Ask, embedding: Option<bool>) -> Self {
        Self { ask, embedding, counts: Counts::default(), ask_busy_at: Instant::now(), model: None }
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
            return Err(self.ask.unexpected("/props", "no `total_slots`; is it in router mode?"));
        };
        let (health, counts) = futures_util::join!(self.ask.any("/health"), self.count(&props));
        self.note(counts);
        if !health?.status.is_success() {
            return Ok(Observation::starting());
        }
        let entry = self.entry(&props).await?;
        let upstream = props.name().unwrap_or(&entry.id).to_owned();
        let mut held = Held::new(&upstream, ReplicaState::Loaded)
            .map_err(|e| self.ask.unexpected("/props", e.to_string()))?;
        held.replica.slots = Some(slots);
        held.replica.busy = self.counts.busy;
        held.replica.context = props.default_generation_settings.n_ctx.filter(|&n| n > 0);
        held.replica.trained_context = entry.meta.n_ctx_train;
        held.replica.parameters = entry.meta.n_params;
        held.replica.size = entry.meta.size.map(Bytes);
        held.replica.abilities = Abilities {
            // A server that runs already does not say whether it was started for embeddings.
            chat: self.embedding.map(|embedding| !embedding),
            embed: self.embedding,
            tools: props.chat_template_caps.supports_tools,
            vision: props.modalities.vision,
            fim: None,
        };
        Ok(Observation {
            version: props.version(),
            state: EngineState::Up,
            queued: self.counts.queued,
            held: vec![held],
        })
    }

    /// The engine's own counts; `None` when it did not say in time.
    async fn count(&self, props: &Props) -> Option<Counts> {
        if props.endpoint_metrics == Some(false) {
            return Some(Counts::default());
        }
        if Instant::now() < self.ask_busy_at {
            return None;
        }
        let text = timeout(COUNT_WITHIN, self.ask.text("/metrics")).await.ok()?;
        Some(text.map(|text| Counts::of(&text)).unwrap_or_default())
    }

    fn note(&mut self, counts: Option<Counts>) {
        match counts {
            Some(counts) => self.counts = counts,
            // The last count stands; asking on would take the server's threads one by one.
            None if Instant::now() >= self.ask_busy_at => self.ask_busy_at = Instant::now() + COUNT_PAUSE,
            None => {}
        }
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
        Capabilities {
            has_slots: true,
            // `/metrics` counts them, where it is on.
            has_queue: true,
            has_context: true,
            has_timings: true,
            abort_safe: true,
            ..Capabilities::default()
        }
    }

    fn load(&self, _request: &LoadRequest) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        None
    }

    fn unload(&self, _upstream: &str) -> Option<BoxFuture<'static, Result<(), AskError>>> {
        None
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
struct Props {
    /// Absent in router mode.
    total_slots: Option<u32>,
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

pub(super) fn gauge(metrics: &str, name: &str) -> Option<u32> {
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
