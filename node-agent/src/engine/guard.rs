//! What keeps an engine that eats all memory from taking the machine with it: it dies before others do, and
//! where the agent owns a cgroup (systemd's `Delegate=`), each engine has one of its own and dies whole.
//!
//! ```text
//! <the unit's cgroup>/agent          the agent itself: a group with children may hold no process
//!                    /engine-NAME    one engine with all it started; memory.oom.group = 1
//! ```
//! None of this bounds memory on graphics processors, nor what AMD's driver maps of RAM: those are kept by the
//! ledger alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Engines go before everything else that a person runs (0), and before nothing the kernel needs.
const ENGINE_SCORE: &str = "500";
/// The agent stays, to tell what happened.
const AGENT_SCORE: &str = "-500";

/// The cgroup that was delegated to this process, once [`claim`] has found one.
static DELEGATED: OnceLock<PathBuf> = OnceLock::new();

/// Makes `pid` one of the first to go when memory runs out.
pub(super) fn dies_first(pid: u32) {
    if let Err(error) = fs::write(format!("/proc/{pid}/oom_score_adj"), ENGINE_SCORE) {
        tracing::debug!(pid, %error, "an engine's place among those that go first when memory runs out is not set");
    }
}

/// Prepares the agent's own process: it stays when memory runs out, and its cgroup is made ready for engines where
/// it was delegated. Called once, by the agent that is a program of its own.
pub fn claim() {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", AGENT_SCORE) {
        tracing::debug!(%error, "the agent may not protect itself against running out of memory");
    }
    let own = fs::read_to_string("/proc/self/cgroup").ok();
    let Some(own) = own.as_deref().and_then(path_in) else { return };
    match prepare(&Path::new("/sys/fs/cgroup").join(own), std::process::id()) {
        Ok(group) => drop(DELEGATED.set(group)),
        Err(error) => tracing::debug!(%error, "engines get no cgroups of their own"),
    }
}

/// The path of a process in the one hierarchy: `0::/system.slice/mesh-agent.service`.
fn path_in(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/")).filter(|path| !path.is_empty())
}

/// Moves process `pid` into a leaf of `group` and lets children of `group` have the memory controller.
fn prepare(group: &Path, pid: u32) -> io::Result<PathBuf> {
    // A group that was not delegated belongs to somebody else, even where root may write to it.
    let delegated = group.extension().is_some_and(|kind| kind == "service");
    if !delegated {
        return Err(io::Error::other(format!("{} is no service's", group.display())));
    }
    let leaf = group.join("agent");
    if !leaf.exists() {
        fs::create_dir(&leaf)?;
    }
    fs::write(leaf.join("cgroup.procs"), pid.to_string())?;
    fs::write(group.join("cgroup.subtree_control"), "+memory")?;
    Ok(group.to_owned())
}

/// Puts `pid` into a cgroup of its own, where there may be one.
pub(super) fn enclose(name: &str, pid: u32) -> Option<Enclosure> {
    let group = DELEGATED.get()?;
    match Enclosure::make(group, name, pid) {
        Ok(enclosure) => Some(enclosure),
        Err(error) => {
            tracing::warn!(engine = name, %error, "the engine has no cgroup of its own");
            None
        }
    }
}

/// One engine's cgroup; gone when dropped.
#[derive(Debug)]
pub(super) struct Enclosure {
    folder: PathBuf,
}

impl Enclosure {
    fn make(group: &Path, name: &str, pid: u32) -> io::Result<Self> {
        let folder = group.join(format!("engine-{name}"));
        if !folder.exists() {
            fs::create_dir(&folder)?;
        }
        let enclosure = Self { folder };
        // Half an engine serves nobody.
        fs::write(enclosure.folder.join("memory.oom.group"), "1")?;
        fs::write(enclosure.folder.join("cgroup.procs"), pid.to_string())?;
        Ok(enclosure)
    }

    /// How often the kernel killed for memory in it.
    pub(super) fn kills(&self) -> u64 {
        fs::read_to_string(self.folder.join("memory.events")).map_or(0, |text| counter(&text, "oom_kill"))
    }
}

impl Drop for Enclosure {
    fn drop(&mut self) {
        // Refused while a process is left in it: then the next engine of this name uses it.
        drop(fs::remove_dir(&self.folder));
    }
}

/// How often the kernel killed a process of this machine because memory ran out.
pub(super) fn kills_on_this_machine() -> u64 {
    fs::read_to_string("/proc/vmstat").map_or(0, |text| counter(&text, "oom_kill"))
}

/// The number behind `name` in lines of `name number`.
fn counter(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the files that the kernel would make: a stand-in for the cgroup file system, which tests may
    /// not change.
    fn group() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().expect("a folder");
        let group = root.path().join("mesh-agent.service");
        fs::create_dir(&group).expect("a folder");
        (root, group)
    }

    #[test]
    fn a_service_s_group_gets_a_leaf_for_the_agent_and_one_for_each_engine() {
        let (_root, group) = group();
        assert_eq!(prepare(&group, 7).expect("writable"), group);
        assert_eq!(fs::read_to_string(group.join("agent/cgroup.procs")).expect("moved"), "7");
        assert_eq!(fs::read_to_string(group.join("cgroup.subtree_control")).expect("enabled"), "+memory");
        let enclosure = Enclosure::make(&group, "tiny", 8).expect("writable");
        let folder = group.join("engine-tiny");
        assert_eq!(fs::read_to_string(folder.join("cgroup.procs")).expect("moved"), "8");
        assert_eq!(fs::read_to_string(folder.join("memory.oom.group")).expect("whole"), "1");
        assert_eq!(enclosure.kills(), 0);
        fs::write(folder.join("memory.events"), "low 0\noom 3\noom_kill 2\noom_group_kill 1\n")
            .expect("a file");
        assert_eq!(enclosure.kills(), 2);
    }

    #[test]
    fn a_session_s_group_is_left_alone() {
        let root = tempfile::tempdir().expect("a folder");
        assert!(prepare(root.path(), 7).is_err());
        assert!(prepare(Path::new("/nonexistent/mesh-agent.service"), 7).is_err());
        assert_eq!(fs::read_dir(root.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn only_the_one_hierarchy_counts() {
        let path = Some("system.slice/mesh-agent.service");
        assert_eq!(path_in("12:memory:/x\n0::/system.slice/mesh-agent.service\n"), path);
        assert_eq!(path_in("0::/\n"), None);
        assert_eq!(path_in("5:cpu:/y\n"), None);
    }
}
