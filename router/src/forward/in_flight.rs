//! Counts of the requests this router has running, by replica. The one lock on the request path: held for a
//! decision (microseconds), never across an await.

use mesh_core::id::{MachineId, ModelId};
use mesh_core::routing::{Candidate, Load};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The counts. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct InFlight {
    load: Arc<Mutex<Load>>,
    /// Told whenever a claim is dropped.
    freed: Arc<Notify>,
}

/// One counted request; it counts down when dropped.
#[derive(Debug)]
pub struct Claim {
    counts: InFlight,
    replica: (MachineId, ModelId),
}

impl InFlight {
    /// Decides and counts in one step, or two requests would take the same slot.
    ///
    /// # Errors
    /// Whatever `decide` refuses with; nothing is counted then.
    pub fn claim<D, R>(
        &self,
        decide: impl FnOnce(&Load) -> Result<D, R>,
        first: impl FnOnce(&D) -> &Candidate,
    ) -> Result<(D, Claim), R> {
        let mut load = self.lock();
        let decision = decide(&load)?;
        let best = first(&decision);
        let replica = (best.machine.clone(), best.model.clone());
        *load.entry(replica.clone()).or_default() += 1;
        drop(load);
        Ok((decision, Claim { counts: self.clone(), replica }))
    }

    /// Counts one more request on a replica that an earlier decision ranked lower.
    #[must_use]
    pub fn claim_next(&self, candidate: &Candidate) -> Claim {
        let replica = (candidate.machine.clone(), candidate.model.clone());
        *self.lock().entry(replica.clone()).or_default() += 1;
        Claim { counts: self.clone(), replica }
    }

    /// Completes when a claim was dropped since the last call. For one listener: the queue.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// A copy of all counts.
    #[must_use]
    pub fn load(&self) -> Load {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Load> {
        // The counts are valid after any panic: each change is one addition.
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut load = self.counts.lock();
        if let Some(count) = load.get_mut(&self.replica) {
            *count -= 1;
            if *count == 0 {
                load.remove(&self.replica);
            }
        }
        drop(load);
        self.counts.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::routing::Why;

    fn candidate() -> Candidate {
        Candidate {
            machine: MachineId::new("a").expect("valid"),
            model: ModelId::new("m").expect("valid"),
            in_flight: 0,
            slots: None,
            context: None,
            predicted_s: None,
            terms: vec![],
            why: Why::OnlyCandidate,
        }
    }

    #[test]
    fn counts_return_to_nothing_when_the_last_claim_is_dropped() {
        let counts = InFlight::default();
        let (_, first) = counts.claim(|_| Ok::<_, ()>(candidate()), |c| c).expect("granted");
        let second = counts.claim_next(&candidate());
        assert_eq!(counts.load().values().copied().collect::<Vec<_>>(), [2]);
        drop(first);
        drop(second);
        assert!(counts.load().is_empty());
    }

    #[test]
    fn a_refusal_counts_nothing() {
        let counts = InFlight::default();
        assert!(counts.claim(|_| Err::<Candidate, _>(()), |c| c).is_err());
        assert!(counts.load().is_empty());
    }
}
