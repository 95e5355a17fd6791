//! The candidate beside its champion, and what of it changes a mode.

use super::*;

#[test]
fn being_slower_does_harm_where_no_mode_says_what_is_fast_enough() {
    let mut record = record(sound("new:30b", 30, 40.0), Some(sound("old:14b", 14, 50.0)));
    record.modes.clear();
    let comparison = judge(&record).comparison.expect("there is a champion");
    assert_eq!((comparison.worse.len(), comparison.harmless.len()), (3, 0), "{comparison:?}");
}

#[test]
fn more_bytes_for_fewer_parameters_are_nothing_better() {
    let better = |parameters: u64, gib: u64| {
        let mut candidate = sound("new", 14, 40.0);
        candidate.rung.parameters = Some(parameters * 1_000_000_000);
        candidate.rung.size = Some(Bytes(gib << 30));
        let mut champion = sound("old:14b", 14, 40.0);
        champion.rung.size = Some(Bytes(8 << 30));
        judge(&record(candidate, Some(champion))).comparison.expect("there is a champion").better
    };
    assert_eq!(better(14, 15), ["15.0 GiB of about as many parameters, 8.00 GiB before"]);
    assert_eq!((better(14, 8).len(), better(8, 15).len()), (0, 0));
    assert_eq!(better(30, 8), ["30.0 billion parameters, 14.0 billion before"]);
}

#[test]
fn the_spread_of_both_counts_and_prompts_of_other_lengths_are_not_compared() {
    let of = |change: fn(&mut Evidence)| {
        let mut champion = sound("old:14b", 14, 50.0);
        change(&mut champion);
        judge(&record(sound("new:30b", 30, 40.0), Some(champion))).comparison.expect("there is a champion")
    };
    let slower = |comparison: Comparison| comparison.worse.len() + comparison.harmless.len();
    assert_eq!(slower(of(|_| {})), 3);
    let wide = |evidence: &mut Evidence| {
        for cell in &mut evidence.rung.cells {
            for (run, rate) in cell.runs.iter_mut().zip([38.0, 50.0, 62.0]) {
                run.engine_decode = Some(rate);
            }
        }
    };
    assert_eq!(slower(of(wide)), 0, "the champion alone is known to no more than 12");
    let shorter = |evidence: &mut Evidence| {
        evidence.contexts[1].prompt = Some(1920);
        evidence.rung.cells[1].work.prompt_tokens = 1920;
    };
    assert_eq!(slower(of(shorter)), 2);
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
