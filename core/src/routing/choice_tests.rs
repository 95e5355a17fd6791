//! What moves a choice: caches, sessions, targets, dice, needs and policies.

use super::tests::{ask, history, hundred_tokens, load, names, reasons, speed};
use super::*;
use crate::fleet::MachineView;
use crate::fleet::tests::{machine, machine_id, model_id, view_of};
use proptest::prelude::*;

const NOW: Moment = Moment(10_000_000);

/// Two machines of these speeds, each with two slots and room for 2,048 tokens in its cache.
fn two(a: f64, b: f64) -> FleetView {
    let timed = |name: &str, rate: f64| {
        let mut machine = machine(name, &["m"]);
        machine.history.insert(model_id("m"), history(speed(rate)));
        machine
    };
    FleetView::new(vec![timed("a", a), timed("b", b)], &hundred_tokens())
}

fn chain(blocks: u32) -> Vec<Block> {
    (1..=blocks).map(|at| Block { hash: u64::from(at) << 32 | 7, tokens: at * 500 }).collect()
}

/// One request that has been answered by `machine`.
fn answered(
    load: &mut Load,
    view: &FleetView,
    machine: &str,
    chain: &[Block],
    session: Option<u64>,
) -> Stake {
    let models = [model_id("m")];
    let request = Request { prompt_tokens: 1_000, prefix: chain, ..ask(&models) };
    let decision = decide(view, load, &request, NOW, 1).expect("both can serve");
    let candidate = decision.ranked.iter().find(|one| one.machine == machine_id(machine)).expect("it can");
    let mut stake = load.claim(candidate, NOW);
    load.first_content(&mut stake, chain, session, NOW);
    load.release(&stake);
    stake
}

#[test]
fn a_cached_prompt_outweighs_a_somewhat_faster_machine() {
    let (view, chain, models) = (two(100.0, 80.0), chain(2), [model_id("m")]);
    let request = Request { prompt_tokens: 1_000, prefix: &chain, ..ask(&models) };
    let mut load = Load::default();
    assert_eq!(names(&decide(&view, &load, &request, NOW, 1).expect("both can")), ["m@a", "m@b"]);
    answered(&mut load, &view, "b", &chain, None);
    let decision = decide(&view, &load, &request, NOW, 1).expect("both can");
    assert_eq!(names(&decision), ["m@b", "m@a"]);
    assert_eq!((decision.ranked[0].cached_tokens, decision.ranked[1].cached_tokens), (1_000, 0));
}

#[test]
fn a_prompt_counts_as_cached_only_from_its_first_content_on() {
    let (view, chain, models) = (two(100.0, 100.0), chain(2), [model_id("m")]);
    let request = Request { prompt_tokens: 1_000, prefix: &chain, ..ask(&models) };
    let mut load = Load::default();
    let decision = decide(&view, &load, &request, NOW, 1).expect("both can");
    let stake = load.claim(&decision.ranked[0], NOW);
    let cached =
        |load: &Load| decide(&view, load, &request, NOW, 1).expect("both can").ranked[0].cached_tokens;
    assert_eq!(cached(&load), 0);
    load.release(&stake);
    assert_eq!(cached(&load), 0, "it failed before any content");
}

#[test]
fn an_engine_that_does_not_find_what_was_believed_is_trusted_less() {
    let (view, chain, models) = (two(100.0, 100.0), chain(2), [model_id("m")]);
    let request = Request { prompt_tokens: 1_000, prefix: &chain, ..ask(&models) };
    let mut load = Load::default();
    answered(&mut load, &view, "a", &chain, None);
    for _ in 0..20 {
        let stake = answered(&mut load, &view, "a", &chain, None);
        load.engine_cached(&stake, 0, 900);
    }
    let cached = |load: &Load| {
        let decision = decide(&view, load, &request, NOW, 1).expect("both can");
        decision.ranked.iter().map(|one| one.cached_tokens).max()
    };
    assert!(cached(&load) < Some(5), "{:?}", cached(&load));
    for _ in 0..20 {
        let stake = answered(&mut load, &view, "a", &chain, None);
        load.engine_cached(&stake, 900, 900);
    }
    assert!(cached(&load) > Some(990), "{:?}", cached(&load));
}

#[test]
fn what_was_written_over_is_not_believed_and_costs_whoever_writes_more() {
    let (view, models) = (two(100.0, 100.0), [model_id("m")]);
    let mut load = Load::default();
    let old = chain(2);
    answered(&mut load, &view, "a", &old, None);
    for other in 1..=3_u64 {
        let others: Vec<Block> = old.iter().map(|b| Block { hash: b.hash ^ other << 40, ..*b }).collect();
        answered(&mut load, &view, "a", &others, None);
    }
    let request = Request { prompt_tokens: 1_000, prefix: &old, ..ask(&models) };
    let decision = decide(&view, &load, &request, NOW, 1).expect("both can");
    assert_eq!(names(&decision), ["m@b", "m@a"], "a's cache of 2,048 tokens is full of others'");
    assert_eq!(decision.ranked[1].cached_tokens, 0);
    assert!(
        decision.ranked[1].terms.iter().any(|term| term.0 == "eviction"),
        "{:?}",
        decision.ranked[1].terms
    );
}

#[test]
fn a_model_that_was_loaded_anew_has_an_empty_cache() {
    let (chain, models) = (chain(2), [model_id("m")]);
    let mut load = Load::default();
    let mut machines = two(100.0, 100.0).machines;
    answered(&mut load, &view_of(machines.clone()), "a", &chain, None);
    for machine in &mut machines {
        machine.history.get_mut(&model_id("m")).expect("known").load = 9;
    }
    let request = Request { prompt_tokens: 1_000, prefix: &chain, ..ask(&models) };
    let decision = decide(&view_of(machines), &load, &request, NOW, 1).expect("both can");
    assert!(decision.ranked.iter().all(|one| one.cached_tokens == 0));
}

#[test]
fn prompts_that_wait_to_be_read_send_a_burst_to_both_machines() {
    let (view, models) = (two(100.0, 90.0), [model_id("m")]);
    let request = Request { prompt_tokens: 4_000, ..ask(&models) };
    let mut load = Load::default();
    let mut went = std::collections::BTreeMap::new();
    for dice in 0..10 {
        // The same snapshot for all of them: no heartbeat has come meanwhile.
        let decision = decide(&view, &load, &request, NOW, dice).expect("both can");
        load.claim(&decision.ranked[0], NOW);
        *went.entry(decision.ranked[0].machine.to_string()).or_insert(0) += 1;
    }
    assert!(went["a"] >= 4 && went["b"] >= 4, "{went:?}");
    assert_eq!(load.total(), 10);
}

#[test]
fn a_session_stays_until_another_machine_is_clearly_better() {
    let models = [model_id("m")];
    for (rate, goes_to, why) in
        [(95.0, "b", "where the session was answered last, of 2"), (50.0, "a", "least predicted time")]
    {
        let view = two(100.0, rate);
        let mut load = Load::default();
        answered(&mut load, &view, "b", &[], Some(7));
        let request = Request { session: Some(7), ..ask(&models) };
        let decision = decide(&view, &load, &request, NOW, 1).expect("both can");
        assert_eq!(decision.ranked[0].machine, machine_id(goes_to), "b has {rate} tokens/s");
        assert!(decision.ranked[0].why.to_string().starts_with(why), "{}", decision.ranked[0].why);
        assert_eq!(decision.ranked.len(), 2);
        let other = Request { session: Some(8), ..request };
        assert_eq!(names(&decide(&view, &load, &other, NOW, 1).expect("both can"))[0], "m@a");
    }
}

#[test]
fn only_machines_that_meet_the_target_are_asked_as_long_as_there_is_one() {
    let models = [model_id("m")];
    let view = two(100.0, 20.0);
    // The fast one is busy: an idle slow one would be asked first …
    let load = load(&[("a", "m", 12)]);
    let plain = Request { ..ask(&models) };
    assert_eq!(names(&decide(&view, &load, &plain, NOW, 1).expect("both can"))[0], "m@b");
    // … but writes a token in 50 ms.
    let slo = Slo { tpot_s: Some(0.03), ttft_s: None };
    let decision = decide(&view, &load, &Request { slo, ..ask(&models) }, NOW, 1).expect("both can");
    assert_eq!(names(&decision), ["m@a", "m@b"]);
    assert_eq!(decision.ranked[0].why.to_string(), "meets the target, as do 1 of 2");
    assert_eq!(decision.ranked[1].why.to_string(), "behind: misses the target");
    let impossible = Slo { tpot_s: Some(0.001), ttft_s: Some(0.001) };
    let decision =
        decide(&view, &load, &Request { slo: impossible, ..ask(&models) }, NOW, 1).expect("both can");
    assert_eq!(names(&decision)[0], "m@b", "nobody meets it, so it changes nothing");
}

#[test]
fn one_request_in_a_hundred_goes_to_a_machine_that_was_not_measured_for_a_while() {
    let models = [model_id("m")];
    let view = two(100.0, 50.0);
    let explored = (0..10_000)
        .map(|dice| decide(&view, &Load::default(), &ask(&models), NOW, dice).expect("both can"))
        .filter(|decision| decision.ranked[0].why == Why::Explored)
        .inspect(|decision| assert_eq!(names(decision), ["m@b", "m@a"]))
        .count();
    assert!((60..150).contains(&explored), "{explored}");
}

#[test]
fn while_a_speed_is_unknown_uncached_tokens_times_requests_decide() {
    let (chain, models) = (chain(2), [model_id("m")]);
    let view = view_of(vec![machine("a", &["m"]), machine("b", &["m"])]);
    let mut load = load(&[("b", "m", 1)]);
    answered(&mut load, &view, "b", &chain, None);
    let request = Request { prompt_tokens: 1_100, prefix: &chain, ..ask(&models) };
    let decision = decide(&view, &load, &request, NOW, 1).expect("both can");
    assert_eq!(names(&decision), ["m@b", "m@a"]);
    let said = "least uncached tokens for its load, 100 with 1 in flight, of 2";
    assert_eq!(decision.ranked[0].why.to_string(), said);
}

#[test]
fn a_machine_of_unknown_speed_gets_one_request_until_its_first_answer() {
    let models = [model_id("m")];
    let mut known = machine("a", &["m"]);
    known.history.insert(model_id("m"), history(speed(100.0)));
    let view = view_of(vec![known, machine("b", &["m"])]);
    let first =
        |load: &Load| names(&decide(&view, load, &ask(&models), NOW, 1).expect("both can"))[0].clone();
    assert_eq!(first(&load(&[("a", "m", 1)])), "m@b");
    assert_eq!(first(&load(&[("a", "m", 9), ("b", "m", 1)])), "m@a");
}

fn with_abilities(name: &str, able: crate::machine::Abilities) -> MachineView {
    let mut machine = machine(name, &["m"]);
    machine.engines[0].replicas[0].abilities = able;
    machine
}

#[test]
fn a_request_goes_to_a_model_that_can_do_what_it_needs() {
    use crate::machine::{Abilities, EngineKind};
    let models = [model_id("m")];
    let blind =
        Abilities { vision: Some(false), fim: Some(false), tools: Some(false), ..Abilities::default() };
    let mut ollama = with_abilities("a", blind);
    ollama.engines[0].kind = EngineKind::Ollama;
    let view = view_of(vec![ollama, with_abilities("b", blind), machine("c", &["m"])]);
    for (needs, said) in [
        (
            Needs { vision: true, ..Needs::default() },
            vec!["a/m: cannot read images", "b/m: cannot read images"],
        ),
        (
            Needs { fim: true, ..Needs::default() },
            vec!["a/m: cannot fill in the middle", "b/m: cannot fill in the middle"],
        ),
        // llama.cpp makes tool calls out of any model's words: asked when nobody else can.
        (Needs { tools: true, ..Needs::default() }, vec!["a/m: cannot call tools"]),
    ] {
        let decision =
            decide(&view, &Load::default(), &Request { needs, ..ask(&models) }, NOW, 1).expect("c can");
        assert_eq!(decision.ranked[0].machine, machine_id("c"));
        assert_eq!(reasons(&decision.rejected), said);
    }
}

#[test]
fn what_was_tried_gets_a_request_no_second_time() {
    let (view, models) = (view_of(vec![machine("a", &["m"]), machine("b", &["m"])]), [model_id("m")]);
    let keys = ["a", "b"].map(|name| ReplicaKey::of(&machine_id(name), &model_id("m")));
    let decided = |tried| decide(&view, &Load::default(), &Request { tried, ..ask(&models) }, NOW, 1);
    let decision = decided(&keys[..1]).expect("b is left");
    assert_eq!((decision.ranked.len(), &decision.ranked[0].machine), (1, &machine_id("b")));
    assert_eq!(reasons(&decision.rejected), ["a/m: was tried for this request already"]);
    let refusal = decided(&keys).expect_err("nobody is left");
    assert!(!refusal.is_permanent() && refusal.rejected.len() == 2);
}

#[test]
fn full_slots_are_told_so_that_a_request_can_wait() {
    let (view, models) = (view_of(vec![machine("a", &["m"]), machine("b", &["m"])]), [model_id("m")]);
    let any_free = |counts: &[(&str, &str, u32)]| {
        let decision = decide(&view, &load(counts), &ask(&models), NOW, 1).expect("both can");
        (decision.any_free, decision.feasible)
    };
    assert_eq!(any_free(&[("a", "m", 2), ("b", "m", 1)]), (true, 2));
    assert_eq!(any_free(&[("a", "m", 2), ("b", "m", 2)]), (false, 2));
}

#[test]
fn of_a_large_mesh_the_best_are_listed() {
    let machines: Vec<MachineView> = (0..200).map(|at| machine(&format!("n{at:03}"), &["m"])).collect();
    let models = [model_id("m")];
    let counts = load(&[("n000", "m", 1), ("n001", "m", 1)]);
    let decision = decide(&view_of(machines), &counts, &ask(&models), NOW, 1).expect("all can");
    assert_eq!((decision.ranked.len(), decision.feasible), (LISTED, 200));
    assert!(decision.ranked.iter().all(|one| one.in_flight == 0));
}

#[test]
fn the_baselines_choose_as_their_names_say() {
    let (view, models, chain) = (two(100.0, 10.0), [model_id("m")], chain(2));
    let mut counts = load(&[("a", "m", 1)]);
    answered(&mut counts, &view, "a", &chain, None);
    let firsts = |policy: Policy, load: &Load| -> std::collections::BTreeSet<String> {
        let session = Some(3);
        let request = Request { policy, prompt_tokens: 1_000, prefix: &chain, session, ..ask(&models) };
        (0..64)
            .map(|dice| names(&decide(&view, load, &request, NOW, dice).expect("both can"))[0].clone())
            .collect()
    };
    assert_eq!(firsts(Policy::Random, &counts).len(), 2);
    assert_eq!(firsts(Policy::LeastOutstanding, &counts), ["m@b".to_owned()].into());
    assert_eq!(firsts(Policy::PowerOfTwo, &counts).len(), 2, "two draws may hit the same one");
    assert_eq!(firsts(Policy::SessionSticky, &counts).len(), 1);
    assert_eq!(firsts(Policy::CacheAware, &counts), ["m@a".to_owned()].into());
    assert_eq!(firsts(Policy::Lmetric, &counts), ["m@a".to_owned()].into());
    assert_eq!(firsts(Policy::Dynamo, &counts), ["m@a".to_owned()].into());
    let before = firsts(Policy::RoundRobin, &counts);
    answered(&mut counts, &view, "a", &[], None);
    let after = firsts(Policy::RoundRobin, &counts);
    assert!(before.len() == 1 && after.len() == 1 && before != after, "{before:?} {after:?}");
    for policy in Policy::ALL {
        assert_eq!(Policy::from_word(policy.word()), Some(policy));
    }
}

proptest! {
    /// Whatever the machines do, terms add up, ranks are in order of cost, and the counts return to nothing.
    #[test]
    fn costs_are_finite_and_add_up(
        rates in proptest::collection::vec((0.1f64..1e5, 0u32..8), 1..8),
        prompt in 0u64..200_000,
        dice in any::<u64>(),
    ) {
        let machines = rates.iter().enumerate().map(|(at, (rate, _))| {
            let mut machine = machine(&format!("n{at}"), &["m"]);
            machine.history.insert(model_id("m"), history(speed(*rate)));
            machine
        });
        let (view, models) = (view_of(machines.collect()), [model_id("m")]);
        let mut load = Load::default();
        let mut stakes = Vec::new();
        for (at, (_, requests)) in rates.iter().enumerate() {
            let candidate =
                Candidate { prompt_tokens: prompt, ..Candidate::new(machine_id(&format!("n{at}")), model_id("m")) };
            stakes.extend((0..*requests).map(|_| load.claim(&candidate, NOW)));
        }
        let request = Request { prompt_tokens: prompt, ..ask(&models) };
        let decision = decide(&view, &load, &request, NOW, dice).expect("all can serve");
        for candidate in &decision.ranked {
            let total = candidate.predicted_s.expect("speeds are known");
            let counted = load.in_flight(candidate.key);
            prop_assert_eq!(candidate.in_flight, counted);
            let sum: f64 = candidate.terms.iter().map(|term| term.1).sum();
            prop_assert!(total.is_finite() && total > 0.0);
            prop_assert!((sum / total - 1.0).abs() < 1e-9);
        }
        let explored = decision.ranked[0].why == Why::Explored;
        let costs: Vec<f64> = decision.ranked.iter().skip(usize::from(explored)).filter(|one| {
            // A prompt that looks too long for its slot is a doubt, and all have the same slots.
            one.predicted_s.is_some()
        }).filter_map(|one| one.predicted_s).collect();
        // Ranked by the short formula, shown by the long one: equal but for rounding.
        prop_assert!(costs.windows(2).all(|pair| pair[0] <= pair[1] * (1.0 + 1e-9)), "{costs:?}");
        for stake in &stakes {
            load.release(stake);
        }
        prop_assert_eq!(load.total(), 0);
    }
}
