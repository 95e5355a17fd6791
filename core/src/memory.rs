//! Placeholder until branch `memory` is merged: the words of its contract that the profile keeps.
#![allow(missing_docs)]

use crate::units::Bytes;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parts {
    pub weights: Bytes,
    pub kv: Bytes,
    pub recurrent: Bytes,
    pub compute: Bytes,
    pub overhead: Bytes,
}

impl Parts {
    #[must_use]
    pub fn total(&self) -> Bytes {
        Bytes(self.weights.0 + self.kv.0 + self.recurrent.0 + self.compute.0 + self.overhead.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    Measured,
    Oracle,
    Exact,
    Estimated,
    Guessed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    pub device: Parts,
    pub host: Parts,
    pub confidence: Confidence,
    pub notes: Vec<String>,
}
