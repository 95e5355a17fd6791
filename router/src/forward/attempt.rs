//! One try on one node, up to its first content: what came of it, and if it failed, whose fault that was.

use super::Incoming;
use super::agent_links::{AgentAnswer, AgentLink, AnswerBody, LinkError};
use super::answer_shape;
use super::in_flight::Claim;
use super::stream_guard::{StreamGuard, Usage, usage_of};
use super::ticket::{Ended, Ticket};
use crate::fleet_keeper::FleetHandle;
use crate::http::head::Head;
use crate::http::reply::{ApiError, Reply, streamed, whole};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use mesh_core::fleet::Outcome;
use mesh_core::routing::Candidate;
use mesh_core::speed::Timing;
use mesh_daemon::telemetry;
use mesh_proto::v1::response_head::Outcome as HeadOutcome;
use mesh_proto::v1::{EngineAnswer, Refused, RequestHead};
use serde::Deserialize;
use serde_json::json;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The most bytes of an answer that is not a stream: embeddings of a large batch are some 10 MB.
const WHOLE_LIMIT: usize = 128 << 20;
/// The most bytes of an engine's error.
const ERROR_LIMIT: usize = 64 << 10;
/// The most bytes of a stream before its first content: roles and comments. They wait here for it.
const BEFORE_CONTENT: usize = 1 << 20;
/// An engine has this long to end its stream after `[DONE]`, so that its end is not taken for a cancellation.
const AFTER_DONE: Duration = Duration::from_secs(1);
/// A stream that is silent for this long between two chunks has died. Slow CPUs need seconds for a token.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// An attempt with content.
pub enum Attempt {
    /// The whole answer.
    Whole {
        /// The engine's status, a success.
        status: StatusCode,
        /// Its media type.
        content_type: String,
        /// Its bytes.
        body: Bytes,
        /// Tokens and times.
        usage: Usage,
    },
    /// The start of a stream.
    Stream(Box<StreamAttempt>),
}

/// Why an attempt has no content.
#[derive(Debug)]
pub enum Failure {
    /// The request itself is at fault: no other node would do better.
    Client(Box<ApiError>),
    /// This replica cannot: its context is too small, or it lacks an ability. Another may.
    Beyond {
        /// The least context that would do, 0 when that is not the matter.
        least_context: u32,
        /// What to tell the client if no other can.
        error: Box<ApiError>,
    },
    /// The engine is still loading the model.
    Loading,
    /// The node takes no more requests now.
    Busy(String),
    /// The node could not be reached.
    Link(String),
    /// The engine failed.
    Replica(String),
    /// No content for too long.
    Late(Duration),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) | Self::Beyond { error, .. } => {
                write!(out, "refused the request: {}", error.code)
            }
            Self::Loading => write!(out, "{}", super::ticket::LOADING),
            Self::Busy(why) => write!(out, "takes no more requests now: {why}"),
            Self::Link(why) => write!(out, "unreachable: {why}"),
            Self::Replica(why) => write!(out, "engine failed: {why}"),
            Self::Late(limit) => write!(out, "no content within {} s", limit.as_secs()),
        }
    }
}

impl Failure {
    /// The word in the metric.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Beyond { .. } => "beyond",
            Self::Loading => "loading",
            Self::Busy(_) => "busy",
            Self::Link(_) => "link",
            Self::Replica(_) => "engine",
            Self::Late(_) => "late",
        }
    }

    /// What the fleet learns from it.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Client(_) | Self::Beyond { .. } | Self::Loading | Self::Busy(_) => None,
            Self::Link(_) => Some(Outcome::MachineLost),
            Self::Replica(_) | Self::Late(_) => Some(Outcome::ReplicaFailed),
        }
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Gone(why) => Self::Link(why),
            LinkError::Shutdown => Self::Busy("it is shutting down".into()),
            LinkError::EngineBroke | LinkError::BadFrame(_) => Self::Replica(error.to_string()),
        }
    }
}

/// Sends the request and waits for its first content.
///
/// # Errors
/// [`Failure`] says whose fault it was.
pub async fn open(
    link: Arc<dyn AgentLink>,
    incoming: &Incoming,
    head: &Head,
    candidate: &Candidate,
    body: Bytes,
) -> Result<Attempt, Failure> {
    let request = RequestHead {
        request_id: incoming.id.clone(),
        model: candidate.model.to_string(),
        path: incoming.path.into(),
        body_length: body.len() as u64,
        traceparent: telemetry::traceparent(),
        blob: None,
    };
    let AgentAnswer { head: answer, body } = link.open(request, body).await?;
    let EngineAnswer { status, content_type, .. } = match answer.outcome {
        Some(HeadOutcome::Answer(answer)) => answer,
        Some(HeadOutcome::Refused(refused)) => return Err(refusal(refused)),
        Some(HeadOutcome::Blob(_)) | None => {
            return Err(Failure::Replica("the node's answer is none to a request".into()));
        }
    };
    let status = u16::try_from(status)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| Failure::Replica(format!("the engine answered with status {status}")))?;
    if !status.is_success() {
        let error = collect(body, ERROR_LIMIT).await?;
        return Err(engine_error(status, &error));
    }
    if status != StatusCode::OK {
        return Err(Failure::Replica(format!("the engine answered with status {}", status.as_u16())));
    }
    // An engine that answers whole although it was asked for a stream is passed on as it is.
    if head.stream && content_type.starts_with("text/event-stream") {
        return StreamAttempt::begin(body, content_type, head.wants_usage)
            .await
            .map(|s| Attempt::Stream(Box::new(s)));
    }
    let body = collect(body, WHOLE_LIMIT).await?;
    answer_shape::check(status, &body).map_err(|error| Failure::Replica(error.to_string()))?;
    let usage = usage_of(&body);
    Ok(Attempt::Whole { status, content_type, body, usage })
}

/// An answer that is there as a whole.
#[must_use]
pub fn whole_reply(status: StatusCode, content_type: &str, body: Bytes) -> Reply {
    let mut reply = Response::new(whole(body));
    *reply.status_mut() = status;
    if let Ok(value) = HeaderValue::from_str(content_type) {
        reply.headers_mut().insert(CONTENT_TYPE, value);
    }
    reply
}

fn refusal(refused: Refused) -> Failure {
    match refused.kind.as_str() {
        "loading" => Failure::Loading,
        // The agent knows better than our snapshot; that is no failure of the engine.
        "draining" | "not_loaded" | "no_such_model" => Failure::Busy(refused.message),
        _ => Failure::Replica(refused.message),
    }
}

async fn collect(mut body: AnswerBody, limit: usize) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        if whole.len() + chunk.len() > limit {
            return Err(Failure::Replica(format!("the engine's answer is over {limit} bytes")));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// Errors of engines: llama.cpp's and OpenAI's object, or Ollama's plain text.
#[derive(Deserialize)]
#[serde(untagged)]
enum EngineError {
    Object { error: ErrorObject },
    Text { error: String },
}

#[derive(Deserialize, Default)]
struct ErrorObject {
    #[serde(default)]
    message: String,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    n_prompt_tokens: Option<u32>,
    n_ctx: Option<u32>,
}

/// Fields that an engine may name in its complaint; nothing else of its words is passed on.
const FIELDS: [&str; 12] = [
    "messages",
    "role",
    "content",
    "tools",
    "tool_choice",
    "response_format",
    "json_schema",
    "grammar",
    "stop",
    "prompt",
    "input",
    "max_tokens",
];

/// Whose fault an engine's error is. Engines answer 5xx to some faults of the client, and SDKs repeat every
/// 5xx twice, so those become 4xx here.
///
/// The engine's own words go no further: llama.cpp quotes prompts and answers in them. What a client learns is
/// the kind of the error, numbers of tokens, and which field the engine named.
fn engine_error(status: StatusCode, body: &[u8]) -> Failure {
    let error = match serde_json::from_slice(body) {
        Ok(EngineError::Object { error }) => error,
        Ok(EngineError::Text { error }) => ErrorObject { message: error, ..ErrorObject::default() },
        Err(_) => ErrorObject::default(),
    };
    let (words, kind) = (error.message.as_str(), error.kind.as_deref().unwrap_or_default());
    let beyond = |least_context, error: ApiError| Failure::Beyond { least_context, error: Box::new(error) };
    if kind == "exceed_context_size_error" || words.contains("too large to process") {
        let mut numbers = numbers(words);
        let needs = error.n_prompt_tokens.or_else(|| numbers.next()).unwrap_or(0);
        let has = error.n_ctx.or_else(|| numbers.next()).unwrap_or(0);
        let text = format!("the prompt has {needs} tokens, but the model takes {has} at once");
        let error = ApiError::client(StatusCode::BAD_REQUEST, "context_length_exceeded", text)
            .param("messages")
            .with("prompt_tokens", json!(needs))
            .with("context", json!(has));
        return beyond(needs.saturating_add(1), error);
    }
    let unsupported = |text: &str| beyond(0, ApiError::client(StatusCode::BAD_REQUEST, "unsupported", text));
    if words.contains("image input is not supported") || words.contains("does not support image") {
        return unsupported("the model cannot read images");
    }
    if kind == "not_supported_error" || status == StatusCode::NOT_IMPLEMENTED {
        return unsupported("the model or its engine does not do this");
    }
    if status == StatusCode::SERVICE_UNAVAILABLE && words.contains("Loading model") {
        return Failure::Loading;
    }
    let said = format!("status {}", status.as_u16());
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Failure::Busy(said)
        }
        // The agent's key was refused, or the model is gone: not the client's doing.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Failure::Replica(said),
        // A 500 for tools that are no array of tools.
        _ if status.is_client_error() || words.starts_with("Failed to parse tools") => {
            let field = FIELDS.iter().find(|field| names(words, field));
            let text = match field {
                Some(field) => {
                    format!("the engine refused the request ({said}); it names the field `{field}`")
                }
                None => format!("the engine refused the request ({said})"),
            };
            let status = if status.is_client_error() { status } else { StatusCode::BAD_REQUEST };
            Failure::Client(Box::new(ApiError::client(status, "invalid_request", text)))
        }
        _ => Failure::Replica(said),
    }
}

/// Whether an engine's words name a field: in quotes, or as `parse tools`.
fn names(words: &str, field: &str) -> bool {
    ["'", "\"", "`"].iter().any(|quote| words.contains(&format!("{quote}{field}{quote}")))
        || words.starts_with(&format!("Failed to parse {field}"))
}

/// The numbers in a text, in order.
fn numbers(text: &str) -> impl Iterator<Item = u32> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok())
}

/// A stream that has content: the bytes so far, and the rest of it.
pub struct StreamAttempt {
    content_type: String,
    pending: Vec<Bytes>,
    body: AnswerBody,
    guard: StreamGuard,
}

impl StreamAttempt {
    async fn begin(mut body: AnswerBody, content_type: String, keep_usage: bool) -> Result<Self, Failure> {
        let (mut guard, mut pending) = (StreamGuard::new(keep_usage), Vec::new());
        let mut length = 0;
        loop {
            let seen = guard.seen();
            if seen.error {
                return Err(Failure::Replica("it sent an error instead of an answer".into()));
            }
            if seen.content {
                return Ok(Self { content_type, pending, body, guard });
            }
            if seen.done {
                return Err(Failure::Replica("it ended the stream without any content".into()));
            }
            let chunk = body
                .next()
                .await
                .ok_or_else(|| Failure::Replica("it closed the stream before any content".into()))??;
            length += chunk.len();
            guard.push(chunk, &mut pending).map_err(|error| Failure::Replica(error.to_string()))?;
            if length > BEFORE_CONTENT && !guard.seen().content {
                return Err(Failure::Replica("it sent over 1 MiB without any content".into()));
            }
        }
    }

    /// The client's answer. The claim is held and the ticket stays open until the stream has ended. It is ended
    /// with an error after a minute of silence, or after `patience` where that is less.
    #[must_use]
    pub fn reply(
        self,
        fleet: FleetHandle,
        candidate: Candidate,
        claim: Claim,
        ticket: Ticket,
        patience: Duration,
    ) -> Reply {
        let content_type = self.content_type.clone();
        let mut flow = Flow {
            body: self.body,
            guard: self.guard,
            open: Some((claim, ticket)),
            fleet,
            candidate,
            over: false,
            silence: STALL_LIMIT.min(patience),
            done_at: None,
        };
        flow.note_end();
        let first = stream::iter(self.pending);
        let rest = stream::unfold(flow, |mut flow| async move {
            let out = flow.next().await?;
            Some((stream::iter(out), flow))
        });
        let mut reply = Response::new(streamed(first.chain(rest.flatten()).boxed()));
        let headers = reply.headers_mut();
        let kind = HeaderValue::from_str(&content_type);
        headers.insert(CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static("text/event-stream")));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Keeps nginx and its like from collecting tokens.
        headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        reply
    }
}

/// A stream on its way to the client. Dropped early = the client has left: the body's drop cancels the engine,
/// the ticket's drop records it.
struct Flow {
    body: AnswerBody,
    guard: StreamGuard,
    /// Gone once the end was recorded.
    open: Option<(Claim, Ticket)>,
    fleet: FleetHandle,
    candidate: Candidate,
    over: bool,
    /// The longest silence between two chunks.
    silence: Duration,
    /// When `[DONE]` was found to have been passed on.
    done_at: Option<Instant>,
}

impl Flow {
    /// The next bytes for the client; `None` = the stream has ended.
    async fn next(&mut self) -> Option<Vec<Bytes>> {
        while !self.over {
            let mut out = Vec::new();
            // The client has all of it: what an engine does after `[DONE]` is between it and the agent.
            let done = self.guard.seen().done;
            let limit = if done {
                // From the first time on: an engine that goes on for ever is silent at no time.
                *self.done_at.get_or_insert_with(Instant::now) + AFTER_DONE
            } else {
                Instant::now() + self.silence
            };
            match tokio::time::timeout_at(limit, self.body.next()).await {
                Ok(Some(Ok(_))) if done => {}
                Ok(None | Some(Err(_))) | Err(_) if done => self.over = true,
                Ok(Some(Ok(chunk))) => {
                    if let Err(error) = self.guard.push(chunk, &mut out) {
                        out.push(self.broke(&error.to_string()));
                    } else if self.guard.seen().error {
                        // Its own words were kept back: they may repeat the request.
                        out.push(self.broke("the engine sent an error in its stream"));
                    }
                    self.note_end();
                }
                Ok(Some(Err(error))) => out.push(self.broke(&error.to_string())),
                Ok(None) => out.push(self.broke("the engine ended its stream without finishing")),
                Err(_) => out.push(self.broke(&format!("no data for {} s", self.silence.as_secs()))),
            }
            if !out.is_empty() {
                return Some(out);
            }
        }
        None
    }

    /// Records the end as soon as the client is given it: many clients hang up at `[DONE]`.
    fn note_end(&mut self) {
        if !self.guard.seen().done {
            return;
        }
        let Some((claim, mut ticket)) = self.open.take() else { return };
        let usage = self.measured(&ticket);
        ticket.attempt_ended("answered");
        ticket.end(Ended::Complete, 200, "", usage);
        self.observe(Outcome::Answered(usage.timing));
        drop(claim);
    }

    /// The stream broke after content had gone out: an explicit error event, and never `[DONE]`.
    fn broke(&mut self, why: &str) -> Bytes {
        self.over = true;
        let node = &self.candidate.machine;
        let message = format!("{node} stopped answering in the middle of its answer: {why}");
        let mut error = ApiError::mesh(StatusCode::BAD_GATEWAY, "node_failed_mid_stream", message.as_str());
        if let Some((claim, mut ticket)) = self.open.take() {
            error = error.with("request_id", json!(ticket.id())).with("node", json!(node));
            let usage = self.measured(&ticket);
            ticket.attempt_ended(format!("broke off: {why}"));
            ticket.end(Ended::Failed, 200, &message, usage);
            self.observe(Outcome::ReplicaFailed);
            drop(claim);
        }
        error.event()
    }

    fn observe(&self, outcome: Outcome) {
        self.fleet.observe(&self.candidate.machine, &self.candidate.model, outcome);
    }

    /// The engine's own times, or for engines that tell none, tokens over the time since the first content.
    fn measured(&self, ticket: &Ticket) -> Usage {
        let mut usage = self.guard.usage();
        if usage.timing.is_none()
            && let (Some(tokens), Some(time)) = (usage.completion_tokens, ticket.since_first_content())
        {
            usage.timing =
                Some(Timing { decode_tokens: tokens, decode_s: time.as_secs_f64(), ..Timing::default() });
        }
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, body: &str) -> Failure {
        engine_error(StatusCode::from_u16(status).expect("valid"), body.as_bytes())
    }

    #[test]
    fn of_an_engine_s_words_only_the_name_of_a_field_is_passed_on() {
        for words in [
            "'messages' must be an array, not \"my secret\"",
            "bad \u{43f}\u{440}\u{438} my secret near `messages`",
        ] {
            let body = serde_json::json!({ "error": { "message": words } }).to_string();
            let Failure::Client(error) = failure(400, &body) else { panic!("{words}") };
            assert_eq!(
                error.message,
                "the engine refused the request (status 400); it names the field `messages`"
            );
            let failed = failure(500, &body).to_string();
            assert_eq!(failed, "engine failed: status 500");
        }
    }

    #[test]
    fn a_prompt_over_the_context_becomes_openai_s_code_with_both_numbers() {
        let body = r#"{"error":{"code":400,"message":"request (21012 tokens) exceeds the available context size (1024 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":21012,"n_ctx":1024}}"#;
        let Failure::Beyond { least_context, error } = failure(400, body) else { panic!("too long") };
        assert_eq!(least_context, 21013);
        assert_eq!(error.code, "context_length_exceeded");
        assert_eq!(error.message, "the prompt has 21012 tokens, but the model takes 1024 at once");
    }

    #[test]
    fn faults_of_the_client_never_stay_5xx() {
        for (status, body) in [
            (
                500,
                r#"{"error":{"code":500,"message":"image input is not supported - hint: if this is unexpected, you may need to provide the mmproj","type":"server_error"}}"#,
            ),
            (
                501,
                r#"{"error":{"code":501,"message":"This server does not support embeddings. Start it with `--embeddings`","type":"not_supported_error"}}"#,
            ),
            (
                500,
                r#"{"error":{"code":500,"message":"input (900 tokens) is too large to process. increase the physical batch size (current batch size: 512)","type":"server_error"}}"#,
            ),
            (422, "nonsense"),
        ] {
            let (Failure::Client(error) | Failure::Beyond { error, .. }) = failure(status, body) else {
                panic!("{body}")
            };
            assert!(error.status.is_client_error(), "{body}");
        }
    }

    #[test]
    fn faults_of_the_engine_send_the_request_on() {
        assert!(matches!(
            failure(503, r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#),
            Failure::Loading
        ));
        assert!(matches!(
            failure(503, r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#),
            Failure::Busy(_)
        ));
        assert!(matches!(failure(404, r#"{"error":"model 'x' not found"}"#), Failure::Replica(_)));
        assert!(matches!(failure(401, r#"{"error":{"message":"Invalid API Key"}}"#), Failure::Replica(_)));
        assert!(matches!(failure(500, ""), Failure::Replica(_)));
    }
}
