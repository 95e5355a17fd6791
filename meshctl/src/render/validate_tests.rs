//! Validations as text: a new champion, a good model with flaws, one that is poor, and one that did not load.

use super::paint::Look;
use super::validate::{Listed, document, list, page, unjudged};
use crate::exit::{Failure, Kind};
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::ladder::{Answered, Cell, ModeGoal, Outcome, Rung};
use mesh_core::profile::{HardwareFacts, SoftwareFacts};
use mesh_core::routing::Slo;
use mesh_core::trial::{Ended, Prefix, Run, SpeedWork, Subject};
use mesh_core::units::Bytes;
use mesh_core::validation::{
    Ability, Aim, Asked, Call, Called, Evidence, Formed, Needle, Piece, Reached, Record, SCHEMA, Said,
    Settings, Sort, Unasked, judge,
};
use mesh_core::verdict::Expectation;
use std::collections::BTreeMap;

const PLAIN: Look = Look { width: None, color: false, unicode: true };
const NARROW: Look = Look { width: Some(80), color: false, unicode: false };
const CONTEXTS: [u32; 3] = [512, 4096, 16_384];

fn cell(prompt: u32, rate: f64) -> Cell {
    let work = SpeedWork {
        prompt_tokens: prompt,
        output_tokens: 128,
        streams: 1,
        repetitions: 3,
        seed: 1,
        prefix: Prefix::Cold,
        soak_s: None,
    };
    let ttft = f64::from(prompt) / 2000.0;
    let run = |number: u32| Run {
        repetition: number,
        ttft_s: Some(ttft),
        total_s: ttft + 128.0 / rate,
        prompt_tokens: Some(prompt),
        output_tokens: Some(128),
        engine_decode: Some(rate),
        ..Run::default()
    };
    let ended = Some(Ended { seconds: 9.0, others: 0 });
    Cell { work, runs: (0..3).map(run).collect(), samples: vec![], ended, marks: vec![] }
}

fn answered(number: usize) -> Answered {
    let text = "The sky is blue because the air scatters blue light more than red light.";
    let run = Run { text: text.into(), finish_reason: Some("stop".into()), ..Run::default() };
    Answered { question: format!("q{number}"), expected: Expectation::SENTENCE, run }
}

fn object(key: &str, sort: Sort, text: &str) -> Said {
    Said::Object(BTreeMap::from([(key.into(), Piece { sort, text: text.into() })]))
}

fn evidence(name: &str, billions: u64, rates: [f64; 3]) -> Evidence {
    let subject =
        Subject { build: "llama-server b11549".into(), context: Some(16_640), ..Subject::default() };
    let rung = Rung {
        parameters: Some(billions * 1_000_000_000),
        quantisation: Some("Q4_K_M".into()),
        size: Some(Bytes(billions * 600_000_000)),
        load_s: Some(4.2),
        subject: Some(subject),
        cells: CONTEXTS.iter().zip(rates).map(|(tokens, rate)| cell(*tokens, rate)).collect(),
        answers: (0..5).map(answered).collect(),
        ..Rung::new(ModelId::new(name).expect("a name"), format!("{billions}b"))
    };
    let formed = Formed {
        wanted: BTreeMap::from([("age".into(), Sort::Whole)]),
        run: Run::default(),
        said: object("age", Sort::Whole, ""),
    };
    let call = Call { name: "weather_now".into(), arguments: object("city", Sort::Text, "Oslo") };
    let wanted = Asked { tool: "weather_now".into(), argument: "city".into(), value: "Oslo".into() };
    let needle = |depth| Needle {
        depth,
        code: "48213".into(),
        run: Run { text: "48213".into(), prompt_tokens: Some(15_391), ..Run::default() },
    };
    Evidence {
        contexts: CONTEXTS.iter().map(|asked| Reached { asked: *asked, prompt: Some(*asked) }).collect(),
        forms: vec![formed; 3],
        calls: vec![Called { wanted, run: Run::default(), calls: vec![call] }; 3],
        needles: [25, 50, 75].map(needle).to_vec(),
        ..Evidence::new(rung, Some(131_072))
    }
}

fn record(candidate: Evidence, champion: Option<Evidence>) -> Record {
    let aim = |mode: &str, context, tpot_s| {
        let target = Slo { ttft_s: Some(15.0), tpot_s: Some(tpot_s) };
        let mode = ModeName::new(mode).expect("a name");
        let goal = ModeGoal { context: Some(context), ..ModeGoal::new(mode, target) };
        Aim { goal, models: vec![ModelId::new("qwen3-coder:14b").expect("a name")] }
    };
    Record {
        schema: SCHEMA.into(),
        id: "20261122-120000-000".into(),
        node: MachineId::new("strix-1").expect("a name"),
        meshctl: "0.1.0".into(),
        started_unix_ms: 1_795_262_651_000,
        ended_unix_ms: Some(1_795_262_951_000),
        hardware: HardwareFacts::default(),
        software: SoftwareFacts::default(),
        settings: Settings {
            contexts: CONTEXTS.to_vec(),
            output: 128,
            repetitions: 3,
            seed: 1,
            questions: "v1".into(),
        },
        modes: vec![aim("code", 16_384, 0.05), aim("debug", 16_384, 0.03)],
        candidate,
        champion,
        stopped: None,
    }
}

fn shown(record: &Record, look: Look) -> String {
    page(record, &judge(record), look)
}

#[test]
fn a_new_champion_is_promoted_in_the_modes_that_it_is_fast_enough_for() {
    let new = evidence("qwen3-coder:30b", 30, [31.4, 29.8, 24.1]);
    let record = record(new, Some(evidence("qwen3-coder:14b", 14, [44.0, 41.2, 30.9])));
    insta::assert_snapshot!(shown(&record, PLAIN));
}

/// Good, with two flaws and one thing that was not asked.
fn flawed() -> Record {
    let mut new = evidence("qwen3-coder:30b", 30, [31.4, 29.8, 14.1]);
    new.needles[2].run.text = "I cannot find it.".into();
    new.calls.clear();
    let why = "the engine says that the model's chat template knows no tools".into();
    new.unasked.push(Unasked { what: Ability::Tools, why });
    record(new, Some(evidence("qwen3-coder:14b", 14, [44.0, 41.2, 30.9])))
}

#[test]
fn a_good_model_with_flaws_is_kept_and_says_what_is_wrong() {
    insta::assert_snapshot!(shown(&flawed(), PLAIN));
}

#[test]
fn the_same_in_80_columns_of_ascii() {
    insta::assert_snapshot!(shown(&flawed(), NARROW));
}

#[test]
fn a_poor_model_without_a_champion_is_skipped() {
    let mut noise = evidence("broken:7b-q2", 7, [80.2, 74.9, 60.0]);
    for answer in &mut noise.rung.answers[1..] {
        answer.run.text.clear();
    }
    for formed in &mut noise.forms {
        formed.said = Said::Other("no JSON: EOF while parsing a string at line 1 column 900".into());
    }
    for called in &mut noise.calls {
        called.calls.clear();
    }
    insta::assert_snapshot!(shown(&record(noise, None), PLAIN));
}

#[test]
fn a_model_that_does_not_load_says_so_and_nothing_else_twice() {
    let mut large = evidence("llama3.1:70b", 70, [1.0; 3]);
    let why = "does not fit: needs 43.1 GiB, 15.2 GiB are free on the RTX 5070 Ti".to_owned();
    let rung = Rung {
        outcome: Outcome::Skipped(why),
        cells: vec![],
        answers: vec![],
        subject: None,
        load_s: None,
        ..large.rung
    };
    large = Evidence::new(rung, Some(131_072));
    insta::assert_snapshot!(shown(
        &record(large, Some(evidence("qwen3-coder:14b", 14, [44.0, 41.2, 30.9]))),
        PLAIN
    ));
}

fn cut_short() -> Record {
    Record { stopped: Some("the router was lost: broken pipe".into()), ..flawed() }
}

#[test]
fn one_that_was_ended_early_says_why_and_how_to_begin_anew() {
    insta::assert_snapshot!(unjudged(&cut_short(), false, NARROW));
}

#[test]
fn kept_validations_have_a_line_each() {
    let numbered = |record: Record, number: u32| {
        let id = format!("20261122-07000{number}-000");
        Listed::of(Ok(Record { id: id.clone(), ..record }), id, number == 0)
    };
    let broken = Failure::new(Kind::Failed, "cannot read it").cause("line 1: EOF while parsing an object");
    let all = [
        numbered(flawed(), 4),
        numbered(cut_short(), 3),
        numbered(Record { ended_unix_ms: None, champion: None, ..flawed() }, 2),
        numbered(Record { ended_unix_ms: None, ..flawed() }, 0),
        Listed::of(Err(broken), "20261122-070001-000".into(), false),
    ];
    insta::assert_snapshot!(list(&all, PLAIN));
}

#[test]
fn the_document_is_the_record_with_its_judgement() {
    let record = flawed();
    let text = document(&record, Some(&judge(&record)));
    let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (&read["schema"], &read["validation"]["verdict"]),
        (&"mesh.validation/v1".into(), &"good".into())
    );
    let again: Record = serde_json::from_str(&text).expect("still a record");
    assert!(judge(&again) == judge(&record), "it says the same");
    let text = document(&cut_short(), None);
    let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(read["validation"], serde_json::Value::Null);
}
