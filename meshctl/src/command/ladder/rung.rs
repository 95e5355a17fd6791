//! One model: loaded, asked, measured. What was seen is in the record as soon as it was seen.

use super::candidates::Candidate;
use super::climb::Climb;
use super::ends_all;
use super::questions::{MOST_TOKENS, questions};
use crate::command::hands::Size;
use crate::command::in_words;
use crate::command::tried::{Measured, answered, ask_out, measure, patience, reason};
use crate::exit::{Failure, Kind};
use crate::render::quantity::context as in_k;
use mesh_core::id::ModelId;
use mesh_core::ladder::{Mark, Outcome, Rung, Shape};
use mesh_core::trial::SpeedWork;
use mesh_core::units::human_duration;
use std::time::Duration;
use tokio::time::Instant;

/// What a rung says that was begun and not ended; going on with the climb goes on with it.
pub(super) const UNFINISHED: &str = "the climb was ended before this rung was done";
/// llama.cpp gives contexts in steps of so many tokens.
const STEP: u32 = 256;
/// A question with its template, and its usual longest answer.
pub(in crate::command) const QUESTION: Shape = Shape { prompt: 100, output: MOST_TOKENS };
/// How long a machine that was slowed down may cool.
const COOLING: Duration = Duration::from_secs(180);
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Why a rung goes no further.
pub(in crate::command) enum Broken {
    /// This rung only.
    Rung(Outcome),
    /// The climb.
    All(Failure),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        if ends_all(&failure) {
            return Self::All(failure);
        }
        Self::Rung(Outcome::Failed(reason(in_words(&failure))))
    }
}

/// One load and what is measured with it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pass {
    streams: Vec<u32>,
    /// From the largest to the smallest; the machine takes what fits.
    contexts: Vec<Option<u32>>,
    sized: bool,
}

/// What a load gave.
struct Room {
    /// `None` = the engine does not tell.
    context: Option<u32>,
    slots: Option<u32>,
}

impl Climb<'_> {
    /// Measures one model. Its rung stands in the record, the last of it.
    pub(super) async fn measure(&mut self, candidate: &Candidate) -> Result<(), Broken> {
        let model = &candidate.model;
        self.tell(&format!("{model}: the memory is cleared"));
        self.hands.clear().await?;
        if self.rung().subject.is_none() {
            let before = self.hands.sample_anew().await?;
            self.rung().before = before;
        }
        let matrix = self.record.settings.matrix.clone();
        let streams = self.record.settings.streams.clone();
        let contexts = contexts(&matrix, &self.question(), candidate.trained_context);
        // All at once where there is room for it; else each number of streams with the largest context that it leaves.
        let all =
            Pass { contexts: contexts[..1].to_vec(), streams: streams.clone(), sized: candidate.can_size };
        let each = streams.iter().map(|count| Pass {
            contexts: contexts.clone(),
            streams: vec![*count],
            sized: true,
        });
        let each: Vec<Pass> = if candidate.can_size { each.collect() } else { Vec::new() };
        match self.pass(model, &all).await {
            Ok(()) => {}
            Err(Broken::Rung(Outcome::Skipped(why))) if each.is_empty() => {
                return Err(Broken::Rung(Outcome::Skipped(why)));
            }
            Err(Broken::Rung(Outcome::Skipped(_))) => self.passes(model, &each).await?,
            Err(other) => return Err(other),
        }
        self.soak(model).await
    }

    /// The first pass must find room; what has none later is left out.
    async fn passes(&mut self, model: &ModelId, passes: &[Pass]) -> Result<(), Broken> {
        for (number, pass) in passes.iter().enumerate() {
            match self.pass(model, pass).await {
                Err(Broken::Rung(Outcome::Skipped(why))) if number > 0 => {
                    self.tell(&format!("{model}: no room for {} at once: {why}", pass.streams[0]));
                    return Ok(());
                }
                ended => ended?,
            }
        }
        Ok(())
    }

    async fn pass(&mut self, model: &ModelId, pass: &Pass) -> Result<(), Broken> {
        let room = self.load(model, pass).await?;
        if self.rung().answers.is_empty() {
            self.ask(model, room.context).await?;
        }
        let fits = |shape: &Shape| room.context.is_none_or(|context| length(shape) <= u64::from(context));
        let shapes: Vec<Shape> = self.record.settings.matrix.iter().copied().filter(fits).collect();
        if shapes.is_empty() {
            self.tell(&format!("{model}: no shape has room in its context"));
        }
        for count in pass.streams.iter().filter(|count| room.slots.is_none_or(|slots| **count <= slots)) {
            for shape in &shapes {
                self.cell(model, self.work(*shape, *count)).await?;
            }
        }
        Ok(())
    }

    /// Brings it in with the largest of the contexts that fits.
    ///
    /// # Errors
    /// Skipped, with the machine's words, where none does.
    async fn load(&mut self, model: &ModelId, pass: &Pass) -> Result<Room, Broken> {
        self.hands.clear().await?;
        let slots = pass.streams.iter().max().copied();
        let mut refused = String::new();
        for context in &pass.contexts {
            let size = Size { context: *context, slots, cache: None };
            let size = if pass.sized { size } else { Size::default() };
            let tokens = size.context.map(|tokens| format!(", context {}", in_k(tokens))).unwrap_or_default();
            let at_once = size.slots.map(|slots| format!(" × {slots}")).unwrap_or_default();
            self.tell(&format!("{model}: loading{tokens}{at_once}"));
            match self.hands.load(model, size).await {
                Ok(took) => return self.loaded(model, size, took).await,
                Err(failure) if failure.kind == Kind::DoesNotFit => {
                    refused = failure.cause.unwrap_or(failure.what);
                    if !pass.sized {
                        break;
                    }
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(Broken::Rung(Outcome::Skipped(reason(refused))))
    }

    async fn loaded(&mut self, model: &ModelId, size: Size, took: Option<Duration>) -> Result<Room, Broken> {
        if self.rung().subject.is_none() {
            let after = self.hands.sample_anew().await?;
            self.rung().after = after;
        }
        let there = self.hands.loaded(model).await?;
        let rung = self.rung();
        if rung.subject.is_none() {
            rung.load_s = took.map(|took| took.as_secs_f64());
        }
        let (context, slots) = there.map_or((None, None), |there| (there.context, there.slots));
        Ok(Room { context: context.or(size.context), slots: slots.or(size.slots) })
    }

    /// A question with its longest answer.
    fn question(&self) -> Shape {
        let most = self.record.settings.sampling.max_tokens;
        Shape { output: most.unwrap_or(QUESTION.output), ..QUESTION }
    }

    async fn ask(&mut self, model: &ModelId, room: Option<u32>) -> Result<(), Broken> {
        let shape = self.question();
        let questions = questions(self.record.settings.seed, shape.output);
        self.tell(&format!("{model}: {} questions", questions.len()));
        let asked = ask_out(&mut self.hands, model, questions, &shape, room).await;
        let rung = self.rung();
        rung.subject = rung.subject.take().or(asked.subject);
        rung.answers = asked.runs.into_iter().map(answered).collect();
        self.save().map_err(Broken::All)?;
        Ok(asked.ended?)
    }

    fn work(&self, shape: Shape, streams: u32) -> SpeedWork {
        let settings = &self.record.settings;
        SpeedWork {
            prompt_tokens: shape.prompt,
            output_tokens: shape.output,
            streams,
            repetitions: settings.repetitions,
            seed: settings.seed,
            prefix: settings.prefix,
            soak_s: None,
        }
    }

    /// Measures one work, and once more where something spoke against it. Both stay.
    async fn cell(&mut self, model: &ModelId, work: SpeedWork) -> Result<(), Broken> {
        if self.rung().cells.iter().any(|cell| cell.work == work && cell.ended.is_some()) {
            return Ok(());
        }
        let marks = self.once(model, work).await?;
        if marks.is_empty() {
            return Ok(());
        }
        if marks.contains(&Mark::Throttled) {
            self.cool(model).await?;
        }
        self.once(model, work).await.map(|_| ())
    }

    async fn once(&mut self, model: &ModelId, work: SpeedWork) -> Result<Vec<Mark>, Broken> {
        let shape = Shape { prompt: work.prompt_tokens, output: work.output_tokens };
        let soak = work.soak_s.map(|seconds| format!(", soak of {seconds} s")).unwrap_or_default();
        self.tell(&format!("{model}: {}:{} × {}{soak}", shape.prompt, shape.output, work.streams));
        let Measured { cell, subject, ended } =
            measure(&mut self.hands, model, work, patience(&shape, work.streams)).await;
        let marks = cell.marks.clone();
        let rung = self.rung();
        rung.subject = rung.subject.take().or(subject);
        rung.cells.push(cell);
        self.save().map_err(Broken::All)?;
        ended?;
        Ok(marks)
    }

    /// Waits until nothing slows the machine down any more, for a while.
    async fn cool(&mut self, model: &ModelId) -> Result<(), Broken> {
        let start = Instant::now();
        let limit = human_duration(COOLING);
        self.tell(&format!("{model}: the machine was slowed down; it may cool for up to {limit}"));
        while start.elapsed() < COOLING {
            let now = self.hands.sample().await?;
            if now.throttled != Some(true) && now.thermal.admits_load() {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn soak(&mut self, model: &ModelId) -> Result<(), Broken> {
        let settings = &self.record.settings;
        let (Some(seconds), Some(shape)) = (settings.soak_s, settings.matrix.first().copied()) else {
            return Ok(());
        };
        let work = SpeedWork { soak_s: Some(seconds), ..self.work(shape, 1) };
        let has_room = self.rung().cells.iter().any(|cell| cell.work.streams == 1 && cell.ended.is_some());
        if has_room && !self.rung().cells.iter().any(|cell| cell.work == work && cell.ended.is_some()) {
            self.once(model, work).await?;
        }
        Ok(())
    }
}

/// A rung of which nothing is measured yet.
pub(in crate::command) fn begun(candidate: &Candidate) -> Rung {
    Rung {
        parameters: candidate.parameters,
        active_parameters: candidate.active_parameters,
        quantisation: candidate.quantisation.clone(),
        size: candidate.size,
        digest: candidate.digest.clone(),
        specialty: candidate.specialty().map(str::to_owned),
        outcome: Outcome::Failed(UNFINISHED.into()),
        ..Rung::new(candidate.model.clone(), candidate.label())
    }
}

fn length(shape: &Shape) -> u64 {
    u64::from(shape.prompt) + u64::from(shape.output)
}

/// The contexts to load with, largest first: what each shape and a question need, no more than the model was trained for.
pub(in crate::command) fn contexts(
    matrix: &[Shape],
    question: &Shape,
    trained: Option<u32>,
) -> Vec<Option<u32>> {
    let needed = matrix.iter().map(|shape| {
        let whole = length(shape).max(length(question)).next_multiple_of(STEP.into());
        let tokens = u32::try_from(whole).unwrap_or(u32::MAX);
        trained.map_or(tokens, |most| tokens.min(most))
    });
    let mut contexts: Vec<u32> = needed.collect();
    contexts.sort_unstable_by(|a, b| b.cmp(a));
    contexts.dedup();
    contexts.into_iter().map(Some).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_what_the_shapes_need_and_the_model_was_trained_for() {
        let shape = |prompt, output| Shape { prompt, output };
        let matrix = [shape(512, 128), shape(4096, 512), shape(16_384, 1024)];
        assert_eq!(contexts(&matrix, &QUESTION, None), [Some(17_408), Some(4608), Some(768)]);
        assert_eq!(contexts(&matrix, &QUESTION, Some(2048)), [Some(2048), Some(768)]);
        assert_eq!(contexts(&matrix, &QUESTION, Some(100)), [Some(100)]);
        assert_eq!(contexts(&[shape(1, 1)], &QUESTION, None), [Some(512)], "the questions have room");
    }
}
