//! What an engine's error means: whose fault it is, and what the client is told of it.

use super::attempt::Failure;
use super::refusals;
use crate::http::dialect::{Door, faults};
use crate::http::reply::ApiError;
use http::StatusCode;
use mesh_core::id::ModelId;
use serde::Deserialize;

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
    #[serde(default)]
    param: Option<String>,
    n_prompt_tokens: Option<u32>,
    n_ctx: Option<u32>,
}

/// Fields that an engine may name in its complaint; nothing else of its words is passed on.
const FIELDS: [&str; 36] = [
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
    "max_completion_tokens",
    "n_predict",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "n",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "stream",
    "samplers",
    "reasoning_format",
    "input_prefix",
    "input_suffix",
    "typical_p",
    "repeat_last_n",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
];

/// Longer names of fields are not passed on.
const PARAM_LIMIT: usize = 64;

/// How llama.cpp's errors begin that are 500 and the client's fault. It says `Failed to parse input`, too: that is what
/// the model wrote.
const UNREADABLE: [&str; 6] = [
    "Failed to parse messages",
    "Failed to parse tools",
    "Failed to parse grammar",
    NO_SCHEMA,
    "Failed to parse tool call arguments",
    "Unknown reasoning format",
];

/// How its errors begin over a schema of the answer that it cannot follow: `JSON schema conversion failed`, of later
/// versions `JSON schema error at`.
const NO_SCHEMA: &str = "JSON schema ";

/// How its errors begin that may be about what it read as well as about what it made of it: a wrong type or an absent
/// key somewhere.
const MISREAD: [&str; 8] = [
    "[json.exception.type_error.302]",
    "[json.exception.type_error.304]",
    "[json.exception.type_error.305]",
    "[json.exception.out_of_range.403]",
    "Missing ",
    "Expected '",
    "All non-assistant messages must contain",
    "unsupported content[].type",
];

/// [`engine_error`], and where the client's own request is malformed, that is what is told: which field, and what
/// helps. Only then the request is read once more. A server's error is the client's fault, too, where its words are
/// those of one that stumbled over such a request; any other stays the engine's, and another one is asked.
pub(super) fn whose_fault(
    status: StatusCode,
    body: &[u8],
    model: &ModelId,
    door: Door,
    request: &[u8],
) -> Failure {
    let error = ErrorObject::read(body);
    let failure = of_object(status, &error, model);
    if let Failure::Beyond { error, least_context } = failure {
        let error = Box::new(in_own_words(*error, door, request));
        return Failure::Beyond { error, least_context };
    }
    let named = if let Failure::Client(error) = &failure {
        error.param.as_deref().unwrap_or_default()
    } else if matches!(failure, Failure::Replica(_))
        && status.is_server_error()
        && begins(&error.message, &MISREAD)
    {
        ""
    } else {
        return failure;
    };
    let of_schema = ["JSON schema", "grammar"].iter().any(|word| error.message.contains(word));
    if of_schema
        && named.is_empty()
        && let Some(fault) = faults::in_schema(door, request)
    {
        return Failure::Client(Box::new(fault));
    }
    // Where the engine names another field, it stumbled over that one.
    let closer = |fault: &ApiError| fault.param.as_deref().is_some_and(|param| leads_through(param, named));
    let found = faults::of_body(door, request).filter(closer);
    match (found, failure) {
        (Some(fault), _) => Failure::Client(Box::new(fault)),
        (None, Failure::Client(error)) => Failure::Client(Box::new(in_own_words(*error, door, request))),
        (None, failure) => failure,
    }
}

/// Names the field as the client wrote it, not as its translation did.
fn in_own_words(mut error: ApiError, door: Door, request: &[u8]) -> ApiError {
    if let Some(named) = &error.param {
        let own = faults::own_name(door, request, named);
        error.message = error.message.replace(&format!("`{named}`"), &format!("`{own}`"));
        error.param = Some(own);
    }
    error
}

/// Whose fault an engine's error is. Engines answer 5xx to some faults of the client, and SDKs repeat every
/// 5xx twice, so those become 4xx here.
///
/// The engine's own words go no further: llama.cpp quotes prompts and answers in them. What a client learns is
/// the kind of the error, numbers of tokens, and which field the engine named.
pub(super) fn engine_error(status: StatusCode, body: &[u8], model: &ModelId) -> Failure {
    of_object(status, &ErrorObject::read(body), model)
}

impl ErrorObject {
    fn read(body: &[u8]) -> Self {
        match serde_json::from_slice(body) {
            Ok(EngineError::Object { error }) => error,
            Ok(EngineError::Text { error }) => Self { message: error, ..Self::default() },
            Err(_) => Self::default(),
        }
    }
}

fn begins(words: &str, starts: &[&str]) -> bool {
    starts.iter().any(|start| words.starts_with(start))
}

/// Whether the places that `named` tells come one after the other in `path`: `content` in `messages[0].content`, not
/// `n`.
fn leads_through(path: &str, named: &str) -> bool {
    fn places(path: &str) -> Vec<&str> {
        path.split(['.', '[', ']']).filter(|place| !place.is_empty()).collect()
    }
    let (path, named) = (places(path), places(named));
    named.is_empty() || path.windows(named.len()).any(|run| run == named)
}

fn of_object(status: StatusCode, error: &ErrorObject, model: &ModelId) -> Failure {
    let (words, kind) = (error.message.as_str(), error.kind.as_deref().unwrap_or_default());
    let beyond = |least_context, error: ApiError| Failure::Beyond { least_context, error: Box::new(error) };
    if kind == "exceed_context_size_error" || words.contains("too large to process") {
        let mut numbers = numbers(words);
        let needs = error.n_prompt_tokens.or_else(|| numbers.next()).unwrap_or(0);
        let has = error.n_ctx.or_else(|| numbers.next()).unwrap_or(0);
        return beyond(needs.saturating_add(1), refusals::too_long(needs.into(), false, has.into()));
    }
    let unsupported = |text: &str| beyond(0, ApiError::client(StatusCode::BAD_REQUEST, "unsupported", text));
    if words.contains("image input is not supported") || words.contains("does not support image") {
        return unsupported(&format!("the model {model} cannot read images"));
    }
    if words.contains("audio input is not supported") {
        return unsupported(&format!("the model {model} cannot hear audio"));
    }
    if kind == "not_supported_error" || status == StatusCode::NOT_IMPLEMENTED {
        return unsupported(&format!("the model {model} or its engine does not do this"));
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
        _ if status.is_client_error() || begins(words, &UNREADABLE) => {
            let code = if status.is_client_error() { status } else { StatusCode::BAD_REQUEST };
            let refused = |text| ApiError::client(code, "invalid_request", text);
            let error = match named(words, error.param.as_deref()) {
                Some(field) => {
                    let must = demand(words).unwrap_or_default();
                    let text = format!(
                        "the engine refused the request ({said}); it names the field `{field}`{must}"
                    );
                    refused(text).param(field)
                }
                None => refused(format!("the engine refused the request ({said})")),
            };
            Failure::Client(Box::new(error))
        }
        _ => Failure::Replica(said),
    }
}

/// The field that an engine names: as OpenAI's `param`, else in its words, in quotes or at the places where llama.cpp
/// puts it.
fn named(words: &str, param: Option<&str>) -> Option<String> {
    let path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '[' | ']');
    let known = |param: &&str| {
        let root = param.split(['.', '[']).next().unwrap_or_default();
        FIELDS.contains(&root) && param.len() <= PARAM_LIMIT && param.chars().all(path)
    };
    if let Some(param) = param.filter(known) {
        return Some(param.to_owned());
    }
    let at_start = |field: &str| {
        let behind = |start: &str| words.strip_prefix(start).and_then(|rest| rest.strip_prefix(field));
        ["", "Failed to parse ", "Invalid ", "Unknown "]
            .iter()
            .any(|start| behind(start).is_some_and(|rest| rest.starts_with([' ', ':'])))
    };
    let quoted = |field: &str| ["'", "\"", "`"].iter().any(|q| words.contains(&format!("{q}{field}{q}")));
    if words.starts_with("Unknown reasoning format") {
        return Some("reasoning_format".into());
    }
    FIELDS.iter().find(|field| quoted(field) || at_start(field)).map(|field| (*field).to_owned())
}

/// What llama.cpp wants in the field's place, of the two forms of words that hold nothing of the request but numbers
/// and the names of JSON's types.
fn demand(words: &str) -> Option<String> {
    const TYPES: [&str; 6] = ["string", "number", "boolean", "array", "object", "null"];
    let word = |text: &str| {
        let name = text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        TYPES.into_iter().find(|known| *known == name)
    };
    if let Some((_, rest)) = words.split_once("type must be ") {
        let (wanted, found) = rest.split_once(", but is ")?;
        return Some(format!(
            ": it must be of the type {}, and is of the type {}",
            word(wanted)?,
            word(found)?
        ));
    }
    let (_, rest) = words.split_once("Value must be between ")?;
    let (least, rest) = rest.split_once(" <= value <= ")?;
    let most = rest.split(',').next().unwrap_or_default();
    let number = |text: &str| text.len() <= 24 && text.parse::<f64>().is_ok_and(f64::is_finite);
    (number(least) && number(most)).then(|| format!(": it must be between {least} and {most}"))
}

/// The numbers in a text, in order.
fn numbers(text: &str) -> impl Iterator<Item = u32> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::fleet::Outcome;
    use serde_json::{Value, json};

    fn model() -> ModelId {
        ModelId::new("tiny").expect("valid")
    }

    fn failure(status: u16, body: &str) -> Failure {
        engine_error(StatusCode::from_u16(status).expect("valid"), body.as_bytes(), &model())
    }

    fn refused(status: u16, words: &str) -> ApiError {
        let body = json!({ "error": { "message": words } }).to_string();
        let Failure::Client(error) = failure(status, &body) else { panic!("{words}") };
        *error
    }

    #[test]
    fn of_an_engine_s_words_only_the_name_of_a_field_is_passed_on() {
        for words in [
            "'messages' must be an array, not \"my secret\"",
            "bad \u{43f}\u{440}\u{438} my secret near `messages`",
        ] {
            let error = refused(400, words);
            assert_eq!(
                error.message,
                "the engine refused the request (status 400); it names the field `messages`"
            );
            assert_eq!(error.param.as_deref(), Some("messages"));
            let body = json!({ "error": { "message": words } }).to_string();
            assert_eq!(failure(500, &body).to_string(), "engine failed: status 500");
        }
    }

    #[test]
    fn the_field_that_an_engine_names_is_the_error_s_param_with_what_it_must_be() {
        // llama.cpp b11549's own words.
        for (status, words, param, must) in [
            (
                400,
                "Field 'temperature': [json.exception.type_error.302] type must be number, but is string",
                Some("temperature"),
                ": it must be of the type number, and is of the type string",
            ),
            (
                400,
                "Field 'n': Value must be between 1 <= value <= 1, but got 100",
                Some("n"),
                ": it must be between 1 and 1",
            ),
            (400, "Invalid tool_choice: wat", Some("tool_choice"), ""),
            (400, "top_logprobs requires logprobs to be set to true", Some("top_logprobs"), ""),
            (400, "[json.exception.out_of_range.403] key 'prompt' not found", Some("prompt"), ""),
            (400, "Value must be between my <= value <= secret, but 'stop'", Some("stop"), ""),
            (500, "Failed to parse tools: Missing tool type: 1; tools = [\n  1\n]", Some("tools"), ""),
            (500, "Failed to parse messages: Missing tool call type: \"x\"", Some("messages"), ""),
            (500, "Failed to parse tool call arguments as JSON: [json.exception", None, ""),
            (500, "Failed to parse grammar", None, ""),
            (500, "JSON schema conversion failed:\nUnrecognized schema: my secret", None, ""),
            (500, "Unknown reasoning format: wat", Some("reasoning_format"), ""),
            (400, "unsupported content[].type", None, ""),
        ] {
            let error = refused(status, words);
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, param), "{words}");
            assert!(error.message.ends_with(must) && !error.message.contains("secret"), "{}", error.message);
        }
    }

    #[test]
    fn openai_s_param_is_passed_on_only_where_it_is_the_name_of_a_field() {
        for (param, wanted) in [
            ("messages[2].content", Some("messages[2].content")),
            ("messages[2].my secret", None),
            ("secret", None),
        ] {
            let body = json!({ "error": { "message": "no", "param": param } }).to_string();
            let Failure::Client(error) = failure(400, &body) else { panic!("{param}") };
            assert_eq!(error.param.as_deref(), wanted);
            assert!(!error.message.contains("secret"), "{}", error.message);
        }
    }

    const BROKEN: &str = r#"{"messages":[{"role":"user","content":[{"type":"text"}]}],"n":100}"#;
    const SOUND: &str = r#"{"messages":[{"role":"user","content":"x"}]}"#;

    fn told(status: u16, words: &str, request: &str) -> Failure {
        let status = StatusCode::from_u16(status).expect("valid");
        let body = json!({ "error": { "message": words } }).to_string();
        whose_fault(status, body.as_bytes(), &model(), Door::Chat, request.as_bytes())
    }

    #[test]
    fn the_client_hears_of_its_own_fields_also_where_the_engine_was_asked_with_others() {
        let of = |door, status, body: Value, request: &str| {
            let status = StatusCode::from_u16(status).expect("valid");
            whose_fault(status, body.to_string().as_bytes(), &model(), door, request.as_bytes())
        };
        let words = json!({ "error": { "message": "Field 'max_tokens': no" } });
        let request = r#"{"input":"x","max_output_tokens":"y"}"#;
        let Failure::Client(error) = of(Door::Responses, 400, words, request) else { panic!("its fault") };
        assert_eq!(error.param.as_deref(), Some("max_output_tokens"));
        assert!(error.message.ends_with("the field `max_output_tokens`"), "{}", error.message);
        let too_long =
            json!({ "error": { "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8 } });
        let failure = of(Door::Completions, 400, too_long, r#"{"prompt":"x"}"#);
        let Failure::Beyond { least_context: 10, error } = failure else { panic!("{failure}") };
        assert_eq!(error.param.as_deref(), Some("prompt"));
    }

    #[test]
    fn a_malformed_request_is_named_when_an_engine_stumbles_over_it() {
        for (status, words) in [
            (500, "[json.exception.out_of_range.403] key 'text' not found"),
            (500, "[json.exception.type_error.302] type must be string, but is null"),
            (500, "Failed to parse messages: no"),
            (400, "no"),
            (400, "bad `content`"),
        ] {
            let Failure::Client(error) = told(status, words, BROKEN) else { panic!("{status} {words}") };
            assert_eq!(error.param.as_deref(), Some("messages[0].content[0].text"), "{}", error.message);
        }
        let schema = r#"{"response_format":{"json_schema":{"schema":{"type":"banana"}}}}"#;
        let Failure::Client(error) = told(500, "JSON schema conversion failed:\nmy secret", schema) else {
            panic!("a schema that it cannot follow")
        };
        assert_eq!(error.param.as_deref(), Some("response_format.json_schema.schema"), "{}", error.message);
        for (words, param) in [
            ("Field 'seed': no", "seed"),
            ("Field 'n': Value must be between 1 <= value <= 1, but got 100", "n"),
        ] {
            let Failure::Client(error) = told(400, words, BROKEN) else { panic!("{words}") };
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        }
        assert!(matches!(told(503, "", BROKEN), Failure::Busy(_)), "a busy engine did not look at it");
        assert!(matches!(told(404, "", BROKEN), Failure::Replica(_)), "nor one without the model");
    }

    #[test]
    fn a_server_s_error_that_does_not_tell_of_the_request_is_the_engine_s_over_any_request() {
        for (status, words) in [
            (500, ""),
            (500, "whatever"),
            (502, "CUDA error: out of memory"),
            // What the model wrote.
            (500, "Failed to parse input at pos 12: </tool_call>"),
            (500, "Failed to parse input at pos 0: [json.exception.type_error.302] my secret"),
            (500, "[json.exception.type_error.316] invalid UTF-8 byte"),
        ] {
            for request in [SOUND, BROKEN] {
                let failure = told(status, words, request);
                assert!(matches!(failure, Failure::Replica(_)), "{words} over {request}: {failure}");
                assert_eq!(failure.outcome(), Some(Outcome::ReplicaFailed), "the breaker counts it");
            }
        }
        let failure = told(500, "[json.exception.out_of_range.403] key 'text' not found", SOUND);
        assert!(matches!(failure, Failure::Replica(_)), "what it misread was not the client's: {failure}");
    }

    #[test]
    fn a_field_is_in_a_path_as_a_whole_or_not_at_all() {
        for (named, is_in) in [
            ("", true),
            ("content", true),
            ("messages", true),
            ("messages[0].content", true),
            ("n", false),
            ("text", true),
            ("messages[0].text", false),
            ("messages[1]", false),
            ("messages[0].content[0].text.more", false),
        ] {
            assert_eq!(leads_through("messages[0].content[0].text", named), is_in, "{named}");
        }
    }

    #[test]
    fn a_prompt_over_the_context_becomes_openai_s_code_with_both_numbers() {
        let body = r#"{"error":{"code":400,"message":"request (21012 tokens) exceeds the available context size (1024 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":21012,"n_ctx":1024}}"#;
        let Failure::Beyond { least_context, error } = failure(400, body) else { panic!("too long") };
        assert_eq!(least_context, 21013);
        assert_eq!(error.code, "context_length_exceeded");
        assert_eq!(
            error.message,
            "the prompt has 21012 tokens, but the model takes 1024 at once: shorten it, or ask a model with a larger context"
        );
    }

    #[test]
    fn faults_of_the_client_never_stay_5xx() {
        for (status, body) in [
            (
                500,
                r#"{"error":{"code":500,"message":"image input is not supported - hint: if this is unexpected, you may need to provide the mmproj","type":"server_error"}}"#,
            ),
            (
                500,
                r#"{"error":{"code":500,"message":"audio input is not supported - hint: if this is unexpected, you may need to provide the mmproj","type":"server_error"}}"#,
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
