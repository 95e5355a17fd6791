//! Models that a machine lacks are fetched before it is climbed, two at a time; the machine is not taken for that.

use crate::cli::Wanted;
use crate::command::hands::{Hands, is_stored, not_fetched, transfer};
use crate::command::in_words;
use crate::command::ladder::ends_all;
use crate::exit::Failure;
use crate::render::models::{done, left};
use crate::render::quantity::bytes;
use mesh_core::id::ModelId;
use mesh_core::ladder::Pull;
use mesh_core::machine::{Report, StoreRefusal, Transfer, TransferState};
use mesh_core::units::{Bytes, human_duration};
use std::time::Duration;
use tokio::time::Instant;

/// Downloads at once: as many as a machine's store does.
const AT_ONCE: usize = 2;
/// Between two looks how far they are.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a wish may take to show up in the machine's report, and an old failure to leave it.
const SHOWN_WITHIN: Duration = Duration::from_secs(15);

/// What became of one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fetched {
    pub(super) model: ModelId,
    /// `None` = it was there. Else why it is not.
    pub(super) outcome: Result<Option<Pull>, String>,
}

/// One on its way.
struct Coming {
    model: ModelId,
    /// An earlier fetch of it, as long as the report shows no other.
    old: Option<Transfer>,
    refusals: Vec<StoreRefusal>,
    began: Instant,
}

#[derive(Debug, PartialEq)]
enum Step {
    Coming,
    Here(Bytes),
    Failed(String),
}

/// Fetches all that the machine lacks. One that cannot be had keeps no other from coming.
///
/// # Errors
/// What keeps the router from answering.
pub(super) async fn fetch(
    hands: &mut Hands,
    wanted: &[Wanted],
    tell: impl Fn(&str),
) -> Result<Vec<Fetched>, Failure> {
    let (mut queue, mut told) = (wanted.iter(), String::new());
    let (mut coming, mut fetched): (Vec<Coming>, Vec<Fetched>) = (Vec::new(), Vec::new());
    loop {
        let report = hands.report().await?;
        let mut on_their_way = Vec::new();
        for one in coming {
            match one.step(&report, one.began.elapsed()) {
                Step::Coming => on_their_way.push(one),
                Step::Here(bytes) => {
                    let pull = Pull { bytes, seconds: one.began.elapsed().as_secs_f64() };
                    fetched.push(Fetched { model: one.model, outcome: Ok(Some(pull)) });
                }
                Step::Failed(why) => fetched.push(Fetched { model: one.model, outcome: Err(why) }),
            }
        }
        coming = on_their_way;
        while coming.len() < AT_ONCE {
            let Some(Wanted { model, url }) = queue.next() else { break };
            let model = model.clone();
            if is_stored(&report, &model) {
                fetched.push(Fetched { model, outcome: Ok(None) });
                continue;
            }
            match hands.fetch(&model, url.as_ref().map_or("", |url| url.as_str())).await {
                Ok(()) => {
                    let refusals = report.store.iter().flat_map(|store| store.refusals.clone()).collect();
                    let (old, began) = (transfer(&report, &model).cloned(), Instant::now());
                    coming.push(Coming { model, old, refusals, began });
                }
                Err(failure) if ends_all(&failure) => return Err(failure),
                Err(failure) => fetched.push(Fetched { model, outcome: Err(in_words(&failure)) }),
            }
        }
        if coming.is_empty() {
            return Ok(fetched);
        }
        let far: Vec<String> = coming.iter().map(|one| one.far(&report)).collect();
        let far = far.join("   ");
        // A file of a night's log needs no line for each look.
        if far != told {
            tell(&far);
            told = far;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Coming {
    /// What the report says of it, so long after the wish.
    fn step(&self, report: &Report, since: Duration) -> Step {
        if let Some(refused) = not_fetched(report, &self.model, &self.refusals) {
            return Step::Failed(refused.reason.clone());
        }
        let is_late = since > SHOWN_WITHIN;
        let now = transfer(report, &self.model).filter(|now| is_late || Some(*now) != self.old.as_ref());
        match now.map(|transfer| (&transfer.state, transfer.done)) {
            Some((TransferState::Waiting | TransferState::Running | TransferState::Verifying, _)) => {
                Step::Coming
            }
            Some((TransferState::Done, bytes)) => Step::Here(bytes),
            Some((TransferState::Failed(why), _)) => Step::Failed(why.clone()),
            Some((TransferState::Cancelled, _)) => Step::Failed("it was cancelled".into()),
            None if is_stored(report, &self.model) => Step::Here(Bytes(0)),
            None if is_late => Step::Failed("the machine did not begin to fetch it".into()),
            None => Step::Coming,
        }
    }

    /// `qwen3:8b: 2.1 of 4.7 GiB, 51 MiB/s, 52 s left`
    fn far(&self, report: &Report) -> String {
        let Some(transfer) = transfer(report, &self.model) else {
            return format!("{}: waiting", self.model);
        };
        if transfer.done.0 == 0 {
            if transfer.state == TransferState::Waiting {
                return format!("{}: waiting for its turn", self.model);
            }
            return format!("{}: asking {}, nothing came yet", self.model, transfer.source);
        }
        let rate = transfer.rate.map_or_else(String::new, |rate| format!(", {}/s", bytes(rate.0)));
        let left = left(transfer).map_or_else(String::new, |left| format!(", {} left", human_duration(left)));
        format!("{}: {}{rate}{left}", self.model, done(transfer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::machine::{Store, StoredModel, TransferKind};

    fn id() -> ModelId {
        ModelId::new("new:8b").expect("a good name")
    }

    fn one(state: TransferState) -> Transfer {
        let (kind, source) = (TransferKind::Download, "example.org".into());
        Transfer { model: id(), kind, source, state, done: Bytes(7), total: Some(Bytes(9)), rate: None }
    }

    fn report(transfers: Vec<Transfer>, refusals: &[&str]) -> Report {
        let refusal =
            |why: &&str| StoreRefusal { model: id(), reason: (*why).to_owned(), at_ms: why.len() as u64 };
        let refusals = refusals.iter().map(refusal).collect();
        Report { store: Some(Store { transfers, refusals, ..Store::default() }), ..Report::default() }
    }

    fn coming(old: Option<Transfer>, refusals: &[&str]) -> Coming {
        let refusals = report(vec![], refusals).store.map(|store| store.refusals).unwrap_or_default();
        Coming { model: id(), old, refusals, began: Instant::now() }
    }

    #[test]
    fn how_far_a_fetch_is_is_told_once_something_came() {
        let far = |transfer: Transfer| coming(None, &[]).far(&report(vec![transfer], &[]));
        let nothing = |state| Transfer { done: Bytes(0), ..one(state) };
        assert_eq!(coming(None, &[]).far(&report(vec![], &[])), "new:8b: waiting");
        assert_eq!(far(nothing(TransferState::Waiting)), "new:8b: waiting for its turn");
        assert_eq!(far(nothing(TransferState::Running)), "new:8b: asking example.org, nothing came yet");
        assert_eq!(far(one(TransferState::Running)), "new:8b: 7 B of 9 B, 77 %");
    }

    #[test]
    fn a_fetch_is_what_the_machine_says_of_it_and_not_what_it_said_before() {
        let fresh = coming(None, &[]);
        let failed = || one(TransferState::Failed("404".into()));
        for (report, step) in [
            (report(vec![], &[]), Step::Coming),
            (report(vec![one(TransferState::Waiting)], &[]), Step::Coming),
            (report(vec![one(TransferState::Verifying)], &[]), Step::Coming),
            (report(vec![one(TransferState::Done)], &[]), Step::Here(Bytes(7))),
            (report(vec![failed()], &[]), Step::Failed("404".into())),
            (report(vec![one(TransferState::Cancelled)], &[]), Step::Failed("it was cancelled".into())),
            (
                report(vec![], &["not fetched: the disk has 3 GiB"]),
                Step::Failed("not fetched: the disk has 3 GiB".into()),
            ),
        ] {
            assert_eq!(fresh.step(&report, Duration::ZERO), step);
        }
        let again = coming(Some(failed()), &["not fetched: old"]);
        let same = report(vec![failed()], &["not fetched: old"]);
        assert_eq!(again.step(&same, Duration::ZERO), Step::Coming, "both are of an earlier wish");
        let late = SHOWN_WITHIN * 2;
        assert_eq!(again.step(&same, late), Step::Failed("404".into()), "it failed the same way again");
        let silent = Step::Failed("the machine did not begin to fetch it".into());
        assert_eq!(fresh.step(&report(vec![], &[]), late), silent);
        let mut here = report(vec![], &[]);
        if let Some(store) = &mut here.store {
            store.models.push(StoredModel::new(id(), Bytes(9)));
        }
        assert_eq!(
            fresh.step(&here, Duration::ZERO),
            Step::Here(Bytes(0)),
            "it came so fast that no report showed it"
        );
    }
}
