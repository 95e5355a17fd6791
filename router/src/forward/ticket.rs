//! The life of one request as others see it: its record in the journal, its metrics, and the promise that it
//! ends exactly once: complete, failed, refused, or cancelled when nothing else was said.

use super::refusals;
use super::stream_guard::Usage;
use super::waiting_room::Stay;
use crate::http::shortened;
use crate::journal::{Attempted, Finish, Journal, Record, SharedRecord};
use crate::metrics::{COMPLETE, End, Metrics, ReasonLabel};
use mesh_core::id::ModeName;
use mesh_core::routing::{Candidate, Decision, Rejection};
use mesh_core::units::Moment;
use mesh_daemon::clock::Clock;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// The result of an attempt on an engine that loads its model.
pub const LOADING: &str = "still loading the model";

/// Characters of what a client asked for that are kept.
const ASKED_LIMIT: usize = 256;

/// Reasons that are kept of a request that nobody could serve: as many as are shown of one.
const REASONS: usize = crate::journal::CANDIDATES;

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
            Self::Complete => COMPLETE,
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One request on its way. Dropping it without [`Ticket::end`] records a cancellation, or that a newer one took its place.
pub struct Ticket {
    id: Arc<str>,
    mode: Option<ModeName>,
    record: SharedRecord,
    /// The journal has it.
    kept: bool,
    clock: Clock,
    started: Moment,
    first_content: Option<Moment>,
    ended: bool,
    clamped: Option<String>,
    /// Its place in the waiting room: it counts for its key until the end.
    stay: Option<Arc<Stay>>,
    journal: Journal,
    metrics: Metrics,
}

impl Ticket {
    /// A request has come in, at `started` by `clock`.
    #[must_use]
    pub fn new(record: Record, clock: Clock, started: Moment, journal: Journal, metrics: Metrics) -> Self {
        metrics.in_flight.inc();
        Self {
            id: record.id.clone(),
            mode: record.mode.clone(),
            record: record.into(),
            kept: false,
            clock,
            started,
            first_content: None,
            ended: false,
            clamped: None,
            stay: None,
            journal,
            metrics,
        }
    }

    /// Keeps the request's place in the waiting room until it ends.
    pub fn stays(&mut self, stay: Arc<Stay>) {
        self.stay = Some(stay);
        // Who waits there can be asked about already.
        self.keep();
    }

    /// The request's place in the waiting room.
    #[must_use]
    pub fn stay(&self) -> Option<&Arc<Stay>> {
        self.stay.as_ref()
    }

    /// How long it has waited for slots so far.
    pub fn queued(&mut self, queued: Duration) {
        self.record.lock().queued_s = Some(queued.as_secs_f64());
    }

    /// The request's id.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// What the client asked for, shortened: a model name has no reason to be long.
    pub fn asked(&mut self, asked: &str, stream: bool) {
        let mut record = self.record.lock();
        record.asked = shortened(asked, ASKED_LIMIT).to_owned();
        record.stream = stream;
    }

    /// The answer's limit was lowered for the attempt that runs now: to what, and why.
    pub fn clamped(&mut self, to: Option<String>) {
        self.clamped = to;
    }

    /// To what the answer's limit was lowered, and why.
    #[must_use]
    pub fn is_clamped(&self) -> Option<&str> {
        self.clamped.as_deref()
    }

    /// The router's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The mode, `None` for a model asked for by name.
    #[must_use]
    pub fn mode(&self) -> Option<&ModeName> {
        self.mode.as_ref()
    }

    /// Why the last node was tried.
    #[must_use]
    pub fn reason(&self) -> String {
        self.record.lock().reason.clone()
    }

    /// The mode, once known.
    pub fn set_mode(&mut self, mode: &ModeName) {
        self.mode = Some(mode.clone());
        self.record.lock().mode = self.mode.clone();
    }

    /// What the decision was, in place of an earlier one.
    pub fn decided(&mut self, decision: Arc<Decision>) {
        self.record.lock().decision = Some(decision);
        self.keep();
    }

    /// Nobody can serve, and why.
    pub fn nobody(&mut self, rejected: &[Rejection]) {
        let mut record = self.record.lock();
        record.decision = None;
        record.refused = rejected.iter().take(REASONS).cloned().collect();
        record.refused_more = rejected.len().saturating_sub(REASONS);
        drop(record);
        self.keep();
    }

    fn keep(&mut self) {
        if !std::mem::replace(&mut self.kept, true) {
            self.journal.begun(self.record.clone());
        }
    }

    /// A node is being tried since `now`, and why this one.
    pub fn attempt(&mut self, candidate: &Candidate, reason: String, now: Moment) {
        let mut record = self.record.lock();
        record.reason = reason;
        record.predicted_s = (candidate.predicted_ttft_s, candidate.predicted_answer_s);
        record.attempts.push(Attempted {
            node: candidate.machine.clone(),
            model: candidate.model.clone(),
            started_after_s: now.since(self.started).as_secs_f64(),
            result: "running".into(),
        });
    }

    /// What came of the last attempt.
    pub fn attempt_ended(&mut self, result: impl Into<Cow<'static, str>>) {
        let attempts = &mut self.record.lock().attempts;
        let Some(mut last) = attempts.pop() else { return };
        last.result = result.into();
        // Asked again and again while a model is loaded: one line for each thing that a replica said, not four a second.
        let same = |line: &Attempted| {
            (&line.node, &line.model, &line.result) == (&last.node, &last.model, &last.result)
        };
        if let Some(at) = attempts.iter().position(same) {
            last.started_after_s = attempts.remove(at).started_after_s;
        }
        attempts.push(last);
    }

    /// What came of the last attempt.
    #[must_use]
    pub fn last_result(&self) -> Cow<'static, str> {
        let record = self.record.lock();
        record.attempts.last().map(|attempt| attempt.result.clone()).unwrap_or_default()
    }

    /// Every attempt so far in one line, for an error message.
    #[must_use]
    pub fn attempts_text(&self) -> String {
        let record = self.record.lock();
        let attempts = record.attempts.iter();
        let lines: Vec<String> =
            attempts.map(|attempt| format!("{}: {}", attempt.node, attempt.result)).collect();
        lines.join("; ")
    }

    /// The first content is there `now`.
    pub fn first_content(&mut self, now: Moment) {
        if self.first_content.is_none() {
            self.first_content = Some(now);
            self.record.lock().ttft_s = Some(now.since(self.started).as_secs_f64());
        }
    }

    /// Time from the first content until `now`.
    #[must_use]
    pub fn since_first_content(&self, now: Moment) -> Option<Duration> {
        self.first_content.map(|at| now.since(at))
    }

    /// What the time is for this request.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// The request has ended.
    pub fn end(&mut self, ended: Ended, status: u16, detail: &str, usage: Usage) {
        self.end_at(self.now(), ended, status, detail, usage);
    }

    /// The same for one that knows what the time is.
    pub fn end_at(&mut self, now: Moment, ended: Ended, status: u16, detail: &str, usage: Usage) {
        if self.ended {
            return;
        }
        self.ended = true;
        let duration = now.since(self.started).as_secs_f64();
        let mut record = self.record.lock();
        record.outcome = ended.word();
        record.outcome_detail = detail.into();
        record.status = status;
        record.duration_s = Some(duration);
        record.usage = usage;
        let (ttft_s, queued_s) = (record.ttft_s, record.queued_s);
        let node = record.attempts.last().map(|attempt| attempt.node.clone());
        drop(record);
        let outcome = ended.word();
        tracing::debug!(request_id = &*self.id, outcome, status, duration, "request ended");
        if let Some(stay) = self.stay.take()
            && ended != Ended::Complete
            && (ended != Ended::Cancelled || self.first_content.is_none())
        {
            stay.in_vain();
        }
        self.metrics.in_flight.dec();
        self.metrics.ended(End {
            mode: self.mode.clone(),
            node,
            outcome,
            ttft_s,
            duration_s: duration,
            queued_s,
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
        });
        self.keep();
        let tokens_per_second = usage.tokens_per_second();
        let finish =
            self.mode.clone().map(|mode| Finish { mode, outcome, ttft_s, queued_s, tokens_per_second });
        self.journal.ended(self.record.clone(), finish);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let superseded = self.stay.as_ref().is_some_and(|stay| stay.is_superseded());
        let how = if superseded { "superseded" } else { "cancelled" };
        if let Some(attempt) = self.record.lock().attempts.last_mut()
            && attempt.result == "running"
        {
            attempt.result = how.into();
        }
        if superseded {
            let error = refusals::superseded();
            self.metrics.refusals.get_or_create(&ReasonLabel { reason: error.code }).inc();
            self.end(Ended::Refused, error.status.as_u16(), &error.message, Usage::default());
        } else {
            // 499 is what nginx logs for a client that left.
            self.end(Ended::Cancelled, 499, "the client closed the connection", Usage::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::id::MachineId;
    use mesh_core::routing::Why;

    #[tokio::test]
    async fn of_many_machines_that_cannot_serve_some_are_kept_and_the_rest_is_counted() {
        let journal = Journal::start();
        let record = Record { id: "req-1".into(), ..Record::default() };
        let clock = Clock::start();
        let mut ticket = Ticket::new(record, clock, clock.now(), journal.clone(), Metrics::new());
        let rejection = |number: usize| Rejection {
            machine: MachineId::new(format!("box-{number}")).expect("valid"),
            model: None,
            why: Why::Draining,
        };
        let all: Vec<Rejection> = (0..500).map(rejection).collect();
        for (count, last) in [(500, "draining; and 436 more"), (65, "draining; and 1 more"), (64, "draining")]
        {
            ticket.nobody(&all[..count]);
            assert!(ticket.record.lock().refused.capacity() <= 64);
            let told = journal.find("req-1").await.expect("it is kept").candidates;
            assert_eq!((told.len(), told[63].why.as_str()), (64, last));
            assert_eq!(told[62].why, "draining");
        }
    }
}
