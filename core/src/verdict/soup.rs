//! Finds answers that are no text.

use std::borrow::Cow;

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
        // `<|name|>`, and DeepSeek's `<｜name｜>`: a short name without white space.
        let barred = [("<|", "|>"), ("<｜", "｜>")].iter().find_map(|(open, close)| {
            let inner = rest.strip_prefix(open)?;
            let end =
                inner.char_indices().take(48).map(|(at, _)| at).find(|&at| inner[at..].starts_with(close))?;
            (!inner[..end].contains(char::is_whitespace)).then_some(open.len() + end + close.len())
        });
        let length = plain.or(barred);
        if length.is_none() {
            kept.push_str(&rest[..1]);
        }
        rest = &rest[length.unwrap_or(1)..];
    }
    kept.push_str(rest);
    kept.into()
}

/// Why `text` is gibberish, where it is.
pub(super) fn why_gibberish(text: &str) -> Option<String> {
    let odd = text.chars().filter(|c| *c == char::REPLACEMENT_CHARACTER).count();
    (odd > 2).then(|| format!("{odd} characters are no text"))
}
