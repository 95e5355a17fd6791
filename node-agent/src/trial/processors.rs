//! Who used the processors between two looks: the agent with all that it started, or others.
//!
//! ```text
//! share of others = (busy - ours) / all, each the difference of two looks, in the kernel's ticks
//! busy  /proc/stat: all but idle and waiting for disks; what a hypervisor gave to others is busy, too
//! ours  /proc/PID/stat of this process and its descendants, with those of their children that have ended
//! ```
//! Of an engine that somebody else started nobody knows which processes are its: then nothing is known.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// A process's line has under 400 bytes, the first of all processors under 200.
const LINE_LIMIT: u64 = 4096;
/// Ticks of all processors together between two looks, at least: fewer tell nothing, since each tick is someone's whole.
const LEAST_TICKS: u64 = 20;

/// Time that passed, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticks {
    all: u64,
    busy: u64,
    ours: u64,
}

impl Ticks {
    /// As they stand now below `root`, which is `/` but in tests. `None` where the kernel does not tell.
    pub(super) fn read(root: &Path, own: u32) -> Option<Self> {
        let proc = root.join("proc");
        let (all, busy) = processors(&line(&proc.join("stat"))?)?;
        Some(Self { all, busy, ours: family(&proc, own)? })
    }

    /// The share that others had since `before`; `None` = too little time, or a clock that went backwards.
    pub(super) fn others_since(&self, before: &Self) -> Option<f32> {
        let all = self.all.checked_sub(before.all).filter(|ticks| *ticks >= LEAST_TICKS)?;
        let busy = self.busy.checked_sub(before.busy)?;
        // The kernel counts both for themselves: some ticks may be in one and not yet in the other.
        let ours = self.ours.saturating_sub(before.ours);
        Some((busy.saturating_sub(ours) as f32 / all as f32).min(1.0))
    }

    /// Ticks since `before`, of all processors.
    pub(super) fn since(&self, before: &Self) -> u64 {
        self.all.saturating_sub(before.all)
    }
}

/// Who reads them.
#[derive(Debug, Clone)]
pub(super) struct Processors {
    root: PathBuf,
    own: u32,
}

impl Processors {
    pub(super) fn of_this_machine() -> Self {
        Self { root: "/".into(), own: std::process::id() }
    }

    /// Reads some hundred small files of memory.
    pub(super) async fn read(&self) -> Option<Ticks> {
        let Self { root, own } = self.clone();
        tokio::task::spawn_blocking(move || Ticks::read(&root, own)).await.ok().flatten()
    }
}

/// The beginning of a file, as far as its one line may go.
fn line(path: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(LINE_LIMIT).read_to_string(&mut text).ok()?;
    Some(text)
}

/// All ticks and the busy ones of `cpu  user nice system idle iowait irq softirq steal …`. What guests used is in user.
fn processors(text: &str) -> Option<(u64, u64)> {
    let mut words = text.lines().next()?.split_ascii_whitespace();
    words.next().filter(|word| *word == "cpu")?;
    let ticks: Vec<u64> = words.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let idle = ticks.get(3)? + ticks.get(4).copied().unwrap_or(0);
    let all: u64 = ticks.iter().sum();
    Some((all, all.checked_sub(idle)?))
}

/// Ticks of `own` and its descendants.
fn family(proc: &Path, own: u32) -> Option<u64> {
    let mut processes: BTreeMap<u32, Process> = BTreeMap::new();
    for entry in fs::read_dir(proc).ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended meanwhile has its ticks in its parent's.
        let Some(process) = line(&entry.path().join("stat")).as_deref().and_then(Process::read) else {
            continue;
        };
        processes.insert(pid, process);
    }
    processes.contains_key(&own).then(|| {
        let is_ours = |pid: &u32| {
            let parent = |pid: &u32| processes.get(pid).map(|process| process.parent);
            // A listing that is not of one moment may have a circle in it.
            let line = std::iter::successors(Some(*pid), parent).take(processes.len() + 1);
            line.into_iter().any(|pid| pid == own)
        };
        let ours = processes.iter().filter(|(pid, _)| is_ours(pid));
        ours.map(|(_, process)| process.ticks).sum()
    })
}

struct Process {
    parent: u32,
    /// Its own, and those of its children that it waited for.
    ticks: u64,
}

impl Process {
    /// `PID (any name) state ppid …`: the 14th to the 17th are utime, stime, cutime and cstime (proc(5)).
    fn read(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let words: Vec<&str> = rest.split_ascii_whitespace().take(15).collect();
        let ticks: Vec<u64> =
            words.get(11..15)?.iter().map(|word| word.parse()).collect::<Result<_, _>>().ok()?;
        Some(Self { parent: words.get(1)?.parse().ok()?, ticks: ticks.iter().sum() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these processes: number, parent, and the ticks of its own and of its children.
    fn machine(stat: &str, processes: &[(u32, u32, [u64; 4])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        let proc = root.path().join("proc");
        fs::create_dir(&proc).expect("a folder");
        fs::write(proc.join("stat"), stat).expect("a file");
        for (pid, parent, [user, system, of_children, in_kernel]) in processes {
            let line = format!(
                "{pid} (an (odd) name) S {parent} 1 1 0 -1 4194560 9 9 0 0 {user} {system} {of_children} {in_kernel} 20 0\n"
            );
            fs::create_dir(proc.join(pid.to_string())).expect("a folder");
            fs::write(proc.join(format!("{pid}/stat")), line).expect("a file");
        }
        root
    }

    fn ticks(stat: &str, processes: &[(u32, u32, [u64; 4])]) -> Option<Ticks> {
        Ticks::read(machine(stat, processes).path(), 7)
    }

    #[test]
    fn others_are_what_is_busy_and_not_of_the_agent_s_family() {
        // The agent 7 started a script 8, which started the engine 9; 10 is somebody's compiler.
        let before = ticks(
            "cpu  1000 0 100 5000 50 0 0 0 0 0\ncpu0 1 1 1 1\n",
            &[
                (1, 0, [5; 4]),
                (7, 1, [10, 10, 0, 0]),
                (8, 7, [1, 1, 0, 0]),
                (9, 8, [100, 20, 0, 0]),
                (10, 1, [70; 4]),
            ],
        );
        let (before, grown) = (
            before.expect("it tells"),
            [
                (1, 0, [5; 4]),
                // The script has ended, and the agent has waited for it: its engine's ticks are with it.
                (7, 1, [12, 10, 131, 31]),
                (10, 1, [90; 4]),
            ],
        );
        let after = ticks("cpu  1090 0 110 5060 60 0 0 30 0 0\n", &grown).expect("it tells");
        assert_eq!(after.since(&before), 200);
        // 130 were busy, of which 42 were ours.
        assert_eq!(after.others_since(&before), Some(88.0 / 200.0));
        assert_eq!(before.others_since(&before), None, "no time has passed");
        assert_eq!(before.others_since(&after), None, "nor backwards");
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_not_known() {
        let agent = [(7, 1, [10, 10, 0, 0])];
        assert_eq!(ticks("intr 7\n", &agent), None);
        assert_eq!(ticks("cpu  1 2 three 4\n", &agent), None);
        assert_eq!(ticks("cpu  1 2 3 4 5 6 7 8\n", &[(8, 1, [1; 4])]), None, "nobody sees the agent itself");
        assert!(ticks("cpu  1 2 3 4\n", &agent).is_some(), "old kernels tell four");
        assert_eq!(Ticks::read(Path::new("/nonexistent"), 7), None);
    }

    #[tokio::test]
    async fn a_child_that_works_is_ours_and_a_stranger_is_not() {
        let processors = Processors::of_this_machine();
        let Some(before) = processors.read().await else { return };
        let mut child = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done"])
            .spawn()
            .expect("a shell");
        tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic").expect("it ends");
        let after = processors.read().await.expect("it told before");
        let ours = after.ours - before.ours;
        assert!(ours >= 5, "{ours} ticks of a loop of 400,000");
        assert!(after.busy - before.busy + 2 >= ours / 2, "{before:?} {after:?}");
    }
}
