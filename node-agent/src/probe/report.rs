//! `mesh-agent probe`: what this machine tells the router of itself, for people or as JSON.

use super::Probe;
use crate::config::{self, RunFlags};
use mesh_core::machine::{
    Capacity, Gpu, GpuSensors, GpuState, Hardware, Pool, Power, Reading, Temperature, ThermalState,
    UnifiedLimit, Vitals,
};
use mesh_core::units::human_duration;
use mesh_daemon::complaint::Complaint;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `mesh-agent probe` was told on the command line.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ProbeFlags {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// A configuration file [default: agent.toml in the data folder, where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where /proc and /sys are [default: /]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// `mesh-agent probe`: this machine as text for people, or as JSON with the sections of a report.
///
/// # Errors
/// A complaint when the configuration, which names the folder of the models, is invalid.
pub fn describe(data: &Path, flags: &ProbeFlags) -> Result<String, Complaint> {
    let run_flags = RunFlags { config: flags.config.clone(), ..RunFlags::default() };
    let config = config::read(data, &run_flags)?.value;
    let root = flags.root.clone().unwrap_or_else(|| "/".into());
    let probe = Probe::new(root, config.model_folder(data)).with_overrides(config.gpu_overrides());
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
    let mut lines = Lines::default();
    lines.put("host", &hardware.hostname);
    lines.put("system", &say(&hardware.system, Clone::clone));
    lines.put("cpu", &say(&hardware.cpu, |cpu| format!("{cpu}, {} threads", hardware.cpu_threads)));
    host(vitals, &mut lines);
    match &vitals.gpus {
        Reading::Known(gpus) if gpus.is_empty() => lines.put("gpu", "none"),
        Reading::Known(gpus) => gpus.iter().for_each(|one| gpu(one, &mut lines)),
        Reading::Unknown(reason) => lines.put("gpu", &unknown(reason)),
    }
    temperatures("temperature", &vitals.temperatures, &mut lines);
    lines.put("throttled", &say(&vitals.cpu_throttled, |&hot| if hot { "yes".into() } else { "no".into() }));
    if vitals.thermal.state != ThermalState::Unknown {
        lines.put("thermal", &format!("{}: {}", vitals.thermal.state.word(), vitals.thermal.why));
    }
    lines.put("load", &say(&vitals.load, |load| format!("{load:.1}")));
    lines.put("uptime", &say(&vitals.uptime_s, |&seconds| human_duration(Duration::from_secs(seconds))));
    lines.put("agent", &hardware.agent_version);
    lines.0
}

fn host(vitals: &Vitals, lines: &mut Lines) {
    let memory = &vitals.memory;
    lines.put("ram", &say(&vitals.ram, capacity));
    lines.put("- kernel", &say(&memory.mem_available, |bytes| format!("{bytes} available")));
    lines.put("- zfs", &say(&memory.zfs_evictable, |bytes| format!("{bytes} would be given back")));
    lines.put("- cgroup", &say(&memory.cgroup_available, |bytes| format!("{bytes} left")));
    lines.put("- swap", &say(&memory.swap, |swap| format!("{} used of {}", swap.used, swap.total)));
    lines.put("- pressure", &say(&memory.pressure, |percent| format!("{percent:.1} % of the time waited")));
    lines.put("disk", &say(&vitals.disk, capacity));
    lines.put(
        "power",
        &say(&vitals.power, |power| match power {
            Power::Mains => "mains".into(),
            Power::Battery(Some(percent)) => format!("battery, {percent} % left"),
            Power::Battery(None) => "battery".into(),
        }),
    );
}

/// A processor's lines. What its vendor never tells is left out where the reason says no more.
fn gpu(gpu: &Gpu, lines: &mut Lines) {
    lines.put("gpu", &format!("{} at {}", gpu.name, gpu.id));
    let state = match &gpu.state {
        GpuState::Ready => "ready".to_owned(),
        GpuState::Asleep => "asleep".to_owned(),
        GpuState::Broken(fault, why) => format!("{}: {why}", fault.word()),
    };
    // A card that cannot be used tells no driver, for the same reason.
    let driver = match &gpu.driver {
        Reading::Known(driver) => format!("; driver {driver}"),
        Reading::Unknown(reason) if state.ends_with(reason) => String::new(),
        Reading::Unknown(reason) => format!("; driver {}", unknown(reason)),
    };
    lines.put("- state", &format!("{state}{driver}"));
    let limit = |limit: &UnifiedLimit| match limit {
        UnifiedLimit::Driver => "the driver's limits",
        UnifiedLimit::Ram => "free RAM",
        UnifiedLimit::Operator => "the operator's figure",
    };
    let memory = say(&gpu.memory, capacity);
    match &gpu.pool {
        Pool::Discrete { reserved } => {
            let kept = reserved.map_or_else(String::new, |bytes| format!(", {bytes} kept by the driver"));
            lines.put("- memory", &format!("{memory}, its own{kept}"));
        }
        Pool::Unified { carve_out, gtt, limited_by } => {
            lines.put("- memory", &format!("{memory}, shared with RAM, bounded by {}", limit(limited_by)));
            lines.put("- carve-out", &capacity(carve_out));
            lines.put("- gtt", &capacity(gtt));
        }
        Pool::Unknown(why) if unknown(why) == memory => lines.put("- memory", &memory),
        Pool::Unknown(why) => {
            lines.put("- memory", &memory);
            lines.put("- pool", &unknown(why));
        }
    }
    sensors(&gpu.sensors, lines);
    match &gpu.processes {
        Reading::Known(processes) if processes.is_empty() => lines.put("- held by", "nobody"),
        Reading::Known(processes) => {
            for process in processes {
                let memory = say(&process.memory, ToString::to_string);
                lines.put("- held by", &format!("{} ({}): {memory}", process.name, process.pid));
            }
        }
        Reading::Unknown(reason) => lines.put("- held by", &unknown(reason)),
    }
}

fn sensors(sensors: &GpuSensors, lines: &mut Lines) {
    // One line says it where nothing is known; a sleeping card is not busy, and that is all.
    if let Reading::Unknown(reason) = &sensors.power
        && *sensors == (GpuSensors { busy: sensors.busy.clone(), ..GpuSensors::unknown(reason) })
        && sensors.busy.known().is_none_or(|&busy| busy == 0)
    {
        return lines.put("- sensors", &unknown(reason));
    }
    let percent = |value: &u32| format!("{value} %");
    let megahertz = |value: &u32| format!("{value} MHz");
    let watts = |value: &f32| format!("{value:.0} W");
    lines.put("- busy", &say(&sensors.busy, percent));
    lines.put("- power", &say(&sensors.power, watts));
    lines.put("- clock", &say(&sensors.clock, megahertz));
    let more = [
        ("- mem busy", sensors.memory_busy.known().map(percent)),
        ("- mem clock", sensors.memory_clock.known().map(megahertz)),
        ("- power cap", sensors.power_cap.known().map(watts)),
        ("- energy", sensors.energy_kj.known().map(|value| format!("{value} kJ"))),
        ("- fan", sensors.fan.known().map(percent)),
        ("- p-state", sensors.performance_state.known().map(|value| format!("P{value}"))),
    ];
    for (name, text) in more {
        if let Some(text) = text {
            lines.put(name, &text);
        }
    }
    temperatures("- heat", &sensors.temperatures, lines);
    let causes = say(&sensors.throttle, |causes| {
        let words: Vec<&str> = causes.iter().map(|cause| cause.word()).collect();
        if words.is_empty() { "no".into() } else { words.join(", ") }
    });
    lines.put("- throttled", &causes);
}

fn temperatures(name: &str, reading: &Reading<Vec<Temperature>>, lines: &mut Lines) {
    match reading {
        Reading::Known(sensors) => {
            for sensor in sensors {
                let limit = sensor.limit.map_or_else(String::new, |limit| format!(" (limit {limit})"));
                lines.put(name, &format!("{} {}{limit}", sensor.sensor, sensor.value));
            }
        }
        Reading::Unknown(reason) => lines.put(name, &unknown(reason)),
    }
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn put(&mut self, name: &str, value: &str) {
        self.0.push_str(&format!("{name:<12} {value}\n"));
    }
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
