//! What this machine says of itself: [`Probe`] reads `/proc`, `/sys` and the disk, without privileges and
//! without ever failing. What cannot be read is unknown, with its reason.
//!
//! All paths are below a root that the caller chooses, so tests show it machines that they do not have.
//! Reading may block for as long as a driver or a network disk likes: callers do it on a blocking thread.

mod amd;
mod drm_clients;
mod gpu;
mod host;
mod hwmon;
mod intel;
mod nvidia;
mod pci;
mod report;

pub use report::{ProbeFlags, describe, render};

use mesh_core::machine::{Capacity, Gpu, Hardware, Pool, Reading, Temperature, Vitals};
use mesh_core::units::{Bytes, Celsius};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The most bytes read of a file in `/proc` or `/sys`. The longest we read, `/proc/cpuinfo`, has about
/// 1.6 KB for each thread: room for 600 threads.
const FILE_LIMIT: u64 = 1 << 20;

/// Steps of memory and disk sizes. Free memory changes with every breath of a machine; 16 MiB are far below
/// the size of any model.
const MEMORY_STEP: u64 = 16 << 20;

/// The uptime is a fact for people, who read it in minutes at best.
const UPTIME_STEP_S: u64 = 60;

/// Steps of clocks in MHz: they move all the time, and nobody decides by less.
const CLOCK_STEP: u32 = 50;

/// Colder or hotter than this is a broken sensor, or none behind the driver.
const PLAUSIBLE: std::ops::RangeInclusive<f32> = -40.0..=150.0;

/// What the operator says of graphics processors, where the probe cannot know or is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuOverrides {
    /// What models may take of the pool of integrated processors, in place of the driver's limits.
    pub unified: Option<Bytes>,
    /// PCI addresses, in lower case, of processors that share RAM.
    pub integrated: Vec<String>,
    /// PCI addresses, in lower case, of cards with memory of their own.
    pub discrete: Vec<String>,
}

/// Reads this machine. Clones share what is remembered between readings.
#[derive(Debug, Clone)]
pub struct Probe {
    root: PathBuf,
    model_folder: PathBuf,
    gpus: Arc<gpu::Gpus>,
}

impl Probe {
    /// A probe that finds `/proc` and `/sys` below `root` (in production `/`) and asks for the disk that
    /// holds `model_folder`.
    pub fn new(root: impl Into<PathBuf>, model_folder: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let gpus = Arc::new(gpu::Gpus::new(&root, GpuOverrides::default()));
        Self { root, model_folder: model_folder.into(), gpus }
    }

    /// The same probe with the operator's word on graphics processors.
    #[must_use]
    pub fn with_overrides(self, overrides: GpuOverrides) -> Self {
        Self { gpus: Arc::new(gpu::Gpus::new(&self.root, overrides)), ..self }
    }

    /// What does not change while the agent runs.
    #[must_use]
    pub fn hardware(&self) -> Hardware {
        Hardware {
            hostname: host::hostname(&self.root),
            cpu: host::cpu(&self.root),
            cpu_threads: host::cpu_threads(&self.root),
            system: host::system(&self.root),
            agent_version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// What changes from second to second, rounded.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.vitals_at(now.as_secs())
    }

    /// [`Probe::vitals`], stamped with the time that the caller has, in seconds since 1970.
    #[must_use]
    pub fn vitals_at(&self, unix_s: u64) -> Vitals {
        let as_of = unix_s - unix_s % Vitals::AS_OF_STEP;
        rounded(Vitals {
            as_of,
            ram: host::ram(&self.root),
            disk: host::disk(&self.model_folder),
            gpus: self.gpus.read(as_of, unix_s),
            temperatures: host::temperatures(&self.root),
            load: host::load(&self.root),
            uptime_s: host::uptime(&self.root),
            ..Vitals::unknown("not read yet")
        })
    }
}

/// Rounds what jitters. A report goes to the router whenever a value differs from the one sent last, so
/// without this every machine would send its vitals each second for the sake of a few kilobytes; and nobody,
/// person or placement, decides by less than these steps.
fn rounded(vitals: Vitals) -> Vitals {
    let Vitals { ram, disk, gpus, temperatures, load, uptime_s, .. } = vitals.clone();
    Vitals {
        ram: map(ram, in_steps),
        disk: map(disk, in_steps),
        gpus: map(gpus, |gpus| gpus.into_iter().map(rounded_gpu).collect()),
        temperatures: map(temperatures, |sensors| sensors.into_iter().map(cooled).collect()),
        load: map(load, |load| (load * 10.0).round() / 10.0),
        uptime_s: map(uptime_s, |seconds| seconds - seconds % UPTIME_STEP_S),
        ..vitals
    }
}

/// Watts, degrees and percents are whole numbers in a report; clocks and memory go in steps.
fn rounded_gpu(mut gpu: Gpu) -> Gpu {
    gpu.memory = map(gpu.memory, in_steps);
    if let Pool::Unified { carve_out, gtt, .. } = &mut gpu.pool {
        (*carve_out, *gtt) = (in_steps(*carve_out), in_steps(*gtt));
    }
    let sensors = &mut gpu.sensors;
    for watts in [&mut sensors.power, &mut sensors.power_cap] {
        *watts = map(watts.clone(), f32::round);
    }
    for clock in [&mut sensors.clock, &mut sensors.memory_clock] {
        *clock = map(clock.clone(), |mhz| (mhz + CLOCK_STEP / 2) / CLOCK_STEP * CLOCK_STEP);
    }
    if let Reading::Known(temperatures) = &mut sensors.temperatures {
        temperatures.iter_mut().for_each(|sensor| sensor.value = Celsius(sensor.value.0.round()));
    }
    if let Reading::Known(processes) = &mut gpu.processes {
        for process in processes {
            process.memory =
                map(process.memory.clone(), |Bytes(held)| Bytes(held.next_multiple_of(MEMORY_STEP)));
        }
    }
    gpu
}

fn cooled(sensor: Temperature) -> Temperature {
    Temperature { value: Celsius(sensor.value.0.round()), ..sensor }
}

/// What is available is rounded down: a report must not promise more than there is.
fn in_steps(capacity: Capacity) -> Capacity {
    let available = capacity.available.0;
    Capacity { available: Bytes(available - available % MEMORY_STEP), ..capacity }
}

fn map<T, U>(reading: Reading<T>, change: impl FnOnce(T) -> U) -> Reading<U> {
    match reading {
        Reading::Known(value) => Reading::Known(change(value)),
        Reading::Unknown(reason) => Reading::Unknown(reason),
    }
}

/// A small text file, trimmed; bytes that are no UTF-8 are replaced. The error is a reason for people.
fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut bytes))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// A number in a file of its own.
fn read_number<T: std::str::FromStr>(path: &Path) -> Result<T, String> {
    let text = read_text(path)?;
    if text.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    text.parse().map_err(|_| format!("{}: `{}` is no number", path.display(), shortened(&text)))
}

/// Text of an unknown file as it may stand in a report.
fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// Folders below `path` whose names start with `prefix` and go on with a number, in the order of the numbers.
fn numbered_folders(path: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}
