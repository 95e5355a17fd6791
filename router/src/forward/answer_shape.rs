//! Whether an answer that is no stream is an answer at all. Engines and what stands before them say `200` to many
//! things: an error, a welcome page, nothing.

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

#[derive(Deserialize)]
struct Shape {
    error: Option<IgnoredAny>,
}

/// Checks status and body of a whole answer.
///
/// # Errors
/// [`NoAnswer`] says what it is instead.
pub fn check(status: StatusCode, body: &[u8]) -> Result<(), NoAnswer> {
    if status != StatusCode::OK {
        return Err(NoAnswer::Status(status.as_u16()));
    }
    let text = body.trim_ascii_start();
    if text.is_empty() {
        return Err(NoAnswer::Empty);
    }
    // serde reads an array into a struct too, field by field. It does not look at bytes that it skips.
    if !text.starts_with(b"{") || std::str::from_utf8(text).is_err() {
        return Err(NoAnswer::NotJson);
    }
    match serde_json::from_slice::<Shape>(text) {
        Ok(Shape { error: None }) => Ok(()),
        Ok(Shape { error: Some(_) }) => Err(NoAnswer::Error),
        Err(_) => Err(NoAnswer::NotJson),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_json_object_without_an_error_is_an_answer() {
        let ok = StatusCode::OK;
        for good in ["{}", " \n{\"choices\":[]} ", "{\"error\":null,\"choices\":[]}"] {
            assert_eq!(check(ok, good.as_bytes()), Ok(()), "{good}");
        }
        assert_eq!(check(ok, b" "), Err(NoAnswer::Empty));
        assert_eq!(check(StatusCode::NO_CONTENT, b""), Err(NoAnswer::Status(204)));
        assert_eq!(check(ok, br#"{"error":{"message":"the prompt"}}"#), Err(NoAnswer::Error));
        let deep = format!("{{\"a\":{}", "[".repeat(1_000_000));
        for bad in ["null", "[{}]", "<html>", "{\"a\":1", "{} {}", "data: {}\n\n", &deep] {
            assert_eq!(check(ok, bad.as_bytes()), Err(NoAnswer::NotJson));
        }
        assert_eq!(check(ok, b"{\"a\":\"\xff\"}"), Err(NoAnswer::NotJson));
    }
}
