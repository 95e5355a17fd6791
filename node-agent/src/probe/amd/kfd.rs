//! What the kernel's compute driver (KFD) says of AMD's processors: which are integrated.
//!
//! `/sys/class/kfd/kfd/topology/nodes/N/properties` holds `key value` lines. A node is matched to a graphics
//! processor by domain and `location_id` (bus, device, function). Sizes of memory say nothing: a firmware may give
//! an integrated processor 96 GB of its own, and a card may have 4.

use crate::probe::{numbered_folders, read_text};
use std::path::Path;

/// More nodes than any machine has.
const NODE_LIMIT: usize = 64;

/// One node of the topology that computes on a graphics processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// PCI address: `0000:c5:00.0`.
    pub(crate) slot: String,
    /// PCI device.
    pub(crate) device: u16,
    /// CPU cores in the same node: kernels before 6.6 put integrated graphics into the CPU's node.
    pub(crate) cpu_cores: u32,
    /// The instruction set: 110501 = gfx1151.
    pub(crate) target: u32,
}

/// Instruction sets that only processors with integrated graphics have (LLVM's list of AMDGPU processors, as KFD
/// writes them: major × 10000 + minor × 100 + stepping).
const INTEGRATED: [u32; 12] = [
    90_002,  // gfx902 Raven
    90_012,  // gfx90c Renoir, Cezanne
    100_103, // gfx1013
    100_303, // gfx1033 Van Gogh
    100_305, // gfx1035 Rembrandt
    100_306, // gfx1036 Raphael
    110_003, // gfx1103 Phoenix, Hawk Point
    110_500, // gfx1150 Strix Point
    110_501, // gfx1151 Strix Halo
    110_502, // gfx1152 Krackan Point
    110_503, // gfx1153
    110_504, // gfx1154
];

/// Instruction sets that only cards have.
const DISCRETE: [u32; 18] = [
    90_000, 90_006, 90_008, 90_010, // Vega, MI50, MI100, MI200
    100_100, 100_101, 100_102, // RX 5000
    100_300, 100_301, 100_302, 100_304, // RX 6000
    110_000, 110_001, 110_002, // RX 7000
    120_000, 120_001, // RX 9000
    90_500, 120_500, // MI350, MI400
];

/// What the topology says of one processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It shares RAM with the CPU.
    Integrated,
    /// It has memory of its own.
    Discrete,
    /// Not known, and why.
    Unknown(String),
}

/// All nodes with a graphics processor.
///
/// # Errors
/// A reason for people when there is no topology.
pub(crate) fn nodes(root: &Path) -> Result<Vec<Node>, String> {
    let folder = root.join("sys/class/kfd/kfd/topology/nodes");
    if !folder.is_dir() {
        return Err("the kernel's compute driver (/sys/class/kfd) is not there".into());
    }
    Ok(numbered_folders(&folder, "")
        .into_iter()
        .take(NODE_LIMIT)
        .filter_map(|node| read_text(&node.join("properties")).ok().and_then(|text| parse(&text)))
        .collect())
}

/// A node with a graphics processor; `None` for the CPU's own, or where the lines do not say enough.
fn parse(properties: &str) -> Option<Node> {
    let value = |key: &str| -> Option<u32> {
        let line = properties.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    };
    if value("simd_count")? == 0 {
        return None;
    }
    let (location, domain) = (value("location_id")?, value("domain").unwrap_or(0));
    let (bus, device, function) = (location >> 8 & 0xff, location >> 3 & 0x1f, location & 7);
    Some(Node {
        slot: format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"),
        device: u16::try_from(value("device_id")?).ok()?,
        cpu_cores: value("cpu_cores_count").unwrap_or(0),
        target: value("gfx_target_version")?,
    })
}

/// Whether the processor at `slot` is integrated. `table` is what its own sensor table says, asked only for
/// instruction sets newer than this agent.
pub(crate) fn kind(
    nodes: &Result<Vec<Node>, String>,
    slot: Option<&str>,
    device: Option<u16>,
    table: Option<bool>,
) -> Kind {
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(reason) => return Kind::Unknown(reason.clone()),
    };
    let here = |node: &&Node| Some(node.slot.as_str()) == slot && device.is_none_or(|id| id == node.device);
    let Some(node) = nodes.iter().find(here) else {
        return Kind::Unknown("the kernel's compute driver (/sys/class/kfd) does not list it".into());
    };
    if node.cpu_cores > 0 || INTEGRATED.contains(&node.target) {
        Kind::Integrated
    } else if DISCRETE.contains(&node.target) {
        Kind::Discrete
    } else {
        match table {
            Some(true) => Kind::Integrated,
            Some(false) => Kind::Discrete,
            None => Kind::Unknown(format!("its instruction set {} is not known to this agent", node.target)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(target: u32, cpu_cores: u32) -> Result<Vec<Node>, String> {
        let text = format!(
            "cpu_cores_count {cpu_cores}\nsimd_count 80\ngfx_target_version {target}\nvendor_id 4098\n\
             device_id 5510\nlocation_id 50432\ndomain 0\n"
        );
        Ok(parse(&text).into_iter().collect())
    }

    fn asked(nodes: &Result<Vec<Node>, String>, table: Option<bool>) -> Kind {
        kind(nodes, Some("0000:c5:00.0"), Some(0x1586), table)
    }

    #[test]
    fn a_node_is_found_by_its_address() {
        let nodes = node(110_501, 0);
        assert_eq!(asked(&nodes, None), Kind::Integrated);
        assert!(matches!(kind(&nodes, Some("0000:c6:00.0"), Some(0x1586), None), Kind::Unknown(_)));
        assert!(matches!(kind(&nodes, Some("0000:c5:00.0"), Some(0x744c), None), Kind::Unknown(_)));
        assert!(matches!(kind(&nodes, None, None, None), Kind::Unknown(_)));
    }

    #[test]
    fn cores_in_the_same_node_make_it_integrated() {
        assert_eq!(asked(&node(80_001, 4), None), Kind::Integrated);
    }

    #[test]
    fn a_card_is_discrete_and_a_newer_one_is_asked_for_its_sensor_table() {
        assert_eq!(asked(&node(110_000, 0), Some(true)), Kind::Discrete);
        assert_eq!(asked(&node(990_000, 0), Some(true)), Kind::Integrated);
        assert_eq!(asked(&node(990_000, 0), Some(false)), Kind::Discrete);
        assert!(matches!(asked(&node(990_000, 0), None), Kind::Unknown(reason) if reason.contains("990000")));
    }

    #[test]
    fn the_cpu_and_broken_lines_are_no_node() {
        assert_eq!(parse("cpu_cores_count 32\nsimd_count 0\n"), None);
        assert_eq!(parse("simd_count lots\nlocation_id\n"), None);
        assert_eq!(parse(""), None);
    }
}
