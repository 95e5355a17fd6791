//! `meshctl model`: load and unload, and wait until the machine's own report shows it. The other verbs have
//! files of their own.

mod fit;
mod header;
mod list;
mod pin;
mod pull;
mod remove;

use super::names;
use super::node::{machines, read};
use super::status::fetch;
use crate::cli::{LoadArgs, ModelArgs, ModelCommand};
use crate::connect::{Operators, Way};
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use mesh_core::machine::{Report, StoreRefusal};
use mesh_core::units::human_duration;
use mesh_proto::v1::{DirectReply, DirectRequest, NodeStatus, ReplicaStatus};
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;

/// How long to wait when `--timeout` says nothing: large models come from slow disks.
const USUAL_WAIT: Duration = Duration::from_secs(600);
/// Between two looks at the status.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// An old failure is believed to be the new answer after this long: machines report each second.
const STALE_FAILURE: Duration = Duration::from_secs(5);

/// What `model --json` prints.
#[derive(Serialize)]
struct Outcome<'a> {
    node: &'a str,
    model: &'a str,
    /// As in the status: available, loading, loaded; `sent` with `--no-wait`.
    state: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// With at least so much context, and exactly so many slots, where they are named.
    Load {
        context: Option<u32>,
        slots: Option<u32>,
        /// The cache's type is named; no report tells it.
        cache: bool,
    },
    Unload,
}

/// What the status says about the wish.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Done,
    Under,
    Failed(String),
}

/// # Errors
/// `NotFound` for an unknown node, `TimedOut` when the report does not come, `Failed` with the engine's words.
pub(super) async fn run(command: ModelCommand, way: &Way, screen: &Screen) -> Result<(), Failure> {
    match command {
        ModelCommand::List { node } => list::run(node, way, screen).await,
        ModelCommand::Pull(args) => pull::run(args, way, screen).await,
        ModelCommand::Fit(args) => fit::run(args, way, screen).await,
        ModelCommand::Rm(args) => remove::run(args, way, screen).await,
        ModelCommand::Load(LoadArgs { which, context, slots, cache_type }) => {
            let wish = Wish::Load { context, slots, cache: cache_type.is_some() };
            let request = DirectRequest {
                node: which.node.to_string(),
                action: "load".into(),
                model: which.model.to_string(),
                context,
                slots,
                cache_type: cache_type.unwrap_or_default(),
                ..DirectRequest::default()
            };
            change(wish, which, request, way, screen).await
        }
        ModelCommand::Pin(args) => pin::run(args, true, way, screen).await,
        ModelCommand::Unpin(args) => pin::run(args, false, way, screen).await,
        ModelCommand::Unload(which) => {
            let request = DirectRequest {
                node: which.node.to_string(),
                action: "unload".into(),
                model: which.model.to_string(),
                ..DirectRequest::default()
            };
            change(Wish::Unload, which, request, way, screen).await
        }
    }
}

/// Loads or unloads.
async fn change(
    wish: Wish,
    args: ModelArgs,
    request: DirectRequest,
    way: &Way,
    screen: &Screen,
) -> Result<(), Failure> {
    // `--timeout` bounds the waiting; a single call keeps its own limit.
    let mut operators = Way { timeout: None, ..way.clone() }.dial().await?;
    let before = fetch(&mut operators).await?;
    let node = names::node(&before, args.node.as_str())?;
    let by_cache = matches!(wish, Wish::Load { cache: true, .. });
    // A name that no replica has may be another name of one: the router knows and says so.
    let is_listed = wish != Wish::Unload || replicas(node, args.model.as_str()).next().is_some();
    if progress(wish, node, args.model.as_str()) == Progress::Done && !by_cache && is_listed {
        return done(wish, &args, Duration::ZERO, screen);
    }
    let old_failure = replica_failure(node, args.model.as_str());
    let old_refusal = refusal(&mut operators, &args).await?;
    let _: DirectReply = operators.call(|mut client| async move { client.direct(request).await }).await?;
    if !is_listed {
        return done(wish, &args, Duration::ZERO, screen);
    }
    if args.no_wait {
        return report(&args, "sent", "passed on; `meshctl status` shows what becomes of it", screen);
    }
    let start = Instant::now();
    let limit = way.timeout.unwrap_or(USUAL_WAIT);
    let mut has_moved = !by_cache;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let status = fetch(&mut operators).await?;
        let node = names::node(&status, args.node.as_str())?;
        let is_late = start.elapsed() > STALE_FAILURE;
        match progress(wish, node, args.model.as_str()) {
            Progress::Done if has_moved || is_late => return done(wish, &args, start.elapsed(), screen),
            Progress::Done => {}
            Progress::Failed(why) if old_failure.as_ref() != Some(&why) || is_late => {
                return Err(failed(wish, &args, &why));
            }
            Progress::Failed(_) | Progress::Under => has_moved = true,
        }
        let refused = refusal(&mut operators, &args).await?;
        if let Some(refused) =
            refused.filter(|refused| wish != Wish::Unload && old_refusal.as_ref() != Some(refused))
        {
            return Err(failed(wish, &args, &refused.reason));
        }
        if start.elapsed() >= limit {
            return Err(late(wish, &args, node, limit));
        }
    }
}

fn replicas<'a>(node: &'a NodeStatus, model: &str) -> impl Iterator<Item = &'a ReplicaStatus> {
    node.engines.iter().flat_map(|engine| &engine.replicas).filter(move |replica| replica.model == model)
}

fn replica_failure(node: &NodeStatus, model: &str) -> Option<String> {
    replicas(node, model).find(|replica| replica.state == "failed").map(|replica| replica.failure.clone())
}

/// That the machine keeps the model as it is loaded, or does not load it, where it says so.
async fn refusal(operators: &mut Operators, args: &ModelArgs) -> Result<Option<StoreRefusal>, Failure> {
    let machines = machines(operators, args.node.as_str()).await?;
    let report = machines.first().map(read).transpose()?;
    Ok(report.and_then(|report| refusal_in(&report, args, &["stays as", "not loaded"])))
}

/// What a machine says that it does not do with a model, of those refusals that begin with one of `verbs`.
fn refusal_in(report: &Report, args: &ModelArgs, verbs: &[&str]) -> Option<StoreRefusal> {
    let mut refusals = report.store.iter().flat_map(|store| &store.refusals);
    let is_it = |refusal: &&StoreRefusal| {
        refusal.model == args.model && verbs.iter().any(|verb| refusal.reason.starts_with(verb))
    };
    refusals.find(is_it).cloned()
}

fn progress(wish: Wish, node: &NodeStatus, model: &str) -> Progress {
    let is_any = |word: &str| replicas(node, model).any(|replica| replica.state == word);
    match wish {
        Wish::Load { context, slots, .. } => {
            let enough = |replica: &ReplicaStatus| {
                // What an engine does not tell cannot be waited for.
                let has = |wanted: Option<u32>, told: Option<u32>, is: fn(u32, u32) -> bool| {
                    wanted.zip(told).is_none_or(|(wanted, told)| is(told, wanted))
                };
                has(context, replica.context, |told, wanted| told >= wanted)
                    && has(slots, replica.slots, |told, wanted| told == wanted)
            };
            if replicas(node, model).any(|replica| replica.state == "loaded" && enough(replica)) {
                return Progress::Done;
            }
            if is_any("loaded") || is_any("loading") {
                return Progress::Under;
            }
            replica_failure(node, model).map_or(Progress::Under, Progress::Failed)
        }
        Wish::Unload if is_any("loaded") || is_any("loading") => Progress::Under,
        Wish::Unload => Progress::Done,
    }
}

fn done(wish: Wish, args: &ModelArgs, took: Duration, screen: &Screen) -> Result<(), Failure> {
    let (state, words) = match (wish, took.is_zero()) {
        (Wish::Load { .. }, true) => ("loaded", "was already loaded".to_owned()),
        (Wish::Load { .. }, false) => ("loaded", format!("is loaded after {}", human_duration(took))),
        (Wish::Unload, true) => ("available", "was not loaded".to_owned()),
        (Wish::Unload, false) => ("available", format!("is unloaded after {}", human_duration(took))),
    };
    report(args, state, &words, screen)
}

fn report(args: &ModelArgs, state: &str, words: &str, screen: &Screen) -> Result<(), Failure> {
    if screen.is_json() {
        let outcome = Outcome { node: args.node.as_str(), model: args.model.as_str(), state };
        return screen.result(&render::json("mesh.model/v1", &outcome, false));
    }
    screen.result(&screen.commands(&format!("{} on {}: {words}\n", args.model, args.node)))
}

fn failed(wish: Wish, args: &ModelArgs, why: &str) -> Failure {
    let verb = if wish == Wish::Unload { "unload" } else { "load" };
    // So the agent's refusal says it, with the numbers.
    let kind = if why.contains("does not fit: needs ") { Kind::DoesNotFit } else { Kind::Failed };
    Failure::new(kind, format!("{} did not {verb} {}{}", args.node, args.model, sizes(wish))).cause(why)
}

/// The sizes that were asked for: a machine's words may be about its own.
fn sizes(wish: Wish) -> String {
    let Wish::Load { context, slots, .. } = wish else { return String::new() };
    let context = context.map(|tokens| format!("a context of {tokens} tokens"));
    let slots = slots.map(|slots| format!("{slots} slots"));
    let asked: Vec<String> = context.into_iter().chain(slots).collect();
    if asked.is_empty() { String::new() } else { format!(" with {}", asked.join(" and ")) }
}

fn late(wish: Wish, args: &ModelArgs, node: &NodeStatus, limit: Duration) -> Failure {
    let word = if wish == Wish::Unload { "unloaded" } else { "loaded" };
    let state = replicas(node, args.model.as_str()).map(|replica| replica.state.as_str()).next();
    let cause = match state {
        Some(state) => format!("it is {state} there; the machine is {}", node.state),
        None => format!("no engine of the machine knows this model; the machine is {}", node.state),
    };
    let sizes = sizes(wish);
    let what =
        format!("{} is not {word} on {}{sizes} after {}", args.model, args.node, human_duration(limit));
    Failure::new(Kind::TimedOut, what)
        .cause(cause)
        .hint("the machine goes on; look again with `meshctl status`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_proto::v1::EngineStatus;

    const LOAD: Wish = Wish::Load { context: None, slots: None, cache: false };

    fn machine(replicas: &[(&str, &str)]) -> NodeStatus {
        let replicas = replicas
            .iter()
            .map(|(model, state)| ReplicaStatus {
                model: (*model).into(),
                state: (*state).into(),
                failure: if *state == "failed" { "no memory".into() } else { String::new() },
                ..ReplicaStatus::default()
            })
            .collect();
        NodeStatus {
            name: "msi".into(),
            engines: vec![EngineStatus { replicas, ..EngineStatus::default() }],
            ..NodeStatus::default()
        }
    }

    #[test]
    fn loading_is_done_when_any_engine_has_it_loaded() {
        for (state, expected) in [
            ("loaded", Progress::Done),
            ("loading", Progress::Under),
            ("available", Progress::Under),
            ("failed", Progress::Failed("no memory".into())),
        ] {
            assert_eq!(progress(LOAD, &machine(&[("m", state), ("other", "loaded")]), "m"), expected);
        }
        assert_eq!(progress(LOAD, &machine(&[("m", "failed"), ("m", "loaded")]), "m"), Progress::Done);
    }

    #[test]
    fn loading_in_a_size_is_done_when_it_has_that_size() {
        let mut node = machine(&[("m", "loaded")]);
        let loaded = &mut node.engines[0].replicas[0];
        (loaded.context, loaded.slots) = (Some(4096), Some(2));
        for (context, slots, expected) in [
            (None, None, Progress::Done),
            (Some(4096), Some(2), Progress::Done),
            (Some(2048), None, Progress::Done),
            (Some(8192), None, Progress::Under),
            (None, Some(1), Progress::Under),
        ] {
            let wish = Wish::Load { context, slots, cache: false };
            assert_eq!(progress(wish, &node, "m"), expected, "{wish:?}");
        }
    }

    #[test]
    fn unloading_is_done_when_no_engine_holds_it() {
        for (state, expected) in [
            ("loaded", Progress::Under),
            ("loading", Progress::Under),
            ("available", Progress::Done),
            ("failed", Progress::Done),
        ] {
            assert_eq!(progress(Wish::Unload, &machine(&[("m", state)]), "m"), expected);
        }
        assert_eq!(progress(Wish::Unload, &machine(&[]), "m"), Progress::Done);
    }
}
