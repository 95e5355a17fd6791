//! A report as JSON, `mesh.ladder-report/v1`: what is said of the records, by their ids. The raw measurements stay in the records.

use super::Report;
use mesh_core::ladder::{Analysis, Cost, FORMULAS, Imported, Prices, Recommended, Settings};
use mesh_core::profile::{HardwareFacts, SoftwareFacts};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Document<'a> {
    climbs: Vec<Climb<'a>>,
    /// What they recommend together, and the same as lines of the router's file.
    recommended: &'a [Recommended],
    configuration: Vec<String>,
    prices: Option<&'a Prices>,
    formulas: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
struct Climb<'a> {
    id: &'a str,
    node: &'a str,
    meshctl: &'a str,
    imported: Option<&'a Imported>,
    started_unix_ms: u64,
    ended_unix_ms: Option<u64>,
    hardware: &'a HardwareFacts,
    software: &'a SoftwareFacts,
    settings: &'a Settings,
    models: Vec<Model<'a>>,
    analysis: &'a Analysis,
    /// In the order of the rungs; `null` = no prices were given.
    costs: Option<&'a [Cost]>,
    stopped: Option<&'a str>,
}

/// Which file was measured.
#[derive(Serialize)]
struct Model<'a> {
    model: &'a str,
    size: Option<u64>,
    parameters: Option<u64>,
    active_parameters: Option<u64>,
    quantisation: Option<&'a str>,
    digest: Option<&'a str>,
    engine: Option<String>,
    load_s: Option<f64>,
}

pub(super) fn document(report: &Report<'_>) -> String {
    let climbs = report.climbs.iter().map(|climb| {
        let record = climb.record;
        let models = record.rungs.iter().map(|rung| Model {
            model: rung.model.as_str(),
            size: rung.size.map(|size| size.0),
            parameters: rung.parameters,
            active_parameters: rung.active_parameters,
            quantisation: rung.quantisation.as_deref(),
            digest: super::machine::digest(rung),
            engine: super::machine::build(rung),
            load_s: rung.load_s,
        });
        Climb {
            id: &record.id,
            node: record.node.as_str(),
            meshctl: &record.meshctl,
            imported: record.imported.as_ref(),
            started_unix_ms: record.started_unix_ms,
            ended_unix_ms: record.ended_unix_ms,
            hardware: &record.hardware,
            software: &record.software,
            settings: &record.settings,
            models: models.collect(),
            analysis: &climb.analysis,
            costs: report.prices.map(|_| climb.costs.as_slice()),
            stopped: record.stopped.as_ref().map(|stopped| stopped.why.as_str()),
        }
    });
    let lines: Vec<Vec<String>> = report.recommended.iter().map(Recommended::lines).collect();
    let document = Document {
        climbs: climbs.collect(),
        recommended: &report.recommended,
        configuration: lines.join(&String::new()),
        prices: report.prices,
        formulas: FORMULAS.into_iter().collect(),
    };
    super::super::json("mesh.ladder-report/v1", &document, false)
}
