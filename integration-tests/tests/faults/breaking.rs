//! Engines that break: before the first content nobody notices, after it the client is told.

use crate::{CHAT, Pair, chat, streamed};
use integration_tests::client::{data_of, text_of};
use integration_tests::scripted_engine::{Script, Step};
use serde_json::{Value, json};

/// Sends `body` while `a` breaks as scripted, and checks that the client sees nothing but `b`'s answer.
async fn only_success_is_seen(pair: &Pair, what: &str, script: Script, body: Value) {
    pair.engine_a.next(script);
    let (before_a, before_b) = (pair.engine_a.posts().len(), pair.engine_b.posts().len());
    let answer = pair.mesh.client().post(CHAT, &body).await;
    assert_eq!((answer.status, answer.header("x-mesh-node")), (200, "b"), "{what}: {}", answer.text());
    let text = if body["stream"] == true {
        let events: Vec<&str> = answer.text().split_terminator("\n\n").collect();
        assert_eq!(events.last(), Some(&"data: [DONE]"), "{what}");
        events.iter().map(|event| text_of(event)).collect()
    } else {
        answer.json()["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(text, "from tiny-b", "{what}");
    assert_eq!(pair.engine_a.posts().len(), before_a + 1, "{what}: `a` was tried once");
    assert_eq!(pair.engine_b.posts().len(), before_b + 1, "{what}: `b` was tried once");
    let told = pair.mesh.explain(answer.header("x-mesh-request-id")).await;
    let nodes: Vec<_> = told.attempts.iter().map(|attempt| attempt.node.as_str()).collect();
    assert_eq!((nodes, told.outcome.as_str()), (vec!["a", "b"], "complete"), "{what}");
    // Three failures in a row would make `a` rest.
    assert_eq!(pair.mesh.client().post(CHAT, &chat("tiny-a")).await.status, 200, "{what}");
}

#[tokio::test]
async fn an_engine_that_dies_before_the_first_content_is_replaced_and_the_client_sees_only_success() {
    let pair = Pair::start(|limits| "1s".clone_into(&mut limits.answer_wait)).await;
    let error = json!({"error": {"message": "CUDA error", "type": "server_error"}});
    let half = Script::Answer {
        status: 200,
        content_type: "application/json",
        body: vec![Step::Send(r#"{"choices":[{"#.into()), Step::Break],
    };
    for (what, script) in [
        ("hangs up", Script::HangUp),
        ("fails", Script::json(500, &error)),
        ("refuses its agent's key", Script::json(401, &error)),
        ("breaks within its answer", half),
    ] {
        only_success_is_seen(&pair, what, script, chat("mesh/code")).await;
    }
    pair.end().await;
}

#[tokio::test]
async fn a_whole_answer_that_takes_too_long_is_given_up_and_not_made_again_elsewhere() {
    let pair = Pair::start(|limits| "1s".clone_into(&mut limits.answer_wait)).await;
    pair.engine_a.next(Script::Silence);
    let answer = pair.mesh.client().post(CHAT, &chat("mesh/code")).await;
    answer.error(504, "answer_too_late");
    assert_eq!(pair.engine_b.posts().len(), 0, "a generation of an hour is not begun a second time");
    pair.end().await;
}

#[tokio::test]
async fn a_stream_that_dies_before_the_first_content_is_replaced_and_the_client_sees_only_success() {
    let pair = Pair::start(|limits| "1s".clone_into(&mut limits.answer_wait)).await;
    let error = json!({"error": {"message": "CUDA error", "type": "server_error"}});
    let event = Step::Send(format!("data: {error}\n\n"));
    for (what, script) in [
        ("hangs up", Script::HangUp),
        ("fails", Script::json(500, &error)),
        ("is silent", Script::Silence),
        ("breaks after the role", Script::stream(&[], &[Step::Break])),
        ("ends after the role", Script::stream(&[], &[])),
        ("ends with nothing but the end", Script::stream(&[], &[Step::Send("data: [DONE]\n\n".into())])),
        ("is silent after the role", Script::stream(&[], &[Step::Hang])),
        ("sends an error after the role", Script::stream(&[], &[event])),
        ("breaks within an event", Script::stream(&[], &[Step::Send("data: {\"choi".into()), Step::Break])),
    ] {
        only_success_is_seen(&pair, what, script, streamed(chat("mesh/code"))).await;
    }
    pair.end().await;
}

#[tokio::test]
async fn an_engine_that_dies_after_the_first_content_ends_the_stream_with_an_error_and_never_with_done() {
    let pair = Pair::start(|_| ()).await;
    for (what, end) in [
        ("breaks", vec![Step::Wait, Step::Break]),
        ("ends without finishing", vec![Step::Wait]),
        ("breaks within an event", vec![Step::Wait, Step::Send("data: {\"choi".into()), Step::Break]),
    ] {
        pair.engine_a.next(Script::stream(&["one ", "two "], &end));
        let mut events = pair.mesh.client().events(CHAT, &streamed(chat("mesh/code"))).await;
        assert_eq!((events.status, events.header("x-mesh-node")), (200, "a"), "{what}");
        let id = events.header("x-mesh-request-id").to_owned();
        assert_eq!([events.next_text().await, events.next_text().await], ["one ", "two "], "{what}");
        pair.engine_a.go_on();
        let events = events.rest().await;
        assert_eq!(events.len(), 1, "{what}: {events:?}");
        let error = &data_of(events.last().expect("events"))["error"];
        assert_eq!(error["code"], "node_failed_mid_stream", "{what}: {events:?}");
        assert_eq!((&error["mesh"]["node"], &error["mesh"]["request_id"]), (&json!("a"), &json!(id)));
        assert!(!events.iter().any(|event| event.contains("[DONE]")), "{what}: {events:?}");
        let told = pair.mesh.explain(&id).await;
        assert_eq!((told.outcome.as_str(), told.attempts.len()), ("failed", 1), "{what}: never run again");
        // Three failures in a row would make `a` rest.
        assert_eq!(pair.mesh.client().post(CHAT, &chat("tiny-a")).await.status, 200, "{what}");
    }
    assert!(pair.engine_b.posts().is_empty());
    pair.end().await;
}

#[tokio::test]
async fn an_error_that_the_engine_itself_sends_in_its_stream_is_the_end_of_it() {
    let pair = Pair::start(|_| ()).await;
    let error =
        Step::Send("data: {\"error\":{\"message\":\"slot lost\",\"type\":\"server_error\"}}\n\n".into());
    let done = Step::Send("data: [DONE]\n\n".into());
    pair.engine_a.next(Script::stream(&["one "], &[Step::Wait, error, done]));
    let mut events = pair.mesh.client().events(CHAT, &streamed(chat("mesh/code"))).await;
    let id = events.header("x-mesh-request-id").to_owned();
    assert_eq!(events.next_text().await, "one ");
    pair.engine_a.go_on();
    let events = events.rest().await;
    let error = &data_of(events.last().expect("events"))["error"];
    assert_eq!(error["code"], "node_failed_mid_stream", "in the mesh's words: {events:?}");
    assert!(!events.iter().any(|event| event.contains("[DONE]")), "{events:?}");
    assert_eq!(pair.mesh.explain(&id).await.outcome, "failed");
    pair.end().await;
}

#[tokio::test]
async fn a_machine_that_dies_in_the_middle_of_a_stream_ends_it_with_an_error_and_never_with_done() {
    let Pair { mesh, a, b, engine_a, engine_b } = Pair::start(|_| ()).await;
    engine_a.next(Script::stream(&["one "], &[Step::Hang]));
    let mut events = mesh.client().events(CHAT, &streamed(chat("mesh/code"))).await;
    assert_eq!(events.next_text().await, "one ");
    a.kill();
    let rest = events.rest().await;
    let error = &data_of(rest.last().expect("an event"))["error"];
    assert_eq!((rest.len(), &error["code"]), (1, &json!("node_failed_mid_stream")), "{rest:?}");
    assert!(engine_b.posts().is_empty(), "never run again");
    mesh.until_idle(&[&b]).await;
}
