//! Models of the store as resting engines: loaded by wish, admitted by memory, measured, checked, let go.

use crate::house::{House, PATIENCE, bundled, child, engine_folder, model, processes_of, replica};
use mesh_core::id::ModelId;
use mesh_core::machine::{
    Capacity, Directive, EngineState, LoadWish, Reading, Replica, ReplicaHealth, ReplicaState, Store,
    Thermal, ThermalState, Vitals,
};
use mesh_core::memory::{CacheType, Options};
use mesh_core::profile::MeasuredBy;
use mesh_core::units::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node_agent::engine::{EngineConfig, Program};
use node_agent::model_store::{StoreConfig, StoreHandle, StoreWish};
use node_agent::profile::ProfileHandle;
use node_agent::supervisor::{LaunchDefaults, SupervisorConfig};
use node_agent::truth::TruthConfig;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

const MIB: u64 = 1 << 20;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn trained() -> PathBuf {
    repository("node-agent/assets/models/tiny-trained-1.4M-q8_0.gguf")
}

fn random() -> PathBuf {
    repository("modemesh/assets/models/tiny-random-1.4M-q8_0.gguf")
}

/// A machine without graphics processors and with this much RAM free.
fn machine(free_mib: u64) -> Arc<Vitals> {
    Arc::new(Vitals {
        ram: Reading::Known(Capacity { total: Bytes(64 << 30), available: Bytes(free_mib * MIB) }),
        gpus: Reading::Known(Vec::new()),
        ..Vitals::unknown("a test")
    })
}

/// A store with some models, and the supervisor over it.
struct Shelves {
    house: House,
    store: StoreHandle,
    profile: ProfileHandle,
    vitals: watch::Sender<Arc<Vitals>>,
    overheated: watch::Sender<bool>,
    folder: TempDir,
    _stop: DropGuard,
}

impl Shelves {
    fn with(
        models: &[(&str, PathBuf)],
        free_mib: u64,
        truth: TruthConfig,
        engines: impl FnOnce(&Path) -> Vec<EngineConfig>,
    ) -> Self {
        Self::started_by(Program::Bundled, models, free_mib, truth, engines)
    }

    fn started_by(
        program: Program,
        models: &[(&str, PathBuf)],
        free_mib: u64,
        truth: TruthConfig,
        engines: impl FnOnce(&Path) -> Vec<EngineConfig>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let shelf = folder.path().join("models");
        std::fs::create_dir(&shelf).expect("a folder");
        for (name, file) in models {
            std::fs::copy(file, shelf.join(format!("{name}.gguf"))).expect("a copy");
        }
        let stop = CancellationToken::new();
        let store = StoreHandle::start(StoreConfig::new(&shelf, &folder.path().join("state")), stop.clone());
        let (vitals, seen) = watch::channel(machine(free_mib));
        let (overheated, is_overheated) = watch::channel(false);
        let profile = ProfileHandle::in_memory();
        let house = House::of(SupervisorConfig {
            engines: engines(&shelf),
            discover: Vec::new(),
            store: Some(store.clone()),
            vitals: seen,
            overheated: is_overheated,
            profile: profile.clone(),
            launch: LaunchDefaults { program, context: 1024, slots: 2 },
            truth,
            ..SupervisorConfig::new(engine_folder())
        });
        let releasing = house.handle.clone();
        store.release_with(Arc::new(move |model| releasing.release(&model)));
        Self { house, store, profile, vitals, overheated, folder, _stop: stop.drop_guard() }
    }

    async fn of(models: &[(&str, PathBuf)], free_mib: u64) -> Self {
        let shelves = Self::with(models, free_mib, TruthConfig::OFF, |_| Vec::new());
        for (name, _) in models {
            shelves.house.until_replica(name, "on its shelf", |r| r.state == ReplicaState::Available).await;
        }
        shelves
    }

    /// The machine is in this thermal state now.
    fn is(&self, state: ThermalState, why: &str) {
        self.vitals.send_modify(|vitals| {
            let thermal = Thermal { state, why: why.into() };
            *vitals = Arc::new(Vitals { thermal, ..(**vitals).clone() });
        });
    }

    fn load(&self, wish: LoadWish) {
        self.house.handle.direct(Directive::Load(wish));
    }

    async fn until_stored(&self, what: &str, wanted: impl Fn(&Store) -> bool) {
        let mut store = self.store.watch();
        let seen = tokio::time::timeout(PATIENCE, store.wait_for(|store| wanted(store)));
        assert!(seen.await.is_ok(), "not within {PATIENCE:?}: {what}");
    }

    async fn stopped(self) {
        self.house.stopped().await;
    }
}

/// A program in place of llama-server that does this when it is started for a model.
fn program(folder: &Path, starts: &str) -> Program {
    let file = folder.join("engine");
    let text = format!("#!/bin/sh\ncase \"$*\" in *--alias*) ;; *) exit 0;; esac\n{starts}\n");
    std::fs::write(&file, text).expect("a script");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("it may run");
    Program::Path(file)
}

fn is_loaded(replica: &Replica) -> bool {
    replica.state == ReplicaState::Loaded
}

fn failure(replica: &Replica) -> Option<&str> {
    match &replica.state {
        ReplicaState::Failed(why) => Some(why),
        ReplicaState::Available | ReplicaState::Loading | ReplicaState::Loaded => None,
    }
}

fn wish(name: &str) -> LoadWish {
    LoadWish::from(model(name))
}

#[tokio::test]
async fn a_stored_model_rests_until_it_is_wished_and_takes_the_sizes_of_the_wish() {
    if bundled().await.is_none() {
        return;
    }
    let shelves = Shelves::of(&[("resting", trained())], 60_000).await;
    let engines = shelves.house.handle.engines().borrow().clone();
    assert_eq!((engines[0].name.as_str(), &engines[0].state), ("store/resting", &EngineState::Up));
    let resting = &engines[0].replicas[0];
    assert_eq!((resting.trained_context, resting.parameters), (Some(2048), Some(1_377_600)));
    assert_eq!(
        shelves.house.handle.lease(&model("resting")).await.expect_err("resting").kind(),
        "not_loaded"
    );
    assert!(processes_of("resting").is_empty());

    // Nothing wished: the configured default of context and slots.
    shelves.load(wish("resting"));
    let seen = shelves.house.until_replica("resting", "loaded", is_loaded).await;
    assert_eq!((seen.context, seen.slots), (Some(1024), Some(2)));
    let lease = shelves.house.handle.lease(&model("resting")).await.expect("loaded");

    // Measured after a moment: nothing on a device, its process in RAM.
    let measured = |r: &Replica| r.memory.is_some_and(|memory| memory.measured);
    let seen = shelves.house.until_replica("resting", "measured", measured).await;
    let memory = seen.memory.expect("measured");
    assert_eq!(memory.device, Bytes(0));
    assert!((20 * MIB..2000 * MIB).contains(&memory.host.0), "{}", memory.host);
    let records = shelves.profile.read(|profile| profile.footprints.clone());
    assert_eq!(records.len(), 1, "{records:#?}");
    let (load, took) = (&records[0].load, records[0].measured.expect("measured"));
    assert_eq!((load.options.context, load.options.slots, load.device.as_str()), (1024, 2, "ram"));
    assert_eq!(load.build, "llama-server b11549");
    assert_eq!((took.device, took.source), (Bytes(0), MeasuredBy::Process));
    let later = Options::launched(1024, 2).prompt_cache;
    assert!(took.host.0 >= memory.host.0 + later.0, "with the room that caches of prompts may take later");

    // Another size is another load; it waits for the request.
    shelves.load(LoadWish { context: Some(2048), slots: Some(1), ..wish("resting") });
    shelves.house.until_replica("resting", "draining", |r| r.state == ReplicaState::Available).await;
    assert_eq!(processes_of("resting").len(), 1, "a request holds it");
    drop(lease);
    let other = |r: &Replica| is_loaded(r) && r.context == Some(2048) && r.slots == Some(1);
    shelves.house.until_replica("resting", "loaded in another size", other).await;

    // One that cannot be is told, and changes nothing.
    shelves.load(LoadWish { context: Some(u32::MAX), ..wish("resting") });
    let mut refusals = shelves.house.handle.refusals();
    let told = tokio::time::timeout(PATIENCE, refusals.wait_for(|told| !told.is_empty())).await;
    let told = told.expect("in time").expect("the supervisor lives")[0].clone();
    assert_eq!(told.model, model("resting"));
    assert!(told.reason.starts_with("stays as it is loaded: does not fit: needs "), "{}", told.reason);
    assert!(shelves.house.handle.lease(&model("resting")).await.is_ok(), "it serves on");
    shelves.load(LoadWish { context: Some(1024), ..wish("resting") });
    // What it sees is held no longer than this: the supervisor writes there.
    let forgotten = tokio::time::timeout(PATIENCE, refusals.wait_for(|told| told.is_empty())).await.is_ok();
    assert!(forgotten, "a wish that is fulfilled already is no refusal");

    shelves.house.handle.direct(Directive::Unload(model("resting")));
    shelves
        .house
        .until("resting", |e| e[0].state == EngineState::Up && processes_of("resting").is_empty())
        .await;
    shelves.stopped().await;
}

#[tokio::test]
async fn a_load_that_does_not_fit_is_refused_with_the_numbers_and_forgiven_when_there_is_room() {
    if bundled().await.is_none() {
        return;
    }
    let shelves = Shelves::of(&[("refused", trained())], 300).await;
    shelves.load(LoadWish { context: Some(1024), ..wish("refused") });
    let failed = shelves.house.until_replica("refused", "refused", |r| failure(r).is_some()).await;
    let why = failure(&failed).expect("a reason");
    for part in ["does not fit", "of RAM", "300 MiB are free", "too few"] {
        assert!(why.contains(part), "{part} in: {why}");
    }
    assert!(processes_of("refused").is_empty(), "nothing was started");
    let lease = shelves.house.handle.lease(&model("refused")).await.expect_err("refused");
    assert!(lease.to_string().contains("300 MiB"), "{lease}");
    // Another size may be one that fits: it has its own answer at once, and not that of the first.
    let (first, began) = (why.to_owned(), Instant::now());
    shelves.load(LoadWish { context: Some(256), ..wish("refused") });
    let is_another = |r: &Replica| failure(r).is_some_and(|why| why != first);
    shelves.house.until_replica("refused", "refused anew", is_another).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    // The same wish, and room: it is tried again, ten seconds after the refusal at the earliest.
    shelves.vitals.send_replace(machine(60_000));
    shelves.load(LoadWish { context: Some(256), ..wish("refused") });
    shelves.house.until_replica("refused", "loaded", is_loaded).await;
    assert!(began.elapsed() > Duration::from_secs(8), "{:?}", began.elapsed());
    // A cache that is none is refused in words.
    shelves.house.handle.direct(Directive::Unload(model("refused")));
    shelves.house.until_replica("refused", "resting", |r| r.state == ReplicaState::Available).await;
    shelves.load(LoadWish { cache_type: Some("q99".into()), ..wish("refused") });
    let failed = shelves.house.until_replica("refused", "refused", |r| failure(r).is_some()).await;
    assert!(failure(&failed).is_some_and(|why| why.contains("`q99` is no type of KV cache")), "{failed:?}");
    shelves.stopped().await;
}

#[tokio::test]
async fn two_wishes_whose_engines_break_take_turns_and_do_not_start_them_again_at_once() {
    let tools = tempfile::tempdir().expect("a folder");
    let starts = tools.path().join("starts");
    let script = program(tools.path(), &format!("echo \"$*\" >> {}; exit 1", starts.display()));
    let models = [("breaking", trained())];
    let shelves = Shelves::started_by(script, &models, 60_000, TruthConfig::OFF, |_| Vec::new());
    shelves.house.until_replica("breaking", "on its shelf", |r| r.state == ReplicaState::Available).await;
    // As a router that plans one size and an operator who wants another do, each again and again.
    let sized = |context| LoadWish { context: Some(context), ..wish("breaking") };
    let began = Instant::now();
    for context in [256, 512].into_iter().cycle().take(20) {
        shelves.load(sized(context));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let starts = || std::fs::read_to_string(&starts).unwrap_or_default();
    let contexts = |of: &str| of.lines().filter(|line| line.contains("-c 512 ")).count();
    // Two slots each: 256 are started with 512 in all.
    let seen = starts();
    if began.elapsed() < Duration::from_secs(9) {
        assert_eq!((seen.lines().count(), contexts(&seen)), (2, 1), "one start for each wish: {seen}");
    }
    // After its rest a wish is followed again.
    shelves.load(sized(256));
    let again = async {
        // The script tells nobody.
        while starts().lines().count() < 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("it is started again");
    assert!(began.elapsed() > Duration::from_secs(9), "{:?}", began.elapsed());
    shelves.stopped().await;
}

#[tokio::test]
async fn a_loaded_model_is_not_given_up_for_sizes_whose_engine_has_just_broken() {
    let Some(engine) = bundled().await else { return };
    let tools = tempfile::tempdir().expect("a folder");
    let (python, file, model_file) = (engine.python(), engine.script(), trained());
    let (python, file, model_file) = (python.display(), file.display(), model_file.display());
    let starts = format!(
        "case \"$*\" in *\"-c 1024 \"*) exit 3;; esac\n\
         exec {python} -I {file} {model_file} --alias fragile --port 0 --context 256 --slots 2"
    );
    let models = [("fragile", trained())];
    let script = program(tools.path(), &starts);
    let shelves = Shelves::started_by(script, &models, 60_000, TruthConfig::OFF, |_| Vec::new());
    shelves.house.until_replica("fragile", "on its shelf", |r| r.state == ReplicaState::Available).await;
    let sized = |context| LoadWish { context: Some(context), ..wish("fragile") };
    let began = Instant::now();
    shelves.load(sized(512));
    let broken = shelves.house.until_replica("fragile", "broken", |r| failure(r).is_some()).await;
    assert_eq!((broken.context, broken.slots), (Some(512), Some(2)), "the sizes that broke");
    shelves.load(sized(256));
    let measured = |r: &Replica| is_loaded(r) && r.memory.is_some_and(|memory| memory.measured);
    shelves.house.until_replica("fragile", "measured", measured).await;
    shelves.load(sized(512));
    let mut refusals = shelves.house.handle.refusals();
    let told = tokio::time::timeout(PATIENCE, refusals.wait_for(|told| !told.is_empty())).await;
    let told = told.expect("in time").expect("the supervisor lives")[0].clone();
    if began.elapsed() < Duration::from_secs(9) {
        let why = "stays as it is loaded: its engine has just broken with these sizes: exited with code 3";
        assert_eq!(told.reason, why);
        assert!(shelves.house.handle.lease(&model("fragile")).await.is_ok(), "it serves on");
    }
    shelves.stopped().await;
}

#[tokio::test]
async fn a_model_whose_engine_ended_shows_the_sizes_that_it_was_loaded_with_until_it_is_let_go() {
    if bundled().await.is_none() {
        return;
    }
    let shelves = Shelves::of(&[("ended", trained())], 60_000).await;
    let cache_type = Some("q8_0".to_owned());
    shelves.load(LoadWish { context: Some(512), slots: Some(1), cache_type, ..wish("ended") });
    let sizes = |r: &Replica| (r.context, r.slots, r.cache_type, r.offload);
    let loaded = sizes(&shelves.house.until_replica("ended", "loaded", is_loaded).await);
    assert_eq!(loaded.2, Some(CacheType::Q8_0));
    let pid = i32::try_from(processes_of("ended")[0]).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    let failed = shelves.house.until_replica("ended", "failed", |r| failure(r).is_some()).await;
    assert_eq!(sizes(&failed), loaded, "whoever puts it back knows how");
    let again = shelves.house.until_replica("ended", "started again", |r| failure(r).is_none()).await;
    assert_eq!(sizes(&again), loaded, "from the first moment of the new start");
    shelves.house.handle.direct(Directive::Unload(model("ended")));
    let let_go = |r: &Replica| r.state == ReplicaState::Available && r.context == Some(1024);
    let let_go = shelves.house.until_replica("ended", "let go", let_go).await;
    assert_eq!((let_go.slots, let_go.cache_type), (Some(2), None), "nobody knows how it will be loaded");
    shelves.stopped().await;
}

#[tokio::test]
async fn of_two_loads_that_race_for_the_same_bytes_one_is_refused_with_the_numbers() {
    if bundled().await.is_none() {
        return;
    }
    // Each needs some 700 MiB, mostly room for prompts, and 512 MiB beside it: one fits, two do not.
    let shelves = Shelves::of(&[("one", trained()), ("two", random())], 1400).await;
    shelves.load(wish("one"));
    shelves.load(wish("two"));
    let both = |engines: &[mesh_core::machine::Engine]| {
        let of = |name| replica(engines, name);
        match (of("one"), of("two")) {
            (Some(one), Some(two)) => {
                (is_loaded(one) && failure(two).is_some()) || (is_loaded(two) && failure(one).is_some())
            }
            _ => false,
        }
    };
    let engines = shelves.house.until("one loaded and one refused", both).await;
    let (refused, other) = match failure(replica(&engines, "one").expect("listed")) {
        Some(why) => (why, "two"),
        None => (failure(replica(&engines, "two").expect("listed")).expect("a reason"), "one"),
    };
    for part in [
        "does not fit: needs ",
        "MiB of RAM and 512 MiB beside it",
        "1.4 GiB are free",
        "MiB of them promised",
    ] {
        assert!(refused.contains(part), "{part} in: {refused}");
    }
    assert!(refused.contains(&format!("held by {other}")), "{refused}");
    shelves.stopped().await;
}

#[tokio::test]
async fn a_file_that_the_configuration_names_has_one_row_and_not_two() {
    if bundled().await.is_none() {
        return;
    }
    let configured = |shelf: &Path| vec![child(Program::Bundled, shelf.join("tiny.gguf"), "mine")];
    let models = [("tiny", trained()), ("other", trained())];
    let shelves = Shelves::with(&models, 60_000, TruthConfig::OFF, configured);
    shelves.house.until_replica("other", "on its shelf", |r| r.state == ReplicaState::Available).await;
    shelves.house.until_replica("mine", "loaded", is_loaded).await;
    let engines = shelves.house.handle.engines().borrow().clone();
    let names: Vec<&str> = engines.iter().map(|engine| engine.name.as_str()).collect();
    assert_eq!(names, ["child-mine", "store/other"]);
    shelves.stopped().await;
}

#[tokio::test]
async fn a_model_that_is_deleted_is_let_go_once_its_requests_are_answered() {
    if bundled().await.is_none() {
        return;
    }
    let shelves = Shelves::of(&[("deleted", trained())], 60_000).await;
    shelves.load(wish("deleted"));
    // Until then another size is not even considered.
    let measured = |r: &Replica| is_loaded(r) && r.memory.is_some_and(|memory| memory.measured);
    shelves.house.until_replica("deleted", "measured", measured).await;
    let lease = shelves.house.handle.lease(&model("deleted")).await.expect("loaded");
    let file = shelves.folder.path().join("models/deleted.gguf");
    shelves.store.direct(StoreWish::Delete(model("deleted")));
    shelves.house.until_replica("deleted", "draining", |r| r.state == ReplicaState::Available).await;
    // Wishes meanwhile change nothing, and nobody is told that it stays. The request goes on: by the time it has its
    // answer, the wishes have been heard.
    shelves.load(wish("deleted"));
    shelves.load(LoadWish { context: Some(u32::MAX), ..wish("deleted") });
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
    let answer = client.get(format!("{}/health", lease.base_url)).send().await.expect("answered");
    assert_eq!(answer.status(), 200);
    assert!(file.exists() && processes_of("deleted").len() == 1, "a request holds it");
    assert_eq!(*shelves.house.handle.refusals().borrow().as_slice(), []);
    drop(lease);
    shelves.until_stored("deleted", |store| store.models.is_empty()).await;
    shelves.house.until("its row is gone", |engines| engines.is_empty()).await;
    assert!(!file.exists() && processes_of("deleted").is_empty());
    shelves.load(wish("deleted"));
    let never: ModelId = model("never-there");
    shelves.house.handle.release(&never).await;
    shelves.stopped().await;
}

#[tokio::test]
async fn a_model_with_random_weights_is_quarantined_and_the_trained_one_passes() {
    if bundled().await.is_none() {
        return;
    }
    let models = [("tiny-trained", trained()), ("tiny-random", random())];
    let shelves = Shelves::with(&models, 60_000, TruthConfig::default(), |_| Vec::new());
    for (name, _) in &models {
        shelves.house.until_replica(name, "on its shelf", |r| r.state == ReplicaState::Available).await;
        shelves.load(wish(name));
    }
    let checked = |r: &Replica| r.health != ReplicaHealth::Unchecked;
    let trained = shelves.house.until_replica("tiny-trained", "checked", checked).await;
    assert_eq!(trained.health, ReplicaHealth::Good);
    let random = shelves.house.until_replica("tiny-random", "checked", checked).await;
    let ReplicaHealth::Quarantined(why) = &random.health else { panic!("{:?}", random.health) };
    assert!(why.contains("test answers are bad"), "{why}");
    let speeds = shelves.profile.read(|profile| profile.speeds.clone());
    assert_eq!(speeds.len(), 1, "{speeds:#?}");
    assert!(speeds[0].decode.is_some_and(|decode| decode > 1.0), "{speeds:#?}");
    assert_eq!(speeds[0].device, "ram");
    shelves.stopped().await;
}

#[tokio::test]
async fn without_prompts_random_weights_may_serve() {
    if bundled().await.is_none() {
        return;
    }
    let truth = TruthConfig { enabled: true, prompts: false };
    let shelves = Shelves::with(&[("tiny-random", random())], 60_000, truth, |_| Vec::new());
    shelves.house.until_replica("tiny-random", "on its shelf", |r| r.state == ReplicaState::Available).await;
    shelves.load(wish("tiny-random"));
    let checked = |r: &Replica| r.health != ReplicaHealth::Unchecked;
    let seen = shelves.house.until_replica("tiny-random", "checked", checked).await;
    assert_eq!(seen.health, ReplicaHealth::Good);
    shelves.stopped().await;
}

#[tokio::test]
async fn a_machine_near_its_limit_or_on_battery_takes_no_wished_load_and_says_what_helps() {
    if bundled().await.is_none() {
        return;
    }
    let shelves = Shelves::of(&[("derated", trained()), ("hot", random())], 60_000).await;
    for (name, state, why, helps) in [
        ("derated", ThermalState::Derated, "on battery, 80 % left", "thermal.on_battery"),
        ("hot", ThermalState::Hot, "GPU 86 of 87 \u{b0}C", "cooled down"),
    ] {
        shelves.is(state, why);
        shelves.load(wish(name));
        let refused = shelves.house.until_replica(name, "refused", |r| failure(r).is_some()).await;
        let text = failure(&refused).unwrap_or_default();
        assert!(text.contains(why) && text.contains(state.word()) && text.contains(helps), "{text}");
        assert!(processes_of(name).is_empty());
    }
    shelves.is(ThermalState::Warm, "over its goal");
    shelves.house.handle.direct(Directive::Unload(model("derated")));
    shelves.house.until_replica("derated", "forgiven", |r| failure(r).is_none()).await;
    shelves.load(wish("derated"));
    shelves.house.until_replica("derated", "loaded", is_loaded).await;
    // Another size of what is loaded is a load as well.
    shelves.is(ThermalState::Derated, "GPU 80 of 87 \u{b0}C");
    shelves.load(LoadWish { context: Some(2048), ..wish("derated") });
    let mut refusals = shelves.house.handle.refusals();
    let told = tokio::time::timeout(PATIENCE, refusals.wait_for(|told| !told.is_empty())).await;
    let told = told.expect("in time").expect("the supervisor lives")[0].clone();
    let warm = "stays as it is loaded: the machine takes no load while it is derated";
    assert!(told.reason.starts_with(warm), "{}", told.reason);
    assert!(shelves.house.handle.lease(&model("derated")).await.is_ok(), "it serves on");
    shelves.stopped().await;
}

#[tokio::test]
async fn an_overheated_machine_unloads_after_the_last_answer_and_loads_the_same_again_when_cool() {
    if bundled().await.is_none() {
        return;
    }
    let shelves = Shelves::of(&[("heated", trained()), ("cold", random())], 60_000).await;
    let cache_type = Some("q8_0".to_owned());
    shelves.load(LoadWish { context: Some(512), slots: Some(1), cache_type, ..wish("heated") });
    let first = shelves.house.until_replica("heated", "loaded", is_loaded).await;
    assert_eq!(first.cache_type, Some(CacheType::Q8_0), "plans see what it holds");
    assert!(first.offload.is_some(), "and where");
    let measured = |r: &Replica| r.memory.is_some_and(|memory| memory.measured);
    shelves.house.until_replica("heated", "measured", measured).await;
    let lease = shelves.house.handle.lease(&model("heated")).await.expect("loaded");

    shelves.is(ThermalState::Hot, "GPU 86 of 87 \u{b0}C");
    shelves.overheated.send_replace(true);
    shelves.house.until_replica("heated", "draining", |r| !is_loaded(r)).await;
    assert_eq!(processes_of("heated").len(), 1, "an answer is on its way");
    drop(lease);
    shelves.house.until("unloaded", |_| processes_of("heated").is_empty()).await;

    // Cooler, and not cool enough.
    shelves.overheated.send_replace(false);
    shelves.is(ThermalState::Derated, "GPU 80 of 87 \u{b0}C");
    shelves.is(ThermalState::Ok, "GPU 60 of 87 \u{b0}C");
    let seen = shelves.house.until_replica("heated", "loaded again", is_loaded).await;
    assert_eq!((seen.context, seen.slots), (Some(512), Some(1)));
    let records = shelves.profile.read(|profile| profile.footprints.clone());
    assert!(records.iter().all(|record| record.load.options.cache == "q8_0"), "{records:#?}");
    assert!(processes_of("cold").is_empty(), "what was not loaded is not loaded now");

    // What somebody else took out meanwhile and deleted does not come back.
    shelves.is(ThermalState::Hot, "GPU 86 of 87 \u{b0}C");
    shelves.overheated.send_replace(true);
    shelves.house.until("unloaded", |_| processes_of("heated").is_empty()).await;
    shelves.store.direct(StoreWish::Delete(model("heated")));
    shelves.until_stored("deleted", |store| store.models.len() == 1).await;
    shelves.overheated.send_replace(false);
    shelves.is(ThermalState::Ok, "GPU 60 of 87 \u{b0}C");
    shelves.load(wish("cold"));
    shelves.house.until_replica("cold", "loaded", is_loaded).await;
    assert!(processes_of("heated").is_empty());
    shelves.stopped().await;
}
