//! Plans for small meshes, and the laws that every plan keeps.

use super::*;
use crate::fit::{Device, Margin, Pools};
use crate::machine::{Capacity, Reading, ReplicaMemory};
use crate::plan_check::faults;
use crate::strategy::{MachineLimits, Pin, Residency, Wish};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const GIB: u64 = 1 << 30;

fn machine(name: &str) -> MachineId {
    MachineId::new(name).expect("valid")
}

fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("valid")
}

fn mode(name: &str) -> ModeName {
    ModeName::new(name).expect("valid")
}

fn full(gib: f64) -> Capacity {
    let bytes = Bytes((gib * GIB as f64) as u64);
    Capacity { total: bytes, available: bytes }
}

/// A machine with that much RAM and, unless 0, a card.
fn site(name: &str, ram: f64, vram: f64) -> Site {
    let card = Device {
        id: "0000:01:00.0".into(),
        name: "card".into(),
        memory: full(vram),
        carve_out: None,
        holders: Vec::new(),
    };
    Site {
        machine: machine(name),
        standing: Standing::Open,
        is_lost: false,
        pools: Pools {
            devices: if vram > 0.0 { vec![card] } else { Vec::new() },
            ram: Reading::Known(full(ram)),
            notes: Vec::new(),
        },
        reserved: (Bytes(0), Bytes(0)),
        margin: Margin::Default,
        labels: BTreeSet::new(),
        launches: true,
        disk_free: Some(Bytes(1000 * GIB)),
        stored: BTreeMap::new(),
        held: Vec::new(),
        paces: BTreeMap::new(),
        footprints: Vec::new(),
        speeds: Vec::new(),
    }
}

/// A model of which only the size is known; a token of its cache takes 64 KiB.
fn file(gib: f64) -> KnownModel {
    let size = Bytes((gib * GIB as f64) as u64);
    KnownModel { trained_context: Some(131_072), ..KnownModel::of_file(size, Some(Bytes(64 << 10))) }
}

fn stored(site: &mut Site, names: &[&str]) {
    for name in names {
        let one = Stored { size: None, broken: None, can_size: true };
        site.stored.insert(model(name), one);
    }
}

fn wish(name: &str, models: &[&str]) -> Wish {
    Wish::new(mode(name), models.iter().map(|name| model(name)).collect())
}

fn world(sites: Vec<Site>, models: &[(&str, f64)]) -> World {
    let catalogue = models.iter().map(|(name, gib)| (model(name), file(*gib))).collect();
    World { sites, catalogue, refused: Refused::new() }
}

fn wishes(modes: Vec<Wish>) -> Wishes {
    Wishes { modes, ..Wishes::default() }
}

/// Where each mode's models are: `code: big@one`.
fn places(plan: &Plan) -> Vec<String> {
    let mut places: Vec<String> = plan
        .placed
        .iter()
        .flat_map(|placed| {
            placed
                .serves
                .iter()
                .map(move |serves| format!("{}: {}@{}", serves.mode, placed.model, placed.machine))
        })
        .collect();
    places.sort();
    places
}

/// The world once `plan` was followed to the letter.
fn followed(world: &World, plan: &Plan) -> World {
    let mut world = world.clone();
    for site in &mut world.sites {
        let dropped: Vec<ModelId> = site
            .held
            .iter()
            .filter(|held| !held.fixed && plan.find(&site.machine, &held.model).is_none())
            .map(|held| held.model.clone())
            .collect();
        for model in dropped {
            site.stored.entry(model).or_insert(Stored { size: None, broken: None, can_size: true });
        }
        site.held.retain(|held| held.fixed);
        for placed in plan.on(&site.machine).filter(|placed| placed.stage != Stage::Fixed) {
            let there = Stored { size: None, broken: None, can_size: true };
            site.stored.entry(placed.model.clone()).or_insert(there);
            site.held.push(Held {
                model: placed.model.clone(),
                context: placed.context,
                slots: Some(placed.slots),
                cache: Some(placed.cache),
                offload: Some(placed.offload),
                gpu: placed.gpu.clone(),
                memory: Some(ReplicaMemory {
                    device: placed.needs.device,
                    host: placed.needs.host,
                    measured: true,
                }),
                fixed: false,
                busy: 0,
                tells_busy: true,
            });
        }
    }
    world
}

/// What of a plan is where, without how it gets there.
fn settled(plan: &Plan) -> Vec<(MachineId, ModelId, Option<u32>, u32, CacheType)> {
    let one = |placed: &Placed| {
        let size = (placed.context, placed.slots, placed.cache);
        (placed.machine.clone(), placed.model.clone(), size.0, size.1, size.2)
    };
    plan.placed.iter().map(one).collect()
}

#[test]
fn a_model_goes_to_the_tighter_machine_and_the_big_hole_stays_open() {
    let (mut one, mut two) = (site("one", 128.0, 0.0), site("two", 16.0, 0.0));
    stored(&mut one, &["small"]);
    stored(&mut two, &["small"]);
    let world = world(vec![one, two], &[("small", 8.0)]);
    let wishes = wishes(vec![wish("ask", &["small"])]);
    let plan = plan(&world, &wishes);
    assert_eq!(places(&plan), ["ask: small@two"]);
    assert_eq!(faults(&plan, &world, &wishes), Vec::<String>::new());
    assert!(plan.is_complete());
    assert!(matches!(plan.changes.as_slice(), [Change::Load { .. }]), "{:?}", plan.changes);
}

#[test]
fn a_file_larger_than_every_machine_is_impossible_and_says_what_would_help() {
    let mut one = site("strix", 128.0, 0.0);
    stored(&mut one, &["deepseek"]);
    let world = world(vec![one], &[("deepseek", 158.0)]);
    let wishes = wishes(vec![wish("architect", &["deepseek"])]);
    let plan = plan(&world, &wishes);
    let [unplaced] = plan.unplaced.as_slice() else { panic!("{plan:?}") };
    assert!(unplaced.impossible && plan.placed.is_empty());
    assert_eq!(unplaced.obstacles[0].machine, machine("strix"));
    assert!(unplaced.obstacles[0].why.contains("too small"), "{}", unplaced.obstacles[0].why);
    let help = unplaced.would_help.join("\n");
    assert!(help.contains("smaller quantisation") && help.contains("a machine that gives"), "{help}");
}

#[test]
fn the_context_is_halved_before_a_mode_goes_without() {
    let mut one = site("one", 14.0, 0.0);
    stored(&mut one, &["coder"]);
    let world = world(vec![one], &[("coder", 8.0)]);
    let mut code = wish("code", &["coder"]);
    code.context = 65_536;
    let wishes = wishes(vec![code]);
    let plan = plan(&world, &wishes);
    // 8 + 1 + 1.2 GiB without a cache; 65,536 tokens would be 4 GiB more, 32,768 are 2, with the margin of 5 %.
    assert_eq!(plan.placed[0].context, Some(32_768));
    assert_eq!(plan.placed[0].serves[0].short, ["context 32768 instead of 65536"]);
    assert_eq!(faults(&plan, &world, &wishes), Vec::<String>::new());
}

#[test]
fn the_first_model_of_a_mode_comes_before_the_next_which_comes_before_none() {
    let mut one = site("one", 64.0, 24.0);
    stored(&mut one, &["small", "big"]);
    // On a card both are faster than anybody reads.
    let mut world = world(vec![one], &[("small", 4.0), ("big", 10.0)]);
    for (order, first) in [(["big", "small"], "code: big@one"), (["small", "big"], "code: small@one")] {
        let wishes = wishes(vec![wish("code", &order)]);
        assert_eq!(places(&plan(&world, &wishes)), [first]);
    }
    let wishes = wishes(vec![wish("code", &["big", "small"])]);
    world.sites[0].pools = site("one", 8.0, 0.0).pools;
    assert_eq!(places(&plan(&world, &wishes)), ["code: small@one"], "rather the next than none");
}

#[test]
fn copies_go_to_different_machines_first_and_are_slots_of_one_process_then() {
    let (mut one, mut two) = (site("one", 64.0, 0.0), site("two", 64.0, 0.0));
    stored(&mut one, &["coder"]);
    stored(&mut two, &["coder"]);
    let world = world(vec![one, two], &[("coder", 9.0)]);
    let mut code = wish("code", &["coder"]);
    code.copies = 3;
    let wishes = wishes(vec![code]);
    let plan = plan(&world, &wishes);
    let mut slots: Vec<u32> = plan.placed.iter().map(|placed| placed.slots).collect();
    slots.sort_unstable();
    assert_eq!(slots, [1, 2], "{:?}", plan.placed);
    assert!(plan.is_complete());
    assert_eq!(faults(&plan, &world, &wishes), Vec::<String>::new());
}

#[test]
fn a_pinned_mode_comes_before_a_warm_one_that_wants_the_same_memory() {
    let mut one = site("one", 16.0, 0.0);
    stored(&mut one, &["first", "second"]);
    let world = world(vec![one], &[("first", 10.0), ("second", 10.0)]);
    let mut second = wish("autocomplete", &["second"]);
    second.residency = Residency::Pinned;
    let wishes = wishes(vec![wish("ask", &["first"]), second]);
    let plan = plan(&world, &wishes);
    assert_eq!(places(&plan), ["autocomplete: second@one"]);
    let why = &plan.unplaced[0].obstacles[0].why;
    assert!(why.contains("beside second"), "{why}");
    assert_eq!(plan.unplaced[0].would_help, ["first fits on one without second (13.1 GiB)"]);
}

#[test]
fn a_closed_machine_that_has_the_file_is_the_nearest_help() {
    let (mut one, two) = (site("one", 32.0, 0.0), site("two", 32.0, 0.0));
    stored(&mut one, &["coder"]);
    one.standing = Standing::Closed("it is drained".into());
    let world = world(vec![one, two], &[("coder", 8.0)]);
    let plan = plan(&world, &wishes(vec![wish("code", &["coder"])]));
    assert_eq!(plan.unplaced.len(), 1, "nobody lends its file");
    let help = &plan.unplaced[0].would_help;
    assert_eq!(
        help[0],
        "one has coder and is not used: it is drained; use it again: meshctl node resume one"
    );
    assert!(help[1].contains("meshctl model pull coder --node two"), "{help:?}");
}

#[test]
fn of_two_modes_pinned_to_a_machine_that_holds_one_the_other_is_told_why() {
    let mut one = site("one", 32.0, 0.0);
    stored(&mut one, &["coder", "thinker"]);
    let world = world(vec![one, site("two", 8.0, 0.0)], &[("coder", 18.0), ("thinker", 18.0)]);
    let pinned = |name: &str, model: &str| {
        let machines = [machine("one")].into();
        Wish { residency: Residency::Pinned, machines, ..wish(name, &[model]) }
    };
    let wishes = wishes(vec![pinned("code", "coder"), pinned("architect", "thinker")]);
    let plan = plan(&world, &wishes);
    assert_eq!((plan.placed.len(), plan.unplaced.len()), (1, 1));
    let unplaced = &plan.unplaced[0];
    assert!(!unplaced.impossible, "either would fit alone");
    let on_one = unplaced.obstacles.iter().find(|obstacle| obstacle.machine == machine("one"));
    let why = &on_one.expect("the machine is named").why;
    let other = plan.placed[0].model.as_str();
    let told = format!("{why} {}", unplaced.would_help.join(" "));
    assert!(told.contains("GiB") && told.contains(other), "{told}");
    assert!(unplaced.obstacles.iter().any(|obstacle| obstacle.machine == machine("two")));
}

#[test]
fn what_is_there_stays_where_another_place_is_no_better() {
    let (mut one, mut two) = (site("one", 128.0, 0.0), site("two", 16.0, 0.0));
    stored(&mut one, &["small"]);
    stored(&mut two, &["small"]);
    let wishes = wishes(vec![wish("ask", &["small"])]);
    let before = world(vec![one, two], &[("small", 8.0)]);
    let mut after = followed(&before, &plan(&before, &wishes));
    // It comes up on the other machine all the same: a person loaded it there.
    let held = after.sites[1].held.remove(0);
    after.sites[0].held.push(held);
    let plan = plan(&after, &wishes);
    assert_eq!(places(&plan), ["ask: small@one"]);
    assert_eq!(plan.changes, []);
}

#[test]
fn a_drained_machine_ends_empty_and_a_cordoned_one_keeps_what_it_has() {
    let (mut one, mut two) = (site("one", 16.0, 0.0), site("two", 16.0, 0.0));
    stored(&mut one, &["small"]);
    stored(&mut two, &["small"]);
    let wishes = wishes(vec![wish("ask", &["small"])]);
    let world = world(vec![one, two], &[("small", 8.0)]);
    let first = plan(&world, &wishes);
    let held = first.placed[0].machine.clone();
    let mut later = followed(&world, &first);
    let at = later.sites.iter().position(|site| site.machine == held).expect("there");
    later.sites[at].standing = Standing::Holds("it is cordoned".into());
    assert_eq!(plan(&later, &wishes).changes, []);
    later.sites[at].standing = Standing::Closed("it is drained".into());
    let moved = plan(&later, &wishes);
    assert!(moved.on(&held).next().is_none() && moved.is_complete(), "{moved:?}");
    let unload = Change::Unload { model: model("small"), machine: held, why: "it is drained".into() };
    assert!(moved.changes.contains(&unload), "{:?}", moved.changes);
}

#[test]
fn contradictions_stop_the_plan_and_unknown_names_do_not() {
    let world = world(vec![site("one", 16.0, 0.0)], &[]);
    let mut bad = wish("code", &["nobody"]);
    bad.machines.insert(machine("elsewhere"));
    let told = plan(&world, &wishes(vec![bad.clone()]));
    let keys: Vec<&str> = told.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["modes.code.machines", "modes.code.models"]);
    assert!(told.unplaced[0].would_help[0].contains("nobody has `nobody`"), "{:?}", told.unplaced);
    bad.slots = 0;
    let stopped = plan(&world, &wishes(vec![bad]));
    assert!(!stopped.is_complete() && stopped.unplaced.is_empty());
}

#[test]
fn a_reserve_larger_than_the_machine_is_told() {
    let world = world(vec![site("one", 16.0, 0.0)], &[("m", 1.0)]);
    let mut wishes = wishes(vec![]);
    let limits = MachineLimits { reserve_ram: Bytes(32 * GIB), ..MachineLimits::default() };
    wishes.machines.insert(machine("one"), limits);
    let plan = plan(&world, &wishes);
    assert_eq!(plan.problems[0].message, "is 32 GiB, more than its RAM of 16 GiB");
}

#[test]
fn a_pinned_model_stays_although_others_want_its_room() {
    let mut one = site("one", 16.0, 0.0);
    stored(&mut one, &["old", "new"]);
    let world = world(vec![one], &[("old", 10.0), ("new", 10.0)]);
    let mut held = followed(&world, &plan(&world, &wishes(vec![wish("ask", &["old"])])));
    held.sites[0].stored.insert(model("new"), Stored { size: None, broken: None, can_size: true });
    let mut wants_new = wishes(vec![wish("ask", &["new"])]);
    assert_eq!(places(&plan(&held, &wants_new)), ["ask: new@one"]);
    wants_new.pins.insert(Pin { model: model("old"), machine: machine("one") });
    let plan = plan(&held, &wants_new);
    assert_eq!((places(&plan), plan.changes.len()), (vec![], 0));
    assert_eq!(faults(&plan, &held, &wants_new), Vec::<String>::new());
}

#[derive(Debug, Clone)]
struct Drawn {
    world: World,
    wishes: Wishes,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let sites = prop::collection::vec(
        (8_u32..160, prop::option::of(4_u32..32), any::<u8>(), 0_u8..10, any::<bool>()),
        1..5,
    );
    let models = prop::collection::vec((1_u32..90, any::<u8>()), 1..6);
    let modes = prop::collection::vec(
        (any::<u8>(), 11_u32..17, 1_u32..3, 1_u32..4, 0_u8..3, any::<bool>(), any::<u8>()),
        1..6,
    );
    (sites, models, modes).prop_map(|(sites, models, modes)| {
        let names: Vec<ModelId> = (0..models.len()).map(|n| model(&format!("m{n}"))).collect();
        let catalogue =
            names.iter().zip(&models).map(|(name, (gib, _))| (name.clone(), file(f64::from(*gib)))).collect();
        let sites = sites
            .into_iter()
            .enumerate()
            .map(|(number, (ram, vram, disk, standing, shares))| {
                let mut one = site(&format!("s{number}"), f64::from(ram), vram.map_or(0.0, f64::from));
                if shares {
                    for device in &mut one.pools.devices {
                        device.memory = full(f64::from(ram) * 0.75);
                        device.carve_out = Some(full(0.5));
                    }
                }
                let is_there = |(bit, _): &(usize, &ModelId)| disk & (1 << (bit % 8)) != 0;
                for (_, name) in names.iter().enumerate().filter(is_there) {
                    one.stored.insert(name.clone(), Stored { size: None, broken: None, can_size: true });
                }
                one.standing = match standing {
                    0 => Standing::Closed("it is drained".into()),
                    1 => Standing::Holds("it is cordoned".into()),
                    _ => Standing::Open,
                };
                one
            })
            .collect();
        let modes = modes
            .into_iter()
            .enumerate()
            .map(|(number, (list, context, slots, copies, residency, quantised, place))| {
                let mut one = wish(&format!("mode{number}"), &[]);
                one.models = names
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| list & (1 << (bit % 8)) != 0)
                    .map(|(_, name)| name.clone())
                    .collect();
                one.context = 1 << context;
                one.least_context = one.context.min(4096);
                one.slots = slots;
                one.copies = copies;
                one.residency = Residency::ALL[usize::from(residency)];
                if quantised {
                    one.cache_types.push(CacheType::Q8_0);
                }
                if place < 32 {
                    one.machines.insert(machine("s0"));
                }
                one
            })
            .collect();
        Drawn { world: World { sites, catalogue, refused: Refused::new() }, wishes: wishes(modes) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_plan_has_no_fault_and_every_refusal_names_a_machine_or_help(drawn in drawn()) {
        let plan = plan(&drawn.world, &drawn.wishes);
        prop_assert_eq!(faults(&plan, &drawn.world, &drawn.wishes), Vec::<String>::new());
        for unplaced in &plan.unplaced {
            prop_assert!(!unplaced.would_help.is_empty() || !unplaced.obstacles.is_empty(), "{:?}", unplaced);
            for obstacle in &unplaced.obstacles {
                prop_assert!(!obstacle.why.is_empty());
            }
        }
    }

    #[test]
    fn a_plan_that_was_followed_is_planned_again(drawn in drawn()) {
        let first = plan(&drawn.world, &drawn.wishes);
        let world = followed(&drawn.world, &first);
        let second = plan(&world, &drawn.wishes);
        prop_assert_eq!(settled(&first), settled(&second));
        prop_assert_eq!(second.changes, vec![]);
        prop_assert_eq!(faults(&first, &drawn.world, &drawn.wishes), Vec::<String>::new());
    }

    #[test]
    fn a_closed_machine_is_given_nothing(drawn in drawn(), which in any::<prop::sample::Index>()) {
        let first = plan(&drawn.world, &drawn.wishes);
        let mut world = followed(&drawn.world, &first);
        let at = which.index(world.sites.len());
        world.sites[at].standing = Standing::Closed("it is drained".into());
        let second = plan(&world, &drawn.wishes);
        prop_assert!(second.on(&world.sites[at].machine).next().is_none());
        prop_assert_eq!(faults(&second, &world, &drawn.wishes), Vec::<String>::new());
    }
}

mod words;
