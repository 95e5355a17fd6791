//! An operator's wish for one machine, checked against what is known of it.

use super::machine;
use mesh_core::fleet::{FleetView, MachineView};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Digest, Directive, LoadWish, PullSource, PullWish};
use mesh_core::units::Bytes;
use mesh_proto::v1::DirectRequest;
use tonic::Status;

/// The machine and the directive that `request` means.
pub(super) fn directive_of(
    request: DirectRequest,
    view: &FleetView,
) -> Result<(MachineId, Directive), Status> {
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    let node = machine(&request.node)?;
    let model = ModelId::new(request.model.clone()).map_err(|error| invalid(&error))?;
    let Some(known) = view.machine(&node) else {
        return Err(Status::not_found(format!("there is no node `{node}`")));
    };
    let directive = match request.action.as_str() {
        "load" => Directive::Load(LoadWish {
            model: by_its_name(known, model)?,
            context: request.context,
            slots: request.slots,
            cache_type: Some(request.cache_type).filter(|word| !word.is_empty()),
            offload: None,
        }),
        "unload" => Directive::Unload(by_its_name(known, model)?),
        "delete" => Directive::Delete(on(known, model)?),
        "cancel" => {
            if !known.store.transfers.iter().any(|t| t.model == model && !t.state.is_over()) {
                return Err(Status::not_found(format!("node `{node}` is not fetching `{model}`")));
            }
            Directive::CancelPull(model)
        }
        "pull" => {
            let digest = (!request.digest.is_empty()).then(|| Digest::new(&request.digest)).transpose();
            let digest = digest.map_err(|error| invalid(&error))?;
            Directive::Pull(pull(model, request.url, digest, request.size.map(Bytes), view, known)?)
        }
        other => {
            return Err(Status::invalid_argument(format!(
                "there is no action `{other}`; there are load, unload, pull, cancel and delete"
            )));
        }
    };
    Ok((node, directive))
}

/// `model`, when `known` has it.
fn on(known: &MachineView, model: ModelId) -> Result<ModelId, Status> {
    let stored = known.store.models.iter().any(|stored| stored.model == model);
    if stored || known.replica(&model).is_some() {
        return Ok(model);
    }
    Err(Status::not_found(format!("node `{}` has no model `{model}`", known.id)))
}

/// The same, unless it is only the name of a file that an engine serves under another one.
fn by_its_name(known: &MachineView, model: ModelId) -> Result<ModelId, Status> {
    let model = on(known, model)?;
    let other = known.store.models.iter().find(|stored| stored.model == model);
    match other.and_then(|stored| stored.served_as.as_ref()) {
        Some(name) if known.replica(&model).is_none() => Err(Status::invalid_argument(format!(
            "`{model}` is `{name}` on node `{}`: its configuration gives the file that name; say `{name}`",
            known.id
        ))),
        _ => Ok(model),
    }
}

/// Where a model comes from when nobody said: from an address, else from a machine that has it, else the
/// machine's own engine fetches it.
fn pull(
    model: ModelId,
    url: String,
    digest: Option<Digest>,
    size: Option<Bytes>,
    view: &FleetView,
    known: &MachineView,
) -> Result<PullWish, Status> {
    if !url.is_empty() {
        return Ok(PullWish { model, source: PullSource::Url(url), digest, size });
    }
    let others = view.machines.iter().filter(|machine| machine.id != known.id);
    let mut stored = others.flat_map(|machine| &machine.store.models);
    let at = stored.find(|stored| match &digest {
        Some(digest) => stored.digest.as_ref() == Some(digest),
        None => stored.model == model && stored.digest.is_some(),
    });
    if let Some(found) = at {
        let (digest, size) = (found.digest.clone(), Some(found.size));
        return Ok(PullWish { model, source: PullSource::Mesh, digest, size });
    }
    if let Some(digest) = digest {
        return Err(Status::not_found(format!("no other node has a file with the digest {digest}")));
    }
    if known.engines.iter().any(|engine| engine.capabilities.can_pull) {
        return Ok(PullWish { model, source: PullSource::Engine, digest: None, size });
    }
    Err(Status::not_found(format!(
        "no other node has `{model}`, and no engine of `{}` fetches models; give its address with --url",
        known.id
    )))
}
