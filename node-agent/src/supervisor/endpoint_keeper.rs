//! Keeps one engine that the agent did not start: looks at it each 1.1 s, loads and unloads where it can.
//!
//! One task per engine, so that one that hangs delays nobody else.

use super::House;
use super::engine_pulls::EnginePulls;
use super::outside::{self, Known, Loaded, OutsideError};
use super::refusals::Refusals;
use super::roster::{Order, Roster};
use super::{LOOK_PAUSE, LOOK_WITHIN, RETRY_AFTER};
use crate::engine::{Engine, Held, LoadRequest, Observation, PullStream};
use crate::profile::ProfileHandle;
use crate::reservation::Ledger;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use mesh_core::id::ModelId;
use mesh_core::machine::{EngineKind, EngineState, LoadWish, ReplicaMemory, ReplicaState, TransferState};
use mesh_core::memory::CacheType;
use mesh_core::units::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) struct EndpointKeeper {
    pub(super) name: String,
    kind: EngineKind,
    ledger: Ledger,
    profile: ProfileHandle,
    pulls: EnginePulls,
    refusals: Refusals,
    /// Loads whose figures the engine has not told yet.
    unmeasured: BTreeMap<ModelId, Loaded>,
    /// Models being fetched.
    pulling: BTreeMap<ModelId, AbortHandle>,
    pub(super) engine: Box<dyn Engine>,
    pub(super) roster: Arc<Roster>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) stop: CancellationToken,
    /// Orders being carried out, by model.
    work: JoinSet<Done>,
    doing: BTreeMap<ModelId, (Doing, AbortHandle)>,
    /// Models whose last load failed, until they are loaded or ordered again.
    failed: BTreeMap<ModelId, Failure>,
    last: Observation,
}

struct Failure {
    why: String,
    at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Loading,
    Unloading,
    /// Unloading, and then deleting.
    Deleting,
}

/// What became of an order.
struct Done {
    model: ModelId,
    doing: Doing,
    result: Result<Option<Loaded>, OutsideError>,
}

type Call = BoxFuture<'static, Result<Option<Loaded>, OutsideError>>;

impl EndpointKeeper {
    pub(super) fn new(
        name: String,
        kind: EngineKind,
        engine: Box<dyn Engine>,
        house: &House,
        orders: mpsc::Receiver<Order>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            name,
            kind,
            ledger: house.ledger.clone(),
            profile: house.profile.clone(),
            pulls: house.pulls.clone(),
            refusals: house.refusals.clone(),
            unmeasured: BTreeMap::new(),
            pulling: BTreeMap::new(),
            engine,
            roster: Arc::clone(&house.roster),
            orders,
            stop,
            work: JoinSet::new(),
            doing: BTreeMap::new(),
            failed: BTreeMap::new(),
            last: Observation::starting(),
        }
    }

    /// Runs until stopped; the row is gone afterwards.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let mut next_look = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(order) = self.orders.recv() => self.obey(order),
                Some(done) = self.work.join_next(), if !self.work.is_empty() => {
                    if let Ok(done) = done {
                        self.finish(done);
                        next_look = Instant::now();
                    }
                }
                () = tokio::time::sleep_until(next_look) => {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        (seen, next) = look(self.engine.as_mut()) => {
                            next_look = next;
                            self.take_in(seen);
                        }
                    }
                    let capabilities = self.engine.capabilities();
                    self.roster.change(&self.name, |row| row.can(capabilities));
                    self.measure();
                    self.pulls.tidy();
                    self.refusals.tidy();
                    self.publish();
                }
            }
        }
        for pull in self.pulling.values() {
            pull.abort();
        }
        self.roster.remove(&self.name);
    }

    /// Keeps what loads took once the engine lists them: then it has told their figures, if it ever does.
    fn measure(&mut self) {
        let held = &self.last.held;
        let loaded = |model: &ModelId| {
            held.iter()
                .find(|held| held.replica.model == *model && held.replica.state == ReplicaState::Loaded)
        };
        let listed: Vec<ModelId> =
            self.unmeasured.keys().filter(|model| loaded(model).is_some()).cloned().collect();
        for model in listed {
            let memory = loaded(&model).and_then(memory_of);
            if let Some(facts) = self.unmeasured.remove(&model) {
                outside::keep(facts, memory, &self.profile);
            }
        }
    }

    fn take_in(&mut self, seen: Observation) {
        match (&self.last.state, &seen.state) {
            (EngineState::Up | EngineState::Starting, EngineState::Down(why)) => {
                tracing::warn!(engine = self.name, %why, "engine is down");
            }
            (EngineState::Down(_) | EngineState::Starting, EngineState::Up) => {
                tracing::info!(engine = self.name, models = seen.held.len(), "engine is up");
            }
            (_, EngineState::Up | EngineState::Starting | EngineState::Down(_)) => {}
        }
        self.last = seen;
    }

    /// Shows the last observation with what the orders under way make of it.
    fn publish(&mut self) {
        let mut seen = self.last.clone();
        for held in &mut seen.held {
            let replica = &mut held.replica;
            if replica.state == ReplicaState::Loaded {
                self.failed.remove(&replica.model);
            }
            match self.doing.get(&replica.model) {
                // Until the load ended it may be listed already and still not serve.
                Some((Doing::Loading, _)) => replica.state = ReplicaState::Loading,
                Some((Doing::Unloading | Doing::Deleting, _)) => {}
                None => {
                    if let Some(failure) = self.failed.get(&replica.model) {
                        replica.state = ReplicaState::Failed(failure.why.clone());
                    }
                }
            }
        }
        self.failed.retain(|model, _| seen.held.iter().any(|held| held.replica.model == *model));
        if seen.held.is_empty() && matches!(seen.state, EngineState::Down(_)) {
            self.roster.change(&self.name, |row| row.state(seen.state));
        } else {
            self.roster.change(&self.name, |row| row.show(seen));
        }
    }

    fn obey(&mut self, order: Order) {
        if let Order::Unload(model) | Order::Delete(model) = &order {
            self.refusals.forget(model);
        }
        match order {
            Order::Load(wish) => self.load(wish),
            Order::Unload(model) => self.unload(model),
            Order::Pull(model) => self.pull(model),
            Order::CancelPull(model) => {
                if let Some(pull) = self.pulling.remove(&model) {
                    pull.abort();
                    self.pulls.ends(&model, TransferState::Cancelled);
                }
            }
            Order::Delete(model) => self.delete(model),
        }
        self.publish();
    }

    fn upstream(&self, model: &ModelId) -> Option<(String, ReplicaState)> {
        let held = self.last.held.iter().find(|held| held.replica.model == *model)?;
        Some((held.upstream.clone(), held.replica.state.clone()))
    }

    fn load(&mut self, wish: LoadWish) {
        let model = wish.model.clone();
        let Some((upstream, state)) = self.upstream(&model) else {
            tracing::debug!(engine = self.name, %model, "not loading: the engine is down or the model is gone");
            return;
        };
        match self.doing.remove(&model) {
            Some((Doing::Loading, abort)) => {
                self.doing.insert(model, (Doing::Loading, abort));
                return;
            }
            Some((Doing::Unloading | Doing::Deleting, abort)) => {
                abort.abort();
                self.roster.change(&self.name, |row| row.undrain(&model));
            }
            None if state == ReplicaState::Loaded && self.is_loaded_as(&wish) => return,
            None if self.failed.get(&model).is_some_and(|failure| failure.at.elapsed() < RETRY_AFTER) => {
                return;
            }
            None => {}
        }
        let has_sizes = wish.context.is_some() || wish.slots.is_some() || wish.cache_type.is_some();
        if has_sizes && !self.engine.capabilities().can_size {
            let why =
                format!("not loaded so: {} takes no sizes with a load; wish it without them", self.name);
            return self.refusals.refuse(&model, why);
        }
        let cache = wish.cache_type.as_deref().and_then(CacheType::from_word);
        let request =
            LoadRequest { context: wish.context, slots: wish.slots, cache, ..LoadRequest::of(&upstream) };
        let Some(call) = self.engine.load(&request) else {
            let why =
                format!("not loaded: {} cannot be told to load a model; start it with the model", self.name);
            return self.refusals.refuse(&model, why);
        };
        self.refusals.forget(&model);
        let call: Call = match self.known(&model) {
            Some(known) if outside::is_here(self.engine.base_url()) => {
                Box::pin(outside::load(known, wish, call, self.ledger.clone(), self.profile.clone()))
            }
            Some(_) | None => Box::pin(async move { Ok(call.await.map(|()| None)?) }),
        };
        tracing::info!(engine = self.name, %model, "loading");
        self.failed.remove(&model);
        self.begin(model, Doing::Loading, call);
    }

    /// Whether a loaded model has the sizes of the wish, as far as its engine tells them.
    fn is_loaded_as(&self, wish: &LoadWish) -> bool {
        let held = self.last.held.iter().find(|held| held.replica.model == wish.model);
        held.is_some_and(|held| {
            let replica = &held.replica;
            let enough = |wanted: Option<u32>, has: Option<u32>| match (wanted, has) {
                (Some(wanted), Some(has)) => wanted <= has,
                (Some(_) | None, _) => true,
            };
            enough(wish.context, replica.context) && enough(wish.slots, replica.slots)
        })
    }

    fn known(&self, model: &ModelId) -> Option<Known> {
        let held = self.last.held.iter().find(|held| held.replica.model == *model)?.clone();
        Some(Known {
            kind: self.kind,
            engine: self.name.clone(),
            version: self.last.version.clone(),
            held,
            gives_up: self.roster.gives_up(&self.name),
            holders: self.roster.holders(),
        })
    }

    /// Lets the engine fetch a model by the name that the mesh has for it, which is the engine's own.
    fn pull(&mut self, model: ModelId) {
        if self.pulling.get(&model).is_some_and(|pull| !pull.is_finished()) {
            return;
        }
        let Some(stream) = self.engine.pull(model.as_str()) else {
            self.pulls.failed(&model, "this engine cannot fetch models by itself");
            return;
        };
        tracing::info!(engine = self.name, %model, "the engine fetches the model");
        self.pulls.begins(&model, &self.name);
        let (pulls, about) = (self.pulls.clone(), model.clone());
        let pull = tokio::spawn(follow(stream, pulls, about));
        self.pulling.insert(model, pull.abort_handle());
    }

    fn delete(&mut self, model: ModelId) {
        let Some((upstream, state)) = self.upstream(&model) else { return };
        if let Some((Doing::Deleting, _)) = self.doing.get(&model) {
            return;
        }
        let Some(delete) = self.engine.delete(&upstream) else {
            tracing::warn!(engine = self.name, %model, "this engine cannot be told to delete a model");
            return;
        };
        let unload = if state == ReplicaState::Loaded { self.engine.unload(&upstream) } else { None };
        if let Some((_, abort)) = self.doing.remove(&model) {
            abort.abort();
        }
        let Some(leases) = self.roster.change(&self.name, |row| row.drain(&model)) else { return };
        tracing::info!(engine = self.name, %model, "deleting once its requests are answered");
        let when_free: Call = Box::pin(async move {
            leases.none_held().await;
            if let Some(unload) = unload {
                unload.await?;
            }
            Ok(delete.await.map(|()| None)?)
        });
        self.begin(model, Doing::Deleting, when_free);
    }

    fn unload(&mut self, model: ModelId) {
        let Some((upstream, _)) = self.upstream(&model) else { return };
        // Whoever wants it away is told no longer that it did not come.
        self.failed.remove(&model);
        if let Some((Doing::Unloading | Doing::Deleting, _)) = self.doing.get(&model) {
            return;
        }
        let Some(call) = self.engine.unload(&upstream) else {
            tracing::warn!(engine = self.name, %model, "this engine cannot be told to unload a model; stop it instead");
            return;
        };
        if let Some((_, abort)) = self.doing.remove(&model) {
            abort.abort();
        }
        let Some(leases) = self.roster.change(&self.name, |row| row.drain(&model)) else { return };
        tracing::info!(engine = self.name, %model, "unloading once its requests are answered");
        let ledger = self.ledger.clone();
        let when_free = Box::pin(async move {
            leases.none_held().await;
            call.await?;
            ledger.returned();
            Ok(None)
        });
        self.begin(model, Doing::Unloading, when_free);
    }

    fn begin(&mut self, model: ModelId, doing: Doing, call: Call) {
        let about = model.clone();
        let handle = self.work.spawn(async move { Done { model: about, doing, result: call.await } });
        self.doing.insert(model, (doing, handle));
    }

    fn finish(&mut self, done: Done) {
        let Done { model, doing, result } = done;
        // An order that was replaced after it had ended says nothing any more.
        if self.doing.get(&model).is_none_or(|(current, _)| *current != doing) {
            return;
        }
        self.doing.remove(&model);
        match (result, doing) {
            (Ok(loaded), Doing::Loading) => {
                tracing::info!(engine = self.name, %model, "loaded");
                if let Some(loaded) = loaded {
                    self.unmeasured.insert(model.clone(), loaded);
                }
            }
            (Ok(_), Doing::Unloading) => {
                tracing::info!(engine = self.name, %model, "unloaded");
                // Before the next look, or it would be shown as loaded for a moment.
                for held in &mut self.last.held {
                    if held.replica.model == model {
                        held.replica.state = ReplicaState::Available;
                        held.replica.context = None;
                    }
                }
                self.publish();
            }
            (Ok(_), Doing::Deleting) => {
                tracing::info!(engine = self.name, %model, "deleted");
                self.last.held.retain(|held| held.replica.model != model);
                self.publish();
            }
            (Err(error), Doing::Loading) => {
                tracing::warn!(engine = self.name, %model, %error, "could not load");
                let failure = Failure { why: error.to_string(), at: Instant::now() };
                self.failed.insert(model.clone(), failure);
                self.publish();
            }
            (Err(error), Doing::Unloading) => {
                tracing::warn!(engine = self.name, %model, %error, "could not unload");
            }
            (Err(error), Doing::Deleting) => {
                tracing::warn!(engine = self.name, %model, %error, "could not delete");
            }
        }
        if matches!(doing, Doing::Unloading | Doing::Deleting) {
            self.roster.change(&self.name, |row| row.undrain(&model));
        }
    }
}

/// Follows a pull to its end.
async fn follow(mut stream: PullStream, pulls: EnginePulls, model: ModelId) {
    while let Some(step) = stream.next().await {
        match step {
            Ok(progress) => pulls.moves(&model, progress.done, progress.total),
            Err(error) => {
                tracing::warn!(%model, %error, "the engine could not fetch the model");
                pulls.ends(&model, TransferState::Failed(error.to_string()));
                return;
            }
        }
    }
    pulls.ends(&model, TransferState::Done);
}

fn memory_of(held: &Held) -> Option<ReplicaMemory> {
    let memory = held.memory?;
    let (device, host) = (Bytes(memory.size_vram), Bytes(memory.size.saturating_sub(memory.size_vram)));
    Some(ReplicaMemory { device, host, measured: true })
}

/// One observation, bounded: an engine that accepts and never answers is down. And when to look again.
pub(super) async fn look(engine: &mut dyn Engine) -> (Observation, Instant) {
    let silent = |_| {
        Observation::down(format!(
            "it accepts connections and did not answer within {:.1} s",
            LOOK_WITHIN.as_secs_f32()
        ))
    };
    let seen = tokio::time::timeout(LOOK_WITHIN, engine.observe()).await.unwrap_or_else(silent);
    (seen, Instant::now() + LOOK_PAUSE)
}
