//! Counting tokens: a question to an engine that takes no slot of it.

use crate::fixture::{Mesh, Script, caller, engine, header, replica, text_of};
use mesh_core::machine::ReplicaState::Loaded;
use router::forward::caller::Caller;
use router::http::dialect::Door;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const COUNT: Script = Script::Status(200, r#"{"input_tokens":7}"#, None);

fn long_prompt() -> Value {
    json!({ "model": "mesh/code", "messages": [{"role": "user", "content": "x".repeat(20_000)}] })
}

#[tokio::test(start_paused = true)]
async fn a_count_waits_for_no_slot_and_takes_none() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (node, _control) = mesh.node("a", engine(vec![replica("m", Loaded, Some(1))])).await;
    node.always(Script::After(Duration::from_secs(60)));
    let running = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.send("mesh/code", caller("k")).await }
    });
    node.until(|seen| seen.running == 1).await;
    let waits = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.send("mesh/code", caller("k")).await }
    });
    mesh.until_waiting(1).await;
    node.next(COUNT);
    let reply = mesh.send_to(Door::CountTokens, &long_prompt(), caller("k")).await;
    assert_eq!((reply.status().as_u16(), header(&reply, "x-mesh-queue-ms")), (200, String::new()));
    assert_eq!(text_of(reply).await, r#"{"input_tokens":7}"#);
    assert_eq!(mesh.in_flight.load().values().copied().collect::<Vec<_>>(), [1]);
    // And one that takes its time keeps nobody from the slot.
    for request in [running, waits] {
        assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
    }
    node.next(Script::EndlessStream);
    let slow = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.send_to(Door::CountTokens, &long_prompt(), caller("k")).await }
    });
    node.until(|seen| seen.running == 1 && seen.bodies.len() == 4).await;
    let reply = mesh.send("mesh/code", caller("k")).await;
    assert_eq!((reply.status().as_u16(), header(&reply, "x-mesh-queue-ms")), (200, String::new()));
    slow.abort();
    mesh.until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_count_leaves_no_prompt_in_a_cache_and_ends_no_completion() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (a, _control_a) = mesh.node("a", engine(vec![replica("m", Loaded, Some(1))])).await;
    let (b, _control_b) = mesh.node("b", engine(vec![replica("m", Loaded, Some(1))])).await;
    let typing = || Caller { session: Some(7), ..caller("k") };
    let completion = json!({ "model": "mesh/autocomplete", "messages": [{"role": "user", "content": "hi"}], "stream": true });
    a.always(Script::EndlessStream);
    b.always(Script::EndlessStream);
    let stream = mesh.send_body(&completion, typing()).await;
    assert_eq!(stream.status(), 200);
    for node in [&a, &b] {
        node.always(COUNT);
    }
    let count = json!({ "model": "mesh/autocomplete", "messages": long_prompt()["messages"] });
    let reply = mesh.send_to(Door::CountTokens, &count, typing()).await;
    assert_eq!(reply.status(), 200);
    assert_eq!(mesh.explained(0).await.outcome, "running", "a count is no newer completion");
    for node in [&a, &b] {
        node.always(Script::After(Duration::from_secs(1)));
    }
    assert_eq!(mesh.send_body(&long_prompt(), typing()).await.status(), 200);
    let told = mesh.explained(2).await;
    assert_eq!(told.candidates.len(), 2);
    for line in &told.candidates {
        assert_eq!(line.cached_tokens, 0, "{line:?}");
        assert!(!line.why.contains("session"), "{line:?}");
    }
    drop(stream);
    mesh.until_idle().await;
}
