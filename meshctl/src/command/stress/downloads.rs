//! Files that are fetched while models work, and removed again.

use crate::cli::Source;
use crate::command::hands::{Hands, is_stored, not_fetched, transfer};
use crate::command::in_words;
use crate::exit::{Failure, Kind};
use mesh_core::id::ModelId;
use mesh_core::machine::{Report, StoreRefusal, TransferState};
use mesh_core::stress::{Download, Fetched};
use mesh_core::units::{Bytes, human_duration};
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks how far they are.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a download may take to show up in the machine's report.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);
/// How long a machine may take to let a file go.
const REMOVED_WITHIN: Duration = Duration::from_secs(60);

/// Downloads on their way.
pub(super) struct Downloads {
    wanted: Vec<Source>,
    /// Refusals that were there before.
    old: Vec<StoreRefusal>,
    /// The machine was told to fetch.
    pub(super) begun: bool,
}

impl Downloads {
    /// Nothing is fetched yet.
    ///
    /// # Errors
    /// `Usage` for a file that is there already, or on its way: nothing would be fetched, and it must not be removed.
    pub(super) fn new(wanted: &[Source], report: &Report) -> Result<Self, Failure> {
        for (at, source) in wanted.iter().enumerate() {
            let model = &source.model;
            let twice = wanted[..at].iter().any(|other| other.model == *model);
            let comes = transfer(report, model).is_some_and(|transfer| !transfer.state.is_over());
            if is_stored(report, model) || comes || twice {
                let why = if twice { "it is named twice" } else { "it is there, or on its way" };
                let failure =
                    Failure::new(Kind::Usage, format!("{model} cannot be fetched as a test")).cause(why);
                return Err(failure.hint("name a model that the machine does not have"));
            }
        }
        let old = report.store.iter().flat_map(|store| store.refusals.clone()).collect();
        Ok(Self { wanted: wanted.to_vec(), old, begun: false })
    }

    /// The names of what is fetched.
    pub(super) fn names(&self) -> Vec<ModelId> {
        self.wanted.iter().map(|source| source.model.clone()).collect()
    }

    /// Begins all.
    pub(super) async fn begin(&mut self, hands: &mut Hands, start: Instant) -> Vec<Download> {
        self.begun = true;
        let mut told = Vec::new();
        for source in &self.wanted {
            let began_s = start.elapsed().as_secs_f64();
            let state = match hands.fetch(&source.model, source.url.as_str()).await {
                Ok(()) => Fetched::Running,
                Err(failure) => Fetched::Failed(in_words(&failure)),
            };
            told.push(Download {
                model: source.model.clone(),
                began_s,
                seconds: 0.0,
                bytes: Bytes(0),
                state,
            });
        }
        told
    }

    /// Tells how far they are into `told`, again and again. Never ends by itself.
    pub(super) async fn watch(&self, hands: &mut Hands, start: Instant, told: &mut [Download]) {
        loop {
            self.look(hands, start, told).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How far they are now. A machine that does not tell is asked again.
    pub(super) async fn look(&self, hands: &mut Hands, start: Instant, told: &mut [Download]) {
        let Ok(report) = hands.report().await else { return };
        for download in told.iter_mut().filter(|download| download.state == Fetched::Running) {
            let model = &download.model;
            let refused = not_fetched(&report, model, &self.old);
            download.seconds = (start.elapsed().as_secs_f64() - download.began_s).max(0.0);
            if let Some(refused) = refused {
                download.state = Fetched::Failed(refused.reason.clone());
                continue;
            }
            let Some(transfer) = transfer(&report, model) else { continue };
            download.bytes = transfer.done;
            match &transfer.state {
                TransferState::Waiting | TransferState::Running | TransferState::Verifying => {}
                TransferState::Done => download.state = Fetched::Done,
                TransferState::Failed(why) => download.state = Fetched::Failed(why.clone()),
                TransferState::Cancelled => download.state = Fetched::Failed("it was cancelled".into()),
            }
        }
    }

    /// Takes away what came.
    ///
    /// # Errors
    /// What is still there, or why nobody can say, with the command that removes it.
    pub(super) async fn remove(&self, hands: &mut Hands) -> Result<(), Failure> {
        for source in self.wanted.iter().filter(|_| self.begun) {
            self.remove_one(hands, &source.model).await?;
        }
        Ok(())
    }

    async fn remove_one(&self, hands: &mut Hands, model: &ModelId) -> Result<(), Failure> {
        let (start, mut is_told) = (Instant::now(), false);
        loop {
            let report = hands.report().await?;
            let transfer = transfer(&report, model);
            let comes = transfer.is_some_and(|transfer| !transfer.state.is_over());
            let is_there = is_stored(&report, model);
            if comes {
                gone(hands.forget("cancel", model).await)?;
            } else if is_there && !is_told {
                gone(hands.forget("delete", model).await)?;
                is_told = true;
            } else if !is_there && (is_told || transfer.is_some() || start.elapsed() > SHOWN_WITHIN) {
                return Ok(());
            }
            if start.elapsed() > REMOVED_WITHIN {
                let limit = human_duration(REMOVED_WITHIN);
                let what =
                    format!("{model}, which came for the test, is still on {} after {limit}", hands.node);
                let command = format!("meshctl model rm {model} --node {}", hands.node);
                return Err(Failure::new(Kind::TimedOut, what).hint(command));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// What ended or left just before it was told to is gone, too.
fn gone(told: Result<(), Failure>) -> Result<(), Failure> {
    match told {
        Err(failure) if failure.kind == Kind::NotFound => Ok(()),
        told => told,
    }
}
