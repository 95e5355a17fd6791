//! Ollama's requests as engines read them that speak OpenAI's dialect.

use crate::http::dialect::passage::{copy, invalid, must_be};
use crate::http::fim::Middle;
use crate::http::reply::ApiError;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;

/// Options that engines with OpenAI's dialect know by the same name, the last ones only llama.cpp's kind.
const OPTIONS: [&str; 14] = [
    "temperature",
    "top_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repeat_last_n",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
];

/// Of Ollama's options the whole numbers and the other numbers (its `api.Options`).
const INTEGERS: [&str; 5] = ["num_keep", "seed", "num_predict", "top_k", "repeat_last_n"];
const NUMBERS: [&str; 7] =
    ["top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"];

/// Whether it is one of Ollama's options that engines are asked with.
#[must_use]
pub fn is_option(name: &str) -> bool {
    OPTIONS.contains(&name)
}

/// What is wrong with an option of this name, whose value is written like that. Ollama refuses it, too; engines with
/// OpenAI's dialect would never see some of them.
///
/// # Errors
/// 400 for a number that is none.
pub fn check_option(name: &str, value: &str) -> Result<(), Box<ApiError>> {
    let (is_integer, is_number) = (INTEGERS.contains(&name), NUMBERS.contains(&name));
    if !(is_integer || is_number) || value == "null" || serde_json::from_str::<f64>(value).is_ok() {
        return Ok(());
    }
    let kind = if is_integer { "a whole number" } else { "a number" };
    let at = format!("options.{name}");
    Err(Box::new(invalid(format!("`{at}` must be {kind}")).param(at)))
}

/// A chat.
///
/// # Errors
/// 400 when it is none.
pub fn chat(from: &Map<String, Value>) -> Result<Map<String, Value>, Box<ApiError>> {
    let messages =
        from.get("messages").and_then(Value::as_array).ok_or_else(|| invalid("`messages` must be a list"))?;
    let (mut out, mut calls, mut numbered) = (Vec::new(), VecDeque::new(), 0);
    for message in messages {
        let role = message["role"].as_str().ok_or_else(|| invalid("a message has no `role`"))?;
        let mut to = Map::new();
        to.insert("role".into(), role.into());
        to.insert("content".into(), content(message.get("content"), message.get("images"))?);
        if let Some(thought) = message["thinking"].as_str().filter(|thought| !thought.is_empty()) {
            to.insert("reasoning_content".into(), thought.into());
        }
        if let Some(asked) = message["tool_calls"].as_array().filter(|asked| !asked.is_empty()) {
            // Ollama's calls need no id, OpenAI's do: answers are matched by name, else in order.
            calls.clear();
            let mut list = Vec::new();
            for call in asked {
                let id = call["id"].as_str().map_or_else(|| format!("call_{numbered}"), ToOwned::to_owned);
                numbered += 1;
                let name = call["function"]["name"].as_str().unwrap_or_default();
                calls.push_back((id.clone(), name.to_owned()));
                let arguments = match &call["function"]["arguments"] {
                    Value::String(text) => text.clone(),
                    Value::Null => "{}".into(),
                    other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                        other.to_string()
                    }
                };
                let function = json!({ "name": name, "arguments": arguments });
                list.push(json!({ "id": id, "type": "function", "function": function }));
            }
            to.insert("tool_calls".into(), list.into());
        }
        if role == "tool" {
            let name = message["tool_name"].as_str().or_else(|| message["name"].as_str());
            let at = calls.iter().position(|(_, called)| name.is_none_or(|name| name == called)).unwrap_or(0);
            let matched = calls.remove(at).map(|(id, _)| id);
            let given = message["tool_call_id"].as_str().map(ToOwned::to_owned);
            let id = given.or(matched).unwrap_or_else(|| "call_0".into());
            to.insert("tool_call_id".into(), id.into());
        }
        out.push(Value::Object(to));
    }
    must_be(from, "tools", "a list of tools", Value::is_array)?;
    let mut to = shared(from)?;
    to.insert("messages".into(), out.into());
    if let Some(tools) = from.get("tools").filter(|tools| tools.as_array().is_some_and(|t| !t.is_empty())) {
        to.insert("tools".into(), tools.clone());
    }
    Ok(to)
}

/// A prompt without a suffix, as a chat: the engine's template stands for Ollama's.
///
/// # Errors
/// 400 when it is none.
pub fn prompt(from: &Map<String, Value>) -> Result<Map<String, Value>, Box<ApiError>> {
    must_be(from, "system", "a text", Value::is_string)?;
    let mut messages = Vec::new();
    if let Some(system) = from.get("system").filter(|system| system.as_str().is_some_and(|s| !s.is_empty())) {
        messages.push(json!({ "role": "system", "content": system }));
    }
    let content = content(from.get("prompt"), from.get("images"))?;
    messages.push(json!({ "role": "user", "content": content }));
    let mut to = shared(from)?;
    to.insert("messages".into(), messages.into());
    Ok(to)
}

/// A raw prompt, which no template touches, as a completion.
#[must_use]
pub fn raw(from: &Map<String, Value>) -> Map<String, Value> {
    let mut to = options(from);
    to.insert("prompt".into(), from.get("prompt").cloned().unwrap_or_else(|| "".into()));
    to
}

/// A prompt with a suffix.
#[must_use]
pub fn middle(from: &Map<String, Value>) -> Middle {
    let mut rest = options(from);
    let tokens = rest.remove("max_tokens");
    let value = |name: &str| from.get(name).cloned().unwrap_or_else(|| "".into());
    Middle { prefix: value("prompt"), suffix: value("suffix"), tokens, rest }
}

/// Texts to be embedded. Plain numbers are asked for, for that is what Ollama answers.
///
/// # Errors
/// 400 when there are none.
pub fn embeddings(from: &Map<String, Value>, legacy: bool) -> Result<Map<String, Value>, Box<ApiError>> {
    let name = if legacy { "prompt" } else { "input" };
    let texts = from.get(name).filter(|texts| {
        texts.is_string()
            || texts.as_array().is_some_and(|texts| !legacy && texts.iter().all(Value::is_string))
    });
    let texts = texts.ok_or_else(|| invalid(format!("`{name}` must be a text or a list of texts")))?;
    let mut to = Map::new();
    to.insert("input".into(), texts.clone());
    to.insert("encoding_format".into(), "float".into());
    copy(from, &mut to, &["dimensions"]);
    Ok(to)
}

/// A text, with images as OpenAI's parts if there are any.
fn content(text: Option<&Value>, images: Option<&Value>) -> Result<Value, Box<ApiError>> {
    let text = match text {
        None | Some(Value::Null) => "",
        Some(Value::String(text)) => text,
        Some(_) => return Err(invalid("`content` and `prompt` must be texts")),
    };
    let images = match images {
        None | Some(Value::Null) => &[][..],
        Some(Value::Array(images)) => images.as_slice(),
        Some(_) => return Err(invalid("`images` must be a list of texts in base64")),
    };
    if images.is_empty() {
        return Ok(text.into());
    }
    let mut parts = vec![json!({ "type": "text", "text": text })];
    for image in images {
        let data = image.as_str().ok_or_else(|| invalid("`images` must be texts in base64"))?;
        let url = format!("data:{};base64,{data}", media_type(data));
        parts.push(json!({ "type": "image_url", "image_url": { "url": url } }));
    }
    Ok(parts.into())
}

/// The kind of an image by its first bytes in base64.
fn media_type(data: &str) -> &'static str {
    match data.get(..4) {
        Some("iVBO") => "image/png",
        Some("R0lG") => "image/gif",
        Some("UklG") => "image/webp",
        _ => "image/jpeg",
    }
}

/// What chats and prompts share.
fn shared(from: &Map<String, Value>) -> Result<Map<String, Value>, Box<ApiError>> {
    // An empty text is what some clients send for none.
    must_be(from, "format", "`json` or a JSON schema", |format| {
        format.is_object() || matches!(format.as_str(), Some("" | "json"))
    })?;
    must_be(from, "think", "true, false, or how hard", |think| think.is_boolean() || think.is_string())?;
    let mut to = options(from);
    match from.get("format") {
        Some(Value::String(word)) if word == "json" => {
            to.insert("response_format".into(), json!({ "type": "json_object" }));
        }
        Some(schema @ Value::Object(_)) => {
            let named = json!({ "name": "answer", "schema": schema });
            to.insert("response_format".into(), json!({ "type": "json_schema", "json_schema": named }));
        }
        _ => {}
    }
    match from.get("think") {
        Some(Value::Bool(think)) => {
            to.insert("chat_template_kwargs".into(), json!({ "enable_thinking": think }));
        }
        Some(Value::String(effort)) => {
            to.insert("reasoning_effort".into(), effort.as_str().into());
        }
        _ => {}
    }
    Ok(to)
}

fn options(from: &Map<String, Value>) -> Map<String, Value> {
    let mut to = Map::new();
    if let Some(options) = from.get("options").and_then(Value::as_object) {
        copy(options, &mut to, &OPTIONS);
        // -1 is "without a limit", -2 "until the context is full". Ollama cuts fractions off.
        let tokens = options.get("num_predict").and_then(Value::as_f64).filter(|tokens| *tokens >= 0.0);
        if let Some(tokens) = tokens {
            to.insert("max_tokens".into(), (tokens as u64).into());
        }
    }
    to
}
