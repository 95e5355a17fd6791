//! What of a snapshot matters to a plan. A heartbeat, a token more in a cache, a degree: none of them is worth a new one.

use mesh_core::fleet::FleetView;
use mesh_core::health::Liveness;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Capacity, Launch, Pool, Power, Reading, ReplicaState, StoredModel, ThermalState};

/// Free memory in steps of this many bytes: what a desktop takes and gives back all the time does not matter.
const STEP: u64 = 512 << 20;

/// One machine, as far as it matters.
#[derive(Debug, Clone, PartialEq)]
struct Machine {
    id: MachineId,
    liveness: Liveness,
    draining: bool,
    launch: Option<Launch>,
    heat: Option<ThermalState>,
    on_battery: Option<bool>,
    free: Vec<u64>,
    replicas: Vec<Replica>,
    stored: Vec<StoredModel>,
    /// How far each transfer is, in words.
    transfers: Vec<(ModelId, &'static str)>,
    refusals: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq)]
struct Replica {
    model: ModelId,
    state: ReplicaState,
    is_down: bool,
    context: Option<u32>,
    slots: Option<u32>,
    is_idle: bool,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Matters(Vec<Machine>);

impl Matters {
    pub(super) fn of(view: &FleetView) -> Self {
        Self(view.machines.iter().map(machine).collect())
    }
}

fn machine(view: &mesh_core::fleet::MachineView) -> Machine {
    let vitals = view.vitals.as_ref();
    let replicas = view.engines.iter().flat_map(|engine| {
        engine.replicas.iter().map(|replica| Replica {
            model: replica.model.clone(),
            state: replica.state.clone(),
            is_down: engine.is_down(),
            context: replica.context,
            slots: replica.slots,
            // One that became idle may be unloaded now.
            is_idle: replica.busy.unwrap_or(0) == 0,
        })
    });
    let store = &view.store;
    Machine {
        id: view.id.clone(),
        liveness: view.liveness,
        draining: view.draining,
        launch: view.hardware.as_ref().and_then(|hardware| hardware.launch.clone()),
        heat: vitals.map(|vitals| vitals.thermal.state),
        on_battery: vitals
            .and_then(|vitals| vitals.power.known())
            .map(|power| matches!(power, Power::Battery(_))),
        free: vitals.map(free).unwrap_or_default(),
        replicas: replicas.collect(),
        stored: store.models.clone(),
        transfers: store.transfers.iter().map(|one| (one.model.clone(), one.state.word())).collect(),
        refusals: store.refusals.iter().map(|refusal| refusal.at_ms).collect(),
    }
}

fn free(vitals: &mesh_core::machine::Vitals) -> Vec<u64> {
    let steps = |capacity: &Reading<Capacity>| capacity.known().map_or(0, |one| one.available.0 / STEP);
    let gpus = vitals.gpus.known().into_iter().flatten();
    let of_gpus = gpus.map(|gpu| match &gpu.pool {
        // Its memory is RAM, which is counted.
        Pool::Unified { .. } => 0,
        Pool::Discrete { .. } | Pool::Unknown(_) => steps(&gpu.memory),
    });
    std::iter::once(steps(&vitals.ram)).chain(of_gpus).collect()
}
