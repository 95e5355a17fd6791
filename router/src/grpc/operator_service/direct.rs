//! An operator's wish for one machine, checked against what is known of it.

use super::machine;
use mesh_core::fleet::{FleetView, MachineView};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Digest, Directive, LoadWish, PullSource, PullWish};
use mesh_core::mode::near_names;
use mesh_core::units::Bytes;
use mesh_proto::v1::DirectRequest;
use std::collections::BTreeSet;
use tonic::Status;

/// The machine and the directive that `request` means.
pub(super) fn directive_of(
    request: DirectRequest,
    view: &FleetView,
) -> Result<(MachineId, Directive), Status> {
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    let node = machine(&request.node)?;
    let model = ModelId::new(request.model.clone()).map_err(|error| invalid(&error))?;
    let known = view.machine(&node).ok_or_else(|| no_node(view, &request.node))?;
    let directive = match request.action.as_str() {
        "load" => Directive::Load(LoadWish {
            model: by_its_name(known, model)?,
            context: request.context,
            slots: request.slots,
            cache_type: Some(request.cache_type).filter(|word| !word.is_empty()),
            offload: None,
        }),
        "unload" => Directive::Unload(by_its_name(known, model)?),
        "delete" => Directive::Delete(file_of(known, model)?),
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
    let files = known.store.models.iter().map(|stored| stored.model.as_str());
    let served =
        known.engines.iter().flat_map(|engine| &engine.replicas).map(|replica| replica.model.as_str());
    let all: BTreeSet<&str> = files.chain(served).collect();
    let near = near_names(model.as_str(), all.iter().copied());
    let others = match near.as_slice() {
        [] if all.is_empty() => "it has none".to_owned(),
        [] => format!("it has {}", listed(&all)),
        near => format!("did you mean {}?", near.join(" or ")),
    };
    Err(Status::not_found(format!("node `{}` has no model `{model}`; {others}", known.id)))
}

/// The file that is meant: by its own name, or by the one under which an engine serves it.
fn file_of(known: &MachineView, model: ModelId) -> Result<ModelId, Status> {
    let files = || known.store.models.iter();
    let served = files().find(|stored| stored.served_as.as_ref() == Some(&model));
    match served {
        Some(stored) if files().all(|stored| stored.model != model) => Ok(stored.model.clone()),
        Some(_) | None => on(known, model),
    }
}

/// There is no such machine; those that there are.
pub(super) fn no_node(view: &FleetView, name: &str) -> Status {
    let all: BTreeSet<&str> = view.machines.iter().map(|machine| machine.id.as_str()).collect();
    let others = if all.is_empty() {
        "no machine has joined yet".into()
    } else {
        format!("there are {}", listed(&all))
    };
    Status::not_found(format!("there is no node `{name}`; {others}"))
}

/// Names in one line, the first ten.
fn listed(all: &BTreeSet<&str>) -> String {
    const SHOWN: usize = 10;
    let names: Vec<&str> = all.iter().copied().take(SHOWN).collect();
    let more = all.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
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

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::fleet::Fleet;
    use mesh_core::machine::{Report, Store, StoredModel};
    use mesh_core::units::Moment;
    use tonic::Code;

    /// A machine with a file that an engine serves under another name, and one under its own.
    fn view() -> FleetView {
        let model = |name: &str| ModelId::new(name).expect("valid");
        let stored = |name: &str, served_as: Option<&str>| StoredModel {
            served_as: served_as.map(model),
            ..StoredModel::new(model(name), Bytes(1))
        };
        let models = vec![stored("tiny-1.4M-q8_0", Some("tiny")), stored("qwen3-4b", None)];
        let store = Some(Store { models, ..Store::default() });
        let (mut fleet, id) = (Fleet::default(), MachineId::new("msi").expect("valid"));
        fleet.attached(&id, Moment(1));
        fleet.apply(&id, Report { store, ..Report::default() }, Moment(1));
        fleet.view(Moment(1))
    }

    fn asked(action: &str, node: &str, model: &str) -> Result<Directive, Status> {
        let request = DirectRequest {
            node: node.into(),
            action: action.into(),
            model: model.into(),
            ..DirectRequest::default()
        };
        directive_of(request, &view()).map(|(_, directive)| directive)
    }

    #[test]
    fn a_file_is_deleted_by_its_name_and_by_that_under_which_it_is_served() {
        for (name, file) in
            [("tiny", "tiny-1.4M-q8_0"), ("tiny-1.4M-q8_0", "tiny-1.4M-q8_0"), ("qwen3-4b", "qwen3-4b")]
        {
            let file = ModelId::new(file).expect("valid");
            assert_eq!(asked("delete", "msi", name).expect("it is there"), Directive::Delete(file), "{name}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        for (action, node, model, said) in [
            ("unload", "msi", "qwen3-4", "node `msi` has no model `qwen3-4`; did you mean qwen3-4b?"),
            ("delete", "msi", "nope", "node `msi` has no model `nope`; it has qwen3-4b, tiny-1.4M-q8_0"),
            ("unload", "msj", "qwen3-4b", "there is no node `msj`; there are msi"),
        ] {
            let status = asked(action, node, model).expect_err("not there");
            assert_eq!((status.code(), status.message()), (Code::NotFound, said));
        }
    }
}
