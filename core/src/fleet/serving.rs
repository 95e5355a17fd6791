//! The replicas of each model as decisions read them: flat, in one list for each model, made anew with each snapshot
//! and off the request path, so that a decision neither searches nor compares names.

use super::floor::{Floor, Sure};
use super::view::{DataPath, MachineView};
use crate::health::Liveness;
use crate::id::{MachineId, ModeName, ModelId};
use crate::machine::{Abilities, EngineKind, EngineState, ReplicaHealth, ReplicaState, ThermalState};
use crate::prefix::CacheId;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// Tokens of an answer while none of its model has been seen: between a completion in an editor and a page of code.
/// The same for all replicas, so it ranks machines by their speeds.
const TYPICAL_ANSWER: f64 = 200.0;
/// Engines that batch without a fixed number of slots take this many at once before a request waits; the least batch
/// of a default vLLM on a small card.
const BATCHED_SLOTS: u32 = 16;

/// One model on one machine, as a number that is the same in every snapshot. The upper half alone tells replicas apart
/// too, all but for one in four billion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ReplicaKey(u64);

impl ReplicaKey {
    /// The key of `model` on `machine`.
    #[must_use]
    pub fn of(machine: &MachineId, model: &ModelId) -> Self {
        Self(mixed(fnv(model.as_str(), fnv(machine.as_str(), FNV_START) ^ 0xff)))
    }

    /// The part that [`CacheId`] holds.
    #[must_use]
    pub fn upper(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(0)
    }

    /// As a number for dice.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

/// The start of FNV-1a with 64 bits.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(text: &str, start: u64) -> u64 {
    text.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The finaliser of MurmurHash3: every bit of the result depends on every bit of `x`.
pub(crate) fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// A model's name as a number.
#[must_use]
pub fn model_number(model: &ModelId) -> u64 {
    mixed(fnv(model.as_str(), FNV_START))
}

/// How fast a replica is, as a decision reads it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Seconds for each prompt token.
    pub prefill_s: f32,
    /// Seconds for each token of an answer: `base + each * streams`.
    pub decode: (f32, f32),
    /// Actual over predicted seconds.
    pub bias: f32,
}

/// One replica. A decision reads those that may be among the best: of the others their [`Floor`] is enough.
#[derive(Debug, Clone, PartialEq)]
pub struct Serving {
    /// Its number.
    pub key: ReplicaKey,
    /// The number of its latest load: see [`Serving::cache`].
    pub load: u32,
    /// Where its machine stands in [`super::FleetView::machines`].
    pub machine: u32,
    /// Whether it takes requests at all.
    pub is_open: bool,
    /// What it does without a doubt.
    pub sure: Sure,
    /// Why it is asked only when nobody else can, if so.
    pub doubt: Option<Doubt>,
    /// Its model is not in memory: the engine will load it for the request.
    pub is_cold: bool,
    /// What its model can do.
    pub abilities: Abilities,
    /// Its engine calls tools for models that were not made for it.
    pub makes_tools: bool,
    /// Requests at once by its own words, less where it is near its thermal limit.
    pub told_slots: Option<u32>,
    /// The same, or what is assumed; at least 1.
    pub slots: u32,
    /// Tokens that one request may hold.
    pub context: Option<u32>,
    /// Tokens that its cache can hold in all.
    pub cache_tokens: Option<NonZeroU32>,
    /// How much slower heat makes it look: [`ThermalState::routing_factor`].
    pub heat: f32,
    /// Seconds for a round trip to its machine.
    pub rtt_s: f32,
    /// Seconds until its model is in memory.
    pub load_s: f32,
    /// How fast it is, once known.
    pub rates: Option<Rates>,
    /// How full its KV cache is, 0 to 1, where the engine tells.
    pub kv_used: Option<f32>,
}

impl Serving {
    /// Its cache since it was loaded last.
    #[must_use]
    pub fn cache(&self) -> CacheId {
        CacheId { replica: self.key.upper(), load: self.load }
    }
}

/// Why a replica is asked only when nobody else can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It has just failed several times.
    Resting,
    /// Its machine is suspect.
    Suspect,
    /// Its machine is derated.
    Derated,
    /// Its model is not in memory, and no load of it has been seen.
    Cold,
    /// Its model knows no tools.
    NoTools,
    /// Its context looks too small.
    Short,
}

impl Doubt {
    /// In words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Resting => "has just failed several times",
            Self::Suspect => "has not been heard or reached for a moment",
            Self::Derated => "is near its thermal limit, throttled or on battery",
            Self::Cold => "not in memory yet",
            Self::NoTools => "was not made for tools",
            Self::Short => "has a context that looks too small",
        }
    }
}

/// All replicas of one model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Servings {
    /// Sorted by key.
    pub list: Vec<Serving>,
    /// The least that each of them costs, in the same order.
    pub(crate) floors: Vec<Floor>,
    /// How many take requests.
    pub open: usize,
    /// Whether the speeds of all that should serve are known.
    pub all_measured: bool,
    /// Whether one speed is known.
    pub any_measured: bool,
    /// Tokens of a typical answer, by mode.
    answers: BTreeMap<Option<ModeName>, f64>,
}

impl Servings {
    /// Tokens of a typical answer in `mode`: of this mode, else of the model, else of any model.
    #[must_use]
    pub fn answer_tokens(&self, mode: Option<&ModeName>) -> f64 {
        let known = mode.and_then(|mode| self.answers.get(&Some(mode.clone())));
        known.or_else(|| self.answers.get(&None)).copied().unwrap_or(TYPICAL_ANSWER)
    }
}

/// Running averages of the tokens of answers, by model and mode (`None` = in any mode).
pub type Answers = BTreeMap<(ModelId, Option<ModeName>), f64>;

/// The list of every model.
pub(super) fn index(machines: &[MachineView], answers: &Answers) -> BTreeMap<ModelId, Servings> {
    let mut index: BTreeMap<ModelId, Servings> = BTreeMap::new();
    for (at, machine) in machines.iter().enumerate() {
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        let mut models: Vec<&ModelId> = machine
            .engines
            .iter()
            .flat_map(|engine| &engine.replicas)
            .map(|replica| &replica.model)
            .collect();
        models.sort();
        models.dedup();
        for model in models {
            if let Some(serving) = serving(machine, model, at) {
                index.entry(model.clone()).or_default().list.push(serving);
            }
        }
    }
    for ((model, mode), tokens) in answers {
        if let Some(servings) = index.get_mut(model) {
            servings.answers.insert(mode.clone(), *tokens);
        }
    }
    for servings in index.values_mut() {
        servings.list.sort_by_key(|serving| serving.key);
        servings.open = servings.list.iter().filter(|serving| serving.is_open).count();
        let sure = |serving: &&Serving| serving.is_open && serving.doubt.is_none();
        let any_sure = servings.list.iter().any(|serving| sure(&serving));
        servings.all_measured = servings
            .list
            .iter()
            .filter(|serving| if any_sure { sure(serving) } else { serving.is_open })
            .all(|serving| serving.rates.is_some());
        servings.any_measured = servings.list.iter().any(|serving| serving.rates.is_some());
        servings.floors =
            servings.list.iter().map(|serving| Floor::of(serving, servings.all_measured)).collect();
    }
    index
}

fn serving(machine: &MachineView, model: &ModelId, at: u32) -> Option<Serving> {
    let (engine, replica) = machine.replica(model)?;
    let history = machine.history.get(model).copied().unwrap_or_default();
    let key = ReplicaKey::of(&machine.id, model);
    let thermal = machine.vitals.as_ref().map(|vitals| vitals.thermal.state).unwrap_or_default();
    let reachable = machine.liveness != Liveness::Offline
        && !machine.draining
        && machine.path.is_some()
        && thermal != ThermalState::Hot;
    let (loaded, on_demand) = (replica.state == ReplicaState::Loaded, engine.kind.loads_on_demand());
    let can_come = on_demand && matches!(replica.state, ReplicaState::Available | ReplicaState::Loading);
    let well = matches!(replica.health, ReplicaHealth::Unchecked | ReplicaHealth::Good);
    let load_s = history.speed.load_s();
    let doubt = if history.resting.is_some() {
        Some(Doubt::Resting)
    } else if machine.liveness == Liveness::Suspect {
        Some(Doubt::Suspect)
    } else if thermal == ThermalState::Derated {
        Some(Doubt::Derated)
    } else if !loaded && load_s.is_none() {
        Some(Doubt::Cold)
    } else {
        None
    };
    // Throttled or on battery, two requests at once take longer than one after the other.
    let told_slots = thermal.slots_allowed(replica.slots);
    let rates = match (history.speed.prefill(), history.speed.decode_line()) {
        (Some(prefill), Some(decode)) => {
            let (base, each) = decode;
            Some(Rates {
                prefill_s: (1.0 / prefill) as f32,
                decode: (base as f32, each as f32),
                bias: history.speed.bias() as f32,
            })
        }
        _ => None,
    };
    let is_open = reachable && engine.state == EngineState::Up && (loaded || can_come) && well;
    Some(Serving {
        key,
        load: history.load,
        machine: at,
        is_open,
        sure: if is_open && doubt.is_none() { Sure::of(&replica.abilities) } else { Sure::default() },
        doubt,
        is_cold: !loaded,
        abilities: replica.abilities,
        makes_tools: matches!(engine.kind, EngineKind::LlamaServer | EngineKind::LlamaRouter),
        told_slots,
        slots: told_slots.unwrap_or_else(|| assumed_slots(engine.kind)).max(1),
        context: replica.context,
        cache_tokens: match (replica.context, replica.slots) {
            (Some(context), Some(slots)) => NonZeroU32::new(context.saturating_mul(slots)),
            _ => None,
        },
        heat: thermal.routing_factor() as f32,
        rtt_s: if machine.path == Some(DataPath::InProcess) {
            0.0
        } else {
            machine.rtt_s.unwrap_or(0.0) as f32
        },
        load_s: if loaded { 0.0 } else { load_s.unwrap_or(0.0) as f32 },
        rates,
        kv_used: replica.kv_used,
    })
}

fn assumed_slots(kind: EngineKind) -> u32 {
    match kind {
        EngineKind::Vllm | EngineKind::Sglang => BATCHED_SLOTS,
        EngineKind::LlamaServer
        | EngineKind::Ollama
        | EngineKind::Lemonade
        | EngineKind::LmStudio
        | EngineKind::LlamaRouter
        | EngineKind::TabbyApi
        | EngineKind::KoboldCpp
        | EngineKind::LocalAi
        | EngineKind::OpenAi => 1,
    }
}
