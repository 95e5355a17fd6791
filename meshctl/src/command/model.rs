//! `meshctl model`: load and unload. The other verbs have files of their own.

pub(super) mod change;
pub(super) mod fit;
mod header;
mod list;
mod pin;
mod pull;
mod remove;

use crate::cli::{LoadArgs, ModelArgs, ModelCommand};
use crate::connect::Way;
use crate::exit::Failure;
use crate::output::Screen;
use crate::render;
use change::{Became, Wish, bring_about};
use mesh_core::units::human_duration;
use mesh_proto::v1::DirectRequest;
use serde::Serialize;
use std::time::Duration;

/// How long to wait when `--timeout` says nothing: large models come from slow disks.
const USUAL_WAIT: Duration = Duration::from_secs(600);
/// Between two looks at the status.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// An old failure is believed to be the new answer after this long: a machine tries a load that failed once more after ten
/// seconds, and reports each second.
pub(super) const STALE_FAILURE: Duration = Duration::from_secs(12);

/// What `model --json` prints.
#[derive(Serialize)]
struct Outcome<'a> {
    node: &'a str,
    model: &'a str,
    /// As in the status: available, loading, loaded; `sent` with `--no-wait`.
    state: &'a str,
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

/// Loads or unloads, and tells what became of it.
async fn change(
    wish: Wish,
    args: ModelArgs,
    request: DirectRequest,
    way: &Way,
    screen: &Screen,
) -> Result<(), Failure> {
    // `--timeout` bounds the waiting; a single call keeps its own limit.
    let mut operators = Way { timeout: None, ..way.clone() }.dial().await?;
    let limit = way.timeout.unwrap_or(USUAL_WAIT);
    match bring_about(&mut operators, wish, &args, request, limit).await? {
        Became::WasSo => done(wish, &args, Duration::ZERO, screen),
        Became::After(took) => done(wish, &args, took, screen),
        Became::Sent => report(&args, "sent", "passed on; `meshctl status` shows what becomes of it", screen),
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
