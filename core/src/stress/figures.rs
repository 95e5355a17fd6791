//! What each model did alone, beside others and during downloads, in figures.

use super::record::{Record, Stint};
use crate::id::ModelId;
use crate::ladder::{Figure, Times};
use crate::trial::Run;
use serde::Serialize;
use std::collections::BTreeSet;

/// Requests that are compared, at least.
pub const LEAST_RUNS: u64 = 2;

/// One stint in figures. `null` = not known.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The model.
    pub model: ModelId,
    /// Models that worked at the same time.
    pub beside: Vec<ModelId>,
    /// Models that were fetched at the same time.
    pub fetching: Vec<ModelId>,
    /// Requests that were answered.
    pub n: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Why it ended early.
    pub broke: Option<String>,
    /// Seconds to the end of an answer.
    pub response: Option<Times>,
    /// Seconds to its first content.
    pub ttft: Option<Times>,
    /// Tokens that it generated each second.
    pub decode: Option<Figure>,
    /// By which part of the time alone an answer takes longer: p50 / p50 alone − 1. Negative = faster.
    pub slower: Option<f64>,
    /// Which part of the rate alone is lost: 1 − rate / rate alone. Negative = faster.
    pub lost: Option<f64>,
}

impl Row {
    /// All that worked, in the order of their names.
    #[must_use]
    pub fn company(&self) -> Vec<ModelId> {
        let all: BTreeSet<&ModelId> = self.beside.iter().chain([&self.model]).collect();
        all.into_iter().cloned().collect()
    }
}

/// A row for each stint, in their order.
pub(super) fn rows(record: &Record) -> Vec<Row> {
    let alone = |model: &ModelId| {
        record.stints.iter().find(|stint| stint.is_alone() && stint.model == *model).map(figures)
    };
    let row = |stint: &Stint| {
        let mut row = figures(stint);
        let Some(alone) = alone(&stint.model).filter(|_| !stint.is_alone()) else { return row };
        if alone.n < LEAST_RUNS || row.n < LEAST_RUNS {
            return row;
        }
        let share = |now: f64, before: f64| (before > 0.0).then_some(now / before);
        let response = row.response.zip(alone.response);
        row.slower = response.and_then(|(now, before)| Some(share(now.p50, before.p50)? - 1.0));
        let decode = row.decode.zip(alone.decode);
        row.lost = decode.and_then(|(now, before)| Some(1.0 - share(now.median, before.median)?));
        row
    };
    record.stints.iter().map(row).collect()
}

/// Every request counts: being slowed down is what is looked at.
fn figures(stint: &Stint) -> Row {
    let counted = || stint.cell.runs.iter().filter(|run| !run.warm_up && run.error.is_none());
    let failed = stint.cell.runs.iter().filter(|run| run.error.is_some());
    Row {
        model: stint.model.clone(),
        beside: stint.beside.clone(),
        fetching: stint.fetching.clone(),
        n: counted().count() as u64,
        failed: failed.count() as u64,
        broke: stint.broke.clone(),
        response: Times::of(counted().map(|run| run.total_s)),
        ttft: Times::of(counted().filter_map(|run| run.ttft_s)),
        decode: Figure::of(counted().filter_map(Run::decode)),
        slower: None,
        lost: None,
    }
}
