//! One card's readings. Each is asked for by itself: laptop cards lack a fan, old drivers lack functions, and
//! "the library works" does not mean that any of them does.

use crate::probe::read_text;
use mesh_core::machine::{
    Capacity, Gpu, GpuProcess, GpuSensors, GpuState, GpuVendor, Pool, Reading, Temperature, ThrottleCause,
};
use mesh_core::units::{Bytes, Celsius};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, PerformanceState, TemperatureSensor, TemperatureThreshold};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use std::collections::BTreeMap;
use std::path::Path;

/// The most processes reported of one card.
const PROCESS_LIMIT: usize = 64;

/// Everything that `device` tells.
///
/// # Errors
/// [`NvmlError`] when the card itself is gone; a reading that only this card lacks is unknown instead.
pub(super) fn read(
    nvml: &Nvml,
    device: &Device<'_>,
    slot: &str,
    root: &Path,
    as_of: u64,
) -> Result<Gpu, NvmlError> {
    let (memory, reserved) = memory(device)?;
    let name = device.name().unwrap_or_else(|_| "NVIDIA GPU".to_owned());
    let driver = reading(nvml.sys_driver_version()).map(|version| format!("nvidia {version}"));
    Ok(Gpu {
        state: GpuState::Ready,
        as_of,
        driver,
        memory,
        pool: Pool::Discrete { reserved },
        sensors: sensors(device)?,
        processes: processes(device, root)?,
        ..Gpu::unknown(slot, &name, GpuVendor::Nvidia, "not asked")
    })
}

/// Passes on what means that the whole card is gone; all else is about this one reading.
fn unless_lost<T>(result: Result<T, NvmlError>) -> Result<Reading<T>, NvmlError> {
    match result {
        Err(
            error @ (NvmlError::GpuLost
            | NvmlError::ResetRequired
            | NvmlError::Uninitialized
            | NvmlError::DriverNotLoaded
            | NvmlError::LibRmVersionMismatch),
        ) => Err(error),
        other => Ok(reading(other)),
    }
}

fn reading<T>(result: Result<T, NvmlError>) -> Reading<T> {
    match result {
        Ok(value) => Reading::Known(value),
        Err(NvmlError::NotSupported) => Reading::unknown("this card does not tell"),
        Err(NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound) => {
            Reading::unknown("this version of the driver does not tell")
        }
        Err(error) => Reading::unknown(format!("NVML: {error}")),
    }
}

/// What models may take, and what the driver keeps for itself.
fn memory(device: &Device<'_>) -> Result<(Reading<Capacity>, Option<Bytes>), NvmlError> {
    let info = unless_lost(device.memory_info())?;
    let reserved = info.known().map(|info| Bytes(info.reserved));
    let capacity = info.map(|info| Capacity {
        total: Bytes(info.total.saturating_sub(info.reserved)),
        available: Bytes(info.free),
    });
    Ok((capacity, reserved))
}

fn sensors(device: &Device<'_>) -> Result<GpuSensors, NvmlError> {
    let load = unless_lost(device.utilization_rates())?;
    let milliwatts = |reading: Reading<u32>| reading.map(|milliwatts| milliwatts as f32 / 1000.0);
    Ok(GpuSensors {
        busy: load.clone().map(|load| load.gpu),
        memory_busy: load.map(|load| load.memory),
        power: milliwatts(unless_lost(device.power_usage())?),
        power_cap: milliwatts(unless_lost(device.enforced_power_limit())?),
        energy_kj: unless_lost(device.total_energy_consumption())?.map(|millijoules| millijoules / 1_000_000),
        clock: unless_lost(device.clock_info(Clock::SM))?,
        memory_clock: unless_lost(device.clock_info(Clock::Memory))?,
        fan: unless_lost(device.fan_speed(0))?,
        performance_state: unless_lost(device.performance_state())?.and_then(state_number),
        temperatures: temperatures(device)?,
        throttle: unless_lost(device.current_throttle_reasons())?.map(causes),
    })
}

/// The limit is where the hardware begins to slow down; where a card does not tell that, where it shuts down.
fn temperatures(device: &Device<'_>) -> Result<Reading<Vec<Temperature>>, NvmlError> {
    let value = unless_lost(device.temperature(TemperatureSensor::Gpu))?;
    let limit =
        [TemperatureThreshold::Slowdown, TemperatureThreshold::GpuMax, TemperatureThreshold::Shutdown]
            .into_iter()
            .find_map(|threshold| device.temperature_threshold(threshold).ok())
            // Old cards say 0 where they have none.
            .filter(|&degrees| degrees > 0);
    Ok(value.map(|degrees| {
        vec![Temperature {
            sensor: "nvidia GPU".to_owned(),
            value: Celsius(degrees as f32),
            limit: limit.map(|degrees| Celsius(degrees as f32)),
        }]
    }))
}

fn state_number(state: PerformanceState) -> Reading<u32> {
    use PerformanceState as P;
    Reading::Known(match state {
        P::Zero => 0,
        P::One => 1,
        P::Two => 2,
        P::Three => 3,
        P::Four => 4,
        P::Five => 5,
        P::Six => 6,
        P::Seven => 7,
        P::Eight => 8,
        P::Nine => 9,
        P::Ten => 10,
        P::Eleven => 11,
        P::Twelve => 12,
        P::Thirteen => 13,
        P::Fourteen => 14,
        P::Fifteen => 15,
        P::Unknown => return Reading::unknown("the driver does not know it"),
    })
}

fn causes(reasons: ThrottleReasons) -> Vec<ThrottleCause> {
    [
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, ThrottleCause::SoftwareThermal),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, ThrottleCause::HardwareThermal),
        (ThrottleReasons::HW_SLOWDOWN, ThrottleCause::HardwareSlowdown),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, ThrottleCause::PowerBrake),
        (ThrottleReasons::SW_POWER_CAP, ThrottleCause::PowerCap),
        (ThrottleReasons::GPU_IDLE, ThrottleCause::Idle),
    ]
    .into_iter()
    .filter(|(bit, _)| reasons.contains(*bit))
    .map(|(_, cause)| cause)
    .collect()
}

/// Compute and graphics processes, each once.
fn processes(device: &Device<'_>, root: &Path) -> Result<Reading<Vec<GpuProcess>>, NvmlError> {
    let compute = unless_lost(device.running_compute_processes())?;
    let graphics = unless_lost(device.running_graphics_processes())?;
    let (compute, graphics) = match (compute, graphics) {
        (Reading::Known(compute), Reading::Known(graphics)) => (compute, graphics),
        (Reading::Known(compute), Reading::Unknown(_)) => (compute, Vec::new()),
        (Reading::Unknown(_), Reading::Known(graphics)) => (Vec::new(), graphics),
        (Reading::Unknown(why), Reading::Unknown(_)) => return Ok(Reading::Unknown(why)),
    };
    let mut by_pid: BTreeMap<u32, Reading<Bytes>> = BTreeMap::new();
    for process in compute.into_iter().chain(graphics).take(PROCESS_LIMIT) {
        let memory = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Reading::Known(Bytes(bytes)),
            UsedGpuMemory::Unavailable => Reading::unknown("this driver does not tell by process"),
        };
        // A process with both kinds of context is listed twice with the same figure.
        by_pid.entry(process.pid).or_insert(memory);
    }
    let named = |(pid, memory): (u32, Reading<Bytes>)| {
        let name = read_text(&root.join(format!("proc/{pid}/comm"))).unwrap_or_default();
        GpuProcess { pid, name, memory }
    };
    Ok(Reading::Known(by_pid.into_iter().map(named).collect()))
}
