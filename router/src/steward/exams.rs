//! What examinations found of models, read from the machines' profiles.

use mesh_core::fleet::FleetView;
use mesh_core::id::MachineId;
use mesh_core::placement::{Catalogue, grade};
use mesh_core::profile::{Profile, TrialRecord};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Each machine's profile and its results: read again only when it is another document.
#[derive(Default)]
pub(super) struct Exams {
    read: BTreeMap<MachineId, (Arc<str>, Vec<TrialRecord>)>,
}

impl Exams {
    /// Reads the profiles that are new. A profile that is none is its agent's matter, and tells nothing.
    pub(super) fn look(&mut self, view: &FleetView) {
        for machine in &view.machines {
            let Some(profile) = &machine.profile else { continue };
            if self.read.get(&machine.id).is_some_and(|(known, _)| Arc::ptr_eq(known, profile)) {
                continue;
            }
            let trials = serde_json::from_str::<Profile>(profile).map(|profile| profile.trials);
            self.read.insert(machine.id.clone(), (profile.clone(), trials.unwrap_or_default()));
        }
        self.read.retain(|known, _| view.machine(known).is_some());
    }

    /// Writes the grades into a catalogue.
    pub(super) fn grade(&self, catalogue: &mut Catalogue) {
        grade(catalogue, self.read.values().flat_map(|(_, trials)| trials));
    }
}
