//! NVIDIA's library is a mock, compiled here from `tests/nvml/mock_nvml.c` and told what to answer by a text
//! file; cards are folders as the kernel makes them. The last test reads a real card where there is one.

use super::*;
use mesh_core::machine::{Pool, ThrottleCause};
use mesh_core::units::{Bytes, Celsius};
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

const SLOT: &str = "0000:01:00.0";

/// What an RTX 4070 laptop tells: no fan, no energy counter.
const LAPTOP: &str = "driver=580.95.05
count=1
bus0=0000:01:00.0
name0=NVIDIA GeForce RTX 4070 Laptop GPU
total0=8585740288
reserved0=312475648
free0=7900000000
used0=373264640
temperature0=61
limit1.0=97
limit0.0=102
power0=42500
power_cap0=115000
busy0=37
memory_busy0=12
pstate0=0
clock1.0=2175
clock2.0=8001
throttle0=36
processes0=4242:373264640
graphics0=4242:373264640
";

/// The mock, compiled once for each set of flags.
fn compiled(flags: &'static [&'static str]) -> &'static Path {
    static PLAIN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    static OLD: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let place = if flags.is_empty() { &PLAIN } else { &OLD };
    let (_, library) = place.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let library = folder.path().join("libnvidia-ml.so.1");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvml/mock_nvml.c");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .args(flags)
            .arg("-ldl")
            .status()
            .expect("a C compiler, which Rust needs to link anyway");
        assert!(status.success(), "the mock compiles");
        (folder, library)
    });
    library
}

/// A machine with one card, and its own copy of the mock: the loader shares a file between its users.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new(script: &str) -> Self {
        Self::with_library(compiled(&[]), script)
    }

    fn with_library(library: &Path, script: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let machine = Self { folder };
        fs::copy(library, machine.library()).expect("a copy");
        machine.says(script);
        machine.device("power/control", "on");
        machine.device("power/runtime_status", "active");
        machine.device("vendor", "0x10de");
        machine.device("device", "0x2860");
        machine.device("class", "0x030000");
        let information = machine.root().join("proc/driver/nvidia/gpus").join(SLOT);
        fs::create_dir_all(&information).expect("a folder");
        fs::write(information.join("information"), "Model: \t\t NVIDIA GeForce RTX 4070 Laptop GPU\n")
            .expect("a file");
        machine
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    fn says(&self, script: &str) {
        fs::write(self.folder.path().join("libnvidia-ml.so.1.script"), script).expect("a file");
    }

    fn device(&self, file: &str, text: &str) {
        let path = self.root().join("sys/bus/pci/devices").join(SLOT).join(file);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("a folder");
        fs::write(path, format!("{text}\n")).expect("a file");
    }

    fn nvidia(&self) -> Nvidia {
        Nvidia::new(&self.root(), Some(self.library()))
    }
}

fn only(nvidia: &Nvidia, now: u64) -> Gpu {
    let mut gpus = nvidia.gpus(now);
    assert_eq!(gpus.len(), 1, "{gpus:?}");
    gpus.remove(0)
}

fn fault(gpu: &Gpu) -> (GpuFault, &str) {
    match &gpu.state {
        GpuState::Broken(fault, why) => (*fault, why),
        GpuState::Ready | GpuState::Asleep => panic!("not broken: {:?}", gpu.state),
    }
}

#[test]
fn a_laptop_card_tells_what_it_has_and_the_rest_is_unknown_with_a_reason() {
    let machine = Machine::new(LAPTOP);
    fs::create_dir_all(machine.root().join("proc/4242")).expect("a folder");
    fs::write(machine.root().join("proc/4242/comm"), "llama-server\n").expect("a file");
    let gpu = only(&machine.nvidia(), 1000);
    assert_eq!((gpu.id.as_str(), gpu.name.as_str()), (SLOT, "NVIDIA GeForce RTX 4070 Laptop GPU"));
    assert_eq!((&gpu.state, gpu.as_of), (&GpuState::Ready, 1000));
    assert_eq!(gpu.driver, Reading::Known("nvidia 580.95.05".into()));
    let memory = gpu.memory.known().expect("memory");
    assert_eq!((memory.total, memory.available), (Bytes(8_273_264_640), Bytes(7_900_000_000)));
    assert_eq!(gpu.pool, Pool::Discrete { reserved: Some(Bytes(312_475_648)) });
    let temperature = &gpu.sensors.temperatures.known().expect("a sensor")[0];
    assert_eq!((temperature.value, temperature.limit), (Celsius(61.0), Some(Celsius(97.0))));
    assert_eq!(gpu.sensors.power, Reading::Known(42.5));
    assert_eq!(gpu.sensors.clock, Reading::Known(2175));
    assert_eq!(
        gpu.sensors.throttle,
        Reading::Known(vec![ThrottleCause::SoftwareThermal, ThrottleCause::PowerCap])
    );
    assert_eq!(gpu.sensors.fan, Reading::unknown("this card does not tell"));
    assert_eq!(gpu.sensors.energy_kj, Reading::unknown("this card does not tell"));
    let processes = gpu.processes.known().expect("a list");
    assert_eq!(processes.len(), 1, "listed twice by the driver, once by us");
    assert_eq!((processes[0].pid, processes[0].name.as_str()), (4242, "llama-server"));
    assert_eq!(processes[0].memory, Reading::Known(Bytes(373_264_640)));
}

#[test]
fn functions_that_an_old_driver_lacks_leave_their_readings_unknown() {
    let machine = Machine::with_library(compiled(&["-DOLD_DRIVER"]), LAPTOP);
    let gpu = only(&machine.nvidia(), 1000);
    assert_eq!(gpu.sensors.throttle, Reading::unknown("this version of the driver does not tell"));
    assert_eq!(gpu.sensors.busy, Reading::Known(37));
}

#[test]
fn a_card_that_tells_nothing_is_there_all_the_same() {
    let machine = Machine::new("count=1\nbus0=0000:01:00.0\n");
    let gpu = only(&machine.nvidia(), 1000);
    assert_eq!(gpu.state, GpuState::Ready);
    assert_eq!(gpu.memory, Reading::unknown("this card does not tell"));
    assert_eq!(gpu.sensors, mesh_core::machine::GpuSensors::unknown("this card does not tell"));
    assert_eq!(gpu.processes, Reading::unknown("this card does not tell"));
}

#[test]
fn an_upgraded_driver_needs_a_restart_and_is_looked_at_again() {
    let machine = Machine::new("nvmlInit_v2=18\n");
    let nvidia = machine.nvidia();
    let gpu = only(&nvidia, 1000);
    assert_eq!(gpu.name, "NVIDIA GeForce RTX 4070 Laptop GPU", "known from the kernel's list");
    let (kind, why) = fault(&gpu);
    assert!(kind == GpuFault::NeedsReboot && why.contains("restart the machine"), "{why}");
    machine.says(LAPTOP);
    assert_eq!(fault(&only(&nvidia, 1000 + RETRY_S - 1)).0, GpuFault::NeedsReboot);
    assert_eq!(only(&nvidia, 1000 + RETRY_S).state, GpuState::Ready);
}

#[test]
fn each_way_of_not_working_has_its_own_name() {
    for (script, expected) in [
        ("nvmlInit_v2=9\n", GpuFault::DriverNotLoaded),
        ("nvmlInit_v2=4\n", GpuFault::NoPermission),
        ("nvmlInit_v2=15\n", GpuFault::Lost),
        ("nvmlInit_v2=999\n", GpuFault::Other),
        ("count=0\n", GpuFault::Other),
    ] {
        let machine = Machine::new(script);
        assert_eq!(fault(&only(&machine.nvidia(), 1000)).0, expected, "{script}");
    }
    let machine = Machine::new(LAPTOP);
    let missing = Nvidia::new(&machine.root(), Some("/nonexistent/libnvidia-ml.so.1".into()));
    assert_eq!(fault(&only(&missing, 1000)).0, GpuFault::NoDriver);
}

#[test]
fn a_machine_without_a_card_has_none_whether_or_not_it_has_the_library() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    let missing = Nvidia::new(empty.path(), Some("/nonexistent/libnvidia-ml.so.1".into()));
    assert_eq!(missing.gpus(1000), vec![]);
    let machine = Machine::new("count=0\n");
    assert_eq!(Nvidia::new(empty.path(), Some(machine.library())).gpus(1000), vec![]);
    machine.says(LAPTOP);
    let hidden = Nvidia::new(empty.path(), Some(machine.library()));
    assert_eq!(only(&hidden, 1000 + RETRY_S).id, SLOT, "hidden from us, and the driver has it");
}

#[test]
fn a_card_that_is_lost_in_the_middle_is_broken_and_comes_back_with_a_fresh_start() {
    let machine = Machine::new(LAPTOP);
    let nvidia = machine.nvidia();
    assert_eq!(only(&nvidia, 1000).state, GpuState::Ready);
    machine.says(&format!("{LAPTOP}nvmlDeviceGetTemperature=15\n"));
    let gpu = only(&nvidia, 1001);
    assert_eq!(fault(&gpu).0, GpuFault::Lost);
    assert!(gpu.memory.known().is_none() && gpu.sensors.busy.known().is_none(), "no ghost of old figures");
    machine.says(LAPTOP);
    assert_eq!(fault(&only(&nvidia, 1002)).0, GpuFault::Lost);
    assert_eq!(only(&nvidia, 1001 + RETRY_S).state, GpuState::Ready);
}

#[test]
fn a_healthy_card_beside_a_lost_one_stays_ready() {
    let second = LAPTOP.replace("count=1", "count=2")
        + "bus1=0000:02:00.0\nname1=second\ntotal1=1\nreserved1=0\nfree1=1\nused1=0\n";
    let machine = Machine::new(&second);
    for (file, text) in [("vendor", "0x10de"), ("device", "0x2860"), ("class", "0x030200")] {
        machine.device(&format!("../0000:02:00.0/{file}"), text);
    }
    let nvidia = machine.nvidia();
    assert!(nvidia.gpus(1000).iter().all(|gpu| gpu.state == GpuState::Ready));
    machine.says(&second.replace("bus1=0000:02:00.0\n", ""));
    for now in [1001, 1002] {
        let gpus = nvidia.gpus(now);
        assert_eq!((&gpus[0].state, fault(&gpus[1]).0), (&GpuState::Ready, GpuFault::Other));
    }
}

#[test]
fn a_sleeping_card_is_not_woken_and_keeps_its_last_readings() {
    let machine = Machine::new(LAPTOP);
    machine.device("power/runtime_status", "suspended");
    let nvidia = machine.nvidia();
    let never_read = only(&nvidia, 1000);
    assert_eq!((&never_read.state, never_read.memory.known()), (&GpuState::Asleep, None));
    machine.device("power/runtime_status", "active");
    assert_eq!(only(&nvidia, 1001).state, GpuState::Ready);
    // Whoever asked now would be told that the card is lost.
    machine.says(&format!("{LAPTOP}nvmlDeviceGetHandleByPciBusId_v2=15\n"));
    machine.device("power/runtime_status", "suspended");
    let asleep = only(&nvidia, 1002);
    assert_eq!((&asleep.state, asleep.as_of), (&GpuState::Asleep, 1001));
    assert!(asleep.memory.known().is_some() && asleep.sensors.busy == Reading::Known(0));
}

#[test]
fn a_sleeping_card_is_woken_for_whoever_needs_it_and_left_alone_afterwards() {
    let machine = Machine::new(LAPTOP);
    machine.device("power/runtime_status", "suspended");
    let nvidia = machine.nvidia();
    let attended = nvidia.attention.hold();
    let woken = only(&nvidia, 1000);
    assert_eq!(woken.state, GpuState::Ready);
    assert!(woken.memory.known().is_some());
    drop(attended);
    assert_eq!(only(&nvidia, 1001).state, GpuState::Asleep);
}

#[test]
fn an_idle_card_that_may_sleep_is_read_seldom_and_a_busy_one_each_time() {
    let idle = LAPTOP.replace("busy0=37", "busy0=0").replace("4242:373264640", "");
    let machine = Machine::new(&idle);
    machine.device("power/control", "auto");
    let nvidia = machine.nvidia();
    assert_eq!(only(&nvidia, 1000).as_of, 1000);
    assert_eq!(only(&nvidia, 1000 + IDLE_PERIOD_S - 1).as_of, 1000);
    machine.says(LAPTOP);
    assert_eq!(only(&nvidia, 1000 + IDLE_PERIOD_S).as_of, 1000 + IDLE_PERIOD_S);
    assert_eq!(only(&nvidia, 1001 + IDLE_PERIOD_S).as_of, 1001 + IDLE_PERIOD_S, "it works now");
}

/// With `KEEP_REPORT=FILE` the report is written there, to be kept in docs/hardware.
#[test]
#[expect(clippy::print_stdout, reason = "a test that has nothing to read must say so")]
fn a_real_card_is_read_where_there_is_one() {
    if !Path::new("/dev/nvidiactl").exists() {
        println!("no NVIDIA driver on this machine: nothing was read");
        return;
    }
    let gpus = Nvidia::new(Path::new("/"), None).gpus(1000);
    assert!(!gpus.is_empty(), "there is a driver, so there is a card");
    for gpu in &gpus {
        println!("{gpu:#?}");
        if gpu.state == GpuState::Ready {
            let memory = gpu.memory.known().expect("every card with a driver tells its memory");
            assert!(memory.total.0 > 1 << 30 && memory.available <= memory.total, "{memory:?}");
            assert!(gpu.name.contains("NVIDIA"), "{}", gpu.name);
        }
    }
    if let Some(file) = std::env::var_os("KEEP_REPORT") {
        fs::write(file, format!("{gpus:#?}\n")).expect("a writable file");
    }
}
