//! Which model for what: modes against models, what people choose by, what to avoid, and what would move it.

use super::document::{Block, Entry, Grid, Section, Tone};
use super::{Climb, Report};
use mesh_core::ladder::Fit;

pub(super) fn section(report: &Report<'_>) -> Section {
    let mut blocks = Vec::new();
    for climb in &report.climbs {
        if report.is_comparison() {
            blocks.push(Block::Heading(climb.name.clone()));
        }
        blocks.extend(of(climb));
    }
    Section { anchor: "choice", title: "Which model for what", blocks }
}

fn of(climb: &Climb<'_>) -> Vec<Block> {
    let analysis = &climb.analysis;
    let mut blocks = Vec::new();
    if climb.record.modes.is_empty() || climb.record.rungs.is_empty() {
        blocks.push(Block::words(
            "No mode said what it wants when this was measured, so no model is called best for one. Targets of a mode: \
             meshctl mode set MODE ttft=2s tpot=50ms.",
        ));
    } else {
        blocks.push(Block::Table(modes(climb)));
        let why = analysis.modes.iter().map(|choice| match choice.models.first() {
            Some(model) => format!("★ {}: {model}, {}", choice.mode, choice.why),
            None => format!("{}: {}", choice.mode, choice.why),
        });
        blocks.push(Block::List(why.collect()));
    }
    let kinds = analysis.kinds.iter().map(|choice| match &choice.model {
        Some(model) => format!("{}: {model}, {}", choice.kind, choice.why),
        None => format!("{}: {}", choice.kind, choice.why),
    });
    blocks.push(Block::words("Whatever the mode:"));
    blocks.push(Block::List(kinds.collect()));
    if !analysis.avoid.is_empty() {
        let avoid =
            analysis.avoid.iter().map(|one| format!("avoid {}: {}", one.model, one.reasons.join("; ")));
        blocks.push(Block::words("Not to be used:"));
        blocks.push(Block::List(avoid.collect()));
    }
    let needs = analysis.needs.iter().map(|need| format!("missing: {}", need.why));
    let advice = analysis.advice.iter().map(|advice| match &advice.mode {
        Some(mode) => format!("{mode}: {}", advice.text),
        None => advice.text.clone(),
    });
    let moves: Vec<String> = needs.chain(advice).collect();
    if !moves.is_empty() {
        blocks.push(Block::words("What would move it:"));
        blocks.push(Block::List(moves));
    }
    blocks
}

/// A row for each model, a column for each mode.
fn modes(climb: &Climb<'_>) -> Grid {
    let mut grid = Grid::default().left("MODEL");
    for goal in &climb.record.modes {
        grid = grid.left(goal.mode.as_str());
    }
    for rung in &climb.record.rungs {
        let of_model = climb.analysis.fits.iter().filter(|fit| fit.model == rung.model);
        let cells = of_model.map(|fit| {
            let (word, tone) = match fit.fit {
                Fit::Best => ("★ sweet spot".to_owned(), Tone::Good),
                Fit::Meets => ("meets it".to_owned(), Tone::Fair),
                Fit::Barely => (format!("meets it without headroom: {}", fit.why), Tone::Plain),
                Fit::Misses => (fit.why.clone(), Tone::Weak),
                Fit::Unsuited => (fit.why.clone(), Tone::Weak),
                Fit::Avoid => ("avoid".to_owned(), Tone::Bad),
                Fit::Unmeasured => ("not measured".to_owned(), Tone::Weak),
            };
            Entry::new(word, tone)
        });
        grid.row(std::iter::once(Entry::from(rung.model.as_str())).chain(cells));
    }
    grid
}
