//! Which plots a report has: speed against size, time to the first token against context, success against size, and heat.

use super::super::ladder::number;
use super::super::quantity::context;
use super::axis::Spacing;
use super::document::{Block, Section};
use super::plot::{Axis, Band, BandKind, Plot, Point, Series};
use super::{Climb, Report};
use mesh_core::fit::Offload;
use mesh_core::ladder::{Cell, Rung};

/// Points of one course, at most: more are narrower than a pixel.
const COURSE: usize = 500;

pub(super) fn section(report: &Report<'_>) -> Section {
    let mut blocks =
        vec![Block::Plot(speed(report)), Block::Plot(first_token(report)), Block::Plot(success(report))];
    blocks.extend(report.climbs.iter().map(|climb| Block::Plot(heat(report, climb))));
    Section { anchor: "plots", title: "Plots", blocks }
}

fn size_axis() -> Axis {
    Axis { label: "size of the file in GiB".into(), spacing: Spacing::Ratio }
}

fn gibibytes(rung: &Rung) -> Option<f64> {
    rung.size.map(|size| size.0 as f64 / f64::from(1 << 30))
}

/// tok/s against size, a line for each machine.
fn speed(report: &Report<'_>) -> Plot {
    let series = report.climbs.iter().enumerate().map(|(ink, climb)| {
        let mut points: Vec<Point> = climb
            .rungs()
            .filter_map(|(rung, summary, remark)| {
                let (x, decode) = (gibibytes(rung)?, summary.decode?);
                let spread = decode.sd.map(|sd| (decode.median - sd, decode.median + sd));
                let part = rung.subject.as_ref().and_then(|subject| subject.offload);
                let figure = super::super::ladder::figure(Some(decode), super::WIDE);
                let placed =
                    part.map(|part| format!(", on the device: {}", part.words())).unwrap_or_default();
                Some(Point {
                    x,
                    y: decode.median,
                    spread,
                    label: rung.model.to_string(),
                    tip: format!(
                        "{} on {}: {figure} t/s, n {}{placed}; {remark}",
                        rung.model, climb.name, decode.n
                    ),
                    is_hollow: part.is_some_and(|part| part != Offload::Full),
                })
            })
            .collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Series { name: climb.name.clone(), ink, is_joined: true, is_marked: true, points }
    });
    Plot {
        title: "Tokens each second against size".into(),
        caption: "Generated tokens each second of one request; bars are ± one standard deviation. Both axes are of ratios: while \
                  memory bandwidth is the bound, dense models lie on one straight line. A hollow marker is a model that does not lie \
                  whole on the device."
            .into(),
        x: size_axis(),
        y: Axis { label: "tokens each second".into(), spacing: Spacing::Ratio },
        series: series.collect(),
        bands: Vec::new(),
        rules: Vec::new(),
        nothing: "No model with a known size has a measured speed.".into(),
    }
}

/// TTFT against the prompt's length, one request at a time, a line for each model.
fn first_token(report: &Report<'_>) -> Plot {
    let mut series = Vec::new();
    for (of_machine, climb) in report.climbs.iter().enumerate() {
        for (of_model, (rung, summary, _)) in climb.rungs().enumerate() {
            let fewest = summary.cells.iter().map(|cell| cell.streams).min();
            let cells = summary.cells.iter().filter(|cell| Some(cell.streams) == fewest && !cell.is_warm);
            let mut points: Vec<Point> = cells
                .filter_map(|cell| {
                    let ttft = cell.ttft?;
                    let (p50, p95) = (number(ttft.p50), number(ttft.p95));
                    let tokens = context(cell.shape.prompt);
                    Some(Point {
                        x: f64::from(cell.shape.prompt),
                        y: ttft.p50,
                        spread: Some((ttft.p50, ttft.p95)),
                        label: String::new(),
                        tip: format!(
                            "{} on {}: {tokens} tokens, p50 {p50} s, p95 {p95} s, n {}",
                            rung.model, climb.name, ttft.n
                        ),
                        is_hollow: false,
                    })
                })
                .collect();
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            if let Some(last) = points.last_mut().filter(|_| report.is_comparison()) {
                last.label = rung.model.to_string();
            }
            let (name, ink) = if report.is_comparison() {
                (climb.name.clone(), of_machine)
            } else {
                (rung.model.to_string(), of_model)
            };
            series.push(Series { name, ink, is_joined: true, is_marked: true, points });
        }
    }
    series.retain(|series| !series.points.is_empty());
    Plot {
        title: "Time to the first token against context".into(),
        caption: "The median of one request at a time with a cold cache, against the prompt's tokens; bars reach to the p95.".into(),
        x: Axis { label: "tokens of the prompt".into(), spacing: Spacing::Doubling },
        y: Axis { label: "seconds to the first token".into(), spacing: Spacing::Ratio },
        series,
        bands: Vec::new(),
        rules: Vec::new(),
        nothing: "No time to the first token was measured over prompts of a known length.".into(),
    }
}

/// Success against size, with the sizes among which the sweet spots are.
fn success(report: &Report<'_>) -> Plot {
    let series = report.climbs.iter().enumerate().map(|(ink, climb)| {
        let mut points: Vec<Point> = climb
            .rungs()
            .filter_map(|(rung, summary, remark)| {
                let (x, share) = (gibibytes(rung)?, summary.answers.as_ref()?.success);
                let (low, high) = (share.low * 100.0, share.high * 100.0);
                Some(Point {
                    x,
                    y: share.value() * 100.0,
                    spread: Some((low, high)),
                    label: rung.model.to_string(),
                    tip: format!(
                        "{} on {}: {} of {} ({low:.0}–{high:.0} %); {remark}",
                        rung.model, climb.name, share.of, share.n
                    ),
                    is_hollow: false,
                })
            })
            .collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Series { name: climb.name.clone(), ink, is_joined: true, is_marked: true, points }
    });
    Plot {
        title: "Success against size".into(),
        caption: "Answers without a fault of form, in percent; bars are 95 % Wilson intervals. The band has the sizes from the \
                  smallest to the largest sweet spot."
            .into(),
        x: size_axis(),
        y: Axis { label: "good answers in %".into(), spacing: Spacing::FromZero },
        series: series.collect(),
        bands: report.climbs.iter().enumerate().filter_map(|(ink, climb)| sweet(report, climb, ink)).collect(),
        rules: Vec::new(),
        nothing: "No model with a known size was asked questions.".into(),
    }
}

/// From the smallest to the largest sweet spot.
fn sweet(report: &Report<'_>, climb: &Climb<'_>, ink: usize) -> Option<Band> {
    let best = climb.rungs().filter(|(_, _, remark)| remark.starts_with('★'));
    let sizes: Vec<f64> = best.filter_map(|(rung, ..)| gibibytes(rung)).filter(|size| *size > 0.0).collect();
    let low = sizes.iter().copied().reduce(f64::min)?;
    let high = sizes.iter().copied().reduce(f64::max)?;
    let name = if report.is_comparison() { format!("★ {}", climb.name) } else { "sweet spots".to_owned() };
    // A single one is a band, too.
    Some(Band { from: low / 1.06, to: high * 1.06, name, kind: BandKind::Of(ink) })
}

/// Temperature over the time under work. Pauses are in no record, so they are left out.
fn heat(report: &Report<'_>, climb: &Climb<'_>) -> Plot {
    let mut course: Vec<Look> = Vec::new();
    let (mut rules, mut begun) = (Vec::new(), 0.0);
    for rung in &climb.record.rungs {
        let before = begun;
        for cell in &rung.cells {
            let sorted = looks(cell);
            course.extend(sorted.iter().map(|look| Look {
                minute: begun + look.minute,
                model: rung.model.as_str(),
                ..*look
            }));
            begun += length(cell, &sorted);
        }
        if begun > before {
            rules.push((before, rung.model.to_string()));
        }
    }
    let of = if report.is_comparison() { format!(" of {}", climb.name) } else { String::new() };
    let ink = report.climbs.iter().position(|other| std::ptr::eq(other, climb)).unwrap_or_default();
    let course = thinned(&course);
    let points = course.iter().map(|look| Point {
        x: look.minute,
        y: look.degrees,
        spread: None,
        label: String::new(),
        tip: format!("{}: {:.0} °C", look.model, look.degrees),
        is_hollow: false,
    });
    let series =
        Series { name: climb.name.clone(), ink, is_joined: true, is_marked: false, points: points.collect() };
    let most = course.iter().max_by(|a, b| a.degrees.total_cmp(&b.degrees));
    let most = most
        .map(|look| format!(" At most {:.0} °C, under {}.", look.degrees, look.model))
        .unwrap_or_default();
    Plot {
        title: format!("Temperature over time{of}"),
        caption: format!(
            "The hottest sensor while the machine worked; pauses between measurements are left out. Shaded: it was slowed down for \
             heat or power.{most}"
        ),
        x: Axis { label: "minutes under work".into(), spacing: Spacing::FromZero },
        y: Axis { label: "°C".into(), spacing: Spacing::Within },
        series: vec![series],
        bands: throttled(&course),
        rules,
        nothing: format!("No temperature{of} was read while it worked."),
    }
}

/// The machine at one moment.
#[derive(Debug, Clone, Copy)]
struct Look<'a> {
    minute: f64,
    degrees: f64,
    is_slowed: bool,
    model: &'a str,
}

/// Those that tell a temperature, in their order of time.
fn looks(cell: &Cell) -> Vec<Look<'static>> {
    let known = cell.samples.iter().filter_map(|sample| {
        let degrees = f64::from(sample.temperature.or(sample.gpu_temperature)?);
        let minute = sample.at_s / 60.0;
        let is_slowed = sample.throttled == Some(true);
        (degrees.is_finite() && minute.is_finite()).then_some(Look { minute, degrees, is_slowed, model: "" })
    });
    let mut known: Vec<Look<'_>> = known.collect();
    known.sort_by(|a, b| a.minute.total_cmp(&b.minute));
    known
}

/// Minutes that a cell took.
fn length(cell: &Cell, looks: &[Look<'_>]) -> f64 {
    let told =
        cell.ended.map(|ended| ended.seconds / 60.0).filter(|minutes| minutes.is_finite() && *minutes > 0.0);
    let seen = looks.last().map_or(0.0, |look| look.minute);
    told.unwrap_or(0.0).max(seen)
}

/// Of each stretch the hottest look; slowed down where any of them was.
fn thinned<'a>(course: &[Look<'a>]) -> Vec<Look<'a>> {
    let stretch = course.len().div_ceil(COURSE).max(1);
    let hottest = |looks: &[Look<'a>]| {
        let hottest = looks.iter().copied().max_by(|a, b| a.degrees.total_cmp(&b.degrees))?;
        Some(Look { is_slowed: looks.iter().any(|look| look.is_slowed), ..hottest })
    };
    course.chunks(stretch).filter_map(hottest).collect()
}

/// Stretches that begin and end with a look at a machine that was slowed down.
fn throttled(course: &[Look<'_>]) -> Vec<Band> {
    let mut bands: Vec<Band> = Vec::new();
    let mut was_slowed = false;
    for look in course {
        match bands.last_mut() {
            Some(band) if look.is_slowed && was_slowed => band.to = look.minute,
            _ if look.is_slowed => bands.push(Band {
                from: look.minute,
                to: look.minute,
                name: "slowed down".into(),
                kind: BandKind::Shade,
            }),
            _ => {}
        }
        was_slowed = look.is_slowed;
    }
    bands
}
