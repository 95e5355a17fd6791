//! Which models work together, and how they come into memory.

use super::{SHAPE, Stress};
use crate::command::hands::{Size, loaded};
use crate::command::in_words;
use crate::command::ladder::candidates::{Candidate, known, one};
use crate::command::ladder::ends_all;
use crate::command::ladder::rung::{begun, contexts};
use crate::command::tried::reason;
use crate::exit::{Failure, Kind};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::ladder::Outcome;
use mesh_core::machine::Report;
use mesh_core::stress::{LeftOut, MODELS};
use std::time::Duration;

/// Models that are taken where none are named, and too few are loaded.
const USUAL: usize = 3;

/// The models that were named, each once; else what is loaded, and where that is fewer than two, the smallest ones.
///
/// # Errors
/// `NotFound` for one that is not there, or where there is none; `Usage` for one that answers nothing, and for too many.
pub(super) fn chosen(
    report: &Report,
    node: &MachineId,
    named: &[ModelId],
) -> Result<Vec<Candidate>, Failure> {
    if named.len() > MODELS {
        let what = format!("{} models are more than the {MODELS} of one record", named.len());
        return Err(Failure::new(Kind::Usage, what));
    }
    let mut chosen: Vec<Candidate> = Vec::new();
    for model in named {
        if chosen.iter().all(|known| known.model != *model) {
            chosen.push(one(report, node, model)?);
        }
    }
    if !named.is_empty() {
        return Ok(chosen);
    }
    let there = loaded(report);
    let is_loaded = |one: &Candidate| there.iter().any(|loaded| loaded.model == one.model);
    let mut answering: Vec<Candidate> =
        known(report).into_values().filter(|one| one.unfit().is_none()).collect();
    answering.sort_by_key(|one| (!is_loaded(one), one.size.map_or(u64::MAX, |size| size.0)));
    let count = answering.iter().filter(|one| is_loaded(one)).count();
    answering.truncate(if count < 2 { USUAL } else { count.min(MODELS) });
    if answering.is_empty() {
        return Err(Failure::new(Kind::NotFound, format!("{node} has no model that answers"))
            .hint(format!("fetch one: meshctl model pull MODEL --node {node}")));
    }
    Ok(answering)
}

impl Stress<'_> {
    /// Loads all that fit, one beside the other; what does not is left out, and told.
    ///
    /// # Errors
    /// `DoesNotFit` where nothing could be loaded.
    pub(super) async fn load(&mut self) -> Result<(), Failure> {
        self.screen.doing("the memory is cleared");
        self.hands.clear().await?;
        let mut before = self.hands.sample_anew().await?;
        for candidate in self.candidates.clone() {
            let model = &candidate.model;
            self.screen.doing(&format!("{model}: loading"));
            match self.brought(&candidate).await {
                Ok(took) => {
                    let after = self.hands.sample_anew().await?;
                    let load_s = took.map(|took| took.as_secs_f64());
                    let mut rung = begun(&candidate);
                    (rung.before, rung.after, rung.load_s, rung.outcome) =
                        (before, after, load_s, Outcome::Done);
                    self.record.models.push(rung);
                    before = after;
                }
                Err(failure) if ends_all(&failure) => return Err(failure),
                Err(failure) => {
                    self.left_out(model.clone(), failure.cause.clone().unwrap_or_else(|| in_words(&failure)))
                }
            }
        }
        // An engine may have let one go to take another in.
        let there = self.hands.report().await.map(|report| loaded(&report))?;
        let models = std::mem::take(&mut self.record.models);
        for rung in models {
            if there.iter().any(|one| one.model == rung.model) {
                self.record.models.push(rung);
            } else {
                self.left_out(rung.model, "it left the memory when others came".into());
            }
        }
        self.save()?;
        if self.record.models.is_empty() {
            let why = self.record.left_out.first().map(|left| left.why.clone()).unwrap_or_default();
            return Err(Failure::new(Kind::DoesNotFit, "no model could be loaded").cause(why));
        }
        Ok(())
    }

    fn left_out(&mut self, model: ModelId, why: String) {
        self.screen.done_doing();
        self.screen.note(&self.screen.look.text(&format!("{model} is left out: {why}")));
        self.screen.note("\n");
        self.record.left_out.push(LeftOut { model, why: reason(why) });
    }

    /// With the context that the work needs, for one request at a time.
    async fn brought(&mut self, candidate: &Candidate) -> Result<Option<Duration>, Failure> {
        let context = contexts(&[SHAPE], &SHAPE, candidate.trained_context).first().copied().flatten();
        let size = Size { context, slots: Some(1), cache: None };
        let size = if candidate.can_size { size } else { Size::default() };
        self.hands.load(&candidate.model, size).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::machine::{Engine, EngineKind, Replica, ReplicaState, Store, StoredModel};
    use mesh_core::units::Bytes;

    fn id(name: &str) -> ModelId {
        ModelId::new(name).expect("a good name")
    }

    /// Four models, the first so many of them loaded.
    fn report(in_memory: usize) -> Report {
        let sizes = [("large", 40), ("middle", 20), ("small", 2), ("tiny", 1)];
        let models = sizes.map(|(name, size)| StoredModel::new(id(name), Bytes(size))).to_vec();
        let mut engine = Engine::new("llama-server", EngineKind::LlamaServer, true);
        let state = |at| if at < in_memory { ReplicaState::Loaded } else { ReplicaState::Available };
        engine.replicas =
            sizes.iter().enumerate().map(|(at, (name, _))| Replica::new(id(name), state(at))).collect();
        let store = Store { models, ..Store::default() };
        Report { engines: Some(vec![engine]), store: Some(store), ..Report::default() }
    }

    fn names(in_memory: usize, named: &[&str]) -> Vec<String> {
        let named: Vec<ModelId> = named.iter().map(|name| id(name)).collect();
        let node = MachineId::new("msi").expect("a name");
        let chosen = chosen(&report(in_memory), &node, &named).expect("some");
        chosen.iter().map(|one| one.model.to_string()).collect()
    }

    #[test]
    fn what_is_loaded_works_and_else_the_smallest() {
        assert_eq!(names(2, &[]), ["middle", "large"]);
        assert_eq!(names(1, &[]), ["large", "tiny", "small"]);
        assert_eq!(names(0, &[]), ["tiny", "small", "middle"]);
    }

    #[test]
    fn named_models_come_in_their_order_and_once() {
        assert_eq!(names(2, &["small", "large", "small"]), ["small", "large"]);
        let node = MachineId::new("msi").expect("a name");
        let failure = chosen(&report(0), &node, &[id("smal")]).expect_err("not there");
        assert_eq!((failure.kind, failure.hints[0].as_str()), (Kind::NotFound, "did you mean small?"));
        let none = chosen(&Report::default(), &node, &[]).expect_err("nothing there");
        assert_eq!(none.kind, Kind::NotFound);
    }
}
