//! From wishes, machines and models to options: who could serve what in which size, at what worth, and of the others
//! why not.

mod ways;

use super::catalogue::{Catalogue, KnownModel, Size};
use super::grades::by_grade;
use super::pace::{self, Pace};
use super::sample::Sampler;
use super::site::{Site, Standing};
use super::small::{Choice as SmallChoice, Group, Small};
use super::worth;
use crate::fit::{Demand, Offload};
use crate::id::{MachineId, ModelId};
use crate::memory::Footprint;
use crate::strategy::{Wish, Wishes};
use std::collections::{BTreeMap, BTreeSet};

/// Parts of a processor's memory with which a model is tried that would fit whole: beside others it may not.
const SHARES: [f64; 3] = [0.66, 0.33, 0.0];
/// Models up to which that is tried: among more there are enough that lie whole.
const IN_PARTS_OF: usize = 16;
/// What a change costs beside a mode's worth of 1: a load, the seconds of it, a file's way to the machine, an unload.
const LOAD: f64 = 0.02;
const LOAD_SECOND: f64 = 0.02 / 120.0;
const FETCH: f64 = 0.03;
const FETCH_SECOND: f64 = 0.05 / 3600.0;
const DROP: f64 = 0.02;
/// What the largest machine costs: the big holes stay open for what only they can hold.
const HOLE: f64 = 0.02;
/// What a pace of 20 tokens a second costs, and less than that in proportion: of two places that will do the faster one.
const PACE: f64 = 0.02;
/// What a further copy on the same machine costs: more than bringing it to another one, which would work at the same time.
const TOGETHER: f64 = 0.12;
/// Bytes a second that a fetch is taken to have: 1 Gbit/s.
const FETCH_RATE: f64 = 1.1e8;
/// The longest that a load or a fetch is counted with.
const LONGEST_S: f64 = 3600.0;
/// Copies of one mode that one process has as slots, at most: more than a machine serves at a pace that anybody wants.
pub(super) const MOST_COPIES: u32 = 8;
/// Sizes of one model on one machine.
const MOST_SIZES: usize = 32;
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
    /// By group: the wishes that look at it.
    pub(super) groups: Vec<Vec<usize>>,
    /// By pool: machine and name.
    pub(super) pools: Vec<(usize, String)>,
    /// By task: index of the wish.
    pub(super) tasks: Vec<usize>,
    /// Why a model of a wish cannot be on a machine.
    pub(super) rejected: BTreeMap<(usize, ModelId, MachineId), String>,
    /// The models of each wish, best first.
    pub(super) models: Vec<Vec<ModelId>>,
    /// How fast each offer would be.
    pub(super) paces: Vec<Pace>,
}

/// Loads that an agent refused lately, with its words.
pub type Refused = BTreeMap<(MachineId, ModelId), String>;

/// What a way depends on: the model, its size, the processor's free memory, that of RAM, and whether they are one.
type WayKey = (ModelId, Size, u64, u64, bool);
/// How it lies, what it takes, whether it fits, and the reason.
type Way = (Offload, Footprint, bool, String);

/// An option that is not put yet.
struct Draft {
    offer: Offer,
    mates: u32,
    load: f64,
    is_held: bool,
}

struct Builder<'a> {
    sites: &'a [Site],
    catalogue: &'a Catalogue,
    wishes: &'a Wishes,
    refused: &'a Refused,
    out: Offers,
    /// First pool of each machine: its processors, then its RAM.
    first_pool: Vec<usize>,
    /// The largest pool of any machine.
    most_room: u64,
    /// Those of the group that is being made.
    drafts: Vec<Draft>,
    /// Models are tried in parts, too: not where a thousand machines are looked at.
    with_parts: bool,
    /// Ways by what they depend on: the model, its size, and the pools.
    ways: BTreeMap<WayKey, Way>,
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
            paces: Vec::new(),
        };
        let ways = BTreeMap::new();
        let first_pool = Vec::with_capacity(sites.len());
        let most_room = sites.iter().map(largest_pool).max().unwrap_or(0);
        let mut builder = Builder {
            sites,
            catalogue,
            wishes,
            refused,
            out,
            first_pool,
            most_room,
            with_parts: true,
            drafts: Vec::new(),
            ways,
        };
        builder.pools();
        builder.groups();
        builder.clip_margins();
        let mut out = builder.out;
        worth::tasks(&mut out, sites, wishes);
        out
    }
}

/// The models that a wish may have, best first: its own, or all that do what it needs, by size, those that were examined
/// among themselves by their grades.
fn models_of(wish: &Wish, catalogue: &Catalogue) -> Vec<ModelId> {
    if !wish.models.is_empty() {
        return wish.models.clone();
    }
    let mut all: Vec<(&ModelId, &KnownModel)> =
        catalogue.iter().filter(|(_, model)| model.embeds == wish.embeds).collect();
    let size = |model: &KnownModel| model.parameters.unwrap_or(model.size.0);
    all.sort_by(|a, b| size(b.1).cmp(&size(a.1)).then(a.0.cmp(b.0)));
    by_grade(all.into_iter().map(|(model, _)| model.clone()).collect(), catalogue)
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
        let mut sampler = Sampler::new(self.sites, self.catalogue);
        let mut pairs: BTreeMap<ModelId, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
        for (number, site) in self.sites.iter().enumerate() {
            for held in &site.held {
                pairs.entry(held.model.clone()).or_default().entry(number).or_default();
            }
        }
        for (number, models) in self.out.models.iter().enumerate() {
            let wish = &self.wishes.modes[number];
            for model in models {
                let of_model = pairs.entry(model.clone()).or_default();
                for site in sampler.of(number, wish, model, models.len()) {
                    of_model.entry(site).or_default().push(number);
                }
                if !sampler.is_whole() {
                    // What is held is looked at by everybody, whoever drew it.
                    for (_, wishes) in
                        of_model.iter_mut().filter(|(site, _)| self.sites[**site].held(model).is_some())
                    {
                        if wishes.last() != Some(&number) {
                            wishes.push(number);
                        }
                    }
                }
            }
        }
        self.with_parts = sampler.is_whole() && pairs.len() <= IN_PARTS_OF;
        for (model, sites) in pairs {
            let known = self.catalogue.get(&model);
            for (site, wishes) in sites {
                self.group(site, &model, known, &wishes);
            }
        }
    }

    /// All sizes of a model on a machine.
    fn group(&mut self, number: usize, model: &ModelId, known: Option<&KnownModel>, wishes: &[usize]) {
        let site = &self.sites[number];
        let held = site.held(model);
        let pinned = self.wishes.pins.iter().any(|pin| pin.machine == site.machine && pin.model == *model);
        let group = self.out.groups.len();
        self.out.groups.push(wishes.to_vec());
        let size_on_disk = known.map_or(0, |known| known.size.0);
        let is_here = site.stored.contains_key(model) || held.is_some();
        let fetch_s = (size_on_disk as f64 / FETCH_RATE).min(LONGEST_S);
        self.out.small.groups.push(Group {
            held: None,
            fetch: if is_here { 0.0 } else { FETCH + FETCH_SECOND * fetch_s },
            drop: DROP,
            pinned: false,
        });
        if let Some(held) = held {
            let mates = self.mates(wishes, held.slots.unwrap_or(1));
            self.held_offer(number, model, held, mates, known);
        }
        if held.is_some_and(|held| held.fixed) {
            return self.put_drafts(group, pinned);
        }
        let can_size = site.stored.get(model).is_none_or(|stored| stored.can_size);
        if held.is_some() && !can_size {
            // Its engine takes no sizes: it is as it is.
            return self.put_drafts(group, pinned);
        }
        let refusal = self.bar(number, model, held.is_some(), known);
        match (refusal, known) {
            (Some(why), Some(known)) if !is_here && site.standing == Standing::Open && site.launches => {
                let why = self.lacks_file(number, model, wishes, known, why);
                self.reject_for(wishes, number, model, &why);
            }
            (Some(why), _) => self.reject_for(wishes, number, model, &why),
            (None, None) => self.reject_for(wishes, number, model, "nothing is known of its size"),
            (None, Some(known)) => {
                let mut why = String::new();
                let sizes = self.sizes(wishes, known);
                let smallest = sizes.last().copied();
                for size in sizes {
                    let mates = self.mates(wishes, size.slots);
                    // In parts only as small as it will do: a long cache in RAM is slow twice.
                    let with_parts = self.with_parts && Some(size) == smallest;
                    if let Err(reason) = self.offer(number, model, (size, mates, with_parts), known) {
                        // The smallest size comes last: what it lacks is what matters.
                        why = reason;
                    }
                }
                if self.drafts.is_empty() && !why.is_empty() {
                    self.reject_for(wishes, number, model, &why);
                }
            }
        }
        self.put_drafts(group, pinned);
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
        let elsewhere = self.sites.iter().any(|other| other.stored.contains_key(model) && !other.is_lost);
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

    /// Why a model whose file cannot come is not there: that it would not fit anyway is the better reason.
    fn lacks_file(
        &mut self,
        number: usize,
        model: &ModelId,
        wishes: &[usize],
        known: &KnownModel,
        why: String,
    ) -> String {
        let devices = self.sites[number].pools.devices.len().max(1);
        let Some(smallest) = self.sizes(wishes, known).last().copied() else { return why };
        let ways = (0..devices).map(|device| self.way(number, device, 1.0, model, smallest, known));
        let mut ways: Vec<Result<Offer, String>> = ways.collect();
        match ways.iter().position(Result::is_ok).map(|at| ways.swap_remove(at)).or(ways.pop()) {
            Some(Ok(offer)) => format!("{why}; it would fit with {}", offer.needs.total()),
            Some(Err(too_large)) => too_large,
            None => why,
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
                for copies in 1..=wish.copies.clamp(1, MOST_COPIES) {
                    for &cache in &wish.cache_types {
                        let slots = wish.slots.saturating_mul(copies);
                        sizes.insert(Size { context, slots, cache });
                    }
                }
            }
        }
        // The smallest is what a machine that is nearly full can hold.
        let smallest = sizes.first().copied();
        let mut sizes: Vec<Size> = sizes.into_iter().rev().take(MOST_SIZES).collect();
        if let Some(smallest) = smallest.filter(|smallest| sizes.last() != Some(smallest)) {
            sizes.push(smallest);
        }
        sizes
    }

    /// How many further copies of a mode a size holds beside the first.
    fn mates(&self, wishes: &[usize], there: u32) -> u32 {
        let slots = wishes.iter().map(|&number| self.wishes.modes[number].slots.max(1));
        let copies = slots.filter(|slots| *slots <= there).map(|slots| there / slots).min();
        copies.unwrap_or(1).saturating_sub(1)
    }

    /// Makes options of the drafts of a group, in an order that does not depend on what is held: a plan that was followed
    /// must be the same question again, but for its costs.
    fn put_drafts(&mut self, group: usize, is_pinned: bool) {
        let mut drafts = std::mem::take(&mut self.drafts);
        drafts.sort_by(|a, b| {
            let key = |draft: &Draft| (draft.offer.offload.words(), draft.offer.gpu.clone());
            b.offer.size.cmp(&a.offer.size).then_with(|| key(a).cmp(&key(b))).then(b.is_held.cmp(&a.is_held))
        });
        // Two shares of a processor may come to the same layers.
        drafts.dedup_by(|b, a| {
            let key = |draft: &Draft| (draft.offer.size, draft.offer.offload);
            key(a) == key(b) && a.offer.gpu == b.offer.gpu && a.offer.is_guess == b.offer.is_guess
        });
        for draft in drafts {
            if draft.is_held {
                let known = &mut self.out.small.groups[group];
                known.held = Some(self.out.offers.len());
                known.pinned = is_pinned || draft.offer.fixed;
            }
            self.put(group, draft.offer, draft.mates, draft.load);
        }
    }

    fn put(&mut self, group: usize, offer: Offer, mates: u32, load: f64) {
        let site = &self.sites[offer.site];
        let pace = pace::of(site, &offer, self.catalogue);
        let slow = (pace.tpot_s / worth::READABLE).min(1.0);
        let rent = HOLE * self.hole(offer.site) + PACE * slow + TOGETHER * f64::from(mates);
        let is_free = offer.fixed || offer.needs == Demand::default();
        // What is not ours, or not known, was not counted as free: it takes nothing of that.
        let takes = if is_free { Vec::new() } else { self.takes(&offer) };
        let rent = if offer.fixed { 0.0 } else { rent };
        self.out.small.options.push(SmallChoice { group, takes, load, rent });
        self.out.paces.push(pace);
        self.out.offers.push(offer);
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

    /// How much room a machine has against the one with the most.
    fn hole(&self, site: usize) -> f64 {
        largest_pool(&self.sites[site]) as f64 / self.most_room.max(1) as f64
    }
}

/// The largest pool of a machine.
pub(super) fn largest_pool(site: &Site) -> u64 {
    let devices = site.pools.devices.iter().map(|device| device.memory.available.0);
    let ram = site.pools.ram.known().map_or(0, |ram| ram.available.0);
    devices.chain([ram]).max().unwrap_or(0)
}
