//! NVIDIA's cards as the kernel lists them, without waking one.

use crate::probe::{read_text, shortened};
use std::path::Path;

/// PCI classes of graphics processors: VGA, 3D without a display, other displays.
const DISPLAY_CLASSES: [&str; 3] = ["0x0300", "0x0302", "0x0380"];

/// A card that is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    /// `0000:01:00.0`
    pub(super) slot: String,
    /// As the driver names it, else by its PCI id.
    pub(super) name: String,
    /// Its power is off.
    pub(super) asleep: bool,
    /// The kernel may take its power off.
    pub(super) may_sleep: bool,
}

/// All cards below `root`, sorted by slot.
pub(super) fn cards(root: &Path) -> Vec<Card> {
    let Ok(entries) = std::fs::read_dir(root.join("sys/bus/pci/devices")) else {
        return listed_by_the_driver(root);
    };
    let mut cards: Vec<Card> = entries.flatten().filter_map(|entry| card(&entry.path(), root)).collect();
    if cards.is_empty() {
        return listed_by_the_driver(root);
    }
    cards.sort_by(|a, b| a.slot.cmp(&b.slot));
    cards
}

fn card(device: &Path, root: &Path) -> Option<Card> {
    let file = |name: &str| read_text(&device.join(name)).ok();
    if file("vendor")? != "0x10de" {
        return None;
    }
    let class = file("class")?;
    if !DISPLAY_CLASSES.iter().any(|display| class.starts_with(display)) {
        return None;
    }
    let slot = device.file_name()?.to_str()?.to_lowercase();
    let id = file("device").unwrap_or_default();
    let name =
        model_name(root, &slot).unwrap_or_else(|| format!("NVIDIA GPU 10de:{}", id.trim_start_matches("0x")));
    Some(Card {
        asleep: file("power/runtime_status").as_deref() == Some("suspended"),
        may_sleep: file("power/control").as_deref() == Some("auto"),
        slot,
        name,
    })
}

/// Where `/sys` is hidden, the driver's own list.
fn listed_by_the_driver(root: &Path) -> Vec<Card> {
    let Ok(entries) = std::fs::read_dir(root.join("proc/driver/nvidia/gpus")) else { return Vec::new() };
    let mut cards: Vec<Card> = entries
        .flatten()
        .filter_map(|entry| {
            let slot = entry.file_name().to_str()?.to_lowercase();
            let name = model_name(root, &slot).unwrap_or_else(|| format!("NVIDIA GPU at {slot}"));
            Some(Card { slot, name, asleep: false, may_sleep: false })
        })
        .collect();
    cards.sort_by(|a, b| a.slot.cmp(&b.slot));
    cards
}

/// The name that the driver tells without waking the card.
fn model_name(root: &Path, slot: &str) -> Option<String> {
    let text = read_text(&root.join("proc/driver/nvidia/gpus").join(slot).join("information")).ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
    Some(shortened(name.trim())).filter(|name| !name.is_empty())
}
