//! Climbs: a row for each rung as soon as it is done, what the whole says, and every figure of one rung.

mod cells;

pub(crate) use cells::rung;

use super::paint::{Look, Paint, bold};
use super::quantity::{UNKNOWN, bytes, known, moment};
use super::table::{Cell, Rank, Table};
use crate::command::MOST_TOKENS;
use crate::exit::Failure;
use mesh_core::id::ModelId;
use mesh_core::ladder::{
    Analysis, FORMULAS, Figure, Kind, Outcome, Record, RungSummary, Settings, StopRule, Times, analyse,
    spoilt,
};
use serde::Serialize;

/// Widths of the columns that are printed one row at a time; the model's is that of the longest name.
const WIDTHS: [usize; 8] = [5, 9, 12, 12, 14, 6, 5, 5];
/// What stands over them.
const HEADS: [&str; 8] = ["RUNG", "SIZE", "PROMPT t/s", "GEN t/s", "TTFT p50/p95", "OK", "EMPTY", "GIBB."];

/// Rows of one table that come one by one.
pub(crate) struct Lines {
    model: usize,
    look: Look,
}

impl Lines {
    /// For rungs with these names.
    pub(crate) fn of<'a>(models: impl Iterator<Item = &'a str>, look: Look) -> Self {
        let longest = models.map(|name| name.chars().count()).max().unwrap_or_default();
        Self { model: longest.max("MODEL".len()), look }
    }

    /// What is climbed and how, and the table's heading.
    pub(crate) fn head(&self, record: &Record) -> String {
        let heading = self.laid(HEADS.map(str::to_owned), "MODEL", "TEMP", "VERDICT");
        format!("{}\n{}\n", head(record, self.look), bold(&heading, self.look.color))
    }

    /// The row of one model. A later rung may be better, so none is called the best yet.
    pub(crate) fn row(&self, record: &Record, model: &ModelId) -> String {
        let analysis = analyse(record);
        let at = analysis.rungs.iter().position(|rung| rung.model == *model);
        let Some((rung, remark)) =
            at.and_then(|at| Some((analysis.rungs.get(at)?, analysis.remarks.get(at)?)))
        else {
            return String::new();
        };
        let remark = if remark.starts_with('★') { "ok" } else { remark.as_str() };
        let size = record.rungs.iter().find(|rung| rung.model == *model).and_then(|rung| rung.size);
        let [ok, empty, gibberish] = answers(rung);
        let cells = [
            rung.label.clone(),
            known(size, |size| bytes(size.0)),
            figure(rung.prompt, self.look),
            figure(rung.decode, self.look),
            times(rung.ttft),
            ok,
            empty,
            gibberish,
        ];
        let line = self.laid(cells, model.as_str(), &heat(rung, self.look), "");
        let room = self.look.width.map_or(usize::MAX, |width| width.saturating_sub(line.chars().count()));
        let whole = said(remark, self.look);
        let verdict = if whole.chars().count() > room { short(&whole) } else { &whole };
        format!("{line}{verdict}\n")
    }

    fn laid(&self, cells: [String; 8], model: &str, heat: &str, verdict: &str) -> String {
        let mut line = format!(
            "{:<width$}  {:<model_width$}",
            cells[0],
            model,
            width = WIDTHS[0],
            model_width = self.model
        );
        for (cell, width) in cells.iter().zip(WIDTHS).skip(1) {
            line += &format!("  {cell:>width$}");
        }
        format!("{line}  {heat:>6}  {verdict}")
    }
}

/// `strix-1   Radeon 8060S   512:128, 4k:512 tokens × 1, 2 at once   5 repetitions   questions v1   seed 1`
fn head(record: &Record, look: Look) -> String {
    let hardware = &record.hardware;
    let gpus: Vec<String> = hardware
        .gpus
        .iter()
        .map(|gpu| {
            let memory = gpu.memory.map(|memory| format!(" {memory}")).unwrap_or_default();
            look.text(&format!("{}{memory}", gpu.name))
        })
        .collect();
    let machine = match (gpus.is_empty(), &hardware.cpu) {
        (false, _) => gpus.join(", "),
        (true, Some(cpu)) => look.text(cpu),
        (true, None) => "hardware not known".into(),
    };
    let builds = record.rungs.iter().filter_map(|rung| rung.subject.as_ref());
    let build = builds.map(|subject| look.text(&subject.build)).next();
    let parts = [Some(machine), build, Some(settings(&record.settings, look))];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{}   {}", bold(record.node.as_str(), look.color), parts.join("   "))
}

fn settings(settings: &Settings, look: Look) -> String {
    let shapes: Vec<String> = settings.matrix.iter().map(|shape| cells::shape(*shape)).collect();
    let streams: Vec<String> = settings.streams.iter().map(ToString::to_string).collect();
    let soak = settings.soak_s.map(|seconds| format!("   soak {seconds} s")).unwrap_or_default();
    let most = settings.sampling.max_tokens.filter(|most| *most != MOST_TOKENS);
    let most = most.map(|tokens| format!(", {tokens} tokens at most")).unwrap_or_default();
    format!(
        "{} {} {} at once   {} repetitions{soak}   questions {}{most}   seed {}",
        shapes.join(" "),
        look.sign("×", "x"),
        streams.join(","),
        settings.repetitions,
        look.text(&settings.prompts),
        settings.seed
    )
}

/// The core's own words; their signs have ASCII stand-ins.
pub(super) fn said(words: &str, look: Look) -> String {
    if look.unicode {
        return look.text(words);
    }
    let signs =
        [("★", "*"), ("→", "->"), ("×", "x"), ("±", "+-"), ("–", "-"), ("−", "-"), ("≥", ">="), ("≤", "<=")];
    let ascii = signs.iter().fold(words.to_owned(), |text, (sign, ascii)| text.replace(sign, ascii));
    look.text(&ascii)
}

/// A verdict without its reasons, which stand below the table.
fn short(remark: &str) -> &str {
    if remark.starts_with('★') {
        return remark;
    }
    let end = remark.find(':').into_iter().chain(remark.find(" (")).min();
    end.map_or(remark, |end| &remark[..end])
}

/// `148.2 ± 1.1`
pub(super) fn figure(figure: Option<Figure>, look: Look) -> String {
    let Some(figure) = figure else { return UNKNOWN.into() };
    let spread = figure.sd.map(|sd| format!(" {} {}", look.sign("±", "+-"), number(sd)));
    number(figure.median) + &spread.unwrap_or_default()
}

/// Three figures that count: `2910`, `61.0`, `0.52`.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => UNKNOWN.into(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// `0.05/0.09 s`
pub(super) fn times(times: Option<Times>) -> String {
    known(times, |times| format!("{}/{} s", number(times.p50), number(times.p95)))
}

/// Good of all, empty, gibberish and what goes in circles.
fn answers(rung: &RungSummary) -> [String; 3] {
    let Some(answers) = &rung.answers else { return [UNKNOWN, UNKNOWN, UNKNOWN].map(str::to_owned) };
    [
        format!("{}/{}", answers.success.of, answers.success.n),
        answers.empty.to_string(),
        (answers.gibberish + answers.repeated).to_string(),
    ]
}

fn heat(rung: &RungSummary, look: Look) -> String {
    known(rung.max_temperature, |degrees| format!("{degrees:.0} {}", look.sign("°C", "C")))
}

/// What a climb says when it is over: what to use, what to avoid, and why it stopped.
pub(crate) fn conclusion(record: &Record, analysis: &Analysis, look: Look) -> String {
    let mut lines = choices(analysis, look);
    for avoided in &analysis.avoid {
        lines.push(format!("avoid {}: {}", avoided.model, said(&avoided.reasons.join("; "), look)));
    }
    for rung in &analysis.rungs {
        if let Some(why) = spoilt(rung) {
            lines.push(format!("measure {} again, its speed is not known: {why}", rung.model));
        }
    }
    for rung in &record.rungs {
        match &rung.outcome {
            Outcome::Skipped(why) => lines.push(format!("skipped {}: {}", rung.model, said(why, look))),
            Outcome::Absent(why) => {
                lines.push(format!("{} could not be fetched: {}", rung.model, said(why, look)));
            }
            Outcome::Done | Outcome::Failed(_) => {}
        }
    }
    lines.push(stopped(record, look));
    format!("\n{}\n", lines.join("\n"))
}

/// By mode where modes say what they want, and by what people choose by.
fn choices(analysis: &Analysis, look: Look) -> Vec<String> {
    let star = look.sign("★", "*");
    let choice = |what: &str, model: Option<&ModelId>, why: &str| match model {
        Some(model) => format!("{star} {what}: {model} ({})", said(why, look)),
        None => format!("  {what}: {}", said(why, look)),
    };
    let of_modes =
        analysis.modes.iter().map(|mode| choice(mode.mode.as_str(), mode.models.first(), &mode.why));
    let of_kinds = analysis.kinds.iter().map(|kind| {
        let word = match &kind.kind {
            Kind::Fast => "fast",
            Kind::Balanced => "balanced",
            Kind::Quality => "quality",
            Kind::Specialised(what) => what,
        };
        choice(&look.text(word), kind.model.as_ref(), &kind.why)
    });
    of_modes.chain(of_kinds).collect()
}

fn stopped(record: &Record, look: Look) -> String {
    if let Some(imported) = &record.imported {
        return format!(
            "Imported from {} ({}): nothing was asked, and nobody looked at the machine.",
            look.text(&imported.from),
            look.text(&imported.build)
        );
    }
    match (&record.stopped, record.ended_unix_ms) {
        (Some(stopped), _) => format!("Stopped: {}.", said(&stopped.why, look)),
        (None, Some(_)) => "All models were climbed.".into(),
        (None, None) => "It was not climbed to its end.".into(),
    }
}

/// A kept climb in a list.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Listed {
    id: String,
    node: Option<String>,
    started_unix_ms: Option<u64>,
    rungs: usize,
    largest: Option<String>,
    /// complete, stopped, interrupted, running, unfinished, imported, unreadable
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
                let (node, started_unix_ms, largest) = (None, None, None);
                return Self { id, node, started_unix_ms, rungs: 0, largest, state: "unreadable", why };
            }
        };
        let measured = || record.rungs.iter().filter(|rung| rung.outcome == Outcome::Done);
        let state = match (&record.stopped, record.ended_unix_ms) {
            _ if record.imported.is_some() => "imported",
            (Some(stopped), _) if stopped.rule == StopRule::Operator => "interrupted",
            (Some(_), _) => "stopped",
            (None, Some(_)) => "complete",
            (None, None) if runs => "running",
            (None, None) => "unfinished",
        };
        Self {
            id,
            node: Some(record.node.to_string()),
            started_unix_ms: Some(record.started_unix_ms),
            rungs: measured().count(),
            largest: measured().next_back().map(|rung| rung.model.to_string()),
            state,
            why: record.stopped.map(|stopped| stopped.why),
        }
    }
}

/// All kept climbs, newest first.
pub(crate) fn list(ladders: &[Listed], look: Look) -> String {
    let mut table = Table::default()
        .left("ID", Rank::Essential)
        .left("NODE", Rank::Essential)
        .left("STARTED", Rank::Useful)
        .right("RUNGS", Rank::Important)
        .left("LARGEST", Rank::Important)
        .left("STATE", Rank::Important)
        .left("WHY", Rank::Extra);
    for one in ladders {
        let text = |text: &Option<String>| known(text.as_ref(), |text| look.text(text));
        let paint = if one.state == "unreadable" { Paint::Red } else { Paint::Plain };
        table.row([
            Cell::text(look.text(&one.id)),
            Cell::text(text(&one.node)),
            Cell::text(known(one.started_unix_ms, moment)),
            Cell::text(one.rungs.to_string()),
            Cell::text(text(&one.largest)),
            Cell::Text(one.state.to_owned(), paint),
            Cell::text(text(&one.why)),
        ]);
    }
    table.lines(look).join("\n") + "\n"
}

/// All that one climb says.
pub(crate) fn show(record: &Record, samples: bool, look: Look) -> String {
    let analysis = analyse(record);
    let mut lines = vec![
        format!("{}   {}", bold(&record.id, look.color), moment(record.started_unix_ms)),
        head(record, look),
        String::new(),
    ];
    lines.extend(table(record, &analysis, look));
    if !analysis.steps.is_empty() {
        lines.push(String::new());
    }
    for step in &analysis.steps {
        lines.push(format!("{} {} {}: {}", step.from, look.arrow(), step.to, said(&step.why, look)));
    }
    // The rest of it repeats the steps.
    let bound = analysis.pattern.split("; ").next().filter(|pattern| pattern.starts_with("up to "));
    lines.extend(bound.map(|bound| format!("# {}", said(bound, look))));
    lines.push(conclusion(record, &analysis, look).trim_end().to_owned());
    lines.extend(analysis.needs.iter().map(|need| format!("# {}", said(&need.why, look))));
    for advice in &analysis.advice {
        let mode = advice.mode.as_ref().map(|mode| format!("{mode}: ")).unwrap_or_default();
        lines.push(format!("# {mode}{}", said(&advice.text, look)));
    }
    if !analysis.configuration.is_empty() {
        lines.push("\nrouter.toml by these figures:".to_owned());
        lines.extend(
            analysis.configuration.iter().map(|line| format!("  {}", said(line, look)).trim_end().to_owned()),
        );
    }
    if samples {
        for rung in &record.rungs {
            lines.push(cells::samples(rung, look));
        }
    }
    lines.push(String::new());
    lines.extend(formulas(look));
    lines.join("\n") + "\n"
}

fn table(record: &Record, analysis: &Analysis, look: Look) -> Vec<String> {
    let mut table = Table::default()
        .left("RUNG", Rank::Important)
        .left("MODEL", Rank::Essential)
        .right("SIZE", Rank::Useful)
        .right("LOAD", Rank::Extra)
        .right("PROMPT t/s", Rank::Useful)
        .right("GEN t/s", Rank::Important)
        .right("TTFT p50/p95", Rank::Useful)
        .right("OK", Rank::Important)
        .right("EMPTY", Rank::Useful)
        .right("GIBB.", Rank::Useful)
        .right("TEMP", Rank::Useful)
        .left("VERDICT", Rank::Essential);
    for (at, (rung, summary)) in record.rungs.iter().zip(&analysis.rungs).enumerate() {
        let [ok, empty, gibberish] = answers(summary);
        let remark = analysis.remarks.get(at).map_or(UNKNOWN, String::as_str);
        let paint = match &rung.outcome {
            _ if remark.starts_with('★') => Paint::Green,
            _ if remark.starts_with("avoid") => Paint::Yellow,
            Outcome::Failed(_) => Paint::Red,
            Outcome::Done | Outcome::Skipped(_) | Outcome::Absent(_) => Paint::Plain,
        };
        table.row([
            Cell::text(look.text(&rung.label)),
            Cell::text(rung.model.as_str()),
            Cell::text(known(rung.size, |size| bytes(size.0))),
            Cell::text(known(rung.load_s, |seconds| format!("{} s", number(seconds)))),
            Cell::text(figure(summary.prompt, look)),
            Cell::text(figure(summary.decode, look)),
            Cell::text(times(summary.ttft)),
            Cell::text(ok),
            Cell::text(empty),
            Cell::text(gibberish),
            Cell::text(heat(summary, look)),
            Cell::Text(said(short(remark), look), paint),
        ]);
    }
    table.lines(look)
}

/// What each figure is.
pub(super) fn formulas(look: Look) -> Vec<String> {
    FORMULAS.iter().map(|(name, formula)| format!("# {name} = {}", said(formula, look))).collect()
}
