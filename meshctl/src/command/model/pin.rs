//! `meshctl model pin` and `unpin`: a model that stays on a machine whatever is planned, or no longer.

use super::change::replicas;
use crate::cli::PinArgs;
use crate::command::names::{no_node, node, unknown};
use crate::command::status::fetch;
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use mesh_proto::v1::{NodeStatus, PinModelRequest, StatusReply};
use serde::Serialize;

/// What `model pin --json` prints.
#[derive(Serialize)]
struct Outcome<'a> {
    node: &'a str,
    model: &'a str,
    pinned: bool,
    was_pinned: bool,
    /// It is there to stay; else a pin waits until it is loaded.
    in_memory: bool,
}

/// # Errors
/// `NotFound` for an unknown machine, or a model that it does not have.
pub(super) async fn run(args: PinArgs, pinned: bool, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let mut operators = way.dial().await?;
    let status = fetch(&mut operators).await?;
    if pinned {
        has(node(&status, args.node.as_str())?, &args, pinned)?;
    }
    let request = PinModelRequest { model: args.model.to_string(), node: args.node.to_string(), pinned };
    let reply = operators.call(|mut client| async move { client.pin_model(request).await }).await;
    let was_pinned = reply.map_err(|failure| named(failure, &status, &args, pinned))?.was_so == pinned;
    if !pinned && !was_pinned {
        // A pin may outlive its machine and its model; where there was none, a name may be mistyped.
        has(node(&status, args.node.as_str())?, &args, pinned)?;
    }
    let in_memory = is_in_memory(&status, &args);
    if screen.is_json() {
        let (node, model) = (args.node.as_str(), args.model.as_str());
        let outcome = Outcome { node, model, pinned, was_pinned, in_memory };
        return screen.result(&render::json("mesh.pin/v1", &outcome, false));
    }
    let words = match (pinned, was_pinned) {
        (true, true) => "was already pinned there",
        (true, false) => "is pinned there from now on; it was not before",
        (false, true) => "is no longer pinned there; the plan decides",
        (false, false) => "was not pinned there",
    };
    screen.result(&format!("{} on {}: {words}\n", args.model, args.node))?;
    if pinned && !in_memory {
        let load = format!("meshctl model load {} --node {}", args.model, args.node);
        screen.note(
            &screen.commands(&format!("it is only on the disk there, and stays once it is loaded: {load}\n")),
        );
    }
    Ok(())
}

fn is_in_memory(status: &StatusReply, args: &PinArgs) -> bool {
    let node = status.nodes.iter().find(|node| node.name == args.node.as_str());
    let mut states = node.into_iter().flat_map(|node| replicas(node, args.model.as_str()));
    states.any(|replica| matches!(replica.state.as_str(), "loaded" | "loading"))
}

/// Names that look like an unknown one, where the router's words leave it at that.
fn named(failure: Failure, status: &StatusReply, args: &PinArgs, pinned: bool) -> Failure {
    match status.nodes.iter().find(|node| node.name == args.node.as_str()) {
        _ if failure.kind != Kind::NotFound || !failure.hints.is_empty() => failure,
        None => no_node(status, args.node.as_str()),
        Some(node) => has(node, args, pinned).err().unwrap_or(failure),
    }
}

fn has(node: &NodeStatus, args: &PinArgs, pinned: bool) -> Result<(), Failure> {
    let replicas = node.engines.iter().flat_map(|engine| &engine.replicas);
    let names = replicas.map(|replica| replica.model.as_str());
    if names.clone().any(|name| name == args.model.as_str()) {
        return Ok(());
    }
    let what = format!("{} has no model named `{}`", args.node, args.model);
    let failure = unknown(args.model.as_str(), what, names, "it has no model at all");
    Err(match pinned {
        true => {
            failure.hint(format!("bring it there: meshctl model pull {} --node {}", args.model, args.node))
        }
        false => failure.hint(format!("which are pinned: meshctl model list --node {}", args.node)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::id::{MachineId, ModelId};
    use mesh_proto::v1::{EngineStatus, ReplicaStatus};

    #[test]
    fn a_pin_holds_what_is_in_memory_and_waits_for_the_rest() {
        let args = |node: &str| PinArgs {
            model: ModelId::new("m").expect("valid"),
            node: MachineId::new(node).expect("valid"),
        };
        for (state, expected) in
            [("loaded", true), ("loading", true), ("available", false), ("failed", false)]
        {
            let replica =
                ReplicaStatus { model: "m".into(), state: state.into(), ..ReplicaStatus::default() };
            let engine = EngineStatus { replicas: vec![replica], ..EngineStatus::default() };
            let msi = NodeStatus { name: "msi".into(), engines: vec![engine], ..NodeStatus::default() };
            let status = StatusReply { nodes: vec![msi], ..StatusReply::default() };
            assert_eq!(is_in_memory(&status, &args("msi")), expected, "{state}");
            assert!(!is_in_memory(&status, &args("strix-1")), "another machine");
        }
    }
}
