//! Examples with answers that stand before an item: the first few, in order, as the harness takes them for MMLU
//! (`first_n`). For the other suites it draws them by chance; here they are the first everywhere, so that two runs
//! ask the same.

use super::item::{Item, ItemId, Print};
use super::{Suite, question};

/// More than this fit no model's context.
const MOST: usize = 64;

/// Examples, and how many of them stand before each item.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shots {
    each: usize,
    items: Vec<Item>,
}

/// Why there are not enough examples.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShotsError {
    /// A number that makes no sense.
    #[error("{asked} examples before each item; {MOST} at most")]
    TooMany {
        /// How many were asked for.
        asked: usize,
    },
    /// These suites are asked without.
    #[error("{} has no examples before its items: ask for 0, not {asked}", .suite.word())]
    NoExamples {
        /// Which suite.
        suite: Suite,
        /// How many were asked for.
        asked: usize,
    },
    /// Fewer are there than are asked for.
    #[error(
        "{asked} examples asked for, {have} there{}: add some, or ask for fewer",
        .subject.as_ref().map(|subject| format!(" about {subject}")).unwrap_or_default()
    )]
    TooFew {
        /// The subject, where examples are by subject.
        subject: Option<String>,
        /// How many were asked for.
        asked: usize,
        /// How many there are.
        have: usize,
    },
}

impl Shots {
    /// `each` examples of `items` before each item; of MMLU, those of its subject.
    ///
    /// # Errors
    /// Too many are asked for, or the suite has none. Too few of one subject show when an item of it is asked.
    pub fn first(each: usize, items: Vec<Item>) -> Result<Self, ShotsError> {
        if each > MOST {
            return Err(ShotsError::TooMany { asked: each });
        }
        if let Some(suite) = items.first().map(Item::suite).filter(|suite| each > 0 && !has_examples(*suite))
        {
            return Err(ShotsError::NoExamples { suite, asked: each });
        }
        Ok(Self { each, items })
    }

    /// No examples.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// How many stand before each item.
    #[must_use]
    pub fn each(&self) -> usize {
        self.each
    }

    /// Those that stand before `item`: never the item itself.
    pub(super) fn before(&self, item: &Item) -> Result<Vec<&Item>, ShotsError> {
        if self.each > 0 && !has_examples(item.suite()) {
            return Err(ShotsError::NoExamples { suite: item.suite(), asked: self.each });
        }
        let subject = question::subject(item);
        let print = item.print();
        let fits = |other: &&Item| {
            other.suite() == item.suite() && question::subject(other) == subject && other.print() != print
        };
        let found: Vec<&Item> = self.items.iter().filter(fits).take(self.each).collect();
        if found.len() < self.each {
            let subject = subject.map(str::to_owned);
            return Err(ShotsError::TooFew { subject, asked: self.each, have: found.len() });
        }
        Ok(found)
    }

    /// A fingerprint of all of them: two runs with the same were asked the same way.
    #[must_use]
    pub fn print(&self) -> String {
        let mut print = Print::of(&self.each.to_string());
        if self.each > 0 {
            for item in &self.items {
                print.add(&item.print());
            }
        }
        print.hex()
    }

    /// What the examples are called.
    #[must_use]
    pub fn ids(&self) -> Vec<ItemId> {
        self.items.iter().map(Item::id).collect()
    }
}

fn has_examples(suite: Suite) -> bool {
    match suite {
        Suite::Mmlu | Suite::HellaSwag | Suite::Gsm8k => true,
        Suite::Perplexity | Suite::Generation => false,
    }
}
