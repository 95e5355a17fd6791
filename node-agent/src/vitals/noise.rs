//! Which changes of the vitals are worth a report at once, and which may wait for the next one.
//!
//! The rule is written the safe way round: what is not named here matters.

use mesh_core::machine::{Capacity, Gpu, HostMemory, Pool, Power, Reading, Temperature, Vitals};
use mesh_core::units::Bytes;

/// Less memory than this decides nothing within a report's period: the smallest model worth routing to has some
/// 300 MiB, and the agent checks a load against its own, fresh figures.
const MEMORY: u64 = 256 << 20;

/// Less disk than this decides nothing: a download checks the disk itself.
const DISK: u64 = 1 << 30;

/// A sensor that moves by less than this tells nothing new: the thermal state, which decides, is no noise.
const DEGREES: f32 = 3.0;

/// Pressure below this many percent is no distress.
const PRESSURE: f32 = 10.0;

/// Whether `seen` differs from `known` by more than noise. When it was read is no difference.
pub(super) fn matters(known: &Vitals, seen: &Vitals) -> bool {
    without_noise(known, seen) != *known
}

/// `seen` with the figures of `known` where they differ by noise only.
fn without_noise(known: &Vitals, seen: &Vitals) -> Vitals {
    let mut calm = seen.clone();
    calm.as_of = known.as_of;
    keep(&known.ram, &mut calm.ram, near(MEMORY));
    memory(&known.memory, &mut calm.memory);
    keep(&known.disk, &mut calm.disk, near(DISK));
    keep(&known.temperatures, &mut calm.temperatures, |a, b| sensors_near(a, b));
    if let (Reading::Known(known), Reading::Known(calm)) = (&known.gpus, &mut calm.gpus) {
        for (known, calm) in known.iter().zip(calm) {
            gpu(known, calm);
        }
    }
    // The thermal state waits some seconds for it, too.
    keep(&known.cpu_throttled, &mut calm.cpu_throttled, |_, _| true);
    if known.thermal.state == calm.thermal.state {
        calm.thermal.why.clone_from(&known.thermal.why);
    }
    keep(&known.power, &mut calm.power, |a, b| {
        matches!((a, b), (Power::Mains, Power::Mains) | (Power::Battery(_), Power::Battery(_)))
    });
    keep(&known.load, &mut calm.load, |_, _| true);
    keep(&known.uptime_s, &mut calm.uptime_s, |_, _| true);
    calm
}

fn memory(known: &HostMemory, calm: &mut HostMemory) {
    let near = |a: &Bytes, b: &Bytes| a.0.abs_diff(b.0) < MEMORY;
    keep(&known.mem_available, &mut calm.mem_available, near);
    keep(&known.zfs_evictable, &mut calm.zfs_evictable, near);
    keep(&known.cgroup_available, &mut calm.cgroup_available, near);
    keep(&known.swap, &mut calm.swap, |a, b| a.total == b.total && near(&a.used, &b.used));
    keep(&known.pressure, &mut calm.pressure, |a, b| (a - b).abs() < PRESSURE);
}

fn gpu(known: &Gpu, calm: &mut Gpu) {
    calm.as_of = known.as_of;
    keep(&known.memory, &mut calm.memory, near(MEMORY));
    let unified = match (&known.pool, &calm.pool) {
        (
            Pool::Unified { carve_out, gtt, limited_by },
            Pool::Unified { carve_out: carve_out_now, gtt: gtt_now, limited_by: limited_now },
        ) => {
            limited_by == limited_now && near(MEMORY)(carve_out, carve_out_now) && near(MEMORY)(gtt, gtt_now)
        }
        // Only the words of the reason may differ.
        (Pool::Unknown(_), Pool::Unknown(_)) => true,
        (Pool::Discrete { .. } | Pool::Unified { .. } | Pool::Unknown(_), _) => false,
    };
    if unified {
        calm.pool = known.pool.clone();
    }
    // Who holds the memory shows in the memory, and what slows the processor in the thermal state.
    keep(&known.processes, &mut calm.processes, |_, _| true);
    let (known, calm) = (&known.sensors, &mut calm.sensors);
    keep(&known.busy, &mut calm.busy, |_, _| true);
    keep(&known.memory_busy, &mut calm.memory_busy, |_, _| true);
    keep(&known.power, &mut calm.power, |_, _| true);
    keep(&known.energy_kj, &mut calm.energy_kj, |_, _| true);
    keep(&known.clock, &mut calm.clock, |_, _| true);
    keep(&known.memory_clock, &mut calm.memory_clock, |_, _| true);
    keep(&known.fan, &mut calm.fan, |_, _| true);
    keep(&known.performance_state, &mut calm.performance_state, |_, _| true);
    keep(&known.throttle, &mut calm.throttle, |_, _| true);
    keep(&known.temperatures, &mut calm.temperatures, |a, b| sensors_near(a, b));
}

/// Puts `known` in the place of `seen` where that is noise. What becomes known or unknown is none; the words of a
/// reason are.
fn keep<T: Clone>(known: &Reading<T>, seen: &mut Reading<T>, is_noise: impl Fn(&T, &T) -> bool) {
    let noise = match (known, &*seen) {
        (Reading::Known(known), Reading::Known(seen)) => is_noise(known, seen),
        (Reading::Unknown(_), Reading::Unknown(_)) => true,
        (Reading::Known(_), Reading::Unknown(_)) | (Reading::Unknown(_), Reading::Known(_)) => false,
    };
    if noise {
        *seen = known.clone();
    }
}

fn near(bytes: u64) -> impl Fn(&Capacity, &Capacity) -> bool {
    move |a, b| a.total == b.total && a.available.0.abs_diff(b.available.0) < bytes
}

fn sensors_near(known: &[Temperature], seen: &[Temperature]) -> bool {
    known.len() == seen.len()
        && known.iter().zip(seen).all(|(a, b)| {
            a.sensor == b.sensor && a.limit == b.limit && (a.value.0 - b.value.0).abs() < DEGREES
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::machine::{GpuSensors, GpuState, GpuVendor, Swap, Thermal, ThermalState};
    use mesh_core::units::Celsius;

    fn gib(total: u64, available_mib: u64) -> Reading<Capacity> {
        Reading::Known(Capacity { total: Bytes(total << 30), available: Bytes(available_mib << 20) })
    }

    fn machine() -> Vitals {
        let sensor = Temperature { sensor: "k10temp Tctl".into(), value: Celsius(50.0), limit: None };
        let sensors = GpuSensors {
            busy: Reading::Known(5),
            power: Reading::Known(12.0),
            energy_kj: Reading::Known(1000),
            temperatures: Reading::Known(vec![sensor.clone()]),
            ..GpuSensors::unknown("test")
        };
        let gpu = Gpu {
            memory: gib(16, 15_000),
            sensors,
            ..Gpu::unknown("0000:01:00.0", "card", GpuVendor::Nvidia, "test")
        };
        Vitals {
            as_of: 100,
            ram: gib(64, 30_000),
            disk: gib(1000, 500_000),
            gpus: Reading::Known(vec![gpu]),
            temperatures: Reading::Known(vec![sensor]),
            cpu_throttled: Reading::Known(false),
            thermal: Thermal { state: ThermalState::Ok, why: "k10temp Tctl 50 °C".into() },
            power: Reading::Known(Power::Battery(Some(71))),
            load: Reading::Known(0.1),
            uptime_s: Reading::Known(60),
            ..Vitals::unknown("test")
        }
    }

    fn card(vitals: &mut Vitals) -> &mut Gpu {
        match &mut vitals.gpus {
            Reading::Known(gpus) => &mut gpus[0],
            Reading::Unknown(reason) => panic!("{reason}"),
        }
    }

    fn after(change: impl FnOnce(&mut Vitals)) -> bool {
        let mut seen = machine();
        change(&mut seen);
        matters(&machine(), &seen)
    }

    fn warmer(sensors: &mut Reading<Vec<Temperature>>, degrees: f32) {
        if let Reading::Known(sensors) = sensors {
            sensors[0].value.0 += degrees;
        }
    }

    #[test]
    fn the_breath_of_an_idle_machine_is_noise() {
        assert!(!after(|_| {}));
        assert!(!after(|seen| {
            seen.as_of = 110;
            seen.ram = gib(64, 29_800);
            seen.memory.swap = Reading::unknown("another reason");
            seen.disk = gib(1000, 499_900);
            seen.thermal.why = "k10temp Tctl 51 °C".into();
            seen.power = Reading::Known(Power::Battery(Some(70)));
            seen.load = Reading::Known(0.4);
            seen.uptime_s = Reading::Known(120);
            warmer(&mut seen.temperatures, 2.0);
            let card = card(seen);
            card.as_of = 110;
            card.memory = gib(16, 14_900);
            card.sensors.busy = Reading::Known(40);
            card.sensors.power = Reading::Known(60.0);
            card.sensors.energy_kj = Reading::Known(1001);
            warmer(&mut card.sensors.temperatures, -2.0);
        }));
    }

    #[test]
    fn what_someone_decides_by_matters_at_once() {
        type Change = fn(&mut Vitals);
        let changes: [(&str, Change); 12] = [
            ("memory", |seen| seen.ram = gib(64, 29_000)),
            ("a limit", |seen| seen.ram = gib(63, 30_000)),
            ("memory unknown", |seen| seen.ram = Reading::unknown("gone")),
            ("swap known", |seen| {
                seen.memory.swap = Reading::Known(Swap { total: Bytes(1), used: Bytes(0) });
            }),
            ("heat", |seen| seen.thermal.state = ThermalState::Warm),
            ("a sensor", |seen| warmer(&mut seen.temperatures, 3.0)),
            ("a sensor that went", |seen| seen.temperatures = Reading::Known(vec![])),
            ("the plug", |seen| seen.power = Reading::Known(Power::Mains)),
            ("a card's memory", |seen| card(seen).memory = gib(16, 9000)),
            ("a card's sleep", |seen| card(seen).state = GpuState::Asleep),
            ("a card's heat", |seen| warmer(&mut card(seen).sensors.temperatures, 5.0)),
            ("a card that went", |seen| seen.gpus = Reading::Known(vec![])),
        ];
        for (what, change) in changes {
            assert!(after(change), "{what}");
        }
    }
}
