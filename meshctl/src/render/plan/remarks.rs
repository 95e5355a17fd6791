//! What stands below a plan's tables: changes, what is not placed, what waits to be asked for, what is wrong with the
//! wishes, and what comes next.

use super::{Page, is_contradictory, is_empty, size};
use crate::render::paint::{Look, Paint, bold};
use crate::render::wrap::wrapped;
use mesh_core::placement::{Change, OnDemand, Plan, Unplaced};
use mesh_core::units::human_duration;
use std::time::Duration;

/// Reasons that are told of one mode unless all are asked for.
const TOLD: usize = 3;
/// Changes that are told unless all are asked for: two for each of ten machines.
const STEPS: usize = 20;

impl Page<'_> {
    pub(super) fn changes(&self, look: Look) -> Vec<String> {
        let changes = &self.plan.changes;
        if is_empty(self.plan) && changes.is_empty() || is_contradictory(self.plan) {
            return Vec::new();
        }
        if changes.is_empty() {
            let why =
                if self.plan.placed.is_empty() { "nothing is placed" } else { "all that is placed is there" };
            return vec![format!("Nothing changes: {why}.")];
        }
        let told = if self.asked.verbose { changes.len() } else { STEPS };
        let mut lines = vec![bold("Changes", look.color)];
        lines.extend(changes.iter().take(told).flat_map(|change| changed(change, self.plan, look)));
        if changes.len() > told {
            lines.push(format!("  {} more: --verbose", changes.len() - told));
        }
        lines
    }

    pub(super) fn not_placed(&self, look: Look) -> Vec<String> {
        let mut lines = Vec::new();
        for unplaced in &self.plan.unplaced {
            let rest = (!self.asked.verbose).then(|| self.asked.reasons(&unplaced.mode));
            lines.extend(mode_obstacles(unplaced, self.plan, rest.as_deref(), look));
        }
        if !lines.is_empty() {
            lines.insert(0, bold("Not placed", look.color));
        }
        lines
    }

    pub(super) fn on_demand(&self, look: Look) -> Vec<String> {
        let mut lines = Vec::new();
        for one in &self.plan.on_demand {
            lines.extend(wrapped(&format!("  {}: ", one.mode), &look.text(&place(one)), look));
        }
        if !lines.is_empty() {
            lines.insert(0, bold("On demand", look.color));
        }
        lines
    }

    pub(super) fn problems(&self, look: Look) -> Vec<String> {
        let mut lines = Vec::new();
        for problem in &self.plan.problems {
            let (sign, paint) = match problem.fatal {
                true => (look.sign("✕", "x"), Paint::Red),
                false => (look.sign("▲", "!"), Paint::Yellow),
            };
            let text = look.text(&format!("{}: {}", problem.key, problem.message));
            // Painted after it is broken into lines: escape sequences have no width.
            let mut wrapped = wrapped(&format!("# {sign} "), &text, look);
            wrapped[0] = wrapped[0].replacen(sign, &paint.on(sign, look.color), 1);
            lines.extend(wrapped);
        }
        if !lines.is_empty() {
            lines.insert(0, bold("# Wishes", look.color));
        }
        lines
    }

    /// Whether the mesh follows it, what the router does, and which command comes next.
    pub(super) fn following(&self, look: Look) -> Vec<String> {
        let asked = self.asked;
        if is_contradictory(self.plan) {
            return vec!["Nothing is moved until the wishes agree.".to_owned()];
        }
        let follows = self.state == "following";
        let is_proposal = asked.strategy.is_some() || asked.assumed;
        let is_held = !self.stopped.is_empty();
        let text = match (asked.applied, is_proposal, follows) {
            (true, _, _) if is_held => "Applied: the mesh is to follow this plan, and nothing moves yet.",
            (false, false, true) if is_held => "The mesh is to follow this plan, and nothing moves.",
            (true, _, _) => "Applied: the mesh follows this plan from now on.",
            (false, true, _) => "A proposal: nothing is moved.",
            (false, false, true) => "The mesh follows this plan.",
            (false, false, false) => "The mesh follows no plan: nothing is moved.",
        };
        let mut lines = vec![text.to_owned()];
        if asked.applied || (follows && !is_proposal) {
            lines.extend(self.next.iter().flat_map(|next| wrapped("  ", &look.text(next), look)));
        }
        let command = match asked.strategy {
            _ if is_empty(self.plan) => return self.nothing_wished(lines, look),
            _ if asked.assumed => None,
            _ if asked.applied => Some("meshctl wait --for plan,complete".to_owned()),
            // Nobody should apply what serves no mode.
            _ if self.plan.serves_nobody() => None,
            Some(strategy) => Some(format!("meshctl plan --strategy {} --apply", look.text(strategy))),
            None if follows => None,
            None => Some("meshctl plan --apply".to_owned()),
        };
        lines.extend(command.map(|command| format!("next: {}", Paint::Cyan.on(&command, look.color))));
        lines
    }

    fn nothing_wished(&self, mut lines: Vec<String>, look: Look) -> Vec<String> {
        let names: Vec<&str> = self.strategies.iter().map(|strategy| strategy.name.as_str()).collect();
        if !names.is_empty() {
            lines.extend(wrapped("strategies: ", &look.text(&names.join(", ")), look));
        }
        let name = names.first().copied().unwrap_or("NAME");
        let command = format!("meshctl plan --strategy {}", look.text(name));
        lines.push(format!("next: {}", Paint::Cyan.on(&command, look.color)));
        lines
    }
}

/// One step in words.
pub(crate) fn changed(change: &Change, plan: &Plan, look: Look) -> Vec<String> {
    let (sign, text) = match change {
        Change::Fetch { model, machine, size } if size.0 == 0 => ("+", format!("fetch {model} to {machine}")),
        Change::Fetch { model, machine, size } => ("+", format!("fetch {model} to {machine} ({size})")),
        Change::Load { model, machine, seconds } => {
            let time = human_duration(Duration::from_secs(u64::from(*seconds)));
            let held = plan.find(machine, model).map(|placed| format!("{}, ", placed.needs.total()));
            ("+", format!("load {model} on {machine} ({}about {time})", held.unwrap_or_default()))
        }
        Change::Resize { model, machine } => {
            let to = plan.find(machine, model).map(|placed| format!(" as {}", size(placed, look)));
            ("~", format!("load {model} on {machine} anew{}", to.unwrap_or_default()))
        }
        Change::Unload { model, machine, why } => ("-", format!("unload {model} from {machine}: {why}")),
    };
    wrapped(&format!("  {sign} "), &look.text(&text), look)
}

/// `8 of 9 copies`, where some of a mode's copies are placed.
pub(crate) fn part(unplaced: &Unplaced, plan: &Plan) -> Option<String> {
    let served = plan.placed.iter().flat_map(|placed| &placed.serves);
    let placed: u32 = served.filter(|serves| serves.mode == unplaced.mode).map(|serves| serves.copies).sum();
    (placed > 0).then(|| format!("{placed} of {} copies", placed.saturating_add(unplaced.copies)))
}

/// Why a mode does not get what it wants, and what would help. Where `rest` is told are all reasons; `None` = here.
pub(crate) fn mode_obstacles(
    unplaced: &Unplaced,
    plan: &Plan,
    rest: Option<&str>,
    look: Look,
) -> Vec<String> {
    let models: Vec<&str> = unplaced.models.iter().map(|model| model.as_str()).collect();
    let mut head = match models.as_slice() {
        [] => "no model of the mesh can serve it".to_owned(),
        models => models.join(", "),
    };
    if let Some(part) = part(unplaced, plan) {
        head.push_str(&format!(" ({part} are placed)"));
    } else if unplaced.copies > 1 {
        head.push_str(&format!(" ({} copies are missing)", unplaced.copies));
    }
    if unplaced.impossible {
        head.push_str(", impossible on these machines even if they were empty");
    }
    let mode = format!("  {}: ", look.text(unplaced.mode.as_str()));
    let mut lines = wrapped(&mode, &look.text(&head), look);
    let told = if rest.is_none() { unplaced.obstacles.len() } else { TOLD };
    for obstacle in unplaced.obstacles.iter().take(told) {
        let place = match models.as_slice() {
            [_] => format!("    {}: ", obstacle.machine),
            _ => format!("    {} on {}: ", obstacle.model, obstacle.machine),
        };
        lines.extend(wrapped(&look.text(&place), &look.text(&obstacle.why), look));
    }
    if let Some(rest) = rest.filter(|_| unplaced.obstacles.len() > told) {
        let more = unplaced.obstacles.len() - told;
        lines.push(format!("    {more} more: {}", look.text(rest)));
    }
    for help in &unplaced.would_help {
        lines.extend(wrapped("    would help: ", &look.text(help), look));
    }
    lines
}

/// Where a mode's model is loaded when somebody asks for it.
pub(crate) fn place(one: &OnDemand) -> String {
    match &one.place {
        Some((machine, model, true)) => format!("{model} on {machine}, where it fits beside the plan"),
        Some((machine, model, false)) => {
            format!("{model} on {machine}, where others must leave for it")
        }
        None => "no machine can hold any of its models".to_owned(),
    }
}
