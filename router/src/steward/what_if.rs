//! Suppositions for a plan that changes nothing: a machine more, one less, a model that nobody has.

use mesh_core::fit::{Device, Margin, Pools};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Capacity, Reading};
use mesh_core::placement::{KnownModel, Site, Standing, World};
use mesh_core::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The most suppositions of one question.
pub const LIMIT: usize = 64;

const GIB: u64 = 1 << 30;
/// What a new machine's disk is supposed to have free.
const DISK: Bytes = Bytes(1000 * GIB);

/// A machine that can be supposed.
#[derive(Debug, Clone, Copy)]
struct Kind {
    word: &'static str,
    /// GiB that are free, and all of them.
    ram: (u64, u64),
    vram: (u64, u64),
    /// The graphics processor's memory is RAM.
    shared: bool,
}

const KINDS: [Kind; 3] = [
    // 128 GB of which firmware and kernel keep 4; all but a desktop's part may be the graphics processor's.
    Kind { word: "strix-128", ram: (120, 124), vram: (116, 120), shared: true },
    Kind { word: "rtx-16", ram: (28, 32), vram: (15, 16), shared: false },
    Kind { word: "cpu-32", ram: (28, 32), vram: (0, 0), shared: false },
];

/// One supposition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhatIf {
    /// `+node=WHICH`: a machine of this kind, or like an existing one, is there.
    More(String),
    /// `-node=NAME`: this machine is not there.
    Less(MachineId),
    /// `+files`: every model whose size is known can be fetched.
    Files,
    /// `model=NAME=SIZE`: this model exists, and its file has this many bytes.
    Model(ModelId, Bytes),
}

impl WhatIf {
    /// Reads one as an operator writes it.
    ///
    /// # Errors
    /// What is wrong with it, and what can be written.
    pub fn read(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(100).collect();
        if text == "+files" {
            return Ok(Self::Files);
        }
        if let Some(which) = text.strip_prefix("+node=") {
            return Ok(Self::More(which.to_owned()));
        }
        if let Some(name) = text.strip_prefix("-node=") {
            return MachineId::new(name).map(Self::Less).map_err(|error| format!("`{shown}`: {error}"));
        }
        if let Some((name, size)) = text.strip_prefix("model=").and_then(|rest| rest.rsplit_once('=')) {
            let model = ModelId::new(name).map_err(|error| format!("`{shown}`: {error}"))?;
            let size = size.parse::<Bytes>().map_err(|error| format!("`{shown}`: {error}"))?;
            if size.0 == 0 {
                return Err(format!("`{shown}`: a file of 0 bytes is no model"));
            }
            return Ok(Self::Model(model, size));
        }
        Err(format!(
            "`{shown}` is no supposition: write +node=KIND, -node=NAME, +files or model=NAME=SIZE, as in model=big=92GiB; \
             the kinds are {}, and every node stands for another like it",
            kinds()
        ))
    }
}

/// Changes `world` as supposed.
///
/// # Errors
/// The first that names something that is not there, with what there is.
pub fn suppose(world: &mut World, all: &[WhatIf]) -> Result<(), String> {
    for one in all {
        match one {
            WhatIf::More(which) => {
                let site = machine(world, which)?;
                world.sites.push(site);
                world.sites.sort_by(|a, b| a.machine.cmp(&b.machine));
            }
            WhatIf::Less(name) => {
                let before = world.sites.len();
                world.sites.retain(|site| site.machine != *name);
                if world.sites.len() == before {
                    return Err(format!("there is no node `{name}`; there are {}", names(world)));
                }
            }
            WhatIf::Files => {
                for known in world.catalogue.values_mut() {
                    known.url.get_or_insert_with(|| "supposed".to_owned());
                }
            }
            WhatIf::Model(model, size) => {
                // One that exists can be had: what is asked is whether there is room for it.
                let url = Some("supposed".to_owned());
                world.catalogue.insert(model.clone(), KnownModel { url, ..KnownModel::of_file(*size, None) });
            }
        }
    }
    Ok(())
}

fn names(world: &World) -> String {
    let names: Vec<&str> = world.sites.iter().map(|site| site.machine.as_str()).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn kinds() -> String {
    KINDS.map(|kind| kind.word).join(", ")
}

fn machine(world: &World, which: &str) -> Result<Site, String> {
    if let Some(kind) = KINDS.into_iter().find(|kind| kind.word == which) {
        return Ok(Site { pools: pools(kind), ..empty(free_name(world, kind.word)) });
    }
    let Some(like) = world.sites.iter().find(|site| site.machine.as_str() == which) else {
        let shown: String = which.chars().take(64).collect();
        return Err(format!(
            "`{shown}` is no kind of machine and no node: the kinds are {}, the nodes {}",
            kinds(),
            names(world)
        ));
    };
    // The same machine, new: nothing in memory and on its disk, all but the human's part free.
    let mut site = Site {
        standing: Standing::Open,
        held: Vec::new(),
        stored: BTreeMap::new(),
        disk_free: Some(DISK),
        ..like.clone()
    };
    site.machine = free_name(world, which);
    site.launches = true;
    let (ram, vram) = site.reserved;
    let fill = |capacity: &mut Capacity, reserve: Bytes| {
        capacity.available = Bytes(capacity.total.0.saturating_sub(reserve.0));
    };
    for device in &mut site.pools.devices {
        fill(&mut device.memory, vram);
        device.carve_out.iter_mut().for_each(|carve_out| fill(carve_out, Bytes(0)));
        device.holders.clear();
    }
    if let Reading::Known(capacity) = &mut site.pools.ram {
        fill(capacity, ram);
    }
    Ok(site)
}

/// `strix-128`, or `strix-128-2` where that is taken.
fn free_name(world: &World, wanted: &str) -> MachineId {
    let is_taken = |name: &str| world.sites.iter().any(|site| site.machine.as_str() == name);
    let short: String = wanted.chars().take(58).collect();
    let numbered = (2..).map(|number| format!("{short}-{number}"));
    let free = std::iter::once(short.clone()).chain(numbered).find(|name| !is_taken(name));
    free.and_then(|name| MachineId::new(name).ok())
        .unwrap_or_else(|| MachineId::new("supposed").expect("a constant that fits the grammar"))
}

fn empty(machine: MachineId) -> Site {
    Site {
        is_lost: false,
        machine,
        standing: Standing::Open,
        pools: Pools { devices: Vec::new(), ram: Reading::unknown("it is supposed"), notes: Vec::new() },
        reserved: (Bytes(0), Bytes(0)),
        margin: Margin::Default,
        labels: BTreeSet::new(),
        launches: true,
        disk_free: Some(DISK),
        stored: BTreeMap::new(),
        held: Vec::new(),
        paces: BTreeMap::new(),
        footprints: Vec::new(),
        speeds: Vec::new(),
    }
}

fn pools(Kind { word, ram, vram, shared }: Kind) -> Pools {
    let capacity =
        |(free, total): (u64, u64)| Capacity { total: Bytes(total * GIB), available: Bytes(free * GIB) };
    let device = Device {
        id: "supposed".into(),
        name: format!("graphics of {word}"),
        memory: capacity(vram),
        carve_out: shared.then_some(Capacity { total: Bytes(GIB / 2), available: Bytes(GIB / 2) }),
        holders: Vec::new(),
    };
    let devices = if vram.1 > 0 { vec![device] } else { Vec::new() };
    Pools { devices, ram: Reading::Known(capacity(ram)), notes: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(names: &[&str]) -> World {
        let sites = names.iter().map(|name| empty(MachineId::new(*name).expect("valid"))).collect();
        World { sites, ..World::default() }
    }

    fn supposed(world: &mut World, texts: &[&str]) -> Result<Vec<String>, String> {
        let read: Result<Vec<WhatIf>, String> = texts.iter().map(|text| WhatIf::read(text)).collect();
        suppose(world, &read?)?;
        Ok(world.sites.iter().map(|site| site.machine.to_string()).collect())
    }

    #[test]
    fn machines_come_and_go_under_free_names() {
        let mut world = world(&["msi", "strix-128"]);
        let names = supposed(&mut world, &["+node=strix-128", "+node=rtx-16", "+node=msi", "-node=msi"]);
        assert_eq!(
            names,
            Ok(vec!["msi-2".into(), "rtx-16".into(), "strix-128".into(), "strix-128-2".into()])
        );
        let strix = world.sites.last().expect("it is there");
        assert_eq!(strix.pools.devices[0].memory.available, Bytes(116 * GIB));
    }

    #[test]
    fn the_kinds_are_in_the_help_and_in_the_manual() {
        let help = include_str!("../../../meshctl/src/cli/steering.rs");
        let manual = include_str!("../../../docs/meshctl.md");
        for Kind { word, .. } in KINDS {
            assert!(help.contains(word), "the help of `plan --what-if` lacks {word}");
            assert!(manual.contains(&format!("`{word}`")), "docs/meshctl.md lacks {word}");
        }
    }

    #[test]
    fn a_model_that_nobody_has_can_be_supposed() {
        let mut world = world(&["msi"]);
        supposed(&mut world, &["model=org/deepseek:q1=158.3GiB"]).expect("sound");
        let (name, known) = world.catalogue.iter().next().expect("one model");
        assert_eq!((name.as_str(), known.size.0 / GIB), ("org/deepseek:q1", 158));
    }

    #[test]
    fn files_that_nobody_has_can_be_supposed_to_come() {
        let mut world = world(&["msi"]);
        let known = |url: Option<&str>| KnownModel {
            url: url.map(str::to_owned),
            ..KnownModel::of_file(Bytes(GIB), None)
        };
        let model = |name: &str| ModelId::new(name).expect("valid");
        world.catalogue.insert(model("nowhere"), known(None));
        world.catalogue.insert(model("somewhere"), known(Some("http://a/b.gguf")));
        supposed(&mut world, &["+files"]).expect("sound");
        let urls: Vec<_> = world.catalogue.values().map(|known| known.url.as_deref()).collect();
        assert_eq!(urls, [Some("supposed"), Some("http://a/b.gguf")]);
    }

    #[test]
    fn what_is_not_there_is_refused_with_what_is() {
        for (text, said) in [
            ("+node=mainframe", "the kinds are strix-128, rtx-16, cpu-32, the nodes msi"),
            ("-node=gone", "there is no node `gone`; there are msi"),
            ("-node=../x", "`-node=../x`: machine name"),
            ("model=big", "is no supposition"),
            ("model=big=92GB", "`92GB` is no size"),
            ("model=big=0B", "a file of 0 bytes is no model"),
            ("more of everything", "write +node=KIND, -node=NAME, +files or model=NAME=SIZE"),
        ] {
            let error = supposed(&mut world(&["msi"]), &[text]).expect_err("refused");
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
