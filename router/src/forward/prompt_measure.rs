//! How long is a prompt, before it is sent? Bounds from its bytes decide nearly always; only a prompt that may be
//! too long for a slot is counted by the engine itself.
//!
//! ```text
//! bytes + template ≤ context ─► fits, nothing is asked
//! bytes / 2        < context ─► most likely fits; engines that refuse by themselves will say so if not
//! else ─┬─ llama.cpp: asked for its count, for at most half a second ─► fits (answer's limit lowered) or 400
//!       └─ engines that cut in silence: words > context ─► 400 before anything is sent
//! ```
//! Every token of a byte-level vocabulary is at least one byte, so bytes are an upper bound. Vocabularies split
//! text at spaces, so the count of words is a lower bound: but not where a template leaves out earlier thoughts.

use super::Incoming;
use super::agent_links::AgentLink;
use super::attempt::Failure;
use super::refusals;
use crate::http::dialect::edit::members;
use crate::http::dialect::{Door, faults};
use crate::http::head::{Cap, Head};
use crate::marks::Marks;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::StatusCode;
use mesh_core::machine::EngineKind;
use mesh_core::mode::Purpose;
use mesh_core::routing::Candidate;
use mesh_daemon::telemetry;
use mesh_proto::v1::RequestHead;
use mesh_proto::v1::response_head::Outcome;
use serde::Deserialize;
use std::time::Duration;

const CHAT_PATH: &str = "/v1/chat/completions";
/// Where llama.cpp counts the tokens of a chat without answering it.
pub const COUNT_PATH: &str = "/v1/chat/completions/input_tokens";
/// Tokens that a chat template may add of its own: a default system prompt, the introduction of tools.
const TEMPLATE_TOKENS: u64 = 512;
/// The densest text that is usual has so many bytes in each token: numbers, code full of symbols.
const DENSE_BYTES: u64 = 2;
/// Tokens that every engine's slot holds which cuts prompts in silence: Ollama's default, until 2025.
const LEAST_CONTEXT: u64 = 2048;
/// A count takes an engine milliseconds; one that takes longer is not worth waiting for.
const COUNT_LIMIT: Duration = Duration::from_millis(500);
/// A count is an object of 50 bytes.
const COUNT_BYTES: usize = 4 << 10;
/// A mark of thoughts, which templates leave out of earlier answers.
static REASONING: Marks<1> = Marks::new([b"reasoning"]);
/// An engine's count may be this much under the lower bound before it is called cut: vocabularies are not all alike.
const SLACK_TOKENS: u64 = 32;

/// What is known of a prompt on one replica, for comparing with what the engine reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// The engine's own count of the whole prompt.
    pub counted: Option<u64>,
    /// Tokens that it has at least, where that was worth finding out.
    pub at_least: Option<u64>,
    /// Tokens that a slot holds.
    pub context: Option<u64>,
    /// The answer is to be a stream whose end has a reason.
    pub is_stream: bool,
    /// The answer is that of a chat: a completion may rightly be empty.
    pub is_chat: bool,
}

impl Known {
    /// Whether an engine that has read `read` tokens left out a part: then also how many there were at least.
    #[must_use]
    pub fn truncated(&self, read: u64) -> Option<(u64, u64)> {
        // Some engines report 0 for what they do not count.
        if read == 0 {
            return None;
        }
        let short_of = |whole: u64| (read * 10 + SLACK_TOKENS * 10 < whole * 9).then_some((read, whole));
        let counted = self.counted.and_then(short_of);
        let bounded = || self.at_least.and_then(short_of);
        // A prompt that fills its slot leaves no room for an answer: engines that do not cut refuse it.
        let full = || self.context.filter(|&context| read == context).map(|context| (read, context));
        counted.or_else(bounded).or_else(full)
    }
}

/// What is to be done with a prompt on one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measured {
    /// What is known of it.
    pub known: Known,
    /// Its answer is limited to this, and why.
    pub cap: Option<(Cap, &'static str)>,
    /// The engine was asked for its count.
    pub asked: bool,
}

/// Measures the prompt of a request for one replica, and asks its engine where that is worth it.
///
/// # Errors
/// [`Failure::Beyond`] when the prompt is too long for it for certain.
pub async fn measure(
    link: &dyn AgentLink,
    incoming: &Incoming,
    head: &Head,
    candidate: &Candidate,
    engine: Option<EngineKind>,
) -> Result<Measured, Failure> {
    let is_chat = matches!(incoming.door.path(), CHAT_PATH | "/v1/messages" | "/api/chat");
    let has_finish = matches!(incoming.door.path(), CHAT_PATH | "/v1/completions");
    let context = candidate.context.map(u64::from);
    let mut known = Known { context, is_stream: head.stream && has_finish, is_chat, ..Known::default() };
    if incoming.door.purpose() != Purpose::Chat || head.has_media(&incoming.body) {
        // Embeddings of many inputs are many prompts, and pictures are tokens that no bytes tell of.
        return Ok(Measured { known: Known { context: None, ..known }, ..Measured::default() });
    }
    let fills_in = matches!(incoming.door, Door::Infill | Door::Fim)
        || head.suffix && matches!(incoming.door, Door::Completions | Door::OllamaGenerate);
    if fills_in && engine.is_some_and(refuses_by_itself) {
        // llama.cpp cuts what is far from a middle by itself, and editors count on that: told, and not refused.
        let may_be_cut = incoming.body.len() as u64 > LEAST_CONTEXT;
        let at_least = may_be_cut.then(|| words_around(&incoming.body)).flatten();
        return Ok(Measured { known: Known { context: None, at_least, ..known }, ..Measured::default() });
    }
    let bytes = prompt_bytes(head);
    if context.is_some_and(|context| bytes + TEMPLATE_TOKENS <= context) {
        return Ok(Measured { known, ..Measured::default() });
    }
    let fits_anywhere = context.is_none() && bytes + TEMPLATE_TOKENS <= LEAST_CONTEXT;
    if !engine.is_some_and(refuses_by_itself) && !fits_anywhere {
        known.at_least = words(incoming.door, head, &incoming.body);
        if let (Some(least), Some(context)) = (known.at_least, context)
            && least > context
        {
            return Err(too_long(incoming, least, true, context));
        }
    }
    if incoming.door.path() == "/v1/messages" {
        // Anthropic's count leaves out what was cached: nothing to compare with.
        known = Known { context: None, at_least: None, ..known };
    }
    let counts = matches!(engine, Some(EngineKind::LlamaServer | EngineKind::LlamaRouter));
    let Some(context) = context
        .filter(|&context| counts && incoming.door.path() == CHAT_PATH && bytes / DENSE_BYTES >= context)
    else {
        return Ok(Measured { known, ..Measured::default() });
    };
    known.counted =
        tokio::time::timeout(COUNT_LIMIT, count(link, incoming, head, candidate)).await.unwrap_or_default();
    let Some(tokens) = known.counted else { return Ok(Measured { known, cap: None, asked: true }) };
    if tokens >= context {
        return Err(too_long(incoming, tokens, false, context));
    }
    let left = u32::try_from(context - tokens).unwrap_or(u32::MAX);
    let cap = Cap { tokens: left, add: None };
    let cap = head.is_over(cap).then_some((cap, "what the context leaves"));
    Ok(Measured { known, cap, asked: true })
}

/// The word in the metric, where bytes alone did not decide.
#[must_use]
pub fn counted_as(measured: &Result<Measured, Failure>) -> Option<&'static str> {
    match measured {
        Ok(measured) if measured.known.counted.is_some() => Some("fits"),
        Ok(measured) if measured.asked => Some("no_count"),
        Ok(_) => None,
        Err(_) => Some("too_long"),
    }
}

/// The limit that a mode sets on answers, as a splice for this path.
#[must_use]
pub fn mode_cap(head: &Head, path: &str, tokens: u32) -> Option<(Cap, &'static str)> {
    let add =
        matches!(path, "/v1/chat/completions" | "/v1/completions" | "/v1/messages").then_some("max_tokens");
    let cap = Cap { tokens, add };
    head.is_over(cap).then_some((cap, "the mode's limit"))
}

/// Engines that answer a prompt that is too long with an error. Others cut it and say nothing.
fn refuses_by_itself(engine: EngineKind) -> bool {
    match engine {
        EngineKind::LlamaServer | EngineKind::LlamaRouter | EngineKind::Vllm | EngineKind::Sglang => true,
        EngineKind::Ollama
        | EngineKind::Lemonade
        | EngineKind::LmStudio
        | EngineKind::TabbyApi
        | EngineKind::KoboldCpp
        | EngineKind::LocalAi
        | EngineKind::OpenAi => false,
    }
}

fn too_long(incoming: &Incoming, tokens: u64, at_least: bool, context: u64) -> Failure {
    let error = refusals::too_long(tokens, at_least, context).param(faults::own_name(
        incoming.door,
        &incoming.body,
        "messages",
    ));
    let least_context = u32::try_from(tokens.saturating_add(1)).unwrap_or(u32::MAX);
    Failure::Beyond { least_context, error: Box::new(error) }
}

/// Bytes of everything that becomes tokens. Escapes make it longer than the text is, never shorter.
fn prompt_bytes(head: &Head) -> u64 {
    let parts = [&head.prompt, &head.tools_at, &head.system, &head.instructions];
    parts.into_iter().flatten().map(|at| at.len() as u64).sum()
}

/// The engine's own count, where it gives one.
async fn count(link: &dyn AgentLink, incoming: &Incoming, head: &Head, candidate: &Candidate) -> Option<u64> {
    #[derive(Deserialize)]
    struct Count {
        input_tokens: u64,
    }
    let body = head.splice(&incoming.body, candidate.model.as_str());
    let request = RequestHead {
        request_id: incoming.id.to_string(),
        model: candidate.model.to_string(),
        path: COUNT_PATH.into(),
        body_length: body.len() as u64,
        traceparent: telemetry::traceparent(),
        blob: None,
    };
    let answer = link.open(request, body).await.ok()?;
    let Some(Outcome::Answer(said)) = answer.head.outcome else { return None };
    if said.status != u32::from(StatusCode::OK.as_u16()) {
        return None;
    }
    let (mut text, mut parts) = (BytesMut::new(), answer.body);
    while let Some(part) = parts.next().await {
        let part: Bytes = part.ok()?;
        if text.len() + part.len() > COUNT_BYTES {
            return None;
        }
        text.extend_from_slice(&part);
    }
    serde_json::from_slice::<Count>(&text).ok().map(|count| count.input_tokens)
}

/// Words in the texts of a prompt, tools left out: not every template shows them to its model. `None` where a template
/// may leave out more.
fn words(door: Door, head: &Head, body: &[u8]) -> Option<u64> {
    // Elsewhere these are no fields, and engines step over them.
    let system = head.system.as_ref().filter(|_| matches!(door, Door::Messages | Door::CountTokens));
    let instructions = head.instructions.as_ref().filter(|_| door == Door::Responses);
    let parts = [head.prompt.as_ref(), system, instructions];
    parts.into_iter().flatten().map(|at| words_in(body.get(at.clone())?)).sum()
}

/// Words around a middle that is to be filled in, in whatever dialect.
fn words_around(body: &[u8]) -> Option<u64> {
    let around = |name: &str| ["prompt", "suffix", "input_prefix", "input_suffix"].contains(&name);
    let found = members(body).ok()?;
    found.iter().filter(|(name, _)| around(name)).map(|(_, value)| words_in(value.get().as_bytes())).sum()
}

/// Words in one part of a prompt: runs of ASCII letters in strings that are no names.
fn words_in(prompt: &[u8]) -> Option<u64> {
    if has_thoughts(prompt) {
        return None;
    }
    let (mut at, mut count) = (0, 0);
    while let Some(quote) = memchr::memchr(b'"', &prompt[at..]) {
        let from = at + quote + 1;
        let (mut words, mut before) = (0, b' ');
        at = from;
        loop {
            // The body was read as JSON before: nothing else ends a run of plain text.
            let end = memchr::memchr2(b'"', b'\\', &prompt[at..]).map_or(prompt.len(), |plain| at + plain);
            words += runs(&prompt[at..end], before);
            // The letter of an escape is no word, but the line end that it stands for may be before one.
            let (length, stands_for) = match (prompt.get(end), prompt.get(end + 1)) {
                (Some(b'\\'), Some(b'n' | b'r' | b't')) => (2, b' '),
                (Some(b'\\'), Some(b'u')) => (6, b'x'),
                (Some(b'\\'), _) => (2, b'x'),
                _ => (1, b'"'),
            };
            (at, before) = ((end + length).min(prompt.len()), stands_for);
            if before == b'"' {
                break;
            }
        }
        let after = prompt[at..].iter().find(|byte| !byte.is_ascii_whitespace());
        if after != Some(&b':') {
            count += words;
        }
    }
    Some(count)
}

/// Whether a text seems to hold thoughts: `<think>`, `<|channel|>` or a field of them.
fn has_thoughts(text: &[u8]) -> bool {
    let marked = |at: usize| match text[at] {
        b'>' => text[..at].ends_with(b"think") || text[..at].ends_with(b"channel|"),
        _ => text[at..].starts_with(b"\"thinking\""),
    };
    memchr::memchr2_iter(b'>', b'"', text).any(marked) || REASONING.any_in(text)
}

/// Bytes that are counted side by side.
const LANES: usize = 32;

/// How many words begin in a text: ASCII letters right behind white space, or at its start where `before` is some.
fn runs(text: &[u8], before: u8) -> u64 {
    let Some((first, rest)) = text.split_first() else { return 0 };
    let begins = |before: u8, byte: u8| u8::from(before == b' ') & u8::from(byte.is_ascii_alphabetic());
    // Side by side in lanes that a byte can count, so that the compiler counts sixteen at once: prompts have megabytes.
    let (befores, rest_befores) = text[..rest.len()].as_chunks::<LANES>();
    let (bytes, rest_bytes) = rest.as_chunks::<LANES>();
    let mut words = u64::from(begins(before, *first));
    for (befores, bytes) in befores.chunks(255).zip(bytes.chunks(255)) {
        let mut lanes = [0_u8; LANES];
        for (befores, bytes) in befores.iter().zip(bytes) {
            for (lane, (before, byte)) in lanes.iter_mut().zip(befores.iter().zip(bytes)) {
                *lane += begins(*before, *byte);
            }
        }
        words += lanes.iter().map(|&lane| u64::from(lane)).sum::<u64>();
    }
    let left = rest_befores.iter().zip(rest_bytes);
    words + left.map(|(before, byte)| u64::from(begins(*before, *byte))).sum::<u64>()
}

#[cfg(test)]
#[path = "prompt_measure/tests.rs"]
mod tests;
