//! What a run says: each metric with its n and its interval, and what was not scored.

use super::mark::{ItemScore, believable};
use super::run::{ItemResult, Outcome, Run};
use super::statistics::{exp, ratio, wilson};
use super::{Metric, Suite, Variant};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Kinds of failure that a report names.
const MOST_REASONS: usize = 10;

/// How an interval was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Of a share (Wilson 1927).
    Wilson,
    /// Of a perplexity: the delta method over texts with Student's t (Cochran 1977, 6.4).
    Delta,
    /// Of the difference of two shares over the same items (Bonett and Price 2012).
    BonettPrice,
}

/// A 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// How it was found.
    pub method: Method,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Of what.
    pub metric: Metric,
    /// Shares from 0 to 1; perplexities from 1.
    pub value: f64,
    /// Items that it was counted from.
    pub n: u64,
    /// Where the value of all items of this kind lies in 95 of 100 samples; none for one text.
    pub interval: Option<Interval>,
}

/// A run in figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was asked.
    pub suite: Suite,
    /// How.
    pub variant: Variant,
    /// Examples before each item.
    pub shots: usize,
    /// Items of the run.
    pub asked: u64,
    /// Those that were answered: what all figures are counted from.
    pub scored: u64,
    /// Those on which the engine failed.
    pub failed: u64,
    /// Those that were not answered at all.
    pub missing: u64,
    /// Answers that ended for want of tokens.
    pub cut: u64,
    /// Items that were there twice, and count once.
    pub twice: u64,
    /// The items only show that an evaluation runs: the figures say nothing of the model.
    pub smoke: bool,
    /// The figures, the one that gates look at first; none where nothing was scored.
    pub scores: Vec<Score>,
    /// Why items failed, the most frequent first, ten at most.
    pub failures: Vec<(String, u64)>,
}

impl Run {
    /// The run in figures.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        let (mut missing, mut cut) = (0, 0);
        for result in self.items.values() {
            match &result.outcome {
                Outcome::Missing => missing += 1,
                Outcome::Failed(why) => *reasons.entry(why).or_default() += 1,
                Outcome::Scored(ItemScore::Marks { cut: was_cut, .. }) => cut += u64::from(*was_cut),
                Outcome::Scored(ItemScore::Text { .. }) => {}
            }
        }
        let failed = reasons.values().sum();
        let asked = self.items.len() as u64;
        let mut failures: Vec<(String, u64)> =
            reasons.into_iter().map(|(why, n)| (why.to_owned(), n)).collect();
        failures.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        failures.truncate(MOST_REASONS);
        Report {
            suite: self.suite,
            variant: self.variant,
            shots: self.shots,
            asked,
            scored: asked - failed - missing,
            failed,
            missing,
            cut,
            twice: self.twice,
            smoke: self.smoke,
            scores: self.figures(&self.items.values().filter_map(scored).collect::<Vec<_>>()),
            failures,
        }
    }

    /// The figures of each group (subject, activity) that has any.
    #[must_use]
    pub fn groups(&self) -> BTreeMap<String, Vec<Score>> {
        let mut groups: BTreeMap<&String, Vec<&ItemScore>> = BTreeMap::new();
        for result in self.items.values() {
            if let (Some(group), Some(score)) = (&result.group, scored(result)) {
                groups.entry(group).or_default().push(score);
            }
        }
        groups.into_iter().map(|(name, items)| (name.clone(), self.figures(&items))).collect()
    }

    fn figures(&self, items: &[&ItemScore]) -> Vec<Score> {
        self.suite.metrics(self.variant).iter().filter_map(|metric| figure(*metric, items)).collect()
    }
}

/// The score of an item that has one.
pub(super) fn scored(result: &ItemResult) -> Option<&ItemScore> {
    match &result.outcome {
        Outcome::Scored(score) => Some(score),
        Outcome::Missing | Outcome::Failed(_) => None,
    }
}

fn figure(metric: Metric, items: &[&ItemScore]) -> Option<Score> {
    if metric.is_share() {
        let marks: Vec<bool> = items.iter().filter_map(|item| right(metric, item)).collect();
        let (n, right) = (marks.len() as u64, marks.iter().filter(|right| **right).count() as u64);
        let (low, high) = wilson(right, n);
        let interval = Some(Interval { low, high, method: Method::Wilson });
        return (n > 0).then(|| Score { metric, value: right as f64 / n as f64, n, interval });
    }
    let pairs: Vec<(f64, f64)> = items.iter().filter_map(|item| nats(metric, item)).collect();
    let ratio = ratio(&pairs)?;
    let interval = ratio.interval().map(|(low, high)| {
        // A text cannot be likelier than certain.
        Interval { low: of_nats(metric, low.max(0.0)), high: of_nats(metric, high), method: Method::Delta }
    });
    Some(Score { metric, value: of_nats(metric, ratio.value), n: ratio.n, interval })
}

/// Whether the item is right by `metric`.
pub(super) fn right(metric: Metric, item: &ItemScore) -> Option<bool> {
    match item {
        ItemScore::Marks { right, .. } => right.get(&metric).copied(),
        ItemScore::Text { .. } => None,
    }
}

/// The nats of a text and what they are divided by; none where a file has values that were never measured.
pub(super) fn nats(metric: Metric, item: &ItemScore) -> Option<(f64, f64)> {
    let ItemScore::Text { log_likelihood, words, bytes } = item else { return None };
    // One byte of white space stands between two empty words.
    if !believable(*log_likelihood, *bytes) || !(1..=bytes.saturating_add(1)).contains(words) || *bytes == 0 {
        return None;
    }
    let units = if metric == Metric::WordPerplexity { *words } else { *bytes };
    Some(((-log_likelihood).max(0.0), units as f64))
}

/// The metric of so many nats per word or byte.
pub(super) fn of_nats(metric: Metric, nats: f64) -> f64 {
    if metric == Metric::BitsPerByte { nats / std::f64::consts::LN_2 } else { exp(nats) }
}
