//! The speeds of one rung: each work with its figures, how streams slow each other down, and a soak.

use super::counted::{Counted, Work, counted};
use super::figures::{Figure, Times, finite};
use super::record::{Cell, Mark, Shape};
use crate::statistics::{mean, median};
use crate::trial::{Run, Sample};
use serde::Serialize;
use std::collections::BTreeMap;

/// One work, measured. `null` = not known.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellSummary {
    /// The lengths of prompts and answers.
    pub shape: Shape,
    /// Requests at once.
    pub streams: u32,
    /// Prompts could be in the engine's cache.
    pub is_warm: bool,
    /// Requests that count.
    pub counted: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that were disturbed, and of which undisturbed ones exist.
    pub left_out: u64,
    /// What speaks against those that count: no undisturbed ones exist.
    pub marks: Vec<Mark>,
    /// Prompt tokens read each second.
    pub prompt: Option<Figure>,
    /// Tokens that one stream generates each second.
    pub decode: Option<Figure>,
    /// Tokens that all streams generate each second.
    pub total: Option<Figure>,
    /// By which part one stream is slower than with the fewest streams of the same lengths; negative = faster.
    pub degradation: Option<f64>,
    /// Seconds to the first content.
    pub ttft: Option<Times>,
    /// Seconds for each token after the first.
    pub tpot: Option<Figure>,
    /// Seconds to the end.
    pub response: Option<Times>,
    /// Degrees Celsius of the hottest sensor, at most.
    pub max_temperature: Option<f64>,
    /// Watts of the graphics processors, on average.
    pub watts: Option<f64>,
    /// Looks at the machine that told watts.
    pub looks: u64,
    /// Joules for each generated token.
    pub joules_per_token: Option<f64>,
}

/// What a soak showed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Soak {
    /// Seconds that it took.
    pub seconds: f64,
    /// Tokens each second in its first quarter, the median.
    pub first: f64,
    /// Tokens each second in its last quarter, the median.
    pub last: f64,
    /// The last as a part of the first.
    pub share: f64,
}

/// All works of a rung but soaks: fewest streams first, then the shortest.
pub(super) fn summaries(cells: &[Cell]) -> Vec<CellSummary> {
    let mut works: BTreeMap<Work, Vec<(usize, &Cell)>> = BTreeMap::new();
    for (at, cell) in cells.iter().enumerate().filter(|(_, cell)| cell.work.soak_s.is_none()) {
        works.entry(Work::of(cell)).or_default().push((at, cell));
    }
    let mut alone: BTreeMap<(Shape, bool), f64> = BTreeMap::new();
    let mut summaries: Vec<CellSummary> =
        works.iter().map(|(work, cells)| summary(*work, cells, &counted(cells))).collect();
    for summary in &mut summaries {
        let Some(rate) = summary.decode.map(|decode| decode.median).filter(|rate| *rate > 0.0) else {
            continue;
        };
        let first = *alone.entry((summary.shape, summary.is_warm)).or_insert(rate);
        summary.degradation = finite(1.0 - rate / first);
    }
    summaries
}

fn summary(work: Work, cells: &[(usize, &Cell)], counted: &Counted<'_>) -> CellSummary {
    let runs = || counted.runs.iter().map(|(_, run)| *run);
    let samples = || cells.iter().flat_map(|(_, cell)| &cell.samples);
    let (watts, joules_per_token) = power(cells);
    CellSummary {
        shape: Shape { prompt: work.prompt, output: work.output },
        streams: work.streams,
        is_warm: work.is_warm,
        counted: counted.runs.len() as u64,
        failed: counted.failed,
        left_out: counted.left_out,
        marks: counted.marks.iter().copied().collect(),
        prompt: Figure::of(runs().filter_map(Run::prefill)),
        decode: Figure::of(runs().filter_map(Run::decode)),
        total: Figure::of(totals(counted, work.streams)),
        degradation: None,
        ttft: Times::of(runs().filter_map(|run| run.ttft_s)),
        tpot: Figure::of(runs().filter_map(Run::tpot_s)),
        response: Times::of(runs().map(|run| run.total_s)),
        max_temperature: samples().filter_map(degrees).reduce(f64::max),
        watts,
        looks: samples().filter(|sample| sample.watts.is_some()).count() as u64,
        joules_per_token,
    }
}

/// Tokens each second of all streams together, one for each repetition of which every stream counts.
fn totals(counted: &Counted<'_>, streams: u32) -> Vec<f64> {
    let mut repetitions: BTreeMap<(usize, u32), Vec<&Run>> = BTreeMap::new();
    for (cell, run) in &counted.runs {
        repetitions.entry((*cell, run.repetition)).or_default().push(run);
    }
    let whole = repetitions.values().filter(|runs| runs.len() == streams as usize);
    whole.filter_map(|runs| together(runs)).collect()
}

fn together(runs: &[&Run]) -> Option<f64> {
    let tokens = runs.iter().map(|run| run.output_tokens.map(u64::from)).sum::<Option<u64>>()?;
    let first = runs.iter().map(|run| run.at_s).fold(f64::INFINITY, f64::min);
    let last = runs.iter().map(|run| run.at_s + run.total_s).fold(f64::NEG_INFINITY, f64::max);
    finite(tokens as f64 / Some(last - first).filter(|seconds| *seconds > 0.0)?)
}

/// Mean watts, and joules for each token. Energy and tokens are of whole cells: nobody can tell a warm-up's watts apart.
fn power(cells: &[(usize, &Cell)]) -> (Option<f64>, Option<f64>) {
    let (mut all_watts, mut joules, mut tokens) = (Vec::new(), 0.0, 0_u64);
    for (_, cell) in cells {
        let Some(watts) = watts(cell) else { continue };
        all_watts.push(watts);
        let counts =
            cell.runs.iter().filter(|run| run.error.is_none()).map(|run| run.output_tokens.map(u64::from));
        // A request whose tokens are not known took energy, too.
        if let (Some(seconds), Some(count)) = (seconds(cell), counts.sum::<Option<u64>>()) {
            joules += watts * seconds;
            tokens += count;
        }
    }
    let per_token = if tokens > 0 { finite(joules / tokens as f64) } else { None };
    (mean(all_watts), per_token)
}

fn watts(cell: &Cell) -> Option<f64> {
    mean(cell.samples.iter().filter_map(|sample| sample.watts).map(f64::from).filter(|watts| *watts >= 0.0))
}

/// How long a cell took: as its agent says, else to the end of its last request.
pub(super) fn seconds(cell: &Cell) -> Option<f64> {
    let last = || cell.runs.iter().map(|run| run.at_s + run.total_s).fold(f64::NEG_INFINITY, f64::max);
    let seconds = cell.ended.map_or_else(last, |ended| ended.seconds);
    finite(seconds).filter(|seconds| *seconds > 0.0)
}

/// What the soak showed; of several the last. Heat is what it is about, so nothing is left out for it. A request belongs to
/// the first quarter if it began in it, and to the last if it reached into it; of a large model one may take minutes.
pub(super) fn soak(cells: &[Cell]) -> Option<Soak> {
    let cell = cells.iter().rev().find(|cell| cell.work.soak_s.is_some())?;
    let seconds = seconds(cell)?;
    let (early, late) = (0.25 * seconds, 0.75 * seconds);
    let runs = || cell.runs.iter().filter(|run| !run.warm_up && run.error.is_none());
    let first = median(runs().filter(|run| run.at_s <= early).filter_map(Run::decode))?;
    let last = runs().filter(|run| run.at_s > early && run.at_s + run.total_s >= late);
    let last = median(last.filter_map(Run::decode))?;
    Some(Soak { seconds, first, last, share: finite(last / first)? })
}

/// What the hottest sensor showed.
pub(super) fn degrees(sample: &Sample) -> Option<f64> {
    sample.temperature.or(sample.gpu_temperature).map(f64::from).and_then(finite)
}
