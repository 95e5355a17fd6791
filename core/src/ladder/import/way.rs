//! Ways to run a model: which rows of llama-bench belong together, and the names that tell their rungs apart. Two rows are of one
//! way where all is the same but how many tokens, when, and what was measured: a median over two ways would be of neither.

use super::BenchRow;
use crate::ladder::check::RUNGS;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Fields in the short words of llama-bench's own options, in the order of a name. Others are told by their own name.
const SHORT: [(&str, &str); 23] = [
    ("n_gpu_layers", "ngl"),
    ("n_threads", "t"),
    ("n_batch", "b"),
    ("n_ubatch", "ub"),
    ("type_k", "ctk-"),
    ("type_v", "ctv-"),
    ("flash_attn", "fa"),
    ("split_mode", "sm-"),
    ("main_gpu", "mg"),
    ("tensor_split", "ts"),
    ("no_kv_offload", "nkvo"),
    ("n_cpu_moe", "ncmoe"),
    ("use_mmap", "mmp"),
    ("load_mode", "lm-"),
    ("lazy_mode", "lzm-"),
    ("embeddings", "embd"),
    ("no_op_offload", "nopo"),
    ("fit_target", "fitt"),
    ("fit_min_ctx", "fitc"),
    ("devices", "dev-"),
    ("backends", "on-"),
    ("gpu_info", "gpu-"),
    ("cpu_info", "cpu-"),
];
/// What a rung says beside its name, or its name says in another way.
const TOLD_ELSEWHERE: [&str; 6] =
    ["model_filename", "model_type", "model_size", "model_n_params", "build_number", "build_commit"];
/// The longest word of a name, in bytes.
const WORD: usize = 32;
/// The longest name without the number that tells twins apart, in bytes: a model's name has 256.
const NAME: usize = 250;

/// Rows that were measured in one way: at least one.
pub(super) struct Way<'a> {
    /// All that is the same in them, by field.
    told: BTreeMap<&'a str, String>,
    /// One of them.
    pub(super) first: &'a BenchRow,
    /// All of them, in the file's order.
    pub(super) rows: Vec<&'a BenchRow>,
}

/// Rows by the way they were measured, in the order of their first ones.
///
/// # Errors
/// The first row of one way more than a record has rungs.
pub(super) fn grouped<'a>(rows: &[&'a BenchRow]) -> Result<Vec<Way<'a>>, &'a BenchRow> {
    let mut places: BTreeMap<BTreeMap<&str, String>, usize> = BTreeMap::new();
    let mut ways: Vec<Way<'a>> = Vec::new();
    for row in rows.iter().copied() {
        let told = told(row);
        if let Some(way) = places.get(&told).and_then(|place| ways.get_mut(*place)) {
            way.rows.push(row);
            continue;
        }
        if ways.len() == RUNGS {
            return Err(row);
        }
        places.insert(told.clone(), ways.len());
        ways.push(Way { told, first: row, rows: vec![row] });
    }
    Ok(ways)
}

/// All of `row` but the tokens, the time and the measurements.
fn told(row: &BenchRow) -> BTreeMap<&str, String> {
    // Each by its name: a new field is not forgotten.
    let BenchRow {
        build_commit,
        build_number,
        cpu_info,
        gpu_info,
        backends,
        model_filename,
        model_type,
        model_size,
        model_n_params,
        n_batch,
        n_threads,
        n_gpu_layers,
        type_k,
        type_v,
        n_prompt: _,
        n_gen: _,
        n_depth: _,
        test_time: _,
        samples_ns: _,
        samples_ts: _,
        other,
    } = row;
    let is_measured = |field: &str| ["avg_", "stddev_", "samples_"].iter().any(|of| field.starts_with(of));
    let other = other.iter().filter(|(field, _)| !is_measured(field));
    let mut told: BTreeMap<&str, String> =
        other.map(|(field, value)| (field.as_str(), value.clone())).collect();
    told.extend([
        ("build_commit", build_commit.clone()),
        ("build_number", build_number.to_string()),
        ("cpu_info", cpu_info.clone()),
        ("gpu_info", gpu_info.clone()),
        ("backends", backends.clone()),
        ("model_filename", model_filename.clone()),
        ("model_type", model_type.clone()),
        ("model_size", model_size.to_string()),
        ("model_n_params", model_n_params.to_string()),
        ("n_batch", n_batch.to_string()),
        ("n_threads", n_threads.to_string()),
        ("n_gpu_layers", n_gpu_layers.to_string()),
        ("type_k", type_k.clone()),
        ("type_v", type_v.clone()),
    ]);
    told
}

/// A name for each of `ways`, no two the same: the file's, and what differs between ways of files of that name.
pub(super) fn names(ways: &[Way<'_>]) -> Vec<String> {
    let mut of_stem: BTreeMap<String, Vec<&Way<'_>>> = BTreeMap::new();
    for way in ways {
        of_stem.entry(stem(&way.first.model_filename)).or_default().push(way);
    }
    let differing: BTreeMap<&String, Differing<'_>> =
        of_stem.iter().map(|(stem, ways)| (stem, Differing::between(ways))).collect();
    let named = ways.iter().map(|way| {
        let stem = stem(&way.first.model_filename);
        let words = differing.get(&stem).map(|differing| differing.words(way)).unwrap_or_default();
        if words.is_empty() {
            return stem;
        }
        let name = format!("{stem}@{}", words.join("+"));
        shortened(&name, NAME).trim_end_matches(['+', '@']).to_owned()
    });
    let named: Vec<String> = named.collect();
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for name in &named {
        counts.entry(name).or_default().0 += 1;
    }
    // Files of one name in two folders, and names that differ only in what a name cannot say. No other name ends in a number
    // of its own: its words begin with letters.
    let numbered = named.iter().map(|name| match counts.get_mut(name.as_str()) {
        Some((all, told)) if *all > 1 => {
            *told += 1;
            format!("{name}{}{told}", if name.contains('@') { '+' } else { '@' })
        }
        _ => name.clone(),
    });
    numbered.collect()
}

/// What differs between ways of one name.
struct Differing<'a> {
    fields: BTreeSet<&'a str>,
    /// Builds of one number are of several commits: two people's own builds have the number 0.
    by_commit: bool,
}

impl<'a> Differing<'a> {
    fn between(ways: &[&'a Way<'_>]) -> Self {
        let all: BTreeSet<&str> = ways.iter().flat_map(|way| way.told.keys().copied()).collect();
        let differ = |field: &str| {
            let values: BTreeSet<Option<&String>> = ways.iter().map(|way| way.told.get(field)).collect();
            values.len() > 1
        };
        let fields = all.into_iter().filter(|field| differ(field)).collect();
        let builds: BTreeSet<(u64, &str)> =
            ways.iter().map(|way| (way.first.build_number, way.first.build_commit.as_str())).collect();
        let numbers: BTreeSet<u64> = builds.iter().map(|(number, _)| *number).collect();
        Self { fields, by_commit: numbers.len() < builds.len() }
    }

    fn words(&self, way: &Way<'_>) -> Vec<String> {
        let is_short = |field: &str| SHORT.iter().any(|(known, _)| *known == field);
        let short = SHORT.iter().filter(|(field, _)| self.fields.contains(field));
        let long = self.fields.iter().filter(|field| !is_short(field) && !TOLD_ELSEWHERE.contains(field));
        let mut words: Vec<String> = short.map(|(field, short)| word(short, way.told.get(*field))).collect();
        // A name that begins with no letter could be taken for a number of ours.
        words.extend(long.map(|field| {
            let of = if field.starts_with(|c: char| c.is_ascii_alphabetic()) { "" } else { "x" };
            word(&format!("{of}{field}-"), way.told.get(*field))
        }));
        if self.fields.contains("build_number") {
            words.push(format!("b{}", way.first.build_number));
        }
        if self.by_commit {
            words.push(word("commit-", Some(&way.first.build_commit)));
        }
        words
    }
}

fn word(of: &str, value: Option<&String>) -> String {
    let value = value.map(String::as_str).filter(|value| !value.trim().is_empty()).unwrap_or("unknown");
    let text = plain(&format!("{of}{value}"), |c| matches!(c, '-' | '_' | '.'));
    shortened(&text, WORD).to_owned()
}

/// The file's name as a model's: without folders and `.gguf`, and with `-` for what such names do not have.
pub(super) fn stem(path: &str) -> String {
    let file = path.rsplit(['/', '\\']).next().unwrap_or(path);
    let file = file.strip_suffix(".gguf").unwrap_or(file);
    let text: String = file.chars().take(200).collect();
    let text = plain(&text, |c| matches!(c, '-' | '_' | '.' | ':' | '+'));
    text.trim_start_matches(['-', '.']).to_owned()
}

/// With `-` for all but letters, digits and what `is_taken`, and for each of two dots, which no name has.
fn plain(text: &str, is_taken: impl Fn(char) -> bool) -> String {
    let text: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || is_taken(c) { c } else { '-' }).collect();
    text.replace("..", "--")
}

/// The beginning of `text`, at most so many bytes.
pub(super) fn shortened(text: &str, most: usize) -> &str {
    let end = (0..=text.len().min(most)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    text.get(..end).unwrap_or_default()
}

/// Fields that a row has beside those of [`BenchRow`], whatever they are, as texts.
pub(super) fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let fields: BTreeMap<String, Text> = Deserialize::deserialize(from)?;
    Ok(fields.into_iter().map(|(field, Text(value))| (field, value)).collect())
}

/// Any value, as a text.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyValue).map(Text)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    /// As a number: options are given so, and older builds print some of them so.
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<String, E> {
        Ok(u8::from(value).to_string())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_unit<E: de::Error>(self) -> Result<String, E> {
        Ok(String::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<String, A::Error> {
        let mut texts = Vec::new();
        while let Some(Text(text)) = all.next_element()? {
            texts.push(text);
        }
        Ok(texts.join("/"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<String, A::Error> {
        let mut texts = Vec::new();
        while let Some((field, Text(text))) = all.next_entry::<String, Text>()? {
            texts.push(format!("{field}:{text}"));
        }
        Ok(texts.join("/"))
    }
}
