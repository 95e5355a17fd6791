//! Who waits for a slot, in which order, and who is told at once to come back later. A pure state machine: the shell
//! that owns it (`router/forward/waiting_room.rs`) says what time it is, lends it a [`Room`] to look for slots in,
//! and carries out the [`Command`]s that it returns.
//!
//! ```text
//! arrive ──► Lobby ──seek──┬─ a slot is free, nobody goes first ──► Running ──leave──► gone
//!              ▲           └─ else ──► Waiting ──poll──► Running
//!              └──seek again──────────────┴──► refused, superseded, or left
//! ```
//! Order: tier of the mode (less by one for each [`AGEING`] waited) → key with the fewest requests running, then the
//! one served longest ago → earliest deadline; within the autocomplete tier the newest first. One slot in eight goes by
//! turns of the tiers instead (`turns.rs`).

pub mod collation;
mod guest;
pub mod slot;
mod turns;
mod words;

pub use guest::AGEING;
pub use words::{Command, Entry, EntryId, Found, Limits, Priority, Refused, Room};

use crate::id::ModelId;
use crate::units::Moment;
use guest::{Guest, Phase, Urgency};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use turns::Turns;

/// Requests of one class (same models, same needs) that are tried in one poll after the first of them found no slot.
/// More would rarely find one: they need the same slots.
const TRIES_PER_CLASS: u32 = 4;

/// Each tier has this part of the queue to itself: no other tier's flood keeps it out, and nobody who was let in has to
/// leave for others. Five tiers of an eighth leave three eighths to whoever comes.
const SHARE: u64 = 8;

/// Models whose times are remembered; the one measured longest ago is forgotten first.
const MODELS_REMEMBERED: usize = 256;

/// Keys whose last turn is remembered although they have nothing here now.
const KEYS_REMEMBERED: usize = 1024;

/// Weight of a new measurement of how long a slot is held: about the last ten requests count.
const HOLD_WEIGHT: f64 = 0.2;

#[derive(Debug, Clone, Copy, Default)]
struct Key {
    here: usize,
    running: usize,
    last_turn: Moment,
}

/// Where a waiting request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its place among those that wait for the same model, from 1.
    pub position: usize,
    /// Since when it waits.
    pub since: Moment,
    /// For which model.
    pub model: Option<ModelId>,
    /// Something is free, but taking it would cost more time than waiting.
    pub held: bool,
}

/// The state machine.
#[derive(Debug, Clone)]
pub struct Admission {
    limits: Limits,
    guests: BTreeMap<EntryId, Guest>,
    /// Those of them that wait: few or none of all that run.
    line: BTreeSet<EntryId>,
    keys: BTreeMap<u64, Key>,
    /// Seconds that a slot of each model is held, and when that was last measured.
    holds: BTreeMap<ModelId, (f64, Moment)>,
    turns: Turns,
}

impl Admission {
    /// Nobody is here.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            guests: BTreeMap::new(),
            line: BTreeSet::new(),
            keys: BTreeMap::new(),
            holds: BTreeMap::new(),
            turns: Turns::default(),
        }
    }

    /// A request has come. It counts for its key until [`Admission::leave`]. A newer completion of a session ends
    /// the older ones of that session.
    ///
    /// # Errors
    /// [`Refused::KeyBusy`]; nothing is kept then.
    pub fn arrive(&mut self, id: EntryId, entry: Entry, now: Moment) -> Result<Vec<Command>, Refused> {
        let superseded = self.superseded_by(&entry);
        let here = self.keys.get(&entry.key).map_or(0, |key| key.here);
        // Those that it replaces are about to leave.
        if here.saturating_sub(superseded.len()) >= self.limits.per_key {
            return Err(Refused::KeyBusy { at_once: here });
        }
        self.keys.entry(entry.key).or_default().here += 1;
        self.guests.insert(id, Guest { entry, arrived: now, phase: Phase::Lobby, in_vain: false });
        Ok(superseded
            .into_iter()
            .map(|old| {
                self.change(old, Phase::Ended, now);
                Command::Supersede(old)
            })
            .collect())
    }

    /// What a request needs has become known, or has changed: its class is another one from its next look for a slot.
    pub fn reclassify(&mut self, id: EntryId, class: u64) {
        if let Some(guest) = self.guests.get_mut(&id) {
            guest.entry.class = class;
        }
    }

    /// A request that is here wants a slot now. It gets one, waits, or is refused; the commands may be about others
    /// too. What runs gives up its slot by this.
    pub fn seek(&mut self, id: EntryId, now: Moment, room: &mut impl Room) -> Vec<Command> {
        let Some(guest) = self.guests.get(&id) else { return Vec::new() };
        if guest.phase == Phase::Ended {
            return Vec::new();
        }
        let waited = now.since(guest.arrived);
        if guest.entry.deadline <= now {
            self.change(id, Phase::Ended, now);
            return vec![Command::Refuse(id, Refused::Expired { waited })];
        }
        let nobody_waits = self.line.is_empty();
        if nobody_waits {
            let found = room.take(id, waited);
            return self.found(id, found, now).map_or_else(|slots| self.join(id, slots, now), |c| vec![c]);
        }
        // Others wait: it takes its place among them, and all are looked at in their order.
        self.change(id, Phase::Waiting { since: now, model: None, held: None }, now);
        let (mut commands, slots) = self.look_for(Some(id), now, room);
        if self.guests.get(&id).is_some_and(Guest::waits) {
            commands.extend(self.join(id, slots, now));
        }
        commands
    }

    /// A slot may have become free, the fleet may have changed, or time has passed.
    pub fn poll(&mut self, now: Moment, room: &mut impl Room) -> Vec<Command> {
        self.look_for(None, now, room).0
    }

    /// A request has ended, or goes back to wait for something else than a slot (`gone` = false).
    pub fn leave(&mut self, id: EntryId, gone: bool, now: Moment) {
        self.change(id, Phase::Lobby, now);
        if !gone {
            return;
        }
        let Some(guest) = self.guests.remove(&id) else { return };
        if let Some(key) = self.keys.get_mut(&guest.entry.key) {
            key.here = key.here.saturating_sub(1);
        }
        self.forget_keys();
    }

    /// What holds a slot now has failed, or was at fault itself: the time until it leaves is not that of an answer. An engine
    /// that hung for a minute would else have everybody refused who comes in the next one.
    pub fn in_vain(&mut self, id: EntryId) {
        if let Some(guest) = self.guests.get_mut(&id) {
            guest.in_vain = true;
        }
    }

    /// A request was kept from a slot by something that is not its fault, a model that was being loaded: its deadline
    /// moves by that.
    pub fn excuse(&mut self, id: EntryId, by: Duration) {
        if let Some(guest) = self.guests.get_mut(&id) {
            guest.entry.deadline = guest.entry.deadline.plus(by);
        }
    }

    /// When something changes by time alone: a deadline, or the end of a hold.
    #[must_use]
    pub fn next_change(&self) -> Option<Moment> {
        self.waiters()
            .filter_map(|(_, guest)| match &guest.phase {
                Phase::Waiting { held, .. } => {
                    Some(held.map_or(guest.entry.deadline, |held| held.min(guest.entry.deadline)))
                }
                Phase::Lobby | Phase::Running { .. } | Phase::Ended => None,
            })
            .min()
    }

    /// Requests that wait for a slot.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.line.len()
    }

    /// Requests that are here in any phase.
    #[must_use]
    pub fn here(&self) -> usize {
        self.guests.len()
    }

    /// Where each waiting request stands, in the order in which they would go without regard to keys.
    #[must_use]
    pub fn standings(&self, now: Moment) -> Vec<(EntryId, Standing)> {
        let mut line: Vec<(&EntryId, &Guest)> = self.waiters().collect();
        line.sort_by_key(|(id, guest)| (guest.urgency(now), **id));
        let mut counts: BTreeMap<&Option<ModelId>, usize> = BTreeMap::new();
        line.into_iter()
            .filter_map(|(id, guest)| match &guest.phase {
                Phase::Waiting { since, model, held } => {
                    let position = counts.entry(model).or_default();
                    *position += 1;
                    let standing = Standing {
                        position: *position,
                        since: *since,
                        model: model.clone(),
                        held: held.is_some(),
                    };
                    Some((*id, standing))
                }
                Phase::Lobby | Phase::Running { .. } | Phase::Ended => None,
            })
            .collect()
    }

    /// Seconds that a slot of `model` is held by one request, once measured.
    #[must_use]
    pub fn hold(&self, model: &ModelId) -> Option<f64> {
        self.holds.get(model).map(|(seconds, _)| *seconds)
    }

    fn superseded_by(&self, newer: &Entry) -> Vec<EntryId> {
        if newer.priority != Priority::Autocomplete || newer.session.is_none() {
            return Vec::new();
        }
        let same = |guest: &Guest| {
            guest.phase != Phase::Ended
                && guest.entry.priority == Priority::Autocomplete
                && (guest.entry.key, guest.entry.session) == (newer.key, newer.session)
        };
        self.guests.iter().filter(|(_, guest)| same(guest)).map(|(id, _)| *id).collect()
    }

    /// Tries those that wait in their order. Of `newcomer`, the slots it could have are told if it found none.
    fn look_for(
        &mut self,
        newcomer: Option<EntryId>,
        now: Moment,
        room: &mut impl Room,
    ) -> (Vec<Command>, Option<u32>) {
        let mut commands = self.expire(now);
        let mut line: Vec<Waiter> = self
            .waiters()
            .map(|(id, guest)| Waiter {
                id: *id,
                urgency: guest.urgency(now),
                tier: guest.entry.priority,
                key: guest.entry.key,
                class: guest.entry.class,
                waited: now.since(guest.arrived),
            })
            .collect();
        let mut tries: BTreeMap<u64, Tried> = BTreeMap::new();
        let mut newcomers_slots = None;
        while let Some(at) = self.first_of(&line) {
            let Waiter { id, class, waited, .. } = line.swap_remove(at);
            let found = room.take(id, waited);
            let slots = match self.found(id, found, now) {
                Ok(command) => {
                    commands.push(command);
                    continue;
                }
                Err(slots) => slots,
            };
            if Some(id) == newcomer {
                newcomers_slots = slots;
            }
            let model = self.guests.get(&id).and_then(Guest::waits_for).cloned();
            let tried = tries.entry(class).or_insert(Tried { times: 0, slots, model });
            tried.times += 1;
            if tried.times < TRIES_PER_CLASS {
                continue;
            }
            // The rest of its class would find no slot either.
            if let Some(other) =
                newcomer.filter(|other| line.iter().any(|w| w.id == *other && w.class == class))
            {
                newcomers_slots = tried.slots;
                let (since, model) = (self.waiting_since(other, now), tried.model.clone());
                self.change(other, Phase::Waiting { since, model, held: None }, now);
            }
            line.retain(|waiter| waiter.class != class);
        }
        (commands, newcomers_slots)
    }

    /// The place in `line` of who goes first.
    fn first_of(&self, line: &[Waiter]) -> Option<usize> {
        let due = self.turns.due();
        let rank = |waiter: &Waiter| {
            let key = self.keys.get(&waiter.key).copied().unwrap_or_default();
            (
                due != Some(waiter.tier),
                waiter.urgency.tier,
                key.running,
                key.last_turn,
                waiter.urgency,
                waiter.id,
            )
        };
        line.iter().enumerate().min_by_key(|(_, waiter)| rank(waiter)).map(|(at, _)| at)
    }

    /// What a look for a slot means for a request: its command, or the slots it could have had.
    fn found(&mut self, id: EntryId, found: Found, now: Moment) -> Result<Command, Option<u32>> {
        match found {
            Found::Taken(model) => {
                self.change(id, Phase::Running { since: now, model }, now);
                Ok(Command::Admit(id))
            }
            Found::Nobody => {
                self.change(id, Phase::Lobby, now);
                Ok(Command::NoNode(id))
            }
            Found::Full { model, slots } => {
                let since = self.waiting_since(id, now);
                self.change(id, Phase::Waiting { since, model: Some(model), held: None }, now);
                Err(Some(slots))
            }
            Found::Held { model, until } => {
                let since = self.waiting_since(id, now);
                self.change(id, Phase::Waiting { since, model: Some(model), held: Some(until) }, now);
                Err(None)
            }
        }
    }

    fn waiters(&self) -> impl Iterator<Item = (&EntryId, &Guest)> {
        self.line.iter().filter_map(|id| self.guests.get_key_value(id))
    }

    fn waiting_since(&self, id: EntryId, now: Moment) -> Moment {
        match self.guests.get(&id).map(|guest| &guest.phase) {
            Some(Phase::Waiting { since, .. }) => *since,
            Some(Phase::Lobby | Phase::Running { .. } | Phase::Ended) | None => now,
        }
    }

    /// A newcomer stays in the queue, or is told at once that it would wait too long. `slots` are those that serve it,
    /// `None` when it waits for something else than a slot.
    fn join(&mut self, id: EntryId, slots: Option<u32>, now: Moment) -> Vec<Command> {
        let Some(guest) = self.guests.get(&id) else { return Vec::new() };
        let Some(model) = guest.waits_for() else { return self.keep_within_bounds(id, now) };
        let urgency = guest.urgency(now);
        let ahead = self
            .waiters()
            .filter(|(other, guest)| {
                **other != id && guest.waits_for() == Some(model) && guest.urgency(now) <= urgency
            })
            .count();
        if let (Some(slots), Some(hold)) = (slots, self.hold(model)) {
            let tier = guest.entry.priority;
            let mut seconds = (ahead + 1) as f64 * hold / f64::from(slots.max(1));
            // Those that are still to come and more urgent show in how fast the tier gets on. Of completions the newest
            // goes first, so that says nothing.
            if tier != Priority::Autocomplete {
                let ahead = self
                    .waiters()
                    .filter(|(other, guest)| {
                        **other != id && guest.entry.priority == tier && guest.urgency(now) <= urgency
                    })
                    .count();
                seconds = seconds.max(self.turns.predicted(tier, ahead).unwrap_or_default());
            }
            // A day is for ever here; larger numbers would only overflow.
            let predicted = Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0));
            let patience = guest.entry.deadline.since(now);
            if predicted > patience {
                self.change(id, Phase::Ended, now);
                return vec![Command::Refuse(
                    id,
                    Refused::TooLate { position: ahead + 1, predicted, patience },
                )];
            }
        }
        self.keep_within_bounds(id, now)
    }

    /// A newcomer stays if the queue's bounds allow it, with the shares of the other tiers kept free for them.
    fn keep_within_bounds(&mut self, id: EntryId, now: Moment) -> Vec<Command> {
        let Some(newcomer) = self.guests.get(&id) else { return Vec::new() };
        let tier = newcomer.entry.priority;
        let (mut counts, mut bytes) = ([0; Priority::ALL.len()], [0; Priority::ALL.len()]);
        for (_, guest) in self.waiters() {
            counts[guest.entry.priority as usize] += 1;
            let sum = &mut bytes[guest.entry.priority as usize];
            *sum = u64::saturating_add(*sum, guest.entry.bytes);
        }
        if fits(self.limits.waiting as u64, &counts, tier) && fits(self.limits.bytes, &bytes, tier) {
            return Vec::new();
        }
        let waiting = self.waiting() - 1;
        self.change(id, Phase::Ended, now);
        vec![Command::Refuse(id, Refused::QueueFull { waiting })]
    }

    fn expire(&mut self, now: Moment) -> Vec<Command> {
        let late: Vec<(EntryId, Duration)> = self
            .waiters()
            .filter(|(_, guest)| guest.entry.deadline <= now)
            .map(|(id, guest)| (*id, now.since(guest.arrived)))
            .collect();
        late.into_iter()
            .map(|(id, waited)| {
                self.change(id, Phase::Ended, now);
                Command::Refuse(id, Refused::Expired { waited })
            })
            .collect()
    }

    /// The only place where a phase changes: counts of keys and times of slots follow from it.
    fn change(&mut self, id: EntryId, to: Phase, now: Moment) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let from = std::mem::replace(&mut guest.phase, to.clone());
        let (tier, in_vain) = (guest.entry.priority, guest.in_vain);
        if guest.waits() {
            if self.line.insert(id) {
                self.turns.joined(tier);
            }
        } else if self.line.remove(&id) {
            self.turns.left(tier, matches!(to, Phase::Running { .. }), now);
        }
        let key = self.keys.entry(guest.entry.key).or_default();
        if let Phase::Running { since, model } = &from {
            key.running = key.running.saturating_sub(1);
            if !in_vain {
                let seconds = now.since(*since).as_secs_f64();
                let hold = self.holds.entry(model.clone()).or_insert((seconds, now));
                *hold = (hold.0 + HOLD_WEIGHT * (seconds - hold.0), now);
            }
        }
        if matches!(to, Phase::Running { .. }) {
            key.running += 1;
            key.last_turn = now;
        }
        while self.holds.len() > MODELS_REMEMBERED {
            let oldest = self.holds.iter().min_by_key(|(_, (_, at))| *at).map(|(model, _)| model.clone());
            let Some(oldest) = oldest else { break };
            self.holds.remove(&oldest);
        }
    }

    fn forget_keys(&mut self) {
        while self.keys.len() > KEYS_REMEMBERED {
            let idle = self.keys.iter().filter(|(_, key)| key.here == 0);
            let Some(oldest) = idle.min_by_key(|(_, key)| key.last_turn).map(|(key, _)| *key) else { break };
            self.keys.remove(&oldest);
        }
    }
}

/// Whether `used` of each tier, with the newest of `tier`, is within `limit`.
fn fits(limit: u64, used: &[u64; Priority::ALL.len()], tier: Priority) -> bool {
    let share = limit / SHARE;
    let kept = |at: usize| if at == tier as usize { 0 } else { share.saturating_sub(used[at]) };
    let reserved: u64 = (0..used.len()).map(kept).sum();
    let total = used.iter().fold(0_u64, |sum, used| sum.saturating_add(*used));
    // Whoever is within its own share always passes: the others were let in with that share kept free.
    total.saturating_add(reserved) <= limit
}

/// One of those that wait, at the moment of a look for slots.
struct Waiter {
    id: EntryId,
    tier: Priority,
    urgency: Urgency,
    key: u64,
    class: u64,
    waited: Duration,
}

/// What came of looking for slots for a class in one poll.
struct Tried {
    times: u32,
    slots: Option<u32>,
    model: Option<ModelId>,
}

#[cfg(test)]
mod tests;
