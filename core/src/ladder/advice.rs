//! What a machine lacks: the bytes that the next rung needs, and which memory or bandwidth would move which mode.

use super::avoid::Avoided;
use super::goals::{Climbed, HEADROOM, Miss, least_rate, misses, number};
use super::record::{ModeGoal, Record, Shortage};
use super::scaling::{Cause, Step, bandwidth};
use super::stop::lacks;
use super::sweet::{ModeChoice, suits};
use crate::id::{ModeName, ModelId};
use crate::units::Bytes;
use serde::Serialize;

/// What a model needs that is not there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Need {
    /// Which model.
    pub model: ModelId,
    /// What is missing.
    pub missing: Shortage,
    /// In words.
    pub why: String,
}

/// What would help.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// The mode that it would move; `null` = the machine as a whole.
    pub mode: Option<ModeName>,
    /// What, why, and by which figures.
    pub text: String,
}

/// What rungs that had no room are missing, smallest first.
pub(super) fn needs(climbed: &[Climbed<'_>]) -> Vec<Need> {
    let need = |rung: &Climbed<'_>| {
        let missing = rung.rung.shortage?;
        let why = format!("{}: {}", rung.rung.model, lacks(&missing)?);
        Some(Need { model: rung.rung.model.clone(), missing, why })
    };
    let mut needs: Vec<Need> = climbed.iter().filter_map(need).collect();
    let all = |need: &Need| need.missing.vram.0.saturating_add(need.missing.ram.0);
    needs.sort_by(|a, b| all(a).cmp(&all(b)).then_with(|| a.model.cmp(&b.model)));
    needs
}

/// All that would help.
pub(super) fn advice(
    record: &Record,
    climbed: &[Climbed<'_>],
    steps: &[Step],
    avoided: &[Avoided],
    choices: &[ModeChoice],
) -> Vec<Advice> {
    let mut all: Vec<Advice> = steps.iter().filter_map(|step| spilled(record, climbed, step)).collect();
    for (goal, choice) in record.modes.iter().zip(choices) {
        all.extend(faster(goal, choice, climbed, avoided));
        all.extend(larger(goal, choice, climbed));
    }
    all.extend(heat(climbed));
    all
}

/// A model that is slower than its bytes explain would lie whole on a larger card.
fn spilled(record: &Record, climbed: &[Climbed<'_>], step: &Step) -> Option<Advice> {
    if step.cause != Cause::BeyondSize {
        return None;
    }
    let rung = climbed.iter().find(|rung| rung.rung.model == step.to)?;
    let own = record.hardware.gpus.iter().filter(|gpu| !gpu.shares_ram).filter_map(|gpu| gpu.memory).max()?;
    let size = rung.rung.size?;
    let missing = Bytes(size.0.checked_sub(own.0).filter(|bytes| *bytes > 0)?);
    let before = climbed.iter().find(|rung| rung.rung.model == step.from).and_then(bandwidth)?;
    let rate = number(before / rung.traffic()?);
    let has = number(rung.rate()?);
    let text = format!(
        "{missing} more graphics memory would hold {}'s weights whole ({size}, the card has {own}): about {rate} tok/s \
         in place of {has}, at the {} GB/s of {}",
        step.to,
        number(before / 1e9),
        step.from
    );
    Some(Advice { mode: None, text })
}

/// The next better model that only its rate keeps from a mode: how much more bandwidth it takes.
fn faster(
    goal: &ModeGoal,
    choice: &ModeChoice,
    climbed: &[Climbed<'_>],
    avoided: &[Avoided],
) -> Option<Advice> {
    let place = |model: &ModelId| climbed.iter().position(|rung| rung.rung.model == *model);
    let from = choice.models.first().and_then(place).map_or(0, |at| at + 1);
    let wants = least_rate(goal)? * (1.0 + HEADROOM);
    let by_rate_only = |rung: &&Climbed<'_>| {
        let misses = misses(goal, rung, HEADROOM);
        let bad = rung.summary.answers.as_ref().is_some_and(|all| all.success.of < all.success.n);
        let avoided = bad && avoided.iter().any(|one| one.model == rung.rung.model);
        suits(rung.rung.specialty.as_deref(), &goal.mode)
            && !avoided
            && matches!(misses.as_slice(), [Miss::Rate { has: Some(_), .. }])
    };
    let rung = climbed.get(from..)?.iter().find(by_rate_only)?;
    let (rate, shown) = (rung.rate()?, bandwidth(rung));
    let times = wants / rate;
    let bytes = shown.map_or_else(String::new, |shown| {
        format!(": {} in place of {} GB/s", number(shown * times / 1e9), number(shown / 1e9))
    });
    let text = format!(
        "{} would do with {} times the memory bandwidth{bytes} ({} tok/s, {} wanted with headroom)",
        rung.rung.model,
        number(times),
        number(rate),
        number(wants)
    );
    Some(Advice { mode: Some(goal.mode.clone()), text })
}

/// The smallest model that had no room, if it would be fast enough for the mode at the bandwidth that was seen.
fn larger(goal: &ModeGoal, choice: &ModeChoice, climbed: &[Climbed<'_>]) -> Option<Advice> {
    let seen = climbed.iter().filter_map(bandwidth).fold(0.0, f64::max);
    let wants = least_rate(goal).unwrap_or_default() * (1.0 + HEADROOM);
    let absent = climbed.iter().filter(|rung| suits(rung.rung.specialty.as_deref(), &goal.mode));
    let absent = absent.filter_map(|rung| Some((rung, lacks(&rung.rung.shortage?)?, seen / rung.traffic()?)));
    let (rung, lacks, rate) = absent.into_iter().find(|(_, _, rate)| seen > 0.0 && *rate >= wants)?;
    let now = choice.models.first().map_or_else(String::new, |model| format!(" in place of {model}"));
    let text = format!(
        "{lacks} for {}{now}: about {} tok/s at the {} GB/s that were seen",
        rung.rung.model,
        number(rate),
        number(seen / 1e9)
    );
    Some(Advice { mode: Some(goal.mode.clone()), text })
}

/// Cooling, where heat or power took speed away.
fn heat(climbed: &[Climbed<'_>]) -> Option<Advice> {
    let slowed = climbed.iter().filter_map(|rung| {
        let summary = &rung.summary;
        let part = summary.throttled_s? / summary.seconds;
        Some((rung, part)).filter(|(_, part)| part.is_finite() && *part > 0.0)
    });
    let (worst, part) = slowed.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let max = worst.summary.max_temperature.map(|max| format!(", up to {max:.0} °C")).unwrap_or_default();
    let (part, seconds) = (part * 100.0, worst.summary.seconds);
    let model = &worst.rung.model;
    let text =
        format!("better cooling or power: {model} was slowed down for {part:.0} % of {seconds:.0} s{max}");
    Some(Advice { mode: None, text })
}
