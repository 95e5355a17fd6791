//! The router's metrics. Names are listed in `docs/metrics.md`; labels hold names of nodes, models and modes,
//! never anything a client wrote.

use foldhash::fast::RandomState;
use mesh_core::id::{MachineId, ModeName, ModelId};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::fmt::{self, Display, Write as _};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

/// A name of the mesh as a label: shared, not copied.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Named<T>(pub T);

impl<T: Display> EncodeLabelValue for Named<T> {
    fn encode(&self, out: &mut LabelValueEncoder<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// How most requests end.
pub const COMPLETE: &str = "complete";

/// How one request ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The mode, or empty for a model asked for by name.
    pub mode: Option<Named<ModeName>>,
    /// The node that answered, or empty.
    pub node: Option<Named<MachineId>>,
    /// complete, failed, cancelled, refused
    pub outcome: &'static str,
}

/// One mode.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ModeLabel {
    /// The mode, or empty for a model asked for by name.
    pub mode: Option<Named<ModeName>>,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// A word from a fixed list.
    pub reason: &'static str,
}

/// One model on one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReplicaLabels {
    /// The node.
    pub node: Named<MachineId>,
    /// The model.
    pub model: Named<ModelId>,
}

/// What is wrong with answers of one model on one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AnswerLabels {
    /// The node.
    pub node: Named<MachineId>,
    /// The model.
    pub model: Named<ModelId>,
    /// A word from a fixed list.
    pub kind: &'static str,
}

/// Tokens by direction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenLabels {
    /// The node that processed them.
    pub node: Option<Named<MachineId>>,
    /// prompt, completion
    pub kind: &'static str,
}

type Seconds = fn() -> Histogram;

/// 5 ms to 11 min in doublings.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 18))
}

/// The end of one request, as far as it is counted.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// Its mode, `None` for a model asked for by name.
    pub mode: Option<ModeName>,
    /// The node that was tried last.
    pub node: Option<MachineId>,
    /// complete, failed, cancelled, refused
    pub outcome: &'static str,
    /// Seconds to the first content.
    pub ttft_s: Option<f64>,
    /// Seconds to the end.
    pub duration_s: f64,
    /// Seconds that it waited for slots, if it did.
    pub queued_s: Option<f64>,
    /// Tokens of its prompt, if the engine told them.
    pub prompt_tokens: Option<u64>,
    /// Tokens of its answer, if the engine told them.
    pub completion_tokens: Option<u64>,
}

/// What each request of one mode on one node counts in. Kept, because looking five of them up by their labels costs a
/// request more than counting in them.
#[derive(Default)]
struct Counted {
    complete: OnceLock<Counter>,
    ttft: OnceLock<Histogram>,
    duration: OnceLock<Histogram>,
    prompt: OnceLock<Counter>,
    completion: OnceLock<Counter>,
}

/// A mode and a node.
type Place = (Option<ModeName>, Option<MachineId>);

/// All metrics of the router.
#[derive(Clone)]
pub struct Metrics {
    /// Requests by how they ended.
    pub requests: Family<RequestLabels, Counter>,
    /// Seconds to the first content.
    pub ttft: Family<ModeLabel, Histogram, Seconds>,
    /// Seconds to the end.
    pub duration: Family<ModeLabel, Histogram, Seconds>,
    /// Requests running now.
    pub in_flight: Gauge,
    /// Attempts on a node that failed before the first content.
    pub retries: Family<ReasonLabel, Counter>,
    /// Requests that ended with an error of the router before any content.
    pub refusals: Family<ReasonLabel, Counter>,
    /// Tokens by node and direction.
    pub tokens: Family<TokenLabels, Counter>,
    /// Open client connections.
    pub connections: Gauge,
    /// Answers to prompts that the engine cut without a word.
    pub truncated: Family<ReplicaLabels, Counter>,
    /// Answers of another model than was asked.
    pub other_model: Family<AnswerLabels, Counter>,
    /// Answers that are empty, endless or without a finish reason.
    pub faulty_answers: Family<AnswerLabels, Counter>,
    /// Prompts that were measured before they were sent, where bytes alone did not decide.
    pub prompt_counts: Family<ReasonLabel, Counter>,
    /// Requests that wait for a slot.
    pub waiting: Gauge,
    /// Seconds that requests waited for a slot.
    pub queued: Family<ModeLabel, Histogram, Seconds>,
    /// Requests of the router's own that ask a failing replica for one token, by what came of them.
    pub probes: Family<ReasonLabel, Counter>,
    /// Loads that requests asked for, by what came of them.
    pub loads: Family<ReasonLabel, Counter>,
    /// Steps of plans, by what was wished.
    pub steps: Family<ReasonLabel, Counter>,
    /// Plans that were not followed because they have faults.
    pub plan_faults: Counter,
    /// Modes that do not get all that they want.
    pub unplaced_modes: Gauge,
    /// Everything above, for `/metrics`.
    pub registry: Arc<Registry>,
    counted: Arc<RwLock<HashMap<Place, Arc<Counted>, RandomState>>>,
}

impl Metrics {
    /// Registers all metrics.
    #[must_use]
    pub fn new() -> Self {
        let (ttft, duration) = (
            Family::new_with_constructor(seconds as Seconds),
            Family::new_with_constructor(seconds as Seconds),
        );
        let (requests, retries, refusals) = (Family::default(), Family::default(), Family::default());
        let (tokens, in_flight, connections) = (Family::default(), Gauge::default(), Gauge::default());
        let mut registry = Registry::default();
        registry.register("modemesh_router_requests", "Requests by how they ended", requests.clone());
        registry.register("modemesh_router_ttft_seconds", "Seconds to the first content", ttft.clone());
        registry.register("modemesh_router_duration_seconds", "Seconds to the end", duration.clone());
        registry.register("modemesh_router_in_flight", "Requests running now", in_flight.clone());
        registry.register(
            "modemesh_router_retries",
            "Attempts on a node that failed before the first content",
            retries.clone(),
        );
        registry.register(
            "modemesh_router_refusals",
            "Requests that ended with an error before any content",
            refusals.clone(),
        );
        registry.register("modemesh_router_tokens", "Tokens by node and direction", tokens.clone());
        registry.register("modemesh_router_connections", "Open client connections", connections.clone());
        let (truncated, other_model) = (Family::default(), Family::default());
        let (faulty_answers, prompt_counts) = (Family::default(), Family::default());
        registry.register(
            "modemesh_router_truncated",
            "Answers to prompts that the engine cut without a word",
            truncated.clone(),
        );
        registry.register(
            "modemesh_router_other_model",
            "Answers of another model than was asked",
            other_model.clone(),
        );
        registry.register(
            "modemesh_router_faulty_answers",
            "Answers that are empty, endless or without a finish reason",
            faulty_answers.clone(),
        );
        registry.register(
            "modemesh_router_prompt_counts",
            "Prompts counted before they were sent",
            prompt_counts.clone(),
        );
        let (waiting, queued) = (Gauge::default(), Family::new_with_constructor(seconds as Seconds));
        let (probes, loads) = (Family::default(), Family::default());
        registry.register("modemesh_router_waiting", "Requests that wait for a slot", waiting.clone());
        registry.register(
            "modemesh_router_queue_seconds",
            "Seconds spent waiting for a slot",
            queued.clone(),
        );
        registry.register("modemesh_router_probes", "Probes of replicas that had failed", probes.clone());
        registry.register("modemesh_router_loads", "Loads that requests asked for", loads.clone());
        let (steps, plan_faults, unplaced_modes) = (Family::default(), Counter::default(), Gauge::default());
        registry.register("modemesh_router_steps", "Steps of plans, by what was wished", steps.clone());
        registry.register("modemesh_router_plan_faults", "Plans that have faults", plan_faults.clone());
        registry.register(
            "modemesh_router_unplaced_modes",
            "Modes that do not get all that they want",
            unplaced_modes.clone(),
        );
        let registry = Arc::new(registry);
        Self {
            truncated,
            other_model,
            faulty_answers,
            prompt_counts,
            requests,
            ttft,
            duration,
            in_flight,
            retries,
            refusals,
            tokens,
            connections,
            waiting,
            queued,
            probes,
            loads,
            steps,
            plan_faults,
            unplaced_modes,
            registry,
            counted: Arc::default(),
        }
    }

    /// A request has ended.
    pub fn ended(&self, end: End) {
        let place = (end.mode, end.node);
        let counted = self.counted(&place);
        let (mode, node) = (place.0.map(Named), place.1.map(Named));
        let label = || ModeLabel { mode: mode.clone() };
        if let Some(ttft) = end.ttft_s {
            counted.ttft.get_or_init(|| self.ttft.get_or_create_owned(&label())).observe(ttft);
        }
        counted.duration.get_or_init(|| self.duration.get_or_create_owned(&label())).observe(end.duration_s);
        if let Some(queued) = end.queued_s {
            self.queued.get_or_create(&label()).observe(queued);
        }
        let tokens = [
            (&counted.prompt, "prompt", end.prompt_tokens),
            (&counted.completion, "completion", end.completion_tokens),
        ];
        for (counter, kind, tokens) in tokens {
            if let Some(tokens) = tokens {
                let labels = || TokenLabels { node: node.clone(), kind };
                counter.get_or_init(|| self.tokens.get_or_create_owned(&labels())).inc_by(tokens);
            }
        }
        let labels = || RequestLabels { mode: mode.clone(), node: node.clone(), outcome: end.outcome };
        if end.outcome == COMPLETE {
            counted.complete.get_or_init(|| self.requests.get_or_create_owned(&labels())).inc();
        } else {
            self.requests.get_or_create(&labels()).inc();
        }
    }

    fn counted(&self, place: &Place) -> Arc<Counted> {
        // Whole after any panic: each change is one insertion.
        if let Some(counted) = self.counted.read().unwrap_or_else(PoisonError::into_inner).get(place) {
            return counted.clone();
        }
        let mut all = self.counted.write().unwrap_or_else(PoisonError::into_inner);
        all.entry(place.clone()).or_default().clone()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_daemon::metrics_endpoint::render;

    #[test]
    fn requests_are_counted_under_their_own_mode_node_and_outcome() {
        let metrics = Metrics::new();
        let end = |mode: Option<&str>, node: &str, outcome| End {
            mode: mode.map(|mode| mode.parse().expect("valid")),
            node: Some(node.parse().expect("valid")),
            outcome,
            ttft_s: Some(0.1),
            duration_s: 1.0,
            queued_s: (node == "b").then_some(2.0),
            prompt_tokens: Some(10),
            completion_tokens: (node == "a").then_some(7),
        };
        for (mode, node, outcome) in [
            (Some("code"), "a", COMPLETE),
            (Some("code"), "a", COMPLETE),
            (Some("code"), "b", COMPLETE),
            (Some("code"), "a", "failed"),
            (None, "a", COMPLETE),
        ] {
            metrics.ended(end(mode, node, outcome));
        }
        let text = render(&metrics.registry);
        for line in [
            r#"modemesh_router_requests_total{mode="code",node="a",outcome="complete"} 2"#,
            r#"modemesh_router_requests_total{mode="code",node="b",outcome="complete"} 1"#,
            r#"modemesh_router_requests_total{mode="code",node="a",outcome="failed"} 1"#,
            r#"modemesh_router_requests_total{mode="",node="a",outcome="complete"} 1"#,
            r#"modemesh_router_tokens_total{node="a",kind="prompt"} 40"#,
            r#"modemesh_router_tokens_total{node="b",kind="prompt"} 10"#,
            r#"modemesh_router_tokens_total{node="a",kind="completion"} 28"#,
            r#"modemesh_router_queue_seconds_sum{mode="code"} 2.0"#,
            r#"modemesh_router_ttft_seconds_count{mode="code"} 4"#,
            r#"modemesh_router_duration_seconds_sum{mode=""} 1.0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let not_told = r#"modemesh_router_tokens_total{node="b",kind="completion"}"#;
        assert!(!text.contains(not_told), "nothing is counted that was not told");
    }
}
