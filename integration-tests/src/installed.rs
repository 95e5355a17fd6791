//! Clients' SDKs and Python packages, installed once below the target folder, however many tests start at once.

use crate::engine_fixture::target_folder;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PYTHON: &str = "openai==3.52.0 anthropic==2.11.0 ollama==0.6.3";
const PARQUET: &str = "pyarrow==26.0.1";
const PACKAGES: &str = include_str!("../tests/sdk/package.json");

/// The Python that has the SDKs.
///
/// # Errors
/// What is missing.
pub async fn python_sdk() -> Result<PathBuf, String> {
    python("test-sdk-py", PYTHON).await
}

/// A Python that reads and writes parquet files.
///
/// # Errors
/// What is missing.
pub async fn python_parquet() -> Result<PathBuf, String> {
    python("test-parquet-py", PARQUET).await
}

/// A Python with these packages.
async fn python(name: &'static str, packages: &'static str) -> Result<PathBuf, String> {
    blocking(move || {
        let folder = once(name, packages, |folder| {
            let venv = folder.join("venv");
            run(Command::new("python3").args(["-I", "-m", "venv", "--clear"]).arg(&venv))?;
            let pip = ["-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--quiet"];
            run(Command::new(venv.join("bin/python")).args(pip).args(packages.split(' ')))
        })?;
        Ok(folder.join("venv/bin/python"))
    })
    .await
}

/// A copy of the script beside the packages it needs.
///
/// # Errors
/// What is missing.
pub async fn node_sdk(script: &'static str) -> Result<PathBuf, String> {
    blocking(move || {
        let folder = once("test-sdk-npm", PACKAGES, |folder| {
            fs::write(folder.join("package.json"), PACKAGES).map_err(|error| error.to_string())?;
            run(Command::new("node")
                .args(["-e", "process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)"]))
            .map_err(|error| format!("Node.js 18 or newer: {error}"))?;
            // Without a lock file: it would name the registry of whoever wrote it.
            let npm = ["install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel", "error"];
            run(Command::new("npm").args(npm).current_dir(folder))
        })?;
        let copy = folder.join(script);
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(script);
        fs::copy(ours, &copy).map_err(|error| error.to_string())?;
        Ok(copy)
    })
    .await
}

async fn blocking(
    install: impl FnOnce() -> Result<PathBuf, String> + Send + 'static,
) -> Result<PathBuf, String> {
    tokio::task::spawn_blocking(install).await.expect("the installer does not panic")
}

/// Runs `install` in the folder `name` unless that was done before for the same `version`.
fn once(
    name: &str,
    version: &str,
    install: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let text = |error: std::io::Error| error.to_string();
    fs::create_dir_all(target_folder().join(name)).map_err(text)?;
    let folder = target_folder().join(name).canonicalize().map_err(text)?;
    let lock = File::create(folder.join("lock")).map_err(text)?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error.to_string())?;
    let marker = folder.join("installed");
    if fs::read_to_string(&marker).is_ok_and(|installed| installed == version) {
        return Ok(folder);
    }
    install(&folder)?;
    fs::write(marker, version).map_err(text)?;
    Ok(folder)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", said.trim())) }
}
