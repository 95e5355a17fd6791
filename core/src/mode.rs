//! Modes: what a client asks for by the model name `mesh/code`, and which models answer it.

use crate::fleet::FleetView;
use crate::id::{ModeName, ModelId};
use crate::machine::ReplicaState;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What stands before a mode in a model name: `mesh/code`, or `mesh-code` for clients that split on `/`.
pub const PREFIX: &str = "mesh";

/// The modes of a mesh that nobody configured, with their other names.
pub const AUTOMATIC: [(&str, &[&str]); 7] = [
    ("ask", &[]),
    ("code", &["build"]),
    ("architect", &["plan"]),
    ("debug", &[]),
    ("autocomplete", &[]),
    ("small", &[]),
    ("embed", &[]),
];

/// What a mode's requests need of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Chats and completions.
    #[default]
    Chat,
    /// Embeddings.
    Embed,
}

/// One mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mode {
    /// Its name without the prefix.
    pub name: ModeName,
    /// Other names for it: `build` for `code`.
    pub aliases: Vec<ModeName>,
    /// Models that may answer, best first.
    pub models: Vec<ModelId>,
    /// Modes whose models may answer when none of its own can, in this order.
    pub fallback: Vec<ModeName>,
}

/// Why a set of modes makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModeProblem {
    /// Two modes, or a mode and an alias, share a name.
    #[error("the name `{name}` is given twice, to `{first}` and to `{second}`")]
    TwiceNamed {
        /// The shared name.
        name: ModeName,
        /// The mode that has it first.
        first: ModeName,
        /// The mode that has it again.
        second: ModeName,
    },
    /// A mode lists no model and no fallback.
    #[error("mode `{0}` has no model and no fallback")]
    Empty(ModeName),
    /// A mode falls back to itself.
    #[error("mode `{0}` falls back to itself")]
    OwnFallback(ModeName),
    /// A fallback names no mode.
    #[error("mode `{mode}` falls back to `{fallback}`, which is no mode")]
    UnknownFallback {
        /// The mode with the fallback.
        mode: ModeName,
        /// The name that is no mode.
        fallback: ModeName,
    },
}

/// All modes of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ModeTable {
    modes: Vec<Mode>,
    /// Other names of models.
    #[serde(skip)]
    aliases: Arc<ModelAliases>,
}

/// Names under which clients may ask for models besides the models' own, for editors that only know theirs.
pub type ModelAliases = BTreeMap<String, ModelId>;

/// What a client's model name turned out to mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked<'a> {
    /// A mode.
    Mode(&'a Mode),
    /// A model by its own name.
    Model(ModelId),
    /// Nothing: up to three names that look alike, and all there are.
    Unknown {
        /// The most similar names, best first.
        near: Vec<String>,
        /// Every name a client may use.
        all: Vec<String>,
    },
}

impl ModeTable {
    /// Checks and keeps `modes`.
    ///
    /// # Errors
    /// Every problem there is, not only the first.
    pub fn new(modes: Vec<Mode>) -> Result<Self, Vec<ModeProblem>> {
        let (mut problems, mut owners) = (Vec::new(), BTreeMap::new());
        for mode in &modes {
            for name in std::iter::once(&mode.name).chain(&mode.aliases) {
                if let Some(first) = owners.insert(name.clone(), mode.name.clone()) {
                    problems.push(ModeProblem::TwiceNamed {
                        name: name.clone(),
                        first,
                        second: mode.name.clone(),
                    });
                }
            }
        }
        for mode in &modes {
            if mode.models.is_empty() && mode.fallback.is_empty() {
                problems.push(ModeProblem::Empty(mode.name.clone()));
            }
            for fallback in &mode.fallback {
                if owners.get(fallback) == Some(&mode.name) {
                    problems.push(ModeProblem::OwnFallback(mode.name.clone()));
                }
                if !owners.contains_key(fallback) {
                    problems.push(ModeProblem::UnknownFallback {
                        mode: mode.name.clone(),
                        fallback: fallback.clone(),
                    });
                }
            }
        }
        if problems.is_empty() { Ok(Self { modes, aliases: Arc::default() }) } else { Err(problems) }
    }

    /// Modes for a mesh that nobody configured: every chat mode gets the best chat model found, `embed` the
    /// best embedding model. "Best" before anything is measured: loaded before not loaded, then the most
    /// parameters, then the name, so that the answer does not change from call to call.
    #[must_use]
    pub fn automatic(view: &FleetView) -> Self {
        let name = |text: &str| ModeName::new(text).expect("a constant that fits the grammar");
        let mode = |text: &str, aliases: &[&str], models: &[ModelId]| Mode {
            name: name(text),
            aliases: aliases.iter().map(|alias| name(alias)).collect(),
            models: models.to_vec(),
            fallback: Vec::new(),
        };
        let (chat, embed) = (best_models(view, Purpose::Chat), best_models(view, Purpose::Embed));
        let modes = AUTOMATIC
            .iter()
            .map(|(text, aliases)| mode(text, aliases, if *text == "embed" { &embed } else { &chat }))
            .filter(|mode| !mode.models.is_empty())
            .collect();
        Self { modes, aliases: Arc::default() }
    }

    /// The same modes, and other names of models. A mode or model that has such a name itself comes second.
    #[must_use]
    pub fn with_aliases(self, aliases: Arc<ModelAliases>) -> Self {
        Self { aliases, ..self }
    }

    /// Other names of models.
    #[must_use]
    pub fn aliases(&self) -> &ModelAliases {
        &self.aliases
    }

    /// All modes, in the order they were given.
    #[must_use]
    pub fn modes(&self) -> &[Mode] {
        &self.modes
    }

    /// The mode with this name or alias, without prefix.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Mode> {
        self.modes.iter().find(|mode| {
            mode.name.as_str() == name || mode.aliases.iter().any(|alias| alias.as_str() == name)
        })
    }

    /// What `asked` means: `mesh/code`, `mesh-code`, or the name or alias of a model that a machine of the mesh has.
    #[must_use]
    pub fn resolve(&self, asked: &str, view: &FleetView) -> Asked<'_> {
        // Ollama's clients add `:latest` to every name without a tag.
        let untagged = || asked.strip_suffix(":latest").and_then(|name| self.known(name, view));
        if let Some(known) = self.known(asked, view).or_else(untagged) {
            return known;
        }
        let served = |model: &ModelId| view.model(model.as_str()).is_some();
        let aliases = self.aliases.iter().filter(|(_, model)| served(model)).map(|(name, _)| name.clone());
        let all: Vec<String> = self
            .modes
            .iter()
            .map(|mode| format!("{PREFIX}/{}", mode.name))
            .chain(view.model_names().iter().map(ToString::to_string))
            .chain(aliases)
            .collect();
        // Compared without the prefix, or any two modes would look alike.
        let near = near_names(without_prefix(asked).unwrap_or(asked), all.iter().map(String::as_str));
        Asked::Unknown { near, all }
    }

    fn known(&self, asked: &str, view: &FleetView) -> Option<Asked<'_>> {
        let asked = self.aliases.get(asked).map_or(asked, ModelId::as_str);
        if let Some(mode) = without_prefix(asked).and_then(|name| self.find(name)) {
            return Some(Asked::Mode(mode));
        }
        let named = || self.modes.iter().flat_map(|mode| &mode.models).find(|model| model.as_str() == asked);
        view.model(asked).or_else(named).map(|model| Asked::Model(model.clone()))
    }

    /// The models that may answer `mode`, best first, with the mode each comes from: its own, then those of
    /// its fallbacks, and of their fallbacks; no model twice.
    #[must_use]
    pub fn chain<'a>(&'a self, mode: &'a Mode) -> Vec<(&'a ModelId, &'a ModeName)> {
        let (mut chain, mut seen_models, mut seen_modes) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut queue = std::collections::VecDeque::from([mode]);
        while let Some(next) = queue.pop_front() {
            if !seen_modes.insert(&next.name) {
                continue;
            }
            chain.extend(
                next.models.iter().filter(|model| seen_models.insert(*model)).map(|m| (m, &next.name)),
            );
            queue.extend(next.fallback.iter().filter_map(|name| self.find(name.as_str())));
        }
        chain
    }
}

/// The name of a mode in `mesh/NAME` or `mesh-NAME`.
#[must_use]
pub fn without_prefix(asked: &str) -> Option<&str> {
    asked.strip_prefix(PREFIX)?.strip_prefix(['/', '-'])
}

/// Up to three of `all` that look like what was typed, best first; modes are compared without their prefix.
#[must_use]
pub fn near_names<'a>(typed: &str, all: impl Iterator<Item = &'a str>) -> Vec<String> {
    let typed = plain(typed);
    let mut scored: Vec<(usize, &str)> = all
        .map(|name| (distance(&typed, &plain(name.strip_prefix("mesh/").unwrap_or(name))), name))
        .collect();
    scored.sort_unstable();
    scored.dedup();
    let bound = typed.chars().count().div_ceil(2).clamp(1, 5);
    scored.iter().filter(|(away, _)| *away <= bound).take(3).map(|(_, name)| (*name).to_owned()).collect()
}

/// The part of a name that people mistype.
fn plain(name: &str) -> String {
    name.to_lowercase().replace(['/', '_', ' ', ':'], "-")
}

/// Edit distance (Levenshtein) in characters; both sides are short names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn best_models(view: &FleetView, purpose: Purpose) -> Vec<ModelId> {
    let mut best: BTreeMap<&ModelId, (bool, bool, u64)> = BTreeMap::new();
    let engines = view.machines.iter().flat_map(|machine| &machine.engines);
    for (engine, replica) in engines.flat_map(|engine| engine.replicas.iter().map(move |one| (engine, one))) {
        let able = match purpose {
            Purpose::Chat => replica.abilities.chat != Some(false) && replica.abilities.embed != Some(true),
            Purpose::Embed => replica.abilities.embed == Some(true),
        };
        if !able {
            continue;
        }
        // What is down comes last and is not left out: a mode whose only engine is being started anew is unserved for a
        // moment, not unknown.
        let is_down = engine.is_down() || matches!(replica.state, ReplicaState::Failed(_));
        let rank = (!is_down, replica.state == ReplicaState::Loaded, replica.parameters.unwrap_or(0));
        let entry = best.entry(&replica.model).or_insert(rank);
        *entry = (*entry).max(rank);
    }
    let mut ordered: Vec<_> = best.into_iter().collect();
    ordered.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    ordered.into_iter().map(|(model, _)| model.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::tests::{machine, view_of};
    use crate::machine::EngineState;

    fn mode(name: &str, aliases: &[&str], models: &[&str], fallback: &[&str]) -> Mode {
        let names = |list: &[&str]| list.iter().map(|n| ModeName::new(*n).expect("valid")).collect();
        Mode {
            name: ModeName::new(name).expect("valid"),
            aliases: names(aliases),
            models: models.iter().map(|m| ModelId::new(*m).expect("valid")).collect(),
            fallback: names(fallback),
        }
    }

    fn table() -> ModeTable {
        ModeTable::new(vec![
            mode("ask", &[], &["gemma"], &["code"]),
            mode("code", &["build"], &["coder", "gemma"], &["ask"]),
        ])
        .expect("valid")
    }

    #[test]
    fn both_spellings_and_aliases_name_the_same_mode() {
        let (table, view) = (table(), view_of(vec![]));
        for asked in ["mesh/code", "mesh-code", "mesh/build", "mesh-build"] {
            assert!(
                matches!(table.resolve(asked, &view), Asked::Mode(m) if m.name.as_str() == "code"),
                "{asked}"
            );
        }
    }

    #[test]
    fn another_name_of_a_model_means_that_model_wherever_it_is() {
        let alias = |model: &str| ("gpt-4o-mini".to_owned(), ModelId::new(model).expect("valid"));
        // The second is a mode's, so its name is right wherever it is.
        for model in ["qwen3-coder:30b", "gemma"] {
            let table = table().with_aliases(Arc::new(BTreeMap::from([alias(model)])));
            let view = view_of(vec![machine("a", &["qwen3-coder:30b"])]);
            for asked in ["gpt-4o-mini", "gpt-4o-mini:latest"] {
                let Asked::Model(meant) = table.resolve(asked, &view) else { panic!("{model}") };
                assert_eq!(meant.as_str(), model);
            }
            let Asked::Unknown { near, all } = table.resolve("gpt-4o-min", &view) else { panic!("{model}") };
            let served = model != "gemma";
            let listed = all.iter().any(|name| name == "gpt-4o-mini");
            assert_eq!((near == ["gpt-4o-mini"], listed), (served, served), "{near:?} of {all:?}");
        }
        // An operator's word stands above a machine's.
        let table = table().with_aliases(Arc::new(BTreeMap::from([alias("qwen3-coder:30b")])));
        let view = view_of(vec![machine("a", &["qwen3-coder:30b", "gpt-4o-mini"])]);
        let Asked::Model(meant) = table.resolve("gpt-4o-mini", &view) else { panic!("a name") };
        assert_eq!(meant.as_str(), "qwen3-coder:30b");
    }

    #[test]
    fn an_unknown_name_gets_near_names_and_the_list() {
        let (table, view) = (table(), view_of(vec![machine("a", &["qwen3-coder:30b"])]));
        let Asked::Unknown { near, all } = table.resolve("mesh/coed", &view) else { panic!("no such mode") };
        assert_eq!(near.first().map(String::as_str), Some("mesh/code"));
        assert_eq!(all, ["mesh/ask", "mesh/code", "qwen3-coder:30b"]);
        let Asked::Unknown { near, .. } = table.resolve("gpt-4o-mini-2024-07-18", &view) else { panic!() };
        assert!(near.is_empty(), "{near:?}");
        let Asked::Unknown { near, .. } = table.resolve("mesh/embed", &view) else { panic!() };
        assert!(near.is_empty(), "{near:?}");
    }

    #[test]
    fn a_model_is_known_by_its_own_name() {
        let (table, view) = (table(), view_of(vec![machine("a", &["tiny"])]));
        assert!(matches!(table.resolve("tiny", &view), Asked::Model(m) if m.as_str() == "tiny"));
    }

    #[test]
    fn a_fallback_circle_ends_and_lists_no_model_twice() {
        let table = table();
        let ask = table.find("ask").expect("there");
        let chain: Vec<String> = table.chain(ask).iter().map(|(m, from)| format!("{m} by {from}")).collect();
        assert_eq!(chain, ["gemma by ask", "coder by code"]);
    }

    #[test]
    fn every_problem_of_a_table_is_reported() {
        let problems =
            ModeTable::new(vec![mode("ask", &["code"], &["m"], &["nope"]), mode("code", &[], &[], &[])])
                .expect_err("three problems");
        assert_eq!(
            problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "the name `code` is given twice, to `ask` and to `code`",
                "mode `ask` falls back to `nope`, which is no mode",
                "mode `code` has no model and no fallback",
            ]
        );
    }

    #[test]
    fn without_a_configuration_the_biggest_loaded_chat_model_leads_every_chat_mode() {
        let mut small = machine("a", &["small", "big", "vectors"]);
        for replica in &mut small.engines[0].replicas {
            replica.parameters = Some(if replica.model.as_str() == "big" { 30 } else { 1 });
            replica.abilities.embed = Some(replica.model.as_str() == "vectors");
        }
        let table = ModeTable::automatic(&view_of(vec![small]));
        let models = |name: &str| {
            table.find(name).map(|m| m.models.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(models("code"), Some(vec!["big".into(), "small".into()]));
        assert_eq!(models("embed"), Some(vec!["vectors".into()]));
        assert!(ModeTable::automatic(&view_of(vec![])).modes().is_empty());
    }

    #[test]
    fn a_mode_whose_engine_is_down_is_still_known_and_another_machine_leads_it() {
        let mut one = machine("a", &["big"]);
        one.engines[0].replicas[0].parameters = Some(30);
        one.engines[0].state = EngineState::Down("was killed by SIGKILL".into());
        let models = |machines: Vec<_>| {
            let table = ModeTable::automatic(&view_of(machines));
            table.find("code").map(|mode| mode.models.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(models(vec![one.clone()]), Some(vec!["big".into()]));
        let small = machine("b", &["small"]);
        assert_eq!(models(vec![one.clone(), small.clone()]), Some(vec!["small".into(), "big".into()]));
        one.engines[0].state = EngineState::Up;
        assert_eq!(models(vec![one, small]), Some(vec!["big".into(), "small".into()]));
    }
}
