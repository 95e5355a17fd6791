//! The dialects of clients, and the doors at which they knock: which path is whose, what a door's errors look like,
//! and what of a body must not reach any engine.

pub mod edit;
pub mod faults;
pub mod passage;
pub mod pieces;
pub mod translation;

use super::head::replace;
use super::ollama::ask;
use super::reply::{ApiError, Reply, json_reply};
use bytes::Bytes;
use edit::members;
use http::StatusCode;
use http::header::{ALLOW, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use mesh_core::mode::Purpose;
use serde_json::{Value, json};
use std::borrow::Cow;

/// What a client's errors and streams look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's objects and events; llama.cpp's errors have the same shape.
    OpenAi,
    /// OpenAI's objects, and the events of its responses.
    Responses,
    /// Ollama's lines.
    Ollama,
    /// Anthropic's objects and events.
    Anthropic,
}

/// Where a request came in, and so what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Messages,
    /// `/v1/messages/count_tokens`
    CountTokens,
    /// `/api/chat`
    OllamaChat,
    /// `/api/generate`
    OllamaGenerate,
    /// `/api/embed`
    OllamaEmbed,
    /// `/api/embeddings`
    OllamaEmbeddings,
    /// `/infill`
    Infill,
    /// `/completion`, llama.cpp's own
    Completion,
    /// `/v1/fim/completions`, Mistral's
    Fim,
}

impl Door {
    /// All doors.
    pub const ALL: [Self; 13] = [
        Self::Chat,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Messages,
        Self::CountTokens,
        Self::OllamaChat,
        Self::OllamaGenerate,
        Self::OllamaEmbed,
        Self::OllamaEmbeddings,
        Self::Infill,
        Self::Completion,
        Self::Fim,
    ];

    /// The path at which clients ask for it.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::OllamaChat => "/api/chat",
            Self::OllamaGenerate => "/api/generate",
            Self::OllamaEmbed => "/api/embed",
            Self::OllamaEmbeddings => "/api/embeddings",
            Self::Infill => "/infill",
            Self::Completion => "/completion",
            Self::Fim => "/v1/fim/completions",
        }
    }

    /// The door at `path`.
    #[must_use]
    pub fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|door| door.path() == path)
    }

    /// What it needs of a model.
    #[must_use]
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Embeddings | Self::OllamaEmbed | Self::OllamaEmbeddings => Purpose::Embed,
            Self::Chat
            | Self::Completions
            | Self::Responses
            | Self::Messages
            | Self::CountTokens
            | Self::OllamaChat
            | Self::OllamaGenerate
            | Self::Infill
            | Self::Completion
            | Self::Fim => Purpose::Chat,
        }
    }

    /// Whether an engine only counts here: that takes none of its slots.
    #[must_use]
    pub fn counts_only(self) -> bool {
        self == Self::CountTokens
    }

    /// How it is spoken at.
    #[must_use]
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Chat
            | Self::Completions
            | Self::Embeddings
            | Self::Infill
            | Self::Completion
            | Self::Fim => Dialect::OpenAi,
            Self::Responses => Dialect::Responses,
            Self::Messages | Self::CountTokens => Dialect::Anthropic,
            Self::OllamaChat | Self::OllamaGenerate | Self::OllamaEmbed | Self::OllamaEmbeddings => {
                Dialect::Ollama
            }
        }
    }

    /// Whether streams here have a usage frame that must be asked for.
    #[must_use]
    pub fn has_usage_frame(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }

    /// Whether the answer is to be a stream, for doors other than OpenAI's own.
    ///
    /// # Errors
    /// 400 when `stream` is neither true nor false.
    pub fn streams(self, body: &[u8]) -> Result<bool, ApiError> {
        let default = match self {
            Self::OllamaChat | Self::OllamaGenerate => true,
            Self::Responses | Self::Messages | Self::Infill | Self::Completion | Self::Fim => false,
            Self::Chat | Self::Completions => false,
            Self::Embeddings | Self::OllamaEmbed | Self::OllamaEmbeddings | Self::CountTokens => {
                return Ok(false);
            }
        };
        let found = members(body).map_err(|_| not_an_object())?;
        match found.iter().rfind(|(name, _)| name == "stream").map(|(_, value)| value.get()) {
            None | Some("null") => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(ApiError::client(
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "`stream` must be true or false",
            )
            .param("stream")),
        }
    }

    /// The body without what would make an engine load a model anew, and with a `model` where the dialect may
    /// leave it out. Everything else stays as it is, byte for byte.
    ///
    /// # Errors
    /// 400 when the body is no JSON object.
    pub fn admit(self, body: Bytes) -> Result<Bytes, ApiError> {
        match self {
            Self::OllamaChat | Self::OllamaGenerate | Self::OllamaEmbed | Self::OllamaEmbeddings => {
                without_runner_options(body)
            }
            Self::Infill => with_model(body, "mesh/autocomplete"),
            Self::Completion => with_model(body, "mesh/code"),
            Self::Chat
            | Self::Completions
            | Self::Embeddings
            | Self::Responses
            | Self::Messages
            | Self::CountTokens
            | Self::Fim => Ok(body),
        }
    }

    /// A model name as clients of this dialect write it: Ollama's add `:latest` to every name without a tag.
    #[must_use]
    pub fn model_name(self, asked: &str) -> &str {
        let is_mode = asked.starts_with("mesh/") || asked.starts_with("mesh-");
        asked.strip_suffix(":latest").filter(|_| is_mode).unwrap_or(asked)
    }
}

fn not_an_object() -> ApiError {
    ApiError::client(StatusCode::BAD_REQUEST, "invalid_request", "the body is not a JSON object")
}

fn options_no_object() -> ApiError {
    let message = r#"`options` must be an object, such as {"temperature": 0.7}"#;
    ApiError::client(StatusCode::BAD_REQUEST, "invalid_request", message).param("options")
}

/// Options of Ollama that belong to the loading of a model. Another value than the loaded one makes Ollama load it
/// again, for everybody (its `api.Runner`, and names of older versions).
const RUNNER_OPTIONS: [&str; 13] = [
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    "low_vram",
    "f16_kv",
    "vocab_only",
    "use_mlock",
    "numa",
    "num_gqa",
    "logits_all",
];

/// Ollama takes a null for a value that is not there, so nulls in their place leave the rest as it is.
fn without_runner_options(body: Bytes) -> Result<Bytes, ApiError> {
    let mut edits = Vec::new();
    for (name, value) in members(&body).map_err(|_| not_an_object())? {
        // Go reads the names of fields without regard for case, but the names of options exactly.
        if name.eq_ignore_ascii_case("keep_alive") {
            edits.push((edit::span(&body, value.get()), Cow::Borrowed("null")));
        } else if name.eq_ignore_ascii_case("options") && value.get() != "null" {
            let options = members(value.get().as_bytes()).map_err(|_| options_no_object())?;
            for (option, value) in options {
                ask::check_option(&option, value.get()).map_err(|error| *error)?;
                if RUNNER_OPTIONS.contains(&option.as_ref()) {
                    edits.push((edit::span(&body, value.get()), Cow::Borrowed("null")));
                }
            }
        }
    }
    Ok(if edits.is_empty() { body } else { replace(&body, edits) })
}

fn with_model(body: Bytes, model: &str) -> Result<Bytes, ApiError> {
    let found = members(&body).map_err(|_| not_an_object())?;
    if found.iter().any(|(name, _)| name == "model") {
        return Ok(body);
    }
    let comma = if found.is_empty() { "" } else { "," };
    let brace = body.iter().position(|&byte| byte == b'{').ok_or_else(not_an_object)? + 1;
    Ok(replace(&body, vec![(brace..brace, format!("\"model\":\"{model}\"{comma}").into())]))
}

impl Dialect {
    /// The dialect of a path, also of one that is not there.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        if path.starts_with("/v1/messages") {
            Self::Anthropic
        } else if path == "/api" || path.starts_with("/api/") {
            Self::Ollama
        } else if path.starts_with("/v1/responses") {
            Self::Responses
        } else {
            Self::OpenAi
        }
    }

    /// An error as a whole answer.
    #[must_use]
    pub fn reply(self, error: &ApiError) -> Reply {
        let mut reply = json_reply(error.status, &self.error_object(error));
        if let Some(seconds) = error.retry_after_s {
            reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        let allowed = error.mesh.iter().find(|(key, _)| *key == ApiError::ALLOW);
        if let Some(methods) = allowed.and_then(|(_, value)| HeaderValue::from_str(value.as_str()?).ok()) {
            reply.headers_mut().insert(ALLOW, methods);
        }
        if error.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"modemesh\"");
            reply.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        reply
    }

    /// An error as the last part of a stream that has begun: never what a clean end looks like.
    #[must_use]
    pub fn last_words(self, error: &ApiError) -> Bytes {
        let object = self.error_object(error);
        match self {
            Self::OpenAi => format!("data: {object}\n\n"),
            Self::Ollama => format!("{object}\n"),
            Self::Anthropic => format!("event: error\ndata: {object}\n\n"),
            Self::Responses => {
                let mut event = json!({
                    "type": "error", "code": error.code, "message": error.message, "param": error.param,
                    "sequence_number": 0,
                });
                event["error"] = object["error"].clone();
                format!("event: error\ndata: {event}\n\n")
            }
        }
        .into()
    }

    /// A sign of life in a stream that has no content yet. `words` are one line.
    #[must_use]
    pub fn sign_of_life(self, words: &str) -> Bytes {
        match self {
            Self::OpenAi | Self::Responses => format!(": {words}\n\n").into(),
            Self::Anthropic => Bytes::from_static(b"event: ping\ndata: {\"type\": \"ping\"}\n\n"),
            // Lines have no comments: a piece of text with nothing in it, for chats and for completions.
            Self::Ollama => Bytes::from_static(
                b"{\"model\":\"\",\"response\":\"\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":false}\n",
            ),
        }
    }

    /// An error in this dialect's shape.
    #[must_use]
    pub fn error_object(self, error: &ApiError) -> Value {
        match self {
            Self::OpenAi | Self::Responses => error.to_json(),
            Self::Ollama => json!({ "error": error.message }),
            Self::Anthropic => {
                let kind = match error.status {
                    StatusCode::UNAUTHORIZED => "authentication_error",
                    StatusCode::FORBIDDEN => "permission_error",
                    StatusCode::NOT_FOUND => "not_found_error",
                    StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
                    StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
                    StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
                    status if status.is_client_error() => "invalid_request_error",
                    _ => "api_error",
                };
                let id = error.mesh.iter().find(|(key, _)| *key == "request_id").map(|(_, id)| id);
                json!({
                    "type": "error", "error": { "type": kind, "message": error.message }, "request_id": id,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(door: Door, body: &str) -> String {
        let body = door.admit(Bytes::copy_from_slice(body.as_bytes())).expect("an object");
        String::from_utf8(body.to_vec()).expect("text")
    }

    #[test]
    fn options_that_load_a_model_anew_become_null_and_all_else_stays() {
        let body = r#" { "model":"m", "options" : {"num_ctx": 512,"temperature":1e0 , "num\u005fgpu":0}, "keep_alive":-1,"prompt":"\u00e9 num_ctx" } "#;
        let wanted = r#" { "model":"m", "options" : {"num_ctx": null,"temperature":1e0 , "num\u005fgpu":null}, "keep_alive":null,"prompt":"\u00e9 num_ctx" } "#;
        assert_eq!(admitted(Door::OllamaGenerate, body), wanted);
        let other = r#"{"Keep_Alive":"5m","options":{"NUM_CTX":1},"OPTIONS":{"num_ctx":9}}"#;
        let wanted = r#"{"Keep_Alive":null,"options":{"NUM_CTX":1},"OPTIONS":{"num_ctx":null}}"#;
        assert_eq!(admitted(Door::OllamaChat, other), wanted);
    }

    #[test]
    fn options_that_are_none_are_the_client_s_fault() {
        for options in ["\"x\"", "[]", "1"] {
            let body = Bytes::from(format!(r#"{{"model":"m","options":{options}}}"#));
            let error = Door::OllamaChat.admit(body).expect_err(options);
            assert_eq!((error.status, error.param.as_deref()), (StatusCode::BAD_REQUEST, Some("options")));
        }
        let none = r#"{"model":"m","options":null}"#;
        assert_eq!(admitted(Door::OllamaChat, none), none);
    }

    #[test]
    fn numbers_of_ollama_s_options_that_are_none_are_the_client_s_fault() {
        for (option, must) in [
            (r#""num_predict":"16""#, "`options.num_predict` must be a whole number"),
            (r#""temperature":[0.1]"#, "`options.temperature` must be a number"),
        ] {
            let body = Bytes::from(format!(r#"{{"model":"m","options":{{{option}}}}}"#));
            let error = Door::OllamaGenerate.admit(body).expect_err(option);
            assert_eq!((error.status, error.message.as_str()), (StatusCode::BAD_REQUEST, must));
        }
        for option in "num_keep seed num_predict top_k repeat_last_n top_p min_p typical_p temperature \
                       repeat_penalty presence_penalty frequency_penalty"
            .split_whitespace()
        {
            let body = Bytes::from(format!(r#"{{"model":"m","options":{{"{option}":true}}}}"#));
            let error = Door::OllamaChat.admit(body).expect_err(option);
            assert_eq!(error.param.as_deref(), Some(format!("options.{option}").as_str()));
        }
        // Ollama cuts off fractions, takes nulls for nothing, and knows more options than we do.
        let sound =
            r#"{"options":{"num_predict":16.5,"seed":-1,"top_p":null,"stop":["x"],"of_tomorrow":"x"}}"#;
        assert_eq!(admitted(Door::OllamaChat, sound), sound);
    }

    #[test]
    fn other_doors_leave_bodies_alone_whatever_is_in_them() {
        let body = r#"{"model":"m","keep_alive":0,"options":{"num_ctx":1}}"#;
        assert_eq!(admitted(Door::Chat, body), body);
        assert_eq!(admitted(Door::Messages, "no json"), "no json");
    }

    #[test]
    fn a_model_is_put_in_where_the_dialect_has_none() {
        assert_eq!(admitted(Door::Infill, "{}"), r#"{"model":"mesh/autocomplete"}"#);
        assert_eq!(admitted(Door::Infill, r#" {"a":1}"#), r#" {"model":"mesh/autocomplete","a":1}"#);
        assert_eq!(admitted(Door::Completion, r#"{"model":"m"}"#), r#"{"model":"m"}"#);
    }

    #[test]
    fn bodies_that_are_no_objects_are_the_client_s_fault() {
        for body in ["[1]", "", "{", "null", "{\"a\":1} x"] {
            let error = Door::OllamaChat.admit(Bytes::copy_from_slice(body.as_bytes())).expect_err(body);
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{body}");
        }
    }

    #[test]
    fn ollama_streams_unless_told_otherwise_and_others_do_not() {
        for (door, body, wanted) in [
            (Door::OllamaChat, "{}", true),
            (Door::OllamaChat, r#"{"stream":false}"#, false),
            (Door::Messages, "{}", false),
            (Door::Messages, r#"{"stream":true}"#, true),
            (Door::OllamaEmbed, r#"{"stream":true}"#, false),
        ] {
            assert_eq!(door.streams(body.as_bytes()).expect("sensible"), wanted, "{door:?} {body}");
        }
        assert!(Door::Messages.streams(br#"{"stream":"yes"}"#).is_err());
    }

    #[test]
    fn only_modes_lose_the_tag_that_ollama_s_clients_add() {
        assert_eq!(Door::OllamaChat.model_name("mesh/code:latest"), "mesh/code");
        assert_eq!(Door::OllamaChat.model_name("mesh-code:latest"), "mesh-code");
        assert_eq!(Door::OllamaChat.model_name("qwen:latest"), "qwen:latest");
    }

    #[test]
    fn each_dialect_has_errors_of_its_own_shape_and_none_is_a_clean_end() {
        let error = ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, "model_loading", "wait")
            .with("request_id", json!("req-1"));
        assert_eq!(Dialect::Ollama.last_words(&error), "{\"error\":\"wait\"}\n");
        let anthropic = Dialect::Anthropic.error_object(&error);
        assert_eq!(
            anthropic,
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "wait"}, "request_id": "req-1"})
        );
        let words = |dialect: Dialect| String::from_utf8(dialect.last_words(&error).to_vec()).expect("text");
        assert!(words(Dialect::Anthropic).starts_with("event: error\ndata: {"));
        assert!(words(Dialect::OpenAi).starts_with("data: {\"error\":"));
        assert!(words(Dialect::Responses).contains("\"code\":\"model_loading\""));
        for dialect in [Dialect::OpenAi, Dialect::Ollama, Dialect::Anthropic, Dialect::Responses] {
            let words = words(dialect);
            assert!(!words.contains("[DONE]") && !words.contains("\"done\":true"), "{words}");
            assert!(!words.contains("message_stop") && !words.contains("response.completed"), "{words}");
        }
    }

    #[test]
    fn every_door_is_found_by_its_path() {
        for door in Door::ALL {
            assert_eq!(Door::at(door.path()), Some(door));
            assert_eq!(door.dialect(), Dialect::of_path(door.path()));
        }
    }
}
