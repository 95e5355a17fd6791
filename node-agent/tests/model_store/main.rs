//! The model store against real files and a real HTTP server: each promise about fetching, keeping and deleting
//! is one test. Copies between machines are tested with a whole mesh, in integration-tests.

mod deleting;
mod fetching;
mod hostile;
mod http_server;
mod looking;

use mesh_core::id::ModelId;
use mesh_core::machine::{Digest, PullSource, PullWish, Store, Transfer, TransferState};
use node_agent::model_store::{Pacing, StoreConfig, StoreHandle, StoreWish};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

/// A GGUF file with one tensor of `floats` pseudo-random numbers; `seed` makes files different.
fn gguf(floats: usize, seed: u64) -> Vec<u8> {
    gguf_with(floats, seed, &[("general.architecture", "llama")], &[])
}

fn gguf_with(floats: usize, seed: u64, texts: &[(&str, &str)], numbers: &[(&str, u16)]) -> Vec<u8> {
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    out.extend(b"GGUF");
    out.extend(3_u32.to_le_bytes());
    out.extend(1_u64.to_le_bytes());
    out.extend(((texts.len() + numbers.len()) as u64).to_le_bytes());
    for (key, value) in texts {
        text(&mut out, key);
        out.extend(8_u32.to_le_bytes());
        text(&mut out, value);
    }
    for (key, value) in numbers {
        text(&mut out, key);
        out.extend(2_u32.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    text(&mut out, &format!("blk.{seed}.weight"));
    out.extend(1_u32.to_le_bytes());
    out.extend((floats as u64).to_le_bytes());
    out.extend(0_u32.to_le_bytes());
    out.extend(0_u64.to_le_bytes());
    out.resize(out.len().next_multiple_of(32), 0);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for _ in 0..floats {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend((state as u32).to_le_bytes());
    }
    out
}

fn digest(bytes: &[u8]) -> Digest {
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Digest::new(&digits).expect("64 digits")
}

fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("a good name")
}

fn pull(name: &str, url: &str, digest: Option<Digest>) -> PullWish {
    PullWish { model: model(name), source: PullSource::Url(url.into()), digest, size: None }
}

/// A store in a folder of its own.
struct House {
    folders: TempDir,
    store: StoreHandle,
    stop: CancellationToken,
}

impl House {
    fn start() -> Self {
        Self::with(|_| ())
    }

    fn with(configure: impl FnOnce(&mut StoreConfig)) -> Self {
        Self::in_folders(tempfile::tempdir().expect("a temporary folder"), configure)
    }

    fn in_folders(folders: TempDir, configure: impl FnOnce(&mut StoreConfig)) -> Self {
        let mut config = StoreConfig::new(&folders.path().join("models"), &folders.path().join("state"));
        config.pacing = Pacing {
            scan: Duration::from_millis(50),
            settle: Duration::ZERO,
            first_retry: Duration::from_millis(2),
            longest_retry: Duration::from_millis(10),
            first_within: Duration::from_secs(20),
            report: Duration::from_millis(10),
        };
        configure(&mut config);
        let stop = CancellationToken::new();
        let store = StoreHandle::start(config, stop.clone());
        Self { folders, store, stop }
    }

    fn models(&self) -> PathBuf {
        self.folders.path().join("models")
    }

    fn write(&self, file: &str, bytes: &[u8]) {
        let file = self.models().join(file);
        std::fs::create_dir_all(file.parent().expect("it has one")).expect("a folder");
        std::fs::write(file, bytes).expect("a file");
    }

    fn pull(&self, wish: PullWish) {
        self.store.direct(StoreWish::Pull(wish));
    }

    async fn until(&self, what: &str, wanted: impl Fn(&Store) -> bool) -> Store {
        let mut seen = self.store.watch();
        let found = tokio::time::timeout(PATIENCE, seen.wait_for(|store| wanted(store))).await;
        match found {
            Ok(store) => Store::clone(&store.expect("the store lives")),
            Err(_) => panic!("not in time: {what}; the store is {:#?}", self.store.watch().borrow()),
        }
    }

    /// The transfer of `name` once it is over.
    async fn over(&self, name: &str) -> Transfer {
        let name = model(name);
        let over = |store: &Store| {
            store.transfers.iter().find(|one| one.model == name && one.state.is_over()).cloned()
        };
        let store = self.until(&format!("the end of {name}"), |store| over(store).is_some()).await;
        over(&store).expect("just seen")
    }

    /// Why `name` could not be fetched.
    async fn failure(&self, name: &str) -> String {
        let state = self.over(name).await.state;
        let TransferState::Failed(why) = state else { panic!("it did not fail: {state:?}") };
        why
    }

    /// Fetches `wish` and checks that the store has exactly `file` under its name.
    async fn arrives(&self, wish: PullWish, file: &[u8]) {
        let name = wish.model.clone();
        self.pull(wish);
        // A transfer of the same name may have failed before.
        self.until(&format!("{name} has arrived"), |store| {
            store.transfers.iter().any(|one| one.model == name && one.state == TransferState::Done)
        })
        .await;
        self.has(name.as_str(), file).await;
        assert_eq!(self.incoming(), Vec::<String>::new(), "nothing is left over");
    }

    async fn has(&self, name: &str, file: &[u8]) {
        let wanted = digest(file);
        self.until(&format!("{name} with its digest"), |store| {
            store.models.iter().any(|one| one.model.as_str() == name && one.digest.as_ref() == Some(&wanted))
        })
        .await;
        let stored = self.store.file(&model(name)).expect("it can be loaded");
        assert!(std::fs::read(&stored.path).expect("readable") == file, "the same bytes");
    }

    fn incoming(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.models().join(".incoming")).into_iter().flatten().flatten();
        names.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Stops the store and gives its folders to the next one.
    async fn stop(self) -> TempDir {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.store.stopped()).await.expect("it stops");
        self.folders
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files_below(&path)),
            path => found.push(path),
        }
    }
    found
}
