//! The SDKs that editors and scripts use, of exactly these versions, against what `modemesh up` starts: a router
//! and a node in one process with real engines. The scripts beside this file do the asking.

mod phrases;
#[path = "../../../core/tests/gguf/writer.rs"]
#[expect(dead_code, reason = "the core's tests use the rest")]
mod writer;

use integration_tests::engine_fixture::{embedding_model, engine_folder, real_engine, skip, trained_model};
use integration_tests::installed::{node_sdk, python_sdk};
use integration_tests::soon;
use mesh_daemon::config_layers::KeyLines;
use modemesh::engines::bundled_section;
use modemesh::up::{self, Mesh};
use node_agent::config::{AgentConfig, Discover, EngineSection};
use node_agent::engine::bundled::BundledEngine;
use node_agent::truth::TruthConfig;
use phrases::phrase_model;
use router::config::{RouterConfig, check};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// The model that calls tools, where the engine's own words for every dialect reach the client.
const NATIVE: &str = "phrases";
/// The same behind what tells only OpenAI's dialect, so that the mesh translates all others.
const TRANSLATED: &str = "phrases-translated";

/// A script asks up to a hundred times, while engines of other tests share two cores with it.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(4 * 60);

/// What `modemesh up` starts, on free ports.
struct Up {
    mesh: Mesh,
    stop: CancellationToken,
    /// Given to the script.
    models: &'static [&'static str],
    /// An engine that no agent started.
    _engine: Option<Child>,
    _data: TempDir,
}

impl Up {
    async fn start() -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let engines = [
            ("chat".into(), bundled_section(trained_model(), "tiny-trained", false)),
            ("embed".into(), bundled_section(embedding_model(), "tiny-embed", true)),
        ];
        Self::start_with(data, engines.into(), &[], None).await
    }

    /// With a model that calls tools, behind two kinds of engines.
    async fn with_tools() -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let model = phrase_model(data.path());
        let (engine, url) = engine_of_its_own(&model, TRANSLATED).await;
        let started = EngineSection { context: Some(8192), ..bundled_section(model, NATIVE, false) };
        let plain = EngineSection { kind: Some("openai".into()), url: Some(url), ..EngineSection::default() };
        let engines = [("native".into(), started), ("plain".into(), plain)];
        Self::start_with(data, engines.into(), &[NATIVE, TRANSLATED], Some(engine)).await
    }

    async fn start_with(
        data: TempDir,
        engines: BTreeMap<String, EngineSection>,
        models: &'static [&'static str],
        engine_beside: Option<Child>,
    ) -> Self {
        let engine = std::path::absolute(engine_folder()).expect("a path");
        std::os::unix::fs::symlink(engine, data.path().join("engine")).expect("a link in our folder");
        let mut config = RouterConfig::default();
        for listen in [&mut config.listen.clients, &mut config.listen.agents, &mut config.listen.operators] {
            "127.0.0.1:0".clone_into(listen);
        }
        let settings = check(config, "a test".into(), &KeyLines::default()).expect("it makes sense");
        let agent = AgentConfig {
            discover: Discover { enabled: false, ..Discover::default() },
            engines,
            // Whoever has only a few phrases answers no examiner.
            truth: TruthConfig { enabled: models.is_empty(), ..TruthConfig::default() },
            // Without the model that the engine's folder has of its own.
            model_folder: Some(data.path().join("models")),
            ..AgentConfig::default()
        };
        let stop = CancellationToken::new();
        let mesh = up::start(data.path(), settings, agent, true, |_: &str| (), stop.clone()).await;
        let mesh = mesh.expect("the mesh starts");
        let mut snapshots = mesh.router.fleet.snapshots();
        let both = snapshots.wait_for(|snapshot| {
            let engines = snapshot.view.machines.iter().flat_map(|machine| &machine.engines);
            let loaded = engines.flat_map(|engine| &engine.replicas);
            loaded.filter(|replica| replica.state == mesh_core::machine::ReplicaState::Loaded).count() == 2
        });
        drop(soon("both models are loaded", both).await.expect("the router lives"));
        Self { mesh, stop, models, _engine: engine_beside, _data: data }
    }

    /// Runs a script against the mesh and ends it; the script's failure is the test's.
    async fn drive(self, program: &Path, script: &Path) {
        let mut command = Command::new(program);
        command.arg(script).arg(format!("{}/v1", self.mesh.router.client_url())).arg(&self.mesh.api_key);
        command.args(self.models);
        command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1").stdin(Stdio::null());
        let output = tokio::time::timeout(SCRIPT_PATIENCE, command.kill_on_drop(true).output()).await;
        let output = output.unwrap_or_else(|_| panic!("{} did not end in time", script.display()));
        let output = output.expect("it starts");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
        assert!(said(&output.stdout).contains("passed"));
        self.stop.cancel();
        soon("the end", self.mesh.stopped()).await;
    }
}

/// A llama.cpp server with one model, and where it answers. It ends when the child is dropped.
async fn engine_of_its_own(model: &Path, alias: &str) -> (Child, String) {
    let bundled = BundledEngine::find(&engine_folder()).expect("installed before");
    let mut command = Command::new(bundled.python());
    command.arg(bundled.script()).arg(model).args(["--alias", alias, "--context", "8192", "--slots", "2"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut engine = command.spawn().expect("Python starts");
    let mut lines = BufReader::new(engine.stdout.take().expect("piped")).lines();
    loop {
        let line = soon("the engine listens", lines.next_line()).await.expect("its output can be read");
        let line = line.expect("it listens before it ends");
        if let Some(url) = line.strip_prefix("LISTENING ") {
            return (engine, url.to_owned());
        }
    }
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openai_sdk_for_python_drives_what_up_starts() {
    if !real_engine().await {
        return;
    }
    match python_sdk().await {
        Ok(python) => Up::start().await.drive(&python, &script("openai_sdk.py")).await,
        Err(missing) => skip(&missing),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_anthropic_sdk_for_python_drives_what_up_starts() {
    if !real_engine().await {
        return;
    }
    match python_sdk().await {
        Ok(python) => Up::start().await.drive(&python, &script("anthropic_sdk.py")).await,
        Err(missing) => skip(&missing),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ollama_sdk_for_python_drives_what_up_starts() {
    if !real_engine().await {
        return;
    }
    match python_sdk().await {
        Ok(python) => Up::start().await.drive(&python, &script("ollama_sdk.py")).await,
        Err(missing) => skip(&missing),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ai_sdk_for_javascript_drives_what_up_starts() {
    if !real_engine().await {
        return;
    }
    match node_sdk("ai_sdk.mjs").await {
        // A module finds its packages beside itself.
        Ok(copy) => Up::start().await.drive(Path::new("node"), &copy).await,
        Err(missing) => skip(&missing),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_are_called_through_the_openai_sdk_for_python() {
    tools_are_called("openai_tools.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_are_called_through_the_anthropic_sdk_for_python() {
    tools_are_called("anthropic_tools.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_are_called_through_the_ollama_sdk_for_python() {
    tools_are_called("ollama_tools.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_are_called_through_the_ai_sdk_for_javascript_at_every_door() {
    if !real_engine().await {
        return;
    }
    match node_sdk("ai_tools.mjs").await {
        Ok(copy) => Up::with_tools().await.drive(Path::new("node"), &copy).await,
        Err(missing) => skip(&missing),
    }
}

async fn tools_are_called(name: &str) {
    if !real_engine().await {
        return;
    }
    match python_sdk().await {
        Ok(python) => Up::with_tools().await.drive(&python, &script(name)).await,
        Err(missing) => skip(&missing),
    }
}
