//! What holds for all items, answers and counts, however odd.

use super::mark::ItemScore;
use super::statistics::Pairs;
use super::*;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

/// Numbers that engines should not say, and some that they may.
fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        -50.0..0.0_f64,
        select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-9, -1e308, f64::MIN_POSITIVE]),
    ]
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let score =
        any_number().prop_map(|log_likelihood| ContinuationScore { log_likelihood, is_greedy: false });
    prop_oneof![
        prop::collection::vec(score, 0..6).prop_map(Answer::Continuations),
        any_number().prop_map(|log_likelihood| Answer::Rolling { log_likelihood }),
        (odd_text(), any::<bool>()).prop_map(|(text, cut)| Answer::Text { text, cut }),
        ".{0,8}".prop_map(|why| Answer::Nothing { why }),
    ]
}

fn odd_text() -> impl Strategy<Value = String> {
    prop_oneof![r"[ABCD#0-9.,$\- \n*()é\[\]answer<>/tink]{0,40}", ".{0,20}", Just("#### ".repeat(50))]
}

fn any_item() -> impl Strategy<Value = Item> {
    (select(Suite::ALL.to_vec()), odd_text(), odd_text(), 0..4_u8, 0..30_u8).prop_map(|(suite, a, b, right, id)| {
        let line = match suite {
            Suite::Mmlu => json!({"question": format!("q{a}"), "subject": "s", "choices": [a, b, "", "d"], "answer": right}),
            Suite::HellaSwag => {
                json!({"activity_label": "l", "ctx_a": format!("c{a}"), "ctx_b": format!("d{b}"), "endings": [a, b, "[x]", ""], "label": right})
            }
            Suite::Gsm8k => json!({"question": format!("q{a}"), "answer": format!("{b}#### {right}")}),
            Suite::Perplexity => json!({"page": format!("p{a}{b}")}),
            Suite::Generation => json!({"prompt": format!("p{a}"), "checks": [{"contains": "a"}, {"json": "any"}, {"matches": "*#*"}]}),
        };
        let mut line = line;
        line["id"] = json!(format!("{id}-{suite:?}"));
        suite.item(line).expect("an item")
    })
}

proptest! {
    #[test]
    fn wilsons_interval_holds_the_share_and_stays_within_shares(n in 0..1_000_000_u64, part in 0.0..=1.0_f64) {
        let right = (n as f64 * part) as u64;
        let (low, high) = wilson(right, n);
        prop_assert!(0.0 <= low && low <= high && high <= 1.0);
        prop_assert!(n == 0 || (low..=high).contains(&(right as f64 / n as f64)));
        // Wrong answers counted instead of right ones: the mirror image.
        let (mirror_low, mirror_high) = wilson(n - right, n);
        prop_assert!((low + mirror_high - 1.0).abs() < 1e-9 && (high + mirror_low - 1.0).abs() < 1e-9);
        // More items say more.
        let (low10, high10) = wilson(right * 10, n * 10);
        prop_assert!(n == 0 || high10 - low10 < high - low);
    }

    #[test]
    fn a_difference_lies_in_its_interval_and_turns_with_its_sides(both in 0..5000_u64, a in 0..5000_u64, b in 0..5000_u64) {
        let pairs = Pairs { n: both + a + b, only_a: a, only_b: b };
        let turned = Pairs { only_a: b, only_b: a, ..pairs };
        let ((low, high), (turned_low, turned_high)) = (pairs.interval(), turned.interval());
        prop_assert!((-1.0..=high).contains(&low) && high <= 1.0);
        prop_assert!((low..=high).contains(&pairs.difference()));
        prop_assert!((low + turned_high).abs() < 1e-9 && (high + turned_low).abs() < 1e-9);
        prop_assert!((0.0..=1.0).contains(&pairs.p()) && pairs.p() == turned.p());
        // A smaller difference takes more items.
        let (few, many) = (pairs.needed(0.1), pairs.needed(0.01));
        prop_assert!(few.is_some() && few < many, "{few:?} {many:?}");
    }

    #[test]
    fn the_exact_test_is_the_sum_of_the_tail(a in 0..30_u64, b in 0..30_u64) {
        let n = a + b;
        let choose = |k: u64| (0..k).fold(1.0, |product, i| product * (n - i) as f64 / (i + 1) as f64);
        let tail: f64 = (0..=a.min(b)).map(choose).sum::<f64>() / 2.0_f64.powi(n as i32);
        prop_assert!((tails::coin(a, b) - (2.0 * tail).min(1.0)).abs() < 1e-12);
    }

    #[test]
    fn no_item_and_no_answer_panics_or_makes_a_figure_of_nothing(
        items in prop::collection::vec((any_item(), any_answer(), any_answer()), 1..12),
    ) {
        for suite in Suite::ALL {
            let mut own: Vec<Item> = Vec::new();
            for (item, _, _) in items.iter().filter(|(item, _, _)| item.suite() == suite) {
                if own.iter().all(|other| other.id() != item.id()) {
                    own.push(item.clone());
                }
            }
            for variant in suite.variants() {
                let Ok(empty) = Run::begin(suite, *variant, &Shots::none(), &own) else { continue };
                let (mut a, mut b) = (empty.clone(), empty);
                for (item, one, other) in items.iter().filter(|(item, _, _)| own.contains(item)) {
                    prop_assert!(ask(item, *variant, &Shots::none()).is_ok());
                    a.record(item, one).expect("in the run");
                    b.record(item, other).expect("in the run");
                }
                let report = a.report();
                prop_assert_eq!(report.asked, report.scored + report.failed + report.missing);
                for score in &report.scores {
                    prop_assert!(score.value.is_finite() && score.n == report.scored, "{:?}", score);
                    if let Some(Interval { low, high, .. }) = score.interval {
                        prop_assert!(low <= score.value && score.value <= high, "{:?}", score);
                    }
                }
                for metric in suite.metrics(*variant) {
                    let Ok(found) = compare(&a, &b, *metric) else { continue };
                    prop_assert!(found.difference.is_finite() && found.p.is_none_or(|p| (0.0..=1.0).contains(&p)));
                    prop_assert!(!found.sentence().contains("NaN"));
                    let verdict = Gate::new(0.02).expect("a gate").judge(&found);
                    prop_assert_eq!(serde_json::to_value(&verdict).expect("json")["gate"].is_string(), true);
                }
            }
        }
    }

    #[test]
    fn a_file_that_was_tampered_with_makes_no_figure_of_nothing(log_likelihood in any_number(), words in any::<u64>(), bytes in any::<u64>()) {
        let line = json!({"text": "a b"});
        let item = Suite::Perplexity.item(line).expect("an item");
        let mut run = Run::begin(Suite::Perplexity, Variant::LogLikelihood, &Shots::none(), std::slice::from_ref(&item)).expect("a run");
        let result = run.items.get_mut(&item.id()).expect("in the run");
        result.outcome = Outcome::Scored(ItemScore::Text { log_likelihood, words, bytes });
        for score in run.report().scores {
            prop_assert!(score.value.is_finite() && score.value >= 0.0, "{:?}", score);
        }
        let found = compare(&run, &run, Metric::WordPerplexity);
        prop_assert!(found.is_err() || found.is_ok_and(|found| found.difference == 0.0));
    }

    #[test]
    fn the_likeliest_choice_stays_so_when_all_become_less_likely(
        logs in prop::array::uniform4(-40.0..0.0_f64), less in 0.0..1000.0_f64, right in 0..4_usize,
    ) {
        let line = json!({"question": "q", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": right});
        let item = Suite::Mmlu.item(line).expect("an item");
        let marked = |logs: [f64; 4]| {
            let one = |log_likelihood| ContinuationScore { log_likelihood, is_greedy: true };
            score(&item, &Answer::Continuations(logs.map(one).to_vec()))
        };
        let best = logs.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(at, _)| at);
        let Ok(ItemScore::Marks { right: marks, .. }) = marked(logs) else { panic!("no marks") };
        prop_assert_eq!(marks[&Metric::Acc], best == Some(right));
        // Far apart enough that rounding does not make two of them equal.
        let close = logs.iter().enumerate().any(|(at, a)| logs[..at].iter().any(|b| (a - b).abs() < 1e-9));
        prop_assert!(close || marked(logs.map(|log| log - less)) == marked(logs));
    }

    #[test]
    fn what_stands_before_the_last_number_does_not_matter(before in "[a-z\n ]{0,30}", number in 0..1_000_000_u32) {
        let answer = format!("{before} #### {number}");
        prop_assert_eq!(extract::strict_match(&answer), number.to_string());
        prop_assert_eq!(extract::flexible_extract(&answer), number.to_string());
        let (grouped, gold) = (format!("${},{:03}.", number / 1000, number % 1000), format!("so\n#### {number}"));
        prop_assert!(number < 1000 || extract::same_number(&grouped, &gold));
        let longer = format!("{number}1");
        prop_assert!(!extract::same_number(&longer, &gold));
    }

    #[test]
    fn words_are_counted_however_much_space_is_between(words in prop::collection::vec("[a-zé]{1,5}", 1..20), space in "[ \t\n\u{a0}\u{1c}]{1,4}") {
        let text = words.join(&space);
        prop_assert_eq!(python_text::pieces(&text), words.len() as u64);
        let padded = format!("{space}{text}{space}");
        prop_assert_eq!(python_text::strip(&padded), text);
    }

    #[test]
    fn a_prepared_text_is_no_longer_than_it_was(text in odd_text()) {
        let page = format!("{text} ( {text} ) \" {text}");
        prop_assert!(page::without_marks(&page).len() <= page.len());
        // `/' 5/` alone grows, by the harness's own pattern.
        prop_assert!(page.contains("/' ") || page::detokenized(&page).len() <= page.len());
    }
}
