//! One request after another: where they land, what comes back, what is said of them.

use crate::same_bytes::without_what_differs;
use crate::{ThreeNodes, chat, streamed};
use integration_tests::client::Answer;
use serde_json::{Value, json};

#[tokio::test]
async fn a_request_of_each_mode_lands_where_the_configuration_says() {
    let Some(three) = ThreeNodes::start().await else { return };
    let client = three.mesh.client();
    for (asked, mode, node, model, reason) in [
        ("mesh/code", "code", "msi", "tiny-trained", "only candidate"),
        ("mesh-code", "code", "msi", "tiny-trained", "only candidate"),
        ("mesh/ask", "ask", "beelink", "tiny-random", "only candidate"),
        ("mesh/architect", "architect", "msi", "tiny-trained", "the mode's first choice that can serve"),
        ("mesh/debug", "debug", "msi", "tiny-trained", "fallback to mode code"),
        ("tiny-random", "", "beelink", "tiny-random", "only candidate"),
    ] {
        let answer = client.post("/v1/chat/completions", &chat(asked, "What is a list?", 8)).await;
        landed(&answer, asked, mode, node, model);
        // Once speeds are known the reason names seconds.
        let said = answer.header("x-mesh-reason");
        assert!(said == reason || said.starts_with("least predicted time"), "{asked}: {said}");
        assert_eq!(answer.json()["usage"]["completion_tokens"], 8, "{asked}");
    }
    let completion = json!({"model": "mesh/autocomplete", "prompt": "def main(", "max_tokens": 4});
    let answer = client.post("/v1/completions", &completion).await;
    landed(&answer, "mesh/autocomplete", "autocomplete", "beelink", "tiny-random");
    let answer = client.post("/v1/embeddings", &json!({"model": "mesh/embed", "input": "a list"})).await;
    landed(&answer, "mesh/embed", "embed", "strix-1", "tiny-embed");
    three.end().await;
}

fn landed(answer: &Answer, asked: &str, mode: &str, node: &str, model: &str) {
    assert_eq!(answer.status, 200, "{asked}: {}", answer.text());
    let said = ["x-mesh-mode", "x-mesh-node", "x-mesh-model"].map(|name| answer.header(name));
    assert_eq!(said, [mode, node, model], "{asked}");
    assert!(answer.header("x-mesh-request-id").starts_with("req-"), "{asked}");
    assert_eq!(answer.json()["model"], model, "{asked}: the engine's own word");
}

#[tokio::test]
async fn answers_are_the_engine_s_own_bytes() {
    let Some(three) = ThreeNodes::start().await else { return };
    let client = three.mesh.client();
    let (msi, strix) = (three.msi.engine("tiny-trained").await, three.strix.engine("tiny-embed").await);
    let embeddings = |model| json!({"model": model, "input": ["a list", "zwölf Würfel 🎲"]});
    let base64 = |model| json!({"model": model, "input": "a list", "encoding_format": "base64"});
    let completion = |model| json!({"model": model, "prompt": "def main(", "max_tokens": 24, "temperature": 0, "seed": 7, "cache_prompt": false});
    for (path, engine, to_mesh, to_engine) in [
        (
            "/v1/chat/completions",
            &msi,
            chat("mesh/code", "Write a haiku.", 40),
            chat("tiny-trained", "Write a haiku.", 40),
        ),
        ("/v1/completions", &msi, completion("mesh-code"), completion("tiny-trained")),
        ("/v1/embeddings", &strix, embeddings("mesh/embed"), embeddings("tiny-embed")),
        ("/v1/embeddings", &strix, base64("mesh/embed"), base64("tiny-embed")),
    ] {
        let own = engine.post(path, &to_engine).await;
        let ours = client.post(path, &to_mesh).await;
        assert_eq!((ours.status, own.status), (200, 200), "{path}: {}", ours.text());
        assert_eq!(ours.header("content-type"), own.header("content-type"), "{path}");
        assert_eq!(without_what_differs(ours.text()), without_what_differs(own.text()), "{path}");
    }
    three.end().await;
}

#[tokio::test]
async fn streams_are_the_engine_s_own_events() {
    let Some(three) = ThreeNodes::start().await else { return };
    let (client, engine) = (three.mesh.client(), three.msi.engine("tiny-trained").await);
    for usage in [None, Some(false), Some(true)] {
        let question = |model| {
            let mut body = streamed(chat(model, "Why is the sky blue?", 40));
            if let Some(usage) = usage {
                body["stream_options"] = json!({ "include_usage": usage });
            }
            body
        };
        let path = "/v1/chat/completions";
        let own = engine.events(path, &question("tiny-trained")).await.rest().await;
        let ours = client.events(path, &question("mesh/code")).await;
        assert_eq!((ours.status, ours.header("content-type")), (200, "text/event-stream"));
        assert_eq!(ours.header("x-mesh-node"), "msi");
        let ours = ours.rest().await;
        let compared = |events: &[String]| events.iter().map(|e| without_what_differs(e)).collect::<Vec<_>>();
        assert_eq!(compared(&ours), compared(&own), "usage asked for: {usage:?}");
        assert_eq!(ours.last().map(String::as_str), Some("data: [DONE]"));
        assert!(ours.len() > 40, "there were {} events", ours.len());
        let told = ours.iter().any(|event| event.contains("\"usage\":{"));
        assert_eq!(told, usage == Some(true), "the usage is for those who ask");
    }
    three.end().await;
}

#[tokio::test]
async fn the_list_of_models_has_modes_first_by_slash_and_dash_with_context_and_nodes() {
    let Some(three) = ThreeNodes::start().await else { return };
    let client = three.mesh.client();
    let list = client.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let lines: Vec<Value> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| json!([entry["id"], entry["context_length"], entry["meta"]["mesh"]["nodes"]]))
        .collect();
    let mut expected = Vec::new();
    for (mode, context, node) in [
        ("architect", 512, "msi"),
        ("ask", 256, "beelink"),
        ("autocomplete", 256, "beelink"),
        ("code", 512, "msi"),
        ("debug", 512, "msi"),
        ("embed", 512, "strix-1"),
    ] {
        for id in [format!("mesh/{mode}"), format!("mesh-{mode}")] {
            expected.push(json!([id, context, [node]]));
        }
    }
    for (model, context, node) in
        [("tiny-embed", 512, "strix-1"), ("tiny-random", 256, "beelink"), ("tiny-trained", 512, "msi")]
    {
        expected.push(json!([model, context, [node]]));
    }
    assert_eq!(lines, expected);
    for name in ["mesh/code", "mesh%2Fcode", "mesh-code", "tiny-trained"] {
        let entry = client.get(&format!("/v1/models/{name}")).await;
        assert_eq!((entry.status, &entry.json()["context_length"]), (200, &json!(512)), "{name}");
    }
    client.get("/v1/models/nobody").await.error(404, "model_not_found");
    three.end().await;
}

#[tokio::test]
async fn explain_tells_of_every_candidate_why_it_was_or_was_not_taken() {
    let Some(three) = ThreeNodes::start().await else { return };
    let answer =
        three.mesh.client().post("/v1/chat/completions", &chat("mesh/architect", "Plan it.", 8)).await;
    let told = three.mesh.explain(answer.header("x-mesh-request-id")).await;
    assert_eq!((told.asked.as_str(), told.mode.as_str()), ("mesh/architect", "architect"));
    assert_eq!((told.outcome.as_str(), told.status), ("complete", 200));
    assert_eq!(told.reason, answer.header("x-mesh-reason"));
    let candidates: Vec<_> =
        told.candidates.iter().map(|c| (c.node.as_str(), c.model.as_str(), c.rank, c.why.as_str())).collect();
    assert_eq!(
        candidates,
        [
            ("msi", "tiny-trained", 1, "the mode's first choice that can serve"),
            ("beelink", "tiny-random", 2, "behind: the mode prefers another model"),
            ("strix-1", "", 0, "has none of the models"),
        ]
    );
    let attempts: Vec<_> = told.attempts.iter().map(|a| (a.node.as_str(), a.result.as_str())).collect();
    assert_eq!(attempts, [("msi", "answered")]);
    assert_eq!(told.completion_tokens, Some(8));
    assert!(told.ttft_s.is_some() && told.duration_s >= told.ttft_s);
    three.end().await;
}
