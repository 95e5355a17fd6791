//! A request wants a model that is on disk and nowhere in memory: where is it loaded, and what leaves for it?
//!
//! Another machine comes before a swap. Where a swap is needed, that leaves which is least likely to be asked for again
//! for what it takes to bring it back: p(reuse in 30 min) · load seconds / bytes. Never what is busy, pinned, or has just
//! come; so two models that are asked for in turn do not push each other out with each request: the other's requests
//! wait together until its turn has come.

use crate::fit::Pools;
use crate::fleet::MachineView;
use crate::id::{MachineId, ModelId};
use crate::machine::{LoadWish, Reading};
use crate::memory::CacheType;
use crate::placement::{Held, KnownModel, Site, Size, Standing, World};
use crate::strategy::{Pin, Residency, Wishes};
use crate::units::{Bytes, Moment};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// How far ahead a reuse counts, and how fast old uses fade.
const AHEAD_S: f64 = 1800.0;
/// A model that came into memory stays at least this long against requests for others.
pub const RESIDENCE: Duration = Duration::from_secs(120);
/// The least probability of a reuse that a swap is counted with: what nobody has asked for since the router started may
/// still be somebody's.
const LEAST_AGAIN: f64 = 0.2;
/// The shortest context that is taken before another machine is looked at.
const SHORTEST_CONTEXT: u32 = 4096;

/// How often something was used of late: a count in which old uses fade.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Uses {
    count: f64,
    at: Moment,
}

impl Uses {
    /// It was used.
    pub fn note(&mut self, now: Moment) {
        self.count = self.faded(now) + 1.0;
        self.at = now;
    }

    /// The probability that it is used within the next 30 minutes, if uses come as they came: 1 − e^−n.
    #[must_use]
    pub fn again(&self, now: Moment) -> f64 {
        1.0 - (-self.faded(now)).exp()
    }

    /// How long it has not been used; `None` = never, as far as is known.
    #[must_use]
    pub fn idle(&self, now: Moment) -> Option<Duration> {
        (self.count > 0.0).then(|| now.since(self.at))
    }

    fn faded(&self, now: Moment) -> f64 {
        self.count * (-now.since(self.at).as_secs_f64() / AHEAD_S).exp()
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Tokens of one request that are wanted; fewer will do where the memory is short.
    pub context: u32,
    /// Fewer than this will not.
    pub least_context: u32,
    /// Requests at once.
    pub slots: u32,
    /// Type of its KV cache.
    pub cache: CacheType,
    /// Others may leave for it. Not for a completion in an editor, which is worth nothing when it is late.
    pub may_evict: bool,
}

/// Where a model is to be loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Loading {
    /// Where.
    pub machine: MachineId,
    /// How.
    pub wish: LoadWish,
    /// What leaves before, with its size.
    pub evict: Vec<(ModelId, Bytes)>,
    /// Seconds until it is there, about.
    pub seconds: f64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Load it.
    Load(Loading),
    /// Nothing may leave for it yet.
    Wait {
        /// When that may change by time alone; `None` = when a request ends.
        until: Option<Moment>,
        /// Why, for each machine.
        why: Vec<(MachineId, String)>,
    },
    /// It fits nowhere.
    Never(Vec<(MachineId, String)>),
}

/// What is known of a model in memory beyond its machine's report.
pub trait Memory {
    /// Requests that the router has on it.
    fn busy(&self, machine: &MachineId, model: &ModelId) -> u32;
    /// How often it was used.
    fn uses(&self, machine: &MachineId, model: &ModelId) -> Uses;
    /// Since when it is in memory; `None` = not known: long ago.
    fn since(&self, machine: &MachineId, model: &ModelId) -> Option<Moment>;
}

/// Where `model` is to be loaded for a request.
#[must_use]
pub fn place(
    world: &World,
    wishes: &Wishes,
    model: &ModelId,
    claim: Claim,
    memory: &dyn Memory,
    now: Moment,
) -> Answer {
    let Some(known) = world.catalogue.get(model) else {
        return Answer::Never(Vec::new());
    };
    let firm = firm(wishes);
    let mut best: Option<((bool, f64), Loading)> = None;
    let (mut waits, mut never): (Vec<(MachineId, String)>, _) = (Vec::new(), Vec::new());
    let mut until: Option<Moment> = None;
    for site in world.sites.iter().filter(|site| site.stored.contains_key(model)) {
        let stays = |held: &Held| {
            let pin = Pin { model: held.model.clone(), machine: site.machine.clone() };
            let by_person = wishes.pins.contains(&pin);
            by_person.then_some("pinned by a person").or(firm.contains(&held.model).then_some("pinned"))
        };
        match on_site(site, model, known, claim, &stays, memory, now) {
            OnSite::Load(loss, loading) => {
                // Another machine comes before a swap, which costs what it takes to undo it, too.
                let cost = (!loading.evict.is_empty(), loading.seconds + loss);
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, loading));
                }
            }
            OnSite::Wait(at, why) => {
                until = [until, at].into_iter().flatten().min();
                waits.push((site.machine.clone(), why));
            }
            OnSite::Never(why) => never.push((site.machine.clone(), why)),
        }
    }
    match best {
        Some((_, loading)) => Answer::Load(loading),
        None if waits.is_empty() => Answer::Never(never),
        None => {
            waits.extend(never);
            Answer::Wait { until, why: waits }
        }
    }
}

enum OnSite {
    /// With the seconds that what leaves is likely to cost.
    Load(f64, Loading),
    Wait(Option<Moment>, String),
    Never(String),
}

/// Models that pinned modes list: no request drives them out.
fn firm(wishes: &Wishes) -> BTreeSet<&ModelId> {
    let pinned = wishes.modes.iter().filter(|wish| wish.residency == Residency::Pinned);
    pinned.flat_map(|wish| &wish.models).collect()
}

fn on_site(
    site: &Site,
    model: &ModelId,
    known: &KnownModel,
    claim: Claim,
    stays_for: &dyn Fn(&Held) -> Option<&'static str>,
    memory: &dyn Memory,
    now: Moment,
) -> OnSite {
    match &site.standing {
        Standing::Open => {}
        Standing::Holds(why) | Standing::Closed(why) => return OnSite::Never(why.clone()),
    }
    if let Some(why) = site.stored.get(model).and_then(|stored| stored.broken.as_ref()) {
        return OnSite::Never(format!("its file there cannot be loaded: {why}"));
    }
    let seconds = site.load_seconds(model, known.size);
    let fitting = |pools: &Pools| {
        let trained = known.trained_context.unwrap_or(u32::MAX);
        let mut context = claim.context.min(trained);
        loop {
            let size = Size { context, slots: claim.slots.max(1), cache: claim.cache };
            let fit = known.way(size, pools, site.margin).0.fit;
            if fit.fits || context / 2 < claim.least_context.max(SHORTEST_CONTEXT) {
                return (fit, context);
            }
            context /= 2;
        }
    };
    let loading = |context: u32, evict: Vec<(ModelId, Bytes)>| Loading {
        machine: site.machine.clone(),
        wish: if site.stored.get(model).is_some_and(|stored| stored.can_size) {
            LoadWish {
                context: Some(context),
                slots: Some(claim.slots.max(1)),
                cache_type: Some(claim.cache.word().to_owned()),
                ..LoadWish::from(model.clone())
            }
        } else {
            // Such an engine takes no sizes with a load.
            LoadWish::from(model.clone())
        },
        evict,
        seconds,
    };
    let mine = || site.held.iter().filter(|held| !held.fixed && held.model != *model);
    let (fit, context) = fitting(&taken(&site.pools, mine()));
    if fit.fits {
        return OnSite::Load(0.0, loading(context, Vec::new()));
    }
    let (all, _) = fitting(&site.pools);
    if !all.fits {
        return OnSite::Never(all.why);
    }
    if !claim.may_evict {
        return OnSite::Wait(None, format!("nothing leaves for this mode: {}", fit.why));
    }
    let mut candidates: Vec<(f64, f64, &Held)> = Vec::new();
    let (mut kept, mut until): (Vec<String>, Option<Moment>) = (Vec::new(), None);
    for held in mine() {
        let requests = held.busy.max(memory.busy(&site.machine, &held.model));
        let stays = memory.since(&site.machine, &held.model).map(|since| since.plus(RESIDENCE));
        if let Some(why) = stays_for(held) {
            kept.push(format!("{} is {why}", held.model));
        } else if !held.tells_busy {
            kept.push(format!("its engine does not tell whether {} is in use", held.model));
        } else if requests > 0 {
            kept.push(format!("{} answers {requests} requests", held.model));
        } else if let Some(at) = stays.filter(|at| *at > now) {
            kept.push(format!("{} has just been loaded", held.model));
            until = [until, Some(at)].into_iter().flatten().min();
        } else if let Some(holds) = held.memory {
            let bytes = holds.device.0 + holds.host.0;
            let again = memory.uses(&site.machine, &held.model).again(now).max(LEAST_AGAIN);
            let loss = again * site.load_seconds(&held.model, Bytes(bytes));
            candidates.push((loss / (bytes.max(1) as f64), loss, held));
        }
    }
    candidates.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.2.model.cmp(&b.2.model)));
    let without = |gone: &[(f64, &Held)]| {
        fitting(&taken(
            &site.pools,
            mine().filter(|one| !gone.iter().any(|(_, held)| held.model == one.model)),
        ))
    };
    let mut leaving: Vec<(f64, &Held)> = Vec::new();
    for (_, loss, held) in candidates {
        leaving.push((loss, held));
        if without(&leaving).0.fits {
            break;
        }
    }
    if !without(&leaving).0.fits {
        let why = if kept.is_empty() { fit.why } else { format!("{}; {}", fit.why, kept.join(", ")) };
        return OnSite::Wait(until, why);
    }
    // What turned out not to be needed stays, the dearest first.
    for at in (0..leaving.len()).rev() {
        let mut fewer = leaving.clone();
        fewer.remove(at);
        if without(&fewer).0.fits {
            leaving = fewer;
        }
    }
    let bytes = |held: &Held| held.memory.map_or(Bytes(0), |memory| Bytes(memory.device.0 + memory.host.0));
    let gone = leaving.iter().map(|(_, held)| (held.model.clone(), bytes(held))).collect();
    let context = without(&leaving).1;
    OnSite::Load(leaving.iter().map(|(loss, _)| loss).sum(), loading(context, gone))
}

/// The pools less what these hold.
fn taken<'a>(pools: &Pools, held: impl Iterator<Item = &'a Held>) -> Pools {
    let mut pools = pools.clone();
    for (memory, gpu) in held.filter_map(|held| Some((held.memory?, held.gpu.as_ref()))) {
        let mut in_ram = memory.host.0.saturating_add(memory.device.0);
        if let Some(device) = pools.devices.iter_mut().find(|device| Some(&device.id) == gpu) {
            device.memory.available.0 = device.memory.available.0.saturating_sub(memory.device.0);
            in_ram = match &mut device.carve_out {
                None => memory.host.0,
                Some(carve_out) => {
                    // The part that RAM does not contain is filled first, as `Site::of` frees it.
                    let there = memory.device.0.min(carve_out.available.0);
                    carve_out.available.0 -= there;
                    in_ram - there
                }
            };
        }
        if let Reading::Known(ram) = &mut pools.ram {
            ram.available.0 = ram.available.0.saturating_sub(in_ram);
        }
    }
    pools
}

/// What the fleet knows of a machine's models, for [`Memory`].
#[must_use]
pub fn uses_of(machine: &MachineView, model: &ModelId) -> (Uses, Option<Moment>) {
    machine.history.get(model).map_or((Uses::default(), None), |history| (history.uses, history.loaded_at))
}

#[cfg(test)]
#[path = "eviction/tests.rs"]
mod tests;
