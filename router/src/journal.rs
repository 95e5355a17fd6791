//! What became of the last requests: for `meshctl explain`, and for the medians in `meshctl status`.
//!
//! One task owns the list of records. A request shares its record with the list and goes on writing in it; at its end
//! the record becomes one small piece of bytes.

mod wire;

use crate::forward::stream_guard::Usage;
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::routing::{Candidate, Decision, Rejection};
use mesh_proto::v1::ExplainReply;
use prost::Message as _;
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
}

impl Record {
    /// Who can serve, best first, and who cannot.
    fn candidates(&self) -> (&[Candidate], &[Rejection]) {
        match self.decision.as_deref() {
            Some(decision) => (&decision.ranked, &decision.rejected),
            None => (&[], &self.refused),
        }
    }

    /// Reasons beyond those that are kept.
    fn more(&self) -> Option<usize> {
        (self.decision.is_none() && self.refused_more > 0).then_some(self.refused_more)
    }
}

/// One of the last requests.
enum Kept {
    /// It goes on.
    Open(SharedRecord),
    /// It has ended: an encoded [`ExplainReply`].
    Closed(Box<[u8]>),
}

impl Kept {
    fn with_id<T>(&self, read: impl FnOnce(&str) -> T) -> T {
        match self {
            Self::Open(record) => read(&record.lock().id),
            Self::Closed(bytes) => read(wire::id_of(bytes)),
        }
    }

    fn shown(&self) -> ExplainReply {
        let reply = match self {
            Self::Open(record) => ExplainReply::decode(&*wire::Writer::default().write(&record.lock())),
            Self::Closed(bytes) => ExplainReply::decode(&**bytes),
        };
        reply.expect("it was written as this message")
    }
}

enum Message {
    Begun(SharedRecord),
    Ended(SharedRecord, Option<Finish>),
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
                    Message::Ended(record, finish) => {
                        records.close(&record);
                        finish.into_iter().for_each(|finish| records.ended(finish));
                    }
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

    /// A request has ended, and its record is final. One of a mode is counted.
    pub fn ended(&self, record: SharedRecord, finish: Option<Finish>) {
        self.send(Message::Ended(record, finish));
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
    kept: VecDeque<Kept>,
    writer: wire::Writer,
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
        self.kept.push_back(Kept::Open(record));
    }

    /// Keeps a record that is final in little memory.
    fn close(&mut self, record: &SharedRecord) {
        let is_it =
            |kept: &&mut Kept| matches!(kept, Kept::Open(open) if Arc::ptr_eq(&open.record, &record.record));
        // Most requests are short, and so among the last.
        if let Some(kept) = self.kept.iter_mut().rev().find(is_it) {
            *kept = Kept::Closed(self.writer.write(&record.lock()));
        }
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
            return self.kept.back().map(Kept::shown).ok_or(NotFound::Empty);
        }
        // A person asks now and then: ten thousand looks cost less than an index that every request keeps up.
        let starts = |kept: &&Kept| kept.with_id(|id| id.starts_with(prefix));
        let hits: Vec<&Kept> = self.kept.iter().filter(starts).take(5).collect();
        let exact = hits.iter().find(|kept| kept.with_id(|id| id == prefix));
        match (exact, hits.as_slice()) {
            (Some(kept), _) | (None, [kept]) => Ok(kept.shown()),
            (None, []) => Err(NotFound::Unknown(prefix.into())),
            (None, several) => Err(NotFound::Ambiguous {
                prefix: prefix.into(),
                candidates: several.iter().map(|kept| kept.with_id(str::to_owned)).collect(),
            }),
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
    use mesh_core::routing::Why;
    use mesh_core::speed::Timing;
    use mesh_proto::v1::{AttemptLine, CandidateLine, CostTerm};

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
    fn a_finished_record_tells_all_that_it_knew() {
        let (machine, model) = (|| "strix".parse().expect("valid"), || "tiny:1b".parse().expect("valid"));
        let candidate = Candidate {
            in_flight: 3,
            predicted_s: Some(1.5),
            predicted_ttft_s: Some(0.0),
            cached_tokens: 40,
            terms: vec![("prefill", 1.25), ("bias", -0.25)],
            ..Candidate::new(machine(), model())
        };
        let rejected =
            vec![Rejection { machine: "msi".parse().expect("valid"), model: None, why: Why::Draining }];
        let decision = Decision { ranked: vec![candidate], rejected, feasible: 1, any_free: true };
        let timing = Timing { decode_tokens: 40, decode_s: 2.0, ..Timing::default() };
        let shared = SharedRecord::from(Record {
            id: "req-1".into(),
            at_unix_ms: 1_790_000_000_000,
            path: "/v1/chat/completions",
            client: "sdk \u{e9}".into(),
            body_bytes: 300,
            asked: "mesh/code".into(),
            stream: true,
            mode: Some("code".parse().expect("valid")),
            reason: "only candidate".into(),
            attempts: vec![Attempted {
                node: machine(),
                model: model(),
                started_after_s: 0.25,
                result: "answered".into(),
            }],
            outcome: "complete",
            outcome_detail: "a detail".into(),
            status: 200,
            predicted_s: (Some(0.5), Some(4.0)),
            ttft_s: Some(0.75),
            duration_s: Some(3.0),
            queued_s: Some(0.125),
            usage: Usage { prompt_tokens: Some(0), completion_tokens: Some(40), timing: Some(timing) },
            decision: Some(Arc::new(decision)),
            refused: Vec::new(),
            refused_more: 0,
        });
        let wanted = ExplainReply {
            request_id: "req-1".into(),
            at_unix_ms: 1_790_000_000_000,
            path: "/v1/chat/completions".into(),
            asked: "mesh/code".into(),
            mode: "code".into(),
            client: "sdk \u{e9}".into(),
            body_bytes: 300,
            stream: true,
            candidates: vec![
                CandidateLine {
                    node: "strix".into(),
                    model: "tiny:1b".into(),
                    rank: 1,
                    why: Why::OnlyCandidate.to_string(),
                    predicted_s: Some(1.5),
                    in_flight: 3,
                    terms: vec![
                        CostTerm { name: "prefill".into(), seconds: 1.25 },
                        CostTerm { name: "bias".into(), seconds: -0.25 },
                    ],
                    predicted_ttft_s: Some(0.0),
                    cached_tokens: 40,
                },
                CandidateLine { node: "msi".into(), why: "draining".into(), ..CandidateLine::default() },
            ],
            attempts: vec![AttemptLine {
                node: "strix".into(),
                model: "tiny:1b".into(),
                started_after_s: 0.25,
                result: "answered".into(),
            }],
            outcome: "complete".into(),
            outcome_detail: "a detail".into(),
            status: 200,
            ttft_s: Some(0.75),
            duration_s: Some(3.0),
            prompt_tokens: Some(0),
            completion_tokens: Some(40),
            tokens_per_second: Some(20.0),
            reason: "only candidate".into(),
            queued_s: Some(0.125),
            predicted_ttft_s: Some(0.5),
            predicted_answer_s: Some(4.0),
        };
        let mut records = Records::default();
        records.begun(record("req-0"));
        records.begun(shared.clone());
        records.begun(record("req-2"));
        assert_eq!(records.find("req-1"), Ok(wanted.clone()), "as it is known while it goes on");
        records.close(&shared);
        assert!(matches!(records.kept[1], Kept::Closed(_)) && matches!(records.kept[0], Kept::Open(_)));
        assert_eq!(records.find("req-1"), Ok(wanted), "and once it has ended");
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
