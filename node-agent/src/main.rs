//! `mesh-agent`: join a mesh, run this machine's part of it, or say what this machine is.

use clap::{Parser, Subcommand};
use mesh_daemon::{complaint, data_folder, stop_signal, telemetry};
use node_agent::{app, config, doctor, probe};
use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

/// The hands of modemesh on one machine
#[derive(Parser)]
#[command(name = "mesh-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The mesh's data folder [default: $MODEMESH_DATA, else ~/.local/share/modemesh]
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Trade a one-use token for this machine's certificate
    Join(app::JoinFlags),
    /// Install the bundled llama.cpp into the data folder, for engines with program = "bundled"
    InstallEngine,
    /// Run until stopped
    Run(config::RunFlags),
    /// Say what this machine tells the router of itself
    Probe(probe::ProbeFlags),
    /// Say what limits this machine and how to change it
    Doctor(doctor::DoctorFlags),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = mesh_daemon::runtime::build().map_err(anyhow::Error::from).and_then(|runtime| {
        let result = runtime.block_on(act(cli));
        // A driver that hangs while it is read must not keep the process.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    });
    complaint::conclude(result)
}

async fn act(cli: Cli) -> anyhow::Result<()> {
    let data = cli.data.unwrap_or_else(data_folder::default);
    let said = match cli.command {
        Command::Join(flags) => app::join_router(&data, &flags).await?,
        Command::InstallEngine => app::install_engine(&data).await?,
        Command::Run(flags) => {
            let config = config::read(&data, &flags)?.value;
            let _telemetry = telemetry::init(&config.telemetry, "mesh-agent")?;
            return Ok(app::run(&data, config, stop_signal::on_ctrl_c_or_term()?).await?);
        }
        Command::Probe(flags) => probe::describe(&data, &flags)?,
        Command::Doctor(flags) => doctor::describe(&data, &flags)?,
    };
    Ok(std::io::stdout().write_all(said.as_bytes())?)
}
