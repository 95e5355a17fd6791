//! Graphics processors: whether they can be used, and what bounds their memory.

use super::{DeviceFile, Finding, Level, Raw, Snapshot};
use crate::probe::SYSTEM_RESERVE;
use mesh_core::machine::{
    Capacity, Gpu, GpuFault, GpuState, GpuVendor, Hardware, Pool, Reading, ThrottleCause, UnifiedLimit,
};
use mesh_core::units::Bytes;

const GIB: u64 = 1 << 30;

/// Pages are 4 KiB on every machine that has such a processor.
const PAGE: u64 = 4096;

/// What AMD recommends as the carve-out when models run from GTT.
const CARVE_OUT: Bytes = Bytes(512 << 20);

/// ROCm takes RAM (GTT) for integrated processors from this kernel on; before, the carve-out is all it sees.
const GTT_FOR_ROCM: (u32, u32) = (6, 10);

/// Everything about graphics.
pub(super) fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let mut found = Vec::new();
    match &snapshot.vitals.gpus {
        Reading::Unknown(reason) => {
            found.push(Finding::new(Level::Warning, "graphics", format!("not known: {reason}")));
        }
        Reading::Known(gpus) if gpus.is_empty() => {
            let cause = "models run on the CPU alone, which is slow beyond a few billion active parameters";
            found.push(Finding::new(Level::Info, "graphics", "none").because(cause));
        }
        Reading::Known(gpus) => {
            for gpu in gpus {
                of_one(gpu, snapshot, &mut found);
            }
            if gpus.iter().any(|gpu| gpu.vendor == GpuVendor::Amd) {
                found.extend(device_files(&snapshot.raw));
                found.extend(parameters(&snapshot.raw));
            }
        }
    }
    found
}

fn of_one(gpu: &Gpu, snapshot: &Snapshot, found: &mut Vec<Finding>) {
    let about = format!("gpu {}", gpu.id);
    match &gpu.state {
        GpuState::Broken(fault, why) => return found.push(broken(gpu, *fault, why, &about, &snapshot.raw)),
        GpuState::Asleep => found.push(
            Finding::new(Level::Info, &about, format!("{} is asleep", gpu.name))
                .because("it wakes when a model is loaded; reading it now would keep it awake"),
        ),
        GpuState::Ready => {}
    }
    let heat = |causes: &Vec<ThrottleCause>| {
        let hot =
            [ThrottleCause::SoftwareThermal, ThrottleCause::HardwareThermal, ThrottleCause::HardwareSlowdown];
        causes.iter().any(|cause| hot.contains(cause))
    };
    if gpu.sensors.throttle.known().is_some_and(heat) {
        let text = format!("{} is slowed down for heat", gpu.name);
        found
            .push(Finding::new(Level::Warning, &about, text).fixed_by("clean fans and filters, give it air"));
    }
    match (&gpu.pool, &gpu.memory) {
        (Pool::Unified { carve_out, gtt, limited_by }, Reading::Known(memory)) => {
            unified(&about, *memory, (*carve_out, *gtt, *limited_by), snapshot, found);
        }
        (Pool::Discrete { .. }, Reading::Known(memory)) => {
            let text = format!("{}: {} of {} free", gpu.name, memory.available, memory.total);
            found.push(Finding::new(Level::Ok, about, text));
        }
        (Pool::Unknown(why), _) if gpu.vendor == GpuVendor::Amd => found.push(unknown_pool(gpu, why, &about)),
        (_, Reading::Unknown(why)) if gpu.state == GpuState::Ready => {
            let text = format!("{}: its memory is not known", gpu.name);
            found.push(Finding::new(Level::Info, about, text).because(why.clone()));
        }
        (Pool::Unified { .. } | Pool::Discrete { .. } | Pool::Unknown(_), _) => {}
    }
}

/// Only the card's own memory is counted, and that may be a small part.
fn unknown_pool(gpu: &Gpu, why: &str, about: &str) -> Finding {
    // The report points at the doctor, who is here already.
    let why = why.split_once(" (mesh-agent").map_or(why, |(why, _)| why);
    let text = format!("{}: only its own memory is counted", gpu.name);
    let finding = Finding::new(Level::Warning, about, text)
        .because(why)
        .fixed_by("load the compute driver: sudo modprobe amdgpu (the kernel needs CONFIG_HSA_AMD=y)")
        .fixed_by("in a container: start it with --device /dev/kfd --device /dev/dri");
    // Only an address can be written there.
    if !gpu.id.contains(':') {
        return finding;
    }
    finding.fixed_by(format!("or say it in agent.toml: [gpu] integrated = [\"{}\"], or discrete", gpu.id))
}

/// Why a card that is there does nothing, and what helps.
fn broken(gpu: &Gpu, fault: GpuFault, why: &str, about: &str, raw: &Raw) -> Finding {
    let held_by = |name: &str| {
        raw.drivers.iter().any(|(slot, driver)| *slot == gpu.id && driver.as_deref() == Some(name))
    };
    if held_by("vfio-pci") {
        return Finding::new(Level::Info, about, format!("{} belongs to a virtual machine", gpu.name))
            .because("vfio-pci holds it: run an agent in that machine");
    }
    let finding = Finding::new(Level::Error, about, format!("{} cannot be used: {}", gpu.name, fault.word()))
        .because(why.to_owned());
    let nvidia = gpu.vendor == GpuVendor::Nvidia;
    match fault {
        GpuFault::NoDriver => finding
            .fixed_by("Debian, Proxmox (contrib and non-free enabled): sudo apt install nvidia-driver")
            .fixed_by("Ubuntu: sudo ubuntu-drivers install")
            .fixed_by("Arch: sudo pacman -S nvidia-open nvidia-utils")
            .fixed_by("in a container: start it with --gpus all (nvidia-container-toolkit)"),
        GpuFault::DriverNotLoaded if nvidia => finding
            .fixed_by("sudo modprobe nvidia")
            .fixed_by("when that fails: dkms status (built for this kernel?), mokutil --sb-state (refused by Secure Boot?)"),
        GpuFault::DriverNotLoaded => finding.fixed_by("sudo modprobe amdgpu (AMD) or xe, i915 (Intel)"),
        GpuFault::NeedsReboot => finding.fixed_by("sudo systemctl reboot"),
        GpuFault::Lost => finding
            .fixed_by("sudo dmesg | grep -i xid: 79 is the card, its power or its slot")
            .fixed_by("sudo systemctl reboot"),
        GpuFault::NoPermission => finding.fixed_by(GROUPS),
        GpuFault::Other => finding.fixed_by("nvidia-smi, and sudo dmesg | tail -50, say more"),
    }
}

const GROUPS: &str =
    "sudo usermod -aG render,video $USER, then log in again (a service: SupplementaryGroups=render video)";

fn device_files(raw: &Raw) -> Vec<Finding> {
    let mut found = Vec::new();
    match raw.kfd {
        DeviceFile::Open => {}
        DeviceFile::Forbidden => found.push(
            Finding::new(Level::Error, "/dev/kfd", "may not be opened by this user")
                .because("engines on ROCm find no graphics processor and compute on the CPU")
                .fixed_by(GROUPS),
        ),
        DeviceFile::Missing => found.push(
            Finding::new(Level::Warning, "/dev/kfd", "is not there")
                .because("engines on ROCm find no graphics processor; those on Vulkan do")
                .fixed_by("sudo modprobe amdgpu; in a container: --device /dev/kfd"),
        ),
    }
    match raw.render {
        DeviceFile::Open => {}
        DeviceFile::Forbidden => found.push(
            Finding::new(Level::Error, "/dev/dri", "its render nodes may not be opened by this user")
                .because("engines on Vulkan and ROCm find no graphics processor and compute on the CPU")
                .fixed_by(GROUPS),
        ),
        DeviceFile::Missing => found.push(
            Finding::new(Level::Warning, "/dev/dri", "has no render node")
                .because("engines on Vulkan and ROCm find no graphics processor")
                .fixed_by("sudo modprobe amdgpu; in a container: --device /dev/dri"),
        ),
    }
    found
}

/// Kernel parameters that do not do what they seem to.
fn parameters(raw: &Raw) -> Vec<Finding> {
    let mut found = Vec::new();
    let warn = |name: &str, value: &str, text: &str| {
        Finding::new(Level::Warning, "kernel command line", format!("{name}={value} {text}"))
    };
    if let Some(value) = raw.parameter("amdgpu.gtt_size") {
        found.push(
            warn("amdgpu.gtt_size", value, "does nothing")
                .because("there is no such parameter, and the kernel ignores it without a word")
                .fixed_by("remove it; ttm.pages_limit sets the limit"),
        );
    }
    if let Some(value) = raw.parameter("amdgpu.gttsize") {
        found.push(
            warn("amdgpu.gttsize", value, "is out of date")
                .because("deprecated since kernel 6.14; the memory manager's own limit bounds it anyway")
                .fixed_by("remove it; ttm.pages_limit sets the limit"),
        );
    }
    if let (Some(value), Some(now)) = (raw.parameter("ttm.pages_limit"), raw.pages_limit)
        && value.parse() != Ok(now)
    {
        found.push(
            warn("ttm.pages_limit", value, &format!("is not what holds: {now}"))
                .because("a file in /etc/modprobe.d or a later write won, or the value is no number"),
        );
    }
    found
}

/// One pool with the CPU: what bounds it and how to widen it.
fn unified(
    about: &str,
    memory: Capacity,
    (carve_out, gtt, limited_by): (Capacity, Capacity, UnifiedLimit),
    snapshot: &Snapshot,
    found: &mut Vec<Finding>,
) {
    let raw = &snapshot.raw;
    let by = match limited_by {
        UnifiedLimit::Driver => "the driver's limits",
        UnifiedLimit::Ram => "free RAM",
        UnifiedLimit::Operator => "gpu.unified in agent.toml",
    };
    let text = format!("{} of {} free for models, bounded by {by}", memory.available, memory.total);
    let figures = format!(
        "carve-out {} ({} free) + GTT {} ({} free), {SYSTEM_RESERVE} kept for the system",
        carve_out.total, carve_out.available, gtt.total, gtt.available
    );
    found.push(Finding::new(Level::Ok, about, text).because(figures));
    let Some(ram) = raw.ram else { return };
    let all = ram.0.saturating_add(carve_out.total.0);
    if carve_out.total.0 > GIB {
        // A quarter of the machine is more than a display ever needs; below, it is a matter of taste.
        let level = if carve_out.total.0 > all / 4 { Level::Warning } else { Level::Info };
        found.push(
            Finding::new(level, about, format!("the firmware sets {} aside for graphics alone", carve_out.total))
                .because(format!(
                    "programs have {ram} left of {}, and ROCm uses either the carve-out or GTT, whichever is larger, never both",
                    Bytes(all)
                ))
                .fixed_by(format!(
                    "BIOS: \"UMA Frame Buffer Size\" (or \"Dedicated Graphics Memory\", \"iGPU Memory\") to {CARVE_OUT}, the smallest there is"
                ))
                .fixed_by("then raise the GTT limit as below: GTT is taken when needed and given back"),
        );
    }
    // With the smallest carve-out, everything but what the system needs: the larger of the reserve and 5 %.
    let keep = SYSTEM_RESERVE.0.max(all / 20) + CARVE_OUT.0;
    let possible = all.saturating_sub(keep) / GIB * GIB;
    let pages = possible / PAGE;
    let level = match gtt.total.0 {
        have if have >= possible / 20 * 19 => Level::Ok,
        have if have >= possible / 10 * 7 => Level::Info,
        _ => Level::Warning,
    };
    let condition = if carve_out.total.0 > GIB { " with a small carve-out" } else { "" };
    let text = format!("GTT limit {} of {} that the driver could map{condition}", gtt.total, Bytes(possible));
    let mut limit = Finding::new(level, about, text);
    if level > Level::Ok {
        let why = match raw.parameter("ttm.pages_limit") {
            Some(_) => "ttm.pages_limit on the kernel command line sets it",
            None => "without ttm.pages_limit the kernel takes half of RAM",
        };
        limit = limit
            .because(why)
            .fixed_by(format!("kernel command line: ttm.pages_limit={pages} (4 KiB pages, {})", Bytes(possible)))
            .fixed_by(format!("Fedora: sudo grubby --update-kernel=ALL --args=\"ttm.pages_limit={pages}\""))
            .fixed_by("Debian, Ubuntu: add it to GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub, then sudo update-grub")
            .fixed_by("sudo systemctl reboot");
    }
    found.push(limit);
    if let Some(kernel) = version(&snapshot.hardware).filter(|kernel| *kernel < GTT_FOR_ROCM) {
        let text = format!("kernel {}.{} is older than 6.10", kernel.0, kernel.1);
        found.push(
            Finding::new(Level::Warning, "kernel", text)
                .because("engines on ROCm see the carve-out alone; those on Vulkan see GTT too")
                .fixed_by("install a kernel from 6.10 on; Ubuntu: sudo apt install linux-generic-hwe-24.04"),
        );
    }
    if limited_by == UnifiedLimit::Ram {
        found.push(
            Finding::new(Level::Info, about, "free RAM bounds the pool, not the driver")
                .because("other programs hold what models could have")
                .fixed_by("stop what is not needed: ps aux --sort=-rss | head"),
        );
    }
    if snapshot.vitals.memory.cgroup_available.known().is_some() {
        let place = if raw.container { "container" } else { "cgroup" };
        found.push(
            Finding::new(Level::Warning, about, format!("the {place}'s memory limit does not bound graphics memory"))
                .because("GTT pages are charged to nobody: with RAM gone, the kernel ends whoever asks next")
                .fixed_by("do not count on --memory or MemoryMax= for offloaded models; the agent's own admission bounds them"),
        );
    }
}

/// `Linux 6.16.9-200.fc42` → (6, 16).
fn version(hardware: &Hardware) -> Option<(u32, u32)> {
    let mut numbers = hardware.system.known()?.strip_prefix("Linux ")?.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
