//! All graphics processors of the machine, of all vendors: NVIDIA's by its own library, all others by what their
//! drivers show in `/sys/class/drm`, and what no driver shows by the PCI bus.

use super::pci::{self, AMD, Card, INTEL, NVIDIA};
use super::{Attention, GpuOverrides, amd, drm_clients::Holders, intel, nvidia::Nvidia};
use mesh_core::machine::{Gpu, GpuVendor, Reading, Temperature};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The graphics processors below one root.
#[derive(Debug)]
pub(super) struct Gpus {
    root: PathBuf,
    nvidia: Nvidia,
    pub(super) overrides: GpuOverrides,
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
    /// `library` is where NVIDIA's is, instead of where its driver installs it.
    pub(super) fn new(root: &Path, overrides: GpuOverrides, library: Option<PathBuf>) -> Self {
        // Below another root the machine's own library would speak of another machine.
        let elsewhere = || (root != Path::new("/")).then(|| root.join("usr/lib/libnvidia-ml.so.1"));
        let library = library.or_else(elsewhere);
        Self { nvidia: Nvidia::new(root, library), root: root.into(), overrides, seen: Mutex::default() }
    }

    /// Who holds it has cards read each second, also those that sleep.
    pub(super) fn attention(&self) -> Attention {
        self.nvidia.attention.clone()
    }

    /// What was remembered is of another time: the machine has slept.
    pub(super) fn forget(&self) {
        self.nvidia.forget();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
    }

    /// All graphics processors with a vendor we know. A machine with none has an empty list.
    pub(super) fn read(&self, as_of: u64, unix_s: u64) -> Reading<Vec<Gpu>> {
        let root = self.root.as_path();
        if !root.join("proc/driver/nvidia/gpus").exists() && !root.join("sys/class").exists() {
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
        let mut gpus = self.nvidia.gpus(as_of);
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
                // What NVIDIA's library has is not taken again. Without an address we cannot tell, and then one card too few is better than each twice.
                NVIDIA if by_driver.contains(&id) || (card.slot.is_none() && !by_driver.is_empty()) => None,
                NVIDIA => Some(Gpu {
                    as_of,
                    ..Gpu::unknown(
                        &id,
                        &card.name(),
                        GpuVendor::Nvidia,
                        "NVIDIA's own driver does not hold it",
                    )
                }),
                // Display adapters of servers and virtual machines.
                _ => None,
            });
        }
        tell_apart(&mut gpus);
        Reading::Known(gpus)
    }
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
