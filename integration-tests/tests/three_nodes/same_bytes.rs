//! What may differ between two answers to the same question, taken out of their bytes. Everything else must be
//! the same, down to the order of keys.

/// New for each answer, or measured: all other bytes of an answer are the engine's words.
const DIFFER: [&str; 3] = ["id", "created", "timings"];

/// `json` without the values that differ from answer to answer, at any depth, as text.
pub(crate) fn without_what_differs(json: &str) -> String {
    DIFFER.iter().fold(json.to_owned(), |text, key| without(text, key))
}

fn without(mut text: String, key: &str) -> String {
    let pattern = format!("\"{key}\":");
    while let Some(start) = text.find(&pattern) {
        let value = start + pattern.len();
        let end = value + length_of_value(&text[value..]);
        // One comma goes with it, so that its absence looks the same.
        let before = text[..start].ends_with(',');
        let after = !before && text[end..].starts_with(',');
        text.replace_range(start - usize::from(before)..end + usize::from(after), "");
    }
    text
}

/// Of a string without escapes, an object without strings, or a number.
fn length_of_value(text: &str) -> usize {
    match text.as_bytes()[0] {
        b'"' => 2 + text[1..].find('"').expect("a closed string"),
        b'{' => 1 + text.find('}').expect("a closed object"),
        _ => text.find([',', '}']).expect("a number within an object"),
    }
}

#[test]
fn only_the_listed_fields_are_taken_out() {
    let first =
        r#"{"choices":[{"text":"a"}],"created":17,"model":"m","id":"x-1","timings":{"n":1,"ms":2.5}}"#;
    assert_eq!(without_what_differs(first), r#"{"choices":[{"text":"a"}],"model":"m"}"#);
    assert_eq!(without_what_differs(r#"{"id":"x","model":"m"}"#), r#"{"model":"m"}"#);
    let other = r#"{"choices":[{"text":"b"}],"created":18,"model":"m","id":"x-2"}"#;
    assert_ne!(without_what_differs(first), without_what_differs(other));
}
