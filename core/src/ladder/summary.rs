//! A rung in figures. Nothing is guessed: what was not measured is `None`, and no figure is NaN.

use super::cells::{CellSummary, Soak, degrees, seconds, soak, summaries};
use super::figures::{Figure, Times};
use super::record::{Answered, Mark, Outcome, Rung};
use crate::id::ModelId;
use crate::statistics::{Share, sorted};
use crate::trial::{Run, Sample};
use crate::units::Bytes;
use crate::verdict::{Answer, Verdict, judge};
use serde::Serialize;
use std::collections::BTreeSet;

/// One rung in figures. `null` = not known.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RungSummary {
    /// The model.
    pub model: ModelId,
    /// Its size in words.
    pub label: String,
    /// Done, skipped or failed. A rung that is told to be done and of which nothing was measured has failed.
    pub outcome: Outcome,
    /// Generated tokens each second of one request.
    pub decode: Option<Figure>,
    /// Prompt tokens read each second.
    pub prompt: Option<Figure>,
    /// Seconds to the first content.
    pub ttft: Option<Times>,
    /// Seconds to the end: of questions, where some were asked.
    pub response: Option<Times>,
    /// What these four are of: `512:128 tokens, 1 stream` or `questions`.
    pub measured_by: String,
    /// Every work that was measured.
    pub cells: Vec<CellSummary>,
    /// What the answers are worth; `null` = none was asked for.
    pub answers: Option<AnswerSummary>,
    /// Graphics memory that the load took.
    pub vram_taken: Option<Bytes>,
    /// Main memory that the load took.
    pub ram_taken: Option<Bytes>,
    /// The most graphics memory in use, all programs together.
    pub vram_peak: Option<Bytes>,
    /// What speaks against all requests of [`RungSummary::measured_by`]: then its speed is not that of the model.
    pub marks: BTreeSet<Mark>,
    /// Watts of the graphics processors, on average, under the work of [`RungSummary::measured_by`].
    pub watts: Option<f64>,
    /// Joules for each generated token of that work.
    pub joules_per_token: Option<f64>,
    /// Degrees Celsius before the load, else at the first look.
    pub start_temperature: Option<f64>,
    /// At the last look.
    pub end_temperature: Option<f64>,
    /// At most.
    pub max_temperature: Option<f64>,
    /// Seconds under work, looked at or not.
    pub seconds: f64,
    /// Seconds that the machine was slowed down.
    pub throttled_s: Option<f64>,
    /// The soak.
    pub soak: Option<Soak>,
}

/// What answers are worth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswerSummary {
    /// Those without a fault of form, of all, with the interval.
    pub success: Share,
    /// Without text.
    pub empty: u64,
    /// In circles.
    pub repeated: u64,
    /// No text of any language.
    pub gibberish: u64,
    /// That went on when they had to end.
    pub endless: u64,
    /// That stop before their end.
    pub cut: u64,
    /// No answer at all: an error.
    pub failed: u64,
    /// Words of answers that are not empty.
    pub words: Option<Figure>,
}

/// The figures of `rung`.
#[must_use]
pub fn summarise(rung: &Rung) -> RungSummary {
    let cells = summaries(&rung.cells);
    // Fewest streams, shortest prompt: what every rung can do.
    let best = cells.iter().find(|cell| cell.decode.is_some()).or(cells.first());
    let asked = || rung.answers.iter().map(|answer| &answer.run).filter(|run| run.error.is_none());
    // Imported rungs read and generate in works of their own.
    let reading =
        best.filter(|best| best.prompt.is_none()).and(cells.iter().find(|cell| cell.prompt.is_some()));
    let read_by = reading.map(|cell| format!("; prompts by {}", words_of(cell))).unwrap_or_default();
    let measured_by = best.map_or_else(|| "questions".into(), words_of) + &read_by;
    let or_asked = |decode: Option<Figure>, of: fn(&Run) -> Option<f64>| {
        decode.or_else(|| Figure::of(asked().filter_map(of)).filter(|_| best.is_none()))
    };
    let ttft = best.and_then(|cell| cell.ttft);
    let (start, end, max) = temperatures(rung);
    RungSummary {
        model: rung.model.clone(),
        label: rung.label.clone(),
        outcome: outcome(rung),
        decode: or_asked(best.and_then(|cell| cell.decode), Run::decode),
        prompt: or_asked(reading.or(best).and_then(|cell| cell.prompt), Run::prefill),
        ttft: ttft.or_else(|| Times::of(asked().filter_map(|run| run.ttft_s)).filter(|_| best.is_none())),
        response: Times::of(asked().map(|run| run.total_s)).or(best.and_then(|cell| cell.response)),
        measured_by,
        answers: answers(&rung.answers),
        vram_taken: taken(rung, |sample| sample.vram_used),
        ram_taken: taken(rung, |sample| sample.ram_used),
        vram_peak: looks(rung).filter_map(|sample| sample.vram_used).max(),
        marks: best.map(|cell| cell.marks.iter().copied().collect()).unwrap_or_default(),
        watts: best.and_then(|cell| cell.watts),
        joules_per_token: best.and_then(|cell| cell.joules_per_token),
        start_temperature: start,
        end_temperature: end,
        max_temperature: max,
        seconds: rung.cells.iter().filter_map(seconds).fold(0.0, |sum: f64, more| (sum + more).min(f64::MAX)),
        throttled_s: throttled(rung),
        soak: soak(&rung.cells),
        cells,
    }
}

fn words_of(cell: &CellSummary) -> String {
    let (shape, plural) = (cell.shape, if cell.streams == 1 { "" } else { "s" });
    let warm = if cell.is_warm { ", prompt in the cache" } else { "" };
    format!("{}:{} tokens, {} stream{plural}{warm}", shape.prompt, shape.output, cell.streams)
}

fn outcome(rung: &Rung) -> Outcome {
    let counts = |run: &Run| !run.warm_up && run.error.is_none();
    let measured = rung.cells.iter().any(|cell| cell.runs.iter().any(counts));
    match &rung.outcome {
        Outcome::Done if !measured && rung.answers.is_empty() => {
            let failed = rung.cells.iter().flat_map(|cell| &cell.runs).filter(|run| run.error.is_some());
            Outcome::Failed(match failed.count() {
                0 => "nothing was measured".into(),
                failed => format!("nothing was measured: {failed} requests failed"),
            })
        }
        Outcome::Done => Outcome::Done,
        Outcome::Skipped(why) => Outcome::Skipped(why.clone()),
        Outcome::Failed(why) => Outcome::Failed(why.clone()),
        Outcome::Absent(why) => Outcome::Absent(why.clone()),
    }
}

fn answers(all: &[Answered]) -> Option<AnswerSummary> {
    let (mut good, mut empty, mut repeated, mut gibberish) = (0, 0, 0, 0);
    let (mut endless, mut cut, mut failed) = (0, 0, 0);
    for answer in all {
        if answer.run.error.is_some() {
            failed += 1;
            continue;
        }
        let count = match verdict(answer) {
            Verdict::Good => &mut good,
            Verdict::Empty(_) => &mut empty,
            Verdict::Cut(_) => &mut cut,
            Verdict::Repeated(_) => &mut repeated,
            Verdict::Gibberish(_) => &mut gibberish,
            Verdict::Endless(_) => &mut endless,
        };
        *count += 1;
    }
    let texts =
        all.iter().map(|answer| answer.run.text.split_whitespace().count()).filter(|words| *words > 0);
    let words = Figure::of(texts.map(|words| words as f64));
    let success = Share::wilson(good, all.len() as u64)?;
    Some(AnswerSummary { success, empty, repeated, gibberish, endless, cut, failed, words })
}

/// The judge's word on an answer.
#[must_use]
pub fn verdict(answered: &Answered) -> Verdict {
    let run = &answered.run;
    let answer = Answer {
        text: &run.text,
        finish_reason: run.finish_reason.as_deref(),
        completion_tokens: run.output_tokens,
        // A list of calls, or the whole answer with one in it.
        tool_call: run
            .raw
            .as_deref()
            .is_some_and(|raw| raw.starts_with('[') || raw.contains("\"tool_calls\"")),
        reasoning: run.reasoning.as_deref(),
    };
    judge(&answer, answered.expected)
}

/// `None` where less is in use after the load: something else went meanwhile.
fn taken(rung: &Rung, of: impl Fn(&Sample) -> Option<Bytes>) -> Option<Bytes> {
    of(&rung.after)?.0.checked_sub(of(&rung.before)?.0).map(Bytes)
}

fn looks(rung: &Rung) -> impl Iterator<Item = &Sample> {
    [&rung.before, &rung.after].into_iter().chain(rung.cells.iter().flat_map(|cell| &cell.samples))
}

/// At the start, at the end, at most.
fn temperatures(rung: &Rung) -> (Option<f64>, Option<f64>, Option<f64>) {
    let mut in_time: Vec<(usize, f64, f64)> = Vec::new();
    for (at, cell) in rung.cells.iter().enumerate() {
        let known = cell.samples.iter().filter_map(|sample| Some((at, sample.at_s, degrees(sample)?)));
        in_time.extend(known);
    }
    in_time.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.total_cmp(&b.2)));
    let at_rest = degrees(&rung.before).or_else(|| degrees(&rung.after));
    let start = at_rest.or_else(|| in_time.first().map(|look| look.2));
    let max = sorted(looks(rung).filter_map(degrees)).last().copied();
    (start, in_time.last().map(|look| look.2), max)
}

fn throttled(rung: &Rung) -> Option<f64> {
    let of = |cell: &super::record::Cell| {
        let known = cell.samples.iter().filter_map(|sample| sample.throttled);
        let (mut looks, mut slowed) = (0.0, 0.0);
        for is_slowed in known {
            looks += 1.0;
            slowed += if is_slowed { 1.0 } else { 0.0 };
        }
        (looks > 0.0).then_some(slowed / looks * seconds(cell)?)
    };
    let known: Vec<f64> = rung.cells.iter().filter_map(of).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>().min(f64::MAX))
}
