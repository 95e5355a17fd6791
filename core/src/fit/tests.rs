//! Tests of pools, needs and choices.

use super::*;
use crate::machine::{GpuFault, GpuProcess, GpuVendor, UnifiedLimit};
use proptest::prelude::*;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn gib(n: f64) -> Bytes {
    Bytes((n * GIB as f64) as u64)
}

fn gpu(id: &str, total: f64, free: f64) -> Gpu {
    Gpu {
        memory: Reading::Known(Capacity { total: gib(total), available: gib(free) }),
        pool: Pool::Discrete { reserved: None },
        ..Gpu::unknown(id, &format!("Card {id}"), GpuVendor::Nvidia, "test")
    }
}

fn unified(total: f64, free: f64, carve_out: f64) -> Gpu {
    let pool = Pool::Unified {
        carve_out: Capacity { total: gib(0.5), available: gib(carve_out) },
        gtt: Capacity { total: gib(total), available: gib(free) },
        limited_by: UnifiedLimit::Driver,
    };
    Gpu { pool, ..gpu("strix", total, free) }
}

fn machine(ram_total: f64, ram_free: f64, gpus: Vec<Gpu>) -> Vitals {
    Vitals {
        ram: Reading::Known(Capacity { total: gib(ram_total), available: gib(ram_free) }),
        gpus: Reading::Known(gpus),
        ..Vitals::unknown("test")
    }
}

fn demand(device: f64, host: f64) -> Demand {
    Demand { device: gib(device), host: gib(host) }
}

fn promised(who: &str, device: Option<&str>, on_device: f64, on_host: f64) -> Claim {
    Claim {
        who: who.into(),
        device: device.map(str::to_owned),
        on_device: gib(on_device),
        on_host: gib(on_host),
        promised: true,
    }
}

#[test]
fn a_load_fits_with_its_margin_and_not_without() {
    let pools = Pools::of(&machine(32.0, 20.0, vec![gpu("a", 8.0, 6.0)]));
    assert!(fit(&pools, &[], demand(5.5, 1.0), Margin::Default).fits, "5.5 + 0.5 = 6");
    let refused = fit(&pools, &[], demand(5.6, 1.0), Margin::Default);
    assert!(!refused.fits && refused.ever);
    assert_eq!(refused.device.missing(), Bytes(gib(5.6).0 + 512 * MIB - gib(6.0).0));
    for number in ["5.6 GiB of Card a", "512 MiB beside it", "6 GiB are free", "too few"] {
        assert!(refused.why.contains(number), "{number} in: {}", refused.why);
    }
    let never = fit(&pools, &[], demand(9.0, 1.0), Margin::Default);
    assert!(!never.fits && !never.ever);
}

#[test]
fn what_is_promised_counts_and_what_is_held_is_only_told() {
    let pools = Pools::of(&machine(32.0, 20.0, vec![gpu("a", 24.0, 12.0)]));
    let held = Claim { promised: false, ..promised("old on one", Some("a"), 10.0, 1.0) };
    let fits = fit(&pools, std::slice::from_ref(&held), demand(11.0, 0.0), Margin::Default);
    assert!(fits.fits, "{}", fits.why);
    let claims = [held, promised("first on two", Some("a"), 4.0, 0.0)];
    let refused = fit(&pools, &claims, demand(11.0, 0.0), Margin::Default);
    assert!(!refused.fits);
    assert_eq!((refused.device.needs, refused.device.free), (gib(11.0), Some(gib(12.0))));
    assert_eq!(refused.device.reserved, gib(4.0));
    assert!(refused.why.contains("4 GiB of them promised"), "{}", refused.why);
    assert!(refused.why.contains("old on one 11 GiB, first on two, promised 4 GiB"), "{}", refused.why);
}

#[test]
fn shared_memory_is_one_budget_with_ram() {
    // The driver would give 90 GiB, RAM and carve-out have 60.5 free.
    let pools = Pools::of(&machine(128.0, 60.0, vec![unified(96.0, 90.0, 0.5)]));
    assert!(fit(&pools, &[], demand(50.0, 7.0), Margin::Default).fits, "57 + 2.85 of 60.5");
    let refused = fit(&pools, &[], demand(50.0, 8.0), Margin::Default);
    assert!(!refused.fits, "58 + 2.9 of 60.5");
    assert_eq!((refused.device.missing(), refused.host.needs), (Bytes(0), gib(58.0)));
    assert!(refused.why.contains("RAM and graphics memory together"), "{}", refused.why);
    // A promise on the device is gone from RAM as well.
    let claims = [promised("first", Some("strix"), 20.0, 0.0)];
    assert!(!fit(&pools, &claims, demand(0.0, 40.0), Margin::Default).fits);
    assert!(fit(&pools, &claims, demand(0.0, 38.0), Margin::Default).fits);
}

#[test]
fn a_card_that_sleeps_is_used_with_what_it_had_free_last() {
    let asleep = Gpu { state: GpuState::Asleep, ..gpu("c", 8.0, 7.5) };
    let pools = Pools::of(&machine(16.0, 10.0, vec![asleep]));
    assert_eq!(pools.devices.len(), 1, "{:?}", pools.notes);
    assert!(fit(&pools, &[], demand(6.0, 1.0), Margin::Default).fits);
}

#[test]
fn processors_that_are_broken_asleep_or_silent_are_not_used_and_the_reason_says_so() {
    let broken = Gpu {
        state: GpuState::Broken(GpuFault::NeedsReboot, "driver 580 under kernel module 575".into()),
        ..gpu("b", 8.0, 8.0)
    };
    let memory = Reading::unknown("never read");
    let asleep = Gpu { state: GpuState::Asleep, memory, ..gpu("c", 8.0, 8.0) };
    let silent = Gpu { memory: Reading::unknown("no permission"), ..gpu("d", 8.0, 8.0) };
    let pools = Pools::of(&machine(16.0, 10.0, vec![broken, asleep, silent]));
    assert_eq!((pools.devices.len(), pools.notes.len()), (0, 3));
    let refused = fit(&pools, &[], demand(1.0, 0.0), Margin::Default);
    assert!(!refused.fits);
    for word in ["needs-reboot", "it sleeps", "no permission"] {
        assert!(refused.why.contains(word), "{word} in: {}", refused.why);
    }
    let choice = choose(&pools, &[], wanted(4096), Margin::Default, |_| demand(0.0, 5.0));
    assert!(choice.fit.fits && choice.trial.offload == Offload::None);
}

#[test]
fn unknown_ram_refuses_nothing_and_says_that_it_is_unknown() {
    let pools = Pools::of(&Vitals::unknown("no /proc"));
    let fits = fit(&pools, &[], demand(0.0, 500.0), Margin::Default);
    assert!(fits.fits && fits.why.contains("not known"), "{}", fits.why);
}

#[test]
fn the_smallest_hole_that_holds_it_is_taken_and_own_memory_before_shared() {
    let gpus = vec![unified(96.0, 90.0, 0.5), gpu("big", 24.0, 20.0), gpu("small", 12.0, 10.0)];
    let pools = Pools::of(&machine(128.0, 100.0, gpus));
    let taken = |device| fit(&pools, &[], demand(device, 1.0), Margin::Default).gpu;
    assert_eq!(taken(5.0).as_deref(), Some("small"));
    assert_eq!(taken(15.0).as_deref(), Some("big"));
    assert_eq!(taken(50.0).as_deref(), Some("strix"));
    // The reason for a refusal names the one with the most free memory.
    assert_eq!(taken(95.0).as_deref(), Some("strix"));
}

#[test]
fn a_card_with_its_own_memory_goes_before_a_smaller_hole_in_shared_memory() {
    for gpus in [
        vec![unified(96.0, 8.0, 0.5), gpu("big", 24.0, 20.0)],
        vec![gpu("big", 24.0, 20.0), unified(96.0, 8.0, 0.5)],
    ] {
        let pools = Pools::of(&machine(128.0, 100.0, gpus));
        let taken = fit(&pools, &[], demand(5.0, 1.0), Margin::Default);
        assert_eq!((taken.fits, taken.gpu.as_deref()), (true, Some("big")), "{}", taken.why);
    }
}

#[test]
fn who_holds_a_card_is_named_by_the_driver_too() {
    let process = |pid, name: &str, memory| GpuProcess { pid, name: name.into(), memory };
    let processes = vec![
        process(7, "game", Reading::Known(gib(5.0))),
        process(8, "", Reading::Known(gib(0.1))),
        process(9, "x", Reading::unknown("not told")),
    ];
    let card = Gpu { processes: Reading::Known(processes), ..gpu("a", 8.0, 2.0) };
    let refused = fit(&Pools::of(&machine(32.0, 20.0, vec![card])), &[], demand(4.0, 0.0), Margin::Default);
    assert!(refused.why.contains("held by game (7) 5 GiB, process (8) 102 MiB"), "{}", refused.why);
}

#[test]
fn the_margin_is_the_95th_percentile_once_enough_was_measured() {
    assert_eq!(Margin::of(&[1, 2, 3, 4]), Margin::Default);
    let residuals: Vec<i64> = (1..=100).rev().collect();
    assert_eq!(Margin::of(&residuals), Margin::Measured(Bytes(95)));
    assert_eq!(Margin::of(&[-5, -4, -3, -2, -1]), Margin::Measured(Bytes(0)));
    assert_eq!(Margin::of(&[-5, -4, -3, -2, 700 << 20]).beside(gib(4.0)), Bytes(700 << 20));
    assert_eq!(Margin::Measured(Bytes(1)).beside(gib(4.0)), Bytes(128 << 20), "other programs live too");
    assert_eq!(Margin::Default.beside(gib(1.0)), Bytes(512 << 20));
    assert_eq!(Margin::Default.beside(gib(100.0)), gib(5.0));
    assert_eq!(Margin::Default.beside(Bytes(0)), Bytes(0));
}

fn wanted(context: u32) -> Wanted {
    Wanted { context, context_is_open: true, layers: 33, experts: false, divisible: true, offload: None }
}

/// 32 layers and a head of 250 MiB each, a KV cache of 1 GiB for 8,192 tokens, 1 GiB of RAM at least.
fn needs(trial: Trial) -> Demand {
    let layer = 250 * MIB;
    let kv = u64::from(trial.context) * (GIB / 8192);
    let (on_device, experts) = match trial.offload {
        Offload::Full => (33, 0),
        Offload::ExpertsOfFirst(n) => (33, u64::from(n) * 200 * MIB),
        Offload::Layers(n) => (u64::from(n), 0),
        Offload::None => (0, 0),
    };
    Demand {
        device: Bytes(on_device * layer - experts + kv * on_device / 33),
        host: Bytes((33 - on_device) * layer + experts + kv * (33 - on_device) / 33 + GIB),
    }
}

fn chosen(vram: f64, ram: f64, wanted: Wanted) -> Choice {
    let pools = Pools::of(&machine(64.0, ram, vec![gpu("a", 24.0, vram)]));
    choose(&pools, &[], wanted, Margin::Default, needs)
}

#[test]
fn whole_then_divided_then_ram_then_a_shorter_context_then_a_refusal() {
    let way = |vram, ram, wanted| {
        let choice = chosen(vram, ram, wanted);
        (choice.fit.fits, choice.trial.offload, choice.trial.context)
    };
    assert_eq!(way(12.0, 16.0, wanted(8192)), (true, Offload::Full, 8192));
    assert_eq!(way(8.0, 16.0, wanted(8192)), (true, Offload::Layers(27), 8192));
    assert_eq!(way(0.1, 16.0, wanted(8192)), (true, Offload::None, 8192));
    // 8.06 GiB of layers, 1 GiB and the margin leave 1 of 10.56 GiB for the context.
    assert_eq!(way(0.1, 10.5625, wanted(32_768)), (true, Offload::None, 8192));
    let firm = Wanted { context_is_open: false, ..wanted(32_768) };
    assert!(!chosen(0.1, 10.5625, firm).fit.fits, "a wish for a context is kept or refused");
    let refused = chosen(0.1, 4.0, wanted(32_768));
    assert!(!refused.fit.fits && refused.trial.context == SHORTEST_CONTEXT);
    assert!(refused.fit.why.contains("too few"), "{}", refused.fit.why);
    let indivisible = Wanted { divisible: false, ..wanted(8192) };
    assert_eq!(way(8.0, 16.0, indivisible), (true, Offload::None, 8192));
}

#[test]
fn a_way_that_is_asked_for_is_taken_or_refused_and_never_another() {
    let pools = Pools::of(&machine(64.0, 60.0, vec![gpu("a", 8.0, 8.0)]));
    // 6 GiB on the card, or in RAM.
    let needs = |trial: Trial| match trial.offload {
        Offload::None => demand(0.0, 6.0),
        Offload::Full | Offload::Layers(_) | Offload::ExpertsOfFirst(_) => demand(6.0, 0.5),
    };
    let way = |pools: &Pools, offload| {
        let wanted = Wanted {
            context: 4096,
            context_is_open: false,
            layers: 33,
            experts: false,
            divisible: true,
            offload,
        };
        let choice = choose(pools, &[], wanted, Margin::Default, needs);
        (choice.trial.offload, choice.fit.fits)
    };
    assert_eq!(way(&pools, None), (Offload::Full, true));
    assert_eq!(way(&pools, Some(Offload::None)), (Offload::None, true));
    let small = Pools::of(&machine(64.0, 60.0, vec![gpu("a", 8.0, 4.0)]));
    assert_eq!(way(&small, Some(Offload::Full)), (Offload::Full, false));
    for offload in [Offload::Full, Offload::None, Offload::Layers(7), Offload::ExpertsOfFirst(3)] {
        assert_eq!(Offload::from_words(&offload.words()), Some(offload));
    }
    assert_eq!(Offload::from_words("layers many"), None);
}

#[test]
fn experts_go_to_ram_before_layers_and_only_as_many_as_must() {
    let moe = Wanted { experts: true, ..wanted(8192) };
    let choice = chosen(8.0, 16.0, moe);
    assert_eq!(choice.trial.offload, Offload::ExpertsOfFirst(8));
    assert!(choice.fit.fits);
}

proptest! {
    #[test]
    fn what_is_chosen_fits_and_nothing_is_refused_that_fits_in_ram(
        vram in 0.0..24.0_f64, ram in 0.0..64.0_f64, context in 256..100_000_u32, open: bool, experts: bool,
    ) {
        let wanted = Wanted { context, context_is_open: open, layers: 33, experts, divisible: true, offload: None };
        let choice = chosen(vram, ram, wanted);
        prop_assert!(choice.trial.context <= context);
        prop_assert!(open || choice.trial.context == context);
        prop_assert_eq!(choice.fit.fits, choice.fit.device.missing().0 == 0 && choice.fit.host.missing().0 == 0);
        prop_assert_eq!(choice.demand, needs(choice.trial));
        if !choice.fit.fits {
            let pools = Pools::of(&machine(64.0, ram, vec![gpu("a", 24.0, vram)]));
            let in_ram = needs(Trial { offload: Offload::None, context });
            prop_assert!(!fit(&pools, &[], in_ram, Margin::Default).fits);
        }
    }

    #[test]
    fn promises_never_make_a_load_fit(free in 0.0..24.0_f64, need in 0.1..24.0_f64, other in 0.0..24.0_f64) {
        let pools = Pools::of(&machine(64.0, 64.0, vec![gpu("a", 24.0, free)]));
        let alone = fit(&pools, &[], demand(need, 0.0), Margin::Default).fits;
        let beside = fit(&pools, &[promised("x", Some("a"), other, 0.0)], demand(need, 0.0), Margin::Default);
        prop_assert!(alone || !beside.fits);
    }
}
