//! The machine profile: what an agent has learned of its machine, kept over restarts and told to the mesh.
//!
//! A JSON document (`docs/profile.md`, `docs/profile.schema.json`): hardware, software, engines, models, the memory
//! that loads were predicted to take and took, speeds, and the results of trials. The agent's shell reads, writes and
//! advertises it; here is what it holds, how it is bounded, and what can be asked of it.

use crate::fit::{Demand, Offload};
use crate::id::ModelId;
use crate::machine::{Digest, GpuVendor};
use crate::memory::{Confidence, Footprint};
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// The version of the document's form. A change that old readers would misread raises it.
pub const SCHEMA: u32 = 1;
/// The longest document, in bytes: it travels in reports.
pub const SIZE_LIMIT: usize = 1 << 20;
/// Footprints kept, the latest first to stay: each model of a large store in a few sizes.
const FOOTPRINTS: usize = 256;
/// Speeds kept.
const SPEEDS: usize = 256;
/// Trial results kept.
const TRIALS: usize = 256;
/// Models listed.
const MODELS: usize = 512;
/// Engines listed.
const ENGINES: usize = 64;
/// Graphics processors listed.
const GPUS: usize = 32;
/// The longest text, in bytes: with all lists full the document stays below [`SIZE_LIMIT`].
const TEXT: usize = 120;
/// Notes kept of one prediction.
const NOTES: usize = 4;
/// A speed is the mean of about this many latest measurements: a driver's upgrade shows within a day of hourly ones.
const SPEED_MEMORY: u32 = 16;

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it was last changed, in seconds since 1970.
    pub updated_at: u64,
    /// The machine.
    pub hardware: HardwareFacts,
    /// What runs it.
    pub software: SoftwareFacts,
    /// Engines that were seen.
    pub engines: Vec<EngineFacts>,
    /// Models on its disk and on its engines.
    pub models: Vec<ModelFacts>,
    /// What loads take.
    pub footprints: Vec<FootprintRecord>,
    /// How fast they are.
    pub speeds: Vec<SpeedRecord>,
    /// What trials found.
    pub trials: Vec<TrialRecord>,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HardwareFacts {
    /// Its host name.
    pub hostname: String,
    /// The processor's model name; `null` = not known.
    pub cpu: Option<String>,
    /// Logical processors.
    pub cpu_threads: u32,
    /// Main memory in bytes; `null` = not known.
    pub ram: Option<Bytes>,
    /// Graphics processors.
    pub gpus: Vec<GpuFacts>,
}

/// One graphics processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuFacts {
    /// As in reports.
    pub id: String,
    /// Its product name.
    pub name: String,
    /// Who made it.
    pub vendor: GpuVendor,
    /// Memory that models may take, in bytes; `null` = not known.
    pub memory: Option<Bytes>,
    /// Whether that memory is RAM's too.
    pub shares_ram: bool,
}

/// What runs the machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SoftwareFacts {
    /// The kernel and its release; `null` = not known.
    pub system: Option<String>,
    /// The agent's version.
    pub agent: String,
    /// Drivers of graphics processors with their versions, each once.
    pub drivers: Vec<String>,
}

/// One engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineFacts {
    /// Its name on this machine.
    pub name: String,
    /// What it is, in the word of reports and configuration.
    pub kind: String,
    /// Its version; `null` = it does not tell.
    pub version: Option<String>,
    /// Whether the agent starts it.
    pub supervised: bool,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Its name towards clients.
    pub model: ModelId,
    /// Of its file; `null` = not computed.
    pub digest: Option<Digest>,
    /// `general.architecture`; `null` = not known.
    pub architecture: Option<String>,
    /// Bytes of its weights; `null` = not known.
    pub size: Option<Bytes>,
}

/// Which load a figure is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadKey {
    /// The digest of the model's file, or its name where there is none.
    pub model: String,
    /// The engine's kind and version: `llama-server b11549`.
    pub build: String,
    /// The graphics processor's name and id, or `ram`.
    pub device: String,
    /// How it is loaded.
    pub options: LoadOptions,
}

/// How a model is loaded, as far as memory depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadOptions {
    /// Tokens of one request.
    pub context: u32,
    /// Requests at once.
    pub slots: u32,
    /// Type of the KV cache: `f16`.
    pub cache: String,
    /// Tokens of one step.
    pub ubatch: u32,
    /// Which part is on the device.
    pub offload: Offload,
}

/// What one load was predicted to take and took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FootprintRecord {
    /// Which load.
    pub load: LoadKey,
    /// The prediction, by parts.
    pub predicted: Footprint,
    /// What it took; `null` = not measured yet.
    pub measured: Option<Measured>,
    /// How far the figures can be trusted: measured, once they were.
    pub confidence: Confidence,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// What a load took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Bytes on the device.
    pub device: Bytes,
    /// Bytes of RAM.
    pub host: Bytes,
    /// Where the device's figure comes from.
    pub source: MeasuredBy,
}

/// Where a measured figure comes from, best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasuredBy {
    /// Free memory before and after the load: others may have come and gone.
    FreeMemory,
    /// The engine's own words about its buffers.
    EngineLog,
    /// The driver's figure for the engine's process.
    Process,
}

/// How fast a model is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpeedRecord {
    /// The digest of the model's file, or its name where there is none.
    pub model: String,
    /// The engine's kind and version.
    pub build: String,
    /// The graphics processor's name and id, or `ram`.
    pub device: String,
    /// Which part is on it.
    pub offload: Offload,
    /// Prompt tokens read each second; `null` = not measured.
    pub prefill: Option<f64>,
    /// Tokens generated each second; `null` = not measured.
    pub decode: Option<f64>,
    /// How many measurements.
    pub n: u32,
    /// The latest of them, in seconds since 1970.
    pub at: u64,
}

/// What a trial of a model for a mode found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialRecord {
    /// The model's name towards clients.
    pub model: ModelId,
    /// Which set of tasks, with its version.
    pub suite: String,
    /// The mode it was tried for.
    pub mode: String,
    /// SHA-256 of the model's file; `null` = not known. Of another file of the same name it says nothing.
    #[serde(default)]
    pub digest: Option<String>,
    /// Tasks done well.
    pub passed: u32,
    /// Tasks tried.
    pub tried: u32,
    /// When, in seconds since 1970.
    pub at: u64,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            updated_at: 0,
            hardware: HardwareFacts::default(),
            software: SoftwareFacts::default(),
            engines: Vec::new(),
            models: Vec::new(),
            footprints: Vec::new(),
            speeds: Vec::new(),
            trials: Vec::new(),
        }
    }
}

impl Profile {
    /// The record of a load.
    #[must_use]
    pub fn footprint(&self, load: &LoadKey) -> Option<&FootprintRecord> {
        self.footprints.iter().find(|record| record.load == *load)
    }

    /// What a load took when it was measured: better than any prediction.
    #[must_use]
    pub fn measured(&self, load: &LoadKey) -> Option<Demand> {
        let measured = self.footprint(load)?.measured?;
        Some(Demand { device: measured.device, host: measured.host })
    }

    /// The same; of a build that has not been seen yet (`build_is_known` is false) what the latest other build took.
    #[must_use]
    pub fn measured_of(&self, load: &LoadKey, build_is_known: bool) -> Option<Demand> {
        if build_is_known {
            return self.measured(load);
        }
        let same = |record: &&FootprintRecord| {
            let known = &record.load;
            known.model == load.model && known.device == load.device && known.options == load.options
        };
        let latest = self.footprints.iter().filter(same).filter(|record| record.measured.is_some());
        let latest = latest.max_by_key(|record| record.at)?.measured?;
        Some(Demand { device: latest.device, host: latest.host })
    }

    /// Forgets the record of a load: it was kept under a build that turned out to be another.
    pub fn forget_footprint(&mut self, load: &LoadKey) {
        self.footprints.retain(|record| record.load != *load);
    }

    /// Measured less predicted bytes of all measured loads: on the device, or in RAM where nothing was on one.
    #[must_use]
    pub fn residuals(&self) -> Vec<i64> {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let of = |record: &FootprintRecord| {
            let (measured, predicted) = (record.measured?, &record.predicted);
            let on_device = record.load.options.offload != Offload::None;
            let (took, said) = if on_device {
                (measured.device, predicted.device.total())
            } else {
                (measured.host, predicted.host.total())
            };
            Some(signed(took.0) - signed(said.0))
        };
        self.footprints.iter().filter_map(of).collect()
    }

    /// Keeps what a load was predicted to take, and took. What was measured earlier stays when `measured` is `None` or
    /// comes from a poorer source.
    pub fn keep_footprint(
        &mut self,
        load: LoadKey,
        predicted: Footprint,
        measured: Option<Measured>,
        at: u64,
    ) {
        let load = LoadKey {
            model: clipped(&load.model),
            build: clipped(&load.build),
            device: clipped(&load.device),
            options: LoadOptions { cache: clipped(&load.options.cache), ..load.options },
        };
        let known = self.footprint(&load).and_then(|record| record.measured);
        let measured = match (measured, known) {
            (Some(new), Some(old)) if new.source < old.source => Some(old),
            (new, old) => new.or(old),
        };
        let confidence = if measured.is_some() { Confidence::Measured } else { predicted.confidence };
        let notes = predicted.notes.iter().take(NOTES).map(|note| clipped(note)).collect();
        self.footprints.retain(|record| record.load != load);
        let predicted = Footprint { notes, ..predicted };
        self.footprints.push(FootprintRecord { load, predicted, measured, confidence, at });
        forget_oldest(&mut self.footprints, FOOTPRINTS, |record| record.at);
    }

    /// The speed of a model under a build on a device.
    #[must_use]
    pub fn speed(&self, model: &str, build: &str, device: &str, offload: Offload) -> Option<&SpeedRecord> {
        self.speeds
            .iter()
            .find(|s| s.model == model && s.build == build && s.device == device && s.offload == offload)
    }

    /// Takes in one measurement, tokens each second. Numbers that are no speeds are left out.
    pub fn keep_speed(&mut self, seen: SpeedRecord) {
        let sane = |speed: Option<f64>| speed.filter(|s| s.is_finite() && *s > 0.0);
        let (prefill, decode) = (sane(seen.prefill), sane(seen.decode));
        if prefill.is_none() && decode.is_none() {
            return;
        }
        let seen = SpeedRecord {
            model: clipped(&seen.model),
            build: clipped(&seen.build),
            device: clipped(&seen.device),
            prefill,
            decode,
            n: 1,
            ..seen
        };
        let known = self.speeds.iter_mut().find(|s| {
            s.model == seen.model
                && s.build == seen.build
                && s.device == seen.device
                && s.offload == seen.offload
        });
        let Some(known) = known else {
            self.speeds.push(seen);
            forget_oldest(&mut self.speeds, SPEEDS, |record| record.at);
            return;
        };
        let weight = f64::from(known.n.saturating_add(1).min(SPEED_MEMORY));
        let mean = |old: Option<f64>, new: Option<f64>| match (old, new) {
            (Some(old), Some(new)) => Some(old + (new - old) / weight),
            (old, new) => new.or(old),
        };
        known.prefill = mean(known.prefill, seen.prefill);
        known.decode = mean(known.decode, seen.decode);
        known.n = known.n.saturating_add(1);
        known.at = seen.at;
    }

    /// Keeps what a trial found, in place of an earlier result of the same.
    pub fn keep_trial(&mut self, trial: TrialRecord) {
        let digest = trial.digest.as_deref().map(clipped);
        let trial = TrialRecord { suite: clipped(&trial.suite), mode: clipped(&trial.mode), digest, ..trial };
        let same = |t: &TrialRecord| t.model == trial.model && t.suite == trial.suite && t.mode == trial.mode;
        self.trials.retain(|known| !same(known));
        self.trials.push(trial);
        forget_oldest(&mut self.trials, TRIALS, |record| record.at);
    }

    /// Replaces what is seen anew at each start and change; true when something differs.
    pub fn describe(
        &mut self,
        hardware: HardwareFacts,
        software: SoftwareFacts,
        mut engines: Vec<EngineFacts>,
        mut models: Vec<ModelFacts>,
    ) -> bool {
        engines.truncate(ENGINES);
        models.truncate(MODELS);
        let mut new = Self { hardware, software, engines, models, ..self.clone() };
        new.clip();
        let differs = new != *self;
        *self = new;
        differs
    }

    /// Brings a document that came from a file within its bounds.
    pub fn clip(&mut self) {
        let text = |text: &mut String| *text = clipped(text);
        let maybe = |text: &mut Option<String>| *text = text.as_deref().map(clipped);
        text(&mut self.hardware.hostname);
        maybe(&mut self.hardware.cpu);
        self.hardware.gpus.truncate(GPUS);
        for gpu in &mut self.hardware.gpus {
            text(&mut gpu.id);
            text(&mut gpu.name);
        }
        maybe(&mut self.software.system);
        text(&mut self.software.agent);
        self.software.drivers.truncate(GPUS);
        self.software.drivers.iter_mut().for_each(text);
        self.engines.truncate(ENGINES);
        for engine in &mut self.engines {
            text(&mut engine.name);
            text(&mut engine.kind);
            maybe(&mut engine.version);
        }
        self.models.truncate(MODELS);
        for model in &mut self.models {
            maybe(&mut model.architecture);
        }
        forget_oldest(&mut self.footprints, FOOTPRINTS, |record| record.at);
        forget_oldest(&mut self.speeds, SPEEDS, |record| record.at);
        forget_oldest(&mut self.trials, TRIALS, |record| record.at);
    }
}

/// Without control characters, of which JSON makes six bytes each.
fn clipped(text: &str) -> String {
    let fits = |(at, c): &(usize, char)| at + c.len_utf8() <= TEXT;
    text.char_indices().take_while(fits).map(|(_, c)| if c.is_control() { ' ' } else { c }).collect()
}

/// Keeps the `limit` records with the latest `at`, in their order.
fn forget_oldest<T>(records: &mut Vec<T>, limit: usize, at: impl Fn(&T) -> u64) {
    if records.len() <= limit {
        return;
    }
    let mut times: Vec<u64> = records.iter().map(&at).collect();
    times.sort_unstable();
    let oldest_kept = times[times.len() - limit];
    records.retain(|record| at(record) >= oldest_kept);
    // Many of the same second: the first of them go.
    let surplus = records.len().saturating_sub(limit);
    records.drain(..surplus);
}

#[cfg(test)]
#[path = "profile/tests.rs"]
mod tests;
