//! What this machine says of itself: [`Probe`] reads `/proc`, `/sys` and the disk, without privileges and
//! without ever failing. What cannot be read is unknown, with its reason.
//!
//! All paths are below a root that the caller chooses, so tests show it machines that they do not have.
//! Reading may block for as long as a driver or a network disk likes: callers do it on a blocking thread.

mod gpu;
mod host;
mod memory;
mod power;
mod seldom;
mod steps;
mod throttle;

use crate::config::{self, RunFlags};
use mesh_core::machine::{Capacity, Hardware, Power, Reading, Temperature, Vitals};
use mesh_core::units::human_duration;
use mesh_daemon::complaint::Complaint;
use seldom::Seldom;
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use throttle::Throttle;

/// The most bytes read of a file in `/proc` or `/sys`. The longest we read, `/proc/cpuinfo`, has about
/// 1.6 KB for each thread: room for 600 threads.
const FILE_LIMIT: u64 = 1 << 20;

/// The power supplies. Asking a battery wakes a laptop's embedded controller; who pulls the plug is in no hurry.
const POWER_EVERY_S: u64 = 5;

/// The disk, which may be on another machine. Who writes to it asks for himself.
const DISK_EVERY_S: u64 = 10;

/// Reads this machine.
#[derive(Debug, Clone)]
pub struct Probe {
    root: PathBuf,
    model_folder: PathBuf,
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
        Self { root: root.into(), model_folder: model_folder.into(), kept: Arc::new(kept) }
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
        let (ram, memory) = memory::memory(&self.root);
        let kept = &self.kept;
        steps::rounded(Vitals {
            as_of: unix_s - unix_s % Vitals::AS_OF_STEP,
            ram,
            memory,
            disk: kept.disk.read(&self.model_folder, unix_s, || host::disk(&self.model_folder)),
            gpus: gpu::gpus(&self.root),
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
        self.kept.throttle.forget();
        self.kept.power.forget();
        self.kept.disk.forget();
        self.kept.disk_sensors.forget();
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

/// What `mesh-agent probe` was told on the command line.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ProbeFlags {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// A configuration file [default: agent.toml in the data folder, where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `mesh-agent probe`: this machine as text for people, or as JSON with the sections of a report.
///
/// # Errors
/// A complaint when the configuration, which names the folder of the models, is invalid.
pub fn describe(data: &Path, flags: &ProbeFlags) -> Result<String, Complaint> {
    let run_flags = RunFlags { config: flags.config.clone(), ..RunFlags::default() };
    let probe = Probe::new("/", config::read(data, &run_flags)?.value.model_folder(data));
    let (hardware, vitals) = (probe.hardware(), probe.vitals());
    if flags.json {
        return serde_json::to_string_pretty(&Sections { hardware, vitals })
            .map(|text| text + "\n")
            .map_err(|error| Complaint::new("cannot write this machine's report as JSON").cause(error));
    }
    Ok(render(&hardware, &vitals))
}

/// The sections of a report that the probe fills.
#[derive(Serialize)]
struct Sections {
    hardware: Hardware,
    vitals: Vitals,
}

/// The probe's findings for people, one fact a line.
#[must_use]
pub fn render(hardware: &Hardware, vitals: &Vitals) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        out.push_str(&format!("{name:<12} {value}\n"));
    };
    line("host", &hardware.hostname);
    line("system", &say(&hardware.system, Clone::clone));
    line("cpu", &say(&hardware.cpu, |cpu| format!("{cpu}, {} threads", hardware.cpu_threads)));
    line("ram", &say(&vitals.ram, capacity));
    line("swap", &say(&vitals.memory.swap, |swap| format!("{} used of {}", swap.used, swap.total)));
    line("disk", &say(&vitals.disk, capacity));
    match &vitals.gpus {
        Reading::Known(gpus) if gpus.is_empty() => line("gpu", "none"),
        Reading::Known(gpus) => {
            for gpu in gpus {
                line("gpu", &format!("{}, memory {}", gpu.name, say(&gpu.memory, capacity)));
            }
        }
        Reading::Unknown(reason) => line("gpu", &unknown(reason)),
    }
    match &vitals.temperatures {
        Reading::Known(sensors) => {
            for sensor in sensors {
                let limit = sensor.limit.map_or_else(String::new, |limit| format!(" (limit {limit})"));
                line("temperature", &format!("{} {}{limit}", sensor.sensor, sensor.value));
            }
        }
        Reading::Unknown(reason) => line("temperature", &unknown(reason)),
    }
    line("power", &say(&vitals.power, supply));
    line("load", &say(&vitals.load, |load| format!("{load:.1}")));
    line("uptime", &say(&vitals.uptime_s, |&seconds| human_duration(Duration::from_secs(seconds))));
    line("agent", &hardware.agent_version);
    out
}

fn say<T>(reading: &Reading<T>, known: impl FnOnce(&T) -> String) -> String {
    match reading {
        Reading::Known(value) => known(value),
        Reading::Unknown(reason) => unknown(reason),
    }
}

fn unknown(reason: &str) -> String {
    format!("unknown: {reason}")
}

fn capacity(capacity: &Capacity) -> String {
    format!("{} free of {}", capacity.available, capacity.total)
}

fn supply(power: &Power) -> String {
    match power {
        Power::Mains => "mains".into(),
        Power::Battery(Some(percent)) => format!("battery, {percent} % left"),
        Power::Battery(None) => "battery".into(),
    }
}
