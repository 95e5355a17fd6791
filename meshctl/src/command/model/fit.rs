//! `meshctl model fit`: which machines can hold a model now, counted here from its header and their own reports.

use super::header;
use crate::cli::{FitArgs, FitSource};
use crate::command::hands::profile;
use crate::command::node::{machines, read};
use crate::connect::{Operators, Way};
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use crate::render::fit::{Answer, Verdict};
use mesh_core::fit::{Margin, Pools, plan};
use mesh_core::id::ModelId;
use mesh_core::machine::{Replica, ReplicaState, Report};
use mesh_core::memory::{Options, Shape};
use mesh_core::units::Bytes;
use mesh_proto::v1::{MachineReport, ModelShapeRequest};
use std::time::Duration;

/// A header comes from another machine's disk, which may sleep.
const USUAL_LIMIT: Duration = Duration::from_secs(60);
/// Tokens of one request where a machine does not say how it starts models.
const USUAL_CONTEXT: u32 = 16_384;

/// # Errors
/// `DoesNotFit` when it fits nowhere; `NotFound` for an unknown model, file or machine, or a mesh without machines.
pub(super) async fn run(args: FitArgs, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let timeout = Some(way.timeout.unwrap_or(USUAL_LIMIT));
    let mut operators = Way { timeout, ..way.clone() }.dial().await?;
    let node = args.node.as_ref().map_or("", |node| node.as_str());
    let machines = machines(&mut operators, node).await?;
    if machines.is_empty() {
        return Err(Failure::new(Kind::NotFound, "no machine has joined yet")
            .hint("add one: meshctl token create --role node"));
    }
    let (shape, name) = shape(&args, &mut operators).await?;
    let verdicts: Vec<Verdict> =
        machines.iter().map(|machine| verdict(&args, &shape, machine)).collect::<Result<_, Failure>>()?;
    let fits = verdicts.iter().any(|verdict| verdict.answer == Answer::Yes);
    let page = render::fit::Page { model: name, shape: &shape, cache: args.cache_type, machines: verdicts };
    if screen.is_json() {
        screen.result(&render::json("mesh.fit/v1", &page.document(), false))?;
    } else {
        screen.result(&screen.commands(&page.text(screen.look)))?;
    }
    if fits {
        return Ok(());
    }
    let place =
        if node.is_empty() { "on no machine of the mesh".to_owned() } else { format!("not on {node}") };
    Err(Failure::new(Kind::DoesNotFit, format!("{} fits {place} now", page.model)))
}

/// The model's shape and its name for people.
async fn shape(args: &FitArgs, operators: &mut Operators) -> Result<(Shape, String), Failure> {
    let header = match &args.model {
        FitSource::File(path) => (header::of_file(path).await?, path.display().to_string()),
        FitSource::Url(url) => {
            let name = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or("the model");
            (header::of_url(url).await?, name.to_owned())
        }
        FitSource::Model(model) => {
            // On whichever machine has it: `--node` says where it would be loaded.
            let shape = shape_of(model, operators).await.map_err(|failure| {
                if failure.kind != Kind::NotFound {
                    return failure;
                }
                failure
                    .hint("models that only an engine such as Ollama keeps cannot be read; name a URL or a file")
                    .hint("what there is: meshctl model list")
            })?;
            return Ok((shape, model.to_string()));
        }
    };
    let (header, name) = header;
    let shape = Shape::from_header(&header).map_err(|error| {
        Failure::new(Kind::Failed, format!("{name} is no language model")).cause(error.to_string())
    })?;
    Ok((shape, name))
}

/// The shape of a model that a machine of the mesh has on its disk.
///
/// # Errors
/// `NotFound` where none has, and what keeps the router from answering.
pub(in crate::command) async fn shape_of(
    model: &ModelId,
    operators: &mut Operators,
) -> Result<Shape, Failure> {
    let request = ModelShapeRequest { model: model.to_string(), node: String::new() };
    let reply = operators.call(|mut client| async move { client.model_shape(request).await }).await?;
    serde_json::from_str(&reply.shape_json).map_err(|error| {
        Failure::new(Kind::Failed, "the router's answer is not understood")
            .cause(error.to_string())
            .hint("bring meshctl and the router to the same version")
    })
}

/// The memory that a machine's own engine can use; `None` = it has not told it.
pub(in crate::command) fn pools(report: &Report) -> Option<Pools> {
    let pools = Pools::of(report.vitals.as_ref()?);
    let launch = report.hardware.as_ref().and_then(|hardware| hardware.launch.as_ref());
    Some(match launch.filter(|launch| !launch.uses_gpu) {
        None => pools,
        Some(launch) => pools.host_only(&format!("its engine ({}) uses the processor only", launch.program)),
    })
}

fn verdict(args: &FitArgs, shape: &Shape, machine: &MachineReport) -> Result<Verdict, Failure> {
    let report = read(machine)?;
    let unknown = |why: &str| Ok(Verdict::unknown(&machine.node, why));
    if machine.state == "offline" {
        return unknown(&format!("it is {}", machine.state));
    }
    let Some(mut pools) = pools(&report) else { return unknown("it has not told its memory yet") };
    let launch = report.hardware.as_ref().and_then(|hardware| hardware.launch.clone());
    let mut notes = Vec::new();
    if launch.is_none() {
        notes.push(
            "it has no engine of its own to load with; there: mesh-agent install-engine, or `program` under [launch] in \
             agent.toml"
                .to_owned(),
        );
    }
    if let Some(memory) = loaded(args, &report).and_then(|replica| replica.memory) {
        pools.give_back(memory.device, memory.host);
        notes.push("loaded there now; counted as if it were not".to_owned());
    }
    let trained = shape.trained_context.and_then(|tokens| u32::try_from(tokens).ok()).unwrap_or(u32::MAX);
    let usual = launch.as_ref().map_or(USUAL_CONTEXT, |launch| launch.context).min(trained.max(1));
    let wanted = args.context.unwrap_or(usual);
    let can_load = launch.is_some();
    let slots = args.slots.or(launch.map(|launch| launch.slots)).unwrap_or(1);
    let options = Options {
        cache_k: args.cache_type,
        cache_v: args.cache_type,
        projector: projector(args, &report),
        ..Options::launched(u64::from(wanted), slots)
    };
    let (choice, footprint) = plan(shape, &options, args.context.is_none(), &pools, margin(&report));
    if choice.fit.fits && choice.trial.context < wanted {
        notes.push(format!("a context of {} tokens instead of {wanted} is what fits", choice.trial.context));
    }
    if wanted > trained {
        notes.push(format!("it was trained for {trained} tokens"));
    }
    let device = pools.devices.into_iter().find(|device| Some(&device.id) == choice.fit.gpu.as_ref());
    Ok(Verdict {
        node: machine.node.clone(),
        answer: if choice.fit.fits && can_load { Answer::Yes } else { Answer::No },
        device: device.map(|device| device.name),
        slots,
        choice: Some(choice),
        footprint: Some(footprint),
        notes,
    })
}

/// The model where it is loaded on the machine.
fn loaded<'a>(args: &FitArgs, report: &'a Report) -> Option<&'a Replica> {
    let FitSource::Model(model) = &args.model else { return None };
    let replicas = report.engines.iter().flatten().flat_map(|engine| &engine.replicas);
    replicas.into_iter().find(|replica| replica.model == *model && replica.state == ReplicaState::Loaded)
}

/// What turns images into tokens for the model, where the machine has it.
fn projector(args: &FitArgs, report: &Report) -> Option<Bytes> {
    let FitSource::Model(model) = &args.model else { return None };
    let stored = report.store.iter().flat_map(|store| &store.models).find(|stored| stored.model == *model);
    stored.and_then(|stored| stored.projector)
}

/// What must stay free there, by what was measured.
pub(in crate::command) fn margin(report: &Report) -> Margin {
    Margin::of(&profile(report).residuals())
}
