//! What machines say of themselves, whole: the machine's report as the router knows it.

use super::node_state::{node_state, path_word};
use mesh_core::fleet::MachineView;
use mesh_core::machine::Report;
use mesh_core::units::Moment;
use mesh_proto::fleet_wire::report_to_wire;
use mesh_proto::v1::MachineReport;

/// One machine with everything that it said last.
pub(super) fn report_of(machine: &MachineView, now: Moment) -> MachineReport {
    let (state, reason) = node_state(machine, now);
    let report = Report {
        hardware: machine.hardware.clone(),
        vitals: machine.vitals.clone(),
        engines: Some(machine.engines.clone()),
        store: Some(machine.store.clone()),
        profile: machine.profile.clone(),
        draining: Some(machine.draining),
    };
    MachineReport {
        node: machine.id.to_string(),
        state: state.into(),
        reason,
        last_heard_ms: u64::try_from(now.since(machine.last_heard).as_millis()).unwrap_or(u64::MAX),
        data_path: path_word(machine),
        report: Some(report_to_wire(&report)),
    }
}
