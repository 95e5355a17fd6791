//! What this machine says of itself: [`Probe`] reads `/proc`, `/sys` and the disk, without privileges and
//! without ever failing. What cannot be read is unknown, with its reason.
//!
//! All paths are below a root that the caller chooses, so tests show it machines that they do not have.
//! Reading may block for as long as a driver or a network disk likes: callers do it on a blocking thread.

mod amd;
mod attention;
mod drm_clients;
mod gpu;
mod host;
mod hwmon;
mod intel;
mod memory;
mod nvidia;
mod pci;
mod power;
mod report;
mod seldom;
mod steps;
mod throttle;

pub use attention::{Attended, Attention};
pub use report::{ProbeFlags, describe, render};

pub(crate) use amd::SYSTEM_RESERVE;
pub(crate) use pci::cards;

use mesh_core::machine::{Capacity, Hardware, Power, Reading, Temperature, Vitals};
use mesh_core::units::Bytes;
use seldom::Seldom;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use throttle::Throttle;

/// The most bytes read of a file in `/proc` or `/sys`. The longest we read, `/proc/cpuinfo`, has about
/// 1.6 KB for each thread: room for 600 threads.
const FILE_LIMIT: u64 = 1 << 20;

/// The power supplies. Asking a battery wakes a laptop's embedded controller; who pulls the plug is in no hurry.
const POWER_EVERY_S: u64 = 5;

/// The disk, which may be on another machine. Who writes to it asks for himself.
const DISK_EVERY_S: u64 = 10;

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
    kept: Arc<Kept>,
}

/// What is remembered from one reading to the next.
#[derive(Debug)]
struct Kept {
    throttle: Throttle,
    power: Seldom<Reading<Power>>,
    disk: Seldom<Reading<Capacity>>,
    disk_sensors: Seldom<Vec<Temperature>>,
}

impl Probe {
    /// A probe that finds `/proc` and `/sys` below `root` (in production `/`) and asks for the disk that
    /// holds `model_folder`.
    pub fn new(root: impl Into<PathBuf>, model_folder: impl Into<PathBuf>) -> Self {
        let kept = Kept {
            throttle: Throttle::default(),
            power: Seldom::new(POWER_EVERY_S),
            disk: Seldom::new(DISK_EVERY_S),
            disk_sensors: Seldom::new(host::DISK_SENSORS_EVERY_S),
        };
        let root = root.into();
        let gpus = Arc::new(gpu::Gpus::new(&root, GpuOverrides::default(), None));
        Self { root, model_folder: model_folder.into(), gpus, kept: Arc::new(kept) }
    }

    /// The same probe with the operator's word on graphics processors.
    #[must_use]
    pub fn with_overrides(self, overrides: GpuOverrides) -> Self {
        Self { gpus: Arc::new(gpu::Gpus::new(&self.root, overrides, None)), ..self }
    }

    /// The same probe that asks `library` of NVIDIA's cards, as a machine below another root may have it.
    #[must_use]
    pub fn with_nvidia_library(self, library: PathBuf) -> Self {
        let overrides = self.gpus.overrides.clone();
        Self { gpus: Arc::new(gpu::Gpus::new(&self.root, overrides, Some(library))), ..self }
    }

    /// Who holds it has cards read each second, also those that sleep.
    #[must_use]
    pub fn attention(&self) -> Attention {
        self.gpus.attention()
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
            launch: None,
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
        let (ram, memory) = memory::memory(&self.root);
        let kept = &self.kept;
        steps::rounded(Vitals {
            as_of,
            ram,
            memory,
            disk: kept.disk.read(&self.model_folder, unix_s, || host::disk(&self.model_folder)),
            gpus: self.gpus.read(as_of, unix_s),
            temperatures: host::temperatures(&self.root, &kept.disk_sensors, unix_s),
            cpu_throttled: kept.throttle.read(&self.root),
            power: kept.power.read(&self.root, unix_s, || power::power(&self.root)),
            load: host::load(&self.root),
            uptime_s: host::uptime(&self.root),
            ..Vitals::unknown("judged while the agent runs")
        })
    }

    /// The next readings are all new ones: the machine has slept, and what was kept is of another time.
    pub fn forget(&self) {
        self.gpus.forget();
        self.kept.throttle.forget();
        self.kept.power.forget();
        self.kept.disk.forget();
        self.kept.disk_sensors.forget();
    }
}

/// A small text file, trimmed; bytes that are no UTF-8 are replaced. The error is a reason for people.
pub(crate) fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut bytes))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// A number in a file of its own.
pub(crate) fn read_number<T: std::str::FromStr>(path: &Path) -> Result<T, String> {
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
