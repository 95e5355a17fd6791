//! Laws of the parts: whatever the numbers, a plot has none that is no number; whatever the texts, no form is broken out of.

use super::super::axis::{Scale, Spacing};
use super::super::plot::{Axis, Band, BandKind, Plot, Point, Series, figure};
use super::super::{csv, markdown, markup::Tag};
use super::well_formed::elements;
use proptest::prelude::*;

const SPACINGS: [Spacing; 4] = [Spacing::FromZero, Spacing::Within, Spacing::Ratio, Spacing::Doubling];

/// Any number, most of them such as a machine tells.
fn number() -> BoxedStrategy<f64> {
    prop_oneof![
        6 => 0.001..100_000.0_f64,
        1 => Just(0.0),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => any::<f64>(),
    ]
    .boxed()
}

fn ticks(spacing: Spacing, values: &[f64]) -> Vec<String> {
    let scale = Scale::of(spacing, values.iter().copied(), 0.0, 100.0).expect("values that can be drawn");
    scale.ticks().into_iter().map(|(_, word)| word).collect()
}

#[test]
fn ticks_are_round_and_few() {
    assert_eq!(ticks(Spacing::FromZero, &[100.0]), ["0", "20", "40", "60", "80", "100"]);
    assert_eq!(ticks(Spacing::FromZero, &[0.0]), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
    assert_eq!(ticks(Spacing::FromZero, &[0.037]), ["0", "0.01", "0.02", "0.03", "0.04"]);
    assert_eq!(ticks(Spacing::Within, &[46.0, 76.0]), ["40", "50", "60", "70", "80"]);
    assert_eq!(ticks(Spacing::Within, &[51.0]), ["50", "50.5", "51", "51.5", "52"]);
    assert_eq!(ticks(Spacing::Ratio, &[0.52, 83.0]), ["0.5", "1", "2", "5", "10", "20", "50", "100"]);
    assert_eq!(
        ticks(Spacing::Ratio, &[0.01, 100_000.0]),
        ["0.01", "0.1", "1", "10", "100", "1000", "10000", "100000"]
    );
    assert_eq!(ticks(Spacing::Doubling, &[512.0, 16_384.0]), ["512", "1K", "2K", "4K", "8K", "16K"]);
}

#[test]
fn a_single_point_and_equal_points_have_an_axis() {
    for spacing in SPACINGS {
        for values in [vec![7.0], vec![7.0, 7.0]] {
            let scale = Scale::of(spacing, values.into_iter(), 10.0, 110.0).expect("one value");
            assert!((10.0..=110.0).contains(&scale.at(7.0)), "{spacing:?}");
            assert!(!scale.ticks().is_empty(), "{spacing:?}");
        }
        assert_eq!(Scale::of(spacing, [f64::NAN].into_iter(), 0.0, 1.0), None, "{spacing:?}");
    }
    assert_eq!(Scale::of(Spacing::Ratio, [0.0, -1.0].into_iter(), 0.0, 1.0), None, "no ratio has 0");
}

/// Where a point lies, and from where to where it may.
type Place = (f64, f64, Option<(f64, f64)>);

fn plot(points: Vec<Place>, x: Spacing, y: Spacing, text: &str) -> Plot {
    let points = points.into_iter().map(|(x, y, spread)| Point {
        x,
        y,
        spread,
        label: text.into(),
        tip: text.into(),
        is_hollow: false,
    });
    let axis = |spacing| Axis { label: text.into(), spacing };
    let series =
        Series { name: text.into(), ink: 9, is_joined: true, is_marked: true, points: points.collect() };
    Plot {
        title: text.into(),
        caption: text.into(),
        x: axis(x),
        y: axis(y),
        series: vec![series],
        bands: vec![Band { from: 1.0, to: f64::NAN, name: text.into(), kind: BandKind::Shade }],
        rules: vec![(1.0, text.into())],
        nothing: "nothing".into(),
    }
}

proptest! {
    #[test]
    fn an_axis_keeps_order_and_stays_on_the_paper(
        values in prop::collection::vec(number(), 1..9),
        which in 0..4_usize,
    ) {
        let spacing = SPACINGS[which];
        if let Some(scale) = Scale::of(spacing, values.iter().copied(), 20.0, 500.0) {
            for value in &values {
                prop_assert!((20.0..=500.0).contains(&scale.at(*value)), "{value}: {}", scale.at(*value));
            }
            let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
            sorted.sort_by(f64::total_cmp);
            for pair in sorted.windows(2) {
                prop_assert!(scale.at(pair[0]) <= scale.at(pair[1]));
            }
            let ticks = scale.ticks();
            prop_assert!(ticks.len() <= 20, "{ticks:?}");
            for pair in ticks.windows(2) {
                prop_assert!(pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1, "{ticks:?}");
            }
        }
    }

    #[test]
    fn a_plot_is_well_formed_and_has_no_nan(
        points in prop::collection::vec((number(), number(), proptest::option::of((number(), number()))), 0..9),
        x in 0..4_usize,
        y in 0..4_usize,
        text in any::<String>(),
    ) {
        let drawn = figure(&plot(points, SPACINGS[x], SPACINGS[y], &text)).document();
        let page = elements(&drawn).map_err(TestCaseError::fail)?;
        for element in page.elements {
            for (name, value) in element.attributes {
                let is_place = matches!(name.as_str(), "x" | "y" | "cx" | "cy" | "points" | "d" | "width" | "viewBox");
                prop_assert!(!is_place || !(value.contains("NaN") || value.contains("inf")), "{name}={value}");
            }
        }
    }

    #[test]
    fn text_and_attributes_come_back_as_they_were_put_in(text in any::<String>()) {
        let hidden = |c: char| (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}');
        let shown: String = text.chars().map(|c| if hidden(c) { '\u{fffd}' } else { c }).collect();
        let page = elements(&Tag::new("p").with("title", &text).text(&text).document()).map_err(TestCaseError::fail)?;
        prop_assert_eq!(&page.elements[0].attributes[0].1, &shown);
        // A line break follows the document's type and the paragraph.
        let twice = format!("\n{shown}{shown}");
        prop_assert_eq!(page.text, twice);
    }

    #[test]
    fn a_field_of_csv_is_one_field_and_no_formula(text in any::<String>()) {
        let field = csv::quoted(&csv::defused(&text));
        let inside = match field.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"').expect("its end").replace("\"\"", "\""),
            None => {
                prop_assert!(!field.contains([',', '"', '\n', '\r']));
                field
            }
        };
        prop_assert!(!inside.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']), "{inside}");
        prop_assert!(inside == text || inside.strip_prefix('\'') == Some(&text));
    }

    #[test]
    fn text_in_markdown_stays_on_its_line_and_in_its_cell(text in any::<String>()) {
        let escaped = markdown::escaped(&text);
        prop_assert!(!escaped.contains(['\n', '\r', '<', '>', '\u{1b}']), "{}", escaped);
        let mut before = ' ';
        for c in escaped.chars() {
            prop_assert!(!matches!(c, '|' | '`' | '*' | '[') || before == '\\', "{escaped}");
            before = if before == '\\' { ' ' } else { c };
        }
    }
}

#[test]
fn what_a_spreadsheet_would_compute_is_text() {
    for text in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "＝1"] {
        assert_eq!(csv::defused(text), format!("'{text}"));
    }
    assert_eq!(csv::defused("llama3:8b"), "llama3:8b");
    assert_eq!(csv::quoted("a \"b\", c"), "\"a \"\"b\"\", c\"");
}
