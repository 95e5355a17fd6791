//! What Python's text functions do where Rust's differ: prompts must come out the same to the byte.
//!
//! Letters that Unicode got after version 14 (Python 3.11) may differ: they are cased here and were not there.

/// `str.isspace` and `\s`: Unicode's white space and the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// `str.strip()`.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `len(re.split(r"\s+", text))`: words and, at ends that are white, an empty piece each.
pub(super) fn pieces(text: &str) -> u64 {
    let mut pieces = 1;
    let mut in_space = false;
    for c in text.chars() {
        let space = is_space(c);
        pieces += u64::from(space && !in_space);
        in_space = space;
    }
    pieces
}

/// `str.capitalize()`: the first letter in title case, the others in lower case.
pub(super) fn capitalize(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    // Of the whole text: whether a sigma is the last letter of its word depends on what stands before it.
    let lower = text.to_lowercase();
    let first_lower: usize = first.to_lowercase().map(char::len_utf8).sum();
    title(first) + &lower[first_lower..]
}

/// The title case of one letter, which Rust's library does not know.
fn title(c: char) -> String {
    let one = |point: u32| char::from_u32(point).map(String::from).unwrap_or_default();
    let point = u32::from(c);
    match c {
        // Georgian has capitals for whole words only.
        'ა'..='ჺ' | 'ჽ'..='ჿ' => c.into(),
        // One letter for two: `ǆ`, `ǅ`, `Ǆ` and their like.
        '\u{1c4}'..='\u{1cc}' => one(0x1c4 + (point - 0x1c4) / 3 * 3 + 1),
        '\u{1f1}'..='\u{1f3}' => one(0x1f2),
        // Greek vowels with an iota below have it beside them in upper case only.
        '\u{1f80}'..='\u{1faf}' => one(point | 8),
        '\u{1fb3}' | '\u{1fbc}' => one(0x1fbc),
        '\u{1fc3}' | '\u{1fcc}' => one(0x1fcc),
        '\u{1ff3}' | '\u{1ffc}' => one(0x1ffc),
        '\u{1fb2}'..='\u{1ff7}' => {
            let upper: String = c.to_uppercase().collect();
            match upper.strip_suffix('\u{399}') {
                Some(vowel) if !vowel.is_empty() => format!("{vowel}\u{345}"),
                _ => upper,
            }
        }
        // Ligatures: only their first letter is a capital.
        'ß' | 'և' | '\u{fb00}'..='\u{fb17}' => {
            let mut upper = c.to_uppercase();
            upper.next().into_iter().collect::<String>()
                + &upper.flat_map(char::to_lowercase).collect::<String>()
        }
        _ => c.to_uppercase().collect(),
    }
}
