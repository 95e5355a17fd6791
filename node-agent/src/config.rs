//! The agent's configuration: what `agent.toml`, the environment and flags may say, and whether it makes
//! sense. Reading the layers is [`mesh_daemon::config_layers`]' work.

use crate::engine::discover::DEFAULT_PLACES;
use crate::engine::{EngineConfig, Program};
use crate::probe::GpuOverrides;
use crate::router_link::data::DataWay;
use crate::supervisor::LaunchDefaults;
use crate::truth::TruthConfig;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{EngineKind, Launch};
use mesh_core::thermal::Policy;
use mesh_core::units::{Bytes, Celsius};
use mesh_daemon::complaint::Complaint;
use mesh_daemon::config_layers::{KeyLines, Layers, Loaded, Problem, complain, load};
use mesh_daemon::telemetry::Telemetry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Every key there is; `*` stands for an engine's name. `configs/agent.toml` shows each with its meaning.
pub const KEYS: &[&str] = &[
    "name",
    "router",
    "data_link",
    "model_folder",
    "store.bandwidth",
    "engines.*.kind",
    "engines.*.url",
    "engines.*.api_key",
    "engines.*.program",
    "engines.*.model",
    "engines.*.alias",
    "engines.*.context",
    "engines.*.slots",
    "engines.*.embedding",
    "launch.program",
    "launch.context",
    "launch.slots",
    "truth.enabled",
    "truth.prompts",
    "discover.enabled",
    "discover.addresses",
    "gpu.unified",
    "gpu.integrated",
    "gpu.discrete",
    "thermal.goal",
    "thermal.on_battery",
    "sleep.inhibit_lid",
    "metrics.listen",
    "telemetry.log",
    "telemetry.log_format",
    "telemetry.otlp_endpoint",
];

/// `MODEMESH_AGENT_DISCOVER__ENABLED` sets `discover.enabled`.
pub const ENV_PREFIX: &str = mesh_daemon::config_layers::AGENT_PREFIX;

/// The engine program that comes with the agent.
pub const BUNDLED: &str = "bundled";

/// Tokens one request may hold when `engines.*.context` is not set.
pub const DEFAULT_CONTEXT: u32 = 4096;

/// Requests at once when `engines.*.slots` is not set.
pub const DEFAULT_SLOTS: u32 = 1;

/// More slots than this are a typing error, and each costs memory.
const SLOT_LIMIT: u32 = 256;

/// The longest context any engine serves today, with room to grow.
const CONTEXT_LIMIT: u32 = 16 * 1024 * 1024;

/// Slower than any line that models come over: a typing error in the unit.
const LEAST_BANDWIDTH: u64 = 64 * 1024;
/// A goal below is met by no machine that works, one above is past the limits of most hardware.
const GOALS: std::ops::RangeInclusive<f32> = 30.0..=100.0;

/// `agent.toml` with the environment and flags merged in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentConfig {
    /// The name this machine asks for when it joins; default: its host name.
    pub name: Option<String>,
    /// The router's address, `host:port`; default: the one given to `mesh-agent join`.
    pub router: Option<String>,
    /// How requests come from the router.
    pub data_link: DataWay,
    /// Where models are kept: whose disk is watched. Default: `engine/models` in the data folder.
    pub model_folder: Option<PathBuf>,
    /// Fetching models.
    pub store: StoreSection,
    /// Engines by the name they have in reports.
    pub engines: BTreeMap<String, EngineSection>,
    /// How models of the store are started.
    pub launch: LaunchSection,
    /// Checks of loaded models.
    pub truth: TruthConfig,
    /// Looking for engines that run already.
    pub discover: Discover,
    /// What the operator knows better of graphics processors.
    pub gpu: GpuSection,
    /// When the machine counts as warm.
    pub thermal: ThermalSection,
    /// What happens around the machine's sleep.
    pub sleep: SleepSection,
    /// The agent's own `/metrics`.
    pub metrics: MetricsSection,
    /// Logs and traces.
    pub telemetry: Telemetry,
}

/// The `[launch]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaunchSection {
    /// What starts stored models: `bundled`, or the path of a llama-server program.
    pub program: String,
    /// Tokens one request may hold where nobody wishes otherwise.
    pub context: u32,
    /// Requests served at once where nobody wishes otherwise.
    pub slots: u32,
}

impl Default for LaunchSection {
    fn default() -> Self {
        Self { program: BUNDLED.into(), context: LaunchDefaults::CONTEXT, slots: LaunchDefaults::SLOTS }
    }
}

impl LaunchSection {
    /// As the machine tells it; `None` where the bundled engine is wanted and not installed.
    #[must_use]
    pub fn told(&self, has_bundled: bool) -> Option<Launch> {
        if self.program == BUNDLED && !has_bundled {
            return None;
        }
        let name = Path::new(&self.program).file_name().map(|name| name.to_string_lossy().into_owned());
        Some(Launch {
            program: name.unwrap_or_else(|| self.program.clone()),
            // The bundled engine is built for the processor only.
            uses_gpu: self.program != BUNDLED,
            context: self.context,
            slots: self.slots,
        })
    }

    /// In the supervisor's words.
    #[must_use]
    pub fn defaults(&self) -> LaunchDefaults {
        LaunchDefaults {
            program: if self.program == BUNDLED {
                Program::Bundled
            } else {
                Program::Path(self.program.clone().into())
            },
            context: self.context,
            slots: self.slots,
        }
    }
}

/// The `[store]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreSection {
    /// The most that downloads and copies together may bring in each second: `20MiB`; `0B` = no limit.
    pub bandwidth: String,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self { bandwidth: "0B".into() }
    }
}

impl StoreSection {
    /// Bytes each second; `None` = no limit. Something else than a size was reported before and is no limit.
    #[must_use]
    pub fn bandwidth(&self) -> Option<u64> {
        self.bandwidth.parse().ok().map(|Bytes(bytes)| bytes).filter(|bytes| *bytes > 0)
    }
}

/// One engine: either one that runs already (`url`), or one that the agent starts (`program`, `model`).
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineSection {
    /// `llama-server`, `ollama`, `lemonade`, `lm-studio` or `vllm`.
    pub kind: Option<String>,
    /// Where a running engine answers: `http://127.0.0.1:8080`.
    pub url: Option<String>,
    /// The running engine's own API key, where it wants one.
    pub api_key: Option<String>,
    /// What to start: `bundled`, or the path of a llama-server program.
    pub program: Option<String>,
    /// The GGUF file that the started engine serves.
    pub model: Option<PathBuf>,
    /// The model's name towards clients; default: the file's name without `.gguf`.
    pub alias: Option<String>,
    /// Tokens one request may hold, prompt and answer together.
    pub context: Option<u32>,
    /// Requests served at once.
    pub slots: Option<u32>,
    /// The model makes embeddings instead of text.
    pub embedding: bool,
}

/// The API key shows in no log.
impl fmt::Debug for EngineSection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("EngineSection")
            .field("kind", &self.kind)
            .field("url", &self.url)
            .field("api_key", &self.api_key.as_ref().map(|_| "…"))
            .field("program", &self.program)
            .field("model", &self.model)
            .field("alias", &self.alias)
            .field("context", &self.context)
            .field("slots", &self.slots)
            .field("embedding", &self.embedding)
            .finish()
    }
}

/// The `[discover]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Discover {
    /// Whether to look at all.
    pub enabled: bool,
    /// Where to look. Ports are hints only: what answers there is recognised by what it says.
    pub addresses: Vec<String>,
}

impl Default for Discover {
    fn default() -> Self {
        Self { enabled: true, addresses: DEFAULT_PLACES.map(String::from).into() }
    }
}

/// The `[gpu]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuSection {
    /// What models may take of memory that CPU and graphics share: `96GiB`. Default: what the driver allows.
    pub unified: Option<String>,
    /// PCI addresses of processors that share RAM, where the agent does not see it.
    pub integrated: Vec<String>,
    /// PCI addresses of cards with memory of their own, where the agent does not see it.
    pub discrete: Vec<String>,
}

/// The `[thermal]` section. Limits are not configured: the hardware reports its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThermalSection {
    /// Above this many °C for a while, other machines are preferred.
    pub goal: f32,
    /// Whether the machine may work on battery as if it were plugged in.
    pub on_battery: bool,
}

impl Default for ThermalSection {
    fn default() -> Self {
        let policy = Policy::default();
        Self { goal: policy.goal.0, on_battery: policy.battery_allowed }
    }
}

impl ThermalSection {
    /// As [`mesh_core::thermal`] takes it.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy { goal: Celsius(self.goal), battery_allowed: self.on_battery }
    }
}

/// The `[sleep]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SleepSection {
    /// Whether closing the lid is kept from putting the machine to sleep while the agent runs.
    pub inhibit_lid: bool,
}

/// The `[metrics]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricsSection {
    /// Where `GET /metrics` is served; empty = nowhere.
    pub listen: String,
}

impl Default for MetricsSection {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7403".into() }
    }
}

/// What `mesh-agent run` was told on the command line.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RunFlags {
    /// A configuration file [default: agent.toml in the data folder, where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The router's address, instead of the one given to `join`
    #[arg(long, value_name = "HOST:PORT")]
    pub router: Option<String>,
}

/// Reads and checks the configuration of the machine whose data folder is `data`.
///
/// # Errors
/// A complaint with exit code 78 that lists all problems of one kind at once: first keys and types, then sense.
pub fn read(data: &Path, flags: &RunFlags) -> Result<Loaded<AgentConfig>, Complaint> {
    let own = Some(data.join("agent.toml")).filter(|file| file.exists());
    let file = flags.config.clone().or(own);
    let flags = flags.router.iter().map(|router| ("router", router.clone())).collect();
    let loaded: Loaded<AgentConfig> = load(&Layers { file, env_prefix: ENV_PREFIX, flags, keys: KEYS })?;
    match loaded.value.problems(&loaded.lines).as_slice() {
        [] => Ok(loaded),
        problems => Err(complain(problems)),
    }
}

impl AgentConfig {
    /// Everything that does not make sense, each at its line of the file.
    #[must_use]
    pub fn problems(&self, lines: &KeyLines) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut problem = |key: &str, message: String, hint: &str| {
            found.push(Problem { place: lines.place(key), message, hint: hint.into() });
        };
        if let Some(Err(error)) = self.name.as_ref().map(|name| MachineId::new(name.clone())) {
            problem("name", error.to_string(), "");
        }
        if let Some(router) = self.router.as_ref().filter(|router| !is_host_and_port(router)) {
            problem(
                "router",
                format!("`{router}` is no address"),
                "write host:port, as in \"router.lan:7401\"",
            );
        }
        if !self.metrics.listen.is_empty() && self.metrics.listen.parse::<SocketAddr>().is_err() {
            problem(
                "metrics.listen",
                format!("`{}` is no address to listen on", self.metrics.listen),
                "write ip:port, as in \"127.0.0.1:7403\", or \"\" for none",
            );
        }
        match self.store.bandwidth.parse::<Bytes>() {
            Err(error) => problem("store.bandwidth", error.to_string(), "as in \"20MiB\" each second"),
            Ok(Bytes(slow)) if slow > 0 && slow < LEAST_BANDWIDTH => problem(
                "store.bandwidth",
                format!("{} each second would take weeks for one model", Bytes(slow)),
                "write 64KiB or more, or \"0B\" for no limit",
            ),
            Ok(_) => {}
        }
        if self.launch.program.is_empty() {
            problem("launch.program", "the program is empty".into(), "write \"bundled\" or a path");
        }
        if !(1..=CONTEXT_LIMIT).contains(&self.launch.context) {
            let message =
                format!("a context of {} tokens is not within 1 to {CONTEXT_LIMIT}", self.launch.context);
            problem("launch.context", message, "");
        }
        if !(1..=SLOT_LIMIT).contains(&self.launch.slots) {
            let message = format!("{} slots are not within 1 to {SLOT_LIMIT}", self.launch.slots);
            problem("launch.slots", message, "");
        }
        if !GOALS.contains(&self.thermal.goal) {
            problem(
                "thermal.goal",
                format!(
                    "a goal of {} °C is not within {} to {}",
                    self.thermal.goal,
                    GOALS.start(),
                    GOALS.end()
                ),
                "70 suits most machines; limits are the hardware's own and are not set here",
            );
        }
        for address in &self.discover.addresses {
            if !is_host_and_port(address) && !is_url(address) {
                problem(
                    "discover.addresses",
                    format!("`{address}` is no address"),
                    "write host:port or http://host:port",
                );
            }
        }
        if let Some(Err(error)) = self.gpu.unified.as_ref().map(|text| text.parse::<Bytes>()) {
            problem("gpu.unified", error.to_string(), "");
        }
        for (key, list) in [("gpu.integrated", &self.gpu.integrated), ("gpu.discrete", &self.gpu.discrete)] {
            for address in list.iter().filter(|address| !is_pci_address(address)) {
                let hint = "write it as `mesh-agent probe` prints it: \"0000:c5:00.0\"";
                problem(key, format!("`{address}` is no PCI address"), hint);
            }
        }
        for address in self.gpu.integrated.iter().filter(|address| self.gpu.discrete.contains(address)) {
            let message = format!("`{address}` is in gpu.integrated too");
            problem("gpu.discrete", message, "remove it from one of them");
        }
        for (name, section) in &self.engines {
            if let Err(error) = MachineId::new(name.clone()) {
                let message = error.to_string().replace("machine name", "engine name");
                problem(&format!("engines.{name}"), message, "");
            }
            for (key, message, hint) in section.check(name).err().unwrap_or_default() {
                problem(&format!("engines.{name}.{key}"), format!("engine `{name}`: {message}"), hint);
            }
        }
        found
    }

    /// All engine sections, checked. [`read`] has reported their problems before; sections that have some are
    /// left out.
    #[must_use]
    pub fn engine_configs(&self) -> Vec<EngineConfig> {
        self.engines.iter().filter_map(|(name, section)| section.check(name).ok()).collect()
    }

    /// What the operator says of graphics processors. [`read`] has reported what is no size before.
    #[must_use]
    pub fn gpu_overrides(&self) -> GpuOverrides {
        let lower = |list: &[String]| list.iter().map(|address| address.to_lowercase()).collect();
        GpuOverrides {
            unified: self.gpu.unified.as_ref().and_then(|text| text.parse().ok()),
            integrated: lower(&self.gpu.integrated),
            discrete: lower(&self.gpu.discrete),
        }
    }

    /// Where models are kept when nothing else is said.
    #[must_use]
    pub fn model_folder(&self, data: &Path) -> PathBuf {
        self.model_folder.clone().unwrap_or_else(|| data.join("engine/models"))
    }
}

/// (key in the section, what is wrong, what would be right)
type SectionProblem = (&'static str, String, &'static str);

impl EngineSection {
    fn check(&self, name: &str) -> Result<EngineConfig, Vec<SectionProblem>> {
        match (&self.url, &self.program) {
            (Some(url), None) => self.check_endpoint(name, url),
            (None, Some(program)) => self.check_child(name, program),
            (Some(_), Some(_)) => Err(vec![(
                "url",
                "has both `url` and `program`".into(),
                "keep `url` for an engine that runs already, `program` for one that the agent starts",
            )]),
            (None, None) => Err(vec![(
                "url",
                "has neither `url` nor `program`".into(),
                "set url = \"http://127.0.0.1:8080\", or program = \"bundled\" and model = \"….gguf\"",
            )]),
        }
    }

    fn check_endpoint(&self, name: &str, url: &str) -> Result<EngineConfig, Vec<SectionProblem>> {
        let mut problems = Vec::new();
        let kind = self.check_kind(&mut problems);
        if kind.is_none() && self.kind.is_none() {
            problems.push(("kind", "`kind` is not set".into(), KINDS));
        }
        if !is_url(url) {
            problems.push(("url", format!("`{url}` is no address of an engine"), "write http://host:port"));
        }
        let key_is_text = |key: &String| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        if self.api_key.as_ref().is_some_and(|key| !key_is_text(key)) {
            problems.push((
                "api_key",
                "the key is empty or holds a character no header can carry".into(),
                "",
            ));
        }
        let child_only = [
            ("model", self.model.is_some()),
            ("alias", self.alias.is_some()),
            ("context", self.context.is_some()),
            ("slots", self.slots.is_some()),
            ("embedding", self.embedding),
        ];
        for (key, _) in child_only.into_iter().filter(|(_, set)| *set) {
            problems.push((key, format!("`{key}` is only for engines that the agent starts"), "remove it"));
        }
        match kind {
            Some(kind) if problems.is_empty() => {
                let url = url.trim_end_matches('/').to_owned();
                Ok(EngineConfig::Endpoint { name: name.into(), kind, url, api_key: self.api_key.clone() })
            }
            _ => Err(problems),
        }
    }

    fn check_child(&self, name: &str, program: &str) -> Result<EngineConfig, Vec<SectionProblem>> {
        let mut problems = Vec::new();
        if self.check_kind(&mut problems).is_some_and(|kind| kind != EngineKind::LlamaServer) {
            problems.push(("kind", "the agent can start only llama-server".into(), "remove `kind`"));
        }
        if self.api_key.is_some() {
            let message = "`api_key` is only for engines that run already".into();
            problems.push(("api_key", message, "remove it: the agent makes a key of its own"));
        }
        if program.is_empty() {
            problems.push(("program", "the program is empty".into(), "write \"bundled\" or a path"));
        }
        let (context, slots) = (self.context.unwrap_or(DEFAULT_CONTEXT), self.slots.unwrap_or(DEFAULT_SLOTS));
        if !(1..=CONTEXT_LIMIT).contains(&context) {
            let message = format!("a context of {context} tokens is not within 1 to {CONTEXT_LIMIT}");
            problems.push(("context", message, ""));
        }
        if !(1..=SLOT_LIMIT).contains(&slots) {
            problems.push(("slots", format!("{slots} slots are not within 1 to {SLOT_LIMIT}"), ""));
        }
        if self.model.is_none() {
            problems.push(("model", "`model` is not set".into(), "name the GGUF file to serve"));
        }
        let file_name = self.model.as_ref().and_then(|file| file.file_stem()).and_then(|stem| stem.to_str());
        let alias = self.alias.as_deref().or(file_name).map(ModelId::new);
        if let Some(Err(error)) = &alias {
            problems.push(("alias", error.to_string(), "set `alias` to a name that clients can write"));
        }
        match (alias, &self.model) {
            (Some(Ok(alias)), Some(model)) if problems.is_empty() => Ok(EngineConfig::Child {
                name: name.into(),
                program: if program == BUNDLED { Program::Bundled } else { Program::Path(program.into()) },
                model: model.clone(),
                alias,
                context,
                slots,
                embedding: self.embedding,
            }),
            _ => Err(problems),
        }
    }

    fn check_kind(&self, problems: &mut Vec<SectionProblem>) -> Option<EngineKind> {
        let word = self.kind.as_ref()?;
        let kind = EngineKind::from_word(word);
        if kind.is_none() {
            problems.push(("kind", format!("`{word}` is no kind of engine"), KINDS));
        }
        kind
    }
}

const KINDS: &str = "one of llama-server, llama-router, ollama, lemonade, lm-studio, vllm, sglang, tabbyapi, \
                     koboldcpp, localai, or openai for another server that speaks OpenAI's dialect";

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_ok = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    host_ok && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// `0000:c5:00.0`: domain, bus, device, function.
fn is_pci_address(text: &str) -> bool {
    let shape = [4, 2, 2, 1];
    let parts: Vec<&str> = text.split([':', '.']).collect();
    parts.iter().map(|part| part.len()).eq(shape)
        && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
        && text.match_indices(['.']).eq([(10, ".")])
}

/// `http://host:port/…`: engines are spoken to over plain HTTP, without user names or queries.
fn is_url(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("http")
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    })
}
