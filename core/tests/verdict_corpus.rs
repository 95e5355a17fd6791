//! The judge of answers, measured: precision and recall of each verdict, and how often good texts are condemned,
//! on the corpus beside this file (see `verdict_corpus/README.md`).
//!
//! The corpus is split by the texts themselves. Thresholds and the table of pairs may be chosen on the held-in
//! part; the held-out part, with a quarter of all kinds in whole (languages, notations, ways of breaking), is only
//! measured.

use mesh_core::verdict::{Answer, Expectation, Verdict, judge};
use reader::{Sample, corpus};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

#[path = "verdict_corpus/reader.rs"]
mod reader;

fn judged(sample: &Sample) -> Verdict {
    let expectation = match sample.expect.as_deref() {
        Some("whole") => Expectation::WHOLE,
        Some("sentence") => Expectation::SENTENCE,
        _ => Expectation::BEGINNING,
    };
    let expectation = sample.most_tokens.map_or(expectation, |tokens| expectation.within(tokens));
    let (text, finish_reason) = (sample.text.as_str(), sample.finish.as_deref());
    judge(&Answer { text, finish_reason, completion_tokens: sample.tokens, ..Answer::default() }, expectation)
}

fn is_right(sample: &Sample, word: &str) -> bool {
    sample.label == word || (sample.label == "noise" && matches!(word, "gibberish" | "repeated"))
}

/// Good code, and good texts whose letters are for the most part not Latin.
fn is_code_or_not_latin(sample: &Sample) -> bool {
    let letters = sample.text.chars().filter(|c| c.is_alphabetic()).count();
    let latin = sample.text.chars().filter(|c| c.is_alphabetic() && *c < '\u{0250}').count();
    sample.label == "good" && (sample.kind.contains("code") || latin * 2 < letters)
}

/// How often a verdict was given rightly, wrongly, and not given where it was right.
#[derive(Default, Clone, Copy)]
struct Score {
    right: u32,
    wrong: u32,
    missed: u32,
}

impl Score {
    fn precision(self) -> f64 {
        f64::from(self.right) / f64::from((self.right + self.wrong).max(1))
    }

    fn recall(self) -> f64 {
        f64::from(self.right) / f64::from((self.right + self.missed).max(1))
    }

    fn f1(self) -> f64 {
        f64::from(2 * self.right) / f64::from((2 * self.right + self.wrong + self.missed).max(1))
    }
}

/// The figures of one part of the corpus.
#[derive(Default)]
struct Figures {
    scores: BTreeMap<&'static str, Score>,
    good: (u32, u32),
    code_or_not_latin: (u32, u32),
    beginnings: (u32, u32),
    unclear: BTreeMap<String, (u32, u32)>,
    misjudged: String,
}

/// Good texts are judged by their beginnings too, in characters: probes and streams see no more.
const BEGUN: [usize; 5] = [40, 70, 100, 150, 250];

const CLASSES: [&str; 6] = ["empty", "repeated", "gibberish", "noise", "cut", "endless"];

fn is_noise(word: &str) -> bool {
    matches!(word, "gibberish" | "repeated" | "noise")
}

impl Figures {
    fn of<'a>(samples: impl Iterator<Item = &'a Sample>) -> Self {
        let mut figures = Self::default();
        for sample in samples {
            figures.add(sample);
        }
        figures
    }

    fn add(&mut self, sample: &Sample) {
        let verdict = judged(sample);
        let word = verdict.word();
        if sample.label == "unclear" {
            let kind = self.unclear.entry(sample.kind.clone()).or_default();
            *kind = (kind.0 + u32::from(word != "good"), kind.1 + 1);
            return;
        }
        for class in CLASSES {
            let score = self.scores.entry(class).or_default();
            let (given, due) = match class {
                // Broken answers of either sort: which of the two is found first is of no consequence.
                "noise" => (is_noise(word), is_noise(&sample.label)),
                // What may be called either is due as what it was called, else as gibberish.
                _ if sample.label == "noise" && is_noise(word) => (word == class, word == class),
                _ => (
                    word == class,
                    class == if sample.label == "noise" { "gibberish" } else { &sample.label },
                ),
            };
            score.right += u32::from(given && due);
            score.wrong += u32::from(given && !due);
            score.missed += u32::from(!given && due);
        }
        let is_condemned = u32::from(word != "good");
        if sample.label == "good" {
            self.good = (self.good.0 + is_condemned, self.good.1 + 1);
        }
        if sample.label == "good" {
            self.begin(sample);
        }
        if is_code_or_not_latin(sample) {
            self.code_or_not_latin = (self.code_or_not_latin.0 + is_condemned, self.code_or_not_latin.1 + 1);
        }
        if !is_right(sample, word) {
            let why = verdict.why().unwrap_or("nothing found");
            let (id, kind, label) = (&sample.id, &sample.kind, &sample.label);
            writeln!(self.misjudged, "  {id} ({kind}): {label}, judged {word}: {why}")
                .expect("a string grows");
        }
    }

    /// Judges the beginnings of a good text.
    fn begin(&mut self, sample: &Sample) {
        for begun in BEGUN {
            let Some((end, _)) = sample.text.char_indices().nth(begun) else { return };
            let text = &sample.text[..end];
            let answer = Answer { text, finish_reason: Some("length"), ..Answer::default() };
            let verdict = judge(&answer, Expectation::BEGINNING);
            let fault = verdict.why().filter(|_| !text.trim().is_empty());
            self.beginnings = (self.beginnings.0 + u32::from(fault.is_some()), self.beginnings.1 + 1);
            if let Some(why) = fault {
                let (id, kind, word) = (&sample.id, &sample.kind, verdict.word());
                writeln!(
                    self.misjudged,
                    "  {id} ({kind}), its first {begun} characters: judged {word}: {why}"
                )
                .expect("a string grows");
            }
        }
    }

    fn table(&self, name: &str) -> String {
        let mut table = format!("{name}\n  verdict     due  precision  recall      F1\n");
        for class in CLASSES {
            let score = self.scores[class];
            let (due, precision) = (score.right + score.missed, score.precision());
            writeln!(
                table,
                "  {class:<10} {due:>4}  {precision:>9.4}  {:>6.4}  {:>6.4}",
                score.recall(),
                score.f1()
            )
            .expect("a string grows");
        }
        let rate = |(condemned, all): (u32, u32)| {
            format!("{condemned} of {all} ({:.2} %)", share((condemned, all)) * 100.0)
        };
        writeln!(table, "  good texts condemned: {}", rate(self.good)).expect("a string grows");
        writeln!(table, "  of code and other scripts: {}", rate(self.code_or_not_latin))
            .expect("a string grows");
        writeln!(table, "  beginnings of good texts condemned: {}", rate(self.beginnings))
            .expect("a string grows");
        for (kind, counts) in &self.unclear {
            writeln!(table, "  unclear, not counted: {kind}: condemned {}", rate(*counts))
                .expect("a string grows");
        }
        table
    }
}

fn share((part, whole): (u32, u32)) -> f64 {
    f64::from(part) / f64::from(whole.max(1))
}

fn figures(held_out: bool) -> Figures {
    Figures::of(corpus().iter().filter(|sample| sample.is_held_out() == held_out))
}

/// The goals of the judge, on texts that its thresholds were chosen on.
#[test]
#[expect(clippy::print_stdout, reason = "the figures are what this test is for")]
fn held_in_texts_are_judged_right() {
    let figures = figures(false);
    let table = format!("{}{}", figures.table("held in"), figures.misjudged);
    println!("{table}");
    for class in ["repeated", "gibberish", "noise"] {
        assert!(figures.scores[class].f1() >= 0.99, "{class}\n{table}");
    }
    for class in ["empty", "cut", "endless"] {
        assert!(figures.scores[class].f1() >= 1.0, "{class}\n{table}");
    }
    for condemned in [figures.good, figures.code_or_not_latin, figures.beginnings] {
        assert!(share(condemned) <= 0.005, "{table}");
    }
}

/// What is left of them on texts that nothing was chosen on: no good text more is condemned, and noise of kinds
/// that were never seen is missed once in twenty times.
#[test]
#[expect(clippy::print_stdout, reason = "the figures are what this test is for")]
fn held_out_texts_are_judged_almost_as_well() {
    let figures = figures(true);
    let table = format!("{}{}", figures.table("held out"), figures.misjudged);
    println!("{table}");
    for (class, least) in [("repeated", 0.98), ("gibberish", 0.94), ("noise", 0.96)] {
        assert!(figures.scores[class].f1() >= least, "{class}\n{table}");
        assert!(figures.scores[class].precision() >= 0.99, "{class}\n{table}");
    }
    for class in ["empty", "cut", "endless"] {
        assert!(figures.scores[class].f1() >= 0.98, "{class}\n{table}");
    }
    for condemned in [figures.good, figures.code_or_not_latin, figures.beginnings] {
        assert!(share(condemned) <= 0.005, "{table}");
    }
}

#[test]
fn the_corpus_is_wide() {
    let corpus = corpus();
    assert!(corpus.len() >= 1_000, "{}", corpus.len());
    let kinds =
        |part: fn(&Sample) -> Option<&str>| corpus.iter().filter_map(part).collect::<BTreeSet<&str>>().len();
    let languages = kinds(|sample| {
        let by_hand = sample.id.starts_with("human-latin") || sample.id.starts_with("human-other");
        by_hand.then_some(sample.kind.as_str())
    });
    let notations = kinds(|sample| sample.kind.strip_prefix("code:"));
    assert!(languages >= 100 && notations >= 70, "{languages} languages, {notations} notations");
    let held_out = corpus.iter().filter(|sample| sample.is_held_out()).count();
    assert!(held_out * 3 > corpus.len() && held_out * 2 < corpus.len(), "{held_out} of {}", corpus.len());
}
