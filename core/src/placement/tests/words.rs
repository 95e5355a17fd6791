//! What a plan says to a person of what is short, in the way, or of help.

use super::*;

fn of(world: &World, wish: Wish) -> Unplaced {
    let plan = plan(world, &wishes(vec![wish]));
    let [unplaced] = plan.unplaced.as_slice() else { panic!("{plan:?}") };
    unplaced.clone()
}

fn one_machine(standing: Standing) -> World {
    let mut one = Site { standing, ..site("one", 64.0, 0.0) };
    stored(&mut one, &["coder"]);
    world(vec![one], &[("coder", 4.0)])
}

#[test]
fn a_machine_that_a_person_holds_back_is_named_with_the_command_that_ends_it() {
    use crate::placement::site::{CORDONED, DRAINED, OFFLINE};
    let resume = "; use it again: meshctl node resume one";
    let start = "; start it, or its agent: mesh-agent run";
    for (standing, said, command) in [
        (Standing::Closed(DRAINED.into()), "it is drained", resume),
        (Standing::Holds(CORDONED.into()), "it is cordoned", resume),
        (Standing::Closed(OFFLINE.into()), "it is offline", start),
        (Standing::Holds("it runs on its battery".into()), "it runs on its battery", ""),
    ] {
        let mut world = one_machine(standing);
        world.catalogue.insert(model("other"), file(5.0));
        let unplaced = of(&world, wish("code", &["coder", "other"]));
        assert_eq!(unplaced.would_help, [format!("one is not used: {said}{command}")]);
    }
}

#[test]
fn more_copies_than_one_process_has_are_told_as_such() {
    let mut code = wish("code", &["coder"]);
    (code.context, code.copies) = (4096, 9);
    let unplaced = of(&one_machine(Standing::Open), code);
    assert_eq!(unplaced.copies, 1);
    assert_eq!(unplaced.obstacles[0].why, "it is there with 8 copies, the most that one process has");
    assert_eq!(
        unplaced.would_help,
        [
            "another machine that can hold coder (one process has at most 8 copies as its slots), or copies=8 for \
             the mode code"
        ]
    );
}

#[test]
fn where_a_mode_may_be_nowhere_its_label_or_its_machines_are_named() {
    let world = one_machine(Standing::Open);
    let mut labelled = wish("code", &["coder"]);
    labelled.labels.insert("nobody".into());
    assert_eq!(
        of(&world, labelled).would_help,
        [
            "no machine that the mode code allows has the label nobody: give it to one (`labels` under [machines.NAME] \
             in router.toml), or take it from the mode (labels=)"
        ]
    );
    let mut elsewhere = wish("code", &["coder"]);
    elsewhere.machines.insert(machine("nine"));
    assert_eq!(
        of(&world, elsewhere).would_help,
        ["the mode code may only be on nine, and no such machine is here"]
    );
}

#[test]
fn help_names_the_model_that_it_is_about() {
    let unplaced = of(&world(vec![site("one", 64.0, 0.0)], &[("giant", 158.0)]), wish("code", &["giant"]));
    let larger =
        unplaced.would_help.iter().any(|help| help.starts_with("a machine that gives giant at least"));
    assert!(larger, "{:?}", unplaced.would_help);
}

#[test]
fn the_longest_context_that_a_model_has_there_is_what_is_told() {
    let mut world = one_machine(Standing::Open);
    let known = world.catalogue.get_mut(&model("coder")).expect("it is there");
    known.trained_context = Some(2048);
    let mut ask = wish("ask", &["coder"]);
    (ask.context, ask.least_context) = (2048, 512);
    let mut code = wish("code", &["coder"]);
    (code.context, code.least_context) = (65_536, 32_768);
    let plan = plan(&world, &wishes(vec![ask, code]));
    let [unplaced] = plan.unplaced.as_slice() else { panic!("{plan:?}") };
    assert_eq!(
        unplaced.obstacles[0].why,
        "a context of 2048 tokens is what it has there, the mode needs 32768"
    );
}

#[test]
fn a_pin_of_what_is_only_on_the_disk_is_told_with_what_it_needs() {
    let mut world = one_machine(Standing::Open);
    let pin = Pin { model: model("coder"), machine: machine("one") };
    let wishes = Wishes { pins: [pin].into(), ..Wishes::default() };
    let said = plan(&world, &wishes).problems;
    let [problem] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(problem.key, "pins.coder");
    assert_eq!(
        problem.message,
        "`coder` is on the disk of `one` and not in its memory: it stays there once it is loaded, meshctl model load \
         coder --node one"
    );
    assert!(!problem.fatal);
    world.sites[0].is_lost = true;
    assert_eq!(plan(&world, &wishes).problems, [], "nothing is known of its memory");
}
