//! The ledger of memory: who may load now, and what is promised to loads whose bytes do not show yet.
//!
//! ```text
//! admit ─ fits? ─► promised ─ its device's turn ─► loading ─ settle ─► held ─ drop ─► returned
//!            └ no ─► Refused, with the numbers
//! ```
//!
//! A load that is admitted has its bytes from that moment: a second one that wants the same bytes is refused with
//! the numbers, however late the machine's own readings are. Loads on one device go one after the other, because
//! what the first really takes is known only when it is loaded. Memory comes back late after an unload (0.5–1.5 s,
//! at most 5 s), so a load that would have to be refused or made smaller waits that long for it.
//!
//! Called by the supervisor's keepers. Bytes are counted here and nowhere else.

use crate::probe::{Attended, Attention};
use mesh_core::fit::{Choice, Claim, Demand, Fit, Offload, Pools};
use mesh_core::machine::{Reading, Vitals};
use mesh_core::units::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard, watch};
use tokio::time::{Instant, timeout_at};

/// How long memory may take to come back after an unload: drivers free it after the process has ended.
pub const RETURNS_WITHIN: Duration = Duration::from_secs(5);
/// How long a settled load waits for a reading that shows it: the probe reads each second.
const SHOWN_WITHIN: Duration = Duration::from_secs(3);
/// How often a load may find that another device is the better one now. Each time it waits for a turn.
const CHANGES_OF_MIND: usize = 3;

/// A load that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("does not fit: {}", fit.why)]
pub struct Refused {
    /// The numbers.
    pub fit: Box<Fit>,
}

/// How cards are read while a model is admitted and loaded: each second, and woken where they sleep.
#[derive(Debug, Clone)]
pub struct Cards {
    /// Held meanwhile.
    pub attention: Attention,
    /// Counts readings of the machine.
    pub readings: watch::Receiver<u64>,
}

impl Cards {
    /// Waits for a reading that began after now. A probe that hangs tells nothing newer; the old reading is all there
    /// is then.
    async fn read(&self) {
        let mut readings = self.readings.clone();
        let wanted = *readings.borrow_and_update() + 2;
        drop(timeout_at(Instant::now() + SHOWN_WITHIN, readings.wait_for(|count| *count >= wanted)).await);
    }
}

/// The ledger of one machine. Clones share it.
#[derive(Clone)]
pub struct Ledger {
    vitals: watch::Receiver<Arc<Vitals>>,
    cards: Option<Cards>,
    book: Arc<Mutex<Book>>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Ledger").field("claims", &self.claims()).finish()
    }
}

#[derive(Default)]
struct Book {
    entries: BTreeMap<u64, Entry>,
    next: u64,
    /// When memory was last given back.
    returned: Option<Instant>,
    /// Held by the load that runs on a device.
    turns: BTreeMap<String, Arc<Turn<()>>>,
}

struct Entry {
    who: String,
    device: Option<String>,
    demand: Demand,
    /// What was free when its turn came: the loss since then is its own.
    began: Option<Free>,
    /// Its bytes show in what the machine calls free.
    shows: bool,
}

/// What was free at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Free {
    /// On the load's device.
    pub device: Option<Bytes>,
    /// Of RAM.
    pub host: Option<Bytes>,
}

/// By how much free memory shrank while a model loaded. Negative when others freed more than it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shrunk {
    /// On the load's device.
    pub device: Option<i64>,
    /// Of RAM.
    pub host: Option<i64>,
}

impl Ledger {
    /// A ledger over what the machine says of itself.
    #[must_use]
    pub fn new(vitals: watch::Receiver<Arc<Vitals>>) -> Self {
        Self { vitals, cards: None, book: Arc::default() }
    }

    /// The same, which has cards read while it needs them.
    #[must_use]
    pub fn with_cards(self, cards: Option<Cards>) -> Self {
        Self { cards, ..self }
    }

    /// Cards are awake and read each second until the result is dropped, and have been read once when this returns.
    async fn attend(&self) -> Option<Attended> {
        let cards = self.cards.as_ref()?;
        let attended = cards.attention.hold();
        if self.vitals().gpus.known().is_some_and(|gpus| !gpus.is_empty()) {
            cards.read().await;
        }
        Some(attended)
    }

    /// What the machine says of itself now.
    #[must_use]
    pub fn vitals(&self) -> Arc<Vitals> {
        self.vitals.borrow().clone()
    }

    /// All claims of this moment.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        let vitals = self.vitals();
        self.book().claims(&vitals, None)
    }

    /// An engine has given memory back: it may take a while until that shows.
    pub fn returned(&self) {
        self.book().returned = Some(Instant::now());
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a load of `who` the way that `decide` chooses, and returns when its device's turn has come: the load
    /// may begin. `decide` is asked again whenever the figures change; `holders` are claims that only the caller
    /// knows of. Dropping the future gives everything back.
    ///
    /// # Errors
    /// [`Refused`] with the numbers, after waiting for memory that is on its way back.
    pub async fn admit(
        &self,
        who: &str,
        holders: &[Claim],
        decide: impl Fn(&Pools, &[Claim]) -> Choice,
    ) -> Result<(Reservation, Choice), Refused> {
        let attended = self.attend().await;
        let id = {
            let mut book = self.book();
            book.next += 1;
            book.next
        };
        let mut reservation = Reservation { ledger: self.clone(), id, turn: None, attended };
        let mut choice = self.decide(who, id, holders, &decide).await?;
        let mut changes = 0;
        loop {
            let lane = lane(&self.vitals(), choice.fit.gpu.as_deref());
            if reservation.turn.as_ref().is_some_and(|(held, _)| *held == lane) {
                break;
            }
            changes += 1;
            if changes > CHANGES_OF_MIND {
                choice.fit.why = format!("the best place changes with each look: {}", choice.fit.why);
                return Err(Refused { fit: Box::new(choice.fit) });
            }
            // Never two turns at once, or two loads could wait for each other.
            reservation.turn = None;
            let turn = Arc::clone(self.book().turns.entry(lane.clone()).or_default());
            reservation.turn = Some((lane, turn.lock_owned().await));
            // What the load before took is known now: the figures are looked at once more.
            choice = self.decide(who, id, holders, &decide).await?;
        }
        let free = free(&self.vitals(), choice.fit.gpu.as_deref());
        if let Some(entry) = self.book().entries.get_mut(&id) {
            entry.began = Some(free);
        }
        Ok((reservation, choice))
    }

    /// Asks until it fits as well as it can, and writes it down in the same step.
    async fn decide(
        &self,
        who: &str,
        own: u64,
        holders: &[Claim],
        decide: &impl Fn(&Pools, &[Claim]) -> Choice,
    ) -> Result<Choice, Refused> {
        let mut readings = self.vitals.clone();
        loop {
            let waits_until = {
                let vitals = readings.borrow_and_update().clone();
                let mut book = self.book();
                let mut claims = book.claims(&vitals, Some(own));
                claims.extend_from_slice(holders);
                let pools = Pools::of(&vitals);
                let choice = decide(&pools, &claims);
                let late =
                    book.returned.map(|at| at + RETURNS_WITHIN).filter(|until| Instant::now() < *until);
                let whole = pools.devices.is_empty() || choice.trial.offload == Offload::Full;
                match late {
                    Some(until) if !choice.fit.fits || !whole => until,
                    Some(_) | None if choice.fit.fits => {
                        book.promise(own, who, &choice);
                        return Ok(choice);
                    }
                    Some(_) | None => return Err(Refused { fit: Box::new(choice.fit) }),
                }
            };
            // A reading, or the end of patience; a probe that has ended brings no reading.
            if let Ok(Err(_)) = timeout_at(waits_until, readings.changed()).await {
                tokio::time::sleep_until(waits_until).await;
            }
        }
    }
}

impl Book {
    fn promise(&mut self, id: u64, who: &str, choice: &Choice) {
        let entry = Entry {
            who: who.to_owned(),
            device: choice.fit.gpu.clone(),
            demand: choice.demand,
            began: None,
            shows: false,
        };
        self.entries.insert(id, entry);
    }

    /// The claims of everybody but `own`. Of a load that runs, what is already missing in the free memory is not
    /// counted twice; RAM only where one load runs, for else nobody knows whose loss it is.
    fn claims(&self, vitals: &Vitals, own: Option<u64>) -> Vec<Claim> {
        let running = self.entries.values().filter(|entry| entry.began.is_some() && !entry.shows).count();
        let others = self.entries.iter().filter(|(id, _)| Some(**id) != own);
        others
            .map(|(_, entry)| {
                let mut left = entry.demand;
                if let (Some(began), false) = (entry.began, entry.shows) {
                    let now = free(vitals, entry.device.as_deref());
                    left.device = less(left.device, began.device, now.device);
                    if running == 1 {
                        left.host = less(left.host, began.host, now.host);
                    }
                }
                Claim {
                    who: entry.who.clone(),
                    device: entry.device.clone(),
                    on_device: left.device,
                    on_host: left.host,
                    promised: !entry.shows,
                }
            })
            .collect()
    }
}

/// `promised` less what free memory lost from `before` to `now`.
fn less(promised: Bytes, before: Option<Bytes>, now: Option<Bytes>) -> Bytes {
    let (Some(before), Some(now)) = (before, now) else { return promised };
    Bytes(promised.0.saturating_sub(before.0.saturating_sub(now.0)))
}

fn free(vitals: &Vitals, device: Option<&str>) -> Free {
    let gpus = vitals.gpus.known().into_iter().flatten();
    let device = device.and_then(|id| {
        let gpu = gpus.into_iter().find(|gpu| gpu.id == id)?;
        Some(gpu.memory.known()?.available)
    });
    Free { device, host: vitals.ram.known().map(|ram| ram.available) }
}

/// Loads in one lane go one after the other: those on one card, and all those that take RAM for the model itself.
fn lane(vitals: &Vitals, device: Option<&str>) -> String {
    let shared = |id: &str| {
        let gpus = vitals.gpus.known().into_iter().flatten();
        gpus.into_iter().any(|gpu| gpu.id == id && gpu.pool.shares_ram())
    };
    device.filter(|id| !shared(id)).unwrap_or("ram").to_owned()
}

/// Bytes of one load, from the decision until it is gone. Dropping it gives them back.
pub struct Reservation {
    ledger: Ledger,
    id: u64,
    /// The lane and its turn, while it loads.
    turn: Option<(String, OwnedMutexGuard<()>)>,
    /// Cards are read each second while it loads.
    attended: Option<Attended>,
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Reservation({})", self.id)
    }
}

impl Reservation {
    /// The load has ended: waits for a reading that shows it, tells by how much free memory shrank, and lets the
    /// next load on this device begin. From now on its bytes are what the machine itself calls taken.
    pub async fn settle(&mut self) -> Shrunk {
        if let Some(cards) = &self.ledger.cards {
            cards.read().await;
        } else {
            let mut readings = self.ledger.vitals.clone();
            readings.mark_unchanged();
            drop(timeout_at(Instant::now() + SHOWN_WITHIN, readings.changed()).await);
        }
        let vitals = self.ledger.vitals();
        let mut shrunk = Shrunk::default();
        if let Some(entry) = self.ledger.book().entries.get_mut(&self.id) {
            let now = free(&vitals, entry.device.as_deref());
            let before = entry.began.unwrap_or_default();
            shrunk = Shrunk { device: loss(before.device, now.device), host: loss(before.host, now.host) };
            entry.shows = true;
        }
        (self.turn, self.attended) = (None, None);
        shrunk
    }

    /// The load was an engine's own: its bytes are that engine's now, and none come back.
    pub fn hand_over(self) {
        self.ledger.book().entries.remove(&self.id);
    }

    /// What it holds by measurement, for others to be told.
    pub fn holds(&self, measured: Demand) {
        if let Some(entry) = self.ledger.book().entries.get_mut(&self.id) {
            entry.demand = measured;
        }
    }
}

fn loss(before: Option<Bytes>, now: Option<Bytes>) -> Option<i64> {
    let signed = |bytes: Bytes| i64::try_from(bytes.0).unwrap_or(i64::MAX);
    Some(signed(before?) - signed(now?))
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut book = self.ledger.book();
        if book.entries.remove(&self.id).is_some_and(|entry| entry.began.is_some()) {
            book.returned = Some(Instant::now());
        }
    }
}

/// What is not known of a machine without sensors: nothing is refused there.
#[must_use]
pub fn blind() -> watch::Receiver<Arc<Vitals>> {
    let vitals = Vitals { gpus: Reading::Known(Vec::new()), ..Vitals::unknown("nobody reads this machine") };
    watch::channel(Arc::new(vitals)).1
}

#[cfg(test)]
#[path = "reservation/tests.rs"]
mod tests;
