//! Main memory: what models may take of it, and the raw figures behind that.
//!
//! ```text
//! available = min(MemAvailable + what the ZFS cache would give back, what the agent's cgroups leave)
//! ```
//! `MemAvailable`, never `MemFree`: the page cache that holds a model's file is free for the next model.
//! `MemAvailable` does not contain the ZFS cache (openzfs issue 10255), so on such a machine reading a model
//! would seem to take the memory that the model needs. A figure that contradicts another is unknown.

mod cgroup;
mod zfs;

use super::{read_text, shortened};
use cgroup::Limit;
use mesh_core::machine::{Capacity, HostMemory, Reading, Swap};
use mesh_core::units::Bytes;
use std::path::Path;

/// What models may take, and the figures behind it.
pub(super) fn memory(root: &Path) -> (Reading<Capacity>, HostMemory) {
    let meminfo = Meminfo::read(root);
    let total = meminfo.bytes("MemTotal");
    let mem_available = meminfo.bytes("MemAvailable").and_then(|available| match total {
        Ok(total) if available > total => {
            Err(format!("{}: {available} available of {total}", meminfo.path.display()))
        }
        Ok(_) | Err(_) => Ok(available),
    });
    let known = total.clone().and_then(|total| Ok((total, mem_available.clone()?)));
    let zfs_evictable = match known {
        Ok((total, available)) => zfs::evictable(root, total, available),
        // Without the two there is nothing to hold the figure against.
        Err(ref reason) => Reading::unknown(reason),
    };
    let limit = match &total {
        Ok(total) => cgroup::limit(root, *total),
        Err(reason) => Limit::Unclear(reason.clone()),
    };
    let ram = known.and_then(|(total, available)| {
        let available = Bytes(available.0 + zfs_evictable.known().map_or(0, |bytes| bytes.0));
        match &limit {
            Limit::None(_) => Ok(Capacity { total, available }),
            Limit::Leaves { limit, available: left } => {
                Ok(Capacity { total: total.min(*limit), available: available.min(*left) })
            }
            // There is a limit, and it may be reached: better no figure than one that lets a load die.
            Limit::Unclear(reason) => Err(reason.clone()),
        }
    });
    let figures = HostMemory {
        mem_available: reading(mem_available),
        zfs_evictable,
        cgroup_available: limit.into_reading(),
        swap: reading(meminfo.swap()),
        pressure: reading(pressure(root)),
    };
    (reading(ram), figures)
}

/// The text of `/proc/meminfo`.
struct Meminfo {
    path: std::path::PathBuf,
    text: Result<String, String>,
}

impl Meminfo {
    fn read(root: &Path) -> Self {
        let path = root.join("proc/meminfo");
        Self { text: read_text(&path), path }
    }

    /// The entry `key: N kB`.
    fn bytes(&self, key: &str) -> Result<Bytes, String> {
        let text = self.text.as_ref().map_err(Clone::clone)?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'))
            .map(str::trim)
            .ok_or_else(|| format!("{} has no {key}", self.path.display()))?;
        let kib: Option<u64> = value.strip_suffix("kB").and_then(|number| number.trim().parse().ok());
        kib.and_then(|kib| kib.checked_mul(1024))
            .map(Bytes)
            .ok_or_else(|| format!("{}: {key} is `{}`", self.path.display(), shortened(value)))
    }

    fn swap(&self) -> Result<Swap, String> {
        let (total, free) = (self.bytes("SwapTotal")?, self.bytes("SwapFree")?);
        let used = total
            .0
            .checked_sub(free.0)
            .ok_or_else(|| format!("{}: {free} of {total} swap is free", self.path.display()))?;
        Ok(Swap { total, used: Bytes(used) })
    }
}

/// `some avg10` of the kernel's pressure stall information: a sign of trouble long before memory is out.
fn pressure(root: &Path) -> Result<f32, String> {
    let path = root.join("proc/pressure/memory");
    // Without CONFIG_PSI there is no file; switched off at the start, opening it fails (EOPNOTSUPP).
    let text = read_text(&path).map_err(|error| {
        format!("{error}; the kernel counts it with CONFIG_PSI, on some systems only with psi=1")
    })?;
    let percent: Option<f32> = text.lines().find_map(|line| {
        let some = line.strip_prefix("some ")?;
        some.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()
    });
    percent
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| format!("{}: `{}` has no avg10 in percent", path.display(), shortened(&text)))
}

fn reading<T>(result: Result<T, String>) -> Reading<T> {
    result.map_or_else(Reading::Unknown, Reading::Known)
}

#[cfg(test)]
mod tests;
