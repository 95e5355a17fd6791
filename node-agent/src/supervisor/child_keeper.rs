//! Keeps one engine that the agent starts: starts it, watches it, starts it again, stops it.
//!
//! ```text
//!            ┌────────────── Load ───────────────┐
//!            ▼                                   │
//! start ► Starting ─says where─► Serving ─Unload─► Resting
//!            ▲  │                   │
//!            │  └─────ends──────────┤ (or is deaf for a minute)
//!            └──pause 1 s … 60 s──Broken
//! ```

use super::endpoint_keeper::look;
use super::roster::{LeaseCount, Order, Roster};
use super::{LOOK_EVERY, RETRY_AFTER, backoff::Backoff};
use crate::engine::child::{Child, ChildSpec};
use crate::engine::{Engine as _, Held, Observation};
use futures_util::future::{BoxFuture, OptionFuture};
use mesh_core::machine::{EngineState, ReplicaState};
use mesh_core::units::{Bytes, human_duration};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a child may take until it says where it listens: a hundred gigabytes from a slow disk.
const READY_WITHIN: Duration = Duration::from_secs(30 * 60);
/// How long a child may answer nothing at all until it is taken for hung and started again.
const DEAF_LIMIT: Duration = Duration::from_secs(60);

pub(super) struct ChildKeeper {
    pub(super) name: String,
    pub(super) spec: ChildSpec,
    pub(super) roster: Arc<Roster>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) stop: CancellationToken,
}

/// How one life of the process ended.
enum LifeEnd {
    /// The agent stops.
    Stopped,
    /// It was told to unload.
    Unloaded,
    /// By itself, and why. `healthy` is for how long it had served.
    Broke { why: String, healthy: Duration },
}

impl ChildKeeper {
    /// Runs until stopped; the process and the row are gone afterwards.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut ever_served = true;
        loop {
            // A child that never came up stays shown as failed while it is tried again.
            if ever_served {
                self.show(EngineState::Starting, ReplicaState::Loading);
            }
            match self.live().await {
                LifeEnd::Stopped => break,
                LifeEnd::Unloaded => {
                    tracing::info!(engine = self.name, model = %self.spec.alias, "unloaded: its process was stopped");
                    self.show(EngineState::Up, ReplicaState::Available);
                    backoff = Backoff::default();
                    ever_served = true;
                    if !self.rest().await {
                        break;
                    }
                }
                LifeEnd::Broke { why, healthy } => {
                    ever_served = healthy > Duration::ZERO;
                    let pause = backoff.after(healthy);
                    tracing::warn!(
                        engine = self.name, model = %self.spec.alias, %why,
                        "engine ended; starting it again in {}", human_duration(pause)
                    );
                    self.show(EngineState::Down(why.clone()), ReplicaState::Failed(why));
                    match self.pause(pause).await {
                        Next::Stop => break,
                        Next::Retry => {}
                        Next::Now => ever_served = true,
                        Next::Rest => {
                            self.show(EngineState::Up, ReplicaState::Available);
                            backoff = Backoff::default();
                            ever_served = true;
                            if !self.rest().await {
                                break;
                            }
                        }
                    }
                }
            }
        }
        self.roster.remove(&self.name);
    }

    /// Starts the process and stays with it to its end. The process is gone when this returns.
    async fn live(&mut self) -> LifeEnd {
        let broke = |why: String| LifeEnd::Broke { why, healthy: Duration::ZERO };
        let mut child = match Child::start(&self.spec).await {
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
                Some(order) = self.orders.recv() => if let Order::Unload(_) = order {
                    child.stop().await;
                    return LifeEnd::Unloaded;
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
        self.roster.change(&self.name, |row| row.answers_at(engine.base_url(), engine.api_key()));
        self.serve(child, &mut engine).await
    }

    async fn serve(
        &mut self,
        mut child: Child,
        engine: &mut crate::engine::llama_server::LlamaServer,
    ) -> LifeEnd {
        let mut next_look = Instant::now();
        let mut served_since = None;
        let mut answered = Instant::now();
        // Resolves when an ordered unload may happen; `None` while none is ordered.
        let mut drained: OptionFuture<BoxFuture<'static, ()>> = None.into();
        let mut draining = false;
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
                    self.roster.change(&self.name, |row| row.undrain(&self.spec.alias));
                    let healthy = served_since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
                    // Told to go anyway.
                    return if draining { LifeEnd::Unloaded } else { LifeEnd::Broke { why, healthy } };
                }
                Some(()) = &mut drained, if draining => {
                    child.stop().await;
                    // Before leases are given again, or one would be given to nobody.
                    self.show(EngineState::Up, ReplicaState::Available);
                    self.roster.change(&self.name, |row| row.undrain(&self.spec.alias));
                    return LifeEnd::Unloaded;
                }
                Some(order) = self.orders.recv() => match order {
                    Order::Load(_) if draining => {
                        draining = false;
                        drained = None.into();
                        self.roster.change(&self.name, |row| row.undrain(&self.spec.alias));
                    }
                    Order::Unload(_) if !draining => {
                        let count = self.roster.change(&self.name, |row| row.drain(&self.spec.alias));
                        draining = true;
                        drained = Some(wait(count)).into();
                    }
                    Order::Load(_) | Order::Unload(_) => {}
                },
                () = tokio::time::sleep_until(next_look) => {
                    next_look = Instant::now() + LOOK_EVERY;
                    let seen = tokio::select! {
                        biased;
                        seen = look(engine) => seen,
                        () = self.stop.cancelled() => continue,
                    };
                    if matches!(seen.state, EngineState::Down(_)) {
                        if answered.elapsed() >= DEAF_LIMIT {
                            child.stop().await;
                            let healthy = served_since.map_or(Duration::ZERO, |since| since.elapsed());
                            let why = format!("answered nothing for {}", human_duration(DEAF_LIMIT));
                            return LifeEnd::Broke { why, healthy };
                        }
                    } else {
                        answered = Instant::now();
                    }
                    if seen.state == EngineState::Up && served_since.is_none() {
                        served_since = Some(Instant::now());
                        child.serves();
                        tracing::info!(engine = self.name, model = %self.spec.alias, "loaded");
                    }
                    self.publish(seen);
                }
            }
        }
    }

    /// Shows what the process said; what it did not say is known from its configuration.
    fn publish(&self, seen: Observation) {
        match seen.state {
            EngineState::Up => {
                self.roster.change(&self.name, |row| row.show(seen));
            }
            EngineState::Starting => self.show(EngineState::Starting, ReplicaState::Loading),
            EngineState::Down(_) => {
                self.roster.change(&self.name, |row| row.state(seen.state));
            }
        }
    }

    /// Shows the one model of this child as its configuration has it.
    fn show(&self, state: EngineState, replica: ReplicaState) {
        let Ok(mut held) = Held::new(self.spec.alias.as_str(), replica) else { return };
        held.replica.slots = Some(self.spec.sizing.slots);
        held.replica.context = Some(self.spec.sizing.context);
        held.replica.size = std::fs::metadata(&self.spec.model).ok().map(|file| Bytes(file.len()));
        held.replica.abilities.embed = Some(self.spec.embedding);
        held.replica.abilities.chat = Some(!self.spec.embedding);
        let seen = Observation { version: None, state, queued: None, held: vec![held] };
        self.roster.change(&self.name, |row| row.show(seen));
    }

    /// Waits to be told to load; false when the agent stops.
    async fn rest(&mut self) -> bool {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return false,
                order = self.orders.recv() => match order {
                    Some(Order::Load(_)) => return true,
                    Some(Order::Unload(_)) => {}
                    None => return false,
                },
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
                order = self.orders.recv() => match order {
                    Some(Order::Load(_)) => wished = true,
                    Some(Order::Unload(_)) => return Next::Rest,
                    None => return Next::Stop,
                },
                () = tokio::time::sleep_until(began + RETRY_AFTER), if wished => return Next::Now,
                () = &mut over => return if wished { Next::Now } else { Next::Retry },
            }
        }
    }
}

/// What ends a pause.
enum Next {
    Stop,
    Retry,
    Now,
    Rest,
}

fn wait(count: Option<Arc<LeaseCount>>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        if let Some(count) = count {
            count.none_held().await;
        }
    })
}
