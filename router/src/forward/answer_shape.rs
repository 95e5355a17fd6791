//! Whether an answer that is no stream is an answer at all, and its tokens and times. Engines and what stands before
//! them say `200` to many things: an error, a welcome page, nothing.

use super::stream_guard::{Timings, Usage, UsageField, framing};
use http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;

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

/// What is read of an answer: in one pass, for it may be long.
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

/// Checks status and body of a whole answer, and reads its tokens and times.
///
/// # Errors
/// [`NoAnswer`] says what it is instead.
pub fn read(status: StatusCode, body: &[u8]) -> Result<Usage, NoAnswer> {
    if status != StatusCode::OK {
        return Err(NoAnswer::Status(status.as_u16()));
    }
    let text = body.trim_ascii_start();
    if text.is_empty() {
        return Err(NoAnswer::Empty);
    }
    // serde reads an array into a struct too, field by field. It does not look at bytes that it skips.
    let text =
        std::str::from_utf8(text).ok().filter(|text| text.starts_with('{')).ok_or(NoAnswer::NotJson)?;
    let mut found = Usage::default();
    let error = match serde_json::from_str::<Shape>(text) {
        Ok(Shape { error, usage, timings }) => {
            found.take(usage.as_ref(), timings.as_ref());
            error
        }
        Err(_) => serde_json::from_str::<Outline>(text).map_err(|_| NoAnswer::NotJson)?.error,
    };
    if error.is_some() {
        return Err(NoAnswer::Error);
    }
    Ok(if found == Usage::default() { framing::usage_of_other(body) } else { found })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for bad in ["null", "[{}]", "<html>", "{\"a\":1", "{} {}", "data: {}\n\n", &deep] {
            assert_eq!(read(ok, bad.as_bytes()), Err(NoAnswer::NotJson));
        }
        assert_eq!(read(ok, b"{\"a\":\"\xff\"}"), Err(NoAnswer::NotJson));
    }

    #[test]
    fn tokens_are_read_in_whatever_shape_an_engine_tells_them() {
        let tokens = |text: &str| {
            let usage = read(StatusCode::OK, text.as_bytes()).expect("an answer");
            (usage.prompt_tokens, usage.completion_tokens)
        };
        let openai = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#;
        let anthropic = r#"{"type":"message","usage":{"input_tokens":3,"output_tokens":5}}"#;
        for told in [openai, anthropic] {
            assert_eq!(tokens(told), (Some(3), Some(5)), "{told}");
        }
        assert_eq!(tokens(r#"{"choices":[],"usage":"many"}"#), (None, None));
    }
}
