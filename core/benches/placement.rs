//! How long the planner's search takes: ten machines with forty models (at most 50 ms), ten thousand machines with a
//! thousand tasks (at most 0.5 s), and one event there (at most 10 ms). Processor time, not time on the wall.
//!
//! `cargo bench -p mesh-core --bench placement`

#[path = "measure/cpu_time.rs"]
mod cpu_time;
#[path = "placement/meshes.rs"]
mod meshes;

use cpu_time::CpuTime;
use criterion::{Criterion, criterion_group, criterion_main};
use mesh_core::placement::search::{resolve, settled, solve};
use mesh_core::placement::small::Small;
use meshes::{Dice, Shape, hold, mesh};
use std::hint::black_box;

/// Tasks that name five models each, or all forty, in eight sizes.
fn small_mesh(listed: usize) -> Small {
    let shape = Shape { machines: 10, models: 40, tasks: 8, listed, sizes: 8, sampled: 0 };
    mesh(&shape, &mut Dice(1))
}

/// Tasks with some 50 ways each, as the planner samples them.
fn large_mesh() -> Small {
    let shape = Shape { machines: 10_000, models: 40, tasks: 1_000, listed: 3, sizes: 3, sampled: 8 };
    mesh(&shape, &mut Dice(1))
}

fn search(criterion: &mut Criterion<CpuTime>) {
    for (name, mut small) in
        [("10/listed", small_mesh(5)), ("10/auto", small_mesh(40)), ("10000", large_mesh())]
    {
        let ways: usize = small.tasks.iter().map(|task| task.uses.len()).sum();
        let name = format!("{name}/{ways}-ways");
        criterion.bench_function(&format!("solve/{name}"), |bencher| {
            bencher.iter(|| black_box(solve(black_box(&small))));
        });
        hold(&mut small, 0.1, &mut Dice(2));
        criterion.bench_function(&format!("solve/{name}/held"), |bencher| {
            bencher.iter(|| black_box(solve(black_box(&small))));
        });
        criterion.bench_function(&format!("settled/{name}/held"), |bencher| {
            bencher.iter(|| black_box(settled(black_box(&small), 0.01)));
        });
    }
}

/// A task's demand rises, and it is served anew.
fn event(criterion: &mut Criterion<CpuTime>) {
    let mut small = large_mesh();
    let solution = solve(&small);
    small.settle(&solution);
    let mut task = 0;
    criterion.bench_function("resolve/10000", |bencher| {
        bencher.iter(|| {
            task = (task + 1) % small.tasks.len();
            small.tasks[task].copies += 1;
            let answer = black_box(resolve(black_box(&small), &solution, &[task]));
            small.tasks[task].copies -= 1;
            answer
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime).sample_size(10);
    targets = search, event
}
criterion_main!(benches);
