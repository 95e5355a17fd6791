//! Plans followed by real machines: three agents with real engines and models on their disks, one router, and what an
//! operator does with them.

use integration_tests::client::Client;
use integration_tests::engine_fixture::{real_engine, trained_model};
use integration_tests::test_mesh::{TestMesh, mode, serves};
use integration_tests::test_node::TestNode;
use mesh_core::id::ModelId;
use mesh_core::machine::{Replica, ReplicaState};
use mesh_core::placement::Plan;
use mesh_proto::v1::operator_client::OperatorClient;
use mesh_proto::v1::{ModeSetting, PlanReply, PlanRequest, SetModeRequest, SetNodeRequest, StatusRequest};
use router::config::{ModeConfig, Tokens};
use router::fleet_keeper::Snapshot;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tonic::transport::Channel;

/// Placed machines, what each has on its disk, and who asks.
struct Placed {
    mesh: TestMesh,
    nodes: BTreeMap<String, TestNode>,
    operator: OperatorClient<Channel>,
    client: Client,
    _disks: tempfile::TempDir,
}

/// `ask` wants `asker` at any price, `code` wants `coder`, `small` wants `little` when somebody asks.
fn wanted() -> [(String, ModeConfig); 3] {
    let sized = |(name, config): (String, ModeConfig), residency: &str| {
        let tokens = |count: &str| Some(Tokens(count.into()));
        let (context, least_context) = (tokens("512"), tokens("256"));
        (name, ModeConfig { context, least_context, residency: Some(residency.into()), ..config })
    };
    [
        sized(mode("ask", &["asker"], &[]), "pinned"),
        sized(mode("code", &["coder"], &[]), "warm"),
        sized(mode("small", &["little"], &[]), "on-demand"),
    ]
}

impl Placed {
    /// `None`, after saying so, where there is no engine. Every machine has `asker`, and those of `coder` and `little` that
    /// are told.
    async fn start() -> Option<Self> {
        if !real_engine().await {
            return None;
        }
        let mesh = TestMesh::start(|config| {
            config.modes.extend(wanted());
            config.placement.machine_pause = "1s".into();
        })
        .await;
        let disks = tempfile::tempdir().expect("a temporary folder");
        let mut nodes = BTreeMap::new();
        for (name, models) in [
            ("n1", &["asker", "coder"][..]),
            ("n2", &["asker", "coder", "little"]),
            ("n3", &["asker", "coder", "little"]),
        ] {
            let folder = disks.path().join(name);
            fill(&folder, models);
            let settings = format!("model_folder = {:?}\n", folder.display().to_string());
            nodes.insert(name.to_owned(), mesh.node_with(mesh.router().agents, name, &[], &settings).await);
        }
        mesh.until("the models are on the disks", |snapshot| {
            let stored: usize = snapshot.view.machines.iter().map(|one| one.store.models.len()).sum();
            stored == 8
        })
        .await;
        let (operator, client) = (mesh.operator().await, mesh.client());
        Some(Self { mesh, nodes, operator, client, _disks: disks })
    }

    async fn plan(&mut self) -> Plan {
        let reply = self.operator.plan(PlanRequest::default()).await.expect("a plan");
        document(&reply.into_inner())
    }

    /// By machine and mode, what the status says of each.
    async fn states(&mut self) -> BTreeMap<String, String> {
        let status = self.operator.status(StatusRequest {}).await.expect("it answers").into_inner();
        let nodes = status.nodes.into_iter().map(|node| (node.name, node.state));
        nodes
            .chain(status.modes.into_iter().map(|mode| (format!("mesh/{}", mode.name), mode.state)))
            .collect()
    }

    /// The one machine that has `model` in memory, once there is one.
    async fn until_on(&self, model: &str, wanted: impl Fn(&str, &Replica) -> bool) -> String {
        let mut found = None;
        self.mesh
            .until(&format!("{model} is where it should be"), |snapshot| {
                found = holders(snapshot, model).into_iter().find(|(name, replica)| wanted(name, replica));
                found.is_some()
            })
            .await;
        found.expect("it was found").0
    }

    /// Asks a mode; returns the machine that answered.
    async fn ask(&self, mode: &str) -> String {
        let body = json!({
            "model": format!("mesh/{mode}"),
            "messages": [{"role": "user", "content": "What is a list?"}],
            "max_tokens": 8,
        });
        let answer = self.client.post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status, 200, "{mode}: {}", answer.text());
        let content: Value = answer.json()["choices"][0]["message"]["content"].clone();
        assert!(content.as_str().is_some_and(|text| !text.is_empty()), "{mode}: {}", answer.text());
        answer.header("x-mesh-node").to_owned()
    }
}

fn fill(folder: &Path, models: &[&str]) {
    std::fs::create_dir(folder).expect("a folder in ours");
    for model in models {
        std::fs::copy(trained_model(), folder.join(format!("{model}.gguf"))).expect("a file in ours");
    }
}

fn document(reply: &PlanReply) -> Plan {
    serde_json::from_str(&reply.plan_json).expect("a plan")
}

/// Machines with `model` in memory, or on its way there.
fn holders(snapshot: &Snapshot, model: &str) -> Vec<(String, Replica)> {
    let id = ModelId::new(model).expect("a good name");
    let mut holders = Vec::new();
    for machine in &snapshot.view.machines {
        let Some((_, replica)) = machine.replica(&id) else { continue };
        let is_there = replica.state == ReplicaState::Loading || serves(machine, model);
        if is_there {
            holders.push((machine.id.to_string(), replica.clone()));
        }
    }
    holders
}

/// Models and their machines.
fn places(plan: &Plan) -> Vec<(String, String)> {
    let mut places: Vec<(String, String)> =
        plan.placed.iter().map(|one| (one.model.to_string(), one.machine.to_string())).collect();
    places.sort();
    places
}

fn is_loaded(_: &str, replica: &Replica) -> bool {
    replica.state == ReplicaState::Loaded
}

#[tokio::test]
async fn a_plan_is_followed_past_a_kill_a_drain_and_a_restart_of_the_router() {
    let Some(mut placed) = Placed::start().await else { return };
    let plan = placed.plan().await;
    assert_eq!(plan.placed.len(), 2, "small waits until somebody asks: {plan:#?}");
    let snapshot = placed.mesh.router().fleet.snapshot();
    assert!(["asker", "coder"].iter().all(|model| holders(&snapshot, model).is_empty()), "only a proposal");

    let context = ModeSetting { name: "context".into(), value: "1K".into(), ..ModeSetting::default() };
    let change = SetModeRequest { mode: "code".into(), settings: vec![context], ..SetModeRequest::default() };
    placed.operator.set_mode(change).await.expect("it is kept");
    let states = placed.states().await;
    assert_eq!(states.get("n1").map(String::as_str), Some("idle"), "{states:?}");
    assert_eq!(states.get("mesh/small").map(String::as_str), Some("on-demand"), "{states:?}");
    placed.operator.apply_plan(PlanRequest::default()).await.expect("it is applied");
    let first = placed.until_on("asker", is_loaded).await;
    let coder = placed.until_on("coder", |name, one| is_loaded(name, one) && one.context == Some(1024)).await;
    let followed = placed.plan().await;
    // Which of three like machines it is depends on what is free on this computer from one moment to the next.
    assert_eq!(places(&followed), [("asker".into(), first.clone()), ("coder".into(), coder)]);
    assert_eq!(followed.changes, []);
    assert_eq!(placed.ask("ask").await, first);

    // Nobody had it in memory, and the machine that answers is one that has the file.
    assert_ne!(placed.ask("small").await, "n1");

    placed.nodes.remove(&first).expect("it runs").kill();
    let second = placed.until_on("asker", |name, replica| name != first && is_loaded(name, replica)).await;
    assert_eq!(placed.ask("ask").await, second);

    let drain = SetNodeRequest { node: second.clone(), wish: "drain".into() };
    placed.operator.set_node(drain).await.expect("it is drained");
    let third = placed.until_on("asker", |name, replica| name != second && is_loaded(name, replica)).await;
    placed
        .mesh
        .until("the drained machine is empty", |snapshot| {
            let held = |model| holders(snapshot, model).iter().any(|(name, _)| *name == second);
            !["asker", "coder", "little"].into_iter().any(held)
        })
        .await;
    let states = placed.states().await;
    assert_eq!(states.get(&second).map(String::as_str), Some("drained"), "{states:?}");
    assert_eq!(placed.ask("ask").await, third);
    assert_eq!(placed.ask("code").await, third, "the only machine that is left");

    let resume = SetNodeRequest { node: second.clone(), wish: "resume".into() };
    placed.operator.set_node(resume).await.expect("it is open");
    let before = placed.plan().await;
    placed.mesh.restart_router().await;
    (placed.operator, placed.client) = (placed.mesh.operator().await, placed.mesh.client());
    assert_eq!(placed.until_on("asker", is_loaded).await, third);
    assert_eq!(placed.ask("ask").await, third);
    let after = placed.plan().await;
    assert_eq!(places(&after), places(&before));
    assert_eq!(after.changes, [], "nothing is loaded twice");
    placed.mesh.stop().await;
}
