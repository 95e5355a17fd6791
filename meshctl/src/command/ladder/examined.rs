//! What evaluations that were kept say of the models that are climbed: with them the best model is the one that did best, not
//! the largest.

use super::candidates::Candidate;
use crate::command::keep::Keep;
use crate::exit::Failure;
use mesh_core::exam;
use mesh_core::id::ModelId;
use mesh_core::ladder::Evaluation;
use std::collections::BTreeMap;

/// Evaluations that are read, the newest: those of a whole climb, several times.
const READ: usize = 200;
/// Results of one model.
const FEW: usize = 32;

/// Results by model.
#[derive(Debug, Default)]
pub(super) struct Examined {
    by_model: BTreeMap<ModelId, Vec<(Option<String>, Evaluation)>>,
}

impl Examined {
    /// Reads what was kept, whichever machine it was asked on. What cannot be read tells nothing.
    ///
    /// # Errors
    /// `Failed` when the folder cannot be read.
    pub(super) fn read(keep: &Keep<exam::Record>) -> Result<Self, Failure> {
        let mut examined = Self::default();
        for id in keep.ids()?.iter().take(READ) {
            if let Ok(record) = keep.read(id) {
                examined.take(&record);
            }
        }
        Ok(examined)
    }

    /// Adds a record that is older than those before it.
    fn take(&mut self, record: &exam::Record) {
        let of_model = self.by_model.entry(record.model.clone()).or_default();
        let digest = record.digest.as_ref().map(ToString::to_string);
        for found in record.findings() {
            let is_known = of_model.iter().any(|(of, known)| *of == digest && known.suite == found.suite);
            if !is_known {
                let exam::Finding { suite, passed, tried } = found;
                of_model.push((digest.clone(), Evaluation { suite, mode: None, passed, tried }));
            }
        }
    }

    /// Those of this model's file; of another file of the same name nothing is said.
    pub(super) fn of(&self, candidate: &Candidate) -> Vec<Evaluation> {
        let is_it = |digest: &Option<String>| {
            digest.as_ref().zip(candidate.digest.as_ref()).is_none_or(|(one, other)| one == other)
        };
        let all = self.by_model.get(&candidate.model).into_iter().flatten();
        all.filter(|(digest, _)| is_it(digest)).map(|(_, found)| found.clone()).take(FEW).collect()
    }
}
