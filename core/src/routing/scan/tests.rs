//! Passing replicas over changes nothing: what is found is what a look at each of them finds.

use super::*;
use crate::fleet::Answers;
use crate::fleet::tests::{machine, machine_id, model_id, view_of};
use crate::routing::tests::{ask, history, hundred_tokens, speed, with_heat};
use crate::routing::{Block, Candidate};
use proptest::prelude::*;

const NOW: Moment = Moment(10_000_000);

/// Every replica looked at in full, in the order of the lists, and then sorted.
fn plain<'a>(scan: &Scan<'a>) -> (Vec<Scored<'a>>, usize, bool) {
    let (mut all, mut turned, mut any_free) = (Vec::new(), 0, false);
    for (preference, servings) in scan.models.iter().enumerate() {
        let Some(servings) = *servings else { continue };
        let preference = u16::try_from(preference).expect("few models");
        for both in servings.list.iter().zip(&servings.floors) {
            let Ok(doubt) = scan.admits(both.0) else {
                turned += 1;
                continue;
            };
            let believed = believed(&mut scan.held.as_slice(), both.0.cache());
            let one = scan.scored(servings, preference, both, scan.load.find(both.0.key), believed, doubt);
            // What is compared has fewer steps than what is told: they mean the same.
            if scan.by_seconds(servings)
                && let Some(told) = scan.cost(&one).map(|cost| cost.total())
            {
                assert!((one.cost - told).abs() <= 1e-9 * told, "{} for {told}", one.cost);
            }
            any_free |= both.0.told_slots.is_none_or(|slots| one.in_flight() < slots);
            all.push(one);
        }
    }
    all.sort_by(Scored::order);
    (all, turned, any_free)
}

fn assert_same(scan: &Scan<'_>) {
    let (all, turned, any_free) = plain(scan);
    let found = scan.run();
    let seen = |one: &Scored<'_>| (one.serving.key, one.group, one.cost.to_bits(), one.roll, one.believed);
    let listed: Vec<_> = found.best.into_ranked().iter().map(seen).collect();
    assert_eq!(listed, all.iter().take(LISTED).map(seen).collect::<Vec<_>>());
    assert_eq!((found.feasible, found.turned.len(), found.any_free), (all.len(), turned, any_free));
    let rivals = all.iter().filter(|one| one.model_group() == all[0].model_group());
    let meet = rivals.clone().filter(|one| !one.misses_target()).count();
    assert_eq!((found.rivals.of, found.rivals.meet), (rivals.count(), meet));
}

/// One machine: its speed (0 = unknown), its trouble, the requests it has, and whether it holds the prompt.
type Drawn = (u8, u8, u32, bool);

fn drawn_view(drawn: &[Drawn], all_measured: bool) -> FleetView {
    let machines = drawn.iter().enumerate().map(|(at, (rate, trouble, _, _))| {
        let mut one = machine(&format!("n{at:03}"), if at % 3 == 0 { &["m", "x"] } else { &["m"] });
        let rate = if all_measured { (*rate).max(1) } else { *rate };
        if rate > 0 {
            one.history.insert(model_id("m"), history(speed(100.0 * f64::from(rate))));
        }
        let replica = &mut one.engines[0].replicas[0];
        match trouble {
            0 => one.liveness = Liveness::Suspect,
            1 => one.draining = true,
            2 => replica.abilities.tools = Some(false),
            3 => replica.context = Some(64),
            4 => replica.slots = None,
            5 => replica.kv_used = Some(0.9),
            6 => replica.abilities.vision = Some(false),
            7 => replica.abilities.chat = Some(false),
            8 => replica.abilities.embed = Some(false),
            9 => one.rtt_s = Some(0.3),
            10 => one.vitals = with_heat("warm", ThermalState::Warm).vitals,
            11 => one.vitals = with_heat("derated", ThermalState::Derated).vitals,
            12 => one.vitals = with_heat("hot", ThermalState::Hot).vitals,
            _ => {}
        }
        one
    });
    let answers: Answers = hundred_tokens();
    FleetView::new(machines.collect(), &answers)
}

fn drawn_load(drawn: &[Drawn], chain: &[Block]) -> Load {
    let mut load = Load::default();
    for (at, (_, _, requests, holds)) in drawn.iter().enumerate() {
        let names = (machine_id(&format!("n{at:03}")), model_id("m"));
        let cache_tokens = std::num::NonZeroU32::new(2_048);
        let candidate = Candidate { prompt_tokens: 900, cache_tokens, ..Candidate::new(names.0, names.1) };
        for _ in 0..*requests {
            load.claim(&candidate, NOW);
        }
        if *holds {
            let mut stake = load.claim(&candidate, NOW);
            load.first_content(&mut stake, chain, None, NOW);
            load.release(&stake);
        }
    }
    load
}

proptest! {
    /// Equal speeds are frequent, so that dice decide; a list that is longer than the best has some passed over.
    #[test]
    fn what_is_passed_over_would_not_have_been_listed(
        drawn in proptest::collection::vec((0u8..4, 0u8..40, 0u32..4, proptest::bool::weighted(0.05)), 20..150),
        all_measured in any::<bool>(),
        is_idle in any::<bool>(),
        (tools, vision, embeds) in any::<(bool, bool, bool)>(),
        least_context in prop::sample::select(vec![0u32, 65, 1_024, 1_025]),
        target in proptest::option::weighted(0.2, 0.1f64..10.0),
        prompt_tokens in prop::sample::select(vec![0u64, 100, 1_000, 5_000_000_000]),
        dice in any::<u64>(),
    ) {
        let drawn: Vec<Drawn> =
            drawn.into_iter().map(|one| (one.0, one.1, if is_idle { 0 } else { one.2 }, one.3)).collect();
        let chain = [Block { hash: 7 << 32, tokens: 400 }, Block { hash: 8 << 32, tokens: 800 }];
        let (view, load) = (drawn_view(&drawn, all_measured), drawn_load(&drawn, &chain));
        let tried = [ReplicaKey::of(&machine_id("n001"), &model_id("m"))];
        for models in [vec![model_id("m")], vec![model_id("m"), model_id("x")], vec![model_id("x"), model_id("m")]] {
            for tried in [&[][..], &tried] {
                let request = Request {
                    purpose: if embeds { Purpose::Embed } else { Purpose::Chat },
                    prompt_tokens,
                    least_context,
                    prefix: &chain,
                    tried,
                    needs: Needs { tools, vision, ..Needs::default() },
                    slo: Slo { ttft_s: target, tpot_s: None },
                    ..ask(&models)
                };
                assert_same(&Scan::new(&view, &load, &request, NOW, dice));
            }
        }
    }
}

#[test]
fn replicas_that_cannot_be_among_the_best_are_passed_over() {
    let machines = (0..200).map(|at| {
        let mut one = machine(&format!("n{at:03}"), &["m"]);
        one.history.insert(model_id("m"), history(speed(if at < 40 { 100.0 } else { 10.0 })));
        one
    });
    let (view, load) = (view_of(machines.collect()), Load::default());
    let models = [model_id("m")];
    let request = ask(&models);
    let scan = Scan::new(&view, &load, &request, NOW, 1);
    let servings = view.servings(&models[0]).expect("all have it");
    let slow: Vec<Floor> = servings.floors.iter().filter(|floor| floor.base > 0.05).copied().collect();
    assert_eq!(slow.len(), 160);
    let mut bar = scan.bar(servings, 0).expect("the list is long, and compared by seconds");
    assert_eq!(scan.passed_over(&slow, &mut bar, &mut load.walk(), &scan.run()), 160);
    assert_same(&scan);
}

#[test]
fn a_floor_is_small_for_ten_thousand_are_read() {
    assert!(size_of::<Floor>() <= 48, "{}", size_of::<Floor>());
}
