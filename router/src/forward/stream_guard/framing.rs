//! The framings of streams other than OpenAI's chats: where a frame ends, and what it says. After the first content
//! frames of text are told by their own bytes and not parsed.

use super::{Seen, Timings, Usage, contains, data_of, frame_length, tokens};
use mesh_core::speed::Timing;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// How an engine frames its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// OpenAI's chats and completions: events, then `[DONE]`.
    OpenAi,
    /// OpenAI's responses: named events, then `response.completed`.
    Responses,
    /// Anthropic's messages: named events, then `message_stop`.
    Anthropic,
    /// Ollama: lines, the last with `"done":true`.
    Ollama,
    /// llama.cpp's own: events, the last with `"stop":true`.
    Llama,
}

impl Framing {
    /// Whether an answer of this media type is a stream.
    #[must_use]
    pub fn is_stream(self, content_type: &str) -> bool {
        let wanted = match self {
            Self::Ollama => "application/x-ndjson",
            Self::OpenAi | Self::Responses | Self::Anthropic | Self::Llama => "text/event-stream",
        };
        content_type.starts_with(wanted)
    }

    /// The length of the first whole frame.
    pub(super) fn frame_length(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Ollama => bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1),
            Self::OpenAi | Self::Responses | Self::Anthropic | Self::Llama => frame_length(bytes),
        }
    }

    /// Whether a frame that begins with `start` ends in `chunk`.
    pub(super) fn ends_a_frame(self, start: &[u8], chunk: &[u8]) -> bool {
        let mut newlines = memchr::memchr_iter(b'\n', chunk);
        if self == Self::Ollama {
            return newlines.next().is_some();
        }
        let before = |at: usize, back: usize| match at.checked_sub(back) {
            Some(at) => chunk.get(at),
            None => start.len().checked_sub(back - at).and_then(|at| start.get(at)),
        };
        newlines.any(|at| match before(at, 1) {
            Some(b'\n') => true,
            Some(b'\r') => before(at, 2) == Some(&b'\n'),
            _ => false,
        })
    }

    /// What one whole frame says.
    pub(super) fn look(self, frame: &[u8], seen: &mut Seen, usage: &mut Usage) {
        if self == Self::Ollama {
            return ollama(frame.trim_ascii(), seen, usage);
        }
        let (name, data) = named(frame);
        if name == b"error" || frame.starts_with(b"error:") {
            seen.error = true;
            return;
        }
        // Most frames of a stream end here.
        let only_text = seen.content
            && match self {
                Self::Anthropic => name == b"content_block_delta",
                Self::Responses => name.ends_with(b".delta"),
                Self::Llama => contains(data, b"\"stop\":false"),
                Self::OpenAi | Self::Ollama => false,
            };
        if only_text || data.is_empty() {
            return;
        }
        match self {
            Self::Llama => llama(data, seen, usage),
            Self::Anthropic => anthropic(data, seen, usage),
            Self::Responses | Self::OpenAi | Self::Ollama => responses(data, seen, usage),
        }
    }
}

/// An event's name, empty where it has none, and its data.
fn named(frame: &[u8]) -> (&[u8], &[u8]) {
    let (mut name, mut data) = (&frame[..0], &frame[..0]);
    for line in frame.split(|&byte| byte == b'\n') {
        if let Some(text) = line.strip_prefix(b"event:") {
            name = text.trim_ascii();
        } else if let Some(text) = data_of(line) {
            data = text;
        }
    }
    (name, data)
}

#[derive(Deserialize, Default)]
struct OtherUsage {
    input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

impl OtherUsage {
    /// Anthropic counts tokens from a cache apart, responses do not.
    fn tell(&self, usage: &mut Usage) {
        if let Some(input) = self.input_tokens {
            usage.prompt_tokens =
                Some(tokens(input.saturating_add(self.cache_read_input_tokens.unwrap_or(0))));
        }
        usage.completion_tokens = self.output_tokens.map(tokens).or(usage.completion_tokens);
    }
}

#[derive(Deserialize)]
struct Event {
    #[serde(default, rename = "type")]
    kind: String,
    delta: Option<IgnoredAny>,
    message: Option<Inner>,
    response: Option<Inner>,
    usage: Option<OtherUsage>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Inner {
    usage: Option<OtherUsage>,
}

fn event(data: &[u8], seen: &mut Seen) -> Option<Event> {
    let Ok(event) = serde_json::from_slice::<Event>(data) else {
        // Not ours to judge; the client's parser will.
        seen.content = true;
        return None;
    };
    seen.error |= event.error.is_some() || event.kind == "error";
    Some(event)
}

fn anthropic(data: &[u8], seen: &mut Seen, usage: &mut Usage) {
    let Some(event) = event(data, seen) else { return };
    seen.content |= event.kind == "content_block_delta" || event.kind == "message_delta";
    seen.done |= event.kind == "message_stop";
    let inner = event.message.and_then(|message| message.usage);
    for told in [inner, event.usage].into_iter().flatten() {
        told.tell(usage);
    }
}

fn responses(data: &[u8], seen: &mut Seen, usage: &mut Usage) {
    let Some(event) = event(data, seen) else { return };
    seen.content |= event.delta.is_some();
    seen.error |= event.kind == "response.failed";
    if matches!(event.kind.as_str(), "response.completed" | "response.incomplete") {
        (seen.content, seen.done) = (true, true);
        if let Some(told) = event.response.and_then(|response| response.usage) {
            told.tell(usage);
        }
    }
}

#[derive(Deserialize)]
struct OllamaLine<'a> {
    #[serde(borrow)]
    message: Option<OllamaMessage<'a>>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(default)]
    done: bool,
    error: Option<IgnoredAny>,
    prompt_eval_count: Option<u64>,
    prompt_eval_duration: Option<f64>,
    eval_count: Option<u64>,
    eval_duration: Option<f64>,
}

#[derive(Deserialize)]
struct OllamaMessage<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    tool_calls: Option<IgnoredAny>,
}

/// Whether a text is more than its quotes.
fn filled(text: Option<&RawValue>) -> bool {
    text.is_some_and(|text| text.get().starts_with('"') && text.get().len() > 2)
}

fn ollama(line: &[u8], seen: &mut Seen, usage: &mut Usage) {
    // In a text the quotes would be escaped.
    if line.is_empty() || (seen.content && contains(line, b"\"done\":false")) {
        return;
    }
    let Ok(line) = serde_json::from_slice::<OllamaLine<'_>>(line) else {
        seen.content = true;
        return;
    };
    seen.error |= line.error.is_some();
    seen.content |= line.done || filled(line.response) || filled(line.thinking);
    if let Some(message) = &line.message {
        seen.content |= filled(message.content) || filled(message.thinking) || message.tool_calls.is_some();
    }
    if line.done {
        seen.done = true;
        line.tell(usage);
    }
}

impl OllamaLine<'_> {
    fn tell(&self, usage: &mut Usage) {
        usage.prompt_tokens = self.prompt_eval_count.map(tokens).or(usage.prompt_tokens);
        usage.completion_tokens = self.eval_count.map(tokens).or(usage.completion_tokens);
        let seconds = |nanoseconds: Option<f64>| nanoseconds.unwrap_or(0.0) / 1e9;
        if self.eval_duration.is_some() {
            usage.timing = Some(Timing {
                prefill_tokens: self.prompt_eval_count.unwrap_or(0),
                prefill_s: seconds(self.prompt_eval_duration),
                decode_tokens: self.eval_count.unwrap_or(0),
                decode_s: seconds(self.eval_duration),
                cached_tokens: None,
            });
        }
    }
}

#[derive(Deserialize)]
struct LlamaFrame<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(default)]
    stop: bool,
    tokens_evaluated: Option<u64>,
    tokens_predicted: Option<u64>,
    timings: Option<Timings>,
    error: Option<IgnoredAny>,
}

fn llama(data: &[u8], seen: &mut Seen, usage: &mut Usage) {
    let Ok(frame) = serde_json::from_slice::<LlamaFrame<'_>>(data) else {
        seen.content = true;
        return;
    };
    seen.error |= frame.error.is_some();
    seen.content |= frame.stop || filled(frame.content);
    if frame.stop {
        seen.done = true;
        frame.tell(usage);
    }
}

impl LlamaFrame<'_> {
    fn tell(&self, usage: &mut Usage) {
        usage.prompt_tokens = self.tokens_evaluated.map(tokens).or(usage.prompt_tokens);
        usage.completion_tokens = self.tokens_predicted.map(tokens).or(usage.completion_tokens);
        if let Some(timings) = &self.timings {
            usage.timing = Some(timings.timing());
        }
    }
}

/// Tokens and times of a whole answer in one of these dialects.
#[must_use]
pub fn usage_of_other(body: &[u8]) -> Usage {
    #[derive(Deserialize)]
    struct Other {
        usage: Option<OtherUsage>,
    }
    let mut usage = Usage::default();
    if let Ok(Other { usage: Some(told) }) = serde_json::from_slice::<Other>(body) {
        told.tell(&mut usage);
    } else if let Ok(line) = serde_json::from_slice::<OllamaLine<'_>>(body)
        && line.done
    {
        line.tell(&mut usage);
    } else if let Ok(frame) = serde_json::from_slice::<LlamaFrame<'_>>(body)
        && frame.stop
    {
        frame.tell(&mut usage);
    }
    usage
}
