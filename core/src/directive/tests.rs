//! Steps towards plans, one rule after the other, on machines and plans made by hand.

mod lost_and_refused;
mod pace;
mod simulated;
mod sizes;

use super::*;
use crate::fit::{Demand, Offload};
use crate::fleet::tests::{machine, machine_id, model_id, view_of};
use crate::machine::{
    Capabilities, Digest, Hardware, Launch, Reading, ReplicaMemory, StoreRefusal, Transfer, TransferKind,
    TransferState,
};
use crate::memory::{CacheType, Confidence, Footprint, Parts};
use crate::placement::{MachineAfter, Serves};
use crate::units::Bytes;

const GIB: u64 = 1 << 30;
/// No step.
const NONE: [&str; 0] = [];

fn at(seconds: f64) -> Moment {
    Moment(0).plus(Duration::from_secs(1000)).plus(Duration::from_secs_f64(seconds))
}

/// The hardware of a machine that starts the models of its store.
fn hardware() -> Hardware {
    Hardware {
        hostname: "test".into(),
        cpu: Reading::unknown("test"),
        cpu_threads: 2,
        system: Reading::unknown("test"),
        agent_version: "0".into(),
        launch: Some(Launch { program: "test".into(), uses_gpu: true, context: 16_384, slots: 1 }),
    }
}

fn placed(machine: &str, model: &str, stage: Stage) -> Placed {
    let confidence = Confidence::Exact;
    Placed {
        machine: machine_id(machine),
        model: model_id(model),
        context: Some(1024),
        slots: 2,
        cache: CacheType::F16,
        offload: Offload::None,
        gpu: None,
        footprint: Footprint {
            device: Parts::default(),
            host: Parts::default(),
            confidence,
            notes: Vec::new(),
        },
        needs: Demand { device: Bytes(0), host: Bytes(GIB) },
        serves: Vec::new(),
        stage,
        pinned: false,
        digest: None,
        source: None,
        why: "test".into(),
    }
}

/// A mesh with its plan and its course.
struct Mesh {
    machines: Vec<MachineView>,
    plan: Plan,
    course: Course,
    busy: BTreeMap<ModelId, u32>,
}

impl Mesh {
    /// Machines with the models that each has in memory, and nothing planned.
    fn new(machines: &[(&str, &[&str])]) -> Self {
        let mut mesh = Self {
            machines: Vec::new(),
            plan: Plan::default(),
            course: Course::default(),
            busy: BTreeMap::new(),
        };
        for (name, models) in machines {
            let mut one = machine(name, models);
            one.hardware = Some(hardware());
            let can = &mut one.engines[0].capabilities;
            *can = Capabilities { can_load: true, can_unload: true, can_size: true, ..*can };
            mesh.plan.machines.push(MachineAfter {
                machine: one.id.clone(),
                pools: Vec::new(),
                barred: String::new(),
            });
            mesh.machines.push(one);
        }
        mesh
    }

    fn place(&mut self, machine: &str, model: &str, stage: Stage) -> &mut Placed {
        self.plan.placed.push(placed(machine, model, stage));
        self.plan.placed.last_mut().expect("just pushed")
    }

    fn machine(&mut self, name: &str) -> &mut MachineView {
        self.machines.iter_mut().find(|machine| machine.id.as_str() == name).expect("there")
    }

    /// The first machine's replica of `model`; it is made where there is none.
    fn replica(&mut self, model: &str) -> &mut Replica {
        let replicas = &mut self.machines[0].engines[0].replicas;
        let found = replicas.iter().position(|replica| replica.model.as_str() == model);
        let at = found.unwrap_or_else(|| {
            replicas.push(Replica::new(model_id(model), ReplicaState::Available));
            replicas.len() - 1
        });
        &mut replicas[at]
    }

    fn show(&mut self, model: &str, state: ReplicaState) {
        self.replica(model).state = state;
    }

    /// Puts the first machine's models where they are planned, in the planned size.
    fn obey(&mut self, model: &str) {
        let placed = self.plan.placed.iter().find(|placed| placed.model.as_str() == model).cloned();
        let replica = self.replica(model);
        replica.state = ReplicaState::Loaded;
        if let Some(placed) = placed {
            (replica.context, replica.slots) = (placed.context, Some(placed.slots));
        }
    }

    fn unplan(&mut self, model: &str) {
        self.plan.placed.retain(|placed| placed.model.as_str() != model);
    }

    fn store(&mut self, machine: &str, model: &str, digest: Option<char>) {
        let digest = digest.map(|digit| Digest::new(&digit.to_string().repeat(64)).expect("valid"));
        let stored = StoredModel { digest, ..StoredModel::new(model_id(model), Bytes(GIB)) };
        self.machine(machine).store.models.push(stored);
    }

    /// The transfer of `model` to the first machine is there now, in this state.
    fn transfer(&mut self, model: &str, state: TransferState) {
        let transfers = &mut self.machines[0].store.transfers;
        transfers.retain(|transfer| transfer.model.as_str() != model);
        transfers.push(Transfer {
            model: model_id(model),
            kind: TransferKind::Copy,
            source: "test".into(),
            state,
            done: Bytes(0),
            total: None,
            rate: None,
        });
    }

    fn steps(&mut self, seconds: f64) -> Vec<Step> {
        let view = view_of(self.machines.clone());
        let busy = &self.busy;
        let requests = |_: &MachineId, model: &ModelId| busy.get(model).copied().unwrap_or(0);
        self.course.look(&view, at(seconds));
        let steps = next_steps(&self.plan, &view, &mut self.course, &requests, at(seconds));
        if let Some(next) = self.course.next_change(at(seconds)) {
            assert!(next > at(seconds), "{next:?} is no time to wait for");
        }
        for step in &steps {
            assert!(!step.why.is_empty(), "{step:?}");
        }
        steps
    }

    /// The steps in words: `msi: load big`.
    fn told(&mut self, seconds: f64) -> Vec<String> {
        self.steps(seconds).iter().map(in_words).collect()
    }
}

fn in_words(step: &Step) -> String {
    let words = match &step.directive {
        Directive::Load(wish) => format!("load {}", wish.model),
        Directive::Unload(model) => format!("unload {model}"),
        Directive::Pull(wish) => format!("fetch {}", wish.model),
        Directive::CancelPull(model) => format!("cancel {model}"),
        Directive::Delete(model) => format!("delete {model}"),
    };
    format!("{}: {words}", step.machine)
}

fn refuse(mesh: &mut Mesh, model: &str, reason: &str, at_ms: u64) {
    let refusal = StoreRefusal { model: model_id(model), reason: reason.into(), at_ms };
    mesh.machines[0].store.refusals.push(refusal);
}
