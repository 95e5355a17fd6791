//! A stream on its way from a node to the client: the bytes as they come, an explicit error where they stop too
//! early, and one record of how it ended.

use super::agent_links::{AnswerBody, LinkError};
use super::answer_judge::{Judgement, Truth, comment_before_done};
use super::attempt::Failure;
use super::ending::Ending;
use super::in_flight::Claim;
use super::refusals;
use super::stream_guard::{StreamGuard, Usage};
use super::ticket::{Ended, Ticket};
use crate::fleet_keeper::FleetHandle;
use crate::http::dialect::Dialect;
use crate::http::dialect::pieces::NoAnswer;
use crate::http::dialect::translation::Translation;
use crate::http::reply::{ApiError, Reply, with_room};
use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use mesh_core::fleet::Outcome;
use mesh_core::routing::Candidate;
use mesh_core::speed::Timing;
use mesh_core::units::Moment;
use serde_json::json;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// An engine has this long to end its stream after `[DONE]`, so that its end is not taken for a cancellation.
const AFTER_DONE: Duration = Duration::from_secs(1);

/// A stream that is silent for this long between two chunks has died. Slow CPUs need seconds for a token.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Silence is looked for this often in [`STALL_LIMIT`], so that a chunk costs no look at the clock.
const STALL_LOOKS: u32 = 6;

/// The most bytes of a stream before its first content: roles and comments. They wait here for it.
const BEFORE_CONTENT: usize = 1 << 20;

/// What ends a stream early, and what is known of its way.
pub(super) struct Terms {
    /// To the node, when the stream began.
    pub(super) round_trip: Option<Duration>,
    /// The longest silence, where it is less than a minute.
    pub(super) patience: Duration,
    /// The router waits no longer.
    pub(super) ending: Ending,
}

/// A stream that has content: the bytes so far, and the rest of it.
pub struct StreamAttempt {
    content_type: String,
    pending: Vec<Bytes>,
    body: AnswerBody,
    pub(super) guard: StreamGuard,
    translation: Option<Translation>,
    dialect: Dialect,
    pub(super) truth: Truth,
}

impl StreamAttempt {
    /// Waits for the first content of a stream.
    ///
    /// # Errors
    /// [`Failure::Replica`] when it ends, breaks or tells an error before.
    pub async fn begin(
        mut body: AnswerBody,
        content_type: String,
        mut guard: StreamGuard,
        mut translation: Option<Translation>,
        dialect: Dialect,
        mut truth: Truth,
    ) -> Result<Self, Failure> {
        let (mut pending, mut length) = (Vec::new(), 0);
        loop {
            let seen = guard.seen();
            if seen.error {
                return Err(Failure::Replica("it sent an error instead of an answer".into()));
            }
            // One that has ended with nothing is heard to its end: another node may do better.
            if seen.content && (seen.done || !truth.judge.ended_with_nothing()) {
                told(&mut translation, &mut pending)?;
                return Ok(Self { content_type, pending, body, guard, translation, dialect, truth });
            }
            if seen.done {
                return Err(Failure::Replica("it ended the stream without any content".into()));
            }
            // After a finish without a word only the end is worth waiting for, and that should be here.
            let limit = if seen.content { AFTER_DONE } else { Duration::MAX };
            let chunk = tokio::time::timeout(limit, body.next())
                .await
                .map_err(|_| Failure::Replica("it ended the stream without any content".into()))?
                .ok_or_else(|| Failure::Replica("it closed the stream before any content".into()))??;
            length += chunk.len();
            let looked_at = pending.len();
            guard.push(chunk, &mut pending).map_err(|error| Failure::Replica(error.to_string()))?;
            pending[looked_at..].iter().for_each(|frames| truth.judge.look(frames));
            let has_text = guard.seen().content && !truth.judge.ended_with_nothing();
            if length > BEFORE_CONTENT && !has_text {
                return Err(Failure::Replica("it sent over 1 MiB without any content".into()));
            }
        }
    }

    /// The client's answer. The claim is held and the ticket stays open until the stream has ended. It is ended
    /// with an error after a minute of silence, or after the patience of `terms` where that is less, and when the
    /// router waits no longer.
    #[must_use]
    pub(super) fn reply(
        self,
        fleet: FleetHandle,
        candidate: Candidate,
        claim: Box<Claim>,
        ticket: Ticket,
        terms: Terms,
    ) -> Reply {
        let Terms { round_trip, patience, ending } = terms;
        let Self { content_type, pending, body, guard, translation, dialect, truth } = self;
        let mut flow = Flow {
            body,
            guard,
            translation,
            dialect,
            truth,
            pending,
            open: Some((claim, ticket)),
            fleet,
            candidate,
            round_trip,
            over: false,
            silence: Silence::new(STALL_LIMIT.min(patience)),
            ending,
        };
        flow.note_end();
        // The last is taken first.
        flow.pending.reverse();
        let mut reply = with_room(flow.boxed_unsync());
        let headers = reply.headers_mut();
        let kind = HeaderValue::from_str(&content_type);
        headers.insert(CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static("text/event-stream")));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Keeps nginx and its like from collecting tokens.
        headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        reply
    }
}

/// Bytes for the client: as they are, or told in its dialect.
fn told(translation: &mut Option<Translation>, frames: &mut Vec<Bytes>) -> Result<(), NoAnswer> {
    if let Some(translation) = translation {
        for frame in frames.iter_mut() {
            *frame = translation.frames(frame)?;
        }
        frames.retain(|frame| !frame.is_empty());
    }
    Ok(())
}

/// Notices that nothing has come for too long.
struct Silence {
    /// The longest silence between two chunks.
    limit: Duration,
    /// Made when it is first waited for.
    look: Option<Pin<Box<Sleep>>>,
    /// Whom it will wake.
    waker: Option<Waker>,
    /// Something came since the last look.
    heard: bool,
    /// Looks in a row that found nothing new.
    silent: u32,
    /// What was waited for after the end.
    after_done: bool,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        Self { limit, look: None, waker: None, heard: false, silent: 0, after_done: false }
    }

    /// Completes when nothing was heard for the limit, or [`AFTER_DONE`] after the end, whatever is heard then.
    fn poll(&mut self, done: bool, context: &mut Context<'_>) -> Poll<Duration> {
        let pause = if done { AFTER_DONE } else { self.limit / STALL_LOOKS };
        let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        if done && !self.after_done {
            self.after_done = true;
            look.as_mut().reset(Instant::now() + AFTER_DONE);
            // A timer that has fired has forgotten whom to wake.
            self.waker = None;
        }
        // A timer that knows whom to wake need not be asked for each chunk.
        if !look.is_elapsed() && self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            return Poll::Pending;
        }
        self.waker = Some(context.waker().clone());
        loop {
            ready!(look.as_mut().poll(context));
            if done {
                return Poll::Ready(AFTER_DONE);
            }
            self.silent = if self.heard { 0 } else { self.silent + 1 };
            self.heard = false;
            if self.silent >= STALL_LOOKS {
                return Poll::Ready(self.limit);
            }
            look.as_mut().reset(Instant::now() + pause);
        }
    }
}

/// A stream on its way to the client. Dropped early = the client has left: the body's drop cancels the engine,
/// the ticket's drop records it.
struct Flow {
    body: AnswerBody,
    guard: StreamGuard,
    translation: Option<Translation>,
    dialect: Dialect,
    truth: Truth,
    /// Ready for the client, the last piece first.
    pending: Vec<Bytes>,
    /// Gone once the end was recorded.
    open: Option<(Box<Claim>, Ticket)>,
    fleet: FleetHandle,
    candidate: Candidate,
    /// To the node, when the stream began.
    round_trip: Option<Duration>,
    over: bool,
    silence: Silence,
    ending: Ending,
}

impl Body for Flow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let flow = &mut *self;
        loop {
            if let Some(bytes) = flow.pending.pop() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if flow.over {
                return Poll::Ready(None);
            }
            // The client has all of it: what an engine does after `[DONE]` is between it and the agent.
            let done = flow.guard.seen().done;
            // An engine that goes on for ever is silent at no time.
            if done && flow.silence.poll(done, context).is_ready() {
                flow.over = true;
                continue;
            }
            match flow.body.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(_))) if done => {}
                Poll::Ready(None | Some(Err(_))) if done => flow.over = true,
                Poll::Ready(chunk) => flow.take(chunk),
                Poll::Pending if done => return Poll::Pending,
                Poll::Pending if flow.ending.poll(context).is_ready() => flow.cut(),
                Poll::Pending => {
                    let silent = ready!(flow.silence.poll(done, context));
                    flow.broke(&format!("no data for {} s", silent.as_secs()));
                }
            }
        }
    }
}

impl Flow {
    fn take(&mut self, chunk: Option<Result<Bytes, LinkError>>) {
        self.silence.heard = true;
        match chunk {
            Some(Ok(chunk)) => {
                let pushed = self.guard.push(chunk, &mut self.pending);
                self.pending.iter().for_each(|frames| self.truth.judge.look(frames));
                let told = told(&mut self.translation, &mut self.pending);
                if let Err(error) = pushed {
                    self.broke(&error.to_string());
                } else if let Err(error) = told {
                    self.pending.clear();
                    self.broke(&error.to_string());
                } else if self.guard.seen().error {
                    // Its own words were kept back: they may repeat the request.
                    self.broke("the engine sent an error in its stream");
                } else {
                    self.stopped();
                }
                self.note_end();
                self.pending.reverse();
            }
            Some(Err(error)) => self.broke(&error.to_string()),
            None => self.broke("the engine ended its stream without finishing"),
        }
    }

    /// Records the end as soon as the client is given it: many clients hang up at `[DONE]`. A prompt that was cut
    /// is told in a comment before it, since the headers are long gone.
    fn note_end(&mut self) {
        if !self.guard.seen().done {
            return;
        }
        let Some((claim, mut ticket)) = self.open.take() else { return };
        let now = ticket.now();
        let usage = self.measured(&ticket, now);
        let judgement = self.truth.judgement(usage, &self.fleet, &self.candidate);
        // Other dialects have no place for a comment.
        if let Some(truncated) = judgement.truncated()
            && self.dialect == Dialect::OpenAi
        {
            comment_before_done(&mut self.pending, &format!(": x-mesh-truncated: {truncated}\n\n"));
        }
        judgement.count(&self.candidate, ticket.metrics());
        ticket.attempt_ended("answered");
        ticket.end_at(now, Ended::Complete, 200, &judgement.text(), usage);
        let lesson = claim.lesson(now, &usage, false, self.round_trip);
        self.observe(judgement.outcome(lesson));
        drop(claim);
    }

    /// Ends a stream that goes round in circles, where that is wished for.
    fn stopped(&mut self) {
        if !self.truth.stop_repetition || self.guard.seen().done {
            return;
        }
        let Some(fault) = self.truth.judge.may_be_stopped() else { return };
        self.over = true;
        let message = format!("the answer was stopped: {fault}");
        let mut error = ApiError::mesh(StatusCode::BAD_GATEWAY, "endless_repetition", message.as_str())
            .with("node", json!(self.candidate.machine));
        if let Some((claim, mut ticket)) = self.open.take() {
            error = error.with("request_id", json!(ticket.id()));
            let judgement = Judgement { faults: vec![fault] };
            judgement.count(&self.candidate, ticket.metrics());
            ticket.attempt_ended("stopped: endless repetition");
            let now = ticket.now();
            ticket.end_at(now, Ended::Failed, 200, &message, self.measured(&ticket, now));
            self.observe(Outcome::Doubtful);
            drop(claim);
        }
        self.pending.push(self.dialect.last_words(&error));
    }

    /// The stream broke after content had gone out: an explicit error event, and never `[DONE]`.
    fn broke(&mut self, why: &str) {
        self.over = true;
        let node = &self.candidate.machine;
        let message = format!("{node} stopped answering in the middle of its answer: {why}");
        let mut error = ApiError::mesh(StatusCode::BAD_GATEWAY, "node_failed_mid_stream", message.as_str());
        if let Some((claim, mut ticket)) = self.open.take() {
            error = error.with("request_id", json!(ticket.id())).with("node", json!(node));
            let now = ticket.now();
            let usage = self.measured(&ticket, now);
            ticket.attempt_ended(format!("broke off: {why}"));
            ticket.end_at(now, Ended::Failed, 200, &message, usage);
            self.observe(Outcome::ReplicaFailed);
            drop(claim);
        }
        self.pending.push(self.dialect.last_words(&error));
    }

    /// The router stops before the stream has ended: nobody's failure, and no clean end either.
    fn cut(&mut self) {
        self.over = true;
        let mut error = refusals::stopped_midway();
        if let Some((claim, mut ticket)) = self.open.take() {
            error = error.with("request_id", json!(ticket.id()));
            let now = ticket.now();
            let usage = self.measured(&ticket, now);
            ticket.attempt_ended("cut off: the router stopped");
            ticket.end_at(now, Ended::Failed, 200, &error.message, usage);
            drop(claim);
        }
        self.pending.push(self.dialect.last_words(&error));
    }

    fn observe(&self, outcome: Outcome) {
        self.fleet.observe(&self.candidate.machine, &self.candidate.model, outcome);
    }

    /// The engine's own times, or for engines that tell none, tokens over the time since the first content.
    fn measured(&self, ticket: &Ticket, now: Moment) -> Usage {
        let mut usage = self.guard.usage();
        if !self.guard.seen().done {
            // Anthropic's streams begin with a count of nought; only their end tells how many there were.
            usage.completion_tokens = usage.completion_tokens.filter(|&tokens| tokens > 0);
        }
        if usage.timing.is_none()
            && let (Some(tokens), Some(time)) = (usage.completion_tokens, ticket.since_first_content(now))
        {
            usage.timing =
                Some(Timing { decode_tokens: tokens, decode_s: time.as_secs_f64(), ..Timing::default() });
        }
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_after_done_is_told_although_a_look_had_fired() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        let mut silence = Silence::new(STALL_LIMIT);
        assert!(silence.poll(false, &mut context).is_pending());
        tokio::time::sleep(STALL_LIMIT / STALL_LOOKS + Duration::from_secs(1)).await;
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "the look woke");
        assert!(silence.poll(true, &mut context).is_pending());
        tokio::time::sleep(AFTER_DONE * 5).await;
        assert_eq!(count.0.load(Ordering::SeqCst), 2, "the end after DONE wakes");
    }
}
