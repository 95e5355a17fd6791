//! Texts as the harness prepares them: pages of WikiText, whose words were set apart by spaces, and endings of
//! HellaSwag, with the marks of the web site that they come from.
//!
//! The rules are the harness's, oddities included: published perplexities were measured with them.

use super::python_text;

/// The page of WikiText as people would have written it: what the model is asked about. Words and bytes are counted in
/// the page as it was.
pub(super) fn detokenized(page: &str) -> String {
    // The harness means digits in quotes, and puts its own pattern there.
    let mut text = quoted_digits(&page.replace("s '", "s'"));
    let before = [
        (" @-@ ", "-"),
        (" @,@ ", ","),
        (" @.@ ", "."),
        (" : ", ": "),
        (" ; ", "; "),
        (" . ", ". "),
        (" ! ", "! "),
        (" ? ", "? "),
        (" , ", ", "),
    ];
    for (from, to) in before {
        text = text.replace(from, to);
    }
    for (open, close) in [('(', ')'), ('[', ']'), ('{', '}'), ('"', '"'), ('\'', '\'')] {
        text = tightened(&text, open, close);
    }
    let after = [
        ("= = = =", "===="),
        ("= = =", "==="),
        ("= =", "=="),
        (" ° ", "°"),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    ];
    for (from, to) in after {
        text = text.replace(from, to);
    }
    text
}

/// `/' 5/` becomes `/'[0-9]/`, for any digit.
fn quoted_digits(text: &str) -> String {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("/' ") {
        let (before, found) = rest.split_at(at);
        done.push_str(before);
        let tail = &found[3..];
        let is_one = tail.starts_with(|c: char| c.is_ascii_digit()) && tail[1..].starts_with('/');
        done.push_str(if is_one { "/'[0-9]/" } else { &found[..1] });
        rest = &found[if is_one { 5 } else { 1 }..];
    }
    done + rest
}

/// No white space inside brackets, each opening one paired with the next closing one.
fn tightened(text: &str, open: char, close: char) -> String {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once(open) {
        let Some((inside, after)) = inside.split_once(close) else { break };
        done.push_str(before);
        done.push(open);
        done.push_str(python_text::strip(inside));
        done.push(close);
        rest = after;
    }
    done + rest
}

/// A context or an ending of HellaSwag without the marks of WikiHow: `[title]` ends a sentence, others vanish.
pub(super) fn without_marks(text: &str) -> String {
    let text = python_text::strip(text).replace(" [title]", ". ");
    let mut done = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('[') {
        let (before, mark) = rest.split_at(at);
        done.push_str(before);
        // A mark ends in its line.
        let end = mark.find([']', '\n']).unwrap_or(mark.len());
        if mark[end..].starts_with(']') {
            rest = &mark[end + 1..];
        } else {
            done.push_str(&mark[..end]);
            rest = &mark[end..];
        }
    }
    (done + rest).replace("  ", " ")
}
