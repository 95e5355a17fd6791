//! Rules and judgement: when a climb ends, what is avoided, which model a mode gets, what the machine lacks.

use crate::built::{
    answered, cell, gib, goal, measured, missing_vram, mode, model, record, run, rung, sample,
};
use mesh_core::fit::Offload;
use mesh_core::ladder::{
    Analysis, Candidate, Cause, Evaluation, Mark, Next, Outcome, Record, Rung, StopRule, analyse, next,
};
use mesh_core::machine::{GpuVendor, ThermalState};
use mesh_core::profile::GpuFacts;
use mesh_core::trial::{Run, Sample, Subject};
use mesh_core::units::{Bytes, Celsius};

fn candidate() -> Candidate {
    Candidate {
        model: model("next:70b"),
        size: Some(Bytes(40_000_000_000)),
        parameters: Some(70_000_000_000),
        active_parameters: None,
        shortage: None,
        now: Sample::default(),
    }
}

#[track_caller]
fn stops(record: &Record, candidate: &Candidate, rule: StopRule, why: &str) {
    let Next::Stop(stopped) = next(record, candidate) else { panic!("it goes on: {why}") };
    assert_eq!((stopped.rule, stopped.why.as_str()), (rule, why));
}

#[test]
fn a_climb_goes_on_while_nothing_speaks_against_it() {
    assert_eq!(next(&record(vec![]), &candidate()), Next::Go);
    assert_eq!(next(&record(vec![measured("a", 4.0, 30.0)]), &candidate()), Next::Go);
    let mut slow = record(vec![measured("a", 4.0, 30.0)]);
    slow.modes = vec![goal("code", 60.0), goal("architect", 20.0)];
    assert_eq!(next(&slow, &candidate()), Next::Go, "one mode can use it");
    slow.rungs[0].cells.clear();
    slow.modes = vec![goal("code", 60.0)];
    assert_eq!(next(&slow, &candidate()), Next::Go, "what was not measured is not slow");
}

#[test]
fn each_rule_ends_a_climb_with_its_figures() {
    let climbed = || record(vec![measured("a", 4.0, 30.0)]);
    let none = Candidate { shortage: Some(Default::default()), ..candidate() };
    assert_eq!(next(&climbed(), &none), Next::Go);
    let tight = Candidate { shortage: missing_vram(9), ..candidate() };
    let why = "next:70b has no room: 9 GiB of graphics memory missing";
    stops(&climbed(), &tight, StopRule::DoesNotFit, why);

    let mut slow = climbed();
    slow.modes = vec![goal("code", 60.0), goal("ask", 31.0)];
    let why = "a is slower than every mode asks for (code: 30.0 tok/s of 60.0 wanted, ask: 30.0 tok/s of 31.0 wanted)";
    stops(&slow, &candidate(), StopRule::Slow, why);
    // 40 GB with 1 of 70 B parameters active is less to read than 4 GB.
    let sparse = Candidate { active_parameters: Some(1_000_000_000), ..candidate() };
    assert_eq!(next(&slow, &sparse), Next::Go);

    let mut failed = climbed();
    failed.rungs[0].outcome = Outcome::Failed("the engine broke".into());
    stops(&failed, &candidate(), StopRule::Failed, "a failed: the engine broke");
    failed.rungs.push(Rung { outcome: Outcome::Skipped("no room".into()), ..rung("b", 9.0) });
    stops(&failed, &candidate(), StopRule::Failed, "a failed: the engine broke");

    let warm = Candidate { now: sample(0.0, 65.0, false), ..candidate() };
    let why = "the machine is at 65 °C when idle, below 65 °C is wanted";
    stops(&climbed(), &warm, StopRule::Hot, why);
    let derated = Sample { thermal: ThermalState::Derated, ..Sample::default() };
    let derated = Candidate { now: derated, ..candidate() };
    stops(&climbed(), &derated, StopRule::Hot, "the machine is derated: it takes no new model now");

    let mut heated = climbed();
    heated.rungs[0].cells[0].samples = [80.0, 90.0, 91.0].map(|degrees| sample(1.0, degrees, false)).into();
    stops(&heated, &candidate(), StopRule::Hot, "a kept the machine at 90.0 °C, below 85 °C is wanted");
    heated.settings.sustained_below = Some(Celsius(90.5));
    assert_eq!(next(&heated, &candidate()), Next::Go);
    heated.rungs[0].cells[0].samples[1].thermal = ThermalState::Hot;
    stops(&heated, &candidate(), StopRule::Hot, "a made the machine hot (1 of 3 looks)");
}

#[test]
fn a_reason_has_all_that_speaks_against_it() {
    let mut bad = record(vec![measured("a", 4.0, 30.0)]);
    bad.rungs[0].answers = vec![answered("", 1.0)];
    let tight = Candidate { shortage: missing_vram(9), ..candidate() };
    let why = "0 of 1 answers of a were good, 80 % are wanted; next:70b has no room: 9 GiB of graphics memory missing";
    stops(&bad, &tight, StopRule::Success, why);
}

fn reasons(analysis: &Analysis) -> Vec<(String, Vec<String>)> {
    analysis.avoid.iter().map(|one| (one.model.to_string(), one.reasons.clone())).collect()
}

#[test]
fn models_are_avoided_for_what_they_showed() {
    let mut wild = measured("wild", 4.0, 30.0);
    wild.cells[0].runs = [10.0, 30.0, 50.0].map(|rate| run(0, rate)).into();
    let mut tired = measured("tired", 4.0, 30.0);
    let runs = [(1.0, 40.0), (99.0, 20.0)].map(|(at_s, rate)| Run { at_s, ..run(0, rate) });
    let mut soak = cell(1, runs.into());
    soak.work.soak_s = Some(100);
    tired.cells.push(soak);
    let broken = Rung { outcome: Outcome::Failed("it crashed".into()), ..rung("broken", 5.0) };
    let skipped = Rung { outcome: Outcome::Skipped("no room".into()), ..rung("skipped", 6.0) };
    let mut held = measured("held", 4.0, 30.0);
    held.cells[0].marks = vec![Mark::Throttled];
    held.cells[0].samples = vec![sample(0.0, 90.0, true), sample(1.0, 90.0, true), sample(2.0, 90.0, false)];
    let mut cool = measured("cool", 4.0, 30.0);
    cool.cells[0].samples = vec![sample(900.0, 60.0, false)];
    let found = analyse(&record(vec![wild.clone(), tired, broken, skipped, held.clone(), cool]));
    let expected = [
        ("wild", "unstable: 30.0 ± 20.0 tok/s over 3 runs (67 %, 25 % at most)"),
        ("tired", "40.0 → 20.0 tok/s in a soak of 100 s (50 %, 80 % wanted)"),
        ("broken", "it could not be measured: it crashed"),
        ("held", "slowed down for 67 % of 100 s, and no undisturbed run exists"),
    ];
    let expected = expected.map(|(name, why)| (name.to_owned(), vec![why.to_owned()]));
    assert_eq!(reasons(&found), expected);
    let remark = |found: &Analysis, name: &str| {
        let at = found.rungs.iter().position(|rung| rung.model.as_str() == name).expect("a rung");
        found.remarks[at].clone()
    };
    // Beside others nobody knows how fast it is: neither unstable nor too slow, but to be measured again.
    let mut crowded = wild;
    crowded.cells[0].marks = vec![Mark::Busy];
    let mut slow = record(vec![crowded]);
    slow.modes.clear();
    let busy = analyse(&slow);
    assert_eq!(reasons(&busy), []);
    assert_eq!(
        remark(&busy, "wild"),
        "measure again: other programs used the processors during all of its requests"
    );
    assert!(reasons(&analyse(&record(vec![held]))).is_empty(), "where all are held down none is to blame");
}

#[test]
fn a_rung_that_broke_off_is_no_step_and_no_choice() {
    let broke = Rung { outcome: Outcome::Failed("it crashed".into()), ..measured("broke", 6.0, 90.0) };
    let mut climbed = record(vec![measured("a", 4.0, 30.0), broke, measured("b", 8.0, 15.0)]);
    climbed.modes = vec![goal("ask", 5.0)];
    let found = analyse(&climbed);
    let steps: Vec<(String, String)> =
        found.steps.iter().map(|step| (step.from.to_string(), step.to.to_string())).collect();
    assert_eq!(steps, [("a".to_owned(), "b".to_owned())]);
    assert_eq!(found.modes[0].models, [model("b"), model("a")]);
    assert_eq!(found.remarks[1], "failed: it crashed");
    assert_eq!(
        found.rungs[1].decode.map(|decode| decode.median.round()),
        Some(90.0),
        "its figures are shown"
    );
}

#[test]
fn evaluated_quality_comes_before_size_where_all_have_the_same() {
    let of = |passed| vec![Evaluation { suite: "mmlu".into(), mode: None, passed, tried: 100 }];
    let small = Rung { evaluations: of(70), ..measured("small", 4.0, 60.0) };
    let large = Rung { evaluations: of(60), ..measured("large", 8.0, 30.0) };
    let mut climbed = record(vec![small, large]);
    climbed.modes = vec![goal("ask", 20.0)];
    let choice = |record: &Record| analyse(record).modes[0].clone();
    let first = choice(&climbed);
    assert_eq!(first.models, [model("small"), model("large")]);
    assert!(first.why.starts_with("best evaluated of 2 (mmlu 70 % of 100 (60–78 %))"), "{}", first.why);
    // For this mode another examination counts more, if both have it.
    let own = |passed: u32| Evaluation {
        suite: "chat".into(),
        mode: Some(mode("ask")),
        passed: passed * 10,
        tried: 100,
    };
    let of_all = |passed| Evaluation { mode: None, ..own(passed) };
    climbed.rungs[0].evaluations = vec![of_all(2), own(9)];
    climbed.rungs[1].evaluations = vec![of_all(9), own(2)];
    assert_eq!(choice(&climbed).models, [model("small"), model("large")]);
    // Few items tell nothing of which model is better.
    climbed.rungs.iter_mut().flat_map(|rung| &mut rung.evaluations).for_each(|one| {
        (one.passed, one.tried) = (one.passed / 10, one.tried / 10);
    });
    assert_eq!(choice(&climbed).models, [model("large"), model("small")]);
    climbed.rungs[0].evaluations.clear();
    let by_size = choice(&climbed);
    assert_eq!(by_size.models, [model("large"), model("small")]);
    assert!(by_size.why.starts_with("the largest of 2 that meets"), "{}", by_size.why);
}

fn best_for_ask(small: Evaluation, large: Evaluation) -> (String, String) {
    let small = Rung { evaluations: vec![small], ..measured("small", 4.0, 60.0) };
    let large = Rung { evaluations: vec![large], ..measured("large", 8.0, 30.0) };
    // The smaller one later: its place must not decide.
    let mut climbed = record(vec![large, small]);
    climbed.modes = vec![goal("ask", 20.0)];
    let choice = analyse(&climbed).modes[0].clone();
    (choice.models[0].to_string(), choice.why)
}

#[test]
fn different_evaluations_are_not_compared() {
    let of = |suite: &str, passed| Evaluation { suite: suite.into(), mode: None, passed, tried: 100 };
    let (first, why) = best_for_ask(of("easy", 95), of("hard", 40));
    assert_eq!(first, "large");
    assert!(why.starts_with("the largest of 2"), "{why}");
}

#[test]
fn of_two_that_are_as_good_the_larger_one_leads() {
    let of = |passed| Evaluation { suite: "mmlu".into(), mode: None, passed, tried: 100 };
    let (first, why) = best_for_ask(of(60), of(60));
    assert_eq!(first, "large");
    assert!(why.starts_with("best evaluated of 2 (mmlu 60 %"), "{why}");
}

#[test]
fn a_mode_asks_for_headroom_times_and_context() {
    let mut climbed = record(vec![measured("a", 4.0, 30.0)]);
    let why = |record: &Record| analyse(record).modes[0].why.clone();
    climbed.modes = vec![goal("code", 28.0)];
    assert_eq!(why(&climbed), "none meets its targets with 10 % to spare (a: 30.0 tok/s of 30.8 wanted)");
    climbed.modes[0] = goal("code", 27.0);
    assert!(why(&climbed).starts_with("the only one that meets its targets"), "{}", why(&climbed));
    climbed.modes[0].target.ttft_s = Some(0.55);
    assert!(why(&climbed).ends_with("(a: TTFT 0.50 s of 0.50 s wanted)"), "{}", why(&climbed));
    climbed.modes[0].target.ttft_s = Some(0.56);
    assert!(why(&climbed).ends_with("30.0 tok/s (≥ 27.0), TTFT p50/p95 0.50/0.50 s (≤ 0.56)"));
    climbed.rungs[0].cells[0].runs[4].ttft_s = Some(0.57);
    assert!(
        why(&climbed).ends_with("(a: TTFT 0.57 s of 0.56 s wanted)"),
        "the p95 counts: {}",
        why(&climbed)
    );
    climbed.modes[0] = goal("code", 10.0);
    climbed.modes[0].answer_s = Some(1.1);
    assert!(why(&climbed).ends_with("(a: answers in 1.00 s of 0.99 s wanted)"), "{}", why(&climbed));
    climbed.modes[0].answer_s = None;
    climbed.modes[0].context = Some(32_768);
    climbed.rungs[0].subject = Some(Subject { context: Some(8192), ..Subject::default() });
    assert!(why(&climbed).ends_with("(a: context 8192 of 32768 wanted)"), "{}", why(&climbed));
}

#[test]
fn a_step_says_where_the_model_lies_and_how_sparse_it_is() {
    let on = |offload| Some(Subject { offload: Some(offload), ..Subject::default() });
    let small = measured("small", 4.0, 50.0);
    let sparse = Rung {
        parameters: Some(30_000_000_000),
        active_parameters: Some(3_000_000_000),
        ..measured("sparse", 20.0, 90.0)
    };
    let spilled = Rung { subject: on(Offload::Layers(20)), ..measured("spilled", 21.0, 2.0) };
    let steps = analyse(&record(vec![small.clone(), sparse, spilled])).steps;
    assert_eq!(
        steps[0].why,
        "50.0 → 90.0 tok/s (+80 %), its size explains that: rate × bytes goes 200 → 180 GB/s \
         (sparse: 3.0 of 30.0 B parameters for each token)"
    );
    assert!(
        steps[1].why.ends_with("; only 20 layers are on the device, the rest is in RAM"),
        "{}",
        steps[1].why
    );
    let whole = Rung { subject: on(Offload::Full), ..measured("whole", 21.0, 2.0) };
    let steps = analyse(&record(vec![small.clone(), whole])).steps;
    assert!(
        steps[0].why.ends_with("all of it is on the device, so it is no spill into RAM"),
        "{}",
        steps[0].why
    );
    let unknown = Rung { size: None, ..measured("unknown", 1.0, 2.0) };
    let steps = analyse(&record(vec![small, unknown])).steps;
    assert_eq!(steps[0].cause, Cause::Unknown);
}

/// A rung with a run at each of these rates.
fn around(name: &str, gigabytes: f64, rates: &[f64]) -> Rung {
    let runs = (0..).zip(rates.iter().copied()).map(|(at, rate)| run(at, rate)).collect();
    Rung { cells: vec![cell(1, runs)], ..measured(name, gigabytes, 1.0) }
}

#[test]
fn a_difference_that_chance_explains_is_noise_whatever_the_sizes() {
    let small = around("small", 4.0, &[48.0, 50.0, 50.0, 50.0, 52.0]);
    let twin = around("twin", 4.1, &[49.0, 51.0, 51.0, 51.0, 53.0]);
    let twice = around("twice", 8.0, &[48.0, 50.0, 50.0, 50.0, 52.0]);
    let steps = analyse(&record(vec![small, twin, twice])).steps;
    assert_eq!((steps[0].cause, steps[1].cause), (Cause::Noise, Cause::Noise));
    // 1.96 · 1.2533 · √(2/5 + 2/5), with a variance of 2.
    let said = "50.0 → 51.0 tok/s (+2 %), no more than the ± 2.20 tok/s (95 %) of two such medians: noise";
    assert_eq!(steps[0].why, said);
}

#[test]
fn more_runs_make_a_real_step_visible_and_one_run_says_nothing_of_chance() {
    let cause = |of: fn(f64) -> Vec<f64>| {
        let rungs = vec![around("small", 4.0, &of(50.0)), around("larger", 4.1, &of(49.0))];
        analyse(&record(rungs)).steps[0].cause
    };
    let five = |middle: f64| [-2.0, 0.0, 0.0, 0.0, 2.0].map(|more| middle + more).to_vec();
    let hundred = |middle: f64| [-2.0, 0.0, 0.0, 0.0, 2.0].map(|more| middle + more).repeat(20);
    assert_eq!((cause(five), cause(hundred)), (Cause::Noise, Cause::SameSize));
    assert_eq!(cause(|middle| vec![middle]), Cause::SameSize);
}

#[test]
fn of_two_models_of_one_size_their_size_explains_nothing() {
    let steps = analyse(&record(vec![measured("dense", 4.0, 50.0), measured("other", 4.1, 42.0)])).steps;
    assert_eq!(steps[0].cause, Cause::SameSize);
    assert_eq!(
        steps[0].why,
        "50.0 → 42.0 tok/s (-16 %), both have the same size (4.00 and 4.10 GB for each token): something else \
         makes the difference"
    );
    let pattern = analyse(&record(vec![measured("dense", 4.0, 50.0), measured("other", 4.1, 42.0)])).pattern;
    assert_eq!(pattern, "no step that size explains: no pattern");
    // A part of it in RAM shows in one of the same size, too.
    let steps = analyse(&record(vec![measured("whole", 4.0, 50.0), measured("spilled", 4.1, 5.0)])).steps;
    assert_eq!(steps[0].cause, Cause::BeyondSize);
}

#[test]
fn advice_says_which_memory_or_bandwidth_moves_which_mode() {
    let absent = Rung {
        outcome: Outcome::Skipped("no room".into()),
        shortage: missing_vram(9),
        ..rung("absent:70b", 10.0)
    };
    let mut climbed = record(vec![
        measured("small", 4.0, 50.0),
        measured("large", 8.0, 25.0),
        measured("spilled", 12.884_901_888, 5.0),
        absent,
    ]);
    climbed.modes = vec![goal("code", 25.0), goal("architect", 15.0)];
    climbed.hardware.gpus = vec![GpuFacts {
        id: "0".into(),
        name: "card".into(),
        vendor: GpuVendor::Nvidia,
        memory: Some(gib(8)),
        shares_ram: false,
    }];
    let found = analyse(&climbed);
    assert_eq!(found.needs.len(), 1);
    assert_eq!(found.needs[0].why, "absent:70b: 9 GiB of graphics memory missing");
    let texts: Vec<(Option<String>, &str)> = found
        .advice
        .iter()
        .map(|one| (one.mode.as_ref().map(ToString::to_string), one.text.as_str()))
        .collect();
    let of = |mode: Option<&str>| -> Vec<&str> {
        texts.iter().filter(|(of, _)| of.as_deref() == mode).map(|(_, text)| *text).collect()
    };
    assert_eq!(
        of(None),
        [
            "4 GiB more graphics memory would hold spilled's weights whole (12 GiB, the card has 8 GiB): about 15.5 \
          tok/s in place of 5.00, at the 200 GB/s of large"
        ]
    );
    assert_eq!(
        of(Some("code")),
        [
            "large would do with 1.10 times the memory bandwidth: 220 in place of 200 GB/s (25.0 tok/s, 27.5 wanted \
          with headroom)"
        ]
    );
    assert_eq!(
        of(Some("architect")),
        [
            "spilled would do with 3.30 times the memory bandwidth: 213 in place of 64.4 GB/s (5.00 tok/s, 16.5 \
             wanted with headroom)",
            "9 GiB of graphics memory missing for absent:70b in place of large: about 20.0 tok/s at the 200 GB/s \
             that were seen"
        ]
    );
}

#[test]
fn heat_that_took_speed_is_told() {
    let mut held = measured("held", 4.0, 30.0);
    held.cells[0].samples = vec![sample(0.0, 90.0, true), sample(1.0, 80.0, false)];
    let advice = analyse(&record(vec![held])).advice;
    assert_eq!(advice.len(), 1);
    let text = "better cooling or power: held was slowed down for 50 % of 100 s, up to 90 °C";
    assert_eq!((advice[0].mode.as_ref(), advice[0].text.as_str()), (None, text));
}

#[test]
fn the_configuration_has_the_targets_of_its_modes() {
    let mut climbed = record(vec![measured("a", 4.0, 30.0), measured("b", 6.0, 20.0)]);
    climbed.modes = vec![goal("code", 10.0)];
    climbed.modes[0].context = Some(16_384);
    climbed.modes[0].target.ttft_s = Some(2.0);
    let lines = analyse(&climbed).configuration;
    assert_eq!(
        lines,
        [
            "# code: the largest of 2 that meets its targets with 10 % to spare: 20.0 tok/s (≥ 10.0), \
             TTFT p50/p95 0.50/0.50 s (≤ 2.00)",
            "[modes.code]",
            "models = [\"b\", \"a\"]",
            "context = 16384",
            "ttft = \"2000ms\"",
            "tpot = \"100ms\"",
        ]
    );
}
