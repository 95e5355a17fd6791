//! Three machines with three real engines behind one router, over real TLS, gRPC and QUIC on loopback: requests
//! land where the configuration says, and what comes back is what the engine said.

mod answers;
mod same_bytes;
mod streams;

use integration_tests::engine_fixture::{embedding_model, random_model, real_engine, trained_model};
use integration_tests::test_mesh::{TestMesh, mode};
use integration_tests::test_node::{EngineSpec, TestNode};
use serde_json::{Value, json};

/// `msi` writes, `beelink` makes noise, `strix-1` makes embeddings.
struct ThreeNodes {
    mesh: TestMesh,
    msi: TestNode,
    beelink: TestNode,
    strix: TestNode,
}

impl ThreeNodes {
    /// `None`, after saying so, where there is no engine.
    async fn start() -> Option<Self> {
        if !real_engine().await {
            return None;
        }
        let mesh = TestMesh::with_modes([
            mode("architect", &["tiny-trained", "tiny-random"], &[]),
            mode("ask", &["tiny-random"], &[]),
            mode("autocomplete", &["tiny-random"], &[]),
            mode("code", &["tiny-trained"], &[]),
            mode("debug", &["a-model-nobody-has"], &["code"]),
            mode("embed", &["tiny-embed"], &[]),
        ])
        .await;
        let trained = [EngineSpec::real(trained_model(), "tiny-trained", 512, 2)];
        let random = [EngineSpec::real(random_model(), "tiny-random", 256, 2)];
        let embed = [EngineSpec::embedding(embedding_model(), "tiny-embed")];
        let (msi, beelink, strix) = tokio::join!(
            mesh.node("msi", &trained),
            mesh.node("beelink", &random),
            mesh.node("strix-1", &embed),
        );
        Some(Self { mesh, msi, beelink, strix })
    }

    async fn end(self) {
        self.mesh.until_idle(&[&self.msi, &self.beelink, &self.strix]).await;
        tokio::join!(self.msi.stop(), self.beelink.stop(), self.strix.stop());
        self.mesh.stop().await;
    }
}

/// A chat whose answer is the same each time.
fn chat(model: &str, prompt: &str, tokens: u32) -> Value {
    json!({
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens, "seed": 7, "temperature": 0,
        // What an earlier prompt left in the engine's memory shall not matter.
        "cache_prompt": false,
    })
}

fn streamed(mut body: Value) -> Value {
    body["stream"] = json!(true);
    body
}
