//! The models on a machine's disk.

use super::{WireError, bounded, model, shorten, text, unknown_word};
use crate::v1;
use mesh_core::machine::{Digest, Store, StoreRefusal, StoredModel, Transfer, TransferKind, TransferState};
use mesh_core::units::Bytes;

pub(super) fn store_to_wire(store: &Store) -> v1::Store {
    v1::Store {
        models: store.models.iter().map(stored_to_wire).collect(),
        transfers: store.transfers.iter().map(transfer_to_wire).collect(),
        refusals: store.refusals.iter().map(refusal_to_wire).collect(),
    }
}

pub(super) fn store_from_wire(store: v1::Store) -> Result<Store, WireError> {
    Ok(Store {
        models: bounded("store.models", store.models)?
            .into_iter()
            .map(stored_from_wire)
            .collect::<Result<_, _>>()?,
        transfers: bounded("store.transfers", store.transfers)?
            .into_iter()
            .map(transfer_from_wire)
            .collect::<Result<_, _>>()?,
        refusals: bounded("store.refusals", store.refusals)?
            .into_iter()
            .map(refusal_from_wire)
            .collect::<Result<_, _>>()?,
    })
}

fn refusal_to_wire(refusal: &StoreRefusal) -> v1::StoreRefusal {
    v1::StoreRefusal {
        model: refusal.model.to_string(),
        reason: shorten(refusal.reason.clone()),
        at_ms: refusal.at_ms,
    }
}

fn refusal_from_wire(refusal: v1::StoreRefusal) -> Result<StoreRefusal, WireError> {
    Ok(StoreRefusal {
        model: model("store.refusals.model", refusal.model)?,
        reason: text("store.refusals.reason", refusal.reason)?,
        at_ms: refusal.at_ms,
    })
}

pub(super) fn digest_to_wire(digest: Option<&Digest>) -> String {
    digest.map(ToString::to_string).unwrap_or_default()
}

pub(super) fn digest_from_wire(field: &'static str, digest: &str) -> Result<Option<Digest>, WireError> {
    if digest.is_empty() {
        return Ok(None);
    }
    Digest::new(digest).map(Some).map_err(|source| WireError::BadDigest { field, source })
}

fn stored_to_wire(stored: &StoredModel) -> v1::StoredModel {
    v1::StoredModel {
        model: stored.model.to_string(),
        digest: digest_to_wire(stored.digest.as_ref()),
        size: stored.size.0,
        architecture: stored.architecture.clone().map(shorten),
        quantisation: stored.quantisation.clone().map(shorten),
        parameters: stored.parameters,
        active_parameters: stored.active_parameters,
        trained_context: stored.trained_context,
        projector: stored.projector.map(|bytes| bytes.0),
        broken: stored.broken.clone().map(shorten),
        served_as: stored.served_as.as_ref().map(ToString::to_string),
    }
}

fn stored_from_wire(stored: v1::StoredModel) -> Result<StoredModel, WireError> {
    let words = |field, words: Option<String>| words.map(|words| text(field, words)).transpose();
    Ok(StoredModel {
        model: model("store.models.model", stored.model)?,
        digest: digest_from_wire("store.models.digest", &stored.digest)?,
        size: Bytes(stored.size),
        architecture: words("store.models.architecture", stored.architecture)?,
        quantisation: words("store.models.quantisation", stored.quantisation)?,
        parameters: stored.parameters,
        active_parameters: stored.active_parameters,
        trained_context: stored.trained_context,
        projector: stored.projector.map(Bytes),
        broken: words("store.models.broken", stored.broken)?,
        served_as: stored.served_as.map(|name| model("store.models.served_as", name)).transpose()?,
    })
}

/// A transfer as a wire message; the status shows it too.
#[must_use]
pub fn transfer_to_wire(transfer: &Transfer) -> v1::Transfer {
    let failure =
        if let TransferState::Failed(why) = &transfer.state { shorten(why.clone()) } else { String::new() };
    v1::Transfer {
        model: transfer.model.to_string(),
        kind: transfer.kind.word().into(),
        source: shorten(transfer.source.clone()),
        state: transfer.state.word().into(),
        failure,
        done: transfer.done.0,
        total: transfer.total.map(|bytes| bytes.0),
        rate: transfer.rate.map(|bytes| bytes.0),
    }
}

fn transfer_from_wire(transfer: v1::Transfer) -> Result<Transfer, WireError> {
    let state = match transfer.state.as_str() {
        "waiting" => TransferState::Waiting,
        "running" => TransferState::Running,
        "verifying" => TransferState::Verifying,
        "done" => TransferState::Done,
        "cancelled" => TransferState::Cancelled,
        "failed" => TransferState::Failed(text("store.transfers.failure", transfer.failure)?),
        other => return Err(unknown_word("store.transfers.state", other)),
    };
    Ok(Transfer {
        model: model("store.transfers.model", transfer.model)?,
        kind: TransferKind::from_word(&transfer.kind)
            .ok_or_else(|| unknown_word("store.transfers.kind", &transfer.kind))?,
        source: text("store.transfers.source", transfer.source)?,
        state,
        done: Bytes(transfer.done),
        total: transfer.total.map(Bytes),
        rate: transfer.rate.map(Bytes),
    })
}
