//! Right requests that no machine can serve now.

use crate::{CHAT, Pair, chat, streamed};
use integration_tests::scripted_engine::{Script, ScriptedEngine};
use integration_tests::test_mesh::{TestMesh, machine, mode};
use integration_tests::test_node::EngineSpec;
use mesh_core::machine::EngineState;
use serde_json::json;
use std::collections::BTreeMap;

#[tokio::test]
async fn when_no_machine_can_serve_the_answer_is_503_with_each_one_s_reason_and_when_to_ask_again() {
    let mesh = TestMesh::with_modes([mode("code", &["tiny"], &[])]).await;
    let nobody = mesh.client().post(CHAT, &chat("mesh/code")).await;
    let error = nobody.error(503, "no_node_available");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("no node is connected")), "{error}");

    let (other, broken, leaving) = (
        ScriptedEngine::start("another-model").await,
        ScriptedEngine::start("tiny").await,
        ScriptedEngine::start("tiny").await,
    );
    let specs = [&other, &broken, &leaving].map(|engine| [EngineSpec::scripted(engine)]);
    let (lacks, down, drains) = tokio::join!(
        mesh.node("lacks", &specs[0]),
        mesh.node("down", &specs[1]),
        mesh.node("drains", &specs[2]),
    );
    drop(broken);
    drains.agent().serve.drain();
    mesh.until("one engine is down and one node drains", |snapshot| {
        let down = snapshot.view.machine(&machine("down"));
        let draining = snapshot.view.machine(&machine("drains")).is_some_and(|machine| machine.draining);
        let is_down = |state: &EngineState| matches!(state, EngineState::Down(_));
        draining && down.is_some_and(|machine| machine.engines.iter().all(|engine| is_down(&engine.state)))
    })
    .await;
    for body in [chat("mesh/code"), streamed(chat("mesh/code")), chat("tiny")] {
        let answer = mesh.client().post(CHAT, &body).await;
        let error = answer.error(503, "no_node_available");
        assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
        let nodes = error["mesh"]["nodes"].as_array().cloned().unwrap_or_default();
        let reasons: BTreeMap<&str, &str> = nodes
            .iter()
            .filter_map(|line| Some((line["node"].as_str()?, line["reason"].as_str()?)))
            .collect();
        assert_eq!(reasons.len(), 3, "{error}");
        assert_eq!((reasons["lacks"], reasons["drains"]), ("has none of the models", "draining"));
        assert!(reasons["down"].starts_with("engine down: "), "{error}");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(["lacks", "down", "drains"].iter().all(|name| message.contains(name)), "{message}");
    }
    mesh.until_idle(&[&lacks, &down, &drains]).await;
}

#[tokio::test]
async fn when_every_machine_fails_the_answer_is_503_with_what_each_one_did() {
    let pair = Pair::start(|_| ()).await;
    pair.engine_a.always(Script::HangUp);
    pair.engine_b.always(Script::json(500, &json!({"error": {"message": "out of memory"}})));
    for body in [chat("mesh/code"), streamed(chat("mesh/code"))] {
        let answer = pair.mesh.client().post(CHAT, &body).await;
        let error = answer.error(503, "all_nodes_failed");
        assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains("a: ") && message.contains("b: "), "{message}");
    }
    pair.end().await;
}
