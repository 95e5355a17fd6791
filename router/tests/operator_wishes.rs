//! What operators wish of placement, and the term, over restarts of the ledger.

use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::strategy::Pin;
use mesh_proto::identity::Role;
use router::ledger::{DEFAULT_TTL, Ledger, LedgerHandle, NodeWish, OperatorWishes};
use std::path::Path;

fn open(folder: &Path) -> LedgerHandle {
    Ledger::open(&folder.join("ledger.redb")).expect("the folder is ours")
}

fn machine(name: &str) -> MachineId {
    MachineId::new(name).expect("valid")
}

fn pin(model: &str, name: &str) -> Pin {
    Pin { model: ModelId::new(model).expect("valid"), machine: machine(name) }
}

fn now(ledger: &LedgerHandle) -> OperatorWishes {
    OperatorWishes::clone(&ledger.wishes().borrow())
}

#[tokio::test]
async fn every_wish_survives_a_restart_and_every_start_has_a_higher_term() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ledger = open(folder.path());
    assert_eq!(now(&ledger), OperatorWishes::default());
    let first = ledger.term();
    ledger.set_plan(Some("distributed".into()), Some(true)).await.expect("kept");
    ledger.set_node(&machine("msi"), NodeWish::Drained).await.expect("kept");
    ledger.set_node(&machine("msi"), NodeWish::Cordoned).await.expect("kept");
    for (model, name) in [("org/m:q4", "msi"), ("m", "msi"), ("m", "strix")] {
        assert!(!ledger.set_pin(pin(model, name), true).await.expect("kept"));
    }
    assert!(ledger.set_pin(pin("m", "msi"), true).await.expect("kept"), "it was pinned before");
    assert!(!ledger.set_pin(pin("m", "strix"), false).await.expect("kept"));
    assert!(ledger.set_pin(pin("m", "strix"), false).await.expect("kept"), "it was free before");
    let code = ModeName::new("code").expect("valid");
    let word = |setting: &str, word: &str| (setting.to_owned(), word.to_owned());
    for (strategy, setting, text) in [
        ("none", "context", Some("32K")),
        ("none", "slots", Some("4")),
        ("none", "slots", Some("2")),
        ("none", "context", None),
        ("auto", "slots", Some("3")),
        ("auto", "slots", None),
    ] {
        let change = [(setting.to_owned(), text.map(str::to_owned))].into();
        ledger.set_mode(strategy.into(), code.clone(), change).await.expect("kept");
    }
    let before = now(&ledger);
    ledger.close().await;

    let ledger = open(folder.path());
    assert_eq!(now(&ledger), before);
    assert_eq!(
        before,
        OperatorWishes {
            strategy: Some("distributed".into()),
            follows: Some(true),
            nodes: [(machine("msi"), NodeWish::Cordoned)].into(),
            pins: [pin("m", "msi"), pin("org/m:q4", "msi")].into(),
            modes: [("none".to_owned(), [(code.clone(), [word("slots", "2")].into())].into())].into(),
        }
    );
    assert!(first > 0 && ledger.term() > first, "{first} and then {}", ledger.term());
}

#[tokio::test]
async fn machines_that_joined_are_known_by_name_before_they_are_heard() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ledger = open(folder.path());
    for (name, role) in [("strix", Role::Node), ("me", Role::Operator), ("msi", Role::Node)] {
        let (id, secret) = ledger.create_token(role, None, DEFAULT_TTL, 1).await.expect("a token");
        ledger.redeem(&id, &secret, name, [7; 32], 2).await.expect("it is open");
    }
    let names = ledger.node_names().await.expect("they are kept");
    assert_eq!(names.into_iter().collect::<Vec<_>>(), [machine("msi"), machine("strix")]);
}
