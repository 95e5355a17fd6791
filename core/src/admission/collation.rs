//! Keeps two models of one on-demand engine from driving each other out of memory with every request: what was just
//! loaded stays for a while, and requests for the other one wait together until then.
//!
//! Nothing is held on suspicion. Only an engine that was seen to exchange one model for another lately is known not to
//! have room for both.

use crate::fleet::{FleetView, MachineView, ReplicaKey};
use crate::id::{MachineId, ModelId};
use crate::machine::{EngineState, ReplicaState};
use crate::routing::Load;
use crate::units::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// A model that was loaded stays for this long while it has requests. Loading 20 GB from a good disk takes near ten
/// seconds: at least as long as that should be spent on answers.
pub const RESIDENCE: Duration = Duration::from_secs(15);

/// No request waits longer than this for another model's residence: a little more, so that holds end by themselves.
pub const LONGEST_HOLD: Duration = Duration::from_secs(20);

/// A model that leaves within this time of another one's coming was driven out by it. Ollama unloads by itself only
/// after minutes without a request.
const SWAP_WINDOW: Duration = Duration::from_secs(30);

/// After an exchange an engine is believed to have too little room for this long: memory may be given back meanwhile.
const CONTESTED_FOR: Duration = Duration::from_secs(600);

type EngineKey = (MachineId, String);

#[derive(Debug, Clone, Default)]
struct Seen {
    /// Models in memory, and since when.
    loaded: BTreeMap<ModelId, Moment>,
    came: Option<Moment>,
    went: Option<Moment>,
    exchanged: Option<Moment>,
}

/// What was seen of on-demand engines. Bounded by the engines there are.
#[derive(Debug, Clone, Default)]
pub struct Collation {
    engines: BTreeMap<EngineKey, Seen>,
}

impl Collation {
    /// The fleet as it is at `now`.
    pub fn observe(&mut self, view: &FleetView, now: Moment) {
        let mut kept = BTreeMap::new();
        for machine in &view.machines {
            for engine in machine.engines.iter().filter(|engine| engine.kind.loads_on_demand()) {
                let key = (machine.id.clone(), engine.name.clone());
                let mut seen = self.engines.remove(&key).unwrap_or_default();
                // An engine that is restarted holds nothing: no exchange.
                if engine.state == EngineState::Up {
                    let loaded = engine.replicas.iter().filter(|r| r.state == ReplicaState::Loaded);
                    seen.take(loaded.map(|replica| &replica.model), now);
                }
                kept.insert(key, seen);
            }
        }
        self.engines = kept;
    }

    /// Whether a request that has waited for `waited` is to wait longer before it goes to `model` on `machine`, and
    /// until when at most.
    #[must_use]
    pub fn holds(
        &self,
        machine: &MachineView,
        model: &ModelId,
        load: &Load,
        waited: Duration,
        now: Moment,
    ) -> Option<Moment> {
        let (engine, replica) = machine.replica(model)?;
        if !engine.kind.loads_on_demand() || waited >= LONGEST_HOLD {
            return None;
        }
        let seen = self.engines.get(&(machine.id.clone(), engine.name.clone()))?;
        seen.exchanged.filter(|at| now.since(*at) < CONTESTED_FOR)?;
        let running = |other: &ModelId| load.in_flight(ReplicaKey::of(&machine.id, other)) > 0;
        let patience_ends = now.plus(LONGEST_HOLD.saturating_sub(waited));
        if replica.state == ReplicaState::Loaded {
            // Another one is on its way in: requests for this one would only bring it back at once.
            let coming = engine.replicas.iter().any(|other| {
                other.model != *model && other.state != ReplicaState::Loaded && running(&other.model)
            });
            return coming.then_some(patience_ends);
        }
        // Its load was asked for already: more of the same cost nothing.
        if running(model) {
            return None;
        }
        let stays_until = |(other, since): (&ModelId, &Moment)| {
            let until = since.plus(RESIDENCE);
            (other != model && running(other) && until > now).then_some(until)
        };
        seen.loaded.iter().filter_map(stays_until).max().map(|until| until.min(patience_ends))
    }
}

impl Seen {
    fn take<'a>(&mut self, loaded: impl Iterator<Item = &'a ModelId>, now: Moment) {
        let fresh: BTreeMap<ModelId, Moment> =
            loaded.map(|model| (model.clone(), self.loaded.get(model).copied().unwrap_or(now))).collect();
        if fresh.keys().any(|model| !self.loaded.contains_key(model)) {
            self.came = Some(now);
        }
        if self.loaded.keys().any(|model| !fresh.contains_key(model)) {
            self.went = Some(now);
        }
        if let (Some(came), Some(went)) = (self.came, self.went)
            && came.since(went).max(went.since(came)) < SWAP_WINDOW
        {
            self.exchanged = Some(came.max(went));
        }
        self.loaded = fresh;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::tests::{machine, machine_id, model_id, view_of};
    use crate::machine::EngineKind;
    use crate::routing::Candidate;

    fn at(seconds: u64) -> Moment {
        Moment(0).plus(Duration::from_secs(1_000 + seconds))
    }

    /// An Ollama that holds `loaded` of the models a and b.
    fn ollama(loaded: &[&str]) -> FleetView {
        let mut one = machine("box", &["a", "b"]);
        one.engines[0].kind = EngineKind::Ollama;
        for replica in &mut one.engines[0].replicas {
            let there = loaded.contains(&replica.model.as_str());
            replica.state = if there { ReplicaState::Loaded } else { ReplicaState::Available };
        }
        view_of(vec![one])
    }

    fn load(counts: &[(&str, u32)]) -> Load {
        let mut load = Load::default();
        for (model, count) in counts {
            let candidate = Candidate::new(machine_id("box"), model_id(model));
            for _ in 0..*count {
                load.claim(&candidate, Moment(0));
            }
        }
        load
    }

    fn hold(
        seen: &Collation,
        view: &FleetView,
        model: &str,
        counts: &[(&str, u32)],
        at_s: u64,
    ) -> Option<Moment> {
        let machine = view.machine(&machine_id("box")).expect("there");
        seen.holds(machine, &model_id(model), &load(counts), Duration::ZERO, at(at_s))
    }

    /// One that has just thrown out a for b.
    fn exchanged() -> Collation {
        let mut seen = Collation::default();
        seen.observe(&ollama(&["a"]), at(0));
        seen.observe(&ollama(&[]), at(60));
        seen.observe(&ollama(&["b"]), at(65));
        seen
    }

    #[test]
    fn an_engine_that_never_exchanged_models_holds_nothing_back() {
        let mut seen = Collation::default();
        seen.observe(&ollama(&["a"]), at(0));
        assert_eq!(hold(&seen, &ollama(&["a"]), "b", &[("a", 3)], 1), None);
        seen.observe(&ollama(&["a", "b"]), at(5));
        assert_eq!(hold(&seen, &ollama(&["a", "b"]), "b", &[("a", 3)], 6), None, "it has room for both");
    }

    #[test]
    fn what_was_just_loaded_stays_while_it_has_requests() {
        let (seen, view) = (exchanged(), ollama(&["b"]));
        assert_eq!(hold(&seen, &view, "a", &[("b", 1)], 70), Some(at(80)));
        assert_eq!(hold(&seen, &view, "a", &[], 70), None, "an idle model is no reason to wait");
        assert_eq!(hold(&seen, &view, "a", &[("b", 1)], 80), None, "its time is over");
        assert_eq!(hold(&seen, &view, "b", &[("b", 1)], 70), None);
    }

    #[test]
    fn requests_for_a_model_that_is_on_its_way_in_go_together_and_the_other_s_wait() {
        let (seen, view) = (exchanged(), ollama(&["b"]));
        let counts = [("a", 1), ("b", 2)];
        assert_eq!(hold(&seen, &view, "a", &counts, 90), None);
        assert_eq!(hold(&seen, &view, "b", &counts, 90), Some(at(110)));
    }

    #[test]
    fn nobody_is_held_longer_than_the_longest_hold_and_old_exchanges_are_forgotten() {
        let (seen, view) = (exchanged(), ollama(&["b"]));
        let machine = view.machine(&machine_id("box")).expect("there");
        let counts = load(&[("b", 1)]);
        let waited = |s| seen.holds(machine, &model_id("a"), &counts, Duration::from_secs(s), at(66));
        assert_eq!(waited(0), Some(at(80)));
        assert_eq!(waited(18), Some(at(68)));
        assert_eq!(waited(20), None);
        let mut later = exchanged();
        later.observe(&ollama(&[]), at(400));
        later.observe(&ollama(&["b"]), at(660));
        assert_eq!(hold(&later, &view, "a", &[("b", 1)], 664), Some(at(675)));
        assert_eq!(hold(&later, &view, "a", &[("b", 1)], 665), None, "ten minutes after the exchange");
    }

    #[test]
    fn an_engine_that_unloads_by_itself_after_minutes_has_exchanged_nothing() {
        let mut seen = Collation::default();
        seen.observe(&ollama(&["a"]), at(0));
        seen.observe(&ollama(&[]), at(300));
        seen.observe(&ollama(&["b"]), at(400));
        assert_eq!(hold(&seen, &ollama(&["b"]), "a", &[("b", 1)], 401), None);
    }
}
