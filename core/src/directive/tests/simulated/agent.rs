//! A simulated machine: its agent follows directives as a real one does, checks each load against live memory, and shows
//! what it shows.

use super::super::{GIB, hardware};
use super::Dice;
use crate::fit::{Margin, Pools};
use crate::fleet::{DataPath, MachineView};
use crate::health::Liveness;
use crate::id::{MachineId, ModelId};
use crate::machine::{
    Capabilities, Capacity, Digest, Directive, Engine, EngineKind, EngineState, Gpu, GpuVendor, LoadWish,
    Pool, Reading, Replica, ReplicaMemory, ReplicaState, Store, StoreRefusal, StoredModel, Transfer,
    TransferKind, TransferState, Vitals,
};
use crate::memory::CacheType;
use crate::placement::{Catalogue, KnownModel, Size};
use crate::units::{Bytes, Moment};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that a load, and a fetch, reads in a second.
const LOAD_RATE: u64 = GIB;
const FETCH_RATE: u64 = GIB / 4;
/// Seconds that one request takes.
const REQUEST: u64 = 20;
/// Milliseconds since 1970 at the start of a simulation.
const EPOCH_MS: u64 = 1_700_000_000_000;

pub(super) fn size_of(wish: &LoadWish) -> Size {
    Size {
        context: wish.context.unwrap_or(16_384),
        slots: wish.slots.unwrap_or(1),
        cache: wish.cache_type.as_deref().and_then(CacheType::from_word).unwrap_or_default(),
    }
}

#[derive(Debug, Clone)]
pub(super) enum Life {
    Loading {
        until: u64,
    },
    Loaded,
    /// It gets no new requests; what comes after it.
    Draining {
        then: Option<LoadWish>,
    },
}

/// A model in memory.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) size: Size,
    pub(super) takes: ReplicaMemory,
    pub(super) life: Life,
    /// When its present request ends, and since when it has had one without a pause.
    request: Option<u64>,
    pub(super) busy_since: Option<u64>,
}

pub(super) struct Agent {
    pub(super) id: MachineId,
    ram: u64,
    /// What a person's programs take.
    human: u64,
    card: Option<u64>,
    pub(super) processes: BTreeMap<ModelId, Process>,
    failed: BTreeMap<ModelId, String>,
    pub(super) files: BTreeSet<ModelId>,
    fetches: BTreeMap<ModelId, (TransferState, u64)>,
    refusals: Vec<StoreRefusal>,
    /// Models that have a request at nearly all times.
    pub(super) popular: BTreeSet<ModelId>,
    pub(super) away: bool,
    /// Its readings are those of the step before.
    late: Option<(u64, u64)>,
    /// How often it had not the memory for a load that it was told to make.
    pub(super) short_of_memory: Vec<String>,
}

impl Agent {
    pub(super) fn new(id: MachineId, ram: u64, human: u64, card: Option<u64>) -> Self {
        Self {
            id,
            ram: ram * GIB,
            human: human * GIB,
            card: card.map(|card| card * GIB),
            processes: BTreeMap::new(),
            failed: BTreeMap::new(),
            files: BTreeSet::new(),
            fetches: BTreeMap::new(),
            refusals: Vec::new(),
            popular: BTreeSet::new(),
            away: false,
            late: None,
            short_of_memory: Vec::new(),
        }
    }

    /// Free RAM, and free memory of the card.
    pub(super) fn free(&self) -> (u64, u64) {
        let host: u64 = self.processes.values().map(|process| process.takes.host.0).sum();
        let device: u64 = self.processes.values().map(|process| process.takes.device.0).sum();
        let free = |all: u64, used: u64| all.checked_sub(used).expect("memory is never exceeded");
        (free(self.ram - self.human, host), free(self.card.unwrap_or(0), device))
    }

    fn vitals(&self, (ram, card): (u64, u64)) -> Vitals {
        let capacity = |total, available| Capacity { total: Bytes(total), available: Bytes(available) };
        let mut vitals = Vitals::unknown("simulated");
        vitals.ram = Reading::Known(capacity(self.ram, ram));
        let gpu = |total| Gpu {
            memory: Reading::Known(capacity(total, card)),
            pool: Pool::Discrete { reserved: None },
            ..Gpu::unknown("0000:01:00.0", "card", GpuVendor::Nvidia, "simulated")
        };
        vitals.gpus = Reading::Known(self.card.map(gpu).into_iter().collect());
        vitals
    }

    /// What `model` would take now in this size, or why it does not fit.
    fn admit(
        &self,
        known: &KnownModel,
        size: Size,
        own: Option<ReplicaMemory>,
    ) -> Result<ReplicaMemory, String> {
        let (ram, card) = self.free();
        let own = own.map_or((0, 0), |own| (own.host.0, own.device.0));
        let pools = Pools::of(&self.vitals((ram + own.0, card + own.1)));
        let (choice, footprint) = known.way(size, &pools, Margin::Default);
        if !choice.fit.fits {
            return Err(format!("does not fit: {}", choice.fit.why));
        }
        let (device, host) = (footprint.device.total(), footprint.host.total());
        Ok(ReplicaMemory { device, host, measured: true })
    }

    fn load(&mut self, wish: &LoadWish, known: &KnownModel, now: u64) {
        let size = size_of(wish);
        match self.admit(known, size, None) {
            Ok(takes) => {
                let until = now + (known.size.0 / LOAD_RATE).max(2);
                let life = Life::Loading { until };
                let process = Process { size, takes, life, request: None, busy_since: None };
                self.processes.insert(wish.model.clone(), process);
                self.failed.remove(&wish.model);
            }
            Err(why) => {
                self.short_of_memory.push(format!("{now}: {} on {}: {why}", wish.model, self.id));
                self.failed.insert(wish.model.clone(), why);
            }
        }
    }

    /// Follows a directive. `lent` are the digests that others have.
    pub(super) fn direct(
        &mut self,
        directive: &Directive,
        catalogue: &Catalogue,
        lent: &BTreeSet<Digest>,
        now: u64,
    ) {
        match directive {
            Directive::Load(wish) => self.told_to_load(wish, &catalogue[&wish.model], now),
            Directive::Unload(model) => {
                let Some(process) = self.processes.get_mut(model) else { return };
                if matches!(process.life, Life::Loading { .. }) {
                    self.processes.remove(model);
                } else {
                    process.life = Life::Draining { then: None };
                }
            }
            Directive::Pull(wish) => {
                let size = catalogue[&wish.model].size.0;
                let is_lent = wish.digest.as_ref().is_some_and(|digest| lent.contains(digest));
                let is_there = wish.source != crate::machine::PullSource::Mesh || is_lent;
                let fate = if is_there {
                    (TransferState::Running, now + size / FETCH_RATE)
                } else {
                    (TransferState::Failed("nobody has it".into()), now)
                };
                self.fetches.insert(wish.model.clone(), fate);
            }
            Directive::CancelPull(_) | Directive::Delete(_) => panic!("nobody asks for that"),
        }
    }

    fn told_to_load(&mut self, wish: &LoadWish, known: &KnownModel, now: u64) {
        let Some(process) = self.processes.get_mut(&wish.model) else {
            if self.files.contains(&wish.model) {
                self.load(wish, known, now);
            }
            return;
        };
        let (own, size) = (process.takes, process.size);
        let wished = size_of(wish);
        match &mut process.life {
            Life::Loading { .. } => {}
            Life::Draining { then } => *then = Some(wish.clone()),
            Life::Loaded
                if wished.context <= size.context
                    && (wished.slots, wished.cache) == (size.slots, size.cache) => {}
            Life::Loaded => match self.admit(known, wished, Some(own)) {
                Ok(_) => {
                    let then = Some(wish.clone());
                    self.processes.get_mut(&wish.model).expect("it is there").life = Life::Draining { then };
                }
                Err(why) => {
                    self.short_of_memory.push(format!("{now}: {} anew on {}: {why}", wish.model, self.id));
                    let reason = format!("stays as it is loaded: {why}");
                    let at_ms = EPOCH_MS + now * 1000 + self.refusals.len() as u64;
                    self.refusals.push(StoreRefusal { model: wish.model.clone(), reason, at_ms });
                }
            },
        }
    }

    /// Time goes by.
    pub(super) fn tick(&mut self, catalogue: &Catalogue, dice: &mut Dice, now: u64) {
        self.late = Some(self.free());
        let mut gone = Vec::new();
        for (model, process) in &mut self.processes {
            if matches!(process.life, Life::Loading { until } if until <= now) {
                process.life = Life::Loaded;
            }
            if process.request.is_some_and(|until| until <= now) {
                process.request = None;
            }
            let chance = if self.popular.contains(model) { 95 } else { 4 };
            if process.request.is_none() && matches!(process.life, Life::Loaded) && dice.percent(chance) {
                process.request = Some(now + REQUEST);
            }
            process.busy_since = process.request.map(|_| process.busy_since.unwrap_or(now));
            if let (Life::Draining { then }, None) = (&process.life, process.request) {
                gone.push((model.clone(), then.clone()));
            }
        }
        for (model, then) in gone {
            self.processes.remove(&model);
            if let Some(wish) = then {
                self.load(&wish, &catalogue[&model], now);
            }
        }
        for (model, (state, until)) in &mut self.fetches {
            if *state == TransferState::Running && *until <= now {
                *state = TransferState::Done;
                self.files.insert(model.clone());
            }
        }
    }

    pub(super) fn requests(&self, model: &ModelId) -> u32 {
        u32::from(self.processes.get(model).is_some_and(|process| process.request.is_some()))
    }

    /// What the router sees of it; `is_late`: its memory as it was a moment ago.
    pub(super) fn view(&self, catalogue: &Catalogue, is_late: bool) -> MachineView {
        let replica = |model: &ModelId| {
            let state = self
                .failed
                .get(model)
                .map_or(ReplicaState::Available, |why| ReplicaState::Failed(why.clone()));
            let mut replica = Replica::new(model.clone(), state);
            if let Some(process) = self.processes.get(model) {
                (replica.state, replica.memory) = match process.life {
                    Life::Loading { .. } => (ReplicaState::Loading, None),
                    Life::Loaded => (ReplicaState::Loaded, Some(process.takes)),
                    Life::Draining { .. } => (ReplicaState::Available, Some(process.takes)),
                };
                (replica.context, replica.slots) = (Some(process.size.context), Some(process.size.slots));
                replica.cache_type = Some(process.size.cache);
                replica.busy = Some(self.requests(model));
            }
            replica
        };
        let capabilities =
            Capabilities { can_load: true, can_unload: true, can_size: true, ..Capabilities::default() };
        let engine = Engine {
            state: EngineState::Up,
            capabilities,
            replicas: self.files.iter().map(replica).collect(),
            ..Engine::new("store", EngineKind::LlamaServer, true)
        };
        let stored = |model: &ModelId| StoredModel {
            digest: catalogue[model].digest.clone(),
            ..StoredModel::new(model.clone(), catalogue[model].size)
        };
        let transfer = |(model, (state, _)): (&ModelId, &(TransferState, u64))| Transfer {
            model: model.clone(),
            kind: TransferKind::Copy,
            source: "simulated".into(),
            state: state.clone(),
            done: Bytes(0),
            total: None,
            rate: None,
        };
        let free = self.late.filter(|_| is_late).unwrap_or_else(|| self.free());
        MachineView {
            id: self.id.clone(),
            liveness: if self.away { Liveness::Offline } else { Liveness::Alive },
            last_heard: Moment(0),
            path: Some(DataPath::Quic),
            draining: false,
            rtt_s: None,
            hardware: Some(hardware()),
            vitals: Some(self.vitals(free)),
            engines: vec![engine],
            store: Store {
                models: self.files.iter().map(stored).collect(),
                transfers: self.fetches.iter().map(transfer).collect(),
                refusals: self.refusals.clone(),
            },
            profile: None,
            history: BTreeMap::new(),
        }
    }
}
