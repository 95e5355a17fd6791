//! How fast a model runs on a machine: from the ladder's measurements first, then fitted to live requests, unknown
//! until there is one or the other.
//!
//! Two laws are fitted: a prompt of `u` tokens that no cache holds takes `u / P` seconds, and with `n` answers being
//! written at once each token takes `a + c * n` seconds (batching makes all of them a little slower, not half as fast).
//! What the two laws leave over is one factor, the bias: how long requests take against what was predicted.

mod decode_line;
mod lesson;
mod prefill_rate;

pub use lesson::{Lesson, Predicted};

use crate::units::Moment;
use decode_line::DecodeLine;
use prefill_rate::PrefillRate;
use serde::{Deserialize, Serialize};

/// Weight of a new value in running averages: about the last five requests count.
const WEIGHT: f64 = 0.3;
/// The bias is held between these: a prediction that is off by more is wrong in its terms, and a factor would only
/// carry one bad minute into the next hour.
const BIAS: (f64, f64) = (0.5, 3.0);
/// One request moves the bias by no more than a ratio of this: a client that reads slowly is no slow machine.
const BIAS_SAMPLE: (f64, f64) = (0.2, 5.0);
/// The longest load that is believed, in seconds: an hour.
const LONGEST_LOAD: f64 = 3600.0;

/// What one finished request tells about speed. Token counts and times as the engine reports them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Timing {
    /// Prompt tokens really processed: without those found in a cache.
    pub prefill_tokens: u64,
    /// Seconds spent on them.
    pub prefill_s: f64,
    /// Tokens generated.
    pub decode_tokens: u64,
    /// Seconds spent on them.
    pub decode_s: f64,
    /// Prompt tokens found in a cache, where the engine tells.
    pub cached_tokens: Option<u64>,
}

/// What is known of the speed of one model on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Speed {
    prefill: PrefillRate,
    decode: DecodeLine,
    bias: Option<f64>,
    load_s: Option<f64>,
    /// The latest measurement of a live request.
    at: Option<Moment>,
}

impl Speed {
    /// A speed from earlier measurements, tokens each second. It weighs as much as one request.
    #[must_use]
    pub fn seed(prefill: Option<f64>, decode: Option<f64>) -> Self {
        Self {
            prefill: prefill.map(PrefillRate::seed).unwrap_or_default(),
            decode: decode.map(DecodeLine::seed).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Takes in one request, with how many answers the replica wrote at once meanwhile (at least 1). Measurements that
    /// are too small or not finite are ignored, and one outlier moves nothing far.
    pub fn observe(&mut self, timing: Timing, streams: f64) {
        self.prefill.observe(timing.prefill_tokens, timing.prefill_s);
        self.decode.observe(timing.decode_tokens, timing.decode_s, streams);
    }

    /// Takes in all that a finished request tells.
    pub fn learn(&mut self, lesson: &Lesson, now: Moment) {
        let timing = lesson.timing_or_clock();
        if let Some(timing) = timing {
            self.observe(timing, lesson.streams);
            self.at = Some(now);
        }
        if lesson.cold {
            // A load hides how far the prediction was off.
            let prefill_s = timing.map_or(0.0, |timing| timing.prefill_s);
            let load_s = lesson.ttft_s.map(|ttft_s| ttft_s - prefill_s);
            blend(&mut self.load_s, load_s.filter(|s| s.is_finite()).map(|s| s.clamp(0.0, LONGEST_LOAD)));
        } else if let Some(ratio) = lesson.actual_over_predicted() {
            let ratio = ratio.clamp(BIAS_SAMPLE.0, BIAS_SAMPLE.1);
            // Before the first answer a prediction was as good as any.
            let mut bias = Some(self.bias.unwrap_or(1.0));
            blend(&mut bias, Some(ratio));
            self.bias = bias.map(|bias| bias.clamp(BIAS.0, BIAS.1));
        }
    }

    /// Prompt tokens read each second.
    #[must_use]
    pub fn prefill(&self) -> Option<f64> {
        self.prefill.rate()
    }

    /// Seconds for each token of an answer: `(a, c)` of `a + c * n` with `n` answers at once.
    #[must_use]
    pub fn decode_line(&self) -> Option<(f64, f64)> {
        self.decode.line()
    }

    /// Actual over predicted seconds; 1 while nothing is known.
    #[must_use]
    pub fn bias(&self) -> f64 {
        self.bias.unwrap_or(1.0)
    }

    /// Seconds until a model that is not in memory is there, once one load has been seen.
    #[must_use]
    pub fn load_s(&self) -> Option<f64> {
        self.load_s
    }

    /// When a live request was measured last.
    #[must_use]
    pub fn measured_at(&self) -> Option<Moment> {
        self.at
    }
}

/// A running average.
pub(crate) fn blend(average: &mut Option<f64>, new: Option<f64>) {
    if let Some(new) = new {
        *average = Some(average.map_or(new, |old| old + WEIGHT * (new - old)));
    }
}

#[cfg(test)]
mod tests;
