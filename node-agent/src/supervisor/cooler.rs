//! Takes models out of memory when the machine stays hot although it gets no new work, and brings them back.
//!
//! Nothing is cut: an unload waits for the answers that run. What others unloaded meanwhile is left alone.

use super::SupervisorHandle;
use super::load_facts::Subject;
use mesh_core::id::ModelId;
use mesh_core::machine::{Directive, Engine, LoadWish, Replica, ReplicaState, Vitals};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The task.
pub(super) struct Cooler {
    pub(super) supervisor: SupervisorHandle,
    /// Whether the machine has been hot for too long.
    pub(super) overheated: watch::Receiver<bool>,
    pub(super) vitals: watch::Receiver<Arc<Vitals>>,
}

impl Cooler {
    /// Runs until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let unloaded = async {
            while self.overheated.wait_for(|&overheated| overheated).await.is_ok() {
                let why = self.vitals.borrow().thermal.why.clone();
                let loaded = loaded(&self.supervisor.engines().borrow(), &self.supervisor.roster.subjects());
                for model in loaded.keys() {
                    tracing::warn!(%model, %why, "unloading: the machine stays hot");
                    self.supervisor.direct(Directive::Unload(model.clone()));
                }
                let admits = |vitals: &Arc<Vitals>| vitals.thermal.state.admits_load();
                if self.vitals.wait_for(admits).await.is_err() {
                    return;
                }
                let engines = self.supervisor.engines().borrow().clone();
                for (model, wish) in loaded {
                    if rests(&engines, &model) {
                        tracing::info!(%model, "loading again: the machine has cooled down");
                        self.supervisor.direct(Directive::Load(wish));
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = unloaded => {}
        }
    }
}

/// What is in memory and can be taken out, with the wish that brings it back as it is. Engines that load on demand
/// are told to unload too; they load again by themselves.
fn loaded(engines: &[Engine], subjects: &[Subject]) -> BTreeMap<ModelId, LoadWish> {
    let cache = |model: &ModelId| {
        let facts = subjects.iter().find(|subject| subject.replica.model == *model)?.facts.as_ref()?;
        Some(facts.key.options.cache.clone())
    };
    let wish = |engine: &Engine, replica: &Replica| {
        let model = replica.model.clone();
        if !engine.capabilities.can_size {
            return LoadWish::from(model);
        }
        let cache_type = cache(&model);
        LoadWish { context: replica.context, slots: replica.slots, cache_type, ..LoadWish::from(model) }
    };
    let unloaders = engines.iter().filter(|engine| engine.capabilities.can_unload);
    let replicas = unloaders.flat_map(|engine| engine.replicas.iter().map(move |replica| (engine, replica)));
    let held = replicas.filter(|(_, replica)| replica.state == ReplicaState::Loaded);
    held.map(|(engine, replica)| (replica.model.clone(), wish(engine, replica))).collect()
}

/// Whether the model is there, in no memory, and does not come back by itself.
fn rests(engines: &[Engine], model: &ModelId) -> bool {
    let holders = || engines.iter().filter(|engine| engine.replicas.iter().any(|r| r.model == *model));
    let in_memory = |engine: &Engine| {
        engine.replicas.iter().any(|r| r.model == *model && r.state != ReplicaState::Available)
    };
    holders().any(|engine| !engine.kind.loads_on_demand()) && !holders().any(in_memory)
}
