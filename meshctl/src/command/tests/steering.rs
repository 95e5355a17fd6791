//! Plans, wishes of machines and models, modes, reasons and waiting against the scripted router.

use super::*;
use mesh_core::id::{ModeName, ModelId};
use mesh_core::placement::{Change, OnDemand, Plan, Unplaced};
use mesh_core::strategy::{Wish, WishProblem};

/// One mode, whose model comes when it is asked for.
fn served() -> Plan {
    let code = OnDemand { mode: ModeName::new("code").expect("valid"), place: None };
    Plan { on_demand: vec![code], ..Plan::default() }
}

fn unplaced() -> Plan {
    let architect = Unplaced {
        mode: ModeName::new("architect").expect("valid"),
        copies: 1,
        models: vec![],
        obstacles: vec![],
        impossible: true,
        would_help: vec![],
    };
    Plan { unplaced: vec![architect], ..Plan::default() }
}

fn contradictory() -> Plan {
    let problem =
        WishProblem { key: "modes.code.slots".into(), message: "must be at least 1".into(), fatal: true };
    Plan { problems: vec![problem], ..Plan::default() }
}

/// A router with one machine, its model in memory, and this plan.
fn planning(plan: Plan) -> Scripted {
    let service = scripted("loaded", "loaded");
    service.mesh.send_modify(|mesh| {
        let mode = |name: &str, state: &str| ModeStatus {
            name: name.into(),
            state: state.into(),
            ..ModeStatus::default()
        };
        mesh.modes = vec![mode("code", "ready"), mode("architect", "unserved")];
        let model = ModelStatus { name: "qwen3:4b".into(), ..ModelStatus::default() };
        mesh.models = vec![model];
    });
    service.desk.send_modify(|desk| {
        desk.plan = plan;
        let models = vec![ModelId::new("qwen3:4b").expect("valid")];
        desk.wishes.modes = vec![Wish::new(ModeName::new("code").expect("valid"), models)];
    });
    service
}

#[tokio::test(start_paused = true)]
async fn a_plan_ends_by_whether_everything_is_placed() {
    for (line, plan, kind) in [
        ("meshctl plan", Plan::default(), None),
        ("meshctl plan", served(), None),
        ("meshctl plan --apply --yes", Plan::default(), Some(Kind::Failed)),
        ("meshctl plan --strategy spread --what-if +node=strix-128", Plan::default(), None),
        ("meshctl plan", unplaced(), Some(Kind::DoesNotFit)),
        ("meshctl plan", contradictory(), Some(Kind::Failed)),
        ("meshctl plan --strategy nope", Plan::default(), Some(Kind::NotFound)),
    ] {
        let ended = typed(line, planning(plan)).await;
        assert_eq!(ended.err().map(|failure| failure.kind), kind, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_reason_is_told_by_a_command_that_knows_the_plan() {
    for (line, hint) in [
        ("meshctl plan", Some("every reason: meshctl explain mode=architect")),
        ("meshctl plan --strategy spread", Some("every reason: meshctl plan --strategy spread --verbose")),
        ("meshctl plan --what-if -node=msi", Some("every reason: the same with --verbose")),
        ("meshctl plan --strategy spread --verbose", None),
        (
            "meshctl plan --strategy spread --apply --yes",
            Some("every reason: meshctl explain mode=architect"),
        ),
    ] {
        let failure = typed(line, planning(unplaced())).await.expect_err(line);
        assert_eq!(failure.hints.first().map(String::as_str), hint, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_strategy_is_answered_with_those_like_it() {
    let failure = typed("meshctl plan --strategy spraed", planning(served())).await.expect_err("mistyped");
    assert_eq!((failure.kind, failure.hints[0].as_str()), (Kind::NotFound, "did you mean spread?"));
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_applied_with_a_yes_and_not_without() {
    let service = planning(served());
    let failure = typed("meshctl plan --apply", service.clone()).await.expect_err("nobody to ask");
    assert_eq!((failure.kind, failure.hints), (Kind::Usage, vec!["say it with the command: --yes".into()]));
    assert_eq!(service.desk.borrow().applied, Vec::<String>::new());
    assert_eq!(typed("meshctl plan --apply --yes --strategy spread", service.clone()).await, Ok(()));
    assert_eq!(service.desk.borrow().applied, ["spread"]);
}

#[tokio::test(start_paused = true)]
async fn wishes_that_contradict_themselves_are_not_applied_and_incomplete_ones_are() {
    let service = planning(contradictory());
    let failure = typed("meshctl plan --apply --yes", service.clone()).await.expect_err("a contradiction");
    assert_eq!(failure.cause.as_deref(), Some("modes.code.slots: must be at least 1"));
    assert_eq!(service.desk.borrow().applied, Vec::<String>::new());
    let service = planning(unplaced());
    let failure = typed("meshctl plan --apply --yes", service.clone()).await.expect_err("incomplete");
    assert_eq!(
        (failure.kind, failure.what.as_str()),
        (Kind::DoesNotFit, "1 of 1 mode is not placed as wished")
    );
    assert_eq!(service.desk.borrow().applied, [""]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_drained_cordoned_and_resumed() {
    let service = planning(Plan::default());
    let limits = || {
        let desk = service.desk.borrow();
        let limits = desk.wishes.limits(&MachineId::new("msi").expect("valid"));
        (limits.drained, limits.cordoned)
    };
    for (verb, after) in [
        ("drain", (true, false)),
        ("drain", (true, false)),
        ("cordon", (false, true)),
        ("resume", (false, false)),
        ("resume", (false, false)),
    ] {
        assert_eq!(typed(&format!("meshctl node {verb} msi"), service.clone()).await, Ok(()), "{verb}");
        assert_eq!(limits(), after, "{verb}");
    }
    for verb in ["drain", "cordon", "resume"] {
        let line = format!("meshctl node {verb} mis");
        let failure = typed(&line, service.clone()).await.expect_err(verb);
        assert_eq!(
            (failure.kind, failure.hints[0].as_str()),
            (Kind::NotFound, "did you mean msi?"),
            "{verb}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_is_pinned_where_it_is_and_unpinned_anywhere() {
    let service = planning(Plan::default());
    for (line, pins) in [
        ("meshctl model pin qwen3:4b --node msi", 1),
        ("meshctl model pin qwen3:4b --node msi", 1),
        ("meshctl model unpin qwen3:4b --node msi", 0),
        ("meshctl model unpin qwen3:4b --node msi", 0),
    ] {
        assert_eq!(typed(line, service.clone()).await, Ok(()), "{line}");
        assert_eq!(service.desk.borrow().wishes.pins.len(), pins, "{line}");
    }
    for (line, hint) in [
        ("meshctl model pin qwen3:4 --node msi", "did you mean qwen3:4b?"),
        ("meshctl model pin qwen3:4b --node mis", "did you mean msi?"),
        ("meshctl model unpin qwen3:4 --node msi", "did you mean qwen3:4b?"),
    ] {
        let failure = typed(line, service.clone()).await.expect_err(line);
        assert_eq!((failure.kind, failure.hints[0].as_str()), (Kind::NotFound, hint), "{line}");
    }
    let failure =
        typed("meshctl model unpin nope --node msi", service.clone()).await.expect_err("no such model");
    let hints = failure.hints.join("\n");
    assert!(!hints.contains("model pull") && hints.contains("meshctl model list --node msi"), "{hints}");
    service.mesh.send_modify(|mesh| mesh.nodes[0].engines.clear());
    service.desk.send_modify(|desk| {
        desk.pin(&PinModelRequest { model: "gone".into(), node: "msi".into(), pinned: true });
    });
    assert_eq!(typed("meshctl model unpin gone --node msi", service).await, Ok(()), "a pin of no model");
}

#[tokio::test(start_paused = true)]
async fn modes_are_listed_shown_and_found_by_similar_names() {
    for (line, kind) in [
        ("meshctl mode list", None),
        ("meshctl mode show mesh/code", None),
        ("meshctl mode show coed", Some(Kind::NotFound)),
        ("meshctl mode test coed", Some(Kind::NotFound)),
        ("meshctl mode test code --key k --url nonsense", Some(Kind::Usage)),
    ] {
        let ended = typed(line, planning(Plan::default())).await;
        assert_eq!(ended.err().map(|failure| failure.kind), kind, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mode_for_embeddings_is_not_asked_a_question() {
    let service = planning(Plan::default());
    service.desk.send_modify(|desk| desk.wishes.modes[0].embeds = true);
    let failure = typed("meshctl mode test code", service).await.expect_err("embeddings");
    assert_eq!(failure.kind, Kind::Usage);
}

#[tokio::test(start_paused = true)]
async fn whatever_has_a_name_is_explained() {
    for (line, kind) in [
        ("meshctl explain code", None),
        ("meshctl explain mesh/code", None),
        ("meshctl explain msi", None),
        ("meshctl explain qwen3:4b", None),
        ("meshctl explain model=qwen3:4b", None),
        ("meshctl explain node=code", Some(Kind::NotFound)),
        ("meshctl explain model=qwen3:5b", Some(Kind::NotFound)),
        ("meshctl explain 0196af", Some(Kind::NotFound)),
        ("meshctl explain request=R", Some(Kind::Usage)),
    ] {
        let ended = typed(line, planning(unplaced())).await;
        assert_eq!(ended.err().map(|failure| failure.kind), kind, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn people_are_told_where_programs_get_json() {
    let data = prepared();
    let service = planning(served());
    let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
    let way = way(&data, router.address);
    for line in [
        "meshctl plan",
        "meshctl plan --apply --yes",
        "meshctl node drain msi",
        "meshctl node resume msi",
        "meshctl model pin qwen3:4b --node msi",
        "meshctl model unpin qwen3:4b --node msi",
        "meshctl mode list",
        "meshctl mode show code",
        "meshctl explain code",
        "meshctl explain msi",
        "meshctl explain qwen3:4b",
        "meshctl wait --for mode=code,ready",
    ] {
        let cli = <Cli as clap::Parser>::try_parse_from(line.split(' ')).expect("a valid line");
        assert_eq!(perform(cli.command, &way, &Screen::plain(Format::Table)).await, Ok(()), "{line}");
    }
    router.stop().await;
    assert_eq!(service.desk.borrow().applied, [""]);
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_all_of_it_is_so() {
    let line = "meshctl wait --for model=qwen3:4b@msi,loaded --for node=msi,ready --for mode=code,ready --for plan,complete";
    assert_eq!(typed(line, planning(Plan::default())).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn waiting_sees_the_change() {
    let service = planning(Plan::default());
    let machine = MachineId::new("msi").expect("valid");
    let change = Change::Load { model: ModelId::new("m").expect("valid"), machine, seconds: 1 };
    service.desk.send_modify(|desk| desk.plan.changes = vec![change]);
    let (desk, asked) = (service.desk.clone(), service.asked.clone());
    let script = async {
        asked.notified().await;
        desk.send_modify(|desk| desk.plan.changes.clear());
    };
    let (ended, ()) = tokio::join!(typed("meshctl wait --for plan,complete", service), script);
    assert_eq!(ended, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_drain_needs_the_wish_and_an_empty_machine() {
    let service = planning(Plan::default());
    let line = "meshctl wait --for node=msi,drained --timeout 1s";
    let failure = typed(line, service.clone()).await.expect_err("nobody drains it");
    assert_eq!(failure.kind, Kind::TimedOut);
    assert_eq!(
        failure.hints,
        ["what is in the way: meshctl status", "give it longer: --timeout 30m"].map(String::from)
    );
    assert_eq!(failure.cause.as_deref(), Some("msi is not to be drained: meshctl node drain msi"));
    assert_eq!(typed("meshctl node drain msi", service.clone()).await, Ok(()));
    let failure = typed(line, service.clone()).await.expect_err("it still holds a model");
    assert_eq!(failure.cause.as_deref(), Some("msi still holds qwen3:4b"));
    service.mesh.send_modify(|mesh| mesh.nodes[0].engines[0].replicas[0].state = "available".into());
    assert_eq!(typed(line, service).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn waiting_survives_a_restart_of_the_router() {
    let data = prepared();
    let service = planning(unplaced());
    let asked = service.asked.clone();
    let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
    let address = router.address;
    let script = async {
        asked.notified().await;
        asked.notified().await;
        router.stop().await;
        let again = Router::start(&data, &address.to_string(), service.clone()).await;
        service.desk.send_modify(|desk| desk.plan = Plan::default());
        again
    };
    let way = way(&data, address);
    let (ended, again) = tokio::join!(perform_line("meshctl wait --for plan,complete", &way), script);
    again.stop().await;
    assert_eq!(ended, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_mode_is_changed_shown_and_reset() {
    let service = planning(served());
    let desk = service.desk.clone();
    assert_eq!(typed("meshctl mode set mesh/code context=64K models=a,b", service.clone()).await, Ok(()));
    let settings: Vec<String> =
        desk.borrow().settings.iter().map(|one| format!("{} {}={}", one.mode, one.name, one.value)).collect();
    assert_eq!(settings, ["code context=64K", "code models=a,b"]);
    assert_eq!(typed("meshctl mode show code", service.clone()).await, Ok(()));
    assert_eq!(typed("meshctl mode reset code models", service.clone()).await, Ok(()));
    assert_eq!(desk.borrow().settings.len(), 1);
    assert_eq!(typed("meshctl mode reset code", service.clone()).await, Ok(()));
    assert_eq!(desk.borrow().settings.len(), 0);
    let failure =
        typed("meshctl mode set coed context=64K", service.clone()).await.expect_err("no such mode");
    assert_eq!(failure.kind, Kind::NotFound);
    let hints = failure.hints.join("\n");
    assert!(hints.contains("did you mean code?") && hints.contains("meshctl mode set coed --new"), "{hints}");
    assert_eq!(typed("meshctl mode set review --new models=a", service.clone()).await, Ok(()));
    assert_eq!(desk.borrow().settings[0].mode, "review");
}

#[tokio::test(start_paused = true)]
async fn a_mesh_that_follows_a_plan_stops_when_it_is_told_to() {
    let service = planning(served());
    assert_eq!(typed("meshctl plan --apply --yes --strategy spread", service.clone()).await, Ok(()));
    assert_eq!(service.desk.borrow().applied, ["spread"]);
    let failure = typed("meshctl plan --apply --strategy off", service.clone()).await.expect_err("no yes");
    assert_eq!((failure.kind, service.desk.borrow().applied.len()), (Kind::Usage, 1));
    assert_eq!(typed("meshctl plan --apply --yes --strategy off", service.clone()).await, Ok(()));
    assert_eq!(service.desk.borrow().applied.len(), 0);
    let failure = typed("meshctl plan --strategy off", service).await.expect_err("there is nothing to show");
    assert_eq!(failure.kind, Kind::Usage);
}
