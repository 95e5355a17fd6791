//! The machine profile against its schema: real ones, the page's example, and documents that must be refused.

use mesh_core::fit::Offload;
use mesh_core::id::ModelId;
use mesh_core::machine::{
    Digest, Engine, EngineKind, Gpu, GpuVendor, Replica, ReplicaState, Store, StoredModel, Vitals,
};
use mesh_core::memory::{Confidence, Footprint, Parts};
use mesh_core::profile::{LoadKey, LoadOptions, Measured, MeasuredBy, Profile, SpeedRecord, TrialRecord};
use mesh_core::units::Bytes;
use node_agent::probe::Probe;
use node_agent::profile::{ProfileHandle, Seen, describe};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

fn schema() -> jsonschema::Validator {
    let text = std::fs::read_to_string(docs("profile.schema.json")).expect("the schema");
    jsonschema::validator_for(&serde_json::from_str(&text).expect("JSON")).expect("a schema")
}

fn check(schema: &jsonschema::Validator, document: &Value) -> Result<(), String> {
    let faults: Vec<String> =
        schema.iter_errors(document).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// A profile with something in every section, written by the code that writes real ones.
async fn full() -> Value {
    let probe = Probe::new("/", "/");
    let gpu = Gpu::unknown("0000:01:00.0", "Card", GpuVendor::Amd, "a test");
    let vitals = Vitals {
        gpus: mesh_core::machine::Reading::Known(vec![gpu]),
        ram: probe.vitals().ram,
        ..Vitals::unknown("a test")
    };
    let name = || ModelId::new("tiny").expect("a name");
    let engines = EngineKind::ALL.map(|kind| {
        let mut engine = Engine::new(kind.word(), kind, kind == EngineKind::LlamaServer);
        engine.replicas.push(Replica::new(name(), ReplicaState::Available));
        engine
    });
    let stored = StoredModel {
        digest: Some(Digest::new(&"ab".repeat(32)).expect("a digest")),
        architecture: Some("llama".into()),
        ..StoredModel::new(ModelId::new("stored").expect("a name"), Bytes(7))
    };
    let handle = ProfileHandle::in_memory();
    let seen = Seen {
        hardware: Arc::new(probe.hardware()),
        vitals: watch::channel(Arc::new(vitals)).1,
        engines: watch::channel(Arc::new(engines.to_vec())).1,
        store: watch::channel(Arc::new(Store { models: vec![stored], ..Store::default() })).1,
    };
    let stop = CancellationToken::new();
    stop.cancel();
    describe(handle.clone(), seen, stop).await;
    handle.change(|profile, now| {
        for offload in [Offload::Full, Offload::None, Offload::Layers(3), Offload::ExpertsOfFirst(3)] {
            let options = LoadOptions { context: 4096, slots: 2, cache: "f16".into(), ubatch: 512, offload };
            let load = LoadKey { model: "m".into(), build: "b".into(), device: "ram".into(), options };
            let (device, host) = (Parts::default(), Parts::default());
            let predicted =
                Footprint { device, host, confidence: Confidence::Estimated, notes: vec!["a note".into()] };
            let source = MeasuredBy::FreeMemory;
            let measured = Measured { device: Bytes(1), host: Bytes(2), source };
            profile.keep_footprint(load, predicted, (offload == Offload::Full).then_some(measured), now);
            profile.keep_speed(SpeedRecord {
                model: "m".into(),
                build: "b".into(),
                device: "ram".into(),
                offload,
                prefill: None,
                decode: Some(0.5),
                n: 1,
                at: now,
            });
        }
        let (suite, mode) = ("code 1".into(), "code".into());
        let digest = Some("0f".repeat(32));
        profile.keep_trial(TrialRecord { model: name(), suite, mode, digest, passed: 1, tried: 2, at: now });
    });
    let text = handle.watch().borrow().clone();
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test]
async fn real_profiles_follow_the_schema() {
    let schema = schema();
    let empty = serde_json::to_value(Profile::default()).expect("JSON");
    check(&schema, &empty).expect("an empty profile");
    let full = full().await;
    check(&schema, &full).expect("a full profile");
    for (section, value) in full.as_object().expect("an object") {
        let filled = value.as_array().is_none_or(|list| !list.is_empty());
        assert!(filled, "{section} is empty, so nothing of it was checked");
    }
    assert_eq!(full["hardware"]["gpus"][0]["memory"], Value::Null);
    assert_eq!(full["models"][0]["architecture"], "llama");
}

#[tokio::test]
async fn a_field_that_is_missing_or_unknown_anywhere_is_caught() {
    let (schema, full) = (schema(), full().await);
    let mut paths = Vec::new();
    objects(&full, String::new(), &mut paths);
    assert!(paths.len() > 20, "{paths:?}");
    for path in &paths {
        let mut more = full.clone();
        let object = more.pointer_mut(path).and_then(Value::as_object_mut).expect("an object");
        object.insert("surprise".into(), json!(1));
        assert!(check(&schema, &more).is_err(), "an unknown field in `{path}` passes");
        let fields: Vec<String> =
            full.pointer(path).and_then(Value::as_object).expect("an object").keys().cloned().collect();
        for field in fields {
            let mut less = full.clone();
            let object = less.pointer_mut(path).and_then(Value::as_object_mut).expect("an object");
            object.remove(&field);
            assert!(check(&schema, &less).is_err(), "`{path}` without `{field}` passes");
        }
    }
    for (path, wrong) in [
        ("/schema", json!(2)),
        ("/updated_at", json!(-1)),
        ("/hardware/ram", json!("much")),
        ("/speeds/0/decode", json!(0)),
        ("/footprints/0/confidence", json!("sure")),
        ("/footprints/0/load/options/offload", json!("half")),
        ("/models/0/digest", json!("../../etc/passwd")),
    ] {
        let mut document = full.clone();
        *document.pointer_mut(path).expect("a field") = wrong;
        assert!(check(&schema, &document).is_err(), "{path}");
    }
}

/// The JSON pointers of all objects in `value`.
fn objects(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                objects(field, format!("{path}/{name}"), found);
            }
            found.push(path);
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                objects(item, format!("{path}/{at}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_pages_example_follows_the_schema_and_is_read_by_the_agent() {
    let page = std::fs::read_to_string(docs("profile.md")).expect("the page");
    let example =
        page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let value: Value = serde_json::from_str(example).expect("JSON");
    check(&schema(), &value).expect("the example");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("profile.json"), example).expect("a file");
    let handle = ProfileHandle::open(folder.path());
    let read = handle.read(|profile| serde_json::to_value(profile).expect("JSON"));
    assert_eq!(read, value, "nothing of it is dropped or changed");
}
