//! Is a model worth having on this machine? What was asked of it is judged, beside the model that does the work now, and
//! the verdict says what to do. Pure: a shell asks and tells all that it saw in a [`Record`].
//!
//! | check | passed | weak | failed |
//! |---|---|---|---|
//! | load | it was in memory until the end | – | it was not, or its engine died |
//! | speed, at each context | as fast as a mode that goes so far asks for | slower than all of them ask for, or some requests failed, or all were disturbed | no request got an answer |
//! | coherence | all answers without a fault of form | at least 4 of 5 | fewer |
//! | JSON, tools, needle | all tries | at least 2 of 3 | fewer |
//! | champion | better in something, worse in nothing | else | – |
//!
//! What could not be asked, or was asked too seldom ([`LEAST_RUNS`], [`LEAST_ANSWERS`], [`LEAST_TRIES`]), is not checked, with
//! the reason, and never passed.
//!
//! - **poor**: it did not load; or its answers are not coherent, or that is not known; or no context was fast enough; or
//!   two of JSON, tools and needle failed. One of them is no reason: a model that calls no tools still answers.
//! - **excellent**: every check passed.
//! - **good**: all else.
//!
//! An excellent model is promoted: before the champion, in the champion's modes whose times it meets with headroom; without
//! a champion, in those modes that have no model of their own. A good one is kept as it is, a poor one skipped.

mod bounds;
mod check;
mod compare;
mod record;

pub use check::{Check, LEAST_ANSWERS, LEAST_RUNS, LEAST_TRIES, State, Topic};
pub use compare::{Comparison, SAME};
pub use record::{
    Ability, Aim, Asked, Call, Called, Evidence, Formed, Needle, Piece, Reached, Record, SCHEMA, Said,
    Settings, Sort, Unasked,
};

use crate::id::{ModeName, ModelId};
use check::{Found, coherence, json, load, longest, missed_by, needles, speed, tools};
use serde::Serialize;

/// What a model is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Not worth its place.
    Poor,
    /// Fit for work.
    Good,
    /// Fit for work, and better than what is there.
    Excellent,
}

impl Grade {
    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Poor => "poor",
            Self::Good => "good",
            Self::Excellent => "excellent",
        }
    }
}

/// What a verdict changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It should serve these modes.
    Promote(Vec<Promotion>),
    /// It may stay on the disk; modes stay as they are.
    Keep,
    /// It is not to be used.
    Skip,
}

/// One mode, with the models that it should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Promotion {
    /// The mode.
    pub mode: ModeName,
    /// Its models from then on, best first.
    pub models: Vec<ModelId>,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Validation {
    /// What the model is worth.
    pub verdict: Grade,
    /// Every check, in the order of their making.
    pub checks: Vec<Check>,
    /// Beside the champion; `null` = there is none.
    pub comparison: Option<Comparison>,
    /// What to do.
    pub change: Change,
    /// Why the verdict is as it is, in one sentence.
    pub why: String,
    /// Why not more is changed, and what is not known of what is; `null` = nothing speaks against it.
    pub but: Option<String>,
}

/// Judges a record.
#[must_use]
pub fn judge(record: &Record) -> Validation {
    let comparison =
        record.champion.as_ref().map(|champion| compare::compare(&record.candidate, champion, &record.modes));
    let checks = checks(record, comparison.as_ref());
    let verdict = grade(&checks);
    let (change, but) = match verdict {
        Grade::Poor => (Change::Skip, None),
        Grade::Good => (Change::Keep, None),
        Grade::Excellent => promotion(record),
    };
    let why = why(verdict, &checks, comparison.as_ref(), record);
    Validation { verdict, checks, comparison, change, why, but }
}

fn checks(record: &Record, comparison: Option<&Comparison>) -> Vec<Check> {
    let mut checks = Vec::new();
    let champion = record.champion.as_ref();
    let mut add = |topic: Topic, of: &dyn Fn(&Evidence) -> Found| {
        let Found { state, figure, why } = of(&record.candidate);
        let champion = champion.and_then(|champion| of(champion).figure);
        checks.push(Check { topic, state, figure, why, champion });
    };
    add(Topic::Load, &load);
    for (at, asked) in record.settings.contexts.iter().enumerate() {
        add(Topic::Speed(*asked), &|evidence| speed(evidence, *asked, at, &record.modes));
    }
    add(Topic::Coherence, &coherence);
    add(Topic::Json, &json);
    add(Topic::Tools, &tools);
    add(Topic::Needle, &needles);
    if let (Some(comparison), Some(champion)) = (comparison, champion) {
        let Found { state, figure, why } = compare::found(comparison, &record.candidate, champion);
        checks.push(Check { topic: Topic::Champion, state, figure, why, champion: None });
    }
    checks
}

/// What checks are worth together. A check that ends worse never makes it better.
#[must_use]
pub fn grade(checks: &[Check]) -> Grade {
    if checks.iter().any(|check| is_fatal(check, checks)) {
        return Grade::Poor;
    }
    let passed = checks.iter().all(|check| check.state == State::Passed);
    if passed && !checks.is_empty() { Grade::Excellent } else { Grade::Good }
}

/// Whether this check alone makes the model poor, beside `all`.
fn is_fatal(check: &Check, all: &[Check]) -> bool {
    let is_ability = |check: &Check| matches!(check.topic, Topic::Json | Topic::Tools | Topic::Needle);
    match check.topic {
        Topic::Load | Topic::Coherence => matches!(check.state, State::Failed | State::NotChecked),
        Topic::Speed(_) => {
            let mut speeds = all.iter().filter(|check| matches!(check.topic, Topic::Speed(_)));
            speeds.all(|check| check.state != State::Passed)
        }
        Topic::Json | Topic::Tools | Topic::Needle => {
            let failed = all.iter().filter(|check| is_ability(check) && check.state == State::Failed);
            check.state == State::Failed && failed.count() >= 2
        }
        Topic::Champion => false,
    }
}

impl Topic {
    /// Its name: `speed at 4096`.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Load => "load".into(),
            Self::Speed(tokens) => format!("speed at {tokens}"),
            Self::Coherence => "coherence".into(),
            Self::Json => "JSON".into(),
            Self::Tools => "tool call".into(),
            Self::Needle => "needle".into(),
            Self::Champion => "champion".into(),
        }
    }
}

fn why(verdict: Grade, checks: &[Check], comparison: Option<&Comparison>, record: &Record) -> String {
    let reason =
        |check: &Check| format!("{}: {}", check.topic.name(), check.why.as_deref().unwrap_or("not passed"));
    let reasons = |is_it: &dyn Fn(&Check) -> bool| {
        let reasons: Vec<String> = checks.iter().filter(|check| is_it(check)).map(reason).collect();
        reasons.join("; ")
    };
    match verdict {
        // What follows from not being there need not be said.
        Grade::Poor
            if checks.iter().any(|check| check.topic == Topic::Load && check.state != State::Passed) =>
        {
            reasons(&|check| check.topic == Topic::Load)
        }
        Grade::Poor => reasons(&|check| is_fatal(check, checks)),
        Grade::Good => reasons(&|check| check.state != State::Passed),
        Grade::Excellent => {
            let better = comparison.map(|comparison| comparison.better.join("; "));
            let name = record.champion.as_ref().map(|champion| &champion.rung.model);
            match (better, name) {
                (Some(better), Some(name)) => format!("every check passed; better than {name}: {better}"),
                _ => "every check passed".into(),
            }
        }
    }
}

/// In which modes an excellent model should serve, and why in no others.
fn promotion(record: &Record) -> (Change, Option<String>) {
    let candidate = &record.candidate.rung.model;
    let champion = record.champion.as_ref().map(|champion| &champion.rung.model);
    let (mut promotions, mut but) = (Vec::new(), Vec::new());
    let mut has_mode = false;
    for aim in &record.modes {
        let place = match champion {
            Some(champion) => aim.models.iter().position(|model| model == champion),
            None => aim.models.is_empty().then_some(0),
        };
        let Some(place) = place else { continue };
        has_mode = true;
        let mode = &aim.goal.mode;
        if aim.models[..place].contains(candidate) {
            but.push(format!("{mode} has it before the champion already"));
            continue;
        }
        let missed = missed_by(&record.candidate, aim);
        if !missed.is_empty() {
            but.push(format!("{mode} asks for more: {}", missed.join(", ")));
            continue;
        }
        let tried = longest(&record.candidate);
        if let Some(wants) = aim.goal.context.filter(|wants| u64::from(*wants) > tried) {
            but.push(format!(
                "{mode} goes to {wants} tokens, and no more than {tried} were measured: validate it with --contexts {wants}"
            ));
            continue;
        }
        if record.candidate.trained_context.is_none() {
            but.push(format!("{mode} may go further than it was trained for: nobody knows how far that is"));
        }
        let mut models = aim.models.clone();
        models.retain(|model| model != candidate);
        models.insert(place, candidate.clone());
        promotions.push(Promotion { mode: mode.clone(), models });
    }
    if !has_mode {
        but.push(match champion {
            Some(champion) => format!("{champion} serves no mode by its name"),
            None => "every mode has a model already: name it with --champion to compare them".into(),
        });
    }
    let but = Some(but.join("; ")).filter(|but| !but.is_empty());
    if promotions.is_empty() { (Change::Keep, but) } else { (Change::Promote(promotions), but) }
}

#[cfg(test)]
mod tests;
