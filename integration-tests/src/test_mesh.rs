//! A whole mesh in one test process: a router on free loopback ports and nodes that joined it over TLS, gRPC
//! and QUIC, each on threads of its own so that it can be ended like a process.

use crate::client::Client;
use crate::test_node::{EngineSpec, NodeProcess, TestNode, joined, own_threads};
use mesh_core::fleet::MachineView;
use mesh_core::health::Liveness;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{EngineState, ReplicaState};
use mesh_daemon::clock::unix_ms;
use mesh_daemon::config_layers::KeyLines;
use mesh_proto::identity::{Credentials, JoinToken, Role, connect};
use mesh_proto::v1::operator_client::OperatorClient;
use mesh_proto::v1::{ExplainReply, ExplainRequest};
use router::app::{Router, operator_folder};
use router::config::{ModeConfig, RouterConfig, Settings, check};
use router::fleet_keeper::Snapshot;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// A running mesh. Dropping it ends the router abruptly.
pub struct TestMesh {
    router: Option<Router>,
    runtime: Option<Runtime>,
    stop: CancellationToken,
    settings: Settings,
    key: String,
    data: TempDir,
}

/// A mode of a test's configuration: `mode("code", &["tiny"], &["ask"])`.
#[must_use]
pub fn mode(name: &str, models: &[&str], fallback: &[&str]) -> (String, ModeConfig) {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    (name.into(), ModeConfig { models: words(models), fallback: words(fallback), ..ModeConfig::default() })
}

impl TestMesh {
    /// A mesh whose modes are automatic.
    pub async fn automatic() -> Self {
        Self::start(|_| ()).await
    }

    /// A mesh with these modes.
    pub async fn with_modes(modes: impl IntoIterator<Item = (String, ModeConfig)>) -> Self {
        Self::start(|config| config.modes.extend(modes)).await
    }

    /// A mesh with whatever `configure` sets.
    ///
    /// # Panics
    /// When that makes no sense.
    pub async fn start(configure: impl FnOnce(&mut RouterConfig)) -> Self {
        let mut config = RouterConfig::default();
        for listen in [&mut config.listen.clients, &mut config.listen.agents, &mut config.listen.operators] {
            "127.0.0.1:0".clone_into(listen);
        }
        configure(&mut config);
        let settings = check(config, "a test".into(), &KeyLines::default()).expect("it makes sense");
        let data = tempfile::tempdir().expect("a temporary folder");
        let (runtime, stop) = (own_threads(), CancellationToken::new());
        let router = start_router(&runtime, data.path(), &settings, &stop).await.expect("the router starts");
        let (_, key) = router.ledger.create_key("test", unix_ms()).await.expect("a key");
        Self { router: Some(router), runtime: Some(runtime), stop, settings, key, data }
    }

    /// The router inside.
    ///
    /// # Panics
    /// Never: there is one at all times.
    #[must_use]
    pub fn router(&self) -> &Router {
        self.router.as_ref().expect("it is only away within `restart_router`")
    }

    /// The API key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The data folder, with the credentials of the operator on this machine.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// A client with the API key.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&self.router().client_url(), Some(&self.key))
    }

    /// A node that has joined and serves all models of `engines`.
    pub async fn node(&self, name: &str, engines: &[EngineSpec]) -> TestNode {
        self.node_by_way_of(self.router().agents, name, engines).await
    }

    /// The same, for a node that reaches the router at another address.
    pub async fn node_by_way_of(&self, router: SocketAddr, name: &str, engines: &[EngineSpec]) -> TestNode {
        self.node_with(router, name, engines, "").await
    }

    /// The same, with `settings` at the beginning of its `agent.toml`.
    pub async fn node_with(
        &self,
        router: SocketAddr,
        name: &str,
        engines: &[EngineSpec],
        settings: &str,
    ) -> TestNode {
        let (name, router) = (machine(name), router.to_string());
        let data = joined(&name, &router, &self.token(&name).await, engines, settings).await;
        let node = TestNode::start(name, &router, data).await;
        self.until_serves(&node.name, engines).await;
        node
    }

    /// A node in a process of its own. The test's program must have the test `agent_process`.
    pub async fn node_process(&self, name: &str, engines: &[EngineSpec]) -> NodeProcess {
        self.node_process_with(name, engines, "").await
    }

    /// The same, with `settings` at the beginning of its `agent.toml`.
    pub async fn node_process_with(&self, name: &str, engines: &[EngineSpec], settings: &str) -> NodeProcess {
        let name = machine(name);
        let router = self.router().agents.to_string();
        let data = joined(&name, &router, &self.token(&name).await, engines, settings).await;
        let node = NodeProcess::start(name, data);
        self.until_serves(&node.name, engines).await;
        node
    }

    async fn token(&self, name: &MachineId) -> JoinToken {
        let router = self.router();
        let life = Duration::from_secs(60);
        let made = router.ledger.create_token(Role::Node, Some(name.clone()), life, unix_ms()).await;
        let (id, secret) = made.expect("a token");
        JoinToken { pin: router.pin.clone(), id, secret }
    }

    /// Resolves when `name` serves all models of `engines`.
    pub async fn until_serves(&self, name: &MachineId, engines: &[EngineSpec]) {
        self.until(&format!("{name} serves {engines:?}"), |snapshot| {
            let machine = snapshot.view.machine(name);
            engines.iter().all(|engine| machine.is_some_and(|machine| serves(machine, engine.model())))
        })
        .await;
    }

    /// Resolves when `wanted` is true of the fleet.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until(&self, what: &str, mut wanted: impl FnMut(&Snapshot) -> bool) {
        let mut snapshots = self.router().fleet.snapshots();
        let seen = tokio::time::timeout(crate::PATIENCE, snapshots.wait_for(|snapshot| wanted(snapshot)));
        match seen.await {
            Ok(snapshot) => drop(snapshot.expect("the router lives")),
            Err(_) => panic!("not in time: {what}; the fleet is {:#?}", self.router().fleet.snapshot().view),
        }
    }

    /// Resolves when no request is counted anywhere any more: not in the router, not in `nodes`.
    pub async fn until_idle(&self, nodes: &[&TestNode]) {
        crate::eventually("the router counts no request", async || {
            self.router().in_flight.load().is_empty().then_some(())
        })
        .await;
        for node in nodes {
            let mut counted = node.agent().serve.in_flight();
            let what = format!("{} counts no request", node.name);
            drop(crate::soon(&what, counted.wait_for(|&count| count == 0)).await.expect("the agent lives"));
        }
    }

    /// A client of the operator plane, with the credentials of the operator on this machine.
    ///
    /// # Panics
    /// When there is no way in.
    pub async fn operator(&self) -> OperatorClient<Channel> {
        let folder = operator_folder(self.data.path());
        let address = std::fs::read_to_string(folder.join("address")).expect("written at the start");
        let credentials = Credentials::load(&folder).expect("written at the start");
        OperatorClient::new(connect::channel(&address, &credentials).await.expect("an operator may come in"))
    }

    /// What the router says of a request.
    ///
    /// # Panics
    /// When it does not know it.
    pub async fn explain(&self, request_id: &str) -> ExplainReply {
        let request = ExplainRequest { request_id: request_id.into() };
        self.operator().await.explain(request).await.expect("a known request").into_inner()
    }

    /// Kills the router as a crash would and starts it again on the same ports and folder.
    ///
    /// # Panics
    /// When it does not start again.
    pub async fn restart_router(&mut self) {
        let old = self.router();
        (self.settings.clients, self.settings.agents, self.settings.operators) =
            (old.clients, old.agents, old.operators);
        self.router = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let (runtime, stop) = (own_threads(), CancellationToken::new());
        // Its threads let go of ports and files one by one.
        let router = crate::eventually("the router starts again", async || {
            start_router(&runtime, self.data.path(), &self.settings, &stop).await.ok()
        })
        .await;
        (self.router, self.runtime, self.stop) = (Some(router), Some(runtime), stop);
    }

    /// Stops the router as SIGTERM would.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(router) = self.router.take() {
            crate::soon("the router's end", router.stopped()).await;
        }
    }
}

impl Drop for TestMesh {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn start_router(
    runtime: &Runtime,
    data: &Path,
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<Router, String> {
    let (data, settings, stop) = (data.to_owned(), settings.clone(), stop.clone());
    let starting = runtime.spawn(async move { Router::start(&data, settings, stop).await });
    starting.await.expect("no panic").map_err(|complaint| complaint.to_string())
}

/// A machine's name.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn machine(name: &str) -> MachineId {
    MachineId::new(name).expect("a good name")
}

/// Whether requests for `model` can go to `machine` right now.
#[must_use]
pub fn serves(machine: &MachineView, model: &str) -> bool {
    let replica = ModelId::new(model).ok().and_then(|model| machine.replica(&model));
    machine.liveness == Liveness::Alive
        && machine.path.is_some()
        && replica.is_some_and(|(engine, replica)| {
            engine.state == EngineState::Up && replica.state == ReplicaState::Loaded
        })
}
