//! Answers of the router itself: errors in OpenAI's shape, headers that say where a request went.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use mesh_core::routing::Rejection;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::convert::Infallible;

/// The body of any answer. It never fails: a broken stream ends with an error event of its own.
pub type ReplyBody = UnsyncBoxBody<Bytes, Infallible>;
/// Any answer.
pub type Reply = Response<ReplyBody>;

/// A body that is there as a whole.
#[must_use]
pub fn whole(bytes: impl Into<Bytes>) -> ReplyBody {
    Full::new(bytes.into()).boxed_unsync()
}

/// Headers of an answer, usually.
const HEADERS: usize = 8;

/// An answer with room for its headers: once, and not by doubling.
#[must_use]
pub fn with_room(body: ReplyBody) -> Reply {
    let mut reply = Response::new(body);
    *reply.headers_mut() = HeaderMap::with_capacity(HEADERS);
    reply
}

/// A JSON answer.
#[must_use]
pub fn json_reply(status: StatusCode, value: &Value) -> Reply {
    let mut reply = Response::new(whole(value.to_string()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// An error towards a client, in the shape that OpenAI's SDKs read. The message can be read alone.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// OpenAI's `type`.
    pub kind: &'static str,
    /// OpenAI's `code`: stable, for programs.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// Which field of the request.
    pub param: Option<Cow<'static, str>>,
    /// Seconds after which asking again makes sense.
    pub retry_after_s: Option<u32>,
    /// More for programs, under `error.mesh`.
    pub mesh: Vec<(&'static str, Value)>,
}

impl ApiError {
    /// The `type` of errors that only another request avoids.
    pub const CLIENT: &'static str = "invalid_request_error";

    /// What is also told as the header `Allow`, under `error.mesh`.
    pub const ALLOW: &'static str = "allow";

    /// An error that is the client's fault.
    #[must_use]
    pub fn client(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: Self::CLIENT,
            code,
            message: message.into(),
            param: None,
            retry_after_s: None,
            mesh: Vec::new(),
        }
    }

    /// An error that is the mesh's fault; SDKs try again by themselves.
    #[must_use]
    pub fn mesh(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind: "mesh_error", ..Self::client(status, code, message) }
    }

    /// An engine that was asked for a stream has answered whole, after the stream had begun.
    #[must_use]
    pub fn no_stream() -> Self {
        Self::mesh(
            StatusCode::BAD_GATEWAY,
            "no_stream",
            "the engine does not stream; ask again without `stream`",
        )
    }

    /// Names the field.
    #[must_use]
    pub fn param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Adds `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Adds one entry under `error.mesh`.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: Value) -> Self {
        self.mesh.push((key, value));
        self
    }

    /// The error object as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut error = json!({
            "message": self.message, "type": self.kind, "code": self.code, "param": self.param,
        });
        for (key, value) in &self.mesh {
            error["mesh"][*key] = value.clone();
        }
        json!({ "error": error })
    }

    /// The error as a whole answer in OpenAI's shape; [`super::dialect::Dialect::reply`] knows the others.
    #[must_use]
    pub fn reply(&self) -> Reply {
        super::dialect::Dialect::OpenAi.reply(self)
    }
}

/// Each node's reason as JSON, for `error.mesh.nodes`.
#[must_use]
pub fn reasons_json(rejected: &[Rejection]) -> Value {
    rejected
        .iter()
        .map(|rejection| {
            json!({
                "node": rejection.machine, "model": rejection.model, "reason": rejection.why.to_string(),
            })
        })
        .collect()
}

/// Each node's reason in one line of at most five, for the message.
#[must_use]
pub fn reasons_text(rejected: &[Rejection]) -> String {
    let mut parts: Vec<String> = rejected
        .iter()
        .take(5)
        .map(|rejection| match &rejection.model {
            Some(model) => format!("{}: {model} {}", rejection.machine, rejection.why),
            None => format!("{}: {}", rejection.machine, rejection.why),
        })
        .collect();
    if rejected.len() > 5 {
        parts.push(format!("and {} more", rejected.len() - 5));
    }
    if parts.is_empty() { "no node is connected".into() } else { parts.join("; ") }
}

/// The most characters of such a header.
const HEADER_LIMIT: usize = 300;

/// The names of our headers, read once and not for each answer.
pub mod names {
    use http::HeaderName;

    /// Which machine answered.
    pub const NODE: HeaderName = HeaderName::from_static("x-mesh-node");
    /// Which model.
    pub const MODEL: HeaderName = HeaderName::from_static("x-mesh-model");
    /// The mode that was asked for.
    pub const MODE: HeaderName = HeaderName::from_static("x-mesh-mode");
    /// Why this machine.
    pub const REASON: HeaderName = HeaderName::from_static("x-mesh-reason");
    /// The request, for `meshctl explain`.
    pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-mesh-request-id");
    /// The same where Anthropic's SDK looks for it.
    pub const ANTHROPIC_ID: HeaderName = HeaderName::from_static("request-id");
    /// How long it waited for a slot.
    pub const QUEUE_MS: HeaderName = HeaderName::from_static("x-mesh-queue-ms");
    /// What the engine left out of the prompt.
    pub const TRUNCATED: HeaderName = HeaderName::from_static("x-mesh-truncated");
    /// What is doubtful about the answer.
    pub const WARNING: HeaderName = HeaderName::from_static("x-mesh-warning");
    /// To what the answer's limit was lowered.
    pub const CLAMPED: HeaderName = HeaderName::from_static("x-mesh-max-tokens-clamped");
}

/// Sets a header. What cannot stand in a header becomes `?`; over 300 characters are cut.
pub fn set_header(reply: &mut Reply, name: HeaderName, value: &str) {
    let short = if value.len() <= HEADER_LIMIT { HeaderValue::from_str(value).ok() } else { None };
    let value = short.unwrap_or_else(|| {
        let clean = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
        HeaderValue::try_from(value.chars().map(clean).take(HEADER_LIMIT).collect::<String>())
            .expect("only graphic ASCII and spaces")
    });
    reply.headers_mut().insert(name, value);
}
