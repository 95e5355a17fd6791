//! What climbs recommend together: for each mode the models of all machines that meet its targets, as lines of the router's
//! file and as settings of a command.

use super::avoid::avoided;
use super::goals::{Climbed, HEADROOM, misses};
use super::record::{ModeGoal, Record};
use super::summary::summarise;
use super::sweet::{ModeChoice, of_mode, usable};
use crate::id::{MachineId, ModeName, ModelId};
use serde::Serialize;

/// What one mode should use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recommended {
    /// The mode.
    pub mode: ModeName,
    /// Models that meet its targets with headroom, best first, each once; empty = there is none.
    pub models: Vec<ModelId>,
    /// The machine where the first of them was measured.
    pub node: Option<MachineId>,
    /// Tokens of one request that the mode asks for.
    pub context: Option<u32>,
    /// Its time to the first content, in milliseconds.
    pub ttft_ms: Option<u64>,
    /// Its time for each token, in milliseconds.
    pub tpot_ms: Option<u64>,
    /// Why that one, or why none.
    pub why: String,
}

impl Recommended {
    pub(super) fn of(goal: &ModeGoal, choice: ModeChoice, node: Option<MachineId>) -> Self {
        Self {
            node: node.filter(|_| !choice.models.is_empty()),
            mode: choice.mode,
            models: choice.models,
            context: goal.context,
            ttft_ms: milliseconds(goal.target.ttft_s),
            tpot_ms: milliseconds(goal.target.tpot_s),
            why: choice.why,
        }
    }

    /// As lines of TOML, for the router's file. Names of modes and models need no escapes: their grammar has neither quotes
    /// nor backslashes.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        // Reasons have names of evaluations in them, which come from a file: none of them may begin a line.
        let why: String = self.why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut lines = vec![format!("# {}: {why}", self.mode)];
        if self.models.is_empty() {
            return lines;
        }
        let models: Vec<String> = self.models.iter().map(|model| format!("\"{model}\"")).collect();
        lines.push(format!("[modes.{}]", self.mode));
        lines.push(format!("models = [{}]", models.join(", ")));
        lines.extend(self.context.map(|context| format!("context = {context}")));
        lines.extend(self.ttft_ms.map(|ms| format!("ttft = \"{ms}ms\"")));
        lines.extend(self.tpot_ms.map(|ms| format!("tpot = \"{ms}ms\"")));
        lines
    }

    /// What has to be set of which mode without a restart: `models=a,b`. `None` where there is no model.
    #[must_use]
    pub fn setting(&self) -> Option<(&ModeName, String)> {
        let models: Vec<&str> = self.models.iter().map(ModelId::as_str).collect();
        (!models.is_empty()).then(|| (&self.mode, format!("models={}", models.join(","))))
    }
}

/// All as one text, with an empty line between modes.
pub(super) fn configuration(recommended: &[Recommended]) -> Vec<String> {
    let blocks: Vec<Vec<String>> = recommended.iter().map(Recommended::lines).collect();
    blocks.join(&String::new())
}

/// What `records` recommend for a mesh of their machines. Imported ones recommend nothing: their models have the names of
/// files, and nobody saw an answer of them. Of several climbs of one machine the newest counts, and of several
/// goals of one mode the newest.
#[must_use]
pub fn recommend(records: &[&Record]) -> Vec<Recommended> {
    let newest = newest(records);
    let climbs: Vec<(&Record, Vec<Climbed<'_>>)> =
        newest.iter().map(|record| (*record, climbed(record))).collect();
    let mut candidates: Vec<(&MachineId, &Climbed<'_>)> = Vec::new();
    for (record, climbed) in &climbs {
        let usable = usable(climbed, &avoided(record, climbed));
        candidates.extend(usable.into_iter().map(|rung| (&record.node, rung)));
    }
    let mut goals: Vec<&ModeGoal> = Vec::new();
    for goal in newest.iter().flat_map(|record| &record.modes) {
        if goals.iter().all(|known| known.mode != goal.mode) {
            goals.push(goal);
        }
    }
    let several = newest.len() > 1;
    let of = |goal: &ModeGoal| {
        let best = of_each_model(goal, &candidates);
        let rungs: Vec<&Climbed<'_>> = best.iter().map(|(_, rung)| *rung).collect();
        let mut choice = of_mode(goal, &rungs);
        let first = choice.models.first();
        let node = best.iter().find(|(_, rung)| Some(&rung.rung.model) == first).map(|(node, _)| *node);
        if let Some(node) = node.filter(|_| several) {
            choice.why = format!("{}, on {node}", choice.why);
        }
        Recommended::of(goal, choice, node.cloned())
    };
    goals.into_iter().map(of).collect()
}

/// The newest climb of each machine, newest first.
fn newest<'a>(records: &[&'a Record]) -> Vec<&'a Record> {
    let mut sorted: Vec<&Record> =
        records.iter().copied().filter(|record| record.imported.is_none()).collect();
    sorted.sort_by_key(|record| std::cmp::Reverse(record.started_unix_ms));
    let mut newest: Vec<&Record> = Vec::new();
    for record in sorted {
        if newest.iter().all(|known| known.node != record.node) {
            newest.push(record);
        }
    }
    newest
}

fn climbed(record: &Record) -> Vec<Climbed<'_>> {
    let rungs = record.rungs.iter().enumerate();
    rungs.map(|(place, rung)| Climbed { rung, summary: summarise(rung), place }).collect()
}

/// Each model where it does best: where it meets the goal, and among those where it is fastest.
fn of_each_model<'a, 'b>(
    goal: &ModeGoal,
    candidates: &[(&'a MachineId, &'a Climbed<'b>)],
) -> Vec<(&'a MachineId, &'a Climbed<'b>)> {
    let rank = |rung: &Climbed<'_>| (misses(goal, rung, HEADROOM).is_empty(), rung.rate().unwrap_or(0.0));
    let mut best: Vec<(&MachineId, &Climbed<'_>)> = Vec::new();
    for (node, rung) in candidates {
        let known = best.iter_mut().find(|(_, known)| known.rung.model == rung.rung.model);
        match known {
            Some(known) if rank(rung) > rank(known.1) => *known = (*node, *rung),
            Some(_) => {}
            None => best.push((*node, *rung)),
        }
    }
    best
}

fn milliseconds(seconds: Option<f64>) -> Option<u64> {
    let ms = (seconds? * 1000.0).round();
    (1.0..1e12).contains(&ms).then_some(ms as u64)
}
