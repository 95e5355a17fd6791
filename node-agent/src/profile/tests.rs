//! Tests of the profile's file.

use super::*;
use std::os::unix::fs::PermissionsExt as _;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

async fn kept(handle: ProfileHandle) {
    let stop = CancellationToken::new();
    stop.cancel();
    handle.keep(stop).await;
}

#[tokio::test]
async fn what_was_learned_is_there_after_a_restart_and_only_for_its_owner() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("agent");
    let handle = ProfileHandle::open(&state);
    let mut shown = handle.watch();
    handle.change(|profile, _| profile.hardware.hostname = "strix".into());
    assert!(shown.has_changed().expect("open") && shown.borrow_and_update().contains("strix"));
    handle.change(|profile, _| profile.hardware.hostname = "strix".into());
    assert!(!shown.has_changed().expect("open"), "equal is no change");
    kept(handle).await;
    let mode = fs::metadata(state.join(FILE)).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = ProfileHandle::open(&state);
    assert_eq!(again.read(|profile| profile.hardware.hostname.clone()), "strix");
    assert!(again.read(|profile| profile.updated_at) > 1_600_000_000);
}

#[tokio::test(start_paused = true)]
async fn changes_are_gathered_for_two_seconds_and_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let handle = ProfileHandle::open(folder.path());
    let stop = CancellationToken::new();
    let keeping = tokio::spawn(handle.clone().keep(stop.clone()));
    for name in ["a", "b", "c"] {
        handle.change(|profile, _| profile.hardware.hostname = name.into());
    }
    let file = folder.path().join(FILE);
    tokio::time::sleep(WRITE_AFTER / 2).await;
    assert!(!file.exists());
    // Writing takes real time, which paused time does not wait for.
    tokio::time::sleep(WRITE_AFTER).await;
    stop.cancel();
    keeping.await.expect("no panic");
    assert_eq!(read(&file).expect("readable").map(|p| p.hardware.hostname).as_deref(), Some("c"));
}

#[tokio::test]
async fn broken_and_newer_files_are_kept_aside_and_never_lost() {
    for content in [
        "",
        "{",
        "[]",
        "<html>",
        r#"{"schema": 1}"#,
        r#"{"schema": 99, "of": "the future"}"#,
        &"x".repeat(SIZE_LIMIT + 1),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FILE), content).expect("a file");
        let handle = ProfileHandle::open(folder.path());
        assert_eq!(handle.read(Profile::clone), Profile::default());
        assert_eq!(names(folder.path()), ["profile.kept-1.json"]);
        handle.change(|profile, _| profile.hardware.cpu_threads = 8);
        kept(handle).await;
        let aside = fs::read_to_string(folder.path().join("profile.kept-1.json")).expect("kept");
        assert_eq!(aside, content);
    }
    let newer = tempfile::tempdir().expect("a folder");
    let file = newer.path().join(FILE);
    fs::write(&file, r#"{"schema": 2}"#).expect("a file");
    assert!(matches!(read(&file), Err(ReadError::Newer { schema: 2 })));
}

#[test]
fn kept_files_are_bounded_and_a_folder_in_the_files_place_is_no_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    for _ in 0..KEPT_ASIDE + 3 {
        fs::write(folder.path().join(FILE), "broken").expect("a file");
        drop(ProfileHandle::open(folder.path()));
    }
    assert_eq!(names(folder.path()).len(), KEPT_ASIDE + 1);
    let odd = tempfile::tempdir().expect("a folder");
    fs::create_dir(odd.path().join(FILE)).expect("a folder");
    assert_eq!(ProfileHandle::open(odd.path()).read(Profile::clone), Profile::default());
}

#[tokio::test]
async fn a_change_that_would_make_it_too_long_is_dropped_whole() {
    let handle = ProfileHandle::in_memory();
    handle.change(|profile, _| profile.hardware.hostname = "x".repeat(SIZE_LIMIT));
    assert_eq!(handle.read(Profile::clone), Profile::default());
}

/// Names the folder to a process that shall write until it is killed.
const WRITER: &str = "MODEMESH_TEST_PROFILE_WRITER";

#[tokio::test]
#[ignore = "is a writer for another test to kill"]
#[expect(clippy::print_stdout, reason = "tells the other test when to kill")]
async fn a_writer_for_the_test_below() {
    let Some(folder) = std::env::var_os(WRITER).map(PathBuf::from) else { return };
    let handle = ProfileHandle::open(&folder);
    for round in 0_u32.. {
        handle.change(|profile, _| {
            profile.hardware.cpu_threads = round + 1;
            profile.software.drivers = vec!["a driver".repeat(10); 30];
        });
        handle.write().await.expect("written");
        if round == 3 {
            println!("WRITING");
        }
    }
}

#[test]
fn a_profile_survives_kill_9_in_the_middle_of_writing() {
    use std::io::{BufRead as _, BufReader};
    let folder = tempfile::tempdir().expect("a folder");
    let mut last = 0;
    for round in 0..5_u8 {
        let mut writer = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "profile::tests::a_writer_for_the_test_below", "--ignored", "--nocapture"])
            .env(WRITER, folder.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("starts");
        let stdout = writer.stdout.take().expect("piped");
        assert!(BufReader::new(stdout).lines().map_while(Result::ok).any(|line| line.contains("WRITING")));
        // Somewhere in a write: each takes about a millisecond, and the rounds differ.
        for step in 0..u32::from(round) * 50_000 {
            std::hint::black_box(step);
        }
        writer.kill().expect("alive");
        writer.wait().expect("ends");
        let profile = read(&folder.path().join(FILE)).expect("never broken").expect("there");
        assert!(profile.hardware.cpu_threads >= 4, "{}", profile.hardware.cpu_threads);
        last = profile.hardware.cpu_threads;
    }
    // The next start cleans up what the killed ones left, and has what they had written.
    let handle = ProfileHandle::open(folder.path());
    assert_eq!(handle.read(|profile| profile.hardware.cpu_threads), last);
    assert_eq!(names(folder.path()), [FILE]);
}
