//! `meshctl stress`: several models of one machine at work at once, and downloads beside them.
//!
//! ```text
//! look ─► ask ─► cordon ─► load all ─► each alone ─► pairs ─► all ─► all and downloads ─► remove, put back ─► tell
//!                             └────────────────── Ctrl-C, failure ──────────────────────┘
//! ```
//!
//! `tenants`: which models, and how they come in. `downloads`: what is fetched. What it means is [`mesh_core::stress`]'s to find.

mod downloads;
mod tenants;

use super::hands::{Hands, Loaded, loaded, profile};
use super::in_words;
use super::keep::{Heading, Keep, Kept, list as listed, now};
use super::ladder::candidates::Candidate;
use super::ladder::ends_all;
use super::loan::{Borrower, Pledge, Returned, leaving, lend, unless_left};
use super::tried::{Measured, measure, patience, reason};
use crate::cli::{KeptCommand, StressArgs, StressCommand};
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render::stress::{Listed, document, list, page};
use downloads::Downloads;
use futures_util::future::join_all;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::ladder::{ModeGoal, Shape};
use mesh_core::machine::Report;
use mesh_core::stress::{Download, Record, SCHEMA, Settings, Stint, analyse};
use mesh_core::trial::{Prefix, SpeedWork};
use tokio::time::Instant;

/// The work of each: the shortest shape of the ladder, so that a minute holds some of it on slow machines too.
const SHAPE: Shape = Shape { prompt: 512, output: 128 };
/// Downloads at once, at most: what the machine's store does at a time.
const DOWNLOADS: usize = 2;
/// So many models are tried in pairs; of more there are too many pairs for anybody's patience.
const PAIRED: usize = 4;

const LIST: Heading = Heading {
    schema: "mesh.stress-tests/v1",
    field: "stress_tests",
    none: "no machine was under stress yet",
};

/// A machine under stress.
struct Stress<'a> {
    hands: Hands,
    /// One for each model that works at the same time.
    crew: Vec<Hands>,
    way: Way,
    record: Record,
    keep: Keep<Record>,
    candidates: Vec<Candidate>,
    downloads: Downloads,
    start: Instant,
    screen: &'a Screen,
}

/// Does what was typed; `leave` resolves at each Ctrl-C.
///
/// # Errors
/// `NotFound` for an unknown node or model, `Usage` for a download of what is there or without anybody to ask, `DoesNotFit`
/// where no model has room, `Interrupted`, and what keeps the router from answering or the record from being kept. What was
/// fetched is removed and the machine is put back first.
pub(super) async fn run(
    command: StressCommand,
    way: &Way,
    screen: &Screen,
    leave: impl AsyncFn(),
) -> Result<(), Failure> {
    let keep = Keep::of(&way.data);
    match command {
        StressCommand { kept: Some(KeptCommand::List), .. } => listed(&keep, screen, &LIST, Listed::of, list),
        StressCommand { kept: Some(KeptCommand::Show { id }), .. } => {
            shown(&keep.named(id.as_deref())?, screen)
        }
        StressCommand { args: Some(args), .. } => stressed(&args, way, screen, leave).await,
        StressCommand { args: None, kept: None } => {
            Err(Failure::new(Kind::Usage, "no machine is named").hint("name it: meshctl stress --node NODE"))
        }
    }
}

async fn stressed(
    args: &StressArgs,
    way: &Way,
    screen: &Screen,
    leave: impl AsyncFn(),
) -> Result<(), Failure> {
    let (mut stress, pledge) = unless_left(prepare(args, way, screen), &leave).await?;
    // From here on the machine is changed.
    let Returned { ended, back } = lend(&mut stress, pledge, screen, &leave).await?;
    stress.conclude(ended).and(back)
}

/// Looks and asks; nothing is changed.
async fn prepare<'a>(
    args: &StressArgs,
    way: &Way,
    screen: &'a Screen,
) -> Result<(Stress<'a>, Pledge), Failure> {
    if args.pull.len() > DOWNLOADS {
        let what = format!(
            "{} downloads are more than the {DOWNLOADS} that a machine does at once",
            args.pull.len()
        );
        return Err(Failure::new(Kind::Usage, what));
    }
    let mut hands = Hands::of(&args.node, way).await?;
    let report = hands.report().await?;
    let pledge = Pledge::of(&way.data, &args.node)?;
    let candidates = tenants::chosen(&report, &args.node, &args.models)?;
    let downloads = Downloads::new(&args.pull, &report)?;
    let mut record = fresh(args, &report, hands.goals().await?, now());
    let keep = Keep::of(&way.data);
    if !args.yes {
        screen.agreed(&question(args, &candidates, &loaded(&report)), "--yes").await?;
    }
    // What cannot be kept need not be measured.
    let began = record.started_unix_ms;
    keep.begin(&mut record, began)?;
    let (crew, way, start) = (Vec::new(), way.clone(), Instant::now());
    Ok((Stress { hands, crew, way, record, keep, candidates, downloads, start, screen }, pledge))
}

fn question(args: &StressArgs, candidates: &[Candidate], there: &[Loaded]) -> String {
    let models: Vec<&str> = candidates.iter().map(|one| one.model.as_str()).collect();
    let pulls: Vec<&str> = args.pull.iter().map(|source| source.model.as_str()).collect();
    let pulls =
        if pulls.is_empty() { String::new() } else { format!(", while it fetches {}", pulls.join(", ")) };
    format!(
        "{} is cordoned meanwhile: it gets no new models. {}.\nTo work at once: {}{pulls}. Begin?",
        args.node,
        leaving(there),
        models.join(", ")
    )
}

fn fresh(args: &StressArgs, report: &Report, modes: Vec<ModeGoal>, now: u64) -> Record {
    let profile = profile(report);
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
            prompt: SHAPE.prompt,
            output: SHAPE.output,
            seconds: args.seconds,
            seed: args.seed,
        },
        modes,
        models: Vec::new(),
        left_out: Vec::new(),
        stints: Vec::new(),
        downloads: Vec::new(),
        stopped: None,
    }
}

impl Borrower for Stress<'_> {
    fn hands(&mut self) -> &mut Hands {
        &mut self.hands
    }

    /// Every phase, in its order.
    async fn work(&mut self) -> Result<(), Failure> {
        self.load().await?;
        let models: Vec<ModelId> = self.record.models.iter().map(|rung| rung.model.clone()).collect();
        for _ in &models {
            let hands = Hands::of(&self.record.node, &self.way).await?;
            self.crew.push(hands);
        }
        for model in &models {
            self.together(std::slice::from_ref(model), false).await?;
        }
        if (3..=PAIRED).contains(&models.len()) {
            for (at, first) in models.iter().enumerate() {
                for second in &models[at + 1..] {
                    self.together(&[first.clone(), second.clone()], false).await?;
                }
            }
        }
        if models.len() > 1 {
            self.together(&models, false).await?;
        }
        if !self.downloads.names().is_empty() {
            self.together(&models, true).await?;
        }
        Ok(())
    }

    /// Ends the record, and keeps it.
    fn close(&mut self, ended: Result<(), Failure>) -> Result<(), Failure> {
        self.screen.done_doing();
        self.record.ended_unix_ms = Some(now().max(self.record.started_unix_ms));
        if let Err(failure) = &ended {
            let by_hand = failure.kind == Kind::Interrupted;
            self.record.stopped =
                Some(if by_hand { "ended by hand".into() } else { reason(in_words(failure)) });
        }
        match (ended, self.save()) {
            (Ok(()), kept) => kept,
            (Err(failure), _) => Err(failure),
        }
    }

    /// Takes away what was fetched, also after Ctrl-C; a second one leaves it there and says so.
    async fn clean(&mut self, leave: &impl AsyncFn()) -> Result<(), Failure> {
        if !self.downloads.begun {
            return Ok(());
        }
        self.screen.doing("what was fetched is removed");
        let removed = unless_left(self.downloads.remove(&mut self.hands), leave).await;
        self.screen.done_doing();
        if let Err(failure) = &removed {
            let mut text = format!("what was fetched may be there still: {}; by hand:\n", in_words(failure));
            for model in self.downloads.names() {
                text += &format!("  meshctl model rm {model} --node {}\n", self.record.node);
            }
            self.screen.note(&self.screen.commands(&text));
        }
        removed
    }
}

impl Stress<'_> {
    /// These models work at the same time. What they did is in the record.
    async fn together(&mut self, models: &[ModelId], fetches: bool) -> Result<(), Failure> {
        let settings = self.record.settings;
        let fetching = if fetches { self.downloads.names() } else { Vec::new() };
        let names: Vec<&str> = models.iter().map(ModelId::as_str).collect();
        let files = if fetches { ", and downloads" } else { "" };
        self.screen.doing(&format!("{}{files}: {} s", names.join(" + "), settings.seconds));
        let began_s = self.start.elapsed().as_secs_f64();
        let count = u32::try_from(models.len()).unwrap_or(u32::MAX);
        // They are on their way before anybody works.
        let mut told: Vec<Download> = Vec::new();
        if fetches {
            told = self.downloads.begin(&mut self.hands, self.start).await;
        }
        let mut at_work = Vec::new();
        for (at, (hands, model)) in self.crew.iter_mut().zip(models).enumerate() {
            let work = SpeedWork {
                prompt_tokens: settings.prompt,
                output_tokens: settings.output,
                streams: 1,
                repetitions: 1,
                // Others at the same time read other words.
                seed: settings.seed.wrapping_add(at as u64),
                prefix: Prefix::Cold,
                soak_s: Some(settings.seconds),
            };
            at_work.push(measure(hands, model, work, patience(&SHAPE, count)));
        }
        let at_work = join_all(at_work);
        let done = if fetches {
            let done = tokio::select! {
                done = at_work => done,
                () = self.downloads.watch(&mut self.hands, self.start, &mut told) => Vec::new(),
            };
            self.downloads.look(&mut self.hands, self.start, &mut told).await;
            done
        } else {
            at_work.await
        };
        self.record.downloads.append(&mut told);
        let mut ends = None;
        for (model, Measured { cell, subject, ended }) in models.iter().zip(done) {
            if let Some(rung) = self.record.models.iter_mut().find(|rung| rung.model == *model) {
                rung.subject = rung.subject.take().or(subject);
            }
            let broke = ended.as_ref().err().map(|failure| reason(in_words(failure)));
            ends = ends.or(ended.err().filter(ends_all));
            let beside = models.iter().filter(|other| *other != model).cloned().collect();
            let (model, fetching) = (model.clone(), fetching.clone());
            self.record.stints.push(Stint { model, beside, fetching, began_s, cell, broke });
        }
        self.save()?;
        ends.map_or(Ok(()), Err)
    }

    /// Writes down what was seen so far.
    fn save(&self) -> Result<(), Failure> {
        self.keep.write(&self.record)
    }

    /// Tells what was seen, also of one that was ended early.
    fn conclude(&self, ended: Result<(), Failure>) -> Result<(), Failure> {
        if ended.is_ok() || !self.record.stints.is_empty() {
            shown(&self.record, self.screen)?;
        }
        self.screen.note(&format!("kept in {}\n", self.keep.file(&self.record.id).display()));
        ended
    }
}

/// A record, and what it says.
fn shown(record: &Record, screen: &Screen) -> Result<(), Failure> {
    let findings = analyse(record);
    if screen.is_json() {
        return screen.result(&document(record, &findings));
    }
    screen.result(&screen.commands(&page(record, &findings, screen.look)))
}

impl Kept for Record {
    const FOLDER: &'static str = "stress";
    const NOUN: &'static str = "stress test";
    const MAKE: &'static str = "meshctl stress --node NODE";

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
