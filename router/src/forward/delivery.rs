//! From an attempt with content to the client's answer: its headers, and the record of how it ended.

use super::attempt::{self, Attempt};
use super::ending::Ending;
use super::flow::Terms;
use super::in_flight::Claim;
use super::ticket::{Ended, Ticket};
use super::{Forward, refusals};
use crate::http::dialect::Dialect;
use crate::http::reply::{Reply, names, set_header};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use mesh_core::routing::Candidate;
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

impl Forward {
    /// Turns an attempt with content into the client's answer.
    pub(super) fn deliver(
        &self,
        attempt: Attempt,
        candidate: &Candidate,
        claim: Box<Claim>,
        mut ticket: Ticket,
        dialect: Dialect,
    ) -> Reply {
        let (mode, reason) = (ticket.mode().cloned(), ticket.reason());
        let (queued, ended) =
            ticket.stay().map_or_else(Default::default, |stay| (stay.queued(), stay.ended()));
        let clamped = ticket.is_clamped().map(str::to_owned);
        let judgement = attempt.judgement(&self.fleet, candidate).unwrap_or_default();
        let mut reply = match attempt {
            Attempt::Whole { status, content_type, body, usage, .. } => {
                judgement.count(candidate, &self.metrics);
                ticket.attempt_ended("answered");
                let now = self.clock.now();
                ticket.end_at(now, Ended::Complete, status.as_u16(), &judgement.text(), usage);
                let lesson = claim.lesson(now, &usage, true, self.links.round_trip(&candidate.machine));
                self.fleet.observe(&candidate.machine, &candidate.model, judgement.outcome(lesson));
                drop(claim);
                attempt::whole_reply(status, &content_type, body)
            }
            Attempt::Stream(stream) => {
                let terms = Terms {
                    round_trip: self.links.round_trip(&candidate.machine),
                    patience: self.settings.answer_wait,
                    ending: Ending::new(&self.ending),
                };
                let id = ticket.id().clone();
                let reply = stream.reply(self.fleet.clone(), candidate.clone(), claim, ticket, terms);
                match ended {
                    Some(ended) => cut_off(reply, ended, id, dialect),
                    None => reply,
                }
            }
        };
        if let Some(truncated) = judgement.truncated() {
            set_header(&mut reply, names::TRUNCATED, &truncated);
        }
        if judgement.is_empty_answer() {
            set_header(&mut reply, names::WARNING, "empty-answer");
        }
        if let Some(clamped) = clamped {
            set_header(&mut reply, names::CLAMPED, &clamped);
        }
        if !queued.is_zero() {
            set_header(&mut reply, names::QUEUE_MS, &queued.as_millis().to_string());
        }
        set_header(&mut reply, names::NODE, candidate.machine.as_str());
        set_header(&mut reply, names::MODEL, candidate.model.as_str());
        if let Some(mode) = mode {
            set_header(&mut reply, names::MODE, mode.as_str());
        }
        set_header(&mut reply, names::REASON, &reason);
        reply
    }
}

/// A stream that ends with an error event when a newer request takes its place; its engine stops then.
fn cut_off(reply: Reply, ended: CancellationToken, id: Arc<str>, dialect: Dialect) -> Reply {
    reply.map(|body| {
        let bytes = body.into_data_stream().filter_map(async |data| data.ok()).boxed();
        let until = ended.clone().cancelled_owned();
        let words = move || dialect.last_words(&refusals::superseded().with("request_id", json!(&*id)));
        let last = stream::once(async move { ended.is_cancelled().then(words) });
        let frames = bytes.take_until(until).chain(last.filter_map(async |event| event));
        StreamBody::new(frames.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync()
    })
}
