//! `meshctl ladder`: a machine is climbed from its smallest model to its largest, and what was seen is kept.
//!
//! `candidates`: which models, `fetching`: those that come first. `climb`: the order of things. `rung`: one model. `questions`: what it is asked. `report`: climbs
//! compared, with `prices`. `import`: what another program measured. What a record says is [`mesh_core::ladder`]'s to find.

pub(super) mod candidates;
mod climb;
mod examined;
mod fetching;
mod import;
mod prices;
pub(super) mod questions;
mod report;
pub(super) mod rung;

use super::keep::{Keep, Kept};
use crate::cli::{LadderCommand, ShowArgs};
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render::ladder::{Listed, list, rung as one_rung, show as page};
use mesh_core::ladder::Record;
use serde::Serialize;

/// What `ladder list --json` prints.
#[derive(Serialize)]
struct Document<'a> {
    ladders: &'a [Listed],
}

/// Does what was typed; `leave` resolves at each Ctrl-C.
///
/// # Errors
/// `NotFound` for a node, a model or a record that there is not, `Interrupted`, `Failed` for what cannot be read or kept,
/// and what keeps the router from answering.
pub(super) async fn run(
    command: LadderCommand,
    way: &Way,
    screen: &Screen,
    leave: impl AsyncFn(),
) -> Result<(), Failure> {
    match command {
        LadderCommand::Run(args) => climb::run(&args, way, screen, leave).await,
        LadderCommand::List => listed(&Keep::of(&way.data), screen),
        LadderCommand::Show(args) => shown(&args, &Keep::of(&way.data), screen),
        LadderCommand::Import(args) => import::run(&args, &Keep::of(&way.data), screen),
        LadderCommand::Report(args) => report::run(&args, &Keep::of(&way.data), screen),
    }
}

fn listed(keep: &Keep<Record>, screen: &Screen) -> Result<(), Failure> {
    let ids = keep.ids()?;
    let ladders: Vec<Listed> = ids.into_iter().map(|id| Listed::of(keep.read(&id), id)).collect();
    if screen.is_json() {
        let document = Document { ladders: &ladders };
        return screen.result(&crate::render::json("mesh.ladders/v1", &document, false));
    }
    if ladders.is_empty() {
        screen.note(&screen.commands("nothing was climbed yet: meshctl ladder run --node NODE\n"));
        return Ok(());
    }
    screen.result(&list(&ladders, screen.look))
}

fn shown(args: &ShowArgs, keep: &Keep<Record>, screen: &Screen) -> Result<(), Failure> {
    let record = keep.named(args.id.as_deref())?;
    let named =
        args.rung.as_ref().map(|model| (model, record.rungs.iter().find(|rung| rung.model == *model)));
    if let Some((model, None)) = named {
        let models = record.rungs.iter().map(|rung| rung.model.as_str());
        let what = format!("climb {} has no rung `{model}`", record.id);
        return Err(super::names::unknown(model.as_str(), what, models, "it has none"));
    }
    match named.and_then(|(_, rung)| rung) {
        // Whole in any case: a reader that wants one rung can take it.
        _ if screen.is_json() => screen.result(&record.json()),
        Some(rung) => screen.result(&one_rung(rung, args.samples, screen.look)),
        None => screen.result(&screen.commands(&page(&record, args.samples, screen.look))),
    }
}

impl Kept for Record {
    const FOLDER: &'static str = "ladder";
    const NOUN: &'static str = "climb";
    const MAKE: &'static str = "meshctl ladder run --node NODE";

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&mut self) -> &mut String {
        &mut self.id
    }

    fn check(&self) -> Result<(), String> {
        Self::check(self).map_err(|problem| problem.to_string())
    }
}

/// Whether nothing more can be done after `failure`, whatever the model.
pub(super) fn ends_all(failure: &Failure) -> bool {
    match failure.kind {
        Kind::Unreachable | Kind::Refused | Kind::Interrupted | Kind::PipeClosed | Kind::Usage => true,
        Kind::Failed | Kind::Degraded | Kind::NotFound | Kind::DoesNotFit | Kind::TimedOut => false,
    }
}
