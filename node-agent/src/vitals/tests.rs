//! The reader against machines that the tests write.

use super::*;
use mesh_core::machine::{Power, Reading, ThermalState};
use prometheus_client::registry::Registry;
use std::path::Path;
use tempfile::TempDir;
use tokio::task::JoinHandle;

struct House {
    root: TempDir,
    vitals: VitalsHandle,
    registry: Registry,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Of paused time, one reading a second: what has not happened after ten minutes never will.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(600), future).await.expect("in time")
}

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    std::fs::create_dir_all(path.parent().expect("below the root")).expect("created");
    std::fs::write(path, text).expect("written");
}

impl House {
    fn new(policy: Policy) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        write(root.path(), "proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n");
        write(root.path(), "sys/class/hwmon/hwmon0/name", "k10temp\n");
        write(root.path(), "sys/class/hwmon/hwmon0/temp1_crit", "100000\n");
        write(root.path(), "sys/class/hwmon/hwmon0/temp1_input", "50000\n");
        let probe = Arc::new(Probe::new(root.path(), root.path()));
        let first = probe.vitals();
        let mut registry = Registry::default();
        let (keeper, vitals) = VitalsKeeper::new(probe, first, policy, Metrics::new(&mut registry));
        let stop = CancellationToken::new();
        let task = tokio::spawn(keeper.run(stop.clone()));
        Self { root, vitals, registry, stop, task }
    }

    fn write(&self, file: &str, text: &str) {
        write(self.root.path(), file, text);
    }

    fn scraped(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("a String takes all");
        text
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("it ends");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_reading_is_judged_and_counted() {
    let house = House::new(Policy::default());
    let reported = house.vitals.reported.borrow().clone();
    assert_eq!(reported.thermal.state, ThermalState::Ok);
    assert_eq!(*reported, **house.vitals.fresh.borrow());
    let text = house.scraped();
    for line in [
        "modemesh_agent_thermal_state{state=\"ok\"} 1",
        "modemesh_agent_thermal_state{state=\"hot\"} 0",
        "modemesh_agent_temperature_hottest_celsius{} 50.0",
        "modemesh_agent_ram_available_bytes{} 4294967296",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    house.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_near_its_limit_is_reported_hot_and_after_two_minutes_overheated() {
    let mut house = House::new(Policy::default());
    house.write("sys/class/hwmon/hwmon0/temp1_input", "98000\n");
    let hot = |vitals: &Arc<Vitals>| vitals.thermal.state == ThermalState::Hot;
    in_time(house.vitals.reported.wait_for(hot)).await.expect("it reads");
    assert!(!*house.vitals.overheated.borrow());
    in_time(house.vitals.overheated.wait_for(|&overheated| overheated)).await.expect("it reads");
    house.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_unplugged_laptop_is_derated_unless_its_owner_allows_it() {
    let allowed = Policy { battery_allowed: true, ..Policy::default() };
    for (policy, state) in [(Policy::default(), ThermalState::Derated), (allowed, ThermalState::Ok)] {
        let mut house = House::new(policy);
        house.write("sys/class/power_supply/BAT0/type", "Battery");
        house.write("sys/class/power_supply/BAT0/status", "Discharging");
        // Read anew, or the plug would wait for its turn by the wall clock, which no test moves.
        assert!(house.vitals.read_anew().await);
        let reported = house.vitals.reported.borrow_and_update().clone();
        assert_eq!(reported.power, Reading::Known(Power::Battery(None)));
        assert_eq!(reported.thermal.state, state);
        house.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn small_changes_are_fresh_at_once_and_reported_when_asked_for() {
    let mut house = House::new(Policy::default());
    let first = house.vitals.reported.borrow_and_update().ram.clone();
    house.write("proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 4128768 kB\n");
    let changed = house.vitals.fresh.wait_for(|vitals| vitals.ram != first);
    let seen = in_time(changed).await.expect("it reads").clone();
    if seen.as_of == house.vitals.reported.borrow().as_of {
        assert_eq!(house.vitals.reported.borrow().ram, first, "64 MiB wait for the next report");
    }
    assert!(house.vitals.read_anew().await);
    assert_eq!(house.vitals.reported.borrow().ram, seen.ram);
    house.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_after_the_end_is_told() {
    let house = House::new(Policy::default());
    let vitals = house.vitals.clone();
    house.end().await;
    assert!(!vitals.read_anew().await);
}
