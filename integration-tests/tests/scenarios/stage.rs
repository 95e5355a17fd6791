//! The simulated mesh of a scenario: machines as they report themselves, and what they do when a plan is followed.

use mesh_core::fit::Offload;
use mesh_core::fleet::{Answers, FleetView, History, MachineView};
use mesh_core::health::Liveness;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{
    Capabilities, Capacity, Digest, Engine, EngineKind, EngineState, Gpu, GpuState, GpuVendor, Hardware,
    Launch, Pool, Power, Reading, Replica, ReplicaMemory, ReplicaState, Store, StoredModel, Thermal,
    ThermalState, UnifiedLimit, Vitals,
};
use mesh_core::memory::CacheType;
use mesh_core::placement::{Catalogue, Conditions, Plan, Site, Stage as At, World, plan};
use mesh_core::plan_check::faults;
use mesh_core::strategy::Wishes;
use mesh_core::units::{Bytes, Moment};
use std::collections::{BTreeMap, BTreeSet};

/// What one machine has in memory.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) context: u32,
    pub(super) slots: u32,
    pub(super) cache: CacheType,
    pub(super) offload: Offload,
    pub(super) device: u64,
    pub(super) host: u64,
}

/// One simulated machine. Bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Box {
    pub(super) ram: u64,
    /// RAM that other programs have.
    pub(super) ram_others: u64,
    /// Name and memory of its card; where it is shared, the part of RAM that it may take.
    pub(super) card: Option<(String, u64)>,
    pub(super) card_others: u64,
    pub(super) unified: bool,
    pub(super) disk: u64,
    pub(super) on_disk: BTreeSet<ModelId>,
    pub(super) loaded: BTreeMap<ModelId, Loaded>,
    pub(super) lost: bool,
    pub(super) hot: bool,
    pub(super) power: Option<Power>,
    pub(super) speeds: BTreeMap<ModelId, (Option<f64>, f64)>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Stage {
    pub(super) boxes: BTreeMap<MachineId, Box>,
    pub(super) catalogue: Catalogue,
    pub(super) wishes: Wishes,
    pub(super) minute_of_day: u16,
    pub(super) last: Option<Plan>,
}

fn capacity(total: u64, used: u64) -> Capacity {
    Capacity { total: Bytes(total), available: Bytes(total.saturating_sub(used)) }
}

impl Box {
    fn on_card(&self) -> u64 {
        self.loaded.values().map(|one| one.device).sum()
    }

    fn in_ram(&self) -> u64 {
        let own: u64 = self.loaded.values().map(|one| one.host).sum();
        own + if self.unified { self.on_card() } else { 0 }
    }

    fn gpus(&self) -> Reading<Vec<Gpu>> {
        let Some((name, memory)) = &self.card else { return Reading::Known(Vec::new()) };
        let ram_left = self.ram.saturating_sub(self.ram_others + self.in_ram());
        let card = capacity(*memory, self.card_others + self.on_card());
        let vendor = if self.unified { GpuVendor::Amd } else { GpuVendor::Nvidia };
        let pool = if self.unified {
            Pool::Unified { carve_out: capacity(0, 0), gtt: card, limited_by: UnifiedLimit::Driver }
        } else {
            Pool::Discrete { reserved: None }
        };
        // Shared memory is free only as far as RAM is.
        let most = if self.unified { Bytes(card.available.0.min(ram_left)) } else { card.available };
        Reading::Known(vec![Gpu {
            state: GpuState::Ready,
            memory: Reading::Known(Capacity { available: most, ..card }),
            pool,
            ..Gpu::unknown("0000:01:00.0", name, vendor, "not simulated")
        }])
    }

    fn view(&self, id: &MachineId, catalogue: &Catalogue) -> MachineView {
        let thermal = if self.hot {
            Thermal { state: ThermalState::Hot, why: "GPU reads 96 °C, its limit is 97 °C".into() }
        } else {
            Thermal { state: ThermalState::Ok, why: String::new() }
        };
        let vitals = Vitals {
            ram: Reading::Known(capacity(self.ram, self.ram_others + self.in_ram())),
            gpus: self.gpus(),
            disk: Reading::Known(capacity(self.disk, 0)),
            thermal,
            power: self.power.map_or(Reading::Known(Power::Mains), Reading::Known),
            ..Vitals::unknown("not simulated")
        };
        let replicas = self.loaded.iter().map(|(model, one)| Replica {
            context: Some(one.context),
            slots: Some(one.slots),
            cache_type: Some(one.cache),
            offload: Some(one.offload),
            memory: Some(ReplicaMemory { device: Bytes(one.device), host: Bytes(one.host), measured: true }),
            ..Replica::new(model.clone(), ReplicaState::Loaded)
        });
        let capabilities =
            Capabilities { can_load: true, can_unload: true, can_size: true, ..Capabilities::default() };
        let engine = Engine {
            state: EngineState::Up,
            capabilities,
            replicas: replicas.collect(),
            ..Engine::new("llama-server", EngineKind::LlamaServer, true)
        };
        let models = self.on_disk.iter().map(|model| {
            let known = catalogue.get(model);
            StoredModel {
                digest: known.and_then(|known| known.digest.clone()),
                ..StoredModel::new(model.clone(), known.map_or(Bytes(0), |known| known.size))
            }
        });
        let launch = Launch { program: "llama-server".into(), uses_gpu: true, context: 16_384, slots: 1 };
        let history = self.speeds.iter().map(|(model, (prefill, decode))| {
            let speed = mesh_core::speed::Speed::seed(*prefill, Some(*decode));
            (model.clone(), History { speed, ..History::default() })
        });
        MachineView {
            id: id.clone(),
            liveness: if self.lost { Liveness::Offline } else { Liveness::Alive },
            last_heard: Moment::default(),
            path: None,
            draining: false,
            hardware: Some(Hardware {
                hostname: id.to_string(),
                cpu: Reading::unknown("not simulated"),
                cpu_threads: 8,
                system: Reading::unknown("not simulated"),
                agent_version: "0".into(),
                launch: Some(launch),
            }),
            vitals: Some(vitals),
            engines: vec![engine],
            store: Store { models: models.collect(), ..Store::default() },
            rtt_s: None,
            profile: None,
            history: history.collect(),
        }
    }
}

impl Stage {
    fn world(&self) -> World {
        let machines = self.boxes.iter().map(|(id, one)| one.view(id, &self.catalogue)).collect();
        let view = FleetView::new(machines, &Answers::new());
        let sites = view.machines.iter().map(|machine| {
            let one = &self.boxes[&machine.id];
            let conditions =
                Conditions { minute_of_day: self.minute_of_day, is_lost: one.lost, is_too_hot: one.hot };
            let mut site = Site::of(machine, &self.wishes.limits(&machine.id), None, conditions);
            // As from its profile: what was measured there.
            site.speeds = one.speeds.iter().map(|(model, speed)| record(model, *speed)).collect();
            site
        });
        World { sites: sites.collect(), catalogue: self.catalogue.clone(), ..World::default() }
    }

    /// Plans, has the critic read it, and keeps it.
    pub(super) fn plan(&mut self) -> &Plan {
        let world = self.world();
        let made = plan(&world, &self.wishes);
        let found = faults(&made, &world, &self.wishes);
        assert!(found.is_empty(), "the critic: {found:?}");
        self.last.insert(made)
    }

    /// Does what the last plan says.
    pub(super) fn follow(&mut self) -> Result<(), String> {
        let plan = self.last.take().ok_or("there is no plan to follow")?;
        for (id, one) in &mut self.boxes {
            if one.lost {
                continue;
            }
            one.loaded.retain(|model, _| plan.find(id, model).is_some());
            for placed in plan.on(id).filter(|placed| !matches!(placed.stage, At::Resident | At::Fixed)) {
                one.on_disk.insert(placed.model.clone());
                let loaded = Loaded {
                    context: placed.context.unwrap_or(0),
                    slots: placed.slots,
                    cache: placed.cache,
                    offload: placed.offload,
                    device: placed.needs.device.0,
                    host: placed.needs.host.0,
                };
                one.loaded.insert(placed.model.clone(), loaded);
            }
            if one.on_card() + one.card_others > one.card.as_ref().map_or(0, |card| card.1) {
                return Err(format!("{id}: its card is overfull"));
            }
            if one.in_ram() + one.ram_others > one.ram {
                return Err(format!("{id}: its RAM is overfull"));
            }
        }
        Ok(())
    }
}

fn record(model: &ModelId, (prefill, decode): (Option<f64>, f64)) -> mesh_core::profile::SpeedRecord {
    mesh_core::profile::SpeedRecord {
        model: model.to_string(),
        build: "llama-server".into(),
        device: "card".into(),
        offload: mesh_core::fit::Offload::Full,
        prefill,
        decode: Some(decode),
        n: 5,
        at: 0,
    }
}

/// A digest of its own for each name.
pub(super) fn digest(model: &ModelId) -> Digest {
    let text: String = model.as_str().bytes().map(|byte| format!("{byte:02x}")).collect();
    let digits: String = text.chars().cycle().take(64).collect();
    Digest::new(&digits).expect("64 hexadecimal digits")
}
