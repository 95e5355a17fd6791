//! Which models live on which machines: whole, planned before anything moves, with a reason for each.
//!
//! [`plan`] translates the question into a small problem of pools, options and tasks ([`small`]), solves that
//! ([`search`]), and translates the answer back into a [`Plan`]: what is placed and what it takes, what is not and why,
//! what would help, and what changes. It changes nothing. [`crate::plan_check`] looks for faults in plans, and
//! [`crate::directive`] says which steps lead to one.

mod answer;
mod catalogue;
mod grades;
mod obstacles;
mod offers;
mod pace;
mod sample;
pub mod search;
mod site;
pub mod small;
mod worth;

pub use catalogue::{Body, Catalogue, KnownModel, Size};
pub use grades::{LEAST_ITEMS, grade};
pub use offers::Refused;
pub use pace::Known;
pub use site::{Conditions, Held, Pace, Site, Standing, Stored};

use crate::fit::{Demand, Offload};
use crate::id::{MachineId, ModeName, ModelId};
use crate::machine::Digest;
use crate::memory::{CacheType, Confidence, Footprint};
use crate::strategy::{WishProblem, Wishes};
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// What another plan must be worth more than the one that is followed, beside a mode's worth of 1: less than a step to the
/// next shorter context, more than a difference of chance.
const LEAST_GAIN: f64 = 0.03;

/// All that a plan is made of.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct World {
    /// The machines, sorted by name.
    pub sites: Vec<Site>,
    /// The models.
    pub catalogue: Catalogue,
    /// Loads that agents refused lately.
    pub refused: Refused,
}

/// Where a placed model is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// In memory as planned.
    Resident,
    /// In memory, and not the mesh's to change.
    Fixed,
    /// In memory with another context, other slots or another cache.
    Resize,
    /// On the machine's disk.
    OnDisk,
    /// To be fetched from another machine of the mesh, or from an address.
    Fetch,
}

/// A mode that a placed model serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Serves {
    /// Which.
    pub mode: ModeName,
    /// Where the model stands in the mode's list, from 1.
    pub rank: u32,
    /// How many of the mode's copies it stands for.
    pub copies: u32,
    /// Seconds for each token of an answer, by what is known.
    pub tpot_s: f64,
    /// How that is known.
    pub known: Known,
    /// What is short of the wish: `context 16384 instead of 32768`.
    pub short: Vec<String>,
}

/// One model on one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    /// Where.
    pub machine: MachineId,
    /// Which.
    pub model: ModelId,
    /// Tokens of one request; `None` = its engine does not tell.
    pub context: Option<u32>,
    /// Requests at once.
    pub slots: u32,
    /// Type of its KV cache.
    pub cache: CacheType,
    /// Which part lies on the processor.
    pub offload: Offload,
    /// Id of the graphics processor, where one is used.
    pub gpu: Option<String>,
    /// What it takes, by parts.
    pub footprint: Footprint,
    /// The same, by pools.
    pub needs: Demand,
    /// The modes it is there for; none = it was there and is in nobody's way.
    pub serves: Vec<Serves>,
    /// Where it is now.
    pub stage: Stage,
    /// A person pinned it there.
    pub pinned: bool,
    /// Of its file, where known.
    pub digest: Option<Digest>,
    /// An address of its file, where one is known.
    pub source: Option<String>,
    /// Why here, in one line.
    pub why: String,
}

impl Placed {
    /// How far its figures can be trusted.
    #[must_use]
    pub fn confidence(&self) -> Confidence {
        self.footprint.confidence
    }
}

/// One pool of a machine under a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolAfter {
    /// Its name: that of the graphics processor, or RAM.
    pub name: String,
    /// What models may take in all; `None` = not known.
    pub capacity: Option<Bytes>,
    /// What the plan takes.
    pub used: Bytes,
    /// What is free after it; `None` = not known.
    pub free: Option<Bytes>,
    /// What was held back for the human.
    pub reserved: Bytes,
}

/// One machine under a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineAfter {
    /// Which.
    pub machine: MachineId,
    /// Its pools.
    pub pools: Vec<PoolAfter>,
    /// Why nothing new comes, or everything leaves; empty = it is open.
    pub barred: String,
}

/// Why a model of an unserved mode is not on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// Which model.
    pub model: ModelId,
    /// Which machine.
    pub machine: MachineId,
    /// In words, with numbers.
    pub why: String,
}

/// A mode that is not served, or not by as many copies as it wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unplaced {
    /// Which.
    pub mode: ModeName,
    /// How many copies are missing.
    pub copies: u32,
    /// Its models, best first.
    pub models: Vec<ModelId>,
    /// Why, for each model and machine.
    pub obstacles: Vec<Obstacle>,
    /// No machine could hold any of its models even if it were empty.
    pub impossible: bool,
    /// What would make it possible.
    pub would_help: Vec<String>,
}

/// One step from what is to what is planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// A file comes to a machine's disk.
    Fetch {
        /// Which model.
        model: ModelId,
        /// Where to.
        machine: MachineId,
        /// Its bytes.
        size: Bytes,
    },
    /// A model comes into memory.
    Load {
        /// Which model.
        model: ModelId,
        /// Where.
        machine: MachineId,
        /// About how long that takes, in seconds.
        seconds: u32,
    },
    /// A model is loaded anew with other sizes.
    Resize {
        /// Which model.
        model: ModelId,
        /// Where.
        machine: MachineId,
    },
    /// A model leaves memory.
    Unload {
        /// Which model.
        model: ModelId,
        /// Where.
        machine: MachineId,
        /// Why.
        why: String,
    },
}

/// What is to be where.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// The strategy's name; empty = none.
    pub strategy: String,
    /// What is placed, by machine and model.
    pub placed: Vec<Placed>,
    /// What is not, and why.
    pub unplaced: Vec<Unplaced>,
    /// Modes that are loaded only when somebody asks, and whether they would fit.
    pub on_demand: Vec<OnDemand>,
    /// What changes, by machine.
    pub changes: Vec<Change>,
    /// The machines under it.
    pub machines: Vec<MachineAfter>,
    /// What is wrong with the wishes.
    pub problems: Vec<WishProblem>,
    /// What it is worth: the sum of what each mode gets out of it, less what the changes cost.
    pub worth: f64,
}

/// A mode whose model is loaded when it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDemand {
    /// Which.
    pub mode: ModeName,
    /// Where its best model would be loaded: machine, model, and whether that fits beside the plan.
    pub place: Option<(MachineId, ModelId, bool)>,
}

impl Plan {
    /// Whether every mode has a place for all of its copies, though with less than it wants where [`Serves::short`] says so.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.unplaced.is_empty() && self.problems.iter().all(|problem| !problem.fatal)
    }

    /// Whether modes are wished and every one of them would go without a machine: none is placed, nothing is pinned, and
    /// none could be loaded for a request.
    #[must_use]
    pub fn serves_nobody(&self) -> bool {
        let is_of_use = |placed: &Placed| placed.pinned || !placed.serves.is_empty();
        let could_be = |one: &OnDemand| one.place.as_ref().is_some_and(|(.., fits)| *fits);
        !self.unplaced.is_empty()
            && !self.placed.iter().any(is_of_use)
            && !self.on_demand.iter().any(could_be)
    }

    /// What is placed on `machine`: [`Plan::placed`] is sorted by machine.
    pub fn on<'a>(&'a self, machine: &MachineId) -> std::slice::Iter<'a, Placed> {
        let from = self.placed.partition_point(|placed| placed.machine < *machine);
        let after = self.placed[from..].partition_point(|placed| placed.machine == *machine);
        self.placed[from..from + after].iter()
    }

    /// The placement of `model` on `machine`.
    #[must_use]
    pub fn find(&self, machine: &MachineId, model: &ModelId) -> Option<&Placed> {
        self.on(machine).find(|placed| placed.model == *model)
    }
}

/// The plan for `wishes` in `world`. With wishes that contradict themselves nothing is placed or moved, and the problems
/// say why.
#[must_use]
pub fn plan(world: &World, wishes: &Wishes) -> Plan {
    let mut problems = wishes.problems();
    problems.extend(answer::unknown_names(world, wishes));
    if problems.iter().any(|problem| problem.fatal) {
        return Plan { strategy: wishes.strategy.clone(), problems, ..Plan::default() };
    }
    let offers = offers::Offers::new(&world.sites, &world.catalogue, wishes, &world.refused);
    let solution = search::settled(&offers.small, LEAST_GAIN);
    let mut plan = answer::translate(world, wishes, &offers, &solution);
    plan.unplaced = obstacles::unplaced(world, wishes, &offers, &solution, &plan);
    plan.problems = problems;
    plan
}

#[cfg(test)]
mod tests;
