//! The candidate beside the champion: what is better, what is worse.

use super::check::{Found, State, cell, lost, malformed, miscalled, missed_by, spoilt};
use super::record::{Aim, Evidence};
use crate::ladder::goals::number;
use crate::ladder::{Outcome, summarise};
use crate::statistics::Share;
use serde::Serialize;

/// Speeds that differ by less than this part are the same: a warmer machine costs some percent.
pub const SAME: f64 = 0.1;

/// What is different. Each line has both figures.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Comparison {
    /// Where the candidate is better.
    pub better: Vec<String>,
    /// Where it is worse.
    pub worse: Vec<String>,
    /// Where it is worse and that is of no account, and why.
    pub harmless: Vec<String>,
    /// What was measured and cannot be compared, and why.
    pub left_out: Vec<String>,
}

/// Compares what both did. A larger model is taken for the better one: a handful of questions cannot tell.
pub(super) fn compare(candidate: &Evidence, champion: &Evidence, aims: &[Aim]) -> Comparison {
    let mut comparison = Comparison::default();
    if [candidate, champion].iter().any(|evidence| evidence.rung.outcome != Outcome::Done) {
        return comparison;
    }
    speeds(&mut comparison, candidate, champion, aims);
    let counts = |evidence: &Evidence| {
        let answers =
            summarise(&evidence.rung).answers.map(|answers| (answers.success.of, answers.success.n));
        let good = |faults: Vec<Option<String>>| {
            let good = faults.iter().filter(|fault| fault.is_none()).count() as u64;
            Some((good, faults.len() as u64)).filter(|(_, n)| *n > 0)
        };
        [
            answers,
            good(evidence.forms.iter().map(malformed).collect()),
            good(evidence.calls.iter().map(miscalled).collect()),
            good(evidence.needles.iter().map(lost).collect()),
        ]
    };
    let names = ["coherent answers", "JSON answers", "tool calls", "needles"];
    for (name, both) in names.iter().zip(counts(candidate).into_iter().zip(counts(champion))) {
        let (Some((ours, n)), Some((theirs, m))) = both else { continue };
        let line = format!("{ours} of {n} {name}, {theirs} of {m} before");
        let (Some(ours), Some(theirs)) = (Share::wilson(ours, n), Share::wilson(theirs, m)) else { continue };
        // Where the intervals have a share in common, both may be as good: one slip among three says nothing.
        if ours.low > theirs.high {
            comparison.better.push(line);
        } else if ours.high < theirs.low {
            comparison.worse.push(line);
        }
    }
    size(&mut comparison, candidate, champion);
    comparison
}

fn speeds(comparison: &mut Comparison, candidate: &Evidence, champion: &Evidence, aims: &[Aim]) {
    // A slower model does no harm where it is as fast as those modes ask for that the champion is fast enough for.
    let served = aims.iter().filter(|aim| aim.models.contains(&champion.rung.model));
    let met: Vec<&Aim> = served.filter(|aim| missed_by(champion, aim).is_empty()).collect();
    let is_enough = !met.is_empty() && met.iter().all(|aim| missed_by(candidate, aim).is_empty());
    for (at, reached) in candidate.contexts.iter().enumerate() {
        let spoilt =
            [candidate, champion].map(|evidence| Some((&evidence.rung.model, spoilt(evidence, at)?)));
        let spoilt: Vec<String> =
            spoilt.into_iter().flatten().map(|(model, why)| format!("{model}: {why}")).collect();
        if !spoilt.is_empty() {
            comparison.left_out.push(format!("speeds at {} tokens; {}", reached.asked, spoilt.join("; ")));
            continue;
        }
        let (Some((prompt, ours)), Some((other, theirs))) = (cell(candidate, at), cell(champion, at)) else {
            continue;
        };
        let (Some(ours), Some(theirs)) = (ours.decode, theirs.decode) else { continue };
        // Longer prompts are slower by nature.
        if prompt != other || theirs.median <= 0.0 {
            continue;
        }
        // One that is known once only may be anything.
        let (Some(spread), Some(other)) = (ours.sd, theirs.sd) else { continue };
        if (ours.median - theirs.median).abs() <= spread + other {
            continue;
        }
        let share = ours.median / theirs.median;
        let line = format!(
            "{} tok/s at {} tokens, {} before",
            number(ours.median),
            reached.asked,
            number(theirs.median)
        );
        if share > 1.0 + SAME {
            comparison.better.push(line);
        } else if share < 1.0 - SAME && is_enough {
            comparison.harmless.push(format!("{line}; still as fast as its modes ask for"));
        } else if share < 1.0 - SAME {
            comparison.worse.push(line);
        }
    }
}

fn size(comparison: &mut Comparison, candidate: &Evidence, champion: &Evidence) {
    let known = |evidence: &Evidence| Some((evidence.rung.parameters?, evidence.rung.size?.0));
    let (Some((ours, bytes)), Some((theirs, other))) = (known(candidate), known(champion)) else { return };
    let billions = |count: u64| number(count as f64 / 1e9);
    let gib = |bytes: u64| number(bytes as f64 / f64::from(1 << 30));
    // Names are round, and so are parameters of the same base: less than SAME is the same model in another quantisation.
    let share = ours as f64 / theirs.max(1) as f64;
    if share > 1.0 + SAME {
        comparison.better.push(format!(
            "{} billion parameters, {} billion before",
            billions(ours),
            billions(theirs)
        ));
    } else if share >= 1.0 - SAME && bytes as f64 > other as f64 * (1.0 + SAME) {
        comparison.better.push(format!(
            "{} GiB of about as many parameters, {} GiB before",
            gib(bytes),
            gib(other)
        ));
    }
}

/// The comparison as a check.
pub(super) fn found(comparison: &Comparison, candidate: &Evidence, champion: &Evidence) -> Found {
    let name = &champion.rung.model;
    for (name, rung) in [(name, &champion.rung), (&candidate.rung.model, &candidate.rung)] {
        if let Outcome::Skipped(why) | Outcome::Failed(why) | Outcome::Absent(why) = &rung.outcome {
            let why = format!("{name} could not be measured: {why}");
            return Found { state: State::NotChecked, figure: None, why: Some(why) };
        }
    }
    let figure = match (comparison.better.len(), comparison.worse.len()) {
        (0, 0) => "the same".to_owned(),
        (better, worse) => format!("better in {better}, worse in {worse}"),
    };
    let (state, why) = match (comparison.worse.as_slice(), comparison.better.is_empty()) {
        ([], false) => (State::Passed, None),
        ([], true) => (State::Weak, Some(format!("it is better than {name} in nothing"))),
        (worse, _) => (State::Weak, Some(format!("worse than {name}: {}", worse.join("; ")))),
    };
    Found { state, figure: Some(figure), why }
}
