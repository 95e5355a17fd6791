//! What comes back: the answer as it grows, its measurements, and errors inside the stream.

use crate::exit::{Failure, Kind};
use crate::render::paint::Look;
use crate::render::quantity::{UNKNOWN, named, rate, seconds};
use crate::sse::Event;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

/// The response headers of the router that are told to the person.
pub(super) const REQUEST_ID: &str = "x-mesh-request-id";
const NODE: &str = "x-mesh-node";
const MODEL: &str = "x-mesh-model";

/// The longest answer that is kept; streams run until `--timeout`.
const LONGEST_ANSWER: usize = 64 << 20;

/// What one event adds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text of the answer.
    Text(String),
    /// Text of the model's thinking.
    Thinking(String),
    /// Roles, numbers, keep-alives.
    Nothing,
}

/// An answer in the making.
#[derive(Debug)]
pub(super) struct Answer {
    asked_at: Instant,
    first_at: Option<Instant>,
    last_at: Option<Instant>,
    text: String,
    node: String,
    model: String,
    request_id: String,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    finish: Option<String>,
    is_done: bool,
}

/// What `ask --json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Summary<'a> {
    request_id: &'a str,
    node: &'a str,
    model: &'a str,
    answer: &'a str,
    finish: Option<&'a str>,
    ttft_s: Option<f64>,
    tokens_per_second: Option<f64>,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

impl Answer {
    /// Nothing yet, asked at `asked_at`.
    pub(super) fn new(asked_at: Instant) -> Self {
        Self {
            asked_at,
            first_at: None,
            last_at: None,
            text: String::new(),
            node: String::new(),
            model: String::new(),
            request_id: String::new(),
            prompt_tokens: None,
            completion_tokens: None,
            finish: None,
            is_done: false,
        }
    }

    /// Takes what the response's headers tell.
    pub(super) fn head(&mut self, header: impl Fn(&str) -> Option<String>) {
        self.node = header(NODE).unwrap_or_default();
        self.model = header(MODEL).unwrap_or_default();
        self.request_id = header(REQUEST_ID).unwrap_or_default();
    }

    /// Takes one event that came at `now`.
    ///
    /// # Errors
    /// `Failed` with the router's words for an error event, or when the stream is none that we know.
    pub(super) fn take(&mut self, event: &Event, now: Instant) -> Result<Piece, Failure> {
        if event.data.trim() == "[DONE]" {
            self.is_done = true;
            return Ok(Piece::Nothing);
        }
        let Ok(data) = serde_json::from_str::<Value>(&event.data) else {
            return Err(self.failure(if event.name == "error" {
                &event.data
            } else {
                "an event is no JSON"
            }));
        };
        if event.name == "error" || data.get("error").is_some_and(|error| !error.is_null()) {
            return Err(
                self.failure(&error_message(&data).unwrap_or_else(|| "it does not say why".to_owned()))
            );
        }
        if self.model.is_empty() {
            self.model = data["model"].as_str().unwrap_or_default().chars().take(300).collect();
        }
        if let Some(usage) = data.get("usage").filter(|usage| usage.is_object()) {
            self.prompt_tokens = usage["prompt_tokens"].as_u64().or(self.prompt_tokens);
            self.completion_tokens = usage["completion_tokens"].as_u64().or(self.completion_tokens);
        }
        let choice = &data["choices"][0];
        if let Some(finish) = choice["finish_reason"].as_str() {
            self.finish = Some(finish.to_owned());
        }
        let delta = &choice["delta"];
        let words = |name: &str| delta[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let piece = if let Some(text) = words("content") {
            if self.text.len() + text.len() > LONGEST_ANSWER {
                return Err(self.failure("the answer does not end"));
            }
            self.text.push_str(&text);
            Piece::Text(text)
        } else if let Some(text) = words("reasoning_content").or_else(|| words("reasoning")) {
            Piece::Thinking(text)
        } else {
            return Ok(Piece::Nothing);
        };
        self.first_at.get_or_insert(now);
        self.last_at = Some(now);
        Ok(piece)
    }

    /// Whether the last event has come.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether nothing is missing at its end.
    pub(super) fn is_whole(&self) -> bool {
        self.is_done || self.finish.is_some()
    }

    /// Whether any of it came, or any of its thinking.
    pub(super) fn has_begun(&self) -> bool {
        self.first_at.is_some()
    }

    /// Whether the answer ends its line by itself (an empty answer needs no line).
    pub(super) fn ends_with_newline(&self) -> bool {
        self.text.is_empty() || self.text.ends_with('\n')
    }

    /// The router's name for this request.
    pub(super) fn request_id(&self) -> Option<&str> {
        Some(self.request_id.as_str()).filter(|id| !id.is_empty())
    }

    /// What to say of an answer that stops here.
    pub(super) fn where_it_broke(&self) -> String {
        let who = if self.node.is_empty() { "the router" } else { &self.node };
        match self.text.chars().count() {
            0 => format!("{who} stopped before the answer began"),
            count => format!("{who} stopped in the middle of the answer (after {count} characters)"),
        }
    }

    fn failure(&self, cause: &str) -> Failure {
        let failure = Failure::new(Kind::Failed, self.where_it_broke()).cause(cause);
        match self.request_id() {
            Some(id) => failure.hint(format!("meshctl explain {id}")),
            None => failure,
        }
    }

    fn ttft_s(&self) -> Option<f64> {
        Some(self.first_at?.duration_since(self.asked_at).as_secs_f64())
    }

    /// Tokens after the first by the time after the first.
    fn tokens_per_second(&self) -> Option<f64> {
        let span = self.last_at?.duration_since(self.first_at?).as_secs_f64();
        let tokens = self.completion_tokens?.checked_sub(1)?;
        (span > 0.0 && tokens > 0).then(|| tokens as f64 / span)
    }

    /// Everything as data.
    pub(super) fn summary(&self) -> Summary<'_> {
        Summary {
            request_id: &self.request_id,
            node: &self.node,
            model: &self.model,
            answer: &self.text,
            finish: self.finish.as_deref(),
            ttft_s: self.ttft_s(),
            tokens_per_second: self.tokens_per_second(),
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
        }
    }

    /// One line of numbers.
    pub(super) fn stats(&self, look: Look) -> String {
        let count = self.completion_tokens.map_or_else(|| UNKNOWN.to_owned(), |tokens| tokens.to_string());
        let parts = [
            look.text(&named(&self.node)),
            look.text(&named(&self.model)),
            format!("TTFT {}", self.ttft_s().map_or_else(|| UNKNOWN.to_owned(), seconds)),
            format!("{count} tokens"),
            self.tokens_per_second().map_or_else(|| format!("{UNKNOWN} tok/s"), rate),
            look.text(&named(&self.request_id)),
        ];
        format!("# {}\n", parts.join(look.sign(" · ", ", ")))
    }
}

/// The message of an error in the OpenAI shape, or in the plain one of other engines.
pub(super) fn error_message(body: &Value) -> Option<String> {
    let error = body.get("error").unwrap_or(body);
    let message = error.as_str().or_else(|| error.get("message")?.as_str())?;
    Some(message.chars().take(2000).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn event(data: &str) -> Event {
        Event { name: String::new(), data: data.into() }
    }

    fn begun() -> (Answer, Instant) {
        let start = Instant::now();
        let mut answer = Answer::new(start);
        answer.head(|name| {
            Some(if name == NODE { "strix-1" } else { "r1" }.to_owned()).filter(|_| name != MODEL)
        });
        (answer, start)
    }

    const LOOK: Look = Look { width: None, color: false, unicode: true };

    #[test]
    fn an_answer_is_told_and_measured() {
        let (mut answer, start) = begun();
        let at = |ms| start + Duration::from_millis(ms);
        let mut take = |data: &str, ms| answer.take(&event(data), at(ms)).expect("a good event");
        assert_eq!(
            take(r#"{"model":"qwen3:4b","choices":[{"delta":{"role":"assistant","content":""}}]}"#, 100),
            Piece::Nothing
        );
        assert_eq!(
            take(r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#, 400),
            Piece::Thinking("hm".into())
        );
        assert_eq!(take(r#"{"choices":[{"delta":{"content":"Hi"}}]}"#, 900), Piece::Text("Hi".into()));
        assert_eq!(take(r#"{"choices":[{"delta":{"content":"!"}}]}"#, 1400), Piece::Text("!".into()));
        assert_eq!(
            take(r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":null}"#, 1500),
            Piece::Nothing
        );
        assert_eq!(
            take(r#"{"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":41}}"#, 1500),
            Piece::Nothing
        );
        assert_eq!(take("[DONE]", 1500), Piece::Nothing);
        assert!(answer.is_done() && answer.is_whole() && !answer.ends_with_newline());
        assert_eq!(answer.stats(LOOK), "# strix-1 · qwen3:4b · TTFT 400 ms · 41 tokens · 40 tok/s · r1\n");
        let summary = serde_json::to_value(answer.summary()).expect("JSON");
        assert_eq!((&summary["answer"], &summary["finish"]), (&"Hi!".into(), &"stop".into()));
    }

    #[test]
    fn an_error_event_is_a_failure_with_the_routers_words() {
        for (name, data) in [
            ("", r#"{"error":{"message":"engine crashed"}}"#),
            ("error", r#"{"message":"engine crashed"}"#),
            ("error", r#"{"error":"engine crashed"}"#),
            ("error", "engine crashed"),
        ] {
            let (mut answer, start) = begun();
            let failure = answer
                .take(&Event { name: name.into(), data: data.into() }, start)
                .expect_err("an error event");
            assert_eq!(failure.kind, Kind::Failed);
            assert_eq!(failure.cause.as_deref(), Some("engine crashed"));
            assert_eq!(failure.hints, ["meshctl explain r1"]);
        }
    }

    #[test]
    fn an_answer_without_an_end_is_not_whole() {
        let (mut answer, start) = begun();
        answer.take(&event(r#"{"choices":[{"delta":{"content":"Hi"}}]}"#), start).expect("a good event");
        assert!(!answer.is_whole());
        assert_eq!(
            answer.where_it_broke(),
            "strix-1 stopped in the middle of the answer (after 2 characters)"
        );
    }
}
