//! Changes of size.

use super::*;

#[test]
fn an_engine_that_takes_no_sizes_is_told_none_and_changes_none() {
    let mut mesh = Mesh::new(&[("msi", &[])]);
    mesh.machines[0].engines[0].capabilities.can_size = false;
    mesh.replica("big");
    mesh.place("msi", "big", Stage::OnDisk);
    let steps = mesh.steps(0.0);
    assert_eq!(steps[0].directive, Directive::Load(LoadWish::from(model_id("big"))));
    mesh.obey("big");
    mesh.plan.placed[0].stage = Stage::Resize;
    mesh.plan.placed[0].context = Some(2048);
    mesh.told(1.0);
    assert_eq!(mesh.told(1000.0), NONE);
}

/// A model that is loaded with 2 × 1024 tokens and planned with `slots` × `context`.
fn resized(context: u32, slots: u32) -> Mesh {
    let mut mesh = Mesh::new(&[("msi", &["big"])]);
    let placed = mesh.place("msi", "big", Stage::Resize);
    (placed.context, placed.slots) = (Some(context), slots);
    mesh.told(0.0);
    mesh
}

#[test]
fn a_larger_size_is_a_load_that_waits_for_requests_like_an_unload() {
    let mut mesh = resized(4096, 2);
    assert_eq!(mesh.told(119.0), NONE, "it stays for two minutes");
    mesh.busy.insert(model_id("big"), 1);
    assert_eq!(mesh.told(200.0), NONE);
    assert_eq!(mesh.told(259.0), NONE);
    mesh.busy.clear();
    assert_eq!(mesh.told(259.5), ["msi: load big"]);
    mesh.show("big", ReplicaState::Available);
    assert_eq!(mesh.told(260.0), NONE, "it drains");
    mesh.show("big", ReplicaState::Loading);
    assert_eq!(mesh.told(261.0), NONE);
    mesh.obey("big");
    assert_eq!(mesh.told(300.0), NONE);
    assert!(mesh.course.refused().is_empty());
}

#[test]
fn a_model_that_is_always_busy_gets_its_planned_size_after_a_minute() {
    let mut mesh = resized(4096, 2);
    mesh.busy.insert(model_id("big"), 1);
    assert_eq!(mesh.told(200.0), NONE);
    assert_eq!(mesh.told(260.0), ["msi: load big"]);
}

#[test]
fn a_resize_that_was_too_fast_to_be_seen_is_done() {
    let mut mesh = resized(4096, 2);
    assert_eq!(mesh.told(200.0), ["msi: load big"]);
    mesh.obey("big");
    mesh.told(201.0);
    mesh.store("msi", "other", None);
    mesh.place("msi", "other", Stage::OnDisk);
    assert_eq!(mesh.told(202.0), ["msi: load other"], "nothing is waited for");
}

#[test]
fn a_smaller_size_is_an_unload_first_because_agents_take_enough_for_done() {
    for (context, slots) in [(512, 2), (1024, 1)] {
        let mut mesh = resized(context, slots);
        assert_eq!(mesh.told(200.0), ["msi: unload big"]);
        mesh.show("big", ReplicaState::Available);
        mesh.told(201.0);
        assert_eq!(mesh.told(207.0), ["msi: load big"], "whatever the plan called it");
    }
    let mut pinned = resized(512, 2);
    pinned.plan.placed[0].pinned = true;
    assert_eq!(pinned.told(200.0), NONE);
}

#[test]
fn what_shall_take_less_does_so_before_others_come_and_what_shall_take_more_after() {
    let mut mesh = resized(512, 2);
    mesh.store("msi", "a", None);
    mesh.place("msi", "a", Stage::OnDisk);
    mesh.busy.insert(model_id("big"), 1);
    assert_eq!(mesh.told(200.0), NONE, "its room may be needed");
    mesh.busy.clear();
    assert_eq!(mesh.told(201.0), ["msi: unload big"]);
    let mut mesh = resized(4096, 2);
    mesh.store("msi", "later", None);
    mesh.place("msi", "later", Stage::OnDisk);
    assert_eq!(mesh.told(200.0), ["msi: load later"]);
    mesh.obey("later");
    mesh.told(201.0);
    assert_eq!(mesh.told(207.0), ["msi: load big"]);
}

#[test]
fn a_refused_resize_holds_nothing_up() {
    let mut mesh = resized(4096, 1);
    mesh.plan.placed[0].context = Some(2000);
    mesh.store("msi", "a", None);
    mesh.place("msi", "a", Stage::OnDisk);
    assert_eq!(mesh.told(200.0), ["msi: load big"]);
    refuse(&mut mesh, "big", "stays as it is loaded: does not fit", 5);
    assert_eq!(mesh.told(201.0), ["msi: load a"]);
}

#[test]
fn a_wish_that_changes_nothing_is_not_wished_again() {
    let mut mesh = resized(4096, 2);
    assert_eq!(mesh.told(200.0), ["msi: load big"]);
    mesh.show("big", ReplicaState::Loading);
    mesh.told(201.0);
    // Its engine gives no more than it had.
    mesh.show("big", ReplicaState::Loaded);
    for round in 0..100 {
        assert_eq!(mesh.told(202.0 + 30.0 * f64::from(round)), NONE);
    }
    let words: Vec<String> = mesh.course.refused().into_values().collect();
    assert_eq!(words, ["it came up with 1024 tokens of context instead of 4096"]);
    mesh.plan.placed[0].context = Some(2048);
    mesh.told(3500.0);
    assert_eq!(mesh.told(3900.0), ["msi: load big"], "another wish is another matter");
}
