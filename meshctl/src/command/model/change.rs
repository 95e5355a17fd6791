//! Models brought into memory and out of it: the wish, and waiting until the machine's own report shows it.

use super::super::names;
use super::super::node::{machines, read};
use super::super::status::fetch;
use super::{LOOK_EVERY, STALE_FAILURE};
use crate::cli::ModelArgs;
use crate::connect::Operators;
use crate::exit::{Failure, Kind};
use crate::render::plan::count;
use mesh_core::machine::{Report, StoreRefusal};
use mesh_core::units::human_duration;
use mesh_proto::v1::{DirectReply, DirectRequest, NodeStatus, ReplicaStatus};
use std::time::Duration;
use tokio::time::Instant;

/// What is wished of a model in a machine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// With at least so much context, and exactly so many slots, where they are named.
    Load {
        /// Tokens of one request.
        context: Option<u32>,
        /// Requests at once.
        slots: Option<u32>,
        /// The cache's type is named; no report tells it.
        cache: bool,
    },
    /// Out of the memory.
    Unload,
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Became {
    /// It was so already.
    WasSo,
    /// It is so, after this time.
    After(Duration),
    /// It is on its way; nobody waits for it.
    Sent,
}

/// What the status says about the wish.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Done,
    Under,
    Failed(String),
}

/// Loads or unloads, and waits for it unless `args` say not to, for `limit` at most.
///
/// # Errors
/// `NotFound` for an unknown node, `TimedOut` when the report does not come, `DoesNotFit` and `Failed` with the machine's words.
pub(crate) async fn bring_about(
    operators: &mut Operators,
    wish: Wish,
    args: &ModelArgs,
    request: DirectRequest,
    limit: Duration,
) -> Result<Became, Failure> {
    let before = fetch(operators).await?;
    let node = names::node(&before, args.node.as_str())?;
    let by_cache = matches!(wish, Wish::Load { cache: true, .. });
    // A name that no replica has may be another name of one: the router knows and says so.
    let is_listed = wish != Wish::Unload || replicas(node, args.model.as_str()).next().is_some();
    let was_so = progress(wish, node, args.model.as_str()) == Progress::Done;
    if was_so && !by_cache && is_listed {
        return Ok(Became::WasSo);
    }
    let old_failure = replica_failure(node, args.model.as_str());
    let old_refusal = refusal(operators, args).await?;
    let _: DirectReply = operators.call(|mut client| async move { client.direct(request).await }).await?;
    if !is_listed {
        return Ok(Became::WasSo);
    }
    if args.no_wait {
        return Ok(Became::Sent);
    }
    let start = Instant::now();
    // A load may begin and end between two looks.
    let mut has_moved = !by_cache || !was_so;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let status = fetch(operators).await?;
        let node = names::node(&status, args.node.as_str())?;
        let is_late = start.elapsed() > STALE_FAILURE;
        match progress(wish, node, args.model.as_str()) {
            Progress::Done if has_moved || is_late => return Ok(Became::After(start.elapsed())),
            Progress::Done => {}
            // It holds nothing; an engine that does not forgive goes on saying so.
            Progress::Failed(_) if wish == Wish::Unload && is_late => {
                return Ok(Became::After(start.elapsed()));
            }
            Progress::Failed(_) if wish == Wish::Unload => {}
            Progress::Failed(why) if old_failure.as_ref() != Some(&why) || is_late => {
                return Err(failed(wish, args, &why));
            }
            Progress::Failed(_) | Progress::Under => has_moved = true,
        }
        let refused = refusal(operators, args).await?;
        if let Some(refused) =
            refused.filter(|refused| wish != Wish::Unload && old_refusal.as_ref() != Some(refused))
        {
            return Err(failed(wish, args, &refused.reason));
        }
        if start.elapsed() >= limit {
            return Err(late(wish, args, node, limit));
        }
    }
}

pub(super) fn replicas<'a>(node: &'a NodeStatus, model: &str) -> impl Iterator<Item = &'a ReplicaStatus> {
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
pub(super) fn refusal_in(report: &Report, args: &ModelArgs, verbs: &[&str]) -> Option<StoreRefusal> {
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
        // It may be started again by itself, and looks broken until somebody wishes something else.
        Wish::Unload => replica_failure(node, model).map_or(Progress::Done, Progress::Failed),
    }
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
    let slots = slots.map(|slots| count(slots as usize, "slot"));
    let asked: Vec<String> = context.into_iter().chain(slots).collect();
    if asked.is_empty() { String::new() } else { format!(" with {}", asked.join(" and ")) }
}

fn late(wish: Wish, args: &ModelArgs, node: &NodeStatus, limit: Duration) -> Failure {
    let word = if wish == Wish::Unload { "unloaded" } else { "loaded" };
    let cause = match replicas(node, args.model.as_str()).next() {
        Some(replica) => {
            let size = if replica.state == "loaded" {
                sizes(Wish::Load { context: replica.context, slots: replica.slots, cache: false })
            } else {
                String::new()
            };
            format!("it is {}{size} there; the machine is {}", replica.state, node.state)
        }
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
    fn a_load_in_a_size_that_does_not_come_tells_the_size_that_is_there() {
        let mut node = machine(&[("m", "loaded")]);
        let loaded = &mut node.engines[0].replicas[0];
        (loaded.context, loaded.slots) = (Some(2048), Some(1));
        node.state = "ready".into();
        let model = mesh_core::id::ModelId::new("m").expect("valid");
        let args =
            ModelArgs { model, node: mesh_core::id::MachineId::new("msi").expect("valid"), no_wait: false };
        let wish = Wish::Load { context: Some(999_999), slots: None, cache: false };
        let failure = late(wish, &args, &node, Duration::from_secs(3));
        assert_eq!(
            failure.cause.as_deref(),
            Some("it is loaded with a context of 2048 tokens and 1 slot there; the machine is ready")
        );
    }

    #[test]
    fn unloading_is_done_when_no_engine_holds_it_or_would_start_it_again() {
        for (state, expected) in [
            ("loaded", Progress::Under),
            ("loading", Progress::Under),
            ("available", Progress::Done),
            ("failed", Progress::Failed("no memory".into())),
        ] {
            assert_eq!(progress(Wish::Unload, &machine(&[("m", state)]), "m"), expected);
        }
        assert_eq!(progress(Wish::Unload, &machine(&[]), "m"), Progress::Done);
    }
}
