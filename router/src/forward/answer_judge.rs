//! Is an answer what was asked for? Judged while it passes, from the bytes of its frames, without parsing them.
//!
//! ```text
//! frames on their way ─► names and strings ─┬─► text, thoughts, tool calls, how it ended, whose answer it is
//!                                           └─► endless repetition (core)
//! at the end: what was seen + the engine's own counts + what was known of the prompt ─► Judgement
//! ```
//! What a judgement costs a replica:
//!
//! | what | counted as | why |
//! |---|---|---|
//! | empty although tokens were spent | a failure | broken weights and templates do so; one good answer forgives it |
//! | another model of the mesh answered | a failure | the machine serves something else than it says |
//! | endless repetition, no finish reason, prompt cut | doubtful | small models loop, some engines say no reason or cut; the machine is sound |

use super::prompt_measure::Known;
use super::stream_guard::Usage;
use crate::fleet_keeper::FleetHandle;
use crate::http::head::scan::plain_end;
use crate::metrics::{AnswerLabels, Metrics, Named, ReplicaLabels};
use bytes::Bytes;
use mesh_core::fleet::{FleetView, Outcome};
use mesh_core::id::ModelId;
use mesh_core::repetition::{Cycle, Repetition};
use mesh_core::routing::Candidate;
use mesh_core::speed::Lesson;

/// The longest name of a model that is kept from an answer: `ModelId`'s own limit is lower.
const NAME_LIMIT: usize = 256;
/// With `limits.stop_repetition` a stream ends after so many bytes of the same piece: four times what is called a
/// fault, some 2,000 tokens that nobody reads.
const STOP_AFTER: u64 = 4 * mesh_core::repetition::LEAST_BYTES;
/// White space alone is an empty answer only where the model ended it itself.
const WHITE_ESCAPES: [u8; 3] = [b'n', b'r', b't'];

/// How an answer ended, by its own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    /// For want of tokens.
    Length,
    /// In any other way.
    Other,
}

/// What has been seen of one answer.
#[derive(Debug, Clone, Default)]
pub struct AnswerJudge {
    repetition: Repetition,
    /// Any text, and any that is more than white space.
    text: bool,
    ink: bool,
    thoughts: bool,
    tool_call: bool,
    finish: Option<Finish>,
    model: Option<String>,
}

/// What an answer is like, and what it is compared with.
#[derive(Debug, Default)]
pub struct Truth {
    /// What was seen of the answer.
    pub judge: AnswerJudge,
    /// What was known of the prompt.
    pub known: Known,
    /// Whether a stream that repeats itself without end is ended.
    pub stop_repetition: bool,
}

impl Truth {
    /// What is wrong with the answer, at its end.
    #[must_use]
    pub fn judgement(&self, usage: Usage, fleet: &FleetHandle, candidate: &Candidate) -> Judgement {
        self.judge.judgement(usage, &self.known, &candidate.model, &fleet.snapshot().view)
    }
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Tokens were spent and nothing came of them.
    Empty {
        /// How many.
        tokens: u64,
    },
    /// It ended within a loop.
    Repetition(Cycle),
    /// The stream ended without a reason why.
    NoFinish,
    /// The engine read less than the whole prompt.
    Truncated {
        /// Tokens of the prompt by its own count.
        read: u64,
        /// What the prompt has at least.
        of: u64,
    },
    /// Another model answered.
    OtherModel {
        /// Its name, where it is one of the mesh's.
        ours: Option<ModelId>,
    },
}

impl Fault {
    /// The word in the metric.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "empty",
            Self::Repetition(_) => "repetition",
            Self::NoFinish => "no_finish",
            Self::Truncated { .. } => "truncated",
            Self::OtherModel { .. } => "other_model",
        }
    }

    /// Whether it is the replica's failure; else it is only doubtful.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Empty { .. } | Self::OtherModel { ours: Some(_) })
    }
}

impl std::fmt::Display for Fault {
    /// ASCII and without a word of the answer: it becomes a header and a line of `explain`.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty { tokens } => write!(out, "empty answer: {tokens} tokens were spent on nothing"),
            Self::Repetition(cycle) => {
                let (piece, times) = (cycle.piece, cycle.times());
                write!(out, "endless repetition: a piece of {piece} bytes {times} times at its end")
            }
            Self::NoFinish => write!(out, "the stream ended without a finish reason"),
            Self::Truncated { read, of } => {
                write!(out, "truncated: the engine read {read} tokens of a prompt of {of} or more")
            }
            Self::OtherModel { ours: Some(model) } => write!(out, "another model answered: {model}"),
            Self::OtherModel { ours: None } => {
                write!(out, "the answer bears a name that is not the model's")
            }
        }
    }
}

/// All that is wrong with one answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// In the order of the checks.
    pub faults: Vec<Fault>,
}

impl Judgement {
    /// For `explain`: all faults in one line, empty when there is none.
    #[must_use]
    pub fn text(&self) -> String {
        if self.faults.is_empty() {
            return String::new();
        }
        self.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    /// Whether another replica should be asked, if nothing has gone to the client.
    #[must_use]
    pub fn is_empty_answer(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault, Fault::Empty { .. }))
    }

    /// What the engine left out of the prompt.
    #[must_use]
    pub fn truncated(&self) -> Option<String> {
        self.faults.iter().find(|fault| matches!(fault, Fault::Truncated { .. })).map(ToString::to_string)
    }

    /// What the fleet learns from the answer.
    #[must_use]
    pub fn outcome(&self, lesson: Lesson) -> Outcome {
        if self.faults.iter().any(Fault::is_failure) {
            Outcome::ReplicaFailed
        } else if self.faults.iter().any(|fault| !matches!(fault, Fault::OtherModel { ours: None })) {
            Outcome::Doubtful
        } else {
            Outcome::Answered(Some(Box::new(lesson)))
        }
    }

    /// Counts the faults, and says loudly where one model stands for another.
    pub fn count(&self, candidate: &Candidate, metrics: &Metrics) {
        let (node, model) = (Named(candidate.machine.clone()), Named(candidate.model.clone()));
        for fault in &self.faults {
            let replica = ReplicaLabels { node: node.clone(), model: model.clone() };
            match fault {
                Fault::Truncated { .. } => metrics.truncated.get_or_create(&replica).inc(),
                Fault::OtherModel { ours } => {
                    let kind = if ours.is_some() { "ours" } else { "unknown" };
                    let labels = AnswerLabels { node: node.clone(), model: model.clone(), kind };
                    if let Some(ours) = ours {
                        let (node, asked) = (&candidate.machine, &candidate.model);
                        tracing::warn!(%node, %asked, answered = %ours, "another model answered");
                    }
                    metrics.other_model.get_or_create(&labels).inc()
                }
                Fault::Empty { .. } | Fault::Repetition(_) | Fault::NoFinish => {
                    let kind = fault.word();
                    let labels = AnswerLabels { node: node.clone(), model: model.clone(), kind };
                    metrics.faulty_answers.get_or_create(&labels).inc()
                }
            };
        }
    }
}

impl AnswerJudge {
    /// Looks at whole frames, or at a whole answer. A microsecond for some hundred bytes.
    pub fn look(&mut self, frames: &[u8]) {
        let mut at = 0;
        while let Some(quote) = memchr::memchr(b'"', &frames[at..]) {
            let from = at + quote + 1;
            let Some(end) = string_end(frames, from) else {
                // A stray quote outside of JSON, in a comment for instance: frames begin anew at each line.
                at = memchr::memchr(b'\n', &frames[from..]).map_or(frames.len(), |newline| from + newline);
                continue;
            };
            at = end + 1;
            let after = skip_white(frames, at);
            if frames.get(after) != Some(&b':') {
                continue;
            }
            at = skip_white(frames, after + 1);
            let value = frames.get(at).filter(|&&byte| byte == b'"').and_then(|_| {
                let end = string_end(frames, at + 1)?;
                let text = &frames[at + 1..end];
                at = end + 1;
                Some(text)
            });
            let opens = |bracket: u8, empty: u8| {
                frames.get(at) == Some(&bracket) && frames.get(skip_white(frames, at + 1)) != Some(&empty)
            };
            match (&frames[from..end], value) {
                // `delta` is a text in OpenAI's Responses, an object in its chats.
                (b"content" | b"text" | b"response" | b"refusal" | b"delta", Some(text)) => {
                    self.visible(text)
                }
                (b"reasoning_content" | b"reasoning" | b"thinking", Some(text)) => {
                    self.thoughts |= !text.is_empty();
                    self.repetition.push(text);
                }
                (b"arguments" | b"partial_json", Some(text)) => self.repetition.push(text),
                (b"finish_reason" | b"stop_reason" | b"done_reason", Some(word)) => {
                    let cut = matches!(word, b"length" | b"max_tokens" | b"limit");
                    self.finish = Some(if cut { Finish::Length } else { Finish::Other });
                }
                (b"type", Some(b"tool_use" | b"function_call")) => self.tool_call = true,
                (b"tool_calls", None) => self.tool_call |= opens(b'[', b']'),
                (b"function_call", None) => self.tool_call |= opens(b'{', b'}'),
                (b"model", Some(name)) if self.model.is_none() && name.len() <= NAME_LIMIT => {
                    self.model = std::str::from_utf8(name).ok().map(without_escapes);
                }
                _ => {}
            }
        }
    }

    fn visible(&mut self, text: &[u8]) {
        self.text |= !text.is_empty();
        self.ink = self.ink || !is_white(text);
        self.repetition.push(text);
    }

    /// Whether it has ended without anything in it: the rest of such a stream is short, and worth waiting for.
    #[must_use]
    pub fn ended_with_nothing(&self) -> bool {
        self.finish.is_some() && !self.text && !self.thoughts && !self.tool_call
    }

    /// Whether it has gone round in circles for so long that it may be stopped.
    #[must_use]
    pub fn may_be_stopped(&self) -> Option<Fault> {
        self.repetition.endless().filter(|cycle| cycle.bytes >= STOP_AFTER).map(Fault::Repetition)
    }

    /// What is wrong with the answer, at its end.
    #[must_use]
    pub fn judgement(&self, usage: Usage, known: &Known, asked: &ModelId, view: &FleetView) -> Judgement {
        let mut faults = Vec::new();
        if let Some((read, of)) = usage.prompt_tokens.and_then(|read| known.truncated(read)) {
            faults.push(Fault::Truncated { read, of });
        }
        if known.is_chat {
            faults.extend(self.empty(usage));
        }
        faults.extend(self.repetition.endless().map(Fault::Repetition));
        if known.is_stream && self.finish.is_none() {
            faults.push(Fault::NoFinish);
        }
        faults.extend(self.model.as_deref().and_then(|name| other_model(name, asked, view)));
        Judgement { faults }
    }

    /// Nothing was written although tokens were spent. White space counts as nothing where the model ended there
    /// by itself; cut short, more might have followed.
    fn empty(&self, usage: Usage) -> Option<Fault> {
        let nothing = !self.text || (!self.ink && self.finish == Some(Finish::Other));
        let tokens = usage.completion_tokens.filter(|&tokens| tokens > 0)?;
        (nothing && !self.thoughts && !self.tool_call).then_some(Fault::Empty { tokens })
    }
}

/// Puts a comment of server-sent events before the last event, where that is `[DONE]`.
pub(super) fn comment_before_done(out: &mut Vec<Bytes>, comment: &str) {
    let Some(last) = out.pop() else { return };
    match memchr::memmem::rfind(&last, b"data: [DONE]") {
        Some(at) => {
            out.extend([last.slice(..at), Bytes::copy_from_slice(comment.as_bytes()), last.slice(at..)])
        }
        None => out.push(last),
    }
}

/// Whose answer it is, where that is not the model that was asked.
///
/// Engines answer with paths of files, aliases, other tags and other spellings. So a name is compared by its
/// letters and digits, without folders, ending and tag; one that is contained in the other is the same. Only a
/// name that is exactly another model of the mesh counts against a replica.
fn other_model(name: &str, asked: &ModelId, view: &FleetView) -> Option<Fault> {
    let others = || {
        let names = view.model_names().into_iter();
        names.filter(|model| *model != asked && !same_file(model, asked, view)).collect::<Vec<_>>()
    };
    if asked.as_str() == name {
        return None;
    }
    // `qwen3:8b` for `qwen3:30b`: the same family, and both here.
    if let Some(ours) = others().into_iter().find(|model| model.as_str() == name) {
        return Some(Fault::OtherModel { ours: Some(ours.clone()) });
    }
    let (said, wanted) = (core_of(name), core_of(asked.as_str()));
    if said.is_empty() || wanted.is_empty() || said.contains(&wanted) || wanted.contains(&said) {
        return None;
    }
    let ours = others().into_iter().find(|model| core_of(model.as_str()) == said).cloned();
    Some(Fault::OtherModel { ours })
}

/// Whether two names of the mesh stand for the same file somewhere: Ollama knows one under many.
fn same_file(one: &ModelId, other: &ModelId, view: &FleetView) -> bool {
    let digests = |name: &ModelId| -> Vec<_> {
        let engines = view.machines.iter().flat_map(|machine| &machine.engines);
        let replicas = engines.flat_map(|engine| &engine.replicas);
        replicas
            .filter(|replica| replica.model == *name)
            .filter_map(|replica| replica.digest.clone())
            .collect()
    };
    let ones = digests(one);
    digests(other).iter().any(|digest| ones.contains(digest))
}

/// The letters and digits that tell one model's name from another's.
fn core_of(name: &str) -> String {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name).to_ascii_lowercase();
    let file = file.strip_suffix(".gguf").unwrap_or(&file);
    let family = file.split(':').next().unwrap_or(file);
    family.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// The closing quote of the string that begins at `from`; `None` when it does not end as JSON.
fn string_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at = plain_end(bytes, at);
        match bytes.get(at) {
            Some(b'"') => return Some(at),
            Some(b'\\') => at += 2,
            _ => return None,
        }
    }
}

fn skip_white(bytes: &[u8], from: usize) -> usize {
    bytes[from.min(bytes.len())..]
        .iter()
        .position(|byte| !byte.is_ascii_whitespace())
        .map_or(bytes.len(), |n| from + n)
}

/// A name in JSON as it is meant: some engines escape slashes.
fn without_escapes(name: &str) -> String {
    if name.contains('\\') { name.replace("\\/", "/") } else { name.to_owned() }
}

/// Whether the inside of a JSON string is white space alone.
fn is_white(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        let white = match byte {
            b' ' => true,
            b'\\' => bytes.next().is_some_and(|escape| WHITE_ESCAPES.contains(escape)),
            _ => false,
        };
        if !white {
            return false;
        }
    }
    true
}

#[cfg(test)]
#[path = "answer_judge/tests.rs"]
mod tests;
