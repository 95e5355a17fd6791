//! One try on one node, up to its first content: what came of it, and if it failed, whose fault that was.

use super::Incoming;
use super::agent_links::{AgentAnswer, AgentLink, AnswerBody, LinkError};
use super::answer_judge::{Judgement, Truth};
use super::answer_shape;
use super::flow::StreamAttempt;
use super::stream_guard::{StreamGuard, Usage};
use crate::fleet_keeper::FleetHandle;
use crate::http::dialect::passage::{Change, Prepared};
use crate::http::dialect::pieces::NoAnswer;
use crate::http::head::Head;
use crate::http::reply::{ApiError, Reply, whole};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use mesh_core::fleet::Outcome;
use mesh_core::mode::Purpose;
use mesh_core::routing::Candidate;
use mesh_daemon::telemetry;
use mesh_proto::v1::response_head::Outcome as HeadOutcome;
use mesh_proto::v1::{EngineAnswer, Refused, RequestHead};
use serde::Deserialize;
use serde_json::json;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Paths that every engine has: a 404 there means that the model is gone.
const CORE_PATHS: [&str; 7] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
];

/// The most bytes of an answer that is not a stream: embeddings of a large batch are some 10 MB.
const WHOLE_LIMIT: usize = 128 << 20;
/// The most bytes of an engine's error.
const ERROR_LIMIT: usize = 64 << 10;

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
        /// What it is like.
        truth: Box<Truth>,
    },
    /// The start of a stream.
    Stream(Box<StreamAttempt>),
}

impl Attempt {
    /// What is wrong with an answer that is there to its end; `None` while it is still coming.
    #[must_use]
    pub fn judgement(&self, fleet: &FleetHandle, candidate: &Candidate) -> Option<Judgement> {
        match self {
            Self::Whole { usage, truth, .. } => Some(truth.judgement(*usage, fleet, candidate)),
            Self::Stream(stream) => stream
                .guard
                .seen()
                .done
                .then(|| stream.truth.judgement(stream.guard.usage(), fleet, candidate)),
        }
    }
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
    /// The engine does not know the path: an older version may speak another dialect.
    NoSuchPath(Box<ApiError>),
    /// The engine is still loading the model.
    Loading,
    /// The node takes no more requests now.
    Busy(String),
    /// The engine takes no more requests, and said for how long.
    Resting(String, Duration),
    /// The node could not be reached.
    Link(String),
    /// The engine failed.
    Replica(String),
    /// No content for too long.
    Late(Duration),
    /// Tokens were spent, and nothing came of them.
    Empty(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) | Self::Beyond { error, .. } | Self::NoSuchPath(error) => {
                write!(out, "refused the request: {}", error.code)
            }
            Self::Loading => write!(out, "{}", super::ticket::LOADING),
            Self::Busy(why) => write!(out, "takes no more requests now: {why}"),
            Self::Resting(why, rest) => {
                write!(out, "takes no more requests for {} s: {why}", rest.as_secs())
            }
            Self::Link(why) => write!(out, "unreachable: {why}"),
            Self::Replica(why) => write!(out, "engine failed: {why}"),
            Self::Late(limit) => write!(out, "no content within {} s", limit.as_secs()),
            Self::Empty(why) => write!(out, "{why}"),
        }
    }
}

impl Failure {
    /// The word in the metric.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Beyond { .. } | Self::NoSuchPath(_) => "beyond",
            Self::Loading => "loading",
            Self::Busy(_) | Self::Resting(..) => "busy",
            Self::Link(_) => "link",
            Self::Replica(_) => "engine",
            Self::Late(_) => "late",
            Self::Empty(_) => "empty",
        }
    }

    /// What the fleet learns from it.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            // Whether an empty answer counts is decided once another was asked.
            Self::Client(_)
            | Self::Beyond { .. }
            | Self::NoSuchPath(_)
            | Self::Loading
            | Self::Busy(_)
            | Self::Empty(_) => None,
            Self::Resting(_, rest) => Some(Outcome::ReplicaBusy(*rest)),
            Self::Link(_) => Some(Outcome::MachineLost),
            Self::Replica(_) | Self::Late(_) => Some(Outcome::ReplicaFailed),
        }
    }
}

impl From<NoAnswer> for Failure {
    fn from(error: NoAnswer) -> Self {
        Self::Replica(error.to_string())
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
    prepared: Prepared,
    mut truth: Truth,
) -> Result<Attempt, Failure> {
    let Prepared { path, body, framing, keep_usage, change } = prepared;
    let request = RequestHead {
        request_id: incoming.id.to_string(),
        model: candidate.model.to_string(),
        path: path.into(),
        body_length: body.len() as u64,
        traceparent: telemetry::traceparent(),
        blob: None,
    };
    let AgentAnswer { head: answer, body } = link.open(request, body).await?;
    let EngineAnswer { status, content_type, retry_after_s, .. } = match answer.outcome {
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
        if status == StatusCode::NOT_FOUND && !CORE_PATHS.contains(&path) {
            let text = format!("the engine has no {path}");
            let error = ApiError::client(StatusCode::BAD_REQUEST, "unsupported", text);
            return Err(Failure::NoSuchPath(Box::new(error)));
        }
        return Err(match (engine_error(status, &error), retry_after_s) {
            (Failure::Busy(said), Some(seconds)) if seconds > 0 => {
                Failure::Resting(said, Duration::from_secs(seconds.into()))
            }
            (failure, _) => failure,
        });
    }
    if status != StatusCode::OK {
        return Err(Failure::Replica(format!("the engine answered with status {}", status.as_u16())));
    }
    // An engine that answers whole although it was asked for a stream is passed on as it is.
    if head.stream && framing.is_stream(&content_type) {
        let guard = StreamGuard::new(framing, keep_usage);
        let (translation, content_type) = match change {
            Change::Translate(translation) => {
                let kind = translation.stream_type().to_owned();
                (Some(translation), kind)
            }
            Change::None | Change::Embeddings { .. } => (None, content_type),
        };
        let dialect = incoming.door.dialect();
        return StreamAttempt::begin(body, content_type, guard, translation, dialect, truth)
            .await
            .map(|s| Attempt::Stream(Box::new(s)));
    }
    let body = collect(body, WHOLE_LIMIT).await?;
    let usage = answer_shape::read(status, &body).map_err(|error| Failure::Replica(error.to_string()))?;
    truth.known.is_stream = false;
    if incoming.door.purpose() == Purpose::Chat {
        truth.judge.look(&body);
    }
    let (other_type, body) = change.whole(body, head.stream)?;
    let content_type = other_type.map_or(content_type, ToOwned::to_owned);
    Ok(Attempt::Whole { status, content_type, body, usage, truth: Box::new(truth) })
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

/// What an agent's refusal means.
pub(super) fn refusal(refused: Refused) -> Failure {
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
        if whole.is_empty() && chunk.len() <= limit {
            // Most answers come in one piece, which is taken as it is where nobody else holds it.
            whole = chunk.into();
            continue;
        }
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
pub(super) fn engine_error(status: StatusCode, body: &[u8]) -> Failure {
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
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::CONFLICT
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::SERVICE_UNAVAILABLE => Failure::Busy(said),
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
        for status in [408, 409, 429] {
            assert!(matches!(failure(status, ""), Failure::Busy(_)), "{status}");
        }
        assert!(matches!(failure(404, r#"{"error":"model 'x' not found"}"#), Failure::Replica(_)));
        assert!(matches!(failure(401, r#"{"error":{"message":"Invalid API Key"}}"#), Failure::Replica(_)));
        assert!(matches!(failure(500, ""), Failure::Replica(_)));
    }
}
