//! The one word of a machine's state, and why it is that. Pure; for the status and for `meshctl node show`.

use mesh_core::fleet::{DataPath, MachineView};
use mesh_core::health::Liveness;
use mesh_core::machine::{Engine, EngineState, ReplicaState, ThermalState};
use mesh_core::units::{Moment, human_duration};

/// The data path in the status' words.
pub(super) fn path_word(machine: &MachineView) -> String {
    machine.path.map_or("none", DataPath::word).into()
}

/// The state of a machine, and why it is not ready: empty when it is.
pub(super) fn node_state(machine: &MachineView, now: Moment) -> (&'static str, String) {
    let silence = human_duration(now.since(machine.last_heard));
    match machine.liveness {
        Liveness::Offline => return ("offline", format!("last heard {silence} ago")),
        Liveness::Suspect => {
            return ("suspect", format!("not heard for {silence}, or a request could not reach it"));
        }
        Liveness::Alive => {}
    }
    if machine.draining {
        return ("draining", "its agent is stopping, or the machine goes to sleep".into());
    }
    if machine.path.is_none() {
        return (
            "suspect",
            "no data link: still connecting, or neither UDP nor TCP 7401 passes; see the agent's log".into(),
        );
    }
    if let Some(vitals) = machine.vitals.as_ref().filter(|v| v.thermal.state == ThermalState::Hot) {
        return ("hot", vitals.thermal.why.clone());
    }
    let (state, why) = of_engines(&machine.engines);
    (state, why.to_owned())
}

/// What a machine can do with its engines as they are.
fn of_engines(engines: &[Engine]) -> (&'static str, &'static str) {
    let mut running = engines.iter().filter(|engine| !engine.rests()).peekable();
    if running.peek().is_some() && running.all(Engine::is_down) {
        return ("silent", "no engine answers");
    }
    // What was in the memory of an engine that is down serves nobody, or may be gone.
    let answering = || engines.iter().filter(|engine| !engine.is_down());
    let has = |state: &ReplicaState| {
        answering().flat_map(|engine| &engine.replicas).any(|replica| replica.state == *state)
    };
    let on_demand =
        || answering().any(|engine| engine.kind.loads_on_demand() && engine.state == EngineState::Up);
    if answering().all(|engine| engine.replicas.is_empty()) {
        ("empty", "no engine has a model")
    } else if has(&ReplicaState::Loaded) {
        ("ready", "")
    } else if has(&ReplicaState::Loading) {
        ("loading", "a model is being loaded")
    } else if on_demand() {
        ("ready", "")
    } else {
        ("idle", "no model is in memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::id::ModelId;
    use mesh_core::machine::{EngineKind, Replica};

    fn engine(supervised: bool, state: EngineState, replica: ReplicaState) -> Engine {
        let model = ModelId::new("m").expect("a name");
        Engine {
            state,
            replicas: vec![Replica::new(model, replica)],
            ..Engine::new("e", EngineKind::LlamaServer, supervised)
        }
    }

    #[test]
    fn a_machine_is_silent_when_everything_that_runs_on_it_is_down_whatever_rests_beside_it() {
        let down = || EngineState::Down("refused".into());
        let hung = engine(true, down(), ReplicaState::Loaded);
        let killed = engine(true, down(), ReplicaState::Failed("was killed".into()));
        let resting = engine(true, EngineState::Up, ReplicaState::Available);
        let serving = engine(false, EngineState::Up, ReplicaState::Loaded);
        let never_seen = Engine { replicas: Vec::new(), ..engine(false, down(), ReplicaState::Available) };
        let of = |engines: &[&Engine]| of_engines(&engines.iter().map(|&e| e.clone()).collect::<Vec<_>>()).0;
        let of_agent = Engine { supervised: true, ..never_seen.clone() };
        let alone = [&hung, &killed, &never_seen, &of_agent].map(|engine| vec![engine]);
        for engines in alone.into_iter().chain([vec![&hung, &killed, &resting]]) {
            assert_eq!(of(&engines), "silent", "{engines:?}");
        }
        assert_eq!(of(&[&hung, &serving]), "ready");
        assert_eq!(of(&[&hung, &engine(true, EngineState::Starting, ReplicaState::Loading)]), "loading");
        assert_eq!(of(&[&resting]), "idle");
        assert_eq!(of(&[&hung, &engine(false, EngineState::Up, ReplicaState::Available)]), "idle");
        assert_eq!(of(&[]), "empty");
    }
}
