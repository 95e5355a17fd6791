//! What each machine below `tests/roots` says of itself, pinned as a person reads it. The words of the report are
//! part of the product: a change shows in the snapshot's diff.

#[path = "fixture_machines/doctor.rs"]
mod doctor;

use mesh_core::machine::{Capacity, Gpu, GpuState, Pool, Reading, ThrottleCause, UnifiedLimit, Vitals};
use mesh_core::units::Bytes;
use node_agent::probe::{GpuOverrides, Probe, render};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// A moment for the reports' time stamps.
const NOW: u64 = 1_800_000_000;

const GIB: u64 = 1 << 30;

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/roots").join(name)
}

/// A probe of one root. Where the root says what NVIDIA's library would, the mock library says it.
fn probe(name: &str) -> Probe {
    let probe = Probe::new(root(name), env!("CARGO_MANIFEST_DIR"));
    match nvidia_library(name) {
        Some(library) => probe.with_nvidia_library(library),
        None => probe,
    }
}

/// NVIDIA's library for one root: a copy of the mock beside the root's script, because the loader shares a file
/// between all its users.
fn nvidia_library(name: &str) -> Option<PathBuf> {
    static COMPILED: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvml/mock_nvml.c");
        let mut cc = std::process::Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.path().join("mock.so")).arg(source).arg("-ldl");
        assert!(cc.status().expect("a C compiler, which Rust needs to link anyway").success());
        folder
    });
    let script = root(name).join("usr/lib/libnvidia-ml.so.1.script");
    if !script.exists() {
        return None;
    }
    let folder = tempfile::tempdir_in(COMPILED.path()).expect("a temporary folder").keep();
    let library = folder.join("libnvidia-ml.so.1");
    std::fs::copy(COMPILED.path().join("mock.so"), &library).expect("copying");
    std::fs::copy(script, folder.join("libnvidia-ml.so.1.script")).expect("copying");
    Some(library)
}

/// The vitals without what is the test machine's own.
fn vitals(probe: &Probe, at: u64) -> Vitals {
    let disk = Capacity { total: Bytes(931 * GIB), available: Bytes(412 * GIB) };
    Vitals { disk: Reading::Known(disk), ..probe.vitals_at(at) }
}

fn gpu(vitals: &Vitals, n: usize) -> &Gpu {
    &vitals.gpus.known().expect("there are graphics processors")[n]
}

fn unknown<T: std::fmt::Debug>(reading: &Reading<T>) -> &str {
    match reading {
        Reading::Unknown(reason) => reason,
        Reading::Known(value) => panic!("{value:?} is known"),
    }
}

/// A copy of a root that a test may change.
fn copied(name: &str) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("creating");
        for entry in std::fs::read_dir(from).expect("the root is readable") {
            let entry = entry.expect("the root is readable");
            let (path, to) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type().expect("the root is readable");
            if kind.is_symlink() {
                let target = std::fs::read_link(&path).expect("the link is readable");
                std::os::unix::fs::symlink(target, to).expect("linking");
            } else if kind.is_dir() {
                copy(&path, &to);
            } else {
                std::fs::copy(&path, &to).expect("copying");
            }
        }
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy(&root(name), folder.path());
    folder
}

fn write(folder: &tempfile::TempDir, file: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.path().join(file);
    std::fs::create_dir_all(path.parent().expect("below the folder")).expect("creating");
    std::fs::write(path, bytes).expect("writing");
}

/// The folder of Strix Halo's graphics in its roots.
const STRIX: &str = "sys/bus/pci/devices/0000:c5:00.0";

macro_rules! reports {
    ($($test:ident: $name:literal),* $(,)?) => {$(
        #[test]
        fn $test() {
            let probe = probe($name);
            let text = render(&probe.hardware(), &vitals(&probe, NOW));
            let text = text.replace(root($name).to_str().expect("a path in UTF-8"), "");
            insta::assert_snapshot!($name, text.replace(env!("CARGO_PKG_VERSION"), "(version)"));
        }
    )*};
}

reports! {
    a_laptop_on_battery: "laptop-4070",
    a_laptop_on_mains: "laptop-3050ti",
    a_proxmox_server: "server-5070ti",
    strix_halo_with_a_small_carve_out: "strix-halo-512m",
    strix_halo_with_a_large_carve_out: "strix-halo-96g",
    a_mini_pc_with_integrated_graphics: "beelink",
    a_zfs_host_with_a_card: "zfs",
    a_virtual_machine: "no-gpu",
    a_machine_in_ruins: "half-missing",
    a_workstation_with_four_cards: "full",
    a_board_with_thermal_zones: "zones",
}

#[test]
fn strix_halo_is_one_pool_and_not_the_sum_of_two() {
    let small = vitals(&probe("strix-halo-512m"), NOW);
    let memory = *gpu(&small, 0).memory.known().expect("all figures are there");
    assert_eq!(memory.total, Bytes(96 * GIB + (512 << 20)));
    assert!(matches!(gpu(&small, 0).pool, Pool::Unified { limited_by: UnifiedLimit::Driver, .. }));

    let large = vitals(&probe("strix-halo-96g"), NOW);
    let memory = *gpu(&large, 0).memory.known().expect("all figures are there");
    // The driver allows 111.4 GiB; a machine of 128 GB whose RAM is half in use does not have them.
    assert!(memory.total < Bytes(112 * GIB) && memory.available < Bytes(100 * GIB), "{memory:?}");
}

#[test]
fn little_free_ram_bounds_the_pool_before_the_driver_does() {
    let machine = copied("strix-halo-512m");
    write(&machine, "proc/meminfo", "MemTotal: 131032284 kB\nMemAvailable: 33554432 kB\n");
    let vitals = vitals(&Probe::new(machine.path(), "/"), NOW);
    let memory = gpu(&vitals, 0).memory.known().expect("all figures are there");
    // 32 GiB of RAM and 333 MiB of carve-out are free, 4 GiB are the system's.
    assert_eq!(memory.available.0 / GIB, 28);
    assert!(matches!(gpu(&vitals, 0).pool, Pool::Unified { limited_by: UnifiedLimit::Ram, .. }));
}

#[test]
fn the_operators_word_outranks_the_files() {
    let with = |overrides| vitals(&probe("strix-halo-512m").with_overrides(overrides), NOW);
    let slot = || vec!["0000:c5:00.0".to_owned()];
    let figure = with(GpuOverrides { unified: Some(Bytes(64 * GIB)), ..GpuOverrides::default() });
    assert_eq!(gpu(&figure, 0).memory.known().map(|memory| memory.total), Some(Bytes(64 * GIB)));
    assert!(matches!(gpu(&figure, 0).pool, Pool::Unified { limited_by: UnifiedLimit::Operator, .. }));
    let card = with(GpuOverrides { discrete: slot(), ..GpuOverrides::default() });
    assert_eq!(gpu(&card, 0).pool, Pool::Discrete { reserved: None });
    assert_eq!(gpu(&card, 0).memory.known().map(|memory| memory.total), Some(Bytes(512 << 20)));
    let shares = vitals(
        &probe("zfs").with_overrides(GpuOverrides {
            integrated: vec!["0000:03:00.0".into()],
            ..GpuOverrides::default()
        }),
        NOW,
    );
    assert!(gpu(&shares, 0).pool.shares_ram());
}

#[test]
fn without_the_compute_driver_nobody_knows_which_and_the_report_says_so() {
    let machine = copied("strix-halo-512m");
    std::fs::remove_dir_all(machine.path().join("sys/class/kfd")).expect("it is there");
    let vitals = vitals(&Probe::new(machine.path(), "/"), NOW);
    let Pool::Unknown(why) = &gpu(&vitals, 0).pool else { panic!("{:?}", gpu(&vitals, 0).pool) };
    assert!(why.contains("/sys/class/kfd") && why.contains("mesh-agent doctor"), "{why}");
    assert_eq!(gpu(&vitals, 0).memory.known().map(|memory| memory.total), Some(Bytes(512 << 20)));
}

#[test]
fn a_folder_where_a_figure_belongs_leaves_the_pool_unknown_with_its_path() {
    let machine = copied("half-missing");
    let device = "sys/bus/pci/devices/0000:07:00.0";
    write(&machine, &format!("{device}/mem_info_vram_used"), "0");
    let integrated = vec!["0000:07:00.0".into()];
    let probe = Probe::new(machine.path(), "/")
        .with_overrides(GpuOverrides { integrated, ..GpuOverrides::default() });
    let vitals = vitals(&probe, NOW);
    let reason = unknown(&gpu(&vitals, 2).memory);
    assert!(reason.contains("mem_info_gtt_total") && reason.contains("directory"), "{reason}");
    assert!(matches!(&gpu(&vitals, 2).pool, Pool::Unknown(why) if why.contains(reason)));
}

#[test]
fn throttle_counters_tell_from_the_second_reading_on() {
    let machine = copied("strix-halo-96g");
    let probe = Probe::new(machine.path(), "/");
    assert!(unknown(&gpu(&vitals(&probe, NOW), 0).sensors.throttle).contains("read once"));
    assert_eq!(gpu(&vitals(&probe, NOW + 1), 0).sensors.throttle, Reading::Known(vec![]));
    let table = root("strix-halo-96g").join(STRIX).join("gpu_metrics");
    let mut table = std::fs::read(table).expect("the table is there");
    // The counter for the heat of the graphics part: the sixth of seven from byte 228 on.
    table[228 + 5 * 4] += 1;
    write(&machine, &format!("{STRIX}/gpu_metrics"), table);
    let throttled = Reading::Known(vec![ThrottleCause::HardwareThermal]);
    assert_eq!(gpu(&vitals(&probe, NOW + 2), 0).sensors.throttle, throttled);
    assert_eq!(gpu(&vitals(&probe, NOW + 3), 0).sensors.throttle, Reading::Known(vec![]));
}

#[test]
fn a_sleeping_card_is_not_woken_and_shows_its_last_sensors() {
    let machine = copied("zfs");
    let device = "sys/bus/pci/devices/0000:03:00.0";
    let probe = Probe::new(machine.path(), "/");
    let awake = vitals(&probe, NOW);
    write(&machine, &format!("{device}/power/runtime_status"), "suspended");
    write(&machine, &format!("{device}/gpu_busy_percent"), "99");
    let asleep = vitals(&probe, NOW + 20);
    assert_eq!(gpu(&asleep, 0).state, GpuState::Asleep);
    assert_eq!(gpu(&asleep, 0).as_of, NOW, "the sensors are as old as they are");
    assert_eq!(gpu(&asleep, 0).sensors, gpu(&awake, 0).sensors);
    assert_eq!(gpu(&asleep, 0).memory, gpu(&awake, 0).memory, "its memory is known without waking it");
    let never_awake = vitals(&Probe::new(machine.path(), "/"), NOW);
    assert!(unknown(&gpu(&never_awake, 0).sensors.busy).contains("asleep"));
}

#[test]
fn a_card_newer_than_this_agent_is_what_its_sensor_table_says_even_asleep() {
    let machine = copied("zfs");
    let node = "sys/class/kfd/kfd/topology/nodes/1/properties";
    let text = std::fs::read_to_string(machine.path().join(node)).expect("it is there");
    write(&machine, node, text.replace("gfx_target_version 110000", "gfx_target_version 990000"));
    let probe = Probe::new(machine.path(), "/");
    assert_eq!(gpu(&vitals(&probe, NOW), 0).pool, Pool::Discrete { reserved: None });
    write(&machine, "sys/bus/pci/devices/0000:03:00.0/power/runtime_status", "suspended");
    assert_eq!(gpu(&vitals(&probe, NOW + 20), 0).pool, Pool::Discrete { reserved: None });
}

#[test]
fn an_idle_card_that_may_sleep_is_read_seldom_and_a_busy_one_always() {
    let machine = copied("zfs");
    let device = "sys/bus/pci/devices/0000:03:00.0";
    write(&machine, &format!("{device}/power/control"), "auto");
    let probe = Probe::new(machine.path(), "/");
    let busy = |at| gpu(&vitals(&probe, at), 0).sensors.busy.clone();
    assert_eq!(busy(NOW), Reading::Known(0));
    write(&machine, &format!("{device}/gpu_busy_percent"), "90");
    assert_eq!(busy(NOW + 50), Reading::Known(0), "it could not fall asleep otherwise");
    assert_eq!(busy(NOW + 60), Reading::Known(90));
    write(&machine, &format!("{device}/gpu_busy_percent"), "0");
    assert_eq!(busy(NOW + 61), Reading::Known(0), "what works is read each time");
    // A model on the card: it does not sleep anyway.
    write(&machine, &format!("{device}/mem_info_vram_used"), "9000000000");
    write(&machine, &format!("{device}/gpu_busy_percent"), "80");
    assert_eq!(busy(NOW + 62), Reading::Known(80));
}

#[test]
fn a_card_that_a_virtual_machine_has_is_there_and_broken() {
    let machine = copied("zfs");
    std::fs::remove_dir_all(machine.path().join("sys/class/drm")).expect("it is there");
    let uevent = "DRIVER=vfio-pci\nPCI_ID=1002:744C\nPCI_SLOT_NAME=0000:03:00.0\n";
    write(&machine, "sys/bus/pci/devices/0000:03:00.0/uevent", uevent);
    let vitals = vitals(&Probe::new(machine.path(), "/"), NOW);
    let GpuState::Broken(_, why) = &gpu(&vitals, 0).state else { panic!("{:?}", gpu(&vitals, 0).state) };
    assert!(why.contains("virtual machine"), "{why}");
}

#[test]
fn two_cards_of_one_driver_have_sensors_of_their_own_names() {
    let machine = copied("zfs");
    let device = root("zfs").join("sys/bus/pci/devices/0000:03:00.0");
    for entry in std::fs::read_dir(device.join("hwmon/hwmon4")).expect("it is there").flatten() {
        let to = format!("sys/class/drm/card1/device/hwmon/hwmon9/{}", entry.file_name().to_string_lossy());
        write(&machine, &to, std::fs::read(entry.path()).expect("the sensor is readable"));
    }
    write(&machine, "sys/class/drm/card1/device/vendor", "0x1002");
    let vitals = vitals(&Probe::new(machine.path(), "/"), NOW);
    let mut names: Vec<&str> = vitals.sensors().map(|sensor| sensor.sensor.as_str()).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "{names:?}");
    assert!(names.contains(&"amdgpu edge") && names.contains(&"amdgpu edge 2"), "{names:?}");
}

#[test]
fn holders_of_memory_are_looked_for_once_a_report_stamp() {
    let machine = copied("strix-halo-512m");
    let probe = Probe::new(machine.path(), "/");
    let holders = |at| gpu(&vitals(&probe, at), 0).processes.known().map(Vec::len);
    assert_eq!(holders(NOW), Some(2));
    std::fs::remove_dir_all(machine.path().join("proc/911")).expect("it is there");
    assert_eq!(holders(NOW + Vitals::AS_OF_STEP - 1), Some(2), "looking again that soon is dear");
    assert_eq!(holders(NOW + Vitals::AS_OF_STEP), Some(1));
}
