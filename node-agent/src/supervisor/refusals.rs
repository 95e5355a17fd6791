//! Wishes that were not followed although nothing failed: told for a while, so that whoever wished sees why.

use mesh_core::id::ModelId;
use mesh_core::machine::StoreRefusal;
use mesh_daemon::clock::unix_ms;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a refusal is told.
const TOLD_FOR: Duration = Duration::from_secs(10 * 60);
/// The most refusals told.
const LIMIT: usize = 16;

/// All refusals of one supervisor. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Refusals {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    entries: Mutex<VecDeque<(Instant, StoreRefusal)>>,
    shown: watch::Sender<Arc<Vec<StoreRefusal>>>,
}

impl Refusals {
    pub(super) fn watch(&self) -> watch::Receiver<Arc<Vec<StoreRefusal>>> {
        self.shared.shown.subscribe()
    }

    /// A wish about `model` is not followed; what was said of it before is forgotten.
    pub(super) fn refuse(&self, model: &ModelId, reason: String) {
        tracing::warn!(%model, "{reason}");
        let mut entries = self.lock();
        entries.retain(|(_, refusal)| refusal.model != *model);
        entries.push_back((Instant::now(), StoreRefusal { model: model.clone(), reason, at_ms: unix_ms() }));
        if entries.len() > LIMIT {
            entries.pop_front();
        }
        self.show(&mut entries);
    }

    /// A new wish about `model` is followed.
    pub(super) fn forget(&self, model: &ModelId) {
        let mut entries = self.lock();
        entries.retain(|(_, refusal)| refusal.model != *model);
        self.show(&mut entries);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, StoreRefusal)>> {
        // Valid after any panic: each change is one call.
        self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, entries: &mut VecDeque<(Instant, StoreRefusal)>) {
        entries.retain(|(at, _)| at.elapsed() < TOLD_FOR);
        let told: Vec<StoreRefusal> = entries.iter().map(|(_, refusal)| refusal.clone()).collect();
        self.shared.shown.send_if_modified(|old| {
            let differs = **old != told;
            if differs {
                *old = Arc::new(told);
            }
            differs
        });
    }

    /// Forgets what was told long enough; called now and then.
    pub(super) fn tidy(&self) {
        let mut entries = self.lock();
        if !entries.is_empty() {
            self.show(&mut entries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_refusal_of_a_model_is_told_for_ten_minutes_or_until_a_wish_is_followed() {
        let refusals = Refusals::default();
        let shown = refusals.watch();
        let model = |name: &str| ModelId::new(name).expect("a name");
        refusals.refuse(&model("a"), "first".into());
        refusals.refuse(&model("a"), "second".into());
        refusals.refuse(&model("b"), "third".into());
        let reasons = || shown.borrow().iter().map(|one| one.reason.clone()).collect::<Vec<_>>();
        assert_eq!(reasons(), ["second", "third"]);
        refusals.forget(&model("b"));
        assert_eq!(reasons(), ["second"]);
        tokio::time::sleep(TOLD_FOR).await;
        refusals.tidy();
        assert!(reasons().is_empty());
        for number in 0..100 {
            refusals.refuse(&model(&format!("m{number}")), String::new());
        }
        assert_eq!(shown.borrow().len(), LIMIT);
    }
}
