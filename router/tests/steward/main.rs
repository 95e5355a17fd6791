//! The steward with scripted agents: plans that are followed, refused, broken off and taken up again. Time is paused.

mod scripted_agent;

use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::ReplicaState;
use mesh_core::placement::Serves;
use mesh_core::strategy::Pin;
use mesh_daemon::clock::Clock;
use mesh_daemon::config_layers::KeyLines;
use router::config::{ModeConfig, RouterConfig, Settings, check};
use router::fleet_keeper::{FleetHandle, Snapshot};
use router::forward::in_flight::InFlight;
use router::ledger::{NodeWish, OperatorWishes};
use router::metrics::Metrics;
use router::steward::what_if::WhatIf;
use router::steward::wished::Wished;
use router::steward::{self, Of, Planned, StewardHandle, StewardParts};
use router::strategies::Strategies;
use scripted_agent::{Agent, GIB, Manner};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Longer than any plan here takes to be followed, by the paused clock.
const PATIENCE: Duration = Duration::from_secs(1200);

fn machine(name: &str) -> MachineId {
    MachineId::new(name).expect("valid")
}

fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("valid")
}

/// A router without its doors.
struct Head {
    fleet: FleetHandle,
    steward: StewardHandle,
    operator: watch::Sender<Arc<OperatorWishes>>,
    stop: CancellationToken,
}

/// Modes that each want one model.
fn settings(modes: &[(&str, &str, &str)], apply: bool) -> Settings {
    let mut config = RouterConfig::default();
    for (name, model, residency) in modes {
        let mode = ModeConfig {
            models: vec![(*model).into()],
            residency: Some((*residency).into()),
            ..ModeConfig::default()
        };
        config.modes.insert((*name).into(), mode);
    }
    config.placement.apply = apply;
    check(config, "a test".into(), &KeyLines::default()).expect("it makes sense")
}

impl Head {
    fn start(settings: &Settings, said: OperatorWishes, expected: &[&str]) -> Self {
        let (clock, stop) = (Clock::start(), CancellationToken::new());
        let strategies = Strategies::read(Path::new("/nonexistent"));
        let wished = Wished::now(settings.modes.as_ref(), &settings.placement, &said, &strategies);
        let fleet =
            FleetHandle::start(wished.modes.clone(), settings.model_aliases.clone(), clock, stop.clone());
        let operator = watch::Sender::new(Arc::new(said));
        let parts = StewardParts {
            fleet: fleet.clone(),
            in_flight: InFlight::default(),
            blobs: None,
            operator: operator.subscribe(),
            expected: expected.iter().map(|name| machine(name)).collect::<BTreeSet<_>>(),
            wished,
            modes: settings.modes.clone(),
            placement: settings.placement.clone(),
            strategies: "/nonexistent".into(),
            metrics: Metrics::new(),
            clock,
            minute_of_day: || 12 * 60,
        };
        let steward = steward::start(parts, stop.clone());
        Self { fleet, steward, operator, stop }
    }

    fn wish(&self, change: impl FnOnce(&mut OperatorWishes)) {
        let mut wishes = OperatorWishes::clone(&self.operator.borrow());
        change(&mut wishes);
        self.operator.send_replace(Arc::new(wishes));
    }

    async fn until(&self, what: &str, mut wanted: impl FnMut(&Snapshot) -> bool) {
        let mut snapshots = self.fleet.snapshots();
        let found = tokio::time::timeout(PATIENCE, snapshots.wait_for(|snapshot| wanted(snapshot))).await;
        match found {
            Ok(found) => drop(found.expect("the keeper lives")),
            Err(_) => panic!("not in time: {what}; planned was {:#?}", self.steward.planned().borrow().plan),
        }
    }

    async fn until_loaded(&self, name: &str, on: &str) {
        let what = format!("{name} on {on}");
        self.until(&what, |snapshot| is_loaded(snapshot, name, on)).await;
    }

    async fn until_planned(&self, what: &str, mut wanted: impl FnMut(&Planned) -> bool) -> Arc<Planned> {
        let mut planned = self.steward.planned();
        let found = tokio::time::timeout(PATIENCE, planned.wait_for(|planned| wanted(planned))).await;
        found.unwrap_or_else(|_| panic!("not in time: {what}")).expect("the steward lives").clone()
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn is_loaded(snapshot: &Snapshot, name: &str, on: &str) -> bool {
    let machine = snapshot.view.machine(&machine(on));
    let replica = machine.and_then(|machine| machine.replica(&model(name)));
    replica.is_some_and(|(_, replica)| replica.state == ReplicaState::Loaded)
}

/// Where the plan has each model: `m@a`.
fn places(planned: &Planned) -> Vec<String> {
    planned.plan.placed.iter().map(|placed| format!("{}@{}", placed.model, placed.machine)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_only_shown_until_somebody_has_it_followed() {
    let head = Head::start(&settings(&[("code", "m", "pinned")], false), OperatorWishes::default(), &[]);
    let agent = Agent::start(&head.fleet, "a", 32 * GIB, &["m"], Manner::Obeys).await;
    head.until_planned("a place", |planned| places(planned) == ["m@a"]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(agent.directives(), Vec::<String>::new());
    head.wish(|wishes| wishes.follows = Some(true));
    head.until_loaded("m", "a").await;
    let planned = head.until_planned("nothing to do", |planned| planned.plan.changes.is_empty()).await;
    assert!(planned.following && planned.stopped.is_empty(), "{:?}", planned.stopped);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(agent.directives(), ["load m"], "what is as planned is left alone");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_an_agent_refuses_goes_elsewhere_with_its_words_in_the_plan() {
    for manner in [Manner::Refuses("the owner plays"), Manner::Lies("needs 9 GiB, 2 GiB are free")] {
        let head = Head::start(&settings(&[("code", "m", "pinned")], true), OperatorWishes::default(), &[]);
        let better = Agent::start(&head.fleet, "a", 20 * GIB, &["m"], manner.clone()).await;
        let other = Agent::start(&head.fleet, "b", 20 * GIB, &["m"], manner).await;
        let told = |why: &str| why.contains("the owner plays") || why.contains("needs 9 GiB, 2 GiB are free");
        head.until_planned("both refuse, and the plan tells it in their words", |planned| {
            let obstacles = planned.plan.unplaced.iter().flat_map(|unplaced| &unplaced.obstacles);
            obstacles.filter(|obstacle| told(&obstacle.why)).count() == 2
        })
        .await;
        for agent in [&better, &other] {
            assert_eq!(agent.directives(), ["load m"], "not asked again and again");
        }
        let third = Agent::start(&head.fleet, "c", 20 * GIB, &["m"], Manner::Obeys).await;
        head.until_loaded("m", "c").await;
        assert_eq!(third.directives(), ["load m"]);
        // After five minutes it is asked no more, since the model has its place.
        tokio::time::sleep(Duration::from_secs(400)).await;
        assert_eq!(better.directives().len() + other.directives().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_while_it_loads_is_replaced_after_ten_seconds() {
    let head = Head::start(&settings(&[("code", "m", "pinned")], true), OperatorWishes::default(), &[]);
    let dying = Agent::start(&head.fleet, "a", 64 * GIB, &["m"], Manner::DiesLoading).await;
    dying.until_gone().await;
    let died = Instant::now();
    let other = Agent::start(&head.fleet, "b", 64 * GIB, &["m"], Manner::Obeys).await;
    head.until_loaded("m", "b").await;
    assert!(died.elapsed() >= Duration::from_secs(10), "{:?}", died.elapsed());
    assert!(died.elapsed() < Duration::from_secs(20), "{:?}", died.elapsed());
    assert_eq!(other.directives(), ["load m"]);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_is_killed_between_steps_goes_on_with_the_same_plan_and_loads_nothing_twice() {
    let settings = settings(&[("ask", "m1", "pinned"), ("code", "m2", "pinned")], true);
    let head = Head::start(&settings, OperatorWishes::default(), &[]);
    let mut agents = Vec::new();
    for name in ["a", "b"] {
        agents.push(Agent::start(&head.fleet, name, 16 * GIB, &["m1", "m2"], Manner::Obeys).await);
    }
    let before = head.until_planned("a plan", |planned| planned.plan.placed.len() == 2).await;
    head.until("one load", |snapshot| {
        snapshot
            .view
            .machines
            .iter()
            .flat_map(|m| &m.engines)
            .flat_map(|e| &e.replicas)
            .any(|r| matches!(r.state, ReplicaState::Loaded | ReplicaState::Loading))
    })
    .await;
    drop(head);

    let head = Head::start(&settings, OperatorWishes::default(), &["a", "b"]);
    agents[0].attach(&head.fleet).await;
    let waits = "waiting for b for up to 60 s after the router's start";
    head.until_planned("one is missing", |planned| planned.stopped == [waits]).await;
    agents[1].attach(&head.fleet).await;
    head.until("both loaded", |snapshot| {
        before.plan.placed.iter().all(|p| is_loaded(snapshot, p.model.as_str(), p.machine.as_str()))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(places(&head.steward.planned().borrow()), places(&before));
    let mut said: Vec<String> = agents.iter().flat_map(Agent::directives).collect();
    said.sort();
    assert_eq!(said, ["load m1", "load m2"]);
}

#[tokio::test(start_paused = true)]
async fn a_drained_machine_ends_empty_and_its_pinned_mode_comes_elsewhere() {
    let head = Head::start(&settings(&[("code", "m", "pinned")], true), OperatorWishes::default(), &[]);
    let first = Agent::start(&head.fleet, "a", 32 * GIB, &["m"], Manner::Obeys).await;
    head.until_loaded("m", "a").await;
    let second = Agent::start(&head.fleet, "b", 32 * GIB, &["m"], Manner::Obeys).await;
    head.wish(|wishes| wishes.nodes = [(machine("a"), NodeWish::Drained)].into());
    head.until_loaded("m", "b").await;
    head.until("a is empty", |snapshot| !is_loaded(snapshot, "m", "a")).await;
    assert_eq!(
        (first.directives(), second.directives()),
        (vec!["load m".to_owned(), "unload m".into()], vec!["load m".to_owned()])
    );
    assert!(head.fleet.snapshot().barred.contains_key(&machine("a")), "no request has a model loaded there");
}

#[tokio::test(start_paused = true)]
async fn a_drain_empties_a_machine_of_a_mesh_that_follows_no_plan_and_only_that() {
    let head = Head::start(&settings(&[("code", "m", "warm")], true), OperatorWishes::default(), &[]);
    let agent = Agent::start(&head.fleet, "a", 32 * GIB, &["m"], Manner::Obeys).await;
    head.until_loaded("m", "a").await;
    let other = Agent::start(&head.fleet, "b", 32 * GIB, &["m"], Manner::Obeys).await;
    head.wish(|wishes| wishes.follows = Some(false));
    head.wish(|wishes| wishes.nodes = [(machine("a"), NodeWish::Drained)].into());
    head.until("a is empty", |snapshot| !is_loaded(snapshot, "m", "a")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((agent.directives().len(), other.directives()), (2, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_lost_machine_s_pinned_mode_comes_elsewhere_after_ten_seconds_and_stays_there() {
    let head = Head::start(&settings(&[("code", "m", "pinned")], true), OperatorWishes::default(), &[]);
    let first = Agent::start(&head.fleet, "a", 32 * GIB, &["m"], Manner::Obeys).await;
    head.until_loaded("m", "a").await;
    let second = Agent::start(&head.fleet, "b", 32 * GIB, &["m"], Manner::Obeys).await;
    first.detach().await;
    let lost = Instant::now();
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(second.directives(), Vec::<String>::new(), "most machines are back by now");
    head.until_loaded("m", "b").await;
    assert!(lost.elapsed() < Duration::from_secs(20), "{:?}", lost.elapsed());
    first.attach(&head.fleet).await;
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert!(is_loaded(&head.fleet.snapshot(), "m", "b"), "it does not go back and forth");
    assert_eq!(second.directives(), ["load m"]);
}

#[tokio::test(start_paused = true)]
async fn wishes_that_contradict_themselves_empty_no_machine() {
    let head = Head::start(&settings(&[("code", "m", "pinned")], true), OperatorWishes::default(), &[]);
    let agent = Agent::start(&head.fleet, "a", 32 * GIB, &["m"], Manner::Obeys).await;
    head.until_loaded("m", "a").await;
    head.wish(|wishes| {
        wishes.nodes = [(machine("b"), NodeWish::Drained)].into();
        wishes.pins = [Pin { model: model("m"), machine: machine("b") }].into();
    });
    let planned = head.until_planned("it is seen", |planned| !planned.stopped.is_empty()).await;
    assert!(planned.stopped[0].contains("`m` is pinned to `b`, which is drained"), "{:?}", planned.stopped);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(agent.directives(), ["load m"]);
}

#[tokio::test(start_paused = true)]
async fn another_strategy_brings_other_modes_for_requests_and_for_plans() {
    let head = Head::start(&settings(&[("code", "m", "warm")], false), OperatorWishes::default(), &[]);
    let _agent = Agent::start(&head.fleet, "a", 64 * GIB, &["m", "gpt-oss:20b"], Manner::Obeys).await;
    head.until_planned("the file's mode", |planned| places(planned) == ["m@a"]).await;
    head.wish(|wishes| wishes.strategy = Some("speed-quality".into()));
    let planned =
        head.until_planned("the strategy's", |planned| planned.plan.strategy == "speed-quality").await;
    assert!(places(&planned).contains(&"gpt-oss:20b@a".to_owned()), "{:?}", places(&planned));
    head.until("its modes", |snapshot| snapshot.modes.find("ask").is_some()).await;
    let (wishes, following) = head.steward.wishes().await.expect("it lives");
    assert_eq!((wishes.modes.len(), following), (2, false));
    // A strategy whose file is gone stops everything, and says so.
    head.wish(|wishes| {
        wishes.strategy = Some("gone".into());
        wishes.follows = Some(true);
    });
    let planned = head.until_planned("it is gone", |planned| !planned.stopped.is_empty()).await;
    assert!(planned.stopped[0].contains("the strategy `gone` cannot be used"), "{:?}", planned.stopped);
    head.wish(|wishes| wishes.strategy = Some("none".into()));
    head.until_loaded("m", "a").await;
}

#[tokio::test(start_paused = true)]
async fn a_supposed_machine_is_planned_and_nothing_moves() {
    let settings = settings(&[("code", "big", "pinned")], true);
    let head = Head::start(&settings, OperatorWishes::default(), &[]);
    let agent = Agent::start(&head.fleet, "a", 8 * GIB, &["small"], Manner::Obeys).await;
    head.until_planned("no place", |planned| !planned.plan.unplaced.is_empty()).await;
    let what_if = ["+node=strix-128", "model=big=60GiB"].map(|text| WhatIf::read(text).expect("sound"));
    let supposed = head.steward.plan(Of::Now, what_if.to_vec()).await.expect("it lives");
    let there: Vec<&str> = supposed.plan.machines.iter().map(|one| one.machine.as_str()).collect();
    assert_eq!(there, ["a", "strix-128"]);
    assert_eq!(places(&supposed), ["big@strix-128"]);
    let gone = [WhatIf::read("-node=b").expect("sound")];
    let error = head.steward.plan(Of::Now, gone.to_vec()).await.expect_err("there is none");
    assert_eq!(error.to_string(), "there is no node `b`; there are a");
    assert_eq!(agent.directives(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn models_that_were_examined_come_in_the_order_of_their_grades() {
    let found: &[(&str, u32)] = &[("a-model", 60), ("b-model", 80)];
    let ask = |planned: &Planned| {
        let has_ask = |serves: &Serves| serves.mode.as_str() == "ask";
        let placed = planned.plan.placed.iter().find(|placed| placed.serves.iter().any(has_ask));
        placed.map(|placed| placed.model.to_string())
    };
    // Both have the same size: without grades the first by name leads.
    for (manner, best) in [(Manner::Obeys, "a-model"), (Manner::Examined(found), "b-model")] {
        let settings = settings(&[("code", "a-model", "warm")], false);
        let by_the_mesh = OperatorWishes { strategy: Some("auto".into()), ..OperatorWishes::default() };
        let head = Head::start(&settings, by_the_mesh, &[]);
        let _agent = Agent::start(&head.fleet, "a", 32 * GIB, &["a-model", "b-model"], manner).await;
        head.until_planned(best, |planned| ask(planned).as_deref() == Some(best)).await;
    }
}
