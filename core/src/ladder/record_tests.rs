//! Tests of the document: it reads back as it was written, and what is out of bounds is refused by its name.

use super::*;

fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("a name")
}

fn record() -> Record {
    let work = SpeedWork {
        prompt_tokens: 512,
        output_tokens: 128,
        streams: 1,
        repetitions: 5,
        seed: 7,
        prefix: Prefix::Cold,
        soak_s: None,
    };
    let run = Run { ttft_s: Some(0.1), total_s: 2.0, output_tokens: Some(128), ..Run::default() };
    let rung = Rung {
        size: Some(Bytes(1_300_000_000)),
        subject: Some(Subject { build: "llama-server b1".into(), ..Subject::default() }),
        cells: vec![Cell {
            work,
            runs: vec![run.clone()],
            samples: vec![Sample { temperature: Some(51.0), ..Sample::default() }],
            ended: Some(Ended { seconds: 9.0, others: 0 }),
            marks: vec![Mark::Throttled],
        }],
        answers: vec![Answered { question: "q1".into(), expected: Expectation::WHOLE, run }],
        evaluations: vec![Evaluation { suite: "mmlu v2".into(), mode: None, passed: 7, tried: 10 }],
        ..Rung::new(model("llama3.2:1b"), "1b")
    };
    let target = Slo { ttft_s: Some(2.0), tpot_s: Some(0.05) };
    Record {
        schema: Schema,
        id: "7f3a".into(),
        node: MachineId::new("msi").expect("a name"),
        meshctl: "0.3.1".into(),
        started_unix_ms: 10,
        ended_unix_ms: Some(20),
        imported: None,
        hardware: HardwareFacts::default(),
        software: SoftwareFacts::default(),
        settings: Settings {
            models: Vec::new(),
            matrix: vec![Shape { prompt: 512, output: 128 }],
            streams: vec![1, 4],
            repetitions: 5,
            seed: 7,
            prefix: Prefix::Cold,
            prompts: "v3".into(),
            soak_s: Some(600),
            success_threshold: 0.8,
            idle_below: Some(Celsius(65.0)),
            sustained_below: None,
            sampling: Sampling { temperature: Some(0.0), ..Sampling::default() },
        },
        modes: vec![ModeGoal::new(ModeName::new("code").expect("a name"), target)],
        rungs: vec![
            rung,
            Rung { outcome: Outcome::Skipped("no room".into()), ..Rung::new(model("llama3:8b"), "8b") },
        ],
        stopped: Some(Stopped { rule: StopRule::DoesNotFit, why: "llama3:70b misses 9 GiB".into() }),
    }
}

#[test]
fn a_record_reads_back_as_it_was_written() {
    let text = serde_json::to_string(&record()).expect("it can be written");
    assert!(text.starts_with(r#"{"schema":"mesh.bench/v1","id":"7f3a","node":"msi""#), "{text}");
    assert!(text.contains(r#""outcome":"done""#) && text.contains(r#""outcome":{"skipped":"no room"}"#));
    assert!(text.contains(r#""stopped":{"rule":"does_not_fit""#));
    assert_eq!(serde_json::from_str::<Record>(&text).expect("it can be read"), record());
}

#[test]
fn a_record_of_before_the_chosen_models_were_kept_is_read() {
    let mut old = serde_json::to_value(record()).expect("JSON");
    old["settings"].as_object_mut().expect("an object").remove("models").expect("it is written");
    let read: Record = serde_json::from_value(old).expect("a record");
    assert_eq!(read.settings.models, []);
}

#[test]
fn another_form_is_refused_before_anything_else_is_missed() {
    let refused = serde_json::from_str::<Record>(r#"{"schema":"mesh.bench/v2"}"#).expect_err("another form");
    let said = refused.to_string();
    assert!(said.starts_with("schema is `mesh.bench/v2`, and must be `mesh.bench/v1`"), "{said}");
}

#[test]
fn the_least_rate_of_a_mode_follows_from_its_time_for_each_token() {
    let code = &record().modes[0];
    assert_eq!((code.least_decode, code.how.as_deref()), (Some(20.0), Some("1 / TPOT of 50 ms")));
    let free = ModeGoal::new(code.mode.clone(), Slo { ttft_s: None, tpot_s: Some(0.0) });
    assert_eq!((free.least_decode, free.how), (None, None));
}

type Change = fn(&mut Record);

#[test]
fn what_is_out_of_bounds_is_refused_by_its_name() {
    let changes: [(Change, &str); 29] = [
        (|r| r.id = "A b".into(), "id is `A b`, and must be 1 to 64 of a-z, 0-9 and `-`"),
        (|r| r.meshctl = " ".into(), "meshctl is empty"),
        (|r| r.ended_unix_ms = Some(9), "ended_unix_ms is 9, and must be at least started_unix_ms, 10"),
        (|r| r.settings.matrix.clear(), "settings.matrix is 0 long, and must be between 1 and 64 long"),
        (|r| r.settings.matrix[0].output = 0, "settings.matrix[0].output is 0"),
        (|r| r.settings.streams[1] = 65, "settings.streams[1] is 65, and must be between 1 and 64"),
        (|r| r.settings.repetitions = 0, "settings.repetitions is 0"),
        (|r| r.settings.success_threshold = 80.0, "settings.success_threshold is 80, and must be between 0"),
        (|r| r.settings.soak_s = Some(0), "settings.soak_s is 0"),
        (|r| r.settings.idle_below = Some(Celsius(999.0)), "settings.idle_below is 999"),
        (|r| r.settings.sampling.top_p = Some(2.0), "settings.sampling.top_p is 2"),
        (|r| r.modes[0].target.tpot_s = Some(-1.0), "modes[0].target.tpot_s is -1"),
        (|r| r.modes[0].least_decode = Some(f64::NAN), "modes[0].least_decode is NaN"),
        (|r| r.rungs = vec![r.rungs[0].clone(); 65], "rungs is 65 long"),
        (
            |r| r.rungs[1].model = r.rungs[0].model.clone(),
            "rungs[1].model is llama3.2:1b, and must be there once",
        ),
        (|r| r.rungs[0].label = "x".repeat(257), "rungs[0].label is 257 bytes long"),
        (|r| r.rungs[0].outcome = Outcome::Failed("x".repeat(4097)), "rungs[0].outcome is 4097 bytes long"),
        (|r| r.settings.models = vec![model("m"); 65], "settings.models is 65 long"),
        (|r| r.rungs[0].load_s = Some(f64::INFINITY), "rungs[0].load_s is inf"),
        (|r| (r.rungs[0].parameters, r.rungs[0].active_parameters) = (Some(3), Some(4)), "rungs[0].active_p"),
        (|r| r.rungs[0].before.watts = Some(-1.0), "rungs[0].before.watts is -1"),
        (|r| r.rungs[0].after.at_s = f64::NAN, "rungs[0].after.at_s is NaN"),
        (
            |r| r.rungs[0].cells[0].work.streams = 0,
            "rungs[0].cells[0].work.streams is 0, and must be between 1",
        ),
        (|r| r.rungs[0].cells[0].runs[0].total_s = f64::NAN, "rungs[0].cells[0].runs[0].total_s is NaN"),
        (|r| r.rungs[0].cells[0].samples[0].temperature = Some(400.0), "rungs[0].cells[0].samples[0].temp"),
        (|r| r.rungs[0].answers[0].question.clear(), "rungs[0].answers[0].question is empty"),
        (|r| r.rungs[0].answers[0].run.ttft_s = Some(-0.5), "rungs[0].answers[0].run.ttft_s is -0.5"),
        (
            |r| r.rungs[0].evaluations[0].passed = 11,
            "rungs[0].evaluations[0].passed is 11, and must be at most",
        ),
        (|r| r.stopped = Some(Stopped { rule: StopRule::Hot, why: "x".repeat(5000) }), "stopped.why is 5000"),
    ];
    assert_eq!(record().check(), Ok(()));
    for (change, said) in changes {
        let mut wrong = record();
        change(&mut wrong);
        let problem = wrong.check().expect_err(said).to_string();
        assert!(problem.starts_with(said), "{problem}\n{said}");
    }
}

#[test]
fn a_document_out_of_bounds_is_not_read() {
    let mut wrong = record();
    wrong.rungs[0].cells[0].work.repetitions = 101;
    let text = serde_json::to_string(&wrong).expect("it can be written");
    let refused = serde_json::from_str::<Record>(&text).expect_err("too many").to_string();
    assert!(refused.starts_with("rungs[0].cells[0].work.repetitions is 101"), "{refused}");
}
