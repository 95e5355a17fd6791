//! Configuration: defaults < file < environment < flags, merged by figment, with every problem of a file
//! reported at once, with its line and a near name.
//!
//! figment knows which layer set a value but not the line. So each file is also parsed with spans, its keys
//! are checked against the list the program declares, and every leaf is tried alone: that finds all wrong
//! types in one run instead of the first one only.

use crate::complaint::{Complaint, exit};
use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use toml_edit::{ImDocument, Item, TableLike};

/// The prefix of the agent's variables.
pub const AGENT_PREFIX: &str = "MODEMESH_AGENT_";

/// Where values come from.
#[derive(Debug, Clone, Default)]
pub struct Layers<'a> {
    /// A TOML file. It must exist when it is given.
    pub file: Option<PathBuf>,
    /// `MODEMESH_`: `MODEMESH_LISTEN__CLIENTS` sets `listen.clients`. Empty = no environment.
    pub env_prefix: &'a str,
    /// Dotted keys set by flags, with values in TOML syntax or as plain text.
    pub flags: Vec<(&'a str, String)>,
    /// Every key there is, dotted, `*` for a name the operator chooses: `modes.*.models`.
    pub keys: &'a [&'a str],
}

/// A configuration and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The merged value.
    pub value: T,
    /// The file's path, or "built-in defaults".
    pub source: String,
    /// Finds the line of a key, for problems that only the program can see.
    pub lines: KeyLines,
}

/// The line on which each key of the file stands.
#[derive(Debug, Clone, Default)]
pub struct KeyLines {
    file: String,
    lines: Vec<(String, usize)>,
}

impl KeyLines {
    /// `router.toml:14` for a dotted key that the file sets, or its nearest parent there; else the key alone.
    #[must_use]
    pub fn place(&self, key: &str) -> String {
        let mut path = key;
        loop {
            if let Some((_, line)) = self.lines.iter().find(|(known, _)| known == path) {
                return format!("{}:{line}", self.file);
            }
            match path.rfind('.') {
                Some(dot) => path = &path[..dot],
                None => return key.to_owned(),
            }
        }
    }
}

/// One problem of a configuration, shown as `place: message (hint)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `router.toml:14`, `$MODEMESH_…` or a key.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What would be right, empty when nothing is known.
    pub hint: String,
}

/// All problems as one complaint with exit code 78.
#[must_use]
pub fn complain(problems: &[Problem]) -> Complaint {
    let mut what = match problems {
        [_] => "the configuration has a problem".to_owned(),
        many => format!("the configuration has {} problems", many.len()),
    };
    for Problem { place, message, hint } in problems {
        what.push_str(&format!("\n  {place}: {message}"));
        if !hint.is_empty() {
            what.push_str(&format!(" ({hint})"));
        }
    }
    Complaint::new(what).exit(exit::CONFIG)
}

/// Merges the layers into a `T`.
///
/// # Errors
/// A complaint (exit code 78) that lists every unknown key and every value of a wrong type.
pub fn load<T>(layers: &Layers<'_>) -> Result<Loaded<T>, Complaint>
where
    T: Default + Serialize + DeserializeOwned,
{
    let mut merged = Figment::from(Serialized::defaults(T::default()));
    let (mut problems, mut lines) = (Vec::new(), KeyLines::default());
    if let Some(path) = &layers.file {
        let text = read(path)?;
        lines = check_file::<T>(path, &text, layers.keys, &mut problems)?;
        merged = merged.merge(Toml::string(&text));
    }
    let mut overrides = Vec::new();
    if !layers.env_prefix.is_empty() {
        overrides.extend(environment(layers, &mut problems));
    }
    overrides.extend(
        layers
            .flags
            .iter()
            .map(|(key, value)| (format!("--{}", key.replace(['.', '_'], "-")), *key, value.clone()))
            .map(|(place, key, value)| (place, key.to_owned(), value)),
    );
    for (place, key, value) in overrides {
        // figment's own parser turns "true", "8" and "[a, b]" into what they look like.
        let parsed: figment::value::Value =
            value.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
        let candidates = [parsed, figment::value::Value::from(value.clone())];
        // A text such as "8080" given for a text key must stay text.
        let fits = candidates.into_iter().find(|candidate| {
            let alone =
                Figment::from(Serialized::defaults(T::default())).merge(Serialized::default(&key, candidate));
            alone.extract::<T>().is_ok()
        });
        match fits {
            Some(candidate) => merged = merged.merge(Serialized::default(&key, candidate)),
            None => problems.push(Problem {
                place,
                message: format!("`{value}` is no valid value for {key}"),
                hint: String::new(),
            }),
        }
    }
    if !problems.is_empty() {
        return Err(complain(&problems));
    }
    let value = merged.extract::<T>().map_err(|error| complain(&told(error, &lines)))?;
    let source =
        layers.file.as_ref().map_or_else(|| "built-in defaults".into(), |path| path.display().to_string());
    Ok(Loaded { value, source, lines })
}

/// Reads one document over the defaults of `T`. `place` is what problems call it: a file's name.
///
/// # Errors
/// A complaint (exit code 78) that lists every unknown key and every value of a wrong type.
pub fn load_text<T>(place: &str, text: &str, keys: &[&str]) -> Result<Loaded<T>, Complaint>
where
    T: Default + Serialize + DeserializeOwned,
{
    let mut problems = Vec::new();
    let lines = check_file::<T>(Path::new(place), text, keys, &mut problems)?;
    if !problems.is_empty() {
        return Err(complain(&problems));
    }
    let merged = Figment::from(Serialized::defaults(T::default())).merge(Toml::string(text));
    let value = merged.extract::<T>().map_err(|error| complain(&told(error, &lines)))?;
    Ok(Loaded { value, source: place.to_owned(), lines })
}

fn told(error: figment::Error, lines: &KeyLines) -> Vec<Problem> {
    let problem = |error: figment::Error| Problem {
        place: lines.place(&error.path.join(".")),
        message: error.kind.to_string(),
        hint: String::new(),
    };
    error.into_iter().map(problem).collect()
}

fn read(path: &Path) -> Result<String, Complaint> {
    std::fs::read_to_string(path).map_err(|error| {
        Complaint::new(format!("cannot read the configuration {}", path.display()))
            .cause(error)
            .hint("give another file with --config FILE")
            .exit(exit::CONFIG)
    })
}

/// Variables with the prefix as (`$NAME`, key, value); those that name no key become problems.
fn environment(layers: &Layers<'_>, problems: &mut Vec<Problem>) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for (name, value) in std::env::vars() {
        let Some(rest) = name.strip_prefix(layers.env_prefix) else { continue };
        // The router's prefix is the start of the agent's, and `modemesh up` is both.
        if layers.env_prefix != AGENT_PREFIX && name.starts_with(AGENT_PREFIX) {
            continue;
        }
        // A single word is no setting of a section: MODEMESH_DATA and its like belong to the programs.
        if !rest.contains("__") && !layers.keys.contains(&rest.to_lowercase().as_str()) {
            continue;
        }
        let key = rest.to_lowercase().replace("__", ".");
        if layers.keys.iter().any(|pattern| matches(pattern, &key)) {
            found.push((format!("${name}"), key, value));
        } else {
            problems.push(Problem {
                place: format!("${name}"),
                message: format!("there is no key `{key}`"),
                hint: near(&key, layers.keys),
            });
        }
    }
    found.sort();
    found
}

/// Checks one file: syntax, unknown keys, wrong types. Returns the lines of its keys.
fn check_file<T>(
    path: &Path,
    text: &str,
    keys: &[&str],
    problems: &mut Vec<Problem>,
) -> Result<KeyLines, Complaint>
where
    T: Default + Serialize + DeserializeOwned,
{
    let file = path.display().to_string();
    let document = ImDocument::parse(text.to_owned()).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        let message = error.message().lines().next().unwrap_or("syntax error").to_owned();
        complain(&[Problem { place: format!("{file}:{line}"), message, hint: String::new() }])
    })?;
    let mut leaves = Vec::new();
    let mut lines = KeyLines { file: file.clone(), lines: Vec::new() };
    collect(document.as_table(), "", text, keys, &mut leaves, &mut lines.lines);
    for Leaf { key, line, known, toml } in leaves {
        let place = format!("{file}:{line}");
        if !known {
            let problem = if keys.iter().any(|pattern| starts(pattern, &key)) {
                Problem {
                    place,
                    message: format!("`{key}` is a section, not a value"),
                    hint: format!("write [{key}]"),
                }
            } else {
                Problem { place, message: format!("unknown key `{key}`"), hint: near(&key, keys) }
            };
            problems.push(problem);
            continue;
        }
        let alone =
            Figment::from(Serialized::defaults(T::default())).merge(Toml::string(&toml)).extract::<T>();
        if let Err(error) = alone {
            for e in error {
                // A leaf alone may lack its required neighbours; the whole is judged at the end.
                if !matches!(e.kind, figment::error::Kind::MissingField(_)) {
                    problems.push(Problem {
                        place: place.clone(),
                        message: format!("{key}: {}", e.kind),
                        hint: String::new(),
                    });
                }
            }
        }
    }
    Ok(lines)
}

struct Leaf {
    key: String,
    line: usize,
    known: bool,
    /// The leaf alone as a TOML document.
    toml: String,
}

fn collect(
    table: &dyn TableLike,
    prefix: &str,
    text: &str,
    keys: &[&str],
    leaves: &mut Vec<Leaf>,
    lines: &mut Vec<(String, usize)>,
) {
    for (name, item) in table.iter() {
        let key = if prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{prefix}.{}", name.replace('.', "\u{b7}"))
        };
        let start = table
            .get_key_value(name)
            .and_then(|(key, _)| key.span())
            .or_else(|| item.span())
            .map_or(0, |span| span.start);
        let line = line_of(text, start);
        lines.push((key.clone(), line));
        let inside = keys.iter().any(|pattern| starts(pattern, &key));
        match item.as_table_like() {
            Some(inner) if inside => collect(inner, &key, text, keys, leaves, lines),
            _ => leaves.push(Leaf {
                known: keys.iter().any(|pattern| matches(pattern, &key)),
                toml: alone(&key, item, text),
                key,
                line,
            }),
        }
    }
}

/// One setting as a document of its own; a table in the wrong place has no text of its own and gives "".
fn alone(key: &str, item: &Item, text: &str) -> String {
    let value = item.as_value().and_then(|value| text.get(value.span()?)).unwrap_or_default();
    let quoted: Vec<String> =
        key.split('.').map(|part| format!("{:?}", part.replace('\u{b7}', "."))).collect();
    if value.is_empty() { String::new() } else { format!("{} = {value}\n", quoted.join(".")) }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|&&byte| byte == b'\n').count() + 1
}

fn matches(pattern: &str, key: &str) -> bool {
    let (mut pattern, mut key) = (pattern.split('.'), key.split('.'));
    loop {
        match (pattern.next(), key.next()) {
            (None, None) => return true,
            (Some(p), Some(k)) if p == "*" || p == k => {}
            _ => return false,
        }
    }
}

/// Whether `key` is a proper parent of `pattern`.
fn starts(pattern: &str, key: &str) -> bool {
    let parts: Vec<&str> = pattern.split('.').collect();
    let depth = key.split('.').count();
    parts.len() > depth && matches(&parts[..depth].join("."), key)
}

/// "did you mean" for a key: the nearest known one, with the operator's own names kept.
fn near(key: &str, keys: &[&str]) -> String {
    let parts: Vec<&str> = key.split('.').collect();
    let best = keys
        .iter()
        .map(|pattern| {
            let filled: Vec<&str> = pattern
                .split('.')
                .take(parts.len())
                .enumerate()
                .map(|(at, part)| if part == "*" { parts.get(at).copied().unwrap_or("*") } else { part })
                .collect();
            filled.join(".")
        })
        .map(|candidate| (strsim::jaro_winkler(key, &candidate), candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, candidate)) if score > 0.8 => format!("did you mean `{candidate}`?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Listen {
        clients: String,
        limit: u32,
    }

    #[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Mode {
        models: Vec<String>,
    }

    #[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Config {
        listen: Listen,
        modes: BTreeMap<String, Mode>,
    }

    const KEYS: &[&str] = &["listen.clients", "listen.limit", "modes.*.models"];

    fn load_text(text: &str, flags: Vec<(&'static str, String)>) -> Result<Loaded<Config>, Complaint> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("router.toml");
        std::fs::write(&file, text).expect("writing");
        load(&Layers { file: Some(file), env_prefix: "", flags, keys: KEYS })
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let text = "[listen]\nclients = \"file\"\nlimit = 3\n[modes.\"a.b\"]\nmodels = [\"x\"]\n";
        let loaded = load_text(text, vec![("listen.clients", "8080".into())]).expect("valid");
        assert_eq!(loaded.value.listen, Listen { clients: "8080".into(), limit: 3 });
        assert_eq!(loaded.value.modes["a.b"].models, ["x"]);
    }

    #[test]
    fn all_problems_are_reported_at_once_with_their_lines() {
        let text = "[listen]\nclient = \"a\"\nlimit = \"many\"\n\n[modes.code]\nmodel = [\"x\"]\n\n[lisen]\nlimit = 1\n";
        let complaint = load_text(text, vec![]).expect_err("four problems");
        let said = complaint.to_string();
        for part in [
            "4 problems",
            "router.toml:2: unknown key `listen.client` (did you mean `listen.clients`?)",
            "router.toml:3: listen.limit: invalid type",
            "router.toml:6: unknown key `modes.code.model` (did you mean `modes.code.models`?)",
            "unknown key `lisen`",
        ] {
            assert!(said.contains(part), "{part:?} is not in:\n{said}");
        }
        assert_eq!(complaint.exit, 78);
    }

    #[test]
    fn a_value_in_place_of_a_section_is_told() {
        let said = load_text("listen = 7400\n", vec![]).expect_err("no section").to_string();
        assert!(
            said.contains("router.toml:1: `listen` is a section, not a value (write [listen])"),
            "{said}"
        );
    }

    #[test]
    fn a_syntax_error_names_the_line() {
        let said =
            load_text("[listen]\nclients = \"a\nlimit = 1\n", vec![]).expect_err("unclosed").to_string();
        assert!(said.contains("router.toml:2: "), "{said}");
    }

    #[test]
    fn a_flag_of_the_wrong_type_names_the_flag() {
        let said = load_text("", vec![("listen.limit", "many".into())]).expect_err("no number").to_string();
        assert!(said.contains("--listen-limit: `many` is no valid value for listen.limit"), "{said}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let layers =
            Layers { file: Some("/nonexistent/router.toml".into()), keys: KEYS, ..Layers::default() };
        let said = load::<Config>(&layers).expect_err("no file").to_string();
        assert!(said.contains("/nonexistent/router.toml"), "{said}");
    }
}
