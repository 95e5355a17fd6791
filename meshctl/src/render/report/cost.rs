//! What a million generated tokens cost, with where each watt and each price comes from.

use super::super::ladder::number;
use super::super::quantity::{UNKNOWN, known};
use super::document::{Block, Entry, Grid, Section};
use super::{Climb, Report};
use mesh_core::ladder::{Cost, Prices, RungSummary};

/// Where watts come from. Agents read no meter at the wall.
const WATTS: &str = "Watts are those that the graphics processors' own sensors tell, the mean over the looks at the machine while \
                     it worked. Processor, memory and power supply are not in them, so the electricity at the wall is more.";

pub(super) fn section(report: &Report<'_>) -> Section {
    let mut blocks = vec![Block::words(WATTS)];
    if report.prices.is_none() {
        blocks.push(Block::words(
            "No prices were given, so nothing is computed from these watts. Write a file as configs/prices.toml shows, and:",
        ));
        let ids: Vec<&str> = report.climbs.iter().map(|climb| climb.record.id.as_str()).collect();
        blocks
            .push(Block::Code(vec![format!("meshctl ladder report {} --prices prices.toml", ids.join(" "))]));
    }
    for climb in &report.climbs {
        if report.is_comparison() {
            blocks.push(Block::Heading(climb.name.clone()));
        }
        blocks.push(Block::Table(amounts(climb, report.prices)));
        blocks.push(Block::List(made_of(climb)));
    }
    if let Some(prices) = report.prices {
        blocks.extend(cloud(report, prices));
    }
    Section { anchor: "cost", title: "Cost of a million generated tokens", blocks }
}

fn amounts(climb: &Climb<'_>, prices: Option<&Prices>) -> Grid {
    let currency = prices.map_or("", |prices| prices.currency.as_str());
    let mut grid = Grid::default().left("MODEL").right("WATTS").left("MEASURED").right("J/TOKEN");
    if prices.is_some() {
        grid = grid
            .right(format!("ELECTRICITY {currency}"))
            .right(format!("MACHINE {currency}"))
            .right(format!("BOTH {currency}"));
    }
    for (at, (rung, summary, _)) in climb.rungs().enumerate() {
        let mut row = vec![
            Entry::from(rung.model.as_str()),
            known(summary.watts, number).into(),
            provenance(summary).into(),
            known(summary.joules_per_token, number).into(),
        ];
        if prices.is_some() {
            let cost = climb.costs.get(at);
            let amount = |value: Option<f64>| Entry::from(known(value, number));
            row.push(amount(cost.and_then(|cost| cost.energy.as_ref()).map(|energy| energy.per_million)));
            row.push(amount(
                cost.and_then(|cost| cost.amortised.as_ref()).map(|machine| machine.per_million),
            ));
            row.push(amount(cost.and_then(|cost| cost.total)));
        }
        grid.row(row);
    }
    grid
}

/// `GPU sensors, 24 looks, 512:128 tokens, 1 stream`
fn provenance(summary: &RungSummary) -> String {
    let cell = summary.cells.iter().find(|cell| cell.decode.is_some()).or(summary.cells.first());
    match (summary.watts, cell) {
        (Some(_), Some(cell)) => format!("GPU sensors, {} looks, {}", cell.looks, summary.measured_by),
        _ => UNKNOWN.into(),
    }
}

/// What each amount is made of.
fn made_of(climb: &Climb<'_>) -> Vec<String> {
    let told = |(rung, cost): (&mesh_core::ladder::Rung, &Cost)| {
        let parts = [("electricity", &cost.energy), ("machine", &cost.amortised)];
        let parts =
            parts.map(|(what, amount)| amount.as_ref().map(|amount| format!("{what} {}", amount.how)));
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("{}: {}", rung.model, parts.join("; ")))
    };
    climb.record.rungs.iter().zip(&climb.costs).filter_map(told).collect()
}

fn cloud(report: &Report<'_>, prices: &Prices) -> Vec<Block> {
    if prices.cloud.is_empty() {
        return vec![Block::words("The file of prices has none of a cloud to compare with.")];
    }
    let mut asked = Grid::default()
        .left("CLOUD")
        .right(format!("A MILLION TOKENS {}", prices.currency))
        .left("AS OF")
        .left("SOURCE");
    for price in &prices.cloud {
        asked.row([
            Entry::from(price.model.as_str()),
            number(price.per_million).into(),
            price.as_of.as_str().into(),
            price.source.as_str().into(),
        ]);
    }
    let mut shares = Grid::default().left("MODEL");
    for price in &prices.cloud {
        shares = shares.right(format!("OF {}", price.model));
    }
    for climb in &report.climbs {
        for (rung, cost) in climb.record.rungs.iter().zip(&climb.costs) {
            let of = if report.is_comparison() { format!(" on {}", climb.name) } else { String::new() };
            let cells = cost.cloud.iter().map(|one| {
                Entry::from(known(one.share, |share| format!("{:.0} % ({})", share * 100.0, part(cost))))
            });
            shares.row(std::iter::once(Entry::from(format!("{}{of}", rung.model))).chain(cells));
        }
    }
    vec![
        Block::words("Prices of clouds, as the file says; they change, so mind the dates:"),
        Block::Table(asked),
        Block::words("What a million tokens cost here, as a part of that:"),
        Block::Table(shares),
    ]
}

/// What a share is of: not both parts may be known.
fn part(cost: &Cost) -> &'static str {
    match (&cost.energy, &cost.amortised) {
        (Some(_), Some(_)) => "both",
        (Some(_), None) => "electricity alone",
        (None, Some(_)) => "machine alone",
        (None, None) => "nothing known",
    }
}
