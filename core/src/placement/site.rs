//! One machine as the planner sees it: what its pools would hold if everything of ours left them, less what is the
//! human's; what it holds, what is on its disk, how fast it was.

use crate::fit::{Margin, Offload, Pools};
use crate::fleet::MachineView;
use crate::health::Liveness;
use crate::id::{MachineId, ModelId};
use crate::machine::{Capacity, Engine, Power, Reading, Replica, ReplicaMemory, ReplicaState, ThermalState};
use crate::memory::CacheType;
use crate::profile::{FootprintRecord, Profile, SpeedRecord};
use crate::strategy::{BatteryPolicy, MachineLimits};
use crate::units::{Bytes, Celsius};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes a second that a load is taken to have where none was measured: a common NVMe disk.
const LOAD_RATE: f64 = 1e9;

/// Why a machine is closed or holds, where a command of a person ends it.
pub(super) const OFFLINE: &str = "it is offline";
pub(super) const DRAINED: &str = "it is drained";
pub(super) const CORDONED: &str = "it is cordoned";

/// What a machine may be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Anything.
    Open,
    /// What it holds stays, nothing new comes, and why.
    Holds(String),
    /// Its models go elsewhere, and why.
    Closed(String),
}

/// A model that a machine has in memory or on its way there.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Which.
    pub model: ModelId,
    /// Tokens of one request, where its engine tells.
    pub context: Option<u32>,
    /// Requests at once.
    pub slots: Option<u32>,
    /// Type of its cache.
    pub cache: Option<CacheType>,
    /// Which part of it lies on the processor, where known.
    pub offload: Option<Offload>,
    /// The graphics processor that it lies on, as far as can be told from what is used there.
    pub gpu: Option<String>,
    /// What it takes.
    pub memory: Option<ReplicaMemory>,
    /// It is not ours to unload: the machine's configuration has it always there, or its engine takes no orders.
    pub fixed: bool,
    /// Requests that it has now.
    pub busy: u32,
    /// Its engine tells how many those are, or only the mesh asks it: who uses an Ollama beside the mesh is seen by nobody.
    pub tells_busy: bool,
}

/// A model that a machine can bring into memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Bytes of its file, where known.
    pub size: Option<Bytes>,
    /// Why it cannot be loaded, where that is known.
    pub broken: Option<String>,
    /// Its engine takes context and slots as they are wished.
    pub can_size: bool,
}

/// How fast a model was on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pace {
    /// Prompt tokens each second.
    pub prefill: Option<f64>,
    /// Seconds for each token of a single answer.
    pub tpot_s: Option<f64>,
    /// Seconds that a load took.
    pub load_s: Option<f64>,
}

/// One machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Its name.
    pub machine: MachineId,
    /// What it may be given.
    pub standing: Standing,
    /// It has been away for so long that it is not counted with: its files cannot be had either.
    pub is_lost: bool,
    /// Free memory now, and what ours would free, less the human's reserve.
    pub pools: Pools,
    /// What was held back of them for the human: RAM, and each graphics processor.
    pub reserved: (Bytes, Bytes),
    /// What must stay free beside a load.
    pub margin: Margin,
    /// Words by which modes choose it.
    pub labels: BTreeSet<String>,
    /// It can start models of its store.
    pub launches: bool,
    /// Free space for model files.
    pub disk_free: Option<Bytes>,
    /// What it can bring into memory.
    pub stored: BTreeMap<ModelId, Stored>,
    /// What it has there.
    pub held: Vec<Held>,
    /// How fast they were.
    pub paces: BTreeMap<ModelId, Pace>,
    /// What loads were measured to take, by its profile.
    pub footprints: Vec<FootprintRecord>,
    /// The profile's speeds, by digest or name.
    pub speeds: Vec<SpeedRecord>,
}

/// What the planner is told of a machine beside its own reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions {
    /// Minutes since midnight where the router is.
    pub minute_of_day: u16,
    /// It has been away for so long that its models are to be placed elsewhere.
    pub is_lost: bool,
    /// It has been too hot for so long that its models are to be placed elsewhere.
    pub is_too_hot: bool,
}

impl Site {
    /// The machine of `view`.
    #[must_use]
    pub fn of(
        view: &MachineView,
        limits: &MachineLimits,
        profile: Option<&Profile>,
        conditions: Conditions,
    ) -> Self {
        let launch = view.hardware.as_ref().and_then(|hardware| hardware.launch.as_ref());
        let mut pools = view.vitals.as_ref().map_or_else(
            || Pools {
                devices: Vec::new(),
                ram: Reading::unknown("it has not told its memory yet"),
                notes: Vec::new(),
            },
            Pools::of,
        );
        if let Some(launch) = launch.filter(|launch| !launch.uses_gpu) {
            let why = format!("its engine ({}) uses the processor only", launch.program);
            pools = pools.host_only(&why);
        }
        // What a lost machine has in memory is of no use, and nobody can unload it.
        let mut held = if conditions.is_lost { Vec::new() } else { held(view) };
        lie(&mut held, &pools);
        for one in held.iter().filter(|one| !one.fixed) {
            if let Some(memory) = one.memory {
                give_back(&mut pools, memory, one.gpu.as_deref());
            }
        }
        // A model that drains is shown as unloaded while it holds its memory: that is on its way back.
        for memory in replicas(view)
            .filter(|(_, one)| one.state == ReplicaState::Available)
            .filter_map(|(_, one)| one.memory)
        {
            let most = pools.devices.iter().max_by_key(|device| used(&device.memory));
            let gpu = most.map(|device| device.id.clone());
            give_back(&mut pools, memory, gpu.as_deref());
        }
        hold_back(&mut pools, limits);
        let mut stored: BTreeMap<ModelId, Stored> = BTreeMap::new();
        for model in &view.store.models {
            let name = model.served_as.as_ref().unwrap_or(&model.model);
            let one =
                Stored { size: Some(model.size), broken: model.broken.clone(), can_size: launch.is_some() };
            if launch.is_some() || model.served_as.is_some() {
                stored.insert(name.clone(), one);
            }
        }
        for (engine, replica) in replicas(view).filter(|(engine, _)| engine.capabilities.can_load) {
            let can_size = engine.capabilities.can_size;
            let one = stored.entry(replica.model.clone()).or_insert(Stored {
                size: replica.size,
                broken: None,
                can_size,
            });
            one.can_size |= can_size;
        }
        let paces = view
            .history
            .iter()
            .map(|(model, history)| {
                let tpot_s = history.speed.decode_line().map(|(base, each)| base + each);
                let speed = history.speed;
                (model.clone(), Pace { prefill: speed.prefill(), tpot_s, load_s: speed.load_s() })
            })
            .collect();
        let disk = view.vitals.as_ref().and_then(|vitals| vitals.disk.known());
        Self {
            machine: view.id.clone(),
            standing: standing(view, limits, conditions),
            is_lost: conditions.is_lost,
            pools,
            reserved: (limits.reserve_ram, limits.reserve_vram),
            margin: profile.map_or(Margin::Default, |profile| Margin::of(&profile.residuals())),
            labels: limits.labels.clone(),
            launches: launch.is_some(),
            disk_free: disk.map(|disk| disk.available),
            stored,
            held,
            paces,
            footprints: profile.map(|profile| profile.footprints.clone()).unwrap_or_default(),
            speeds: profile.map(|profile| profile.speeds.clone()).unwrap_or_default(),
        }
    }

    /// Seconds that a load of `model` takes, whose file or memory has so many bytes: measured, else at [`LOAD_RATE`].
    #[must_use]
    pub fn load_seconds(&self, model: &ModelId, bytes: Bytes) -> f64 {
        let measured = self.paces.get(model).and_then(|pace| pace.load_s);
        measured.unwrap_or(bytes.0 as f64 / LOAD_RATE)
    }

    /// What it holds of `model`.
    #[must_use]
    pub fn held(&self, model: &ModelId) -> Option<&Held> {
        self.held.iter().find(|held| held.model == *model)
    }
}

fn replicas(view: &MachineView) -> impl Iterator<Item = (&Engine, &Replica)> {
    view.engines.iter().flat_map(|engine| engine.replicas.iter().map(move |replica| (engine, replica)))
}

/// Models in memory or on their way, each once.
fn held(view: &MachineView) -> Vec<Held> {
    let mut held: Vec<Held> = Vec::new();
    for (engine, replica) in replicas(view) {
        let is_there = matches!(replica.state, ReplicaState::Loaded | ReplicaState::Loading);
        let is_known = held.iter().any(|one| one.model == replica.model);
        if !is_there || is_known || engine.is_down() {
            continue;
        }
        held.push(Held {
            model: replica.model.clone(),
            context: replica.context,
            slots: replica.slots,
            cache: replica.cache_type,
            offload: replica.offload,
            gpu: None,
            memory: replica.memory,
            fixed: !engine.capabilities.can_unload,
            busy: replica.busy.unwrap_or(0),
            tells_busy: replica.busy.is_some() || engine.supervised,
        });
    }
    held
}

fn used(capacity: &Capacity) -> u64 {
    capacity.total.0.saturating_sub(capacity.available.0)
}

/// Says on which processor each model lies: no engine tells, so the largest first, each where least is used of what it
/// needs to be used.
fn lie(held: &mut [Held], pools: &Pools) {
    let mut in_use: Vec<(u64, &str)> =
        pools.devices.iter().map(|device| (used(&device.memory), device.id.as_str())).collect();
    let bytes = |one: &Held| one.memory.map_or(0, |memory| memory.device.0);
    let mut order: Vec<usize> = (0..held.len()).filter(|&at| bytes(&held[at]) > 0).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(bytes(&held[at])));
    for at in order {
        let takes = bytes(&held[at]);
        // Where it cannot be by the figures, it is where most is used.
        let place = in_use.iter_mut().min_by_key(|(used, _)| (*used < takes, used.abs_diff(takes)));
        if let Some((used, id)) = place {
            *used = used.saturating_sub(takes);
            held[at].gpu = Some((*id).to_owned());
        }
    }
}

/// Frees what a model of ours holds, on that processor.
fn give_back(pools: &mut Pools, memory: ReplicaMemory, gpu: Option<&str>) {
    let device = pools.devices.iter_mut().find(|device| Some(device.id.as_str()) == gpu);
    let mut on_host = memory.host.0;
    match device {
        Some(device) => {
            let free = device.memory.available.0.saturating_add(memory.device.0);
            device.memory.available = Bytes(free.min(device.memory.total.0));
            if let Some(carve_out) = &mut device.carve_out {
                // Shared memory: the part that RAM does not contain is filled first by the drivers, so it is freed last.
                let in_carve_out = memory.device.0.min(used(carve_out));
                on_host = on_host.saturating_add(memory.device.0 - in_carve_out);
                carve_out.available = Bytes(carve_out.available.0 + in_carve_out);
            }
        }
        None => on_host = on_host.saturating_add(memory.device.0),
    }
    if let Reading::Known(ram) = &mut pools.ram {
        ram.available = Bytes(ram.available.0.saturating_add(on_host).min(ram.total.0));
    }
}

/// The human's part is of the whole, not of what is free: a game that is running takes from it.
fn hold_back(pools: &mut Pools, limits: &MachineLimits) {
    let bound = |capacity: &mut Capacity, reserve: Bytes| {
        let most = capacity.total.0.saturating_sub(reserve.0);
        capacity.available = Bytes(capacity.available.0.min(most));
    };
    for device in &mut pools.devices {
        bound(&mut device.memory, limits.reserve_vram);
    }
    if let Reading::Known(ram) = &mut pools.ram {
        bound(ram, limits.reserve_ram);
    }
}

fn standing(view: &MachineView, limits: &MachineLimits, conditions: Conditions) -> Standing {
    let Some(vitals) = &view.vitals else {
        return Standing::Holds("it has not reported yet".into());
    };
    if conditions.is_lost {
        return Standing::Closed(OFFLINE.into());
    }
    if limits.drained {
        return Standing::Closed(DRAINED.into());
    }
    if view.draining {
        return Standing::Closed("it is leaving".into());
    }
    if limits.quiet.iter().any(|quiet| quiet.contains(conditions.minute_of_day)) {
        return Standing::Closed("these are its quiet hours".into());
    }
    if conditions.is_too_hot {
        return Standing::Closed(format!("it is too hot: {}", vitals.thermal.why));
    }
    if let Some(Power::Battery(percent)) = vitals.power.known() {
        let left = percent.map(|percent| format!(" ({percent} % left)")).unwrap_or_default();
        match limits.on_battery {
            BatteryPolicy::Leave => return Standing::Closed(format!("it runs on its battery{left}")),
            BatteryPolicy::Hold => return Standing::Holds(format!("it runs on its battery{left}")),
            BatteryPolicy::Allow => {}
        }
    }
    if limits.cordoned {
        return Standing::Holds(CORDONED.into());
    }
    if view.liveness != Liveness::Alive {
        return Standing::Holds("it is silent".into());
    }
    if vitals.thermal.state >= ThermalState::Derated {
        return Standing::Holds(format!("it is {}: {}", vitals.thermal.state.word(), vitals.thermal.why));
    }
    if let (Some(limit), Some(hottest)) = (limits.max_temperature, vitals.hottest())
        && hottest.value.0 > limit.0
    {
        let Celsius(now) = hottest.value;
        return Standing::Holds(format!(
            "{} reads {now:.0} °C, its limit is {:.0} °C",
            hottest.sensor, limit.0
        ));
    }
    Standing::Open
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::Device;

    fn device(id: &str, in_use: u64) -> Device {
        let memory = Capacity { total: Bytes(100), available: Bytes(100 - in_use) };
        Device { id: id.into(), name: id.into(), memory, carve_out: None, holders: Vec::new() }
    }

    /// On which of the processors each of models of these sizes lies.
    fn places(devices: &[(&str, u64)], takes: &[u64]) -> Vec<Option<String>> {
        let devices = devices.iter().map(|(id, in_use)| device(id, *in_use)).collect();
        let pools = Pools { devices, ram: Reading::unknown("a test"), notes: Vec::new() };
        let held = |bytes: &u64| Held {
            model: ModelId::new("m").expect("valid"),
            context: None,
            slots: None,
            cache: None,
            offload: None,
            gpu: None,
            memory: Some(ReplicaMemory { device: Bytes(*bytes), host: Bytes(0), measured: true }),
            fixed: false,
            busy: 0,
            tells_busy: true,
        };
        let mut held: Vec<Held> = takes.iter().map(held).collect();
        lie(&mut held, &pools);
        held.into_iter().map(|one| one.gpu).collect()
    }

    #[test]
    fn each_model_lies_where_what_is_used_is_nearest_to_what_it_takes() {
        let of = |names: &[&str]| names.iter().map(|name| Some((*name).to_owned())).collect::<Vec<_>>();
        assert_eq!(places(&[("a", 62), ("b", 22)], &[20, 60]), of(&["b", "a"]));
        // Both lie on one: what the larger took is not there for the other.
        assert_eq!(places(&[("a", 80), ("b", 5)], &[20, 55]), of(&["a", "a"]));
        assert_eq!(places(&[("a", 50), ("b", 50)], &[45, 40]), of(&["a", "b"]));
        // By the figures it is nowhere: then where most is used.
        assert_eq!(places(&[("a", 3), ("b", 9)], &[30]), of(&["b"]));
        assert_eq!(places(&[], &[30]), [None]);
        assert_eq!(places(&[("a", 3)], &[0]), [None], "it lies in RAM");
    }
}
