//! A `/proc` of a test's own: processes with their ticks, and who listens where.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;

/// The engine's port in the tables below.
pub(in crate::trial) const PORT: u16 = 0x1F90;
/// The agent's process.
pub(in crate::trial) const AGENT: u32 = 7;

/// Number, parent, and ticks: its own of user and kernel, those of its children that have ended.
pub(in crate::trial) type Process = (u32, u32, [u64; 4]);

pub(in crate::trial) struct Tree {
    folder: TempDir,
}

impl Tree {
    /// Nobody listens.
    pub(in crate::trial) fn of(stat: &str, processes: &[Process]) -> Self {
        let tree = Self { folder: tempfile::tempdir().expect("a folder") };
        fs::create_dir_all(tree.root().join("proc/net")).expect("a folder");
        fs::write(tree.root().join("proc/net/tcp"), "  sl  local_address rem_address   st\n")
            .expect("a file");
        tree.becomes(stat, processes);
        tree
    }

    pub(in crate::trial) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Time has passed; processes that are not among these have ended.
    pub(in crate::trial) fn becomes(&self, stat: &str, processes: &[Process]) {
        let proc = self.root().join("proc");
        fs::write(proc.join("stat"), stat).expect("a file");
        for entry in fs::read_dir(&proc).expect("a folder").flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            if pid.is_some_and(|pid| processes.iter().all(|(one, ..)| *one != pid)) {
                fs::remove_dir_all(entry.path()).expect("it goes");
            }
        }
        for (pid, parent, [user, system, of_children, in_kernel]) in processes {
            let line = format!(
                "{pid} (an (odd) name) S {parent} 1 1 0 -1 4194560 9 9 0 0 {user} {system} {of_children} {in_kernel} 20 0\n"
            );
            fs::create_dir_all(proc.join(format!("{pid}/fd"))).expect("a folder");
            fs::write(proc.join(format!("{pid}/stat")), line).expect("a file");
        }
    }

    /// A line of `table` (`tcp` or `tcp6`): a socket in `state` at `local`.
    pub(in crate::trial) fn socket(&self, table: &str, local: &str, state: &str, inode: u64) {
        let file = self.root().join("proc/net").join(table);
        let before = fs::read_to_string(&file).unwrap_or_default();
        let line = format!(
            "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0\n"
        );
        fs::write(file, before + &line).expect("a file");
    }

    /// `pid` has the socket `inode` open.
    pub(in crate::trial) fn holds(&self, pid: u32, inode: u64) {
        let link = self.root().join(format!("proc/{pid}/fd/{inode}"));
        symlink(format!("socket:[{inode}]"), link).expect("a link");
    }

    /// `pid` listens at the engine's port.
    pub(in crate::trial) fn listens(&self, pid: u32) {
        self.socket("tcp", "0100007F:1F90", "0A", u64::from(pid) + 1000);
        self.holds(pid, u64::from(pid) + 1000);
    }
}
