//! `meshctl model rm`: deletes a model from a machine's disk and waits until it is gone.

use super::change::refusal_in;
use super::{LOOK_EVERY, USUAL_WAIT};
use crate::cli::ModelArgs;
use crate::command::node::{machines, read};
use crate::connect::{Operators, Way};
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render::quantity::bytes;
use mesh_core::id::ModelId;
use mesh_core::machine::{Report, StoreRefusal};
use mesh_core::units::human_duration;
use mesh_proto::v1::{DirectReply, DirectRequest};
use tokio::time::Instant;

/// How a refusal to delete begins.
const DELETED: [&str; 1] = ["not deleted"];

/// # Errors
/// `NotFound` for an unknown machine or model, `TimedOut` when it is not gone in time.
pub(super) async fn run(mut args: ModelArgs, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let mut operators = Way { timeout: None, ..way.clone() }.dial().await?;
    let before = report(&mut operators, &args).await?;
    // By the name under which an engine serves it, too: what is deleted is the file.
    if let Some(file) = file_of(&before, &args) {
        args.model = file;
    }
    let (size, old) = (size(&before, &args), refusal_in(&before, &args, &DELETED));
    let request = DirectRequest {
        node: args.node.to_string(),
        action: "delete".into(),
        model: args.model.to_string(),
        ..DirectRequest::default()
    };
    let _: DirectReply = operators.call(|mut client| async move { client.direct(request).await }).await?;
    if args.no_wait {
        return super::report(
            &args,
            "sent",
            "passed on; `meshctl model list` shows what becomes of it",
            screen,
        );
    }
    let (start, limit) = (Instant::now(), way.timeout.unwrap_or(USUAL_WAIT));
    loop {
        let report = report(&mut operators, &args).await?;
        if !is_there(&report, &args) {
            break;
        }
        let refused = refusal_in(&report, &args, &DELETED);
        if let Some(StoreRefusal { reason: why, .. }) =
            refused.filter(|refused| old.as_ref() != Some(refused))
        {
            return Err(
                Failure::new(Kind::Failed, format!("{} did not delete {}", args.node, args.model)).cause(why)
            );
        }
        if start.elapsed() >= limit {
            let what = format!("{} is still on {} after {}", args.model, args.node, human_duration(limit));
            return Err(Failure::new(Kind::TimedOut, what)
                .cause("it is deleted once the requests that use it are answered, or the engine refuses")
                .hint(format!("look again: meshctl node show {}", args.node)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let freed = size.map_or_else(String::new, |size| format!(", {} are free again", bytes(size)));
    super::report(&args, "deleted", &format!("is deleted{freed}"), screen)
}

async fn report(operators: &mut Operators, args: &ModelArgs) -> Result<Report, Failure> {
    match machines(operators, args.node.as_str()).await?.first() {
        Some(machine) => read(machine),
        None => Err(Failure::new(Kind::NotFound, format!("no node named `{}`", args.node))),
    }
}

/// The file that an engine serves under this name.
fn file_of(report: &Report, args: &ModelArgs) -> Option<ModelId> {
    let stored = || report.store.iter().flat_map(|store| &store.models);
    let served = stored().find(|stored| stored.served_as.as_ref() == Some(&args.model))?;
    stored().all(|stored| stored.model != args.model).then(|| served.model.clone())
}

fn size(report: &Report, args: &ModelArgs) -> Option<u64> {
    let stored = report.store.iter().flat_map(|store| &store.models);
    stored.filter(|stored| stored.model == args.model).map(|stored| stored.size.0).next()
}

fn is_there(report: &Report, args: &ModelArgs) -> bool {
    let served = report.engines.iter().flatten().flat_map(|engine| &engine.replicas);
    size(report, args).is_some() || served.into_iter().any(|replica| replica.model == args.model)
}
