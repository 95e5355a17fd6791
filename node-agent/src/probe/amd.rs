//! AMD's graphics processors by files alone: memory, sensors and who holds them.
//!
//! What is cheap and changes is read each time; who holds memory and which card is integrated, seldom
//! (`probe/gpu.rs` passes both in).

mod gpu_metrics;
mod kfd;
mod unified;

pub(crate) use kfd::{Kind, Node, nodes};
pub(crate) use unified::SYSTEM_RESERVE;

use super::hwmon::Chip;
use super::pci::{Card, REST_S};
use super::{GpuOverrides, read_number, read_text};
use gpu_metrics::{RESIDENCIES, Table, Throttle};
use mesh_core::machine::{
    Capacity, Gpu, GpuFault, GpuSensors, GpuState, GpuVendor, Pool, Reading, Temperature, ThrottleCause,
};
use mesh_core::units::{Bytes, Celsius};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use unified::Figures;

/// A card that holds more has a model or a program on it: a display needs some 100 MiB.
const IDLE_MEMORY: u64 = 512 << 20;

/// Its own memory alone is counted then.
const SHARES_UNKNOWN: &str = "whether it shares RAM is not known";

/// What a card needs to be remembered from one reading to the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Before {
    /// The throttle counters of `gpu_metrics` 3.0.
    residency: Option<[u32; RESIDENCIES.len()]>,
    /// What its sensor table says of itself; it does not change in its sleep.
    integrated: Option<bool>,
    /// The sensors, for when reading them would wake it.
    sensors: Option<(u64, GpuSensors)>,
}

/// What the machine says beside the card's own folder.
pub(crate) struct Around<'a> {
    /// Where `/proc` and `/sys` are.
    pub(crate) root: &'a Path,
    /// The compute driver's topology.
    pub(crate) nodes: &'a Result<Vec<Node>, String>,
    /// What the operator says.
    pub(crate) overrides: &'a GpuOverrides,
    /// The stamp of the report.
    pub(crate) as_of: u64,
}

/// All there is to know of one card, without its processes.
pub(crate) fn gpu(card: &Card, around: &Around<'_>, before: &mut Before) -> Gpu {
    let id = card.id();
    let mut gpu = Gpu::unknown(&id, &card.name(), GpuVendor::Amd, "not read");
    gpu.as_of = around.as_of;
    gpu.driver = driver(card, around.root);
    let asleep = card.is_asleep();
    let rests = before.sensors.as_ref().is_some_and(|last| may_rest(card, last, around.as_of));
    let table = if asleep || rests { Err("it is left alone".to_owned()) } else { table(&card.device) };
    before.integrated = table.as_ref().ok().map(|table| table.integrated).or(before.integrated);
    (gpu.memory, gpu.pool) = memory(card, &kind(card, around, before.integrated), around);
    gpu.state = state(card, asleep);
    if asleep || rests {
        // Its last sensors, with their own time; without any, unknown.
        match &before.sensors {
            Some((as_of, sensors)) => (gpu.as_of, gpu.sensors) = (*as_of, sensors.clone()),
            None => gpu.sensors = GpuSensors::unknown("it is asleep, and reading it would wake it"),
        }
        return gpu;
    }
    gpu.sensors = sensors(card, &table, before);
    before.sensors = Some((around.as_of, gpu.sensors.clone()));
    gpu
}

/// Whether a card that may sleep is left alone now: it did nothing, and holds no more than a display needs. Its
/// memory is counted by the driver and read without waking it.
fn may_rest(card: &Card, (as_of, last): &(u64, GpuSensors), now: u64) -> bool {
    let idle = last.busy.known() == Some(&0) && (*as_of..as_of.saturating_add(REST_S)).contains(&now);
    let empty = || {
        let used = amount(&card.device, "vram").map(|vram| vram.total.0 - vram.available.0);
        used.is_ok_and(|used| used < IDLE_MEMORY)
    };
    idle && card.may_sleep() && empty()
}

/// Whether the card is integrated: the operator's word, else KFD's.
pub(crate) fn kind(card: &Card, around: &Around<'_>, table: Option<bool>) -> Kind {
    let named = |list: &[String]| card.slot.as_ref().is_some_and(|slot| list.contains(slot));
    if named(&around.overrides.integrated) {
        Kind::Integrated
    } else if named(&around.overrides.discrete) {
        Kind::Discrete
    } else {
        kfd::kind(around.nodes, card.slot.as_deref(), card.id, table)
    }
}

fn driver(card: &Card, root: &Path) -> Reading<String> {
    let Some(driver) = &card.driver else { return Reading::unknown("no driver holds it") };
    // Only a driver from outside the kernel's tree has a version of its own.
    let version = read_text(&root.join("sys/module").join(driver).join("version"));
    Reading::Known(version.map_or_else(|_| driver.clone(), |version| format!("{driver} {version}")))
}

fn state(card: &Card, asleep: bool) -> GpuState {
    let fault = |fault, why: String| GpuState::Broken(fault, why);
    match card.driver.as_deref() {
        None if card.drm.is_none() => fault(GpuFault::DriverNotLoaded, "no driver holds it".into()),
        Some("vfio-pci") => fault(
            GpuFault::DriverNotLoaded,
            "vfio-pci holds it for a virtual machine: run the agent there".into(),
        ),
        _ if asleep => GpuState::Asleep,
        _ => match File::open(card.device.join("mem_info_vram_total")).map_err(|error| error.kind()) {
            Err(std::io::ErrorKind::PermissionDenied) => {
                fault(GpuFault::NoPermission, "its files in /sys may not be read".into())
            }
            Ok(_) | Err(_) => GpuState::Ready,
        },
    }
}

/// What models may take, and of which pool.
fn memory(card: &Card, kind: &Kind, around: &Around<'_>) -> (Reading<Capacity>, Pool) {
    let vram = amount(&card.device, "vram");
    match kind {
        Kind::Discrete => (known(vram), Pool::Discrete { reserved: None }),
        Kind::Unknown(reason) => (
            known(vram),
            Pool::Unknown(format!("{SHARES_UNKNOWN}: {reason} (mesh-agent doctor says what helps)")),
        ),
        Kind::Integrated => {
            let figures = || {
                Ok::<_, String>(Figures {
                    carve_out: vram?,
                    gtt: amount(&card.device, "gtt")?,
                    ram: main_memory(around.root)?,
                    operator: around.overrides.unified,
                })
            };
            match figures().map(unified::pool) {
                Ok((memory, pool)) => (Reading::Known(memory), pool),
                Err(reason) => {
                    let pool = format!("it shares RAM, and one of the figures is missing: {reason}");
                    (Reading::Unknown(reason), Pool::Unknown(pool))
                }
            }
        }
    }
}

/// `mem_info_vram_*` or `mem_info_gtt_*`.
fn amount(device: &Path, which: &str) -> Result<Capacity, String> {
    let total: u64 = read_number(&device.join(format!("mem_info_{which}_total")))?;
    let used: u64 = read_number(&device.join(format!("mem_info_{which}_used")))?;
    let available =
        total.checked_sub(used).ok_or_else(|| format!("the driver says {used} of {total} bytes are used"))?;
    Ok(Capacity { total: Bytes(total), available: Bytes(available) })
}

/// `MemTotal` and `MemAvailable` as the kernel has them: no cgroup bounds what a driver maps.
fn main_memory(root: &Path) -> Result<Capacity, String> {
    let path = root.join("proc/meminfo");
    let text = read_text(&path)?;
    let entry = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let kib: Option<u64> = value.and_then(|value| value.trim().strip_suffix("kB")?.trim().parse().ok());
        kib.and_then(|kib| kib.checked_mul(1024))
            .map(Bytes)
            .ok_or_else(|| format!("{} has no {key} in kB", path.display()))
    };
    Ok(Capacity { total: entry("MemTotal")?, available: entry("MemAvailable")? })
}

fn table(device: &Path) -> Result<Table, String> {
    let path = device.join("gpu_metrics");
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(gpu_metrics::SIZE_LIMIT as u64).read_to_end(&mut bytes))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    gpu_metrics::parse(&bytes).map_err(|error| error.to_string())
}

fn sensors(card: &Card, table: &Result<Table, String>, before: &mut Before) -> GpuSensors {
    let chip = Chip::of_device(&card.device);
    let from_table = |pick: fn(&Table) -> Option<u32>| table.as_ref().ok().and_then(pick);
    let percent = |file: &str, pick: fn(&Table) -> Option<u32>| {
        let read: Result<u32, String> = read_number(&card.device.join(file));
        known(read.or_else(|reason| from_table(pick).ok_or(reason)).map(|percent| percent.min(100)))
    };
    let clock = |file: &str, pick: fn(&Table) -> Option<u32>| {
        let level = read_text(&card.device.join(file)).and_then(|text| active_level(&text, file));
        known(level.or_else(|reason| from_table(pick).ok_or(reason)))
    };
    let socket = table.as_ref().ok().and_then(|table| table.socket_power);
    let watts = chip.microwatts("power1_average");
    // Either may be missing: newer chips have only the second.
    let watts = watts.or_else(|reason| chip.microwatts("power1_input").map_err(|_| reason));
    let cap = chip
        .microwatts("power1_cap")
        .and_then(|watts| if watts > 0.0 { Ok(watts) } else { Err("the driver's power cap is 0".into()) });
    GpuSensors {
        busy: percent("gpu_busy_percent", |table| table.busy),
        memory_busy: percent("mem_busy_percent", |table| table.memory_busy),
        power: known(watts.or_else(|reason| socket.ok_or(reason))),
        power_cap: known(cap),
        energy_kj: Reading::unknown("AMD's driver does not count it"),
        clock: clock("pp_dpm_sclk", |table| table.clock),
        memory_clock: clock("pp_dpm_mclk", |table| table.memory_clock),
        fan: known(chip.fan_percent()),
        performance_state: Reading::unknown("AMD's driver has no such states"),
        temperatures: temperatures(&chip, table),
        throttle: throttle(table, before),
    }
}

/// The driver's own sensors, which have limits; then what only the table has.
fn temperatures(chip: &Chip, table: &Result<Table, String>) -> Reading<Vec<Temperature>> {
    let mut found = chip.temperatures("amdgpu");
    for &(name, value) in table.as_ref().ok().into_iter().flat_map(|table| &table.temperatures) {
        let sensor = format!("amdgpu {name}");
        if super::PLAUSIBLE.contains(&value) && !found.iter().any(|known| known.sensor == sensor) {
            found.push(Temperature { sensor, value: Celsius(value), limit: None });
        }
    }
    if found.is_empty() { Reading::unknown("the driver shows no temperature") } else { Reading::Known(found) }
}

/// `1: 2371Mhz *` → 2371: the level that is active.
fn active_level(text: &str, file: &str) -> Result<u32, String> {
    let level = text.lines().find_map(|line| line.trim_end().strip_suffix('*')).and_then(|line| {
        let (_, clock) = line.split_once(':')?;
        let clock = clock.trim();
        clock
            .get(..clock.len().checked_sub(3)?)
            .filter(|_| clock.to_lowercase().ends_with("mhz"))?
            .parse()
            .ok()
    });
    level.ok_or_else(|| format!("{file} marks no level as active"))
}

fn throttle(table: &Result<Table, String>, before: &mut Before) -> Reading<Vec<ThrottleCause>> {
    let table = match table {
        Ok(table) => table,
        Err(reason) => return Reading::Unknown(reason.clone()),
    };
    match table.throttle {
        Throttle::Causes(bits) => Reading::Known(gpu_metrics::causes(bits)),
        Throttle::ByChip(0) => Reading::Known(Vec::new()),
        Throttle::ByChip(bits) => Reading::unknown(format!(
            "throttled (status {bits:#x}); what its bits mean differs from chip to chip"
        )),
        Throttle::Residency(now) => match before.residency.replace(now) {
            Some(before) => Reading::Known(gpu_metrics::moved(&before, &now)),
            None => Reading::unknown("its counters were read once; causes show from the second reading on"),
        },
        Throttle::Absent => Reading::unknown("the chip does not say"),
    }
}

fn known<T>(result: Result<T, String>) -> Reading<T> {
    result.map_or_else(Reading::Unknown, Reading::Known)
}

#[cfg(test)]
mod tests {
    use super::active_level;

    #[test]
    fn the_marked_level_is_the_clock() {
        assert_eq!(active_level("0: 500Mhz \n1: 74Mhz *\n2: 2371Mhz ", "f"), Ok(74));
        assert_eq!(active_level("0: 500MHz *", "f"), Ok(500));
        for text in ["", "0: 500Mhz", "*", ": *", "0: é*", "1: fastMhz *", "1: -4Mhz *"] {
            assert!(
                active_level(text, "pp_dpm_sclk").is_err_and(|why| why.contains("pp_dpm_sclk")),
                "{text}"
            );
        }
    }
}
