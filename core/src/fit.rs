//! Does a model fit into a machine's memory now? Live pools, less what is reserved, against what a load needs.
//!
//! [`Pools::of`] reads the pools out of a machine's vitals, [`fit`] compares them with one [`Demand`] and says why
//! with all its numbers, [`choose`] looks for the best way to load a model: whole on a graphics processor, partly,
//! in RAM, and last with a shorter context. The agent decides with it before each load; nothing here changes
//! anything.

mod choice;
mod plan;

pub use choice::{Choice, Offload, SHORTEST_CONTEXT, Trial, Wanted, choose};
#[cfg(test)]
pub(crate) use plan::tests::layered;
pub use plan::{loaded, plan};

use crate::machine::{Capacity, Gpu, GpuState, Pool, Reading, Vitals};
use crate::units::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// The margin until something was measured, at least: a desktop that opens a window, a driver's own buffers.
const LEAST_MARGIN: u64 = 512 << 20;
/// The margin until something was measured, as a share of the need: 1/20 = 5 %.
const MARGIN_SHARE: u64 = 20;
/// The margin after measurements, at least: they tell of the model, not of what other programs take meanwhile.
const LEAST_MEASURED_MARGIN: u64 = 128 << 20;
/// Residuals that are needed before they are believed: with fewer, the 95th percentile is one lucky load.
const LEAST_RESIDUALS: usize = 5;
/// Holders named in a reason; the rest is counted.
const NAMED: usize = 4;

/// A graphics processor whose memory models may take.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// As in the report: its PCI address.
    pub id: String,
    /// For people.
    pub name: String,
    /// All that models may take, and what is free of it.
    pub memory: Capacity,
    /// The part that RAM does not contain; `None` where it takes nothing from RAM.
    pub carve_out: Option<Capacity>,
    /// Programs that hold its memory and what, where the driver tells; largest first.
    pub holders: Vec<(String, Bytes)>,
}

/// The memory pools of one machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Pools {
    /// Graphics processors that can be used.
    pub devices: Vec<Device>,
    /// Main memory.
    pub ram: Reading<Capacity>,
    /// Why other graphics processors are not used.
    pub notes: Vec<String>,
}

impl Pools {
    /// The pools in `vitals`. A processor that is broken or does not tell its memory is not used, with a
    /// note that says so.
    #[must_use]
    pub fn of(vitals: &Vitals) -> Self {
        let mut pools = Self { devices: Vec::new(), ram: vitals.ram.clone(), notes: Vec::new() };
        match &vitals.gpus {
            Reading::Known(gpus) => {
                for gpu in gpus {
                    match usable(gpu) {
                        Ok(device) => pools.devices.push(device),
                        Err(why) => pools.notes.push(format!("{} is not used: {why}", gpu.name)),
                    }
                }
            }
            Reading::Unknown(why) => pools.notes.push(format!("no graphics processor is known: {why}")),
        }
        pools
    }

    /// The same machine for an engine that cannot use graphics processors.
    #[must_use]
    pub fn host_only(mut self, why: &str) -> Self {
        if !self.devices.is_empty() {
            self.notes.push(why.to_owned());
            self.devices.clear();
        }
        self
    }

    /// Adds to what is free: what an engine gives up by itself when it loads another model.
    pub fn give_back(&mut self, on_device: Bytes, on_host: Bytes) {
        if let Some(device) = self.devices.iter_mut().max_by_key(|device| device.memory.available) {
            let free = device.memory.available.0.saturating_add(on_device.0);
            device.memory.available = Bytes(free.min(device.memory.total.0));
        }
        if let Reading::Known(ram) = &mut self.ram {
            ram.available = Bytes(ram.available.0.saturating_add(on_host.0).min(ram.total.0));
        }
    }
}

fn usable(gpu: &Gpu) -> Result<Device, String> {
    match &gpu.state {
        // Nothing runs on a card that sleeps: what it had free last is free.
        GpuState::Ready | GpuState::Asleep => {}
        GpuState::Broken(fault, why) => return Err(format!("{}: {why}", fault.word())),
    }
    let memory = match &gpu.memory {
        Reading::Known(memory) => *memory,
        Reading::Unknown(_) if gpu.state == GpuState::Asleep => {
            return Err("it sleeps and has not been read yet; a load wakes it".into());
        }
        Reading::Unknown(why) => return Err(format!("its memory is not known: {why}")),
    };
    let carve_out = match &gpu.pool {
        Pool::Discrete { .. } => None,
        Pool::Unified { carve_out, .. } => Some(*carve_out),
        Pool::Unknown(why) => return Err(format!("where its memory is, is not known: {why}")),
    };
    let mut holders: Vec<(String, Bytes)> = gpu
        .processes
        .known()
        .into_iter()
        .flatten()
        .filter_map(|process| {
            let name = if process.name.is_empty() { "process" } else { &process.name };
            Some((format!("{name} ({})", process.pid), *process.memory.known()?))
        })
        .collect();
    holders.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    Ok(Device { id: gpu.id.clone(), name: gpu.name.clone(), memory, carve_out, holders })
}

/// Memory that somebody holds or has been promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Who, for people: a model and its engine.
    pub who: String,
    /// Which device, where any.
    pub device: Option<String>,
    /// Bytes on it.
    pub on_device: Bytes,
    /// Bytes of RAM.
    pub on_host: Bytes,
    /// Promised and not yet missing in what the machine calls free. What is held already is only told.
    pub promised: bool,
}

/// What a load needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Demand {
    /// Bytes on one graphics processor.
    pub device: Bytes,
    /// Bytes of RAM.
    pub host: Bytes,
}

impl Demand {
    /// Both together.
    #[must_use]
    pub fn total(self) -> Bytes {
        Bytes(self.device.0.saturating_add(self.host.0))
    }
}

/// What must stay free beside a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Margin {
    /// Nothing was measured: 512 MiB or 5 % of the need, whichever is more.
    #[default]
    Default,
    /// The 95th percentile of what loads took more than predicted.
    Measured(Bytes),
}

impl Margin {
    /// The margin from measured less predicted bytes of past loads.
    #[must_use]
    pub fn of(residuals: &[i64]) -> Self {
        if residuals.len() < LEAST_RESIDUALS {
            return Self::Default;
        }
        let mut sorted = residuals.to_vec();
        sorted.sort_unstable();
        // Nearest rank: the smallest residual that at least 95 % of all do not exceed.
        let rank = (sorted.len() * 95).div_ceil(100).max(1);
        let percentile = sorted.get(rank - 1).copied().unwrap_or(0);
        Self::Measured(Bytes(u64::try_from(percentile).unwrap_or(0)))
    }

    /// For a pool of which a load needs `needs`; nothing where it needs nothing.
    #[must_use]
    pub fn beside(self, needs: Bytes) -> Bytes {
        match (needs.0, self) {
            (0, _) => Bytes(0),
            (needs, Self::Default) => Bytes((needs / MARGIN_SHARE).max(LEAST_MARGIN)),
            (_, Self::Measured(residual)) => Bytes(residual.0.max(LEAST_MEASURED_MARGIN)),
        }
    }
}

/// One pool against one load.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Need {
    /// What the load takes.
    pub needs: Bytes,
    /// What the machine calls free; `None` = not known, and then nothing is refused for it.
    pub free: Option<Bytes>,
    /// What of it is promised to others.
    pub reserved: Bytes,
    /// What must stay free.
    pub margin: Bytes,
}

impl Need {
    /// Bytes that are missing.
    #[must_use]
    pub fn missing(&self) -> Bytes {
        let Some(free) = self.free else { return Bytes(0) };
        if self.needs.0 == 0 {
            return Bytes(0);
        }
        let wanted = self.needs.0.saturating_add(self.margin.0).saturating_add(self.reserved.0);
        Bytes(wanted.saturating_sub(free.0))
    }
}

/// Whether a load fits, with the numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// Whether it does.
    pub fits: bool,
    /// Whether it could once everything else is gone: false = this machine is too small.
    pub ever: bool,
    /// The graphics processor it was compared with, where the load needs one: its id.
    pub gpu: Option<String>,
    /// On that processor.
    pub device: Need,
    /// In RAM. With shared memory this is the one budget, and `needs` are both parts together.
    pub host: Need,
    /// The numbers as a sentence, and who holds what.
    pub why: String,
}

/// Compares `demand` with the pools. Of several graphics processors the one with the least free memory that holds
/// it is taken, cards with memory of their own first: the big holes stay open for what only they can hold.
#[must_use]
pub fn fit(pools: &Pools, claims: &[Claim], demand: Demand, margin: Margin) -> Fit {
    let mut fit = weigh(pools, claims, demand, margin);
    // Where nothing can be used the reason is that.
    if fit.why.is_empty() {
        let device = pools.devices.iter().find(|device| Some(&device.id) == fit.gpu.as_ref());
        fit.why = reason(pools, claims, device, &fit.device, &fit.host);
        if !fit.ever {
            fit.why.push_str("; this machine is too small for it, whatever else is unloaded");
        }
    }
    fit
}

/// The same without its reason: a search asks many times, and only its answer is told.
fn weigh(pools: &Pools, claims: &[Claim], demand: Demand, margin: Margin) -> Fit {
    if demand.device.0 == 0 {
        return compare(pools, claims, demand, margin, None);
    }
    let tried = pools.devices.iter().map(|device| compare(pools, claims, demand, margin, Some(device)));
    let shared =
        |fit: &Fit| pools.devices.iter().any(|d| Some(&d.id) == fit.gpu.as_ref() && d.carve_out.is_some());
    let best = tried.min_by_key(|fit| {
        let free = fit.device.free.map_or(0, |bytes| bytes.0);
        // Where none holds it, the reason names the one with the most free memory.
        (!fit.fits, fit.fits && shared(fit), if fit.fits { free } else { u64::MAX - free })
    });
    best.unwrap_or_else(|| {
        let mut why = format!("needs {} on a graphics processor, and none can be used", demand.device);
        for note in &pools.notes {
            let _ = write!(why, "; {note}");
        }
        let device = Need { needs: demand.device, free: Some(Bytes(0)), ..Need::default() };
        Fit { fits: false, ever: false, gpu: None, device, host: Need::default(), why }
    })
}

/// Without a reason.
fn compare(pools: &Pools, claims: &[Claim], demand: Demand, margin: Margin, device: Option<&Device>) -> Fit {
    let promised = || claims.iter().filter(|claim| claim.promised);
    let sum = |bytes: &mut dyn Iterator<Item = Bytes>| Bytes(bytes.fold(0, |sum, b| sum.saturating_add(b.0)));
    let shares = |id: &Option<String>| {
        pools.devices.iter().any(|d| d.carve_out.is_some() && Some(&d.id) == id.as_ref())
    };
    let on = |id: &str| sum(&mut promised().filter(|c| c.device.as_deref() == Some(id)).map(|c| c.on_device));

    let mut host = Need {
        needs: demand.host,
        free: pools.ram.known().map(|ram| ram.available),
        // What is promised on shared memory is gone from RAM too.
        reserved: sum(&mut promised().map(|c| {
            if shares(&c.device) { Bytes(c.on_host.0.saturating_add(c.on_device.0)) } else { c.on_host }
        })),
        margin: margin.beside(demand.host),
    };
    let mut total = pools.ram.known().map(|ram| ram.total);
    let mut on_device = Need::default();
    let mut ever = true;
    if let Some(device) = device {
        on_device = Need {
            needs: demand.device,
            free: Some(device.memory.available),
            reserved: on(&device.id),
            margin: margin.beside(demand.device),
        };
        ever &= device.memory.total.0 >= demand.device.0;
        if let Some(carve_out) = device.carve_out {
            // One budget: RAM, and the part set aside for the processor.
            host.needs = demand.total();
            host.free = host.free.map(|free| Bytes(free.0.saturating_add(carve_out.available.0)));
            total = total.map(|total| Bytes(total.0.saturating_add(carve_out.total.0)));
            host.margin = margin.beside(host.needs);
        }
    }
    ever &= total.is_none_or(|total| total.0 >= host.needs.0);
    let fits = on_device.missing().0 == 0 && host.missing().0 == 0;
    let gpu = device.map(|device| device.id.clone());
    Fit { fits, ever, gpu, device: on_device, host, why: String::new() }
}

/// One line: each pool's need and what is free, promised and held there.
fn reason(pools: &Pools, claims: &[Claim], device: Option<&Device>, on_device: &Need, host: &Need) -> String {
    let mut parts = Vec::new();
    if let Some(device) = device {
        parts.push(one_pool(on_device, &device.name));
    }
    let shared = device.is_some_and(|device| device.carve_out.is_some());
    let pool = if shared { "RAM and graphics memory together" } else { "RAM" };
    if host.needs.0 > 0 {
        parts.push(one_pool(host, pool));
    }
    let mut text = if parts.is_empty() { "needs nothing".to_owned() } else { parts.join("; ") };

    let mut holders: Vec<(String, Bytes)> = claims
        .iter()
        .map(|claim| {
            let promised = if claim.promised { ", promised" } else { "" };
            let bytes = Bytes(claim.on_device.0.saturating_add(claim.on_host.0));
            (format!("{}{promised}", claim.who), bytes)
        })
        .filter(|(_, bytes)| bytes.0 > 0)
        .collect();
    // A process that is ours is among the claims under its model's name; the largest of both lists are told.
    if let Some(device) = device {
        holders.extend(device.holders.iter().cloned());
    }
    holders.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    if !holders.is_empty() {
        let named: Vec<String> =
            holders.iter().take(NAMED).map(|(who, bytes)| format!("{who} {bytes}")).collect();
        let _ = write!(text, "; held by {}", named.join(", "));
        if holders.len() > NAMED {
            let _ = write!(text, " and {} more", holders.len() - NAMED);
        }
    }
    if device.is_none() {
        for note in &pools.notes {
            let _ = write!(text, "; {note}");
        }
    }
    text
}

fn one_pool(need: &Need, pool: &str) -> String {
    let Some(free) = need.free else {
        return format!("needs {} of {pool}, what is free there is not known", need.needs);
    };
    let mut text = format!("needs {} of {pool} and {} beside it, {free} are free", need.needs, need.margin);
    if need.reserved.0 > 0 {
        let _ = write!(text, ", {} of them promised", need.reserved);
    }
    let missing = need.missing();
    if missing.0 > 0 {
        let _ = write!(text, ": {missing} too few");
    }
    text
}

#[cfg(test)]
#[path = "fit/tests.rs"]
mod tests;
