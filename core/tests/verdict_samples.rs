//! The judge of answers, measured on real ones: what three models of 0.2 to 1.4 million parameters answered
//! to llama.cpp's server (b11549, greedy, seed 1), and on samples by hand.
//!
//! The figures are pinned: a change of a threshold shows here what it costs. The samples by hand were written to be
//! judged right, so they are examples, not a measurement; the measurement is in `verdict_corpus.rs`.

use mesh_core::machine::Abilities;
use mesh_core::verdict::{
    Answer, Expectation, ReplicaVerdict, Verdict, judge, replica_verdict, three_prompts,
};
use serde::Deserialize;
use std::collections::BTreeMap;

const TRAINED: &str = include_str!("verdict_samples/tiny-trained-1.4M-q8_0.jsonl");
const RANDOM_LARGE: &str = include_str!("verdict_samples/tiny-random-1.4M-q8_0.jsonl");
const RANDOM_SMALL: &str = include_str!("verdict_samples/tiny-random-0.2M-f16.jsonl");
const GOOD: &str = include_str!("verdict_samples/good-by-hand.jsonl");
const BAD: &str = include_str!("verdict_samples/bad-by-hand.jsonl");

/// One answer: of a model with the way it was asked (`chat`: 64 tokens, `long`: 256, `probe-…`: 24), or by
/// hand.
#[derive(Deserialize)]
struct Sample {
    kind: String,
    #[serde(default)]
    finish: Option<String>,
    #[serde(default)]
    verdict: Option<String>,
    text: String,
}

fn samples(file: &str) -> Vec<Sample> {
    file.lines().map(|line| serde_json::from_str(line).expect("a sample of this repository")).collect()
}

fn verdict(sample: &Sample) -> Verdict {
    let expectation = match sample.kind.as_str() {
        "probe-completion" | "probe-fim" => Expectation::CONTINUATION,
        "probe-chat" | "symbols" => Expectation::SENTENCE,
        _ => Expectation::BEGINNING,
    };
    let answer = Answer { text: &sample.text, finish_reason: sample.finish.as_deref(), ..Answer::default() };
    judge(&answer, expectation)
}

/// How many answers of each kind got each verdict: `chat: good 21, repeated 9`.
fn matrix(file: &str) -> Vec<String> {
    let mut counts: BTreeMap<String, BTreeMap<&'static str, u32>> = BTreeMap::new();
    for sample in samples(file) {
        *counts.entry(sample.kind.clone()).or_default().entry(verdict(&sample).word()).or_default() += 1;
    }
    let row = |counts: BTreeMap<&str, u32>| {
        counts.into_iter().map(|(word, n)| format!("{word} {n}")).collect::<Vec<_>>().join(", ")
    };
    counts.into_iter().map(|(kind, counts)| format!("{kind}: {}", row(counts))).collect()
}

/// The verdict on the three answers to the probes of this kind.
fn of_probes(file: &str, kind: &str) -> ReplicaVerdict {
    let verdicts: Vec<Verdict> = samples(file).iter().filter(|s| s.kind == kind).map(verdict).collect();
    assert_eq!(verdicts.len(), 3, "{kind}");
    replica_verdict(&verdicts)
}

#[test]
fn noise_of_random_weights_is_found_in_a_hundred_of_102_answers() {
    let all = [
        "chat: gibberish 30",
        "long: gibberish 12",
        "probe-chat: gibberish 3",
        "probe-completion: gibberish 3",
        "probe-fim: gibberish 3",
    ];
    assert_eq!(matrix(RANDOM_LARGE), all);
    let mut all = all.map(str::to_owned);
    // In 24 tokens, two continuations have no broken character and no loop yet.
    all[3] = "probe-completion: gibberish 2, good 1".into();
    all[4] = "probe-fim: gibberish 2, good 1".into();
    assert_eq!(matrix(RANDOM_SMALL), all);
}

#[test]
fn a_trained_model_speaks_and_its_loops_are_found_once_they_are_long() {
    let expected = [
        // To a reader, 28 of these 30 turn in circles, but 19 of them have not turned often enough in 64
        // tokens.
        "chat: good 21, repeated 9",
        // The two good ones ended after a sentence.
        "long: good 2, repeated 10",
        "probe-chat: good 3",
        "probe-completion: good 3",
        "probe-fim: good 3",
    ];
    assert_eq!(matrix(TRAINED), expected);
}

#[test]
fn the_probes_pass_the_trained_model_and_quarantine_the_random_ones() {
    for kind in ["probe-chat", "probe-completion", "probe-fim"] {
        assert_eq!(of_probes(TRAINED, kind), ReplicaVerdict::Pass, "{kind}");
        for file in [RANDOM_LARGE, RANDOM_SMALL] {
            assert!(matches!(of_probes(file, kind), ReplicaVerdict::Quarantine(_)), "{kind}");
        }
    }
    let chat = Abilities { chat: Some(true), ..Abilities::default() };
    assert!(three_prompts(&chat).expect("it chats").iter().all(|probe| probe.max_tokens == 24), "as sampled");
}

#[test]
fn good_answers_of_many_languages_and_notations_are_good() {
    for sample in samples(GOOD) {
        assert_eq!(verdict(&sample), Verdict::Good, "{}", sample.kind);
    }
}

#[test]
fn bad_answers_by_hand_are_found_each_for_what_it_is() {
    for sample in samples(BAD) {
        let found = verdict(&sample);
        assert_eq!(Some(found.word()), sample.verdict.as_deref(), "{}: {found:?}", sample.kind);
    }
}

#[test]
fn any_good_answer_may_be_cut_anywhere() {
    for sample in samples(GOOD) {
        for (end, _) in sample.text.char_indices().skip(1) {
            let cut =
                Answer { text: &sample.text[..end], finish_reason: Some("length"), ..Answer::default() };
            let found = judge(&cut, Expectation::BEGINNING);
            assert!(
                matches!(found, Verdict::Good | Verdict::Empty(_)),
                "{} at {end}: {found:?}",
                sample.kind
            );
        }
    }
}
