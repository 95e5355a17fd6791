//! The rules of the house, read from the tree itself: size and head of files, names, arrows between crates,
//! attributes, and that metrics and configuration keys are written down where people look for them.
//!
//! Each rule is a function from the tree to its breaches. It is asked twice: of the real tree, where it must
//! find nothing, and of a small broken tree (house_rules/breaches.rs), where it must find something.
//! What a compiler sees better (clocks, locks and I/O in `core`, unbounded queues) stands in the `clippy.toml`s.

#[path = "house_rules/breaches.rs"]
mod breaches;
#[path = "house_rules/switched_on.rs"]
mod switched_on;
#[path = "house_rules/tree.rs"]
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use switched_on::switched_on;
use toml_edit::{DocumentMut, TableLike};
use tree::{EVERY_KIND, File, House, dependencies, locked_below};

// ── the rules ────────────────────────────────────────────────────────────────────────────────────────────

fn files_are_short(house: &House) -> Vec<String> {
    let lines = |file: &File| (file.text.lines().count(), file.path.clone());
    let long = house.written().map(lines).filter(|(lines, _)| *lines > 700);
    long.map(|(lines, path)| format!("{path}: {lines} lines, 700 at most")).collect()
}

fn files_say_what_they_are(house: &House) -> Vec<String> {
    let silent = house.written().filter(|file| !file.text.starts_with("//!"));
    silent.map(|file| format!("{}: starts without //!", file.path)).collect()
}

fn mains_are_short(house: &House) -> Vec<String> {
    let mains = house.written().filter(|file| file.path.ends_with("src/main.rs"));
    let long = mains.map(|file| (file.text.lines().count(), &file.path)).filter(|(lines, _)| *lines > 60);
    long.map(|(lines, path)| format!("{path}: {lines} lines, 60 at most")).collect()
}

/// Whether a name says nothing: one of its words is on the list (`base` only when it is the whole name).
fn says_nothing(name: &str) -> bool {
    const EMPTY: [&str; 8] = ["util", "utils", "helper", "helpers", "common", "misc", "manager", "handler"];
    let mut spaced = String::new();
    for c in name.chars() {
        if c.is_uppercase() {
            spaced.push(' ');
        }
        spaced.push(if c.is_alphanumeric() { c.to_ascii_lowercase() } else { ' ' });
    }
    spaced.trim() == "base" || spaced.split_whitespace().any(|word| EMPTY.contains(&word))
}

fn names_are_honest(house: &House) -> Vec<String> {
    let mut breaches = Vec::new();
    for file in house.written() {
        for part in file.path.trim_end_matches(".rs").split('/') {
            if says_nothing(part) || part == "mod" {
                breaches.push(format!("{}: a file or folder called `{part}`", file.path));
            }
        }
        for (number, line) in file.text.lines().enumerate() {
            let mut words =
                line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
            let keyword = words.find(|word| !matches!(*word, "pub" | "crate" | "super" | "in"));
            let is_item = matches!(keyword, Some("struct" | "enum" | "trait" | "mod" | "type"));
            if let Some(name) = words.next().filter(|name| is_item && says_nothing(name)) {
                breaches.push(format!("{}:{}: `{name}`", file.path, number + 1));
            }
        }
    }
    breaches
}

fn attributes_give_reasons(house: &House) -> Vec<String> {
    let mut breaches = Vec::new();
    for file in house.written() {
        let lines: Vec<&str> = file.text.lines().map(str::trim_start).collect();
        for (number, line) in lines.iter().enumerate() {
            if !(line.starts_with("#[") || line.starts_with("#![")) {
                continue;
            }
            // An attribute goes on until its brackets close.
            let mut attribute = String::new();
            for line in &lines[number..] {
                attribute.push_str(line);
                if attribute.matches('[').count() <= attribute.matches(']').count() {
                    break;
                }
            }
            let has = |word: &str| {
                attribute.contains(&format!("[{word}(")) || attribute.contains(&format!(" {word}("))
            };
            if has("allow") {
                breaches.push(format!("{}:{}: `allow`", file.path, number + 1));
            }
            if has("expect") && !attribute.contains("reason = \"") {
                breaches.push(format!("{}:{}: `expect` without a reason", file.path, number + 1));
            }
        }
    }
    breaches
}

fn the_core_depends_on_two_crates(house: &House) -> Vec<String> {
    let mut breaches = Vec::new();
    if let Some(core) = house.manifests().get("mesh-core") {
        let more = dependencies(core, &["dependencies", "build-dependencies"]);
        let more = more.into_iter().filter(|name| !["serde", "thiserror"].contains(&name.as_str()));
        breaches.extend(more.map(|name| format!("core/Cargo.toml: depends on {name}")));
    }
    let heavy = ["tokio", "tonic", "prost", "hyper", "quinn", "rustls", "mio"];
    let below = locked_below(house, "mesh-core");
    breaches.extend(
        heavy.iter().filter(|name| below.contains(**name)).map(|name| format!("{name} is below mesh-core")),
    );
    breaches
}

fn the_core_does_no_io(house: &House) -> Vec<String> {
    let modules = ["std::fs", "std::env", "std::net", "std::thread", "std::process"];
    let mut breaches = Vec::new();
    for file in house.written().filter(|file| file.path.starts_with("core/src/")) {
        for (number, line) in
            file.text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            let named = modules.iter().filter(|module| line.contains(**module));
            breaches.extend(named.map(|module| format!("{}:{}: {module}", file.path, number + 1)));
        }
    }
    breaches
}

/// core ← proto ← {link, meshctl}, link ← {node-agent, router} ← modemesh ← integration-tests, daemon beside proto.
fn arrows_point_one_way(house: &House) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("mesh-core", &[] as &[&str]),
        ("mesh-proto", &["mesh-core"]),
        ("mesh-daemon", &["mesh-core"]),
        ("mesh-link", &["mesh-proto"]),
        ("meshctl", &["mesh-core", "mesh-proto"]),
        ("node-agent", &["mesh-core", "mesh-proto", "mesh-daemon", "mesh-link"]),
        ("router", &["mesh-core", "mesh-proto", "mesh-daemon", "mesh-link"]),
        ("mesh-fuzz", &["mesh-core", "router"]),
        ("modemesh", &["mesh-core", "mesh-proto", "mesh-daemon", "node-agent", "router", "meshctl"]),
        (
            "integration-tests",
            &["mesh-core", "mesh-proto", "mesh-daemon", "node-agent", "router", "meshctl", "modemesh"],
        ),
    ]);
    let manifests = house.manifests();
    let mut breaches = Vec::new();
    for (name, manifest) in &manifests {
        let Some(allowed) = allowed.get(name.as_str()) else {
            breaches
                .push(format!("{name} is a new crate: give it a place in this rule and in ARCHITECTURE.md"));
            continue;
        };
        let ours =
            dependencies(manifest, &EVERY_KIND).into_iter().filter(|other| manifests.contains_key(other));
        let wrong = ours.filter(|other| !allowed.contains(&other.as_str()));
        breaches.extend(wrong.map(|other| format!("{name} depends on {other}")));
    }
    breaches
}

/// Cargo.lock does not tell features apart, so the server half of tonic (and axum with it) is looked for where
/// it would be switched on for everybody.
fn meshctl_serves_nothing(house: &House) -> Vec<String> {
    let manifests = house.manifests();
    let mut breaches = Vec::new();
    if let Some(meshctl) = manifests.get("meshctl") {
        let named = dependencies(meshctl, &EVERY_KIND);
        let servers = ["axum", "hyper", "quinn", "redb"].into_iter().filter(|name| named.contains(*name));
        breaches.extend(servers.map(|name| format!("meshctl/Cargo.toml: depends on {name}")));
    }
    if locked_below(house, "meshctl").contains("quinn") {
        breaches.push("quinn is below meshctl".into());
    }
    for path in ["Cargo.toml", "proto/Cargo.toml", "meshctl/Cargo.toml"] {
        let line = house.text(path).lines().find(|line| line.starts_with("tonic")).unwrap_or_default();
        let server_half = ["transport", "server", "router"].into_iter();
        let found = server_half.filter(|feature| line.contains(&format!("\"{feature}\"")));
        breaches.extend(found.map(|feature| format!("{path}: tonic has the feature `{feature}`")));
    }
    breaches
}

fn one_crypto_library(house: &House) -> Vec<String> {
    let banned = ["aws-lc-rs", "aws-lc-sys", "aws-lc-fips-sys", "openssl", "openssl-sys", "native-tls"];
    let locked = |name: &&&str| house.text("Cargo.lock").contains(&format!("name = \"{name}\"\n"));
    banned.iter().filter(locked).map(|name| format!("Cargo.lock: {name}")).collect()
}

fn no_host_of_a_registry(house: &House) -> Vec<String> {
    // Written in halves, or this file would break its own rule.
    let banned: [(String, &str); 8] = [
        (["crates", ".io"].concat(), "a registry's host"),
        (["pypi", ".org"].concat(), "a registry's host"),
        (["python", "hosted.org"].concat(), "a registry's host"),
        (["npmjs", "."].concat(), "a registry's host"),
        (["yarnpkg", ".com"].concat(), "a registry's host"),
        (["proxy.", "golang.org"].concat(), "a registry's host"),
        (["\"resolved\"", ": \"http"].concat(), "a registry's address in a lock file"),
        (["..", "/shared"].concat(), "a folder outside the repository"),
    ];
    // The one name that Cargo itself writes for its default registry.
    let default = ["\"registry+https://github.com/rust-lang/crates", ".io-index\""].concat();
    let mut breaches = Vec::new();
    for file in &house.files {
        let text = file.text.replace(&default, "");
        if file.path == "Cargo.lock" && text.contains("source = \"registry+") {
            breaches.push("Cargo.lock: a registry that is not Cargo's default".into());
        }
        for (number, line) in text.lines().enumerate() {
            let found = banned.iter().filter(|(host, _)| line.contains(host.as_str()));
            breaches
                .extend(found.map(|(host, what)| format!("{}:{}: `{host}`, {what}", file.path, number + 1)));
        }
    }
    breaches
}

/// The texts between quotes or backticks that look like one of our metrics' names.
fn metric_names(text: &str, quote: char) -> BTreeSet<String> {
    let between =
        text.split(quote).filter(|part| part.starts_with("modemesh_") && part.len() > "modemesh_".len());
    let is_name =
        |part: &&str| part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    between.filter(is_name).map(str::to_owned).collect()
}

/// The names in one source file as a scraper sees them, without the `_total` of counters: the library appends
/// the unit that `register_with_unit` is given.
fn registered(text: &str) -> BTreeSet<String> {
    let mut names = metric_names(text, '"');
    for statement in text.split("register_with_unit(").skip(1).filter_map(|rest| rest.split(';').next()) {
        let (name, unit) = (statement.split('"').nth(1), statement.split("Unit::").nth(1));
        if let (Some(name), Some(unit)) = (name, unit) {
            let word = unit.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            names.remove(name);
            names.insert(format!("{name}_{}", word.to_lowercase()));
        }
    }
    names
}

/// `docs/metrics.md` has names as they are scraped, where a counter ends in `_total`; the code registers it
/// without.
fn metrics_are_written_down(house: &House) -> Vec<String> {
    let in_source =
        |file: &&File| file.path.contains("/src/") && !file.path.starts_with("integration-tests/");
    let code = house.written().filter(in_source).flat_map(|file| registered(&file.text));
    let bare = |name: String| name.strip_suffix("_total").map_or(name.clone(), str::to_owned);
    let code: BTreeSet<String> = code.map(bare).collect();
    let docs: BTreeSet<String> =
        metric_names(house.text("docs/metrics.md"), '`').into_iter().map(bare).collect();
    let missing = code.difference(&docs).map(|name| format!("{name}: in the code, not in docs/metrics.md"));
    missing
        .chain(docs.difference(&code).map(|name| format!("{name}: in docs/metrics.md, not in the code")))
        .collect()
}

/// Every dotted key with a value in `table`; the names under a key of `patterns` that ends in `*` become `*`.
fn keys_of(table: &dyn TableLike, prefix: &str, patterns: &[&str], found: &mut BTreeSet<String>) {
    for (name, item) in table.iter() {
        let join = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        let star = join("*");
        let is_map = patterns.iter().any(|key| *key == star || key.starts_with(&format!("{star}.")));
        let path = if is_map { star } else { join(name) };
        let is_leaf = patterns.contains(&path.as_str());
        match item.as_table_like() {
            Some(inner) if !is_leaf => keys_of(inner, &path, patterns, found),
            _ => drop(found.insert(path)),
        }
    }
}

fn undocumented(what: &str, keys: &[&str], text: &str) -> Vec<String> {
    let document: DocumentMut = match switched_on(text).parse() {
        Ok(document) => document,
        Err(error) => return vec![format!("configs/{what} with its comments switched on: {error}")],
    };
    let mut written = BTreeSet::new();
    keys_of(document.as_table(), "", keys, &mut written);
    let keys: BTreeSet<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    let missing = keys.difference(&written).map(|key| format!("{key}: not in configs/{what}"));
    missing
        .chain(written.difference(&keys).map(|key| format!("{key}: in configs/{what}, not in KEYS")))
        .collect()
}

fn configuration_is_written_down(house: &House) -> Vec<String> {
    let mut breaches = undocumented("router.toml", router::config::KEYS, house.text("configs/router.toml"));
    breaches.extend(undocumented("agent.toml", node_agent::config::KEYS, house.text("configs/agent.toml")));
    breaches
}

// ── the real tree ────────────────────────────────────────────────────────────────────────────────────────

#[track_caller]
fn upheld(rule: fn(&House) -> Vec<String>, advice: &str) {
    let breaches = rule(&House::read());
    assert!(breaches.is_empty(), "\n  {}\n\nwhat to do: {advice}\n", breaches.join("\n  "));
}

#[test]
fn no_file_has_more_than_700_lines() {
    upheld(files_are_short, "split the file by what its parts are for: foo.rs + foo/part.rs");
}

#[test]
fn every_file_says_what_it_is() {
    upheld(files_say_what_they_are, "let the first line be `//! what this is, what it is not, who calls it`");
}

#[test]
fn every_main_is_a_table_of_contents() {
    upheld(mains_are_short, "main parses, loads, builds, runs and ends: move the rest into the library");
}

#[test]
fn every_name_is_honest() {
    upheld(names_are_honest, "name it after what it does; foo.rs + foo/bar.rs instead of foo/mod.rs");
}

#[test]
fn every_exception_to_a_lint_has_a_reason() {
    upheld(
        attributes_give_reasons,
        "write #[expect(lint, reason = \"…\")]: it complains when it is no longer needed",
    );
}

#[test]
fn the_core_depends_on_serde_and_thiserror_only() {
    upheld(the_core_depends_on_two_crates, "let the caller do it and hand the result to the core");
}

#[test]
fn the_core_reads_no_file_environment_or_socket() {
    upheld(the_core_does_no_io, "take the bytes, the value or the time as an argument");
}

#[test]
fn arrows_between_crates_point_one_way() {
    upheld(
        arrows_point_one_way,
        "move what both need down into core (rules), proto (wire) or daemon (process)",
    );
}

#[test]
fn meshctl_links_no_server() {
    upheld(
        meshctl_serves_nothing,
        "meshctl only asks: server features of tonic belong into router/Cargo.toml, servers into no crate below meshctl",
    );
}

#[test]
fn ring_is_the_only_crypto_library() {
    upheld(
        one_crypto_library,
        "switch off the default features of the crate that brings it (`cargo tree -i NAME`)",
    );
}

#[test]
fn no_file_names_a_registry_or_a_folder_outside() {
    upheld(
        no_host_of_a_registry,
        "name packages, not the place they come from; copy what is needed into the tree",
    );
}

#[test]
fn every_metric_is_in_the_docs_and_every_documented_metric_exists() {
    upheld(metrics_are_written_down, "add or remove the row in docs/metrics.md");
}

#[test]
fn every_configuration_key_is_in_configs_and_vice_versa() {
    upheld(
        configuration_is_written_down,
        "write `#key = default` with one line of prose into configs/, or fix KEYS",
    );
}
