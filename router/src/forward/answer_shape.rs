//! Whether an answer that is no stream is an answer at all, and its tokens and times. Engines and what stands before
//! them say `200` to many things: an error, a welcome page, nothing.

use super::stream_guard::{Timings, Usage, UsageField, framing};
use crate::http::head::scan::{self, Fault, Met};
use http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::ops::Range;

/// What an answer is instead of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Another success than 200: OpenAI's API knows no other.
    #[error("the engine answered with status {0}")]
    Status(u16),
    /// Nothing.
    #[error("the engine's answer is empty")]
    Empty,
    /// HTML, a stream of events, half an object, …
    #[error("the engine's answer is no JSON object")]
    NotJson,
    /// `{"error": …}`. Its words stay here: they may repeat the request.
    #[error("the engine answered an error with status 200")]
    Error,
}

/// What is read of an answer whose fields cannot be found by their places.
#[derive(Deserialize)]
struct Shape {
    error: Option<IgnoredAny>,
    usage: Option<UsageField>,
    timings: Option<Timings>,
}

/// The same of one whose usage is not told as OpenAI does.
#[derive(Deserialize)]
struct Outline {
    error: Option<IgnoredAny>,
}

/// Why the fields of an answer are not found by their places.
enum Stop {
    /// It is no JSON, or two readers would take it for two things.
    NoJson,
    /// It is nested deeper than the scan goes, or spells names with escapes.
    Slowly,
}

impl From<Met> for Stop {
    fn from((fault, _): Met) -> Self {
        match fault {
            Fault::Depth => Self::Slowly,
            Fault::Syntax | Fault::Encoding => Self::NoJson,
        }
    }
}

/// Checks status and body of a whole answer, and reads its tokens and times.
///
/// # Errors
/// [`NoAnswer`] says what it is instead.
pub fn read(status: StatusCode, body: &[u8]) -> Result<Usage, NoAnswer> {
    if status != StatusCode::OK {
        return Err(NoAnswer::Status(status.as_u16()));
    }
    if body.trim_ascii_start().is_empty() {
        return Err(NoAnswer::Empty);
    }
    match by_places(body) {
        Ok(usage) => usage,
        Err(Stop::Slowly) => slowly(body),
        Err(Stop::NoJson) => Err(NoAnswer::NotJson),
    }
}

/// In one pass that builds nothing: an answer may be long, and most of it is its text.
fn by_places(body: &[u8]) -> Result<Result<Usage, NoAnswer>, Stop> {
    let (mut error, mut usage, mut timings) = (None, Told::Nowhere, Told::Nowhere);
    let text = scan::fields(body, |field| {
        match &body[field.key] {
            // Some readers would take the first one, others the last.
            b"\"error\"" if error.is_some() => return Err(Stop::NoJson),
            b"\"error\"" => error = Some(field.value),
            b"\"usage\"" => usage.tell(field.value),
            b"\"timings\"" => timings.tell(field.value),
            _ if field.escaped => return Err(Stop::Slowly),
            _ => {}
        }
        Ok(())
    })?;
    if error.is_some_and(|at| &text[at] != "null") {
        return Ok(Err(NoAnswer::Error));
    }
    // Those of other dialects are read below.
    let usage: Option<UsageField> = usage.once().and_then(|at| serde_json::from_str(&text[at]).ok());
    let timings: Option<Timings> = timings.once().and_then(|at| serde_json::from_str(&text[at]).ok());
    Ok(Ok(found(usage.as_ref(), timings.as_ref(), body)))
}

/// Where a field stands. One that is told twice is not known: that is no reason to throw the answer away.
enum Told {
    Nowhere,
    At(Range<usize>),
    Twice,
}

impl Told {
    fn tell(&mut self, at: Range<usize>) {
        *self = match self {
            Self::Nowhere => Self::At(at),
            Self::At(_) | Self::Twice => Self::Twice,
        };
    }

    fn once(self) -> Option<Range<usize>> {
        match self {
            Self::At(at) => Some(at),
            Self::Nowhere | Self::Twice => None,
        }
    }
}

fn slowly(body: &[u8]) -> Result<Usage, NoAnswer> {
    // serde reads an array into a struct too, field by field. It does not look at bytes that it skips.
    let text = std::str::from_utf8(body).ok().filter(|text| text.trim_start().starts_with('{'));
    let text = text.ok_or(NoAnswer::NotJson)?;
    let (error, usage) = match serde_json::from_str::<Shape>(text) {
        Ok(Shape { error, usage, timings }) => (error, found(usage.as_ref(), timings.as_ref(), body)),
        Err(_) => {
            let outline = serde_json::from_str::<Outline>(text).map_err(|_| NoAnswer::NotJson)?;
            (outline.error, found(None, None, body))
        }
    };
    if error.is_some() { Err(NoAnswer::Error) } else { Ok(usage) }
}

fn found(usage: Option<&UsageField>, timings: Option<&Timings>, body: &[u8]) -> Usage {
    let mut found = Usage::default();
    found.take(usage, timings);
    if found.prompt_tokens.is_some() || found.completion_tokens.is_some() {
        return found;
    }
    let other = framing::usage_of_other(body);
    Usage { timing: other.timing.or(found.timing), ..other }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWICE: &str = r#"{"error":{"message":"no"},"error":null}"#;

    #[test]
    fn only_a_json_object_without_an_error_is_an_answer() {
        let ok = StatusCode::OK;
        for good in ["{}", " \n{\"choices\":[]} ", "{\"error\":null,\"choices\":[]}"] {
            assert_eq!(read(ok, good.as_bytes()), Ok(Usage::default()), "{good}");
        }
        assert_eq!(read(ok, b" "), Err(NoAnswer::Empty));
        assert_eq!(read(StatusCode::NO_CONTENT, b""), Err(NoAnswer::Status(204)));
        for error in [r#"{"error":{"message":"the prompt"}}"#, r#"{"usage":7,"error":"the prompt"}"#] {
            assert_eq!(read(ok, error.as_bytes()), Err(NoAnswer::Error), "{error}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(1_000_000));
        for bad in ["null", "[{}]", "<html>", "{\"a\":1", "{} {}", "data: {}\n\n", TWICE, &deep] {
            assert_eq!(read(ok, bad.as_bytes()), Err(NoAnswer::NotJson));
        }
        assert_eq!(read(ok, b"{\"a\":\"\xff\"}"), Err(NoAnswer::NotJson));
        // Deeper than a request may be: it is the client that has to read it.
        let nested =
            |error: &str| format!("{{\"a\":{}{},\"error\":{error}}}", "[".repeat(200), "]".repeat(200));
        assert_eq!(read(ok, nested("null").as_bytes()), Ok(Usage::default()));
        assert_eq!(read(ok, nested("{}").as_bytes()), Err(NoAnswer::Error));
        let spelt = |value: &str| format!("{{\"\\u0065rror\":{value},\"a\":1}}");
        assert_eq!(read(ok, spelt("7").as_bytes()), Err(NoAnswer::Error));
        assert_eq!(read(ok, spelt("null").as_bytes()), Ok(Usage::default()));
        let twice = r#"{"usage":{"prompt_tokens":3},"choices":[],"usage":{"prompt_tokens":4}}"#;
        assert_eq!(read(ok, twice.as_bytes()), Ok(Usage::default()), "an answer, whose tokens are not known");
    }

    #[test]
    fn tokens_are_read_in_whatever_shape_an_engine_tells_them() {
        let tokens = |text: &str| {
            let usage = read(StatusCode::OK, text.as_bytes()).expect("an answer");
            (usage.prompt_tokens, usage.completion_tokens)
        };
        let openai = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#;
        let with_times = r#"{"usage":{"prompt_tokens":3,"completion_tokens":5},"timings":{"prompt_n":3,"predicted_n":5,"predicted_ms":50.0}}"#;
        let anthropic = r#"{"type":"message","usage":{"input_tokens":3,"output_tokens":5}}"#;
        let nested = |text: &str| format!("{{\"a\":{}{},{}", "[".repeat(200), "]".repeat(200), &text[1..]);
        let spelt = |text: &str| format!("{{\"\\u0061\":1,{}", &text[1..]);
        let slow = [openai, with_times, anthropic].map(|text| [nested(text), spelt(text)]);
        for told in slow.as_flattened() {
            assert_eq!(tokens(told), (Some(3), Some(5)), "{told}");
        }
        for told in [openai, with_times, anthropic] {
            assert_eq!(tokens(told), (Some(3), Some(5)), "{told}");
        }
        let timing = read(StatusCode::OK, with_times.as_bytes()).expect("an answer").timing;
        assert_eq!(timing.map(|timing| (timing.decode_tokens, timing.decode_s)), Some((5, 0.05)));
        // llama.cpp's own answers have times beside them.
        let llama = r#"{"content":"x","stop":true,"tokens_evaluated":3,"tokens_predicted":5,"timings":{"prompt_n":3,"predicted_n":5,"predicted_ms":50.0}}"#;
        assert_eq!(tokens(llama), (Some(3), Some(5)));
        let timing = read(StatusCode::OK, llama.as_bytes()).expect("an answer").timing;
        assert_eq!(timing.map(|timing| (timing.decode_tokens, timing.decode_s)), Some((5, 0.05)));
        let times_alone = br#"{"choices":[],"timings":{"predicted_n":5,"predicted_ms":50.0}}"#;
        assert!(read(StatusCode::OK, times_alone).expect("an answer").timing.is_some());
        assert_eq!(tokens(r#"{"choices":[],"usage":"many"}"#), (None, None));
        assert_eq!(tokens(r#"{"choices":[],"usage":null}"#), (None, None));
    }
}
