//! What operators wish of placement: the strategy they applied, whether the mesh follows its plan, what they said of
//! machines, and pins. Kept so that a restart changes nothing.

use super::Owner;
use super::error::LedgerError;
use super::store::{IDENTITIES, IdentityRecord, Store, WISHES};
use crate::config::changes::Changes;
use mesh_core::id::{MachineId, ModeName};
use mesh_core::strategy::Pin;
use mesh_proto::identity::Role;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most pins there may be: a person sets them one by one.
pub const PIN_LIMIT: usize = 1000;
/// The most modes with settings that were changed by hand.
pub const MODE_LIMIT: usize = 1000;

const PLAN: &str = "plan";

/// What an operator said of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeWish {
    /// It takes part, whatever the configuration says.
    Open,
    /// What it holds stays, nothing new comes.
    Cordoned,
    /// Its models go elsewhere.
    Drained,
}

impl NodeWish {
    /// The word used in the operators' calls.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Cordoned => "cordoned",
            Self::Drained => "drained",
        }
    }
}

/// All that operators wish.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperatorWishes {
    /// The strategy that one of them applied; `None` = nobody did, so that of the configuration holds.
    pub strategy: Option<String>,
    /// Whether the mesh follows its plan; `None` = as the configuration says.
    pub follows: Option<bool>,
    /// By machine.
    pub nodes: BTreeMap<MachineId, NodeWish>,
    /// Models that stay where they are.
    pub pins: BTreeSet<Pin>,
    /// What they changed of modes, by the strategy whose modes those are (`none` = the configuration's).
    pub modes: BTreeMap<String, BTreeMap<ModeName, Changes>>,
}

/// The record [`PLAN`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct PlanRecord {
    strategy: Option<String>,
    follows: Option<bool>,
}

/// A record of the table: which one, its id says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WishRecord {
    Plan(PlanRecord),
    Node { name: MachineId, wish: NodeWish },
    Pin(Pin),
    Mode { strategy: String, mode: ModeName, changes: Changes },
}

/// Reads all of them.
pub(super) fn all(store: &Store) -> Result<OperatorWishes, LedgerError> {
    let mut wishes = OperatorWishes::default();
    for (_, record) in store.all::<WishRecord>(WISHES, "reading wishes")? {
        match record {
            WishRecord::Plan(plan) => (wishes.strategy, wishes.follows) = (plan.strategy, plan.follows),
            WishRecord::Node { name, wish } => drop(wishes.nodes.insert(name, wish)),
            WishRecord::Pin(pin) => drop(wishes.pins.insert(pin)),
            WishRecord::Mode { strategy, mode, changes } => {
                drop(wishes.modes.entry(strategy).or_default().insert(mode, changes));
            }
        }
    }
    Ok(wishes)
}

impl Owner {
    pub(super) fn set_plan(
        &mut self,
        strategy: Option<String>,
        follows: Option<bool>,
    ) -> Result<(), LedgerError> {
        let record = WishRecord::Plan(PlanRecord { strategy, follows });
        self.store
            .write("keeping the plan's choice", |transaction| transaction.put(WISHES, PLAN, &record))?;
        self.publish_wishes()
    }

    pub(super) fn set_node(&mut self, name: MachineId, wish: NodeWish) -> Result<(), LedgerError> {
        let id = format!("node/{name}");
        let record = WishRecord::Node { name, wish };
        self.store.write("keeping a node's wish", |transaction| transaction.put(WISHES, &id, &record))?;
        self.publish_wishes()
    }

    pub(super) fn set_pin(&mut self, pin: Pin, pinned: bool) -> Result<bool, LedgerError> {
        let was = all(&self.store)?;
        let was_so = was.pins.contains(&pin) == pinned;
        if was_so {
            return Ok(true);
        }
        if pinned && was.pins.len() >= PIN_LIMIT {
            return Err(LedgerError::TooMany { kind: "pin", limit: PIN_LIMIT as u64 });
        }
        let id = format!("pin/{}/{}", pin.machine, pin.model);
        self.store.write("keeping a pin", |transaction| {
            if pinned {
                transaction.put(WISHES, &id, &WishRecord::Pin(pin))
            } else {
                transaction.remove(WISHES, &id)
            }
        })?;
        self.publish_wishes()?;
        Ok(false)
    }

    /// Lays `settings` over what was changed of the mode; `None` takes a change back.
    pub(super) fn set_mode(
        &mut self,
        strategy: String,
        mode: ModeName,
        settings: BTreeMap<String, Option<String>>,
    ) -> Result<(), LedgerError> {
        let was = all(&self.store)?.modes;
        let mut changes = was.get(&strategy).and_then(|modes| modes.get(&mode)).cloned().unwrap_or_default();
        let is_new = changes.is_empty();
        for (setting, word) in settings {
            match word {
                Some(word) => drop(changes.insert(setting, word)),
                None => drop(changes.remove(&setting)),
            }
        }
        if is_new && was.values().map(BTreeMap::len).sum::<usize>() >= MODE_LIMIT {
            return Err(LedgerError::TooMany { kind: "changed mode", limit: MODE_LIMIT as u64 });
        }
        let id = format!("mode/{strategy}/{mode}");
        self.store.write("keeping settings of a mode", |transaction| {
            if changes.is_empty() {
                return transaction.remove(WISHES, &id);
            }
            transaction.put(WISHES, &id, &WishRecord::Mode { strategy, mode, changes })
        })?;
        self.publish_wishes()
    }

    pub(super) fn node_names(&mut self) -> Result<BTreeSet<MachineId>, LedgerError> {
        let prefix = format!("{}/", Role::Node.word());
        let all = self.store.all::<IdentityRecord>(IDENTITIES, "listing nodes")?;
        Ok(all.iter().filter_map(|(id, _)| id.strip_prefix(&prefix)?.parse().ok()).collect())
    }

    fn publish_wishes(&mut self) -> Result<(), LedgerError> {
        let wishes = all(&self.store)?;
        self.wishes.send_replace(Arc::new(wishes));
        Ok(())
    }
}
