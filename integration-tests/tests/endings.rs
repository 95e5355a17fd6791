//! How things end in order: a router that stops while it serves, a name that is given to another machine.

use integration_tests::client::text_of;
use integration_tests::scripted_engine::{Script, ScriptedEngine, Step};
use integration_tests::test_mesh::{TestMesh, machine};
use integration_tests::test_node::EngineSpec;
use mesh_daemon::clock::unix_ms;
use mesh_proto::identity::{JoinToken, Role, join::join};
use serde_json::{Value, json};
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";

fn chat(stream: bool) -> Value {
    json!({"model": "tiny", "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
}

#[tokio::test]
async fn a_router_that_stops_lets_a_running_stream_end() {
    let mesh = TestMesh::automatic().await;
    let engine = ScriptedEngine::start("tiny").await;
    let node = mesh.node("a", &[EngineSpec::scripted(&engine)]).await;
    engine.always(Script::whole_stream(&["x"]));
    let rest =
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    engine.next(Script::stream(&["first"], &[Step::Wait, Step::Send(rest.into())]));
    let mut events = mesh.client().events(CHAT, &chat(true)).await;
    assert_eq!(events.next_text().await, "first");
    let stopping = tokio::spawn(mesh.stop());
    // The front door is closed when no new connection comes in; the stream must still be whole.
    engine.go_on();
    let last = events.rest().await;
    assert!(last.iter().any(|event| event.contains("[DONE]")), "{last:?}");
    assert!(!last.iter().any(|event| event.contains("\"error\"")), "{last:?}");
    stopping.await.expect("it stops");
    node.kill();
}

#[tokio::test]
async fn an_embedding_request_that_says_stream_is_answered_whole() {
    let mesh = TestMesh::automatic().await;
    let engine = ScriptedEngine::start("tiny").await;
    let node = mesh.node("a", &[EngineSpec::scripted(&engine)]).await;
    engine.always(Script::json(200, &json!({"object": "list", "data": [{"index": 0, "embedding": [1.0]}]})));
    for _ in 0..4 {
        let body = json!({"model": "tiny", "input": "hi", "stream": true});
        let answer = mesh.client().post("/v1/embeddings", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // And an engine that answers a chat whole although it was asked for a stream is passed on as it is.
    engine.always(Script::chat("whole"));
    let answer = mesh.client().post(CHAT, &chat(true)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(text_of(&format!("data: {}", answer.text())), "");
    assert!(answer.text().contains("whole"));
    node.stop().await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_name_that_joins_with_another_key_cuts_the_old_machine_off_within_seconds() {
    let mesh = TestMesh::automatic().await;
    let engine = ScriptedEngine::start("tiny").await;
    engine.always(Script::chat("stolen"));
    let stolen = mesh.node("a", &[EngineSpec::scripted(&engine)]).await;
    assert_eq!(mesh.client().post(CHAT, &chat(false)).await.status, 200);
    // The owner makes a token for the name and joins with a new key; the new machine never even starts.
    let router = mesh.router();
    let life = Duration::from_secs(60);
    let made = router.ledger.create_token(Role::Node, Some(machine("a")), life, unix_ms()).await;
    let (id, secret) = made.expect("a token");
    let token = JoinToken { pin: router.pin.clone(), id, secret };
    let fresh = tempfile::tempdir().expect("a folder");
    join(&router.agents.to_string(), &token, "a", fresh.path()).await.expect("the owner's token");
    mesh.until("the old machine is cut off", |snapshot| {
        snapshot.view.machine(&machine("a")).is_some_and(|view| view.path.is_none())
    })
    .await;
    let answer = mesh.client().post(CHAT, &chat(false)).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    stolen.kill();
    mesh.stop().await;
}
