//! What changes from second to second: memory, disk, heat, power.

use super::{Capacity, Gpu, Reading};
use crate::units::{Bytes, Celsius};
use serde::{Deserialize, Serialize};

/// One temperature sensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Temperature {
    /// Which sensor, as the kernel names it: `k10temp Tctl`.
    pub sensor: String,
    /// What it reads.
    pub value: Celsius,
    /// The limit the hardware itself reports, where it does.
    pub limit: Option<Celsius>,
}

/// Swap space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// All there is.
    pub total: Bytes,
    /// What is in use.
    pub used: Bytes,
}

/// The raw figures behind [`Vitals::ram`], which is `MemAvailable` and what ZFS would give back, bounded by the
/// agent's cgroup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostMemory {
    /// The kernel's own estimate.
    pub mem_available: Reading<Bytes>,
    /// What the ZFS cache would give back; it is not in `MemAvailable`. Unknown where there is no ZFS.
    pub zfs_evictable: Reading<Bytes>,
    /// What the agent's cgroup leaves. Unknown where there is no limit.
    pub cgroup_available: Reading<Bytes>,
    /// Swap.
    pub swap: Reading<Swap>,
    /// Percent of the last 10 s in which some task waited for memory.
    pub pressure: Reading<f32>,
}

impl HostMemory {
    /// Nothing is known, all for the same reason.
    #[must_use]
    pub fn unknown(reason: &str) -> Self {
        Self {
            mem_available: Reading::unknown(reason),
            zfs_evictable: Reading::unknown(reason),
            cgroup_available: Reading::unknown(reason),
            swap: Reading::unknown(reason),
            pressure: Reading::unknown(reason),
        }
    }
}

/// Where the machine's power comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// The wall.
    Mains,
    /// A battery with this many percent left, where it tells.
    Battery(Option<u32>),
}

/// How hot a machine is, as its agent judges it: `core/thermal.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThermalState {
    /// No sensor tells: not cold, not known.
    #[default]
    Unknown,
    /// Cool.
    Ok,
    /// Above the routing goal: others are preferred.
    Warm,
    /// Near its limit, throttled or on battery: asked when nobody else can serve, no new models.
    Derated,
    /// At its limit: nothing new.
    Hot,
}

impl ThermalState {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Unknown, Self::Ok, Self::Warm, Self::Derated, Self::Hot];

    /// The word used in reports and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Warm => "warm",
            Self::Derated => "derated",
            Self::Hot => "hot",
        }
    }

    /// The state that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// The thermal state with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Thermal {
    /// The state.
    pub state: ThermalState,
    /// One line with sensor, value and limit.
    pub why: String,
}

/// What changes from second to second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vitals {
    /// When they were read, in seconds since 1970, in steps of [`Vitals::AS_OF_STEP`].
    pub as_of: u64,
    /// Main memory that models may take.
    pub ram: Reading<Capacity>,
    /// The figures behind it.
    pub memory: HostMemory,
    /// The disk that holds the models.
    pub disk: Reading<Capacity>,
    /// Graphics processors, or why none is known.
    pub gpus: Reading<Vec<Gpu>>,
    /// Temperature sensors of everything but graphics processors, or why there are none.
    pub temperatures: Reading<Vec<Temperature>>,
    /// Whether the processor was slowed down for heat in the last period.
    pub cpu_throttled: Reading<bool>,
    /// How hot the machine is.
    pub thermal: Thermal,
    /// Where the power comes from.
    pub power: Reading<Power>,
    /// Load average over one minute.
    pub load: Reading<f32>,
    /// Seconds since the machine started.
    pub uptime_s: Reading<u64>,
}

impl Vitals {
    /// Steps of `as_of` in seconds. Each new value is a report of its own; a probe that hangs is seen by it.
    pub const AS_OF_STEP: u64 = 10;

    /// Nothing is known, all for the same reason.
    #[must_use]
    pub fn unknown(reason: &str) -> Self {
        Self {
            as_of: 0,
            ram: Reading::unknown(reason),
            memory: HostMemory::unknown(reason),
            disk: Reading::unknown(reason),
            gpus: Reading::unknown(reason),
            temperatures: Reading::unknown(reason),
            cpu_throttled: Reading::unknown(reason),
            thermal: Thermal { state: ThermalState::Unknown, why: reason.to_owned() },
            power: Reading::unknown(reason),
            load: Reading::unknown(reason),
            uptime_s: Reading::unknown(reason),
        }
    }

    /// All temperature sensors, those of graphics processors included.
    pub fn sensors(&self) -> impl Iterator<Item = &Temperature> {
        let of_gpus =
            self.gpus.known().into_iter().flatten().filter_map(|gpu| gpu.sensors.temperatures.known());
        self.temperatures.known().into_iter().chain(of_gpus).flatten()
    }

    /// The hottest sensor.
    #[must_use]
    pub fn hottest(&self) -> Option<&Temperature> {
        self.sensors().max_by(|a, b| a.value.0.total_cmp(&b.value.0))
    }
}
