//! The owner of the plan: which models are to be where, and the steps that lead there.
//!
//! It plans anew after each change that matters, and while the mesh follows the plan at least each ten seconds. A plan is
//! only a proposal until an operator applies one or the configuration says so; then its steps go to the agents, in the
//! pace of [`mesh_core::directive`], unless the plan has faults. Requests do not wait for it but for one question: where a
//! model is loaded that is in no memory.
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | steward | snapshots of the fleet, operators' wishes, headers of models, time | a [`Planned`] after each plan, directives, other modes for the keeper | the router stops |

mod catalogue;
mod exams;
mod handle;
mod matters;
pub mod on_demand;
mod watchman;
pub mod what_if;
pub mod wished;

use crate::config::Placement;
use crate::fleet_keeper::{FleetHandle, Snapshot};
use crate::forward::blobs::Blobs;
use crate::forward::in_flight::InFlight;
use crate::ledger::OperatorWishes;
use crate::metrics::{Metrics, ReasonLabel};
use crate::modes::ModeSet;
use crate::strategies::{Strategies, Strategy};
use catalogue::Headers;
use exams::Exams;
use handle::Ask;
pub use handle::{NoPlan, Of, Planned, StewardHandle};
use matters::Matters;
use mesh_core::directive::{self, Course, Pace, Step};
use mesh_core::fleet::{Answers, FleetView, MachineView};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::Directive;
use mesh_core::placement::{Plan, World, plan};
use mesh_core::plan_check;
use mesh_core::strategy::Wishes;
use mesh_core::units::Moment;
use mesh_daemon::clock::Clock;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use watchman::Watchman;
use what_if::WhatIf;
use wished::Wished;

/// How long a change may wait for others: a report comes in pieces.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// A mesh that follows its plan is looked at this often, whatever is heard: memory changes a little at a time.
const EACH: Duration = Duration::from_secs(10);
/// Any other this often: quiet hours begin and end, and tell which machines take nothing new.
const SELDOM: Duration = Duration::from_secs(60);
/// Questions that may wait.
const INBOX: usize = 64;

/// What the steward works with.
pub struct StewardParts {
    /// All machines.
    pub fleet: FleetHandle,
    /// Requests in flight.
    pub in_flight: InFlight,
    /// Headers of stored models; `None` = models are planned by their size.
    pub blobs: Option<Blobs>,
    /// What operators wish.
    pub operator: watch::Receiver<Arc<OperatorWishes>>,
    /// Machines that joined once.
    pub expected: BTreeSet<MachineId>,
    /// What holds at the start.
    pub wished: Wished,
    /// The configuration's modes.
    pub modes: Option<Arc<ModeSet>>,
    /// What the configuration says of placement.
    pub placement: Placement,
    /// The folder of strategies.
    pub strategies: PathBuf,
    /// What is counted.
    pub metrics: Metrics,
    /// The clock.
    pub clock: Clock,
    /// Minutes since midnight where the router is.
    pub minute_of_day: fn() -> u16,
}

/// Starts the steward.
#[must_use]
pub fn start(parts: StewardParts, stop: CancellationToken) -> StewardHandle {
    let (inbox, asked) = mpsc::channel(INBOX);
    let (publish, planned) = watch::channel(Arc::default());
    let now = parts.clock.now();
    let pace = Pace {
        machine_pause: parts.placement.machine_pause,
        budget: parts.placement.budget,
        ..Pace::default()
    };
    let seen = parts.operator.borrow().clone();
    let steward = Steward {
        watchman: Watchman::new(parts.expected.clone(), now),
        headers: Headers::new(parts.blobs.clone()),
        exams: Exams::default(),
        course: Course::new(pace),
        wished: parts.wished.clone(),
        seen,
        barred: BTreeMap::new(),
        publish,
        parts,
    };
    tokio::spawn(steward.run(asked, stop));
    StewardHandle { inbox, planned }
}

struct Steward {
    parts: StewardParts,
    watchman: Watchman,
    headers: Headers,
    exams: Exams,
    course: Course,
    wished: Wished,
    /// What operators wished when that was looked at last.
    seen: Arc<OperatorWishes>,
    /// Machines that take nothing new.
    barred: BTreeMap<MachineId, String>,
    publish: watch::Sender<Arc<Planned>>,
}

impl Steward {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>, stop: CancellationToken) {
        let mut snapshots = self.parts.fleet.snapshots();
        let mut operator = self.parts.operator.clone();
        let mut matters = Matters::default();
        // A plan is made at once: what is wished may be impossible whoever comes.
        let mut due = Some(self.parts.clock.now());
        loop {
            let clock = self.parts.clock;
            let time_passes = async {
                match due {
                    Some(at) => clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let soon = || clock.now().plus(DEBOUNCE);
            tokio::select! {
                () = stop.cancelled() => return,
                ask = asked.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    None => return,
                },
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let fresh = Matters::of(&snapshots.borrow_and_update().view);
                    if fresh != matters {
                        matters = fresh;
                        due = Some(due.map_or_else(soon, |at| at.min(soon())));
                    }
                }
                changed = operator.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    operator.mark_unchanged();
                    self.refresh().await;
                    due = Some(soon());
                }
                header = self.headers.next() => {
                    self.headers.take(header, clock.now());
                    due = Some(due.map_or_else(soon, |at| at.min(soon())));
                }
                () = time_passes => due = self.act().await,
            }
        }
    }

    /// Makes a plan, follows it where that is wished, and says when to look again.
    async fn act(&mut self) -> Option<Moment> {
        let snapshot = self.parts.fleet.snapshot();
        self.course.look(&snapshot.view, self.parts.clock.now());
        let wishes = self.wishes_now();
        let world = self.world(&snapshot, &wishes, &Of::Now);
        let following = self.follows();
        if let Some((plan, faults)) = planned(world, wishes.clone()).await {
            let now = self.parts.clock.now();
            let stopped = self.stopped(&plan, &faults, &snapshot, now);
            let previous = self.publish.borrow().clone();
            self.bar(&plan).await;
            if stopped.is_empty() {
                self.follow(&plan, &snapshot.view, &wishes, following).await;
            }
            let broken = self.wished.broken.clone();
            let planned = Planned { plan, wishes, following, stopped, waiting: Vec::new(), broken };
            self.tell(&previous, &planned, &faults);
            self.publish.send_if_modified(|old| {
                let changed = **old != planned;
                if changed {
                    *old = Arc::new(planned);
                }
                changed
            });
        }
        let now = self.parts.clock.now();
        let each = Some(now.plus(if following { EACH } else { SELDOM }));
        let headers = self.headers.next_change(now);
        [each, self.course.next_change(now), self.watchman.next_change(now), headers]
            .into_iter()
            .flatten()
            .min()
    }

    /// Why the plan is not followed.
    fn stopped(&self, plan: &Plan, faults: &[String], snapshot: &Snapshot, now: Moment) -> Vec<String> {
        let mut stopped: Vec<String> =
            faults.iter().map(|fault| format!("the plan has a fault: {fault}")).collect();
        // Such a plan places nothing, and to follow it would empty every machine.
        let fatal = plan.problems.iter().filter(|problem| problem.fatal);
        stopped.extend(fatal.map(|problem| format!("{}: {}", problem.key, problem.message)));
        stopped.extend(self.wished.broken.clone());
        let reading = self.headers.underway(now);
        if reading > 0 {
            // By their sizes alone models look larger than they are.
            stopped.push(format!("reading the headers of {reading} models first"));
        }
        let missing = self.watchman.missing(&snapshot.view, now);
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let seconds = watchman::GATHERING.as_secs();
            stopped.push(format!(
                "waiting for {} for up to {seconds} s after the router's start",
                names.join(", ")
            ));
        }
        stopped
    }

    /// Keeps requests from having models loaded where a person wants none.
    async fn bar(&mut self, plan: &Plan) {
        // A plan for wishes that contradict themselves knows no machines.
        if plan.problems.iter().any(|problem| problem.fatal) {
            return;
        }
        let closed = plan.machines.iter().filter(|machine| !machine.barred.is_empty());
        let barred: BTreeMap<MachineId, String> =
            closed.map(|machine| (machine.machine.clone(), machine.barred.clone())).collect();
        if barred != self.barred {
            self.parts.fleet.set_barred(barred.clone()).await;
            self.barred = barred;
        }
    }

    /// Sends the next steps. Where no plan is followed, those that empty drained machines: that is an order of its own.
    /// Both from the view that was planned from: a machine that has told since what it holds would seem to hold too much.
    async fn follow(&mut self, plan: &Plan, view: &FleetView, wishes: &Wishes, following: bool) {
        let load = self.parts.in_flight.load();
        let busy = |machine: &MachineId, model: &ModelId| {
            load.get(&(machine.clone(), model.clone())).copied().unwrap_or(0)
        };
        let now = self.parts.clock.now();
        let steps = if following {
            directive::next_steps(plan, view, &mut self.course, &busy, now)
        } else {
            let is_drained = |machine: &&MachineView| wishes.limits(&machine.id).drained;
            let drained: Vec<MachineView> = view.machines.iter().filter(is_drained).cloned().collect();
            if drained.is_empty() {
                return;
            }
            let view = FleetView::new(drained, &Answers::new());
            directive::next_steps(plan, &view, &mut self.course, &busy, now)
        };
        for step in steps {
            self.send(step).await;
        }
    }

    async fn send(&mut self, step: Step) {
        let (reason, model) = word_of(&step.directive);
        match self.parts.fleet.direct(&step.machine, step.directive.clone()).await {
            Ok(()) => {
                tracing::info!(node = %step.machine, %model, wish = reason, "a step of the plan: {}", step.why);
                self.count(reason);
            }
            Err(error) => {
                tracing::warn!(node = %step.machine, %model, wish = reason, "a step of the plan was not sent: {error}");
                self.count("not_sent");
                self.course.not_sent(&step);
            }
        }
    }

    fn count(&self, reason: &'static str) {
        self.parts.metrics.steps.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Says what is news of a plan.
    fn tell(&self, previous: &Planned, planned: &Planned, faults: &[String]) {
        let unplaced = i64::try_from(planned.plan.unplaced.len()).unwrap_or(i64::MAX);
        self.parts.metrics.unplaced_modes.set(unplaced);
        if !faults.is_empty() {
            self.parts.metrics.plan_faults.inc();
        }
        if previous.stopped != planned.stopped && planned.following {
            if faults.is_empty() {
                for why in &planned.stopped {
                    tracing::warn!("the plan is not followed for now: {why}");
                }
            } else {
                tracing::error!(
                    "the plan is not followed, which is a fault of the planner: {}",
                    faults.join("; ")
                );
            }
        }
        for unplaced in &planned.plan.unplaced {
            let was = previous.plan.unplaced.iter().any(|one| one.mode == unplaced.mode);
            if planned.following && !was {
                let help = unplaced.would_help.first().map(|help| format!("; {help}")).unwrap_or_default();
                tracing::warn!(mode = %unplaced.mode, "a mode has no place for {} of its copies{help}", unplaced.copies);
            }
        }
    }

    async fn answer(&mut self, ask: Ask) {
        // Who changed a wish and then asks must hear of it.
        self.refresh().await;
        match ask {
            Ask::Place { asked, reply } => drop(reply.send(self.place(&asked))),
            Ask::Wishes { reply } => drop(reply.send((self.wishes_now(), self.follows()))),
            Ask::Change { change, reply } => {
                // A strategy's file that has changed since is what the change would meet.
                let operator = self.operator();
                self.take_up(&operator).await;
                let (modes, placement) = (self.parts.modes.as_ref(), &self.parts.placement);
                drop(reply.send(self.wished.change(modes, placement, &self.operator(), &change)));
            }
            Ask::Plan { of, what_if, reply } => {
                // Who asked may have gone.
                drop(reply.send(self.plan(&of, &what_if).await));
            }
        }
    }

    async fn plan(&mut self, of: &Of, what_if: &[WhatIf]) -> Result<Planned, String> {
        let snapshot = self.parts.fleet.snapshot();
        let wishes = self.wishes(of)?;
        let mut world = self.world(&snapshot, &wishes, of);
        what_if::suppose(&mut world, what_if)?;
        let now = self.parts.clock.now();
        let following = matches!(of, Of::Now) && self.follows();
        let broke = "the planner broke, which is a fault of ours; the router's log has more";
        let (plan, faults) = planned(world, wishes.clone()).await.ok_or(broke)?;
        let stopped = self.stopped(&plan, &faults, &snapshot, now);
        let broken = self.wished.broken.clone().filter(|_| matches!(of, Of::Now));
        let waits = |plan| directive::waiting(plan, &snapshot.view, &self.course, now);
        let waiting = if following { waits(&plan) } else { Vec::new() };
        Ok(Planned { plan, wishes, following, stopped, waiting, broken })
    }

    /// Takes up what operators wish since the last look: another strategy, or the same whose file was changed.
    async fn refresh(&mut self) {
        let operator = self.operator();
        if Arc::ptr_eq(&operator, &self.seen) {
            return;
        }
        self.seen = operator.clone();
        self.take_up(&operator).await;
        // Who looks at the status now must not see what was wished before.
        let strategy =
            self.wished.strategy.as_ref().map(|strategy| strategy.name.clone()).unwrap_or_default();
        let following = self.follows();
        self.publish.send_if_modified(|old| {
            let changed = (old.following, &old.wishes.strategy) != (following, &strategy);
            if changed {
                let planned = Arc::make_mut(old);
                (planned.following, planned.wishes.strategy) = (following, strategy);
            }
            changed
        });
    }

    async fn take_up(&mut self, operator: &OperatorWishes) {
        let before = self.wished.strategy.take().map(|strategy| strategy.name.clone());
        let folder = self.parts.strategies.clone();
        let read = tokio::task::spawn_blocking(move || Strategies::read(&folder)).await;
        let strategies = read.unwrap_or_default();
        self.wished = Wished::now(self.parts.modes.as_ref(), &self.parts.placement, operator, &strategies);
        self.parts.fleet.set_modes(self.wished.modes.clone()).await;
        let now = self.wished.strategy.as_ref().map(|strategy| strategy.name.clone());
        if now != before {
            tracing::info!(strategy = now.as_deref().unwrap_or("none"), "other modes hold");
        }
    }

    fn operator(&self) -> Arc<OperatorWishes> {
        self.parts.operator.borrow().clone()
    }

    fn follows(&self) -> bool {
        self.operator().follows.unwrap_or(self.parts.placement.apply)
    }

    fn strategy<'a>(&'a self, of: &'a Of) -> Option<&'a Strategy> {
        match of {
            Of::Now => self.wished.strategy.as_deref(),
            Of::Configured => None,
            Of::Strategy(strategy) => Some(strategy),
        }
    }

    fn wishes_now(&self) -> Wishes {
        let (strategy, modes) = (self.wished.strategy.as_deref(), self.wished.modes.as_deref());
        Wished::wishes(strategy, modes, &self.parts.placement, &self.operator())
    }

    fn wishes(&self, of: &Of) -> Result<Wishes, String> {
        let (placement, operator) = (&self.parts.placement, self.operator());
        let (strategy, base) = match of {
            Of::Now => return Ok(self.wishes_now()),
            Of::Configured => (None, self.parts.modes.as_ref()),
            Of::Strategy(strategy) => (Some(&**strategy), Some(&strategy.modes)),
        };
        let modes = Wished::laid(base, strategy, placement, &operator)?;
        Ok(Wished::wishes(strategy, modes.as_deref(), placement, &operator))
    }

    /// All that a plan is made of, as it is now.
    fn world(&mut self, snapshot: &Snapshot, wishes: &Wishes, of: &Of) -> World {
        let now = self.parts.clock.now();
        self.watchman.look(&snapshot.view, now);
        self.headers.fetch(&snapshot.view, wishes, now);
        let written = Wished::written(self.strategy(of), &self.parts.placement);
        let mut catalogue = self.headers.catalogue(&snapshot.view, &written);
        self.exams.look(&snapshot.view);
        self.exams.grade(&mut catalogue);
        World {
            sites: self.watchman.sites(&snapshot.view, wishes, (self.parts.minute_of_day)()),
            catalogue,
            refused: self.course.refused(),
        }
    }
}

/// The plan and its faults. Apart from the tasks of requests: a large mesh takes a second. `None` when the planner broke,
/// which its own panic has told.
async fn planned(world: World, mut wishes: Wishes) -> Option<(Plan, Vec<String>)> {
    // A mode that takes any embedding model wants nothing where there is none: most meshes have none, and lack nothing.
    wishes.modes.retain(|wish| {
        !wish.embeds || !wish.models.is_empty() || world.catalogue.values().any(|model| model.embeds)
    });
    let work = move || {
        let plan = plan(&world, &wishes);
        let faults = plan_check::faults(&plan, &world, &wishes);
        (plan, faults)
    };
    tokio::task::spawn_blocking(work).await.ok()
}

fn word_of(directive: &Directive) -> (&'static str, &ModelId) {
    match directive {
        Directive::Load(wish) => ("load", &wish.model),
        Directive::Unload(model) => ("unload", model),
        Directive::Pull(wish) => ("pull", &wish.model),
        Directive::CancelPull(model) => ("cancel", model),
        Directive::Delete(model) => ("delete", model),
    }
}
