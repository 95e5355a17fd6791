//! The order of an evaluation: look, ask the person where the machine is changed, model by model, suite by suite, and put
//! the machine back however it ended.

use super::compare::{Judged, judged};
use super::items::{Paper, paper};
use super::scribe::Scribe;
use super::sit::{Desk, Manner, sit};
use super::source::{again, fresh, once, resumed, shots, source};
use crate::cli::EvalRunArgs;
use crate::command::hands::{Hands, Loaded, Size, loaded};
use crate::command::in_words;
use crate::command::keep::{Keep, now};
use crate::command::loan::{Borrower, Pledge, Returned, leaving, lend, unless_left};
use crate::command::names::unknown;
use crate::command::node::machines;
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use mesh_core::exam::{EngineCan, Gate, Record, Run, Shots, Sitting, ask};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Engine, Report};
use mesh_core::trial::{KeepWork, Trial, Work};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// Of the call that asks which machines there are.
const CALL: Duration = Duration::from_secs(30);

/// What `eval run --json` prints.
#[derive(Serialize)]
struct Document<'a> {
    evaluations: Vec<render::eval::Reported<'a>>,
    comparisons: &'a [Judged],
}

/// An evaluation on its way.
struct Evaluation<'a> {
    hands: Hands,
    scribe: Scribe,
    screen: &'a Screen,
    papers: Vec<(Paper, Shots)>,
    at_once: u32,
    /// Models that are not in memory are brought there.
    loads: bool,
    /// One for each model.
    records: Vec<Record>,
    /// The model whose turn it is.
    turn: usize,
}

/// # Errors
/// `NotFound` for an unknown node, model, record or file, `Usage` where it is not clear what is meant or nobody can be asked,
/// `Failed` for items that are none and where the gate cannot tell, `Degraded` where it says worse, `DoesNotFit` for a model
/// that finds no room, `Interrupted`, and what keeps the router from answering or the record from being kept.
pub(super) async fn run(
    args: &EvalRunArgs,
    way: &Way,
    screen: &Screen,
    leave: impl AsyncFn(),
) -> Result<(), Failure> {
    let (mut evaluation, baselines, pledge) = unless_left(prepare(args, way, screen), &leave).await?;
    let ended = match pledge {
        Some(pledge) => {
            let Returned { ended, back } = lend(&mut evaluation, pledge, screen, &leave).await?;
            ended.and(back)
        }
        None => {
            let ended = unless_left(evaluation.work(), &leave).await;
            evaluation.close(ended)
        }
    };
    screen.done_doing();
    evaluation.conclude(args, ended, &baselines)
}

/// Looks, reads and asks; nothing is changed. With a pledge where models have to be loaded.
async fn prepare<'a>(
    args: &EvalRunArgs,
    way: &Way,
    screen: &'a Screen,
) -> Result<(Evaluation<'a>, Vec<Record>, Option<Pledge>), Failure> {
    let keep = Keep::<Record>::of(&way.data);
    let resumed = args.resume.as_deref().map(|id| resumed(&keep, id)).transpose()?;
    let source = match &resumed {
        Some(record) => record.source.clone(),
        None => source(args)?,
    };
    let papers = source
        .suites
        .iter()
        .map(|suite| {
            let Paper { items, examples, .. } = paper(*suite, &source)?;
            let shots = shots(*suite, &source, examples)?;
            Ok((Paper { suite: *suite, items, examples: Vec::new() }, shots))
        })
        .collect::<Result<Vec<(Paper, Shots)>, Failure>>()?;
    let node = match (&resumed, &args.node) {
        (Some(record), _) => record.node.clone(),
        (None, Some(node)) => node.clone(),
        (None, None) => only_node(way).await?,
    };
    let mut hands = Hands::of(&node, way).await?;
    let report = hands.report().await?;
    let there = loaded(&report);
    let records = match resumed {
        Some(record) => vec![again(record, &report)?],
        None => {
            let models = models(args, &node, &report, &there)?;
            let began = now();
            models.into_iter().map(|model| fresh(&node, model, &report, source.clone(), began)).collect()
        }
    };
    let baselines: Vec<Record> = match args.gate {
        Some(_) => records.iter().map(|record| baseline(&keep, record, args)).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    // Not after hours of asking.
    for baseline in &baselines {
        if !source.suites.iter().any(|suite| baseline.sitting(*suite).is_some()) {
            let what = format!("{} has none of the suites that are asked now", baseline.id);
            return Err(
                Failure::new(Kind::Usage, what).hint("compare with another, or name its suites with --suite")
            );
        }
    }
    let mut evaluation = Evaluation {
        hands,
        scribe: Scribe::new(keep.clone()),
        screen,
        papers,
        at_once: args.at_once,
        loads: false,
        records,
        turn: 0,
    };
    evaluation.begin(&report)?;
    let missing: Vec<&str> = evaluation
        .records
        .iter()
        .map(|record| record.model.as_str())
        .filter(|model| !there.iter().any(|one| one.model.as_str() == *model))
        .collect();
    // Also where nothing has to be loaded: what else measures there clears the memory, and counts who asks beside it.
    let pledge = Pledge::of(&way.data, &node)?;
    if !missing.is_empty() && !args.yes {
        let question = format!(
            "{} must be loaded for it. {node} is cordoned meanwhile: it gets no new models. {}. Begin?",
            missing.join(", "),
            leaving(&there)
        );
        screen.agreed(&question, "--yes").await?;
    }
    // A person may have thought about it for long.
    let there = loaded(&evaluation.hands.report().await?);
    let is_there = |record: &Record| there.iter().any(|one| one.model == record.model);
    evaluation.loads = !evaluation.records.iter().all(is_there);
    let pledge = Some(pledge).filter(|_| evaluation.loads);
    for record in &mut evaluation.records {
        // What cannot be kept need not be asked.
        match args.resume {
            Some(_) => evaluation.scribe.write(record)?,
            None => evaluation.scribe.begin(record)?,
        }
    }
    Ok((evaluation, baselines, pledge))
}

async fn only_node(way: &Way) -> Result<MachineId, Failure> {
    let mut operators = Way { timeout: Some(way.timeout.unwrap_or(CALL)), ..way.clone() }.dial().await?;
    let machines = machines(&mut operators, "").await?;
    let names: Vec<&str> = machines.iter().map(|machine| machine.node.as_str()).collect();
    match names.as_slice() {
        [one] => MachineId::new(*one)
            .map_err(|error| Failure::new(Kind::Failed, "the machine has no name").cause(error.to_string())),
        [] => Err(Failure::new(Kind::NotFound, "no machine has joined yet")),
        many => {
            Err(Failure::new(Kind::Usage, format!("there are {} machines: {}", many.len(), many.join(", ")))
                .hint(format!("say which: --node {}", many[0])))
        }
    }
}

/// The models that are meant.
fn models(
    args: &EvalRunArgs,
    node: &MachineId,
    report: &Report,
    there: &[Loaded],
) -> Result<Vec<ModelId>, Failure> {
    if args.models.is_empty() {
        return match there {
            [one] => Ok(vec![one.model.clone()]),
            [] => Err(Failure::new(Kind::Usage, format!("{node} has no model in memory"))
                .hint("name one that is on its disk: --models MODEL")),
            many => {
                let names: Vec<&str> = many.iter().map(|one| one.model.as_str()).collect();
                Err(Failure::new(Kind::Usage, format!("{node} has {} models in memory", many.len()))
                    .hint(format!("say which: --models {}", names.join(","))))
            }
        };
    }
    let stored = report.store.iter().flat_map(|store| &store.models).map(|stored| &stored.model);
    let replicas = report.engines.iter().flatten().flat_map(|engine| &engine.replicas);
    let known: BTreeSet<&str> =
        stored.chain(replicas.map(|replica| &replica.model)).map(ModelId::as_str).collect();
    for model in &args.models {
        if !known.contains(&model.as_str()) {
            let what = format!("{node} has no model `{model}`");
            let failure = unknown(model.as_str(), what, known.iter().copied(), "it has none");
            return Err(failure.hint(format!("fetch it: meshctl model pull {model} --node {node}")));
        }
    }
    Ok(once(&args.models))
}

/// What an evaluation is to be compared with.
pub(super) fn baseline(keep: &Keep<Record>, record: &Record, args: &EvalRunArgs) -> Result<Record, Failure> {
    match &args.against {
        Some(id) => keep.named(Some(id)),
        None => super::compare::baseline_of(keep, &record.model),
    }
}

/// What the engine that has, or will have, the model can be asked for.
fn can(report: &Report, model: &ModelId) -> EngineCan {
    let engines: Vec<&Engine> = report.engines.iter().flatten().collect();
    let has = |engine: &&&Engine| engine.replicas.iter().any(|replica| replica.model == *model);
    let Some(engine) =
        engines.iter().find(has).or_else(|| engines.iter().find(|engine| engine.capabilities.can_load))
    else {
        return EngineCan::default();
    };
    let replica = engine.replicas.iter().find(|replica| replica.model == *model);
    EngineCan::of(engine.kind, replica.and_then(|replica| replica.abilities.chat))
}

impl Borrower for Evaluation<'_> {
    fn hands(&mut self) -> &mut Hands {
        &mut self.hands
    }

    /// Each model, in memory or brought there, and each of its exams.
    async fn work(&mut self) -> Result<(), Failure> {
        for at in 0..self.records.len() {
            self.turn = at;
            let model = self.records[at].model.clone();
            if self.loads && self.hands.loaded(&model).await?.is_none() {
                self.screen.doing(&format!("{model}: loading"));
                self.hands.clear().await?;
                self.hands.load(&model, Size::default()).await?;
            }
            for number in 0..self.papers.len() {
                self.exam(at, number).await?;
            }
            self.records[at].ended_unix_ms = Some(now().max(self.records[at].started_unix_ms));
            self.scribe.write(&self.records[at])?;
            self.tell_the_machine(at).await;
        }
        Ok(())
    }

    /// Keeps what was answered since it was kept last.
    fn close(&mut self, ended: Result<(), Failure>) -> Result<(), Failure> {
        match (ended, self.scribe.catch_up(&self.records[self.turn])) {
            (Ok(()), kept) => kept,
            (Err(failure), _) => Err(failure),
        }
    }
}

impl Evaluation<'_> {
    /// Gives each record its exams, those that were not begun.
    fn begin(&mut self, report: &Report) -> Result<(), Failure> {
        for record in &mut self.records {
            let can = can(report, &record.model);
            for (paper, shots) in &self.papers {
                let variant =
                    record.source.variant.filter(|variant| paper.suite.variants().contains(variant));
                let Some(variant) = variant.or_else(|| paper.suite.variant_for(can)) else {
                    let what = format!("{} cannot be asked of {}", paper.suite.word(), record.model);
                    let failure = Failure::new(Kind::Failed, what)
                        .cause("its engine tells no token probabilities; llama-server does");
                    return Err(match record.source.suites.as_slice() {
                        [_] => failure,
                        all => {
                            let others: Vec<&str> =
                                all.iter().filter(|one| **one != paper.suite).map(|one| one.word()).collect();
                            failure.hint(format!("leave it out: --suite {}", others.join(",")))
                        }
                    });
                };
                if !can.answers(variant) {
                    let what = format!("{} cannot be asked as {}", record.model, variant.word());
                    return Err(Failure::new(Kind::Usage, what).cause("its engine cannot do that"));
                }
                for item in &paper.items {
                    ask(item, variant, shots).map_err(|error| {
                        let what = format!("{} cannot be asked", item.id());
                        let file = format!("{}-dev.jsonl", paper.suite.word());
                        Failure::new(Kind::Usage, what).cause(error.to_string()).hint(format!(
                            "ask without: --shots 0; or put examples into {file}, beside the items"
                        ))
                    })?;
                }
                let begun = Run::begin(paper.suite, variant, shots, &paper.items).map_err(|error| {
                    let what = format!("the items of {} make no exam", paper.suite.word());
                    Failure::new(Kind::Failed, what).cause(error.to_string())
                })?;
                match record.sittings.iter().find(|sitting| sitting.run.suite == paper.suite) {
                    None => record.sittings.push(Sitting::new(begun)),
                    Some(sitting) if is_same_exam(&sitting.run, &begun) => {}
                    Some(_) => {
                        let what =
                            format!("the items of {} are not those that it began with", paper.suite.word());
                        return Err(Failure::new(Kind::Failed, what)
                            .cause("the file was changed since")
                            .hint("begin anew: meshctl eval run, without --resume"));
                    }
                }
            }
        }
        Ok(())
    }

    /// What was found goes where plans look: into the machine's profile.
    async fn tell_the_machine(&mut self, at: usize) {
        let record = &self.records[at];
        let (id, findings) = (record.id.clone(), record.findings());
        let untold = match findings.is_empty() {
            true => record.why_nothing_found(),
            false => {
                let (model, work) = (record.model.clone(), Work::Keep(KeepWork { findings }));
                let told = self.hands.trial(&Trial { model, work, patience_s: 60 }, |_| {}).await;
                told.err().map(|failure| in_words(&failure))
            }
        };
        if let Some(why) = untold {
            self.screen.done_doing();
            let why = self.screen.look.text(&why);
            let text = format!(
                "{}: plans do not go by it: {why}\nto try again: meshctl eval run --resume {id}\n",
                self.records[at].model
            );
            self.screen.note(&self.screen.commands(&text));
        }
    }

    async fn exam(&mut self, at: usize, number: usize) -> Result<(), Failure> {
        let Self { hands, scribe, screen, papers, records, at_once, .. } = self;
        let (paper, shots) = &papers[number];
        let record = &mut records[at];
        let model = record.model.clone();
        let Some(place) = record.sittings.iter().position(|sitting| sitting.run.suite == paper.suite) else {
            return Ok(());
        };
        let sitting = &record.sittings[place];
        let manner = Manner { variant: sitting.run.variant, at_once: *at_once };
        let all = sitting.run.items.len();
        let told = |sitting: &Sitting| {
            let done = all - sitting.run.missing().count();
            screen.doing(&format!("{model}: {}, {done} of {all}", paper.suite.word()));
        };
        told(sitting);
        sit(hands, paper, shots, manner, &mut Desk { scribe, record, place }, told).await
    }

    fn conclude(
        &self,
        args: &EvalRunArgs,
        ended: Result<(), Failure>,
        baselines: &[Record],
    ) -> Result<(), Failure> {
        let (complete, open): (Vec<&Record>, Vec<&Record>) =
            self.records.iter().partition(|record| record.is_complete() && record.ended_unix_ms.is_some());
        // What was answered is shown, whatever came after it.
        if ended.is_err() && !self.screen.is_json() {
            for record in complete {
                self.screen.result(&render::eval::page(record, self.screen.look))?;
            }
        }
        for record in open {
            let items = record.sittings.iter().map(|sitting| sitting.run.items.len()).sum::<usize>();
            let missing = record.sittings.iter().map(|sitting| sitting.run.missing().count()).sum::<usize>();
            let again = format!(
                "{}: {} of {items} items are answered and kept; to go on: meshctl eval run --resume {}\n",
                record.model,
                items - missing,
                record.id
            );
            self.screen.note(&self.screen.commands(&again));
        }
        ended?;
        let gate = args
            .gate
            .map(Gate::new)
            .transpose()
            .map_err(|error| Failure::new(Kind::Usage, "that is no gate").cause(error.to_string()))?;
        let mut comparisons = Vec::new();
        for (record, baseline) in self.records.iter().zip(baselines) {
            comparisons.push(judged(baseline, record, None, gate)?);
        }
        if self.screen.is_json() {
            let evaluations = self.records.iter().map(render::eval::Reported::of).collect();
            let document = Document { evaluations, comparisons: &comparisons };
            self.screen.result(&render::json("mesh.evaluated/v1", &document, false))?;
        } else {
            for record in &self.records {
                self.screen.result(&render::eval::page(record, self.screen.look))?;
            }
            for judged in &comparisons {
                self.screen.result(&render::eval::comparison(judged, self.screen.look))?;
            }
            for record in &self.records {
                let next = format!("next: meshctl eval show {} --wrong\n", record.id);
                self.screen.note(&self.screen.commands(&next));
            }
        }
        comparisons.iter().try_for_each(Judged::verdict)
    }
}

/// Whether what was begun is asked the same way about the same items as `now`.
fn is_same_exam(begun: &Run, now: &Run) -> bool {
    let same_items = begun.items.len() == now.items.len()
        && now.items.iter().all(|(id, item)| begun.items.get(id).is_some_and(|one| one.print == item.print));
    (begun.variant, begun.shots, &begun.shots_print) == (now.variant, now.shots, &now.shots_print)
        && same_items
}
