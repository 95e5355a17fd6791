//! From wishes, machines and models to options: who could serve what in which size, at what worth, and of the others
//! why not.

use super::catalogue::{Catalogue, KnownModel, Size};
use super::site::{Held, Pace, Site, Standing};
use super::small::{Choice as SmallChoice, Group, Small, Take, Task, Use};
use crate::fit::{Demand, Offload};
use crate::id::{MachineId, ModelId};
use crate::memory::{Confidence, Footprint, Parts};
use crate::strategy::{Residency, Wish, Wishes};
use crate::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// What the next model of a mode's list is worth against the one before it.
const NEXT_MODEL: f64 = 0.85;
/// What a cache of the next allowed type is worth against the one before it: a little quality, no context.
const NEXT_CACHE: f64 = 0.98;
/// How much half of the context costs: 1 − 2^−0.25 = 16 %.
const CONTEXT_POWER: f64 = 0.25;
/// What an unmeasured speed is worth against one that meets the target.
const UNMEASURED: f64 = 0.9;
/// The least that missing a target leaves of a model's worth: a slow answer is better than none.
const SLOWEST: f64 = 0.05;
/// Part of a processor's speed that RAM has, for models of which a part lies there: two channels of DDR5 against the
/// memory of a laptop's card.
const RAM_SPEED: f64 = 1.0 / 4.0;
/// How much more a pinned mode counts than a warm one.
const PINNED_WEIGHT: f64 = 4.0;
/// Prompt tokens that a target of time to the first content is judged with, at most.
const TYPICAL_PROMPT: u32 = 4096;
/// What a change costs beside a mode's worth of 1: a load, the seconds of it, a file's way to the machine, an unload.
const LOAD: f64 = 0.02;
const LOAD_SECOND: f64 = 0.02 / 120.0;
const FETCH: f64 = 0.03;
const FETCH_SECOND: f64 = 0.05 / 3600.0;
const DROP: f64 = 0.02;
/// What a hole costs that a model leaves around itself.
const HOLE: f64 = 0.02;
/// What a further copy on the same machine costs: more than bringing it to another one, which would work at the same time.
const TOGETHER: f64 = 0.12;
/// Bytes a second that a load and a fetch are taken to have where none was measured: a common NVMe disk, 1 Gbit/s.
pub(super) const LOAD_RATE: f64 = 1e9;
const FETCH_RATE: f64 = 1.1e8;
/// The longest that a load or a fetch is counted with.
const LONGEST_S: f64 = 3600.0;
/// Sizes of one model on one machine.
const MOST_SIZES: usize = 32;
/// Machines that one wish is compared on, in meshes with more.
const SAMPLED: usize = 32;

/// One way of having a model on a machine, in words.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Offer {
    /// Index of the machine.
    pub(super) site: usize,
    pub(super) model: ModelId,
    pub(super) size: Size,
    pub(super) offload: Offload,
    /// The processor, where one is used.
    pub(super) gpu: Option<String>,
    pub(super) footprint: Footprint,
    pub(super) needs: Demand,
    /// It is there as it is, and is not ours to change.
    pub(super) fixed: bool,
    /// Its context or slots were not told by the engine, and were taken as wished.
    pub(super) is_guess: bool,
}

/// The question in numbers, and what its numbers mean.
pub(super) struct Offers {
    pub(super) small: Small,
    pub(super) offers: Vec<Offer>,
    /// By group: machine and model.
    pub(super) groups: Vec<(usize, ModelId)>,
    /// By pool: machine and name.
    pub(super) pools: Vec<(usize, String)>,
    /// By task: index of the wish.
    pub(super) tasks: Vec<usize>,
    /// Why a model of a wish cannot be on a machine.
    pub(super) rejected: BTreeMap<(usize, ModelId, MachineId), String>,
    /// The models of each wish, best first.
    pub(super) models: Vec<Vec<ModelId>>,
}

/// Loads that an agent refused lately, with its words.
pub type Refused = BTreeMap<(MachineId, ModelId), String>;

struct Builder<'a> {
    sites: &'a [Site],
    catalogue: &'a Catalogue,
    wishes: &'a Wishes,
    refused: &'a Refused,
    out: Offers,
    /// First pool of each machine: its processors, then its RAM.
    first_pool: Vec<usize>,
    /// Ways by what they depend on: the model, its size, and the pools.
    ways: BTreeMap<(ModelId, Size, u64, u64, bool), (Offload, Footprint, bool, String)>,
}

impl Offers {
    pub(super) fn new(sites: &[Site], catalogue: &Catalogue, wishes: &Wishes, refused: &Refused) -> Self {
        let out = Self {
            small: Small::default(),
            offers: Vec::new(),
            groups: Vec::new(),
            pools: Vec::new(),
            tasks: Vec::new(),
            rejected: BTreeMap::new(),
            models: wishes.modes.iter().map(|wish| models_of(wish, catalogue)).collect(),
        };
        let ways = BTreeMap::new();
        let first_pool = Vec::with_capacity(sites.len());
        let mut builder = Builder { sites, catalogue, wishes, refused, out, first_pool, ways };
        builder.pools();
        builder.groups();
        builder.clip_margins();
        builder.tasks();
        builder.out
    }
}

/// The models that a wish may have, best first: its own, or all that do what it needs, by what trials found and then by
/// size.
fn models_of(wish: &Wish, catalogue: &Catalogue) -> Vec<ModelId> {
    if !wish.models.is_empty() {
        return wish.models.clone();
    }
    let mut all: Vec<(&ModelId, &KnownModel)> =
        catalogue.iter().filter(|(_, model)| model.embeds == wish.embeds).collect();
    let rank = |model: &KnownModel| (model.quality.unwrap_or(0.0), model.parameters.unwrap_or(model.size.0));
    all.sort_by(|a, b| {
        let ((qa, pa), (qb, pb)) = (rank(a.1), rank(b.1));
        qb.total_cmp(&qa).then(pb.cmp(&pa)).then(a.0.cmp(b.0))
    });
    all.into_iter().map(|(model, _)| model.clone()).collect()
}

impl Builder<'_> {
    fn pools(&mut self) {
        for (number, site) in self.sites.iter().enumerate() {
            self.first_pool.push(self.out.small.pools.len());
            let mut carve_out = 0_u64;
            for device in &site.pools.devices {
                self.out.small.pools.push(device.memory.available.0);
                self.out.pools.push((number, device.name.clone()));
                carve_out = carve_out.saturating_add(device.carve_out.map_or(0, |part| part.available.0));
            }
            let ram = site.pools.ram.known().map_or(u64::MAX, |ram| ram.available.0);
            self.out.small.pools.push(ram.saturating_add(carve_out));
            let shared = site.pools.devices.iter().any(|device| device.carve_out.is_some());
            let name = if shared { "RAM and graphics memory" } else { "RAM" };
            self.out.pools.push((number, name.to_owned()));
        }
    }

    /// Machines and models that belong together: those of each wish, and what is held.
    fn groups(&mut self) {
        let mut samples: BTreeMap<(&ModelId, &BTreeSet<MachineId>, &BTreeSet<String>), Vec<usize>> =
            BTreeMap::new();
        let models = self.out.models.clone();
        let mut wanted: BTreeMap<ModelId, Vec<usize>> = BTreeMap::new();
        for (number, models) in models.iter().enumerate() {
            for model in models {
                wanted.entry(model.clone()).or_default().push(number);
            }
        }
        let mut pairs: BTreeSet<(usize, ModelId)> = BTreeSet::new();
        for (number, site) in self.sites.iter().enumerate() {
            pairs.extend(site.held.iter().map(|held| (number, held.model.clone())));
        }
        for (number, models) in models.iter().enumerate() {
            let wish = &self.wishes.modes[number];
            for model in models {
                let sample = samples
                    .entry((model, &wish.machines, &wish.labels))
                    .or_insert_with(|| self.sampled(wish, model));
                pairs.extend(sample.iter().map(|&site| (site, model.clone())));
            }
        }
        for (site, model) in pairs {
            let wishes = wanted.get(&model).cloned().unwrap_or_default();
            self.group(site, &model, &wishes);
        }
    }

    /// The machines on which `model` is looked at for a wish: all of a home's; of a large mesh those that hold it, those
    /// that have it on disk, and some of the others that are large enough, the tighter ones first.
    fn sampled(&self, wish: &Wish, model: &ModelId) -> Vec<usize> {
        let all = 0..self.sites.len();
        if self.sites.len() <= 2 * SAMPLED {
            return all.collect();
        }
        let count = SAMPLED.max(2 * self.sites.len().ilog2() as usize);
        let least = self.catalogue.get(model).map_or(0, |known| known.size.0);
        let salt = crate::fleet::model_number(model);
        let mut ranked: Vec<(u8, u64, usize)> = all
            .filter(|&number| {
                let site = &self.sites[number];
                let is_allowed = wish.machines.is_empty() || wish.machines.contains(&site.machine);
                is_allowed && wish.labels.is_subset(&site.labels) && site.standing == Standing::Open
            })
            .filter_map(|number| {
                let site = &self.sites[number];
                if site.held(model).is_some() {
                    return Some((0, 0, number));
                }
                let room = largest_pool(site);
                if room < least {
                    return None;
                }
                let place = if site.stored.contains_key(model) { 1 } else { 2 };
                // Tighter rooms first, in steps of a power of two; by chance among equals, another for each model.
                let bucket = u64::from((room / least.max(1)).max(1).ilog2());
                let chance = crate::fleet::mixed(salt ^ number as u64) >> 8;
                Some((place, (bucket << 56) | (chance >> 8), number))
            })
            .collect();
        let chosen = count.min(ranked.len());
        if chosen < ranked.len() {
            ranked.select_nth_unstable(chosen);
        }
        ranked.truncate(chosen);
        ranked.into_iter().map(|(_, _, number)| number).collect()
    }

    /// All sizes of a model on a machine.
    fn group(&mut self, number: usize, model: &ModelId, wishes: &[usize]) {
        let site = &self.sites[number];
        let held = site.held(model).cloned();
        let known = self.catalogue.get(model).cloned();
        let pinned = self.wishes.pins.iter().any(|pin| pin.machine == site.machine && pin.model == *model);
        let group = self.out.groups.len();
        self.out.groups.push((number, model.clone()));
        let size_on_disk = known.as_ref().map_or(0, |known| known.size.0);
        let is_here = site.stored.contains_key(model) || held.is_some();
        let fetch_s = (size_on_disk as f64 / FETCH_RATE).min(LONGEST_S);
        self.out.small.groups.push(Group {
            held: None,
            fetch: if is_here { 0.0 } else { FETCH + FETCH_SECOND * fetch_s },
            drop: DROP,
            pinned: pinned && held.is_some(),
        });
        let first = self.out.offers.len();
        if let Some(held) = &held {
            let mates = self.mates(wishes, held.slots.unwrap_or(1));
            self.held_offer(group, number, model, held, mates, known.as_ref());
        }
        if held.as_ref().is_some_and(|held| held.fixed) {
            return;
        }
        let refusal = self.bar(number, model, held.is_some(), known.as_ref());
        match (refusal, known) {
            (Some(why), _) => self.reject_for(wishes, number, model, &why),
            (None, None) => self.reject_for(wishes, number, model, "nothing is known of its size"),
            (None, Some(known)) => {
                let mut why = String::new();
                for size in self.sizes(wishes, &known) {
                    let mates = self.mates(wishes, size.slots);
                    if let Err(reason) = self.offer(group, number, model, size, mates, &known) {
                        // The smallest size comes last: what it lacks is what matters.
                        why = reason;
                    }
                }
                if self.out.offers.len() == first && !why.is_empty() {
                    self.reject_for(wishes, number, model, &why);
                }
            }
        }
    }

    /// Why nothing of `model` can newly come to the machine.
    fn bar(
        &self,
        number: usize,
        model: &ModelId,
        is_held: bool,
        known: Option<&KnownModel>,
    ) -> Option<String> {
        let site = &self.sites[number];
        match &site.standing {
            Standing::Open => {}
            Standing::Holds(why) | Standing::Closed(why) => return Some(why.clone()),
        }
        if let Some(why) = self.refused.get(&(site.machine.clone(), model.clone())) {
            return Some(format!("it has just refused it: {why}"));
        }
        if let Some(stored) = site.stored.get(model) {
            return stored.broken.as_ref().map(|why| format!("its file there cannot be loaded: {why}"));
        }
        if is_held {
            return None;
        }
        if !site.launches {
            return Some("it has no engine that loads models of the mesh".into());
        }
        let known = known?;
        let elsewhere = self
            .sites
            .iter()
            .any(|other| other.stored.contains_key(model) && !matches!(other.standing, Standing::Closed(_)));
        if known.url.is_none() && !(elsewhere && known.digest.is_some()) {
            return Some("no machine has its file, and no address of it is known".into());
        }
        match site.disk_free {
            Some(free) if free < known.size => {
                Some(format!("its file has {}, and {free} are free on the disk", known.size))
            }
            Some(_) | None => None,
        }
    }

    fn reject_for(&mut self, wishes: &[usize], number: usize, model: &ModelId, why: &str) {
        for &wish in wishes {
            let key = (wish, model.clone(), self.sites[number].machine.clone());
            self.out.rejected.insert(key, why.to_owned());
        }
    }

    /// The sizes that the wishes could use, largest first.
    fn sizes(&self, wishes: &[usize], known: &KnownModel) -> Vec<Size> {
        let trained = known.trained_context.unwrap_or(u32::MAX);
        let mut sizes = BTreeSet::new();
        for &number in wishes {
            let wish = &self.wishes.modes[number];
            let mut contexts = BTreeSet::new();
            let mut context = wish.context.min(trained);
            while context >= wish.least_context.min(trained).max(1) {
                contexts.insert(context);
                context /= 2;
            }
            if wish.least_context <= trained {
                contexts.insert(wish.least_context);
            }
            for &context in &contexts {
                for copies in 1..=wish.copies.clamp(1, 8) {
                    for &cache in &wish.cache_types {
                        let slots = wish.slots.saturating_mul(copies);
                        sizes.insert(Size { context, slots, cache });
                    }
                }
            }
        }
        sizes.into_iter().rev().take(MOST_SIZES).collect()
    }

    /// How many further copies of a mode a size holds beside the first.
    fn mates(&self, wishes: &[usize], there: u32) -> u32 {
        let slots = wishes.iter().map(|&number| self.wishes.modes[number].slots.max(1));
        let copies = slots.filter(|slots| *slots <= there).map(|slots| there / slots).min();
        copies.unwrap_or(1).saturating_sub(1)
    }

    /// What is in memory, with what it takes.
    fn held_offer(
        &mut self,
        group: usize,
        number: usize,
        model: &ModelId,
        held: &Held,
        mates: u32,
        known: Option<&KnownModel>,
    ) {
        let site = &self.sites[number];
        if matches!(site.standing, Standing::Closed(_)) {
            return;
        }
        let told = known.and_then(|known| known.trained_context);
        let size = Size {
            context: held.context.or(told).unwrap_or(u32::MAX),
            slots: held.slots.unwrap_or(1),
            cache: held.cache.unwrap_or_default(),
        };
        let is_guess = held.context.is_none();
        let needs = held
            .memory
            .map_or(Demand::default(), |memory| Demand { device: memory.device, host: memory.host });
        let weighed = |bytes| Parts { weights: bytes, ..Parts::default() };
        let measured = held.memory.is_some_and(|memory| memory.measured);
        let confidence = if measured { Confidence::Measured } else { Confidence::Guessed };
        let mut footprint = Footprint {
            device: weighed(needs.device),
            host: weighed(needs.host),
            confidence,
            notes: Vec::new(),
        };
        if let Some(known) = known.filter(|_| !is_guess) {
            // The parts are the formula's, the sum is what it takes.
            let predicted = known.way(size, &site.pools, site.margin).1;
            footprint.device = scaled(predicted.device, needs.device);
            footprint.host = scaled(predicted.host, needs.host);
        }
        let gpu = site.pools.devices.iter().max_by_key(|device| device.memory.available);
        let on_device = needs.device.0 > 0 && gpu.is_some();
        let offer = Offer {
            site: number,
            model: model.clone(),
            size,
            offload: if on_device { Offload::Full } else { Offload::None },
            gpu: gpu.filter(|_| on_device).map(|device| device.id.clone()),
            footprint,
            needs,
            fixed: held.fixed,
            is_guess,
        };
        let rent = if held.fixed { 0.0 } else { HOLE * self.hole(&offer) + TOGETHER * f64::from(mates) };
        // What is not ours was not counted as free, so it takes nothing of that.
        let takes = if held.fixed || held.memory.is_none() { Vec::new() } else { self.takes(&offer) };
        let option = self.out.offers.len();
        self.out.small.groups[group].held = Some(option);
        self.out.small.groups[group].pinned |= held.fixed;
        self.out.small.options.push(SmallChoice { group, takes, load: LOAD, rent });
        self.out.offers.push(offer);
    }

    /// One size on one machine, as an option for each processor it could lie on.
    fn offer(
        &mut self,
        group: usize,
        number: usize,
        model: &ModelId,
        size: Size,
        mates: u32,
        known: &KnownModel,
    ) -> Result<(), String> {
        let site = &self.sites[number];
        let same = |offer: &Offer| offer.size == size && !offer.is_guess;
        if self.out.small.groups[group].held.is_some_and(|held| same(&self.out.offers[held])) {
            return Ok(());
        }
        let devices: Vec<usize> = if site.pools.devices.is_empty() {
            vec![usize::MAX]
        } else {
            (0..site.pools.devices.len()).collect()
        };
        let mut refusal = Ok(());
        let mut found = false;
        for device in devices {
            match self.way(number, device, model, size, known) {
                Ok(offer) => {
                    let hole = self.hole(&offer);
                    let load_s = self.load_seconds(number, model, known);
                    let takes = self.takes(&offer);
                    self.out.small.options.push(SmallChoice {
                        group,
                        takes,
                        load: LOAD + LOAD_SECOND * load_s,
                        rent: HOLE * hole + TOGETHER * f64::from(mates),
                    });
                    self.out.offers.push(offer);
                    found = true;
                }
                Err(why) => refusal = Err(why),
            }
        }
        if found { Ok(()) } else { refusal }
    }

    fn way(
        &mut self,
        number: usize,
        device: usize,
        model: &ModelId,
        size: Size,
        known: &KnownModel,
    ) -> Result<Offer, String> {
        let site = &self.sites[number];
        let mut pools = site.pools.clone();
        let only = pools.devices.get(device).cloned();
        pools.devices = only.into_iter().collect();
        let one = pools.devices.first();
        let ram = pools.ram.known().map_or(u64::MAX, |ram| ram.available.0);
        let key = (
            model.clone(),
            size,
            one.map_or(0, |device| device.memory.available.0),
            ram,
            one.is_some_and(|device| device.carve_out.is_some()),
        );
        let gpu = one.map(|device| device.id.clone());
        if !self.ways.contains_key(&key) {
            let (choice, footprint) = known.way(size, &pools, site.margin);
            let fits = choice.fit.fits;
            self.ways.insert(key.clone(), (choice.trial.offload, footprint, fits, choice.fit.why));
        }
        let (offload, footprint, fits, why) = self.ways.get(&key).cloned().expect("it was put there");
        if !fits {
            return Err(why);
        }
        let mut offer = Offer {
            site: number,
            model: model.clone(),
            size,
            offload,
            gpu: gpu.filter(|_| offload != Offload::None),
            needs: Demand { device: footprint.device.total(), host: footprint.host.total() },
            footprint,
            fixed: false,
            is_guess: false,
        };
        if let Some(measured) = measured(site, &offer, known) {
            offer.footprint.device = scaled(offer.footprint.device, measured.device);
            offer.footprint.host = scaled(offer.footprint.host, measured.host);
            offer.footprint.confidence = Confidence::Measured;
            offer.needs = measured;
        }
        Ok(offer)
    }

    /// What an offer takes of its machine's pools.
    fn takes(&self, offer: &Offer) -> Vec<Take> {
        let site = &self.sites[offer.site];
        let first = self.first_pool[offer.site];
        let ram = first + site.pools.devices.len();
        let device = site.pools.devices.iter().position(|device| Some(&device.id) == offer.gpu.as_ref());
        let mut takes = Vec::with_capacity(2);
        let beside = |bytes: u64| site.margin.beside(Bytes(bytes)).0;
        let mut host = offer.needs.host.0;
        if let Some(at) = device {
            let bytes = offer.needs.device.0;
            takes.push(Take { pool: first + at, bytes, margin: beside(bytes) });
            if site.pools.devices[at].carve_out.is_some() {
                host = host.saturating_add(bytes);
            }
        } else {
            host = host.saturating_add(offer.needs.device.0);
        }
        takes.push(Take { pool: ram, bytes: host, margin: beside(host) });
        takes
    }

    /// What is in memory already leaves the margin that it leaves: it is not unloaded for lack of one.
    fn clip_margins(&mut self) {
        let small = &mut self.out.small;
        let held: Vec<usize> = small.groups.iter().filter_map(|group| group.held).collect();
        let mut left = small.pools.clone();
        for take in held.iter().flat_map(|&option| &small.options[option].takes) {
            left[take.pool] = left[take.pool].saturating_sub(take.bytes);
        }
        for option in held {
            for take in &mut small.options[option].takes {
                take.margin = take.margin.min(left[take.pool]);
            }
        }
    }

    /// The part of its pool that an offer leaves empty: the big holes stay open for what only they can hold.
    fn hole(&self, offer: &Offer) -> f64 {
        let most = self.sites.iter().map(largest_pool).max().unwrap_or(0).max(1);
        let room = largest_pool(&self.sites[offer.site]);
        room.saturating_sub(offer.needs.total().0) as f64 / most as f64
    }

    fn load_seconds(&self, number: usize, model: &ModelId, known: &KnownModel) -> f64 {
        let seen = self.sites[number].paces.get(model).and_then(|pace| pace.load_s);
        seen.unwrap_or(known.size.0 as f64 / LOAD_RATE).min(LONGEST_S)
    }

    /// The tasks of all wishes, with what each option is worth to them.
    fn tasks(&mut self) {
        let mut by_model: BTreeMap<ModelId, Vec<usize>> = BTreeMap::new();
        for (option, offer) in self.out.offers.iter().enumerate() {
            by_model.entry(offer.model.clone()).or_default().push(option);
        }
        for (number, wish) in self.wishes.modes.iter().enumerate() {
            if wish.residency == Residency::OnDemand {
                continue;
            }
            let mut uses = Vec::new();
            let models = self.out.models[number].clone();
            for (rank, model) in models.iter().enumerate() {
                for &option in by_model.get(model).into_iter().flatten() {
                    let offer = &self.out.offers[option];
                    match self.worth(wish, rank, offer) {
                        Ok(value) => {
                            let holds = (offer.size.slots / wish.slots.max(1)).max(1);
                            uses.push(Use { option, value, holds });
                        }
                        Err(why) => {
                            let machine = self.sites[offer.site].machine.clone();
                            self.out.rejected.insert((number, model.clone(), machine), why);
                        }
                    }
                }
            }
            // One size that does makes what another size lacks no news.
            for one in &uses {
                let offer = &self.out.offers[one.option];
                let key = (number, offer.model.clone(), self.sites[offer.site].machine.clone());
                self.out.rejected.remove(&key);
            }
            uses.sort_by(|a, b| b.value.total_cmp(&a.value).then(a.option.cmp(&b.option)));
            self.out.small.tasks.push(Task { copies: wish.copies, uses });
            self.out.tasks.push(number);
        }
    }

    /// What an offer is worth to a wish, or why it is of no use to it.
    fn worth(&self, wish: &Wish, rank: usize, offer: &Offer) -> Result<f64, String> {
        let site = &self.sites[offer.site];
        if !wish.machines.is_empty() && !wish.machines.contains(&site.machine) {
            return Err("the mode is not allowed there".into());
        }
        if let Some(label) = wish.labels.difference(&site.labels).next() {
            return Err(format!("it lacks the label {label}"));
        }
        if offer.size.context < wish.least_context {
            return Err(format!(
                "a context of {} tokens is what it has there, the mode needs {}",
                offer.size.context, wish.least_context
            ));
        }
        if offer.size.slots < wish.slots && !offer.fixed {
            return Err(format!("it has {} slots there, the mode needs {}", offer.size.slots, wish.slots));
        }
        let cache = wish.cache_types.iter().position(|cache| *cache == offer.size.cache);
        let Some(cache) = cache.or(offer.fixed.then_some(0)) else {
            return Err(format!(
                "its cache there is {}, which the mode does not allow",
                offer.size.cache.word()
            ));
        };
        let quality = NEXT_MODEL.powi(i32::try_from(rank).unwrap_or(i32::MAX));
        let wanted = f64::from(wish.context.max(1));
        let context = (f64::from(offer.size.context.min(wish.context)) / wanted).powf(CONTEXT_POWER);
        let cache = NEXT_CACHE.powi(i32::try_from(cache).unwrap_or(i32::MAX));
        let (pace, is_measured) = self.pace(site, offer);
        let met = meets(wish, offer, pace);
        let has_target = wish.target.tpot_s.is_some() || wish.target.ttft_s.is_some();
        let is_part = matches!(offer.offload, Offload::Layers(_) | Offload::ExpertsOfFirst(_));
        if is_part && has_target && !offer.fixed && (met < 1.0 || !is_measured) {
            return Err(if is_measured {
                "a part of it would lie in RAM, and it would be too slow for the mode's target".into()
            } else {
                "a part of it would lie in RAM, and how fast that is was not measured: it promises no target"
                    .into()
            });
        }
        let firm = if wish.residency == Residency::Pinned { PINNED_WEIGHT } else { 1.0 };
        Ok(wish.weight * firm * quality * context * cache * met)
    }

    /// How fast an offer would be, and whether that was measured.
    fn pace(&self, site: &Site, offer: &Offer) -> (Pace, bool) {
        let digest = self.catalogue.get(&offer.model).and_then(|known| known.digest.as_ref());
        let named = |record: &&crate::profile::SpeedRecord| {
            record.model == offer.model.as_str()
                || digest.is_some_and(|digest| record.model == digest.as_str())
        };
        let latest = |offload: fn(Offload, Offload) -> bool| {
            let fitting = site.speeds.iter().filter(named).filter(|one| offload(one.offload, offer.offload));
            fitting.max_by_key(|record| record.at)
        };
        if let Some(record) = latest(|a, b| a == b) {
            let tpot_s = record.decode.map(|rate| 1.0 / rate);
            return (Pace { prefill: record.prefill, tpot_s, load_s: None }, tpot_s.is_some());
        }
        let live = site.held(&offer.model).is_some().then(|| site.paces.get(&offer.model)).flatten();
        if let Some(pace) = live.filter(|pace| pace.tpot_s.is_some()) {
            return (*pace, true);
        }
        // Of a part on the processor, from the whole on it: what lies in RAM is read at RAM's pace.
        if let (Some(whole), true) = (latest(|a, _| a == Offload::Full), offer.needs.total().0 > 0) {
            let in_ram = offer.needs.host.0 as f64 / offer.needs.total().0 as f64;
            let slower = (1.0 - in_ram) + in_ram / RAM_SPEED;
            let tpot_s = whole.decode.map(|rate| slower / rate);
            let prefill = whole.prefill.map(|rate| rate / slower);
            return (Pace { prefill, tpot_s, load_s: None }, false);
        }
        (site.paces.get(&offer.model).copied().unwrap_or_default(), false)
    }
}

/// How well an offer meets the mode's targets, from [`SLOWEST`] to 1.
fn meets(wish: &Wish, offer: &Offer, pace: Pace) -> f64 {
    let mut met: f64 = 1.0;
    let mut judge = |target: Option<f64>, predicted: Option<f64>| {
        if let Some(target) = target {
            let ratio =
                predicted.map_or(UNMEASURED, |predicted| (target / predicted.max(1e-9)).powi(2).min(1.0));
            met = met.min(ratio.max(SLOWEST));
        }
    };
    judge(wish.target.tpot_s, pace.tpot_s);
    let prompt = f64::from((offer.size.context / 4).min(TYPICAL_PROMPT));
    judge(wish.target.ttft_s, pace.prefill.filter(|rate| *rate > 0.0).map(|rate| prompt / rate));
    met
}

/// What a load of this size was measured to take on its machine.
fn measured(site: &Site, offer: &Offer, known: &KnownModel) -> Option<Demand> {
    let gpu = offer.gpu.as_ref();
    let record = site.footprints.iter().filter(|record| record.measured.is_some()).filter(|record| {
        let load = &record.load;
        let is_model = known
            .digest
            .as_ref()
            .map_or_else(|| load.model == offer.model.as_str(), |digest| load.model == digest.as_str());
        is_model
            && load.options.context == offer.size.context
            && load.options.slots == offer.size.slots
            && load.options.cache == offer.size.cache.word()
            && load.options.offload == offer.offload
            && gpu.is_none_or(|gpu| load.device.contains(gpu.as_str()))
    });
    let measured = record.max_by_key(|record| record.at)?.measured?;
    Some(Demand { device: measured.device, host: measured.host })
}

/// The parts, so that their sum is `total`: the weights and the cache are as they are, what differs is computing and
/// overhead.
fn scaled(parts: Parts, total: Bytes) -> Parts {
    let firm = Parts { compute: Bytes(0), overhead: Bytes(0), ..parts };
    match total.0.checked_sub(firm.total().0) {
        Some(rest) => {
            let compute = parts.compute.0.min(rest);
            Parts { compute: Bytes(compute), overhead: Bytes(rest - compute), ..firm }
        }
        None => Parts { weights: total, ..Parts::default() },
    }
}

/// The largest pool of a machine.
pub(super) fn largest_pool(site: &Site) -> u64 {
    let devices = site.pools.devices.iter().map(|device| device.memory.available.0);
    let ram = site.pools.ram.known().map_or(0, |ram| ram.available.0);
    devices.chain([ram]).max().unwrap_or(0)
}
