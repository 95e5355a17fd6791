//! What a record says: the steps, what to use, what to avoid, what the machine lacks. Every statement with its figures.

use super::advice::{Advice, Need, advice, needs};
use super::avoid::{Avoided, avoided};
use super::goals::{Climbed, misses};
use super::mode_table::{ModeFit, fits};
use super::recommend::{Recommended, configuration};
use super::record::{Mark, Outcome, Record};
use super::scaling::{Step, pattern, steps};
use super::summary::{RungSummary, summarise};
use super::sweet::{KindChoice, ModeChoice, of_kinds, of_mode, usable};
use serde::Serialize;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// Each rung in figures, in the record's order.
    pub rungs: Vec<RungSummary>,
    /// The last word on each rung, in a few words: `★ sweet spot: ask`, `avoid: …`, `slow for code (…)`, `ok`.
    pub remarks: Vec<String>,
    /// From each measured rung to the next.
    pub steps: Vec<Step>,
    /// How speed follows size, in a sentence or two.
    pub pattern: String,
    /// The sweet spot of each mode, in the record's order.
    pub modes: Vec<ModeChoice>,
    /// Each mode with each model.
    pub fits: Vec<ModeFit>,
    /// Fast, balanced, quality, and made for something.
    pub kinds: Vec<KindChoice>,
    /// Models not to use.
    pub avoid: Vec<Avoided>,
    /// What rungs that had no room are missing.
    pub needs: Vec<Need>,
    /// What would help.
    pub advice: Vec<Advice>,
    /// The recommended modes as lines of the router's configuration.
    pub configuration: Vec<String>,
}

/// Reads a record.
#[must_use]
pub fn analyse(record: &Record) -> Analysis {
    let climbed: Vec<Climbed<'_>> = record
        .rungs
        .iter()
        .enumerate()
        .map(|(place, rung)| Climbed { rung, summary: summarise(rung), place })
        .collect();
    let steps = steps(&climbed);
    let avoid = avoided(record, &climbed);
    let usable = usable(&climbed, &avoid);
    let modes: Vec<ModeChoice> = record.modes.iter().map(|goal| of_mode(goal, &usable)).collect();
    let kinds = of_kinds(&usable);
    let chosen = record.modes.iter().zip(&modes);
    let recommended: Vec<Recommended> =
        chosen.map(|(goal, choice)| Recommended::of(goal, choice.clone(), None)).collect();
    Analysis {
        remarks: climbed.iter().map(|rung| remark(record, rung, &modes, &kinds, &avoid)).collect(),
        pattern: pattern(&climbed, &steps),
        kinds,
        needs: needs(&climbed),
        advice: advice(record, &climbed, &steps, &avoid, &modes),
        configuration: configuration(&recommended),
        fits: fits(&record.modes, &modes, &climbed, &avoid),
        rungs: climbed.iter().map(|rung| rung.summary.clone()).collect(),
        steps,
        modes,
        avoid,
    }
}

/// The last word on a rung. Where modes say what they want the kinds are of no interest.
/// Why a model's speed is not known, where all of it was measured beside others.
#[must_use]
pub fn spoilt(rung: &RungSummary) -> Option<&'static str> {
    let has = |mark| rung.marks.contains(&mark);
    match () {
        () if has(Mark::Busy) => Some("other programs used the processors during all of its requests"),
        () if has(Mark::Disturbed) => Some("others used the machine during all of its requests"),
        () => None,
    }
}

fn remark(
    record: &Record,
    rung: &Climbed<'_>,
    modes: &[ModeChoice],
    kinds: &[KindChoice],
    avoid: &[Avoided],
) -> String {
    let model = &rung.rung.model;
    match &rung.summary.outcome {
        Outcome::Skipped(why) => return format!("skipped: {why}"),
        Outcome::Failed(why) => return format!("failed: {why}"),
        Outcome::Absent(why) => return format!("could not be fetched: {why}"),
        Outcome::Done => {}
    }
    if let Some(reason) = avoid.iter().find(|one| one.model == *model).and_then(|one| one.reasons.first()) {
        return format!("avoid: {reason}");
    }
    if let Some(why) = spoilt(&rung.summary) {
        return format!("measure again: {why}");
    }
    let of_modes = modes.iter().filter(|choice| choice.models.first() == Some(model));
    let mut best: Vec<String> = of_modes.map(|choice| choice.mode.to_string()).collect();
    if modes.is_empty() {
        let of_kinds = kinds.iter().filter(|choice| choice.model.as_ref() == Some(model));
        best.extend(of_kinds.map(|choice| choice.kind.to_string()));
    }
    if !best.is_empty() {
        return format!("★ sweet spot: {}", best.join(", "));
    }
    let slow = record.modes.iter().find_map(|goal| {
        let slow = misses(goal, rung, 0.0).into_iter().find(|miss| miss.is_slow())?;
        Some(format!("slow for {} ({slow})", goal.mode))
    });
    slow.unwrap_or_else(|| "ok".into())
}
