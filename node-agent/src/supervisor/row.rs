//! One engine's row of the roster: what it said, what is known of its models, and who uses them.

use super::lease::{Lease, LeaseCount, LeaseGuard, LeaseRefusal};
use super::load_facts::{LoadFacts, Subject};
use super::roster::Order;
use crate::engine::{Held, Observation};
use mesh_core::fit::Claim;
use mesh_core::id::ModelId;
use mesh_core::machine::{
    Capabilities, Engine, EngineKind, EngineState, Replica, ReplicaHealth, ReplicaMemory, ReplicaState,
};
use mesh_core::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Steps in which the use of a KV cache is told: 5 %.
const KV_STEPS: f32 = 20.0;

/// One engine.
pub(crate) struct Row {
    pub(super) engine: Engine,
    /// What the engine calls each model.
    upstream: BTreeMap<ModelId, Arc<str>>,
    name: Arc<str>,
    pub(super) base_url: Arc<str>,
    api_key: Option<Arc<str>>,
    leases: BTreeMap<ModelId, Arc<LeaseCount>>,
    /// Models that get no new lease because they are about to be unloaded.
    draining: BTreeSet<ModelId>,
    pub(super) orders: mpsc::Sender<Order>,
    /// What is known of models beside what the engine says, while they are loaded.
    known: BTreeMap<ModelId, Known>,
    /// Counts loads, so that what is learned of one is never told of the next.
    loads: u64,
}

/// What is known of a loaded model.
#[derive(Debug, Clone, Default)]
struct Known {
    load: u64,
    health: ReplicaHealth,
    memory: Option<ReplicaMemory>,
    facts: Option<Arc<LoadFacts>>,
}

impl Row {
    pub(crate) fn new(engine: Engine, orders: mpsc::Sender<Order>) -> Self {
        Self {
            name: engine.name.as_str().into(),
            engine,
            upstream: BTreeMap::new(),
            base_url: "".into(),
            api_key: None,
            leases: BTreeMap::new(),
            draining: BTreeSet::new(),
            orders,
            known: BTreeMap::new(),
            loads: 0,
        }
    }

    /// Where this engine's requests go.
    pub(crate) fn answers_at(&mut self, base_url: &str, api_key: Option<&str>) {
        self.base_url = base_url.into();
        self.api_key = api_key.map(Into::into);
    }

    /// What this engine can be asked and told.
    pub(crate) fn can(&mut self, capabilities: Capabilities) {
        self.engine.capabilities = capabilities;
    }

    /// Takes over what the engine said.
    pub(crate) fn show(&mut self, seen: Observation) {
        self.engine.version = seen.version.or(self.engine.version.take());
        self.engine.state = seen.state;
        self.engine.queued = seen.queued;
        self.upstream.clear();
        self.engine.replicas.clear();
        for Held { mut replica, upstream, memory, kv_used, .. } in seen.held {
            // Two names of one engine may clean up to the same; the first has it.
            if !self.upstream.contains_key(&replica.model) {
                // In steps: a report goes out at every change.
                replica.kv_used = kv_used.map(|used| (used * KV_STEPS).round() / KV_STEPS);
                // By the engine's own word.
                replica.memory = replica.memory.or(memory.map(|memory| ReplicaMemory {
                    device: Bytes(memory.size_vram),
                    host: Bytes(memory.size.saturating_sub(memory.size_vram)),
                    measured: true,
                }));
                self.upstream.insert(replica.model.clone(), upstream.into());
                self.engine.replicas.push(replica);
            }
        }
        self.engine.replicas.sort_by(|a, b| a.model.cmp(&b.model));
        self.recognise();
        let upstream = &self.upstream;
        self.leases.retain(|model, count| upstream.contains_key(model) || count.held() > 0);
        self.draining.retain(|model| upstream.contains_key(model));
    }

    /// A model that has become loaded is a new one: nothing that was known of it holds any more.
    fn recognise(&mut self) {
        let loaded = |replica: &&Replica| replica.state == ReplicaState::Loaded;
        let now: Vec<ModelId> = self.engine.replicas.iter().filter(loaded).map(|r| r.model.clone()).collect();
        self.known.retain(|model, _| now.contains(model));
        for model in now {
            self.known.entry(model).or_insert_with(|| {
                self.loads += 1;
                Known { load: self.loads, ..Known::default() }
            });
        }
    }

    /// Keeps what the keeper learned of the load of `model`, while that is loaded.
    pub(crate) fn learn(&mut self, model: &ModelId, facts: LoadFacts) {
        if let Some(known) = self.known.get_mut(model) {
            known.memory = Some(facts.memory);
            known.facts = Some(Arc::new(facts));
        }
    }

    /// Keeps what the truth checks found of the load `load` of `model`; another load is not judged by it.
    pub(crate) fn judge(&mut self, model: &ModelId, load: u64, health: ReplicaHealth) {
        if let Some(known) = self.known.get_mut(model).filter(|known| known.load == load) {
            known.health = health;
        }
    }

    /// The engine does not answer; its models are no longer there for the mesh.
    pub(crate) fn state(&mut self, state: EngineState) {
        self.engine.state = state;
    }

    pub(super) fn replica(&self, model: &ModelId) -> Option<&Replica> {
        self.engine.replicas.iter().find(|replica| replica.model == *model)
    }

    pub(super) fn held(&self, model: &ModelId) -> u32 {
        self.leases.get(model).map_or(0, |count| count.held())
    }

    /// No new leases of `model`; the count to wait for.
    pub(crate) fn drain(&mut self, model: &ModelId) -> Arc<LeaseCount> {
        self.draining.insert(model.clone());
        let count = self.count(model);
        count.leaves(true);
        count
    }

    /// Leases of `model` are given again.
    pub(crate) fn undrain(&mut self, model: &ModelId) {
        self.draining.remove(model);
        if let Some(count) = self.leases.get(model) {
            count.leaves(false);
        }
    }

    /// Counts one more lease of `model`, which must be one that [`Row::may_lease`] allows.
    pub(super) fn lease(&mut self, model: &ModelId) -> Lease {
        Lease {
            base_url: self.base_url.clone(),
            api_key: self.api_key.clone(),
            engine: self.name.clone(),
            keeps_connections: !has_a_thread_per_connection(self.engine.kind),
            upstream_model: self.upstream.get(model).cloned().unwrap_or_else(|| model.as_str().into()),
            _guard: LeaseGuard::new(&self.count(model)),
        }
    }

    /// Its leases.
    pub(super) fn count(&mut self, model: &ModelId) -> Arc<LeaseCount> {
        Arc::clone(self.leases.entry(model.clone()).or_default())
    }

    /// Whether `model` is in memory, and nobody uses it by our count and the engine's own.
    pub(super) fn is_idle(&self, model: &ModelId) -> bool {
        let idle = |replica: &Replica| {
            replica.state == ReplicaState::Loaded && replica.busy.is_none_or(|busy| busy == 0)
        };
        self.engine.state == EngineState::Up
            && self.replica(model).is_some_and(idle)
            && !self.draining.contains(model)
            && self.held(model) == 0
    }

    /// Its loaded models, for the truth checks. Engines that the agent can neither start nor tell to load are left
    /// in peace: what they answer is their owner's business, and each question is work for them.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        if !self.engine.supervised && !self.engine.capabilities.can_load {
            return Vec::new();
        }
        self.engine.replicas.iter().filter_map(|replica| self.subject_of(replica)).collect()
    }

    /// A loaded model, whoever started its engine.
    pub(super) fn subject(&self, model: &ModelId) -> Option<Subject> {
        self.replica(model).and_then(|replica| self.subject_of(replica))
    }

    fn subject_of(&self, replica: &Replica) -> Option<Subject> {
        let known = self.known.get(&replica.model)?;
        Some(Subject {
            engine: self.engine.name.clone(),
            kind: self.engine.kind,
            supervised: self.engine.supervised,
            version: self.engine.version.clone(),
            load: known.load,
            idle: self.is_idle(&replica.model),
            facts: known.facts.clone(),
            replica: Replica { health: known.health.clone(), ..replica.clone() },
        })
    }

    /// What its loaded models hold, where that is known; models that the agent itself loaded are in the ledger.
    pub(super) fn holders(&self) -> Vec<Claim> {
        if self.engine.supervised {
            return Vec::new();
        }
        let of = |replica: &Replica| {
            let memory = self.known.get(&replica.model)?.memory.or(replica.memory);
            let (on_device, on_host) = memory.map(|memory| (memory.device, memory.host)).unwrap_or_default();
            // Its weights at least, where nothing better is known.
            let on_host = if memory.is_none() { replica.size.unwrap_or_default() } else { on_host };
            Some(Claim {
                who: format!("{} on {}", replica.model, self.engine.name),
                device: None,
                on_device,
                on_host,
                promised: false,
            })
        };
        self.engine.replicas.iter().filter_map(of).collect()
    }

    /// Whether `model` is in memory, or on its way.
    pub(super) fn has_in_memory(&self, model: &ModelId) -> bool {
        let in_memory =
            |replica: &Replica| matches!(replica.state, ReplicaState::Loaded | ReplicaState::Loading);
        self.draining.contains(model) || self.replica(model).is_some_and(in_memory)
    }

    /// What `model` holds, where that was learned.
    pub(super) fn memory(&self, model: &ModelId) -> Option<ReplicaMemory> {
        self.known.get(model)?.memory
    }

    /// What its idle models hold together: an engine that swaps models by itself gives that up for another one.
    pub(super) fn gives_up(&self) -> ReplicaMemory {
        let mut sum = ReplicaMemory { device: Bytes(0), host: Bytes(0), measured: false };
        let idle = self.engine.replicas.iter().filter(|replica| self.is_idle(&replica.model));
        for replica in idle {
            let known = self.known.get(&replica.model).and_then(|known| known.memory);
            if let Some(memory) = known.or(replica.memory) {
                sum.device.0 = sum.device.0.saturating_add(memory.device.0);
                sum.host.0 = sum.host.0.saturating_add(memory.host.0);
            }
        }
        sum
    }
}

impl Row {
    pub(super) fn may_lease(&self, model: &ModelId) -> Result<(), LeaseRefusal> {
        let replica = self.replica(model).ok_or(LeaseRefusal::NoSuchModel)?;
        match &self.engine.state {
            EngineState::Down(why) => return Err(LeaseRefusal::EngineDown(why.clone())),
            EngineState::Starting
                if replica.state != ReplicaState::Available || self.engine.kind.loads_on_demand() =>
            {
                return Err(LeaseRefusal::Loading);
            }
            EngineState::Starting | EngineState::Up => {}
        }
        if self.draining.contains(model) {
            return Err(LeaseRefusal::NotLoaded("it is being unloaded".into()));
        }
        match &replica.state {
            ReplicaState::Loaded => Ok(()),
            // The request itself makes such an engine load the model.
            ReplicaState::Available | ReplicaState::Loading if self.engine.kind.loads_on_demand() => Ok(()),
            ReplicaState::Loading => Err(LeaseRefusal::Loading),
            ReplicaState::Available => Err(LeaseRefusal::NotLoaded("it is on disk only".into())),
            ReplicaState::Failed(why) => Err(LeaseRefusal::NotLoaded(why.clone())),
        }
    }

    /// Smaller is more willing: who holds the model answers first that there is nothing to do.
    pub(super) fn willing_to_load(&self, model: &ModelId) -> u8 {
        if self.draining.contains(model) {
            return 1;
        }
        match (&self.engine.state, self.replica(model).map(|r| &r.state)) {
            (EngineState::Down(_), Some(ReplicaState::Failed(_))) => 4,
            (EngineState::Down(_), _) => 5,
            (_, Some(ReplicaState::Loaded | ReplicaState::Loading)) => 0,
            (_, Some(ReplicaState::Available)) => 2,
            (_, Some(ReplicaState::Failed(_)) | None) => 3,
        }
    }

    /// The row as the mesh sees it: a model that gets no new requests is not shown as loaded.
    pub(super) fn shown(&self) -> Engine {
        let mut engine = self.engine.clone();
        for replica in &mut engine.replicas {
            if self.draining.contains(&replica.model) && replica.state == ReplicaState::Loaded {
                replica.state = ReplicaState::Available;
            }
            if let Some(known) = self.known.get(&replica.model) {
                replica.health = known.health.clone();
                replica.memory = known.memory.or(replica.memory);
            }
        }
        engine
    }
}
/// llama.cpp's server and KoboldCpp give each open connection one of a few threads, so an idle one may keep the next
/// request waiting. A new connection over loopback costs less than one of their tokens.
fn has_a_thread_per_connection(kind: EngineKind) -> bool {
    match kind {
        EngineKind::LlamaServer | EngineKind::LlamaRouter | EngineKind::KoboldCpp => true,
        EngineKind::Ollama
        | EngineKind::Lemonade
        | EngineKind::LmStudio
        | EngineKind::Vllm
        | EngineKind::Sglang
        | EngineKind::TabbyApi
        | EngineKind::LocalAi
        | EngineKind::OpenAi => false,
    }
}
