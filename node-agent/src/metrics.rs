//! What the agent counts. The names and meanings are listed in `docs/metrics.md`.

use mesh_core::machine::{Directive, Engine, EngineState, ThermalState, Vitals};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

/// How a request ended, or why it never began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The engine's answer was passed on whole, whatever its status.
    Complete,
    /// The router or its client did not want the rest.
    Cancelled,
    /// The engine's connection broke in the middle of its answer.
    EngineBroke,
    /// Refused; the word is the refusal's kind on the wire.
    Refused(&'static str),
}

impl Outcome {
    /// The label of the metric.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Cancelled => "cancelled",
            Self::EngineBroke => "engine_broke",
            Self::Refused(kind) => kind,
        }
    }
}

/// Which of the two connections to the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Reports and directives (gRPC).
    Control,
    /// Requests (QUIC).
    Data,
}

impl Link {
    /// The label of the metric.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Data => "data",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EngineLabel {
    engine: String,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LinkLabel {
    link: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WishLabel {
    wish: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReportLabel {
    sections: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ThermalLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GpuLabel {
    gpu: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Unlabelled {}

/// The agent's counters. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    requests: Family<OutcomeLabel, Counter>,
    /// Requests that are being answered now.
    pub(crate) in_flight: Gauge,
    /// Bytes of requests sent to engines.
    pub(crate) request_bytes: Counter,
    /// Bytes of answers passed on.
    pub(crate) answer_bytes: Counter,
    /// Bytes of model files lent to other machines.
    pub(crate) lent_bytes: Counter,
    engine_up: Family<EngineLabel, Gauge>,
    link_up: Family<LinkLabel, Gauge>,
    reports: Family<ReportLabel, Counter>,
    /// Heartbeats sent.
    pub(crate) heartbeats: Counter,
    directives: Family<WishLabel, Counter>,
    thermal: Family<ThermalLabel, Gauge>,
    // Families, for a gauge that is not known has no line.
    hottest: Family<Unlabelled, Gauge<f64, AtomicU64>>,
    link_losses: Family<Unlabelled, Gauge<f64, AtomicU64>>,
    ram_available: Family<Unlabelled, Gauge>,
    gpu_memory_available: Family<GpuLabel, Gauge>,
}

impl Metrics {
    /// Makes the counters and shows them in `registry`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        // prometheus-client appends the unit and, to counters, `_total`.
        registry.register("modemesh_agent_requests", "Requests by how they ended", metrics.requests.clone());
        registry.register(
            "modemesh_agent_requests_in_flight",
            "Requests being answered now",
            metrics.in_flight.clone(),
        );
        registry.register_with_unit(
            "modemesh_agent_request",
            "Bytes of request bodies sent to engines",
            Unit::Bytes,
            metrics.request_bytes.clone(),
        );
        registry.register_with_unit(
            "modemesh_agent_answer",
            "Bytes of answer bodies passed on to the router",
            Unit::Bytes,
            metrics.answer_bytes.clone(),
        );
        registry.register_with_unit(
            "modemesh_agent_lent",
            "Bytes of model files lent to other machines",
            Unit::Bytes,
            metrics.lent_bytes.clone(),
        );
        registry.register("modemesh_agent_engine_up", "1 when the engine answers", metrics.engine_up.clone());
        registry.register(
            "modemesh_agent_link_up",
            "1 when the connection to the router stands",
            metrics.link_up.clone(),
        );
        registry.register(
            "modemesh_agent_link_losses",
            "Share of packets to the router that was lost when it was last found to be a lossy link, else 0",
            metrics.link_losses.clone(),
        );
        registry.register("modemesh_agent_reports", "Reports sent to the router", metrics.reports.clone());
        registry.register(
            "modemesh_agent_heartbeats",
            "Heartbeats sent to the router",
            metrics.heartbeats.clone(),
        );
        registry.register(
            "modemesh_agent_directives",
            "Directives received from the router",
            metrics.directives.clone(),
        );
        registry.register(
            "modemesh_agent_thermal_state",
            "1 for the state that the machine is in",
            metrics.thermal.clone(),
        );
        registry.register_with_unit(
            "modemesh_agent_temperature_hottest",
            "The machine's hottest sensor",
            Unit::Celsius,
            metrics.hottest.clone(),
        );
        registry.register_with_unit(
            "modemesh_agent_ram_available",
            "Main memory that models may take",
            Unit::Bytes,
            metrics.ram_available.clone(),
        );
        registry.register_with_unit(
            "modemesh_agent_gpu_memory_available",
            "Memory of a graphics processor that models may take",
            Unit::Bytes,
            metrics.gpu_memory_available.clone(),
        );
        metrics
    }

    /// Counts one request.
    pub fn request(&self, outcome: Outcome) {
        self.requests.get_or_create(&OutcomeLabel { outcome: outcome.word() }).inc();
    }

    /// Requests that ended with `outcome` so far.
    #[must_use]
    pub fn requests_ended(&self, outcome: Outcome) -> u64 {
        self.requests.get_or_create(&OutcomeLabel { outcome: outcome.word() }).get()
    }

    /// Whether a connection to the router stands.
    pub fn link(&self, link: Link, up: bool) {
        self.link_up.get_or_create(&LinkLabel { link: link.word() }).set(i64::from(up));
    }

    /// The share of packets to the router that a lossy link loses, 0 of one that is not; `None` = nobody counts them.
    pub(crate) fn link_losses(&self, share: Option<f64>) {
        match share {
            Some(share) => {
                self.link_losses.get_or_create(&Unlabelled {}).set(share);
            }
            None => self.link_losses.clear(),
        }
    }

    /// What was told of that last.
    #[must_use]
    pub fn link_lost_share(&self) -> Option<f64> {
        self.link_losses.get(&Unlabelled {}).map(|share| share.get())
    }

    /// Counts one report.
    pub(crate) fn report(&self, full: bool) {
        let sections = if full { "all" } else { "changed" };
        self.reports.get_or_create(&ReportLabel { sections }).inc();
    }

    /// Counts one directive.
    pub(crate) fn directive(&self, directive: &Directive) {
        let wish = match directive {
            Directive::Load(_) => "load",
            Directive::Unload(_) => "unload",
            Directive::Pull(_) => "pull",
            Directive::CancelPull(_) => "cancel_pull",
            Directive::Delete(_) => "delete",
        };
        self.directives.get_or_create(&WishLabel { wish }).inc();
    }

    /// Shows what an operator graphs of the vitals. What is unknown has no line.
    pub(crate) fn vitals(&self, vitals: &Vitals) {
        for state in ThermalState::ALL {
            let label = ThermalLabel { state: state.word() };
            self.thermal.get_or_create(&label).set(i64::from(state == vitals.thermal.state));
        }
        self.hottest.clear();
        if let Some(hottest) = vitals.hottest() {
            self.hottest.get_or_create(&Unlabelled {}).set(hottest.value.0.into());
        }
        self.ram_available.clear();
        if let Some(ram) = vitals.ram.known() {
            self.ram_available.get_or_create(&Unlabelled {}).set(in_gauge(ram.available.0));
        }
        self.gpu_memory_available.clear();
        for gpu in vitals.gpus.known().into_iter().flatten() {
            if let Some(memory) = gpu.memory.known() {
                let label = GpuLabel { gpu: gpu.id.clone() };
                self.gpu_memory_available.get_or_create(&label).set(in_gauge(memory.available.0));
            }
        }
    }

    /// Shows exactly these engines; one that is gone leaves no stale line.
    pub(crate) fn engines(&self, engines: &[Engine]) {
        self.engine_up.clear();
        for engine in engines {
            let label = EngineLabel { engine: engine.name.clone(), kind: engine.kind.word() };
            self.engine_up.get_or_create(&label).set(i64::from(engine.state == EngineState::Up));
        }
    }
}

fn in_gauge(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
