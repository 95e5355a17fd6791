//! The form of a climb, `docs/bench.schema.json`: what the other tests keep follows it, it takes what a [`Record`] takes and
//! nothing else, and no part of it stands for nothing.

use mesh_core::fit::Offload;
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::ladder::{
    Answered, Cell, Evaluation, Imported, Mark, ModeGoal, Outcome, Pull, Record, Rung, Sampling, Schema,
    Settings, Shape, Shortage, StopRule, Stopped,
};
use mesh_core::machine::{GpuVendor, ThermalState};
use mesh_core::profile::{GpuFacts, HardwareFacts, SoftwareFacts};
use mesh_core::routing::Slo;
use mesh_core::trial::{Ended, Prefix, Run, Sample, SpeedWork, Subject};
use mesh_core::units::{Bytes, Celsius};
use mesh_core::verdict::Expectation;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

static FORM: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../../docs/bench.schema.json")).expect("the schema is JSON")
});
static VALIDATOR: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| jsonschema::validator_for(&FORM).expect("it is a schema"));

fn check(document: &Value) -> Result<(), String> {
    let faults: Vec<String> =
        VALIDATOR.iter_errors(document).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// Reads a document that a test kept, which must follow the schema.
pub(super) fn read(text: &str) -> Record {
    let document: Value = serde_json::from_str(text).expect("JSON");
    if let Err(faults) = check(&document) {
        panic!("a kept record does not follow docs/bench.schema.json:\n{faults}");
    }
    serde_json::from_value(document).expect("a record")
}

fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("a good name")
}

/// Nothing that may be unknown is known.
fn bare() -> Record {
    let work = work(Prefix::Cold, None);
    let cell = Cell {
        work,
        runs: vec![Run::default()],
        samples: vec![Sample::default()],
        ended: None,
        marks: vec![],
    };
    let answer = Answered { question: "explain".into(), expected: Expectation::WHOLE, run: Run::default() };
    let evaluation = Evaluation { suite: "mmlu".into(), mode: None, passed: 0, tried: 0 };
    let gpu = GpuFacts {
        id: "0".into(),
        name: "Card".into(),
        vendor: GpuVendor::Amd,
        memory: None,
        shares_ram: false,
    };
    let rungs = vec![
        Rung::new(model("plain"), "?"),
        Rung {
            subject: Some(Subject::default()),
            cells: vec![cell],
            answers: vec![answer],
            evaluations: vec![evaluation],
            ..Rung::new(model("tried"), "?")
        },
    ];
    Record {
        schema: Schema,
        id: "20261122-021503-128".into(),
        node: MachineId::new("msi").expect("a good name"),
        meshctl: "0.1.0".into(),
        started_unix_ms: 10,
        ended_unix_ms: None,
        imported: None,
        hardware: HardwareFacts { gpus: vec![gpu], ..HardwareFacts::default() },
        software: SoftwareFacts::default(),
        settings: Settings {
            models: vec![],
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
        modes: vec![ModeGoal::new(
            ModeName::new("ask").expect("a good name"),
            Slo { ttft_s: None, tpot_s: None },
        )],
        rungs,
        stopped: None,
    }
}

fn work(prefix: Prefix, soak_s: Option<u32>) -> SpeedWork {
    SpeedWork { prompt_tokens: 512, output_tokens: 128, streams: 1, repetitions: 2, seed: 1, prefix, soak_s }
}

/// All that may be known is known. Each field is named: a new one is not forgotten.
fn full() -> Record {
    let run = Run {
        id: "explain".into(),
        repetition: 1,
        stream: 0,
        warm_up: true,
        at_s: 0.5,
        ttft_s: Some(0.1),
        total_s: 2.0,
        longest_gap_s: Some(0.2),
        prompt_tokens: Some(512),
        cached_tokens: Some(0),
        output_tokens: Some(128),
        engine_prefill: Some(900.0),
        engine_decode: Some(60.0),
        finish_reason: Some("stop".into()),
        text: "It is blue.".into(),
        reasoning: Some("Why?".into()),
        raw: Some("{}".into()),
        error: Some("none".into()),
    };
    let sample = |thermal| Sample {
        at_s: 1.0,
        temperature: Some(61.5),
        gpu_temperature: Some(60.0),
        watts: Some(180.0),
        vram_used: Some(Bytes(1 << 30)),
        ram_used: Some(Bytes(1 << 31)),
        throttled: Some(true),
        thermal,
        load: Some(0.5),
        others: Some(0.1),
    };
    let cell = |work, marks| Cell {
        work,
        runs: vec![run.clone()],
        samples: ThermalState::ALL.map(sample).to_vec(),
        ended: Some(Ended { seconds: 9.0, others: 1 }),
        marks,
    };
    let expected = Expectation { may_be_cut: true, may_loop: true, in_words: true, most_tokens: Some(300) };
    let rung = |name, offload, outcome| Rung {
        model: model(name),
        label: "8b".into(),
        parameters: Some(8_000_000_000),
        active_parameters: Some(3_000_000_000),
        quantisation: Some("Q4_K_M".into()),
        size: Some(Bytes(4 << 30)),
        digest: Some("ab".repeat(32)),
        specialty: Some("code".into()),
        pull: Some(Pull { bytes: Bytes(4 << 30), seconds: 60.0 }),
        load_s: Some(3.0),
        subject: Some(Subject {
            build: "llama-server b11549".into(),
            device: "ram".into(),
            digest: Some("ab".repeat(32)),
            offload: Some(offload),
            context: Some(4096),
            slots: Some(2),
            exact_prompts: true,
            exact_answers: true,
            exact_prefix: true,
            unix_ms: 10,
        }),
        before: sample(ThermalState::Ok),
        after: sample(ThermalState::Ok),
        shortage: Some(Shortage { vram: Bytes(1), ram: Bytes(0), disk: Bytes(0) }),
        cells: vec![
            cell(work(Prefix::Cold, None), vec![Mark::Throttled]),
            cell(work(Prefix::Warm, Some(60)), vec![Mark::Disturbed, Mark::Busy]),
        ],
        answers: vec![Answered { question: "explain".into(), expected, run: run.clone() }],
        evaluations: vec![Evaluation {
            suite: "mmlu acc loglikelihood 5-shot".into(),
            mode: Some(ModeName::new("code").expect("a good name")),
            passed: 7,
            tried: 10,
        }],
        outcome,
    };
    let gpu = |vendor| GpuFacts {
        id: "0000:01:00.0".into(),
        name: "Card".into(),
        vendor,
        memory: Some(Bytes(16 << 30)),
        shares_ram: true,
    };
    Record {
        ended_unix_ms: Some(20),
        imported: Some(Imported { from: "llama-bench".into(), build: "llama.cpp b11434".into() }),
        hardware: HardwareFacts {
            hostname: "msi".into(),
            cpu: Some("a processor".into()),
            cpu_threads: 16,
            ram: Some(Bytes(64 << 30)),
            gpus: GpuVendor::ALL.map(gpu).to_vec(),
        },
        software: SoftwareFacts {
            system: Some("Linux 6.12".into()),
            agent: "0.1.0".into(),
            drivers: vec!["NVIDIA 570.1".into()],
        },
        settings: Settings {
            models: vec![model("tried")],
            matrix: vec![Shape { prompt: 512, output: 128 }, Shape { prompt: 4096, output: 512 }],
            streams: vec![1, 4],
            repetitions: 5,
            seed: 7,
            prefix: Prefix::Warm,
            prompts: "v1".into(),
            soak_s: Some(600),
            success_threshold: 0.8,
            idle_below: Some(Celsius(65.0)),
            sustained_below: Some(Celsius(80.0)),
            sampling: Sampling { temperature: Some(0.0), top_p: Some(0.9), max_tokens: Some(300) },
        },
        modes: vec![ModeGoal {
            mode: ModeName::new("code").expect("a good name"),
            target: Slo { ttft_s: Some(2.0), tpot_s: Some(0.05) },
            answer_s: Some(30.0),
            context: Some(32_768),
            least_decode: Some(20.0),
            how: Some("1 / TPOT of 50 ms".into()),
        }],
        rungs: vec![
            rung("llama3.2:1b", Offload::Full, Outcome::Done),
            rung("org/llama3:8b", Offload::Layers(9), Outcome::Failed("the engine died".into())),
            rung("gpt-oss:20b", Offload::ExpertsOfFirst(3), Outcome::Skipped("no room".into())),
            rung("qwen3:32b", Offload::None, Outcome::Done),
            rung("gone:8b", Offload::None, Outcome::Absent("no such file".into())),
        ],
        stopped: Some(Stopped { rule: StopRule::Hot, why: "95 °C".into() }),
        ..bare()
    }
}

/// Every field with and without a value, and every word of every list.
fn documents() -> Vec<Value> {
    let rules = [
        StopRule::DoesNotFit,
        StopRule::Success,
        StopRule::Slow,
        StopRule::Hot,
        StopRule::Failed,
        StopRule::Operator,
    ];
    let stopped = rules.map(|rule| Record { stopped: Some(Stopped { rule, why: "so".into() }), ..bare() });
    let all = stopped.into_iter().chain([bare(), full()]);
    all.map(|record| serde_json::to_value(record).expect("plain data")).collect()
}

/// What documents made use of: whether each property was `null`, something else, or both; and the words of each list.
#[derive(Default)]
struct Used {
    properties: BTreeMap<String, BTreeSet<bool>>,
    words: BTreeMap<String, BTreeSet<String>>,
}

impl Used {
    /// Goes through `value` beside the part of the form at `place`.
    fn walk(&mut self, place: &str, value: &Value) {
        let (place, form) = part(place);
        for list in ["anyOf", "oneOf"] {
            let branches =
                (0..form[list].as_array().map_or(0, Vec::len)).map(|at| format!("{place}/{list}/{at}"));
            branches.filter(|branch| is_of(branch, value)).for_each(|branch| self.walk(&branch, value));
        }
        if words(form).contains(value) {
            self.words.entry(place.clone()).or_default().insert(value.to_string());
        }
        for (name, inner) in value.as_object().into_iter().flatten() {
            let property = format!("{place}/properties/{name}");
            if FORM.pointer(&property).is_some() {
                self.properties.entry(property.clone()).or_default().insert(inner.is_null());
                self.walk(&property, inner);
            }
        }
        value.as_array().into_iter().flatten().for_each(|item| self.walk(&format!("{place}/items"), item));
    }
}

/// The part of the form at `place`, or the one that it names, and where it is. A place that there is not takes nothing.
fn part(place: &str) -> (String, &'static Value) {
    let form = FORM.pointer(place).unwrap_or(&Value::Null);
    match form["$ref"].as_str() {
        Some(named) => part(named.trim_start_matches('#')),
        None => (place.to_owned(), form),
    }
}

/// The words of a list of words.
fn words(form: &Value) -> Vec<Value> {
    form["enum"].as_array().cloned().unwrap_or_else(|| form.get("const").into_iter().cloned().collect())
}

/// Whether `value` is what a branch is for.
fn is_of(branch: &str, value: &Value) -> bool {
    let (place, form) = part(branch);
    let has = |object: &serde_json::Map<String, Value>, name| object.contains_key(name);
    match (form["properties"].as_object(), form["oneOf"].as_array()) {
        (Some(properties), _) => value.as_object().is_some_and(|object| {
            object.len() == properties.len() && properties.keys().all(|name| has(object, name))
        }),
        (None, Some(inner)) => (0..inner.len()).any(|at| is_of(&format!("{place}/oneOf/{at}"), value)),
        (None, None) => words(form).contains(value) || (form["type"] == "null" && value.is_null()),
    }
}

/// Whether the form takes `null` at `place`.
fn is_nullable(form: &Value) -> bool {
    let is_null = |kind: &Value| kind == "null";
    form["type"].as_array().is_some_and(|kinds| kinds.iter().any(is_null))
        || form["anyOf"].as_array().is_some_and(|branches| branches.iter().any(|one| one["type"] == "null"))
}

/// Where properties are declared, and where words are listed.
fn declared(form: &Value, place: &str, properties: &mut Vec<String>, lists: &mut Vec<String>) {
    if !words(form).is_empty() {
        lists.push(place.into());
    }
    for (name, inner) in form["properties"].as_object().into_iter().flatten() {
        let property = format!("{place}/properties/{name}");
        properties.push(property.clone());
        declared(inner, &property, properties, lists);
    }
    for list in ["anyOf", "oneOf"] {
        for (at, inner) in form[list].as_array().into_iter().flatten().enumerate() {
            declared(inner, &format!("{place}/{list}/{at}"), properties, lists);
        }
    }
    if let Some(inner) = form.get("items") {
        declared(inner, &format!("{place}/items"), properties, lists);
    }
    for (name, inner) in form["$defs"].as_object().into_iter().flatten() {
        declared(inner, &format!("{place}/$defs/{name}"), properties, lists);
    }
}

#[test]
fn each_field_that_is_written_stands_in_the_form_and_each_part_of_the_form_is_written() {
    let mut used = Used::default();
    for document in documents() {
        check(&document).expect("a record follows the form");
        used.walk("", &document);
    }
    let (mut properties, mut lists) = (Vec::new(), Vec::new());
    declared(&FORM, "", &mut properties, &mut lists);
    assert!(properties.len() > 120 && lists.len() > 7, "{} {}", properties.len(), lists.len());
    for place in &properties {
        let (_, form) = part(place);
        let may_be_null = is_nullable(FORM.pointer(place).expect("it is declared")) || is_nullable(form);
        let wanted = if may_be_null { BTreeSet::from([false, true]) } else { BTreeSet::from([false]) };
        assert_eq!(used.properties.get(place), Some(&wanted), "{place}: false is a value, true is null");
    }
    for place in &lists {
        let there = words(FORM.pointer(place).expect("it is declared")).into_iter();
        let there: BTreeSet<String> = there.map(|word| word.to_string()).collect();
        assert_eq!(used.words.get(place), Some(&there), "{place}");
    }
}

#[test]
fn each_part_of_the_form_says_what_it_is_in_which_unit_and_what_null_means() {
    let (mut properties, mut lists) = (Vec::new(), Vec::new());
    declared(&FORM, "", &mut properties, &mut lists);
    for place in properties {
        let form = FORM.pointer(&place).expect("it is declared");
        let said = form["description"].as_str().unwrap_or_default();
        assert!(!said.is_empty(), "{place}");
        assert!(!is_nullable(form) || said.contains("null = "), "{place}: {said}");
        let units = [
            ("_unix_ms", "milliseconds"),
            ("_s", "second"),
            ("seconds", "in seconds"),
            ("/sample/properties/temperature", "degrees Celsius"),
            ("gpu_temperature", "degrees Celsius"),
            ("_below", "degrees Celsius"),
            ("watts", "in watts"),
            ("_tokens", "tokens"),
        ];
        let unit = units.iter().find(|(end, _)| place.ends_with(end)).map_or("", |(_, unit)| unit);
        assert!(said.contains(unit), "{place}: {said}");
    }
}

#[test]
fn a_field_that_is_missing_or_unknown_anywhere_is_refused() {
    for document in documents() {
        let mut places = Vec::new();
        places_of(&document, String::new(), &mut places);
        for place in places {
            let Some(object) = document.pointer(&place).and_then(Value::as_object) else { continue };
            let changed = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
                let mut document = document.clone();
                change(document.pointer_mut(&place).and_then(Value::as_object_mut).expect("an object"));
                check(&document)
            };
            let more = changed(&|object| drop(object.insert("surprise".into(), json!(1))));
            assert!(more.is_err(), "an unknown field in `{place}` passes");
            for field in object.keys() {
                let less = changed(&|object| drop(object.remove(field)));
                assert!(less.is_err(), "`{place}` without `{field}` passes");
            }
        }
    }
}

#[test]
fn the_form_takes_the_values_that_a_record_takes_and_no_others() {
    let long = |length: usize| json!("x".repeat(length));
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(0.5),
        json!(65),
        json!(101),
        json!(151),
        json!(301),
        json!(90_000),
        json!(200_000),
        json!(2_000_000),
        json!(40_000_000),
        json!(5_000_000_000_u64),
        json!(""),
        json!(" "),
        json!("Code 1"),
        json!("../x"),
        long(33),
        long(64),
        long(65),
        long(257),
        long(5000),
        json!([]),
    ];
    // What no schema can say: how two fields go together. And a reader takes a list for an object.
    let together = ["at most parameters", "at most tried", "at least started_unix_ms", "there once only"];
    let (document, mut places) = (documents().pop().expect("the full one"), Vec::new());
    places_of(&document, String::new(), &mut places);
    let (mut taken, mut refused) = (0, 0);
    for place in &places {
        for value in &values {
            let mut changed = document.clone();
            let old = changed.pointer_mut(place).expect("it is there");
            if value.is_array() && old.is_object() {
                continue;
            }
            *old = value.clone();
            let read = serde_json::from_value::<Record>(changed.clone()).map(drop);
            let read = read.map_err(|error| error.to_string());
            if read.as_ref().is_err_and(|why| together.iter().any(|rule| why.contains(rule))) {
                continue;
            }
            assert_eq!(VALIDATOR.is_valid(&changed), read.is_ok(), "{place} is {value}: {read:?}");
            *(if read.is_ok() { &mut taken } else { &mut refused }) += 1;
        }
    }
    assert!(taken > 300 && refused > 3000, "{taken} {refused}");
}

/// The JSON pointers of all values in `value`, each kind of list by its first.
fn places_of(value: &Value, place: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, inner)| places_of(inner, format!("{place}/{name}"), found));
        }
        Value::Array(items) => {
            items.iter().take(1).for_each(|inner| places_of(inner, format!("{place}/0"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    found.push(place);
}
