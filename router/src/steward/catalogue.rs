//! What is known of models: from the headers of their files, which are fetched once in the background, from the machines'
//! reports, and from what is written down.

use crate::forward::blobs::Blobs;
use mesh_core::fleet::FleetView;
use mesh_core::health::Liveness;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Digest, StoredModel};
use mesh_core::memory::Shape;
use mesh_core::placement::{Body, Catalogue, KnownModel};
use mesh_core::strategy::Wishes;
use mesh_core::units::{Bytes, Moment};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Headers that are fetched at a time. Each has some MiB, and requests go before them.
const AT_ONCE: usize = 2;
/// A header that could not be read is asked for again after this long.
const AGAIN: Duration = Duration::from_secs(300);
/// How long plans wait for a header: it takes some round trips.
const WORTH_WAITING: Duration = Duration::from_secs(5);
/// Headers that are kept: far more than a mesh has models.
const KEPT: usize = 4096;

/// Which file a header is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Digest(Digest),
    /// One whose digest is not known yet.
    Place(MachineId, ModelId, Bytes),
}

#[derive(Debug, Clone)]
enum Header {
    /// Since when, and for the first time.
    Asked(Moment, bool),
    Read(Arc<Shape>),
    Failed(Moment),
}

/// A header that came, or why not.
pub(super) type Fetched = (Key, Result<Shape, String>);

/// Headers that were read, and those that are on their way.
pub(super) struct Headers {
    blobs: Option<Blobs>,
    known: BTreeMap<Key, Header>,
    fetches: JoinSet<Fetched>,
}

fn key_of(machine: &MachineId, stored: &StoredModel) -> Key {
    match &stored.digest {
        Some(digest) => Key::Digest(digest.clone()),
        None => Key::Place(machine.clone(), stored.model.clone(), stored.size),
    }
}

/// The name under which clients ask for a stored model.
fn name_of(stored: &StoredModel) -> &ModelId {
    stored.served_as.as_ref().unwrap_or(&stored.model)
}

impl Headers {
    /// None is known; without `blobs` none ever will be.
    pub(super) fn new(blobs: Option<Blobs>) -> Self {
        Self { blobs, known: BTreeMap::new(), fetches: JoinSet::new() }
    }

    /// Begins to fetch what `wishes` need and nobody has read.
    pub(super) fn fetch(&mut self, view: &FleetView, wishes: &Wishes, now: Moment) {
        let Some(blobs) = self.blobs.clone() else { return };
        // A mode that leaves its models to the mesh may get any of them.
        let any = wishes.modes.iter().any(|wish| wish.models.is_empty());
        let named: BTreeSet<&ModelId> = wishes.modes.iter().flat_map(|wish| &wish.models).collect();
        let up = |liveness| liveness == Liveness::Alive;
        for machine in view.machines.iter().filter(|machine| up(machine.liveness) && machine.path.is_some()) {
            for stored in machine.store.models.iter().filter(|stored| stored.broken.is_none()) {
                if self.fetches.len() >= AT_ONCE || self.known.len() >= KEPT {
                    return;
                }
                let key = key_of(&machine.id, stored);
                let is_due = match self.known.get(&key) {
                    None => any || named.contains(name_of(stored)),
                    Some(Header::Failed(at)) => now.since(*at) >= AGAIN,
                    Some(Header::Asked(..) | Header::Read(_)) => false,
                };
                if is_due {
                    let is_first = !self.known.contains_key(&key);
                    self.known.insert(key.clone(), Header::Asked(now, is_first));
                    let (blobs, machine, model) = (blobs.clone(), machine.id.clone(), stored.model.clone());
                    self.fetches.spawn(async move {
                        let header = blobs.model_header(Some(&machine), &model).await;
                        let shape = header.map_err(|error| error.to_string()).and_then(|header| {
                            Shape::from_header(&header).map_err(|error| error.to_string())
                        });
                        (key, shape)
                    });
                }
            }
        }
    }

    /// Headers that are read for the first time and may come at any moment: worth to be waited for, but no longer than
    /// [`WORTH_WAITING`], for a machine that hangs must not hold up the others.
    pub(super) fn underway(&self, now: Moment) -> usize {
        let is_new = |header: &&Header| match header {
            Header::Asked(since, is_first) => *is_first && now.since(*since) < WORTH_WAITING,
            Header::Read(_) | Header::Failed(_) => false,
        };
        self.known.values().filter(is_new).count()
    }

    /// When [`Headers::underway`] is over for the next of them.
    pub(super) fn next_change(&self, now: Moment) -> Option<Moment> {
        let over = self.known.values().filter_map(|header| match header {
            Header::Asked(since, true) => Some(since.plus(WORTH_WAITING)),
            Header::Asked(_, false) | Header::Read(_) | Header::Failed(_) => None,
        });
        over.filter(|at| *at > now).min()
    }

    /// The next header that came. For ever, while none is on its way.
    pub(super) async fn next(&mut self) -> Fetched {
        loop {
            match self.fetches.join_next().await {
                Some(Ok(fetched)) => return fetched,
                // One that panicked stays asked for: it would do so again.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Keeps it.
    pub(super) fn take(&mut self, (key, shape): Fetched, now: Moment) {
        let header = match shape {
            Ok(shape) => Header::Read(Arc::new(shape)),
            Err(why) => {
                tracing::debug!(?key, "a header could not be read; it is planned by its size: {why}");
                Header::Failed(now)
            }
        };
        self.known.insert(key, header);
    }

    /// All models: those that machines have, and those that are `written` down.
    pub(super) fn catalogue(&self, view: &FleetView, written: &Catalogue) -> Catalogue {
        let mut catalogue = Catalogue::new();
        for machine in &view.machines {
            for stored in &machine.store.models {
                let shape = match self.known.get(&key_of(&machine.id, stored)) {
                    Some(Header::Read(shape)) => Some(shape.clone()),
                    Some(Header::Asked(..) | Header::Failed(_)) | None => None,
                };
                let fresh = of_file(stored, shape, written.get(name_of(stored)));
                keep(&mut catalogue, name_of(stored), fresh);
            }
        }
        for replica in view.machines.iter().flat_map(|one| &one.engines).flat_map(|engine| &engine.replicas) {
            let embeds = replica.abilities.embed == Some(true) && replica.abilities.chat != Some(true);
            if let Some(known) = catalogue.get_mut(&replica.model) {
                known.embeds |= embeds;
            } else if let Some(size) = replica.size {
                let cache = written.get(&replica.model).and_then(cache_per_token);
                let known = KnownModel {
                    parameters: replica.parameters,
                    trained_context: replica.trained_context,
                    digest: replica.digest.clone(),
                    embeds,
                    ..KnownModel::of_file(size, cache)
                };
                catalogue.insert(replica.model.clone(), known);
            }
        }
        for (name, known) in written {
            let entry = catalogue.entry(name.clone()).or_insert_with(|| known.clone());
            entry.url = entry.url.take().or_else(|| known.url.clone());
            entry.digest = entry.digest.take().or_else(|| known.digest.clone());
        }
        catalogue
    }
}

fn cache_per_token(known: &KnownModel) -> Option<Bytes> {
    match known.body {
        Body::File { cache_per_token, .. } => cache_per_token,
        Body::Shape(_) => None,
    }
}

fn of_file(stored: &StoredModel, shape: Option<Arc<Shape>>, written: Option<&KnownModel>) -> KnownModel {
    let known = match shape {
        Some(shape) => KnownModel::of_shape(shape, stored.size),
        None => KnownModel::of_file(stored.size, written.and_then(cache_per_token)),
    };
    KnownModel {
        projector: stored.projector,
        quantisation: stored.quantisation.clone(),
        parameters: stored.parameters,
        trained_context: stored.trained_context.or(known.trained_context),
        digest: stored.digest.clone(),
        ..known
    }
}

/// Of two files of one name the one that is known better counts, else the larger: a plan that holds for that holds for both.
fn keep(catalogue: &mut Catalogue, name: &ModelId, fresh: KnownModel) {
    let rank = |known: &KnownModel| (matches!(known.body, Body::Shape(_)), known.size);
    match catalogue.get_mut(name) {
        Some(old) if rank(old) >= rank(&fresh) => {}
        Some(old) => *old = fresh,
        None => drop(catalogue.insert(name.clone(), fresh)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_wait_for_new_headers_a_little_and_for_repeated_ones_not_at_all() {
        let at = |seconds: u64| Moment::default().plus(Duration::from_secs(seconds));
        let key = |name: &str| {
            let (machine, model) = (MachineId::new("a").expect("valid"), ModelId::new(name).expect("valid"));
            Key::Place(machine, model, Bytes(1))
        };
        let mut headers = Headers::new(None);
        headers.known.insert(key("new"), Header::Asked(at(10), true));
        headers.known.insert(key("again"), Header::Asked(at(10), false));
        headers.known.insert(key("failed"), Header::Failed(at(9)));
        assert_eq!((headers.underway(at(10)), headers.underway(at(14))), (1, 1));
        assert_eq!(headers.next_change(at(12)), Some(at(15)), "then the plan goes on without it");
        assert_eq!((headers.underway(at(15)), headers.next_change(at(15))), (0, None));
        headers.take((key("new"), Err("cut".into())), at(11));
        assert_eq!(headers.underway(at(11)), 0);
    }
}
