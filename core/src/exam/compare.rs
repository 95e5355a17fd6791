//! Do two runs over the same items differ, and how sure is that?
//!
//! Each item is its own control: only items that both runs scored count, and of shares only those on which they differ
//! say anything. The first run is the baseline.

use super::item::ItemId;
use super::report::{self, Interval, Method};
use super::run::Run;
use super::statistics::{Pairs, exp, ratio, texts_needed};
use super::{Metric, Suite, Variant};
use serde::{Deserialize, Serialize};

/// Below this probability a difference is not taken for chance.
pub(super) const SURE: f64 = 0.05;

/// The test behind a probability.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Test {
    /// The exact test of McNemar on the items on which the runs differ.
    McNemar {
        /// Right in the first run only.
        only_a: u64,
        /// Right in the second run only.
        only_b: u64,
    },
    /// Student's paired t test over texts, of the difference of nats per word or byte (a ratio over texts).
    PairedT,
}

/// Two runs beside each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Of what.
    pub metric: Metric,
    /// Items that both runs scored: all figures are counted from them.
    pub n: u64,
    /// The first run on them.
    pub a: f64,
    /// The second run on them.
    pub b: f64,
    /// Of shares `b − a`, of perplexities `b / a − 1`, of bits per byte `b − a`.
    pub difference: f64,
    /// Where the difference lies in 95 of 100 samples; none for one text.
    pub interval: Option<Interval>,
    /// The probability of such a difference by chance; none for one text.
    pub p: Option<f64>,
    /// Of which test.
    pub test: Test,
    /// Items of the first run only: left out.
    pub only_a: Vec<ItemId>,
    /// Items of the second run only: left out.
    pub only_b: Vec<ItemId>,
    /// Items with one id and different contents: left out.
    pub changed: Vec<ItemId>,
    /// Items of both that one of them did not score: left out.
    pub unscored: Vec<ItemId>,
    /// Some items only show that an evaluation runs.
    pub smoke: bool,
    /// What `needed` is counted from: the share of items that differ, or the deviation of a text's nats.
    spread: Spread,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Spread {
    Pairs { only_a: u64, only_b: u64 },
    Nats(f64),
}

/// Why two runs cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incomparable {
    /// Different exams.
    #[error("the runs are of {} and {}", .0.word(), .1.word())]
    Suites(Suite, Suite),
    /// Asked in different ways.
    #[error("the runs were asked as {} and as {}: run one of them again", .0.word(), .1.word())]
    Variants(Variant, Variant),
    /// Asked after different examples.
    #[error("the runs had {a} and {b} examples before each item, or different ones: run one of them again")]
    Shots {
        /// How many in the first.
        a: usize,
        /// How many in the second.
        b: usize,
    },
    /// The metric belongs to another exam.
    #[error("{} is not measured by {} as {}", .metric.word(), .suite.word(), .variant.word())]
    Metric {
        /// Which metric.
        metric: Metric,
        /// What was asked.
        suite: Suite,
        /// How.
        variant: Variant,
    },
    /// No item was scored in both.
    #[error(
        "no item was scored in both runs: {a} are in the first only, {b} in the second only, {both} in both"
    )]
    NoItems {
        /// In the first run only.
        a: usize,
        /// In the second run only.
        b: usize,
        /// In both.
        both: usize,
    },
}

/// Compares two runs by `metric`; `a` is the baseline.
///
/// # Errors
/// They were not asked the same way, or no item was scored in both.
pub fn compare(a: &Run, b: &Run, metric: Metric) -> Result<Comparison, Incomparable> {
    if a.suite != b.suite {
        return Err(Incomparable::Suites(a.suite, b.suite));
    }
    if a.variant != b.variant {
        return Err(Incomparable::Variants(a.variant, b.variant));
    }
    if a.shots != b.shots || (a.shots > 0 && a.shots_print != b.shots_print) {
        return Err(Incomparable::Shots { a: a.shots, b: b.shots });
    }
    if !a.suite.metrics(a.variant).contains(&metric) {
        return Err(Incomparable::Metric { metric, suite: a.suite, variant: a.variant });
    }
    let only = |one: &Run, other: &Run| -> Vec<ItemId> {
        one.items.keys().filter(|id| !other.items.contains_key(*id)).cloned().collect()
    };
    let (only_a, only_b) = (only(a, b), only(b, a));
    let (mut changed, mut unscored) = (Vec::new(), Vec::new());
    let (mut marks, mut texts) = (Vec::new(), Vec::new());
    for (id, one) in &a.items {
        let Some(other) = b.items.get(id) else { continue };
        if one.print != other.print {
            changed.push(id.clone());
            continue;
        }
        let scores = report::scored(one).zip(report::scored(other));
        let mark = scores.and_then(|(a, b)| report::right(metric, a).zip(report::right(metric, b)));
        let text = scores.and_then(|(a, b)| report::nats(metric, a).zip(report::nats(metric, b)));
        match (mark, text) {
            (Some(mark), _) => marks.push(mark),
            // The same content has as many words and bytes; a file that says otherwise was changed.
            (None, Some((a, b))) if a.1 == b.1 => texts.push((a.0, b.0, a.1)),
            (None, Some(_)) => changed.push(id.clone()),
            (None, None) => unscored.push(id.clone()),
        }
    }
    let found = if metric.is_share() { of_marks(&marks) } else { of_texts(metric, &texts) };
    let both = a.items.len() - only_a.len();
    let found = found.ok_or(Incomparable::NoItems { a: only_a.len(), b: only_b.len(), both })?;
    let smoke = a.smoke || b.smoke;
    let Found { n, a, b, difference, interval, p, test, spread } = found;
    Ok(Comparison {
        metric,
        n,
        a,
        b,
        difference,
        interval,
        p,
        test,
        only_a,
        only_b,
        changed,
        unscored,
        smoke,
        spread,
    })
}

/// The figures of a comparison.
struct Found {
    n: u64,
    a: f64,
    b: f64,
    difference: f64,
    interval: Option<Interval>,
    p: Option<f64>,
    test: Test,
    spread: Spread,
}

fn of_marks(marks: &[(bool, bool)]) -> Option<Found> {
    let count = |is: fn(&(bool, bool)) -> bool| marks.iter().filter(|mark| is(mark)).count() as u64;
    let (n, only_a, only_b) = (count(|_| true), count(|(a, b)| *a && !b), count(|(a, b)| *b && !a));
    let (a, b) = (count(|(a, _)| *a), count(|(_, b)| *b));
    let pairs = Pairs { n, only_a, only_b };
    let (low, high) = pairs.interval();
    (n > 0).then(|| Found {
        n,
        a: a as f64 / n as f64,
        b: b as f64 / n as f64,
        difference: pairs.difference(),
        interval: Some(Interval { low, high, method: Method::BonettPrice }),
        p: Some(pairs.p()),
        test: Test::McNemar { only_a, only_b },
        spread: Spread::Pairs { only_a, only_b },
    })
}

fn of_texts(metric: Metric, texts: &[(f64, f64, f64)]) -> Option<Found> {
    let side = |nats: fn(&(f64, f64, f64)) -> f64| {
        let pairs: Vec<(f64, f64)> = texts.iter().map(|text| (nats(text), text.2)).collect();
        ratio(&pairs)
    };
    let (a, b, d) = (side(|text| text.0)?, side(|text| text.1)?, side(|text| text.1 - text.0)?);
    let interval = d.interval().map(|(low, high)| Interval {
        low: difference(metric, low),
        high: difference(metric, high),
        method: Method::Delta,
    });
    Some(Found {
        n: d.n,
        a: report::of_nats(metric, a.value),
        b: report::of_nats(metric, b.value),
        difference: difference(metric, d.value),
        interval,
        p: d.p(),
        test: Test::PairedT,
        spread: Spread::Nats(d.spread),
    })
}

/// So many nats per word or byte more, as the metric's difference.
fn difference(metric: Metric, nats: f64) -> f64 {
    if metric == Metric::BitsPerByte { nats / std::f64::consts::LN_2 } else { exp(nats) - 1.0 }
}

impl Comparison {
    /// How much worse the second run is: the difference with the sign that makes more of it worse.
    #[must_use]
    pub fn worse(&self) -> f64 {
        if self.metric.higher_is_better() { -self.difference } else { self.difference }
    }

    /// The most that it may be worse by: the end of the interval on that side.
    #[must_use]
    pub fn worse_at_most(&self) -> Option<f64> {
        self.interval
            .map(|interval| if self.metric.higher_is_better() { -interval.low } else { interval.high })
    }

    /// The difference is not taken for chance.
    #[must_use]
    pub fn is_sure(&self) -> bool {
        self.p.is_some_and(|p| p < SURE)
    }

    /// Items that would show a difference of `least` in four of five runs, where items differ as much as here; none where
    /// that cannot be told.
    #[must_use]
    pub fn items_needed(&self, least: f64) -> Option<u64> {
        if !(least.is_finite() && least > 0.0) {
            return None;
        }
        match self.spread {
            Spread::Pairs { only_a, only_b } => Pairs { n: self.n, only_a, only_b }.needed(least),
            Spread::Nats(spread) => {
                let nats = if self.metric == Metric::BitsPerByte {
                    least * std::f64::consts::LN_2
                } else {
                    least.ln_1p()
                };
                // With two texts a deviation is told from one difference: that is no ground for a number.
                texts_needed(spread, nats).filter(|_| self.n > 2)
            }
        }
    }

    /// The comparison in one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let (a, b) = (self.shown(self.a), self.shown(self.b));
        let items = if self.metric.is_share() { "items" } else { "texts" };
        let direction = match self.worse() {
            worse if worse > 0.0 => "worse",
            worse if worse < 0.0 => "better",
            _ => return format!("{}: the same, {a}, over {} {items}.", self.metric.word(), self.n),
        };
        // In the direction that the sentence speaks of.
        let between = self.interval.map(|Interval { low, high, .. }| {
            let (low, high) = if self.difference < 0.0 { (-high, -low) } else { (low, high) };
            format!(" (95 %: {} to {})", self.shown_difference(low), self.shown_difference(high))
        });
        let chance = match self.p {
            Some(p) if self.is_sure() => format!("more than chance would do (p = {})", shown_p(p)),
            Some(p) => format!("no more than chance may do (p = {})", shown_p(p)),
            None => "and one text tells nothing about chance".to_owned(),
        };
        format!(
            "{}: {a} before, {b} now over the same {} {items}: {direction} by {}{}, {chance}.",
            self.metric.word(),
            self.n,
            self.shown_difference(self.difference.abs()),
            between.unwrap_or_default(),
        )
    }

    fn shown(&self, value: f64) -> String {
        if self.metric.is_share() { format!("{:.1} %", value * 100.0) } else { format!("{value:.4}") }
    }

    /// A difference as people say it: points, percent, bits.
    pub(super) fn shown_difference(&self, difference: f64) -> String {
        if self.metric.is_share() {
            format!("{:.1} points", difference * 100.0)
        } else if self.metric == Metric::BitsPerByte {
            format!("{difference:.4} bits")
        } else {
            format!("{:.2} %", difference * 100.0)
        }
    }
}

fn shown_p(p: f64) -> String {
    if p < 0.001 { format!("{p:.0e}") } else { format!("{p:.3}") }
}
