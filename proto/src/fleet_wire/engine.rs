//! Engines and the models they hold.

use super::store::{digest_from_wire, digest_to_wire};
use super::{WireError, bounded, model, shorten, text, unknown_word};
use crate::v1;
use mesh_core::fit::Offload;
use mesh_core::machine::{
    Abilities, Capabilities, Engine, EngineKind, EngineState, Replica, ReplicaHealth, ReplicaMemory,
    ReplicaState,
};
use mesh_core::memory::CacheType;
use mesh_core::units::Bytes;

pub(super) fn engine_to_wire(engine: &Engine) -> v1::Engine {
    let (state, down_reason) = match &engine.state {
        EngineState::Up => ("up", String::new()),
        EngineState::Starting => ("starting", String::new()),
        EngineState::Down(reason) => ("down", shorten(reason.clone())),
    };
    v1::Engine {
        name: engine.name.clone(),
        kind: engine.kind.word().into(),
        version: engine.version.clone().map(shorten),
        state: state.into(),
        down_reason,
        supervised: engine.supervised,
        capabilities: Some(capabilities_to_wire(engine.capabilities)),
        queued: engine.queued,
        replicas: engine.replicas.iter().map(replica_to_wire).collect(),
    }
}

pub(super) fn engine_from_wire(engine: v1::Engine) -> Result<Engine, WireError> {
    let state = match engine.state.as_str() {
        "up" => EngineState::Up,
        "starting" => EngineState::Starting,
        "down" => EngineState::Down(text("engine.down_reason", engine.down_reason)?),
        other => return Err(unknown_word("engine.state", other)),
    };
    Ok(Engine {
        name: text("engine.name", engine.name)?,
        kind: EngineKind::from_word(&engine.kind).ok_or_else(|| unknown_word("engine.kind", &engine.kind))?,
        version: engine.version.map(|version| text("engine.version", version)).transpose()?,
        state,
        supervised: engine.supervised,
        capabilities: capabilities_from_wire(engine.capabilities.unwrap_or_default()),
        queued: engine.queued,
        replicas: bounded("engine.replicas", engine.replicas)?
            .into_iter()
            .map(replica_from_wire)
            .collect::<Result<_, _>>()?,
    })
}

fn replica_to_wire(replica: &Replica) -> v1::Replica {
    let failure =
        if let ReplicaState::Failed(why) = &replica.state { shorten(why.clone()) } else { String::new() };
    v1::Replica {
        model: replica.model.to_string(),
        state: replica.state.word().into(),
        failure,
        slots: replica.slots,
        busy: replica.busy,
        context: replica.context,
        trained_context: replica.trained_context,
        parameters: replica.parameters,
        size: replica.size.map(|size| size.0),
        chat: replica.abilities.chat,
        embed: replica.abilities.embed,
        tools: replica.abilities.tools,
        vision: replica.abilities.vision,
        fim: replica.abilities.fim,
        digest: digest_to_wire(replica.digest.as_ref()),
        memory: replica.memory.map(|memory| v1::ReplicaMemory {
            device: memory.device.0,
            host: memory.host.0,
            measured: memory.measured,
        }),
        health: replica.health.word().into(),
        health_why: shorten(replica.health.why().unwrap_or_default().to_owned()),
        kv_used_percent: replica.kv_used.map(|used| (used * 100.0).round() as u32),
        cache_type: replica.cache_type.map(|kind| kind.word().to_owned()).unwrap_or_default(),
        offload: replica.offload.map(Offload::words).unwrap_or_default(),
    }
}

fn replica_from_wire(replica: v1::Replica) -> Result<Replica, WireError> {
    let state = match replica.state.as_str() {
        "available" => ReplicaState::Available,
        "loading" => ReplicaState::Loading,
        "loaded" => ReplicaState::Loaded,
        "failed" => ReplicaState::Failed(text("replica.failure", replica.failure)?),
        other => {
            return Err(unknown_word("replica.state", other));
        }
    };
    let why = text("replica.health_why", replica.health_why)?;
    let health = match replica.health.as_str() {
        "unchecked" => ReplicaHealth::Unchecked,
        "good" => ReplicaHealth::Good,
        "degraded" => ReplicaHealth::Degraded(why),
        "quarantined" => ReplicaHealth::Quarantined(why),
        other => return Err(unknown_word("replica.health", other)),
    };
    // A word of a newer agent is one that is not known here.
    let (cache_type, offload) =
        (CacheType::from_word(&replica.cache_type), Offload::from_words(&replica.offload));
    Ok(Replica {
        model: model("replica.model", replica.model)?,
        state,
        slots: replica.slots,
        busy: replica.busy,
        context: replica.context,
        trained_context: replica.trained_context,
        parameters: replica.parameters,
        size: replica.size.map(Bytes),
        abilities: Abilities {
            chat: replica.chat,
            embed: replica.embed,
            tools: replica.tools,
            vision: replica.vision,
            fim: replica.fim,
        },
        digest: digest_from_wire("replica.digest", &replica.digest)?,
        memory: replica.memory.map(|memory| ReplicaMemory {
            device: Bytes(memory.device),
            host: Bytes(memory.host),
            measured: memory.measured,
        }),
        // What is no part of one is no reading.
        kv_used: replica
            .kv_used_percent
            .filter(|percent| *percent <= 100)
            .map(|percent| percent as f32 / 100.0),
        health,
        cache_type,
        offload,
    })
}

/// Both sides have the same flags in the same order.
macro_rules! capabilities {
    ($($flag:ident),*) => {
        fn capabilities_to_wire(capabilities: Capabilities) -> v1::Capabilities {
            v1::Capabilities { $($flag: capabilities.$flag),* }
        }

        fn capabilities_from_wire(capabilities: v1::Capabilities) -> Capabilities {
            Capabilities { $($flag: capabilities.$flag),* }
        }
    };
}

capabilities!(
    can_load,
    can_unload,
    can_pull,
    can_delete,
    has_slots,
    has_queue,
    has_context,
    has_kv_usage,
    has_timings,
    abort_safe,
    can_size
);
