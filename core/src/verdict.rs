//! Is an answer any good, and is a loaded model what it should be? Pure functions from what was seen to a
//! verdict with its reason.
//!
//! [`judge`] looks at one answer, [`replica_verdict`] at the three answers to the fixed prompts of
//! [`three_prompts`], [`speed_verdict`] and [`placement_verdict`] at what was measured beside them.
//!
//! The judge knows no language and no facts. It finds what broken weights, wrong templates and broken kernels
//! produce: nothing, loops, bytes that are no text, scripts mixed at random, pairs of letters that only noise has,
//! answers that go on with the user's next turn. Fluent nonsense passes, and so do words of one language at random;
//! `core/tests/verdict_corpus/README.md` has the figures. Its time grows with the length of a text, its memory only
//! up to [`LOOKED_AT`]. Reasons hold counts only, never a piece of the answer: they may be logged.

mod loops;
mod measured;
mod pairs;
mod probes;
mod soup;
mod turns;

pub use measured::{
    Placement, PlacementVerdict, SLOWEST_SHARE, SpeedVerdict, placement_verdict, speed_verdict,
};
pub use probes::{Probe, ProbeInput, three_prompts};

use serde::{Deserialize, Serialize};

/// Characters of an answer that are looked at: its beginning and, in longer ones, its end, where loops show.
pub const LOOKED_AT: usize = 16_384;

/// What a model answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answer<'a> {
    /// The visible text.
    pub text: &'a str,
    /// Why it ended, in the engine's word: `stop`, `length`, …; `None` = the engine did not say.
    pub finish_reason: Option<&'a str>,
    /// Tokens generated, by the engine's count, thinking included.
    pub completion_tokens: Option<u32>,
    /// It called a tool: then it needs no text.
    pub tool_call: bool,
    /// What it thought, where the engine keeps that apart.
    pub reasoning: Option<&'a str>,
}

/// What an answer should be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// An end for want of tokens is no fault: the probe asked for few.
    pub may_be_cut: bool,
    /// Repeated phrases are no fault. Base models that are asked greedily loop by nature; one character or
    /// one word without end is a fault of theirs too.
    pub may_loop: bool,
    /// It must be made of words: the prompt asked for a sentence.
    pub in_words: bool,
    /// Tokens, thinking included, within which a sound model has ended by itself: the prompt asked for
    /// something short. `None` = nobody can say.
    #[serde(default)]
    pub most_tokens: Option<u32>,
}

impl Expectation {
    /// An answer that somebody waits for: whole, and with an end.
    pub const WHOLE: Self = Self { may_be_cut: false, may_loop: false, in_words: false, most_tokens: None };
    /// The beginning of an answer of any kind.
    pub const BEGINNING: Self = Self { may_be_cut: true, ..Self::WHOLE };
    /// The beginning of a sentence.
    pub const SENTENCE: Self = Self { in_words: true, ..Self::BEGINNING };
    /// The first few words of a base model's continuation.
    pub const CONTINUATION: Self = Self { may_loop: true, ..Self::BEGINNING };

    /// The same, of an answer that a sound model ends within so many tokens. Give it room: some models think
    /// first, and some languages take three tokens for a word.
    #[must_use]
    pub const fn within(self, tokens: u32) -> Self {
        Self { most_tokens: Some(tokens), ..self }
    }
}

/// What an answer is. Each fault has one line of reason with counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "why")]
pub enum Verdict {
    /// Nothing is wrong with its form.
    Good,
    /// There is no text and no tool call.
    Empty(String),
    /// It stops before its end.
    Cut(String),
    /// It goes round in circles.
    Repeated(String),
    /// It is no text of any language or program.
    Gibberish(String),
    /// It does not stop: it goes on with the next question by itself, or far beyond what was asked for.
    Endless(String),
}

impl Verdict {
    /// The word used in reports and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Empty(_) => "empty",
            Self::Cut(_) => "cut",
            Self::Repeated(_) => "repeated",
            Self::Gibberish(_) => "gibberish",
            Self::Endless(_) => "endless",
        }
    }

    /// Why it is not good, where it is not.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Good => None,
            Self::Empty(why)
            | Self::Cut(why)
            | Self::Repeated(why)
            | Self::Gibberish(why)
            | Self::Endless(why) => Some(why),
        }
    }
}

/// Judges one answer: whether there is any, whether its bytes are text (noise often has loops in it), whether
/// it goes in circles, whether it mixes what no text mixes, and last whether it is whole.
#[must_use]
pub fn judge(answer: &Answer<'_>, expectation: Expectation) -> Verdict {
    let seen = ends_of(answer.text);
    let text = soup::without_special_tokens(&seen);
    let cut = answer.finish_reason.is_some_and(|word| matches!(word, "length" | "max_tokens" | "limit"));
    if is_blank(&text) {
        if answer.tool_call {
            return Verdict::Good;
        }
        let thoughts = answer.reasoning.map(str::trim).filter(|thoughts| !is_blank(thoughts));
        // Thoughts that ran out of tokens are judged in the answer's place; thoughts that ended in nothing
        // are not an answer.
        if let Some(thoughts) = thoughts.filter(|_| cut) {
            let fault = form(thoughts, expectation);
            let whole =
                || Verdict::Cut(format!("all went into thinking{}", counted(answer, "tokens generated")));
            return fault.unwrap_or_else(whole);
        }
        return Verdict::Empty(why_empty(answer, thoughts.is_some()));
    }
    let ended_early = || {
        let why = format!("the answer ended for want of tokens{}", counted(answer, "generated"));
        if cut && !expectation.may_be_cut { Verdict::Cut(why) } else { Verdict::Good }
    };
    let fault = form(&text, expectation).or_else(|| endless(answer, cut, expectation).map(Verdict::Endless));
    fault.unwrap_or_else(ended_early)
}

/// Why an answer that is text does not stop, where it does not. One that ended by itself has stopped, however
/// late, and one that was cut short is endless only where its end was due.
fn endless(answer: &Answer<'_>, cut: bool, expectation: Expectation) -> Option<String> {
    if answer.finish_reason.is_some() && !cut {
        return None;
    }
    let text = ends_of(answer.text);
    if turns::next_turn(&text) {
        return Some(format!("it goes on with a user's turn{}", counted(answer, "tokens generated")));
    }
    let most = expectation.most_tokens.filter(|_| cut)?;
    if turns::next_role(&text) {
        return Some(format!("it goes on with a user's words{}", counted(answer, "tokens generated")));
    }
    // A word is a token or more.
    let words = || u32::try_from(answer.text.split_whitespace().count()).unwrap_or(u32::MAX);
    let tokens = answer.completion_tokens.unwrap_or_else(words);
    (tokens > most).then(|| format!("{tokens} tokens without an end, {most} are more than enough"))
}

/// White space, byte order marks and spaces of no width.
fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || matches!(c, '\u{200B}'..='\u{200D}' | '\u{2060}' | '\u{FEFF}'))
}

/// What is wrong with the form of a text that is not empty.
fn form(text: &str, expectation: Expectation) -> Option<Verdict> {
    let text = ends_of(text);
    let fault = soup::why_broken(&text).map(Verdict::Gibberish);
    let fault = fault.or_else(|| loops::why_repeated(&text, expectation.may_loop).map(Verdict::Repeated));
    let soup =
        || soup::why_mixed(&text).or_else(|| soup::why_leaked(&text)).or_else(|| pairs::why_unlikely(&text));
    let fault = fault.or_else(|| soup().map(Verdict::Gibberish));
    let wordless = || soup::why_wordless(&text).filter(|_| expectation.in_words).map(Verdict::Gibberish);
    fault.or_else(wordless)
}

/// The text, or the first and last half of [`LOOKED_AT`] characters of a long one.
fn ends_of(text: &str) -> std::borrow::Cow<'_, str> {
    let half = LOOKED_AT / 2;
    let (Some((first, _)), Some((last, _))) =
        (text.char_indices().nth(half), text.char_indices().rev().nth(half))
    else {
        return text.into();
    };
    if last <= first { text.into() } else { format!("{}\n{}", &text[..first], &text[last..]).into() }
}

/// `, 12 tokens generated`, where the engine has counted.
fn counted(answer: &Answer<'_>, what: &str) -> String {
    answer.completion_tokens.map(|tokens| format!(", {tokens} {what}")).unwrap_or_default()
}

fn why_empty(answer: &Answer<'_>, thought: bool) -> String {
    let what = if thought {
        "the thinking ended without an answer"
    } else if answer.text.is_empty() {
        "no text"
    } else if is_blank(answer.text) {
        "only white space"
    } else {
        "only special tokens"
    };
    format!("{what}{}", counted(answer, "tokens generated"))
}

/// What three answers to fixed prompts say of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaVerdict {
    /// It may serve.
    Pass,
    /// It must not serve until it passes, and why.
    Quarantine(String),
}

/// Judges a replica by the verdicts on its probes, in their order.
///
/// One empty, repeated or gibberish answer is enough: the prompts are greedy and easy, so a sound model
/// answers all three with the same good text each time, and chance has no part in it. A cut answer is no
/// fault: probes ask for few tokens. No verdict at all (the probes could not be sent) passes nothing.
#[must_use]
pub fn replica_verdict(verdicts: &[Verdict]) -> ReplicaVerdict {
    if verdicts.is_empty() {
        return ReplicaVerdict::Quarantine("no probe was answered".to_owned());
    }
    let faults: Vec<String> = verdicts
        .iter()
        .enumerate()
        .filter_map(|(index, verdict)| match verdict {
            Verdict::Good | Verdict::Cut(_) => None,
            Verdict::Empty(why)
            | Verdict::Repeated(why)
            | Verdict::Gibberish(why)
            | Verdict::Endless(why) => Some(format!("answer {} is {}: {why}", index + 1, verdict.word())),
        })
        .collect();
    match faults.first() {
        None => ReplicaVerdict::Pass,
        Some(first) => ReplicaVerdict::Quarantine(format!(
            "{} of {} test answers {} bad; {first}",
            faults.len(),
            verdicts.len(),
            if faults.len() == 1 { "is" } else { "are" }
        )),
    }
}

#[cfg(test)]
#[path = "verdict/tests.rs"]
mod tests;
