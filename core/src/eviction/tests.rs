//! Swaps: who leaves for whom, and the threads of peers' users replayed against an eviction by count.

use super::*;
use crate::fit::{Margin, Pools};
use crate::id::ModeName;
use crate::machine::{Capacity, ReplicaMemory};
use crate::placement::{Refused, Stored};
use crate::strategy::Wish;
use std::collections::BTreeMap;

const GIB: u64 = 1 << 30;

fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("valid")
}

fn machine(name: &str) -> MachineId {
    MachineId::new(name).expect("valid")
}

fn at(seconds: f64) -> Moment {
    Moment::default().plus(Duration::from_secs_f64(seconds))
}

/// Machines of `ram` GiB each with the files of all `models` (name and GiB) on them, and those in memory as told.
fn world(ram: &[(&str, u64, &[&str])], models: &[(&str, u64)]) -> World {
    let catalogue: BTreeMap<ModelId, KnownModel> = models
        .iter()
        .map(|(name, gib)| (model(name), KnownModel::of_file(Bytes(gib * GIB), Some(Bytes(1024)))))
        .collect();
    let sites = ram.iter().map(|(name, gib, loaded)| {
        let held: Vec<Held> = loaded.iter().map(|name| held(&catalogue, name)).collect();
        let capacity = Capacity { total: Bytes(gib * GIB), available: Bytes(gib * GIB) };
        Site {
            machine: machine(name),
            standing: Standing::Open,
            is_lost: false,
            pools: Pools { devices: Vec::new(), ram: Reading::Known(capacity), notes: Vec::new() },
            reserved: (Bytes(0), Bytes(0)),
            margin: Margin::Default,
            labels: BTreeSet::new(),
            launches: true,
            disk_free: None,
            stored: catalogue
                .keys()
                .map(|model| (model.clone(), Stored { size: None, broken: None, can_size: true }))
                .collect(),
            held,
            paces: BTreeMap::new(),
            footprints: Vec::new(),
            speeds: Vec::new(),
        }
    });
    let sites = sites.collect();
    World { sites, catalogue, refused: Refused::new() }
}

fn held(catalogue: &BTreeMap<ModelId, KnownModel>, name: &str) -> Held {
    let size = Size { context: 4096, slots: 1, cache: crate::memory::CacheType::F16 };
    let footprint = catalogue[&model(name)].lying(size, crate::fit::Offload::None);
    Held {
        model: model(name),
        context: Some(4096),
        slots: Some(1),
        cache: None,
        offload: None,
        gpu: None,
        memory: Some(ReplicaMemory { device: Bytes(0), host: footprint.host.total(), measured: true }),
        fixed: false,
        busy: 0,
        tells_busy: true,
    }
}

/// What a test says of the models in memory.
#[derive(Default)]
struct Told {
    busy: BTreeMap<ModelId, u32>,
    uses: BTreeMap<ModelId, Uses>,
    since: BTreeMap<ModelId, Moment>,
}

impl Memory for Told {
    fn busy(&self, _: &MachineId, model: &ModelId) -> u32 {
        self.busy.get(model).copied().unwrap_or(0)
    }

    fn uses(&self, _: &MachineId, model: &ModelId) -> Uses {
        self.uses.get(model).copied().unwrap_or_default()
    }

    fn since(&self, _: &MachineId, model: &ModelId) -> Option<Moment> {
        self.since.get(model).copied()
    }
}

const CHAT: Claim = Claim {
    context: 4096,
    least_context: 4096,
    slots: 1,
    cache: crate::memory::CacheType::F16,
    may_evict: true,
};

fn evicted(answer: &Answer) -> Vec<String> {
    let Answer::Load(loading) = answer else { panic!("{answer:?}") };
    loading.evict.iter().map(|(model, _)| model.to_string()).collect()
}

#[test]
fn another_machine_comes_before_a_swap() {
    let world = world(&[("full", 16, &["a"]), ("free", 16, &[])], &[("a", 10), ("b", 10)]);
    let answer = place(&world, &Wishes::default(), &model("b"), CHAT, &Told::default(), at(0.0));
    let Answer::Load(loading) = answer else { panic!("{answer:?}") };
    assert_eq!((loading.machine, loading.evict), (machine("free"), vec![]));
    assert_eq!(loading.wish.context, Some(4096));
}

#[test]
fn what_is_least_likely_to_be_asked_for_leaves_and_nothing_else() {
    let world = world(&[("one", 20, &["often", "never"])], &[("often", 7), ("never", 6), ("new", 6)]);
    let mut told = Told::default();
    for second in 0..20 {
        told.uses.entry(model("often")).or_default().note(at(f64::from(second)));
    }
    let answer = place(&world, &Wishes::default(), &model("new"), CHAT, &told, at(30.0));
    assert_eq!(evicted(&answer), ["never"]);
}

#[test]
fn busy_pinned_and_new_models_stay_and_the_request_is_told_why() {
    let models = [("busy", 8), ("pin", 8), ("new", 8), ("kept", 2), ("b", 20)];
    let world = world(&[("one", 38, &["busy", "pin", "new", "kept"])], &models);
    let mut wishes = Wishes::default();
    let mut pinned = Wish::new(ModeName::new("ask").expect("valid"), vec![model("pin")]);
    pinned.residency = Residency::Pinned;
    wishes.modes.push(pinned);
    wishes.pins.insert(Pin { model: model("kept"), machine: machine("one") });
    let mut told = Told::default();
    told.busy.insert(model("busy"), 2);
    told.since.insert(model("new"), at(100.0));
    let answer = place(&world, &wishes, &model("b"), CHAT, &told, at(110.0));
    let Answer::Wait { until, why } = answer else { panic!("{answer:?}") };
    assert_eq!(until, Some(at(220.0)));
    for part in
        ["busy answers 2 requests", "pin is pinned", "kept is pinned by a person", "new has just been loaded"]
    {
        assert!(why[0].1.contains(part), "{part}: {}", why[0].1);
    }
}

#[test]
fn a_model_of_which_nobody_knows_whether_it_is_in_use_stays() {
    let mut world = world(&[("one", 16, &["theirs"])], &[("theirs", 10), ("b", 10)]);
    world.sites[0].held[0].tells_busy = false;
    let answer = place(&world, &Wishes::default(), &model("b"), CHAT, &Told::default(), at(0.0));
    let Answer::Wait { until: None, why } = answer else { panic!("{answer:?}") };
    assert!(why[0].1.contains("whether theirs is in use"), "{why:?}");
}

#[test]
fn autocomplete_does_not_drive_out_the_chat_and_takes_room_that_is_free() {
    let full = world(&[("one", 16, &["chat"])], &[("chat", 10), ("fim", 8)]);
    let claim = Claim { may_evict: false, ..CHAT };
    let answer = place(&full, &Wishes::default(), &model("fim"), claim, &Told::default(), at(0.0));
    assert!(matches!(answer, Answer::Wait { until: None, .. }), "{answer:?}");
    let roomy = world(&[("one", 32, &["chat"])], &[("chat", 10), ("fim", 8)]);
    let answer = place(&roomy, &Wishes::default(), &model("fim"), claim, &Told::default(), at(0.0));
    assert_eq!(evicted(&answer), Vec::<String>::new());
}

#[test]
fn what_a_carve_out_holds_is_not_taken_from_ram() {
    let mut world = world(&[("strix", 28, &["big"])], &[("big", 80), ("other", 20)]);
    let whole = |gib: u64| Capacity { total: Bytes(gib * GIB), available: Bytes(gib * GIB) };
    let site = &mut world.sites[0];
    site.pools.devices.push(crate::fit::Device {
        id: "gpu".into(),
        name: "gpu".into(),
        memory: whole(100),
        carve_out: Some(whole(96)),
        holders: Vec::new(),
    });
    let held = &mut site.held[0];
    held.gpu = Some("gpu".into());
    held.memory = Some(ReplicaMemory { device: Bytes(90 * GIB), host: Bytes(0), measured: true });
    // 10 GiB are left for the processor, all 28 of RAM: it lies there, and nobody leaves.
    let answer = place(&world, &Wishes::default(), &model("other"), CHAT, &Told::default(), at(0.0));
    assert_eq!(evicted(&answer), Vec::<String>::new());
}

#[test]
fn a_model_larger_than_its_machine_never_comes_and_drives_out_nobody() {
    let world = world(&[("one", 16, &["a"])], &[("a", 4), ("huge", 60)]);
    let answer = place(&world, &Wishes::default(), &model("huge"), CHAT, &Told::default(), at(0.0));
    let Answer::Never(why) = answer else { panic!("{answer:?}") };
    assert!(why[0].1.contains("too small"), "{why:?}");
}

/// One machine that holds one of its models at a time, asked as a thread of users tells. Requests that cannot be
/// answered wait together for their model.
struct Replay {
    world: World,
    told: Told,
    swaps: u32,
    /// Until when a load lasts, of what.
    loading: Option<(f64, ModelId)>,
    waiting: BTreeMap<ModelId, u32>,
    answered: u32,
    longest_wait_s: f64,
    since: BTreeMap<ModelId, f64>,
}

const LOAD_S: f64 = 10.0;

impl Replay {
    fn new(models: &[(&str, u64)], first: &str) -> Self {
        Self {
            world: world(&[("one", 16, &[first])], models),
            told: Told::default(),
            swaps: 0,
            loading: None,
            waiting: BTreeMap::new(),
            answered: 0,
            longest_wait_s: 0.0,
            since: BTreeMap::new(),
        }
    }

    fn request(&mut self, name: &str, now: f64) {
        *self.waiting.entry(model(name)).or_default() += 1;
        self.since.entry(model(name)).or_insert(now);
        self.step(now);
    }

    fn step(&mut self, now: f64) {
        if let Some((until, which)) = self.loading.clone().filter(|(until, _)| *until <= now) {
            self.loading = None;
            let held = held(&self.world.catalogue, which.as_str());
            self.world.sites[0].held.push(held);
            self.told.since.insert(which, at(until));
        }
        let here: Vec<ModelId> = self.world.sites[0].held.iter().map(|held| held.model.clone()).collect();
        for model in here {
            let count = self.waiting.remove(&model).unwrap_or(0);
            if let Some(since) = self.since.remove(&model) {
                self.longest_wait_s = self.longest_wait_s.max(now - since);
            }
            self.answered += count;
            for _ in 0..count {
                self.told.uses.entry(model.clone()).or_default().note(at(now));
            }
        }
        let oldest = self.since.iter().min_by(|a, b| a.1.total_cmp(b.1)).map(|(model, _)| model.clone());
        let Some(wanted) = oldest.filter(|_| self.loading.is_none()) else { return };
        let answer = place(&self.world, &Wishes::default(), &wanted, CHAT, &self.told, at(now));
        if let Answer::Load(loading) = answer {
            self.swaps += 1;
            let gone: Vec<&ModelId> = loading.evict.iter().map(|(model, _)| model).collect();
            self.world.sites[0].held.retain(|held| !gone.contains(&&held.model));
            self.loading = Some((now + LOAD_S, wanted));
        }
    }
}

/// Swaps of an engine that keeps the latest `room` models by count, as peers do: each request for another one is a load.
fn by_count(requests: &[(f64, &str)], room: usize, first: &str) -> u32 {
    let (mut held, mut swaps) = (vec![first.to_owned()], 0);
    for (_, name) in requests {
        if let Some(position) = held.iter().position(|one| one == name) {
            let one = held.remove(position);
            held.push(one);
            continue;
        }
        swaps += 1;
        held.push((*name).to_owned());
        if held.len() > room {
            held.remove(0);
        }
    }
    swaps
}

fn replayed(models: &[(&str, u64)], first: &str, requests: &[(f64, &str)], last: f64) -> Replay {
    let mut replay = Replay::new(models, first);
    let mut now = 0.0;
    let mut rest = requests.iter().peekable();
    while now <= last {
        while let Some((_, name)) = rest.next_if(|(when, _)| *when <= now) {
            replay.request(name, now);
        }
        replay.step(now);
        now += 0.1;
    }
    replay
}

#[test]
fn two_models_in_turn_each_100_ms_do_not_push_each_other_out() {
    // llama-swap#19, #612: an editor's architect and editor models, asked for in turn.
    let requests: Vec<(f64, &str)> =
        (0..6000).map(|n| (f64::from(n) * 0.1, if n % 2 == 0 { "a" } else { "b" })).collect();
    let replay = replayed(&[("a", 10), ("b", 10)], "a", &requests, 900.0);
    let peers = by_count(&requests, 1, "a");
    assert!(peers > 5000 && replay.swaps <= 6, "{} against {peers}", replay.swaps);
    assert_eq!(replay.answered, 6000, "nothing is left waiting");
    assert!(replay.longest_wait_s <= 120.0 + 2.0 * LOAD_S + 1.0, "{}", replay.longest_wait_s);
}

#[test]
fn one_that_is_idle_leaves_once_when_two_others_come_together() {
    // llama.cpp#28443, #28698: A idle, then B and C in the same moment; nobody is forgotten, nobody is evicted before its
    // own first request.
    let mut requests = vec![(0.0, "a"), (300.0, "b"), (300.0, "c")];
    requests.extend((0..40).map(|n| (301.0 + f64::from(n) * 2.0, if n % 2 == 0 { "b" } else { "c" })));
    let replay = replayed(&[("a", 10), ("b", 10), ("c", 10)], "a", &requests, 1000.0);
    let peers = by_count(&requests, 1, "a");
    assert!(replay.swaps <= 3 && peers >= 40, "{} against {peers}", replay.swaps);
    assert_eq!(replay.answered, 43);
}

#[test]
fn a_completion_model_beside_a_chat_is_loaded_never_or_once() {
    // continue#10378: each completion evicts the chat, and each chat the completion.
    let requests: Vec<(f64, &str)> =
        (0..600).map(|n| (f64::from(n), if n % 10 == 0 { "chat" } else { "fim" })).collect();
    let peers = by_count(&requests, 1, "chat");
    let world = world(&[("one", 16, &["chat"])], &[("chat", 10), ("fim", 8)]);
    let claim = Claim { may_evict: false, ..CHAT };
    let loads = requests.iter().filter(|(when, name)| {
        let told = Told::default();
        *name == "fim"
            && matches!(
                place(&world, &Wishes::default(), &model("fim"), claim, &told, at(*when)),
                Answer::Load(_)
            )
    });
    assert_eq!(loads.count(), 0);
    assert!(peers >= 119, "{peers}");
}
