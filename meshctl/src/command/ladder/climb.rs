//! The order of a climb: look, ask the person, take the machine for itself, rung by rung, and put the machine back however
//! it ended.
//!
//! ```text
//! look ─► ask ─► cordon ─► rung ─► rung ─► … ─► put back ─► tell
//!                            └── Ctrl-C, failure ──┘
//! ```

use super::candidates::{Candidate, Loaded, candidates, loaded};
use super::hands::{Hands, Size};
use super::keep::Keep;
use super::rung::{Broken, UNFINISHED, begun};
use super::{in_words, json, questions};
use crate::cli::RunArgs;
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render::ladder::{Lines, conclusion};
use mesh_core::id::ModelId;
use mesh_core::ladder::{
    Candidate as Asked, ModeGoal, Next, Outcome, Record, Rung, Sampling, Schema, Settings, StopRule, Stopped,
    analyse, next,
};
use mesh_core::machine::Report;
use mesh_core::profile::Profile;
use mesh_core::trial::{Prefix, Sample};
use mesh_core::units::human_duration;
use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// How long a hot machine may cool before its next rung.
const COOLING: Duration = Duration::from_secs(180);
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A climb on its way.
pub(super) struct Climb<'a> {
    pub(super) hands: Hands,
    pub(super) record: Record,
    keep: Keep,
    candidates: Vec<Candidate>,
    screen: &'a Screen,
    lines: Lines,
}

/// The machine as it was.
struct Before {
    standing: String,
    loaded: Vec<Loaded>,
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
    let prepared = tokio::select! {
        prepared = prepare(args, way, screen) => prepared,
        () = leave() => Err(Failure::interrupted()),
    };
    let (mut climb, there) = prepared?;
    // From here on the machine is changed.
    let standing = climb.hands.stand("cordon").await?;
    let before = Before { standing, loaded: there };
    let ended = tokio::select! {
        ended = climb.all() => ended,
        () = leave() => Err(Failure::interrupted()),
    };
    let ended = climb.close(ended);
    climb.tell("the machine is put back as it was");
    let back = tokio::select! {
        back = put_back(&mut climb.hands, &before) => back,
        () = leave() => Err(Failure::interrupted()),
    };
    climb.untell();
    if let Err(failure) = &back {
        climb.tell_how_to_put_back(&before, failure);
    }
    climb.conclude(args, ended)?;
    back
}

/// Looks and asks; nothing is changed.
async fn prepare<'a>(
    args: &RunArgs,
    way: &Way,
    screen: &'a Screen,
) -> Result<(Climb<'a>, Vec<Loaded>), Failure> {
    let mut hands = Hands::of(&args.node, way).await?;
    let report = hands.report().await?;
    let keep = Keep::of(&way.data);
    let (candidates, left_out) = candidates(&report, args)?;
    for line in left_out {
        screen.note(&(line + "\n"));
    }
    let record = match &args.resume {
        Some(id) => resumed(&keep, id, args)?,
        None => fresh(args, &report, hands.goals().await?, now()),
    };
    let there = loaded(&report);
    if !args.yes {
        screen.agreed(&question(args, &candidates, &there), "--yes").await?;
    }
    // What cannot be kept need not be measured.
    keep.write(&record)?;
    let lines = Lines::of(candidates.iter().map(|one| one.model.as_str()), screen.look);
    Ok((Climb { hands, record, keep, candidates, screen, lines }, there))
}

fn question(args: &RunArgs, candidates: &[Candidate], there: &[Loaded]) -> String {
    let models: Vec<&str> = candidates.iter().map(|one| one.model.as_str()).collect();
    let (leaving, staying): (Vec<&Loaded>, Vec<&Loaded>) = there.iter().partition(|one| one.can_leave);
    let named = |all: &[&Loaded]| all.iter().map(|one| one.model.as_str()).collect::<Vec<&str>>().join(", ");
    let leaves = match (leaving.as_slice(), staying.as_slice()) {
        ([], []) => "nothing is loaded there".to_owned(),
        (leaving, []) => format!("{} will leave its memory and come back at the end", named(leaving)),
        ([], staying) => format!("{} cannot be unloaded and stays", named(staying)),
        (leaving, staying) => {
            let (leaving, staying) = (named(leaving), named(staying));
            format!(
                "{leaving} will leave its memory and come back at the end; {staying} cannot be unloaded and stays"
            )
        }
    };
    format!(
        "{} is cordoned meanwhile: it gets no new models. {leaves}.\nTo climb: {}. Begin?",
        args.node,
        models.join(", ")
    )
}

/// The record of a new climb.
fn fresh(args: &RunArgs, report: &Report, modes: Vec<ModeGoal>, now: u64) -> Record {
    let profile = report.profile.as_deref().and_then(|json| serde_json::from_str::<Profile>(json).ok());
    let profile = profile.unwrap_or_default();
    Record {
        schema: Schema,
        id: id(now),
        node: args.node.clone(),
        meshctl: env!("CARGO_PKG_VERSION").into(),
        started_unix_ms: now,
        ended_unix_ms: None,
        hardware: profile.hardware,
        software: profile.software,
        settings: Settings {
            matrix: args.matrix.0.clone(),
            streams: args.streams.0.clone(),
            repetitions: args.repetitions,
            seed: args.seed,
            prefix: Prefix::Cold,
            prompts: questions::VERSION.into(),
            soak_s: args.soak,
            success_threshold: args.success,
            idle_below: None,
            sustained_below: None,
            sampling: Sampling {
                temperature: Some(0.0),
                top_p: None,
                max_tokens: Some(questions::MOST_TOKENS),
            },
        },
        modes,
        rungs: Vec::new(),
        stopped: None,
    }
}

/// The record to go on with.
fn resumed(keep: &Keep, id: &str, args: &RunArgs) -> Result<Record, Failure> {
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
    Ok(Record { ended_unix_ms: None, stopped: None, ..record })
}

impl Climb<'_> {
    /// Every rung, until a rule says no.
    async fn all(&mut self) -> Result<(), Failure> {
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
            let rung = known.map_or_else(|| begun(&candidate), |at| self.record.rungs.remove(at));
            self.record.rungs.push(rung);
            self.save()?;
            let outcome = match self.measure(&candidate).await {
                Ok(()) => Outcome::Done,
                Err(Broken::Rung(outcome)) => outcome,
                Err(Broken::All(failure)) => return Err(failure),
            };
            self.rung().outcome = outcome;
            self.save()?;
            self.row(&candidate)?;
        }
        Ok(())
    }

    /// Why the climb does not go on to `candidate`. A rung that could not be measured says nothing of the next.
    async fn refused(&mut self, candidate: &Candidate) -> Result<Option<Stopped>, Failure> {
        let no_room = self.record.rungs.iter().rev().find_map(|rung| match &rung.outcome {
            Outcome::Skipped(why) if rung.size <= candidate.size => Some((rung.model.clone(), why.clone())),
            Outcome::Skipped(_) | Outcome::Done | Outcome::Failed(_) => None,
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
            active_parameters: None,
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
        let mut now = self.hands.sample().await?;
        if !now.thermal.admits_load() {
            let (state, limit) = (now.thermal.word(), human_duration(COOLING));
            self.tell(&format!(
                "the machine is {state} and takes no new model; it may cool for up to {limit}"
            ));
        }
        while !now.thermal.admits_load() && start.elapsed() < COOLING {
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

    /// What is done now, on stderr.
    pub(super) fn tell(&self, what: &str) {
        let text = self.screen.look.text(what);
        let in_place = std::io::stderr().is_terminal();
        self.screen.note(&if in_place { format!("\r\u{1b}[K{text}") } else { text + "\n" });
    }

    fn untell(&self) {
        if std::io::stderr().is_terminal() {
            self.screen.note("\r\u{1b}[K");
        }
    }

    fn head(&self) -> Result<(), Failure> {
        if self.screen.is_json() {
            return Ok(());
        }
        self.screen.result(&self.lines.head(&self.record))
    }

    fn row(&self, candidate: &Candidate) -> Result<(), Failure> {
        self.untell();
        if self.screen.is_json() {
            return Ok(());
        }
        self.screen.result(&self.lines.row(&self.record, &candidate.model))
    }

    /// Ends the record, and keeps it.
    fn close(&mut self, ended: Result<(), Failure>) -> Result<(), Failure> {
        self.untell();
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

    fn conclude(&self, args: &RunArgs, ended: Result<(), Failure>) -> Result<(), Failure> {
        let Err(failure) = ended else {
            if self.screen.is_json() {
                return self.screen.result(&json(&self.record));
            }
            let text = conclusion(&self.record, &analyse(&self.record), self.screen.look);
            self.screen.result(&self.screen.commands(&text))?;
            let shown = format!("next: meshctl ladder show {}\n", self.record.id);
            self.screen.note(&self.screen.commands(&shown));
            return Ok(());
        };
        let measured = self.record.rungs.iter().filter(|rung| !is_unfinished(rung)).count();
        let again = format!(
            "{measured} of {} rungs are done and kept; to go on: meshctl ladder run --node {}{} --resume {}\n",
            self.candidates.len(),
            args.node,
            which(args),
            self.record.id
        );
        self.screen.note(&self.screen.commands(&again));
        Err(failure)
    }

    /// The commands that do what could not be done.
    fn tell_how_to_put_back(&self, before: &Before, failure: &Failure) {
        let node = &self.hands.node;
        let mut text = format!("{node} is not as it was: {}; by hand:\n", in_words(failure));
        for one in &before.loaded {
            let context = one.context.map(|tokens| format!(" --context {tokens}")).unwrap_or_default();
            let slots = one.slots.map(|slots| format!(" --slots {slots}")).unwrap_or_default();
            text += &format!("  meshctl model load {} --node {node}{context}{slots}\n", one.model);
        }
        if let Some(wish) = wish(&before.standing) {
            text += &format!("  meshctl node {wish} {node}\n");
        }
        self.screen.note(&self.screen.commands(&text));
    }
}

fn is_unfinished(rung: &Rung) -> bool {
    rung.outcome == Outcome::Failed(UNFINISHED.into())
}

/// What brings a machine to what it was; it is cordoned now.
fn wish(standing: &str) -> Option<&'static str> {
    match standing {
        "open" => Some("resume"),
        "drained" => Some("drain"),
        _ => None,
    }
}

/// Which models were typed, as they are typed again.
fn which(args: &RunArgs) -> String {
    let size = |flag: &str, count: Option<u64>| {
        count.map(|count| format!(" --{flag} {}m", count / 1_000_000)).unwrap_or_default()
    };
    let models: Vec<&str> = args.models.iter().map(ModelId::as_str).collect();
    let models = if models.is_empty() { String::new() } else { format!(" --models {}", models.join(",")) };
    size("from", args.from) + &size("to", args.to) + &models
}

/// Loads what was loaded, in its size, and lets the machine be what it was. Goes on where one thing fails.
async fn put_back(hands: &mut Hands, before: &Before) -> Result<(), Failure> {
    let mut first: Result<(), Failure> = hands.clear().await;
    for one in &before.loaded {
        let size =
            Size { context: one.context, slots: one.slots, cache: one.cache.map(|cache| cache.word()) };
        let size = if one.can_size { size } else { Size::default() };
        let done = if one.can_leave { hands.load(&one.model, size).await.map(|_| ()) } else { Ok(()) };
        first = first.and(done);
    }
    if let Some(wish) = wish(&before.standing) {
        first = first.and(hands.stand(wish).await.map(|_| ()));
    }
    first
}

/// Now, in milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The id of a climb that begins then: `20261122-021503-128`, so that ids sort by time.
fn id(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or_default();
    let at = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (date, (hour, minute, second)) = (at.date(), at.time().as_hms());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year}{month:02}{day:02}-{hour:02}{minute:02}{second:02}-{:03}", unix_ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time() {
        assert_eq!(id(1_795_262_651_007), "20261121-120411-007");
        assert!(id(1_795_262_651_007) < id(1_795_262_651_100));
    }

    #[test]
    fn a_machine_becomes_what_it_was() {
        assert_eq!(["open", "drained", "cordoned"].map(wish), [Some("resume"), Some("drain"), None]);
    }
}
