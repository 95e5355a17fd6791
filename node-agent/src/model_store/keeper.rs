//! The one owner of the store: hears wishes, starts scans, digests and transfers one after the other, and shows
//! what came of them.

use super::catalogue::Catalogue;
use super::digests::{self, Index};
use super::folder::{Folder, Found, Identity};
use super::{Release, StoreConfig, StoreWish};
use mesh_core::machine::{Digest, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// News of the keeper's own tasks. There are never more of them than this.
const NEWS: usize = 64;

/// What the keeper's tasks have to say.
enum News {
    Scanned(io::Result<Catalogue>),
    Hashed { file: PathBuf, identity: Identity, digest: io::Result<Option<Digest>> },
}

pub(super) struct Keeper {
    config: StoreConfig,
    folder: Folder,
    shown: watch::Sender<Arc<Store>>,
    looked: watch::Sender<Arc<Catalogue>>,
    release: Arc<OnceLock<Release>>,
    index: Index,
    scanning: bool,
    /// The folder has changed since the scan began.
    scan_again: bool,
    hashing: bool,
    /// Files that could not be hashed, as they were then.
    unreadable: BTreeMap<PathBuf, Identity>,
    said: BTreeSet<String>,
    news: mpsc::Sender<News>,
    heard: Option<mpsc::Receiver<News>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Keeper {
    pub(super) fn new(
        config: StoreConfig,
        shown: watch::Sender<Arc<Store>>,
        looked: watch::Sender<Arc<Catalogue>>,
        release: Arc<OnceLock<Release>>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (news, heard) = mpsc::channel(NEWS);
        let folder = Folder::new(&config.folder);
        Self {
            config,
            folder,
            shown,
            looked,
            release,
            index: Index::default(),
            scanning: false,
            scan_again: false,
            hashing: false,
            unreadable: BTreeMap::new(),
            said: BTreeSet::new(),
            news,
            heard: Some(heard),
            tasks,
            stop,
        }
    }

    pub(super) async fn run(mut self, mut wishes: mpsc::Receiver<StoreWish>) {
        let Some(mut heard) = self.heard.take() else { return };
        let index = self.index_file();
        self.index = digests::blocking(move || Ok(Index::read(&index))).await.unwrap_or_default();
        let mut tick = interval(self.config.pacing.scan);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => self.scan(),
                Some(news) = heard.recv() => self.hear(news).await,
                Some(wish) = wishes.recv() => self.follow(wish),
            }
            self.show();
        }
    }

    fn index_file(&self) -> PathBuf {
        self.config.state.join("digests.json")
    }

    fn follow(&mut self, wish: StoreWish) {
        tracing::warn!(?wish, "the store cannot do this yet");
        drop(self.release.get());
    }

    async fn hear(&mut self, news: News) {
        match news {
            News::Scanned(Ok(catalogue)) => {
                self.scanning = false;
                self.complain(&catalogue.passed_over);
                let files: BTreeSet<&PathBuf> =
                    catalogue.files.values().map(|file| &file.found.real).collect();
                let forgot = self.index.retain(|file| files.contains(&file.to_owned()));
                self.unreadable.retain(|file, _| files.contains(file));
                if forgot {
                    self.save().await;
                }
                self.looked.send_if_modified(|known| {
                    let changed = **known != catalogue;
                    if changed {
                        *known = Arc::new(catalogue);
                    }
                    changed
                });
                self.hash_next();
                if std::mem::take(&mut self.scan_again) {
                    self.scan();
                }
            }
            News::Scanned(Err(error)) => {
                self.scanning = false;
                self.complain(&[format!("{}: {error}", self.folder.root().display())]);
            }
            News::Hashed { file, identity, digest } => {
                self.hashing = false;
                match digest {
                    Ok(Some(digest)) => {
                        self.index.insert(file, identity, digest);
                        self.save().await;
                        self.scan();
                    }
                    // The next scan sees what it became.
                    Ok(None) => {}
                    Err(error) => {
                        self.complain(&[format!("{}: computing its digest: {error}", file.display())]);
                        self.unreadable.insert(file, identity);
                    }
                }
                self.hash_next();
            }
        }
    }

    /// Each complaint once.
    fn complain(&mut self, of: &[String]) {
        for one in of {
            if self.said.len() < 1024 && self.said.insert(one.clone()) {
                tracing::warn!("model store: passing over {one}");
            }
        }
    }

    async fn save(&self) {
        let (index, file, folder) = (self.index.clone(), self.index_file(), self.config.state.clone());
        let saved = digests::blocking(move || {
            std::fs::create_dir_all(folder)?;
            index.write(&file)
        });
        if let Err(error) = saved.await {
            // Computed again after the next start.
            tracing::warn!(file = %self.index_file().display(), %error, "cannot remember digests");
        }
    }

    fn scan(&mut self) {
        if std::mem::replace(&mut self.scanning, true) {
            self.scan_again = true;
            return;
        }
        let (folder, previous, index) =
            (self.folder.clone(), self.looked.borrow().clone(), self.index.clone());
        self.spawn(async move {
            let looked = digests::blocking(move || {
                Catalogue::scan(&folder, &previous, &|file, identity| index.find(file, identity))
            });
            News::Scanned(looked.await)
        });
    }

    /// Computes a digest that is missing, one at a time.
    fn hash_next(&mut self) {
        if self.hashing {
            return;
        }
        let catalogue = self.looked.borrow().clone();
        let next = catalogue.files.values().find(|file| {
            let Found { real, identity, .. } = &file.found;
            file.digest.is_none()
                && file.header.is_ok()
                && self.index.find(real, identity).is_none()
                && self.unreadable.get(real) != Some(identity)
                && has_settled(identity, self.config.pacing.settle)
        });
        let Some(Found { real, identity, .. }) = next.map(|file| file.found.clone()) else { return };
        self.hashing = true;
        let folder = self.folder.clone();
        self.spawn(async move {
            let digest = digests::compute(folder, real.clone(), identity).await;
            News::Hashed { file: real, identity, digest }
        });
    }

    fn spawn(&self, task: impl Future<Output = News> + Send + 'static) {
        let (news, stop) = (self.news.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // Fails when the keeper has ended.
                said = task => drop(news.send(said).await),
            }
        });
    }

    fn show(&self) {
        let store = Store { models: self.looked.borrow().reported(), transfers: Vec::new() };
        self.shown.send_if_modified(|known| {
            let changed = **known != store;
            if changed {
                *known = Arc::new(store);
            }
            changed
        });
    }
}

fn has_settled(identity: &Identity, settle: Duration) -> bool {
    let modified = u64::try_from(identity.modified_ns).unwrap_or(0);
    let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + Duration::from_nanos(modified));
    // A file from the future has no age; waiting would not give it one.
    age.map_or(true, |age| age >= settle)
}
