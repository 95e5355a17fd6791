//! The planner's problem without its words: pools of bytes, options that fill them, tasks that options serve.
//!
//! ```text
//! choose options X and an assignment of tasks to them so that
//!   Σ value(task, option) − Σ cost(option) − Σ drop(group whose held option is not chosen)      is largest, and
//!   Σ needs(option, pool) + max margin(option, pool)  ≤  capacity(pool)                         in every pool,
//!   at most one option of a group is chosen         (a model is on a machine once)
//!   a task uses an option at most `holds` times     (copies on one machine are slots)
//! ```

use std::collections::BTreeSet;

/// What an option takes of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Take {
    /// Which, as an index.
    pub pool: usize,
    /// Bytes.
    pub bytes: u64,
    /// Bytes that must stay free beside everything.
    pub margin: u64,
}

/// One way of having a model on a machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Options of the same machine and model have the same group.
    pub group: usize,
    /// What it takes.
    pub takes: Vec<Take>,
    /// What bringing it into memory costs, from the disk.
    pub load: f64,
    /// What it costs by lying where it does, whenever: a hole that only it will not fill, copies that share a machine.
    pub rent: f64,
}

/// All options of one machine and model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Group {
    /// The option that is in memory, or was planned to be.
    pub held: Option<usize>,
    /// What bringing its file to the machine's disk costs; 0 = it is there.
    pub fetch: f64,
    /// What taking the held option out of memory without another in its place costs.
    pub drop: f64,
    /// The held option must stay, or another of its group take its place.
    pub pinned: bool,
}

/// One use of an option by a task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Use {
    /// Which option.
    pub option: usize,
    /// What it is worth, above 0.
    pub value: f64,
    /// How many copies of the task it can take.
    pub holds: u32,
}

/// What shall be served.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Task {
    /// How many copies.
    pub copies: u32,
    /// What could serve it, best first.
    pub uses: Vec<Use>,
}

/// The problem.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Small {
    /// Bytes of each pool.
    pub pools: Vec<u64>,
    /// What could be chosen.
    pub options: Vec<Choice>,
    /// By machine and model.
    pub groups: Vec<Group>,
    /// What is asked for.
    pub tasks: Vec<Task>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Solution {
    /// The options that are chosen.
    pub chosen: BTreeSet<usize>,
    /// For each task the options that serve its copies, as indices into its uses, with how many copies each.
    pub served: Vec<Vec<(usize, u32)>>,
}

impl Small {
    /// What choosing `option` costs, given what its group holds.
    #[must_use]
    pub fn cost(&self, option: usize) -> f64 {
        let choice = &self.options[option];
        let group = &self.groups[choice.group];
        let change = match group.held {
            Some(held) if held == option => 0.0,
            Some(_) => choice.load,
            None => choice.load + group.fetch,
        };
        change + choice.rent
    }

    /// What `solution` is worth.
    #[must_use]
    pub fn worth(&self, solution: &Solution) -> f64 {
        let mut worth = 0.0;
        for (task, served) in self.tasks.iter().zip(&solution.served) {
            for &(at, copies) in served {
                worth += task.uses[at].value * f64::from(copies);
            }
        }
        let mut kept = BTreeSet::new();
        for &option in &solution.chosen {
            worth -= self.cost(option);
            kept.insert(self.options[option].group);
        }
        for (number, group) in self.groups.iter().enumerate() {
            if group.held.is_some() && !kept.contains(&number) {
                worth -= group.drop;
            }
        }
        worth
    }

    /// What is wrong with `solution`; empty = it is one.
    #[must_use]
    pub fn faults(&self, solution: &Solution) -> Vec<String> {
        let mut faults = Vec::new();
        let (mut used, mut margin) = (vec![0_u64; self.pools.len()], vec![0_u64; self.pools.len()]);
        let mut groups = BTreeSet::new();
        for &option in &solution.chosen {
            let choice = &self.options[option];
            if !groups.insert(choice.group) {
                faults.push(format!("group {} is chosen twice", choice.group));
            }
            for take in &choice.takes {
                used[take.pool] = used[take.pool].saturating_add(take.bytes);
                margin[take.pool] = margin[take.pool].max(take.margin);
            }
        }
        for (pool, capacity) in self.pools.iter().enumerate() {
            if used[pool] > 0 && used[pool].saturating_add(margin[pool]) > *capacity {
                faults.push(format!("pool {pool} holds {} + {} of {capacity}", used[pool], margin[pool]));
            }
        }
        for (number, group) in self.groups.iter().enumerate() {
            if group.pinned && !groups.contains(&number) {
                faults.push(format!("group {number} is pinned and not chosen"));
            }
        }
        for (number, (task, served)) in self.tasks.iter().zip(&solution.served).enumerate() {
            if served.iter().map(|(_, copies)| copies).sum::<u32>() > task.copies {
                faults.push(format!("task {number} is served too often"));
            }
            for &(at, copies) in served {
                let one = &task.uses[at];
                if copies > one.holds || !solution.chosen.contains(&one.option) {
                    faults.push(format!("task {number} uses option {} {copies} times", one.option));
                }
            }
        }
        faults
    }

    /// The problem once `solution` is what the machines hold.
    pub fn settle(&mut self, solution: &Solution) {
        for group in &mut self.groups {
            if group.held.take().is_some() {
                group.fetch = 0.0;
            }
        }
        for &option in &solution.chosen {
            let group = &mut self.groups[self.options[option].group];
            group.held = Some(option);
            group.fetch = 0.0;
        }
    }
}
