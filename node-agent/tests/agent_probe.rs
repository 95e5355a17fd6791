//! The probe against machines that the test machine is not: a full one, a bare one, one with thermal zones
//! only, and one whose files are half missing and half garbage.

use mesh_core::machine::{Capacity, Gpu, Reading, Temperature};
use mesh_core::units::Bytes;
use node_agent::probe::{Probe, render};
use std::path::{Path, PathBuf};

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/roots").join(name)
}

fn probe(name: &str) -> Probe {
    Probe::new(root(name), env!("CARGO_MANIFEST_DIR"))
}

fn sensors(reading: &Reading<Vec<Temperature>>) -> Vec<(String, f32, Option<f32>)> {
    let all = reading.known().expect("sensors are there");
    all.iter().map(|t| (t.sensor.clone(), t.value.0, t.limit.map(|limit| limit.0))).collect()
}

fn unknown<T: std::fmt::Debug>(reading: &Reading<T>) -> &str {
    match reading {
        Reading::Unknown(reason) => reason,
        Reading::Known(value) => panic!("{value:?} is known"),
    }
}

#[test]
fn a_full_machine_tells_its_names() {
    let hardware = probe("full").hardware();
    assert_eq!(hardware.hostname, "Raider_1");
    assert_eq!(hardware.cpu, Reading::Known("AMD Ryzen 9 7950X 16-Core Processor".into()));
    assert_eq!(hardware.cpu_threads, 2);
    assert_eq!(hardware.system, Reading::Known("Linux 6.12.9-amd64".into()));
}

#[test]
fn a_full_machine_tells_its_numbers_rounded() {
    let vitals = probe("full").vitals();
    let available = 100_007_936_u64 * 1024;
    let step = 16 << 20;
    let ram = Capacity { total: Bytes(131_072_000 * 1024), available: Bytes(available - available % step) };
    assert_eq!(vitals.ram, Reading::Known(ram));
    assert_eq!(vitals.load, Reading::Known(1.3));
    assert_eq!(vitals.uptime_s, Reading::Known(532_834 - 532_834 % 60));
    let disk = vitals.disk.known().expect("the disk of this repository");
    assert!(disk.total.0 > 0 && disk.available.0.is_multiple_of(step) && disk.available <= disk.total);
}

#[test]
fn sensors_of_known_drivers_are_read_once_each_and_told_apart() {
    let found = sensors(&probe("full").vitals().temperatures);
    let expected = [
        ("nvme Composite", 42.0, Some(84.85)),
        ("nvme Composite 2", 39.0, None),
        ("k10temp Tctl", 62.0, None),
        ("k10temp Tccd1", 58.0, None),
        ("coretemp Package id 0", 70.0, Some(100.0)),
    ];
    assert_eq!(found, expected.map(|(name, value, limit)| (name.to_owned(), value, limit)));
}

#[test]
fn a_card_that_two_drivers_show_is_one_card() {
    let vitals = probe("full").vitals();
    let gpus: &Vec<Gpu> = vitals.gpus.known().expect("cards are there");
    let names: Vec<&str> = gpus.iter().map(|gpu| gpu.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "NVIDIA GeForce RTX 5070 Ti",
            "AMD Radeon RX 7900 XT / XTX",
            "Intel UHD Graphics (Raptor Lake)",
            "NVIDIA GPU 10de:1c82 (nouveau)",
        ]
    );
    assert!(unknown(&gpus[0].memory).contains("NVIDIA's driver is not installed"));
    let free = 25_753_026_560_u64 - 1_073_745_920;
    let amd = Capacity { total: Bytes(25_753_026_560), available: Bytes(free - free % (16 << 20)) };
    assert_eq!(gpus[1].memory, Reading::Known(amd));
}

#[test]
fn a_bare_machine_has_no_cards_and_unknown_temperatures() {
    let (hardware, vitals) = (probe("no-gpu").hardware(), probe("no-gpu").vitals());
    assert!(unknown(&hardware.cpu).ends_with("proc/cpuinfo names no model"));
    assert_eq!(hardware.cpu_threads, 2);
    assert_eq!(vitals.gpus, Reading::Known(vec![]));
    assert!(unknown(&vitals.temperatures).contains("no readable sensor"));
    assert_eq!(vitals.uptime_s, Reading::Known(0));
}

#[test]
fn thermal_zones_stand_in_for_missing_drivers() {
    assert_eq!(sensors(&probe("zones").vitals().temperatures), [("soc-thermal".to_owned(), 48.0, None)]);
}

#[test]
fn garbage_becomes_unknown_with_the_file_that_holds_it() {
    let (hardware, vitals) = (probe("half-missing").hardware(), probe("half-missing").vitals());
    assert_eq!(hardware.hostname, "unknown");
    assert_eq!(hardware.cpu_threads, 1);
    assert!(unknown(&hardware.system).contains("osrelease"));
    assert!(unknown(&vitals.ram).contains("MemTotal is `lots`"));
    assert!(unknown(&vitals.load).contains("`nan nan nan` does not start with a number"));
    assert!(unknown(&vitals.uptime_s).contains("proc/uptime"));
    assert_eq!(sensors(&vitals.temperatures), [("nvme temp1".to_owned(), 40.0, None)]);
    let gpus = vitals.gpus.known().expect("three cards are recognised by their vendor");
    assert_eq!(gpus.len(), 3);
    assert!(unknown(&gpus[0].memory).contains("2000 of 1000 bytes"));
    assert!(unknown(&gpus[1].memory).contains("`-1` is no number"));
}

#[test]
fn an_empty_root_is_all_unknown_and_still_prints() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    let probe = Probe::new(empty.path(), empty.path().join("not/there/yet"));
    let (hardware, vitals) = (probe.hardware(), probe.vitals());
    assert!(unknown(&vitals.gpus).contains("neither"));
    assert!(vitals.disk.known().is_some(), "the nearest parent's disk");
    let text = render(&hardware, &vitals);
    assert!(text.contains("cpu          unknown: "), "{text}");
}

#[test]
fn noise_below_the_steps_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |file: &str, text: &str| {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("creating");
        std::fs::write(path, text).expect("writing");
    };
    let look = |available: u64, load: &str, uptime: &str, millidegrees: &str| {
        write("proc/meminfo", &format!("MemTotal: 33554432 kB\nMemAvailable: {available} kB\n"));
        write("proc/loadavg", &format!("{load} 0 0"));
        write("proc/uptime", uptime);
        write("sys/class/hwmon/hwmon0/name", "k10temp");
        write("sys/class/hwmon/hwmon0/temp1_input", millidegrees);
        let mut vitals = Probe::new(folder.path(), folder.path()).vitals_at(0);
        // The test machine's disk is not ours to hold still.
        vitals.disk = Reading::unknown("left out");
        vitals
    };
    let first = look(16_777_216, "0.52", "120.0", "50400");
    assert_eq!(first, look(16_777_216 + 9000, "0.48", "179.9", "49600"));
    assert_ne!(first, look(16_777_216 + 17_000, "0.52", "120.0", "50400"));
    assert_ne!(first, look(16_777_216, "0.52", "120.0", "50600"));
}
