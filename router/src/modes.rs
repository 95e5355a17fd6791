//! A set of modes as a person wrote it, in the configuration or in a strategy: what requests for them mean, and what
//! they want in memory. The fleet's keeper makes the table that requests are routed by; the steward makes plans.

use crate::config::ModeConfig;
use mesh_core::admission::Priority;
use mesh_core::fleet::FleetView;
use mesh_core::id::ModeName;
use mesh_core::mode::{self, Mode, ModeTable};
use mesh_core::routing::Slo;
use mesh_core::strategy::Wish;
use std::collections::{BTreeMap, BTreeSet};

/// What modes ask of each request beside the model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModeRules {
    /// Times that modes ask for.
    pub targets: BTreeMap<ModeName, Slo>,
    /// How urgent modes are, for those that say so.
    pub priorities: BTreeMap<ModeName, Priority>,
    /// The most tokens of an answer, for modes that have such a limit.
    pub max_tokens: BTreeMap<ModeName, u32>,
}

/// Modes as they were written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Written {
    /// By name.
    pub modes: BTreeMap<String, ModeConfig>,
    /// Whether a mode may leave its models to the mesh.
    pub open: bool,
}

impl Written {
    /// Those of a mesh that nobody configured.
    #[must_use]
    pub fn automatic() -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mode = |(name, aliases): (&str, &[&str])| {
            (name.to_owned(), ModeConfig { aliases: names(aliases), ..ModeConfig::default() })
        };
        Self { modes: mode::AUTOMATIC.into_iter().map(mode).collect(), open: true }
    }
}

/// Modes that were checked together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModeSet {
    modes: Vec<Mode>,
    /// What they were made of.
    pub written: Written,
    /// What they ask of each request.
    pub rules: ModeRules,
    /// What they want in memory, in the same order.
    pub wishes: Vec<Wish>,
}

impl ModeSet {
    /// Modes whose names and fallbacks [`ModeTable::new`] has found to fit together.
    #[must_use]
    pub fn new(modes: Vec<Mode>, rules: ModeRules, wishes: Vec<Wish>) -> Self {
        Self { modes, written: Written::default(), rules, wishes }
    }

    /// The same modes, made of `written`.
    #[must_use]
    pub fn made_of(self, written: Written) -> Self {
        Self { written, ..self }
    }

    /// All modes, as they hold.
    #[must_use]
    pub fn modes(&self) -> &[Mode] {
        &self.modes
    }

    /// What requests are routed by. A mode that leaves its models to the mesh gets those that the machines have, as the
    /// automatic modes do; one that nothing can serve yet is left out, as they are.
    #[must_use]
    pub fn table(&self, view: &FleetView) -> ModeTable {
        let is_open = |mode: &Mode| mode.models.is_empty() && mode.fallback.is_empty();
        let mut modes = self.modes.clone();
        if modes.iter().any(is_open) {
            let automatic = ModeTable::automatic(view);
            for (mode, wish) in modes.iter_mut().zip(&self.wishes).filter(|(mode, _)| is_open(mode)) {
                let like = automatic.find(if wish.embeds { "embed" } else { "ask" });
                mode.models = like.map(|mode| mode.models.clone()).unwrap_or_default();
            }
        }
        loop {
            let before = modes.len();
            modes.retain(|mode| !is_open(mode));
            let names: BTreeSet<ModeName> = modes
                .iter()
                .flat_map(|mode| std::iter::once(&mode.name).chain(&mode.aliases))
                .cloned()
                .collect();
            for mode in &mut modes {
                mode.fallback.retain(|name| names.contains(name));
            }
            if modes.len() == before && !modes.iter().any(is_open) {
                break;
            }
        }
        ModeTable::new(modes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::fleet::Fleet;
    use mesh_core::id::{MachineId, ModelId};
    use mesh_core::machine::{Engine, EngineKind, EngineState, Replica, ReplicaState, Report};
    use mesh_core::units::Moment;

    fn mode(name: &str, models: &[&str], fallback: &[&str]) -> Mode {
        let name_of = |text: &str| ModeName::new(text).expect("valid");
        Mode {
            name: name_of(name),
            aliases: Vec::new(),
            models: models.iter().map(|model| ModelId::new(*model).expect("valid")).collect(),
            fallback: fallback.iter().map(|name| name_of(name)).collect(),
        }
    }

    fn set(modes: Vec<Mode>) -> ModeSet {
        let wishes = modes.iter().map(|mode| Wish::new(mode.name.clone(), mode.models.clone())).collect();
        ModeSet::new(modes, ModeRules::default(), wishes)
    }

    fn names(table: &ModeTable) -> Vec<&str> {
        table.modes().iter().map(|mode| mode.name.as_str()).collect()
    }

    #[test]
    fn a_mode_without_models_has_those_that_the_machines_have() {
        let set =
            set(vec![mode("ask", &[], &[]), mode("code", &["big"], &["ask"]), mode("debug", &[], &["ask"])]);
        let mut fleet = Fleet::default();
        assert_eq!(names(&set.table(&fleet.view(Moment(0)))), ["code"], "nobody can serve the others yet");
        let machine = MachineId::new("a").expect("valid");
        let model = ModelId::new("small").expect("valid");
        let engine = Engine {
            state: EngineState::Up,
            replicas: vec![Replica::new(model.clone(), ReplicaState::Loaded)],
            ..Engine::new("e", EngineKind::LlamaServer, true)
        };
        fleet.attached(&machine, Moment(0));
        fleet.apply(&machine, Report { engines: Some(vec![engine]), ..Report::default() }, Moment(0));
        let table = set.table(&fleet.view(Moment(0)));
        assert_eq!(names(&table), ["ask", "code", "debug"]);
        assert_eq!(table.find("ask").map(|ask| ask.models.clone()), Some(vec![model]));
        assert_eq!(table.find("code").map(|code| code.fallback.len()), Some(1));
    }
}
