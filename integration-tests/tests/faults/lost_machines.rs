//! Machines, routers and networks that go away.

use crate::{CHAT, Pair, chat, streamed};
use integration_tests::client::{Client, data_of};
use integration_tests::engine_fixture::{random_model, real_engine};
use integration_tests::relay::Relay;
use integration_tests::scripted_engine::{Script, ScriptedEngine, Step};
use integration_tests::test_mesh::{TestMesh, machine, mode, serves};
use integration_tests::test_node::EngineSpec;
use integration_tests::{eventually, soon};
use mesh_core::health::Liveness;
use mesh_core::machine::Engine;
use mesh_proto::v1::{SetNodeRequest, StatusRequest};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// One request of the traffic during a kill.
struct Sent {
    at: Instant,
    status: u16,
    node: String,
}

/// Clients that ask one short question after another until told to stop. Answers of the machine `killed` are counted.
fn traffic(
    client: &Client,
    stop: &watch::Receiver<bool>,
    answered: &watch::Sender<usize>,
) -> JoinSet<Vec<Sent>> {
    let mut clients = JoinSet::new();
    for _ in 0..3 {
        let (client, stop, answered) = (client.clone(), stop.clone(), answered.clone());
        clients.spawn(async move {
            let mut sent = Vec::new();
            while !*stop.borrow() {
                let at = Instant::now();
                let answer = client.post(CHAT, &chat("mesh/code")).await;
                let node = answer.header("x-mesh-node").to_owned();
                answered.send_modify(|count| *count += usize::from(node == "killed"));
                sent.push(Sent { at, status: answer.status, node });
            }
            sent
        });
    }
    clients
}

#[tokio::test]
async fn after_kill_9_of_an_agent_requests_go_elsewhere_within_2_5_s_and_no_client_sees_an_error() {
    if !real_engine().await {
        return;
    }
    let mesh = TestMesh::with_modes([mode("code", &["tiny-killed", "tiny-other"], &[])]).await;
    let engine = |model| [EngineSpec::real(random_model(), model, 256, 2)];
    let engines = (engine("tiny-killed"), engine("tiny-other"));
    let (mut killed, other) =
        tokio::join!(mesh.node_process("killed", &engines.0), mesh.node("other", &engines.1));
    let (stop, stopped) = watch::channel(false);
    let client = mesh.client();
    let (answered, mut answers) = watch::channel(0);
    let mut clients = traffic(&client, &stopped, &answered);
    drop(soon("answers before the kill", answers.wait_for(|&count| count >= 3)).await.expect("we count"));

    let killed_at = Instant::now();
    killed.kill();
    mesh.until("the killed machine is not alive", |snapshot| {
        snapshot.view.machine(&killed.name).is_some_and(|machine| machine.liveness != Liveness::Alive)
    })
    .await;
    let noticed = killed_at.elapsed();
    assert!(noticed <= Duration::from_millis(2500), "{noticed:?}");
    mesh.until("the killed machine is offline", |snapshot| {
        snapshot.view.machine(&killed.name).is_some_and(|machine| machine.liveness == Liveness::Offline)
    })
    .await;
    stop.send_replace(true);
    let mut sent = Vec::new();
    while let Some(done) = soon("every client has its answer", clients.join_next()).await {
        sent.extend(done.expect("no client fails"));
    }
    let before = sent.iter().filter(|sent| sent.at < killed_at && sent.node == "killed").count();
    assert!(before > 0, "the killed machine had answered");
    let after: Vec<_> =
        sent.iter().filter(|sent| sent.at > killed_at + Duration::from_millis(2500)).collect();
    assert!(!after.is_empty() && after.iter().all(|sent| sent.node == "other"));
    assert!(sent.iter().all(|sent| sent.status == 200), "an error was seen");
    // The engine did not survive its agent.
    eventually("its engine is gone", async || (engines_of("tiny-killed") == 0).then_some(())).await;
    mesh.until_idle(&[&other]).await;
}

/// Engines that run with `model`.
fn engines_of(model: &str) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir("/proc").expect("these tests need Linux").flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = command.split(|&byte| byte == 0);
        found += usize::from(words.any(|word| word == b"--alias") && words.next() == Some(model.as_bytes()));
    }
    found
}

#[tokio::test]
async fn a_request_that_waits_on_a_killed_machine_is_answered_by_another() {
    let mesh = TestMesh::with_modes([mode("code", &["tiny-a", "tiny-b"], &[])]).await;
    let (engine_a, engine_b) = (ScriptedEngine::start("tiny-a").await, ScriptedEngine::start("tiny-b").await);
    let (spec_a, spec_b) = ([EngineSpec::scripted(&engine_a)], [EngineSpec::scripted(&engine_b)]);
    let (mut killed, other) = tokio::join!(mesh.node_process("killed", &spec_a), mesh.node("other", &spec_b));
    engine_a.next(Script::Silence);
    let client = mesh.client();
    let asking = tokio::spawn(async move { client.post(CHAT, &chat("mesh/code")).await });
    engine_a.until("the request waits", |events| events.posts.len() == 1).await;
    killed.kill();
    let answer = asking.await.expect("no panic");
    assert_eq!((answer.status, answer.header("x-mesh-node")), (200, "other"), "{}", answer.text());
    mesh.until_idle(&[&other]).await;
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the times are worth knowing")]
async fn streams_of_a_killed_agent_are_told_of_it_within_2_s_by_either_way() {
    let models = ["tiny-quic", "tiny-h2"];
    let mesh = TestMesh::with_modes([mode("code", &models, &[])]).await;
    let (engine_a, engine_b) =
        (ScriptedEngine::start(models[0]).await, ScriptedEngine::start(models[1]).await);
    let (spec_a, spec_b) = ([EngineSpec::scripted(&engine_a)], [EngineSpec::scripted(&engine_b)]);
    let (quic, h2) = tokio::join!(
        mesh.node_process_with("quic", &spec_a, "data_link = \"quic\"\n"),
        mesh.node_process_with("h2", &spec_b, "data_link = \"h2\"\n"),
    );
    for (mut node, engine, model) in [(quic, &engine_a, models[0]), (h2, &engine_b, models[1])] {
        engine.next(Script::stream(&["one"], &[Step::Hang]));
        let mut events = mesh.client().events(CHAT, &streamed(chat(model))).await;
        assert_eq!(events.next_text().await, "one");
        let killed = Instant::now();
        node.kill();
        let rest = soon("the stream's end", events.rest()).await;
        let told = killed.elapsed();
        println!("{model}: the client is told after {told:?}");
        let error = data_of(rest.last().expect("an error"))["error"].clone();
        assert_eq!(error["code"], "node_failed_mid_stream", "{rest:?}");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains("its agent has died"), "in our words: {message}");
        let explained = mesh.explain(error["mesh"]["request_id"].as_str().unwrap_or_default()).await;
        assert_eq!(explained.completion_tokens, None, "nobody has told how many");
        assert!(told <= Duration::from_secs(2), "{model}: told after {told:?}");
    }
    mesh.until_idle(&[]).await;
}

#[tokio::test]
async fn after_a_crash_of_the_router_the_agents_come_back_by_themselves_and_serve() {
    let Pair { mut mesh, a, b, engine_a, engine_b } = Pair::start(|_| ()).await;
    for round in 1..=2 {
        mesh.restart_router().await;
        for (node, engine) in [(&a, &engine_a), (&b, &engine_b)] {
            mesh.until_serves(&node.name, &[EngineSpec::scripted(engine)]).await;
            let answer = mesh.client().post(CHAT, &chat(engine.model())).await;
            assert_eq!((answer.status, answer.header("x-mesh-node")), (200, node.name.as_str()), "{round}");
        }
    }
    mesh.until_idle(&[&a, &b]).await;
}

#[tokio::test]
async fn a_machine_without_a_data_link_is_not_chosen_and_says_why() {
    let mesh = TestMesh::with_modes([mode("code", &["tiny-a", "tiny-b"], &[])]).await;
    let relay = Relay::start(mesh.router().agents).await;
    let (engine_a, engine_b) = (ScriptedEngine::start("tiny-a").await, ScriptedEngine::start("tiny-b").await);
    let specs = [EngineSpec::scripted(&engine_a)];
    let behind = mesh.node_with(relay.address, "behind", &specs, "data_link = \"quic\"\n").await;
    let open = mesh.node("open", &[EngineSpec::scripted(&engine_b)]).await;
    let client = mesh.client();
    assert_eq!(client.post(CHAT, &chat("mesh/code")).await.header("x-mesh-node"), "behind");

    relay.let_udp_pass(false);
    mesh.until("there is no data link", |snapshot| {
        snapshot.view.machine(&behind.name).is_some_and(|machine| machine.path.is_none())
    })
    .await;
    mesh.until("the machine itself is alive", |snapshot| {
        snapshot.view.machine(&behind.name).is_some_and(|machine| machine.liveness == Liveness::Alive)
    })
    .await;
    let answer = client.post(CHAT, &chat("mesh/code")).await;
    assert_eq!((answer.status, answer.header("x-mesh-node")), (200, "open"), "{}", answer.text());
    let told = mesh.explain(answer.header("x-mesh-request-id")).await;
    let why = told.candidates.iter().find(|candidate| candidate.node == "behind").map(|c| c.why.as_str());
    assert!(why.is_some_and(|why| why.starts_with("no data link")), "{why:?}");
    let refused = client.post(CHAT, &chat("tiny-a")).await.error(503, "no_node_available");
    assert!(
        refused["message"].as_str().is_some_and(|text| text.contains("behind: no data link")),
        "{refused}"
    );

    relay.let_udp_pass(true);
    mesh.until("the data link is back", |snapshot| {
        snapshot.view.machine(&machine("behind")).is_some_and(|machine| serves(machine, "tiny-a"))
    })
    .await;
    assert_eq!(client.post(CHAT, &chat("mesh/code")).await.header("x-mesh-node"), "behind");
    mesh.until_idle(&[&behind, &open]).await;
}

#[tokio::test]
async fn a_request_that_meets_a_lost_data_link_is_answered_by_another_machine() {
    let mesh = TestMesh::with_modes([mode("code", &["tiny-a", "tiny-b"], &[])]).await;
    let relay = Relay::start(mesh.router().agents).await;
    let (engine_a, engine_b) = (ScriptedEngine::start("tiny-a").await, ScriptedEngine::start("tiny-b").await);
    let specs = [EngineSpec::scripted(&engine_a)];
    let behind = mesh.node_with(relay.address, "behind", &specs, "data_link = \"quic\"\n").await;
    let open = mesh.node("open", &[EngineSpec::scripted(&engine_b)]).await;
    relay.let_udp_pass(false);
    let answer = mesh.client().post(CHAT, &chat("mesh/code")).await;
    assert_eq!((answer.status, answer.header("x-mesh-node")), (200, "open"), "{}", answer.text());
    assert!(engine_a.posts().is_empty());
    mesh.until_idle(&[&behind, &open]).await;
}

#[tokio::test]
async fn a_machine_whose_engines_are_all_down_is_silent_in_the_status_and_drained_once_somebody_drains_it() {
    let mesh = TestMesh::with_modes([mode("code", &["tiny"], &[])]).await;
    let (left, right) = (ScriptedEngine::start("tiny").await, ScriptedEngine::start("tiny").await);
    let specs = [&left, &right].map(|engine| [EngineSpec::scripted(engine)]);
    let (serving, deaf) = tokio::join!(mesh.node("serving", &specs[0]), mesh.node("deaf", &specs[1]));
    drop(right);
    mesh.until("its engine is down", |snapshot| {
        snapshot
            .view
            .machine(&machine("deaf"))
            .is_some_and(|machine| machine.engines.iter().all(Engine::is_down))
    })
    .await;

    let mut operator = mesh.operator().await;
    let status = operator.status(StatusRequest {}).await.expect("a status").into_inner();
    let told: Vec<_> = status
        .nodes
        .iter()
        .map(|node| (node.name.as_str(), node.state.as_str(), node.reason.as_str(), node.slots.is_some()))
        .collect();
    assert_eq!(told, [("deaf", "silent", "no engine answers", false), ("serving", "ready", "", true)]);
    let lines: Vec<&str> = status.health.iter().map(|line| line.message.as_str()).collect();
    assert!(lines.iter().any(|line| line.contains("on deaf does not answer: ")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("deaf is ")), "told twice: {lines:?}");

    let drain = SetNodeRequest { node: "deaf".into(), wish: "drain".into() };
    operator.set_node(drain).await.expect("it is drained");
    mesh.until("it is drained", |snapshot| snapshot.barred.contains_key(&machine("deaf"))).await;
    let status = operator.status(StatusRequest {}).await.expect("a status").into_inner();
    assert_eq!(status.nodes[0].state, "drained", "who drains a machine may stop its engines, too");
    mesh.until_idle(&[&serving, &deaf]).await;
}
