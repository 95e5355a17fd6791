//! Sleeps that the tests script: bus, clocks and link are theirs, and time is paused.

use super::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Of paused time: what has not happened by then never will.
const AN_HOUR: Duration = Duration::from_secs(3600);

/// What happened, in order.
type Log = Arc<Mutex<Vec<&'static str>>>;

/// logind as the test plays it.
struct ScriptedBus {
    announcements: mpsc::Receiver<bool>,
    log: Log,
    refuses: Arc<AtomicBool>,
}

struct Held(Log, &'static str);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().expect("not poisoned").push(self.1);
    }
}

impl ScriptedBus {
    fn inhibit(
        &self,
        what: &'static str,
        taken: &'static str,
        gone: &'static str,
    ) -> BoxFuture<'_, Result<Inhibitor, BusError>> {
        let refused = BusError::Inhibit { what, mode: "delay", cause: "not now".into() };
        let held = Held(self.log.clone(), gone);
        if self.refuses.load(Ordering::Relaxed) {
            std::mem::forget(held);
            return Box::pin(async { Err(refused) });
        }
        self.log.lock().expect("not poisoned").push(taken);
        Box::pin(async { Ok(Box::new(held) as Inhibitor) })
    }
}

impl SleepBus for ScriptedBus {
    fn delay_sleep(&mut self) -> BoxFuture<'_, Result<Inhibitor, BusError>> {
        self.inhibit("sleep", "delay taken", "delay released")
    }

    fn block_lid(&mut self) -> BoxFuture<'_, Result<Inhibitor, BusError>> {
        self.inhibit("handle-lid-switch", "lid taken", "lid released")
    }

    fn announced(&mut self) -> BoxFuture<'_, Result<bool, BusError>> {
        Box::pin(async { self.announcements.recv().await.ok_or(BusError::Closed) })
    }
}

struct House {
    log: Log,
    sleep: Sleep,
    /// Where the test announces; a new one for each connection.
    announce: Arc<Mutex<Option<mpsc::Sender<bool>>>>,
    /// Whether there is a logind to be found.
    logind: Arc<AtomicBool>,
    refuses: Arc<AtomicBool>,
    looks: Arc<AtomicUsize>,
    clock_ahead: Arc<Mutex<Duration>>,
    told: watch::Sender<bool>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

struct Plan {
    logind: bool,
    /// logind does not answer.
    hangs: bool,
    linked: bool,
    inhibit_lid: bool,
    /// How long reading anew takes.
    reading: Duration,
}

const PLAIN: Plan =
    Plan { logind: true, hangs: false, linked: true, inhibit_lid: false, reading: Duration::ZERO };

impl House {
    fn new(plan: Plan) -> Self {
        let log = Log::default();
        let announce = Arc::new(Mutex::new(None));
        let (logind, refuses) = (Arc::new(AtomicBool::new(plan.logind)), Arc::new(AtomicBool::new(false)));
        let looks = Arc::new(AtomicUsize::new(0));
        let (told, told_seen) = watch::channel(false);
        let clock_ahead = Arc::new(Mutex::new(Duration::ZERO));
        let connect: Connect = {
            let (log, announce, logind) = (log.clone(), announce.clone(), logind.clone());
            let (refuses, looks) = (refuses.clone(), looks.clone());
            Box::new(move || {
                looks.fetch_add(1, Ordering::Relaxed);
                if plan.hangs {
                    return Box::pin(std::future::pending());
                }
                if !logind.load(Ordering::Relaxed) {
                    return Box::pin(async { Err(BusError::Connect("no such bus".into())) });
                }
                let (sender, announcements) = mpsc::channel(4);
                *announce.lock().expect("not poisoned") = Some(sender);
                let bus = ScriptedBus { announcements, log: log.clone(), refuses: refuses.clone() };
                Box::pin(async { Ok(Box::new(bus) as Box<dyn SleepBus>) })
            })
        };
        let began = Instant::now();
        let ahead = clock_ahead.clone();
        let clock: jump::Clock =
            Box::new(move || Some(began.elapsed() + *ahead.lock().expect("not poisoned")));
        let (refuse_log, read_log) = (log.clone(), log.clone());
        let config = SleepConfig {
            connect,
            clocks: Clocks::new(vec![clock]),
            inhibit_lid: plan.inhibit_lid,
            refuse: Arc::new(move |refuse| {
                let word = if refuse { "refusing" } else { "serving" };
                refuse_log.lock().expect("not poisoned").push(word);
            }),
            told: plan.linked.then_some(told_seen),
            read_anew: Box::new(move || {
                let log = read_log.clone();
                Box::pin(async move {
                    sleep(plan.reading).await;
                    log.lock().expect("not poisoned").push("read anew");
                })
            }),
        };
        let (keeper, sleep) = SleepKeeper::new(config);
        let stop = CancellationToken::new();
        let task = tokio::spawn(keeper.run(stop.clone()));
        Self { log, sleep, announce, logind, refuses, looks, clock_ahead, told, stop, task }
    }

    async fn announce(&self, asleep: bool) {
        let sender = self.announce.lock().expect("not poisoned").clone().expect("the bus was found");
        sender.send(asleep).await.expect("the agent listens");
    }

    async fn until(&mut self, state: SleepState) {
        let reached = timeout(AN_HOUR, self.sleep.state.wait_for(|is| *is == state)).await;
        reached.expect("in time").expect("the keeper runs");
    }

    async fn resumed(&mut self, times: u64) {
        let reached = timeout(AN_HOUR, self.sleep.resumes.wait_for(|count| *count == times)).await;
        reached.expect("in time").expect("the keeper runs");
        self.settle().await;
    }

    /// Lets everybody run who can without time passing.
    async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    fn take_log(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.log.lock().expect("not poisoned"))
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("it ends");
    }
}

#[tokio::test(start_paused = true)]
async fn the_goodbye_leaves_before_the_machine_sleeps_and_it_serves_only_after_it_was_read_anew() {
    let mut house = House::new(PLAIN);
    house.settle().await;
    assert_eq!(house.take_log(), ["delay taken"]);
    let before = Instant::now();
    house.announce(true).await;
    house.until(SleepState::GoingToSleep).await;
    house.settle().await;
    assert_eq!(house.take_log(), ["refusing"], "the inhibitor is held until the report has left");
    house.told.send_replace(true);
    sleep(FLUSH).await;
    house.settle().await;
    assert_eq!(house.take_log(), ["delay released"]);
    assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
    house.announce(false).await;
    house.resumed(1).await;
    assert_eq!(house.take_log(), ["refusing", "read anew", "serving", "delay taken"]);
    assert_eq!(*house.sleep.state.borrow(), SleepState::Awake);
    let log = house.log.clone();
    house.end().await;
    assert_eq!(*log.lock().expect("not poisoned"), ["delay released"]);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_down_holds_up_the_sleep_for_two_seconds_and_no_link_not_at_all() {
    for (linked, least, most) in [(true, 2000, 2100), (false, 0, 100)] {
        let mut house = House::new(Plan { linked, ..PLAIN });
        house.settle().await;
        let before = Instant::now();
        house.announce(true).await;
        house.until(SleepState::GoingToSleep).await;
        while !house.log.lock().expect("not poisoned").contains(&"delay released") {
            sleep(Duration::from_millis(10)).await;
        }
        let took = before.elapsed().as_millis();
        assert!((least..=most).contains(&took), "{took} ms");
        house.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_logind_a_jump_of_the_clocks_is_a_resume() {
    let mut house = House::new(Plan { logind: false, ..PLAIN });
    sleep(Duration::from_secs(10)).await;
    *house.clock_ahead.lock().expect("not poisoned") += Duration::from_secs(29);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(*house.sleep.resumes.borrow(), 0, "29 s may be a clock that was set");
    *house.clock_ahead.lock().expect("not poisoned") += Duration::from_secs(31);
    house.resumed(1).await;
    assert_eq!(house.take_log(), ["refusing", "read anew", "serving"]);
    sleep(Duration::from_secs(100)).await;
    assert_eq!(*house.sleep.resumes.borrow(), 1);
    house.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sleep_that_both_bus_and_clocks_tell_of_is_one_resume() {
    for bus_first in [true, false] {
        let mut house = House::new(PLAIN);
        house.settle().await;
        assert_eq!(house.take_log(), ["delay taken"]);
        house.told.send_replace(true);
        house.announce(true).await;
        house.until(SleepState::GoingToSleep).await;
        sleep(FLUSH * 2).await;
        if bus_first {
            *house.clock_ahead.lock().expect("not poisoned") += Duration::from_secs(3600);
            house.announce(false).await;
        } else {
            // logind gives no inhibitor while its own sleep is still going on.
            house.refuses.store(true, Ordering::Relaxed);
            *house.clock_ahead.lock().expect("not poisoned") += Duration::from_secs(3600);
            house.resumed(1).await;
            assert!(!house.take_log().contains(&"delay taken"));
            house.refuses.store(false, Ordering::Relaxed);
            house.announce(false).await;
            house.settle().await;
            assert_eq!(house.take_log(), ["delay taken"]);
        }
        sleep(Duration::from_secs(10)).await;
        assert_eq!(*house.sleep.resumes.borrow(), 1);
        house.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sleep_that_did_not_happen_does_not_keep_the_machine_from_working() {
    let mut house = House::new(PLAIN);
    house.settle().await;
    house.told.send_replace(true);
    house.announce(true).await;
    house.until(SleepState::GoingToSleep).await;
    let since = Instant::now();
    house.resumed(1).await;
    let took = since.elapsed();
    assert!((STAYED_AWAKE..STAYED_AWAKE + 2 * LOOK).contains(&took), "{took:?}");
    house.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_hangs_after_the_sleep_keeps_the_machine_from_working_for_a_while_only() {
    let mut house = House::new(Plan { logind: false, reading: Duration::from_secs(3600), ..PLAIN });
    sleep(Duration::from_secs(2)).await;
    *house.clock_ahead.lock().expect("not poisoned") += Duration::from_secs(600);
    house.until(SleepState::Resuming).await;
    let since = Instant::now();
    house.resumed(1).await;
    assert_eq!(since.elapsed(), READ_LIMIT);
    assert_eq!(house.take_log(), ["refusing", "serving"]);
    house.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_goes_and_comes_back_is_found_again() {
    let mut house = House::new(PLAIN);
    house.settle().await;
    house.logind.store(false, Ordering::Relaxed);
    *house.announce.lock().expect("not poisoned") = None;
    house.settle().await;
    assert_eq!(house.take_log(), ["delay taken", "delay released"], "what was held went with the bus");
    sleep(Duration::from_secs(300)).await;
    let looks = house.looks.load(Ordering::Relaxed);
    assert!((5..=7).contains(&looks), "once a minute, not {looks} times");
    house.logind.store(true, Ordering::Relaxed);
    sleep(RECONNECT + LOOK).await;
    assert_eq!(house.take_log(), ["delay taken"]);
    house.told.send_replace(true);
    house.announce(true).await;
    house.until(SleepState::GoingToSleep).await;
    house.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_hangs_does_not_keep_the_clocks_from_being_read() {
    let mut house = House::new(Plan { hangs: true, ..PLAIN });
    sleep(BUS_LIMIT + 2 * LOOK).await;
    *house.clock_ahead.lock().expect("not poisoned") += Duration::from_secs(600);
    house.resumed(1).await;
    house.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_lid_is_blocked_only_where_the_owner_wants_it_and_a_refusal_is_no_failure() {
    let house = House::new(Plan { inhibit_lid: true, ..PLAIN });
    house.settle().await;
    assert_eq!(house.take_log(), ["delay taken", "lid taken"]);
    house.end().await;
    let mut house = House::new(Plan { inhibit_lid: true, ..PLAIN });
    house.refuses.store(true, Ordering::Relaxed);
    house.settle().await;
    assert!(house.take_log().is_empty());
    house.told.send_replace(true);
    house.announce(true).await;
    house.until(SleepState::GoingToSleep).await;
    house.announce(false).await;
    house.resumed(1).await;
    house.end().await;
}
