//! Which engines `modemesh up` works with: those configured, those already running here, or the bundled one.

use mesh_core::machine::EngineKind;
use mesh_daemon::complaint::Complaint;
use node_agent::config::{AgentConfig, BUNDLED, EngineSection};
use node_agent::engine::bundled::BundledEngine;
use node_agent::engine::discover::{Finding, identify};
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// The tiny model's name towards clients.
pub const TINY: &str = "tiny-trained";

/// Tokens the tiny model was trained for.
pub const TINY_CONTEXT: u32 = 2048;

/// What was found to work with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// `agent.toml` names engines.
    Configured(usize),
    /// Engines answer on this machine: kind and URL.
    Running(Vec<(EngineKind, String)>),
    /// None: the bundled engine was set up.
    Bundled,
}

/// Chooses engines and, where there are none, sets up the bundled one and adds it to `config`. `yes` answers
/// the question whether to install; `say` gets each step.
///
/// # Errors
/// A complaint when nobody agreed to install, or when installing failed.
pub async fn choose(
    data: &Path,
    config: &mut AgentConfig,
    yes: bool,
    say: impl Fn(&str) + Clone + Send + 'static,
) -> Result<Found, Complaint> {
    if !config.engines.is_empty() {
        return Ok(Found::Configured(config.engines.len()));
    }
    let running = running(config).await;
    if !running.is_empty() {
        return Ok(Found::Running(running));
    }
    let engine = bundled(&data.join("engine"), yes, say).await?;
    config.engines.insert(BUNDLED.into(), bundled_section(engine.model(), TINY, false));
    Ok(Found::Bundled)
}

/// A section of `agent.toml` for the bundled engine with one model.
#[must_use]
pub fn bundled_section(model: PathBuf, alias: &str, embedding: bool) -> EngineSection {
    EngineSection {
        kind: Some(EngineKind::LlamaServer.word().into()),
        program: Some(BUNDLED.into()),
        model: Some(model),
        alias: Some(alias.into()),
        context: Some(TINY_CONTEXT),
        slots: Some(2),
        embedding,
        ..EngineSection::default()
    }
}

async fn running(config: &AgentConfig) -> Vec<(EngineKind, String)> {
    let mut found = Vec::new();
    if config.discover.enabled {
        for address in &config.discover.addresses {
            let url = if address.contains("://") { address.clone() } else { format!("http://{address}") };
            if let Finding::Engine(kind) = identify(&url).await {
                found.push((kind, url));
            }
        }
    }
    found
}

/// The bundled engine in `folder`, installed if need be.
///
/// # Errors
/// A complaint when nobody agreed to install, or when installing failed.
pub async fn bundled(
    folder: &Path,
    yes: bool,
    say: impl Fn(&str) + Clone + Send + 'static,
) -> Result<BundledEngine, Complaint> {
    if let Some(engine) = BundledEngine::find(folder) {
        return Ok(engine);
    }
    if !yes && !agreed(folder)? {
        return Err(Complaint::new("no engine to work with")
            .cause("no engine answers on this machine, and the bundled one was declined")
            .hint("start Ollama or llama-server, or say yes to the bundled engine"));
    }
    let target = folder.to_owned();
    let installed = tokio::task::spawn_blocking(move || BundledEngine::install(&target, say)).await;
    let installed =
        installed.map_err(|error| Complaint::new("installing the bundled engine failed").cause(error))?;
    installed.map_err(|error| {
        Complaint::new("the bundled engine could not be installed").cause(&error).hint(error.hint())
    })
}

/// Asks on the terminal; without one, nobody can answer.
fn agreed(folder: &Path) -> Result<bool, Complaint> {
    let (mut err, input) = (std::io::stderr(), std::io::stdin());
    if !input.is_terminal() || !err.is_terminal() {
        return Err(Complaint::new("no engine answers on this machine, and installing one needs a yes")
            .hint(
                "modemesh up --yes   installs the bundled engine (a 34 MB download) into the data folder",
            ));
    }
    let question = format!(
        "No engine answers on this machine.\nInstall the bundled llama.cpp (34 MB download, 102 MB in {})? [y/N] ",
        folder.display()
    );
    let mut line = String::new();
    let asked = err
        .write_all(question.as_bytes())
        .and_then(|()| err.flush())
        .and_then(|()| input.lock().read_line(&mut line));
    asked.map_err(|error| {
        Complaint::new("the question could not be asked").cause(error).hint("modemesh up --yes")
    })?;
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}
