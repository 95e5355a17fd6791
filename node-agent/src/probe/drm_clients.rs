//! Who holds memory of a graphics processor: `/proc/<pid>/fdinfo/<fd>` of each open device file has lines
//! `drm-…` (the kernel's drm-usage-stats). Dear, because every process is looked at, so it is asked for seldom.
//! Without privileges only the agent's own user's processes can be seen, which its engines are among.

use super::{numbered_folders, read_text, shortened};
use mesh_core::machine::{GpuProcess, Reading};
use mesh_core::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Processes looked at in one go. A busy desktop has 500.
const PROCESS_LIMIT: usize = 4096;

/// Open files looked at in one process. An engine has some dozens.
const FILE_LIMIT: usize = 1024;

/// Processes named in a report: the largest.
const REPORTED: usize = 16;

/// The holders of memory by PCI address. A processor that nobody holds is not in it.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    by_slot: BTreeMap<String, Vec<GpuProcess>>,
    /// Processes whose files the agent may not see.
    hidden: usize,
    seen: usize,
}

impl Holders {
    /// Looks at all processes.
    pub(crate) fn read(root: &Path) -> Self {
        let mut holders = Self::default();
        for process in numbered_folders(&root.join("proc"), "").into_iter().take(PROCESS_LIMIT) {
            let Some(pid) = process.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else {
                continue;
            };
            let files = match std::fs::read_dir(process.join("fdinfo")) {
                Ok(files) => files.flatten().take(FILE_LIMIT).map(|entry| entry.path()),
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    holders.hidden += 1;
                    continue;
                }
                // It has ended meanwhile.
                Err(_) => continue,
            };
            holders.seen += 1;
            for (slot, memory) in held(&process, files) {
                let name = read_text(&process.join("comm")).map(|name| shortened(&name)).unwrap_or_default();
                let memory = Reading::Known(Bytes(memory));
                holders.by_slot.entry(slot).or_default().push(GpuProcess { pid, name, memory });
            }
        }
        holders
    }

    /// Who holds the processor at `slot`, the largest first.
    pub(crate) fn of(&self, slot: &str) -> Reading<Vec<GpuProcess>> {
        let mut processes = self.by_slot.get(slot).cloned().unwrap_or_default();
        if processes.is_empty() && self.hidden > 0 {
            return Reading::unknown(format!(
                "{} processes of other users cannot be looked at, and none of this user holds any",
                self.hidden
            ));
        }
        if processes.is_empty() && self.seen == 0 {
            return Reading::unknown("no process can be looked at below /proc");
        }
        let size = |process: &GpuProcess| process.memory.known().copied().unwrap_or_default();
        processes.sort_by(|a, b| size(b).cmp(&size(a)).then(a.pid.cmp(&b.pid)));
        processes.truncate(REPORTED);
        Reading::Known(processes)
    }
}

/// Bytes that one process holds, by PCI address. A client that is open twice counts once.
fn held(process: &Path, files: impl Iterator<Item = PathBuf>) -> BTreeMap<String, u64> {
    let mut clients = BTreeSet::new();
    let mut held: BTreeMap<String, u64> = BTreeMap::new();
    for file in files {
        // Most files are not of a graphics processor; asking for the link is cheaper than for its fdinfo.
        let target = file.file_name().and_then(|fd| std::fs::read_link(process.join("fd").join(fd)).ok());
        if target.is_some_and(|target| !target.starts_with("/dev/dri") && !target.starts_with("/dev/kfd")) {
            continue;
        }
        let Ok(text) = read_text(&file) else { continue };
        if let Some(client) = client(&text).filter(|client| clients.insert((client.slot.clone(), client.id)))
        {
            let sum = held.entry(client.slot).or_default();
            *sum = sum.saturating_add(client.bytes);
        }
    }
    held
}

#[derive(Debug, PartialEq, Eq)]
struct Client {
    slot: String,
    id: u64,
    bytes: u64,
}

/// What one fdinfo says: amdgpu has `drm-memory-vram` and `-gtt`, Intel `drm-resident-…`. System memory that is
/// not mapped for the device (`cpu`) is not its memory.
fn client(text: &str) -> Option<Client> {
    let pairs = || {
        text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.trim(), value.trim()))
    };
    let value = |key: &str| pairs().find(|(name, _)| *name == key).map(|(_, value)| value);
    let sum = |prefix: &str| {
        let regions =
            pairs().filter(|(key, _)| key.strip_prefix(prefix).is_some_and(|region| region != "cpu"));
        let sizes: Vec<u64> = regions.filter_map(|(_, value)| size(value)).collect();
        (!sizes.is_empty()).then(|| sizes.into_iter().fold(0, u64::saturating_add))
    };
    Some(Client {
        slot: shortened(value("drm-pdev")?).to_lowercase(),
        id: value("drm-client-id")?.parse().ok()?,
        bytes: sum("drm-memory-").or_else(|| sum("drm-resident-"))?,
    })
}

/// `12288 KiB`; without a unit, bytes.
fn size(text: &str) -> Option<u64> {
    text.parse().ok().or_else(|| text.parse::<Bytes>().ok().map(|bytes| bytes.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_the_devices_does_not_count() {
        let text = "pos:\t0\ndrm-driver:\tamdgpu\ndrm-client-id:\t7\ndrm-pdev:\t0000:C5:00.0\n\
                    drm-memory-vram:\t4 KiB\ndrm-memory-gtt: \t8 KiB\ndrm-memory-cpu: \t99 KiB\n";
        assert_eq!(client(text), Some(Client { slot: "0000:c5:00.0".into(), id: 7, bytes: 12 << 10 }));
        let intel =
            "drm-client-id: 3\ndrm-pdev: 0000:03:00.0\ndrm-resident-system0: 0\ndrm-resident-local0: 2 MiB\n";
        assert_eq!(client(intel).map(|client| client.bytes), Some(2 << 20));
    }

    #[test]
    fn a_file_that_is_no_device_or_makes_no_sense_is_no_client() {
        for text in
            ["", "pos: 0\n", "drm-pdev: x\n", "drm-pdev: x\ndrm-client-id: many\ndrm-memory-vram: 1\n"]
        {
            assert_eq!(client(text), None, "{text}");
        }
        assert_eq!(size("lots"), None);
        assert_eq!(size("99999999999999999999 TiB"), None);
    }
}
