//! Finds answers that are no text: bytes that make no characters, the inner names of tokens, scripts mixed at
//! random, symbols where words should be. What is wrong with the pairs of characters is in `pairs`.

use super::loops::is_its_own_word;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// This share of characters that are none is noise: one in the few words of a probe, two in a long answer,
/// where one may come of a copied terminal. Calibrated: see `core/tests/verdict_samples.rs`.
const BROKEN_SHARE: f64 = 0.005;
/// Pairs of scripts that touch each other. A person who writes Japanese with Latin names and Greek formulas has
/// two: Latin and Greek each beside Japanese, Kana and Han counted as one.
const FEWEST_TOUCHING: usize = 3;
/// How often scripts touch, for each word. One word in six is the most that was seen in good texts (the
/// explanation of a grammar), three in ten the least in tokens drawn at random from a vocabulary of many
/// languages. See `core/tests/verdict_corpus/README.md`.
const TOUCHING_SHARE: f64 = 0.25;
/// Fewer names of bytes, or letters that are bytes, may be talked about.
const FEWEST_LEAKS: usize = 4;
/// The share of a text that letters which are the bytes of others take in the least accented language.
const MISREAD_SHARE: f64 = 0.01;
/// The share of a text that bytes in brackets take where one letter in ten is not in the vocabulary.
const BRACKETED_SHARE: f64 = 0.2;
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
///
/// Only what touches letters or its like counts: an explanation of U+FFFD, a coloured terminal and an icon of a
/// prompt have such characters too, but alone.
pub(super) fn why_broken(text: &str) -> Option<String> {
    // A character that was cut in half at the end is the fault of nobody.
    let text = text.strip_suffix(char::REPLACEMENT_CHARACTER).unwrap_or(text);
    let (mut all, mut broken, mut touches) = (0_u32, 0_u32, false);
    let mut last = None;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        all += 1;
        if c == '\u{1B}' && rest.peek() == Some(&'[') {
            last = None;
            continue;
        }
        broken += u32::from(is_broken(c));
        let touching = |a: char, b: char| is_broken(a) && (is_broken(b) || b.is_alphanumeric());
        touches |= last.is_some_and(|last| touching(last, c) || touching(c, last));
        last = Some(c);
    }
    (touches && f64::from(broken) >= f64::from(all) * BROKEN_SHARE)
        .then(|| format!("{broken} of {all} characters are control characters or broken"))
}

/// Replacement characters, control characters but white space, private use, and what is no character for
/// ever.
fn is_broken(c: char) -> bool {
    let private = matches!(u32::from(c), 0xE000..=0xF8FF | 0xF_0000..=0x10_FFFF);
    let never = u32::from(c) & 0xFFFE == 0xFFFE || matches!(u32::from(c), 0xFDD0..=0xFDEF);
    c == char::REPLACEMENT_CHARACTER || (c.is_control() && !c.is_whitespace()) || private || never
}

/// Why `text` shows how tokens are kept inside a vocabulary, where it does: a detokeniser was left out or reads
/// bytes as letters.
pub(super) fn why_leaked(text: &str) -> Option<String> {
    let (mut spaces, mut names, mut blocks, mut misread, mut all) = (0, 0, 0, 0, 0_usize);
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        all += 1;
        spaces += usize::from(c.is_whitespace());
        // GPT-2's names of the bytes 9, 10 and 32.
        names += usize::from(matches!(c, 'ĉ' | 'Ċ' | 'Ġ'));
        // SentencePiece's space.
        blocks += usize::from(c == '▁' && rest.clone().next().is_some_and(char::is_alphanumeric));
        misread += usize::from(is_misread(c, rest.clone()));
    }
    if names.max(blocks) >= FEWEST_LEAKS && names.max(blocks) > spaces {
        return Some(format!("{} names of spaces and {spaces} spaces", names.max(blocks)));
    }
    let bytes = bracketed_bytes(text);
    if bytes >= FEWEST_LEAKS && (bytes * "<0x00>".len()) as f64 >= all as f64 * BRACKETED_SHARE {
        return Some(format!("{bytes} names of bytes among {all} characters"));
    }
    (misread >= FEWEST_LEAKS && misread as f64 >= all as f64 * MISREAD_SHARE)
        .then(|| format!("{misread} of {all} characters are bytes of others"))
}

/// Whether `first` and what follows are one character's bytes in UTF-8, each read as a character of Latin-1 or
/// of Windows-1252. No language writes such pairs: `Ã©`, `Ð¾`, `ä¸­`.
fn is_misread(first: char, mut rest: impl Iterator<Item = char>) -> bool {
    let following = match u32::from(first) {
        0xC2..=0xDF => 1,
        0xE0..=0xEF => 2,
        0xF0..=0xF4 => 3,
        _ => return false,
    };
    (0..following).all(|_| {
        rest.next()
            .is_some_and(|c| matches!(u32::from(c), 0x80..=0xBF) || "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ".contains(c))
    })
}

/// How many `<0xE4>` there are: SentencePiece's names of bytes that are no token of their own.
fn bracketed_bytes(text: &str) -> usize {
    let is_byte = |rest: &&str| {
        let rest = rest.as_bytes();
        matches!(rest, [a, b, b'>', ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
    };
    text.split("<0x").skip(1).filter(is_byte).count()
}

/// Why `text` is a soup of scripts, where it is. In texts scripts keep to themselves: quotes, brackets, commas
/// and cells of tables stand between them, and where they touch, it is a foreign word beside the text's own
/// script. Tokens at random put every script beside every other.
pub(super) fn why_mixed(text: &str) -> Option<String> {
    let (mut touching, mut pairs, mut words) = (0_usize, BTreeSet::new(), 0_usize);
    let (mut last, mut is_apart, mut in_word) = (None, true, false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let next = rest.peek().copied().and_then(Script::of);
        let in_greek = (in_word && last == Some(Script::Greek)) || next == Some(Script::Greek);
        // A Greek letter alone is one of a formula, in any language.
        let Some(script) = Script::of(c).filter(|script| *script != Script::Greek || in_greek) else {
            // Signs on and between letters (vowels, accents) end no word.
            let is_sign = !c.is_ascii() && !c.is_whitespace() && in_word;
            is_apart |= c != ' ' && !is_sign;
            in_word &= is_sign;
            continue;
        };
        words += usize::from(!in_word || last != Some(script));
        if let Some(other) = last.filter(|last| *last != script && !is_apart) {
            touching += 1;
            pairs.insert((other.min(script), other.max(script)));
        }
        (last, is_apart, in_word) = (Some(script), false, true);
    }
    (pairs.len() >= FEWEST_TOUCHING && touching as f64 >= words as f64 * TOUCHING_SHARE)
        .then(|| format!("scripts touch {touching} times in {words} words, {} pairs of them", pairs.len()))
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
    /// One that takes more than a block, by its first character.
    Wide(u32),
    /// Any other, by its block of 128 characters.
    Other(u32),
}

/// Armenian, Tibetan, Burmese, Georgian, Ethiopic, Cherokee, Canadian syllabics, Yi, Vai, cuneiform,
/// hieroglyphs, Tangut: first and last.
const WIDE: [(u32, u32); 12] = [
    (0x0530, 0x058F),
    (0x0F00, 0x0FFF),
    (0x1000, 0x109F),
    (0x10A0, 0x10FF),
    (0x1200, 0x139F),
    (0x13A0, 0x13FF),
    (0x1400, 0x167F),
    (0xA000, 0xA4CF),
    (0xA500, 0xA63F),
    (0x1_2000, 0x1_254F),
    (0x1_3000, 0x1_345F),
    (0x1_7000, 0x1_8D7F),
];

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
            other => WIDE
                .iter()
                .find(|(first, last)| (*first..=*last).contains(&other))
                .map_or(Self::Other(other / 128), |(first, _)| Self::Wide(*first)),
        })
    }
}
