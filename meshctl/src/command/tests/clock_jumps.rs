//! A clock on the wall that jumps a day back and a year on while something is measured: no record ends before it begins, no
//! duration is of that clock, and no record is written over another.

use super::bench::{Bench, Manner, Model};
use super::*;
use crate::command::keep::id_of;
use crate::command::wall_clock::{jumping::Jumps, now};
use serde_json::Value;
use std::path::Path;
use tokio::time::Instant;

/// 2026-11-22 02:15:03.128
const START: u64 = 1_795_313_703_128;
const DAY: u64 = 86_400_000;
const YEAR: u64 = 365 * DAY;

const CLIMB: &str =
    "meshctl ladder run --node msi --models one,three --matrix 512:128 --streams 1 --repetitions 2 --yes";
const VALIDATION: &str =
    "meshctl validate three --node msi --champion one --yes --repetitions 2 --contexts 512";
const STRESS: &str = "meshctl stress --node msi --models one,three --seconds 5 --yes";
const EXAM: &str = "meshctl eval run --models one,three --suite generation --limit 4 --yes";

fn machine() -> Scripted {
    let service = scripted("available", "available");
    let models = ["one", "three"].map(|name| Model::new(name, 1, 1 << 20, Manner::Sound));
    let mut bench = Bench::of(models);
    bench.room = Some(1 << 20);
    service.desk.send_modify(|desk| desk.bench = Some(bench));
    service
}

fn documents(data: &Path, folder: &str) -> Vec<Value> {
    let files = std::fs::read_dir(data.join(folder)).into_iter().flatten();
    let mut paths: Vec<_> = files.map(|file| file.expect("one").path()).collect();
    paths.sort();
    let read = |path| serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON");
    paths.into_iter().map(read).collect()
}

/// All numbers under names that end in `_s` or `seconds`, but those that were asked for.
fn durations(value: &Value, found: &mut Vec<(String, f64)>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields.iter().filter(|(name, _)| *name != "settings" && *name != "work") {
                let is_one = name.ends_with("_s") || name == "seconds";
                found.extend(inner.as_f64().filter(|_| is_one).map(|seconds| (name.clone(), seconds)));
                durations(inner, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|inner| durations(inner, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

async fn typed_at(data: &tempfile::TempDir, router: SocketAddr, line: &str, times: &[u64]) {
    let _jumps = Jumps::through(times.iter().copied());
    assert_eq!(perform_line(line, &way(data, router)).await, Ok(()), "{line}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_makes_no_wrong_duration_no_end_before_the_beginning_and_no_id_twice() {
    let courses: [&[u64]; 3] = [
        &[START, START - DAY],
        // It begins in the same moment, and would have the same id.
        &[START, START + YEAR, START - DAY, START + YEAR],
        // A machine without a battery for its clock.
        &[0],
    ];
    let (data, service) = (prepared(), machine());
    let router = Router::start(&data, "127.0.0.1:0", service).await;
    for (line, folder, of_one) in
        [(CLIMB, "ladder", 1), (VALIDATION, "validate", 1), (STRESS, "stress", 1), (EXAM, "eval", 2)]
    {
        let begun = Instant::now();
        for times in courses {
            typed_at(&data, router.address, line, times).await;
        }
        let took = begun.elapsed().as_secs_f64();
        let records = documents(data.path(), folder);
        assert_eq!(records.len(), courses.len() * of_one, "{line}: one wrote over another");
        for record in &records {
            let ms = |field: &str| record[field].as_u64().unwrap_or_else(|| panic!("{line}: no {field}"));
            assert!(record["id"].as_str() >= Some(&*id_of(ms("started_unix_ms"))), "{line}");
            assert!(ms("ended_unix_ms") >= ms("started_unix_ms"), "{line}: {record:?}");
            let mut found = Vec::new();
            durations(record, &mut found);
            assert!(found.len() > 3 || folder == "eval" && !found.is_empty(), "{line}: {found:?}");
            for (name, seconds) in found {
                // What the scripted machine tells is a few seconds; all else is time that passed here.
                assert!((0.0..=took.max(100.0)).contains(&seconds), "{line}: {name} is {seconds}");
            }
        }
    }
    router.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_climb_that_goes_on_before_it_began_ends_where_it_began() {
    let (data, service) = (prepared(), machine());
    let router = Router::start(&data, "127.0.0.1:0", service).await;
    typed_at(&data, router.address, CLIMB, &[START]).await;
    let path = data.path().join("ladder").join(format!("{}.json", id_of(START)));
    let mut record = super::bench_form::read(&std::fs::read_to_string(&path).expect("a file"));
    let last = record.rungs.pop().expect("two were climbed");
    record.ended_unix_ms = None;
    std::fs::write(&path, serde_json::to_string(&record).expect("JSON")).expect("a file");
    let again = "meshctl ladder run --node msi --models one,three --resume --yes";
    typed_at(&data, router.address, again, &[START - DAY]).await;
    router.stop().await;
    let record = super::bench_form::read(&std::fs::read_to_string(&path).expect("a file"));
    assert_eq!((record.started_unix_ms, record.ended_unix_ms), (START, Some(START)));
    assert_eq!(record.rungs.last().map(|rung| &rung.model), Some(&last.model));
}

#[tokio::test(start_paused = true)]
async fn what_is_imported_twice_in_one_moment_is_kept_twice() {
    let data = prepared();
    let bench = data.path().join("bench.json");
    let rows = include_str!("../ladder/import_samples/llama-bench.json");
    std::fs::write(&bench, rows).expect("a file");
    let line = format!("meshctl ladder import {} --node msi", bench.display());
    for _ in 0..3 {
        typed_at(&data, SocketAddr::from(([127, 0, 0, 1], 1)), &line, &[START]).await;
    }
    let ids: Vec<String> = documents(data.path(), "ladder")
        .iter()
        .map(|record| record["id"].as_str().expect("a text").to_owned())
        .collect();
    assert_eq!(ids, [START, START + 1, START + 2].map(id_of));
}

#[test]
fn the_clock_of_this_test_is_the_one_that_is_asked() {
    {
        let _jumps = Jumps::through([START, START - DAY, START + YEAR]);
        assert_eq!([now(), now(), now(), now()], [START, START - DAY, START + YEAR, START + YEAR]);
    }
    assert!(now() > START - YEAR && now() < START + 100 * YEAR, "then it is the real one again");
}
