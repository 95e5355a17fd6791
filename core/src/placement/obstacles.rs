//! What is not placed: why, for each model and machine, and what would make it possible.

use super::catalogue::{KnownModel, Size};
use super::offers::{MOST_COPIES, Offers, largest_pool};
use super::site::{CORDONED, DRAINED, OFFLINE};
use super::small::{Solution, Take};
use super::{Obstacle, Plan, Site, Standing, Unplaced, World};
use crate::fit::Pools;
use crate::id::{MachineId, ModelId};
use crate::machine::Reading;
use crate::memory::CacheType;
use crate::strategy::{Residency, Wish, Wishes};
use crate::units::Bytes;
use std::collections::BTreeMap;

/// Obstacles that are told of one mode: ten machines with three models each. In a large mesh the rest says the same.
const TOLD: usize = 32;
/// Models of a mode for which help is looked for.
const HELPED: usize = 2;
/// Modes for which it is: more than a home has.
const HELPED_MODES: usize = 32;
/// Contexts that are proposed, longest first.
const CONTEXTS: [u32; 7] = [131_072, 65_536, 32_768, 16_384, 8192, 4096, 2048];

/// All modes that do not get what they want.
pub(super) fn unplaced(
    world: &World,
    wishes: &Wishes,
    offers: &Offers,
    solution: &Solution,
    plan: &Plan,
) -> Vec<Unplaced> {
    let mut used = vec![0_u64; offers.small.pools.len()];
    for take in solution.chosen.iter().flat_map(|&option| &offers.small.options[option].takes) {
        used[take.pool] = used[take.pool].saturating_add(take.bytes);
    }
    let look = Look { world, offers, plan, used };
    let mut unplaced = Vec::new();
    let mut tell = |number: usize, task: Option<usize>, copies: u32| {
        let one = look.one(number, &wishes.modes[number], task, copies, unplaced.len() < HELPED_MODES);
        unplaced.push(one);
    };
    for (task, &number) in offers.tasks.iter().enumerate() {
        let served: u32 = solution.served[task].iter().map(|(_, copies)| copies).sum();
        let missing = wishes.modes[number].copies.saturating_sub(served);
        if missing > 0 {
            tell(number, Some(task), missing);
        }
    }
    for (number, wish) in wishes.modes.iter().enumerate() {
        let is_placeless = plan.on_demand.iter().any(|mode| mode.mode == wish.mode && mode.place.is_none());
        if wish.residency == Residency::OnDemand && is_placeless {
            tell(number, None, 1);
        }
    }
    unplaced
}

/// What the reasons are read from.
struct Look<'a> {
    world: &'a World,
    offers: &'a Offers,
    plan: &'a Plan,
    /// Bytes taken of each pool.
    used: Vec<u64>,
}

impl Look<'_> {
    fn one(&self, number: usize, wish: &Wish, task: Option<usize>, copies: u32, with_help: bool) -> Unplaced {
        let (world, plan) = (self.world, self.plan);
        let models = self.offers.models[number].clone();
        let rank = |model: &ModelId| models.iter().position(|one| one == model).unwrap_or(models.len());
        let mut obstacles: Vec<(usize, Obstacle)> = Vec::new();
        for ((wish, model, machine), why) in &self.offers.rejected {
            if *wish == number {
                let (model, machine, why) = (model.clone(), machine.clone(), why.clone());
                obstacles.push((rank(&model), Obstacle { model, machine, why }));
            }
        }
        for option in task.map(|task| self.smallest(task)).unwrap_or_default() {
            let offer = &self.offers.offers[option];
            let (model, machine) = (offer.model.clone(), world.sites[offer.site].machine.clone());
            let why = self.crowded(wish, option);
            obstacles.push((rank(&model), Obstacle { model, machine, why }));
        }
        obstacles.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| one.machine.cmp(&other.machine)));
        let obstacles = obstacles.into_iter().take(TOLD).map(|(_, obstacle)| obstacle).collect();
        let mut would_help = Vec::new();
        if models.is_empty() {
            would_help.push(
                "give a machine a model that this mode can use: meshctl model pull MODEL --node NODE".into(),
            );
        }
        for model in models.iter().take(if with_help { HELPED } else { 0 }) {
            match world.catalogue.get(model) {
                Some(known) => help(world, wish, model, known, plan, &mut would_help),
                None => would_help.push(format!(
                    "nobody has `{model}`: meshctl model pull {model} --node NODE --url URL, or write its `size` \
                     under [models.\"{model}\"] so that it can be planned"
                )),
            }
        }
        if would_help.is_empty() && with_help && copies < wish.copies {
            would_help.extend(models.first().map(|model| fewer(wish, model, wish.copies - copies)));
        }
        if would_help.is_empty() && with_help {
            let least = wish.least_context;
            would_help.push(format!(
                "a model with a context of {least} tokens that a machine can hold, or less of it"
            ));
        }
        let impossible = with_help && is_impossible(world, wish, &models);
        Unplaced { mode: wish.mode.clone(), copies, models, obstacles, impossible, would_help }
    }

    /// Of each machine and model that could serve `task` the option that needs the least: the one that could still have
    /// come.
    fn smallest(&self, task: usize) -> Vec<usize> {
        let mut smallest: BTreeMap<usize, usize> = BTreeMap::new();
        let needs = |option: usize| self.offers.offers[option].needs.total();
        for one in &self.offers.small.tasks[task].uses {
            let group = self.offers.small.options[one.option].group;
            let least = smallest.entry(group).or_insert(one.option);
            if needs(one.option) < needs(*least) {
                *least = one.option;
            }
        }
        smallest.into_values().collect()
    }

    /// Why a model that the machine could hold is not there: others have its memory.
    fn crowded(&self, wish: &Wish, option: usize) -> String {
        let offer = &self.offers.offers[option];
        let machine = &self.world.sites[offer.site].machine;
        if let Some(placed) = self.plan.find(machine, &offer.model) {
            let of_mode = placed.serves.iter().find(|serves| serves.mode == wish.mode);
            if let Some(most) = of_mode.map(|serves| serves.copies).filter(|copies| *copies >= MOST_COPIES) {
                return format!("it is there with {most} copies, the most that one process has");
            }
            return "it is there, and its slots are taken by other copies".into();
        }
        let short = |take: &Take| {
            let left = self.offers.small.pools[take.pool].saturating_sub(self.used[take.pool]);
            let wanted = take.bytes.saturating_add(take.margin);
            (wanted.saturating_sub(left), wanted, left, take.pool)
        };
        let takes = self.offers.small.options[option].takes.iter().map(short);
        match takes.max_by_key(|(missing, ..)| *missing) {
            Some((missing, wanted, left, pool)) if missing > 0 => {
                let holders: Vec<String> = self
                    .plan
                    .on(machine)
                    .map(|placed| format!("{} {}", placed.model, placed.needs.total()))
                    .collect();
                format!(
                    "needs {} of {} at its smallest ({} tokens), {} are left beside {}",
                    Bytes(wanted),
                    self.offers.pools[pool].1,
                    offer.size.context,
                    Bytes(left),
                    if holders.is_empty() { "what else runs there".to_owned() } else { holders.join(", ") }
                )
            }
            Some(_) | None => "it would fit, and is worth less there than what it costs".into(),
        }
    }
}

/// Whether no machine that the mode allows could hold any of its models that are known, were it empty.
fn is_impossible(world: &World, wish: &Wish, models: &[ModelId]) -> bool {
    let known: Vec<&KnownModel> = models.iter().filter_map(|model| world.catalogue.get(model)).collect();
    let mut sites = world.sites.iter().filter(|site| is_allowed(wish, site)).peekable();
    let is_asked = !known.is_empty() && sites.peek().is_some();
    let fits = |site: &Site, known: &KnownModel| {
        let context = wish.least_context.min(known.trained_context.unwrap_or(u32::MAX));
        let empty = emptied(&site.pools);
        wish.cache_types.iter().any(|&cache| {
            let size = Size { context, slots: wish.slots.max(1), cache };
            known.way(size, &empty, site.margin).0.fit.fits
        })
    };
    // A few machines of a large mesh stand for the others: those with the most room.
    let mut largest: Vec<&Site> = sites.collect();
    largest.sort_by_key(|site| std::cmp::Reverse(largest_pool(site)));
    is_asked && !largest.iter().take(TOLD).any(|site| known.iter().any(|known| fits(site, known)))
}

fn is_allowed(wish: &Wish, site: &Site) -> bool {
    (wish.machines.is_empty() || wish.machines.contains(&site.machine))
        && wish.labels.is_subset(&site.labels)
        && site.launches
}

/// The pools were nothing else running there, the human's reserve released.
fn emptied(pools: &Pools) -> Pools {
    let mut pools = pools.clone();
    let all = |capacity: &mut crate::machine::Capacity| capacity.available = capacity.total;
    for device in &mut pools.devices {
        all(&mut device.memory);
        device.carve_out.iter_mut().for_each(all);
    }
    if let Reading::Known(ram) = &mut pools.ram {
        all(ram);
    }
    pools
}

/// The pools beside all that is planned there.
fn after(site: &Site, plan: &Plan) -> Pools {
    let mut pools = site.pools.clone();
    let Some(machine) = plan.machines.iter().find(|machine| machine.machine == site.machine) else {
        return pools;
    };
    for (device, pool) in pools.devices.iter_mut().zip(&machine.pools) {
        device.memory.available = pool.free.unwrap_or(device.memory.available);
        // Shared memory is one budget: it is counted as RAM.
        device.carve_out.iter_mut().for_each(|part| part.available = Bytes(0));
    }
    if let (Reading::Known(ram), Some(pool)) = (&mut pools.ram, machine.pools.last()) {
        ram.available = pool.free.unwrap_or(ram.available);
    }
    pools
}

/// Without which of those that are planned there `model` would fit: any one of some, else all of them.
fn without(plan: &Plan, site: &Site, model: &ModelId, fits: impl Fn(&Pools) -> bool) -> Option<String> {
    let beside = after(site, plan);
    let others: Vec<_> = plan
        .on(&site.machine)
        .filter(|placed| placed.model != *model && placed.stage != super::Stage::Fixed)
        .collect();
    let enough = |placed: &&&super::Placed| {
        let mut pools = beside.clone();
        let shares = pools.devices.iter().any(|device| device.carve_out.is_some());
        for device in pools.devices.iter_mut().filter(|device| placed.gpu.as_ref() == Some(&device.id)) {
            device.memory.available.0 += placed.needs.device.0;
        }
        if let Reading::Known(ram) = &mut pools.ram {
            let both = if shares { placed.needs.total().0 } else { placed.needs.host.0 };
            ram.available.0 += both;
        }
        fits(&pools)
    };
    let named = |placed: &&super::Placed| format!("{} ({})", placed.model, placed.needs.total());
    let any: Vec<String> = others.iter().filter(enough).map(named).collect();
    let all: Vec<String> = others.iter().map(named).collect();
    let machine = &site.machine;
    match (any.is_empty(), all.is_empty()) {
        (_, true) => None,
        (false, _) => Some(format!("{model} fits on {machine} without {}", any.join(" or "))),
        (true, false) => Some(format!("{model} fits on {machine} without {}", all.join(" and "))),
    }
}

/// Two models of a mode may lack the same.
fn told_once(would_help: &mut Vec<String>, text: String) {
    if !would_help.contains(&text) {
        would_help.push(text);
    }
}

/// What a person can do about a machine that is not used.
fn remedy(machine: &MachineId, why: &str) -> String {
    match why {
        DRAINED | CORDONED => format!("; use it again: meshctl node resume {machine}"),
        OFFLINE => "; start it, or its agent: mesh-agent run".to_owned(),
        _ => String::new(),
    }
}

/// More room for copies, or so many as there are.
fn fewer(wish: &Wish, model: &ModelId, placed: u32) -> String {
    let most = if placed >= MOST_COPIES {
        format!(" (one process has at most {MOST_COPIES} copies as its slots)")
    } else {
        String::new()
    };
    format!("another machine that can hold {model}{most}, or copies={placed} for the mode {}", wish.mode)
}

/// Why no machine can be thought of.
fn nowhere(world: &World, wish: &Wish) -> String {
    let mode = &wish.mode;
    let is_named = |site: &&Site| wish.machines.is_empty() || wish.machines.contains(&site.machine);
    let mut named = world.sites.iter().filter(is_named).peekable();
    if world.sites.is_empty() {
        return "a machine: meshctl token create --role node".to_owned();
    }
    if named.peek().is_none() {
        let names: Vec<&str> = wish.machines.iter().map(|machine| machine.as_str()).collect();
        return format!("the mode {mode} may only be on {}, and no such machine is here", names.join(", "));
    }
    if !named.any(|site| wish.labels.is_subset(&site.labels)) {
        let labels: Vec<&str> = wish.labels.iter().map(String::as_str).collect();
        return format!(
            "no machine that the mode {mode} allows has the label {}: give it to one (`labels` under [machines.NAME] \
             in router.toml), or take it from the mode (labels=)",
            labels.join(" and ")
        );
    }
    format!("no machine that the mode {mode} allows can load models")
}

/// What would bring `model` onto a machine: one that has room beside the plan, else the largest.
fn help(
    world: &World,
    wish: &Wish,
    model: &ModelId,
    known: &KnownModel,
    plan: &Plan,
    would_help: &mut Vec<String>,
) {
    let least = wish.least_context.min(known.trained_context.unwrap_or(u32::MAX));
    let cache = wish.cache_types.first().copied().unwrap_or_default();
    let fits = |context: u32, cache: CacheType, pools: &Pools, site: &Site| {
        let size = Size { context, slots: wish.slots.max(1), cache };
        known.way(size, pools, site.margin).0.fit
    };
    let has_room =
        |site: &Site| site.standing == Standing::Open && fits(least, cache, &after(site, plan), site).fits;
    let mut sites: Vec<&Site> = world.sites.iter().filter(|site| is_allowed(wish, site)).collect();
    sites.sort_by_key(|site| (std::cmp::Reverse(largest_pool(site)), &site.machine));
    sites.truncate(TOLD);
    let has_it = |site: &&&Site| site.stored.contains_key(model) || site.held(model).is_some();
    let is_open_somewhere = sites.iter().filter(has_it).any(|site| site.standing == Standing::Open);
    let closed = sites.iter().filter(has_it).find_map(|site| match &site.standing {
        Standing::Closed(why) | Standing::Holds(why) => Some((&site.machine, why)),
        Standing::Open => None,
    });
    let closed = closed.filter(|_| !is_open_somewhere);
    let roomy = sites.iter().find(|site| has_room(site));
    let Some(site) = roomy.or(sites.first()).copied() else {
        told_once(would_help, nowhere(world, wish));
        return;
    };
    if let Some((machine, why)) = closed.filter(|(machine, _)| **machine != site.machine) {
        // Nearer than to bring the file elsewhere.
        let text = format!("{machine} has {model} and is not used: {why}{}", remedy(machine, why));
        told_once(would_help, text);
    }
    if let Standing::Closed(why) | Standing::Holds(why) = &site.standing {
        told_once(would_help, format!("{} is not used: {why}{}", site.machine, remedy(&site.machine, why)));
        return;
    }
    let fits = |context: u32, cache: CacheType, pools: &Pools| fits(context, cache, pools, site);
    let machine = &site.machine;
    if fits(least, cache, &site.pools).fits {
        if roomy.is_none() {
            would_help.extend(without(plan, site, model, |pools| fits(least, cache, pools).fits));
        }
        if !site.stored.contains_key(model) {
            would_help.push(format!(
                "bring the file of {model} there: meshctl model pull {model} --node {machine}"
            ));
        }
        return;
    }
    if let Some(context) =
        CONTEXTS.into_iter().filter(|context| *context < least).find(|c| fits(*c, cache, &site.pools).fits)
    {
        would_help.push(format!(
            "{model} fits on {machine} with a context of {context} tokens (least_context is {})",
            wish.least_context
        ));
    }
    let small = CacheType::Q8_0;
    if !wish.cache_types.contains(&small) && fits(least, small, &site.pools).fits {
        would_help
            .push(format!("{model} fits on {machine} with a q8_0 cache: cache_types = [\"f16\", \"q8_0\"]"));
    }
    let empty = fits(least, cache, &emptied(&site.pools));
    if empty.fits {
        let (ram, vram) = site.reserved;
        let reserve = if ram.0 + vram.0 > 0 {
            format!("the reserve ({ram} of RAM, {vram} of graphics memory) and ")
        } else {
            String::new()
        };
        would_help
            .push(format!("{model} fits on {machine} once {reserve}what other programs hold there is free"));
    }
    let now = fits(least, cache, &site.pools);
    let missing = now.device.missing().0.max(now.host.missing().0);
    let needed = known.size.0.saturating_sub(missing);
    // A quantisation below a quarter of the file would be another model.
    if missing > 0 && needed > known.size.0 / 4 {
        would_help.push(format!(
            "a smaller quantisation of {model}: its file may have at most {}, this one has {}",
            Bytes(needed),
            known.size
        ));
    }
    if !empty.fits {
        let wanted = now.device.needs.0.max(now.host.needs.0);
        would_help.push(format!(
            "a machine that gives {model} at least {}; {machine} is the largest with {}",
            Bytes(wanted.saturating_add(site.margin.beside(Bytes(wanted)).0)),
            Bytes(largest_pool(site))
        ));
    }
}
