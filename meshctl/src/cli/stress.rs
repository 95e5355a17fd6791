//! What can be typed about machines under stress.

use super::kept::KeptCommand;
use clap::Args;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::trial::SOAK_S;
use reqwest::Url;
use std::str::FromStr;

/// `meshctl stress …`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct StressCommand {
    /// One that is to be made.
    #[command(flatten)]
    pub(crate) args: Option<StressArgs>,
    /// Those that were made.
    #[command(subcommand)]
    pub(crate) kept: Option<KeptCommand>,
}

/// `meshctl stress --node NODE`
#[derive(Debug, Args)]
pub(crate) struct StressArgs {
    /// The machine
    #[arg(long, value_name = "NODE")]
    pub(crate) node: MachineId,
    /// The models, loaded in this order while there is room [default: what is loaded there and, where that is fewer than two, its smallest, to make three]
    #[arg(long, value_name = "MODEL,…", value_delimiter = ',')]
    pub(crate) models: Vec<ModelId>,
    /// How long each works: alone, in pairs, all together, and beside downloads
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=i64::from(SOAK_S)))]
    pub(crate) seconds: u32,
    /// Fetch this file while all work, and remove it again; twice for two at once
    #[arg(long, value_name = "MODEL=URL")]
    pub(crate) pull: Vec<Source>,
    /// Seed of the sampling and of the prompts' words
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Begin without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

/// A file to fetch, and the name that it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) model: ModelId,
    pub(crate) url: Url,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(64).collect();
        let (model, url) = text
            .split_once('=')
            .ok_or_else(|| format!("`{shown}` is no MODEL=URL, as in new:8b=https://example.org/new.gguf"))?;
        let model = ModelId::new(model).map_err(|error| error.to_string())?;
        let url = Url::parse(url).map_err(|error| format!("`{shown}` names no URL: {error}"))?;
        match url.scheme() {
            "http" | "https" => Ok(Self { model, url }),
            other => Err(format!("a URL begins with http or https, not with {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fetched_has_a_name_and_a_url() {
        let source: Source = "new:8b=http://127.0.0.1/x.gguf?a=b".parse().expect("valid");
        assert_eq!((source.model.as_str(), source.url.as_str()), ("new:8b", "http://127.0.0.1/x.gguf?a=b"));
        for text in ["", "new:8b", "=http://a/x", "new:8b=x.gguf", "new:8b=file:///etc/passwd"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }
}
