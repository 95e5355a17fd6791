//! How fast all transfers together may bring bytes in.

use std::sync::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A bucket without depth: each taker waits until those before it are paid for. What was not used is not saved,
/// so there is never a burst.
#[derive(Debug)]
pub(super) struct Bandwidth {
    /// Bytes each second; `None` = as fast as it goes.
    limit: Option<u64>,
    paid_until: Mutex<Instant>,
}

impl Bandwidth {
    /// Must be called inside a tokio runtime when its time is paused.
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { limit: limit.filter(|limit| *limit > 0), paid_until: Mutex::new(Instant::now()) }
    }

    /// Completes when `bytes` more may come.
    pub(super) async fn take(&self, bytes: u64) {
        let Some(limit) = self.limit else { return };
        let mine = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let begin = (*paid_until).max(Instant::now());
            *paid_until = begin + Duration::from_secs_f64(bytes as f64 / limit as f64);
            *paid_until
        };
        sleep_until(mine).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::task::JoinSet;

    #[tokio::test(start_paused = true)]
    async fn the_cap_holds_for_all_takers_together_in_every_second() {
        const LIMIT: u64 = 1_000_000;
        let (bandwidth, begin) = (Arc::new(Bandwidth::new(Some(LIMIT))), Instant::now());
        let mut takers = JoinSet::new();
        for chunk in [7_000, 64_000, 1_000] {
            let bandwidth = bandwidth.clone();
            takers.spawn(async move {
                let mut taken = Vec::new();
                while begin.elapsed() < Duration::from_secs(10) {
                    bandwidth.take(chunk).await;
                    taken.push((begin.elapsed().as_secs(), chunk));
                }
                taken
            });
        }
        let taken: Vec<(u64, u64)> = takers.join_all().await.into_iter().flatten().collect();
        for second in 0..10 {
            let bytes: u64 = taken.iter().filter(|(at, _)| *at == second).map(|(_, bytes)| bytes).sum();
            // One chunk may straddle the second's end.
            assert!((LIMIT - 64_000..=LIMIT + 64_000).contains(&bytes), "second {second}: {bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_used_is_not_saved_up() {
        let (bandwidth, begin) = (Bandwidth::new(Some(1000)), Instant::now());
        tokio::time::advance(Duration::from_secs(60)).await;
        bandwidth.take(2000).await;
        assert_eq!(begin.elapsed().as_secs(), 62);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_cap_nobody_waits() {
        let begin = Instant::now();
        for limit in [None, Some(0)] {
            Bandwidth::new(limit).take(u64::MAX).await;
        }
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
