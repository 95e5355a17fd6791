//! What the doctor says of each fixture machine, and that docs/doctor.md shows it.

use super::{NOW, probe, root, vitals};
use node_agent::doctor::{Finding, Level, Raw, Snapshot, examine, render};
use std::path::Path;

/// (root, heading in docs/doctor.md)
const MACHINES: [(&str, &str); 9] = [
    ("strix-halo-512m", "Strix Halo, 128 GB, carve-out 0.5 GB, GTT limit 96 GiB"),
    ("strix-halo-96g", "Strix Halo, 128 GB, carve-out 96 GB, old kernel, in a container"),
    ("laptop-4070", "Laptop with an RTX 4070, on battery"),
    ("laptop-3050ti", "Laptop with an RTX 3050 Ti, on mains"),
    ("server-5070ti", "Proxmox server with an RTX 5070 Ti"),
    ("beelink", "Mini PC with integrated graphics"),
    ("zfs", "ZFS host with an RX 7900 XTX"),
    ("no-gpu", "Virtual machine without graphics"),
    ("half-missing", "A machine whose files are half missing and half garbage"),
];

fn findings(name: &str) -> Vec<Finding> {
    let probe = probe(name);
    let raw = Raw::read(&root(name), "/srv/models".into());
    examine(&Snapshot { hardware: probe.hardware(), vitals: vitals(&probe, NOW), raw })
}

fn said(name: &str) -> String {
    render(&findings(name)).replace(root(name).to_str().expect("a path in UTF-8"), "")
}

fn one<'a>(findings: &'a [Finding], part: &str) -> &'a Finding {
    let found = findings.iter().find(|finding| finding.found.contains(part));
    found.unwrap_or_else(|| panic!("nothing says `{part}` in:\n{}", render(findings)))
}

#[test]
fn the_doctors_words_are_pinned() {
    for (name, _) in MACHINES {
        insta::assert_snapshot!(format!("doctor_{name}"), said(name));
    }
}

/// `UPDATE_DOCS=1 cargo test -p node-agent --test fixture_machines` writes the page anew.
#[test]
fn the_documentation_shows_what_the_doctor_says() {
    const MARK: &str = "<!-- made by a test from here on -->\n";
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor.md");
    let text = std::fs::read_to_string(&page).expect("docs/doctor.md is there");
    let (written, shown) = text.split_once(MARK).expect("docs/doctor.md has its mark");
    let made: String = MACHINES
        .map(|(name, title)| format!("\n## {title}\n\n`{name}`\n\n```\n{}```\n", said(name)))
        .concat();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, format!("{written}{MARK}{made}")).expect("docs/doctor.md can be written");
    } else {
        assert_eq!(
            shown, made,
            "write it anew: UPDATE_DOCS=1 cargo test -p node-agent --test fixture_machines"
        );
    }
}

#[test]
fn the_kernel_parameter_is_computed_for_the_machine() {
    let findings = findings("strix-halo-512m");
    let limit = one(&findings, "GTT limit 96 GiB of 118 GiB that");
    assert_eq!(limit.level, Level::Info);
    // 118 GiB in pages of 4 KiB.
    assert!(limit.fix[0].contains("ttm.pages_limit=30932992"), "{limit:?}");
}

#[test]
fn a_large_carve_out_and_a_mistyped_parameter_are_warnings_with_their_cure() {
    let findings = findings("strix-halo-96g");
    assert!(one(&findings, "sets 96 GiB aside").fix[0].contains("512 MiB"));
    assert!(one(&findings, "amdgpu.gtt_size=131072 does nothing").cause.contains("ignores it"));
    assert!(one(&findings, "amdgpu.gttsize=117760 is out of date").fix[0].contains("ttm.pages_limit"));
    assert!(one(&findings, "kernel 6.8 is older than 6.10").cause.contains("carve-out alone"));
    assert!(one(&findings, "container's memory limit does not bound").cause.contains("charged to nobody"));
}

#[test]
fn the_worst_comes_first() {
    for (name, _) in MACHINES {
        let levels: Vec<Level> = findings(name).iter().map(|finding| finding.level).collect();
        assert!(levels.is_sorted_by(|a, b| a >= b), "{name}: {levels:?}");
    }
}
