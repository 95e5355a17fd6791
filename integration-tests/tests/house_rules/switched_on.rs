//! Configuration files with their commented settings switched on. For the house rules and for `configs_parse.rs`.

/// `text` with every comment that is a setting made one: `#key = …` and `#[table]`, with or without a space after
/// the `#`. All other comments are prose and vanish; lines stay where they were.
pub(crate) fn switched_on(text: &str) -> String {
    let is_key = |key: &str| {
        key.starts_with(|c: char| c.is_ascii_lowercase() || c == '"')
            && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.\":/".contains(c))
    };
    let is_setting = |line: &str| {
        let key = line.split_once(" = ").map(|(key, _)| key);
        (line.starts_with('[') && line.ends_with(']')) || key.is_some_and(is_key)
    };
    let lines = text.lines().map(|line| match line.strip_prefix('#').map(str::trim) {
        Some(comment) if is_setting(comment) => comment,
        Some(_) => "",
        None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}
