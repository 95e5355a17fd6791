//! Bad input and faults: each promise of the mesh about them is one test, with the promise as its name. Real
//! engines where they can be made to do it, scripted ones for what they cannot.

mod breaking;
mod data_ways;
mod dialects;
mod leaving;
mod loading;
mod lost_machines;
mod refusals;
mod requests;
mod up_stops;

use integration_tests::scripted_engine::ScriptedEngine;
use integration_tests::test_mesh::{TestMesh, mode};
use integration_tests::test_node::{EngineSpec, TestNode, be_an_agent_if_asked};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Good morning"}], "max_tokens": 8})
}

fn streamed(mut body: Value) -> Value {
    body["stream"] = json!(true);
    body
}

/// Two machines with a scripted engine each. `mesh/code` prefers `tiny-a` on `a` to `tiny-b` on `b`.
struct Pair {
    mesh: TestMesh,
    a: TestNode,
    b: TestNode,
    engine_a: ScriptedEngine,
    engine_b: ScriptedEngine,
}

impl Pair {
    async fn start(limit: impl FnOnce(&mut router::config::Limits)) -> Self {
        let mesh = TestMesh::start(|config| {
            config.modes.extend([mode("code", &["tiny-a", "tiny-b"], &[])]);
            limit(&mut config.limits);
        })
        .await;
        let engine_a = ScriptedEngine::start("tiny-a").await;
        let engine_b = ScriptedEngine::start("tiny-b").await;
        let specs = [[EngineSpec::scripted(&engine_a)], [EngineSpec::scripted(&engine_b)]];
        let (a, b) = tokio::join!(mesh.node("a", &specs[0]), mesh.node("b", &specs[1]));
        Self { mesh, a, b, engine_a, engine_b }
    }

    /// After each test: nothing is counted as running any more.
    async fn end(self) {
        self.mesh.until_idle(&[&self.a, &self.b]).await;
        tokio::join!(self.a.stop(), self.b.stop());
        self.mesh.stop().await;
    }
}

/// Not a test: what a node in a process of its own runs.
#[test]
#[ignore = "started by other tests"]
fn agent_process() {
    be_an_agent_if_asked();
}
