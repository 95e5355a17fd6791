//! Anthropic's messages for engines that speak only OpenAI's dialect.

mod tell;

use super::dialect::passage::{copy, instruct, invalid, plain_text};
use super::reply::ApiError;
use serde_json::{Map, Value, json};
pub use tell::Messages;

/// A chat in OpenAI's dialect.
///
/// # Errors
/// 400 when it is none, or has blocks that a chat has no place for.
pub fn chat(from: &Map<String, Value>) -> Result<Map<String, Value>, Box<ApiError>> {
    let mut messages = Vec::new();
    let system = from.get("system").map(plain_text).unwrap_or_default();
    if !system.is_empty() {
        messages.push(json!({ "role": "system", "content": system }));
    }
    let list = from.get("messages").and_then(Value::as_array);
    for message in list.ok_or_else(|| invalid("`messages` must be a list"))? {
        turn(message, &mut messages)?;
    }
    let mut to = Map::new();
    to.insert("messages".into(), messages.into());
    copy(from, &mut to, &["max_tokens", "temperature", "top_p", "top_k"]);
    if let Some(stop) = from.get("stop_sequences").filter(|stop| !stop.is_null()) {
        to.insert("stop".into(), stop.clone());
    }
    if let Some(user) = from.get("metadata").and_then(|metadata| metadata.get("user_id")) {
        to.insert("user".into(), user.clone());
    }
    let tools: Vec<Value> =
        from.get("tools").and_then(Value::as_array).into_iter().flatten().filter_map(tool).collect();
    if !tools.is_empty() {
        to.insert("tools".into(), tools.into());
        choice(from.get("tool_choice"), &mut to);
    }
    Ok(to)
}

/// Tools that Anthropic itself would run have no schema, and nobody here to run them.
fn tool(tool: &Value) -> Option<Value> {
    let schema = tool.get("input_schema")?;
    let mut function = json!({ "name": tool["name"], "parameters": schema });
    if let Some(text) = tool.get("description") {
        function["description"] = text.clone();
    }
    Some(json!({ "type": "function", "function": function }))
}

fn choice(choice: Option<&Value>, to: &mut Map<String, Value>) {
    let Some(choice) = choice else { return };
    let said = match choice["type"].as_str() {
        Some("any") => "required".into(),
        Some("none") => "none".into(),
        Some("tool") => json!({ "type": "function", "function": { "name": choice["name"] } }),
        _ => "auto".into(),
    };
    to.insert("tool_choice".into(), said);
    if choice["disable_parallel_tool_use"] == true {
        to.insert("parallel_tool_calls".into(), false.into());
    }
}

/// One message, which may become several: results of tools are messages of their own in a chat.
fn turn(message: &Value, out: &mut Vec<Value>) -> Result<(), Box<ApiError>> {
    let role = message["role"].as_str().unwrap_or("user");
    if role == "system" {
        instruct(out, plain_text(&message["content"]));
        return Ok(());
    }
    let blocks = match &message["content"] {
        Value::String(text) => {
            out.push(json!({ "role": role, "content": text }));
            return Ok(());
        }
        Value::Array(blocks) => blocks,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            return Err(invalid("`content` of a message must be a text or a list of blocks"));
        }
    };
    let (mut parts, mut calls, mut thought) = (Vec::new(), Vec::new(), String::new());
    for block in blocks {
        match block["type"].as_str() {
            Some("text") => parts.push(json!({ "type": "text", "text": block["text"] })),
            Some("image") => parts.push(image(block)?),
            Some("thinking") => thought.push_str(block["thinking"].as_str().unwrap_or_default()),
            Some("redacted_thinking") => {}
            Some("tool_use") => calls.push(json!({
                "id": block["id"], "type": "function",
                "function": { "name": block["name"], "arguments": block["input"].to_string() },
            })),
            Some("tool_result") => {
                let text = plain_text(&block["content"]);
                out.push(json!({ "role": "tool", "tool_call_id": block["tool_use_id"], "content": text }));
                // A chat's results are texts only, so their images follow.
                for inner in block["content"].as_array().into_iter().flatten() {
                    if inner["type"] == "image" {
                        parts.push(image(inner)?);
                    }
                }
            }
            _ => {
                let message = "only blocks of text, images, thinking, tool use and tool results can be \
                               translated for this engine";
                return Err(Box::new(ApiError { code: "unsupported", ..*invalid(message) }));
            }
        }
    }
    if parts.is_empty() && calls.is_empty() && thought.is_empty() {
        return Ok(());
    }
    let only_text = parts.iter().all(|part| part["type"] == "text");
    let mut to = json!({ "role": role });
    to["content"] = if only_text {
        parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n").into()
    } else {
        parts.into()
    };
    if !thought.is_empty() {
        to["reasoning_content"] = thought.into();
    }
    if !calls.is_empty() {
        to["tool_calls"] = calls.into();
    }
    out.push(to);
    Ok(())
}

fn image(block: &Value) -> Result<Value, Box<ApiError>> {
    let source = &block["source"];
    let url = match (source["type"].as_str(), source["data"].as_str(), source["url"].as_str()) {
        (Some("base64"), Some(data), _) => {
            format!("data:{};base64,{data}", source["media_type"].as_str().unwrap_or("image/jpeg"))
        }
        (Some("url"), _, Some(url)) => url.to_owned(),
        _ => return Err(invalid("an image needs a source of base64 or a URL")),
    };
    Ok(json!({ "type": "image_url", "image_url": { "url": url } }))
}
