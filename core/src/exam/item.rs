//! Items: one line of JSON each, with the columns of the public datasets.
//!
//! A line that breaks a rule is refused by serde with an [`ItemError`] as its message: it names the field, what stands
//! there (its beginning) and what is expected; the shell adds file and line. Columns that are not ours are ignored,
//! except in generation items, whose format is of our own.

mod generation;
mod public;

pub use generation::GenerationItem;
pub use public::{Gsm8kItem, HellaSwagItem, MmluItem, PageItem};

use super::Suite;
use serde::{Deserialize, Deserializer, Serialize};

/// Bytes of one text in an item: a question, a choice, a prompt.
pub const LONGEST_TEXT: usize = 256 * 1024;
/// Bytes of a page for perplexity: the longest of WikiText-103 has some 170 thousand.
pub const LONGEST_PAGE: usize = 4 * 1024 * 1024;
/// Bytes of an id.
const LONGEST_ID: usize = 200;
/// What ids of the samples that come with the program begin with.
const SMOKE: &str = "smoke/";

/// What an item is called in runs: its `id`, or a fingerprint of its content where it has none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemId(String);

impl ItemId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ItemId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

/// Why a line is no item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {seen}, expected {expected}")]
pub struct ItemError {
    /// Which field.
    pub field: String,
    /// What stands there, its beginning.
    pub seen: String,
    /// What should.
    pub expected: String,
}

impl ItemError {
    pub(super) fn new(
        field: impl Into<String>,
        seen: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), seen: seen.into(), expected: expected.into() }
    }
}

/// One question of an exam, checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// Four choices.
    Mmlu(MmluItem),
    /// Four endings.
    HellaSwag(HellaSwagItem),
    /// A word problem.
    Gsm8k(Gsm8kItem),
    /// A text.
    Page(PageItem),
    /// A prompt with checks.
    Generation(GenerationItem),
}

impl Suite {
    /// Reads one item of this suite.
    ///
    /// # Errors
    /// The deserializer's own, with an [`ItemError`] as message where a value breaks a rule.
    pub fn item<'de, D: Deserializer<'de>>(self, from: D) -> Result<Item, D::Error> {
        Ok(match self {
            Self::Mmlu => Item::Mmlu(Deserialize::deserialize(from)?),
            Self::HellaSwag => Item::HellaSwag(Deserialize::deserialize(from)?),
            Self::Gsm8k => Item::Gsm8k(Deserialize::deserialize(from)?),
            Self::Perplexity => Item::Page(Deserialize::deserialize(from)?),
            Self::Generation => Item::Generation(Deserialize::deserialize(from)?),
        })
    }
}

impl Item {
    /// What kind it is.
    #[must_use]
    pub fn suite(&self) -> Suite {
        match self {
            Self::Mmlu(_) => Suite::Mmlu,
            Self::HellaSwag(_) => Suite::HellaSwag,
            Self::Gsm8k(_) => Suite::Gsm8k,
            Self::Page(_) => Suite::Perplexity,
            Self::Generation(_) => Suite::Generation,
        }
    }

    /// What it is called.
    #[must_use]
    pub fn id(&self) -> ItemId {
        let own = match self {
            Self::Mmlu(item) => &item.id,
            Self::HellaSwag(item) => &item.id,
            Self::Gsm8k(item) => &item.id,
            Self::Page(item) => &item.id,
            Self::Generation(item) => &item.id,
        };
        ItemId(own.clone().unwrap_or_else(|| self.print()))
    }

    /// What reports can be broken down by: the subject, the activity.
    #[must_use]
    pub fn group(&self) -> Option<&str> {
        match self {
            Self::Mmlu(item) => Some(&item.subject),
            Self::HellaSwag(item) => Some(&item.activity_label),
            Self::Gsm8k(_) | Self::Page(_) | Self::Generation(_) => None,
        }
    }

    /// It is one of the samples that show that an evaluation runs, and whose figures say nothing else.
    #[must_use]
    pub fn is_smoke(&self) -> bool {
        self.id().0.starts_with(SMOKE)
    }

    /// A fingerprint of what is asked and what is right, whatever the item is called: 16 hexadecimal digits.
    #[must_use]
    pub fn print(&self) -> String {
        let mut print = Print::of(self.suite().word());
        match self {
            Self::Mmlu(item) => {
                print.add(&item.subject).add(&item.question).add_all(&item.choices).number(item.answer);
            }
            Self::HellaSwag(item) => {
                print.add(&item.activity_label).add(&item.ctx_a).add(&item.ctx_b).add_all(&item.endings);
                print.number(item.label);
            }
            Self::Gsm8k(item) => {
                print.add(&item.question).add(&item.answer);
            }
            Self::Page(item) => {
                print.add(&item.text).number(usize::from(item.is_page));
            }
            Self::Generation(item) => {
                print.add(item.system.as_deref().unwrap_or_default()).add(&item.prompt).add_all(&item.stop);
                print.number(item.most_tokens as usize).add(&format!("{:?}", item.checks));
            }
        }
        print.hex()
    }
}

/// FNV-1a (Fowler, Noll, Vo) over texts with their lengths: the same in every version and on every machine.
#[derive(Debug, Clone)]
pub(super) struct Print(u64);

impl Print {
    pub(super) fn of(text: &str) -> Self {
        let mut print = Self(0xcbf2_9ce4_8422_2325);
        print.add(text);
        print
    }

    pub(super) fn add(&mut self, text: &str) -> &mut Self {
        self.number(text.len()).bytes(text.as_bytes())
    }

    fn add_all(&mut self, texts: &[String]) -> &mut Self {
        texts.iter().fold(self.number(texts.len()), |print, text| print.add(text))
    }

    fn number(&mut self, number: usize) -> &mut Self {
        self.bytes(&(number as u64).to_le_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self
    }

    pub(super) fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

/// The beginning of a text in quotes, for errors.
fn shown(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
    }
}

/// A text that is there and not too long.
fn text(field: &str, text: &str, most: usize) -> Result<(), ItemError> {
    if text.len() > most {
        return Err(ItemError::new(field, format!("{} bytes long", text.len()), format!("{most} at most")));
    }
    if text.trim().is_empty() {
        return Err(ItemError::new(field, shown(text), "a text"));
    }
    Ok(())
}

/// An id, where there is one.
fn id(id: Option<&String>) -> Result<(), ItemError> {
    id.map_or(Ok(()), |id| text("id", id, LONGEST_ID))
}
