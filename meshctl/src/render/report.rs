//! A report over climbs: for people as Markdown or as one HTML file with plots, for programs as CSV or JSON. Pure: records and
//! prices come in, text goes out.
//!
//! ```text
//! records, prices ─► Report ─┬► sections (machine, rungs, choice, cost, guide) ─┬► markdown
//!                            │                            plots ────────────────┴► html
//!                            ├► csv
//!                            └► json
//! ```

mod axis;
mod choice;
mod cost;
mod csv;
mod document;
mod guide;
mod html;
mod json;
mod machine;
mod markdown;
mod markup;
mod plot;
mod plots;
mod rungs;

use super::paint::Look;
use document::{Block, Section};
use mesh_core::ladder::{
    Analysis, Cost, FORMULAS, Prices, Recommended, Record, Rung, RungSummary, Step, analyse, cost, recommend,
};

/// Documents are UTF-8 and as wide as they want.
const WIDE: Look = Look { width: None, color: false, unicode: true };

/// Climbs with all that is said of them.
pub(crate) struct Report<'a> {
    climbs: Vec<Climb<'a>>,
    /// What they recommend together.
    recommended: Vec<Recommended>,
    prices: Option<&'a Prices>,
}

/// One climb.
struct Climb<'a> {
    record: &'a Record,
    analysis: Analysis,
    /// The machine, and the climb's id where the machine alone does not tell it from another.
    name: String,
    /// What a million tokens cost on each rung; empty without prices.
    costs: Vec<Cost>,
}

impl<'a> Report<'a> {
    /// Over these climbs, in this order. Amounts are computed where prices are given.
    pub(crate) fn of(records: &'a [Record], prices: Option<&'a Prices>) -> Self {
        let all: Vec<&Record> = records.iter().collect();
        let climb = |record: &'a Record| {
            let analysis = analyse(record);
            let alone = records.iter().filter(|other| other.node == record.node).count() == 1;
            let name = if alone { record.node.to_string() } else { format!("{} {}", record.node, record.id) };
            let own = prices.map(|prices| prices.of(&record.node));
            let costs = own.map(|own| analysis.rungs.iter().map(|rung| cost(rung, &own)).collect());
            Climb { record, analysis, name, costs: costs.unwrap_or_default() }
        };
        Self { climbs: records.iter().map(climb).collect(), recommended: recommend(&all), prices }
    }

    /// For people, to paste.
    pub(crate) fn markdown(&self) -> String {
        markdown::page(&self.title(), &self.sections())
    }

    /// One file with plots, for a browser or a printer.
    pub(crate) fn html(&self) -> String {
        html::page(&self.title(), &self.sections())
    }

    /// A row for each cell.
    pub(crate) fn csv(&self) -> String {
        csv::rows(self)
    }

    /// The same as data.
    pub(crate) fn json(&self) -> String {
        json::document(self)
    }

    fn title(&self) -> String {
        let names: Vec<&str> = self.climbs.iter().map(|climb| climb.name.as_str()).collect();
        format!("Ladder report: {}", names.join(", "))
    }

    fn sections(&self) -> Vec<Section> {
        vec![
            machine::machines(self),
            rungs::ladder(self),
            choice::section(self),
            plots::section(self),
            guide::section(self),
            cost::section(self),
            rungs::cells(self),
            machine::models(self),
            formulas(),
        ]
    }

    fn is_comparison(&self) -> bool {
        self.climbs.len() > 1
    }
}

impl Climb<'_> {
    /// Each rung with its figures and the last word on it.
    fn rungs(&self) -> impl Iterator<Item = (&Rung, &RungSummary, &str)> {
        let remarks = self.analysis.remarks.iter().map(String::as_str);
        self.record
            .rungs
            .iter()
            .zip(&self.analysis.rungs)
            .zip(remarks)
            .map(|((rung, summary), remark)| (rung, summary, remark))
    }

    /// The step that led to a rung.
    fn step_to(&self, rung: &Rung) -> Option<&Step> {
        self.analysis.steps.iter().find(|step| step.to == rung.model)
    }
}

fn formulas() -> Section {
    let formulas = FORMULAS.iter().map(|(name, formula)| format!("{name} = {formula}")).collect();
    let blocks = vec![
        Block::words(
            "n is how many measurements a figure is of; ± is the standard deviation over them. Intervals of success are \
             95 % Wilson intervals: of few answers they are wide, and that is what is known.",
        ),
        Block::List(formulas),
    ];
    Section { anchor: "formulas", title: "How the figures are computed", blocks }
}

#[cfg(test)]
mod tests;
