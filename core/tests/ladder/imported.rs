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
        n_prompt: read,
        n_gen: generated,
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
    let rows = [row(0, 128, &[100.0]), row(512, 128, &[400.0]), row(512, 0, &[]), row(0, 0, &[])];
    let (record, left_out) = import(&rows, about()).expect("one row");
    assert_eq!(record.rungs[0].cells.len(), 1);
    let said = |at: usize, end: &str| assert!(left_out[at].ends_with(end), "{left_out:?}");
    said(0, "with n_prompt 512 and n_gen 128: its rate is of reading and generating together");
    said(1, "only an average is known");
    said(2, "nothing was asked");
    let problem = import(&rows[1..], about()).expect_err("none is left").to_string();
    assert_eq!(problem, "the list of rows is 3 long, and must be at least one row of reading or generating");
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

#[test]
fn a_row_that_is_none_is_refused_by_its_name() {
    let good = || row(0, 128, &[100.0]);
    for (bad, said) in [
        (BenchRow { test_time: "yesterday".into(), ..good() }, "test_time is `yesterday`"),
        (BenchRow { test_time: "2026-13-01T00:00:00Z".into(), ..good() }, "test_time is"),
        (BenchRow { model_filename: String::new(), ..good() }, "model_filename is missing"),
        (BenchRow { model_filename: "../-".into(), ..good() }, "model_filename is ``"),
        (BenchRow { samples_ts: vec![1.0, 2.0], ..good() }, "samples_ts is 2 long"),
        (BenchRow { samples_ts: vec![f64::NAN], ..good() }, "samples_ts is NaN"),
        (BenchRow { samples_ns: vec![0], ..good() }, "samples_ns is 0"),
        (BenchRow { n_gen: 1 << 40, ..good() }, "n_gen is 1099511627776"),
    ] {
        let problem = import(&[good(), bad], about()).expect_err(said);
        assert!(problem.row == 1 && problem.to_string().starts_with(said), "{problem}");
    }
}
