//! The same bytes as lm-evaluation-harness 0.4.13: prompts, targets, what is extracted, scores, figures. The files are
//! written by `core/tests/exam/oracle.py` with the harness itself, and the statistics with scipy.

use super::item::Item;
use super::question::{Answer, ContinuationScore, Question, ask};
use super::{
    Gsm8kItem, Metric, Outcome, PageItem, Run, Shots, Suite, Variant, extract, mark, page, python_text,
    statistics, tails,
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

const PROMPTS: &str = include_str!("../../tests/exam/prompts.jsonl");
const CHOICES: &str = include_str!("../../tests/exam/choices.jsonl");
const GENERATIONS: &str = include_str!("../../tests/exam/generations.jsonl");
const PAGES: &str = include_str!("../../tests/exam/pages.jsonl");
const PYTHON_TEXT: &str = include_str!("../../tests/exam/python_text.jsonl");
const STATISTICS: &str = include_str!("../../tests/exam/statistics.jsonl");
const FIGURES: &str = include_str!("../../tests/exam/figures.jsonl");

fn rows<'a, T: Deserialize<'a>>(file: &'a str) -> Vec<T> {
    file.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn figure(name: &str) -> f64 {
    let row = rows::<Value>(FIGURES).into_iter().find(|row| row["metric"] == name);
    row.and_then(|row| row["value"].as_f64()).unwrap_or_else(|| panic!("no figure of {name}"))
}

#[derive(Deserialize)]
struct Prompt {
    suite: Suite,
    variant: String,
    item: Value,
    dev: Vec<Value>,
    shots: usize,
    context: String,
    #[serde(default)]
    continuations: Vec<String>,
    #[serde(default)]
    messages: Value,
    #[serde(default)]
    stop: Vec<String>,
}

#[test]
fn prompts_are_those_of_the_harness_to_the_byte() {
    let mut seen = BTreeMap::new();
    for row in rows::<Prompt>(PROMPTS) {
        let item = row.suite.item(&row.item).expect("an item");
        let dev = row.dev.iter().map(|dev| row.suite.item(dev).expect("an example")).collect();
        let shots = Shots::first(row.shots, dev).expect("enough");
        *seen.entry((row.suite, row.variant.clone(), row.shots)).or_insert(0) += 1;
        if row.variant == "loglikelihood" {
            let asked = ask(&item, Variant::LogLikelihood, &shots).expect("a question");
            assert_eq!(asked, Question::Continuations { context: row.context, choices: row.continuations });
            continue;
        }
        let most_tokens = 256;
        let asked = ask(&item, Variant::Completion, &shots).expect("a question");
        assert_eq!(asked, Question::Complete { prompt: row.context, stop: row.stop.clone(), most_tokens });
        let messages = serde_json::from_value(row.messages).expect("messages");
        let asked = ask(&item, Variant::Chat, &shots).expect("a question");
        assert_eq!(asked, Question::Chat { messages, stop: row.stop, most_tokens });
    }
    let kinds: Vec<_> =
        seen.keys().map(|(suite, variant, shots)| format!("{} {variant} {shots}", suite.word())).collect();
    assert_eq!(kinds.len(), 12, "{kinds:?}");
    assert!(seen.values().sum::<u32>() > 200, "{seen:?}");
}

#[derive(Deserialize)]
struct Choice {
    suite: Suite,
    item: Value,
    lls: Vec<f64>,
    acc: f64,
    acc_norm: Option<f64>,
}

#[test]
fn choices_are_scored_as_by_the_harness() {
    let mut right: BTreeMap<(Suite, Metric), Vec<bool>> = BTreeMap::new();
    for row in rows::<Choice>(CHOICES) {
        let item = row.suite.item(&row.item).expect("an item");
        let one =
            |log_likelihood: &f64| ContinuationScore { log_likelihood: *log_likelihood, is_greedy: false };
        let answer = Answer::Continuations(row.lls.iter().map(one).collect());
        let Ok(mark::ItemScore::Marks { right: marks, .. }) = mark::score(&item, &answer) else {
            panic!("no marks")
        };
        assert_eq!(marks[&Metric::Acc], row.acc == 1.0, "{:?} {:?}", row.item, row.lls);
        assert_eq!(
            marks.get(&Metric::AccNorm).copied(),
            row.acc_norm.map(|mark| mark == 1.0),
            "{:?} {:?}",
            row.item,
            row.lls
        );
        marks.iter().for_each(|(metric, mark)| right.entry((row.suite, *metric)).or_default().push(*mark));
    }
    for ((suite, metric), marks) in right {
        let share = marks.iter().filter(|mark| **mark).count() as f64 / marks.len() as f64;
        let theirs = figure(&format!("{} {}", suite.word(), metric.word()));
        assert!((share - theirs).abs() < 1e-15, "{share} {theirs}");
    }
}

#[derive(Deserialize)]
struct Generation {
    suite: Suite,
    item: Value,
    text: String,
    filters: BTreeMap<String, (String, f64)>,
}

#[test]
fn answers_are_extracted_and_matched_as_by_the_harness() {
    let mut cases = BTreeMap::new();
    for row in rows::<Generation>(GENERATIONS) {
        let gold = row.item["answer"].as_str().unwrap_or_default();
        // Some answers of the table are odder than a file may have them.
        let item = if row.suite == Suite::Gsm8k {
            Item::Gsm8k(Gsm8kItem { id: None, question: "q".into(), answer: gold.into() })
        } else {
            row.suite.item(&row.item).expect("an item")
        };
        let question = ask(&item, Variant::Completion, &Shots::none()).expect("a question");
        let Question::Complete { stop, .. } = question else { panic!("{question:?}") };
        let seen = mark::visible(&row.text, &stop);
        let answer = Answer::Text { text: row.text.clone(), cut: false };
        let Ok(mark::ItemScore::Marks { right, .. }) = mark::score(&item, &answer) else {
            panic!("no marks")
        };
        for (filter, (found, score)) in &row.filters {
            let (ours, metric) = match filter.as_str() {
                "strict-match" => (extract::strict_match(seen), Metric::StrictMatch),
                "flexible-extract" => (extract::flexible_extract(seen), Metric::FlexibleExtract),
                _ => (extract::first_line(seen), Metric::GetResponse),
            };
            // What is extracted first; then whether it counts as right.
            assert_eq!(ours, found, "{filter} of {:?}", row.text);
            assert_eq!(right[&metric], *score == 1.0, "{filter}: {found:?} for {gold:?}");
            *cases.entry((filter.clone(), *score == 1.0)).or_insert(0) += 1;
        }
    }
    for filter in ["strict-match", "flexible-extract", "get_response"] {
        for score in [true, false] {
            assert!(cases[&(filter.to_owned(), score)] > 20, "{cases:?}");
        }
    }
}

#[derive(Deserialize)]
struct Page {
    page: String,
    target: String,
    words: u64,
    bytes: u64,
    ll: f64,
}

#[test]
fn pages_and_perplexities_are_those_of_the_harness() {
    let pages: Vec<Page> = rows(PAGES);
    let mut items = Vec::new();
    for (at, row) in pages.iter().enumerate() {
        assert_eq!(page::detokenized(&row.page), row.target, "{:?}", row.page);
        assert_eq!(
            (python_text::pieces(&row.page), row.page.len() as u64),
            (row.words, row.bytes),
            "{:?}",
            row.page
        );
        let item = PageItem { id: Some(at.to_string()), text: row.page.clone(), is_page: true };
        if !row.page.is_empty() {
            items.push((Item::Page(item), row.ll));
        }
    }
    let all: Vec<Item> = items.iter().map(|(item, _)| item.clone()).collect();
    let mut run = Run::begin(Suite::Perplexity, Variant::LogLikelihood, &Shots::none(), &all).expect("a run");
    for (item, ll) in &items {
        let outcome = run.record(item, &Answer::Rolling { log_likelihood: *ll }).expect("it is in the run");
        assert!(matches!(outcome, Outcome::Scored(_)), "{outcome:?}");
    }
    let report = run.report();
    assert_eq!(report.scores.len(), 3);
    for score in report.scores {
        let theirs = figure(score.metric.word());
        assert!((score.value / theirs - 1.0).abs() < 1e-12, "{score:?} {theirs}");
    }
}

#[derive(Deserialize)]
struct PythonText {
    text: String,
    strip: String,
    capitalize: String,
    split: u64,
}

#[test]
fn texts_are_stripped_cased_and_split_as_by_python() {
    for row in rows::<PythonText>(PYTHON_TEXT) {
        assert_eq!(python_text::strip(&row.text), row.strip, "{:?}", row.text);
        assert_eq!(python_text::capitalize(&row.text), row.capitalize, "{:?}", row.text);
        assert_eq!(python_text::pieces(&row.text), row.split, "{:?}", row.text);
    }
}

#[derive(Deserialize)]
struct Statistic {
    what: String,
    args: Vec<f64>,
    value: Vec<f64>,
}

#[test]
fn statistics_are_those_of_scipy() {
    for Statistic { what, args, value } in rows::<Statistic>(STATISTICS) {
        let ours = match what.as_str() {
            "wilson" => {
                let (low, high) = statistics::wilson(args[0] as u64, args[1] as u64);
                vec![low, high]
            }
            "mcnemar" => vec![tails::coin(args[0] as u64, args[1] as u64)],
            "t two-sided" => vec![tails::student(args[0], args[1])],
            "t quantile" => vec![tails::student_95(args[0])],
            _ => panic!("{what}"),
        };
        assert_eq!(ours.len(), value.len(), "{what}");
        for (ours, theirs) in ours.iter().zip(&value) {
            let error = (ours - theirs).abs() / theirs.abs().max(1e-300);
            assert!(error < 1e-9 || (ours - theirs).abs() < 1e-15, "{what} {args:?}: {ours} for {theirs}");
        }
    }
}

#[test]
fn the_figures_of_generated_answers_are_those_of_the_harness() {
    // The rows of the smoke items, in which each filter is right and wrong.
    let rows: Vec<Generation> = rows(GENERATIONS);
    let own = |row: &&Generation| row.suite == Suite::Mmlu || row.item["question"] != "q";
    let mut right: BTreeMap<(Suite, Metric), Vec<bool>> = BTreeMap::new();
    for row in rows.iter().filter(own) {
        let item = row.suite.item(&row.item).expect("an item");
        let Ok(mark::ItemScore::Marks { right: marks, .. }) =
            mark::score(&item, &Answer::Text { text: row.text.clone(), cut: false })
        else {
            panic!("no marks")
        };
        marks.into_iter().for_each(|(metric, mark)| right.entry((row.suite, metric)).or_default().push(mark));
    }
    for (suite, metric, name) in [
        (Suite::Gsm8k, Metric::StrictMatch, "gsm8k strict-match"),
        (Suite::Gsm8k, Metric::FlexibleExtract, "gsm8k flexible-extract"),
        (Suite::Mmlu, Metric::GetResponse, "mmlu get_response"),
    ] {
        let marks = &right[&(suite, metric)];
        let share = marks.iter().filter(|mark| **mark).count() as f64 / marks.len() as f64;
        assert!((share - figure(name)).abs() < 1e-15, "{name}: {share}");
    }
}
