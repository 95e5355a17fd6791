//! Laws that hold for any numbers: nothing is NaN, order is nothing, units are nothing, and every statement agrees with
//! every other.

use crate::built::{answered, cell, goal, measured, mode, model, record, rung};
use mesh_core::ladder::{
    Candidate, Cell, Fit, MachinePrice, Mark, Next, Outcome, Prices, Recommended, Record, Rung, Shortage,
    analyse, cost, next, recommend,
};
use mesh_core::trial::{Ended, Run, Sample};
use mesh_core::units::Bytes;
use proptest::prelude::*;

/// Any number that a broken clock or engine may tell.
fn number() -> BoxedStrategy<f64> {
    prop_oneof![
        6 => 0.001..1000.0_f64,
        1 => Just(0.0),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(f64::MAX),
        1 => any::<f64>(),
    ]
    .boxed()
}

fn any_run() -> BoxedStrategy<Run> {
    let times = (number(), proptest::option::of(number()), number());
    let tokens = (proptest::option::of(any::<u32>()), proptest::option::of(0..500_u32));
    let rates = (proptest::option::of(number()), proptest::option::of(number()));
    (times, tokens, rates, 0..4_u32, any::<bool>(), 0..6_u8)
        .prop_map(|(times, tokens, rates, at, warm_up, how)| Run {
            at_s: times.0,
            ttft_s: times.1,
            total_s: times.2,
            prompt_tokens: tokens.0,
            output_tokens: tokens.1,
            engine_prefill: rates.0,
            engine_decode: rates.1,
            repetition: at,
            warm_up: warm_up && how == 1,
            error: (how == 0).then(|| "refused".to_owned()),
            ..Run::default()
        })
        .boxed()
}

fn any_sample() -> BoxedStrategy<Sample> {
    let float = || proptest::option::of(number().prop_map(|value| value as f32));
    (number(), float(), float(), proptest::option::of(any::<bool>()), proptest::option::of(any::<u64>()))
        .prop_map(|(at_s, temperature, watts, throttled, vram)| Sample {
            at_s,
            temperature,
            watts,
            throttled,
            vram_used: vram.map(Bytes),
            ..Sample::default()
        })
        .boxed()
}

fn any_cell() -> BoxedStrategy<Cell> {
    let parts = (prop::collection::vec(any_run(), 0..8), prop::collection::vec(any_sample(), 0..6));
    (parts, 1..4_u32, proptest::option::of(number()), 0..3_u32, 0..5_u8)
        .prop_map(|((runs, samples), streams, seconds, others, kind)| {
            let mut cell = cell(streams, runs);
            cell.samples = samples;
            cell.ended = seconds.map(|seconds| Ended { seconds, others });
            cell.work.soak_s = (kind == 0).then_some(60);
            cell.marks = if kind == 1 { vec![Mark::Throttled] } else { Vec::new() };
            cell
        })
        .boxed()
}

fn any_rung(at: usize) -> BoxedStrategy<Rung> {
    let cells = prop::collection::vec(any_cell(), 0..4);
    let facts = (
        proptest::option::of(any::<u64>()),
        proptest::option::of(any::<u64>()),
        proptest::option::of(any::<u64>()),
    );
    (
        cells,
        facts,
        any_sample(),
        any_sample(),
        prop::collection::vec((any::<bool>(), number()), 0..5),
        0..12_u8,
    )
        .prop_map(move |(cells, (size, parameters, active), before, after, answers, kind)| Rung {
            cells,
            size: size.map(Bytes),
            parameters,
            active_parameters: active,
            specialty: (kind == 2).then(|| "code".to_owned()),
            shortage: (kind == 0).then(|| Shortage { vram: Bytes(size.unwrap_or(1)), ..Shortage::default() }),
            before,
            after,
            answers: answers
                .into_iter()
                .map(|(good, s)| answered(if good { "A good answer." } else { "" }, s))
                .collect(),
            outcome: match kind {
                0 => Outcome::Skipped("no room".into()),
                1 => Outcome::Failed("it broke".into()),
                _ => Outcome::Done,
            },
            ..Rung::new(model(&format!("m:{at}b")), format!("{at}b"))
        })
        .boxed()
}

fn any_record() -> BoxedStrategy<Record> {
    let rungs = (any_rung(1), any_rung(2), any_rung(3), any_rung(4));
    (rungs, 0..5_usize, number(), number(), number())
        .prop_map(|((a, b, c, d), kept, least, ttft, answer)| {
            let mut rungs = vec![a, b, c, d];
            rungs.truncate(kept);
            let mut record = record(rungs);
            let mut code = goal("code", 10.0);
            code.least_decode = Some(least);
            code.target.tpot_s = Some(answer);
            let mut ask = goal("ask", 2.0);
            ask.target.ttft_s = Some(ttft);
            ask.answer_s = Some(answer);
            record.modes = vec![code, ask];
            record
        })
        .boxed()
}

fn candidate() -> Candidate {
    Candidate {
        model: model("next"),
        size: Some(Bytes(9)),
        parameters: Some(0),
        active_parameters: Some(0),
        shortage: None,
        now: Sample { temperature: Some(f32::NAN), ..Sample::default() },
    }
}

/// No figure in what serde sees is NaN or infinite (JSON has no such numbers, so serde_json would write `null` where a
/// number must be), and no text has one in it.
fn is_sound(text: &str) -> bool {
    !text.contains("NaN") && !text.contains("inf ") && !text.contains("inf/") && !text.contains("inf,")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_statement_holds_a_number_that_is_none(record in any_record(), price in number(), years in number()) {
        let analysis = analyse(&record);
        // Debug shows every number as it is.
        let debug = format!("{analysis:?}");
        prop_assert!(is_sound(&debug) && !debug.contains(": inf") && !debug.contains("(inf"), "{debug}");
        let prices = Prices {
            currency: "€".into(),
            per_kwh: Some(price),
            machine: Some(MachinePrice { price, years, hours_per_day: 4.0 }),
            ..Prices::default()
        };
        for rung in &analysis.rungs {
            let debug = format!("{:?}", cost(rung, &prices));
            prop_assert!(is_sound(&debug) && !debug.contains(": inf"), "{debug}");
        }
        if let Next::Stop(stopped) = next(&record, &candidate()) {
            prop_assert!(is_sound(&stopped.why) && !stopped.why.is_empty(), "{}", stopped.why);
        }
    }

    #[test]
    fn statements_agree_with_each_other(record in any_record()) {
        let analysis = analyse(&record);
        prop_assert_eq!(analysis.fits.len(), record.modes.len() * record.rungs.len());
        for fit in &analysis.fits {
            let choice = analysis.modes.iter().find(|choice| choice.mode == fit.mode).expect("each has one");
            prop_assert_eq!(fit.fit == Fit::Best, choice.models.first() == Some(&fit.model));
            let meets = matches!(fit.fit, Fit::Best | Fit::Meets);
            prop_assert_eq!(meets, choice.models.contains(&fit.model), "{:?}", fit);
        }
        let lines: Vec<Vec<String>> = recommend(&[&record]).iter().map(Recommended::lines).collect();
        prop_assert_eq!(lines.join(&String::new()), analysis.configuration.clone());
        // Every rung is told of, and has one of three ends.
        prop_assert_eq!(analysis.rungs.len(), record.rungs.len());
        for (summary, rung) in analysis.rungs.iter().zip(&record.rungs) {
            prop_assert_eq!(&summary.model, &rung.model);
            match (&summary.outcome, &rung.outcome) {
                (Outcome::Done, Outcome::Done) => {}
                (Outcome::Skipped(why), Outcome::Skipped(told)) => prop_assert_eq!(why, told),
                (Outcome::Failed(why), _) => prop_assert!(!why.is_empty()),
                (summary, rung) => prop_assert!(false, "{:?} of {:?}", summary, rung),
            }
        }
        let chosen = analysis.modes.iter().flat_map(|choice| &choice.models);
        let chosen = chosen.chain(analysis.kinds.iter().filter_map(|choice| choice.model.as_ref()));
        for chosen in chosen {
            prop_assert!(!analysis.avoid.iter().any(|one| one.model == *chosen), "{} is avoided", chosen);
            let rung = analysis.rungs.iter().find(|rung| rung.model == *chosen);
            prop_assert!(rung.is_some_and(|rung| rung.outcome == Outcome::Done));
        }
        for one in &analysis.avoid {
            prop_assert!(!one.reasons.is_empty() && one.reasons.iter().all(|why| !why.is_empty()));
        }
        let whys = analysis.modes.iter().map(|c| &c.why).chain(analysis.kinds.iter().map(|c| &c.why));
        prop_assert!(whys.chain(analysis.steps.iter().map(|step| &step.why)).all(|why| !why.is_empty()));
        prop_assert_eq!(analysis.modes.len(), record.modes.len());
        prop_assert_eq!(analysis.remarks.len(), record.rungs.len());
        prop_assert!(analysis.rungs.iter().all(|rung| rung.throttled_s.is_none_or(|s| s <= rung.seconds)));
    }

    #[test]
    fn the_order_of_runs_samples_and_answers_is_nothing(record in any_record(), turn in 0..8_usize) {
        let mut turned = record.clone();
        for rung in &mut turned.rungs {
            rung.answers.reverse();
            for cell in &mut rung.cells {
                let middle = turn.min(cell.runs.len());
                cell.runs.rotate_left(middle);
                cell.samples.reverse();
            }
        }
        prop_assert_eq!(analyse(&record), analyse(&turned));
    }

    #[test]
    fn twice_the_time_is_half_the_speed_and_the_same_steps(rates in prop::collection::vec(4.0..200.0_f64, 2..5)) {
        let slower = |rung: &mut Rung| {
            for run in rung.cells.iter_mut().flat_map(|cell| &mut cell.runs) {
                run.at_s *= 2.0;
                run.ttft_s = run.ttft_s.map(|ttft| ttft * 2.0);
                run.total_s *= 2.0;
            }
        };
        let rungs: Vec<Rung> =
            rates.iter().enumerate().map(|(at, rate)| measured(&format!("m:{at}"), at as f64 + 1.0, *rate)).collect();
        let one = analyse(&record(rungs.clone()));
        let mut rungs = rungs;
        rungs.iter_mut().for_each(slower);
        let two = analyse(&record(rungs));
        for (one, two) in one.rungs.iter().zip(&two.rungs) {
            let half = |figure: Option<f64>| figure.map(|rate| rate / 2.0);
            prop_assert_eq!(half(one.decode.map(|d| d.median)), two.decode.map(|d| d.median));
            prop_assert_eq!(half(one.prompt.map(|d| d.median)), two.prompt.map(|d| d.median));
            prop_assert_eq!(half(one.cells[0].total.map(|d| d.median)), two.cells[0].total.map(|d| d.median));
            prop_assert_eq!(one.ttft.map(|t| t.p95 * 2.0), two.ttft.map(|t| t.p95));
        }
        let changes = |steps: &[mesh_core::ladder::Step]| steps.iter().map(|s| s.change).collect::<Vec<f64>>();
        prop_assert_eq!(changes(&one.steps), changes(&two.steps));
        let kinds = |analysis: &mesh_core::ladder::Analysis| {
            analysis.kinds.iter().map(|kind| kind.model.clone()).collect::<Vec<_>>()
        };
        prop_assert_eq!(kinds(&one), kinds(&two));
    }

    #[test]
    fn sizes_in_any_unit_give_the_same_choices(
        rates in prop::collection::vec(1.0..200.0_f64, 2..5),
        factor in 2..50_u64,
    ) {
        let rungs = |factor: u64| -> Vec<Rung> {
            let of = |(at, rate): (usize, &f64)| Rung {
                size: Some(Bytes((at as u64 + 1) * 1_000_000_000 * factor)),
                ..measured(&format!("m:{at}"), 1.0, *rate)
            };
            rates.iter().enumerate().map(of).collect()
        };
        let (one, many) = (analyse(&record(rungs(1))), analyse(&record(rungs(factor))));
        let kinds = |analysis: &mesh_core::ladder::Analysis| {
            analysis.kinds.iter().map(|kind| kind.model.clone()).collect::<Vec<_>>()
        };
        let causes = |analysis: &mesh_core::ladder::Analysis| {
            analysis.steps.iter().map(|step| step.cause).collect::<Vec<_>>()
        };
        prop_assert_eq!((kinds(&one), causes(&one)), (kinds(&many), causes(&many)));
    }

    #[test]
    fn a_climb_ends_as_soon_as_something_is_missing(missing in 1..u64::MAX, disk in any::<bool>()) {
        let shortage = if disk {
            Shortage { disk: Bytes(missing), ..Shortage::default() }
        } else {
            Shortage { ram: Bytes(missing), ..Shortage::default() }
        };
        let tight = Candidate { shortage: Some(shortage), ..candidate() };
        prop_assert!(matches!(next(&record(vec![]), &tight), Next::Stop(_)));
        prop_assert_eq!(next(&record(vec![]), &candidate()), Next::Go);
    }
}

#[test]
fn nothing_comes_of_nothing() {
    let analysis = analyse(&record(vec![]));
    assert_eq!((analysis.rungs.len(), analysis.steps.len(), analysis.avoid.len()), (0, 0, 0));
    assert_eq!(analysis.pattern, "fewer than two rungs were measured: no pattern");
    assert!(analysis.kinds.iter().all(|kind| kind.model.is_none() && !kind.why.is_empty()));
    let mut asking = record(vec![rung("m", 1.0)]);
    asking.modes = vec![goal("code", 1.0)];
    let analysis = analyse(&asking);
    assert_eq!(analysis.modes[0].mode, mode("code"));
    assert_eq!(analysis.modes[0].why, "no model that suits it was measured and may be used");
    assert_eq!(analysis.avoid[0].reasons, ["it could not be measured: nothing was measured"]);
}
