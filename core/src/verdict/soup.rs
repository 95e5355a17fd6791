//! Finds answers that are no text: bytes that make no characters, scripts mixed at random, symbols
//! where words should be.
//!
//! Pieces of words of one script at random are not found. Frequencies of letter pairs and triples were
//! measured and tell them from no text: good code is further from prose than they are. See
//! `core/tests/verdict_samples.rs`.

use super::loops::is_its_own_word;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// This share of characters that are none is noise: one in the few words of a probe, two in a long answer,
/// where one may come of a copied terminal. Calibrated: see `core/tests/verdict_samples.rs`.
const BROKEN_SHARE: f64 = 0.005;
/// Scripts in one text. A person who writes Japanese with Latin names and Greek formulas uses three, Kana and
/// Han counted as one.
const MOST_SCRIPTS: usize = 3;
/// Changes from script to script. A list of greetings in many languages, each with its name in English, has
/// just under two for each script.
const CHANGES_PER_SCRIPT: usize = 2;
/// Texts shorter than this (characters but white space) may have no words: `{}`, an emoticon, a formula, a
/// number.
const SHORTEST: usize = 40;
/// Prose has more than this share of its characters in words. Numbers, regular expressions and tables may
/// have less, so it is asked only where words are expected.
const WORDS_SHARE: f64 = 0.1;

/// The text without tokens that only engines and templates should see: `<|im_end|>`, `</s>`, `[PAD]`.
pub(super) fn without_special_tokens(text: &str) -> Cow<'_, str> {
    const PLAIN: [&str; 12] = [
        "<s>",
        "</s>",
        "<unk>",
        "<pad>",
        "<bos>",
        "<eos>",
        "<start_of_turn>",
        "<end_of_turn>",
        "[PAD]",
        "[UNK]",
        "[INST]",
        "[/INST]",
    ];
    if !text.contains(['<', '[']) {
        return text.into();
    }
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '[']) {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        let plain = PLAIN.iter().find(|token| rest.starts_with(**token)).map(|token| token.len());
        let length = plain.or_else(|| barred(rest));
        if length.is_none() {
            kept.push_str(&rest[..1]);
        }
        rest = &rest[length.unwrap_or(1)..];
    }
    kept.push_str(rest);
    kept.into()
}

/// Bytes of the `<|name|>` or `<｜name｜>` (DeepSeek's) that `text` starts with: a short name without white
/// space.
fn barred(text: &str) -> Option<usize> {
    const LONGEST_NAME: usize = 48;
    [("<|", "|>"), ("<｜", "｜>")].iter().find_map(|(open, close)| {
        let inner = text.strip_prefix(open)?;
        let ends = inner.char_indices().take(LONGEST_NAME).map(|(at, _)| at);
        let end = ends.into_iter().find(|&at| inner[at..].starts_with(close))?;
        (!inner[..end].contains(char::is_whitespace)).then_some(open.len() + end + close.len())
    })
}

/// Why `text` holds too much that is no text, where it does.
pub(super) fn why_broken(text: &str) -> Option<String> {
    // A character that was cut in half at the end is the fault of nobody.
    let text = text.strip_suffix(char::REPLACEMENT_CHARACTER).unwrap_or(text);
    let (all, broken) = (text.chars().count(), text.chars().filter(|c| is_broken(*c)).count());
    (broken > 0 && broken as f64 >= all as f64 * BROKEN_SHARE)
        .then(|| format!("{broken} of {all} characters are control characters or broken"))
}

/// Replacement characters, control characters but white space, private use, and what is no character for
/// ever.
fn is_broken(c: char) -> bool {
    let private = matches!(u32::from(c), 0xE000..=0xF8FF | 0xF_0000..=0x10_FFFF);
    let never = u32::from(c) & 0xFFFE == 0xFFFE || matches!(u32::from(c), 0xFDD0..=0xFDEF);
    c == char::REPLACEMENT_CHARACTER || (c.is_control() && !c.is_whitespace()) || private || never
}

/// Why `text` is a soup of scripts, where it is.
pub(super) fn why_mixed(text: &str) -> Option<String> {
    let (mut scripts, mut changes, mut last) = (BTreeSet::new(), 0, None);
    for script in text.chars().filter_map(Script::of) {
        changes += usize::from(last.is_some_and(|last| last != script));
        scripts.insert(script);
        last = Some(script);
    }
    (scripts.len() > MOST_SCRIPTS && changes >= scripts.len() * CHANGES_PER_SCRIPT)
        .then(|| format!("{} scripts change {changes} times", scripts.len()))
}

/// Why `text` is not made of words, where it is not.
pub(super) fn why_wordless(text: &str) -> Option<String> {
    let all = text.chars().filter(|c| !c.is_whitespace()).count();
    let in_words = in_words(text);
    (all >= SHORTEST && (in_words as f64) < all as f64 * WORDS_SHARE)
        .then(|| format!("only {in_words} of {all} characters are in words"))
}

/// Letters in runs of at least three, and letters of scripts without spaces.
fn in_words(text: &str) -> usize {
    text.split(|c: char| !c.is_alphabetic())
        .map(|run| (run.chars().count(), run.chars().any(is_its_own_word)))
        .filter(|(letters, own)| *letters >= 3 || *own)
        .map(|(letters, _)| letters)
        .sum()
}

/// The writing systems that are told apart; all of a letter's neighbours in Unicode count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Script {
    Latin,
    Greek,
    Cyrillic,
    Hebrew,
    Arabic,
    Hangul,
    /// Han and Kana, which one text mixes.
    EastAsian,
    /// Any other, by its block of 128 characters.
    Other(u32),
}

impl Script {
    fn of(c: char) -> Option<Self> {
        if !c.is_alphabetic() {
            return None;
        }
        Some(match u32::from(c) {
            // Modifier letters, letterlike symbols and mathematical alphabets belong to every text.
            0x02B0..=0x036F | 0x2070..=0x218F | 0x24B6..=0x24E9 | 0xFF00..=0xFFEF | 0x1_D400..=0x1_D7FF => {
                return None;
            }
            0..=0x02AF | 0x1D00..=0x1DBF | 0x1E00..=0x1EFF | 0x2C60..=0x2C7F | 0xA720..=0xA7FF => Self::Latin,
            0x0370..=0x03FF | 0x1F00..=0x1FFF => Self::Greek,
            0x0400..=0x052F | 0x1C80..=0x1C8F | 0x2DE0..=0x2DFF | 0xA640..=0xA69F => Self::Cyrillic,
            0x0590..=0x05FF => Self::Hebrew,
            0x0600..=0x077F | 0x08A0..=0x08FF | 0xFB50..=0xFDFF | 0xFE70..=0xFEFF => Self::Arabic,
            0x1100..=0x11FF | 0x3130..=0x318F | 0xA960..=0xA97F | 0xAC00..=0xD7FF => Self::Hangul,
            0x2E80..=0x9FFF | 0xF900..=0xFAFF | 0x2_0000..=0x3_FFFF => Self::EastAsian,
            other => Self::Other(other / 128),
        })
    }
}
