//! From the small problem's answer back to words.

use super::offers::{Offer, Offers};
use super::pace::Pace;
use super::small::Solution;
use super::worth::{is_divided, too_slow};
use super::{Change, MachineAfter, OnDemand, Placed, Plan, PoolAfter, Serves, Site, Stage, Standing, World};
use crate::id::{MachineId, ModelId};
use crate::strategy::{Residency, Wish, WishProblem, Wishes};
use crate::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Names in the wishes that the mesh does not have. They stop nothing: a machine may be off, a model may come.
pub(super) fn unknown_names(world: &World, wishes: &Wishes) -> Vec<WishProblem> {
    let machines: BTreeSet<&MachineId> = world.sites.iter().map(|site| &site.machine).collect();
    let mut problems = Vec::new();
    let mut found = |key: String, message: String| problems.push(WishProblem { key, message, fatal: false });
    for wish in &wishes.modes {
        for machine in wish.machines.iter().filter(|machine| !machines.contains(machine)) {
            found(format!("modes.{}.machines", wish.mode), format!("there is no machine `{machine}`"));
        }
        for model in wish.models.iter().filter(|model| !world.catalogue.contains_key(*model)) {
            found(
                format!("modes.{}.models", wish.mode),
                format!("no machine has `{model}`, and nothing is known of its size"),
            );
        }
    }
    for machine in wishes.machines.keys().filter(|machine| !machines.contains(machine)) {
        found(format!("machines.{machine}"), format!("there is no machine `{machine}`"));
    }
    for (machine, limits) in &wishes.machines {
        let Some(site) = world.sites.iter().find(|site| site.machine == *machine) else { continue };
        if let Some(ram) = site.pools.ram.known()
            && limits.reserve_ram > ram.total
        {
            let message = format!("is {}, more than its RAM of {}", limits.reserve_ram, ram.total);
            found(format!("machines.{machine}.reserve_ram"), message);
        }
        let most = site.pools.devices.iter().map(|device| device.memory.total).max();
        if let Some(most) = most.filter(|most| limits.reserve_vram > *most) {
            let message = format!("is {}, more than its graphics memory of {most}", limits.reserve_vram);
            found(format!("machines.{machine}.reserve_vram"), message);
        }
    }
    for pin in &wishes.pins {
        let site = world.sites.iter().find(|site| site.machine == pin.machine);
        let message = match site {
            None => format!("there is no machine `{}`", pin.machine),
            Some(site) if site.held(&pin.model).is_none() && !site.stored.contains_key(&pin.model) => {
                format!("`{}` has no model `{}`", pin.machine, pin.model)
            }
            Some(site) if site.held(&pin.model).is_none() && !site.is_lost => {
                let (model, machine) = (&pin.model, &pin.machine);
                format!(
                    "`{model}` is on the disk of `{machine}` and not in its memory: it stays there once it is loaded, \
                     meshctl model load {model} --node {machine}"
                )
            }
            Some(_) => continue,
        };
        found(format!("pins.{}", pin.model), message);
    }
    problems
}

/// Everything of the plan but what is not placed.
pub(super) fn translate(world: &World, wishes: &Wishes, offers: &Offers, solution: &Solution) -> Plan {
    let serves = serves(wishes, offers, solution);
    let mut could: BTreeMap<&ModelId, BTreeSet<usize>> = BTreeMap::new();
    for offer in &offers.offers {
        could.entry(&offer.model).or_default().insert(offer.site);
    }
    let mut placed: Vec<Placed> = solution
        .chosen
        .iter()
        .map(|&option| {
            let serves = serves.get(&option).cloned().unwrap_or_default();
            let others = could.get(&offers.offers[option].model).map_or(0, |sites| sites.len() - 1);
            one(world, wishes, offers, option, serves, others)
        })
        .collect();
    placed.sort_by(|a, b| a.machine.cmp(&b.machine).then_with(|| a.model.cmp(&b.model)));
    let mut plan = Plan {
        strategy: wishes.strategy.clone(),
        placed,
        machines: machines(world, offers, solution),
        worth: offers.small.worth(solution),
        ..Plan::default()
    };
    plan.changes = changes(world, &plan);
    plan.on_demand = on_demand(wishes, offers, solution, world, &plan);
    plan
}

fn serves(wishes: &Wishes, offers: &Offers, solution: &Solution) -> BTreeMap<usize, Vec<Serves>> {
    let mut serves: BTreeMap<usize, Vec<Serves>> = BTreeMap::new();
    for (task, served) in solution.served.iter().enumerate() {
        let number = offers.tasks[task];
        let wish = &wishes.modes[number];
        for &(at, copies) in served {
            let option = offers.small.tasks[task].uses[at].option;
            let offer = &offers.offers[option];
            let rank = offers.models[number].iter().position(|model| *model == offer.model).unwrap_or(0);
            serves.entry(option).or_default().push(Serves {
                mode: wish.mode.clone(),
                rank: u32::try_from(rank + 1).unwrap_or(u32::MAX),
                copies,
                tpot_s: offers.paces[option].tpot_s,
                known: offers.paces[option].known,
                short: short(wish, offer, offers.paces[option]),
            });
        }
    }
    serves
}

/// What an offer has less of than the wish.
fn short(wish: &Wish, offer: &Offer, pace: Pace) -> Vec<String> {
    let mut short = Vec::new();
    if offer.size.context < wish.context {
        short.push(format!("context {} instead of {}", offer.size.context, wish.context));
    }
    if let Some(first) = wish.cache_types.first()
        && *first != offer.size.cache
        && !offer.fixed
    {
        short.push(format!("cache {} instead of {}", offer.size.cache.word(), first.word()));
    }
    if is_divided(offer) {
        short.push("a part of it in RAM".into());
    }
    short.extend(too_slow(wish, pace));
    short
}

fn one(
    world: &World,
    wishes: &Wishes,
    offers: &Offers,
    option: usize,
    serves: Vec<Serves>,
    others: usize,
) -> Placed {
    let offer = &offers.offers[option];
    let site = &world.sites[offer.site];
    let group = &offers.small.groups[offers.small.options[option].group];
    let stage = match group.held {
        Some(held) if held == option && offer.fixed => Stage::Fixed,
        Some(held) if held == option => Stage::Resident,
        Some(_) => Stage::Resize,
        None if site.stored.contains_key(&offer.model) => Stage::OnDisk,
        None => Stage::Fetch,
    };
    let pinned = wishes.pins.iter().any(|pin| pin.machine == site.machine && pin.model == offer.model);
    let known = world.catalogue.get(&offer.model);
    Placed {
        machine: site.machine.clone(),
        model: offer.model.clone(),
        context: (!offer.is_guess).then_some(offer.size.context),
        slots: offer.size.slots,
        cache: offer.size.cache,
        offload: offer.offload,
        gpu: offer.gpu.clone(),
        footprint: offer.footprint.clone(),
        needs: offer.needs,
        why: why(&stage, &serves, pinned, others),
        serves,
        stage,
        pinned,
        digest: known.and_then(|known| known.digest.clone()),
        source: known.and_then(|known| known.url.clone()),
    }
}

/// Why here, with how many other machines could hold it.
fn why(stage: &Stage, serves: &[Serves], pinned: bool, others: usize) -> String {
    let place = match stage {
        Stage::Fixed => "its machine's configuration has it there",
        Stage::Resident => "it is there",
        Stage::Resize => "it is there in another size",
        Stage::OnDisk => "its file is there",
        Stage::Fetch => "it fits there best",
    };
    let mut text = place.to_owned();
    if pinned {
        text.push_str(", and pinned");
    }
    if serves.is_empty() {
        text.push_str("; no mode needs it, and it is in nobody's way");
    } else if others == 0 {
        text.push_str("; no other machine could hold it");
    } else {
        text.push_str(&format!("; {others} other machine{} could", if others == 1 { "" } else { "s" }));
    }
    text
}

fn changes(world: &World, plan: &Plan) -> Vec<Change> {
    let mut changes = Vec::new();
    for site in &world.sites {
        let here = || plan.on(&site.machine);
        for held in site.held.iter().filter(|held| !held.fixed) {
            if plan.find(&site.machine, &held.model).is_some() {
                continue;
            }
            let why = match &site.standing {
                Standing::Closed(why) => why.clone(),
                Standing::Open | Standing::Holds(_) => "what is planned there needs its memory".into(),
            };
            changes.push(Change::Unload { model: held.model.clone(), machine: site.machine.clone(), why });
        }
        for placed in here() {
            let (model, machine) = (placed.model.clone(), placed.machine.clone());
            let known = world.catalogue.get(&model);
            let size = known.map_or(Bytes(0), |known| known.size);
            let seconds = load_seconds(site, &model, size);
            match placed.stage {
                Stage::Resident | Stage::Fixed => {}
                Stage::Resize => changes.push(Change::Resize { model, machine }),
                Stage::OnDisk => changes.push(Change::Load { model, machine, seconds }),
                Stage::Fetch => {
                    changes.push(Change::Fetch { model: model.clone(), machine: machine.clone(), size });
                    changes.push(Change::Load { model, machine, seconds });
                }
            }
        }
    }
    changes
}

fn load_seconds(site: &Site, model: &ModelId, size: Bytes) -> u32 {
    let seconds = site.load_seconds(model, size).ceil();
    // Loads are minutes: the cast of a clamped number loses nothing.
    seconds.clamp(1.0, 86_400.0) as u32
}

fn machines(world: &World, offers: &Offers, solution: &Solution) -> Vec<MachineAfter> {
    let mut used = vec![0_u64; offers.small.pools.len()];
    for take in solution.chosen.iter().flat_map(|&option| &offers.small.options[option].takes) {
        used[take.pool] = used[take.pool].saturating_add(take.bytes);
    }
    let mut after: Vec<MachineAfter> = world
        .sites
        .iter()
        .map(|site| MachineAfter {
            machine: site.machine.clone(),
            pools: Vec::new(),
            barred: match &site.standing {
                Standing::Open => String::new(),
                Standing::Holds(why) | Standing::Closed(why) => why.clone(),
            },
        })
        .collect();
    for (number, (site, name)) in offers.pools.iter().enumerate() {
        let known = Some(offers.small.pools[number]).filter(|capacity| *capacity < u64::MAX / 2);
        let is_device = world.sites[*site].pools.devices.iter().any(|device| device.name == *name);
        let (ram, vram) = world.sites[*site].reserved;
        after[*site].pools.push(PoolAfter {
            name: name.clone(),
            capacity: known.map(Bytes),
            used: Bytes(used[number]),
            free: known.map(|capacity| Bytes(capacity.saturating_sub(used[number]))),
            reserved: if is_device { vram } else { ram },
        });
    }
    after
}

/// Where the models of modes without residence would go when they are asked for.
fn on_demand(
    wishes: &Wishes,
    offers: &Offers,
    solution: &Solution,
    world: &World,
    plan: &Plan,
) -> Vec<OnDemand> {
    let of_mode = |number: usize, wish: &Wish| {
        let mut best: Option<(MachineId, ModelId, bool)> = None;
        for model in &offers.models[number] {
            for (option, offer) in offers.offers.iter().enumerate() {
                let machine = &world.sites[offer.site].machine;
                let is_allowed = wish.machines.is_empty() || wish.machines.contains(machine);
                let trained = world.catalogue.get(model).and_then(|known| known.trained_context);
                let least = wish.least_context.min(trained.unwrap_or(u32::MAX));
                if offer.model != *model || !is_allowed || offer.size.context < least {
                    continue;
                }
                let has_it = world.sites[offer.site].stored.contains_key(model)
                    || world.sites[offer.site].held(model).is_some();
                // A request has nothing fetched.
                if !has_it {
                    continue;
                }
                let is_there = solution.chosen.contains(&option) || plan.find(machine, model).is_some();
                let fits = is_there || beside(offers, solution, option);
                if best.as_ref().is_none_or(|best| fits && !best.2) {
                    best = Some((machine.clone(), model.clone(), fits));
                }
            }
            if best.as_ref().is_some_and(|best| best.2) {
                break;
            }
        }
        OnDemand { mode: wish.mode.clone(), place: best }
    };
    let wishes = wishes.modes.iter().enumerate();
    wishes
        .filter(|(_, wish)| wish.residency == Residency::OnDemand)
        .map(|(n, wish)| of_mode(n, wish))
        .collect()
}

/// Whether `option` fits beside all that is chosen.
pub(super) fn beside(offers: &Offers, solution: &Solution, option: usize) -> bool {
    let small = &offers.small;
    small.options[option].takes.iter().all(|take| {
        let others = solution.chosen.iter().flat_map(|&other| &small.options[other].takes);
        let used: u64 = others.filter(|other| other.pool == take.pool).map(|other| other.bytes).sum();
        used.saturating_add(take.bytes).saturating_add(take.margin) <= small.pools[take.pool]
    })
}
