//! What can be typed about records that are kept, where one of them is made by the verb itself.

use clap::Subcommand;

/// `meshctl validate …`, `meshctl stress …`
#[derive(Debug, Subcommand)]
pub(crate) enum KeptCommand {
    /// List those that were kept, newest first
    List,
    /// Show one of them again
    Show {
        /// Which: its id or the beginning of it [default: the newest]
        #[arg(value_name = "ID")]
        id: Option<String>,
    },
}
