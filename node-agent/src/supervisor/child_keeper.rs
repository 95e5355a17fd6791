//! Keeps one engine that the agent starts: admits it, starts it, watches it, starts it again, stops it.
//!
//! ```text
//!             ┌───────────────────── Load ─────────────────────┐
//!             ▼                                                │
//! start ► Admission ─fits─► Starting ─says where─► Serving ─Unload─► Resting ◄─ stored models begin here
//!             │                 ▲  │                   │               ▲
//!             │ does not fit    │  └─────ends──────────┤               │
//!             │                 └──pause 1 s … 60 s──Broken            │
//!             └────────── Failed, with the numbers ────────────────────┘ (configured ones try again)
//! ```

use super::endpoint_keeper::look;
use super::hearing::{DEAF_LIMIT, Heard, Hearing};
use super::launch::{Berth, Berthed, Planned, measure};
use super::lease::LeaseCount;
use super::load_facts::LoadFacts;
use super::refusals::Refusals;
use super::rests::Rests;
use super::roster::{Order, Roster};
use super::{RETRY_AFTER, backoff::Backoff};
use crate::engine::bundled::BUILD;
use crate::engine::child::Child;
use crate::engine::{Engine as _, Held, Observation, Program, Sizing};
use crate::profile::ProfileHandle;
use crate::reservation::{Ledger, Reservation};
use futures_util::future::{BoxFuture, OptionFuture};
use mesh_core::fit::Offload;
use mesh_core::machine::{Capabilities, EngineState, LoadWish, ReplicaState};
use mesh_core::memory::CacheType;
use mesh_core::units::human_duration;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a child may take until it says where it listens: a hundred gigabytes from a slow disk.
const READY_WITHIN: Duration = Duration::from_secs(30 * 60);

pub(super) struct ChildKeeper {
    pub(super) name: String,
    pub(super) berth: Berth,
    /// Begins by waiting for a wish, and waits for one after each failure to start.
    pub(super) rests: bool,
    pub(super) roster: Arc<Roster>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) ledger: Ledger,
    pub(super) profile: ProfileHandle,
    pub(super) refusals: Refusals,
    /// The model is to be deleted: unload it once its requests are answered, and end.
    pub(super) retire: CancellationToken,
    pub(super) stop: CancellationToken,
    /// Its engine's version, once it has said it.
    pub(super) version: Option<String>,
    /// Wishes that failed.
    pub(super) resting: Rests,
    /// How it was started last, until it is unloaded or another wish is followed: shown beside its failure, so that whoever
    /// puts it back knows its sizes.
    pub(super) last: Option<Planned>,
}

/// How one life of the process ended.
enum LifeEnd {
    /// The agent stops, or the model is deleted.
    Stopped,
    /// It was told to unload.
    Unloaded,
    /// It was told to load in another way.
    Again(LoadWish),
    /// It was never started, and why.
    Refused(String),
    /// By itself, and why. `healthy` is for how long it had served.
    Broke { why: String, healthy: Duration },
}

/// Why a loaded model drains.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Draining {
    Unload,
    Again(LoadWish),
    Retire,
}

/// The reservation back, and what was learned.
type Settled = (Reservation, LoadFacts);

impl ChildKeeper {
    /// Runs until stopped or retired; the process and the row are gone afterwards.
    pub(super) async fn run(mut self) {
        self.keep().await;
        self.roster.remove(&self.name);
    }

    async fn keep(&mut self) {
        self.roster.change(&self.name, |row| row.can(self.capabilities(Capabilities::default())));
        let mut backoff = Backoff::default();
        let mut ever_served = true;
        let mut wish = LoadWish::from(self.berth.alias.clone());
        if self.rests {
            self.show(EngineState::Up, ReplicaState::Available);
            match self.rest().await {
                Some(wished) => wish = wished,
                None => return,
            }
        }
        loop {
            // A child that never came up stays shown as failed while it is tried again.
            if ever_served {
                self.show(EngineState::Starting, ReplicaState::Loading);
            }
            match self.live(&wish).await {
                LifeEnd::Stopped => return,
                LifeEnd::Again(wished) => {
                    self.last = None;
                    wish = wished;
                    ever_served = true;
                    continue;
                }
                LifeEnd::Unloaded => {
                    self.resting.forget();
                    tracing::info!(engine = self.name, model = %self.berth.alias, "unloaded: its process was stopped");
                    self.show_unloaded();
                }
                // Nobody waits for a stored model that could not be loaded but who wished it, and wishes again.
                LifeEnd::Refused(why) if self.rests => {
                    self.resting.refused(wish.clone());
                    self.give_up(why);
                }
                LifeEnd::Broke { why, healthy: Duration::ZERO } if self.rests => {
                    self.resting.broke(wish.clone(), why.clone());
                    self.give_up(why);
                }
                LifeEnd::Refused(why) => {
                    match self.fail(why, backoff.after(Duration::ZERO), "could not be loaded").await {
                        Next::Stop => return,
                        Next::Start { shown } => {
                            ever_served = shown;
                            continue;
                        }
                        Next::Rest => self.show_unloaded(),
                    }
                }
                LifeEnd::Broke { why, healthy } => {
                    match self.fail(why, backoff.after(healthy), "engine ended").await {
                        Next::Stop => return,
                        Next::Start { shown } => {
                            ever_served = shown || healthy > Duration::ZERO;
                            continue;
                        }
                        Next::Rest => self.show_unloaded(),
                    }
                }
            }
            backoff = Backoff::default();
            ever_served = true;
            match self.rest().await {
                Some(wished) => {
                    if wished != wish {
                        self.last = None;
                    }
                    wish = wished;
                }
                None => return,
            }
        }
    }

    fn give_up(&self, why: String) {
        tracing::warn!(engine = self.name, model = %self.berth.alias, %why, "could not be loaded");
        self.show(EngineState::Up, ReplicaState::Failed(why));
    }

    async fn fail(&mut self, why: String, pause: Duration, what: &str) -> Next {
        tracing::warn!(
            engine = self.name, model = %self.berth.alias, %why,
            "{what}; starting it again in {}", human_duration(pause)
        );
        self.show(EngineState::Down(why.clone()), ReplicaState::Failed(why));
        self.pause(pause).await
    }

    /// Admits and starts the process and stays with it to its end. It is gone when this returns.
    async fn live(&mut self, wish: &LoadWish) -> LifeEnd {
        let holders = self.roster.holders();
        self.refusals.forget(&self.berth.alias);
        // What was wished meanwhile: looked at when this load is measured.
        let mut waiting: Option<LoadWish> = None;
        let berthed = {
            let version = self.version.clone();
            let admission = self.berth.take(wish, &self.ledger, &holders, &self.profile, version.as_deref());
            tokio::pin!(admission);
            loop {
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return LifeEnd::Stopped,
                    () = self.retire.cancelled() => return LifeEnd::Stopped,
                    Some(order) = self.orders.recv() => match order {
                        Order::Unload(_) => return LifeEnd::Unloaded,
                        Order::Load(wish) => waiting = Some(wish),
                        Order::Pull(_) | Order::CancelPull(_) | Order::Delete(_) => {}
                    },
                    berthed = &mut admission => break berthed,
                }
            }
        };
        let Berthed { spec, reservation, planned } = match berthed {
            Ok(berthed) => berthed,
            Err(error) => return LifeEnd::Refused(error.to_string()),
        };
        self.last = Some(planned.clone());
        self.show(EngineState::Starting, ReplicaState::Loading);
        // The reservation outlives the process: its bytes are given back when that is gone.
        let broke = |why: String| LifeEnd::Broke { why, healthy: Duration::ZERO };
        let mut child = match Child::start(&spec).await {
            Ok(child) => child,
            Err(error) => return broke(error.to_string()),
        };
        let deadline = tokio::time::sleep(READY_WITHIN);
        let listening = child.listening();
        tokio::pin!(deadline, listening);
        let mut engine = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    child.stop().await;
                    return LifeEnd::Stopped;
                }
                () = self.retire.cancelled() => {
                    child.stop().await;
                    return LifeEnd::Stopped;
                }
                Some(order) = self.orders.recv() => match order {
                    Order::Unload(_) => {
                        child.stop().await;
                        return LifeEnd::Unloaded;
                    }
                    Order::Load(wish) => waiting = Some(wish),
                    Order::Pull(_) | Order::CancelPull(_) | Order::Delete(_) => {}
                },
                engine = &mut listening => match engine {
                    Ok(engine) => break engine,
                    Err(error) => {
                        child.stop().await;
                        return broke(error.to_string());
                    }
                },
                why = child.ended() => return broke(why),
                () = &mut deadline => {
                    child.stop().await;
                    return broke(format!("was not ready within {}", human_duration(READY_WITHIN)));
                }
            }
        };
        let capabilities = self.capabilities(engine.capabilities());
        self.roster.change(&self.name, |row| {
            row.answers_at(engine.base_url(), engine.api_key());
            row.can(capabilities);
        });
        let waiting = waiting.filter(|wish| !planned.satisfies(wish));
        self.serve(child, &mut engine, reservation, &planned, waiting).await
    }

    /// `waiting` is a wish for another size, until the present one is measured.
    async fn serve(
        &mut self,
        mut child: Child,
        engine: &mut crate::engine::llama_server::LlamaServer,
        reservation: Reservation,
        planned: &Planned,
        mut waiting: Option<LoadWish>,
    ) -> LifeEnd {
        let mut next_look = Instant::now();
        let mut served_since = None;
        let mut hearing = Hearing::begin();
        // Resolves when an ordered unload may happen; `None` while none is ordered.
        let mut drained: OptionFuture<BoxFuture<'static, ()>> = None.into();
        let mut draining: Option<Draining> = None;
        // Measures once it serves; has the reservation meanwhile.
        let mut reservation = Some(reservation);
        let mut settling: OptionFuture<BoxFuture<'static, Settled>> = None.into();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    self.show(EngineState::Down("the agent is stopping".into()), ReplicaState::Available);
                    child.stop().await;
                    return LifeEnd::Stopped;
                }
                why = child.ended() => {
                    self.show(EngineState::Down(why.clone()), ReplicaState::Failed(why.clone()));
                    self.roster.change(&self.name, |row| row.undrain(&self.berth.alias));
                    let healthy = served_since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
                    // Told to go anyway.
                    return match draining {
                        Some(draining) => draining.end(),
                        None => LifeEnd::Broke { why, healthy },
                    };
                }
                Some(()) = &mut drained, if draining.is_some() => {
                    child.stop().await;
                    // Before leases are given again, or one would be given to nobody.
                    self.show_unloaded();
                    self.roster.change(&self.name, |row| row.undrain(&self.berth.alias));
                    return draining.map_or(LifeEnd::Unloaded, Draining::end);
                }
                () = self.retire.cancelled(), if draining != Some(Draining::Retire) => {
                    drained = Some(self.drain()).into();
                    draining = Some(Draining::Retire);
                }
                Some(order) = self.orders.recv() => match (order, &draining) {
                    // A model that is being deleted is not loaded any more.
                    (_, Some(Draining::Retire)) | (Order::Unload(_), Some(Draining::Unload)) => {}
                    (Order::Load(wish), _) if planned.satisfies(&wish) => {
                        self.refusals.forget(&self.berth.alias);
                        waiting = None;
                        if draining.is_some() {
                            (draining, drained) = (None, None.into());
                            self.roster.change(&self.name, |row| row.undrain(&self.berth.alias));
                        }
                    }
                    // Nobody knows yet what would be given back.
                    (Order::Load(wish), _) if reservation.is_none() => waiting = Some(wish),
                    (Order::Load(wish), _) => if self.may_change(&wish).await {
                        if draining.is_none() {
                            drained = Some(self.drain()).into();
                        }
                        draining = Some(Draining::Again(wish));
                    },
                    (Order::Unload(_), Some(Draining::Again(_))) => draining = Some(Draining::Unload),
                    (Order::Unload(_), None) => {
                        self.refusals.forget(&self.berth.alias);
                        waiting = None;
                        drained = Some(self.drain()).into();
                        draining = Some(Draining::Unload);
                    }
                    // Its file is the store's business.
                    (Order::Pull(_) | Order::CancelPull(_) | Order::Delete(_), _) => {}
                },
                Some((settled, facts)) = &mut settling => {
                    settling = None.into();
                    settled.holds(mesh_core::fit::Demand { device: facts.memory.device, host: facts.memory.host });
                    reservation = Some(settled);
                    self.roster.change(&self.name, |row| row.learn(&self.berth.alias, facts));
                    if let Some(wish) = waiting.take() && draining.is_none() && self.may_change(&wish).await {
                        drained = Some(self.drain()).into();
                        draining = Some(Draining::Again(wish));
                    }
                }
                () = tokio::time::sleep_until(next_look) => {
                    self.refusals.tidy();
                    let seen = tokio::select! {
                        biased;
                        (seen, next) = look(engine) => {
                            next_look = next;
                            seen
                        }
                        () = self.stop.cancelled() => continue,
                    };
                    if self.hear(hearing.take(&seen.state)) {
                        child.stop().await;
                        let healthy = served_since.map_or(Duration::ZERO, |since| since.elapsed());
                        let why = format!("answered nothing for {}", human_duration(DEAF_LIMIT));
                        return LifeEnd::Broke { why, healthy };
                    }
                    let mut seen = seen;
                    if self.berth.program == Program::Bundled && seen.state == EngineState::Up {
                        seen.version.get_or_insert_with(|| BUILD.to_owned());
                    }
                    let first = seen.state == EngineState::Up && served_since.is_none();
                    self.version = seen.version.clone().or(self.version.take());
                    self.publish(seen, planned);
                    if first {
                        served_since = Some(Instant::now());
                        child.serves();
                        tracing::info!(engine = self.name, model = %self.berth.alias, "loaded");
                        settling = reservation.take().map(|kept| self.settle(kept, &child, planned.clone())).into();
                    }
                }
            }
        }
    }

    /// Says what has changed; returns whether it is to be started again.
    fn hear(&self, heard: Heard) -> bool {
        match &heard {
            Heard::Silent(why) => {
                let limit = human_duration(DEAF_LIMIT);
                tracing::warn!(engine = self.name, %why, "does not answer; is started again after {limit} of that");
            }
            Heard::Again(silence) => {
                tracing::info!(engine = self.name, silence = human_duration(*silence), "answers again");
            }
            Heard::Nothing | Heard::Hung => {}
        }
        heard == Heard::Hung
    }

    /// Measures what the load took.
    fn settle(
        &self,
        mut reservation: Reservation,
        child: &Child,
        planned: Planned,
    ) -> BoxFuture<'static, Settled> {
        let (ledger, profile) = (self.ledger.clone(), self.profile.clone());
        let (pid, said, version) = (child.pid(), child.said(), self.version.clone());
        Box::pin(async move {
            let shrunk = reservation.settle().await;
            let version = version.or_else(|| said.version.clone());
            let facts = measure(&planned, shrunk, pid, &said, &ledger, &profile, version.as_deref()).await;
            (reservation, facts)
        })
    }

    /// Whether the loaded model is given up for another size of it: only when that fits. Else it is told why not.
    async fn may_change(&self, wish: &LoadWish) -> bool {
        let alias = &self.berth.alias;
        let refused = if !self.berth.flexible {
            format!("it is started with the sizes of its configuration, engines.{}", self.name)
        } else if let Some(why) = self.resting.why(wish) {
            format!("its engine has just broken with these sizes: {why}")
        } else if let Some(own) = self.roster.memory_of(&self.name, alias) {
            match self.berth.would_fit(wish, &self.ledger, own, &self.profile).await {
                Ok(()) => {
                    self.refusals.forget(alias);
                    return true;
                }
                Err(error) => error.to_string(),
            }
        } else {
            "what it holds now is not known".to_owned()
        };
        self.refusals.refuse(alias, format!("stays as it is loaded: {refused}"));
        false
    }

    /// What the engine can, and what its keeper does for it.
    fn capabilities(&self, engine: Capabilities) -> Capabilities {
        Capabilities { can_load: true, can_unload: true, can_size: self.berth.flexible, ..engine }
    }

    fn drain(&self) -> BoxFuture<'static, ()> {
        wait(self.roster.change(&self.name, |row| row.drain(&self.berth.alias)))
    }

    /// Shows what the process said; what it did not say is known from its configuration.
    fn publish(&self, mut seen: Observation, planned: &Planned) {
        match seen.state {
            EngineState::Up => {
                for held in &mut seen.held {
                    held.replica.digest = self.berth.digest();
                    held.replica.cache_type = Some(planned.sizing.cache);
                    held.replica.offload = Some(planned.key.options.offload);
                }
                self.roster.change(&self.name, |row| row.show(seen));
            }
            EngineState::Starting => self.show(EngineState::Starting, ReplicaState::Loading),
            EngineState::Down(why) => {
                let why = format!("{why}, and is started again after {} of that", human_duration(DEAF_LIMIT));
                self.roster.change(&self.name, |row| row.state(EngineState::Down(why)));
            }
        }
    }

    /// Shows the one model of this child as it was started last, else as its configuration has it.
    fn show(&self, state: EngineState, replica: ReplicaState) {
        let Some(Planned { sizing, key, .. }) = &self.last else {
            return self.show_with(state, replica, self.berth.slots, self.berth.context, (None, None));
        };
        let Sizing { slots, context, cache, .. } = *sizing;
        self.show_with(state, replica, slots, context, (Some(cache), Some(key.options.offload)));
    }

    /// Shows that it is on disk only: nobody knows in which sizes it will be loaded.
    fn show_unloaded(&mut self) {
        self.last = None;
        self.show(EngineState::Up, ReplicaState::Available);
    }

    fn show_with(
        &self,
        state: EngineState,
        replica: ReplicaState,
        slots: u32,
        context: u32,
        (cache, offload): (Option<CacheType>, Option<Offload>),
    ) {
        let Ok(mut held) = Held::new(self.berth.alias.as_str(), replica) else { return };
        let embedding = self.berth.embedding();
        held.replica.slots = Some(slots);
        held.replica.context = Some(context);
        held.replica.cache_type = cache;
        held.replica.offload = offload;
        held.replica.size = self.berth.size();
        held.replica.digest = self.berth.digest();
        held.replica.abilities.embed = Some(embedding);
        held.replica.abilities.chat = Some(!embedding);
        self.berth.describe(&mut held.replica);
        let seen = Observation { state, held: vec![held], ..Observation::starting() };
        self.roster.change(&self.name, |row| row.show(seen));
    }

    /// Waits to be told to load; `None` when the agent stops or the model is deleted. A wish that failed is not followed
    /// again before it has rested, since it may come each second. A model that failed is forgiven when it shall be unloaded.
    async fn rest(&mut self) -> Option<LoadWish> {
        let mut wished: Option<LoadWish> = None;
        loop {
            let ready = wished.as_ref().and_then(|wish| self.resting.until(wish));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                () = self.retire.cancelled() => return None,
                order = self.orders.recv() => match order? {
                    Order::Load(wish) => wished = Some(wish),
                    Order::Unload(_) => {
                        wished = None;
                        self.resting.forget();
                        self.show_unloaded();
                    }
                    Order::Pull(_) | Order::CancelPull(_) | Order::Delete(_) => {}
                },
                () = tokio::time::sleep_until(ready.unwrap_or_else(Instant::now)), if wished.is_some() => {
                    return wished;
                }
            }
        }
    }

    /// Waits before the next start. A wish to load cuts a long pause short, not a short one: it may come each
    /// second.
    async fn pause(&mut self, pause: Duration) -> Next {
        let began = Instant::now();
        let over = tokio::time::sleep(pause);
        tokio::pin!(over);
        let mut wished = false;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Next::Stop,
                () = self.retire.cancelled() => return Next::Stop,
                order = self.orders.recv() => match order {
                    Some(Order::Load(_)) => wished = true,
                    Some(Order::Unload(_)) => return Next::Rest,
                    Some(Order::Pull(_) | Order::CancelPull(_) | Order::Delete(_)) => {}
                    None => return Next::Stop,
                },
                () = tokio::time::sleep_until(began + RETRY_AFTER), if wished => return Next::Start { shown: true },
                () = &mut over => return Next::Start { shown: wished },
            }
        }
    }
}

impl Draining {
    fn end(self) -> LifeEnd {
        match self {
            Self::Unload => LifeEnd::Unloaded,
            Self::Again(wish) => LifeEnd::Again(wish),
            Self::Retire => LifeEnd::Stopped,
        }
    }
}

/// What ends a pause.
enum Next {
    Stop,
    /// `shown`: somebody wished it, so it is shown as loading again.
    Start {
        shown: bool,
    },
    Rest,
}

fn wait(count: Option<Arc<LeaseCount>>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        if let Some(count) = count {
            count.none_held().await;
        }
    })
}
