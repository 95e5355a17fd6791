//! Clients that leave: the engine is told, and its slot is free again soon.

use crate::{CHAT, Pair, chat, streamed};
use integration_tests::client::Client;
use integration_tests::engine_fixture::{long_winded_model, real_engine};
use integration_tests::eventually;
use integration_tests::scripted_engine::{Script, Step};
use integration_tests::test_mesh::TestMesh;
use integration_tests::test_node::{EngineSpec, TestNode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// A real engine that would write for minutes.
struct LongWinded {
    mesh: TestMesh,
    node: TestNode,
    engine: Client,
    _models: tempfile::TempDir,
}

impl LongWinded {
    async fn start() -> Option<Self> {
        if !real_engine().await {
            return None;
        }
        let mesh = TestMesh::automatic().await;
        let models = tempfile::tempdir().expect("a temporary folder");
        let spec = EngineSpec::real(long_winded_model(models.path()), "long-winded", 16_384, 1);
        let node = mesh.node("msi", &[spec]).await;
        let engine = node.engine("long-winded").await;
        Some(Self { mesh, node, engine, _models: models })
    }

    fn question() -> Value {
        let mut body = chat("long-winded");
        body["max_tokens"] = json!(16_000);
        body["ignore_eos"] = json!(true);
        body
    }

    /// By the engine's own count.
    async fn busy_slots(&self) -> u32 {
        let metrics = self.engine.get("/metrics").await;
        let count =
            metrics.text().lines().find_map(|line| line.strip_prefix("llamacpp:requests_processing "));
        count.and_then(|count| count.parse().ok()).expect("the engine counts")
    }

    async fn until_busy_slots(&self, wanted: u32) {
        eventually("the engine's count", async || (self.busy_slots().await == wanted).then_some(())).await;
    }

    async fn end(self) {
        self.mesh.until_idle(&[&self.node]).await;
        self.node.stop().await;
        self.mesh.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_frees_the_engine_s_slot_within_half_a_second() {
    let Some(long) = LongWinded::start().await else { return };
    let mut events = long.mesh.client().events(CHAT, &streamed(LongWinded::question())).await;
    let id = events.header("x-mesh-request-id").to_owned();
    drop(events.next_text().await);
    long.until_busy_slots(1).await;
    let left = Instant::now();
    drop(events);
    long.until_busy_slots(0).await;
    let took = left.elapsed();
    assert!(took <= Duration::from_millis(500), "{took:?}");
    let told = eventually("the record is closed", async || {
        Some(long.mesh.explain(&id).await).filter(|told| told.outcome != "running")
    })
    .await;
    assert_eq!((told.outcome.as_str(), told.attempts[0].result.as_str()), ("cancelled", "cancelled"));
    long.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_before_its_whole_answer_frees_the_engine_s_slot_within_a_second_and_a_half() {
    let Some(long) = LongWinded::start().await else { return };
    let (client, question) = (long.mesh.client(), LongWinded::question());
    let asking = tokio::spawn(async move { client.post(CHAT, &question).await });
    long.until_busy_slots(1).await;
    let left = Instant::now();
    asking.abort();
    // Asked once and not again and again: the engine looks for clients that left only when it had nothing to
    // answer for a second.
    tokio::time::sleep_until(left + Duration::from_millis(1500)).await;
    assert_eq!(long.busy_slots().await, 0);
    long.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_at_any_moment_closes_the_engine_s_connection() {
    let pair = Pair::start(|_| ()).await;
    let client = pair.mesh.client();
    // Before the head, between head and content, after content, and a whole answer that stopped half way.
    let half = Script::Answer {
        status: 200,
        content_type: "application/json",
        body: vec![Step::Send("{".into()), Step::Hang],
    };
    for (number, (script, body)) in [
        (Script::Silence, chat("tiny-a")),
        (Script::Silence, streamed(chat("tiny-a"))),
        (Script::stream(&[], &[Step::Hang]), streamed(chat("tiny-a"))),
        (Script::stream(&["one"], &[Step::Hang]), streamed(chat("tiny-a"))),
        (half, chat("tiny-a")),
    ]
    .into_iter()
    .enumerate()
    {
        pair.engine_a.next(script);
        let client = client.clone();
        let asking = tokio::spawn(async move { client.post(CHAT, &body).await });
        pair.engine_a.until("the request is there", |events| events.posts.len() == number + 1).await;
        asking.abort();
        pair.engine_a.until("it was given up", |events| events.given_up == number + 1).await;
    }
    assert!(pair.engine_b.posts().is_empty());
    pair.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_for_a_model_leaves_nothing_behind() {
    let pair = Pair::start(|_| ()).await;
    pair.engine_a.always(Script::loading());
    let client = pair.mesh.client();
    let asking = tokio::spawn(async move { client.post(CHAT, &chat("tiny-a")).await });
    pair.engine_a.until("it was asked twice", |events| events.posts.len() >= 2).await;
    asking.abort();
    drop(asking.await);
    pair.end().await;
}
