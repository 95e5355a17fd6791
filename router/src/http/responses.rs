//! OpenAI's responses for engines that speak only its chats.

mod tell;

use super::dialect::faults::{of_schema, shown_type};
use super::dialect::passage::{copy, instruct, invalid, must_be, plain_text};
use super::reply::ApiError;
use serde_json::{Map, Value, json};
pub use tell::Items;

/// A chat.
///
/// # Errors
/// 400 when it is none, or refers to an earlier response: nothing is kept here.
pub fn chat(from: &Map<String, Value>) -> Result<Map<String, Value>, Box<ApiError>> {
    for kept in ["previous_response_id", "conversation"] {
        if from.get(kept).is_some_and(|id| !id.is_null()) {
            let message = format!("`{kept}` is not supported: no response is kept here");
            return Err(Box::new(ApiError { code: "unsupported", ..*invalid(message) }));
        }
    }
    must_be(from, "instructions", "a text", Value::is_string)?;
    must_be(from, "tools", "a list of tools", Value::is_array)?;
    must_be(from, "text", r#"an object, such as {"format": {"type": "json_object"}}"#, |text| {
        text.is_object() && (text["format"].is_object() || text["format"].is_null())
    })?;
    must_be(from, "reasoning", r#"an object, such as {"effort": "low"}"#, Value::is_object)?;
    let mut messages = Vec::new();
    if let Some(text) = from.get("instructions").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        messages.push(json!({ "role": "system", "content": text }));
    }
    match from.get("input") {
        Some(Value::String(text)) => messages.push(json!({ "role": "user", "content": text })),
        Some(Value::Array(items)) => {
            for (place, item) in items.iter().enumerate() {
                turn(&format!("input[{place}]"), item, &mut messages)?;
            }
        }
        _ => return Err(invalid("`input` must be a text or a list of items")),
    }
    let mut to = Map::new();
    to.insert("messages".into(), messages.into());
    copy(from, &mut to, &["temperature", "top_p", "parallel_tool_calls", "user", "seed", "stop"]);
    // What llama.cpp takes besides, and others ignore or know too.
    copy(from, &mut to, &["top_k", "min_p", "presence_penalty", "frequency_penalty", "chat_template_kwargs"]);
    if let Some(tokens) = from.get("max_output_tokens").filter(|tokens| !tokens.is_null()) {
        to.insert("max_tokens".into(), tokens.clone());
    }
    if let Some(effort) = from.get("reasoning").and_then(|reasoning| reasoning["effort"].as_str()) {
        to.insert("reasoning_effort".into(), effort.into());
    }
    if let Some(format) = from.get("text").map(|text| &text["format"]) {
        match format["type"].as_str() {
            Some("json_object") => {
                to.insert("response_format".into(), json!({ "type": "json_object" }));
            }
            Some("json_schema") if !format["schema"].is_object() => {
                return Err(Box::new(of_schema("text.format.schema")));
            }
            Some("json_schema") => {
                let mut named = json!({ "name": format["name"], "schema": format["schema"] });
                if !format["strict"].is_null() {
                    named["strict"] = format["strict"].clone();
                }
                to.insert("response_format".into(), json!({ "type": "json_schema", "json_schema": named }));
            }
            _ => {}
        }
    }
    let tools: Vec<Value> =
        from.get("tools").and_then(Value::as_array).into_iter().flatten().filter_map(tool).collect();
    if !tools.is_empty() {
        to.insert("tools".into(), tools.into());
        match from.get("tool_choice") {
            Some(Value::String(word)) => {
                to.insert("tool_choice".into(), word.as_str().into());
            }
            Some(choice) if choice["type"] == "function" => {
                let named = json!({ "type": "function", "function": { "name": choice["name"] } });
                to.insert("tool_choice".into(), named);
            }
            _ => {}
        }
    }
    Ok(to)
}

/// Tools that OpenAI itself would run are left out: nobody here runs them.
fn tool(tool: &Value) -> Option<Value> {
    if tool["type"] != "function" {
        return None;
    }
    let mut function = Map::new();
    copy(tool.as_object()?, &mut function, &["name", "description", "parameters", "strict"]);
    Some(json!({ "type": "function", "function": function }))
}

fn turn(at: &str, item: &Value, out: &mut Vec<Value>) -> Result<(), Box<ApiError>> {
    match item["type"].as_str() {
        None | Some("message") => {
            let role = match item["role"].as_str() {
                Some("developer") => "system",
                Some(role) => role,
                None => return Err(misplaced(format!("{at}.role"), "must be a text that says who speaks")),
            };
            let content = content(&format!("{at}.content"), &item["content"])?;
            if role == "system" {
                instruct(out, plain_text(&content));
            } else {
                out.push(json!({ "role": role, "content": content }));
            }
        }
        Some("function_call") => {
            let call = json!({
                "id": item["call_id"], "type": "function",
                "function": { "name": item["name"], "arguments": item["arguments"] },
            });
            // Parallel calls are one message in a chat.
            match out.last_mut().filter(|last| last["role"] == "assistant") {
                Some(last) => match last["tool_calls"].as_array_mut() {
                    Some(calls) => calls.push(call),
                    None => last["tool_calls"] = json!([call]),
                },
                None => out.push(json!({ "role": "assistant", "content": null, "tool_calls": [call] })),
            }
        }
        Some("function_call_output") => {
            let text = match &item["output"] {
                Value::String(text) => text.clone(),
                Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
                other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
                    other.to_string()
                }
            };
            out.push(json!({ "role": "tool", "tool_call_id": item["call_id"], "content": text }));
        }
        // Thoughts of earlier turns are no part of a chat.
        Some("reasoning") => {}
        Some("item_reference") => {
            let why = "is an `item_reference`, which is not supported: no response is kept here, so send the items \
                       themselves (`store: false`)";
            return Err(unsupported(at, why));
        }
        Some(other) => {
            let kind = shown_type(other);
            let why = format!(
                "is an item of {kind}: only messages, calls of functions and their outputs can be translated for this engine"
            );
            return Err(unsupported(at, &why));
        }
    }
    Ok(())
}

/// What is wrong with the value at `at`.
fn misplaced(at: impl Into<String>, why: &str) -> Box<ApiError> {
    let at = at.into();
    Box::new(invalid(format!("`{at}` {why}")).param(at))
}

fn unsupported(at: &str, why: &str) -> Box<ApiError> {
    Box::new(ApiError { code: "unsupported", ..*misplaced(at, why) })
}

fn content(at: &str, content: &Value) -> Result<Value, Box<ApiError>> {
    let parts = match content {
        Value::String(_) => return Ok(content.clone()),
        Value::Array(parts) => parts,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            return Err(misplaced(at, "must be a text or a list of parts"));
        }
    };
    let mut out = Vec::new();
    for (place, part) in parts.iter().enumerate() {
        match part["type"].as_str() {
            Some("input_text" | "output_text" | "text" | "refusal") => {
                let text = part.get("text").or_else(|| part.get("refusal")).cloned().unwrap_or_default();
                out.push(json!({ "type": "text", "text": text }));
            }
            Some("input_image") => {
                out.push(json!({ "type": "image_url", "image_url": { "url": part["image_url"] } }));
            }
            kind => {
                let kind = shown_type(kind.unwrap_or_default());
                let why =
                    format!("is a part of {kind}: only texts and images can be translated for this engine");
                return Err(unsupported(&format!("{at}[{place}]"), &why));
            }
        }
    }
    if let [only] = out.as_slice()
        && only["type"] == "text"
    {
        return Ok(only["text"].clone());
    }
    Ok(out.into())
}
