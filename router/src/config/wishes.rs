//! The parts of the configuration that say what is wished: `[modes.*]`, `[models.*]`, `[machines.*]`, `[placement]`.
//! A strategy's file has the first two, and is checked by the same code.

use super::{Check, Tokens};
use crate::modes::{ModeRules, ModeSet, Written};
use mesh_core::admission::Priority;
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::machine::Digest;
use mesh_core::memory::CacheType;
use mesh_core::mode::{Mode, ModeProblem, ModeTable, ModelAliases, without_prefix};
use mesh_core::placement::{Catalogue, KnownModel};
use mesh_core::routing::Slo;
use mesh_core::strategy::{
    BatteryPolicy, MachineLimits, QuietHours, Residency, USUAL_LEAST_CONTEXT, Wish, Wishes,
};
use mesh_core::units::{Bytes, Celsius, parse_duration};
use mesh_daemon::config_layers::Problem;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// `[modes.NAME]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModeConfig {
    /// Models that may answer, best first.
    pub models: Vec<String>,
    /// Other names of the mode.
    pub aliases: Vec<String>,
    /// Modes whose models may answer when none of its own can.
    pub fallback: Vec<String>,
    /// The most tokens of an answer; what a client asks beyond that is lowered.
    pub max_tokens: Option<u32>,
    /// The longest time to the first content; empty = none is asked for.
    pub ttft: String,
    /// The longest time for each token of an answer; empty = none is asked for.
    pub tpot: String,
    /// How urgent its requests are: a word of [`Priority`]; by the mode's name unless given.
    pub priority: Option<String>,
    /// Tokens of one request.
    pub context: Option<Tokens>,
    /// Fewer than this are no use.
    pub least_context: Option<Tokens>,
    /// Requests at once, on each copy.
    pub slots: Option<u32>,
    /// How many copies.
    pub copies: Option<u32>,
    /// Types that its KV cache may have, the preferred one first.
    pub cache_types: Vec<String>,
    /// How much it counts beside others.
    pub weight: Option<f64>,
    /// A word of [`Residency`].
    pub residency: Option<String>,
    /// Machines that may serve it; none = all.
    pub machines: Vec<String>,
    /// Labels that a machine must have.
    pub labels: Vec<String>,
}

/// `[models."NAME"]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelConfig {
    /// Other names that clients may use for this model: `gpt-4o`.
    pub aliases: Vec<String>,
    /// Bytes of its file, so that it can be planned before a machine has it; empty = as the machines say.
    pub size: String,
    /// Bytes of an f16 cache for one token.
    pub cache_per_token: String,
    /// Where it can be fetched.
    pub url: String,
    /// SHA-256 of its file.
    pub digest: String,
}

/// `[machines.NAME]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineConfig {
    /// RAM that is the human's.
    pub reserve_ram: String,
    /// Memory of each graphics processor that is the human's.
    pub reserve_vram: String,
    /// Degrees Celsius of its hottest sensor above which nothing new comes.
    pub max_temperature: Option<f32>,
    /// Spans of the day in which its models go elsewhere.
    pub quiet_hours: Vec<String>,
    /// A word of [`BatteryPolicy`].
    pub on_battery: String,
    /// Words by which modes choose machines.
    pub labels: Vec<String>,
    /// What it holds stays, nothing new comes.
    pub cordon: bool,
}

/// `[placement]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlacementConfig {
    /// The strategy whose modes take the place of `[modes.*]`; empty = none.
    pub strategy: String,
    /// Whether the mesh follows its plan; else plans are only shown.
    pub apply: bool,
    /// After a model left a machine's memory, how long none other leaves it.
    pub machine_pause: String,
    /// How many models may leave the memory of machines within ten minutes.
    pub budget: u32,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        // A mesh that nobody configured moves nothing by itself.
        Self { strategy: String::new(), apply: false, machine_pause: "1min".into(), budget: 10 }
    }
}

/// What the configuration says of placement, beside modes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Placement {
    /// The strategy that is chosen; `None` = the file's own modes.
    pub strategy: Option<String>,
    /// Where the file says so, for complaints.
    pub strategy_place: String,
    /// Whether the mesh follows its plan where no operator said otherwise.
    pub apply: bool,
    /// See [`PlacementConfig::machine_pause`].
    pub machine_pause: Duration,
    /// See [`PlacementConfig::budget`].
    pub budget: usize,
    /// What each machine gives.
    pub machines: BTreeMap<MachineId, MachineLimits>,
    /// Models whose size is written down.
    pub models: Catalogue,
}

impl Check<'_> {
    /// All of `[modes.*]`; `None` where there is none. With `open`, a mode may leave its models to the mesh.
    pub(crate) fn mode_set(&mut self, modes: &BTreeMap<String, ModeConfig>, open: bool) -> Option<ModeSet> {
        let mut rules = ModeRules::default();
        let (mut checked, mut wishes) = (Vec::new(), Vec::new());
        for (name, config) in modes {
            let key = |field: &str| format!("modes.{name}.{field}");
            let mode_name = self.value(&format!("modes.{name}"), ModeName::new(name.as_str()));
            let aliases = self.list(&key("aliases"), &config.aliases, |text| ModeName::new(text));
            let models = self.list(&key("models"), &config.models, |text| ModelId::new(text));
            let fallback = self.list(&key("fallback"), &config.fallback, |text| ModeName::new(text));
            let ttft_s = self.target(&key("ttft"), &config.ttft);
            let tpot_s = self.target(&key("tpot"), &config.tpot);
            let priority =
                self.word(&key("priority"), config.priority.as_deref(), &Priority::ALL, Priority::word);
            if config.max_tokens == Some(0) {
                self.problem(&key("max_tokens"), "must be at least 1");
            }
            // A wish without a name is checked all the same: its problems are told with those of the name.
            let place =
                mode_name.clone().unwrap_or_else(|| ModeName::new("unnamed").expect("a valid constant"));
            let target = Slo { ttft_s, tpot_s };
            let wish = self.wish(name, config, Wish { target, ..Wish::new(place, models.clone()) });
            let Some(mode_name) = mode_name else { continue };
            rules.targets.insert(mode_name.clone(), target);
            if let Some(priority) = priority {
                rules.priorities.insert(mode_name.clone(), priority);
            }
            if let Some(tokens) = config.max_tokens {
                rules.max_tokens.insert(mode_name.clone(), tokens);
            }
            checked.push(Mode { name: mode_name, aliases, models, fallback });
            wishes.push(wish);
        }
        if checked.is_empty() {
            return None;
        }
        for problem in ModeTable::new(checked.clone()).err().unwrap_or_default() {
            let mode = match &problem {
                ModeProblem::Empty(_) if open => continue,
                ModeProblem::TwiceNamed { second, .. } => second,
                ModeProblem::Empty(mode)
                | ModeProblem::OwnFallback(mode)
                | ModeProblem::UnknownFallback { mode, .. } => mode,
            };
            let place = self.lines.place(&format!("modes.{mode}"));
            self.problems.push(Problem { place, message: problem.to_string(), hint: String::new() });
        }
        let written = Written { modes: modes.clone(), open };
        Some(ModeSet::new(checked, rules, wishes).made_of(written))
    }

    fn wish(&mut self, name: &str, config: &ModeConfig, mut wish: Wish) -> Wish {
        let key = |field: &str| format!("modes.{name}.{field}");
        let mut tokens = |field: &str, given: &Option<Tokens>| {
            given.as_ref().and_then(|tokens| self.value(&key(field), tokens.read()))
        };
        let (context, least) =
            (tokens("context", &config.context), tokens("least_context", &config.least_context));
        wish.context = context.unwrap_or(wish.context);
        // A mode that asks for less than what others need at least is content with that.
        wish.least_context = least.unwrap_or(USUAL_LEAST_CONTEXT.min(wish.context));
        wish.slots = config.slots.unwrap_or(wish.slots);
        wish.copies = config.copies.unwrap_or(wish.copies);
        wish.weight = config.weight.unwrap_or(wish.weight);
        if !config.cache_types.is_empty() {
            wish.cache_types = config
                .cache_types
                .iter()
                .filter_map(|word| {
                    self.word(&key("cache_types"), Some(word), &CacheType::ALL, CacheType::word)
                })
                .collect();
        }
        let residency = config.residency.as_deref();
        let residency = self.word(&key("residency"), residency, &Residency::ALL, Residency::word);
        wish.residency = residency.unwrap_or_default();
        wish.machines =
            self.list(&key("machines"), &config.machines, |text| MachineId::new(text)).into_iter().collect();
        wish.labels = self.labels(&key("labels"), &config.labels);
        wish
    }

    /// What contradicts itself in modes and machines together.
    pub(crate) fn contradictions(
        &mut self,
        modes: Option<&ModeSet>,
        machines: Option<&BTreeMap<MachineId, MachineLimits>>,
    ) {
        let wishes = Wishes {
            modes: modes.map(|modes| modes.wishes.clone()).unwrap_or_default(),
            machines: machines.cloned().unwrap_or_default(),
            ..Wishes::default()
        };
        for problem in wishes.problems() {
            self.problem(&problem.key, problem.message);
        }
        let Some(machines) = machines else { return };
        for wish in &wishes.modes {
            // Only this file gives labels, so one that it gives to nobody leaves the mode without a machine.
            let is_given = |label: &&String| machines.values().any(|limits| limits.labels.contains(*label));
            for label in wish.labels.iter().filter(|label| !is_given(label)) {
                let key = format!("modes.{}.labels", wish.mode);
                self.problem(&key, format!("no machine under [machines.*] has the label `{label}`"));
            }
        }
    }

    /// `[machines.*]`.
    pub(crate) fn machines(
        &mut self,
        machines: &BTreeMap<String, MachineConfig>,
    ) -> BTreeMap<MachineId, MachineLimits> {
        let mut all = BTreeMap::new();
        for (name, config) in machines {
            let key = |field: &str| format!("machines.{name}.{field}");
            let id = self.value(&format!("machines.{name}"), MachineId::new(name.as_str()));
            let mut reserve = |field: &str, text: &str| {
                if text.is_empty() { None } else { self.value(&key(field), text.parse::<Bytes>()) }
            };
            let reserve_ram = reserve("reserve_ram", &config.reserve_ram).unwrap_or_default();
            let reserve_vram = reserve("reserve_vram", &config.reserve_vram).unwrap_or_default();
            if config.max_temperature.is_some_and(|limit| !(20.0..=130.0).contains(&limit)) {
                self.problem(&key("max_temperature"), "must be between 20 and 130 °C");
            }
            let quiet = self.list(&key("quiet_hours"), &config.quiet_hours, quiet_hours);
            let battery = Some(config.on_battery.as_str()).filter(|word| !word.is_empty());
            let on_battery = self.word(&key("on_battery"), battery, &BatteryPolicy::ALL, BatteryPolicy::word);
            let limits = MachineLimits {
                reserve_ram,
                reserve_vram,
                max_temperature: config.max_temperature.map(Celsius),
                quiet,
                on_battery: on_battery.unwrap_or_default(),
                labels: self.labels(&key("labels"), &config.labels),
                cordoned: config.cordon,
                drained: false,
            };
            if let Some(id) = id {
                all.insert(id, limits);
            }
        }
        all
    }

    /// What `[models.*]` says of sizes.
    pub(crate) fn known_models(&mut self, models: &BTreeMap<String, ModelConfig>) -> Catalogue {
        let mut known = Catalogue::new();
        for (name, config) in models {
            let spelled = spelled(name);
            let key = |field: &str| format!("models.{spelled}.{field}");
            let id = self.value(&format!("models.{spelled}"), ModelId::new(name.as_str()));
            let mut bytes = |field: &str, text: &str| {
                if text.is_empty() {
                    return None;
                }
                let read = text.parse::<Bytes>().map_err(|error| error.to_string());
                let positive = read.and_then(|bytes| {
                    if bytes.0 > 0 { Ok(bytes) } else { Err("must be more than 0".to_owned()) }
                });
                self.value(&key(field), positive)
            };
            let size = bytes("size", &config.size);
            let cache_per_token = bytes("cache_per_token", &config.cache_per_token);
            let url = config.url.trim();
            if !url.is_empty() && !["http://", "https://"].iter().any(|start| url.starts_with(start)) {
                self.problem(
                    &key("url"),
                    format!("`{url}` is no address that starts with http:// or https://"),
                );
            }
            let digest = (!config.digest.is_empty())
                .then(|| self.value(&key("digest"), Digest::new(&config.digest)))
                .flatten();
            let more = [
                ("cache_per_token", &config.cache_per_token),
                ("url", &config.url),
                ("digest", &config.digest),
            ];
            if config.size.is_empty()
                && let Some((field, _)) = more.iter().find(|(_, text)| !text.is_empty())
            {
                self.problem(&key(field), "says nothing without `size`: the bytes of the file");
            }
            if let (Some(id), Some(size)) = (id, size) {
                let url = Some(url.to_owned()).filter(|url| !url.is_empty());
                known.insert(id, KnownModel { url, digest, ..KnownModel::of_file(size, cache_per_token) });
            }
        }
        known
    }

    /// `[placement]`, with what the other sections say that belongs to it.
    pub(crate) fn placement(
        &mut self,
        config: &PlacementConfig,
        machines: BTreeMap<MachineId, MachineLimits>,
        models: Catalogue,
    ) -> Placement {
        let machine_pause = self.value("placement.machine_pause", parse_duration(&config.machine_pause));
        if config.budget == 0 {
            self.problem("placement.budget", "must be at least 1; to move nothing, write apply = false");
        }
        let strategy = config.strategy.trim();
        Placement {
            strategy: Some(strategy.to_owned()).filter(|name| !name.is_empty()),
            strategy_place: self.lines.place("placement.strategy"),
            apply: config.apply,
            machine_pause: machine_pause.unwrap_or_default(),
            budget: config.budget as usize,
            machines,
            models,
        }
    }

    /// Other names of models.
    pub(crate) fn model_aliases(&mut self, models: &BTreeMap<String, ModelConfig>) -> ModelAliases {
        let mut aliases = ModelAliases::new();
        for (name, model) in models {
            // A name that is none is complained of where sizes are read.
            let Ok(id) = ModelId::new(name.as_str()) else { continue };
            let key = format!("models.{}.aliases", spelled(name));
            for (place, alias) in model.aliases.iter().enumerate() {
                if let Err(error) = ModelId::new(alias.as_str()) {
                    self.problem(&key, error.to_string());
                }
                // Else requests for a mode would go to the model, or the alias to no model.
                if let Some(mode) = [alias, name].into_iter().find(|word| without_prefix(word).is_some()) {
                    self.problem(
                        &key,
                        format!("`{mode}` is the name of a mode: modes have `aliases` of their own"),
                    );
                }
                if alias != name && models.contains_key(alias) {
                    self.problem(&key, format!("`{alias}` is the name of another model under [models]"));
                }
                if model.aliases[..place].contains(alias) {
                    self.problem(&key, format!("the alias `{alias}` is there twice"));
                } else if let Some(other) = aliases.insert(alias.clone(), id.clone()) {
                    self.problem(&key, format!("the alias `{alias}` is given to `{other}` too"));
                }
            }
        }
        aliases
    }

    fn target(&mut self, key: &str, text: &str) -> Option<f64> {
        if text.is_empty() {
            return None;
        }
        let time = self.value(key, parse_duration(text))?;
        if time.is_zero() {
            self.problem(key, "must be at least 1ms");
        }
        Some(time.as_secs_f64())
    }

    /// The one of `all` that `given` names.
    fn word<T: Copy>(
        &mut self,
        key: &str,
        given: Option<&str>,
        all: &[T],
        word: fn(T) -> &'static str,
    ) -> Option<T> {
        let given = given?;
        let found = all.iter().copied().find(|one| word(*one) == given);
        if found.is_none() {
            let words: Vec<&str> = all.iter().map(|one| word(*one)).collect();
            self.problem(key, format!("`{given}` is none of {}", words.join(", ")));
        }
        found
    }

    fn labels(&mut self, key: &str, texts: &[String]) -> BTreeSet<String> {
        let label = |text: &str| {
            let sound = (1..=63).contains(&text.len())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '='));
            if sound {
                Ok(text.to_owned())
            } else {
                Err(format!("`{text}` is no label: 1 to 63 letters, digits and `- _ . =`"))
            }
        };
        self.list(key, texts, label).into_iter().collect()
    }

    fn list<T, E: ToString>(
        &mut self,
        key: &str,
        texts: &[String],
        parse: fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        texts.iter().filter_map(|text| self.value(key, parse(text))).collect()
    }
}

/// A name as a part of a dotted key: lines of a file are found by keys in which a name's own dots are written so.
fn spelled(name: &str) -> String {
    name.replace('.', "\u{b7}")
}

/// `22:00-07:00`.
fn quiet_hours(text: &str) -> Result<QuietHours, String> {
    let minute = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
        (hour < 24 && minute < 60).then_some(hour * 60 + minute)
    };
    let span = text.split_once('-').and_then(|(from, until)| Some((minute(from)?, minute(until)?)));
    match span {
        Some((from, until)) if from == until => Err(format!(
            "`{text}` begins and ends at the same time; for a machine that is never used, write cordon = true"
        )),
        Some((from, until)) => Ok(QuietHours { from, until }),
        None => Err(format!("`{text}` is no span of the day such as \"22:00-07:00\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_hours_are_two_times_of_a_day() {
        assert_eq!(quiet_hours("22:00-07:30"), Ok(QuietHours { from: 22 * 60, until: 7 * 60 + 30 }));
        for text in ["22-7", "24:00-07:00", "22:60-07:00", "08:00-08:00", "night", ""] {
            assert!(quiet_hours(text).is_err(), "{text:?}");
        }
    }
}
