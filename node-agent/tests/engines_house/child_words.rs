//! What an engine of our own says of the memory it takes, and how its end by lack of memory is told.

use crate::house::{House, bundled, child, engine_folder, model, processes_of, replica};
use mesh_core::gguf::{self, Outcome};
use mesh_core::machine::ReplicaState;
use mesh_core::memory::{CacheType, GpuLayers, Options, Shape, footprint};
use node_agent::engine::child::{Child, ChildSpec};
use node_agent::engine::child_log::BufferKind;
use node_agent::engine::{Program, Sizing};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn the_real_engine_takes_what_was_predicted() {
    let Some(engine) = bundled().await else { return };
    let file = std::fs::read(engine.model()).expect("installed");
    let Ok(Outcome::Complete(header)) = gguf::read(&file, Some(file.len() as u64)) else {
        panic!("the tiny model has a header")
    };
    let shape = Shape::from_header(&header).expect("a model");
    for (context, slots, cache) in [(512, 1, CacheType::F16), (1024, 2, CacheType::Q8_0)] {
        let sizing = Sizing { cache, gpu_layers: Some(0), ..Sizing::default_for(context, slots) };
        let predicted = footprint(&shape, &Options { gpu_layers: GpuLayers::None, ..sizing.options() });
        let spec = ChildSpec {
            cards: Vec::new(),
            program: Program::Bundled,
            engine_folder: engine_folder(),
            model: engine.model(),
            alias: model("words"),
            sizing,
            projector: None,
            embedding: false,
        };
        let child = Child::start(&spec).await.expect("it starts");
        let listening = tokio::time::timeout(Duration::from_secs(60), child.listening()).await;
        listening.expect("it loads").expect("an address");
        let said = child.said();
        // The log has two decimals of a MiB.
        let near = |said: u64, predicted: u64| said.abs_diff(predicted) <= (1 << 20) / 200 + 1;
        assert!(
            near(said.bytes(BufferKind::Model, true), predicted.host.weights.0),
            "{said:?} {predicted:?}"
        );
        assert!(near(said.bytes(BufferKind::Kv, true), predicted.host.kv.0), "{said:?} {predicted:?}");
        let compute = said.bytes(BufferKind::Compute, true);
        assert!(compute > 0 && compute <= predicted.host.compute.0, "{said:?} {predicted:?}");
        assert_eq!(said.bytes(BufferKind::Model, false), 0, "this wheel has no GPU backend");
        child.stop().await;
    }
}

#[tokio::test]
async fn an_engine_is_among_the_first_to_go_when_memory_runs_out() {
    let Some(engine) = bundled().await else { return };
    let house = House::with(vec![child(Program::Bundled, engine.model(), "first-to-go")]);
    house.until_replica("first-to-go", "loaded", |r| r.state == ReplicaState::Loaded).await;
    let pid = processes_of("first-to-go")[0];
    let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("alive");
    assert_eq!(score.trim(), "500");
    house.stopped().await;
}

/// A simulator: no test machine has a GPU whose memory could be filled.
#[tokio::test]
async fn an_engine_that_ends_for_lack_of_memory_says_so_with_what_helps() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("llama-server");
    let script = "#!/bin/sh\ncase $1 in --help|--version) exit 1;; esac\n\
        echo '0.00.100.001 I load_tensors: CUDA0 model buffer size = 9000.00 MiB' >&2\n\
        echo '0.00.100.002 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9000.00 MiB on device 0: \
        cudaMalloc failed: out of memory' >&2\nexit 1\n";
    std::fs::write(&program, script).expect("a file");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let file = folder.path().join("large.gguf");
    std::fs::write(&file, "weights").expect("a file");
    let house = House::with(vec![child(Program::Path(program), file, "large")]);
    house.until_replica("large", "failed", |r| matches!(r.state, ReplicaState::Failed(_))).await;
    let state = replica(&house.handle.engines().borrow(), "large").expect("shown").state.clone();
    let ReplicaState::Failed(why) = state else { panic!("{state:?}") };
    assert!(why.starts_with("out of memory: exited with code 1: "), "{why}");
    assert!(why.contains("allocating 9000.00 MiB") && why.contains("load it with less context"), "{why}");
    house.stopped().await;
}

#[tokio::test]
async fn the_bundled_engine_says_nothing_about_requests() {
    let Some(engine) = bundled().await else { return };
    let mut process = tokio::process::Command::new(engine.python())
        .arg("-I")
        .arg(engine.script())
        .arg(engine.model())
        .args(["--alias", "quiet", "--context", "512"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
    let line = lines.next_line().await.expect("readable").expect("a line");
    let url = line.strip_prefix("LISTENING ").expect("says where").to_owned();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
    let question =
        json!({"messages": [{"role": "user", "content": "a-canary-in-a-prompt"}], "max_tokens": 3});
    let answer = client.post(format!("{url}/v1/chat/completions")).json(&question).send().await;
    assert!(answer.expect("answered").status().is_success());
    let refused =
        client.post(format!("{url}/v1/chat/completions")).body("{a-canary-in-a-prompt").send().await;
    assert_eq!(refused.expect("answered").status(), 400);
    drop(process.stdin.take());
    let said = process.wait_with_output().await.expect("ends");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    let (loading, serving) = said.split_once("listening on").expect("it was heard while it loaded");
    assert!(loading.contains("model buffer size") && loading.contains("KV buffer size"), "{loading}");
    assert!(!said.contains("a-canary-in-a-prompt"), "{serving}");
    assert!(!serving.contains("launch_slot_") && !serving.contains("print_timing"), "{serving}");
}
