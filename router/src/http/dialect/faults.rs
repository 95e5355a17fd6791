//! Chats that are none: what a request lacks that every engine needs, named as the client wrote it.
//!
//! What the scan of the head sees on its way is told before any machine is asked ([`of_head`]). The rest is looked for
//! only when an engine has failed over the request ([`of_body`]): engines differ in what they overlook, and a request
//! that one of them answers is no fault.

use super::Door;
use crate::http::head::{Head, Unsound};
use crate::http::reply::ApiError;
use http::StatusCode;
use serde_json::{Map, Value};

const EXAMPLE: &str = r#"such as {"role": "user", "content": "…"}"#;

/// What a chat lacks, as far as its head tells.
#[must_use]
pub fn of_head(door: Door, head: &Head) -> Option<ApiError> {
    let unsound = head.unsound.filter(|_| is_chat(door))?;
    let role = |place: usize| format!("messages[{place}].role");
    Some(match unsound {
        Unsound::Missing => fault("messages", &format!("is missing: it is a list of messages, {EXAMPLE}")),
        Unsound::NoList => fault("messages", &format!("must be a list of messages, {EXAMPLE}")),
        Unsound::Empty => fault("messages", &format!("is empty: it needs at least one message, {EXAMPLE}")),
        Unsound::NoObject(place) => {
            fault(format!("messages[{place}]"), &format!("must be an object, {EXAMPLE}"))
        }
        Unsound::NoRole(place) => {
            fault(role(place), &format!("is missing: it says who speaks, {}", roles(door)))
        }
        Unsound::RoleNoText(place) => fault(role(place), &format!("must be a text, {}", roles(door))),
    })
}

/// What is malformed in a chat's body. It is read as a whole: only for one that an engine has failed over.
#[must_use]
pub fn of_body(door: Door, body: &[u8]) -> Option<ApiError> {
    if !is_chat(door) {
        return None;
    }
    let whole: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let messages = whole.get("messages")?.as_array()?;
    let in_messages =
        messages.iter().enumerate().find_map(|(place, message)| in_message(door, place, message));
    in_messages.or_else(|| in_tools(door, whole.get("tools")?))
}

fn is_chat(door: Door) -> bool {
    matches!(door, Door::Chat | Door::Messages | Door::CountTokens)
}

fn roles(door: Door) -> &'static str {
    if door == Door::Chat {
        "one of `system`, `developer`, `user`, `assistant` and `tool`"
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
        Some(Value::Array(parts)) => {
            parts.iter().enumerate().find_map(|(part, value)| in_part(format!("{at}.content[{part}]"), value))
        }
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

/// A part of OpenAI's, or a block of Anthropic's.
fn in_part(at: String, part: &Value) -> Option<ApiError> {
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
        "image" if !part["source"].is_object() => Some(fault(format!("{at}.source"), "must be an object")),
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
mod tests {
    use super::*;
    use serde_json::json;

    fn before(door: Door, body: &Value) -> Option<ApiError> {
        of_head(door, &Head::read(body.to_string().as_bytes(), true).expect("a head"))
    }

    #[test]
    fn a_chat_without_what_every_engine_needs_is_named_before_any_is_asked() {
        for (messages, param, words) in [
            (json!("x"), "messages", "must be a list"),
            (json!(null), "messages", "must be a list"),
            (json!([]), "messages", "is empty"),
            (json!([{"role": "user"}, 1]), "messages[1]", "must be an object"),
            (json!([{"role": "user"}, {"content": "x"}]), "messages[1].role", "is missing"),
            (json!([{"role": 1}]), "messages[0].role", "must be a text"),
        ] {
            let body = json!({ "model": "m", "messages": messages });
            for door in [Door::Chat, Door::Messages, Door::CountTokens] {
                let error = before(door, &body).unwrap_or_else(|| panic!("{door:?} {body}"));
                assert_eq!((error.status, error.code), (StatusCode::BAD_REQUEST, "invalid_request"));
                assert_eq!(error.param.as_deref(), Some(param));
                assert!(error.message.starts_with(&format!("`{param}` {words}")), "{}", error.message);
            }
            assert_eq!(before(Door::OllamaChat, &body), None, "Ollama takes more");
        }
        let error = before(Door::Messages, &json!({"model": "m"})).expect("there are none");
        assert!(error.message.starts_with("`messages` is missing"), "{}", error.message);
        assert_eq!(before(Door::Completions, &json!({"model": "m", "prompt": "x"})), None);
        assert_eq!(before(Door::Chat, &json!({"model": "m", "messages": [{"role": "user"}]})), None);
    }

    #[test]
    fn what_an_engine_failed_over_is_found_and_what_is_sound_is_not() {
        let call = |call: Value| json!([{"role": "assistant", "tool_calls": [call]}]);
        for (messages, param) in [
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "user", "content": {}}]), "messages[0].content"),
            (json!([{"role": "user", "content": ["x"]}]), "messages[0].content[0]"),
            (json!([{"role": "user", "content": [{}]}]), "messages[0].content[0].type"),
            (
                json!([{"role": "user", "content": [{"type": "text", "text": 1}]}]),
                "messages[0].content[0].text",
            ),
            (
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
                "messages[0].content[0].image_url.url",
            ),
            (json!([{"role": "user", "content": "x", "name": 1}]), "messages[0].name"),
            (json!([{"role": "assistant", "tool_calls": "x"}]), "messages[0].tool_calls"),
            (call(json!({})), "messages[0].tool_calls[0].function.name"),
            (call(json!({"type": 1})), "messages[0].tool_calls[0].type"),
            (call(json!({"type": "custom"})), "messages[0].tool_calls[0].custom.name"),
            (
                call(json!({"function": {"name": "f", "arguments": 1}})),
                "messages[0].tool_calls[0].function.arguments",
            ),
            (
                call(json!({"type": "function", "function": {"arguments": "{}"}})),
                "messages[0].tool_calls[0].function.name",
            ),
        ] {
            let body = json!({ "messages": messages }).to_string();
            let error = of_body(Door::Chat, body.as_bytes()).unwrap_or_else(|| panic!("{body}"));
            assert_eq!(error.param.as_deref(), Some(param), "{body}");
        }
        for (door, tools, param) in [
            (Door::Chat, json!("x"), "tools"),
            (Door::Chat, json!([{}]), "tools[0].type"),
            (Door::Chat, json!([{"type": "function", "function": {}}]), "tools[0].function.name"),
            (Door::Messages, json!([{"input_schema": {}}]), "tools[0].name"),
            (Door::Messages, json!([{"type": "custom"}]), "tools[0].name"),
            (Door::Messages, json!([{"type": 1, "name": "f"}]), "tools[0].type"),
        ] {
            let body = json!({ "messages": [{"role": "user", "content": "x"}], "tools": tools }).to_string();
            let error = of_body(door, body.as_bytes()).unwrap_or_else(|| panic!("{body}"));
            assert_eq!(error.param.as_deref(), Some(param), "{body}");
        }
        let sound = json!({
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "messages": [
                {"role": "system", "content": "x", "name": null},
                {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": "data:"}]},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "content": "x", "tool_call_id": "1"},
            ],
        });
        assert_eq!(of_body(Door::Chat, sound.to_string().as_bytes()), None);
        let sound = json!({
            "tools": [{"name": "f", "input_schema": {}}],
            "messages": [
                {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": ""}}]},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "x"}]},
            ],
        });
        assert_eq!(of_body(Door::Messages, sound.to_string().as_bytes()), None);
    }

    #[test]
    fn what_engines_or_openai_and_anthropic_allow_is_no_fault() {
        for message in [
            json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}),
            json!({"role": "assistant", "tool_calls": [{"type": null, "function": {"name": "f", "arguments": {}}}]}),
            json!({"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x"}}]}),
            json!({"role": "assistant", "tool_calls": [{"type": "of_tomorrow"}]}),
            json!({"role": "assistant", "content": null}),
            json!({"role": "tool", "content": null, "tool_call_id": "1"}),
            json!({"role": "function", "name": "f"}),
        ] {
            let body = json!({ "messages": [message] });
            assert_eq!(of_body(Door::Chat, body.to_string().as_bytes()), None, "{body}");
        }
        let tools =
            json!([{"type": "bash_20250124"}, {"type": "custom", "name": "f"}, {"type": null, "name": "f"}]);
        let body = json!({ "tools": tools, "messages": [{"role": "user", "content": "x"}] });
        assert_eq!(of_body(Door::Messages, body.to_string().as_bytes()), None, "{body}");
        assert!(roles(Door::Chat).contains("`developer`"));
    }

    #[test]
    fn other_doors_have_no_chats() {
        assert_eq!(of_body(Door::Responses, b"{\"messages\":[1]}"), None, "no chat of these dialects");
        assert_eq!(of_body(Door::Chat, b"no JSON"), None);
    }
}
