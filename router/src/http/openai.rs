//! `GET /v1/models`: modes first, then models, with their context and where they are.

use super::model_info::{Entry, entries};
use super::reply::{ApiError, Reply, json_reply};
use crate::fleet_keeper::Snapshot;
use http::StatusCode;
use serde_json::{Value, json};

/// All names a client may use.
#[must_use]
pub fn models(snapshot: &Snapshot) -> Reply {
    let list: Vec<Value> = entries(snapshot).iter().map(line).collect();
    json_reply(StatusCode::OK, &json!({ "object": "list", "data": list }))
}

/// One of them. Clients escape the slash of `mesh/code` or do not; both are understood.
///
/// # Errors
/// 404 when there is none of that name, with near ones.
pub fn model(snapshot: &Snapshot, name: &str) -> Result<Reply, ApiError> {
    let name = name.replace("%2F", "/").replace("%2f", "/").replace("%3A", ":").replace("%3a", ":");
    let entry = super::model_info::named(snapshot, &name)?;
    Ok(json_reply(StatusCode::OK, &line(&entry)))
}

fn line(entry: &Entry) -> Value {
    let mut mesh = json!({ "nodes": entry.nodes });
    if let Some(mode) = &entry.mode {
        mesh["mode"] = mode.as_str().into();
        mesh["model"] = json!(entry.model);
    }
    let inputs: &[&str] = if entry.sees() { &["text", "image"] } else { &["text"] };
    let mut line = json!({
        "id": entry.name, "object": "model", "created": 0, "owned_by": "modemesh",
        "context_length": entry.context, "status": { "value": entry.state },
        "architecture": { "input_modalities": inputs, "output_modalities": ["text"] },
        "capabilities": { "function_calling": entry.calls_tools(), "vision": entry.sees() },
        "meta": { "n_ctx": entry.context, "mesh": mesh },
    });
    if let Some(title) = &entry.title {
        line["name"] = title.as_str().into();
    }
    line
}
