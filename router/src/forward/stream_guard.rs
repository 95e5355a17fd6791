//! Watches an engine's stream, however it is framed, without changing it: finds the first content, the usage and
//! the end, and takes out the usage frame for a client that did not ask for it.
//!
//! ```text
//! engine bytes ─► whole frames ─► [usage frame? dropped] ─► client
//!                     └─► first content · finish · [DONE] · error · tokens and timings
//! ```

pub mod framing;

use crate::marks::Marks;
use bytes::{Bytes, BytesMut};
pub use framing::Framing;
use memchr::memmem;
use mesh_core::speed::Timing;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A frame longer than this is no token stream.
const FRAME_LIMIT: usize = 1 << 20;

/// Tokens and times as the engine reports them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    pub completion_tokens: Option<u64>,
    /// Speeds, where the engine tells (llama.cpp does).
    pub timing: Option<Timing>,
}

impl Usage {
    /// Tokens of the answer each second, where the engine tells its times.
    #[must_use]
    pub fn tokens_per_second(&self) -> Option<f64> {
        let decode = self.timing.filter(|timing| timing.decode_s > 0.0)?;
        Some(decode.decode_tokens as f64 / decode.decode_s)
    }
}

/// What has been seen of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seen {
    /// A frame with text, a tool call or a finish reason.
    pub content: bool,
    /// `data: [DONE]`.
    pub done: bool,
    /// An error frame.
    pub error: bool,
}

/// A frame is longer than a mebibyte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine sent an event of over 1 MiB")]
pub struct FrameTooLong;

/// The watcher of one stream.
#[derive(Debug)]
pub struct StreamGuard {
    framing: Framing,
    keep_usage: bool,
    carry: BytesMut,
    seen: Seen,
    usage: Usage,
}

#[derive(Deserialize)]
struct Frame {
    choices: Option<Vec<Choice>>,
    usage: Option<UsageField>,
    timings: Option<Timings>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice {
    finish_reason: Option<IgnoredAny>,
    delta: Option<Delta>,
    text: Option<NonEmpty>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<NonEmpty>,
    reasoning_content: Option<NonEmpty>,
    reasoning: Option<NonEmpty>,
    tool_calls: Option<IgnoredAny>,
}

/// Whether a text is empty, without copying it.
struct NonEmpty(bool);

impl<'de> Deserialize<'de> for NonEmpty {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Look;
        impl serde::de::Visitor<'_> for Look {
            type Value = NonEmpty;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a text")
            }
            fn visit_str<E>(self, text: &str) -> Result<NonEmpty, E> {
                Ok(NonEmpty(!text.is_empty()))
            }
        }
        from.deserialize_str(Look)
    }
}

/// `usage` of OpenAI's answers.
#[derive(Deserialize)]
pub struct UsageField {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

/// `timings` of llama.cpp's answers.
#[derive(Deserialize)]
pub struct Timings {
    cache_n: Option<u64>,
    prompt_n: Option<u64>,
    prompt_ms: Option<f64>,
    predicted_n: Option<u64>,
    predicted_ms: Option<f64>,
}

impl Timings {
    fn timing(&self) -> Timing {
        Timing {
            prefill_tokens: self.prompt_n.unwrap_or(0),
            prefill_s: self.prompt_ms.unwrap_or(0.0) / 1000.0,
            decode_tokens: self.predicted_n.unwrap_or(0),
            decode_s: self.predicted_ms.unwrap_or(0.0) / 1000.0,
            cached_tokens: self.cache_n,
        }
    }
}

/// A number of tokens as an engine tells it, bounded: sums of hostile ones must not overflow.
#[must_use]
pub fn tokens(told: u64) -> u64 {
    told.min(u32::MAX.into())
}

impl Usage {
    /// Takes over what an answer, or one frame of it, tells.
    pub(super) fn take(&mut self, usage: Option<&UsageField>, timings: Option<&Timings>) {
        if let Some(field) = usage {
            self.prompt_tokens = field.prompt_tokens.map(tokens).or(self.prompt_tokens);
            self.completion_tokens = field.completion_tokens.map(tokens).or(self.completion_tokens);
        }
        if let Some(timings) = timings {
            self.timing = Some(timings.timing());
        }
        let details = usage.and_then(|field| field.prompt_tokens_details.as_ref());
        if let Some(cached) = details.and_then(|details| details.cached_tokens) {
            let timing = self.timing.get_or_insert_default();
            timing.cached_tokens = timing.cached_tokens.or(Some(cached));
        }
    }
}

impl StreamGuard {
    /// `keep_usage` = the client asked for the usage frame, which only OpenAI's streams have.
    #[must_use]
    pub fn new(framing: Framing, keep_usage: bool) -> Self {
        Self { framing, keep_usage, carry: BytesMut::new(), seen: Seen::default(), usage: Usage::default() }
    }

    /// What has been seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// Tokens and times so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Takes bytes of the engine and appends to `out` what the client is to get: whole frames only.
    ///
    /// # Errors
    /// [`FrameTooLong`] when a mebibyte holds no end of a frame.
    pub fn push(&mut self, chunk: Bytes, out: &mut Vec<Bytes>) -> Result<(), FrameTooLong> {
        let mut bytes = if self.carry.is_empty() {
            chunk
        } else {
            // Only what is new is searched, or a large frame in small pieces would be searched again for each of them.
            let ends = self.framing.ends_a_frame(&self.carry, &chunk);
            self.carry.extend_from_slice(&chunk);
            if !ends {
                return if self.carry.len() > FRAME_LIMIT { Err(FrameTooLong) } else { Ok(()) };
            }
            self.carry.split().freeze()
        };
        if self.is_plain(&bytes) {
            if let Some(end) = last_frame_end(&bytes) {
                out.push(bytes.split_to(end));
            }
            return self.keep(bytes);
        }
        let mut kept = 0;
        let mut at = 0;
        while let Some(length) = self.framing.frame_length(&bytes[at..]) {
            if self.inspect(&bytes[at..at + length]) {
                kept = at + length;
            } else {
                if at > 0 {
                    out.push(bytes.split_to(at));
                    at = 0;
                }
                drop(bytes.split_to(length));
                kept = 0;
                continue;
            }
            at += length;
        }
        if kept > 0 {
            out.push(bytes.split_to(kept));
        }
        self.keep(bytes)
    }

    /// Keeps the start of a frame until its end comes.
    fn keep(&mut self, rest: Bytes) -> Result<(), FrameTooLong> {
        if rest.len() > FRAME_LIMIT {
            return Err(FrameTooLong);
        }
        self.carry.extend_from_slice(&rest);
        Ok(())
    }

    /// Whether nothing in `bytes` can be worth a look: after the first content that is nearly all of a stream.
    fn is_plain(&self, bytes: &[u8]) -> bool {
        static MARKS: Marks<5> =
            Marks::new([b"\"usage\"", b"\"timings\"", b"[DONE]", b"{\"error\"", b"error:"]);
        self.framing == Framing::OpenAi
            && self.seen.content
            && !self.seen.error
            && !self.seen.done
            && !MARKS.any_in(bytes)
    }

    /// What is left when the engine ends: the start of a frame that never ended.
    #[must_use]
    pub fn has_half_a_frame(&self) -> bool {
        !self.carry.is_empty()
    }

    /// Looks at one whole frame; false = the client must not get it. Errors are told in the mesh's words.
    fn inspect(&mut self, frame: &[u8]) -> bool {
        if self.seen.error || self.seen.done {
            return false;
        }
        if self.framing != Framing::OpenAi {
            self.framing.look(frame, &mut self.seen, &mut self.usage);
            return !self.seen.error;
        }
        let Some(data) = data_of(frame) else {
            // llama.cpp before 2025 sent `error: {…}`.
            self.seen.error |= frame.starts_with(b"error:");
            return !self.seen.error;
        };
        if data.starts_with(b"[DONE]") {
            self.seen.done = true;
            return true;
        }
        // After the first content only a few frames are worth parsing.
        let worth = !self.seen.content || contains(data, b"\"usage\"") || contains(data, b"\"timings\"");
        if !worth && !data.starts_with(b"{\"error\"") {
            return true;
        }
        let Ok(parsed) = serde_json::from_slice::<Frame>(data) else {
            // Not ours to judge; the client's parser will.
            self.seen.content = true;
            return true;
        };
        self.usage.take(parsed.usage.as_ref(), parsed.timings.as_ref());
        self.seen.error |= parsed.error.is_some();
        let choices = parsed.choices.unwrap_or_default();
        self.seen.content |= choices.iter().any(Choice::has_content);
        !self.seen.error && (self.keep_usage || parsed.usage.is_none() || !choices.is_empty())
    }
}

impl Choice {
    fn has_content(&self) -> bool {
        let filled = |text: &Option<NonEmpty>| text.as_ref().is_some_and(|text| text.0);
        self.finish_reason.is_some()
            || filled(&self.text)
            || self.delta.as_ref().is_some_and(|delta| {
                filled(&delta.content)
                    || filled(&delta.reasoning_content)
                    || filled(&delta.reasoning)
                    || delta.tool_calls.is_some()
            })
    }
}

/// The length of the first whole frame with its blank line, for both ways of ending lines.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(newline) = bytes[from..].iter().position(|&byte| byte == b'\n') {
        let after = from + newline + 1;
        match &bytes[after..] {
            [b'\n', ..] => return Some(after + 1),
            [b'\r', b'\n', ..] => return Some(after + 2),
            _ => from = after,
        }
    }
    None
}

fn data_of(frame: &[u8]) -> Option<&[u8]> {
    let data = frame.strip_prefix(b"data:")?;
    Some(data.strip_prefix(b" ").unwrap_or(data).trim_ascii_end())
}

/// Where the last whole frame ends, for both ways of ending lines.
fn last_frame_end(bytes: &[u8]) -> Option<usize> {
    memchr::memrchr_iter(b'\n', bytes)
        .find(|&newline| bytes[..newline].ends_with(b"\n") || bytes[..newline].ends_with(b"\n\r"))
        .map(|newline| newline + 1)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memmem::find(haystack, needle).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames as llama.cpp b11549 sends them.
    const ROLE: &str = "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}],\"model\":\"tiny\"}\n\n";
    const TEXT: &str = "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"say \\\"usage\\\"\"}}]}\n\n";
    const FINISH: &str = "data: {\"choices\":[{\"finish_reason\":\"length\",\"index\":0,\"delta\":{}}]}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"completion_tokens\":6,\"prompt_tokens\":19},\"timings\":{\"cache_n\":18,\"prompt_n\":1,\"prompt_ms\":10.5,\"predicted_n\":6,\"predicted_ms\":600.0}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn run(keep_usage: bool, chunks: &[&[u8]]) -> (String, StreamGuard) {
        let (mut guard, mut out) = (StreamGuard::new(Framing::OpenAi, keep_usage), Vec::new());
        for chunk in chunks {
            guard.push(Bytes::copy_from_slice(chunk), &mut out).expect("short frames");
        }
        (String::from_utf8(out.concat()).expect("text"), guard)
    }

    #[test]
    fn the_usage_frame_is_taken_out_wherever_the_network_cuts_the_stream() {
        let whole = [ROLE, TEXT, FINISH, USAGE, DONE].concat();
        let wanted = [ROLE, TEXT, FINISH, DONE].concat();
        for cut in 0..=whole.len() {
            let (first, second) = whole.as_bytes().split_at(cut);
            let (text, guard) = run(false, &[first, second]);
            assert_eq!(text, wanted, "cut at {cut}");
            assert_eq!(guard.seen(), Seen { content: true, done: true, error: false });
            assert_eq!(guard.usage().completion_tokens, Some(6));
        }
        let bytes: Vec<&[u8]> = whole.as_bytes().chunks(1).collect();
        assert_eq!(run(false, &bytes).0, wanted);
    }

    #[test]
    fn a_client_that_asked_gets_every_byte() {
        let whole = [ROLE, TEXT, FINISH, USAGE, DONE].concat();
        let (text, guard) = run(true, &[whole.as_bytes()]);
        assert_eq!(text, whole);
        let timing = guard.usage().timing.expect("llama.cpp tells");
        assert_eq!((timing.prefill_tokens, timing.decode_tokens), (1, 6));
        assert!((timing.decode_s - 0.6).abs() < 1e-9);
    }

    #[test]
    fn a_role_alone_is_no_content_and_a_finish_is() {
        assert!(!run(false, &[ROLE.as_bytes()]).1.seen().content);
        assert!(run(false, &[ROLE.as_bytes(), FINISH.as_bytes()]).1.seen().content);
        let completion = "data: {\"choices\":[{\"text\":\"x\",\"index\":0,\"finish_reason\":null}]}\n\n";
        assert!(run(false, &[completion.as_bytes()]).1.seen().content);
    }

    #[test]
    fn errors_are_seen_before_and_after_the_first_content() {
        let error = "data: {\"error\":{\"code\":500,\"message\":\"x\",\"type\":\"server_error\"}}\n\n";
        assert!(run(false, &[error.as_bytes()]).1.seen().error);
        let (text, guard) = run(false, &[ROLE.as_bytes(), TEXT.as_bytes(), error.as_bytes()]);
        assert!(guard.seen().error && !guard.seen().done && text.ends_with(TEXT), "{text}");
    }

    #[test]
    fn nothing_is_passed_on_after_the_end() {
        let (text, guard) = run(true, &[[TEXT, FINISH, DONE, TEXT, DONE].concat().as_bytes(), b"more\n\n"]);
        assert_eq!(text, [TEXT, FINISH, DONE].concat());
        assert!(guard.seen().done);
    }

    #[test]
    fn the_end_of_a_frame_is_found_wherever_it_is_cut() {
        for (whole, framing) in [
            ("data: x\n\n", Framing::OpenAi),
            ("data: x\r\n\r\n", Framing::OpenAi),
            ("{\"a\":1}\n", Framing::Ollama),
        ] {
            for cut in 1..whole.len() {
                let (start, rest) = whole.as_bytes().split_at(cut);
                assert!(framing.ends_a_frame(start, rest), "{whole:?} cut at {cut}");
                assert!(!framing.ends_a_frame(start, &rest[..rest.len() - 1]), "{whole:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn half_a_frame_is_never_passed_on() {
        let (text, guard) = run(false, &[TEXT.as_bytes(), b"data: {\"cho"]);
        assert_eq!(text, TEXT);
        assert!(guard.has_half_a_frame());
    }

    #[test]
    fn comments_and_crlf_pass_unchanged() {
        let stream = ": ping\r\n\r\ndata: {\"choices\":[]}\r\n\r\ndata: [DONE]\r\n\r\n";
        let (text, guard) = run(false, &[stream.as_bytes()]);
        assert_eq!(text, stream);
        assert!(guard.seen().done);
    }

    #[test]
    fn an_endless_frame_is_refused() {
        let mut guard = StreamGuard::new(Framing::OpenAi, false);
        let chunk = Bytes::from(vec![b'x'; FRAME_LIMIT + 1]);
        assert_eq!(guard.push(chunk, &mut Vec::new()), Err(FrameTooLong));
    }
}
