//! The model folder, and the only place that opens, makes and removes files in it.
//!
//! Every path goes down from the folder one part at a time and no part may be a symbolic link, so nothing is
//! ever read or written outside, whatever is changed meanwhile. A link to a file is resolved once, by the walk,
//! and counts only when its target lies in the folder too. All of it blocks: call it where that is allowed.

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Where files lie until they are whole. Names that begin with a dot are no models.
pub(super) const INCOMING: &str = ".incoming";

/// Folders within folders: a hub's cache has five.
const DEPTH: usize = 8;

/// Names looked at in all. A model folder has hundreds; one with more was not meant.
const ENTRIES: usize = 20_000;

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Bytes.
    pub size: u64,
    /// Of the last change, nanoseconds since 1970.
    pub modified_ns: i64,
    /// Of the file system.
    pub inode: u64,
}

impl Identity {
    /// Of an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let seen = file.metadata()?;
        let modified_ns = seen.mtime().saturating_mul(1_000_000_000).saturating_add(seen.mtime_nsec());
        Ok(Self { size: seen.len(), modified_ns, inode: seen.ino() })
    }
}

/// A file of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Where it is listed, relative to the folder.
    pub listed: PathBuf,
    /// Where it lies, relative to the folder: not the same for a link.
    pub real: PathBuf,
    /// Its content.
    pub identity: Identity,
}

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// Its path as configured.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// All `.gguf` files, links to files in the folder included, and what was passed over and why.
    pub(super) fn walk(&self) -> io::Result<(Vec<Found>, Vec<String>)> {
        let root = match self.root.canonicalize() {
            Ok(root) => root,
            // Made with the first model.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
            Err(error) => return Err(error),
        };
        let mut walk = Walk { folder: self, root, found: Vec::new(), passed_over: Vec::new(), seen: 0 };
        walk.look_into(Path::new(""), 0)?;
        walk.found.sort_by(|a, b| a.listed.cmp(&b.listed));
        Ok((walk.found, walk.passed_over))
    }

    /// Opens a plain file for reading.
    ///
    /// # Errors
    /// Also when a part of the path is a link, or the file is a device, pipe or folder.
    pub(super) fn open(&self, file: &Path) -> io::Result<File> {
        let (parent, name) = self.parent(file, false)?;
        // NONBLOCK: opening a pipe would wait for its writer.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        plain(File::from(openat(&parent, name, flags, Mode::empty())?))
    }

    /// Opens `file` for reading and writing; makes it and its folders where they are missing.
    pub(super) fn open_to_write(&self, file: &Path) -> io::Result<File> {
        let (parent, name) = self.parent(file, true)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        plain(File::from(openat(&parent, name, flags, Mode::from_bits_truncate(0o644))?))
    }

    /// Gives `from` the name `to` in one step that survives a power cut. What `to` named before is gone.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_parent, from_name) = self.parent(from, false)?;
        let (to_parent, to_name) = self.parent(to, true)?;
        renameat(&from_parent, from_name, &to_parent, to_name)?;
        File::from(to_parent).sync_all()?;
        File::from(from_parent).sync_all()
    }

    /// Removes `file`, a link itself and not its target; fine when it is gone already.
    pub(super) fn remove(&self, file: &Path) -> io::Result<()> {
        let removed = self.parent(file, false).and_then(|(parent, name)| {
            unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)?;
            File::from(parent).sync_all()
        });
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Names in [`INCOMING`].
    pub(super) fn incoming(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.root.join(INCOMING)).into_iter().flatten().flatten();
        names.filter_map(|entry| entry.file_name().into_string().ok()).take(ENTRIES).collect()
    }

    /// The folder that holds `file`, and the file's name in it.
    fn parent<'a>(&self, file: &'a Path, make: bool) -> io::Result<(OwnedFd, &'a Path)> {
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "a path that leaves the model folder");
        let name = file.file_name().map(Path::new).ok_or_else(outside)?;
        if make {
            std::fs::create_dir_all(&self.root)?;
        }
        let mut folder = OwnedFd::from(File::open(&self.root)?);
        for part in file.parent().unwrap_or(Path::new("")).components() {
            let Component::Normal(part) = part else { return Err(outside()) };
            if make {
                match mkdirat(&folder, part, Mode::from_bits_truncate(0o755)) {
                    Ok(()) => File::from(folder.try_clone()?).sync_all()?,
                    Err(nix::errno::Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            folder = openat(&folder, part, flags, Mode::empty())?;
        }
        Ok((folder, name))
    }
}

fn plain(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"))
}

struct Walk<'a> {
    folder: &'a Folder,
    root: PathBuf,
    found: Vec<Found>,
    passed_over: Vec<String>,
    seen: usize,
}

impl Walk<'_> {
    fn look_into(&mut self, below: &Path, depth: usize) -> io::Result<()> {
        for entry in std::fs::read_dir(self.root.join(below))? {
            let entry = entry?;
            self.seen += 1;
            if self.seen > ENTRIES {
                return Err(io::Error::other(format!("it holds more than {ENTRIES} names")));
            }
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            let listed = below.join(&name);
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if kind.is_dir() {
                // A folder that cannot be read costs its own models only.
                if depth < DEPTH
                    && let Err(error) = self.look_into(&listed, depth + 1)
                {
                    self.passed_over.push(format!("{}: {error}", listed.display()));
                }
            } else if name.as_encoded_bytes().ends_with(super::naming::ENDING.as_bytes()) {
                match self.file(&listed, kind.is_symlink()) {
                    Ok(found) => self.found.push(found),
                    Err(error) => self.passed_over.push(format!("{}: {error}", listed.display())),
                }
            }
        }
        Ok(())
    }

    fn file(&self, listed: &Path, link: bool) -> io::Result<Found> {
        let real = if link {
            let target = self.root.join(listed).canonicalize()?;
            let inside = target.strip_prefix(&self.root).map(Path::to_owned);
            inside.map_err(|_| io::Error::other("a link that leaves the model folder"))?
        } else {
            listed.to_owned()
        };
        let identity = Identity::of(&self.folder.open(&real)?)?;
        Ok(Found { listed: listed.into(), real, identity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn folder() -> (tempfile::TempDir, Folder) {
        let outer = tempfile::tempdir().expect("a temporary folder");
        let root = outer.path().join("models");
        std::fs::create_dir(&root).expect("a folder in it");
        let folder = Folder::new(&root);
        (outer, folder)
    }

    fn listed(folder: &Folder) -> Vec<String> {
        let (found, _) = folder.walk().expect("readable");
        found.iter().map(|found| found.listed.display().to_string()).collect()
    }

    #[test]
    fn a_link_counts_only_when_its_target_is_a_file_in_the_folder() {
        let (outer, folder) = folder();
        std::fs::create_dir(folder.root().join("blobs")).expect("a folder");
        std::fs::write(folder.root().join("blobs/abc"), b"x").expect("a file");
        std::fs::write(outer.path().join("secret.gguf"), b"s").expect("a file");
        symlink("blobs/abc", folder.root().join("inside.gguf")).expect("a link");
        symlink("../secret.gguf", folder.root().join("outside.gguf")).expect("a link");
        symlink("/etc/passwd", folder.root().join("passwd.gguf")).expect("a link");
        symlink("loop.gguf", folder.root().join("loop.gguf")).expect("a link");
        symlink("/dev/zero", folder.root().join("zero.gguf")).expect("a link");
        let (found, passed_over) = folder.walk().expect("readable");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].listed.as_path(), found[0].real.as_path()),
            (Path::new("inside.gguf"), Path::new("blobs/abc"))
        );
        assert_eq!(passed_over.len(), 4, "{passed_over:?}");
        assert!(folder.open(Path::new("outside.gguf")).is_err(), "no link is opened");
    }

    #[test]
    fn pipes_devices_folders_and_hidden_names_are_no_models() {
        let (_outer, folder) = folder();
        nix::unistd::mkfifo(&folder.root().join("pipe.gguf"), Mode::S_IRWXU).expect("a pipe");
        std::fs::create_dir(folder.root().join("folder.gguf")).expect("a folder");
        std::fs::write(folder.root().join(".hidden.gguf"), b"x").expect("a file");
        std::fs::create_dir(folder.root().join(INCOMING)).expect("a folder");
        std::fs::write(folder.root().join(INCOMING).join("part.gguf"), b"x").expect("a file");
        std::fs::write(folder.root().join("folder.gguf/real.gguf"), b"x").expect("a file");
        assert_eq!(listed(&folder), ["folder.gguf/real.gguf"]);
        assert!(folder.open(Path::new("pipe.gguf")).is_err());
    }

    #[test]
    fn nothing_is_opened_made_renamed_or_removed_by_a_path_that_leaves_the_folder() {
        let (outer, folder) = folder();
        std::fs::write(outer.path().join("secret"), b"s").expect("a file");
        symlink("..", folder.root().join("up")).expect("a link");
        std::fs::write(folder.root().join("mine"), b"m").expect("a file");
        for path in ["../secret", "up/secret", "/etc/passwd", "a/../../secret", "..", ""] {
            let path = Path::new(path);
            assert!(folder.open(path).is_err(), "{path:?}");
            assert!(folder.open_to_write(path).is_err(), "{path:?}");
            assert!(folder.rename(Path::new("mine"), path).is_err(), "{path:?}");
            // Removing what is not there is fine; what is there stays.
            drop(folder.remove(path));
        }
        assert_eq!(std::fs::read(outer.path().join("secret")).expect("untouched"), b"s");
        assert!(folder.root().join("mine").exists());
    }

    #[test]
    fn a_folder_that_is_not_there_holds_nothing_and_is_made_with_the_first_file() {
        let (_outer, folder) = folder();
        let folder = Folder::new(&folder.root().join("later"));
        assert!(listed(&folder).is_empty());
        folder.open_to_write(Path::new("org/x.gguf")).expect("made with its folders");
        assert_eq!(listed(&folder), ["org/x.gguf"]);
    }
}
