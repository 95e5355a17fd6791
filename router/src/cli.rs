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
    /// Where clients connect (HTTP); a port alone is one of 127.0.0.1 [default: 127.0.0.1:7400].
    #[arg(long, value_name = "[ADDRESS:]PORT")]
    pub clients: Option<String>,
    /// Where agents connect (TCP and UDP) [default: 127.0.0.1:7401].
    #[arg(long, value_name = "[ADDRESS:]PORT")]
    pub agents: Option<String>,
    /// Where operators connect [default: 127.0.0.1:7402].
    #[arg(long, value_name = "[ADDRESS:]PORT")]
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

/// What `init` says when it is done.
#[must_use]
pub fn after_init(is_new: bool, data: &Path) -> String {
    if is_new {
        return format!("next: mesh-router run --data {}\n", data.display());
    }
    format!(
        "this mesh was made before; nothing has changed. While it runs (mesh-router run --data {0}):\n{1}",
        data.display(),
        ways_in(data)
    )
}

/// What `run` says where it found no mesh.
#[must_use]
pub fn after_founding(data: &Path) -> String {
    format!(
        "{0} held no mesh, so a new one was made, as by `mesh-router init`; if there is one already, stop this and name \
         its folder with --data. Next:\n{1}",
        data.display(),
        ways_in(data)
    )
}

fn ways_in(data: &Path) -> String {
    let data = data.display();
    format!(
        "  a machine joins with   meshctl --data {data} token create --role node\n\
         \x20 a client needs         meshctl --data {data} key create NAME\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::init;

    #[test]
    fn a_second_init_says_that_the_mesh_is_there_and_how_to_get_into_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("new");
        let first = init(&data).expect("an empty folder");
        let second = init(&data).expect("its own mesh");
        assert_eq!((first.is_new, second.is_new), (true, false));
        assert_eq!(first.pin, second.pin);
        let said = after_init(first.is_new, &data);
        assert_eq!(said, format!("next: mesh-router run --data {}\n", data.display()));
        let again = after_init(second.is_new, &data);
        assert!(again.starts_with("this mesh was made before; nothing has changed"), "{again}");
        for said in [again, after_founding(&data)] {
            for command in ["token create --role node\n", "key create NAME\n"] {
                assert!(said.contains(&format!("meshctl --data {} {command}", data.display())), "{said}");
            }
        }
    }
}
