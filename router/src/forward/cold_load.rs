//! Models that are on a machine's disk and in no memory: the first request for one has it loaded, later ones wait for
//! the same load. The steward says where, and what leaves for it; the agent decides whether it fits, and when it
//! refuses, its own words go to the clients.
//!
//! ```text
//! nobody has it ──the steward: room there──────────────► load ──► underway ──► loaded
//!               ├─the steward: these leave for it─► they leave ─┘
//!               └─the steward: nothing may leave yet─► the requests wait together
//! ```

use super::refusals::shown;
use super::wanted::Wanted;
use crate::fleet_keeper::{FleetHandle, Snapshot};
use crate::http::reply::ApiError;
use crate::metrics::{Metrics, ReasonLabel};
use crate::steward::StewardHandle;
use crate::steward::on_demand::Asked;
use http::StatusCode;
use mesh_core::eviction::Answer;
use mesh_core::health::Liveness;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Directive, LoadWish, ReplicaState};
use mesh_core::routing::{Refusal, Why};
use mesh_core::units::{Moment, human_duration};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// An agent reports at once when it begins to load. Silence for this long is a directive that was lost.
const BEGINS_WITHIN: Duration = Duration::from_secs(15);
/// A load that nobody asked after for this long is over, and nobody saw how it ended.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);
/// Models that leave let their requests end first. What has not left after this long does not.
const LEAVES_WITHIN: Duration = Duration::from_secs(180);
/// Models of which that is remembered.
const BLOCKED: usize = 1024;
/// That nothing may leave yet is asked again after this long.
const ASKED_AGAIN: Duration = Duration::from_secs(1);
/// A load that failed is not asked for again for this long: memory does not come back in a moment.
const FAILED_FOR: Duration = Duration::from_secs(10);

type Place = (MachineId, ModelId);
/// By model: when it was asked, and the machine with the reason.
type Blocked = BTreeMap<ModelId, (Moment, MachineId, String)>;

/// Loads that requests asked for. Clones share them. Bounded: one for each replica in the fleet's reports.
#[derive(Clone)]
pub struct ColdLoads {
    jobs: Arc<Mutex<BTreeMap<Place, Job>>>,
    /// Models for which nothing may leave yet.
    blocked: Arc<Mutex<Blocked>>,
    steward: Arc<OnceLock<StewardHandle>>,
    fleet: FleetHandle,
    metrics: Metrics,
}

#[derive(Debug, Clone)]
struct Job {
    since: Moment,
    /// Refusals that the machine told before: they are not about this load. By the machine's own clock.
    earlier: BTreeSet<u64>,
    begun: bool,
    /// What leaves before, how the model is loaded then, and when that was told last.
    leaving: Option<(Vec<ModelId>, LoadWish, Moment)>,
    /// When a request last asked after it. Those that wait ask several times a second.
    asked: Moment,
    /// When it failed, and why.
    failed: Option<(Moment, String)>,
}

/// What can be hoped for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loading {
    /// A model is on its way into memory.
    Underway {
        /// Where.
        node: MachineId,
        /// Which.
        model: ModelId,
        /// Since when, as far as is known here.
        since: Moment,
    },
    /// It is to be loaded once others may leave for it.
    Blocked {
        /// Where.
        node: MachineId,
        /// Which.
        model: ModelId,
        /// What stands in the way.
        why: String,
    },
    /// Nothing is to be loaded.
    Nothing,
    /// It was tried, and every machine that has the file refused or failed.
    Failed(Vec<(MachineId, ModelId, String)>),
}

impl Loading {
    /// That an engine itself says, since `now` where it has not said so before.
    #[must_use]
    pub fn or_of_engine(self, said: Option<Place>, now: Moment) -> Self {
        match (&self, said) {
            (Self::Underway { node, model, .. }, Some(place)) if (node, model) == (&place.0, &place.1) => {
                self
            }
            (_, Some((node, model))) => Self::Underway { node, model, since: now },
            (_, None) => self,
        }
    }
}

impl ColdLoads {
    /// No load yet.
    #[must_use]
    pub fn new(fleet: FleetHandle, metrics: Metrics) -> Self {
        Self { jobs: Arc::default(), blocked: Arc::default(), steward: Arc::default(), fleet, metrics }
    }

    /// From now on the steward says where.
    pub fn ask(&self, steward: StewardHandle) {
        // A second one would be another router's.
        drop(self.steward.set(steward));
    }

    /// Called for a request that no replica can serve now: starts a load if that helps and none was started.
    pub async fn advance(
        &self,
        snapshot: &Snapshot,
        refusal: &Refusal,
        wanted: &Wanted,
        (may_start, may_evict): (bool, bool),
        now: Moment,
    ) -> Loading {
        if let Some(underway) = self.reported(refusal, now) {
            return underway;
        }
        if !may_start {
            return Loading::Nothing;
        }
        let (mut failed, mut fresh) = (Vec::new(), Vec::new());
        let (places, closed) = places(snapshot, refusal, wanted);
        if places.is_empty() && !closed.is_empty() {
            return Loading::Failed(closed);
        }
        for place in places {
            match self.job(&place, snapshot, now) {
                Some(JobState::Runs(since)) => {
                    return Loading::Underway { node: place.0, model: place.1, since };
                }
                Some(JobState::Left(wish)) => return self.load(&place, wish, now).await,
                Some(JobState::Stay(models, since)) => {
                    for model in models {
                        if let Err(error) = self.fleet.direct(&place.0, Directive::Unload(model)).await {
                            return self.not_sent(&place, &error.to_string(), now);
                        }
                    }
                    return Loading::Underway { node: place.0, model: place.1, since };
                }
                Some(JobState::Failed(why)) => failed.push((place.0, place.1, why)),
                None => fresh.push(place),
            }
        }
        match self.placed(&fresh, wanted, may_evict, now).await {
            Placed::There(place, leaving, wish) => {
                if self.begin(
                    &place,
                    snapshot,
                    (!leaving.is_empty()).then(|| (leaving.clone(), wish.clone(), now)),
                    now,
                ) {
                    return Loading::Underway { node: place.0, model: place.1, since: now };
                }
                if leaving.is_empty() {
                    return self.load(&place, wish, now).await;
                }
                tracing::info!(node = %place.0, model = %place.1, ?leaving, "a request has this model loaded, and others leave for it");
                self.count("evicted");
                for model in leaving {
                    if let Err(error) = self.fleet.direct(&place.0, Directive::Unload(model)).await {
                        return self.not_sent(&place, &error.to_string(), now);
                    }
                }
                Loading::Underway { node: place.0, model: place.1, since: now }
            }
            Placed::Blocked(node, model, why) => Loading::Blocked { node, model, why },
            Placed::Refused(why) => {
                failed.extend(why);
                Loading::Failed(failed)
            }
            Placed::Nowhere if failed.is_empty() => Loading::Nothing,
            Placed::Nowhere => Loading::Failed(failed),
        }
    }

    /// Where a model is loaded of those that nobody loads yet.
    async fn placed(&self, fresh: &[Place], wanted: &Wanted, may_evict: bool, now: Moment) -> Placed {
        let Some(steward) = self.steward.get() else { return Placed::alone(fresh) };
        let mut models: Vec<&ModelId> = fresh.iter().map(|(_, model)| model).collect();
        models.dedup();
        let (mut blocked, mut refused, mut is_unknown) = (None, Vec::new(), false);
        for model in models {
            let known = self.blocked().get(model).cloned().filter(|_| may_evict);
            if let Some((_, node, why)) = known.filter(|(since, ..)| now.since(*since) < ASKED_AGAIN) {
                blocked.get_or_insert(Placed::Blocked(node, model.clone(), why));
                continue;
            }
            let machines =
                fresh.iter().filter(|(_, one)| one == model).map(|(node, _)| node.clone()).collect();
            let mode = wanted.models.iter().find(|(one, _)| one == model).and_then(|(_, mode)| mode.clone());
            let refuse =
                |why: Vec<(MachineId, String)>| why.into_iter().map(|(node, why)| (node, model.clone(), why));
            match steward.place(Asked { model: model.clone(), mode, machines, may_evict }).await {
                Some(Answer::Load(loading)) => {
                    let place = (loading.machine, model.clone());
                    if fresh.contains(&place) {
                        let leaving = loading.evict.into_iter().map(|(model, _)| model).collect();
                        return Placed::There(place, leaving, loading.wish);
                    }
                }
                // Nothing leaves for this one. It is no failure of that machine: others may have more leave.
                Some(Answer::Wait { why, .. }) if !may_evict => refused.extend(refuse(why)),
                Some(Answer::Wait { why, .. }) => {
                    if let Some((node, why)) = why.into_iter().next() {
                        self.blocked().insert(model.clone(), (now, node.clone(), why.clone()));
                        blocked.get_or_insert(Placed::Blocked(node, model.clone(), why));
                    }
                }
                Some(Answer::Never(why)) => refused.extend(refuse(why)),
                None => is_unknown = true,
            }
        }
        match blocked {
            Some(blocked) => blocked,
            None if is_unknown || refused.is_empty() => Placed::alone(fresh),
            None => Placed::Refused(refused),
        }
    }

    async fn load(&self, place: &Place, wish: LoadWish, now: Moment) -> Loading {
        tracing::info!(node = %place.0, model = %place.1, "a request has this model loaded");
        self.count("started");
        match self.fleet.direct(&place.0, Directive::Load(wish)).await {
            Ok(()) => Loading::Underway { node: place.0.clone(), model: place.1.clone(), since: now },
            Err(error) => self.not_sent(place, &error.to_string(), now),
        }
    }

    fn not_sent(&self, place: &Place, why: &str, now: Moment) -> Loading {
        self.fail(place, why.to_owned(), now);
        Loading::Failed(vec![(place.0.clone(), place.1.clone(), why.to_owned())])
    }

    /// Notes that a load begins; true when another request has begun it meanwhile.
    fn begin(
        &self,
        place: &Place,
        snapshot: &Snapshot,
        leaving: Option<(Vec<ModelId>, LoadWish, Moment)>,
        now: Moment,
    ) -> bool {
        let mut jobs = self.lock();
        if jobs.contains_key(place) {
            return true;
        }
        let told = snapshot.view.machine(&place.0).map(|machine| &machine.store.refusals);
        let told = told.into_iter().flatten().filter(|refusal| refusal.model == place.1);
        let earlier = told.map(|refusal| refusal.at_ms).collect();
        let job = Job { since: now, earlier, begun: false, leaving, asked: now, failed: None };
        jobs.insert(place.clone(), job);
        false
    }

    /// A load that the fleet itself tells of.
    fn reported(&self, refusal: &Refusal, now: Moment) -> Option<Loading> {
        let loading = refusal.rejected.iter().find(|rejection| rejection.why == Why::Loading)?;
        let place = (loading.machine.clone(), loading.model.clone()?);
        let mut jobs = self.lock();
        let job = jobs.get_mut(&place).filter(|job| job.failed.is_none()).map(|job| {
            job.begun = true;
            job.asked = now;
            job.since
        });
        Some(Loading::Underway { node: place.0, model: place.1, since: job.unwrap_or(now) })
    }

    /// What became of the load of a model on a machine, if there is one.
    fn job(&self, place: &Place, snapshot: &Snapshot, now: Moment) -> Option<JobState> {
        let mut jobs = self.lock();
        // Those that are over long ago: their models were loaded, or may be tried again.
        jobs.retain(|place, job| match &job.failed {
            Some((at, _)) => now.since(*at) < FAILED_FOR,
            None => {
                now.since(job.asked) < FORGOTTEN_AFTER
                    && state(snapshot, place) != Some(&ReplicaState::Loaded)
            }
        });
        let told = snapshot.view.machine(&place.0).map(|machine| &machine.store.refusals);
        let mut told = told.into_iter().flatten().filter(|refusal| refusal.model == place.1);
        let job = jobs.get_mut(place)?;
        job.asked = now;
        if let Some((leaving, wish, told)) = &mut job.leaving {
            let node = &place.0;
            let stay: Vec<&ModelId> = leaving
                .iter()
                .filter(|model| is_there(snapshot, &(node.clone(), (*model).clone())))
                .collect();
            match stay.first() {
                None => {
                    let wish = wish.clone();
                    (job.leaving, job.since) = (None, now);
                    return Some(JobState::Left(wish));
                }
                Some(model) if now.since(job.since) >= LEAVES_WITHIN => {
                    let seconds = LEAVES_WITHIN.as_secs();
                    job.failed = Some((now, format!("{model} did not leave for it within {seconds} s")));
                    job.leaving = None;
                    self.count("failed");
                }
                // It shows no sign of leaving: what was told may have been lost.
                Some(_) if now.since(*told) >= BEGINS_WITHIN => {
                    *told = now;
                    return Some(JobState::Stay(stay.into_iter().cloned().collect(), job.since));
                }
                Some(_) => return Some(JobState::Runs(job.since)),
            }
        }
        if job.failed.is_none() {
            let refused = told.rfind(|refusal| !job.earlier.contains(&refusal.at_ms));
            let why = match (refused, job.begun) {
                (Some(refusal), _) => Some(refusal.reason.clone()),
                // It was loading, and is on disk only again.
                (None, true) => Some("the load ended without the model in memory".into()),
                (None, false) if now.since(job.since) >= BEGINS_WITHIN => {
                    Some(format!("did not begin to load it within {} s", BEGINS_WITHIN.as_secs()))
                }
                (None, false) => None,
            };
            if let Some(why) = why {
                job.failed = Some((now, why));
                self.count("failed");
            }
        }
        Some(match &job.failed {
            Some((_, why)) => JobState::Failed(why.clone()),
            None => JobState::Runs(job.since),
        })
    }

    fn fail(&self, place: &Place, why: String, now: Moment) {
        self.count("failed");
        if let Some(job) = self.lock().get_mut(place) {
            job.failed = Some((now, why));
        }
    }

    fn count(&self, reason: &'static str) {
        self.metrics.loads.get_or_create(&ReasonLabel { reason }).inc();
    }

    fn blocked(&self) -> std::sync::MutexGuard<'_, Blocked> {
        let mut blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        // One for each model at most, and none that is not asked for any more.
        if blocked.len() > BLOCKED {
            blocked.clear();
        }
        blocked
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Place, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum JobState {
    Runs(Moment),
    /// These are still there: the caller tells them again to leave.
    Stay(Vec<ModelId>, Moment),
    /// What was to leave has left: the caller has it loaded like this.
    Left(LoadWish),
    Failed(String),
}

/// Where a load goes.
enum Placed {
    /// There, once these have left.
    There(Place, Vec<ModelId>, LoadWish),
    /// Nothing may leave for it yet.
    Blocked(MachineId, ModelId, String),
    /// No machine has room for it.
    Refused(Vec<(MachineId, ModelId, String)>),
    Nowhere,
}

impl Placed {
    /// To the first, whose machine decides.
    fn alone(fresh: &[Place]) -> Self {
        fresh.first().map_or(Self::Nowhere, |place| {
            Self::There(place.clone(), Vec::new(), LoadWish::from(place.1.clone()))
        })
    }
}

/// Whether a model is in memory, or still lets its requests end there.
fn is_there(snapshot: &Snapshot, place: &Place) -> bool {
    let replica = snapshot.view.machine(&place.0).and_then(|machine| machine.replica(&place.1));
    replica.is_some_and(|(_, replica)| replica.state == ReplicaState::Loaded || replica.memory.is_some())
}

fn state<'a>(snapshot: &'a Snapshot, place: &Place) -> Option<&'a ReplicaState> {
    Some(&snapshot.view.machine(&place.0)?.replica(&place.1)?.1.state)
}

/// Where one of the models could be loaded, best first: in the mode's order of models, machines that are alive only. And
/// where one could if a person had not closed the machine, with the reason.
fn places(
    snapshot: &Snapshot,
    refusal: &Refusal,
    wanted: &Wanted,
) -> (Vec<Place>, Vec<(MachineId, ModelId, String)>) {
    let mut places: Vec<(usize, Place)> = refusal
        .rejected
        .iter()
        .filter(|rejection| rejection.why == Why::NotLoaded)
        .filter_map(|rejection| {
            let model = rejection.model.clone()?;
            let machine = snapshot.view.machine(&rejection.machine)?;
            let (engine, replica) = machine.replica(&model)?;
            let cool = machine.vitals.as_ref().is_none_or(|vitals| vitals.thermal.state.admits_load());
            let can = engine.supervised || engine.capabilities.can_load;
            let able = match wanted.purpose {
                mesh_core::mode::Purpose::Chat => replica.abilities.chat != Some(false),
                mesh_core::mode::Purpose::Embed => replica.abilities.embed != Some(false),
            };
            let preference = wanted.models.iter().position(|(wanted, _)| *wanted == model)?;
            (can && cool && able && machine.liveness == Liveness::Alive)
                .then(|| (preference, (rejection.machine.clone(), model)))
        })
        .collect();
    places.sort();
    let (mut open, mut closed) = (Vec::new(), Vec::new());
    for (_, (machine, model)) in places {
        match snapshot.barred.get(&machine) {
            None => open.push((machine, model)),
            Some(why) => {
                let by_hand = ["it is drained", "it is cordoned"].contains(&why.as_str());
                let help = if by_hand { format!("; meshctl node resume {machine}") } else { String::new() };
                closed.push((machine, model, format!("{why}{help}")));
            }
        }
    }
    (open, closed)
}

/// The load takes longer than the router lets a request wait.
#[must_use]
pub fn still_loading(asked: &str, loading: &Loading, waited: Duration, now: Moment) -> ApiError {
    let message = format!("`{}` is still being loaded after {} s", shown(asked), waited.as_secs());
    told("model_loading", message, loading, now)
}

/// The load takes longer than the client lets its request wait.
#[must_use]
pub fn deadline_passed(asked: &str, loading: &Loading, waited: Duration, now: Moment) -> ApiError {
    let waited = human_duration(waited);
    let message = format!(
        "`{}` is still being loaded after {waited}, and this request may wait no longer",
        shown(asked)
    );
    told("deadline_passed", message, loading, now)
}

fn told(code: &'static str, message: String, loading: &Loading, now: Moment) -> ApiError {
    let error = |message| ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, code, message).retry_after(5);
    match loading {
        Loading::Underway { node, model, since } => {
            let since = now.since(*since);
            let message = format!("{message}: {node} has been loading {model} for {}", human_duration(since));
            let loading = json!({ "node": node, "model": model, "since_s": since.as_secs_f64() });
            error(message).with("loading", loading)
        }
        Loading::Blocked { node, model, why } => {
            let waited = message.replace("is still being loaded", "is not in memory");
            let message = format!("{waited}: {node} has {model} on disk, and has no room for it yet: {why}");
            error(message).with("blocked", json!({ "node": node, "model": model, "reason": why }))
        }
        Loading::Nothing | Loading::Failed(_) => error(message),
    }
}

/// No machine could load it.
#[must_use]
pub fn load_refused(asked: &str, failed: &[(MachineId, ModelId, String)]) -> ApiError {
    let asked = shown(asked);
    let lines: Vec<String> =
        failed.iter().take(5).map(|(node, model, why)| format!("{node}: {model}: {why}")).collect();
    let message = format!("`{asked}` is on disk but could not be loaded: {}", lines.join("; "));
    let nodes: Vec<_> = failed
        .iter()
        .map(|(node, model, why)| json!({ "node": node, "model": model, "reason": why }))
        .collect();
    ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, "load_refused", message)
        .retry_after(u32::try_from(FAILED_FOR.as_secs()).unwrap_or(u32::MAX))
        .with("nodes", json!(nodes))
}
