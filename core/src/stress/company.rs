//! Which models can work beside each other, for which modes.

use super::figures::{LEAST_RUNS, Row};
use super::record::{Record, Stint};
use crate::id::{ModeName, ModelId};
use crate::ladder::goals::missed;
use crate::ladder::{Cell, Rung};
use crate::trial::Ended;
use serde::Serialize;
use std::collections::BTreeSet;

/// Where no mode speaks: how much longer answers may take for each other model. Two that share a machine fairly take twice
/// as long each; a tenth is noise.
const FAIR_SHARE: f64 = 1.1;

/// Models that worked together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Company {
    /// Which, by name.
    pub models: Vec<ModelId>,
    /// Whether they can.
    pub can: Livable,
    /// Modes that each still does for, in the order of the models.
    pub modes: Vec<Vec<ModeName>>,
    /// Why not, or why nobody can say.
    pub why: Vec<String>,
}

/// Whether models can work together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Livable {
    /// One of them does for no mode any more, or fails.
    No,
    /// Too little was seen.
    Unknown,
    /// Each still does for a mode, one of them for fewer than alone.
    Less,
    /// Each does what it does alone.
    Yes,
}

/// One word on each company that worked, pairs first.
pub(super) fn companies(record: &Record, rows: &[Row]) -> Vec<Company> {
    let worked = record.stints.iter().filter(|stint| !stint.beside.is_empty() && stint.fetching.is_empty());
    let sets: BTreeSet<Vec<ModelId>> = worked.map(Stint::company).collect();
    let mut companies: Vec<Company> = sets.into_iter().map(|models| company(record, rows, models)).collect();
    companies.sort_by_key(|company| company.models.len());
    companies
}

fn company(record: &Record, rows: &[Row], models: Vec<ModelId>) -> Company {
    let (mut can, mut kept, mut why) = (Livable::Yes, Vec::new(), Vec::new());
    for model in &models {
        let stint = record
            .stints
            .iter()
            .find(|stint| stint.model == *model && stint.fetching.is_empty() && stint.company() == models);
        let alone = record.stints.iter().find(|stint| stint.model == *model && stint.is_alone());
        let row =
            rows.iter().find(|row| row.model == *model && row.fetching.is_empty() && row.company() == models);
        let (found, modes, reason) = member(record, row, stint, alone, models.len());
        can = can.min(found);
        kept.push(modes);
        why.extend(reason.map(|reason| format!("{model} {reason}")));
    }
    Company { models, can, modes: kept, why }
}

/// One model in its company: whether it does what it does alone, for which modes, and what not.
fn member(
    record: &Record,
    row: Option<&Row>,
    stint: Option<&Stint>,
    alone: Option<&Stint>,
    size: usize,
) -> (Livable, Vec<ModeName>, Option<String>) {
    let (Some(row), Some(stint)) = (row, stint) else {
        return (Livable::Unknown, vec![], Some("was not measured beside the others".into()));
    };
    if let Some(broke) = &row.broke {
        return (Livable::No, vec![], Some(format!("broke: {broke}")));
    }
    if let Some(broke) = alone.and_then(|alone| alone.broke.as_ref()) {
        return (Livable::No, vec![], Some(format!("broke already alone: {broke}")));
    }
    if row.failed > 0 {
        let why = format!("failed {} of {} requests", row.failed, row.failed + row.n);
        return (Livable::No, vec![], Some(why));
    }
    let Some(alone) = alone else {
        return (Livable::Unknown, vec![], Some("was not measured alone".into()));
    };
    if row.n < LEAST_RUNS || row.slower.is_none() {
        return (
            Livable::Unknown,
            vec![],
            Some("answered too few requests to compare; give it more seconds".into()),
        );
    }
    let Some(rung) = record.models.iter().find(|rung| rung.model == row.model) else {
        return (Livable::Unknown, vec![], Some("is not known".into()));
    };
    let misses = |stint: &Stint, goal| missed(goal, &plain(rung, &stint.cell), 0.0);
    let (mut kept, mut lost) = (Vec::new(), Vec::new());
    let mut has_mode = false;
    for goal in &record.modes {
        if !misses(alone, goal).is_empty() {
            continue;
        }
        has_mode = true;
        let missed = misses(stint, goal);
        if missed.is_empty() {
            kept.push(goal.mode.clone());
        } else {
            lost.push(format!("{} ({})", goal.mode, missed.join(", ")));
        }
    }
    if !lost.is_empty() {
        let can = if kept.is_empty() { Livable::No } else { Livable::Less };
        return (can, kept, Some(format!("no longer does for {}", lost.join(", "))));
    }
    let longest = size.saturating_sub(1) as f64 * FAIR_SHARE;
    match row.slower.filter(|slower| !has_mode && *slower > longest) {
        Some(slower) => {
            let why =
                format!("takes {:.1} times as long as alone, more than a fair share of {size}", slower + 1.0);
            (Livable::No, kept, Some(why))
        }
        None => (Livable::Yes, kept, None),
    }
}

/// The model with this one work, of which everything counts: being disturbed and slowed down is what is looked at here.
fn plain(rung: &Rung, cell: &Cell) -> Rung {
    let work = crate::trial::SpeedWork { soak_s: None, ..cell.work };
    let ended = cell.ended.map(|ended| Ended { others: 0, ..ended });
    let cell = Cell { work, runs: cell.runs.clone(), samples: Vec::new(), ended, marks: Vec::new() };
    let subject = rung.subject.clone().map(|subject| crate::trial::Subject { context: None, ..subject });
    Rung { cells: vec![cell], answers: Vec::new(), subject, ..rung.clone() }
}
