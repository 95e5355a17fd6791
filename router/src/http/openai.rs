//! `GET /v1/models`: modes first, then models, with their context and where they are.

use super::reply::{ApiError, Reply, json_reply};
use crate::fleet_keeper::Snapshot;
use http::StatusCode;
use mesh_core::fleet::FleetView;
use mesh_core::health::Liveness;
use mesh_core::id::ModelId;
use mesh_core::machine::ReplicaState;
use mesh_core::mode::{Mode, PREFIX};
use serde_json::{Value, json};

/// All names a client may use.
#[must_use]
pub fn models(snapshot: &Snapshot) -> Reply {
    json_reply(StatusCode::OK, &json!({ "object": "list", "data": list(snapshot) }))
}

/// One of them. Clients escape the slash of `mesh/code` or do not; both are understood.
///
/// # Errors
/// 404 when there is none of that name.
pub fn model(snapshot: &Snapshot, name: &str) -> Result<Reply, ApiError> {
    let name = name.replace("%2F", "/").replace("%2f", "/").replace("%3A", ":").replace("%3a", ":");
    let found = list(snapshot).into_iter().find(|entry| entry["id"] == name.as_str());
    found.map(|entry| json_reply(StatusCode::OK, &entry)).ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        ApiError::client(
            StatusCode::NOT_FOUND,
            "model_not_found",
            format!("there is no mode or model `{shown}`"),
        )
        .param("model")
    })
}

fn list(snapshot: &Snapshot) -> Vec<Value> {
    let modes = snapshot.modes.modes().iter().flat_map(|mode| {
        let slash = mode_entry(snapshot, mode, &format!("{PREFIX}/{}", mode.name));
        let dash = mode_entry(snapshot, mode, &format!("{PREFIX}-{}", mode.name));
        [slash, dash]
    });
    let models = snapshot.view.model_names().into_iter().map(|model| model_entry(&snapshot.view, model));
    modes.chain(models).collect()
}

/// Where a model is loaded, and the least context a request may meet there.
struct Placed {
    nodes: Vec<String>,
    context: Option<u32>,
    state: &'static str,
}

fn placed(view: &FleetView, model: &ModelId) -> Placed {
    let mut placed = Placed { nodes: Vec::new(), context: None, state: "unloaded" };
    for machine in view.machines.iter().filter(|machine| machine.liveness != Liveness::Offline) {
        let Some((_, replica)) = machine.replica(model) else { continue };
        match replica.state {
            ReplicaState::Loaded => {
                placed.state = "loaded";
                placed.nodes.push(machine.id.to_string());
                placed.context = [placed.context, replica.context].into_iter().flatten().min();
            }
            ReplicaState::Loading if placed.state == "unloaded" => placed.state = "loading",
            ReplicaState::Loading | ReplicaState::Available | ReplicaState::Failed(_) => {}
        }
    }
    placed
}

fn mode_entry(snapshot: &Snapshot, mode: &Mode, id: &str) -> Value {
    let chain = snapshot.modes.chain(mode);
    let serving = chain
        .iter()
        .map(|(model, _)| (*model, placed(&snapshot.view, model)))
        .find(|(_, p)| p.state == "loaded");
    let (model, placed) = match serving {
        Some((model, placed)) => (Some(model), placed),
        None => (None, Placed { nodes: Vec::new(), context: None, state: "unloaded" }),
    };
    json!({
        "id": id,
        "object": "model",
        "created": 0,
        "owned_by": "modemesh",
        "name": format!("Mesh {}", mode.name),
        "context_length": placed.context,
        "status": { "value": placed.state },
        "meta": { "mesh": { "mode": mode.name, "model": model, "nodes": placed.nodes } },
    })
}

fn model_entry(view: &FleetView, model: &ModelId) -> Value {
    let placed = placed(view, model);
    json!({
        "id": model,
        "object": "model",
        "created": 0,
        "owned_by": "modemesh",
        "context_length": placed.context,
        "status": { "value": placed.state },
        "meta": { "mesh": { "nodes": placed.nodes } },
    })
}
