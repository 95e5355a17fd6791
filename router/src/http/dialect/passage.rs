//! How a request reaches an engine: as it is, on the engine's own path, where the engine speaks the client's dialect;
//! else translated to what it does speak.

use super::Door;
use super::faults::shown_type;
use super::pieces::{NoAnswer, Source};
use super::translation::{Label, Translation, Voice};
use crate::forward::stream_guard::Framing;
use crate::http::anthropic;
use crate::http::fim::{self, Shape, Texts};
use crate::http::head::{Cap, Head};
use crate::http::ollama::{self, Lines};
use crate::http::reply::ApiError;
use crate::http::responses;
use bytes::Bytes;
use http::StatusCode;
use mesh_core::machine::EngineKind;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// What an engine is to be asked, and what its answer has to become.
pub struct Prepared {
    /// The engine's path, one of [`mesh_proto::frame::PATHS`].
    pub path: &'static str,
    /// The body.
    pub body: Bytes,
    /// How the engine's streams are framed.
    pub framing: Framing,
    /// Whether the frame with the usage goes on.
    pub keep_usage: bool,
    /// What is done with its answer.
    pub change: Change,
}

/// What is done with an engine's answer.
pub enum Change {
    /// Nothing.
    None,
    /// It is told in another dialect.
    Translate(Translation),
    /// Embeddings are told in Ollama's shape, the old one for one text or the new one for several.
    Embeddings {
        /// The old shape.
        legacy: bool,
        /// The model to name.
        model: String,
    },
}

/// A way from a door to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// The bytes pass, but for the model's name.
    Through(&'static str, Framing),
    /// Translated to a chat.
    Chat,
    /// Translated to a completion.
    Completions,
    /// Translated to llama.cpp's infill.
    Infill,
    /// Translated to embeddings.
    Embeddings,
}

/// What of a body decides how it can pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct BodyFacts {
    suffix: bool,
    raw: bool,
    /// Instructions in the midst of Anthropic's messages.
    instructs: bool,
}

/// Blocks of Anthropic's messages that engines know. llama.cpp leaves out others in silence (b11549).
const BLOCKS: [&str; 7] =
    ["text", "image", "thinking", "redacted_thinking", "tool_use", "tool_result", "tool_reference"];

/// The engines that differ here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Ollama,
    Other,
}

fn family(kind: EngineKind) -> Family {
    match kind {
        EngineKind::LlamaServer | EngineKind::LlamaRouter => Family::Llama,
        EngineKind::Ollama => Family::Ollama,
        EngineKind::Lemonade
        | EngineKind::LmStudio
        | EngineKind::Vllm
        | EngineKind::Sglang
        | EngineKind::TabbyApi
        | EngineKind::KoboldCpp
        | EngineKind::LocalAi
        | EngineKind::OpenAi => Family::Other,
    }
}

impl Passage {
    /// The ways from `door` to an engine of this kind, best first; the second is for engines too old for the first.
    ///
    /// # Errors
    /// 400 when there is none.
    pub fn ways(door: Door, kind: EngineKind, body: &[u8]) -> Result<Vec<Self>, Box<ApiError>> {
        use Framing::{Anthropic, Llama, Ollama, OpenAi, Responses};
        let family = family(kind);
        let through = |framing| Self::Through(door.path(), framing);
        let facts = match door {
            Door::Completions | Door::OllamaGenerate => facts(body)?,
            Door::Messages | Door::CountTokens if family != Family::Ollama => turns(body)?,
            Door::Messages
            | Door::Chat
            | Door::Embeddings
            | Door::Responses
            | Door::CountTokens
            | Door::OllamaChat
            | Door::OllamaEmbed
            | Door::OllamaEmbeddings
            | Door::Infill
            | Door::Completion
            | Door::Fim => BodyFacts::default(),
        };
        let middle = || match family {
            Family::Llama => Ok(vec![Self::Infill]),
            Family::Ollama => Ok(vec![Self::Completions]),
            Family::Other => Err(unsupported("fill in the middle", kind)),
        };
        match (door, family) {
            (Door::Completions, Family::Llama) if facts.suffix => middle(),
            (Door::Completions, Family::Other) if facts.suffix => middle(),
            (Door::Chat | Door::Completions | Door::Embeddings, _) => Ok(vec![through(OpenAi)]),
            (Door::Responses, Family::Ollama) => Ok(vec![through(Responses), Self::Chat]),
            // llama.cpp translates to a chat itself, and its events lack the indices by which SDKs put parallel
            // calls and texts together (b11549: no `output_index`, `content_index`, `sequence_number`).
            (Door::Responses, Family::Llama | Family::Other) => Ok(vec![Self::Chat]),
            // llama.cpp hands them to the template where they stand, and many templates refuse that.
            (Door::Messages, Family::Llama) if facts.instructs => Ok(vec![Self::Chat]),
            (Door::Messages, Family::Llama | Family::Ollama) => Ok(vec![through(Anthropic), Self::Chat]),
            (Door::Messages, Family::Other) => Ok(vec![Self::Chat]),
            (Door::CountTokens, Family::Llama) => Ok(vec![through(Anthropic)]),
            (Door::CountTokens, _) => Err(unsupported("count tokens", kind)),
            (
                Door::OllamaChat | Door::OllamaGenerate | Door::OllamaEmbed | Door::OllamaEmbeddings,
                Family::Ollama,
            ) => Ok(vec![through(Ollama)]),
            (Door::OllamaChat, _) => Ok(vec![Self::Chat]),
            (Door::OllamaGenerate, _) if facts.suffix => middle(),
            (Door::OllamaGenerate, _) if facts.raw => Ok(vec![Self::Completions]),
            (Door::OllamaGenerate, _) => Ok(vec![Self::Chat]),
            (Door::OllamaEmbed | Door::OllamaEmbeddings, _) => Ok(vec![Self::Embeddings]),
            (Door::Infill | Door::Completion, Family::Llama) => Ok(vec![through(Llama)]),
            (Door::Infill | Door::Fim, _) => middle(),
            (Door::Completion, _) => Ok(vec![Self::Completions]),
        }
    }

    /// The request on this way. `asked` is what the client sent, `model` the engine's name for its model.
    ///
    /// # Errors
    /// 400 when the request cannot be translated.
    pub fn prepare(
        self,
        door: Door,
        asked: &Bytes,
        head: &Head,
        model: &str,
        label: impl FnOnce() -> Label,
        cap: Option<Cap>,
    ) -> Result<Prepared, Box<ApiError>> {
        if let Self::Through(path, framing) = self {
            let body = head.splice_capped(asked, model, cap);
            return Ok(Prepared { path, body, framing, keep_usage: head.wants_usage, change: Change::None });
        }
        let (from, label) = (object(asked)?, label());
        let usage = head.wants_usage;
        let (path, framing, source) = match self {
            Self::Infill => ("/infill", Framing::Llama, Source::Llama),
            Self::Completions => ("/v1/completions", Framing::OpenAi, Source::Completions),
            Self::Chat | Self::Through(..) => ("/v1/chat/completions", Framing::OpenAi, Source::Chat),
            Self::Embeddings => ("/v1/embeddings", Framing::OpenAi, Source::Chat),
        };
        let text = |shape| -> Box<dyn Voice> { Box::new(Texts::new(label.clone(), shape, usage)) };
        let (mut to, voice): (Map<String, Value>, Box<dyn Voice>) = match door {
            Door::Messages => (anthropic::chat(&from)?, Box::new(anthropic::Messages::new(label.clone()))),
            Door::Responses => (responses::chat(&from)?, Box::new(responses::Items::new(label.clone()))),
            Door::OllamaChat => (ollama::ask::chat(&from)?, Box::new(Lines::new(label.clone(), true))),
            Door::OllamaGenerate => {
                let to = match self {
                    Self::Infill => fim::infill(&ollama::ask::middle(&from)),
                    Self::Completions => ollama::ask::raw(&from),
                    Self::Chat | Self::Embeddings | Self::Through(..) => ollama::ask::prompt(&from)?,
                };
                (to, Box::new(Lines::new(label.clone(), false)))
            }
            Door::Completions => (fim::infill(&fim::of_completion(&from)?), text(Shape::Completion)),
            Door::Fim => {
                let middle = fim::of_completion(&from)?;
                let infill = self == Self::Infill;
                (if infill { fim::infill(&middle) } else { fim::completion(&middle) }, text(Shape::Fim))
            }
            Door::Infill => (fim::completion(&fim::of_infill(&from)), text(Shape::Llama)),
            Door::Completion => (fim::completion(&fim::of_native(&from)), text(Shape::Llama)),
            Door::OllamaEmbed | Door::OllamaEmbeddings => {
                let legacy = door == Door::OllamaEmbeddings;
                let mut to = ollama::ask::embeddings(&from, legacy)?;
                to.insert("model".into(), model.into());
                let change = Change::Embeddings { legacy, model: label.model };
                let body = Value::Object(to).to_string().into();
                return Ok(Prepared { path, body, framing, keep_usage: true, change });
            }
            Door::Chat | Door::Embeddings | Door::CountTokens => {
                return Err(invalid("this request cannot be translated"));
            }
        };
        to.insert("model".into(), model.into());
        to.insert("stream".into(), head.stream.into());
        if let Some(cap) = cap {
            let limit = if self == Self::Infill { "n_predict" } else { "max_tokens" };
            // llama.cpp takes a negative number for no limit.
            let within = to.get(limit).and_then(Value::as_u64).is_some_and(|own| own <= cap.tokens.into());
            if !within {
                to.insert(limit.into(), cap.tokens.into());
            }
            to.remove("max_completion_tokens");
        }
        if head.stream && framing == Framing::OpenAi {
            to.insert("stream_options".into(), json!({ "include_usage": true }));
        }
        let change = Change::Translate(Translation::new(source, voice));
        let body = Value::Object(to).to_string().into();
        Ok(Prepared { path, body, framing, keep_usage: true, change })
    }
}

impl Change {
    /// A whole answer of the engine, as the client wants it: its media type, where that is another, and its bytes.
    ///
    /// # Errors
    /// [`NoAnswer`] when it is none.
    pub fn whole(self, body: Bytes, stream: bool) -> Result<(Option<&'static str>, Bytes), NoAnswer> {
        match self {
            Self::None => Ok((None, body)),
            Self::Translate(mut translation) if stream => {
                Ok((Some(translation.stream_type()), translation.whole_as_stream(&body)?))
            }
            Self::Translate(mut translation) => Ok((Some("application/json"), translation.whole(&body)?)),
            Self::Embeddings { legacy, model } => {
                Ok((Some("application/json"), ollama::embeddings_answer(&body, legacy, &model)?))
            }
        }
    }
}

/// A body is looked into only if the way depends on it.
fn facts(body: &[u8]) -> Result<BodyFacts, Box<ApiError>> {
    let members = super::edit::members(body).map_err(|_| invalid("the body is not a JSON object"))?;
    let value = |wanted: &str| {
        members.iter().rfind(|(name, _)| name == wanted).map(|(_, value)| value.get()).unwrap_or("null")
    };
    if !matches!(value("suffix"), "null") && !value("suffix").starts_with('"') {
        return Err(Box::new(invalid("`suffix` must be a text").param("suffix")));
    }
    Ok(BodyFacts {
        suffix: !matches!(value("suffix"), "null" | "\"\""),
        raw: value("raw") == "true",
        instructs: false,
    })
}

/// The same of Anthropic's messages.
fn turns(body: &[u8]) -> Result<BodyFacts, Box<ApiError>> {
    // What is malformed is left to the engine.
    let Talk { system, messages } = serde_json::from_slice(body).unwrap_or_default();
    let mut facts = BodyFacts::default();
    if let Some((at, kind)) = unknown_block("system", system) {
        return Err(unread(&at, &kind));
    }
    for (place, said) in messages.iter().enumerate() {
        facts.instructs |= said.role.as_deref() == Some("system");
        if let Some((at, kind)) = unknown_block("content", said.content) {
            return Err(unread(&format!("messages[{place}].{at}"), &kind));
        }
    }
    Ok(facts)
}

/// Where a block is that no engine reads, and its kind. Only results of tools hold blocks of their own, and those hold
/// none: what is below is not read again for each level of it.
fn unknown_block(name: &str, content: Option<&RawValue>) -> Option<(String, String)> {
    let unknown =
        |block: &Block<'_>| block.kind.as_deref().filter(|kind| !BLOCKS.contains(kind)).map(str::to_owned);
    blocks(content).iter().enumerate().find_map(|(place, block)| {
        let at = format!("{name}[{place}]");
        if let Some(kind) = unknown(block) {
            return Some((at, kind));
        }
        block.kind.as_ref()?;
        let mut inner = blocks(block.content).into_iter().enumerate();
        inner.find_map(|(place, block)| Some((format!("{at}.content[{place}]"), unknown(&block)?)))
    })
}

/// The blocks of a content that is a list of them.
fn blocks(content: Option<&RawValue>) -> Vec<Block<'_>> {
    let list = content.map(RawValue::get).filter(|content| content.starts_with('['));
    list.and_then(|list| serde_json::from_str(list).ok()).unwrap_or_default()
}

fn unread(at: &str, kind: &str) -> Box<ApiError> {
    let kind = shown_type(kind);
    let message = format!(
        "`{at}` is a block of {kind}, which would not reach the model: give what it says in a block of the type `text`"
    );
    let error = ApiError::client(StatusCode::BAD_REQUEST, "unsupported", message);
    Box::new(error.param(at.to_owned()))
}

#[derive(Deserialize, Default)]
struct Talk<'a> {
    #[serde(borrow, default)]
    system: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages: Vec<Said<'a>>,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow)]
    role: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

/// An instruction in the midst of a conversation. Many templates take one system message, at the beginning: until the
/// model has spoken it becomes part of that one; later the user says it, so that nothing changes before what an engine
/// keeps in its cache.
pub fn instruct(out: &mut Vec<Value>, text: String) {
    if out.iter().any(|message| message["role"] == "assistant") {
        out.push(json!({ "role": "user", "content": text }));
        return;
    }
    match out.first_mut().filter(|first| first["role"] == "system") {
        Some(first) => {
            let before = first["content"].as_str().unwrap_or_default();
            first["content"] = format!("{before}\n\n{text}").into();
        }
        None => out.insert(0, json!({ "role": "system", "content": text })),
    }
}

/// A text, or the texts of blocks or parts.
pub fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Box<ApiError>> {
    // serde_json's own limit of 128 levels bounds the stack.
    serde_json::from_slice(body).map_err(|_| invalid("the body is not a JSON object, or too deep"))
}

fn unsupported(what: &str, kind: EngineKind) -> Box<ApiError> {
    let message = format!("an engine of the kind {} cannot {what}", kind.word());
    Box::new(ApiError::client(StatusCode::BAD_REQUEST, "unsupported", message))
}

/// A request that cannot be translated. Nothing of the request is in the text.
#[must_use]
pub fn invalid(message: impl Into<String>) -> Box<ApiError> {
    Box::new(ApiError::client(StatusCode::BAD_REQUEST, "invalid_request", message))
}

/// Refuses a member of another form; null is as good as nothing.
///
/// # Errors
/// 400 with `what` it must be.
pub fn must_be(
    from: &Map<String, Value>,
    name: &'static str,
    what: &str,
    is: impl FnOnce(&Value) -> bool,
) -> Result<(), Box<ApiError>> {
    match from.get(name).filter(|value| !value.is_null()) {
        Some(value) if !is(value) => Err(Box::new(invalid(format!("`{name}` must be {what}")).param(name))),
        Some(_) | None => Ok(()),
    }
}

/// Copies members that have the same name and meaning on both sides.
pub fn copy(from: &Map<String, Value>, to: &mut Map<String, Value>, names: &[&str]) {
    for name in names {
        if let Some(value) = from.get(*name).filter(|value| !value.is_null()) {
            to.insert((*name).to_owned(), value.clone());
        }
    }
}
