//! One try on one node, up to its first content: what came of it, and if it failed, whose fault that was.

use super::Incoming;
use super::agent_links::{AgentAnswer, AgentLink, AnswerBody, LinkError};
use super::answer_judge::{Judgement, Truth};
use super::answer_shape;
use super::engine_error::whose_fault;
use super::flow::StreamAttempt;
use super::stream_guard::{StreamGuard, Usage};
use crate::fleet_keeper::FleetHandle;
use crate::http::dialect::passage::{Change, Prepared};
use crate::http::dialect::pieces::NoAnswer;
use crate::http::head::Head;
use crate::http::reply::{ApiError, Reply, whole, with_room};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use mesh_core::fleet::Outcome;
use mesh_core::mode::Purpose;
use mesh_core::routing::Candidate;
use mesh_daemon::telemetry;
use mesh_proto::v1::response_head::Outcome as HeadOutcome;
use mesh_proto::v1::{EngineAnswer, Refused, RequestHead};
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
    /// The engine was not there: it never saw the request.
    Absent(String),
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
            Self::Replica(why) | Self::Absent(why) => write!(out, "engine failed: {why}"),
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
            Self::Replica(_) | Self::Absent(_) => "engine",
            Self::Late(_) => "late",
            Self::Empty(_) => "empty",
        }
    }

    /// Whether the engine may have begun with the request.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        match self {
            Self::Absent(_) | Self::Busy(_) | Self::Resting(..) | Self::Loading => false,
            Self::Client(_)
            | Self::Beyond { .. }
            | Self::NoSuchPath(_)
            | Self::Link(_)
            | Self::Replica(_)
            | Self::Late(_)
            | Self::Empty(_) => true,
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
            Self::Replica(_) | Self::Absent(_) | Self::Late(_) => Some(Outcome::ReplicaFailed),
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
        let failure = whose_fault(status, &error, &candidate.model, incoming.door, &incoming.body);
        return Err(match (failure, retry_after_s) {
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
    let mut reply = with_room(whole(body));
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
        "engine_down" => Failure::Absent(refused.message),
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
