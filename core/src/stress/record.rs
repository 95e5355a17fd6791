//! The document `mesh.stress/v1`: which models worked when, beside which others, and what the machine did meanwhile. Raw
//! requests stay in, and no figure that can be computed.

use crate::id::{MachineId, ModelId};
use crate::ladder::check::{
    self, FEW, MODES, between, cell, count, each, id, length, mode, problem, rung, seconds, times, within,
    words,
};
use crate::ladder::{Cell, ModeGoal, RecordProblem, Rung, of_form};
use crate::profile::{HardwareFacts, SoftwareFacts};
use crate::trial::{SOAK_S, TOKENS};
use crate::units::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeSet;

/// The document's form and its version. A change that old readers would misread raises it.
pub const SCHEMA: &str = "mesh.stress/v1";
/// Models of one record, at most: so many on one machine are a mistake.
pub const MODELS: usize = 16;
/// The longest reason that a record takes, in bytes.
pub const REASON: usize = check::REASON;
/// Stints, at most: each model alone, in pairs, with all, with all and downloads.
const STINTS: usize = 1024;

/// One machine under stress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Record {
    /// [`SCHEMA`].
    #[serde(deserialize_with = "form")]
    pub schema: String,
    /// Which: a-z, 0-9 and `-`.
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
    /// What each mode asks for.
    pub modes: Vec<ModeGoal>,
    /// The models that were in memory together. Their cells are in the stints.
    pub models: Vec<Rung>,
    /// Models that were to be there, and were not.
    pub left_out: Vec<LeftOut>,
    /// What each model did, in the order of their beginnings.
    pub stints: Vec<Stint>,
    /// What was fetched meanwhile.
    pub downloads: Vec<Download>,
    /// Why it was ended before all was done; `null` = it was not.
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

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Tokens of each prompt.
    pub prompt: u32,
    /// Tokens of each answer.
    pub output: u32,
    /// Seconds that each model works, alone and beside others.
    pub seconds: u32,
    /// Seed of the sampling and of the prompts' words.
    pub seed: u64,
}

/// A model that was not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Which.
    pub model: ModelId,
    /// Why.
    pub why: String,
}

/// One model at work for a while, one request after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stint {
    /// Which.
    pub model: ModelId,
    /// Models that worked at the same time.
    pub beside: Vec<ModelId>,
    /// Models that were fetched at the same time.
    pub fetching: Vec<ModelId>,
    /// When it began, in seconds after the record's beginning.
    pub began_s: f64,
    /// Its requests, and the machine meanwhile.
    pub cell: Cell,
    /// Why it ended early; `null` = it did not.
    pub broke: Option<String>,
}

/// A file that was fetched during the work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Download {
    /// Under which name.
    pub model: ModelId,
    /// When it began, in seconds after the record's beginning.
    pub began_s: f64,
    /// Seconds that it went on while models worked.
    pub seconds: f64,
    /// Bytes that came meanwhile.
    pub bytes: Bytes,
    /// How it stood when the models had ended.
    pub state: Fetched,
}

/// What became of a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fetched {
    /// It went on until the models had ended.
    Running,
    /// All of it was there before.
    Done,
    /// It did not go well, and why.
    Failed(String),
}

impl Record {
    /// Whether it keeps to the bounds.
    ///
    /// # Errors
    /// The first field that does not.
    pub fn check(&self) -> Result<(), RecordProblem> {
        if self.schema != SCHEMA {
            let shown: String = self.schema.chars().take(64).collect();
            return Err(problem("schema", format!("`{shown}`"), &format!("`{SCHEMA}`")));
        }
        id(&self.id)?;
        words("meshctl", &self.meshctl)?;
        times(self.started_unix_ms, self.ended_unix_ms)?;
        let settings = self.settings;
        let bounds = [
            ("prompt", settings.prompt, TOKENS),
            ("output", settings.output, TOKENS),
            ("seconds", settings.seconds, SOAK_S),
        ];
        for (field, value, most) in bounds {
            between(&format!("settings.{field}"), f64::from(value), 1.0, f64::from(most))?;
        }
        count("modes", self.modes.len(), 0, MODES)?;
        each("modes", &self.modes, mode)?;
        count("models", self.models.len(), 0, MODELS)?;
        each("models", &self.models, rung)?;
        let names: BTreeSet<&ModelId> = self.models.iter().map(|rung| &rung.model).collect();
        if names.len() < self.models.len() {
            return Err(problem("models", format!("{} names", names.len()), "each there once only"));
        }
        count("left_out", self.left_out.len(), 0, FEW)?;
        each("left_out", &self.left_out, |left| length("why", &left.why, REASON))?;
        count("stints", self.stints.len(), 0, STINTS)?;
        each("stints", &self.stints, |stint| self.stint(stint))?;
        count("downloads", self.downloads.len(), 0, FEW)?;
        each("downloads", &self.downloads, |download| {
            seconds("began_s", Some(download.began_s))?;
            seconds("seconds", Some(download.seconds))?;
            let Fetched::Failed(why) = &download.state else { return Ok(()) };
            length("state", why, REASON)
        })?;
        length("stopped", self.stopped.as_deref().unwrap_or_default(), REASON)
    }

    fn stint(&self, stint: &Stint) -> Result<(), RecordProblem> {
        let of = self.models.iter().find(|rung| rung.model == stint.model);
        let Some(of) = of else { return Err(problem("model", &stint.model, "one of models")) };
        count("beside", stint.beside.len(), 0, MODELS)?;
        if stint.beside.contains(&stint.model) {
            return Err(problem("beside", &stint.model, "other models only"));
        }
        count("fetching", stint.fetching.len(), 0, FEW)?;
        seconds("began_s", Some(stint.began_s))?;
        cell(of, &stint.cell).map_err(|found| within("cell", found))?;
        length("broke", stint.broke.as_deref().unwrap_or_default(), REASON)
    }
}

impl Stint {
    /// Whether it worked beside nobody, and nothing was fetched.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.beside.is_empty() && self.fetching.is_empty()
    }

    /// All that worked, in the order of their names.
    #[must_use]
    pub fn company(&self) -> Vec<ModelId> {
        let all: BTreeSet<&ModelId> = self.beside.iter().chain([&self.model]).collect();
        all.into_iter().cloned().collect()
    }
}
