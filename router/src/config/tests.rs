//! The configuration as files: what is refused, and where the complaint points.

use super::*;

fn load_text(text: &str) -> Result<Settings, Complaint> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("router.toml");
    std::fs::write(&file, text).expect("writing");
    load(Some(file), vec![])
}

#[test]
fn the_defaults_are_valid_and_listen_on_loopback_only() {
    let settings = check(RouterConfig::default(), String::new(), &KeyLines::default()).expect("valid");
    for address in [settings.clients, settings.agents, settings.operators] {
        assert!(address.ip().is_loopback());
    }
    assert!(settings.modes.is_none());
}

#[test]
fn all_semantic_problems_come_with_their_lines() {
    let said = load_text(
        "[listen]\nclients = \"x:7400\"\n[limits]\nbody = \"8\"\n[modes.code]\nmodels = [\"../x\"]\nfallback = [\"nope\"]\npriority = \"soon\"\n",
    )
    .expect_err("five problems")
    .to_string();
    for part in [
        "router.toml:2: listen.clients: `x:7400` is no address",
        "router.toml:4: limits.body: `8` is no size",
        "router.toml:6: modes.code.models: model name `../x`",
        "router.toml:8: modes.code.priority: `soon` is none of autocomplete, ask, code, architect, background",
        "router.toml:5: mode `code` falls back to `nope`",
    ] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
}

#[test]
fn wishes_that_contradict_themselves_are_all_told_with_their_lines() {
    let text = r#"
[machines.msi]
labels = ["laptop"]
quiet_hours = ["22-7"]
on_battery = "run"
reserve_ram = "8 GB"
max_temperature = 400
[modes.code]
models = ["m"]
context = "4K"
least_context = "8K"
cache_types = ["f16", "q9"]
residency = "pinned"
machines = ["msi"]
labels = ["box"]
weight = 0.0
[models."llama3.1:8b"]
size = "0B"
url = "ftp://x"
[models.other]
digest = "abc"
[placement]
machine_pause = "1"
budget = 0
"#;
    let said = load_text(text).expect_err("many problems").to_string();
    for part in [
        ":4: machines.msi.quiet_hours: `22-7` is no span",
        ":5: machines.msi.on_battery: `run` is none of hold, allow, leave",
        ":6: machines.msi.reserve_ram: `8 GB` is no size",
        ":7: machines.msi.max_temperature: must be between",
        ":11: modes.code.least_context: is 8192, more than the context of 4096",
        ":12: modes.code.cache_types: `q9` is none of f32, f16",
        ":14: modes.code.machines: names `msi`, which lacks the label box",
        ":15: modes.code.labels: no machine under [machines.*] has the label `box`",
        ":16: modes.code.weight: is 0, and must be above 0",
        ":18: models.llama3.1:8b.size: must be more than 0",
        ":19: models.llama3.1:8b.url: `ftp://x` is no address",
        ":21: models.other.digest: `abc` is no SHA-256",
        ":21: models.other.digest: says nothing without `size`",
        ":23: placement.machine_pause: `1` is no duration",
        ":24: placement.budget: must be at least 1",
    ] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
}

#[test]
fn other_names_of_models_are_told_apart_from_modes_and_from_each_other() {
    let text = "[models.m]\naliases = [\"gpt-x\", \"mesh/code\"]\n[models.n]\naliases = [\"gpt-x\"]\n[models.\"mesh-ask\"]\naliases = [\"y\"]\n[models.o]\naliases = [\"\", \"m\", \"z\", \"z\"]\n";
    let said = load_text(text).expect_err("six problems").to_string();
    for part in [
        ":2: models.m.aliases: `mesh/code` is the name of a mode",
        ":4: models.n.aliases: the alias `gpt-x` is given to `m` too",
        ":6: models.mesh-ask.aliases: `mesh-ask` is the name of a mode",
        ":8: models.o.aliases: a model name must not be empty",
        ":8: models.o.aliases: `m` is the name of another model",
        ":8: models.o.aliases: the alias `z` is there twice",
    ] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    let sound = load_text("[models.m]\naliases = [\"gpt-x\", \"meshed\"]\n").expect("sensible");
    assert_eq!(sound.model_aliases.len(), 2);
}

#[test]
fn a_mode_says_what_it_wants_in_memory() {
    let text = "[modes.code]\nmodels = [\"m\"]\ncontext = 2048\nttft = \"2s\"\nresidency = \"pinned\"\n[machines.msi]\nreserve_ram = \"4GiB\"\ncordon = true\n";
    let settings = load_text(text).expect("valid");
    let modes = settings.modes.expect("one mode");
    let wish = &modes.wishes[0];
    assert_eq!((wish.context, wish.least_context), (2048, 2048), "less than others need at least");
    assert_eq!(wish.target.ttft_s, Some(2.0), "the mode's target is the wish's, too");
    assert_eq!(wish.residency, mesh_core::strategy::Residency::Pinned);
    let limits = settings.placement.machines.values().next().expect("one machine");
    assert_eq!((limits.reserve_ram, limits.cordoned), (Bytes(4 << 30), true));
    assert!(!settings.placement.apply, "a mesh that nobody configured moves nothing");
}

#[test]
fn every_key_of_the_shape_is_in_the_list() {
    let mut full = RouterConfig::default();
    full.modes.insert("M".into(), ModeConfig::default());
    full.models.insert("M".into(), ModelConfig::default());
    full.machines.insert("M".into(), MachineConfig::default());
    let mut found = Vec::new();
    flatten(&serde_json::to_value(&full).expect("serialises"), "", &mut found);
    let mut keys: Vec<String> = KEYS.iter().map(|key| key.replace('*', "M")).collect();
    keys.sort();
    found.sort();
    assert_eq!(found, keys);
}

fn flatten(value: &serde_json::Value, prefix: &str, out: &mut Vec<String>) {
    match value.as_object() {
        Some(map) => map.iter().for_each(|(key, inner)| {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            flatten(inner, &path, out);
        }),
        None => out.push(prefix.into()),
    }
}
