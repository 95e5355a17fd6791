//! What an evaluation is begun with: what was typed, or a record that goes on.

use super::items::written;
use crate::cli::EvalRunArgs;
use crate::command::hands::profile;
use crate::command::keep::Keep;
use crate::exit::{Failure, Kind};
use mesh_core::exam::{AskError, Item, Record, SCHEMA, Shots, Source, Suite};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Report, StoredModel};
use std::path::Path;

/// What was typed, as a record keeps it.
///
/// # Errors
/// `Usage` where it cannot be meant so.
pub(super) fn source(args: &EvalRunArgs) -> Result<Source, Failure> {
    let suites = if args.suite.is_empty() { Suite::ALL.to_vec() } else { once(&args.suite) };
    if args.items.as_deref().is_some_and(Path::is_file) && suites.len() > 1 {
        let what = "one file has the items of one suite".to_owned();
        return Err(
            Failure::new(Kind::Usage, what).hint("say which: --suite mmlu; or name a folder with all")
        );
    }
    // Where no suite was named, those that cannot be asked so are asked as usual.
    let named = args.suite.iter().find_map(|suite| {
        let variant = args.variant.filter(|variant| !suite.variants().contains(variant))?;
        Some(AskError::NoVariant { suite: *suite, variant })
    });
    if let Some(error) = named {
        return Err(Failure::new(Kind::Usage, error.to_string()));
    }
    Ok(Source {
        suites,
        items: args.items.as_deref().map(written),
        examples: args.examples.as_deref().map(written),
        limit: args.limit.and_then(|limit| usize::try_from(limit).ok()),
        shots: args.shots,
        variant: args.variant,
    })
}

/// Each of `all` once, in the order of their first.
pub(super) fn once<T: Clone + PartialEq>(all: &[T]) -> Vec<T> {
    let mut seen: Vec<T> = Vec::new();
    for one in all {
        if !seen.contains(one) {
            seen.push(one.clone());
        }
    }
    seen
}

/// Those that were asked for go to the suites that have some; the usual number to each, where nothing was asked for.
pub(super) fn shots(suite: Suite, source: &Source, examples: Vec<Item>) -> Result<Shots, Failure> {
    let has_some = suite.usual_shots() > 0 || !examples.is_empty();
    let each = source.shots.filter(|_| has_some || source.suites.len() == 1).unwrap_or(suite.usual_shots());
    Shots::first(each, examples).map_err(|error| {
        Failure::new(Kind::Usage, format!("{} cannot be asked with {each} examples", suite.word()))
            .cause(error.to_string())
    })
}

/// The record of a new evaluation. Its id comes when it is kept.
pub(super) fn fresh(node: &MachineId, model: ModelId, report: &Report, source: Source, at: u64) -> Record {
    let profile = profile(report);
    let is_it = |stored: &&StoredModel| stored.model == model || stored.served_as.as_ref() == Some(&model);
    let stored = report.store.iter().flat_map(|store| &store.models).find(is_it);
    let replicas = report.engines.iter().flatten().flat_map(|engine| &engine.replicas);
    let replica = replicas.into_iter().find(|replica| replica.model == model);
    Record {
        schema: SCHEMA.into(),
        id: String::new(),
        node: node.clone(),
        meshctl: env!("CARGO_PKG_VERSION").into(),
        started_unix_ms: at,
        ended_unix_ms: None,
        hardware: profile.hardware,
        software: profile.software,
        quantisation: stored.and_then(|stored| stored.quantisation.clone()),
        size: stored.map(|stored| stored.size).or_else(|| replica.and_then(|replica| replica.size)),
        digest: stored
            .and_then(|stored| stored.digest.clone())
            .or_else(|| replica.and_then(|replica| replica.digest.clone())),
        model,
        subject: None,
        source,
        baseline: false,
        sittings: Vec::new(),
    }
}

/// The evaluation to go on with.
pub(super) fn resumed(keep: &Keep<Record>, id: &str) -> Result<Record, Failure> {
    if !id.is_empty() {
        return keep.named(Some(id));
    }
    keep.newest(|record| !record.is_complete())?.ok_or_else(|| {
        Failure::new(Kind::NotFound, "no evaluation was ended early")
            .hint("those that there are: meshctl eval list")
    })
}

/// The evaluation as it goes on: what failed is asked again. Of one that is complete only what it found is told again.
///
/// # Errors
/// `Usage` where another file has the model's name now: one figure must not be of two.
pub(super) fn again(record: Record, report: &Report) -> Result<Record, Failure> {
    let now = fresh(&record.node, record.model.clone(), report, record.source.clone(), 0);
    if let (Some(before), Some(now)) = (&record.digest, &now.digest)
        && before != now
    {
        let what = format!("{} is another file now than when it was asked", record.model);
        return Err(Failure::new(Kind::Usage, what)
            .cause(format!("then {before}, now {now}"))
            .hint("begin anew: meshctl eval run, without --resume"));
    }
    let mut record = Record { ended_unix_ms: None, digest: now.digest.or(record.digest), ..record };
    record.sittings.iter_mut().for_each(|sitting| sitting.run.forget_failures());
    Ok(record)
}
