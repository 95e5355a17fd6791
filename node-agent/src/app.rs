//! Builds the agent's tasks in the order in which they need each other, and ends them in the reverse order.
//!
//! [`run`] is the program `mesh-agent run`. [`Agent::start`] is the agent without a program around it, for
//! `modemesh up`, which hands requests and reports over within one process.

use crate::config::{self, AgentConfig, RunFlags};
use crate::engine::EngineConfig;
use crate::engine::bundled::BundledEngine;
use crate::engine::guard;
use crate::folder_lock;
use crate::metrics::Metrics;
use crate::model_store::{StoreConfig, StoreHandle, StoreWish};
use crate::probe::Probe;
use crate::profile::{ProfileHandle, Seen, describe};
use crate::reservation::Cards;
use crate::router_link::control::{ControlLink, Pacing};
use crate::router_link::data::{DataLink, Patience};
use crate::router_link::{Identity, Reports};
use crate::serve::Serve;
use crate::sleep::{Clocks, Logind, Sleep, SleepConfig, SleepKeeper, boot_clock, wall_clock};
use crate::supervisor::configured::ConfiguredFiles;
use crate::supervisor::{Supervisor, SupervisorConfig, SupervisorHandle};
use crate::trial::Trials;
use crate::vitals::{VitalsHandle, VitalsKeeper, look};
use futures_util::future::BoxFuture;
use mesh_core::id::{MachineId, machine_id_from_hostname};
use mesh_core::machine::{Directive, Engine, PullSource, Store, StoreRefusal, Transfer};
use mesh_daemon::complaint::{Complaint, exit};
use mesh_daemon::metrics_endpoint;
use mesh_daemon::port_holder::{Protocol, cannot_listen};
use mesh_proto::identity::join::{JoinError, join};
use mesh_proto::identity::{JoinToken, Role, connect};
use prometheus_client::registry::Registry;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often engines are looked for at the addresses where they may be.
const RESCAN: Duration = Duration::from_secs(10);

/// How long requests may go on after the agent was told to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// What the agent is told beside its configuration.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The mesh's data folder on this machine.
    pub data: PathBuf,
    /// The machine's name in the mesh.
    pub name: MachineId,
    /// Where `/proc` and `/sys` are: `/`, except in tests.
    pub root: PathBuf,
    /// The router to dial; `None` when it is in the same process.
    pub uplink: Option<Uplink>,
}

/// How to reach the router as a machine that has joined.
#[derive(Debug, Clone)]
pub struct Uplink {
    /// `host:port`, TCP and UDP.
    pub router: String,
    /// Who we are.
    pub identity: Identity,
}

/// What `mesh-agent join` was told on the command line.
#[derive(Clone, clap::Args)]
pub struct JoinFlags {
    /// The router's address for agents: `router.lan:7401`
    #[arg(value_name = "ROUTER")]
    pub router: String,
    /// The token that `meshctl token create` printed
    #[arg(value_name = "TOKEN")]
    pub token: String,
    /// The name to ask for [default: `name` in agent.toml, else the host name]
    #[arg(long)]
    pub name: Option<String>,
}

/// Where directives go.
pub type Direct = Arc<dyn Fn(Directive) + Send + Sync>;

/// A running agent.
pub struct Agent {
    /// The machine's name in the mesh.
    pub name: MachineId,
    /// Answers requests.
    pub serve: Arc<Serve>,
    /// Owns the engines.
    pub supervisor: SupervisorHandle,
    /// Owns the model files.
    pub store: StoreHandle,
    /// Takes directives to whoever follows them, for a router in the same process.
    pub direct: Direct,
    /// What the agent says of its machine, for a router in the same process.
    pub reports: Reports,
    /// The machine's vitals, each second.
    pub vitals: VitalsHandle,
    /// The machine's sleep.
    pub sleep: Sleep,
    closing: JoinHandle<()>,
}

impl Agent {
    /// Starts the agent's tasks, listed in the crate's documentation, and shows its counters in `registry`.
    /// After `stop` it refuses new requests, finishes the running ones (10 s at most), closes its links and
    /// stops its engines.
    ///
    /// # Errors
    /// A complaint when the HTTP client for engines cannot be made.
    pub async fn start(
        options: AgentOptions,
        config: &AgentConfig,
        registry: &mut Registry,
        stop: CancellationToken,
    ) -> Result<Self, Complaint> {
        let metrics = Metrics::new(registry);
        let probe = Probe::new(&options.root, config.model_folder(&options.data));
        let probe = Arc::new(probe.with_overrides(config.gpu_overrides()));
        let probe_attention = probe.attention();
        let (mut hardware, first) = look(probe.clone(), |probe| (probe.hardware(), probe.vitals())).await?;
        let has_bundled = BundledEngine::find(&options.data.join("engine")).is_some();
        hardware.launch = config.launch.told(has_bundled);
        let (keeper, vitals) =
            VitalsKeeper::new(probe.clone(), first, config.thermal.policy(), metrics.clone());

        let (stop_engines, stop_links) = (CancellationToken::new(), CancellationToken::new());
        let store = StoreHandle::start(store_config(&options.data, config), stop_links.clone());
        let state = options.data.join("agent");
        let profile = look(probe, move |_| ProfileHandle::open(&state)).await?;
        let supervisor = Supervisor::start(
            SupervisorConfig {
                engines: config.engine_configs(),
                discover: if config.discover.enabled {
                    config.discover.addresses.clone()
                } else {
                    Vec::new()
                },
                engine_folder: options.data.join("engine"),
                rescan: RESCAN,
                store: Some(store.clone()),
                vitals: vitals.fresh.clone(),
                cards: Some(Cards { attention: probe_attention, readings: vitals.readings.clone() }),
                overheated: vitals.overheated.clone(),
                profile: profile.clone(),
                launch: config.launch.defaults(),
                truth: config.truth,
            },
            stop_engines.clone(),
        );
        let releasing = supervisor.clone();
        store.release_with(Arc::new(move |model| releasing.release(&model)));
        let serve = Serve::new(supervisor.clone(), metrics.clone());
        serve.lend_from(store.clone());
        let (tried, seen, kept) = (supervisor.clone(), vitals.fresh.clone(), profile.clone());
        serve.try_with(Trials { supervisor: tried, vitals: seen, profile: kept });
        let direct = direct(supervisor.clone(), store.clone());
        let tasks = TaskTracker::new();
        let (joined, whole_store) = watch::channel(Arc::default());
        let (transfers, refusals) = (supervisor.transfers(), supervisor.refusals());
        let configured = ConfiguredFiles::of(&config.engine_configs());
        let lists = (store.clone(), configured);
        tasks.spawn(join_stores(lists, transfers, refusals, joined, stop_links.clone()));
        let reports = Reports {
            hardware: Arc::new(hardware),
            vitals: vitals.reported.clone(),
            engines: supervisor.engines(),
            store: whole_store,
            profile: profile.watch(),
            draining: serve.draining(),
        };

        let seen = Seen {
            hardware: reports.hardware.clone(),
            vitals: reports.vitals.clone(),
            engines: reports.engines.clone(),
            store: store.watch(),
        };
        tasks.spawn(describe(profile.clone(), seen, stop_links.clone()));
        let keeping = tokio::spawn(profile.keep(stop_engines.clone()));
        tasks.spawn(keeper.run(stop_links.clone()));
        tasks.spawn(count_engines(supervisor.engines(), metrics.clone(), stop_links.clone()));
        let (told_draining, told) = watch::channel(false);
        let (goodbyes, sleep) = SleepKeeper::new(SleepConfig {
            connect: Logind::connect(None),
            clocks: Clocks::new(vec![boot_clock(options.root), wall_clock()]),
            inhibit_lid: config.sleep.inhibit_lid,
            refuse: {
                let serve = serve.clone();
                Arc::new(move |asleep| serve.rest(asleep))
            },
            told: options.uplink.is_some().then_some(told),
            read_anew: {
                let (vitals, supervisor) = (vitals.clone(), supervisor.clone());
                Box::new(move || read_anew(vitals.clone(), supervisor.clone()))
            },
        });
        tasks.spawn(goodbyes.run(stop_links.clone()));
        if let Some(uplink) = options.uplink {
            let (up, control_up) = watch::channel(false);
            let (displaced, displaced_times) = watch::channel(0);
            let control = ControlLink {
                router: uplink.router.clone(),
                identity: uplink.identity.clone(),
                reports: reports.clone(),
                direct: direct.clone(),
                boot_id: format!("{:016x}", rand::random::<u64>()),
                metrics: metrics.clone(),
                up,
                displaced,
                told_draining,
                pacing: Pacing::default(),
            };
            tasks.spawn(control.run(stop_links.clone()));
            let Uplink { router, identity } = uplink;
            let data = DataLink {
                router,
                identity,
                serve: serve.clone(),
                metrics,
                control_up,
                displaced: displaced_times,
                way: config.data_link,
                patience: Patience::default(),
            };
            tasks.spawn(data.run(stop_links.clone()));
        }
        tasks.close();
        let closing = Closing {
            serve: serve.clone(),
            supervisor: supervisor.clone(),
            store: store.clone(),
            tasks,
            stop_links,
            stop_engines,
            keeping,
        };
        let closing = tokio::spawn(closing.run(stop));
        Ok(Self { name: options.name, serve, supervisor, store, direct, reports, vitals, sleep, closing })
    }

    /// Completes when the agent has ended after its stop: nothing runs any more, no engine of ours is left.
    pub async fn stopped(self) {
        if let Err(error) = self.closing.await {
            tracing::error!("stopping the agent failed: {error}");
        }
    }
}

/// The way down, in order.
struct Closing {
    serve: Arc<Serve>,
    supervisor: SupervisorHandle,
    store: StoreHandle,
    tasks: TaskTracker,
    stop_links: CancellationToken,
    stop_engines: CancellationToken,
    /// Writes the profile.
    keeping: JoinHandle<()>,
}

impl Closing {
    async fn run(self, stop: CancellationToken) {
        stop.cancelled().await;
        // 1. The router hears that we leave, and new requests are refused.
        self.serve.drain();
        // 2. What runs may end.
        let mut in_flight = self.serve.in_flight();
        let running = *in_flight.borrow();
        if running > 0 {
            tracing::info!("waiting up to {} s for {running} running requests", DRAIN_LIMIT.as_secs());
        }
        let in_time = timeout(DRAIN_LIMIT, in_flight.wait_for(|&count| count == 0)).await.is_ok();
        if !in_time {
            tracing::warn!(
                "cutting off {} requests that did not end in time",
                *self.serve.in_flight().borrow()
            );
        }
        // 3. The links say goodbye; what is left is reset.
        self.stop_links.cancel();
        self.tasks.wait().await;
        self.store.stopped().await;
        // 4. Nobody needs the engines any more.
        self.stop_engines.cancel();
        self.supervisor.stopped().await;
        drop(self.keeping.await);
    }
}

fn store_config(data: &Path, config: &AgentConfig) -> StoreConfig {
    let mut store = StoreConfig::new(&config.model_folder(data), &data.join("store"));
    store.bandwidth = config.store.bandwidth();
    let engines = config.engine_configs();
    store.kept = engines
        .into_iter()
        .filter_map(|engine| match engine {
            EngineConfig::Child { model, .. } => Some(model),
            EngineConfig::Endpoint { .. } => None,
        })
        .chain(BundledEngine::find(&data.join("engine")).map(|engine| engine.model()))
        .collect();
    store
}

/// Files are the store's, memory is the supervisor's, and what an engine fetches by itself is the supervisor's too.
fn direct(supervisor: SupervisorHandle, store: StoreHandle) -> Direct {
    Arc::new(move |directive| match directive {
        Directive::Pull(wish) if wish.source != PullSource::Engine => store.direct(StoreWish::Pull(wish)),
        Directive::CancelPull(model) => {
            store.direct(StoreWish::Cancel(model.clone()));
            supervisor.direct(Directive::CancelPull(model));
        }
        Directive::Delete(model) => {
            let on_an_engine = supervisor.deletes(&model);
            if on_an_engine {
                supervisor.direct(Directive::Delete(model.clone()));
            }
            let listed = store.watch().borrow().models.iter().any(|stored| stored.model == model);
            if listed || !on_an_engine {
                store.direct(StoreWish::Delete(model));
            }
        }
        Directive::Load(_) | Directive::Unload(_) | Directive::Pull(_) => supervisor.direct(directive),
    })
}

/// The store with the names that the configuration has for its files, what engines fetch by themselves, and what the
/// supervisor does not do.
async fn join_stores(
    (handle, configured): (StoreHandle, ConfiguredFiles),
    mut by_engines: watch::Receiver<Arc<Vec<Transfer>>>,
    mut refused: watch::Receiver<Arc<Vec<StoreRefusal>>>,
    joined: watch::Sender<Arc<Store>>,
    stop: CancellationToken,
) {
    let mut store = handle.watch();
    // The models as the store has them, and with their other names: those are looked up in the file system.
    let (mut listed, mut named) = (Vec::new(), Vec::new());
    loop {
        let mut whole = (**store.borrow_and_update()).clone();
        if whole.models != listed {
            listed.clone_from(&whole.models);
            configured.told(&mut whole.models, &handle);
            named.clone_from(&whole.models);
        }
        whole.models.clone_from(&named);
        whole.transfers.extend(by_engines.borrow_and_update().iter().cloned());
        whole.refusals.extend(refused.borrow_and_update().iter().cloned());
        joined.send_if_modified(|known| {
            let differs = **known != whole;
            if differs {
                *known = Arc::new(whole);
            }
            differs
        });
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            changed = store.changed() => changed,
            changed = by_engines.changed() => changed,
            changed = refused.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// The machine as it is after its sleep. Nobody waits for the answer of a reader that has ended.
fn read_anew(vitals: VitalsHandle, supervisor: SupervisorHandle) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        vitals.read_anew().await;
        // What the engines had on a graphics processor may be lost.
        supervisor.resumed();
    })
}

async fn count_engines(
    mut engines: watch::Receiver<Arc<Vec<Engine>>>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    loop {
        metrics.engines(&engines.borrow_and_update().clone());
        tokio::select! {
            () = stop.cancelled() => return,
            changed = engines.changed() => if changed.is_err() { return },
        }
    }
}

/// `mesh-agent run`: an agent with links to its router and its own `/metrics`, until `stop`.
///
/// # Errors
/// A complaint when the machine has not joined, its certificate has ended, or an address cannot be used.
pub async fn run(data: &Path, config: AgentConfig, stop: CancellationToken) -> Result<(), Complaint> {
    guard::claim();
    let uplink = joined(data, &config)?;
    let _alone = folder_lock::alone(&data.join("agent"))?;
    let name = uplink.identity.current().peer().name.clone();
    let (agents, router) = (name.clone(), uplink.router.clone());
    let mut registry = Registry::default();
    let listener = bind_metrics(&config.metrics.listen).await?;
    let options = AgentOptions { data: data.into(), name, root: "/".into(), uplink: Some(uplink) };
    let agent = Agent::start(options, &config, &mut registry, stop.clone()).await?;
    tracing::info!(name = %agents, router, "the agent runs");
    if let Some(listener) = listener {
        tracing::info!("metrics on http://{}/metrics", config.metrics.listen);
        tokio::spawn(metrics_endpoint::serve(listener, Arc::new(registry), stop.clone()));
    }
    agent.stopped().await;
    tracing::info!(name = %agents, "the agent has stopped");
    Ok(())
}

/// `mesh-agent join`: trades the token for a certificate and remembers the router. Returns what to tell the
/// person.
///
/// # Errors
/// A complaint that tells apart a damaged token, no router, another router, and a refusal.
pub async fn join_router(data: &Path, flags: &JoinFlags) -> Result<String, Complaint> {
    let router = flags.router.as_str();
    let what = || Complaint::new(format!("cannot join the mesh at {router}"));
    let another = "make a new one on the router: meshctl token create --role node";
    let token: JoinToken =
        flags.token.parse().map_err(|error| what().cause(error).hint(another).exit(exit::IDENTITY))?;
    let wanted = flags.name.clone().or(config::read(data, &RunFlags::default())?.value.name);
    let proposed = match wanted {
        Some(name) => {
            MachineId::new(name).map_err(|error| what().cause(error).hint("choose another --name"))?
        }
        None => machine_id_from_hostname(&Probe::new("/", data).hardware().hostname),
    };
    mesh_daemon::data_folder::create_private(data)?;
    let folder = data.join("agent");
    let credentials =
        join(router, &token, proposed.as_str(), &folder).await.map_err(|error| match &error {
            JoinError::Connect(connect::ConnectError::Unreachable { .. }) => what()
                .cause(&error)
                .hint(
                    "is the router running, and does this machine see it? it listens on port 7401 for agents",
                )
                .exit(exit::UNREACHABLE),
            JoinError::WrongRouter { .. } => what()
                .cause(&error)
                .hint("check the address: the token's secret was not sent")
                .exit(exit::IDENTITY),
            JoinError::Refused(_) | JoinError::Connect(_) => {
                what().cause(&error).hint(another).exit(exit::IDENTITY)
            }
            JoinError::Identity(_) => what().cause(&error).exit(exit::IDENTITY),
        })?;
    if credentials.peer().role != Role::Node {
        // Left in place, it would be taken for this machine's identity.
        drop(std::fs::remove_file(folder.join("chain.pem")));
        return Err(what()
            .cause(format!("the token was made for the role {}, and is spent now", credentials.peer().role))
            .hint(another)
            .exit(exit::IDENTITY));
    }
    let name = credentials.peer().name.clone();
    for (file, text) in [("router", router), ("name", name.as_str())] {
        let path = folder.join(file);
        mesh_daemon::data_folder::write_private(&path, format!("{text}\n").as_bytes())
            .map_err(|error| Complaint::new(format!("cannot write {}", path.display())).cause(error))?;
    }
    Ok(format!(
        "joined the mesh at {router} as {name}\nstart the agent: mesh-agent run --data {}\n",
        data.display()
    ))
}

/// `mesh-agent install-engine`: the bundled engine in the data folder, unless it is there. Steps go to stderr.
///
/// # Errors
/// A complaint that says what is missing and what to do.
pub async fn install_engine(data: &Path) -> Result<String, Complaint> {
    let folder = data.join("engine");
    let told = format!("the bundled engine is in {}\n", folder.display());
    let failed = || Complaint::new("the bundled engine could not be installed");
    let step = |step: &str| drop(writeln!(std::io::stderr(), "  {step}"));
    let installed = tokio::task::spawn_blocking(move || BundledEngine::install(&folder, step)).await;
    let installed = installed.map_err(|error| failed().cause(error))?;
    installed.map(|_| told).map_err(|error| failed().cause(&error).hint(error.hint()))
}

/// Address and credentials of a machine that has joined.
fn joined(data: &Path, config: &AgentConfig) -> Result<Uplink, Complaint> {
    let folder = data.join("agent");
    let rejoin = format!(
        "on the router: meshctl token create --role node; then here: mesh-agent join ROUTER TOKEN --data {}",
        data.display()
    );
    if !folder.join("chain.pem").exists() {
        return Err(Complaint::new("this machine has not joined a mesh")
            .cause(format!("there is no certificate in {}", folder.display()))
            .hint(&rejoin)
            .exit(exit::IDENTITY));
    }
    let identity = Identity::open(&folder).map_err(|error| {
        Complaint::new("this machine's credentials are unusable")
            .cause(error)
            .hint(&rejoin)
            .exit(exit::IDENTITY)
    })?;
    let (now, ends) = (SystemTime::now(), identity.current().expires_at());
    if let Ok(ago) = now.duration_since(ends) {
        let ago = mesh_core::units::human_duration(ago);
        return Err(Complaint::new(format!("this machine's certificate ended {ago} ago"))
            .cause("it was not renewed in time, so the router no longer knows the machine")
            .hint(format!("join again; {rejoin}"))
            .exit(exit::IDENTITY));
    }
    let router = match &config.router {
        Some(router) => router.clone(),
        None => std::fs::read_to_string(folder.join("router")).map(|text| text.trim().to_owned()).map_err(
            |error| {
                Complaint::new("this machine does not know its router")
                    .cause(format!("{}: {error}", folder.join("router").display()))
                    .hint("name it with --router HOST:PORT")
            },
        )?,
    };
    Ok(Uplink { router, identity })
}

async fn bind_metrics(address: &str) -> Result<Option<TcpListener>, Complaint> {
    if address.is_empty() {
        return Ok(None);
    }
    let fix = "set metrics.listen in agent.toml to a free address, or to \"\" for none";
    TcpListener::bind(address).await.map(Some).map_err(|error| match address.parse() {
        Ok(socket) => cannot_listen("metrics", socket, Protocol::Tcp, "metrics.listen", &error).hint(fix),
        Err(_) => Complaint::new(format!("cannot serve metrics on {address}")).cause(error).hint(fix),
    })
}
