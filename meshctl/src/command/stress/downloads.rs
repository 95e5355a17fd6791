//! Files that are fetched while models work, and removed again.

use crate::cli::Source;
use crate::command::hands::{Hands, is_stored, not_fetched, transfer};
use crate::command::in_words;
use crate::command::tried::reason;
use crate::exit::{Failure, Kind};
use mesh_core::id::ModelId;
use mesh_core::machine::{Report, StoreRefusal, Transfer, TransferState};
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
    refusals: Vec<StoreRefusal>,
    /// Earlier fetches of the same files, as long as the report shows no others.
    old: Vec<Transfer>,
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
        let refusals = report.store.iter().flat_map(|store| store.refusals.clone()).collect();
        let old = wanted.iter().filter_map(|source| transfer(report, &source.model).cloned()).collect();
        Ok(Self { wanted: wanted.to_vec(), refusals, old, begun: false })
    }

    /// How far one is, so long after it was begun; an earlier fetch of it says nothing.
    fn progress<'r>(&self, report: &'r Report, model: &ModelId, since: Duration) -> Option<&'r Transfer> {
        transfer(report, model).filter(|now| since > SHOWN_WITHIN || !self.old.contains(now))
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
                Err(failure) => Fetched::Failed(reason(in_words(&failure))),
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
            let refused = not_fetched(&report, model, &self.refusals);
            let since = start
                .elapsed()
                .saturating_sub(Duration::try_from_secs_f64(download.began_s).unwrap_or_default());
            download.seconds = since.as_secs_f64();
            if let Some(refused) = refused {
                download.state = Fetched::Failed(reason(refused.reason.clone()));
                continue;
            }
            let Some(transfer) = self.progress(&report, model, since) else { continue };
            download.bytes = transfer.done;
            match &transfer.state {
                TransferState::Waiting | TransferState::Running | TransferState::Verifying => {}
                TransferState::Done => download.state = Fetched::Done,
                TransferState::Failed(why) => download.state = Fetched::Failed(reason(why.clone())),
                TransferState::Cancelled => download.state = Fetched::Failed("it was cancelled".into()),
            }
        }
    }

    /// Takes away what came. One that stays keeps no other from leaving.
    ///
    /// # Errors
    /// The first that is still there, or why nobody can say, with the command that removes it.
    pub(super) async fn remove(&self, hands: &mut Hands) -> Result<(), Failure> {
        let mut all = Ok(());
        for source in self.wanted.iter().filter(|_| self.begun) {
            let one = self.remove_one(hands, &source.model).await;
            all = all.and(one);
        }
        all
    }

    async fn remove_one(&self, hands: &mut Hands, model: &ModelId) -> Result<(), Failure> {
        let (start, mut is_told) = (Instant::now(), false);
        loop {
            let report = hands.report().await?;
            let transfer = self.progress(&report, model, start.elapsed());
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

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::machine::{Store, TransferKind};

    #[test]
    fn an_earlier_fetch_of_the_same_file_says_nothing_of_this_one() {
        let model = ModelId::new("new:8b").expect("a good name");
        let one = |state: TransferState| Transfer {
            model: model.clone(),
            kind: TransferKind::Download,
            source: "example.org".into(),
            state,
            done: Bytes(7),
            total: None,
            rate: None,
        };
        let report = |state: TransferState| {
            let store = Store { transfers: vec![one(state)], ..Store::default() };
            Report { store: Some(store), ..Report::default() }
        };
        let failed = report(TransferState::Failed("404".into()));
        let source: Source = "new:8b=http://127.0.0.1/x".parse().expect("a source");
        let downloads = Downloads::new(&[source], &failed).expect("it is not there");
        let of = |report: &Report, since| downloads.progress(report, &model, since).is_some();
        assert!(!of(&failed, Duration::ZERO), "that was before");
        assert!(of(&report(TransferState::Running), Duration::ZERO));
        assert!(of(&failed, SHOWN_WITHIN * 2), "it failed the same way again");
    }
}
