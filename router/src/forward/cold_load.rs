//! Models that are on a machine's disk and in no memory: the first request for one has it loaded, later ones wait for
//! the same load. The agent decides whether it fits; when it refuses, its own words go to the clients.

use super::refusals::shown;
use super::wanted::Wanted;
use crate::fleet_keeper::{FleetHandle, Snapshot};
use crate::http::reply::ApiError;
use crate::metrics::{Metrics, ReasonLabel};
use http::StatusCode;
use mesh_core::health::Liveness;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Directive, ReplicaState};
use mesh_core::routing::{Refusal, Why};
use mesh_core::units::{Moment, human_duration};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// An agent reports at once when it begins to load. Silence for this long is a directive that was lost.
const BEGINS_WITHIN: Duration = Duration::from_secs(15);
/// A load that nobody asked after for this long is over, and nobody saw how it ended.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);
/// A load that failed is not asked for again for this long: memory does not come back in a moment.
const FAILED_FOR: Duration = Duration::from_secs(10);

type Place = (MachineId, ModelId);

/// Loads that requests asked for. Clones share them. Bounded: one for each replica in the fleet's reports.
#[derive(Clone)]
pub struct ColdLoads {
    jobs: Arc<Mutex<BTreeMap<Place, Job>>>,
    fleet: FleetHandle,
    metrics: Metrics,
}

#[derive(Debug, Clone)]
struct Job {
    since: Moment,
    /// Refusals that the machine told before: they are not about this load. By the machine's own clock.
    earlier: BTreeSet<u64>,
    begun: bool,
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
        Self { jobs: Arc::default(), fleet, metrics }
    }

    /// Called for a request that no replica can serve now: starts a load if that helps and none was started.
    pub async fn advance(
        &self,
        snapshot: &Snapshot,
        refusal: &Refusal,
        wanted: &Wanted,
        may_start: bool,
        now: Moment,
    ) -> Loading {
        if let Some(underway) = self.reported(refusal, now) {
            return underway;
        }
        if !may_start {
            return Loading::Nothing;
        }
        let mut failed = Vec::new();
        for place in places(snapshot, refusal, wanted) {
            match self.job(&place, snapshot, now) {
                JobState::Runs(since) => {
                    return Loading::Underway { node: place.0, model: place.1, since };
                }
                JobState::Failed(why) => failed.push((place.0, place.1, why)),
                JobState::Fresh => {
                    let directive = Directive::Load(place.1.clone().into());
                    tracing::info!(node = %place.0, model = %place.1, "a request has this model loaded");
                    self.count("started");
                    if let Err(error) = self.fleet.direct(&place.0, directive).await {
                        self.fail(&place, error.to_string(), now);
                        failed.push((place.0, place.1, error.to_string()));
                        continue;
                    }
                    return Loading::Underway { node: place.0, model: place.1, since: now };
                }
            }
        }
        if failed.is_empty() { Loading::Nothing } else { Loading::Failed(failed) }
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

    fn job(&self, place: &Place, snapshot: &Snapshot, now: Moment) -> JobState {
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
        let Some(job) = jobs.get_mut(place) else {
            let earlier = told.map(|refusal| refusal.at_ms).collect();
            jobs.insert(place.clone(), Job { since: now, earlier, begun: false, asked: now, failed: None });
            return JobState::Fresh;
        };
        job.asked = now;
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
        match &job.failed {
            Some((_, why)) => JobState::Failed(why.clone()),
            None => JobState::Runs(job.since),
        }
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

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Place, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum JobState {
    /// It was not there, and is now: the caller starts it.
    Fresh,
    Runs(Moment),
    Failed(String),
}

fn state<'a>(snapshot: &'a Snapshot, place: &Place) -> Option<&'a ReplicaState> {
    Some(&snapshot.view.machine(&place.0)?.replica(&place.1)?.1.state)
}

/// Where one of the models could be loaded, best first: in the mode's order of models, machines that are alive only.
fn places(snapshot: &Snapshot, refusal: &Refusal, wanted: &Wanted) -> Vec<Place> {
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
            let may = !snapshot.barred.contains(&rejection.machine);
            (can && may && cool && able && machine.liveness == Liveness::Alive)
                .then(|| (preference, (rejection.machine.clone(), model)))
        })
        .collect();
    places.sort();
    places.into_iter().map(|(_, place)| place).collect()
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
