//! Which steps lead from what is to what is planned: one at a time on each machine, none that hurts a request, and none
//! again and again.
//!
//! ```text
//! for each machine:   something on its way? ──yes──► wait
//!                     a model in memory that the plan has not? ──► unload it, when no request is on it
//!                     a file missing? ──► fetch it                (beside everything else)
//!                     a model to be loaded, and its file there? ──► load it
//! ```
//! A lost directive is sent again: [`Course`] forgets it after a while without any sign of it in the machine's reports. A
//! refused one is not, until [`REFUSED_FOR`] has passed: the next plan is made with the machine's own words.

use crate::fleet::{FleetView, MachineView};
use crate::health::Liveness;
use crate::id::{MachineId, ModelId};
use crate::machine::{Digest, Directive, LoadWish, PullSource, PullWish, Replica, ReplicaState};
use crate::placement::{Placed, Plan, Refused, Stage};
use crate::units::{Bytes, Moment};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// An agent reports at once what it begins. Silence for this long is a directive that was lost.
pub const BEGINS_WITHIN: Duration = Duration::from_secs(15);
/// How long a machine's refusal is believed: memory comes back when a person closes a game.
pub const REFUSED_FOR: Duration = Duration::from_secs(300);
/// A model that is always busy is told to unload after this long all the same: its agent lets the requests end first and
/// takes no new ones.
pub const BUSY_PATIENCE: Duration = Duration::from_secs(60);
/// Files that come to one machine at a time: more only share its line.
const FETCHES: usize = 2;

/// How fast a mesh may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After a step that took a model from memory, none that takes another from the same machine for this long.
    pub machine_pause: Duration,
    /// Such steps in the whole mesh within [`Pace::window`].
    pub budget: usize,
    /// See [`Pace::budget`].
    pub window: Duration,
    /// A model that came into memory stays at least this long, unless its machine is to be emptied.
    pub residence: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            machine_pause: Duration::from_secs(60),
            budget: 10,
            window: Duration::from_secs(600),
            residence: Duration::from_secs(120),
        }
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Whom it is for.
    pub machine: MachineId,
    /// What it shall do.
    pub directive: Directive,
    /// Why, in one line.
    pub why: String,
}

/// What was sent and is not seen yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sent {
    at: Moment,
    /// The machine has shown that it began.
    begun: bool,
    /// It was in memory when this was sent: a load of it is a change of its size.
    was_loaded: bool,
    /// Its machine said that it could not be loaded when this was sent: the same word again is no news.
    was_failed: bool,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Load,
    Unload,
    Fetch,
}

/// What is remembered from step to step. It is soft: after a restart the machines' reports say what is, and the worst that
/// a lost memory costs is one pause.
#[derive(Debug, Clone, Default)]
pub struct Course {
    /// How fast.
    pub pace: Pace,
    sent: BTreeMap<(MachineId, ModelId), Sent>,
    /// When a model was last taken from a machine's memory.
    emptied: BTreeMap<MachineId, Moment>,
    /// The same of all machines, within the window.
    recent: VecDeque<Moment>,
    /// Since when a model has been in memory, as far as was seen.
    resident: BTreeMap<(MachineId, ModelId), Moment>,
    /// Models that their machines say could not be loaded.
    failing: BTreeSet<(MachineId, ModelId)>,
    /// Since when a model that shall go has been busy without a pause.
    busy: BTreeMap<(MachineId, ModelId), Moment>,
    refused: BTreeMap<(MachineId, ModelId), (String, Moment)>,
    /// The latest refusal of each machine that was heard, by the machine's own clock.
    heard: BTreeMap<MachineId, u64>,
}

/// The next steps towards `plan`. `busy` tells how many requests the router itself has on a replica. What it returns
/// counts as sent.
pub fn next_steps(
    plan: &Plan,
    view: &FleetView,
    course: &mut Course,
    busy: &dyn Fn(&MachineId, &ModelId) -> u32,
    now: Moment,
) -> Vec<Step> {
    course.look(view, now);
    let mut steps = Vec::new();
    for machine in &view.machines {
        if machine.liveness != Liveness::Alive || machine.draining {
            continue;
        }
        let fetches = fetches(plan, view, machine, course, now);
        let change = change(plan, machine, course, busy, now);
        for step in fetches.into_iter().chain(change) {
            course.note(&step, now);
            steps.push(step);
        }
    }
    steps
}

impl Course {
    /// A course of its own pace.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self { pace, ..Self::default() }
    }

    /// Loads that machines refused lately, with their words.
    #[must_use]
    pub fn refused(&self) -> Refused {
        self.refused.iter().map(|(place, (why, _))| (place.clone(), why.clone())).collect()
    }

    /// When something may be possible that is not now, if nothing is heard until then.
    #[must_use]
    pub fn next_change(&self, now: Moment) -> Option<Moment> {
        let pauses = self.emptied.values().map(|at| at.plus(self.pace.machine_pause));
        let lost = self.sent.values().filter(|sent| !sent.begun).map(|sent| sent.at.plus(BEGINS_WITHIN));
        let forgiven = self.refused.values().map(|(_, at)| at.plus(REFUSED_FOR));
        let window = self.recent.front().map(|at| at.plus(self.pace.window));
        let patience = self.busy.values().map(|at| at.plus(BUSY_PATIENCE));
        let residence = self.resident.values().map(|at| at.plus(self.pace.residence));
        let all = pauses.chain(lost).chain(forgiven).chain(window).chain(patience).chain(residence);
        all.filter(|at| *at > now).min()
    }

    /// A refusal that did not come by a report: a directive that could not be sent.
    pub fn not_sent(&mut self, step: &Step) {
        if let Some(model) = model_of(&step.directive) {
            self.sent.remove(&(step.machine.clone(), model.clone()));
        }
    }

    /// Takes in what the machines report.
    fn look(&mut self, view: &FleetView, now: Moment) {
        self.refused.retain(|_, (_, at)| now.since(*at) < REFUSED_FOR);
        while self.recent.front().is_some_and(|at| now.since(*at) >= self.pace.window) {
            self.recent.pop_front();
        }
        let pause = self.pace.machine_pause;
        self.emptied.retain(|_, at| now.since(*at) < pause);
        for machine in &view.machines {
            self.hear(machine, now);
        }
        let mut failed = Vec::new();
        self.sent.retain(|(id, model), sent| {
            let Some(machine) = view.machine(id) else { return false };
            let replica = machine.replica(model).map(|(_, replica)| replica);
            let state = replica.map(|replica| &replica.state);
            let comes = machine.store.transfers.iter().any(|one| one.model == *model && !one.state.is_over());
            let (is_loading, is_loaded) =
                (state == Some(&ReplicaState::Loading), state == Some(&ReplicaState::Loaded));
            let (begins, over) = match sent.kind {
                Kind::Load => (is_loading, !is_loading && (sent.begun || !sent.was_loaded && is_loaded)),
                Kind::Unload => (false, !is_loaded),
                Kind::Fetch => (comes, is_on_disk(machine, model) || sent.begun && !comes),
            };
            let why = match (sent.kind, state) {
                (Kind::Load, Some(ReplicaState::Failed(why)))
                    if over || !sent.was_failed || now.since(sent.at) >= BEGINS_WITHIN =>
                {
                    Some(why.clone())
                }
                (Kind::Load, Some(ReplicaState::Failed(_))) => None,
                (Kind::Load, _) if over && !is_loaded => {
                    Some("the load ended without the model in memory".to_owned())
                }
                (Kind::Fetch, _) if over && !is_on_disk(machine, model) => {
                    Some("its file did not come".to_owned())
                }
                _ => None,
            };
            if let Some(why) = why {
                failed.push(((id.clone(), model.clone()), (why, now)));
                return false;
            }
            sent.begun |= begins;
            // An unload waits for requests as long as they take.
            let patience = if sent.kind == Kind::Unload { BUSY_PATIENCE } else { BEGINS_WITHIN };
            !over && (sent.begun || now.since(sent.at) < patience)
        });
        self.refused.extend(failed);
        let is_loaded = |machine: &MachineId, model: &ModelId| {
            let machine = view.machine(machine);
            let replica = machine.and_then(|machine| machine.replica(model));
            replica.is_some_and(|(_, replica)| replica.state == ReplicaState::Loaded)
        };
        self.resident.retain(|(machine, model), _| is_loaded(machine, model));
        self.busy.retain(|(machine, model), _| is_loaded(machine, model));
        self.failing.clear();
        for machine in &view.machines {
            let replicas = machine.engines.iter().flat_map(|engine| &engine.replicas);
            let failing = replicas.filter(|replica| matches!(replica.state, ReplicaState::Failed(_)));
            self.failing.extend(failing.map(|replica| (machine.id.clone(), replica.model.clone())));
            for replica in loaded(machine) {
                let place = (machine.id.clone(), replica.model.clone());
                self.resident.entry(place).or_insert(now);
            }
        }
    }

    /// The refusals of one machine that are new.
    fn hear(&mut self, machine: &MachineView, now: Moment) {
        let latest = machine.store.refusals.iter().map(|refusal| refusal.at_ms).max();
        let Some(latest) = latest else { return };
        // What a machine had refused before it was first heard was not refused to this router.
        let Some(heard) = self.heard.insert(machine.id.clone(), latest) else { return };
        for refusal in machine.store.refusals.iter().filter(|refusal| refusal.at_ms > heard) {
            let place = (machine.id.clone(), refusal.model.clone());
            if self.sent.remove(&place).is_some() {
                self.refused.insert(place, (refusal.reason.clone(), now));
            }
        }
    }

    fn note(&mut self, step: &Step, now: Moment) {
        let Some(model) = model_of(&step.directive) else { return };
        let place = (step.machine.clone(), model.clone());
        let kind = match &step.directive {
            Directive::Load(_) => Kind::Load,
            Directive::Unload(_) => Kind::Unload,
            Directive::Pull(_) | Directive::CancelPull(_) | Directive::Delete(_) => Kind::Fetch,
        };
        let was_loaded = self.resident.contains_key(&place);
        let takes_away = kind == Kind::Unload || kind == Kind::Load && was_loaded;
        if takes_away {
            self.emptied.insert(step.machine.clone(), now);
            self.recent.push_back(now);
        }
        self.heard.entry(step.machine.clone()).or_insert(0);
        let was_failed = self.failing.contains(&place);
        self.sent.insert(place, Sent { at: now, begun: false, was_loaded, was_failed, kind });
    }

    /// Whether a model may be taken from this machine's memory now.
    fn may_empty(&self, machine: &MachineId) -> bool {
        !self.emptied.contains_key(machine) && self.recent.len() < self.pace.budget
    }
}

fn model_of(directive: &Directive) -> Option<&ModelId> {
    Some(match directive {
        Directive::Load(wish) => &wish.model,
        Directive::Pull(wish) => &wish.model,
        Directive::Unload(model) | Directive::CancelPull(model) | Directive::Delete(model) => model,
    })
}

fn is_on_disk(machine: &MachineView, model: &ModelId) -> bool {
    let stored = &machine.store.models;
    let in_store = stored.iter().any(|one| one.served_as.as_ref().unwrap_or(&one.model) == model);
    in_store || machine.replica(model).is_some()
}

/// Models in memory that are the mesh's to unload.
fn loaded(machine: &MachineView) -> impl Iterator<Item = &Replica> {
    let engines = machine.engines.iter().filter(|engine| engine.capabilities.can_unload);
    engines.flat_map(|engine| &engine.replicas).filter(|replica| replica.state == ReplicaState::Loaded)
}

/// Files that should come.
fn fetches(plan: &Plan, view: &FleetView, machine: &MachineView, course: &Course, _now: Moment) -> Vec<Step> {
    let under_way = machine.store.transfers.iter().filter(|transfer| !transfer.state.is_over()).count();
    let sent = course.sent.iter().filter(|((id, _), sent)| *id == machine.id && sent.kind == Kind::Fetch);
    let mut free = FETCHES.saturating_sub(under_way.max(sent.count()));
    let mut steps = Vec::new();
    for placed in plan.on(&machine.id).filter(|placed| placed.stage == Stage::Fetch) {
        let place = (machine.id.clone(), placed.model.clone());
        let comes =
            machine.store.transfers.iter().any(|one| one.model == placed.model && !one.state.is_over());
        let is_idle = !comes && !course.sent.contains_key(&place) && !course.refused.contains_key(&place);
        if free == 0 || !is_idle || is_on_disk(machine, &placed.model) {
            continue;
        }
        if let Some(wish) = fetch(view, machine, placed) {
            free -= 1;
            let why = format!("{} is planned there, and its file is not", placed.model);
            steps.push(Step { machine: machine.id.clone(), directive: Directive::Pull(wish), why });
        }
    }
    steps
}

/// Where a file comes from: another machine of the mesh, or the address that the plan has for it.
fn fetch(view: &FleetView, machine: &MachineView, placed: &Placed) -> Option<PullWish> {
    let others =
        view.machines.iter().filter(|other| other.id != machine.id && other.liveness == Liveness::Alive);
    let stored = others.flat_map(|other| &other.store.models);
    let mut named =
        stored.filter(|one| one.model == placed.model || one.served_as.as_ref() == Some(&placed.model));
    let found: Option<(Digest, Bytes)> =
        named.find_map(|one| one.digest.clone().map(|digest| (digest, one.size)));
    if let Some((digest, size)) = found {
        let model = placed.model.clone();
        return Some(PullWish { model, source: PullSource::Mesh, digest: Some(digest), size: Some(size) });
    }
    let source = PullSource::Url(placed.source.clone()?);
    Some(PullWish { model: placed.model.clone(), source, digest: placed.digest.clone(), size: None })
}

/// The one change of memory that comes next on a machine.
fn change(
    plan: &Plan,
    machine: &MachineView,
    course: &mut Course,
    busy: &dyn Fn(&MachineId, &ModelId) -> u32,
    now: Moment,
) -> Option<Step> {
    let moves = course.sent.iter().any(|((id, _), sent)| *id == machine.id && sent.kind != Kind::Fetch);
    let replicas = || machine.engines.iter().flat_map(|engine| &engine.replicas);
    if moves || replicas().any(|replica| replica.state == ReplicaState::Loading) {
        return None;
    }
    let is_emptied = plan.on(&machine.id).next().is_none();
    let mut waits = false;
    for replica in loaded(machine).filter(|replica| plan.find(&machine.id, &replica.model).is_none()) {
        waits = true;
        let place = (machine.id.clone(), replica.model.clone());
        let requests = busy(&machine.id, &replica.model).max(replica.busy.unwrap_or(0));
        if requests > 0 {
            let since = *course.busy.entry(place.clone()).or_insert(now);
            if now.since(since) < BUSY_PATIENCE {
                continue;
            }
        } else {
            course.busy.remove(&place);
        }
        let stayed = course.resident.get(&place).is_none_or(|at| now.since(*at) >= course.pace.residence);
        let may = is_emptied || stayed && course.may_empty(&machine.id);
        if may {
            let why = unload_reason(plan, &machine.id, &replica.model);
            let directive = Directive::Unload(replica.model.clone());
            return Some(Step { machine: machine.id.clone(), directive, why });
        }
    }
    if waits {
        // What shall come may need the room.
        return None;
    }
    let mut wanted: Vec<&Placed> = plan.on(&machine.id).collect();
    // Those that serve modes first, the most modes of them first.
    wanted.sort_by_key(|placed| (std::cmp::Reverse(placed.serves.len()), placed.model.clone()));
    for placed in wanted {
        let place = (machine.id.clone(), placed.model.clone());
        if placed.stage == Stage::Fixed || course.refused.contains_key(&place) {
            continue;
        }
        let replica = machine.replica(&placed.model).map(|(_, replica)| replica);
        let is_loaded = replica.is_some_and(|replica| replica.state == ReplicaState::Loaded);
        let directive = || Directive::Load(load(placed));
        if !is_loaded && is_on_disk(machine, &placed.model) {
            let modes: Vec<String> = placed.serves.iter().map(|one| one.mode.to_string()).collect();
            let why = if modes.is_empty() {
                format!("{} is planned there", placed.model)
            } else {
                format!("{} is planned there for {}", placed.model, modes.join(", "))
            };
            return Some(Step { machine: machine.id.clone(), directive: directive(), why });
        }
        let resizes = is_loaded && replica.is_some_and(|replica| differs(replica, placed));
        let is_free = busy(&machine.id, &placed.model).max(replica.and_then(|r| r.busy).unwrap_or(0)) == 0;
        let stayed = course.resident.get(&place).is_none_or(|at| now.since(*at) >= course.pace.residence);
        if resizes && is_free && stayed && course.may_empty(&machine.id) {
            let why = format!("{} is planned there in another size", placed.model);
            return Some(Step { machine: machine.id.clone(), directive: directive(), why });
        }
    }
    None
}

fn unload_reason(plan: &Plan, machine: &MachineId, model: &ModelId) -> String {
    let told = plan.changes.iter().find_map(|change| match change {
        crate::placement::Change::Unload { model: one, machine: at, why }
            if one == model && at == machine =>
        {
            Some(why.clone())
        }
        _ => None,
    });
    told.unwrap_or_else(|| format!("{model} is not planned there"))
}

fn load(placed: &Placed) -> LoadWish {
    LoadWish {
        model: placed.model.clone(),
        context: placed.context,
        slots: Some(placed.slots),
        cache_type: Some(placed.cache.word().to_owned()),
    }
}

/// Whether a loaded model has another size than planned, as far as its engine tells.
fn differs(replica: &Replica, placed: &Placed) -> bool {
    let other = |told: Option<u32>, planned: Option<u32>| {
        told.zip(planned).is_some_and(|(told, planned)| told != planned)
    };
    other(replica.context, placed.context)
        || other(replica.slots, Some(placed.slots))
        || replica.cache_type.is_some_and(|cache| cache != placed.cache)
}

#[cfg(test)]
#[path = "directive/tests.rs"]
mod tests;
