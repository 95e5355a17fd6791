//! Tests of the ledger: races, turns, late readings.

use super::*;
use futures_util::poll;
use mesh_core::fit::{Margin, Trial, fit};
use mesh_core::machine::{Capacity, Gpu, GpuVendor, Pool, UnifiedLimit};
use std::pin::pin;

const GIB: u64 = 1 << 30;

fn gib(n: u64) -> Bytes {
    Bytes(n * GIB)
}

/// A machine with 64 GiB of RAM and one card with `free` of 24 GiB.
fn machine(free: u64) -> Arc<Vitals> {
    let card = Gpu {
        memory: Reading::Known(Capacity { total: gib(24), available: gib(free) }),
        pool: Pool::Discrete { reserved: None },
        ..Gpu::unknown("card", "Card", GpuVendor::Nvidia, "test")
    };
    Arc::new(Vitals {
        ram: Reading::Known(Capacity { total: gib(64), available: gib(60) }),
        gpus: Reading::Known(vec![card]),
        ..Vitals::unknown("test")
    })
}

fn ledger(free: u64) -> (watch::Sender<Arc<Vitals>>, Ledger) {
    let (send, vitals) = watch::channel(machine(free));
    (send, Ledger::new(vitals))
}

/// The same with a card that takes its memory from RAM.
fn unified(free: u64) -> Arc<Vitals> {
    let mut vitals = (*machine(free)).clone();
    if let Reading::Known(cards) = &mut vitals.gpus {
        let gtt = Capacity { total: gib(24), available: gib(free) };
        let carve_out = Capacity { total: Bytes(0), available: Bytes(0) };
        cards[0].pool = Pool::Unified { carve_out, gtt, limited_by: UnifiedLimit::Driver };
    }
    Arc::new(vitals)
}

/// The outcome of a wait that would never end with a broken ledger.
async fn soon<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("within a minute")
}

/// Wants `gib` on the card and nothing less.
fn whole(gib: u64) -> impl Fn(&Pools, &[Claim]) -> Choice {
    move |pools, claims| {
        let demand = Demand { device: Bytes(gib * GIB), host: Bytes(GIB) };
        let trial = Trial { offload: Offload::Full, context: 4096 };
        Choice { trial, demand, fit: fit(pools, claims, demand, Margin::Default) }
    }
}

/// Wants `gib` on the card, or else in RAM.
fn somewhere(gib: u64) -> impl Fn(&Pools, &[Claim]) -> Choice {
    move |pools, claims| {
        let first = whole(gib)(pools, claims);
        if first.fit.fits {
            return first;
        }
        let demand = Demand { device: Bytes(0), host: Bytes(gib * GIB) };
        let trial = Trial { offload: Offload::None, context: 4096 };
        Choice { trial, demand, fit: fit(pools, claims, demand, Margin::Default) }
    }
}

#[tokio::test(start_paused = true)]
async fn two_loads_that_want_the_same_bytes_race_and_one_is_refused_with_the_numbers() {
    let (_vitals, ledger) = ledger(16);
    let (one, two) = tokio::join!(
        ledger.admit("first on a", &[], whole(10)),
        ledger.admit("second on b", &[], whole(10)),
    );
    let (kept, refused) = match (one, two) {
        (Ok(kept), Err(refused)) | (Err(refused), Ok(kept)) => (kept, refused),
        (one, two) => panic!("exactly one is admitted, not {one:?} and {two:?}"),
    };
    assert_eq!(kept.1.fit.gpu.as_deref(), Some("card"));
    assert_eq!((refused.fit.device.needs, refused.fit.device.free), (gib(10), Some(gib(16))));
    assert_eq!(refused.fit.device.reserved, gib(10));
    let text = refused.to_string();
    for part in ["needs 10 GiB of Card", "16 GiB are free, 10 GiB of them promised", "held by first on a"] {
        assert!(text.contains(part), "{part} in: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn loads_on_one_card_go_one_after_the_other() {
    let (vitals, ledger) = ledger(23);
    let (mut first, _) = ledger.admit("first", &[], whole(10)).await.expect("fits");
    let mut second = pin!(ledger.admit("second", &[], whole(10)));
    assert!(poll!(&mut second).is_pending(), "its bytes are promised and it waits for its turn");
    assert_eq!(ledger.claims().len(), 2);
    let third = ledger.admit("third", &[], whole(5)).await.expect_err("two have all of it");
    assert_eq!(third.fit.device.reserved, gib(20));

    // The first is loaded and took 11; the second still fits and begins.
    let shown = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        vitals.send_replace(machine(12));
    };
    let (shrunk, ()) = tokio::join!(first.settle(), shown);
    assert_eq!((shrunk.device, shrunk.host), (Some(11 << 30), Some(0)));
    first.holds(Demand { device: gib(11), host: gib(1) });
    let (_second, choice) = soon(second).await.expect("fits still");
    assert_eq!((choice.fit.device.reserved, choice.fit.device.free), (Bytes(0), Some(gib(12))));
    assert!(choice.fit.why.contains("first 12 GiB"), "{}", choice.fit.why);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_waited_is_refused_when_the_one_before_took_more_than_predicted() {
    let (vitals, ledger) = ledger(23);
    let (mut first, _) = ledger.admit("first", &[], whole(10)).await.expect("fits");
    let mut second = pin!(ledger.admit("second", &[], whole(10)));
    assert!(poll!(&mut second).is_pending());
    vitals.send_replace(machine(9));
    first.settle().await;
    let refused = soon(second).await.expect_err("9 GiB are left");
    assert_eq!(refused.fit.device.free, Some(gib(9)));
}

#[tokio::test(start_paused = true)]
async fn what_a_running_load_has_taken_already_is_not_counted_twice() {
    let (vitals, ledger) = ledger(23);
    let (_first, _) = ledger.admit("first", &[], whole(10)).await.expect("fits");
    vitals.send_replace(machine(17));
    let claims = ledger.claims();
    assert_eq!((claims[0].on_device, claims[0].promised), (gib(4), true));
    vitals.send_replace(machine(2));
    assert_eq!(ledger.claims()[0].on_device, Bytes(0), "it took more; the rest shows in the reading");
}

#[tokio::test(start_paused = true)]
async fn a_load_on_shared_memory_and_one_in_ram_go_one_after_the_other() {
    let (_vitals, ledger) = ledger(16);
    let own = ledger.admit("card", &[], whole(5)).await.expect("fits");
    let ram = soon(ledger.admit("ram", &[], somewhere(30))).await.expect("a card of its own holds up nobody");
    assert_eq!((own.1.fit.gpu.as_deref(), ram.1.fit.gpu.as_deref()), (Some("card"), None));

    let ledger = Ledger::new(watch::channel(unified(16)).1);
    let (mut first, choice) = ledger.admit("card", &[], whole(5)).await.expect("fits");
    assert_eq!(choice.fit.gpu.as_deref(), Some("card"));
    let mut second = pin!(ledger.admit("ram", &[], somewhere(30)));
    assert!(poll!(&mut second).is_pending(), "what the first really takes of RAM is not known yet");
    first.settle().await;
    assert_eq!(soon(second).await.expect("fits").1.fit.gpu, None);
}

#[tokio::test(start_paused = true)]
async fn a_loss_of_ram_is_no_loads_own_while_two_run() {
    let (vitals, ledger) = ledger(23);
    let (first, _) = ledger.admit("card", &[], whole(10)).await.expect("fits");
    let (_second, choice) = soon(ledger.admit("ram", &[], somewhere(30))).await.expect("fits");
    assert_eq!(choice.fit.gpu, None);
    let mut shrunk = (*machine(23)).clone();
    shrunk.ram = Reading::Known(Capacity { total: gib(64), available: gib(55) });
    vitals.send_replace(Arc::new(shrunk));
    let on_host = || ledger.claims().iter().map(|claim| claim.on_host).collect::<Vec<_>>();
    assert_eq!(on_host(), [gib(1), gib(30)], "5 GiB are gone, and nobody knows to whom");
    drop(first);
    assert_eq!(on_host(), [gib(25)], "the only one that runs has taken them");
}

#[tokio::test(start_paused = true)]
async fn dropping_a_load_or_its_admission_gives_the_bytes_back() {
    let (_vitals, ledger) = ledger(16);
    let (first, _) = ledger.admit("first", &[], whole(10)).await.expect("fits");
    {
        let mut waiting = pin!(ledger.admit("waits", &[], whole(5)));
        assert!(poll!(&mut waiting).is_pending());
        assert_eq!(ledger.claims().len(), 2);
    }
    assert_eq!(ledger.claims().len(), 1);
    drop(first);
    assert_eq!(ledger.claims(), []);
    ledger.admit("second", &[], whole(10)).await.expect("free again");
}

#[tokio::test(start_paused = true)]
async fn what_is_handed_over_to_an_engine_is_promised_no_more_and_not_waited_for() {
    let (vitals, ledger) = ledger(16);
    let (mut first, _) = ledger.admit("first", &[], whole(12)).await.expect("fits");
    vitals.send_replace(machine(4));
    first.settle().await;
    first.hand_over();
    assert_eq!(ledger.claims(), []);
    // The engine keeps it: a load that does not fit beside it is refused at once.
    let began = Instant::now();
    let refused = ledger.admit("second", &[], whole(12)).await.expect_err("the engine has it");
    assert_eq!((refused.fit.device.free, began.elapsed()), (Some(gib(4)), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn memory_that_comes_back_late_after_an_unload_is_waited_for() {
    let (vitals, ledger) = ledger(16);
    let (mut first, _) = ledger.admit("first", &[], whole(12)).await.expect("fits");
    vitals.send_replace(machine(4));
    first.settle().await;
    drop(first);
    // The reading still says 4. Neither refused nor put into RAM: the card's memory is on its way.
    let began = Instant::now();
    let mut second = pin!(ledger.admit("second", &[], somewhere(12)));
    assert!(poll!(&mut second).is_pending());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    vitals.send_replace(machine(16));
    let (_second, choice) = soon(second).await.expect("it came back");
    assert_eq!(choice.trial.offload, Offload::Full);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn memory_that_never_comes_back_is_waited_for_five_seconds_and_no_longer() {
    let (vitals, ledger) = ledger(16);
    let (first, _) = ledger.admit("first", &[], whole(12)).await.expect("fits");
    vitals.send_replace(machine(4));
    drop(first);
    let began = Instant::now();
    let refused = ledger.admit("second", &[], whole(12)).await.expect_err("somebody else has it");
    assert_eq!(refused.fit.device.free, Some(gib(4)));
    assert_eq!(began.elapsed(), RETURNS_WITHIN);
    let began = Instant::now();
    let (_third, choice) = ledger.admit("third", &[], somewhere(12)).await.expect("in RAM");
    assert_eq!((choice.trial.offload, began.elapsed()), (Offload::None, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_has_ended_keeps_nobody_waiting_for_ever() {
    let (vitals, ledger) = ledger(16);
    let (first, _) = ledger.admit("first", &[], whole(12)).await.expect("fits");
    vitals.send_replace(machine(4));
    drop(vitals);
    drop(first);
    let began = Instant::now();
    assert!(ledger.admit("second", &[], whole(12)).await.is_err());
    assert_eq!(began.elapsed(), RETURNS_WITHIN);
    let (mut small, _) = ledger.admit("small", &[], whole(1)).await.expect("fits");
    assert_eq!(small.settle().await.device, Some(0));
}

#[tokio::test]
async fn a_machine_that_nobody_reads_refuses_nothing() {
    let ledger = Ledger::new(blind());
    let (_kept, choice) = ledger.admit("any", &[], somewhere(500)).await.expect("unknown is no refusal");
    assert_eq!(choice.trial.offload, Offload::None);
}
