//! Keeps one engine that the agent did not start: looks at it each 1.3 s, loads and unloads where it can.
//!
//! One task per engine, so that one that hangs delays nobody else.

use super::roster::{Order, Roster};
use super::{LOOK_EVERY, LOOK_WITHIN, RETRY_AFTER};
use crate::engine::{AskError, Engine, LoadRequest, Observation};
use futures_util::future::BoxFuture;
use mesh_core::id::ModelId;
use mesh_core::machine::{EngineState, ReplicaState};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) struct EndpointKeeper {
    pub(super) name: String,
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
}

/// What became of an order.
struct Done {
    model: ModelId,
    doing: Doing,
    result: Result<(), AskError>,
}

impl EndpointKeeper {
    pub(super) fn new(
        name: String,
        engine: Box<dyn Engine>,
        roster: Arc<Roster>,
        orders: mpsc::Receiver<Order>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            name,
            engine,
            roster,
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
                    next_look = Instant::now() + LOOK_EVERY;
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        seen = look(self.engine.as_mut()) => self.take_in(seen),
                    }
                    self.publish();
                }
            }
        }
        self.roster.remove(&self.name);
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
                Some((Doing::Unloading, _)) => {}
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
        match order {
            Order::Load(wish) => self.load(wish.model),
            Order::Unload(model) => self.unload(model),
        }
        self.publish();
    }

    fn upstream(&self, model: &ModelId) -> Option<(String, ReplicaState)> {
        let held = self.last.held.iter().find(|held| held.replica.model == *model)?;
        Some((held.upstream.clone(), held.replica.state.clone()))
    }

    fn load(&mut self, model: ModelId) {
        let Some((upstream, state)) = self.upstream(&model) else {
            tracing::debug!(engine = self.name, %model, "not loading: the engine is down or the model is gone");
            return;
        };
        match self.doing.remove(&model) {
            Some((Doing::Loading, abort)) => {
                self.doing.insert(model, (Doing::Loading, abort));
                return;
            }
            Some((Doing::Unloading, abort)) => {
                abort.abort();
                self.roster.change(&self.name, |row| row.undrain(&model));
            }
            None if state == ReplicaState::Loaded => return,
            None if self.failed.get(&model).is_some_and(|failure| failure.at.elapsed() < RETRY_AFTER) => {
                return;
            }
            None => {}
        }
        let Some(call) = self.engine.load(&LoadRequest::of(&upstream)) else {
            tracing::warn!(engine = self.name, %model, "this engine cannot be told to load a model; start it with the model");
            return;
        };
        tracing::info!(engine = self.name, %model, "loading");
        self.failed.remove(&model);
        self.begin(model, Doing::Loading, call);
    }

    fn unload(&mut self, model: ModelId) {
        let Some((upstream, _)) = self.upstream(&model) else { return };
        if let Some((Doing::Unloading, _)) = self.doing.get(&model) {
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
        let when_free = Box::pin(async move {
            leases.none_held().await;
            call.await
        });
        self.begin(model, Doing::Unloading, when_free);
    }

    fn begin(&mut self, model: ModelId, doing: Doing, call: BoxFuture<'static, Result<(), AskError>>) {
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
        match (&result, doing) {
            (Ok(()), Doing::Loading) => tracing::info!(engine = self.name, %model, "loaded"),
            (Ok(()), Doing::Unloading) => {
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
            (Err(error), Doing::Loading) => {
                tracing::warn!(engine = self.name, %model, %error, "could not load");
                let failure = Failure { why: error.to_string(), at: Instant::now() };
                self.failed.insert(model.clone(), failure);
                self.publish();
            }
            (Err(error), Doing::Unloading) => {
                tracing::warn!(engine = self.name, %model, %error, "could not unload");
            }
        }
        if doing == Doing::Unloading {
            self.roster.change(&self.name, |row| row.undrain(&model));
        }
    }
}

/// One observation, bounded: an engine that accepts and never answers is down.
pub(super) async fn look(engine: &mut dyn Engine) -> Observation {
    let silent = |_| {
        Observation::down(format!(
            "it accepts connections and did not answer within {:.1} s",
            LOOK_WITHIN.as_secs_f32()
        ))
    };
    tokio::time::timeout(LOOK_WITHIN, engine.observe()).await.unwrap_or_else(silent)
}
