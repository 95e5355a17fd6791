//! Rows of llama-bench become rungs that say no more than the rows do.

use crate::built::model;
use mesh_core::fit::Offload;
use mesh_core::id::MachineId;
use mesh_core::ladder::{About, BenchRow, Outcome, analyse, import};
use mesh_core::trial::Prefix;

fn about() -> About {
    About { id: "i".into(), node: MachineId::new("msi").expect("a name"), meshctl: "0.1.0".into() }
}

fn row(read: u64, generated: u64, rates: &[f64]) -> BenchRow {
    let tokens = (read + generated) as f64;
    BenchRow {
        build_commit: "abc".into(),
        build_number: 6082,
        cpu_info: "Ryzen 7".into(),
        gpu_info: "NVIDIA RTX 5070 Ti".into(),
        backends: "CUDA".into(),
        model_filename: "models/qwen2.5-7b-q4_k_m.gguf".into(),
        model_type: "qwen2 7B Q4_K - Medium".into(),
        model_size: 4_700_000_000,
        model_n_params: 7_600_000_000,
        n_batch: 2048,
        n_threads: 8,
        n_gpu_layers: 99,
        type_k: "f16".into(),
        type_v: "f16".into(),
        n_prompt: Some(read),
        n_gen: Some(generated),
        test_time: "2026-11-20T18:30:00Z".into(),
        samples_ns: rates.iter().map(|rate| (tokens / rate * 1e9) as u64).collect(),
        samples_ts: rates.to_vec(),
        ..BenchRow::default()
    }
}

#[test]
fn reading_and_generating_become_rates_and_nothing_else_is_made_up() {
    let rows = [row(512, 0, &[4900.0, 5000.0, 5100.0]), row(0, 128, &[103.0, 104.0, 105.0])];
    let (record, left_out) = import(&rows, about()).expect("two rows");
    assert_eq!((record.check(), left_out.len()), (Ok(()), 0));
    assert_eq!(record.imported.as_ref().map(|one| one.from.as_str()), Some("llama-bench"));
    // `date -u -d 2026-11-20T18:30:00Z +%s`
    assert_eq!(record.started_unix_ms, 1_795_199_400_000);
    let [rung] = record.rungs.as_slice() else { panic!("one model") };
    assert_eq!((rung.model.clone(), rung.label.as_str()), (model("qwen2.5-7b-q4_k_m"), "7b"));
    assert_eq!(rung.quantisation.as_deref(), Some("Q4_K - Medium"));
    assert_eq!(rung.subject.as_ref().map(|subject| subject.build.as_str()), Some("llama.cpp b6082 (abc)"));
    let analysis = analyse(&record);
    let summary = &analysis.rungs[0];
    assert_eq!(summary.outcome, Outcome::Done);
    assert_eq!(summary.decode.map(|decode| (decode.median, decode.n)), Some((104.0, 3)));
    assert_eq!(summary.prompt.map(|prompt| (prompt.median, prompt.n)), Some((5000.0, 3)));
    assert_eq!(summary.measured_by, "1:128 tokens, 1 stream; prompts by 512:1 tokens, 1 stream");
    assert_eq!((summary.ttft, summary.watts, summary.max_temperature), (None, None, None));
    assert_eq!((summary.answers.clone(), summary.throttled_s), (None, None));
    assert!(analysis.avoid.is_empty());
}

#[test]
fn rows_that_say_two_things_or_none_are_left_out_with_the_reason() {
    let rows = [row(0, 128, &[100.0]), row(512, 128, &[400.0]), row(0, 0, &[])];
    let (record, left_out) = import(&rows, about()).expect("one row");
    assert_eq!(record.rungs[0].cells.len(), 1);
    let said = |at: usize, end: &str| assert!(left_out[at].ends_with(end), "{left_out:?}");
    said(0, "with n_prompt 512 and n_gen 128: its rate is of reading and generating together");
    said(1, "nothing was asked");
    let problem = import(&rows[1..], about()).expect_err("none is left").to_string();
    assert_eq!(problem, "the list of rows is 2 long, and must be at least one row of reading or generating");
}

#[test]
fn what_was_in_the_cache_is_told_and_is_a_work_of_its_own() {
    let deep = BenchRow { n_depth: 4096, ..row(0, 128, &[92.0]) };
    let (record, _) = import(&[row(0, 128, &[104.0]), deep], about()).expect("two rows");
    let cells = &record.rungs[0].cells;
    assert_eq!((cells[0].work.prompt_tokens, cells[0].work.prefix), (1, Prefix::Cold));
    assert_eq!((cells[1].work.prompt_tokens, cells[1].work.prefix), (4096, Prefix::Warm));
    assert_eq!((cells[1].runs[0].prompt_tokens, cells[1].runs[0].cached_tokens), (Some(4096), Some(4096)));
    assert_eq!(analyse(&record).rungs[0].decode.map(|decode| decode.median), Some(104.0));
}

#[test]
fn what_is_measured_is_named_by_all_that_is_known_of_it() {
    let named = |model_type: &str, model_n_params| {
        let row = BenchRow { model_type: model_type.into(), model_n_params, ..row(0, 128, &[100.0]) };
        let rung = import(&[row], about()).expect("a row").0.rungs.remove(0);
        (rung.label, rung.quantisation.unwrap_or_default())
    };
    for (model_type, parameters, label, quantisation) in [
        ("qwen2 7B Q4_K - Medium", 7_600_000_000, "7b", "Q4_K - Medium"),
        ("llama ?B Q8_0", 1_377_600, "1.4m", "Q8_0"),
        ("llama ?B Q8_0", 213_000, "213k", "Q8_0"),
        ("qwen3moe 30B.A3B Q4_K - Medium", 30_500_000_000, "30b.a3b", "Q4_K - Medium"),
        ("gemma3n E2B Q8_0", 4_460_000_000, "e2b", "Q8_0"),
        ("hunyuan-moe A13B IQ4_XS - 4.25 bpw", 80_400_000_000, "a13b", "IQ4_XS - 4.25 bpw"),
        ("llama4 17Bx16E (Scout) Q2_K - Medium", 107_800_000_000, "17bx16e (scout)", "Q2_K - Medium"),
        ("llama 8B (guessed) all F32", 8_000_000_000, "8b", "(guessed) all F32"),
        ("", 0, "?", ""),
    ] {
        let wanted = (label.to_owned(), quantisation.to_owned());
        assert_eq!(named(model_type, parameters), wanted, "{model_type}");
    }
    let built = |build_number, build_commit: &str| {
        let row = BenchRow { build_number, build_commit: build_commit.into(), ..row(0, 128, &[100.0]) };
        import(&[row], about()).expect("a row").0.imported.expect("it is").build
    };
    assert_eq!(built(6082, "abc"), "llama.cpp b6082 (abc)");
    assert_eq!(built(0, "abc"), "llama.cpp (abc)");
    assert_eq!(built(6082, "unknown"), "llama.cpp b6082");
    assert_eq!(built(0, "unknown"), "llama.cpp of an unknown build");
}

#[test]
fn one_model_run_in_two_ways_is_two_rungs_with_names_that_say_which() {
    let slow = BenchRow { n_gpu_layers: 0, ..row(0, 128, &[9.0]) };
    let (record, _) = import(&[row(0, 128, &[104.0]), slow], about()).expect("two rows");
    let names: Vec<&str> = record.rungs.iter().map(|rung| rung.model.as_str()).collect();
    assert_eq!(names, ["qwen2.5-7b-q4_k_m@ngl99", "qwen2.5-7b-q4_k_m@ngl0"]);
    let offload = |at: usize| record.rungs[at].subject.as_ref().and_then(|subject| subject.offload);
    assert_eq!((offload(0), offload(1)), (None, Some(Offload::None)));
    let elsewhere =
        BenchRow { model_filename: "other/qwen2.5-7b-q4_k_m.gguf".into(), ..row(0, 128, &[50.0]) };
    let (record, _) = import(&[row(0, 128, &[104.0]), elsewhere], about()).expect("two rows");
    assert_eq!((record.rungs.len(), record.check()), (2, Ok(())));
}

/// A row that also says `more`, as llama-bench prints it.
fn saying(more: &str) -> BenchRow {
    let said: BenchRow = serde_json::from_str(more).expect("a row");
    BenchRow { other: said.other, ..row(0, 128, &[104.0]) }
}

fn names(rows: &[BenchRow]) -> Vec<String> {
    let (record, left_out) = import(rows, about()).expect("rows");
    assert_eq!((record.check(), left_out.len()), (Ok(()), 0));
    record.rungs.iter().map(|rung| rung.model.to_string()).collect()
}

#[test]
fn rows_that_differ_in_any_option_are_of_two_rungs_and_their_names_say_in_which() {
    for (one, other, words) in [
        (r#"{"flash_attn": false}"#, r#"{"flash_attn": true}"#, ["fa0", "fa1"]),
        (r#"{"n_ubatch": 512}"#, r#"{"n_ubatch": 128}"#, ["ub512", "ub128"]),
        (r#"{"split_mode": "layer"}"#, r#"{"split_mode": "row"}"#, ["sm-layer", "sm-row"]),
        (r#"{"tensor_split": "0.00"}"#, r#"{"tensor_split": "3.00/1.00"}"#, ["ts0.00", "ts3.00-1.00"]),
        (
            r#"{"main_gpu": 0, "n_cpu_moe": 0}"#,
            r#"{"main_gpu": 1, "n_cpu_moe": 8}"#,
            ["mg0+ncmoe0", "mg1+ncmoe8"],
        ),
        (r#"{"no_kv_offload": false}"#, "{}", ["nkvo0", "nkvounknown"]),
        (
            r#"{"a new one": [1, {"b": null}]}"#,
            r#"{"a new one": "x..y"}"#,
            ["a-new-one-1-b-", "a-new-one-x--y"],
        ),
    ] {
        let words = words.map(|word| format!("qwen2.5-7b-q4_k_m@{word}"));
        assert_eq!(names(&[saying(one), saying(other), saying(one)]), words);
    }
    let elsewhere = BenchRow { gpu_info: "NVIDIA RTX 3060".into(), ..saying("{}") };
    let words = ["gpu-NVIDIA-RTX-5070-Ti", "gpu-NVIDIA-RTX-3060"];
    assert_eq!(names(&[saying("{}"), elsewhere]), words.map(|word| format!("qwen2.5-7b-q4_k_m@{word}")));
    let few = BenchRow { n_gpu_layers: 1, ..saying("{}") };
    let all = BenchRow { n_gpu_layers: -1, ..saying("{}") };
    assert_eq!(names(&[few, all]), ["ngl1", "ngl-1"].map(|word| format!("qwen2.5-7b-q4_k_m@{word}")));
}

#[test]
fn what_was_measured_and_when_makes_no_second_rung() {
    let one = saying(r#"{"flash_attn": true, "avg_ns": 1, "stddev_ns": 2, "avg_ts": 3.5, "stddev_ts": 4}"#);
    let other = saying(r#"{"flash_attn": true, "avg_ns": 5, "stddev_ns": 6, "avg_ts": 7.5, "stddev_ts": 8}"#);
    let later = BenchRow { test_time: "2026-11-20T18:31:00Z".into(), n_depth: 4096, ..other };
    assert_eq!(names(&[one, later]), ["qwen2.5-7b-q4_k_m"]);
}

#[test]
fn two_builds_are_told_apart_by_their_numbers_and_those_of_one_number_by_their_commits() {
    let built = |number: u64, commit: &str| {
        let build_commit = commit.into();
        BenchRow { build_number: number, build_commit, ..row(0, 128, &[100.0]) }
    };
    let named =
        |words: &[&str]| words.iter().map(|word| format!("qwen2.5-7b-q4_k_m@{word}")).collect::<Vec<_>>();
    assert_eq!(names(&[built(6082, "abc"), built(6083, "def")]), named(&["b6082", "b6083"]));
    assert_eq!(names(&[built(0, "abc"), built(0, "def")]), named(&["commit-abc", "commit-def"]));
    assert_eq!(
        names(&[built(0, "abc"), built(0, "def"), built(7, "abc")]),
        named(&["b0+commit-abc", "b0+commit-def", "b7+commit-abc"])
    );
}

#[test]
fn names_are_valid_and_no_two_the_same_whatever_differs() {
    let long = |end: char| format!("{}{end}", "x".repeat(400));
    let mut rows: Vec<BenchRow> =
        ["/", ",", "a", ""].map(|text| saying(&format!(r#"{{"devices": "{text}"}}"#))).into();
    for end in ['1', '2', '3'] {
        rows.push(saying(&format!(r#"{{"{}": 1, "2": "{}"}}"#, long(end), long(end))));
        let model_filename = format!("{}/a..b{}.gguf", long(end), long('c'));
        rows.push(BenchRow { model_filename, cpu_info: long(end), ..saying("{}") });
    }
    let mut names = names(&rows);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), rows.len(), "{names:#?}");
}

#[test]
fn more_ways_than_a_record_has_rungs_are_refused_at_the_first_row_too_many() {
    let way = |threads: u64| BenchRow { n_threads: threads, ..row(0, 128, &[100.0]) };
    let mut rows: Vec<BenchRow> = (1..=64).chain(1..=64).map(way).collect();
    assert_eq!(names(&rows).len(), 64);
    rows.push(way(65));
    let problem = import(&rows, about()).expect_err("one too many");
    assert_eq!(problem.row, 128);
    let said = "the list of models and ways to run them is 65 long here, and must be at most 64 long: \
                import fewer of them at once";
    assert_eq!(problem.to_string(), said);
}

#[test]
fn a_row_that_is_none_is_refused_by_its_name() {
    let good = || row(0, 128, &[100.0]);
    for (bad, said) in [
        (BenchRow { test_time: "yesterday".into(), ..good() }, "test_time is `yesterday`"),
        (BenchRow { test_time: "2026-13-01T00:00:00Z".into(), ..good() }, "test_time is"),
        (
            BenchRow { test_time: String::new(), ..good() },
            "test_time is missing, and must be a time as 2026-11-21T12:04:11Z, as llama-bench prints it with `-o json`",
        ),
        (
            BenchRow { samples_ns: vec![], ..good() },
            "samples_ns is missing, and must be the nanoseconds of each measurement, as llama-bench prints it with",
        ),
        (BenchRow { samples_ts: vec![], ..good() }, "samples_ts is missing, and must be the rate of each"),
        (row(0, 128, &[]), "samples_ns is missing"),
        (BenchRow { model_filename: String::new(), ..good() }, "model_filename is missing"),
        (BenchRow { model_filename: "../-".into(), ..good() }, "model_filename is ``"),
        (BenchRow { samples_ts: vec![1.0, 2.0], ..good() }, "samples_ts is 2 long"),
        (BenchRow { samples_ts: vec![f64::NAN], ..good() }, "samples_ts is NaN"),
        (BenchRow { samples_ns: vec![0], ..good() }, "samples_ns is 0"),
        (BenchRow { n_gen: Some(1 << 40), ..good() }, "n_gen is 1099511627776"),
        (BenchRow { n_gen: None, ..good() }, "n_gen is missing"),
        (BenchRow { n_prompt: None, ..good() }, "n_prompt is missing"),
    ] {
        let problem = import(&[good(), bad], about()).expect_err(said);
        assert!(problem.row == 1 && problem.to_string().starts_with(said), "{problem}");
    }
}
