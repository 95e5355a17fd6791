//! `meshctl node`: one machine with everything that it says of itself, and what a person wishes of it.

mod standing;

use crate::cli::NodeCommand;
use crate::connect::{Operators, Way};
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use mesh_core::id::MachineId;
use mesh_core::machine::Report;
use mesh_proto::fleet_wire::report_from_wire;
use mesh_proto::v1::{MachineReport, MachinesRequest};

/// # Errors
/// `NotFound` for an unknown machine, or one that has not said what was asked for.
pub(super) async fn run(command: NodeCommand, way: &Way, screen: &Screen) -> Result<(), Failure> {
    match command {
        NodeCommand::Show { node, profile } => show(&node, profile, way, screen).await,
        NodeCommand::Drain { node } => standing::run(&node, standing::Wish::Drain, way, screen).await,
        NodeCommand::Cordon { node } => standing::run(&node, standing::Wish::Cordon, way, screen).await,
        NodeCommand::Resume { node } => standing::run(&node, standing::Wish::Resume, way, screen).await,
    }
}

async fn show(node: &MachineId, profile: bool, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let mut operators = way.dial().await?;
    let machine = machines(&mut operators, node.as_str()).await?.into_iter().next();
    let machine = machine
        .ok_or_else(|| Failure::new(Kind::NotFound, format!("the router said nothing of node `{node}`")))?;
    if profile {
        let json = machine.report.and_then(|report| report.profile_json).filter(|json| json.len() > 2);
        let json = json.ok_or_else(|| {
            Failure::new(Kind::NotFound, format!("{node} has not sent its profile yet"))
                .hint(format!("look whether it is there: meshctl node show {node}"))
        })?;
        // As the machine wrote it, so that a file made of it is the machine's own.
        return screen.result(&(json.trim_end().to_owned() + "\n"));
    }
    if screen.is_json() {
        return screen.result(&render::json("mesh.node/v1", &machine, false));
    }
    let report = read(&machine)?;
    screen.result(&render::node::page(&machine, &report, screen.look))
}

/// What machines say of themselves; `node` is one name, or nothing for all.
pub(super) async fn machines(operators: &mut Operators, node: &str) -> Result<Vec<MachineReport>, Failure> {
    let request = MachinesRequest { node: node.to_owned() };
    let reply = operators.call(|mut client| async move { client.machines(request).await }).await?;
    Ok(reply.machines)
}

/// A machine's report in the core's words.
pub(super) fn read(machine: &MachineReport) -> Result<Report, Failure> {
    report_from_wire(machine.report.clone().unwrap_or_default()).map_err(|error| {
        Failure::new(Kind::Failed, format!("the report of {} is not understood", machine.node))
            .cause(error.to_string())
            .hint("bring meshctl and the router to the same version")
    })
}
