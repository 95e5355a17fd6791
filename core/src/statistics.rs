//! Figures of few measurements: median, spread, percentiles, and how sure a share is.
//!
//! Values that are not finite are left out before anything is computed, and `None` comes where nothing is left: no
//! function here returns NaN or an infinity.

use serde::{Deserialize, Serialize};

/// The normal quantile of a two-sided 95 % interval.
pub const Z95: f64 = 1.959_963_984_540_054;

/// Part of a whole, with its 95 % interval; all as shares of 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// How many of them.
    pub of: u64,
    /// How many there are.
    pub n: u64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

impl Share {
    /// `of` of `n`, with the Wilson interval: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical
    /// Inference", 1927. It holds for few trials and for shares of 0 and 1, where the usual ± has no width. `None` for no
    /// trials, or for more successes than trials.
    #[must_use]
    pub fn wilson(of: u64, n: u64) -> Option<Self> {
        if n == 0 || of > n {
            return None;
        }
        let (count, share) = (n as f64, of as f64 / n as f64);
        let z2 = Z95 * Z95;
        let middle = (share + z2 / (2.0 * count)) / (1.0 + z2 / count);
        let half =
            Z95 / (1.0 + z2 / count) * (share * (1.0 - share) / count + z2 / (4.0 * count * count)).sqrt();
        // Both ends are exact where all or none succeed; rounding must not move them.
        let low = if of == 0 { 0.0 } else { (middle - half).clamp(0.0, share) };
        let high = if of == n { 1.0 } else { (middle + half).clamp(share, 1.0) };
        Some(Self { of, n, low, high })
    }

    /// The share itself.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.of as f64 / self.n as f64
    }
}

/// Those of `values` that are finite, in order.
#[must_use]
pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The middle one; of an even number of values the mean of both in the middle.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let values = sorted(values);
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    // Halved first: the sum of two huge values is none.
    Some(values[values.len() / 2 - 1] / 2.0 + upper / 2.0)
}

/// The arithmetic mean.
#[must_use]
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    // In order, so that the last digit does not depend on theirs.
    let values = sorted(values);
    let n = values.len() as f64;
    let mean: f64 = values.iter().map(|value| value / n).sum();
    // Between the smallest and the largest, whatever rounding does.
    Some(mean.clamp(*values.first()?, *values.last()?))
}

/// The standard deviation of a sample: squared distances from the mean over n − 1. `None` for fewer than two values, and
/// where it is too large for a number.
#[must_use]
pub fn standard_deviation(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let values = sorted(values);
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values.iter().copied())?;
    // In units of the largest distance: squares of huge or tiny ones are none.
    let widest = values.iter().map(|value| (value - mean).abs()).fold(0.0, f64::max);
    if widest == 0.0 {
        return Some(0.0);
    }
    let squares: f64 = values.iter().map(|value| ((value - mean) / widest).powi(2)).sum();
    Some(widest * (squares / (values.len() - 1) as f64).sqrt()).filter(|deviation| deviation.is_finite())
}

/// The smallest value that at least `percent` % of the values do not exceed (nearest rank): a value that was really seen.
#[must_use]
pub fn percentile(values: impl IntoIterator<Item = f64>, percent: f64) -> Option<f64> {
    let values = sorted(values);
    let n = values.len();
    // Rounding must not lift 95 % of 20 to the 20th.
    let rank = (percent.clamp(0.0, 100.0) * n as f64 / 100.0 - 1e-9).ceil().max(1.0);
    values.get((rank as usize).min(n).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn near(found: Option<f64>, wanted: f64) -> bool {
        found.is_some_and(|found| (found - wanted).abs() < 5e-5)
    }

    #[test]
    fn medians_are_the_middle() {
        for (values, wanted) in [
            (vec![3.0, 1.0, 2.0], Some(2.0)),
            (vec![4.0, 1.0, 3.0, 2.0], Some(2.5)),
            (vec![7.0], Some(7.0)),
            (vec![], None),
            (vec![f64::NAN, 5.0, f64::INFINITY], Some(5.0)),
            (vec![f64::MAX, f64::MAX], Some(f64::MAX)),
        ] {
            assert_eq!(median(values.clone()), wanted, "{values:?}");
        }
    }

    #[test]
    fn spreads_are_those_of_a_sample() {
        // By hand: their mean is 5, the squares add up to 32, and 32/7 is 2.13809².
        assert!(near(standard_deviation([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), 2.13809));
        assert_eq!(standard_deviation([3.0, 3.0, 3.0]), Some(0.0));
        assert_eq!(standard_deviation([3.0]), None);
        assert_eq!(standard_deviation([3.0, f64::NAN]), None);
        assert!(near(standard_deviation([1.0, 2.0]), std::f64::consts::FRAC_1_SQRT_2));
        assert_eq!(mean([1.0, 2.0, 6.0]), Some(3.0));
        assert_eq!(mean([]), None);
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        // The example of the nearest-rank method: 15, 20, 35, 40, 50.
        let five = [50.0, 15.0, 40.0, 20.0, 35.0];
        for (percent, wanted) in
            [(5.0, 15.0), (20.0, 15.0), (30.0, 20.0), (40.0, 20.0), (50.0, 35.0), (95.0, 50.0), (100.0, 50.0)]
        {
            assert_eq!(percentile(five, percent), Some(wanted), "{percent}");
        }
        let twenty = || (1..=20).map(f64::from);
        assert_eq!((percentile(twenty(), 95.0), percentile(twenty(), 95.1)), (Some(19.0), Some(20.0)));
        assert_eq!(percentile(twenty(), 0.0), Some(1.0));
        assert_eq!(percentile([], 50.0), None);
        assert_eq!(percentile([f64::NAN], 50.0), None);
    }

    #[test]
    fn shares_have_wilsons_interval() {
        // By the formula, in another language.
        for (of, n, low, high) in [
            (4, 5, 0.37553, 0.96378),
            (1, 5, 0.03622, 0.62447),
            (5, 5, 0.56552, 1.0),
            (0, 5, 0.0, 0.43448),
            (70, 100, 0.60415, 0.78105),
            (19, 20, 0.76387, 0.99112),
        ] {
            let share = Share::wilson(of, n).expect("a share");
            assert!(near(Some(share.low), low) && near(Some(share.high), high), "{share:?}");
        }
        assert_eq!((Share::wilson(0, 0), Share::wilson(6, 5)), (None, None));
        assert_eq!(Share::wilson(1, 4).map(|share| share.value()), Some(0.25));
    }

    proptest! {
        #[test]
        fn nothing_is_ever_nan_and_order_is_nothing(
            values in prop::collection::vec(any::<f64>(), 0..40),
            percent in any::<f64>(),
            turn in 0..40_usize,
        ) {
            let mut turned = values.clone();
            turned.rotate_left(turn.min(values.len()));
            let percent = if percent.is_nan() { 50.0 } else { percent };
            let figures = |values: &[f64]| {
                let values = || values.iter().copied();
                [median(values()), mean(values()), standard_deviation(values()), percentile(values(), percent)]
            };
            prop_assert!(figures(&values).into_iter().flatten().all(f64::is_finite));
            prop_assert_eq!(figures(&values), figures(&turned));
        }

        #[test]
        fn an_interval_holds_its_share_and_narrows_with_more_trials(n in 1..10_000_u64, part in 0.0..=1.0_f64) {
            let of = ((n as f64) * part) as u64;
            let (one, ten) = (Share::wilson(of, n).expect("one"), Share::wilson(of * 10, n * 10).expect("ten"));
            for share in [one, ten] {
                prop_assert!(0.0 <= share.low && share.low <= share.value());
                prop_assert!(share.value() <= share.high && share.high <= 1.0);
            }
            prop_assert!(ten.high - ten.low < one.high - one.low);
        }
    }
}
