//! `modemesh`: a mesh on one machine, a demonstration of one on three, and `meshctl` built in.

use clap::{Parser, Subcommand};
use mesh_daemon::{complaint, data_folder};
use modemesh::{demo, up};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Routes LLM requests by mode over your machines.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// Where keys, configuration and the bundled engine are kept
    /// [default: $MODEMESH_DATA, else ~/.local/share/modemesh].
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start router and agent on this machine, with the engines that are there or a bundled one.
    Up(up::UpFlags),
    /// Show a mesh of three nodes on this machine: one request per mode, then a node is killed.
    Demo(demo::DemoFlags),
    /// The operator's tool: `modemesh meshctl status`.
    #[command(disable_help_flag = true)]
    Meshctl {
        /// What `meshctl` is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// One process of the demonstration.
    #[command(hide = true, subcommand)]
    DemoPart(demo::Part),
}

fn main() -> ExitCode {
    let Cli { data, command } = Cli::parse();
    if let Command::Meshctl { arguments } = command {
        let folder = data.into_iter().flat_map(|folder| ["--data".into(), folder.into_os_string()]);
        // So that its hints can be pasted.
        let program = format!("{} meshctl", std::env::args_os().next().unwrap_or_default().display());
        return meshctl::run(std::iter::once(program.into()).chain(folder).chain(arguments));
    }
    let folder = data.clone().unwrap_or_else(data_folder::default);
    let work = async {
        match command {
            Command::Up(flags) => up::run(&folder, flags).await,
            Command::Demo(flags) => demo::run(data, flags).await,
            Command::DemoPart(part) => demo::run_part(&folder, part).await,
            // Answered above, before there was a runtime.
            Command::Meshctl { .. } => Ok(()),
        }
    };
    let runtime = mesh_daemon::runtime::build().map_err(anyhow::Error::from);
    complaint::conclude(runtime.and_then(|runtime| runtime.block_on(work)))
}
