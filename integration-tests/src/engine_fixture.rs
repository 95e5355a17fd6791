//! The real engine for tests: llama.cpp's own server with the tiny models of this repository.

use node_agent::engine::bundled::BundledEngine;
use std::path::{Path, PathBuf};

/// Where cargo builds: engines and SDKs for tests lie there too.
#[must_use]
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}

/// The engine's folder, shared by all tests of the workspace. The installation has a lock of its own.
#[must_use]
pub fn engine_folder() -> PathBuf {
    target_folder().join("test-engine")
}

/// What to do without something that a test needs: fail where `CI=true`, else say so loudly and skip.
///
/// # Panics
/// With `CI=true`.
#[expect(clippy::print_stderr, reason = "a test that skips must say so")]
pub fn skip(missing: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "missing: {missing}");
    eprintln!("SKIPPED: missing: {missing}");
}

/// Installs the bundled engine once. False where that is impossible; the test must then return.
///
/// # Panics
/// With `CI=true` where that is impossible.
pub async fn real_engine() -> bool {
    let installed = tokio::task::spawn_blocking(|| BundledEngine::install(&engine_folder(), |_| ()));
    match installed.await.expect("the installer does not panic") {
        Ok(_) => true,
        Err(error) => {
            skip(&format!("the bundled engine: {error}; {}", error.hint()));
            false
        }
    }
}

fn repository(path: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    file.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Trained on text: answers look like English. 1.4 M parameters, vocabulary 1,024, trained context 2,048.
#[must_use]
pub fn trained_model() -> PathBuf {
    repository("node-agent/assets/models/tiny-trained-1.4M-q8_0.gguf")
}

/// Random weights of the same size: answers are noise.
#[must_use]
pub fn random_model() -> PathBuf {
    repository("modemesh/assets/models/tiny-random-1.4M-q8_0.gguf")
}

/// Random weights, smaller: good enough for embeddings.
#[must_use]
pub fn embedding_model() -> PathBuf {
    repository("modemesh/assets/models/tiny-random-0.2M-f16.gguf")
}

/// A copy of the trained model in `folder` that claims to be trained for 65,536 tokens, so that one answer can
/// go on for a minute.
///
/// # Panics
/// When the model is not what it was.
#[must_use]
pub fn long_winded_model(folder: &Path) -> PathBuf {
    const KEY: &[u8] = b"llama.context_length";
    let mut bytes = std::fs::read(trained_model()).expect("a model of this repository");
    let key = bytes.windows(KEY.len()).position(|window| window == KEY).expect("a llama model");
    // The key is followed by the value's type (4 = u32) and the value.
    let value = key + KEY.len() + 4;
    assert_eq!(bytes[value..value + 4], 2048_u32.to_le_bytes(), "the trained context");
    bytes[value..value + 4].copy_from_slice(&65_536_u32.to_le_bytes());
    let file = folder.join("long-winded.gguf");
    std::fs::write(&file, bytes).expect("a folder of the test");
    file
}
