//! Requests that are wrong in themselves.

use crate::{CHAT, chat, streamed};
use bytes::Bytes;
use futures_util::stream;
use integration_tests::client::Client;
use integration_tests::engine_fixture::{random_model, real_engine};
use integration_tests::scripted_engine::ScriptedEngine;
use integration_tests::test_mesh::{TestMesh, mode};
use integration_tests::test_node::{EngineSpec, TestNode};
use serde_json::{Value, json};
use std::convert::Infallible;

const CANARY: &str = "xylophone-at-midnight";

struct One {
    mesh: TestMesh,
    node: TestNode,
    engine: ScriptedEngine,
}

impl One {
    async fn start() -> Self {
        let mesh = TestMesh::start(|config| {
            config.modes.extend([mode("code", &["tiny"], &[]), mode("ask", &["tiny"], &[])]);
            "64KiB".clone_into(&mut config.limits.body);
        })
        .await;
        let engine = ScriptedEngine::start("tiny").await;
        let node = mesh.node("msi", &[EngineSpec::scripted(&engine)]).await;
        Self { mesh, node, engine }
    }

    fn client(&self) -> Client {
        self.mesh.client()
    }

    /// None of the wrong requests reached the engine, a right one does, and nothing is left running.
    async fn end(self) {
        assert!(self.engine.posts().is_empty(), "{:?}", self.engine.posts());
        assert_eq!(self.client().post(CHAT, &chat("mesh/code")).await.status, 200);
        self.mesh.until_idle(&[&self.node]).await;
        self.node.stop().await;
        self.mesh.stop().await;
    }
}

#[tokio::test]
async fn an_unknown_mode_or_model_gets_404_with_near_names_and_the_list() {
    let one = One::start().await;
    for (asked, near) in [("mesh/cod", Some("mesh/code")), ("tinny", Some("tiny")), ("gpt-4o", None)] {
        for body in [chat(asked), streamed(chat(asked))] {
            let answer = one.client().post(CHAT, &body).await;
            let error = answer.error(404, "model_not_found");
            assert_eq!((&error["param"], &error["type"]), (&json!("model"), &json!("invalid_request_error")));
            let message = error["message"].as_str().unwrap_or_default();
            assert!(message.contains(asked) && message.contains(near.unwrap_or("mesh/code")), "{message}");
            let names = |key: &str| error["mesh"][key].as_array().cloned().unwrap_or_default();
            assert_eq!(names("near").first(), near.map(Value::from).as_ref(), "{error}");
            for name in ["mesh/ask", "mesh/code", "tiny"] {
                assert!(names("available").contains(&json!(name)), "{error}");
            }
        }
    }
    one.end().await;
}

#[tokio::test]
async fn a_body_over_the_limit_gets_413_whether_announced_or_in_chunks() {
    let one = One::start().await;
    let mut body = chat("mesh/code");
    body["messages"][0]["content"] = json!("x".repeat(64 * 1024));
    let body = Bytes::from(body.to_string());
    let announced = one.client().post_bytes(CHAT, body.clone()).await;
    let chunks: Vec<_> =
        body.chunks(5000).map(|part| Ok::<_, Infallible>(Bytes::copy_from_slice(part))).collect();
    let chunked = one.client().post_bytes(CHAT, reqwest::Body::wrap_stream(stream::iter(chunks))).await;
    for answer in [announced, chunked] {
        let error = answer.error(413, "body_too_large");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("limits.body")), "{error}");
    }
    one.end().await;
}

#[tokio::test]
async fn a_bad_body_gets_400_that_says_where_and_repeats_nothing_of_it() {
    let one = One::start().await;
    for body in [
        format!(r#"{{"model": "mesh/code", "messages": [{{"role": "user", "content": "{CANARY}"#),
        format!(r#"{{"model": "mesh/code", "messages": {CANARY}}}"#),
        format!(r#"["{CANARY}"]"#),
        format!(r#""{CANARY}""#),
        CANARY.to_owned(),
        format!(r#"{{"{CANARY}": 1}}"#),
        format!(r#"{{"model": ["{CANARY}"]}}"#),
        format!(r#"{{"model": "mesh/code", "stream": "{CANARY}"}}"#),
        format!(r#"{{"model": "mesh/code"}} {CANARY}"#),
        String::new(),
    ] {
        let answer = one.client().post_bytes(CHAT, body.clone()).await;
        let error = answer.error(400, "invalid_request");
        assert!(!answer.text().contains("xylophone"), "{body}: {error}");
    }
    let mut not_text = chat("mesh/code").to_string().into_bytes();
    not_text.insert(30, 0xff);
    assert_eq!(one.client().post_bytes(CHAT, not_text).await.status, 400);
    one.end().await;
}

#[tokio::test]
async fn no_key_and_a_wrong_key_get_401_before_anything_else_is_said() {
    let one = One::start().await;
    let (none, client) = (one.client().with_key(None), one.client());
    let key = one.mesh.key();
    let other_secret = format!("{}x", &key[..key.len() - 1]);
    for (client, code) in [
        (&none, "missing_api_key"),
        (&client.with_key(Some("mk_nobody_nothing")), "invalid_api_key"),
        (&client.with_key(Some("")), "missing_api_key"),
        (&client.with_key(Some(&other_secret)), "invalid_api_key"),
    ] {
        for answer in [
            client.post(CHAT, &chat("mesh/code")).await,
            client.post(CHAT, &chat("no-such-model")).await,
            client.post_bytes(CHAT, "{").await,
            client.get("/v1/models").await,
            client.get("/metrics").await,
            client.get("/no/such/path").await,
        ] {
            let error = answer.error(401, code);
            assert_eq!(error["type"], "authentication_error");
            assert!(answer.header("www-authenticate").starts_with("Bearer"));
            assert!(!answer.text().contains("mk_nobody"), "{error}");
        }
    }
    assert_eq!(none.get("/healthz").await.status, 200, "liveness needs no key");
    assert_eq!(none.get("/readyz").await.status, 200);
    one.end().await;
}

#[tokio::test]
async fn a_key_without_bearer_is_told_so_and_repeated_nowhere() {
    let one = One::start().await;
    let door = one.client().with_key(None);
    for (header, words) in [
        (one.mesh.key().to_owned(), "does not begin with `Bearer `"),
        (format!("Basic {}", one.mesh.key()), "does not begin with `Bearer `"),
        ("Bearer".into(), "no key behind `Bearer`"),
    ] {
        let answer = door.get_with("/v1/models", "authorization", &header).await;
        let error = answer.error(401, "missing_api_key");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains(words) && message.contains("Authorization: Bearer mk_"), "{message}");
        assert!(!answer.text().contains(one.mesh.key()), "{message}");
    }
    let lower = format!("bearer {}", one.mesh.key());
    assert_eq!(door.get_with("/v1/models", "authorization", &lower).await.status, 200);
    assert_eq!(door.get_with("/v1/models", "x-api-key", one.mesh.key()).await.status, 200);
    one.end().await;
}

#[tokio::test]
async fn a_wrong_method_gets_405_with_those_that_are_right() {
    let one = One::start().await;
    for (path, allowed) in [(CHAT, "POST"), ("/api/show", "POST"), ("/v1/embeddings", "POST")] {
        let answer = one.client().get(path).await;
        assert_eq!((answer.status, answer.header("allow")), (405, allowed), "{path}");
    }
    for (path, allowed) in [
        ("/v1/models", "GET"),
        ("/v1/models/tiny", "GET"),
        ("/healthz", "GET, HEAD"),
        ("/api/tags", "GET, HEAD"),
    ] {
        let answer = one.client().post(path, &json!({})).await;
        assert_eq!((answer.status, answer.header("allow")), (405, allowed), "{path}");
        assert!(
            answer.text().contains(&format!("{path} does not answer POST, but GET")),
            "{}",
            answer.text()
        );
    }
    one.end().await;
}

#[tokio::test]
async fn a_model_that_is_not_there_has_near_names_on_every_path_and_one_that_is_its_slots() {
    let one = One::start().await;
    for path in ["/v1/models/tinny", "/props?model=tinny"] {
        let error = one.client().get(path).await.error(404, "model_not_found");
        assert_eq!(error["mesh"]["near"][0], "tiny", "{error}");
        let all = error["mesh"]["available"].as_array().cloned().unwrap_or_default();
        assert!(all.contains(&json!("mesh/code")) && all.contains(&json!("tiny")), "{error}");
    }
    let other = ScriptedEngine::with_slots("tiny", 3).await;
    let node = one.mesh.node("other", &[EngineSpec::scripted(&other)]).await;
    for path in ["/props", "/props?model=tiny", "/props?model=mesh/code"] {
        assert_eq!(one.client().get(path).await.json()["total_slots"], 2 + 3, "{path}");
    }
    node.stop().await;
    one.end().await;
}

#[tokio::test]
async fn a_malformed_chat_is_a_400_also_where_llama_cpp_fails_over_it_and_no_failure_of_the_machine() {
    if !real_engine().await {
        return;
    }
    let mesh = TestMesh::automatic().await;
    let node = mesh.node("msi", &[EngineSpec::real(random_model(), "tiny", 256, 1)]).await;
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let cases = [
        ("/v1/messages", json!(null), "messages"),
        (CHAT, json!([{"content": "x"}]), "messages[0].role"),
        ("/v1/messages", json!([{"role": "user", "content": "x"}, {"content": "x"}]), "messages[1].role"),
        ("/v1/messages/count_tokens", json!([{"role": 1, "content": "x"}]), "messages[0].role"),
        (CHAT, json!([{"role": "user"}]), "messages[0].content"),
        (CHAT, user(json!([{"type": "text"}])), "messages[0].content[0].text"),
        ("/v1/messages", user(json!([{"type": "text", "text": 1}])), "messages[0].content[0].text"),
        (CHAT, json!([{"role": "user", "content": "x", "name": 1}]), "messages[0].name"),
        (CHAT, json!([{"role": "assistant", "tool_calls": "x"}]), "messages[0].tool_calls"),
    ];
    for (doubling, (path, messages, param)) in (4..).zip(cases) {
        // Each of another size: a client that repeats itself is told to stop.
        let user = "x".repeat(1 << doubling);
        let body = json!({"model": "tiny", "messages": messages, "max_tokens": 4, "user": user});
        let answer = mesh.client().post(path, &body).await;
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text());
        let error = answer.json()["error"].clone();
        assert_eq!(error["type"], "invalid_request_error", "{error}");
        assert!(error["message"].as_str().is_some_and(|m| m.starts_with(&format!("`{param}` "))), "{error}");
    }
    let wrong = json!({"model": "tiny", "messages": user(json!("hi")), "temperature": "hot"});
    let error = mesh.client().post(CHAT, &wrong).await.error(400, "invalid_request");
    assert_eq!(error["param"], "temperature", "{error}");
    let twice = format!(r#"{{"model":"tiny","model":"tiny","messages":{}}}"#, user(json!("hi")));
    let error = mesh.client().post_bytes(CHAT, twice).await.error(400, "invalid_request");
    assert!(error["message"].as_str().is_some_and(|m| m.starts_with("`model` is given twice")), "{error}");
    assert_eq!(mesh.client().post(CHAT, &chat("tiny")).await.status, 200, "it is not rested");
    mesh.until_idle(&[&node]).await;
}

fn long_chat(model: &str) -> Value {
    let mut body = chat(model);
    body["messages"][0]["content"] = json!("a long story about many things ".repeat(60));
    body
}

#[tokio::test]
async fn a_prompt_over_the_context_gets_400_with_both_numbers_streamed_or_not() {
    if !real_engine().await {
        return;
    }
    let mesh = TestMesh::automatic().await;
    let node = mesh.node("msi", &[EngineSpec::real(random_model(), "tiny", 256, 1)]).await;
    for body in [long_chat("tiny"), streamed(long_chat("tiny"))] {
        let answer = mesh.client().post(CHAT, &body).await;
        let error = answer.error(400, "context_length_exceeded");
        assert_eq!((&error["type"], &error["param"]), (&json!("invalid_request_error"), &json!("messages")));
        let prompt = error["mesh"]["prompt_tokens"].as_u64().expect("a number");
        assert!(prompt > 256, "{error}");
        assert_eq!(error["mesh"]["context"], 256);
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains(&prompt.to_string()) && message.contains("256"), "{message}");
    }
    mesh.until_idle(&[&node]).await;
}

#[tokio::test]
async fn a_prompt_over_one_machine_s_context_goes_to_a_machine_with_a_larger_one() {
    if !real_engine().await {
        return;
    }
    let mesh = TestMesh::with_modes([mode("code", &["tiny", "tiny-wide"], &[])]).await;
    let (narrow, wide) = (
        [EngineSpec::real(random_model(), "tiny", 256, 1)],
        [EngineSpec::real(random_model(), "tiny-wide", 2048, 1)],
    );
    let (narrow, wide) = tokio::join!(mesh.node("narrow", &narrow), mesh.node("wide", &wide));
    // So short that it looks as if it fitted, and of letters that are a token each.
    let dense = json!({
        "model": "mesh/code",
        "messages": [{"role": "user", "content": "7#q{Z~4^".repeat(60)}],
        "max_tokens": 4,
    });
    for body in [dense.clone(), streamed(dense)] {
        let answer = mesh.client().post(CHAT, &body).await;
        assert_eq!((answer.status, answer.header("x-mesh-node")), (200, "wide"), "{}", answer.text());
        let told = mesh.explain(answer.header("x-mesh-request-id")).await;
        let attempts: Vec<_> = told.attempts.iter().map(|a| (a.node.as_str(), a.result.as_str())).collect();
        assert_eq!(
            attempts,
            [("narrow", "refused the request: context_length_exceeded"), ("wide", "answered")]
        );
    }
    mesh.until_idle(&[&narrow, &wide]).await;
}
