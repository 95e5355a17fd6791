//! Each rule both ways, its boundaries, the promotions, the document, and the law: more against a model never makes its
//! verdict better.

use super::*;
use crate::id::MachineId;
use crate::ladder::{Answered, Cell, Mark, ModeGoal, Outcome, RecordProblem, Rung};
use crate::profile::{HardwareFacts, SoftwareFacts};
use crate::routing::Slo;
use crate::trial::{Ended, Prefix, Run, SpeedWork, Subject};
use crate::units::Bytes;
use crate::verdict::Expectation;
use proptest::prelude::*;
use std::collections::BTreeMap;

const CONTEXTS: [u32; 3] = [512, 4096, 16_384];
const GOOD: &str = "The sky is blue because the air scatters blue light more than red light.";

fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("a name")
}

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
    let run = |number: u32| Run {
        repetition: number,
        ttft_s: Some(0.4),
        total_s: 0.4 + 128.0 / rate,
        prompt_tokens: Some(prompt),
        output_tokens: Some(128),
        engine_decode: Some(rate),
        ..Run::default()
    };
    let ended = Some(Ended { seconds: 9.0, others: 0 });
    Cell { work, runs: (0..3).map(run).collect(), samples: vec![], ended, marks: vec![] }
}

fn answered(number: usize, text: &str) -> Answered {
    let run = Run { text: text.into(), finish_reason: Some("stop".into()), ..Run::default() };
    Answered { question: format!("q{number}"), expected: Expectation::SENTENCE, run }
}

fn object(pieces: &[(&str, Sort, &str)]) -> Said {
    let piece = |(key, sort, text): &(&str, Sort, &str)| {
        ((*key).to_owned(), Piece { sort: *sort, text: (*text).to_owned() })
    };
    Said::Object(pieces.iter().map(piece).collect())
}

fn formed() -> Formed {
    let wanted = BTreeMap::from([("name".to_owned(), Sort::Text), ("age".to_owned(), Sort::Whole)]);
    let said = object(&[("name", Sort::Text, "Anna"), ("age", Sort::Whole, "")]);
    Formed { wanted, run: Run::default(), said }
}

fn called() -> Called {
    let wanted = Asked { tool: "weather".into(), argument: "city".into(), value: "Oslo".into() };
    let call = Call { name: "weather".into(), arguments: object(&[("city", Sort::Text, "oslo, Norway")]) };
    Called { wanted, run: Run::default(), calls: vec![call] }
}

fn needle(depth: u32) -> Needle {
    let run = Run { text: "It is 48213.".into(), prompt_tokens: Some(15_000), ..Run::default() };
    Needle { depth, code: "48213".into(), run }
}

/// A model that does everything as it should, at this rate.
fn sound(name: &str, billions: u64, rate: f64) -> Evidence {
    let rung = Rung {
        parameters: Some(billions * 1_000_000_000),
        size: Some(Bytes(billions * 600_000_000)),
        load_s: Some(4.0),
        subject: Some(Subject { context: Some(16_512), ..Subject::default() }),
        cells: CONTEXTS.iter().map(|tokens| cell(*tokens, rate)).collect(),
        answers: (0..5).map(|number| answered(number, GOOD)).collect(),
        ..Rung::new(model(name), format!("{billions}b"))
    };
    let reached = |asked: &u32| Reached { asked: *asked, prompt: Some(*asked) };
    Evidence {
        contexts: CONTEXTS.iter().map(reached).collect(),
        forms: vec![formed(); 3],
        calls: vec![called(); 3],
        needles: [25, 50, 75].map(needle).to_vec(),
        ..Evidence::new(rung, Some(32_768))
    }
}

fn aim(mode: &str, context: u32, rate: f64, models: &[&str]) -> Aim {
    let target = Slo { ttft_s: Some(2.0), tpot_s: Some(1.0 / rate) };
    let goal =
        ModeGoal { context: Some(context), ..ModeGoal::new(ModeName::new(mode).expect("a name"), target) };
    Aim { goal, models: models.iter().map(|name| model(name)).collect() }
}

fn record(candidate: Evidence, champion: Option<Evidence>) -> Record {
    Record {
        schema: SCHEMA.into(),
        id: "20261122-1".into(),
        node: MachineId::new("msi").expect("a name"),
        meshctl: "0.1.0".into(),
        started_unix_ms: 10,
        ended_unix_ms: Some(20),
        hardware: HardwareFacts::default(),
        software: SoftwareFacts::default(),
        settings: Settings {
            contexts: CONTEXTS.to_vec(),
            output: 128,
            repetitions: 3,
            seed: 1,
            questions: "v1".into(),
        },
        modes: vec![aim("code", 16_384, 20.0, &["old:14b"]), aim("ask", 4096, 30.0, &["small:4b"])],
        candidate,
        champion,
        stopped: None,
    }
}

fn beside(candidate: Evidence) -> Validation {
    judge(&record(candidate, Some(sound("old:14b", 14, 40.0))))
}

fn changed(change: impl FnOnce(&mut Evidence)) -> Evidence {
    let mut evidence = sound("new:30b", 30, 40.0);
    change(&mut evidence);
    evidence
}

fn state(validation: &Validation, topic: Topic) -> State {
    validation.checks.iter().find(|check| check.topic == topic).expect("it is checked").state
}

#[test]
fn a_model_that_passes_all_and_is_better_is_promoted_before_the_champion() {
    let validation = beside(sound("new:30b", 30, 40.0));
    assert_eq!(validation.verdict, Grade::Excellent, "{validation:?}");
    let models = vec![model("new:30b"), model("old:14b")];
    let mode = ModeName::new("code").expect("a name");
    assert_eq!(validation.change, Change::Promote(vec![Promotion { mode, models }]));
    assert_eq!(
        validation.why,
        "every check passed; better than old:14b: 30.0 billion parameters, 14.0 billion before"
    );
    assert!(validation.checks.iter().all(|check| check.state == State::Passed && check.why.is_none()));
}

#[test]
fn a_model_that_is_better_in_nothing_is_good_and_changes_nothing() {
    let validation = beside(sound("new:14b", 14, 42.0));
    assert_eq!((validation.verdict, &validation.change), (Grade::Good, &Change::Keep));
    assert_eq!(validation.why, "champion: it is better than old:14b in nothing");
}

#[test]
fn being_slower_counts_from_a_tenth_on_and_only_where_the_modes_ask_for_more() {
    let of = |rate: f64, modes: Vec<Aim>| {
        let record = Record { modes, ..record(sound("new:30b", 30, rate), Some(sound("old:14b", 14, 40.0))) };
        let validation = judge(&record);
        let comparison = validation.comparison.expect("there is a champion");
        (validation.verdict, comparison.worse.len(), comparison.harmless.len())
    };
    let code = |rate| vec![aim("code", 16_384, rate, &["old:14b"])];
    assert_eq!(of(36.1, code(38.0)), (Grade::Poor, 0, 0), "nobody can use it, whatever the champion does");
    assert_eq!(of(36.1, code(36.0)), (Grade::Excellent, 0, 0), "less than a tenth is the same");
    assert_eq!(of(35.9, code(34.0)), (Grade::Good, 3, 0), "no headroom: it is slower, and that counts");
    assert_eq!(of(35.9, code(30.0)), (Grade::Excellent, 0, 3), "as fast as its mode asks for with headroom");
    assert_eq!(of(44.1, code(30.0)), (Grade::Excellent, 0, 0));
}

#[test]
fn a_spread_that_covers_the_difference_makes_it_none() {
    let of = |spread: f64| {
        let wide = changed(|evidence| {
            for cell in &mut evidence.rung.cells {
                for (run, rate) in cell.runs.iter_mut().zip([30.0 - spread, 30.0, 30.0 + spread]) {
                    run.engine_decode = Some(rate);
                }
            }
        });
        let record = record(wide, Some(sound("old:14b", 14, 40.0)));
        judge(&record).comparison.expect("there is a champion")
    };
    let slower = |comparison: Comparison| comparison.worse.len() + comparison.harmless.len();
    // The standard deviation of these three is their distance.
    assert_eq!((slower(of(9.9)), slower(of(10.0))), (3, 0));
}

#[test]
fn a_handful_of_answers_cannot_tell_who_is_better() {
    let of = |lost: usize, forgotten: usize| {
        let mut champion = sound("old:30b", 30, 40.0);
        champion.needles.iter_mut().take(forgotten).for_each(|needle| needle.run.text.clear());
        let candidate = changed(|evidence| {
            evidence.rung.answers.iter_mut().take(lost).for_each(|answer| answer.run.text.clear());
        });
        let comparison = judge(&record(candidate, Some(champion))).comparison.expect("there is a champion");
        (comparison.better, comparison.worse)
    };
    assert_eq!(of(1, 1), (vec![], vec![]), "a slip each");
    assert_eq!(of(4, 3), (vec![], vec![]), "3 of 3 is 44–100 %, 0 of 3 is 0–56 %");
    assert_eq!(of(5, 0).1, ["0 of 5 coherent answers, 5 of 5 before"], "57–100 % and 0–43 %");
}

#[test]
fn a_speed_of_which_nothing_undisturbed_is_left_is_weak_and_is_not_compared() {
    for (mark, why) in [
        (Mark::Throttled, "the machine was slowed down for heat or power during all of its requests"),
        (Mark::Disturbed, "others used the machine during all of its requests"),
        (Mark::Busy, "other programs used the processors during all of its requests"),
    ] {
        // Twice as fast as the champion, if that could be believed.
        let marked = |evidence: &mut Evidence| {
            evidence.rung.cells[1] = Cell { marks: vec![mark], ..cell(4096, 80.0) };
        };
        let validation = beside(changed(marked));
        assert_eq!((state(&validation, Topic::Speed(4096)), validation.verdict), (State::Weak, Grade::Good));
        assert_eq!(validation.checks[2].why.as_deref(), Some(why));
        let comparison = validation.comparison.expect("there is a champion");
        assert_eq!(comparison.left_out, [format!("speeds at 4096 tokens; new:30b: {why}")]);
        assert!(!comparison.better.iter().any(|line| line.contains("at 4096 tokens")), "{comparison:?}");

        let mut champion = sound("old:14b", 14, 40.0);
        champion.rung.cells[1] = Cell { marks: vec![mark], ..cell(4096, 10.0) };
        let validation = judge(&record(sound("new:30b", 30, 40.0), Some(champion)));
        let comparison = validation.comparison.expect("there is a champion");
        assert_eq!(comparison.left_out, [format!("speeds at 4096 tokens; old:14b: {why}")]);
        assert!(!comparison.better.iter().any(|line| line.contains("at 4096 tokens")), "{comparison:?}");

        let again = beside(changed(|evidence| {
            marked(evidence);
            evidence.rung.cells.push(cell(4096, 40.0));
        }));
        assert_eq!((state(&again, Topic::Speed(4096)), again.verdict), (State::Passed, Grade::Excellent));
    }
}

#[test]
fn a_mode_that_goes_further_than_was_measured_is_not_promised_to_it() {
    let of = |context: u32, trained: Option<u32>| {
        let modes = vec![aim("code", context, 20.0, &["old:14b"])];
        let candidate = changed(|evidence| evidence.trained_context = trained);
        let validation = judge(&Record { modes, ..record(candidate, Some(sound("old:14b", 14, 40.0))) });
        assert_eq!(validation.verdict, Grade::Excellent, "{validation:?}");
        (matches!(validation.change, Change::Promote(_)), validation.but)
    };
    assert_eq!(of(16_512, Some(32_768)), (true, None), "a prompt of 16,384 tokens and its answer");
    let far =
        "code goes to 16513 tokens, and no more than 16512 were measured: validate it with --contexts 16513";
    assert_eq!(of(16_513, Some(32_768)), (false, Some(far.into())));
    assert_eq!(of(16_513, None), (false, Some(far.into())));
    let unknown = "code may go further than it was trained for: nobody knows how far that is";
    assert_eq!(of(16_384, None), (true, Some(unknown.into())));
}

#[test]
fn a_mode_that_the_champion_is_too_slow_for_does_not_speak_against_a_slower_model() {
    let modes = vec![aim("code", 16_384, 20.0, &["old:14b"]), aim("debug", 16_384, 50.0, &["old:14b"])];
    let record = Record { modes, ..record(sound("new:30b", 30, 30.0), Some(sound("old:14b", 14, 40.0))) };
    let validation = judge(&record);
    assert_eq!(
        (validation.verdict, validation.comparison.map(|one| one.harmless.len())),
        (Grade::Excellent, Some(3))
    );
    assert_eq!(validation.but.as_deref(), Some("debug asks for more: 30.0 tok/s of 55.0 wanted"));
}

#[test]
fn the_champion_that_cannot_be_measured_is_no_proof_of_anything() {
    let mut champion = sound("old:14b", 14, 40.0);
    champion.rung.outcome = Outcome::Failed("the engine died: killed".into());
    let validation = judge(&record(sound("new:30b", 30, 40.0), Some(champion)));
    assert_eq!((validation.verdict, state(&validation, Topic::Champion)), (Grade::Good, State::NotChecked));
    assert_eq!(validation.why, "champion: old:14b could not be measured: the engine died: killed");
}

#[test]
fn a_model_that_does_not_load_or_dies_is_poor() {
    for outcome in [Outcome::Skipped("does not fit".into()), Outcome::Failed("the engine died".into())] {
        let validation = beside(changed(|evidence| evidence.rung.outcome = outcome));
        assert_eq!((validation.verdict, &validation.change), (Grade::Poor, &Change::Skip));
        assert!(validation.why.starts_with("load: "), "{}", validation.why);
    }
}

#[test]
fn coherence_is_weak_from_four_of_five_and_failed_below() {
    for (bad, found, verdict) in
        [(0, State::Passed, Grade::Excellent), (1, State::Weak, Grade::Good), (2, State::Failed, Grade::Poor)]
    {
        let validation = beside(changed(|evidence| {
            for answer in evidence.rung.answers.iter_mut().take(bad) {
                answer.run.text.clear();
            }
        }));
        assert_eq!((state(&validation, Topic::Coherence), validation.verdict), (found, verdict), "{bad}");
    }
    let few = beside(changed(|evidence| drop(evidence.rung.answers.pop())));
    assert_eq!((state(&few, Topic::Coherence), few.verdict), (State::NotChecked, Grade::Poor));
    assert_eq!(few.why, "coherence: it was asked 4 of at least 5 times");
}

#[test]
fn one_ability_may_fail_and_two_may_not() {
    let no_tools = |evidence: &mut Evidence| {
        for called in &mut evidence.calls {
            called.calls.clear();
        }
    };
    let one = beside(changed(no_tools));
    assert_eq!((state(&one, Topic::Tools), one.verdict), (State::Failed, Grade::Good));
    assert!(one.why.contains("tool call: no tool was called"), "{}", one.why);
    let two = beside(changed(|evidence| {
        no_tools(evidence);
        for needle in &mut evidence.needles {
            needle.run.text = "I do not know.".into();
        }
    }));
    assert_eq!((state(&two, Topic::Needle), two.verdict), (State::Failed, Grade::Poor));
    assert_eq!(two.why, "tool call: no tool was called; needle: at 25 %, 50 %, 75 %: it was not found");
}

#[test]
fn two_of_three_tries_are_weak_and_two_tries_are_none() {
    for (lost, found) in [(0, State::Passed), (1, State::Weak), (2, State::Failed)] {
        let validation = beside(changed(|evidence| {
            for needle in evidence.needles.iter_mut().take(lost) {
                needle.run.text.clear();
            }
        }));
        assert_eq!(state(&validation, Topic::Needle), found, "{lost}");
    }
    let few = beside(changed(|evidence| evidence.forms.truncate(2)));
    assert_eq!((state(&few, Topic::Json), few.verdict), (State::NotChecked, Grade::Good));
}

#[test]
fn answers_out_of_form_say_what_is_wrong() {
    let with = |said: Said| check::malformed(&Formed { said, ..formed() });
    assert_eq!(with(formed().said), None);
    for (said, why) in [
        (Said::Other("no JSON".into()), "the answer is no JSON"),
        (object(&[("name", Sort::Text, "A")]), "the key `age` is missing"),
        (
            object(&[("name", Sort::Text, "A"), ("age", Sort::Text, "3")]),
            "`age` is a text and must be a whole number",
        ),
        (
            object(&[("name", Sort::Text, "A"), ("age", Sort::Whole, ""), ("x", Sort::Null, "")]),
            "nobody asked for the key `x`",
        ),
    ] {
        assert_eq!(with(said).as_deref(), Some(why));
    }
}

#[test]
fn calls_say_what_is_wrong() {
    let with = |calls: Vec<Call>| check::miscalled(&Called { calls, ..called() });
    let call = |name: &str, arguments: Said| vec![Call { name: name.into(), arguments }];
    assert_eq!(with(called().calls), None);
    for (calls, why) in [
        (vec![], "no tool was called"),
        (call("time", object(&[])), "`time` was called, which is no tool that it was given"),
        (call("weather", Said::Other("no JSON".into())), "the tool's arguments are no JSON"),
        (call("weather", object(&[])), "the argument `city` is missing"),
        (
            call("weather", object(&[("city", Sort::Text, "Rome")])),
            "the argument `city` is not what was asked for",
        ),
        (
            call("weather", object(&[("city", Sort::Text, "")])),
            "the argument `city` is not what was asked for",
        ),
    ] {
        assert_eq!(with(calls).as_deref(), Some(why));
    }
}

#[test]
fn an_engine_without_tools_is_not_held_against_the_model_nor_for_it() {
    let why = "the engine says that its chat template knows no tools";
    let unasked = Unasked { what: Ability::Tools, why: why.into() };
    let told = beside(changed(|evidence| {
        evidence.calls.clear();
        evidence.unasked.push(unasked);
    }));
    let refused = |error: &str| {
        beside(changed(|evidence| {
            for called in &mut evidence.calls {
                (called.calls, called.run.error) = (vec![], Some(error.into()));
            }
        }))
    };
    for validation in [told, refused("status 400: does not support tools"), refused("status 501: no")] {
        assert_eq!((state(&validation, Topic::Tools), validation.verdict), (State::NotChecked, Grade::Good));
    }
    assert_eq!(state(&refused("status 500: broken"), Topic::Tools), State::Failed, "that is a fault");
    assert_eq!(state(&refused("the connection broke"), Topic::Tools), State::Failed);
}

#[test]
fn needles_of_short_texts_and_of_unknown_ones_are_not_checked() {
    let with = |tokens: Option<u32>| {
        let validation = beside(changed(|evidence| {
            for needle in &mut evidence.needles {
                needle.run.prompt_tokens = tokens;
            }
        }));
        state(&validation, Topic::Needle)
    };
    assert_eq!(with(Some(8192)), State::Passed, "half of the 16,384 that were measured");
    assert_eq!((with(Some(8028)), with(None)), (State::NotChecked, State::NotChecked));
}

#[test]
fn a_context_without_room_is_not_checked_and_one_that_was_cut_says_so() {
    let cut = beside(changed(|evidence| {
        evidence.contexts[1].prompt = Some(1920);
        evidence.contexts[2].prompt = None;
        evidence.rung.cells[1].work.prompt_tokens = 1920;
        evidence.rung.cells.truncate(2);
        evidence.rung.subject = Some(Subject { context: Some(2048), ..Subject::default() });
        for needle in &mut evidence.needles {
            needle.run.prompt_tokens = Some(1700);
        }
    }));
    assert_eq!((state(&cut, Topic::Speed(16_384)), cut.verdict), (State::NotChecked, Grade::Good));
    assert_eq!(cut.checks[2].figure.as_deref(), Some("40.0 tok/s, TTFT 400 ms with 1920"));
    assert_eq!(
        cut.checks[3].why.as_deref(),
        Some("its context of 2048 tokens has no room for such a prompt")
    );
    assert_eq!(state(&cut, Topic::Needle), State::Passed, "its own context is full");
}

#[test]
fn speeds_are_weak_below_every_mode_that_goes_so_far_and_poor_everywhere() {
    let rates = |rates: [f64; 3]| {
        beside(changed(|evidence| {
            evidence.rung.cells =
                CONTEXTS.iter().zip(rates).map(|(tokens, rate)| cell(*tokens, rate)).collect();
        }))
    };
    let slow_at_the_end = rates([40.0, 40.0, 19.9]);
    assert_eq!(state(&slow_at_the_end, Topic::Speed(16_384)), State::Weak);
    assert_eq!(slow_at_the_end.verdict, Grade::Good);
    assert_eq!(state(&rates([40.0, 40.0, 20.0]), Topic::Speed(16_384)), State::Passed);
    let slow = rates([19.0, 19.0, 19.0]);
    assert_eq!((slow.verdict, &slow.change), (Grade::Poor, &Change::Skip));
    assert!(
        slow.why.contains("slower than every mode asks for: code 19.0 tok/s of 20.0 wanted"),
        "{}",
        slow.why
    );
}

#[test]
fn one_run_tells_no_speed_and_requests_that_fail_are_told() {
    let once = beside(changed(|evidence| evidence.rung.cells[0].runs.truncate(1)));
    assert_eq!((state(&once, Topic::Speed(512)), once.verdict), (State::NotChecked, Grade::Good));
    let fail = |count: usize| {
        beside(changed(|evidence| {
            for run in evidence.rung.cells[0].runs.iter_mut().take(count) {
                run.error = Some("status 500: out of memory".into());
            }
        }))
    };
    assert_eq!(state(&fail(1), Topic::Speed(512)), State::Weak);
    let all = fail(3);
    assert_eq!(state(&all, Topic::Speed(512)), State::Failed);
    assert_eq!(
        all.checks[1].why.as_deref(),
        Some("none of 3 requests got an answer: status 500: out of memory")
    );
}

#[test]
fn without_a_champion_only_modes_without_models_are_changed() {
    let modes = vec![aim("code", 16_384, 20.0, &["old:14b"]), aim("ask", 4096, 30.0, &[])];
    let free = judge(&Record { modes, ..record(sound("new:30b", 30, 40.0), None) });
    let promotion = Promotion { mode: ModeName::new("ask").expect("a name"), models: vec![model("new:30b")] };
    assert_eq!((free.verdict, free.change), (Grade::Excellent, Change::Promote(vec![promotion])));
    let taken = judge(&record(sound("new:30b", 30, 40.0), None));
    assert_eq!((taken.verdict, taken.change), (Grade::Excellent, Change::Keep));
    assert_eq!(
        taken.but.as_deref(),
        Some("every mode has a model already: name it with --champion to compare them")
    );
}

#[test]
fn modes_that_ask_for_more_or_have_it_already_stay_as_they_are() {
    let of = |modes: Vec<Aim>| {
        let validation =
            judge(&Record { modes, ..record(sound("new:30b", 30, 40.0), Some(sound("old:14b", 14, 40.0))) });
        assert_eq!(validation.verdict, Grade::Excellent, "{validation:?}");
        (validation.change, validation.but.expect("a reason"))
    };
    let long = of(vec![aim("architect", 65_536, 20.0, &["old:14b"])]);
    assert_eq!(long, (Change::Keep, "architect asks for more: context 32768 of 65536 wanted".into()));
    let there = of(vec![aim("code", 16_384, 20.0, &["new:30b", "old:14b"])]);
    assert_eq!(there, (Change::Keep, "code has it before the champion already".into()));
    let nowhere = of(vec![aim("code", 16_384, 20.0, &["small:4b"])]);
    assert_eq!(nowhere, (Change::Keep, "old:14b serves no mode by its name".into()));
}

#[test]
fn a_model_behind_the_champion_moves_before_it_and_is_named_once() {
    let modes = vec![aim("code", 16_384, 20.0, &["best:70b", "old:14b", "new:30b"])];
    let validation =
        judge(&Record { modes, ..record(sound("new:30b", 30, 40.0), Some(sound("old:14b", 14, 40.0))) });
    let Change::Promote(promotions) = validation.change else { panic!("{validation:?}") };
    assert_eq!(promotions[0].models, ["best:70b", "new:30b", "old:14b"].map(model));
}

#[test]
fn a_record_reads_back_as_it_was_written_and_is_judged_alike() {
    let whole = record(sound("new:30b", 30, 40.0), Some(sound("old:14b", 14, 40.0)));
    let text = serde_json::to_string(&whole).expect("it can be written");
    assert!(text.starts_with(r#"{"schema":"mesh.validation/v1","id":"20261122-1","node":"msi""#), "{text}");
    let read: Record = serde_json::from_str(&text).expect("it can be read");
    assert_eq!((judge(&read), &read), (judge(&whole), &whole));
    let other =
        serde_json::from_str::<Record>(r#"{"schema":"mesh.validation/v2"}"#).expect_err("another form");
    assert!(other.to_string().starts_with("schema is `mesh.validation/v2`, and must be"), "{other}");
}

type Spoil = fn(&mut Record);

#[test]
fn what_is_out_of_bounds_is_refused_by_its_name() {
    let spoils: [(Spoil, &str); 12] = [
        (|r| r.schema = "x".into(), "schema is `x`"),
        (|r| r.id = "A b".into(), "id is `A b`"),
        (|r| r.ended_unix_ms = Some(9), "ended_unix_ms is 9"),
        (|r| r.settings.contexts.clear(), "settings.contexts is 0 long"),
        (|r| r.settings.contexts[0] = 0, "settings.contexts[0] is 0"),
        (|r| r.settings.repetitions = 101, "settings.repetitions is 101"),
        (|r| r.modes = vec![r.modes[0].clone(); 65], "modes is 65 long"),
        (|r| r.candidate.rung.load_s = Some(f64::NAN), "candidate.rung.load_s is NaN"),
        (|r| r.candidate.contexts[0].prompt = Some(513), "candidate.contexts[0].prompt is 513"),
        (|r| r.candidate.needles[1].code.clear(), "candidate.needles[1].code is empty"),
        (|r| r.candidate.forms[0].run.total_s = -1.0, "candidate.forms[0].run.total_s is -1"),
        (
            |r| r.champion = Some(r.candidate.clone()),
            "champion.rung.model is new:30b, and must be another model than the candidate",
        ),
    ];
    let whole = record(sound("new:30b", 30, 40.0), None);
    assert_eq!(whole.check(), Ok(()));
    for (spoil, said) in spoils {
        let mut wrong = whole.clone();
        spoil(&mut wrong);
        let problem: RecordProblem = wrong.check().expect_err(said);
        assert!(problem.to_string().starts_with(said), "{problem}\n{said}");
    }
}

const STATES: [State; 4] = [State::Passed, State::NotChecked, State::Weak, State::Failed];

fn checks(states: &[usize]) -> Vec<Check> {
    let topics = [
        Topic::Load,
        Topic::Speed(512),
        Topic::Speed(4096),
        Topic::Coherence,
        Topic::Json,
        Topic::Tools,
        Topic::Needle,
        Topic::Champion,
    ];
    let check = |(topic, state): (&Topic, &usize)| Check {
        topic: *topic,
        state: STATES[*state],
        figure: None,
        why: None,
        champion: None,
    };
    topics.iter().zip(states).map(check).collect()
}

proptest! {
    #[test]
    fn a_check_that_ends_worse_never_makes_the_verdict_better(
        states in prop::collection::vec(0..4_usize, 8),
        at in 0..8_usize,
    ) {
        let before = grade(&checks(&states));
        for worse in [3, states[at].max(1)] {
            let mut states = states.clone();
            // Not checked and weak are alike: neither is passed, neither has failed.
            states[at] = worse.max(states[at]);
            prop_assert!(grade(&checks(&states)) <= before);
        }
        prop_assert!(before < Grade::Excellent || states.iter().all(|state| *state == 0));
    }

    #[test]
    fn more_against_a_model_never_makes_its_verdict_better(
        faults in prop::collection::vec((0..6_usize, 0..5_usize), 0..10),
        rates in prop::collection::vec(5.0..80.0_f64, 3),
        has_champion in any::<bool>(),
    ) {
        let champion = has_champion.then(|| sound("old:14b", 14, 40.0));
        let mut record = record(changed(|evidence| {
            evidence.rung.cells = CONTEXTS.iter().zip(&rates).map(|(tokens, rate)| cell(*tokens, *rate)).collect();
        }), champion);
        let mut before = judge(&record).verdict;
        for (kind, at) in faults {
            let evidence = &mut record.candidate;
            match kind {
                0 => evidence.rung.answers[at].run.text.clear(),
                1 => evidence.forms[at % 3].said = Said::Other("no JSON".into()),
                2 => evidence.calls[at % 3].calls.clear(),
                3 => evidence.needles[at % 3].run.text.clear(),
                4 => {
                    // Slower, as a whole.
                    for run in evidence.rung.cells.iter_mut().flat_map(|cell| &mut cell.runs) {
                        run.engine_decode = run.engine_decode.map(|rate| rate * 0.9);
                    }
                }
                _ => evidence.rung.outcome = Outcome::Failed("the engine died".into()),
            }
            let after = judge(&record).verdict;
            prop_assert!(after <= before, "{:?}", judge(&record));
            before = after;
        }
    }
}
