//! Examples and laws of [`Admission`](super::Admission).

use super::*;
use crate::fleet::tests::model_id;
use proptest::prelude::*;
use std::collections::BTreeSet;

const LIMITS: Limits = Limits { waiting: 8, bytes: 1_000, per_key: 100 };

fn at(ms: u64) -> Moment {
    Moment(0).plus(Duration::from_secs(1_000)).plus(Duration::from_millis(ms))
}

/// One model with some slots.
#[derive(Debug, Default)]
struct OneModel {
    slots: u32,
    taken: BTreeSet<EntryId>,
    held_until: Option<Moment>,
    /// Those that no slot will do for.
    lacks: BTreeSet<EntryId>,
    most: usize,
}

impl OneModel {
    fn new(slots: u32) -> Self {
        Self { slots, ..Self::default() }
    }
}

impl Room for OneModel {
    fn take(&mut self, id: EntryId, _: Duration) -> Found {
        let model = model_id("m");
        if let Some(until) = self.held_until {
            return Found::Held { model, until };
        }
        if self.taken.len() >= self.slots as usize || self.lacks.contains(&id) {
            return Found::Full { model, slots: self.slots };
        }
        self.taken.insert(id);
        self.most = self.most.max(self.taken.len());
        Found::Taken(model)
    }
}

/// An entry whose deadline is `patience_s` after 1,000 s.
fn entry(priority: Priority, key: u64, patience_s: u64) -> Entry {
    let deadline = at(patience_s * 1_000);
    Entry { priority, key, session: None, deadline, bytes: 10, class: 1 }
}

struct Desk {
    queue: Admission,
    room: OneModel,
    next: u64,
}

impl Desk {
    fn new(slots: u32, limits: Limits) -> Self {
        Self { queue: Admission::new(limits), room: OneModel::new(slots), next: 0 }
    }

    fn arrive(&mut self, entry: Entry, ms: u64) -> (EntryId, Vec<Command>) {
        let id = EntryId(self.next);
        self.next += 1;
        let mut commands = self.queue.arrive(id, entry, at(ms)).expect("the key may");
        commands.extend(self.queue.seek(id, at(ms), &mut self.room));
        (id, commands)
    }

    fn leave(&mut self, id: EntryId, ms: u64) -> Vec<Command> {
        self.room.taken.remove(&id);
        self.queue.leave(id, true, at(ms));
        self.queue.poll(at(ms), &mut self.room)
    }

    /// Ends what runs, one after another, and tells who got each slot.
    fn order(&mut self, mut running: EntryId, ms: u64) -> Vec<u64> {
        let mut order = Vec::new();
        while let Some(Command::Admit(next)) = self.leave(running, ms).first() {
            order.push(next.0);
            running = *next;
        }
        order
    }
}

#[test]
fn a_free_slot_is_given_at_once_and_a_taken_one_is_waited_for() {
    let mut desk = Desk::new(1, LIMITS);
    let (first, commands) = desk.arrive(entry(Priority::Ask, 1, 60), 0);
    assert_eq!(commands, [Command::Admit(first)]);
    let (second, commands) = desk.arrive(entry(Priority::Ask, 1, 60), 0);
    assert_eq!((commands, desk.queue.waiting()), (vec![], 1));
    assert_eq!(desk.leave(first, 5), [Command::Admit(second)]);
}

#[test]
fn tiers_come_first_then_deadlines() {
    let mut desk = Desk::new(1, LIMITS);
    let (first, _) = desk.arrive(entry(Priority::Ask, 1, 60), 0);
    for (priority, patience) in [
        (Priority::Background, 900),
        (Priority::Code, 120),
        (Priority::Architect, 300),
        (Priority::Code, 90),
        (Priority::Ask, 60),
        (Priority::Autocomplete, 5),
    ] {
        desk.arrive(entry(priority, 1, patience), 1);
    }
    assert_eq!(desk.order(first, 2), [6, 5, 4, 2, 3, 1]);
}

#[test]
fn of_completions_the_newest_goes_first() {
    let mut desk = Desk::new(1, LIMITS);
    let (first, _) = desk.arrive(entry(Priority::Ask, 1, 60), 0);
    for ms in 1..4 {
        desk.arrive(entry(Priority::Autocomplete, 1, 5), ms);
    }
    assert_eq!(desk.order(first, 5), [3, 2, 1]);
}

#[test]
fn a_newer_completion_of_a_session_ends_the_one_that_waits_and_the_one_that_runs() {
    let mut desk = Desk::new(1, LIMITS);
    let typing = |key| Entry { session: Some(7), ..entry(Priority::Autocomplete, key, 5) };
    let (running, _) = desk.arrive(typing(1), 0);
    let (waiting, commands) = desk.arrive(typing(1), 1);
    assert_eq!(commands, [Command::Supersede(running)]);
    let (_, commands) = desk.arrive(typing(1), 2);
    assert_eq!(commands, [Command::Supersede(waiting)], "the first one was told already");
    let (_, commands) = desk.arrive(typing(2), 3);
    assert_eq!(commands, [], "another key's session of the same name");
    let chat = Entry { session: Some(7), ..entry(Priority::Code, 1, 120) };
    assert_eq!(desk.arrive(chat, 4).1, [], "only completions replace each other");
}

#[test]
fn keys_with_less_running_go_first_within_a_tier() {
    let mut desk = Desk::new(2, LIMITS);
    let (first, _) = desk.arrive(entry(Priority::Code, 1, 120), 0);
    let (second, _) = desk.arrive(entry(Priority::Code, 1, 120), 0);
    for (key, patience) in [(1, 20), (1, 21), (2, 100)] {
        desk.arrive(entry(Priority::Code, key, patience), 1);
    }
    assert_eq!(desk.leave(first, 2), [Command::Admit(EntryId(4))], "of the other key, although less urgent");
    assert_eq!(desk.leave(second, 3), [Command::Admit(EntryId(2))]);
}

#[test]
fn who_would_wait_past_the_deadline_is_told_at_once() {
    let mut desk = Desk::new(1, LIMITS);
    let (first, _) = desk.arrive(entry(Priority::Ask, 1, 60), 0);
    let (second, _) = desk.arrive(entry(Priority::Ask, 1, 60), 0);
    assert_eq!(desk.leave(first, 10_000), [Command::Admit(second)]);
    // A slot is held for 10 s: one in front of it makes 20 s.
    let (_, commands) = desk.arrive(entry(Priority::Ask, 1, 60), 10_000);
    assert_eq!(commands, []);
    let (hasty, commands) = desk.arrive(entry(Priority::Ask, 1, 25), 10_000);
    assert_eq!(commands, [], "an earlier deadline goes first: 10 s");
    let (late, commands) = desk.arrive(entry(Priority::Code, 1, 35), 10_000);
    let (predicted, patience) = (Duration::from_secs(30), Duration::from_secs(25));
    assert_eq!(commands, [Command::Refuse(late, Refused::TooLate { position: 3, predicted, patience })]);
    assert!(desk.queue.standings(at(10_001)).iter().any(|(id, s)| *id == hasty && s.position == 1));
}

#[test]
fn an_expired_request_is_refused_and_never_dispatched() {
    let mut desk = Desk::new(1, LIMITS);
    let (first, _) = desk.arrive(entry(Priority::Ask, 1, 60), 0);
    let (late, _) = desk.arrive(entry(Priority::Ask, 1, 2), 0);
    assert_eq!(desk.queue.next_change(), Some(at(2_000)));
    let refused = Command::Refuse(late, Refused::Expired { waited: Duration::from_secs(2) });
    assert_eq!(desk.leave(first, 2_000), [refused]);
    assert!(desk.room.taken.is_empty());
    let (dead, commands) = desk.arrive(entry(Priority::Ask, 1, 1), 3_000);
    assert_eq!(commands, [Command::Refuse(dead, Refused::Expired { waited: Duration::ZERO })]);
}

#[test]
fn a_flood_of_one_tier_leaves_the_others_their_share_of_the_queue() {
    let mut desk = Desk::new(1, Limits { waiting: 16, ..LIMITS });
    desk.arrive(entry(Priority::Code, 1, 120), 0);
    for _ in 0..8 {
        assert_eq!(desk.arrive(entry(Priority::Code, 1, 120), 0).1, []);
    }
    let (ninth, commands) = desk.arrive(entry(Priority::Code, 1, 120), 0);
    assert_eq!(commands, [Command::Refuse(ninth, Refused::QueueFull { waiting: 8 })]);
    for priority in [Priority::Autocomplete, Priority::Ask, Priority::Architect, Priority::Background] {
        for _ in 0..2 {
            assert_eq!(desk.arrive(entry(priority, 1, 60), 0).1, [], "{priority:?}");
        }
    }
    let (one_more, commands) = desk.arrive(entry(Priority::Ask, 1, 60), 0);
    assert_eq!(commands, [Command::Refuse(one_more, Refused::QueueFull { waiting: 16 })]);
}

#[test]
fn bodies_that_wait_are_bounded_in_bytes() {
    let mut desk = Desk::new(1, LIMITS);
    desk.arrive(entry(Priority::Code, 1, 120), 0);
    desk.arrive(Entry { bytes: 300, ..entry(Priority::Code, 1, 120) }, 0);
    desk.arrive(Entry { bytes: 300, ..entry(Priority::Background, 1, 900) }, 0);
    let (huge, commands) = desk.arrive(Entry { bytes: 500, ..entry(Priority::Ask, 1, 60) }, 1);
    assert_eq!(commands, [Command::Refuse(huge, Refused::QueueFull { waiting: 2 })]);
    let (_, commands) = desk.arrive(Entry { bytes: 125, ..entry(Priority::Ask, 1, 60) }, 1);
    assert_eq!(commands, [], "within its tier's own share");
    let vast = Entry { bytes: u64::MAX, ..entry(Priority::Ask, 1, 60) };
    assert_eq!(desk.arrive(vast, 2).1.len(), 1);
}

#[test]
fn a_key_that_has_as_many_requests_as_it_may_gets_no_more_until_one_leaves() {
    let mut queue = Admission::new(Limits { per_key: 2, ..LIMITS });
    let put =
        |queue: &mut Admission, id, key| queue.arrive(EntryId(id), entry(Priority::Ask, key, 60), at(0));
    assert!(put(&mut queue, 1, 1).is_ok() && put(&mut queue, 2, 1).is_ok());
    assert_eq!(put(&mut queue, 3, 1), Err(Refused::KeyBusy { at_once: 2 }));
    assert!(put(&mut queue, 4, 2).is_ok(), "another key");
    queue.leave(EntryId(1), true, at(1));
    assert!(put(&mut queue, 5, 1).is_ok());
    assert_eq!(queue.here(), 3);
}

#[test]
fn an_engine_that_hung_does_not_have_those_refused_who_come_after_it() {
    let waits_after = |failed: bool| {
        let mut desk = Desk::new(1, LIMITS);
        let (hung, _) = desk.arrive(entry(Priority::Ask, 1, 60), 0);
        if failed {
            desk.queue.in_vain(hung);
        }
        desk.leave(hung, 70_000);
        desk.arrive(entry(Priority::Ask, 1, 140), 70_000);
        let (_, commands) = desk.arrive(entry(Priority::Ask, 1, 130), 70_000);
        commands.is_empty()
    };
    assert!(waits_after(true));
    assert!(!waits_after(false), "an answer that took 70 s tells that the next one may");
}

#[test]
fn what_is_held_is_looked_at_again_when_its_time_comes() {
    let mut desk = Desk::new(1, LIMITS);
    desk.room.held_until = Some(at(3_000));
    let (id, commands) = desk.arrive(entry(Priority::Code, 1, 120), 0);
    assert_eq!((commands, desk.queue.next_change()), (vec![], Some(at(3_000))));
    assert!(desk.queue.standings(at(0))[0].1.held);
    desk.room.held_until = None;
    assert_eq!(desk.queue.poll(at(3_000), &mut desk.room), [Command::Admit(id)]);
}

#[test]
fn a_request_whose_needs_have_changed_is_of_another_class_from_then_on() {
    let mut desk = Desk::new(1, Limits { waiting: 100, ..LIMITS });
    let (running, _) = desk.arrive(entry(Priority::Code, 1, 120), 0);
    let waiting: Vec<EntryId> = (0..6).map(|_| desk.arrive(entry(Priority::Code, 1, 120), 0).0).collect();
    // The first four need what nobody has: with the others in their class nobody behind them would be looked at.
    desk.room.lacks = waiting[..4].iter().copied().collect();
    assert_eq!(desk.leave(running, 1), [], "all of one class");
    desk.queue.reclassify(waiting[5], 2);
    assert_eq!(desk.queue.poll(at(2), &mut desk.room), [Command::Admit(waiting[5])]);
}

#[test]
fn who_goes_back_to_wait_for_a_load_keeps_its_key_and_its_age() {
    let mut desk = Desk::new(1, LIMITS);
    let (first, _) = desk.arrive(entry(Priority::Background, 1, 20), 0);
    desk.room.taken.remove(&first);
    desk.queue.leave(first, false, at(1_000));
    desk.queue.excuse(first, Duration::from_secs(20));
    assert_eq!((desk.queue.here(), desk.queue.waiting()), (1, 0));
    let (running, _) = desk.arrive(entry(Priority::Code, 1, 120), 29_000);
    assert_eq!(desk.queue.seek(first, at(29_999), &mut desk.room), []);
    assert_eq!(desk.leave(running, 29_999), [Command::Admit(first)]);
}

#[test]
fn under_a_flood_every_tier_gets_its_turn_and_who_would_come_too_late_is_told_at_once() {
    let mut desk = Desk::new(1, Limits { waiting: 1_000, per_key: 10_000, ..LIMITS });
    let (mut running, _) = desk.arrive(entry(Priority::Code, 1, 900), 0);
    // Ten seconds, ten requests a second of each of two tiers; one slot that is held for 100 ms.
    let (mut served, mut told) = ([0, 0], 0);
    let mut tiers = std::collections::BTreeMap::new();
    for tick in 0..400_u64 {
        let ms = tick * 100;
        for (which, tier) in [Priority::Ask, Priority::Code].into_iter().enumerate() {
            let mut asked = entry(tier, 1, 0);
            asked.deadline = at(ms + 10_000);
            asked.bytes = 0;
            let (id, commands) = desk.arrive(asked, ms);
            tiers.insert(id, which);
            told += usize::from(matches!(commands.as_slice(), [Command::Refuse(_, Refused::TooLate { .. })]));
        }
        if let Some(Command::Admit(next)) =
            desk.leave(running, ms + 99).into_iter().find(|command| matches!(command, Command::Admit(_)))
        {
            served[tiers[&next]] += 1;
            running = next;
        }
    }
    assert!(served[1] * 10 >= served[0], "asked and coded: {served:?}");
    assert!(served[0] > served[1] && served[0] + served[1] >= 390, "{served:?}");
    assert!(told > 200, "{told} of 800 were told at once");
}

#[test]
fn under_a_flood_of_more_urgent_requests_the_background_gets_its_turn() {
    let mut desk = Desk::new(1, Limits { waiting: 1_000, bytes: 100_000, per_key: 10_000 });
    let (mut running, _) = desk.arrive(entry(Priority::Ask, 1, 60), 0);
    let (background, _) = desk.arrive(entry(Priority::Background, 2, 900), 0);
    for second in 0.. {
        // Two come for each one that is served.
        for _ in 0..2 {
            desk.arrive(entry(Priority::Ask, 1, second + 60), second * 1_000);
        }
        let commands = desk.leave(running, second * 1_000 + 999);
        let admitted = commands.iter().find_map(|command| match command {
            Command::Admit(id) => Some(*id),
            Command::Refuse(..) | Command::NoNode(_) | Command::Supersede(_) => None,
        });
        running = admitted.expect("somebody waits");
        if running == background {
            break;
        }
        assert!(second < 80, "five tiers of 15 s");
    }
}

#[derive(Debug, Clone)]
enum Op {
    Come { priority: usize, key: u64, session: Option<u64>, patience_ms: u64, bytes: u64, class: u64 },
    Leave(usize),
    BackToLobby(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let come = (0..5usize, 0..3u64, proptest::option::of(0..2u64), 1..40_000u64, 0..400u64, 0..2u64);
    prop_oneof![
        4 => come.prop_map(|(priority, key, session, patience_ms, bytes, class)| {
            Op::Come { priority, key, session, patience_ms, bytes, class }
        }),
        3 => any::<usize>().prop_map(Op::Leave),
        1 => any::<usize>().prop_map(Op::BackToLobby),
        2 => (0..5_000u64).prop_map(Op::Pass),
    ]
}

proptest! {
    #[test]
    fn slots_and_bounds_hold_and_everybody_ends_once(slots in 1..4u32, ops in proptest::collection::vec(op(), 1..120)) {
        let limits = Limits { waiting: 8, bytes: 1_000, per_key: 6 };
        let (mut queue, mut room) = (Admission::new(limits), OneModel::new(slots));
        let (mut now, mut next) = (0, 0u64);
        // What became of each: admitted (again after the lobby), and ended or not.
        let mut ended: BTreeSet<EntryId> = BTreeSet::new();
        let mut here: BTreeMap<EntryId, Moment> = BTreeMap::new();
        for op in ops {
            let mut commands = Vec::new();
            match op {
                Op::Come { priority, key, session, patience_ms, bytes, class } => {
                    let id = EntryId(next);
                    next += 1;
                    let deadline = at(now + patience_ms);
                    let entry = Entry {
                        priority: Priority::ALL[priority], key, session, deadline, bytes, class,
                    };
                    if let Ok(more) = queue.arrive(id, entry, at(now)) {
                        here.insert(id, deadline);
                        commands.extend(more);
                        commands.extend(queue.seek(id, at(now), &mut room));
                    }
                }
                Op::Leave(which) => {
                    let runs: Vec<EntryId> = room.taken.iter().copied().collect();
                    if !runs.is_empty() {
                        let id = runs[which % runs.len()];
                        room.taken.remove(&id);
                        here.remove(&id);
                        queue.leave(id, true, at(now));
                    }
                    commands = queue.poll(at(now), &mut room);
                }
                Op::BackToLobby(which) => {
                    let runs: Vec<EntryId> = room.taken.iter().copied().filter(|id| !ended.contains(id)).collect();
                    if !runs.is_empty() {
                        let id = runs[which % runs.len()];
                        room.taken.remove(&id);
                        queue.leave(id, false, at(now));
                        commands = queue.seek(id, at(now), &mut room);
                    }
                    commands.extend(queue.poll(at(now), &mut room));
                }
                Op::Pass(ms) => {
                    now += ms;
                    commands = queue.poll(at(now), &mut room);
                }
            }
            for command in commands {
                match command {
                    Command::Admit(id) => {
                        prop_assert!(room.taken.contains(&id) && !ended.contains(&id));
                        prop_assert!(here[&id] > at(now), "dispatched after its deadline");
                    }
                    Command::Refuse(id, _) | Command::Supersede(id) | Command::NoNode(id) => {
                        prop_assert!(ended.insert(id), "{id:?} ended twice");
                        // What runs leaves later, when its caller has noticed.
                        if !room.taken.contains(&id) {
                            queue.leave(id, true, at(now));
                            here.remove(&id);
                        }
                    }
                }
            }
            prop_assert!(room.most <= slots as usize);
            prop_assert!(queue.waiting() <= limits.waiting);
            let bytes: u64 = queue.guests.values().filter(|g| g.waits()).map(|g| g.entry.bytes).sum();
            prop_assert!(bytes <= limits.bytes);
            prop_assert_eq!(queue.here(), here.len());
            // Slots are never left empty while somebody waits.
            prop_assert!(room.taken.len() == slots as usize || queue.waiting() == 0);
        }
        // With time everybody is gone: served, or refused at the deadline.
        while let Some(id) = room.taken.pop_first() {
            queue.leave(id, true, at(now));
            queue.poll(at(now), &mut room);
        }
        prop_assert_eq!(queue.waiting(), 0);
        prop_assert!(queue.keys.values().all(|key| key.running == 0));
    }

    #[test]
    fn within_a_tier_and_key_the_earliest_deadline_goes_first(
        patiences in proptest::collection::vec(100..1_000u64, 1..30)
    ) {
        let mut desk = Desk::new(1, Limits { waiting: 100, ..LIMITS });
        let (first, _) = desk.arrive(entry(Priority::Code, 1, 60), 0);
        for patience in &patiences {
            desk.arrive(entry(Priority::Code, 1, *patience), 0);
        }
        let order = desk.order(first, 1);
        let deadlines: Vec<u64> = order.iter().map(|id| patiences[*id as usize - 1]).collect();
        prop_assert_eq!(deadlines.len(), patiences.len());
        prop_assert!(deadlines.is_sorted());
    }
}
