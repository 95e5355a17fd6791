//! Plans as the scenarios show them.

use mesh_core::placement::{Change, Plan};
use mesh_core::units::Bytes;
use std::fmt::Write as _;

/// The whole plan.
pub(super) fn plan(plan: &Plan) -> String {
    let mut text = String::new();
    for problem in &plan.problems {
        let _ = writeln!(text, "problem: {}: {}", problem.key, problem.message);
    }
    for machine in &plan.machines {
        let pools: Vec<String> = machine
            .pools
            .iter()
            .filter(|pool| pool.capacity.is_some())
            .map(|pool| {
                let free = pool.free.unwrap_or(Bytes(0));
                let reserve = match pool.reserved.0 {
                    0 => String::new(),
                    _ => format!(", {} kept for the human", pool.reserved),
                };
                format!(
                    "{} {} of {free_of} free{reserve}",
                    pool.name,
                    free,
                    free_of = pool.capacity.unwrap_or(Bytes(0))
                )
            })
            .collect();
        let barred =
            if machine.barred.is_empty() { String::new() } else { format!("  ({})", machine.barred) };
        let _ = writeln!(text, "{}: {}{barred}", machine.machine, pools.join("; "));
        for placed in plan.on(&machine.machine) {
            let parts = placed.footprint.device.plus(placed.footprint.host);
            let context = placed.context.map_or_else(|| "?".to_owned(), |tokens| tokens.to_string());
            let modes: Vec<String> = placed
                .serves
                .iter()
                .map(|serves| {
                    let copies =
                        if serves.copies > 1 { format!(" x{}", serves.copies) } else { String::new() };
                    let short = if serves.short.is_empty() {
                        String::new()
                    } else {
                        format!(" ({})", serves.short.join(", "))
                    };
                    format!("{}{copies}{short}", serves.mode)
                })
                .collect();
            let modes = if modes.is_empty() { "nobody".to_owned() } else { modes.join(", ") };
            let _ = writeln!(
                text,
                "  {}: weights {} + KV {} ({context} x {}, {}) + rest {} = {} for {modes}",
                placed.model,
                parts.weights,
                parts.kv,
                placed.slots,
                placed.cache.word(),
                Bytes(parts.recurrent.0 + parts.compute.0 + parts.overhead.0),
                placed.needs.total(),
            );
        }
    }
    for change in &plan.changes {
        let line = match change {
            Change::Fetch { model, machine, size } => format!("fetch {model} to {machine} ({size})"),
            Change::Load { model, machine, .. } => format!("load {model} on {machine}"),
            Change::Resize { model, machine } => format!("resize {model} on {machine}"),
            Change::Unload { model, machine, why } => format!("unload {model} from {machine}: {why}"),
        };
        let _ = writeln!(text, "change: {line}");
    }
    for mode in &plan.on_demand {
        let _ = match &mode.place {
            Some((machine, model, true)) => writeln!(text, "on demand: {}: {model} on {machine}", mode.mode),
            Some((machine, model, false)) => {
                writeln!(text, "on demand: {}: {model} on {machine}, once something else leaves", mode.mode)
            }
            None => writeln!(text, "on demand: {}: nowhere", mode.mode),
        };
    }
    for unplaced in &plan.unplaced {
        let word = if unplaced.impossible { "impossible" } else { "not placed" };
        let _ = writeln!(text, "{word}: {} ({} missing)", unplaced.mode, unplaced.copies);
        for obstacle in &unplaced.obstacles {
            let _ = writeln!(text, "  {} on {}: {}", obstacle.model, obstacle.machine, obstacle.why);
        }
        for help in &unplaced.would_help {
            let _ = writeln!(text, "  would help: {help}");
        }
    }
    if plan.is_complete() {
        let _ = writeln!(text, "every mode has what it wants");
    }
    text
}
