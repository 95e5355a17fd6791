//! The one owner of this machine's engines: finds them, starts and stops its own, tells how they are, and
//! leases their models to requests.
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | keeper, one per engine | orders, the engine's answers | its row of the roster | stopped, or its engine is gone |
//! | scout | the places to look at | new keepers | stopped |
//! | librarian | the store's models | a resting keeper for each | stopped |
//! | [checks](crate::truth) | loaded models | their health | stopped |
//! | cooler | whether the machine stays hot | wishes to unload, and to load again | stopped |
//!
//! `serve.rs` asks for a lease for each request: one short lock, no I/O. `router_link.rs` watches
//! [`SupervisorHandle::engines`] and passes directives on.

mod backoff;
mod child_keeper;
pub(crate) mod configured;
mod cooler;
mod endpoint_keeper;
mod engine_pulls;
mod hearing;
mod launch;
mod lease;
mod librarian;
pub(crate) mod load_facts;
mod outside;
mod refusals;
mod resident;
mod rests;
pub(crate) mod roster;
pub(crate) mod row;
mod scout;

pub use launch::LaunchDefaults;
pub use lease::{Lease, LeaseRefusal};

use crate::engine::{EngineConfig, adapter, discover};
use crate::model_store::StoreHandle;
use crate::profile::ProfileHandle;
use crate::reservation::{Cards, Ledger, blind};
use crate::truth::{Checks, HttpProber, TruthConfig};
use child_keeper::ChildKeeper;
use configured::ConfiguredFiles;
use cooler::Cooler;
use endpoint_keeper::EndpointKeeper;
use engine_pulls::EnginePulls;
use futures_util::future::BoxFuture;
use launch::{Berth, Source};
use librarian::{Librarian, Release};
use mesh_core::id::ModelId;
use mesh_core::machine::{
    Directive, Engine, EngineKind, EngineState, PullSource, StoreRefusal, Transfer, Vitals,
};
use refusals::Refusals;
use rests::Rests;
use roster::{ORDER_QUEUE, Order, Roster};
use row::Row;
use scout::Scout;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long each engine is left alone between two looks, from the end of one to the beginning of the next. llama.cpp
/// looks for clients that have left a request without a stream only after a second without any answer to anybody, and
/// `/metrics` is one. Measured with b11549: looked at each second such a request is never cancelled, each 1.3 s within
/// 1.3 s, and so on. From the end, because engines with much to do answer late.
const LOOK_PAUSE: Duration = Duration::from_millis(1100);
/// How long one look may take: with [`LOOK_PAUSE`], an engine that hangs is known to within 3 s.
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
    /// The models on disk, each of which can be loaded.
    pub store: Option<StoreHandle>,
    /// What the machine says of itself: loads are admitted by it.
    pub vitals: watch::Receiver<Arc<Vitals>>,
    /// How cards are read while models load; `None` where nothing reads them.
    pub cards: Option<Cards>,
    /// Whether the machine has been hot for so long that its models are to be unloaded.
    pub overheated: watch::Receiver<bool>,
    /// What is learned is kept there.
    pub profile: ProfileHandle,
    /// How stored models are started.
    pub launch: LaunchDefaults,
    /// What is checked of loaded models.
    pub truth: TruthConfig,
}

impl SupervisorConfig {
    /// No configured engine, the usual places, a rescan each 15 s; no store, nothing known of the machine and
    /// nothing checked.
    #[must_use]
    pub fn new(engine_folder: PathBuf) -> Self {
        Self {
            engines: Vec::new(),
            discover: discover::DEFAULT_PLACES.map(str::to_owned).into(),
            engine_folder,
            rescan: Duration::from_secs(15),
            store: None,
            vitals: blind(),
            cards: None,
            overheated: watch::channel(false).1,
            profile: ProfileHandle::in_memory(),
            launch: LaunchDefaults::default(),
            truth: TruthConfig::OFF,
        }
    }
}

/// How long a failed load stands before it is tried again by the same directive: a router may repeat its wish each
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
    ledger: Ledger,
    pulls: EnginePulls,
    refusals: Refusals,
    releases: mpsc::Sender<Release>,
    resumed: Arc<Notify>,
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
        let house = House {
            roster: Arc::new(Roster::new()),
            tasks: TaskTracker::new(),
            ledger: Ledger::new(config.vitals.clone()).with_cards(config.cards),
            profile: config.profile,
            pulls: EnginePulls::default(),
            refusals: Refusals::default(),
        };
        let configured = ConfiguredFiles::of(&config.engines);
        for engine in config.engines {
            house.keep_configured(engine, &config.engine_folder, &stop);
        }
        let scout = Scout::new(house.clone(), &config.discover, config.rescan, stop.clone());
        house.tasks.spawn(scout.run());
        let (releases, to_release) = mpsc::channel(ORDER_QUEUE);
        if let Some(store) = config.store {
            let (folder, stop) = (config.engine_folder, stop.clone());
            let librarian = Librarian::new(house.clone(), store, config.launch, folder, configured, stop);
            house.tasks.spawn(librarian.run(to_release));
        }
        let resumed = Arc::new(Notify::new());
        if config.truth.enabled {
            match HttpProber::new() {
                Ok(prober) => {
                    let (roster, ledger) = (house.roster.clone(), house.ledger.clone());
                    let profile = house.profile.clone();
                    let prober = Arc::new(prober);
                    let checks = Checks::new(config.truth, roster, ledger, profile, prober, resumed.clone());
                    house.tasks.spawn(checks.run(stop.clone()));
                }
                Err(error) => tracing::error!("no model is checked, for want of an HTTP client: {error}"),
            }
        }
        let House { roster, tasks, ledger, pulls, refusals, profile: _ } = house;
        let handle = SupervisorHandle { roster, tasks, ledger, pulls, refusals, releases, resumed };
        let cooler =
            Cooler { supervisor: handle.clone(), overheated: config.overheated, vitals: config.vitals };
        handle.tasks.spawn(cooler.run(stop.clone()));
        let tasks = handle.tasks.clone();
        tokio::spawn(async move {
            stop.cancelled().await;
            tasks.close();
        });
        handle
    }
}

impl SupervisorHandle {
    /// All engines, refreshed every 1.1 s and at once after a change. Equal news are no news.
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

    /// A loaded model with all that is known of its load.
    pub(crate) fn subject(&self, engine: &str, model: &ModelId) -> Option<load_facts::Subject> {
        self.roster.subject(engine, model)
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
            Directive::Pull(wish) => {
                if !matches!(wish.source, PullSource::Engine) {
                    tracing::warn!(model = %wish.model, "the supervisor fetches through engines only; the store fetches the rest");
                    return;
                }
                let targets = self.roster.who_pulls();
                if targets.is_none() {
                    self.pulls.failed(&wish.model, "no engine of this machine can fetch models by itself");
                }
                (Order::Pull(wish.model), targets.into_iter().collect())
            }
            Directive::CancelPull(model) => {
                let targets = self.roster.who_may_pull();
                (Order::CancelPull(model), targets)
            }
            Directive::Delete(model) => {
                let targets = self.roster.who_deletes(&model);
                (Order::Delete(model), targets)
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

    /// Whether an engine of its own has `model` on its disk: then deleting it is that engine's work, and the
    /// supervisor's.
    #[must_use]
    pub fn deletes(&self, model: &ModelId) -> bool {
        !self.roster.who_deletes(model).is_empty()
    }

    /// What engines fetch by themselves, and what ended within the last minutes.
    #[must_use]
    pub fn transfers(&self) -> watch::Receiver<Arc<Vec<Transfer>>> {
        self.pulls.watch()
    }

    /// Wishes of the last minutes that were not followed although nothing failed, and why.
    #[must_use]
    pub fn refusals(&self) -> watch::Receiver<Arc<Vec<StoreRefusal>>> {
        self.refusals.watch()
    }

    /// Takes `model` out of the memory of engines that the agent starts, and completes when no request and no
    /// process uses its file any more. It is not loaded again while the store is deleting it.
    #[must_use]
    pub fn release(&self, model: &ModelId) -> BoxFuture<'static, ()> {
        let (done, released) = oneshot::channel();
        let (releases, release) = (self.releases.clone(), Release { model: model.clone(), done });
        Box::pin(async move {
            // Without a store, or after the end, nobody holds a stored model.
            if releases.send(release).await.is_ok() {
                drop(released.await);
            }
        })
    }

    /// The machine has slept: all loaded models are checked again. Called when the probe has been read anew.
    pub fn resumed(&self) {
        self.resumed.notify_one();
    }

    /// The ledger of this machine's memory.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
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
    ledger: Ledger,
    profile: ProfileHandle,
    pulls: EnginePulls,
    refusals: Refusals,
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
                let (send, orders) = mpsc::channel(ORDER_QUEUE);
                if !self.roster.add(Row::new(Engine::new(&name, EngineKind::LlamaServer, true), send)) {
                    tracing::warn!(engine = name, "two engines have this name; the second is not used");
                    return;
                }
                let keeper = ChildKeeper {
                    name,
                    berth: Berth {
                        alias,
                        program,
                        engine_folder: engine_folder.to_owned(),
                        context,
                        slots,
                        flexible: false,
                        source: Source::Configured { file: model, embedding },
                    },
                    rests: false,
                    roster: self.roster.clone(),
                    orders,
                    ledger: self.ledger.clone(),
                    profile: self.profile.clone(),
                    refusals: self.refusals.clone(),
                    retire: CancellationToken::new(),
                    stop: stop.clone(),
                    version: None,
                    resting: Rests::default(),
                    last: None,
                };
                self.tasks.spawn(keeper.run());
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
        row.can(engine.capabilities());
        if !self.roster.add(row) {
            tracing::warn!(engine = name, "two engines have this name; the second is not used");
            return false;
        }
        self.tasks.spawn(EndpointKeeper::new(name, kind, engine, self, orders, stop).run());
        true
    }
}
