//! Sentences that fit the terminal.

use super::paint::Look;

/// Narrower than this the text goes on lines of its own.
const NARROW: usize = 36;

/// `start` and then `text`, broken between words where the terminal is too narrow and continued under itself.
pub(super) fn wrapped(start: &str, text: &str, look: Look) -> Vec<String> {
    let indent = start.chars().count();
    let Some(width) = look.width else {
        return vec![format!("{start}{text}").trim_end().to_owned()];
    };
    // Beside the start where there is room, under it where there is not.
    let (mut lines, indent) = match width.saturating_sub(indent) {
        0..NARROW => (vec![start.trim_end().to_owned(), String::new()], 5),
        _ => (vec![start.to_owned()], indent),
    };
    let mut is_fresh = true;
    for word in text.split_whitespace() {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if !is_fresh && last + 1 + word.chars().count() > width {
            lines.push(String::new());
            is_fresh = true;
        }
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(&" ".repeat(indent));
        } else if !is_fresh {
            line.push(' ');
        }
        line.push_str(word);
        is_fresh = false;
    }
    lines.iter().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
}
