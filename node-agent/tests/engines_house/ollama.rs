//! An Ollama that runs already: what is seen of it, and loads and unloads by its own API.

use crate::house::{House, PATIENCE, model, replica};
use crate::simulator::OllamaSimulator;
use futures_util::StreamExt as _;
use mesh_core::machine::{Directive, EngineKind, EngineState, Replica, ReplicaState};
use node_agent::engine::{EngineConfig, LoadRequest, Observation, PullProgress, adapter};
use std::time::Duration;
use tokio::time::Instant;

fn endpoint(name: &str, ollama: &OllamaSimulator) -> EngineConfig {
    EngineConfig::Endpoint { name: name.into(), kind: EngineKind::Ollama, url: ollama.url(), api_key: None }
}

#[tokio::test]
async fn models_are_shown_once_and_loaded_and_unloaded_by_directive() {
    let ollama = OllamaSimulator::start().await;
    let house = House::with(vec![endpoint("ollama", &ollama)]);
    let told = |r: &mesh_core::machine::Replica| r.abilities.embed.is_some();
    let seen = house.until_replica("qwen3:8b", "its abilities", told).await;
    assert_eq!(
        (seen.state, seen.context, seen.trained_context),
        (ReplicaState::Available, None, Some(40960))
    );
    assert_eq!((seen.abilities.tools, seen.slots, seen.busy), (Some(true), None, None));
    // On disk only, and still to be had: Ollama loads it for the first request.
    drop(house.handle.lease(&model("qwen3:8b")).await.expect("Ollama loads on demand"));
    assert_eq!(house.handle.engines().borrow()[0].version.as_deref(), Some("0.33.0"));

    house.until_replica("nomic-embed-text:latest", "its abilities", told).await;
    for name in ["qwen3:8b", "nomic-embed-text:latest"] {
        house.handle.direct(Directive::Load(model(name).into()));
        let seen = house.until_replica(name, "loaded", |r| r.state == ReplicaState::Loaded).await;
        assert_eq!(seen.context, Some(4096));
        assert!(ollama.is_loaded(name));
    }

    let lease = house.handle.lease(&model("qwen3:8b")).await.expect("loaded");
    assert_eq!((&*lease.base_url, lease.api_key.as_deref()), (ollama.url().as_str(), None));
    house.handle.direct(Directive::Unload(model("qwen3:8b")));
    house.until_replica("qwen3:8b", "draining", |r| r.state == ReplicaState::Available).await;
    assert!(ollama.is_loaded("qwen3:8b"), "a request holds it");
    drop(lease);
    house
        .until("unloaded", |engines| {
            replica(engines, "qwen3:8b")
                .is_some_and(|r| r.state == ReplicaState::Available && r.context.is_none())
        })
        .await;
    assert!(!ollama.is_loaded("qwen3:8b"));
    let shows = ollama.calls().iter().filter(|call| *call == "POST /api/show").count();
    assert_eq!(shows, 2, "one for each model");
    house.stopped().await;
}

#[tokio::test]
async fn what_was_unloaded_and_what_could_not_be_deleted_serves_again_once_it_is_loaded() {
    let ollama = OllamaSimulator::start().await;
    ollama.refuse_deletes();
    let house = House::with(vec![endpoint("ollama", &ollama)]);
    let (name, loaded) = ("qwen3:8b", |r: &Replica| r.state == ReplicaState::Loaded);
    house.until_replica(name, "seen", |_| true).await;
    for leave in [Directive::Unload(model(name)), Directive::Delete(model(name))] {
        house.handle.direct(Directive::Load(model(name).into()));
        house.until_replica(name, "loaded", loaded).await;
        house.handle.direct(leave);
        // While it drains it still has its context.
        let gone = |r: &Replica| r.state == ReplicaState::Available && r.context.is_none();
        house.until_replica(name, "out of memory", gone).await;
        assert!(!ollama.is_loaded(name));
    }
    assert!(ollama.calls().iter().any(|call| call == "DELETE /api/delete"));
    house.handle.direct(Directive::Load(model(name).into()));
    house.until_replica(name, "loaded again", loaded).await;
    let lease = house.handle.lease(&model(name)).await.expect("loaded");
    assert_eq!(&*lease.upstream_model, name);
    drop(lease);
    house.stopped().await;
}

#[tokio::test]
async fn a_load_that_fails_is_shown_with_the_engines_reason() {
    let ollama = OllamaSimulator::start().await;
    ollama.refuse_loads();
    let house = House::with(vec![endpoint("ollama", &ollama)]);
    house.until_replica("qwen3:8b", "seen", |_| true).await;
    house.handle.direct(Directive::Load(model("qwen3:8b").into()));
    let failed =
        house.until_replica("qwen3:8b", "failed", |r| matches!(r.state, ReplicaState::Failed(_))).await;
    assert!(format!("{:?}", failed.state).contains("more system memory"), "{failed:?}");
    house.stopped().await;
}

#[tokio::test]
async fn an_engine_that_hangs_is_down_and_the_others_do_not_notice() {
    let (hanging, healthy) = (OllamaSimulator::start().await, OllamaSimulator::start().await);
    let house = House::with(vec![endpoint("hanging", &hanging), endpoint("healthy", &healthy)]);
    let up = |engines: &[mesh_core::machine::Engine]| {
        engines.iter().filter(|e| e.state == EngineState::Up).count()
    };
    house.until("both up", |engines| up(engines) == 2).await;
    hanging.hang();
    let since = Instant::now();
    let watch = house.handle.engines();
    let seen = house.until("one down", |engines| up(engines) < 2).await;
    // 3 s, and one more for a busy machine.
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    assert_eq!((seen[0].name.as_str(), seen[1].name.as_str()), ("hanging", "healthy"));
    assert!(matches!(&seen[0].state, EngineState::Down(why) if why.contains("did not answer")), "{seen:?}");
    let lease = house.handle.lease(&model("qwen3:8b")).await.expect("the healthy one loads on demand");
    assert_eq!(&*lease.engine, "healthy");
    drop(lease);
    drop(watch);
    let before = healthy.calls().len();
    house.handle.direct(Directive::Load(model("qwen3:8b").into()));
    house
        .until("loaded on the healthy one", |engines| {
            replica(&engines[1..], "qwen3:8b").is_some_and(|r| r.state == ReplicaState::Loaded)
        })
        .await;
    assert!(healthy.calls().len() > before);
    house.stopped().await;
}

#[tokio::test]
async fn a_load_names_its_context_and_less_than_asked_for_is_told() {
    let ollama = OllamaSimulator::start().await;
    let mut engine = adapter(EngineKind::Ollama, &ollama.url(), None).expect("a good address");
    let sized = |context| LoadRequest { context: Some(context), ..LoadRequest::of("qwen3:8b") };
    engine.load(&sized(16384)).expect("it can").await.expect("it fits");
    let context = |seen: Observation| seen.held.iter().find(|h| h.upstream == "qwen3:8b")?.replica.context;
    assert_eq!(context(engine.observe().await), Some(16384));
    // More than it was trained for.
    let error = engine.load(&sized(131_072)).expect("it can").await.expect_err("it was cut").to_string();
    assert!(error.contains("40960 tokens of context instead of 131072"), "{error}");
    assert_eq!(context(engine.observe().await), Some(40960), "what is shown is what there is");
}

#[tokio::test]
async fn a_dropped_pull_is_cancelled_and_a_deleted_model_is_gone() {
    let ollama = OllamaSimulator::start().await;
    let mut engine = adapter(EngineKind::Ollama, &ollama.url(), None).expect("a good address");
    let mut pull = engine.pull("llama3.2:1b").expect("it can");
    let mut far = PullProgress { done: 0, total: None, status: String::new() };
    while far.done == 0 {
        far = pull.next().await.expect("it goes on").expect("no error");
    }
    assert_eq!((far.done, far.total), (100, Some(200)));
    drop(pull);
    let cancelled = async {
        // The simulator tells nobody, so it is asked.
        while !ollama.calls().iter().any(|call| call == "pull cancelled") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, cancelled).await.expect("the connection is closed");

    engine.delete("qwen3:8b").expect("it can").await.expect("it is there");
    assert!(engine.observe().await.held.iter().all(|held| held.upstream != "qwen3:8b"));
    let error = engine.delete("qwen3:8b").expect("it can").await.expect_err("it is gone");
    assert_eq!(error.status(), Some(404));
}
