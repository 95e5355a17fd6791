//! A finished record in the bytes of its message: one small piece of memory in place of a dozen. Ten thousand records
//! rotate through memory, and what is spread over a dozen pieces is cold when each is freed.

use super::{Attempted, CANDIDATES, Record};
use mesh_core::routing::{Candidate, Rejection};
use prost::bytes::BufMut;
use prost::encoding::{WireType, encode_key, encode_varint};
use std::fmt::{Display, Write as _};

/// Writes fields of a message; what is empty is left out, as protobuf does.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
    /// For texts that are made.
    text: String,
}

impl Message {
    fn text(&mut self, tag: u32, text: &str) {
        if !text.is_empty() {
            encode_key(tag, WireType::LengthDelimited, &mut self.bytes);
            encode_varint(text.len() as u64, &mut self.bytes);
            self.bytes.put_slice(text.as_bytes());
        }
    }

    fn shown(&mut self, tag: u32, what: impl Display) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        // Writing to a string cannot fail.
        let _infallible = write!(text, "{what}");
        self.text(tag, &text);
        self.text = text;
    }

    fn number(&mut self, tag: u32, number: u64) {
        if number != 0 {
            self.present(tag, Some(number));
        }
    }

    fn present(&mut self, tag: u32, number: Option<u64>) {
        if let Some(number) = number {
            encode_key(tag, WireType::Varint, &mut self.bytes);
            encode_varint(number, &mut self.bytes);
        }
    }

    fn seconds(&mut self, tag: u32, seconds: Option<f64>) {
        if let Some(seconds) = seconds {
            encode_key(tag, WireType::SixtyFourBit, &mut self.bytes);
            self.bytes.put_f64_le(seconds);
        }
    }

    /// A message within this one. `inner` is scratch.
    fn message(&mut self, tag: u32, inner: &mut Self, write: impl FnOnce(&mut Self)) {
        inner.bytes.clear();
        write(inner);
        encode_key(tag, WireType::LengthDelimited, &mut self.bytes);
        encode_varint(inner.bytes.len() as u64, &mut self.bytes);
        self.bytes.put_slice(&inner.bytes);
    }
}

/// Writes records; keeps its scratch memory.
#[derive(Default)]
pub(super) struct Writer {
    whole: Message,
    inner: Message,
    term: Message,
}

impl Writer {
    /// The record as an encoded [`mesh_proto::v1::ExplainReply`].
    pub(super) fn write(&mut self, record: &Record) -> Box<[u8]> {
        let Self { whole, inner, term } = self;
        whole.bytes.clear();
        whole.text(1, &record.id);
        whole.number(2, record.at_unix_ms);
        whole.text(3, record.path);
        whole.text(4, &record.asked);
        whole.text(5, record.mode.as_ref().map_or("", |mode| mode.as_str()));
        whole.text(6, &record.client);
        whole.number(7, record.body_bytes);
        whole.number(8, u64::from(record.stream));
        let (ranked, rejected) = record.candidates();
        for (at, candidate) in ranked.iter().enumerate().take(CANDIDATES) {
            whole.message(9, inner, |line| write_candidate(line, term, at + 1, candidate));
        }
        let left = CANDIDATES.saturating_sub(ranked.len());
        for (at, rejection) in rejected.iter().enumerate().take(left) {
            let more = if at + 1 == rejected.len() { record.more() } else { None };
            whole.message(9, inner, |line| write_rejection(line, rejection, more));
        }
        for attempt in &record.attempts {
            whole.message(10, inner, |line| write_attempt(line, attempt));
        }
        whole.text(11, record.outcome);
        whole.text(12, &record.outcome_detail);
        whole.number(13, record.status.into());
        whole.seconds(14, record.ttft_s);
        whole.seconds(15, record.duration_s);
        whole.present(16, record.usage.prompt_tokens);
        whole.present(17, record.usage.completion_tokens);
        whole.seconds(18, record.usage.tokens_per_second());
        whole.text(19, &record.reason);
        whole.seconds(30, record.queued_s);
        whole.seconds(40, record.predicted_s.0);
        whole.seconds(41, record.predicted_s.1);
        whole.bytes.as_slice().into()
    }
}

fn write_candidate(line: &mut Message, term: &mut Message, rank: usize, candidate: &Candidate) {
    line.text(1, candidate.machine.as_str());
    line.text(2, candidate.model.as_str());
    line.number(3, rank as u64);
    line.shown(4, &candidate.why);
    line.seconds(5, candidate.predicted_s);
    line.number(6, candidate.in_flight.into());
    for (name, seconds) in &candidate.terms {
        line.message(7, term, |term| {
            term.text(1, name);
            term.seconds(2, Some(*seconds).filter(|seconds| *seconds != 0.0));
        });
    }
    line.seconds(8, candidate.predicted_ttft_s);
    line.number(9, candidate.cached_tokens);
}

fn write_rejection(line: &mut Message, rejection: &Rejection, more: Option<usize>) {
    line.text(1, rejection.machine.as_str());
    line.text(2, rejection.model.as_ref().map_or("", |model| model.as_str()));
    match more {
        Some(more) => line.shown(4, format_args!("{}; and {more} more", rejection.why)),
        None => line.shown(4, &rejection.why),
    }
}

fn write_attempt(line: &mut Message, attempt: &Attempted) {
    line.text(1, attempt.node.as_str());
    line.text(2, attempt.model.as_str());
    line.seconds(3, Some(attempt.started_after_s).filter(|seconds| *seconds != 0.0));
    line.text(4, &attempt.result);
}

/// The id in an encoded record: its first field.
pub(super) fn id_of(bytes: &[u8]) -> &str {
    // Tag and length take one byte each: an id has 36 bytes.
    let id = bytes.get(1).and_then(|length| bytes.get(2..2 + usize::from(*length)));
    id.and_then(|id| std::str::from_utf8(id).ok()).unwrap_or_default()
}
