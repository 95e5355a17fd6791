//! All that one finished request tells of its replica: what the engine measured, what the router's clock saw, and
//! what had been predicted.

use super::Timing;
use crate::id::ModeName;
use serde::Serialize;

/// Where an engine tells no times and the answer came as a whole, reading a prompt token is taken as this part of
/// writing one. Between 1/5 (CPUs) and 1/50 (graphics processors); only the order of machines comes from it.
const READ_PER_WRITE: f64 = 0.1;

/// What was predicted of a request, before the bias and without what it costs others.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Predicted {
    /// Seconds to the first content.
    pub ttft_s: f64,
    /// Seconds for each token of the answer.
    pub token_s: f64,
}

/// What a finished request tells.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lesson {
    /// By the engine's own words, where it tells.
    pub timing: Option<Timing>,
    /// Answers that the replica wrote at once meanwhile, this one included.
    pub streams: f64,
    /// The mode that was asked for.
    pub mode: Option<ModeName>,
    /// Seconds from the attempt's start to its first content; for a whole answer to its end.
    pub ttft_s: Option<f64>,
    /// Seconds from the attempt's start to its end.
    pub total_s: f64,
    /// The answer came as a whole, not as a stream.
    pub whole: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    pub completion_tokens: Option<u64>,
    /// The model was not in memory when the attempt started.
    pub cold: bool,
    /// What the decision had predicted.
    pub predicted: Option<Predicted>,
    /// Seconds for a round trip to the machine.
    pub rtt_s: Option<f64>,
}

impl Lesson {
    /// The engine's own times, or what the router's clock says of them: the prompt was read until the first content,
    /// the answer written after it.
    pub(super) fn timing_or_clock(&self) -> Option<Timing> {
        let told = self.timing.filter(|timing| timing.prefill_s > 0.0 || timing.decode_s > 0.0);
        let whole_timing = told.filter(|timing| timing.prefill_s > 0.0);
        if whole_timing.is_some() || self.cold {
            return told;
        }
        let (prompt, answer) = (self.prompt_tokens?, self.completion_tokens?);
        let cached = self.timing.and_then(|timing| timing.cached_tokens).unwrap_or(0);
        let read = prompt.saturating_sub(cached);
        let timing = Timing {
            prefill_tokens: read,
            decode_tokens: answer,
            cached_tokens: Some(cached),
            ..Timing::default()
        };
        if self.whole {
            let unit = self.total_s / (read as f64 * READ_PER_WRITE + answer as f64);
            let prefill_s = unit * READ_PER_WRITE * read as f64;
            return Some(Timing { prefill_s, decode_s: unit * answer as f64, ..timing });
        }
        let ttft_s = self.ttft_s?;
        Some(Timing { prefill_s: ttft_s, decode_s: self.total_s - ttft_s, ..timing })
    }

    /// How the seconds it took compare with the prediction for an answer of this length.
    pub(super) fn actual_over_predicted(&self) -> Option<f64> {
        let (predicted, tokens) = (self.predicted?, self.completion_tokens?);
        let seconds = predicted.ttft_s + predicted.token_s * tokens as f64;
        let ratio = self.total_s / seconds;
        (seconds > 0.0 && ratio.is_finite() && ratio > 0.0).then_some(ratio)
    }
}
