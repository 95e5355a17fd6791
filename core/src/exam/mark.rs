//! The score of one answer.

use super::item::{Item, LONGEST_PAGE};
use super::question::{Answer, ContinuationScore, choices, letter, stop};
use super::{Metric, Suite, extract, python_text};
use crate::verdict::{self, Expectation, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A sum of logarithms above 0 by no more than this is rounding.
const ROUNDING: f64 = 1e-3;
/// No tokenizer and no model come below this (nats per byte): e^-100 for each byte.
const LEAST_PER_BYTE: f64 = -100.0;
/// What ends the thinking that a model writes into its answer.
const END_OF_THINKING: &str = "</think>";

/// What one answer is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemScore {
    /// Right or wrong, by each metric.
    Marks {
        /// By metric.
        right: BTreeMap<Metric, bool>,
        /// The answer ended for want of tokens.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cut: bool,
    },
    /// How likely a text is.
    Text {
        /// Natural logarithm of its probability: finite, not above 0.
        log_likelihood: f64,
        /// Words of the text as it stands in the file.
        words: u64,
        /// Bytes of it.
        bytes: u64,
    },
}

/// Why an answer could not be scored: a fault of the engine or of the way to it, not of the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no answer.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// It answers another question.
    #[error("the answer is not of the kind that was asked for")]
    OtherKind,
    /// Another number of choices than was asked about.
    #[error("{scored} choices have a log-likelihood, {asked} were asked about")]
    Choices {
        /// How many it tells.
        scored: usize,
        /// How many were asked.
        asked: usize,
    },
    /// A value that no probability has.
    #[error("a log-likelihood of {0}, which is no logarithm of a probability")]
    NoProbability(String),
    /// Nothing tells the choices apart.
    #[error("every choice has a probability of 0")]
    AllImpossible,
}

/// Scores one answer.
///
/// # Errors
/// There is none, or it has values that are no answer.
pub fn score(item: &Item, answer: &Answer) -> Result<ItemScore, Failure> {
    match (item, answer) {
        (_, Answer::Nothing { why }) => Err(Failure::NoAnswer(why.clone())),
        (Item::Mmlu(own), Answer::Continuations(scores)) => likeliest(item, own.answer, scores),
        (Item::HellaSwag(own), Answer::Continuations(scores)) => likeliest(item, own.label, scores),
        (Item::Page(own), Answer::Rolling { log_likelihood }) => {
            let bytes = own.text.len() as u64;
            if !believable(*log_likelihood, bytes) {
                return Err(Failure::NoProbability(log_likelihood.to_string()));
            }
            let words = python_text::pieces(&own.text);
            Ok(ItemScore::Text { log_likelihood: log_likelihood.min(0.0), words, bytes })
        }
        (Item::Page(_), _) | (_, Answer::Rolling { .. }) => Err(Failure::OtherKind),
        (_, Answer::Text { text, cut }) => Ok(ItemScore::Marks { right: marks(item, text, *cut), cut: *cut }),
        (_, Answer::Continuations(_)) => Err(Failure::OtherKind),
    }
}

/// Whether so many bytes can have that log-likelihood.
pub(super) fn believable(log_likelihood: f64, bytes: u64) -> bool {
    let bytes = bytes.min(LONGEST_PAGE as u64) as f64;
    log_likelihood.is_finite() && (LEAST_PER_BYTE * bytes..=ROUNDING).contains(&log_likelihood)
}

/// `acc` and `acc_norm`: whether the right choice is the likeliest. Of equals the first is chosen.
fn likeliest(item: &Item, right: usize, scores: &[ContinuationScore]) -> Result<ItemScore, Failure> {
    let marks =
        chances(item, scores)?.into_iter().map(|(metric, logs)| (metric, first_greatest(&logs) == right));
    Ok(ItemScore::Marks { right: marks.collect(), cut: false })
}

/// What each metric compares: the log-likelihood of each choice, as it is and for each of its characters. (The harness's
/// documentation speaks of bytes; what it divides by is Python's `len`: characters.)
///
/// # Errors
/// There are not as many as choices, or they are no logarithms of probabilities.
pub(super) fn chances(
    item: &Item,
    scores: &[ContinuationScore],
) -> Result<BTreeMap<Metric, Vec<f64>>, Failure> {
    let choices = choices(item);
    if scores.len() != choices.len() {
        return Err(Failure::Choices { scored: scores.len(), asked: choices.len() });
    }
    let logs: Vec<f64> = scores.iter().map(|score| score.log_likelihood).collect();
    if let Some(wrong) = logs.iter().find(|log| log.is_nan() || **log > ROUNDING) {
        return Err(Failure::NoProbability(wrong.to_string()));
    }
    if logs.iter().all(|log| *log == f64::NEG_INFINITY) {
        return Err(Failure::AllImpossible);
    }
    let logs: Vec<f64> = logs.into_iter().map(|log| log.min(0.0)).collect();
    let mut chances = BTreeMap::new();
    if item.suite() == Suite::HellaSwag {
        // An ending without characters has nothing for each of them.
        let each = |(log, choice): (&f64, &String)| match choice.chars().count() {
            0 => f64::NEG_INFINITY,
            characters => log / characters as f64,
        };
        chances.insert(Metric::AccNorm, logs.iter().zip(&choices).map(each).collect());
    }
    chances.insert(Metric::Acc, logs);
    Ok(chances)
}

pub(super) fn first_greatest(values: &[f64]) -> usize {
    let mut best = 0;
    for (at, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = at;
        }
    }
    best
}

/// Every metric of a generated answer.
fn marks(item: &Item, text: &str, cut: bool) -> BTreeMap<Metric, bool> {
    let seen = visible(text, &stop(item));
    match item {
        Item::Mmlu(own) => letters(seen, own.answer),
        Item::HellaSwag(own) => letters(seen, own.label),
        Item::Gsm8k(own) => BTreeMap::from([
            (Metric::StrictMatch, extract::same_number(extract::strict_match(seen), &own.answer)),
            (Metric::FlexibleExtract, extract::same_number(extract::flexible_extract(seen), &own.answer)),
        ]),
        Item::Generation(own) => {
            let finish_reason = Some(if cut { "length" } else { "stop" });
            let answer = verdict::Answer { text: seen, finish_reason, ..verdict::Answer::default() };
            let sound = verdict::judge(&answer, Expectation::WHOLE) == Verdict::Good;
            BTreeMap::from([
                (Metric::ChecksPassed, own.checks.iter().all(|check| check.holds(seen))),
                (Metric::Sound, sound),
            ])
        }
        Item::Page(_) => BTreeMap::new(),
    }
}

fn letters(seen: &str, right: usize) -> BTreeMap<Metric, bool> {
    BTreeMap::from([
        (Metric::GetResponse, extract::same_words(extract::first_line(seen), &letter(right))),
        (Metric::Letter, extract::letter(seen, extract::LETTERS) == Some(right)),
    ])
}

/// What follows the thinking, up to the first stop: engines may ignore stops, and a model may think in its answer.
pub(super) fn visible<'a>(text: &'a str, stop: &[String]) -> &'a str {
    let thought = text.rsplit_once(END_OF_THINKING);
    let text = thought.map_or(text, |(_, said)| said.trim_start_matches(python_text::is_space));
    stop.iter()
        .filter(|stop| !stop.is_empty())
        .fold(text, |text, stop| text.split(stop.as_str()).next().unwrap_or(text))
}
