//! What became of the last requests: for `meshctl explain`, and for the medians in `meshctl status`.
//!
//! One task owns the records; the request path hands over finished records and never waits for it.

use mesh_proto::v1::ExplainReply;
use std::collections::{BTreeMap, VecDeque};
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

enum Message {
    Put(Box<ExplainReply>),
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
                    Message::Put(record) => records.put(*record),
                    // Who asked may have gone meanwhile.
                    Message::Find(prefix, reply) => drop(reply.send(records.find(&prefix))),
                    Message::Stats(reply) => drop(reply.send(records.stats())),
                }
            }
        });
        Self { inbox }
    }

    /// Keeps a record, in place of an earlier one of the same request.
    pub fn put(&self, record: ExplainReply) {
        if self.inbox.try_send(Message::Put(Box::new(record))).is_err() {
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

#[derive(Default)]
struct Records {
    order: VecDeque<String>,
    by_id: BTreeMap<String, ExplainReply>,
    modes: BTreeMap<String, Recent>,
}

#[derive(Default)]
struct Recent {
    ttft: VecDeque<f64>,
    rate: VecDeque<f64>,
    ok: u64,
    failed: u64,
}

impl Records {
    fn put(&mut self, record: ExplainReply) {
        if record.outcome != "running" && !record.mode.is_empty() {
            let recent = self.modes.entry(record.mode.clone()).or_default();
            match record.outcome.as_str() {
                "complete" => recent.ok += 1,
                "failed" => recent.failed += 1,
                _ => {}
            }
            remember(&mut recent.ttft, record.ttft_s);
            remember(&mut recent.rate, record.tokens_per_second);
        }
        let id = record.request_id.clone();
        if self.by_id.insert(id.clone(), record).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }

    fn find(&self, prefix: &str) -> Result<ExplainReply, NotFound> {
        if prefix.is_empty() {
            let newest = self.order.back().and_then(|id| self.by_id.get(id));
            return newest.cloned().ok_or(NotFound::Empty);
        }
        let mut hits = self.by_id.range(prefix.to_owned()..).take_while(|(id, _)| id.starts_with(prefix));
        match (hits.next(), hits.next()) {
            (None, _) => Err(NotFound::Unknown(prefix.into())),
            (Some((id, record)), other) if other.is_none() || id == prefix => Ok(record.clone()),
            (Some((first, _)), second) => {
                let rest = second.into_iter().chain(hits).map(|(id, _)| id.clone());
                let candidates = std::iter::once(first.clone()).chain(rest).take(5).collect();
                Err(NotFound::Ambiguous { prefix: prefix.into(), candidates })
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
        self.modes.iter().map(|(mode, recent)| (mode.clone(), stats(recent))).collect()
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

    fn record(id: &str, outcome: &str, ttft_s: f64) -> ExplainReply {
        ExplainReply {
            request_id: id.into(),
            mode: "code".into(),
            outcome: outcome.into(),
            ttft_s: Some(ttft_s),
            ..ExplainReply::default()
        }
    }

    #[test]
    fn a_unique_start_finds_a_request_and_an_ambiguous_one_lists_them() {
        let mut records = Records::default();
        assert_eq!(records.find("x"), Err(NotFound::Unknown("x".into())));
        assert_eq!(records.find(""), Err(NotFound::Empty));
        records.put(record("req-ab", "complete", 0.1));
        records.put(record("req-ac", "complete", 0.1));
        assert_eq!(records.find("req-ab").map(|r| r.request_id), Ok("req-ab".into()));
        assert_eq!(records.find("").map(|r| r.request_id), Ok("req-ac".into()));
        let said = records.find("req-a").expect_err("two").to_string();
        assert_eq!(said, "`req-a` is the start of several requests: req-ab, req-ac");
    }

    #[test]
    fn only_the_last_ten_thousand_are_kept() {
        let mut records = Records::default();
        for number in 0..=CAPACITY {
            records.put(record(&format!("req-{number:05}"), "complete", 0.1));
        }
        assert!(records.find("req-00000").is_err());
        assert!(records.find("req-00001").is_ok());
        assert_eq!(records.by_id.len(), CAPACITY);
    }

    #[test]
    fn a_running_request_counts_once_when_it_has_ended() {
        let mut records = Records::default();
        records.put(record("a", "running", 0.1));
        records.put(record("a", "complete", 0.3));
        records.put(record("b", "failed", 0.1));
        records.put(record("c", "complete", 0.2));
        let stats = &records.stats()["code"];
        assert_eq!((stats.ok, stats.failed, stats.ttft_s), (2, 1, Some(0.2)));
    }
}
