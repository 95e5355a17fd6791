//! Clients that speak wrongly, too much, too slowly or not at all. Each gets an explicit outcome, honest requests
//! are answered right after and meanwhile, and memory is bounded.

mod cases;
mod floods;
mod slow;

use cases::{Case, Expect};
use futures_util::{StreamExt, stream};
use integration_tests::raw_client::RawClient;
use integration_tests::resident::Peak;
use integration_tests::scripted_engine::ScriptedEngine;
use integration_tests::test_mesh::TestMesh;
use integration_tests::test_node::{EngineSpec, TestNode};
use router::config::RouterConfig;
use serde_json::json;
use std::net::SocketAddr;

const CHAT: &str = "/v1/chat/completions";
/// What all cases of one test together may hold of memory: some bodies of 8 MiB, each twice on its way.
const MEMORY: u64 = 256 << 20;

/// A router, one node, one honest engine.
struct House {
    mesh: TestMesh,
    node: TestNode,
    engine: ScriptedEngine,
    door: SocketAddr,
}

impl House {
    async fn start(configure: impl FnOnce(&mut RouterConfig)) -> Self {
        let mesh = TestMesh::start(configure).await;
        let engine = ScriptedEngine::start("honest").await;
        let node = mesh.node("a", &[EngineSpec::scripted(&engine)]).await;
        let url = mesh.router().client_url();
        let door = url.trim_start_matches("http://").parse().expect("an address");
        Self { mesh, node, engine, door }
    }

    /// An honest request is answered.
    async fn serves(&self, after: &str) {
        let body = json!({"model": "honest", "messages": [{"role": "user", "content": "Good morning"}]});
        let answer = self.mesh.client().post(CHAT, &body).await;
        let text = answer.json()["choices"][0]["message"]["content"].clone();
        assert_eq!(text, "from honest", "after {after}: {}", answer.text());
    }

    async fn end(self) {
        self.mesh.until_idle(&[&self.node]).await;
        self.node.stop().await;
        self.mesh.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_client_says_the_answer_is_explicit_and_the_next_request_is_served() {
    let house = House::start(|_| ()).await;
    let (cases, peak) = (cases::all(house.mesh.key()), Peak::watch());
    assert!(cases.len() >= 60);
    let wrong: Vec<String> = stream::iter(&cases)
        .map(|case| meets(&house, case))
        .buffer_unordered(4)
        .filter_map(async |met| met.err())
        .collect()
        .await;
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(peak.growth() < MEMORY, "{} MiB", peak.growth() >> 20);
    house.end().await;
}

async fn meets(house: &House, case: &Case) -> Result<(), String> {
    let mut client = RawClient::connect(house.door).await;
    client.send(&case.bytes).await;
    let mut statuses = Vec::new();
    let mut last = String::new();
    while let Some(reply) = client.reply().await {
        statuses.push(reply.status);
        last = String::from_utf8_lossy(&reply.body).chars().take(300).collect();
    }
    let as_expected = match &case.expect {
        Expect::Answers(answers) => *answers == statuses,
        Expect::OneOf(answers) => match statuses[..] {
            [] => answers.contains(&0),
            [status] => answers.contains(&status),
            [..] => false,
        },
    };
    house.serves(case.name).await;
    if as_expected { Ok(()) } else { Err(format!("{}: {statuses:?} {last}", case.name)) }
}
