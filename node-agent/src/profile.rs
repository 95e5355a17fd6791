//! The machine profile on disk and in reports: [`mesh_core::profile`] in `agent/profile.json`.
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | [`ProfileHandle::keep`] | changes of the profile | the file, 2 s after a change | stopped, after a last write |
//! | [`describe`] | hardware, vitals, engines, the store | the sections that are seen anew | stopped |
//!
//! A file that cannot be read, or that a newer agent wrote, is moved aside and said so once; nothing that was learned is
//! overwritten. Writing is atomic: a part file, fsync, rename.

mod describe;

pub use describe::{Seen, describe};

use mesh_core::profile::{Profile, SCHEMA, SIZE_LIMIT};
use mesh_daemon::clock::unix_ms;
use mesh_daemon::data_folder::write_private;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// The file's name in the agent's state folder.
pub const FILE: &str = "profile.json";
/// How long changes are gathered until the file is written: a load makes several.
const WRITE_AFTER: Duration = Duration::from_secs(2);
/// Files that are kept aside at most: a machine that goes back and forth between versions must not fill its disk.
const KEPT_ASIDE: usize = 8;

/// Why a profile's file is not used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
    /// It is longer than any profile.
    #[error("is longer than {SIZE_LIMIT} bytes")]
    TooLong,
    /// A newer agent wrote it.
    #[error("has schema {schema}, and this agent knows {SCHEMA}")]
    Newer {
        /// What it says.
        schema: u32,
    },
    /// It is no profile.
    #[error("is no profile: {0}")]
    Broken(#[source] serde_json::Error),
}

/// The profile of this machine. Clones share it.
#[derive(Clone)]
pub struct ProfileHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for ProfileHandle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ProfileHandle").field("file", &self.shared.file).finish_non_exhaustive()
    }
}

struct Shared {
    /// `None` = kept in memory only.
    file: Option<PathBuf>,
    profile: Mutex<Profile>,
    shown: watch::Sender<Arc<str>>,
    changed: Notify,
}

impl ProfileHandle {
    /// The profile in `folder`, empty where there is none or none that can be used. Reads the disk.
    #[must_use]
    pub fn open(folder: &Path) -> Self {
        let file = folder.join(FILE);
        remove_parts(folder);
        let profile = match read(&file) {
            Ok(profile) => profile.unwrap_or_default(),
            Err(error) => {
                let kept = keep_aside(&file);
                tracing::warn!(
                    "the machine profile {} {error}; {kept}, and this machine is learned anew",
                    file.display()
                );
                Profile::default()
            }
        };
        Self::new(Some(file), profile)
    }

    /// A profile that is kept nowhere.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::new(None, Profile::default())
    }

    fn new(file: Option<PathBuf>, profile: Profile) -> Self {
        let text = written(&profile).unwrap_or_else(|| "{}".into());
        let shown = watch::Sender::new(text);
        Self {
            shared: Arc::new(Shared { file, profile: Mutex::new(profile), shown, changed: Notify::new() }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Profile> {
        self.shared.profile.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The document as it is advertised.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<str>> {
        self.shared.shown.subscribe()
    }

    /// Looks something up.
    pub fn read<T>(&self, look: impl FnOnce(&Profile) -> T) -> T {
        look(&self.lock())
    }

    /// Changes it; `at` is told the seconds since 1970. Equal is no change.
    pub fn change(&self, with: impl FnOnce(&mut Profile, u64)) {
        let mut profile = self.lock();
        let (before, now) = (profile.clone(), unix_ms() / 1000);
        with(&mut profile, now);
        if *profile == before {
            return;
        }
        profile.updated_at = now;
        let Some(text) = written(&profile) else {
            tracing::error!(
                "the machine profile would be longer than {SIZE_LIMIT} bytes; the change is dropped"
            );
            *profile = before;
            return;
        };
        drop(profile);
        self.shared.shown.send_replace(text);
        self.shared.changed.notify_one();
    }

    /// Writes the file after changes, until `stop` and once more then.
    pub async fn keep(self, stop: CancellationToken) {
        let mut failing = false;
        loop {
            let stopped = tokio::select! {
                biased;
                () = self.shared.changed.notified() => false,
                () = stop.cancelled() => true,
            };
            if !stopped {
                tokio::select! {
                    () = tokio::time::sleep(WRITE_AFTER) => {}
                    () = stop.cancelled() => {}
                }
            }
            match self.write().await {
                Ok(()) => failing = false,
                // Said once: a full disk stays full for a while.
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(
                        "the machine profile cannot be written, so it is lost with the next restart: {error}"
                    );
                }
                Err(_) => {}
            }
            if stopped || stop.is_cancelled() {
                return;
            }
        }
    }

    async fn write(&self) -> io::Result<()> {
        let Some(file) = self.shared.file.clone() else { return Ok(()) };
        let text = self.shared.shown.borrow().clone();
        let written = tokio::task::spawn_blocking(move || {
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder)?;
            }
            write_private(&file, text.as_bytes())
        });
        written.await.map_err(io::Error::other)?
    }
}

/// The document as text; `None` when it is longer than it may be.
fn written(profile: &Profile) -> Option<Arc<str>> {
    serde_json::to_string(profile).ok().filter(|text| text.len() <= SIZE_LIMIT).map(Arc::from)
}

/// The profile in `file`; `None` = there is no file.
///
/// # Errors
/// [`ReadError`] when what is there is not used.
pub fn read(file: &Path) -> Result<Option<Profile>, ReadError> {
    /// What every schema has.
    #[derive(serde::Deserialize)]
    struct Any {
        schema: u32,
    }
    let open = match File::open(file) {
        Ok(open) => open,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ReadError::Read(error)),
    };
    let mut bytes = Vec::new();
    open.take(SIZE_LIMIT as u64 + 1).read_to_end(&mut bytes).map_err(ReadError::Read)?;
    if bytes.len() > SIZE_LIMIT {
        return Err(ReadError::TooLong);
    }
    let any: Any = serde_json::from_slice(&bytes).map_err(ReadError::Broken)?;
    if any.schema > SCHEMA {
        return Err(ReadError::Newer { schema: any.schema });
    }
    let mut profile: Profile = serde_json::from_slice(&bytes).map_err(ReadError::Broken)?;
    profile.clip();
    Ok(Some(profile))
}

/// Moves `file` out of the way; says where to, for a person.
fn keep_aside(file: &Path) -> String {
    for number in 1..=KEPT_ASIDE {
        let aside = file.with_extension(format!("kept-{number}.json"));
        if !aside.exists() {
            return match fs::rename(file, &aside) {
                Ok(()) => format!("it is kept as {}", aside.display()),
                Err(error) => format!("it cannot be kept aside ({error})"),
            };
        }
    }
    format!("{KEPT_ASIDE} such files are kept already, so it will be overwritten")
}

/// Part files of agents that were killed while they wrote.
fn remove_parts(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("profile.part") {
            drop(fs::remove_file(entry.path()));
        }
    }
}

#[cfg(test)]
#[path = "profile/tests.rs"]
mod tests;
