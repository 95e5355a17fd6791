//! The programs that practise, as a person starts and ends them.

use crate::questions::{self, Asker, question};
use integration_tests::{eventually, soon};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// Where they are.
pub(crate) struct Programs(PathBuf);

/// What a daemon may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Processors {
    One,
    All,
}

impl fmt::Display for Processors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::One => "one processor",
            Self::All => "all processors",
        })
    }
}

/// Some of them at work, in folders of their own.
pub(crate) struct Running {
    pub(crate) url: String,
    pub(crate) key: String,
    children: Vec<Child>,
    _folders: Vec<TempDir>,
}

impl Programs {
    /// Those of a folder such as `target/dist`.
    pub(crate) fn of(folder: &Path) -> Self {
        // cargo starts this in the folder of its package, and people name folders from where they are.
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        Self(workspace.join(folder))
    }

    fn command(&self, program: &str, data: &Path, arguments: &[&str]) -> Command {
        Self::finished(Command::new(self.0.join(program)), data, arguments)
    }

    fn finished(mut command: Command, data: &Path, arguments: &[&str]) -> Command {
        command.arg("--data").arg(data).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        command.env_remove("RUST_LOG").kill_on_drop(true);
        command
    }

    fn start(&self, program: &str, data: &Path, arguments: &[&str], processors: Processors) -> Child {
        let mut command = match processors {
            Processors::All => self.command(program, data, arguments),
            Processors::One => {
                let mut taskset = Command::new("taskset");
                taskset.args(["--cpu-list", "0"]).arg(self.0.join(program));
                Self::finished(taskset, data, arguments)
            }
        };
        let started = command.spawn();
        started.unwrap_or_else(|error| panic!("cannot start {program} in {}: {error}", self.0.display()))
    }

    /// What a program printed that ends by itself.
    async fn said(&self, program: &str, data: &Path, arguments: &[&str]) -> String {
        let output = self.command(program, data, arguments).stdout(Stdio::piped()).output().await;
        let output =
            output.unwrap_or_else(|error| panic!("cannot start {program} in {}: {error}", self.0.display()));
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `modemesh up`.
    pub(crate) async fn one_machine(&self, engines: &[&str], processors: Processors) -> Running {
        let data = tempfile::tempdir().expect("a temporary folder");
        let ports = configure_router(data.path());
        configure_agent(data.path(), engines);
        let child = self.start("modemesh", data.path(), &["up", "--yes"], processors);
        let key = eventually("the key of modemesh up", async || {
            std::fs::read_to_string(data.path().join("api-key")).ok().filter(|key| !key.is_empty())
        });
        let key = key.await.trim().to_owned();
        Running::answering(ports[0], key, vec![child], vec![data]).await
    }

    /// `mesh-router run` and a `mesh-agent run` that has joined it.
    pub(crate) async fn mesh(&self, engines: &[&str], processors: Processors) -> Running {
        let data = tempfile::tempdir().expect("a temporary folder");
        let ports = configure_router(data.path());
        self.said("mesh-router", data.path(), &["init"]).await;
        let router = self.start("mesh-router", data.path(), &["run"], processors);
        eventually("the router's start", async || {
            let mut status = self.command("meshctl", data.path(), &["status"]);
            let ended = status.stderr(Stdio::null()).status().await;
            ended.is_ok_and(|status| status.success()).then_some(())
        })
        .await;
        let key = self.said("meshctl", data.path(), &["key", "create", "practice"]).await;
        let key = key.split_whitespace().find(|word| word.starts_with("mk_")).expect("a key").to_owned();
        let token = self.said("meshctl", data.path(), &["token", "create", "--role", "node"]).await;
        let token = token.lines().next().expect("a token").to_owned();
        let own = tempfile::tempdir().expect("a temporary folder");
        configure_agent(own.path(), engines);
        let router_address = format!("127.0.0.1:{}", ports[1]);
        self.said("mesh-agent", own.path(), &["join", "--name", "practice", &router_address, &token]).await;
        let agent = self.start("mesh-agent", own.path(), &["run"], processors);
        // The agent ends first: its goodbye is part of what it practises.
        Running::answering(ports[0], key, vec![agent, router], vec![data, own]).await
    }
}

impl Running {
    async fn answering(port: u16, key: String, children: Vec<Child>, folders: Vec<TempDir>) -> Self {
        let url = format!("http://127.0.0.1:{port}");
        let asker = Asker::new(&url, &key);
        for model in [questions::SHORT, questions::LONG] {
            eventually(&format!("an answer of {model}"), async || asker.has(model).await.then_some(())).await;
        }
        asker.ask(&question(0)).await;
        Self { url, key, children, _folders: folders }
    }

    /// Ends them as systemd does, and waits: what they recorded is written at their end.
    pub(crate) async fn end(mut self) {
        for child in &mut self.children {
            let id = child.id().and_then(|id| i32::try_from(id).ok()).expect("it runs");
            kill(Pid::from_raw(id), Signal::SIGTERM).expect("it runs");
            let ended = soon("the end of a program", child.wait()).await.expect("our child");
            assert!(ended.success(), "a program ended with {ended}");
        }
    }
}

/// Three ports that are free now: for clients, agents and operators.
fn configure_router(data: &Path) -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let ports = listeners.each_ref().map(|listener| listener.local_addr().expect("bound").port());
    let [clients, agents, operators] = ports;
    let text = format!(
        "[listen]\nclients = \"127.0.0.1:{clients}\"\nagents = \"127.0.0.1:{agents}\"\noperators = \"127.0.0.1:{operators}\"\n"
    );
    std::fs::write(data.join("router.toml"), text).expect("a file in our folder");
    ports
}

fn configure_agent(data: &Path, engines: &[&str]) {
    let engines = engines.iter().enumerate();
    // Their answers are made up, which a check would find.
    let engines: String = engines
        .map(|(number, url)| format!("[engines.e{number}]\nkind = \"openai\"\nurl = \"{url}\"\n"))
        .collect();
    let text =
        format!("[discover]\nenabled = false\n[truth]\nenabled = false\n[metrics]\nlisten = \"\"\n{engines}");
    std::fs::write(data.join("agent.toml"), text).expect("a file in our folder");
}
