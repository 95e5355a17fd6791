//! What the agent does around the machine's sleep: says goodbye before, reads everything anew after, and only then
//! takes requests again.
//!
//! ```text
//!             PrepareForSleep(true)              inhibitor released
//!  Awake ───────────────────────► GoingToSleep ───────────────────► (sleep)
//!    ▲    reports say draining, 2 s at most for them to leave          │ PrepareForSleep(false),
//!    │                                                                 │ or the clocks say so
//!    └──────────── draining withdrawn ◄──── machine read anew ◄──── Resuming
//! ```
//! systemd-logind announces a sleep and waits for those who hold a *delay* inhibitor. Without logind the sleep
//! shows afterwards: clocks that run on while the machine sleeps jump ahead of the one that does not.

mod jump;
mod logind;

pub use jump::{Clock, Clocks, boot_clock, wall_clock};
pub use logind::Logind;

use futures_util::future::BoxFuture;
use mesh_core::units::human_duration;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long the sleep is held up for the report to leave. logind waits 5 s for all inhibitors together
/// (`InhibitDelayMaxSec`), and a closing lid belongs to a person in a hurry.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);

/// The connection has taken the report; its task writes it to the socket in its next turn.
const FLUSH: Duration = Duration::from_millis(50);

/// How often the clocks are compared, and with them how late a sleep without logind is noticed.
const LOOK: Duration = Duration::from_secs(1);

/// A machine that was told to sleep and has been awake for this long did not.
const STAYED_AWAKE: Duration = Duration::from_secs(30);

/// After this long a driver that hangs since the resume keeps the machine from working no more; its report says
/// how old it is.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// How often logind is looked for while it is not there. Machines have it from their start or never.
const RECONNECT: Duration = Duration::from_secs(60);

/// A bus that takes longer is as good as away.
const BUS_LIMIT: Duration = Duration::from_secs(5);

/// Where the machine is on the way to its sleep and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SleepState {
    /// Everyday.
    Awake,
    /// About to sleep, or asleep.
    GoingToSleep,
    /// Awake again, not yet read anew.
    Resuming,
}

/// What others see of the machine's sleep. Clones see the same.
#[derive(Debug, Clone)]
pub struct Sleep {
    /// The state. Who must not miss a resume watches [`Self::resumes`]: states may pass between two looks.
    pub state: watch::Receiver<SleepState>,
    /// How often the machine has resumed and was read anew. A change means that what was true of engines may be
    /// true no more: after a sleep their processors are often lost to them.
    pub resumes: watch::Receiver<u64>,
}

/// Why logind could not be asked, or can be no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// There is no bus or no logind on it.
    #[error("reaching logind over D-Bus: {0}")]
    Connect(String),
    /// logind gave no inhibitor.
    #[error("asking logind for a {mode} inhibitor of {what}: {cause}")]
    Inhibit {
        /// What it was for, as logind names it.
        what: &'static str,
        /// `delay` or `block`.
        mode: &'static str,
        /// What logind said.
        cause: String,
    },
    /// The connection has ended.
    #[error("the D-Bus connection to logind has ended")]
    Closed,
}

/// Holds up what it inhibits until it is dropped.
pub type Inhibitor = Box<dyn Send>;

/// Who announces the machine's sleep: [`Logind`], or a script in tests.
pub trait SleepBus: Send {
    /// Takes an inhibitor that delays the next sleep.
    fn delay_sleep(&mut self) -> BoxFuture<'_, Result<Inhibitor, BusError>>;
    /// Takes an inhibitor that keeps a closed lid from putting the machine to sleep.
    fn block_lid(&mut self) -> BoxFuture<'_, Result<Inhibitor, BusError>>;
    /// Completes with the next announcement: true = about to sleep, false = awake again. Dropping it loses none.
    fn announced(&mut self) -> BoxFuture<'_, Result<bool, BusError>>;
}

/// Finds the bus, each time anew.
pub type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<Box<dyn SleepBus>, BusError>> + Send + Sync>;

/// What the keeper needs.
pub struct SleepConfig {
    /// Finds logind.
    pub connect: Connect,
    /// Clocks that run on while the machine sleeps.
    pub clocks: Clocks,
    /// Whether a closed lid is kept from putting the machine to sleep.
    pub inhibit_lid: bool,
    /// Starts and ends the refusal of new requests, which reports call draining.
    pub refuse: Arc<dyn Fn(bool) + Send + Sync>,
    /// Whether the router has been told of the draining; `None` when it is in the same process.
    pub told: Option<watch::Receiver<bool>>,
    /// Reads the machine anew.
    pub read_anew: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

/// The one who says goodbye.
pub struct SleepKeeper {
    config: SleepConfig,
    state: watch::Sender<SleepState>,
    resumes: watch::Sender<u64>,
    bus: Option<Box<dyn SleepBus>>,
    /// Held while awake.
    delay: Option<Inhibitor>,
    lid: Option<Inhibitor>,
    /// When logind was last looked for.
    looked: Option<Instant>,
    said_away: bool,
    said_refused: bool,
    /// When the machine was let go to sleep.
    let_go: Option<Instant>,
}

impl SleepKeeper {
    /// Makes the keeper and what others see of it.
    #[must_use]
    pub fn new(config: SleepConfig) -> (Self, Sleep) {
        let (state, state_seen) = watch::channel(SleepState::Awake);
        let (resumes, resumes_seen) = watch::channel(0);
        let keeper = Self {
            config,
            state,
            resumes,
            bus: None,
            delay: None,
            lid: None,
            looked: None,
            said_away: false,
            said_refused: false,
            let_go: None,
        };
        (keeper, Sleep { state: state_seen, resumes: resumes_seen })
    }

    /// Accompanies the machine until `stop`. Its inhibitors go then.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.accompany() => {}
        }
    }

    async fn accompany(&mut self) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.config.clocks.jump();
        loop {
            tokio::select! {
                announced = announced(&mut self.bus) => match announced {
                    Ok(true) => self.fall_asleep().await,
                    Ok(false) if self.let_go.is_some() => self.resume("logind says so").await,
                    // The clocks were faster; but only now does logind give inhibitors again.
                    Ok(false) => self.hold_up().await,
                    Err(error) => self.lost(&error),
                },
                _ = tick.tick() => self.look().await,
            }
        }
    }

    async fn look(&mut self) {
        let jump = self.config.clocks.jump();
        if let Some(jump) = jump.filter(|jump| *jump >= jump::SLEPT) {
            let why = format!("its clock is {} ahead", human_duration(jump));
            self.resume(&why).await;
        } else if self.let_go.is_some_and(|since| since.elapsed() >= STAYED_AWAKE) {
            self.resume("it was announced to sleep and did not").await;
        }
        if self.looked.is_none_or(|looked| looked.elapsed() >= RECONNECT) {
            self.looked = Some(Instant::now());
            self.connect().await;
            self.hold_up().await;
        }
    }

    /// Finds logind where it is not known.
    async fn connect(&mut self) {
        if self.bus.is_some() {
            return;
        }
        let late = || BusError::Connect(format!("no answer within {} s", BUS_LIMIT.as_secs()));
        match timeout(BUS_LIMIT, (self.config.connect)()).await.unwrap_or_else(|_| Err(late())) {
            Ok(bus) => {
                self.bus = Some(bus);
                self.said_away = false;
            }
            Err(error) => self.lost(&error),
        }
    }

    fn lost(&mut self, error: &BusError) {
        (self.bus, self.delay, self.lid) = (None, None, None);
        if !self.said_away {
            tracing::info!("without logind this machine's sleep is seen only after it: {error}");
        }
        self.said_away = true;
    }

    /// Takes the inhibitors that are not held.
    async fn hold_up(&mut self) {
        let Some(bus) = self.bus.as_mut().filter(|_| self.let_go.is_none()) else { return };
        if self.delay.is_none() {
            match within(bus.delay_sleep()).await {
                Ok(inhibitor) => self.delay = Some(inhibitor),
                Err(error) => {
                    if !self.said_refused {
                        tracing::warn!("the router may not hear of this machine's sleep in time: {error}");
                    }
                    self.said_refused = true;
                }
            }
        }
        if self.config.inhibit_lid && self.lid.is_none() {
            match within(bus.block_lid()).await {
                Ok(inhibitor) => self.lid = Some(inhibitor),
                Err(error) => {
                    tracing::warn!(
                        "a closed lid puts this machine to sleep: {error}. hint: allow the agent's user \
                         org.freedesktop.login1.inhibit-handle-lid-switch in a polkit rule, or set \
                         sleep.inhibit_lid = false"
                    );
                    // Permissions do not come back by asking.
                    self.config.inhibit_lid = false;
                }
            }
        }
    }

    /// Says goodbye, then lets the machine sleep.
    async fn fall_asleep(&mut self) {
        tracing::info!("the machine is going to sleep");
        self.state.send_replace(SleepState::GoingToSleep);
        (self.config.refuse)(true);
        if let Some(told) = &mut self.config.told {
            // An end of the channel is the end of the link: then there is nobody to tell.
            let left = timeout(GOODBYE_LIMIT, told.wait_for(|&told| told)).await.map(|told| told.is_ok());
            match left {
                Ok(true) => sleep(FLUSH).await,
                Ok(false) => {}
                Err(_) => tracing::debug!("the router did not hear of the sleep in time"),
            }
        }
        self.let_go = Some(Instant::now());
        self.delay = None;
    }

    /// Reads the machine anew, then takes requests again.
    async fn resume(&mut self, why: &str) {
        tracing::info!("the machine has slept ({why}): reading it anew");
        self.state.send_replace(SleepState::Resuming);
        (self.config.refuse)(true);
        self.let_go = None;
        if timeout(READ_LIMIT, (self.config.read_anew)()).await.is_err() {
            tracing::warn!(
                "reading this machine takes more than {} s since its sleep; its reports are old until it ends",
                READ_LIMIT.as_secs()
            );
        }
        (self.config.refuse)(false);
        self.resumes.send_modify(|count| *count += 1);
        self.state.send_replace(SleepState::Awake);
        self.hold_up().await;
        // One sleep is told by the bus and by the clocks.
        self.config.clocks.jump();
    }
}

/// The bus's next announcement, if there is a bus.
async fn announced(bus: &mut Option<Box<dyn SleepBus>>) -> Result<bool, BusError> {
    match bus {
        Some(bus) => bus.announced().await,
        None => std::future::pending().await,
    }
}

async fn within<T>(asked: BoxFuture<'_, Result<T, BusError>>) -> Result<T, BusError> {
    timeout(BUS_LIMIT, asked).await.unwrap_or(Err(BusError::Closed))
}

#[cfg(test)]
mod tests;
