//! How sure a figure is: intervals and tests, each by a formula with a name.

use super::tails;
use crate::statistics::{Share, Z95};

/// The deviate of a power of 80 %: a difference is seen in four of five runs.
const Z80: f64 = 0.841_621_233_572_914_3;
/// Above this e^x is no number any more.
const MOST_EXPONENT: f64 = 700.0;

/// The 95 % interval of a share of which `right` of `n` were seen (Wilson 1927), within [0, 1]; [0, 1] for n = 0.
#[must_use]
pub fn wilson(right: u64, n: u64) -> (f64, f64) {
    Share::wilson(right.min(n), n).map_or((0.0, 1.0), |share| (share.low, share.high))
}

/// A sum of y over a sum of x, with its standard error over the items.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ratio {
    /// Σy / Σx.
    pub value: f64,
    /// By the delta method (Cochran 1977, 6.4): √(n/(n−1) · Σ(y − value·x)²) / Σx; none for one item.
    pub error: Option<f64>,
    /// The deviation of one item: the error is this by √n.
    pub spread: f64,
    /// Items.
    pub n: u64,
}

/// The ratio of pairs of y and x; none where there are none.
pub(super) fn ratio(pairs: &[(f64, f64)]) -> Option<Ratio> {
    let (y, x) = pairs.iter().fold((0.0, 0.0), |(sum_y, sum_x), (y, x)| (sum_y + y, sum_x + x));
    if x <= 0.0 {
        return None;
    }
    let (value, n) = (y / x, pairs.len() as f64);
    let squares: f64 = pairs.iter().map(|(y, x)| (y - value * x).powi(2)).sum();
    let error = (pairs.len() > 1).then(|| (n / (n - 1.0) * squares).sqrt() / x);
    Some(Ratio { value, error, spread: error.unwrap_or_default() * n.sqrt(), n: pairs.len() as u64 })
}

impl Ratio {
    /// Its 95 % interval, Student's t with n − 1 degrees.
    pub(super) fn interval(&self) -> Option<(f64, f64)> {
        let half = self.error? * tails::student_95(self.n as f64 - 1.0);
        Some((self.value - half, self.value + half))
    }

    /// The probability of a value so far from 0 or further, if it were 0 in truth (t test).
    pub(super) fn p(&self) -> Option<f64> {
        let error = self.error?;
        if self.value == 0.0 {
            return Some(1.0);
        }
        Some(tails::student(self.value / error, self.n as f64 - 1.0))
    }
}

/// Texts that would show a difference of `nats`, at 5 % and with a power of 80 %, where one text deviates by `spread`.
pub(super) fn texts_needed(spread: f64, nats: f64) -> Option<u64> {
    whole(((Z95 + Z80) * spread / nats).powi(2))
}

/// e^x, within what a number can be.
pub(super) fn exp(x: f64) -> f64 {
    x.min(MOST_EXPONENT).exp()
}

/// What two runs over the same items did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pairs {
    /// Items.
    pub n: u64,
    /// Right in the first only.
    pub only_a: u64,
    /// Right in the second only.
    pub only_b: u64,
}

impl Pairs {
    /// The share that is right more often in the second.
    pub(super) fn difference(&self) -> f64 {
        (self.only_b as f64 - self.only_a as f64) / self.n.max(1) as f64
    }

    /// Its 95 % interval: Wald's with an item added to each of the two kinds of difference (Bonett and Price 2012).
    pub(super) fn interval(&self) -> (f64, f64) {
        let n = self.n as f64 + 2.0;
        let (a, b) = ((self.only_a + 1) as f64 / n, (self.only_b + 1) as f64 / n);
        let half = Z95 * ((a + b - (b - a).powi(2)) / n).sqrt();
        let seen = self.difference();
        ((b - a - half).clamp(-1.0, seen), (b - a + half).clamp(seen, 1.0))
    }

    /// The exact test of McNemar, both sides.
    pub(super) fn p(&self) -> f64 {
        tails::coin(self.only_a, self.only_b)
    }

    /// Items that would show a difference of `least`, at 5 % and with a power of 80 %, where as many items differ as did
    /// here (Connor 1987).
    pub(super) fn needed(&self, least: f64) -> Option<u64> {
        let differ = ((self.only_a + self.only_b + 2) as f64 / (self.n as f64 + 2.0)).max(least);
        whole(((Z95 * differ.sqrt() + Z80 * (differ - least * least).max(0.0).sqrt()) / least).powi(2))
    }
}

fn whole(n: f64) -> Option<u64> {
    // 2^53: above it floating-point numbers skip whole ones.
    (n.is_finite() && n < 9_007_199_254_740_992.0).then(|| n.ceil() as u64)
}
