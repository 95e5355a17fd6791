//! Tests of leases, drains and what is published.

use super::*;
use crate::engine::{Held, Observation};
use mesh_core::machine::EngineKind;

fn model() -> ModelId {
    ModelId::new("tiny").expect("a good name")
}

fn roster(names: &[&str], state: &ReplicaState) -> Roster {
    let roster = Roster::new();
    for name in names {
        let mut row = Row::new(Engine::new(name, EngineKind::LlamaServer, false), mpsc::channel(1).0);
        row.answers_at(&format!("http://127.0.0.1/{name}"), Some("key"));
        let held = Held::new("tiny", state.clone()).expect("a good name");
        row.show(Observation { version: None, state: EngineState::Up, queued: None, held: vec![held] });
        assert!(roster.add(row));
    }
    roster
}

#[test]
fn requests_are_spread_over_the_engines_that_hold_the_model() {
    let roster = roster(&["a", "b"], &ReplicaState::Loaded);
    let first = roster.lease(&model()).expect("loaded");
    let second = roster.lease(&model()).expect("loaded");
    assert_ne!(first.engine, second.engine);
    let freed = second.engine.clone();
    drop(second);
    assert_eq!(roster.lease(&model()).expect("loaded").engine, freed);
    assert!(!format!("{first:?}").contains("key"));
}

#[test]
fn every_state_has_its_refusal() {
    let loading = roster(&["a"], &ReplicaState::Loading);
    assert_eq!(loading.lease(&model()).expect_err("loading").kind(), "loading");
    let failed = roster(&["a"], &ReplicaState::Failed("no such file".into()));
    assert_eq!(failed.lease(&model()).expect_err("failed"), LeaseRefusal::NotLoaded("no such file".into()));
    let down = roster(&["a"], &ReplicaState::Loaded);
    down.change("a", |row| row.state(EngineState::Down("silent".into())));
    assert_eq!(down.lease(&model()).expect_err("down"), LeaseRefusal::EngineDown("silent".into()));
    // As a child is shown that has just ended: its engine is brought back, and has seen nothing.
    let ended = roster(&["a"], &ReplicaState::Failed("was killed by SIGKILL".into()));
    ended.change("a", |row| row.state(EngineState::Down("was killed by SIGKILL".into())));
    assert_eq!(ended.lease(&model()).expect_err("ended").kind(), "engine_down");
    assert_eq!(Roster::new().lease(&model()).expect_err("none").kind(), "no_such_model");
}

#[tokio::test(start_paused = true)]
async fn a_drained_model_gets_no_lease_and_waits_for_the_last_one() {
    let roster = roster(&["a"], &ReplicaState::Loaded);
    let lease = roster.lease(&model()).expect("loaded");
    let count = roster.change("a", |row| row.drain(&model())).expect("the row");
    assert_eq!(roster.lease(&model()).expect_err("draining").kind(), "not_loaded");
    assert_eq!(roster.watch().borrow()[0].replicas[0].state, ReplicaState::Available);
    let mut waiting = std::pin::pin!(count.none_held());
    assert!(futures_util::poll!(&mut waiting).is_pending());
    drop(lease);
    let minute = std::time::Duration::from_secs(60);
    tokio::time::timeout(minute, waiting).await.expect("told when the last lease was dropped");
    roster.change("a", |row| row.undrain(&model()));
    assert!(roster.lease(&model()).is_ok());
}

#[test]
fn an_equal_update_is_no_update() {
    let roster = roster(&["a"], &ReplicaState::Loaded);
    let mut watch = roster.watch();
    watch.mark_unchanged();
    roster.change("a", |_| ());
    assert!(!watch.has_changed().expect("open"));
    roster.remove("a");
    assert!(watch.has_changed().expect("open"));
}
