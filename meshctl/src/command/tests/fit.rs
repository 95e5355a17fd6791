//! `model fit` with headers from the mesh, from files and from web servers.

use super::*;
use mesh_core::fit::Offload;
use mesh_core::gguf::{self, Outcome};
use mesh_core::machine::{Capacity, Hardware, Launch, Reading, Report, Vitals};
use mesh_core::memory::{Confidence, Footprint, Parts, Shape};
use mesh_core::profile::{LoadKey, LoadOptions, Measured, MeasuredBy, Profile};
use mesh_core::units::Bytes;
use mesh_proto::fleet_wire::report_to_wire;
use std::path::PathBuf;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const GIB: u64 = 1 << 30;

fn tiny() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../node-agent/assets/models/tiny-trained-1.4M-q8_0.gguf"
    ))
}

/// A router that knows two machines with so much free RAM and the tiny model.
pub(super) fn mesh(ram: [u64; 2]) -> Scripted {
    let header = match gguf::read(&std::fs::read(tiny()).expect("a model"), None).expect("a model") {
        Outcome::Complete(header) => header,
        Outcome::NeedMore { at_least } => panic!("{at_least} bytes of a whole file"),
    };
    let shape = Shape::from_header(&header).expect("a language model");
    let machine = |name: &str, free: u64| {
        let ram = Capacity { total: Bytes(2 * free), available: Bytes(free) };
        let vitals =
            Vitals { ram: Reading::Known(ram), gpus: Reading::Known(vec![]), ..Vitals::unknown("a test") };
        let launch = Launch { program: "bundled".into(), uses_gpu: false, context: 16_384, slots: 1 };
        let hardware = Hardware {
            hostname: name.into(),
            cpu: Reading::unknown("a test"),
            cpu_threads: 1,
            system: Reading::unknown("a test"),
            agent_version: "0".into(),
            launch: Some(launch),
        };
        let report = Report { hardware: Some(hardware), vitals: Some(vitals), ..Report::default() };
        MachineReport {
            node: name.into(),
            state: "ready".into(),
            report: Some(report_to_wire(&report)),
            ..MachineReport::default()
        }
    };
    Scripted {
        machines: vec![machine("one", ram[0]), machine("two", ram[1])],
        shape: Some(serde_json::to_string(&shape).expect("JSON")),
        ..scripted("available", "loaded")
    }
}

async fn kind_of(line: &str, service: Scripted) -> Kind {
    typed(line, service).await.expect_err(line).kind
}

#[tokio::test(start_paused = true)]
async fn a_model_that_fits_somewhere_ends_well_and_one_that_fits_nowhere_with_its_own_code() {
    let line = "meshctl model fit tiny";
    assert_eq!(typed(line, mesh([64 << 20, 8 * GIB])).await, Ok(()), "one of two is enough");
    let failure = typed(line, mesh([64 << 20, 64 << 20])).await.expect_err("nowhere");
    assert_eq!(failure.kind, Kind::DoesNotFit);
    assert_eq!(failure.what, "tiny fits on no machine of the mesh now");
    let long = "meshctl model fit tiny --context 100000000 --slots 8";
    assert_eq!(kind_of(long, mesh([8 * GIB, 8 * GIB])).await, Kind::DoesNotFit);
}

/// A profile of a machine on which five loads took so many bytes of RAM more than predicted.
fn profile(residual: u64) -> String {
    let mut profile = Profile::default();
    for context in 1..=5 {
        let options =
            LoadOptions { context, slots: 1, cache: "f16".into(), ubatch: 512, offload: Offload::None };
        let load = LoadKey { model: "m".into(), build: "b".into(), device: "ram".into(), options };
        let (device, host) = (Parts::default(), Parts::default());
        let predicted = Footprint { device, host, confidence: Confidence::Exact, notes: vec![] };
        let (device, host, source) = (Bytes(0), Bytes(residual), MeasuredBy::Process);
        profile.keep_footprint(load, predicted, Some(Measured { device, host, source }), 1);
    }
    serde_json::to_string(&profile).expect("JSON")
}

/// The mesh of two machines with 4 GiB of free RAM, after a change to what some of them report.
fn after(change: impl Fn(&mut mesh_proto::v1::Report), machines: &[usize]) -> Scripted {
    let mut mesh = mesh([4 * GIB, 4 * GIB]);
    for &machine in machines {
        change(mesh.machines[machine].report.get_or_insert_default());
    }
    mesh
}

#[tokio::test(start_paused = true)]
async fn what_loads_took_more_than_predicted_must_stay_free_on_that_machine() {
    let line = "meshctl model fit tiny";
    let learned =
        |residual| move |report: &mut mesh_proto::v1::Report| report.profile_json = Some(profile(residual));
    assert_eq!(kind_of(line, after(learned(4 * GIB), &[0, 1])).await, Kind::DoesNotFit);
    assert_eq!(typed(line, after(learned(4 * GIB), &[0])).await, Ok(()), "the other has learned nothing");
    assert_eq!(typed(line, after(learned(GIB), &[0, 1])).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn the_projector_of_a_stored_model_takes_memory_too() {
    let line = "meshctl model fit tiny";
    let stored = |model: &'static str| {
        move |report: &mut mesh_proto::v1::Report| {
            let projector = Some(4 * GIB);
            let stored = StoredModel { model: model.into(), projector, ..StoredModel::default() };
            report.store.get_or_insert_default().models = vec![stored];
        }
    };
    assert_eq!(kind_of(line, after(stored("tiny"), &[0, 1])).await, Kind::DoesNotFit);
    assert_eq!(typed(line, after(stored("tiny"), &[0])).await, Ok(()), "the other has none");
    assert_eq!(typed(line, after(stored("other"), &[0, 1])).await, Ok(()), "another model's");
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_an_engine_to_load_with_holds_nothing() {
    let mut bare = mesh([8 * GIB, 8 * GIB]);
    for machine in &mut bare.machines {
        machine.report.as_mut().expect("one").hardware.as_mut().expect("some").launch = None;
    }
    assert_eq!(kind_of("meshctl model fit tiny", bare).await, Kind::DoesNotFit);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_said_with_what_to_do() {
    let unknown = Scripted { shape: None, ..mesh([GIB, GIB]) };
    let failure = typed("meshctl model fit other", unknown).await.expect_err("nobody has it");
    assert_eq!(failure.kind, Kind::NotFound);
    assert!(failure.hints.iter().any(|hint| hint.contains("meshctl model list")), "{failure:?}");
    assert_eq!(kind_of("meshctl model fit /nowhere/x.gguf", mesh([GIB, GIB])).await, Kind::NotFound);
    assert_eq!(kind_of("meshctl model fit /", mesh([GIB, GIB])).await, Kind::Failed);
    let nobody = Scripted { machines: vec![], ..mesh([GIB, GIB]) };
    assert_eq!(kind_of("meshctl model fit tiny", nobody).await, Kind::NotFound);
    let away = |mut machine: MachineReport| {
        machine.state = "offline".into();
        machine
    };
    let known = mesh([8 * GIB, 8 * GIB]);
    let asleep = Scripted { machines: known.machines.into_iter().map(away).collect(), ..mesh([GIB, GIB]) };
    assert_eq!(kind_of("meshctl model fit tiny", asleep).await, Kind::DoesNotFit);
}

#[tokio::test(start_paused = true)]
async fn a_file_here_is_read_and_one_that_is_no_model_refused() {
    let line = format!("meshctl model fit {}", tiny().display());
    assert_eq!(typed(&line, mesh([8 * GIB, GIB])).await, Ok(()));
    let folder = tempfile::tempdir().expect("a folder");
    let whole = std::fs::read(tiny()).expect("a model");
    for (name, bytes) in
        [("text.gguf", b"no model at all".as_slice()), ("cut.gguf", &whole[..700]), ("empty.gguf", b"")]
    {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).expect("room");
        let line = format!("meshctl model fit {}", file.display());
        let failure = typed(&line, mesh([8 * GIB, GIB])).await.expect_err(name);
        assert_eq!(failure.kind, Kind::Failed, "{name}: {failure:?}");
        assert!(failure.what.contains(name) && failure.cause.is_some(), "{failure:?}");
    }
}

/// A web server with one file, which it serves by ranges or only whole; and the ranges it was asked for.
async fn server(file: Vec<u8>, ranges: bool) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/some/model.gguf?secret=1", listener.local_addr().expect("bound"));
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let (log, file) = (asked.clone(), Arc::new(file));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (log, file) = (log.clone(), file.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
                let range = head.lines().find_map(|line| line.strip_prefix("range: bytes=")).unwrap_or("");
                log.lock().expect("no panic holds it").push(range.to_owned());
                let (from, to) = range.split_once('-').expect("a range is asked for");
                let (from, to): (usize, usize) =
                    (from.parse().expect("a number"), to.parse().expect("a number"));
                let (status, body, told) = if ranges && from < file.len() {
                    let to = to.min(file.len() - 1);
                    let told = format!("content-range: bytes {from}-{to}/{}\r\n", file.len());
                    ("206 Partial Content", &file[from..=to], told)
                } else if ranges {
                    ("416 Range Not Satisfiable", &file[..0], String::new())
                } else {
                    ("200 OK", &file[..], String::new())
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{told}connection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(body).await?;
                stream.shutdown().await
            });
        }
    });
    (url, asked)
}

/// The tiny model with so many bytes more in its metadata, that its header is longer than the first read.
fn padded(more: usize) -> Vec<u8> {
    let file = std::fs::read(tiny()).expect("a model");
    let (head, rest) = file.split_at(24);
    let mut out = head[..16].to_vec();
    let entries = u64::from_le_bytes(head[16..24].try_into().expect("eight bytes"));
    out.extend((entries + 1).to_le_bytes());
    out.extend(7_u64.to_le_bytes());
    out.extend(b"padding");
    out.extend(8_u32.to_le_bytes());
    out.extend((more as u64).to_le_bytes());
    out.resize(out.len() + more, b'x');
    out.extend(rest);
    out.resize(out.len() + 64, 0);
    out
}

#[tokio::test(start_paused = true)]
async fn a_header_on_a_web_server_is_read_in_few_pieces() {
    for ranges in [true, false] {
        let file = padded(3 << 20);
        let (url, asked) = server(file, ranges).await;
        let line = format!("meshctl model fit {url}");
        assert_eq!(typed(&line, mesh([8 * GIB, GIB])).await, Ok(()), "with ranges: {ranges}");
        let asked = asked.lock().expect("no panic holds it").clone();
        assert_eq!(asked[0], "0-1048575");
        assert!((2..=4).contains(&asked.len()), "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_web_server_without_a_model_is_told_without_its_secrets() {
    let (page, _) = server(b"<!doctype html><title>Sign in</title>".to_vec(), false).await;
    let (cut, _) = server(padded(3 << 20)[..2 << 20].to_vec(), true).await;
    for url in [page, cut, "http://127.0.0.1:1/x.gguf?secret=1".to_owned()] {
        let failure = typed(&format!("meshctl model fit {url}"), mesh([8 * GIB, GIB])).await.expect_err(&url);
        assert_eq!(failure.kind, Kind::Failed, "{failure:?}");
        assert!(!format!("{failure:?}").contains("secret"), "{failure:?}");
    }
}
