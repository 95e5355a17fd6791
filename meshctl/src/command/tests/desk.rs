//! The desk of the scripted router: what it plans, what it is wished.

use super::bench::Bench;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::placement::Plan;
use mesh_core::strategy::{Pin, Wishes};
use mesh_proto::v1::{
    DirectRequest, ModeChange, ModeSetting, PinModelRequest, PlanReply, PlanRequest, SetModeReply,
    SetModeRequest, SetNodeRequest, StrategyLine, TrialEvent, TrialRequest, WishesReply,
};
use tonic::Status;

/// All of it; tests write into it.
#[derive(Debug, Clone, Default)]
pub(super) struct Desk {
    /// The plan, whatever is asked.
    pub(super) plan: Plan,
    pub(super) wishes: Wishes,
    /// The strategies that were applied.
    pub(super) applied: Vec<String>,
    /// What was changed by hand.
    pub(super) settings: Vec<ModeSetting>,
    /// The machine, where it is climbed.
    pub(super) bench: Option<Bench>,
}

impl Desk {
    pub(super) fn plan(&self, request: &PlanRequest) -> Result<PlanReply, Status> {
        if request.strategy == "off" {
            return Err(Status::invalid_argument("`off` is for meshctl plan --apply"));
        }
        if !["", "spread"].contains(&request.strategy.as_str()) {
            return Err(Status::not_found(format!("there is no strategy `{}`", request.strategy)));
        }
        let plan_json = serde_json::to_string(&self.plan).expect("JSON");
        Ok(PlanReply { plan_json, state: self.state().into(), next: vec![], stopped: vec![] })
    }

    pub(super) fn apply(&mut self, request: &PlanRequest) {
        if request.strategy == "off" {
            self.applied.clear();
        } else {
            self.applied.push(request.strategy.clone());
        }
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

    pub(super) fn set_mode(&mut self, request: SetModeRequest) -> Result<SetModeReply, Status> {
        let mode = request.mode.trim_start_matches("mesh/").to_owned();
        if mode != "code" && !request.new_mode {
            return Err(Status::not_found(format!("there is no mode `{mode}`; there are code")));
        }
        let before = |name: &str| {
            let known = self.settings.iter().find(|setting| setting.name == name);
            known.map(|setting| setting.value.clone()).unwrap_or_default()
        };
        let change = |name: &String, after: &str| ModeChange {
            name: name.clone(),
            before: before(name),
            after: after.into(),
        };
        let set = request.settings.iter().map(|setting| change(&setting.name, &setting.value));
        let changes = set.chain(request.reset.iter().map(|name| change(name, ""))).collect();
        self.settings.retain(|one| {
            !request.reset_all
                && !request.reset.contains(&one.name)
                && request.settings.iter().all(|setting| setting.name != one.name)
        });
        let settings = request.settings.into_iter();
        self.settings.extend(settings.map(|setting| ModeSetting { mode: mode.clone(), ..setting }));
        let (strategy, state) = ("spread".into(), self.state().into());
        Ok(SetModeReply { mode, strategy, changes, state, warnings: vec![] })
    }

    pub(super) fn direct(&mut self, request: &DirectRequest) {
        if let Some(bench) = &mut self.bench {
            bench.direct(request);
        }
    }

    /// The lines of a trial, and whether it ends with them.
    pub(super) fn trial(&mut self, request: &TrialRequest) -> Result<(Vec<TrialEvent>, bool), Status> {
        let trial = serde_json::from_str(&request.trial_json)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let bench = self.bench.as_mut().ok_or_else(|| Status::failed_precondition("there is no machine"))?;
        bench.trial(&trial)
    }

    pub(super) fn wishes(&self) -> WishesReply {
        let strategy = StrategyLine { name: "spread".into(), ..StrategyLine::default() };
        WishesReply {
            wishes_json: serde_json::to_string(&self.wishes).expect("JSON"),
            strategies: vec![strategy],
            state: self.state().into(),
            settings: self.settings.clone(),
        }
    }

    fn state(&self) -> &'static str {
        if self.applied.is_empty() { "off" } else { "following" }
    }
}
