//! Generation items: prompts of one's own with checks. The format is ours (`docs/evaluations.md`), so a field that is
//! not known is a mistake.

use super::{ItemError, LONGEST_TEXT, id, text};
use crate::exam::check::{Check, CheckError, RawCheck};
use crate::exam::question::MOST_TOKENS;
use serde::Deserialize;

/// Checks of one item.
const MOST_CHECKS: usize = 64;
/// Texts at which an answer ends: engines take four.
const MOST_STOPS: usize = 4;
/// Tokens of one answer.
const MOST_TOKENS_ASKED: u32 = 32_768;

/// A prompt and what its answer must be like.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "RawGeneration")]
pub struct GenerationItem {
    /// Its name, where it has one.
    pub id: Option<String>,
    /// What the system message says; empty = none.
    pub system: Option<String>,
    /// What is asked.
    pub prompt: String,
    /// Texts at which the answer ends.
    pub stop: Vec<String>,
    /// Tokens that it may have.
    pub most_tokens: u32,
    /// All must hold.
    pub checks: Vec<Check>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGeneration {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    system: Option<String>,
    prompt: String,
    #[serde(default)]
    stop: Vec<String>,
    #[serde(default = "usual_tokens")]
    most_tokens: u32,
    checks: Vec<RawCheck>,
}

fn usual_tokens() -> u32 {
    MOST_TOKENS
}

impl TryFrom<RawGeneration> for GenerationItem {
    type Error = ItemError;

    fn try_from(raw: RawGeneration) -> Result<Self, ItemError> {
        id(raw.id.as_ref())?;
        if let Some(system) = &raw.system {
            text("system", system, LONGEST_TEXT)?;
        }
        text("prompt", &raw.prompt, LONGEST_TEXT)?;
        if raw.stop.len() > MOST_STOPS || raw.stop.iter().any(String::is_empty) {
            let seen = format!("a list of {} texts", raw.stop.len());
            return Err(ItemError::new("stop", seen, format!("{MOST_STOPS} at most, none of them empty")));
        }
        if !(1..=MOST_TOKENS_ASKED).contains(&raw.most_tokens) {
            let expected = format!("1 to {MOST_TOKENS_ASKED}");
            return Err(ItemError::new("most_tokens", raw.most_tokens.to_string(), expected));
        }
        if !(1..=MOST_CHECKS).contains(&raw.checks.len()) {
            let seen = format!("a list of {}", raw.checks.len());
            return Err(ItemError::new("checks", seen, format!("1 to {MOST_CHECKS} checks")));
        }
        let numbered = |(at, check): (usize, RawCheck)| {
            Check::try_from(check).map_err(|CheckError { key, seen, expected }| {
                let field =
                    if key.is_empty() { format!("checks[{at}]") } else { format!("checks[{at}].{key}") };
                ItemError::new(field, seen, expected)
            })
        };
        let checks = raw.checks.into_iter().enumerate().map(numbered).collect::<Result<_, _>>()?;
        let (system, stop) = (raw.system, raw.stop);
        Ok(Self { id: raw.id, system, prompt: raw.prompt, stop, most_tokens: raw.most_tokens, checks })
    }
}
