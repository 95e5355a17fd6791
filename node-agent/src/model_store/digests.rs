//! The digests of the files in the store, remembered by what tells whether a file has changed, and computed one
//! file at a time where they are missing.

use super::folder::{Folder, Identity};
use mesh_core::machine::Digest;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Read and hashed in one go.
const CHUNK: u64 = 4 << 20;

/// For each second of hashing, this much rest: requests go first.
const REST: f64 = 3.0;

/// A longer rest than this after one chunk would be a slow disk's doing, not ours.
const LONGEST_REST: Duration = Duration::from_millis(500);

/// An index of more than this is not ours.
const INDEX_LIMIT: u64 = 16 << 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Known {
    file: PathBuf,
    #[serde(flatten)]
    identity: Identity,
    digest: Digest,
}

/// The index, kept in a file of the state folder.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Index {
    known: BTreeMap<PathBuf, (Identity, Digest)>,
}

impl Index {
    /// Reads the index; one that is missing or damaged is an empty one: everything in it can be computed again.
    pub(super) fn read(from: &Path) -> Self {
        let text = match std::fs::metadata(from) {
            Ok(seen) if seen.len() <= INDEX_LIMIT => std::fs::read(from).unwrap_or_default(),
            Ok(_) | Err(_) => Vec::new(),
        };
        let list: Vec<Known> = serde_json::from_slice(&text).unwrap_or_default();
        Self { known: list.into_iter().map(|known| (known.file, (known.identity, known.digest))).collect() }
    }

    /// Writes it so that a power cut leaves the old one or the new one.
    pub(super) fn write(&self, to: &Path) -> io::Result<()> {
        let known = self.known.iter();
        let list: Vec<Known> = known
            .map(|(file, (identity, digest))| Known {
                file: file.clone(),
                identity: *identity,
                digest: digest.clone(),
            })
            .collect();
        mesh_daemon::data_folder::write_private(to, &serde_json::to_vec(&list)?)
    }

    /// The digest of a file that has not changed since.
    pub(super) fn find(&self, file: &Path, identity: &Identity) -> Option<Digest> {
        self.known.get(file).filter(|(known, _)| known == identity).map(|(_, digest)| digest.clone())
    }

    /// Remembers a digest.
    pub(super) fn insert(&mut self, file: PathBuf, identity: Identity, digest: Digest) {
        self.known.insert(file, (identity, digest));
    }

    /// Forgets files that `exists` does not know; true when there were some.
    pub(super) fn retain(&mut self, exists: impl Fn(&Path) -> bool) -> bool {
        let before = self.known.len();
        self.known.retain(|file, _| exists(file));
        before != self.known.len()
    }
}

/// The digest of `file` as it is at `identity`; `None` when it changed meanwhile. Takes four times as long as it
/// could, and does not fill the system's cache.
pub(super) async fn compute(folder: Folder, file: PathBuf, identity: Identity) -> io::Result<Option<Digest>> {
    let opened = {
        let file = file.clone();
        blocking(move || folder.open(&file)).await?
    };
    let opened = Arc::new(opened);
    let mut hasher = Sha256::new();
    let mut at = 0;
    while at < identity.size {
        let (source, mut state, length) = (opened.clone(), hasher, CHUNK.min(identity.size - at));
        let since = Instant::now();
        hasher = blocking(move || {
            read_into(&source, at, length, &mut state)?;
            // Not needed again soon, and it may have pushed out what an engine maps.
            let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            // Only an advice: not every file system takes it.
            posix_fadvise(&*source, offset(at), offset(length), advice).unwrap_or_default();
            Ok(state)
        })
        .await?;
        at += length;
        sleep(since.elapsed().mul_f64(REST).min(LONGEST_REST)).await;
    }
    let now = blocking(move || Identity::of(&opened)).await?;
    Ok((now == identity).then(|| digest(hasher)))
}

/// Hashes `length` bytes of `file` from `at`.
pub(super) fn read_into(file: &File, mut at: u64, length: u64, hasher: &mut Sha256) -> io::Result<()> {
    let end = at + length;
    let mut buffer = vec![0; 256 * 1024];
    while at < end {
        let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        file.read_exact_at(&mut buffer[..want], at)?;
        hasher.update(&buffer[..want]);
        at += want as u64;
    }
    Ok(())
}

/// A finished hash as our word.
pub(super) fn digest(hasher: Sha256) -> Digest {
    let digits: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Digest::new(&digits).expect("SHA-256 is 64 digits")
}

fn offset(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Runs what blocks where that is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
