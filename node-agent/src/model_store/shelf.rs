//! What is on its way and survives a crash: the part of a file in `.incoming` of the model folder, and beside
//! it, in the state folder, a journal that says what it will be.
//!
//! ```text
//! journal ──► part grows, fsync every 256 MiB ──► fsync ──► rename into place ──► journal removed
//! ```
//! After a crash of the process all bytes of a part count, because the kernel has them; after a crash of the
//! machine only those that were synced. Either way they are hashed again before the rest is fetched.

use super::digests::blocking;
use super::folder::{Folder, INCOMING};
use mesh_core::id::ModelId;
use mesh_core::machine::{Digest, PullSource, PullWish};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What is left of a pull that failed, and nobody wished for again since.
const LEFTOVERS_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// A journal of more than this is not ours.
const JOURNAL_LIMIT: u64 = 64 * 1024;

/// What a part will be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Journal {
    /// What was wished.
    pub wish: PullWish,
    /// What it must be, as the wish or the server says.
    pub digest: Option<Digest>,
    /// What tells whether the server still has the same file.
    pub validator: Option<String>,
    /// Bytes of the whole file.
    pub total: Option<u64>,
    /// The boot of the machine that wrote it last.
    pub boot: String,
    /// Bytes that survive a power cut.
    pub synced: u64,
    /// It failed, and nobody has wished for it again. Otherwise the next start goes on with it.
    pub failed: bool,
}

impl Journal {
    pub(super) fn new(wish: PullWish) -> Self {
        let (digest, total) = (wish.digest.clone(), wish.size.map(|size| size.0));
        Self { wish, digest, validator: None, total, boot: boot(), synced: 0, failed: false }
    }

    /// Whether what has come for `self` is the beginning of what `wish` wants.
    fn serves(&self, wish: &PullWish) -> bool {
        match (&self.digest, &wish.digest) {
            (Some(ours), Some(wanted)) => ours == wanted,
            (None, Some(_)) => false,
            (_, None) => match (&self.wish.source, &wish.source) {
                (PullSource::Url(ours), PullSource::Url(wanted)) => ours == wanted,
                (PullSource::Url(_) | PullSource::Mesh | PullSource::Engine, _) => false,
            },
        }
    }
}

/// This boot of this machine; empty when the system does not say, which then matches every boot.
fn boot() -> String {
    let said = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    said.trim().to_owned()
}

/// A part of a file, ours alone while we hold it.
#[derive(Debug)]
pub(super) struct Part {
    /// Open for reading and writing.
    pub file: Flock<File>,
    /// Bytes that can be trusted to have been written.
    pub length: u64,
}

/// Why there is no part to write to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShelfError {
    /// Two agents share a folder.
    #[error("another agent that shares this model folder is fetching it")]
    Taken,
    /// The system's answer.
    #[error("cannot {0}: {1}")]
    File(&'static str, io::Error),
}

/// All parts and their journals.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    folder: Folder,
    journals: PathBuf,
}

impl Shelf {
    pub(super) fn new(folder: Folder, state: &Path) -> Self {
        Self { folder, journals: state.join("pulls") }
    }

    /// Where the part of `model` lies, relative to the model folder. Its name says nothing: a model's name may be
    /// longer than a file's with an ending.
    pub(super) fn part_file(model: &ModelId) -> PathBuf {
        Path::new(INCOMING).join(format!("{}.part", key(model)))
    }

    fn journal_file(&self, model: &ModelId) -> PathBuf {
        self.journals.join(format!("{}.json", key(model)))
    }

    /// Makes or replaces a journal, in one step.
    pub(super) fn write(&self, journal: &Journal) -> Result<(), ShelfError> {
        let written = std::fs::create_dir_all(&self.journals).and_then(|()| {
            let text = serde_json::to_vec(journal)?;
            mesh_daemon::data_folder::write_private(&self.journal_file(&journal.wish.model), &text)
        });
        written.map_err(|error| ShelfError::File("write the journal of the transfer", error))
    }

    fn read(file: &Path) -> Option<Journal> {
        let small = std::fs::metadata(file).is_ok_and(|seen| seen.len() <= JOURNAL_LIMIT);
        small.then(|| std::fs::read(file).ok())?.and_then(|text| serde_json::from_slice(&text).ok())
    }

    /// Takes the part for `wish` in hand: what has come before, if it is of the same file, else an empty one.
    pub(super) fn open(&self, wish: &PullWish) -> Result<(Part, Journal), ShelfError> {
        let model = &wish.model;
        let failed = |what| move |error| ShelfError::File(what, error);
        let file = self
            .folder
            .open_to_write(&Self::part_file(model))
            .map_err(failed("make a file in the model folder"))?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
            if error == nix::errno::Errno::EWOULDBLOCK {
                return ShelfError::Taken;
            }
            ShelfError::File("lock a file in the model folder", error.into())
        })?;
        let there = file.metadata().map_err(failed("look at what has come"))?.len();
        let known = Self::read(&self.journal_file(model)).filter(|journal| journal.serves(wish));
        let (mut journal, length) = match known {
            Some(journal) => {
                let length = if journal.boot == boot() { there } else { there.min(journal.synced) };
                (journal, length)
            }
            None => (Journal::new(wish.clone()), 0),
        };
        if length < there {
            file.set_len(length).map_err(failed("shorten what has come"))?;
        }
        journal.synced = journal.synced.min(length);
        journal.wish = wish.clone();
        journal.digest = wish.digest.clone().or(journal.digest);
        (journal.boot, journal.failed) = (boot(), false);
        self.write(&journal)?;
        Ok((Part { file, length }, journal))
    }

    /// Notes that a transfer failed: what has come is kept for a new wish, and not for the next start.
    pub(super) fn set_failed(&self, model: &ModelId) {
        if let Some(mut journal) = Self::read(&self.journal_file(model)) {
            journal.failed = true;
            if let Err(error) = self.write(&journal) {
                tracing::warn!(%model, %error, "the next start will try again what has failed");
            }
        }
    }

    /// Removes part and journal.
    pub(super) fn forget(&self, model: &ModelId) {
        if let Err(error) = self.folder.remove(&Self::part_file(model)) {
            tracing::warn!(%model, %error, "what has come of a transfer cannot be removed");
        }
        self.forget_journal(model);
    }

    /// Removes the journal alone: its part is whole and has its place.
    pub(super) fn forget_journal(&self, model: &ModelId) {
        // Fails when it never was written. A journal that stays is swept later.
        drop(std::fs::remove_file(self.journal_file(model)));
    }

    /// Pulls that were under way when the agent ended. Removes what nobody will go on with.
    pub(super) async fn left_over(&self) -> Vec<PullWish> {
        let shelf = self.clone();
        blocking(move || Ok(shelf.sweep(SystemTime::now()))).await.unwrap_or_default()
    }

    fn sweep(&self, now: SystemTime) -> Vec<PullWish> {
        let mut go_on = Vec::new();
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(&self.journals).into_iter().flatten().flatten() {
            let file = entry.path();
            let old = is_older(&file, now);
            match Self::read(&file) {
                Some(journal) if !journal.failed || !old => {
                    kept.push(Self::part_file(&journal.wish.model));
                    if !journal.failed {
                        go_on.push(journal.wish);
                    }
                }
                Some(journal) => self.forget(&journal.wish.model),
                // Damaged, or of another version.
                None => drop(std::fs::remove_file(&file)),
            }
        }
        for name in self.folder.incoming() {
            let part = Path::new(INCOMING).join(name);
            // Other agents may share the folder: only what nobody has touched for long is nobody's.
            if !kept.contains(&part) && is_older(&self.folder.root().join(&part), now) {
                drop(self.folder.remove(&part));
            }
        }
        go_on
    }
}

fn is_older(file: &Path, now: SystemTime) -> bool {
    let changed = std::fs::symlink_metadata(file).and_then(|seen| seen.modified());
    changed.is_ok_and(|changed| now.duration_since(changed).is_ok_and(|age| age >= LEFTOVERS_FOR))
}

fn key(model: &ModelId) -> String {
    let hash = Sha256::digest(model.as_str());
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    struct House {
        _outer: tempfile::TempDir,
        shelf: Shelf,
    }

    fn house() -> House {
        let outer = tempfile::tempdir().expect("a temporary folder");
        let shelf = Shelf::new(Folder::new(&outer.path().join("models")), &outer.path().join("state"));
        House { _outer: outer, shelf }
    }

    fn wish(url: &str, digest: Option<&str>) -> PullWish {
        let digest = digest.map(|digit| Digest::new(&digit.repeat(64)).expect("64 digits"));
        let model = ModelId::new("org/x:Q4").expect("a good name");
        PullWish { model, source: PullSource::Url(url.into()), digest, size: None }
    }

    fn begin(house: &House, wish: &PullWish, bytes: &[u8]) {
        let (mut part, _) = house.shelf.open(wish).expect("it opens");
        part.file.write_all(bytes).expect("it takes bytes");
    }

    #[test]
    fn what_has_come_serves_the_same_digest_from_anywhere_and_the_same_url_without_one() {
        let cases = [
            (wish("http://a/x", Some("a")), wish("http://b/x", Some("a")), 5),
            (wish("http://a/x", Some("a")), wish("http://a/x", Some("b")), 0),
            (wish("http://a/x", None), wish("http://a/x", None), 5),
            (wish("http://a/x", None), wish("http://b/x", None), 0),
            (wish("http://a/x", None), wish("http://a/x", Some("a")), 0),
            (wish("http://a/x", Some("a")), PullWish { source: PullSource::Mesh, ..wish("", Some("a")) }, 5),
        ];
        for (before, after, length) in cases {
            let house = house();
            begin(&house, &before, b"12345");
            let (part, _) = house.shelf.open(&after).expect("it opens");
            assert_eq!(part.length, length, "{before:?} then {after:?}");
            assert_eq!(part.file.metadata().expect("open").len(), length);
        }
    }

    #[test]
    fn after_a_crash_of_the_machine_only_synced_bytes_count() {
        let (house, wish) = (house(), wish("http://a/x", None));
        begin(&house, &wish, b"12345");
        let file = house.shelf.journal_file(&wish.model);
        let mut journal = Shelf::read(&file).expect("written");
        (journal.boot, journal.synced) = ("another boot".into(), 3);
        house.shelf.write(&journal).expect("writable");
        let (part, _) = house.shelf.open(&wish).expect("it opens");
        assert_eq!(part.length, 3);
    }

    #[test]
    fn two_agents_with_one_folder_do_not_write_one_part() {
        let (house, wish) = (house(), wish("http://a/x", None));
        let held = house.shelf.open(&wish).expect("it opens");
        assert!(matches!(house.shelf.open(&wish), Err(ShelfError::Taken)));
        drop(held);
        assert!(house.shelf.open(&wish).is_ok());
    }

    #[test]
    fn a_start_goes_on_with_what_was_under_way_and_sweeps_what_nobody_wants() {
        let (house, wish) = (house(), wish("http://a/x", None));
        begin(&house, &wish, b"12345");
        let folder = house.shelf.folder.clone();
        let stray = Path::new(INCOMING).join("stray.part");
        drop(folder.open_to_write(&stray).expect("it can be made"));
        std::fs::write(house.shelf.journals.join("damaged.json"), b"{").expect("writable");
        let (now, week) = (SystemTime::now(), LEFTOVERS_FOR + Duration::from_secs(60));
        assert_eq!(house.shelf.sweep(now), vec![wish.clone()]);
        assert!(folder.root().join(&stray).exists(), "it may be another agent's");
        assert!(!house.shelf.journals.join("damaged.json").exists());

        let mut journal = Shelf::read(&house.shelf.journal_file(&wish.model)).expect("written");
        journal.failed = true;
        house.shelf.write(&journal).expect("writable");
        assert_eq!(house.shelf.sweep(now), [], "what failed waits for a new wish");
        let part = folder.root().join(Shelf::part_file(&wish.model));
        assert!(part.exists());
        assert_eq!(house.shelf.sweep(now + week), []);
        assert!(!part.exists() && !folder.root().join(&stray).exists());
    }
}
