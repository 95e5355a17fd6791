//! Two evaluations beside each other, suite by suite, and what a gate says of them.

use crate::cli::CompareArgs;
use crate::command::keep::{Keep, Kept};
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use mesh_core::exam::{Comparison, Gate, GateVerdict, Metric, Record, Suite, Variant, compare};
use mesh_core::id::{MachineId, ModelId};
use serde::Serialize;

/// Two evaluations and what their difference is worth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Judged {
    pub(crate) before: Side,
    pub(crate) now: Side,
    pub(crate) suites: Vec<JudgedSuite>,
    /// Suites of one of them only.
    pub(crate) left_out: Vec<Suite>,
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Side {
    pub(crate) id: String,
    pub(crate) model: ModelId,
    pub(crate) node: MachineId,
    pub(crate) quantisation: Option<String>,
}

/// One suite of both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct JudgedSuite {
    pub(crate) suite: Suite,
    pub(crate) variant: Variant,
    /// `null` where they cannot be compared; `why` says so.
    pub(crate) comparison: Option<Comparison>,
    pub(crate) why: Option<String>,
    /// `null` without a gate.
    pub(crate) gate: Option<GateVerdict>,
}

/// # Errors
/// `NotFound` for evaluations that there are not, `Usage` where nothing is common to them, `Degraded` where the gate says
/// worse, `Failed` where it cannot tell.
pub(super) fn run(args: &CompareArgs, keep: &Keep<Record>, screen: &Screen) -> Result<(), Failure> {
    let (before, now) = match args.ids.as_slice() {
        [before, now] => (keep.named(Some(before))?, keep.named(Some(now))?),
        ids => {
            let now = keep.named(ids.first().map(String::as_str))?;
            (baseline_of(keep, &now.model)?, now)
        }
    };
    let gate = args.gate.map(Gate::new).transpose();
    let gate = gate.map_err(|error| Failure::new(Kind::Usage, "that is no gate").cause(error.to_string()))?;
    let judged = judged(&before, &now, args.metric, gate)?;
    if screen.is_json() {
        screen.result(&render::json("mesh.comparison/v1", &judged, false))?;
    } else {
        screen.result(&render::eval::comparison(&judged, screen.look))?;
    }
    judged.verdict()
}

/// The newest baseline of a model.
pub(super) fn baseline_of(keep: &Keep<Record>, model: &ModelId) -> Result<Record, Failure> {
    let found = keep.newest(|record| record.baseline && record.model == *model)?;
    found.ok_or_else(|| {
        Failure::new(Kind::NotFound, format!("{model} has no baseline"))
            .hint("make an evaluation its baseline: meshctl eval baseline ID")
            .hint(format!("those that there are: meshctl {} list", Record::FOLDER))
    })
}

/// Compares all that both have.
pub(super) fn judged(
    before: &Record,
    now: &Record,
    metric: Option<Metric>,
    gate: Option<Gate>,
) -> Result<Judged, Failure> {
    if before.id == now.id {
        let what = format!("{} is to be compared with itself", now.id);
        return Err(Failure::new(Kind::Usage, what).hint("name two: meshctl eval compare BASELINE NEW"));
    }
    let mut suites = Vec::new();
    for sitting in &now.sittings {
        let (suite, variant) = (sitting.run.suite, sitting.run.variant);
        let Some(other) = before.sitting(suite) else { continue };
        let Some(by) = metric.or_else(|| suite.metrics(variant).first().copied()) else { continue };
        suites.push(match compare(&other.run, &sitting.run, by) {
            Ok(comparison) => {
                let gate = gate.map(|gate| gate.judge(&comparison));
                JudgedSuite { suite, variant, comparison: Some(comparison), why: None, gate }
            }
            Err(error) => {
                let why = error.to_string();
                let cannot = || GateVerdict::CannotTell { why: why.clone(), items_needed: None };
                let gate = gate.map(|_| cannot());
                JudgedSuite { suite, variant, comparison: None, why: Some(why), gate }
            }
        });
    }
    let has = |record: &Record, suite: Suite| record.sitting(suite).is_some();
    let left_out: Vec<Suite> =
        Suite::ALL.into_iter().filter(|suite| has(before, *suite) != has(now, *suite)).collect();
    if suites.is_empty() {
        let what = format!("{} and {} have no suite in common", before.id, now.id);
        return Err(
            Failure::new(Kind::Usage, what).hint("run the same suites again: meshctl eval run --suite …")
        );
    }
    Ok(Judged { before: side(before), now: side(now), suites, left_out })
}

fn side(record: &Record) -> Side {
    Side {
        id: record.id.clone(),
        model: record.model.clone(),
        node: record.node.clone(),
        quantisation: record.quantisation.clone(),
    }
}

impl Judged {
    /// What the gates say of all suites together.
    ///
    /// # Errors
    /// `Degraded` where one is worse, `Failed` where one cannot be told and none is worse.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let of = |is: fn(&GateVerdict) -> bool| -> Vec<&str> {
            let judged = self.suites.iter().filter(|one| one.gate.as_ref().is_some_and(is));
            judged.map(|one| one.suite.word()).collect()
        };
        let worse = of(|gate| matches!(gate, GateVerdict::Regressed { .. }));
        if !worse.is_empty() {
            let what = format!("{} is worse than {} in {}", self.now.id, self.before.id, worse.join(", "));
            return Err(Failure::new(Kind::Degraded, what));
        }
        let untold = of(|gate| matches!(gate, GateVerdict::CannotTell { .. }));
        if !untold.is_empty() {
            let what =
                format!("the items do not tell whether {} is worse in {}", self.now.id, untold.join(", "));
            return Err(Failure::new(Kind::Failed, what).hint("ask more items, or allow a larger difference"));
        }
        Ok(())
    }
}
