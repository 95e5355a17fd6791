//! How fast a model runs on a machine: measured from live requests, unknown until the first one.

use serde::{Deserialize, Serialize};

/// Weight of a new measurement in the running average: about the last five requests count.
const WEIGHT: f64 = 0.3;

/// Fewer tokens than this measure the clock, not the machine.
const LEAST_TOKENS: u64 = 8;

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
}

/// Running averages for one model on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Speed {
    /// Prompt tokens per second.
    pub prefill: Option<f64>,
    /// Generated tokens per second, of one stream.
    pub decode: Option<f64>,
    /// Tokens of a typical answer.
    pub answer_tokens: Option<f64>,
}

impl Speed {
    /// Takes one request into the averages. Measurements that are too small or not finite are ignored.
    pub fn observe(&mut self, timing: Timing) {
        let rate = |tokens: u64, seconds: f64| {
            let rate = tokens as f64 / seconds;
            (tokens >= LEAST_TOKENS && rate.is_finite() && rate > 0.0).then_some(rate)
        };
        blend(&mut self.prefill, rate(timing.prefill_tokens, timing.prefill_s));
        blend(&mut self.decode, rate(timing.decode_tokens, timing.decode_s));
        blend(&mut self.answer_tokens, (timing.decode_tokens > 0).then_some(timing.decode_tokens as f64));
    }

    /// Seconds for a prompt of `prompt_tokens` and a typical answer; `None` while a speed is unknown.
    #[must_use]
    pub fn seconds(&self, prompt_tokens: u64) -> Option<Seconds> {
        let (prefill, decode, answer) = (self.prefill?, self.decode?, self.answer_tokens?);
        Some(Seconds { prefill: prompt_tokens as f64 / prefill, decode: answer / decode })
    }
}

/// Predicted seconds of one request on an idle machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seconds {
    /// Reading the prompt.
    pub prefill: f64,
    /// Writing the answer.
    pub decode: f64,
}

fn blend(average: &mut Option<f64>, new: Option<f64>) {
    if let Some(new) = new {
        *average = Some(average.map_or(new, |old| old + WEIGHT * (new - old)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_predicted_before_a_measurement() {
        assert_eq!(Speed::default().seconds(1_000), None);
    }

    #[test]
    fn a_prediction_is_prompt_over_prefill_and_answer_over_decode() {
        let mut speed = Speed::default();
        speed.observe(Timing { prefill_tokens: 1_000, prefill_s: 2.0, decode_tokens: 100, decode_s: 4.0 });
        let seconds = speed.seconds(500).expect("measured");
        assert!((seconds.prefill - 1.0).abs() < 1e-9 && (seconds.decode - 4.0).abs() < 1e-9);
    }

    #[test]
    fn a_cached_prompt_does_not_pass_for_a_fast_machine() {
        let mut speed = Speed::default();
        speed.observe(Timing { prefill_tokens: 1, prefill_s: 0.000_001, decode_tokens: 0, decode_s: 0.0 });
        assert_eq!(speed.prefill, None);
    }

    proptest! {
        #[test]
        fn averages_stay_finite_and_positive(
            list in proptest::collection::vec((any::<u32>(), any::<f64>(), any::<u32>(), any::<f64>()), 0..20)
        ) {
            let mut speed = Speed::default();
            for (p, ps, d, ds) in list {
                speed.observe(Timing {
                    prefill_tokens: p.into(), prefill_s: ps, decode_tokens: d.into(), decode_s: ds,
                });
            }
            for average in [speed.prefill, speed.decode, speed.answer_tokens].into_iter().flatten() {
                prop_assert!(average.is_finite() && average > 0.0);
            }
        }
    }
}
