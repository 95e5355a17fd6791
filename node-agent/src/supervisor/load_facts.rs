//! What is known of one load: told by the keeper that made it, asked by the truth checks.

use crate::reservation::Shrunk;
use mesh_core::machine::{EngineKind, Replica, ReplicaMemory};
use mesh_core::memory::Footprint;
use mesh_core::profile::LoadKey;
use std::sync::Arc;

/// What a keeper knows of a load that it made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LoadFacts {
    /// Which load it is, for the profile.
    pub(crate) key: LoadKey,
    /// What it was to take.
    pub(crate) predicted: Footprint,
    /// By how much free memory shrank.
    pub(crate) shrunk: Shrunk,
    /// What it holds, best figures.
    pub(crate) memory: ReplicaMemory,
    /// Layers on devices and layers in all, by the engine's own words.
    pub(crate) offloaded: Option<(u32, u32)>,
}

/// A loaded model as the truth checks see it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Subject {
    /// Its engine's name.
    pub(crate) engine: String,
    /// Its engine's kind.
    pub(crate) kind: EngineKind,
    /// The agent started its engine.
    pub(crate) supervised: bool,
    /// Its engine's version.
    pub(crate) version: Option<String>,
    /// Which load: another number is another load.
    pub(crate) load: u64,
    /// Nobody uses it now.
    pub(crate) idle: bool,
    /// What its keeper knows, where the agent loaded it.
    pub(crate) facts: Option<Arc<LoadFacts>>,
    /// The model, with its health so far.
    pub(crate) replica: Replica,
}
