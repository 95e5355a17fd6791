//! What people ask and what they are told is nobody's business: it is in no log line, no metric, no error body
//! and no record, whether the request succeeds or fails.
//!
//! One test and a program of its own, because it takes over the logging of the whole process.

use integration_tests::client::Client;
use integration_tests::engine_fixture::{random_model, real_engine};
use integration_tests::scripted_engine::{Script, ScriptedEngine, Step};
use integration_tests::seen_logs::SeenLogs;
use integration_tests::test_mesh::{TestMesh, mode};
use integration_tests::test_node::EngineSpec;
use serde_json::{Value, json};

/// Asked.
const QUESTION: &str = "saxophone-under-the-bridge";
/// Answered.
const WORDS: &str = "trombone-on-the-roof";
const PATHS: [&str; 3] = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"];

fn question(model: &str, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": QUESTION}]);
    json!({"model": model, "messages": messages, "prompt": QUESTION, "input": QUESTION, "max_tokens": 4, "stream": stream})
}

/// An engine's error that repeats what it was asked: llama.cpp's parser and templates do.
fn talkative(status: u16, kind: &str) -> Script {
    let message = format!("cannot parse {QUESTION} near {WORDS}");
    Script::json(status, &json!({"error": {"message": message, "type": kind, "code": status}}))
}

/// Error bodies name what failed, never what was asked.
async fn fails(client: &Client, body: &Value, statuses: &[u16]) {
    for path in PATHS {
        let answer = client.post(path, body).await;
        assert!(statuses.contains(&answer.status), "{path}: {}", answer.text());
        assert!(
            !answer.text().contains(QUESTION) && !answer.text().contains(WORDS),
            "{path}: {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn questions_and_answers_are_in_no_log_no_metric_no_error_and_no_record() {
    let logs = SeenLogs::start();
    let mesh = TestMesh::start(|config| {
        config.modes.extend([mode("code", &["tiny-a", "tiny-b"], &[])]);
        "1s".clone_into(&mut config.limits.load_wait);
        "1s".clone_into(&mut config.limits.answer_wait);
    })
    .await;
    let (engine_a, engine_b) = (ScriptedEngine::start("tiny-a").await, ScriptedEngine::start("tiny-b").await);
    let a = mesh.node("a", &[EngineSpec::scripted(&engine_a)]).await;
    let b = mesh.node("b", &[EngineSpec::scripted(&engine_b)]).await;
    let (client, chat) = (mesh.client(), PATHS[0]);

    // Success, and failures after which another machine answers.
    engine_a.always(Script::chat(WORDS));
    engine_b.always(Script::chat(WORDS));
    for script in [Script::chat(WORDS), Script::HangUp, talkative(500, "server_error"), Script::loading()] {
        engine_a.next(script);
        let answer = client.post(chat, &question("mesh/code", false)).await;
        assert!(answer.text().contains(WORDS), "the client itself has its answer: {}", answer.text());
    }
    engine_a.always(Script::whole_stream(&[WORDS]));
    let events = client.events(chat, &question("tiny-a", true)).await.rest().await;
    assert!(events.iter().any(|event| event.contains(WORDS)));
    // A stream that breaks, with an error of the mesh and with one of the engine.
    let says = Step::Send(format!("data: {{\"error\":{{\"message\":\"lost {QUESTION}\"}}}}\n\n"));
    for end in [Step::Break, says] {
        engine_a.next(Script::stream(&[WORDS], &[Step::Wait, end]));
        let mut events = client.events(chat, &question("tiny-a", true)).await;
        assert_eq!(events.next_text().await, WORDS);
        engine_a.go_on();
        let events = events.rest().await;
        let last = events.last().expect("an error");
        assert!(last.contains("error") && !last.contains(QUESTION), "{last}");
    }
    // A client that leaves.
    engine_a.next(Script::stream(&[WORDS], &[Step::Hang]));
    let mut left = client.events(chat, &question("tiny-a", true)).await;
    drop(left.next_text().await);
    drop(left);

    // Every kind of refusal.
    for stream in [false, true] {
        for (status, kind) in
            [(400, "invalid_request_error"), (500, "server_error"), (501, "not_supported_error")]
        {
            engine_a.always(talkative(status, kind));
            fails(&client, &question("tiny-a", stream), &[400, 503]).await;
        }
        for script in [Script::loading(), Script::HangUp, Script::stream(&[], &[])] {
            engine_a.always(script);
            fails(&client, &question("tiny-a", stream), &[200, 503]).await;
        }
        fails(&client, &question("nobody", stream), &[404]).await;
        fails(&client.with_key(None), &question("tiny-a", stream), &[401]).await;
    }
    for body in [
        format!("{{\"model\": {QUESTION}"),
        format!("[\"{QUESTION}\"]"),
        format!("{{\"model\":\"tiny-a\",\"x\":{QUESTION}}}"),
    ] {
        let answer = client.post_bytes(chat, body).await;
        assert!(answer.status == 400 && !answer.text().contains(QUESTION), "{}", answer.text());
    }
    real_engine_fails(&mesh, &client).await;

    mesh.until_idle(&[&a, &b]).await;
    let router = client.get("/metrics").await;
    for (whose, text) in [("router", router.text()), ("a", &a.metrics()), ("b", &b.metrics())] {
        assert!(text.contains("modemesh_"), "{whose}: {text}");
        assert!(!text.contains(QUESTION) && !text.contains(WORDS), "{whose}: {text}");
    }
    let status = mesh.operator().await.status(mesh_proto::v1::StatusRequest {}).await.expect("a status");
    let newest = mesh.explain("").await;
    let told = format!("{:?} {newest:?}", status.into_inner());
    assert!(!told.contains(QUESTION) && !told.contains(WORDS), "{told}");
    a.stop().await;
    b.stop().await;
    mesh.stop().await;
    assert!(!logs.lines_with("request ended").is_empty(), "the logs are seen");
    for secret in [QUESTION, WORDS] {
        assert_eq!(logs.lines_with(secret), Vec::<String>::new());
    }
}

/// What the real engine says of requests that it cannot read.
async fn real_engine_fails(mesh: &TestMesh, client: &Client) {
    if !real_engine().await {
        return;
    }
    let _node = mesh.node("real", &[EngineSpec::real(random_model(), "tiny", 256, 1)]).await;
    for body in [
        json!({"model": "tiny", "messages": QUESTION}),
        json!({"model": "tiny", "messages": [{"role": "user", "content": {QUESTION: 1}}]}),
        json!({"model": "tiny", "messages": [{"role": "user", "content": [{"type": QUESTION}]}]}),
        json!({"model": "tiny", "messages": [QUESTION]}),
        json!({"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": QUESTION}),
        json!({"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "response_format": {"type": QUESTION}}),
        json!({"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "grammar": QUESTION}),
        json!({"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "tools": QUESTION}),
        json!({"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "tool_choice": QUESTION}),
        json!({"model": "tiny", "messages": [{"role": "user", "content": QUESTION.repeat(200)}]}),
    ] {
        let answer = client.post(PATHS[0], &body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(!answer.text().contains(QUESTION), "{body}: {}", answer.text());
    }
}
