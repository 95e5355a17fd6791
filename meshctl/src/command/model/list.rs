//! `meshctl model list`: which machine has which model.

use crate::command::node::{machines, read};
use crate::command::plan::wishes;
use crate::connect::Way;
use crate::exit::Failure;
use crate::output::Screen;
use crate::render;
use mesh_core::id::MachineId;
use mesh_core::strategy::Pin;
use mesh_proto::v1::MachineReport;
use serde::Serialize;

/// What `model list --json` prints.
#[derive(Serialize)]
struct Document<'a> {
    machines: &'a [MachineReport],
    /// What stays where it is whatever is planned.
    pins: Vec<&'a Pin>,
}

/// # Errors
/// `NotFound` for an unknown machine.
pub(super) async fn run(node: Option<MachineId>, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let mut operators = way.dial().await?;
    let wanted = node.map(String::from).unwrap_or_default();
    let machines = machines(&mut operators, &wanted).await?;
    let (wishes, _) = wishes(&mut operators).await?;
    if screen.is_json() {
        let is_listed = |pin: &&Pin| wanted.is_empty() || pin.machine.as_str() == wanted;
        let pins = wishes.pins.iter().filter(is_listed).collect();
        return screen.result(&render::json(
            "mesh.models/v1",
            &Document { machines: &machines, pins },
            false,
        ));
    }
    let reports: Vec<_> = machines
        .iter()
        .map(|machine| Ok((machine.node.clone(), read(machine)?)))
        .collect::<Result<_, Failure>>()?;
    screen.result(&screen.commands(&render::models::list(&reports, &wishes.pins, screen.look)))
}
