//! The desk of the scripted router: what it plans, what it is wished.

use mesh_core::id::{MachineId, ModelId};
use mesh_core::placement::Plan;
use mesh_core::strategy::{Pin, Wishes};
use mesh_proto::v1::{PinModelRequest, PlanReply, PlanRequest, SetNodeRequest, StrategyLine, WishesReply};
use tonic::Status;

/// All of it; tests write into it.
#[derive(Debug, Clone, Default)]
pub(super) struct Desk {
    /// The plan, whatever is asked.
    pub(super) plan: Plan,
    pub(super) wishes: Wishes,
    /// The strategies that were applied.
    pub(super) applied: Vec<String>,
}

impl Desk {
    pub(super) fn plan(&self, request: &PlanRequest) -> Result<PlanReply, Status> {
        if !["", "spread"].contains(&request.strategy.as_str()) {
            return Err(Status::not_found(format!("there is no strategy `{}`", request.strategy)));
        }
        let plan_json = serde_json::to_string(&self.plan).expect("JSON");
        Ok(PlanReply { plan_json, state: self.state().into(), next: vec![] })
    }

    pub(super) fn apply(&mut self, request: &PlanRequest) {
        self.applied.push(request.strategy.clone());
    }

    pub(super) fn set_node(&mut self, request: &SetNodeRequest) -> &'static str {
        let name = MachineId::new(request.node.as_str()).expect("a good name");
        let limits = self.wishes.machines.entry(name).or_default();
        let before = match (limits.drained, limits.cordoned) {
            (true, _) => "drained",
            (false, true) => "cordoned",
            (false, false) => "open",
        };
        limits.drained = request.wish == "drain";
        limits.cordoned = request.wish == "cordon";
        before
    }

    pub(super) fn pin(&mut self, request: &PinModelRequest) -> bool {
        let model = ModelId::new(request.model.as_str()).expect("a good name");
        let machine = MachineId::new(request.node.as_str()).expect("a good name");
        let pin = Pin { model, machine };
        let changed =
            if request.pinned { self.wishes.pins.insert(pin) } else { self.wishes.pins.remove(&pin) };
        !changed
    }

    pub(super) fn wishes(&self) -> WishesReply {
        let strategy = StrategyLine { name: "spread".into(), ..StrategyLine::default() };
        WishesReply {
            wishes_json: serde_json::to_string(&self.wishes).expect("JSON"),
            strategies: vec![strategy],
            state: self.state().into(),
        }
    }

    fn state(&self) -> &'static str {
        if self.applied.is_empty() { "off" } else { "following" }
    }
}
