//! All graphics processors of the machine, of all vendors: NVIDIA's driver lists its own in `/proc`, all others
//! show theirs in `/sys/class/drm`, and what no driver shows is on the PCI bus.

use super::pci::{self, AMD, Card, INTEL, NVIDIA};
use super::{GpuOverrides, amd, drm_clients::Holders, intel, read_text, shortened};
use mesh_core::machine::{Gpu, GpuVendor, Reading, Temperature};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const NVIDIA_MEMORY: &str =
    "NVIDIA's driver tells it only to its own library (NVML), which this agent does not use";

/// The graphics processors below one root.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    overrides: GpuOverrides,
    /// What is remembered between readings. Held while they are read: readers of one machine take turns.
    seen: Mutex<Seen>,
}

/// What changes seldom, or is needed to see a change.
#[derive(Debug)]
struct Seen {
    /// When cards and holders were looked up. They are again with each new stamp of a report: every
    /// `Vitals::AS_OF_STEP` seconds, because looking at every process and PCI device each second is dear.
    looked_up: Option<u64>,
    cards: Vec<Card>,
    nodes: Result<Vec<amd::Node>, String>,
    holders: Holders,
    amd: BTreeMap<String, amd::Before>,
    intel: BTreeMap<String, intel::Before>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            looked_up: None,
            cards: Vec::new(),
            nodes: Ok(Vec::new()),
            holders: Holders::default(),
            amd: BTreeMap::new(),
            intel: BTreeMap::new(),
        }
    }
}

impl Gpus {
    /// The machine's processors, with what the operator says of them.
    pub(super) fn new(overrides: GpuOverrides) -> Self {
        Self { overrides, seen: Mutex::default() }
    }

    /// All graphics processors with a vendor we know. A machine with none has an empty list.
    pub(super) fn read(&self, root: &Path, as_of: u64, unix_s: u64) -> Reading<Vec<Gpu>> {
        let listed = root.join("proc/driver/nvidia/gpus");
        if !listed.exists() && !root.join("sys/class").exists() {
            return Reading::unknown(
                "neither /sys/class nor /proc/driver/nvidia/gpus is visible to the agent",
            );
        }
        // A reader that panicked left a state that is as good as any older one.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = &mut *seen;
        if seen.looked_up != Some(as_of) {
            seen.cards = pci::cards(root);
            if seen.cards.iter().any(|card| card.vendor == AMD) {
                seen.nodes = amd::nodes(root);
            }
            let in_files = seen.cards.iter().any(|card| card.vendor != NVIDIA);
            seen.holders = if in_files { Holders::read(root) } else { Holders::default() };
            seen.looked_up = Some(as_of);
        }
        // NVIDIA's own list joins here: what it has is not taken from the kernel's list again.
        let mut gpus = nvidia(&listed, as_of);
        let by_driver: Vec<String> = gpus.iter().map(|gpu| gpu.id.clone()).collect();
        let around = amd::Around { root, nodes: &seen.nodes, overrides: &self.overrides, as_of };
        for card in &seen.cards {
            let id = card.id();
            gpus.extend(match card.vendor {
                AMD => {
                    let mut gpu = amd::gpu(card, &around, seen.amd.entry(id).or_default());
                    gpu.processes = seen.holders.of(&gpu.id);
                    Some(gpu)
                }
                INTEL => {
                    let mut gpu = intel::gpu(card, as_of, unix_s, seen.intel.entry(id).or_default());
                    gpu.processes = seen.holders.of(&gpu.id);
                    Some(gpu)
                }
                // Without an address we cannot tell, and then one card too few is better than each twice.
                NVIDIA if by_driver.contains(&id) || (card.slot.is_none() && !by_driver.is_empty()) => None,
                NVIDIA => {
                    Some(Gpu { as_of, ..Gpu::unknown(&id, &card.name(), GpuVendor::Nvidia, NVIDIA_MEMORY) })
                }
                // Display adapters of servers and virtual machines.
                _ => None,
            });
        }
        tell_apart(&mut gpus);
        Reading::Known(gpus)
    }
}

/// A processor for each folder that NVIDIA's driver makes.
fn nvidia(listed: &Path, as_of: u64) -> Vec<Gpu> {
    let Ok(entries) = std::fs::read_dir(listed) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let gpu = |folder: PathBuf| {
        let slot = folder.file_name()?.to_str()?.to_lowercase();
        let text = read_text(&folder.join("information")).unwrap_or_default();
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"));
        let name = model.map(|text| shortened(text.trim())).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| format!("NVIDIA GPU at {slot}"));
        Some(Gpu { as_of, ..Gpu::unknown(&slot, &name, GpuVendor::Nvidia, NVIDIA_MEMORY) })
    };
    folders.into_iter().filter_map(gpu).collect()
}

/// Two cards both have an `amdgpu edge`: the second's becomes `amdgpu edge 2`, so that a person and the thermal
/// state can tell which is hot.
fn tell_apart(gpus: &mut [Gpu]) {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for gpu in gpus {
        let Reading::Known(sensors) = &mut gpu.sensors.temperatures else { continue };
        for Temperature { sensor, .. } in sensors {
            let count = counts.entry(sensor.clone()).or_default();
            *count += 1;
            if *count > 1 {
                *sensor = format!("{sensor} {count}");
            }
        }
    }
}
