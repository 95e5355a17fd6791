//! Trials gathered into what records hold: speeds with their looks at the machine, questions with their answers.

use super::hands::Hands;
use super::ladder::questions::expected;
use crate::exit::Failure;
use mesh_core::id::ModelId;
use mesh_core::ladder::{Answered, Cell, Shape};
use mesh_core::stress::REASON;
use mesh_core::trial::{AskWork, Event, PATIENCE_S, Question, Run, SpeedWork, Subject, Trial, Work};
use serde_json::Value;
use std::collections::BTreeSet;

/// Requests of one trial that are kept, at most: as many as a record takes.
const RUNS: usize = 100_000;
/// Looks at the machine that are kept, at most: as many as a record takes.
const SAMPLES: usize = 100_000;
/// Bytes of all texts of one trial that are kept, at most: a quarter of the longest record that is read.
pub(super) const TEXTS: usize = 64 << 20;

/// How many times as many tokens an answer may have that was nothing but thoughts: easy questions take models that think some
/// hundreds up to two thousand.
const THINKING: u32 = 8;

/// Requests that a machine told of. What is beyond the bounds is dropped: a machine may tell without an end.
#[derive(Default)]
struct Told {
    runs: Vec<Run>,
    bytes: usize,
}

impl Told {
    fn take(&mut self, run: Run) {
        let others = [&run.reasoning, &run.raw, &run.error, &run.finish_reason];
        let others: usize = others.into_iter().flatten().map(String::len).sum();
        let bytes = self.bytes.saturating_add(run.id.len() + run.text.len() + others);
        if self.runs.len() < RUNS && bytes <= TEXTS {
            self.bytes = bytes;
            self.runs.push(run);
        }
    }
}

/// A speed that was measured, as far as it came.
pub(super) struct Measured {
    pub(super) cell: Cell,
    pub(super) subject: Option<Subject>,
    pub(super) ended: Result<(), Failure>,
}

/// Measures a speed; what speaks against it is marked.
pub(super) async fn measure(
    hands: &mut Hands,
    model: &ModelId,
    work: SpeedWork,
    patience_s: u32,
) -> Measured {
    let trial = Trial { model: model.clone(), work: Work::Speed(work), patience_s };
    let mut cell = Cell { work, runs: vec![], samples: vec![], ended: None, marks: vec![] };
    let (mut subject, mut told) = (None, Told::default());
    let ended = hands
        .trial(&trial, |event| match event {
            Event::Began(found) => subject = Some(found),
            Event::Run(run) => told.take(run),
            Event::Sample(sample) if cell.samples.len() < SAMPLES => cell.samples.push(sample),
            Event::Ended(ended) => cell.ended = Some(ended),
            Event::Sample(_) | Event::Scored(_) | Event::Failed(_) => {}
        })
        .await;
    cell.runs = told.runs;
    cell.marks = cell.found();
    Measured { cell, subject, ended }
}

/// Questions that were asked, as far as it came.
pub(super) struct Heard {
    pub(super) runs: Vec<Run>,
    pub(super) subject: Option<Subject>,
    pub(super) ended: Result<(), Failure>,
}

/// Asks one question after the other. The first answer to each is kept, and none to what was not asked.
pub(super) async fn ask(
    hands: &mut Hands,
    model: &ModelId,
    questions: Vec<Question>,
    patience_s: u32,
) -> Heard {
    let mut open: BTreeSet<String> = questions.iter().map(|question| question.id.clone()).collect();
    let work = Work::Ask(AskWork { streams: 1, questions });
    let trial = Trial { model: model.clone(), work, patience_s };
    let (mut told, mut subject) = (Told::default(), None);
    let ended = hands
        .trial(&trial, |event| match event {
            Event::Began(found) => subject = Some(found),
            Event::Run(run) if open.remove(&run.id) => told.take(run),
            Event::Run(_) | Event::Sample(_) | Event::Scored(_) | Event::Ended(_) | Event::Failed(_) => {}
        })
        .await;
    Heard { runs: told.runs, subject, ended }
}

/// Asks as [`ask`]. What was only thought about until its tokens ended is asked once more with [`THINKING`] times as many, as far
/// as `room`, the tokens of the context, goes: a model that thinks first is asked what it says, not how briefly it thinks.
pub(super) async fn ask_out(
    hands: &mut Hands,
    model: &ModelId,
    questions: Vec<Question>,
    shape: &Shape,
    room: Option<u32>,
) -> Heard {
    let mut heard = ask(hands, model, questions.clone(), patience(shape, 1)).await;
    let longer = |question: &Question| {
        let run = heard.runs.iter().find(|run| run.id == question.id && only_thought(run))?;
        let room = room.map(|tokens| tokens.saturating_sub(run.prompt_tokens.unwrap_or(shape.prompt)));
        longer(question, room)
    };
    let again: Vec<Question> = questions.iter().filter_map(longer).collect();
    if heard.ended.is_err() || again.is_empty() {
        return heard;
    }
    let shape = Shape { output: shape.output.saturating_mul(THINKING), ..*shape };
    let Heard { runs, ended, .. } = ask(hands, model, again, patience(&shape, 1)).await;
    for run in runs {
        if let Some(first) = heard.runs.iter_mut().find(|first| first.id == run.id) {
            *first = run;
        }
    }
    Heard { ended, ..heard }
}

/// Whether an answer ended for want of tokens before it said anything.
fn only_thought(run: &Run) -> bool {
    let is_cut = run.error.is_none() && run.finish_reason.as_deref() == Some("length");
    let thought = run.reasoning.as_deref().is_some_and(|text| !text.trim().is_empty());
    // Templates that engines do not know leave the thoughts in the text.
    let in_text = run.text.trim_start().starts_with("<think>") && !run.text.contains("</think>");
    is_cut && (in_text || (thought && run.text.trim().is_empty()))
}

/// The same question with more room for its answer, twice as much at least; `None` where there is not.
fn longer(question: &Question, room: Option<u32>) -> Option<Question> {
    let mut body: Value = serde_json::from_str(&question.body).ok()?;
    let most = u32::try_from(body["max_tokens"].as_u64()?).ok()?;
    let more = room.unwrap_or(u32::MAX).min(most.saturating_mul(THINKING));
    // A few more change nothing, and a long text is read once more for them.
    if more < most.saturating_mul(2) {
        return None;
    }
    body["max_tokens"] = more.into();
    Some(Question { body: body.to_string(), ..question.clone() })
}

/// An answer to one of the fixed questions, with what it is to be like.
pub(super) fn answered(run: Run) -> Answered {
    Answered { question: run.id.clone(), expected: expected(&run.id), run }
}

/// A reason as a record takes it: a machine's words may be of any length.
pub(super) fn reason(mut why: String) -> String {
    let end = (0..=REASON.min(why.len())).rev().find(|end| why.is_char_boundary(*end));
    why.truncate(end.unwrap_or_default());
    why
}

/// Seconds that one request may take: a machine that reads 20 tokens each second and writes one in two seconds, shared
/// by all streams.
pub(super) fn patience(shape: &Shape, streams: u32) -> u32 {
    let alone = 60 + u64::from(shape.prompt) / 20 + u64::from(shape.output) * 2;
    u32::try_from(alone.saturating_mul(streams.into())).unwrap_or(u32::MAX).min(PATIENCE_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_tells_without_an_end_fills_no_memory() {
        let mut told = Told::default();
        (0..=RUNS).for_each(|_| told.take(Run::default()));
        assert_eq!(told.runs.len(), RUNS);
        let mut told = Told::default();
        for _ in 0..5 {
            let (text, raw) = ("x".repeat(TEXTS / 8), Some("y".repeat(TEXTS / 8)));
            told.take(Run { text, raw, ..Run::default() });
        }
        assert_eq!((told.runs.len(), told.bytes), (4, TEXTS));
    }

    #[test]
    fn only_what_was_cut_while_it_thought_is_asked_again() {
        let cut = |text: &str, reasoning: Option<&str>| Run {
            finish_reason: Some("length".into()),
            text: text.into(),
            reasoning: reasoning.map(Into::into),
            ..Run::default()
        };
        assert!(only_thought(&cut("", Some("Let me see."))));
        assert!(only_thought(&cut("\n<think>\nLet me see.", None)));
        for other in [
            cut("", None),
            cut("", Some(" ")),
            cut("It is", Some("Let me see.")),
            cut("<think>Hm.</think> It is", None),
            Run { finish_reason: Some("stop".into()), ..cut("", Some("Hm.")) },
            Run { error: Some("status 500".into()), ..cut("", Some("Hm.")) },
        ] {
            assert!(!only_thought(&other), "{other:?}");
        }
    }

    #[test]
    fn a_second_try_has_eight_times_the_tokens_or_what_the_context_leaves() {
        let body = "{\"max_tokens\":300,\"seed\":1}".to_owned();
        let question = Question { id: "q".into(), path: "/v1/chat/completions".into(), body };
        let most = |room| {
            let body: Value = serde_json::from_str(&longer(&question, room)?.body).expect("JSON");
            assert_eq!(body["seed"], 1, "all else stays");
            body["max_tokens"].as_u64()
        };
        assert_eq!(
            [None, Some(9000), Some(600), Some(599)].map(most),
            [Some(2400), Some(2400), Some(600), None]
        );
    }

    #[test]
    fn a_reason_is_cut_between_two_letters_where_a_record_takes_no_more() {
        assert_eq!(reason("does not fit".into()), "does not fit");
        let long = reason(format!("x{}", "é".repeat(REASON)));
        assert_eq!((long.len(), long.ends_with('é')), (REASON - 1, true));
    }

    #[test]
    fn patience_is_for_slow_machines_and_has_an_end() {
        assert_eq!(patience(&Shape { prompt: 512, output: 128 }, 1), 60 + 25 + 256);
        assert_eq!(patience(&Shape { prompt: 65_536, output: 1024 }, 4), PATIENCE_S);
    }
}
