//! Figures of a summary, each with the number of measurements behind it, and the formulas they are computed by.

use crate::statistics::{median, percentile, sorted, standard_deviation};
use serde::Serialize;
use std::ops::RangeInclusive;

/// What each figure is, for those who print it.
pub const FORMULAS: [(&str, &str); 11] = [
    (
        "prompt tok/s",
        "the engine's own rate, else uncached prompt tokens / TTFT; median ± sd over counted runs",
    ),
    ("gen tok/s", "the engine's own rate, else 1 / TPOT, of one stream; median ± sd over counted runs"),
    ("TTFT", "first content − request sent; p50 and p95 by nearest rank"),
    ("TPOT", "(end − TTFT) / (output tokens − 1)"),
    (
        "total tok/s",
        "output tokens of all streams of a repetition / (last end − first sent), reading included",
    ),
    ("degradation", "1 − gen tok/s of one of k streams / gen tok/s with the fewest streams"),
    ("success", "answers without a fault of form / questions, with the 95 % Wilson interval"),
    ("memory taken", "in use after the load − in use before it"),
    ("J/token", "mean watts of the graphics processors × seconds / all output tokens, warm-ups included"),
    ("throttled", "share of looks at the machine that saw it slowed down × seconds"),
    ("sustained", "median gen tok/s of the soak's last quarter / of its first"),
];

/// Rates and times that a clock can have seen. What is beyond them is a slip, and quotients of it would be no numbers.
const SENSIBLE: RangeInclusive<f64> = 1e-9..=1e9;

/// A middle with its spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    /// The median.
    pub median: f64,
    /// The standard deviation; `null` = fewer than two measurements.
    pub sd: Option<f64>,
    /// How many measurements.
    pub n: u64,
}

impl Figure {
    /// Of those values that are sensible: 0, or in [`SENSIBLE`].
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values = sensible(values);
        let (median, n) = (median(values.iter().copied())?, values.len() as u64);
        Some(Self { median, sd: standard_deviation(values), n })
    }

    /// The spread as a part of the middle, where both are known.
    #[must_use]
    pub fn spread(&self) -> Option<f64> {
        finite(self.sd? / self.median)
    }
}

/// How long something takes, usually and at worst.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Times {
    /// Seconds that half of them do not exceed.
    pub p50: f64,
    /// Seconds that 95 of 100 do not exceed.
    pub p95: f64,
    /// How many measurements.
    pub n: u64,
}

impl Times {
    /// Of those values that are sensible: 0, or in [`SENSIBLE`].
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values = sensible(values);
        let at = |percent| percentile(values.iter().copied(), percent);
        Some(Self { p50: at(50.0)?, p95: at(95.0)?, n: values.len() as u64 })
    }
}

fn sensible(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    sorted(values.into_iter().filter(|value| *value == 0.0 || SENSIBLE.contains(value)))
}

/// A number, or nothing.
pub(super) fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}
