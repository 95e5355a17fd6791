//! Graphics processors as the kernel lists them on the PCI bus, and what people call them.

use super::{numbered_folders, read_text, shortened};
use std::path::{Path, PathBuf};

/// A machine has far fewer; more is a broken tree, and each costs reads.
const CARD_LIMIT: usize = 32;

/// The most devices looked at on the PCI bus: servers have about 200.
const DEVICE_LIMIT: usize = 1024;

/// A graphics processor's folder in `/sys`, and what it says of its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Card {
    /// `/sys/class/drm/cardN/device`, or `/sys/bus/pci/devices/…` where no graphics driver shows it.
    pub(crate) device: PathBuf,
    /// `/sys/class/drm/cardN`, where a graphics driver shows it.
    pub(crate) drm: Option<PathBuf>,
    /// PCI vendor.
    pub(crate) vendor: u16,
    /// PCI device, where it tells.
    pub(crate) id: Option<u16>,
    /// PCI address in lower case: `0000:01:00.0`.
    pub(crate) slot: Option<String>,
    /// The driver that holds it.
    pub(crate) driver: Option<String>,
}

impl Card {
    /// The card of a device folder; `None` where it names no vendor.
    fn read(device: PathBuf, drm: Option<PathBuf>) -> Option<Self> {
        let hex = |name: &str| {
            u16::from_str_radix(read_text(&device.join(name)).ok()?.strip_prefix("0x")?, 16).ok()
        };
        let uevent = read_text(&device.join("uevent")).unwrap_or_default();
        let value = |key: &str| {
            let value = uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
            Some(shortened(value).to_lowercase()).filter(|value| !value.is_empty())
        };
        // Old trees have the device's number in `uevent` only: `PCI_ID=1002:744C`.
        let from_uevent = || u16::from_str_radix(value("PCI_ID")?.split_once(':')?.1, 16).ok();
        let (vendor, id) = (hex("vendor")?, hex("device").or_else(from_uevent));
        let (slot, driver) = (value("PCI_SLOT_NAME"), value("DRIVER"));
        Some(Self { vendor, id, slot, driver, device, drm })
    }

    /// Its PCI address, or the name of its folder where it has none.
    pub(crate) fn id(&self) -> String {
        let folder = || self.drm.as_deref().unwrap_or(&self.device).file_name()?.to_str().map(shortened);
        self.slot.clone().or_else(folder).unwrap_or_default()
    }

    /// What the board says it is, else what the table says, else vendor, PCI id and driver.
    pub(crate) fn name(&self) -> String {
        let product = read_text(&self.device.join("product_name")).map(|text| shortened(&text));
        if let Some(product) = product.ok().filter(|product| !product.is_empty()) {
            return product;
        }
        let known = |&&(vendor, id, _): &&(u16, u16, &str)| vendor == self.vendor && Some(id) == self.id;
        if let Some((_, _, name)) = NAMES.iter().find(known) {
            return (*name).to_owned();
        }
        let vendor = match self.vendor {
            AMD => "AMD",
            NVIDIA => "NVIDIA",
            INTEL => "Intel",
            _ => "unknown",
        };
        let id = self.id.map_or_else(String::new, |id| format!(" {:04x}:{id:04x}", self.vendor));
        let driver = self.driver.as_ref().map_or_else(String::new, |driver| format!(" ({driver})"));
        format!("{vendor} GPU{id}{driver}")
    }

    /// Whether its power is off: most of its files would wake it.
    pub(crate) fn is_asleep(&self) -> bool {
        read_text(&self.device.join("power/runtime_status")).is_ok_and(|status| status == "suspended")
    }

    /// Whether the kernel may take its power off: being read all the time would keep it awake.
    pub(crate) fn may_sleep(&self) -> bool {
        read_text(&self.device.join("power/control")).is_ok_and(|control| control == "auto")
    }
}

/// Seconds between two readings of a processor that may sleep and does nothing: the kernel takes its power off after
/// a few seconds without a reading, and a reading gives it back for as long.
pub(crate) const REST_S: u64 = 60;

/// PCI vendors.
pub(crate) const AMD: u16 = 0x1002;
pub(crate) const NVIDIA: u16 = 0x10de;
pub(crate) const INTEL: u16 = 0x8086;

/// All cards that a graphics driver shows, then those on the PCI bus that none does.
pub(crate) fn cards(root: &Path) -> Vec<Card> {
    let shown = numbered_folders(&root.join("sys/class/drm"), "card").into_iter();
    let mut cards: Vec<Card> =
        shown.take(CARD_LIMIT).filter_map(|drm| Card::read(drm.join("device"), Some(drm))).collect();
    let Ok(devices) = std::fs::read_dir(root.join("sys/bus/pci/devices")) else { return cards };
    let mut devices: Vec<PathBuf> = devices.flatten().take(DEVICE_LIMIT).map(|entry| entry.path()).collect();
    devices.sort();
    for device in devices {
        // Class 03: display controllers. Without a class it is no card of ours.
        if !read_text(&device.join("class")).is_ok_and(|class| class.starts_with("0x03")) {
            continue;
        }
        let Some(card) = Card::read(device, None) else { continue };
        let is_shown = cards.iter().any(|known| known.slot == card.slot);
        if !is_shown && [AMD, NVIDIA, INTEL].contains(&card.vendor) && cards.len() < CARD_LIMIT {
            cards.push(card);
        }
    }
    cards
}

/// (vendor, device, name) after the public list of PCI ids: what stands in the machines this is made for.
const NAMES: [(u16, u16, &str); 40] = [
    (AMD, 0x1586, "AMD Radeon 8060S (Strix Halo)"),
    (AMD, 0x150e, "AMD Radeon 890M (Strix Point)"),
    (AMD, 0x1114, "AMD Radeon 860M (Krackan Point)"),
    (AMD, 0x15bf, "AMD Radeon 780M (Phoenix)"),
    (AMD, 0x15c8, "AMD Radeon 740M (Phoenix)"),
    (AMD, 0x1900, "AMD Radeon 780M (Hawk Point)"),
    (AMD, 0x1901, "AMD Radeon 740M (Hawk Point)"),
    (AMD, 0x1681, "AMD Radeon 680M (Rembrandt)"),
    (AMD, 0x164e, "AMD Radeon Graphics (Raphael)"),
    (AMD, 0x13c0, "AMD Radeon Graphics (Granite Ridge)"),
    (AMD, 0x1638, "AMD Radeon Graphics (Cezanne)"),
    (AMD, 0x7550, "AMD Radeon RX 9070 / XT"),
    (AMD, 0x7590, "AMD Radeon RX 9060 XT"),
    (AMD, 0x744c, "AMD Radeon RX 7900 XT / XTX"),
    (AMD, 0x747e, "AMD Radeon RX 7800 XT / 7700 XT"),
    (AMD, 0x7480, "AMD Radeon RX 7600"),
    (AMD, 0x73bf, "AMD Radeon RX 6900 XT / 6800"),
    (AMD, 0x73df, "AMD Radeon RX 6700 XT"),
    (AMD, 0x73ff, "AMD Radeon RX 6600"),
    (NVIDIA, 0x2860, "NVIDIA GeForce RTX 4070 Laptop GPU"),
    (NVIDIA, 0x2c05, "NVIDIA GeForce RTX 5070 Ti"),
    (NVIDIA, 0x25a0, "NVIDIA GeForce RTX 3050 Ti Laptop GPU"),
    (INTEL, 0xa788, "Intel UHD Graphics (Raptor Lake)"),
    (INTEL, 0xa780, "Intel UHD Graphics 770 (Raptor Lake)"),
    (INTEL, 0xa7a0, "Intel Iris Xe Graphics (Raptor Lake)"),
    (INTEL, 0x4680, "Intel UHD Graphics 770 (Alder Lake)"),
    (INTEL, 0x4692, "Intel UHD Graphics 730 (Alder Lake)"),
    (INTEL, 0x46a6, "Intel Iris Xe Graphics (Alder Lake)"),
    (INTEL, 0x46d0, "Intel UHD Graphics (Alder Lake-N)"),
    (INTEL, 0x46d1, "Intel UHD Graphics (Alder Lake-N)"),
    (INTEL, 0x46d2, "Intel UHD Graphics (Alder Lake-N)"),
    (INTEL, 0x9a49, "Intel Iris Xe Graphics (Tiger Lake)"),
    (INTEL, 0x9a60, "Intel UHD Graphics (Tiger Lake)"),
    (INTEL, 0x7d55, "Intel Arc Graphics (Meteor Lake)"),
    (INTEL, 0x64a0, "Intel Arc Graphics (Lunar Lake)"),
    (INTEL, 0x56a0, "Intel Arc A770"),
    (INTEL, 0x56a1, "Intel Arc A750"),
    (INTEL, 0x56a5, "Intel Arc A380"),
    (INTEL, 0xe20b, "Intel Arc B580"),
    (INTEL, 0xe20c, "Intel Arc B570"),
];
