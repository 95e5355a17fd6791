//! `modemesh up` is told to stop while it answers: its router says so to everybody, before its agent ends anything.

use super::{CHAT, chat, streamed};
use integration_tests::client::Client;
use integration_tests::scripted_engine::{Script, ScriptedEngine};
use integration_tests::{eventually, soon};
use mesh_core::machine::ReplicaState;
use mesh_daemon::config_layers::KeyLines;
use modemesh::up;
use node_agent::config::{AgentConfig, Discover, EngineSection};
use node_agent::truth::TruthConfig;
use router::config::{RouterConfig, check};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn what_runs_and_what_waits_is_told_that_the_router_stops() {
    let engine = ScriptedEngine::with_slots("tiny", 1).await;
    engine.always(Script::Silence);
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut config = RouterConfig::default();
    for listen in [&mut config.listen.clients, &mut config.listen.agents, &mut config.listen.operators] {
        "127.0.0.1:0".clone_into(listen);
    }
    let settings = check(config, "a test".into(), &KeyLines::default()).expect("it makes sense");
    let section = EngineSection {
        kind: Some("llama-server".into()),
        url: Some(engine.url.clone()),
        ..EngineSection::default()
    };
    let agent = AgentConfig {
        discover: Discover { enabled: false, ..Discover::default() },
        engines: [("scripted".to_owned(), section)].into(),
        truth: TruthConfig { enabled: false, ..TruthConfig::default() },
        ..AgentConfig::default()
    };
    let stop = CancellationToken::new();
    let mesh = up::start(data.path(), settings, agent, true, |_: &str| (), stop.clone()).await;
    let mesh = mesh.expect("the mesh starts");
    let mut snapshots = mesh.router.fleet.snapshots();
    let loaded = snapshots.wait_for(|snapshot| {
        let engines = snapshot.view.machines.iter().flat_map(|machine| &machine.engines);
        engines.flat_map(|engine| &engine.replicas).any(|replica| replica.state == ReplicaState::Loaded)
    });
    drop(soon("the model is there", loaded).await.expect("the router lives"));
    let client = Client::new(&mesh.router.client_url(), Some(&mesh.api_key));
    let ask = |body: Value| {
        let client = client.clone();
        tokio::spawn(async move { client.post(CHAT, &body).await })
    };
    let asked = [ask(chat("tiny")), ask(streamed(chat("tiny"))), ask(chat("tiny"))];
    engine.until("one is asked", |seen| seen.posts.len() == 1).await;
    eventually("all have come", || async {
        client.get("/metrics").await.text().contains("\nmodemesh_router_in_flight 3\n").then_some(())
    })
    .await;
    stop.cancel();
    for request in asked {
        let answer = soon("an answer", request).await.expect("no panic");
        assert!(answer.text().contains("\"code\":\"router_stopping\""), "{answer:?}");
    }
    soon("the end", mesh.stopped()).await;
}
