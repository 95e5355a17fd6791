//! Models not to use on this machine, each with all its reasons.

use super::goals::{Climbed, misses, number};
use super::record::{Mark, Outcome, Record, StopRule};
use crate::id::ModelId;
use serde::Serialize;

/// A spread larger than this part of the median: nobody can rely on such a speed.
pub const UNSTABLE: f64 = 0.25;
/// Repetitions that are needed before a spread is believed.
const LEAST_REPETITIONS: u64 = 3;
/// A soak that keeps less than this part of its first speed.
pub const SUSTAINED: f64 = 0.8;
/// Slowed down for more than this part of the time.
const SLOWED: f64 = 0.5;
/// Tokens each second that nobody waits for, where no mode says otherwise: a page takes ten minutes.
pub const LEAST_USEFUL: f64 = 1.0;

/// A model not to use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Avoided {
    /// Which.
    pub model: ModelId,
    /// Why, with figures; never empty.
    pub reasons: Vec<String>,
}

/// Those of `climbed` that were tried and are not to be used.
pub(super) fn avoided(record: &Record, climbed: &[Climbed<'_>]) -> Vec<Avoided> {
    let of = |rung: &Climbed<'_>| {
        let reasons = reasons(record, climbed, rung);
        (!reasons.is_empty()).then(|| Avoided { model: rung.rung.model.clone(), reasons })
    };
    climbed.iter().filter_map(of).collect()
}

fn reasons(record: &Record, all: &[Climbed<'_>], rung: &Climbed<'_>) -> Vec<String> {
    match &rung.summary.outcome {
        Outcome::Skipped(_) | Outcome::Absent(_) => return Vec::new(),
        // What a person ended says nothing of the model.
        Outcome::Failed(_) if rung.place + 1 == all.len() && is_by_hand(record) => return Vec::new(),
        Outcome::Failed(why) => return vec![format!("it could not be measured: {why}")],
        Outcome::Done => {}
    }
    let found =
        [answers(record, rung), speed(record, rung), spread(rung), sustained(rung), slowed(all, rung)];
    found.into_iter().flatten().collect()
}

fn is_by_hand(record: &Record) -> bool {
    record.stopped.as_ref().is_some_and(|stopped| stopped.rule == StopRule::Operator)
}

/// `4 of 5 answers empty, 20 % success (4–62 %), 80 % wanted`.
fn answers(record: &Record, rung: &Climbed<'_>) -> Option<String> {
    let answers = rung.summary.answers.as_ref()?;
    let (share, least) = (answers.success, record.settings.success_threshold);
    // A model without one good answer is for nothing, whatever was asked for to see more rungs.
    if share.of == share.n || (share.value() >= least && share.of > 0) {
        return None;
    }
    let counts = [
        (answers.empty, "empty"),
        (answers.repeated, "repeated"),
        (answers.gibberish, "gibberish"),
        (answers.endless, "without an end"),
        (answers.cut, "cut"),
        (answers.failed, "failed"),
    ];
    let faults = counts.iter().filter(|(count, _)| *count > 0);
    let faults: Vec<String> =
        faults.map(|(count, what)| format!("{count} of {} answers {what}", share.n)).collect();
    let (value, low, high) = (share.value() * 100.0, share.low * 100.0, share.high * 100.0);
    let wanted = least * 100.0;
    let success = format!("{value:.0} % success ({low:.0}–{high:.0} %), {wanted:.0} % wanted");
    Some(format!("{}, {success}", faults.join(", ")))
}

/// Slower than every mode asks for; without modes, too slow for anybody.
fn speed(record: &Record, rung: &Climbed<'_>) -> Option<String> {
    // Others took part of it: how fast it is alone is not known. A machine that slows itself down is slow.
    if rung.summary.marks.iter().any(|mark| *mark != Mark::Throttled) {
        return None;
    }
    if record.modes.is_empty() {
        let rate = rung.rate().filter(|rate| *rate < LEAST_USEFUL)?;
        return Some(format!("{} tok/s, at least {LEAST_USEFUL} is of use", number(rate)));
    }
    let slow = record.modes.iter().map(|goal| {
        let slow = misses(goal, rung, 0.0).into_iter().find(|miss| miss.is_slow())?;
        Some(format!("{}: {slow}", goal.mode))
    });
    let slow: Vec<String> = slow.collect::<Option<_>>()?;
    Some(format!("slower than every mode asks for ({})", slow.join(", ")))
}

fn spread(rung: &Climbed<'_>) -> Option<String> {
    let decode = rung.summary.decode.filter(|decode| decode.n >= LEAST_REPETITIONS)?;
    if !rung.summary.marks.is_empty() {
        return None;
    }
    let (sd, spread) = (decode.sd?, decode.spread().filter(|spread| *spread > UNSTABLE)?);
    let (median, sd, part) = (number(decode.median), number(sd), spread * 100.0);
    let most = UNSTABLE * 100.0;
    Some(format!("unstable: {median} ± {sd} tok/s over {} runs ({part:.0} %, {most:.0} % at most)", decode.n))
}

fn sustained(rung: &Climbed<'_>) -> Option<String> {
    let soak = rung.summary.soak.filter(|soak| soak.share < SUSTAINED)?;
    let (first, last, share) = (number(soak.first), number(soak.last), soak.share * 100.0);
    let (seconds, least) = (soak.seconds, SUSTAINED * 100.0);
    Some(format!("{first} → {last} tok/s in a soak of {seconds:.0} s ({share:.0} %, {least:.0} % wanted)"))
}

/// Slowed down most of the time. Of a machine that is held down by every model alike this says nothing of one model.
fn slowed(all: &[Climbed<'_>], rung: &Climbed<'_>) -> Option<String> {
    let share = |rung: &Climbed<'_>| {
        let summary = &rung.summary;
        Some(summary.throttled_s? / summary.seconds).filter(|share| share.is_finite())
    };
    let found = share(rung).filter(|share| *share > SLOWED)?;
    let has_marks_only = rung.summary.cells.iter().all(|cell| cell.marks.contains(&Mark::Throttled));
    let others_not = all.iter().filter_map(share).any(|other| other <= SLOWED);
    (has_marks_only && others_not).then(|| {
        let (part, seconds) = (found * 100.0, rung.summary.seconds);
        format!("slowed down for {part:.0} % of {seconds:.0} s, and no undisturbed run exists")
    })
}
