//! What is remembered from step to step: what was sent and what became of it, what was refused, and how fast the mesh has
//! changed lately.
//!
//! ```text
//! sent ──a sign of it in the reports──► begun ──► done
//!   │                                     └─────► refused, in the machine's words: not again for a while
//!   └──no sign within 15 s──► lost: as if it had never been sent
//! ```

use super::{
    BEGINS_WITHIN, BUSY_PATIENCE, Pace, REFUSED_FOR, SETTLES_WITHIN, Step, answering, found, is_on_disk,
    loaded, model_of, requests,
};
use crate::fleet::{FleetView, MachineView};
use crate::health::Liveness;
use crate::id::{MachineId, ModelId};
use crate::machine::{Directive, LoadWish, Replica, ReplicaState, TransferState};
use crate::placement::Refused;
use crate::units::Moment;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

type Place = (MachineId, ModelId);

/// A model that a request had loaded leaves for the plan once nobody has asked it for this long: who talks to it each half
/// minute keeps it.
const GUEST_IDLE: Duration = Duration::from_secs(600);

/// What was sent and is not seen yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    at: Moment,
    /// The machine has shown that it began.
    begun: bool,
    /// Its file has come, and the store does not list it yet.
    came: bool,
    /// It was in memory when this was sent: a load of it is a change of its size.
    was_loaded: bool,
    /// Its machine said that it could not be loaded, or fetched, when this was sent: the same word again is no news.
    was_failed: bool,
    /// It takes a model from memory, and was counted as such.
    takes_away: bool,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Load(LoadWish),
    Unload,
    Fetch,
}

/// What became of a directive.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Waits,
    Done,
    /// Done, and it came up in another size than wished.
    Otherwise(String),
    Lost,
    Refused(String),
}

/// What is remembered from step to step. It is soft: after a restart the machines' reports say what is, and the worst that
/// a lost memory costs is one pause.
#[derive(Debug, Clone, Default)]
pub struct Course {
    /// How fast.
    pub pace: Pace,
    sent: BTreeMap<Place, Sent>,
    /// When a model was last taken from a machine's memory.
    emptied: BTreeMap<MachineId, Moment>,
    /// The same of all machines, within the window.
    recent: VecDeque<Moment>,
    /// When a model was told to leave lately: an engine that cannot unload it is not told so at each report.
    told: BTreeMap<Place, Moment>,
    /// Since when a model has been in memory, as far as was seen.
    resident: BTreeMap<Place, Moment>,
    /// When a model last came into a machine's memory, or left it.
    changed: BTreeMap<MachineId, Moment>,
    /// Since when a model that shall go or change has been busy without a pause.
    busy: BTreeMap<Place, Moment>,
    refused: BTreeMap<Place, (String, Moment)>,
    /// Wishes that were followed, and the model came up in another size all the same: the same wish would do nothing.
    otherwise: BTreeMap<Place, (LoadWish, String)>,
    /// The latest refusal of each machine that was heard, by the machine's own clock.
    heard: BTreeMap<MachineId, u64>,
    /// Machines on which a request has a model loaded, which one, and for how long at most the plan waits for that.
    on_demand: BTreeMap<MachineId, (ModelId, Moment)>,
    /// Models that requests had loaded: they stay while they are used.
    guests: BTreeSet<Place>,
}

impl Course {
    /// A course of its own pace.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self { pace, ..Self::default() }
    }

    /// Loads that machines refused lately, with their words.
    #[must_use]
    pub fn refused(&self) -> Refused {
        self.refused.iter().map(|(place, (why, _))| (place.clone(), why.clone())).collect()
    }

    /// When something may be possible that is not now, if nothing is heard until then.
    #[must_use]
    pub fn next_change(&self, now: Moment) -> Option<Moment> {
        let pauses = self.emptied.values().map(|at| at.plus(self.pace.machine_pause));
        let lost = self.sent.values().filter(|sent| !sent.begun).map(|sent| sent.at.plus(BEGINS_WITHIN));
        let told = self.told.values().map(|at| at.plus(BEGINS_WITHIN));
        let settled = self.changed.values().map(|at| at.plus(SETTLES_WITHIN));
        let forgiven = self.refused.values().map(|(_, at)| at.plus(REFUSED_FOR));
        let window = self.recent.front().map(|at| at.plus(self.pace.window));
        let patience = self.busy.values().map(|at| at.plus(BUSY_PATIENCE));
        let residence = self.resident.values().map(|at| at.plus(self.pace.residence));
        let all = pauses.chain(lost).chain(told).chain(settled).chain(forgiven).chain(window).chain(patience);
        let on_demand = self.on_demand.values().map(|(_, until)| *until);
        all.chain(residence).chain(on_demand).filter(|at| *at > now).min()
    }

    /// A request has `model` loaded on `machine`: until it is there, or `until`, the plan changes no memory of that machine.
    pub fn leave_to(&mut self, machine: MachineId, model: ModelId, until: Moment) {
        self.on_demand.insert(machine, (model, until));
    }

    /// The model that a request has loaded on `machine` now.
    #[must_use]
    pub fn left_to(&self, machine: &MachineId) -> Option<&ModelId> {
        self.on_demand.get(machine).map(|(model, _)| model)
    }

    /// Whether a request had this model loaded, and it has been used since `idle` allows.
    pub(super) fn is_used_guest(&self, place: &Place, idle: Option<Duration>) -> bool {
        self.guests.contains(place) && idle.is_some_and(|idle| idle < GUEST_IDLE)
    }

    pub(super) fn is_left(&self, machine: &MachineId) -> bool {
        self.on_demand.contains_key(machine)
    }

    /// A directive that could not be sent: it is as if it had not been made.
    pub fn not_sent(&mut self, step: &Step) {
        let Some(model) = model_of(&step.directive) else { return };
        let place = (step.machine.clone(), model.clone());
        if let Some(sent) = self.sent.remove(&place) {
            self.told.remove(&place);
            self.give_back(&step.machine, &sent);
        }
    }

    /// Takes in what all machines report. Before each plan, whether it is followed or not: what was sent ends, and what was
    /// refused is forgotten, all the same.
    pub fn look(&mut self, view: &FleetView, now: Moment) {
        self.refused.retain(|_, (_, at)| now.since(*at) < REFUSED_FOR);
        self.told.retain(|_, at| now.since(*at) < BEGINS_WITHIN);
        let guests = &mut self.guests;
        let state = |machine: &MachineId, model: &ModelId| {
            let replica = view.machine(machine).and_then(|machine| machine.replica(model));
            replica.map(|(_, replica)| replica.state.clone())
        };
        guests.retain(|(machine, model)| state(machine, model) == Some(ReplicaState::Loaded));
        self.on_demand.retain(|machine, (model, until)| match state(machine, model) {
            Some(ReplicaState::Loaded) => {
                guests.insert((machine.clone(), model.clone()));
                false
            }
            Some(ReplicaState::Loading) => true,
            Some(ReplicaState::Available | ReplicaState::Failed(_)) | None => *until > now,
        });
        self.changed.retain(|_, at| now.since(*at) < SETTLES_WITHIN);
        while self.recent.front().is_some_and(|at| now.since(*at) >= self.pace.window) {
            self.recent.pop_front();
        }
        let pause = self.pace.machine_pause;
        self.emptied.retain(|_, at| now.since(*at) < pause);
        for machine in &view.machines {
            self.hear(machine, now);
        }
        let mut ended: Vec<(Place, Sent, Fate)> = Vec::new();
        self.sent.retain(|place, sent| {
            let fate =
                view.machine(&place.0).map_or(Fate::Lost, |machine| sent.follow(machine, &place.1, now));
            let waits = fate == Fate::Waits;
            if !waits {
                ended.push((place.clone(), sent.clone(), fate));
            }
            waits
        });
        for (place, sent, fate) in ended {
            match (fate, sent.what.clone()) {
                (Fate::Lost, _) => self.give_back(&place.0, &sent),
                (Fate::Refused(why), _) => {
                    self.refused.insert(place, (why, now));
                }
                (Fate::Otherwise(why), What::Load(wish)) => {
                    self.otherwise.insert(place, (wish, why));
                }
                (Fate::Waits | Fate::Done | Fate::Otherwise(_), _) => {}
            }
        }
        let is_loaded = |(machine, model): &Place| {
            let replica = view.machine(machine).and_then(|machine| found(machine, model));
            replica.is_some_and(|(_, replica)| replica.state == ReplicaState::Loaded)
        };
        self.resident.retain(|place, _| {
            let stays = is_loaded(place);
            if !stays {
                self.changed.insert(place.0.clone(), now);
            }
            stays
        });
        self.busy.retain(|place, _| is_loaded(place));
        self.otherwise.retain(|place, _| is_loaded(place));
        for machine in &view.machines {
            if is_moving(machine) {
                self.changed.insert(machine.id.clone(), now);
            }
            for replica in loaded(machine) {
                self.resident.entry((machine.id.clone(), replica.model.clone())).or_insert_with(|| {
                    self.changed.insert(machine.id.clone(), now);
                    now
                });
            }
        }
    }

    /// The refusals of one machine that are new.
    fn hear(&mut self, machine: &MachineView, now: Moment) {
        let latest = machine.store.refusals.iter().map(|refusal| refusal.at_ms).max();
        let Some(latest) = latest else { return };
        // What a machine had refused before it was first heard was not refused to this router.
        let Some(heard) = self.heard.insert(machine.id.clone(), latest) else { return };
        for refusal in machine.store.refusals.iter().filter(|refusal| refusal.at_ms > heard) {
            let place = (machine.id.clone(), refusal.model.clone());
            if let Some(sent) = self.sent.remove(&place) {
                self.give_back(&machine.id, &sent);
                self.refused.insert(place, (refusal.reason.clone(), now));
            }
        }
    }

    /// What took nothing away after all does not count towards the pace.
    fn give_back(&mut self, machine: &MachineId, sent: &Sent) {
        if !sent.takes_away {
            return;
        }
        if self.emptied.get(machine) == Some(&sent.at) {
            self.emptied.remove(machine);
        }
        if let Some(at) = self.recent.iter().position(|at| *at == sent.at) {
            self.recent.remove(at);
        }
    }

    /// Since when the models of a machine that shall `leave` have been busy without a pause.
    pub(super) fn watch(
        &mut self,
        machine: &MachineView,
        leave: &dyn Fn(&Replica) -> bool,
        busy: &dyn Fn(&MachineId, &ModelId) -> u32,
        now: Moment,
    ) {
        // The last report of a machine that is silent says nothing of now.
        let is_heard = machine.liveness == Liveness::Alive;
        for replica in loaded(machine) {
            let place = (machine.id.clone(), replica.model.clone());
            if is_heard && leave(replica) && requests(machine, replica, busy) > 0 {
                self.busy.entry(place).or_insert(now);
            } else {
                self.busy.remove(&place);
            }
        }
    }

    pub(super) fn note(&mut self, step: &Step, machine: &MachineView, now: Moment) {
        let Some(model) = model_of(&step.directive) else { return };
        let place = (step.machine.clone(), model.clone());
        let what = match &step.directive {
            Directive::Load(wish) => What::Load(wish.clone()),
            Directive::Unload(_) => What::Unload,
            Directive::Pull(_) | Directive::CancelPull(_) | Directive::Delete(_) => What::Fetch,
        };
        let state = found(machine, model).map(|(_, replica)| &replica.state);
        let was_loaded = state == Some(&ReplicaState::Loaded);
        let was_failed = match &what {
            What::Load(_) => matches!(state, Some(ReplicaState::Failed(_))),
            What::Unload => false,
            What::Fetch => transfer(machine, model).is_some_and(TransferState::is_over),
        };
        let takes_away = match &what {
            What::Load(_) => was_loaded,
            What::Unload => true,
            What::Fetch => false,
        };
        if takes_away {
            self.emptied.insert(step.machine.clone(), now);
            self.recent.push_back(now);
        }
        if what == What::Unload {
            self.told.insert(place.clone(), now);
        }
        self.heard.entry(step.machine.clone()).or_insert(0);
        let sent = Sent { at: now, begun: false, came: false, was_loaded, was_failed, takes_away, what };
        self.sent.insert(place, sent);
    }

    /// Whether a model may be taken from this machine's memory now.
    pub(super) fn may_empty(&self, machine: &MachineId) -> bool {
        !self.emptied.contains_key(machine) && self.recent.len() < self.pace.budget
    }

    /// How long a model stays that has not been in memory for long enough.
    pub(super) fn stays_for(&self, place: &Place, now: Moment) -> Option<Duration> {
        let stayed = now.since(*self.resident.get(place)?);
        self.pace.residence.checked_sub(stayed).filter(|rest| !rest.is_zero())
    }

    /// How long a machine rests after a model has left it.
    pub(super) fn pauses_for(&self, machine: &MachineId, now: Moment) -> Option<Duration> {
        let since = now.since(*self.emptied.get(machine)?);
        Some(self.pace.machine_pause.saturating_sub(since))
    }

    /// How long the mesh rests after as many models have left as may.
    pub(super) fn is_spent_for(&self, now: Moment) -> Option<Duration> {
        let first = self.recent.front().filter(|_| self.recent.len() >= self.pace.budget)?;
        Some(self.pace.window.saturating_sub(now.since(*first)))
    }

    /// Whether what a machine says of its memory may not yet show a model that has just come or gone.
    pub(super) fn settles(&self, machine: &MachineId) -> bool {
        self.changed.contains_key(machine)
    }

    /// Whether a model has been in memory for long enough.
    pub(super) fn has_stayed(&self, place: &Place, now: Moment) -> bool {
        self.resident.get(place).is_none_or(|at| now.since(*at) >= self.pace.residence)
    }

    /// Whether a model is free, or has not been for so long that it is not waited for.
    pub(super) fn is_free(&self, place: &Place, now: Moment) -> bool {
        self.busy.get(place).is_none_or(|at| now.since(*at) >= BUSY_PATIENCE)
    }

    /// Whether a model was told to leave just now.
    pub(super) fn was_told(&self, place: &Place) -> bool {
        self.told.contains_key(place)
    }

    /// Whether a wish is not worth sending: it was refused lately, or followed before, and the model came up otherwise. That
    /// counts as a refusal, so that plans are made with the size that it has.
    pub(super) fn is_in_vain(&mut self, place: &Place, wish: &LoadWish, now: Moment) -> bool {
        let otherwise = self.otherwise.get(place).filter(|(followed, _)| followed == wish);
        if let Some((_, why)) = otherwise {
            self.refused.entry(place.clone()).or_insert((why.clone(), now));
        }
        self.refused.contains_key(place)
    }

    /// Whether a file may be sent for.
    pub(super) fn may_fetch(&self, place: &Place) -> bool {
        !self.sent.contains_key(place) && !self.refused.contains_key(place)
    }

    /// Whether a change of a machine's memory is under way that its reports do not show yet.
    pub(super) fn moves(&self, machine: &MachineId) -> bool {
        self.sent.iter().any(|((id, _), sent)| id == machine && sent.what != What::Fetch)
    }

    /// Files that a machine was sent for.
    pub(super) fn fetches<'a>(&'a self, machine: &'a MachineId) -> impl Iterator<Item = &'a ModelId> {
        let sent = self.sent.iter().filter(move |((id, _), sent)| id == machine && sent.what == What::Fetch);
        sent.map(|((_, model), _)| model)
    }
}

impl Sent {
    fn follow(&mut self, machine: &MachineView, model: &ModelId, now: Moment) -> Fate {
        let fate = match self.what.clone() {
            What::Load(wish) => self.follow_load(machine, &wish, now),
            What::Unload => {
                // A model that drains is shown as unloaded at once.
                let is_loaded =
                    found(machine, model).is_some_and(|(_, one)| one.state == ReplicaState::Loaded);
                if is_loaded { Fate::Waits } else { Fate::Done }
            }
            What::Fetch => self.follow_fetch(machine, model, now),
        };
        if fate == Fate::Waits && !self.begun && self.is_late(now) { Fate::Lost } else { fate }
    }

    fn is_late(&self, now: Moment) -> bool {
        now.since(self.at) >= BEGINS_WITHIN
    }

    /// Whether a failure that is shown is that of this directive.
    fn is_news(&self, now: Moment) -> bool {
        self.begun || !self.was_failed || self.is_late(now)
    }

    fn follow_load(&mut self, machine: &MachineView, wish: &LoadWish, now: Moment) -> Fate {
        let replica = found(machine, &wish.model).map(|(_, replica)| replica);
        match replica.map(|replica| (&replica.state, otherwise(replica, wish))) {
            Some((ReplicaState::Loading, _)) => {
                self.begun = true;
                Fate::Waits
            }
            Some((ReplicaState::Loaded, None)) => Fate::Done,
            Some((ReplicaState::Loaded, Some(why))) if self.begun || !self.was_loaded => Fate::Otherwise(why),
            Some((ReplicaState::Failed(why), _)) if self.is_news(now) => Fate::Refused(why.clone()),
            Some((ReplicaState::Available, _)) | None if self.begun => {
                Fate::Refused("the load ended without the model in memory".into())
            }
            Some((ReplicaState::Loaded | ReplicaState::Failed(_) | ReplicaState::Available, _)) | None => {
                Fate::Waits
            }
        }
    }

    fn follow_fetch(&mut self, machine: &MachineView, model: &ModelId, now: Moment) -> Fate {
        if is_on_disk(machine, model) {
            return Fate::Done;
        }
        match transfer(machine, model) {
            Some(TransferState::Waiting | TransferState::Running | TransferState::Verifying) => {
                self.begun = true;
                Fate::Waits
            }
            Some(TransferState::Done) => {
                if !self.came {
                    (self.came, self.begun, self.at) = (true, false, now);
                }
                Fate::Waits
            }
            Some(TransferState::Failed(why)) if self.is_news(now) => {
                Fate::Refused(format!("its file did not come: {why}"))
            }
            Some(TransferState::Cancelled) if self.is_news(now) => {
                Fate::Refused("the fetch of its file was cancelled there".into())
            }
            None if self.begun => Fate::Refused("its file did not come".into()),
            Some(TransferState::Failed(_) | TransferState::Cancelled) | None => Fate::Waits,
        }
    }
}

/// Where the fetch of a model's file is: the one under way before those that ended.
fn transfer<'a>(machine: &'a MachineView, model: &ModelId) -> Option<&'a TransferState> {
    let of_model = machine.store.transfers.iter().filter(|one| one.model == *model);
    of_model.map(|one| &one.state).min_by_key(|state| state.is_over())
}

/// In which other size than wished a model is loaded, as far as its engine tells.
fn otherwise(replica: &Replica, wish: &LoadWish) -> Option<String> {
    let other = |told: Option<u32>, wished: Option<u32>, what: &str| {
        let (told, wished) = told.zip(wished).filter(|(told, wished)| told != wished)?;
        Some(format!("it came up with {told} {what} instead of {wished}"))
    };
    other(replica.context, wish.context, "tokens of context")
        .or_else(|| other(replica.slots, wish.slots, "slots"))
        .or_else(|| {
            let (told, wished) = (replica.cache_type?.word(), wish.cache_type.as_ref()?);
            (told != wished).then(|| format!("it came up with a cache of {told} instead of {wished}"))
        })
}

/// Whether any model is on its way into memory, or out of it: one that drains is shown as unloaded while it still holds its
/// memory.
pub(super) fn is_moving(machine: &MachineView) -> bool {
    answering(machine).any(|(_, replica)| match replica.state {
        ReplicaState::Loading => true,
        ReplicaState::Available => replica.memory.is_some(),
        ReplicaState::Loaded | ReplicaState::Failed(_) => false,
    })
}
