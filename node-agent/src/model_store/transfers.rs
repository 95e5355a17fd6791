//! The keeper's list of transfers: those under way, and those that ended lately.

use super::progress::{Progress, Rate};
use super::transfer::{self, Ended, Shop};
use mesh_core::id::ModelId;
use mesh_core::machine::{PullSource, PullWish, Transfer, TransferKind, TransferState};
use mesh_core::units::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Transfers under way, waiting ones included. A wish over it is refused.
const LIMIT: usize = 64;

/// How long an ended transfer is shown, and how many.
const SHOWN_FOR: Duration = Duration::from_secs(10 * 60);
const SHOWN: usize = 32;

struct Running {
    wish: PullWish,
    progress: Arc<Progress>,
    rate: Rate,
    /// Bytes as of the last tick: more often would be more often than reports go.
    done: u64,
    cancel: CancellationToken,
}

/// All transfers.
#[derive(Default)]
pub(super) struct Transfers {
    running: BTreeMap<ModelId, Running>,
    ended: VecDeque<(Instant, Transfer)>,
    last_number: u64,
}

impl Transfers {
    /// Whether this model is on its way.
    pub(super) fn has(&self, model: &ModelId) -> bool {
        self.running.contains_key(model)
    }

    /// Begins a transfer; what to run, or why not. `None` when the same is under way already.
    pub(super) fn begin(
        &mut self,
        shop: Arc<Shop>,
        wish: PullWish,
        stop: CancellationToken,
    ) -> Result<Option<impl Future<Output = (ModelId, Ended)> + Send + 'static>, String> {
        if let Some(running) = self.running.get(&wish.model) {
            // Wishes are repeated.
            let same = running.wish == wish;
            return if same {
                Ok(None)
            } else {
                Err("it is being fetched from elsewhere; cancel that first".into())
            };
        }
        if self.running.len() >= LIMIT {
            return Err(format!("{LIMIT} models are being fetched or wait already"));
        }
        let model = wish.model.clone();
        self.ended.retain(|(_, transfer)| transfer.model != model);
        self.last_number += 1;
        let progress = Arc::new(Progress::new(source(&wish)));
        progress.set_total(wish.size.map(|size| size.0));
        let cancel = CancellationToken::new();
        let running = Running {
            wish: wish.clone(),
            progress: progress.clone(),
            rate: Rate::default(),
            done: 0,
            cancel: cancel.clone(),
        };
        self.running.insert(model.clone(), running);
        let number = self.last_number;
        Ok(Some(async move { (model, transfer::run(shop, number, wish, progress, cancel, stop).await) }))
    }

    /// Asks a transfer to end; false when there is none.
    pub(super) fn cancel(&self, model: &ModelId) -> bool {
        let running = self.running.get(model);
        running.inspect(|running| running.cancel.cancel()).is_some()
    }

    /// A transfer has ended. One that was only stopped with the agent goes on at its next start.
    pub(super) fn ended(&mut self, model: &ModelId, ended: &Ended) {
        let Some(mut running) = self.running.remove(model) else { return };
        running.done = running.progress.done();
        let state = match ended {
            Ended::Done(_) => TransferState::Done,
            Ended::Failed { why, .. } => TransferState::Failed(why.clone()),
            Ended::Cancelled => TransferState::Cancelled,
            Ended::Stopped => return,
        };
        running.progress.set_state(state);
        let (what, source) = (&running.wish.model, running.progress.source());
        match ended {
            Ended::Failed { why, .. } => {
                tracing::warn!(model = %what, source, "fetching a model failed: {why}")
            }
            Ended::Done(_) => tracing::info!(model = %what, source, "a model has arrived"),
            Ended::Cancelled | Ended::Stopped => {
                tracing::info!(model = %what, source, "fetching a model was cancelled")
            }
        }
        self.show_ended(Transfer { rate: None, ..shown(model, &running) });
    }

    /// Shows a wish that was over before it began.
    pub(super) fn over_at_once(&mut self, wish: &PullWish, state: TransferState, size: Option<u64>) {
        self.show_ended(Transfer {
            model: wish.model.clone(),
            kind: kind(wish),
            source: source(wish),
            state,
            done: Bytes(size.unwrap_or(0)),
            total: size.map(Bytes).or(wish.size),
            rate: None,
        });
    }

    fn show_ended(&mut self, transfer: Transfer) {
        self.ended.retain(|(_, shown)| shown.model != transfer.model);
        self.ended.push_back((Instant::now(), transfer));
        if self.ended.len() > SHOWN {
            self.ended.pop_front();
        }
    }

    /// Called at the pace of reports: measures speeds and forgets what ended long ago.
    pub(super) fn tick(&mut self, now: Instant) {
        for running in self.running.values_mut() {
            running.done = running.progress.done();
            if running.progress.state() == TransferState::Running {
                running.rate.note(now, running.progress.done());
            }
        }
        self.ended.retain(|(at, _)| now - *at < SHOWN_FOR);
    }

    /// Whether [`Self::tick`] has anything to do.
    pub(super) fn wants_ticks(&self) -> bool {
        !self.running.is_empty() || !self.ended.is_empty()
    }

    /// What is reported.
    pub(super) fn reported(&self) -> Vec<Transfer> {
        let running = self.running.iter().map(|(model, running)| shown(model, running));
        running.chain(self.ended.iter().map(|(_, transfer)| transfer.clone())).collect()
    }
}

fn shown(model: &ModelId, running: &Running) -> Transfer {
    Transfer {
        model: model.clone(),
        kind: kind(&running.wish),
        source: running.progress.source(),
        state: running.progress.state(),
        done: Bytes(running.done),
        total: running.progress.total().map(Bytes),
        rate: running.rate.per_second().filter(|_| running.progress.state() == TransferState::Running),
    }
}

fn kind(wish: &PullWish) -> TransferKind {
    match wish.source {
        PullSource::Engine => TransferKind::Engine,
        PullSource::Url(_) => TransferKind::Download,
        PullSource::Mesh => TransferKind::Copy,
    }
}

/// Where from, as far as the wish says; never the URL, whose path or query may hold a token.
fn source(wish: &PullWish) -> String {
    match &wish.source {
        PullSource::Engine => "the engine".into(),
        PullSource::Url(url) => super::http_source::shown_host(url),
        PullSource::Mesh => "the mesh".into(),
    }
}
