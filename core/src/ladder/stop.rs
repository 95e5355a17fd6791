//! Whether a climb goes on: pure, from the record so far and the model that would be next.

use super::goals::{Climbed, misses, number, traffic};
use super::record::{Outcome, Record, Rung, Shortage, StopRule, Stopped};
use super::summary::summarise;
use crate::id::ModelId;
use crate::machine::ThermalState;
use crate::statistics::median;
use crate::trial::Sample;
use crate::units::Bytes;

/// The model that would be next.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub model: ModelId,
    /// Bytes of its file.
    pub size: Option<Bytes>,
    /// Parameters.
    pub parameters: Option<u64>,
    /// Parameters that one token uses.
    pub active_parameters: Option<u64>,
    /// What is missing to load it; `None` = nothing, or not known.
    pub shortage: Option<Shortage>,
    /// The machine now, idle.
    pub now: Sample,
}

/// Whether to climb on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Measure it.
    Go,
    /// Do not, and why.
    Stop(Stopped),
}

/// Whether `candidate` is to be measured after what `record` holds. The rule that is told is the first that says no; the
/// reason has all of them.
#[must_use]
pub fn next(record: &Record, candidate: &Candidate) -> Next {
    let mut found: Vec<(StopRule, String)> = Vec::new();
    let tried = record.rungs.iter().rev().map(|rung| Climbed { rung, summary: summarise(rung), place: 0 });
    // A rung that was not tried says nothing of the next.
    let is_tried =
        |climbed: &Climbed<'_>| matches!(climbed.summary.outcome, Outcome::Done | Outcome::Failed(_));
    let last = tried.into_iter().find(is_tried);
    if let Some(last) = &last {
        found.extend(failed(last));
        found.extend(success(record, last));
        found.extend(slow(record, last, candidate));
    }
    found.extend(no_room(candidate));
    found.extend(idle_heat(record, candidate));
    found.extend(last.and_then(|last| heat(record, last.rung)));
    let Some((rule, _)) = found.first() else { return Next::Go };
    let rule = *rule;
    let why: Vec<String> = found.into_iter().map(|(_, why)| why).collect();
    Next::Stop(Stopped { rule, why: why.join("; ") })
}

fn failed(last: &Climbed<'_>) -> Option<(StopRule, String)> {
    match &last.summary.outcome {
        Outcome::Failed(why) => Some((StopRule::Failed, format!("{} failed: {why}", last.rung.model))),
        Outcome::Done | Outcome::Skipped(_) | Outcome::Absent(_) => None,
    }
}

fn success(record: &Record, last: &Climbed<'_>) -> Option<(StopRule, String)> {
    let share = last.summary.answers.as_ref()?.success;
    let least = record.settings.success_threshold;
    (share.value() < least).then(|| {
        let (good, n, wanted) = (share.of, share.n, least * 100.0);
        let why = format!("{good} of {n} answers of {} were good, {wanted:.0} % are wanted", last.rung.model);
        (StopRule::Success, why)
    })
}

/// Slower than every mode asks for. A next model that reads fewer bytes for each token may be faster: sparse ones are.
fn slow(record: &Record, last: &Climbed<'_>, candidate: &Candidate) -> Option<(StopRule, String)> {
    let theirs =
        candidate.size.and_then(|size| traffic(size.0, candidate.parameters, candidate.active_parameters));
    if let (Some(theirs), Some(ours)) = (theirs, last.traffic())
        && theirs < ours
    {
        return None;
    }
    let of_each: Option<Vec<String>> = record
        .modes
        .iter()
        .map(|goal| {
            let slow = misses(goal, last, 0.0).into_iter().find(|miss| miss.is_slow())?;
            Some(format!("{}: {slow}", goal.mode))
        })
        .collect();
    let of_each = of_each.filter(|all| !all.is_empty())?;
    let why = format!("{} is slower than every mode asks for ({})", last.rung.model, of_each.join(", "));
    Some((StopRule::Slow, why))
}

fn no_room(candidate: &Candidate) -> Option<(StopRule, String)> {
    let lacks = lacks(&candidate.shortage?)?;
    Some((StopRule::DoesNotFit, format!("{} has no room: {lacks}", candidate.model)))
}

/// `9.4 GiB of graphics memory, 12 GiB of the disk are missing`.
pub(super) fn lacks(shortage: &Shortage) -> Option<String> {
    let pools =
        [(shortage.vram, "graphics memory"), (shortage.ram, "main memory"), (shortage.disk, "the disk")];
    let missing: Vec<String> = pools
        .iter()
        .filter(|(bytes, _)| bytes.0 > 0)
        .map(|(bytes, pool)| format!("{bytes} of {pool}"))
        .collect();
    (!missing.is_empty()).then(|| format!("{} missing", missing.join(" and ")))
}

fn idle_heat(record: &Record, candidate: &Candidate) -> Option<(StopRule, String)> {
    if let (Some(degrees), Some(limit)) = (degrees(&candidate.now), record.settings.idle_below)
        && degrees >= f64::from(limit.0)
    {
        let why = format!("the machine is at {degrees:.0} °C when idle, below {limit} is wanted");
        return Some((StopRule::Hot, why));
    }
    let state = candidate.now.thermal;
    let why = || format!("the machine is {}: it takes no new model now", state.word());
    (!state.admits_load()).then(|| (StopRule::Hot, why()))
}

fn heat(record: &Record, last: &Rung) -> Option<(StopRule, String)> {
    let looks = || last.cells.iter().flat_map(|cell| &cell.samples);
    let hot = looks().filter(|sample| sample.thermal == ThermalState::Hot).count();
    if hot > 0 {
        let of = looks().count();
        return Some((StopRule::Hot, format!("{} made the machine hot ({hot} of {of} looks)", last.model)));
    }
    let limit = record.settings.sustained_below?;
    let usual = median(looks().filter_map(degrees))?;
    (usual >= f64::from(limit.0)).then(|| {
        let usual = number(usual);
        (StopRule::Hot, format!("{} kept the machine at {usual} °C, below {limit} is wanted", last.model))
    })
}

fn degrees(sample: &Sample) -> Option<f64> {
    sample.temperature.or(sample.gpu_temperature).map(f64::from).filter(|degrees| degrees.is_finite())
}
