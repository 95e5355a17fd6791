//! Plots as inline SVG: points with their spread, lines, bands, shades, a legend. Series differ by colour, by marker and by
//! name, so that no reader needs the colours; each point says its figures when it is pointed at.

use super::axis::{Scale, Spacing, can_be_drawn};
use super::markup::{Tag, px};

/// The paper, in pixels.
const WIDTH: f64 = 790.0;
const HEIGHT: f64 = 360.0;
/// The frame on it: room for numbers on the left and below, for the legend on the right.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 580.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 308.0;
/// Colours that the style has.
const INKS: [&str; 7] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6"];
/// Kinds of markers.
const MARKERS: usize = 8;
/// Entries of a legend that have room.
const LEGEND: usize = 16;
/// Letters of a name that have room beside the frame.
const LETTERS: usize = 24;
/// Two points with one name that are closer than this need it once.
const CLOSE_BY: f64 = 12.0;
/// The width of a letter of a label, about.
const LETTER: f64 = 6.3;

/// What is to be drawn.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    pub(super) title: String,
    /// What one sees, below it.
    pub(super) caption: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    /// From and to on the x axis.
    pub(super) bands: Vec<Band>,
    /// Where something new begins on the x axis, with its name.
    pub(super) rules: Vec<(f64, String)>,
    /// What is said in place of it where nothing can be drawn.
    pub(super) nothing: String,
}

#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) label: String,
    pub(super) spacing: Spacing,
}

#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    /// Which colour and marker; equal ones belong together.
    pub(super) ink: usize,
    /// A line from point to point.
    pub(super) is_joined: bool,
    /// A course has no markers, or they would hide it.
    pub(super) is_marked: bool,
    pub(super) points: Vec<Point>,
}

#[derive(Debug, Clone)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    /// From where to where it may lie.
    pub(super) spread: Option<(f64, f64)>,
    /// What stands beside it; empty = nothing.
    pub(super) label: String,
    /// What it says when it is pointed at.
    pub(super) tip: String,
    pub(super) is_hollow: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Band {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) name: String,
    pub(super) kind: BandKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BandKind {
    /// In the colour of a series.
    Of(usize),
    /// Something is wrong here.
    Shade,
}

/// The plot, or the sentence that says why there is none.
pub(super) fn figure(plot: &Plot) -> Tag {
    let heading = Tag::new("h3").text(&plot.title);
    let figure = Tag::new("figure").holding(heading);
    match drawn(plot) {
        Some(svg) => figure.holding(svg).holding(Tag::new("figcaption").text(&plot.caption)),
        None => figure.holding(Tag::new("p").text(&plot.nothing)),
    }
}

fn drawn(plot: &Plot) -> Option<Tag> {
    let drawable =
        |point: &&Point| can_be_drawn(plot.x.spacing, point.x) && can_be_drawn(plot.y.spacing, point.y);
    let points = || plot.series.iter().flat_map(|series| series.points.iter().filter(drawable));
    let ends = points().filter_map(|point| point.spread).flat_map(|(low, high)| [low, high]);
    let x = Scale::of(plot.x.spacing, points().map(|point| point.x), LEFT, RIGHT)?;
    // A marker at the upper end has room.
    let y = Scale::of(plot.y.spacing, points().map(|point| point.y).chain(ends), BOTTOM, TOP + 12.0)?;
    let told: Vec<&str> = plot.series.iter().map(|series| series.name.as_str()).collect();
    let summary = format!("{} Series: {}.", plot.caption, told.join(", "));
    let mut svg = Tag::new("svg")
        .with("viewBox", &format!("0 0 {} {}", px(WIDTH), px(HEIGHT)))
        .with("role", "img")
        .with("aria-label", &format!("{}. {summary}", plot.title))
        .holding(bands(plot, &x))
        .holding(axes(plot, &x, &y));
    let mut labels = Labels::default();
    for series in &plot.series {
        svg = svg.holding(one(series, (&x, &y), drawable));
        let marked = series.points.iter().filter(drawable);
        for point in marked {
            let (at_x, at_y) = (x.at(point.x), y.at(point.y));
            labels.avoid.push(around(at_x, at_y));
            let bar = |(low, high)| [at_x - 4.0, y.at(high), at_x + 4.0, y.at(low)];
            labels.avoid.extend(point.spread.map(bar));
        }
    }
    for series in &plot.series {
        for point in series.points.iter().filter(drawable).filter(|point| !point.label.is_empty()) {
            labels.place(x.at(point.x), y.at(point.y), &point.label);
        }
    }
    Some(svg.holding(Tag::new("g").holding_all(labels.tags)).holding(legend(plot)))
}

fn bands(plot: &Plot, x: &Scale) -> Tag {
    let band = |band: &Band| {
        let (from, to) = (x.at(band.from), x.at(band.to));
        let class = match band.kind {
            BandKind::Of(ink) => format!("band {}", INKS[ink % INKS.len()]),
            BandKind::Shade => "shade".to_owned(),
        };
        // One that is too thin to be seen says nothing.
        let width = (to - from).abs().max(2.0);
        Tag::new("rect")
            .with("class", &class)
            .at("x", from.min(to))
            .at("y", TOP)
            .at("width", width)
            .at("height", BOTTOM - TOP)
            .holding(Tag::new("title").text(&band.name))
    };
    Tag::new("g").holding_all(plot.bands.iter().map(band))
}

fn axes(plot: &Plot, x: &Scale, y: &Scale) -> Tag {
    let mut axes = Tag::new("g");
    for (value, word) in x.ticks() {
        let at = x.at(value);
        axes = axes.holding(line("grid", (at, TOP), (at, BOTTOM)));
        axes = axes.holding(word_at(at, BOTTOM + 16.0, "middle", &word).with("class", "axis"));
    }
    for (value, word) in y.ticks() {
        let at = y.at(value);
        axes = axes.holding(line("grid", (LEFT, at), (RIGHT, at)));
        axes = axes.holding(word_at(LEFT - 6.0, at + 4.0, "end", &word).with("class", "axis"));
    }
    // Names that would lie on one another are left out; points say them, too.
    let mut free_from = LEFT;
    for (value, name) in &plot.rules {
        let at = x.at(*value);
        axes = axes.holding(line("rule", (at, TOP), (at, BOTTOM)));
        if at >= free_from {
            let turned = format!("rotate(-90 {} {})", px(at + 12.0), px(BOTTOM - 6.0));
            let word = word_at(at + 12.0, BOTTOM - 6.0, "start", &shortened(name));
            axes = axes.holding(word.with("transform", &turned).with("class", "axis name"));
            free_from = at + 14.0;
        }
    }
    let middle = f64::midpoint(TOP, BOTTOM);
    let turned = format!("rotate(-90 14 {})", px(middle));
    axes.holding(
        Tag::new("rect")
            .with("class", "frame")
            .at("x", LEFT)
            .at("y", TOP)
            .at("width", RIGHT - LEFT)
            .at("height", BOTTOM - TOP),
    )
    .holding(word_at(f64::midpoint(LEFT, RIGHT), HEIGHT - 12.0, "middle", &plot.x.label))
    .holding(word_at(14.0, middle, "middle", &plot.y.label).with("transform", &turned))
}

fn one(series: &Series, (x, y): (&Scale, &Scale), drawable: impl Fn(&&Point) -> bool) -> Tag {
    let mut group = Tag::new("g").with("class", INKS[series.ink % INKS.len()]);
    let points: Vec<&Point> = series.points.iter().filter(drawable).collect();
    if series.is_joined && points.len() > 1 {
        let places: Vec<String> =
            points.iter().map(|point| format!("{},{}", px(x.at(point.x)), px(y.at(point.y)))).collect();
        let line = Tag::new("polyline").with("class", "line").with("points", &places.join(" "));
        group = group.holding(line.holding(Tag::new("title").text(&series.name)));
    }
    for point in points.iter().filter(|_| series.is_marked || points.len() == 1) {
        let (at_x, at_y) = (x.at(point.x), y.at(point.y));
        if let Some((low, high)) = point.spread {
            let (low, high) = (y.at(low), y.at(high));
            group = group
                .holding(line("bar", (at_x, low), (at_x, high)))
                .holding(line("bar", (at_x - 4.0, low), (at_x + 4.0, low)))
                .holding(line("bar", (at_x - 4.0, high), (at_x + 4.0, high)));
        }
        group = group.holding(
            marker(series.ink, at_x, at_y, point.is_hollow).holding(Tag::new("title").text(&point.tip)),
        );
    }
    group
}

/// A marker of the kind that belongs to a colour. After all colours the markers have moved on by one: no two of 56 are equal.
fn marker(ink: usize, x: f64, y: f64, is_hollow: bool) -> Tag {
    let corners: &[(f64, f64)] = match (ink + ink / INKS.len()) % MARKERS {
        0 => &[],
        1 => &[(-4.2, -4.2), (4.2, -4.2), (4.2, 4.2), (-4.2, 4.2)],
        2 => &[(0.0, -5.5), (5.2, 4.0), (-5.2, 4.0)],
        3 => &[(0.0, -6.0), (6.0, 0.0), (0.0, 6.0), (-6.0, 0.0)],
        4 => &[(0.0, 5.5), (5.2, -4.0), (-5.2, -4.0)],
        5 => &[(-2.0, -5.5), (2.0, -5.5), (2.0, 5.5), (-2.0, 5.5)],
        6 => &[(-5.5, -2.0), (5.5, -2.0), (5.5, 2.0), (-5.5, 2.0)],
        _ => &[(-3.0, -5.2), (3.0, -5.2), (6.0, 0.0), (3.0, 5.2), (-3.0, 5.2), (-6.0, 0.0)],
    };
    let class = if is_hollow { "mark hollow" } else { "mark" };
    if corners.is_empty() {
        return Tag::new("circle").with("class", class).at("cx", x).at("cy", y).at("r", 4.6);
    }
    let steps: Vec<String> =
        corners.iter().map(|(dx, dy)| format!("{} {}", px(x + dx), px(y + dy))).collect();
    Tag::new("path").with("class", class).with("d", &format!("M {} Z", steps.join(" L ")))
}

/// Names beside points, where they cover nothing.
#[derive(Debug, Default)]
struct Labels {
    /// Left, top, right, bottom of what must not be covered.
    avoid: Vec<[f64; 4]>,
    /// Names with their points.
    placed: Vec<(String, f64, f64)>,
    tags: Vec<Tag>,
}

impl Labels {
    /// Beside, above or below the point; nowhere, where there is no room, or the same name stands close by. The point itself
    /// says its name, too.
    fn place(&mut self, x: f64, y: f64, label: &str) {
        if self
            .placed
            .iter()
            .any(|(known, at_x, at_y)| *known == shortened(label) && (x - at_x).hypot(y - at_y) < CLOSE_BY)
        {
            return;
        }
        let label = shortened(label);
        let width = label.chars().count() as f64 * LETTER;
        let places = [
            (x + 9.0, y - 4.0, "start", x + 9.0),
            (x + 9.0, y + 14.0, "start", x + 9.0),
            (x - 9.0, y + 14.0, "end", x - 9.0 - width),
            (x - 9.0, y - 4.0, "end", x - 9.0 - width),
            (x, y - 12.0, "middle", x - width / 2.0),
            (x, y + 20.0, "middle", x - width / 2.0),
        ];
        for (at_x, at_y, anchor, left) in places {
            let area = [left, at_y - 10.0, left + width, at_y + 3.0];
            let is_within = area[0] > LEFT && area[2] < RIGHT && area[1] > TOP && area[3] < BOTTOM;
            if is_within && !self.avoid.iter().any(|other| overlap(area, *other)) {
                self.avoid.push([area[0] - 4.0, area[1], area[2] + 4.0, area[3]]);
                self.placed.push((label.clone(), x, y));
                self.tags.push(word_at(at_x, at_y, anchor, &label).with("class", "name"));
                return;
            }
        }
    }
}

fn around(x: f64, y: f64) -> [f64; 4] {
    [x - 5.0, y - 5.0, x + 5.0, y + 5.0]
}

fn overlap(one: [f64; 4], other: [f64; 4]) -> bool {
    one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3]
}

/// Each name once, as far as there is room.
fn legend(plot: &Plot) -> Tag {
    let mut named: Vec<(usize, &str, bool)> = Vec::new();
    for series in &plot.series {
        let entry = (series.ink, series.name.as_str(), series.is_marked);
        if !named.contains(&entry) {
            named.push(entry);
        }
    }
    let mut legend = Tag::new("g");
    let at = |row: usize| TOP + 10.0 + row as f64 * 18.0;
    for (row, (ink, name, is_marked)) in named.iter().take(LEGEND).enumerate() {
        let y = at(row);
        let sign = if *is_marked {
            marker(*ink, RIGHT + 18.0, y, false)
        } else {
            line("line", (RIGHT + 10.0, y), (RIGHT + 26.0, y))
        };
        let entry = Tag::new("g").with("class", INKS[ink % INKS.len()]).holding(sign);
        legend = legend.holding(entry).holding(
            word_at(RIGHT + 32.0, y + 4.0, "start", &shortened(name)).holding(Tag::new("title").text(name)),
        );
    }
    let mut row = named.len().min(LEGEND);
    if named.len() > LEGEND {
        legend = legend.holding(word_at(
            RIGHT + 32.0,
            at(row),
            "start",
            &format!("and {} more", named.len() - LEGEND),
        ));
        row += 1;
    }
    // Bands of one kind and name are one entry.
    let mut kinds: Vec<(BandKind, &str)> =
        plot.bands.iter().map(|band| (band.kind, band.name.as_str())).collect();
    kinds.dedup();
    for (kind, name) in kinds.into_iter().take(3) {
        let class = match kind {
            BandKind::Of(ink) => format!("band {}", INKS[ink % INKS.len()]),
            BandKind::Shade => "shade".to_owned(),
        };
        let y = at(row);
        let sign = Tag::new("rect")
            .with("class", &class)
            .at("x", RIGHT + 10.0)
            .at("y", y - 6.0)
            .at("width", 16.0)
            .at("height", 12.0);
        legend = legend.holding(sign).holding(word_at(RIGHT + 32.0, y + 4.0, "start", &shortened(name)));
        row += 1;
    }
    legend
}

/// A name that has room beside the frame.
fn shortened(name: &str) -> String {
    if name.chars().count() <= LETTERS {
        return name.to_owned();
    }
    name.chars().take(LETTERS - 1).chain(['…']).collect()
}

fn line(class: &'static str, from: (f64, f64), to: (f64, f64)) -> Tag {
    Tag::new("line").with("class", class).at("x1", from.0).at("y1", from.1).at("x2", to.0).at("y2", to.1)
}

fn word_at(x: f64, y: f64, anchor: &'static str, text: &str) -> Tag {
    Tag::new("text").at("x", x).at("y", y).with("text-anchor", anchor).text(text)
}
