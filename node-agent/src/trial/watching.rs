//! The machine while it is tried: what its sensors read, once a second.

use super::Told;
use mesh_core::machine::Vitals;
use mesh_core::trial::{Event, Sample};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// Tells each reading until there are no more.
pub(super) async fn watch_machine(mut vitals: watch::Receiver<Arc<Vitals>>, began: Instant, told: &Told) {
    loop {
        let seen = Sample::of(&vitals.borrow_and_update(), began.elapsed().as_secs_f64());
        told.event(Event::Sample(seen)).await;
        if vitals.changed().await.is_err() {
            return;
        }
    }
}
