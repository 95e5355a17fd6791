//! What can be typed about validations.

use super::kept::KeptCommand;
use super::ladder::{Few, few, tokens};
use clap::Args;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::trial::REPETITIONS;

/// `meshctl validate …`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct ValidateCommand {
    /// One that is to be made.
    #[command(flatten)]
    pub(crate) args: Option<ValidateArgs>,
    /// Those that were made.
    #[command(subcommand)]
    pub(crate) kept: Option<KeptCommand>,
}

/// `meshctl validate MODEL`
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// The model; it must be on the machine's disk
    pub(crate) model: ModelId,
    /// The machine
    #[arg(long, value_name = "NODE")]
    pub(crate) node: MachineId,
    /// The model that does the work now; it is measured alike, after the other
    #[arg(long, value_name = "MODEL")]
    pub(crate) champion: Option<ModelId>,
    /// Tokens of the prompts with which the speed is measured; the longest is what the model has room for, where that is less
    #[arg(long, value_name = "TOKENS,…", default_value = "512,4K,16K", value_parser = contexts)]
    pub(crate) contexts: Few<u32>,
    /// How often each speed, beside a warm-up that does not count
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(REPETITIONS)))]
    pub(crate) repetitions: u32,
    /// Seed of the sampling and of all that is made up
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Begin without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

fn contexts(text: &str) -> Result<Few<u32>, String> {
    let mut contexts = few(text, tokens)?;
    contexts.0.sort_unstable();
    contexts.0.dedup();
    Ok(contexts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_sorted_and_named_once() {
        assert_eq!(contexts("16K,512,512"), Ok(Few(vec![512, 16_384])));
        for text in ["", "0", "4M", "512,,"] {
            assert!(contexts(text).is_err(), "{text}");
        }
    }
}
