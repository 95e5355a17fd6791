//! `meshctl wait`: until models, machines, modes or the plan are as somebody needs them.

use super::plan::{fetch as plan, wishes};
use super::status::fetch;
use crate::cli::{Condition, WaitArgs};
use crate::connect::{Operators, Way};
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use mesh_core::id::MachineId;
use mesh_core::placement::{Plan, Stage};
use mesh_core::strategy::Wishes;
use mesh_core::units::human_duration;
use mesh_proto::v1::{NodeStatus, PlanRequest, StatusReply};
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;

/// How long to wait when `--timeout` says nothing.
const USUAL_WAIT: Duration = Duration::from_secs(300);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What `wait --json` prints.
#[derive(Serialize)]
struct Outcome {
    conditions: Vec<String>,
    after_s: f64,
}

/// All that a condition may be about.
#[derive(Default)]
struct Seen {
    status: StatusReply,
    wishes: Wishes,
    plan: Plan,
}

/// # Errors
/// `TimedOut` with the last state when it does not become so in time.
pub(super) async fn run(args: WaitArgs, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let (start, limit) = (Instant::now(), way.timeout.unwrap_or(USUAL_WAIT));
    // `--timeout` bounds the waiting; a single call keeps its own limit.
    let way = Way { timeout: None, ..way.clone() };
    let mut operators = Some(way.dial().await?);
    let mut said = String::new();
    loop {
        let missing = match look(&mut operators, &way, &args.conditions).await {
            Ok(seen) => missing(&seen, &args.conditions),
            // A router that is being restarted comes back; one that was never there does not.
            Err(failure) if !said.is_empty() && is_passing(&failure) => {
                operators = None;
                vec![failure.what]
            }
            Err(failure) => return Err(failure),
        };
        if missing.is_empty() {
            return done(&args.conditions, start.elapsed(), screen);
        }
        let missing = missing.join("; ");
        if start.elapsed() >= limit {
            return Err(late(&args.conditions, &missing, limit));
        }
        if said != missing {
            let line = format!("waiting: {}\n", render::paint::printable(&missing));
            screen.note(&screen.commands(&line));
            said = missing;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A router that stops also refuses: what was proven once is renewed with its credentials.
fn is_passing(failure: &Failure) -> bool {
    matches!(failure.kind, Kind::Unreachable | Kind::TimedOut | Kind::Refused)
}

/// Everything that the conditions are about, and no more.
async fn look(
    operators: &mut Option<Operators>,
    way: &Way,
    conditions: &[Condition],
) -> Result<Seen, Failure> {
    let operators = match operators {
        Some(operators) => operators,
        // A new connection also reads renewed credentials.
        None => operators.insert(way.dial().await?),
    };
    let mut seen = Seen { status: fetch(operators).await?, ..Seen::default() };
    let is_any = |is: fn(&Condition) -> bool| conditions.iter().any(is);
    if is_any(|condition| matches!(condition, Condition::Drained(_))) {
        seen.wishes = wishes(operators).await?.0;
    }
    if is_any(|condition| matches!(condition, Condition::Drained(_) | Condition::PlanComplete)) {
        seen.plan = plan(operators, PlanRequest::default()).await?.plan;
    }
    Ok(seen)
}

/// What is not so yet, each with its state.
fn missing(seen: &Seen, conditions: &[Condition]) -> Vec<String> {
    conditions.iter().filter_map(|condition| state(seen, condition)).collect()
}

/// What stands in the way of one condition; nothing when it is met.
fn state(seen: &Seen, condition: &Condition) -> Option<String> {
    match condition {
        Condition::Loaded(model, node) => {
            // The name of a model may end like that of a machine.
            let is_known = |node: &&MachineId| machine(&seen.status, node).is_some();
            let whole = node.as_ref().map(|node| format!("{model}@{node}"));
            let is_whole = |whole: &&String| seen.status.models.iter().any(|known| known.name == **whole);
            match (node.as_ref().filter(is_known), whole.as_ref().filter(is_whole)) {
                (None, Some(whole)) => loaded(&seen.status, whole, None),
                _ => loaded(&seen.status, model.as_str(), node.as_ref()),
            }
        }
        Condition::NodeReady(node) => match machine(&seen.status, node) {
            None => Some(format!("no node named {node} has joined")),
            Some(known) if known.state == "ready" => None,
            Some(known) => Some(format!("{node} is {}{}", known.state, why(&known.reason))),
        },
        Condition::Drained(node) => drained(seen, node),
        Condition::ModeReady(mode) => {
            let named = |name: &String| name == mode.as_str();
            let is_it = |known: &&mesh_proto::v1::ModeStatus| {
                known.name == mode.as_str() || known.aliases.iter().any(named)
            };
            match seen.status.modes.iter().find(is_it) {
                None => Some(format!("there is no mode {mode}")),
                Some(known) if known.state == "ready" => None,
                Some(known) => Some(format!("mode {mode} is {}{}", known.state, why(&known.reason))),
            }
        }
        Condition::PlanComplete => complete(&seen.plan).or_else(|| coming(seen)),
    }
}

fn machine<'a>(status: &'a StatusReply, name: &MachineId) -> Option<&'a NodeStatus> {
    status.nodes.iter().find(|node| node.name == name.as_str())
}

fn why(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

fn loaded(status: &StatusReply, model: &str, on: Option<&MachineId>) -> Option<String> {
    if let Some(on) = on.filter(|on| machine(status, on).is_none()) {
        return Some(format!("no node named {on} has joined"));
    }
    let mut states = Vec::new();
    for node in status.nodes.iter().filter(|node| on.is_none_or(|on| node.name == on.as_str())) {
        let replicas = node.engines.iter().flat_map(|engine| &engine.replicas);
        for replica in replicas.filter(|replica| replica.model == model) {
            if replica.state == "loaded" {
                return None;
            }
            states.push(format!("{} on {}{}", replica.state, node.name, why(&replica.failure)));
        }
    }
    match states.as_slice() {
        [] => Some(match on {
            Some(on) => format!("{on} has no model {model}"),
            None => format!("no machine has {model}"),
        }),
        states => Some(format!("{model} is {}", states.join(", "))),
    }
}

/// Drained by wish, without requests, and with nothing in memory that the mesh could unload.
fn drained(seen: &Seen, node: &MachineId) -> Option<String> {
    if !seen.wishes.limits(node).drained {
        return Some(format!("{node} is not to be drained: meshctl node drain {node}"));
    }
    // A machine that has left holds nothing.
    let known = machine(&seen.status, node)?;
    if known.in_flight > 0 {
        return Some(format!("{node} answers {} requests", known.in_flight));
    }
    let stays = |model: &str| {
        let placed =
            seen.plan.placed.iter().find(|placed| placed.machine == *node && placed.model.as_str() == model);
        placed.is_some_and(|placed| placed.stage == Stage::Fixed)
    };
    let replicas = known.engines.iter().flat_map(|engine| &engine.replicas);
    let held: Vec<&str> = replicas
        .filter(|replica| matches!(replica.state.as_str(), "loaded" | "loading") && !stays(&replica.model))
        .map(|replica| replica.model.as_str())
        .collect();
    (!held.is_empty()).then(|| format!("{node} still holds {}", held.join(", ")))
}

/// Every mode has what it wants, and it is there.
fn complete(plan: &Plan) -> Option<String> {
    let fatal = plan.problems.iter().find(|problem| problem.fatal);
    if let Some(problem) = fatal {
        return Some(format!("the wishes contradict themselves: {}: {}", problem.key, problem.message));
    }
    let (mut nowhere, mut in_part) = (Vec::new(), Vec::new());
    for unplaced in &plan.unplaced {
        match render::plan::part(unplaced, plan) {
            Some(part) => in_part.push(format!("{} ({part})", unplaced.mode)),
            None => nowhere.push(unplaced.mode.to_string()),
        }
    }
    let lists = [("not placed", nowhere), ("placed in part", in_part)];
    let told = lists.iter().filter(|(_, modes)| !modes.is_empty());
    let told: Vec<String> = told.map(|(words, modes)| format!("{words}: {}", modes.join(", "))).collect();
    if !told.is_empty() {
        return Some(told.join("; "));
    }
    let left = plan.changes.len();
    (left > 0).then(|| format!("{} to go", render::plan::count(left, "change")))
}

/// What is planned and still on its way into memory: for the plan nothing is left to do about it.
fn coming(seen: &Seen) -> Option<String> {
    let placed = seen.plan.placed.iter().filter(|placed| placed.stage != Stage::Fixed);
    let states =
        placed.filter_map(|placed| loaded(&seen.status, placed.model.as_str(), Some(&placed.machine)));
    states.reduce(|all, one| format!("{all}; {one}"))
}

fn shown(conditions: &[Condition]) -> Vec<String> {
    conditions.iter().map(ToString::to_string).collect()
}

fn done(conditions: &[Condition], took: Duration, screen: &Screen) -> Result<(), Failure> {
    if screen.is_json() {
        let outcome = Outcome { conditions: shown(conditions), after_s: took.as_secs_f64() };
        return screen.result(&render::json("mesh.wait/v1", &outcome, false));
    }
    let when =
        if took < LOOK_EVERY { "is so".to_owned() } else { format!("so after {}", human_duration(took)) };
    screen.result(&format!("{}: {when}\n", shown(conditions).join(" ")))
}

fn late(conditions: &[Condition], missing: &str, limit: Duration) -> Failure {
    let what = format!("{} is not so after {}", shown(conditions).join(" "), human_duration(limit));
    let mut failure = Failure::new(Kind::TimedOut, what).cause(missing);
    let mut looks: Vec<&str> = conditions.iter().map(looked_at).collect();
    looks.dedup();
    for look in looks {
        failure = failure.hint(format!("what is in the way: {look}"));
    }
    failure.hint("give it longer: --timeout 30m")
}

/// The command that shows more of it, whether there is something of its name or not.
fn looked_at(condition: &Condition) -> &'static str {
    match condition {
        Condition::Loaded(..) => "meshctl model list",
        Condition::NodeReady(_) | Condition::Drained(_) => "meshctl status",
        Condition::ModeReady(_) => "meshctl mode list",
        Condition::PlanComplete => "meshctl plan",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_proto::v1::{EngineStatus, ModeStatus, ModelStatus, ReplicaStatus};

    fn node(name: &str, state: &str, replicas: &[(&str, &str)]) -> NodeStatus {
        let replica = |(model, state): &(&str, &str)| ReplicaStatus {
            model: (*model).into(),
            state: (*state).into(),
            ..ReplicaStatus::default()
        };
        let replicas = replicas.iter().map(replica).collect();
        NodeStatus {
            name: name.into(),
            state: state.into(),
            engines: vec![EngineStatus { replicas, ..EngineStatus::default() }],
            ..NodeStatus::default()
        }
    }

    fn seen() -> Seen {
        let nodes = vec![
            node("msi", "loading", &[("a", "loading"), ("b", "available"), ("v@msi2", "loaded")]),
            node("strix-1", "ready", &[("a", "loaded")]),
        ];
        let mode = ModeStatus {
            name: "code".into(),
            state: "unserved".into(),
            reason: "no machine has it".into(),
            ..ModeStatus::default()
        };
        let models = vec![ModelStatus { name: "v@msi2".into(), ..ModelStatus::default() }];
        let status = StatusReply { nodes, modes: vec![mode], models, ..StatusReply::default() };
        Seen { status, ..Seen::default() }
    }

    fn stands(seen: &Seen, condition: &str) -> Option<String> {
        state(seen, &condition.parse().expect("a condition"))
    }

    #[test]
    fn each_condition_is_met_or_says_what_it_waits_for() {
        for (condition, waits_for) in [
            ("model=a,loaded", None),
            ("model=a@strix-1,loaded", None),
            ("model=a@msi,loaded", Some("a is loading on msi")),
            ("model=b,loaded", Some("b is available on msi")),
            ("model=c,loaded", Some("no machine has c")),
            ("model=a@nuc,loaded", Some("no node named nuc has joined")),
            ("model=v@msi2,loaded", None),
            ("node=strix-1,ready", None),
            ("node=msi,ready", Some("msi is loading")),
            ("node=nuc,ready", Some("no node named nuc has joined")),
            ("mode=code,ready", Some("mode code is unserved (no machine has it)")),
            ("mode=ask,ready", Some("there is no mode ask")),
            ("plan,complete", None),
        ] {
            assert_eq!(stands(&seen(), condition).as_deref(), waits_for, "{condition}");
        }
    }

    #[test]
    fn a_drained_machine_is_wished_so_answers_nothing_and_holds_nothing() {
        let mut seen = seen();
        let now = |seen: &Seen| stands(seen, "node=msi,drained");
        assert_eq!(now(&seen).as_deref(), Some("msi is not to be drained: meshctl node drain msi"));
        let msi = MachineId::new("msi").expect("valid");
        seen.wishes.machines.entry(msi).or_default().drained = true;
        seen.status.nodes[0].in_flight = 2;
        assert_eq!(now(&seen).as_deref(), Some("msi answers 2 requests"));
        seen.status.nodes[0].in_flight = 0;
        assert_eq!(now(&seen).as_deref(), Some("msi still holds a, v@msi2"));
        seen.status.nodes[0] = node("msi", "empty", &[("a", "available")]);
        assert_eq!(now(&seen), None);
    }
}
