//! The status of everything on one screen, composed from a snapshot. Pure.

use super::node_state::{node_state, path_word};
use crate::fleet_keeper::Snapshot;
use crate::forward::in_flight::Counts;
use crate::journal::ModeStats;
use mesh_core::fleet::{FleetView, MachineView};
use mesh_core::health::Liveness;
use mesh_core::id::ModeName;
use mesh_core::machine::{
    Capacity, Engine, EngineState, GpuState, Pool, Power, Reading, Replica, ReplicaState,
};
use mesh_core::mode::Mode;
use mesh_core::units::Moment;
use mesh_proto::fleet_wire::transfer_to_wire;
use mesh_proto::v1::{
    EngineStatus, GpuStatus, HealthLine, ModeStatus, ModelStatus, NodeStatus, PlacedReplica, ReplicaStatus,
    RouterStatus, StatusReply,
};
use std::collections::BTreeMap;

/// Readings come at least every 10 s ([`mesh_core::machine::Vitals::AS_OF_STEP`]); clocks of two machines differ
/// by seconds at most where time is synchronised.
const STALE_READINGS_S: u64 = 60;

/// What becomes of requests, besides what machines say.
pub(super) struct Traffic<'a> {
    /// Requests in flight.
    pub(super) load: &'a Counts,
    /// Requests that wait for a slot.
    pub(super) waiting: &'a BTreeMap<Option<ModeName>, u32>,
    /// Those that have ended.
    pub(super) stats: &'a BTreeMap<String, ModeStats>,
    /// A request for a model that is only on a disk has it loaded.
    pub(super) loads_on_demand: bool,
}

/// The whole reply.
pub(super) fn compose(
    router: RouterStatus,
    snapshot: &Snapshot,
    traffic: &Traffic<'_>,
    now: Moment,
    unix_s: u64,
) -> StatusReply {
    let nodes: Vec<NodeStatus> = snapshot
        .view
        .machines
        .iter()
        .map(|machine| node(machine, snapshot, traffic.load, now, unix_s))
        .collect();
    let modes: Vec<ModeStatus> =
        snapshot.modes.modes().iter().map(|mode| mode_status(mode, snapshot, traffic)).collect();
    let models = models(snapshot);
    let health = health(&router, &nodes, &modes, snapshot.automatic);
    StatusReply { router: Some(router), nodes, modes, models, health }
}

fn node(machine: &MachineView, snapshot: &Snapshot, load: &Counts, now: Moment, unix_s: u64) -> NodeStatus {
    let barred = snapshot.barred.get(&machine.id).cloned().unwrap_or_default();
    let (state, reason) = match (node_state(machine, now), barred.as_str()) {
        // What a person wants of it, as long as nothing is wrong with it. Who drains a machine may stop its engines, too.
        (("ready" | "idle" | "empty" | "loading" | "silent", _), "it is drained") => {
            ("drained", "its models leave, and nothing new comes".to_owned())
        }
        (("ready" | "idle" | "empty", _), "it is cordoned") => {
            ("cordoned", "what it has stays, nothing new comes".to_owned())
        }
        (seen, _) => seen,
    };
    let vitals = machine.vitals.as_ref();
    let hardware = machine.hardware.as_ref();
    let capacity = |pick: fn(&mesh_core::machine::Vitals) -> &Reading<Capacity>| {
        vitals.and_then(|v| pick(v).known()).map(|c| (c.total.0, c.available.0)).unzip()
    };
    let (ram_total, ram_available) = capacity(|v| &v.ram);
    let (disk_total, disk_available) = capacity(|v| &v.disk);
    let (gpus, gpus_unknown) = match vitals.map(|v| &v.gpus) {
        Some(Reading::Known(gpus)) => (gpus.iter().map(gpu).collect(), String::new()),
        Some(Reading::Unknown(why)) => (Vec::new(), why.clone()),
        None => (Vec::new(), "not reported yet".into()),
    };
    let hottest = vitals.and_then(|v| v.hottest());
    let power = vitals.and_then(|v| v.power.known());
    let answering = machine.engines.iter().filter(|engine| !engine.is_down());
    let loaded = answering.flat_map(|engine| &engine.replicas).filter(|r| r.state == ReplicaState::Loaded);
    let slots: Vec<u32> = loaded.filter_map(|replica| replica.slots).collect();
    NodeStatus {
        name: machine.id.to_string(),
        state: state.into(),
        reason,
        last_heard_ms: u64::try_from(now.since(machine.last_heard).as_millis()).unwrap_or(u64::MAX),
        hostname: hardware.map(|h| h.hostname.clone()).unwrap_or_default(),
        cpu: hardware.and_then(|h| h.cpu.known().cloned()).unwrap_or_default(),
        agent_version: hardware.map(|h| h.agent_version.clone()).unwrap_or_default(),
        gpus,
        gpus_unknown,
        ram_total,
        ram_available,
        disk_total,
        disk_available,
        hottest_celsius: hottest.map(|sensor| sensor.value.0),
        hottest_sensor: hottest.map(|sensor| sensor.sensor.clone()).unwrap_or_default(),
        load: vitals.and_then(|v| v.load.known().copied()),
        uptime_s: vitals.and_then(|v| v.uptime_s.known().copied()),
        in_flight: load.iter().filter(|((id, _), _)| *id == machine.id).map(|(_, count)| count).sum(),
        slots: (!slots.is_empty()).then(|| slots.iter().sum()),
        engines: machine.engines.iter().map(engine).collect(),
        data_path: path_word(machine),
        thermal: vitals.map(|v| v.thermal.state.word().to_owned()).unwrap_or_default(),
        thermal_why: vitals.map(|v| v.thermal.why.clone()).unwrap_or_default(),
        power: match power {
            Some(Power::Mains) => "mains".into(),
            Some(Power::Battery(_)) => "battery".into(),
            None => String::new(),
        },
        battery_percent: match power {
            Some(Power::Battery(percent)) => *percent,
            Some(Power::Mains) | None => None,
        },
        readings_age_s: vitals.filter(|v| v.as_of > 0).map(|v| unix_s.saturating_sub(v.as_of)),
        transfers: machine.store.transfers.iter().map(transfer_to_wire).collect(),
        barred,
    }
}

fn gpu(gpu: &mesh_core::machine::Gpu) -> GpuStatus {
    let (memory_total, memory_available) = gpu.memory.known().map(|c| (c.total.0, c.available.0)).unzip();
    let memory_unknown = if let Reading::Unknown(why) = &gpu.memory { why.clone() } else { String::new() };
    let (state, reason) = match &gpu.state {
        GpuState::Ready => ("ready", String::new()),
        GpuState::Asleep => ("asleep", String::new()),
        GpuState::Broken(fault, why) => (fault.word(), why.clone()),
    };
    let (pool, limited_by) = match &gpu.pool {
        Pool::Discrete { .. } => ("discrete", ""),
        Pool::Unified { limited_by, .. } => ("unified", limited_by.word()),
        Pool::Unknown(_) => ("unknown", ""),
    };
    GpuStatus {
        name: gpu.name.clone(),
        memory_total,
        memory_available,
        memory_unknown,
        state: state.into(),
        reason,
        pool: pool.into(),
        limited_by: limited_by.into(),
    }
}

fn engine(engine: &Engine) -> EngineStatus {
    let (state, reason) = match &engine.state {
        EngineState::Up => ("up", String::new()),
        EngineState::Starting => ("starting", String::new()),
        EngineState::Down(why) => ("down", why.clone()),
    };
    EngineStatus {
        name: engine.name.clone(),
        kind: engine.kind.word().into(),
        version: engine.version.clone().unwrap_or_default(),
        state: state.into(),
        reason,
        supervised: engine.supervised,
        replicas: engine.replicas.iter().map(replica).collect(),
    }
}

fn replica(replica: &Replica) -> ReplicaStatus {
    let failure = if let ReplicaState::Failed(why) = &replica.state { why.clone() } else { String::new() };
    ReplicaStatus {
        model: replica.model.to_string(),
        state: replica.state.word().into(),
        failure,
        slots: replica.slots,
        busy: replica.busy,
        context: replica.context,
        health: replica.health.word().into(),
        health_why: replica.health.why().unwrap_or_default().to_owned(),
    }
}

/// The machines that may serve, with the replica of `model` each has.
fn reachable<'a>(
    view: &'a FleetView,
    model: &'a mesh_core::id::ModelId,
) -> impl Iterator<Item = (&'a MachineView, &'a Engine, &'a Replica)> {
    view.machines
        .iter()
        .filter(|machine| {
            machine.liveness != Liveness::Offline && !machine.draining && machine.path.is_some()
        })
        .filter_map(|machine| machine.replica(model).map(|(engine, replica)| (machine, engine, replica)))
        .filter(|(_, engine, _)| !engine.is_down())
}

fn mode_status(mode: &Mode, snapshot: &Snapshot, traffic: &Traffic<'_>) -> ModeStatus {
    let chain = snapshot.modes.chain(mode);
    let serves = |replica: &Replica, engine: &Engine| {
        replica.health.why().is_none()
            && (replica.state == ReplicaState::Loaded
                || (replica.state == ReplicaState::Available && engine.kind.loads_on_demand()))
    };
    let serving = chain.iter().find_map(|(model, from)| {
        let nodes: Vec<String> = reachable(&snapshot.view, model)
            .filter(|(_, engine, replica)| serves(replica, engine))
            .map(|(machine, _, _)| machine.id.to_string())
            .collect();
        (!nodes.is_empty()).then(|| (model.to_string(), nodes, *from))
    });
    let loading = chain.iter().find(|(model, _)| {
        reachable(&snapshot.view, model).any(|(_, engine, replica)| {
            replica.state == ReplicaState::Loading || engine.state == EngineState::Starting
        })
    });
    let (model, nodes, state, reason) = match (serving, loading) {
        (Some((model, nodes, from)), _) if *from == mode.name => (model, nodes, "ready", String::new()),
        (Some((model, nodes, from)), _) => (model, nodes, "ready", format!("by fallback to {from}")),
        (None, Some((model, _))) => {
            (model.to_string(), Vec::new(), "loading", "its model is being loaded".into())
        }
        (None, None) => {
            let names: Vec<&str> = chain.iter().map(|(model, _)| model.as_str()).collect();
            let on_disk = chain.iter().find_map(|(model, _)| {
                let there = reachable(&snapshot.view, model)
                    .filter(|(_, _, one)| one.state == ReplicaState::Available)
                    .map(|(at, ..)| &at.id);
                // An open machine before a closed one.
                there.min_by_key(|node| snapshot.barred.contains_key(*node)).map(|node| (model, node))
            });
            let (state, reason) = match on_disk {
                Some((model, node)) if traffic.loads_on_demand && !snapshot.barred.contains_key(node) => {
                    ("on-demand", format!("{model} is on the disk of {node}, and loaded when somebody asks"))
                }
                Some((model, node)) => {
                    let barred = snapshot.barred.get(node).map(|why| format!(": {why}"));
                    let why = format!("{model} is on the disk of {node} and in no memory");
                    ("unserved", why + &barred.unwrap_or_default())
                }
                None => ("unserved", format!("no node can serve {}", names.join(" or "))),
            };
            (String::new(), Vec::new(), state, reason)
        }
    };
    let stats = traffic.stats.get(mode.name.as_str()).cloned().unwrap_or_default();
    ModeStatus {
        name: mode.name.to_string(),
        aliases: mode.aliases.iter().map(ToString::to_string).collect(),
        model,
        nodes,
        state: state.into(),
        reason,
        models: mode.models.iter().map(ToString::to_string).collect(),
        fallback: mode.fallback.iter().map(ToString::to_string).collect(),
        ttft_s: stats.ttft_s,
        tokens_per_second: stats.tokens_per_second,
        ok: stats.ok,
        failed: stats.failed,
        waiting: traffic.waiting.get(&Some(mode.name.clone())).copied().unwrap_or_default(),
    }
}

fn models(snapshot: &Snapshot) -> Vec<ModelStatus> {
    let describe = |model: &mesh_core::id::ModelId| {
        let mut status = ModelStatus { name: model.to_string(), ..ModelStatus::default() };
        for machine in &snapshot.view.machines {
            let Some((engine, replica)) = machine.replica(model) else { continue };
            status.parameters = status.parameters.or(replica.parameters);
            status.size = status.size.or(replica.size.map(|size| size.0));
            let offline = machine.liveness == Liveness::Offline;
            status.replicas.push(PlacedReplica {
                node: machine.id.to_string(),
                engine: engine.name.clone(),
                state: if offline { "offline" } else { replica.state.word() }.into(),
                slots: replica.slots,
                busy: replica.busy,
                context: replica.context,
            });
        }
        let modes = snapshot.modes.modes().iter().filter(|mode| mode.models.contains(model));
        status.modes = modes.map(|mode| mode.name.to_string()).collect();
        status
    };
    snapshot.view.model_names().into_iter().map(describe).collect()
}

fn health(
    router: &RouterStatus,
    nodes: &[NodeStatus],
    modes: &[ModeStatus],
    automatic: bool,
) -> Vec<HealthLine> {
    let line = |level: &str, message: String, hint: String| HealthLine { level: level.into(), message, hint };
    let mut lines = Vec::new();
    if nodes.is_empty() {
        lines.push(line(
            "warning",
            "no node has joined yet".into(),
            "meshctl token create --role node".into(),
        ));
    }
    for why in router.plan_stopped.iter().filter(|_| router.plan == "following") {
        lines.push(line("warning", format!("nothing is moved: {why}"), "meshctl plan".into()));
    }
    for node in nodes {
        match node.state.as_str() {
            // A line for each silent engine follows.
            "ready" | "loading" | "idle" | "silent" => {}
            state @ ("drained" | "cordoned") => {
                let resume = format!("meshctl node resume {}", node.name);
                lines.push(line("info", format!("{} is {state}: {}", node.name, node.reason), resume));
            }
            "offline" => {
                lines.push(line("error", format!("{} is offline: {}", node.name, node.reason), String::new()))
            }
            state => lines.push(line(
                "warning",
                format!("{} is {state}: {}", node.name, node.reason),
                String::new(),
            )),
        }
        let alive = matches!(node.state.as_str(), "ready" | "loading" | "idle" | "empty" | "silent");
        if alive && !node.barred.is_empty() {
            let explain = format!("meshctl explain {}", node.name);
            lines.push(line("info", format!("{} takes nothing new: {}", node.name, node.barred), explain));
        }
        lines.extend(machine_lines(node));
        for engine in &node.engines {
            if engine.state == "down" {
                let message = format!("{} on {} does not answer: {}", engine.name, node.name, engine.reason);
                lines.push(line("warning", message, String::new()));
            }
            for replica in engine.replicas.iter().filter(|replica| !replica.health_why.is_empty()) {
                let message = format!(
                    "{} on {} is {}: {}",
                    replica.model, node.name, replica.health, replica.health_why
                );
                let hint = format!("meshctl model unload {} --node {}", replica.model, node.name);
                lines.push(line("error", message, hint));
            }
            for replica in engine.replicas.iter().filter(|replica| replica.state == "failed") {
                let mut message = format!("{} failed on {}: {}", replica.model, node.name, replica.failure);
                let mut hint = format!("meshctl model load {} --node {}", replica.model, node.name);
                if engine.supervised && engine.state == "down" {
                    message.push_str("; its agent starts it again");
                    hint.clear();
                }
                lines.push(line("error", message, hint));
            }
        }
    }
    for mode in modes.iter().filter(|mode| mode.state == "unserved") {
        let message = format!("mode {} is not served: {}", mode.name, mode.reason);
        lines.push(line("error", message, format!("meshctl explain mode={}", mode.name)));
    }
    if automatic && !modes.is_empty() {
        let message = "modes are automatic: each uses the best model found".into();
        lines.push(line("info", message, String::new()));
    }
    lines
}

/// What is wrong with a machine that still serves.
fn machine_lines(node: &NodeStatus) -> Vec<HealthLine> {
    let mut lines = Vec::new();
    let mut say = |level: &str, message: String| {
        let hint = format!("meshctl node show {}", node.name);
        lines.push(HealthLine { level: level.into(), message, hint });
    };
    // A hot machine's line is its state's.
    if node.thermal == "derated" {
        say(
            "warning",
            format!("{} is asked only when nobody else can serve: {}", node.name, node.thermal_why),
        );
    }
    for gpu in &node.gpus {
        match gpu.state.as_str() {
            "ready" | "asleep" | "" => {}
            fault => {
                say("error", format!("{} on {} cannot be used: {fault}, {}", gpu.name, node.name, gpu.reason))
            }
        }
    }
    if let Some(age) = node.readings_age_s.filter(|&age| age > STALE_READINGS_S && node.state != "offline") {
        say("warning", format!("{} has not read its sensors for {age} s: does a driver hang?", node.name));
    }
    for transfer in node.transfers.iter().filter(|transfer| transfer.state == "failed") {
        say("warning", format!("{} did not get {}: {}", node.name, transfer.model, transfer.failure));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_model_is_for_people_to_load_only_where_no_agent_starts_its_engine_again() {
        let of = |supervised: bool, state: &str| {
            let failed = ReplicaStatus {
                model: "m".into(),
                state: "failed".into(),
                failure: "was killed".into(),
                ..ReplicaStatus::default()
            };
            let engine = EngineStatus {
                supervised,
                state: state.into(),
                replicas: vec![failed],
                ..EngineStatus::default()
            };
            let node = NodeStatus {
                name: "a".into(),
                state: "ready".into(),
                engines: vec![engine],
                ..NodeStatus::default()
            };
            let lines = health(&RouterStatus::default(), &[node], &[], false);
            let line = lines.into_iter().find(|line| line.message.starts_with("m failed on a: was killed"));
            let HealthLine { message, hint, .. } = line.expect("a failure is told");
            (message.ends_with("; its agent starts it again"), hint)
        };
        let load = "meshctl model load m --node a".to_owned();
        assert_eq!(of(true, "down"), (true, String::new()));
        assert_eq!(of(true, "up"), (false, load.clone()), "it was given up");
        assert_eq!(of(false, "down"), (false, load));
    }
}
