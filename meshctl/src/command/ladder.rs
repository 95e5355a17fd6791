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

pub(crate) use questions::MOST_TOKENS;

use super::keep::{Heading, Keep, Kept, list as listed};
use crate::cli::{LadderCommand, ShowArgs};
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render::ladder::{Listed, list, rung as one_rung, show as page};
use mesh_core::id::MachineId;
use mesh_core::ladder::Record;

const LIST: Heading =
    Heading { schema: "mesh.ladders/v1", field: "ladders", none: "nothing was climbed yet" };

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
        LadderCommand::List => listed(&Keep::of(&way.data), screen, &LIST, Listed::of, list),
        LadderCommand::Show(args) => shown(&args, &Keep::of(&way.data), screen),
        LadderCommand::Import(args) => import::run(&args, &Keep::of(&way.data), screen),
        LadderCommand::Report(args) => report::run(&args, &Keep::of(&way.data), screen),
    }
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

    fn open_on(&self) -> Option<&MachineId> {
        Some(&self.node).filter(|_| self.ended_unix_ms.is_none() && self.stopped.is_none())
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
