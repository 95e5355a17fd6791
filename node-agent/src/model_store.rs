//! The models on this machine's disk: what there is, fetching more, lending them to other machines, deleting.
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | keeper, the one owner | wishes, what the others found | `watch` of [`mesh_core::machine::Store`] | stopped |
//! | scan, one at a time | the model folder, every 10 s and after own changes | the catalogue | it has looked |
//! | digest, one at a time | a file without a digest | the digest | the file is read |
//! | transfer, one for each pull, two at work | an HTTP server or another machine | a file of the folder | it is done, failed or cancelled; stopped |
//! | deletion, one for each | a model that nobody uses any more | its files are gone | done |
//!
//! A file of the folder is a model when it ends in `.gguf` and its name is a model's name ([`naming`] says how);
//! files of a split model are one model. Nothing under a name that begins with a dot is looked at: there lie the
//! files that are not whole yet. A file that is whole never changes; it is replaced or removed.

mod bandwidth;
mod catalogue;
mod digests;
mod folder;
mod header;
mod http_source;
mod keeper;
mod lend;
mod naming;
mod peers;
mod progress;
mod reception;
mod shelf;
mod source;
mod space;
mod transfer;
mod transfers;

pub(crate) use header::whole as whole_header;
pub use lend::Lent;
pub use naming::NameError;
pub use peers::{PeerAnswer, PeerLink, Peers};
pub use space::FreeSpace;

use catalogue::Catalogue;
use folder::Folder;
use futures_util::future::BoxFuture;
use lend::Lending;
use mesh_core::gguf::Header;
use mesh_core::id::ModelId;
use mesh_core::machine::{Digest, PullWish, Store};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Wishes that may wait for the keeper, which never waits long itself.
const WISHES: usize = 64;

/// Takes a model out of memory and completes when nobody uses its file any more.
pub type Release = Arc<dyn Fn(ModelId) -> BoxFuture<'static, ()> + Send + Sync>;

/// What a store is to be.
#[derive(Clone)]
pub struct StoreConfig {
    /// Where models lie.
    pub folder: PathBuf,
    /// Where the store keeps what it knows about them.
    pub state: PathBuf,
    /// Files that are never deleted, because an engine is configured with them.
    pub kept: Vec<PathBuf>,
    /// The most bytes each second that all transfers together bring in; `None` = as fast as it goes.
    pub bandwidth: Option<u64>,
    /// Asks a folder's disk.
    pub free_space: FreeSpace,
    /// How often things are done.
    pub pacing: Pacing,
}

impl StoreConfig {
    /// A store of `folder` with the usual pacing.
    #[must_use]
    pub fn new(folder: &Path, state: &Path) -> Self {
        Self {
            folder: folder.into(),
            state: state.into(),
            kept: Vec::new(),
            bandwidth: None,
            free_space: space::of_the_system(),
            pacing: Pacing::default(),
        }
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("StoreConfig").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// The store's periods. Only tests set others than the default.
#[derive(Debug, Clone, Copy)]
pub struct Pacing {
    /// How often the folder is looked at.
    pub scan: Duration,
    /// A file that was changed since then is not hashed yet: somebody may still be copying it.
    pub settle: Duration,
    /// The pause after the first break of a transfer; doubled each time, up to the longest.
    pub first_retry: Duration,
    /// The longest pause between two tries.
    pub longest_retry: Duration,
    /// How long a URL may send nothing at all, tries that are under way included: it may be misspelt, and somebody waits. One
    /// whose server names a time to come again may take that longer.
    pub first_within: Duration,
    /// How often a transfer's progress is reported.
    pub report: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            scan: Duration::from_secs(10),
            settle: Duration::from_secs(10),
            first_retry: Duration::from_secs(1),
            longest_retry: Duration::from_secs(30),
            first_within: Duration::from_secs(30),
            report: Duration::from_secs(1),
        }
    }
}

/// What the store may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreWish {
    /// Fetch a model from an HTTP server or another machine.
    Pull(PullWish),
    /// Stop fetching; what has come is deleted.
    Cancel(ModelId),
    /// Delete a model, once nobody uses it.
    Delete(ModelId),
}

/// A model that can be loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredFile {
    /// Its file; of a split model the first, which is the one that engines are given.
    pub path: PathBuf,
    /// Of the whole model.
    pub header: Arc<Header>,
    /// Of the one file.
    pub digest: Option<Digest>,
    /// The file that gives it eyes or ears.
    pub projector: Option<PathBuf>,
}

/// A running store. Cheap to clone.
#[derive(Clone)]
pub struct StoreHandle {
    wishes: mpsc::Sender<StoreWish>,
    store: watch::Receiver<Arc<Store>>,
    catalogue: watch::Receiver<Arc<Catalogue>>,
    folder: Folder,
    release: Arc<OnceLock<Release>>,
    peers: Peers,
    lending: Lending,
    tasks: TaskTracker,
}

impl fmt::Debug for StoreHandle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("StoreHandle").field("folder", &self.folder.root()).finish_non_exhaustive()
    }
}

impl StoreHandle {
    /// Starts a store; its tasks end after `stop`. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(config: StoreConfig, stop: CancellationToken) -> Self {
        let (wishes, inbox) = mpsc::channel(WISHES);
        let (shown, store) = watch::channel(Arc::default());
        let (looked, catalogue) = watch::channel(Arc::default());
        let tasks = TaskTracker::new();
        let release = Arc::new(OnceLock::new());
        let folder = Folder::new(&config.folder);
        let peers = Peers::default();
        let parts = keeper::Parts {
            config,
            shown,
            looked,
            release: release.clone(),
            peers: peers.clone(),
            tasks: tasks.clone(),
            stop,
        };
        tasks.spawn(keeper::Keeper::new(parts).run(inbox));
        tasks.close();
        Self { wishes, store, catalogue, folder, release, peers, lending: Lending::default(), tasks }
    }

    /// What there is and what is on its way. Equal news are no news; transfers change at most once a second.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Store>> {
        self.store.clone()
    }

    /// The file of a model that can be loaded; `None` when there is none or it is broken.
    #[must_use]
    pub fn file(&self, model: &ModelId) -> Option<StoredFile> {
        let catalogue = self.catalogue.borrow().clone();
        let found = catalogue.models.get(model)?;
        let header = found.header.as_ref().ok()?.clone();
        let path = |name: &ModelId| {
            let file = catalogue.files.get(name)?;
            Some(self.folder.root().join(&file.found.real))
        };
        Some(StoredFile {
            path: path(found.files.first()?)?,
            header,
            digest: found.digest.clone(),
            projector: found.projector.as_ref().and_then(path),
        })
    }

    /// Tells the store what is wished. What comes of it shows in [`Self::watch`]; a wish that cannot be followed
    /// is logged.
    pub fn direct(&self, wish: StoreWish) {
        if let Err(error) = self.wishes.try_send(wish) {
            tracing::warn!(%error, "a wish for the model store is dropped");
        }
    }

    /// Before a model is deleted, `release` is called and waited for. Without one nothing holds a model.
    pub fn release_with(&self, release: Release) {
        if self.release.set(release).is_err() {
            tracing::warn!("the store has been told twice how models are released; the first way counts");
        }
    }

    /// Where the link to the router is told, so that files can come from other machines.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// After stop: completes when nothing of the store runs any more.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}
