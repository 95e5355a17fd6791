//! The document `mesh.bench/v1`: what one climb asked for and what it saw. Raw repetitions stay in, so that every figure
//! can be computed again; no figure that can be computed is kept.
//!
//! A document is checked while it is read ([`super::check`]); a record that a shell builds is checked by
//! [`Record::check`] before it is written.

use crate::id::{MachineId, ModeName, ModelId};
use crate::profile::{HardwareFacts, SoftwareFacts};
use crate::routing::Slo;
use crate::trial::{Ended, Looks, Prefix, Run, Sample, SpeedWork, Subject};
use crate::units::{Bytes, Celsius};
use crate::verdict::Expectation;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The document's form and its version. A change that old readers would misread raises it.
pub const SCHEMA: &str = "mesh.bench/v1";

/// [`SCHEMA`]: a document of another form is refused before the rest of it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schema;

impl TryFrom<String> for Schema {
    type Error = super::RecordProblem;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == SCHEMA {
            return Ok(Self);
        }
        let shown: String = text.chars().take(64).collect();
        Err(super::RecordProblem {
            field: "schema".into(),
            value: format!("`{shown}`"),
            wanted: format!("`{SCHEMA}`"),
        })
    }
}

impl From<Schema> for String {
    fn from(_: Schema) -> Self {
        SCHEMA.into()
    }
}

/// Reads a form's name where only `form` will do: another one is refused before the rest of the document is read.
///
/// # Errors
/// The name that is there and the one that must be.
pub(crate) fn of_form<'de, D: Deserializer<'de>>(deserializer: D, form: &str) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == form {
        return Ok(text);
    }
    let shown: String = text.chars().take(64).collect();
    let problem = super::RecordProblem {
        field: "schema".into(),
        value: format!("`{shown}`"),
        wanted: format!("`{form}`"),
    };
    Err(serde::de::Error::custom(problem))
}

/// One climb of one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Record {
    /// The document's form.
    pub schema: Schema,
    /// Which climb: a-z, 0-9 and `-`.
    pub id: String,
    /// Which machine.
    pub node: MachineId,
    /// The version of the program that climbed.
    pub meshctl: String,
    /// When it began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// When it ended; `null` = it has not.
    pub ended_unix_ms: Option<u64>,
    /// Whose measurements these are; `null` = our own.
    #[serde(default)]
    pub imported: Option<Imported>,
    /// The machine.
    pub hardware: HardwareFacts,
    /// What runs it.
    pub software: SoftwareFacts,
    /// What was asked of each rung.
    pub settings: Settings,
    /// What each mode asks for.
    pub modes: Vec<ModeGoal>,
    /// From the smallest to the largest, in the order in which they were climbed.
    pub rungs: Vec<Rung>,
    /// Why it went no further; `null` = it goes on, or all rungs were climbed.
    pub stopped: Option<Stopped>,
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

/// Measurements that another program made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Which program: `llama-bench`.
    pub from: String,
    /// Its build.
    pub build: String,
}

/// What was asked of each rung.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The models that were chosen, smallest first; none = those of the rungs, as in imports.
    #[serde(default)]
    pub models: Vec<ModelId>,
    /// Lengths of prompts and answers.
    pub matrix: Vec<Shape>,
    /// Requests at once, each tried with every shape.
    pub streams: Vec<u32>,
    /// How often each cell, beside a warm-up that does not count.
    pub repetitions: u32,
    /// Seed of the sampling and of the prompts' words.
    pub seed: u64,
    /// Whether prompts could be in the engine's cache.
    pub prefix: Prefix,
    /// The version of the set of questions: `v3`.
    pub prompts: String,
    /// Seconds of the soak; `null` = none.
    pub soak_s: Option<u32>,
    /// The least share of good answers, 0 to 1: below it no larger rung is tried.
    pub success_threshold: f64,
    /// A machine that is not cooler than this when idle starts no rung; `null` = not watched.
    pub idle_below: Option<Celsius>,
    /// A machine that stays hotter than this under load climbs no further; `null` = not watched.
    pub sustained_below: Option<Celsius>,
    /// How the questions were sampled.
    pub sampling: Sampling,
}

/// The lengths of a prompt and its answer, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    /// Of the prompt.
    pub prompt: u32,
    /// Of the answer.
    pub output: u32,
}

/// How questions are sampled. `null` = the engine's own value.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// 0 = the likeliest token each time.
    pub temperature: Option<f64>,
    /// The likeliest tokens that have this much of the probability together.
    pub top_p: Option<f64>,
    /// The most tokens of an answer.
    pub max_tokens: Option<u32>,
}

/// What a mode asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModeGoal {
    /// Its name.
    pub mode: ModeName,
    /// Times that it asks for.
    pub target: Slo,
    /// Seconds to the end of an answer; `null` = it does not say.
    #[serde(default)]
    pub answer_s: Option<f64>,
    /// Tokens of one request.
    pub context: Option<u32>,
    /// The least tokens each second that it can use; `null` = any will do.
    pub least_decode: Option<f64>,
    /// Where [`ModeGoal::least_decode`] comes from: `1 / tpot`.
    pub how: Option<String>,
}

impl ModeGoal {
    /// The goal of a mode with these times; its least rate follows from the time for each token.
    #[must_use]
    pub fn new(mode: ModeName, target: Slo) -> Self {
        let tpot_s = target.tpot_s.filter(|seconds| seconds.is_finite() && *seconds > 0.0);
        let least_decode = tpot_s.map(|seconds| 1.0 / seconds).filter(|rate| rate.is_finite());
        let how = least_decode.and(tpot_s).map(|seconds| format!("1 / TPOT of {} ms", seconds * 1000.0));
        Self { mode, target, answer_s: None, context: None, least_decode, how }
    }
}

/// One model, tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    /// Its name towards clients.
    pub model: ModelId,
    /// Its size in words: `8b`.
    pub label: String,
    /// Parameters; `null` = not known.
    pub parameters: Option<u64>,
    /// Parameters that one token uses, of a sparse model; `null` = all, or not known.
    pub active_parameters: Option<u64>,
    /// `Q4_K_M`; `null` = not known.
    pub quantisation: Option<String>,
    /// Bytes of its file; `null` = not known.
    pub size: Option<Bytes>,
    /// SHA-256 of its file; `null` = not known.
    pub digest: Option<String>,
    /// What it is made for, where that is not everything: `code`, `vision`.
    #[serde(default)]
    pub specialty: Option<String>,
    /// How it came onto the machine; `null` = it was there.
    pub pull: Option<Pull>,
    /// Seconds until it was in memory; `null` = it was, or not known.
    pub load_s: Option<f64>,
    /// What was tried, as the machine knows it.
    pub subject: Option<Subject>,
    /// The machine before the load, idle.
    #[serde(default)]
    pub before: Sample,
    /// The machine after the load, before the first request.
    #[serde(default)]
    pub after: Sample,
    /// What is missing to load it, where something is.
    #[serde(default)]
    pub shortage: Option<Shortage>,
    /// Its speeds. The same work may stand there more than once: repeated because something disturbed it.
    pub cells: Vec<Cell>,
    /// What it answered.
    pub answers: Vec<Answered>,
    /// What examinations found.
    #[serde(default)]
    pub evaluations: Vec<Evaluation>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Rung {
    /// A model of which nothing is known yet.
    #[must_use]
    pub fn new(model: ModelId, label: impl Into<String>) -> Self {
        Self {
            model,
            label: label.into(),
            parameters: None,
            active_parameters: None,
            quantisation: None,
            size: None,
            digest: None,
            specialty: None,
            pull: None,
            load_s: None,
            subject: None,
            before: Sample::default(),
            after: Sample::default(),
            shortage: None,
            cells: Vec::new(),
            answers: Vec::new(),
            evaluations: Vec::new(),
            outcome: Outcome::Done,
        }
    }
}

/// How a model came onto the machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pull {
    /// Bytes that came.
    pub bytes: Bytes,
    /// Seconds that it took.
    pub seconds: f64,
}

/// What is missing, in bytes. Zero = enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Shortage {
    /// Of graphics memory.
    pub vram: Bytes,
    /// Of main memory; where both are one, of that.
    pub ram: Bytes,
    /// Of the disk.
    pub disk: Bytes,
}

/// One speed that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// What was asked.
    pub work: SpeedWork,
    /// Every request, warm-ups too.
    pub runs: Vec<Run>,
    /// The machine meanwhile.
    pub samples: Vec<Sample>,
    /// How it ended; `null` = it broke.
    pub ended: Option<Ended>,
    /// What speaks against it.
    pub marks: Vec<Mark>,
}

/// What speaks against a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// The machine was slowed down for heat or power.
    Throttled,
    /// Others asked its models meanwhile.
    Disturbed,
    /// Other programs used its processors meanwhile.
    Busy,
}

/// From this share of all processors' time on that other programs used, a measurement is busy: the part by which two speeds
/// may differ and still be called the same.
pub const BUSY: f64 = 0.1;

impl Cell {
    /// What its looks and its end say against it.
    #[must_use]
    pub fn found(&self) -> Vec<Mark> {
        let slowed = self.samples.iter().any(|sample| sample.throttled == Some(true));
        let disturbed = self.ended.is_some_and(|ended| ended.others > 0);
        let found = [
            (slowed, Mark::Throttled),
            (disturbed, Mark::Disturbed),
            (is_busy(&Looks::of(&self.samples), 0.0, f64::INFINITY), Mark::Busy),
        ];
        found.into_iter().filter(|(is_so, _)| *is_so).map(|(_, mark)| mark).collect()
    }
}

/// Whether other programs used much of the processors between two moments. Where that is not known they did not.
pub(super) fn is_busy(looks: &Looks<'_>, from_s: f64, to_s: f64) -> bool {
    looks.others(from_s, to_s).is_some_and(|share| share >= BUSY)
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Which question, of the set that the settings name.
    pub question: String,
    /// What the answer should be like.
    pub expected: Expectation,
    /// What came.
    pub run: Run,
}

/// What one examination found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Which, with its version: `mmlu v2 5-shot`.
    pub suite: String,
    /// The mode that it is about; `null` = all.
    pub mode: Option<ModeName>,
    /// Tasks done well.
    pub passed: u32,
    /// Tasks tried.
    pub tried: u32,
}

/// How a rung ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was measured.
    Done,
    /// It was not tried, and why.
    Skipped(String),
    /// It could not be measured, and why.
    Failed(String),
    /// It could not be fetched, and why: nothing is known of it.
    Absent(String),
}

/// Why a climb went no further.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// The rule.
    pub rule: StopRule,
    /// The reason, with its figures.
    pub why: String,
}

/// Rules that end a climb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopRule {
    /// The next model has no room.
    DoesNotFit,
    /// Too few answers of the last rung were good.
    Success,
    /// The last rung was slower than every mode asks for.
    Slow,
    /// The machine is too hot.
    Hot,
    /// The last rung could not be measured.
    Failed,
    /// A person ended it.
    Operator,
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
