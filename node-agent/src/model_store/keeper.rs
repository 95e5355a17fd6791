//! The one owner of the store: hears wishes, starts scans, digests, transfers and deletions, and shows what came
//! of them. Nothing in it waits for a disk or a network except its own small files.

use super::bandwidth::Bandwidth;
use super::catalogue::Catalogue;
use super::digests::{self, Index, blocking};
use super::folder::{Folder, Found, Identity};
use super::peers::Peers;
use super::shelf::Shelf;
use super::space::Space;
use super::transfer::{AT_ONCE, Ended, Shop};
use super::transfers::Transfers;
use super::{Release, StoreConfig, StoreWish, naming};
use mesh_core::id::ModelId;
use mesh_core::machine::{Digest, PullWish, Store, StoreRefusal, TransferState};
use mesh_daemon::clock::unix_ms;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// News of the keeper's own tasks that may wait for it.
const NEWS: usize = 64;

/// Wishes that wait for the first look at the folder; the reconcile repeats what is over.
const EARLY: usize = 256;

/// Complaints that are remembered, so that each is made once.
const COMPLAINTS: usize = 1024;

/// How long a refusal is shown, and how many.
const REFUSED_FOR: Duration = Duration::from_secs(10 * 60);
const REFUSALS: usize = 16;

/// What the keeper's tasks have to say.
enum News {
    Scanned(io::Result<Catalogue>),
    Hashed { file: PathBuf, identity: Identity, digest: io::Result<Option<Digest>> },
    Ended { model: ModelId, ended: Ended },
    Deleted { model: ModelId, deleted: io::Result<()> },
}

/// What a keeper is made of.
pub(super) struct Parts {
    pub config: StoreConfig,
    pub shown: watch::Sender<Arc<Store>>,
    pub looked: watch::Sender<Arc<Catalogue>>,
    pub release: Arc<OnceLock<Release>>,
    pub peers: Peers,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

pub(super) struct Keeper {
    parts: Parts,
    folder: Folder,
    shop: Arc<Shop>,
    index: Index,
    transfers: Transfers,
    deleting: BTreeSet<ModelId>,
    refused: VecDeque<(Instant, StoreRefusal)>,
    /// Wishes that came before the folder was looked at.
    early: Option<Vec<StoreWish>>,
    scanning: bool,
    /// The folder has changed since the scan began.
    scan_again: bool,
    hashing: bool,
    /// Files that could not be hashed, as they were then.
    unreadable: BTreeMap<PathBuf, Identity>,
    said: BTreeSet<String>,
    news: mpsc::Sender<News>,
    heard: Option<mpsc::Receiver<News>>,
}

impl Keeper {
    pub(super) fn new(parts: Parts) -> Self {
        let (news, heard) = mpsc::channel(NEWS);
        let config = &parts.config;
        let folder = Folder::new(&config.folder);
        let shop = Shop {
            folder: folder.clone(),
            shelf: Shelf::new(folder.clone(), &config.state),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            bandwidth: Bandwidth::new(config.bandwidth),
            space: Space::new(&config.folder, config.free_space.clone()),
            peers: parts.peers.clone(),
            pacing: config.pacing,
        };
        Self {
            parts,
            folder,
            shop: Arc::new(shop),
            index: Index::default(),
            transfers: Transfers::default(),
            deleting: BTreeSet::new(),
            refused: VecDeque::new(),
            early: Some(Vec::new()),
            scanning: false,
            scan_again: false,
            hashing: false,
            unreadable: BTreeMap::new(),
            said: BTreeSet::new(),
            news,
            heard: Some(heard),
        }
    }

    pub(super) async fn run(mut self, mut wishes: mpsc::Receiver<StoreWish>) {
        let Some(mut heard) = self.heard.take() else { return };
        let file = self.index_file();
        self.index = blocking(move || Ok(Index::read(&file))).await.unwrap_or_default();
        let left_over = self.shop.shelf.left_over().await;
        self.early = Some(left_over.into_iter().map(StoreWish::Pull).collect());
        let mut scan = interval(self.parts.config.pacing.scan);
        scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report = interval(self.parts.config.pacing.report);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.parts.stop.clone();
        loop {
            let ticks = self.transfers.wants_ticks() || !self.refused.is_empty();
            tokio::select! {
                () = stop.cancelled() => return,
                _ = scan.tick() => self.scan(),
                _ = report.tick(), if ticks => self.tick(),
                Some(news) = heard.recv() => self.hear(news).await,
                Some(wish) = wishes.recv() => self.heed(wish),
            }
            self.show();
        }
    }

    fn index_file(&self) -> PathBuf {
        self.parts.config.state.join("digests.json")
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.transfers.tick(now);
        self.refused.retain(|(at, _)| now - *at < REFUSED_FOR);
    }

    /// Follows a wish once it is known what there is.
    fn heed(&mut self, wish: StoreWish) {
        match (&mut self.early, wish) {
            (Some(early), wish) => {
                if early.len() < EARLY {
                    early.push(wish);
                }
            }
            (None, StoreWish::Pull(wish)) => self.pull(wish),
            (None, StoreWish::Cancel(model)) => {
                if !self.transfers.cancel(&model) {
                    tracing::debug!(%model, "nothing to cancel");
                }
            }
            (None, StoreWish::Delete(model)) => {
                if let Err(why) = self.delete(&model) {
                    self.refuse(model, format!("not deleted: {why}"));
                }
            }
        }
    }

    fn refuse(&mut self, model: ModelId, reason: String) {
        tracing::warn!(%model, "{reason}");
        self.refused.retain(|(_, refusal)| refusal.model != model);
        self.refused.push_back((Instant::now(), StoreRefusal { model, reason, at_ms: unix_ms() }));
        if self.refused.len() > REFUSALS {
            self.refused.pop_front();
        }
    }

    fn pull(&mut self, wish: PullWish) {
        let model = wish.model.clone();
        self.refused.retain(|(_, refusal)| refusal.model != model);
        match self.has_already(&wish) {
            Ok(None) => {}
            Ok(Some(size)) => {
                // The journal of a transfer whose process was killed after the rename.
                self.shop.shelf.forget_journal(&model);
                return self.transfers.over_at_once(&wish, TransferState::Done, Some(size));
            }
            Err(why) => return self.transfers.over_at_once(&wish, TransferState::Failed(why), None),
        }
        match self.transfers.begin(self.shop.clone(), wish, self.parts.stop.clone()) {
            Ok(Some(transfer)) => {
                let news = self.news.clone();
                // Not cut short by a stop like the others: it hears of it and lets go of its files first.
                self.parts.tasks.spawn(async move {
                    let (model, ended) = transfer.await;
                    // Fails when the keeper has ended.
                    drop(news.send(News::Ended { model, ended }).await);
                });
            }
            Ok(None) => {}
            Err(why) => self.refuse(model, format!("not fetched: {why}")),
        }
    }

    /// The size of the file that is wished for, when it is here.
    fn has_already(&self, wish: &PullWish) -> Result<Option<u64>, String> {
        if self.deleting.contains(&wish.model) {
            return Err("it is being deleted".into());
        }
        let catalogue = self.parts.looked.borrow().clone();
        let Some(file) = catalogue.files.get(&wish.model) else {
            return match catalogue.models.contains_key(&wish.model) {
                true => Err("the store has a model of this name in several parts; delete it first".into()),
                false => Ok(None),
            };
        };
        let size = file.found.identity.size;
        match (&file.digest, &wish.digest, &file.header) {
            // What is broken is replaced.
            (_, _, Err(_)) => Ok(None),
            (Some(found), Some(wanted), Ok(_)) if found != wanted => {
                Err(format!("the store has a file of this name whose digest is {found}; delete it first"))
            }
            (None, Some(_), Ok(_)) => {
                Err("the store has a file of this name whose digest is not computed yet; wait for it".into())
            }
            (_, _, Ok(_)) => Ok(Some(size)),
        }
    }

    fn delete(&mut self, model: &ModelId) -> Result<(), String> {
        if self.transfers.has(model) {
            return Err("it is being fetched; cancel that first".into());
        }
        if self.deleting.contains(model) {
            return Ok(());
        }
        let catalogue = self.parts.looked.borrow().clone();
        let files = match (catalogue.models.get(model), catalogue.files.get(model)) {
            (Some(stored), _) => catalogue.listed(stored),
            (None, Some(file)) => match naming::part_of(model) {
                Some(part) => return Err(format!("it is a part of {}; delete that", part.whole)),
                None => vec![file.found.listed.clone()],
            },
            (None, None) => return Err("the store has no such model".into()),
        };
        if let Some(file) = files.iter().find(|file| self.is_kept(file)) {
            return Err(format!("an engine is configured with {}", self.folder.root().join(file).display()));
        }
        self.refused.retain(|(_, refusal)| refusal.model != *model);
        self.deleting.insert(model.clone());
        let release = self.parts.release.get().cloned();
        let (folder, model) = (self.folder.clone(), model.clone());
        self.spawn(async move {
            if let Some(release) = release {
                release(model.clone()).await;
            }
            let deleted = blocking(move || files.iter().try_for_each(|file| folder.remove(file)));
            News::Deleted { deleted: deleted.await, model }
        });
        Ok(())
    }

    fn is_kept(&self, file: &std::path::Path) -> bool {
        let file = self.folder.root().join(file).canonicalize().ok();
        file.is_some() && self.parts.config.kept.iter().any(|kept| kept.canonicalize().ok() == file)
    }

    async fn hear(&mut self, news: News) {
        match news {
            News::Scanned(scanned) => self.scanned(scanned).await,
            News::Hashed { file, identity, digest } => {
                self.hashing = false;
                match digest {
                    Ok(Some(digest)) => self.remember(file, identity, digest).await,
                    // The next scan sees what it became.
                    Ok(None) => {}
                    Err(error) => {
                        self.complain(&[format!("{}: computing its digest: {error}", file.display())]);
                        self.unreadable.insert(file, identity);
                    }
                }
                self.hash_next();
            }
            News::Ended { model, ended } => {
                self.transfers.ended(&model, &ended);
                if let Ended::Done(arrived) = ended {
                    self.remember(arrived.file, arrived.identity, arrived.digest).await;
                }
            }
            News::Deleted { model, deleted } => {
                self.deleting.remove(&model);
                match deleted {
                    Ok(()) => tracing::info!(%model, "a model was deleted"),
                    Err(error) => self.refuse(model, format!("not deleted: {error}")),
                }
                self.scan();
            }
        }
    }

    async fn scanned(&mut self, scanned: io::Result<Catalogue>) {
        self.scanning = false;
        match scanned {
            Ok(catalogue) => {
                self.complain(&catalogue.passed_over);
                let files: BTreeSet<&PathBuf> =
                    catalogue.files.values().map(|file| &file.found.real).collect();
                self.unreadable.retain(|file, _| files.contains(file));
                // While a scan waits, a file may have arrived that this one has not seen.
                if !self.scan_again && self.index.retain(|file| files.contains(&file.to_owned())) {
                    self.save().await;
                }
                self.parts.looked.send_if_modified(|known| {
                    let changed = **known != catalogue;
                    if changed {
                        *known = Arc::new(catalogue);
                    }
                    changed
                });
                self.hash_next();
            }
            Err(error) => self.complain(&[format!("{}: {error}", self.folder.root().display())]),
        }
        for wish in self.early.take().unwrap_or_default() {
            self.heed(wish);
        }
        if std::mem::take(&mut self.scan_again) {
            self.scan();
        }
    }

    async fn remember(&mut self, file: PathBuf, identity: Identity, digest: Digest) {
        self.index.insert(file, identity, digest);
        self.scan();
        self.save().await;
    }

    /// Each complaint once.
    fn complain(&mut self, of: &[String]) {
        for one in of {
            if self.said.len() < COMPLAINTS && self.said.insert(one.clone()) {
                tracing::warn!("model store: passing over {one}");
            }
        }
    }

    async fn save(&self) {
        let (index, file) = (self.index.clone(), self.index_file());
        let folder = self.parts.config.state.clone();
        let saved = blocking(move || {
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
        let (folder, previous) = (self.folder.clone(), self.parts.looked.borrow().clone());
        let index = self.index.clone();
        self.spawn(async move {
            let looked = blocking(move || {
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
        let catalogue = self.parts.looked.borrow().clone();
        let next = catalogue.files.values().find(|file| {
            let Found { real, identity, .. } = &file.found;
            file.digest.is_none()
                && file.header.is_ok()
                && self.index.find(real, identity).is_none()
                && self.unreadable.get(real) != Some(identity)
                && has_settled(identity, self.parts.config.pacing.settle)
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
        let (news, stop) = (self.news.clone(), self.parts.stop.clone());
        self.parts.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // Fails when the keeper has ended.
                said = task => drop(news.send(said).await),
            }
        });
    }

    fn show(&self) {
        let store = Store {
            models: self.parts.looked.borrow().reported(),
            transfers: self.transfers.reported(),
            refusals: self.refused.iter().map(|(_, refusal)| refusal.clone()).collect(),
        };
        self.parts.shown.send_if_modified(|known| {
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
