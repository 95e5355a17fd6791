//! Runs, reports, comparisons and gates, by example.

use super::tests::{item, mmlu, page};
use super::*;
use serde_json::json;

fn said(text: &str) -> Answer {
    Answer::Text { text: text.into(), cut: false }
}

fn likely(log_likelihoods: [f64; 4]) -> Answer {
    let one = |log_likelihood| ContinuationScore { log_likelihood, is_greedy: false };
    Answer::Continuations(log_likelihoods.map(one).to_vec())
}

/// A run in which the first `right` of `n` items are right, the next `wrong` ones wrong and the others not asked.
fn run(n: usize, right: impl Fn(usize) -> bool) -> Run {
    let items: Vec<Item> = (0..n).map(|at| mmlu(&format!("item {at}"))).collect();
    let mut run = Run::begin(Suite::Mmlu, Variant::Completion, &Shots::none(), &items).expect("a run");
    for (at, item) in items.iter().enumerate() {
        run.record(item, &said(if right(at) { "B" } else { "A" })).expect("it is in the run");
    }
    run
}

#[test]
fn an_answer_of_another_kind_is_a_failure_and_no_mistake() {
    let mut run =
        Run::begin(Suite::Mmlu, Variant::LogLikelihood, &Shots::none(), &[mmlu("a")]).expect("a run");
    let failed = |outcome: &Outcome| match outcome {
        Outcome::Failed(why) => why.clone(),
        Outcome::Missing | Outcome::Scored(_) => panic!("{outcome:?}"),
    };
    for (answer, why) in [
        (said("B"), "the answer is not of the kind that was asked for"),
        (Answer::Rolling { log_likelihood: -1.0 }, "the answer is not of the kind that was asked for"),
        (Answer::Nothing { why: "timed out".into() }, "no answer: timed out"),
        (Answer::Continuations(vec![]), "0 choices have a log-likelihood, 4 were asked about"),
        (
            likely([f64::NAN, -1.0, -1.0, -1.0]),
            "a log-likelihood of NaN, which is no logarithm of a probability",
        ),
        (likely([-1.0, 0.5, -1.0, -1.0]), "a log-likelihood of 0.5, which is no logarithm of a probability"),
        (likely([f64::NEG_INFINITY; 4]), "every choice has a probability of 0"),
    ] {
        assert_eq!(failed(run.record(&mmlu("a"), &answer).expect("in the run")), why);
    }
    let kept =
        run.record(&mmlu("a"), &Answer::Nothing { why: "é".repeat(1000) }).expect("in the run").clone();
    assert!(failed(&kept).len() < 310);
    assert!(matches!(
        run.record(&mmlu("a"), &likely([-2.0, -1.0, f64::NEG_INFINITY, -3.0])),
        Ok(Outcome::Scored(_))
    ));
    assert_eq!(run.record(&mmlu("b"), &said("B")), Err(RunError::Unknown(mmlu("b").id())));
}

#[test]
fn a_report_counts_everything_and_gives_no_figure_without_its_n() {
    let items: Vec<Item> = (0..10).map(|at| mmlu(&at.to_string())).chain([mmlu("0")]).collect();
    let mut run = Run::begin(Suite::Mmlu, Variant::Chat, &Shots::none(), &items).expect("a run");
    assert_eq!((run.report().scores.len(), run.missing().count(), run.twice), (0, 10, 1));
    for item in &items[..4] {
        run.record(item, &Answer::Text { text: "B".into(), cut: true }).expect("in the run");
    }
    run.record(&items[4], &said("The answer is B")).expect("in the run");
    run.record(&items[5], &said("")).expect("in the run");
    run.record(&items[6], &Answer::Nothing { why: "x".into() }).expect("in the run");
    let report = run.report();
    assert_eq!((report.asked, report.scored, report.failed, report.missing, report.cut), (10, 6, 1, 3, 4));
    assert_eq!(report.failures, [("no answer: x".to_owned(), 1)]);
    let [letter, exact] = &report.scores[..] else { panic!("{report:?}") };
    assert_eq!((letter.metric, exact.metric, letter.n, exact.n), (Metric::Letter, Metric::GetResponse, 6, 6));
    assert!((letter.value - 5.0 / 6.0).abs() < 1e-12 && (exact.value - 4.0 / 6.0).abs() < 1e-12);
    assert_eq!(letter.interval.map(|interval| interval.method), Some(Method::Wilson));
    assert_eq!(run.groups()["odd_things"], report.scores);
    // What is kept in a file comes back.
    let text = serde_json::to_string(&run).expect("json");
    assert_eq!(serde_json::from_str::<Run>(&text).expect("a run"), run);
    let text = serde_json::to_string(&report).expect("json");
    let back: Report = serde_json::from_str(&text).expect("a report");
    assert_eq!(
        (back.scores[0].metric, back.scores[0].n, back.failures),
        (Metric::Letter, 6, report.failures)
    );
    assert!(text.contains("\"exact_match,letter\"") && text.contains("\"wilson\""), "{text}");
}

#[test]
fn a_run_takes_one_item_of_each_name_and_of_its_own_suite() {
    let begin = |items: &[Item]| {
        Run::begin(Suite::Mmlu, Variant::Chat, &Shots::none(), items).map(|run| run.items.len())
    };
    let line =
        json!({"id": "a", "question": "other", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 0});
    let other = item(Suite::Mmlu, &line).expect("an item");
    assert_eq!(begin(&[]), Err(RunError::NoItems));
    assert_eq!(begin(&[mmlu("a"), other.clone()]), Err(RunError::SameName(other.id())));
    let error = begin(&[page("p", "t")]).expect_err("another suite");
    assert_eq!(error.to_string(), "the item p is of perplexity, the run is of mmlu");
    // Without ids items are called by their contents.
    let nameless = |question: &str| {
        let line =
            json!({"question": question, "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 0});
        item(Suite::Mmlu, &line).expect("an item")
    };
    assert_eq!(begin(&[nameless("a"), nameless("b"), nameless("a")]), Ok(2));
    assert_eq!(nameless("a").id().as_str(), nameless("a").print());
}

#[test]
fn perplexities_are_counted_over_all_texts_together() {
    let items = [page("a", "one two"), page("b", "three four five"), page("c", "six")];
    let mut run =
        Run::begin(Suite::Perplexity, Variant::LogLikelihood, &Shots::none(), &items).expect("a run");
    for (item, log_likelihood) in items.iter().zip([-4.0, -9.0, -2.0]) {
        run.record(item, &Answer::Rolling { log_likelihood }).expect("in the run");
    }
    let report = run.report();
    let value =
        |metric: Metric| report.scores.iter().find(|score| score.metric == metric).map(|score| score.value);
    let (words, bytes) = (15.0 / 6.0, 15.0 / 25.0);
    assert!((value(Metric::WordPerplexity).expect("there") - f64::exp(words)).abs() < 1e-9);
    assert!((value(Metric::BytePerplexity).expect("there") - f64::exp(bytes)).abs() < 1e-9);
    assert!((value(Metric::BitsPerByte).expect("there") - bytes / std::f64::consts::LN_2).abs() < 1e-9);
    // By hand: L = 2.5; residuals -1, 1.5, -0.5; √(3/2 · 3.5) / 6 = 0.381881; t(2) = 4.302653.
    let interval = report.scores[0].interval.expect("three texts");
    assert!((interval.low - f64::exp(2.5 - 4.302_653 * 0.381_881)).abs() < 1e-3, "{interval:?}");
    assert!((interval.high - f64::exp(2.5 + 4.302_653 * 0.381_881)).abs() < 1e-3, "{interval:?}");
}

#[test]
fn two_runs_are_compared_on_what_both_have() {
    let (a, mut b) = (run(100, |at| at < 70), run(90, |at| at < 60));
    let gone = b.items.keys().next().cloned().expect("some");
    if let Some(result) = b.items.get_mut(&gone) {
        result.print = "another".into();
    }
    b.record(&mmlu("item 80"), &Answer::Nothing { why: "x".into() }).expect("in the run");
    let found = compare(&a, &b, Metric::Letter).expect("compared");
    assert_eq!((found.n, found.only_a.len(), found.only_b.len()), (88, 10, 0));
    assert_eq!((found.changed.len(), found.unscored.len()), (1, 1));
    assert_eq!(found.test, Test::McNemar { only_a: 10, only_b: 0 });
    assert!((found.difference + 10.0 / 88.0).abs() < 1e-12);
    assert!(found.is_sure() && (found.p.expect("a test") - 2.0_f64.powi(-9)).abs() < 1e-12);
    assert_eq!(
        found.sentence(),
        "exact_match,letter: 78.4 % before, 67.0 % now over the same 88 items: worse by 11.4 points (95 %: 3.9 points \
         to 18.3 points), more than chance would do (p = 0.002)."
    );
    let same = compare(&a, &a, Metric::Letter).expect("compared");
    assert_eq!(
        (same.sentence().as_str(), same.p),
        ("exact_match,letter: the same, 70.0 %, over 100 items.", Some(1.0))
    );
}

#[test]
fn runs_that_were_not_asked_the_same_way_are_not_compared() {
    let a = run(5, |_| true);
    let refused = |change: fn(&mut Run), metric| {
        let mut b = a.clone();
        change(&mut b);
        compare(&a, &b, metric).expect_err("refused").to_string()
    };
    assert_eq!(refused(|b| b.suite = Suite::HellaSwag, Metric::Letter), "the runs are of mmlu and hellaswag");
    assert_eq!(
        refused(|b| b.variant = Variant::Chat, Metric::Letter),
        "the runs were asked as completion and as chat: run one of them again"
    );
    assert_eq!(
        refused(|b| b.shots = 5, Metric::Letter),
        "the runs had 0 and 5 examples before each item, or different ones: run one of them again"
    );
    assert_eq!(refused(|_| (), Metric::Acc), "acc is not measured by mmlu as completion");
    assert_eq!(
        refused(|b| b.items.clear(), Metric::Letter),
        "no item was scored in both runs: 5 are in the first only, 0 in the second only, 0 in both"
    );
    let mut with = a.clone();
    (with.shots, with.shots_print) = (1, "x".into());
    let mut other = with.clone();
    other.shots_print = "y".into();
    assert!(compare(&with, &with, Metric::Letter).is_ok() && compare(&with, &other, Metric::Letter).is_err());
}

#[test]
fn perplexities_are_compared_by_text() {
    let items: Vec<Item> = (0..20).map(|at| page(&at.to_string(), "one two three")).collect();
    let run = |nats: &dyn Fn(usize) -> f64| {
        let mut run =
            Run::begin(Suite::Perplexity, Variant::LogLikelihood, &Shots::none(), &items).expect("a run");
        for (at, item) in items.iter().enumerate() {
            run.record(item, &Answer::Rolling { log_likelihood: -nats(at) }).expect("in the run");
        }
        run
    };
    let a = run(&|at| 6.0 + at as f64);
    // Each text by 0.3 to 0.33 nats worse over three words: sure, though the texts differ much more from each other.
    let b = run(&|at| 6.3 + at as f64 + 0.03 * (at % 2) as f64);
    let found = compare(&a, &b, Metric::WordPerplexity).expect("compared");
    assert!((found.difference - (f64::exp(0.105) - 1.0)).abs() < 1e-9, "{found:?}");
    assert!(
        found.is_sure()
            && found.test == Test::PairedT
            && found.interval.is_some_and(|interval| interval.low > 0.1)
    );
    assert!(found.sentence().contains("worse by 11.07 %"), "{}", found.sentence());
    let gate = |most: f64| Gate::new(most).expect("a gate").judge(&found);
    assert!(
        matches!(gate(0.05), GateVerdict::Regressed { .. }) && matches!(gate(0.2), GateVerdict::Pass { .. })
    );
    let better = compare(&b, &a, Metric::BitsPerByte).expect("compared");
    assert!(better.worse() < 0.0 && better.sentence().contains("better by"), "{}", better.sentence());
    let one = |run: &Run| {
        let mut run = run.clone();
        run.items.retain(|id, _| id.as_str() == "0");
        run
    };
    let single = compare(&one(&a), &one(&b), Metric::WordPerplexity).expect("compared");
    assert_eq!((single.p, single.interval, single.items_needed(0.01)), (None, None, None));
    assert!(matches!(Gate::new(0.5).expect("a gate").judge(&single), GateVerdict::CannotTell { .. }));
}

#[test]
fn a_gate_passes_fails_or_says_how_many_items_it_wants() {
    let gate = |a: &Run, b: &Run, most| {
        Gate::new(most).expect("a gate").judge(&compare(a, b, Metric::Letter).expect("compared"))
    };
    let (small, large) = (run(20, |at| at < 14), run(1000, |at| at < 700));
    // The same answers to twenty items may still hide a difference of more than two points.
    let GateVerdict::CannotTell { why, items_needed: Some(needed) } = gate(&small, &small, 0.02) else {
        panic!("told")
    };
    assert!(
        why.ends_with(&format!("Over 20 about {needed} would show a difference of 2.0 points.")),
        "{why}"
    );
    assert!((1000..3000).contains(&needed), "{needed}");
    assert!(matches!(gate(&large, &large, 0.02), GateVerdict::Pass { .. }));
    let GateVerdict::Regressed { why } = gate(&large, &run(1000, |at| at < 660), 0.02) else {
        panic!("not seen")
    };
    assert!(why.contains("worse by 4.0 points") && why.ends_with("Worse by 2.0 points is allowed."), "{why}");
    // Sure to be worse, but by less than is allowed.
    assert!(matches!(gate(&large, &run(1000, |at| at < 690), 0.02), GateVerdict::Pass { .. }));
    // Worse by more than is allowed, but as many became right: chance may do that.
    let mixed = run(1000, |at| (60..750).contains(&at));
    assert!(matches!(gate(&large, &mixed, 0.005), GateVerdict::CannotTell { .. }));
    assert!(matches!(gate(&mixed, &large, 0.1), GateVerdict::Pass { .. }));
    // A run that lost every tenth item is another exam.
    let GateVerdict::CannotTell { why, items_needed: None } = gate(&large, &run(900, |at| at < 700), 0.02)
    else {
        panic!("told")
    };
    assert!(why.starts_with("100 of 1000 items are not scored in both runs, more than 5 %"), "{why}");
    for most in [0.0, -1.0, 1.0, f64::NAN, f64::INFINITY] {
        assert!(Gate::new(most).is_err(), "{most}");
    }
}
