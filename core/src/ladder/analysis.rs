//! What a record says: the steps, what to use, what to avoid, what the machine lacks. Every statement with its figures.

use super::advice::{Advice, Need, advice, needs};
use super::avoid::{Avoided, avoided};
use super::goals::Climbed;
use super::record::{ModeGoal, Record};
use super::scaling::{Step, pattern, steps};
use super::summary::{RungSummary, summarise};
use super::sweet::{KindChoice, ModeChoice, of_kinds, of_mode, usable};
use serde::Serialize;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// Each rung in figures, in the record's order.
    pub rungs: Vec<RungSummary>,
    /// From each measured rung to the next.
    pub steps: Vec<Step>,
    /// How speed follows size, in a sentence or two.
    pub pattern: String,
    /// The sweet spot of each mode, in the record's order.
    pub modes: Vec<ModeChoice>,
    /// Fast, balanced, quality, and made for something.
    pub kinds: Vec<KindChoice>,
    /// Models not to use.
    pub avoid: Vec<Avoided>,
    /// What rungs that had no room are missing.
    pub needs: Vec<Need>,
    /// What would help.
    pub advice: Vec<Advice>,
    /// The recommended modes as lines of the router's configuration.
    pub configuration: Vec<String>,
}

/// Reads a record.
#[must_use]
pub fn analyse(record: &Record) -> Analysis {
    let climbed: Vec<Climbed<'_>> = record
        .rungs
        .iter()
        .enumerate()
        .map(|(place, rung)| Climbed { rung, summary: summarise(rung), place })
        .collect();
    let steps = steps(&climbed);
    let avoid = avoided(record, &climbed);
    let usable = usable(&climbed, &avoid);
    let modes: Vec<ModeChoice> = record.modes.iter().map(|goal| of_mode(goal, &usable)).collect();
    Analysis {
        pattern: pattern(&climbed, &steps),
        kinds: of_kinds(&usable),
        needs: needs(&climbed),
        advice: advice(record, &climbed, &steps, &avoid, &modes),
        configuration: configuration(&record.modes, &modes),
        rungs: climbed.iter().map(|rung| rung.summary.clone()).collect(),
        steps,
        modes,
        avoid,
    }
}

/// The choices as lines of TOML, for the router's file. Names of modes and models need no escapes: their grammar has
/// neither quotes nor backslashes.
fn configuration(goals: &[ModeGoal], choices: &[ModeChoice]) -> Vec<String> {
    let mut lines = Vec::new();
    for (goal, choice) in goals.iter().zip(choices) {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.push(format!("# {}: {}", choice.mode, choice.why));
        if choice.models.is_empty() {
            continue;
        }
        let models: Vec<String> = choice.models.iter().map(|model| format!("\"{model}\"")).collect();
        lines.push(format!("[modes.{}]", choice.mode));
        lines.push(format!("models = [{}]", models.join(", ")));
        lines.extend(goal.context.map(|context| format!("context = {context}")));
        lines.extend(milliseconds(goal.target.ttft_s).map(|ms| format!("ttft = \"{ms}ms\"")));
        lines.extend(milliseconds(goal.target.tpot_s).map(|ms| format!("tpot = \"{ms}ms\"")));
    }
    lines
}

fn milliseconds(seconds: Option<f64>) -> Option<u64> {
    let ms = (seconds? * 1000.0).round();
    (1.0..1e12).contains(&ms).then_some(ms as u64)
}
