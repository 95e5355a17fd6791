//! The ladder as a table, the steps between its rungs, and every figure of each.

use super::super::ladder::{figure, number, times};
use super::super::quantity::{UNKNOWN, bytes, context, known};
use super::document::{Block, Entry, Grid, Section, Tone};
use super::{Climb, Report, WIDE};
use mesh_core::ladder::{AnswerSummary, Cause, CellSummary, Figure, Mark, RungSummary, Step, Times};

/// A row for each rung: size, speed, answers, the step from the one before, and the verdict.
pub(super) fn ladder(report: &Report<'_>) -> Section {
    let mut blocks = Vec::new();
    for climb in &report.climbs {
        if report.is_comparison() {
            blocks.push(Block::Heading(climb.name.clone()));
        }
        if climb.record.rungs.is_empty() {
            blocks.push(Block::words("No model was tried."));
            continue;
        }
        blocks.push(Block::Table(table(climb)));
        let steps = &climb.analysis.steps;
        let told = steps.iter().map(|step| format!("{} → {}: {}", step.from, step.to, step.why));
        blocks.push(Block::List(told.collect()));
        let bound = climb.analysis.pattern.split("; ").next().filter(|said| said.starts_with("up to "));
        blocks.extend(bound.map(|said| Block::words(format!("{}.", capital(said)))));
    }
    blocks.push(Block::words(
        "In brackets n. t/s are generated tokens each second of one request, RESPONSE is the median time to the end of an answer. \
         STEP is the change of t/s from the model before, with what is behind it where that is not the size. SUCCESS has its 95 % \
         interval.",
    ));
    Section { anchor: "ladder", title: "The ladder", blocks }
}

fn table(climb: &Climb<'_>) -> Grid {
    let mut grid = Grid::default()
        .left("RUNG")
        .left("MODEL")
        .right("SIZE")
        .right("t/s")
        .right("TTFT p50/p95")
        .right("RESPONSE")
        .right("SUCCESS")
        .right("STEP")
        .right("TEMP MAX")
        .left("VERDICT");
    for (rung, summary, remark) in climb.rungs() {
        let tone = match () {
            () if remark.starts_with('★') => Tone::Good,
            () if remark.starts_with("avoid") || remark.starts_with("failed") => Tone::Bad,
            () if remark.starts_with("skipped") || remark.starts_with("could not") => Tone::Weak,
            () => Tone::Plain,
        };
        grid.row([
            Entry::from(rung.label.as_str()),
            rung.model.as_str().into(),
            known(rung.size, |size| bytes(size.0)).into(),
            counted(summary.decode).into(),
            timed(summary.ttft).into(),
            known(summary.response, |times| format!("{} s ({})", number(times.p50), times.n)).into(),
            known(summary.answers.as_ref(), success).into(),
            known(climb.step_to(rung), step).into(),
            degrees(summary.max_temperature).into(),
            Entry::new(remark, tone),
        ]);
    }
    grid
}

/// `54.7 ± 0.7 (5)`
fn counted(value: Option<Figure>) -> String {
    known(value, |value| format!("{} ({})", figure(Some(value), WIDE), value.n))
}

/// `0.05/0.09 s (5)`
fn timed(value: Option<Times>) -> String {
    known(value, |value| format!("{} ({})", times(Some(value)), value.n))
}

/// `5 of 5 (57–100 %)`
fn success(answers: &AnswerSummary) -> String {
    let share = answers.success;
    format!("{} of {} ({:.0}–{:.0} %)", share.of, share.n, share.low * 100.0, share.high * 100.0)
}

/// `-34 %`, and what is behind it where that is not the size.
fn step(step: &Step) -> String {
    let why = match step.cause {
        Cause::Noise => ", noise",
        Cause::SameSize => ", same size",
        Cause::BeyondSize if step.change > 0.0 => ", less than size gives",
        Cause::BeyondSize => ", beyond size",
        Cause::Size | Cause::Unknown => "",
    };
    format!("{:+.0} %{why}", step.change * 100.0)
}

fn degrees(value: Option<f64>) -> String {
    known(value, |degrees| format!("{degrees:.0} °C"))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// A table for each rung of which speeds were measured.
pub(super) fn cells(report: &Report<'_>) -> Section {
    let mut blocks = Vec::new();
    for climb in &report.climbs {
        for (rung, summary, _) in climb.rungs().filter(|(_, summary, _)| !summary.cells.is_empty()) {
            let of = if report.is_comparison() { format!(" on {}", climb.name) } else { String::new() };
            blocks.push(Block::Heading(format!("{}{of}", rung.model)));
            blocks.push(Block::Table(works(&summary.cells)));
            blocks.extend(more(summary).map(Block::Words));
        }
    }
    if blocks.is_empty() {
        blocks.push(Block::words(
            "No speeds were measured for themselves: all figures are those of the questions.",
        ));
    }
    Section { anchor: "figures", title: "Every figure", blocks }
}

fn works(cells: &[CellSummary]) -> Grid {
    let mut grid = Grid::default()
        .left("PROMPT:ANSWER")
        .right("STREAMS")
        .right("n")
        .right("PROMPT t/s")
        .right("t/s")
        .right("TOTAL t/s")
        .right("SLOWER")
        .right("TTFT p50/p95")
        .right("TPOT")
        .right("RESPONSE p50/p95")
        .right("TEMP MAX")
        .right("WATTS")
        .right("J/TOKEN")
        .left("MARKS");
    for cell in cells {
        let warm = if cell.is_warm { ", in the cache" } else { "" };
        grid.row([
            Entry::from(format!("{}:{}{warm}", context(cell.shape.prompt), context(cell.shape.output))),
            cell.streams.to_string().into(),
            left_out(cell).into(),
            figure(cell.prompt, WIDE).into(),
            figure(cell.decode, WIDE).into(),
            figure(cell.total, WIDE).into(),
            known(cell.degradation, |part| format!("{:.0} %", part * 100.0)).into(),
            times(cell.ttft).into(),
            known(cell.tpot, |tpot| format!("{:.1} ms", tpot.median * 1000.0)).into(),
            times(cell.response).into(),
            degrees(cell.max_temperature).into(),
            known(cell.watts, number).into(),
            known(cell.joules_per_token, number).into(),
            Entry::new(marks(cell), if cell.marks.is_empty() { Tone::Weak } else { Tone::Bad }),
        ]);
    }
    grid
}

/// How many requests count, and how many do not.
fn left_out(cell: &CellSummary) -> String {
    let more = [(cell.failed, "failed"), (cell.left_out, "left out")];
    let more = more.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    format!("{}{}", cell.counted, more.collect::<String>())
}

pub(super) fn marks(cell: &CellSummary) -> String {
    let words: Vec<&str> = cell
        .marks
        .iter()
        .map(|mark| match mark {
            Mark::Throttled => "throttled",
            Mark::Disturbed => "disturbed",
            Mark::Busy => "busy",
        })
        .collect();
    if words.is_empty() { UNKNOWN.into() } else { words.join(", ") }
}

/// What else is known of a rung: heat and a soak.
fn more(summary: &RungSummary) -> Option<String> {
    let heat = summary.max_temperature.map(|most| {
        let slowed = summary.throttled_s.map(|seconds| match seconds {
            0.0 => ", never slowed down".to_owned(),
            _ => format!(", slowed down for {} s", number(seconds)),
        });
        format!(
            "Temperature {} at the start, {} at the end, {most:.0} °C at most{} in {:.0} s under work.",
            degrees(summary.start_temperature),
            degrees(summary.end_temperature),
            slowed.unwrap_or_else(|| ", not known whether slowed down".into()),
            summary.seconds
        )
    });
    let soak = summary.soak.map(|soak| {
        format!(
            "Soak of {:.0} s: {} → {} t/s ({:.0} %).",
            soak.seconds,
            number(soak.first),
            number(soak.last),
            soak.share * 100.0
        )
    });
    let told: Vec<String> = [heat, soak].into_iter().flatten().collect();
    (!told.is_empty()).then(|| told.join(" "))
}
