//! A machine under stress: what each model did alone, beside others and during downloads, how warm it became, and which
//! models can live together.

use super::ladder::{figure, number, said, times};
use super::paint::{Look, Paint, bold};
use super::quantity::{bytes, context, known, moment};
use super::table::{Cell, Rank, Table};
use super::wrap::wrapped;
use crate::exit::Failure;
use mesh_core::id::ModelId;
use mesh_core::stress::{Company, Course, Download, Fetched, Findings, Livable, Record, Row, analyse};
use serde::Serialize;

/// The record with what it means.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    record: &'a Record,
    findings: &'a Findings,
}

/// What `stress --json` prints. The record names its schema.
pub(crate) fn document(record: &Record, findings: &Findings) -> String {
    serde_json::to_string_pretty(&Document { record, findings }).expect("plain data") + "\n"
}

/// One machine under stress.
pub(crate) fn page(record: &Record, findings: &Findings, look: Look) -> String {
    let settings = record.settings;
    let builds = record.models.iter().filter_map(|rung| rung.subject.as_ref());
    let parts = [
        builds.map(|subject| look.text(&subject.build)).next(),
        Some(format!("{}:{} tokens", context(settings.prompt), context(settings.output))),
        Some(format!("{} s each", settings.seconds)),
        Some(format!("seed {}", settings.seed)),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let mut lines = vec![format!("{}   {}", bold(record.node.as_str(), look.color), parts.join("   "))];
    for left in &record.left_out {
        lines.extend(wrapped(&format!("left out {}: ", left.model), &said(&left.why, look), look));
    }
    lines.push(String::new());
    lines.extend(table(&findings.rows, look));
    lines.push(String::new());
    lines.extend(warmth(&findings.course, look));
    lines.extend(record.downloads.iter().map(|download| fetched(download, look)));
    for row in &findings.rows {
        if let Some(broke) = &row.broke {
            lines.extend(wrapped(&format!("{} broke: ", row.model), &said(broke, look), look));
        }
    }
    lines.push(String::new());
    for company in &findings.companies {
        lines.extend(verdict(company, look));
    }
    if findings.companies.is_empty() {
        lines.push("Nothing worked together, so nothing can be said of that.".into());
    }
    if let Some(stopped) = &record.stopped {
        lines.push(format!("Not all was done: {}.", said(stopped, look)));
    }
    let formulas = [
        "ANSWER = request sent to its end; p50 and p95 by nearest rank",
        "LONGER = ANSWER p50 / ANSWER p50 alone - 1; SLOWER = 1 - GEN t/s / GEN t/s alone",
    ];
    lines.push(String::new());
    lines.extend(formulas.iter().map(|formula| format!("# {formula}")));
    lines.join("\n") + "\n"
}

/// A kept stress test in a list.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Listed {
    id: String,
    node: Option<String>,
    started_unix_ms: Option<u64>,
    models: Vec<String>,
    /// The largest company that can live together.
    together: Vec<String>,
    /// complete, stopped, running, unfinished, unreadable
    state: &'static str,
    why: Option<String>,
}

impl Listed {
    /// What was read of `id`.
    pub(crate) fn of(read: Result<Record, Failure>, id: String, runs: bool) -> Self {
        let record = match read {
            Ok(record) => record,
            Err(failure) => {
                let why = failure.cause.or(Some(failure.what));
                let (models, together) = (Vec::new(), Vec::new());
                return Self {
                    id,
                    node: None,
                    started_unix_ms: None,
                    models,
                    together,
                    state: "unreadable",
                    why,
                };
            }
        };
        let findings = analyse(&record);
        let can = |company: &&Company| matches!(company.can, Livable::Yes | Livable::Less);
        let largest = findings.companies.iter().filter(can).max_by_key(|company| company.models.len());
        let names = |models: &[ModelId]| models.iter().map(ToString::to_string).collect::<Vec<String>>();
        Self {
            id,
            node: Some(record.node.to_string()),
            started_unix_ms: Some(record.started_unix_ms),
            models: record.models.iter().map(|rung| rung.model.to_string()).collect(),
            together: largest.map(|company| names(&company.models)).unwrap_or_default(),
            state: match (&record.stopped, record.ended_unix_ms) {
                (Some(_), _) => "stopped",
                (None, Some(_)) => "complete",
                (None, None) if runs => "running",
                (None, None) => "unfinished",
            },
            why: record.stopped,
        }
    }
}

/// All kept stress tests, one line each.
pub(crate) fn list(all: &[Listed], look: Look) -> String {
    let mut table = Table::default()
        .left("ID", Rank::Essential)
        .left("NODE", Rank::Essential)
        .left("STARTED", Rank::Useful)
        .left("STATE", Rank::Important)
        .left("MODELS", Rank::Important)
        .left("LIVE TOGETHER", Rank::Essential)
        .left("WHY", Rank::Extra);
    for one in all {
        let text = |text: &Option<String>| Cell::text(known(text.as_ref(), |text| said(text, look)));
        let paint = if one.state == "unreadable" { Paint::Red } else { Paint::Plain };
        table.row([
            Cell::text(look.text(&one.id)),
            text(&one.node),
            Cell::text(known(one.started_unix_ms, moment)),
            Cell::Text(one.state.to_owned(), paint),
            Cell::List(one.models.clone()),
            Cell::List(one.together.clone()),
            text(&one.why),
        ]);
    }
    table.lines(look).join("\n") + "\n"
}

fn table(rows: &[Row], look: Look) -> Vec<String> {
    let mut table = Table::default()
        .left("MODEL", Rank::Essential)
        .left("BESIDE", Rank::Essential)
        .right("N", Rank::Useful)
        .right("FAILED", Rank::Important)
        .right("ANSWER p50/p95", Rank::Important)
        .right("LONGER", Rank::Essential)
        .right("TTFT p50/p95", Rank::Extra)
        .right("GEN t/s", Rank::Important)
        .right("SLOWER", Rank::Important);
    for row in rows {
        let failed = if row.failed > 0 { Paint::Red } else { Paint::Plain };
        table.row([
            Cell::text(row.model.as_str()),
            Cell::List(beside(row)),
            Cell::text(row.n.to_string()),
            Cell::Text(row.failed.to_string(), failed),
            Cell::text(times(row.response)),
            Cell::text(percent(row.slower)),
            Cell::text(times(row.ttft)),
            Cell::text(figure(row.decode, look)),
            Cell::text(percent(row.lost)),
        ]);
    }
    table.lines(look)
}

/// Others at work, and how many files.
fn beside(row: &Row) -> Vec<String> {
    let others = row.beside.iter().map(ToString::to_string);
    let files = match row.fetching.len() {
        0 => None,
        1 => Some("1 download".to_owned()),
        count => Some(format!("{count} downloads")),
    };
    // First, for the end of a list may be cut.
    files.into_iter().chain(others).collect()
}

/// `+80 %`
fn percent(part: Option<f64>) -> String {
    // What rounds to nothing has no sign of its own.
    known(part, |part| format!("{:+.0} %", (part * 100.0).round() + 0.0))
}

/// `61 → 78 °C, at most 80 °C, slowed down for 12 s   ▁▂▅▇█`
fn warmth(course: &Course, look: Look) -> Vec<String> {
    let slowed = match course.throttled_s {
        None => "whether it was slowed down is not known".to_owned(),
        Some(0) => "never slowed down".to_owned(),
        Some(seconds) => format!("slowed down for {seconds} s"),
    };
    let (Some(start), Some(end), Some(max)) = (course.start, course.end, course.max) else {
        return vec![format!("temperature: no sensor told; {slowed}")];
    };
    let unit = look.sign("°C", "C");
    let words = format!(
        "temperature: {start:.0} {} {end:.0} {unit}, at most {max:.0} {unit}, in {} s; {slowed}",
        look.arrow(),
        number(course.seconds)
    );
    vec![words, format!("  {}", spark(&course.points, look))]
}

/// The course as a line: from its lowest to its highest.
fn spark(points: &[Option<f64>], look: Look) -> String {
    let signs: Vec<char> = look.sign("▁▂▃▄▅▆▇█", "_.-=+*#@").chars().collect();
    let known = || points.iter().flatten().copied();
    let (low, high) = (known().fold(f64::INFINITY, f64::min), known().fold(f64::NEG_INFINITY, f64::max));
    let sign = |point: &Option<f64>| {
        let Some(degrees) = point else { return ' ' };
        let share = if high > low { (degrees - low) / (high - low) } else { 0.0 };
        let place = (share * (signs.len() - 1) as f64).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 7")]
        let place = place as usize;
        signs[place.min(signs.len() - 1)]
    };
    points.iter().map(sign).collect::<String>().trim_end().to_owned()
}

fn fetched(download: &Download, look: Look) -> String {
    let rate = if download.seconds > 0.0 { download.bytes.0 as f64 / download.seconds } else { 0.0 };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and less than the bytes"
    )]
    let rate = bytes(rate as u64);
    let came = format!("{} in {} s, {rate}/s", bytes(download.bytes.0), number(download.seconds));
    match &download.state {
        Fetched::Running => format!("fetched {}: {came}, until the models had ended", download.model),
        Fetched::Done => format!("fetched {}: {came}, and then it was there", download.model),
        Fetched::Failed(why) => format!("not fetched {}: {}", download.model, said(why, look)),
    }
}

fn verdict(company: &Company, look: Look) -> Vec<String> {
    let names: Vec<&str> = company.models.iter().map(ModelId::as_str).collect();
    let names = names.join(" + ");
    let (sign, paint, words) = match company.can {
        Livable::Yes => (look.sign("✓", "ok"), Paint::Green, "can live together"),
        Livable::Less => (look.sign("▲", "!"), Paint::Yellow, "can live together for less"),
        Livable::No => (look.sign("✕", "x"), Paint::Red, "cannot live together"),
        Livable::Unknown => (look.sign("–", "-"), Paint::Dim, "are not known to live together"),
    };
    let for_modes = company.models.iter().zip(&company.modes).filter(|(_, modes)| !modes.is_empty());
    let for_modes = for_modes.map(|(model, modes)| {
        let modes: Vec<&str> = modes.iter().map(mesh_core::id::ModeName::as_str).collect();
        format!("{model} for {}", modes.join(", "))
    });
    let why = company.why.iter().map(|why| said(why, look));
    let reasons: Vec<String> = match company.can {
        Livable::Yes | Livable::Less => for_modes.chain(why).collect(),
        Livable::No | Livable::Unknown => why.collect(),
    };
    let reasons = if reasons.is_empty() { ".".to_owned() } else { format!(": {}", reasons.join("; ")) };
    let mut lines = wrapped(&format!("{sign} "), &format!("{names} {words}{reasons}"), look);
    if let Some(first) = lines.first_mut() {
        *first = first.replacen(sign, &paint.on(sign, look.color), 1);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_course_is_drawn_from_its_lowest_to_its_highest() {
        let look = |unicode| Look { width: None, color: false, unicode };
        let points = [Some(60.0), None, Some(65.0), Some(70.0), Some(67.0), None];
        assert_eq!(spark(&points, look(true)), "▁ ▅█▆");
        assert_eq!(spark(&points, look(false)), "_ +@*");
        assert_eq!(spark(&[Some(60.0), Some(60.0)], look(true)), "▁▁");
        assert_eq!(spark(&[], look(true)), "");
    }

    #[test]
    fn unknown_parts_are_dashes() {
        assert_eq!([Some(0.8), Some(-0.004), None].map(percent), ["+80 %", "+0 %", "-"]);
    }
}
