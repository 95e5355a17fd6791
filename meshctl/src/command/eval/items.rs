//! Items: from the user's files, or the samples that come with the program.

use crate::exit::{Failure, Kind};
use crate::output::quoted;
use mesh_core::exam::{Item, LONGEST_PAGE, Source, Suite};
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

/// Bytes of one line: a page whose every character is escaped.
const LONGEST_LINE: usize = 6 * LONGEST_PAGE + 4096;
/// Items of one file: as many as a run may have.
const MOST_ITEMS: usize = 1_000_000;

/// What one exam is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Paper {
    pub(super) suite: Suite,
    pub(super) items: Vec<Item>,
    /// What stands before each item is taken from these.
    pub(super) examples: Vec<Item>,
}

/// The samples: items, and examples where the suite has some.
fn samples(suite: Suite) -> (&'static str, &'static str) {
    match suite {
        Suite::Mmlu => (
            include_str!("../../../../configs/eval/smoke/mmlu.jsonl"),
            include_str!("../../../../configs/eval/smoke/mmlu-dev.jsonl"),
        ),
        Suite::HellaSwag => (
            include_str!("../../../../configs/eval/smoke/hellaswag.jsonl"),
            include_str!("../../../../configs/eval/smoke/hellaswag-dev.jsonl"),
        ),
        Suite::Gsm8k => (
            include_str!("../../../../configs/eval/smoke/gsm8k.jsonl"),
            include_str!("../../../../configs/eval/smoke/gsm8k-dev.jsonl"),
        ),
        Suite::Perplexity => (include_str!("../../../../configs/eval/smoke/perplexity.jsonl"), ""),
        Suite::Generation => (include_str!("../../../../configs/eval/smoke/generation.jsonl"), ""),
    }
}

/// Reads what `source` names of one suite.
///
/// # Errors
/// `NotFound` for a file that there is not, `Failed` for a line that is no item, with file, line and column.
pub(super) fn paper(suite: Suite, source: &Source) -> Result<Paper, Failure> {
    let (items, examples) = match &source.items {
        None => {
            let (items, examples) = samples(suite);
            let read = |text: &str| lines(suite, Path::new("the samples"), text.as_bytes());
            (read(items)?, read(examples)?)
        }
        Some(path) => {
            let path = Path::new(path);
            let is_folder = path.is_dir();
            let file = if is_folder { path.join(format!("{}.jsonl", suite.word())) } else { path.into() };
            let beside = is_folder.then(|| path.join(format!("{}-dev.jsonl", suite.word())));
            let examples = match (&source.examples, beside.filter(|file| file.exists())) {
                (Some(named), _) => from_file(suite, Path::new(named))?,
                (None, Some(beside)) => from_file(suite, &beside)?,
                (None, None) => Vec::new(),
            };
            (from_file(suite, &file)?, examples)
        }
    };
    Ok(Paper { suite, items: spread(items, source.limit), examples })
}

/// `limit` of `items`, evenly.
fn spread(items: Vec<Item>, limit: Option<usize>) -> Vec<Item> {
    let Some(limit) = limit.filter(|limit| *limit < items.len()) else { return items };
    let all = items.len();
    let mut chosen = (0..limit).map(|at| at * all / limit).peekable();
    let keep = |(at, item): (usize, Item)| chosen.next_if_eq(&at).map(|_| item);
    items.into_iter().enumerate().filter_map(keep).collect()
}

fn from_file(suite: Suite, path: &Path) -> Result<Vec<Item>, Failure> {
    let file = File::open(path).map_err(|error| {
        let kind = if error.kind() == std::io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Failed };
        Failure::new(kind, format!("cannot read {}", path.display())).cause(error.to_string()).hint(format!(
            "items of {} are lines of JSON, made of public datasets by configs/eval/convert.py",
            suite.word()
        ))
    })?;
    let items = lines(suite, path, BufReader::new(file))?;
    if items.is_empty() {
        return Err(Failure::new(Kind::Failed, format!("{} has no items", path.display())));
    }
    Ok(items)
}

fn lines(suite: Suite, path: &Path, mut from: impl BufRead) -> Result<Vec<Item>, Failure> {
    let mut items = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let most = LONGEST_LINE as u64 + 1;
        let read = from.by_ref().take(most).read_until(b'\n', &mut line);
        let read = read.map_err(|error| {
            Failure::new(Kind::Failed, format!("cannot read {}", path.display())).cause(error.to_string())
        })?;
        if read == 0 {
            break;
        }
        let wrong = |column: usize, why: String| {
            let place = format!("{}:{number}:{column}", path.display());
            Failure::new(Kind::Failed, format!("{place} is no item of {}", suite.word()))
                .cause(why)
                .hint("the columns of each suite: configs/eval/README.md")
        };
        // However long it is: a whole file may stand on one line. A mark of the byte order is no sign of its own.
        let begins =
            line.iter().position(|byte| !byte.is_ascii_whitespace() && !b"\xef\xbb\xbf".contains(byte));
        if let Some(at) = begins.filter(|at| line.get(*at) == Some(&b'[')) {
            let failure = wrong(at + 1, "it is one JSON list; items stand one on each line".into());
            return Err(failure.hint(format!("make lines of it: {}", lines_of_a_list(path))));
        }
        if read > LONGEST_LINE {
            return Err(wrong(1, format!("the line is longer than {} MiB", LONGEST_LINE >> 20)));
        }
        let text = std::str::from_utf8(&line)
            .map_err(|error| wrong(error.valid_up_to() + 1, "it is not UTF-8".into()))?;
        if text.trim().is_empty() {
            continue;
        }
        if items.len() == MOST_ITEMS {
            return Err(wrong(1, format!("there are more than {MOST_ITEMS} items")));
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let item = suite.item(&mut json).and_then(|item| json.end().map(|()| item));
        items.push(item.map_err(|error| wrong(column(text, &error), said(&error)))?);
    }
    Ok(items)
}

/// The command that writes each item of a list on a line of its own.
fn lines_of_a_list(path: &Path) -> String {
    // In place the shell would empty the file before it is read.
    let named = |ending: &str| path.with_extension(ending);
    let to = if path.extension().is_some_and(|ending| ending == "jsonl") {
        named("lines.jsonl")
    } else {
        named("jsonl")
    };
    format!("jq -c '.[]' {} > {}", quoted(path), quoted(&to))
}

/// Where it is wrong. A value that JSON has nothing against is at its name, with which the words of its rule begin.
fn column(text: &str, error: &serde_json::Error) -> usize {
    if error.line() > 0 {
        return error.column().max(1);
    }
    let words = error.to_string();
    let field = words.split([' ', '[', '.']).next().unwrap_or_default();
    text.find(&format!("\"{field}\"")).map_or(1, |at| at + 1)
}

/// What is wrong, without the place inside of the line, which stands before it.
fn said(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// How a path is written down, so that it is found again from elsewhere.
pub(super) fn written(path: &Path) -> String {
    let whole = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    whole.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<Item>, Failure> {
        lines(Suite::Gsm8k, Path::new("my.jsonl"), text)
    }

    #[test]
    fn every_suite_has_samples_that_call_themselves_so_and_the_examples_that_it_is_usually_asked_with() {
        for suite in Suite::ALL {
            let paper = paper(suite, &Source::default()).expect("they come with the program");
            assert!(paper.items.len() >= 20 && paper.items.iter().all(Item::is_smoke), "{}", suite.word());
            assert!(paper.examples.len() >= suite.usual_shots(), "{}", suite.word());
        }
    }

    #[test]
    fn a_broken_line_is_named_by_file_line_and_column() {
        let good = "{\"question\": \"1 + 1?\", \"answer\": \"#### 2\"}\n";
        assert_eq!(read(good.repeat(2).as_bytes()).map(|items| items.len()), Ok(2));
        assert_eq!(read(format!("\n{good} \n").as_bytes()).map(|items| items.len()), Ok(1));
        for (line, place, why) in [
            ("{\"question\": \"1 + 1?\"}", "my.jsonl:2:22", "missing field `answer`"),
            ("{\"question\": 7, \"answer\": \"#### 2\"}", "my.jsonl:2:14", "invalid type: integer `7`"),
            ("{\"question\"", "my.jsonl:2:11", "EOF while parsing an object"),
            ("nonsense", "my.jsonl:2:2", "expected ident"),
            ("{\"question\": \"1?\", \"answer\": \"#### 2\"} x", "my.jsonl:2:40", "trailing characters"),
            ("{\"question\": \"1?\", \"answer\": \"two\"}", "my.jsonl:2:20", "answer is"),
        ] {
            let failure = read(format!("{good}{line}").as_bytes()).expect_err(line);
            assert!(failure.what.starts_with(&format!("{place} is no item of gsm8k")), "{line}: {failure:?}");
            assert!(
                failure.cause.as_ref().is_some_and(|cause| cause.starts_with(why)),
                "{line}: {failure:?}"
            );
        }
        let failure = read(b"{\"question\": \"\xff\"}").expect_err("no text");
        assert!(failure.what.starts_with("my.jsonl:1:15"), "{failure:?}");
    }

    #[test]
    fn a_file_that_is_one_list_is_told_how_it_becomes_lines() {
        for (text, place) in [("[{\"question\": \"1?\", \"answer\": \"#### 2\"}]", "1:1"), ("\n  [\n", "2:3")]
        {
            for (name, hint) in [
                ("my.json", "make lines of it: jq -c '.[]' my.json > my.jsonl"),
                (
                    "my own's/a.jsonl",
                    r"make lines of it: jq -c '.[]' 'my own'\''s/a.jsonl' > 'my own'\''s/a.lines.jsonl'",
                ),
            ] {
                let long = format!("{text}{}", " ".repeat(LONGEST_LINE));
                assert_eq!(
                    lines(Suite::Gsm8k, Path::new(name), long.as_bytes()),
                    lines(Suite::Gsm8k, Path::new(name), text.as_bytes())
                );
                let failure = lines(Suite::Gsm8k, Path::new(name), text.as_bytes()).expect_err("a list");
                assert_eq!(failure.what, format!("{name}:{place} is no item of gsm8k"));
                assert_eq!(
                    failure.cause.as_deref(),
                    Some("it is one JSON list; items stand one on each line")
                );
                assert!(failure.hints.contains(&hint.to_owned()), "{failure:?}");
            }
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_read_to_its_end() {
        let failure = read(&vec![b' '; LONGEST_LINE + 2]).expect_err("too long");
        assert!(failure.cause.as_ref().is_some_and(|cause| cause.contains("longer than")), "{failure:?}");
    }

    #[test]
    fn a_limit_takes_items_evenly_from_the_whole_file() {
        let line = |number: usize| {
            format!("{{\"id\": \"{number}\", \"question\": \"{number}?\", \"answer\": \"#### 2\"}}\n")
        };
        let all = read((0..10).map(line).collect::<String>().as_bytes()).expect("ten");
        let ids = |limit| {
            let items = spread(all.clone(), Some(limit));
            items.iter().map(|item| item.id().to_string()).collect::<Vec<String>>().join(" ")
        };
        assert_eq!(
            (ids(3), ids(4), ids(1), ids(0)),
            ("0 3 6".into(), "0 2 5 7".into(), "0".into(), "".into())
        );
        assert_eq!(ids(99).split(' ').count(), 10);
    }

    #[test]
    fn files_that_there_are_not_are_told_with_what_makes_them() {
        let source = Source { items: Some("/nowhere/x".into()), ..Source::default() };
        let failure = paper(Suite::Mmlu, &source).expect_err("no such file");
        assert_eq!(failure.kind, Kind::NotFound);
        assert!(failure.hints[0].contains("convert.py"), "{failure:?}");
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("mmlu.jsonl"), "\n").expect("a file");
        let source = Source { items: Some(written(folder.path())), ..Source::default() };
        assert!(paper(Suite::Mmlu, &source).expect_err("empty").what.ends_with("mmlu.jsonl has no items"));
    }
}
