//! May a change go in? A gate looks at one comparison and says pass, regressed, or that the items are too few to tell.
//!
//! ```text
//!        better ◄──────────── 0 ────────── most ───────────► worse
//! pass            [────────•────────]       ┊                 all of the interval is allowed
//! regressed                 [───────────────┊──•────────]     more than allowed, and not by chance
//! cannot tell     [─────────────•───────────┊─────]           anything else
//! ```

use super::compare::Comparison;
use serde::{Deserialize, Serialize};

/// More than this share of items that one run has and the other has not: what is left may be another exam.
const MOST_LEFT_OUT: f64 = 0.05;

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    most_worse: f64,
}

/// A gate that nothing could pass, or everything.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "a run may be worse by {0}: expected more than 0 (no number of items shows a difference of nothing) and less than 1"
)]
pub struct GateError(pub f64);

/// What the gate says, each with its reason for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "gate")]
pub enum GateVerdict {
    /// It is not worse by more than is allowed: the interval says so.
    Pass {
        /// In a sentence.
        why: String,
    },
    /// It is worse by more than is allowed, and that is not chance.
    Regressed {
        /// In a sentence.
        why: String,
    },
    /// The items do not say.
    CannotTell {
        /// In a sentence.
        why: String,
        /// Items that would, where more would help and their number can be told.
        items_needed: Option<u64>,
    },
}

impl Gate {
    /// A second run may be worse by `most_worse`: 0.02 = 2 points of a share, 2 % of a perplexity, 0.02 bits per byte.
    ///
    /// # Errors
    /// It is not between 0 and 1.
    pub fn new(most_worse: f64) -> Result<Self, GateError> {
        if most_worse > 0.0 && most_worse < 1.0 {
            Ok(Self { most_worse })
        } else {
            Err(GateError(most_worse))
        }
    }

    /// Judges a comparison; its first run is the baseline.
    #[must_use]
    pub fn judge(&self, comparison: &Comparison) -> GateVerdict {
        let said = comparison.sentence();
        let allowed = comparison.shown_difference(self.most_worse);
        let left_out = comparison.only_a.len() + comparison.only_b.len() + comparison.changed.len();
        let left_out = (left_out + comparison.unscored.len()) as u64;
        if left_out as f64 > MOST_LEFT_OUT * (comparison.n + left_out) as f64 {
            let why = format!(
                "{left_out} of {} items are not scored in both runs, more than {:.0} %: run them again over the same items. {said}",
                comparison.n + left_out,
                MOST_LEFT_OUT * 100.0,
            );
            return GateVerdict::CannotTell { why, items_needed: None };
        }
        if comparison.worse_at_most().is_some_and(|most| most <= self.most_worse) {
            return GateVerdict::Pass { why: format!("{said} Worse by {allowed} is allowed.") };
        }
        if comparison.worse() > self.most_worse && comparison.is_sure() {
            return GateVerdict::Regressed { why: format!("{said} Worse by {allowed} is allowed.") };
        }
        let items_needed = comparison.items_needed(self.most_worse).filter(|needed| *needed > comparison.n);
        let help = match items_needed {
            Some(needed) => format!("about {needed} would show a difference of {allowed}"),
            None => format!(
                "that is too near to the {allowed} that are allowed, or too few to say how many would do"
            ),
        };
        GateVerdict::CannotTell { why: format!("{said} Over {} {help}.", comparison.n), items_needed }
    }
}
