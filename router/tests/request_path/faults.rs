//! Requests that are malformed in themselves: told so, whatever the engine makes of them, and nobody's failure.

use crate::fixture::{Mesh, Script, caller, engine, error_of, replica};
use mesh_core::id::ModelId;
use mesh_core::machine::ReplicaState::Loaded;
use router::fleet_keeper::Snapshot;
use router::http::dialect::Door;
use serde_json::{Value, json};
use std::time::Duration;

async fn pair() -> (Mesh, [(std::sync::Arc<crate::fixture::Node>, crate::fixture::Control); 2]) {
    let mesh = Mesh::start(|_| ());
    let loaded = || engine(vec![replica("m", Loaded, Some(4))]);
    let nodes = [mesh.node("a", loaded()).await, mesh.node("b", loaded()).await];
    (mesh, nodes)
}

/// Failures in a row that the fleet counts, of all nodes.
fn failures(mesh: &Mesh) -> u32 {
    counted(&mesh.fleet.snapshot())
}

fn counted(snapshot: &Snapshot) -> u32 {
    let model = ModelId::new("m").expect("valid");
    let machines = snapshot.view.machines.iter();
    machines.filter_map(|machine| machine.history.get(&model)?.resting).map(|(_, failures)| failures).sum()
}

#[tokio::test(start_paused = true)]
async fn a_chat_without_messages_or_roles_is_refused_before_any_node_is_asked() {
    let (mesh, nodes) = pair().await;
    for (door, messages, param) in [
        (Door::Chat, None, "messages"),
        (Door::Messages, None, "messages"),
        (Door::Chat, Some(json!([])), "messages"),
        (Door::Messages, Some(json!("x")), "messages"),
        (Door::Chat, Some(json!([{"role": "user", "content": "x"}, "x"])), "messages[1]"),
        (Door::CountTokens, Some(json!([{"content": "x"}])), "messages[0].role"),
        (Door::Chat, Some(json!([{"role": "user"}, {"role": "user"}, {"content": "x"}])), "messages[2].role"),
        (Door::Messages, Some(json!([{"role": "user"}, {"role": "banana"}])), "messages[1].role"),
        (Door::OllamaChat, Some(json!([{"content": "x"}])), "messages[0].role"),
    ] {
        let mut body = json!({ "model": "m", "max_tokens": 4 });
        if let Some(messages) = messages {
            body["messages"] = messages;
        }
        let (status, _, error) = error_of(mesh.send_to(door, &body, caller(param)).await).await;
        // Ollama's errors are a text alone.
        let (kind, message) = (error["type"].as_str(), error["message"].as_str().or(error.as_str()));
        let message = message.unwrap_or_default();
        assert_eq!(status, 400, "{body}");
        assert!(door == Door::OllamaChat || kind == Some("invalid_request_error"), "{error}");
        assert!(message.starts_with(&format!("`{param}` ")), "{message}");
        if door == Door::Chat {
            assert_eq!(error["param"], param);
        }
    }
    assert_eq!((nodes[0].0.requests(), nodes[1].0.requests()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_an_engine_fails_over_in_a_malformed_chat_is_a_400_and_no_failure_of_its() {
    let (mesh, nodes) = pair().await;
    for (node, _) in &nodes {
        let words = r#"{"error":{"code":500,"message":"Failed to parse messages: [json.exception.out_of_range.403] key 'text' not found","type":"server_error"}}"#;
        node.always(Script::Status(500, words, None));
    }
    let body = json!({ "model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}] });
    for asked in 1..=4 {
        // Each another client: one that repeats itself is told to stop.
        let reply = mesh.send_body(&body, caller(&format!("k{asked}"))).await;
        let (status, code, error) = error_of(reply).await;
        assert_eq!((status, code.as_str()), (400, "invalid_request"), "{error}");
        assert_eq!(error["param"], "messages[0].content[0].text");
        assert_eq!(nodes[0].0.requests() + nodes[1].0.requests(), asked, "no second node is asked");
    }
    mesh.until_idle().await;
    assert_eq!(failures(&mesh), 0);
    let (status, ..) = error_of(mesh.send("m", caller("k")).await).await;
    assert_eq!(status, 400, "its words alone tell that it could not read the messages");
    assert_eq!(failures(&mesh), 0);
}

#[tokio::test(start_paused = true)]
async fn parts_and_schemas_that_an_engine_does_not_take_are_named_with_their_place_and_type() {
    let (mesh, nodes) = pair().await;
    let message = |content: Value| json!({"model": "m", "messages": [{"role": "user", "content": content}]});
    let mut schema = message(json!("x"));
    schema["response_format"] = json!({"type": "json_schema", "json_schema": {"schema": {"type": "banana"}}});
    for (words, body, param, told) in [
        (
            r#"{"error":{"code":500,"message":"unsupported content[].type"}}"#,
            message(json!([{"type": "text", "text": "x"}, {"type": "banana"}])),
            "messages[0].content[1]",
            "the type `banana`",
        ),
        (
            r#"{"error":{"code":400,"message":"JSON schema conversion failed:\nUnrecognized schema"}}"#,
            schema,
            "response_format.json_schema.schema",
            "cannot follow",
        ),
    ] {
        for (node, _) in &nodes {
            node.always(Script::Status(500, words, None));
        }
        let (status, _, error) = error_of(mesh.send_body(&body, caller("k")).await).await;
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(told)), "{error}");
    }
    mesh.until_idle().await;
    assert_eq!(failures(&mesh), 0);
}

#[tokio::test(start_paused = true)]
async fn over_a_malformed_chat_an_engine_s_own_failure_is_asked_elsewhere_and_told_only_when_all_fail() {
    let (mesh, nodes) = pair().await;
    let out_of_memory = Script::Status(500, r#"{"error":{"message":"out of memory"}}"#, None);
    nodes[0].0.always(out_of_memory.clone());
    nodes[1].0.always(out_of_memory);
    let body = json!({ "model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}] });
    for asked in 1..=2 {
        let reply = mesh.send_body(&body, caller(&format!("k{asked}"))).await;
        let (status, code, error) = error_of(reply).await;
        assert_eq!((status, code.as_str()), (400, "invalid_request"), "{error}");
        assert_eq!(error["param"], "messages[0].content[0].text");
        assert_eq!((nodes[0].0.requests(), nodes[1].0.requests()), (asked, asked), "both are asked");
    }
    let (status, ..) = error_of(mesh.send("m", caller("k")).await).await;
    assert_eq!(status, 503, "a sound chat is no fault of the client");
    mesh.until_idle().await;
    let mut snapshots = mesh.fleet.snapshots();
    let both = snapshots.wait_for(|snapshot| counted(snapshot) == 6);
    let both = tokio::time::timeout(Duration::from_secs(2), both).await;
    assert!(matches!(both, Ok(Ok(_))), "each rests after its third failure: {}", failures(&mesh));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_overlooks_a_fault_answers() {
    let (mesh, _nodes) = pair().await;
    let body =
        json!({ "model": "m", "messages": [{"role": "user", "content": [{"type": "text"}], "name": 1}] });
    let (status, _, answer): (u16, String, Value) = error_of(mesh.send_body(&body, caller("k")).await).await;
    assert_eq!(status, 200, "{answer}");
}
