//! Which machines count: who is lost and who is back, who is too hot; and what each gives, from its reports and its profile.
//!
//! ```text
//! there ──silent for 10 s, another machine has a file that it had in memory──► lost ──heard again──► back
//!   ▲   ──silent for 60 s────────────────────────────────────────────────────►                      │
//!   └──────────────────────────────────────── alive for 60 s without a pause ────────────────────────┘
//! ```

use mesh_core::fleet::{FleetView, MachineView};
use mesh_core::health::Liveness;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{ReplicaState, ThermalState};
use mesh_core::placement::{Conditions, Site, Standing};
use mesh_core::profile::Profile;
use mesh_core::strategy::Wishes;
use mesh_core::units::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A machine that was silent for this long is lost, where another one has a file that it had in memory.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// Where nobody else has: its models would have to be fetched, and most machines are back before that ends.
const LOST_WITHOUT_COPY: Duration = Duration::from_secs(60);
/// How long a machine that was lost, or too hot, must be well before anything new comes to it.
const WELL_FOR: Duration = Duration::from_secs(60);
/// How long a machine must be hot until its models go elsewhere. Its agent unloads them then, too.
const HOT_FOR: Duration = Duration::from_secs(120);
/// How long after the router's start machines that joined once are waited for.
pub(super) const GATHERING: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, Default)]
struct Watched {
    lost: bool,
    alive_since: Option<Moment>,
    silent_since: Option<Moment>,
    /// It had models in memory of which others have the file.
    has_copies: bool,
    hot_since: Option<Moment>,
    too_hot: bool,
    cool_since: Option<Moment>,
}

/// What is remembered of machines from one look to the next.
#[derive(Debug)]
pub(super) struct Watchman {
    started: Moment,
    /// Machines that joined once.
    expected: BTreeSet<MachineId>,
    machines: BTreeMap<MachineId, Watched>,
    /// Profiles as they were parsed last.
    profiles: BTreeMap<MachineId, (Arc<str>, Option<Arc<Profile>>)>,
}

impl Watchman {
    pub(super) fn new(expected: BTreeSet<MachineId>, now: Moment) -> Self {
        Self { started: now, expected, machines: BTreeMap::new(), profiles: BTreeMap::new() }
    }

    /// Takes in what the machines say.
    pub(super) fn look(&mut self, view: &FleetView, now: Moment) {
        self.machines.retain(|id, _| view.machine(id).is_some());
        self.profiles.retain(|id, _| view.machine(id).is_some());
        for machine in &view.machines {
            let has_copies = has_copies(view, machine);
            self.machines.entry(machine.id.clone()).or_default().look(machine, has_copies, now);
            self.read_profile(machine);
        }
    }

    fn read_profile(&mut self, machine: &MachineView) {
        let Some(text) = &machine.profile else { return };
        let known = self.profiles.get(&machine.id);
        if known.is_some_and(|(old, _)| Arc::ptr_eq(old, text)) {
            return;
        }
        // One that is none is its agent's matter: the machine is planned by its reports.
        let profile = serde_json::from_str::<Profile>(text).ok().map(Arc::new);
        self.profiles.insert(machine.id.clone(), (text.clone(), profile));
    }

    /// Those that joined once, have not reported since the router's start, and are waited for. Until they are here, a plan
    /// without them would move what they hold.
    pub(super) fn missing(&self, view: &FleetView, now: Moment) -> Vec<MachineId> {
        if now.since(self.started) >= GATHERING {
            return Vec::new();
        }
        let is_here = |id: &&MachineId| {
            view.machine(id).is_some_and(|machine| machine.vitals.is_some() && machine.hardware.is_some())
        };
        self.expected.iter().filter(|id| !is_here(id)).cloned().collect()
    }

    /// When something changes by the passing of time alone.
    pub(super) fn next_change(&self, now: Moment) -> Option<Moment> {
        let gathered = self.started.plus(GATHERING);
        let of_machines = self.machines.values().flat_map(Watched::changes);
        of_machines.chain([gathered]).filter(|at| *at > now).min()
    }

    /// The machines as the planner sees them.
    pub(super) fn sites(&self, view: &FleetView, wishes: &Wishes, minute_of_day: u16) -> Vec<Site> {
        view.machines
            .iter()
            .map(|machine| {
                let watched = self.machines.get(&machine.id).copied().unwrap_or_default();
                let profile = self.profiles.get(&machine.id).and_then(|(_, profile)| profile.as_deref());
                let conditions =
                    Conditions { minute_of_day, is_lost: watched.is_away(), is_too_hot: watched.too_hot };
                let mut site = Site::of(machine, &wishes.limits(&machine.id), profile, conditions);
                if watched.lost && site.standing == Standing::Open {
                    let seconds = WELL_FOR.as_secs();
                    site.standing =
                        Standing::Holds(format!("it was away, and must be here for {seconds} s first"));
                }
                site
            })
            .collect()
    }
}

impl Watched {
    fn look(&mut self, machine: &MachineView, has_copies: bool, now: Moment) {
        let is_alive = machine.liveness == Liveness::Alive;
        let is_offline = machine.liveness == Liveness::Offline;
        self.alive_since = is_alive.then(|| self.alive_since.unwrap_or(now));
        self.silent_since = is_offline.then_some(machine.last_heard);
        self.has_copies = has_copies;
        if let Some(since) = self.silent_since {
            self.lost |= now.since(since) >= self.patience();
        }
        if self.alive_since.is_some_and(|since| now.since(since) >= WELL_FOR) {
            self.lost = false;
        }
        let heat = machine.vitals.as_ref().map_or(ThermalState::Unknown, |vitals| vitals.thermal.state);
        self.hot_since = (heat == ThermalState::Hot).then(|| self.hot_since.unwrap_or(now));
        self.cool_since = (heat < ThermalState::Derated).then(|| self.cool_since.unwrap_or(now));
        self.too_hot |= self.hot_since.is_some_and(|since| now.since(since) >= HOT_FOR);
        if self.cool_since.is_some_and(|since| now.since(since) >= WELL_FOR) {
            self.too_hot = false;
        }
    }

    fn patience(&self) -> Duration {
        if self.has_copies { LOST_AFTER } else { LOST_WITHOUT_COPY }
    }

    /// It is lost and has not come back.
    fn is_away(&self) -> bool {
        self.lost && self.silent_since.is_some()
    }

    fn changes(&self) -> impl Iterator<Item = Moment> {
        let lost = self.silent_since.filter(|_| !self.lost).map(|at| at.plus(self.patience()));
        let back = self.alive_since.filter(|_| self.lost).map(|at| at.plus(WELL_FOR));
        let hot = self.hot_since.filter(|_| !self.too_hot).map(|at| at.plus(HOT_FOR));
        let cool = self.cool_since.filter(|_| self.too_hot).map(|at| at.plus(WELL_FOR));
        [lost, back, hot, cool].into_iter().flatten()
    }
}

/// Whether another machine that is up has the file of a model that `machine` had in memory.
fn has_copies(view: &FleetView, machine: &MachineView) -> bool {
    let replicas = machine.engines.iter().flat_map(|engine| &engine.replicas);
    let held = replicas.filter(|one| matches!(one.state, ReplicaState::Loaded | ReplicaState::Loading));
    let mut others =
        view.machines.iter().filter(|other| other.id != machine.id && other.liveness == Liveness::Alive);
    let held: Vec<&ModelId> = held.map(|replica| &replica.model).collect();
    others.any(|other| held.iter().any(|model| has_file(other, model)))
}

fn has_file(machine: &MachineView, model: &ModelId) -> bool {
    let stored = &machine.store.models;
    stored.iter().any(|one| one.broken.is_none() && one.served_as.as_ref().unwrap_or(&one.model) == model)
        || machine.replica(model).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::fleet::Fleet;
    use mesh_core::machine::{Engine, EngineKind, EngineState, Replica, Report, Vitals};

    fn id(name: &str) -> MachineId {
        MachineId::new(name).expect("valid")
    }

    fn at(seconds: u64) -> Moment {
        Moment(0).plus(Duration::from_secs(1000 + seconds))
    }

    fn report(state: ReplicaState, thermal: ThermalState) -> Report {
        let mut vitals = Vitals::unknown("test");
        vitals.thermal.state = thermal;
        let engine = Engine {
            state: EngineState::Up,
            replicas: vec![Replica::new(ModelId::new("m").expect("valid"), state)],
            ..Engine::new("e", EngineKind::LlamaServer, true)
        };
        Report { vitals: Some(vitals), engines: Some(vec![engine]), ..Report::default() }
    }

    /// How `one` stands after each second, once the machines were heard.
    fn standing(watchman: &mut Watchman, fleet: &Fleet, second: u64) -> String {
        let view = fleet.view(at(second));
        watchman.look(&view, at(second));
        let sites = watchman.sites(&view, &Wishes::default(), 0);
        match sites.into_iter().find(|site| site.machine == id("one")).expect("it attached").standing {
            Standing::Open => "open".into(),
            Standing::Holds(why) => format!("holds: {why}"),
            Standing::Closed(why) => format!("closed: {why}"),
        }
    }

    fn two(with_copy: bool) -> Fleet {
        let mut fleet = Fleet::default();
        for name in ["one", "two"] {
            fleet.attached(&id(name), at(0));
        }
        fleet.apply(&id("one"), report(ReplicaState::Loaded, ThermalState::Ok), at(0));
        if with_copy {
            fleet.apply(&id("two"), report(ReplicaState::Available, ThermalState::Ok), at(0));
        }
        fleet
    }

    #[test]
    fn a_silent_machine_is_lost_after_ten_seconds_where_another_has_its_file_and_else_after_a_minute() {
        for (with_copy, lost_at) in [(true, 10), (false, 60)] {
            let (mut fleet, mut watchman) = (two(with_copy), Watchman::new(BTreeSet::new(), at(0)));
            for second in 0..=61 {
                fleet.heard(&id("two"), at(second));
                let standing = standing(&mut watchman, &fleet, second);
                assert_eq!(standing == "closed: it is offline", second >= lost_at, "{second}: {standing}");
                if second + 1 == lost_at {
                    assert_eq!(watchman.next_change(at(second)), Some(at(lost_at)));
                }
            }
        }
    }

    #[test]
    fn a_machine_that_is_back_takes_nothing_new_for_a_minute_and_keeps_what_it_has() {
        let (mut fleet, mut watchman) = (two(true), Watchman::new(BTreeSet::new(), at(0)));
        for second in [0, 6, 12] {
            fleet.heard(&id("two"), at(second));
            standing(&mut watchman, &fleet, second);
        }
        let mut seen = Vec::new();
        for second in 20..=90 {
            // It goes away for a while once more, which begins the minute anew.
            if second != 30 && second != 31 && second != 32 {
                fleet.heard(&id("one"), at(second));
            }
            seen.push(standing(&mut watchman, &fleet, second));
        }
        assert_eq!(seen[0], "holds: it was away, and must be here for 60 s first");
        assert_eq!(seen.iter().position(|standing| standing == "open"), None, "{seen:?}");
        for second in 91..=93 {
            fleet.heard(&id("one"), at(second));
            seen.push(standing(&mut watchman, &fleet, second));
        }
        assert_eq!(seen.last().map(String::as_str), Some("open"));
    }

    #[test]
    fn a_machine_is_emptied_after_two_hot_minutes_and_used_again_after_a_cool_one() {
        let (mut fleet, mut watchman) = (Fleet::default(), Watchman::new(BTreeSet::new(), at(0)));
        fleet.attached(&id("one"), at(0));
        let mut closed = Vec::new();
        for second in 0..=400 {
            let heat = if (10..200).contains(&second) { ThermalState::Hot } else { ThermalState::Ok };
            fleet.apply(&id("one"), report(ReplicaState::Loaded, heat), at(second));
            if standing(&mut watchman, &fleet, second).starts_with("closed: it is too hot") {
                closed.push(second);
            }
        }
        assert_eq!((closed.first(), closed.last()), (Some(&130), Some(&259)));
    }

    #[test]
    fn machines_that_joined_once_are_waited_for() {
        let watchman = Watchman::new([id("one"), id("two")].into(), at(0));
        let fleet = two(true);
        let missing = |second| watchman.missing(&fleet.view(at(second)), at(second));
        assert_eq!(missing(1), [id("one"), id("two")], "they have not told what they are");
        assert_eq!(missing(60), []);
        assert_eq!(watchman.next_change(at(1)), Some(at(60)));
    }
}
