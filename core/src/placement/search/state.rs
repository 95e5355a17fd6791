//! What is chosen so far, and what each change of it is worth; [`super`] says which changes are tried.
//!
//! Tasks do not compete for an option (how often it can be used is said for each task), so what is chosen says who is
//! served by what: each task by the best of it.

use super::index::Index;
use crate::placement::small::{Small, Solution};

/// Less than this is no improvement: sums of the same values in another order differ by less.
pub(super) const EPSILON: f64 = 1e-9;

/// One change of what is chosen.
#[derive(Clone, Copy)]
enum Change {
    Put(usize),
    Taken(usize),
}

/// Where to go back to.
pub(super) struct Mark {
    changes: usize,
    worth: f64,
}

#[derive(Clone)]
pub(super) struct State<'a> {
    pub(super) small: &'a Small,
    pub(super) index: &'a Index,
    used: Vec<u64>,
    /// Options chosen in each pool.
    inside: Vec<Vec<usize>>,
    /// The chosen option of each group.
    pub(super) chosen: Vec<Option<usize>>,
    /// For each task those of its uses whose option is chosen, best first.
    open: Vec<Vec<usize>>,
    /// What each task is worth by them.
    values: Vec<f64>,
    pub(super) worth: f64,
    /// Equal for equal choices, whatever the order they were made in.
    pub(super) print: u64,
    /// What was changed since [`Self::accept`].
    changes: Vec<Change>,
}

impl<'a> State<'a> {
    /// Nothing.
    fn empty(small: &'a Small, index: &'a Index) -> Self {
        let pools = small.pools.len();
        Self {
            small,
            index,
            used: vec![0; pools],
            inside: vec![Vec::new(); pools],
            chosen: vec![None; small.groups.len()],
            open: vec![Vec::new(); small.tasks.len()],
            values: vec![0.0; small.tasks.len()],
            worth: small.groups.iter().filter(|group| group.held.is_some()).map(|group| -group.drop).sum(),
            print: 0,
            changes: Vec::new(),
        }
    }

    /// Nothing but what is pinned, each as it is held unless a smaller size must take its place.
    pub(super) fn start(small: &'a Small, index: &'a Index) -> Self {
        Self::with(small, index, std::iter::empty())
    }

    /// What is pinned and `chosen`, but for what does not fit any more.
    pub(super) fn with(small: &'a Small, index: &'a Index, chosen: impl Iterator<Item = usize>) -> Self {
        let mut state = Self::empty(small, index);
        for option in chosen {
            if state.chosen[small.options[option].group].is_none() {
                state.put(option);
            }
        }
        for (number, group) in small.groups.iter().enumerate() {
            if let Some(held) = group.held.filter(|_| group.pinned && state.chosen[number].is_none()) {
                state.put(held);
            }
        }
        for pool in 0..small.pools.len() {
            while state.over(pool) > 0 && state.relieve(pool) {}
        }
        state.accept();
        state
    }

    /// How much of its pools `option` takes, each counted as 1; less what its group has now.
    pub(super) fn share(&self, option: usize) -> f64 {
        let of = |option: usize| -> f64 {
            let takes = self.small.options[option].takes.iter();
            takes.map(|take| take.bytes as f64 / self.small.pools[take.pool].max(1) as f64).sum()
        };
        of(option) - self.chosen[self.small.options[option].group].map_or(0.0, of)
    }

    /// Bytes that `pool` has too many.
    fn over(&self, pool: usize) -> u64 {
        let margin = self.inside[pool].iter().map(|&option| self.take(option, pool).1).max().unwrap_or(0);
        let all = if self.used[pool] == 0 { 0 } else { self.used[pool].saturating_add(margin) };
        all.saturating_sub(self.small.pools[pool])
    }

    /// Takes what is missed least out of an overfull pool, or a pinned model's smaller size in its place.
    fn relieve(&mut self, pool: usize) -> bool {
        let least = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0));
        let inside = self.inside[pool].iter().copied();
        let loose = inside.filter(|&option| !self.is_pinned(option));
        if let Some((option, _)) = loose.map(|option| (option, self.loss(option))).min_by(least) {
            self.take_away(option);
            return true;
        }
        let mut smaller = Vec::new();
        for &option in &self.inside[pool] {
            let (bytes, _) = self.take(option, pool);
            let sizes = self.index.options(self.small.options[option].group).iter().copied();
            let sizes =
                sizes.filter(|&size| self.take(size, pool).0 < bytes && self.fits_but(size, Some(pool)));
            smaller.extend(sizes.map(|size| (size, -self.difference(size))));
        }
        let Some((option, _)) = smaller.into_iter().min_by(least) else { return false };
        self.swap_in(option);
        true
    }

    /// Bytes and margin that `option` takes of `pool`.
    fn take(&self, option: usize, pool: usize) -> (u64, u64) {
        let takes = &self.small.options[option].takes;
        takes.iter().find(|take| take.pool == pool).map_or((0, 0), |take| (take.bytes, take.margin))
    }

    pub(super) fn is_pinned(&self, option: usize) -> bool {
        self.small.groups[self.small.options[option].group].pinned
    }

    /// What choosing `option` lacks in `pool`, by the bytes it takes there, once what its group has now is gone.
    fn lacks(&self, option: usize, pool: usize, bytes: u64, margin: u64) -> u64 {
        let instead = self.chosen[self.small.options[option].group];
        let gone = instead.map_or(0, |old| self.take(old, pool).0);
        let others = self.inside[pool].iter().filter(|&&other| Some(other) != instead);
        let margin = others.map(|&other| self.take(other, pool).1).fold(margin, u64::max);
        let used = (self.used[pool] - gone).saturating_add(bytes).saturating_add(margin);
        used.saturating_sub(self.small.pools[pool])
    }

    /// Whether `option` fits once what its group has now is gone.
    pub(super) fn fits(&self, option: usize) -> bool {
        self.fits_but(option, None)
    }

    fn fits_but(&self, option: usize, but: Option<usize>) -> bool {
        let takes = self.small.options[option].takes.iter().filter(|take| Some(take.pool) != but);
        takes.into_iter().all(|take| self.lacks(option, take.pool, take.bytes, take.margin) == 0)
    }

    /// What `task` is worth by what is chosen, `without` one option and `with` one more of its uses.
    fn value(&self, task: usize, without: Option<usize>, with: Option<usize>) -> f64 {
        let wanted = &self.small.tasks[task];
        let (mut left, mut value, mut with) = (wanted.copies, 0.0, with);
        for &at in &self.open[task] {
            if let Some(new) = with.filter(|&new| new < at) {
                let one = &wanted.uses[new];
                let copies = left.min(one.holds);
                value += one.value * f64::from(copies);
                left -= copies;
                with = None;
            }
            if left == 0 {
                return value;
            }
            let one = &wanted.uses[at];
            if without != Some(one.option) {
                let copies = left.min(one.holds);
                value += one.value * f64::from(copies);
                left -= copies;
            }
        }
        if let Some(new) = with {
            let one = &wanted.uses[new];
            value += one.value * f64::from(left.min(one.holds));
        }
        value
    }

    /// Copies of `task` that nothing serves.
    pub(super) fn unserved(&self, task: usize) -> u32 {
        let wanted = &self.small.tasks[task];
        self.open[task].iter().fold(wanted.copies, |left, &at| left.saturating_sub(wanted.uses[at].holds))
    }

    /// Whether `option`, which is chosen, serves a copy of something.
    fn is_used(&self, option: usize) -> bool {
        self.is_used_by(option, |_| true)
    }

    /// Whether `option`, which is chosen, serves a copy of one of the tasks that `of` names.
    pub(super) fn is_used_by(&self, option: usize, of: impl Fn(usize) -> bool) -> bool {
        self.index.users(option).iter().filter(|(task, _)| of(*task)).any(|&(task, at)| {
            let wanted = &self.small.tasks[task];
            let better = self.open[task].iter().take_while(|&&other| other != at);
            wanted.copies > better.map(|&other| wanted.uses[other].holds).fold(0, u32::saturating_add)
        })
    }

    /// By how much the worth would rise with `option` in the place of what its group has, room or not.
    pub(super) fn difference(&self, option: usize) -> f64 {
        let group = &self.small.groups[self.small.options[option].group];
        let now = self.chosen[self.small.options[option].group];
        let users = self.index.users(option);
        let mut rise = match now {
            Some(now) => self.small.cost(now),
            None if group.held.is_some() => group.drop,
            None => 0.0,
        };
        rise -= self.small.cost(option);
        for &(task, at) in users {
            rise += self.value(task, now, Some(at)) - self.values[task];
        }
        for &(task, _) in now.map_or(&[][..], |now| self.index.users(now)) {
            if users.binary_search_by_key(&task, |user| user.0).is_err() {
                rise += self.value(task, now, None) - self.values[task];
            }
        }
        rise
    }

    /// What taking `option` away would lose.
    pub(super) fn loss(&self, option: usize) -> f64 {
        let group = &self.small.groups[self.small.options[option].group];
        let kept = if group.held.is_some() { group.drop } else { 0.0 };
        let users = self.index.users(option).iter();
        let served = users.map(|&(task, _)| self.values[task] - self.value(task, Some(option), None));
        served.sum::<f64>() + kept - self.small.cost(option)
    }

    fn put(&mut self, option: usize) {
        let choice = &self.small.options[option];
        for take in &choice.takes {
            self.used[take.pool] += take.bytes;
            self.inside[take.pool].push(option);
        }
        self.chosen[choice.group] = Some(option);
        let group = &self.small.groups[choice.group];
        self.worth += if group.held.is_some() { group.drop } else { 0.0 } - self.small.cost(option);
        for &(task, at) in self.index.users(option) {
            let open = &mut self.open[task];
            open.insert(open.partition_point(|&other| other < at), at);
            self.value_anew(task);
        }
        self.print ^= mixed(option);
        self.changes.push(Change::Put(option));
    }

    pub(super) fn take_away(&mut self, option: usize) {
        let choice = &self.small.options[option];
        for take in &choice.takes {
            self.used[take.pool] -= take.bytes;
            self.inside[take.pool].retain(|&other| other != option);
        }
        self.chosen[choice.group] = None;
        let group = &self.small.groups[choice.group];
        self.worth -= if group.held.is_some() { group.drop } else { 0.0 } - self.small.cost(option);
        for &(task, at) in self.index.users(option) {
            self.open[task].retain(|&other| other != at);
            self.value_anew(task);
        }
        self.print ^= mixed(option);
        self.changes.push(Change::Taken(option));
    }

    fn value_anew(&mut self, task: usize) {
        let value = self.value(task, None, None);
        self.worth += value - self.values[task];
        self.values[task] = value;
    }

    /// Chooses `option` in the place of what its group has.
    pub(super) fn swap_in(&mut self, option: usize) {
        if let Some(now) = self.chosen[self.small.options[option].group] {
            self.take_away(now);
        }
        self.put(option);
    }

    /// [`Self::print`] after [`Self::swap_in`].
    pub(super) fn print_with(&self, option: usize) -> u64 {
        let now = self.chosen[self.small.options[option].group];
        self.print ^ mixed(option) ^ now.map_or(0, mixed)
    }

    /// What was changed is there to stay.
    pub(super) fn accept(&mut self) {
        self.changes.clear();
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { changes: self.changes.len(), worth: self.worth }
    }

    /// Undoes what was changed since `mark`.
    pub(super) fn back_to(&mut self, mark: &Mark) {
        while self.changes.len() > mark.changes {
            match self.changes.pop() {
                Some(Change::Put(option)) => self.take_away(option),
                Some(Change::Taken(option)) => self.put(option),
                None => {}
            }
            // What undoing changed is no change.
            self.changes.pop();
        }
        self.worth = mark.worth;
    }

    /// Tasks that want more and that the changes since `mark` may have made room for, or taken from.
    pub(super) fn touched(&self, mark: &Mark) -> Vec<usize> {
        let mut tasks = Vec::new();
        for change in &self.changes[mark.changes..] {
            let (Change::Put(option) | Change::Taken(option)) = *change;
            tasks.extend(self.index.users(option).iter().map(|&(task, _)| task));
            for take in &self.small.options[option].takes {
                tasks.extend(self.index.tasks(take.pool));
            }
        }
        tasks.sort_unstable();
        tasks.dedup();
        tasks.retain(|&task| self.unserved(task) > 0);
        tasks
    }

    /// Ways of making room for `option`: what could go from the pools that lack bytes, with the smaller size that takes
    /// its place or none, what that loses, and how much of what is lacked it frees. Groups that are `fixed` stay, and
    /// those of what is `gone` already are not made smaller again.
    pub(super) fn victims(&self, option: usize, gone: &[usize], fixed: &[bool]) -> Vec<Victim> {
        let choice = &self.small.options[option];
        let takes = choice.takes.iter();
        let lacks: Vec<(usize, u64)> = takes
            .map(|take| (take.pool, self.lacks(option, take.pool, take.bytes, take.margin)))
            .filter(|(_, lacks)| *lacks > 0)
            .collect();
        let mut inside: Vec<usize> =
            lacks.iter().flat_map(|(pool, _)| self.inside[*pool].iter().copied()).collect();
        inside.sort_unstable();
        inside.dedup();
        let mut victims = Vec::new();
        for other in inside {
            let group = self.small.options[other].group;
            if group == choice.group || fixed[group] {
                continue;
            }
            let frees = |by: Option<usize>| -> (u64, u64) {
                let freed = lacks.iter().map(|&(pool, lacks)| {
                    let kept = by.map_or(0, |by| self.take(by, pool).0);
                    let freed = self.take(other, pool).0.saturating_sub(kept);
                    (freed, freed.min(lacks))
                });
                freed.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
            };
            if !self.is_pinned(other) {
                let (frees, helps) = frees(None);
                victims.push(Victim { option: other, smaller: None, loses: self.loss(other), frees, helps });
            }
            for &smaller in self.index.options(group) {
                // What moved from one pool of `option` to another could be moved to and fro for ever.
                if smaller == other || gone.iter().any(|&gone| self.small.options[gone].group == group) {
                    continue;
                }
                let (frees, helps) = frees(Some(smaller));
                if helps > 0 && self.fits(smaller) {
                    let loses = -self.difference(smaller);
                    victims.push(Victim { option: other, smaller: Some(smaller), loses, frees, helps });
                }
            }
        }
        victims.retain(|victim| victim.helps > 0);
        victims
    }

    /// What was held and is in nobody's way stays; first what would be missed most.
    pub(super) fn keep_the_rest(&mut self) {
        let small = self.small;
        let groups = small.groups.iter().zip(&self.chosen).filter(|(_, chosen)| chosen.is_none());
        let mut held: Vec<(usize, f64)> = groups
            .filter_map(|(group, _)| group.held)
            .filter(|&held| self.fits(held))
            .map(|held| (held, self.difference(held)))
            .collect();
        held.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for (option, _) in held {
            if self.fits(option) {
                self.put(option);
            }
        }
    }

    /// Takes away those of the options that share a task with `option` which cost more than they are worth beside it.
    pub(super) fn thin_out(&mut self, option: usize, fixed: &[bool]) {
        for &(task, _) in self.index.users(option) {
            let uses = &self.small.tasks[task].uses;
            // Worst first: each is judged beside those that are better.
            let others: Vec<usize> = self.open[task].iter().rev().map(|&at| uses[at].option).collect();
            for other in others {
                let group = self.small.options[other].group;
                let may_go = self.chosen[group] == Some(other)
                    && self.small.groups[group].held != Some(other)
                    && !self.small.groups[group].pinned
                    && !fixed[group];
                if other != option && may_go && self.loss(other) < EPSILON {
                    self.take_away(other);
                }
            }
        }
    }

    /// Takes away what serves nobody and was not held, and lets what was held stay in its room.
    pub(super) fn tidy(&mut self) {
        for group in 0..self.chosen.len() {
            if let Some(option) = self.chosen[group]
                && !self.small.groups[group].pinned
                && self.small.groups[group].held != Some(option)
                && !self.is_used(option)
            {
                self.take_away(option);
            }
        }
        self.keep_the_rest();
        self.accept();
    }

    pub(super) fn solution(self) -> Solution {
        let served = self.small.tasks.iter().zip(&self.open).map(|(task, open)| {
            let mut left = task.copies;
            let copies = open.iter().map(|&at| {
                let copies = left.min(task.uses[at].holds);
                left -= copies;
                (at, copies)
            });
            copies.filter(|(_, copies)| *copies > 0).collect()
        });
        Solution { served: served.collect(), chosen: self.chosen.iter().flatten().copied().collect() }
    }
}

/// One way of making some room.
pub(super) struct Victim {
    pub(super) option: usize,
    pub(super) smaller: Option<usize>,
    pub(super) loses: f64,
    /// Bytes, in all pools that lack some.
    pub(super) frees: u64,
    /// Of those, how many are lacked; above 0.
    pub(super) helps: u64,
}

/// A number without likeness to those of other options (the finaliser of SplitMix64).
fn mixed(option: usize) -> u64 {
    let mixed = (option as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
