//! Laws and examples of [`decide`](super::decide).

use super::*;
use crate::fleet::History;
use crate::fleet::tests::{machine, machine_id, model_id, view_of};
use crate::health::Liveness;
use crate::machine::{EngineState, ReplicaState, ThermalState};
use crate::speed::Speed;
use crate::units::Moment;
use proptest::prelude::*;

pub(super) fn names(decision: &Decision) -> Vec<String> {
    decision.ranked.iter().map(|c| format!("{}@{}", c.model, c.machine)).collect()
}

pub(super) fn reasons(rejected: &[Rejection]) -> Vec<String> {
    rejected
        .iter()
        .map(|r| match &r.model {
            Some(model) => format!("{}/{model}: {}", r.machine, r.why),
            None => format!("{}: {}", r.machine, r.why),
        })
        .collect()
}

pub(super) fn ask<'a>(models: &'a [ModelId]) -> Request<'a> {
    let models = models.iter().map(|model| (model, None)).collect();
    Request { prompt_tokens: 100, ..Request::new(models, Purpose::Chat) }
}

/// So many requests whose prompts are read.
pub(super) fn load(counts: &[(&str, &str, u32)]) -> Load {
    let mut load = Load::default();
    for (machine, model, n) in counts {
        let candidate = Candidate::new(machine_id(machine), model_id(model));
        for _ in 0..*n {
            let mut stake = load.claim(&candidate, NOW);
            load.first_content(&mut stake, &[], None, NOW);
        }
    }
    load
}

/// With `rate` tokens each second, ten times as many of the prompt, and answers of 100 tokens.
pub(super) fn speed(rate: f64) -> Speed {
    Speed::seed(Some(rate * 10.0), Some(rate))
}

pub(super) fn history(speed: Speed) -> History {
    History { speed, ..History::default() }
}

pub(super) fn hundred_tokens() -> crate::fleet::Answers {
    [((model_id("m"), None), 100.0)].into()
}

const NOW: Moment = Moment(10_000_000);

#[test]
fn the_least_loaded_replica_is_first() {
    let view = view_of(vec![machine("a", &["m"]), machine("b", &["m"])]);
    let decision =
        decide(&view, &load(&[("a", "m", 1)]), &ask(&[model_id("m")]), NOW, 1).expect("two can serve");
    assert_eq!(names(&decision), ["m@b", "m@a"]);
    assert_eq!(decision.ranked[0].why.to_string(), "least in flight, 0, of 2");
}

#[test]
fn known_speeds_beat_counts() {
    let (mut fast, mut slow) = (machine("fast", &["m"]), machine("slow", &["m"]));
    fast.history.insert(model_id("m"), history(speed(100.0)));
    slow.history.insert(model_id("m"), history(speed(5.0)));
    let view = FleetView::new(vec![fast, slow], &hundred_tokens());
    // The fast one has both slots taken and is still the better choice: 1.7 s (and 0.2 s taken from others) against 22 s.
    let decision =
        decide(&view, &load(&[("fast", "m", 2)]), &ask(&[model_id("m")]), NOW, 1).expect("two can serve");
    assert_eq!(names(&decision), ["m@fast", "m@slow"]);
    assert_eq!(decision.ranked[0].why.to_string(), "least predicted time, 1.95 s, of 2");
    let terms: Vec<&str> = decision.ranked[0].terms.iter().map(|term| term.0).collect();
    assert_eq!(terms, ["prefill", "wait", "decode", "interference"]);
}

#[test]
fn the_mode_s_first_model_wins_over_an_idle_second_one() {
    let view = view_of(vec![machine("a", &["best"]), machine("b", &["other"])]);
    let models = [model_id("best"), model_id("other")];
    let decision = decide(&view, &load(&[("a", "best", 2)]), &ask(&models), NOW, 1).expect("two can serve");
    assert_eq!(names(&decision), ["best@a", "other@b"]);
    assert_eq!(decision.ranked[0].why.to_string(), "the mode's first choice that can serve");
    assert_eq!(decision.ranked[1].why.to_string(), "behind: the mode prefers another model");
}

#[test]
fn a_suspect_machine_serves_only_as_a_last_resort() {
    let mut suspect = machine("a", &["m"]);
    suspect.liveness = Liveness::Suspect;
    let both = view_of(vec![suspect.clone(), machine("b", &["m"])]);
    let models = [model_id("m")];
    assert_eq!(
        names(&decide(&both, &load(&[("b", "m", 9)]), &ask(&models), NOW, 1).expect("b")),
        ["m@b", "m@a"]
    );
    let alone =
        decide(&view_of(vec![suspect]), &Load::default(), &ask(&models), NOW, 1).expect("better than nobody");
    assert!(alone.ranked[0].why.to_string().starts_with("last resort: "));
}

#[test]
fn a_refusal_holds_every_machine_s_reason() {
    let (mut offline, mut draining) = (machine("a", &["m"]), machine("b", &["m"]));
    offline.liveness = Liveness::Offline;
    offline.last_heard = Moment(0);
    draining.draining = true;
    let (mut loading, mut failed, mut down) =
        (machine("c", &["m"]), machine("d", &["m"]), machine("e", &["m"]));
    loading.engines[0].replicas[0].state = ReplicaState::Loading;
    failed.engines[0].replicas[0].state = ReplicaState::Failed("bad magic".into());
    down.engines[0].state = EngineState::Down("connection refused".into());
    let mut unlinked = machine("g", &["m"]);
    unlinked.path = None;
    let view = view_of(vec![offline, draining, loading, failed, down, machine("f", &["x"]), unlinked]);
    let refusal = decide(&view, &Load::default(), &ask(&[model_id("m")]), NOW, 1).expect_err("nobody can");
    assert_eq!(
        reasons(&refusal.rejected),
        [
            "a: offline, last heard 10 s ago",
            "b: draining",
            "c/m: still loading",
            "d/m: could not be loaded: bad magic",
            "e/m: engine down: connection refused; its agent brings it back",
            "f: has none of the models",
            "g: no data link (still connecting, or nothing passes)",
        ]
    );
    assert!(refusal.loading);
    assert_eq!(refusal.retry_after_s(), 5);
}

#[test]
fn an_engine_that_its_agent_brings_back_is_worth_waiting_for() {
    let refusal = |supervised: bool| {
        let mut down = machine("e", &["m"]);
        down.engines[0].state = EngineState::Down("was killed by SIGKILL".into());
        down.engines[0].supervised = supervised;
        let models = [model_id("m")];
        decide(&view_of(vec![down]), &Load::default(), &ask(&models), NOW, 1).expect_err("nobody can")
    };
    let (its_own, a_stranger_s) = (refusal(true), refusal(false));
    assert_eq!((its_own.returning, its_own.retry_after_s()), (true, 5));
    assert_eq!((a_stranger_s.returning, a_stranger_s.retry_after_s()), (false, 10));
    let back = "e/m: engine down: was killed by SIGKILL; its agent brings it back";
    assert_eq!(reasons(&its_own.rejected), [back]);
    assert_eq!(reasons(&a_stranger_s.rejected), ["e/m: engine down: was killed by SIGKILL"]);
}

#[test]
fn what_a_model_cannot_do_and_a_small_context_are_reasons() {
    let (mut no_embed, small) = (machine("a", &["m"]), machine("b", &["m"]));
    no_embed.engines[0].replicas[0].abilities.embed = Some(false);
    let view = view_of(vec![no_embed, small]);
    let models = [model_id("m")];
    let request = Request { purpose: Purpose::Embed, least_context: 4096, ..ask(&models) };
    let refusal = decide(&view, &Load::default(), &request, NOW, 1).expect_err("nobody can");
    assert_eq!(
        reasons(&refusal.rejected),
        ["a/m: cannot make embeddings", "b/m: context too small: needs 4096, has 1024"]
    );
    assert!(!refusal.is_permanent());
    let only = view_of(vec![view.machines[0].clone(), machine("c", &["x"])]);
    assert!(decide(&only, &Load::default(), &request, NOW, 1).expect_err("nobody can").is_permanent());
}

#[test]
fn a_fallback_says_which_mode_it_came_from() {
    let view = view_of(vec![machine("a", &["other"])]);
    let (own, other) = (model_id("own"), model_id("other"));
    let (ask_mode, code) = (ModeName::new("ask").expect("valid"), ModeName::new("code").expect("valid"));
    let models = vec![(&own, Some(&ask_mode)), (&other, Some(&code))];
    let request = Request { mode: Some(&ask_mode), ..Request::new(models, Purpose::Chat) };
    let decision = decide(&view, &Load::default(), &request, NOW, 1).expect("the fallback can");
    assert_eq!(decision.ranked[0].why.to_string(), "fallback to mode code");
}

#[test]
fn an_engine_that_loads_by_itself_may_get_a_model_that_is_only_on_disk() {
    let mut ollama = machine("a", &["m"]);
    ollama.engines[0].kind = crate::machine::EngineKind::Ollama;
    ollama.engines[0].replicas[0].state = ReplicaState::Available;
    let view = view_of(vec![ollama, machine("b", &["m"])]);
    let decision = decide(&view, &load(&[("b", "m", 1)]), &ask(&[model_id("m")]), NOW, 1).expect("both can");
    assert_eq!(names(&decision), ["m@b", "m@a"]);
}

#[test]
fn equal_replicas_take_turns() {
    let view = view_of(vec![machine("a", &["m"]), machine("b", &["m"])]);
    let models = [model_id("m")];
    let firsts: std::collections::BTreeSet<String> = (0..32)
        .map(|dice| {
            names(&decide(&view, &Load::default(), &ask(&models), NOW, dice).expect("two can"))[0].clone()
        })
        .collect();
    assert_eq!(firsts.len(), 2);
}

proptest! {
    #[test]
    fn every_replica_is_either_ranked_or_rejected_and_only_feasible_ones_are_ranked(
        machines in proptest::collection::vec((0u8..3, any::<bool>(), 0u8..4, any::<bool>()), 0..8),
        dice in any::<u64>(),
    ) {
        let view = view_of(machines.iter().enumerate().map(|(at, (liveness, draining, state, has))| {
            let mut m = machine(&format!("m{at}"), if *has { &["m"] } else { &["x"] });
            m.liveness = [Liveness::Alive, Liveness::Suspect, Liveness::Offline][usize::from(*liveness)];
            m.draining = *draining;
            m.engines[0].replicas[0].state = match state {
                0 => ReplicaState::Available,
                1 => ReplicaState::Loading,
                2 => ReplicaState::Loaded,
                _ => ReplicaState::Failed("x".into()),
            };
            m
        }).collect());
        let models = [model_id("m")];
        let (ranked, rejected) = match decide(&view, &Load::default(), &ask(&models), NOW, dice) {
            Ok(decision) => (decision.ranked, decision.rejected),
            Err(refusal) => (vec![], refusal.rejected),
        };
        prop_assert_eq!(ranked.len() + rejected.len(), machines.len());
        for candidate in &ranked {
            let m = view.machine(&candidate.machine).expect("it is in the view");
            prop_assert!(m.liveness != Liveness::Offline && !m.draining);
            prop_assert_eq!(&m.engines[0].replicas[0].state, &ReplicaState::Loaded);
        }
    }
}

#[test]
fn a_quarantined_or_degraded_replica_gets_nothing_and_says_why() {
    use crate::machine::ReplicaHealth;
    let (mut gibberish, mut slow) = (machine("a", &["m"]), machine("b", &["m"]));
    gibberish.engines[0].replicas[0].health = ReplicaHealth::Quarantined("2 of 3 answers are empty".into());
    slow.engines[0].replicas[0].health = ReplicaHealth::Degraded("cpu_fallback: 3 of 40 tokens/s".into());
    let view = view_of(vec![gibberish, slow]);
    let refusal = decide(&view, &load(&[]), &ask(&[model_id("m")]), NOW, 1).expect_err("nobody may serve");
    let said =
        ["a/m: quarantined: 2 of 3 answers are empty", "b/m: degraded: cpu_fallback: 3 of 40 tokens/s"];
    assert_eq!(reasons(&refusal.rejected), said);
    assert!(!refusal.is_permanent(), "it may pass the next check");
}

pub(super) fn with_heat(name: &str, state: ThermalState) -> crate::fleet::MachineView {
    let mut machine = machine(name, &["m"]);
    let thermal = crate::machine::Thermal { state, why: "k10temp Tctl 97 of 100".into() };
    machine.vitals = Some(crate::machine::Vitals { thermal, ..crate::machine::Vitals::unknown("test") });
    machine
}

#[test]
fn a_hot_machine_takes_no_new_requests() {
    let view = view_of(vec![with_heat("a", ThermalState::Hot), with_heat("b", ThermalState::Ok)]);
    let decision = decide(&view, &load(&[("b", "m", 9)]), &ask(&[model_id("m")]), NOW, 1).expect("b can");
    assert_eq!(names(&decision), ["m@b"]);
    assert_eq!(reasons(&decision.rejected), ["a: too hot: k10temp Tctl 97 of 100"]);
}

#[test]
fn a_derated_machine_comes_after_a_busy_cool_one_and_has_one_slot() {
    let view = view_of(vec![with_heat("a", ThermalState::Derated), with_heat("b", ThermalState::Ok)]);
    let decision = decide(&view, &load(&[("b", "m", 9)]), &ask(&[model_id("m")]), NOW, 1).expect("both can");
    assert_eq!(names(&decision), ["m@b", "m@a"]);
    assert_eq!(decision.ranked[1].slots, Some(1));
    let alone = view_of(vec![with_heat("a", ThermalState::Derated)]);
    let decision = decide(&alone, &load(&[]), &ask(&[model_id("m")]), NOW, 1).expect("better than nobody");
    assert_eq!(
        decision.ranked[0].why.to_string(),
        "last resort: is near its thermal limit, throttled or on battery"
    );
}

#[test]
fn a_warm_machine_is_chosen_only_where_the_cool_one_would_be_a_third_slower() {
    let view = view_of(vec![with_heat("warm", ThermalState::Warm), with_heat("cool", ThermalState::Ok)]);
    let first = |counts: &[(&str, &str, u32)]| {
        let models = [model_id("m")];
        let decision = decide(&view, &load(counts), &ask(&models), NOW, 1).expect("two can serve");
        decision.ranked[0].machine.to_string()
    };
    assert_eq!(first(&[]), "cool", "whatever the dice say");
    assert_eq!(first(&[("cool", "m", 1)]), "warm");

    let timed = |heat, rate: f64| {
        let mut machine = with_heat(if heat == ThermalState::Ok { "cool" } else { "warm" }, heat);
        machine.history.insert(model_id("m"), history(speed(rate)));
        machine
    };
    for (rate, best) in [(125.0, "cool"), (140.0, "warm")] {
        let machines = vec![timed(ThermalState::Ok, 100.0), timed(ThermalState::Warm, rate)];
        let view = FleetView::new(machines, &hundred_tokens());
        let models = [model_id("m")];
        let decision = decide(&view, &Load::default(), &ask(&models), NOW, 1).expect("two can serve");
        assert_eq!(decision.ranked[0].machine.to_string(), best, "at {rate} tokens/s");
        let warm = decision.ranked.iter().find(|one| one.machine.as_str() == "warm").expect("it can serve");
        let sum: f64 = warm.terms.iter().map(|term| term.1).sum();
        assert!((sum - warm.predicted_s.expect("speeds are known")).abs() < 1e-9, "terms add up");
        assert!(warm.terms.iter().any(|term| term.0 == "heat"));
    }
}
