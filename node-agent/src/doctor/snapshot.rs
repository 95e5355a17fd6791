//! What the doctor judges: the probe's report, and some files that no report needs.

use crate::probe::{Probe, cards, read_number, read_text};
use mesh_core::machine::{Hardware, Vitals};
use mesh_core::units::Bytes;
use std::path::{Path, PathBuf};

/// A machine at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What does not change.
    pub hardware: Hardware,
    /// What does.
    pub vitals: Vitals,
    /// The rest.
    pub raw: Raw,
}

/// What no report needs.
#[derive(Debug, Clone, Default)]
pub struct Raw {
    /// `/proc/cmdline`.
    pub cmdline: String,
    /// `MemTotal`: what no cgroup bounds.
    pub ram: Option<Bytes>,
    /// `ttm.pages_limit` as it holds now, in pages.
    pub pages_limit: Option<u64>,
    /// `/dev/kfd`, which ROCm needs.
    pub kfd: DeviceFile,
    /// `/dev/dri/renderD*`, which Vulkan and ROCm need: the worst of them.
    pub render: DeviceFile,
    /// (PCI address, driver) of all graphics processors on the bus.
    pub drivers: Vec<(String, Option<String>)>,
    /// Swap devices: `/dev/zram0`.
    pub swaps: Vec<String>,
    /// What the ZFS cache holds.
    pub zfs_cache: Option<Bytes>,
    /// The kernel counts what waits for memory.
    pub pressure: bool,
    /// The agent runs in a container.
    pub container: bool,
    /// Where models are kept.
    pub model_folder: PathBuf,
}

/// A device file as the agent's user finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceFile {
    /// It does not exist.
    #[default]
    Missing,
    /// It exists and may not be opened for reading and writing.
    Forbidden,
    /// It may.
    Open,
}

impl Snapshot {
    /// Reads the machine below `root`, as `probe` does.
    #[must_use]
    pub fn take(probe: &Probe, root: &Path, model_folder: PathBuf) -> Self {
        Self { hardware: probe.hardware(), vitals: probe.vitals(), raw: Raw::read(root, model_folder) }
    }
}

impl Raw {
    /// Reads the files below `root`. What cannot be read is as if it were not there.
    #[must_use]
    pub fn read(root: &Path, model_folder: PathBuf) -> Self {
        let text = |path: &str| read_text(&root.join(path)).unwrap_or_default();
        let arcstats = text("proc/spl/kstat/zfs/arcstats");
        let zfs_cache = arcstats.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "size").then(|| words.nth(1)?.parse().ok().map(Bytes))?
        });
        let meminfo = text("proc/meminfo");
        let ram = meminfo.lines().find_map(|line| {
            let kib: u64 = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024).map(Bytes)
        });
        let swaps = text("proc/swaps");
        let listed = cards(root);
        Self {
            cmdline: text("proc/cmdline"),
            ram,
            pages_limit: read_number(&root.join("sys/module/ttm/parameters/pages_limit")).ok(),
            kfd: device_file(&root.join("dev/kfd")),
            render: render_nodes(&root.join("dev/dri")),
            drivers: listed.into_iter().map(|card| (card.id(), card.driver)).collect(),
            swaps: swaps
                .lines()
                .skip(1)
                .filter_map(|line| Some(line.split_whitespace().next()?.into()))
                .collect(),
            zfs_cache,
            pressure: root.join("proc/pressure/memory").exists(),
            container: [".dockerenv", "run/.containerenv"].iter().any(|mark| root.join(mark).exists()),
            model_folder,
        }
    }

    /// The value of a kernel parameter on the command line, the last one given: `ttm.pages_limit`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut values =
            self.cmdline.split_whitespace().filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        values.next_back()
    }
}

fn render_nodes(folder: &Path) -> DeviceFile {
    let Ok(entries) = std::fs::read_dir(folder) else { return DeviceFile::Missing };
    let nodes = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("renderD"));
    let states: Vec<DeviceFile> = nodes.map(|node| device_file(&node.path())).collect();
    if states.contains(&DeviceFile::Forbidden) {
        DeviceFile::Forbidden
    } else {
        states.first().copied().unwrap_or_default()
    }
}

/// Asks for the right and does not open: opening a render node may wake its card.
fn device_file(path: &Path) -> DeviceFile {
    use nix::unistd::{AccessFlags, access};
    match access(path, AccessFlags::R_OK | AccessFlags::W_OK) {
        Ok(()) => DeviceFile::Open,
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => DeviceFile::Missing,
        Err(_) => DeviceFile::Forbidden,
    }
}
