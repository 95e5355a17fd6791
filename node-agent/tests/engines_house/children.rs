//! Engines that the agent starts: their whole life, and their end with the agent's.

use crate::house::{
    House, PATIENCE, bundled, child, engine_folder, model, processes_of, processes_under, replica, until_gone,
};
use mesh_core::machine::{Directive, Engine, EngineState, ReplicaState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node_agent::engine::Program;
use node_agent::engine::bundled::BundledEngine;
use node_agent::engine::discover::{Finding, identify};
use node_agent::supervisor::{Supervisor, SupervisorConfig};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio_util::sync::CancellationToken;

fn is_loaded(replica: &mesh_core::machine::Replica) -> bool {
    replica.state == ReplicaState::Loaded
}

#[tokio::test]
async fn a_child_is_loaded_with_its_context_and_slots_and_answers_only_with_its_key() {
    let Some(engine) = bundled().await else { return };
    let house = House::with(vec![child(Program::Bundled, engine.model(), "life")]);
    assert!(replica(&house.handle.engines().borrow(), "life").is_none_or(|r| !is_loaded(r)));
    let seen = house.until_replica("life", "loaded", is_loaded).await;
    assert_eq!((seen.context, seen.slots, seen.busy), (Some(512), Some(2), Some(0)));
    assert_eq!((seen.trained_context, seen.parameters), (Some(2048), Some(1_377_600)));
    assert_eq!((seen.abilities.chat, seen.abilities.embed), (Some(true), Some(false)));
    assert!(house.handle.engines().borrow()[0].supervised);

    let lease = house.handle.lease(&model("life")).await.expect("loaded");
    assert_eq!((&*lease.engine, &*lease.upstream_model), ("child-life", "life"));
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
    let url = format!("{}/v1/chat/completions", lease.base_url);
    let question = json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3});
    let answer =
        client.post(&url).bearer_auth(lease.api_key.as_deref().expect("a key")).json(&question).send();
    let answer: serde_json::Value = answer.await.expect("answered").json().await.expect("JSON");
    assert_eq!(answer["model"], "life");
    let refused = client.post(&url).json(&question).send().await.expect("answered");
    assert_eq!(refused.status(), 401);
    // A scout that stumbles over a child does not take it for an engine to use.
    assert!(matches!(identify(&lease.base_url).await, Finding::Unusable(..)));

    // The key is in the child's environment, readable by its owner, and not in its arguments.
    let arguments = std::fs::read(format!("/proc/{}/cmdline", processes_of("life")[0])).expect("alive");
    let key = lease.api_key.clone().expect("a key");
    assert!(!String::from_utf8_lossy(&arguments).contains(&*key));
    house.stopped().await;
    assert!(processes_of("life").is_empty());
}

#[tokio::test]
async fn an_embedding_child_says_so_and_embeds() {
    let Some(engine) = bundled().await else { return };
    let mut config = child(Program::Bundled, engine.model(), "embed");
    if let node_agent::engine::EngineConfig::Child { embedding, .. } = &mut config {
        *embedding = true;
    }
    let house = House::with(vec![config]);
    let seen = house.until_replica("embed", "loaded", is_loaded).await;
    assert_eq!((seen.abilities.chat, seen.abilities.embed), (Some(false), Some(true)));
    let lease = house.handle.lease(&model("embed")).await.expect("loaded");
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
    let request = client.post(format!("{}/v1/embeddings", lease.base_url));
    let request = request.bearer_auth(lease.api_key.as_deref().expect("a key"));
    let answer = request.json(&json!({"input": "hello"})).send().await.expect("answered");
    let answer: serde_json::Value = answer.json().await.expect("JSON");
    assert_eq!(answer["data"][0]["embedding"].as_array().map(Vec::len), Some(192));
    house.stopped().await;
}

#[tokio::test]
async fn a_child_killed_with_9_is_reported_and_started_again() {
    let Some(engine) = bundled().await else { return };
    let house = House::with(vec![child(Program::Bundled, engine.model(), "killed")]);
    house.until_replica("killed", "loaded", is_loaded).await;
    let before = processes_of("killed");
    kill(Pid::from_raw(i32::try_from(before[0]).expect("a pid")), Signal::SIGKILL).expect("alive");
    let failed =
        house.until_replica("killed", "failed", |r| matches!(r.state, ReplicaState::Failed(_))).await;
    assert_eq!(failed.state, ReplicaState::Failed("was killed by SIGKILL".into()));
    assert_eq!(house.handle.lease(&model("killed")).await.expect_err("down").kind(), "engine_down");
    house.until_replica("killed", "loaded again", is_loaded).await;
    assert_ne!(processes_of("killed"), before);
    house.stopped().await;
    assert!(processes_of("killed").is_empty());
}

#[tokio::test]
async fn a_child_that_is_silent_is_down_with_what_will_become_of_it_and_up_when_it_answers() {
    let Some(engine) = bundled().await else { return };
    let house = House::with(vec![child(Program::Bundled, engine.model(), "silent")]);
    house.until_replica("silent", "loaded", is_loaded).await;
    let before = processes_of("silent");
    let pid = Pid::from_raw(i32::try_from(before[0]).expect("a pid"));
    kill(pid, Signal::SIGSTOP).expect("alive");
    let is_told = |engine: &Engine| matches!(&engine.state, EngineState::Down(why) if why.ends_with(", and is started again after 60 s of that"));
    house.until("down", |engines| engines.iter().any(is_told)).await;
    assert_eq!(house.handle.lease(&model("silent")).await.expect_err("silent").kind(), "engine_down");
    kill(pid, Signal::SIGCONT).expect("alive");
    house.until("up", |engines| engines.iter().any(|engine| engine.state == EngineState::Up)).await;
    assert!(house.handle.lease(&model("silent")).await.is_ok());
    assert_eq!(processes_of("silent"), before, "the same process");
    house.stopped().await;
}

#[tokio::test]
async fn a_bad_or_missing_model_file_fails_with_its_reason_and_harms_nobody_else() {
    let Some(engine) = bundled().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let bad = folder.path().join("bad.gguf");
    std::fs::write(&bad, "this is no model").expect("a file");
    let missing = folder.path().join("missing.gguf");
    let house = House::with(vec![
        child(Program::Bundled, bad, "bad"),
        child(Program::Bundled, missing, "missing"),
        child(Program::Bundled, engine.model(), "good"),
    ]);
    let failed = |r: &mesh_core::machine::Replica| matches!(r.state, ReplicaState::Failed(_));
    let reason = format!("{:?}", house.until_replica("bad", "failed", failed).await.state);
    assert!(reason.contains("exited with code 1") && reason.contains("bad.gguf"), "{reason}");
    let reason = format!("{:?}", house.until_replica("missing", "failed", failed).await.state);
    assert!(reason.contains("cannot open the model file") && reason.contains("missing.gguf"), "{reason}");
    house.until_replica("good", "loaded", is_loaded).await;
    house.stopped().await;
}

#[tokio::test]
async fn unload_waits_for_the_lease_and_load_brings_the_model_back() {
    let Some(engine) = bundled().await else { return };
    let house = House::with(vec![child(Program::Bundled, engine.model(), "leased")]);
    house.until_replica("leased", "loaded", is_loaded).await;
    let lease = house.handle.lease(&model("leased")).await.expect("loaded");
    house.handle.direct(Directive::Unload(model("leased")));
    house.until_replica("leased", "draining", |r| r.state == ReplicaState::Available).await;
    assert_eq!(house.handle.lease(&model("leased")).await.expect_err("draining").kind(), "not_loaded");
    assert_eq!(processes_of("leased").len(), 1, "the request is still being answered");

    // A load that comes meanwhile calls the unload off.
    house.handle.direct(Directive::Load(model("leased").into()));
    house.until_replica("leased", "loaded still", is_loaded).await;
    house.handle.direct(Directive::Unload(model("leased")));
    house.until_replica("leased", "draining", |r| r.state == ReplicaState::Available).await;
    let pids = processes_of("leased");
    drop(lease);
    until_gone(&pids).await;

    house.handle.direct(Directive::Load(model("leased").into()));
    house.until_replica("leased", "loaded again", is_loaded).await;
    house.stopped().await;
}

#[tokio::test]
async fn a_program_by_path_is_started_heard_and_stopped() {
    let Some(engine) = bundled().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let program = llama_server_of(&engine, folder.path());
    let house = House::with(vec![child(Program::Path(program), engine.model(), "by-path")]);
    let seen = house.until_replica("by-path", "loaded", is_loaded).await;
    assert_eq!((seen.context, seen.slots), (Some(512), Some(2)));
    house.stopped().await;
    assert!(processes_of("by-path").is_empty());

    let nothing = child(Program::Path("/nonexistent/llama-server".into()), engine.model(), "no-program");
    let house = House::with(vec![nothing]);
    house.until("down", |engines| engines.iter().any(|e| matches!(e.state, EngineState::Down(_)))).await;
    house.stopped().await;
}

#[tokio::test]
async fn a_child_that_ignores_sigterm_is_killed() {
    let Some(engine) = bundled().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let program = llama_server_of(&engine, folder.path());
    let stubborn = folder.path().join("stubborn");
    let text = std::fs::read_to_string(&program).expect("just written");
    std::fs::write(&stubborn, text.replace("SIG_DFL", "SIG_IGN")).expect("a file");
    std::fs::set_permissions(&stubborn, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let house = House::with(vec![child(Program::Path(stubborn), engine.model(), "stubborn")]);
    house.until_replica("stubborn", "loaded", is_loaded).await;
    house.stopped().await;
    assert!(processes_of("stubborn").is_empty());
}

#[tokio::test]
async fn the_bundled_script_ends_when_its_stdin_closes_at_any_time() {
    let Some(engine) = bundled().await else { return };
    let ended = tokio::task::spawn_blocking(move || {
        for wait_until_loaded in [true, false] {
            let mut process = Command::new(engine.python())
                .arg("-I")
                .arg(engine.script())
                .arg(engine.model())
                .args(["--alias", "orphan"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("starts");
            if wait_until_loaded {
                let mut line = String::new();
                let stdout = process.stdout.take().expect("piped");
                BufReader::new(stdout).read_line(&mut line).expect("a line");
                assert!(line.starts_with("LISTENING http://127.0.0.1:"), "{line}");
            }
            drop(process.stdin.take());
            process.wait().expect("ends");
        }
    });
    tokio::time::timeout(PATIENCE, ended).await.expect("ends").expect("no panic");
}

/// Tells the test binary to be an agent with one child: the folder of the engine, alias, program or nothing.
const AGENT: &str = "MODEMESH_TEST_AGENT";

fn has_setpriv() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("setpriv").is_file())
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "a test that skips must say so")]
async fn no_child_outlives_an_agent_that_is_killed_with_9() {
    let Some(engine) = bundled().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let program = llama_server_of(&engine, folder.path());
    for (alias, program) in [("dies-bundled", String::new()), ("dies-by-path", program.display().to_string())]
    {
        if !program.is_empty() && !has_setpriv() {
            eprintln!("SKIPPED: no setpriv here, so a program by path outlives the agent");
            continue;
        }
        let mut agent = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "children::an_agent_for_the_test_above", "--ignored", "--nocapture"])
            .env(AGENT, format!("{alias}|{program}"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let stdout = agent.stdout.take().expect("piped");
        let loaded = tokio::task::spawn_blocking(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).any(|line| line.contains("AGENT READY"))
        });
        assert!(tokio::time::timeout(PATIENCE, loaded).await.expect("in time").expect("no panic"));
        let pids = processes_under(agent.id(), alias);
        assert_eq!(pids.len(), 1);
        agent.kill().expect("alive");
        agent.wait().expect("ends");
        until_gone(&pids).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is an agent for another test to kill"]
#[expect(clippy::print_stdout, reason = "tells the other test when to kill")]
async fn an_agent_for_the_test_above() {
    let Ok(order) = std::env::var(AGENT) else { return };
    let (alias, program) = order.split_once('|').expect("alias and program");
    let engine = BundledEngine::find(&engine_folder()).expect("installed by the other test");
    let program = if program.is_empty() { Program::Bundled } else { Program::Path(PathBuf::from(program)) };
    let config = SupervisorConfig {
        engines: vec![child(program, engine.model(), alias)],
        discover: Vec::new(),
        engine_folder: engine_folder(),
        rescan: PATIENCE,
        ..SupervisorConfig::new("/nonexistent".into())
    };
    let handle = Supervisor::start(config, CancellationToken::new());
    let mut engines = handle.engines();
    engines.wait_for(|engines| replica(engines, alias).is_some_and(is_loaded)).await.expect("alive");
    println!("AGENT READY");
    std::future::pending::<()>().await;
}

/// A program that takes llama-server's arguments and says what it says, around the bundled engine: no
/// registry has the binary itself. It watches no stdin, as the real one does not.
fn llama_server_of(engine: &BundledEngine, folder: &Path) -> PathBuf {
    let text = format!(
        r#"#!{} -I
import os, signal, sys, xllamacpp
signal.signal(signal.SIGTERM, signal.SIG_DFL)
given = dict(zip(sys.argv[1:], sys.argv[2:]))
params = xllamacpp.CommonParams()
params.model.path = given["-m"]
params.model_alias = {{given["--alias"]}}
params.hostnames = [given["--host"]]
params.port = int(given["--port"])
params.n_ctx = int(given["-c"])
params.n_parallel = int(given["-np"])
params.endpoint_metrics = "--metrics" in sys.argv
params.endpoint_props = True
params.fit_params = False
params.api_keys = [os.environ["LLAMA_API_KEY"]]
server = xllamacpp.Server(params)
print("main: server is listening on", server.listening_address, "- starting the main loop", file=sys.stderr, flush=True)
while True:
    signal.pause()
"#,
        std::path::absolute(engine.python()).expect("a path").display()
    );
    let program = folder.join("llama-server");
    std::fs::write(&program, text).expect("a file");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    program
}
