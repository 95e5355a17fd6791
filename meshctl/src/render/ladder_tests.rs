//! Climbs as text: the owner's ladder, a machine that did not get far, and one rung with everything.

use super::ladder::{Lines, Listed, list, rung, show};
use super::paint::Look;
use crate::exit::{Failure, Kind};
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::ladder::{
    Answered, Cell, Mark, ModeGoal, Outcome, Record, Rung, Sampling, Schema, Settings, Shape, StopRule,
    Stopped,
};
use mesh_core::profile::{HardwareFacts, SoftwareFacts};
use mesh_core::routing::Slo;
use mesh_core::trial::{Ended, Prefix, Run, Sample, SpeedWork, Subject};
use mesh_core::units::Bytes;
use mesh_core::verdict::Expectation;

const PLAIN: Look = Look { width: None, color: false, unicode: true };

/// Name, label, billions of parameters, bytes, tokens each second, good answers of five.
const OWNERS: [(&str, &str, u64, u64, f64, usize); 5] = [
    ("llama3.2:1b", "1.2b", 1_240_000_000, 1_300_000_000, 83.01, 5),
    ("llama3.2:3b", "3.2b", 3_210_000_000, 2_000_000_000, 54.67, 5),
    ("llama3:8b", "8b", 8_030_000_000, 4_700_000_000, 31.37, 5),
    ("codellama:13b", "13b", 13_000_000_000, 7_400_000_000, 8.96, 5),
    ("gpt-oss:20b", "21b", 20_900_000_000, 13_000_000_000, 0.52, 1),
];

fn cell(rate: f64, streams: u32, marks: Vec<Mark>) -> Cell {
    let work = SpeedWork {
        prompt_tokens: 512,
        output_tokens: 128,
        streams,
        repetitions: 2,
        seed: 1,
        prefix: Prefix::Cold,
        soak_s: None,
    };
    let run = |number: u32, stream: u32| Run {
        repetition: number,
        stream,
        at_s: f64::from(number) * 10.0,
        ttft_s: Some(0.2 + f64::from(number) / 10.0),
        total_s: 0.2 + f64::from(number) / 10.0 + 127.0 / rate,
        prompt_tokens: Some(512),
        output_tokens: Some(128),
        engine_decode: Some(rate + f64::from(number)),
        ..Run::default()
    };
    let runs = (0..2).flat_map(|number| (0..streams).map(move |stream| run(number, stream))).collect();
    let look = |at_s, temperature| Sample {
        at_s,
        temperature: Some(temperature),
        watts: Some(90.0),
        throttled: Some(marks.contains(&Mark::Throttled)),
        ..Sample::default()
    };
    let samples = vec![look(0.5, 61.0), look(5.0, 68.0)];
    Cell { work, runs, samples, ended: Some(Ended { seconds: 12.0, others: 0 }), marks: marks.clone() }
}

fn answer(number: usize, is_good: bool) -> Answered {
    let text = if is_good { "The sky is blue because air scatters blue light more than red." } else { "" };
    let run = Run {
        id: format!("q{number}"),
        ttft_s: Some(0.1),
        total_s: 1.1,
        output_tokens: Some(14),
        finish_reason: Some("stop".into()),
        text: text.into(),
        ..Run::default()
    };
    Answered { question: run.id.clone(), expected: Expectation::SENTENCE, run }
}

fn climbed() -> Record {
    let rungs = OWNERS.iter().map(|(name, label, parameters, size, rate, good)| Rung {
        parameters: Some(*parameters),
        size: Some(Bytes(*size)),
        quantisation: Some("Q4_K_M".into()),
        load_s: Some(*size as f64 / 2e9),
        subject: Some(Subject {
            build: "ollama 0.13".into(),
            device: "RTX 4070 Laptop 0000:01:00.0".into(),
            context: Some(8192),
            slots: Some(1),
            ..Subject::default()
        }),
        before: Sample { vram_used: Some(Bytes(1 << 30)), temperature: Some(48.0), ..Sample::default() },
        after: Sample { vram_used: Some(Bytes((1 << 30) + size)), ..Sample::default() },
        cells: vec![cell(*rate, 1, vec![])],
        answers: (0..5).map(|number| answer(number, number < *good)).collect(),
        ..Rung::new(ModelId::new(*name).expect("valid"), *label)
    });
    let slo = Slo { ttft_s: Some(2.0), tpot_s: Some(0.05) };
    Record {
        schema: Schema,
        id: "20261121-120411-007".into(),
        node: MachineId::new("msi").expect("valid"),
        meshctl: "0.1.0".into(),
        started_unix_ms: 1_795_262_651_007,
        ended_unix_ms: Some(1_795_263_000_000),
        imported: None,
        hardware: HardwareFacts { cpu: Some("i9-14900HX".into()), ..HardwareFacts::default() },
        software: SoftwareFacts::default(),
        settings: Settings {
            models: Vec::new(),
            matrix: vec![Shape { prompt: 512, output: 128 }],
            streams: vec![1],
            repetitions: 2,
            seed: 1,
            prefix: Prefix::Cold,
            prompts: "v1".into(),
            soak_s: None,
            success_threshold: 0.8,
            idle_below: None,
            sustained_below: None,
            sampling: Sampling::default(),
        },
        modes: vec![ModeGoal {
            context: Some(8192),
            ..ModeGoal::new(ModeName::new("ask").expect("valid"), slo)
        }],
        rungs: rungs.collect(),
        stopped: Some(Stopped {
            rule: StopRule::Success,
            why: "1 of 5 answers of gpt-oss:20b were good, 80 % are wanted".into(),
        }),
    }
}

#[test]
fn the_owners_ladder_is_shown_whole() {
    insta::assert_snapshot!(show(&climbed(), false, PLAIN));
}

#[test]
fn the_owners_ladder_in_80_columns_of_ascii() {
    insta::assert_snapshot!(show(&climbed(), false, Look { width: Some(80), color: false, unicode: false }));
}

#[test]
fn rows_come_one_by_one_and_none_is_called_the_best_yet() {
    let record = climbed();
    let lines = Lines::of(OWNERS.iter().map(|rung| rung.0), PLAIN);
    let mut text = lines.head(&Record { rungs: vec![], ..record.clone() });
    for number in 0..record.rungs.len() {
        let so_far = Record { rungs: record.rungs[..=number].to_vec(), ..record.clone() };
        text += &lines.row(&so_far, &record.rungs[number].model);
    }
    insta::assert_snapshot!(text);
}

#[test]
fn one_rung_is_shown_with_every_figure_and_its_answers() {
    let mut one = climbed().rungs.remove(4);
    one.cells.extend([cell(0.4, 2, vec![Mark::Throttled]), cell(0.3, 4, vec![Mark::Disturbed])]);
    insta::assert_snapshot!(rung(&one, true, PLAIN));
}

#[test]
fn a_climb_that_did_not_get_far_says_why() {
    let mut record = climbed();
    record.rungs.truncate(2);
    record.rungs[0].outcome = Outcome::Failed("the trial of llama3.2:1b broke: the engine died".into());
    record.rungs[1] = Rung {
        outcome: Outcome::Skipped("does not fit: needs 9 GiB of RAM, 2 GiB are free".into()),
        ..Rung::new(record.rungs[1].model.clone(), "3.2b")
    };
    (record.modes, record.stopped, record.ended_unix_ms) = (vec![], None, None);
    insta::assert_snapshot!(show(&record, true, PLAIN));
}

#[test]
fn climbs_are_listed_with_what_became_of_them() {
    let unread = Failure::new(Kind::Failed, "cannot read x").cause("expected value at line 1 column 1");
    let open = Record { stopped: None, ended_unix_ms: None, ..climbed() };
    let listed = [Ok(climbed()), Ok(open), Err(unread)]
        .map(|read| Listed::of(read, "20261121-120411-007".into(), false));
    insta::assert_snapshot!(list(&listed, PLAIN));
}
