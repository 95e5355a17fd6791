//! Who used the processors between two looks: the agent with all that it started, or others.
//!
//! ```text
//! share of others = (busy - ours) / all, each the difference of two looks, in the kernel's ticks
//! busy  /proc/stat: all but idle and waiting for disks; what a hypervisor gave to others is busy, too
//! ours  /proc/PID/stat of this process and its descendants, with those of their children that have ended
//! ```
//! What an engine does is ours only where one of these processes listens at its address (`/proc/net/tcp`, `/proc/PID/fd`). An
//! engine that somebody else started, or that its start script handed to a container or to systemd, is none of them: then
//! nothing is known, and its own work is not taken for that of others.

use reqwest::Url;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// A process's line has under 400 bytes, the first of all processors under 200.
const LINE_LIMIT: u64 = 4096;
/// The kernel tells who listens before all other connections: some thousand lines of 150 bytes.
const SOCKETS_LIMIT: u64 = 1 << 20;
/// A socket's state in the kernel's table: it listens (TCP_LISTEN of tcp_states.h).
const LISTENS: &str = "0A";
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
    /// As they stand now below `root`, which is `/` but in tests. `None` where the kernel does not tell, or who listens at
    /// `port` is not `own` or a descendant.
    fn read(root: &Path, own: u32, port: u16) -> Option<Self> {
        let proc = root.join("proc");
        let (all, busy) = processors(&line(&proc.join("stat"))?)?;
        let family = family(&proc, own)?;
        let ours = family.values().sum();
        listens(&proc, family.keys(), port).then_some(Self { all, busy, ours })
    }

    /// The share that others had since `before`; `None` = too little time, a clock that went backwards, or a process that
    /// has left the family with its ticks.
    pub(super) fn others_since(&self, before: &Self) -> Option<f32> {
        let all = self.all.checked_sub(before.all).filter(|ticks| *ticks >= LEAST_TICKS)?;
        let busy = self.busy.checked_sub(before.busy)?;
        let ours = self.ours.checked_sub(before.ours)?;
        // The kernel counts both for themselves: some ticks may be in one and not yet in the other.
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
    port: u16,
}

impl Processors {
    /// Beside the engine at `base_url` of this machine. `None`: the agent did not start it, so nobody knows its processes.
    pub(super) fn beside(root: &Path, is_ours: bool, base_url: &str) -> Option<Self> {
        let port = Url::parse(base_url).ok()?.port_or_known_default()?;
        is_ours.then(|| Self { root: root.to_owned(), own: std::process::id(), port })
    }

    /// The same with another process as the agent's.
    #[cfg(test)]
    pub(super) fn of_agent(self, own: u32) -> Self {
        Self { own, ..self }
    }

    /// Reads some hundred small files of memory.
    pub(super) async fn read(&self) -> Option<Ticks> {
        let Self { root, own, port } = self.clone();
        tokio::task::spawn_blocking(move || Ticks::read(&root, own, port)).await.ok().flatten()
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

/// `own` and its descendants, with their ticks.
fn family(proc: &Path, own: u32) -> Option<BTreeMap<u32, u64>> {
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
        ours.map(|(pid, process)| (*pid, process.ticks)).collect()
    })
}

/// Whether all that listens at 127.0.0.1 and `port` is open in one of `family`, and there is any.
fn listens<'a>(proc: &Path, family: impl Iterator<Item = &'a u32>, port: u16) -> bool {
    let tables = ["net/tcp", "net/tcp6"];
    let mut open: BTreeSet<String> =
        tables.iter().flat_map(|table| listeners(&proc.join(table), port)).collect();
    if open.is_empty() {
        return false;
    }
    for pid in family {
        // Of a process that has ended, or changed its user, nobody may know.
        for entry in fs::read_dir(proc.join(format!("{pid}/fd"))).into_iter().flatten().flatten() {
            if let Ok(target) = fs::read_link(entry.path()) {
                open.remove(&*target.to_string_lossy());
            }
        }
    }
    open.is_empty()
}

/// The sockets of a table that answer who asks 127.0.0.1 at `port`, as links to them are called.
fn listeners(table: &Path, port: u16) -> Vec<String> {
    let Ok(file) = fs::File::open(table) else { return Vec::new() };
    let lines = BufReader::new(file.take(SOCKETS_LIMIT)).lines().map_while(Result::ok);
    lines.filter_map(|line| listener(&line, port)).collect()
}

/// `sl: ADDRESS:PORT remote state queues timer retransmits uid timeout inode …`, addresses in hexadecimal.
fn listener(line: &str, port: u16) -> Option<String> {
    let words: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
    let (address, at) = words.get(1)?.split_once(':')?;
    let answers = match address_of(address)? {
        IpAddr::V4(one) => one == Ipv4Addr::LOCALHOST || one.is_unspecified(),
        IpAddr::V6(one) => one.is_unspecified() || one.to_ipv4_mapped() == Some(Ipv4Addr::LOCALHOST),
    };
    let is_it = answers && words.get(3) == Some(&LISTENS) && u16::from_str_radix(at, 16) == Ok(port);
    is_it.then(|| words.get(9).map(|inode| format!("socket:[{inode}]")))?
}

/// Words of four bytes, each as this machine keeps it in memory.
fn address_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    if hex.len() == 8 {
        return Some(IpAddr::V4(Ipv4Addr::from(word(0)?)));
    }
    let words = [word(0)?, word(8)?, word(16)?, word(24)?];
    Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?)))
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
    use crate::trial::tests::proc_tree::{AGENT, PORT, Process, Tree};
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::process::{Command, Stdio};

    /// The agent itself answers for its engine.
    fn ticks(stat: &str, processes: &[Process]) -> Option<Ticks> {
        let tree = Tree::of(stat, processes);
        if processes.iter().any(|(pid, ..)| *pid == AGENT) {
            tree.listens(AGENT);
        }
        Ticks::read(tree.root(), AGENT, PORT)
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
        let left = Ticks { ours: before.ours - 1, ..after };
        assert_eq!(left.others_since(&before), None, "somebody has left with his ticks");
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_not_known() {
        let agent = [(7, 1, [10, 10, 0, 0])];
        assert_eq!(ticks("intr 7\n", &agent), None);
        assert_eq!(ticks("cpu  1 2 three 4\n", &agent), None);
        assert_eq!(ticks("cpu  1 2 3 4 5 6 7 8\n", &[(8, 1, [1; 4])]), None, "nobody sees the agent itself");
        assert!(ticks("cpu  1 2 3 4\n", &agent).is_some(), "old kernels tell four");
        assert_eq!(Ticks::read(Path::new("/nonexistent"), AGENT, PORT), None);
    }

    #[test]
    fn an_engine_is_ours_where_our_process_listens_at_its_port() {
        let tree = || {
            Tree::of(
                "cpu  1 2 3 4\n",
                &[(AGENT, 1, [1; 4]), (8, AGENT, [1; 4]), (9, 8, [1; 4]), (10, 1, [1; 4])],
            )
        };
        let seen = |tree: &Tree| Ticks::read(tree.root(), AGENT, PORT).is_some();
        let at = |pid: u32| {
            let tree = tree();
            tree.listens(pid);
            tree
        };
        assert!(seen(&at(9)) && !seen(&at(10)) && !seen(&tree()));
        let both = at(9);
        both.listens(10);
        assert!(!seen(&both), "nobody knows which of them answers");
        // At all addresses, and those of the newer protocol that take the older one's connections.
        let mapped = "0000000000000000FFFF00000100007F:1F90";
        for (table, local) in
            [("tcp", "00000000:1F90"), ("tcp6", mapped), ("tcp6", &format!("{:032}:1F90", 0))]
        {
            let tree = tree();
            tree.socket(table, local, "0A", 5);
            assert!(!seen(&tree), "{local} is nobody's");
            tree.holds(9, 5);
            assert!(seen(&tree), "{local}");
        }
        // Another port, another address, a connection, and a line that is cut off.
        for (local, state) in
            [("0100007F:1F91", "0A"), ("0501A8C0:1F90", "0A"), ("0100007F:1F90", "01"), ("01:1F90", "0A")]
        {
            let tree = tree();
            tree.socket("tcp", local, state, 5);
            tree.holds(9, 5);
            assert!(!seen(&tree), "{local} {state}");
        }
    }

    #[test]
    fn only_an_engine_that_the_agent_started_is_watched() {
        let of =
            |is_ours, url| Processors::beside(Path::new("/"), is_ours, url).map(|seen| (seen.own, seen.port));
        assert_eq!(of(true, "http://127.0.0.1:8080"), Some((std::process::id(), 8080)));
        assert_eq!(of(false, "http://127.0.0.1:8080"), None);
        assert_eq!(of(true, ""), None);
    }

    #[test]
    fn the_kernel_tells_of_a_family_that_works_and_of_who_listens() {
        let (root, proc) = (Path::new("/"), Path::new("/proc"));
        if processors(&line(&proc.join("stat")).unwrap_or_default()).is_none() {
            return;
        }
        // A shell, whose own child works and ends, and who then waits for a line.
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done'; echo done; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut said = String::new();
        BufReader::new(shell.stdout.take().expect("piped")).read_line(&mut said).expect("it says so");
        assert_eq!(said, "done\n");
        let of_shell = family(proc, shell.id()).expect("it lives").values().sum::<u64>();
        let of_us = family(proc, std::process::id()).expect("we live");
        assert!(of_shell >= 5, "{of_shell} ticks of a loop of 400,000");
        assert!(of_us.contains_key(&shell.id()) && of_us.values().sum::<u64>() >= of_shell);

        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("just bound").port();
        assert!(Ticks::read(root, std::process::id(), port).is_some(), "we listen");
        assert_eq!(Ticks::read(root, shell.id(), port), None, "the shell does not");
        shell.stdin.take().expect("piped").write_all(b"\n").expect("it reads");
        shell.wait().expect("it ends");
    }
}
