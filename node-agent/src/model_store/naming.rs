//! Models' names and their files' names, each way, so that no two names mean one file.
//!
//! | model | file in the model folder |
//! |---|---|
//! | `qwen3-8b-q4_k_m` | `qwen3-8b-q4_k_m.gguf` |
//! | `org/name:Q4_K_M` | `org/name%3AQ4_K_M.gguf` |
//! | `deepseek-v3` in three parts | `deepseek-v3-00001-of-00003.gguf` … `-00003-of-00003.gguf` |
//!
//! `:` is written as `%3A`, because a disk that Windows wrote cannot hold it and because `%` is in no model's
//! name, which makes the way back unique. A file that somebody else named with a `:` is understood too.
//!
//! Only a [`ModelId`] ever becomes a path. Its grammar knows no `..`, no leading `/`, no NUL and no backslash;
//! what is left to refuse here are parts that are empty or begin with a dot.

use mesh_core::id::ModelId;
use std::path::{Component, Path, PathBuf};

/// The ending of every file of the store.
pub(super) const ENDING: &str = ".gguf";

/// A file system holds no longer name (ext4, xfs, zfs, btrfs, exFAT).
const PART_LIMIT: usize = 255;

/// Why a model of this name cannot be kept as a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// `a//b`, `a/`, `./a`, `.hidden`.
    #[error(
        "the model name `{model}` cannot be a file: its part `{part}` is empty or begins with a dot; choose another name"
    )]
    Part {
        /// The name.
        model: ModelId,
        /// Between two `/`.
        part: String,
    },
    /// A part is longer than a file's name may be.
    #[error("the model name `{model}` cannot be a file: a part of {length} bytes is over {PART_LIMIT}")]
    TooLong {
        /// The name.
        model: ModelId,
        /// Of the part with its ending.
        length: usize,
    },
}

/// The file of `model`, relative to the model folder.
pub(super) fn file_of(model: &ModelId) -> Result<PathBuf, NameError> {
    let written = format!("{}{ENDING}", model.as_str().replace(':', "%3A"));
    // The last part is judged without its ending: the model `a/` would be the file `a/.gguf`.
    for part in model.as_str().split('/') {
        if part.is_empty() || part.starts_with('.') {
            return Err(NameError::Part { model: model.clone(), part: part.into() });
        }
    }
    match written.split('/').map(str::len).find(|&length| length > PART_LIMIT) {
        Some(length) => Err(NameError::TooLong { model: model.clone(), length }),
        None => Ok(written.into()),
    }
}

/// The model whose file `file` is, relative to the model folder; `None` when no model can have that name.
pub(super) fn model_of(file: &Path) -> Option<ModelId> {
    let mut parts = Vec::new();
    for component in file.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => {
                return None;
            }
        }
    }
    let joined = parts.join("/");
    let model = ModelId::new(joined.strip_suffix(ENDING)?.replace("%3A", ":")).ok()?;
    // The way back must exist: `.hidden` has none.
    file_of(&model).is_ok().then_some(model)
}

/// Which part of how many a file is, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The name of the whole.
    pub whole: ModelId,
    /// From 1.
    pub number: u32,
    /// How many there are.
    pub count: u32,
}

/// Splits `name-00002-of-00003`, as llama.cpp's `gguf-split` names parts.
pub(super) fn part_of(model: &ModelId) -> Option<Part> {
    let (rest, count) = model.as_str().rsplit_once("-of-")?;
    let (whole, number) = rest.rsplit_once('-')?;
    let five = |digits: &str| {
        (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    let (number, count) = (five(number)?, five(count)?);
    let whole = ModelId::new(whole).ok()?;
    (1..=count).contains(&number).then_some(Part { whole, number, count })
}

/// What a projector's name and its model's name have in common: without folder, `mmproj` and quantisation.
/// `mmproj-gemma-3-4b-it-f16` and `gemma-3-4b-it-Q4_K_M` both give `gemma-3-4b-it`.
pub(super) fn family(model: &ModelId) -> String {
    let name = model.as_str();
    let last = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let words: Vec<&str> = last.split(['-', '.', ':']).filter(|word| *word != "mmproj").collect();
    let kept = words.iter().rposition(|word| !is_quantisation(word)).map_or(0, |at| at + 1);
    words[..kept].join("-")
}

fn is_quantisation(word: &str) -> bool {
    let after = |prefix: &str| {
        word.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    matches!(word, "f16" | "f32" | "bf16" | "mxfp4" | "nvfp4" | "ud" | "gguf")
        || after("q")
        || after("iq")
        || after("tq")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn model(name: &str) -> ModelId {
        ModelId::new(name).expect("a good name")
    }

    #[test]
    fn a_name_with_a_tag_and_a_folder_becomes_a_file_and_comes_back() {
        for (name, file) in [
            ("tiny", "tiny.gguf"),
            ("org/name:Q4_K_M", "org/name%3AQ4_K_M.gguf"),
            ("hf.co/org/Model-GGUF:Q8_0", "hf.co/org/Model-GGUF%3AQ8_0.gguf"),
            ("a.gguf", "a.gguf.gguf"),
        ] {
            assert_eq!(file_of(&model(name)), Ok(PathBuf::from(file)));
            assert_eq!(model_of(Path::new(file)), Some(model(name)));
        }
        assert_eq!(model_of(Path::new("somebody:else.gguf")), Some(model("somebody:else")));
    }

    #[test]
    fn a_name_that_is_no_plain_path_is_refused_with_the_part_that_is_wrong() {
        for name in ["a/", "a//b", ".", ".hidden", "a/.", "a/./b", "org/.git/x", ".incoming/x"] {
            let Ok(model) = ModelId::new(name) else { continue };
            let refused = file_of(&model).expect_err(name);
            assert!(refused.to_string().contains(name), "{refused}");
        }
        let long = file_of(&model(&"a".repeat(253))).expect_err("254 and more with its ending");
        assert!(long.to_string().contains("258 bytes"), "{long}");
    }

    #[test]
    fn no_path_that_climbs_hides_or_starts_at_the_root_is_a_model() {
        for file in [
            "../x.gguf",
            "a/../../x.gguf",
            "/etc/x.gguf",
            "./../x.gguf",
            ".hidden.gguf",
            "a/.b/x.gguf",
            "x",
            "x.GGUF",
            "a b.gguf",
            "a\\b.gguf",
            "%2e%2e/x.gguf",
            "a%00.gguf",
            "-x.gguf",
            "a\n.gguf",
            ".gguf",
            "a%2Fb.gguf",
            "~/x.gguf",
            "$HOME.gguf",
        ] {
            assert_eq!(model_of(Path::new(file)), None, "{file:?}");
        }
    }

    #[test]
    fn parts_are_told_by_their_names() {
        let part = part_of(&model("org/big-00002-of-00003"));
        assert_eq!(part, Some(Part { whole: model("org/big"), number: 2, count: 3 }));
        for name in ["big-00004-of-00003", "big-00000-of-00003", "big-2-of-3", "big", "big-0000a-of-00003"] {
            assert_eq!(part_of(&model(name)), None, "{name}");
        }
    }

    #[test]
    fn a_projector_and_its_model_are_of_one_family() {
        let same = [
            ("mmproj-gemma-3-4b-it-f16", "gemma-3-4b-it-Q4_K_M"),
            ("x/gemma-3-4b-it.mmproj-Q8_0", "x/gemma-3-4b-it.Q4_K_M"),
            ("mmproj-Qwen2.5-VL-7B-Instruct-BF16", "Qwen2.5-VL-7B-Instruct-UD-IQ2_XXS"),
            ("qwen:mmproj", "qwen:Q4_0"),
        ];
        for (projector, whole) in same {
            assert_eq!(family(&model(projector)), family(&model(whole)), "{projector}");
        }
        assert_ne!(family(&model("mmproj-gemma-3-4b-it-f16")), family(&model("gemma-3-12b-it-Q4_K_M")));
    }

    proptest! {
        #[test]
        fn two_names_never_share_a_file(a in "[a-z%:.@/-]{1,12}", b in "[a-z%:.@/-]{1,12}") {
            let files = [a, b].map(|name| ModelId::new(name).ok().and_then(|id| Some((file_of(&id).ok()?, id))));
            if let [Some((file_a, a)), Some((file_b, b))] = files {
                prop_assert_eq!(a == b, file_a == file_b);
                prop_assert_eq!(model_of(&file_a), Some(a));
                prop_assert!(file_b.components().all(|part| matches!(part, Component::Normal(_))));
            }
        }
    }
}
