//! What this machine says of itself: [`Probe`] reads `/proc`, `/sys` and the disk, without privileges and
//! without ever failing. What cannot be read is unknown, with its reason.
//!
//! All paths are below a root that the caller chooses, so tests show it machines that they do not have.
//! Reading may block for as long as a driver or a network disk likes: callers do it on a blocking thread.

mod gpu;
mod host;

use crate::config::{self, RunFlags};
use mesh_core::machine::{Capacity, Hardware, Reading, Temperature, Vitals};
use mesh_core::units::{Bytes, Celsius, human_duration};
use mesh_daemon::complaint::Complaint;
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The most bytes read of a file in `/proc` or `/sys`. The longest we read, `/proc/cpuinfo`, has about
/// 1.6 KB for each thread: room for 600 threads.
const FILE_LIMIT: u64 = 1 << 20;

/// Steps of memory and disk sizes. Free memory changes with every breath of a machine; 16 MiB are far below
/// the size of any model.
const MEMORY_STEP: u64 = 16 << 20;

/// The uptime is a fact for people, who read it in minutes at best.
const UPTIME_STEP_S: u64 = 60;

/// Reads this machine.
#[derive(Debug, Clone)]
pub struct Probe {
    root: PathBuf,
    model_folder: PathBuf,
}

impl Probe {
    /// A probe that finds `/proc` and `/sys` below `root` (in production `/`) and asks for the disk that
    /// holds `model_folder`.
    pub fn new(root: impl Into<PathBuf>, model_folder: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), model_folder: model_folder.into() }
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
        rounded(Vitals {
            as_of: unix_s - unix_s % Vitals::AS_OF_STEP,
            ram: host::ram(&self.root),
            disk: host::disk(&self.model_folder),
            gpus: gpu::gpus(&self.root),
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
    let cooled = |sensor: Temperature| Temperature { value: Celsius(sensor.value.0.round()), ..sensor };
    Vitals {
        ram: map(ram, in_steps),
        disk: map(disk, in_steps),
        gpus: map(gpus, |gpus| {
            gpus.into_iter()
                .map(|mut gpu| {
                    gpu.memory = map(gpu.memory, in_steps);
                    gpu
                })
                .collect()
        }),
        temperatures: map(temperatures, |sensors| sensors.into_iter().map(cooled).collect()),
        load: map(load, |load| (load * 10.0).round() / 10.0),
        uptime_s: map(uptime_s, |seconds| seconds - seconds % UPTIME_STEP_S),
        ..vitals
    }
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
