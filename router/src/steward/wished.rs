//! What is wished now: the configuration, or the strategy that takes its modes' place, and what operators said since.

use crate::config::Placement;
use crate::config::changes::{Changes, shown};
use crate::ledger::{NodeWish, OperatorWishes};
use crate::modes::{ModeSet, Written};
use crate::strategies::{NONE, Strategies, Strategy};
use mesh_core::id::ModeName;
use mesh_core::placement::Catalogue;
use mesh_core::strategy::{Residency, Wishes};
use mesh_daemon::complaint::Complaint;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The strategy that holds, and what follows from it.
#[derive(Debug, Clone, Default)]
pub struct Wished {
    /// `None` = the configuration's own modes.
    pub strategy: Option<Arc<Strategy>>,
    /// The modes that requests are routed by; `None` = automatic.
    pub modes: Option<Arc<ModeSet>>,
    /// Why the strategy that an operator applied, or what one changed of its modes, does not hold: nothing is moved then.
    pub broken: Option<String>,
}

/// What an operator asks of one mode: words for settings, `None` = as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The mode, by any of its names.
    pub mode: ModeName,
    /// It may be one that nobody has.
    pub new_mode: bool,
    /// By setting.
    pub settings: BTreeMap<String, Option<String>>,
}

/// Why a mode is not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotChanged {
    /// The router stops.
    #[error("the router is stopping")]
    Stopping,
    /// There is no such mode, and which there are.
    #[error("{0}")]
    Unknown(String),
    /// All that contradicts itself.
    #[error("{0}")]
    Contradiction(String),
}

/// What a change comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Whose modes are changed: a strategy's, or [`NONE`] for those of the configuration.
    pub strategy: String,
    /// The mode's own name.
    pub mode: ModeName,
    /// Each setting with its word before and after; empty = the usual value.
    pub settings: Vec<(String, String, String)>,
}

impl Wished {
    /// What holds at a start. Blocks.
    ///
    /// # Errors
    /// A complaint (exit code 78) when the configuration names a strategy that cannot be used.
    pub fn at_start(
        modes: Option<&Arc<ModeSet>>,
        placement: &Placement,
        operator: &OperatorWishes,
        folder: &Path,
    ) -> Result<Self, Complaint> {
        let strategies = Strategies::read(folder);
        for problem in strategies.complaints() {
            tracing::warn!("a strategy is left out: {problem}");
        }
        if let Some(name) = &placement.strategy {
            strategies.get(name).map_err(|complaint| {
                let exit = complaint.exit;
                Complaint::new(format!("{}: placement.strategy: {complaint}", placement.strategy_place))
                    .exit(exit)
            })?;
        }
        Ok(Self::now(modes, placement, operator, &strategies))
    }

    /// What holds now.
    #[must_use]
    pub fn now(
        modes: Option<&Arc<ModeSet>>,
        placement: &Placement,
        operator: &OperatorWishes,
        strategies: &Strategies,
    ) -> Self {
        let (base, name) = (modes.cloned(), Self::name(placement, operator));
        let strategy = match name.map(|name| strategies.get(name)).transpose() {
            Ok(strategy) => strategy,
            Err(complaint) => {
                let name = name.map_or("", String::as_str);
                return Self { strategy: None, modes: base, broken: None }
                    .broken(format!("the strategy `{name}` cannot be used: {complaint}"));
            }
        };
        let base = strategy.as_ref().map(|strategy| strategy.modes.clone()).or(base);
        match Self::laid(base.as_ref(), strategy.as_deref(), placement, operator) {
            Ok(modes) => Self { strategy, modes, broken: None },
            Err(why) => Self { strategy, modes: base, broken: None }.broken(why),
        }
    }

    fn broken(self, why: String) -> Self {
        tracing::error!("nothing is moved: {why}");
        Self { broken: Some(why), ..self }
    }

    /// The strategy that is to hold.
    fn name<'a>(placement: &'a Placement, operator: &'a OperatorWishes) -> Option<&'a String> {
        operator.strategy.as_ref().or(placement.strategy.as_ref()).filter(|name| *name != NONE)
    }

    /// The modes `base` with what operators changed of them.
    ///
    /// # Errors
    /// A sentence with all that contradicts itself.
    pub fn laid(
        base: Option<&Arc<ModeSet>>,
        strategy: Option<&Strategy>,
        placement: &Placement,
        operator: &OperatorWishes,
    ) -> Result<Option<Arc<ModeSet>>, String> {
        let name = strategy.map_or(NONE, |strategy| &strategy.name);
        let Some(changes) = operator.modes.get(name).filter(|changes| !changes.is_empty()) else {
            return Ok(base.cloned());
        };
        let laid = Self::lay(base, strategy, placement, changes);
        let told = |problems: Vec<String>| {
            let modes: Vec<&str> = changes.keys().map(ModeName::as_str).collect();
            let modes = modes.join(", ");
            format!(
                "what was set by hand of the modes {modes} does not go with the others: {}; meshctl mode reset takes it back",
                problems.join("; ")
            )
        };
        laid.map(|set| Some(Arc::new(set))).map_err(told)
    }

    fn lay(
        base: Option<&Arc<ModeSet>>,
        strategy: Option<&Strategy>,
        placement: &Placement,
        changes: &BTreeMap<ModeName, Changes>,
    ) -> Result<ModeSet, Vec<String>> {
        let own = base.map(|set| set.written.clone());
        // Labels are the configuration's: only for its own modes must somebody have them.
        let machines = (own.is_some() && strategy.is_none()).then_some(&placement.machines);
        own.unwrap_or_else(Written::automatic).with(changes, machines)
    }

    /// What a change of a mode of those that hold comes to. Nothing is kept: that is the ledger's.
    ///
    /// # Errors
    /// [`NotChanged`].
    pub fn change(
        &self,
        configured: Option<&Arc<ModeSet>>,
        placement: &Placement,
        operator: &OperatorWishes,
        change: &Change,
    ) -> Result<Changed, NotChanged> {
        let strategy = self.strategy.as_deref();
        if let (None, Some(name), Some(broken)) = (strategy, Self::name(placement, operator), &self.broken) {
            return Err(NotChanged::Contradiction(format!(
                "{broken}; repair the file of `{name}` or choose another before its modes are changed: meshctl plan --apply --strategy NAME"
            )));
        }
        let base = strategy.map(|strategy| &strategy.modes).or(configured);
        let written = base.map_or_else(Written::automatic, |set| set.written.clone());
        let name = strategy.map_or(NONE, |strategy| &strategy.name).to_owned();
        let mode =
            ModeName::new(written.own_name(change.mode.as_str())).unwrap_or_else(|_| change.mode.clone());
        let before = operator.modes.get(&name).cloned().unwrap_or_default();
        let mut after = before.clone();
        if !change.new_mode && !written.modes.contains_key(mode.as_str()) && !before.contains_key(&mode) {
            let known: Vec<&str> = written.modes.keys().map(String::as_str).collect();
            return Err(NotChanged::Unknown(format!(
                "there is no mode `{mode}`; there are {}",
                known.join(", ")
            )));
        }
        let of_mode = after.entry(mode.clone()).or_default();
        for (setting, word) in &change.settings {
            match word {
                Some(word) => drop(of_mode.insert(setting.clone(), word.clone())),
                None => drop(of_mode.remove(setting)),
            }
        }
        after.retain(|_, changes| !changes.is_empty());
        let lay = |changes| Self::lay(base, strategy, placement, changes);
        if let Err(problems) = lay(&after) {
            // Where a file no longer goes with several modes, each can be taken back although the others still contradict it.
            let only_taken_back = change.settings.values().all(Option::is_none);
            if !only_taken_back || lay(&before).is_ok() {
                return Err(NotChanged::Contradiction(problems.join("; ")));
            }
        }
        let word = |all: &BTreeMap<ModeName, Changes>, setting: &String| {
            let changed = all.get(&mode).and_then(|changes| changes.get(setting)).cloned();
            let as_written = || written.modes.get(mode.as_str()).map(|mode| shown(mode, setting));
            changed.or_else(as_written).unwrap_or_default()
        };
        let told = |setting: &String| (setting.clone(), word(&before, setting), word(&after, setting));
        Ok(Changed { settings: change.settings.keys().map(told).collect(), strategy: name, mode })
    }

    /// The wishes for `modes`, which are those of `strategy` or of the configuration.
    #[must_use]
    pub fn wishes(
        strategy: Option<&Strategy>,
        modes: Option<&ModeSet>,
        placement: &Placement,
        operator: &OperatorWishes,
    ) -> Wishes {
        let mut wishes = Wishes {
            strategy: strategy.map(|strategy| strategy.name.clone()).unwrap_or_default(),
            modes: modes.map(|modes| modes.wishes.clone()).unwrap_or_default(),
            machines: placement.machines.clone(),
            pins: operator.pins.clone(),
        };
        for (name, wish) in &operator.nodes {
            let limits = wishes.machines.entry(name.clone()).or_default();
            limits.cordoned = *wish == NodeWish::Cordoned;
            limits.drained = *wish == NodeWish::Drained;
        }
        for wish in &mut wishes.modes {
            // Draining the only machine of a pinned mode is a person's newer word. The plan says that the mode is not served;
            // held against each other, the two would stop every other move as well.
            let is_drained = |name| wishes.machines.get(name).is_some_and(|limits| limits.drained);
            let are_all = !wish.machines.is_empty() && wish.machines.iter().all(is_drained);
            if are_all && wish.residency == Residency::Pinned {
                wish.residency = Residency::Warm;
            }
        }
        wishes
    }

    /// Models whose sizes are written down: the configuration's word goes before the strategy's.
    #[must_use]
    pub fn written(strategy: Option<&Strategy>, placement: &Placement) -> Catalogue {
        let mut written = strategy.map(|strategy| strategy.models.clone()).unwrap_or_default();
        written.extend(placement.models.clone());
        written
    }
}
