//! Random meshes for the benchmarks of the planner's search: the small problem as a mesh of such machines would pose it.

use mesh_core::placement::small::{Choice, Group, Small, Take, Task, Use};

const GIB: f64 = 1_073_741_824.0;

/// Numbers that are the same in each run (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From `least` to `most`, both included.
    pub(crate) fn whole(&mut self, least: usize, most: usize) -> usize {
        least + (self.next() % (most - least + 1) as u64) as usize
    }

    /// From `least` to below `most`.
    pub(crate) fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (self.next() >> 11) as f64 / (1_u64 << 53) as f64 * (most - least)
    }

    /// With this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.between(0.0, 1.0) < probability
    }

    fn one_of(&mut self, from: &[f64]) -> f64 {
        from[self.whole(0, from.len() - 1)]
    }
}

/// What a mesh has.
pub(crate) struct Shape {
    pub(crate) machines: usize,
    pub(crate) models: usize,
    pub(crate) tasks: usize,
    /// Models that a task names.
    pub(crate) listed: usize,
    /// Sizes (contexts and slots) of a model on a machine.
    pub(crate) sizes: usize,
    /// Machines that a task may use; 0 = all.
    pub(crate) sampled: usize,
}

struct Machine {
    /// Of graphics memory beside RAM; unified machines have one pool.
    device: Option<usize>,
    host: usize,
    speed: f64,
}

struct Model {
    weights: f64,
    /// Of one slot at the usual context.
    cache: f64,
    quality: f64,
}

/// A mesh with nothing in memory.
pub(crate) fn mesh(shape: &Shape, dice: &mut Dice) -> Small {
    let mut small = Small::default();
    let machines: Vec<Machine> = (0..shape.machines).map(|_| machine(&mut small, dice)).collect();
    let models: Vec<Model> = (0..shape.models)
        .map(|_| {
            let weights = 2.0 * 50_f64.powf(dice.between(0.0, 1.0));
            Model { weights, cache: weights * dice.between(0.03, 0.25), quality: dice.between(0.3, 1.0) }
        })
        .collect();
    // The options of a machine and a model, made when a task first asks for them.
    let mut made: Vec<Option<Vec<usize>>> = vec![None; shape.machines * shape.models];
    for _ in 0..shape.tasks {
        let mut named: Vec<usize> = (0..shape.models).collect();
        for at in 0..shape.listed.min(shape.models) {
            let other = dice.whole(at, shape.models - 1);
            named.swap(at, other);
        }
        named.truncate(shape.listed);
        let pinned = dice.chance(0.15);
        let weight = dice.between(0.5, 1.0) * if pinned { 4.0 } else { 1.0 };
        let copies = if dice.chance(0.3) { dice.whole(2, 3) } else { 1 } as u32;
        let mut uses = Vec::new();
        let mut asked: Vec<usize> = (0..shape.machines).collect();
        if shape.sampled > 0 {
            asked = (0..shape.sampled).map(|_| dice.whole(0, shape.machines - 1)).collect();
            asked.sort_unstable();
            asked.dedup();
        }
        for &at in &asked {
            for &model in &named {
                let place = at * shape.models + model;
                if made[place].is_none() {
                    made[place] = Some(options(&mut small, &machines[at], &models[model], shape.sizes, dice));
                }
                for &option in made[place].iter().flatten() {
                    let size = small.options[option].takes[0].bytes as f64 / GIB / models[model].weights;
                    let on_device = machines[at].device.is_none() || small.options[option].takes.len() == 2;
                    let speed = machines[at].speed * if on_device { 1.0 } else { 0.5 };
                    // The longest context is worth a tenth more than the shortest.
                    let value = weight * models[model].quality * speed * (0.9 + 0.1 * (size - 1.0).min(1.0));
                    let holds = if size > 1.3 { 2 } else { 1 };
                    uses.push(Use { option, value, holds });
                }
            }
        }
        uses.sort_by(|a, b| b.value.total_cmp(&a.value).then(a.option.cmp(&b.option)));
        small.tasks.push(Task { copies, uses });
    }
    small
}

fn machine(small: &mut Small, dice: &mut Dice) -> Machine {
    let speed = dice.between(0.6, 1.0);
    let mut pool = |bytes: f64| {
        small.pools.push((bytes * GIB) as u64);
        small.pools.len() - 1
    };
    if dice.chance(0.4) {
        let host = pool(dice.one_of(&[16.0, 32.0, 64.0, 96.0, 128.0]) * dice.between(0.7, 0.95));
        Machine { device: None, host, speed }
    } else {
        let device = pool(dice.one_of(&[4.0, 8.0, 12.0, 16.0, 24.0, 48.0]) * dice.between(0.85, 0.98));
        let host = pool(dice.one_of(&[8.0, 16.0, 32.0, 64.0, 128.0]) * dice.between(0.5, 0.9));
        Machine { device: Some(device), host, speed }
    }
}

/// All ways of having `model` on `machine` that fit when nothing else is there.
fn options(small: &mut Small, machine: &Machine, model: &Model, sizes: usize, dice: &mut Dice) -> Vec<usize> {
    let group = small.groups.len();
    let fetch = if dice.chance(0.3) { dice.between(0.01, 0.05) } else { 0.0 };
    small.groups.push(Group { held: None, fetch, drop: dice.between(0.005, 0.03), pinned: false });
    let (load, rent) = (dice.between(0.005, 0.05), dice.between(0.0, 0.005));
    let mut made = Vec::new();
    let mut offer = |parts: &[(usize, f64)]| {
        let takes: Vec<Take> = parts
            .iter()
            .map(|&(pool, gib)| {
                let margin = (gib * 0.05).max(0.25);
                Take { pool, bytes: (gib * GIB) as u64, margin: (margin * GIB) as u64 }
            })
            .collect();
        if takes.iter().all(|take| take.bytes + take.margin <= small.pools[take.pool]) {
            small.options.push(Choice { group, takes, load, rent });
            made.push(small.options.len() - 1);
        }
    };
    for size in 0..sizes {
        let all = model.weights + model.cache * 2_f64.powf(2.0 * size as f64 / sizes as f64);
        match machine.device {
            Some(device) => {
                offer(&[(device, all), (machine.host, 0.5)]);
                // In RAM only; the largest is left to the device.
                if size + 1 < sizes {
                    offer(&[(machine.host, all)]);
                }
            }
            None => offer(&[(machine.host, all)]),
        }
    }
    made
}

/// Puts random options into memory, each group's at most one and only what fits; a tenth of them pinned.
pub(crate) fn hold(small: &mut Small, share: f64, dice: &mut Dice) {
    let (mut used, mut margin) = (vec![0_u64; small.pools.len()], vec![0_u64; small.pools.len()]);
    for option in 0..small.options.len() {
        let choice = &small.options[option];
        let fits = choice.takes.iter().all(|take| {
            used[take.pool] + take.bytes + margin[take.pool].max(take.margin) <= small.pools[take.pool]
        });
        if !dice.chance(share) || small.groups[choice.group].held.is_some() || !fits {
            continue;
        }
        for take in &choice.takes {
            used[take.pool] += take.bytes;
            margin[take.pool] = margin[take.pool].max(take.margin);
        }
        let group = &mut small.groups[choice.group];
        *group = Group { held: Some(option), fetch: 0.0, drop: group.drop, pinned: dice.chance(0.1) };
    }
}
