//! Why a mode, a model or a machine is as it is: what is wished, what the plan makes of it, and what is in the way.

use super::mode::{self, View, where_it_is};
use super::paint::{self, Look};
use super::plan::{self, changed, mode_obstacles, place, size};
use super::quantity::{bytes, parameters};
use super::wrap::wrapped;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::placement::{Change, MachineAfter, Obstacle, OnDemand, Placed, Plan, Unplaced};
use mesh_core::strategy::{BatteryPolicy, MachineLimits, Wishes};
use mesh_proto::v1::{ModelStatus, NodeStatus, StatusReply};
use serde::Serialize;

/// All that reasons are made of.
#[derive(Clone, Copy)]
pub(crate) struct Mesh<'a> {
    /// What is.
    pub(crate) status: &'a StatusReply,
    /// What is wished.
    pub(crate) wishes: &'a Wishes,
    /// What is to be.
    pub(crate) plan: &'a Plan,
    /// `off` or `following`.
    pub(crate) state: &'a str,
}

/// What `explain MODE --json` prints.
#[derive(Serialize)]
pub(crate) struct OfMode<'a> {
    mode: View<'a>,
    placed: Vec<&'a Placed>,
    unplaced: Option<&'a Unplaced>,
    on_demand: Option<&'a OnDemand>,
    state: &'a str,
}

/// What `explain MODEL --json` prints.
#[derive(Serialize)]
pub(crate) struct OfModel<'a> {
    model: &'a str,
    /// Where it is; absent when no machine has it.
    status: Option<&'a ModelStatus>,
    /// Where a person pinned it.
    pinned: Vec<&'a MachineId>,
    machines: Vec<Reason<'a>>,
    changes: Vec<&'a Change>,
    state: &'a str,
}

/// One machine's reason about a model.
#[derive(Serialize)]
struct Reason<'a> {
    machine: &'a MachineId,
    placed: Option<&'a Placed>,
    why: String,
}

/// What `explain NODE --json` prints.
#[derive(Serialize)]
pub(crate) struct OfNode<'a> {
    node: &'a NodeStatus,
    limits: MachineLimits,
    /// Its pools under the plan, and why it is not open.
    after: Option<&'a MachineAfter>,
    placed: Vec<&'a Placed>,
    changes: Vec<&'a Change>,
    /// Models of unserved modes that are not here.
    obstacles: Vec<&'a Obstacle>,
    state: &'a str,
}

impl<'a> Mesh<'a> {
    /// A mode, for programs.
    pub(crate) fn mode(self, view: View<'a>) -> OfMode<'a> {
        let name = view.name();
        let serves = |placed: &&Placed| placed.serves.iter().any(|serves| serves.mode.as_str() == name);
        OfMode {
            mode: view,
            placed: self.plan.placed.iter().filter(serves).collect(),
            unplaced: self.plan.unplaced.iter().find(|unplaced| unplaced.mode.as_str() == name),
            on_demand: self.plan.on_demand.iter().find(|one| one.mode.as_str() == name),
            state: self.state,
        }
    }

    /// A mode, for people.
    pub(crate) fn mode_page(self, view: View<'a>, look: Look) -> String {
        let of = self.mode(view);
        let mut lines = vec![format!("mode {}", mode::head(view, look)), String::new()];
        lines.extend(mode::places(view, &self.status.models, look));
        for (name, value) in view.wish.map(mode::wanted).unwrap_or_default() {
            lines.extend(field(name, &value, look));
        }
        lines.extend(view.less().iter().flat_map(|less| field("served", less, look)));
        if !of.placed.is_empty() {
            lines.push(String::new());
            lines.extend(plan::models(of.placed.iter().copied(), self.plan, look));
            lines.extend(of.placed.iter().flat_map(|placed| because(placed, look)));
        }
        if let Some(unplaced) = of.unplaced {
            lines.extend([String::new(), paint::bold("Not placed", look.color)]);
            lines.extend(mode_obstacles(unplaced, self.plan, None, look));
        }
        if let Some(on_demand) = of.on_demand {
            lines.push(String::new());
            lines.extend(field("on demand", &place(on_demand), look));
        }
        if of.placed.is_empty() && of.unplaced.is_none() && of.on_demand.is_none() {
            lines.extend([String::new(), "Nothing is planned for it.".to_owned()]);
        }
        lines.extend(self.following());
        lines.join("\n") + "\n"
    }

    /// A model, for programs.
    pub(crate) fn model(self, name: &'a str) -> OfModel<'a> {
        OfModel {
            model: name,
            status: self.status.models.iter().find(|model| model.name == name),
            pinned: self
                .wishes
                .pins
                .iter()
                .filter(|pin| pin.model.as_str() == name)
                .map(|pin| &pin.machine)
                .collect(),
            machines: self.plan.machines.iter().map(|machine| self.reason(machine, name)).collect(),
            changes: self.changes(|_, model| model.as_str() == name),
            state: self.state,
        }
    }

    /// A model, for people.
    pub(crate) fn model_page(self, name: &'a str, look: Look) -> String {
        let of = self.model(name);
        let mut head = vec![format!("model {}", paint::bold(&look.text(name), look.color))];
        if let Some(status) = of.status {
            head.extend(status.size.map(bytes));
            head.extend(status.parameters.map(|count| format!("{} parameters", parameters(count))));
        }
        let mut lines = vec![head.join("   "), String::new()];
        let is = of.status.map(where_it_is).filter(|place| !place.is_empty());
        lines.extend(field("is", &is.unwrap_or_else(|| "on no machine".to_owned()), look));
        let wanted = self.wanted_by(name);
        let wanted = if wanted.is_empty() { "no mode by its name".to_owned() } else { wanted.join(", ") };
        lines.extend(field("wanted by", &wanted, look));
        if !of.pinned.is_empty() {
            let replicas = || of.status.iter().flat_map(|status| &status.replicas);
            let is_in_memory = |node: &str| {
                replicas().any(|one| one.node == node && matches!(one.state.as_str(), "loaded" | "loading"))
            };
            let place = |node: &&MachineId| match is_in_memory(node.as_str()) {
                true => format!("to {node}"),
                false => format!("to {node} once it is loaded there"),
            };
            let places: Vec<String> = of.pinned.iter().map(place).collect();
            lines.extend(field("pinned", &places.join(", "), look));
        }
        if !of.machines.is_empty() {
            lines.push(String::new());
        }
        let width = of.machines.iter().map(|reason| reason.machine.as_str().len()).max().unwrap_or(0) + 2;
        for reason in &of.machines {
            let verb = if reason.placed.is_some() { "placed" } else { "not placed" };
            let start = format!("{:<width$}{verb:<12}", reason.machine.as_str());
            lines.extend(wrapped(&start, &look.text(&reason.why), look));
        }
        lines.extend(self.change_lines(&of.changes, look));
        lines.extend(self.following());
        lines.join("\n") + "\n"
    }

    /// A machine, for programs.
    pub(crate) fn node(self, node: &'a NodeStatus) -> OfNode<'a> {
        let is_here = |machine: &MachineId| machine.as_str() == node.name;
        let obstacles = self.plan.unplaced.iter().flat_map(|unplaced| &unplaced.obstacles);
        let limits = self.wishes.machines.iter().find(|(machine, _)| is_here(machine));
        OfNode {
            node,
            limits: limits.map(|(_, limits)| limits.clone()).unwrap_or_default(),
            after: self.plan.machines.iter().find(|after| is_here(&after.machine)),
            placed: self.plan.placed.iter().filter(|placed| is_here(&placed.machine)).collect(),
            changes: self.changes(|machine, _| is_here(machine)),
            obstacles: obstacles.filter(|obstacle| is_here(&obstacle.machine)).collect(),
            state: self.state,
        }
    }

    /// A machine, for people.
    pub(crate) fn node_page(self, node: &'a NodeStatus, look: Look) -> String {
        let of = self.node(node);
        let (state, paint) = paint::state(&node.state, look);
        let name = paint::bold(&look.text(&node.name), look.color);
        let mut head = format!("node {name}   {}", paint.on(&state, look.color));
        if !node.reason.is_empty() {
            head.push_str(&format!(": {}", look.text(&node.reason)));
        }
        let mut lines = vec![head, String::new()];
        let standing = match of.after.map(|after| after.barred.as_str()) {
            None => "the plan does not know it yet".to_owned(),
            Some("") => "open: the plan may use it".to_owned(),
            Some(barred) => format!("nothing new comes: {barred}"),
        };
        lines.extend(field("standing", &standing, look));
        for (at, text) in limits(&of.limits, &node.name).iter().enumerate() {
            lines.extend(field(if at == 0 { "limits" } else { "" }, text, look));
        }
        if !of.placed.is_empty() {
            lines.push(String::new());
            lines.extend(plan::models(of.placed.iter().copied(), self.plan, look));
            lines.extend(of.placed.iter().flat_map(|placed| because(placed, look)));
        }
        if let Some(after) = of.after.filter(|after| !after.pools.is_empty()) {
            lines.push(String::new());
            let open = MachineAfter { barred: String::new(), ..after.clone() };
            lines.extend(plan::pools(&[open], look));
        }
        lines.extend(self.change_lines(&of.changes, look));
        if !of.obstacles.is_empty() {
            lines.extend([String::new(), paint::bold("Not here", look.color)]);
            for obstacle in &of.obstacles {
                let start = format!("  {}: ", look.text(obstacle.model.as_str()));
                lines.extend(wrapped(&start, &look.text(&obstacle.why), look));
            }
        }
        lines.extend(self.following());
        let command = format!("meshctl node show {}", look.text(&node.name));
        lines.push(String::new());
        lines.push(format!("all that it says of itself: {}", paint::cyan(&command, look.color)));
        lines.join("\n") + "\n"
    }

    fn changes(self, is_it: impl Fn(&MachineId, &ModelId) -> bool) -> Vec<&'a Change> {
        let of = |change: &&Change| match change {
            Change::Fetch { model, machine, .. }
            | Change::Load { model, machine, .. }
            | Change::Resize { model, machine }
            | Change::Unload { model, machine, .. } => is_it(machine, model),
        };
        self.plan.changes.iter().filter(of).collect()
    }

    fn change_lines(self, changes: &[&Change], look: Look) -> Vec<String> {
        if changes.is_empty() {
            return Vec::new();
        }
        let mut lines = vec![String::new(), paint::bold("Changes", look.color)];
        lines.extend(changes.iter().flat_map(|change| changed(change, self.plan, look)));
        lines
    }

    /// Why `model` is or is not on one machine.
    fn reason(self, after: &'a MachineAfter, model: &str) -> Reason<'a> {
        let machine = &after.machine;
        let placed = self.plan.on(machine).find(|placed| placed.model.as_str() == model);
        let obstacles = || self.plan.unplaced.iter().flat_map(|unplaced| &unplaced.obstacles);
        let obstacle = obstacles().find(|one| one.machine == *machine && one.model.as_str() == model);
        let elsewhere: Vec<&str> = self
            .plan
            .placed
            .iter()
            .filter(|placed| placed.model.as_str() == model)
            .map(|placed| placed.machine.as_str())
            .collect();
        let why = match (placed, obstacle) {
            (Some(placed), _) => {
                let modes: Vec<&str> = placed.serves.iter().map(|serves| serves.mode.as_str()).collect();
                let used =
                    if modes.is_empty() { String::new() } else { format!("for {}: ", modes.join(", ")) };
                format!("{used}{}", placed.why)
            }
            (None, Some(obstacle)) => obstacle.why.clone(),
            (None, None) if !after.barred.is_empty() => format!("nothing new comes: {}", after.barred),
            (None, None) if !elsewhere.is_empty() => format!("not needed: it is on {}", elsewhere.join(", ")),
            (None, None) if self.wanted_by(model).is_empty() => "no mode wants it".to_owned(),
            (None, None) => "the modes that want it are served otherwise".to_owned(),
        };
        Reason { machine, placed, why }
    }

    fn wanted_by(self, model: &str) -> Vec<&'a str> {
        let wants = |models: &[ModelId]| models.iter().any(|wanted| wanted.as_str() == model);
        let modes = self.wishes.modes.iter().filter(|wish| wants(&wish.models));
        modes.map(|wish| wish.mode.as_str()).collect()
    }

    /// A reader may take the plan for what is.
    fn following(self) -> Vec<String> {
        if self.state == "following" {
            return Vec::new();
        }
        let text = "The mesh follows no plan: nothing is moved. Follow it: meshctl plan --apply";
        vec![String::new(), text.to_owned()]
    }
}

/// `name        value`
fn field(name: &str, value: &str, look: Look) -> Vec<String> {
    wrapped(&format!("{name:<12}"), &look.text(value), look)
}

/// `# strix-1: qwen3:32b (64k × 1), it is there; 1 other machine could`
fn because(placed: &Placed, look: Look) -> Vec<String> {
    let start = format!("# {} on {} ({}): ", placed.model, placed.machine, size(placed, look));
    wrapped(&start, &look.text(&placed.why), look)
}

/// What a machine does not give, in words.
fn limits(limits: &MachineLimits, name: &str) -> Vec<String> {
    let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    let mut lines = Vec::new();
    if limits.drained {
        lines.push(format!("drained by a person: its models leave; back: meshctl node resume {name}"));
    } else if limits.cordoned {
        lines.push(format!("cordoned by a person: what it holds stays; back: meshctl node resume {name}"));
    }
    for (held, of) in [(limits.reserve_ram, "RAM"), (limits.reserve_vram, "each graphics memory")] {
        if held.0 > 0 {
            lines.push(format!("{held} of {of} are the human's"));
        }
    }
    lines.extend(
        limits.max_temperature.map(|most| format!("nothing new above {:.0} degrees Celsius", most.0)),
    );
    for quiet in &limits.quiet {
        lines.push(format!("quiet from {} to {}", clock(quiet.from), clock(quiet.until)));
    }
    match limits.on_battery {
        BatteryPolicy::Hold => {}
        BatteryPolicy::Allow => lines.push("on its battery as on mains".to_owned()),
        BatteryPolicy::Leave => lines.push("on its battery its models go elsewhere".to_owned()),
    }
    if !limits.labels.is_empty() {
        let labels: Vec<&str> = limits.labels.iter().map(String::as_str).collect();
        lines.push(format!("labels: {}", labels.join(", ")));
    }
    lines
}
