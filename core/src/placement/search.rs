//! Finds a good answer to the small problem: a beam over the tasks, then moves that make room and fill it anew, then
//! machines that are emptied two at a time and filled anew. `benches/placement_gap.rs` measures how good it is.
//!
//! The work is bounded by counted steps, never by a clock, so that the same question has the same answer everywhere.

mod index;
mod state;

use super::small::{Small, Solution};
use index::{Index, machines};
use state::{EPSILON, State, Victim};

/// Steps that the beam may take in all. A step looks at one option, or at what it means to one task: 10 to 25 ns.
const BEAM_STEPS: usize = 250_000;
/// The widest beam. It is narrower where one state takes more than a 32nd of the steps from the first task to the last.
const WIDEST: usize = 32;
/// Groups beyond which there is no beam: copies of states cost as much as they have groups.
const LARGE: usize = 4_096;
/// States of the beam that are improved by moves.
const IMPROVED: usize = 3;
/// Steps that the moves may take in all.
const MOVE_STEPS: usize = 200_000;
/// Steps that rebuilding machines may take in all.
const REBUILD_STEPS: usize = 200_000;
/// The beam when machines are rebuilt.
const NARROW: usize = 8;
/// Steps that the moves of one event may take.
const EVENT_STEPS: usize = 100_000;

/// A good solution. What is pinned is in it, if need be in a smaller size; if the pins alone are too much for a pool,
/// the rest of that pool stays empty.
#[must_use]
pub fn solve(small: &Small) -> Solution {
    let index = Index::new(small);
    let search = Search::new(small, &index);
    let start = State::start(small, &index);
    let mut candidates = if small.groups.len() > LARGE {
        let mut state = start.clone();
        search.fill(&mut state, &search.order.clone(), &mut usize::MAX.clone());
        vec![state]
    } else {
        search.beam(start.clone(), search.width(), 0.0, |_| true, &mut usize::MAX.clone())
    };
    candidates.truncate(IMPROVED);
    if small.groups.iter().any(|group| group.held.is_some()) {
        // Last, for of equals the last is taken: what moves nothing.
        candidates.push(search.stay(start));
    }
    let mut steps = MOVE_STEPS;
    let mut left = candidates.len();
    for state in &mut candidates {
        let mut share = steps / left;
        steps -= share;
        search.improve(state, &mut share);
        state.tidy();
        steps += share;
        left -= 1;
    }
    let best = candidates.into_iter().max_by(|a, b| a.worth.total_cmp(&b.worth));
    let mut best = best.expect("a beam ends with a state");
    if small.groups.len() <= LARGE {
        search.rebuild(&mut best, &mut REBUILD_STEPS.clone());
    }
    best.solution()
}

/// Solves until the answer is one that would be given again if it were followed, so that a plan does not move on its
/// own. What is held stays unless another answer is worth more by `least`.
#[must_use]
pub fn settled(small: &Small, least: f64) -> Solution {
    /// Rounds after which the last answer is taken. Each must be worth more than the one before, so few are made.
    const ROUNDS: usize = 16;
    let mut best = stay(small);
    let mut world = small.clone();
    let better = solve(small);
    if small.worth(&better) > small.worth(&best) + least.max(EPSILON) {
        best = better;
    }
    // What is chosen costs less once it is there, and what is not costs no less: a good answer stays one.
    for _ in 0..ROUNDS {
        world.clone_from(small);
        world.settle(&best);
        let again = stay(&world);
        if again.chosen != best.chosen {
            best = again;
            continue;
        }
        best = again;
        let better = solve(&world);
        if world.worth(&better) <= world.worth(&best) + least.max(EPSILON) {
            break;
        }
        best = better;
    }
    best
}

/// All that is held stays where it is, and what is not served by it is placed beside it.
fn stay(small: &Small) -> Solution {
    let index = Index::new(small);
    Search::new(small, &index).stay(State::start(small, &index)).solution()
}

/// Serves `tasks` anew, and those that used what does not fit any more. What serves others stays, or something that is
/// worth as much to them takes its place. For an event
/// in a large mesh: beside plain copies the work is that of these tasks.
#[must_use]
pub fn resolve(small: &Small, solution: &Solution, tasks: &[usize]) -> Solution {
    let index = Index::new(small);
    let mut search = Search::new(small, &index);
    let mut state = State::with(small, &index, solution.chosen.iter().copied());
    search.asked.fill(false);
    for &task in tasks {
        search.asked[task] = true;
    }
    for &option in &solution.chosen {
        if state.chosen[small.options[option].group] != Some(option) {
            for &(task, _) in index.users(option) {
                search.asked[task] = true;
            }
        }
    }
    let Search { asked, fixed, order, .. } = &mut search;
    order.retain(|&task| asked[task]);
    for option in state.chosen.iter().flatten() {
        fixed[small.options[*option].group] = state.is_used_by(*option, |task| !asked[task]);
    }
    search.improve(&mut state, &mut EVENT_STEPS.clone());
    state.tidy();
    state.solution()
}

struct Search<'a> {
    small: &'a Small,
    index: &'a Index,
    /// Tasks in the order in which they are placed: those worth most first, of equals those with the fewest ways.
    order: Vec<usize>,
    /// The place of each task in it.
    rank: Vec<usize>,
    /// Tasks that are served; the others are left as they are.
    asked: Vec<bool>,
    /// Groups that stay as they are.
    fixed: Vec<bool>,
}

/// By what is chosen who goes when room must be made.
#[derive(Clone, Copy)]
enum Way {
    /// What loses the least for the bytes.
    Cheapest,
    /// What loses the least.
    Least,
    /// What frees the most.
    Largest,
}

impl<'a> Search<'a> {
    fn new(small: &'a Small, index: &'a Index) -> Self {
        let best = |task: usize| small.tasks[task].uses.iter().map(|one| one.value).fold(0.0, f64::max);
        let keys: Vec<(f64, usize)> =
            (0..small.tasks.len()).map(|task| (best(task), small.tasks[task].uses.len())).collect();
        let mut order: Vec<usize> = (0..small.tasks.len()).collect();
        order.sort_by(|&a, &b| {
            keys[b].0.total_cmp(&keys[a].0).then(keys[a].1.cmp(&keys[b].1)).then(a.cmp(&b))
        });
        let mut rank = vec![0; order.len()];
        for (place, &task) in order.iter().enumerate() {
            rank[task] = place;
        }
        let (asked, fixed) = (vec![true; order.len()], vec![false; small.groups.len()]);
        Self { small, index, order, rank, asked, fixed }
    }

    /// What is held, and what is not served by it beside it.
    fn stay(&self, start: State<'a>) -> State<'a> {
        let mut state = start;
        state.keep_the_rest();
        self.fill(&mut state, &self.order, &mut usize::MAX.clone());
        state.tidy();
        state
    }

    /// Serves what is not served, in `order`, each copy in its best way.
    fn fill(&self, state: &mut State<'a>, order: &[usize], steps: &mut usize) {
        for &task in order {
            while state.unserved(task) > 0 && *steps > 0 {
                let Some((option, _)) = self.best_step(state, task, steps) else { break };
                state.swap_in(option);
            }
        }
    }

    /// The option for `task` that the worth rises most by.
    fn best_step(&self, state: &State<'a>, task: usize, steps: &mut usize) -> Option<(usize, f64)> {
        let mut best: Option<(usize, f64)> = None;
        for one in &self.small.tasks[task].uses {
            *steps = steps.saturating_sub(1);
            if let Some(gain) = self.gain(state, one.option, steps)
                && gain > best.map_or(EPSILON, |best| best.1 + EPSILON)
            {
                best = Some((one.option, gain));
            }
        }
        best
    }

    /// What choosing `option` would gain; `None` = it is chosen, or does not fit.
    fn gain(&self, state: &State<'a>, option: usize, steps: &mut usize) -> Option<f64> {
        let group = self.small.options[option].group;
        if state.chosen[group] == Some(option) || self.fixed[group] || !state.fits(option) {
            return None;
        }
        *steps = steps.saturating_sub(self.index.users(option).len());
        Some(state.difference(option))
    }

    /// How wide the beam over everything may be.
    fn width(&self) -> usize {
        let tasks = self.small.tasks.iter();
        let steps = tasks.map(|task| {
            let looks = task.uses.iter().map(|one| 1 + self.index.users(one.option).len());
            looks.sum::<usize>() * task.copies as usize
        });
        (BEAM_STEPS / steps.sum::<usize>().max(1)).clamp(1, WIDEST)
    }

    /// Places copy after copy by the options that are `among` those to choose from, and keeps the best states of each
    /// length, when a full pool has this `price`.
    fn beam(
        &self,
        start: State<'a>,
        width: usize,
        price: f64,
        among: impl Fn(usize) -> bool,
        steps: &mut usize,
    ) -> Vec<State<'a>> {
        // Each with what its pools cost.
        let mut states = vec![(start, 0.0)];
        for &task in &self.order {
            for _ in 0..self.small.tasks[task].copies {
                let mut next: Vec<Branch> = Vec::new();
                for (from, (state, paid)) in states.iter().enumerate() {
                    // Unserved is a way, too: a later task may be worth more than this one leaves room for.
                    next.push(Branch {
                        rank: state.worth - paid,
                        print: state.print,
                        from,
                        option: None,
                        paid: *paid,
                    });
                    for one in &self.small.tasks[task].uses {
                        *steps = steps.saturating_sub(1);
                        if among(one.option)
                            && let Some(gain) = self.gain(state, one.option, steps)
                            && gain > EPSILON
                        {
                            let paid = paid + price * state.share(one.option);
                            let print = state.print_with(one.option);
                            let rank = state.worth + gain - paid;
                            next.push(Branch { rank, print, from, option: Some(one.option), paid });
                        }
                    }
                }
                if next.len() > 4 * width {
                    next.select_nth_unstable_by(4 * width, Branch::order);
                    next.truncate(4 * width);
                }
                next.sort_by(Branch::order);
                let mut seen: Vec<u64> = Vec::new();
                let mut kept = Vec::new();
                for branch in next {
                    // Two orders of the same steps end in the same state.
                    if seen.len() < width && !seen.contains(&branch.print) {
                        seen.push(branch.print);
                        let mut state = states[branch.from].0.clone();
                        if let Some(option) = branch.option {
                            state.swap_in(option);
                            state.accept();
                        }
                        kept.push((state, branch.paid));
                    }
                }
                states = kept;
            }
        }
        states.sort_by(|a, b| b.0.worth.total_cmp(&a.0.worth));
        states.into_iter().map(|(state, _)| state).collect()
    }

    /// Moves until none helps: an option is forced in, what stands in its way goes, and all that is unserved is placed
    /// anew; or one is left out.
    fn improve(&self, state: &mut State<'a>, steps: &mut usize) {
        state.accept();
        self.fill(state, &self.order, steps);
        state.accept();
        let mut improved = true;
        while improved && *steps > 0 {
            improved = false;
            let mut tried = vec![false; self.small.options.len()];
            for &task in &self.order {
                for one in &self.small.tasks[task].uses {
                    if *steps == 0 {
                        return;
                    }
                    if !std::mem::replace(&mut tried[one.option], true) {
                        improved |= self.try_option(state, one.option, steps);
                    }
                }
            }
            for group in 0..state.chosen.len() {
                if let Some(option) = state.chosen[group]
                    && !tried[option]
                {
                    improved |= self.try_option(state, option, steps);
                }
            }
        }
    }

    /// Empties two machines at a time and fills them anew, until that helps nowhere.
    fn rebuild(&self, state: &mut State<'a>, steps: &mut usize) {
        let (machines, count) = machines(self.small);
        let machine =
            |option: usize| self.small.options[option].takes.first().map(|take| machines[take.pool]);
        // First by worth alone, then with a price on room: of 0, 0.4, 1 and 2 that of 0.4 found the most in 3,000 meshes.
        let price = 0.4 * state.worth.max(0.0) / count.max(1) as f64;
        let pairs = (0..count).flat_map(|a| (a..count).map(move |b| (a, b)));
        let pairs: Vec<(usize, usize, f64)> = pairs.flat_map(|(a, b)| [(a, b, 0.0), (a, b, price)]).collect();
        // Pairs since the last that helped.
        let mut idle = 0;
        for &(a, b, price) in pairs.iter().cycle() {
            if idle == pairs.len() || *steps == 0 {
                break;
            }
            idle += 1;
            let of_pair = |option: usize| machine(option).is_some_and(|at| at == a || at == b);
            let mut bare = state.clone();
            for option in state.chosen.iter().flatten().copied() {
                if of_pair(option) && !state.is_pinned(option) {
                    bare.take_away(option);
                }
            }
            bare.accept();
            for mut other in self.beam(bare, NARROW, price, of_pair, steps).into_iter().take(IMPROVED) {
                self.fill(&mut other, &self.order, steps);
                other.tidy();
                if other.worth > state.worth + EPSILON {
                    *state = other;
                    idle = 0;
                }
            }
        }
    }

    /// Whether the state is better with `option`, or without it if it is chosen; then it is so.
    fn try_option(&self, state: &mut State<'a>, option: usize, steps: &mut usize) -> bool {
        let group = self.small.options[option].group;
        *steps = steps.saturating_sub(1);
        if self.fixed[group] {
            return false;
        }
        if state.chosen[group] == Some(option) {
            return !state.is_pinned(option)
                && self.attempt(state, steps, |state, _| {
                    state.take_away(option);
                    true
                });
        }
        if state.fits(option) {
            return self.attempt(state, steps, |state, _| {
                state.swap_in(option);
                state.thin_out(option, &self.fixed);
                true
            });
        }
        [Way::Cheapest, Way::Least, Way::Largest]
            .into_iter()
            .any(|way| self.attempt(state, steps, |state, steps| self.force(state, option, way, steps)))
    }

    /// Makes a change and fills what it left; undone unless that is worth more.
    fn attempt(
        &self,
        state: &mut State<'a>,
        steps: &mut usize,
        change: impl FnOnce(&mut State<'a>, &mut usize) -> bool,
    ) -> bool {
        let mark = state.mark();
        let before = state.worth;
        if change(state, steps) {
            let mut touched = state.touched(&mark);
            touched.retain(|&task| self.asked[task]);
            touched.sort_unstable_by_key(|&task| self.rank[task]);
            *steps = steps.saturating_sub(touched.len());
            self.fill(state, &touched, steps);
            if state.worth > before + EPSILON {
                state.accept();
                return true;
            }
        }
        state.back_to(&mark);
        false
    }

    /// Chooses `option` whatever must go for it; `false` = not enough can.
    fn force(&self, state: &mut State<'a>, option: usize, way: Way, steps: &mut usize) -> bool {
        let mut gone = Vec::new();
        if let Some(now) = state.chosen[self.small.options[option].group]
            && !state.is_pinned(now)
        {
            state.take_away(now);
        }
        while !state.fits(option) {
            let victims = state.victims(option, &gone, &self.fixed);
            let looked: usize = victims.iter().map(|victim| 4 + self.index.users(victim.option).len()).sum();
            *steps = steps.saturating_sub(looked);
            let Some(victim) = victims.into_iter().min_by(|a, b| way.order(a, b)) else { return false };
            match victim.smaller {
                Some(smaller) => state.swap_in(smaller),
                None => state.take_away(victim.option),
            }
            gone.push(victim.option);
        }
        state.swap_in(option);
        state.thin_out(option, &self.fixed);
        // One that went early may find room beside those that went later.
        for back in gone {
            if self.gain(state, back, steps).is_some_and(|gain| gain > EPSILON) {
                state.swap_in(back);
            }
        }
        true
    }
}

/// A state of the beam and one option more.
struct Branch {
    rank: f64,
    print: u64,
    from: usize,
    option: Option<usize>,
    paid: f64,
}

impl Branch {
    /// Best first.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        let same = || (self.from, self.option).cmp(&(other.from, other.option));
        other.rank.total_cmp(&self.rank).then_with(same)
    }
}

impl Way {
    fn order(self, a: &Victim, b: &Victim) -> std::cmp::Ordering {
        let by_way = match self {
            Self::Cheapest => (a.loses / a.helps as f64).total_cmp(&(b.loses / b.helps as f64)),
            Self::Least => a.loses.total_cmp(&b.loses),
            Self::Largest => b.frees.cmp(&a.frees),
        };
        by_way.then_with(|| (a.option, a.smaller).cmp(&(b.option, b.smaller)))
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
