//! One machine of a test mesh: an agent that has joined as real ones do, in the test's own process or in a
//! process of its own.

use crate::client::Client;
use crate::engine_fixture::engine_folder;
use mesh_core::id::{MachineId, ModelId};
use mesh_proto::identity::JoinToken;
use mesh_proto::identity::join::join;
use node_agent::app::{Agent, AgentOptions, Uplink};
use node_agent::config::{self, RunFlags};
use node_agent::router_link::Identity;
use prometheus_client::registry::Registry;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// An engine of a test node.
#[derive(Debug, Clone)]
pub enum EngineSpec {
    /// The bundled engine with a model, started by the agent.
    Real {
        /// The GGUF file.
        file: PathBuf,
        /// The model's name.
        model: String,
        /// Tokens of one request.
        context: u32,
        /// Requests at once.
        slots: u32,
        /// Makes embeddings.
        embedding: bool,
    },
    /// A llama-server that runs already.
    At {
        /// Where.
        url: String,
        /// Its model.
        model: String,
    },
}

impl EngineSpec {
    /// A real engine for chats.
    #[must_use]
    pub fn real(file: PathBuf, model: &str, context: u32, slots: u32) -> Self {
        Self::Real { file, model: model.into(), context, slots, embedding: false }
    }

    /// A real engine for embeddings.
    #[must_use]
    pub fn embedding(file: PathBuf, model: &str) -> Self {
        Self::Real { file, model: model.into(), context: 512, slots: 1, embedding: true }
    }

    /// A scripted engine.
    #[must_use]
    pub fn scripted(engine: &crate::scripted_engine::ScriptedEngine) -> Self {
        Self::At { url: engine.url.clone(), model: engine.model().into() }
    }

    /// The name of its model.
    #[must_use]
    pub fn model(&self) -> &str {
        match self {
            Self::Real { model, .. } | Self::At { model, .. } => model,
        }
    }

    fn toml(&self, number: usize) -> String {
        let settings = match self {
            Self::Real { file, model, context, slots, embedding } => format!(
                "program = \"bundled\"\nmodel = {:?}\nalias = {model:?}\ncontext = {context}\nslots = {slots}\nembedding = {embedding}\n",
                file.display().to_string()
            ),
            Self::At { url, .. } => format!("kind = \"llama-server\"\nurl = {url:?}\n"),
        };
        format!("[engines.engine-{number}]\n{settings}")
    }
}

/// A data folder with `agent.toml`, the bundled engine, and credentials from a real join.
pub(crate) async fn joined(
    name: &MachineId,
    router: &str,
    token: &JoinToken,
    engines: &[EngineSpec],
) -> TempDir {
    let data = tempfile::tempdir().expect("a temporary folder");
    let sections: String = engines.iter().enumerate().map(|(at, engine)| engine.toml(at)).collect();
    // No checks: their questions take slots that tests count, and models with random weights fail them. No models
    // but those of the test: the engine's folder has one of its own.
    let text = format!(
        "model_folder = {:?}\n[discover]\nenabled = false\n[truth]\nenabled = false\n[metrics]\nlisten = \"\"\n{sections}",
        data.path().join("models").display().to_string()
    );
    std::fs::write(data.path().join("agent.toml"), text).expect("a file in our folder");
    std::os::unix::fs::symlink(absolute(&engine_folder()), data.path().join("engine"))
        .expect("a link in our folder");
    let folder = data.path().join("agent");
    crate::soon("the join", join(router, token, name.as_str(), &folder))
        .await
        .expect("the router takes the token");
    std::fs::write(folder.join("router"), router).expect("a file in our folder");
    data
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).expect("a path")
}

/// An agent in the test's process, on threads of its own. Dropping it ends it abruptly.
pub struct TestNode {
    /// Its name.
    pub name: MachineId,
    agent: Option<Agent>,
    runtime: Option<Runtime>,
    stop: CancellationToken,
    metrics: Registry,
    data: TempDir,
}

impl TestNode {
    pub(crate) async fn start(name: MachineId, router: &str, data: TempDir) -> Self {
        let config = config::read(data.path(), &RunFlags::default()).expect("our own configuration").value;
        let identity = Identity::open(&data.path().join("agent")).expect("joined");
        let options = AgentOptions {
            data: data.path().into(),
            name: name.clone(),
            root: "/".into(),
            uplink: Some(Uplink { router: router.into(), identity }),
        };
        let (runtime, stop) = (own_threads(), CancellationToken::new());
        let token = stop.clone();
        let starting = runtime.spawn(async move {
            let mut metrics = Registry::default();
            Agent::start(options, &config, &mut metrics, token).await.map(|agent| (agent, metrics))
        });
        let (agent, metrics) = starting.await.expect("no panic").expect("the agent starts");
        Self { name, agent: Some(agent), runtime: Some(runtime), stop, metrics, data }
    }

    /// The agent inside.
    ///
    /// # Panics
    /// After its end.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("it runs")
    }

    /// Its certificate chain as it is kept now.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn certificate(&self) -> Vec<u8> {
        std::fs::read(self.data.path().join("agent/chain.pem")).expect("it has joined")
    }

    /// A client of the engine itself, past the mesh.
    ///
    /// # Panics
    /// When the node does not serve `model` now.
    pub async fn engine(&self, model: &str) -> Client {
        let model = ModelId::new(model).expect("a good name");
        let lease = self.agent().supervisor.lease(&model).await.expect("a loaded model");
        Client::new(&lease.base_url, lease.api_key.as_deref())
    }

    /// What its `/metrics` says.
    #[must_use]
    pub fn metrics(&self) -> String {
        mesh_daemon::metrics_endpoint::render(&self.metrics)
    }

    /// Ends it as a crash would: no goodbye, and every connection is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// Stops it as SIGTERM would.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(agent) = self.agent.take() {
            crate::soon("the agent's end", agent.stopped()).await;
        }
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.end();
    }
}

/// Threads of its own, so that everything on them can be ended at once.
pub(crate) fn own_threads() -> Runtime {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.worker_threads(1).enable_all().build().expect("threads")
}

/// Names the data folder to a process that shall be an agent.
const DATA: &str = "MESH_TEST_AGENT_DATA";

/// An agent in a process of its own: what `mesh-agent run` does, in the test's own program.
pub struct NodeProcess {
    /// Its name.
    pub name: MachineId,
    child: Child,
    _data: TempDir,
}

impl NodeProcess {
    pub(crate) fn start(name: MachineId, data: TempDir) -> Self {
        let program = std::env::current_exe().expect("this program");
        let child = Command::new(program)
            .args(["--exact", "agent_process", "--ignored", "--nocapture"])
            .env(DATA, data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("this program again");
        Self { name, child, _data: data }
    }

    /// `kill -9`. Returns when the process is gone.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Fails when it is gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The body of the test `agent_process`, which every test program with a [`NodeProcess`] has, ignored: runs the
/// agent when started for that, and returns at once otherwise.
///
/// # Panics
/// When the agent ends with a complaint.
pub fn be_an_agent_if_asked() {
    let Some(data) = std::env::var_os(DATA).map(PathBuf::from) else { return };
    let config = config::read(&data, &RunFlags::default()).expect("our own configuration").value;
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(node_agent::app::run(&data, config, CancellationToken::new())).expect("the agent runs");
}
