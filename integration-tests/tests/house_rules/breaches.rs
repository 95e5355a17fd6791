//! Small broken trees: each house rule can fail, and says where.

use super::*;

#[track_caller]
fn caught(rule: fn(&House) -> Vec<String>, files: &[(&str, &str)], breaches: &[&str]) {
    assert_eq!(rule(&House::of(files)), breaches);
}

#[test]
fn breaches_of_form_are_caught() {
    let long = "//! x\n".repeat(701);
    let files = [("router/src/a.rs", long.as_str()), ("proto/src/gen/a.rs", &long)];
    caught(files_are_short, &files, &["router/src/a.rs: 701 lines, 700 at most"]);
    caught(mains_are_short, &[("router/src/main.rs", &long)], &["router/src/main.rs: 701 lines, 60 at most"]);
    let files = [("core/src/a.rs", "use x;"), ("core/src/gen/b.rs", ""), ("core/src/c.rs", "//! c")];
    caught(files_say_what_they_are, &files, &["core/src/a.rs: starts without //!"]);
}

#[test]
fn breaches_of_names_are_caught() {
    let files = [
        ("router/src/http/mod.rs", ""),
        ("router/src/http_utils.rs", ""),
        (
            "router/src/a.rs",
            "//!\npub(crate) struct TaskManager;\nstruct Base;\nstruct BaseUrl;\nfn handler() {}\n",
        ),
    ];
    let breaches = [
        "router/src/http/mod.rs: a file or folder called `mod`",
        "router/src/http_utils.rs: a file or folder called `http_utils`",
        "router/src/a.rs:2: `TaskManager`",
        "router/src/a.rs:3: `Base`",
    ];
    caught(names_are_honest, &files, &breaches);
}

#[test]
fn breaches_of_attributes_are_caught() {
    let text = "#![allow(dead_code)]\n#[expect(unused)]\n#[expect(\n    unused,\n    reason = \"r\"\n)]\n  #[cfg_attr(test, allow(x))]\n";
    let breaches =
        ["a/src/a.rs:1: `allow`", "a/src/a.rs:2: `expect` without a reason", "a/src/a.rs:7: `allow`"];
    caught(attributes_give_reasons, &[("a/src/a.rs", text)], &breaches);
}

#[test]
fn breaches_of_arrows_are_caught() {
    let core = "[package]\nname = \"mesh-core\"\n[dependencies]\nserde = \"1\"\nrand = \"0\"\n";
    let lock = "[[package]]\nname = \"mesh-core\"\ndependencies = [\"rand\"]\n[[package]]\nname = \"rand\"\ndependencies = [\"tokio 1.0\"]\n\
                [[package]]\nname = \"meshctl\"\ndependencies = [\"quinn\"]\n[[package]]\nname = \"openssl\"\n";
    let files = [("core/Cargo.toml", core), ("Cargo.lock", lock)];
    let breaches = ["core/Cargo.toml: depends on rand", "tokio is below mesh-core"];
    caught(the_core_depends_on_two_crates, &files, &breaches);
    caught(one_crypto_library, &files, &["Cargo.lock: openssl"]);
    caught(
        the_core_does_no_io,
        &[("core/src/a.rs", "//! std::fs\nuse std::fs;")],
        &["core/src/a.rs:2: std::fs"],
    );

    let router =
        "[package]\nname = \"router\"\n[target.'cfg(unix)'.dev-dependencies]\nnode-agent.workspace = true\n";
    let agent = "[package]\nname = \"node-agent\"\n[dependencies]\nmesh-proto.workspace = true\n";
    let meshctl = "[package]\nname = \"meshctl\"\n[dependencies]\naxum = \"1\"\n";
    let files = [
        ("router/Cargo.toml", router),
        ("node-agent/Cargo.toml", agent),
        ("meshctl/Cargo.toml", meshctl),
        ("new/Cargo.toml", "[package]\nname = \"new\"\n"),
        ("Cargo.lock", lock),
    ];
    let breaches = [
        "new is a new crate: give it a place in this rule and in ARCHITECTURE.md",
        "router depends on node-agent",
    ];
    caught(arrows_point_one_way, &files, &breaches);
    let axum = "meshctl/Cargo.toml: depends on axum";
    caught(meshctl_serves_nothing, &files, &[axum, "quinn is below meshctl"]);
    let root = [("Cargo.toml", "tonic = { features = [\"router\"] }\n"), ("Cargo.lock", lock)];
    let breaches = ["quinn is below meshctl", "Cargo.toml: tonic has the feature `router`"];
    caught(meshctl_serves_nothing, &root, &breaches);
}

#[test]
fn breaches_of_paper_are_caught() {
    let docs = "| `modemesh_a_total` | `modemesh_b` | `modemesh_` |";
    let code =
        "r.register(\"modemesh_a\", a); r.register_with_unit(\"modemesh_c\", \"help\", Unit::Bytes, c);";
    let files = [("docs/metrics.md", docs), ("router/src/metrics.rs", code)];
    let breaches = [
        "modemesh_c_bytes: in the code, not in docs/metrics.md",
        "modemesh_b: in docs/metrics.md, not in the code",
    ];
    caught(metrics_are_written_down, &files, &breaches);

    let text = "# Prose = prose.\n#listen = 1\n# [engines.x]\n#url = \"u\"\nold = 2\n";
    let breaches = ["modes.*.models: not in configs/x.toml", "engines.*.old: in configs/x.toml, not in KEYS"];
    assert_eq!(undocumented("x.toml", &["listen", "engines.*.url", "modes.*.models"], text), breaches);
    assert_eq!(undocumented("x.toml", &[], "#a = 1\n#a = 2\n").len(), 1);

    let host = ["see https://", "crates", ".io\n"].concat();
    assert_eq!(no_host_of_a_registry(&House::of(&[("README.md", &host)])).len(), 1);
    let lock = "[[package]]\nname = \"x\"\nsource = \"registry+https://mirror.example/index\"\n";
    assert_eq!(no_host_of_a_registry(&House::of(&[("Cargo.lock", lock)])).len(), 1);
}
