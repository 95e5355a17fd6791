//! Reports over kept climbs and what llama-bench measured, typed as people type it. No router is asked.

use super::*;
use crate::command::keep::Keep;
use mesh_core::ladder::Record;

const BENCH: &str = include_str!("../ladder/import_samples/llama-bench.json");

fn kept(data: &tempfile::TempDir) -> Vec<Record> {
    let keep = Keep::<Record>::of(data.path());
    let ids = keep.ids().expect("a folder");
    let read = |id| std::fs::read_to_string(keep.file(id)).expect("a file");
    ids.iter().map(|id| super::bench_form::read(&read(id))).collect()
}

fn file(data: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = data.path().join(name);
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

#[tokio::test(start_paused = true)]
async fn what_llama_bench_measured_is_kept_and_reported_in_every_form() {
    let data = prepared();
    let bench = file(&data, "bench.json", BENCH);
    let prices = file(&data, "prices.toml", include_str!("../../../../configs/prices.toml"));
    assert_eq!(typed_at_home(&data, &format!("meshctl ladder import {bench} --node msi")).await, Ok(()));
    let records = kept(&data);
    let [record] = records.as_slice() else { panic!("one record") };
    assert_eq!((record.node.as_str(), record.rungs.len(), record.rungs[0].cells.len()), ("msi", 1, 6));
    for line in [
        "meshctl ladder report".to_owned(),
        "meshctl ladder report -o md".to_owned(),
        "meshctl ladder report -o csv".to_owned(),
        "meshctl ladder report --json".to_owned(),
        format!("meshctl ladder report {} -o html --prices {prices}", record.id),
        "meshctl ladder list".to_owned(),
        "meshctl ladder show".to_owned(),
    ] {
        assert_eq!(typed_at_home(&data, &line).await, Ok(()), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_climbs_are_compared_and_none_twice() {
    let data = prepared();
    let bench = file(&data, "bench.json", BENCH);
    for node in ["msi", "strix"] {
        assert_eq!(
            typed_at_home(&data, &format!("meshctl ladder import {bench} --node {node}")).await,
            Ok(())
        );
    }
    let ids: Vec<String> = kept(&data).into_iter().map(|record| record.id).collect();
    let [one, other] = ids.as_slice() else { panic!("two records") };
    assert_eq!(typed_at_home(&data, &format!("meshctl ladder report {one} {other}")).await, Ok(()));
    let failure =
        typed_at_home(&data, &format!("meshctl ladder report {one} {one}")).await.expect_err("twice");
    assert_eq!(failure.kind, Kind::Usage);
    assert!(failure.what.ends_with(&format!("is named twice, the second time as `{one}`")), "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_reported_or_imported_says_why_and_keeps_nothing() {
    let data = prepared();
    let prices = file(&data, "prices.toml", "currency = \"€\"\nper_hour = 1\n");
    let words = file(&data, "words.txt", "| model | size |\n");
    let rows = file(
        &data,
        "rows.json",
        "[\n{\"model_filename\": \"m.gguf\", \"n_prompt\": 0, \"n_gen\": 1, \"test_time\": \"now\"}\n]",
    );
    // As rows that were made of `-o csv`, and as another program makes them.
    let without = |field: &str| {
        let mut rows: serde_json::Value = serde_json::from_str(BENCH).expect("rows");
        rows[2].as_object_mut().expect("a row").remove(field);
        let lines: Vec<String> = rows.as_array().expect("a list").iter().map(ToString::to_string).collect();
        format!(
            "meshctl ladder import {} --node msi",
            file(&data, &format!("{field}.jsonl"), &lines.join("\n"))
        )
    };
    for (line, kind, cause) in [
        (without("test_time"), Kind::Failed, Some("line 3: test_time is missing, and must be a time as")),
        (
            without("samples_ns"),
            Kind::Failed,
            Some("line 3: samples_ns is missing, and must be the nanoseconds"),
        ),
        (without("samples_ts"), Kind::Failed, Some("line 3: samples_ts is missing, and must be the rate")),
        ("meshctl ladder report".to_owned(), Kind::NotFound, None),
        ("meshctl ladder import /nowhere.json --node msi".to_owned(), Kind::Failed, Some("No such file")),
        (format!("meshctl ladder import {words} --node msi"), Kind::Failed, Some("line 1: expected value")),
        (
            format!("meshctl ladder import {rows} --node msi"),
            Kind::Failed,
            Some("line 2: test_time is `now`"),
        ),
    ] {
        let failure = typed_at_home(&data, &line).await.expect_err(&line);
        assert_eq!(failure.kind, kind, "{line}");
        let found = failure.cause.unwrap_or_default();
        assert!(cause.is_none_or(|cause| found.starts_with(cause)), "{line}: {found}");
    }
    assert!(kept(&data).is_empty());
    let bench = file(&data, "bench.json", BENCH);
    assert_eq!(typed_at_home(&data, &format!("meshctl ladder import {bench} --node msi")).await, Ok(()));
    let line = format!("meshctl ladder report --prices {prices}");
    let failure = typed_at_home(&data, &line).await.expect_err("no such price");
    assert!(failure.cause.unwrap_or_default().starts_with("line 2: unknown field `per_hour`"));
    let failure = typed_at_home(&data, "meshctl ladder report 1999").await.expect_err("no such climb");
    assert_eq!(failure.kind, Kind::NotFound);
}
