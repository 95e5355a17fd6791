//! Clients that leave a real engine: its slot is free again soon. A program of its own, one test after another,
//! because times are measured.

use integration_tests::client::Client;
use integration_tests::engine_fixture::{long_winded_model, real_engine};
use integration_tests::eventually;
use integration_tests::test_mesh::TestMesh;
use integration_tests::test_node::{EngineSpec, TestNode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

const CHAT: &str = "/v1/chat/completions";

static ALONE: Mutex<()> = Mutex::const_new(());

/// A real engine that would write for minutes.
struct LongWinded {
    mesh: TestMesh,
    node: TestNode,
    engine: Client,
    _models: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl LongWinded {
    async fn start() -> Option<Self> {
        if !real_engine().await {
            return None;
        }
        let alone = ALONE.lock().await;
        let mesh = TestMesh::automatic().await;
        let models = tempfile::tempdir().expect("a temporary folder");
        let spec = EngineSpec::real(long_winded_model(models.path()), "long-winded", 16_384, 1);
        let node = mesh.node("msi", &[spec]).await;
        let engine = node.engine("long-winded").await;
        Some(Self { mesh, node, engine, _models: models, _alone: alone })
    }

    fn question(stream: bool) -> Value {
        let messages = json!([{"role": "user", "content": "Good morning"}]);
        json!({"model": "long-winded", "messages": messages, "max_tokens": 16_000, "ignore_eos": true, "stream": stream})
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
    let mut events = long.mesh.client().events(CHAT, &LongWinded::question(true)).await;
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
    let (client, question) = (long.mesh.client(), LongWinded::question(false));
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
