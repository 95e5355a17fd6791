//! Intel's graphics processors, as far as files tell: clocks and throttle reasons of all, sensors of cards. Its
//! drivers have no file for memory in use, and an integrated processor's is RAM.

use super::hwmon::Chip;
use super::pci::{Card, REST_S};
use super::{read_number, read_text};
use mesh_core::machine::{Gpu, GpuFault, GpuSensors, GpuState, GpuVendor, Pool, Reading, ThrottleCause};
use std::path::Path;

/// What is remembered from one reading to the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Before {
    /// The energy counter: (microjoules, seconds since 1970).
    energy: Option<(u64, u64)>,
    /// The last sensors and their stamp.
    sensors: Option<(u64, GpuSensors)>,
}

/// Where Intel puts the integrated processor in every machine: bus 0, device 2.
const INTEGRATED_SLOT: &str = "0000:00:02.0";

/// All there is to know of one card.
pub(crate) fn gpu(card: &Card, as_of: u64, unix_s: u64, before: &mut Before) -> Gpu {
    let reason = if card.slot.as_deref() == Some(INTEGRATED_SLOT) {
        "it shares RAM, and Intel's driver has no file for how much of it"
    } else {
        "Intel's driver has no file for it"
    };
    let mut gpu = Gpu::unknown(&card.id(), &card.name(), GpuVendor::Intel, reason);
    gpu.as_of = as_of;
    gpu.pool = Pool::Unknown(reason.to_owned());
    gpu.driver = card.driver.clone().map_or_else(|| Reading::unknown("no driver holds it"), Reading::Known);
    if card.drm.is_none() {
        let why = match card.driver.as_deref() {
            Some("vfio-pci") => "vfio-pci holds it for a virtual machine: run the agent there",
            Some(_) | None => "no graphics driver shows it",
        };
        gpu.state = GpuState::Broken(GpuFault::DriverNotLoaded, why.into());
    } else if card.is_asleep() {
        gpu.state = GpuState::Asleep;
        gpu.sensors = GpuSensors::unknown("it is asleep, and reading it would wake it");
    } else if let Some((last, sensors)) =
        before.sensors.as_ref().filter(|(last, _)| may_rest(card, *last, as_of))
    {
        (gpu.as_of, gpu.sensors) = (*last, sensors.clone());
    } else {
        gpu.sensors = sensors(card, unix_s, before);
        before.sensors = Some((as_of, gpu.sensors.clone()));
    }
    gpu
}

/// Engines seldom run on integrated processors of Intel's, and reading one keeps it from sleeping.
fn may_rest(card: &Card, last: u64, now: u64) -> bool {
    let integrated = card.slot.as_deref() == Some(INTEGRATED_SLOT);
    integrated && (last..last.saturating_add(REST_S)).contains(&now) && card.may_sleep()
}

fn sensors(card: &Card, unix_s: u64, before: &mut Before) -> GpuSensors {
    let none = "Intel's driver has no file for it";
    let chip = Chip::of_device(&card.device);
    let driver = card.driver.as_deref().unwrap_or("intel");
    let energy: Result<u64, String> = chip.number("energy1_input");
    let power = energy.clone().and_then(|energy| watts(energy, unix_s, before));
    let drm = card.drm.as_deref().unwrap_or(&card.device);
    let temperatures = chip.temperatures(driver);
    GpuSensors {
        power: reading(power),
        power_cap: reading(chip.microwatts("power1_max")),
        energy_kj: reading(energy.map(|microjoules| microjoules / 1_000_000_000)),
        clock: reading(clock(drm, &card.device)),
        temperatures: if temperatures.is_empty() {
            Reading::unknown("Intel's driver shows no temperature of it: the processor's own stands for both")
        } else {
            Reading::Known(temperatures)
        },
        throttle: reading(throttle(drm)),
        ..GpuSensors::unknown(none)
    }
}

/// The mean since the last reading of the counter.
fn watts(energy: u64, unix_s: u64, before: &mut Before) -> Result<f32, String> {
    let (last, then) = before.energy.replace((energy, unix_s)).ok_or("its counter was read once")?;
    let (joules, seconds) =
        (energy.checked_sub(last), unix_s.checked_sub(then).filter(|seconds| *seconds > 0));
    match (joules, seconds) {
        (Some(microjoules), Some(seconds)) => Ok((microjoules as f64 / 1e6 / seconds as f64) as f32),
        _ => Err("its energy counter or the clock went backwards".into()),
    }
}

/// i915's file, else xe's.
fn clock(drm: &Path, device: &Path) -> Result<u32, String> {
    let i915: Result<u32, String> = read_number(&drm.join("gt_act_freq_mhz"));
    i915.or_else(|reason| read_number(&device.join("tile0/gt0/freq0/act_freq")).map_err(|_: String| reason))
}

/// i915's `throttle_reason_*`: 1 where it holds.
fn throttle(drm: &Path) -> Result<Vec<ThrottleCause>, String> {
    let folder = drm.join("gt/gt0");
    let holds =
        |name: &str| read_text(&folder.join(format!("throttle_reason_{name}"))).is_ok_and(|text| text == "1");
    read_text(&folder.join("throttle_reason_status"))?;
    let reasons: [(ThrottleCause, &[&str]); 3] = [
        (ThrottleCause::HardwareThermal, &["thermal", "ratl", "vr_thermalert"]),
        (ThrottleCause::HardwareSlowdown, &["prochot"]),
        (ThrottleCause::PowerCap, &["pl1", "pl2", "pl4", "vr_tdc"]),
    ];
    let holding = reasons.into_iter().filter(|(_, names)| names.iter().any(|name| holds(name)));
    Ok(holding.map(|(cause, _)| cause).collect())
}

fn reading<T>(result: Result<T, String>) -> Reading<T> {
    result.map_or_else(Reading::Unknown, Reading::Known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_is_the_mean_between_two_readings() {
        let mut before = Before::default();
        assert!(watts(1_000_000, 100, &mut before).is_err(), "one reading of a counter is no power");
        assert_eq!(watts(61_000_000, 104, &mut before), Ok(15.0));
        assert!(watts(70_000_000, 104, &mut before).is_err(), "no time has passed");
        assert!(watts(5, 110, &mut before).is_err(), "the counter began anew");
        assert_eq!(watts(6_000_005, 113, &mut before), Ok(2.0));
    }
}
