//! The models of all machines, and those on their way.

use super::paint::Look;
use super::quantity::{UNKNOWN, bytes, context, known};
use super::table::{Cell, Rank, Table};
use mesh_core::machine::{ReplicaState, Report, Store, StoredModel, Transfer, TransferState};
use mesh_core::strategy::Pin;
use mesh_core::units::human_duration;
use std::collections::BTreeSet;
use std::time::Duration;

/// One row for each model on each machine, with what is on its way below. `pins` stay whatever is planned.
pub(crate) fn list(machines: &[(String, Report)], pins: &BTreeSet<Pin>, look: Look) -> String {
    let mut table = Table::default()
        .left("MODEL", Rank::Essential)
        .left("NODE", Rank::Essential)
        .left("IS", Rank::Essential)
        .right("SIZE", Rank::Important)
        .left("QUANT", Rank::Useful)
        .right("CONTEXT", Rank::Useful)
        .left("HEALTH", Rank::Useful)
        .left("ENGINE", Rank::Extra)
        .left("SHA-256", Rank::Extra);
    let mut rows = rows(machines);
    if rows.is_empty() {
        return "no models; fetch one: meshctl model pull MODEL --node NODE --url URL\n".to_owned();
    }
    rows.sort();
    for row in rows {
        let is_pinned = |pin: &Pin| pin.model.as_str() == row.model && pin.machine.as_str() == row.node;
        let pinned = if pins.iter().any(is_pinned) { ", pinned" } else { "" };
        table.row([
            Cell::text(look.text(&row.model)),
            Cell::text(look.text(&row.node)),
            Cell::text(format!("{}{pinned}", row.state)),
            Cell::text(known(row.size, bytes)),
            Cell::text(look.text(&row.quantisation)),
            Cell::text(known(row.context, context)),
            Cell::text(row.health),
            Cell::text(look.text(&row.engine)),
            Cell::text(row.digest),
        ]);
    }
    let mut lines = table.lines(look);
    for (node, report) in machines {
        let Some(store) = report.store.as_ref().filter(|store| !store.transfers.is_empty()) else { continue };
        lines.push(String::new());
        lines.push(look.text(node));
        lines.extend(transfers(store, look).into_iter().filter(|line| !line.is_empty()));
    }
    lines.join("\n") + "\n"
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    model: String,
    node: String,
    state: &'static str,
    size: Option<u64>,
    quantisation: String,
    context: Option<u32>,
    health: &'static str,
    engine: String,
    digest: String,
}

fn rows(machines: &[(String, Report)]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (node, report) in machines {
        let stored = report.store.as_ref().map(|store| store.models.as_slice()).unwrap_or_default();
        let mut seen = Vec::new();
        for engine in report.engines.iter().flatten() {
            for replica in &engine.replicas {
                let is_of = |file: &&StoredModel| {
                    file.model == replica.model || file.served_as.as_ref() == Some(&replica.model)
                };
                let file = stored.iter().find(is_of);
                seen.push(replica.model.clone());
                // One file, one line: its other name leads nowhere.
                seen.extend(file.map(|file| file.model.clone()));
                rows.push(Row {
                    model: replica.model.to_string(),
                    node: node.clone(),
                    state: state(&replica.state),
                    size: replica.size.map(|size| size.0).or(file.map(|file| file.size.0)),
                    quantisation: quantisation(file),
                    context: replica.context.or(replica.trained_context),
                    health: if replica.state == ReplicaState::Loaded {
                        replica.health.word()
                    } else {
                        UNKNOWN
                    },
                    engine: engine.name.clone(),
                    digest: digest(file),
                });
            }
        }
        // A broken file, or one that nothing on the machine can serve.
        for file in stored.iter().filter(|file| !seen.contains(&file.model)) {
            rows.push(Row {
                model: file.model.to_string(),
                node: node.clone(),
                state: if file.broken.is_some() { "broken" } else { "on disk" },
                size: Some(file.size.0),
                quantisation: quantisation(Some(file)),
                context: file.trained_context,
                health: UNKNOWN,
                engine: UNKNOWN.to_owned(),
                digest: digest(Some(file)),
            });
        }
    }
    rows
}

fn state(state: &ReplicaState) -> &'static str {
    match state {
        ReplicaState::Available => "on disk",
        ReplicaState::Loading => "loading",
        ReplicaState::Loaded => "loaded",
        ReplicaState::Failed(_) => "failed",
    }
}

fn quantisation(file: Option<&StoredModel>) -> String {
    file.and_then(|file| file.quantisation.clone()).unwrap_or_else(|| UNKNOWN.to_owned())
}

fn digest(file: Option<&StoredModel>) -> String {
    file.and_then(|file| file.digest.as_ref())
        .map_or_else(|| UNKNOWN.to_owned(), |digest| digest.as_str()[..12].to_owned())
}

/// What is on its way to one machine, and what ended lately; nothing when there is nothing.
pub(crate) fn transfers(store: &Store, look: Look) -> Vec<String> {
    if store.transfers.is_empty() {
        return Vec::new();
    }
    let mut table = Table::default()
        .left("FETCHING", Rank::Essential)
        .left("FROM", Rank::Useful)
        .left("IS", Rank::Essential)
        .right("DONE", Rank::Important)
        .right("RATE", Rank::Useful)
        .right("LEFT", Rank::Useful);
    let mut failures = Vec::new();
    for transfer in &store.transfers {
        table.row([
            Cell::text(look.text(transfer.model.as_str())),
            Cell::text(look.text(&transfer.source)),
            Cell::text(transfer.state.word()),
            Cell::text(done(transfer)),
            Cell::text(known(transfer.rate, |rate| format!("{}/s", bytes(rate.0)))),
            Cell::text(known(left(transfer), human_duration)),
        ]);
        if let TransferState::Failed(why) = &transfer.state {
            failures.push(format!("# {}: {}", look.text(transfer.model.as_str()), look.text(why)));
        }
    }
    let mut lines = vec![String::new()];
    lines.extend(table.lines(look));
    lines.extend(failures);
    lines
}

/// `3.1 GiB of 17.3 GiB, 18 %`
pub(crate) fn done(transfer: &Transfer) -> String {
    match transfer.total.filter(|total| total.0 > 0) {
        Some(total) => {
            // A server that sends more than it said is not 105 % done.
            let percent = (transfer.done.0.min(total.0) as f64 / total.0 as f64 * 100.0).floor();
            format!("{} of {}, {percent:.0} %", bytes(transfer.done.0), bytes(total.0))
        }
        None => bytes(transfer.done.0),
    }
}

/// How long it takes at the present rate.
pub(crate) fn left(transfer: &Transfer) -> Option<Duration> {
    let missing = transfer.total?.0.checked_sub(transfer.done.0)?;
    let rate = transfer.rate.filter(|rate| rate.0 > 0 && transfer.state == TransferState::Running)?;
    Some(Duration::from_secs(missing.div_ceil(rate.0)))
}
