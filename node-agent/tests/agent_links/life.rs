//! A whole agent between router and engine: it works, and it leaves in order.

use crate::data::{open, to_end};
use crate::scripted_engine::ScriptedEngine;
use crate::scripted_router::{Mesh, ScriptedRouter, any, name};
use crate::serve::{engine_answer, refusal};
use crate::soon;
use mesh_core::machine::{EngineState, Report};
use mesh_proto::frame;
use node_agent::app::{Agent, AgentOptions, Uplink};
use node_agent::config::{AgentConfig, Discover, EngineSection};
use node_agent::router_link::Identity;
use prometheus_client::registry::Registry;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn an_agent_that_stops_says_so_finishes_what_runs_and_then_leaves() {
    let (mesh, mut engine) = (Mesh::new(), ScriptedEngine::start().await);
    mesh.certify(Duration::from_secs(3600));
    let mut router = ScriptedRouter::start(&mesh, any());
    let section = EngineSection {
        kind: Some("llama-server".into()),
        url: Some(engine.url.clone()),
        ..EngineSection::default()
    };
    let config = AgentConfig {
        engines: [("scripted".to_owned(), section)].into(),
        discover: Discover { enabled: false, ..Discover::default() },
        ..AgentConfig::default()
    };
    let uplink = Uplink {
        router: router.address.to_string(),
        identity: Identity::open(&mesh.agent_folder()).expect("credentials"),
    };
    let options = AgentOptions {
        data: mesh.agent_folder(),
        name: name("node-1"),
        root: "/nonexistent".into(),
        uplink: Some(uplink),
    };
    let stop = CancellationToken::new();
    let agent =
        Agent::start(options, &config, &mut Registry::default(), stop.clone()).await.expect("it starts");

    // The router sees the engine come up.
    let mut attached = router.attached().await;
    let mut seen = Report::default();
    let up = |report: &Report| {
        report
            .engines
            .iter()
            .flatten()
            .any(|engine| engine.state == EngineState::Up && !engine.replicas.is_empty())
    };
    while !up(&seen) {
        seen.absorb(attached.report().await);
    }
    let connection = router.connection().await;
    let (_send, mut recv) = open(&connection, "/v1/chat/completions", b"{}").await;
    let mut post = engine.post().await;
    post.begin_stream().await;
    let head = soon("the head", frame::read_response_head(&mut recv)).await.expect("a head");
    assert_eq!(engine_answer(head).engine, "scripted");

    stop.cancel();
    while seen.draining != Some(true) {
        seen.absorb(attached.report().await);
    }
    let (_late, mut refused) = open(&connection, "/v1/chat/completions", b"{}").await;
    let head = soon("the head", frame::read_response_head(&mut refused)).await.expect("a head");
    assert_eq!(refusal(head).kind, "draining");

    post.send_chunk("data: [DONE]\n\n").await;
    post.send("0\r\n\r\n").await;
    let rest = to_end(&mut recv).await.expect("a clean end: nothing was cut off");
    assert_eq!(rest, b"data: [DONE]\n\n");
    while attached.message().await.is_some() {}
    drop(attached);
    soon("the agent's end", agent.stopped()).await;
    assert!(connection.lost().is_some());
}
