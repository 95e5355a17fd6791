//! What can be typed about evaluations.

use clap::{Args, Subcommand};
use mesh_core::exam::{Metric, Suite, Variant};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::trial::STREAMS;
use std::path::PathBuf;

/// `meshctl eval …`
#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// Let models sit exams, and say how sure each figure is
    Run(EvalRunArgs),
    /// List the evaluations that were kept
    List,
    /// Show one evaluation
    Show(EvalShowArgs),
    /// Compare two evaluations item by item: do they differ, and is that more than chance?
    Compare(CompareArgs),
    /// Make an evaluation the one that later ones of its model are compared with
    Baseline(BaselineArgs),
}

/// `meshctl eval run`
#[derive(Debug, Args)]
pub(crate) struct EvalRunArgs {
    /// The machine [default: the only one]
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<MachineId>,
    /// The models, one after another [default: the only one in the node's memory]
    #[arg(long, visible_alias = "model", value_name = "MODEL,…", value_delimiter = ',')]
    pub(crate) models: Vec<ModelId>,
    /// The exams: mmlu, hellaswag, gsm8k, perplexity, generation [default: all of them]
    #[arg(long, value_name = "SUITE,…", value_delimiter = ',', value_parser = suite)]
    pub(crate) suite: Vec<Suite>,
    /// A folder with SUITE.jsonl and SUITE-dev.jsonl, or one file for one suite [default: samples that only show that it
    /// runs]
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) items: Option<PathBuf>,
    /// A file with the examples that stand before each item
    #[arg(long, value_name = "FILE", requires = "items")]
    pub(crate) examples: Option<PathBuf>,
    /// Examples before each item [default: 5 for mmlu and gsm8k, else 0]
    #[arg(long, value_name = "N")]
    pub(crate) shots: Option<usize>,
    /// So many items of each suite, spread evenly over the file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// How to ask: loglikelihood, completion or chat [default: the best that the engine can]
    #[arg(long, value_name = "VARIANT", value_parser = variant)]
    pub(crate) variant: Option<Variant>,
    /// Questions at once; log-likelihoods are asked one by one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(STREAMS)))]
    pub(crate) at_once: u32,
    /// Go on with an evaluation that was ended early [default: the newest]
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = "",
          conflicts_with_all = ["node", "models", "suite", "items", "examples", "shots", "limit", "variant"])]
    pub(crate) resume: Option<String>,
    /// Compare with the model's baseline: exit with 3 when worse by more than this, with 1 when the items cannot tell
    #[arg(long, value_name = "SHARE", value_parser = gate)]
    pub(crate) gate: Option<f64>,
    /// Compare with this evaluation, not with the model's baseline
    #[arg(long, value_name = "ID", requires = "gate")]
    pub(crate) against: Option<String>,
    /// Begin without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `meshctl eval show`
#[derive(Debug, Args)]
pub(crate) struct EvalShowArgs {
    /// Which evaluation: its id or the beginning of it [default: the newest]
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Show each subject or activity, too
    #[arg(long)]
    pub(crate) groups: bool,
    /// Show the items that were not right, what was answered, and what was wrong with it
    #[arg(long)]
    pub(crate) wrong: bool,
}

/// `meshctl eval compare`
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Two evaluations, the baseline first; with one, the baseline is that of its model
    #[arg(value_name = "ID", num_args = 1..=2, required = true)]
    pub(crate) ids: Vec<String>,
    /// Compare by this, as it is named in reports [default: the first of each suite]
    #[arg(long, value_name = "METRIC", value_parser = metric)]
    pub(crate) metric: Option<Metric>,
    /// Exit with 3 when the second is worse by more than this, as in 0.02; with 1 when the items cannot tell
    #[arg(long, value_name = "SHARE", value_parser = gate)]
    pub(crate) gate: Option<f64>,
}

/// `meshctl eval baseline`
#[derive(Debug, Args)]
pub(crate) struct BaselineArgs {
    /// Which evaluation: its id or the beginning of it [default: the newest]
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Make it none again
    #[arg(long)]
    pub(crate) remove: bool,
}

fn suite(text: &str) -> Result<Suite, String> {
    let all = Suite::ALL.map(Suite::word).join(", ");
    Suite::from_word(text).ok_or_else(|| format!("`{text}` is no suite; there are {all}"))
}

fn variant(text: &str) -> Result<Variant, String> {
    let all = [Variant::LogLikelihood, Variant::Completion, Variant::Chat];
    let found = all.into_iter().find(|variant| variant.word() == text);
    found.ok_or_else(|| format!("`{text}` is none of {}", all.map(Variant::word).join(", ")))
}

fn metric(text: &str) -> Result<Metric, String> {
    let all = |of: fn(Suite, Variant) -> &'static [Metric]| {
        let suites = Suite::ALL.into_iter();
        suites.flat_map(move |suite| suite.variants().iter().flat_map(move |way| of(suite, *way)).copied())
    };
    let mut known: Vec<Metric> = all(Suite::metrics).collect();
    known.sort_unstable();
    known.dedup();
    let words: Vec<&str> = known.iter().map(|metric| metric.word()).collect();
    let found = known.iter().copied().find(|metric| metric.word() == text);
    found.ok_or_else(|| format!("`{text}` is no metric; there are {}", words.join(" ")))
}

fn gate(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| *value > 0.0 && *value < 1.0);
    value.ok_or_else(|| {
        format!(
            "`{text}` is no share more than 0 and less than 1, as in 0.02: 2 points, or 2 % of a perplexity"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_reports_and_others_are_told_which_there_are() {
        assert_eq!(suite("gsm8k"), Ok(Suite::Gsm8k));
        assert!(suite("arc").expect_err("none").contains("mmlu, hellaswag, gsm8k, perplexity, generation"));
        assert_eq!(variant("loglikelihood"), Ok(Variant::LogLikelihood));
        assert!(variant("logprobs").expect_err("none").contains("completion"));
        assert_eq!(metric("acc_norm"), Ok(Metric::AccNorm));
        assert!(metric("f1").expect_err("none").contains("bits_per_byte"));
    }

    #[test]
    fn a_gate_is_a_share_that_some_number_of_items_can_show() {
        assert_eq!(gate("0.02"), Ok(0.02));
        for text in ["0", "1", "-0.1", "nan", "2%", ""] {
            assert!(gate(text).is_err(), "{text}");
        }
    }
}
