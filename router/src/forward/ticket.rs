//! The life of one request as others see it: its record in the journal, its metrics, and the promise that it
//! ends exactly once: complete, failed, refused, or cancelled when nothing else was said.

use super::stream_guard::Usage;
use super::waiting_room::Stay;
use crate::journal::Journal;
use crate::metrics::{Metrics, ModeLabel, RequestLabels, TokenLabels};
use mesh_core::routing::{Candidate, Rejection};
use mesh_proto::v1::{AttemptLine, CandidateLine, CostTerm, ExplainReply};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The result of an attempt on an engine that loads its model.
pub const LOADING: &str = "still loading the model";

/// Candidates kept in a record: a mesh with hundreds of models must not fill the memory with reasons.
const CANDIDATES: usize = 64;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client has the whole answer.
    Complete,
    /// The mesh failed, and the client was told.
    Failed,
    /// The request itself was at fault.
    Refused,
    /// The client left first.
    Cancelled,
}

impl Ended {
    fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One request on its way. Dropping it without [`Ticket::end`] records a cancellation.
pub struct Ticket {
    record: ExplainReply,
    started: Instant,
    first_content: Option<Instant>,
    ended: bool,
    /// Its place in the waiting room: it counts for its key until the end.
    stay: Option<Arc<Stay>>,
    journal: Journal,
    metrics: Metrics,
}

impl Ticket {
    /// A request has come in.
    #[must_use]
    pub fn new(record: ExplainReply, journal: Journal, metrics: Metrics) -> Self {
        metrics.in_flight.inc();
        let started = Instant::now();
        Self { record, started, first_content: None, ended: false, stay: None, journal, metrics }
    }

    /// Keeps the request's place in the waiting room until it ends.
    pub fn keep(&mut self, stay: Arc<Stay>) {
        self.stay = Some(stay);
    }

    /// The request's place in the waiting room.
    #[must_use]
    pub fn stay(&self) -> Option<&Arc<Stay>> {
        self.stay.as_ref()
    }

    /// How long it has waited for slots so far.
    pub fn queued(&mut self, queued: Duration) {
        self.record.queued_s = Some(queued.as_secs_f64());
    }

    /// The request's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.record.request_id
    }

    /// What the client asked for, shortened: a model name has no reason to be long.
    pub fn asked(&mut self, asked: &str, stream: bool) {
        self.record.asked = asked.chars().take(256).collect();
        self.record.stream = stream;
    }

    /// The mode, empty for a model asked for by name.
    #[must_use]
    pub fn mode(&self) -> &str {
        &self.record.mode
    }

    /// Why the last node was tried.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.record.reason
    }

    /// The mode, once known.
    pub fn set_mode(&mut self, mode: &str) {
        self.record.mode = mode.into();
    }

    /// What the decision was, in place of an earlier one.
    pub fn decided(&mut self, ranked: &[Candidate], rejected: &[Rejection]) {
        let ranked = ranked.iter().enumerate().map(|(at, candidate)| CandidateLine {
            node: candidate.machine.to_string(),
            model: candidate.model.to_string(),
            rank: u32::try_from(at + 1).unwrap_or(u32::MAX),
            why: candidate.why.to_string(),
            predicted_s: candidate.predicted_s,
            in_flight: candidate.in_flight,
            terms: candidate
                .terms
                .iter()
                .map(|(name, seconds)| CostTerm { name: (*name).into(), seconds: *seconds })
                .collect(),
        });
        let rejected = rejected.iter().map(|rejection| CandidateLine {
            node: rejection.machine.to_string(),
            model: rejection.model.as_ref().map(ToString::to_string).unwrap_or_default(),
            why: rejection.why.to_string(),
            ..CandidateLine::default()
        });
        self.record.candidates = ranked.chain(rejected).take(CANDIDATES).collect();
        self.journal.put(self.record.clone());
    }

    /// A node is being tried, and why this one.
    pub fn attempt(&mut self, candidate: &Candidate, reason: &str) {
        self.record.reason = reason.into();
        // Asked again while it loads: one line, not four a second.
        let again = |last: &&mut AttemptLine| {
            last.result == LOADING
                && last.node == candidate.machine.as_str()
                && last.model == candidate.model.as_str()
        };
        if let Some(last) = self.record.attempts.last_mut().filter(again) {
            last.result = "running".into();
            return;
        }
        self.record.attempts.push(AttemptLine {
            node: candidate.machine.to_string(),
            model: candidate.model.to_string(),
            started_after_s: self.started.elapsed().as_secs_f64(),
            result: "running".into(),
        });
    }

    /// What came of the last attempt.
    pub fn attempt_ended(&mut self, result: impl Into<String>) {
        if let Some(attempt) = self.record.attempts.last_mut() {
            attempt.result = result.into();
        }
    }

    /// What came of the last attempt.
    #[must_use]
    pub fn last_result(&self) -> &str {
        self.record.attempts.last().map_or("", |attempt| attempt.result.as_str())
    }

    /// Every attempt so far in one line, for an error message.
    #[must_use]
    pub fn attempts_text(&self) -> String {
        let lines: Vec<String> = self
            .record
            .attempts
            .iter()
            .map(|attempt| format!("{}: {}", attempt.node, attempt.result))
            .collect();
        lines.join("; ")
    }

    /// The first content is there.
    pub fn first_content(&mut self) {
        if self.first_content.is_none() {
            self.first_content = Some(Instant::now());
            self.record.ttft_s = Some(self.started.elapsed().as_secs_f64());
        }
    }

    /// Time since the first content.
    #[must_use]
    pub fn since_first_content(&self) -> Option<Duration> {
        self.first_content.map(|at| at.elapsed())
    }

    /// The request has ended.
    pub fn end(&mut self, ended: Ended, status: u16, detail: &str, usage: Usage) {
        if self.ended {
            return;
        }
        self.ended = true;
        let duration = self.started.elapsed().as_secs_f64();
        self.record.outcome = ended.word().into();
        self.record.outcome_detail = detail.into();
        self.record.status = status.into();
        self.record.duration_s = Some(duration);
        self.record.prompt_tokens = usage.prompt_tokens;
        self.record.completion_tokens = usage.completion_tokens;
        let decode = usage.timing.filter(|timing| timing.decode_s > 0.0);
        self.record.tokens_per_second = decode.map(|timing| timing.decode_tokens as f64 / timing.decode_s);
        self.metrics.in_flight.dec();
        let mode = ModeLabel { mode: self.record.mode.clone() };
        if let Some(ttft) = self.record.ttft_s {
            self.metrics.ttft.get_or_create(&mode).observe(ttft);
        }
        self.metrics.duration.get_or_create(&mode).observe(duration);
        if let Some(queued) = self.record.queued_s {
            self.metrics.queued.get_or_create(&mode).observe(queued);
        }
        self.stay = None;
        let node = self.record.attempts.last().map(|attempt| attempt.node.clone()).unwrap_or_default();
        for (kind, tokens) in [("prompt", usage.prompt_tokens), ("completion", usage.completion_tokens)] {
            if let Some(tokens) = tokens {
                self.metrics.tokens.get_or_create(&TokenLabels { node: node.clone(), kind }).inc_by(tokens);
            }
        }
        let labels = RequestLabels { mode: mode.mode, node, outcome: ended.word() };
        self.metrics.requests.get_or_create(&labels).inc();
        tracing::debug!(
            request_id = self.record.request_id,
            outcome = ended.word(),
            status,
            duration,
            "request ended"
        );
        self.journal.put(std::mem::take(&mut self.record));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // 499 is what nginx logs for a client that left.
        if let Some(attempt) = self.record.attempts.last_mut()
            && attempt.result == "running"
        {
            attempt.result = "cancelled".into();
        }
        self.end(Ended::Cancelled, 499, "the client closed the connection", Usage::default());
    }
}
