//! The table of pairs is what the held-in texts of the corpus give, and what it tells of them.

use super::*;
use std::fmt::Write;

#[path = "../../../tests/verdict_corpus/reader.rs"]
#[expect(dead_code, reason = "the test that measures the judge needs more of a sample")]
mod reader;

/// Tenths of a bit that one pair may say, so that one rare pair decides nothing.
const MOST: f64 = 40.0;
/// Characters of one text that are counted, so that long ones do not drown the others.
const COUNTED: usize = 1_500;
/// How many pairs the frequency of the second character alone is worth: what was hardly seen stays near 0.
const PRIOR: f64 = 24.0;

/// The odds of the second sort after the first, smoothed.
fn odds<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Vec<f64>> {
    let mut counts = vec![vec![0_u32; SORTS]; SORTS];
    for text in texts {
        let sorts: Vec<usize> = text.chars().take(COUNTED).map(sort).collect();
        for pair in sorts.windows(2) {
            counts[pair[0]][pair[1]] += 1;
        }
    }
    let ends = |second: usize| counts.iter().map(|row| row[second]).sum::<u32>() + 1;
    let second: Vec<f64> = (0..SORTS).map(|sort| f64::from(ends(sort))).collect();
    let all: f64 = second.iter().sum();
    let row = |row: &Vec<u32>| {
        let sum = f64::from(row.iter().sum::<u32>()) + PRIOR;
        row.iter().zip(&second).map(|(n, second)| (f64::from(*n) + PRIOR * second / all) / sum).collect()
    };
    counts.iter().map(row).collect()
}

/// Noise that is made of characters at all: the other ways of breaking have rules of their own.
fn is_noise(sample: &reader::Sample) -> bool {
    const MADE_OF: [&str; 5] = ["soup:", "noise:printable", "noise:letters", "noise:characters", "model:"];
    matches!(sample.label.as_str(), "gibberish" | "noise")
        && MADE_OF.iter().any(|kind| sample.kind.starts_with(kind))
}

fn derived() -> Vec<String> {
    let corpus = reader::corpus();
    let held_in = || corpus.iter().filter(|sample| !sample.is_held_out());
    let good = odds(held_in().filter(|sample| sample.label == "good").map(|sample| sample.text.as_str()));
    let noise = odds(held_in().filter(|sample| is_noise(sample)).map(|sample| sample.text.as_str()));
    let cell = |first: usize, second: usize| {
        let both_signs = is_sign(first) && is_sign(second);
        let tenths = (noise[first][second] / good[first][second]).log2() * 10.0;
        let tenths = if both_signs { 0.0 } else { tenths.clamp(-MOST, MOST) };
        char::from((f64::from(ZERO) + tenths).round() as u8)
    };
    (0..SORTS).map(|first| (0..SORTS).map(|second| cell(first, second)).collect()).collect()
}

#[test]
fn the_table_is_what_the_held_in_texts_give() {
    let derived = derived();
    let printed = derived.iter().fold(String::new(), |mut printed, row| {
        writeln!(printed, "    r\"{row}\",").expect("a string grows");
        printed
    });
    for (row, kept) in derived.iter().zip(TABLE) {
        assert_eq!(row.len(), kept.len(), "take this table:\n{printed}");
        // Logarithms may differ in their last bit between machines.
        let is_near = row.bytes().zip(kept.bytes()).all(|(a, b)| a.abs_diff(b) <= 1);
        assert!(is_near, "take this table:\n{printed}");
    }
}

#[test]
fn every_sort_of_character_has_its_row_and_column() {
    for c in ('\0'..='\u{2FFF}').chain(['中', '😀', '\u{10FFFF}']) {
        assert!(sort(c) < SORTS, "{c:?}");
    }
    let ascii: std::collections::BTreeSet<usize> = ('!'..='~').map(sort).collect();
    assert_eq!(ascii.len(), 32 + 26 + 2, "signs, small letters, capitals, digits");
    assert!(TABLE.iter().all(|row| row.len() == SORTS));
}
