//! Certificates with a life of seconds: they are renewed again and again while requests flow, and nobody
//! notices.

use integration_tests::scripted_engine::{Script, ScriptedEngine};
use integration_tests::test_mesh::TestMesh;
use integration_tests::test_node::EngineSpec;
use serde_json::json;

#[tokio::test]
async fn certificates_are_renewed_while_requests_flow_and_serve_new_connections() {
    // The CA dates certificates a minute back, so these are past two thirds of their life when they are new:
    // the agent renews at each heartbeat.
    let mut mesh = TestMesh::start(|config| "20s".clone_into(&mut config.identity.certificate_life)).await;
    let engine = ScriptedEngine::start("tiny").await;
    engine.always(Script::chat("still here"));
    let node = mesh.node("a", &[EngineSpec::scripted(&engine)]).await;
    let client = mesh.client();
    let body = json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]});

    let mut seen = vec![node.certificate()];
    integration_tests::eventually("three renewals", || {
        let now = node.certificate();
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        let (enough, client, body) = (seen.len() > 3, client.clone(), body.clone());
        async move {
            let answer = client.post("/v1/chat/completions", &body).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            enough.then_some(())
        }
    })
    .await;

    // Connections made from now on show the renewed certificate to a router that has renewed its own.
    mesh.restart_router().await;
    mesh.until_serves(&node.name, &[EngineSpec::scripted(&engine)]).await;
    let answer = mesh.client().post("/v1/chat/completions", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    node.stop().await;
    mesh.stop().await;
}
