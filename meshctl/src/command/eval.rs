//! `meshctl eval`: models sit exams, and what became of each item is kept, so that two of them can be compared.
//!
//! `source`: what is begun. `items`: what is asked. `sit`: one exam. `scribe`: when it is written down. `run`: the order of
//! things. `compare`: two evaluations. What a figure is worth is [`mesh_core::exam`]'s to say.

mod compare;
mod items;
mod run;
mod scribe;
mod sit;
mod source;

pub(crate) use compare::{Judged, JudgedSuite, Side};

use super::keep::{Heading, Keep, Kept, list as listed};
use crate::cli::{BaselineArgs, EvalCommand, EvalShowArgs};
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render::eval::{Listed, Reported, groups, list, page, wrong};
use mesh_core::exam::Record;
use mesh_core::id::MachineId;
use serde::Serialize;

const LIST: Heading =
    Heading { schema: "mesh.evaluations/v1", field: "evaluations", none: "nothing was evaluated yet" };

/// What `eval show --json` prints: the record, and its figures.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    figures: Reported<'a>,
    record: &'a Record,
}

/// Does what was typed; `leave` resolves at each Ctrl-C.
///
/// # Errors
/// As [`run::run`] and [`compare::run`]; `NotFound` for an evaluation that there is not, `Failed` for what cannot be read.
pub(super) async fn run(
    command: EvalCommand,
    way: &Way,
    screen: &Screen,
    leave: impl AsyncFn(),
) -> Result<(), Failure> {
    let keep = Keep::of(&way.data);
    match command {
        EvalCommand::Run(args) => run::run(&args, way, screen, leave).await,
        EvalCommand::List => listed(&keep, screen, &LIST, Listed::of, list),
        EvalCommand::Show(args) => shown(&args, &keep, screen),
        EvalCommand::Compare(args) => compare::run(&args, &keep, screen),
        EvalCommand::Baseline(args) => baseline(&args, &keep, screen),
    }
}

impl Kept for Record {
    const FOLDER: &'static str = "eval";
    const NOUN: &'static str = "evaluation";
    const MAKE: &'static str = "meshctl eval run --suite mmlu";

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&mut self) -> &mut String {
        &mut self.id
    }

    fn open_on(&self) -> Option<&MachineId> {
        Some(&self.node).filter(|_| self.ended_unix_ms.is_none())
    }

    fn check(&self) -> Result<(), String> {
        Self::check(self).map_err(|problem| problem.to_string())
    }
}

fn shown(args: &EvalShowArgs, keep: &Keep<Record>, screen: &Screen) -> Result<(), Failure> {
    let record = keep.named(args.id.as_deref())?;
    if screen.is_json() {
        let shown = Shown { figures: Reported::of(&record), record: &record };
        return screen.result(&crate::render::json("mesh.evaluation/v1", &shown, false));
    }
    screen.result(&page(&record, screen.look))?;
    if args.groups {
        screen.result(&groups(&record, screen.look))?;
    }
    if args.wrong {
        screen.result(&wrong(&record, screen.look))?;
    }
    Ok(())
}

fn baseline(args: &BaselineArgs, keep: &Keep<Record>, screen: &Screen) -> Result<(), Failure> {
    let mut record = keep.named(args.id.as_deref())?;
    let (was, is) = (record.baseline, !args.remove);
    if is && !record.is_complete() {
        return Err(Failure::new(
            Kind::Usage,
            format!("{} was ended early: nothing can be compared with it", record.id),
        )
        .hint(format!("go on with it: meshctl eval run --resume {}", record.id)));
    }
    record.baseline = is;
    keep.write(&record)?;
    let said = match (was, is) {
        (true, true) => "was the baseline already",
        (false, true) => "is now what later evaluations of this model are compared with",
        (true, false) => "is no baseline any more",
        (false, false) => "was no baseline",
    };
    screen.note(&format!("{} of {} {said}\n", record.id, record.model));
    Ok(())
}
