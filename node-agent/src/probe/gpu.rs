//! Graphics processors, as far as files tell: NVIDIA's driver lists its own in `/proc`, all drivers show
//! theirs in `/sys/class/drm`.

use super::{numbered_folders, read_number, read_text, shortened};
use mesh_core::machine::{Capacity, Gpu, GpuVendor, Reading};
use mesh_core::units::Bytes;
use std::path::{Path, PathBuf};

const NVIDIA_MEMORY: &str =
    "NVIDIA's driver tells it only to its own library (NVML), which this agent does not use";
const INTEL_MEMORY: &str = "Intel's driver has no file for it";

/// All graphics processors with a vendor we know. A machine with none has an empty list.
pub(super) fn gpus(root: &Path) -> Reading<Vec<Gpu>> {
    let drm = root.join("sys/class/drm");
    let listed = root.join("proc/driver/nvidia/gpus");
    if !drm.exists() && !listed.exists() && !root.join("sys/class").exists() {
        return Reading::unknown("neither /sys/class nor /proc/driver/nvidia/gpus is visible to the agent");
    }
    let (slots, mut gpus): (Vec<String>, Vec<Gpu>) = nvidia(&listed).into_iter().unzip();
    for device in numbered_folders(&drm, "card").into_iter().map(|card| card.join("device")) {
        let slot = uevent(&device, "PCI_SLOT_NAME");
        // What NVIDIA's driver has listed already comes again here; without a slot we cannot tell, and then
        // one card too few is better than every card twice.
        let known = slot.as_ref().map_or(!slots.is_empty(), |slot| slots.contains(slot));
        gpus.extend(card(&device, known));
    }
    Reading::Known(gpus)
}

/// (PCI slot, processor) of each folder that NVIDIA's driver makes.
fn nvidia(listed: &Path) -> Vec<(String, Gpu)> {
    let Ok(entries) = std::fs::read_dir(listed) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let gpu = |folder: PathBuf| {
        let slot = folder.file_name()?.to_str()?.to_lowercase();
        let text = read_text(&folder.join("information")).unwrap_or_default();
        let model = text.lines().find_map(|line| line.strip_prefix("Model:")).map(shortened_name);
        let name = model.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("NVIDIA GPU at {slot}"));
        let gpu = Gpu::unknown(&slot, &name, GpuVendor::Nvidia, NVIDIA_MEMORY);
        Some((slot, gpu))
    };
    folders.into_iter().filter_map(gpu).collect()
}

fn card(device: &Path, listed_by_nvidia: bool) -> Option<Gpu> {
    let vendor = read_text(&device.join("vendor")).ok()?;
    match vendor.as_str() {
        "0x1002" => Some(Gpu {
            memory: amd_memory(device),
            ..Gpu::unknown("", &name(device, "AMD"), GpuVendor::Amd, "not read yet")
        }),
        "0x10de" if listed_by_nvidia => None,
        "0x10de" => Some(Gpu::unknown("", &name(device, "NVIDIA"), GpuVendor::Nvidia, NVIDIA_MEMORY)),
        "0x8086" => Some(Gpu::unknown("", &name(device, "Intel"), GpuVendor::Intel, INTEL_MEMORY)),
        // Display adapters of servers and virtual machines.
        _ => None,
    }
}

/// The card's own memory. On processors with shared memory this is only the part that the firmware set
/// aside; what else the driver may map comes out of RAM and is counted there.
fn amd_memory(device: &Path) -> Reading<Capacity> {
    let read = || {
        let total: u64 = read_number(&device.join("mem_info_vram_total"))?;
        let used: u64 = read_number(&device.join("mem_info_vram_used"))?;
        let available = total
            .checked_sub(used)
            .ok_or_else(|| format!("the driver says {used} of {total} bytes are used"))?;
        Ok(Capacity { total: Bytes(total), available: Bytes(available) })
    };
    read().map_or_else(Reading::Unknown, Reading::Known)
}

/// `product_name` where the driver has one, else vendor, PCI id and driver: `AMD GPU 1002:1586 (amdgpu)`.
fn name(device: &Path, vendor: &str) -> String {
    let product = read_text(&device.join("product_name")).map(|text| shortened(&text)).unwrap_or_default();
    if !product.is_empty() {
        return product;
    }
    let mut name = format!("{vendor} GPU");
    if let Some(id) = uevent(device, "PCI_ID") {
        name.push(' ');
        name.push_str(&id);
    }
    if let Some(driver) = uevent(device, "DRIVER") {
        name.push_str(&format!(" ({driver})"));
    }
    name
}

/// One value of the device's `uevent` file, in lower case as PCI addresses are written.
fn uevent(device: &Path, key: &str) -> Option<String> {
    let text = read_text(&device.join("uevent")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(shortened(value).to_lowercase()).filter(|value| !value.is_empty())
}

fn shortened_name(text: &str) -> String {
    shortened(text.trim())
}
