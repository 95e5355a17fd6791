//! A validation: each check with its figure beside the champion's, the verdict, and what to do.

use super::ladder::said;
use super::paint::{Look, Paint, bold};
use super::quantity::{UNKNOWN, bytes, context, known, moment, word};
use super::table::{Cell, Rank, Table};
use super::wrap::wrapped;
use crate::exit::Failure;
use mesh_core::ladder::Outcome;
use mesh_core::validation::{
    Change, Check, Evidence, Grade, Promotion, Record, State, Topic, Validation, judge,
};
use serde::Serialize;

/// The record with its judgement.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    record: &'a Record,
    /// `null` where it was ended early.
    validation: Option<&'a Validation>,
}

/// What `validate --json` prints. The record names its schema.
pub(crate) fn document(record: &Record, validation: Option<&Validation>) -> String {
    serde_json::to_string_pretty(&Document { record, validation }).expect("plain data") + "\n"
}

/// One validation.
pub(crate) fn page(record: &Record, validation: &Validation, look: Look) -> String {
    let mut lines = vec![head(&record.candidate, Some(record.node.as_str()), look)];
    lines.extend(record.champion.iter().map(|champion| format!("beside {}", head(champion, None, look))));
    lines.push(String::new());
    lines.extend(table(record, validation, look));
    lines.push(String::new());
    lines.extend(reasons(record, validation, look));
    if lines.last().is_some_and(|line| !line.is_empty()) {
        lines.push(String::new());
    }
    let paint = match validation.verdict {
        Grade::Excellent | Grade::Good => Paint::Green,
        Grade::Poor => Paint::Red,
    };
    let mut verdict = wrapped(&format!("{}: ", validation.verdict.word()), &sentence(validation, look), look);
    if let Some(first) = verdict.first_mut() {
        let word = validation.verdict.word();
        *first = first.replacen(word, &paint.on(word, look.color), 1);
    }
    lines.extend(verdict);
    lines.extend(advice(record, validation, look));
    lines.join("\n") + "\n"
}

/// One that was ended early: what was to be validated, and why it says nothing.
pub(crate) fn unjudged(record: &Record, runs: bool, look: Look) -> String {
    let mut lines = vec![head(&record.candidate, Some(record.node.as_str()), look)];
    lines.extend(record.champion.iter().map(|champion| format!("beside {}", head(champion, None, look))));
    if runs {
        lines.push("It is on its way, and judged at its end.".into());
    } else {
        lines.extend(wrapped("Not judged: ", &cut_short(record, look), look));
        lines.push(format!("Anew: {}", again(record)));
    }
    lines.join("\n") + "\n"
}

fn cut_short(record: &Record, look: Look) -> String {
    let why = record.stopped.as_ref().map(|why| said(why, look));
    why.unwrap_or_else(|| "it did not come to its end".to_owned())
}

fn again(record: &Record) -> String {
    let champion = record.champion.as_ref().map(|of| format!(" --champion {}", word(of.rung.model.as_str())));
    let model = word(record.candidate.rung.model.as_str());
    format!("meshctl validate {model} --node {}{}", record.node, champion.unwrap_or_default())
}

/// A kept validation in a list.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Listed {
    id: String,
    model: Option<String>,
    node: Option<String>,
    champion: Option<String>,
    started_unix_ms: Option<u64>,
    /// excellent, good, poor, stopped, running, unfinished, unreadable
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
                let (model, node, champion) = (None, None, None);
                return Self { id, model, node, champion, started_unix_ms: None, state: "unreadable", why };
            }
        };
        let (state, why) = match (&record.stopped, record.ended_unix_ms) {
            (Some(why), _) => ("stopped", Some(why.clone())),
            (None, None) if runs => ("running", None),
            (None, None) => ("unfinished", None),
            (None, Some(_)) => {
                let validation = judge(&record);
                (
                    validation.verdict.word(),
                    Some(sentence(&validation, Look { width: None, color: false, unicode: true })),
                )
            }
        };
        Self {
            id,
            model: Some(record.candidate.rung.model.to_string()),
            node: Some(record.node.to_string()),
            champion: record.champion.map(|champion| champion.rung.model.to_string()),
            started_unix_ms: Some(record.started_unix_ms),
            state,
            why,
        }
    }
}

/// All kept validations, one line each.
pub(crate) fn list(all: &[Listed], look: Look) -> String {
    let mut table = Table::default()
        .left("ID", Rank::Essential)
        .left("MODEL", Rank::Essential)
        .left("NODE", Rank::Important)
        .left("CHAMPION", Rank::Useful)
        .left("STARTED", Rank::Useful)
        .left("VERDICT", Rank::Essential)
        .left("WHY", Rank::Extra);
    for one in all {
        let text = |text: &Option<String>| Cell::text(known(text.as_ref(), |text| said(text, look)));
        let paint = match one.state {
            "excellent" | "good" => Paint::Green,
            "poor" | "unreadable" => Paint::Red,
            _ => Paint::Plain,
        };
        table.row([
            Cell::text(look.text(&one.id)),
            text(&one.model),
            text(&one.node),
            text(&one.champion),
            Cell::text(known(one.started_unix_ms, moment)),
            Cell::Text(one.state.to_owned(), paint),
            text(&one.why),
        ]);
    }
    table.lines(look).join("\n") + "\n"
}

/// Why checks did not pass, and what is different from the champion.
fn reasons(record: &Record, validation: &Validation, look: Look) -> Vec<String> {
    let mut lines = Vec::new();
    let comparison = validation.comparison.as_ref();
    let has_worse = comparison.is_some_and(|comparison| !comparison.worse.is_empty());
    for check in &validation.checks {
        let Some(why) = &check.why else { continue };
        // What follows from not being there, or stands below word for word.
        let is_said = !is_there(validation) && check.topic != Topic::Load;
        if is_said || (check.topic == Topic::Champion && has_worse) {
            continue;
        }
        lines.extend(wrapped(&format!("# {}: ", name(check.topic)), &said(why, look), look));
    }
    if let (Some(comparison), Some(champion)) = (comparison, &record.champion) {
        let parts = [
            ("better than", &comparison.better),
            ("worse than", &comparison.worse),
            ("slower than", &comparison.harmless),
        ];
        for (words, all) in parts {
            for line in all {
                let start = format!("# {words} {}: ", champion.rung.model);
                lines.extend(wrapped(&start, &said(line, look), look));
            }
        }
        for line in &comparison.left_out {
            lines.extend(wrapped("# not compared: ", &said(line, look), look));
        }
    }
    lines
}

fn is_there(validation: &Validation) -> bool {
    validation.checks.iter().any(|check| check.topic == Topic::Load && check.state == State::Passed)
}

/// The verdict's reason without what stands above it word for word.
fn sentence(validation: &Validation, look: Look) -> String {
    if !is_there(validation) {
        return "it could not be measured".into();
    }
    let worse = validation.comparison.as_ref().map_or(0, |comparison| comparison.worse.len());
    let said_of = |check: &Check| match (check.topic, check.state) {
        (_, State::Passed) => None,
        (Topic::Champion, State::Weak) if worse > 0 => Some("the champion is better in something".to_owned()),
        (Topic::Champion, State::Weak) => Some("it is no better than the champion".to_owned()),
        (topic, State::NotChecked) => Some(format!("{} was not checked", name(topic))),
        (topic, State::Weak) => Some(format!("{} is weak", name(topic))),
        (topic, State::Failed) => Some(format!("{} failed", name(topic))),
    };
    match validation.verdict {
        Grade::Excellent => said(&validation.why, look),
        Grade::Good | Grade::Poor => {
            validation.checks.iter().filter_map(said_of).collect::<Vec<String>>().join(", ")
        }
    }
}

/// `new:30b   30b   Q4_K_M   18.6 GiB   llama-server b1   on strix-1`
fn head(evidence: &Evidence, node: Option<&str>, look: Look) -> String {
    let rung = &evidence.rung;
    let parts = [
        Some(look.text(&rung.label)),
        rung.quantisation.as_ref().map(|name| look.text(name)),
        rung.size.map(|size| bytes(size.0)),
        rung.subject.as_ref().map(|subject| look.text(&subject.build)),
        node.map(|node| format!("on {node}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{}   {}", bold(rung.model.as_str(), look.color), parts.join("   "))
}

fn table(record: &Record, validation: &Validation, look: Look) -> Vec<String> {
    let base = Table::default()
        .left("", Rank::Essential)
        .left("CHECK", Rank::Essential)
        .left("FOUND", Rank::Essential);
    let cells = |check: &Check| {
        let (sign, paint) = sign(check.state, look);
        [
            Cell::Text(sign.to_owned(), paint),
            Cell::text(name(check.topic)),
            Cell::text(known(check.figure.as_ref(), |figure| said(figure, look))),
        ]
    };
    if record.champion.is_none() {
        let mut table = base;
        validation.checks.iter().for_each(|check| table.row(cells(check)));
        return table.lines(look);
    }
    let mut table = base.left("CHAMPION", Rank::Important);
    for check in &validation.checks {
        let [sign, name, found] = cells(check);
        let is_beside = check.topic == Topic::Champion;
        let beside = check.champion.as_ref().map(|figure| said(figure, look));
        let beside = beside.unwrap_or_else(|| if is_beside { String::new() } else { UNKNOWN.to_owned() });
        table.row([sign, name, found, Cell::text(beside)]);
    }
    table.lines(look)
}

fn sign(state: State, look: Look) -> (&'static str, Paint) {
    match state {
        State::Passed => (look.sign("✓", "ok"), Paint::Green),
        State::Weak => (look.sign("▲", "!"), Paint::Yellow),
        State::Failed => (look.sign("✕", "x"), Paint::Red),
        State::NotChecked => (look.sign("–", "-"), Paint::Dim),
    }
}

/// `speed at 4k`
fn name(topic: Topic) -> String {
    match topic {
        Topic::Speed(tokens) => format!("speed at {}", context(tokens)),
        Topic::Load | Topic::Coherence | Topic::Json | Topic::Tools | Topic::Needle | Topic::Champion => {
            topic.name()
        }
    }
}

/// What to do, as commands.
fn advice(record: &Record, validation: &Validation, look: Look) -> Vec<String> {
    let model = &record.candidate.rung.model;
    let mut lines = match &validation.change {
        Change::Promote(promotions) => {
            let mut lines = vec!["Promote it:".to_owned()];
            lines.extend(promotions.iter().map(command));
            lines
        }
        Change::Keep => vec!["Keep it on the disk; modes stay as they are.".to_owned()],
        // Nobody knows what it is worth where it can be measured.
        Change::Skip if matches!(record.candidate.rung.outcome, Outcome::Failed(_)) => {
            vec![format!(
                "Skip it as long as it cannot be measured here. What the machine says: meshctl node show {}",
                record.node
            )]
        }
        Change::Skip => {
            vec![format!(
                "Skip it. To free its place on the disk: meshctl model rm {model} --node {}",
                record.node
            )]
        }
    };
    if let Some(but) = &validation.but {
        lines.extend(wrapped("# but: ", &said(but, look), look));
    }
    if validation.verdict == Grade::Excellent {
        lines.push("# A larger one or a finer quantisation may do as well: validate that next.".to_owned());
    }
    lines
}

fn command(promotion: &Promotion) -> String {
    let models: Vec<&str> = promotion.models.iter().map(mesh_core::id::ModelId::as_str).collect();
    format!("  meshctl mode set {} models={}", promotion.mode, models.join(","))
}
