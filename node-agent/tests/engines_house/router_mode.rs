//! llama.cpp's router mode through its whole life: nothing is evicted, woken or believed too early.

use crate::house::{House, PATIENCE, model};
use crate::router_simulator::RouterSimulator;
use mesh_core::machine::{Directive, EngineKind, EngineState, ReplicaState};
use node_agent::engine::discover::{Finding, identify};
use node_agent::engine::{AskError, Engine, EngineConfig, LoadRequest, adapter};
use std::time::Duration;

fn at(router: &RouterSimulator) -> Box<dyn Engine> {
    adapter(EngineKind::LlamaRouter, &router.url(), None).expect("a good address")
}

async fn load(router: &RouterSimulator, model: &str) -> Result<(), AskError> {
    let call = at(router).load(&LoadRequest::of(model)).expect("it can");
    tokio::time::timeout(Duration::from_secs(20), call).await.expect("it ends")
}

#[tokio::test]
async fn a_load_ends_when_the_model_serves_and_an_unload_when_it_is_gone() {
    let router = RouterSimulator::start().await;
    assert_eq!(identify(&router.url()).await, Finding::Engine(EngineKind::LlamaRouter));
    load(&router, "one").await.expect("loads");
    assert_eq!(router.status("one"), "loaded");
    load(&router, "one").await.expect("is loaded");
    let seen = at(&router).observe().await;
    assert_eq!((&seen.state, seen.queued, seen.held.len()), (&EngineState::Up, Some(3), 4));
    let one = seen.held.iter().find(|held| held.upstream == "one").expect("listed");
    let replica = &one.replica;
    assert_eq!((replica.slots, replica.context, replica.busy), (Some(2), Some(1024), Some(1)));
    at(&router).unload("one").expect("it can").await.expect("unloads");
    assert_eq!(router.status("one"), "unloaded");
    let unknown = load(&router, "nope").await.expect_err("there is none");
    assert!(unknown.to_string().contains("nope"), "{unknown}");
}

#[tokio::test]
async fn a_full_router_is_asked_for_nothing_because_it_would_evict() {
    let router = RouterSimulator::start().await;
    load(&router, "one").await.expect("loads");
    load(&router, "two").await.expect("loads");
    for name in ["three", "broken"] {
        let refused = load(&router, name).await.expect_err("no room").to_string();
        assert!(refused.contains("one, two") && refused.contains("at most 2"), "{refused}");
    }
    assert_eq!((router.status("one"), router.status("two")), ("loaded", "loaded"));
    assert_eq!(router.calls().iter().filter(|call| *call == "POST /models/load").count(), 2);
}

#[tokio::test]
async fn a_broken_model_fails_with_its_reason_and_an_old_failure_is_not_believed() {
    let router = RouterSimulator::start().await;
    let failed = load(&router, "broken").await.expect_err("it is broken").to_string();
    assert!(failed.contains("exited with code 1"), "{failed}");
    // The list tells of the failed life before until the new one has begun.
    router.fail("one");
    load(&router, "one").await.expect("this time it loads");
    let seen = at(&router).observe().await;
    let broken = seen.held.iter().find(|held| held.upstream == "broken").expect("listed");
    assert!(matches!(&broken.replica.state, ReplicaState::Failed(why) if why.contains("code 1")));
}

#[tokio::test]
async fn a_sleeping_model_is_on_disk_is_asked_nothing_and_is_loaded_anew() {
    let router = RouterSimulator::start().await;
    router.set("one", "sleeping");
    router.set("two", "loaded");
    let seen = at(&router).observe().await;
    let one = seen.held.iter().find(|held| held.upstream == "one").expect("listed");
    assert_eq!(one.replica.state, ReplicaState::Available);
    let calls = router.calls();
    assert!(calls.iter().all(|call| !call.contains("model=one") && !call.contains("/slots")), "{calls:?}");
    assert!(calls.iter().all(|call| call.contains("autoload=false")), "{calls:?}");
    // Two processes run, and one of them is its own: there is room.
    load(&router, "one").await.expect("loads");
    assert_eq!((router.status("one"), router.status("two")), ("loaded", "loaded"));
}

#[tokio::test]
async fn a_model_that_computes_makes_the_router_late_and_not_down() {
    let router = RouterSimulator::start().await;
    router.set("one", "loaded");
    let config = EngineConfig::Endpoint {
        name: "router".into(),
        kind: EngineKind::LlamaRouter,
        url: router.url(),
        api_key: None,
    };
    let house = House::with(vec![config]);
    let seen = house.until_replica("one", "counted", |r| r.busy == Some(1)).await;
    assert_eq!(seen.state, ReplicaState::Loaded);
    router.compute();
    let asked = router.calls().len();
    let several_looks = async {
        // The simulator tells nobody that it was asked, so it is asked in turn.
        while router.calls().len() < asked + 8 {
            assert_eq!(house.handle.engines().borrow()[0].state, EngineState::Up);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, several_looks).await.expect("it is looked at all the same");
    let lease = house.handle.lease(&model("one")).await.expect("it serves");
    house.handle.direct(Directive::Unload(model("one")));
    house.until_replica("one", "draining", |r| r.state == ReplicaState::Available).await;
    assert_eq!(router.status("one"), "loaded", "a request holds it");
    drop(lease);
    let gone = |r: &mesh_core::machine::Replica| r.state == ReplicaState::Available && r.busy.is_none();
    house.until_replica("one", "unloaded", gone).await;
    assert_eq!(router.status("one"), "unloaded");
    house.stopped().await;
}
