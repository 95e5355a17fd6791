//! Settings of modes that an operator changed by hand: `context=32K`. Kept as words, and laid over the modes as they were
//! written whenever those are read; both are checked together, by the code that checks the configuration.

use super::{Check, ModeConfig, Tokens};
use crate::modes::{ModeSet, Written};
use mesh_core::id::{MachineId, ModeName};
use mesh_core::strategy::MachineLimits;
use mesh_daemon::config_layers::KeyLines;
use std::collections::BTreeMap;

/// The changes of one mode: by setting, the word that was typed.
pub type Changes = BTreeMap<String, String>;

/// The most bytes of one word: 64 names of models.
pub const WORD_LIMIT: usize = 8 << 10;

/// Every setting of a mode, as in `[modes.*]`.
pub const SETTINGS: [&str; 16] = [
    "models",
    "aliases",
    "fallback",
    "max_tokens",
    "ttft",
    "tpot",
    "priority",
    "context",
    "least_context",
    "slots",
    "copies",
    "cache_types",
    "weight",
    "residency",
    "machines",
    "labels",
];

/// Takes one setting's word. A list is typed with commas; an empty word is an empty list, or the usual value.
///
/// # Errors
/// A sentence with the word and what it should be.
pub fn take(mode: &mut ModeConfig, setting: &str, word: &str) -> Result<(), String> {
    let list = || -> Vec<String> {
        word.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let text = || Some(word.trim().to_owned()).filter(|word| !word.is_empty());
    match setting {
        "models" => mode.models = list(),
        "aliases" => mode.aliases = list(),
        "fallback" => mode.fallback = list(),
        "cache_types" => mode.cache_types = list(),
        "machines" => mode.machines = list(),
        "labels" => mode.labels = list(),
        "max_tokens" => mode.max_tokens = number(word, "a whole number of tokens")?,
        "slots" => mode.slots = number(word, "a whole number")?,
        "copies" => mode.copies = number(word, "a whole number")?,
        "weight" => mode.weight = number(word, "a number such as 2.0")?,
        "ttft" => mode.ttft = text().unwrap_or_default(),
        "tpot" => mode.tpot = text().unwrap_or_default(),
        "priority" => mode.priority = text(),
        "residency" => mode.residency = text(),
        "context" => mode.context = text().map(Tokens),
        "least_context" => mode.least_context = text().map(Tokens),
        other => {
            let shown: String = other.chars().take(64).collect();
            return Err(format!("`{shown}` is no setting of a mode; there are {}", SETTINGS.join(", ")));
        }
    }
    Ok(())
}

fn number<T: std::str::FromStr>(word: &str, what: &str) -> Result<Option<T>, String> {
    let word = word.trim();
    if word.is_empty() {
        return Ok(None);
    }
    let shown: String = word.chars().take(64).collect();
    word.parse().map(Some).map_err(|_| format!("`{shown}` is not {what}"))
}

/// A setting as it is typed; empty = the usual value.
#[must_use]
pub fn shown(mode: &ModeConfig, setting: &str) -> String {
    fn or_usual<T: ToString>(given: Option<T>) -> String {
        given.map(|given| given.to_string()).unwrap_or_default()
    }
    match setting {
        "models" => mode.models.join(","),
        "aliases" => mode.aliases.join(","),
        "fallback" => mode.fallback.join(","),
        "cache_types" => mode.cache_types.join(","),
        "machines" => mode.machines.join(","),
        "labels" => mode.labels.join(","),
        "max_tokens" => or_usual(mode.max_tokens),
        "slots" => or_usual(mode.slots),
        "copies" => or_usual(mode.copies),
        "weight" => or_usual(mode.weight),
        "ttft" => mode.ttft.clone(),
        "tpot" => mode.tpot.clone(),
        "priority" => mode.priority.clone().unwrap_or_default(),
        "residency" => mode.residency.clone().unwrap_or_default(),
        "context" => or_usual(mode.context.as_ref().map(|tokens| &tokens.0)),
        "least_context" => or_usual(mode.least_context.as_ref().map(|tokens| &tokens.0)),
        _ => String::new(),
    }
}

impl Written {
    /// The mode's own name for a name or another of its names; a new mode's name is its own.
    #[must_use]
    pub fn own_name<'a>(&'a self, name: &'a str) -> &'a str {
        let also = |mode: &ModeConfig| mode.aliases.iter().any(|alias| alias == name);
        let known = self.modes.iter().find(|(_, mode)| also(mode)).map(|(own, _)| own.as_str());
        if self.modes.contains_key(name) { name } else { known.unwrap_or(name) }
    }

    /// These modes with what operators changed, checked as if a person had written it so. `machines` are those of the
    /// configuration, where its own modes are changed.
    ///
    /// # Errors
    /// All that is wrong, a sentence each: `modes.code.slots: must be at least 1`.
    pub fn with(
        &self,
        changes: &BTreeMap<ModeName, Changes>,
        machines: Option<&BTreeMap<MachineId, MachineLimits>>,
    ) -> Result<ModeSet, Vec<String>> {
        let (mut modes, lines) = (self.modes.clone(), KeyLines::default());
        let mut check = Check::new(&lines);
        for (name, changes) in changes {
            let mode = modes.entry(name.to_string()).or_default();
            for (setting, word) in changes {
                if let Err(why) = take(mode, setting, word) {
                    check.problem(&format!("modes.{name}.{setting}"), why);
                }
            }
        }
        let set = check.mode_set(&modes, self.open);
        check.contradictions(set.as_ref(), machines);
        if check.problems.is_empty() {
            // As they were written, so that a later change is laid over the same.
            return Ok(set.unwrap_or_default().made_of(self.clone()));
        }
        Err(check
            .problems
            .into_iter()
            .map(|problem| format!("{}: {}", problem.place, problem.message))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KEYS;

    fn changes(mode: &str, words: &[(&str, &str)]) -> BTreeMap<ModeName, Changes> {
        let words = words.iter().map(|(setting, word)| ((*setting).to_owned(), (*word).to_owned()));
        [(ModeName::new(mode).expect("valid"), words.collect())].into()
    }

    #[test]
    fn every_setting_of_the_configuration_can_be_changed_and_is_shown_as_typed() {
        let of_modes: Vec<&str> = KEYS.iter().filter_map(|key| key.strip_prefix("modes.*.")).collect();
        assert_eq!(of_modes, SETTINGS);
        for setting in SETTINGS {
            let word = match setting {
                "max_tokens" | "slots" | "copies" => "3",
                "weight" => "2.5",
                "context" | "least_context" => "32K",
                "ttft" | "tpot" => "2s",
                _ => "a,b",
            };
            let mut mode = ModeConfig::default();
            assert_eq!(shown(&mode, setting), "", "{setting}");
            take(&mut mode, setting, word).expect("it is sound");
            assert_eq!(shown(&mode, setting), word, "{setting}");
            take(&mut mode, setting, " ").expect("the usual value");
            assert_eq!(mode, ModeConfig::default(), "{setting}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_all_at_once_as_in_a_file() {
        let written = Written::automatic();
        let words = [
            ("slots", "0"),
            ("context", "much"),
            ("colour", "red"),
            ("weight", "heavy"),
            ("residency", "ever"),
        ];
        let said = written.with(&changes("code", &words), None).expect_err("five faults").join("\n");
        for part in [
            "modes.code.slots: must be at least 1",
            "modes.code.context: `much`",
            "modes.code.colour: `colour` is no setting of a mode; there are models, aliases",
            "modes.code.weight: `heavy` is not a number such as 2.0",
            "modes.code.residency: `ever` is none of pinned, warm, on-demand",
        ] {
            assert!(said.contains(part), "{part:?} is not in:\n{said}");
        }
        let said = written.with(&changes("code", &[("fallback", "asks")]), None).expect_err("no such mode");
        assert!(said[0].contains("mode `code` falls back to `asks`, which is no mode"), "{said:?}");
        let limits = [(MachineId::new("msi").expect("valid"), MachineLimits::default())].into();
        let said =
            written.with(&changes("code", &[("labels", "quiet")]), Some(&limits)).expect_err("no label");
        assert!(said[0].contains("no machine under [machines.*] has the label `quiet`"), "{said:?}");
    }

    #[test]
    fn one_changed_mode_leaves_the_others_as_they_were() {
        let written = Written::automatic();
        let set =
            written.with(&changes("code", &[("context", "64K"), ("models", "a, b")]), None).expect("sound");
        assert_eq!(set.wishes.len(), 7);
        let code = set.wishes.iter().find(|wish| wish.mode.as_str() == "code").expect("there");
        assert_eq!((code.context, code.models.len()), (65_536, 2));
        assert_eq!(
            set.modes()[0].aliases,
            written.with(&BTreeMap::new(), None).expect("sound").modes()[0].aliases
        );
        assert_eq!(set.written, written);
    }

    #[test]
    fn a_mode_is_known_by_its_other_names_and_a_new_one_by_its_own() {
        let written = Written::automatic();
        assert_eq!(written.own_name("build"), "code");
        assert_eq!(written.own_name("code"), "code");
        assert_eq!(written.own_name("review"), "review");
    }
}
