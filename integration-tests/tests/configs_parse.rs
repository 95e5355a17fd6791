//! Every configuration that is shipped is read by the program it is for: as it stands, and the two reference files
//! also with every commented setting switched on. That they hold every key there is stands in `house_rules.rs`.

#[path = "house_rules/switched_on.rs"]
mod switched_on;

use node_agent::config::RunFlags;
use std::path::{Path, PathBuf};
use switched_on::switched_on;

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").join("configs")
}

/// The files below `folder` whose name is `router.toml`, or ends with `agent.toml`.
fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("configs/ is readable") {
        let path = entry.expect("configs/ is readable").path();
        if path.is_dir() {
            found.extend(files(&path, suffix));
        } else if path.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The file with everything switched on, in a folder that the caller keeps.
fn everything_on(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = std::fs::read_to_string(configs().join(name)).expect("the reference file is there");
    let path = folder.path().join(name);
    std::fs::write(&path, switched_on(&text)).expect("the folder is ours");
    (folder, path)
}

/// Reads an agent's configuration as `mesh-agent run --config FILE` does.
fn agent(file: &Path) -> node_agent::config::AgentConfig {
    let flags = RunFlags { config: Some(file.to_owned()), router: None };
    let loaded = node_agent::config::read(Path::new("/nonexistent"), &flags);
    loaded.unwrap_or_else(|complaint| panic!("{}: {complaint}", file.display())).value
}

#[test]
fn every_router_configuration_is_read_by_the_router() {
    let files = files(&configs(), "router.toml");
    assert!(files.len() >= 2, "the reference and an example: {files:?}");
    for file in files {
        let settings = router::config::load(Some(file.clone()), vec![]);
        settings.unwrap_or_else(|complaint| panic!("{}: {complaint}", file.display()));
    }
}

#[test]
fn every_strategy_in_the_folder_is_built_in() {
    let names: Vec<String> = files(&configs().join("strategies"), ".toml")
        .iter()
        .filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    let strategies = router::strategies::Strategies::read(Path::new("/nonexistent"));
    assert_eq!(strategies.all().map(|strategy| strategy.name.clone()).collect::<Vec<_>>(), names);
}

#[test]
fn every_agent_configuration_is_read_by_the_agent() {
    let files = files(&configs(), "agent.toml");
    assert!(files.len() >= 6, "the reference and an example for each machine: {files:?}");
    for file in files {
        agent(&file);
    }
}

#[test]
fn the_reference_of_the_router_says_the_defaults() {
    let (_folder, file) = everything_on("router.toml");
    let on = router::config::load(Some(file), vec![]).unwrap_or_else(|complaint| panic!("{complaint}"));
    let default = router::config::load(None, vec![]).unwrap_or_else(|complaint| panic!("{complaint}"));
    assert!(default.modes.is_none(), "no file, no modes: they are automatic");
    assert!(on.modes.is_some(), "the reference shows how to write a mode");
    let values = |settings: &router::config::Settings| {
        let addresses = (settings.clients, settings.agents, settings.operators);
        let limits = (settings.body_limit, settings.connections, settings.load_wait, settings.answer_wait);
        let telemetry = settings.telemetry.clone();
        (settings.name.clone(), addresses, limits, settings.certificate_life, telemetry)
    };
    assert_eq!(values(&on), values(&default), "a value that is not the default");
}

#[test]
fn the_reference_of_the_agent_can_be_switched_on() {
    let (_folder, file) = everything_on("agent.toml");
    let config = agent(&file);
    assert!(config.engines.len() >= 2, "the reference shows an engine that runs and one that is started");
}

#[test]
fn every_model_of_the_example_mesh_is_served_by_a_machine_of_it() {
    let folder = configs().join("examples/owner-mesh");
    // What the laptop's Ollama has is not in its configuration.
    let mut served = vec!["llama3.2:3b".to_owned(), "llama3:8b".to_owned()];
    for file in files(&folder, "agent.toml") {
        let text = std::fs::read_to_string(&file).expect("an example is text");
        let toml: toml_edit::DocumentMut = text.parse().expect("the loader reads it too");
        for (_, engine) in
            toml.get("engines").and_then(toml_edit::Item::as_table_like).expect("engines").iter()
        {
            served.extend(engine.get("alias").and_then(toml_edit::Item::as_str).map(str::to_owned));
        }
    }
    let router = router::config::load(Some(folder.join("router.toml")), vec![]).expect("read above");
    for mode in router.modes.expect("the example has modes").modes() {
        for model in &mode.models {
            assert!(
                served.iter().any(|name| name == model.as_str()),
                "mode {}: nobody serves {model}",
                mode.name
            );
        }
    }
}
