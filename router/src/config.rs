//! The router's configuration: what may be set, its defaults, and every semantic problem at once.

pub mod changes;
mod listen;
mod tokens;
mod wishes;

pub use tokens::Tokens;
pub use wishes::{MachineConfig, ModeConfig, ModelConfig, Placement, PlacementConfig};

use crate::modes::ModeSet;
use mesh_core::mode::ModelAliases;
use mesh_core::routing::Policy;
use mesh_core::units::{Bytes, parse_duration};
use mesh_daemon::complaint::Complaint;
use mesh_daemon::config_layers::{self, KeyLines, Layers, Problem};
use mesh_daemon::telemetry::Telemetry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Environment variables with this prefix set keys: `MODEMESH_LISTEN__CLIENTS`.
pub const ENV_PREFIX: &str = "MODEMESH_";

/// Every key there is. `configs/router.toml` shows each of them.
pub const KEYS: &[&str] = &[
    "name",
    "listen.clients",
    "listen.agents",
    "listen.operators",
    "limits.body",
    "limits.connections",
    "limits.load_wait",
    "limits.answer_wait",
    "limits.stop_repetition",
    "limits.load_on_demand",
    "limits.queue",
    "limits.queue_bytes",
    "limits.arriving_bytes",
    "limits.per_key",
    "identity.certificate_life",
    "routing.policy",
    "modes.*.models",
    "modes.*.aliases",
    "modes.*.fallback",
    "modes.*.max_tokens",
    "modes.*.ttft",
    "modes.*.tpot",
    "modes.*.priority",
    "modes.*.context",
    "modes.*.least_context",
    "modes.*.slots",
    "modes.*.copies",
    "modes.*.cache_types",
    "modes.*.weight",
    "modes.*.residency",
    "modes.*.machines",
    "modes.*.labels",
    "models.*.aliases",
    "models.*.size",
    "models.*.cache_per_token",
    "models.*.url",
    "models.*.digest",
    "machines.*.reserve_ram",
    "machines.*.reserve_vram",
    "machines.*.max_temperature",
    "machines.*.quiet_hours",
    "machines.*.on_battery",
    "machines.*.labels",
    "machines.*.cordon",
    "placement.strategy",
    "placement.apply",
    "placement.machine_pause",
    "placement.budget",
    "telemetry.log",
    "telemetry.log_format",
    "telemetry.otlp_endpoint",
];

/// The file's shape. Values are checked by [`load`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouterConfig {
    /// The router's name in its certificate and in `meshctl status`.
    pub name: String,
    /// Addresses.
    pub listen: Listen,
    /// Bounds.
    pub limits: Limits,
    /// Certificates.
    pub identity: Identity,
    /// How requests are routed.
    pub routing: Routing,
    /// Modes by name; none = automatic.
    pub modes: BTreeMap<String, ModeConfig>,
    /// Models by name.
    pub models: BTreeMap<String, ModelConfig>,
    /// What machines give, by name.
    pub machines: BTreeMap<String, MachineConfig>,
    /// What is kept in memory where.
    pub placement: PlacementConfig,
    /// Logs and traces.
    pub telemetry: Telemetry,
}

/// `[listen]`: `address:port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listen {
    /// HTTP for editors and SDKs.
    pub clients: String,
    /// gRPC (TCP) and QUIC (UDP) for agents.
    pub agents: String,
    /// gRPC for meshctl.
    pub operators: String,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// The most bytes of a client's request body.
    pub body: String,
    /// The most client connections at once.
    pub connections: u32,
    /// How long a request waits for a model that is being loaded.
    pub load_wait: String,
    /// How long one node may take to its first content before another is tried; an answer that is no stream
    /// has its first content at its end, so it gets six times as long and is not tried again.
    pub answer_wait: String,
    /// Whether a stream that repeats itself without end is ended with an error; else it is only counted.
    pub stop_repetition: bool,
    /// Whether a request for a model that is on a disk but nowhere in memory has it loaded.
    pub load_on_demand: bool,
    /// Requests that may wait for a slot.
    pub queue: u32,
    /// Bytes of the bodies of those together.
    pub queue_bytes: String,
    /// Bytes of the bodies that arrive at one time.
    pub arriving_bytes: String,
    /// Requests of one API key at once, running and waiting.
    pub per_key: u32,
}

/// `[identity]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// How long certificates of nodes and of the router itself are valid.
    pub certificate_life: String,
}

/// `[routing]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Routing {
    /// How the machines that can serve are compared: a word of [`Policy`].
    pub policy: String,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            name: "router".into(),
            listen: Listen::default(),
            limits: Limits::default(),
            identity: Identity::default(),
            routing: Routing::default(),
            modes: BTreeMap::new(),
            models: BTreeMap::new(),
            machines: BTreeMap::new(),
            placement: PlacementConfig::default(),
            telemetry: Telemetry::default(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            clients: "127.0.0.1:7400".into(),
            agents: "127.0.0.1:7401".into(),
            operators: "127.0.0.1:7402".into(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: "8MiB".into(),
            connections: 1024,
            load_wait: "60s".into(),
            // A cold 70B model on a slow box can spend minutes on a long prompt.
            answer_wait: "10min".into(),
            stop_repetition: false,
            load_on_demand: true,
            // Twenty machines with four slots each have three requests waiting for each that runs.
            queue: 1024,
            // 32 of the largest bodies, or all 1,024 with a quarter of a megabyte each.
            queue_bytes: "256MiB".into(),
            // The same again: 28 of the largest bodies at once, each within a minute, and an eighth for small ones.
            arriving_bytes: "256MiB".into(),
            // Half of the queue: one client that sends everything at once leaves room for others.
            per_key: 512,
        }
    }
}

impl Default for Routing {
    fn default() -> Self {
        Self { policy: Policy::default().word().into() }
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self { certificate_life: "24h".into() }
    }
}

/// A configuration whose every value makes sense.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The router's name.
    pub name: mesh_core::id::MachineId,
    /// HTTP for clients.
    pub clients: SocketAddr,
    /// TCP and UDP for agents.
    pub agents: SocketAddr,
    /// gRPC for operators.
    pub operators: SocketAddr,
    /// The most bytes of a request body.
    pub body_limit: usize,
    /// The most bytes of all bodies that arrive at one time.
    pub arriving_bytes: u64,
    /// The most client connections.
    pub connections: usize,
    /// How long a request waits for a model that is being loaded.
    pub load_wait: Duration,
    /// How long a node may take to its first content.
    pub answer_wait: Duration,
    /// Whether a stream that repeats itself without end is ended.
    pub stop_repetition: bool,
    /// Whether requests have models loaded.
    pub load_on_demand: bool,
    /// Bounds of the queue.
    pub queue: mesh_core::admission::Limits,
    /// Life of certificates.
    pub certificate_life: Duration,
    /// How the machines that can serve are compared.
    pub policy: Policy,
    /// Configured modes, `None` = automatic.
    pub modes: Option<Arc<ModeSet>>,
    /// What is kept in memory where.
    pub placement: Placement,
    /// Other names of models.
    pub model_aliases: ModelAliases,
    /// Logs and traces.
    pub telemetry: Telemetry,
    /// Where the configuration came from.
    pub source: String,
    /// How an operator calls `meshctl` here, for hints.
    pub meshctl: &'static str,
}

/// Loads and checks the configuration.
///
/// # Errors
/// A complaint (exit code 78) with all problems.
pub fn load(file: Option<PathBuf>, flags: Vec<(&str, String)>) -> Result<Settings, Complaint> {
    let layers = Layers { file, env_prefix: ENV_PREFIX, flags, keys: KEYS };
    let loaded = config_layers::load::<RouterConfig>(&layers)?;
    check(loaded.value, loaded.source, &loaded.lines)
}

/// Checks the values of a configuration.
///
/// # Errors
/// A complaint (exit code 78) with all problems.
pub fn check(config: RouterConfig, source: String, lines: &KeyLines) -> Result<Settings, Complaint> {
    let mut check = Check::new(lines);
    let default = RouterConfig::default();
    let name = check.value("name", config.name.parse());
    let address = |check: &mut Check<'_>, key, text: &str| {
        check.value(
            key,
            listen::address_of(text).ok_or_else(|| format!("`{text}` is no address such as 127.0.0.1:7400")),
        )
    };
    let clients = address(&mut check, "listen.clients", &config.listen.clients);
    let agents = address(&mut check, "listen.agents", &config.listen.agents);
    let operators = address(&mut check, "listen.operators", &config.listen.operators);
    check.shared_ports([("clients", clients), ("agents", agents), ("operators", operators)]);
    let body_limit = check.value("limits.body", config.limits.body.parse::<Bytes>());
    let queue_bytes = check.value("limits.queue_bytes", config.limits.queue_bytes.parse::<Bytes>());
    let arriving_bytes = check.value("limits.arriving_bytes", config.limits.arriving_bytes.parse::<Bytes>());
    let load_wait = check.value("limits.load_wait", parse_duration(&config.limits.load_wait));
    let answer_wait = check.value("limits.answer_wait", parse_duration(&config.limits.answer_wait));
    let certificate_life =
        check.value("identity.certificate_life", parse_duration(&config.identity.certificate_life));
    if body_limit.is_some_and(|limit| limit.0 == 0 || limit.0 > mesh_proto::frame::BODY_LIMIT) {
        check.problem("limits.body", "must be between 1B and 256MiB, the most that an agent takes");
    }
    if let (Some(queue), Some(body)) = (queue_bytes, body_limit)
        && queue.0 / 2 < body.0
    {
        check.problem(
            "limits.queue_bytes",
            "must be at least twice limits.body, or large requests could never wait",
        );
    }
    if let (Some(arriving), Some(body)) = (arriving_bytes, body_limit)
        && (arriving.0 / 2 < body.0 || arriving.0 < 1 << 20)
    {
        check.problem(
            "limits.arriving_bytes",
            "must be at least 1MiB and twice limits.body, or some requests could never arrive",
        );
    }
    if config.limits.per_key == 0 {
        check.problem("limits.per_key", "must be at least 1");
    }
    if answer_wait.is_some_and(|wait| wait < Duration::from_secs(1)) {
        check.problem("limits.answer_wait", "must be at least 1s");
    }
    if certificate_life.is_some_and(|life| life < Duration::from_secs(10)) {
        check.problem("identity.certificate_life", "must be at least 10s");
    }
    if config.limits.connections == 0 {
        check.problem("limits.connections", "must be at least 1");
    }
    let policy = check.policy(&config.routing.policy);
    let modes = check.mode_set(&config.modes, false);
    let machines = check.machines(&config.machines);
    check.contradictions(modes.as_ref(), Some(&machines));
    let known = check.known_models(&config.models);
    let placement = check.placement(&config.placement, machines, known);
    let model_aliases = check.model_aliases(&config.models);
    if !check.problems.is_empty() {
        return Err(config_layers::complain(&check.problems));
    }
    let placeholder = SocketAddr::from(([127, 0, 0, 1], 0));
    Ok(Settings {
        // Every `None` was a problem, so the alternatives are never used.
        name: name.or_else(|| default.name.parse().ok()).expect("the default name is valid"),
        clients: clients.unwrap_or(placeholder),
        agents: agents.unwrap_or(placeholder),
        operators: operators.unwrap_or(placeholder),
        body_limit: body_limit.map_or(0, |bytes| usize::try_from(bytes.0).unwrap_or(usize::MAX)),
        arriving_bytes: arriving_bytes.map_or(0, |bytes| bytes.0),
        connections: config.limits.connections as usize,
        load_wait: load_wait.unwrap_or_default(),
        answer_wait: answer_wait.unwrap_or_default(),
        stop_repetition: config.limits.stop_repetition,
        load_on_demand: config.limits.load_on_demand,
        queue: mesh_core::admission::Limits {
            waiting: config.limits.queue as usize,
            bytes: queue_bytes.map_or(0, |bytes| bytes.0),
            per_key: config.limits.per_key as usize,
        },
        certificate_life: certificate_life.unwrap_or_default(),
        policy: policy.unwrap_or_default(),
        modes: modes.map(Arc::new),
        placement,
        model_aliases,
        telemetry: config.telemetry,
        source,
        meshctl: "meshctl",
    })
}

/// Values of one file, and what was found wrong with them.
pub(crate) struct Check<'a> {
    lines: &'a KeyLines,
    /// All of it, in the order of the checks.
    pub(crate) problems: Vec<Problem>,
}

impl<'a> Check<'a> {
    /// Nothing is wrong yet.
    pub(crate) fn new(lines: &'a KeyLines) -> Self {
        Self { lines, problems: Vec::new() }
    }

    pub(crate) fn problem(&mut self, key: &str, message: impl ToString) {
        let (place, message) = (self.lines.place(key), message.to_string());
        // A key that no file sets is its own place.
        let shown = key.replace('\u{b7}', ".");
        let message = if place == key { message } else { format!("{shown}: {message}") };
        self.problems.push(Problem { place, message, hint: String::new() });
    }

    fn value<T, E: ToString>(&mut self, key: &str, parsed: Result<T, E>) -> Option<T> {
        parsed.map_err(|error| self.problem(key, error)).ok()
    }

    fn policy(&mut self, word: &str) -> Option<Policy> {
        let all = || Policy::ALL.map(Policy::word).join(", ");
        let known = Policy::from_word(word);
        self.value("routing.policy", known.ok_or_else(|| format!("`{word}` is none of {}", all())))
    }
}

#[cfg(test)]
mod tests;
