//! Finds a good answer to the small problem: a beam over the tasks, then moves that make room and fill it anew.
//!
//! The work is bounded by counted steps, never by a clock, so that the same question has the same answer everywhere.

use super::small::{Small, Solution};
use std::cmp::Ordering;

/// Transitions that the beam may look at in all: some 20 ms on a mini PC.
const BEAM_STEPS: usize = 300_000;
/// The widest beam; wider ones found nothing better in 500 random meshes.
const WIDEST: usize = 32;
/// Groups beyond which only the first greedy pass is made: copies of states cost as much as they have groups.
const LARGE: usize = 4_096;
/// States of the beam that are improved by moves.
const IMPROVED: usize = 3;
/// Transitions that the moves may look at in all.
const MOVE_STEPS: usize = 600_000;
/// Less than this is no improvement: sums of the same values in another order differ by less.
const EPSILON: f64 = 1e-9;

/// A good solution. What is pinned is in it; if the pins alone are too much for a pool, those that are come first to
/// last and the rest of that pool stays empty.
#[must_use]
pub fn solve(small: &Small) -> Solution {
    let users = users(small);
    let order = order(small);
    let start = State::start(small, &users);
    let mut best = if small.groups.len() > LARGE {
        let mut state = start;
        state.fill(&order, &mut usize::MAX.clone());
        state
    } else {
        let mut steps = MOVE_STEPS;
        let mut candidates = beam(start, &order);
        candidates.truncate(IMPROVED);
        for state in &mut candidates {
            state.fill(&order, &mut steps);
            improve(state, &order, &mut steps);
            state.tidy();
        }
        candidates.into_iter().max_by(|a, b| a.worth.total_cmp(&b.worth)).expect("a beam ends with a state")
    };
    best.keep_the_rest();
    best.tidy();
    best.solution()
}

/// For each option the tasks that can use it, with the position among their uses.
fn users(small: &Small) -> Vec<Vec<(usize, usize)>> {
    let mut users = vec![Vec::new(); small.options.len()];
    for (task, wanted) in small.tasks.iter().enumerate() {
        for (at, one) in wanted.uses.iter().enumerate() {
            users[one.option].push((task, at));
        }
    }
    users
}

/// Tasks in the order in which they are placed: those worth most first, of equals those with the fewest ways.
fn order(small: &Small) -> Vec<usize> {
    let mut order: Vec<usize> = (0..small.tasks.len()).collect();
    let best = |task: usize| small.tasks[task].uses.iter().map(|one| one.value).fold(0.0, f64::max);
    order.sort_by(|&a, &b| {
        let fewer = || small.tasks[a].uses.len().cmp(&small.tasks[b].uses.len());
        best(b).total_cmp(&best(a)).then_with(fewer).then(a.cmp(&b))
    });
    order
}

#[derive(Clone)]
struct State<'a> {
    small: &'a Small,
    users: &'a [Vec<(usize, usize)>],
    used: Vec<u64>,
    /// Options chosen in each pool.
    inside: Vec<Vec<usize>>,
    /// The chosen option of each group.
    chosen: Vec<Option<usize>>,
    /// For each task its uses with how many copies.
    served: Vec<Vec<(usize, u32)>>,
    worth: f64,
}

/// What a use would change.
#[derive(Clone, Copy)]
struct Step {
    task: usize,
    at: usize,
    gain: f64,
}

impl<'a> State<'a> {
    /// Nothing but what is pinned.
    fn start(small: &'a Small, users: &'a [Vec<(usize, usize)>]) -> Self {
        let pools = small.pools.len();
        let mut state = Self {
            small,
            users,
            used: vec![0; pools],
            inside: vec![Vec::new(); pools],
            chosen: vec![None; small.groups.len()],
            served: vec![Vec::new(); small.tasks.len()],
            worth: small.groups.iter().filter(|group| group.held.is_some()).map(|group| -group.drop).sum(),
        };
        for group in small.groups.iter().filter(|group| group.pinned) {
            if let Some(held) = group.held {
                state.put(held);
            }
        }
        state
    }

    /// Whether `option` fits once what its group has now is gone.
    fn fits(&self, option: usize) -> bool {
        let choice = &self.small.options[option];
        let instead = self.chosen[choice.group];
        choice.takes.iter().all(|take| {
            let gone = instead.map_or(0, |old| bytes_of(self.small, old, take.pool));
            let others = self.inside[take.pool].iter().filter(|&&other| Some(other) != instead);
            let margin = others.map(|&other| margin_of(self.small, other, take.pool)).max().unwrap_or(0);
            let used = self.used[take.pool] - gone + take.bytes;
            used.saturating_add(margin.max(take.margin)) <= self.small.pools[take.pool]
        })
    }

    fn put(&mut self, option: usize) {
        let choice = &self.small.options[option];
        for take in &choice.takes {
            self.used[take.pool] += take.bytes;
            self.inside[take.pool].push(option);
        }
        self.chosen[choice.group] = Some(option);
        let group = &self.small.groups[choice.group];
        self.worth -= self.small.cost(option);
        if group.held.is_some() {
            self.worth += group.drop;
        }
    }

    /// Takes an option away with all that use it.
    fn take_away(&mut self, option: usize) {
        for &(task, at) in &self.users[option] {
            let value = self.small.tasks[task].uses[at].value;
            let worth = &mut self.worth;
            self.served[task].retain(|&(used, copies)| {
                if used == at {
                    *worth -= value * f64::from(copies);
                }
                used != at
            });
        }
        let choice = &self.small.options[option];
        for take in &choice.takes {
            self.used[take.pool] -= take.bytes;
            self.inside[take.pool].retain(|&other| other != option);
        }
        self.chosen[choice.group] = None;
        let group = &self.small.groups[choice.group];
        self.worth += self.small.cost(option);
        if group.held.is_some() {
            self.worth -= group.drop;
        }
    }

    fn copies_left(&self, task: usize) -> u32 {
        let served: u32 = self.served[task].iter().map(|(_, copies)| copies).sum();
        self.small.tasks[task].copies.saturating_sub(served)
    }

    fn copies_at(&self, task: usize, at: usize) -> u32 {
        self.served[task].iter().find(|(used, _)| *used == at).map_or(0, |(_, copies)| *copies)
    }

    /// What one more copy of `task` by its use `at` would gain; `None` = it cannot be.
    fn gain(&self, task: usize, at: usize) -> Option<f64> {
        let one = &self.small.tasks[task].uses[at];
        let choice = &self.small.options[one.option];
        match self.chosen[choice.group] {
            Some(now) if now == one.option => (self.copies_at(task, at) < one.holds).then_some(one.value),
            Some(now) => {
                // Another size of the same model in its place: whoever uses it must be able to use the new one.
                let mut gain = one.value - self.small.cost(one.option) + self.small.cost(now);
                for &(other, used) in &self.users[now] {
                    let copies = self.copies_at(other, used);
                    if copies == 0 {
                        continue;
                    }
                    let there = self.use_of(other, one.option)?;
                    let new = &self.small.tasks[other].uses[there];
                    if copies + u32::from(other == task) > new.holds {
                        return None;
                    }
                    gain += (new.value - self.small.tasks[other].uses[used].value) * f64::from(copies);
                }
                self.fits(one.option).then_some(gain)
            }
            None => {
                let group = &self.small.groups[choice.group];
                let kept = if group.held.is_some() { group.drop } else { 0.0 };
                self.fits(one.option).then(|| one.value - self.small.cost(one.option) + kept)
            }
        }
    }

    fn use_of(&self, task: usize, option: usize) -> Option<usize> {
        self.users[option].iter().find(|(user, _)| *user == task).map(|(_, at)| *at)
    }

    /// Makes a step that [`Self::gain`] allowed.
    fn make(&mut self, step: Step) {
        let option = self.small.tasks[step.task].uses[step.at].option;
        let group = self.small.options[option].group;
        match self.chosen[group] {
            Some(now) if now == option => {}
            Some(now) => {
                let moved: Vec<(usize, u32)> = self.users[now]
                    .iter()
                    .map(|&(task, at)| (task, self.copies_at(task, at)))
                    .filter(|(_, copies)| *copies > 0)
                    .collect();
                self.take_away(now);
                self.put(option);
                for (task, copies) in moved {
                    if let Some(at) = self.use_of(task, option) {
                        self.serve(task, at, copies);
                    }
                }
            }
            None => self.put(option),
        }
        self.serve(step.task, step.at, 1);
    }

    fn serve(&mut self, task: usize, at: usize, copies: u32) {
        self.worth += self.small.tasks[task].uses[at].value * f64::from(copies);
        match self.served[task].iter_mut().find(|(used, _)| *used == at) {
            Some((_, served)) => *served += copies,
            None => self.served[task].push((at, copies)),
        }
    }

    /// The best step for `task`.
    fn best_step(&self, task: usize, steps: &mut usize) -> Option<Step> {
        let mut best: Option<Step> = None;
        for (at, one) in self.small.tasks[task].uses.iter().enumerate() {
            // Uses are sorted by value: no later one can gain more than what it is worth and its group's drop.
            let group = &self.small.groups[self.small.options[one.option].group];
            if best.is_some_and(|best| best.gain >= one.value + group.drop + SAVING) {
                continue;
            }
            *steps = steps.saturating_sub(1);
            if let Some(gain) = self.gain(task, at)
                && gain > EPSILON
                && best.is_none_or(|best| gain > best.gain + EPSILON)
            {
                best = Some(Step { task, at, gain });
            }
        }
        best
    }

    /// Serves what is not served, in `order`, each copy in its best way.
    fn fill(&mut self, order: &[usize], steps: &mut usize) {
        for &task in order {
            while self.copies_left(task) > 0 && *steps > 0 {
                let Some(step) = self.best_step(task, steps) else { break };
                self.make(step);
            }
        }
    }

    /// What was held and is in nobody's way stays.
    fn keep_the_rest(&mut self) {
        let small = self.small;
        let mut held: Vec<(usize, f64)> = small
            .groups
            .iter()
            .enumerate()
            .filter(|(number, _)| self.chosen[*number].is_none())
            .filter_map(|(_, group)| group.held.map(|held| (held, group.drop)))
            .collect();
        held.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for (option, _) in held {
            if self.fits(option) {
                self.put(option);
            }
        }
    }

    /// Serves each copy by the best of what is chosen. Tasks do not compete: how often an option can be used is said for
    /// each task.
    fn assign(&mut self) {
        for (number, task) in self.small.tasks.iter().enumerate() {
            for (at, copies) in std::mem::take(&mut self.served[number]) {
                self.worth -= task.uses[at].value * f64::from(copies);
            }
            let mut left = task.copies;
            for (at, one) in task.uses.iter().enumerate() {
                let group = self.small.options[one.option].group;
                if left > 0 && self.chosen[group] == Some(one.option) {
                    let copies = left.min(one.holds);
                    self.serve(number, at, copies);
                    left -= copies;
                }
            }
        }
    }

    /// Serves by the best of what is chosen, and takes away what then serves nobody and was not held.
    fn tidy(&mut self) {
        self.assign();
        let unused = |state: &Self, option: usize| {
            let group = &state.small.groups[state.small.options[option].group];
            let is_used = state.users[option].iter().any(|&(task, at)| state.copies_at(task, at) > 0);
            !is_used && group.held != Some(option) && !group.pinned
        };
        for option in self.chosen.clone().into_iter().flatten() {
            if unused(self, option) {
                self.take_away(option);
            }
        }
        self.keep_the_rest();
    }

    fn solution(mut self) -> Solution {
        for served in &mut self.served {
            served.sort_unstable();
        }
        Solution { chosen: self.chosen.into_iter().flatten().collect(), served: self.served }
    }
}

/// The most that replacing one size of a model by another can save beside its own value: costs and values of others are
/// small against a value, see `placement/offers.rs`.
const SAVING: f64 = 1.0;

fn bytes_of(small: &Small, option: usize, pool: usize) -> u64 {
    small.options[option].takes.iter().find(|take| take.pool == pool).map_or(0, |take| take.bytes)
}

fn margin_of(small: &Small, option: usize, pool: usize) -> u64 {
    small.options[option].takes.iter().find(|take| take.pool == pool).map_or(0, |take| take.margin)
}

/// Places copy after copy, and keeps the best states of each length.
fn beam<'a>(start: State<'a>, order: &[usize]) -> Vec<State<'a>> {
    let small = start.small;
    let transitions: usize =
        order.iter().map(|&task| small.tasks[task].uses.len() * small.tasks[task].copies as usize).sum();
    let width = (BEAM_STEPS / transitions.max(1)).clamp(1, WIDEST);
    let mut states = vec![start];
    for &task in order {
        for _ in 0..small.tasks[task].copies {
            let mut next: Vec<(f64, usize, Option<Step>)> = Vec::new();
            for (from, state) in states.iter().enumerate() {
                // Unserved is a way, too: a later task may be worth more than this one leaves room for.
                next.push((state.worth, from, None));
                for at in 0..small.tasks[task].uses.len() {
                    if let Some(gain) = state.gain(task, at) {
                        next.push((state.worth + gain, from, Some(Step { task, at, gain })));
                    }
                }
            }
            next.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then_with(|| step_order(a.2, b.2)));
            let mut seen: Vec<State<'a>> = Vec::new();
            for (_, from, step) in next {
                let mut state = states[from].clone();
                if let Some(step) = step {
                    state.make(step);
                }
                // Two orders of the same steps end in the same state.
                if seen.iter().all(|other| other.chosen != state.chosen || other.served != state.served) {
                    seen.push(state);
                }
                if seen.len() == width {
                    break;
                }
            }
            states = seen;
        }
    }
    states
}

fn step_order(a: Option<Step>, b: Option<Step>) -> Ordering {
    a.map(|step| step.at).cmp(&b.map(|step| step.at))
}

/// Moves until none helps: a use is forced in, what stands in its way goes, and all that is unserved is placed anew.
fn improve(state: &mut State<'_>, order: &[usize], steps: &mut usize) {
    let mut improved = true;
    while improved && *steps > 0 {
        improved = false;
        for &task in order {
            for at in 0..state.small.tasks[task].uses.len() {
                if *steps == 0 {
                    return;
                }
                for trial in forced(state, task, at) {
                    let mut trial = trial;
                    trial.fill(order, steps);
                    if trial.worth > state.worth + EPSILON {
                        *state = trial;
                        improved = true;
                    }
                }
            }
        }
        // And without each of what is chosen.
        for option in state.chosen.clone().into_iter().flatten() {
            if is_pinned(state.small, option)
                || state.chosen[state.small.options[option].group] != Some(option)
            {
                continue;
            }
            let mut trial = state.clone();
            trial.take_away(option);
            trial.fill(order, steps);
            if trial.worth > state.worth + EPSILON {
                *state = trial;
                improved = true;
            }
        }
    }
}

fn is_pinned(small: &Small, option: usize) -> bool {
    small.groups[small.options[option].group].pinned
}

/// The states in which `task` uses its use `at`: one for each way of making room, by what leaves first.
fn forced<'a>(state: &State<'a>, task: usize, at: usize) -> Vec<State<'a>> {
    let small = state.small;
    let one = &small.tasks[task].uses[at];
    let group = small.options[one.option].group;
    if state.chosen[group] == Some(one.option) && state.copies_at(task, at) >= one.holds {
        return Vec::new();
    }
    let mut base = state.clone();
    // The task gives up its worst copy, if it has none left.
    if base.copies_left(task) == 0 {
        let worst = base.served[task]
            .iter()
            .filter(|(used, _)| *used != at)
            .min_by(|a, b| small.tasks[task].uses[a.0].value.total_cmp(&small.tasks[task].uses[b.0].value))
            .map(|(used, _)| *used);
        let Some(worst) = worst else { return Vec::new() };
        base.give_up(task, worst);
    }
    if let Some(now) = base.chosen[group].filter(|now| *now != one.option) {
        if is_pinned(small, now) && base.gain(task, at).is_none() {
            return Vec::new();
        }
        if base.gain(task, at).is_none() && !is_pinned(small, now) {
            base.take_away(now);
        }
    }
    let mut ways: Vec<State<'a>> = Vec::new();
    for largest_first in [false, true] {
        let mut trial = base.clone();
        while trial.gain(task, at).is_none() {
            let Some(victim) = victim(&trial, one.option, largest_first) else { break };
            trial.take_away(victim);
        }
        if let Some(gain) = trial.gain(task, at) {
            trial.make(Step { task, at, gain });
            ways.push(trial);
        }
    }
    ways
}

impl State<'_> {
    /// One copy fewer; an option that then serves nobody goes, unless it is pinned.
    fn give_up(&mut self, task: usize, at: usize) {
        let one = self.small.tasks[task].uses[at];
        self.worth -= one.value;
        for (used, copies) in &mut self.served[task] {
            if *used == at {
                *copies -= 1;
            }
        }
        self.served[task].retain(|(_, copies)| *copies > 0);
        let is_used = self.users[one.option].iter().any(|&(task, at)| self.copies_at(task, at) > 0);
        if !is_used && !is_pinned(self.small, one.option) {
            self.take_away(one.option);
        }
    }
}

/// What goes from the pools that `option` does not fit in: what loses the least, or what frees the most.
fn victim(state: &State<'_>, option: usize, largest_first: bool) -> Option<usize> {
    let small = state.small;
    let choice = &small.options[option];
    let mut inside: Vec<usize> =
        choice.takes.iter().flat_map(|take| state.inside[take.pool].iter().copied()).collect();
    inside.sort_unstable();
    inside.dedup();
    let loss = |other: usize| -> f64 {
        let served = state.users[other]
            .iter()
            .map(|&(task, at)| small.tasks[task].uses[at].value * f64::from(state.copies_at(task, at)));
        served.sum::<f64>() - small.cost(other)
    };
    let frees =
        |other: usize| -> u64 { choice.takes.iter().map(|take| bytes_of(small, other, take.pool)).sum() };
    inside
        .into_iter()
        .filter(|other| !is_pinned(small, *other) && small.options[*other].group != choice.group)
        .min_by(|&a, &b| {
            if largest_first {
                frees(b).cmp(&frees(a)).then(a.cmp(&b))
            } else {
                loss(a).total_cmp(&loss(b)).then(a.cmp(&b))
            }
        })
}

/// Solves until the answer is one that would be given again if it were followed, so that a plan does not move on its
/// own. What is held stays unless another answer is worth more by `least`.
#[must_use]
pub fn settled(small: &Small, least: f64) -> Solution {
    /// Rounds after which the last answer is taken. Each must be worth more than the one before, so few are made.
    const ROUNDS: usize = 8;
    let mut best = stay(small);
    let first = solve(small);
    if small.worth(&first) > small.worth(&best) + least {
        best = first;
    }
    // The search may find in the world that a plan leads to what it did not find from here.
    let mut world = small.clone();
    for _ in 0..ROUNDS {
        world.settle(&best);
        let again = solve(&world);
        if world.worth(&again) <= world.worth(&best) + least {
            break;
        }
        best = again;
    }
    best
}

/// All that is held stays where it is, and what is not served by it is placed beside it.
fn stay(small: &Small) -> Solution {
    let users = users(small);
    let mut state = State::start(small, &users);
    state.keep_the_rest();
    state.assign();
    state.fill(&order(small), &mut MOVE_STEPS.clone());
    state.tidy();
    state.solution()
}
