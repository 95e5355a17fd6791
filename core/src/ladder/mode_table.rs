//! Each mode against each model: what a table of modes and models says in its cells.

use super::avoid::Avoided;
use super::goals::{Climbed, HEADROOM, figures, misses};
use super::record::{ModeGoal, Outcome};
use super::sweet::{ModeChoice, suits};
use crate::id::{ModeName, ModelId};
use serde::Serialize;

/// One mode and one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModeFit {
    /// The mode.
    pub mode: ModeName,
    /// The model.
    pub model: ModelId,
    /// What they are to each other.
    pub fit: Fit,
    /// Why, with figures.
    pub why: String,
}

/// What a model is to a mode, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Its sweet spot.
    Best,
    /// It meets the targets with headroom.
    Meets,
    /// It meets them, and has no headroom.
    Barely,
    /// It does not meet them.
    Misses,
    /// It is made for something else.
    Unsuited,
    /// It is to be avoided whatever the mode.
    Avoid,
    /// It was not measured.
    Unmeasured,
}

/// All modes with all models, mode by mode, in the record's order.
pub(super) fn fits(
    goals: &[ModeGoal],
    choices: &[ModeChoice],
    climbed: &[Climbed<'_>],
    avoided: &[Avoided],
) -> Vec<ModeFit> {
    let of = |goal: &ModeGoal, choice: &ModeChoice, rung: &Climbed<'_>| {
        let (fit, why) = fit(goal, choice, rung, avoided);
        ModeFit { mode: goal.mode.clone(), model: rung.rung.model.clone(), fit, why }
    };
    let pairs = goals.iter().zip(choices);
    pairs.flat_map(|(goal, choice)| climbed.iter().map(move |rung| of(goal, choice, rung))).collect()
}

fn fit(goal: &ModeGoal, choice: &ModeChoice, rung: &Climbed<'_>, avoided: &[Avoided]) -> (Fit, String) {
    let model = &rung.rung.model;
    match &rung.summary.outcome {
        Outcome::Skipped(why) => return (Fit::Unmeasured, why.clone()),
        Outcome::Absent(why) => return (Fit::Unmeasured, format!("it could not be fetched: {why}")),
        Outcome::Done | Outcome::Failed(_) => {}
    }
    if let Some(avoided) = avoided.iter().find(|one| one.model == *model) {
        return (Fit::Avoid, avoided.reasons.join("; "));
    }
    if choice.models.first() == Some(model) {
        return (Fit::Best, choice.why.clone());
    }
    if let (false, Some(specialty)) =
        (suits(rung.rung.specialty.as_deref(), &goal.mode), &rung.rung.specialty)
    {
        return (Fit::Unsuited, format!("made for {specialty}"));
    }
    let told = |headroom| {
        let all: Vec<String> = misses(goal, rung, headroom).iter().map(ToString::to_string).collect();
        all.join(", ")
    };
    let (missed, narrow) = (told(0.0), told(HEADROOM));
    match (missed.is_empty(), narrow.is_empty()) {
        (false, _) => (Fit::Misses, missed),
        (true, false) => (Fit::Barely, narrow),
        (true, true) => (Fit::Meets, figures(goal, rung)),
    }
}
