//! Truth in answers: prompts that do not fit, engines that cut them, empty and endless answers, and models that
//! stand for others.

use integration_tests::client::Answer;
use integration_tests::engine_fixture::{random_model, real_engine};
use integration_tests::scripted_engine::{Script, ScriptedEngine, Step};
use integration_tests::test_mesh::{TestMesh, mode};
use integration_tests::test_node::EngineSpec;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COUNT: &str = "/v1/chat/completions/input_tokens";

fn chat(text: &str) -> Value {
    json!({"model": "mesh/code", "messages": [{"role": "user", "content": text}]})
}

fn answer(model: &str, text: &str, prompt_tokens: u64, completion_tokens: u64) -> Script {
    Script::json(
        200,
        &json!({
            "choices": [{"finish_reason": "stop", "index": 0, "message": {"role": "assistant", "content": text}}],
            "model": model, "object": "chat.completion", "id": "chatcmpl-scripted",
            "usage": {"completion_tokens": completion_tokens, "prompt_tokens": prompt_tokens},
        }),
    )
}

fn event(value: &Value) -> Step {
    Step::Send(format!("data: {value}\n\n"))
}

fn end_of_stream(prompt_tokens: u64, completion_tokens: u64) -> Vec<Step> {
    vec![
        event(&json!({"choices": [{"finish_reason": "stop", "index": 0, "delta": {}}]})),
        event(
            &json!({"choices": [], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}}),
        ),
        Step::Send("data: [DONE]\n\n".into()),
    ]
}

async fn metric(mesh: &TestMesh, line: &str) -> bool {
    mesh.client().get("/metrics").await.text().lines().any(|found| found.starts_with(line))
}

async fn explained(mesh: &TestMesh, answer: &Answer) -> String {
    let record = mesh.explain(answer.header("x-mesh-request-id")).await;
    record.outcome_detail
}

#[tokio::test]
async fn a_prompt_that_is_counted_and_does_not_fit_is_refused_before_it_is_sent() {
    let mesh = TestMesh::with_modes([mode("code", &["tiny"], &[])]).await;
    let engine = ScriptedEngine::start("tiny").await;
    let node = mesh.node("msi", &[EngineSpec::scripted(&engine)]).await;
    // The slot holds 1,024 tokens.
    let body = chat(&"x+=1;".repeat(800));
    engine.next(Script::json(200, &json!({"input_tokens": 1600, "object": "response.input_tokens"})));
    let refused = mesh.client().post(CHAT, &body).await;
    let error = refused.error(400, "context_length_exceeded");
    assert_eq!((&error["mesh"]["prompt_tokens"], &error["mesh"]["context"]), (&json!(1600), &json!(1024)));
    let paths: Vec<String> = engine.posts().into_iter().map(|post| post.path).collect();
    assert_eq!(paths, [COUNT], "only counted");
    assert!(metric(&mesh, "modemesh_router_prompt_counts_total{reason=\"too_long\"} 1").await);

    // It fits, but its answer would not: the limit is lowered, and nothing else changes.
    let mut limited = body.clone();
    limited["max_tokens"] = json!(900);
    engine.next(Script::json(200, &json!({"input_tokens": 1000})));
    let fits = mesh.client().post(CHAT, &limited).await;
    assert_eq!(fits.status, 200, "{}", fits.text());
    assert_eq!(fits.header("x-mesh-max-tokens-clamped"), "24, what the context leaves");
    let sent = engine.posts().pop().expect("the chat");
    limited["max_tokens"] = json!(24);
    limited["model"] = json!("tiny");
    assert_eq!(serde_json::from_slice::<Value>(&sent.body).expect("JSON"), limited);

    // No count: the engine decides.
    engine.next(Script::json(404, &json!({"error": {"message": "File Not Found", "code": 404}})));
    assert_eq!(mesh.client().post(CHAT, &body).await.status, 200);
    // A short prompt is not counted at all.
    let before = engine.posts().len();
    assert_eq!(mesh.client().post(CHAT, &chat("hello")).await.status, 200);
    assert_eq!(engine.posts().len(), before + 1);
    mesh.until_idle(&[&node]).await;
    node.stop().await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_prompt_that_an_engine_cut_is_told_in_the_header_the_stream_the_metric_and_explain() {
    let mesh = TestMesh::with_modes([mode("code", &["tiny"], &[])]).await;
    let engine = ScriptedEngine::start("tiny").await;
    let node = mesh.node("msi", &[EngineSpec::scripted(&engine)]).await;
    let body = chat(&"x+=1;".repeat(800));
    engine.next(Script::json(200, &json!({"input_tokens": 1000})));
    engine.next(answer("tiny", "well", 500, 1));
    let whole = mesh.client().post(CHAT, &body).await;
    let wanted = "truncated: the engine read 500 tokens of a prompt of 1000 or more";
    assert_eq!((whole.status, whole.header("x-mesh-truncated")), (200, wanted));
    assert_eq!(explained(&mesh, &whole).await, wanted);

    engine.next(Script::json(200, &json!({"input_tokens": 1000})));
    engine.next(Script::stream(&["well"], &end_of_stream(500, 1)));
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let stream = mesh.client().post(CHAT, &streamed).await;
    let comment = format!(": x-mesh-truncated: {wanted}\n\ndata: [DONE]\n\n");
    assert!(stream.text().ends_with(&comment), "{}", stream.text());
    assert!(!stream.text().contains("\"usage\""), "the usage frame was not asked for");
    assert!(metric(&mesh, "modemesh_router_truncated_total{node=\"msi\",model=\"tiny\"} 2").await);
    mesh.until_idle(&[&node]).await;
    node.stop().await;
    mesh.stop().await;
}

#[tokio::test]
async fn an_empty_answer_is_asked_for_once_elsewhere_and_else_passed_on_with_a_warning() {
    let mesh = TestMesh::with_modes([mode("code", &["first", "second"], &[])]).await;
    let (first, second) = (ScriptedEngine::start("first").await, ScriptedEngine::start("second").await);
    let one = mesh.node("one", &[EngineSpec::scripted(&first)]).await;
    let two = mesh.node("two", &[EngineSpec::scripted(&second)]).await;
    first.next(answer("first", "", 5, 40));
    let healed = mesh.client().post(CHAT, &chat("hello")).await;
    assert_eq!((healed.status, healed.header("x-mesh-node")), (200, "two"));
    assert_eq!(healed.header("x-mesh-warning"), "");

    // In a stream too, as long as nothing has gone out.
    first.next(Script::stream(&[], &end_of_stream(5, 40)));
    let mut streamed = chat("hello");
    streamed["stream"] = json!(true);
    let healed = mesh.client().post(CHAT, &streamed).await;
    assert!(healed.text().contains("from second"), "{}", healed.text());

    // Both are empty: the first answer is passed on as it is.
    first.next(answer("first", "", 5, 40));
    second.next(answer("second", "", 5, 41));
    let empty = mesh.client().post(CHAT, &chat("hello")).await;
    assert_eq!((empty.status, empty.header("x-mesh-warning")), (200, "empty-answer"), "{}", empty.text());
    assert!(explained(&mesh, &empty).await.starts_with("empty answer: 4"));
    assert!(
        metric(&mesh, "modemesh_router_faulty_answers_total{node=\"one\",model=\"first\",kind=\"empty\"} 3")
            .await
    );

    // The other is broken: an empty answer is better than none.
    first.next(answer("first", "", 5, 40));
    second.next(Script::HangUp);
    let empty = mesh.client().post(CHAT, &chat("hello")).await;
    assert_eq!((empty.status, empty.header("x-mesh-node")), (200, "one"), "{}", empty.text());
    assert_eq!(empty.header("x-mesh-warning"), "empty-answer");
    mesh.until_idle(&[&one, &two]).await;
    one.stop().await;
    two.stop().await;
    mesh.stop().await;
}

#[tokio::test]
async fn an_error_in_a_whole_200_goes_to_the_next_machine() {
    let mesh = TestMesh::with_modes([mode("code", &["first", "second"], &[])]).await;
    let (first, second) = (ScriptedEngine::start("first").await, ScriptedEngine::start("second").await);
    let one = mesh.node("one", &[EngineSpec::scripted(&first)]).await;
    let two = mesh.node("two", &[EngineSpec::scripted(&second)]).await;
    first.next(Script::json(200, &json!({"error": {"message": "out of memory", "code": 500}})));
    let healed = mesh.client().post(CHAT, &chat("hello")).await;
    assert_eq!((healed.status, healed.header("x-mesh-node")), (200, "two"), "{}", healed.text());
    mesh.until_idle(&[&one, &two]).await;
    one.stop().await;
    two.stop().await;
    mesh.stop().await;
}

#[tokio::test]
async fn an_endless_repetition_is_marked_and_only_ended_where_that_is_configured() {
    for stop in [false, true] {
        let mesh = TestMesh::start(|config| {
            config.modes.extend([mode("code", &["tiny"], &[])]);
            config.limits.stop_repetition = stop;
        })
        .await;
        let engine = ScriptedEngine::start("tiny").await;
        let node = mesh.node("msi", &[EngineSpec::scripted(&engine)]).await;
        engine.next(Script::stream(&["I cannot do that. "; 600], &end_of_stream(5, 2400)));
        let mut body = chat("hello");
        body["stream"] = json!(true);
        let said = mesh.client().post(CHAT, &body).await;
        let ended = said.text().contains("\"code\":\"endless_repetition\"");
        assert_eq!(
            (ended, said.text().ends_with("data: [DONE]\n\n")),
            (stop, !stop),
            "{}",
            said.text().len()
        );
        assert!(explained(&mesh, &said).await.contains("endless repetition: a piece of 18 bytes"));
        let line = "modemesh_router_faulty_answers_total{node=\"msi\",model=\"tiny\",kind=\"repetition\"} 1";
        assert!(metric(&mesh, line).await);
        assert_eq!(mesh.client().post(CHAT, &chat("hello")).await.status, 200, "the machine stays");
        mesh.until_idle(&[&node]).await;
        node.stop().await;
        mesh.stop().await;
    }
}

#[tokio::test]
async fn another_model_of_the_mesh_in_the_answer_counts_against_the_replica() {
    let mesh = TestMesh::with_modes([mode("code", &["tiny"], &[])]).await;
    let (engine, other) = (ScriptedEngine::start("tiny").await, ScriptedEngine::start("other").await);
    let node = mesh.node("msi", &[EngineSpec::scripted(&engine), EngineSpec::scripted(&other)]).await;
    engine.next(answer("other", "hello", 5, 1));
    let said = mesh.client().post(CHAT, &chat("hello")).await;
    assert_eq!(explained(&mesh, &said).await, "another model answered: other");
    let line = "modemesh_router_other_model_total{node=\"msi\",model=\"tiny\",kind=\"ours\"} 1";
    assert!(metric(&mesh, line).await);
    mesh.until_idle(&[&node]).await;
    node.stop().await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_mode_s_limit_of_tokens_holds_for_every_request() {
    let mesh = TestMesh::start(|config| {
        let (name, mut code) = mode("code", &["tiny"], &[]);
        code.max_tokens = Some(64);
        config.modes.extend([(name, code)]);
    })
    .await;
    let engine = ScriptedEngine::start("tiny").await;
    let node = mesh.node("msi", &[EngineSpec::scripted(&engine)]).await;
    for (asked, sent, header) in [
        (None, Some(64), "64, the mode's limit"),
        (Some(1000), Some(64), "64, the mode's limit"),
        (Some(10), Some(10), ""),
    ] {
        let mut body = chat("hello");
        if let Some(tokens) = asked {
            body["max_tokens"] = json!(tokens);
        }
        let said = mesh.client().post(CHAT, &body).await;
        assert_eq!(said.header("x-mesh-max-tokens-clamped"), header, "{asked:?}");
        let post = engine.posts().pop().expect("one");
        let got: Value = serde_json::from_slice(&post.body).expect("JSON");
        assert_eq!(got["max_tokens"].as_u64(), sent, "{asked:?}");
    }
    mesh.until_idle(&[&node]).await;
    node.stop().await;
    mesh.stop().await;
}

#[tokio::test]
async fn the_real_engine_counts_a_prompt_and_its_answer_fits_the_rest() {
    if !real_engine().await {
        return;
    }
    let mesh = TestMesh::with_modes([mode("code", &["tiny-random"], &[])]).await;
    let node = mesh.node("msi", &[EngineSpec::real(random_model(), "tiny-random", 1024, 2)]).await;
    let context = 1024_u64;
    // A token has three bytes at most in such a text: well over the context.
    let long = "ab, cd; ef. ".repeat(512);
    let refused = mesh.client().post(CHAT, &chat(&long)).await;
    let error = refused.error(400, "context_length_exceeded");
    assert!(error["mesh"]["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > context), "{error}");
    assert!(metric(&mesh, "modemesh_router_prompt_counts_total{reason=\"too_long\"} 1").await);

    // One that fits, with an answer that would not: it is limited to exactly what is left of the slot.
    let mut fits = chat(&"What is the difference between a list and a set? ".repeat(43));
    fits["max_tokens"] = json!(2000);
    let said = mesh.client().post(CHAT, &fits).await;
    assert_eq!(said.status, 200, "{}", said.text());
    let usage = &said.json()["usage"];
    let (prompt, answer) = (usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64());
    let left = 1024 - prompt.expect("llama.cpp counts");
    assert_eq!(said.header("x-mesh-max-tokens-clamped"), format!("{left}, what the context leaves"));
    assert!(answer.is_some_and(|tokens| tokens <= left), "{usage}");
    assert_eq!(said.header("x-mesh-truncated"), "", "counted and read alike");
    mesh.until_idle(&[&node]).await;
    node.stop().await;
    mesh.stop().await;
}
