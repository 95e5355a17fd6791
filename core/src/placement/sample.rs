//! Which machines are looked at for a model of a mode: all of a home's, some of a large mesh's.

use super::catalogue::Catalogue;
use super::offers::largest_pool;
use super::site::{Site, Standing};
use crate::fleet::{mixed, model_number};
use crate::id::{MachineId, ModelId};
use crate::strategy::Wish;
use std::collections::{BTreeMap, BTreeSet};

/// Machines that one mode is compared on, in meshes with more than twice as many.
const LEAST: usize = 32;
/// Of one model, however many the mode lists.
const LEAST_OF_MODEL: usize = 8;
/// Of a sample the part that comes from machines which have the file: loading is cheaper than fetching, but they may all be
/// full.
const WITH_FILE: f64 = 0.75;

/// Whom a sample is drawn from: those that hold the model, those that have its file, the others that are large enough.
#[derive(Debug, Clone, Default)]
struct Draw {
    holders: Vec<usize>,
    with_file: Vec<usize>,
    others: Vec<usize>,
}

/// Draws samples. What they are drawn from is found once for each model and kind of wish.
pub(super) struct Sampler<'a> {
    sites: &'a [Site],
    catalogue: &'a Catalogue,
    draws: BTreeMap<(ModelId, BTreeSet<MachineId>, BTreeSet<String>), Draw>,
}

impl<'a> Sampler<'a> {
    pub(super) fn new(sites: &'a [Site], catalogue: &'a Catalogue) -> Self {
        Self { sites, catalogue, draws: BTreeMap::new() }
    }

    /// Whether all machines are looked at.
    pub(super) fn is_whole(&self) -> bool {
        self.sites.len() <= 2 * LEAST
    }

    /// The machines for `model`, one of `models` of wish number `number`.
    pub(super) fn of(&mut self, number: usize, wish: &Wish, model: &ModelId, models: usize) -> Vec<usize> {
        if self.is_whole() {
            return (0..self.sites.len()).collect();
        }
        let key = (model.clone(), wish.machines.clone(), wish.labels.clone());
        let (sites, catalogue) = (self.sites, self.catalogue);
        let draw = self.draws.entry(key).or_insert_with(|| draw(sites, catalogue, wish, model));
        let in_all = LEAST.max(2 * sites.len().ilog2() as usize);
        let count = (in_all / models.max(1)).max(LEAST_OF_MODEL);
        let salt = mixed(model_number(model) ^ number as u64);
        let mut sample: Vec<usize> = some(&draw.holders, count, salt).collect();
        let with_file = ((count as f64 * WITH_FILE) as usize).max(count.saturating_sub(draw.others.len()));
        sample.extend(some(&draw.with_file, with_file, salt));
        let left = count.saturating_sub(with_file.min(draw.with_file.len()));
        sample.extend(some(&draw.others, left, salt));
        sample
    }
}

fn draw(sites: &[Site], catalogue: &Catalogue, wish: &Wish, model: &ModelId) -> Draw {
    let least = catalogue.get(model).map_or(0, |known| known.size.0);
    let mut draw = Draw::default();
    for (number, site) in sites.iter().enumerate() {
        let is_allowed = wish.machines.is_empty() || wish.machines.contains(&site.machine);
        if !is_allowed || !wish.labels.is_subset(&site.labels) {
            continue;
        }
        if site.held(model).is_some() {
            draw.holders.push(number);
        } else if site.standing != Standing::Open || largest_pool(site) < least {
            // Nothing can come there.
        } else if site.stored.contains_key(model) {
            draw.with_file.push(number);
        } else {
            draw.others.push(number);
        }
    }
    // Tighter rooms first, in steps of a power of two: a sample takes them evenly.
    let bucket = |number: &usize| (largest_pool(&sites[*number]).max(1).ilog2(), *number);
    draw.with_file.sort_by_key(bucket);
    draw.others.sort_by_key(bucket);
    draw
}

/// `count` of `list`, spread evenly over it from a place that `salt` says.
fn some(list: &[usize], count: usize, salt: u64) -> impl Iterator<Item = usize> {
    let count = count.min(list.len());
    let from = if list.is_empty() { 0 } else { (salt % list.len() as u64) as usize };
    (0..count).map(move |step| list[(from + step * list.len() / count.max(1)) % list.len()])
}
