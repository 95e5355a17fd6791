//! The processes of the demonstration: a router and three agents, their folders, and their end.

use super::{DemoFlags, failed};
use crate::engines::{TINY, bundled_section};
use anyhow::Context as _;
use mesh_daemon::complaint::Complaint;
use mesh_proto::identity::connect::channel;
use mesh_proto::identity::{Credentials, JoinToken, join::join};
use mesh_proto::v1::CreateTokenRequest;
use mesh_proto::v1::operator_client::OperatorClient;
use node_agent::config::EngineSection;
use node_agent::engine::bundled::BundledEngine;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tonic::transport::Channel;

/// Random weights in the shape of the trained model.
const RANDOM: &[u8] = include_bytes!("../../assets/models/tiny-random-1.4M-q8_0.gguf");
/// A smaller one, for embeddings.
const EMBEDDING: &[u8] = include_bytes!("../../assets/models/tiny-random-0.2M-f16.gguf");

/// Which mode uses which models; `ask` and `code` can fall back to another node.
const MODES: &str = r#"
[modes.ask]
models = ["tiny-trained"]
fallback = ["debug"]

[modes.code]
aliases = ["build"]
models = ["tiny-trained", "tiny-random"]

[modes.architect]
aliases = ["plan"]
models = ["tiny-random"]

[modes.debug]
models = ["tiny-random"]

[modes.autocomplete]
models = ["tiny-trained"]
fallback = ["debug"]

[modes.embed]
models = ["tiny-embedding"]
"#;

/// How long the router may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long a process may take to end before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// All processes of a demonstration.
pub(super) struct Cast {
    folder: PathBuf,
    router: Option<Child>,
    agents: BTreeMap<&'static str, Child>,
}

/// `agent.toml`, as far as the demonstration uses it.
#[derive(serde::Serialize)]
struct AgentFile {
    /// Its own, and empty: each machine has the one model that it is here for.
    model_folder: PathBuf,
    metrics: BTreeMap<&'static str, String>,
    discover: BTreeMap<&'static str, bool>,
    telemetry: BTreeMap<&'static str, String>,
    truth: BTreeMap<&'static str, bool>,
    engines: BTreeMap<&'static str, EngineSection>,
}

impl Cast {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, router: None, agents: BTreeMap::new() }
    }

    pub(super) fn router_data(&self) -> PathBuf {
        self.folder.join("router")
    }

    /// Starts everything; each agent joins with a token of its own, as a person would have it do.
    pub(super) async fn start(&mut self, flags: &DemoFlags, engine: &BundledEngine) -> anyhow::Result<()> {
        let data = self.router_data();
        std::fs::create_dir_all(&data).with_context(|| format!("creating {}", data.display()))?;
        std::fs::write(data.join("router.toml"), format!("[telemetry]\nlog = \"error\"\n{MODES}"))?;
        // Stale credentials of an earlier demonstration in the same folder must not be mistaken for new ones.
        drop(std::fs::remove_file(data.join("operator/address")));
        let args = ["--clients", &flags.clients, "--agents", &flags.agents, "--operators", &flags.operators];
        self.router = Some(spawn(&data, "router", &args)?);
        let mut operator = OperatorClient::new(self.operator().await?);
        let models = [
            ("msi", "tiny-trained.gguf", TINY, false, None),
            ("beelink", "tiny-random.gguf", "tiny-random", false, Some(RANDOM)),
            ("strix-1", "tiny-embedding.gguf", "tiny-embedding", true, Some(EMBEDDING)),
        ];
        for (name, file, alias, embedding, bytes) in models {
            let folder = self.folder.join(name);
            std::fs::create_dir_all(&folder)?;
            let model = match bytes {
                None => engine.model(),
                Some(bytes) => {
                    std::fs::write(folder.join(file), bytes)?;
                    folder.join(file)
                }
            };
            share_engine(engine, &folder)?;
            write_agent_file(&folder, bundled_section(model, alias, embedding))?;
            let request = CreateTokenRequest { role: "node".into(), name: name.into(), ttl_s: 600 };
            let reply = operator.create_token(request).await?.into_inner();
            let token: JoinToken = reply.token.parse()?;
            join(&reply.agents_address, &token, name, &folder.join("agent")).await?;
            std::fs::write(folder.join("agent/router"), format!("{}\n", reply.agents_address))?;
            self.agents.insert(name, spawn(&folder, "agent", &[])?);
        }
        Ok(())
    }

    /// A channel to the router's operator plane, as soon as it listens.
    pub(super) async fn operator(&mut self) -> anyhow::Result<Channel> {
        let folder = self.router_data().join("operator");
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.router.as_mut().and_then(|router| router.try_wait().ok().flatten()) {
                let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
                // The router has printed its own error above.
                return Err(Complaint::new("the demonstration's router ended at once").exit(code).into());
            }
            let error = match (std::fs::read_to_string(folder.join("address")), Credentials::load(&folder)) {
                (Ok(address), Ok(credentials)) => match channel(address.trim(), &credentials).await {
                    Ok(channel) => return Ok(channel),
                    Err(error) => error.to_string(),
                },
                (Err(error), _) => error.to_string(),
                (_, Err(error)) => error.to_string(),
            };
            if tokio::time::Instant::now() > deadline {
                return Err(failed("the demonstration's router does not answer", error).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills one agent as a power cut would: no signal that it could handle.
    pub(super) async fn kill(&mut self, name: &str) -> anyhow::Result<Option<u32>> {
        let Some(mut agent) = self.agents.remove(name) else { return Ok(None) };
        let pid = agent.id();
        agent.kill().await?;
        Ok(pid)
    }

    /// Ends every process: agents first, so that they can say goodbye.
    pub(super) async fn stop(&mut self) {
        for (_, agent) in std::mem::take(&mut self.agents) {
            end(agent).await;
        }
        if let Some(router) = self.router.take() {
            end(router).await;
        }
    }
}

/// Starts a part of the demonstration from this same program. Its input is a pipe that we hold open: when we
/// are gone, it ends.
fn spawn(data: &Path, part: &str, args: &[&str]) -> anyhow::Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg("--data")
        .arg(data)
        .args(["demo-part", part])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        // Ctrl-C at the terminal is for the demonstration, which then ends its parts in order.
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting the {part} process"))
}

async fn end(mut process: Child) {
    if let Some(pid) = process.id().and_then(|pid| i32::try_from(pid).ok()) {
        let pid = nix::unistd::Pid::from_raw(pid);
        if let Err(error) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM) {
            tracing::debug!(%error, "the process has ended already");
        }
    }
    if tokio::time::timeout(STOP_LIMIT, process.wait()).await.is_err() {
        tracing::warn!("a process did not end within {} s and is killed", STOP_LIMIT.as_secs());
        drop(process.kill().await);
    }
}

fn write_agent_file(folder: &Path, section: EngineSection) -> anyhow::Result<()> {
    let file = AgentFile {
        model_folder: folder.join("models"),
        metrics: BTreeMap::from([("listen", String::new())]),
        discover: BTreeMap::from([("enabled", false)]),
        telemetry: BTreeMap::from([("log", "error".into())]),
        // Two of the three models have random weights: what they say is no language.
        truth: BTreeMap::from([("prompts", false)]),
        engines: BTreeMap::from([("llama", section)]),
    };
    let text = toml_edit::ser::to_string_pretty(&file)?;
    Ok(std::fs::write(folder.join("agent.toml"), text)?)
}

/// Lets an agent's data folder use the engine that is installed once for all.
fn share_engine(engine: &BundledEngine, folder: &Path) -> anyhow::Result<()> {
    let link = folder.join("engine");
    if link.exists() {
        return Ok(());
    }
    let script = engine.script();
    let home = script.parent().context("the engine's folder")?;
    let home = std::fs::canonicalize(home)?;
    std::os::unix::fs::symlink(&home, &link).with_context(|| format!("linking {}", link.display()))
}
