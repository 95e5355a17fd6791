//! One model: loaded alone, measured, asked. What was seen is in the record as soon as it was seen.

use super::haystack;
use super::tasks;
use super::{Validator, Who};
use crate::command::hands::{Loaded, Size};
use crate::command::ladder::candidates::Candidate;
use crate::command::ladder::questions;
use crate::command::ladder::rung::{Broken, QUESTION, contexts};
use crate::command::tried::{Heard, Measured, answered, ask, ask_out, measure, patience, reason};
use crate::exit::{Failure, Kind};
use crate::render::quantity::context as in_k;
use mesh_core::id::ModelId;
use mesh_core::ladder::{Mark, Outcome, Shape};
use mesh_core::trial::{Prefix, Question, Run, SpeedWork};
use mesh_core::units::human_duration;
use mesh_core::validation::{Ability, Needle, Reached, Unasked};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// How long a machine that was slowed down may cool.
const COOLING: Duration = Duration::from_secs(180);
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Why a model is not asked to call tools.
const NO_TOOLS: &str = "the engine says that the model's chat template knows no tools";

impl Validator<'_> {
    /// Measures one model.
    pub(super) async fn measure(&mut self, who: Who, candidate: &Candidate) -> Result<(), Broken> {
        let model = &candidate.model;
        self.tell(&format!("{model}: the memory is cleared"));
        self.hands.clear().await?;
        if who == Who::Champion {
            // The candidate began on a machine that had rested.
            self.cool(model).await?;
        }
        let before = self.hands.sample_anew().await?;
        self.evidence(who).rung.before = before;
        let loaded = self.load(who, candidate).await?;
        self.speeds(who, model, loaded.context).await?;
        self.coherence(who, model, loaded.context).await?;
        let seed = self.record.settings.seed;
        let (most, room) = (tasks::MOST_TOKENS, loaded.context);
        let (runs, ended) = self.able(model, "JSON of a given form", tasks::forms(seed), most, room).await;
        self.evidence(who).forms = runs.into_iter().map(tasks::formed).collect();
        self.kept()?;
        ended?;
        if loaded.calls_tools == Some(false) {
            self.unasked(who, Ability::Tools, NO_TOOLS);
        } else {
            let (runs, ended) = self.able(model, "tools", tasks::calls(seed), most, room).await;
            self.evidence(who).calls = runs.into_iter().map(tasks::called).collect();
            self.kept()?;
            ended?;
        }
        self.kept()?;
        self.needles(who, model, loaded.context).await
    }

    /// Brings it in with the largest context that is needed and fits, for one request at a time.
    async fn load(&mut self, who: Who, candidate: &Candidate) -> Result<Loaded, Broken> {
        let model = &candidate.model;
        let settings = &self.record.settings;
        let output = settings.output;
        // What is between the longest and the next may have room, too.
        let half = settings.contexts.last().map(|longest| longest / 2).filter(|half| *half > 0);
        let lengths = settings.contexts.iter().copied().chain(half);
        let shapes: Vec<Shape> = lengths.map(|prompt| Shape { prompt, output }).collect();
        let mut refused = String::new();
        for context in contexts(&shapes, &QUESTION, candidate.trained_context) {
            let size = Size { context, slots: Some(1), cache: None };
            let size = if candidate.can_size { size } else { Size::default() };
            let tokens = size.context.map(|tokens| format!(", context {}", in_k(tokens))).unwrap_or_default();
            self.tell(&format!("{model}: loading{tokens}"));
            let took = match self.hands.load(model, size).await {
                Ok(took) => took,
                Err(failure) if failure.kind == Kind::DoesNotFit => {
                    refused = failure.cause.unwrap_or(failure.what);
                    if candidate.can_size {
                        continue;
                    }
                    break;
                }
                Err(failure) => return Err(failure.into()),
            };
            let (after, there) = (self.hands.sample_anew().await?, self.hands.loaded(model).await?);
            let rung = &mut self.evidence(who).rung;
            (rung.after, rung.load_s) = (after, took.map(|took| took.as_secs_f64()));
            let gone = || Broken::Rung(Outcome::Failed("it left the memory as soon as it was loaded".into()));
            let there = there.ok_or_else(gone)?;
            return Ok(Loaded { context: there.context.or(size.context), ..there });
        }
        Err(Broken::Rung(Outcome::Skipped(reason(refused))))
    }

    async fn speeds(&mut self, who: Who, model: &ModelId, context: Option<u32>) -> Result<(), Broken> {
        let settings = self.record.settings.clone();
        let reached = reached(&settings.contexts, settings.output, context);
        self.evidence(who).contexts.clone_from(&reached);
        for prompt in reached.iter().filter_map(|reached| reached.prompt) {
            let work = SpeedWork {
                prompt_tokens: prompt,
                output_tokens: settings.output,
                streams: 1,
                repetitions: settings.repetitions,
                seed: settings.seed,
                prefix: Prefix::Cold,
                soak_s: None,
            };
            // Once more where something spoke against it; both stay.
            let marks = self.speed(who, model, work).await?;
            if marks.contains(&Mark::Throttled) {
                self.cool(model).await?;
            }
            if !marks.is_empty() {
                self.speed(who, model, work).await?;
            }
        }
        Ok(())
    }

    /// Waits until nothing slows the machine down any more, for a while.
    async fn cool(&mut self, model: &ModelId) -> Result<(), Broken> {
        let start = Instant::now();
        while start.elapsed() < COOLING {
            let now = self.hands.sample().await?;
            if now.throttled != Some(true) && now.thermal.admits_load() {
                break;
            }
            let limit = human_duration(COOLING);
            self.tell(&format!("{model}: the machine is slowed down or hot; it may cool for up to {limit}"));
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn speed(&mut self, who: Who, model: &ModelId, work: SpeedWork) -> Result<Vec<Mark>, Broken> {
        let shape = Shape { prompt: work.prompt_tokens, output: work.output_tokens };
        self.tell(&format!("{model}: {}:{} tokens", in_k(shape.prompt), in_k(shape.output)));
        let Measured { cell, subject, ended } =
            measure(&mut self.hands, model, work, patience(&shape, 1)).await;
        let marks = cell.marks.clone();
        let rung = &mut self.evidence(who).rung;
        rung.subject = rung.subject.take().or(subject);
        rung.cells.push(cell);
        self.kept()?;
        ended?;
        Ok(marks)
    }

    async fn coherence(&mut self, who: Who, model: &ModelId, room: Option<u32>) -> Result<(), Broken> {
        let questions = questions::questions(self.record.settings.seed, QUESTION.output);
        self.tell(&format!("{model}: {} questions", questions.len()));
        let asked = ask_out(&mut self.hands, model, questions, &QUESTION, room).await;
        let rung = &mut self.evidence(who).rung;
        rung.subject = rung.subject.take().or(asked.subject);
        rung.answers = asked.runs.into_iter().map(answered).collect();
        self.kept()?;
        Ok(asked.ended?)
    }

    /// Asks questions of one ability. An engine that answers each with a status of its own is there, and did not break.
    async fn able(
        &mut self,
        model: &ModelId,
        what: &str,
        questions: Vec<Question>,
        output: u32,
        room: Option<u32>,
    ) -> (Vec<Run>, Result<(), Failure>) {
        self.tell(&format!("{model}: {what}"));
        // A byte of the body is less than a token.
        let longest = questions.iter().map(|question| question.body.len()).max().unwrap_or_default();
        let prompt = u32::try_from(longest).unwrap_or(u32::MAX);
        let asked = questions.len();
        let shape = Shape { prompt, output };
        let Heard { runs, ended, .. } = ask_out(&mut self.hands, model, questions, &shape, room).await;
        let is_refused = |run: &Run| run.error.as_ref().is_some_and(|why| why.starts_with("status "));
        let is_answered = runs.len() == asked && runs.iter().all(is_refused);
        (runs, if is_answered { Ok(()) } else { ended })
    }

    async fn needles(&mut self, who: Who, model: &ModelId, context: Option<u32>) -> Result<(), Broken> {
        let settings = self.record.settings.clone();
        let longest = settings.contexts.last().copied().unwrap_or_default();
        let most = longest.saturating_add(settings.output);
        let Some(context) = context else {
            self.unasked(who, Ability::Needle, "the engine does not say how many tokens its context has");
            return Ok(());
        };
        let Some(room) = haystack::room(context, most) else {
            let why = format!("{} tokens are too few for a long text and its answer", context.min(most));
            self.unasked(who, Ability::Needle, &why);
            return Ok(());
        };
        let counted = self.counted(model).await?;
        let count = haystack::words_in(room.text, counted);
        let questions = haystack::questions(settings.seed, count, room.answer);
        let what = format!("one sentence of {} tokens", in_k(room.text));
        let (runs, ended) = self.able(model, &what, questions, room.answer, Some(context)).await;
        let needle = |run: Run| {
            let at = haystack::asked(&run.id)?;
            Some(Needle { depth: haystack::DEPTHS[at], code: haystack::code(settings.seed, at), run })
        };
        self.evidence(who).needles = runs.into_iter().filter_map(needle).collect();
        self.kept()?;
        Ok(ended?)
    }

    /// How many tokens a sample of such a text has; `None` where the engine cannot count.
    async fn counted(&mut self, model: &ModelId) -> Result<Option<u32>, Broken> {
        let body = json!({"content": haystack::words(self.record.settings.seed, haystack::SAMPLE)});
        let question = Question { id: "tokens".into(), path: "/tokenize".into(), body: body.to_string() };
        let asked = ask(&mut self.hands, model, vec![question], patience(&QUESTION, 1)).await;
        let raw = asked.runs.first().and_then(|run| run.raw.as_deref());
        let told = raw.and_then(|raw| serde_json::from_str::<Value>(raw).ok());
        let tokens = told.and_then(|told| Some(told["tokens"].as_array()?.len()));
        asked.ended?;
        Ok(tokens.and_then(|tokens| u32::try_from(tokens).ok()))
    }

    /// Writes down what was seen so far; where that cannot be, nothing more is measured.
    fn kept(&self) -> Result<(), Broken> {
        self.save().map_err(Broken::All)
    }

    fn unasked(&mut self, who: Who, what: Ability, why: &str) {
        self.evidence(who).unasked.push(Unasked { what, why: reason(why.into()) });
    }
}

/// What can be measured of the contexts that were asked for, `output` tokens of each left for the answer. The first that has
/// no room becomes what there is room for.
fn reached(asked: &[u32], output: u32, context: Option<u32>) -> Vec<Reached> {
    let room = context.map_or(u32::MAX, |tokens| tokens.saturating_sub(output));
    let mut longest = 0;
    let reach = |asked: &u32| {
        let prompt = Some((*asked).min(room)).filter(|prompt| *prompt > longest);
        longest = prompt.unwrap_or(longest);
        Reached { asked: *asked, prompt }
    };
    asked.iter().map(reach).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_context_without_room_becomes_what_there_is_and_the_others_are_left_out() {
        let prompts = |context| {
            let all = reached(&[512, 4096, 16_384], 128, context);
            all.iter().map(|reached| reached.prompt).collect::<Vec<_>>()
        };
        assert_eq!(prompts(None), [Some(512), Some(4096), Some(16_384)]);
        assert_eq!(prompts(Some(16_640)), [Some(512), Some(4096), Some(16_384)]);
        assert_eq!(prompts(Some(8448)), [Some(512), Some(4096), Some(8320)]);
        assert_eq!(prompts(Some(2048)), [Some(512), Some(1920), None]);
        assert_eq!(prompts(Some(640)), [Some(512), None, None]);
        assert_eq!(prompts(Some(128)), [None, None, None]);
    }
}
