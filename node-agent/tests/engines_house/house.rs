//! What the engine tests share: the bundled engine installed once, children found in `/proc`, and waiting for
//! what the supervisor publishes.

use mesh_core::id::ModelId;
use mesh_core::machine::{Engine, Replica};
use node_agent::engine::bundled::BundledEngine;
use node_agent::engine::{EngineConfig, Program};
use node_agent::supervisor::{Supervisor, SupervisorConfig, SupervisorHandle};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longer than any step takes on a busy machine with two cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The engine's folder, shared by all tests of the workspace. The installation has a lock of its own.
pub(crate) fn engine_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("test-engine")
}

/// The bundled engine; `None`, loudly, where it cannot be installed. With `CI=true` that is a failure.
#[expect(clippy::print_stderr, reason = "a test that skips must say so")]
pub(crate) async fn bundled() -> Option<BundledEngine> {
    let installed = tokio::task::spawn_blocking(|| BundledEngine::install(&engine_folder(), |_| ()));
    match installed.await.expect("the installer does not panic") {
        Ok(engine) => Some(engine),
        Err(error) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "no engine: {error}; {}", error.hint());
            eprintln!("SKIPPED: no bundled engine: {error}; {}", error.hint());
            None
        }
    }
}

pub(crate) fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("a good name")
}

pub(crate) fn child(program: Program, file: PathBuf, alias: &str) -> EngineConfig {
    EngineConfig::Child {
        name: format!("child-{alias}"),
        program,
        model: file,
        alias: model(alias),
        context: 512,
        slots: 2,
        embedding: false,
    }
}

/// A supervisor that stops when dropped.
pub(crate) struct House {
    pub(crate) handle: SupervisorHandle,
    stop: DropGuard,
}

impl House {
    /// Only what is configured.
    pub(crate) fn with(engines: Vec<EngineConfig>) -> Self {
        Self::with_places(engines, Vec::new())
    }

    /// What is configured, and what is found at `places`.
    pub(crate) fn with_places(engines: Vec<EngineConfig>, places: Vec<String>) -> Self {
        Self::of(SupervisorConfig {
            engines,
            discover: places,
            rescan: Duration::from_millis(200),
            ..SupervisorConfig::new(engine_folder())
        })
    }

    /// As `config` has it.
    pub(crate) fn of(config: SupervisorConfig) -> Self {
        let stop = CancellationToken::new();
        Self { handle: Supervisor::start(config, stop.clone()), stop: stop.drop_guard() }
    }

    /// Resolves when `wanted` is true of the engines.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&[Engine]) -> bool) -> Arc<Vec<Engine>> {
        let mut watch = self.handle.engines();
        let seen = tokio::time::timeout(PATIENCE, watch.wait_for(|engines| wanted(engines)))
            .await
            .map(|engines| engines.map(|e| Arc::clone(&e)));
        match seen {
            Ok(engines) => engines.expect("the supervisor lives"),
            Err(_) => {
                panic!("not within {PATIENCE:?}: {what}; there is {:#?}", self.handle.engines().borrow())
            }
        }
    }

    /// Resolves when the replica of `name` is as wanted.
    pub(crate) async fn until_replica(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Replica) -> bool,
    ) -> Replica {
        let engines = self.until(what, |engines| replica(engines, name).is_some_and(&wanted)).await;
        replica(&engines, name).expect("just seen").clone()
    }

    /// Stops and resolves when every child is gone.
    pub(crate) async fn stopped(self) {
        drop(self.stop);
        tokio::time::timeout(PATIENCE, self.handle.stopped()).await.expect("the supervisor stops");
    }
}

pub(crate) fn replica<'a>(engines: &'a [Engine], name: &str) -> Option<&'a Replica> {
    engines.iter().flat_map(|engine| &engine.replicas).find(|replica| replica.model.as_str() == name)
}

/// Processes that this one started to serve `alias`.
pub(crate) fn processes_of(alias: &str) -> Vec<u32> {
    processes_under(std::process::id(), alias)
}

/// Processes that `parent` started to serve `alias`: other runs of these tests use the same names.
pub(crate) fn processes_under(parent: u32, alias: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("these tests need Linux").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(command) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let mut words = command.split(|&byte| byte == 0);
        let serves = words.any(|word| word == b"--alias") && words.next() == Some(alias.as_bytes());
        if serves && lives_under(pid) == Some(parent) {
            found.push(pid);
        }
    }
    found
}

/// The parent of a living process.
fn lives_under(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so what follows the last one is read.
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    if fields.next()? == "Z" { None } else { fields.next()?.parse().ok() }
}

/// Resolves when none of these processes lives.
pub(crate) async fn until_gone(pids: &[u32]) {
    let gone = async {
        // /proc tells nobody of an end, so it is asked again.
        while pids.iter().any(|&pid| lives_under(pid).is_some()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap_or_else(|_| panic!("{pids:?} still run"));
}
