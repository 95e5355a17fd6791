//! One exam of one model: which items were asked, and what became of each.

use super::item::{Item, ItemId};
use super::mark::{self, ItemScore};
use super::question::Answer;
use super::{Shots, Suite, Variant};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Items of one run.
pub(super) const MOST_ITEMS: usize = 1_000_000;
/// Bytes of a reason that is kept.
const LONGEST_WHY: usize = 300;

/// What became of one item.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was not answered yet, or the run ended before.
    #[default]
    Missing,
    /// The engine or the way to it failed.
    Failed(String),
    /// It was answered.
    Scored(ItemScore),
}

/// One item in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemResult {
    /// The fingerprint of its content.
    pub print: String,
    /// What reports can be broken down by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// A run, as it is kept in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What was asked.
    pub suite: Suite,
    /// How.
    pub variant: Variant,
    /// Examples before each item.
    pub shots: usize,
    /// The fingerprint of the examples.
    pub shots_print: String,
    /// By item.
    pub items: BTreeMap<ItemId, ItemResult>,
    /// Items that were there twice, and count once.
    pub twice: u64,
    /// Some items are samples that show that an evaluation runs.
    pub smoke: bool,
}

/// Why a run cannot begin or go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// There are none.
    #[error("there are no items")]
    NoItems,
    /// There are too many.
    #[error("{0} items; {MOST_ITEMS} at most in one run")]
    TooMany(usize),
    /// An item of another suite.
    #[error("the item {id} is of {}, the run is of {}", .item.word(), .run.word())]
    OtherSuite {
        /// The item.
        id: ItemId,
        /// Its suite.
        item: Suite,
        /// The run's.
        run: Suite,
    },
    /// One id, two items.
    #[error("two different items are called {0}: give each an id of its own")]
    SameName(ItemId),
    /// It was not asked in this run.
    #[error("the item {0} is not in this run")]
    Unknown(ItemId),
}

impl Run {
    /// A run in which nothing is answered yet.
    ///
    /// # Errors
    /// There are no items, too many, one of another suite, or two different ones with one id.
    pub fn begin(suite: Suite, variant: Variant, shots: &Shots, items: &[Item]) -> Result<Self, RunError> {
        if items.is_empty() {
            return Err(RunError::NoItems);
        }
        if items.len() > MOST_ITEMS {
            return Err(RunError::TooMany(items.len()));
        }
        let (shots, shots_print) = (shots.each(), shots.print());
        let mut run =
            Self { suite, variant, shots, shots_print, items: BTreeMap::new(), twice: 0, smoke: false };
        for item in items {
            let id = item.id();
            if item.suite() != suite {
                return Err(RunError::OtherSuite { id, item: item.suite(), run: suite });
            }
            run.smoke |= item.is_smoke();
            let result = ItemResult {
                print: item.print(),
                group: item.group().map(str::to_owned),
                outcome: Outcome::Missing,
            };
            match run.items.get(&id) {
                None => drop(run.items.insert(id, result)),
                Some(other) if other.print == result.print => run.twice += 1,
                Some(_) => return Err(RunError::SameName(id)),
            }
        }
        Ok(run)
    }

    /// Scores the answer to `item` and keeps what became of it; a second answer takes the place of the first.
    ///
    /// # Errors
    /// The item is not in this run.
    pub fn record(&mut self, item: &Item, answer: &Answer) -> Result<&Outcome, RunError> {
        let id = item.id();
        let outcome = match mark::score(item, answer) {
            Ok(score) if self.is_measured_by(&score) => Outcome::Scored(score),
            Ok(_) => Outcome::Failed(mark::Failure::OtherKind.to_string()),
            Err(failure) => Outcome::Failed(bounded(failure.to_string())),
        };
        match self.items.get_mut(&id) {
            Some(result) if result.print == item.print() => {
                result.outcome = outcome;
                Ok(&result.outcome)
            }
            Some(_) | None => Err(RunError::Unknown(id)),
        }
    }

    /// Makes items on which the engine failed to be asked again.
    pub fn forget_failures(&mut self) {
        for result in self.items.values_mut().filter(|result| matches!(result.outcome, Outcome::Failed(_))) {
            result.outcome = Outcome::Missing;
        }
    }

    /// Items that have no answer yet.
    pub fn missing(&self) -> impl Iterator<Item = &ItemId> {
        self.items.iter().filter(|(_, result)| result.outcome == Outcome::Missing).map(|(id, _)| id)
    }

    /// Whether a score holds what is measured in this run: an answer of another variant does not.
    fn is_measured_by(&self, score: &ItemScore) -> bool {
        let first = self.suite.metrics(self.variant).first();
        match score {
            ItemScore::Marks { right, .. } => first.is_some_and(|metric| right.contains_key(metric)),
            ItemScore::Text { .. } => self.suite == Suite::Perplexity,
        }
    }
}

/// The beginning of a reason: engines put whole pages into theirs.
fn bounded(mut why: String) -> String {
    if why.len() > LONGEST_WHY {
        let end = (0..=LONGEST_WHY).rev().find(|at| why.is_char_boundary(*at)).unwrap_or_default();
        why.truncate(end);
        why.push('…');
    }
    why
}
