//! Trials gathered into what records hold: speeds with their looks at the machine, questions with their answers.

use super::hands::Hands;
use super::ladder::questions::expected;
use crate::exit::Failure;
use mesh_core::id::ModelId;
use mesh_core::ladder::{Answered, Cell, Mark, Shape};
use mesh_core::trial::{AskWork, Event, PATIENCE_S, Question, Run, SpeedWork, Subject, Trial, Work};

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
    let mut subject = None;
    let ended = hands
        .trial(&trial, |event| match event {
            Event::Began(found) => subject = Some(found),
            Event::Run(run) => cell.runs.push(run),
            Event::Sample(sample) => cell.samples.push(sample),
            Event::Ended(ended) => cell.ended = Some(ended),
            Event::Scored(_) | Event::Failed(_) => {}
        })
        .await;
    let slowed = cell.samples.iter().any(|sample| sample.throttled == Some(true));
    let disturbed = cell.ended.is_some_and(|ended| ended.others > 0);
    cell.marks.extend(slowed.then_some(Mark::Throttled));
    cell.marks.extend(disturbed.then_some(Mark::Disturbed));
    Measured { cell, subject, ended }
}

/// Questions that were asked, as far as it came.
pub(super) struct Heard {
    pub(super) runs: Vec<Run>,
    pub(super) subject: Option<Subject>,
    pub(super) ended: Result<(), Failure>,
}

/// Asks one question after the other.
pub(super) async fn ask(
    hands: &mut Hands,
    model: &ModelId,
    questions: Vec<Question>,
    patience_s: u32,
) -> Heard {
    let work = Work::Ask(AskWork { streams: 1, questions });
    let trial = Trial { model: model.clone(), work, patience_s };
    let (mut runs, mut subject) = (Vec::new(), None);
    let ended = hands
        .trial(&trial, |event| match event {
            Event::Began(found) => subject = Some(found),
            Event::Run(run) => runs.push(run),
            Event::Sample(_) | Event::Scored(_) | Event::Ended(_) | Event::Failed(_) => {}
        })
        .await;
    Heard { runs, subject, ended }
}

/// An answer to one of the fixed questions, with what it is to be like.
pub(super) fn answered(run: Run) -> Answered {
    Answered { question: run.id.clone(), expected: expected(&run.id), run }
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
    fn patience_is_for_slow_machines_and_has_an_end() {
        assert_eq!(patience(&Shape { prompt: 512, output: 128 }, 1), 60 + 25 + 256);
        assert_eq!(patience(&Shape { prompt: 65_536, output: 1024 }, 4), PATIENCE_S);
    }
}
