//! Plans with one fault each, made from good ones by hand: the critic finds exactly that.

use super::*;
use crate::fit::{Demand, Device, Pools};
use crate::id::ModeName;
use crate::machine::{Capacity, Reading, ReplicaMemory};
use crate::memory::{CacheType, Confidence, Shape};
use crate::placement::{Held, KnownModel, Obstacle, Refused, Stored, Unplaced, plan};
use crate::strategy::{Pin, Residency, Wish, WishProblem};
use crate::units::Bytes;
use std::sync::Arc;

const GIB: u64 = 1 << 30;

fn machine(name: &str) -> MachineId {
    MachineId::new(name).expect("valid")
}

fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("valid")
}

fn capacity(gib: u64) -> Capacity {
    Capacity { total: Bytes(gib * GIB), available: Bytes(gib * GIB) }
}

fn site(name: &str, ram: u64) -> Site {
    Site {
        is_lost: false,
        machine: machine(name),
        standing: Standing::Open,
        pools: Pools { devices: Vec::new(), ram: Reading::Known(capacity(ram)), notes: Vec::new() },
        reserved: (Bytes(0), Bytes(0)),
        margin: Margin::Default,
        labels: BTreeSet::new(),
        launches: true,
        disk_free: None,
        stored: BTreeMap::new(),
        held: Vec::new(),
        paces: BTreeMap::new(),
        footprints: Vec::new(),
        speeds: Vec::new(),
    }
}

/// 8 layers of 128 MiB, with a quarter of that beside them; 32 KiB of cache for each token.
fn shape() -> Shape {
    crate::fit::layered(8, 32_768)
}

/// A plan with all that it was made of.
struct Case {
    world: World,
    wishes: Wishes,
    plan: Plan,
}

impl Case {
    /// `card` has a card of 8 GiB, `shared` one memory of 32 GiB for both processors. `resident` is in memory on `card`,
    /// `shaped` and `file` are on all disks; three modes want them.
    fn good() -> Self {
        let (mut card, mut shared) = (site("card", 64), site("shared", 32));
        let device = |memory, carve_out| Device {
            id: "0000:01:00.0".into(),
            name: "processor".into(),
            memory,
            carve_out,
            holders: Vec::new(),
        };
        card.pools.devices.push(device(capacity(8), None));
        shared.pools.devices.push(device(capacity(24), Some(capacity(1))));
        for site in [&mut card, &mut shared] {
            for name in ["resident", "shaped", "file"] {
                site.stored.insert(model(name), Stored { size: None, broken: None, can_size: true });
            }
        }
        card.held.push(Held {
            offload: None,
            gpu: Some("0000:01:00.0".into()),
            tells_busy: true,
            model: model("resident"),
            context: Some(16_384),
            slots: Some(1),
            cache: Some(CacheType::F16),
            memory: Some(ReplicaMemory { device: Bytes(0), host: Bytes(6 * GIB), measured: true }),
            fixed: false,
            busy: 0,
        });
        card.labels.insert("quiet".into());
        let shape = Arc::new(shape());
        let file = |gib: u64| KnownModel {
            trained_context: Some(32_768),
            ..KnownModel::of_file(Bytes(gib * GIB), Some(Bytes(64 << 10)))
        };
        let catalogue = [
            (model("resident"), file(4)),
            (model("shaped"), KnownModel::of_shape(shape.clone(), Bytes(5 * GIB / 4))),
            (model("file"), file(9)),
        ];
        let world = World { sites: vec![card, shared], catalogue: catalogue.into(), refused: Refused::new() };
        let wish = |mode: &str, name: &str, at: &str| {
            let mut wish = Wish::new(ModeName::new(mode).expect("valid"), vec![model(name)]);
            wish.machines.insert(machine(at));
            wish
        };
        let mut modes = vec![
            wish("ask", "resident", "card"),
            wish("code", "shaped", "card"),
            wish("plan", "file", "shared"),
        ];
        modes[0].labels.insert("quiet".into());
        (modes[1].slots, modes[1].context) = (2, 8192);
        let wishes = Wishes { modes, ..Wishes::default() };
        let plan = plan(&world, &wishes);
        let case = Self { world, wishes, plan };
        assert_eq!(case.faults(), Vec::<String>::new());
        let stages: Vec<&Stage> = case.plan.placed.iter().map(|placed| &placed.stage).collect();
        assert_eq!(stages, [&Stage::Resident, &Stage::OnDisk, &Stage::OnDisk], "{:?}", case.plan);
        let on_processors: Vec<bool> = case.plan.placed.iter().map(|placed| placed.gpu.is_some()).collect();
        assert_eq!(on_processors, [false, true, true]);
        case
    }

    fn faults(&self) -> Vec<String> {
        faults(&self.plan, &self.world, &self.wishes)
    }

    fn placed(&mut self, name: &str) -> &mut Placed {
        self.plan.placed.iter_mut().find(|placed| placed.model.as_str() == name).expect("it is placed")
    }

    fn wish(&mut self, mode: &str) -> &mut Wish {
        self.wishes.modes.iter_mut().find(|wish| wish.mode.as_str() == mode).expect("it is wished")
    }
}

/// The good plan with one change has this fault and no other.
fn finds(change: impl FnOnce(&mut Case), fault: &str) {
    let mut case = Case::good();
    change(&mut case);
    let found = case.faults();
    assert!(found.len() == 1 && found[0].contains(fault), "instead of `{fault}`: {found:?}");
}

fn also_finds(change: impl FnOnce(&mut Case), fault: &str) {
    let mut case = Case::good();
    change(&mut case);
    let found = case.faults();
    assert!(found.iter().any(|one| one.contains(fault)), "no `{fault}`: {found:?}");
}

#[test]
fn a_model_that_is_placed_twice_is_found() {
    also_finds(
        |case| {
            let again = Placed { serves: Vec::new(), ..case.placed("shaped").clone() };
            case.plan.placed.push(again);
        },
        "shaped on card is placed twice",
    );
}

#[test]
fn a_machine_that_is_not_there_is_found() {
    also_finds(
        |case| case.placed("file").machine = machine("gone"),
        "file on gone: there is no such machine",
    );
}

#[test]
fn what_is_placed_on_a_closed_machine_is_found_and_what_is_not_ours_may_stay() {
    finds(
        |case| case.world.sites[1].standing = Standing::Closed("it is drained".into()),
        "file on shared: nothing may be there: it is drained",
    );
    let mut case = Case::good();
    case.plan.placed.retain(|placed| placed.model.as_str() == "resident");
    case.wishes.modes.truncate(1);
    case.world.sites[0].standing = Standing::Closed("it is drained".into());
    case.placed("resident").stage = Stage::Fixed;
    assert_eq!(case.faults(), Vec::<String>::new());
}

#[test]
fn what_newly_comes_to_a_machine_that_only_holds_is_found_and_what_is_there_may_stay() {
    finds(
        |case| case.world.sites[1].standing = Standing::Holds("it is cordoned".into()),
        "nothing new may come there: it is cordoned",
    );
    let mut case = Case::good();
    case.world.sites[0].standing = Standing::Holds("it is cordoned".into());
    let found = case.faults();
    assert!(found.len() == 1 && found[0].starts_with("shaped on card"), "{found:?}");
    for stage in [Stage::Fetch, Stage::Resize] {
        let mut case = Case::good();
        case.world.sites[1].standing = Standing::Holds("it is cordoned".into());
        case.placed("file").stage = stage;
        assert!(case.faults().iter().any(|fault| fault.contains("nothing new may come there")));
    }
}

#[test]
fn a_stage_that_the_machine_contradicts_is_found() {
    for stage in [Stage::Resident, Stage::Fixed, Stage::Resize] {
        also_finds(|case| case.placed("file").stage = stage, "the machine says otherwise");
    }
    for stage in [Stage::OnDisk, Stage::Fetch] {
        also_finds(|case| case.placed("resident").stage = stage, "the machine says otherwise");
    }
}

#[test]
fn a_file_that_is_not_there_is_found() {
    finds(|case| drop(case.world.sites[1].stored.remove(&model("file"))), "its file is not there");
}

#[test]
fn a_size_or_a_need_that_what_is_there_does_not_have_is_found() {
    let stays = "it is planned to stay as it is, in a size that it has not";
    finds(|case| case.placed("resident").context = Some(8192), stays);
    finds(|case| case.placed("resident").slots = 2, stays);
    finds(|case| case.placed("resident").context = None, stays);
    finds(
        |case| {
            case.placed("resident").cache = CacheType::Q8_0;
            case.wish("ask").cache_types.push(CacheType::Q8_0);
        },
        stays,
    );
    finds(
        |case| case.placed("resident").needs.host = Bytes(GIB),
        "0 B and 1 GiB of RAM, it holds 0 B and 6 GiB",
    );
}

#[test]
fn a_processor_that_is_not_there_is_found() {
    finds(
        |case| case.placed("shaped").gpu = Some("0000:99:00.0".into()),
        "no graphics processor 0000:99:00.0",
    );
}

#[test]
fn a_context_longer_than_trained_for_is_found() {
    finds(
        |case| case.placed("file").context = Some(65_536),
        "a context of 65536 tokens, and it was trained for 32768",
    );
}

#[test]
fn needs_that_a_header_does_not_give_are_found_unless_they_were_measured() {
    let less = |placed: &mut Placed| placed.needs.device = Bytes(placed.needs.device.0 - 1);
    finds(|case| less(case.placed("shaped")), "its header says");
    finds(|case| case.placed("shaped").needs.host.0 += 1, "its header says");
    finds(|case| case.placed("shaped").offload = Offload::Layers(3), "its header says");
    finds(|case| case.placed("shaped").context = Some(4096), "its header says");
    let mut case = Case::good();
    less(case.placed("shaped"));
    case.placed("shaped").footprint.confidence = Confidence::Measured;
    assert_eq!(case.faults(), Vec::<String>::new());
}

#[test]
fn a_full_card_is_found_with_its_margin() {
    // A model of which only the file is known may take what it likes, so that only the sum is wrong.
    let onto_the_card = |case: &mut Case, bytes: u64| {
        let rest = case.placed("shaped").needs.device.0 + bytes;
        let file = case.placed("file");
        file.machine = machine("card");
        file.needs = Demand { device: Bytes(8 * GIB - rest), host: Bytes(0) };
        case.wish("plan").machines.insert(machine("card"));
    };
    let margin = 512 << 20;
    finds(|case| onto_the_card(case, 0), "on processor, which has 8589934592");
    finds(|case| onto_the_card(case, margin - 8192), "bytes and 536870912 beside them on processor");
    let mut fits = Case::good();
    onto_the_card(&mut fits, margin);
    assert_eq!(fits.faults(), Vec::<String>::new());
}

#[test]
fn full_shared_memory_is_found_although_each_part_has_room() {
    // 33 GiB are both processors' together; 24 of them the graphics processor can have.
    let takes = |case: &mut Case, device: u64, host: u64| {
        case.placed("file").needs = Demand { device: Bytes(device * GIB), host: Bytes(host * GIB) };
    };
    finds(|case| takes(case, 20, 12), "in RAM, which has 35433480192");
    finds(|case| takes(case, 24, 0), "on processor, which has 25769803776");
    let mut fits = Case::good();
    takes(&mut fits, 20, 11);
    assert_eq!(fits.faults(), Vec::<String>::new());
}

#[test]
fn full_ram_is_found_with_what_stays_and_what_needs_no_processor() {
    let takes = |case: &mut Case, gib: u64| {
        let file = case.placed("file");
        (file.machine, file.gpu) = (machine("card"), None);
        // Where no processor is named, both parts lie in RAM.
        file.needs = Demand { device: Bytes(10 * GIB), host: Bytes((gib - 10) * GIB) };
        case.wish("plan").machines.insert(machine("card"));
    };
    // Beside 6 GiB of what stays, the host's part of `shaped`, and 5 %.
    finds(|case| takes(case, 56), "beside them in RAM, which has 68719476736");
    let mut fits = Case::good();
    takes(&mut fits, 53);
    assert_eq!(fits.faults(), Vec::<String>::new());
}

#[test]
fn what_stays_is_not_blamed_for_a_person_s_programs_and_unknown_memory_takes_nothing() {
    let mut case = Case::good();
    case.plan.placed.retain(|placed| placed.model.as_str() == "resident");
    case.wishes.modes.truncate(1);
    case.world.sites[0].pools.ram = Reading::Known(capacity(2));
    assert_eq!(case.faults(), Vec::<String>::new());
    let mut case = Case::good();
    case.world.sites[0].held[0].memory = None;
    case.placed("resident").needs.host = Bytes(1000 * GIB);
    assert_eq!(case.faults(), Vec::<String>::new());
}

#[test]
fn what_a_mode_does_not_ask_for_is_found() {
    finds(|case| case.wish("plan").models = vec![model("other")], "plan does not list file");
    finds(|case| case.wish("plan").machines = [machine("card")].into(), "plan may not be on shared");
    finds(|case| case.world.sites[0].labels.clear(), "ask asks for labels that card lacks");
    finds(|case| case.wish("plan").least_context = 16_385, "plan needs 16385 tokens, file has fewer");
    finds(|case| case.wish("plan").slots = 2, "plan needs 2 slots, file has 1");
    finds(|case| case.wish("plan").cache_types = vec![CacheType::Q8_0], "plan allows no cache of f16");
    also_finds(
        |case| case.placed("file").serves[0].mode = ModeName::new("nobody").expect("valid"),
        "file serves nobody, which is no mode",
    );
}

#[test]
fn copies_on_one_machine_need_slots_of_their_own() {
    finds(
        |case| {
            case.wish("plan").copies = 2;
            case.placed("file").serves[0].copies = 2;
        },
        "plan needs 2 slots, file has 1",
    );
}

#[test]
fn copies_that_are_told_wrong_are_found() {
    finds(|case| case.wish("plan").copies = 2, "plan wants 2 copies, 1 are placed and 0 are told as missing");
    finds(|case| case.placed("file").serves.clear(), "plan wants 1 copies, 0 are placed and 0 are told");
    let mut case = Case::good();
    case.placed("file").serves.clear();
    case.wish("plan").residency = Residency::OnDemand;
    assert_eq!(case.faults(), Vec::<String>::new(), "nobody asks for it now");
}

#[test]
fn a_mode_that_is_not_placed_without_a_word_is_found() {
    let unplaced = |obstacles| Unplaced {
        mode: ModeName::new("plan").expect("valid"),
        copies: 1,
        models: Vec::new(),
        obstacles,
        impossible: false,
        would_help: Vec::new(),
    };
    let take_away = |case: &mut Case, obstacles| {
        case.plan.placed.retain(|placed| placed.model.as_str() != "file");
        case.plan.unplaced.push(unplaced(obstacles));
    };
    finds(|case| take_away(case, Vec::new()), "plan is not placed, and nothing says why");
    let obstacle = Obstacle { model: model("file"), machine: machine("shared"), why: "too small".into() };
    let mut told = Case::good();
    take_away(&mut told, vec![obstacle]);
    assert_eq!(told.faults(), Vec::<String>::new());
}

#[test]
fn a_pinned_model_that_would_leave_is_found() {
    let leaves = |case: &mut Case| {
        case.plan.placed.retain(|placed| placed.model.as_str() != "resident");
        case.wishes.modes.remove(0);
        case.wishes.pins.insert(Pin { model: model("resident"), machine: machine("card") });
    };
    finds(leaves, "resident is pinned to card and would be unloaded");
    let mut fixed = Case::good();
    leaves(&mut fixed);
    fixed.world.sites[0].held[0].fixed = true;
    assert_eq!(fixed.faults(), Vec::<String>::new(), "it is not the mesh's to unload");
    let mut drained = Case::good();
    leaves(&mut drained);
    drained.world.sites[0].standing = Standing::Closed("it is drained".into());
    let found = drained.faults();
    assert!(!found.iter().any(|fault| fault.contains("pinned")), "{found:?}");
}

#[test]
fn what_is_unloaded_and_placed_is_found() {
    let why = "test".to_owned();
    finds(
        |case| {
            let unload = Change::Unload { model: model("resident"), machine: machine("card"), why };
            case.plan.changes.push(unload);
        },
        "resident is unloaded from card and placed there",
    );
}

#[test]
fn nothing_is_missed_in_a_plan_of_wishes_that_contradict_themselves() {
    let mut case = Case::good();
    case.plan = Plan {
        problems: vec![WishProblem { key: "modes.plan.slots".into(), message: "none".into(), fatal: true }],
        ..Plan::default()
    };
    assert_eq!(case.faults(), Vec::<String>::new());
}
