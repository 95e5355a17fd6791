//! What the mesh can be asked by: modes first, then models, each with what it can do and the context that is
//! served. One list, told in the dialects of OpenAI, Ollama, LiteLLM and llama.cpp.

use super::reply::{ApiError, Reply, json_reply};
use crate::fleet_keeper::Snapshot;
use crate::forward::refusals::{shown, unknown_model};
use http::StatusCode;
use mesh_core::fleet::FleetView;
use mesh_core::health::Liveness;
use mesh_core::id::ModelId;
use mesh_core::machine::{Abilities, EngineKind, ReplicaState};
use mesh_core::mode::{Asked, Mode, PREFIX};
use serde_json::{Value, json};

/// A name that clients may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// The name for people, of modes.
    pub title: Option<String>,
    /// The mode, of modes.
    pub mode: Option<String>,
    /// The model behind it now.
    pub model: Option<ModelId>,
    /// Machines that have it in memory.
    pub nodes: Vec<String>,
    /// The least tokens that a request may hold on any of them.
    pub context: Option<u32>,
    /// Requests that they serve at once, all together; an engine that does not say counts as one.
    pub slots: u32,
    /// `loaded`, `loading` or `unloaded`.
    pub state: &'static str,
    /// What is known of its abilities.
    pub abilities: Abilities,
    /// Parameters, where known.
    pub parameters: Option<u64>,
    /// Bytes of the weights, where known.
    pub size: Option<u64>,
    /// Hex digits of its file's SHA-256, where known.
    pub digest: Option<String>,
}

impl Entry {
    fn unknown(name: String) -> Self {
        Self {
            name,
            title: None,
            mode: None,
            model: None,
            nodes: Vec::new(),
            context: None,
            slots: 0,
            state: "unloaded",
            abilities: Abilities::default(),
            parameters: None,
            size: None,
            digest: None,
        }
    }

    /// Whether it answers chats; what is not known to be false may.
    #[must_use]
    pub fn chats(&self) -> bool {
        self.abilities.chat != Some(false)
    }

    /// Whether it calls tools; editors hide models that are not said to, so what is not known may.
    #[must_use]
    pub fn calls_tools(&self) -> bool {
        self.chats() && self.abilities.tools != Some(false)
    }

    /// Whether it fills in the middle.
    #[must_use]
    pub fn fills_in(&self) -> bool {
        self.chats() && self.abilities.fim == Some(true)
    }

    /// Whether it reads images.
    #[must_use]
    pub fn sees(&self) -> bool {
        self.abilities.vision == Some(true)
    }
}

/// All names: `mesh/code` and `mesh-code` of each mode, then all models, then the other names that they have by the
/// configuration.
#[must_use]
pub fn entries(snapshot: &Snapshot) -> Vec<Entry> {
    let modes = snapshot.modes.modes().iter().flat_map(|mode| {
        let slash = of_mode(snapshot, mode, format!("{PREFIX}/{}", mode.name));
        let dash = Entry { name: format!("{PREFIX}-{}", mode.name), ..slash.clone() };
        [slash, dash]
    });
    let models = snapshot.view.model_names().into_iter().map(ModelId::as_str);
    let served = |(_, model): &(&String, &ModelId)| snapshot.view.model(model.as_str()).is_some();
    let aliases = snapshot.modes.aliases().iter().filter(served).map(|(name, _)| name.as_str());
    // One that is also a model's own name stands there once.
    let aliases = aliases.filter(|name| snapshot.view.model(name).is_none());
    modes.chain(models.chain(aliases).filter_map(|name| entry(snapshot, name))).collect()
}

/// One of them, by the name that was asked for; also by another name of a mode.
#[must_use]
pub fn entry(snapshot: &Snapshot, name: &str) -> Option<Entry> {
    match snapshot.modes.resolve(name, &snapshot.view) {
        Asked::Mode(mode) => Some(of_mode(snapshot, mode, name.to_owned())),
        Asked::Model(model) => {
            let found = snapshot.view.model(model.as_str())?;
            Some(Entry { name: name.to_owned(), ..of_model(&snapshot.view, found) })
        }
        Asked::Unknown { .. } => None,
    }
}

/// The same for clients that have to be told which names there are.
///
/// # Errors
/// 404 with near names and all of them, as for a chat; also for a name that is right, whose model no machine has.
pub fn named(snapshot: &Snapshot, name: &str) -> Result<Entry, ApiError> {
    entry(snapshot, name).ok_or_else(|| match snapshot.modes.resolve(name, &snapshot.view) {
        Asked::Unknown { near, all } => unknown_model(name, snapshot.modes.aliases().get(name), &near, &all),
        // It is in a mode, and no machine has it.
        Asked::Mode(_) | Asked::Model(_) => {
            let all: Vec<String> = entries(snapshot).into_iter().map(|entry| entry.name).collect();
            let error = unknown_model(name, None, &[], &all);
            ApiError { message: format!("no machine has the model of `{}`", shown(name)), ..error }
        }
    })
}

fn of_mode(snapshot: &Snapshot, mode: &Mode, name: String) -> Entry {
    let chain = snapshot.modes.chain(mode);
    let serving =
        chain.iter().map(|(model, _)| of_model(&snapshot.view, model)).find(|entry| entry.state == "loaded");
    Entry {
        name: name.clone(),
        title: Some(format!("Mesh {}", mode.name)),
        mode: Some(mode.name.to_string()),
        ..serving.unwrap_or_else(|| Entry::unknown(name))
    }
}

fn of_model(view: &FleetView, model: &ModelId) -> Entry {
    let mut entry = Entry { model: Some(model.clone()), ..Entry::unknown(model.to_string()) };
    for machine in view.machines.iter().filter(|machine| machine.liveness != Liveness::Offline) {
        let Some((engine, replica)) = machine.replica(model) else { continue };
        entry.parameters = entry.parameters.or(replica.parameters);
        entry.size = entry.size.or(replica.size.map(|size| size.0));
        entry.digest = entry.digest.or_else(|| replica.digest.as_ref().map(ToString::to_string));
        match replica.state {
            ReplicaState::Loaded => {
                // llama.cpp does not say whether a model knows the tokens for it, but has the path.
                let has_path = matches!(engine.kind, EngineKind::LlamaServer | EngineKind::LlamaRouter);
                let seen = replica.abilities;
                let fim = seen.fim.or((has_path && seen.chat != Some(false)).then_some(true));
                entry.abilities = Abilities {
                    chat: either(entry.abilities.chat, seen.chat),
                    embed: either(entry.abilities.embed, seen.embed),
                    tools: either(entry.abilities.tools, seen.tools),
                    vision: either(entry.abilities.vision, seen.vision),
                    fim: either(entry.abilities.fim, fim),
                };
                entry.state = "loaded";
                entry.nodes.push(machine.id.to_string());
                entry.slots = entry.slots.saturating_add(replica.slots.unwrap_or(1));
                entry.context = [entry.context, replica.context].into_iter().flatten().min();
            }
            ReplicaState::Loading if entry.state == "unloaded" => entry.state = "loading",
            ReplicaState::Loading | ReplicaState::Available | ReplicaState::Failed(_) => {}
        }
    }
    entry
}

/// One machine that can is enough: requests go there.
fn either(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    match (one, other) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), _) | (_, Some(false)) => Some(false),
        (None, None) => None,
    }
}

/// `GET /v1/model/info` and `GET /model/info`, as LiteLLM tells it: Cline and Roo read limits from here.
#[must_use]
pub fn litellm(snapshot: &Snapshot) -> Reply {
    let data: Vec<Value> = entries(snapshot)
        .into_iter()
        .map(|entry| {
            json!({
                "model_name": entry.name,
                "litellm_params": { "model": entry.name },
                "model_info": {
                    "id": entry.name, "db_model": false, "mode": if entry.chats() { "chat" } else { "embedding" },
                    "max_tokens": entry.context, "max_input_tokens": entry.context,
                    "max_output_tokens": entry.context,
                    "input_cost_per_token": 0, "output_cost_per_token": 0,
                    "supports_function_calling": entry.calls_tools(), "supports_vision": entry.sees(),
                    "supports_prompt_caching": false, "litellm_provider": "modemesh",
                },
            })
        })
        .collect();
    json_reply(StatusCode::OK, &json!({ "data": data }))
}

/// `GET /props`, as far as it makes sense for a mesh: the context of the mode that llama.cpp's clients get.
///
/// # Errors
/// 404 for a model that is not there.
pub fn props(snapshot: &Snapshot, asked: Option<&str>) -> Result<Reply, ApiError> {
    let first = || entry(snapshot, "mesh/code").or_else(|| entries(snapshot).into_iter().next());
    let entry = match (asked, first) {
        (Some(name), _) => named(snapshot, name)?,
        (None, first) => match first() {
            Some(entry) => entry,
            None => named(snapshot, "mesh/code")?,
        },
    };
    Ok(json_reply(
        StatusCode::OK,
        &json!({
            "default_generation_settings": { "n_ctx": entry.context, "params": {} },
            "total_slots": entry.slots, "model_alias": entry.name, "model_path": entry.model,
            "modalities": { "vision": entry.sees(), "audio": false }, "chat_template": "",
            "chat_template_caps": { "supports_tools": entry.calls_tools(), "supports_tool_calls": entry.calls_tools() },
            "build_info": concat!("modemesh-", env!("CARGO_PKG_VERSION")), "is_sleeping": false,
        }),
    ))
}
