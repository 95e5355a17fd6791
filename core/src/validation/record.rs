//! The document `mesh.validation/v1`: what was asked of a model and its champion, and what they did. Raw answers stay in,
//! and no figure that can be computed.

use super::bounds;
use crate::id::{MachineId, ModelId};
use crate::ladder::{ModeGoal, RecordProblem, Rung, of_form};
use crate::profile::{HardwareFacts, SoftwareFacts};
use crate::trial::Run;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// The document's form and its version. A change that old readers would misread raises it.
pub const SCHEMA: &str = "mesh.validation/v1";

/// One validation of one model on one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Record {
    /// [`SCHEMA`].
    #[serde(deserialize_with = "form")]
    pub schema: String,
    /// Which validation: a-z, 0-9 and `-`.
    pub id: String,
    /// Which machine.
    pub node: MachineId,
    /// The version of the program that asked.
    pub meshctl: String,
    /// When it began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// When it ended; `null` = it has not.
    pub ended_unix_ms: Option<u64>,
    /// The machine.
    pub hardware: HardwareFacts,
    /// What runs it.
    pub software: SoftwareFacts,
    /// What was asked.
    pub settings: Settings,
    /// What each mode asks for, and by which models it is served.
    pub modes: Vec<Aim>,
    /// The model that is validated.
    pub candidate: Evidence,
    /// The model that it has to be no worse than; `null` = none was named.
    pub champion: Option<Evidence>,
    /// Why it was ended before all was asked; `null` = it was not.
    pub stopped: Option<String>,
}

fn form<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    of_form(deserializer, SCHEMA)
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let record = Self::deserialize(deserializer)?;
        record.check().map_err(serde::de::Error::custom)?;
        Ok(record)
    }
}

impl Record {
    /// Whether it keeps to the bounds.
    ///
    /// # Errors
    /// The first field that does not.
    pub fn check(&self) -> Result<(), RecordProblem> {
        bounds::record(self)
    }
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Tokens of the prompts with which the speed is measured, shortest first.
    pub contexts: Vec<u32>,
    /// Tokens of their answers.
    pub output: u32,
    /// How often each, beside a warm-up that does not count.
    pub repetitions: u32,
    /// Seed of the sampling and of all that is made up.
    pub seed: u64,
    /// The version of the questions: `v1`.
    pub questions: String,
}

/// A mode, and the models that serve it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Aim {
    /// What it asks for.
    pub goal: ModeGoal,
    /// Its models, best first; none = the mesh chooses.
    pub models: Vec<ModelId>,
}

/// What one model did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The model, its load, its speeds and its answers.
    pub rung: Rung,
    /// Tokens of one request that it was trained for; `null` = not known.
    pub trained_context: Option<u32>,
    /// Which prompt its speed at each context of the settings was measured with, in their order.
    pub contexts: Vec<Reached>,
    /// Answers that had to be JSON of a given form.
    pub forms: Vec<Formed>,
    /// Answers that needed a tool.
    pub calls: Vec<Called>,
    /// Answers that needed one sentence of a long text.
    pub needles: Vec<Needle>,
    /// What was not asked, and why.
    pub unasked: Vec<Unasked>,
}

impl Evidence {
    /// A model of which nothing was seen yet.
    #[must_use]
    pub fn new(rung: Rung, trained_context: Option<u32>) -> Self {
        let (contexts, forms, calls) = (Vec::new(), Vec::new(), Vec::new());
        Self { rung, trained_context, contexts, forms, calls, needles: Vec::new(), unasked: Vec::new() }
    }
}

/// One context of the settings, as it could be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Tokens that were wanted.
    pub asked: u32,
    /// Tokens of the prompts that were made; fewer where the model has no room for all. `null` = none was made.
    pub prompt: Option<u32>,
}

/// A question whose answer had to be a JSON object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Formed {
    /// The keys that it must have, and no others, with the kind of each.
    pub wanted: BTreeMap<String, Sort>,
    /// What came.
    pub run: Run,
    /// What the text is, read as JSON.
    pub said: Said,
}

/// A question whose answer needed a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The tool.
    pub tool: String,
    /// Its argument that counts.
    pub argument: String,
    /// What that must be; what follows it after a comma may be anything.
    pub value: String,
}

/// One such question and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Called {
    /// What had to be called.
    pub wanted: Asked,
    /// What came.
    pub run: Run,
    /// The calls in it.
    pub calls: Vec<Call>,
}

/// A tool that a model called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Its arguments, read as JSON.
    pub arguments: Said,
}

/// One sentence in a long text, and whether it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Needle {
    /// Where it stood, in percent of the text.
    pub depth: u32,
    /// What the answer must have in it.
    pub code: String,
    /// What came.
    pub run: Run,
}

/// A text, read as JSON by whoever asked: the core has no reader of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// An object: its keys with what they hold.
    Object(BTreeMap<String, Piece>),
    /// Something else, and what.
    Other(String),
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// Its kind.
    pub sort: Sort,
    /// Of a text: the text. Empty for all else.
    pub text: String,
}

/// Kinds of JSON values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// A text.
    Text,
    /// A number without a fraction.
    Whole,
    /// Another number.
    Number,
    /// `true` or `false`.
    Truth,
    /// An array.
    List,
    /// An object.
    Object,
    /// `null`.
    Null,
}

impl Sort {
    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Whole => "a whole number",
            Self::Number => "a number",
            Self::Truth => "true or false",
            Self::List => "a list",
            Self::Object => "an object",
            Self::Null => "null",
        }
    }
}

/// What can be asked, beside speed and the fixed questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ability {
    /// JSON of a given form.
    Json,
    /// Tools.
    Tools,
    /// One sentence of a long text.
    Needle,
}

/// Something that was not asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unasked {
    /// What.
    pub what: Ability,
    /// Why.
    pub why: String,
}
