//! `meshctl validate`: one model tried on one machine, and the model that does the work now beside it.
//!
//! ```text
//! look ─► ask ─► cordon ─► candidate ─► champion ─► put back ─► judge, tell
//!                   └─────── Ctrl-C, failure ───────┘
//! ```
//!
//! `measuring`: one model. `tasks`, `haystack`: what it is asked. What it all says is [`mesh_core::validation`]'s to find.

mod haystack;
mod measuring;
mod tasks;

use super::hands::{Hands, Loaded, loaded, profile};
use super::keep::{Heading, Keep, Kept, list as listed, now};
use super::ladder::candidates::{Candidate, one};
use super::ladder::rung::{Broken, begun};
use super::loan::{Borrower, Pledge, Returned, leaving, lend, unless_left};
use super::tried::reason;
use crate::cli::{KeptCommand, ValidateArgs, ValidateCommand};
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render::validate::{Listed, document, list, page, unjudged};
use mesh_core::id::MachineId;
use mesh_core::ladder::Outcome;
use mesh_core::machine::Report;
use mesh_core::validation::{Aim, Evidence, Grade, Record, SCHEMA, Settings, judge};

/// Tokens of each answer whose speed is measured: as in most published figures.
const OUTPUT: u32 = 128;

const LIST: Heading =
    Heading { schema: "mesh.validations/v1", field: "validations", none: "nothing was validated yet" };

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Candidate,
    Champion,
}

/// A validation on its way.
struct Validator<'a> {
    hands: Hands,
    record: Record,
    keep: Keep<Record>,
    models: Vec<(Who, Candidate)>,
    screen: &'a Screen,
}

/// Does what was typed; `leave` resolves at each Ctrl-C.
///
/// # Errors
/// `Degraded` for a poor model, `NotFound` for an unknown node or model, `Usage` for one that is its own champion or without
/// anybody to ask, `Interrupted`, and what keeps the router from answering or the record from being kept. The machine is put
/// back first.
pub(super) async fn run(
    command: ValidateCommand,
    way: &Way,
    screen: &Screen,
    leave: impl AsyncFn(),
) -> Result<(), Failure> {
    let keep = Keep::of(&way.data);
    match command {
        ValidateCommand { kept: Some(KeptCommand::List), .. } => {
            listed(&keep, screen, &LIST, Listed::of, list)
        }
        ValidateCommand { kept: Some(KeptCommand::Show { id }), .. } => {
            let record = keep.named(id.as_deref())?;
            shown(&record, keep.runs(&record), screen)
        }
        ValidateCommand { args: Some(args), .. } => validated(&args, way, screen, leave).await,
        ValidateCommand { args: None, kept: None } => Err(Failure::new(Kind::Usage, "no model is named")
            .hint("name one, and its machine: meshctl validate MODEL --node NODE")),
    }
}

async fn validated(
    args: &ValidateArgs,
    way: &Way,
    screen: &Screen,
    leave: impl AsyncFn(),
) -> Result<(), Failure> {
    let (mut validator, pledge) = unless_left(prepare(args, way, screen), &leave).await?;
    // From here on the machine is changed.
    let Returned { ended, back } = lend(&mut validator, pledge, screen, &leave).await?;
    let told = validator.conclude(ended);
    // That the machine is not as it was matters more than what a model is worth.
    match (told, back) {
        (Err(failure), Err(back)) if failure.kind == Kind::Degraded => Err(back),
        (told, back) => told.and(back),
    }
}

/// Looks and asks; nothing is changed.
async fn prepare<'a>(
    args: &ValidateArgs,
    way: &Way,
    screen: &'a Screen,
) -> Result<(Validator<'a>, Pledge), Failure> {
    if args.champion.as_ref() == Some(&args.model) {
        let what = format!("{} cannot be its own champion", args.model);
        return Err(Failure::new(Kind::Usage, what).hint("name the model that does its work now, or none"));
    }
    let mut hands = Hands::of(&args.node, way).await?;
    let report = hands.report().await?;
    let pledge = Pledge::of(&way.data, &args.node)?;
    let mut models = vec![(Who::Candidate, one(&report, &args.node, &args.model)?)];
    if let Some(champion) = &args.champion {
        models.push((Who::Champion, one(&report, &args.node, champion)?));
    }
    let modes = hands.modes().await?.into_iter().map(|(goal, models)| Aim { goal, models }).collect();
    let mut record = fresh(args, &report, modes, &models, now());
    let keep = Keep::of(&way.data);
    if !args.yes {
        screen.agreed(&question(args, &loaded(&report)), "--yes").await?;
    }
    // What cannot be kept need not be measured.
    let began = record.started_unix_ms;
    keep.begin(&mut record, began)?;
    Ok((Validator { hands, record, keep, models, screen }, pledge))
}

fn question(args: &ValidateArgs, there: &[Loaded]) -> String {
    let beside = args.champion.as_ref().map(|champion| format!(", then {champion}")).unwrap_or_default();
    format!(
        "{} is cordoned meanwhile: it gets no new models. {}.\nTo validate: {}{beside}. Begin?",
        args.node,
        leaving(there),
        args.model
    )
}

/// The record of a new validation.
fn fresh(
    args: &ValidateArgs,
    report: &Report,
    modes: Vec<Aim>,
    models: &[(Who, Candidate)],
    now: u64,
) -> Record {
    let profile = profile(report);
    let evidence = |who: Who| {
        let of = models.iter().find(|(is, _)| *is == who).map(|(_, candidate)| candidate)?;
        Some(Evidence::new(begun(of), of.trained_context))
    };
    Record {
        schema: SCHEMA.into(),
        id: String::new(),
        node: args.node.clone(),
        meshctl: env!("CARGO_PKG_VERSION").into(),
        started_unix_ms: now,
        ended_unix_ms: None,
        hardware: profile.hardware,
        software: profile.software,
        settings: Settings {
            contexts: args.contexts.0.clone(),
            output: OUTPUT,
            repetitions: args.repetitions,
            seed: args.seed,
            questions: tasks::VERSION.into(),
        },
        modes,
        candidate: evidence(Who::Candidate).expect("the first of the models is the candidate"),
        champion: evidence(Who::Champion),
        stopped: None,
    }
}

impl Borrower for Validator<'_> {
    fn hands(&mut self) -> &mut Hands {
        &mut self.hands
    }

    /// Both models, one after the other, each alone.
    async fn work(&mut self) -> Result<(), Failure> {
        for (who, candidate) in self.models.clone() {
            let outcome = self.tried(who, &candidate).await?;
            self.evidence(who).rung.outcome = outcome;
            self.save()?;
        }
        Ok(())
    }

    /// Ends the record, and keeps it.
    fn close(&mut self, ended: Result<(), Failure>) -> Result<(), Failure> {
        self.screen.done_doing();
        self.record.ended_unix_ms = Some(now().max(self.record.started_unix_ms));
        if let Err(failure) = &ended {
            let by_hand = failure.kind == Kind::Interrupted;
            let why = if by_hand { "ended by hand".to_owned() } else { super::in_words(failure) };
            self.record.stopped = Some(reason(why));
        }
        match (ended, self.save()) {
            (Ok(()), kept) => kept,
            (Err(failure), _) => Err(failure),
        }
    }
}

impl Validator<'_> {
    /// Measures one model. What broke off a measurement may have had nothing to do with the model, so it gets a second one; a
    /// model that breaks off that, too, is not fit for work.
    async fn tried(&mut self, who: Who, candidate: &Candidate) -> Result<Outcome, Failure> {
        let model = &candidate.model;
        let mut broke: Option<String> = None;
        loop {
            let outcome = match self.measure(who, candidate).await {
                Ok(()) => return Ok(Outcome::Done),
                Err(Broken::Rung(outcome)) => outcome,
                Err(Broken::All(failure)) => return Err(failure),
            };
            let rung = &self.evidence(who).rung;
            let was_there = rung.load_s.is_some() || rung.subject.is_some();
            let Outcome::Failed(why) = outcome else { return Ok(outcome) };
            let ended = self.hands.why_gone(model).await.filter(|ended| !why.contains(ended.as_str()));
            let why = ended.map_or(why.clone(), |ended| format!("{why}; its engine ended: {ended}"));
            match broke {
                None if was_there => {
                    let text = format!("{model}: broken off, and measured once more: {why}");
                    self.screen.done_doing();
                    self.screen.note(&(self.screen.look.text(&text) + "\n"));
                    *self.evidence(who) = Evidence::new(begun(candidate), candidate.trained_context);
                    broke = Some(why);
                }
                None => return Ok(Outcome::Failed(reason(why))),
                Some(first) if first == why => {
                    return Ok(Outcome::Failed(reason(format!("broken off twice: {why}"))));
                }
                Some(first) => {
                    let both = format!("broken off twice: {why}; the first time: {first}");
                    return Ok(Outcome::Failed(reason(both)));
                }
            }
        }
    }

    fn evidence(&mut self, who: Who) -> &mut Evidence {
        match (who, &mut self.record.champion) {
            (Who::Champion, Some(champion)) => champion,
            (Who::Champion, None) | (Who::Candidate, _) => &mut self.record.candidate,
        }
    }

    /// Writes down what was seen so far.
    fn save(&self) -> Result<(), Failure> {
        self.keep.write(&self.record)
    }

    /// What is done now.
    fn tell(&self, what: &str) {
        self.screen.doing(what);
    }

    fn conclude(&self, ended: Result<(), Failure>) -> Result<(), Failure> {
        let file = self.keep.file(&self.record.id);
        if let Err(failure) = ended {
            self.screen.note(&format!(
                "not judged: it was not ended; what was seen is kept in {}\n",
                file.display()
            ));
            return Err(failure);
        }
        let validation = judge(&self.record);
        shown(&self.record, false, self.screen)?;
        self.screen.note(&format!("kept in {}\n", file.display()));
        match validation.verdict {
            Grade::Excellent | Grade::Good => Ok(()),
            Grade::Poor => {
                let what = format!("{} is poor on {}", self.record.candidate.rung.model, self.record.node);
                Err(Failure::new(Kind::Degraded, what).cause(validation.why))
            }
        }
    }
}

/// A record, and what it says: nothing, where it was ended early.
fn shown(record: &Record, runs: bool, screen: &Screen) -> Result<(), Failure> {
    let is_whole = record.stopped.is_none() && record.ended_unix_ms.is_some();
    let validation = is_whole.then(|| judge(record));
    if screen.is_json() {
        return screen.result(&document(record, validation.as_ref()));
    }
    let text = match &validation {
        Some(validation) => page(record, validation, screen.look),
        None => unjudged(record, runs, screen.look),
    };
    screen.result(&screen.commands(&text))
}

impl Kept for Record {
    const FOLDER: &'static str = "validate";
    const NOUN: &'static str = "validation";
    const MAKE: &'static str = "meshctl validate MODEL --node NODE";

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
