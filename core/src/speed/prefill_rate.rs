//! Prompt tokens read each second, as a ratio of sums: a long prompt says more about it than a short one, in which
//! the start of a request weighs more than its tokens.

use serde::{Deserialize, Serialize};

/// Fewer tokens than this measure the clock, not the machine.
const LEAST_TOKENS: u64 = 8;
/// What earlier requests still weigh after a new one: about the last ten count.
const KEEP: f64 = 0.9;
/// And no more tokens than this count: after a change of the driver one long prompt shows it.
const WINDOW: f64 = 16_384.0;
/// A sample is taken as at most this many times faster or slower than what is known.
const OUTLIER: f64 = 4.0;
/// Rates outside of these are a clock gone wrong: tokens each second.
const SANE: (f64, f64) = (0.01, 1e7);
/// The weight of a seed in tokens.
const SEED_TOKENS: f64 = 512.0;

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct PrefillRate {
    tokens: f64,
    seconds: f64,
}

impl PrefillRate {
    /// From an earlier measurement in tokens each second; nothing from one that is no speed.
    pub(super) fn seed(rate: f64) -> Self {
        if !(SANE.0..=SANE.1).contains(&rate) {
            return Self::default();
        }
        Self { tokens: SEED_TOKENS, seconds: SEED_TOKENS / rate }
    }

    pub(super) fn rate(&self) -> Option<f64> {
        (self.tokens > 0.0).then(|| self.tokens / self.seconds)
    }

    pub(super) fn observe(&mut self, tokens: u64, seconds: f64) {
        let sample = tokens as f64 / seconds;
        if tokens < LEAST_TOKENS || !(SANE.0..=SANE.1).contains(&sample) {
            return;
        }
        let tokens = (tokens as f64).min(WINDOW);
        let sample = self.rate().map_or(sample, |known| sample.clamp(known / OUTLIER, known * OUTLIER));
        let kept = if self.tokens > 0.0 { KEEP.min((WINDOW - tokens) / self.tokens).max(0.0) } else { 0.0 };
        self.tokens = self.tokens * kept + tokens;
        self.seconds = self.seconds * kept + tokens / sample.clamp(SANE.0, SANE.1);
    }
}
