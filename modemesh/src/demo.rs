//! `modemesh demo`: a router and three agents as processes of their own on loopback, each with a real engine.
//! One request per mode shows where each goes and why; then a node is killed, and its requests go elsewhere.

mod cast;
mod show;

use crate::engines;
use cast::Cast;
use clap::{Args, Subcommand};
use mesh_daemon::complaint::Complaint;
use mesh_daemon::{data_folder, stop_signal, telemetry};
use router::app::Router;
use router::cli::RunFlags;
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// What may be said on the command line.
#[derive(Debug, Clone, Args)]
pub struct DemoFlags {
    /// Install the bundled engine without asking, if it is not there yet.
    #[arg(long, short)]
    pub yes: bool,
    /// End after the show instead of waiting for Ctrl-C.
    #[arg(long)]
    pub exit: bool,
    /// Where clients connect.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7400")]
    pub clients: String,
    /// Where agents connect (TCP and UDP).
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7401")]
    pub agents: String,
    /// Where operators connect.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7402")]
    pub operators: String,
}

/// One process of the demonstration. It ends when its standard input closes, so that nothing outlives a
/// demonstration that was killed.
#[derive(Debug, Clone, Subcommand)]
pub enum Part {
    /// The router.
    Router(RunFlags),
    /// One agent.
    Agent,
}

/// Runs one process of the demonstration.
///
/// # Errors
/// Those of the router and of the agent.
pub async fn run_part(data: &Path, part: Part) -> anyhow::Result<()> {
    let stop = stop_signal::on_ctrl_c_or_term()?;
    end_with_stdin(stop.clone());
    match part {
        Part::Router(flags) => {
            let settings = flags.settings(data)?;
            let _telemetry = telemetry::init(&settings.telemetry, "mesh-router")?;
            Router::start(data, settings, stop).await?.stopped().await;
        }
        Part::Agent => {
            let config = node_agent::config::read(data, &node_agent::config::RunFlags::default())?.value;
            let _telemetry = telemetry::init(&config.telemetry, "mesh-agent")?;
            node_agent::app::run(data, config, stop).await?;
        }
    }
    Ok(())
}

fn end_with_stdin(stop: CancellationToken) {
    std::thread::spawn(move || {
        // Ends at the end of the input and at any error of it: both mean that the parent is gone.
        drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        stop.cancel();
    });
}

/// Runs the demonstration. `data` is kept when it is given; otherwise a temporary folder is used.
///
/// # Errors
/// A complaint when the engine, a port or a process fails.
pub async fn run(data: Option<PathBuf>, flags: DemoFlags) -> anyhow::Result<()> {
    let stop = stop_signal::on_ctrl_c_or_term()?;
    let say = |step: &str| drop(writeln!(std::io::stderr(), "  {step}"));
    let home = data.clone().unwrap_or_else(data_folder::default);
    data_folder::create_private(&home)?;
    // Shared with `up`, so that it is fetched once.
    let engine = engines::bundled(&home.join("engine"), flags.yes, say).await?;
    let folder = match &data {
        Some(folder) => folder.join("demo"),
        None => std::env::temp_dir().join(format!("modemesh-demo-{}", std::process::id())),
    };
    data_folder::create_private(&folder)?;
    let mut cast = Cast::new(folder.clone());
    let played = tokio::select! {
        played = play(&mut cast, &flags, &engine, &stop) => played,
        () = stop.cancelled() => Ok(()),
    };
    say("stopping every process");
    cast.stop().await;
    if data.is_none() {
        // A folder that stays behind in the temporary folder does no harm.
        drop(std::fs::remove_dir_all(&folder));
    }
    played
}

async fn play(
    cast: &mut Cast,
    flags: &DemoFlags,
    engine: &node_agent::engine::bundled::BundledEngine,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "Starting a router and three nodes, each a process with its own llama.cpp …")?;
    cast.start(flags, engine).await?;
    let mut show = show::Show::open(cast).await?;
    show.wait_until_ready(cast).await?;
    show.one_request_per_mode(&mut out).await?;
    show.kill_a_node(cast, &mut out).await?;
    let exe = std::env::current_exe().map_or_else(|_| "modemesh".into(), |path| path.display().to_string());
    writeln!(out, "\nLook around:\n  {exe} meshctl --data {} status", cast.router_data().display())?;
    writeln!(out, "  {exe} meshctl --data {} explain", cast.router_data().display())?;
    out.flush()?;
    if !flags.exit {
        writeln!(out, "\nCtrl-C stops everything.")?;
        stop.cancelled().await;
    }
    Ok(())
}

fn failed(what: &str, cause: impl std::fmt::Display) -> Complaint {
    Complaint::new(what).cause(cause)
}
