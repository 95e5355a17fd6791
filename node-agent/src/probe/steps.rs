//! Rounds what jitters: nobody, person or placement, decides by less than these steps, and figures that end in
//! noise look more exact than they are. Which changes are worth a report of their own is decided in
//! `crate::vitals`.

use mesh_core::machine::{Capacity, Gpu, GpuSensors, HostMemory, Pool, Temperature, Vitals};
use mesh_core::units::{Bytes, Celsius};

/// Memory and disk sizes. Free memory changes with every breath of a machine; 16 MiB are far below the size of
/// any model.
const MEMORY: u64 = 16 << 20;

/// The uptime is a fact for people, who read it in minutes at best.
const UPTIME_S: u64 = 60;

/// Shares of time and of speed. A second of an idle desktop is some percent of its graphics processor.
const PERCENT: u32 = 5;

/// Clocks of an idle processor wander by some MHz.
const CLOCK_MHZ: u32 = 50;

/// All figures of `vitals` in their steps.
pub(super) fn rounded(vitals: Vitals) -> Vitals {
    Vitals {
        ram: vitals.ram.map(capacity),
        memory: memory(vitals.memory),
        disk: vitals.disk.map(capacity),
        gpus: vitals.gpus.map(|gpus| gpus.into_iter().map(gpu).collect()),
        temperatures: vitals.temperatures.map(temperatures),
        load: vitals.load.map(|load| (load * 10.0).round() / 10.0),
        uptime_s: vitals.uptime_s.map(|seconds| seconds - seconds % UPTIME_S),
        as_of: vitals.as_of,
        // The processor's throttling and the power have few values; the battery tells whole percents.
        cpu_throttled: vitals.cpu_throttled,
        thermal: vitals.thermal,
        power: vitals.power,
    }
}

fn memory(memory: HostMemory) -> HostMemory {
    HostMemory {
        mem_available: memory.mem_available.map(down),
        zfs_evictable: memory.zfs_evictable.map(down),
        cgroup_available: memory.cgroup_available.map(down),
        swap: memory.swap.map(|mut swap| {
            // Used swap is a warning: rounded up, but never above all there is.
            swap.used = Bytes(swap.used.0.div_ceil(MEMORY).saturating_mul(MEMORY).min(swap.total.0));
            swap
        }),
        pressure: memory.pressure.map(f32::round),
    }
}

fn gpu(mut gpu: Gpu) -> Gpu {
    gpu.memory = gpu.memory.map(capacity);
    gpu.pool = match gpu.pool {
        Pool::Unified { carve_out, gtt, limited_by } => {
            Pool::Unified { carve_out: capacity(carve_out), gtt: capacity(gtt), limited_by }
        }
        pool @ (Pool::Discrete { .. } | Pool::Unknown(_)) => pool,
    };
    gpu.processes = gpu.processes.map(|mut processes| {
        for process in &mut processes {
            process.memory = process.memory.clone().map(down);
        }
        processes
    });
    gpu.sensors = sensors(gpu.sensors);
    gpu
}

fn sensors(sensors: GpuSensors) -> GpuSensors {
    GpuSensors {
        busy: sensors.busy.map(|percent| nearest(percent, PERCENT)),
        memory_busy: sensors.memory_busy.map(|percent| nearest(percent, PERCENT)),
        power: sensors.power.map(f32::round),
        power_cap: sensors.power_cap.map(f32::round),
        // Kilojoules are steps already: a tenth of what an idle card takes in a report's period.
        energy_kj: sensors.energy_kj,
        clock: sensors.clock.map(|mhz| nearest(mhz, CLOCK_MHZ)),
        memory_clock: sensors.memory_clock.map(|mhz| nearest(mhz, CLOCK_MHZ)),
        fan: sensors.fan.map(|percent| nearest(percent, PERCENT)),
        performance_state: sensors.performance_state,
        temperatures: sensors.temperatures.map(temperatures),
        throttle: sensors.throttle,
    }
}

fn temperatures(sensors: Vec<Temperature>) -> Vec<Temperature> {
    let whole = |sensor: Temperature| Temperature { value: Celsius(sensor.value.0.round()), ..sensor };
    sensors.into_iter().map(whole).collect()
}

/// What is available is rounded down: a report must not promise more than there is.
fn capacity(capacity: Capacity) -> Capacity {
    Capacity { available: down(capacity.available), ..capacity }
}

fn down(bytes: Bytes) -> Bytes {
    Bytes(bytes.0 - bytes.0 % MEMORY)
}

fn nearest(value: u32, step: u32) -> u32 {
    value.saturating_add(step / 2) / step * step
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::machine::{GpuProcess, GpuVendor, Reading, Swap};

    #[test]
    fn figures_of_a_card_lose_their_noise_and_promise_no_more_than_there_is() {
        let mut card = Gpu::unknown("a", "a", GpuVendor::Amd, "test");
        let size = Capacity { total: Bytes(1000 << 20), available: Bytes((40 << 20) - 1) };
        card.memory = Reading::Known(size);
        card.sensors.busy = Reading::Known(97);
        card.sensors.clock = Reading::Known(2484);
        card.sensors.power = Reading::Known(19.6);
        let process = GpuProcess { pid: 1, name: "x".into(), memory: Reading::Known(Bytes(33 << 20)) };
        card.processes = Reading::Known(vec![process]);
        let card = gpu(card);
        assert_eq!(card.memory.known().expect("known").available, Bytes(32 << 20));
        assert_eq!(card.memory.known().expect("known").total, Bytes(1000 << 20));
        assert_eq!((card.sensors.busy, card.sensors.clock), (Reading::Known(95), Reading::Known(2500)));
        assert_eq!(card.sensors.power, Reading::Known(20.0));
        assert_eq!(card.processes.known().expect("known")[0].memory, Reading::Known(Bytes(32 << 20)));
    }

    #[test]
    fn used_swap_is_rounded_up_to_all_there_is() {
        let swap = |used| {
            let swap = Swap { total: Bytes(40 << 20), used: Bytes(used) };
            memory(HostMemory { swap: Reading::Known(swap), ..HostMemory::unknown("test") }).swap
        };
        assert_eq!(swap(1).known().expect("known").used, Bytes(16 << 20));
        assert_eq!(swap(39 << 20).known().expect("known").used, Bytes(40 << 20));
        assert_eq!(swap(0).known().expect("known").used, Bytes(0));
    }
}
