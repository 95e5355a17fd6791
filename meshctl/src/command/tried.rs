//! Trials gathered into what records hold: speeds with their looks at the machine, questions with their answers.

use super::hands::Hands;
use super::ladder::questions::expected;
use crate::exit::Failure;
use mesh_core::id::ModelId;
use mesh_core::ladder::{Answered, Cell, Shape};
use mesh_core::stress::REASON;
use mesh_core::trial::{AskWork, Event, PATIENCE_S, Question, Run, SpeedWork, Subject, Trial, Work};
use std::collections::BTreeSet;

/// Requests of one trial that are kept, at most: as many as a record takes.
const RUNS: usize = 100_000;
/// Looks at the machine that are kept, at most: as many as a record takes.
const SAMPLES: usize = 100_000;
/// Bytes of all texts of one trial that are kept, at most: a quarter of the longest record that is read.
const TEXTS: usize = 64 << 20;

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
