//! One check after the other: what was seen of it, in a figure, a state and a reason.

use super::record::{Ability, Aim, Called, Evidence, Formed, Needle, Said};
use crate::ladder::goals::{missed, number};
use crate::ladder::{CellSummary, HEADROOM, Mark, Outcome, Rung, summarise};
use crate::statistics::Share;
use crate::trial::Run;
use serde::Serialize;

/// Requests that a speed is of, at least: one alone has no spread.
pub const LEAST_RUNS: u64 = 2;
/// Answers that tell of coherence, at least: all of the fixed questions.
pub const LEAST_ANSWERS: u64 = 5;
/// Tries of one ability, at least: 1 of 1 means 21–100 %.
pub const LEAST_TRIES: u64 = 3;
/// Good answers, of so many: the share below which a ladder goes no further.
const COHERENT: (u64, u64) = (4, 5);
/// Tries that must succeed, of so many: one of three may be a slip.
const ABLE: (u64, u64) = (2, 3);
/// Percent of the context that a text with a needle must fill: what is found in a short text says nothing of a long one.
const LEAST_FILL: u64 = 50;
/// Modes that a reason names.
const NAMED: usize = 2;

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// It comes into memory and answers.
    Load,
    /// Its speed with prompts of so many tokens.
    Speed(u32),
    /// Answers to fixed questions.
    Coherence,
    /// JSON of a given form.
    Json,
    /// A tool, called with the right argument.
    Tools,
    /// A sentence in a long text.
    Needle,
    /// It is better than the champion in something, and worse in nothing.
    Champion,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Passed,
    /// Nobody knows. Never as good as passed.
    NotChecked,
    /// Usable, with a flaw.
    Weak,
    /// Not as it should be.
    Failed,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub topic: Topic,
    /// How it ended.
    pub state: State,
    /// What was measured; `null` = nothing.
    pub figure: Option<String>,
    /// Why it did not pass; `null` = it did.
    pub why: Option<String>,
    /// The champion's figure; `null` = there is none.
    pub champion: Option<String>,
}

/// A check of one model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) state: State,
    pub(super) figure: Option<String>,
    pub(super) why: Option<String>,
}

impl Found {
    fn passed(figure: String) -> Self {
        Self { state: State::Passed, figure: Some(figure), why: None }
    }

    fn unchecked(why: impl Into<String>) -> Self {
        Self { state: State::NotChecked, figure: None, why: Some(why.into()) }
    }

    /// `good` of `n`; all are passed, no fewer than `least` of them weak.
    fn of(good: u64, n: u64, least: (u64, u64), figure: String, why: String) -> Self {
        let state = match good {
            _ if good >= n => return Self::passed(figure),
            _ if good * least.1 >= n * least.0 => State::Weak,
            _ => State::Failed,
        };
        Self { state, figure: Some(figure), why: Some(why) }
    }
}

/// Did it come into memory, and stay there until the end?
pub(super) fn load(evidence: &Evidence) -> Found {
    let rung = &evidence.rung;
    match &rung.outcome {
        Outcome::Skipped(why) | Outcome::Failed(why) | Outcome::Absent(why) => {
            Found { state: State::Failed, figure: None, why: Some(why.clone()) }
        }
        Outcome::Done => {
            let context = rung.subject.as_ref().and_then(|subject| subject.context);
            let context = context.map(|tokens| format!("context {tokens}"));
            let seconds = rung.load_s.map(|seconds| format!("{} s", number(seconds)));
            let parts: Vec<String> = seconds.into_iter().chain(context).collect();
            Found::passed(if parts.is_empty() { "loaded".into() } else { parts.join(", ") })
        }
    }
}

/// Is it fast enough at the context that is number `at` for any mode that goes so far?
pub(super) fn speed(evidence: &Evidence, asked: u32, at: usize, aims: &[Aim]) -> Found {
    let Some(reached) = evidence.contexts.get(at) else { return Found::unchecked("it was not measured") };
    let Some(prompt) = reached.prompt else {
        let context = evidence.rung.subject.as_ref().and_then(|subject| subject.context);
        let has =
            context.map_or_else(|| "its context".into(), |tokens| format!("its context of {tokens} tokens"));
        return Found::unchecked(format!("{has} has no room for such a prompt"));
    };
    let alone = measured_with(&evidence.rung, prompt);
    let Some(cell) = summarise(&alone).cells.into_iter().next() else {
        return Found::unchecked("it was not measured");
    };
    if cell.counted == 0 && cell.failed > 0 {
        let words = alone.cells.iter().flat_map(|cell| &cell.runs).find_map(|run| run.error.clone());
        let why = format!("none of {} requests got an answer: {}", cell.failed, words.unwrap_or_default());
        return Found { state: State::Failed, figure: None, why: Some(why) };
    }
    if cell.counted == 0 {
        return Found::unchecked("it was not measured");
    }
    let (Some(decode), true) = (cell.decode, cell.counted >= LEAST_RUNS) else {
        return Found::unchecked(format!("{} of at least {LEAST_RUNS} requests tell no speed", cell.counted));
    };
    let shorter = if prompt == reached.asked { String::new() } else { format!(" with {prompt}") };
    let ttft = cell.ttft.map(|ttft| format!(", TTFT {}", time(ttft.p50))).unwrap_or_default();
    let figure = format!("{} tok/s{ttft}{shorter}", number(decode.median));
    if cell.failed > 0 {
        let why = format!("{} of {} requests failed", cell.failed, cell.failed + cell.counted);
        return Found { state: State::Weak, figure: Some(figure), why: Some(why) };
    }
    let slow = too_slow(&alone, asked, aims);
    let against: Vec<String> = marks(&cell).into_iter().chain(slow).collect();
    if against.is_empty() {
        return Found::passed(figure);
    }
    Found { state: State::Weak, figure: Some(figure), why: Some(against.join("; ")) }
}

/// What speaks against all requests of a work; `None` = nothing, or there are others.
fn marks(cell: &CellSummary) -> Option<String> {
    let word = |mark: &Mark| match mark {
        Mark::Throttled => "the machine was slowed down for heat or power",
        Mark::Disturbed => "others used the machine",
        Mark::Busy => "other programs used the processors",
    };
    let words: Vec<&str> = cell.marks.iter().map(word).collect();
    (!words.is_empty()).then(|| format!("{} during all of its requests", words.join(", and ")))
}

/// Seconds for people: `26 ms`, `1.05 s`.
fn time(seconds: f64) -> String {
    if seconds < 0.9995 { format!("{:.0} ms", seconds * 1000.0) } else { format!("{} s", number(seconds)) }
}

/// The rung as if nothing else had been measured.
pub(super) fn measured_with(rung: &Rung, prompt: u32) -> Rung {
    let cells = rung.cells.iter().filter(|cell| cell.work.prompt_tokens == prompt && cell.work.streams == 1);
    Rung { cells: cells.cloned().collect(), answers: Vec::new(), ..rung.clone() }
}

/// The figures at one context, where they can be compared.
pub(super) fn cell(evidence: &Evidence, at: usize) -> Option<(u32, CellSummary)> {
    any_cell(evidence, at).filter(|(_, cell)| cell.marks.is_empty())
}

/// Why the figures at one context cannot be compared; `None` = they can, or there are none.
pub(super) fn spoilt(evidence: &Evidence, at: usize) -> Option<String> {
    any_cell(evidence, at).and_then(|(_, cell)| marks(&cell))
}

fn any_cell(evidence: &Evidence, at: usize) -> Option<(u32, CellSummary)> {
    let prompt = evidence.contexts.get(at)?.prompt?;
    let cell = summarise(&measured_with(&evidence.rung, prompt)).cells.into_iter().next()?;
    (cell.counted >= LEAST_RUNS).then_some((prompt, cell))
}

/// Why it is too slow for every mode that has prompts as long as this; for all modes where none has. What a mode asks for
/// is asked for without headroom here: that is for promotions.
fn too_slow(alone: &Rung, asked: u32, aims: &[Aim]) -> Option<String> {
    let mut rung = alone.clone();
    if let Some(subject) = &mut rung.subject {
        // Whether there is room is another question.
        subject.context = None;
    }
    let goes_far = |aim: &&Aim| aim.goal.context.is_none_or(|context| context >= asked);
    let far: Vec<&Aim> = aims.iter().filter(goes_far).collect();
    let aims: Vec<&Aim> = if far.is_empty() { aims.iter().collect() } else { far };
    let mut reasons = Vec::new();
    for aim in &aims {
        let missed = missed(&aim.goal, &rung, 0.0);
        if missed.is_empty() {
            return None;
        }
        reasons.push(format!("{} {}", aim.goal.mode, missed.join(", ")));
    }
    if reasons.is_empty() {
        return None;
    }
    let more = reasons.len().saturating_sub(NAMED);
    reasons.truncate(NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Some(format!("slower than every mode asks for: {}{more}", reasons.join("; ")))
}

/// What `aim` asks for and the model has not, with headroom: by the longest measured context that the mode goes to.
pub(super) fn missed_by(evidence: &Evidence, aim: &Aim) -> Vec<String> {
    let goes_to = |asked: u32| aim.goal.context.is_none_or(|context| asked <= context);
    let measured = || (0..evidence.contexts.len()).filter(|at| cell(evidence, *at).is_some());
    let near = measured().rfind(|at| goes_to(evidence.contexts[*at].asked));
    let Some(prompt) = near.or_else(|| measured().next()).and_then(|at| evidence.contexts[at].prompt) else {
        return vec!["its speed is not known".into()];
    };
    let mut rung = measured_with(&evidence.rung, prompt);
    if let Some(subject) = &mut rung.subject {
        // It is loaded for the measurement only; what it was trained for bounds what it can be loaded for.
        subject.context = evidence.trained_context;
    }
    missed(&aim.goal, &rung, HEADROOM)
}

/// The most tokens of prompt and answer that were measured.
pub(super) fn longest(evidence: &Evidence) -> u64 {
    let cells = (0..evidence.contexts.len()).filter_map(|at| cell(evidence, at));
    cells.map(|(prompt, cell)| u64::from(prompt) + u64::from(cell.shape.output)).max().unwrap_or_default()
}

/// Are its answers text, and do they end?
pub(super) fn coherence(evidence: &Evidence) -> Found {
    let summary = summarise(&evidence.rung).answers;
    let Some(answers) = summary.filter(|answers| answers.success.n >= LEAST_ANSWERS) else {
        return Found::unchecked(too_few(evidence.rung.answers.len() as u64, LEAST_ANSWERS));
    };
    let faults = [
        (answers.empty, "empty"),
        (answers.gibberish, "gibberish"),
        (answers.repeated, "in circles"),
        (answers.endless, "without an end"),
        (answers.cut, "cut"),
        (answers.failed, "failed"),
    ];
    let faults = faults.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
    let why = faults.collect::<Vec<String>>().join(", ");
    Found::of(answers.success.of, answers.success.n, COHERENT, share(answers.success), why)
}

fn too_few(n: u64, least: u64) -> String {
    if n == 0 { "it was not asked".into() } else { format!("it was asked {n} of at least {least} times") }
}

/// `4 of 5 (38–96 %)`
fn share(share: Share) -> String {
    format!("{} of {} ({:.0}–{:.0} %)", share.of, share.n, share.low * 100.0, share.high * 100.0)
}

/// Tries of one ability: why each failed, `None` = it did not.
fn tried(evidence: &Evidence, what: Ability, tries: &[(&Run, Option<String>)]) -> Found {
    if let Some(unasked) = evidence.unasked.iter().find(|unasked| unasked.what == what) {
        return Found::unchecked(unasked.why.clone());
    }
    // An engine that does not know the request says nothing of the model.
    let refused = |run: &Run| {
        run.error.clone().filter(|why| ["status 4", "status 501"].iter().any(|word| why.starts_with(word)))
    };
    let refusals: Vec<String> = tries.iter().filter_map(|(run, _)| refused(run)).collect();
    if let Some(why) = refusals.first().filter(|_| refusals.len() == tries.len()) {
        return Found::unchecked(format!("the engine does not take such a request: {why}"));
    }
    let n = tries.len() as u64;
    if n < LEAST_TRIES {
        return Found::unchecked(too_few(n, LEAST_TRIES));
    }
    let good = tries.iter().filter(|(_, fault)| fault.is_none()).count() as u64;
    let figure = Share::wilson(good, n).map(share).unwrap_or_default();
    let why = tries.iter().find_map(|(_, fault)| fault.clone()).unwrap_or_default();
    Found::of(good, n, ABLE, figure, why)
}

/// Does it keep to a form that is forced on it?
pub(super) fn json(evidence: &Evidence) -> Found {
    let tries: Vec<_> = evidence.forms.iter().map(|formed| (&formed.run, malformed(formed))).collect();
    tried(evidence, Ability::Json, &tries)
}

/// What is wrong with an answer that had to have a form.
pub(super) fn malformed(formed: &Formed) -> Option<String> {
    if let Some(error) = &formed.run.error {
        return Some(error.clone());
    }
    let keys = match &formed.said {
        Said::Other(what) => return Some(format!("the answer is {what}")),
        Said::Object(keys) => keys,
    };
    if let Some(missing) = formed.wanted.keys().find(|key| !keys.contains_key(*key)) {
        return Some(format!("the key `{missing}` is missing"));
    }
    if let Some(extra) = keys.keys().find(|key| !formed.wanted.contains_key(*key)) {
        return Some(format!("nobody asked for the key `{}`", short(extra)));
    }
    formed.wanted.iter().find_map(|(key, wanted)| {
        let is = keys.get(key).map(|piece| piece.sort).filter(|is| is != wanted)?;
        Some(format!("`{key}` is {} and must be {}", is.word(), wanted.word()))
    })
}

/// Does it call a tool with what was asked for?
pub(super) fn tools(evidence: &Evidence) -> Found {
    let tries: Vec<_> = evidence.calls.iter().map(|called| (&called.run, miscalled(called))).collect();
    tried(evidence, Ability::Tools, &tries)
}

/// What is wrong with an answer that needed a tool.
pub(super) fn miscalled(called: &Called) -> Option<String> {
    if let Some(error) = &called.run.error {
        return Some(error.clone());
    }
    let Some(call) = called.calls.first() else { return Some("no tool was called".into()) };
    let wanted = &called.wanted;
    if call.name != wanted.tool {
        return Some(format!("`{}` was called, which is no tool that it was given", short(&call.name)));
    }
    let arguments = match &call.arguments {
        Said::Other(what) => return Some(format!("the tool's arguments are {what}")),
        Said::Object(arguments) => arguments,
    };
    let Some(given) = arguments.get(&wanted.argument) else {
        return Some(format!("the argument `{}` is missing", wanted.argument));
    };
    let first = given.text.split(',').next().unwrap_or_default().trim();
    let is_it = first.to_lowercase() == wanted.value.to_lowercase();
    (!is_it).then(|| format!("the argument `{}` is not what was asked for", wanted.argument))
}

/// The beginning of a model's word: it may be of any length.
fn short(word: &str) -> String {
    word.chars().take(40).collect()
}

/// Does it find one sentence of a text that fills its context?
pub(super) fn needles(evidence: &Evidence) -> Found {
    let tries: Vec<_> = evidence.needles.iter().map(|needle| (&needle.run, lost(needle))).collect();
    let found = tried(evidence, Ability::Needle, &tries);
    if found.state == State::NotChecked {
        return found;
    }
    let answered = || evidence.needles.iter().filter(|needle| needle.run.error.is_none());
    let shortest = answered().map(|needle| needle.run.prompt_tokens).min().flatten();
    let context = evidence.rung.subject.as_ref().and_then(|subject| subject.context);
    let reached = evidence.contexts.iter().filter_map(|reached| reached.prompt).max();
    let (Some(shortest), Some(whole)) = (shortest, context.into_iter().chain(reached).min()) else {
        // Lost ones are lost, however long the text was.
        if found.state == State::Failed {
            return found;
        }
        return Found::unchecked("the engine does not say how long the texts were");
    };
    let filled = u64::from(shortest) * 100 / u64::from(whole.max(1));
    if filled < LEAST_FILL && found.state != State::Failed {
        return Found::unchecked(format!(
            "the texts had {shortest} tokens, less than {LEAST_FILL} % of the {whole} that were measured"
        ));
    }
    let figure = found.figure.map(|figure| format!("{figure}, in {shortest} tokens"));
    let depths: Vec<String> = evidence
        .needles
        .iter()
        .filter(|one| lost(one).is_some())
        .map(|one| format!("{} %", one.depth))
        .collect();
    let why = found.why.map(|why| format!("at {}: {why}", depths.join(", ")));
    Found { figure, why, ..found }
}

/// Why a needle was not found.
pub(super) fn lost(needle: &Needle) -> Option<String> {
    if let Some(error) = &needle.run.error {
        return Some(error.clone());
    }
    if needle.run.text.contains(&needle.code) {
        return None;
    }
    // Models that think first may come to no answer.
    let is_cut = needle.run.finish_reason.as_deref() == Some("length");
    Some(if is_cut { "its tokens ended before it said the number" } else { "it was not found" }.into())
}
