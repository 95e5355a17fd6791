//! What is known of all machines, and the snapshot of it that decisions are made from.
//!
//! Inputs: [`Fleet::attached`], [`Fleet::apply`], [`Fleet::heard`], [`Fleet::lost`], [`Fleet::linked`],
//! [`Fleet::observe`].
//! Output: [`Fleet::view`], and [`Fleet::next_change`] says when it changes by the passing of time alone.

use crate::health::{Breaker, Liveness, Pulse};
use crate::id::{MachineId, ModelId};
use crate::machine::{Engine, Hardware, Replica, Report, Store, Vitals};
use crate::speed::{Speed, Timing};
use crate::units::Moment;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How a request on a replica ended, as far as the replica is to be judged by it.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It answered.
    Answered(Option<Timing>),
    /// It failed through its own fault.
    ReplicaFailed,
    /// It takes no more requests, and said for how long.
    ReplicaBusy(Duration),
    /// The machine could not be reached at all.
    MachineLost,
}

#[derive(Debug, Clone)]
struct Record {
    pulse: Pulse,
    report: Report,
    /// The report is of an earlier session: the first one of this session takes its place.
    stale: bool,
}

/// Everything that is known, owned by one task of the router.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    machines: BTreeMap<MachineId, Record>,
    replicas: BTreeMap<(MachineId, ModelId), (Breaker, Speed)>,
    /// How requests reach a machine, for those that can be reached. Kept apart from the records: the data
    /// link may be there before the control stream.
    paths: BTreeMap<MachineId, DataPath>,
}

/// How requests reach a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataPath {
    /// By the QUIC connection that its agent dialled.
    Quic,
    /// By a function call: router and agent share a process.
    InProcess,
}

impl DataPath {
    /// The word used in status and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::InProcess => "in-process",
        }
    }
}

/// One machine as decisions see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MachineView {
    /// Its name.
    pub id: MachineId,
    /// What is believed of it.
    pub liveness: Liveness,
    /// When its last message came.
    pub last_heard: Moment,
    /// How requests reach it, `None` while they cannot.
    pub path: Option<DataPath>,
    /// It is leaving: no new requests.
    pub draining: bool,
    /// What does not change, once it has reported.
    pub hardware: Option<Hardware>,
    /// What changes all the time, once it has reported.
    pub vitals: Option<Vitals>,
    /// Its engines.
    pub engines: Vec<Engine>,
    /// The models on its disk.
    pub store: Store,
    /// Its machine profile as a JSON document, once it has reported.
    #[serde(skip)]
    pub profile: Option<Arc<str>>,
    /// Breaker and speed of each model that has had a request.
    pub history: BTreeMap<ModelId, History>,
}

/// What requests have told about a replica.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct History {
    /// How long it is to be left alone, and after how many failures; zero seconds = until a probe has succeeded.
    pub resting: Option<(Duration, u32)>,
    /// How fast it is.
    pub speed: Speed,
}

impl MachineView {
    /// The replica of `model` on this machine that is furthest on its way to serving, with its engine.
    #[must_use]
    pub fn replica(&self, model: &ModelId) -> Option<(&Engine, &Replica)> {
        use crate::machine::ReplicaState::{Available, Failed, Loaded, Loading};
        self.engines
            .iter()
            .flat_map(|engine| engine.replicas.iter().map(move |replica| (engine, replica)))
            .filter(|(_, replica)| replica.model == *model)
            .min_by_key(|(_, replica)| match (&replica.state, replica.health.why()) {
                (Loaded, None) => 0,
                (Loaded, Some(_)) => 1,
                (Loading, _) => 2,
                (Available, _) => 3,
                (Failed(_), _) => 4,
            })
    }
}

/// A snapshot of the fleet. Machines are sorted by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct FleetView {
    /// All machines that were ever heard of since the router started.
    pub machines: Vec<MachineView>,
}

impl FleetView {
    /// The machine with this name.
    #[must_use]
    pub fn machine(&self, id: &MachineId) -> Option<&MachineView> {
        self.machines.binary_search_by(|machine| machine.id.cmp(id)).ok().map(|at| &self.machines[at])
    }

    /// Whether any machine has this model, loaded or not.
    #[must_use]
    pub fn has_model(&self, model: &ModelId) -> bool {
        self.machines.iter().any(|machine| machine.replica(model).is_some())
    }

    /// The names of all models, each once, sorted.
    #[must_use]
    pub fn model_names(&self) -> Vec<&ModelId> {
        let names: BTreeSet<&ModelId> = self
            .machines
            .iter()
            .flat_map(|machine| &machine.engines)
            .flat_map(|engine| &engine.replicas)
            .map(|replica| &replica.model)
            .collect();
        names.into_iter().collect()
    }
}

impl Fleet {
    /// A machine's control stream is there. What it said in an earlier session holds until its first report,
    /// which is a full one and takes its place.
    pub fn attached(&mut self, id: &MachineId, now: Moment) {
        let report = self.machines.remove(id).map(|record| record.report).unwrap_or_default();
        self.machines.insert(id.clone(), Record { pulse: Pulse::new(now), report, stale: true });
        // A restarted agent deserves a fresh chance, but a machine does not get faster by restarting.
        for ((machine, _), (breaker, _)) in &mut self.replicas {
            if machine == id {
                breaker.succeeded();
            }
        }
    }

    /// A report came.
    pub fn apply(&mut self, id: &MachineId, report: Report, now: Moment) {
        if let Some(record) = self.machines.get_mut(id) {
            record.pulse.heard(now);
            if record.stale && report.is_full() {
                record.report = Report::default();
                record.stale = false;
            }
            record.report.absorb(report);
        }
    }

    /// A heartbeat came.
    pub fn heard(&mut self, id: &MachineId, now: Moment) {
        if let Some(record) = self.machines.get_mut(id) {
            record.pulse.heard(now);
        }
    }

    /// A machine's control stream is gone.
    pub fn lost(&mut self, id: &MachineId, now: Moment) {
        if let Some(record) = self.machines.get_mut(id) {
            record.pulse.lost(now);
        }
    }

    /// The way by which requests reach a machine is there, or (`None`) is gone.
    pub fn linked(&mut self, id: &MachineId, path: Option<DataPath>) {
        match path {
            Some(path) => self.paths.insert(id.clone(), path),
            None => self.paths.remove(id),
        };
    }

    /// A request on a replica ended.
    pub fn observe(&mut self, machine: &MachineId, model: &ModelId, outcome: &Outcome, now: Moment) {
        let key = (machine.clone(), model.clone());
        match outcome {
            Outcome::Answered(timing) => {
                let (breaker, speed) = self.replicas.entry(key).or_default();
                breaker.succeeded();
                if let Some(timing) = timing {
                    speed.observe(*timing);
                }
            }
            Outcome::ReplicaFailed => self.replicas.entry(key).or_default().0.failed(now),
            Outcome::ReplicaBusy(rest) => {
                self.replicas.entry(key).or_default().0.asked_for_rest(*rest, now);
            }
            Outcome::MachineLost => self.lost(machine, now),
        }
    }

    /// The snapshot at `now`.
    #[must_use]
    pub fn view(&self, now: Moment) -> FleetView {
        let machines = self.machines.iter().map(|(id, record)| MachineView {
            id: id.clone(),
            liveness: record.pulse.liveness(now),
            last_heard: record.pulse.last_heard(),
            path: self.paths.get(id).copied(),
            draining: record.report.draining.unwrap_or(false),
            hardware: record.report.hardware.clone(),
            vitals: record.report.vitals.clone(),
            engines: record.report.engines.clone().unwrap_or_default(),
            store: record.report.store.clone().unwrap_or_default(),
            profile: record.report.profile.clone(),
            history: self
                .replicas
                .iter()
                .filter(|((machine, _), _)| machine == id)
                .map(|((_, model), (breaker, speed))| {
                    (model.clone(), History { resting: breaker.open_for(now), speed: *speed })
                })
                .collect(),
        });
        FleetView { machines: machines.collect() }
    }

    /// When the view changes next if nothing happens: a machine becomes suspect or offline, or a replica has
    /// rested long enough.
    #[must_use]
    pub fn next_change(&self, now: Moment) -> Option<Moment> {
        let pulses = self.machines.values().filter_map(|record| record.pulse.next_change(now));
        let rests = self.replicas.values().filter_map(|(breaker, _)| breaker.next_change(now));
        pulses.chain(rests).min()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::machine::{EngineKind, EngineState, ReplicaState};

    pub(crate) fn machine_id(name: &str) -> MachineId {
        MachineId::new(name).expect("valid")
    }

    pub(crate) fn model_id(name: &str) -> ModelId {
        ModelId::new(name).expect("valid")
    }

    pub(crate) fn engine(models: &[&str]) -> Engine {
        Engine {
            state: EngineState::Up,
            replicas: models
                .iter()
                .map(|model| Replica {
                    slots: Some(2),
                    context: Some(1024),
                    ..Replica::new(model_id(model), ReplicaState::Loaded)
                })
                .collect(),
            ..Engine::new("llama-server-1", EngineKind::LlamaServer, true)
        }
    }

    pub(crate) fn machine(name: &str, models: &[&str]) -> MachineView {
        MachineView {
            id: machine_id(name),
            liveness: Liveness::Alive,
            last_heard: Moment(0),
            path: Some(DataPath::Quic),
            draining: false,
            hardware: None,
            vitals: None,
            engines: vec![engine(models)],
            store: Store::default(),
            profile: None,
            history: BTreeMap::new(),
        }
    }

    pub(crate) fn view_of(mut machines: Vec<MachineView>) -> FleetView {
        machines.sort_by(|a, b| a.id.cmp(&b.id));
        FleetView { machines }
    }

    fn at(seconds: f64) -> Moment {
        Moment(0).plus(Duration::from_secs(100)).plus(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn the_first_report_of_a_session_takes_the_place_of_all_that_was_said_before() {
        let (mut fleet, id) = (Fleet::default(), machine_id("msi"));
        fleet.attached(&id, at(0.0));
        fleet.apply(&id, Report { engines: Some(vec![engine(&["tiny"])]), ..Report::default() }, at(0.1));
        assert!(fleet.view(at(0.2)).has_model(&model_id("tiny")));
        fleet.attached(&id, at(1.0));
        assert!(fleet.view(at(1.0)).has_model(&model_id("tiny")), "until then the old one holds");
        let vitals = Vitals::unknown("test");
        let hardware = Hardware {
            hostname: "msi".into(),
            cpu: crate::machine::Reading::unknown("test"),
            cpu_threads: 2,
            system: crate::machine::Reading::unknown("test"),
            agent_version: "0".into(),
            launch: None,
        };
        let full = Report {
            hardware: Some(hardware),
            vitals: Some(vitals),
            engines: Some(vec![]),
            store: Some(Store::default()),
            profile: Some("{}".into()),
            draining: Some(false),
        };
        fleet.apply(&id, full, at(1.1));
        assert!(!fleet.view(at(1.1)).has_model(&model_id("tiny")));
    }

    #[test]
    fn a_report_of_a_machine_that_never_attached_is_ignored() {
        let mut fleet = Fleet::default();
        fleet.apply(&machine_id("ghost"), Report::default(), at(0.0));
        assert!(fleet.view(at(0.0)).machines.is_empty());
    }

    #[test]
    fn time_alone_changes_the_view_and_the_fleet_knows_when() {
        let (mut fleet, id) = (Fleet::default(), machine_id("msi"));
        fleet.attached(&id, at(0.0));
        let mut now = at(0.0);
        let mut seen = vec![fleet.view(now).machines[0].liveness];
        while let Some(next) = fleet.next_change(now) {
            now = next;
            seen.push(fleet.view(now).machines[0].liveness);
        }
        assert_eq!(seen, [Liveness::Alive, Liveness::Suspect, Liveness::Offline]);
    }

    #[test]
    fn a_failed_replica_rests_and_an_answer_wakes_it() {
        let (mut fleet, id, model) = (Fleet::default(), machine_id("msi"), model_id("tiny"));
        fleet.attached(&id, at(0.0));
        for _ in 0..3 {
            fleet.observe(&id, &model, &Outcome::ReplicaFailed, at(0.0));
        }
        let resting = |fleet: &Fleet| fleet.view(at(1.0)).machines[0].history[&model].resting;
        assert_eq!(resting(&fleet), Some((Duration::from_secs(4), 3)));
        fleet.observe(&id, &model, &Outcome::Answered(None), at(1.0));
        assert_eq!(resting(&fleet), None);
    }

    #[test]
    fn an_unreachable_machine_is_suspect_at_once() {
        let (mut fleet, id) = (Fleet::default(), machine_id("msi"));
        fleet.attached(&id, at(0.0));
        fleet.observe(&id, &model_id("tiny"), &Outcome::MachineLost, at(0.1));
        assert_eq!(fleet.view(at(0.1)).machines[0].liveness, Liveness::Suspect);
    }
}
