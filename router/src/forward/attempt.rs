//! One try on one node, up to its first content: what came of it, and if it failed, whose fault that was.

use super::Incoming;
use super::agent_links::{AgentAnswer, AgentLink, AnswerBody, LinkError};
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

/// The most bytes of an answer that is not a stream: embeddings of a large batch are some 10 MB.
const WHOLE_LIMIT: usize = 128 << 20;
/// The most bytes of an engine's error.
const ERROR_LIMIT: usize = 64 << 10;
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
    /// The prompt is over this slot's context; a larger one may exist.
    TooLong {
        /// The least context that would do.
        needs: u32,
        /// What to tell the client if there is none.
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
            Self::Client(error) | Self::TooLong { error, .. } => {
                write!(out, "refused the request: {}", error.code)
            }
            Self::Loading => write!(out, "still loading the model"),
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
            Self::TooLong { .. } => "context",
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
            Self::Client(_) | Self::TooLong { .. } | Self::Loading | Self::Busy(_) => None,
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
    };
    let AgentAnswer { head: answer, body } = link.open(request, body).await?;
    let EngineAnswer { status, content_type, .. } = match answer.outcome {
        Some(HeadOutcome::Answer(answer)) => answer,
        Some(HeadOutcome::Refused(refused)) => return Err(refusal(refused)),
        None => return Err(Failure::Replica("the node's answer has no outcome".into())),
    };
    let status = u16::try_from(status)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| Failure::Replica(format!("the engine answered with status {status}")))?;
    if !status.is_success() {
        let error = collect(body, ERROR_LIMIT).await?;
        return Err(engine_error(status, &error, &incoming.body));
    }
    if head.stream {
        return StreamAttempt::begin(body, content_type, head.wants_usage)
            .await
            .map(|s| Attempt::Stream(Box::new(s)));
    }
    let body = collect(body, WHOLE_LIMIT).await?;
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
        "draining" => Failure::Busy(refused.message),
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

/// Whose fault an engine's error is. Engines answer 5xx to some faults of the client, and SDKs repeat every
/// 5xx twice, so those become 4xx here.
fn engine_error(status: StatusCode, body: &[u8], request: &[u8]) -> Failure {
    let error = match serde_json::from_slice(body) {
        Ok(EngineError::Object { error }) => error,
        Ok(EngineError::Text { error }) => ErrorObject { message: error, ..ErrorObject::default() },
        Err(_) => ErrorObject::default(),
    };
    let mut message: String = error.message.chars().take(500).collect();
    if quotes(request, &message) {
        message = "the engine refused the request in words that quote it, so they are left out here".into();
    }
    let kind = error.kind.as_deref().unwrap_or_default();
    let client =
        |status, code, message: &str| Failure::Client(Box::new(ApiError::client(status, code, message)));
    if kind == "exceed_context_size_error" {
        let (needs, has) = (error.n_prompt_tokens.unwrap_or(0), error.n_ctx.unwrap_or(0));
        let text = format!("the prompt has {needs} tokens, but the model's context holds {has}");
        let error = ApiError::client(StatusCode::BAD_REQUEST, "context_length_exceeded", text)
            .param("messages")
            .with("prompt_tokens", json!(needs))
            .with("context", json!(has));
        return Failure::TooLong { needs: needs.saturating_add(1), error: Box::new(error) };
    }
    if message.contains("too large to process") {
        return client(StatusCode::BAD_REQUEST, "context_length_exceeded", &message);
    }
    // A 500 for tools that are no array of tools.
    if error.message.starts_with("Failed to parse tools") {
        return client(StatusCode::BAD_REQUEST, "invalid_request", &message);
    }
    if kind == "not_supported_error" || status == StatusCode::NOT_IMPLEMENTED {
        return client(StatusCode::BAD_REQUEST, "unsupported", &message);
    }
    if message.contains("image input is not supported") || message.contains("does not support image") {
        return client(StatusCode::BAD_REQUEST, "unsupported", "the model cannot read images");
    }
    if status == StatusCode::SERVICE_UNAVAILABLE && message.contains("Loading model") {
        return Failure::Loading;
    }
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Failure::Busy(message)
        }
        // The agent's key was refused, or the model is gone: not the client's doing.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
            Failure::Replica(format!("status {}: {message}", status.as_u16()))
        }
        _ if status.is_client_error() => client(status, "invalid_request", &message),
        _ => Failure::Replica(format!("status {}: {message}", status.as_u16())),
    }
}

/// Whether a message holds a piece of the request: prompts belong in no error, record or log.
fn quotes(request: &[u8], message: &str) -> bool {
    /// Shorter pieces are names of fields and common words.
    const PIECE: usize = 16;
    let pieces: std::collections::HashSet<&[u8]> = message.as_bytes().windows(PIECE).collect();
    !pieces.is_empty() && request.windows(PIECE).any(|piece| pieces.contains(piece))
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
            guard.push(chunk, &mut pending).map_err(|error| Failure::Replica(error.to_string()))?;
        }
    }

    /// The client's answer. The claim is held and the ticket stays open until the stream has ended.
    #[must_use]
    pub fn reply(self, fleet: FleetHandle, candidate: Candidate, claim: Claim, ticket: Ticket) -> Reply {
        let content_type = self.content_type.clone();
        let mut flow = Flow {
            body: self.body,
            guard: self.guard,
            open: Some((claim, ticket)),
            fleet,
            candidate,
            over: false,
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
}

impl Flow {
    /// The next bytes for the client; `None` = the stream has ended.
    async fn next(&mut self) -> Option<Vec<Bytes>> {
        while !self.over {
            let mut out = Vec::new();
            match tokio::time::timeout(STALL_LIMIT, self.body.next()).await {
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
                Ok(None) if self.guard.seen().done => self.over = true,
                Ok(None) => out.push(self.broke("the engine ended its stream without finishing")),
                Err(_) => out.push(self.broke(&format!("no data for {} s", STALL_LIMIT.as_secs()))),
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
        engine_error(StatusCode::from_u16(status).expect("valid"), body.as_bytes(), b"")
    }

    #[test]
    fn an_engine_s_words_are_passed_on_unless_they_quote_the_request() {
        let request = br#"{"messages":[{"role":"user","content":"my very secret question"}]}"#;
        let said = |words: &str| {
            let body = serde_json::json!({ "error": { "message": words } }).to_string();
            let Failure::Client(error) = engine_error(StatusCode::BAD_REQUEST, body.as_bytes(), request)
            else {
                panic!("{words}")
            };
            error.message
        };
        assert_eq!(said("'messages' must be an array"), "'messages' must be an array");
        assert!(!said("parse error near 'a very secret question'").contains("secret"));
    }

    #[test]
    fn a_prompt_over_the_context_becomes_openai_s_code_with_both_numbers() {
        let body = r#"{"error":{"code":400,"message":"request (21012 tokens) exceeds the available context size (1024 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":21012,"n_ctx":1024}}"#;
        let Failure::TooLong { needs, error } = failure(400, body) else { panic!("the prompt is too long") };
        assert_eq!(needs, 21013);
        assert_eq!(error.code, "context_length_exceeded");
        assert_eq!(error.message, "the prompt has 21012 tokens, but the model's context holds 1024");
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
            let Failure::Client(error) = failure(status, body) else { panic!("{body}") };
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
