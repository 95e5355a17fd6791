//! What `deploy/` ships is held to its promises: systemd accepts the units without a word, their exposure is
//! at most 2.0 with every drop-in, users and folders fit together, and the network policy opens the three
//! doors and nothing between agents.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const UNITS: [&str; 2] = ["mesh-router", "mesh-agent"];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").join("deploy")
}

fn read(path: &str) -> String {
    let path = deploy().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// Each unit alone and with each of its drop-ins: (a name, the text with a program that exists here).
fn units() -> Vec<(String, String)> {
    let mut units = Vec::new();
    for unit in UNITS {
        let text: Vec<String> = read(&format!("{unit}.service"))
            .lines()
            .map(|line| match line.split_once(&format!("=/usr/local/bin/{unit} ")) {
                Some((key, arguments)) => format!("{key}=/bin/true {arguments}"),
                None => line.to_owned(),
            })
            .collect();
        let text = text.join("\n");
        let folder = deploy().join(format!("{unit}.service.d"));
        for drop_in in std::fs::read_dir(folder).into_iter().flatten() {
            let drop_in = drop_in.expect("the folder is readable").path();
            let name = format!("{unit}-{}", drop_in.file_stem().expect("a file name").to_string_lossy());
            let more = std::fs::read_to_string(&drop_in).expect("a drop-in is text");
            units.push((name, format!("{text}\n{more}")));
        }
        units.push((unit.to_owned(), text));
    }
    units
}

/// Whether systemd-analyze is here. In CI it must be; elsewhere its absence is said aloud.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn systemd_analyze_is_here() -> bool {
    if Command::new("systemd-analyze").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI needs systemd-analyze: apt install systemd");
    eprintln!(
        "SKIPPED: systemd-analyze is not installed (Debian: apt install systemd); the units are unchecked"
    );
    false
}

/// What systemd-analyze says against a unit: its error output, or its last line when it ends with an error.
fn complaints(arguments: &[&str], name: &str, text: &str) -> Option<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(format!("{name}.service"));
    std::fs::write(&path, text).expect("the folder is ours");
    let output =
        Command::new("systemd-analyze").args(arguments).arg(&path).output().expect("it was here before");
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let verdict = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
    if stderr.is_empty() && output.status.success() { None } else { Some(format!("{stderr}{verdict}")) }
}

#[test]
fn systemd_accepts_every_unit_without_a_word() {
    if !systemd_analyze_is_here() {
        return;
    }
    for (name, text) in units() {
        assert_eq!(complaints(&["verify", "--man=no"], &name, &text), None, "{name}");
    }
    let (name, text) = units().pop().expect("there are units");
    let broken = text.replace("NoNewPrivileges=", "NoNewPrivilges=");
    assert!(complaints(&["verify", "--man=no"], &name, &broken).is_some(), "a misspelt setting must be seen");
}

#[test]
fn the_exposure_of_every_unit_is_at_most_two() {
    if !systemd_analyze_is_here() {
        return;
    }
    let security = ["security", "--offline=true", "--threshold=20"];
    for (name, text) in units() {
        assert_eq!(complaints(&security, &name, &text), None, "{name}");
    }
    let open = "[Service]\nExecStart=/bin/true\n";
    assert!(complaints(&security, "open", open).is_some(), "a unit without any protection must be refused");
}

/// The value of `key` in a unit file.
fn value<'t>(unit: &'t str, key: &str) -> &'t str {
    let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("the unit has no {key}="))
}

#[test]
fn every_daemon_has_its_own_user_and_a_private_folder() {
    let (sysusers, tmpfiles) = (read("sysusers.d/modemesh.conf"), read("tmpfiles.d/modemesh.conf"));
    let has = |text: &str, words: &[&str]| {
        text.lines()
            .any(|line| line.split_whitespace().zip(words).filter(|(a, b)| a == *b).count() == words.len())
    };
    let mut users = BTreeSet::new();
    for unit in UNITS {
        let text = read(&format!("{unit}.service"));
        let (user, state) = (value(&text, "User"), value(&text, "StateDirectory"));
        assert!(has(&sysusers, &["u", user, "-"]), "sysusers.d makes no user {user}");
        let folder = format!("/var/lib/{state}");
        assert!(has(&tmpfiles, &["d", &folder, "0700", user, user]), "tmpfiles.d makes no private {folder}");
        assert_eq!(value(&text, "StateDirectoryMode"), "0700", "{unit}");
        assert!(
            value(&text, "ExecStart").contains(&format!("--data {folder}")),
            "{unit} must use its own folder"
        );
        assert!(users.insert(user.to_owned()), "{user} is the user of two daemons");
    }
}

/// JSON out of HuJSON: comments and trailing commas become nothing, texts stay as they are.
fn plain_json(hujson: &str) -> String {
    let mut out = String::new();
    let mut rest = hujson;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            });
            let length = end.map_or(rest.len(), |end| end + 2);
            out.push_str(&rest[..length]);
            length
        } else {
            if matches!(c, ']' | '}') {
                let kept = out.trim_end().trim_end_matches(',').len();
                out.truncate(kept);
            }
            out.push(c);
            c.len_utf8()
        };
        rest = &rest[length..];
    }
    out
}

/// One grant as (source, destination, port), each combination once.
fn doors(policy: &Value) -> BTreeSet<(String, String, String)> {
    let list = |grant: &Value, key: &str| -> Vec<String> {
        let words = grant[key].as_array().unwrap_or_else(|| panic!("a grant without `{key}`: {grant}"));
        words.iter().map(|word| word.as_str().expect("grants hold texts").to_owned()).collect()
    };
    let mut doors = BTreeSet::new();
    for grant in policy["grants"].as_array().expect("a policy without grants allows everything") {
        for source in list(grant, "src") {
            for destination in list(grant, "dst") {
                for port in list(grant, "ip") {
                    doors.insert((source.clone(), destination.clone(), port));
                }
            }
        }
    }
    doors
}

#[test]
fn the_network_policy_opens_three_doors_and_none_between_agents() {
    let policy: Value = serde_json::from_str(&plain_json(&read("headscale/policy.hujson"))).expect("HuJSON");
    assert!(policy.get("acls").is_none(), "two lists of rules would be one too many");
    let router = "tag:mesh-router";
    let expected = [
        ("autogroup:member", router, "tcp:7400"),
        ("group:mesh-admins", router, "tcp:7402"),
        ("tag:mesh-node", router, "tcp:7401"),
        ("tag:mesh-node", router, "udp:7401"),
    ];
    let expected = expected.map(|(from, to, port)| (from.to_owned(), to.to_owned(), port.to_owned()));
    assert_eq!(doors(&policy), BTreeSet::from(expected));
    for (source, destination, port) in doors(&policy) {
        assert!(destination == router, "{source} → {destination} {port}: only the router is dialled");
    }
    for tag in ["tag:mesh-router", "tag:mesh-node"] {
        assert!(policy["tagOwners"][tag].is_array(), "nobody may give the tag {tag}");
    }
}

#[test]
fn comments_and_trailing_commas_are_no_part_of_a_policy() {
    let text = "{ // \"x\": 1,\n \"a\": [\"// \\\" no, comment\", /* , */ 2, ], }";
    let parsed: Value = serde_json::from_str(&plain_json(text)).expect("plain JSON");
    assert_eq!(parsed, serde_json::json!({ "a": ["// \" no, comment", 2] }));
}
