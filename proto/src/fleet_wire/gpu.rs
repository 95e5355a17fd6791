//! Graphics processors.

use super::reading::{
    bytes_from_wire, bytes_to_wire, capacity_from_wire, capacity_reading_from_wire, capacity_reading_to_wire,
    capacity_to_wire, count_from_wire, count_to_wire, number_from_wire, number_to_wire, small_from_wire,
    small_to_wire, temperatures_from_wire, temperatures_to_wire, text_from_wire, text_to_wire,
    throttle_from_wire, throttle_to_wire,
};
use super::{WireError, bounded, shorten, text, unknown_word};
use crate::v1;
use mesh_core::machine::{
    Gpu, GpuFault, GpuProcess, GpuSensors, GpuState, GpuVendor, Pool, Reading, UnifiedLimit,
};
use mesh_core::units::Bytes;

pub(super) fn gpu_to_wire(gpu: &Gpu) -> v1::Gpu {
    use v1::gpu::{Pool as WirePool, ProcessReading};
    let (state, fault, fault_reason) = match &gpu.state {
        GpuState::Ready => ("ready", "", String::new()),
        GpuState::Asleep => ("asleep", "", String::new()),
        GpuState::Broken(fault, why) => ("broken", fault.word(), shorten(why.clone())),
    };
    let pool = match &gpu.pool {
        Pool::Discrete { reserved } => {
            WirePool::Discrete(v1::DiscretePool { reserved: reserved.map(|bytes| bytes.0) })
        }
        Pool::Unified { carve_out, gtt, limited_by } => WirePool::Unified(v1::UnifiedPool {
            carve_out: Some(capacity_to_wire(carve_out)),
            gtt: Some(capacity_to_wire(gtt)),
            limited_by: limited_by.word().into(),
        }),
        Pool::Unknown(why) => WirePool::PoolUnknown(shorten(why.clone())),
    };
    let processes = match &gpu.processes {
        Reading::Known(list) => {
            let process = |process: &GpuProcess| v1::GpuProcess {
                pid: process.pid,
                name: shorten(process.name.clone()),
                memory: bytes_to_wire(&process.memory),
            };
            ProcessReading::Processes(v1::GpuProcesses { processes: list.iter().map(process).collect() })
        }
        Reading::Unknown(why) => ProcessReading::ProcessesUnknown(shorten(why.clone())),
    };
    v1::Gpu {
        name: shorten(gpu.name.clone()),
        memory: capacity_reading_to_wire(&gpu.memory),
        id: shorten(gpu.id.clone()),
        vendor: gpu.vendor.word().into(),
        state: state.into(),
        fault: fault.into(),
        fault_reason,
        as_of: gpu.as_of,
        driver: text_to_wire(&gpu.driver),
        pool: Some(pool),
        sensors: Some(sensors_to_wire(&gpu.sensors)),
        process_reading: Some(processes),
    }
}

pub(super) fn gpu_from_wire(gpu: v1::Gpu) -> Result<Gpu, WireError> {
    use v1::gpu::{Pool as WirePool, ProcessReading};
    let state = match gpu.state.as_str() {
        "ready" => GpuState::Ready,
        "asleep" => GpuState::Asleep,
        "broken" => GpuState::Broken(
            GpuFault::from_word(&gpu.fault).unwrap_or(GpuFault::Other),
            text("gpu.fault_reason", gpu.fault_reason)?,
        ),
        other => return Err(unknown_word("gpu.state", other)),
    };
    let pool = match gpu.pool.ok_or(WireError::Missing("gpu.pool"))? {
        WirePool::Discrete(pool) => Pool::Discrete { reserved: pool.reserved.map(Bytes) },
        WirePool::Unified(pool) => Pool::Unified {
            carve_out: capacity_from_wire(pool.carve_out.ok_or(WireError::Missing("gpu.pool.carve_out"))?),
            gtt: capacity_from_wire(pool.gtt.ok_or(WireError::Missing("gpu.pool.gtt"))?),
            limited_by: UnifiedLimit::from_word(&pool.limited_by)
                .ok_or_else(|| unknown_word("gpu.pool.limited_by", &pool.limited_by))?,
        },
        WirePool::PoolUnknown(why) => Pool::Unknown(text("gpu.pool_unknown", why)?),
    };
    let processes = match gpu.process_reading.ok_or(WireError::Missing("gpu.processes"))? {
        ProcessReading::Processes(list) => Reading::Known(
            bounded("gpu.processes", list.processes)?
                .into_iter()
                .map(|process| {
                    Ok(GpuProcess {
                        pid: process.pid,
                        name: text("gpu.processes.name", process.name)?,
                        memory: bytes_from_wire("gpu.processes.memory", process.memory)?,
                    })
                })
                .collect::<Result<_, WireError>>()?,
        ),
        ProcessReading::ProcessesUnknown(why) => Reading::Unknown(text("gpu.processes_unknown", why)?),
    };
    Ok(Gpu {
        id: text("gpu.id", gpu.id)?,
        name: text("gpu.name", gpu.name)?,
        vendor: GpuVendor::from_word(&gpu.vendor).ok_or_else(|| unknown_word("gpu.vendor", &gpu.vendor))?,
        state,
        as_of: gpu.as_of,
        driver: text_from_wire("gpu.driver", gpu.driver)?,
        memory: capacity_reading_from_wire("gpu.memory", gpu.memory)?,
        pool,
        sensors: sensors_from_wire(gpu.sensors.ok_or(WireError::Missing("gpu.sensors"))?)?,
        processes,
    })
}

fn sensors_to_wire(sensors: &GpuSensors) -> v1::GpuSensors {
    v1::GpuSensors {
        busy: small_to_wire(&sensors.busy),
        memory_busy: small_to_wire(&sensors.memory_busy),
        power: number_to_wire(&sensors.power),
        power_cap: number_to_wire(&sensors.power_cap),
        energy_kj: count_to_wire(&sensors.energy_kj),
        clock: small_to_wire(&sensors.clock),
        memory_clock: small_to_wire(&sensors.memory_clock),
        fan: small_to_wire(&sensors.fan),
        performance_state: small_to_wire(&sensors.performance_state),
        temperatures: temperatures_to_wire(&sensors.temperatures),
        throttle: throttle_to_wire(&sensors.throttle),
    }
}

fn sensors_from_wire(sensors: v1::GpuSensors) -> Result<GpuSensors, WireError> {
    Ok(GpuSensors {
        busy: small_from_wire("gpu.busy", sensors.busy)?,
        memory_busy: small_from_wire("gpu.memory_busy", sensors.memory_busy)?,
        power: number_from_wire("gpu.power", sensors.power)?,
        power_cap: number_from_wire("gpu.power_cap", sensors.power_cap)?,
        energy_kj: count_from_wire("gpu.energy_kj", sensors.energy_kj)?,
        clock: small_from_wire("gpu.clock", sensors.clock)?,
        memory_clock: small_from_wire("gpu.memory_clock", sensors.memory_clock)?,
        fan: small_from_wire("gpu.fan", sensors.fan)?,
        performance_state: small_from_wire("gpu.performance_state", sensors.performance_state)?,
        temperatures: temperatures_from_wire("gpu.temperatures", sensors.temperatures)?,
        throttle: throttle_from_wire("gpu.throttle", sensors.throttle)?,
    })
}
