//! The order of a climb: look, ask the person, take the machine for itself, rung by rung, and put the machine back however
//! it ended.
//!
//! ```text
//! look ─► ask ─► cordon ─► rung ─► rung ─► … ─► put back ─► tell
//!                            └── Ctrl-C, failure ──┘
//! ```

use super::candidates::{Candidate, candidates, known, room_for, within_bounds};
use super::examined::Examined;
use super::fetching::{self, Fetched};
use super::questions;
use super::rung::{Broken, UNFINISHED, begun};
use crate::cli::{RunArgs, Wanted};
use crate::command::hands::{Hands, Loaded, loaded, profile};
use crate::command::keep::{Keep, Kept as _, now};
use crate::command::loan::{Borrower, Pledge, Returned, leaving, lend, unless_left};
use crate::command::tried::reason;
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render::ladder::{Lines, conclusion};
use mesh_core::id::ModelId;
use mesh_core::ladder::{
    Candidate as Asked, ModeGoal, Next, Outcome, Pull, Record, Rung, Sampling, Schema, Settings, StopRule,
    Stopped, analyse, next,
};
use mesh_core::machine::Report;
use mesh_core::trial::{Prefix, Sample};
use mesh_core::units::{Celsius, human_duration};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// How long a hot machine may cool before its next rung.
const COOLING: Duration = Duration::from_secs(180);
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A climb on its way.
pub(super) struct Climb<'a> {
    pub(super) hands: Hands,
    pub(super) record: Record,
    keep: Keep<Record>,
    candidates: Vec<Candidate>,
    examined: Examined,
    /// How the models came that were fetched first.
    pulls: BTreeMap<ModelId, Pull>,
    screen: &'a Screen,
    lines: Lines,
}

/// # Errors
/// `NotFound` for an unknown node, model or record, `Usage` without anybody to ask, `Interrupted`, and what keeps the
/// router from answering or the record from being kept. The machine is put back first.
pub(super) async fn run(
    args: &RunArgs,
    way: &Way,
    screen: &Screen,
    leave: impl AsyncFn(),
) -> Result<(), Failure> {
    let fetches = Cell::new(false);
    let prepared = unless_left(prepare(args, way, screen, &fetches), &leave).await;
    if prepared.is_err() && fetches.get() {
        screen.done_doing();
        let mut text = "the machine goes on fetching; to stop it:\n".to_owned();
        for Wanted { model, .. } in &args.pull {
            text += &format!("  meshctl model pull {model} --node {} --cancel\n", args.node);
        }
        screen.note(&screen.commands(&text));
    }
    let (mut climb, pledge) = prepared?;
    // From here on the machine is changed.
    let Returned { ended, back } = lend(&mut climb, pledge, screen, &leave).await?;
    climb.conclude(ended)?;
    back
}

/// Looks and asks; nothing is changed.
async fn prepare<'a>(
    args: &RunArgs,
    way: &Way,
    screen: &'a Screen,
    fetches: &Cell<bool>,
) -> Result<(Climb<'a>, Pledge), Failure> {
    within_bounds(args)?;
    let mut hands = Hands::of(&args.node, way).await?;
    let mut report = hands.report().await?;
    let pledge = Pledge::of(&way.data, &args.node)?;
    let keep = Keep::of(&way.data);
    let mut record = match &args.resume {
        Some(id) => {
            let mut record = resumed(&keep, id, args)?;
            screen.note(&format!("going on with {}\n", record.id));
            // Who names a model again wants it measured again, unless it was.
            record.rungs.retain(|rung| rung.outcome == Outcome::Done || !args.models.contains(&rung.model));
            record
        }
        None => fresh(args, &report, hands.goals().await?, now()),
    };
    let limits = [record.settings.idle_below, record.settings.sustained_below];
    let now = report.vitals.as_ref().map(|vitals| Sample::of(vitals, 0.0)).unwrap_or_default();
    if limits.iter().any(Option::is_some) && now.temperature.or(now.gpu_temperature).is_none() {
        screen.note(&format!("{} tells no temperature: limits of it cannot be kept\n", args.node));
    }
    let mut fetched = Vec::new();
    if !args.pull.is_empty() {
        if !args.yes {
            screen.agreed(&question_with(args, &loaded(&report)), "--yes").await?;
        }
        fetches.set(true);
        fetched = fetching::fetch(&mut hands, &args.pull, |far| screen.doing(far)).await?;
        fetches.set(false);
        screen.done_doing();
        report = hands.report().await?;
    }
    let there = known(&report);
    let (begun, gone): (Vec<ModelId>, Vec<ModelId>) =
        record.settings.models.iter().cloned().partition(|model| there.contains_key(model));
    for model in &gone {
        screen.note(&format!("{model} is left out: {} has it no more\n", args.node));
    }
    let is_chosen = !args.models.is_empty() || !record.settings.models.is_empty();
    let chosen = chosen(args, &fetched, begun);
    if is_chosen && chosen.models.is_empty() {
        return Err(none_left(args, &fetched, &gone));
    }
    let (candidates, left_out) = candidates(&report, &chosen)?;
    for line in left_out {
        screen.note(&(line + "\n"));
    }
    for candidate in &candidates {
        if !record.settings.models.contains(&candidate.model) {
            record.settings.models.push(candidate.model.clone());
        }
    }
    if !args.yes && args.pull.is_empty() {
        screen.agreed(&question(args, &candidates, &loaded(&report)), "--yes").await?;
    }
    for Fetched { model, outcome } in &fetched {
        // What an earlier fetch said is over; what was measured then stays.
        let is_empty = |rung: &Rung| rung.cells.is_empty() && rung.answers.is_empty();
        record.rungs.retain(|rung| rung.model != *model || !is_empty(rung));
        let Err(why) = outcome else { continue };
        screen.note(&format!("{model} could not be fetched: {}\n", screen.look.text(why)));
        if record.rungs.iter().all(|rung| rung.model != *model) {
            let outcome = Outcome::Absent(reason(why.clone()));
            record.rungs.push(Rung { outcome, ..Rung::new(model.clone(), "?") });
        }
    }
    let rungs: BTreeSet<&ModelId> = record.rungs.iter().map(|rung| &rung.model).collect();
    let more = candidates.iter().filter(|candidate| !rungs.contains(&candidate.model));
    room_for(rungs.len() + more.count())?;
    // What cannot be kept need not be measured.
    let began = record.started_unix_ms;
    match args.resume {
        Some(_) => keep.write(&record)?,
        None => keep.begin(&mut record, began)?,
    }
    let examined = Examined::read(&Keep::of(&way.data))?;
    let came = |one: Fetched| Some((one.model, one.outcome.ok().flatten()?));
    let pulls = fetched.into_iter().filter_map(came).collect();
    let lines = Lines::of(candidates.iter().map(|one| one.model.as_str()), screen.look);
    Ok((Climb { hands, record, keep, candidates, examined, pulls, screen, lines }, pledge))
}

/// The models to climb: those that were named, those that were fetched with them, and those of the climb that goes on.
fn chosen(args: &RunArgs, fetched: &[Fetched], begun: Vec<ModelId>) -> RunArgs {
    let mut chosen = args.clone();
    chosen.models.extend(begun);
    let came = fetched.iter().filter(|one| one.outcome.is_ok()).map(|one| one.model.clone());
    if !chosen.models.is_empty() {
        chosen.models.extend(came);
        let failed = |model: &ModelId| fetched.iter().any(|one| one.model == *model && one.outcome.is_err());
        chosen.models.retain(|model| !failed(model));
    }
    chosen
}

/// Of the models that were meant none is there: every other of the machine is not what was meant.
fn none_left(args: &RunArgs, fetched: &[Fetched], gone: &[ModelId]) -> Failure {
    let what = format!("none of the models that were chosen is on {}", args.node);
    let why =
        fetched.iter().filter_map(|one| Some(format!("{}: {}", one.model, one.outcome.as_ref().err()?)));
    let gone = gone.iter().map(|model| format!("{model} is not there any more"));
    let causes: Vec<String> = why.chain(gone).collect();
    let failure = Failure::new(Kind::NotFound, what)
        .hint(format!("name others: meshctl ladder run --node {} --models MODEL", args.node));
    if causes.is_empty() { failure } else { failure.cause(causes.join("; ")) }
}

/// The question before anything is fetched: what is to be climbed is not known yet.
fn question_with(args: &RunArgs, there: &[Loaded]) -> String {
    let models: Vec<&str> = args.pull.iter().map(|one| one.model.as_str()).collect();
    format!(
        "{} fetches {} and keeps them. Then it is cordoned and climbed: it gets no new models. {}. Begin?",
        args.node,
        models.join(", "),
        leaving(there)
    )
}

fn question(args: &RunArgs, candidates: &[Candidate], there: &[Loaded]) -> String {
    let models: Vec<&str> = candidates.iter().map(|one| one.model.as_str()).collect();
    format!(
        "{} is cordoned meanwhile: it gets no new models. {}.\nTo climb: {}. Begin?",
        args.node,
        leaving(there),
        models.join(", ")
    )
}

/// The record of a new climb.
fn fresh(args: &RunArgs, report: &Report, modes: Vec<ModeGoal>, now: u64) -> Record {
    let profile = profile(report);
    Record {
        schema: Schema,
        id: String::new(),
        node: args.node.clone(),
        meshctl: env!("CARGO_PKG_VERSION").into(),
        started_unix_ms: now,
        ended_unix_ms: None,
        imported: None,
        hardware: profile.hardware,
        software: profile.software,
        settings: Settings {
            models: Vec::new(),
            matrix: args.matrix.0.clone(),
            streams: args.streams.0.clone(),
            repetitions: args.repetitions,
            seed: args.seed,
            prefix: Prefix::Cold,
            prompts: questions::VERSION.into(),
            soak_s: args.soak,
            success_threshold: args.success,
            idle_below: args.idle_below,
            sustained_below: args.sustained_below,
            sampling: Sampling { temperature: Some(0.0), top_p: None, max_tokens: Some(args.answer_tokens) },
        },
        modes,
        rungs: Vec::new(),
        stopped: None,
    }
}

/// The record to go on with.
fn resumed(keep: &Keep<Record>, id: &str, args: &RunArgs) -> Result<Record, Failure> {
    let is_open = |record: &Record| {
        let by_hand = record.stopped.as_ref().is_some_and(|stopped| stopped.rule == StopRule::Operator);
        record.node == args.node && (record.ended_unix_ms.is_none() || by_hand)
    };
    let record = if id.is_empty() {
        keep.newest(is_open)?.ok_or_else(|| {
            Failure::new(Kind::NotFound, format!("no climb of {} was ended early", args.node))
                .hint("those that there are: meshctl ladder list")
        })?
    } else {
        keep.named(Some(id))?
    };
    if record.node != args.node {
        let what = format!("climb {} is of {}, not of {}", record.id, record.node, args.node);
        let hint = format!("meshctl ladder run --node {} --resume {}", record.node, record.id);
        return Err(Failure::new(Kind::Usage, what).hint(hint));
    }
    if let Some(imported) = &record.imported {
        let what = format!("{} is imported from {}, and cannot be gone on with", record.id, imported.from);
        let hint = format!("climb anew: meshctl ladder run --node {}", record.node);
        return Err(Failure::new(Kind::Usage, what).hint(hint));
    }
    if !is_open(&record) && args.models.is_empty() && args.pull.is_empty() {
        let what = format!("climb {} is complete", record.id);
        return Err(Failure::new(Kind::Usage, what)
            .hint(format!("look at it: meshctl ladder show {}", record.id))
            .hint("to add models to it, name them: --models MODEL"));
    }
    Ok(Record { ended_unix_ms: None, stopped: None, ..record })
}

impl Borrower for Climb<'_> {
    fn hands(&mut self) -> &mut Hands {
        &mut self.hands
    }

    /// Every rung, until a rule says no.
    async fn work(&mut self) -> Result<(), Failure> {
        self.head()?;
        for candidate in self.candidates.clone() {
            let known = self.record.rungs.iter().position(|rung| rung.model == candidate.model);
            let is_done = known.is_some_and(|at| !is_unfinished(&self.record.rungs[at]));
            if is_done {
                self.row(&candidate)?;
                continue;
            }
            if let Some(stopped) = self.refused(&candidate).await? {
                self.record.stopped = Some(stopped);
                return Ok(());
            }
            // What was begun goes on as the last rung.
            let pull = self.pulls.get(&candidate.model).copied();
            let fresh = || Rung { evaluations: self.examined.of(&candidate), pull, ..begun(&candidate) };
            let rung = match known.map(|at| self.record.rungs.remove(at)) {
                // Of one that was not there nothing is known, not even its size.
                None | Some(Rung { outcome: Outcome::Absent(_), .. }) => fresh(),
                Some(begun) => begun,
            };
            self.record.rungs.push(rung);
            self.save()?;
            let outcome = match self.measure(&candidate).await {
                Ok(()) => Outcome::Done,
                Err(Broken::Rung(outcome)) => outcome,
                Err(Broken::All(failure)) => return Err(failure),
            };
            if matches!(outcome, Outcome::Skipped(_)) {
                let least = self.record.settings.matrix.first().map(|shape| shape.prompt + shape.output);
                let trained = candidate.trained_context;
                let least = least.map(|tokens| trained.map_or(tokens, |most| tokens.min(most)));
                self.rung().shortage = self.hands.shortage(&candidate.model, least).await;
            }
            self.rung().outcome = outcome;
            self.save()?;
            self.row(&candidate)?;
        }
        Ok(())
    }

    /// Ends the record, and keeps it.
    fn close(&mut self, ended: Result<(), Failure>) -> Result<(), Failure> {
        self.screen.done_doing();
        match &ended {
            Ok(()) => self.record.ended_unix_ms = Some(now().max(self.record.started_unix_ms)),
            Err(failure) if failure.kind == Kind::Interrupted => {
                self.record.ended_unix_ms = Some(now().max(self.record.started_unix_ms));
                let why = "ended by hand".to_owned();
                self.record.stopped = Some(Stopped { rule: StopRule::Operator, why });
            }
            // A record without an end can be gone on with.
            Err(_) => {}
        }
        match (ended, self.save()) {
            (Ok(()), kept) => kept,
            (Err(failure), _) => Err(failure),
        }
    }
}

impl Climb<'_> {
    /// Why the climb does not go on to `candidate`. A rung that could not be measured says nothing of the next.
    async fn refused(&mut self, candidate: &Candidate) -> Result<Option<Stopped>, Failure> {
        let no_room = self.record.rungs.iter().rev().find_map(|rung| match &rung.outcome {
            Outcome::Skipped(why) if rung.size <= candidate.size => Some((rung.model.clone(), why.clone())),
            Outcome::Skipped(_) | Outcome::Done | Outcome::Failed(_) | Outcome::Absent(_) => None,
        });
        if let Some((model, why)) = no_room {
            let why = format!("{model} has no room, and {} is no smaller: {why}", candidate.model);
            return Ok(Some(Stopped { rule: StopRule::DoesNotFit, why }));
        }
        let now = self.cooled().await?;
        let measured = self.record.rungs.iter().filter(|rung| !matches!(rung.outcome, Outcome::Failed(_)));
        let record = Record { rungs: measured.cloned().collect(), ..self.record.clone() };
        let asked = Asked {
            model: candidate.model.clone(),
            size: candidate.size,
            parameters: candidate.parameters,
            active_parameters: candidate.active_parameters,
            shortage: None,
            now,
        };
        match next(&record, &asked) {
            Next::Go => Ok(None),
            Next::Stop(stopped) => Ok(Some(stopped)),
        }
    }

    /// The machine once it takes models again, or after a while.
    async fn cooled(&mut self) -> Result<Sample, Failure> {
        let start = Instant::now();
        let most = self.record.settings.idle_below;
        let is_cool = |now: &Sample| now.thermal.admits_load() && !is_above(now, most);
        let mut now = self.hands.sample().await?;
        let limit = human_duration(COOLING);
        if !now.thermal.admits_load() {
            let state = now.thermal.word();
            self.tell(&format!(
                "the machine is {state} and takes no new model; it may cool for up to {limit}"
            ));
        } else if let Some(most) = most.filter(|_| !is_cool(&now)) {
            self.tell(&format!("the machine is not below {most}; it may cool for up to {limit}"));
        }
        while !is_cool(&now) && start.elapsed() < COOLING {
            tokio::time::sleep(LOOK_EVERY).await;
            now = self.hands.sample().await?;
        }
        Ok(now)
    }

    /// The rung that is climbed.
    pub(super) fn rung(&mut self) -> &mut Rung {
        self.record.rungs.last_mut().expect("one was begun before it is measured")
    }

    /// Writes down what was seen so far.
    pub(super) fn save(&self) -> Result<(), Failure> {
        self.keep.write(&self.record)
    }

    /// What is done now.
    pub(super) fn tell(&self, what: &str) {
        self.screen.doing(what);
    }

    fn head(&self) -> Result<(), Failure> {
        if self.screen.is_json() {
            return Ok(());
        }
        self.screen.result(&self.lines.head(&self.record))
    }

    fn row(&self, candidate: &Candidate) -> Result<(), Failure> {
        self.screen.done_doing();
        if self.screen.is_json() {
            return Ok(());
        }
        self.screen.result(&self.lines.row(&self.record, &candidate.model))
    }

    fn conclude(&self, ended: Result<(), Failure>) -> Result<(), Failure> {
        let Err(failure) = ended else {
            if self.screen.is_json() {
                return self.screen.result(&self.record.json());
            }
            let text = conclusion(&self.record, &analyse(&self.record), self.screen.look);
            self.screen.result(&self.screen.commands(&text))?;
            let shown = format!("next: meshctl ladder show {}\n", self.record.id);
            self.screen.note(&self.screen.commands(&shown));
            return Ok(());
        };
        let measured = self.record.rungs.iter().filter(|rung| !is_unfinished(rung)).count();
        let again = format!(
            "{measured} of {} rungs are done and kept; to go on: meshctl ladder run --node {} --resume {}\n",
            self.candidates.len(),
            self.record.node,
            self.record.id
        );
        self.screen.note(&self.screen.commands(&again));
        Err(failure)
    }
}

/// Whether the hottest sensor that tells is not below `most`.
fn is_above(now: &Sample, most: Option<Celsius>) -> bool {
    let hottest = now.temperature.or(now.gpu_temperature);
    hottest.zip(most).is_some_and(|(degrees, most)| degrees >= most.0)
}

/// It was begun and not ended, or was not there.
fn is_unfinished(rung: &Rung) -> bool {
    matches!(rung.outcome, Outcome::Absent(_)) || rung.outcome == Outcome::Failed(UNFINISHED.into())
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_cool_below_its_limit_and_where_nothing_tells() {
        let at = |temperature: Option<f32>, gpu_temperature: Option<f32>| Sample {
            temperature,
            gpu_temperature,
            ..Sample::default()
        };
        let most = Some(Celsius(65.0));
        assert!(!is_above(&at(Some(64.9), None), most) && is_above(&at(Some(65.0), None), most));
        assert!(is_above(&at(None, Some(70.0)), most) && !is_above(&at(None, None), most));
        assert!(!is_above(&at(Some(99.0), None), None), "nobody set a limit");
    }
}
