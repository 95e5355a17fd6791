//! Which requests count: not warm-ups, not those that failed, and not those that something disturbed, as long as there
//! are undisturbed ones of the same work.

use super::record::{Cell, Mark, is_busy};
use crate::trial::{Looks, Prefix, Run};
use std::collections::BTreeSet;

/// Work that may be compared: the same lengths, streams and cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Work {
    /// Fewest first.
    pub(super) streams: u32,
    pub(super) prompt: u32,
    pub(super) output: u32,
    pub(super) is_warm: bool,
}

impl Work {
    pub(super) fn of(cell: &Cell) -> Self {
        let work = cell.work;
        let is_warm = work.prefix == Prefix::Warm;
        Self { streams: work.streams, prompt: work.prompt_tokens, output: work.output_tokens, is_warm }
    }
}

/// The requests of one work that count.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted<'a> {
    /// Each with the cell it belongs to, by its place.
    pub(super) runs: Vec<(usize, &'a Run)>,
    /// Requests that failed.
    pub(super) failed: u64,
    /// Requests that were disturbed and do not count.
    pub(super) left_out: u64,
    /// What speaks against those that count, where no others exist.
    pub(super) marks: BTreeSet<Mark>,
}

/// Sorts the requests of `cells`, which are of one work.
pub(super) fn counted<'a>(cells: &[(usize, &'a Cell)]) -> Counted<'a> {
    let mut counted = Counted::default();
    let (mut clean, mut marked) = (Vec::new(), Vec::new());
    for (at, cell) in cells {
        let looks = Looks::of(&cell.samples);
        for run in cell.runs.iter().filter(|run| !run.warm_up) {
            if run.error.is_some() {
                counted.failed += 1;
                continue;
            }
            let marks = marks(cell, &looks, run);
            if marks.is_empty() { clean.push((*at, run)) } else { marked.push((*at, run, marks)) }
        }
    }
    if clean.is_empty() {
        counted.marks = marked.iter().flat_map(|(_, _, marks)| marks.iter().copied()).collect();
        counted.runs = marked.into_iter().map(|(at, run, _)| (at, run)).collect();
    } else {
        counted.left_out = marked.len() as u64;
        counted.runs = clean;
    }
    counted
}

/// What speaks against one request: what was said of its cell, and what the machine showed while it ran.
fn marks(cell: &Cell, looks: &Looks<'_>, run: &Run) -> BTreeSet<Mark> {
    let mut marks: BTreeSet<Mark> = cell.marks.iter().copied().collect();
    if cell.ended.is_some_and(|ended| ended.others > 0) {
        marks.insert(Mark::Disturbed);
    }
    let end_s = run.at_s + run.total_s;
    if looks.between(run.at_s, end_s).iter().any(|look| look.throttled == Some(true)) {
        marks.insert(Mark::Throttled);
    }
    if is_busy(looks, run.at_s, end_s) {
        marks.insert(Mark::Busy);
    }
    marks
}
