//! A report as CSV: a row for each cell, and one for each model of which no cell was measured. Quoted as RFC 4180 says, with
//! lines that end in CR LF. A text that a spreadsheet would take for a formula gets an apostrophe in front.

use super::machine::{build, digest};
use super::{Climb, Report, rungs};
use mesh_core::ladder::{CellSummary, Figure, Outcome, Rung, RungSummary, Times};

/// The first letters of what spreadsheets compute, in their wide forms too.
const FORMULA: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

const HEADS: [&str; 51] = [
    "climb",
    "node",
    "rung",
    "model",
    "quantisation",
    "size_bytes",
    "parameters",
    "active_parameters",
    "sha256",
    "engine",
    "device",
    "offload",
    "context",
    "slots",
    "load_s",
    "outcome",
    "verdict",
    "measured_by",
    "prompt_tokens",
    "output_tokens",
    "streams",
    "cache",
    "n",
    "failed",
    "left_out",
    "prompt_tps_median",
    "prompt_tps_sd",
    "gen_tps_median",
    "gen_tps_sd",
    "total_tps_median",
    "total_tps_sd",
    "slower",
    "ttft_p50_s",
    "ttft_p95_s",
    "tpot_median_s",
    "tpot_sd_s",
    "response_p50_s",
    "response_p95_s",
    "max_temperature_c",
    "watts",
    "joules_per_token",
    "marks",
    "step",
    "success_of",
    "success_n",
    "success_low",
    "success_high",
    "empty",
    "gibberish",
    "energy_per_million",
    "machine_per_million",
];

/// One field.
enum Field {
    /// Words, which may come from anywhere.
    Text(String),
    /// A number of ours; a minus in front of it is no formula.
    Number(String),
    Unknown,
}

impl Field {
    fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn or_unknown(text: Option<impl Into<String>>) -> Self {
        text.map_or(Self::Unknown, Self::text)
    }

    fn count(count: Option<impl Into<u64>>) -> Self {
        count.map_or(Self::Unknown, |count| Self::Number(count.into().to_string()))
    }

    fn number(value: Option<f64>) -> Self {
        let known = value.filter(|value| value.is_finite());
        known.map_or(Self::Unknown, |value| Self::Number(shown(value)))
    }

    fn written(&self) -> String {
        match self {
            Self::Text(text) => quoted(&defused(text)),
            Self::Number(number) => number.clone(),
            Self::Unknown => String::new(),
        }
    }
}

/// The whole file.
pub(super) fn rows(report: &Report<'_>) -> String {
    let mut lines = vec![HEADS.join(",")];
    for climb in &report.climbs {
        for (at, (rung, summary, remark)) in climb.rungs().enumerate() {
            let mut cells: Vec<Option<&CellSummary>> = summary.cells.iter().map(Some).collect();
            if cells.is_empty() {
                cells.push(None);
            }
            for cell in cells {
                let fields = fields(climb, (at, rung, summary, remark), cell);
                debug_assert_eq!(fields.len(), HEADS.len(), "one field for each head");
                lines.push(fields.iter().map(Field::written).collect::<Vec<_>>().join(","));
            }
        }
    }
    lines.join("\r\n") + "\r\n"
}

fn fields(
    climb: &Climb<'_>,
    rung: (usize, &Rung, &RungSummary, &str),
    cell: Option<&CellSummary>,
) -> Vec<Field> {
    let mut fields = identity(climb, rung);
    fields.extend(speeds(rung.2, cell));
    let (at, rung, summary, _) = rung;
    let answers = summary.answers.as_ref();
    let cost = climb.costs.get(at);
    fields.extend([
        Field::number(climb.step_to(rung).map(|step| step.change)),
        Field::count(answers.map(|answers| answers.success.of)),
        Field::count(answers.map(|answers| answers.success.n)),
        Field::number(answers.map(|answers| answers.success.low)),
        Field::number(answers.map(|answers| answers.success.high)),
        Field::count(answers.map(|answers| answers.empty)),
        Field::count(answers.map(|answers| answers.gibberish + answers.repeated)),
        Field::number(cost.and_then(|cost| cost.energy.as_ref()).map(|energy| energy.per_million)),
        Field::number(cost.and_then(|cost| cost.amortised.as_ref()).map(|machine| machine.per_million)),
    ]);
    fields
}

/// Which model, where, and what is said of it.
fn identity(climb: &Climb<'_>, (_, rung, summary, remark): (usize, &Rung, &RungSummary, &str)) -> Vec<Field> {
    let subject = rung.subject.as_ref();
    let outcome = match &summary.outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Skipped(why) => format!("skipped: {why}"),
        Outcome::Failed(why) => format!("failed: {why}"),
        Outcome::Absent(why) => format!("could not be fetched: {why}"),
    };
    vec![
        Field::text(climb.record.id.as_str()),
        Field::text(climb.record.node.as_str()),
        Field::text(rung.label.as_str()),
        Field::text(rung.model.as_str()),
        Field::or_unknown(rung.quantisation.as_deref()),
        Field::count(rung.size.map(|size| size.0)),
        Field::count(rung.parameters),
        Field::count(rung.active_parameters),
        Field::or_unknown(digest(rung)),
        Field::or_unknown(build(rung)),
        Field::or_unknown(subject.map(|subject| subject.device.as_str()).filter(|device| !device.is_empty())),
        Field::or_unknown(subject.and_then(|subject| subject.offload).map(mesh_core::fit::Offload::words)),
        Field::count(subject.and_then(|subject| subject.context)),
        Field::count(subject.and_then(|subject| subject.slots)),
        Field::number(rung.load_s),
        Field::text(outcome),
        Field::text(remark),
    ]
}

/// The figures of a cell; without one those of the questions.
fn speeds(summary: &RungSummary, cell: Option<&CellSummary>) -> Vec<Field> {
    let Some(cell) = cell else {
        let answers = summary.answers.as_ref().map(|answers| answers.success.n);
        let mut fields = vec![Field::or_unknown(answers.map(|_| summary.measured_by.as_str()))];
        fields.extend([(); 4].map(|()| Field::Unknown));
        fields.push(Field::count(summary.decode.map(|decode| decode.n).or(answers)));
        fields.extend([Field::Unknown, Field::Unknown]);
        fields.extend(figure(summary.prompt));
        fields.extend(figure(summary.decode));
        fields.extend([Field::Unknown, Field::Unknown, Field::Unknown]);
        fields.extend(times(summary.ttft));
        fields.extend([Field::Unknown, Field::Unknown]);
        fields.extend(times(summary.response));
        fields.push(Field::number(summary.max_temperature));
        fields.extend([
            Field::number(summary.watts),
            Field::number(summary.joules_per_token),
            Field::Unknown,
        ]);
        return fields;
    };
    let mut fields = vec![
        Field::text("speeds"),
        Field::count(Some(cell.shape.prompt)),
        Field::count(Some(cell.shape.output)),
        Field::count(Some(cell.streams)),
        Field::text(if cell.is_warm { "warm" } else { "cold" }),
        Field::count(Some(cell.counted)),
        Field::count(Some(cell.failed)),
        Field::count(Some(cell.left_out)),
    ];
    fields.extend(figure(cell.prompt));
    fields.extend(figure(cell.decode));
    fields.extend(figure(cell.total));
    fields.push(Field::number(cell.degradation));
    fields.extend(times(cell.ttft));
    fields.extend(figure(cell.tpot));
    fields.extend(times(cell.response));
    fields.push(Field::number(cell.max_temperature));
    fields.extend([Field::number(cell.watts), Field::number(cell.joules_per_token)]);
    fields.push(Field::or_unknown((!cell.marks.is_empty()).then(|| rungs::marks(cell))));
    fields
}

fn figure(figure: Option<Figure>) -> [Field; 2] {
    [Field::number(figure.map(|figure| figure.median)), Field::number(figure.and_then(|figure| figure.sd))]
}

fn times(times: Option<Times>) -> [Field; 2] {
    [Field::number(times.map(|times| times.p50)), Field::number(times.map(|times| times.p95))]
}

/// Six digits that count, without an exponent.
fn shown(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let digits = (5.0 - value.abs().log10().floor()).clamp(0.0, 12.0) as usize;
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".into() } else { text.to_owned() }
}

/// `text` that no spreadsheet computes.
pub(super) fn defused(text: &str) -> String {
    if text.starts_with(FORMULA) { format!("'{text}") } else { text.to_owned() }
}

/// `text` in quotes where it needs them.
pub(super) fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
