//! The climb that the mesh's owner did by hand comes out as in his notes: speeds, steps, what to use, what to avoid.

use crate::built::{GOOD, answered, goal, model, record, rung};
use mesh_core::ladder::{Analysis, Cause, Kind, Outcome, Record, Rung, StopRule, analyse};
use mesh_core::ladder::{Candidate, Next, next};
use mesh_core::trial::Sample;

/// Model, gigabytes, tokens each second, seconds of an answer, good answers of five.
const NOTES: [(&str, f64, f64, f64, usize); 5] = [
    ("llama3.2:1b", 1.3, 83.01, 1.12, 5),
    ("llama3.2:3b", 2.0, 54.67, 1.61, 5),
    ("llama3:8b", 4.7, 31.37, 2.89, 5),
    ("codellama:13b", 7.4, 8.96, 10.32, 5),
    ("gpt-oss:20b", 13.0, 0.52, 7.69, 1),
];

fn climb() -> Record {
    let rungs = NOTES.map(|(name, gigabytes, rate, seconds, good)| {
        let answer = |at: usize| {
            let mut answer = answered(if at < good { GOOD } else { "" }, seconds);
            answer.run.engine_decode = Some(rate);
            answer
        };
        let specialty = (name == "codellama:13b").then(|| "code".to_owned());
        Rung { answers: (0..5).map(answer).collect(), specialty, ..rung(name, gigabytes) }
    });
    record(rungs.into())
}

fn chosen(analysis: &Analysis, kind: &Kind) -> Option<String> {
    let choice = analysis.kinds.iter().find(|choice| choice.kind == *kind).expect("every kind is told of");
    choice.model.as_ref().map(ToString::to_string)
}

#[test]
fn the_table_is_that_of_the_notes() {
    let analysis = analyse(&climb());
    for (summary, (name, _, rate, seconds, good)) in analysis.rungs.iter().zip(NOTES) {
        assert_eq!(summary.model, model(name));
        assert_eq!(summary.decode.map(|decode| (decode.median, decode.n)), Some((rate, 5)), "{name}");
        assert_eq!(summary.response.map(|response| response.p50), Some(seconds), "{name}");
        let answers = summary.answers.as_ref().expect("five were asked");
        assert_eq!((answers.success.of, answers.success.n), (good as u64, 5), "{name}");
        assert_eq!(answers.empty, 5 - good as u64, "{name}");
        assert_eq!(summary.measured_by, "questions");
    }
}

#[test]
fn the_steps_are_those_of_the_notes_and_size_explains_two_of_them() {
    let steps = analyse(&climb()).steps;
    let percent: Vec<f64> = steps.iter().map(|step| (step.change * 100.0).round()).collect();
    assert_eq!(percent, [-34.0, -43.0, -71.0, -94.0]);
    let causes: Vec<Cause> = steps.iter().map(|step| step.cause).collect();
    assert_eq!(causes, [Cause::Size, Cause::Size, Cause::BeyondSize, Cause::BeyondSize]);
    assert_eq!(
        steps[2].why,
        "31.4 → 8.96 tok/s (-71 %), more than its size explains: rate × bytes falls 147 → 66.3 GB/s; \
         it probably spills into RAM"
    );
    let pattern = analyse(&climb()).pattern;
    let said = "up to llama3:8b memory bandwidth is the bound: rate × bytes stays within 108–147 GB/s; codellama:13b: ";
    assert!(pattern.starts_with(said), "{pattern}");
}

#[test]
fn the_sweet_spots_are_fast_balanced_quality_and_made_for_code() {
    let analysis = analyse(&climb());
    assert_eq!(chosen(&analysis, &Kind::Fast).as_deref(), Some("llama3.2:1b"));
    assert_eq!(chosen(&analysis, &Kind::Balanced).as_deref(), Some("llama3.2:3b"));
    assert_eq!(chosen(&analysis, &Kind::Quality).as_deref(), Some("llama3:8b"));
    assert_eq!(chosen(&analysis, &Kind::Specialised("code".into())).as_deref(), Some("codellama:13b"));
    let why: Vec<&str> = analysis.kinds.iter().map(|choice| choice.why.as_str()).collect();
    assert_eq!(
        why,
        [
            "the fastest of 3: 83.0 tok/s, 1.2 GiB",
            "the best compromise of 3, 57 % of the way to the fastest and 34 % to the best: 54.7 tok/s, 1.9 GiB",
            "the largest of 3: 31.4 tok/s, 4.4 GiB",
            "made for code, the only one: 8.96 tok/s, 6.9 GiB",
        ]
    );
}

#[test]
fn the_model_to_avoid_is_the_one_with_empty_answers() {
    let avoid = analyse(&climb()).avoid;
    assert_eq!(avoid.len(), 1);
    assert_eq!(avoid[0].model, model("gpt-oss:20b"));
    assert_eq!(
        avoid[0].reasons,
        ["4 of 5 answers empty, 20 % success (4–62 %), 80 % wanted", "0.52 tok/s, at least 1 is of use"]
    );
}

#[test]
fn each_rung_gets_its_last_word() {
    let remarks = analyse(&climb()).remarks;
    assert_eq!(
        remarks,
        [
            "★ sweet spot: fast",
            "★ sweet spot: balanced",
            "★ sweet spot: quality",
            "★ sweet spot: specialised in code",
            "avoid: 4 of 5 answers empty, 20 % success (4–62 %), 80 % wanted",
        ]
    );
    let mut asking = climb();
    asking.modes = vec![goal("code", 40.0), goal("ask", 5.0)];
    asking.rungs.push(Rung { outcome: Outcome::Skipped("no room".into()), ..rung("codellama:34b", 19.0) });
    let remarks = analyse(&asking).remarks;
    assert_eq!(remarks[0], "ok");
    assert_eq!(remarks[1..3], ["★ sweet spot: code", "★ sweet spot: ask"]);
    assert_eq!(remarks[3], "slow for code (8.96 tok/s of 40.0 wanted)");
    assert_eq!(remarks[5], "skipped: no room");
}

#[test]
fn the_climb_ends_after_the_rung_that_failed_its_questions() {
    let candidate = Candidate {
        model: model("codellama:34b"),
        size: None,
        parameters: None,
        active_parameters: None,
        shortage: None,
        now: Sample::default(),
    };
    let mut record = climb();
    let Next::Stop(stopped) = next(&record, &candidate) else { panic!("one of five is too few") };
    assert_eq!(stopped.rule, StopRule::Success);
    assert_eq!(stopped.why, "1 of 5 answers of gpt-oss:20b were good, 80 % are wanted");
    record.rungs.pop();
    assert_eq!(next(&record, &candidate), Next::Go);
}

#[test]
fn each_mode_gets_the_largest_model_that_keeps_up_with_it() {
    let mut record = climb();
    record.modes =
        vec![goal("ask", 40.0), goal("code", 8.0), goal("architect", 5.0), goal("autocomplete", 90.0)];
    let analysis = analyse(&record);
    let first = |at: usize| analysis.modes[at].models.first().map(ToString::to_string);
    assert_eq!(first(0).as_deref(), Some("llama3.2:3b"));
    assert_eq!(first(1).as_deref(), Some("codellama:13b"), "it is made for code");
    assert_eq!(first(2).as_deref(), Some("llama3:8b"), "a model for code plans nothing");
    assert_eq!(first(3), None);
    assert_eq!(
        analysis.modes[0].why,
        "the largest of 2 that meets its targets with 10 % to spare: 54.7 tok/s (≥ 40.0)"
    );
    assert!(
        analysis.modes[3].why.contains("llama3.2:1b: 83.0 tok/s of 99.0 wanted"),
        "{}",
        analysis.modes[3].why
    );
    let text = analysis.configuration.join("\n");
    assert!(
        text.contains("[modes.ask]\nmodels = [\"llama3.2:3b\", \"llama3.2:1b\"]\ntpot = \"25ms\""),
        "{text}"
    );
    assert!(
        text.contains("# autocomplete: none meets its targets") && !text.contains("[modes.autocomplete]")
    );
}
