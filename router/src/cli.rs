//! The flags of a running router, shared by `mesh-router run` and `modemesh up`.

use crate::config::{self, Settings};
use clap::Args;
use mesh_daemon::complaint::Complaint;
use std::path::{Path, PathBuf};

/// What may be given on the command line besides the data folder.
#[derive(Debug, Clone, Default, Args)]
pub struct RunFlags {
    /// The router's configuration [default: router.toml in the data folder, if it is there].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where clients connect (HTTP) [default: 127.0.0.1:7400].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub clients: Option<String>,
    /// Where agents connect (TCP and UDP) [default: 127.0.0.1:7401].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub agents: Option<String>,
    /// Where operators connect [default: 127.0.0.1:7402].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub operators: Option<String>,
}

impl RunFlags {
    /// The configuration with these flags on top.
    ///
    /// # Errors
    /// A complaint (exit code 78) with all problems.
    pub fn settings(self, data: &Path) -> Result<Settings, Complaint> {
        let found = data.join("router.toml");
        let file = self.config.or_else(|| found.exists().then_some(found));
        let flags = [
            ("listen.clients", self.clients),
            ("listen.agents", self.agents),
            ("listen.operators", self.operators),
        ];
        config::load(file, flags.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
    }
}
