//! What comes before what, and how fast.

use super::*;
use crate::machine::EngineState;

#[test]
fn what_is_not_planned_leaves_before_what_is_planned_comes() {
    let mut mesh = Mesh::new(&[("msi", &["old"])]);
    mesh.replica("new");
    mesh.place("msi", "new", Stage::OnDisk);
    mesh.told(0.0);
    assert_eq!(mesh.told(100.0), NONE, "what shall come may need the room");
    assert_eq!(mesh.told(200.0), ["msi: unload old"]);
    assert_eq!(mesh.told(201.0), NONE, "it was sent");
    mesh.show("old", ReplicaState::Available);
    assert_eq!(mesh.told(202.0), NONE, "what it says of its memory may be late");
    assert_eq!(mesh.course.next_change(at(202.0)), Some(at(208.0)));
    let steps = mesh.steps(208.0);
    let Directive::Load(wish) = &steps[0].directive else { panic!("{steps:?}") };
    assert_eq!((wish.model.as_str(), wish.context, wish.slots), ("new", Some(1024), Some(2)));
    assert_eq!((wish.cache_type.as_deref(), steps.len()), (Some("f16"), 1));
    mesh.show("new", ReplicaState::Loading);
    assert_eq!(mesh.told(209.0), NONE);
    mesh.obey("new");
    assert_eq!(mesh.told(230.0), NONE);
    assert_eq!(mesh.told(2300.0), NONE, "what is planned is there");
}

#[test]
fn one_change_at_a_time_on_each_machine_and_all_machines_at_once() {
    let mut mesh = Mesh::new(&[("msi", &[]), ("strix", &[])]);
    for (name, model) in [("msi", "a"), ("msi", "b"), ("strix", "a")] {
        mesh.store(name, model, None);
        mesh.place(name, model, Stage::OnDisk);
    }
    assert_eq!(mesh.told(0.0), ["msi: load a", "strix: load a"]);
    assert_eq!(mesh.told(1.0), NONE);
    mesh.show("a", ReplicaState::Loading);
    assert_eq!(mesh.told(600.0), ["strix: load a"], "one is loading, however long that takes; one was lost");
    mesh.obey("a");
    assert_eq!(mesh.told(601.0), NONE, "what it says of its memory may be late");
    assert_eq!(mesh.told(607.0), ["msi: load b"]);
}

#[test]
fn nothing_is_told_while_a_person_s_own_load_runs() {
    let mut mesh = Mesh::new(&[("msi", &[])]);
    mesh.show("theirs", ReplicaState::Loading);
    mesh.store("msi", "ours", None);
    mesh.place("msi", "ours", Stage::OnDisk);
    assert_eq!(mesh.told(0.0), NONE);
    mesh.show("theirs", ReplicaState::Available);
    assert_eq!(mesh.told(6.0), ["msi: load ours"]);
}

#[test]
fn what_modes_want_most_comes_first() {
    let mut mesh = Mesh::new(&[("msi", &[])]);
    for model in ["a", "b"] {
        mesh.store("msi", model, None);
        mesh.place("msi", model, Stage::OnDisk);
    }
    let mode = crate::id::ModeName::new("code").expect("valid");
    mesh.plan.placed[1].serves.push(Serves {
        mode,
        rank: 1,
        copies: 1,
        tpot_s: 0.02,
        known: crate::placement::Known::Guessed,
        short: Vec::new(),
    });
    let steps = mesh.steps(0.0);
    assert_eq!(steps[0].why, "b is planned there for code");
}

#[test]
fn what_is_planned_on_a_graphics_processor_is_loaded_before_others_take_its_place() {
    let mut mesh = Mesh::new(&[("msi", &[])]);
    for model in ["a", "b"] {
        mesh.store("msi", model, None);
        mesh.place("msi", model, Stage::OnDisk);
    }
    mesh.plan.placed[1].gpu = Some("0000:01:00.0".into());
    assert_eq!(mesh.told(0.0), ["msi: load b"]);
}

#[test]
fn a_drained_machine_is_emptied_one_model_after_the_other() {
    let mut mesh = Mesh::new(&[("msi", &["a"])]);
    mesh.plan.machines[0].barred = "it is drained".into();
    mesh.show("late", ReplicaState::Loading);
    assert_eq!(mesh.told(0.0), NONE, "a load that had begun ends first");
    mesh.show("late", ReplicaState::Loaded);
    assert_eq!(mesh.told(1.0), ["msi: unload a"]);
}

#[test]
fn a_busy_model_is_told_to_unload_after_a_minute_of_unbroken_business() {
    let mut mesh = Mesh::new(&[("msi", &["old"])]);
    mesh.told(0.0);
    mesh.busy.insert(model_id("old"), 1);
    assert_eq!(mesh.told(200.0), NONE);
    assert_eq!(mesh.told(259.0), NONE);
    mesh.busy.clear();
    mesh.replica("old").busy = Some(2);
    assert_eq!(mesh.told(259.5), NONE, "its engine says the same");
    assert_eq!(mesh.course.next_change(at(259.5)), Some(at(260.0)));
    assert_eq!(mesh.told(260.0), ["msi: unload old"]);
}

#[test]
fn a_pause_in_business_begins_the_minute_anew_and_an_idle_model_goes_at_once() {
    let mut mesh = Mesh::new(&[("msi", &["old"])]);
    mesh.told(0.0);
    mesh.busy.insert(model_id("old"), 1);
    mesh.told(100.0);
    mesh.busy.clear();
    // It is too young to leave, and idle for a moment.
    mesh.told(110.0);
    mesh.busy.insert(model_id("old"), 1);
    mesh.told(115.0);
    assert_eq!(mesh.told(174.0), NONE);
    mesh.busy.clear();
    assert_eq!(mesh.told(174.5), ["msi: unload old"]);
}

#[test]
fn business_before_a_model_was_planned_again_is_forgotten() {
    let mut mesh = Mesh::new(&[("msi", &["old"])]);
    mesh.told(0.0);
    mesh.busy.insert(model_id("old"), 1);
    mesh.told(200.0);
    mesh.place("msi", "old", Stage::Resident);
    mesh.told(210.0);
    mesh.unplan("old");
    assert_eq!(mesh.told(500.0), NONE);
    assert_eq!(mesh.told(560.0), ["msi: unload old"]);
}

#[test]
fn idle_moments_are_seen_while_another_change_is_under_way() {
    let mut mesh = Mesh::new(&[("msi", &["old"])]);
    mesh.told(0.0);
    mesh.busy.insert(model_id("old"), 1);
    mesh.told(200.0);
    mesh.show("theirs", ReplicaState::Loading);
    mesh.busy.clear();
    assert_eq!(mesh.told(210.0), NONE);
    mesh.busy.insert(model_id("old"), 1);
    mesh.told(211.0);
    mesh.show("theirs", ReplicaState::Available);
    assert_eq!(mesh.told(261.0), NONE);
    assert_eq!(mesh.told(271.0), ["msi: unload old"]);
}

#[test]
fn a_model_stays_for_two_minutes() {
    let mut mesh = Mesh::new(&[("msi", &["old"])]);
    assert_eq!(mesh.told(0.0), NONE);
    assert_eq!(mesh.told(6.0), NONE);
    assert_eq!(mesh.course.next_change(at(6.0)), Some(at(120.0)));
    assert_eq!(mesh.told(119.9), NONE);
    assert_eq!(mesh.told(120.0), ["msi: unload old"]);
}

#[test]
fn a_machine_rests_for_a_minute_after_a_step_that_took_away() {
    let mut mesh = Mesh::new(&[("msi", &["a", "b"]), ("strix", &["a"])]);
    mesh.told(0.0);
    assert_eq!(mesh.told(200.0), ["msi: unload a", "strix: unload a"]);
    mesh.show("a", ReplicaState::Available);
    mesh.machine("strix").engines[0].replicas.clear();
    assert_eq!(mesh.told(201.0), NONE);
    assert_eq!(mesh.told(259.0), NONE);
    assert_eq!(mesh.course.next_change(at(259.0)), Some(at(260.0)));
    assert_eq!(mesh.told(260.0), ["msi: unload b"]);
}

#[test]
fn a_load_into_free_room_waits_for_no_pause() {
    let mut mesh = Mesh::new(&[("msi", &["old"])]);
    for model in ["a", "b"] {
        mesh.store("msi", model, None);
        mesh.place("msi", model, Stage::OnDisk);
    }
    mesh.told(0.0);
    mesh.told(200.0);
    mesh.show("old", ReplicaState::Available);
    mesh.told(201.0);
    assert_eq!(mesh.told(207.0), ["msi: load a"]);
    mesh.obey("a");
    mesh.told(208.0);
    assert_eq!(mesh.told(214.0), ["msi: load b"]);
}

#[test]
fn the_whole_mesh_has_a_budget_of_steps_that_take_away() {
    let names: Vec<String> = (0..12).map(|number| format!("m{number:02}")).collect();
    let machines: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &["old"][..])).collect();
    let mut mesh = Mesh::new(&machines);
    mesh.told(0.0);
    assert_eq!(mesh.told(200.0).len(), 10);
    for machine in &mut mesh.machines[..10] {
        machine.engines[0].replicas.clear();
    }
    assert_eq!(mesh.told(210.0), NONE);
    assert_eq!(mesh.told(799.0), NONE);
    assert_eq!(mesh.course.next_change(at(799.0)), Some(at(800.0)));
    assert_eq!(mesh.told(800.0), ["m10: unload old", "m11: unload old"]);
}

#[test]
fn a_drained_machine_is_emptied_without_residence_or_pause() {
    let mut mesh = Mesh::new(&[("msi", &["a", "b"])]);
    mesh.plan.machines[0].barred = "it is drained".into();
    mesh.course.pace.budget = 0;
    assert_eq!(mesh.told(0.0), ["msi: unload a"]);
    mesh.show("a", ReplicaState::Available);
    mesh.busy.insert(model_id("b"), 1);
    assert_eq!(mesh.told(1.0), NONE, "requests are waited for all the same");
    assert_eq!(mesh.told(61.0), ["msi: unload b"]);
}

#[test]
fn a_machine_without_a_plan_is_emptied_at_the_usual_pace() {
    let mut mesh = Mesh::new(&[("msi", &["a"])]);
    assert_eq!(mesh.told(0.0), NONE, "it is open: what it has may be wanted again");
    assert_eq!(mesh.told(120.0), ["msi: unload a"]);
}

#[test]
fn an_engine_that_cannot_unload_is_not_told_so_at_each_report() {
    let mut mesh = Mesh::new(&[("msi", &["a"])]);
    mesh.plan.machines[0].barred = "it is drained".into();
    assert_eq!(mesh.told(0.0), ["msi: unload a"]);
    mesh.show("a", ReplicaState::Available);
    mesh.told(0.5);
    mesh.show("a", ReplicaState::Loaded);
    assert_eq!(mesh.told(1.0), NONE);
    assert_eq!(mesh.told(8.0), NONE);
    assert_eq!(mesh.course.next_change(at(8.0)), Some(at(15.0)));
    assert_eq!(mesh.told(15.0), ["msi: unload a"]);
}

#[test]
fn a_machine_that_the_plan_does_not_know_is_left_alone() {
    let mut mesh = Mesh::new(&[("msi", &["theirs"])]);
    mesh.plan.machines.clear();
    mesh.told(0.0);
    assert_eq!(mesh.told(1000.0), NONE, "it came after the plan was made");
}

#[test]
fn a_plan_of_wishes_that_contradict_themselves_moves_nothing() {
    let mut mesh = Mesh::new(&[("msi", &["a"])]);
    let (key, message) = ("modes.code.slots".to_owned(), "must be at least 1".to_owned());
    mesh.plan.problems.push(crate::strategy::WishProblem { key, message, fatal: true });
    mesh.told(0.0);
    assert_eq!(mesh.told(1000.0), NONE);
}

#[test]
fn a_fixed_model_is_never_touched() {
    let mut mesh = Mesh::new(&[("msi", &["fixed", "planned"])]);
    mesh.machines[0].engines[0].capabilities.can_unload = false;
    let placed = mesh.place("msi", "planned", Stage::Fixed);
    placed.context = Some(4096);
    mesh.plan.machines[0].barred = "it is drained".into();
    mesh.told(0.0);
    assert_eq!(mesh.told(1000.0), NONE);
    mesh.show("planned", ReplicaState::Available);
    assert_eq!(mesh.told(1001.0), NONE, "its machine's configuration brings it back");
}

#[test]
fn a_machine_that_is_silent_or_leaves_is_told_nothing() {
    for (liveness, draining) in
        [(Liveness::Suspect, false), (Liveness::Offline, false), (Liveness::Alive, true)]
    {
        let mut mesh = Mesh::new(&[("msi", &["old"]), ("strix", &[])]);
        mesh.store("msi", "new", None);
        mesh.place("msi", "new", Stage::OnDisk);
        mesh.store("strix", "file", Some('a'));
        mesh.place("msi", "file", Stage::Fetch);
        mesh.told(0.0);
        (mesh.machines[0].liveness, mesh.machines[0].draining) = (liveness, draining);
        assert_eq!(mesh.told(1000.0), NONE);
    }
}

#[test]
fn an_engine_that_is_down_is_told_nothing_and_holds_nothing_up() {
    let mut mesh = Mesh::new(&[("msi", &["old"])]);
    mesh.show("slow", ReplicaState::Loading);
    mesh.machines[0].engines[0].state = EngineState::Down("it does not answer".into());
    mesh.store("msi", "new", None);
    mesh.place("msi", "new", Stage::OnDisk);
    mesh.told(0.0);
    mesh.told(15.0);
    mesh.plan.placed.clear();
    mesh.place("msi", "other", Stage::OnDisk);
    mesh.store("msi", "other", None);
    assert_eq!(mesh.told(500.0), ["msi: load other"]);
}

#[test]
fn a_model_that_still_drains_holds_its_memory() {
    let mut mesh = Mesh::new(&[("msi", &["old"])]);
    mesh.store("msi", "new", None);
    mesh.place("msi", "new", Stage::OnDisk);
    mesh.told(0.0);
    assert_eq!(mesh.told(200.0), ["msi: unload old"]);
    // As an agent shows it: no new requests, and the last one has not ended.
    mesh.show("old", ReplicaState::Available);
    mesh.replica("old").memory = Some(ReplicaMemory { device: Bytes(0), host: Bytes(GIB), measured: true });
    mesh.told(201.0);
    assert_eq!(mesh.told(230.0), NONE);
    mesh.replica("old").memory = None;
    assert_eq!(mesh.told(231.0), NONE);
    assert_eq!(mesh.told(236.0), ["msi: load new"]);
}

#[test]
fn the_next_change_is_never_missing_while_something_waits_for_time_alone() {
    // Whatever is possible later without any news is possible at the moments that are told: time goes by in their steps.
    let mut mesh = Mesh::new(&[("msi", &["a", "b"]), ("strix", &["c"])]);
    mesh.course = Course::new(Pace {
        machine_pause: Duration::from_secs(7),
        budget: 1,
        window: Duration::from_secs(50),
        residence: Duration::from_secs(33),
    });
    mesh.busy.insert(model_id("c"), 1);
    mesh.store("strix", "new", None);
    mesh.place("strix", "new", Stage::OnDisk);
    let mut now = at(0.0);
    let mut told = Vec::new();
    for _ in 0..200 {
        let view = view_of(mesh.machines.clone());
        let busy = mesh.busy.clone();
        let requests = |_: &MachineId, model: &ModelId| busy.get(model).copied().unwrap_or(0);
        mesh.course.look(&view, now);
        for step in next_steps(&mesh.plan, &view, &mut mesh.course, &requests, now) {
            told.push(in_words(&step));
            if let Directive::Unload(model) = &step.directive {
                for machine in &mut mesh.machines {
                    machine.engines[0].replicas.retain(|replica| replica.model != *model);
                }
            }
        }
        let Some(next) = mesh.course.next_change(now) else { break };
        assert!(next > now);
        now = next;
    }
    let leave = ["msi: unload a", "msi: unload b", "strix: unload c"];
    assert!(leave.iter().all(|step| told.iter().filter(|one| one == step).count() == 1), "{told:?}");
    assert!(told.contains(&"strix: load new".to_owned()));
}

#[test]
fn the_last_report_of_a_silent_machine_says_nothing_of_its_business() {
    let mut mesh = Mesh::new(&[("msi", &["old"])]);
    mesh.told(0.0);
    mesh.replica("old").busy = Some(1);
    mesh.told(200.0);
    mesh.machines[0].liveness = Liveness::Offline;
    mesh.told(210.0);
    mesh.machines[0].liveness = Liveness::Alive;
    assert_eq!(mesh.told(270.0), NONE, "it has just been heard of again");
    assert_eq!(mesh.told(330.0), ["msi: unload old"]);
}

#[test]
fn the_plan_leaves_a_machine_to_a_request_until_its_model_is_there() {
    let mut mesh = Mesh::new(&[("msi", &["old"])]);
    mesh.replica("asked");
    mesh.store("msi", "planned", None);
    mesh.place("msi", "planned", Stage::OnDisk);
    mesh.told(0.0);
    mesh.course.leave_to(machine_id("msi"), model_id("asked"), at(1000.0));
    assert_eq!(mesh.told(300.0), NONE);
    assert_eq!(mesh.course.next_change(at(300.0)), Some(at(1000.0)));
    mesh.show("asked", ReplicaState::Loaded);
    mesh.told(301.0);
    assert_eq!(mesh.told(310.0), ["msi: unload old"], "it is there: the plan goes on");
    let mut lost = Mesh::new(&[("msi", &["old"])]);
    lost.told(0.0);
    lost.course.leave_to(machine_id("msi"), model_id("asked"), at(1000.0));
    assert_eq!(lost.told(999.0), NONE);
    assert_eq!(lost.told(1000.0), ["msi: unload old"], "it never came");
}

#[test]
fn why_a_change_waits_is_told_with_its_time() {
    let mut mesh = Mesh::new(&[("msi", &["old", "older"])]);
    mesh.told(0.0);
    let change = |model: &str| Change::Unload {
        model: model_id(model),
        machine: machine_id("msi"),
        why: "it is not planned".into(),
    };
    mesh.plan.changes = vec![change("old"), change("older")];
    let waits = |mesh: &Mesh, seconds: f64| {
        waiting(&mesh.plan, &view_of(mesh.machines.clone()), &mesh.course, at(seconds))
    };
    assert_eq!(waits(&mesh, 30.0)[0], "old on msi stays for another 90 s: 2 min at least");
    assert_eq!(waits(&mesh, 30.0).len(), 2);
    assert_eq!(mesh.told(120.0), ["msi: unload old"]);
    mesh.show("old", ReplicaState::Available);
    mesh.plan.changes = vec![change("older")];
    assert_eq!(mesh.told(140.0), NONE);
    assert_eq!(waits(&mesh, 140.0), ["msi pauses for another 40 s: one model leaves each 60 s"]);
    mesh.course.pace.budget = 1;
    assert_eq!(mesh.told(185.0), NONE, "one was all that may leave");
    let words = waits(&mesh, 185.0);
    assert_eq!(words, ["1 left memory within 10 min, the most there may be: 8 min to go"]);
    mesh.course.leave_to(machine_id("msi"), model_id("asked"), at(300.0));
    assert_eq!(waits(&mesh, 185.0), ["msi is left to asked, which a request has loaded there"]);
}
