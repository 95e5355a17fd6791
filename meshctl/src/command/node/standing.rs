//! `meshctl node drain`, `cordon` and `resume`.

use crate::command::names::{no_node, node};
use crate::command::plan::fetch as plan;
use crate::command::status::fetch;
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use mesh_core::id::MachineId;
use mesh_core::placement::{Plan, Stage};
use mesh_proto::v1::{NodeStatus, PlanRequest, SetNodeRequest};
use serde::Serialize;

/// What a person wishes of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Its models leave, elsewhere where there is a place.
    Drain,
    /// What it holds stays, nothing new comes.
    Cordon,
    /// Neither.
    Resume,
}

impl Wish {
    /// The word of the wire.
    fn word(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Cordon => "cordon",
            Self::Resume => "resume",
        }
    }

    /// What the machine is then.
    fn state(self) -> &'static str {
        match self {
            Self::Drain => "drained",
            Self::Cordon => "cordoned",
            Self::Resume => "open",
        }
    }

    /// What becomes of it; of its models when it is drained, `fate` tells.
    fn effect(self) -> &'static str {
        match self {
            Self::Drain => "nothing new comes",
            Self::Cordon => "what it holds stays, nothing new comes",
            Self::Resume => "the plan may use it",
        }
    }
}

/// What `node drain --json` prints.
#[derive(Serialize)]
struct Outcome<'a> {
    node: &'a str,
    /// open, drained, cordoned
    state: &'a str,
    before: &'a str,
    /// Where its models go that leave; empty = to no other machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    leave: Option<&'a [Leaves]>,
}

/// A model that leaves a drained machine.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Leaves {
    model: String,
    to: Vec<String>,
}

/// # Errors
/// `NotFound` for an unknown machine.
pub(super) async fn run(name: &MachineId, wish: Wish, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let mut operators = way.dial().await?;
    let status = fetch(&mut operators).await?;
    if wish != Wish::Resume {
        // A machine that is gone may still be drained, and resumed.
        node(&status, name.as_str())?;
    }
    let request = SetNodeRequest { node: name.to_string(), wish: wish.word().into() };
    let reply = operators.call(|mut client| async move { client.set_node(request).await }).await;
    let known = |failure: Failure| {
        if failure.kind == Kind::NotFound { no_node(&status, name.as_str()) } else { failure }
    };
    let before = reply.map_err(known)?.before;
    if before == wish.state() {
        // Nothing was to be ended there: the name may be mistyped.
        node(&status, name.as_str())?;
    }
    let drained = status.nodes.iter().find(|known| wish == Wish::Drain && known.name == name.as_str());
    let (leave, fate) = match drained {
        Some(node) => {
            let planned = plan(&mut operators, PlanRequest::default()).await?;
            let leave = leaving(node, &planned.plan, &planned.state);
            let fate = fate(node, &leave, &planned.state);
            (Some(leave), fate)
        }
        None => (None, String::new()),
    };
    if screen.is_json() {
        let leave = leave.as_deref();
        let outcome = Outcome { node: name.as_str(), state: wish.state(), before: &before, leave };
        return screen.result(&render::json("mesh.standing/v1", &outcome, false));
    }
    screen.result(&words(name, wish, &screen.look.text(&before), &screen.look.text(&fate)))?;
    if leave.is_some_and(|leave| !leave.is_empty()) {
        screen
            .note(&screen.commands(&format!("until it is empty: meshctl wait --for node={name},drained\n")));
    }
    Ok(())
}

/// The models that leave, and where the plan without this machine has them if the mesh follows one.
fn leaving(node: &NodeStatus, plan: &Plan, state: &str) -> Vec<Leaves> {
    let stays = |model: &str| {
        let mut here = plan.placed.iter().filter(|placed| placed.machine.as_str() == node.name);
        here.any(|placed| placed.model.as_str() == model && placed.stage == Stage::Fixed)
    };
    let to = |model: &str| {
        let elsewhere = plan.placed.iter().filter(|placed| {
            state == "following" && placed.model.as_str() == model && placed.machine.as_str() != node.name
        });
        elsewhere.map(|placed| placed.machine.to_string()).collect()
    };
    let replicas = node.engines.iter().flat_map(|engine| &engine.replicas);
    replicas
        .filter(|one| matches!(one.state.as_str(), "loaded" | "loading") && !stays(&one.model))
        .map(|one| Leaves { model: one.model.clone(), to: to(&one.model) })
        .collect()
}

/// What becomes of its models.
fn fate(node: &NodeStatus, leave: &[Leaves], state: &str) -> String {
    if node.state == "offline" {
        return "it is offline, and its models leave its memory should it come back".to_owned();
    }
    if leave.is_empty() {
        return "it holds nothing that the mesh could unload".to_owned();
    }
    let goes = |one: &Leaves| match one.to.as_slice() {
        [] => format!("{} is planned nowhere else", one.model),
        to => format!("{} goes to {}", one.model, to.join(", ")),
    };
    let places = match (state, leave.iter().all(|one| one.to.is_empty())) {
        ("following", true) => "they are planned nowhere else (why: meshctl plan)".to_owned(),
        ("following", false) => leave.iter().map(goes).collect::<Vec<_>>().join(", "),
        _ => "the mesh follows no plan, so none takes them elsewhere".to_owned(),
    };
    format!("its models leave its memory once their requests are answered; {places}")
}

fn words(name: &MachineId, wish: Wish, before: &str, fate: &str) -> String {
    let state = wish.state();
    let effect = match fate {
        "" => wish.effect().to_owned(),
        fate => format!("{}; {fate}", wish.effect()),
    };
    if before == state {
        return format!("{name} was {state} already: {effect}\n");
    }
    format!("{name} is {state}, it was {before}: {effect}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::fit::{Demand, Offload};
    use mesh_core::id::ModelId;
    use mesh_core::memory::{CacheType, Confidence, Footprint, Parts};
    use mesh_core::placement::Placed;
    use mesh_proto::v1::{EngineStatus, ReplicaStatus};

    #[test]
    fn what_it_was_before_is_told() {
        let name = MachineId::new("strix-1").expect("valid");
        assert_eq!(
            words(&name, Wish::Cordon, "open", ""),
            "strix-1 is cordoned, it was open: what it holds stays, nothing new comes\n"
        );
        assert_eq!(words(&name, Wish::Resume, "open", ""), "strix-1 was open already: the plan may use it\n");
    }

    fn machine(state: &str, models: &[&str]) -> NodeStatus {
        let replica = |model: &&str| ReplicaStatus {
            model: (*model).into(),
            state: "loaded".into(),
            ..ReplicaStatus::default()
        };
        let engine =
            EngineStatus { replicas: models.iter().map(replica).collect(), ..EngineStatus::default() };
        NodeStatus { name: "msi".into(), state: state.into(), engines: vec![engine], ..NodeStatus::default() }
    }

    #[test]
    fn what_becomes_of_the_models_of_a_drained_machine_is_what_the_plan_has() {
        let mut plan = plan_of(&[("strix-1", "a")]);
        let told =
            |node: &NodeStatus, plan: &Plan, state: &str| fate(node, &leaving(node, plan, state), state);
        let leave = "its models leave its memory once their requests are answered; ";
        let both = machine("ready", &["a", "b"]);
        assert_eq!(
            told(&both, &plan, "following"),
            format!("{leave}a goes to strix-1, b is planned nowhere else")
        );
        assert_eq!(
            told(&machine("ready", &["b"]), &plan, "following"),
            format!("{leave}they are planned nowhere else (why: meshctl plan)")
        );
        assert_eq!(
            told(&both, &plan, "off"),
            format!("{leave}the mesh follows no plan, so none takes them elsewhere")
        );
        assert_eq!(
            told(&machine("offline", &["a"]), &plan, "following"),
            "it is offline, and its models leave its memory should it come back"
        );
        let nothing = "it holds nothing that the mesh could unload";
        assert_eq!(told(&machine("ready", &[]), &plan, "following"), nothing);
        plan = plan_of(&[("msi", "a")]);
        assert_eq!(
            told(&machine("ready", &["a"]), &plan, "following"),
            nothing,
            "its configuration has it there"
        );
    }

    fn plan_of(places: &[(&str, &str)]) -> Plan {
        let placed = |(machine, model): &(&str, &str)| Placed {
            machine: MachineId::new(*machine).expect("valid"),
            model: ModelId::new(*model).expect("valid"),
            context: None,
            slots: 1,
            cache: CacheType::F16,
            offload: Offload::Full,
            gpu: None,
            footprint: Footprint {
                device: Parts::default(),
                host: Parts::default(),
                confidence: Confidence::Guessed,
                notes: vec![],
            },
            needs: Demand::default(),
            serves: vec![],
            stage: Stage::Fixed,
            pinned: false,
            digest: None,
            source: None,
            why: String::new(),
        };
        Plan { placed: places.iter().map(placed).collect(), ..Plan::default() }
    }
}
