//! What the ZFS cache (ARC) would give back to a model.

use super::super::read_text;
use super::shortened;
use mesh_core::machine::Reading;
use mesh_core::units::Bytes;
use std::path::Path;

/// The parts of the cache that nobody holds: `arcstats` of OpenZFS 0.7 and later, in bytes.
const EVICTABLE: [&str; 4] =
    ["mru_evictable_data", "mru_evictable_metadata", "mfu_evictable_data", "mfu_evictable_metadata"];

/// What the cache gives back when memory is asked for: the parts that nobody holds, and never so much that it
/// would shrink below its own floor `c_min`. The plain `size − c_min` would promise more: a part of the cache
/// is in use, or metadata that cannot go at once.
pub(super) fn evictable(root: &Path, total: Bytes, available: Bytes) -> Reading<Bytes> {
    let path = root.join("proc/spl/kstat/zfs/arcstats");
    if !path.exists() {
        return Reading::unknown("no ZFS: /proc/spl/kstat/zfs/arcstats does not exist");
    }
    read(&path, root, total, available).map_or_else(Reading::Unknown, Reading::Known)
}

fn read(path: &Path, root: &Path, total: Bytes, available: Bytes) -> Result<Bytes, String> {
    if meminfo_is_a_containers(root) {
        return Err(
            "the container's own /proc/meminfo (lxcfs) stands beside the ZFS cache of its host".into()
        );
    }
    let text = read_text(path)?;
    // name, type, value
    let entry = |key: &str| {
        let value = text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == key).then(|| words.nth(1).unwrap_or_default())
        });
        let value = value.ok_or_else(|| format!("{} has no {key}", path.display()))?;
        value.parse::<u64>().map_err(|_| format!("{}: {key} is `{}`", path.display(), shortened(value)))
    };
    let (size, floor) = (entry("size")?, entry("c_min")?);
    let mut sum = 0_u64;
    for key in EVICTABLE {
        sum = sum.saturating_add(entry(key)?);
    }
    if sum > size {
        return Err(format!("{}: {} can go of {}", path.display(), Bytes(sum), Bytes(size)));
    }
    let evictable = sum.min(size.saturating_sub(floor));
    // Free memory and the cache are different pages: together they are no more than all there is.
    if available.0.saturating_add(evictable) > total.0 {
        return Err(format!(
            "{}: a cache of {} beside {available} available of {total}: of another machine?",
            path.display(),
            Bytes(size)
        ));
    }
    Ok(Bytes(evictable))
}

/// In an LXC container `/proc/meminfo` tells the container's memory by a mount of its own, but `arcstats` is
/// the host's: the cache's memory is not the container's to take.
fn meminfo_is_a_containers(root: &Path) -> bool {
    read_text(&root.join("proc/self/mounts"))
        .is_ok_and(|text| text.lines().any(|line| line.split(' ').nth(1) == Some("/proc/meminfo")))
}
