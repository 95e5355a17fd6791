//! Evaluations: the figures with their n and interval, and two of them beside each other. `wrong`: single items.

mod wrong;

pub(crate) use wrong::wrong;

use super::ladder::said;
use super::paint::{Look, Paint, bold};
use super::quantity::{UNKNOWN, bytes, moment, seconds};
use super::table::{Cell, Rank, Table};
use crate::command::{Judged, JudgedSuite};
use crate::exit::Failure;
use mesh_core::exam::{Comparison, GateVerdict, Interval, Metric, Record, Report, Score, Sitting, Suite};
use serde::Serialize;

/// Reasons of failures that are shown.
const REASONS: usize = 3;

/// An evaluation in figures.
#[derive(Debug, Serialize)]
pub(crate) struct Reported<'a> {
    id: &'a str,
    node: &'a str,
    model: &'a str,
    quantisation: Option<&'a str>,
    baseline: bool,
    complete: bool,
    reports: Vec<Report>,
}

impl<'a> Reported<'a> {
    pub(crate) fn of(record: &'a Record) -> Self {
        Self {
            id: &record.id,
            node: record.node.as_str(),
            model: record.model.as_str(),
            quantisation: record.quantisation.as_deref(),
            baseline: record.baseline,
            complete: record.is_complete(),
            reports: record.sittings.iter().map(|sitting| sitting.run.report()).collect(),
        }
    }
}

/// Everything but single items.
pub(crate) fn page(record: &Record, look: Look) -> String {
    let mut table = scores_table("SUITE");
    let mut remarks = Vec::new();
    for sitting in &record.sittings {
        let report = sitting.run.report();
        rows(&mut table, sitting, report.suite.word(), &report.scores, look);
        remarks.extend(remarks_on(sitting, &report, look));
    }
    if !record.is_complete() {
        remarks.push(format!("it was ended early; to go on: meshctl eval run --resume {}", record.id));
    }
    if record.sittings.iter().any(|sitting| sitting.run.smoke) {
        remarks.push(
            "samples of the program: they show that it runs, and say nothing of the model (your own: --items DIR)"
                .into(),
        );
    }
    let remarks: String = remarks.iter().map(|remark| format!("# {remark}\n")).collect();
    format!("{}\n{}{remarks}", head(record, look), laid(table, look))
}

fn head(record: &Record, look: Look) -> String {
    let build = record.subject.as_ref().map(|subject| look.text(&subject.build));
    let context = record.subject.as_ref().and_then(|subject| subject.context);
    let parts = [
        record.quantisation.as_deref().map(|word| look.text(word)),
        record.size.map(|size| bytes(size.0)),
        Some(format!("on {}", record.node)),
        build,
        context.map(|tokens| format!("context {}", super::quantity::context(tokens))),
        Some(moment(record.started_unix_ms)),
        Some(record.id.clone()),
        record.baseline.then(|| "baseline".into()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{}   {}", bold(record.model.as_str(), look.color), parts.join("   "))
}

fn scores_table(first: &'static str) -> Table {
    Table::default()
        .left(first, Rank::Essential)
        .left("ASKED AS", Rank::Important)
        .right("SHOTS", Rank::Extra)
        .left("METRIC", Rank::Essential)
        .right("VALUE", Rank::Essential)
        .right("95 %", Rank::Essential)
        .right("N", Rank::Essential)
        .right("FAILED", Rank::Useful)
        .right("TIME", Rank::Extra)
}

fn rows(table: &mut Table, sitting: &Sitting, name: &str, scores: &[Score], look: Look) {
    let report = sitting.run.report();
    let failed =
        Cell::Text(report.failed.to_string(), if report.failed > 0 { Paint::Red } else { Paint::Plain });
    if scores.is_empty() {
        let metric = report.suite.metrics(report.variant).first().map_or(UNKNOWN, |metric| metric.word());
        table.row([
            Cell::text(look.text(name)),
            Cell::text(report.variant.word()),
            Cell::text(report.shots.to_string()),
            Cell::text(metric),
            Cell::text(UNKNOWN),
            Cell::text(UNKNOWN),
            Cell::text("0"),
            failed,
            Cell::text(UNKNOWN),
        ]);
        return;
    }
    for (number, score) in scores.iter().enumerate() {
        let of_first = |text: String| Cell::text(if number == 0 { text } else { String::new() });
        table.row([
            of_first(look.text(name)),
            of_first(report.variant.word().into()),
            of_first(report.shots.to_string()),
            Cell::text(score.metric.word()),
            Cell::text(value(score.metric, score.value)),
            Cell::text(interval(score.metric, score.interval, look)),
            Cell::text(score.n.to_string()),
            if number == 0 { failed.clone() } else { Cell::text("") },
            of_first(seconds(sitting.seconds)),
        ]);
    }
}

/// `65.0 %`, `17.98`.
fn value(metric: Metric, value: f64) -> String {
    if metric.is_share() {
        return format!("{:.1} %", value * 100.0);
    }
    match value {
        _ if metric == Metric::BitsPerByte => format!("{value:.4}"),
        huge if huge >= 1e6 => format!("{value:.2e}"),
        large if large >= 1000.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

fn interval(metric: Metric, interval: Option<Interval>, look: Look) -> String {
    let Some(Interval { low, high, .. }) = interval else { return UNKNOWN.into() };
    let dash = look.sign("–", "-");
    if metric.is_share() {
        return format!("{:.1}{dash}{:.1} %", low * 100.0, high * 100.0);
    }
    format!("{}{dash}{}", value(metric, low), value(metric, high))
}

/// What has to be known beside the figures.
fn remarks_on(sitting: &Sitting, report: &Report, look: Look) -> Vec<String> {
    let suite = report.suite.word();
    let mut remarks = Vec::new();
    if report.variant != report.suite.variants().first().copied().unwrap_or(report.variant) {
        remarks.push(format!(
            "{suite} was asked as {}: its figures cannot be compared with those of other ways",
            report.variant.word()
        ));
    }
    for (why, n) in report.failures.iter().take(REASONS) {
        remarks.push(format!("{suite}: {n} of {} failed: {}", report.asked, said(why, look)));
    }
    let mut counted = |n: u64, what: &str| {
        if n > 0 {
            remarks.push(format!("{suite}: {n} of {} {what}", report.asked));
        }
    };
    counted(report.missing, "were not asked yet");
    counted(report.cut, "answers ended for want of tokens");
    counted(
        sitting.clipped.len() as u64,
        "were longer than the model's context: their beginning was left out",
    );
    counted(report.twice, "are there twice and count once");
    remarks
}

/// The figures of each subject or activity.
pub(crate) fn groups(record: &Record, look: Look) -> String {
    let mut text = String::new();
    for sitting in &record.sittings {
        let groups = sitting.run.groups();
        if groups.is_empty() {
            continue;
        }
        let mut table = Table::default()
            .left("GROUP", Rank::Essential)
            .left("METRIC", Rank::Essential)
            .right("VALUE", Rank::Essential)
            .right("95 %", Rank::Essential)
            .right("N", Rank::Essential);
        for (name, scores) in &groups {
            // The one that gates look at; the others are in the JSON.
            for score in scores.iter().take(1) {
                table.row([
                    Cell::text(look.text(name)),
                    Cell::text(score.metric.word()),
                    Cell::text(value(score.metric, score.value)),
                    Cell::text(interval(score.metric, score.interval, look)),
                    Cell::text(score.n.to_string()),
                ]);
            }
        }
        text += &format!("\n{}\n{}", bold(sitting.run.suite.word(), look.color), laid(table, look));
    }
    text
}

/// Two evaluations, suite by suite.
pub(crate) fn comparison(judged: &Judged, look: Look) -> String {
    let side = |name: &str, side: &crate::command::Side| {
        let quantisation =
            side.quantisation.as_deref().map(|word| format!(" {}", look.text(word))).unwrap_or_default();
        format!("{name:<7} {}   {}{quantisation} on {}\n", side.id, side.model, side.node)
    };
    let mut text = side("before", &judged.before) + &side("now", &judged.now);
    for one in &judged.suites {
        text += &suite(one, look);
    }
    if !judged.left_out.is_empty() {
        let words: Vec<&str> = judged.left_out.iter().map(|suite| suite.word()).collect();
        text += &format!("# in one of them only: {}\n", words.join(", "));
    }
    if judged.suites.iter().filter_map(|one| one.comparison.as_ref()).any(|comparison| comparison.smoke) {
        text += "# these items only show that an evaluation runs\n";
    }
    text
}

fn suite(judged: &JudgedSuite, look: Look) -> String {
    let name = bold(judged.suite.word(), look.color);
    let mut text = match (&judged.comparison, &judged.why) {
        (Some(comparison), _) => format!("\n{name}   {}\n", said(&comparison.sentence(), look)),
        (None, why) => {
            let why = why.as_deref().unwrap_or("no reason was told");
            format!("\n{name}   cannot be compared: {}\n", said(why, look))
        }
    };
    text += &judged.comparison.as_ref().map(left_out).unwrap_or_default();
    let (word, why) = match &judged.gate {
        None => return text,
        Some(GateVerdict::Pass { why }) => ("pass", why),
        Some(GateVerdict::Regressed { why }) => ("regressed", why),
        Some(GateVerdict::CannotTell { why, .. }) => ("cannot tell", why),
    };
    // The sentence of the comparison stands above.
    let sentence = judged.comparison.as_ref().map(Comparison::sentence).unwrap_or_default();
    let rest = why.replace(&sentence, "");
    text + &format!("  gate: {word}. {}\n", said(rest.trim(), look))
}

fn left_out(comparison: &Comparison) -> String {
    let parts = [
        (comparison.only_a.len(), "only in the first"),
        (comparison.only_b.len(), "only in the second"),
        (comparison.changed.len(), "with other contents"),
        (comparison.unscored.len(), "not scored in both"),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if parts.is_empty() { String::new() } else { format!("  left out: {}\n", parts.join(", ")) }
}

/// A kept evaluation in a list.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Listed {
    id: String,
    model: Option<String>,
    node: Option<String>,
    started_unix_ms: Option<u64>,
    suites: Vec<Suite>,
    /// The first figure of each suite.
    scores: Vec<Score>,
    baseline: bool,
    smoke: bool,
    /// complete, running, unfinished, unreadable
    state: &'static str,
    why: Option<String>,
}

impl Listed {
    /// What was read of `id`.
    pub(crate) fn of(read: Result<Record, Failure>, id: String, runs: bool) -> Self {
        let record = match read {
            Ok(record) => record,
            Err(failure) => {
                return Self {
                    id,
                    model: None,
                    node: None,
                    started_unix_ms: None,
                    suites: vec![],
                    scores: vec![],
                    baseline: false,
                    smoke: false,
                    state: "unreadable",
                    why: failure.cause.or(Some(failure.what)),
                };
            }
        };
        let first = |sitting: &Sitting| sitting.run.report().scores.into_iter().next();
        Self {
            id,
            model: Some(record.model.to_string()),
            node: Some(record.node.to_string()),
            started_unix_ms: Some(record.started_unix_ms),
            suites: record.sittings.iter().map(|sitting| sitting.run.suite).collect(),
            scores: record.sittings.iter().filter_map(first).collect(),
            baseline: record.baseline,
            smoke: record.sittings.iter().any(|sitting| sitting.run.smoke),
            state: match record.is_complete() {
                true => "complete",
                false if runs => "running",
                false => "unfinished",
            },
            why: None,
        }
    }
}

/// All evaluations, one line each.
pub(crate) fn list(all: &[Listed], look: Look) -> String {
    let mut table = Table::default()
        .left("ID", Rank::Essential)
        .left("MODEL", Rank::Essential)
        .left("NODE", Rank::Important)
        .left("WHEN", Rank::Useful)
        .left("STATE", Rank::Important)
        .left("FIGURES", Rank::Essential);
    for one in all {
        let known = |text: &Option<String>| {
            Cell::text(text.as_deref().map_or(UNKNOWN.into(), |text| look.text(text)))
        };
        let figures = one.suites.iter().zip(&one.scores).map(|(suite, score)| {
            format!("{} {} of {}", suite.word(), value(score.metric, score.value), score.n)
        });
        let state = match (one.state, one.baseline, one.smoke) {
            ("complete", true, _) => "baseline",
            ("complete", false, true) => "samples",
            (state, ..) => state,
        };
        table.row([
            Cell::text(look.text(&one.id)),
            known(&one.model),
            known(&one.node),
            Cell::text(one.started_unix_ms.map_or(UNKNOWN.into(), moment)),
            Cell::text(state),
            match &one.why {
                Some(why) => Cell::text(said(why, look)),
                None => Cell::List(figures.collect()),
            },
        ]);
    }
    laid(table, look)
}

fn laid(table: Table, look: Look) -> String {
    table.lines(look).join("\n") + "\n"
}
