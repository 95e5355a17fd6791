//! One agent for each folder.

use mesh_daemon::complaint::Complaint;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::Path;

/// Two agents with one certificate would take turns with one name, each with engines of its own. The lock ends with the
/// process, however that ends.
pub(crate) fn alone(folder: &Path) -> Result<Flock<File>, Complaint> {
    let path = folder.join("lock");
    let failed = |error: &dyn std::fmt::Display| {
        Complaint::new(format!("cannot lock {}", path.display())).cause(error)
    };
    let file = File::create(&path).map_err(|error| failed(&error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => Err(Complaint::new("another mesh-agent runs with this folder")
            .cause(format!("it holds {}", path.display()))
            .hint("stop that one first, or give this one a folder and a name of its own: --data DIR, mesh-agent join")),
        Err((_, error)) => Err(failed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_agent_s_until_that_has_ended() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = alone(folder.path()).expect("free");
        let second = alone(folder.path()).expect_err("taken").to_string();
        let lock = folder.path().join("lock");
        assert!(
            second.contains("another mesh-agent runs") && second.contains(&*lock.to_string_lossy()),
            "{second}"
        );
        drop(first);
        assert!(alone(folder.path()).is_ok());
    }
}
