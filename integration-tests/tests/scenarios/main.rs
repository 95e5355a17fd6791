//! Scenarios of placement: text in, text out, both beside this file. Each `NAME.txt` tells of machines, models, modes and
//! what happens to them; `NAME.out` is what the planner answers. Machines are told as their agents report them, so all
//! from the report to the plan is tested; what a machine does with a plan is simulated to the letter.
//!
//! After a change that is meant: `UPDATE_SCENARIOS=1 cargo test -p integration-tests --test scenarios`, and read the
//! difference. The words: `words.rs`.

mod models;
mod page;
mod stage;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

/// What a script answers, with its own lines between.
fn played(script: &str) -> String {
    let mut stage = stage::Stage::default();
    let mut out = String::new();
    for (number, line) in script.lines().enumerate() {
        let line = line.trim_end();
        out.push_str(line);
        out.push('\n');
        let words = words::split(line);
        if words.is_empty() {
            continue;
        }
        let answer = words::perform(&words, &mut stage)
            .unwrap_or_else(|error| panic!("line {}: {line}: {error}", number + 1));
        for line in answer.lines() {
            out.push_str(format!("    {line}").trim_end());
            out.push('\n');
        }
    }
    out
}

#[test]
fn every_scenario_answers_as_written_down() {
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let mut scripts: Vec<PathBuf> = fs::read_dir(folder())
        .expect("the folder of scenarios")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 10, "only {} scenarios were found in {}", scripts.len(), folder().display());
    let mut differing = Vec::new();
    for script in scripts {
        let text = fs::read_to_string(&script).expect("readable");
        let fresh = played(&text);
        let kept = script.with_extension("out");
        if update {
            fs::write(&kept, &fresh).expect("writable");
        }
        if fs::read_to_string(&kept).unwrap_or_default() != fresh {
            differing.push(format!("{}: now it is\n{fresh}", kept.display()));
        }
    }
    assert!(
        differing.is_empty(),
        "{}\nif that is meant: UPDATE_SCENARIOS=1 cargo test -p integration-tests --test scenarios",
        differing.join("\n")
    );
}

#[test]
fn a_word_that_is_none_names_its_line() {
    let caught = std::panic::catch_unwind(|| played("machine one ram 16GiB\nfly one"));
    let message = caught.expect_err("no such word");
    let text = message.downcast_ref::<String>().expect("a text");
    assert!(text.contains("line 2") && text.contains("fly"), "{text}");
}
