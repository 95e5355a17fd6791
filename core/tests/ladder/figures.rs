//! A rung in figures: which runs count, what they come to, heat, energy and answers.

use crate::built::{GOOD, answered, cell, gib, measured, model, run, rung, sample};
use mesh_core::ladder::{Mark, Outcome, Rung, summarise};
use mesh_core::trial::{Ended, Run, Sample};

fn near(found: Option<f64>, wanted: f64) -> bool {
    found.is_some_and(|found| (found - wanted).abs() < 1e-9)
}

#[test]
fn speeds_are_medians_with_their_spread_and_warm_ups_do_not_count() {
    let mut runs: Vec<Run> = [10.0, 20.0, 40.0, 50.0].iter().map(|rate| run(0, *rate)).collect();
    runs.push(Run { warm_up: true, ..run(0, 1000.0) });
    runs.push(Run { error: Some("refused".into()), ..run(0, 1000.0) });
    let summary = summarise(&Rung { cells: vec![cell(1, runs)], ..rung("m", 1.0) });
    let decode = summary.decode.expect("measured");
    assert!(near(Some(decode.median), 30.0) && decode.n == 4, "{decode:?}");
    // Distances 20, 10, 10, 20: √(1000/3).
    assert!(near(decode.sd, (1000.0_f64 / 3.0).sqrt()), "{decode:?}");
    assert_eq!(summary.prompt.map(|prompt| prompt.median), Some(1000.0));
    let ttft = summary.ttft.expect("measured");
    assert_eq!((ttft.p50, ttft.p95, ttft.n), (0.5, 0.5, 4));
    let cell = &summary.cells[0];
    assert_eq!((cell.counted, cell.failed, cell.left_out), (4, 1, 0));
    // By nearest rank the second of 2.5, 3, 5.5 and 10.5.
    assert_eq!(cell.response.map(|response| (response.p50, response.p95)), Some((3.0, 10.5)));
    assert!(near(cell.tpot.map(|tpot| tpot.median), 0.0375));
    assert_eq!(summary.measured_by, "512:128 tokens, 1 stream");
}

#[test]
fn a_throttled_or_disturbed_run_does_not_count_where_an_undisturbed_one_exists() {
    let runs = |rate: f64| (0..3).map(|at| run(at, rate)).collect::<Vec<Run>>();
    let mut throttled = cell(1, runs(10.0));
    throttled.marks = vec![Mark::Throttled];
    let mut disturbed = cell(1, runs(11.0));
    disturbed.ended = Some(Ended { seconds: 9.0, others: 2 });
    // The second run lies between 1000 s and 1002.5 s.
    let mut by_sample = cell(1, runs(50.0));
    by_sample.samples =
        vec![sample(1001.0, 90.0, true), sample(1500.0, 90.0, true), sample(1.0, 60.0, false)];
    let summary = |cells: Vec<_>| summarise(&Rung { cells, ..rung("m", 1.0) });

    let both = summary(vec![throttled.clone(), disturbed.clone(), by_sample.clone()]);
    let cell = &both.cells[0];
    assert_eq!((cell.counted, cell.left_out, cell.marks.len()), (2, 7, 0));
    assert!(near(both.decode.map(|decode| decode.median), 50.0));

    let none_clean = summary(vec![throttled, disturbed]);
    assert_eq!(none_clean.cells[0].marks, [Mark::Throttled, Mark::Disturbed]);
    assert_eq!((none_clean.cells[0].counted, none_clean.cells[0].left_out), (6, 0));
}

#[test]
fn a_run_beside_busy_programs_is_found_by_its_looks_and_left_out() {
    let look = |at_s: f64, others: Option<f32>| Sample { at_s, others, ..Sample::default() };
    // The runs of 2 s and more begin at 0 s, 1000 s and 2000 s; somebody compiled during the second.
    let mut cell = cell(1, (0..3).map(|at| run(at, 50.0)).collect());
    cell.samples =
        vec![look(0.0, None), look(999.0, Some(0.01)), look(1010.0, Some(0.8)), look(3000.0, Some(0.02))];
    let summary = summarise(&Rung { cells: vec![cell.clone()], ..rung("m", 1.0) });
    assert_eq!((summary.cells[0].counted, summary.cells[0].left_out), (2, 1));
    assert_eq!(cell.found(), [], "2 % of the whole time");

    cell.samples = vec![look(0.0, None), look(1500.0, Some(0.09)), look(3000.0, Some(0.12))];
    assert_eq!(cell.found(), [Mark::Busy]);
    cell.samples.iter_mut().for_each(|sample| sample.others = None);
    assert_eq!(cell.found(), [], "what is not known speaks against nothing");
}

#[test]
fn streams_are_compared_with_the_fewest_and_counted_together() {
    let four: Vec<Run> = (0..4).map(|stream| Run { stream, ..run(0, 20.0) }).collect();
    let broken = Run { stream: 0, ..run(1, 20.0) };
    let cells = vec![cell(4, four.into_iter().chain([broken]).collect()), cell(1, vec![run(0, 50.0)])];
    let summary = summarise(&Rung { cells, ..rung("m", 1.0) });
    let [one, four] = summary.cells.as_slice() else { panic!("two works") };
    assert_eq!((one.streams, one.degradation), (1, Some(0.0)));
    assert_eq!(four.streams, 4);
    assert!(near(four.degradation, 0.6), "{:?}", four.degradation);
    // 101 tokens in 2.5 s; 404 in 5.5 s. The repetition without all its streams has no total.
    assert!(near(one.total.map(|total| total.median), 40.4));
    assert!(near(four.total.map(|total| total.median), 404.0 / 5.5));
    assert_eq!(four.total.map(|total| total.n), Some(1));
    assert!(near(summary.decode.map(|decode| decode.median), 50.0), "one request at a time leads");
}

#[test]
fn energy_heat_and_memory_come_from_the_samples() {
    let mut work = cell(1, vec![run(0, 50.0), Run { warm_up: true, ..run(0, 50.0) }]);
    let look =
        |at_s, temperature, throttled| Sample { watts: Some(101.0), ..sample(at_s, temperature, throttled) };
    work.samples = vec![look(50.0, 71.0, true), look(90.0, 66.0, false), look(10.0, 60.0, false)];
    work.samples.push(Sample { vram_used: Some(gib(9)), throttled: Some(false), ..Sample::default() });
    let before = Sample { vram_used: Some(gib(1)), ram_used: Some(gib(7)), ..sample(0.0, 45.0, false) };
    let after = Sample { vram_used: Some(gib(6)), ram_used: Some(gib(6)), ..Sample::default() };
    let summary = summarise(&Rung { cells: vec![work], before, after, ..rung("m", 1.0) });
    assert_eq!(summary.watts, Some(101.0));
    // 101 W for 100 s over 202 tokens.
    assert!(near(summary.joules_per_token, 50.0), "{:?}", summary.joules_per_token);
    assert_eq!((summary.vram_taken, summary.vram_peak), (Some(gib(5)), Some(gib(9))));
    assert_eq!(summary.ram_taken, None, "less than before: something else went");
    assert_eq!(
        (summary.start_temperature, summary.end_temperature, summary.max_temperature),
        (Some(45.0), Some(66.0), Some(71.0))
    );
    assert_eq!((summary.seconds, summary.throttled_s), (100.0, Some(25.0)));
}

#[test]
fn a_soak_compares_its_last_quarter_with_its_first() {
    let rates = [60.0, 58.0, 40.0, 50.0, 30.0, 32.0];
    let runs = rates.iter().enumerate().map(|(at, rate)| Run { at_s: at as f64 * 19.0, ..run(0, *rate) });
    let mut soak = cell(1, runs.collect());
    soak.work.soak_s = Some(100);
    let summary = summarise(&Rung { cells: vec![soak], ..rung("m", 1.0) });
    let soak = summary.soak.expect("a soak");
    assert!(near(Some(soak.first), 59.0) && near(Some(soak.last), 31.0), "{soak:?}");
    assert!(near(Some(soak.share), 31.0 / 59.0) && soak.seconds == 100.0);
    assert!(summary.cells.is_empty(), "a soak is no cell of the matrix");
}

#[test]
fn a_soak_of_two_long_answers_compares_them() {
    let runs = [(0.0, 10.0), (51.0, 2.5)].map(|(at_s, rate)| Run { at_s, ..run(0, rate) });
    let mut soak = cell(1, runs.into());
    soak.work.soak_s = Some(100);
    let of = |cells| summarise(&Rung { cells, ..rung("m", 1.0) }).soak.map(|soak| soak.share);
    assert!(near(of(vec![soak.clone()]), 0.25));
    soak.runs.pop();
    assert_eq!(of(vec![soak]), None, "one answer is compared with nothing");
}

#[test]
fn absurd_rates_and_times_are_no_measurements() {
    let runs = [1e300, 1e-300, 30.0].map(|rate| Run {
        engine_decode: Some(rate),
        ttft_s: Some(1e300),
        ..run(0, 1.0)
    });
    let summary = summarise(&Rung { cells: vec![cell(1, runs.into())], ..rung("m", 1.0) });
    assert_eq!(summary.decode.map(|decode| (decode.median, decode.n)), Some((30.0, 1)));
    assert_eq!(summary.ttft, None);
}

#[test]
fn answers_are_judged_and_counted_by_their_faults() {
    let mut cut = answered("The sky is", 1.0);
    cut.run.finish_reason = Some("length".into());
    let mut failed = answered("", 1.0);
    failed.run.error = Some("timed out".into());
    let mut tool = answered("", 1.0);
    tool.run.raw = Some(r#"{"tool_calls":[]}"#.into());
    let all = vec![
        answered(GOOD, 2.0),
        answered(" ", 1.0),
        answered(&"over and over ".repeat(40), 3.0),
        answered(&"\u{fffd}".repeat(30), 1.0),
        cut,
        failed,
        tool,
    ];
    let answers = summarise(&Rung { answers: all, ..rung("m", 1.0) }).answers.expect("seven");
    let faults = [answers.empty, answers.repeated, answers.gibberish, answers.cut, answers.failed];
    assert_eq!((faults, answers.endless), ([1, 1, 1, 1, 1], 0));
    assert_eq!((answers.success.of, answers.success.n), (2, 7));
    assert!((answers.success.low - 0.0822).abs() < 1e-4 && (answers.success.high - 0.6411).abs() < 1e-4);
    // 13 words of the good one, 120 in circles, 1 of broken characters, 3 that were cut.
    assert_eq!(answers.words.map(|words| (words.median, words.n)), Some((8.0, 4)));
}

#[test]
fn a_rung_of_which_nothing_was_measured_has_failed_whatever_it_says() {
    let broken = Run { error: Some("refused".into()), ..run(0, 1.0) };
    let summary = summarise(&Rung { cells: vec![cell(1, vec![broken])], ..rung("m", 1.0) });
    assert_eq!(summary.outcome, Outcome::Failed("nothing was measured: 1 requests failed".into()));
    assert_eq!((summary.decode, summary.answers), (None, None));
    let skipped = Outcome::Skipped("no room".into());
    assert_eq!(summarise(&Rung { outcome: skipped.clone(), ..rung("m", 1.0) }).outcome, skipped);
    assert_eq!(summarise(&measured("m", 1.0, 9.0)).outcome, Outcome::Done);
    assert_eq!(summarise(&rung("m", 1.0)).model, model("m"));
}
