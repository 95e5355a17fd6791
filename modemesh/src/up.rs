//! `modemesh up`: router and agent in one process. Prints what a person needs to go on, and stops everything
//! it started on Ctrl-C.

use crate::engines::{self, Found};
use crate::local_node;
use clap::Args;
use mesh_core::id::{MachineId, machine_id_from_hostname};
use mesh_core::machine::ReplicaState;
use mesh_daemon::clock::unix_ms;
use mesh_daemon::complaint::{Complaint, exit};
use mesh_daemon::telemetry::{self, Telemetry};
use mesh_daemon::{data_folder, stop_signal};
use mesh_proto::identity::{LocalKey, Role, csr_key_sha256};
use node_agent::app::{Agent, AgentOptions};
use node_agent::config::{self as agent_config, AgentConfig};
use prometheus_client::registry::Registry;
use router::app::Router;
use router::cli::RunFlags;
use router::fleet_keeper::Snapshot;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A tiny model is in memory within a second, and a big one that is still loading is no reason to wait.
const FIRST_MODEL: Duration = Duration::from_secs(20);

/// What may be said on the command line.
#[derive(Debug, Clone, Args)]
pub struct UpFlags {
    /// Install the bundled engine without asking, if no engine is found.
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    flags: RunFlags,
}

/// A running mesh of one machine.
pub struct Mesh {
    /// The router.
    pub router: Router,
    /// The agent.
    pub agent: Agent,
    /// Which engines it works with.
    pub found: Found,
    /// The first API key.
    pub api_key: String,
}

impl Mesh {
    /// Waits until both have stopped, engines included.
    pub async fn stopped(self) {
        self.agent.stopped().await;
        self.router.stopped().await;
    }
}

/// Runs until Ctrl-C.
///
/// # Errors
/// A complaint about the data folder, the configuration, a busy port, or the bundled engine.
pub async fn run(data: &Path, flags: UpFlags) -> anyhow::Result<()> {
    data_folder::create_private(data)?;
    let settings = flags.flags.settings(data)?;
    // On a terminal, what is printed below is the news; warnings are enough beside it.
    let quiet = Telemetry { log: "warn".into(), ..Telemetry::default() };
    let chosen = if settings.telemetry == Telemetry::default() { &quiet } else { &settings.telemetry };
    let _telemetry = telemetry::init(chosen, "modemesh")?;
    let stop = stop_signal::on_ctrl_c_or_term()?;
    let say = |step: &str| drop(writeln!(std::io::stderr(), "  {step}"));
    let config = agent_config::read(data, &agent_config::RunFlags::default())?.value;
    let started = start(data, settings, config, flags.yes, say, stop.clone());
    let mesh = tokio::select! {
        mesh = started => mesh?,
        () = stop.cancelled() => {
            return Err(Complaint::new("stopped before the mesh was up").exit(exit::INTERRUPTED).into());
        }
    };
    print(data, &mesh).await?;
    let drained = mesh.router.drained();
    tokio::select! {
        () = stop.cancelled() => {}
        () = drained.cancelled() => {}
    }
    // A router with nothing to do has drained by the time when its stop is seen here.
    let by_itself = !stop.is_cancelled();
    say(if by_itself { "the router ended by itself, which is a bug: stopping" } else { "stopping" });
    mesh.stopped().await;
    if stop.is_cancelled() {
        return Ok(());
    }
    Err(Complaint::new("the router ended by itself").hint("its log says why; start it again").into())
}

/// How `meshctl` must be told where the data is, when it is not where it looks by itself.
fn data_flag(data: &Path) -> String {
    if data == data_folder::default() { String::new() } else { format!(" --data {}", data.display()) }
}

/// Starts router and agent. They stop when `stop` is cancelled.
///
/// # Errors
/// A complaint about the data folder, a busy port, or the bundled engine.
pub async fn start(
    data: &Path,
    mut settings: router::config::Settings,
    mut config: AgentConfig,
    yes: bool,
    say: impl Fn(&str) + Clone + Send + 'static,
    stop: CancellationToken,
) -> Result<Mesh, Complaint> {
    settings.meshctl = "modemesh meshctl";
    let stop_router = stop.child_token();
    // First the router: a busy port is known before anything is installed.
    let router = Router::start(data, settings, stop_router.clone()).await?;
    let guard = stop_router.drop_guard();
    let api_key = first_key(data, &router).await?;
    let found = engines::choose(data, &mut config, yes, say).await?;
    let name = match &config.name {
        Some(name) => MachineId::new(name.clone()).map_err(|error| Complaint::new(error.to_string()))?,
        None => machine_id_from_hostname(
            &std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
        ),
    };
    reserve(data, &router, &name).await?;
    let options = AgentOptions { data: data.into(), name: name.clone(), root: "/".into(), uplink: None };
    // The agent goes on until the router has drained: it would refuse what still waits, and cut off what runs, at the very
    // moment when the router is about to say that it stops.
    let drained = router.drained();
    // The agent's counters are for a process of its own; here the router's /metrics is the one.
    let agent = Agent::start(options, &config, &mut Registry::default(), drained.clone()).await?;
    local_node::attach(
        &router,
        name,
        agent.serve.clone(),
        agent.direct.clone(),
        agent.reports.clone(),
        drained,
    )
    .await;
    guard.disarm();
    Ok(Mesh { router, agent, found, api_key })
}

/// Gives this machine's name to its own key in the ledger, so that no other machine can join under it.
async fn reserve(data: &Path, router: &Router, name: &MachineId) -> Result<(), Complaint> {
    let failed = |error: &dyn std::fmt::Display| {
        Complaint::new(format!("this machine's name `{name}` could not be kept for it")).cause(error)
    };
    let key = LocalKey::create_or_load(&data.join("agent/key.pem")).map_err(|error| failed(&error))?;
    let key_sha256 = key.csr_der().and_then(|csr| csr_key_sha256(&csr)).map_err(|error| failed(&error))?;
    if router.ledger.node_key_matches(name, key_sha256).await {
        return Ok(());
    }
    let life = Duration::from_secs(60);
    let made = router.ledger.create_token(Role::Node, Some(name.clone()), life, unix_ms()).await;
    let (id, secret) = made.map_err(|error| failed(&error))?;
    let redeemed = router.ledger.redeem(&id, &secret, name.as_str(), key_sha256, unix_ms()).await;
    redeemed.map(drop).map_err(|error| failed(&error))
}

/// The key in `api-key`, or a new one when there is none or the ledger no longer knows it.
async fn first_key(data: &Path, router: &Router) -> Result<String, Complaint> {
    let file = data.join("api-key");
    let kept = std::fs::read_to_string(&file).unwrap_or_default().trim().to_owned();
    if router.ledger.keys().borrow().check(&kept).is_some() {
        return Ok(kept);
    }
    let failed =
        |error: &dyn std::fmt::Display| Complaint::new("the first API key could not be made").cause(error);
    let (_, key) = router.ledger.create_key("first", unix_ms()).await.map_err(|error| failed(&error))?;
    data_folder::write_private(&file, key.as_bytes()).map_err(|error| failed(&error))?;
    Ok(key)
}

/// Whether some model is in memory.
#[must_use]
pub fn is_serving(snapshot: &Snapshot) -> bool {
    let replicas = snapshot.view.machines.iter().flat_map(|m| &m.engines).flat_map(|e| &e.replicas);
    replicas.into_iter().any(|replica| replica.state == ReplicaState::Loaded)
}

async fn print(data: &Path, mesh: &Mesh) -> anyhow::Result<()> {
    let mut snapshots = mesh.router.fleet.snapshots();
    let ready = tokio::time::timeout(FIRST_MODEL, snapshots.wait_for(|s| is_serving(s))).await.is_ok();
    let snapshot = mesh.router.fleet.snapshot();
    let url = mesh.router.client_url();
    let engine = match &mesh.found {
        Found::Configured(count) => format!("{count} from {}", data.join("agent.toml").display()),
        Found::Running(list) => {
            list.iter().map(|(kind, url)| format!("{} at {url}", kind.word())).collect::<Vec<_>>().join(", ")
        }
        Found::Bundled => {
            "bundled llama.cpp with a tiny model (for a first try; start a real engine for real answers)"
                .into()
        }
    };
    let modes = snapshot.modes.modes();
    let mode = modes.first().map_or("ask", |mode| mode.name.as_str());
    let lines = match (snapshot.automatic, modes.first().and_then(|mode| mode.models.first())) {
        (true, Some(best)) => format!("all automatic: each uses the best model found, {best}"),
        (true, None) => "automatic, once an engine has a model".into(),
        (false, _) => modes.iter().map(|mode| mode.name.to_string()).collect::<Vec<_>>().join(" "),
    };
    let exe = std::env::current_exe().map_or_else(|_| "modemesh".into(), |path| path.display().to_string());
    let mut out = std::io::stdout();
    writeln!(out, "modemesh is {}", if ready { "up" } else { "up, but no model is in memory yet" })?;
    writeln!(out, "\n  base URL  {url}/v1\n  API key   {}", mesh.api_key)?;
    writeln!(out, "  engine    {engine}\n  modes     {lines}\n  data      {}", data.display())?;
    writeln!(
        out,
        "\ntry it:\n  curl {url}/v1/chat/completions -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' \
         -d '{{\"model\":\"mesh/{mode}\",\"max_tokens\":60,\"messages\":[{{\"role\":\"user\",\"content\":\"What is Python?\"}}]}}'",
        mesh.api_key
    )?;
    writeln!(out, "\nsee it:\n  {exe} meshctl{} status\n\nCtrl-C stops everything.", data_flag(data))?;
    out.flush()?;
    Ok(())
}
