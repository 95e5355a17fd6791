//! Faults as clients of other dialects see them: in their own shape, and never as a clean end.

use crate::Pair;
use integration_tests::scripted_engine::{Script, Step};
use serde_json::{Value, json};

/// Every door that streams, with a request, and what a stream that is complete ends with there.
fn doors() -> [(&'static str, Value, &'static str); 4] {
    let messages = json!([{"role": "user", "content": "Good morning"}]);
    [
        ("/api/chat", json!({"model": "mesh/code:latest", "messages": messages}), "\"done\":true"),
        ("/api/generate", json!({"model": "mesh/code", "prompt": "Good morning"}), "\"done\":true"),
        (
            "/v1/messages",
            json!({"model": "mesh/code", "messages": messages, "max_tokens": 8, "stream": true}),
            "message_stop",
        ),
        ("/v1/responses", json!({"model": "mesh/code", "input": "x", "stream": true}), "response.completed"),
    ]
}

fn is_native(path: &str) -> bool {
    path == "/v1/messages"
}

/// What llama.cpp says to a path that it does not know.
fn no_such_path() -> Script {
    Script::json(
        404,
        &json!({"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}),
    )
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_of_its_own_dialect_and_never_cleanly() {
    let pair = Pair::start(|_| ()).await;
    for (path, body, end) in doors() {
        // An engine too old for the dialect: the request is translated.
        if is_native(path) {
            pair.engine_a.next(no_such_path());
        }
        let rest = if is_native(path) {
            pair.engine_a.next(Script::stream(&["Good", " day"], &[Step::Wait, Step::Break]));
            let mut events = pair.mesh.client().events(path, &body).await;
            assert_eq!((events.status, events.header("x-mesh-node")), (200, "a"), "{path}");
            let first = events.next().await.expect("there is content");
            pair.engine_a.go_on();
            format!("{first}\n\n{}", events.rest().await.join("\n\n"))
        } else {
            // Lines are no events, so this one ends too early instead of breaking.
            pair.engine_a.next(Script::stream(&["Good", " day"], &[]));
            let answer = pair.mesh.client().post(path, &body).await;
            assert_eq!((answer.status, answer.header("x-mesh-node")), (200, "a"), "{path}");
            answer.text().to_owned()
        };
        assert!(rest.contains("Good"), "{path}: {rest}");
        assert!(rest.contains("\"error\"") && rest.contains("stopped answering"), "{path}: {rest}");
        assert!(!rest.contains(end), "{path}: {rest}");
        // Three failures in a row would make `a` rest.
        assert_eq!(pair.mesh.client().post(crate::CHAT, &crate::chat("tiny-a")).await.status, 200, "{path}");
    }
    pair.end().await;
}

#[tokio::test]
async fn an_engine_that_fails_before_the_first_content_is_replaced_in_every_dialect() {
    let pair = Pair::start(|_| ()).await;
    for (path, body, end) in doors() {
        pair.engine_a.next(Script::HangUp);
        if is_native(path) {
            pair.engine_b.next(no_such_path());
        }
        let answer = pair.mesh.client().post(path, &body).await;
        assert_eq!((answer.status, answer.header("x-mesh-node")), (200, "b"), "{path}: {}", answer.text());
        assert!(
            answer.text().contains("from tiny-b") && answer.text().contains(end),
            "{path}: {}",
            answer.text()
        );
        // Three failures in a row would make `a` rest.
        let chat = crate::chat("tiny-a");
        assert_eq!(pair.mesh.client().post(crate::CHAT, &chat).await.status, 200, "{path}");
    }
    pair.end().await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_translated_is_a_failure_of_the_engine_and_tried_elsewhere() {
    let pair = Pair::start(|_| ()).await;
    for stream in [false, true] {
        let html = Script::Answer {
            status: 200,
            content_type: "text/html",
            body: vec![Step::Send("<html>my secret</html>".into())],
        };
        pair.engine_a.next(html);
        let body =
            json!({"model": "mesh/code", "messages": [{"role": "user", "content": "hi"}], "stream": stream});
        let answer = pair.mesh.client().post("/api/chat", &body).await;
        assert_eq!((answer.status, answer.header("x-mesh-node")), (200, "b"), "{}", answer.text());
        assert!(!answer.text().contains("secret"));
        assert_eq!(pair.mesh.client().post(crate::CHAT, &crate::chat("tiny-a")).await.status, 200);
    }
    pair.end().await;
}

#[tokio::test]
async fn faults_of_the_client_are_4xx_in_its_own_shape_and_reach_no_second_engine() {
    let pair = Pair::start(|_| ()).await;
    let image = json!({"code": 500, "message": "image input is not supported", "type": "server_error"});
    pair.engine_a.always(Script::json(500, &json!({ "error": image })));
    pair.engine_b.always(Script::json(500, &json!({ "error": image })));
    for (path, body, _) in doors() {
        let answer = pair.mesh.client().post(path, &body).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        let told = answer.json();
        if path.starts_with("/api/") {
            assert_eq!(told["error"], "the model tiny-b cannot read images", "{told}");
        } else if path == "/v1/messages" {
            assert_eq!(
                (&told["type"], &told["error"]["type"]),
                (&json!("error"), &json!("invalid_request_error"))
            );
            assert_eq!(told["request_id"], answer.header("request-id"));
        } else {
            assert_eq!(told["error"]["code"], "unsupported");
        }
    }
    for (path, status) in [("/api/pull", 403), ("/api/nothing", 404), ("/api/show", 404)] {
        let answer = pair.mesh.client().post(path, &json!({"model": "nobody"})).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.json()["error"].is_string(), "{path}: {}", answer.text());
    }
    pair.end().await;
}

#[tokio::test]
async fn options_that_would_load_the_model_anew_and_requests_to_unload_reach_no_engine() {
    let pair = Pair::start(|_| ()).await;
    for path in ["/api/generate", "/api/chat"] {
        let answer = pair.mesh.client().post(path, &json!({"model": "mesh/code", "keep_alive": 0})).await;
        assert_eq!((answer.status, &answer.json()["done_reason"]), (200, &json!("load")), "{path}");
    }
    assert!(pair.engine_a.posts().is_empty() && pair.engine_b.posts().is_empty());
    let body = json!({"model": "mesh/code", "prompt": "x", "stream": false, "options": {"num_ctx": 7}, "keep_alive": 0});
    let answer = pair.mesh.client().post("/api/generate", &body).await;
    assert_eq!((answer.status, &answer.json()["response"]), (200, &json!("from tiny-a")));
    let sent = String::from_utf8(pair.engine_a.posts()[0].body.to_vec()).expect("JSON");
    assert!(!sent.contains("num_ctx") && !sent.contains("keep_alive"), "{sent}");
    pair.end().await;
}
