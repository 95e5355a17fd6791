//! Vitals: memory, disk, heat, power.

use super::gpu::{gpu_from_wire, gpu_to_wire};
use super::reading::{
    bytes_from_wire, bytes_to_wire, capacity_reading_from_wire, capacity_reading_to_wire, count_from_wire,
    count_to_wire, flag_from_wire, flag_to_wire, number_from_wire, number_to_wire, power_from_wire,
    power_to_wire, swap_from_wire, swap_to_wire, temperature_list_from_wire, temperature_list_to_wire,
};
use super::{WireError, bounded, shorten, text, unknown_word};
use crate::v1;
use mesh_core::machine::{HostMemory, Reading, Thermal, ThermalState, Vitals};

pub(super) fn vitals_to_wire(vitals: &Vitals) -> v1::Vitals {
    use v1::vitals::{GpuReading, TemperatureReading};
    let gpus = match &vitals.gpus {
        Reading::Known(gpus) => GpuReading::Gpus(v1::Gpus { gpus: gpus.iter().map(gpu_to_wire).collect() }),
        Reading::Unknown(reason) => GpuReading::GpusUnknown(shorten(reason.clone())),
    };
    let temperatures = match &vitals.temperatures {
        Reading::Known(sensors) => TemperatureReading::Temperatures(temperature_list_to_wire(sensors)),
        Reading::Unknown(reason) => TemperatureReading::TemperaturesUnknown(shorten(reason.clone())),
    };
    v1::Vitals {
        ram: capacity_reading_to_wire(&vitals.ram),
        disk: capacity_reading_to_wire(&vitals.disk),
        gpu_reading: Some(gpus),
        temperature_reading: Some(temperatures),
        load: number_to_wire(&vitals.load),
        uptime_s: count_to_wire(&vitals.uptime_s),
        as_of: vitals.as_of,
        memory: Some(memory_to_wire(&vitals.memory)),
        cpu_throttled: flag_to_wire(&vitals.cpu_throttled),
        thermal: vitals.thermal.state.word().into(),
        thermal_why: shorten(vitals.thermal.why.clone()),
        power: power_to_wire(&vitals.power),
    }
}

pub(super) fn vitals_from_wire(vitals: v1::Vitals) -> Result<Vitals, WireError> {
    use v1::vitals::{GpuReading, TemperatureReading};
    let gpus = match vitals.gpu_reading.ok_or(WireError::Missing("vitals.gpus"))? {
        GpuReading::Gpus(list) => Reading::Known(
            bounded("vitals.gpus", list.gpus)?.into_iter().map(gpu_from_wire).collect::<Result<_, _>>()?,
        ),
        GpuReading::GpusUnknown(reason) => Reading::Unknown(text("vitals.gpus_unknown", reason)?),
    };
    let temperatures = match vitals.temperature_reading.ok_or(WireError::Missing("vitals.temperatures"))? {
        TemperatureReading::Temperatures(list) => {
            Reading::Known(temperature_list_from_wire("vitals.temperatures", list)?)
        }
        TemperatureReading::TemperaturesUnknown(reason) => {
            Reading::Unknown(text("vitals.temperatures_unknown", reason)?)
        }
    };
    let thermal = ThermalState::from_word(&vitals.thermal)
        .ok_or_else(|| unknown_word("vitals.thermal", &vitals.thermal))?;
    Ok(Vitals {
        as_of: vitals.as_of,
        ram: capacity_reading_from_wire("vitals.ram", vitals.ram)?,
        memory: memory_from_wire(vitals.memory.ok_or(WireError::Missing("vitals.memory"))?)?,
        disk: capacity_reading_from_wire("vitals.disk", vitals.disk)?,
        gpus,
        temperatures,
        cpu_throttled: flag_from_wire("vitals.cpu_throttled", vitals.cpu_throttled)?,
        thermal: Thermal { state: thermal, why: text("vitals.thermal_why", vitals.thermal_why)? },
        power: power_from_wire("vitals.power", vitals.power)?,
        load: number_from_wire("vitals.load", vitals.load)?,
        uptime_s: count_from_wire("vitals.uptime_s", vitals.uptime_s)?,
    })
}

fn memory_to_wire(memory: &HostMemory) -> v1::HostMemory {
    v1::HostMemory {
        mem_available: bytes_to_wire(&memory.mem_available),
        zfs_evictable: bytes_to_wire(&memory.zfs_evictable),
        cgroup_available: bytes_to_wire(&memory.cgroup_available),
        swap: swap_to_wire(&memory.swap),
        pressure: number_to_wire(&memory.pressure),
    }
}

fn memory_from_wire(memory: v1::HostMemory) -> Result<HostMemory, WireError> {
    Ok(HostMemory {
        mem_available: bytes_from_wire("memory.mem_available", memory.mem_available)?,
        zfs_evictable: bytes_from_wire("memory.zfs_evictable", memory.zfs_evictable)?,
        cgroup_available: bytes_from_wire("memory.cgroup_available", memory.cgroup_available)?,
        swap: swap_from_wire("memory.swap", memory.swap)?,
        pressure: number_from_wire("memory.pressure", memory.pressure)?,
    })
}
