//! Wishes: which models a person wants in memory, for which modes, and what each machine may give.
//!
//! A strategy is a named set of wishes. [`Wishes::problems`] finds everything in it that contradicts itself or the
//! mesh; [`crate::placement`] makes a plan of what is left.

use crate::id::{MachineId, ModeName, ModelId};
use crate::memory::CacheType;
use crate::routing::Slo;
use crate::units::{Bytes, Celsius};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Tokens of one request where a mode does not say: an editor's system prompt and a file.
pub const USUAL_CONTEXT: u32 = 16_384;
/// The shortest context that is planned where a mode does not say: below it an editor's system prompt fills it.
pub const USUAL_LEAST_CONTEXT: u32 = 4096;

/// How firmly a mode's model stays in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residency {
    /// Always, before all others; nothing takes its place.
    Pinned,
    /// Whenever there is room; a request for another model may take its place for a while.
    #[default]
    Warm,
    /// Only when somebody asks for it.
    OnDemand,
}

impl Residency {
    /// All of them, firmest first.
    pub const ALL: [Self; 3] = [Self::Pinned, Self::Warm, Self::OnDemand];

    /// The word used in configuration and reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Warm => "warm",
            Self::OnDemand => "on-demand",
        }
    }

    /// The residency that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|residency| residency.word() == word)
    }
}

/// What one mode wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// The mode.
    pub mode: ModeName,
    /// Models that will do, best first; none = the planner chooses among those that the machines have.
    pub models: Vec<ModelId>,
    /// Tokens of one request.
    pub context: u32,
    /// Fewer than this are no use to it.
    pub least_context: u32,
    /// Requests at once, on each copy.
    pub slots: u32,
    /// How many copies, on different machines where there are enough; on one machine copies are slots of one process,
    /// so that the weights are held once.
    pub copies: u32,
    /// Types that its KV cache may have, the preferred one first.
    pub cache_types: Vec<CacheType>,
    /// Times that it asks for.
    pub target: Slo,
    /// How much it counts beside others of the same residency; 1 = as usual.
    pub weight: f64,
    /// How firmly its model stays.
    pub residency: Residency,
    /// Machines that may serve it; none = all.
    pub machines: BTreeSet<MachineId>,
    /// Labels that a machine must have.
    pub labels: BTreeSet<String>,
    /// It wants embeddings, not chats.
    pub embeds: bool,
}

impl Wish {
    /// The wish of a mode that says nothing but its models.
    #[must_use]
    pub fn new(mode: ModeName, models: Vec<ModelId>) -> Self {
        let embeds = mode.as_str() == "embed";
        Self {
            mode,
            models,
            context: USUAL_CONTEXT,
            least_context: USUAL_LEAST_CONTEXT,
            slots: 1,
            copies: 1,
            cache_types: vec![CacheType::F16],
            target: Slo::default(),
            weight: 1.0,
            residency: Residency::default(),
            machines: BTreeSet::new(),
            labels: BTreeSet::new(),
            embeds,
        }
    }
}

/// What a machine does for the mesh while it runs on its battery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatteryPolicy {
    /// What it holds stays, nothing new comes.
    #[default]
    Hold,
    /// As on mains.
    Allow,
    /// Its models go elsewhere.
    Leave,
}

impl BatteryPolicy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Hold, Self::Allow, Self::Leave];

    /// The word used in configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Allow => "allow",
            Self::Leave => "leave",
        }
    }

    /// The policy that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.word() == word)
    }
}

/// A span of every day, in minutes since midnight where the router is; over midnight where `until` is not after `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuietHours {
    /// Its first minute.
    pub from: u16,
    /// The minute after its last.
    pub until: u16,
}

impl QuietHours {
    /// Whether `minute` of the day lies in it.
    #[must_use]
    pub fn contains(self, minute: u16) -> bool {
        if self.from < self.until {
            (self.from..self.until).contains(&minute)
        } else {
            minute >= self.from || minute < self.until
        }
    }
}

/// Slots of one copy, and copies: more than any engine or fleet of ours has.
pub const MOST_AT_ONCE: u32 = 1024;
/// How much more a mode may count than others: beyond that the others would not count at all.
pub const MOST_WEIGHT: f64 = 1000.0;

/// What one machine gives.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MachineLimits {
    /// RAM that is the human's.
    pub reserve_ram: Bytes,
    /// Memory of each graphics processor that is the human's.
    pub reserve_vram: Bytes,
    /// Nothing new comes above this temperature of its hottest sensor.
    pub max_temperature: Option<Celsius>,
    /// Hours in which its models go elsewhere.
    pub quiet: Vec<QuietHours>,
    /// What it does on its battery.
    pub on_battery: BatteryPolicy,
    /// Words by which modes choose machines.
    pub labels: BTreeSet<String>,
    /// What it holds stays, nothing new comes.
    pub cordoned: bool,
    /// Its models go elsewhere.
    pub drained: bool,
}

/// A model that shall stay on a machine whatever is planned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pin {
    /// Which.
    pub model: ModelId,
    /// Where.
    pub machine: MachineId,
}

/// All wishes together.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Wishes {
    /// The strategy's name, for people; empty = none.
    pub strategy: String,
    /// By mode.
    pub modes: Vec<Wish>,
    /// By machine.
    pub machines: BTreeMap<MachineId, MachineLimits>,
    /// Models that stay where they are.
    pub pins: BTreeSet<Pin>,
}

/// Something in the wishes that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WishProblem {
    /// The configuration key that it is about: `modes.code.machines`.
    pub key: String,
    /// What is wrong, with its values, for a person.
    pub message: String,
    /// Nothing can be planned with it; otherwise the plan only leaves it out.
    pub fatal: bool,
}

impl Wishes {
    /// What contradicts itself whatever the mesh has: pins and machines that exclude each other, contexts that do, slots
    /// and copies that are none.
    #[must_use]
    pub fn problems(&self) -> Vec<WishProblem> {
        let mut problems = Vec::new();
        let mut found = |key: String, message: String| {
            problems.push(WishProblem { key, message, fatal: true });
        };
        for wish in &self.modes {
            let key = |field: &str| format!("modes.{}.{field}", wish.mode);
            if wish.least_context > wish.context {
                found(
                    key("least_context"),
                    format!("is {}, more than the context of {}", wish.least_context, wish.context),
                );
            }
            for (field, count) in [("slots", wish.slots), ("copies", wish.copies)] {
                if count == 0 {
                    found(key(field), "must be at least 1".into());
                } else if count > MOST_AT_ONCE {
                    found(key(field), format!("is {count}, more than {MOST_AT_ONCE}"));
                }
            }
            if wish.cache_types.is_empty() {
                found(key("cache_types"), "names no type".into());
            }
            if !(wish.weight > 0.0 && wish.weight <= MOST_WEIGHT) {
                found(
                    key("weight"),
                    format!("is {}, and must be above 0 and at most {MOST_WEIGHT}", wish.weight),
                );
            }
            for machine in &wish.machines {
                let Some(limits) = self.machines.get(machine) else { continue };
                let missing: Vec<&str> = wish.labels.difference(&limits.labels).map(String::as_str).collect();
                if !missing.is_empty() {
                    let labels = missing.join(", ");
                    found(
                        key("machines"),
                        format!("names `{machine}`, which lacks the label {labels} that the mode asks for"),
                    );
                }
                if wish.residency == Residency::Pinned && limits.drained && wish.machines.len() == 1 {
                    found(key("machines"), format!("pins the mode to `{machine}`, which is drained"));
                }
            }
        }
        for pin in &self.pins {
            if self.machines.get(&pin.machine).is_some_and(|limits| limits.drained) {
                found(
                    format!("pins.{}", pin.model),
                    format!("`{}` is pinned to `{}`, which is drained", pin.model, pin.machine),
                );
            }
        }
        problems
    }

    /// What one machine gives; nothing is held back where nobody said so.
    #[must_use]
    pub fn limits(&self, machine: &MachineId) -> MachineLimits {
        self.machines.get(machine).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(text: &str) -> ModeName {
        ModeName::new(text).expect("valid")
    }

    fn machine(text: &str) -> MachineId {
        MachineId::new(text).expect("valid")
    }

    #[test]
    fn quiet_hours_go_over_midnight() {
        let night = QuietHours { from: 22 * 60, until: 7 * 60 };
        assert!(night.contains(23 * 60) && night.contains(0) && night.contains(7 * 60 - 1));
        assert!(!night.contains(7 * 60) && !night.contains(12 * 60));
        let noon = QuietHours { from: 12 * 60, until: 13 * 60 };
        assert!(noon.contains(12 * 60) && !noon.contains(13 * 60) && !noon.contains(0));
    }

    #[test]
    fn every_contradiction_is_reported_with_its_key() {
        let mut wishes = Wishes::default();
        let mut wish = Wish::new(mode("code"), vec![]);
        wish.least_context = wish.context + 1;
        wish.slots = 0;
        wish.labels.insert("quiet".into());
        wish.machines.insert(machine("msi"));
        wish.residency = Residency::Pinned;
        wishes.modes.push(wish);
        let limits = MachineLimits { drained: true, ..MachineLimits::default() };
        wishes.machines.insert(machine("msi"), limits);
        wishes.pins.insert(Pin { model: ModelId::new("m").expect("valid"), machine: machine("msi") });
        let keys: Vec<String> = wishes.problems().into_iter().map(|problem| problem.key).collect();
        assert_eq!(
            keys,
            [
                "modes.code.least_context",
                "modes.code.slots",
                "modes.code.machines",
                "modes.code.machines",
                "pins.m"
            ]
        );
    }

    #[test]
    fn a_wish_that_says_nothing_has_no_problem() {
        let wishes = Wishes { modes: vec![Wish::new(mode("ask"), vec![])], ..Wishes::default() };
        assert_eq!(wishes.problems(), []);
    }

    #[test]
    fn every_word_names_its_value() {
        for residency in Residency::ALL {
            assert_eq!(Residency::from_word(residency.word()), Some(residency));
        }
        for policy in BatteryPolicy::ALL {
            assert_eq!(BatteryPolicy::from_word(policy.word()), Some(policy));
        }
    }
}
