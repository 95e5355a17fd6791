//! Machines under stress as text: three models that can live together in part, and one that was ended early.

use super::paint::Look;
use super::stress::{Listed, document, list, page};
use crate::exit::{Failure, Kind};
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::ladder::{Cell, ModeGoal, Rung};
use mesh_core::profile::{HardwareFacts, SoftwareFacts};
use mesh_core::routing::Slo;
use mesh_core::stress::{Download, Fetched, LeftOut, Record, SCHEMA, Settings, Stint, analyse};
use mesh_core::trial::{Ended, Prefix, Run, Sample, SpeedWork, Subject};
use mesh_core::units::Bytes;

const PLAIN: Look = Look { width: None, color: false, unicode: true };
const NARROW: Look = Look { width: Some(80), color: false, unicode: false };

fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("a name")
}

fn stint(name: &str, beside: &[&str], began_s: f64, rate: f64) -> Stint {
    let work = SpeedWork {
        prompt_tokens: 512,
        output_tokens: 128,
        streams: 1,
        repetitions: 1,
        seed: 1,
        prefix: Prefix::Cold,
        soak_s: Some(60),
    };
    let run = |number: u32| Run {
        repetition: number,
        at_s: f64::from(number) * 9.0,
        ttft_s: Some(20.0 / rate),
        total_s: 20.0 / rate + 128.0 / rate + f64::from(number) / 10.0,
        output_tokens: Some(128),
        engine_decode: Some(rate),
        ..Run::default()
    };
    let look = |at: u32| Sample {
        at_s: f64::from(at) * 10.0,
        temperature: Some(61.0 + (began_s as f32 + at as f32 * 10.0) / 20.0),
        throttled: Some(began_s > 300.0 && at == 5),
        ..Sample::default()
    };
    let ended = Some(Ended { seconds: 60.0, others: beside.len() as u32 });
    let cell = Cell {
        work,
        runs: (0..6).map(run).collect(),
        samples: (0..6).map(look).collect(),
        ended,
        marks: vec![],
    };
    let beside = beside.iter().map(|name| model(name)).collect();
    Stint { model: model(name), beside, fetching: vec![], began_s, cell, broke: None }
}

fn stressed() -> Record {
    let (ask, code, fill) = ("gpt-oss:20b", "qwen3-coder:30b", "starcoder2:3b");
    let with_files = |stint: Stint| Stint { fetching: vec![model("new:8b"), model("new:14b")], ..stint };
    let goal = |mode: &str, tpot_s| {
        let target = Slo { ttft_s: Some(3.0), tpot_s: Some(tpot_s) };
        ModeGoal::new(ModeName::new(mode).expect("a name"), target)
    };
    let rung = |name: &str| {
        let subject = Subject { build: "llama-server b11549".into(), ..Subject::default() };
        Rung { subject: Some(subject), ..Rung::new(model(name), "?") }
    };
    Record {
        schema: SCHEMA.into(),
        id: "20261122-120000-000".into(),
        node: MachineId::new("strix-1").expect("a name"),
        meshctl: "0.1.0".into(),
        started_unix_ms: 1_795_262_651_000,
        ended_unix_ms: Some(1_795_263_651_000),
        hardware: HardwareFacts::default(),
        software: SoftwareFacts::default(),
        settings: Settings { prompt: 512, output: 128, seconds: 60, seed: 1 },
        modes: vec![goal("ask", 0.025), goal("code", 0.05)],
        models: [ask, code, fill].map(rung).to_vec(),
        left_out: vec![LeftOut {
            model: model("llama3.1:70b"),
            why: "does not fit: needs 43.1 GiB, 12.4 GiB are free".into(),
        }],
        stints: vec![
            stint(ask, &[], 0.0, 61.0),
            stint(code, &[], 60.0, 44.0),
            stint(fill, &[], 120.0, 90.0),
            stint(ask, &[code], 180.0, 33.0),
            stint(code, &[ask], 180.0, 26.0),
            stint(ask, &[fill], 240.0, 42.0),
            stint(fill, &[ask], 240.0, 55.0),
            stint(ask, &[code, fill], 360.0, 24.0),
            stint(code, &[ask, fill], 360.0, 17.0),
            stint(fill, &[ask, code], 360.0, 31.0),
            with_files(stint(ask, &[code, fill], 420.0, 22.0)),
            with_files(stint(code, &[ask, fill], 420.0, 15.5)),
        ],
        downloads: vec![
            Download {
                model: model("new:8b"),
                began_s: 420.0,
                seconds: 60.2,
                bytes: Bytes(1_400_000_000),
                state: Fetched::Running,
            },
            Download {
                model: model("new:14b"),
                began_s: 420.1,
                seconds: 0.4,
                bytes: Bytes(0),
                state: Fetched::Failed("connection refused".into()),
            },
        ],
        stopped: None,
    }
}

fn shown(record: &Record, look: Look) -> String {
    page(record, &analyse(record), look)
}

#[test]
fn three_models_and_two_downloads_are_told_whole() {
    insta::assert_snapshot!(shown(&stressed(), PLAIN));
}

#[test]
fn the_same_in_80_columns_of_ascii() {
    insta::assert_snapshot!(shown(&stressed(), NARROW));
}

#[test]
fn one_that_was_ended_early_without_sensors_says_so() {
    let mut record = stressed();
    record.stints.truncate(5);
    record.stints[4].broke = Some("the trial of qwen3-coder:30b broke: the engine died: killed".into());
    for stint in &mut record.stints {
        stint.cell.samples.clear();
    }
    (record.downloads, record.stopped) = (vec![], Some("ended by hand".into()));
    insta::assert_snapshot!(shown(&record, PLAIN));
}

#[test]
fn kept_stress_tests_have_a_line_each() {
    let listed = |record: Record| Listed::of(Ok(record.clone()), record.id, false);
    let id = |number: u32| format!("20261122-07000{number}-000");
    let broken = Failure::new(Kind::Failed, "cannot read it").cause("line 1: EOF while parsing an object");
    let stopped = Some("ended by hand".into());
    let all = [
        listed(Record { id: id(4), ..stressed() }),
        listed(Record { id: id(3), stints: vec![], stopped, ..stressed() }),
        listed(Record { id: id(2), ended_unix_ms: None, ..stressed() }),
        Listed::of(Ok(Record { id: id(0), ended_unix_ms: None, stints: vec![], ..stressed() }), id(0), true),
        Listed::of(Err(broken), id(1), false),
    ];
    insta::assert_snapshot!(list(&all, PLAIN));
}

#[test]
fn the_document_is_the_record_with_what_it_means() {
    let record = stressed();
    let text = document(&record, &analyse(&record));
    let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (&read["schema"], &read["findings"]["companies"][0]["can"]),
        (&"mesh.stress/v1".into(), &"less".into())
    );
    let again: Record = serde_json::from_str(&text).expect("still a record");
    assert!(again.stints.len() == record.stints.len());
}
