//! How far the planner's search stays behind an exact solver, on random small meshes: with nothing in memory, and with
//! random models there. Times are of the processor.
//!
//! `cargo bench -p mesh-core --bench placement_gap`; `-- --meshes 500 --seed 1 --limit 20` are the defaults.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

#[path = "measure/cpu_time.rs"]
mod cpu_time;
#[path = "placement/meshes.rs"]
mod meshes;

use cpu_time::CpuTime;
use good_lp::solvers::microlp::microlp;
use good_lp::{
    Expression, Solution as _, SolverModel, Variable, WithTimeLimit, constraint, variable, variables,
};
use mesh_core::placement::search::settled;
use mesh_core::placement::small::{Small, Solution};
use meshes::{Dice, Shape, hold, mesh};
use std::time::Duration;

/// Bytes are told to the exact solver in these, or its tolerances would be of the size of a byte.
const UNIT: f64 = 1_073_741_824.0;

/// What the exact solver came to.
enum Exact {
    Best(f64),
    /// Nothing can be done that keeps the pins.
    Infeasible,
    /// Not proved within its time.
    Late,
}

/// The same question, word for word as in `small.rs`.
fn exact(small: &Small, limit: Duration) -> Exact {
    let mut names = variables!();
    let chosen: Vec<Variable> = small.options.iter().map(|_| names.add(variable().binary())).collect();
    let margins: Vec<Variable> = small.pools.iter().map(|_| names.add(variable().min(0.0))).collect();
    let mut worth = Expression::from(0.0);
    for (option, &is_chosen) in chosen.iter().enumerate() {
        let group = &small.groups[small.options[option].group];
        let kept = if group.held.is_some() { group.drop } else { 0.0 };
        worth += (kept - small.cost(option)) * is_chosen;
    }
    let mut rules = Vec::new();
    for task in &small.tasks {
        let mut copies = Expression::from(0.0);
        for one in &task.uses {
            let most = one.holds.min(task.copies);
            // Whole by itself once what is chosen is: the copies of one task only share their number.
            let served = names.add(variable().min(0.0).max(f64::from(most)));
            worth += one.value * served;
            copies += served;
            rules.push(constraint!(served <= f64::from(most) * chosen[one.option]));
        }
        rules.push(constraint!(copies <= f64::from(task.copies)));
    }
    let mut pools = vec![Expression::from(0.0); small.pools.len()];
    let mut groups = vec![Expression::from(0.0); small.groups.len()];
    for (option, choice) in small.options.iter().enumerate() {
        groups[choice.group] += chosen[option];
        for take in &choice.takes {
            pools[take.pool] += take.bytes as f64 / UNIT * chosen[option];
            rules.push(constraint!(margins[take.pool] >= take.margin as f64 / UNIT * chosen[option]));
        }
    }
    for (pool, used) in pools.into_iter().enumerate() {
        rules.push(constraint!(used + margins[pool] <= small.pools[pool] as f64 / UNIT));
    }
    for (group, options) in small.groups.iter().zip(groups) {
        rules.push(if group.pinned { constraint!(options == 1.0) } else { constraint!(options <= 1.0) });
    }
    let mut problem = names.maximise(worth.clone()).using(microlp).with_time_limit(limit.as_secs_f64());
    for rule in rules {
        problem.add_constraint(rule);
    }
    let dropped: f64 = small.groups.iter().filter(|group| group.held.is_some()).map(|group| group.drop).sum();
    match problem.solve() {
        Ok(found) if matches!(found.status(), good_lp::solvers::SolutionStatus::Optimal) => {
            Exact::Best(found.eval(worth) - dropped)
        }
        Ok(_) => Exact::Late,
        Err(good_lp::ResolutionError::Infeasible) => Exact::Infeasible,
        Err(_) => Exact::Late,
    }
}

#[derive(Default)]
struct Row {
    meshes: usize,
    late: usize,
    infeasible: usize,
    /// The search served nothing, or broke a rule, where something could be served.
    nothing: usize,
    gaps: Vec<f64>,
    search: Vec<f64>,
    solver: f64,
}

impl Row {
    fn add(&mut self, seed: u64, small: &Small, limit: Duration) {
        self.meshes += 1;
        let begin = CpuTime::now();
        let answer: Solution = settled(small, 0.0);
        self.search.push((CpuTime::now() - begin).as_secs_f64());
        let begin = CpuTime::now();
        let best = exact(small, limit);
        self.solver += (CpuTime::now() - begin).as_secs_f64();
        let best = match best {
            Exact::Best(best) => best,
            Exact::Infeasible => return self.infeasible += 1,
            Exact::Late => return self.late += 1,
        };
        let faults = small.faults(&answer);
        assert!(faults.is_empty(), "mesh {seed}: {faults:?}");
        let worth = small.worth(&answer);
        assert!(worth <= best + 1e-4, "mesh {seed}: the search found {worth}, the solver {best}");
        let is_served = answer.served.iter().any(|served| !served.is_empty());
        if best > 1e-6 && !is_served {
            self.nothing += 1;
        }
        let gap = (best - worth).max(0.0) / best.abs().max(0.1);
        self.gaps.push(gap);
    }

    fn print(&mut self, name: &str) {
        let count = self.gaps.len().max(1) as f64;
        let mean = self.gaps.iter().sum::<f64>() / count;
        let worst = self.gaps.iter().fold(0.0, |a: f64, b| a.max(*b));
        let optimal = self.gaps.iter().filter(|gap| **gap < 1e-6).count() as f64 / count;
        self.search.sort_by(f64::total_cmp);
        let all: f64 = self.search.iter().sum();
        let longest = self.search.last().copied().unwrap_or_default();
        println!(
            "| {name} | {} | {} | {} | {} | {:.3} | {:.2} | {:.1} | {all:.1} | {:.1} | {:.1} |",
            self.meshes,
            self.infeasible,
            self.late,
            self.nothing,
            mean * 100.0,
            worst * 100.0,
            optimal * 100.0,
            longest * 1e3,
            self.solver,
        );
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the benchmark is told its size; the core reads no command line"
)]
fn option(name: &str, default: u64) -> u64 {
    let words: Vec<String> = std::env::args().collect();
    let at = words.iter().position(|word| word == name);
    at.and_then(|at| words.get(at + 1)).map_or(default, |word| word.parse().expect("a whole number"))
}

fn main() {
    let meshes = option("--meshes", 500);
    let seed = option("--seed", 1);
    let limit = Duration::from_secs(option("--limit", 20));
    println!(
        "| memory | meshes | infeasible | not proved | served nothing | mean gap % | worst gap % | optimal % | search s | longest ms | solver s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (name, share) in [("empty", 0.0), ("held", 0.3)] {
        let mut row = Row::default();
        for number in 0..meshes {
            let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(number));
            let shape = Shape {
                machines: dice.whole(1, 6),
                models: dice.whole(3, 12),
                tasks: dice.whole(1, 8),
                listed: dice.whole(1, 4),
                sizes: dice.whole(2, 4),
                sampled: 0,
            };
            let mut small = mesh(&shape, &mut dice);
            if share > 0.0 {
                hold(&mut small, share, &mut dice);
            }
            row.add(number, &small, limit);
        }
        row.print(name);
    }
}
