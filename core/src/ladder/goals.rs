//! Does a rung meet what a mode asks for, and by how much?

use super::record::{ModeGoal, Outcome, Rung};
use super::summary::{RungSummary, summarise};
use std::fmt;

/// A sweet spot is better than its target by this part of it: a longer context, a warmer day and another program each
/// take some.
pub const HEADROOM: f64 = 0.1;

/// A rung with its figures.
#[derive(Debug, Clone)]
pub(super) struct Climbed<'a> {
    pub(super) rung: &'a Rung,
    pub(super) summary: RungSummary,
    /// Its place on the ladder.
    pub(super) place: usize,
}

impl Climbed<'_> {
    /// It was measured to its end.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.summary.outcome, Outcome::Done)
    }

    /// Tokens each second of one request; of a rung that was not measured to its end nothing that may be compared.
    pub(super) fn rate(&self) -> Option<f64> {
        let rate = self.summary.decode.map(|decode| decode.median).filter(|rate| *rate > 0.0);
        rate.filter(|_| self.is_done())
    }

    /// Bytes that are read for each token: the weights, of a sparse model the part that is active.
    pub(super) fn traffic(&self) -> Option<f64> {
        traffic(self.rung.size?.0, self.rung.parameters, self.rung.active_parameters)
    }
}

pub(super) fn traffic(size: u64, parameters: Option<u64>, active: Option<u64>) -> Option<f64> {
    let share = match (active, parameters) {
        (Some(active), Some(all)) if active > 0 && active < all => active as f64 / all as f64,
        _ => 1.0,
    };
    Some(size as f64 * share).filter(|bytes| *bytes > 0.0)
}

/// One thing that a mode asks for and a rung has not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Miss {
    /// Too few tokens each second.
    Rate { has: Option<f64>, wants: f64 },
    /// The first content comes too late.
    Ttft { has: Option<f64>, wants: f64 },
    /// The end comes too late.
    Answer { has: Option<f64>, wants: f64 },
    /// Too short a context.
    Context { has: u32, wants: u32 },
}

impl Miss {
    /// It was measured, and is too slow.
    pub(super) fn is_slow(self) -> bool {
        match self {
            Self::Rate { has, .. } | Self::Ttft { has, .. } | Self::Answer { has, .. } => has.is_some(),
            Self::Context { .. } => false,
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate { has: Some(has), wants } => {
                write!(out, "{} tok/s of {} wanted", number(*has), number(*wants))
            }
            Self::Rate { has: None, wants } => {
                write!(out, "tok/s not measured, {} wanted", number(*wants))
            }
            Self::Ttft { has: Some(has), wants } => {
                write!(out, "TTFT {} s of {} s wanted", number(*has), number(*wants))
            }
            Self::Ttft { has: None, wants } => write!(out, "TTFT not measured, {} s wanted", number(*wants)),
            Self::Answer { has: Some(has), wants } => {
                write!(out, "answers in {} s of {} s wanted", number(*has), number(*wants))
            }
            Self::Answer { has: None, wants } => {
                write!(out, "answers not timed, {} s wanted", number(*wants))
            }
            Self::Context { has, wants } => write!(out, "context {has} of {wants} wanted"),
        }
    }
}

/// All that `goal` asks for and `climbed` has not with so much headroom. Empty = it does. Rates and p50 are compared
/// with headroom, the p95 of TTFT without. Where none is asked for, only medians count: one slow request is no
/// reason to give a model up.
pub(super) fn misses(goal: &ModeGoal, climbed: &Climbed<'_>, headroom: f64) -> Vec<Miss> {
    let summary = &climbed.summary;
    let mut misses = Vec::new();
    if let Some(wants) = least_rate(goal).map(|least| least * (1.0 + headroom)) {
        let has = climbed.rate();
        if has.is_none_or(|has| has < wants) {
            misses.push(Miss::Rate { has, wants });
        }
    }
    if let Some(wants) = asked(goal.target.ttft_s) {
        let usual = summary.ttft.map(|ttft| ttft.p50);
        let worst = summary.ttft.map(|ttft| ttft.p95);
        if usual.is_none_or(|has| has > wants * (1.0 - headroom)) {
            misses.push(Miss::Ttft { has: usual, wants: wants * (1.0 - headroom) });
        } else if headroom > 0.0 && worst.is_none_or(|has| has > wants) {
            misses.push(Miss::Ttft { has: worst, wants });
        }
    }
    if let Some(wants) = asked(goal.answer_s).map(|most| most * (1.0 - headroom)) {
        let has = summary.response.map(|response| response.p50);
        if has.is_none_or(|has| has > wants) {
            misses.push(Miss::Answer { has, wants });
        }
    }
    let context = climbed.rung.subject.as_ref().and_then(|subject| subject.context);
    if let (Some(has), Some(wants)) = (context, goal.context)
        && has < wants
    {
        misses.push(Miss::Context { has, wants });
    }
    misses
}

/// [`misses`] of a rung that stands alone, in words.
pub(crate) fn missed(goal: &ModeGoal, rung: &Rung, headroom: f64) -> Vec<String> {
    let climbed = Climbed { rung, summary: summarise(rung), place: 0 };
    misses(goal, &climbed, headroom).iter().map(ToString::to_string).collect()
}

/// The figures by which a rung meets a goal.
pub(super) fn figures(goal: &ModeGoal, climbed: &Climbed<'_>) -> String {
    let mut parts = Vec::new();
    if let Some(rate) = climbed.rate() {
        let least = least_rate(goal).map_or_else(String::new, |least| format!(" (≥ {})", number(least)));
        parts.push(format!("{} tok/s{least}", number(rate)));
    }
    if let (Some(ttft), Some(most)) = (climbed.summary.ttft, asked(goal.target.ttft_s)) {
        let (p50, p95) = (number(ttft.p50), number(ttft.p95));
        parts.push(format!("TTFT p50/p95 {p50}/{p95} s (≤ {})", number(most)));
    }
    if let (Some(response), Some(most)) = (climbed.summary.response, asked(goal.answer_s)) {
        parts.push(format!("answers in {} s (≤ {})", number(response.p50), number(most)));
    }
    if parts.is_empty() { "nothing was measured".into() } else { parts.join(", ") }
}

/// The least rate of a goal; of one that only says its time for each token, 1 / that.
pub(super) fn least_rate(goal: &ModeGoal) -> Option<f64> {
    let by_time = || asked(goal.target.tpot_s).map(|seconds| 1.0 / seconds);
    asked(goal.least_decode).or_else(by_time)
}

/// A target that says something.
fn asked(target: Option<f64>) -> Option<f64> {
    // What is beyond these is a slip of the pen, and would not survive a multiplication.
    target.filter(|target| (1e-9..=1e9).contains(target))
}

/// A rate or a time, for people: `148`, `54.7`, `0.52`.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        1e6.. => format!("{value:.2e}"),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.01.. => format!("{value:.2}"),
        _ => format!("{value:.1e}"),
    }
}
