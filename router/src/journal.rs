//! What became of the last requests: for `meshctl explain`, and for the medians in `meshctl status`.
//!
//! One task owns the list of records. A request shares its record with the list and goes on writing in it, so nothing
//! is copied and nothing is made into text before somebody asks.

use crate::forward::stream_guard::Usage;
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::routing::{Candidate, Decision, Rejection};
use mesh_proto::v1::{AttemptLine, CandidateLine, CostTerm, ExplainReply};
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Requests that can still be explained.
pub const CAPACITY: usize = 10_000;
/// Requests of one mode that its medians are taken over.
const RECENT: usize = 100;
/// Records that may wait; one that finds no room is lost, not the request.
const INBOX: usize = 4_096;

/// Counts and medians of one mode.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModeStats {
    /// Median seconds to the first content.
    pub ttft_s: Option<f64>,
    /// Median tokens per second of an answer.
    pub tokens_per_second: Option<f64>,
    /// Requests that completed since the router started.
    pub ok: u64,
    /// Requests that failed through the mesh's fault.
    pub failed: u64,
}

/// Why a request cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// None of the kept requests starts so.
    #[error("no request `{0}` among the last {CAPACITY}")]
    Unknown(String),
    /// Several do.
    #[error("`{prefix}` is the start of several requests: {}", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// Up to five of them.
        candidates: Vec<String>,
    },
    /// There was no request yet.
    #[error("there was no request since the router started")]
    Empty,
}

/// Candidates shown of a request: a mesh with hundreds of models must not fill the screen with reasons.
pub const CANDIDATES: usize = 64;

/// A request as far as it is known now. Clones share it.
#[derive(Debug, Clone)]
pub struct SharedRecord {
    record: Arc<Mutex<Record>>,
}

/// What is known of a request. Names are shared and words are static, so that a request pays little for being
/// remembered.
#[derive(Debug, Default)]
pub struct Record {
    /// Its id.
    pub id: Arc<str>,
    /// When it came, in milliseconds of the Unix time.
    pub at_unix_ms: u64,
    /// Where it came in.
    pub path: &'static str,
    /// The client's name for itself.
    pub client: String,
    /// Bytes of its body.
    pub body_bytes: u64,
    /// The model or mode that was asked for.
    pub asked: String,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The mode, `None` for a model asked for by name.
    pub mode: Option<ModeName>,
    /// Why the last node was tried.
    pub reason: String,
    /// Each try on a node.
    pub attempts: Vec<Attempted>,
    /// `running`, or how it ended.
    pub outcome: &'static str,
    /// More on that.
    pub outcome_detail: String,
    /// HTTP status.
    pub status: u16,
    /// Seconds to the first content, and to the end of a typical answer, predicted of the node tried last.
    pub predicted_s: (Option<f64>, Option<f64>),
    /// Seconds to the first content.
    pub ttft_s: Option<f64>,
    /// Seconds to the end.
    pub duration_s: Option<f64>,
    /// Seconds that it waited for slots, if it did.
    pub queued_s: Option<f64>,
    /// Tokens and times as the engine told them.
    pub usage: Usage,
    /// What was decided last.
    pub decision: Option<Arc<Decision>>,
    /// Or why nobody could serve: as many reasons as are shown.
    pub refused: Vec<Rejection>,
    /// Reasons beyond those.
    pub refused_more: usize,
}

/// One try on one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempted {
    /// Which node.
    pub node: MachineId,
    /// Which model.
    pub model: ModelId,
    /// Seconds after the request came.
    pub started_after_s: f64,
    /// What came of it.
    pub result: Cow<'static, str>,
}

impl From<Record> for SharedRecord {
    fn from(record: Record) -> Self {
        Self { record: Arc::new(Mutex::new(record)) }
    }
}

impl SharedRecord {
    /// The record. Held for an assignment or for making text of it, never across an await.
    pub fn lock(&self) -> MutexGuard<'_, Record> {
        // Each change is one assignment, so the record makes sense after any panic.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> ExplainReply {
        let record = self.lock();
        let decided = record.decision.as_deref();
        let ranked = decided.map(|decision| decision.ranked.as_slice()).unwrap_or_default();
        let rejected = decided.map_or(record.refused.as_slice(), |decision| decision.rejected.as_slice());
        let ranked = ranked.iter().enumerate().map(|(at, candidate)| candidate_line(at + 1, candidate));
        let mut candidates: Vec<CandidateLine> =
            ranked.chain(rejected.iter().map(rejection_line)).take(CANDIDATES).collect();
        if decided.is_none()
            && record.refused_more > 0
            && let Some(last) = candidates.last_mut()
        {
            last.why.push_str(&format!("; and {} more", record.refused_more));
        }
        ExplainReply {
            request_id: record.id.as_ref().into(),
            at_unix_ms: record.at_unix_ms,
            path: record.path.into(),
            asked: record.asked.clone(),
            mode: record.mode.as_ref().map(ToString::to_string).unwrap_or_default(),
            client: record.client.clone(),
            body_bytes: record.body_bytes,
            stream: record.stream,
            candidates,
            attempts: record.attempts.iter().map(attempt_line).collect(),
            outcome: record.outcome.into(),
            outcome_detail: record.outcome_detail.clone(),
            status: record.status.into(),
            ttft_s: record.ttft_s,
            duration_s: record.duration_s,
            prompt_tokens: record.usage.prompt_tokens,
            completion_tokens: record.usage.completion_tokens,
            tokens_per_second: record.usage.tokens_per_second(),
            reason: record.reason.clone(),
            queued_s: record.queued_s,
            predicted_ttft_s: record.predicted_s.0,
            predicted_answer_s: record.predicted_s.1,
        }
    }
}

fn attempt_line(attempt: &Attempted) -> AttemptLine {
    AttemptLine {
        node: attempt.node.to_string(),
        model: attempt.model.to_string(),
        started_after_s: attempt.started_after_s,
        result: attempt.result.as_ref().into(),
    }
}

fn candidate_line(rank: usize, candidate: &Candidate) -> CandidateLine {
    CandidateLine {
        node: candidate.machine.to_string(),
        model: candidate.model.to_string(),
        rank: u32::try_from(rank).unwrap_or(u32::MAX),
        why: candidate.why.to_string(),
        predicted_s: candidate.predicted_s,
        in_flight: candidate.in_flight,
        predicted_ttft_s: candidate.predicted_ttft_s,
        cached_tokens: candidate.cached_tokens,
        terms: candidate
            .terms
            .iter()
            .map(|(name, seconds)| CostTerm { name: (*name).into(), seconds: *seconds })
            .collect(),
    }
}

fn rejection_line(rejection: &Rejection) -> CandidateLine {
    CandidateLine {
        node: rejection.machine.to_string(),
        model: rejection.model.as_ref().map(ToString::to_string).unwrap_or_default(),
        why: rejection.why.to_string(),
        ..CandidateLine::default()
    }
}

enum Message {
    Begun(SharedRecord),
    Ended(Finish),
    Find(String, oneshot::Sender<Result<ExplainReply, NotFound>>),
    Stats(oneshot::Sender<BTreeMap<String, ModeStats>>),
}

/// A cheap way to the journal.
#[derive(Debug, Clone)]
pub struct Journal {
    inbox: mpsc::Sender<Message>,
}

impl Journal {
    /// Starts the task that owns the records; it ends with the last handle.
    #[must_use]
    pub fn start() -> Self {
        let (inbox, mut messages) = mpsc::channel(INBOX);
        tokio::spawn(async move {
            let mut records = Records::default();
            while let Some(message) = messages.recv().await {
                match message {
                    Message::Begun(record) => records.begun(record),
                    Message::Ended(finish) => records.ended(finish),
                    // Who asked may have gone meanwhile.
                    Message::Find(prefix, reply) => drop(reply.send(records.find(&prefix))),
                    Message::Stats(reply) => drop(reply.send(records.stats())),
                }
            }
        });
        Self { inbox }
    }

    /// Keeps a record, which goes on changing.
    pub fn begun(&self, record: SharedRecord) {
        self.send(Message::Begun(record));
    }

    /// Counts a request of a mode that has ended.
    pub fn ended(&self, finish: Finish) {
        self.send(Message::Ended(finish));
    }

    fn send(&self, message: Message) {
        if self.inbox.try_send(message).is_err() {
            tracing::debug!("a request's record was lost: the journal is busy");
        }
    }

    /// The record of a request by its id or a unique start of it; the newest one for an empty text.
    ///
    /// # Errors
    /// [`NotFound`] when there is none or more than one.
    pub async fn find(&self, prefix: &str) -> Result<ExplainReply, NotFound> {
        let (reply, answer) = oneshot::channel();
        drop(self.inbox.send(Message::Find(prefix.into(), reply)).await);
        answer.await.unwrap_or(Err(NotFound::Empty))
    }

    /// Counts and medians by mode.
    pub async fn stats(&self) -> BTreeMap<String, ModeStats> {
        let (reply, answer) = oneshot::channel();
        drop(self.inbox.send(Message::Stats(reply)).await);
        answer.await.unwrap_or_default()
    }
}

/// What counts of a request that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Its mode.
    pub mode: ModeName,
    /// `complete`, `failed`, `refused` or `cancelled`.
    pub outcome: &'static str,
    /// Seconds to its first content.
    pub ttft_s: Option<f64>,
    /// Seconds that it waited for slots, if it did.
    pub queued_s: Option<f64>,
    /// Tokens per second of its answer.
    pub tokens_per_second: Option<f64>,
}

#[derive(Default)]
struct Records {
    /// The oldest first.
    kept: VecDeque<SharedRecord>,
    modes: BTreeMap<ModeName, Recent>,
}

#[derive(Default)]
struct Recent {
    ttft: VecDeque<f64>,
    rate: VecDeque<f64>,
    ok: u64,
    failed: u64,
}

impl Records {
    fn begun(&mut self, record: SharedRecord) {
        if self.kept.len() == CAPACITY {
            self.kept.pop_front();
        }
        self.kept.push_back(record);
    }

    fn ended(&mut self, finish: Finish) {
        let recent = self.modes.entry(finish.mode).or_default();
        match finish.outcome {
            "complete" => recent.ok += 1,
            "failed" => recent.failed += 1,
            _ => {}
        }
        remember(&mut recent.ttft, finish.ttft_s);
        remember(&mut recent.rate, finish.tokens_per_second);
    }

    fn find(&self, prefix: &str) -> Result<ExplainReply, NotFound> {
        if prefix.is_empty() {
            return self.kept.back().map(SharedRecord::shown).ok_or(NotFound::Empty);
        }
        // A person asks now and then: ten thousand looks cost less than an index that every request keeps up.
        let starts = |record: &&SharedRecord| record.lock().id.starts_with(prefix);
        let hits: Vec<&SharedRecord> = self.kept.iter().filter(starts).take(5).collect();
        let exact = hits.iter().find(|record| record.lock().id.as_ref() == prefix);
        match (exact, hits.as_slice()) {
            (Some(record), _) | (None, [record]) => Ok(record.shown()),
            (None, []) => Err(NotFound::Unknown(prefix.into())),
            (None, several) => {
                let id = |record: &&SharedRecord| record.lock().id.to_string();
                Err(NotFound::Ambiguous {
                    prefix: prefix.into(),
                    candidates: several.iter().map(id).collect(),
                })
            }
        }
    }

    fn stats(&self) -> BTreeMap<String, ModeStats> {
        let stats = |recent: &Recent| ModeStats {
            ttft_s: median(&recent.ttft),
            tokens_per_second: median(&recent.rate),
            ok: recent.ok,
            failed: recent.failed,
        };
        self.modes.iter().map(|(mode, recent)| (mode.to_string(), stats(recent))).collect()
    }
}

fn remember(values: &mut VecDeque<f64>, value: Option<f64>) {
    if let Some(value) = value {
        values.push_back(value);
        if values.len() > RECENT {
            values.pop_front();
        }
    }
}

fn median(values: &VecDeque<f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> SharedRecord {
        Record { id: id.into(), ..Record::default() }.into()
    }

    fn finish(outcome: &'static str, ttft_s: f64) -> Finish {
        Finish {
            mode: "code".parse().expect("valid"),
            outcome,
            ttft_s: Some(ttft_s),
            queued_s: None,
            tokens_per_second: None,
        }
    }

    #[test]
    fn a_unique_start_finds_a_request_and_an_ambiguous_one_lists_them() {
        let mut records = Records::default();
        assert_eq!(records.find("x"), Err(NotFound::Unknown("x".into())));
        assert_eq!(records.find(""), Err(NotFound::Empty));
        records.begun(record("req-ab"));
        records.begun(record("req-ac"));
        assert_eq!(records.find("req-ab").map(|r| r.request_id), Ok("req-ab".into()));
        assert_eq!(records.find("").map(|r| r.request_id), Ok("req-ac".into()));
        let said = records.find("req-a").expect_err("two").to_string();
        assert_eq!(said, "`req-a` is the start of several requests: req-ab, req-ac");
    }

    #[test]
    fn only_the_last_ten_thousand_are_kept() {
        let mut records = Records::default();
        for number in 0..=CAPACITY {
            records.begun(record(&format!("req-{number:05}")));
        }
        assert!(records.find("req-00000").is_err());
        assert!(records.find("req-00001").is_ok());
        assert_eq!(records.kept.len(), CAPACITY);
    }

    #[test]
    fn a_record_is_found_as_it_is_now() {
        let (mut records, shared) = (Records::default(), record("req-1"));
        records.begun(shared.clone());
        shared.lock().outcome = "complete";
        assert_eq!(records.find("req-1").map(|r| r.outcome), Ok("complete".into()));
    }

    #[test]
    fn requests_of_a_mode_are_counted_by_how_they_ended() {
        let mut records = Records::default();
        for ended in [finish("complete", 0.3), finish("failed", 0.1), finish("complete", 0.2)] {
            records.ended(ended);
        }
        let stats = &records.stats()["code"];
        assert_eq!((stats.ok, stats.failed, stats.ttft_s), (2, 1, Some(0.2)));
    }
}
