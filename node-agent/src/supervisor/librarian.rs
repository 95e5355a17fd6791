//! Keeps one resting engine for each model of the store: a row that can be loaded.
//!
//! A file that the configuration names has its row already and gets no second one. A model that is to be deleted is
//! let go first: unloaded once its requests are answered, and not taken up again until the store has forgotten it.

use super::House;
use super::child_keeper::ChildKeeper;
use super::configured::ConfiguredFiles;
use super::launch::{Berth, LaunchDefaults, Source};
use super::rests::Rests;
use super::roster::{ORDER_QUEUE, Order};
use super::row::Row;
use crate::model_store::{StoreHandle, StoredFile};
use mesh_core::id::ModelId;
use mesh_core::machine::{Engine, EngineKind};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a model that was let go is not taken up again while the store still lists it: deleting may fail, and
/// then the model is there to stay.
const LET_GO_FOR: Duration = Duration::from_secs(30);
/// How often a keeper that shall end is looked at.
const ENDED_LOOK: Duration = Duration::from_secs(1);
/// The most models kept ready; each costs a few kilobytes and a task.
const MODEL_LIMIT: usize = 1000;

/// Lets `model` go; answered when nobody uses its file any more.
pub(super) struct Release {
    pub(super) model: ModelId,
    pub(super) done: oneshot::Sender<()>,
}

pub(super) struct Librarian {
    house: House,
    store: StoreHandle,
    defaults: LaunchDefaults,
    engine_folder: PathBuf,
    /// Files that the configuration names.
    configured: ConfiguredFiles,
    shelves: BTreeMap<ModelId, Shelf>,
    let_go: BTreeMap<ModelId, Instant>,
    stop: CancellationToken,
}

/// One model of the store.
struct Shelf {
    file: StoredFile,
    retire: CancellationToken,
    /// Closed when its keeper has ended.
    ended: mpsc::Receiver<()>,
}

impl Librarian {
    pub(super) fn new(
        house: House,
        store: StoreHandle,
        defaults: LaunchDefaults,
        engine_folder: PathBuf,
        configured: ConfiguredFiles,
        stop: CancellationToken,
    ) -> Self {
        Self {
            house,
            store,
            defaults,
            engine_folder,
            configured,
            shelves: BTreeMap::new(),
            let_go: BTreeMap::new(),
            stop,
        }
    }

    pub(super) async fn run(mut self, mut releases: mpsc::Receiver<Release>) {
        let mut listed = self.store.watch();
        loop {
            let models = listed.borrow_and_update().clone();
            let names: BTreeSet<ModelId> =
                models.models.iter().filter(|m| m.broken.is_none()).map(|m| m.model.clone()).collect();
            self.sort(&names);
            let let_go = self.let_go.values().min().map(|since| *since + LET_GO_FOR);
            // A file that was replaced is taken up when the keeper of the old one has ended.
            let replaced = self.shelves.values().any(|shelf| shelf.retire.is_cancelled());
            let wake = if replaced { Some(Instant::now() + ENDED_LOOK) } else { let_go };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                Some(release) = releases.recv() => self.release(release),
                changed = listed.changed() => if changed.is_err() {
                    // A store that has ended lists nothing new; its models can still be let go.
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        Some(release) = releases.recv() => self.release(release),
                    }
                },
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    /// Takes up what is new, lets go of what is gone, and starts anew what has become another file.
    fn sort(&mut self, names: &BTreeSet<ModelId>) {
        let now = Instant::now();
        self.let_go.retain(|model, since| names.contains(model) && now < *since + LET_GO_FOR);
        self.shelves.retain(|model, shelf| {
            let file = self.store.file(model).filter(|_| names.contains(model));
            // Its keeper asks the store for a digest or a projector that comes later.
            let same =
                file.is_some_and(|file| file.path == shelf.file.path && file.header == shelf.file.header);
            if !same {
                shelf.retire.cancel();
            }
            // A keeper that still drains has its row; the next one is made when that is gone.
            same || !shelf.ended.is_closed()
        });
        for model in names.iter().take(MODEL_LIMIT) {
            if self.shelves.contains_key(model) || self.let_go.contains_key(model) {
                continue;
            }
            let Some(file) = self.store.file(model) else { continue };
            if self.configured.name_of(&file.path).is_some() {
                continue;
            }
            if let Some(shelf) = self.take_up(model, file) {
                self.shelves.insert(model.clone(), shelf);
            }
        }
    }

    fn take_up(&self, model: &ModelId, file: StoredFile) -> Option<Shelf> {
        let name = format!("store/{model}");
        let (send, orders) = mpsc::channel(ORDER_QUEUE);
        if !self.house.roster.add(Row::new(Engine::new(&name, EngineKind::LlamaServer, true), send)) {
            // Its last keeper has not ended yet.
            return None;
        }
        let retire = CancellationToken::new();
        let (alive, ended) = mpsc::channel::<()>(1);
        let keeper = ChildKeeper {
            name,
            berth: Berth {
                alias: model.clone(),
                program: self.defaults.program.clone(),
                engine_folder: self.engine_folder.clone(),
                context: self.defaults.context,
                slots: self.defaults.slots,
                flexible: true,
                source: Source::Stored { file: Box::new(file.clone()), store: self.store.clone() },
            },
            rests: true,
            roster: self.house.roster.clone(),
            orders,
            ledger: self.house.ledger.clone(),
            profile: self.house.profile.clone(),
            refusals: self.house.refusals.clone(),
            retire: retire.clone(),
            stop: self.stop.clone(),
            version: None,
            resting: Rests::default(),
            last: None,
        };
        self.house.tasks.spawn(async move {
            keeper.run().await;
            drop(alive);
        });
        Some(Shelf { file, retire, ended })
    }

    /// Lets a model go, and answers when its process is gone. Children that the configuration names are unloaded.
    fn release(&mut self, release: Release) {
        let Release { model, done } = release;
        self.let_go.insert(model.clone(), Instant::now());
        let shelf = self.shelves.remove(&model);
        if let Some(shelf) = &shelf {
            shelf.retire.cancel();
        }
        let file = shelf
            .as_ref()
            .map(|shelf| shelf.file.path.clone())
            .or_else(|| Some(self.store.file(&model)?.path));
        let configured = file.as_deref().and_then(|file| self.configured.name_of(file)).cloned();
        let roster = self.house.roster.clone();
        self.house.tasks.spawn(async move {
            if let Some(name) = configured {
                for (_, orders) in roster.who_unloads(&name) {
                    // A full queue is a router gone mad; the model is let go all the same once it is free.
                    drop(orders.try_send(Order::Unload(name.clone())));
                }
                roster.none_holds(&name).await;
            }
            if let Some(mut shelf) = shelf {
                // Closed, and never sent to.
                let _closed = shelf.ended.recv().await;
            }
            let _gone = done.send(());
        });
    }
}
