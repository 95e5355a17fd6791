//! Files that come, and directives that are lost or refused.

use super::*;

#[test]
fn a_file_comes_from_the_machine_that_has_it_and_its_model_waits_for_it() {
    let mut mesh = Mesh::new(&[("msi", &[]), ("strix", &[])]);
    mesh.store("strix", "big", Some('a'));
    mesh.place("msi", "big", Stage::Fetch);
    let steps = mesh.steps(0.0);
    let [Step { directive: Directive::Pull(wish), machine, .. }] = steps.as_slice() else {
        panic!("{steps:?}")
    };
    assert_eq!((machine.as_str(), &wish.source, wish.size), ("msi", &PullSource::Mesh, Some(Bytes(GIB))));
    assert_eq!(wish.digest.as_ref().map(Digest::as_str), Some("a".repeat(64).as_str()));
    for state in [TransferState::Waiting, TransferState::Running, TransferState::Verifying] {
        mesh.transfer("big", state);
        assert_eq!(mesh.told(100.0), NONE);
    }
    mesh.transfer("big", TransferState::Done);
    assert_eq!(mesh.told(101.0), NONE, "the store has not listed it yet");
    mesh.store("msi", "big", Some('a'));
    assert_eq!(mesh.told(102.0), ["msi: load big"]);
    assert!(mesh.course.refused().is_empty());
}

#[test]
fn a_file_that_came_and_is_never_listed_is_sent_for_again() {
    let mut mesh = Mesh::new(&[("msi", &[]), ("strix", &[])]);
    mesh.store("strix", "big", Some('a'));
    mesh.place("msi", "big", Stage::Fetch);
    mesh.told(0.0);
    mesh.transfer("big", TransferState::Running);
    mesh.told(1.0);
    mesh.transfer("big", TransferState::Done);
    for seconds in [100.0, 107.0, 114.9] {
        assert_eq!(mesh.told(seconds), NONE);
    }
    assert_eq!(mesh.told(115.0), ["msi: fetch big"]);
    assert!(mesh.course.refused().is_empty());
}

#[test]
fn the_planned_file_is_asked_for_whatever_others_call_theirs() {
    let mut mesh = Mesh::new(&[("msi", &[]), ("strix", &[]), ("win", &[])]);
    mesh.store("strix", "big", Some('b'));
    mesh.store("win", "the-same", Some('a'));
    let planned = Digest::new(&"a".repeat(64)).expect("valid");
    mesh.place("msi", "big", Stage::Fetch).digest = Some(planned.clone());
    let steps = mesh.steps(0.0);
    let Directive::Pull(wish) = &steps[0].directive else { panic!("{steps:?}") };
    assert_eq!((&wish.source, wish.digest.as_ref()), (&PullSource::Mesh, Some(&planned)));
    assert_eq!(wish.model, model_id("big"));
}

#[test]
fn a_file_that_nobody_can_lend_comes_from_its_address() {
    let mut mesh = Mesh::new(&[("msi", &[]), ("strix", &[])]);
    mesh.store("strix", "big", Some('b'));
    let planned = Digest::new(&"a".repeat(64)).expect("valid");
    let placed = mesh.place("msi", "big", Stage::Fetch);
    (placed.digest, placed.source) = (Some(planned.clone()), Some("https://files.test/big.gguf".into()));
    let steps = mesh.steps(0.0);
    let Directive::Pull(wish) = &steps[0].directive else { panic!("{steps:?}") };
    assert_eq!(wish.source, PullSource::Url("https://files.test/big.gguf".into()));
    assert_eq!(wish.digest, Some(planned));
}

#[test]
fn a_machine_that_is_away_or_leaves_lends_nothing() {
    for leaves in [false, true] {
        let mut mesh = Mesh::new(&[("msi", &[]), ("strix", &[])]);
        mesh.store("strix", "big", Some('a'));
        mesh.place("msi", "big", Stage::Fetch);
        let lender = mesh.machine("strix");
        lender.draining = leaves;
        lender.liveness = if leaves { Liveness::Alive } else { Liveness::Offline };
        assert_eq!(mesh.told(0.0), NONE);
    }
}

#[test]
fn two_files_at_a_time_come_to_a_machine() {
    let mut mesh = Mesh::new(&[("msi", &[]), ("strix", &[])]);
    for (model, digest) in [("a", 'a'), ("b", 'b'), ("c", 'c'), ("d", 'd')] {
        mesh.store("strix", model, Some(digest));
        mesh.place("msi", model, Stage::Fetch);
    }
    // A person has one fetched that is not planned.
    mesh.transfer("theirs", TransferState::Running);
    assert_eq!(mesh.told(0.0), ["msi: fetch a"]);
    assert_eq!(mesh.told(1.0), NONE, "one runs, and one was sent");
    mesh.transfer("theirs", TransferState::Done);
    assert_eq!(mesh.told(2.0), ["msi: fetch b"]);
    mesh.transfer("a", TransferState::Running);
    mesh.transfer("b", TransferState::Running);
    assert_eq!(mesh.told(3.0), NONE);
    mesh.transfer("a", TransferState::Done);
    mesh.store("msi", "a", Some('a'));
    assert_eq!(mesh.told(30.0), ["msi: fetch c", "msi: load a"]);
}

#[test]
fn a_file_that_does_not_come_is_not_sent_for_at_once_again() {
    for begins in [true, false] {
        let mut mesh = Mesh::new(&[("msi", &[]), ("strix", &[])]);
        mesh.store("strix", "big", Some('a'));
        mesh.place("msi", "big", Stage::Fetch);
        assert_eq!(mesh.told(0.0), ["msi: fetch big"]);
        if begins {
            mesh.transfer("big", TransferState::Running);
            mesh.told(1.0);
        }
        mesh.transfer("big", TransferState::Failed("the disk is full".into()));
        assert_eq!(mesh.told(2.0), NONE);
        let words: Vec<String> = mesh.course.refused().into_values().collect();
        assert_eq!(words, ["its file did not come: the disk is full"]);
        assert_eq!(mesh.told(301.0), NONE);
        // The old failure is still shown when it is sent for again.
        assert_eq!(mesh.told(302.0), ["msi: fetch big"]);
        mesh.told(303.0);
        assert!(mesh.course.refused().is_empty());
        mesh.told(317.0);
        assert_eq!(mesh.course.refused().len(), 1, "the same words again, and no other sign");
    }
}

#[test]
fn a_file_that_is_stored_but_cannot_be_loaded_is_not_loaded() {
    let mut mesh = Mesh::new(&[("msi", &[])]);
    mesh.store("msi", "big", Some('a'));
    mesh.machines[0].store.models[0].broken = Some("its header ends early".into());
    mesh.place("msi", "big", Stage::OnDisk);
    assert_eq!(mesh.told(0.0), NONE);
    // An engine that only lists it does not load it either.
    mesh.replica("big");
    mesh.machines[0].engines[0].capabilities.can_load = false;
    assert_eq!(mesh.told(1.0), NONE);
}

#[test]
fn a_lost_directive_is_sent_again_after_fifteen_seconds() {
    let mut mesh = Mesh::new(&[("msi", &["old"]), ("strix", &[])]);
    mesh.store("strix", "new", None);
    mesh.place("strix", "new", Stage::OnDisk);
    mesh.told(0.0);
    mesh.told(15.0);
    mesh.told(30.0);
    let both = ["msi: unload old", "strix: load new"];
    assert_eq!(mesh.told(200.0), both);
    assert_eq!(mesh.told(214.9), NONE);
    assert_eq!(mesh.course.next_change(at(214.9)), Some(at(215.0)));
    assert_eq!(mesh.told(215.0), both, "and what was lost did not count towards the pace");
}

#[test]
fn lost_directives_do_not_use_up_the_budget() {
    let mut mesh = Mesh::new(&[("msi", &["old"]), ("strix", &["old"])]);
    mesh.course.pace.budget = 1;
    mesh.told(0.0);
    for round in 0..20 {
        assert_eq!(mesh.told(200.0 + 15.0 * f64::from(round)), ["msi: unload old"]);
    }
}

#[test]
fn a_directive_that_could_not_be_sent_is_as_if_it_had_not_been_made() {
    let mut mesh = Mesh::new(&[("msi", &["old"])]);
    mesh.told(0.0);
    let steps = mesh.steps(200.0);
    mesh.course.not_sent(&steps[0]);
    assert_eq!(mesh.told(200.1), ["msi: unload old"]);
}

#[test]
fn a_refused_directive_is_not_sent_for_five_minutes_and_its_words_are_told() {
    let mut mesh = Mesh::new(&[("msi", &[])]);
    mesh.store("msi", "big", None);
    mesh.place("msi", "big", Stage::OnDisk);
    assert_eq!(mesh.told(0.0), ["msi: load big"]);
    refuse(&mut mesh, "big", "does not fit: 8 GiB, 4 GiB are free", 5);
    assert_eq!(mesh.told(1.0), NONE);
    let place = (machine_id("msi"), model_id("big"));
    assert_eq!(
        mesh.course.refused().get(&place).map(String::as_str),
        Some("does not fit: 8 GiB, 4 GiB are free")
    );
    assert_eq!(mesh.told(300.9), NONE);
    assert_eq!(mesh.course.next_change(at(300.9)), Some(at(301.0)));
    assert_eq!(mesh.told(301.0), ["msi: load big"]);
    assert!(mesh.course.refused().is_empty());
    refuse(&mut mesh, "big", "still", 6);
    mesh.told(302.0);
    assert_eq!(mesh.course.refused().get(&place).map(String::as_str), Some("still"));
}

#[test]
fn what_a_machine_refused_to_others_is_no_refusal() {
    let mut mesh = Mesh::new(&[("msi", &[])]);
    mesh.store("msi", "big", None);
    refuse(&mut mesh, "big", "long ago", 5);
    mesh.told(0.0);
    mesh.place("msi", "big", Stage::OnDisk);
    assert_eq!(mesh.told(1.0), ["msi: load big"]);
    refuse(&mut mesh, "small", "to a person", 6);
    assert_eq!(mesh.told(2.0), NONE);
    assert!(mesh.course.refused().is_empty());
}

#[test]
fn a_load_that_fails_is_not_repeated_at_once() {
    for (seen, words) in [(true, "the load ended without the model in memory"), (false, "out of memory")] {
        let mut mesh = Mesh::new(&[("msi", &[])]);
        mesh.replica("big");
        mesh.place("msi", "big", Stage::OnDisk);
        assert_eq!(mesh.told(0.0), ["msi: load big"]);
        let end = if seen { ReplicaState::Available } else { ReplicaState::Failed("out of memory".into()) };
        if seen {
            mesh.show("big", ReplicaState::Loading);
            mesh.told(1.0);
        }
        mesh.show("big", end);
        assert_eq!(mesh.told(2.0), NONE);
        assert_eq!(mesh.course.refused().into_values().collect::<Vec<_>>(), [words]);
        assert_eq!(mesh.told(302.0), ["msi: load big"]);
        // What failed before is still shown until the agent has begun anew.
        assert_eq!(mesh.told(303.0), NONE);
        assert!(mesh.course.refused().is_empty());
    }
}
