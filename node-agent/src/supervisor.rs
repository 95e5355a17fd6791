//! The one owner of this machine's engines: finds them, starts and stops its own, tells how they are, and
//! leases their models to requests.
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | keeper, one per engine | orders, the engine's answers | its row of the roster | stopped, or its engine is gone |
//! | scout | the places to look at | new keepers | stopped |
//!
//! `serve.rs` asks for a lease for each request: one short lock, no I/O. `router_link.rs` watches
//! [`SupervisorHandle::engines`] and passes directives on.

mod backoff;
mod child_keeper;
mod endpoint_keeper;
mod roster;
mod scout;

pub use roster::{Lease, LeaseRefusal};

use crate::engine::child::ChildSpec;
use crate::engine::{EngineConfig, Sizing, adapter, discover};
use child_keeper::ChildKeeper;
use endpoint_keeper::EndpointKeeper;
use mesh_core::id::ModelId;
use mesh_core::machine::{Directive, Engine, EngineKind, EngineState};
use roster::{ORDER_QUEUE, Order, Roster, Row};
use scout::Scout;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often each engine is looked at. Never each second: llama.cpp looks for clients that have left a request
/// without a stream only after a second without any answer, and `/metrics` is one. Measured with b11549: at 1 s
/// such a request is never cancelled, at 1.3 s within 1.5 s.
const LOOK_EVERY: Duration = Duration::from_millis(1300);
/// How long one look may take: with [`LOOK_EVERY`], an engine that hangs is known to within 3 s.
const LOOK_WITHIN: Duration = Duration::from_millis(1700);

/// What the supervisor is to keep.
#[derive(Debug, Clone)]
pub struct SupervisorConfig {
    /// Engines that are configured.
    pub engines: Vec<EngineConfig>,
    /// Places of this machine where engines are looked for: `http://127.0.0.1:11434` or `127.0.0.1:11434`.
    pub discover: Vec<String>,
    /// Where the bundled engine lies.
    pub engine_folder: PathBuf,
    /// How often the places are looked at again.
    pub rescan: Duration,
}

impl SupervisorConfig {
    /// No configured engine, the usual places, a rescan each 15 s.
    #[must_use]
    pub fn new(engine_folder: PathBuf) -> Self {
        Self {
            engines: Vec::new(),
            discover: discover::DEFAULT_PLACES.map(str::to_owned).into(),
            engine_folder,
            rescan: Duration::from_secs(15),
        }
    }
}

/// How long a failed load stands before it is tried again by a directive: a router may repeat its wish each
/// second.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Starts supervisors.
#[derive(Debug, Clone, Copy)]
pub struct Supervisor;

/// A running supervisor. Cheap to clone.
#[derive(Clone)]
pub struct SupervisorHandle {
    roster: Arc<Roster>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for SupervisorHandle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SupervisorHandle").finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Starts all tasks; they end after `stop`. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(config: SupervisorConfig, stop: CancellationToken) -> SupervisorHandle {
        let house = House { roster: Arc::new(Roster::new()), tasks: TaskTracker::new() };
        for engine in config.engines {
            house.keep_configured(engine, &config.engine_folder, &stop);
        }
        let scout = Scout::new(house.clone(), &config.discover, config.rescan, stop.clone());
        house.tasks.spawn(scout.run());
        let tasks = house.tasks.clone();
        let closing = stop;
        tokio::spawn(async move {
            closing.cancelled().await;
            tasks.close();
        });
        SupervisorHandle { roster: house.roster, tasks: house.tasks }
    }
}

impl SupervisorHandle {
    /// All engines, refreshed every 1.3 s and at once after a change. Equal news are no news.
    #[must_use]
    pub fn engines(&self) -> watch::Receiver<Arc<Vec<Engine>>> {
        self.roster.watch()
    }

    /// The right to send one request to `model`, which stays loaded until the lease is dropped.
    ///
    /// # Errors
    /// [`LeaseRefusal`] says whether waiting helps.
    #[expect(clippy::unused_async, reason = "the contract leaves room for an answer by another task")]
    pub async fn lease(&self, model: &ModelId) -> Result<Lease, LeaseRefusal> {
        self.roster.lease(model)
    }

    /// Passes a wish on to the engine that has the model; the result shows in [`Self::engines`]. A wish that
    /// cannot be passed on is logged and dropped: whoever wished sees no change and wishes again.
    pub fn direct(&self, directive: Directive) {
        let (order, targets) = match directive {
            Directive::Load(wish) => {
                let target = self.roster.who_loads(&wish.model);
                (Order::Load(wish), target.into_iter().collect())
            }
            Directive::Unload(model) => {
                let targets = self.roster.who_unloads(&model);
                (Order::Unload(model), targets)
            }
            Directive::Pull(_) | Directive::CancelPull(_) | Directive::Delete(_) => {
                tracing::warn!("the supervisor has no store");
                return;
            }
        };
        if targets.is_empty() {
            tracing::warn!(?order, "no engine of this machine can follow this directive");
        }
        for (engine, orders) in targets {
            if let Err(error) = orders.try_send(order.clone()) {
                tracing::warn!(engine, %error, ?order, "directive dropped");
            }
        }
    }

    /// After stop: resolves when every child process is gone.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

/// What a keeper needs to live: shared by the start and the scout.
#[derive(Clone)]
struct House {
    roster: Arc<Roster>,
    tasks: TaskTracker,
}

impl House {
    fn keep_configured(
        &self,
        config: EngineConfig,
        engine_folder: &std::path::Path,
        stop: &CancellationToken,
    ) {
        match config {
            EngineConfig::Endpoint { name, kind, url, api_key } => {
                self.keep_endpoint(name, kind, &url, api_key, stop.clone());
            }
            EngineConfig::Child { name, program, model, alias, context, slots, embedding } => {
                let engine_folder = engine_folder.to_owned();
                let sizing = Sizing::default_for(context, slots);
                let spec =
                    ChildSpec { program, engine_folder, model, alias, sizing, projector: None, embedding };
                let (send, orders) = mpsc::channel(ORDER_QUEUE);
                if !self.roster.add(Row::new(Engine::new(&name, EngineKind::LlamaServer, true), send)) {
                    tracing::warn!(engine = name, "two engines have this name; the second is not used");
                    return;
                }
                let (roster, stop) = (Arc::clone(&self.roster), stop.clone());
                self.tasks.spawn(ChildKeeper { name, spec, roster, orders, stop }.run());
            }
        }
    }

    /// Adds an endpoint; false when it cannot be kept.
    fn keep_endpoint(
        &self,
        name: String,
        kind: EngineKind,
        url: &str,
        api_key: Option<String>,
        stop: CancellationToken,
    ) -> bool {
        let (send, orders) = mpsc::channel(ORDER_QUEUE);
        let mut row = Row::new(Engine::new(&name, kind, false), send);
        let engine = match adapter(kind, url, api_key) {
            Ok(engine) => engine,
            Err(error) => {
                tracing::warn!(engine = name, %error, "engine cannot be used");
                // Shown all the same: a person looks at the status first.
                row.state(EngineState::Down(error.to_string()));
                self.roster.add(row);
                return false;
            }
        };
        row.answers_at(engine.base_url(), engine.api_key());
        if !self.roster.add(row) {
            tracing::warn!(engine = name, "two engines have this name; the second is not used");
            return false;
        }
        self.tasks.spawn(EndpointKeeper::new(name, engine, Arc::clone(&self.roster), orders, stop).run());
        true
    }
}
