//! What is tried again elsewhere, and what is not.

use crate::fixture::{Mesh, Script, caller, engine, error_of, header, replica};
use mesh_core::id::ModelId;
use mesh_core::machine::ReplicaState::Loaded;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// One mode whose models are asked in this order.
fn first_and_second(config: &mut router::config::RouterConfig) {
    let ask = config.modes.get_mut("ask").expect("the fixture has it");
    ask.models = vec!["first".into(), "second".into()];
}

fn loaded(slots: u32) -> mesh_core::machine::Engine {
    engine(vec![replica("m", Loaded, Some(slots))])
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_client_s_fault_is_tried_elsewhere() {
    for script in [
        Script::Gone,
        Script::HangsUp,
        Script::Refused("draining"),
        Script::Status(404, "", None),
        Script::Status(408, "", None),
        Script::Status(409, "", None),
        Script::Status(429, "", None),
        Script::Status(500, "", None),
        Script::Status(503, "", None),
    ] {
        let mesh = Mesh::start(first_and_second);
        let (a, _control_a) = mesh.node("a", engine(vec![replica("first", Loaded, Some(4))])).await;
        let (b, _control_b) = mesh.node("b", engine(vec![replica("second", Loaded, Some(4))])).await;
        a.next(script.clone());
        let reply = mesh.send("mesh/ask", caller("k")).await;
        assert_eq!(
            (reply.status().as_u16(), header(&reply, "x-mesh-node").as_str()),
            (200, "b"),
            "{script:?}"
        );
        let reason = header(&reply, "x-mesh-reason");
        assert!(reason.starts_with("next after a: "), "{script:?}: {reason}");
        assert_eq!((a.requests(), b.requests()), (1, 1), "{script:?}");
        mesh.until_idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn retries_are_bounded_by_a_budget_when_everything_fails() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        let (node, control) = mesh.node(name, loaded(64)).await;
        node.always(Script::Status(503, "", None));
        nodes.push((node, control));
    }
    for _ in 0..200 {
        let (status, code, _) = error_of(mesh.send("m", caller("k")).await).await;
        assert_eq!((status, code.as_str()), (503, "all_nodes_failed"));
    }
    let sent: usize = nodes.iter().map(|(node, _)| node.requests()).sum();
    assert!((200..=200 + 32 + 40 + 1).contains(&sent), "{sent}");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_says_when_to_come_back_is_left_alone_until_then() {
    let mesh = Mesh::start(|_| ());
    let (a, _control_a) = mesh.node("a", loaded(4)).await;
    a.next(Script::Status(429, "", Some(7)));
    let (_, code, _) = error_of(mesh.send("m", caller("k")).await).await;
    assert_eq!(code, "all_nodes_failed");
    let model = ModelId::new("m").expect("valid");
    let resting = |snapshot: &router::fleet_keeper::Snapshot| {
        snapshot.view.machines[0].history.get(&model).and_then(|history| history.resting)
    };
    mesh.until(|snapshot| resting(snapshot).is_some_and(|(rest, failures)| !rest.is_zero() && failures == 0))
        .await;
    let (b, _control_b) = mesh.node("b", loaded(4)).await;
    for _ in 0..8 {
        assert_eq!(header(&mesh.send("m", caller("k")).await, "x-mesh-node"), "b");
    }
    assert_eq!(b.requests(), 8);
    mesh.until(|snapshot| resting(snapshot).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_replica_is_asked_for_one_token_before_users_requests_go_there_again() {
    let mesh = Mesh::start(|_| ());
    let (a, _control_a) = mesh.node("a", loaded(4)).await;
    a.always(Script::Status(500, "", None));
    for _ in 0..3 {
        assert_eq!(error_of(mesh.send("m", caller("k")).await).await.1, "all_nodes_failed");
    }
    let (b, _control_b) = mesh.node("b", loaded(4)).await;
    a.until(|seen| seen.bodies.len() == 5).await;
    let seen = a.seen.borrow().clone();
    for probe in &seen.bodies[3..] {
        assert_eq!(probe["max_tokens"], json!(1), "asked by the router itself, and failed again");
    }
    for _ in 0..8 {
        assert_eq!(header(&mesh.send("m", caller("k")).await, "x-mesh-node"), "b");
    }
    a.always(Script::After(Duration::from_millis(100)));
    a.until(|seen| seen.bodies.len() == 6).await;
    mesh.until(|snapshot| {
        snapshot.view.machines[0].history.values().all(|history| history.resting.is_none())
    })
    .await;
    b.always(Script::Gone);
    assert_eq!(mesh.send("m", caller("k")).await.status().as_u16(), 200, "a serves users again");
}

#[tokio::test(start_paused = true)]
async fn the_last_replica_is_never_shut_out() {
    let mesh = Mesh::start(|_| ());
    let (a, _control_a) = mesh.node("a", loaded(4)).await;
    a.always(Script::Status(500, "", None));
    for times in 1..=5 {
        assert_eq!(error_of(mesh.send("m", caller("k")).await).await.1, "all_nodes_failed");
        assert_eq!(a.requests(), times, "it is still asked");
    }
    a.always(Script::After(Duration::from_millis(100)));
    assert_eq!(mesh.send("m", caller("k")).await.status().as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_repeats_what_was_refused_is_slowed_down_and_told_what_to_change() {
    let mesh = Mesh::start(|_| ());
    let (a, _control_a) = mesh.node("a", loaded(4)).await;
    let words = r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_prompt_tokens":9000,"n_ctx":4096}}"#;
    a.always(Script::Status(400, words, None));
    let mut codes = Vec::new();
    let mut last = None;
    for _ in 0..120 {
        let reply = mesh.send("m", caller("k")).await;
        let (status, retry_after) = (reply.status().as_u16(), header(&reply, "retry-after"));
        let (_, code, error) = error_of(reply).await;
        codes.push(code);
        if status == 429 {
            assert!(retry_after.parse::<u32>().is_ok_and(|seconds| seconds > 0));
            last = Some(error);
        }
        tokio::time::sleep(Duration::from_millis(1_667)).await;
    }
    assert_eq!(codes[..5], ["context_length_exceeded"; 5]);
    assert!((8..=13).contains(&a.requests()), "{}", a.requests());
    let last = last.expect("it was slowed down");
    assert!(
        last["message"].as_str().is_some_and(|text| text.contains("the prompt has to become shorter")),
        "{last}"
    );
    // Another client, and the same one with another size, are not concerned.
    a.always(Script::After(Duration::from_millis(100)));
    assert_eq!(mesh.send("m", caller("other")).await.status().as_u16(), 200);
    let longer = json!({ "model": "m", "messages": [{"role": "user", "content": "x".repeat(500)}] });
    assert_eq!(mesh.send_body(&longer, caller("k")).await.status().as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn different_mistakes_of_about_the_same_size_are_no_loop() {
    let mesh = Mesh::start(|_| ());
    let (a, _control_a) = mesh.node("a", loaded(4)).await;
    let fields = ["temperature", "top_p", "min_p", "seed", "stop", "n", "samplers", "logprobs"];
    for field in fields {
        let words = format!(r#"{{"error":{{"code":400,"message":"Field '{field}': no"}}}}"#);
        a.always(Script::Status(400, words.leak(), None));
        let (_, code, error) = error_of(mesh.send("m", caller("k")).await).await;
        assert_eq!((code.as_str(), &error["param"]), ("invalid_request", &json!(field)));
    }
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        assert_eq!(error_of(mesh.send(name, caller("k")).await).await.1, "model_not_found");
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_up_at_every_probe_is_probed_ever_less_often() {
    for script in [Script::HangsUp, Script::Refused("engine_unreachable")] {
        let mesh = Mesh::start(|_| ());
        let (a, _control_a) = mesh.node("a", loaded(4)).await;
        a.always(script.clone());
        for _ in 0..3 {
            assert_eq!(error_of(mesh.send("m", caller("k")).await).await.1, "all_nodes_failed");
        }
        a.until(|seen| seen.bodies.len() > 3).await;
        tokio::time::sleep(Duration::from_secs(1_200)).await;
        let probes = a.requests() - 3;
        assert!((2..=30).contains(&probes), "{probes} probes in twenty minutes of {script:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_in_hand_is_better_than_the_error_of_the_next_node() {
    const EMPTY: &str = r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":9}}"#;
    for second in [
        Script::Status(400, "", None),
        Script::Status(500, "", None),
        Script::After(Duration::from_secs(4_000)),
    ] {
        let mesh = Mesh::start(first_and_second);
        let (a, _control_a) = mesh.node("a", engine(vec![replica("first", Loaded, Some(1))])).await;
        let (b, _control_b) = mesh.node("b", engine(vec![replica("second", Loaded, Some(1))])).await;
        a.always(Script::Status(200, EMPTY, None));
        b.always(second.clone());
        // A whole answer is late after an hour.
        let reply = tokio::time::timeout(Duration::from_secs(3_700), mesh.send("mesh/ask", caller("k")));
        let reply = reply.await.expect("in time");
        let said = (reply.status().as_u16(), header(&reply, "x-mesh-node"), header(&reply, "x-mesh-warning"));
        assert_eq!(said, (200, "a".into(), "empty-answer".into()), "{second:?}");
        assert_eq!((a.requests(), b.requests()), (1, 1), "{second:?}");
        mesh.until_idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_node_is_waited_for_when_it_has_no_slot_and_asked_within_its_slots_only() {
    const TOO_LONG: &str = r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_prompt_tokens":9000,"n_ctx":4096}}"#;
    for first in [
        Script::Status(400, TOO_LONG, None),
        Script::Status(500, r#"{"error":{"message":"image input is not supported"}}"#, None),
        Script::Gone,
    ] {
        let mesh = Arc::new(Mesh::start(first_and_second));
        let (a, _control_a) = mesh.node("a", engine(vec![replica("first", Loaded, Some(1))])).await;
        let (b, _control_b) = mesh.node("b", engine(vec![replica("second", Loaded, Some(1))])).await;
        b.always(Script::After(Duration::from_secs(5)));
        let send = |model: &'static str| {
            let mesh = mesh.clone();
            tokio::spawn(async move { mesh.send(model, caller("k")).await })
        };
        let running = send("second");
        b.until(|seen| seen.running == 1).await;
        a.next(first.clone());
        let moved_on = send("mesh/ask");
        mesh.until_waiting(1).await;
        assert_eq!(a.requests(), 1, "{first:?}");
        let reply = moved_on.await.expect("no panic");
        assert_eq!(
            (reply.status().as_u16(), header(&reply, "x-mesh-node").as_str()),
            (200, "b"),
            "{first:?}"
        );
        assert!(header(&reply, "x-mesh-reason").starts_with("next after a: "), "{first:?}");
        assert!(!header(&reply, "x-mesh-queue-ms").is_empty(), "{first:?}");
        assert_eq!((a.requests(), b.requests(), b.seen.borrow().most), (1, 2, 1), "{first:?}");
        assert_eq!(running.await.expect("no panic").status().as_u16(), 200);
        mesh.until_idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_node_that_was_waited_for_fails_too_each_one_s_reason_is_told() {
    let mesh = Arc::new(Mesh::start(first_and_second));
    let (a, _control_a) = mesh.node("a", engine(vec![replica("first", Loaded, Some(1))])).await;
    let (b, _control_b) = mesh.node("b", engine(vec![replica("second", Loaded, Some(1))])).await;
    b.always(Script::After(Duration::from_secs(5)));
    let running = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.send("second", caller("k")).await }
    });
    b.until(|seen| seen.running == 1).await;
    a.next(Script::Status(500, "", None));
    b.next(Script::Status(500, "", None));
    let (status, code, error) = error_of(mesh.send("mesh/ask", caller("k")).await).await;
    assert_eq!((status, code.as_str()), (503, "all_nodes_failed"));
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains("a: engine failed") && message.contains("b: engine failed"), "{message}");
    assert_eq!((a.requests(), b.requests()), (1, 2), "nobody was asked twice");
    assert_eq!(running.await.expect("no panic").status().as_u16(), 200);
}

/// The node that was waited for goes away, and the one that was away for a moment is there again.
#[tokio::test(start_paused = true)]
async fn a_node_whose_link_broke_once_is_asked_again_when_nobody_else_is_left() {
    let mesh = Arc::new(Mesh::start(first_and_second));
    let (a, _control_a) = mesh.node("a", engine(vec![replica("first", Loaded, Some(1))])).await;
    let (b, control_b) = mesh.node("b", engine(vec![replica("second", Loaded, Some(1))])).await;
    b.always(Script::After(Duration::from_secs(25)));
    let send = |model: &'static str| {
        let mesh = mesh.clone();
        tokio::spawn(async move { mesh.send(model, caller("k")).await })
    };
    let _running = send("second");
    b.until(|seen| seen.running == 1).await;
    a.next(Script::Gone);
    let moved = send("mesh/ask");
    mesh.until_waiting(1).await;
    assert_eq!(mesh.send("first", caller("k")).await.status().as_u16(), 200, "it is well again");
    drop(control_b);
    let reply = moved.await.expect("no panic");
    assert_eq!((reply.status().as_u16(), header(&reply, "x-mesh-node")), (200, "a".to_owned()));
}
