//! The machine without its graphics processors: names, disk, load and temperatures.

use super::seldom::Seldom;
use super::{numbered_folders, read_number, read_text, shortened};
use mesh_core::machine::{Capacity, Reading, Temperature};
use mesh_core::units::{Bytes, Celsius};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// hwmon drivers of processors, and of disks. Left out on purpose: `acpitz`, often a constant; radios, batteries
/// and memory modules, which say nothing of an engine's load; and graphics drivers, whose sensors are in the
/// report of their processor.
const PROCESSORS: [&str; 4] = ["k10temp", "zenpower", "coretemp", "cpu_thermal"];
const DISKS: [&str; 2] = ["nvme", "drivetemp"];

/// A disk's temperature is a command to the disk: asked each second, some never rest. They warm slowly.
pub(super) const DISK_SENSORS_EVERY_S: u64 = 60;

/// Thermal zones that are no processor's: firmware's own, often constants, and radios.
const OTHER_ZONES: [&str; 5] = ["acpitz", "INT34", "iwlwifi", "pch_", "BAT"];

/// A report holds at most this many sensors; two processors with all their cores have about as many.
const SENSOR_LIMIT: usize = 64;

/// Colder or hotter than this is a broken sensor, or none behind the driver.
const PLAUSIBLE: std::ops::RangeInclusive<f32> = -40.0..=150.0;

pub(super) fn hostname(root: &Path) -> String {
    match read_text(&root.join("proc/sys/kernel/hostname")) {
        Ok(name) if !name.is_empty() => shortened(&name),
        Ok(_) | Err(_) => "unknown".into(),
    }
}

pub(super) fn system(root: &Path) -> Reading<String> {
    let part = |name: &str| read_text(&root.join("proc/sys/kernel").join(name)).map(|text| shortened(&text));
    reading((|| Ok(format!("{} {}", part("ostype")?, part("osrelease")?)))())
}

pub(super) fn cpu(root: &Path) -> Reading<String> {
    let path = root.join("proc/cpuinfo");
    reading(read_text(&path).and_then(|text| {
        // x86 says `model name`; ARM boards say `Model`, and servers nothing.
        field(&text, "model name")
            .or_else(|| field(&text, "Model"))
            .map(shortened)
            .ok_or_else(|| format!("{} names no model", path.display()))
    }))
}

/// Logical processors by the kernel's list, else by what this process may use.
pub(super) fn cpu_threads(root: &Path) -> u32 {
    let listed = read_text(&root.join("proc/cpuinfo")).map_or(0, |text| {
        text.lines()
            .filter(|line| line.split(':').next().is_some_and(|key| key.trim() == "processor"))
            .count()
    });
    let count = if listed > 0 {
        listed
    } else {
        std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
    };
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The disk below `folder`, or below its nearest parent that exists. Available is what an unprivileged
/// process may take: the root's reserve is not counted.
pub(super) fn disk(folder: &Path) -> Reading<Capacity> {
    let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    reading(
        nix::sys::statvfs::statvfs(existing)
            .map(|disk| {
                let block = disk.fragment_size();
                Capacity {
                    total: Bytes(disk.blocks().saturating_mul(block)),
                    available: Bytes(disk.blocks_available().saturating_mul(block)),
                }
            })
            .map_err(|error| format!("{}: {error}", existing.display())),
    )
}

pub(super) fn load(root: &Path) -> Reading<f32> {
    first_number(&root.join("proc/loadavg")).map_or_else(Reading::Unknown, |load| Reading::Known(load as f32))
}

pub(super) fn uptime(root: &Path) -> Reading<u64> {
    first_number(&root.join("proc/uptime")).map_or_else(Reading::Unknown, |up| Reading::Known(up as u64))
}

/// The sensors of known hwmon drivers; where none is a processor's, the thermal zones too.
pub(super) fn temperatures(
    root: &Path,
    disks: &Seldom<Vec<Temperature>>,
    unix_s: u64,
) -> Reading<Vec<Temperature>> {
    let (mut found, mut has_processor) = (Vec::new(), false);
    for chip in numbered_folders(&root.join("sys/class/hwmon"), "hwmon") {
        let Ok(driver) = read_text(&chip.join("name")) else { continue };
        if DISKS.contains(&driver.as_str()) {
            found.extend(disks.read(&chip, unix_s, || sensors(&chip, &driver)));
        } else if PROCESSORS.contains(&driver.as_str()) {
            let sensors = without_doubles(sensors(&chip, &driver));
            has_processor |= !sensors.is_empty();
            found.extend(sensors);
        }
    }
    if !has_processor {
        found.extend(thermal_zones(&root.join("sys/class/thermal")));
    }
    if found.is_empty() {
        return Reading::unknown("no readable sensor under /sys/class/hwmon or /sys/class/thermal");
    }
    found.truncate(SENSOR_LIMIT);
    tell_apart(&mut found);
    Reading::Known(found)
}

fn sensors(chip: &Path, driver: &str) -> Vec<Temperature> {
    temperature_inputs(chip).into_iter().filter_map(|number| sensor(chip, driver, number)).collect()
}

/// A package is as hot as its hottest core: the cores would only make reports long. And `Tctl` of old AMD
/// processors carries an offset for the fan; where it does, the driver shows the true `Tdie` beside it.
fn without_doubles(mut sensors: Vec<Temperature>) -> Vec<Temperature> {
    let has = |sensors: &[Temperature], label: &str| {
        sensors
            .iter()
            .any(|sensor| sensor.sensor.split_once(' ').is_some_and(|(_, is)| is.starts_with(label)))
    };
    if has(&sensors, "Package") {
        sensors.retain(|sensor| sensor.sensor.starts_with("coretemp Package"));
    }
    if has(&sensors, "Tdie") {
        sensors.retain(|sensor| !sensor.sensor.ends_with(" Tctl"));
    }
    sensors
}

/// The numbers N of `tempN_input` in one chip's folder.
fn temperature_inputs(chip: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(chip) else { return Vec::new() };
    let mut numbers: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| {
            entry.file_name().to_str()?.strip_prefix("temp")?.strip_suffix("_input")?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

fn sensor(chip: &Path, driver: &str, number: u32) -> Option<Temperature> {
    let file = |suffix: &str| chip.join(format!("temp{number}_{suffix}"));
    let value = millidegrees(&file("input"))?;
    let label = read_text(&file("label")).ok().map(|text| shortened(&text)).filter(|text| !text.is_empty());
    let label = label.unwrap_or_else(|| format!("temp{number}"));
    // Drivers write 0 or 65261 where the hardware has no limit.
    let limit = millidegrees(&file("crit")).filter(|limit| limit.0 > 0.0);
    Some(Temperature { sensor: format!("{driver} {label}"), value, limit })
}

fn thermal_zones(folder: &Path) -> Vec<Temperature> {
    let zone = |path: PathBuf| {
        let name = read_text(&path.join("type")).ok().map(|text| shortened(&text))?;
        if OTHER_ZONES.iter().any(|other| name.starts_with(other)) {
            return None;
        }
        Some(Temperature { sensor: name, value: millidegrees(&path.join("temp"))?, limit: None })
    };
    numbered_folders(folder, "thermal_zone").into_iter().filter_map(zone).collect()
}

fn millidegrees(path: &Path) -> Option<Celsius> {
    let value = read_number::<i64>(path).ok()? as f32 / 1000.0;
    PLAUSIBLE.contains(&value).then_some(Celsius(value))
}

/// Two disks both say `nvme Composite`: the second becomes `nvme Composite 2`.
fn tell_apart(sensors: &mut [Temperature]) {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for sensor in sensors {
        let count = seen.entry(sensor.sensor.clone()).or_default();
        *count += 1;
        if *count > 1 {
            sensor.sensor = format!("{} {count}", sensor.sensor);
        }
    }
}

/// The value of the first line `key : value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key && !value.trim().is_empty()).then(|| value.trim())
    })
}

fn first_number(path: &Path) -> Result<f64, String> {
    let text = read_text(path)?;
    let number: Option<f64> = text.split_whitespace().next().and_then(|word| word.parse().ok());
    number
        .filter(|number| number.is_finite() && *number >= 0.0)
        .ok_or_else(|| format!("{}: `{}` does not start with a number", path.display(), shortened(&text)))
}

fn reading<T>(result: Result<T, String>) -> Reading<T> {
    result.map_or_else(Reading::Unknown, Reading::Known)
}
