//! Laws of the search, on random small meshes, and single cases that it once missed.

use super::*;
use crate::placement::small::{Choice, Group, Take, Task, Use};
use proptest::prelude::*;

/// A machine: gigabytes of graphics memory, if it has any, and of RAM.
type Machine = (Option<u64>, u64);
/// A model: gigabytes, and what it is worth.
type Model = (u64, f64);
/// A task: copies, weight, which models it names (a bit each).
type Asked = (u32, f64, u8);

#[derive(Debug, Clone)]
struct Mesh {
    machines: Vec<Machine>,
    models: Vec<Model>,
    sizes: u64,
    tasks: Vec<Asked>,
    /// Of each group which option is held, of those it has, and whether it is pinned.
    held: Vec<(Option<usize>, bool)>,
}

fn meshes() -> impl Strategy<Value = Mesh> {
    let machine = (prop::option::of(4_u64..32), 4_u64..64);
    let model = (2_u64..30, 0.3..1.0);
    let task = (0_u32..4, 0.2..4.0, any::<u8>());
    let held = (prop::option::weighted(0.4, 0_usize..6), prop::bool::weighted(0.2));
    (
        prop::collection::vec(machine, 1..=6),
        prop::collection::vec(model, 1..=5),
        1_u64..=3,
        prop::collection::vec(task, 0..=8),
        prop::collection::vec(held, 30),
    )
        .prop_map(|(machines, models, sizes, tasks, held)| Mesh { machines, models, sizes, tasks, held })
}

impl Mesh {
    /// What is held fits; so do the pins.
    fn small(&self) -> Small {
        let mut small = Small::default();
        for (at, &(device, host)) in self.machines.iter().enumerate() {
            let ram = small.pools.len();
            small.pools.push(host);
            let vram = device.map(|bytes| {
                small.pools.push(bytes);
                small.pools.len() - 1
            });
            for (model, &(weights, _)) in self.models.iter().enumerate() {
                let group = small.groups.len();
                let first = small.options.len();
                for size in 0..self.sizes {
                    let bytes = weights + size * (1 + weights / 8);
                    let take = |pool: usize, bytes: u64| Take { pool, bytes, margin: 1 + bytes / 10 };
                    let mut ways = vec![vec![take(ram, bytes)]];
                    ways.extend(vram.map(|vram| vec![take(vram, bytes), take(ram, 1)]));
                    for takes in ways {
                        let load = 0.01 + 0.001 * at as f64;
                        small.options.push(Choice { group, takes, load, rent: 0.001 * model as f64 });
                    }
                }
                let drop = 0.005 * (1 + group % 3) as f64;
                small.groups.push(Group { held: None, fetch: 0.01 * (at % 2) as f64, drop, pinned: false });
                let (held, pinned) = self.held[group % self.held.len()];
                let held = held.map(|held| first + held % (small.options.len() - first));
                let index = Index::new(&small);
                let there = State::with(&small, &index, small.all_held().into_iter());
                if let Some(held) = held.filter(|&held| there.fits(held)) {
                    small.groups[group] = Group { held: Some(held), fetch: 0.0, drop, pinned };
                }
            }
        }
        for &(copies, weight, named) in &self.tasks {
            let mut uses = Vec::new();
            for (option, choice) in small.options.iter().enumerate() {
                let model = choice.group % self.models.len();
                let speed = if choice.takes.len() == 2 { 1.0 } else { 0.6 };
                if named & (1 << model) != 0 {
                    let holds = 1 + (option % 2) as u32;
                    uses.push(Use { option, value: weight * self.models[model].1 * speed, holds });
                }
            }
            uses.sort_by(|a, b| b.value.total_cmp(&a.value));
            small.tasks.push(Task { copies, uses });
        }
        small
    }
}

impl Small {
    fn all_held(&self) -> Vec<usize> {
        self.groups.iter().filter_map(|group| group.held).collect()
    }

    /// Of whose pins alone are too much.
    fn overfull(&self, solution: &Solution) -> Vec<String> {
        let pinned = |option: &&usize| self.groups[self.options[**option].group].pinned;
        let chosen = solution.chosen.iter().filter(pinned).copied().collect();
        self.faults(&Solution { chosen, served: Vec::new() })
    }
}

fn settles(small: &Small, least: f64) -> Result<(), TestCaseError> {
    let answer = settled(small, least);
    let mut world = small.clone();
    world.settle(&answer);
    let again = settled(&world, least);
    prop_assert_eq!(&answer.chosen, &again.chosen, "it moved on its own");
    prop_assert_eq!(&answer.served, &again.served);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_answer_breaks_no_rule_and_keeps_the_pins(mesh in meshes()) {
        let small = mesh.small();
        for answer in [solve(&small), settled(&small, 0.02)] {
            prop_assert_eq!(small.faults(&answer), Vec::<String>::new());
        }
    }

    #[test]
    fn an_answer_that_is_followed_is_given_again(mesh in meshes(), least in 0.0..0.1) {
        settles(&mesh.small(), least)?;
        settles(&mesh.small(), 0.0)?;
    }

    #[test]
    fn what_is_held_and_in_nobodys_way_stays(mesh in meshes()) {
        let small = mesh.small();
        for answer in [solve(&small), settled(&small, 0.0)] {
            let index = Index::new(&small);
            let state = State::with(&small, &index, answer.chosen.iter().copied());
            for held in small.all_held() {
                let is_gone = state.chosen[small.options[held].group].is_none();
                prop_assert!(!(is_gone && state.fits(held)), "option {held} was in nobody's way");
            }
        }
    }

    #[test]
    fn nothing_asked_moves_nothing(mesh in meshes()) {
        let mut small = mesh.small();
        small.tasks.clear();
        let held: Vec<usize> = small.all_held();
        let chosen: Vec<usize> = settled(&small, 0.0).chosen.into_iter().collect();
        prop_assert_eq!(chosen, held);
    }

    #[test]
    fn a_states_worth_is_that_of_its_answer(mesh in meshes(), picks in prop::collection::vec(any::<usize>(), 40)) {
        let small = mesh.small();
        let index = Index::new(&small);
        let mut state = State::start(&small, &index);
        for pick in picks {
            let option = pick % small.options.len();
            let mark = state.mark();
            let before = (state.worth, state.print, state.clone().solution());
            let told = state.difference(option);
            if state.chosen[small.options[option].group] == Some(option) {
                let told = state.loss(option);
                state.take_away(option);
                prop_assert!((before.0 - told - state.worth).abs() < 1e-9);
            } else if state.fits(option) {
                let print = state.print_with(option);
                state.swap_in(option);
                prop_assert!((before.0 + told - state.worth).abs() < 1e-9);
                prop_assert_eq!(print, state.print);
            }
            prop_assert!((small.worth(&state.clone().solution()) - state.worth).abs() < 1e-9);
            if pick % 3 == 0 {
                state.back_to(&mark);
                prop_assert_eq!(before, (state.worth, state.print, state.clone().solution()));
            }
        }
    }

    #[test]
    fn less_room_is_a_new_question_and_no_fault(mesh in meshes(), shares in prop::collection::vec(0_u64..=10, 12)) {
        let mut small = mesh.small();
        let before = settled(&small, 0.01);
        small.settle(&before);
        for (pool, share) in small.pools.iter_mut().zip(shares) {
            *pool = *pool * share / 10;
        }
        for answer in [solve(&small), settled(&small, 0.01), resolve(&small, &before, &[])] {
            // Where the pins alone are too much nothing else lies.
            prop_assert_eq!(small.faults(&answer), small.overfull(&answer));
        }
    }

    #[test]
    fn an_event_leaves_what_serves_others(mesh in meshes(), one in any::<usize>(), more in 0_u32..3) {
        let mut small = mesh.small();
        prop_assume!(!small.tasks.is_empty());
        let before = settled(&small, 0.01);
        let one = one % small.tasks.len();
        small.tasks[one].copies += more;
        let after = resolve(&small, &before, &[one]);
        prop_assert_eq!(small.faults(&after), Vec::<String>::new());
        prop_assert!(small.worth(&after) >= small.worth(&before) - 1e-9);
        // The same, or what is worth as much to them and came for the event.
        let value = |solution: &Solution, task: usize| -> f64 {
            let of = |(at, copies): &(usize, u32)| small.tasks[task].uses[*at].value * f64::from(*copies);
            solution.served[task].iter().map(of).sum()
        };
        for task in (0..small.tasks.len()).filter(|task| *task != one) {
            prop_assert!(value(&after, task) >= value(&before, task) - 1e-9, "task {task} lost");
        }
    }
}

/// A pinned model on the graphics processor, where another is worth more; both fit once it lies in RAM.
#[test]
fn a_pinned_model_makes_room_by_another_size() {
    let option = |group: usize, takes: &[(usize, u64)]| Choice {
        group,
        takes: takes.iter().map(|&(pool, bytes)| Take { pool, bytes, margin: 0 }).collect(),
        load: 0.01,
        rent: 0.0,
    };
    let serves = |option: usize, value: f64| Task { copies: 1, uses: vec![Use { option, value, holds: 1 }] };
    let mut small = Small {
        pools: vec![10, 10],
        options: vec![option(0, &[(0, 6), (1, 1)]), option(0, &[(1, 6)]), option(1, &[(0, 8), (1, 1)])],
        groups: vec![Group { held: Some(0), pinned: true, ..Group::default() }, Group::default()],
        tasks: vec![serves(0, 0.3), serves(2, 1.0)],
    };
    assert_eq!(settled(&small, 0.0).chosen, [1, 2].into());
    // A game takes the graphics memory: the pin stays, where there is room.
    small.pools[0] = 5;
    assert_eq!(settled(&small, 0.0).chosen, [1].into());
    // Nowhere: the pin stays anyhow, and nothing is put beside it.
    small.pools = vec![5, 2];
    assert_eq!(settled(&small, 0.0).chosen, [0].into());
}

#[test]
fn a_mesh_of_nothing_has_an_answer() {
    assert_eq!(settled(&Small::default(), 0.0), Solution::default());
    let alone = Small { tasks: vec![Task { copies: 2, uses: Vec::new() }], ..Small::default() };
    assert_eq!(solve(&alone).served, vec![vec![]]);
}
