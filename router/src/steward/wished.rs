//! What is wished now: the configuration, or the strategy that takes its modes' place, and what operators said since.

use crate::config::Placement;
use crate::ledger::{NodeWish, OperatorWishes};
use crate::modes::ModeSet;
use crate::strategies::{NONE, Strategies, Strategy};
use mesh_core::placement::Catalogue;
use mesh_core::strategy::{Residency, Wishes};
use mesh_daemon::complaint::Complaint;
use std::path::Path;
use std::sync::Arc;

/// The strategy that holds, and what follows from it.
#[derive(Debug, Clone, Default)]
pub struct Wished {
    /// `None` = the configuration's own modes.
    pub strategy: Option<Arc<Strategy>>,
    /// The modes that requests are routed by; `None` = automatic.
    pub modes: Option<Arc<ModeSet>>,
    /// Why the strategy that an operator applied does not hold: nothing is moved then.
    pub broken: Option<String>,
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
        let own = Self { strategy: None, modes: modes.cloned(), broken: None };
        let name = operator.strategy.as_ref().or(placement.strategy.as_ref()).filter(|name| *name != NONE);
        let Some(name) = name else { return own };
        match strategies.get(name) {
            Ok(strategy) => {
                Self { modes: Some(strategy.modes.clone()), strategy: Some(strategy), broken: None }
            }
            Err(complaint) => {
                let why = format!("the strategy `{name}` cannot be used: {complaint}");
                tracing::error!("nothing is moved: {why}");
                Self { broken: Some(why), ..own }
            }
        }
    }

    /// The wishes under `strategy`.
    #[must_use]
    pub fn wishes(
        strategy: Option<&Strategy>,
        modes: Option<&ModeSet>,
        placement: &Placement,
        operator: &OperatorWishes,
    ) -> Wishes {
        let modes = strategy.map(|strategy| &*strategy.modes).or(modes);
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
