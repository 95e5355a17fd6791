//! A critic of plans that shares no arithmetic with the planner: it adds up anew, from the machines' own pools and the
//! models' own headers, and reads the wishes on its own. What it finds is a fault of the planner, and such a plan is not
//! followed.

use crate::fit::{Margin, Offload};
use crate::id::{MachineId, ModelId};
use crate::memory::{CpuMoe, GpuLayers, Options, footprint};
use crate::placement::{Body, Change, Placed, Plan, Serves, Site, Stage, Standing, World};
use crate::strategy::Wishes;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes by which a sum of figures that were scaled to measured ones may differ.
const ROUNDING: u64 = 4096;

/// Everything that is wrong with `plan`, in words with numbers; empty = it can be followed.
#[must_use]
pub fn faults(plan: &Plan, world: &World, wishes: &Wishes) -> Vec<String> {
    let mut faults = Vec::new();
    let sites: BTreeMap<&MachineId, &Site> = world.sites.iter().map(|site| (&site.machine, site)).collect();
    let mut seen: BTreeSet<(&MachineId, &ModelId)> = BTreeSet::new();
    for placed in &plan.placed {
        let place = format!("{} on {}", placed.model, placed.machine);
        if !seen.insert((&placed.machine, &placed.model)) {
            faults.push(format!("{place} is placed twice"));
        }
        match sites.get(&placed.machine) {
            None => faults.push(format!("{place}: there is no such machine")),
            Some(site) => {
                faults.extend(
                    of_place(placed, site, world).into_iter().map(|fault| format!("{place}: {fault}")),
                );
            }
        }
        for serves in &placed.serves {
            faults.extend(of_service(placed, serves, sites.get(&placed.machine), wishes));
        }
    }
    for site in &world.sites {
        faults.extend(of_pools(plan, site));
    }
    faults.extend(of_wishes(plan, world, wishes));
    faults
}

/// One placement against its machine.
fn of_place(placed: &Placed, site: &Site, world: &World) -> Vec<String> {
    let mut faults = Vec::new();
    let held = site.held(&placed.model);
    match (&site.standing, &placed.stage) {
        (Standing::Closed(why), stage) if *stage != Stage::Fixed => {
            faults.push(format!("nothing may be there: {why}"));
        }
        (Standing::Holds(why), Stage::OnDisk | Stage::Fetch | Stage::Resize) => {
            faults.push(format!("nothing new may come there: {why}"));
        }
        _ => {}
    }
    if matches!(placed.stage, Stage::Resident | Stage::Fixed | Stage::Resize) != held.is_some() {
        faults.push(format!("it is planned as {:?}, and the machine says otherwise", placed.stage));
    }
    if placed.stage == Stage::OnDisk && !site.stored.contains_key(&placed.model) {
        faults.push("its file is not there".into());
    }
    if let (Stage::Resident, Some(held)) = (&placed.stage, held) {
        if held.context.is_some_and(|context| placed.context != Some(context))
            || held.slots.is_some_and(|slots| placed.slots != slots)
            || held.cache.is_some_and(|cache| placed.cache != cache)
        {
            faults.push("it is planned to stay as it is, in a size that it has not".into());
        }
        let planned = (placed.needs.device, placed.needs.host);
        if let Some(memory) = held.memory.filter(|memory| (memory.device, memory.host) != planned) {
            faults.push(format!(
                "it is planned with {} and {} of RAM, it holds {} and {}",
                planned.0, planned.1, memory.device, memory.host
            ));
        }
    }
    if let Some(gpu) = &placed.gpu
        && !site.pools.devices.iter().any(|device| device.id == *gpu)
    {
        faults.push(format!("the machine has no graphics processor {gpu}"));
    }
    let known = world.catalogue.get(&placed.model);
    if let (Some(context), Some(trained)) = (placed.context, known.and_then(|known| known.trained_context))
        && held.is_none()
        && context > trained
    {
        faults.push(format!("a context of {context} tokens, and it was trained for {trained}"));
    }
    // What nobody measured must be what the header says.
    let is_new = matches!(placed.stage, Stage::OnDisk | Stage::Fetch | Stage::Resize);
    let is_measured = placed.confidence() == crate::memory::Confidence::Measured;
    if let (true, false, Some(Body::Shape(shape)), Some(context)) =
        (is_new, is_measured, known.map(|known| &known.body), placed.context)
    {
        let (gpu_layers, cpu_moe) = match placed.offload {
            Offload::Full => (GpuLayers::All, CpuMoe::None),
            Offload::ExpertsOfFirst(count) => (GpuLayers::All, CpuMoe::First(count)),
            Offload::Layers(count) => (GpuLayers::Last(count), CpuMoe::None),
            Offload::None => (GpuLayers::None, CpuMoe::None),
        };
        let options = Options {
            cache_k: placed.cache,
            cache_v: placed.cache,
            gpu_layers,
            cpu_moe,
            projector: known.and_then(|known| known.projector),
            ..Options::launched(u64::from(context), placed.slots)
        };
        let needs = footprint(shape, &options);
        let (device, host) = (needs.device.total(), needs.host.total());
        if (device, host) != (placed.needs.device, placed.needs.host) {
            faults.push(format!(
                "it is planned with {} and {} of RAM, its header says {device} and {host}",
                placed.needs.device, placed.needs.host
            ));
        }
    }
    faults
}

/// One mode of one placement against the mode's wish.
fn of_service(placed: &Placed, serves: &Serves, site: Option<&&Site>, wishes: &Wishes) -> Vec<String> {
    let mode = &serves.mode;
    let Some(wish) = wishes.modes.iter().find(|wish| wish.mode == *mode) else {
        return vec![format!("{} serves {mode}, which is no mode", placed.model)];
    };
    let mut faults = Vec::new();
    if !wish.models.is_empty() && !wish.models.contains(&placed.model) {
        faults.push(format!("{mode} does not list {}", placed.model));
    }
    if !wish.machines.is_empty() && !wish.machines.contains(&placed.machine) {
        faults.push(format!("{mode} may not be on {}", placed.machine));
    }
    if site.is_some_and(|site| !wish.labels.is_subset(&site.labels)) {
        faults.push(format!("{mode} asks for labels that {} lacks", placed.machine));
    }
    if placed.context.is_some_and(|context| context < wish.least_context) {
        faults.push(format!("{mode} needs {} tokens, {} has fewer", wish.least_context, placed.model));
    }
    // What is not the mesh's to change is taken as it is, for one copy.
    let is_taken = placed.stage == Stage::Fixed;
    let slots = wish.slots.saturating_mul(serves.copies);
    if placed.slots < slots && !(is_taken && serves.copies == 1) {
        faults.push(format!("{mode} needs {slots} slots, {} has {}", placed.model, placed.slots));
    }
    if !is_taken && !wish.cache_types.contains(&placed.cache) {
        faults.push(format!("{mode} allows no cache of {}, which {} has", placed.cache.word(), placed.model));
    }
    faults
}

/// The sums of one machine against its pools, beside what is not the mesh's.
fn of_pools(plan: &Plan, site: &Site) -> Vec<String> {
    let mut faults = Vec::new();
    let here = || plan.on(&site.machine).filter(|placed| placed.stage != Stage::Fixed);
    // A model whose memory nobody knows was not counted as free either.
    let counted = |placed: &&Placed| {
        let held = site.held(&placed.model);
        placed.stage != Stage::Resident || held.is_some_and(|held| held.memory.is_some())
    };
    let is_new = |placed: &&Placed| placed.stage != Stage::Resident;
    let mut on_host = 0_u64;
    let mut host_margin = 0_u64;
    let margin = |margin: Margin, bytes: u64| margin.beside(crate::units::Bytes(bytes)).0;
    let mut carve_out = 0_u64;
    for device in &site.pools.devices {
        let on_it = |placed: &&Placed| placed.gpu.as_ref() == Some(&device.id);
        let used: u64 = here().filter(counted).filter(on_it).map(|placed| placed.needs.device.0).sum();
        let news =
            here().filter(is_new).filter(on_it).map(|placed| margin(site.margin, placed.needs.device.0));
        let beside = news.max().unwrap_or(0);
        let free = device.memory.available.0;
        // What is there already is a fact: a reserve that was raised since is no fault of the plan.
        let has_new = here().filter(is_new).any(|placed| on_it(&placed));
        if has_new && used.saturating_add(beside) > free.saturating_add(ROUNDING) {
            faults.push(format!(
                "{}: {used} bytes and {beside} beside them on {}, which has {free}",
                site.machine, device.name
            ));
        }
        if let Some(part) = device.carve_out {
            carve_out = carve_out.saturating_add(part.available.0);
            on_host = on_host.saturating_add(used);
        }
    }
    for placed in here().filter(counted) {
        let shares = site
            .pools
            .devices
            .iter()
            .any(|device| device.carve_out.is_some() && placed.gpu.as_ref() == Some(&device.id));
        let loose = if placed.gpu.is_none() { placed.needs.device.0 } else { 0 };
        on_host = on_host.saturating_add(placed.needs.host.0).saturating_add(loose);
        if placed.stage != Stage::Resident {
            let shared = if shares { placed.needs.device.0 } else { loose };
            host_margin = host_margin.max(margin(site.margin, placed.needs.host.0.saturating_add(shared)));
        }
    }
    if let Some(ram) = site.pools.ram.known() {
        let free = ram.available.0.saturating_add(carve_out);
        if on_host.saturating_add(host_margin) > free.saturating_add(ROUNDING)
            && here().any(|one| is_new(&one))
        {
            faults.push(format!(
                "{}: {on_host} bytes and {host_margin} beside them in RAM, which has {free}",
                site.machine
            ));
        }
    }
    faults
}

/// The plan against the wishes as a whole.
fn of_wishes(plan: &Plan, world: &World, wishes: &Wishes) -> Vec<String> {
    let mut faults = Vec::new();
    if plan.problems.iter().any(|problem| problem.fatal) {
        return faults;
    }
    for wish in &wishes.modes {
        let served: u32 = plan
            .placed
            .iter()
            .flat_map(|placed| &placed.serves)
            .filter(|serves| serves.mode == wish.mode)
            .map(|serves| serves.copies)
            .sum();
        let told = plan.unplaced.iter().find(|unplaced| unplaced.mode == wish.mode);
        let missing = told.map_or(0, |unplaced| unplaced.copies);
        let is_asked_for = wish.residency != crate::strategy::Residency::OnDemand;
        if is_asked_for && served + missing != wish.copies {
            faults.push(format!(
                "{} wants {} copies, {served} are placed and {missing} are told as missing",
                wish.mode, wish.copies
            ));
        }
        if told.is_some_and(|unplaced| unplaced.obstacles.is_empty() && unplaced.would_help.is_empty()) {
            faults.push(format!("{} is not placed, and nothing says why", wish.mode));
        }
    }
    for pin in &wishes.pins {
        let site = world.sites.iter().find(|site| site.machine == pin.machine);
        let is_there = site.is_some_and(|site| site.held(&pin.model).is_some_and(|held| !held.fixed));
        let is_closed = site.is_some_and(|site| matches!(site.standing, Standing::Closed(_)));
        if is_there && !is_closed && plan.find(&pin.machine, &pin.model).is_none() {
            faults.push(format!("{} is pinned to {} and would be unloaded", pin.model, pin.machine));
        }
    }
    for change in &plan.changes {
        if let Change::Unload { model, machine, .. } = change
            && plan.find(machine, model).is_some()
        {
            faults.push(format!("{model} is unloaded from {machine} and placed there"));
        }
    }
    faults
}

#[cfg(test)]
mod tests;
