//! Reads the machine each second, judges its heat, and decides what is worth a report.
//!
//! ```text
//! probe ──► heat judged ──┬──► fresh: each second, for those who decide on this machine (admission)
//!                         └──► reported: every ten seconds, and at once when something matters
//! ```
//! What matters is written in [`noise`]: a report of an idle machine costs its battery and its router something
//! and tells nobody anything.

mod noise;

use crate::metrics::Metrics;
use crate::probe::Probe;
use mesh_core::machine::Vitals;
use mesh_core::thermal::{Policy, Readings, Watch};
use mesh_daemon::clock::Clock;
use mesh_daemon::complaint::Complaint;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often the machine is read.
const PERIOD: Duration = Duration::from_secs(1);

/// Wishes for a reading out of turn that may wait. They come with a resume; more than one is one too many.
const ASKED: usize = 4;

/// What others see of the vitals. Clones see the same.
#[derive(Debug, Clone)]
pub struct VitalsHandle {
    /// As last read, at most a second old.
    pub fresh: watch::Receiver<Arc<Vitals>>,
    /// As the router is told.
    pub reported: watch::Receiver<Arc<Vitals>>,
    /// Whether the machine has been hot for so long that its models are to be unloaded.
    pub overheated: watch::Receiver<bool>,
    /// How often the machine has been read: who needs a reading that began after now waits for two more.
    pub readings: watch::Receiver<u64>,
    ask: mpsc::Sender<oneshot::Sender<()>>,
}

impl VitalsHandle {
    /// Reads the machine anew, with nothing kept from before, and completes when the result is in
    /// [`Self::reported`]. False when the reader has ended.
    pub async fn read_anew(&self) -> bool {
        let (answer, read) = oneshot::channel();
        self.ask.send(answer).await.is_ok() && read.await.is_ok()
    }
}

/// The one who reads.
pub struct VitalsKeeper {
    probe: Arc<Probe>,
    heat: Watch,
    clock: Clock,
    metrics: Metrics,
    fresh: watch::Sender<Arc<Vitals>>,
    reported: watch::Sender<Arc<Vitals>>,
    overheated: watch::Sender<bool>,
    readings: watch::Sender<u64>,
    asked: mpsc::Receiver<oneshot::Sender<()>>,
}

impl VitalsKeeper {
    /// Starts from `first`, which `probe` has read.
    #[must_use]
    pub fn new(probe: Arc<Probe>, first: Vitals, policy: Policy, metrics: Metrics) -> (Self, VitalsHandle) {
        let clock = Clock::start();
        let (ask, asked) = mpsc::channel(ASKED);
        let (fresh, fresh_seen) = watch::channel(Arc::new(Vitals::unknown("not read yet")));
        let (reported, reported_seen) = watch::channel(Arc::new(Vitals::unknown("not read yet")));
        let (overheated, overheated_seen) = watch::channel(false);
        let (readings, readings_seen) = watch::channel(0);
        let heat = Watch::new(policy, clock.now());
        let mut keeper = Self { probe, heat, clock, metrics, fresh, reported, overheated, readings, asked };
        keeper.take(first, true);
        let handle = VitalsHandle {
            fresh: fresh_seen,
            reported: reported_seen,
            overheated: overheated_seen,
            readings: readings_seen,
            ask,
        };
        (keeper, handle)
    }

    /// Reads until `stop`. A driver that hangs holds up the vitals and nothing else: their `as_of` stands still.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => None,
                Some(answer) = self.asked.recv() => Some(answer),
            };
            if asked.is_some() {
                self.probe.forget();
                self.heat.resumed(self.clock.now());
            }
            let seen = tokio::select! {
                () = stop.cancelled() => return,
                seen = look(self.probe.clone(), Probe::vitals) => seen,
            };
            match seen {
                Ok(seen) => self.take(seen, asked.is_some()),
                Err(complaint) => tracing::error!("{complaint}"),
            }
            if let Some(answer) = asked {
                // Who asked may have gone.
                answer.send(()).ok();
            }
        }
    }

    fn take(&mut self, mut seen: Vitals, at_once: bool) {
        let now = self.clock.now();
        seen.thermal = self.heat.observe(&Readings::of(&seen), now).clone();
        self.metrics.vitals(&seen);
        self.overheated
            .send_if_modified(|known| std::mem::replace(known, self.heat.wants_unload(now)) != *known);
        let seen = Arc::new(seen);
        let worth_it = |known: &Vitals| at_once || known.as_of != seen.as_of || noise::matters(known, &seen);
        replace_if(&self.reported, &seen, worth_it);
        replace_if(&self.fresh, &seen, |_| true);
        self.readings.send_modify(|count| *count += 1);
    }
}

fn replace_if(sender: &watch::Sender<Arc<Vitals>>, seen: &Arc<Vitals>, worth_it: impl Fn(&Vitals) -> bool) {
    sender.send_if_modified(|known| {
        let changes = **known != **seen && worth_it(known);
        if changes {
            *known = seen.clone();
        }
        changes
    });
}

/// Runs `read` where it may block.
pub(crate) async fn look<T: Send + 'static>(
    probe: Arc<Probe>,
    read: impl FnOnce(&Probe) -> T + Send + 'static,
) -> Result<T, Complaint> {
    tokio::task::spawn_blocking(move || read(&probe))
        .await
        .map_err(|error| Complaint::new("reading this machine failed").cause(error))
}

#[cfg(test)]
mod tests;
