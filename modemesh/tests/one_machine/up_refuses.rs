//! What `modemesh up` says when it cannot start: one clear error, a hint, and the documented exit code.

use super::program::{Program, data_with_engine};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_refused(output: &Output, code: i32, parts: &[&str]) {
    let text = said(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(text.matches("error: ").count(), 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
}

/// A folder with links to the programs that are needed and nothing else.
fn path_without_python(folder: &Path) -> String {
    for program in ["sh", "env"] {
        symlink(format!("/usr/bin/{program}"), folder.join(program)).expect("a link");
    }
    folder.display().to_string()
}

#[test]
fn a_busy_port_names_the_process_that_holds_it() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = holder.local_addr().expect("bound").to_string();
    let mine = format!("(pid {})", std::process::id());
    for flag in ["--clients", "--agents", "--operators"] {
        let output = Program::run(data.path(), &["up", "--yes", flag, &address]);
        assert_refused(&output, 1, &[&address, &mine, "hint: ", flag]);
    }
}

#[test]
fn a_busy_udp_port_is_told_apart() {
    let data = tempfile::tempdir().expect("a temporary folder");
    // A port that is free for UDP may be another test's for TCP, and that is told first.
    let (holder, address) = std::iter::repeat_with(|| {
        let holder = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = holder.local_addr().expect("bound");
        (holder, address)
    })
    .find(|(_, address)| TcpListener::bind(address).is_ok())
    .expect("without an end");
    let address = address.to_string();
    let output = Program::run(data.path(), &["up", "--yes", "--agents", &address]);
    drop(holder);
    assert_refused(&output, 1, &["(UDP)", &format!("(pid {})", std::process::id())]);
}

#[test]
fn a_data_folder_that_cannot_be_written_is_named() {
    let parent = tempfile::tempdir().expect("a temporary folder");
    let file = parent.path().join("file");
    std::fs::write(&file, b"").expect("writing");
    let output = Program::run(&file.join("data"), &["up", "--yes"]);
    assert_refused(&output, 1, &["file/data", "hint: ", "--data"]);
}

#[test]
fn without_python_the_hint_says_what_to_install() {
    let (data, bin) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let path = path_without_python(bin.path());
    let output = Program::run_with(data.path(), &["up", "--yes"], &[("PATH", &path)]);
    assert_refused(&output, 1, &["python3", "hint: ", "apt install python3"]);
}

#[test]
fn without_a_network_the_cause_says_so() {
    let data = tempfile::tempdir().expect("a folder");
    // Nobody listens on the discard port: every connection is refused at once.
    let nowhere = [
        ("PIP_INDEX_URL", "http://127.0.0.1:9/simple"),
        ("PIP_CONFIG_FILE", "/dev/null"),
        ("PIP_NO_CACHE_DIR", "1"),
        ("PIP_RETRIES", "0"),
        ("PIP_FIND_LINKS", ""),
        ("PIP_EXTRA_INDEX_URL", ""),
    ];
    let output = Program::run_with(data.path(), &["up", "--yes"], &nowhere);
    assert_refused(&output, 1, &["cannot fetch xllamacpp", "hint: check the network"]);
}

#[test]
fn without_a_yes_and_without_a_terminal_nothing_is_installed() {
    let data = tempfile::tempdir().expect("a folder");
    let output = Program::run(data.path(), &["up"]);
    assert_refused(&output, 1, &["needs a yes", "modemesh up --yes"]);
    assert!(!data.path().join("engine/venv").exists());
}

#[test]
fn a_bad_configuration_lists_every_problem_with_its_line() {
    let Some(data) = data_with_engine() else { return };
    let text = "[listen]\nclient = \"x\"\n[modes.code]\nmodel = [\"x\"]\n";
    std::fs::write(data.path().join("router.toml"), text).expect("writing");
    let output = Program::run(data.path(), &["up", "--yes"]);
    assert_refused(
        &output,
        78,
        &[
            "router.toml:2",
            "did you mean `listen.clients`?",
            "router.toml:4",
            "did you mean `modes.code.models`?",
        ],
    );
}

#[test]
fn a_second_mesh_in_the_same_folder_is_refused() {
    let Some(data) = data_with_engine() else { return };
    let mut first = Program::start(data.path(), &["up", "--yes"]);
    first.until("Ctrl-C stops everything");
    let output = Program::run(data.path(), &["up", "--yes"]);
    assert_refused(&output, 1, &["in use by another router"]);
    assert_eq!(first.interrupt(), Some(0));
}
