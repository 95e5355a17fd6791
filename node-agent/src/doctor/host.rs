//! The machine without its graphics: memory, swap, disk, power, sensors.

use super::{Finding, Level, Snapshot};
use mesh_core::machine::{Power, Reading};
use mesh_core::units::Bytes;

/// Less than this cannot hold the smallest model worth pulling.
const DISK_FULL: Bytes = Bytes(5 << 30);

/// Room for one model of 33B to 70B at four bits (19 to 42 GB), and the 5 % that a pull keeps free.
const DISK_SMALL: Bytes = Bytes(50 << 30);

/// Percent of the time in which tasks waited for memory. Above, engines stall.
const PRESSURE: f32 = 10.0;

/// Sensors of processors, by their drivers, and what stands in for them.
const CPU_SENSORS: [&str; 6] = ["k10temp", "zenpower", "coretemp", "cpu_thermal", "x86_pkg_temp", "soc"];

/// Everything about the host.
pub(super) fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let mut found = Vec::new();
    memory(snapshot, &mut found);
    swap(snapshot, &mut found);
    disk(snapshot, &mut found);
    power(snapshot, &mut found);
    heat(snapshot, &mut found);
    found
}

fn memory(snapshot: &Snapshot, found: &mut Vec<Finding>) {
    let (vitals, raw) = (&snapshot.vitals, &snapshot.raw);
    match &vitals.ram {
        Reading::Known(ram) => {
            let text = format!("{} of {} free for models", ram.available, ram.total);
            found.push(Finding::new(Level::Ok, "ram", text));
            if let (Some(left), Some(all)) = (vitals.memory.cgroup_available.known(), raw.ram) {
                let place = if raw.container { "container" } else { "cgroup" };
                found.push(
                    Finding::new(Level::Info, "ram", format!("the agent's {place} may use {} of {all}", ram.total))
                        .because(format!("{left} of it are left; models that the agent starts count too"))
                        .fixed_by("raise MemoryMax= of the service, or --memory of the container, where models need more"),
                );
            }
        }
        Reading::Unknown(reason) => found.push(
            Finding::new(Level::Error, "ram", "not known")
                .because(reason.clone())
                .fixed_by("is /proc mounted?"),
        ),
    }
    if let (Some(cache), Some(ram)) = (raw.zfs_cache, raw.ram) {
        // ZFS gives its cache back, but slower than an engine asks for memory.
        let large = cache.0 > ram.0 / 4;
        let finding = Finding::new(
            if large { Level::Warning } else { Level::Ok },
            "zfs",
            format!("its cache holds {cache}"),
        );
        found.push(if large {
            let bound = ram.0 / 8;
            finding
                .because("it counts as available, but an engine that loads faster than ZFS gives back can be killed")
                .fixed_by(format!("now: echo {bound} | sudo tee /sys/module/zfs/parameters/zfs_arc_max ({})", Bytes(bound)))
                .fixed_by(format!("for good: options zfs zfs_arc_max={bound} in /etc/modprobe.d/zfs.conf, then sudo update-initramfs -u"))
        } else {
            finding
        });
    }
    match vitals.memory.pressure {
        Reading::Known(percent) if percent >= PRESSURE => found.push(
            Finding::new(
                Level::Warning,
                "memory pressure",
                format!("tasks wait for memory {percent:.0} % of the time"),
            )
            .because("models and programs together want more RAM than there is")
            .fixed_by("unload a model: meshctl model unload; or stop other programs"),
        ),
        Reading::Known(_) => {}
        Reading::Unknown(_) if !raw.pressure => found.push(
            Finding::new(Level::Info, "memory pressure", "the kernel does not count it")
                .because("the agent cannot see a shortage before it happens")
                .fixed_by("kernel command line: psi=1 (the kernel needs CONFIG_PSI=y)"),
        ),
        Reading::Unknown(ref reason) => {
            found.push(Finding::new(Level::Info, "memory pressure", "not known").because(reason.clone()))
        }
    }
}

fn swap(snapshot: &Snapshot, found: &mut Vec<Finding>) {
    let swaps = &snapshot.raw.swaps;
    let on = |prefix: &str| swaps.iter().find(|device| device.starts_with(prefix));
    if let Some(device) = on("/dev/zd") {
        found.push(
            Finding::new(Level::Warning, "swap", format!("{device} is a ZFS volume"))
                .because("ZFS needs memory to write to it: under pressure the machine can hang")
                .fixed_by(format!("sudo swapoff {device}, then a partition or file outside of ZFS")),
        );
    }
    if let Some(device) = on("/dev/zram") {
        found.push(
            Finding::new(Level::Info, "swap", format!("{device} is compressed RAM"))
                .because("weights do not compress: it is no room for models"),
        );
    }
    match &snapshot.vitals.memory.swap {
        Reading::Known(swap) if swap.total.0 == 0 => found.push(
            Finding::new(Level::Info, "swap", "none")
                .because("when RAM runs out, the kernel ends a program at once: the largest, which is a model")
                .fixed_by("a few GB are enough: sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile"),
        ),
        Reading::Known(_) => {}
        Reading::Unknown(reason) => {
            found.push(Finding::new(Level::Info, "swap", "not known").because(reason.clone()));
        }
    }
}

fn disk(snapshot: &Snapshot, found: &mut Vec<Finding>) {
    let folder = snapshot.raw.model_folder.display();
    let about = format!("models in {folder}");
    match &snapshot.vitals.disk {
        Reading::Known(disk) => {
            let text = format!("{} of {} free", disk.available, disk.total);
            let more =
                "set model_folder in agent.toml to a larger disk, or meshctl model rm what is not used";
            found.push(if disk.available < DISK_FULL {
                Finding::new(Level::Error, about, text).because("no model fits any more").fixed_by(more)
            } else if disk.available < DISK_SMALL {
                Finding::new(Level::Warning, about, text)
                    .because("a model of 33B to 70B takes 19 to 42 GB")
                    .fixed_by(more)
            } else {
                Finding::new(Level::Ok, about, text)
            });
        }
        Reading::Unknown(reason) => {
            found.push(Finding::new(Level::Warning, about, "free space not known").because(reason.clone()));
        }
    }
}

fn power(snapshot: &Snapshot, found: &mut Vec<Finding>) {
    if let Reading::Known(Power::Battery(percent)) = &snapshot.vitals.power {
        let left = percent.map_or_else(String::new, |percent| format!(", {percent} % left"));
        found.push(
            Finding::new(Level::Warning, "power", format!("on battery{left}"))
                .because("the machine is asked only when nobody else can serve, and loads no models")
                .fixed_by("plug it in; or [thermal] on_battery = true in agent.toml"),
        );
    }
}

fn heat(snapshot: &Snapshot, found: &mut Vec<Finding>) {
    let sensors = snapshot.vitals.temperatures.known().map_or(&[][..], Vec::as_slice);
    let of_cpu = |name: &str| CPU_SENSORS.iter().any(|driver| name.starts_with(driver));
    if !sensors.iter().any(|sensor| of_cpu(&sensor.sensor)) {
        let amd = snapshot.hardware.cpu.known().is_some_and(|cpu| cpu.contains("AMD"));
        found.push(
            Finding::new(Level::Info, "temperature", "the processor has no sensor that can be read")
                .because("heat is unknown, not low; virtual machines have none")
                .fixed_by(if amd {
                    "sudo modprobe k10temp"
                } else {
                    "sudo modprobe coretemp (AMD: k10temp)"
                }),
        );
    }
    if snapshot.vitals.cpu_throttled == Reading::Known(true) {
        found.push(
            Finding::new(Level::Warning, "temperature", "the processor was slowed down for heat just now")
                .fixed_by("clean fans and filters, give it air"),
        );
    }
}
