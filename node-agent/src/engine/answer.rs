//! What engines answer to questions of the agent's own: events or one JSON document, in OpenAI's dialect or llama.cpp's,
//! read as it comes. Answers to clients pass through unread; this is not for them.

use serde::Deserialize;
use serde_json::{Value, json};

/// What was answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Reply {
    /// The text.
    pub(crate) text: String,
    /// What it thought, where that is kept apart.
    pub(crate) reasoning: Option<String>,
    /// Tools that it called: name and arguments.
    pub(crate) tool_calls: Vec<(String, String)>,
    /// Why it ended.
    pub(crate) finish_reason: Option<String>,
    /// Tokens generated.
    pub(crate) tokens: Option<u32>,
    /// Tokens of the prompt, those in a cache too.
    pub(crate) prompt_tokens: Option<u32>,
    /// Those that a cache held.
    pub(crate) cached_tokens: Option<u32>,
    /// The model by the engine's word.
    pub(crate) model: Option<String>,
    /// Tokens generated each second, by its clock.
    pub(crate) decode: Option<f64>,
    /// Over how many.
    pub(crate) decode_tokens: Option<u32>,
    /// Prompt tokens read each second, by its clock.
    pub(crate) prefill: Option<f64>,
    /// Over how many.
    pub(crate) prefill_tokens: Option<u32>,
}

impl Reply {
    /// Its tool calls as JSON; `None` = it called none.
    pub(crate) fn calls_json(&self) -> Option<String> {
        let calls =
            self.tool_calls.iter().map(|(name, arguments)| json!({"name": name, "arguments": arguments}));
        let calls: Vec<Value> = calls.collect();
        (!calls.is_empty()).then(|| Value::from(calls).to_string())
    }
}

/// It is no answer. Lengths only: what it says may be anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoAnswer(pub(crate) String);

/// An answer on its way.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    reply: Reply,
    /// Bytes that are no whole line yet.
    carry: Vec<u8>,
    /// It is one document, not events.
    whole: bool,
    /// It is not known yet which.
    begun: bool,
    pieces: usize,
    bytes: usize,
    markup: bool,
}

impl Reading {
    /// Takes bytes in as they come; true when there was text, thought or a call among them.
    ///
    /// # Errors
    /// [`NoAnswer`] for an error within a stream that began well.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<bool, NoAnswer> {
        self.bytes += bytes.len();
        self.carry.extend_from_slice(bytes);
        if !self.begun {
            let Some(first) = self.carry.iter().find(|byte| !byte.is_ascii_whitespace()) else {
                return Ok(false);
            };
            (self.begun, self.whole, self.markup) = (true, *first == b'{', *first == b'<');
        }
        if self.whole {
            return Ok(false);
        }
        let Some(end) = self.carry.iter().rposition(|byte| *byte == b'\n') else { return Ok(false) };
        let lines: Vec<u8> = self.carry.drain(..=end).collect();
        self.lines(&lines)
    }

    /// The answer, at its end.
    ///
    /// # Errors
    /// [`NoAnswer`] when it was none.
    pub(crate) fn end(mut self) -> Result<Reply, NoAnswer> {
        let rest = std::mem::take(&mut self.carry);
        if self.whole {
            let piece = serde_json::from_slice(&rest).map_err(|_| self.none("JSON that is none"))?;
            self.piece(piece)?;
            return Ok(self.reply);
        }
        self.lines(&rest)?;
        if self.pieces == 0 {
            let what = if self.markup { "a web page" } else { "no event and no JSON" };
            return Err(self.none(what));
        }
        Ok(self.reply)
    }

    fn none(&self, what: &str) -> NoAnswer {
        NoAnswer(format!("{what}, {} bytes", self.bytes))
    }

    fn lines(&mut self, lines: &[u8]) -> Result<bool, NoAnswer> {
        let mut said = false;
        for line in lines.split(|byte| *byte == b'\n') {
            let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { continue };
            if data == b"[DONE]" {
                self.pieces += 1;
                continue;
            }
            // The last line of an answer that broke may be half there.
            let Ok(piece) = serde_json::from_slice(data) else { continue };
            said |= self.piece(piece)?;
            self.pieces += 1;
        }
        Ok(said)
    }

    fn piece(&mut self, piece: Piece) -> Result<bool, NoAnswer> {
        if piece.error.is_some() {
            return Err(NoAnswer("an error in an answer that began well".into()));
        }
        if piece.choices.is_none() && piece.content.is_none() {
            return Err(NoAnswer("JSON without a text".into()));
        }
        let reply = &mut self.reply;
        reply.model = reply.model.take().or(piece.model);
        let mut said = false;
        let mut add = |text: Option<String>| {
            let text = text.unwrap_or_default();
            said |= !text.is_empty();
            reply.text.push_str(&text);
        };
        add(piece.content);
        // The first choice only: one was asked for.
        if let Some(choice) = piece.choices.into_iter().flatten().next() {
            add(choice.text);
            reply.finish_reason = choice.finish_reason.or(reply.finish_reason.take());
            if let Some(message) = choice.delta.or(choice.message) {
                add(message.content);
                if let Some(thought) = message.reasoning_content.or(message.reasoning) {
                    said |= !thought.is_empty();
                    reply.reasoning.get_or_insert_default().push_str(&thought);
                }
                for (at, call) in message.tool_calls.into_iter().flatten().enumerate() {
                    said = true;
                    call.add_to(&mut reply.tool_calls, at);
                }
            }
        }
        if piece.stop == Some(true) && piece.tokens_predicted.is_some() {
            reply.tokens = piece.tokens_predicted;
            reply.prompt_tokens = piece.tokens_evaluated.or(reply.prompt_tokens);
            reply.finish_reason = reply.finish_reason.take().or(piece.stop_type);
        }
        if let Some(usage) = piece.usage {
            reply.tokens = usage.completion_tokens.or(reply.tokens);
            reply.prompt_tokens = usage.prompt_tokens.or(reply.prompt_tokens);
            let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens);
            reply.cached_tokens = cached.or(reply.cached_tokens);
        }
        if let Some(timings) = piece.timings {
            (reply.decode, reply.decode_tokens) = (timings.predicted_per_second, timings.predicted_n);
            (reply.prefill, reply.prefill_tokens) = (timings.prompt_per_second, timings.prompt_n);
            reply.cached_tokens = timings.cache_n.or(reply.cached_tokens);
            // Its clock counts too where nobody asked for the usage.
            reply.tokens = reply.tokens.or(timings.predicted_n);
            let read = || Some(timings.prompt_n?.saturating_add(timings.cache_n.unwrap_or(0)));
            reply.prompt_tokens = reply.prompt_tokens.or_else(read);
        }
        Ok(said)
    }
}

/// One event or one whole answer, in any of the dialects.
#[derive(Debug, Deserialize)]
struct Piece {
    model: Option<String>,
    choices: Option<Vec<Choice>>,
    /// llama.cpp's own dialect.
    content: Option<String>,
    stop: Option<bool>,
    stop_type: Option<String>,
    tokens_predicted: Option<u32>,
    tokens_evaluated: Option<u32>,
    usage: Option<Usage>,
    timings: Option<Timings>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    text: Option<String>,
    delta: Option<Message>,
    message: Option<Message>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Message {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<Call>>,
}

#[derive(Debug, Deserialize)]
struct Call {
    index: Option<usize>,
    function: Option<Function>,
}

#[derive(Debug, Deserialize)]
struct Function {
    name: Option<String>,
    arguments: Option<String>,
}

/// Calls of one answer, at most: a model that goes round in circles calls without end.
const CALLS: usize = 64;

impl Call {
    fn add_to(self, calls: &mut Vec<(String, String)>, at: usize) {
        let at = self.index.unwrap_or(at);
        if at >= CALLS {
            return;
        }
        if calls.len() <= at {
            calls.resize_with(at + 1, Default::default);
        }
        let (name, arguments) = &mut calls[at];
        if let Some(function) = self.function {
            name.push_str(&function.name.unwrap_or_default());
            arguments.push_str(&function.arguments.unwrap_or_default());
        }
    }
}

#[derive(Debug, Deserialize)]
struct Usage {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
    prompt_tokens_details: Option<Details>,
}

#[derive(Debug, Deserialize)]
struct Details {
    cached_tokens: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Timings {
    cache_n: Option<u32>,
    prompt_n: Option<u32>,
    prompt_per_second: Option<f64>,
    predicted_n: Option<u32>,
    predicted_per_second: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte by byte, as the worst network would bring it.
    fn slowly(bytes: &[u8]) -> (Result<Reply, NoAnswer>, usize) {
        let (mut reading, mut contents) = (Reading::default(), 0);
        for byte in bytes {
            match reading.take(&[*byte]) {
                Ok(said) => contents += usize::from(said),
                Err(error) => return (Err(error), contents),
            }
        }
        (reading.end(), contents)
    }

    #[test]
    fn a_stream_is_the_same_in_one_piece_and_byte_by_byte() {
        let stream = b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}],\"model\":\"tiny\"}\n\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"He\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"y\"}}]}\n\n\
            data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":4}},\
            \"timings\":{\"cache_n\":4,\"prompt_n\":5,\"prompt_per_second\":100.0,\"predicted_n\":2,\"predicted_per_second\":50.0}}\n\n\
            data: [DONE]\n\n";
        let (reply, contents) = slowly(stream);
        let reply = reply.expect("an answer");
        assert_eq!((reply.text.as_str(), contents), ("Hey", 2), "a role is no content");
        assert_eq!((reply.prompt_tokens, reply.cached_tokens, reply.tokens), (Some(9), Some(4), Some(2)));
        assert_eq!((reply.decode_tokens, reply.prefill_tokens), (Some(2), Some(5)));
        let mut at_once = Reading::default();
        assert_eq!(at_once.take(stream), Ok(true));
        assert_eq!(at_once.end(), Ok(reply));
    }

    #[test]
    fn pieces_of_parallel_tool_calls_come_together() {
        let stream = b"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"name\":\"look\",\"arguments\":\"{\"}}]}}]}\n\
            data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":1,\"function\":{\"name\":\"go\",\"arguments\":\"{}\"}}]}}]}\n\
            data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"}\"}}]}}]}\n\
            data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":9999999,\"function\":{\"name\":\"x\"}}]}}]}\n";
        let (reply, _) = slowly(stream);
        let reply = reply.expect("an answer");
        let call = |name: &str| (name.to_owned(), "{}".to_owned());
        assert_eq!(reply.tool_calls, [call("look"), call("go")]);
        let calls = reply.calls_json().expect("calls");
        let calls: Value = serde_json::from_str(&calls).expect("JSON");
        assert_eq!(calls, json!([{"name": "look", "arguments": "{}"}, {"name": "go", "arguments": "{}"}]));
        assert_eq!(Reply::default().calls_json(), None);
    }

    #[test]
    fn llama_cpp_s_own_answer_has_its_counts() {
        let whole =
            br#"{"content":"a","stop":true,"stop_type":"limit","tokens_predicted":8,"tokens_evaluated":30,
            "timings":{"predicted_n":8,"predicted_per_second":10.0}}"#;
        let reply = slowly(whole).0.expect("an answer");
        assert_eq!((reply.tokens, reply.prompt_tokens), (Some(8), Some(30)));
        assert_eq!((reply.finish_reason.as_deref(), reply.decode), (Some("limit"), Some(10.0)));
    }
}
