//! Tests of the profile's records and bounds.

use super::*;
use crate::memory::Parts;

fn load(model: &str, context: u32, offload: Offload) -> LoadKey {
    let options = LoadOptions { context, slots: 1, cache: "f16".into(), ubatch: 512, offload };
    LoadKey { model: model.into(), build: "llama-server b1".into(), device: "card".into(), options }
}

fn predicted(device: u64, host: u64) -> Footprint {
    let parts = |weights| Parts { weights: Bytes(weights), ..Parts::default() };
    Footprint {
        device: parts(device),
        host: parts(host),
        confidence: Confidence::Exact,
        notes: vec!["n".repeat(999); 99],
    }
}

fn measured(device: u64, host: u64) -> Option<Measured> {
    Some(Measured { device: Bytes(device), host: Bytes(host), source: MeasuredBy::Process })
}

fn speed(decode: Option<f64>) -> SpeedRecord {
    SpeedRecord {
        model: "m".into(),
        build: "b".into(),
        device: "d".into(),
        offload: Offload::Full,
        prefill: None,
        decode,
        n: 0,
        at: 7,
    }
}

#[test]
fn what_was_measured_wins_over_what_is_predicted_and_is_never_forgotten_by_a_prediction() {
    let mut profile = Profile::default();
    let key = load("m", 4096, Offload::Full);
    profile.keep_footprint(key.clone(), predicted(100, 10), None, 1);
    assert_eq!(profile.measured(&key), None);
    assert_eq!(profile.footprint(&key).map(|r| r.confidence), Some(Confidence::Exact));
    profile.keep_footprint(key.clone(), predicted(100, 10), measured(130, 12), 2);
    profile.keep_footprint(key.clone(), predicted(101, 10), None, 3);
    assert_eq!(profile.measured(&key), Some(Demand { device: Bytes(130), host: Bytes(12) }));
    assert_eq!(profile.footprint(&key).map(|r| r.confidence), Some(Confidence::Measured));
    assert_eq!(profile.footprints.len(), 1);
    // Other options, another build: another load.
    assert_eq!(profile.measured(&load("m", 8192, Offload::Full)), None);
    let other = LoadKey { build: "llama-server b2".into(), ..key.clone() };
    assert_eq!(profile.measured_of(&other, true), None);
    // Before an engine has said its version, the latest of any is the best guess.
    assert_eq!(profile.measured_of(&other, false), profile.measured(&key));
    profile.forget_footprint(&key);
    assert_eq!(profile.measured_of(&other, false), None);
}

#[test]
fn residuals_are_of_the_pool_that_holds_the_model() {
    let mut profile = Profile::default();
    profile.keep_footprint(load("a", 1, Offload::Full), predicted(100, 10), measured(130, 99), 1);
    profile.keep_footprint(load("b", 1, Offload::None), predicted(0, 50), measured(0, 45), 1);
    profile.keep_footprint(load("c", 1, Offload::Full), predicted(100, 10), None, 1);
    assert_eq!(profile.residuals(), [30, -5]);
}

#[test]
fn speeds_are_means_of_sane_measurements() {
    let mut profile = Profile::default();
    for decode in [Some(10.0), Some(20.0), None, Some(f64::NAN), Some(-1.0), Some(f64::INFINITY)] {
        profile.keep_speed(speed(decode));
    }
    let kept = profile.speed("m", "b", "d", Offload::Full).expect("kept");
    assert_eq!((kept.decode, kept.n), (Some(15.0), 2));
    assert!(profile.speed("m", "b", "d", Offload::None).is_none());
}

#[test]
fn a_profile_stays_within_a_mebibyte_whatever_is_put_into_it() {
    let mut profile = Profile::default();
    let long = "é\u{1}\"".repeat(5000);
    for n in 0..2000_u32 {
        let key = LoadKey {
            build: long.clone(),
            device: long.clone(),
            ..load(&format!("{n}{long}"), n, Offload::Full)
        };
        profile.keep_footprint(key, predicted(1 << 60, 1 << 60), measured(1 << 60, 1 << 60), u64::from(n));
        profile.keep_speed(SpeedRecord {
            model: format!("{n}{long}"),
            build: long.clone(),
            device: long.clone(),
            at: u64::from(n),
            ..speed(Some(1.0))
        });
        let model = ModelId::new(format!("model-{n}")).expect("a name");
        profile.keep_trial(TrialRecord {
            digest: Some(long.clone()),
            model,
            suite: long.clone(),
            mode: long.clone(),
            passed: 1,
            tried: 2,
            at: u64::from(n),
        });
    }
    let model = |n: u32| ModelFacts {
        model: ModelId::new(format!("model-{n}")).expect("a name"),
        digest: None,
        architecture: Some(long.clone()),
        size: None,
    };
    let engine = EngineFacts {
        name: long.clone(),
        kind: long.clone(),
        version: Some(long.clone()),
        supervised: false,
    };
    let hardware = HardwareFacts { hostname: long.clone(), ..HardwareFacts::default() };
    let changed = profile.describe(
        hardware,
        SoftwareFacts { drivers: vec![long.clone(); 999], ..SoftwareFacts::default() },
        vec![engine; 999],
        (0..9999).map(model).collect(),
    );
    assert!(changed);
    let length = serde_json::to_string(&profile).expect("it can be written").len();
    assert!(length <= SIZE_LIMIT, "{length}");
    // The latest stay.
    assert_eq!(profile.trials.last().map(|t| t.at), Some(1999));
    assert_eq!((profile.footprints.len(), profile.footprints[0].at), (FOOTPRINTS, 2000 - FOOTPRINTS as u64));
}

#[test]
fn the_document_reads_back_as_it_was_written() {
    let mut profile = Profile::default();
    profile.keep_footprint(
        load("m", 4096, Offload::ExpertsOfFirst(3)),
        predicted(100, 10),
        measured(1, 2),
        1,
    );
    profile.keep_speed(speed(Some(31.4)));
    let text = serde_json::to_string(&profile).expect("it can be written");
    assert_eq!(serde_json::from_str::<Profile>(&text).expect("it can be read"), profile);
}
