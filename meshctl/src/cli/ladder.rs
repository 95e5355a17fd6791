//! What can be typed about the ladder.

use super::stress::Source;
use crate::command::MOST_TOKENS;
use clap::{Args, Subcommand};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::ladder::Shape;
use mesh_core::trial::{REPETITIONS, SOAK_S, STREAMS, TOKENS};
use mesh_core::units::Celsius;
use reqwest::Url;
use std::path::PathBuf;
use std::str::FromStr;

/// Shapes and numbers of streams, at most: as many as a record may have.
const FEW: usize = 64;

/// `meshctl ladder …`
#[derive(Debug, Subcommand)]
pub(crate) enum LadderCommand {
    /// Measure a machine's models from the smallest to the largest; asks before it begins
    Run(RunArgs),
    /// List the climbs that were kept
    List,
    /// Show one climb: its figures, sweet spots, what to avoid, and why it stopped
    Show(ShowArgs),
    /// Print a report over one climb, or over several to compare them: -o md, csv, json or html
    Report(ReportArgs),
    /// Keep what llama-bench measured (-o json or -o jsonl) as if it were climbed
    Import(ImportArgs),
}

/// `meshctl ladder run`
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// The machine
    #[arg(long, value_name = "NODE")]
    pub(crate) node: MachineId,
    /// The smallest model, in parameters: 1b, 500m
    #[arg(long, value_name = "SIZE", value_parser = parameters)]
    pub(crate) from: Option<u64>,
    /// The largest model, in parameters: 70b
    #[arg(long, value_name = "SIZE", value_parser = parameters)]
    pub(crate) to: Option<u64>,
    /// These models only, from the smallest to the largest
    #[arg(long, value_name = "MODEL,…", value_delimiter = ',', conflicts_with_all = ["from", "to"])]
    pub(crate) models: Vec<ModelId>,
    /// Fetch this model first, from a machine of the mesh that has it or from a URL, and climb it too; may be repeated
    #[arg(long, value_name = "MODEL[=URL]")]
    pub(crate) pull: Vec<Wanted>,
    /// Go on with a climb that was ended early, with its settings [default: the node's newest]
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = "",
          conflicts_with_all = ["matrix", "streams", "repetitions", "seed", "soak", "answer_tokens", "success",
                                "idle_below", "sustained_below", "from", "to"])]
    pub(crate) resume: Option<String>,
    /// Tokens of prompt and answer, shape by shape
    #[arg(long, value_name = "PROMPT:ANSWER,…", default_value = "512:128,4K:512,16K:1024,32K:1024,64K:1024",
          value_parser = matrix)]
    pub(crate) matrix: Few<Shape>,
    /// Requests at once, each with every shape
    #[arg(long, value_name = "N,…", default_value = "1,2,4", value_parser = streams)]
    pub(crate) streams: Few<u32>,
    /// How often each of them, beside a warm-up that does not count
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=i64::from(REPETITIONS)))]
    pub(crate) repetitions: u32,
    /// Seed of the sampling and of the prompts' words
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Go on this long with the shortest shape, to see whether the speed lasts
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=i64::from(SOAK_S)))]
    pub(crate) soak: Option<u32>,
    /// The most tokens of an answer to a question; one that was nothing but thoughts is asked again with eight times as many
    #[arg(long, value_name = "N", default_value_t = MOST_TOKENS, value_parser = clap::value_parser!(u32).range(16..=8192))]
    pub(crate) answer_tokens: u32,
    /// The least share of good answers: below it no larger model is tried
    #[arg(long, value_name = "SHARE", default_value_t = 0.8, value_parser = share)]
    pub(crate) success: f64,
    /// Begin no model while the machine's hottest sensor is at this many °C or more; it may cool for a while
    #[arg(long, value_name = "CELSIUS", value_parser = celsius)]
    pub(crate) idle_below: Option<Celsius>,
    /// Go no further after a model that kept the machine at this many °C or more, by the median
    #[arg(long, value_name = "CELSIUS", value_parser = celsius)]
    pub(crate) sustained_below: Option<Celsius>,
    /// Begin without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `meshctl ladder show`
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Which climb: its id or the beginning of it [default: the newest]
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Every figure of this model only
    #[arg(long, value_name = "MODEL")]
    pub(crate) rung: Option<ModelId>,
    /// Show the questions and what was answered, too
    #[arg(long)]
    pub(crate) samples: bool,
}

/// `meshctl ladder report`
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Which climbs: their ids or the beginnings of them [default: the newest]
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// What electricity, the machine and clouds cost, as in configs/prices.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
}

/// `meshctl ladder import`
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// What llama-bench printed; `-` reads it from stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The machine it was measured on
    #[arg(long, value_name = "NODE")]
    pub(crate) node: MachineId,
}

/// A model to fetch, and from where: from the mesh, where nothing is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) model: ModelId,
    pub(crate) url: Option<Url>,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains('=') {
            let model = ModelId::new(text).map_err(|error| error.to_string())?;
            return Ok(Self { model, url: None });
        }
        let Source { model, url } = text.parse()?;
        Ok(Self { model, url: Some(url) })
    }
}

/// A list that is typed as one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Few<T>(pub(crate) Vec<T>);

fn matrix(text: &str) -> Result<Few<Shape>, String> {
    let mut shapes = few(text, |word| {
        let (prompt, output) = word
            .split_once(':')
            .ok_or_else(|| format!("`{word}` is no PROMPT:ANSWER, as in 512:128 or 4K:512"))?;
        Ok(Shape { prompt: tokens(prompt)?, output: tokens(output)? })
    })?;
    shapes.0.sort_by_key(|shape| (u64::from(shape.prompt) + u64::from(shape.output), shape.prompt));
    shapes.0.dedup();
    Ok(shapes)
}

fn streams(text: &str) -> Result<Few<u32>, String> {
    let mut streams = few(text, |word| match word.parse() {
        Ok(count) if (1..=STREAMS).contains(&count) => Ok(count),
        _ => Err(format!("`{word}` is no number of requests at once between 1 and {STREAMS}")),
    })?;
    streams.0.sort_unstable();
    streams.0.dedup();
    Ok(streams)
}

pub(super) fn few<T>(text: &str, one: impl Fn(&str) -> Result<T, String>) -> Result<Few<T>, String> {
    let all = text.split(',').map(|word| one(word.trim())).collect::<Result<Vec<T>, String>>()?;
    if all.len() > FEW {
        return Err(format!("{} are more than the {FEW} that there may be", all.len()));
    }
    Ok(Few(all))
}

/// Tokens: `512`, `4K`.
pub(super) fn tokens(text: &str) -> Result<u32, String> {
    let bad = || format!("`{text}` is no number of tokens between 1 and {TOKENS}, as in 512 or 4K");
    let (digits, factor) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1024),
        None => (text, 1),
    };
    let count = digits.parse::<u32>().ok().and_then(|count| count.checked_mul(factor));
    count.filter(|count| (1..=TOKENS).contains(count)).ok_or_else(bad)
}

/// Parameters of a model: `8b`, `0.5b`, `500m`.
fn parameters(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no size of a model, as in 8b, 0.5b or 500m");
    let lower = text.to_ascii_lowercase();
    let (number, factor) = match (lower.strip_suffix('b'), lower.strip_suffix('m')) {
        (Some(number), _) => (number, 1e9),
        (None, Some(number)) => (number, 1e6),
        (None, None) => return Err(bad()),
    };
    let count = number.parse::<f64>().map_err(|_| bad())? * factor;
    if (1.0..=1e15).contains(&count) { Ok(count as u64) } else { Err(bad()) }
}

/// Where a sensor may be: `65`, `70.5`.
fn celsius(text: &str) -> Result<Celsius, String> {
    let degrees = text.parse::<f32>().ok().filter(|degrees| (1.0..=150.0).contains(degrees));
    degrees.map(Celsius).ok_or_else(|| format!("`{text}` is no temperature between 1 and 150 °C, as in 65"))
}

fn share(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| format!("`{text}` is no share between 0 and 1, as in 0.8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_read_in_kibi_tokens_and_sorted_by_length() {
        let Few(shapes) = matrix("4K:512, 512:128,512:128").expect("two shapes");
        assert_eq!(shapes, [Shape { prompt: 512, output: 128 }, Shape { prompt: 4096, output: 512 }]);
        for (text, said) in [
            ("512", "`512` is no PROMPT:ANSWER"),
            ("0:1", "`0` is no number of tokens"),
            ("512:2048K", "`2048K` is no number of tokens"),
            ("", "`` is no PROMPT:ANSWER"),
        ] {
            assert!(matrix(text).expect_err(text).starts_with(said), "{text}");
        }
        assert!(matrix(&"1:1,".repeat(65)).is_err());
    }

    #[test]
    fn what_is_fetched_comes_from_the_mesh_or_from_a_url() {
        let wanted =
            |text: &str| text.parse::<Wanted>().map(|one| (one.model.to_string(), one.url.is_some()));
        assert_eq!(wanted("qwen3:8b"), Ok(("qwen3:8b".into(), false)));
        assert_eq!(wanted("new=https://example.org/a.gguf?b=c"), Ok(("new".into(), true)));
        for text in ["", "../x", "new=", "new=ftp://example.org/x"] {
            assert!(wanted(text).is_err(), "{text}");
        }
    }

    #[test]
    fn streams_are_sorted_and_bounded() {
        assert_eq!(streams("4,1,4"), Ok(Few(vec![1, 4])));
        for text in ["0", "65", "a", ""] {
            assert!(streams(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_of_models_have_a_unit() {
        for (text, count) in
            [("1b", 1_000_000_000), ("0.5B", 500_000_000), ("500m", 500_000_000), ("70b", 70_000_000_000)]
        {
            assert_eq!(parameters(text), Ok(count), "{text}");
        }
        for text in ["", "b", "8", "-1b", "nanb", "1e30b"] {
            assert!(parameters(text).is_err(), "{text}");
        }
    }
}
