//! The calls about placement: plans, what is wished, drained machines, pins. Decides nothing: the steward plans, the ledger
//! keeps what operators wish.

use super::{OperatorParts, ledger_status, machine};
use crate::config::changes::{Changes, SETTINGS, WORD_LIMIT};
use crate::ledger::NodeWish;
use crate::steward::what_if::{LIMIT, WhatIf};
use crate::steward::wished::{Change, NotChanged};
use crate::steward::{NoPlan, Of, Planned};
use crate::strategies::{NONE, OFF, Strategies};
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::placement::Plan;
use mesh_core::strategy::Pin;
use mesh_proto::v1::{
    ModeChange, ModeSetting, PinModelRequest, PlanReply, PlanRequest, SetModeReply, SetModeRequest,
    SetNodeRequest, StrategyLine, WishesReply,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use tonic::Status;

/// What is shown for a request that applies nothing.
pub(super) async fn plan(parts: &OperatorParts, request: PlanRequest) -> Result<PlanReply, Status> {
    if request.what_if.len() > LIMIT {
        let why = format!("{} suppositions are more than {LIMIT}", request.what_if.len());
        return Err(Status::invalid_argument(why));
    }
    let what_if: Result<Vec<WhatIf>, String> =
        request.what_if.iter().map(|text| WhatIf::read(text)).collect();
    let what_if = what_if.map_err(Status::invalid_argument)?;
    if request.strategy == OFF {
        let why = "`off` is for meshctl plan --apply: it stops the mesh from following its plan";
        return Err(Status::invalid_argument(why));
    }
    let is_supposed = !what_if.is_empty();
    let of = of(parts, &request.strategy).await?;
    let named = !matches!(of, Of::Now);
    let planned = parts.steward.plan(of, what_if).await.map_err(|error| no_plan(&error))?;
    reply(&planned, if named { &request.strategy } else { "" }, is_supposed)
}

/// Has the mesh follow a plan, or stop following.
pub(super) async fn apply(parts: &OperatorParts, request: &PlanRequest) -> Result<PlanReply, Status> {
    if !request.what_if.is_empty() {
        return Err(Status::invalid_argument("a supposition cannot be applied: leave out --what-if"));
    }
    let kept = parts.ledger.wishes().borrow().strategy.clone();
    let (strategy, follows) = if request.strategy == OFF {
        (kept, false)
    } else {
        let of = of(parts, &request.strategy).await?;
        let planned = parts.steward.plan(of, Vec::new()).await.map_err(|error| no_plan(&error))?;
        if let Some(broken) = &planned.broken {
            return Err(Status::failed_precondition(format!("nothing is applied: {broken}")));
        }
        let fatal: Vec<String> = planned
            .plan
            .problems
            .iter()
            .filter(|problem| problem.fatal)
            .map(|problem| format!("{}: {}", problem.key, problem.message))
            .collect();
        if !fatal.is_empty() {
            let why =
                format!("the wishes contradict themselves, so nothing is applied: {}", fatal.join("; "));
            return Err(Status::failed_precondition(why));
        }
        let is_empty = planned.wishes.modes.is_empty() && planned.wishes.pins.is_empty();
        // Leaving a strategy for nothing is no plan to follow.
        if is_empty && request.strategy != NONE {
            let why = "nothing is wished: name a strategy (meshctl plan --apply --strategy auto), or write [modes.*] \
                       into the router's configuration";
            return Err(Status::failed_precondition(why));
        }
        // Leaving a strategy is no plan that could be refused.
        if planned.plan.serves_nobody() && request.strategy != NONE {
            return Err(Status::failed_precondition(serves_nobody(&planned.plan)));
        }
        let named = Some(request.strategy.clone()).filter(|name| !name.is_empty());
        (named.or(kept), !is_empty)
    };
    parts.ledger.set_plan(strategy, Some(follows)).await.map_err(|error| ledger_status(&error))?;
    let planned = parts.steward.plan(Of::Now, Vec::new()).await.map_err(|error| no_plan(&error))?;
    reply(&planned, "", false)
}

/// Why a plan is not to be followed that would leave every mode without a machine: those that are served now would end.
fn serves_nobody(plan: &Plan) -> String {
    let modes: Vec<&str> = plan.unplaced.iter().map(|one| one.mode.as_str()).collect();
    let help = plan.unplaced.iter().find_map(|one| one.would_help.first());
    let help = help.map(|help| format!("; would help: {help}")).unwrap_or_default();
    format!("nothing is applied: no machine could serve any of its modes ({}){help}", modes.join(", "))
}

/// What a strategy's name means: nothing = what is wished now.
async fn of(parts: &OperatorParts, name: &str) -> Result<Of, Status> {
    match name {
        "" => Ok(Of::Now),
        NONE => Ok(Of::Configured),
        name => {
            let found = read(parts).await?.get(name);
            found.map(Of::Strategy).map_err(|complaint| Status::not_found(complaint.to_string()))
        }
    }
}

async fn read(parts: &OperatorParts) -> Result<Strategies, Status> {
    let folder = parts.strategies.clone();
    let read = tokio::task::spawn_blocking(move || Strategies::read(&folder)).await;
    read.map_err(|error| Status::internal(format!("the strategies could not be read: {error}")))
}

fn no_plan(error: &NoPlan) -> Status {
    match error {
        NoPlan::Stopping => Status::unavailable(error.to_string()),
        NoPlan::Senseless(_) => Status::invalid_argument(error.to_string()),
    }
}

fn reply(planned: &Planned, strategy: &str, is_supposed: bool) -> Result<PlanReply, Status> {
    Ok(PlanReply {
        plan_json: json(&planned.plan)?,
        state: state(planned.following).into(),
        next: if is_supposed { Vec::new() } else { next(planned, strategy) },
        stopped: planned.stopped.clone(),
    })
}

fn json(document: &impl Serialize) -> Result<String, Status> {
    serde_json::to_string(document).map_err(|error| Status::internal(error.to_string()))
}

fn state(following: bool) -> &'static str {
    if following { "following" } else { "off" }
}

/// What happens next, for people.
fn next(planned: &Planned, strategy: &str) -> Vec<String> {
    let changes = planned.plan.changes.len();
    if planned.wishes.modes.is_empty() && planned.wishes.pins.is_empty() {
        return vec![
            "nothing is wished: look at a strategy with meshctl plan --strategy auto, or write [modes.*]"
                .into(),
        ];
    }
    if !planned.stopped.is_empty() && planned.following {
        return planned.stopped.iter().map(|why| format!("nothing moves: {why}")).collect();
    }
    match (planned.following, changes) {
        (true, 0) => vec!["nothing: everything is as planned".into()],
        (true, _) => {
            let these =
                if changes == 1 { "this change".to_owned() } else { format!("these {changes} changes") };
            let made = format!("the mesh makes {these}, one after another on each machine");
            std::iter::once(made).chain(planned.waiting.iter().cloned()).collect()
        }
        (false, _) => {
            let named = if strategy.is_empty() { String::new() } else { format!(" --strategy {strategy}") };
            vec![format!("meshctl plan --apply{named} has the mesh do this")]
        }
    }
}

/// Keeps what an operator says of a machine; returns what it was before.
pub(super) async fn set_node(
    parts: &OperatorParts,
    request: &SetNodeRequest,
) -> Result<&'static str, Status> {
    let node = machine(&request.node)?;
    let wish = match request.wish.as_str() {
        "drain" => NodeWish::Drained,
        "cordon" => NodeWish::Cordoned,
        "resume" => NodeWish::Open,
        other => {
            let why = format!("there is no wish `{other}`; there are drain, cordon and resume");
            return Err(Status::invalid_argument(why));
        }
    };
    known(parts, &node).await?;
    let (wishes, _) = parts.steward.wishes().await.map_err(|error| no_plan(&error))?;
    let pins: Vec<&ModelId> =
        wishes.pins.iter().filter(|pin| pin.machine == node).map(|pin| &pin.model).collect();
    if wish == NodeWish::Drained
        && let Some(model) = pins.first()
    {
        let why = format!(
            "`{model}` is pinned to `{node}`, so it cannot be drained: meshctl model unpin {model} --node {node}"
        );
        return Err(Status::failed_precondition(why));
    }
    let limits = wishes.limits(&node);
    let before = match (limits.drained, limits.cordoned) {
        (true, _) => NodeWish::Drained,
        (false, true) => NodeWish::Cordoned,
        (false, false) => NodeWish::Open,
    };
    parts.ledger.set_node(&node, wish).await.map_err(|error| ledger_status(&error))?;
    Ok(before.word())
}

/// Whether there is such a machine: one that was heard, or that joined once.
async fn known(parts: &OperatorParts, node: &MachineId) -> Result<(), Status> {
    let snapshot = parts.fleet.snapshot();
    let mut names = parts.ledger.node_names().await.map_err(|error| ledger_status(&error))?;
    names.extend(snapshot.view.machines.iter().map(|machine| machine.id.clone()));
    if names.contains(node) {
        return Ok(());
    }
    Err(Status::not_found(format!("there is no node `{node}`; there are {}", listed(&names))))
}

fn listed(names: &BTreeSet<MachineId>) -> String {
    let names: Vec<&str> = names.iter().map(MachineId::as_str).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// Pins a model to a machine, or lets it go; returns whether it was so before.
pub(super) async fn pin(parts: &OperatorParts, request: &PinModelRequest) -> Result<bool, Status> {
    let node = machine(&request.node)?;
    let model = ModelId::new(&request.model).map_err(|error| Status::invalid_argument(error.to_string()))?;
    if request.pinned {
        known(parts, &node).await?;
        let snapshot = parts.fleet.snapshot();
        let has = snapshot.view.machine(&node).is_some_and(|machine| {
            let stored = &machine.store.models;
            machine.replica(&model).is_some()
                || stored.iter().any(|one| one.served_as.as_ref().unwrap_or(&one.model) == &model)
        });
        if !has {
            let why =
                format!("node `{node}` has no model `{model}`: meshctl model pull {model} --node {node}");
            return Err(Status::not_found(why));
        }
        let (wishes, _) = parts.steward.wishes().await.map_err(|error| no_plan(&error))?;
        if wishes.limits(&node).drained {
            let why = format!("`{node}` is drained, so nothing stays there: meshctl node resume {node}");
            return Err(Status::failed_precondition(why));
        }
    }
    let pin = Pin { model, machine: node };
    parts.ledger.set_pin(pin, request.pinned).await.map_err(|error| ledger_status(&error))
}

/// Changes settings of a mode by hand, or takes such changes back.
pub(super) async fn set_mode(parts: &OperatorParts, request: SetModeRequest) -> Result<SetModeReply, Status> {
    let refused = |why: String| Status::invalid_argument(why);
    let bare = request.mode.strip_prefix("mesh/").unwrap_or(&request.mode);
    let mode = ModeName::new(bare).map_err(|error| refused(error.to_string()))?;
    let mut settings = BTreeMap::new();
    for ModeSetting { name, value, .. } in request.settings {
        if value.len() > WORD_LIMIT {
            return Err(refused(format!("{name} has {} bytes, more than {WORD_LIMIT}", value.len())));
        }
        if settings.insert(name.clone(), Some(value)).is_some() {
            return Err(refused(format!("{name} is set twice")));
        }
    }
    for name in request.reset {
        if !SETTINGS.contains(&name.as_str()) {
            let shown: String = name.chars().take(64).collect();
            return Err(refused(format!(
                "`{shown}` is no setting of a mode; there are {}",
                SETTINGS.join(", ")
            )));
        }
        if settings.insert(name.clone(), None).is_some() {
            return Err(refused(format!("{name} is set and reset at once")));
        }
    }
    let all: &[&str] = if request.reset_all { &SETTINGS } else { &[] };
    for name in all {
        settings.entry((*name).to_owned()).or_insert(None);
    }
    if settings.is_empty() {
        return Err(refused(format!("name a setting; there are {}", SETTINGS.join(", "))));
    }
    let change = Change { mode, new_mode: request.new_mode, settings };
    let changed = parts.steward.change(change.clone()).await.map_err(|error| match error {
        NotChanged::Stopping => Status::unavailable(error.to_string()),
        NotChanged::Unknown(why) => Status::not_found(why),
        NotChanged::Contradiction(why) => refused(why),
    })?;
    let (strategy, mode) = (changed.strategy.clone(), changed.mode.clone());
    parts.ledger.set_mode(strategy, mode, change.settings).await.map_err(|error| ledger_status(&error))?;
    // Whoever asks next hears of it, and requests go by it.
    let planned = parts.steward.plan(Of::Now, Vec::new()).await.map_err(|error| no_plan(&error))?;
    let told =
        changed.settings.into_iter().filter(|(_, before, after)| !request.reset_all || before != after);
    let warnings = warnings(&planned, &changed.mode);
    Ok(SetModeReply {
        mode: changed.mode.to_string(),
        strategy: Some(changed.strategy).filter(|name| name != NONE).unwrap_or_default(),
        changes: told.map(|(name, before, after)| ModeChange { name, before, after }).collect(),
        state: state(planned.following).into(),
        warnings,
    })
}

/// What is wrong with a mode although it can be wished so.
fn warnings(planned: &Planned, mode: &ModeName) -> Vec<String> {
    let key = format!("modes.{mode}.");
    let problems = planned.plan.problems.iter().filter(|problem| problem.key.starts_with(&key));
    let unplaced = planned.plan.unplaced.iter().filter(|one| one.mode == *mode);
    let unplaced = unplaced.map(|one| {
        let help = one.would_help.first().map(|help| format!("; would help: {help}"));
        format!("no machine can hold it as it is wished now{}", help.unwrap_or_default())
    });
    let told = problems.map(|problem| format!("{}: {}", problem.key, problem.message));
    told.chain(unplaced).chain(planned.broken.clone()).collect()
}

/// What was changed by hand of the modes of this strategy; of those of the configuration where it has no name.
fn settings(parts: &OperatorParts, strategy: &str) -> Vec<ModeSetting> {
    let name = if strategy.is_empty() { NONE } else { strategy };
    let operator = parts.ledger.wishes();
    let operator = operator.borrow();
    let modes = operator.modes.get(name).into_iter().flatten();
    let words = |(mode, changes): (&ModeName, &Changes)| -> Vec<ModeSetting> {
        let setting = |(name, value): (&String, &String)| ModeSetting {
            mode: mode.to_string(),
            name: name.clone(),
            value: value.clone(),
        };
        changes.iter().map(setting).collect()
    };
    modes.flat_map(words).collect()
}

/// Everything that is wished, and the strategies there are.
pub(super) async fn wishes(parts: &OperatorParts) -> Result<WishesReply, Status> {
    let (wishes, following) = parts.steward.wishes().await.map_err(|error| no_plan(&error))?;
    let strategies = read(parts).await?;
    let line = |strategy: &std::sync::Arc<crate::strategies::Strategy>| StrategyLine {
        name: strategy.name.clone(),
        about: strategy.about.clone(),
        source: strategy.source.clone(),
        applied: strategy.name == wishes.strategy,
    };
    Ok(WishesReply {
        wishes_json: json(&wishes)?,
        strategies: strategies.all().map(line).collect(),
        state: state(following).into(),
        settings: settings(parts, &wishes.strategy),
    })
}
