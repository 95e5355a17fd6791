//! Requests that are none: what one lacks that every engine needs, named as the client wrote it.
//!
//! What the scan of the head sees on its way is told before any machine is asked ([`of_head`]). The rest is looked for
//! only when an engine has failed over the request ([`of_body`]): engines differ in what they overlook, and a request
//! that one of them answers is no fault.

use super::Door;
use super::edit::members;
use crate::http::head::{Head, Unsound};
use crate::http::ollama::ask::is_option;
use crate::http::reply::ApiError;
use http::StatusCode;
use serde_json::{Map, Value};
use std::borrow::Cow;

const EXAMPLE: &str = r#"such as {"role": "user", "content": "…"}"#;

/// What a chat lacks, as far as its head tells.
#[must_use]
pub fn of_head(door: Door, head: &Head) -> Option<ApiError> {
    let (list, unsound) = match door {
        Door::Responses => ("input", head.items?),
        Door::Chat | Door::Messages | Door::CountTokens | Door::OllamaChat => ("messages", head.unsound?),
        Door::Completions
        | Door::Embeddings
        | Door::OllamaGenerate
        | Door::OllamaEmbed
        | Door::OllamaEmbeddings
        | Door::Infill
        | Door::Completion
        | Door::Fim => return None,
    };
    let role = |place: usize| format!("{list}[{place}].role");
    let or_text = if door == Door::Responses { "a text or " } else { "" };
    Some(match unsound {
        // So Ollama's clients ask for a model to be loaded.
        Unsound::Missing | Unsound::Empty if door == Door::OllamaChat => return None,
        Unsound::Missing => fault(list, &format!("is missing: it is {or_text}a list of messages, {EXAMPLE}")),
        Unsound::NoList => fault(list, &format!("must be {or_text}a list of messages, {EXAMPLE}")),
        Unsound::Empty => fault(list, &format!("is empty: it needs at least one message, {EXAMPLE}")),
        Unsound::NoObject(place) => {
            fault(format!("{list}[{place}]"), &format!("must be an object, {EXAMPLE}"))
        }
        Unsound::NoRole(place) => {
            fault(role(place), &format!("is missing: it says who speaks, {}", roles(door)))
        }
        Unsound::RoleNoText(place) => fault(role(place), &format!("must be a text, {}", roles(door))),
        // Templates know more roles, and other dialects have more.
        Unsound::OtherRole(_) if !is_anthropic(door) => return None,
        Unsound::OtherRole(place) => fault(role(place), &format!("must be {}", roles(door))),
    })
}

fn is_anthropic(door: Door) -> bool {
    matches!(door, Door::Messages | Door::CountTokens)
}

/// What is malformed in a body. It is read as a whole: only for one that an engine has failed over.
#[must_use]
pub fn of_body(door: Door, body: &[u8]) -> Option<ApiError> {
    let whole: Map<String, Value> = serde_json::from_slice(body).ok()?;
    match door {
        Door::Chat | Door::Messages | Door::CountTokens => of_chat(door, &whole),
        // What only some engines know stands for it there.
        Door::Completions if whole.contains_key("prompt_embeds") => None,
        Door::Embeddings if whole.contains_key("content") || whole.contains_key("messages") => None,
        Door::Completions | Door::Completion => texts("prompt", whole.get("prompt"), true),
        Door::Embeddings => texts("input", whole.get("input"), false),
        Door::Infill => ["input_prefix", "input_suffix"]
            .into_iter()
            .find_map(|field| text(field.to_owned(), whole.get(field))),
        // Its translation has looked at it, and OpenAI's items have too many shapes to know better.
        Door::Fim
        | Door::Responses
        | Door::OllamaChat
        | Door::OllamaGenerate
        | Door::OllamaEmbed
        | Door::OllamaEmbeddings => None,
    }
}

/// What stands where a text or several must be, or tokens. llama.cpp's own prompts are objects, too.
fn texts(at: &str, value: Option<&Value>, or_object: bool) -> Option<ApiError> {
    const TEXTS: &str = "a text or a list of texts";
    match value {
        Some(Value::String(_) | Value::Array(_)) => None,
        Some(Value::Object(_)) if or_object => None,
        None => Some(fault(at, &format!("is missing: it is {TEXTS}"))),
        Some(_) => Some(fault(at, &format!("must be {TEXTS}"))),
    }
}

/// The field that the client wrote where an engine names `field`, which a translation may have made of it.
#[must_use]
pub fn own_name(door: Door, body: &[u8], field: &str) -> Cow<'static, str> {
    let root = field.split(['.', '[']).next().unwrap_or_default();
    let wrote = |root: &str| members(body).is_ok_and(|found| found.iter().any(|(name, _)| name == root));
    let own = match (door, root) {
        (Door::Responses, "max_tokens" | "max_completion_tokens" | "n_predict") => "max_output_tokens",
        (Door::Responses, "messages") => "input",
        (Door::Responses, "response_format" | "json_schema" | "grammar") => "text.format",
        (Door::Messages, "stop") => "stop_sequences",
        (Door::OllamaChat | Door::OllamaGenerate, "max_tokens" | "max_completion_tokens" | "n_predict") => {
            "options.num_predict"
        }
        (Door::OllamaChat | Door::OllamaGenerate, "response_format" | "json_schema" | "grammar") => "format",
        (Door::OllamaGenerate, "messages" | "content" | "input_prefix") => "prompt",
        (Door::OllamaGenerate, "input_suffix") => "suffix",
        (Door::OllamaChat | Door::OllamaGenerate, option) if is_option(option) => {
            return Cow::Owned(format!("options.{option}"));
        }
        (Door::Completions | Door::Completion | Door::Fim | Door::OllamaEmbeddings, "messages") => "prompt",
        (Door::Embeddings | Door::OllamaEmbed, "messages") => "input",
        (Door::Infill, "messages" | "prompt") => "input_prefix",
        (Door::Infill, "suffix") => "input_suffix",
        (Door::Infill | Door::Completion, "max_tokens") => "n_predict",
        (Door::OllamaEmbeddings, "input") => "prompt",
        (Door::Fim, "seed") => "random_seed",
        (Door::Fim | Door::Completions, "input_prefix") => "prompt",
        (Door::Fim | Door::Completions, "input_suffix") => "suffix",
        (Door::Fim | Door::Completions, "n_predict") => "max_tokens",
        _ => return Cow::Owned(field.to_owned()),
    };
    if wrote(root) { Cow::Owned(field.to_owned()) } else { Cow::Borrowed(own) }
}

/// What is malformed in a chat.
fn of_chat(door: Door, whole: &Map<String, Value>) -> Option<ApiError> {
    let messages = whole.get("messages")?.as_array()?;
    let in_messages =
        messages.iter().enumerate().find_map(|(place, message)| in_message(door, place, message));
    let tools = || in_tools(door, whole.get("tools")?);
    in_messages
        .or_else(tools)
        .or_else(|| in_format(whole.get("response_format").filter(|_| door == Door::Chat)?))
}

fn roles(door: Door) -> &'static str {
    if door == Door::Chat {
        "one of `system`, `developer`, `user`, `assistant` and `tool`"
    } else if door == Door::Responses {
        "one of `system`, `developer`, `user` and `assistant`"
    } else if door == Door::OllamaChat {
        "one of `system`, `user`, `assistant` and `tool`"
    } else {
        "`user` or `assistant`"
    }
}

fn fault(param: impl Into<String>, must: &str) -> ApiError {
    let param = param.into();
    ApiError::client(StatusCode::BAD_REQUEST, "invalid_request", format!("`{param}` {must}")).param(param)
}

/// What stands where a text must be.
fn text(at: String, value: Option<&Value>) -> Option<ApiError> {
    match value {
        Some(Value::String(_)) => None,
        None => Some(fault(at, "is missing: it must be a text")),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Some(fault(at, "must be a text"))
        }
    }
}

fn in_message(door: Door, place: usize, message: &Value) -> Option<ApiError> {
    let at = format!("messages[{place}]");
    let role = text(format!("{at}.role"), message.get("role"));
    let name = message.get("name").filter(|name| !name.is_null());
    let name = || name.and_then(|name| text(format!("{at}.name"), Some(name)));
    let may_be_silent = door == Door::Chat
        && message["role"].as_str().is_some_and(|role| ["assistant", "tool", "function"].contains(&role));
    let content = || match message.get("content") {
        Some(Value::String(_)) => None,
        Some(Value::Array(parts)) => parts
            .iter()
            .enumerate()
            .find_map(|(part, value)| in_part(door, format!("{at}.content[{part}]"), value)),
        // What only calls tools says nothing, and some tools answer nothing.
        None | Some(Value::Null) if may_be_silent => None,
        None => Some(fault(format!("{at}.content"), "is missing: it is a text or a list of parts")),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
            Some(fault(format!("{at}.content"), "must be a text or a list of parts"))
        }
    };
    let calls = || match message.get("tool_calls") {
        None | Some(Value::Null) => None,
        Some(Value::Array(calls)) => calls
            .iter()
            .enumerate()
            .find_map(|(call, value)| in_call(&format!("{at}.tool_calls[{call}]"), value)),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            Some(fault(format!("{at}.tool_calls"), "must be a list of calls"))
        }
    };
    role.or_else(content).or_else(name).or_else(calls)
}

/// Parts of OpenAI's that some engine reads. Others are pointed at only where one has failed over the request.
const PARTS: [&str; 12] = [
    "text",
    "image_url",
    "input_audio",
    "refusal",
    "audio_url",
    "video_url",
    "image_embeds",
    "thinking",
    "input_text",
    "input_image",
    "output_text",
    "image",
];

/// A type as the client wrote it, where it can be repeated: it may be anything.
#[must_use]
pub fn shown_type(kind: &str) -> String {
    let is_word = (1..=40).contains(&kind.len()) && kind.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    if is_word { format!("the type `{kind}`") } else { "an unknown type".into() }
}

/// A part of OpenAI's, or a block of Anthropic's.
fn in_part(door: Door, at: String, part: &Value) -> Option<ApiError> {
    if !part.is_object() {
        return Some(fault(at, r#"must be an object, such as {"type": "text", "text": "…"}"#));
    }
    let kind = text(format!("{at}.type"), part.get("type"));
    let url = |at: &str, url: Option<&Value>| match url {
        // Some clients give the address itself.
        Some(Value::String(_)) => None,
        other => text(format!("{at}.image_url.url"), other.and_then(|object| object.get("url"))),
    };
    kind.or_else(|| match part["type"].as_str()? {
        "text" => text(format!("{at}.text"), part.get("text")),
        "image_url" => url(&at, part.get("image_url")),
        "image" if door != Door::Chat && !part["source"].is_object() => {
            Some(fault(format!("{at}.source"), "must be an object"))
        }
        kind if door == Door::Chat && !PARTS.contains(&kind) => {
            let what = shown_type(kind);
            let error = fault(
                at,
                &format!("is a part of {what}, which the engine does not read: there are `text`, `image_url` and `input_audio`"),
            );
            Some(ApiError { code: "unsupported", ..error })
        }
        _ => None,
    })
}

fn in_call(at: &str, call: &Value) -> Option<ApiError> {
    let kind = match kind(call) {
        // Few engines ask for it, and there are calls of kinds that only some know.
        Ok(kind) => kind.unwrap_or("function"),
        Err(other) => return text(format!("{at}.type"), Some(other)),
    };
    match kind {
        "function" => {
            let function = |field: &str| text(format!("{at}.function.{field}"), call["function"].get(field));
            // Some clients write the arguments as what they mean, and engines take that.
            let arguments =
                || if call["function"]["arguments"].is_object() { None } else { function("arguments") };
            function("name").or_else(arguments)
        }
        "custom" => text(format!("{at}.custom.name"), call["custom"].get("name")),
        _ => None,
    }
}

/// The `type` of a call or a tool that may be without one; the value where it is no text.
fn kind(of: &Value) -> Result<Option<&str>, &Value> {
    match of.get("type") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(kind)) => Ok(Some(kind)),
        Some(other) => Err(other),
    }
}

/// The form that a chat's answer is to have.
fn in_format(format: &Value) -> Option<ApiError> {
    if format.is_null() {
        return None;
    }
    if !format.is_object() {
        return Some(fault("response_format", r#"must be an object, such as {"type": "json_object"}"#));
    }
    let at = "response_format.json_schema";
    let schema = &format["json_schema"];
    match format["type"].as_str() {
        None => text("response_format.type".into(), format.get("type")),
        Some("json_schema") if !schema.is_object() => {
            Some(fault(at, r#"must be an object, such as {"name": "answer", "schema": {"type": "object"}}"#))
        }
        Some("json_schema") if !schema["schema"].is_object() => Some(of_schema(format!("{at}.schema"))),
        Some(_) => None,
    }
}

/// What stands where a schema must be.
#[must_use]
pub fn of_schema(at: impl Into<String>) -> ApiError {
    fault(at, r#"must be a JSON schema, such as {"type": "object", "properties": {…}}"#)
}

/// Points at the schema of the answer, where a request has one: for an engine that could not follow it.
#[must_use]
pub fn in_schema(door: Door, body: &[u8]) -> Option<ApiError> {
    let (pointer, place) = match door {
        Door::Chat => ("/response_format/json_schema/schema", "response_format.json_schema.schema"),
        Door::Responses => ("/text/format/schema", "text.format.schema"),
        Door::OllamaChat | Door::OllamaGenerate => ("/format", "format"),
        Door::Completions
        | Door::Embeddings
        | Door::Messages
        | Door::CountTokens
        | Door::OllamaEmbed
        | Door::OllamaEmbeddings
        | Door::Infill
        | Door::Completion
        | Door::Fim => return None,
    };
    let whole: Value = serde_json::from_slice(body).ok()?;
    let is_given = whole.pointer(pointer).is_some_and(Value::is_object);
    is_given.then(|| fault(place, "is a JSON schema that the engine cannot follow"))
}

fn in_tools(door: Door, tools: &Value) -> Option<ApiError> {
    let list = match tools {
        Value::Null => return None,
        Value::Array(list) => list,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            return Some(fault("tools", "must be a list of tools"));
        }
    };
    list.iter().enumerate().find_map(|(place, tool)| {
        let at = format!("tools[{place}]");
        if door != Door::Chat {
            return match kind(tool) {
                Ok(None | Some("custom")) => text(format!("{at}.name"), tool.get("name")),
                // The provider's own tools have names of their own.
                Ok(Some(_)) => None,
                Err(other) => text(format!("{at}.type"), Some(other)),
            };
        }
        let kind = text(format!("{at}.type"), tool.get("type"));
        kind.or_else(|| match tool["type"].as_str() {
            Some("function") => text(format!("{at}.function.name"), tool["function"].get("name")),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests;
