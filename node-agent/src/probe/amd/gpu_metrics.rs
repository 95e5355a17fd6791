//! `gpu_metrics`: the table of sensors that AMD's driver gives as bytes.
//!
//! A header of four bytes (size u16, format u8, content u8) says which C struct of the kernel's
//! `kgd_pp_interface.h` follows, little-endian, naturally aligned. Format 1 is of cards, 2 and 3 of processors
//! with integrated graphics; 3.0 is Strix Point and Strix Halo. Only (format, content, size) that stand in
//! [`LAYOUTS`] are read: a struct that we do not know would give numbers that mean something else. All bits set
//! means that the chip does not have the value.

use mesh_core::machine::ThrottleCause;

/// The longest table that any kernel makes is far below; a longer file is not one.
pub(crate) const SIZE_LIMIT: usize = 8192;

/// What one table says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    /// Whether it is of a processor with integrated graphics (formats 2 and 3).
    pub(crate) integrated: bool,
    /// (sensor, °C).
    pub(crate) temperatures: Vec<(&'static str, f32)>,
    /// Watts of the whole socket (integrated) or card.
    pub(crate) socket_power: Option<f32>,
    /// Percent.
    pub(crate) busy: Option<u32>,
    /// Percent.
    pub(crate) memory_busy: Option<u32>,
    /// MHz.
    pub(crate) clock: Option<u32>,
    /// MHz.
    pub(crate) memory_clock: Option<u32>,
    /// Why it is slower than it could be.
    pub(crate) throttle: Throttle,
}

/// How a table speaks of throttling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Throttle {
    /// Bits that mean the same on every chip.
    Causes(u64),
    /// Bits whose meaning differs from chip to chip: only "none" is sure.
    ByChip(u32),
    /// Counters that grow while a cause holds, in the order of [`RESIDENCIES`].
    Residency([u32; RESIDENCIES.len()]),
    /// The chip does not say.
    Absent,
}

/// Why bytes are no table that we can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TableError {
    /// Too short for a header, or not as long as the header says.
    #[error("gpu_metrics has {0} bytes where {1} belong")]
    Cut(usize, usize),
    /// A struct we do not know.
    #[error("gpu_metrics version {format}.{content} with {size} bytes is not known to this agent")]
    Unknown {
        /// Format revision.
        format: u8,
        /// Content revision.
        content: u8,
        /// Structure size.
        size: usize,
    },
}

/// Where a value is: offset in bytes and what one unit is divided by.
struct Place(usize, f32);

/// One struct of the kernel's header: byte offsets of what we read.
struct Layout {
    version: (u8, u8),
    size: usize,
    temperatures: &'static [(&'static str, usize)],
    /// Units of a degree: °C in format 1, hundredths in 2 and 3.
    per_degree: f32,
    busy: usize,
    memory_busy: Option<usize>,
    power: Place,
    /// The power is a u32: it would not fit u16 on Strix Halo, in mW.
    wide_power: bool,
    clock: usize,
    memory_clock: usize,
    throttle: ThrottleAt,
}

enum ThrottleAt {
    Causes(usize),
    ByChip(usize),
    Residency(usize),
}

const CARD: &[(&str, usize)] = &[("edge", 4), ("junction", 6), ("mem", 8)];
const CHIP: &[(&str, usize)] = &[("edge", 4), ("soc", 6)];

/// A card's table from 1.1 on: later contents only append.
const fn card(content: u8, size: usize, throttle: ThrottleAt) -> Layout {
    Layout {
        version: (1, content),
        size,
        temperatures: CARD,
        per_degree: 1.0,
        busy: 16,
        memory_busy: Some(18),
        power: Place(22, 1.0),
        wide_power: false,
        clock: 54,
        memory_clock: 58,
        throttle,
    }
}

/// An integrated processor's table from 2.1 on: later contents only append.
const fn chip(content: u8, size: usize, throttle: ThrottleAt) -> Layout {
    Layout {
        version: (2, content),
        size,
        temperatures: CHIP,
        per_degree: 100.0,
        busy: 28,
        memory_busy: None,
        power: Place(40, 1000.0),
        wide_power: false,
        clock: 76,
        memory_clock: 80,
        throttle,
    }
}

/// The structs that are read. 1.4 and later are of data-centre cards, which have other sensors.
static LAYOUTS: [Layout; 10] = [
    // 1.0 and 2.0 have the driver's clock first, which moves the rest.
    Layout {
        temperatures: &[("edge", 16), ("junction", 18), ("mem", 20)],
        busy: 28,
        memory_busy: Some(30),
        power: Place(34, 1.0),
        ..card(0, 80, ThrottleAt::ByChip(68))
    },
    card(1, 96, ThrottleAt::ByChip(68)),
    card(2, 104, ThrottleAt::ByChip(68)),
    card(3, 120, ThrottleAt::Causes(112)),
    Layout {
        temperatures: &[("edge", 16), ("soc", 18)],
        busy: 40,
        power: Place(44, 1000.0),
        clock: 80,
        memory_clock: 84,
        ..chip(0, 120, ThrottleAt::ByChip(112))
    },
    chip(1, 120, ThrottleAt::ByChip(108)),
    chip(2, 128, ThrottleAt::Causes(120)),
    chip(3, 152, ThrottleAt::Causes(120)),
    chip(4, 168, ThrottleAt::Causes(120)),
    Layout {
        version: (3, 0),
        size: 264,
        temperatures: &[("edge", 4), ("soc", 6), ("skin", 40)],
        per_degree: 100.0,
        busy: 42,
        memory_busy: None,
        power: Place(112, 1000.0),
        wide_power: true,
        clock: 174,
        memory_clock: 186,
        throttle: ThrottleAt::Residency(228),
    },
];

/// The counters of 3.0 and what each means: reset line, three power limits, heat of cores, graphics and SoC.
pub(crate) const RESIDENCIES: [ThrottleCause; 7] = [
    ThrottleCause::HardwareSlowdown,
    ThrottleCause::PowerCap,
    ThrottleCause::PowerCap,
    ThrottleCause::PowerCap,
    ThrottleCause::HardwareThermal,
    ThrottleCause::HardwareThermal,
    ThrottleCause::HardwareThermal,
];

/// Reads a table.
///
/// # Errors
/// When the bytes are cut, or a struct that is not in [`LAYOUTS`].
pub(crate) fn parse(bytes: &[u8]) -> Result<Table, TableError> {
    let &[low, high, format, content, ..] = bytes else { return Err(TableError::Cut(bytes.len(), 4)) };
    let size = usize::from(u16::from_le_bytes([low, high]));
    let layout = LAYOUTS
        .iter()
        .find(|layout| layout.version == (format, content) && layout.size == size)
        .ok_or(TableError::Unknown { format, content, size })?;
    if bytes.len() < size {
        return Err(TableError::Cut(bytes.len(), size));
    }
    let narrow = |at: usize| {
        let value = u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]);
        (value != u16::MAX).then_some(value)
    };
    let wide = |at: usize| {
        let value = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
        (value != u32::MAX).then_some(value)
    };
    let long = |at: usize| {
        let value = u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?);
        (value != u64::MAX).then_some(value)
    };
    // Firmware of format 2 and 3 gives hundredths of a percent or whole ones; more than 100 % can only be the former.
    let percent = |value: u16| u32::from(if value > 100 { value / 100 } else { value }).min(100);
    let degrees = |&(name, at): &(&'static str, usize)| {
        Some((name, f32::from(narrow(at)?) / layout.per_degree)).filter(|(_, value)| *value > 0.0)
    };
    let power = if layout.wide_power { wide(layout.power.0) } else { narrow(layout.power.0).map(u32::from) };
    let throttle = match layout.throttle {
        ThrottleAt::Causes(at) => long(at).map_or(Throttle::Absent, Throttle::Causes),
        ThrottleAt::ByChip(at) => wide(at).map_or(Throttle::Absent, Throttle::ByChip),
        ThrottleAt::Residency(at) => {
            Throttle::Residency(std::array::from_fn(|n| wide(at + 4 * n).unwrap_or(0)))
        }
    };
    Ok(Table {
        integrated: format > 1,
        temperatures: layout.temperatures.iter().filter_map(degrees).collect(),
        socket_power: power.map(|power| power as f32 / layout.power.1),
        busy: narrow(layout.busy).map(percent),
        memory_busy: layout.memory_busy.and_then(narrow).map(percent),
        clock: narrow(layout.clock).map(u32::from),
        memory_clock: narrow(layout.memory_clock).map(u32::from),
        throttle,
    })
}

/// The causes behind the chip-independent bits (`SMU_THROTTLER_*` of `amdgpu_smu.h`): power and current limits
/// 0–23, normal under load; temperatures 32–45; processor-hot lines 46–47; 56–57 limit boost clocks only.
pub(crate) fn causes(bits: u64) -> Vec<ThrottleCause> {
    const BANDS: [(u64, ThrottleCause); 3] = [
        (0x0000_3fff_0000_0000, ThrottleCause::HardwareThermal),
        (0x0000_c000_0000_0000, ThrottleCause::HardwareSlowdown),
        (0x0300_0000_ffff_ffff, ThrottleCause::PowerCap),
    ];
    BANDS.into_iter().filter(|(mask, _)| bits & mask != 0).map(|(_, cause)| cause).collect()
}

/// The causes whose counters moved between two readings.
pub(crate) fn moved(before: &[u32; RESIDENCIES.len()], now: &[u32; RESIDENCIES.len()]) -> Vec<ThrottleCause> {
    let mut causes: Vec<ThrottleCause> = RESIDENCIES
        .into_iter()
        .zip(before.iter().zip(now))
        .filter(|(_, (a, b))| a != b)
        .map(|(c, _)| c)
        .collect();
    causes.sort_unstable();
    causes.dedup();
    causes
}

#[cfg(test)]
#[path = "gpu_metrics_tests.rs"]
mod tests;
