//! Engines that end, or miss an answer to their agent, and that the agent brings back: who waits for them, and how long.

use crate::fixture::{Mesh, Node, Script, caller, engine, error_of, replica};
use http_body_util::BodyExt;
use mesh_core::id::MachineId;
use mesh_core::machine::ReplicaState::{Available, Failed, Loaded, Loading};
use mesh_core::machine::{Engine, EngineState};
use router::forward::caller::Caller;
use router::http::reply::Reply;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn loaded() -> Engine {
    Engine { supervised: true, ..engine(vec![replica("m", Loaded, Some(1))]) }
}

fn killed(supervised: bool) -> Engine {
    let why = "was killed by SIGKILL".to_owned();
    let broken = engine(vec![replica("m", Failed(why.clone()), None)]);
    Engine { supervised, state: EngineState::Down(why), ..broken }
}

fn starting() -> Engine {
    Engine { supervised: true, state: EngineState::Starting, ..engine(vec![replica("m", Loading, None)]) }
}

/// A request that goes its way while the test goes on.
fn sent(mesh: &Arc<Mesh>) -> JoinHandle<Reply> {
    let mesh = mesh.clone();
    tokio::spawn(async move { mesh.send("mesh/code", caller("k")).await })
}

async fn until_down(mesh: &Mesh) {
    mesh.until(|snapshot| {
        let mut engines = snapshot.view.machines.iter().flat_map(|machine| &machine.engines);
        engines.any(|engine| matches!(engine.state, EngineState::Down(_)))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_an_engine_that_was_killed_and_is_started_again() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (node, control) = mesh.node("a", killed(true)).await;
    until_down(&mesh).await;
    let request = sent(&mesh);
    tokio::time::sleep(4 * SECOND).await;
    assert!(!request.is_finished());
    control.report(starting()).await;
    // Longer than it would wait for one that does not start.
    tokio::time::sleep(30 * SECOND).await;
    control.report(loaded()).await;
    assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
    assert_eq!(node.requests(), 1);
    mesh.until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_for_a_slot_stay_when_the_engine_misses_one_answer_to_its_agent() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (node, control) = mesh.node("a", loaded()).await;
    node.next(Script::After(5 * SECOND));
    let running = sent(&mesh);
    node.until(|seen| seen.running == 1).await;
    let waiting = sent(&mesh);
    mesh.until_waiting(1).await;
    let late = EngineState::Down("it accepts connections and did not answer within 1.7 s".into());
    control.report(Engine { state: late, ..loaded() }).await;
    until_down(&mesh).await;
    tokio::time::sleep(SECOND).await;
    assert!(!waiting.is_finished());
    control.report(loaded()).await;
    for request in [running, waiting] {
        assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
    }
    mesh.until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_come_back_is_waited_for_no_longer_than_the_answer_is_worth() {
    let mesh = Mesh::start(|_| ());
    let (node, control) = mesh.node("a", killed(true)).await;
    until_down(&mesh).await;
    let in_two_seconds = Caller { deadline: Some(2 * SECOND), ..caller("k") };
    for (mode, caller, least, most) in [
        ("mesh/code", caller("k"), 14, 15),
        ("mesh/autocomplete", caller("k"), 4, 5),
        ("mesh/code", in_two_seconds, 1, 3),
    ] {
        let before = Instant::now();
        let (status, code, error) = error_of(mesh.send(mode, caller).await).await;
        assert_eq!((status, code.as_str()), (503, "no_node_available"), "{error}");
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains("was killed by SIGKILL; its agent brings it back"), "{message}");
        let took = before.elapsed();
        assert!(took >= least * SECOND && took <= most * SECOND, "{mode}: {took:?}");
    }
    control.report(killed(false)).await;
    mesh.until(|snapshot| snapshot.view.machines.iter().all(|machine| !machine.engines[0].supervised)).await;
    let before = Instant::now();
    let (status, _, error) = error_of(mesh.send("mesh/code", caller("k")).await).await;
    assert_eq!((status, before.elapsed()), (503, Duration::ZERO), "nobody brings it back: {error}");
    assert_eq!(node.requests(), 0);
    mesh.until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_may_not_load_the_model_does_not_end_the_wait_for_one_that_comes_back() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (_a, control) = mesh.node("a", killed(true)).await;
    let (_b, _closed) = mesh.node("b", engine(vec![replica("m", Available, None)])).await;
    until_down(&mesh).await;
    let b = MachineId::new("b").expect("valid");
    mesh.fleet.set_barred([(b, "it is drained".to_owned())].into()).await;
    mesh.until(|snapshot| !snapshot.barred.is_empty()).await;
    let request = sent(&mesh);
    tokio::time::sleep(2 * SECOND).await;
    assert!(!request.is_finished());
    control.report(loaded()).await;
    assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_failed_on_an_engine_does_not_wait_for_it() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (b, control_b) = mesh.node("b", loaded()).await;
    b.always(Script::After(600 * SECOND));
    let running = sent(&mesh);
    b.until(|seen| seen.running == 1).await;
    let (a, control_a) = mesh.node("a", loaded()).await;
    a.next(Script::HangsUp);
    let request = sent(&mesh);
    a.until(|seen| seen.bodies.len() == 1).await;
    mesh.until_waiting(1).await;
    control_a.report(killed(true)).await;
    until_down(&mesh).await;
    let before = Instant::now();
    control_b.report(engine(vec![replica("another", Loaded, Some(1))])).await;
    let (status, code, error) = error_of(request.await.expect("no panic")).await;
    assert_eq!((status, code.as_str()), (503, "all_nodes_failed"), "{error}");
    assert!(before.elapsed() < SECOND, "{:?}", before.elapsed());
    running.abort();
}

/// Takes every slot of `nodes` for three seconds. Whoever may wait four gets one then, unless it is predicted to take longer.
async fn waits_for_a_slot(mesh: &Arc<Mesh>, nodes: &[&Node]) {
    mesh.until_idle().await;
    nodes.iter().for_each(|node| node.always(Script::After(3 * SECOND)));
    let send = |deadline: Option<Duration>| {
        let mesh = mesh.clone();
        tokio::spawn(async move { mesh.send("mesh/code", Caller { deadline, ..caller("k") }).await })
    };
    let running: Vec<_> = nodes.iter().map(|_| send(None)).collect();
    for node in nodes {
        node.until(|seen| seen.running == 1).await;
    }
    let last = send(Some(4 * SECOND)).await.expect("no panic");
    assert_eq!(last.status().as_u16(), 200);
    for request in running {
        assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hung_until_its_client_left_does_not_count_as_a_slow_one() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (node, _control) = mesh.node("a", loaded()).await;
    node.next(Script::After(600 * SECOND));
    let hung = tokio::time::timeout(70 * SECOND, mesh.send("mesh/code", caller("k"))).await;
    assert!(hung.is_err());
    waits_for_a_slot(&mesh, &[&node]).await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hung_until_another_was_asked_does_not_count_as_a_slow_one() {
    let mesh = Arc::new(Mesh::start(|config| config.limits.answer_wait = "9s".into()));
    let (a, _control_a) = mesh.node("a", loaded()).await;
    let (b, _control_b) = mesh.node("b", loaded()).await;
    for node in [&a, &b] {
        node.always(Script::After(600 * SECOND));
    }
    let request = tokio::spawn({
        let mesh = mesh.clone();
        let body =
            json!({"model": "mesh/code", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
        async move { mesh.send_body(&body, caller("k")).await }
    });
    let asked = tokio::select! {
        () = a.until(|seen| seen.running == 1) => &a,
        () = b.until(|seen| seen.running == 1) => &b,
    };
    let other = if Arc::ptr_eq(asked, &a) { &b } else { &a };
    other.next(Script::EndlessStream);
    let mut stream = request.await.expect("no panic").into_body();
    assert_eq!((asked.requests(), other.requests()), (1, 1));
    assert!(stream.frame().await.expect("content").is_ok());
    drop(stream);
    waits_for_a_slot(&mesh, &[&a, &b]).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_engine_saw_waits_until_the_engine_is_back() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (node, control) = mesh.node("a", loaded()).await;
    // It has ended, and the router has not heard yet.
    node.next(Script::Refused("engine_down"));
    let request = sent(&mesh);
    node.until(|seen| seen.bodies.len() == 1).await;
    control.report(killed(true)).await;
    until_down(&mesh).await;
    tokio::time::sleep(4 * SECOND).await;
    assert!(!request.is_finished());
    control.report(loaded()).await;
    assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
    assert_eq!(node.requests(), 2);
    mesh.until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_never_there_is_asked_twice_and_not_for_ever() {
    let mesh = Mesh::start(|_| ());
    let (node, _control) = mesh.node("a", loaded()).await;
    node.always(Script::Refused("engine_down"));
    // Some engine may read such a part: as none has looked at it, it is no fault.
    let content = json!([{"type": "of_tomorrow"}]);
    let body = json!({"model": "mesh/code", "messages": [{"role": "user", "content": content}]});
    let (status, code, error) = error_of(mesh.send_body(&body, caller("k")).await).await;
    assert_eq!((status, code.as_str()), (503, "all_nodes_failed"), "{error}");
    assert_eq!(node.requests(), 2);
    mesh.until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_any_engine_may_have_seen_is_not_asked_once_more() {
    let mesh = Mesh::start(|_| ());
    let (a, _control_a) = mesh.node("a", loaded()).await;
    let (b, _control_b) = mesh.node("b", loaded()).await;
    a.always(Script::Refused("engine_hung_up"));
    b.always(Script::Refused("engine_down"));
    let (status, code, error) = error_of(mesh.send("mesh/code", caller("k")).await).await;
    assert_eq!((status, code.as_str()), (503, "all_nodes_failed"), "{error}");
    assert_eq!((a.requests(), b.requests()), (1, 1));
    mesh.until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn whose_engine_was_absent_beside_a_full_one_goes_there_when_it_is_back() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (full, _control_full) = mesh.node("full", loaded()).await;
    full.always(Script::After(600 * SECOND));
    let first = sent(&mesh);
    full.until(|seen| seen.running == 1).await;
    let (node, control) = mesh.node("a", loaded()).await;
    node.next(Script::Refused("engine_down"));
    let request = sent(&mesh);
    node.until(|seen| seen.bodies.len() == 1).await;
    control.report(killed(true)).await;
    until_down(&mesh).await;
    tokio::time::sleep(4 * SECOND).await;
    assert!(!request.is_finished());
    control.report(loaded()).await;
    let answered = tokio::time::timeout(5 * SECOND, request).await.expect("in time").expect("no panic");
    assert_eq!((answered.status().as_u16(), node.requests(), full.requests()), (200, 2, 1));
    first.abort();
    drop(answered);
    mesh.until_idle().await;
}
