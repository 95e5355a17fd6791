//! The SDKs that editors and scripts use, of exactly these versions, against what `modemesh up` starts: a router
//! and a node in one process with real engines. The scripts beside this file do the asking.

mod installation;

use installation::{node_sdk, python_sdk};
use integration_tests::engine_fixture::{embedding_model, engine_folder, real_engine, skip, trained_model};
use integration_tests::soon;
use mesh_daemon::config_layers::KeyLines;
use modemesh::engines::bundled_section;
use modemesh::up::{self, Mesh};
use node_agent::config::{AgentConfig, Discover};
use router::config::{RouterConfig, check};
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// What `modemesh up` starts, on free ports.
struct Up {
    mesh: Mesh,
    stop: CancellationToken,
    _data: TempDir,
}

impl Up {
    async fn start() -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let engine = std::path::absolute(engine_folder()).expect("a path");
        std::os::unix::fs::symlink(engine, data.path().join("engine")).expect("a link in our folder");
        let mut config = RouterConfig::default();
        for listen in [&mut config.listen.clients, &mut config.listen.agents, &mut config.listen.operators] {
            "127.0.0.1:0".clone_into(listen);
        }
        let settings = check(config, "a test".into(), &KeyLines::default()).expect("it makes sense");
        let agent = AgentConfig {
            discover: Discover { enabled: false, ..Discover::default() },
            engines: [
                ("chat".into(), bundled_section(trained_model(), "tiny-trained", false)),
                ("embed".into(), bundled_section(embedding_model(), "tiny-embed", true)),
            ]
            .into(),
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
        Self { mesh, stop, _data: data }
    }

    /// Runs a script against the mesh and ends it; the script's failure is the test's.
    async fn drive(self, program: &Path, script: &Path) {
        let mut command = tokio::process::Command::new(program);
        command.arg(script).arg(format!("{}/v1", self.mesh.router.client_url())).arg(&self.mesh.api_key);
        command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1").stdin(Stdio::null());
        let output = soon("the script's end", command.kill_on_drop(true).output()).await.expect("it starts");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
        assert!(said(&output.stdout).contains("passed"));
        self.stop.cancel();
        soon("the end", self.mesh.stopped()).await;
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
    match node_sdk().await {
        // A module finds its packages beside itself.
        Ok(copy) => Up::start().await.drive(Path::new("node"), &copy).await,
        Err(missing) => skip(&missing),
    }
}
