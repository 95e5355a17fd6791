//! Trials: what an agent is asked to try with one of its models, and what it saw. Words only: who asks keeps the results
//! and judges them ([`crate::verdict`], the ladder).
//!
//! A trial is a question of an operator to one machine. It goes the way of a request, so it is bounded and cancelled as
//! one: who leaves ends the engine's work. The machine's other requests are not held up by it; how many there were is told,
//! and a figure taken beside others is no figure of the model.

use crate::fit::Offload;
use crate::id::ModelId;
use crate::machine::{Gpu, ThermalState, Vitals};
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// Requests at once, at most.
pub const STREAMS: u32 = 64;
/// Repetitions of one speed, at most.
pub const REPETITIONS: u32 = 100;
/// Tokens of a made-up prompt or of an answer, at most.
pub const TOKENS: u32 = 1 << 20;
/// Questions of one trial, at most.
pub const QUESTIONS: usize = 1000;
/// Findings of one trial, at most.
pub const FINDINGS: usize = 64;
/// The longest name of a suite, in bytes: as much as a profile keeps.
pub const SUITE: usize = 120;
/// The longest time of one request, in seconds: a 70B model that reads 64K tokens on a processor.
pub const PATIENCE_S: u32 = 3600;
/// The longest soak, in seconds.
pub const SOAK_S: u32 = 24 * 3600;

/// What an agent is to try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The model, by its name towards clients. It must be loaded.
    pub model: ModelId,
    /// What to do with it.
    pub work: Work,
    /// The longest time of one request, in seconds.
    pub patience_s: u32,
}

/// What to do with a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// How fast it is.
    Speed(SpeedWork),
    /// What it answers.
    Ask(AskWork),
    /// How likely it takes texts to be.
    Score(ScoreWork),
    /// Nothing: what was found of it elsewhere is kept in the machine's profile, where plans look.
    Keep(KeepWork),
}

/// Made-up prompts of a fixed length, and answers of a fixed length where the engine allows that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeedWork {
    /// Tokens of the prompt. Engines that can count have exactly these; others about so many.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// Requests at once.
    pub streams: u32,
    /// How often, beside one warm-up that does not count. In a soak they go on until its time is up.
    pub repetitions: u32,
    /// Seed of the sampling and of the prompts' words.
    pub seed: u64,
    /// Whether the engine may find the prompt in its cache.
    pub prefix: Prefix,
    /// Seconds to go on for.
    pub soak_s: Option<u32>,
}

/// Whether a prompt may be in the engine's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefix {
    /// No: the cache is switched off, and every prompt begins with other words.
    #[default]
    Cold,
    /// Yes: every repetition has the same prompt.
    Warm,
}

/// Questions as a client would ask them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AskWork {
    /// Requests at once.
    pub streams: u32,
    /// In the order in which they are asked.
    pub questions: Vec<Question>,
}

/// Texts whose log-likelihood is wanted, one after another. Only for engines that tell token probabilities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreWork {
    /// In this order.
    pub texts: Vec<Scoring>,
}

/// What examinations found of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepWork {
    /// One for each suite.
    pub findings: Vec<Finding>,
}

/// What one examination found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which, with all that makes its figures comparable: how it was asked, after how many examples, and over which items.
    pub suite: String,
    /// Items done well.
    pub passed: u32,
    /// Items tried.
    pub tried: u32,
}

/// A text, and what stands before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scoring {
    /// Which, in the word of whoever asks.
    pub id: String,
    /// Given; nothing of it is scored. Empty = the text begins as documents do.
    pub context: String,
    /// What is scored.
    pub text: String,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Which, in the word of whoever asks.
    pub id: String,
    /// The path on the engine: `/v1/chat/completions`, `/v1/completions`, `/completion`, `/tokenize`.
    pub path: String,
    /// The body, JSON without `model`.
    pub body: String,
}

/// One line of what an agent tells of a trial. The first is [`Event::Began`], the last [`Event::Ended`]; without that one
/// the trial broke.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It begins.
    Began(Subject),
    /// A request ended.
    Run(Run),
    /// A text was scored.
    Scored(Scored),
    /// The machine was looked at.
    Sample(Sample),
    /// All is done.
    Ended(Ended),
    /// It cannot go on, and why.
    Failed(String),
}

/// What is tried, as the machine knows it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Subject {
    /// The engine's kind and version: `llama-server b11549`.
    pub build: String,
    /// The graphics processor's name and id, or `ram`.
    pub device: String,
    /// SHA-256 of the model's file; `null` = not known.
    pub digest: Option<String>,
    /// Which part of it is on the device; `null` = not known.
    pub offload: Option<Offload>,
    /// Tokens of one request; `null` = not known.
    pub context: Option<u32>,
    /// Requests at once; `null` = not known.
    pub slots: Option<u32>,
    /// Prompts have exactly the tokens that were asked for.
    pub exact_prompts: bool,
    /// Answers have exactly the tokens that were asked for.
    pub exact_answers: bool,
    /// The cache can be switched off.
    pub exact_prefix: bool,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
}

/// One request and its answer. Times in seconds; TTFT from sending to the first content, ITL between contents.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// The question's id; empty for a speed.
    pub id: String,
    /// Which repetition, from 0; warm-ups count for themselves.
    pub repetition: u32,
    /// Which of the requests at once, from 0.
    pub stream: u32,
    /// It does not count.
    pub warm_up: bool,
    /// When it was sent, after the trial's beginning.
    pub at_s: f64,
    /// To the first content; `null` = there was none.
    pub ttft_s: Option<f64>,
    /// To the end.
    pub total_s: f64,
    /// The longest time between two pieces of content; `null` = fewer than two.
    pub longest_gap_s: Option<f64>,
    /// Tokens of the prompt, by the engine.
    pub prompt_tokens: Option<u32>,
    /// Of those, tokens that its cache held.
    pub cached_tokens: Option<u32>,
    /// Tokens of the answer, by the engine.
    pub output_tokens: Option<u32>,
    /// Prompt tokens that it read each second, by its own clock.
    pub engine_prefill: Option<f64>,
    /// Tokens that it generated each second, by its own clock.
    pub engine_decode: Option<f64>,
    /// Why it ended: `stop`, `length`.
    pub finish_reason: Option<String>,
    /// What it said; of a speed its beginning only.
    pub text: String,
    /// What it thought.
    pub reasoning: Option<String>,
    /// The whole answer, where it is no text but something else: a tool call, token probabilities.
    pub raw: Option<String>,
    /// Why there is no answer.
    pub error: Option<String>,
}

impl Run {
    /// Seconds for each token after the first: (E2E − TTFT) / (tokens − 1). `None` for fewer than two tokens.
    #[must_use]
    pub fn tpot_s(&self) -> Option<f64> {
        let (ttft, tokens) = (self.ttft_s?, self.output_tokens.filter(|tokens| *tokens > 1)?);
        Some((self.total_s - ttft) / f64::from(tokens - 1))
    }

    /// Tokens generated each second: by the engine's clock, else 1 / [`Run::tpot_s`].
    #[must_use]
    pub fn decode(&self) -> Option<f64> {
        let seen = || self.tpot_s().filter(|seconds| *seconds > 0.0).map(|seconds| 1.0 / seconds);
        self.engine_decode.or_else(seen).filter(|rate| rate.is_finite() && *rate > 0.0)
    }

    /// Prompt tokens read each second: by the engine's clock, else those that no cache held over the TTFT, which counts the
    /// first token's time in.
    #[must_use]
    pub fn prefill(&self) -> Option<f64> {
        let seen = || {
            let read = self.prompt_tokens?.saturating_sub(self.cached_tokens.unwrap_or(0));
            Some(f64::from(read) / self.ttft_s.filter(|seconds| *seconds > 0.0)?)
        };
        self.engine_prefill.or_else(seen).filter(|rate| rate.is_finite() && *rate > 0.0)
    }
}

/// How likely a model takes a text to be.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scored {
    /// Which.
    pub id: String,
    /// The sum of the natural logarithms of its tokens' probabilities, each given all before it.
    pub log_likelihood: f64,
    /// Tokens that were scored.
    pub tokens: u32,
    /// Each of them was the likeliest one.
    pub is_greedy: bool,
    /// Tokens of the context that had no room, counted from its beginning.
    pub left_out: u32,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Why there is no figure.
    pub error: Option<String>,
}

/// The machine at one moment. `null` = not known.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// After the trial's beginning, in seconds.
    pub at_s: f64,
    /// Its hottest sensor, in degrees Celsius.
    pub temperature: Option<f32>,
    /// Its hottest graphics processor.
    pub gpu_temperature: Option<f32>,
    /// What its graphics processors draw, in watts.
    pub watts: Option<f32>,
    /// Graphics memory in use.
    pub vram_used: Option<Bytes>,
    /// Main memory in use.
    pub ram_used: Option<Bytes>,
    /// Whether processor or graphics processor were slowed down for heat or power.
    pub throttled: Option<bool>,
    /// As the agent judges it.
    pub thermal: ThermalState,
    /// Processors' load average over one minute.
    pub load: Option<f32>,
    /// The share of all processors' time, 0 to 1, that programs other than the engine and its agent have used since the look
    /// before.
    pub others: Option<f32>,
}

/// The looks of one trial in the order of their time, so that those of a request are found among a day's.
#[derive(Debug, Clone)]
pub struct Looks<'a>(Vec<&'a Sample>);

impl<'a> Looks<'a> {
    /// Of these, in any order.
    #[must_use]
    pub fn of(samples: &'a [Sample]) -> Self {
        let mut looks: Vec<&Sample> = samples.iter().collect();
        looks.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        Self(looks)
    }

    /// Those between two moments, both included.
    #[must_use]
    pub fn between(&self, from_s: f64, to_s: f64) -> &[&'a Sample] {
        let first = self.0.partition_point(|look| look.at_s < from_s);
        let end = self.0.partition_point(|look| look.at_s <= to_s).max(first);
        &self.0[first..end]
    }

    /// The share of all processors' time that others used between two moments of the trial: the mean of what its looks tell,
    /// each for the time since the one before. `None` = no look tells of that time.
    #[must_use]
    pub fn others(&self, from_s: f64, to_s: f64) -> Option<f64> {
        // The first look after the end tells of time before it, too, and counts from the one before the first.
        let first = self.0.partition_point(|look| look.at_s <= from_s).saturating_sub(1);
        let end = (self.0.partition_point(|look| look.at_s < to_s) + 1).clamp(first, self.0.len());
        let (mut used, mut known) = (0.0, 0.0);
        for (before, look) in self.0[first..end].iter().zip(self.0[first..end].iter().skip(1)) {
            let seconds = look.at_s.min(to_s) - before.at_s.max(from_s);
            if let Some(share) = look.others.filter(|_| seconds > 0.0) {
                used += f64::from(share) * seconds;
                known += seconds;
            }
        }
        Some(used / known).filter(|share| share.is_finite())
    }
}

impl Sample {
    /// What `vitals` say, `at_s` seconds after a trial's beginning.
    #[must_use]
    pub fn of(vitals: &Vitals, at_s: f64) -> Self {
        let gpus = vitals.gpus.known().map(Vec::as_slice).unwrap_or_default();
        let hottest = |values: &mut dyn Iterator<Item = f32>| values.reduce(f32::max);
        let gpu_sensors = || gpus.iter().filter_map(|gpu| gpu.sensors.temperatures.known()).flatten();
        let host_sensors = vitals.temperatures.known().into_iter().flatten();
        let gpu_temperature = hottest(&mut gpu_sensors().map(|sensor| sensor.value.0));
        let temperature = hottest(&mut host_sensors.map(|sensor| sensor.value.0).chain(gpu_temperature));
        let watts: Vec<f32> = gpus.iter().filter_map(|gpu| gpu.sensors.power.known().copied()).collect();
        let throttle = gpus.iter().filter_map(|gpu| gpu.sensors.throttle.known());
        let slowed: Vec<bool> = throttle
            .map(|causes| causes.iter().any(|cause| cause.is_throttling()))
            .chain(vitals.cpu_throttled.known().copied())
            .collect();
        Self {
            at_s,
            temperature,
            gpu_temperature,
            watts: (!watts.is_empty()).then(|| watts.iter().sum()),
            vram_used: vram_used(gpus),
            ram_used: vitals.ram.known().map(|ram| Bytes(ram.total.0.saturating_sub(ram.available.0))),
            throttled: (!slowed.is_empty()).then(|| slowed.contains(&true)),
            thermal: vitals.thermal.state,
            load: vitals.load.known().copied(),
            others: None,
        }
    }
}

/// Graphics memory in use, of all processors that tell.
fn vram_used(gpus: &[Gpu]) -> Option<Bytes> {
    let used = gpus.iter().filter_map(|gpu| gpu.memory.known());
    used.map(|memory| memory.total.0.saturating_sub(memory.available.0))
        .reduce(u64::saturating_add)
        .map(Bytes)
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Ended {
    /// Seconds that it took.
    pub seconds: f64,
    /// Requests of others that ran beside it.
    pub others: u32,
}

/// What is wrong with a trial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, and must be {wanted}")]
pub struct TrialProblem {
    /// Which part.
    pub field: &'static str,
    /// What it is.
    pub value: u64,
    /// What it must be.
    pub wanted: String,
}

impl Trial {
    /// Whether it keeps to the bounds.
    ///
    /// # Errors
    /// The first field that does not.
    pub fn check(&self) -> Result<(), TrialProblem> {
        within("patience_s", self.patience_s, 1, PATIENCE_S)?;
        match &self.work {
            Work::Speed(work) => {
                within("prompt_tokens", work.prompt_tokens, 1, TOKENS)?;
                within("output_tokens", work.output_tokens, 1, TOKENS)?;
                within("streams", work.streams, 1, STREAMS)?;
                within("repetitions", work.repetitions, 1, REPETITIONS)?;
                within("soak_s", work.soak_s.unwrap_or(1), 1, SOAK_S)
            }
            Work::Ask(work) => {
                within("streams", work.streams, 1, STREAMS)?;
                let questions = u32::try_from(work.questions.len()).unwrap_or(u32::MAX);
                within("questions", questions, 1, u32::try_from(QUESTIONS).unwrap_or(u32::MAX))
            }
            Work::Score(work) => {
                let texts = u32::try_from(work.texts.len()).unwrap_or(u32::MAX);
                within("texts", texts, 1, u32::try_from(QUESTIONS).unwrap_or(u32::MAX))
            }
            Work::Keep(work) => {
                let findings = u32::try_from(work.findings.len()).unwrap_or(u32::MAX);
                within("findings", findings, 1, u32::try_from(FINDINGS).unwrap_or(u32::MAX))?;
                work.findings.iter().try_for_each(|one| {
                    let length = u32::try_from(one.suite.len()).unwrap_or(u32::MAX);
                    within("bytes of a suite's name", length, 1, u32::try_from(SUITE).unwrap_or(u32::MAX))?;
                    within("tried", one.tried, 1, u32::MAX)?;
                    within("passed", one.passed, 0, one.tried)
                })
            }
        }
    }
}

fn within(field: &'static str, value: u32, least: u32, most: u32) -> Result<(), TrialProblem> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(TrialProblem { field, value: value.into(), wanted: format!("between {least} and {most}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ttft_s: Option<f64>, total_s: f64, tokens: Option<u32>) -> Run {
        Run { ttft_s, total_s, output_tokens: tokens, ..Run::default() }
    }

    #[test]
    fn times_follow_the_printed_formulas() {
        let answer = run(Some(0.5), 2.5, Some(41));
        assert_eq!(answer.tpot_s(), Some(0.05));
        assert_eq!(answer.decode(), Some(20.0));
        let by_engine = Run { engine_decode: Some(21.5), ..answer.clone() };
        assert_eq!(by_engine.decode(), Some(21.5), "its own clock knows nothing of the way");
        assert_eq!(run(Some(0.5), 2.5, Some(1)).tpot_s(), None);
        assert_eq!(run(None, 2.5, Some(9)).decode(), None);
        assert_eq!(run(Some(1.0), 1.0, Some(9)).decode(), None, "all at once tells no rate");
        let prompt = Run { prompt_tokens: Some(1000), cached_tokens: Some(200), ..answer };
        assert_eq!(prompt.prefill(), Some(1600.0));
        assert_eq!(Run { engine_prefill: Some(0.0), ..prompt }.prefill(), None, "nothing was read");
    }

    #[test]
    fn what_others_used_is_the_mean_of_the_looks_that_fall_into_the_time() {
        let look = |at_s: f64, others: Option<f32>| Sample { at_s, others, ..Sample::default() };
        let looks = [look(0.0, None), look(1.0, Some(0.0)), look(2.0, Some(0.5)), look(4.0, Some(0.25))];
        assert_eq!(Looks::of(&looks).others(0.0, 4.0), Some(0.25), "0.5 of one second, 0.25 of two");
        assert_eq!(Looks::of(&looks).others(1.2, 1.9), Some(0.5));
        assert_eq!(Looks::of(&looks).others(1.5, 2.5), Some(0.375));
        assert_eq!(Looks::of(&looks).others(5.0, 6.0), None, "nobody looked");
        let unknown = [look(0.0, None), look(1.0, None), look(2.0, Some(0.5))];
        assert_eq!(Looks::of(&unknown).others(0.0, 2.0), Some(0.5), "what is not known is left out");
        assert_eq!(Looks::of(&unknown[..2]).others(0.0, 2.0), None);
        assert_eq!(Looks::of(&[look(0.0, Some(0.9))]).others(0.0, 2.0), None, "since when?");
    }

    #[test]
    fn looks_are_found_by_their_time_as_if_all_were_looked_at() {
        let look = |at: u32| Sample {
            at_s: f64::from(at * 7919 % 101) / 4.0,
            others: (!at.is_multiple_of(3)).then(|| at as f32 / 100.0),
            ..Sample::default()
        };
        let samples: Vec<Sample> = (0..60).map(look).collect();
        let looks = Looks::of(&samples);
        let mut sorted = samples.clone();
        sorted.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        for (from, to) in
            (-2..30).flat_map(|from| (-2..30).map(move |to| (f64::from(from), f64::from(to) + 0.1)))
        {
            let meanwhile = from..=to;
            let within = samples.iter().filter(|look| meanwhile.contains(&look.at_s)).count();
            assert_eq!(looks.between(from, to).len(), within, "{from} {to}");
            let (mut used, mut known) = (0.0, 0.0);
            for pair in sorted.windows(2) {
                let seconds = pair[1].at_s.min(to) - pair[0].at_s.max(from);
                if let Some(share) = pair[1].others.filter(|_| seconds > 0.0) {
                    (used, known) = (used + f64::from(share) * seconds, known + seconds);
                }
            }
            let all = (known > 0.0).then(|| used / known);
            let found = looks.others(from, to);
            assert_eq!(found.is_some(), all.is_some(), "{from} {to}");
            assert!(
                (found.unwrap_or(0.0) - all.unwrap_or(0.0)).abs() < 1e-9,
                "{from} {to}: {found:?} {all:?}"
            );
        }
    }

    #[test]
    fn a_trial_keeps_to_its_bounds() {
        let work = SpeedWork {
            prompt_tokens: 512,
            output_tokens: 128,
            streams: 1,
            repetitions: 5,
            seed: 1,
            prefix: Prefix::Cold,
            soak_s: None,
        };
        let trial = |work| Trial { model: ModelId::new("m").expect("valid"), work, patience_s: 60 };
        assert_eq!(trial(Work::Speed(work)).check(), Ok(()));
        for (wrong, said) in [
            (SpeedWork { streams: 0, ..work }, "streams is 0, and must be between 1 and 64"),
            (SpeedWork { output_tokens: TOKENS + 1, ..work }, "output_tokens is 1048577"),
            (SpeedWork { repetitions: 101, ..work }, "repetitions is 101"),
            (SpeedWork { soak_s: Some(0), ..work }, "soak_s is 0"),
        ] {
            let problem = trial(Work::Speed(wrong)).check().expect_err("out of bounds").to_string();
            assert!(problem.starts_with(said), "{problem}");
        }
        let finding = |suite: &str, passed, tried| Finding { suite: suite.into(), passed, tried };
        for (finding, field) in [
            (finding("mmlu", 2, 1), "passed"),
            (finding("mmlu", 0, 0), "tried"),
            (finding(&"x".repeat(SUITE + 1), 1, 1), "bytes of a suite's name"),
        ] {
            let problem = trial(Work::Keep(KeepWork { findings: vec![finding] })).check();
            assert_eq!(problem.expect_err("out of bounds").field, field);
        }
        assert_eq!(trial(Work::Keep(KeepWork { findings: vec![finding("mmlu", 1, 1)] })).check(), Ok(()));
        let nothing = Work::Ask(AskWork { streams: 1, questions: vec![] });
        assert!(trial(nothing).check().is_err_and(|problem| problem.field == "questions"));
    }
}
