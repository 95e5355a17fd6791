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

/// A row for each of the owner's strategies, as the first plan of its scenario has it.
fn owners_table() -> String {
    const ROWS: [(&str, &str); 4] = [
        ("owner-speed-and-quality", "48 GB (13 + 35), 80 free of 128"),
        ("owner-balanced-triple", "64 GB (13 + 35 + 16)"),
        ("owner-multi-instance", "54 GB (3 x 18)"),
        ("owner-distributed", "64 GB and 92 GB"),
    ];
    let gb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e9);
    let mut table = String::from(
        "| scenario | in the notes | planned, in GB (weights + cache + the rest) | in all | free after |\n|---|---|---|---|---|\n",
    );
    for (name, notes) in ROWS {
        let script = fs::read_to_string(folder().join(format!("{name}.txt"))).expect("readable");
        let mut stage = stage::Stage::default();
        for line in script.lines().map(words::split).filter(|line| !line.is_empty()) {
            words::perform(&line, &mut stage).expect("a scenario that plays");
            if line == ["plan"] {
                break;
            }
        }
        let plan = stage.last.expect("the scenario plans");
        let mut sums = Vec::new();
        let mut parts = Vec::new();
        let mut free = Vec::new();
        for machine in plan.machines.iter().filter(|machine| plan.on(&machine.machine).next().is_some()) {
            let here = plan.on(&machine.machine);
            sums.push(gb(here.clone().map(|placed| placed.needs.total().0).sum()));
            parts.extend(here.map(|placed| {
                let all = placed.footprint.device.plus(placed.footprint.host);
                let rest = all.total().0 - all.weights.0 - all.kv.0;
                let (weights, kv) = (gb(all.weights.0), gb(all.kv.0));
                format!(
                    "{} {weights} + {kv} + {} ({} x {})",
                    placed.model,
                    gb(rest),
                    placed.context.unwrap_or(0),
                    placed.slots
                )
            }));
            let pool = machine.pools.last().expect("a machine has RAM");
            free.push(gb(pool.free.expect("it is known").0));
        }
        table.push_str(&format!(
            "| {name} | {notes} | {} | {} | {} |\n",
            parts.join("<br>"),
            sums.join(" and "),
            free.join(" and ")
        ));
    }
    table
}

#[test]
fn the_page_of_strategies_has_the_figures_of_the_plans() {
    let path = folder().join("../../../docs/strategies.md");
    let page = fs::read_to_string(&path).expect("the page");
    let (start, end) = ("<!-- table of the scenarios -->\n", "<!-- end of the table -->");
    let from = page.find(start).expect("the table's beginning") + start.len();
    let until = page.find(end).expect("the table's end");
    let fresh = owners_table();
    if std::env::var("UPDATE_DOCS").is_ok_and(|value| value == "1") {
        fs::write(&path, format!("{}{fresh}{}", &page[..from], &page[until..])).expect("writable");
        return;
    }
    assert_eq!(&page[from..until], fresh, "UPDATE_DOCS=1 writes the table anew");
}

#[test]
fn a_word_that_is_none_names_its_line() {
    let caught = std::panic::catch_unwind(|| played("machine one ram 16GiB\nfly one"));
    let message = caught.expect_err("no such word");
    let text = message.downcast_ref::<String>().expect("a text");
    assert!(text.contains("line 2") && text.contains("fly"), "{text}");
}
