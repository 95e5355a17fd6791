//! Ollama's dialect: what it tells of models, and its embeddings. Its requests are read in [`ask`], its answers
//! told in `tell`.

pub mod ask;
mod tell;

use super::dialect::pieces::NoAnswer;
use super::model_info::{Entry, entries, entry};
use super::reply::{ApiError, Reply, json_reply, whole};
use crate::fleet_keeper::Snapshot;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use mesh_daemon::clock::unix_ms;
use serde::Deserialize;
use serde_json::{Map, Value, json};
pub use tell::{Lines, timestamp};

/// The version of Ollama whose answers these are: some editors want at least 0.17.
const VERSION: &str = "0.33.0";

/// `GET /`: what clients look for to know that Ollama is there.
#[must_use]
pub fn root() -> Reply {
    let mut reply = Response::new(whole("Ollama is running"));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

/// `GET /api/version`
#[must_use]
pub fn version() -> Reply {
    json_reply(StatusCode::OK, &json!({ "version": VERSION }))
}

/// `GET /api/tags`
#[must_use]
pub fn tags(snapshot: &Snapshot) -> Reply {
    let models: Vec<Value> = entries(snapshot).iter().map(line).collect();
    json_reply(StatusCode::OK, &json!({ "models": models }))
}

/// `GET /api/ps`: what is in memory, by modes and by models.
#[must_use]
pub fn running(snapshot: &Snapshot) -> Reply {
    // The mesh decides how long a model stays: long after anyone will read this.
    let expires = timestamp(unix_ms() + 365 * 86_400_000);
    let models: Vec<Value> = entries(snapshot)
        .iter()
        .filter(|entry| entry.state == "loaded")
        .map(|entry| {
            let mut line = line(entry);
            line["expires_at"] = expires.as_str().into();
            line["size_vram"] = entry.size.unwrap_or(0).into();
            line["context_length"] = entry.context.unwrap_or(0).into();
            line
        })
        .collect();
    json_reply(StatusCode::OK, &json!({ "models": models }))
}

/// `POST /api/show`
///
/// # Errors
/// 400 without a model, 404 for one that is not there.
pub fn show(snapshot: &Snapshot, body: &[u8]) -> Result<Reply, ApiError> {
    #[derive(Deserialize)]
    struct Asked {
        #[serde(default)]
        model: String,
        // The name of the field in older clients.
        #[serde(default)]
        name: String,
    }
    let asked: Asked = serde_json::from_slice(body).map_err(|_| {
        let message = r#"the body must be a JSON object with a text `model`, such as {"model": "mesh/ask"}"#;
        ApiError::client(StatusCode::BAD_REQUEST, "invalid_request", message)
    })?;
    let name = if asked.model.is_empty() { asked.name } else { asked.model };
    if name.is_empty() {
        return Err(ApiError::client(StatusCode::BAD_REQUEST, "invalid_request", "model is required"));
    }
    let found = known(snapshot, &name)?;
    let context = found.context.unwrap_or(0);
    let template = if found.fills_in() {
        "{{ if .Suffix }}{{ .Prompt }}{{ .Suffix }}{{ else }}{{ .Prompt }}{{ end }}"
    } else {
        "{{ .Prompt }}"
    };
    // The engine's own architecture does not matter here: clients look for any key that ends like this.
    let info = json!({
        "general.architecture": "mesh", "general.parameter_count": found.parameters,
        "mesh.context_length": context,
    });
    Ok(json_reply(
        StatusCode::OK,
        &json!({
            "modelfile": "", "parameters": format!("num_ctx {context}"), "template": template,
            "details": details(&found), "model_info": info, "capabilities": capabilities(&found),
            "modified_at": timestamp(0),
        }),
    ))
}

/// The entry of a name as Ollama's clients write it.
///
/// # Errors
/// 404 when there is none.
pub fn known(snapshot: &Snapshot, name: &str) -> Result<Entry, ApiError> {
    let bare = name.strip_suffix(":latest").unwrap_or(name);
    entry(snapshot, name).or_else(|| entry(snapshot, bare)).ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        ApiError::client(StatusCode::NOT_FOUND, "model_not_found", format!("model '{shown}' not found"))
    })
}

/// A request without a prompt: Ollama's way to load a model beforehand, or to unload it. Here the mesh does that, so
/// the answer says only that the model is there. `None` for every other request.
///
/// # Errors
/// 404 when there is no such model.
pub fn preload(snapshot: &Snapshot, body: &[u8], chat: bool) -> Option<Result<Reply, ApiError>> {
    let asked: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let empty = |name: &str| match asked.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    };
    let fields: &[&str] = if chat { &["messages"] } else { &["prompt", "suffix", "images"] };
    if !fields.iter().all(|name| empty(name)) {
        return None;
    }
    let name = asked.get("model").and_then(Value::as_str)?;
    Some(known(snapshot, name).map(|_| {
        let mut line = json!({
            "model": name, "created_at": timestamp(unix_ms()), "done": true, "done_reason": "load",
        });
        if chat {
            line["message"] = json!({ "role": "assistant", "content": "" });
        } else {
            line["response"] = "".into();
        }
        json_reply(StatusCode::OK, &line)
    }))
}

/// What only an operator may do.
#[must_use]
pub fn operators_only(what: &str, meshctl: &str) -> ApiError {
    let verb = if what == "delete" { "unload" } else { "load" };
    let message = format!(
        "models of this mesh are not changed over this API: its operator does that, for instance with `{meshctl} model {verb}`"
    );
    ApiError::client(StatusCode::FORBIDDEN, "operators_only", message)
}

fn line(entry: &Entry) -> Value {
    json!({
        "name": entry.name, "model": entry.name, "modified_at": timestamp(0),
        "size": entry.size.unwrap_or(0), "digest": entry.digest.as_deref().unwrap_or_default(),
        "details": details(entry), "capabilities": capabilities(entry),
    })
}

fn details(entry: &Entry) -> Value {
    let parameters = entry.parameters.map_or_else(String::new, |count| {
        let count = count as f64;
        if count >= 1e9 { format!("{:.1}B", count / 1e9) } else { format!("{:.1}M", count / 1e6) }
    });
    json!({
        "parent_model": "", "format": "gguf", "family": "mesh", "families": ["mesh"],
        "parameter_size": parameters, "quantization_level": "", "context_length": entry.context.unwrap_or(0),
    })
}

fn capabilities(entry: &Entry) -> Vec<&'static str> {
    let all = [
        ("completion", entry.chats()),
        ("tools", entry.calls_tools()),
        ("insert", entry.fills_in()),
        ("vision", entry.sees()),
        ("embedding", entry.abilities.embed == Some(true)),
    ];
    all.into_iter().filter(|(_, has)| *has).map(|(word, _)| word).collect()
}

/// OpenAI's embeddings in one of Ollama's two shapes.
///
/// # Errors
/// [`NoAnswer`] when there are none.
pub fn embeddings_answer(body: &[u8], legacy: bool, model: &str) -> Result<Bytes, NoAnswer> {
    let mut value: Value = serde_json::from_slice(body).map_err(|_| NoAnswer)?;
    let tokens = value["usage"]["prompt_tokens"].as_u64().unwrap_or(0);
    let data = value["data"].as_array_mut().ok_or(NoAnswer)?;
    data.sort_by_key(|one| one["index"].as_u64().unwrap_or(0));
    let mut found = data.iter_mut().map(|one| one["embedding"].take());
    let answer = if legacy {
        json!({ "embedding": found.next().ok_or(NoAnswer)? })
    } else {
        json!({
            "model": model, "embeddings": found.collect::<Vec<_>>(), "total_duration": 0, "load_duration": 0,
            "prompt_eval_count": tokens,
        })
    };
    Ok(answer.to_string().into())
}
