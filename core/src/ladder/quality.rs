//! Which of some models answers best: by evaluations where all of them have the same, else by size.

use super::goals::Climbed;
use super::record::Evaluation;
use crate::id::ModeName;
use crate::placement::LEAST_ITEMS;
use crate::statistics::{Share, mean};
use std::collections::BTreeSet;

/// How good each of some models is, in their order. Larger = better; comparable within one call only.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ranking {
    pub(super) scores: Vec<f64>,
    pub(super) by: By,
}

/// What a ranking goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The same evaluations of all.
    Evaluations,
    /// Parameters, known of all.
    Parameters,
    /// Bytes, known of all.
    Size,
    /// The place on the ladder.
    Place,
}

/// Ranks `rungs` for `mode`.
pub(super) fn ranked(rungs: &[&Climbed<'_>], mode: Option<&ModeName>) -> Ranking {
    if let Some(scores) = evaluated(rungs, mode) {
        return Ranking { scores, by: By::Evaluations };
    }
    let all = |of: fn(&Climbed<'_>) -> Option<u64>| {
        rungs.iter().map(|rung| of(rung).map(|value| value as f64)).collect::<Option<Vec<f64>>>()
    };
    if let Some(scores) = all(|rung| rung.rung.parameters) {
        return Ranking { scores, by: By::Parameters };
    }
    if let Some(scores) = all(|rung| rung.rung.size.map(|size| size.0)) {
        return Ranking { scores, by: By::Size };
    }
    Ranking { scores: rungs.iter().map(|rung| rung.place as f64).collect(), by: By::Place }
}

/// The mean share over the suites that all of them passed through; `None` where there is none.
fn evaluated(rungs: &[&Climbed<'_>], mode: Option<&ModeName>) -> Option<Vec<f64>> {
    let suites = rungs
        .iter()
        .map(|rung| told(rung, mode).map(|one| one.suite.as_str()).collect::<BTreeSet<&str>>())
        .reduce(|all, more| all.intersection(&more).copied().collect())?;
    let share = |rung: &Climbed<'_>, suite: &str| {
        let one = told(rung, mode).find(|one| one.suite == suite)?;
        // As plans grade models: few items count for less.
        Some(Share::wilson(one.passed.into(), one.tried.into())?.low)
    };
    let score = |rung: &&Climbed<'_>| mean(suites.iter().filter_map(|suite| share(rung, suite)));
    rungs.iter().map(score).collect()
}

/// Evaluations that tell of a mode, of enough items: its own first, then those of no mode.
fn told<'a>(rung: &'a Climbed<'_>, mode: Option<&ModeName>) -> impl Iterator<Item = &'a Evaluation> {
    let tried =
        || rung.rung.evaluations.iter().filter(|one| one.tried >= LEAST_ITEMS && one.passed <= one.tried);
    let own = mode.cloned();
    let own = tried().filter(move |one| own.is_some() && one.mode == own);
    own.chain(tried().filter(|one| one.mode.is_none()))
}

impl Ranking {
    /// The places of the models, best first; among equals the larger, then the one that comes later.
    pub(super) fn best_first(&self, rungs: &[&Climbed<'_>]) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.scores.len()).collect();
        let size = |at: usize| rungs[at].rung.parameters.or(rungs[at].rung.size.map(|size| size.0));
        places.sort_by(|a, b| {
            let by_score = self.scores[*b].total_cmp(&self.scores[*a]);
            by_score.then_with(|| size(*b).cmp(&size(*a))).then_with(|| rungs[*b].place.cmp(&rungs[*a].place))
        });
        places
    }

    /// Why `rung` is best, of so many.
    pub(super) fn why(&self, rung: &Climbed<'_>, mode: Option<&ModeName>, of: usize) -> String {
        let among = if of == 1 { "the only one".to_owned() } else { format!("of {of}") };
        match self.by {
            By::Evaluations if of > 1 => {
                let suites: Vec<String> = told(rung, mode).filter_map(result).collect();
                format!("best evaluated {among} ({})", suites.join(", "))
            }
            _ if of == 1 => among,
            By::Evaluations | By::Parameters | By::Size => format!("the largest {among}"),
            By::Place => format!("the last {among}: sizes are not known"),
        }
    }
}

/// `mmlu v2 71 % of 100 (61–79 %)`.
fn result(one: &Evaluation) -> Option<String> {
    let share = Share::wilson(one.passed.into(), one.tried.into())?;
    let (value, low, high) = (share.value() * 100.0, share.low * 100.0, share.high * 100.0);
    Some(format!("{} {value:.0} % of {} ({low:.0}–{high:.0} %)", one.suite, one.tried))
}
