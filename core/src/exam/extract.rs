//! What an answer says: the scanners that find a number or a letter in it, and when two of them are the same.
//!
//! The numbers of GSM8K and the first line of MMLU are found and compared as the harness does it with regular
//! expressions, which stand beside each scanner. [`letter`] is our own.

use super::python_text;

/// What stands for an answer in which nothing was found.
pub(super) const NOTHING: &str = "[invalid]";

/// `#### (\-?[0-9\.\,]+)`, the first.
pub(super) fn strict_match(answer: &str) -> &str {
    let number = |(at, mark): (usize, &str)| {
        let rest = &answer[at + mark.len()..];
        let digits = rest.strip_prefix('-').unwrap_or(rest);
        let len = digits.bytes().take_while(|byte| byte.is_ascii_digit() || b".,".contains(byte)).count();
        (len > 0).then(|| &rest[..rest.len() - digits.len() + len])
    };
    answer.match_indices("#### ").find_map(number).unwrap_or(NOTHING)
}

/// `(-?[$0-9.,]{2,})|(-?[0-9]+)`, the last.
pub(super) fn flexible_extract(answer: &str) -> &str {
    let bytes = answer.as_bytes();
    let mut found = NOTHING;
    let mut at = 0;
    while at < bytes.len() {
        let from = at + usize::from(bytes[at] == b'-');
        let run =
            bytes[from..].iter().take_while(|byte| byte.is_ascii_digit() || b"$.,".contains(byte)).count();
        // A run of one is a number only where it is a digit.
        if run >= 2 || (run == 1 && bytes[from].is_ascii_digit()) {
            found = &answer[at..from + run];
            at = from + run;
        } else {
            at += 1;
        }
    }
    found
}

/// Whether two texts are the same number: without `,`, without `$`, only what follows the last `#### `, without a full
/// stop at the end, in lower case. NULs at the end are dropped, as numpy does.
pub(super) fn same_number(found: &str, gold: &str) -> bool {
    bare(found) == bare(gold)
}

/// A number as [`same_number`] compares it.
pub(super) fn bare(text: &str) -> String {
    let text = without_nuls(text.replace(',', ""));
    let text = without_nuls(text.replace('$', ""));
    let text = text.rsplit_once("#### ").map(|(_, last)| last.to_owned()).unwrap_or(text);
    // The harness's `\.$` also takes one before a line break at the end; such a text equals no number either way.
    let text = text.strip_suffix('.').unwrap_or(&text);
    without_nuls(without_nuls(text.to_owned()).to_lowercase())
}

fn without_nuls(text: String) -> String {
    text.trim_end_matches('\0').to_owned()
}

/// The first line of an answer, without white space around it.
pub(super) fn first_line(answer: &str) -> &str {
    python_text::strip(answer.split('\n').next().unwrap_or_default())
}

/// Whether two texts are the same but for case and ASCII's punctuation.
pub(super) fn same_words(found: &str, gold: &str) -> bool {
    let bare = |text: &str| {
        let text = text.trim_end_matches('\0').to_lowercase();
        text.replace(|c: char| c.is_ascii_punctuation(), "").trim_end_matches('\0').to_owned()
    };
    bare(found) == bare(gold)
}

/// Letters of a question with choices.
pub(super) const LETTERS: usize = 4;

/// Which of the first letters of the alphabet (`A`, `B`, … `choices` of them) an answer decides for.
///
/// In this order: the answer is that letter, alone or before `.`, `)`, `:` or `,` at its very beginning; it stands after
/// the last `answer` within a few words; it is the only one that stands alone in brackets or stars. An `A` that may be
/// the article is none.
pub(super) fn letter(answer: &str, choices: usize) -> Option<usize> {
    let markup = |c: char| c.is_whitespace() || matches!(c, '(' | '[' | '*' | '"' | '\'' | '`' | '_' | ':');
    let index =
        |c: char| (c.is_ascii_uppercase()).then(|| c as usize - 'A' as usize).filter(|at| *at < choices);
    // The letter at the beginning of a text, and whether its end is clear.
    let leading = |text: &str| {
        let text = text.trim_start_matches(markup);
        let at = index(text.chars().next()?)?;
        let next = text[1..].chars().next();
        let clear = next
            .is_none_or(|c| !c.is_alphanumeric() && !matches!(c, ' ' | '\'' | '’' | '-' | '+' | '/' | '&'));
        (clear || text[1..].trim().is_empty()).then_some(at)
    };
    if let Some(at) = leading(answer) {
        return Some(at);
    }
    let lower = answer.to_ascii_lowercase();
    if let Some(from) = lower.rfind("answer") {
        let mut rest = &answer[from + "answer".len()..];
        for _ in 0..6 {
            if let Some(at) = leading(rest) {
                return Some(at);
            }
            let trimmed = rest.trim_start();
            let Some(end) = trimmed.find(char::is_whitespace) else { break };
            rest = &trimmed[end..];
        }
    }
    let mut marked: Option<usize> = None;
    for (at, c) in answer.char_indices() {
        let before = answer[..at].chars().next_back();
        let after = answer[at + c.len_utf8()..].chars().next();
        let around = matches!(
            (before, after),
            (Some('('), Some(')')) | (Some('['), Some(']')) | (Some('*'), Some('*'))
        );
        let Some(found) = index(c).filter(|_| around) else { continue };
        if marked.is_some_and(|other| other != found) {
            return None;
        }
        marked = Some(found);
    }
    marked
}
