//! What is known of all machines, and the snapshot of it that decisions are made from.
//!
//! Inputs: [`Fleet::attached`], [`Fleet::apply`], [`Fleet::heard`], [`Fleet::lost`], [`Fleet::linked`],
//! [`Fleet::observe`].
//! Output: [`Fleet::view`], and [`Fleet::next_change`] says when it changes by the passing of time alone.

mod floor;
mod serving;
mod view;

pub use floor::Sure;
pub use serving::{Answers, Doubt, Rates, ReplicaKey, Serving, Servings, model_number};
pub use view::{DataPath, FleetView, History, MachineView};

pub(crate) use floor::{Floor, kv_pressure};
pub(crate) use serving::mixed;

use crate::eviction::Uses;
use crate::health::{Breaker, Pulse};
use crate::id::{MachineId, ModelId};
use crate::machine::{Replica, ReplicaState, Report};
use crate::profile::SpeedRecord;
use crate::speed::{Lesson, Speed, blend};
use crate::units::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// How a request on a replica ended, as far as the replica is to be judged by it.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It answered, and what that tells of its speed.
    Answered(Option<Box<Lesson>>),
    /// It answered, but in a way that a sound model may fall into, too: an endless repetition. Neither a failure
    /// nor a success: it must not put a replica back, nor make up for failures.
    Doubtful,
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

/// What is known of one replica beyond the latest report.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    breaker: Breaker,
    speed: Speed,
    is_loaded: bool,
    /// The number of its latest load.
    load: u32,
    /// When that was seen.
    loaded_at: Option<Moment>,
    /// A request on it has ended.
    was_asked: bool,
    /// How often.
    uses: Uses,
}

/// Pairs of model and mode whose answers are remembered: far more than a mesh has, and a bound.
const ANSWERS: usize = 4_096;
/// Tokens of one answer that are believed: more is a clock gone wrong.
const LONGEST_ANSWER: f64 = 131_072.0;
/// Seconds of a round trip that are believed.
const LONGEST_ROUND_TRIP: f64 = 10.0;

/// Everything that is known, owned by one task of the router.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    machines: BTreeMap<MachineId, Record>,
    replicas: BTreeMap<MachineId, BTreeMap<ModelId, Known>>,
    /// How often any model was seen to become loaded.
    loads: u32,
    /// Tokens of answers.
    answers: Answers,
    /// Seconds for a round trip to a machine.
    rtts: BTreeMap<MachineId, Option<f64>>,
    /// Speeds from the machines' profiles.
    seeds: BTreeMap<MachineId, Vec<SpeedRecord>>,
    /// How requests reach a machine, for those that can be reached. Kept apart from the records: the data
    /// link may be there before the control stream.
    paths: BTreeMap<MachineId, DataPath>,
}

impl Fleet {
    /// A machine's control stream is there. What it said in an earlier session holds until its first report,
    /// which is a full one and takes its place.
    pub fn attached(&mut self, id: &MachineId, now: Moment) {
        let report = self.machines.remove(id).map(|record| record.report).unwrap_or_default();
        self.machines.insert(id.clone(), Record { pulse: Pulse::new(now), report, stale: true });
        // A restarted agent deserves a fresh chance, but a machine does not get faster by restarting.
        for known in self.replicas.get_mut(id).into_iter().flat_map(BTreeMap::values_mut) {
            known.breaker.succeeded();
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
            let tells_of_engines = report.engines.is_some();
            record.report.absorb(report);
            if tells_of_engines {
                self.note_replicas(id, Some(now));
            }
        }
    }

    /// What a machine's profile says of speeds: the start for models that no request has measured yet.
    pub fn seed(&mut self, id: &MachineId, speeds: Vec<SpeedRecord>) {
        if self.machines.contains_key(id) {
            self.seeds.insert(id.clone(), speeds);
            self.note_replicas(id, None);
        }
    }

    /// Notices which models of a machine came into memory, gives unmeasured ones their seed, and forgets those that
    /// it no longer has and that no request has asked for.
    fn note_replicas(&mut self, id: &MachineId, now: Option<Moment>) {
        let Some(record) = self.machines.get(id) else { return };
        let engines = record.report.engines.as_deref().unwrap_or_default();
        let mut loaded: BTreeMap<&ModelId, (bool, &Replica)> = BTreeMap::new();
        for replica in engines.iter().flat_map(|engine| &engine.replicas) {
            let entry = loaded.entry(&replica.model).or_insert((false, replica));
            entry.0 |= replica.state == ReplicaState::Loaded;
        }
        let replicas = self.replicas.entry(id.clone()).or_default();
        replicas.retain(|model, known| known.was_asked || loaded.contains_key(model));
        for (_, known) in replicas.iter_mut().filter(|(model, _)| !loaded.contains_key(model)) {
            known.is_loaded = false;
        }
        let seeds = self.seeds.get(id).map_or(&[] as &[_], Vec::as_slice);
        for (model, (is_loaded, replica)) in loaded {
            let known = replicas.entry(model.clone()).or_default();
            if is_loaded && !known.is_loaded {
                self.loads = self.loads.wrapping_add(1);
                known.load = self.loads;
                known.loaded_at = now;
            }
            known.is_loaded = is_loaded;
            if known.speed == Speed::default()
                && let Some(seed) = seed_of(replica, seeds)
            {
                known.speed = seed;
            }
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
        if *outcome == Outcome::MachineLost {
            return self.lost(machine, now);
        }
        let known = self.replicas.entry(machine.clone()).or_default().entry(model.clone()).or_default();
        known.was_asked = true;
        known.uses.note(now);
        match outcome {
            Outcome::Answered(lesson) => {
                known.breaker.succeeded();
                let Some(lesson) = lesson else { return };
                known.speed.learn(lesson, now);
                self.note_answer(model, lesson);
                let rtt = lesson.rtt_s.filter(|s| (0.0..LONGEST_ROUND_TRIP).contains(s));
                if rtt.is_some() && self.machines.contains_key(machine) {
                    blend(self.rtts.entry(machine.clone()).or_default(), rtt);
                }
            }
            Outcome::Doubtful => {}
            Outcome::ReplicaBusy(rest) => known.breaker.asked_for_rest(*rest, now),
            Outcome::ReplicaFailed | Outcome::MachineLost => known.breaker.failed(now),
        }
    }

    fn note_answer(&mut self, model: &ModelId, lesson: &Lesson) {
        let tokens = lesson.completion_tokens.map(|tokens| (tokens as f64).min(LONGEST_ANSWER));
        let Some(tokens) = tokens.filter(|tokens| *tokens > 0.0) else { return };
        for mode in [None, lesson.mode.clone()] {
            let key = (model.clone(), mode);
            if self.answers.len() < ANSWERS || self.answers.contains_key(&key) {
                let mut average = self.answers.get(&key).copied();
                blend(&mut average, Some(tokens));
                self.answers.insert(key, average.unwrap_or(tokens));
            }
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
            rtt_s: self.rtts.get(id).copied().flatten(),
            draining: record.report.draining.unwrap_or(false),
            hardware: record.report.hardware.clone(),
            vitals: record.report.vitals.clone(),
            engines: record.report.engines.clone().unwrap_or_default(),
            store: record.report.store.clone().unwrap_or_default(),
            profile: record.report.profile.clone(),
            history: self
                .replicas
                .get(id)
                .into_iter()
                .flatten()
                .map(|(model, known)| {
                    let resting = known.breaker.open_for(now);
                    let Known { speed, load, loaded_at, uses, .. } = *known;
                    (model.clone(), History { resting, speed, load, loaded_at, uses })
                })
                .collect(),
        });
        FleetView::new(machines.collect(), &self.answers)
    }

    /// When the view changes next if nothing happens: a machine becomes suspect or offline, or a replica has
    /// rested long enough.
    #[must_use]
    pub fn next_change(&self, now: Moment) -> Option<Moment> {
        let pulses = self.machines.values().filter_map(|record| record.pulse.next_change(now));
        let replicas = self.replicas.values().flat_map(BTreeMap::values);
        let rests = replicas.filter_map(|known| known.breaker.next_change(now));
        pulses.chain(rests).min()
    }
}

/// The latest measurement of a model's file, or of its name.
fn seed_of(replica: &Replica, seeds: &[SpeedRecord]) -> Option<Speed> {
    let digest = replica.digest.as_ref().map(ToString::to_string);
    let same = |seed: &&SpeedRecord| {
        seed.model == replica.model.as_str() || digest.as_ref().is_some_and(|digest| *digest == seed.model)
    };
    let latest = seeds.iter().filter(same).max_by_key(|seed| seed.at)?;
    Some(Speed::seed(latest.prefill, latest.decode))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::health::Liveness;
    use crate::machine::{Engine, EngineKind, EngineState, Hardware, Store, Vitals};

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
            rtt_s: None,
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
        FleetView::new(machines, &Answers::new())
    }

    fn at(seconds: f64) -> Moment {
        Moment(0).plus(Duration::from_secs(100)).plus(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn the_first_report_of_a_session_takes_the_place_of_all_that_was_said_before() {
        let (mut fleet, id) = (Fleet::default(), machine_id("msi"));
        fleet.attached(&id, at(0.0));
        fleet.apply(&id, Report { engines: Some(vec![engine(&["tiny"])]), ..Report::default() }, at(0.1));
        assert!(fleet.view(at(0.2)).model("tiny").is_some());
        fleet.attached(&id, at(1.0));
        assert!(fleet.view(at(1.0)).model("tiny").is_some(), "until then the old one holds");
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
        assert!(fleet.view(at(1.1)).model("tiny").is_none());
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
    fn a_doubtful_answer_is_neither_a_failure_nor_a_success() {
        let (mut fleet, id, model) = (Fleet::default(), machine_id("msi"), model_id("tiny"));
        fleet.attached(&id, at(0.0));
        let resting =
            |fleet: &Fleet| fleet.view(at(0.0)).machines[0].history.get(&model).and_then(|h| h.resting);
        for _ in 0..10 {
            fleet.observe(&id, &model, &Outcome::Doubtful, at(0.0));
        }
        assert_eq!(resting(&fleet), None);
        for outcome in
            [Outcome::ReplicaFailed, Outcome::ReplicaFailed, Outcome::Doubtful, Outcome::ReplicaFailed]
        {
            fleet.observe(&id, &model, &outcome, at(0.0));
        }
        assert!(resting(&fleet).is_some(), "three failures, whatever lies between");
    }

    #[test]
    fn an_unreachable_machine_is_suspect_at_once() {
        let (mut fleet, id) = (Fleet::default(), machine_id("msi"));
        fleet.attached(&id, at(0.0));
        fleet.observe(&id, &model_id("tiny"), &Outcome::MachineLost, at(0.1));
        assert_eq!(fleet.view(at(0.1)).machines[0].liveness, Liveness::Suspect);
    }
}
