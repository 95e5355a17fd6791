//! Where requests wait for a slot: the owner of the queue. Its rules are in `mesh_core::admission`.
//!
//! A request that finds a slot takes it in the caller's own task, under one short lock (and within it that of the
//! counts in flight): it pays for no hop. One task, [`WaitingRoom::keep`], looks after those that wait: it is woken
//! when a claim is dropped, when the fleet changes, and when a deadline passes.

use super::in_flight::{Claim, InFlight};
use super::wanted::Wanted;
use crate::fleet_keeper::{FleetHandle, Snapshot};
use crate::metrics::Metrics;
use mesh_core::admission::collation::Collation;
use mesh_core::admission::slot::{Choice, Fitness, choose};
use mesh_core::admission::{Admission, Command, Entry, EntryId, Found, Limits, Priority, Refused, Room};
use mesh_core::health::Liveness;
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::routing::{Candidate, Decision, Load, Refusal, Why, decide};
use mesh_core::units::Moment;
use mesh_daemon::clock::Clock;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Where a request stands before its first content, for whoever tells the client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Progress {
    /// Not decided yet.
    #[default]
    Deciding,
    /// It waits for a slot.
    Waiting {
        /// Its place among those that wait for the same, from 1. It may go back when more urgent ones come.
        position: usize,
        /// Since when.
        since: Moment,
        /// In words for a person.
        why: String,
    },
    /// Its model is being loaded.
    Loading {
        /// Where.
        node: MachineId,
        /// Which.
        model: ModelId,
        /// Since when.
        since: Moment,
    },
    /// It was sent to a node, and its first content is awaited.
    Sent {
        /// Where.
        node: MachineId,
        /// Which.
        model: ModelId,
    },
}

/// A way to tell where a request stands.
pub type Teller = Option<watch::Sender<Progress>>;

/// Why a request gets no slot.
#[derive(Debug)]
pub enum NoSlot {
    /// The queue does not take it, or gave it up.
    Refused(Refused),
    /// No node can serve it now.
    NoNode(Refusal),
    /// A newer request took its place.
    Superseded,
    /// The router is being stopped.
    Stopping,
}

/// What became of a look for a slot.
type Turn = Result<(Decision, Box<Claim>), NoSlot>;

/// The room. Clones share it.
#[derive(Clone)]
pub struct WaitingRoom {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Somebody waits who did not before.
    joined: Notify,
    in_flight: InFlight,
    fleet: FleetHandle,
    metrics: Metrics,
    clock: Clock,
}

struct State {
    queue: Admission,
    collation: Collation,
    parked: BTreeMap<EntryId, Parked>,
    /// Ends requests that a newer one may replace.
    enders: BTreeMap<EntryId, CancellationToken>,
    last_id: u64,
    closed: bool,
}

struct Parked {
    wanted: Arc<Wanted>,
    answer: oneshot::Sender<Turn>,
    teller: Teller,
}

impl WaitingRoom {
    /// An empty room. [`WaitingRoom::keep`] must run for anybody to be called who waits.
    #[must_use]
    pub fn new(
        limits: Limits,
        in_flight: InFlight,
        fleet: FleetHandle,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        let state = State {
            queue: Admission::new(limits),
            collation: Collation::default(),
            parked: BTreeMap::new(),
            enders: BTreeMap::new(),
            last_id: 0,
            closed: false,
        };
        let (state, joined) = (Mutex::new(state), Notify::new());
        Self { shared: Arc::new(Shared { state, joined, in_flight, fleet, metrics, clock }) }
    }

    /// A request came `now`. It counts for its key as long as the [`Stay`] lives.
    ///
    /// # Errors
    /// [`Refused::KeyBusy`].
    pub fn arrive(&self, entry: Entry, now: Moment) -> Result<Stay, Refused> {
        let may_be_replaced = entry.priority == Priority::Autocomplete && entry.session.is_some();
        let ended = may_be_replaced.then(CancellationToken::new);
        let mut state = self.shared.lock();
        state.last_id += 1;
        let id = EntryId(state.last_id);
        let commands = state.queue.arrive(id, entry, now)?;
        if let Some(ended) = &ended {
            state.enders.insert(id, ended.clone());
        }
        state.carry_out(commands, BTreeMap::new(), None);
        drop(state);
        Ok(Stay { shared: self.shared.clone(), id, ended, queued_us: AtomicU64::new(0) })
    }

    /// Requests that wait for a slot.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.lock().queue.waiting()
    }

    /// The same by mode; `None` = a model was asked for by name.
    #[must_use]
    pub fn waiting_by_mode(&self) -> BTreeMap<Option<ModeName>, u32> {
        let mut waiting = BTreeMap::new();
        for parked in self.shared.lock().parked.values() {
            *waiting.entry(parked.wanted.mode.clone()).or_default() += 1;
        }
        waiting
    }

    /// Requests that are here in any phase, waiting or running.
    #[must_use]
    pub fn here(&self) -> usize {
        self.shared.lock().queue.here()
    }

    /// Calls those that wait, until `stop`.
    pub async fn keep(self, stop: CancellationToken) {
        let mut snapshots = self.shared.fleet.snapshots();
        loop {
            let next = self.shared.lock().queue.next_change();
            let time_passes = async {
                match next {
                    Some(at) => self.shared.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let mut fleet_changed = false;
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.shared.in_flight.freed() => {}
                () = self.shared.joined.notified() => {}
                changed = snapshots.changed() => match changed {
                    Ok(()) => fleet_changed = true,
                    Err(_) => break,
                },
                () = time_passes => {}
            }
            let snapshot = snapshots.borrow_and_update().clone();
            self.shared.call(&snapshot, fleet_changed);
        }
        let mut state = self.shared.lock();
        state.closed = true;
        for (_, parked) in std::mem::take(&mut state.parked) {
            drop(parked.answer.send(Err(NoSlot::Stopping)));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever a panic interrupted, the queue itself is changed in whole steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets those that wait look for slots.
    fn call(&self, snapshot: &Snapshot, fleet_changed: bool) {
        let now = self.clock.now();
        let mut state = self.lock();
        if fleet_changed {
            state.collation.observe(&snapshot.view, now);
        }
        if state.queue.waiting() == 0 {
            return;
        }
        state.look(None, self, snapshot, now);
        state.tell(now);
        self.count(&state);
    }

    /// For what takes no slot: who can serve it now, whoever waits there.
    fn glance(&self, wanted: &Wanted) -> Turn {
        let (snapshot, request, now) = (self.fleet.snapshot(), wanted.request(), self.clock.now());
        let turn = self.in_flight.claim(
            now,
            wanted.trace(),
            |load| decide(&snapshot.view, load, &request, now, rand::random()),
            |decision| &decision.ranked[0],
        );
        turn.map_err(NoSlot::NoNode)
    }

    /// Tells how many wait, to people and to those whose end is waited for.
    fn count(&self, state: &State) {
        let waiting = state.queue.waiting();
        self.in_flight.await_claims(waiting > 0);
        self.metrics.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}

impl State {
    /// Looks for slots: for a newcomer and whoever goes before it, or for all. What became of the newcomer, if anything
    /// did: most find a slot here and are never parked.
    fn look(
        &mut self,
        newcomer: Option<(EntryId, &Wanted)>,
        shared: &Shared,
        snapshot: &Snapshot,
        now: Moment,
    ) -> Option<Turn> {
        let mut looking = Looking {
            shared,
            snapshot,
            collation: &self.collation,
            parked: &self.parked,
            newcomer,
            now,
            own: None,
            turns: BTreeMap::new(),
        };
        let id = newcomer.map(|(id, _)| id);
        let commands = match id {
            Some(id) => self.queue.seek(id, now, &mut looking),
            None => self.queue.poll(now, &mut looking),
        };
        let Looking { own, turns, .. } = looking;
        self.carry_out(commands, turns, id.map(|id| (id, own)))
    }

    fn carry_out(
        &mut self,
        commands: Vec<Command>,
        mut turns: BTreeMap<EntryId, Turn>,
        mut newcomer: Option<(EntryId, Option<Turn>)>,
    ) -> Option<Turn> {
        let mut newcomers = None;
        for command in commands {
            let (id, turn) = match command {
                Command::Admit(id) | Command::NoNode(id) => {
                    if let Some((newcomer, own)) = &mut newcomer
                        && *newcomer == id
                    {
                        newcomers = own.take();
                        continue;
                    }
                    let Some(turn) = turns.remove(&id) else { continue };
                    (id, turn)
                }
                Command::Refuse(id, refused) => (id, Err(NoSlot::Refused(refused))),
                Command::Supersede(id) => {
                    if let Some(ended) = self.enders.get(&id) {
                        ended.cancel();
                    }
                    (id, Err(NoSlot::Superseded))
                }
            };
            if newcomer.as_ref().is_some_and(|(newcomer, _)| *newcomer == id) {
                newcomers = Some(turn);
            } else if let Some(parked) = self.parked.remove(&id) {
                // Who has left meanwhile gives its slot back by not taking it.
                drop(parked.answer.send(turn));
            }
        }
        newcomers
    }

    fn tell(&self, now: Moment) {
        if self.parked.values().all(|parked| parked.teller.is_none()) {
            return;
        }
        for (id, standing) in self.queue.standings(now) {
            let Some(Parked { teller: Some(teller), .. }) = self.parked.get(&id) else { continue };
            let why = match (&standing.model, standing.held) {
                (Some(model), true) => format!("{model} is better waited for than what is free"),
                (Some(model), false) => format!("all slots of {model} are taken"),
                (None, _) => "others go first".into(),
            };
            let fresh = Progress::Waiting { position: standing.position, since: standing.since, why };
            teller.send_if_modified(|old| std::mem::replace(old, fresh.clone()) != fresh);
        }
    }
}

/// A look for slots at one moment.
struct Looking<'a> {
    shared: &'a Shared,
    snapshot: &'a Snapshot,
    collation: &'a Collation,
    parked: &'a BTreeMap<EntryId, Parked>,
    /// Is looked at before it is parked.
    newcomer: Option<(EntryId, &'a Wanted)>,
    now: Moment,
    /// What became of the newcomer.
    own: Option<Turn>,
    /// What became of the others.
    turns: BTreeMap<EntryId, Turn>,
}

enum Miss {
    NoNode(Refusal),
    Wait(Found),
}

impl Looking<'_> {
    fn fitness(&self, candidate: &Candidate, load: &Load, waited: Duration) -> Fitness {
        let Some(machine) = self.snapshot.view.machine(&candidate.machine) else { return Fitness::Doubtful };
        let resting = machine.history.get(&candidate.model).is_some_and(|history| history.resting.is_some());
        if resting || candidate.is_doubted || machine.liveness != Liveness::Alive {
            return Fitness::Doubtful;
        }
        self.collation
            .holds(machine, &candidate.model, load, waited, self.now)
            .map_or(Fitness::Fit, Fitness::Held)
    }

    fn decide(&self, wanted: &Wanted, load: &Load, waited: Duration) -> Result<Decision, Miss> {
        let mut decision = decide(&self.snapshot.view, load, &wanted.request(), self.now, rand::random())
            .map_err(Miss::NoNode)?;
        let choice = choose(&decision.ranked, waited, self.now, |c| self.fitness(c, load, waited));
        match choice {
            Some(Choice::At(0)) => Ok(decision),
            Some(Choice::At(at)) => {
                decision.ranked[..=at].rotate_right(1);
                decision.ranked[0].why = Why::FreeSlot;
                Ok(decision)
            }
            Some(Choice::Full { model, slots }) => Err(Miss::Wait(Found::Full { model, slots })),
            Some(Choice::Held { model, until }) => Err(Miss::Wait(Found::Held { model, until })),
            // A decision is never empty.
            None => {
                Err(Miss::NoNode(Refusal { rejected: decision.rejected, loading: false, returning: false }))
            }
        }
    }
}

impl Room for Looking<'_> {
    fn take(&mut self, id: EntryId, waited: Duration) -> Found {
        let newcomer = self.newcomer.filter(|(newcomer, _)| *newcomer == id).map(|(_, wanted)| wanted);
        let is_newcomer = newcomer.is_some();
        let parked = || self.parked.get(&id).map(|parked| &*parked.wanted);
        let Some(wanted) = newcomer.or_else(parked) else { return Found::Nobody };
        let taken = self.shared.in_flight.claim(
            self.now,
            wanted.trace(),
            |load| self.decide(wanted, load, waited),
            |decision| &decision.ranked[0],
        );
        let (found, turn) = match taken {
            Ok((decision, claim)) => (Found::Taken(decision.ranked[0].model.clone()), Ok((decision, claim))),
            Err(Miss::NoNode(refusal)) => (Found::Nobody, Err(NoSlot::NoNode(refusal))),
            Err(Miss::Wait(found)) => return found,
        };
        if is_newcomer {
            self.own = Some(turn);
        } else {
            self.turns.insert(id, turn);
        }
        found
    }
}

/// One request in the room, from its arrival to the end of its answer.
pub struct Stay {
    shared: Arc<Shared>,
    id: EntryId,
    ended: Option<CancellationToken>,
    queued_us: AtomicU64,
}

impl Stay {
    /// A slot, at once or after waiting for it. The future may be dropped; the place is given up with the [`Stay`].
    ///
    /// # Errors
    /// [`NoSlot`] says why there is none.
    pub async fn slot(&self, wanted: &Arc<Wanted>, teller: &Teller) -> Turn {
        if wanted.counts_only {
            if self.shared.lock().closed {
                return Err(NoSlot::Stopping);
            }
            return self.shared.glance(wanted);
        }
        let turn = {
            let snapshot = self.shared.fleet.snapshot();
            wanted.prepare(&snapshot.view);
            let class = wanted.class();
            let now = self.shared.clock.now();
            let mut state = self.shared.lock();
            if state.closed {
                return Err(NoSlot::Stopping);
            }
            if self.is_superseded() {
                return Err(NoSlot::Superseded);
            }
            state.queue.reclassify(self.id, class);
            if let Some(turn) = state.look(Some((self.id, wanted)), &self.shared, &snapshot, now) {
                self.shared.count(&state);
                return turn;
            }
            let (answer, turn) = oneshot::channel();
            state.parked.insert(self.id, Parked { wanted: wanted.clone(), answer, teller: teller.clone() });
            state.tell(now);
            self.shared.count(&state);
            turn
        };
        self.shared.joined.notify_one();
        let since = self.shared.clock.now();
        let turn = turn.await.unwrap_or(Err(NoSlot::Stopping));
        let waited = self.shared.clock.now().since(since);
        let waited_us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.queued_us.fetch_add(waited_us, Ordering::Relaxed);
        turn
    }

    /// The request waits for something else now, and its claim is dropped.
    pub fn step_aside(&self) {
        self.shared.lock().queue.leave(self.id, false, self.shared.clock.now());
    }

    /// It has failed: how long it held its slot predicts nothing.
    pub fn in_vain(&self) {
        self.shared.lock().queue.in_vain(self.id);
    }

    /// It was kept for `by` from looking for a slot, through no fault of its own.
    pub fn excuse(&self, by: Duration) {
        self.shared.lock().queue.excuse(self.id, by);
    }

    /// How long it has waited for slots.
    #[must_use]
    pub fn queued(&self) -> Duration {
        Duration::from_micros(self.queued_us.load(Ordering::Relaxed))
    }

    /// Cancelled when a newer request takes this one's place; `None` where that cannot be.
    #[must_use]
    pub fn ended(&self) -> Option<CancellationToken> {
        self.ended.clone()
    }

    /// Whether a newer request has taken this one's place.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.ended.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// Completes when a newer request has taken this one's place.
    pub async fn superseded(&self) {
        match &self.ended {
            Some(ended) => ended.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.queue.leave(self.id, true, self.shared.clock.now());
        let waited = state.parked.remove(&self.id).is_some();
        state.enders.remove(&self.id);
        if waited {
            self.shared.count(&state);
        }
        // Nobody's turn depends on this: a slot becomes free when the claim is dropped.
    }
}
