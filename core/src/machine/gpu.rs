//! Graphics processors: whether they can be used, the memory pool they draw on, and what their sensors say.

use super::{Capacity, Reading, Temperature};
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// Who made a graphics processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuVendor {
    /// NVIDIA.
    Nvidia,
    /// AMD.
    Amd,
    /// Intel.
    Intel,
}

impl GpuVendor {
    /// All vendors.
    pub const ALL: [Self; 3] = [Self::Nvidia, Self::Amd, Self::Intel];

    /// The word used in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia",
            Self::Amd => "amd",
            Self::Intel => "intel",
        }
    }

    /// The vendor that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vendor| vendor.word() == word)
    }
}

/// Why a graphics processor that is there cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuFault {
    /// Its driver's library is not installed.
    NoDriver,
    /// The library is there, the kernel's driver is not loaded.
    DriverNotLoaded,
    /// Library and kernel driver differ in version: the driver was upgraded under a running kernel.
    NeedsReboot,
    /// It fell off the bus or its driver gave it up.
    Lost,
    /// The agent may not read it.
    NoPermission,
    /// Anything else.
    Other,
}

impl GpuFault {
    /// All faults.
    pub const ALL: [Self; 6] = [
        Self::NoDriver,
        Self::DriverNotLoaded,
        Self::NeedsReboot,
        Self::Lost,
        Self::NoPermission,
        Self::Other,
    ];

    /// The word used in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NoDriver => "no-driver",
            Self::DriverNotLoaded => "driver-not-loaded",
            Self::NeedsReboot => "needs-reboot",
            Self::Lost => "lost",
            Self::NoPermission => "no-permission",
            Self::Other => "other",
        }
    }

    /// The fault that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.word() == word)
    }
}

/// Whether a graphics processor can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuState {
    /// It can.
    Ready,
    /// Its power is off to save a laptop's battery. Reading it would wake it, so its readings are the last ones.
    Asleep,
    /// It cannot, and why.
    Broken(GpuFault, String),
}

/// Why a processor runs slower than it could.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThrottleCause {
    /// The driver holds the clocks down for heat.
    SoftwareThermal,
    /// The hardware holds the clocks down for heat.
    HardwareThermal,
    /// The hardware slows down for heat or power.
    HardwareSlowdown,
    /// The power supply asks for it.
    PowerBrake,
    /// It has reached its power cap: normal under load.
    PowerCap,
    /// It has nothing to do: normal.
    Idle,
}

impl ThrottleCause {
    /// All causes.
    pub const ALL: [Self; 6] = [
        Self::SoftwareThermal,
        Self::HardwareThermal,
        Self::HardwareSlowdown,
        Self::PowerBrake,
        Self::PowerCap,
        Self::Idle,
    ];

    /// Whether it makes a model slower than the machine can be. Reaching the power cap is normal under load, and idling
    /// without it.
    #[must_use]
    pub fn is_throttling(self) -> bool {
        !matches!(self, Self::PowerCap | Self::Idle)
    }

    /// The word used in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::SoftwareThermal => "software-thermal",
            Self::HardwareThermal => "hardware-thermal",
            Self::HardwareSlowdown => "hardware-slowdown",
            Self::PowerBrake => "power-brake",
            Self::PowerCap => "power-cap",
            Self::Idle => "idle",
        }
    }

    /// The cause that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.word() == word)
    }
}

/// What bounds the memory of a graphics processor that shares it with the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnifiedLimit {
    /// The carve-out and the driver's limit for mapping RAM.
    Driver,
    /// The RAM that is free, less what the system needs.
    Ram,
    /// The operator's own figure in the configuration.
    Operator,
}

impl UnifiedLimit {
    /// All limits.
    pub const ALL: [Self; 3] = [Self::Driver, Self::Ram, Self::Operator];

    /// The word used in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Ram => "ram",
            Self::Operator => "operator",
        }
    }

    /// The limit that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|limit| limit.word() == word)
    }
}

/// The memory that models on a graphics processor draw on, with the raw figures behind [`Gpu::memory`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The card's own memory. Taking it leaves RAM alone.
    Discrete {
        /// What driver and firmware keep for themselves; it is in neither total nor available.
        reserved: Option<Bytes>,
    },
    /// One pool with the CPU: what the processor takes is gone from RAM, and the other way round.
    Unified {
        /// Set aside by the firmware: RAM does not contain it.
        carve_out: Capacity,
        /// What the driver may map of RAM (GTT).
        gtt: Capacity,
        /// What bounds [`Gpu::memory`] now.
        limited_by: UnifiedLimit,
    },
    /// Not known which, and why.
    Unknown(String),
}

impl Pool {
    /// Whether what it takes is gone from RAM.
    #[must_use]
    pub fn shares_ram(&self) -> bool {
        matches!(self, Self::Unified { .. })
    }
}

/// What the sensors and counters of a graphics processor say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuSensors {
    /// Percent of the last period in which anything ran.
    pub busy: Reading<u32>,
    /// Percent of the last period in which its memory was used.
    pub memory_busy: Reading<u32>,
    /// Watts drawn. On processors with shared memory, with the CPU.
    pub power: Reading<f32>,
    /// Watts it may draw.
    pub power_cap: Reading<f32>,
    /// Kilojoules since the driver was loaded.
    pub energy_kj: Reading<u64>,
    /// Clock of the compute units in MHz.
    pub clock: Reading<u32>,
    /// Clock of the memory in MHz.
    pub memory_clock: Reading<u32>,
    /// Percent of the fan's full speed.
    pub fan: Reading<u32>,
    /// Performance state: 0 = fastest.
    pub performance_state: Reading<u32>,
    /// Its temperatures with the limits that it reports.
    pub temperatures: Reading<Vec<Temperature>>,
    /// Why it is slower than it could be; empty when it is not.
    pub throttle: Reading<Vec<ThrottleCause>>,
}

impl GpuSensors {
    /// Nothing is known, all for the same reason.
    #[must_use]
    pub fn unknown(reason: &str) -> Self {
        fn no<T>(reason: &str) -> Reading<T> {
            Reading::unknown(reason)
        }
        Self {
            busy: no(reason),
            memory_busy: no(reason),
            power: no(reason),
            power_cap: no(reason),
            energy_kj: no(reason),
            clock: no(reason),
            memory_clock: no(reason),
            fan: no(reason),
            performance_state: no(reason),
            temperatures: no(reason),
            throttle: no(reason),
        }
    }
}

/// A process that holds memory of a graphics processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuProcess {
    /// Its number.
    pub pid: u32,
    /// Its program's name, without path and arguments; empty where it cannot be read.
    pub name: String,
    /// What it holds.
    pub memory: Reading<Bytes>,
}

/// A graphics processor as far as it is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// Unique on its machine: its PCI address `0000:01:00.0`, or what the driver has instead.
    pub id: String,
    /// Product or driver name.
    pub name: String,
    /// Who made it.
    pub vendor: GpuVendor,
    /// Whether it can be used.
    pub state: GpuState,
    /// When its readings were taken, in seconds since 1970, in steps of [`super::Vitals::AS_OF_STEP`].
    pub as_of: u64,
    /// The driver and its version.
    pub driver: Reading<String>,
    /// What models may take in all, and what a new one could take now.
    pub memory: Reading<Capacity>,
    /// Where that memory is.
    pub pool: Pool,
    /// What its sensors say.
    pub sensors: GpuSensors,
    /// Who holds its memory.
    pub processes: Reading<Vec<GpuProcess>>,
}

impl Gpu {
    /// A processor of which nothing but its name is known, and why.
    #[must_use]
    pub fn unknown(id: &str, name: &str, vendor: GpuVendor, reason: &str) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            vendor,
            state: GpuState::Ready,
            as_of: 0,
            driver: Reading::unknown(reason),
            memory: Reading::unknown(reason),
            pool: Pool::Unknown(reason.to_owned()),
            sensors: GpuSensors::unknown(reason),
            processes: Reading::unknown(reason),
        }
    }
}
