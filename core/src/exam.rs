//! Small-sample evaluations: what is asked of a model, how its answers are scored, and whether two runs differ.
//!
//! The shell reads items from JSONL lines ([`Suite::item`]), begins a [`Run`], asks an engine each [`Question`] that
//! [`ask`] makes of an item, and tells the run the [`Answer`]. Prompts, extraction and metrics of the public suites are
//! those of lm-evaluation-harness 0.4.13 (checked against it byte for byte: `core/tests/exam/oracle.py`), so that figures
//! can be laid beside published ones; what is of our own says so at its [`Metric`] and in `docs/evaluations.md`.
//!
//! ```text
//! line ─► Item ─┐                     engine
//! dev  ─► Shots ┴► ask ─► Question ─────► Answer ─► Run::record ─► Run::report (n, value, interval)
//!                                                   two runs ────► compare ─► Gate::judge
//! ```
//!
//! A figure without its n and its interval means nothing on a small sample: none is given without them.

mod check;
mod compare;
mod extract;
mod gate;

mod item;
mod json_shape;
mod mark;
mod miss;
mod page;
mod pattern;
mod python_text;
mod question;
mod record;
mod report;
mod run;
mod shots;
mod statistics;
mod tails;

pub use crate::trial::Finding;
pub use check::{Check, CheckError};
pub use compare::{Comparison, Incomparable, Test, compare};
pub use gate::{Gate, GateError, GateVerdict};
pub use item::{
    GenerationItem, Gsm8kItem, HellaSwagItem, Item, ItemError, ItemId, LONGEST_PAGE, LONGEST_TEXT, MmluItem,
    PageItem,
};
pub use mark::{Failure, ItemScore, score};
pub use miss::{Likelier, Miss, miss};
pub use question::{
    Answer, AskError, ContinuationScore, EngineCan, MOST_TOKENS, Message, Question, Role, ask,
};
pub use record::{LONGEST_ANSWER, Record, SCHEMA, Sitting, Source};
pub use report::{Interval, Method, Report, Score};
pub use run::{ItemResult, Outcome, Run, RunError};
pub use shots::{Shots, ShotsError};
pub use statistics::wilson;

use serde::{Deserialize, Serialize};

/// A kind of exam.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// Questions of school and university with four choices (Hendrycks et al. 2021).
    Mmlu,
    /// Which of four endings continues a text (Zellers et al. 2019).
    HellaSwag,
    /// Word problems whose answer is a number (Cobbe et al. 2021).
    Gsm8k,
    /// How well the model foresees a text.
    Perplexity,
    /// Answers to prompts of one's own, checked by rules of one's own.
    Generation,
}

impl Suite {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Mmlu, Self::HellaSwag, Self::Gsm8k, Self::Perplexity, Self::Generation];

    /// The word used on the command line and in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Mmlu => "mmlu",
            Self::HellaSwag => "hellaswag",
            Self::Gsm8k => "gsm8k",
            Self::Perplexity => "perplexity",
            Self::Generation => "generation",
        }
    }

    /// The suite that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.word() == word)
    }

    /// Examples before each item where nobody says: as the suite is usually quoted.
    #[must_use]
    pub fn usual_shots(self) -> usize {
        match self {
            Self::Mmlu | Self::Gsm8k => 5,
            Self::HellaSwag | Self::Perplexity | Self::Generation => 0,
        }
    }

    /// The ways in which it can be asked, the preferred one first.
    #[must_use]
    pub fn variants(self) -> &'static [Variant] {
        match self {
            Self::Mmlu | Self::HellaSwag => &[Variant::LogLikelihood, Variant::Completion, Variant::Chat],
            Self::Gsm8k => &[Variant::Completion, Variant::Chat],
            Self::Perplexity => &[Variant::LogLikelihood],
            Self::Generation => &[Variant::Chat, Variant::Completion],
        }
    }

    /// The preferred variant that an engine can answer; none for perplexity without token probabilities.
    #[must_use]
    pub fn variant_for(self, engine: EngineCan) -> Option<Variant> {
        self.variants().iter().copied().find(|variant| engine.answers(*variant))
    }

    /// What is measured in `variant`, in the order of reports; the first is the one that gates look at.
    #[must_use]
    pub fn metrics(self, variant: Variant) -> &'static [Metric] {
        match (self, variant) {
            (Self::Mmlu, Variant::LogLikelihood) => &[Metric::Acc],
            (Self::HellaSwag, Variant::LogLikelihood) => &[Metric::AccNorm, Metric::Acc],
            (Self::Mmlu | Self::HellaSwag, _) => &[Metric::Letter, Metric::GetResponse],
            (Self::Gsm8k, _) => &[Metric::StrictMatch, Metric::FlexibleExtract],
            (Self::Perplexity, _) => &[Metric::WordPerplexity, Metric::BytePerplexity, Metric::BitsPerByte],
            (Self::Generation, _) => &[Metric::ChecksPassed, Metric::Sound],
        }
    }
}

/// How a model is asked. Figures of two variants cannot be compared: the report names it beside each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// The engine tells how likely given texts are; nothing is generated.
    #[serde(rename = "loglikelihood")]
    LogLikelihood,
    /// The model goes on with a text, without a chat template.
    Completion,
    /// The model answers a message through its chat template.
    Chat,
}

impl Variant {
    /// The word used in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::LogLikelihood => "loglikelihood",
            Self::Completion => "completion",
            Self::Chat => "chat",
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Metric {
    /// Share of items whose right choice is the likeliest.
    #[serde(rename = "acc")]
    Acc,
    /// As `acc`, each log-likelihood divided by the characters of its choice.
    #[serde(rename = "acc_norm")]
    AccNorm,
    /// The first line of the answer is the letter and nothing else (the harness's generative `mmlu`).
    #[serde(rename = "exact_match,get_response")]
    GetResponse,
    /// The letter that the answer decides for, wherever it says so. Of our own.
    #[serde(rename = "exact_match,letter")]
    Letter,
    /// The number after `#### `.
    #[serde(rename = "exact_match,strict-match")]
    StrictMatch,
    /// The last number of the answer.
    #[serde(rename = "exact_match,flexible-extract")]
    FlexibleExtract,
    /// e to the nats per word.
    #[serde(rename = "word_perplexity")]
    WordPerplexity,
    /// e to the nats per byte.
    #[serde(rename = "byte_perplexity")]
    BytePerplexity,
    /// Bits per byte.
    #[serde(rename = "bits_per_byte")]
    BitsPerByte,
    /// All checks of the item hold. Of our own.
    #[serde(rename = "checks_passed")]
    ChecksPassed,
    /// The answer is whole text: not empty, cut, in circles or gibberish ([`crate::verdict::judge`]). Of our own.
    #[serde(rename = "sound")]
    Sound,
}

impl Metric {
    /// The name used in reports: the harness's own where it has the metric.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::GetResponse => "exact_match,get_response",
            Self::Letter => "exact_match,letter",
            Self::StrictMatch => "exact_match,strict-match",
            Self::FlexibleExtract => "exact_match,flexible-extract",
            Self::WordPerplexity => "word_perplexity",
            Self::BytePerplexity => "byte_perplexity",
            Self::BitsPerByte => "bits_per_byte",
            Self::ChecksPassed => "checks_passed",
            Self::Sound => "sound",
        }
    }

    /// It is a share of items that are right, not a mean over texts.
    #[must_use]
    pub fn is_share(self) -> bool {
        !matches!(self, Self::WordPerplexity | Self::BytePerplexity | Self::BitsPerByte)
    }

    /// More of it is better.
    #[must_use]
    pub fn higher_is_better(self) -> bool {
        self.is_share()
    }
}

#[cfg(test)]
#[path = "exam/golden_tests.rs"]
mod golden_tests;
#[cfg(test)]
#[path = "exam/laws_tests.rs"]
mod laws_tests;
#[cfg(test)]
#[path = "exam/run_tests.rs"]
mod run_tests;
#[cfg(test)]
#[path = "exam/tests.rs"]
mod tests;
