//! Models that engines fetch by themselves: how far they are, for reports.

use mesh_core::id::ModelId;
use mesh_core::machine::{Transfer, TransferKind, TransferState};
use mesh_core::units::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a transfer that ended is still told.
const TOLD_FOR: Duration = Duration::from_secs(300);
/// Over how long a rate is taken.
const RATE_OVER: Duration = Duration::from_secs(5);
/// The most transfers told.
const LIMIT: usize = 64;

/// All transfers through engines. Clones share them.
#[derive(Clone, Default)]
pub(super) struct EnginePulls {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    entries: Mutex<BTreeMap<ModelId, Entry>>,
    shown: watch::Sender<Arc<Vec<Transfer>>>,
}

struct Entry {
    transfer: Transfer,
    /// Where the rate is counted from.
    mark: (Instant, u64),
    ended: Option<Instant>,
}

impl EnginePulls {
    pub(super) fn watch(&self) -> watch::Receiver<Arc<Vec<Transfer>>> {
        self.shared.shown.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ModelId, Entry>> {
        self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pull of `model` by the engine `source` begins.
    pub(super) fn begins(&self, model: &ModelId, source: &str) {
        self.put(model, source, TransferState::Running, None);
    }

    /// A pull that could not even begin.
    pub(super) fn failed(&self, model: &ModelId, why: &str) {
        self.put(model, "engine", TransferState::Failed(why.to_owned()), Some(Instant::now()));
    }

    fn put(&self, model: &ModelId, source: &str, state: TransferState, ended: Option<Instant>) {
        let transfer = Transfer {
            model: model.clone(),
            kind: TransferKind::Engine,
            source: source.to_owned(),
            state,
            done: Bytes(0),
            total: None,
            rate: None,
        };
        let mut entries = self.lock();
        entries.insert(model.clone(), Entry { transfer, mark: (Instant::now(), 0), ended });
        self.show(&mut entries);
    }

    /// So far it is. Ollama counts each layer anew, so `done` may go back.
    pub(super) fn moves(&self, model: &ModelId, done: u64, total: Option<u64>) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(model).filter(|entry| entry.ended.is_none()) else { return };
        let now = Instant::now();
        let (since, from) = entry.mark;
        if done < from {
            entry.mark = (now, done);
        } else if now.duration_since(since) >= RATE_OVER {
            let rate = (done - from) as f64 / now.duration_since(since).as_secs_f64();
            entry.transfer.rate = Some(Bytes(rate as u64));
            entry.mark = (now, done);
        }
        (entry.transfer.done, entry.transfer.total) = (Bytes(done), total.map(Bytes));
        self.show(&mut entries);
    }

    /// It ended like this.
    pub(super) fn ends(&self, model: &ModelId, state: TransferState) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(model).filter(|entry| entry.ended.is_none()) else { return };
        (entry.transfer.state, entry.transfer.rate, entry.ended) = (state, None, Some(Instant::now()));
        self.show(&mut entries);
    }

    fn show(&self, entries: &mut BTreeMap<ModelId, Entry>) {
        entries.retain(|_, entry| entry.ended.is_none_or(|ended| ended.elapsed() < TOLD_FOR));
        let told: Vec<Transfer> = entries.values().take(LIMIT).map(|entry| entry.transfer.clone()).collect();
        self.shared.shown.send_if_modified(|old| {
            let differs = **old != told;
            if differs {
                *old = Arc::new(told);
            }
            differs
        });
    }

    /// Forgets what ended long ago; called now and then.
    pub(super) fn tidy(&self) {
        let mut entries = self.lock();
        if entries.values().any(|entry| entry.ended.is_some()) {
            self.show(&mut entries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelId {
        ModelId::new("m").expect("a name")
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_is_told_with_its_rate_and_forgotten_after_five_minutes() {
        let pulls = EnginePulls::default();
        let shown = pulls.watch();
        pulls.begins(&model(), "ollama-1");
        for second in 1..=6_u64 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            pulls.moves(&model(), second * 1000, Some(9000));
        }
        let seen = shown.borrow()[0].clone();
        assert_eq!((seen.done, seen.total, seen.rate), (Bytes(6000), Some(Bytes(9000)), Some(Bytes(1000))));
        pulls.ends(&model(), TransferState::Done);
        pulls.moves(&model(), 1, None);
        assert_eq!((shown.borrow()[0].state.word(), shown.borrow()[0].done), ("done", Bytes(6000)));
        tokio::time::sleep(TOLD_FOR).await;
        pulls.tidy();
        assert!(shown.borrow().is_empty());
    }
}
