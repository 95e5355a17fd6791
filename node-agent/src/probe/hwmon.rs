//! One hwmon chip: temperatures with their limits, power, fan. Files by the kernel's hwmon sysfs interface:
//! millidegrees, microwatts, microjoules, a fan's pulse width of 0 to `pwm1_max`.

use super::{PLAUSIBLE, numbered_folders, read_number, read_text, shortened};
use mesh_core::machine::Temperature;
use mesh_core::units::Celsius;
use std::path::{Path, PathBuf};

/// Temperature inputs of one chip that are read: AMD's cards have three, Intel's five.
const INPUT_LIMIT: u32 = 8;

/// A chip's folder, or why there is none.
#[derive(Debug, Clone)]
pub(crate) struct Chip {
    folder: Result<PathBuf, String>,
}

impl Chip {
    /// The first chip that the driver of a PCI device registers.
    pub(crate) fn of_device(device: &Path) -> Self {
        let found = numbered_folders(&device.join("hwmon"), "hwmon").into_iter().next();
        Self { folder: found.ok_or_else(|| "its driver shows no sensors (hwmon)".into()) }
    }

    /// All readable temperatures, named `driver label`.
    pub(crate) fn temperatures(&self, driver: &str) -> Vec<Temperature> {
        let Ok(folder) = &self.folder else { return Vec::new() };
        let degrees = |name: String| {
            let value = read_number::<i64>(&folder.join(name)).ok()? as f32 / 1000.0;
            PLAUSIBLE.contains(&value).then_some(Celsius(value))
        };
        let sensor = |number: u32| {
            let value = degrees(format!("temp{number}_input"))?;
            let label =
                read_text(&folder.join(format!("temp{number}_label"))).ok().map(|text| shortened(&text));
            let label = label.filter(|label| !label.is_empty()).unwrap_or_else(|| format!("temp{number}"));
            // Drivers write 0 where the hardware has no limit.
            let limit = degrees(format!("temp{number}_crit")).filter(|limit| limit.0 > 0.0);
            Some(Temperature { sensor: format!("{driver} {label}"), value, limit })
        };
        (1..=INPUT_LIMIT).filter_map(sensor).collect()
    }

    /// Watts.
    pub(crate) fn microwatts(&self, file: &str) -> Result<f32, String> {
        self.number::<u64>(file).map(|microwatts| (microwatts as f64 / 1e6) as f32)
    }

    /// Percent of the fan's full speed.
    pub(crate) fn fan_percent(&self) -> Result<u32, String> {
        let (now, full) = (self.number::<u32>("pwm1")?, self.number::<u32>("pwm1_max").unwrap_or(255));
        if full == 0 || now > full {
            return Err(format!("the driver says the fan is at {now} of {full}"));
        }
        // Both fit: neither is above u32::MAX, and the quotient is 100 at most.
        Ok((u64::from(now) * 100 / u64::from(full)) as u32)
    }

    /// A number in one of its files.
    pub(crate) fn number<T: std::str::FromStr>(&self, file: &str) -> Result<T, String> {
        self.folder.as_ref().map_err(Clone::clone).and_then(|folder| read_number(&folder.join(file)))
    }
}
