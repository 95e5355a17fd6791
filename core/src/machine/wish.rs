//! What a router may wish from one machine.

use super::store::Digest;
use crate::fit::Offload;
use crate::id::ModelId;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// How a model shall be loaded. What is `None` the machine decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadWish {
    /// Which.
    pub model: ModelId,
    /// Tokens one request may hold.
    pub context: Option<u32>,
    /// Requests at once.
    pub slots: Option<u32>,
    /// Type of the KV cache: `f16`, `q8_0`.
    pub cache_type: Option<String>,
    /// Which part of it lies on a graphics processor.
    pub offload: Option<Offload>,
}

impl From<ModelId> for LoadWish {
    fn from(model: ModelId) -> Self {
        Self { model, context: None, slots: None, cache_type: None, offload: None }
    }
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullSource {
    /// The engine fetches it by its own name (Ollama).
    Engine,
    /// A file on an HTTP(S) server.
    Url(String),
    /// Another machine of the mesh has a file with this digest.
    Mesh,
}

/// A model that shall be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullWish {
    /// Its name towards clients, from which its file's name is made.
    pub model: ModelId,
    /// Where from.
    pub source: PullSource,
    /// What it must be; a copy within the mesh needs it.
    pub digest: Option<Digest>,
    /// How long it is, where known beforehand.
    pub size: Option<Bytes>,
}

/// A wish of the router towards one machine. The agent may refuse; the next report tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Directive {
    /// Bring this model into memory.
    Load(LoadWish),
    /// Take this model out of memory.
    Unload(ModelId),
    /// Fetch this model onto the disk.
    Pull(PullWish),
    /// Stop fetching this model; what has come is deleted.
    CancelPull(ModelId),
    /// Delete this model from the disk; it is unloaded first.
    Delete(ModelId),
}
