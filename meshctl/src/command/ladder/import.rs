//! `meshctl ladder import`: what llama-bench printed is kept like a climb. Here it is read, line by line where it is that; what
//! becomes of it is the core's.

use crate::cli::ImportArgs;
use crate::command::keep::{Keep, Kept as _, id_of, now};
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use mesh_core::ladder::{About, BenchRow, Record, import};
use serde_json::value::RawValue;
use std::io::Read as _;

/// The longest file, in bytes: rows of a year's nights.
const LONGEST: u64 = 64 << 20;
/// What llama-bench has to be told.
const HINT: &str = "let it print JSON: llama-bench -m FILE.gguf -o json > bench.json";

/// # Errors
/// `Failed` for a file that cannot be read or has no rows of llama-bench, with its line, and for what cannot be kept.
pub(super) fn run(args: &ImportArgs, keep: &Keep<Record>, screen: &Screen) -> Result<(), Failure> {
    let failed = |cause: String| {
        Failure::new(Kind::Failed, format!("cannot import {}", args.file.display())).cause(cause).hint(HINT)
    };
    let text = read(args).map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > LONGEST {
        return Err(failed(format!("it is longer than {} MiB", LONGEST >> 20)));
    }
    let (lines, rows): (Vec<usize>, Vec<BenchRow>) = rows(&text).map_err(failed)?.into_iter().unzip();
    let at = now();
    let id = id_of(at);
    let about = About { id, node: args.node.clone(), meshctl: env!("CARGO_PKG_VERSION").into() };
    let (mut record, left_out) = import(&rows, about).map_err(|problem| {
        let place = lines.get(problem.row).map(|line| format!("line {line}: ")).unwrap_or_default();
        failed(format!("{place}{problem}"))
    })?;
    for row in left_out {
        screen.note(&screen.look.text(&format!("left out: {row}")));
        screen.note("\n");
    }
    keep.begin(&mut record, at)?;
    if screen.is_json() {
        return screen.result(&record.json());
    }
    let (id, count) = (&record.id, record.rungs.len());
    let plural = if count == 1 { "" } else { "s" };
    screen.result(&format!("{id}   {count} model{plural} of {}\n", record.node))?;
    screen.note(&screen.commands(&format!("next: meshctl ladder report {id}\n")));
    Ok(())
}

fn read(args: &ImportArgs) -> std::io::Result<String> {
    let mut text = String::new();
    if args.file.as_os_str() == "-" {
        std::io::stdin().lock().take(LONGEST + 1).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(&args.file)?.take(LONGEST + 1).read_to_string(&mut text)?;
    }
    Ok(text)
}

/// Each row with the line on which it begins: of one list, or one row on each line.
fn rows(text: &str) -> Result<Vec<(usize, BenchRow)>, String> {
    if text.trim().is_empty() {
        return Err("it is empty".into());
    }
    if text.trim_start().starts_with('[') {
        let told = |error: serde_json::Error| format!("line {}: {error}", error.line());
        let raw: Vec<&RawValue> = serde_json::from_str(text).map_err(told)?;
        let mut place = Place { text, start: 0, line: 1 };
        return raw.into_iter().map(|row| one(row.get(), place.line_of(row.get()))).collect();
    }
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    lines.map(|(line, number)| one(line, number)).collect()
}

fn one(text: &str, line: usize) -> Result<(usize, BenchRow), String> {
    let row: BenchRow = serde_json::from_str(text).map_err(|error| {
        // Its own line is counted from the row's.
        format!("line {}: {error}", line + error.line().saturating_sub(1))
    })?;
    Ok((line, row))
}

/// How far lines were counted. Rows come in the file's order, so that each line is counted once.
struct Place<'a> {
    text: &'a str,
    start: usize,
    line: usize,
}

impl Place<'_> {
    /// The line on which `part` begins: a piece of the text, and not before the last one.
    fn line_of(&mut self, part: &str) -> usize {
        let start = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let between = self.text.as_bytes().get(self.start..start).unwrap_or_default();
        self.line += between.iter().filter(|byte| **byte == b'\n').count();
        self.start = start.max(self.start);
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What llama-bench b11434 (built from its source archive, so that it does not know its own build) printed for
    /// `-m tiny-trained-1.4M-q8_0.gguf -p 64,128 -n 16 -pg 64,16 -r 3 -d 0,32 -t 1 -o json`.
    const LIST: &str = include_str!("import_samples/llama-bench.json");
    /// The same for two models and `-p 64 -n 16 -r 3 -t 1,2 -fa on,off -o jsonl`.
    const LINES: &str = include_str!("import_samples/llama-bench.jsonl");

    fn imported(text: &str) -> (Record, Vec<String>) {
        let rows: Vec<BenchRow> = rows(text).expect("rows").into_iter().map(|(_, row)| row).collect();
        let node = mesh_core::id::MachineId::new("msi").expect("a good name");
        import(&rows, About { id: "i".into(), node, meshctl: "0.1.0".into() }).expect("rows of llama-bench")
    }

    #[test]
    fn what_a_real_llama_bench_printed_is_read_whole() {
        let (record, left_out) = imported(LIST);
        assert_eq!(
            (record.check(), left_out.len()),
            (Ok(()), 2),
            "reading and generating together: {left_out:?}"
        );
        assert_eq!(record.imported.map(|one| one.build).as_deref(), Some("llama.cpp of an unknown build"));
        let [rung] = record.rungs.as_slice() else { panic!("one model") };
        let told = (rung.model.as_str(), rung.label.as_str(), rung.quantisation.as_deref());
        assert_eq!(told, ("tiny-trained-1.4M-q8_0", "1.4m", Some("Q8_0")));
        assert_eq!(rung.subject.as_ref().map(|subject| subject.device.as_str()), Some("ram"));
        let works: Vec<(u32, u32, usize)> = rung
            .cells
            .iter()
            .map(|cell| (cell.work.prompt_tokens, cell.work.output_tokens, cell.runs.len()))
            .collect();
        assert_eq!(works, [(64, 1, 3), (128, 1, 3), (1, 16, 3), (96, 1, 3), (160, 1, 3), (32, 16, 3)]);
        let (record, left_out) = imported(LINES);
        assert_eq!((record.check(), left_out.len()), (Ok(()), 0));
        let mut ways: Vec<String> = record.rungs.iter().map(|rung| rung.model.to_string()).collect();
        ways.sort();
        let of = |model: &str| ["t1+fa0", "t1+fa1", "t2+fa0", "t2+fa1"].map(|way| format!("{model}@{way}"));
        assert_eq!(ways, [of("tiny-random-1.4M-q8_0"), of("tiny-trained-1.4M-q8_0")].concat());
        assert!(record.rungs.iter().all(|rung| rung.cells.len() == 2));
    }

    #[test]
    fn a_list_and_lines_give_the_same_rows() {
        let of_list = rows(LIST).expect("rows");
        let values: Vec<serde_json::Value> = serde_json::from_str(LIST).expect("a list");
        let lines: Vec<String> = values.iter().map(ToString::to_string).collect();
        let of_lines = rows(&lines.join("\n")).expect("rows");
        let bare = |rows: Vec<(usize, BenchRow)>| rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>();
        assert_eq!(bare(of_list.clone()), bare(of_lines.clone()));
        assert_eq!(of_lines.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(of_list[0].0, 2, "the second line of the file");
    }

    #[test]
    fn lines_of_a_long_list_are_counted_once() {
        // Counted from the start for each row this is minutes of work.
        let count = 200_000;
        let list = format!("[{}]", vec!["\n{\"n_gen\":128}"; count].join(","));
        let begun = tokio::time::Instant::now();
        let found: Vec<usize> = rows(&list).expect("rows").into_iter().map(|(line, _)| line).collect();
        assert_eq!(found, (2..count + 2).collect::<Vec<_>>());
        assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, said) in [
            ("", "it is empty"),
            ("ggml_cuda_init: found 1 device", "line 1: expected value"),
            ("[\n  {\n    \"n_prompt\": \"many\"\n  }\n]", "line 3: invalid type: string \"many\""),
            ("[\n {\"n_prompt\": 1},\n {\"n_gen\": -1}\n]", "line 3: invalid value: integer `-1`"),
            ("{\"n_gen\": 1}\n\n{\"n_gen\": }", "line 3: expected value"),
            ("[\n{\n", "line 3: EOF while parsing"),
        ] {
            let found = rows(text).expect_err(text);
            assert!(found.starts_with(said), "{text}: {found}");
        }
    }
}
