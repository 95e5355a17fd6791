//! NVIDIA's processors by NVML, the library of their driver, loaded at run time.
//!
//! ```text
//! no library, cards there ─► Broken(no-driver)          a card asleep ─► Asleep, its last readings,
//! library ─► init ─► Ready ◄──────────────┐                             NVML is not asked at all
//!              ├─► driver not loaded      │ tried again each 30 s: drivers are loaded,
//!              ├─► needs reboot           │ cards come back
//!              └─► lost, no permission ───┘
//! ```
//! Reading a laptop's card keeps it from sleeping, so one that may sleep and does nothing is read seldom.

mod cards;
mod reading;

use super::Attention;
use cards::{Card, cards};
use mesh_core::machine::{Gpu, GpuFault, GpuState, GpuVendor, Reading};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Seconds between two tries to start NVML: a driver that is being installed is seen within half a minute, and
/// a broken one costs nothing.
const RETRY_S: u64 = 30;

/// Seconds between two readings of a card that may sleep and did nothing. The kernel lets such a card sleep
/// after a few seconds without use; a reading wakes it for as long.
const IDLE_PERIOD_S: u64 = 60;

/// Where NVIDIA's driver installs its library, by the loader's search path.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// Reads NVIDIA's processors.
pub(crate) struct Nvidia {
    root: PathBuf,
    library: PathBuf,
    state: Mutex<State>,
    /// Whether cards are read that would be left alone.
    pub(super) attention: Attention,
}

impl std::fmt::Debug for Nvidia {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Nvidia").field("root", &self.root).field("library", &self.library).finish()
    }
}

#[derive(Default)]
struct State {
    nvml: Option<Nvml>,
    /// Why there is none, and when to try again, in seconds since 1970.
    fault: Option<(Fault, u64)>,
    /// The last readings by PCI address.
    last: BTreeMap<String, Gpu>,
    /// No card rests on what was read before.
    forgotten: bool,
}

/// Why NVML cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    kind: GpuFault,
    why: String,
}

impl Nvidia {
    /// A reader that finds cards below `root` and asks `library`, else the driver's own.
    pub(crate) fn new(root: &Path, library: Option<PathBuf>) -> Self {
        Self {
            root: root.to_owned(),
            library: library.unwrap_or_else(|| LIBRARY.into()),
            state: Mutex::default(),
            attention: Attention::default(),
        }
    }

    /// The machine has slept: no card rests on what was read before. What sleeps is shown as it was.
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.forgotten = true;
    }

    /// All processors; empty where there is neither a card nor a driver. `as_of` is the time in seconds since
    /// 1970.
    pub(crate) fn gpus(&self, as_of: u64) -> Vec<Gpu> {
        let cards = cards(&self.root);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let attended = self.attention.is_held();
        if !attended && !cards.is_empty() && cards.iter().all(|card| card.asleep) {
            return cards.iter().map(|card| asleep(card, &state.last)).collect();
        }
        if let Err(fault) = state.start(&self.library, as_of) {
            // Without a card, a missing driver is no fault.
            return cards.iter().map(|card| broken(card, &fault, as_of)).collect();
        }
        let found: Vec<Gpu> = if cards.is_empty() {
            // WSL and some containers hide the cards and have the driver.
            state.unlisted(&self.root, as_of)
        } else {
            cards.iter().map(|card| state.read(card, &self.root, as_of, attended)).collect()
        };
        state.forgotten = false;
        state.last = found.iter().map(|gpu| (gpu.id.clone(), gpu.clone())).collect();
        if found.iter().all(|gpu| matches!(gpu.state, GpuState::Broken(..))) {
            // A lost card may come back after a fresh start of the library; healthy ones beside it need none.
            state.nvml = None;
            let lost = found.iter().find_map(|gpu| match &gpu.state {
                GpuState::Broken(kind, why) => Some(Fault { kind: *kind, why: why.clone() }),
                GpuState::Ready | GpuState::Asleep => None,
            });
            state.fault = lost.map(|fault| (fault, as_of + RETRY_S));
        }
        found
    }
}

impl State {
    fn start(&mut self, library: &Path, now: u64) -> Result<(), Fault> {
        if self.nvml.is_some() {
            return Ok(());
        }
        if let Some((fault, retry_at)) = &self.fault
            && now < *retry_at
        {
            return Err(fault.clone());
        }
        match Nvml::builder().lib_path(OsStr::new(library)).init() {
            Ok(nvml) => {
                self.nvml = Some(nvml);
                self.fault = None;
                Ok(())
            }
            Err(error) => {
                let fault = fault_of(&error);
                self.fault = Some((fault.clone(), now + RETRY_S));
                Err(fault)
            }
        }
    }

    /// One card that the kernel lists. One that is `attended` is woken.
    fn read(&self, card: &Card, root: &Path, as_of: u64, attended: bool) -> Gpu {
        if card.asleep && !attended {
            return asleep(card, &self.last);
        }
        let rests = |last: &&Gpu| !attended && !self.forgotten && may_rest(card, last, as_of);
        if let Some(last) = self.last.get(&card.slot).filter(rests) {
            return last.clone();
        }
        let Some(nvml) = &self.nvml else { return named(card, "NVML is not running") };
        let device = match nvml.device_by_pci_bus_id(card.slot.clone()) {
            Ok(device) => device,
            Err(error) => return broken(card, &fault_of(&error), as_of),
        };
        match reading::read(nvml, &device, &card.slot, root, as_of) {
            Ok(gpu) => gpu,
            Err(error) => broken(card, &fault_of(&error), as_of),
        }
    }

    /// All cards that NVML itself lists.
    fn unlisted(&self, root: &Path, as_of: u64) -> Vec<Gpu> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        // More cards than a machine has slots are a driver gone mad.
        let count = nvml.device_count().unwrap_or(0).min(64);
        let device = |index| {
            let device = nvml.device_by_index(index).ok()?;
            let slot = device.pci_info().map_or_else(|_| format!("nvidia-{index}"), |pci| short(&pci.bus_id));
            reading::read(nvml, &device, &slot, root, as_of).ok()
        };
        (0..count).filter_map(device).collect()
    }
}

/// Whether `card` is left alone now so that it can fall asleep.
fn may_rest(card: &Card, last: &Gpu, now: u64) -> bool {
    let idle = last.sensors.busy.known() == Some(&0)
        && last.processes.known().is_some_and(Vec::is_empty)
        && last.state == GpuState::Ready;
    card.may_sleep && idle && now < last.as_of + IDLE_PERIOD_S
}

fn named(card: &Card, reason: &str) -> Gpu {
    Gpu::unknown(&card.slot, &card.name, GpuVendor::Nvidia, reason)
}

/// The last readings, which stay true enough: nothing runs on a card that sleeps.
fn asleep(card: &Card, last: &BTreeMap<String, Gpu>) -> Gpu {
    let never = || named(card, "the card sleeps and has not been read yet");
    let mut gpu = last.get(&card.slot).cloned().unwrap_or_else(never);
    gpu.state = GpuState::Asleep;
    gpu.sensors.busy = Reading::Known(0);
    gpu
}

fn broken(card: &Card, fault: &Fault, as_of: u64) -> Gpu {
    let state = GpuState::Broken(fault.kind, fault.why.clone());
    Gpu { state, as_of, ..named(card, &fault.why) }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's list grows; what is not told apart here is said in its own words"
)]
fn fault_of(error: &NvmlError) -> Fault {
    let (kind, why) = match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            (GpuFault::NoDriver, format!("NVIDIA's driver is not installed: {LIBRARY} cannot be loaded"))
        }
        NvmlError::DriverNotLoaded => {
            (GpuFault::DriverNotLoaded, "NVIDIA's kernel driver is not loaded".to_owned())
        }
        NvmlError::LibRmVersionMismatch => (
            GpuFault::NeedsReboot,
            "NVIDIA's driver was upgraded and the old one still runs: restart the machine".to_owned(),
        ),
        NvmlError::GpuLost | NvmlError::ResetRequired => {
            (GpuFault::Lost, format!("the card is lost until the machine restarts: {error}"))
        }
        NvmlError::NoPermission => {
            (GpuFault::NoPermission, "the agent may not read NVIDIA's driver: /dev/nvidiactl".to_owned())
        }
        other => (GpuFault::Other, format!("NVML: {other}")),
    };
    Fault { kind, why }
}

/// `00000000:01:00.0`, as NVML writes it, in the kernel's way: `0000:01:00.0`.
fn short(bus_id: &str) -> String {
    let lower = bus_id.to_lowercase();
    match lower.split_once(':') {
        Some((domain, rest)) if domain.len() == 8 => format!("{}:{rest}", &domain[4..]),
        Some(_) | None => lower,
    }
}

#[cfg(test)]
mod tests;
