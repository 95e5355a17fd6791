//! What llama-bench measured, as a record: its rows (`-o json`, `-o jsonl`) come in, one rung for each model and way to run it
//! goes out. Nothing is made up: llama-bench knows of no answers, no time to the first token and no heat, so the record has none.
//!
//! | row | becomes |
//! |---|---|
//! | `n_prompt` 512, `n_gen` 0 | a work of 512:1 with the engine's reading rate: its end is the first token |
//! | `n_gen` 128, `n_prompt` 0 | a work of 1:128 with the engine's generating rate: it begins with one token |
//! | `n_depth` 4096 | so many tokens more of the prompt, which were in the cache |
//! | both of them | left out: its rate is of both together, and is neither |
//!
//! A row without its time or its single measurements is refused: `-o csv` and `-o sql` print averages, and those have no spread.

use super::check::RUNGS;
use super::record::{Cell, Imported, Record, Rung, Sampling, Schema, Settings, Shape};
use crate::fit::Offload;
use crate::id::{MachineId, ModelId};
use crate::machine::GpuVendor;
use crate::profile::{GpuFacts, HardwareFacts, SoftwareFacts};
use crate::trial::{Ended, Prefix, REPETITIONS, Run, SpeedWork, Subject, TOKENS};
use crate::units::Bytes;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use way::{Way, grouped, names, stem};

mod way;

/// One row of llama-bench, as far as a record has a place for it.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct BenchRow {
    /// The commit it was built from.
    pub build_commit: String,
    /// The number of the build.
    pub build_number: u64,
    /// The processor.
    pub cpu_info: String,
    /// The graphics processors, in one text.
    pub gpu_info: String,
    /// `CUDA`, `Vulkan`, `CPU`.
    pub backends: String,
    /// The path of the model's file there.
    pub model_filename: String,
    /// `qwen2 7B Q4_K - Medium`.
    pub model_type: String,
    /// Bytes.
    pub model_size: u64,
    /// Parameters.
    pub model_n_params: u64,
    /// Tokens of one step.
    pub n_batch: u64,
    /// Threads of the processor.
    pub n_threads: u64,
    /// Layers that may lie on the device; −1 = as many as fit.
    pub n_gpu_layers: i64,
    /// Type of the keys in the cache.
    pub type_k: String,
    /// Type of the values in the cache.
    pub type_v: String,
    /// Tokens that were read.
    pub n_prompt: Option<u64>,
    /// Tokens that were generated.
    pub n_gen: Option<u64>,
    /// Tokens that were in the cache before.
    pub n_depth: u64,
    /// When it began: `2026-11-21T12:04:11Z`.
    pub test_time: String,
    /// Nanoseconds of each measurement.
    pub samples_ns: Vec<u64>,
    /// Tokens each second of each measurement.
    pub samples_ts: Vec<f64>,
    /// All else that it says, as texts: `flash_attn`, `n_ubatch`, `avg_ts`.
    #[serde(flatten, deserialize_with = "way::texts")]
    pub other: BTreeMap<String, String>,
}

/// What only the importer knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The record's id.
    pub id: String,
    /// The machine it was measured on.
    pub node: MachineId,
    /// The version of the program that imports.
    pub meshctl: String,
}

/// A row that is no measurement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, and must be {wanted}")]
pub struct ImportProblem {
    /// Which row, from 0.
    pub row: usize,
    /// Which part of it.
    pub field: &'static str,
    /// What it is.
    pub value: String,
    /// What it must be.
    pub wanted: String,
}

/// The record, and which rows are not in it and why, in words.
///
/// # Errors
/// The first row that is no measurement of llama-bench, or that nothing can be made of any.
pub fn import(rows: &[BenchRow], about: About) -> Result<(Record, Vec<String>), ImportProblem> {
    for (row, one) in rows.iter().enumerate() {
        check(one).map_err(|(field, value, wanted)| ImportProblem { row, field, value, wanted })?;
    }
    let (taken, left_out) = sorted_out(rows);
    let Some(first) = taken.first().copied() else {
        let (value, wanted) = (format!("{} long", rows.len()), "at least one row of reading or generating");
        return Err(ImportProblem { row: 0, field: "the list of rows", value, wanted: wanted.into() });
    };
    let place = |row: &BenchRow| rows.iter().position(|one| std::ptr::eq(one, row)).unwrap_or_default();
    let mut ways = grouped(&taken).map_err(|row| ImportProblem {
        row: place(row),
        field: "the list of models and ways to run them",
        value: format!("{} long here", RUNGS + 1),
        wanted: format!("at most {RUNGS} long: import fewer of them at once"),
    })?;
    ways.sort_by_key(|way| way.first.model_size);
    let mut rungs = Vec::new();
    for (way, name) in ways.iter().zip(names(&ways)) {
        let model = ModelId::new(&name).map_err(|problem| ImportProblem {
            row: place(way.first),
            field: "model_filename",
            value: format!("`{name}`"),
            wanted: problem.to_string(),
        })?;
        rungs.push(rung(model, way));
    }
    let times: Vec<u64> = taken.iter().filter_map(|row| unix_ms(&row.test_time)).collect();
    let started = times.iter().copied().min().unwrap_or_default();
    let last = taken.iter().filter_map(|row| {
        Some(unix_ms(&row.test_time)?.saturating_add(row.samples_ns.iter().sum::<u64>() / 1_000_000))
    });
    let record = Record {
        schema: Schema,
        id: about.id,
        node: about.node,
        meshctl: about.meshctl,
        started_unix_ms: started,
        ended_unix_ms: last.max(),
        imported: Some(Imported { from: "llama-bench".into(), build: build(first) }),
        hardware: hardware(first),
        software: SoftwareFacts::default(),
        settings: settings(&taken),
        modes: Vec::new(),
        rungs,
        stopped: None,
    };
    Ok((record, left_out))
}

impl BenchRow {
    fn read(&self) -> u64 {
        self.n_prompt.unwrap_or_default()
    }

    fn generated(&self) -> u64 {
        self.n_gen.unwrap_or_default()
    }
}

type Wrong = (&'static str, String, String);

/// Where a row has what others lack.
const PRINTED_BY: &str =
    "as llama-bench prints it with `-o json` or `-o jsonl` (csv, sql and md have averages only)";

fn check(row: &BenchRow) -> Result<(), Wrong> {
    let most = u64::from(TOKENS / 2);
    for (field, value) in [("n_prompt", row.n_prompt), ("n_gen", row.n_gen), ("n_depth", Some(row.n_depth))] {
        let Some(value) = value else {
            return Err((field, "missing".into(), format!("a number of tokens, {PRINTED_BY}")));
        };
        if value > most {
            return Err((field, value.to_string(), format!("at most {most}")));
        }
    }
    if row.model_filename.trim().is_empty() {
        return Err(("model_filename", "missing".into(), "the path of a model's file".into()));
    }
    if row.test_time.is_empty() {
        return Err(("test_time", "missing".into(), format!("a time as 2026-11-21T12:04:11Z, {PRINTED_BY}")));
    }
    if unix_ms(&row.test_time).is_none() {
        let shown: String = row.test_time.chars().take(64).collect();
        return Err(("test_time", format!("`{shown}`"), "a time as 2026-11-21T12:04:11Z".into()));
    }
    if is_one_rate(row) {
        let lists = [
            ("samples_ns", "nanoseconds", row.samples_ns.is_empty()),
            ("samples_ts", "rate", row.samples_ts.is_empty()),
        ];
        if let Some((field, what, _)) = lists.into_iter().find(|(.., is_missing)| *is_missing) {
            let wanted = format!("the {what} of each measurement, {PRINTED_BY}");
            return Err((field, "missing".into(), wanted));
        }
    }
    if row.samples_ns.len() != row.samples_ts.len() {
        let value = format!("{} long", row.samples_ts.len());
        return Err(("samples_ts", value, format!("as long as samples_ns, {}", row.samples_ns.len())));
    }
    if row.samples_ns.len() > REPETITIONS as usize {
        let value = format!("{} long", row.samples_ns.len());
        return Err(("samples_ns", value, format!("at most {REPETITIONS} long")));
    }
    if let Some(rate) = row.samples_ts.iter().find(|rate| !(1e-9..=1e9).contains(*rate)) {
        return Err(("samples_ts", rate.to_string(), "tokens each second, more than 0".into()));
    }
    // An hour for one measurement is more than anybody waits.
    if let Some(ns) = row.samples_ns.iter().find(|ns| !(1..=3_600_000_000_000).contains(*ns)) {
        return Err(("samples_ns", ns.to_string(), "nanoseconds, between 1 and an hour".into()));
    }
    Ok(())
}

/// Whether it is of reading alone or of generating alone.
fn is_one_rate(row: &BenchRow) -> bool {
    (row.read() > 0) != (row.generated() > 0)
}

/// Rows that say one thing, and in words those that do not.
fn sorted_out(rows: &[BenchRow]) -> (Vec<&BenchRow>, Vec<String>) {
    let (mut taken, mut left_out) = (Vec::new(), Vec::new());
    for row in rows {
        let (read, generated) = (row.read(), row.generated());
        let what = format!("{} with n_prompt {read} and n_gen {generated}", stem(&row.model_filename));
        match (read, generated) {
            (0, 0) => left_out.push(format!("{what}: nothing was asked")),
            (1.., 1..) => left_out.push(format!("{what}: its rate is of reading and generating together")),
            _ => taken.push(row),
        }
    }
    (taken, left_out)
}

fn rung(model: ModelId, way: &Way<'_>) -> Rung {
    let mut rung = Rung::new(model, "?");
    let first = way.first;
    let (size, rest) = words_of_type(&first.model_type);
    rung.label = size.unwrap_or_else(|| in_words(first.model_n_params));
    rung.quantisation = rest;
    rung.parameters = Some(first.model_n_params).filter(|count| *count > 0);
    rung.size = Some(Bytes(first.model_size)).filter(|size| size.0 > 0);
    let in_ram = first.n_gpu_layers == 0 || first.backends == "CPU";
    let device = if in_ram || first.gpu_info.is_empty() { "ram" } else { first.gpu_info.as_str() };
    rung.subject = Some(Subject {
        build: build(first),
        device: shortened(device),
        offload: in_ram.then_some(Offload::None),
        exact_prompts: true,
        exact_answers: true,
        unix_ms: unix_ms(&first.test_time).unwrap_or_default(),
        ..Subject::default()
    });
    rung.cells = way.rows.iter().map(|row| cell(row)).collect();
    rung
}

fn cell(row: &BenchRow) -> Cell {
    let (read, generated) = (tokens(row.read()), tokens(row.generated()));
    let depth = tokens(row.n_depth);
    let shape = shape(row);
    let mut at_s = 0.0;
    let runs = row.samples_ns.iter().zip(&row.samples_ts).zip(0..).map(|((ns, rate), repetition)| {
        let total_s = *ns as f64 / 1e9;
        let run = Run {
            repetition,
            at_s,
            total_s,
            prompt_tokens: Some(read + depth),
            cached_tokens: Some(depth),
            output_tokens: (generated > 0).then_some(generated),
            engine_prefill: (read > 0).then_some(*rate),
            engine_decode: (generated > 0).then_some(*rate),
            ..Run::default()
        };
        at_s += total_s;
        run
    });
    let runs: Vec<Run> = runs.collect();
    let repetitions = tokens(row.samples_ns.len() as u64).max(1);
    let prefix = if depth > 0 { Prefix::Warm } else { Prefix::Cold };
    let work = SpeedWork {
        prompt_tokens: shape.prompt,
        output_tokens: shape.output,
        streams: 1,
        repetitions,
        seed: 0,
        prefix,
        soak_s: None,
    };
    let seconds = runs.iter().map(|run| run.total_s).sum();
    // llama-bench measures without an agent beside it: nobody looked at the machine.
    Cell { work, runs, samples: Vec::new(), ended: Some(Ended { seconds, others: 0 }), marks: Vec::new() }
}

/// What is read ends with a first token, what is generated begins with one.
fn shape(row: &BenchRow) -> Shape {
    Shape { prompt: tokens(row.read() + row.n_depth).max(1), output: tokens(row.generated()).max(1) }
}

fn settings(rows: &[&BenchRow]) -> Settings {
    let shapes: BTreeSet<Shape> = rows.iter().map(|row| shape(row)).collect();
    let most = rows.iter().map(|row| row.samples_ns.len() as u64).max().unwrap_or(1);
    Settings {
        // A record has no more.
        models: Vec::new(),
        matrix: shapes.into_iter().take(64).collect(),
        streams: vec![1],
        repetitions: tokens(most).max(1),
        seed: 0,
        prefix: Prefix::Cold,
        prompts: "none".into(),
        soak_s: None,
        success_threshold: 0.0,
        idle_below: None,
        sustained_below: None,
        sampling: Sampling::default(),
    }
}

fn hardware(row: &BenchRow) -> HardwareFacts {
    let known = Some(shortened(row.cpu_info.trim())).filter(|name| !name.is_empty());
    let vendor = |name: &str| {
        let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
        match () {
            () if has(&["NVIDIA", "GeForce", "Tesla", "Quadro"]) => Some(GpuVendor::Nvidia),
            () if has(&["AMD", "Radeon", "gfx"]) => Some(GpuVendor::Amd),
            () if has(&["Intel", "Arc"]) => Some(GpuVendor::Intel),
            // Of others a record has no word; the rungs say on what they ran.
            () => None,
        }
    };
    let gpus = row.gpu_info.split([',', '/']).map(str::trim).filter(|name| !name.is_empty()).take(32);
    let gpus = gpus.enumerate().filter_map(|(at, name)| {
        let (id, name, vendor) = (format!("gpu{at}"), shortened(name), vendor(name)?);
        Some(GpuFacts { id, name, vendor, memory: None, shares_ram: false })
    });
    HardwareFacts { cpu: known, gpus: gpus.collect(), ..HardwareFacts::default() }
}

/// What is not built in a clone of llama.cpp knows neither its number nor its commit: `0`, `unknown`.
fn build(row: &BenchRow) -> String {
    let known = |commit: &&str| !commit.is_empty() && *commit != "unknown";
    match (row.build_number, Some(row.build_commit.trim()).filter(known)) {
        (0, None) => "llama.cpp of an unknown build".into(),
        (0, Some(commit)) => shortened(&format!("llama.cpp ({commit})")),
        (number, None) => format!("llama.cpp b{number}"),
        (number, Some(commit)) => shortened(&format!("llama.cpp b{number} ({commit})")),
    }
}

/// `qwen2 7B Q4_K - Medium` as `7b` and `Q4_K - Medium`: the architecture is one word, and so is the size, of which llama.cpp may
/// not know any (`?B`), or tell the name beside it (`17Bx16E (Scout)`).
fn words_of_type(text: &str) -> (Option<String>, Option<String>) {
    let mut words = text.split_whitespace().skip(1).peekable();
    let size = words.next().filter(|size| size.contains(|c: char| c.is_ascii_digit()));
    let is_name = |word: &&str| word.starts_with('(') && *word != "(guessed)";
    let name = words.next_if(is_name).map(|name| format!(" {name}")).unwrap_or_default();
    let rest = shortened(&words.collect::<Vec<&str>>().join(" "));
    let size = size.map(|size| shortened(&format!("{size}{name}").to_lowercase()));
    (size, Some(rest).filter(|rest| !rest.is_empty()))
}

/// A size by its parameters: `7.6b`, `1.4m`.
fn in_words(parameters: u64) -> String {
    match parameters {
        0 => "?".into(),
        few @ ..1_000_000 => format!("{:.0}k", few as f64 / 1e3),
        some @ ..1_000_000_000 => format!("{:.1}m", some as f64 / 1e6),
        many => format!("{:.1}b", many as f64 / 1e9),
    }
}

/// As much as a record takes, in bytes.
fn shortened(text: &str) -> String {
    way::shortened(text, 120).to_owned()
}

fn tokens(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Milliseconds since 1970 of `2026-11-21T12:04:11Z`. Days by the proleptic Gregorian calendar, counted from March so that the
/// leap day is a year's last.
fn unix_ms(text: &str) -> Option<u64> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, by: char| -> Option<[u64; 3]> {
        let parts = text.split(by).map(|part| {
            let is_number =
                !part.is_empty() && part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| part.parse().ok()).flatten()
        });
        parts.collect::<Option<Vec<u64>>>()?.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(clock, ':')?);
    let is_date = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    // From the first of March of the year 0 to the first of January 1970.
    let days = days.checked_sub(719_468)?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000)
}
