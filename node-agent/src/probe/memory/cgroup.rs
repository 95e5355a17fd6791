//! What the agent's cgroups leave of main memory, version 2 and version 1. Engines that the agent starts live in
//! the same groups or below them.
//!
//! Only main memory: what an AMD driver maps for its processor is charged to no cgroup.

use super::super::{read_number, read_text};
use super::shortened;
use mesh_core::machine::Reading;
use mesh_core::units::Bytes;
use std::path::{Path, PathBuf};

/// A path of more groups than this is no path. systemd nests 5 to 7.
const DEPTH_LIMIT: usize = 32;

/// The tightest limit on the way from the agent's group to the root.
#[derive(Debug)]
pub(super) enum Limit {
    /// There is none, and how that is known.
    None(String),
    /// There is one.
    Leaves {
        /// The smallest limit.
        limit: Bytes,
        /// What is left: limit − (used − cache that goes when memory is asked for), of the group with the least.
        available: Bytes,
    },
    /// There is one, but what is left of it cannot be told.
    Unclear(String),
}

impl Limit {
    pub(super) fn into_reading(self) -> Reading<Bytes> {
        match self {
            Self::Leaves { available, .. } => Reading::Known(available),
            Self::None(reason) | Self::Unclear(reason) => Reading::Unknown(reason),
        }
    }
}

/// How one version of cgroups names what we read.
struct Version {
    mount: &'static str,
    limit: &'static str,
    used: &'static str,
    cache: &'static str,
}

const V2: Version =
    Version { mount: "sys/fs/cgroup", limit: "memory.max", used: "memory.current", cache: "inactive_file" };

/// Here `total_` counts the groups below, too, as `usage_in_bytes` does.
const V1: Version = Version {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};

/// Reads the limits of the process below `root` on a machine with `total` memory.
pub(super) fn limit(root: &Path, total: Bytes) -> Limit {
    let list = root.join("proc/self/cgroup");
    let text = match read_text(&list) {
        Ok(text) => text,
        Err(error) => return Limit::None(error),
    };
    let Some((version, path)) = place(&text) else {
        return Limit::None(format!("{}: `{}` names no memory cgroup", list.display(), shortened(&text)));
    };
    let mut tightest: Option<(Bytes, Bytes)> = None;
    for folder in way_up(&root.join(version.mount), path) {
        match one(&folder, &version, total) {
            Ok(None) => {}
            Ok(Some((limit, left))) => {
                let (least_limit, least_left) = tightest.unwrap_or((limit, left));
                tightest = Some((limit.min(least_limit), left.min(least_left)));
            }
            Err(reason) => return Limit::Unclear(reason),
        }
    }
    match tightest {
        Some((limit, available)) => Limit::Leaves { limit, available },
        None => Limit::None(format!("the agent's cgroup {} has no memory limit", shortened(path))),
    }
}

/// Version and path of the group that counts this process's memory. Where a version 1 hierarchy has the memory
/// controller, the version 2 one beside it has not.
fn place(text: &str) -> Option<(Version, &str)> {
    let parts = || {
        text.lines().filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.split_once(':')
        })
    };
    let first = parts().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
    if let Some((_, path)) = first {
        return Some((V1, path));
    }
    parts().find(|(controllers, _)| controllers.is_empty()).map(|(_, path)| (V2, path))
}

/// The group's folder and those above it, the mount's own last. In a container the path is often that of the
/// host, whose folders are not there, while the mount itself shows the container's group.
fn way_up(mount: &Path, path: &str) -> Vec<PathBuf> {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).take(DEPTH_LIMIT).collect();
    let mut folders = vec![mount.to_owned()];
    // `/../..`: a process outside of its cgroup namespace. Its groups are out of sight.
    if !names.contains(&"..") {
        for name in names {
            let deeper = folders.last().map_or_else(|| mount.join(name), |folder| folder.join(name));
            folders.push(deeper);
        }
    }
    folders.reverse();
    folders
}

/// (limit, what is left of it) of one group; `None` where it has no limit.
fn one(folder: &Path, version: &Version, total: Bytes) -> Result<Option<(Bytes, Bytes)>, String> {
    let path = folder.join(version.limit);
    if !path.exists() {
        return Ok(None);
    }
    let word = read_text(&path)?;
    if word == "max" {
        return Ok(None);
    }
    let limit: u64 =
        word.parse().map_err(|_| format!("{}: `{}` is no limit", path.display(), shortened(&word)))?;
    // Version 1 writes "none" as the largest number of pages. Above all memory the machine itself is the limit.
    if limit >= total.0 {
        return Ok(None);
    }
    let used: u64 = read_number(&folder.join(version.used))?;
    let stat = folder.join("memory.stat");
    let cache = read_text(&stat)?
        .lines()
        .find_map(|line| line.strip_prefix(version.cache)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
        .ok_or_else(|| format!("{} has no {}", stat.display(), version.cache))?;
    let held = used
        .checked_sub(cache)
        .ok_or_else(|| format!("{}: {} of cache in {} used", folder.display(), Bytes(cache), Bytes(used)))?;
    Ok(Some((Bytes(limit), Bytes(limit.saturating_sub(held)))))
}
