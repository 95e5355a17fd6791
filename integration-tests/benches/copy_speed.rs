//! How fast a model file goes from one machine of the mesh to another, beside what the same disk and the same
//! loopback can do without a mesh, and what requests notice of it.
//!
//! ```text
//! cargo bench -p integration-tests --bench copy_speed [-- --mib 1024 --runs 3]
//! ```
//! Router, both agents and the HTTP server are processes or threads of one machine and share its processors, so
//! the mesh's figures are what is left when all ends of it compute at once.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use integration_tests::client::Client;
use integration_tests::scripted_engine::{Script, ScriptedEngine};
use integration_tests::test_mesh::{TestMesh, machine};
use integration_tests::test_node::{EngineSpec, be_an_agent_if_asked};
use mesh_core::id::ModelId;
use mesh_core::machine::{Digest, Directive, PullSource, PullWish};
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::Instant;

/// Longer than any of it takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// Requests of the row without a copy.
const REQUESTS: usize = 300;

fn main() {
    be_an_agent_if_asked();
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test --benches` only wants to know whether it starts.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let number = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(measure(number("--mib", 1024), number("--runs", 3)));
}

async fn measure(mib: usize, runs: usize) {
    let outer = tempfile::tempdir_in(
        std::env::var_os("COPY_SPEED_DIR").map_or_else(std::env::temp_dir, PathBuf::from),
    )
    .expect("a temporary folder");
    let (from, to) = (outer.path().join("from"), outer.path().join("to"));
    for folder in [&from, &to] {
        std::fs::create_dir(folder).expect("a folder");
    }
    let source = from.join("big.gguf");
    write_gguf(&source, mib);
    let mut rows = Vec::new();
    let target = outer.path().join("copy");
    let ready = || drop(std::fs::remove_file(&target));
    rows.push(
        row("cp", mib, runs, async || {
            ready();
            run(Command::new("cp").arg("--reflink=never").arg(&source).arg(&target)).await
        })
        .await,
    );
    rows.push(
        row("dd, with fsync at the end", mib, runs, async || {
            ready();
            let [input, output] =
                [("if", &source), ("of", &target)].map(|(key, path)| format!("{key}={}", path.display()));
            run(Command::new("dd").args([&input, &output, "bs=1M", "conv=fsync", "status=none"])).await
        })
        .await,
    );
    let url = http_server(source.clone()).await;
    rows.push(
        row("plain HTTP (curl, no digest, no fsync)", mib, runs, async || {
            ready();
            run(Command::new("curl").args(["-s", "--noproxy", "*", "-o"]).arg(&target).arg(&url)).await
        })
        .await,
    );
    ready();

    let mesh = TestMesh::automatic().await;
    let engine = ScriptedEngine::start("tiny").await;
    engine.always(Script::chat("yes"));
    let settings = |folder: &Path| format!("model_folder = {:?}\n", folder.display().to_string());
    let holder = mesh.node_process_with("holder", &[EngineSpec::scripted(&engine)], &settings(&from)).await;
    let puller = mesh.node_process_with("puller", &[], &settings(&to)).await;
    let digest = known_digest(&mesh).await;
    let client = mesh.client();
    let idle = latencies(&client, None).await;

    let copied = to.join("copy.gguf");
    let wish = |source: PullSource| PullWish {
        model: ModelId::new("copy").expect("a good name"),
        source,
        digest: Some(digest.clone()),
        size: None,
    };
    for (what, source) in [
        ("download by an agent (digest, fsync)", PullSource::Url(url)),
        ("copy from agent to agent (digest, fsync)", PullSource::Mesh),
    ] {
        rows.push(
            row(what, mib, runs, async || {
                gone(&mesh, &copied).await;
                fetch(&mesh, wish(source.clone()), &copied).await
            })
            .await,
        );
    }
    // Once more, with requests to the machine that sends.
    gone(&mesh, &copied).await;
    mesh.router()
        .fleet
        .direct(&puller.name, Directive::Pull(wish(PullSource::Mesh)))
        .await
        .expect("connected");
    let busy = latencies(&client, Some(&copied)).await;
    until_there(&copied).await;

    println!("\n| {mib} MiB, median of {runs} | MB/s |\n|---|---|");
    for (what, speed) in rows {
        println!("| {what} | {speed:.0} |");
    }
    println!("\n| a short request through the mesh | p50 | p99 |\n|---|---|---|");
    for (what, times) in [("nothing else", idle), ("while its machine sends a copy", busy)] {
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!("| {what} ({} requests) | {:.1} ms | {:.1} ms |", times.len(), at(0.5), at(0.99));
    }
    drop(holder);
}

/// A name and MB/s: the median of `runs`.
async fn row<F: Future<Output = Duration>>(
    what: &'static str,
    mib: usize,
    runs: usize,
    mut once: impl FnMut() -> F,
) -> (&'static str, f64) {
    let mut times = Vec::new();
    for _ in 0..runs {
        times.push(once().await);
    }
    times.sort();
    let speed = (mib << 20) as f64 / 1e6 / times[times.len() / 2].as_secs_f64();
    println!("{what}: {speed:.0} MB/s, {times:.1?}");
    (what, speed)
}

/// Pseudo-random, so that nothing on the way can shrink it.
fn write_gguf(path: &Path, mib: usize) {
    let floats = (mib << 20) / 4 - 64;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).expect("a file"));
    let mut head = b"GGUF\x03\0\0\0".to_vec();
    head.extend(1_u64.to_le_bytes());
    head.extend(0_u64.to_le_bytes());
    head.extend(1_u64.to_le_bytes());
    head.extend(b"t");
    head.extend(1_u32.to_le_bytes());
    head.extend((floats as u64).to_le_bytes());
    head.extend(0_u32.to_le_bytes());
    head.extend(0_u64.to_le_bytes());
    head.resize(head.len().next_multiple_of(32), 0);
    out.write_all(&head).expect("room");
    let mut state = 1_u64;
    for _ in 0..floats / 2 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.write_all(&(state ^ (state >> 29)).to_le_bytes()).expect("room");
    }
    let file = out.into_inner().expect("room");
    file.sync_all().expect("room");
    // What was just written is not hashed yet: somebody may still be copying it.
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).expect("our file");
}

async fn run(command: &mut Command) -> Duration {
    let begin = Instant::now();
    assert!(command.status().await.expect("it is installed").success(), "{command:?}");
    begin.elapsed()
}

/// Serves one file to everybody.
async fn http_server(file: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("just bound"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut file = tokio::fs::File::open(&file).await.expect("there");
            tokio::spawn(async move {
                let mut asked = [0; 4096];
                let length = file.metadata().await?.len();
                // Whatever it is, it gets the file.
                let _length = stream.read(&mut asked).await?;
                let head =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                let mut piece = vec![0; 1 << 20];
                loop {
                    match file.read(&mut piece).await? {
                        0 => return stream.shutdown().await,
                        read => stream.write_all(&piece[..read]).await?,
                    }
                }
            });
        }
    });
    url
}

/// Waits until the holder has computed its file's digest.
async fn known_digest(mesh: &TestMesh) -> Digest {
    let mut snapshots = mesh.router().fleet.snapshots();
    let waiting = async {
        loop {
            let seen = snapshots.borrow_and_update().clone();
            let store = seen.view.machine(&machine("holder")).map(|machine| machine.store.clone());
            let digest = store.and_then(|store| store.models.first()?.digest.clone());
            if let Some(digest) = digest {
                return digest;
            }
            snapshots.changed().await.expect("the router lives");
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("a digest in time")
}

/// Fetches and waits for the file.
async fn fetch(mesh: &TestMesh, wish: PullWish, copied: &Path) -> Duration {
    let begin = Instant::now();
    let sent = mesh.router().fleet.direct(&machine("puller"), Directive::Pull(wish)).await;
    sent.expect("connected");
    until_there(copied).await;
    begin.elapsed()
}

async fn until_there(file: &Path) {
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    let waiting = async {
        while !file.exists() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it arrives in time");
}

/// Deletes what an earlier run left, and waits until the store knows.
async fn gone(mesh: &TestMesh, copied: &Path) {
    let model = ModelId::new("copy").expect("a good name");
    let mut snapshots = mesh.router().fleet.snapshots();
    let knows = |wanted: bool| {
        move |snapshot: &std::sync::Arc<router::fleet_keeper::Snapshot>| {
            let puller = snapshot.view.machine(&machine("puller"));
            puller.is_some_and(|puller| {
                puller.store.models.iter().any(|one| one.model.as_str() == "copy") == wanted
            })
        }
    };
    if copied.exists() {
        drop(snapshots.wait_for(knows(true)).await.expect("the router lives"));
        mesh.router().fleet.direct(&machine("puller"), Directive::Delete(model)).await.expect("connected");
    }
    drop(snapshots.wait_for(knows(false)).await.expect("the router lives"));
}

/// Times of one short request after the other, sorted: [`REQUESTS`] of them, or until there is a file.
async fn latencies(client: &Client, until: Option<&Path>) -> Vec<Duration> {
    let body = json!({"model": "tiny", "messages": [{"role": "user", "content": "Yes?"}], "max_tokens": 1});
    let mut times = Vec::new();
    while until.map_or(times.len() < REQUESTS, |file| !file.exists()) {
        let begin = Instant::now();
        assert_eq!(client.post("/v1/chat/completions", &body).await.status, 200);
        times.push(begin.elapsed());
    }
    times.sort();
    times
}
