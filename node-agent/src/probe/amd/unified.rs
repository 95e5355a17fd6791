//! One pool for CPU and graphics: how much of it models may take.
//!
//! The firmware sets a carve-out aside, which RAM does not contain; the driver maps RAM besides, up to its GTT
//! limit. Neither sum is what is there: tools that read the carve-out alone say 0.5 GB of a 128 GB machine, tools
//! that add both limits say 132. The RAM that is mapped has to be free, and the system needs some:
//! `usable = min(carve-out free + GTT free, MemAvailable + carve-out free − reserve)`.

use mesh_core::machine::{Capacity, Pool, UnifiedLimit};
use mesh_core::units::Bytes;

/// RAM left to the system. GTT pages cannot be swapped out or reclaimed while an engine runs on them, and no
/// cgroup counts them: when RAM runs out, the kernel kills whoever asks next. 4 GiB hold a desktop, the agent and
/// the page cache that a load needs, and is where the agent would begin to unload (the larger of 4 GiB and 5 %).
pub(crate) const SYSTEM_RESERVE: Bytes = Bytes(4 << 30);

/// The raw figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    /// `mem_info_vram_*`.
    pub(crate) carve_out: Capacity,
    /// `mem_info_gtt_*`.
    pub(crate) gtt: Capacity,
    /// `MemTotal` and `MemAvailable`: not bounded by a cgroup, because GTT is not either.
    pub(crate) ram: Capacity,
    /// The operator's own figure for the total, in place of the driver's limits.
    pub(crate) operator: Option<Bytes>,
}

/// What models may take, and the pool with its raw figures.
pub(crate) fn pool(figures: Figures) -> (Capacity, Pool) {
    let Figures { carve_out, gtt, ram, operator } = figures;
    let add = |a: Bytes, b: Bytes| Bytes(a.0.saturating_add(b.0));
    let less = |a: Bytes, b: Bytes| Bytes(a.0.saturating_sub(b.0));
    let used = add(less(carve_out.total, carve_out.available), less(gtt.total, gtt.available));
    let (limit, by_limit) = match operator {
        Some(total) => (UnifiedLimit::Operator, Capacity { total, available: less(total, used) }),
        None => (
            UnifiedLimit::Driver,
            Capacity {
                total: add(carve_out.total, gtt.total),
                available: add(carve_out.available, gtt.available),
            },
        ),
    };
    let by_ram = Capacity {
        total: less(add(ram.total, carve_out.total), SYSTEM_RESERVE),
        available: less(add(ram.available, carve_out.available), SYSTEM_RESERVE),
    };
    let total = by_limit.total.min(by_ram.total);
    let available = by_limit.available.min(by_ram.available).min(total);
    let limited_by = if by_ram.available < by_limit.available { UnifiedLimit::Ram } else { limit };
    (Capacity { total, available }, Pool::Unified { carve_out, gtt, limited_by })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn of(total: u64, available: u64) -> Capacity {
        Capacity { total: Bytes(total * GIB), available: Bytes(available * GIB) }
    }

    fn asked(
        carve_out: Capacity,
        gtt: Capacity,
        ram: Capacity,
        operator: Option<u64>,
    ) -> (u64, u64, UnifiedLimit) {
        let operator = operator.map(|gib| Bytes(gib * GIB));
        let (memory, pool) = pool(Figures { carve_out, gtt, ram, operator });
        let Pool::Unified { limited_by, carve_out: kept, gtt: mapped } = pool else { panic!("{pool:?}") };
        assert_eq!((kept, mapped), (carve_out, gtt), "the raw figures stay visible");
        (memory.total.0 / GIB, memory.available.0 / GIB, limited_by)
    }

    #[test]
    fn with_much_free_ram_the_driver_bounds_the_pool() {
        assert_eq!(asked(of(1, 1), of(96, 95), of(124, 116), None), (97, 96, UnifiedLimit::Driver));
    }

    #[test]
    fn with_little_free_ram_it_does() {
        assert_eq!(asked(of(1, 1), of(96, 95), of(124, 40), None), (97, 37, UnifiedLimit::Ram));
    }

    #[test]
    fn the_pool_is_never_larger_than_the_machine() {
        // 128 GiB: carve-out and GTT limit add up to 216.
        assert_eq!(asked(of(96, 96), of(120, 120), of(30, 24), None), (122, 116, UnifiedLimit::Ram));
    }

    #[test]
    fn the_operators_figure_stands_in_for_the_drivers_limits_and_not_for_ram() {
        assert_eq!(asked(of(1, 1), of(62, 62), of(124, 116), Some(110)), (110, 110, UnifiedLimit::Operator));
        assert_eq!(asked(of(1, 1), of(62, 52), of(124, 116), Some(110)), (110, 100, UnifiedLimit::Operator));
        assert_eq!(asked(of(1, 1), of(62, 62), of(124, 20), Some(110)), (110, 17, UnifiedLimit::Ram));
    }

    #[test]
    fn nothing_left_is_zero() {
        assert_eq!(asked(of(0, 0), of(8, 8), of(8, 2), None), (4, 0, UnifiedLimit::Ram));
    }
}
