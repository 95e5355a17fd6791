//! `meshctl plan`: what would be where by a strategy or by what is wished now, and making it so.

use super::names::unknown;
use crate::cli::PlanArgs;
use crate::connect::{Operators, Way};
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use crate::render::plan::{Asked, Page, count, is_contradictory, is_empty, unserved};
use mesh_core::placement::{Change, Plan};
use mesh_core::strategy::Wishes;
use mesh_core::units::Bytes;
use mesh_proto::v1::{PlanReply, PlanRequest, StrategyLine, WishesReply, WishesRequest};

/// The JSON that `plan --json` prints.
const SCHEMA: &str = "mesh.plan/v1";
/// The word that stops the mesh from following its plan.
const OFF: &str = "off";

/// A plan and what becomes of it.
pub(super) struct Planned {
    /// The plan.
    pub(super) plan: Plan,
    /// `off` or `following`.
    pub(super) state: String,
    next: Vec<String>,
    stopped: Vec<String>,
}

/// # Errors
/// `DoesNotFit` when a mode does not get what it wants, `Failed` for wishes that contradict themselves or are none to
/// apply, `NotFound` for an
/// unknown strategy, `Usage` for `--apply` without anybody to ask.
pub(super) async fn run(args: PlanArgs, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let mut operators = way.dial().await?;
    if args.apply && args.strategy.as_deref() == Some(OFF) {
        return stop(&args, &mut operators, screen).await;
    }
    let request =
        PlanRequest { strategy: args.strategy.clone().unwrap_or_default(), what_if: args.what_if.clone() };
    let planned = match fetch(&mut operators, request.clone()).await {
        Err(failure) if failure.kind == Kind::NotFound => {
            return Err(known(failure, &request.strategy, &mut operators).await);
        }
        planned => planned?,
    };
    let asked = Asked {
        strategy: args.strategy.as_deref(),
        assumed: !args.what_if.is_empty(),
        applied: false,
        verbose: args.verbose,
    };
    if !args.apply {
        show(&planned, asked, &mut operators, screen).await?;
        return verdict(&planned.plan, asked);
    }
    let (is_contradictory, is_empty) = (is_contradictory(&planned.plan), is_empty(&planned.plan));
    if !screen.is_json() && (is_contradictory || is_empty) {
        show(&planned, asked, &mut operators, screen).await?;
    } else if !screen.is_json() {
        screen.result(&screen.commands(&page(&planned, &[], asked).proposal(screen.look)))?;
    }
    if is_contradictory {
        return verdict(&planned.plan, asked);
    }
    if is_empty {
        return Err(Failure::new(Kind::Failed, "nothing is wished, so there is nothing to apply")
            .hint("by a strategy: meshctl plan --strategy NAME --apply"));
    }
    if !args.yes {
        screen.agreed(&question(&planned.plan), "--yes").await?;
    }
    let reply = operators.call(|mut client| async move { client.apply_plan(request).await }).await?;
    let applied = read(reply)?;
    let asked = Asked { applied: true, ..asked };
    // The mesh may have changed while the question was read.
    if screen.is_json() || applied.plan.placed != planned.plan.placed {
        show(&applied, asked, &mut operators, screen).await?;
    } else {
        let page = page(&applied, &[], asked);
        screen.result(&screen.commands(&format!("\n{}", page.conclusion(screen.look))))?;
    }
    verdict(&applied.plan, asked)
}

/// Has the mesh stop following its plan.
async fn stop(args: &PlanArgs, operators: &mut Operators, screen: &Screen) -> Result<(), Failure> {
    if !args.yes {
        screen.agreed("Stop following the plan? What is loaded stays.", "--yes").await?;
    }
    let request = PlanRequest { strategy: OFF.into(), ..PlanRequest::default() };
    let reply = operators.call(|mut client| async move { client.apply_plan(request).await }).await?;
    let stopped = read(reply)?;
    if screen.is_json() {
        let asked = Asked { applied: true, ..Asked::default() };
        return screen.result(&render::json(SCHEMA, &page(&stopped, &[], asked).document(), false));
    }
    let text = "The mesh follows no plan from now on: what is loaded stays, and nothing is moved.\n";
    screen.result(text)?;
    screen.note(&screen.commands("to follow one again: meshctl plan --apply\n"));
    Ok(())
}

/// Asks for a plan.
pub(super) async fn fetch(operators: &mut Operators, request: PlanRequest) -> Result<Planned, Failure> {
    read(operators.call(|mut client| async move { client.plan(request).await }).await?)
}

/// Asks for the wishes.
pub(super) async fn wishes(operators: &mut Operators) -> Result<(Wishes, WishesReply), Failure> {
    let reply = operators.call(|mut client| async move { client.wishes(WishesRequest {}).await }).await?;
    let wishes = serde_json::from_str(&reply.wishes_json).map_err(|error| not_understood(&error))?;
    Ok((wishes, reply))
}

/// The strategies that there are, where it was the strategy's name that was not found.
async fn known(failure: Failure, strategy: &str, operators: &mut Operators) -> Failure {
    let strategies = match wishes(operators).await {
        Ok((_, reply)) => reply.strategies,
        Err(_) => return failure,
    };
    let names = strategies.iter().map(|strategy| strategy.name.as_str());
    if strategy.is_empty() || names.clone().any(|name| name == strategy) {
        return failure;
    }
    unknown(strategy, failure.what, names, "there are no strategies")
}

fn read(reply: PlanReply) -> Result<Planned, Failure> {
    let plan = serde_json::from_str(&reply.plan_json).map_err(|error| not_understood(&error))?;
    Ok(Planned { plan, state: reply.state, next: reply.next, stopped: reply.stopped })
}

fn not_understood(error: &serde_json::Error) -> Failure {
    Failure::new(Kind::Failed, "the router's answer is not understood")
        .cause(error.to_string())
        .hint("bring meshctl and the router to the same version")
}

fn page<'a>(planned: &'a Planned, strategies: &'a [StrategyLine], asked: Asked<'a>) -> Page<'a> {
    let Planned { plan, state, next, stopped } = planned;
    Page { plan, state, next, stopped, strategies, asked }
}

async fn show(
    planned: &Planned,
    asked: Asked<'_>,
    operators: &mut Operators,
    screen: &Screen,
) -> Result<(), Failure> {
    if screen.is_json() {
        return screen.result(&render::json(SCHEMA, &page(planned, &[], asked).document(), false));
    }
    // Who wishes nothing wants to know what could be wished.
    let strategies = if is_empty(&planned.plan) { wishes(operators).await?.1.strategies } else { Vec::new() };
    screen.result(&screen.commands(&page(planned, &strategies, asked).text(screen.look)))
}

/// `Apply it: 2 loads, 1 unload?`
fn question(plan: &Plan) -> String {
    let (mut fetches, mut bytes, mut loads, mut unloads) = (0, 0_u64, 0, 0);
    for change in &plan.changes {
        match change {
            Change::Fetch { size, .. } => {
                fetches += 1;
                bytes = bytes.saturating_add(size.0);
            }
            Change::Load { .. } | Change::Resize { .. } => loads += 1,
            Change::Unload { .. } => unloads += 1,
        }
    }
    let fetched = format!("{} to fetch ({})", count(fetches, "file"), Bytes(bytes));
    let parts = [
        (fetches > 0).then_some(fetched),
        (loads > 0).then(|| format!("{} to load", count(loads, "model"))),
        (unloads > 0).then(|| format!("{} to unload", count(unloads, "model"))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match parts.as_slice() {
        [] => "Apply it? Nothing has to change now.".to_owned(),
        parts => format!("Apply it: {}?", parts.join(", ")),
    }
}

fn verdict(plan: &Plan, asked: Asked<'_>) -> Result<(), Failure> {
    if is_contradictory(plan) {
        let fatal = plan.problems.iter().filter(|problem| problem.fatal);
        let said: Vec<String> =
            fatal.map(|problem| format!("{}: {}", problem.key, problem.message)).collect();
        return Err(Failure::new(Kind::Failed, "the wishes contradict themselves").cause(said.join("; ")));
    }
    let Some(first) = plan.unplaced.first() else { return Ok(()) };
    let (missing, all) = unserved(plan);
    let is = if missing == 1 { "is" } else { "are" };
    let what = format!("{missing} of {} {is} not placed as wished", count(all, "mode"));
    let failure = Failure::new(Kind::DoesNotFit, what);
    // What was asked for with every reason has told them.
    Err(match asked.verbose {
        true => failure,
        false => failure.hint(format!("every reason: {}", asked.reasons(&first.mode))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::id::{MachineId, ModelId};

    #[test]
    fn the_question_counts_what_happens() {
        let machine = MachineId::new("msi").expect("valid");
        let model = ModelId::new("m").expect("valid");
        let mut plan = Plan::default();
        assert_eq!(question(&plan), "Apply it? Nothing has to change now.");
        plan.changes = vec![
            Change::Fetch { model: model.clone(), machine: machine.clone(), size: Bytes(3 << 30) },
            Change::Load { model: model.clone(), machine: machine.clone(), seconds: 3 },
            Change::Resize { model: model.clone(), machine: machine.clone() },
            Change::Unload { model, machine, why: "x".into() },
        ];
        assert_eq!(
            question(&plan),
            "Apply it: 1 file to fetch (3 GiB), 2 models to load, 1 model to unload?"
        );
    }
}
