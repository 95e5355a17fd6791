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
/// Requests that are listed where the start of an id fits several.
const LISTED: usize = 5;
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
    #[error(
        "`{prefix}` is the start of several requests: {}{}",
        candidates.join(", "),
        if *more > 0 { format!(", +{more} more") } else { String::new() }
    )]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The latest of them, up to five, newest first.
        candidates: Vec<String>,
        /// How many others there are.
        more: usize,
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
        let hits: Vec<&Kept> = self.kept.iter().rev().filter(starts).collect();
        let exact = hits.iter().find(|kept| kept.with_id(|id| id == prefix));
        match (exact, hits.as_slice()) {
            (Some(kept), _) | (None, [kept]) => Ok(kept.shown()),
            (None, []) => Err(NotFound::Unknown(prefix.into())),
            (None, several) => Err(NotFound::Ambiguous {
                prefix: prefix.into(),
                candidates: several.iter().take(LISTED).map(|kept| kept.with_id(str::to_owned)).collect(),
                more: several.len().saturating_sub(LISTED),
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
mod tests;
