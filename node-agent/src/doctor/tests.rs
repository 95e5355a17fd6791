//! Findings that no fixture tree can show: what a card's library says, and what a user may open.

use super::*;
use mesh_core::machine::{
    Capacity, Gpu, GpuFault, GpuState, GpuVendor, Hardware, Pool, Power, Reading, ThrottleCause,
    UnifiedLimit, Vitals,
};
use mesh_core::units::Bytes;

const GIB: u64 = 1 << 30;

fn of(total: u64, available: u64) -> Capacity {
    Capacity { total: Bytes(total * GIB), available: Bytes(available * GIB) }
}

/// A machine with nothing to say but its RAM and disk.
fn quiet() -> Snapshot {
    let hardware = Hardware {
        hostname: "x".into(),
        cpu: Reading::unknown("test"),
        cpu_threads: 1,
        system: Reading::Known("Linux 6.17.1-1".into()),
        agent_version: "0".into(),
        launch: None,
    };
    let vitals = Vitals {
        ram: Reading::Known(of(64, 60)),
        disk: Reading::Known(of(900, 500)),
        gpus: Reading::Known(vec![]),
        ..Vitals::unknown("test")
    };
    let raw = Raw {
        ram: Some(Bytes(64 * GIB)),
        kfd: DeviceFile::Open,
        render: DeviceFile::Open,
        model_folder: "/m".into(),
        pressure: true,
        ..Raw::default()
    };
    Snapshot { hardware, vitals, raw }
}

fn card(vendor: GpuVendor, state: GpuState) -> Gpu {
    let mut gpu = Gpu::unknown("0000:01:00.0", "the card", vendor, "test");
    gpu.state = state;
    gpu.memory = Reading::Known(of(16, 15));
    gpu.pool = Pool::Discrete { reserved: None };
    gpu
}

fn with(gpu: Gpu) -> Snapshot {
    let mut snapshot = quiet();
    snapshot.vitals.gpus = Reading::Known(vec![gpu]);
    snapshot
}

/// The findings about `about`, the worst first.
fn about<'a>(findings: &'a [Finding], about: &str) -> Vec<&'a Finding> {
    findings.iter().filter(|finding| finding.about == about).collect()
}

fn levels(snapshot: &Snapshot, name: &str) -> Vec<Level> {
    about(&examine(snapshot), name).iter().map(|finding| finding.level).collect()
}

#[test]
fn each_fault_of_an_nvidia_card_is_an_error_with_its_own_cure() {
    let cures = [
        (GpuFault::NoDriver, "nvidia-driver"),
        (GpuFault::DriverNotLoaded, "modprobe nvidia"),
        (GpuFault::NeedsReboot, "reboot"),
        (GpuFault::Lost, "xid"),
        (GpuFault::NoPermission, "usermod"),
        (GpuFault::Other, "nvidia-smi"),
    ];
    for (fault, cure) in cures {
        let findings = examine(&with(card(GpuVendor::Nvidia, GpuState::Broken(fault, "so it is".into()))));
        let found = about(&findings, "gpu 0000:01:00.0");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].level, found[0].cause.as_str()), (Level::Error, "so it is"));
        assert!(found[0].fix.join(" ").contains(cure), "{fault:?}: {:?}", found[0].fix);
    }
}

#[test]
fn a_card_that_a_virtual_machine_has_is_no_error() {
    let state = GpuState::Broken(GpuFault::NoDriver, "no library".into());
    let mut snapshot = with(card(GpuVendor::Nvidia, state));
    snapshot.raw.drivers = vec![("0000:01:00.0".into(), Some("vfio-pci".into()))];
    assert_eq!(levels(&snapshot, "gpu 0000:01:00.0"), [Level::Info]);
    snapshot.raw.drivers = vec![("0000:02:00.0".into(), Some("vfio-pci".into()))];
    assert_eq!(levels(&snapshot, "gpu 0000:01:00.0"), [Level::Error], "another card's driver says nothing");
}

#[test]
fn a_sleeping_card_is_worth_knowing_and_no_more() {
    assert_eq!(levels(&with(card(GpuVendor::Nvidia, GpuState::Asleep)), "gpu 0000:01:00.0")[0], Level::Info);
}

#[test]
fn device_files_that_may_not_be_opened_are_errors_and_matter_for_amd_only() {
    let mut snapshot = with(card(GpuVendor::Amd, GpuState::Ready));
    assert_eq!(levels(&snapshot, "/dev/kfd"), []);
    (snapshot.raw.kfd, snapshot.raw.render) = (DeviceFile::Forbidden, DeviceFile::Forbidden);
    assert_eq!(levels(&snapshot, "/dev/kfd"), [Level::Error]);
    assert_eq!(levels(&snapshot, "/dev/dri"), [Level::Error]);
    assert!(about(&examine(&snapshot), "/dev/kfd")[0].fix[0].contains("usermod -aG render,video"));
    (snapshot.raw.kfd, snapshot.raw.render) = (DeviceFile::Missing, DeviceFile::Missing);
    assert_eq!(levels(&snapshot, "/dev/kfd"), [Level::Warning]);
    assert_eq!(levels(&snapshot, "/dev/dri"), [Level::Warning]);
    snapshot.vitals.gpus = Reading::Known(vec![card(GpuVendor::Nvidia, GpuState::Ready)]);
    assert_eq!(levels(&snapshot, "/dev/kfd"), []);
}

#[test]
fn heat_is_a_warning_and_a_power_cap_is_none() {
    for (cause, expected) in
        [(ThrottleCause::HardwareThermal, Level::Warning), (ThrottleCause::PowerCap, Level::Ok)]
    {
        let mut gpu = card(GpuVendor::Nvidia, GpuState::Ready);
        gpu.sensors.throttle = Reading::Known(vec![cause]);
        assert_eq!(levels(&with(gpu), "gpu 0000:01:00.0")[0], expected, "{cause:?}");
    }
}

fn unified(limited_by: UnifiedLimit, gtt: u64) -> Snapshot {
    let mut gpu = card(GpuVendor::Amd, GpuState::Ready);
    gpu.pool = Pool::Unified { carve_out: of(1, 1), gtt: of(gtt, gtt), limited_by };
    with(gpu)
}

#[test]
fn the_gtt_limit_is_judged_by_what_the_machine_could_map() {
    let level = |gtt| levels(&unified(UnifiedLimit::Driver, gtt), "gpu 0000:01:00.0")[0];
    // 64 GiB of RAM and 1 of carve-out, less 4.5: 60 GiB.
    assert_eq!(
        [level(60), level(57), level(50), level(32)],
        [Level::Ok, Level::Ok, Level::Info, Level::Warning]
    );
}

#[test]
fn a_pool_that_free_ram_bounds_and_a_limit_that_does_not_hold_are_told() {
    let findings = examine(&unified(UnifiedLimit::Ram, 60));
    assert!(
        findings.iter().any(|finding| finding.found.contains("free RAM bounds the pool")),
        "{findings:?}"
    );
    let mut snapshot = unified(UnifiedLimit::Operator, 60);
    snapshot.raw.cmdline = "ro ttm.pages_limit=100 quiet ttm.pages_limit=25165824".into();
    snapshot.raw.pages_limit = Some(25_165_824);
    assert_eq!(levels(&snapshot, "kernel command line"), [], "the last one given holds");
    snapshot.raw.pages_limit = Some(8_000_000);
    assert_eq!(levels(&snapshot, "kernel command line"), [Level::Warning]);
    let text = render(&examine(&snapshot));
    assert!(text.contains("bounded by gpu.unified in agent.toml"), "{text}");
}

#[test]
fn a_disk_without_room_is_worse_than_one_with_little() {
    let level = |available| {
        let mut snapshot = quiet();
        snapshot.vitals.disk = Reading::Known(of(900, available));
        levels(&snapshot, "models in /m")[0]
    };
    assert_eq!([level(500), level(49), level(4)], [Level::Ok, Level::Warning, Level::Error]);
}

#[test]
fn pressure_battery_and_a_hot_processor_are_warnings() {
    let mut snapshot = quiet();
    snapshot.vitals.memory.pressure = Reading::Known(40.0);
    snapshot.vitals.power = Reading::Known(Power::Battery(Some(7)));
    snapshot.vitals.cpu_throttled = Reading::Known(true);
    for name in ["memory pressure", "power", "temperature"] {
        assert_eq!(levels(&snapshot, name)[0], Level::Warning, "{name}");
    }
    snapshot.vitals.memory.pressure = Reading::Known(2.0);
    snapshot.vitals.power = Reading::Known(Power::Mains);
    assert_eq!((levels(&snapshot, "memory pressure"), levels(&snapshot, "power")), (vec![], vec![]));
}

/// `mesh-agent doctor --root` of a fixture tree.
fn described(root: &str) -> Result<String, Complaint> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/roots").join(root);
    let data = tempfile::tempdir().expect("a temporary folder");
    describe(data.path(), &DoctorFlags { root: Some(root), ..DoctorFlags::default() })
}

#[test]
fn an_error_among_the_findings_is_exit_code_3() {
    let complaint = described("half-missing").expect_err("its memory cannot be read");
    assert_eq!(complaint.exit, 3);
    assert!(complaint.to_string().contains("error"), "{complaint}");
}

#[test]
fn json_is_the_same_findings() {
    let mut snapshot = quiet();
    snapshot.vitals.power = Reading::Known(Power::Battery(None));
    let findings = examine(&snapshot);
    let json = serde_json::to_value(&findings).expect("a list");
    assert_eq!(
        json[0],
        serde_json::json!({
            "level": "warning",
            "about": "power",
            "found": "on battery",
            "cause": "the machine is asked only when nobody else can serve, and loads no models",
            "fix": ["plug it in; or [thermal] on_battery = true in agent.toml"],
        })
    );
    assert_eq!(json.as_array().map(Vec::len), Some(findings.len()));
}
