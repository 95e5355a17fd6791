//! The list of engines: one row each, written by the row's own keeper, read by everybody as a snapshot.
//!
//! Also the count of leases, so that "may this model be unloaded?" and "may this request begin?" are decided
//! under one short lock and never at odds.

use super::LOOK_PAUSE;
use super::lease::{Lease, LeaseCount, LeaseRefusal};
use super::load_facts::Subject;
use super::row::Row;
use mesh_core::fit::Claim;
use mesh_core::id::ModelId;
use mesh_core::machine::{Engine, EngineState, LoadWish, ReplicaMemory, ReplicaState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};

/// What a keeper is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    Load(LoadWish),
    Unload(ModelId),
    /// Fetch a model by the engine's own means.
    Pull(ModelId),
    CancelPull(ModelId),
    /// Unload it, and delete it from the engine's disk.
    Delete(ModelId),
}

/// Orders that wait for a keeper; more than this are a router gone mad.
pub(crate) const ORDER_QUEUE: usize = 64;

/// All engines of this machine.
pub(crate) struct Roster {
    rows: Mutex<BTreeMap<String, Row>>,
    published: watch::Sender<Arc<Vec<Engine>>>,
}

impl Roster {
    pub(crate) fn new() -> Self {
        Self { rows: Mutex::default(), published: watch::Sender::new(Arc::default()) }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Vec<Engine>>> {
        self.published.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a row unless its name is taken.
    pub(crate) fn add(&self, row: Row) -> bool {
        let mut rows = self.lock();
        if rows.contains_key(&row.engine.name) {
            return false;
        }
        rows.insert(row.engine.name.clone(), row);
        self.publish(&rows);
        true
    }

    pub(crate) fn remove(&self, name: &str) {
        let mut rows = self.lock();
        rows.remove(name);
        self.publish(&rows);
    }

    /// Changes the row `name` and tells everybody at once; `None` when there is none.
    pub(crate) fn change<T>(&self, name: &str, with: impl FnOnce(&mut Row) -> T) -> Option<T> {
        let mut rows = self.lock();
        let result = with(rows.get_mut(name)?);
        self.publish(&rows);
        Some(result)
    }

    fn publish(&self, rows: &BTreeMap<String, Row>) {
        let engines: Vec<Engine> = rows.values().map(Row::shown).collect();
        self.published.send_if_modified(|old| {
            let differs = **old != engines;
            if differs {
                *old = Arc::new(engines);
            }
            differs
        });
    }

    /// The addresses of all engines, to tell known ones from new ones.
    pub(crate) fn addresses(&self) -> BTreeSet<String> {
        self.lock().values().map(|row| row.base_url.to_string()).collect()
    }

    /// The state of the engine `name`.
    pub(crate) fn state_of(&self, name: &str) -> Option<EngineState> {
        self.lock().get(name).map(|row| row.engine.state.clone())
    }

    /// Leases `model` on the engine that has it loaded and the fewest requests of ours.
    pub(crate) fn lease(&self, model: &ModelId) -> Result<Lease, LeaseRefusal> {
        let mut rows = self.lock();
        let free = rows
            .values_mut()
            .filter(|row| row.may_lease(model).is_ok())
            // An engine that has it in memory before one that would have to load it first.
            .min_by_key(|row| {
                let cold = row.replica(model).is_none_or(|replica| replica.state != ReplicaState::Loaded);
                (cold, row.held(model))
            })
            .map(|row| row.lease(model));
        free.ok_or_else(|| refusal(rows.values(), model))
    }

    /// Leases `model` on the engine `name` when it is loaded there and nobody uses it: for checks, which go last.
    /// The count tells when somebody else comes.
    pub(crate) fn lease_idle(&self, name: &str, model: &ModelId) -> Option<(Lease, Arc<LeaseCount>)> {
        let mut rows = self.lock();
        let row = rows.get_mut(name).filter(|row| row.is_idle(model))?;
        let lease = row.lease(model);
        Some((lease, row.count(model)))
    }

    /// All loaded models that the truth checks may look at.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        self.lock().values().flat_map(Row::subjects).collect()
    }

    /// A loaded model with all that is known of its load.
    pub(crate) fn subject(&self, engine: &str, model: &ModelId) -> Option<Subject> {
        self.lock().get(engine)?.subject(model)
    }

    /// Resolves when no engine that the agent starts has `model` in memory.
    pub(crate) async fn none_holds(&self, model: &ModelId) {
        loop {
            let mut watch = self.watch();
            // The rows themselves: what drains is shown as available.
            if !self.lock().values().any(|row| row.engine.supervised && row.has_in_memory(model)) {
                return;
            }
            // What drains is shown as available already, so its end may be no news.
            if let Ok(Err(_)) = tokio::time::timeout(LOOK_PAUSE, watch.changed()).await {
                return;
            }
        }
    }

    /// What `model` holds on the engine `name`, where that was learned.
    pub(crate) fn memory_of(&self, name: &str, model: &ModelId) -> Option<ReplicaMemory> {
        self.lock().get(name)?.memory(model)
    }

    /// What the engine `name` gives up by itself when it loads another model.
    pub(crate) fn gives_up(&self, name: &str) -> Option<ReplicaMemory> {
        self.lock().get(name).map(Row::gives_up)
    }

    /// What the models of all engines hold, as far as it is known, but for those in the ledger.
    pub(crate) fn holders(&self) -> Vec<Claim> {
        self.lock().values().flat_map(Row::holders).collect()
    }

    /// The keepers that shall hear an order to load `model`: the first that has it, unless one holds it
    /// already.
    pub(crate) fn who_loads(&self, model: &ModelId) -> Option<(String, mpsc::Sender<Order>)> {
        let rows = self.lock();
        let having = || rows.values().filter(|row| row.replica(model).is_some());
        let best = having().min_by_key(|row| row.willing_to_load(model))?;
        Some((best.engine.name.clone(), best.orders.clone()))
    }

    /// The first engine that can fetch models by itself, and its kind.
    pub(crate) fn who_pulls(&self) -> Option<(String, mpsc::Sender<Order>)> {
        let rows = self.lock();
        let able = |row: &&Row| row.engine.capabilities.can_pull && row.engine.state == EngineState::Up;
        rows.values().find(able).map(|row| (row.engine.name.clone(), row.orders.clone()))
    }

    /// The engines that have `model` on their disk and can delete it.
    pub(crate) fn who_deletes(&self, model: &ModelId) -> Vec<(String, mpsc::Sender<Order>)> {
        let rows = self.lock();
        let able = |row: &&Row| row.engine.capabilities.can_delete && row.replica(model).is_some();
        rows.values().filter(able).map(|row| (row.engine.name.clone(), row.orders.clone())).collect()
    }

    /// All engines that may be fetching something.
    pub(crate) fn who_may_pull(&self) -> Vec<(String, mpsc::Sender<Order>)> {
        let rows = self.lock();
        let able = |row: &&Row| row.engine.capabilities.can_pull;
        rows.values().filter(able).map(|row| (row.engine.name.clone(), row.orders.clone())).collect()
    }

    /// The keepers that shall hear an order to unload `model`: all that hold it, or are about to.
    pub(crate) fn who_unloads(&self, model: &ModelId) -> Vec<(String, mpsc::Sender<Order>)> {
        let rows = self.lock();
        let holds = |row: &&Row| row.replica(model).is_some_and(|r| r.state != ReplicaState::Available);
        rows.values().filter(holds).map(|row| (row.engine.name.clone(), row.orders.clone())).collect()
    }
}

/// The refusal that is most useful to the asker: what will pass by itself comes first.
fn refusal<'a>(rows: impl Iterator<Item = &'a Row>, model: &ModelId) -> LeaseRefusal {
    let rank = |refusal: &LeaseRefusal| match refusal {
        LeaseRefusal::Loading => 0,
        LeaseRefusal::NotLoaded(_) => 1,
        LeaseRefusal::EngineDown(_) => 2,
        LeaseRefusal::NoSuchModel => 3,
    };
    rows.filter_map(|row| row.may_lease(model).err()).min_by_key(rank).unwrap_or(LeaseRefusal::NoSuchModel)
}

#[cfg(test)]
#[path = "roster/tests.rs"]
mod tests;
