//! `mesh-router`: the head of a mesh on a machine of its own.

use clap::{Parser, Subcommand};
use mesh_daemon::{complaint, data_folder, stop_signal, telemetry};
use router::app::{Router, init};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Routes requests by mode to the machines of a mesh.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// Where keys, ledger and configuration are kept [default: $MODEMESH_DATA, else ~/.local/share/modemesh].
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the mesh's certificate authority, once.
    Init,
    /// Serves clients, agents and operators until Ctrl-C.
    Run(router::cli::RunFlags),
}

fn main() -> ExitCode {
    let runtime = mesh_daemon::runtime::build().map_err(anyhow::Error::from);
    complaint::conclude(runtime.and_then(|runtime| runtime.block_on(run(Cli::parse()))))
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let data = cli.data.unwrap_or_else(data_folder::default);
    let mut out = std::io::stdout();
    match cli.command {
        Command::Init => {
            let mesh = init(&data)?;
            writeln!(out, "mesh CA   {}\npin       {}", data.join("router/ca.pem").display(), mesh.pin)?;
            write!(std::io::stderr(), "\n{}", router::cli::after_init(mesh.is_new, &data))?;
        }
        Command::Run(flags) => {
            let settings = flags.settings(&data)?;
            let _telemetry = telemetry::init(&settings.telemetry, "mesh-router")?;
            let stop = stop_signal::on_ctrl_c_or_term()?;
            let router = Router::start(&data, settings, stop).await?;
            writeln!(out, "clients    {}/v1", router.client_url())?;
            writeln!(out, "agents     {} (TCP and UDP)\noperators  {}", router.agents, router.operators)?;
            if router.is_new {
                write!(std::io::stderr(), "\n{}", router::cli::after_founding(&data))?;
            }
            router.stopped().await;
        }
    }
    Ok(())
}
