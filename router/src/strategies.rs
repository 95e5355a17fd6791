//! Strategies: named sets of modes, each a file that a person can read. Those of `configs/strategies` are built in; those
//! in the data folder stand beside them, and one of the same name takes a built-in one's place.

use crate::config::{self, Check, ModeConfig, ModelConfig};
use crate::modes::ModeSet;
use mesh_core::placement::Catalogue;
use mesh_daemon::complaint::{Complaint, exit};
use mesh_daemon::config_layers::{self, Loaded};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

/// The word that stands for the modes of the configuration.
pub const NONE: &str = "none";
/// The word by which the mesh stops following its plan.
pub const OFF: &str = "off";

/// The most bytes of one file; those that are shipped have 3,000 at most.
const FILE_LIMIT: u64 = 256 << 10;
/// Files that are read; a person chooses among them by name.
const FILES: usize = 256;

const SHIPPED: [(&str, &str); 5] = [
    ("auto", include_str!("../../configs/strategies/auto.toml")),
    ("balanced-triple", include_str!("../../configs/strategies/balanced-triple.toml")),
    ("distributed", include_str!("../../configs/strategies/distributed.toml")),
    ("multi-instance", include_str!("../../configs/strategies/multi-instance.toml")),
    ("speed-quality", include_str!("../../configs/strategies/speed-quality.toml")),
];

/// Every key of a strategy's file: `about`, and those of `router.toml` that say what modes want and what models are.
fn keys() -> Vec<&'static str> {
    let of_modes = |key: &&str| key.starts_with("modes.") || key.starts_with("models.");
    // Other names of models are the mesh's, whatever strategy holds.
    let own = config::KEYS.iter().copied().filter(of_modes).filter(|key| *key != "models.*.aliases");
    std::iter::once("about").chain(own).collect()
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct StrategyFile {
    about: String,
    modes: BTreeMap<String, ModeConfig>,
    models: BTreeMap<String, ModelConfig>,
}

/// One strategy.
#[derive(Debug, Clone, PartialEq)]
pub struct Strategy {
    /// Its name: that of the file.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// `built-in`, or the file.
    pub source: String,
    /// Its modes.
    pub modes: Arc<ModeSet>,
    /// Models whose size it says.
    pub models: Catalogue,
}

/// All strategies, and what is wrong with those that cannot be read.
#[derive(Debug, Clone, Default)]
pub struct Strategies {
    known: BTreeMap<String, Result<Arc<Strategy>, String>>,
}

impl Strategies {
    /// The built-in ones and those in `folder`, which need not be there. Blocks.
    #[must_use]
    pub fn read(folder: &Path) -> Self {
        let mut known = BTreeMap::new();
        for (name, text) in SHIPPED {
            known.insert(name.to_owned(), strategy(name, &format!("{name}.toml"), "built-in", text));
        }
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .collect();
        files.sort();
        if files.len() > FILES {
            tracing::warn!(folder = %folder.display(), "only the first {FILES} strategies are read");
            files.truncate(FILES);
        }
        for path in files {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let place = path.display().to_string();
            let text = named(&name, &place).and_then(|()| text_of(&path));
            known.insert(name.clone(), text.and_then(|text| strategy(&name, &place, &place, &text)));
        }
        Self { known }
    }

    /// Those that can be used, by name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Strategy>> {
        self.known.values().filter_map(|strategy| strategy.as_ref().ok())
    }

    /// What is wrong with the others.
    pub fn complaints(&self) -> impl Iterator<Item = &str> {
        self.known.values().filter_map(|strategy| strategy.as_ref().err().map(String::as_str))
    }

    /// The strategy with this name.
    ///
    /// # Errors
    /// A complaint (exit code 78) with the names there are, or with what is wrong with its file.
    pub fn get(&self, name: &str) -> Result<Arc<Strategy>, Complaint> {
        match self.known.get(name) {
            Some(Ok(strategy)) => Ok(strategy.clone()),
            Some(Err(problem)) => Err(Complaint::new(problem.clone()).exit(exit::CONFIG)),
            None => {
                let shown: String = name.chars().take(64).collect();
                let names: Vec<&str> = self.known.keys().map(String::as_str).collect();
                Err(Complaint::new(format!("there is no strategy `{shown}`; there are {}", names.join(", ")))
                    .exit(exit::CONFIG))
            }
        }
    }
}

fn named(name: &str, place: &str) -> Result<(), String> {
    let sound = (1..=63).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !sound {
        return Err(format!("{place}: `{name}` is no name for a strategy: up to 63 of a-z, 0-9 and `-`"));
    }
    if [NONE, OFF].contains(&name) {
        return Err(format!(
            "{place}: a strategy cannot be called `{name}`: `meshctl plan --apply` has that word"
        ));
    }
    Ok(())
}

fn text_of(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot read the strategy {}: {error}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_LIMIT + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(format!("the strategy {} has more than {} KiB", path.display(), FILE_LIMIT >> 10));
    }
    Ok(text)
}

fn strategy(name: &str, place: &str, source: &str, text: &str) -> Result<Arc<Strategy>, String> {
    let Loaded { value, lines, .. } = config_layers::load_text::<StrategyFile>(place, text, &keys())
        .map_err(|complaint| complaint.to_string())?;
    let mut check = Check::new(&lines);
    let modes = check.mode_set(&value.modes, true);
    // Machines are not its matter: what its labels mean is seen when it is planned.
    check.contradictions(modes.as_ref(), None);
    let models = check.known_models(&value.models);
    let about = value.about.trim();
    if about.is_empty() || about.lines().count() > 1 || about.len() > 200 {
        check.problem("about", "must say in one line, of 200 bytes at most, what the strategy is for");
    }
    if modes.is_none() && check.problems.is_empty() {
        check.problem("modes", "there is none: a strategy without modes wishes for nothing");
    }
    if !check.problems.is_empty() {
        return Err(config_layers::complain(&check.problems).to_string());
    }
    Ok(Arc::new(Strategy {
        name: name.into(),
        about: about.into(),
        source: source.into(),
        modes: Arc::new(modes.unwrap_or_default()),
        models,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).expect("the folder is ours");
        }
        folder
    }

    #[test]
    fn every_shipped_strategy_is_sound_and_knows_the_sizes_of_its_models() {
        let strategies = Strategies::read(Path::new("/nonexistent"));
        assert_eq!(strategies.complaints().collect::<Vec<_>>(), Vec::<&str>::new());
        assert_eq!(strategies.all().count(), SHIPPED.len());
        for strategy in strategies.all() {
            for wish in &strategy.modes.wishes {
                for model in &wish.models {
                    assert!(strategy.models.contains_key(model), "{}: {model} has no size", strategy.name);
                }
            }
        }
    }

    #[test]
    fn a_file_of_the_same_name_takes_the_place_of_a_built_in_one() {
        let text = "about = \"mine\"\n[modes.ask]\nmodels = [\"m\"]\n";
        let folder = folder(&[("auto.toml", text), ("mine.toml", text), ("notes.txt", "no strategy")]);
        let strategies = Strategies::read(folder.path());
        let sources = |name: &str| strategies.get(name).map(|strategy| strategy.source.clone());
        assert!(sources("auto").is_ok_and(|source| source.ends_with("auto.toml")));
        assert!(sources("mine").is_ok_and(|source| source.ends_with("mine.toml")));
        assert_eq!(sources("distributed"), Ok("built-in".into()));
        let said = strategies.get("distribute").expect_err("no such strategy").to_string();
        assert!(
            said.contains("auto, balanced-triple, distributed, mine, multi-instance, speed-quality"),
            "{said}"
        );
    }

    #[test]
    fn all_problems_of_a_file_come_with_their_lines_and_stop_only_that_strategy() {
        let text = "[modes.code]\nmodels = [\"m\"]\ncontext = \"4K\"\nleast_context = \"8K\"\nslots = 0\nresidency = \"ever\"\n[models.\"a.b\"]\nsize = \"35 GB\"\n[machines.x]\n";
        let folder = folder(&[("bad.toml", text), ("off.toml", text), ("Odd Name.toml", text)]);
        let strategies = Strategies::read(folder.path());
        assert_eq!(strategies.all().count(), SHIPPED.len());
        assert_eq!(strategies.complaints().count(), 3);
        let said = strategies.get("bad").expect_err("unknown keys come first").to_string();
        assert!(said.contains("bad.toml:9: unknown key `machines`"), "{said}");
        std::fs::write(folder.path().join("bad.toml"), text.replace("[machines.x]\n", "")).expect("ours");
        let said = Strategies::read(folder.path()).get("bad").expect_err("problems").to_string();
        for part in [
            "bad.toml:4: modes.code.least_context: is 8192, more than the context of 4096",
            "bad.toml:5: modes.code.slots: must be at least 1",
            "bad.toml:6: modes.code.residency: `ever` is none of pinned, warm, on-demand",
            "bad.toml:8: models.a.b.size: `35 GB` is no size",
            "about: must say in one line",
        ] {
            assert!(said.contains(part), "{part:?} is not in:\n{said}");
        }
    }
}
