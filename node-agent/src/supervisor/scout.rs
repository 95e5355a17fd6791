//! Looks for engines at known places of this machine, again and again, and lets go of those that went away.

use super::House;
use crate::engine::discover::{Finding, identify, local_place};
use futures_util::future::join_all;
use mesh_core::machine::{EngineKind, EngineState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The most places looked at: each may cost two seconds of patience.
const PLACE_LIMIT: usize = 32;

pub(super) struct Scout {
    house: House,
    places: BTreeSet<String>,
    rescan: Duration,
    stop: CancellationToken,
    found: BTreeMap<String, Found>,
    /// Engines that cannot be used, said once.
    told: BTreeMap<String, EngineKind>,
}

/// An engine that this scout found.
struct Found {
    name: String,
    kind: EngineKind,
    stop: CancellationToken,
}

impl Scout {
    pub(super) fn new(house: House, places: &[String], rescan: Duration, stop: CancellationToken) -> Self {
        let mut local = BTreeSet::new();
        for text in places {
            match local_place(text) {
                Some(place) if local.len() < PLACE_LIMIT => {
                    local.insert(place);
                }
                Some(_) => {
                    tracing::warn!(place = text, "more than {PLACE_LIMIT} places to look at; this one is not")
                }
                None => tracing::warn!(
                    place = text,
                    "not a place of this machine, so no engine is looked for there"
                ),
            }
        }
        Self {
            house,
            places: local,
            // A rescan of zero would be a storm.
            rescan: rescan.max(Duration::from_millis(100)),
            stop,
            found: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        while !self.places.is_empty() {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.look_around() => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.rescan) => {}
            }
        }
    }

    /// One round: looks at every place that no healthy engine of ours occupies.
    async fn look_around(&mut self) {
        let known: BTreeSet<String> =
            self.house.roster.addresses().iter().filter_map(|address| local_place(address)).collect();
        let doubtful = |place: &String| match self.found.get(place) {
            Some(found) => !matches!(
                self.house.roster.state_of(&found.name),
                Some(EngineState::Up | EngineState::Starting)
            ),
            // Configured engines and our own children are no discoveries.
            None => !known.contains(place),
        };
        let places: Vec<String> = self.places.iter().filter(|p| doubtful(p)).cloned().collect();
        let findings = join_all(places.iter().map(|place| identify(place))).await;
        for (place, finding) in places.into_iter().zip(findings) {
            self.settle(place, finding);
        }
    }

    fn settle(&mut self, place: String, finding: Finding) {
        let kind = match finding {
            Finding::Engine(kind) => Some(kind),
            Finding::Unusable(kind, why) => {
                if self.told.insert(place.clone(), kind) != Some(kind) {
                    tracing::warn!(place, engine = kind.word(), "found an engine that is not used: {why}");
                }
                None
            }
            Finding::Nobody | Finding::Stranger => {
                self.told.remove(&place);
                None
            }
        };
        if let Some(found) = self.found.get(&place) {
            if Some(found.kind) == kind {
                // It is back, or was only slow: its keeper sees that by itself.
                return;
            }
            tracing::info!(engine = found.name, place, "engine is gone");
            found.stop.cancel();
            self.found.remove(&place);
        }
        if let Some(kind) = kind {
            self.welcome(place, kind);
        }
    }

    fn welcome(&mut self, place: String, kind: EngineKind) {
        // Lemonade listens at its own port and at Ollama's: one engine, one row.
        if kind == EngineKind::Lemonade && self.found.values().any(|found| found.kind == kind) {
            return;
        }
        let port = place.rsplit(':').next().unwrap_or_default();
        let name = format!("{}-{port}", kind.word());
        let stop = self.stop.child_token();
        tracing::info!(engine = name, place, "found an engine");
        if self.house.keep_endpoint(name.clone(), kind, &place, None, stop.clone()) {
            self.found.insert(place, Found { name, kind, stop });
        }
    }
}
