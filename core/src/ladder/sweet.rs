//! Sweet spots: for each mode the best model that meets its targets with headroom, and the four kinds that people choose
//! by: fast, balanced, quality, and made for something.

use super::avoid::Avoided;
use super::goals::{Climbed, HEADROOM, figures, misses, number};
use super::quality::ranked;
use super::record::ModeGoal;
use crate::id::{ModeName, ModelId};
use serde::Serialize;
use std::fmt;

/// What one mode should use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModeChoice {
    /// The mode.
    pub mode: ModeName,
    /// Models that meet its targets with headroom, best first; the first is the sweet spot.
    pub models: Vec<ModelId>,
    /// Why that one, or why none.
    pub why: String,
}

/// What people choose a model by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The most tokens each second.
    Fast,
    /// Neither slow nor small.
    Balanced,
    /// The best answers.
    Quality,
    /// The best that is made for this: `code`.
    Specialised(String),
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fast => write!(out, "fast"),
            Self::Balanced => write!(out, "balanced"),
            Self::Quality => write!(out, "quality"),
            Self::Specialised(specialty) => write!(out, "specialised in {specialty}"),
        }
    }
}

/// What one kind should use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KindChoice {
    /// Which kind.
    pub kind: Kind,
    /// The model; `null` = there is none.
    pub model: Option<ModelId>,
    /// Why that one, or why none.
    pub why: String,
}

/// Rungs that may be used: done and not avoided.
pub(super) fn usable<'a, 'b>(climbed: &'a [Climbed<'b>], avoided: &[Avoided]) -> Vec<&'a Climbed<'b>> {
    let is_avoided = |rung: &Climbed<'_>| avoided.iter().any(|one| one.model == rung.rung.model);
    climbed.iter().filter(|rung| rung.is_done() && !is_avoided(rung)).collect()
}

/// Whether a model that is made for something suits a mode. Code is what three modes are about.
pub(super) fn suits(specialty: Option<&str>, mode: &ModeName) -> bool {
    let Some(specialty) = specialty else { return true };
    let writes_code = matches!(mode.as_str(), "code" | "debug" | "autocomplete");
    specialty == mode.as_str() || (specialty == "code" && writes_code)
}

/// Those of `usable` that are as wanted. Where none is, all: a model that is made for something else is better than none.
fn or_all<'a, 'b>(
    usable: &[&'a Climbed<'b>],
    is_wanted: impl Fn(&Climbed<'_>) -> bool,
) -> Vec<&'a Climbed<'b>> {
    let wanted: Vec<&Climbed<'_>> = usable.iter().copied().filter(|rung| is_wanted(rung)).collect();
    if wanted.is_empty() { usable.to_vec() } else { wanted }
}

/// The sweet spot of a mode.
pub(super) fn of_mode(goal: &ModeGoal, usable: &[&Climbed<'_>]) -> ModeChoice {
    let mode = &goal.mode;
    let fit = or_all(usable, |rung| suits(rung.rung.specialty.as_deref(), mode));
    let meeting: Vec<&Climbed<'_>> =
        fit.iter().filter(|rung| misses(goal, rung, HEADROOM).is_empty()).copied().collect();
    let ranking = ranked(&meeting, Some(mode));
    let best_first = ranking.best_first(&meeting);
    let models = best_first.iter().map(|at| meeting[*at].rung.model.clone()).collect();
    let why = match best_first.first().map(|at| meeting[*at]) {
        Some(best) => {
            let headroom = HEADROOM * 100.0;
            let quality = ranking.why(best, Some(mode), meeting.len());
            format!("{quality} that meets its targets with {headroom:.0} % to spare: {}", figures(goal, best))
        }
        None => why_none(goal, &fit),
    };
    ModeChoice { mode: mode.clone(), models, why }
}

fn why_none(goal: &ModeGoal, fit: &[&Climbed<'_>]) -> String {
    let each = fit.iter().filter_map(|rung| {
        let first = misses(goal, rung, HEADROOM).into_iter().next()?;
        Some(format!("{}: {first}", rung.rung.model))
    });
    let each: Vec<String> = each.collect();
    if each.is_empty() {
        return "no model that suits it was measured and may be used".into();
    }
    let headroom = HEADROOM * 100.0;
    format!("none meets its targets with {headroom:.0} % to spare ({})", each.join(", "))
}

/// The four kinds. Models that are made for something are in the last only, where there are others.
pub(super) fn of_kinds(usable: &[&Climbed<'_>]) -> Vec<KindChoice> {
    let general: Vec<(&Climbed<'_>, f64)> = or_all(usable, |rung| rung.rung.specialty.is_none())
        .into_iter()
        .filter_map(|rung| Some((rung, rung.rate()?)))
        .collect();
    let rungs: Vec<&Climbed<'_>> = general.iter().map(|(rung, _)| *rung).collect();
    let ranking = ranked(&rungs, None);
    let best_first = ranking.best_first(&rungs);
    let none = |kind| KindChoice { kind, model: None, why: "no model was measured that may be used".into() };
    let chosen = |kind, (rung, rate): (&Climbed<'_>, f64), why: String| {
        let why = format!("{why}: {} tok/s{}", number(rate), size(rung));
        KindChoice { kind, model: Some(rung.rung.model.clone()), why }
    };

    // Of two that are as fast the better one: it comes first in `best_first`, and only a faster one takes its place.
    let faster = |best: Option<usize>, at: &usize| match best {
        Some(best) if general[*at].1 <= general[best].1 => Some(best),
        _ => Some(*at),
    };
    let fast = best_first
        .iter()
        .fold(None, faster)
        .map(|at| chosen(Kind::Fast, general[at], format!("the fastest of {}", general.len())));
    let quality = best_first
        .first()
        .map(|at| chosen(Kind::Quality, general[*at], ranking.why(rungs[*at], None, rungs.len())));
    let mut kinds = vec![
        fast.unwrap_or_else(|| none(Kind::Fast)),
        balanced(&general, &ranking.scores, &chosen),
        quality.unwrap_or_else(|| none(Kind::Quality)),
    ];
    let mut specialties: Vec<&str> =
        usable.iter().filter_map(|rung| rung.rung.specialty.as_deref()).collect();
    specialties.sort_unstable();
    specialties.dedup();
    for specialty in specialties {
        let made_for: Vec<&Climbed<'_>> = usable
            .iter()
            .filter(|rung| rung.rung.specialty.as_deref() == Some(specialty) && rung.rate().is_some())
            .copied()
            .collect();
        let ranking = ranked(&made_for, ModeName::new(specialty).ok().as_ref());
        let kind = Kind::Specialised(specialty.to_owned());
        kinds.push(match ranking.best_first(&made_for).first().map(|at| made_for[*at]) {
            Some(best) => {
                let why = format!("made for {specialty}, {}", ranking.why(best, None, made_for.len()));
                chosen(kind, (best, best.rate().unwrap_or_default()), why)
            }
            None => none(kind),
        });
    }
    kinds
}

/// The model whose worse side is best: each side is its place between the ladder's worst and best, in ratios. The ends of
/// the ladder are on the worst place of one side, so there must be something between.
fn balanced(
    general: &[(&Climbed<'_>, f64)],
    scores: &[f64],
    chosen: &impl Fn(Kind, (&Climbed<'_>, f64), String) -> KindChoice,
) -> KindChoice {
    let speeds = places(&general.iter().map(|(_, rate)| rate.ln()).collect::<Vec<f64>>());
    let qualities =
        places(&scores.iter().map(|score| score.max(f64::MIN_POSITIVE).ln()).collect::<Vec<f64>>());
    let mut best: Option<(usize, f64)> = None;
    for (at, (speed, quality)) in speeds.iter().zip(&qualities).enumerate() {
        let worse = speed.min(*quality);
        if worse > 0.0 && best.is_none_or(|(_, other)| worse > other) {
            best = Some((at, worse));
        }
    }
    let Some((at, _)) = best else {
        let why = format!("none of {} lies between the fastest and the best", general.len());
        return KindChoice { kind: Kind::Balanced, model: None, why };
    };
    let (speed, quality) = (speeds[at] * 100.0, qualities[at] * 100.0);
    let why = format!(
        "the best compromise of {}, {speed:.0} % of the way to the fastest and {quality:.0} % to the best",
        general.len()
    );
    chosen(Kind::Balanced, general[at], why)
}

/// Each value's place between the least (0) and the greatest (1); all 0 where they are one.
fn places(values: &[f64]) -> Vec<f64> {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let wide = Some(high - low).filter(|wide| wide.is_finite() && *wide > 0.0);
    values.iter().map(|value| wide.map_or(0.0, |wide| (value - low) / wide)).collect()
}

fn size(rung: &Climbed<'_>) -> String {
    rung.rung.size.map(|size| format!(", {size}")).unwrap_or_default()
}
