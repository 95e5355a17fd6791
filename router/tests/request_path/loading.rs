//! Models that are on disk only.

use crate::fixture::{Mesh, Script, caller, engine, error_of, replica, text_of};
use mesh_core::id::ModelId;
use mesh_core::machine::ReplicaState::{Available, Loaded, Loading};
use mesh_core::machine::{Directive, Engine, Replica, ReplicaMemory, ReplicaState, Store, StoreRefusal};
use mesh_core::units::Bytes;
use router::forward::caller::Caller;
use router::forward::waiting_room::Progress;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

fn model() -> ModelId {
    ModelId::new("m").expect("valid")
}

fn refused(reason: &str, at_ms: u64) -> Store {
    let refusal = StoreRefusal { model: model(), reason: reason.into(), at_ms };
    Store { refusals: vec![refusal], ..Store::default() }
}

#[tokio::test(start_paused = true)]
async fn the_first_request_has_a_model_loaded_and_the_others_wait_for_the_same_load() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (node, mut control) = mesh.node("a", engine(vec![replica("m", Available, None)])).await;
    let (teller, mut progress) = watch::channel(Progress::Deciding);
    let requests: Vec<_> = (0..5)
        .map(|_| {
            let (mesh, progress) = (mesh.clone(), Some(teller.clone()));
            tokio::spawn(async move { mesh.send("mesh/code", Caller { progress, ..caller("k") }).await })
        })
        .collect();
    assert_eq!(control.wish().await, Directive::Load(model().into()));
    let loading = |p: &Progress| matches!(p, Progress::Loading { node, .. } if node.as_str() == "a");
    assert!(progress.wait_for(loading).await.is_ok());
    control.report(engine(vec![replica("m", Loading, None)])).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    control.report(engine(vec![replica("m", Loaded, Some(2))])).await;
    for request in requests {
        assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
    }
    assert_eq!((node.requests(), node.seen.borrow().most), (5, 2));
    assert!(control.directives.try_recv().is_err(), "it was asked for once");
    mesh.until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_refuses_is_quoted_and_another_one_is_asked() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let on_disk = || engine(vec![replica("m", Available, None)]);
    let (_a, mut control_a) = mesh.node("a", on_disk()).await;
    let (_b, mut control_b) = mesh.node("b", on_disk()).await;
    // Told before: it is not about this load.
    control_a.store(refused("earlier words", 1)).await;
    mesh.until(|snapshot| snapshot.view.machines.iter().any(|machine| !machine.store.refusals.is_empty()))
        .await;
    let request = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.send("m", caller("k")).await }
    });
    assert_eq!(control_a.wish().await, Directive::Load(model().into()));
    control_a.store(refused("needs 20 GiB, 8 GiB are free", 2)).await;
    assert_eq!(control_b.wish().await, Directive::Load(model().into()));
    control_b.store(refused("needs 20 GiB, 4 GiB are free", 7)).await;
    let (status, code, error) = error_of(request.await.expect("no panic")).await;
    assert_eq!((status, code.as_str()), (503, "load_refused"), "{error}");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains("8 GiB are free") && message.contains("4 GiB are free"), "{message}");
    assert!(!message.contains("earlier words"), "{message}");
    // At once for the next one: nobody is asked again for a while.
    let (_, code, _) = error_of(mesh.send("m", caller("k")).await).await;
    assert_eq!(code, "load_refused");
    assert!(control_a.directives.try_recv().is_err() && control_b.directives.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_machine_whose_owner_wants_nothing_new_there_is_not_asked_to_load() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let on_disk = || engine(vec![replica("m", Available, None)]);
    let (_a, mut drained) = mesh.node("a", on_disk()).await;
    let (_b, mut open) = mesh.node("b", on_disk()).await;
    let a = mesh_core::id::MachineId::new("a").expect("valid");
    mesh.fleet.set_barred([(a, "it is drained".to_owned())].into()).await;
    mesh.until(|snapshot| !snapshot.barred.is_empty()).await;
    let request = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.send("m", caller("k")).await }
    });
    assert_eq!(open.wish().await, Directive::Load(model().into()));
    open.report(engine(vec![replica("m", Loaded, Some(2))])).await;
    assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
    assert!(drained.directives.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn where_every_machine_with_the_file_is_closed_the_client_hears_why() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (_a, mut drained) = mesh.node("a", engine(vec![replica("m", Available, None)])).await;
    let a = mesh_core::id::MachineId::new("a").expect("valid");
    mesh.fleet.set_barred([(a, "it is drained".to_owned())].into()).await;
    mesh.until(|snapshot| !snapshot.barred.is_empty()).await;
    let (status, code, error) = error_of(mesh.send("m", caller("k")).await).await;
    assert_eq!((status, code.as_str()), (503, "load_refused"));
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains("a: m: it is drained; meshctl node resume a"), "{message}");
    assert!(!message.contains("model load"), "{message}");
    assert!(drained.directives.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_is_told_of_a_long_load_within_a_minute_and_a_stream_waits_as_configured() {
    let mesh = Mesh::start(|config| config.limits.load_wait = "5min".into());
    let (_node, mut control) = mesh.node("a", engine(vec![replica("m", Available, None)])).await;
    let before = tokio::time::Instant::now();
    let answer = async {
        assert_eq!(control.wish().await, Directive::Load(model().into()));
        control.report(engine(vec![replica("m", Loading, None)])).await;
    };
    let (reply, ()) = tokio::join!(mesh.send("m", caller("k")), answer);
    let (status, code, error) = error_of(reply).await;
    assert_eq!((status, code.as_str()), (503, "model_loading"));
    assert!(before.elapsed() < Duration::from_secs(60));
    let loading = &error["mesh"]["loading"];
    assert_eq!((&loading["node"], &loading["model"]), (&json!("a"), &json!("m")));
    assert!(loading["since_s"].as_f64().is_some_and(|since| since > 50.0), "{loading}");
    let stream = json!({ "model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true });
    let before = tokio::time::Instant::now();
    let reply = mesh.send_body(&stream, caller("k")).await;
    assert_eq!(reply.status(), 200, "its head goes out while it waits");
    let said = text_of(reply).await;
    assert!(said.contains(": a has been loading m for 1"), "signs of life say what is waited for: {said}");
    let last = said.trim_end().rsplit("\n\n").next().unwrap_or_default();
    assert!(last.starts_with("data: {\"error\"") && last.contains("\"model_loading\""), "{last}");
    assert!(before.elapsed() > Duration::from_secs(290));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_while_a_model_loads_names_the_load_and_no_slot() {
    let hasty = |ms| Caller { deadline: Some(Duration::from_millis(ms)), ..caller("k") };
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (node, mut control) = mesh.node("a", engine(vec![replica("m", Available, None)])).await;
    let load = async {
        assert_eq!(control.wish().await, Directive::Load(model().into()));
        control.report(engine(vec![replica("m", Loading, None)])).await;
    };
    let (reply, ()) = tokio::join!(mesh.send("mesh/code", hasty(2_000)), load);
    let (status, code, error) = error_of(reply).await;
    assert_eq!((status, code.as_str()), (503, "deadline_passed"), "{error}");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("`mesh/code` is still being loaded"), "{message}");
    assert!(message.contains("a has been loading m for") && !message.contains("slot"), "{message}");
    let loading = &error["mesh"]["loading"];
    assert_eq!((&loading["node"], &loading["model"]), (&json!("a"), &json!("m")));
    assert!(loading["since_s"].as_f64().is_some_and(|since| since >= 1.5), "{loading}");

    // Only the engine itself says that it loads.
    control.report(engine(vec![replica("m", Loaded, Some(1))])).await;
    mesh.until(|snapshot| {
        snapshot.view.machines.iter().any(|m| m.replica(&model()).is_some_and(|(_, r)| r.state == Loaded))
    })
    .await;
    node.always(Script::Status(503, r#"{"error":{"message":"Loading model"}}"#, None));
    let (_, code, error) = error_of(mesh.send("m", hasty(2_000)).await).await;
    assert_eq!(
        (code.as_str(), &error["mesh"]["loading"]["node"]),
        ("deadline_passed", &json!("a")),
        "{error}"
    );
    assert!(error["mesh"]["loading"]["since_s"].as_f64().is_some_and(|since| since > 1.0), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_load_on_demand_the_hint_is_all_there_is() {
    let mesh = Mesh::start(|config| config.limits.load_on_demand = false);
    let (_node, mut control) = mesh.node("a", engine(vec![replica("m", Available, None)])).await;
    let (status, code, error) = error_of(mesh.send("m", caller("k")).await).await;
    assert_eq!((status, code.as_str()), (503, "no_node_available"));
    assert!(error["message"].as_str().is_some_and(|text| text.contains("meshctl model load m --node a")));
    assert!(control.directives.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_directive_that_is_lost_is_an_error_after_a_while_and_asked_for_again_later() {
    let mesh = Mesh::start(|_| ());
    let (_node, mut control) = mesh.node("a", engine(vec![replica("m", Available, None)])).await;
    let (_, code, error) = error_of(mesh.send("m", caller("k")).await).await;
    assert_eq!(code, "load_refused", "{error}");
    assert!(
        error["message"].as_str().is_some_and(|text| text.contains("did not begin to load it within 15 s"))
    );
    assert_eq!(control.wish().await, Directive::Load(model().into()));
    tokio::time::sleep(Duration::from_secs(11)).await;
    drop(tokio::time::timeout(Duration::from_secs(1), mesh.send("m", caller("k"))).await);
    assert_eq!(control.wish().await, Directive::Load(model().into()));
}

#[tokio::test(start_paused = true)]
async fn however_often_loading_nodes_are_asked_in_turn_each_has_one_line_in_the_record() {
    const LOADING: Script = Script::Status(503, r#"{"error":{"message":"Loading model"}}"#, None);
    let mesh = Arc::new(Mesh::start(|_| ()));
    let mut nodes = Vec::new();
    for name in ["a", "b"] {
        let (node, control) = mesh.node(name, engine(vec![replica("m", Loaded, Some(4))])).await;
        node.always(LOADING);
        nodes.push((node, control));
    }
    let request = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.send("m", caller("k")).await }
    });
    nodes[0].0.until(|seen| seen.bodies.len() > 40).await;
    nodes[0].0.always(Script::After(Duration::from_secs(1)));
    assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
    assert!(nodes[1].0.requests() > 10, "it was asked again and again");
    let told = mesh.explained(0).await;
    let lines: Vec<(&str, &str)> =
        told.attempts.iter().map(|line| (line.node.as_str(), line.result.as_str())).collect();
    assert!(lines.len() <= 3, "{lines:?}");
    assert_eq!(lines.last(), Some(&("a", "answered")));
    assert_eq!(
        lines.iter().filter(|line| **line == ("b", "still loading the model")).count(),
        1,
        "{lines:?}"
    );
    assert!(told.attempts.iter().all(|line| line.started_after_s < 1.0 || line.result == "answered"));
}

/// A machine with 16 GiB whose engine has `n` in memory, with 10 GiB, and `m` of the same size on its disk.
fn full(state: ReplicaState, n_state: ReplicaState) -> Engine {
    let sized = |name: &str, state: ReplicaState| {
        let bytes = Bytes(10 << 30);
        let memory =
            (state == Loaded).then_some(ReplicaMemory { device: Bytes(0), host: bytes, measured: true });
        let slots = (state == Loaded).then_some(2);
        Replica { size: Some(bytes), memory, ..replica(name, state, slots) }
    };
    let mut engine = engine(vec![sized("m", state), sized("n", n_state)]);
    engine.capabilities.can_unload = true;
    engine
}

#[tokio::test(start_paused = true)]
async fn a_model_that_nobody_asks_leaves_for_one_that_is_asked_and_not_before_its_time() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (_node, mut control) = mesh.node("a", full(Available, Loaded)).await;
    control.ram(16, 5).await;
    mesh.until(|snapshot| snapshot.view.machines.iter().all(|machine| machine.vitals.is_some())).await;
    mesh.with_steward();
    // It has just come: the request waits, and is told what stands in the way.
    let (status, code, error) = error_of(mesh.send("mesh/code", caller("k")).await).await;
    assert_eq!((status, code.as_str()), (503, "model_loading"), "{error}");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains("n has just been loaded") && message.contains("not in memory"), "{message}");
    assert!(control.directives.try_recv().is_err());
    tokio::time::sleep(Duration::from_secs(70)).await;
    let request = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.send("mesh/code", caller("k")).await }
    });
    let n = ModelId::new("n").expect("valid");
    assert_eq!(control.wish().await, Directive::Unload(n));
    assert!(control.directives.try_recv().is_err(), "its memory is not free yet");
    let n = ModelId::new("n").expect("valid");
    assert_eq!(control.wish().await, Directive::Unload(n), "no sign of it for 15 s: it may have been lost");
    control.report(full(Available, Available)).await;
    control.ram(16, 15).await;
    assert_eq!(control.wish().await, Directive::Load(model().into()));
    control.report(full(Loaded, Available)).await;
    assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
    mesh.until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_completion_drives_nobody_out_and_stands_in_nobodys_way() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (_node, mut control) = mesh.node("a", full(Available, Loaded)).await;
    control.ram(16, 5).await;
    mesh.until(|snapshot| snapshot.view.machines.iter().all(|machine| machine.vitals.is_some())).await;
    mesh.with_steward();
    tokio::time::sleep(Duration::from_secs(130)).await;
    let (status, code, error) = error_of(mesh.send("mesh/autocomplete", caller("k")).await).await;
    assert_eq!((status, code.as_str()), (503, "load_refused"), "{error}");
    assert!(
        error["message"].as_str().is_some_and(|text| text.contains("nothing leaves for this mode")),
        "{error}"
    );
    let request = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.send("mesh/code", caller("k")).await }
    });
    let n = ModelId::new("n").expect("valid");
    assert_eq!(control.wish().await, Directive::Unload(n), "what the completion was told holds for it alone");
    control.report(full(Loaded, Available)).await;
    assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
}
