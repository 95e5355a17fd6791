//! A client leaves while a real engine with one slot answers it: how long until the slot is free again?
//!
//! Asking the engine would disturb it: it looks for clients that left only when it had nothing to say to anybody for
//! a second. So another request waits at the engine for the slot, and its first word tells.

use crate::figures::{Arguments, at, head, judged, spread, told};
use integration_tests::client::Client;
use integration_tests::engine_fixture::{long_winded_model, real_engine};
use integration_tests::eventually;
use integration_tests::test_mesh::TestMesh;
use integration_tests::test_node::{EngineSpec, TestNode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

const CHAT: &str = "/v1/chat/completions";
const MODEL: &str = "long-winded";

/// p99 of streams, and of answers that are no streams: the engine looks once a second.
const GOALS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(1200)];

pub(crate) async fn measure(arguments: &Arguments) {
    if !real_engine().await {
        return;
    }
    let trials = arguments.number("--trials", 500);
    let models = tempfile::tempdir().expect("a temporary folder");
    let mesh = TestMesh::automatic().await;
    let spec = EngineSpec::real(long_winded_model(models.path()), MODEL, 16_384, 1);
    let node = mesh.node("msi", &[spec]).await;
    let engine = node.engine(MODEL).await;

    let mut alone = Vec::new();
    for _ in 0..20 {
        let begin = Instant::now();
        next_in_line(&engine).await;
        alone.push(begin.elapsed());
    }
    head(&format!("A client leaves: until the engine's slot is free, {trials} trials"));
    let through_the_mesh = mesh.client();
    for (stream, what, goal) in [(true, "a stream", GOALS[0]), (false, "no stream", GOALS[1])] {
        for client in [&engine, &through_the_mesh] {
            let mut times = Vec::new();
            for trial in 0..trials {
                let left = leave(client, &engine, stream, trial).await;
                next_in_line(&engine).await;
                // What its own answer takes is not the slot's.
                times.push(left.elapsed().saturating_sub(at(&alone, 0.5)));
                mesh.until_idle(&[&node]).await;
            }
            if client.base == engine.base {
                told(&format!("{what}, the engine without a mesh"), &spread(&times));
            } else {
                let passed = at(&times, 0.99) <= goal;
                judged(what, &spread(&times), &format!("p99 ≤ {} ms", goal.as_millis()), passed);
            }
        }
    }
    end(mesh, node).await;
}

async fn end(mesh: TestMesh, node: TestNode) {
    node.stop().await;
    mesh.stop().await;
}

/// Asks, waits until it is being answered, and leaves. When that was.
async fn leave(client: &Client, engine: &Client, stream: bool, trial: u32) -> Instant {
    let question = question(stream, 16_000);
    if stream {
        let mut events = client.events(CHAT, &question).await;
        drop(events.next_text().await);
        let left = Instant::now();
        drop(events);
        return left;
    }
    let client = client.clone();
    let mut asking = tokio::spawn(async move { client.post(CHAT, &question).await });
    tokio::select! {
        () = eventually("the engine works", async || (busy(engine).await == 1).then_some(())) => {}
        answer = &mut asking => {
            let answer = answer.expect("no panic");
            panic!("trial {trial}: answered before the engine was seen at work: {} {}", answer.status, answer.text());
        }
    }
    // That was something to say: spread over the engine's second, so that trials leave at any moment of it.
    tokio::time::sleep(Duration::from_millis(u64::from(trial * 37 % 1000))).await;
    let left = Instant::now();
    asking.abort();
    left
}

/// Waits at the engine for the slot, for one token.
async fn next_in_line(engine: &Client) {
    assert_eq!(engine.post(CHAT, &question(false, 1)).await.status, 200);
}

fn question(stream: bool, tokens: u32) -> Value {
    let messages = json!([{"role": "user", "content": "Good morning"}]);
    json!({"model": MODEL, "messages": messages, "max_tokens": tokens, "ignore_eos": true, "stream": stream})
}

/// By the engine's own count.
async fn busy(engine: &Client) -> u32 {
    let metrics = engine.get("/metrics").await;
    let count = metrics.text().lines().find_map(|line| line.strip_prefix("llamacpp:requests_processing "));
    count.and_then(|count| count.parse().ok()).expect("the engine counts")
}
