//! The ways of requests to a machine: QUIC, HTTP/2 where UDP does not pass, and a machine that is carried about.

use crate::{CHAT, chat, streamed};
use integration_tests::client::text_of;
use integration_tests::relay::Relay;
use integration_tests::scripted_engine::{Script, ScriptedEngine, Step};
use integration_tests::soon;
use integration_tests::test_mesh::{TestMesh, mode};
use integration_tests::test_node::{EngineSpec, TestNode};
use mesh_core::fleet::DataPath;
use std::time::Duration;
use tokio::task::JoinSet;

const STREAMS: usize = 50;
/// Tokens of each stream, one in [`PAUSE`]: long enough to outlast every outage here.
const TOKENS: usize = 110;
const PAUSE: Duration = Duration::from_millis(50);

struct Stage {
    mesh: TestMesh,
    relay: Relay,
    node: TestNode,
    engine: ScriptedEngine,
}

impl Stage {
    async fn set(settings: &str) -> Self {
        let mesh = TestMesh::with_modes([mode("code", &["tiny"], &[])]).await;
        let relay = Relay::start(mesh.router().agents).await;
        let engine = ScriptedEngine::with_slots("tiny", STREAMS as u32).await;
        let node = mesh.node_with(relay.address, "a", &[EngineSpec::scripted(&engine)], settings).await;
        Self { mesh, relay, node, engine }
    }

    async fn until_by(&self, path: DataPath) {
        self.mesh
            .until(&format!("requests go by {path:?}"), |snapshot| {
                snapshot.view.machine(&self.node.name).is_some_and(|machine| machine.path == Some(path))
            })
            .await;
    }

    async fn is_asked(&self) {
        let answer = self.mesh.client().post(CHAT, &chat("mesh/code")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_machine_that_no_udp_reaches_is_asked_over_tcp_and_over_udp_again_when_it_passes() {
    let stage = Stage::set("").await;
    stage.until_by(DataPath::Quic).await;
    stage.is_asked().await;
    stage.relay.let_udp_pass(false);
    stage.until_by(DataPath::H2).await;
    stage.is_asked().await;
    stage.relay.let_udp_pass(true);
    stage.until_by(DataPath::Quic).await;
    stage.is_asked().await;
    stage.mesh.until_idle(&[&stage.node]).await;
    stage.node.stop().await;
    stage.mesh.stop().await;
}

#[tokio::test]
async fn over_tcp_a_client_that_leaves_stops_the_engine_and_an_engine_that_breaks_is_an_error() {
    let stage = Stage::set("data_link = \"h2\"\n").await;
    stage.until_by(DataPath::H2).await;
    stage.engine.next(Script::stream(&["one"], &[Step::Hang]));
    let mut events = stage.mesh.client().events(CHAT, &streamed(chat("mesh/code"))).await;
    assert_eq!(events.next_text().await, "one");
    drop(events);
    stage.engine.until("the engine is left", |events| events.given_up == 1).await;
    stage.mesh.until_idle(&[&stage.node]).await;

    stage.engine.next(Script::stream(&["one"], &[Step::Wait, Step::Break]));
    let mut events = stage.mesh.client().events(CHAT, &streamed(chat("mesh/code"))).await;
    assert_eq!(events.next_text().await, "one");
    stage.engine.go_on();
    let rest = soon("the stream's end", events.rest()).await;
    assert!(rest.iter().any(|event| event.contains("\"error\"")), "{rest:?}");
    assert!(!rest.iter().any(|event| event.contains("[DONE]")), "no clean end: {rest:?}");
    stage.mesh.until_idle(&[&stage.node]).await;
    stage.node.stop().await;
    stage.mesh.stop().await;
}

#[tokio::test]
async fn a_machine_that_changes_its_address_loses_no_token_of_its_streams() {
    no_token_is_lost(async |stage| {
        stage.relay.let_udp_pass(false);
        tokio::time::sleep(Duration::from_millis(300)).await;
        stage.relay.move_node();
        stage.relay.let_udp_pass(true);
    })
    .await;
}

#[tokio::test]
async fn a_machine_that_is_without_a_network_for_two_seconds_loses_no_token_of_its_streams() {
    no_token_is_lost(async |stage| {
        stage.relay.let_udp_pass(false);
        tokio::time::sleep(Duration::from_secs(2)).await;
        stage.relay.move_node();
        stage.relay.let_udp_pass(true);
    })
    .await;
}

#[tokio::test]
async fn an_outage_in_which_the_control_link_breaks_by_itself_loses_no_token() {
    no_token_is_lost(async |stage| {
        // Either end gives it up two to four seconds from here.
        stage.relay.let_tcp_pass(false);
        tokio::time::sleep(Duration::from_secs(2)).await;
        stage.relay.let_udp_pass(false);
        tokio::time::sleep(Duration::from_secs(2)).await;
        stage.relay.let_udp_pass(true);
        stage.relay.let_tcp_pass(true);
    })
    .await;
}

#[tokio::test]
async fn a_control_link_that_something_on_the_way_ends_again_and_again_loses_no_token() {
    no_token_is_lost(async |stage| {
        for _ in 0..3 {
            stage.relay.cut_tcp();
            // Each time it is there again after some tenths of a second.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
}

/// Under streams that outlast it.
async fn no_token_is_lost(during: impl AsyncFnOnce(&Stage)) {
    let stage = Stage::set("data_link = \"quic\"\n").await;
    let wanted: Vec<String> = (0..TOKENS).map(|n| format!("t{n} ")).collect();
    let texts: Vec<&str> = wanted.iter().map(String::as_str).collect();
    stage.engine.always(Script::slow_stream(&texts, PAUSE));
    let mut streams = JoinSet::new();
    let (begun, mut all_begun) = tokio::sync::mpsc::channel(STREAMS);
    for _ in 0..STREAMS {
        let (client, begun) = (stage.mesh.client(), begun.clone());
        streams.spawn(async move {
            let mut events = client.events(CHAT, &streamed(chat("mesh/code"))).await;
            let mut seen = vec![events.next_text().await];
            begun.send(()).await.expect("the test waits");
            let rest = events.rest().await;
            seen.extend(rest.iter().map(|event| text_of(event)).filter(|text| !text.is_empty()));
            (seen, rest.last().cloned())
        });
    }
    for _ in 0..STREAMS {
        soon("each stream begins", all_begun.recv()).await.expect("the streams run");
    }
    during(&stage).await;
    while let Some(seen) = soon("each stream ends", streams.join_next()).await {
        let (seen, last) = seen.expect("no panic");
        assert_eq!(seen, wanted, "{last:?}");
    }
    stage.mesh.until_idle(&[&stage.node]).await;
    stage.node.stop().await;
    stage.mesh.stop().await;
}
