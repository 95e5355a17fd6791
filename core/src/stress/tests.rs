//! Figures beside those alone, who can live with whom, the course of the temperature, and the document.

use super::*;
use crate::id::{MachineId, ModeName, ModelId};
use crate::ladder::{Cell, ModeGoal, RecordProblem, Rung};
use crate::profile::{HardwareFacts, SoftwareFacts};
use crate::routing::Slo;
use crate::trial::{Ended, Prefix, Run, Sample, SpeedWork};
use crate::units::Bytes;
use proptest::prelude::*;

fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("a name")
}

/// `rates` = tokens each second of each request, 100 tokens each.
fn stint(name: &str, beside: &[&str], began_s: f64, rates: &[f64]) -> Stint {
    let work = SpeedWork {
        prompt_tokens: 512,
        output_tokens: 100,
        streams: 1,
        repetitions: 1,
        seed: 1,
        prefix: Prefix::Cold,
        soak_s: Some(60),
    };
    let run = |(number, rate): (usize, &f64)| Run {
        repetition: number as u32,
        at_s: number as f64 * 5.0,
        ttft_s: Some(0.5),
        total_s: 0.5 + 100.0 / rate,
        output_tokens: Some(100),
        engine_decode: Some(*rate),
        ..Run::default()
    };
    let warm = |at: usize| Sample {
        at_s: at as f64,
        temperature: Some(60.0 + at as f32),
        throttled: Some(at == 3),
        ..Sample::default()
    };
    let cell = Cell {
        work,
        runs: rates.iter().enumerate().map(run).collect(),
        samples: (0..4).map(warm).collect(),
        ended: Some(Ended { seconds: 60.0, others: beside.len() as u32 }),
        marks: vec![],
    };
    let beside = beside.iter().map(|name| model(name)).collect();
    Stint { model: model(name), beside, fetching: vec![], began_s, cell, broke: None }
}

fn goal(mode: &str, rate: f64) -> ModeGoal {
    let target = Slo { ttft_s: Some(2.0), tpot_s: Some(1.0 / rate) };
    ModeGoal::new(ModeName::new(mode).expect("a name"), target)
}

fn record(stints: Vec<Stint>) -> Record {
    Record {
        schema: SCHEMA.into(),
        id: "20261122-1".into(),
        node: MachineId::new("msi").expect("a name"),
        meshctl: "0.1.0".into(),
        started_unix_ms: 10,
        ended_unix_ms: Some(20),
        hardware: HardwareFacts::default(),
        software: SoftwareFacts::default(),
        settings: Settings { prompt: 512, output: 100, seconds: 60, seed: 1 },
        modes: vec![goal("code", 20.0), goal("ask", 40.0)],
        models: ["a", "b", "c"].map(|name| Rung::new(model(name), "1b")).to_vec(),
        left_out: vec![],
        stints,
        downloads: vec![],
        stopped: None,
    }
}

/// Two models, alone at 50 and 30 tokens each second, together at these.
fn pair(a: f64, b: f64) -> Record {
    record(vec![
        stint("a", &[], 0.0, &[50.0; 3]),
        stint("b", &[], 60.0, &[30.0; 3]),
        stint("a", &["b"], 120.0, &[a; 3]),
        stint("b", &["a"], 120.0, &[b; 3]),
    ])
}

#[test]
fn figures_stand_beside_those_alone() {
    let findings = analyse(&pair(25.0, 24.0));
    let rows = &findings.rows;
    assert_eq!((rows[0].slower, rows[0].lost, rows[0].n), (None, None, 3));
    // 0.5 + 4 beside 0.5 + 2.
    assert!((rows[2].slower.expect("both") - 0.8).abs() < 1e-9);
    assert!((rows[2].lost.expect("both") - 0.5).abs() < 1e-9);
    assert!((rows[3].lost.expect("both") - 0.2).abs() < 1e-9);
    let few = analyse(&record(vec![stint("a", &[], 0.0, &[50.0]), stint("a", &["b"], 60.0, &[25.0; 3])]));
    assert_eq!(
        (few.rows[1].slower, few.rows[1].lost),
        (None, None),
        "one request is nothing to compare with"
    );
}

#[test]
fn models_can_live_together_while_each_does_for_the_modes_that_it_does_for_alone() {
    let of = |a, b| analyse(&pair(a, b)).companies.remove(0);
    let fine = of(40.0, 20.0);
    assert_eq!((fine.can, fine.why.as_slice()), (Livable::Yes, &[][..]));
    let names = |modes: &[ModeName]| modes.iter().map(|mode| mode.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(
        (names(&fine.modes[0]), names(&fine.modes[1])),
        (vec!["code".into(), "ask".into()], vec!["code".into()])
    );
    let slow = of(39.0, 20.0);
    assert_eq!((slow.can, names(&slow.modes[0])), (Livable::Less, vec!["code".into()]));
    assert_eq!(slow.why, ["a no longer does for ask (39.0 tok/s of 40.0 wanted)"]);
    assert_eq!(of(40.0, 19.9).can, Livable::No, "it has no other mode");
    assert_eq!(of(39.0, 19.9).can, Livable::No);
}

#[test]
fn where_no_mode_speaks_a_fair_share_is_the_bound() {
    let of = |rate: f64| {
        let mut record = pair(25.0, rate);
        record.modes.clear();
        analyse(&record).companies.remove(0)
    };
    // 100 tokens at 15 tok/s take twice as long as at 30.
    assert_eq!(of(15.0).can, Livable::Yes);
    let hungry = of(12.0);
    assert_eq!(hungry.can, Livable::No);
    assert_eq!(hungry.why, ["b takes 2.3 times as long as alone, more than a fair share of 2"]);
}

#[test]
fn requests_that_fail_and_engines_that_die_end_the_company() {
    let mut failing = pair(45.0, 25.0);
    failing.stints[3].cell.runs[1].error = Some("status 500".into());
    let company = analyse(&failing).companies.remove(0);
    assert_eq!((company.can, company.why), (Livable::No, vec!["b failed 1 of 3 requests".to_owned()]));
    let mut dying = pair(45.0, 25.0);
    dying.stints[2].broke = Some("the engine died: killed".into());
    let company = analyse(&dying).companies.remove(0);
    assert_eq!(
        (company.can, company.why),
        (Livable::No, vec!["a broke: the engine died: killed".to_owned()])
    );
    let mut dead = pair(45.0, 25.0);
    dead.stints[0].broke = Some("the engine died: killed".into());
    let company = analyse(&dead).companies.remove(0);
    assert_eq!(
        (company.can, company.why[0].as_str()),
        (Livable::No, "a broke already alone: the engine died: killed")
    );
}

#[test]
fn what_was_not_measured_is_not_known() {
    let of = |change: fn(&mut Record)| {
        let mut record = pair(45.0, 25.0);
        change(&mut record);
        let company = analyse(&record).companies.remove(0);
        (company.can, company.why.join("; "))
    };
    assert_eq!(
        of(|r| drop(r.stints.pop())),
        (Livable::Unknown, "b was not measured beside the others".into())
    );
    assert_eq!(
        of(|r| drop(r.stints.remove(1))),
        (Livable::Unknown, "b was not measured alone".into()),
        "more seconds would not help"
    );
    assert_eq!(
        of(|r| r.stints[1].cell.runs.truncate(1)),
        (Livable::Unknown, "b answered too few requests to compare; give it more seconds".into()),
        "alone once is nothing to compare with"
    );
    let few = of(|r| r.stints[2].cell.runs.truncate(1));
    assert_eq!(
        few,
        (Livable::Unknown, "a answered too few requests to compare; give it more seconds".into())
    );
}

#[test]
fn pairs_come_before_all_and_downloads_make_no_company() {
    let mut record = pair(45.0, 25.0);
    record.stints.push(stint("c", &[], 180.0, &[9.0; 2]));
    for (name, beside) in [("a", ["b", "c"]), ("b", ["a", "c"]), ("c", ["a", "b"])] {
        record.stints.push(stint(name, &beside, 240.0, &[9.0; 2]));
    }
    let fetching = Stint { fetching: vec![model("new")], ..stint("a", &["b"], 300.0, &[20.0; 3]) };
    record.stints.push(fetching);
    let findings = analyse(&record);
    let sizes: Vec<usize> = findings.companies.iter().map(|company| company.models.len()).collect();
    assert_eq!(sizes, [2, 3]);
    assert!(findings.rows.last().is_some_and(|row| row.slower.is_some_and(|slower| slower > 1.0)));
}

#[test]
fn the_course_of_all_stints_is_one_and_each_second_counts_once() {
    let course = analyse(&pair(25.0, 24.0)).course;
    assert_eq!((course.start, course.end, course.max), (Some(60.0), Some(63.0), Some(63.0)));
    assert_eq!(course.seconds, 123.0);
    assert_eq!(course.throttled_s, Some(3), "two models told of second 123");
    assert_eq!((course.points.len(), course.points[0], course.points[8]), (16, Some(63.0), Some(63.0)));
    assert_eq!(course.points[4], None, "nobody looked then");
    let mut blind = pair(25.0, 24.0);
    for stint in &mut blind.stints {
        stint.cell.samples.iter_mut().for_each(|sample| *sample = Sample::default());
    }
    assert_eq!(analyse(&blind).course, Course::default());
}

#[test]
fn a_record_reads_back_as_it_was_written() {
    let mut whole = pair(25.0, 24.0);
    whole.left_out.push(LeftOut { model: model("d"), why: "does not fit".into() });
    let state = Fetched::Failed("connection refused".into());
    whole.downloads.push(Download { model: model("e"), began_s: 1.0, seconds: 2.0, bytes: Bytes(3), state });
    let text = serde_json::to_string(&whole).expect("it can be written");
    assert!(text.starts_with(r#"{"schema":"mesh.stress/v1","id":"20261122-1""#), "{text}");
    assert_eq!(analyse(&serde_json::from_str(&text).expect("it can be read")), analyse(&whole));
    let other = serde_json::from_str::<Record>(r#"{"schema":"mesh.bench/v1"}"#).expect_err("another form");
    assert!(
        other.to_string().starts_with("schema is `mesh.bench/v1`, and must be `mesh.stress/v1`"),
        "{other}"
    );
}

type Spoil = fn(&mut Record);

#[test]
fn what_is_out_of_bounds_is_refused_by_its_name() {
    let spoils: [(Spoil, &str); 9] = [
        (|r| r.id.clear(), "id is ``"),
        (|r| r.settings.seconds = 0, "settings.seconds is 0"),
        (|r| r.models = vec![r.models[0].clone(); 17], "models is 17 long"),
        (|r| r.models[1] = r.models[0].clone(), "models is 2 names, and must be each there once only"),
        (|r| r.stints[0].model = model("x"), "stints[0].model is x, and must be one of models"),
        (|r| r.stints[2].beside[0] = model("a"), "stints[2].beside is a, and must be other models only"),
        (|r| r.stints[1].began_s = f64::NAN, "stints[1].began_s is NaN"),
        (|r| r.stints[1].cell.runs[0].total_s = -1.0, "stints[1].cell.runs[0].total_s is -1"),
        (|r| r.stopped = Some("x".repeat(5000)), "stopped is 5000 bytes long"),
    ];
    assert_eq!(pair(25.0, 24.0).check(), Ok(()));
    for (spoil, said) in spoils {
        let mut wrong = pair(25.0, 24.0);
        spoil(&mut wrong);
        let problem: RecordProblem = wrong.check().expect_err(said);
        assert!(problem.to_string().starts_with(said), "{problem}\n{said}");
    }
}

proptest! {
    #[test]
    fn slower_and_failing_models_never_become_better_company(
        a in 1.0..60.0_f64,
        b in 1.0..40.0_f64,
        part in 0.1..1.0_f64,
        fails in any::<bool>(),
        has_modes in any::<bool>(),
    ) {
        let mut record = pair(a, b);
        if !has_modes {
            record.modes.clear();
        }
        let before = analyse(&record).companies[0].can;
        for run in &mut record.stints[2].cell.runs {
            run.engine_decode = Some(a * part);
            run.total_s = 0.5 + 100.0 / (a * part);
        }
        if fails {
            record.stints[2].cell.runs[0].error = Some("status 500".into());
        }
        prop_assert!(analyse(&record).companies[0].can <= before);
    }
}
