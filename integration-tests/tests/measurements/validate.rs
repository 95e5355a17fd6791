//! A validation with real engines, begun as a person begins it. Both models have 1.4 M parameters, so neither is worth
//! anything; what is looked at is that this is seen, by what, and that the machine is put back.

use integration_tests::desk::{Desk, NOISE, TRAINED};
use mesh_core::ladder::Outcome;
use mesh_core::validation::{Change, Grade, Record, State, Topic, Validation, judge};
use nix::sys::signal::{Signal, kill};

fn state(validation: &Validation, topic: Topic) -> State {
    validation.checks.iter().find(|check| check.topic == topic).expect("it is checked").state
}

#[tokio::test]
async fn a_tiny_model_is_poor_by_its_answers_and_not_by_the_way_and_the_machine_is_put_back() {
    let Some(desk) = Desk::start().await else { return };
    let before = desk.load_one().await;

    let line = "validate trained --node a --champion untrained --contexts 64,512,4K --repetitions 2 --yes";
    assert_eq!(desk.typed(line).await, 3, "poor");

    let record: Record = serde_json::from_str(&desk.kept("validate")).expect("a record within its bounds");
    assert_eq!((record.check(), record.stopped.as_deref()), (Ok(()), None));
    let champion = record.champion.as_ref().expect("it was measured");
    for (evidence, name) in [(&record.candidate, TRAINED), (champion, NOISE)] {
        assert_eq!((evidence.rung.model.as_str(), &evidence.rung.outcome), (name, &Outcome::Done));
        // Both were trained for 2,048 tokens: the longest prompt is what that leaves.
        let prompts: Vec<Option<u32>> = evidence.contexts.iter().map(|reached| reached.prompt).collect();
        assert_eq!(prompts, [Some(64), Some(512), Some(1920)], "{name}");
        for cell in evidence.rung.cells.iter().flat_map(|cell| &cell.runs) {
            assert_eq!(cell.error, None, "{name}");
        }
        assert_eq!((evidence.forms.len(), evidence.needles.len()), (3, 3), "{name}");
        for needle in &evidence.needles {
            let tokens = needle.run.prompt_tokens.expect("the engine counts");
            assert!((1400..=1792).contains(&tokens), "{name}: a text that fills the context: {tokens}");
            assert_eq!(needle.run.error, None, "{name}");
        }
    }

    let validation = judge(&record);
    assert_eq!((validation.verdict, &validation.change), (Grade::Poor, &Change::Skip), "{validation:#?}");
    assert_eq!(state(&validation, Topic::Load), State::Passed);
    assert_eq!(state(&validation, Topic::Needle), State::Failed, "it cannot read");
    let validation_of_noise =
        judge(&Record { candidate: champion.clone(), champion: None, ..record.clone() });
    assert_eq!(state(&validation_of_noise, Topic::Coherence), State::Failed, "noise is gibberish");

    assert_eq!((desk.loaded(), desk.is_cordoned().await), (before, false));
    assert_eq!(desk.typed("validate nobody --node a --yes").await, 4);
    assert_eq!(desk.typed("validate trained --node b --yes").await, 4);
    assert_eq!(desk.typed("validate trained --node a --champion trained --yes").await, 2);
    desk.mesh.stop().await;
}

#[tokio::test]
async fn a_model_whose_engine_is_killed_meanwhile_is_measured_again_and_does_not_come_back_afterwards() {
    let Some(desk) = Desk::start().await else { return };
    let before = desk.load_one().await;
    let asked = desk.node.agent().serve.in_flight();
    let killed = async {
        let is_there = || desk.loaded().iter().any(|(name, _, _)| name == NOISE);
        let is_measured = async || (is_there() && *asked.borrow() > 0).then_some(());
        integration_tests::eventually("it is measured", is_measured).await;
        kill(desk.engine_of(NOISE).expect("it is loaded"), Signal::SIGKILL).expect("it is ours");
    };
    let line = "validate untrained --node a --contexts 512 --repetitions 5 --yes";
    let (code, ()) = tokio::join!(desk.typed(line), killed);
    assert_eq!(code, 3, "it is noise");

    let record: Record = serde_json::from_str(&desk.kept("validate")).expect("a record within its bounds");
    assert_eq!((&record.candidate.rung.outcome, record.stopped.as_deref()), (&Outcome::Done, None));
    let validation = judge(&record);
    assert_eq!(state(&validation, Topic::Load), State::Passed, "it stayed the second time: {validation:?}");
    assert_eq!((desk.loaded(), desk.is_cordoned().await), (before.clone(), false));
    // While an engine that ended is about to be started again, its model has failed.
    integration_tests::eventually("nobody will start it", async || desk.rests(NOISE).then_some(())).await;
    assert_eq!((desk.loaded(), desk.engine_of(NOISE)), (before, None), "it does not come back");
    desk.mesh.stop().await;
}
