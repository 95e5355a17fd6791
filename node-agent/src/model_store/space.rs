//! Whether the disk can take a file: its size and 5 % more, beside what the other transfers still need.

use mesh_core::units::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Bytes that can be written to the disk of a folder. Tests have disks of their own.
pub type FreeSpace = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// What the system says.
pub(super) fn of_the_system() -> FreeSpace {
    Arc::new(|folder| {
        // The folder may not be there yet; its disk is that of the nearest one that is.
        let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        let disk = nix::sys::statvfs::statvfs(there)?;
        // What a user may write: some file systems keep a part for root.
        Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
    })
}

/// The disk is too full.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk of {} is too full: {} are free, {} are needed ({missing} to come, 5 % of {total} to spare{})",
    folder.display(), free, needed, and_others(*others)
)]
pub(super) struct TooFull {
    folder: PathBuf,
    free: Bytes,
    needed: Bytes,
    missing: Bytes,
    total: Bytes,
    others: Bytes,
}

fn and_others(bytes: Bytes) -> String {
    if bytes.0 == 0 { String::new() } else { format!(", {bytes} for other transfers") }
}

/// The disk and what is promised of it.
#[derive(Clone)]
pub(super) struct Space {
    folder: PathBuf,
    free: FreeSpace,
    promised: Arc<Mutex<BTreeMap<u64, u64>>>,
}

impl fmt::Debug for Space {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Space").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Space {
    pub(super) fn new(folder: &Path, free: FreeSpace) -> Self {
        Self { folder: folder.into(), free, promised: Arc::default() }
    }

    /// A share of the disk for transfer `number`.
    pub(super) fn share(&self, number: u64) -> Share {
        Share { space: self.clone(), number }
    }
}

/// What one transfer may write. Given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    space: Space,
    number: u64,
}

impl Share {
    /// Promises room for what is missing of `total` bytes after `done`.
    ///
    /// # Errors
    /// [`TooFull`]; a disk that does not tell is taken at its next write.
    pub(super) fn claim(&self, done: u64, total: u64) -> Result<(), TooFull> {
        let missing = total.saturating_sub(done);
        let mut promised = self.space.promised.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        promised.insert(self.number, missing);
        let others =
            promised.iter().filter(|(number, _)| **number != self.number).map(|(_, bytes)| bytes).sum();
        let needed = missing.saturating_add(total / 20).saturating_add(others);
        match (self.space.free)(&self.space.folder) {
            Ok(free) if free < needed => Err(TooFull {
                folder: self.space.folder.clone(),
                free: Bytes(free),
                needed: Bytes(needed),
                missing: Bytes(missing),
                total: Bytes(total),
                others: Bytes(others),
            }),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.space.promised.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(free: u64) -> Space {
        Space::new(Path::new("/models"), Arc::new(move |_| Ok(free)))
    }

    #[test]
    fn a_file_needs_its_size_and_five_percent() {
        let total = 1_000_000;
        assert_eq!(space(1_050_000).share(1).claim(0, total), Ok(()));
        let refused = space(1_049_999).share(1).claim(0, total).expect_err("one byte short");
        let said = refused.to_string();
        assert!(said.contains("/models") && said.contains("1 MiB are free"), "{said}");
        assert_eq!(space(550_000).share(1).claim(500_000, total), Ok(()), "half of it is there");
    }

    #[test]
    fn two_files_that_only_fit_alone_do_not_both_begin() {
        let space = space(1_500_000);
        let (first, second) = (space.share(1), space.share(2));
        assert_eq!(first.claim(0, 1_000_000), Ok(()));
        let refused = second.claim(0, 1_000_000).expect_err("the first has the room");
        assert!(refused.to_string().contains("for other transfers"), "{refused}");
        drop(second);
        assert_eq!(first.claim(500_000, 1_000_000), Ok(()));
        drop(first);
        assert_eq!(space.share(3).claim(0, 1_000_000), Ok(()), "what ended is given back");
    }

    #[test]
    fn a_disk_that_does_not_tell_is_tried() {
        let mute = Space::new(Path::new("/"), Arc::new(|_| Err(io::Error::other("no"))));
        assert_eq!(mute.share(1).claim(0, u64::MAX), Ok(()));
        let here = of_the_system()(Path::new("/no/such/folder")).expect("the root's");
        assert!(here > 0);
    }
}
