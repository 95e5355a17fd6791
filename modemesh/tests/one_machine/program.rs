//! Starting, reading and ending the real program.

use node_agent::engine::bundled::BundledEngine;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Where the engine for tests is, once for all of them.
fn engine_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-engine")
}

/// A data folder that has the bundled engine already. `None` (and a loud line) without an engine; with
/// `CI=true` that is a failure.
pub(crate) fn data_with_engine() -> Option<TempDir> {
    let data = tempfile::tempdir().expect("a temporary folder");
    let said = |_: &str| {};
    match BundledEngine::install(&engine_folder(), said) {
        Ok(_) => {
            let home = std::fs::canonicalize(engine_folder()).expect("just installed");
            std::os::unix::fs::symlink(home, data.path().join("engine")).expect("a link");
            Some(data)
        }
        Err(error) if std::env::var("CI").is_ok_and(|ci| ci == "true") => {
            panic!("no engine to test with: {error}")
        }
        Err(error) => {
            // Past the test harness, which keeps a passing test's output to itself.
            let loud = format!("\n*** SKIPPED: no engine to test with: {error}\n");
            std::io::stderr().write_all(loud.as_bytes()).expect("stderr");
            None
        }
    }
}

/// A running `modemesh`. Killed when dropped.
pub(crate) struct Program {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    stderr: std::sync::mpsc::Receiver<String>,
}

/// What a program has printed so far.
pub(crate) struct Said {
    pub(crate) text: String,
}

impl Said {
    /// What follows `label` on its line.
    pub(crate) fn value(&self, label: &str) -> String {
        let found = self.text.lines().find_map(|line| line.trim().strip_prefix(label));
        found.unwrap_or_else(|| panic!("no `{label}` in\n{}", self.text)).trim().to_owned()
    }
}

/// The command with ports that the system chooses, away from any mesh of the person who runs the tests.
fn command(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modemesh"));
    command.arg("--data").arg(data).args(arguments);
    if arguments.first() == Some(&"up") || arguments.first() == Some(&"demo") {
        for flag in ["--clients", "--agents", "--operators"] {
            if !arguments.contains(&flag) {
                command.args([flag, "127.0.0.1:0"]);
            }
        }
    }
    // Engines of the person who runs the tests are not ours to use.
    command.env("MODEMESH_AGENT_DISCOVER__ENABLED", "false").env_remove("RUST_LOG");
    command
}

impl Program {
    pub(crate) fn start(data: &Path, arguments: &[&str]) -> Self {
        let mut child = command(data, arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let lines = read_lines(child.stdout.take().expect("piped"));
        let stderr = read_lines(child.stderr.take().expect("piped"));
        Self { child, lines, stderr }
    }

    /// Runs to the end.
    pub(crate) fn run(data: &Path, arguments: &[&str]) -> Output {
        command(data, arguments).stdin(Stdio::null()).output().expect("the program starts")
    }

    /// Runs to the end with another environment.
    pub(crate) fn run_with(data: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = command(data, arguments);
        command.envs(environment.iter().copied()).stdin(Stdio::null()).output().expect("the program starts")
    }

    /// Everything printed up to the line that holds `mark`.
    pub(crate) fn until(&mut self, mark: &str) -> Said {
        let (mut text, deadline) = (String::new(), Instant::now() + LIMIT);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                let errors: Vec<String> = self.stderr.try_iter().collect();
                panic!("`{mark}` never came; stdout:\n{text}\nstderr:\n{}", errors.join("\n"));
            };
            text.push_str(&line);
            text.push('\n');
            if line.contains(mark) {
                return Said { text };
            }
        }
    }

    /// The engines that are children of the program.
    pub(crate) fn engines(&self) -> Vec<u32> {
        children_of(self.child.id())
    }

    /// Ctrl-C; the exit code.
    pub(crate) fn interrupt(&mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
        self.child.wait().expect("it ends").code()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already in every test that passes.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn read_lines(from: impl Read + Send + 'static) -> std::sync::mpsc::Receiver<String> {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name in brackets: state, parent.
        let parent_field = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
        parent_field.and_then(|field| field.parse().ok()) == Some(parent)
    })
    .collect()
}

/// Whether a process has ended (a zombie has).
pub(crate) fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']))
}

/// Waits for something outside of our reach, such as the end of a grandchild.
pub(crate) fn wait_until(mut ready: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + LIMIT;
    while !ready() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

/// A reply to a plain HTTP request.
pub(crate) struct Reply {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_default()
    }
}

/// One POST without any library, as a reader of the answer's very bytes.
pub(crate) fn post(url: &str, key: &str, body: &Value) -> Reply {
    let rest = url.strip_prefix("http://").expect("plain http");
    let (host, path) = rest.split_once('/').expect("a path");
    let mut stream = TcpStream::connect(host).expect("the router listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let body = body.to_string();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("written");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

/// The output as JSON.
pub(crate) fn json_of(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&said).unwrap_or_else(|error| {
        panic!("{error}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    })
}
