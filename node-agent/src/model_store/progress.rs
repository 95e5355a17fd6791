//! How far a transfer is. Its task writes, the keeper reads.

use mesh_core::machine::TransferState;
use mesh_core::units::Bytes;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The rate is what came within this time.
const RATE_OVER: Duration = Duration::from_secs(5);

/// Shared by a transfer and its observers.
#[derive(Debug)]
pub(super) struct Progress {
    done: AtomicU64,
    /// 0 = not known.
    total: AtomicU64,
    state: watch::Sender<TransferState>,
    source: watch::Sender<String>,
}

impl Progress {
    pub(super) fn new(source: String) -> Self {
        Self {
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            state: watch::Sender::new(TransferState::Waiting),
            source: watch::Sender::new(source),
        }
    }

    /// Bytes on disk.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn set_done(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
    }

    /// Bytes in all, once known.
    pub(super) fn total(&self) -> Option<u64> {
        Some(self.total.load(Ordering::Relaxed)).filter(|total| *total > 0)
    }

    pub(super) fn set_total(&self, bytes: Option<u64>) {
        self.total.store(bytes.unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn state(&self) -> TransferState {
        self.state.borrow().clone()
    }

    pub(super) fn set_state(&self, state: TransferState) {
        self.state.send_replace(state);
    }

    /// Where the bytes come from, for people.
    pub(super) fn source(&self) -> String {
        self.source.borrow().clone()
    }

    pub(super) fn set_source(&self, source: &str) {
        self.source.send_if_modified(|known| {
            let changed = known != source;
            if changed {
                source.clone_into(known);
            }
            changed
        });
    }
}

/// Bytes each second over the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rate {
    seen: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Notes that `done` bytes are there now.
    pub(super) fn note(&mut self, now: Instant, done: u64) {
        // A transfer that began anew has no speed yet.
        if self.seen.back().is_some_and(|(_, before)| *before > done) {
            self.seen.clear();
        }
        while self.seen.len() > 1 && self.seen.front().is_some_and(|(at, _)| now - *at > RATE_OVER) {
            self.seen.pop_front();
        }
        self.seen.push_back((now, done));
    }

    /// The rate; `None` until two notes are there.
    pub(super) fn per_second(&self) -> Option<Bytes> {
        let ((from, before), (to, after)) = (self.seen.front()?, self.seen.back()?);
        let seconds = (*to - *from).as_secs_f64();
        (seconds > 0.0).then(|| Bytes(((after - before) as f64 / seconds) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_the_last_seconds_and_not_of_the_whole_transfer() {
        let (begin, mut rate) = (Instant::now(), Rate::default());
        assert_eq!(rate.per_second(), None);
        let mut done = 0;
        for second in 0..60_u64 {
            rate.note(begin + Duration::from_secs(second), done);
            done += if second < 30 { 1000 } else { 10 };
        }
        assert_eq!(rate.per_second(), Some(Bytes(10)));
        rate.note(begin + Duration::from_secs(60), 0);
        assert_eq!(rate.per_second(), None, "it began anew");
    }
}
