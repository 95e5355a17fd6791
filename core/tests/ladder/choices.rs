//! Modes against models, and what several climbs recommend together.

use crate::built::{answered, goal, measured, record, rung};
use mesh_core::id::MachineId;
use mesh_core::ladder::{Evaluation, Fit, Imported, Outcome, Record, Rung, analyse, recommend};

fn on(node: &str, started: u64, rungs: Vec<Rung>) -> Record {
    let node = MachineId::new(node).expect("a name");
    Record { node, started_unix_ms: started, modes: vec![goal("ask", 20.0)], ..record(rungs) }
}

#[test]
fn each_mode_says_what_each_model_is_to_it() {
    let coder = Rung { specialty: Some("code".into()), ..measured("coder", 5.0, 60.0) };
    let bad = Rung { answers: vec![answered("", 1.0)], ..measured("bad", 5.5, 50.0) };
    let absent = Rung { outcome: Outcome::Skipped("no room".into()), ..rung("absent", 9.0) };
    let rungs = vec![
        measured("small", 2.0, 90.0),
        measured("mid", 4.0, 40.0),
        coder,
        bad,
        measured("tight", 6.0, 21.0),
        measured("slow", 8.0, 9.0),
        absent,
    ];
    let fits = analyse(&on("a", 1, rungs)).fits;
    let all: Vec<(&str, Fit)> = fits.iter().map(|fit| (fit.model.as_str(), fit.fit)).collect();
    assert_eq!(
        all,
        [
            ("small", Fit::Meets),
            ("mid", Fit::Best),
            ("coder", Fit::Unsuited),
            ("bad", Fit::Avoid),
            ("tight", Fit::Barely),
            ("slow", Fit::Avoid),
            ("absent", Fit::Unmeasured),
        ]
    );
    assert_eq!(fits[4].why, "21.0 tok/s of 22.0 wanted");
    assert_eq!(fits[2].why, "made for code");
}

#[test]
fn where_all_are_made_for_code_the_best_of_them_answers_questions_too() {
    let coder = |name: &str, gigabytes, rate| Rung {
        specialty: Some("code".into()),
        ..measured(name, gigabytes, rate)
    };
    let analysis = analyse(&on("a", 1, vec![coder("small-coder", 2.0, 90.0), coder("coder", 5.0, 60.0)]));
    assert_eq!(analysis.modes[0].models.first().map(|model| model.as_str()), Some("coder"));
    let fits: Vec<Fit> = analysis.fits.iter().map(|fit| fit.fit).collect();
    assert_eq!(fits, [Fit::Unsuited, Fit::Best]);
    assert!(
        analysis.kinds.iter().all(|kind| kind.model.is_some() || kind.why.contains("between")),
        "{:?}",
        analysis.kinds
    );
}

#[test]
fn one_climb_recommends_what_its_own_lines_say() {
    let climbed = on("a", 1, vec![measured("small", 2.0, 90.0), measured("mid", 4.0, 40.0)]);
    let recommended = recommend(&[&climbed]);
    assert_eq!(recommended[0].lines(), analyse(&climbed).configuration);
    let (mode, setting) = recommended[0].setting().expect("two models");
    assert_eq!((mode.as_str(), setting.as_str()), ("ask", "models=mid,small"));
    assert_eq!(recommended[0].node.as_ref().map(MachineId::as_str), Some("a"));
}

#[test]
fn several_machines_recommend_each_model_where_it_does_best() {
    let slow = on("slow", 1, vec![measured("small", 2.0, 30.0), measured("mid", 4.0, 15.0)]);
    let fast = on("fast", 2, vec![measured("small", 2.0, 90.0), measured("mid", 4.0, 45.0)]);
    for records in [[&slow, &fast], [&fast, &slow]] {
        let recommended = recommend(&records);
        let models: Vec<&str> = recommended[0].models.iter().map(|model| model.as_str()).collect();
        assert_eq!(models, ["mid", "small"]);
        assert_eq!(recommended[0].node.as_ref().map(MachineId::as_str), Some("fast"));
        assert!(recommended[0].why.ends_with("45.0 tok/s (≥ 20.0), on fast"), "{}", recommended[0].why);
    }
}

#[test]
fn of_two_climbs_of_one_machine_the_newest_counts() {
    let old = on("a", 1, vec![measured("mid", 4.0, 45.0)]);
    let new = on("a", 2, vec![measured("mid", 4.0, 5.0)]);
    assert!(recommend(&[&old, &new])[0].models.is_empty(), "it has become slow");
    assert_eq!(recommend(&[&new, &old])[0].setting(), None);
}

#[test]
fn what_was_imported_recommends_nothing_for_a_mode() {
    let climbed = on("a", 1, vec![measured("mid", 4.0, 45.0)]);
    let imported = Imported { from: "llama-bench".into(), build: "b1".into() };
    let imported = Record { imported: Some(imported), ..on("b", 2, vec![measured("file@ngl0", 9.0, 45.0)]) };
    let setting = |records: &[&Record]| recommend(records).first().and_then(|one| Some(one.setting()?.1));
    assert_eq!(setting(&[&climbed, &imported]).as_deref(), Some("models=mid"));
    assert_eq!(setting(&[&imported]), None);
}

#[test]
fn no_name_of_an_evaluation_can_begin_a_line_of_the_configuration() {
    let suite = "mmlu\n[security]\nopen = true";
    let told =
        |passed: u32| vec![Evaluation { suite: suite.into(), mode: None, passed: passed * 10, tried: 100 }];
    let rungs = vec![
        Rung { evaluations: told(5), ..measured("small", 2.0, 90.0) },
        Rung { evaluations: told(9), ..measured("mid", 4.0, 40.0) },
    ];
    let lines = analyse(&on("a", 1, rungs)).configuration;
    assert!(lines[0].contains("mmlu [security] open = true"), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:?}");
}
