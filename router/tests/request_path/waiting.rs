//! Requests that wait: in which order, for how long, and what they are told.

use crate::fixture::{Mesh, Script, caller, engine, error_of, header, replica};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use http_body_util::BodyExt;
use mesh_core::admission::{Entry, Priority};
use mesh_core::machine::ReplicaState::Loaded;
use mesh_core::machine::{Abilities, Replica};
use mesh_core::mode::Purpose;
use mesh_core::routing::Slo;
use router::forward::caller::Caller;
use router::forward::waiting_room::{Progress, WaitingRoom};
use router::forward::wanted::Wanted;
use router::metrics::ReasonLabel;
use serde_json::json;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

const SECOND: Duration = Duration::from_secs(1);

async fn one_slot(
    configure: impl FnOnce(&mut router::config::RouterConfig),
) -> (Arc<Mesh>, Arc<crate::fixture::Node>, crate::fixture::Control) {
    let mesh = Arc::new(Mesh::start(configure));
    let (node, control) = mesh.node("a", engine(vec![replica("m", Loaded, Some(1))])).await;
    node.always(Script::After(SECOND));
    (mesh, node, control)
}

fn spawn(
    mesh: &Arc<Mesh>,
    model: &'static str,
    caller: Caller,
) -> tokio::task::JoinHandle<router::http::reply::Reply> {
    let mesh = mesh.clone();
    tokio::spawn(async move { mesh.send(model, caller).await })
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_a_slot_does_not_wait_and_says_nothing_of_a_queue() {
    let (mesh, node, _control) = one_slot(|_| ()).await;
    let reply = mesh.send("mesh/code", caller("k")).await;
    assert_eq!((reply.status().as_u16(), header(&reply, "x-mesh-queue-ms")), (200, String::new()));
    assert_eq!(node.requests(), 1);
    mesh.until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_meets_a_slot_leaves_it_to_who_waited_before() {
    let mesh = Mesh::start(|_| ());
    let (_node, _control) = mesh.node("a", engine(vec![replica("m", Loaded, Some(1))])).await;
    // A room of its own that nobody keeps: slots are looked for by newcomers only.
    let forward = &mesh.forward;
    let (fleet, metrics) = (forward.fleet.clone(), forward.metrics.clone());
    let room =
        WaitingRoom::new(forward.settings.queue, forward.in_flight.clone(), fleet, metrics, forward.clock);
    let wanted = Arc::new(Wanted {
        models: vec![("m".parse().expect("valid"), None)],
        mode: None,
        purpose: Purpose::Chat,
        prompt_tokens: 1,
        least_context: 0,
        tried: Vec::new(),
        counts_only: false,
        session: None,
        slo: Slo::default(),
        policy: forward.settings.policy,
        body: Bytes::new(),
        prefix: OnceLock::new(),
    });
    let arrive = || {
        let now = forward.clock.now();
        let (deadline, priority) = (now.plus(60 * SECOND), Priority::default());
        let entry = Entry { priority, key: 1, session: None, deadline, bytes: 1, class: 0 };
        room.arrive(entry, now).expect("there is room")
    };
    let (first, second, third) = (arrive(), arrive(), arrive());
    let (_, claim) = first.slot(&wanted, &None).await.expect("a free slot");
    let mut waiting = pin!(second.slot(&wanted, &None));
    assert!((&mut waiting).now_or_never().is_none());
    drop((claim, first));
    let mut later = pin!(third.slot(&wanted, &None));
    assert!((&mut later).now_or_never().is_none(), "the slot is the second's");
    let (_, claim) = waiting.now_or_never().expect("it was called").expect("with a slot");
    assert_eq!(forward.in_flight.load().values().copied().collect::<Vec<_>>(), [1]);
    drop(claim);
    assert!(forward.in_flight.load().is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_more_run_than_there_are_slots_and_the_others_go_by_urgency() {
    let (mesh, node, _control) = one_slot(|_| ()).await;
    let first = spawn(&mesh, "mesh/code", caller("k"));
    node.until(|seen| seen.running == 1).await;
    let mut later = Vec::new();
    for (waiting, mode) in
        ["mesh/background", "mesh/architect", "mesh/code", "mesh/ask"].into_iter().enumerate()
    {
        later.push(spawn(&mesh, mode, caller("k")));
        mesh.until_waiting(waiting + 1).await;
    }
    let mut ends = Vec::new();
    for request in later.into_iter().chain([first]) {
        let reply = request.await.expect("no panic");
        assert_eq!(reply.status().as_u16(), 200);
        ends.push(header(&reply, "x-mesh-queue-ms").parse::<u64>().unwrap_or(0).div_ceil(1_000));
    }
    assert_eq!(ends, [4, 3, 2, 1, 0], "seconds in the queue: background, architect, code, ask, the first");
    assert_eq!(node.seen.borrow().most, 1);
    mesh.until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_can_be_explained() {
    let (mesh, node, _control) = one_slot(|_| ()).await;
    let first = spawn(&mesh, "mesh/code", caller("k"));
    node.until(|seen| seen.running == 1).await;
    let second = spawn(&mesh, "mesh/ask", caller("k"));
    mesh.until_waiting(1).await;
    let told = mesh.explained(1).await;
    assert_eq!((told.asked.as_str(), told.outcome.as_str(), told.attempts.len()), ("mesh/ask", "running", 0));
    for request in [first, second] {
        assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
    }
    assert_eq!(mesh.explained(1).await.outcome, "complete");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_is_told_its_place_and_its_reason() {
    let (mesh, node, _control) = one_slot(|_| ()).await;
    let first = spawn(&mesh, "m", caller("k"));
    node.until(|seen| seen.running == 1).await;
    let (teller, mut progress) = watch::channel(Progress::Deciding);
    let ahead = spawn(&mesh, "mesh/ask", caller("k"));
    mesh.until_waiting(1).await;
    let last = spawn(&mesh, "mesh/code", Caller { progress: Some(teller), ..caller("k") });
    let told = |position: usize| move |progress: &Progress| matches!(progress, Progress::Waiting { position: p, why, .. } if *p == position && why == "all slots of m are taken");
    assert!(progress.wait_for(told(2)).await.is_ok());
    assert!(progress.wait_for(told(1)).await.is_ok());
    assert!(
        progress.wait_for(|p| matches!(p, Progress::Sent { node, .. } if node.as_str() == "a")).await.is_ok()
    );
    for request in [first, ahead, last] {
        assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_the_queue_leaves_no_trace_and_a_freed_slot_goes_to_the_next() {
    let (mesh, node, _control) = one_slot(|_| ()).await;
    let first = spawn(&mesh, "m", caller("k"));
    node.until(|seen| seen.running == 1).await;
    let gone = spawn(&mesh, "m", caller("k"));
    mesh.until_waiting(1).await;
    let next = spawn(&mesh, "m", caller("k"));
    mesh.until_waiting(2).await;
    gone.abort();
    mesh.until_waiting(1).await;
    // The client of the running one hangs up, too.
    first.abort();
    assert_eq!(next.await.expect("no panic").status().as_u16(), 200);
    assert_eq!(node.requests(), 2);
    mesh.until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_in_the_queue_is_a_503_and_nothing_is_sent() {
    let (mesh, node, _control) = one_slot(|_| ()).await;
    let first = spawn(&mesh, "m", caller("k"));
    node.until(|seen| seen.running == 1).await;
    let hasty = Caller { deadline: Some(Duration::from_millis(300)), ..caller("k") };
    let reply = mesh.send("m", hasty).await;
    assert!(!header(&reply, "retry-after").is_empty());
    let (status, code, error) = error_of(reply).await;
    assert_eq!((status, code.as_str()), (503, "deadline_passed"), "{error}");
    assert_eq!(first.await.expect("no panic").status().as_u16(), 200);
    assert_eq!(node.requests(), 1);
    // What a slot takes is known now: the next one is told at once.
    let first = spawn(&mesh, "m", caller("k"));
    node.until(|seen| seen.running == 1).await;
    let before = tokio::time::Instant::now();
    let hasty = Caller { deadline: Some(Duration::from_millis(300)), ..caller("k") };
    let (status, code, error) = error_of(mesh.send("m", hasty).await).await;
    assert_eq!((status, code.as_str(), &error["mesh"]["queue"]["position"]), (503, "mesh_full", &json!(1)));
    assert!(before.elapsed() < Duration::from_millis(50), "{:?}", before.elapsed());
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_are_counted_by_mode() {
    let (mesh, node, _control) = one_slot(|_| ()).await;
    node.always(Script::After(SECOND));
    let running = spawn(&mesh, "mesh/ask", caller("k"));
    node.until(|seen| seen.running == 1).await;
    let mut waiting = Vec::new();
    for (at, model) in ["mesh/ask", "mesh/code", "mesh/ask", "m"].into_iter().enumerate() {
        waiting.push(spawn(&mesh, model, caller("k")));
        mesh.until_waiting(at + 1).await;
    }
    let mode = |name: &str| mesh_core::id::ModeName::new(name).expect("valid");
    let counted: Vec<_> = mesh.forward.room.waiting_by_mode().into_iter().collect();
    assert_eq!(counted, [(None, 1), (Some(mode("ask")), 2), (Some(mode("code")), 1)]);
    for request in waiting.into_iter().chain([running]) {
        assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
    }
    assert!(mesh.forward.room.waiting_by_mode().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_key_with_too_many_requests_gets_429_and_a_full_queue_503() {
    let (mesh, node, _control) = one_slot(|config| {
        config.limits.per_key = 2;
        config.limits.queue = 8;
    })
    .await;
    let running = spawn(&mesh, "m", caller("greedy"));
    node.until(|seen| seen.running == 1).await;
    let mut waiting = vec![spawn(&mesh, "m", caller("greedy"))];
    mesh.until_waiting(1).await;
    let reply = mesh.send("m", caller("greedy")).await;
    assert_eq!(header(&reply, "retry-after"), "1");
    let (status, code, _) = error_of(reply).await;
    assert_eq!((status, code.as_str()), (429, "too_many_at_once"));
    // Of eight places each of the other four urgencies has one.
    for (at, key) in ["x", "y", "z"].into_iter().enumerate() {
        waiting.push(spawn(&mesh, "m", caller(key)));
        mesh.until_waiting(at + 2).await;
    }
    let (status, code, _) = error_of(mesh.send("m", caller("late")).await).await;
    assert_eq!((status, code.as_str()), (503, "mesh_full"));
    let urgent = mesh.send("mesh/ask", caller("late")).await;
    assert_eq!((urgent.status().as_u16(), header(&urgent, "x-mesh-queue-ms").is_empty()), (200, false));
    for request in waiting.into_iter().chain([running]) {
        assert_eq!(request.await.expect("no panic").status().as_u16(), 200);
    }
    mesh.until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_completion_ends_the_one_that_waits_and_the_stream_that_runs() {
    let (mesh, node, _control) = one_slot(|_| ()).await;
    node.always(Script::EndlessStream);
    let typing = || Caller { session: Some(7), ..caller("k") };
    let body = json!({ "model": "mesh/autocomplete", "messages": [{"role": "user", "content": "hi"}], "stream": true });
    let mut running = mesh.send_body(&body, typing()).await.into_body().into_data_stream();
    assert!(running.next().await.is_some_and(|chunk| chunk.is_ok()), "its first content");
    let rest = running.map(|chunk| chunk.expect("it never fails")).collect::<Vec<_>>();
    let (newer, rest) = tokio::join!(mesh.send_body(&body, typing()), rest);
    let rest = String::from_utf8_lossy(&rest.concat()).into_owned();
    assert!(rest.contains("superseded") && !rest.contains("[DONE]"), "{rest}");
    assert_eq!(newer.status().as_u16(), 200);
    // Somebody else's stream holds the slot: the next two of the session wait for it, and one replaces the other.
    let (waiting, newest) =
        (spawn(&mesh, "mesh/autocomplete", Caller { session: Some(8), ..caller("k") }), caller("k"));
    mesh.until_waiting(1).await;
    let newest = spawn(&mesh, "mesh/autocomplete", Caller { session: Some(8), ..newest });
    let (status, code, _) = error_of(waiting.await.expect("no panic")).await;
    assert_eq!((status, code.as_str()), (410, "superseded"));
    node.always(Script::After(SECOND));
    drop(newer);
    assert_eq!(newest.await.expect("no panic").status().as_u16(), 200);
    mesh.until_idle().await;
    for number in [0, 2] {
        let told = mesh.explained(number).await;
        assert_eq!((told.outcome.as_str(), told.status), ("refused", 410), "req-{number}");
        assert!(told.outcome_detail.contains("took this one's place"), "{}", told.outcome_detail);
    }
    assert_eq!(mesh.explained(0).await.attempts[0].result, "superseded");
    let told = mesh.explained(1).await;
    assert_eq!((told.outcome.as_str(), told.status), ("cancelled", 499), "its client left");
    let label = ReasonLabel { reason: "superseded" };
    assert_eq!(mesh.forward.metrics.refusals.get_or_create(&label).get(), 2);
}

#[tokio::test(start_paused = true)]
async fn requests_with_images_that_wait_do_not_hold_up_texts_that_another_machine_has_slots_for() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let reads_images = |reads| {
        let abilities = Abilities { vision: Some(reads), ..Abilities::default() };
        engine(vec![Replica { abilities, ..replica("m", Loaded, Some(1)) }])
    };
    let (a, _control_a) = mesh.node("a", reads_images(true)).await;
    let (b, _control_b) = mesh.node("b", reads_images(false)).await;
    a.always(Script::After(100 * SECOND));
    let image = json!([{"type": "image_url", "image_url": {"url": "data:"}}]);
    let image = json!({"model": "mesh/ask", "messages": [{"role": "user", "content": image}]});
    let mut images = tokio::task::JoinSet::new();
    for waiting in 0..6 {
        let (sender, image) = (mesh.clone(), image.clone());
        images.spawn(async move { sender.send_body(&image, caller("k")).await });
        if waiting == 0 {
            a.until(|seen| seen.running == 1).await;
        }
        mesh.until_waiting(waiting).await;
    }
    let reply = mesh.send("mesh/ask", caller("k")).await;
    assert_eq!((reply.status().as_u16(), header(&reply, "x-mesh-node").as_str()), (200, "b"));
    assert!(header(&reply, "x-mesh-queue-ms").is_empty(), "it found a slot at once");
    assert_eq!((a.requests(), b.requests()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_second_machine_takes_what_the_first_has_no_slot_for_and_an_engine_without_slots_takes_all() {
    let mesh = Arc::new(Mesh::start(|_| ()));
    let (a, _control_a) = mesh.node("a", engine(vec![replica("m", Loaded, Some(1))])).await;
    let (b, _control_b) = mesh.node("b", engine(vec![replica("m", Loaded, None)])).await;
    a.always(Script::After(SECOND));
    b.always(Script::After(SECOND));
    let requests: Vec<_> = (0..20).map(|_| spawn(&mesh, "m", caller("k"))).collect();
    for request in requests {
        let reply = request.await.expect("no panic");
        assert_eq!((reply.status().as_u16(), header(&reply, "x-mesh-queue-ms")), (200, String::new()));
    }
    assert_eq!(a.seen.borrow().most, 1);
    assert!(b.seen.borrow().most >= 19);
}

#[tokio::test(start_paused = true)]
async fn when_a_machine_joins_those_that_wait_go_there() {
    let (mesh, node, _control) = one_slot(|_| ()).await;
    node.always(Script::After(100 * SECOND));
    let first = spawn(&mesh, "mesh/ask", caller("k"));
    node.until(|seen| seen.running == 1).await;
    let waits = spawn(&mesh, "mesh/ask", caller("k"));
    mesh.until_waiting(1).await;
    let (_, _control_b) = mesh.node("b", engine(vec![replica("m", Loaded, Some(1))])).await;
    let reply = waits.await.expect("no panic");
    assert_eq!((reply.status().as_u16(), header(&reply, "x-mesh-node").as_str()), (200, "b"));
    drop(first);
}
