//! What this router has running on each replica, and what it believes of their caches. The one lock on the request
//! path: held for a decision or a note of its end (microseconds), never across an await.

use super::stream_guard::Usage;
use mesh_core::admission::slot::slots_of;
use mesh_core::fleet::ReplicaKey;
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::prefix::Block;
use mesh_core::routing::{Candidate, Load, Stake};
use mesh_core::speed::{Lesson, Predicted};
use mesh_core::units::Moment;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Counts by name, for people.
pub type Counts = BTreeMap<(MachineId, ModelId), u32>;

/// The counts. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct InFlight {
    board: Arc<Mutex<Board>>,
    /// Told whenever a claim is dropped.
    freed: Arc<Notify>,
    /// Somebody waits for that.
    awaited: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Board {
    load: Load,
    /// The same counts by name.
    counts: Counts,
}

/// What a request brings along for the routing of later ones.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// The mode that was asked for.
    pub mode: Option<ModeName>,
    /// The starts of its prompt; empty = not hashed.
    pub prefix: Arc<[Block]>,
    /// The session's name as a number.
    pub session: Option<u64>,
    /// It takes no slot and leaves nothing in a cache.
    pub weightless: bool,
}

/// One counted request; it counts down when dropped. On the heap: it is handed on some ten times.
#[derive(Debug)]
pub struct Claim {
    counts: InFlight,
    replica: (MachineId, ModelId),
    key: ReplicaKey,
    /// `None` = it counts for nothing.
    stake: Option<Stake>,
    trace: Trace,
    predicted: Option<Predicted>,
    is_cold: bool,
    started: Moment,
    first_content: Option<Moment>,
    /// Requests on the replica when this one came, itself included.
    streams_at_start: u32,
}

impl InFlight {
    /// Decides and counts in one step, or two requests would take the same slot. The claim begins `now`: when the request
    /// began to look for a slot, some microseconds before it is counted.
    ///
    /// # Errors
    /// Whatever `decide` refuses with; nothing is counted then.
    pub fn claim<D, R>(
        &self,
        now: Moment,
        trace: Trace,
        decide: impl FnOnce(&Load) -> Result<D, R>,
        first: impl FnOnce(&D) -> &Candidate,
    ) -> Result<(D, Box<Claim>), R> {
        let mut board = self.lock();
        let decision = decide(&board.load)?;
        let claim = self.count(&mut board, first(&decision), now, trace);
        drop(board);
        Ok((decision, claim))
    }

    /// Counts one more request on the first of `ranked` that has a free slot, and tells its place there.
    #[must_use]
    pub fn claim_free(
        &self,
        ranked: &[&Candidate],
        now: Moment,
        trace: Trace,
    ) -> Option<(usize, Box<Claim>)> {
        let mut board = self.lock();
        let free = |candidate: &&Candidate| {
            trace.weightless || board.load.in_flight(candidate.key) < slots_of(candidate)
        };
        let at = ranked.iter().position(free)?;
        let claim = self.count(&mut board, ranked[at], now, trace);
        drop(board);
        Some((at, claim))
    }

    /// Counts one more request on a replica whether it has a free slot or not.
    #[must_use]
    pub fn claim_next(&self, candidate: &Candidate, now: Moment, trace: Trace) -> Box<Claim> {
        self.count(&mut self.lock(), candidate, now, trace)
    }

    fn count(&self, board: &mut Board, candidate: &Candidate, started: Moment, trace: Trace) -> Box<Claim> {
        let replica = (candidate.machine.clone(), candidate.model.clone());
        let stake = (!trace.weightless).then(|| {
            *board.counts.entry(replica.clone()).or_default() += 1;
            board.load.claim(candidate, started)
        });
        Box::new(Claim {
            counts: self.clone(),
            replica,
            key: candidate.key,
            stake,
            trace,
            predicted: candidate.predicted,
            is_cold: candidate.is_cold,
            started,
            first_content: None,
            streams_at_start: board.load.in_flight(candidate.key),
        })
    }

    /// Whether anybody waits for a claim to be dropped. Who begins to wait says so first and looks once more then.
    pub fn await_claims(&self, awaited: bool) {
        self.awaited.store(awaited, Ordering::Release);
    }

    /// Completes when a claim was dropped since the last call. For one listener: the queue.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// A copy of all counts.
    #[must_use]
    pub fn load(&self) -> Counts {
        self.lock().counts.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        // The counts are valid after any panic: each change is one addition.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// When it began.
    #[must_use]
    pub fn started(&self) -> Moment {
        self.started
    }

    /// The first content is there `now`: the prompt is read and in the replica's cache.
    pub fn first_content(&mut self, now: Moment) {
        if self.first_content.is_some() {
            return;
        }
        self.first_content = Some(now);
        let Some(stake) = &mut self.stake else { return };
        let mut board = self.counts.lock();
        board.load.first_content(stake, &self.trace.prefix, self.trace.session, now);
    }

    /// What the fleet can learn from the answer, which has ended `now`. `whole` = it was no stream.
    #[must_use]
    pub fn lesson(&self, now: Moment, usage: &Usage, whole: bool, round_trip: Option<Duration>) -> Lesson {
        let mut board = self.counts.lock();
        let cached = usage.timing.and_then(|timing| timing.cached_tokens);
        if let (Some(stake), Some(cached), Some(prompt)) = (&self.stake, cached, usage.prompt_tokens) {
            board.load.engine_cached(stake, cached, prompt);
        }
        let streams = f64::from(self.streams_at_start + board.load.in_flight(self.key).max(1)) / 2.0;
        drop(board);
        Lesson {
            timing: usage.timing,
            streams,
            mode: self.trace.mode.clone(),
            ttft_s: self.first_content.map(|at| at.since(self.started).as_secs_f64()),
            total_s: now.since(self.started).as_secs_f64(),
            whole,
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            cold: self.is_cold,
            predicted: self.predicted,
            rtt_s: round_trip.map(|time| time.as_secs_f64()),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(stake) = &self.stake else { return };
        let mut board = self.counts.lock();
        board.load.release(stake);
        if let Some(count) = board.counts.get_mut(&self.replica) {
            *count -= 1;
            if *count == 0 {
                board.counts.remove(&self.replica);
            }
        }
        drop(board);
        if self.counts.awaited.load(Ordering::Acquire) {
            self.counts.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::speed::Timing;

    fn candidate() -> Candidate {
        let (machine, model) = ("a".parse().expect("valid"), "m".parse().expect("valid"));
        Candidate { prompt_tokens: 1_000, ..Candidate::new(machine, model) }
    }

    fn claim(counts: &InFlight) -> Box<Claim> {
        let decided = |_: &Load| Ok::<_, ()>(candidate());
        counts.claim(Moment(0), Trace::default(), decided, |c| c).expect("granted").1
    }

    #[test]
    fn counts_return_to_nothing_when_the_last_claim_is_dropped() {
        let counts = InFlight::default();
        let first = claim(&counts);
        let second = counts.claim_next(&candidate(), Moment(0), Trace::default());
        assert_eq!(counts.load().values().copied().collect::<Vec<_>>(), [2]);
        drop(first);
        drop(second);
        assert!(counts.load().is_empty());
        assert_eq!(counts.lock().load.total(), 0);
    }

    #[test]
    fn a_refusal_counts_nothing() {
        let counts = InFlight::default();
        let refused = |_: &Load| Err::<Candidate, _>(());
        assert!(counts.claim(Moment(0), Trace::default(), refused, |c| c).is_err());
        assert!(counts.load().is_empty());
    }

    #[test]
    fn a_lesson_tells_how_many_answers_were_written_at_once() {
        let counts = InFlight::default();
        let (mut first, second, third) = (claim(&counts), claim(&counts), claim(&counts));
        first.first_content(Moment(3));
        let usage = Usage { timing: Some(Timing::default()), completion_tokens: Some(7), ..Usage::default() };
        let lesson = first.lesson(Moment(5), &usage, false, Some(Duration::from_millis(2)));
        assert!((lesson.streams - 2.0).abs() < 1e-9, "one at its start, three at its end");
        assert!(lesson.ttft_s.is_some_and(|ttft| ttft <= lesson.total_s));
        assert_eq!((lesson.completion_tokens, lesson.rtt_s), (Some(7), Some(0.002)));
        drop((second, third));
    }
}
