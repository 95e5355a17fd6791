//! The machine while it is tried: what its sensors read, once a second.

use super::Told;
use mesh_core::machine::{ThermalState, Vitals};
use mesh_core::trial::{Event, Sample};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;
use tokio::time::Instant;

/// Whether the machine was ever slower than it can be.
#[derive(Debug, Default)]
pub(super) struct Slowed(AtomicBool);

impl Slowed {
    pub(super) fn was_seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn see(&self, sample: &Sample) {
        if sample.throttled == Some(true) || sample.thermal >= ThermalState::Derated {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Tells each reading until there are no more.
pub(super) async fn watch_machine(
    mut vitals: watch::Receiver<Arc<Vitals>>,
    began: Instant,
    told: &Told,
    slowed: &Slowed,
) {
    loop {
        let seen = Sample::of(&vitals.borrow_and_update(), began.elapsed().as_secs_f64());
        slowed.see(&seen);
        told.event(Event::Sample(seen)).await;
        if vitals.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_look_at_a_slowed_or_hot_machine_is_enough() {
        let seen = |throttled: Option<bool>, thermal: ThermalState| {
            let slowed = Slowed::default();
            slowed.see(&Sample { throttled, thermal, ..Sample::default() });
            slowed.see(&Sample::default());
            slowed.was_seen()
        };
        assert!(!seen(None, ThermalState::Unknown) && !seen(Some(false), ThermalState::Warm));
        assert!(seen(Some(true), ThermalState::Ok) && seen(None, ThermalState::Derated));
    }
}
