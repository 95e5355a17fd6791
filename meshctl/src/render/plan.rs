//! A plan for people and for programs: what is to be where and what it takes, what is left of each machine. What
//! changes, what is not placed and why, and what comes next stand in [`remarks`].

mod remarks;

pub(crate) use remarks::{changed, mode_obstacles, part, place};

use super::paint::{self, Look, Paint};
use super::quantity::{UNKNOWN, bytes, context, known};
use super::table::{Cell, Rank, Table};
use super::wrap::wrapped;
use mesh_core::id::{MachineId, ModeName};
use mesh_core::memory::{CacheType, Confidence};
use mesh_core::placement::{MachineAfter, Placed, Plan};
use mesh_core::units::Bytes;
use mesh_proto::v1::StrategyLine;
use serde::Serialize;
use std::collections::BTreeSet;

/// What the plan is an answer to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked<'a> {
    /// `--strategy`.
    pub(crate) strategy: Option<&'a str>,
    /// Something was assumed that is not so.
    pub(crate) assumed: bool,
    /// It is the mesh's plan from now on.
    pub(crate) applied: bool,
    /// Every reason and every change.
    pub(crate) verbose: bool,
}

impl Asked<'_> {
    /// What tells every reason about a mode: `explain` knows the mesh's own plan only.
    pub(crate) fn reasons(self, mode: &ModeName) -> String {
        match self.strategy {
            _ if self.applied => format!("meshctl explain mode={mode}"),
            _ if self.assumed => "the same with --verbose".to_owned(),
            Some(strategy) => format!("meshctl plan --strategy {strategy} --verbose"),
            None => format!("meshctl explain mode={mode}"),
        }
    }
}

/// All of it.
pub(crate) struct Page<'a> {
    /// The plan.
    pub(crate) plan: &'a Plan,
    /// `off` or `following`.
    pub(crate) state: &'a str,
    /// What the router does next.
    pub(crate) next: &'a [String],
    /// Why nothing is moved although the mesh follows it.
    pub(crate) stopped: &'a [String],
    /// Strategies that could be chosen; only where nothing is wished.
    pub(crate) strategies: &'a [StrategyLine],
    /// What was asked.
    pub(crate) asked: Asked<'a>,
}

/// What `plan --json` prints: the plan, and what becomes of it.
#[derive(Serialize)]
pub(crate) struct Document<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    /// Whether every mode has a place for all of its copies; with less than it wants where `short` of `serves` says so.
    complete: bool,
    state: &'a str,
    next: &'a [String],
    /// Why nothing is moved although the mesh follows it.
    stopped: &'a [String],
    applied: bool,
}

impl Page<'_> {
    /// For programs.
    pub(crate) fn document(&self) -> Document<'_> {
        Document {
            plan: self.plan,
            complete: self.plan.is_complete(),
            state: self.state,
            next: self.next,
            stopped: self.stopped,
            applied: self.asked.applied,
        }
    }

    /// For people.
    pub(crate) fn text(&self, look: Look) -> String {
        format!("{}\n{}", self.proposal(look), self.conclusion(look))
    }

    /// Without what becomes of it: that is asked next.
    pub(crate) fn proposal(&self, look: Look) -> String {
        let mut lines = head(self.plan, look);
        let parts = [
            models(self.plan.placed.iter(), self.plan, look),
            pools(&self.plan.machines, look),
            self.changes(look),
            self.not_placed(look),
            self.on_demand(look),
            self.problems(look),
        ];
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            lines.push(String::new());
            lines.extend(part);
        }
        lines.join("\n") + "\n"
    }

    /// What becomes of it alone, after it was shown.
    pub(crate) fn conclusion(&self, look: Look) -> String {
        self.following(look).join("\n") + "\n"
    }
}

/// The modes that a plan is about.
fn modes(plan: &Plan) -> BTreeSet<&ModeName> {
    let served = plan.placed.iter().flat_map(|placed| &placed.serves).map(|serves| &serves.mode);
    let unplaced = plan.unplaced.iter().map(|unplaced| &unplaced.mode);
    served.chain(unplaced).chain(plan.on_demand.iter().map(|one| &one.mode)).collect()
}

/// Whether the wishes exclude each other, so that nothing was planned.
pub(crate) fn is_contradictory(plan: &Plan) -> bool {
    plan.problems.iter().any(|problem| problem.fatal)
}

/// Whether no mode wants anything, and nobody pinned anything.
pub(crate) fn is_empty(plan: &Plan) -> bool {
    let is_pinned = plan.placed.iter().any(|placed| placed.pinned);
    !is_contradictory(plan) && !is_pinned && modes(plan).is_empty()
}

/// How many modes do not get what they want, of how many.
pub(crate) fn unserved(plan: &Plan) -> (usize, usize) {
    let unplaced: BTreeSet<&ModeName> = plan.unplaced.iter().map(|unplaced| &unplaced.mode).collect();
    (unplaced.len(), modes(plan).len())
}

/// `1 machine`, `2 machines`
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// `Plan spread   5 modes on 4 machines   feasible, at least 2.2 GiB stay free`, in as many lines as it needs.
fn head(plan: &Plan, look: Look) -> Vec<String> {
    let name = if plan.strategy.is_empty() { "Plan".to_owned() } else { format!("Plan {}", plan.strategy) };
    let name = look.text(&name);
    let (verdict, paint) = verdict(plan);
    let size = format!("{} on {}", count(modes(plan).len(), "mode"), count(plan.machines.len(), "machine"));
    let (bold, painted) = (paint::bold(&name, look.color), paint.on(&verdict, look.color));
    if is_contradictory(plan) {
        return vec![format!("{bold}   {painted}")];
    }
    let length = name.chars().count() + size.chars().count() + verdict.chars().count() + 6;
    if look.width.is_none_or(|width| length <= width) {
        return vec![format!("{bold}   {size}   {painted}")];
    }
    let verdict = wrapped("", &verdict, look).into_iter().map(|line| paint.on(&line, look.color));
    std::iter::once(format!("{bold}   {size}")).chain(verdict).collect()
}

fn verdict(plan: &Plan) -> (String, Paint) {
    if is_contradictory(plan) {
        return ("not planned: the wishes contradict themselves".to_owned(), Paint::Red);
    }
    if is_empty(plan) {
        return ("nothing is wished".to_owned(), Paint::Yellow);
    }
    let free = plan.machines.iter().filter_map(least_free).min();
    let free = free.map_or_else(String::new, |free| format!(", at least {free} stay free"));
    let (missing, all) = unserved(plan);
    let parts: Vec<String> = plan.unplaced.iter().filter_map(|unplaced| part(unplaced, plan)).collect();
    let is = |number: usize| if number == 1 { "is" } else { "are" };
    let all = count(all, "mode");
    let lack = match (missing.saturating_sub(parts.len()), parts.as_slice()) {
        (0, []) => {
            return match short(plan) {
                0 => (format!("feasible{free}"), Paint::Green),
                1 => (format!("feasible, 1 mode with less than it wants{free}"), Paint::Yellow),
                short => (format!("feasible, {short} modes with less than they want{free}"), Paint::Yellow),
            };
        }
        (0, [part]) => format!("1 of {all} is placed in part ({part})"),
        (0, parts) => format!("{} of {all} are placed in part", parts.len()),
        (none, []) => format!("{none} of {all} {} not placed", is(none)),
        (none, parts) => format!("{none} of {all} {} not placed, {} in part", is(none), parts.len()),
    };
    (format!("not feasible: {lack}{free}"), Paint::Red)
}

/// How many modes are served with less than they want.
fn short(plan: &Plan) -> usize {
    let served = plan.placed.iter().flat_map(|placed| &placed.serves);
    let short: BTreeSet<&ModeName> =
        served.filter(|serves| !serves.short.is_empty()).map(|serves| &serves.mode).collect();
    short.len()
}

/// What is left where most is taken: of the pools that the plan uses, the one with the least.
fn least_free(machine: &MachineAfter) -> Option<Bytes> {
    machine.pools.iter().filter(|pool| pool.used.0 > 0).filter_map(|pool| pool.free).min()
}

/// A table of what is placed, and below it what is short of the wishes.
pub(crate) fn models<'a>(placed: impl Iterator<Item = &'a Placed>, plan: &Plan, look: Look) -> Vec<String> {
    let mut table = Table::default()
        .left("NODE", Rank::Essential)
        .left("MODEL", Rank::Essential)
        .right("WEIGHTS", Rank::Useful)
        .left(look.sign("KV (ctx × slots)", "KV (ctx x slots)"), Rank::Useful)
        .right("COMPUTE", Rank::Extra)
        .right("TOTAL", Rank::Important)
        .right("FREE AFTER", Rank::Important)
        .left("FOR", Rank::Important);
    let mut short = Vec::new();
    let mut last: Option<&MachineId> = None;
    for one in placed {
        let is_first = last != Some(&one.machine);
        last = Some(&one.machine);
        let after = plan.machines.iter().find(|machine| machine.machine == one.machine);
        let free = after.and_then(least_free).map(|free| free.0);
        let parts = one.footprint.device.plus(one.footprint.host);
        let part = |held: u64| if held == 0 { UNKNOWN.to_owned() } else { bytes(held) };
        table.row([
            Cell::text(if is_first { look.text(one.machine.as_str()) } else { String::new() }),
            Cell::text(look.text(one.model.as_str())),
            Cell::text(part(parts.weights.0)),
            Cell::text(cache(one, look)),
            Cell::text(part(parts.compute.0.saturating_add(parts.overhead.0))),
            Cell::text(total(one)),
            Cell::text(if is_first { known(free, bytes) } else { String::new() }),
            Cell::List(serves(one, look)),
        ]);
        for serves in one.serves.iter().filter(|serves| !serves.short.is_empty()) {
            let lack = serves.short.join(", ");
            let text = look.text(&format!("{} on {}: {lack}", serves.mode, one.machine));
            short.extend(wrapped("# ", &text, look));
        }
    }
    if last.is_none() {
        return Vec::new();
    }
    let mut lines = table.lines(look);
    lines.extend(short);
    lines
}

/// `3.2 GiB (64k × 2, q8_0)`; the type where it is not f16.
fn cache(placed: &Placed, look: Look) -> String {
    let parts = placed.footprint.device.plus(placed.footprint.host);
    let held = parts.kv.0.saturating_add(parts.recurrent.0);
    let held = if held == 0 { UNKNOWN.to_owned() } else { bytes(held) };
    format!("{held} ({})", size(placed, look))
}

/// `64k × 2, q8_0`
pub(crate) fn size(placed: &Placed, look: Look) -> String {
    let tokens = placed.context.map_or_else(|| "?".to_owned(), context);
    let word = placed.cache.word();
    let kind = if placed.cache == CacheType::F16 { String::new() } else { format!(", {word}") };
    format!("{tokens} {} {}{kind}", look.sign("×", "x"), placed.slots)
}

/// `~` stands before what is only estimated; nothing is known of what takes nothing.
fn total(placed: &Placed) -> String {
    if placed.needs.total().0 == 0 {
        return UNKNOWN.to_owned();
    }
    let sign = match placed.confidence() {
        Confidence::Measured | Confidence::Oracle | Confidence::Exact => "",
        Confidence::Estimated | Confidence::Guessed => "~",
    };
    format!("{sign}{}", placed.needs.total())
}

fn serves(placed: &Placed, look: Look) -> Vec<String> {
    let mode = |serves: &mesh_core::placement::Serves| match serves.copies {
        1 => look.text(serves.mode.as_str()),
        copies => format!("{} {}{copies}", look.text(serves.mode.as_str()), look.sign("×", "x")),
    };
    let pinned = placed.pinned.then(|| "pinned".to_owned());
    placed.serves.iter().map(mode).chain(pinned).collect()
}

/// The machines' pools under a plan, and below them why machines are not open.
pub(crate) fn pools(machines: &[MachineAfter], look: Look) -> Vec<String> {
    let mut table = Table::default()
        .left("NODE", Rank::Essential)
        .left("POOL", Rank::Essential)
        .right("GIVES", Rank::Useful)
        .right("TAKEN", Rank::Important)
        .right("FREE", Rank::Important)
        .right("RESERVED", Rank::Extra);
    let mut rows = 0;
    for machine in machines {
        for (at, pool) in machine.pools.iter().enumerate() {
            let amount = |held: Bytes| if held.0 == 0 { UNKNOWN.to_owned() } else { bytes(held.0) };
            let free = known(pool.free, |free| bytes(free.0));
            let is_full = pool.free == Some(Bytes(0)) && pool.used.0 > 0;
            table.row([
                Cell::text(if at == 0 { look.text(machine.machine.as_str()) } else { String::new() }),
                Cell::text(look.text(&pool.name)),
                Cell::text(known(pool.capacity, |all| bytes(all.0))),
                Cell::text(amount(pool.used)),
                Cell::Text(free, if is_full { Paint::Yellow } else { Paint::Plain }),
                Cell::text(amount(pool.reserved)),
            ]);
            rows += 1;
        }
    }
    let mut lines = if rows == 0 { Vec::new() } else { table.lines(look) };
    for machine in machines.iter().filter(|machine| !machine.barred.is_empty()) {
        let text = look.text(&format!("{}: nothing new comes, {}", machine.machine, machine.barred));
        lines.extend(wrapped("# ", &text, look));
    }
    lines
}
