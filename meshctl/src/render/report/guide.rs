//! The deployment guide: what this report recommends, as lines and commands that a new user can follow.

use super::document::{Block, Entry, Grid, Section, Tone};
use super::{Climb, Report};
use crate::render::quantity::word;
use mesh_core::id::ModelId;
use mesh_core::ladder::{Recommended, Rung};

pub(super) fn section(report: &Report<'_>) -> Section {
    let mut blocks = vec![Block::words(
        "The report itself changed nothing. These steps give the mesh what the figures recommend; each can be taken back.",
    )];
    let chosen: Vec<&Recommended> = report.recommended.iter().filter(|one| !one.models.is_empty()).collect();
    let loads = loads(report, &chosen);
    if chosen.is_empty() {
        blocks.extend(without_modes(report));
    } else {
        blocks.extend(with_modes(report, &chosen));
    }
    if !loads.is_empty() {
        blocks.push(Block::Heading("Load a model by hand".into()));
        blocks.push(Block::words(
            "Where the mesh follows no plan, or to try one now: in the size in which it was measured. Each was measured alone; one \
             that has no room beside the others is refused with the numbers.",
        ));
        blocks.push(Block::Code(loads));
    }
    for climb in &report.climbs {
        if let Some(imported) = &climb.record.imported {
            blocks.push(Block::words(format!(
                "What {} measured on {} stands here under the names of files; meshctl model list says what the mesh calls them. \
                 No answers were judged, so nothing of it is recommended for a mode.",
                imported.from, climb.name
            )));
        }
    }
    blocks.push(Block::Heading("Look whether it is so".into()));
    let mut look: Vec<String> = chosen.iter().map(|one| format!("meshctl mode test {}", one.mode)).collect();
    look.push("meshctl status".into());
    blocks.push(Block::Code(look));
    blocks.extend(avoid(report));
    Section { anchor: "guide", title: "Deployment guide", blocks }
}

fn with_modes(report: &Report<'_>, chosen: &[&Recommended]) -> Vec<Block> {
    let settings = chosen.iter().filter_map(|one| one.setting());
    let mut lines: Vec<String> = Vec::new();
    for one in &report.recommended {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(one.lines());
    }
    vec![
        Block::Heading("Say which models serve which mode".into()),
        Block::words("At once; it outlives a restart, and meshctl mode reset MODE takes it back:"),
        Block::Code(
            settings.map(|(mode, models)| format!("meshctl mode set {mode} {}", word(&models))).collect(),
        ),
        Block::words(
            "Or for good, in the router's file: these lines take the place of those modes in router.toml, and the router is \
             started again.",
        ),
        Block::Code(lines),
        Block::Heading("See where they would be, then follow it".into()),
        Block::words(
            "The first command changes nothing. The second shows the same, asks, and loads and unloads models:",
        ),
        Block::Code(vec!["meshctl plan".into(), "meshctl plan --apply".into()]),
    ]
}

/// No mode has a model: either none said what it wants, or none can be served.
fn without_modes(report: &Report<'_>) -> Vec<Block> {
    let mut blocks = Vec::new();
    let reasons: Vec<String> =
        report.recommended.iter().map(|one| format!("{}: {}", one.mode, one.why)).collect();
    if reasons.is_empty() {
        blocks.push(Block::words(
            "No mode said what it wants when this was measured, so there are no lines for router.toml. With targets the next \
             climb has them:",
        ));
        let nodes =
            report.climbs.iter().map(|climb| format!("meshctl ladder run --node {}", climb.record.node));
        let target = "meshctl mode set ask ttft=2s tpot=50ms".to_owned();
        blocks.push(Block::Code(std::iter::once(target).chain(nodes).collect()));
    } else {
        blocks.push(Block::words("No measured model meets what a mode wants, so nothing is recommended:"));
        blocks.push(Block::List(reasons));
    }
    blocks
}

/// A command for each model that is somebody's best.
fn loads(report: &Report<'_>, chosen: &[&Recommended]) -> Vec<String> {
    let mut loads: Vec<String> = Vec::new();
    for climb in report.climbs.iter().filter(|climb| climb.record.imported.is_none()) {
        let of_modes = chosen.iter().filter(|one| one.node.as_ref() == Some(&climb.record.node));
        let of_modes: Vec<&ModelId> = of_modes.filter_map(|one| one.models.first()).collect();
        let of_kinds = climb.analysis.kinds.iter().filter_map(|choice| choice.model.as_ref());
        let best: Vec<&ModelId> = if chosen.is_empty() { of_kinds.collect() } else { of_modes };
        for model in best {
            let rung = climb.record.rungs.iter().find(|rung| rung.model == *model);
            let line = format!(
                "meshctl model load {} --node {}{}",
                word(model.as_str()),
                climb.record.node,
                rung.map(size).unwrap_or_default()
            );
            if !loads.contains(&line) {
                loads.push(line);
            }
        }
    }
    loads
}

/// ` --context 8192 --slots 1`, as far as it is known.
fn size(rung: &Rung) -> String {
    let subject = rung.subject.as_ref();
    let context = subject.and_then(|subject| subject.context).map(|tokens| format!(" --context {tokens}"));
    let slots = subject.and_then(|subject| subject.slots).map(|slots| format!(" --slots {slots}"));
    context.unwrap_or_default() + &slots.unwrap_or_default()
}

fn avoid(report: &Report<'_>) -> Vec<Block> {
    let mut grid = Grid::default().left("MODEL").left("MACHINE").left("WHY");
    let of = |climb: &Climb<'_>| -> Vec<[Entry; 3]> {
        let all = climb.analysis.avoid.iter();
        all.map(|one| {
            let model = Entry::new(one.model.as_str(), Tone::Bad);
            [model, climb.record.node.as_str().into(), one.reasons.join("; ").into()]
        })
        .collect()
    };
    for row in report.climbs.iter().flat_map(of) {
        grid.row(row);
    }
    let heading = Block::Heading("Leave these out of every mode".into());
    if grid.rows.is_empty() {
        return vec![heading, Block::words("Nothing that was measured is to be avoided.")];
    }
    vec![heading, Block::Table(grid)]
}
