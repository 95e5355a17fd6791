//! Forwarding to the engine.

use crate::scripted_engine::Bench;
use crate::soon;
use bytes::Bytes;
use futures_util::StreamExt;
use mesh_proto::v1::response_head::Outcome as Head;
use mesh_proto::v1::{EngineAnswer, Refused, RequestHead, ResponseHead};
use node_agent::metrics::Outcome;
use node_agent::serve::{self, Answer, Serve};
use std::sync::Arc;
use std::time::Duration;

/// The goal for a hang-up to reach the engine.
const CANCEL_GOAL: Duration = Duration::from_millis(500);

pub(crate) fn head(path: &str, body: &[u8]) -> RequestHead {
    RequestHead {
        request_id: "req-1".into(),
        model: "tiny".into(),
        path: path.into(),
        body_length: body.len() as u64,
        traceparent: String::new(),
        blob: None,
    }
}

pub(crate) fn refusal(head: ResponseHead) -> Refused {
    match head.outcome {
        Some(Head::Refused(refused)) => refused,
        other => panic!("no refusal: {other:?}"),
    }
}

pub(crate) fn engine_answer(head: ResponseHead) -> EngineAnswer {
    match head.outcome {
        Some(Head::Answer(answer)) => answer,
        other => panic!("no answer: {other:?}"),
    }
}

async fn ask(serve: &Arc<Serve>, body: &'static [u8]) -> Answer {
    serve::answer(serve, head("/v1/chat/completions", body), Bytes::from_static(body)).await
}

async fn whole(answer: Answer) -> Vec<u8> {
    let parts: Vec<_> = soon("the answer's end", answer.body.collect()).await;
    parts.into_iter().flat_map(|part| part.expect("no break")).collect()
}

#[tokio::test]
async fn the_body_passes_unchanged_and_only_our_own_headers_go_to_the_engine() {
    let mut bench = Bench::start().await;
    let body = br#"{"model":"tiny", "odd":  [1.50,"\u00e9"]}"#;
    let (answer, ()) = tokio::join!(ask(&bench.serve, body), async {
        let post = soon("the request", bench.engine.posts.recv()).await.expect("listening");
        assert_eq!(post.path, "/v1/chat/completions");
        assert_eq!(post.body, body);
        let mut names: Vec<&str> = post.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "authorization", "content-length", "content-type", "host"]);
        assert!(post.headers.contains(&("authorization".into(), "Bearer engine-key".into())));
        post.answer("200 OK", "application/json; charset=utf-8", r#"{"odd":  1.50}"#).await;
    });
    let EngineAnswer { status, content_type, engine, .. } = engine_answer(answer.head.clone());
    assert_eq!(
        (status, content_type.as_str(), engine.as_str()),
        (200, "application/json; charset=utf-8", "scripted")
    );
    assert_eq!(whole(answer).await, br#"{"odd":  1.50}"#);
    bench.idle().await;
    assert_eq!(bench.metrics.requests_ended(Outcome::Complete), 1);
}

#[tokio::test]
async fn an_engine_that_loads_its_model_is_a_refusal_and_not_an_answer() {
    let mut bench = Bench::start().await;
    let loading = r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
    let (answer, ()) = tokio::join!(ask(&bench.serve, b"{}"), async {
        let post = soon("the request", bench.engine.posts.recv()).await.expect("listening");
        post.answer("503 Service Unavailable", "application/json", loading).await;
    });
    assert_eq!(refusal(answer.head).kind, "loading");
    bench.idle().await;
    assert_eq!(bench.metrics.requests_ended(Outcome::Refused("loading")), 1);
}

#[tokio::test]
async fn another_503_is_the_engines_own_answer_and_whole() {
    let mut bench = Bench::start().await;
    let busy = "x".repeat(100_000);
    let (answer, ()) = tokio::join!(ask(&bench.serve, b"{}"), async {
        let post = soon("the request", bench.engine.posts.recv()).await.expect("listening");
        post.answer("503 Service Unavailable", "text/plain", &busy).await;
    });
    assert_eq!(engine_answer(answer.head.clone()).status, 503);
    assert_eq!(whole(answer).await, busy.as_bytes());
}

#[tokio::test]
async fn an_engine_that_is_gone_is_a_refusal_that_says_so() {
    let mut bench = Bench::start().await;
    bench.engine.vanish().await;
    let refused = refusal(soon("an answer", ask(&bench.serve, b"{}")).await.head);
    assert_eq!(refused.kind, "engine_down", "{}", refused.message);
}

#[tokio::test]
async fn an_engine_that_hangs_up_without_a_word_may_have_seen_the_request() {
    let mut bench = Bench::start().await;
    let (answer, ()) = tokio::join!(ask(&bench.serve, b"{}"), async {
        drop(soon("the request", bench.engine.posts.recv()).await);
    });
    assert_eq!(refusal(answer.head).kind, "engine_hung_up");
}

#[tokio::test]
async fn a_break_in_the_middle_ends_in_an_error_and_never_cleanly() {
    let mut bench = Bench::start().await;
    let (mut answer, mut post) = tokio::join!(ask(&bench.serve, b"{}"), async {
        let mut post = soon("the request", bench.engine.posts.recv()).await.expect("listening");
        post.begin_stream().await;
        post.send_chunk("data: 1\n\n").await;
        post
    });
    let first = soon("the first chunk", answer.body.next()).await.expect("a chunk").expect("whole");
    assert_eq!(first, "data: 1\n\n");
    post.send("ff\r\nhalf a chu").await;
    drop(post);
    let mut broke = None;
    while let Some(part) = soon("the end", answer.body.next()).await {
        broke = part.err();
    }
    assert_eq!(broke.expect("the last item is the error").engine, "scripted");
    assert_eq!(bench.metrics.requests_ended(Outcome::EngineBroke), 1);
    assert_eq!(bench.metrics.requests_ended(Outcome::Complete), 0);
}

#[tokio::test]
async fn dropping_an_answer_closes_the_engines_connection_at_once() {
    let mut bench = Bench::start().await;
    let (mut answer, mut post) = tokio::join!(ask(&bench.serve, b"{}"), async {
        let mut post = soon("the request", bench.engine.posts.recv()).await.expect("listening");
        post.begin_stream().await;
        post.send_chunk("data: 1\n\n").await;
        post
    });
    drop(soon("the first chunk", answer.body.next()).await);
    assert_eq!(*bench.serve.in_flight().borrow(), 1);
    drop(answer);
    tokio::time::timeout(CANCEL_GOAL, post.closed_by_agent()).await.expect("closed within 500 ms");
    assert_eq!(*bench.serve.in_flight().borrow(), 0);
    assert_eq!(bench.metrics.requests_ended(Outcome::Cancelled), 1);
}

#[tokio::test]
async fn giving_up_before_the_first_byte_closes_the_engines_connection_at_once() {
    let mut bench = Bench::start().await;
    let serve = bench.serve.clone();
    let waiting = tokio::spawn(async move {
        serve::answer(&serve, head("/v1/completions", b"{}"), Bytes::from_static(b"{}")).await
    });
    let mut post = bench.engine.post().await;
    waiting.abort();
    tokio::time::timeout(CANCEL_GOAL, post.closed_by_agent()).await.expect("closed within 500 ms");
    bench.idle().await;
    assert_eq!(bench.metrics.requests_ended(Outcome::Cancelled), 1);
}

#[tokio::test]
async fn what_no_client_may_ask_is_refused_before_any_engine_hears_of_it() {
    let mut bench = Bench::start().await;
    for (path, model, kind) in [
        ("/props", "tiny", "bad_request"),
        ("/v1/chat/completions/../../props", "tiny", "bad_request"),
        ("/v1/chat/completions", "../tiny", "bad_request"),
        ("/v1/chat/completions", "unheard-of", "no_such_model"),
    ] {
        let request = RequestHead { model: model.into(), ..head(path, b"") };
        let refused = refusal(serve::answer(&bench.serve, request, Bytes::new()).await.head);
        assert_eq!(refused.kind, kind, "{path} {model}: {}", refused.message);
    }
    bench.serve.drain();
    let refused = refusal(ask(&bench.serve, b"{}").await.head);
    assert_eq!(refused.kind, "draining");
    assert!(bench.engine.posts.try_recv().is_err(), "no engine heard of it");
}
