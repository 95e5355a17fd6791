//! The list of engines: one row each, written by the row's own keeper, read by everybody as a snapshot.
//!
//! Also the count of leases, so that "may this model be unloaded?" and "may this request begin?" are decided
//! under one short lock and never at odds.

use crate::engine::{Held, Observation};
use mesh_core::id::ModelId;
use mesh_core::machine::{Engine, EngineState, LoadWish, Replica, ReplicaState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, mpsc, watch};

/// What a keeper is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    Load(LoadWish),
    Unload(ModelId),
}

/// Orders that wait for a keeper; more than this are a router gone mad.
pub(crate) const ORDER_QUEUE: usize = 64;

/// Why a lease was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRefusal {
    /// No engine of this machine has the model.
    #[error("no engine of this machine has this model")]
    NoSuchModel,
    /// An engine has it, not in memory, and why.
    #[error("the model is not loaded: {0}")]
    NotLoaded(String),
    /// It is on its way into memory.
    #[error("the model is being loaded")]
    Loading,
    /// Its engine does not answer, and why.
    #[error("the model's engine is down: {0}")]
    EngineDown(String),
}

impl LeaseRefusal {
    /// The word for this refusal on the wire.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoSuchModel => "no_such_model",
            Self::NotLoaded(_) => "not_loaded",
            Self::Loading => "loading",
            Self::EngineDown(_) => "engine_down",
        }
    }
}

/// The right to send one request to a model, which stays loaded until this is dropped.
pub struct Lease {
    /// The engine's path is this and `/v1/chat/completions`.
    pub base_url: String,
    /// The key the request must carry.
    pub api_key: Option<String>,
    /// The engine's name on this machine.
    pub engine: String,
    /// What the engine calls the model.
    pub upstream_model: String,
    _guard: LeaseGuard,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Lease({} on {})", self.upstream_model, self.engine)
    }
}

/// How many requests hold a model on an engine.
#[derive(Debug, Default)]
pub(crate) struct LeaseCount {
    held: AtomicU32,
    freed: Notify,
}

impl LeaseCount {
    fn held(&self) -> u32 {
        self.held.load(Ordering::Acquire)
    }

    /// Resolves when no request holds the model.
    pub(crate) async fn none_held(&self) {
        loop {
            let freed = self.freed.notified();
            if self.held() == 0 {
                return;
            }
            freed.await;
        }
    }
}

#[derive(Debug)]
struct LeaseGuard(Arc<LeaseCount>);

impl LeaseGuard {
    fn new(count: &Arc<LeaseCount>) -> Self {
        count.held.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_waiters();
    }
}

/// One engine.
pub(crate) struct Row {
    engine: Engine,
    /// What the engine calls each model.
    upstream: BTreeMap<ModelId, String>,
    base_url: String,
    api_key: Option<String>,
    leases: BTreeMap<ModelId, Arc<LeaseCount>>,
    /// Models that get no new lease because they are about to be unloaded.
    draining: BTreeSet<ModelId>,
    orders: mpsc::Sender<Order>,
}

impl Row {
    pub(crate) fn new(engine: Engine, orders: mpsc::Sender<Order>) -> Self {
        Self {
            engine,
            upstream: BTreeMap::new(),
            base_url: String::new(),
            api_key: None,
            leases: BTreeMap::new(),
            draining: BTreeSet::new(),
            orders,
        }
    }

    /// Where this engine's requests go.
    pub(crate) fn answers_at(&mut self, base_url: &str, api_key: Option<&str>) {
        base_url.clone_into(&mut self.base_url);
        self.api_key = api_key.map(str::to_owned);
    }

    /// Takes over what the engine said.
    pub(crate) fn show(&mut self, seen: Observation) {
        self.engine.version = seen.version.or(self.engine.version.take());
        self.engine.state = seen.state;
        self.upstream.clear();
        self.engine.replicas.clear();
        for Held { replica, upstream, .. } in seen.held {
            // Two names of one engine may clean up to the same; the first has it.
            if !self.upstream.contains_key(&replica.model) {
                self.upstream.insert(replica.model.clone(), upstream);
                self.engine.replicas.push(replica);
            }
        }
        self.engine.replicas.sort_by(|a, b| a.model.cmp(&b.model));
        let upstream = &self.upstream;
        self.leases.retain(|model, count| upstream.contains_key(model) || count.held() > 0);
        self.draining.retain(|model| upstream.contains_key(model));
    }

    /// The engine does not answer; its models are no longer there for the mesh.
    pub(crate) fn state(&mut self, state: EngineState) {
        self.engine.state = state;
    }

    fn replica(&self, model: &ModelId) -> Option<&Replica> {
        self.engine.replicas.iter().find(|replica| replica.model == *model)
    }

    fn held(&self, model: &ModelId) -> u32 {
        self.leases.get(model).map_or(0, |count| count.held())
    }

    /// No new leases of `model`; the count to wait for.
    pub(crate) fn drain(&mut self, model: &ModelId) -> Arc<LeaseCount> {
        self.draining.insert(model.clone());
        Arc::clone(self.leases.entry(model.clone()).or_default())
    }

    /// Leases of `model` are given again.
    pub(crate) fn undrain(&mut self, model: &ModelId) {
        self.draining.remove(model);
    }
}

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
        self.lock().values().map(|row| row.base_url.clone()).collect()
    }

    /// The state of the engine `name`.
    pub(crate) fn state_of(&self, name: &str) -> Option<EngineState> {
        self.lock().get(name).map(|row| row.engine.state.clone())
    }

    /// Leases `model` on the engine that has it loaded and the fewest requests of ours.
    pub(crate) fn lease(&self, model: &ModelId) -> Result<Lease, LeaseRefusal> {
        let mut rows = self.lock();
        let free = rows
            .values()
            .filter(|row| row.may_lease(model).is_ok())
            // An engine that has it in memory before one that would have to load it first.
            .min_by_key(|row| {
                let cold = row.replica(model).is_none_or(|replica| replica.state != ReplicaState::Loaded);
                (cold, row.held(model))
            })
            .map(|row| row.engine.name.clone());
        let Some(row) = free.and_then(|name| rows.get_mut(&name)) else {
            return Err(refusal(rows.values(), model));
        };
        let count = row.leases.entry(model.clone()).or_default();
        Ok(Lease {
            base_url: row.base_url.clone(),
            api_key: row.api_key.clone(),
            engine: row.engine.name.clone(),
            upstream_model: row.upstream.get(model).cloned().unwrap_or_else(|| model.to_string()),
            _guard: LeaseGuard::new(count),
        })
    }

    /// The keepers that shall hear an order to load `model`: the first that has it, unless one holds it
    /// already.
    pub(crate) fn who_loads(&self, model: &ModelId) -> Option<(String, mpsc::Sender<Order>)> {
        let rows = self.lock();
        let having = || rows.values().filter(|row| row.replica(model).is_some());
        let best = having().min_by_key(|row| row.willing_to_load(model))?;
        Some((best.engine.name.clone(), best.orders.clone()))
    }

    /// The keepers that shall hear an order to unload `model`: all that hold it, or are about to.
    pub(crate) fn who_unloads(&self, model: &ModelId) -> Vec<(String, mpsc::Sender<Order>)> {
        let rows = self.lock();
        let holds = |row: &&Row| row.replica(model).is_some_and(|r| r.state != ReplicaState::Available);
        rows.values().filter(holds).map(|row| (row.engine.name.clone(), row.orders.clone())).collect()
    }
}

impl Row {
    fn may_lease(&self, model: &ModelId) -> Result<(), LeaseRefusal> {
        let replica = self.replica(model).ok_or(LeaseRefusal::NoSuchModel)?;
        match &self.engine.state {
            EngineState::Down(why) if !matches!(replica.state, ReplicaState::Failed(_)) => {
                return Err(LeaseRefusal::EngineDown(why.clone()));
            }
            EngineState::Starting
                if replica.state != ReplicaState::Available || self.engine.kind.loads_on_demand() =>
            {
                return Err(LeaseRefusal::Loading);
            }
            EngineState::Down(_) | EngineState::Starting | EngineState::Up => {}
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
    fn willing_to_load(&self, model: &ModelId) -> u8 {
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
    fn shown(&self) -> Engine {
        let mut engine = self.engine.clone();
        for replica in &mut engine.replicas {
            if self.draining.contains(&replica.model) && replica.state == ReplicaState::Loaded {
                replica.state = ReplicaState::Available;
            }
        }
        engine
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
mod tests {
    use super::*;
    use mesh_core::machine::EngineKind;

    fn model() -> ModelId {
        ModelId::new("tiny").expect("a good name")
    }

    fn roster(names: &[&str], state: &ReplicaState) -> Roster {
        let roster = Roster::new();
        for name in names {
            let mut row = Row::new(Engine::new(name, EngineKind::LlamaServer, false), mpsc::channel(1).0);
            row.answers_at(&format!("http://127.0.0.1/{name}"), Some("key"));
            let held = Held::new("tiny", state.clone()).expect("a good name");
            row.show(Observation { version: None, state: EngineState::Up, queued: None, held: vec![held] });
            assert!(roster.add(row));
        }
        roster
    }

    #[test]
    fn requests_are_spread_over_the_engines_that_hold_the_model() {
        let roster = roster(&["a", "b"], &ReplicaState::Loaded);
        let first = roster.lease(&model()).expect("loaded");
        let second = roster.lease(&model()).expect("loaded");
        assert_ne!(first.engine, second.engine);
        let freed = second.engine.clone();
        drop(second);
        assert_eq!(roster.lease(&model()).expect("loaded").engine, freed);
        assert!(!format!("{first:?}").contains("key"));
    }

    #[test]
    fn every_state_has_its_refusal() {
        let loading = roster(&["a"], &ReplicaState::Loading);
        assert_eq!(loading.lease(&model()).expect_err("loading").kind(), "loading");
        let failed = roster(&["a"], &ReplicaState::Failed("no such file".into()));
        assert_eq!(
            failed.lease(&model()).expect_err("failed"),
            LeaseRefusal::NotLoaded("no such file".into())
        );
        let down = roster(&["a"], &ReplicaState::Loaded);
        down.change("a", |row| row.state(EngineState::Down("silent".into())));
        assert_eq!(down.lease(&model()).expect_err("down"), LeaseRefusal::EngineDown("silent".into()));
        assert_eq!(Roster::new().lease(&model()).expect_err("none").kind(), "no_such_model");
    }

    #[tokio::test]
    async fn a_drained_model_gets_no_lease_and_waits_for_the_last_one() {
        let roster = roster(&["a"], &ReplicaState::Loaded);
        let lease = roster.lease(&model()).expect("loaded");
        let count = roster.change("a", |row| row.drain(&model())).expect("the row");
        assert_eq!(roster.lease(&model()).expect_err("draining").kind(), "not_loaded");
        assert_eq!(roster.watch().borrow()[0].replicas[0].state, ReplicaState::Available);
        let mut waiting = std::pin::pin!(count.none_held());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(lease);
        waiting.await;
        roster.change("a", |row| row.undrain(&model()));
        assert!(roster.lease(&model()).is_ok());
    }

    #[test]
    fn an_equal_update_is_no_update() {
        let roster = roster(&["a"], &ReplicaState::Loaded);
        let mut watch = roster.watch();
        watch.mark_unchanged();
        roster.change("a", |_| ());
        assert!(!watch.has_changed().expect("open"));
        roster.remove("a");
        assert!(watch.has_changed().expect("open"));
    }
}
