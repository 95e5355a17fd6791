//! Every figure of one rung, and what it answered.

use super::super::paint::{Look, bold};
use super::super::quantity::{UNKNOWN, bytes, context, known};
use super::super::table::{Cell, Rank, Table};
use super::{figure, formulas, number, said, times};
use mesh_core::ladder::{Mark, Outcome, Rung, RungSummary, Shape, summarise, verdict};

/// Characters of an answer that are shown; the record has all of it.
const SHOWN: usize = 600;

/// `4k:512`
pub(super) fn shape(shape: Shape) -> String {
    format!("{}:{}", context(shape.prompt), context(shape.output))
}

/// Everything about one rung.
pub(crate) fn rung(rung: &Rung, with_samples: bool, look: Look) -> String {
    let summary = summarise(rung);
    let mut lines = vec![head(rung, look)];
    match &summary.outcome {
        Outcome::Done => {}
        Outcome::Skipped(why) => lines.push(format!("skipped: {}", said(why, look))),
        Outcome::Failed(why) => lines.push(format!("failed: {}", said(why, look))),
        Outcome::Absent(why) => lines.push(format!("could not be fetched: {}", said(why, look))),
    }
    lines.extend(facts(rung, &summary, look));
    if !summary.cells.is_empty() {
        lines.push(String::new());
        lines.extend(table(&summary, look));
    }
    if with_samples {
        lines.push(samples(rung, look));
    }
    lines.push(String::new());
    lines.extend(formulas(look));
    lines.join("\n") + "\n"
}

fn head(rung: &Rung, look: Look) -> String {
    let subject = rung.subject.as_ref();
    let parts = [
        Some(look.text(&rung.label)),
        rung.quantisation.as_ref().map(|name| look.text(name)),
        rung.size.map(|size| bytes(size.0)),
        subject.map(|subject| look.text(&subject.build)),
        subject.map(|subject| look.text(&subject.device)),
        subject.and_then(|subject| subject.context).map(|tokens| format!("context {}", context(tokens))),
        rung.load_s.map(|seconds| format!("loaded in {} s", number(seconds))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{}   {}", bold(rung.model.as_str(), look.color), parts.join("   "))
}

fn facts(rung: &Rung, summary: &RungSummary, look: Look) -> Vec<String> {
    let mut facts = Vec::new();
    let memory = [(summary.vram_taken, "graphics memory"), (summary.ram_taken, "main memory")];
    let taken = memory.iter().filter_map(|(taken, pool)| Some(format!("{} of {pool}", bytes((*taken)?.0))));
    let taken: Vec<String> = taken.collect();
    if !taken.is_empty() {
        facts.push(format!("takes {}", taken.join(" and ")));
    }
    let degrees = |value: Option<f64>| known(value, |value| format!("{value:.0}"));
    if summary.max_temperature.is_some() {
        let (start, end) = (degrees(summary.start_temperature), degrees(summary.end_temperature));
        let (most, unit) = (degrees(summary.max_temperature), look.sign("°C", "C"));
        let slowed = summary.throttled_s.map(|seconds| format!(", slowed down for {} s", number(seconds)));
        facts.push(format!(
            "{start} {} {end} {unit}, at most {most} {unit}{}",
            look.arrow(),
            slowed.unwrap_or_default()
        ));
    }
    if let Some(soak) = summary.soak {
        let (first, last, share) = (number(soak.first), number(soak.last), soak.share * 100.0);
        facts.push(format!(
            "soak of {:.0} s: {first} {} {last} tok/s ({share:.0} %)",
            soak.seconds,
            look.arrow()
        ));
    }
    if let Some(answers) = &summary.answers {
        let share = answers.success;
        let (low, high) = (share.low * 100.0, share.high * 100.0);
        let mut said =
            format!("{} of {} answers good ({low:.0}{}{high:.0} %)", share.of, share.n, look.sign("–", "-"));
        let counts = [
            (answers.empty, "empty"),
            (answers.repeated, "in circles"),
            (answers.gibberish, "gibberish"),
            (answers.endless, "without an end"),
            (answers.cut, "cut short"),
            (answers.failed, "failed"),
        ];
        for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
            said += &format!(", {count} {what}");
        }
        facts.push(said);
    }
    let marked = rung.cells.iter().filter(|cell| !cell.marks.is_empty()).count();
    if marked > 0 {
        facts.push(format!(
            "{marked} of {} measurements were slowed down, disturbed or beside busy programs",
            rung.cells.len()
        ));
    }
    facts
}

fn table(summary: &RungSummary, look: Look) -> Vec<String> {
    let mut table = Table::default()
        .left("PROMPT:ANSWER", Rank::Essential)
        .right("STREAMS", Rank::Essential)
        .right("N", Rank::Important)
        .right("PROMPT t/s", Rank::Important)
        .right("GEN t/s", Rank::Essential)
        .right("TOTAL t/s", Rank::Useful)
        .right("SLOWER", Rank::Useful)
        .right("TTFT p50/p95", Rank::Important)
        .right("TPOT", Rank::Useful)
        .right("J/TOKEN", Rank::Extra)
        .left("MARKS", Rank::Useful);
    for cell in &summary.cells {
        let marks: Vec<&str> = cell
            .marks
            .iter()
            .map(|mark| match mark {
                Mark::Throttled => "throttled",
                Mark::Disturbed => "disturbed",
                Mark::Busy => "busy",
            })
            .collect();
        let counted = match cell.failed {
            0 => cell.counted.to_string(),
            failed => format!("{}, {failed} failed", cell.counted),
        };
        table.row([
            Cell::text(shape(cell.shape)),
            Cell::text(cell.streams.to_string()),
            Cell::text(counted),
            Cell::text(figure(cell.prompt, look)),
            Cell::text(figure(cell.decode, look)),
            Cell::text(figure(cell.total, look)),
            Cell::text(known(cell.degradation, |part| format!("{:.0} %", part * 100.0))),
            Cell::text(times(cell.ttft)),
            Cell::text(known(cell.tpot, |tpot| format!("{:.1} ms", tpot.median * 1000.0))),
            Cell::text(known(cell.joules_per_token, number)),
            Cell::text(if marks.is_empty() { UNKNOWN.to_owned() } else { marks.join(", ") }),
        ]);
    }
    table.lines(look)
}

/// Each question with its answer and what it is worth.
pub(super) fn samples(rung: &Rung, look: Look) -> String {
    let mut lines = Vec::new();
    for answer in &rung.answers {
        let found = verdict(answer);
        let why = found.why().map(|why| format!(" ({})", said(why, look))).unwrap_or_default();
        let title = format!("{} / {}: {}{why}", rung.model, look.text(&answer.question), found.word());
        lines.push(format!("\n{}", bold(&title, look.color)));
        let text = match &answer.run.error {
            Some(error) => format!("failed: {error}"),
            None if answer.run.text.trim().is_empty() => "(nothing)".to_owned(),
            None => answer.run.text.trim().to_owned(),
        };
        let (shown, rest): (String, usize) =
            (text.chars().take(SHOWN).collect(), text.chars().skip(SHOWN).count());
        lines.extend(shown.lines().map(|line| format!("  {}", look.text(line))));
        if rest > 0 {
            lines.push(format!("  [{rest} more characters]"));
        }
    }
    lines.join("\n")
}
