//! Finds answers that go round in circles: a piece of text that repeats itself exactly, or few phrases that
//! take turns.

use std::collections::BTreeSet;

/// The longest piece that is looked for, in characters: a few sentences.
const LONGEST_PIECE: usize = 240;
/// A piece that stands there this often is a loop; lists and code say the same thing three times.
const TIMES: usize = 4;
/// Loops shorter than this (characters) are style: `no, no, no, no`, a row of a table, an ellipsis.
const SHORTEST: usize = 40;
/// The share of the text that a loop must take. Calibrated: see `core/tests/verdict_samples.rs`.
const SHARE: f64 = 0.4;
/// The same for a line of one symbol, which people draw: `--------`.
const LINE_SHARE: f64 = 0.7;
/// One character that takes [`LINE_SHARE`] of the text is a loop from this length on. Broken kernels answer
/// `GGGG…` with one token for each character, and a probe asks for 24; a power of ten has fewer zeros.
const SHORTEST_LINE: usize = 20;
/// A loop up to this long is a word or a syllable: no model may do that.
const WORD: usize = 12;
/// A piece up to this long without words is a sign and a space: `0, 0, 0, `.
const SIGN: usize = 4;
/// Such a line of signs is a loop from this length on: people draw longer ones, but not as the whole answer.
const SHORTEST_SIGNS: usize = 60;
/// A longer piece without words is the row of a table or of a matrix (an identity matrix of n rows is a piece
/// n - 1 times), so it must stand there far more often.
const TIMES_OF_ROWS: usize = 12;
/// A word or a syllable that stands there so often is a stutter, however much follows.
const STUTTER: usize = 5;
/// Characters of the shortest stutter: `hahahahaha` is a laugh.
const SHORTEST_STUTTER: usize = 12;
/// Words that take less of a text than this are labels in a table or a drawing: their order tells nothing.
const WORDS_SHARE: f64 = 0.4;
/// Three words in a row are a phrase. Under this share of different ones, the text takes turns with few.
const DIFFERENT_PHRASES: f64 = 0.35;
/// Fewer phrases than this tell nothing.
const FEWEST_PHRASES: usize = 16;

/// A piece of the text that repeats itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Loop {
    /// Characters of the piece.
    piece: usize,
    /// Characters that the repetitions take, together.
    covers: usize,
}

/// Why `text` is a loop, where it is one. With `may_loop` only words and characters without end are faults.
pub(super) fn why_repeated(text: &str, may_loop: bool) -> Option<String> {
    let text = spaced_once(text);
    if let Some(found) = longest_loop(&text, if may_loop { WORD } else { LONGEST_PIECE }) {
        let (times, share) = (found.covers / found.piece, 100 * found.covers / text.len());
        return Some(match found.piece {
            1 => format!("one character {times} times, {share} % of the text"),
            piece => format!("a piece of {piece} characters {times} times, {share} % of the text"),
        });
    }
    let stuttered = stuttered(&text);
    if stuttered >= SHORTEST && stuttered as f64 >= text.len() as f64 * SHARE {
        let share = 100 * stuttered / text.len();
        return Some(format!("short pieces that repeat themselves are {share} % of the text"));
    }
    if may_loop {
        return None;
    }
    let (different, all) = phrases(&text);
    (all >= FEWEST_PHRASES && (different as f64) < all as f64 * DIFFERENT_PHRASES)
        .then(|| format!("only {different} of {all} phrases of three words are different"))
}

/// The characters with each run of white space as one space: indentation is no loop.
fn spaced_once(text: &str) -> Vec<char> {
    let mut chars: Vec<char> = Vec::with_capacity(text.len());
    for c in text.trim().chars() {
        let c = if c.is_whitespace() { ' ' } else { c };
        if c != ' ' || chars.last() != Some(&' ') {
            chars.push(c);
        }
    }
    chars
}

/// The loop that takes most of the text, where one takes enough of it; of equal ones the shortest piece.
fn longest_loop(text: &[char], longest_piece: usize) -> Option<Loop> {
    let mut best: Option<Loop> = None;
    for piece in 1..=longest_piece.min(text.len() / TIMES) {
        let mut same = 0;
        for at in piece..text.len() {
            same = if text[at] == text[at - piece] { same + 1 } else { 0 };
            let found = Loop { piece, covers: same + piece };
            if found.covers >= piece * TIMES
                && best.is_none_or(|best| found.covers > best.covers)
                && is_long_enough(found, text, at)
            {
                best = Some(found);
            }
        }
    }
    best
}

fn is_long_enough(found: Loop, text: &[char], end: usize) -> bool {
    let takes = |share: f64| found.covers as f64 >= text.len() as f64 * share;
    if found.piece == 1 && found.covers >= SHORTEST_LINE && takes(LINE_SHARE) {
        return true;
    }
    let is_drawn = found.piece == 1 && !text[end].is_alphanumeric();
    if is_drawn || found.covers < SHORTEST || !takes(SHARE) {
        return false;
    }
    let covered = &text[end + 1 - found.covers..=end];
    if has_words(&covered[..covered.len().min(2 * found.piece.max(3))]) {
        return true;
    }
    // Digits and signs: tables of numbers and drawings repeat themselves too.
    let enough = if found.piece <= SIGN {
        found.covers >= SHORTEST_SIGNS
    } else {
        found.covers >= found.piece * TIMES_OF_ROWS
    };
    enough && takes(LINE_SHARE)
}

/// Whether there is a word: a letter of a script without spaces, three letters side by side (two are hexadecimal
/// digits, too), or two of them and nothing but letters.
fn has_words(text: &[char]) -> bool {
    let side_by_side = |count: usize| text.windows(count).any(|run| run.iter().all(|c| c.is_alphabetic()));
    let only_letters = || text.iter().all(|c| c.is_alphabetic() || *c == ' ');
    text.iter().any(|c| is_its_own_word(*c)) || side_by_side(3) || (side_by_side(2) && only_letters())
}

/// Characters that stand in runs of one word or syllable, of different ones one after the other: a model that
/// falls from one short loop into the next.
fn stuttered(text: &[char]) -> usize {
    let mut covered = vec![false; text.len()];
    for piece in 1..=WORD.min(text.len()) {
        let mut start = 0;
        for at in piece..=text.len() {
            if at < text.len() && text[at] == text[at - piece] {
                continue;
            }
            let run = &text[start..at];
            if run.len() >= (piece * STUTTER).max(SHORTEST_STUTTER) && has_words(run) {
                covered[start..at].fill(true);
            }
            start = at + 1 - piece;
        }
    }
    covered.into_iter().filter(|covered| *covered).count()
}

/// How many different phrases of three words or numbers there are, and how many in all: a list that differs
/// in its numbers is none that goes in circles. Scripts without spaces have one word per character. Where words
/// are the smaller part of the text, none are counted.
fn phrases(text: &[char]) -> (usize, usize) {
    let joins = |c: char| c.is_alphanumeric() && !is_its_own_word(c);
    let runs = text.chunk_by(|a, b| joins(*a) && joins(*b));
    let words: Vec<&[char]> = runs.filter(|run| run[0].is_alphanumeric()).collect();
    let letters = text.iter().filter(|c| c.is_alphabetic()).count();
    let all = text.iter().filter(|c| **c != ' ').count();
    if (letters as f64) < all as f64 * WORDS_SHARE {
        return (0, 0);
    }
    let different: BTreeSet<&[&[char]]> = words.windows(3).collect();
    (different.len(), words.len().saturating_sub(2))
}

/// Thai, Lao, Burmese, Khmer, Kana, Han and their neighbours: written without spaces.
pub(super) fn is_its_own_word(c: char) -> bool {
    matches!(u32::from(c), 0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x3040..=0x30FF | 0x3400..=0x9FFF | 0x2_0000..=0x3_FFFF)
}
