//! An agent that does what the test says: it reports its memory and models, and keeps what it is told.

use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{
    Capabilities, Capacity, Directive, Engine, EngineKind, EngineState, Hardware, Launch, Reading, Replica,
    ReplicaMemory, ReplicaState, Report, Store, StoreRefusal, StoredModel, Vitals,
};
use mesh_core::memory::CacheType;
use mesh_core::profile::{Profile, TrialRecord};
use mesh_core::units::Bytes;
use router::fleet_keeper::{FleetHandle, Session};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) const GIB: u64 = 1 << 30;

/// What every model takes, on disk and in memory.
const SIZE: u64 = 6 * GIB;
/// How long a load takes.
const LOADS_IN: Duration = Duration::from_secs(5);

/// What it does with a wish to load.
#[derive(Debug, Clone)]
pub(crate) enum Manner {
    /// It loads the model.
    Obeys,
    /// It refuses with these words.
    Refuses(&'static str),
    /// It reports more free memory than it has, and refuses with the truth.
    Lies(&'static str),
    /// Its process ends while it loads.
    DiesLoading,
    /// As it is told; its profile has what exams of its models found: passed of 100.
    Examined(&'static [(&'static str, u32)]),
}

struct Inside {
    name: MachineId,
    ram: u64,
    manner: Manner,
    replicas: Vec<Replica>,
    refusals: Vec<StoreRefusal>,
    directives: Vec<String>,
}

/// One agent. It lives on while no router is attached.
pub(crate) struct Agent {
    inside: Arc<Mutex<Inside>>,
    session: watch::Sender<CancellationToken>,
    gone: watch::Sender<bool>,
}

impl Agent {
    pub(crate) async fn start(
        fleet: &FleetHandle,
        name: &str,
        ram: u64,
        models: &[&str],
        manner: Manner,
    ) -> Self {
        let model = |name: &&str| Replica {
            size: Some(Bytes(SIZE)),
            trained_context: Some(131_072),
            ..Replica::new(ModelId::new(*name).expect("valid"), ReplicaState::Available)
        };
        let inside = Inside {
            name: MachineId::new(name).expect("valid"),
            ram,
            manner,
            replicas: models.iter().map(model).collect(),
            refusals: Vec::new(),
            directives: Vec::new(),
        };
        let agent = Self {
            inside: Arc::new(Mutex::new(inside)),
            session: watch::Sender::new(CancellationToken::new()),
            gone: watch::Sender::new(false),
        };
        agent.attach(fleet).await;
        agent
    }

    /// Opens a session, and waits until the router knows the machine.
    pub(crate) async fn attach(&self, fleet: &FleetHandle) {
        let (name, report) = {
            let inside = self.inside.lock().expect("no panic");
            (inside.name.clone(), inside.report())
        };
        let session = fleet.attach(name.clone(), "boot".into()).await.expect("the keeper lives");
        session.report(report).await;
        let stop = CancellationToken::new();
        self.session.send_replace(stop.clone()).cancel();
        tokio::spawn(serve(self.inside.clone(), session, stop, self.gone.clone()));
        let mut snapshots = fleet.snapshots();
        let known = |snapshot: &Arc<router::fleet_keeper::Snapshot>| {
            snapshot.view.machine(&name).is_some_and(|machine| machine.vitals.is_some())
        };
        drop(snapshots.wait_for(known).await.expect("the keeper lives"));
    }

    /// The machine's network is gone.
    pub(crate) async fn detach(&self) {
        self.session.borrow().cancel();
        self.until_gone().await;
    }

    /// Its session has ended.
    pub(crate) async fn until_gone(&self) {
        let mut gone = self.gone.subscribe();
        drop(gone.wait_for(|gone| *gone).await.expect("the agent lives"));
    }

    /// What it was told, in order.
    pub(crate) fn directives(&self) -> Vec<String> {
        self.inside.lock().expect("no panic").directives.clone()
    }
}

async fn serve(
    inside: Arc<Mutex<Inside>>,
    mut session: Session,
    stop: CancellationToken,
    gone: watch::Sender<bool>,
) {
    gone.send_replace(false);
    let mut heartbeat = tokio::time::interval(Duration::from_secs(1));
    // What began under another router goes on.
    let began = inside.lock().expect("no panic").loading();
    let mut loading = began.map(|model| (model, tokio::time::Instant::now() + LOADS_IN));
    loop {
        let loaded = async {
            match &loading {
                Some((_, at)) => tokio::time::sleep_until(*at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            _ = heartbeat.tick() => session.heartbeat().await,
            () = loaded => {
                if let Some((model, _)) = loading.take() {
                    let report = inside.lock().expect("no panic").set(&model, ReplicaState::Loaded);
                    session.report(report).await;
                }
            }
            directive = session.directives.recv() => {
                let Some(directive) = directive else { break };
                let (report, begins) = inside.lock().expect("no panic").obey(directive);
                session.report(report).await;
                if let Some(model) = begins {
                    loading = Some((model, tokio::time::Instant::now() + LOADS_IN));
                }
                if matches!(inside.lock().expect("no panic").manner, Manner::DiesLoading) {
                    break;
                }
            }
        }
    }
    drop(session);
    gone.send_replace(true);
}

impl Inside {
    /// Does as it is told, in its manner: what it reports then, and a model that it begins to load.
    fn obey(&mut self, directive: Directive) -> (Report, Option<ModelId>) {
        match directive {
            Directive::Load(wish) => {
                self.directives.push(format!("load {}", wish.model));
                let (Manner::Refuses(why) | Manner::Lies(why)) = self.manner else {
                    for replica in self.replicas.iter_mut().filter(|replica| replica.model == wish.model) {
                        replica.context = wish.context;
                        replica.slots = wish.slots;
                        replica.cache_type = wish.cache_type.as_deref().and_then(CacheType::from_word);
                    }
                    return (self.set(&wish.model, ReplicaState::Loading), Some(wish.model));
                };
                let at_ms = 1_000 + self.directives.len() as u64;
                self.refusals.push(StoreRefusal { model: wish.model, reason: why.into(), at_ms });
                (self.report(), None)
            }
            Directive::Unload(model) => {
                self.directives.push(format!("unload {model}"));
                (self.set(&model, ReplicaState::Available), None)
            }
            Directive::Pull(_) | Directive::CancelPull(_) | Directive::Delete(_) => {
                self.directives.push(format!("{directive:?}"));
                (self.report(), None)
            }
        }
    }

    fn loading(&self) -> Option<ModelId> {
        let loads = |replica: &&Replica| replica.state == ReplicaState::Loading;
        self.replicas.iter().find(loads).map(|replica| replica.model.clone())
    }

    fn set(&mut self, model: &ModelId, state: ReplicaState) -> Report {
        for replica in self.replicas.iter_mut().filter(|replica| replica.model == *model) {
            let holds = state != ReplicaState::Available;
            replica.state = state.clone();
            replica.memory =
                holds.then_some(ReplicaMemory { device: Bytes(0), host: Bytes(SIZE), measured: true });
        }
        self.report()
    }

    /// Its profile: with the shares of each model in one exam, where its manner has some.
    fn profile(&self) -> Arc<str> {
        let Manner::Examined(found) = &self.manner else { return "{}".into() };
        let mut profile = Profile::default();
        for (name, passed) in *found {
            profile.keep_trial(TrialRecord {
                model: ModelId::new(*name).expect("a good name"),
                suite: "mmlu".into(),
                mode: String::new(),
                digest: None,
                passed: *passed,
                tried: 100,
                at: 1,
            });
        }
        serde_json::to_string(&profile).expect("JSON").into()
    }

    fn report(&self) -> Report {
        let held = self.replicas.iter().filter_map(|replica| replica.memory).map(|memory| memory.host.0);
        let total = if matches!(self.manner, Manner::Lies(_)) { self.ram * 4 } else { self.ram };
        let free = total.saturating_sub(held.sum::<u64>());
        let capacity = |total, free| Reading::Known(Capacity { total: Bytes(total), available: Bytes(free) });
        let vitals = Vitals {
            ram: capacity(total, free),
            disk: capacity(1000 * GIB, 900 * GIB),
            gpus: Reading::Known(Vec::new()),
            ..Vitals::unknown("a test")
        };
        let capabilities =
            Capabilities { can_load: true, can_unload: true, can_size: true, ..Capabilities::default() };
        let engine = Engine {
            state: EngineState::Up,
            capabilities,
            replicas: self.replicas.clone(),
            ..Engine::new("llama-server-1", EngineKind::LlamaServer, true)
        };
        let stored = |replica: &Replica| StoredModel {
            trained_context: Some(131_072),
            ..StoredModel::new(replica.model.clone(), Bytes(SIZE))
        };
        Report {
            hardware: Some(Hardware {
                hostname: self.name.to_string(),
                cpu: Reading::unknown("a test"),
                cpu_threads: 2,
                system: Reading::unknown("a test"),
                agent_version: "0".into(),
                launch: Some(Launch {
                    program: "bundled".into(),
                    uses_gpu: false,
                    context: 16_384,
                    slots: 1,
                }),
            }),
            vitals: Some(vitals),
            engines: Some(vec![engine]),
            store: Some(Store {
                models: self.replicas.iter().map(stored).collect(),
                refusals: self.refusals.clone(),
                ..Store::default()
            }),
            profile: Some(self.profile()),
            draining: Some(false),
        }
    }
}
