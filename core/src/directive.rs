//! Which steps lead from what is to what is planned: one at a time on each machine, none that hurts a request, and none
//! again and again.
//!
//! ```text
//! for each machine:   a file missing? ──► fetch it                 (beside everything else)
//!                     something on its way into memory, or out of it, or just there? ──yes──► wait
//!                     a model in memory that the plan has not? ──► unload it, when no request is on it
//!                     one that shall take less than it does? ──► change its size, when no request is on it
//!                     a model to be loaded, and its file there? ──► load it
//!                     one that shall take more? ──► change its size, when no request is on it
//! ```
//! What was sent is remembered in [`Course`]: a lost directive is sent again, a refused one is not until [`REFUSED_FOR`] has
//! passed: the next plan is made with the machine's own words.

mod course;
mod waits;

pub use course::Course;
pub use waits::waiting;

use crate::fleet::{FleetView, MachineView};
use crate::health::Liveness;
use crate::id::{MachineId, ModelId};
use crate::machine::{Directive, Engine, LoadWish, PullSource, PullWish, Replica, ReplicaState, StoredModel};
use crate::placement::{Change, Placed, Plan, Stage};
use crate::units::Moment;
use course::is_moving;
use std::collections::BTreeMap;
use std::time::Duration;

/// An agent reports at once what it begins. Silence for this long is a directive that was lost.
pub const BEGINS_WITHIN: Duration = Duration::from_secs(15);
/// How long a machine's refusal is believed: memory comes back when a person closes a game.
pub const REFUSED_FOR: Duration = Duration::from_secs(300);
/// A model that is always busy is told to unload after this long all the same: its agent lets the requests end first and
/// takes no new ones.
pub const BUSY_PATIENCE: Duration = Duration::from_secs(60);
/// Memory shows late in a machine's reports: drivers give it back up to 5 s after a model has left, and the probe reads each
/// second. A plan that was made meanwhile is not followed, or the room that one model left would be given to another.
pub const SETTLES_WITHIN: Duration = Duration::from_secs(6);
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

/// The next steps towards `plan`, of the machines in `view`; `course` has looked at all of them ([`Course::look`]). `busy` tells how many requests the router itself has on a replica. What it returns
/// counts as sent. Of a plan that cannot be followed, and for machines that it does not know yet, there are none.
pub fn next_steps(
    plan: &Plan,
    view: &FleetView,
    course: &mut Course,
    busy: &dyn Fn(&MachineId, &ModelId) -> u32,
    now: Moment,
) -> Vec<Step> {
    if plan.problems.iter().any(|problem| problem.fatal) {
        return Vec::new();
    }
    let barred: BTreeMap<&MachineId, &str> =
        plan.machines.iter().map(|after| (&after.machine, after.barred.as_str())).collect();
    let mut steps = Vec::new();
    for machine in &view.machines {
        let Some(barred) = barred.get(&machine.id) else { continue };
        let leaves = |replica: &Replica| {
            plan.find(&machine.id, &replica.model).is_none_or(|placed| resizes(machine, replica, placed))
        };
        course.watch(machine, &leaves, busy, now);
        if machine.liveness != Liveness::Alive || machine.draining {
            continue;
        }
        let fetches = fetches(plan, view, machine, course);
        // A machine that is barred and has nothing planned is to be emptied, whatever the pace.
        let is_emptied = !barred.is_empty() && plan.on(&machine.id).next().is_none();
        let change = change(plan, machine, is_emptied, course, now);
        for step in fetches.into_iter().chain(change) {
            course.note(&step, machine, now);
            steps.push(step);
        }
    }
    steps
}

fn model_of(directive: &Directive) -> Option<&ModelId> {
    Some(match directive {
        Directive::Load(wish) => &wish.model,
        Directive::Pull(wish) => &wish.model,
        Directive::Unload(model) | Directive::CancelPull(model) | Directive::Delete(model) => model,
    })
}

/// What a machine shows of its models. What an engine that is down showed last is no sign of anything, but for a failure.
fn answering(machine: &MachineView) -> impl Iterator<Item = (&Engine, &Replica)> {
    let all = machine
        .engines
        .iter()
        .flat_map(|engine| engine.replicas.iter().map(move |replica| (engine, replica)));
    all.filter(|(engine, replica)| !engine.is_down() || matches!(replica.state, ReplicaState::Failed(_)))
}

/// The replica of `model` that is furthest on its way to serving.
fn found<'a>(machine: &'a MachineView, model: &ModelId) -> Option<(&'a Engine, &'a Replica)> {
    answering(machine).filter(|(_, replica)| replica.model == *model).min_by_key(|(_, replica)| match replica
        .state
    {
        ReplicaState::Loaded => 0,
        ReplicaState::Loading => 1,
        ReplicaState::Available => 2,
        ReplicaState::Failed(_) => 3,
    })
}

/// Models in memory that are the mesh's to unload.
fn loaded(machine: &MachineView) -> impl Iterator<Item = &Replica> {
    let ours = answering(machine).filter(|(engine, _)| engine.capabilities.can_unload);
    ours.map(|(_, replica)| replica).filter(|replica| replica.state == ReplicaState::Loaded)
}

fn launches(machine: &MachineView) -> bool {
    machine.hardware.as_ref().is_some_and(|hardware| hardware.launch.is_some())
}

/// Whether a machine can bring `model` into memory without fetching it: as [`crate::placement::Site`] sees it.
fn is_on_disk(machine: &MachineView, model: &ModelId) -> bool {
    let in_store = machine.store.models.iter().any(|one| {
        let is_it = one.served_as.as_ref().unwrap_or(&one.model) == model;
        is_it && one.broken.is_none() && (one.served_as.is_some() || launches(machine))
    });
    in_store || answering(machine).any(|(engine, one)| engine.capabilities.can_load && one.model == *model)
}

/// Requests on a replica, by the router's count or by its engine's.
fn requests(machine: &MachineView, replica: &Replica, busy: &dyn Fn(&MachineId, &ModelId) -> u32) -> u32 {
    busy(&machine.id, &replica.model).max(replica.busy.unwrap_or(0))
}

/// Files that should come.
fn fetches(plan: &Plan, view: &FleetView, machine: &MachineView, course: &Course) -> Vec<Step> {
    let running = machine.store.transfers.iter().filter(|transfer| !transfer.state.is_over());
    let under_way: Vec<&ModelId> = running.map(|transfer| &transfer.model).collect();
    let unseen = course.fetches(&machine.id).filter(|model| !under_way.contains(model)).count();
    let mut free = FETCHES.saturating_sub(under_way.len() + unseen);
    let mut steps = Vec::new();
    for placed in plan.on(&machine.id).filter(|placed| placed.stage == Stage::Fetch) {
        let is_idle = !under_way.contains(&&placed.model) && course.may_fetch(&place(machine, &placed.model));
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

fn place(machine: &MachineView, model: &ModelId) -> (MachineId, ModelId) {
    (machine.id.clone(), model.clone())
}

/// Where a file comes from: another machine that has the planned one, whatever it calls it, or the address that the plan
/// has for it. Where the plan names no digest, a file of the model's name will do.
fn fetch(view: &FleetView, machine: &MachineView, placed: &Placed) -> Option<PullWish> {
    let lends =
        |other: &&MachineView| other.id != machine.id && other.liveness == Liveness::Alive && !other.draining;
    let is_it = |one: &&StoredModel| match &placed.digest {
        Some(digest) => one.digest.as_ref() == Some(digest),
        None => one.model == placed.model || one.served_as.as_ref() == Some(&placed.model),
    };
    let stored = view.machines.iter().filter(lends).flat_map(|other| &other.store.models);
    let mut whole = stored.filter(|one| one.broken.is_none() && one.digest.is_some()).filter(is_it);
    let model = placed.model.clone();
    if let Some(found) = whole.next() {
        let (digest, size) = (found.digest.clone(), Some(found.size));
        return Some(PullWish { model, source: PullSource::Mesh, digest, size });
    }
    let source = PullSource::Url(placed.source.clone()?);
    Some(PullWish { model, source, digest: placed.digest.clone(), size: None })
}

/// The one change of memory that comes next on a machine.
fn change(
    plan: &Plan,
    machine: &MachineView,
    is_emptied: bool,
    course: &mut Course,
    now: Moment,
) -> Option<Step> {
    if course.is_left(&machine.id) && !is_emptied {
        return None;
    }
    if course.moves(&machine.id) || is_moving(machine) || course.settles(&machine.id) && !is_emptied {
        return None;
    }
    let step = |directive, why| Some(Step { machine: machine.id.clone(), directive, why });
    let mut waits = false;
    for replica in loaded(machine).filter(|replica| plan.find(&machine.id, &replica.model).is_none()) {
        waits = true;
        let place = place(machine, &replica.model);
        let idle = machine.history.get(&replica.model).and_then(|history| history.uses.idle(now));
        let is_idle = !course.is_used_guest(&place, idle);
        let may = is_emptied || is_idle && course.has_stayed(&place, now) && course.may_empty(&machine.id);
        if may && course.is_free(&place, now) && !course.was_told(&place) {
            let why = unload_reason(plan, &machine.id, &replica.model);
            return step(Directive::Unload(replica.model.clone()), why);
        }
    }
    if waits {
        // What shall come may need the room.
        return None;
    }
    let mut wanted: Vec<&Placed> =
        plan.on(&machine.id).filter(|placed| placed.stage != Stage::Fixed).collect();
    // Those for graphics processors first: an agent takes the best place that is free, and a load does not say which it was
    // planned for. Then those that serve the most modes.
    wanted.sort_by_key(|placed| {
        (placed.gpu.is_none(), std::cmp::Reverse(placed.serves.len()), placed.model.clone())
    });
    let (mut less, mut more) = (Vec::new(), Vec::new());
    for placed in &wanted {
        let replica = loaded(machine).find(|replica| replica.model == placed.model);
        if let Some(replica) = replica.filter(|replica| resizes(machine, replica, placed)) {
            let resize = (*placed, replica);
            if tokens(replica, placed) > 1.0 { more.push(resize) } else { less.push(resize) }
        }
    }
    for (placed, replica) in less {
        match resize(machine, placed, replica, course, now) {
            Resize::Vain => {}
            Resize::Now(directive, why) => return step(directive, why),
            // Others may need the room.
            Resize::Later => return None,
        }
    }
    for placed in &wanted {
        let is_there =
            found(machine, &placed.model).is_some_and(|(_, one)| one.state == ReplicaState::Loaded);
        let wish = load(machine, placed);
        let is_ready = !is_there && is_on_disk(machine, &placed.model);
        if is_ready && !course.is_in_vain(&place(machine, &placed.model), &wish, now) {
            let modes: Vec<String> = placed.serves.iter().map(|one| one.mode.to_string()).collect();
            let mut why = format!("{} is planned there", placed.model);
            if !modes.is_empty() {
                why = format!("{why} for {}", modes.join(", "));
            }
            return step(Directive::Load(wish), why);
        }
    }
    for (placed, replica) in more {
        if let Resize::Now(directive, why) = resize(machine, placed, replica, course, now) {
            return step(directive, why);
        }
    }
    None
}

fn unload_reason(plan: &Plan, machine: &MachineId, model: &ModelId) -> String {
    let told = plan.changes.iter().find_map(|change| match change {
        Change::Unload { model: one, machine: at, why } if one == model && at == machine => Some(why.clone()),
        Change::Unload { .. } | Change::Fetch { .. } | Change::Load { .. } | Change::Resize { .. } => None,
    });
    told.unwrap_or_else(|| format!("{model} is not planned there"))
}

/// As it is planned, where its engine takes sizes; one that does not refuses a load with them.
fn load(machine: &MachineView, placed: &Placed) -> LoadWish {
    let model = placed.model.clone();
    if !takes_sizes(machine, &model) {
        return LoadWish::from(model);
    }
    let cache_type = Some(placed.cache.word().to_owned());
    let (slots, offload) = (Some(placed.slots), Some(placed.offload));
    LoadWish { model, context: placed.context, slots, cache_type, offload }
}

fn takes_sizes(machine: &MachineView, model: &ModelId) -> bool {
    let has = |(engine, one): &(&Engine, &Replica)| engine.capabilities.can_load && one.model == *model;
    let mut engines = answering(machine).filter(has).map(|(engine, _)| engine).peekable();
    if engines.peek().is_none() {
        return launches(machine);
    }
    engines.any(|engine| engine.capabilities.can_size)
}

/// Whether a loaded model is to have another size, and can be given it.
fn resizes(machine: &MachineView, replica: &Replica, placed: &Placed) -> bool {
    let other = |told: Option<u32>, planned: Option<u32>| {
        told.zip(planned).is_some_and(|(told, planned)| told != planned)
    };
    let differs = other(replica.context, placed.context)
        || other(replica.slots, Some(placed.slots))
        || replica.cache_type.is_some_and(|cache| cache != placed.cache)
        || replica.offload.is_some_and(|offload| offload != placed.offload);
    placed.stage == Stage::Resize && differs && takes_sizes(machine, &placed.model)
}

/// How much larger the planned cache is than the one that is there.
fn tokens(replica: &Replica, placed: &Placed) -> f64 {
    let ratio = |told: Option<u32>, planned: Option<u32>| {
        told.zip(planned).map_or(1.0, |(told, planned)| f64::from(planned) / f64::from(told.max(1)))
    };
    let row = |cache: crate::memory::CacheType| cache.row_bytes(32) as f64;
    let of_cache = replica.cache_type.map_or(1.0, |cache| row(placed.cache) / row(cache).max(1.0));
    ratio(replica.context, placed.context) * ratio(replica.slots, Some(placed.slots)) * of_cache
}

enum Resize {
    Now(Directive, String),
    Later,
    /// It would change nothing.
    Vain,
}

/// The change of a loaded model's size. An agent takes a load of no more than it has loaded for done, so such a model is
/// unloaded first; one that a person pinned stays as it is then.
fn resize(
    machine: &MachineView,
    placed: &Placed,
    replica: &Replica,
    course: &mut Course,
    now: Moment,
) -> Resize {
    let wish = load(machine, placed);
    let more = |told: Option<u32>, planned: Option<u32>| {
        told.zip(planned).is_some_and(|(told, planned)| planned > told)
    };
    let has_more = more(replica.context, placed.context) || more(replica.slots, Some(placed.slots));
    let is_otherwise = replica.cache_type.is_some_and(|cache| cache != placed.cache)
        || replica.offload.is_some_and(|offload| offload != placed.offload);
    let place = place(machine, &placed.model);
    if course.is_in_vain(&place, &wish, now) || placed.pinned && !has_more && !is_otherwise {
        return Resize::Vain;
    }
    let may = course.has_stayed(&place, now) && course.may_empty(&machine.id);
    if !may || !course.is_free(&place, now) || course.was_told(&place) {
        return Resize::Later;
    }
    let why = format!("{} is planned there in another size", placed.model);
    if has_more || is_otherwise {
        return Resize::Now(Directive::Load(wish), why);
    }
    Resize::Now(Directive::Unload(placed.model.clone()), format!("{why}, a smaller one"))
}

#[cfg(test)]
mod tests;
