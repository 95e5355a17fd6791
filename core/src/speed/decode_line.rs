//! Seconds for each generated token against how many answers are written at once: a straight line, fitted by least
//! squares in which old requests fade.

use serde::{Deserialize, Serialize};

/// Fewer tokens than this measure the clock, not the machine.
const LEAST_TOKENS: u64 = 8;
/// What earlier requests still weigh after a new one: about the last twenty count, for a line needs more of them than
/// a mean.
const KEEP: f64 = 0.95;
/// A sample is taken as at most this many times faster or slower than the line says.
const OUTLIER: f64 = 4.0;
/// Seconds for a token outside of these are a clock gone wrong.
const SANE: (f64, f64) = (1e-6, 100.0);
/// More answers at once than this are taken as this many: vLLM's own default is 256.
const MOST_STREAMS: f64 = 1024.0;
/// While all requests ran alone the slope is taken as this part of one stream's time. On graphics processors the
/// weights are read once for all streams, so one more costs little.
const PRIOR_SLOPE: f64 = 0.1;
/// How firmly: as a spread of the number of streams, squared. Two requests, one alone and one with two others, weigh as
/// much.
const PRIOR_WEIGHT: f64 = 2.0;

/// Weighted sums over the samples `(n, t)`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct DecodeLine {
    weight: f64,
    n: f64,
    t: f64,
    nn: f64,
    nt: f64,
}

impl DecodeLine {
    /// From an earlier measurement of one stream in tokens each second; nothing from one that is no speed.
    pub(super) fn seed(rate: f64) -> Self {
        let step = 1.0 / rate;
        if !(SANE.0..=SANE.1).contains(&step) {
            return Self::default();
        }
        Self { weight: 1.0, n: 1.0, t: step, nn: 1.0, nt: step }
    }

    /// `(a, c)` of `a + c * n`, both at least 0 and their sum above 0.
    pub(super) fn line(&self) -> Option<(f64, f64)> {
        if self.weight <= 0.0 {
            return None;
        }
        let (n, t) = (self.n / self.weight, self.t / self.weight);
        let spread = (self.nn - self.n * n).max(0.0);
        let together = self.nt - self.n * t;
        // One stream alone would take about t / (1 + 0.1 (n - 1)).
        let prior = PRIOR_SLOPE * t / (1.0 + PRIOR_SLOPE * (n - 1.0));
        let slope = (together + PRIOR_WEIGHT * prior) / (spread + PRIOR_WEIGHT);
        // Neither does a token get faster by company, nor is there one of negative time.
        let slope = slope.clamp(0.0, t / n);
        Some(((t - slope * n).max(0.0), slope))
    }

    pub(super) fn observe(&mut self, tokens: u64, seconds: f64, streams: f64) {
        let step = seconds / tokens as f64;
        if tokens < LEAST_TOKENS || !(SANE.0..=SANE.1).contains(&step) || !streams.is_finite() {
            return;
        }
        let n = streams.clamp(1.0, MOST_STREAMS);
        let expected = self.line().map(|(a, c)| a + c * n);
        let step = expected.map_or(step, |known| step.clamp(known / OUTLIER, known * OUTLIER));
        let step = step.clamp(SANE.0, SANE.1);
        for (sum, new) in [
            (&mut self.weight, 1.0),
            (&mut self.n, n),
            (&mut self.t, step),
            (&mut self.nn, n * n),
            (&mut self.nt, n * step),
        ] {
            *sum = *sum * KEEP + new;
        }
    }
}
