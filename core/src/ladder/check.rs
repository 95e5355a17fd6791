//! Whether a record keeps to its bounds. A document comes from a file, and a file may come from anybody: what is read
//! here is summed, sorted and printed elsewhere without looking again.

use super::record::{Cell, ModeGoal, Outcome, Record, Rung, Settings};
use crate::trial::{QUESTIONS, REPETITIONS, Run, SOAK_S, STREAMS, Sample, TOKENS, Trial, Work};
use std::collections::BTreeSet;
use std::fmt::Display;

/// Rungs of one climb, at most.
pub(super) const RUNGS: usize = 64;
/// Modes, at most.
pub(crate) const MODES: usize = 64;
/// Cells of one rung, at most: 64 shapes with a few numbers of streams, some of them repeated.
pub(crate) const CELLS: usize = 1024;
/// Requests of one cell, at most: a soak of a day with a request each second.
const RUNS: usize = 100_000;
/// Looks at the machine, at most: one each second of a day.
pub(crate) const SAMPLES: usize = 100_000;
/// Shapes, numbers of streams and evaluations, at most.
pub(crate) const FEW: usize = 64;
/// The longest name or version, in bytes.
const WORDS: usize = 256;
/// The longest reason, in bytes.
pub(crate) const REASON: usize = 4096;
/// The longest text of an answer, in bytes: a million tokens.
pub(crate) const TEXT: usize = 8 << 20;
/// The longest time, in seconds: a year. Longer is a broken clock.
const LONGEST_S: f64 = 366.0 * 86_400.0;

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, and must be {wanted}")]
pub struct RecordProblem {
    /// Which part: `rungs[2].cells[0].runs[17].total_s`.
    pub field: String,
    /// What it is.
    pub value: String,
    /// What it must be.
    pub wanted: String,
}

impl Record {
    /// Whether it keeps to the bounds.
    ///
    /// # Errors
    /// The first field that does not.
    pub fn check(&self) -> Result<(), RecordProblem> {
        id(&self.id)?;
        words("meshctl", &self.meshctl)?;
        times(self.started_unix_ms, self.ended_unix_ms)?;
        if let Some(imported) = &self.imported {
            words("imported.from", &imported.from)?;
            words("imported.build", &imported.build)?;
        }
        settings(&self.settings)?;
        count("modes", self.modes.len(), 0, MODES)?;
        each("modes", &self.modes, mode)?;
        count("rungs", self.rungs.len(), 0, RUNGS)?;
        each("rungs", &self.rungs, rung)?;
        let mut seen = BTreeSet::new();
        for (at, rung) in self.rungs.iter().enumerate() {
            if !seen.insert(&rung.model) {
                return Err(problem(&format!("rungs[{at}].model"), &rung.model, "there once only"));
            }
        }
        let stopped = self.stopped.as_ref().map_or("", |stopped| &stopped.why);
        length("stopped.why", stopped, REASON)
    }
}

pub(crate) fn id(id: &str) -> Result<(), RecordProblem> {
    let is_id = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if id.is_empty() || id.len() > 64 || !id.chars().all(is_id) {
        let shown: String = id.chars().take(64).collect();
        return Err(problem("id", format!("`{shown}`"), "1 to 64 of a-z, 0-9 and `-`"));
    }
    Ok(())
}

/// A record ends after it began.
pub(crate) fn times(started_unix_ms: u64, ended_unix_ms: Option<u64>) -> Result<(), RecordProblem> {
    match ended_unix_ms.filter(|ended| *ended < started_unix_ms) {
        Some(ended) => {
            let wanted = format!("at least started_unix_ms, {started_unix_ms}");
            Err(problem("ended_unix_ms", ended, &wanted))
        }
        None => Ok(()),
    }
}

fn settings(settings: &Settings) -> Result<(), RecordProblem> {
    let within = |field: &str, value: u32, most: u32| {
        between(&format!("settings.{field}"), f64::from(value), 1.0, f64::from(most))
    };
    count("settings.models", settings.models.len(), 0, RUNGS)?;
    count("settings.matrix", settings.matrix.len(), 1, FEW)?;
    for (at, shape) in settings.matrix.iter().enumerate() {
        within(&format!("matrix[{at}].prompt"), shape.prompt, TOKENS)?;
        within(&format!("matrix[{at}].output"), shape.output, TOKENS)?;
    }
    count("settings.streams", settings.streams.len(), 1, FEW)?;
    for (at, streams) in settings.streams.iter().enumerate() {
        within(&format!("streams[{at}]"), *streams, STREAMS)?;
    }
    within("repetitions", settings.repetitions, REPETITIONS)?;
    words("settings.prompts", &settings.prompts)?;
    within("soak_s", settings.soak_s.unwrap_or(1), SOAK_S)?;
    between("settings.success_threshold", settings.success_threshold, 0.0, 1.0)?;
    let limits = [("idle_below", settings.idle_below), ("sustained_below", settings.sustained_below)];
    for (field, limit) in limits {
        let degrees = limit.map(|limit| f64::from(limit.0));
        maybe_between(&format!("settings.{field}"), degrees, 0.0, 150.0)?;
    }
    maybe_between("settings.sampling.temperature", settings.sampling.temperature, 0.0, 100.0)?;
    maybe_between("settings.sampling.top_p", settings.sampling.top_p, 0.0, 1.0)
}

pub(crate) fn mode(mode: &ModeGoal) -> Result<(), RecordProblem> {
    seconds("target.ttft_s", mode.target.ttft_s)?;
    seconds("target.tpot_s", mode.target.tpot_s)?;
    seconds("answer_s", mode.answer_s)?;
    maybe_between("least_decode", mode.least_decode, 0.0, 1e9)?;
    length("how", mode.how.as_deref().unwrap_or_default(), REASON)
}

pub(crate) fn rung(rung: &Rung) -> Result<(), RecordProblem> {
    words("label", &rung.label)?;
    let texts = [
        ("quantisation", &rung.quantisation),
        ("digest", &rung.digest),
        ("specialty", &rung.specialty),
        ("subject.digest", &rung.subject.as_ref().and_then(|subject| subject.digest.clone())),
        ("subject.build", &rung.subject.as_ref().map(|subject| subject.build.clone())),
        ("subject.device", &rung.subject.as_ref().map(|subject| subject.device.clone())),
    ];
    for (field, text) in texts {
        length(field, text.as_deref().unwrap_or_default(), WORDS)?;
    }
    if let Outcome::Skipped(why) | Outcome::Failed(why) | Outcome::Absent(why) = &rung.outcome {
        length("outcome", why, REASON)?;
    }
    if let (Some(active), Some(all)) = (rung.active_parameters, rung.parameters)
        && active > all
    {
        return Err(problem("active_parameters", active, &format!("at most parameters, {all}")));
    }
    seconds("pull.seconds", rung.pull.map(|pull| pull.seconds))?;
    seconds("load_s", rung.load_s)?;
    sample(&rung.before).map_err(|problem| within("before", problem))?;
    sample(&rung.after).map_err(|problem| within("after", problem))?;
    count("cells", rung.cells.len(), 0, CELLS)?;
    each("cells", &rung.cells, |found| cell(rung, found))?;
    count("answers", rung.answers.len(), 0, QUESTIONS)?;
    each("answers", &rung.answers, |answer| {
        words("question", &answer.question)?;
        run(&answer.run).map_err(|problem| within("run", problem))
    })?;
    count("evaluations", rung.evaluations.len(), 0, FEW)?;
    each("evaluations", &rung.evaluations, |evaluation| {
        words("suite", &evaluation.suite)?;
        if evaluation.passed > evaluation.tried {
            let wanted = format!("at most tried, {}", evaluation.tried);
            return Err(problem("passed", evaluation.passed, &wanted));
        }
        Ok(())
    })
}

pub(crate) fn cell(rung: &Rung, cell: &Cell) -> Result<(), RecordProblem> {
    // The same bounds as those under which it was asked.
    let asked = Trial { model: rung.model.clone(), work: Work::Speed(cell.work), patience_s: 1 };
    asked.check().map_err(|found| problem(&format!("work.{}", found.field), found.value, &found.wanted))?;
    count("runs", cell.runs.len(), 0, RUNS)?;
    each("runs", &cell.runs, run)?;
    count("samples", cell.samples.len(), 0, SAMPLES)?;
    each("samples", &cell.samples, sample)?;
    seconds("ended.seconds", cell.ended.map(|ended| ended.seconds))
}

pub(crate) fn run(run: &Run) -> Result<(), RecordProblem> {
    seconds("at_s", Some(run.at_s))?;
    seconds("ttft_s", run.ttft_s)?;
    seconds("total_s", Some(run.total_s))?;
    seconds("longest_gap_s", run.longest_gap_s)?;
    maybe_between("engine_prefill", run.engine_prefill, 0.0, 1e9)?;
    maybe_between("engine_decode", run.engine_decode, 0.0, 1e9)?;
    length("text", &run.text, TEXT)?;
    for (field, text) in [("reasoning", &run.reasoning), ("raw", &run.raw), ("error", &run.error)] {
        length(field, text.as_deref().unwrap_or_default(), TEXT)?;
    }
    Ok(())
}

pub(crate) fn sample(sample: &Sample) -> Result<(), RecordProblem> {
    seconds("at_s", Some(sample.at_s))?;
    // A sensor that is off by this much is broken.
    maybe_between("temperature", sample.temperature.map(f64::from), -100.0, 300.0)?;
    maybe_between("gpu_temperature", sample.gpu_temperature.map(f64::from), -100.0, 300.0)?;
    maybe_between("watts", sample.watts.map(f64::from), 0.0, 100_000.0)?;
    maybe_between("others", sample.others.map(f64::from), 0.0, 1.0)?;
    maybe_between("load", sample.load.map(f64::from), 0.0, 1e6)
}

/// Checks each of `all` and names the first that is wrong.
pub(crate) fn each<T>(
    field: &str,
    all: &[T],
    check: impl Fn(&T) -> Result<(), RecordProblem>,
) -> Result<(), RecordProblem> {
    let mut numbered = all.iter().enumerate();
    numbered.try_for_each(|(at, one)| check(one).map_err(|found| within(&format!("{field}[{at}]"), found)))
}

pub(crate) fn within(outer: &str, inner: RecordProblem) -> RecordProblem {
    RecordProblem { field: format!("{outer}.{}", inner.field), ..inner }
}

pub(crate) fn count(field: &str, found: usize, least: usize, most: usize) -> Result<(), RecordProblem> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(problem(field, format!("{found} long"), &format!("between {least} and {most} long")))
}

pub(crate) fn words(field: &str, text: &str) -> Result<(), RecordProblem> {
    if text.trim().is_empty() {
        return Err(problem(field, "empty", "a word"));
    }
    length(field, text, WORDS)
}

pub(crate) fn length(field: &str, text: &str, most: usize) -> Result<(), RecordProblem> {
    if text.len() <= most {
        return Ok(());
    }
    Err(problem(field, format!("{} bytes long", text.len()), &format!("at most {most} bytes long")))
}

pub(crate) fn seconds(field: &str, value: Option<f64>) -> Result<(), RecordProblem> {
    maybe_between(field, value, 0.0, LONGEST_S)
}

pub(crate) fn maybe_between(
    field: &str,
    value: Option<f64>,
    least: f64,
    most: f64,
) -> Result<(), RecordProblem> {
    value.map_or(Ok(()), |value| between(field, value, least, most))
}

/// NaN is between nothing.
pub(crate) fn between(field: &str, value: f64, least: f64, most: f64) -> Result<(), RecordProblem> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(problem(field, value, &format!("between {least} and {most}")))
}

pub(crate) fn problem(field: &str, value: impl Display, wanted: &str) -> RecordProblem {
    RecordProblem { field: field.into(), value: value.to_string(), wanted: wanted.into() }
}
