//! Loads by engines that the agent did not start: admitted by what little is known of the model, measured after.

use super::launch::TooWarm;
use crate::engine::{AskError, Held};
use crate::profile::ProfileHandle;
use crate::reservation::{Ledger, Refused, Shrunk};
use crate::truth::RAM;
use futures_util::future::BoxFuture;
use mesh_core::fit::{Choice, Claim, Demand, Margin, Offload, Pools, Trial, Wanted, choose};
use mesh_core::machine::{EngineKind, LoadWish, ReplicaMemory};
use mesh_core::memory::{Confidence, Footprint, GpuLayers, Options, Shape, footprint};
use mesh_core::profile::{LoadKey, LoadOptions, Measured, MeasuredBy, Profile};
use mesh_core::units::Bytes;

/// Such engines divide models as they like; a hundred parts are fine enough to see whether they can.
const PARTS: u32 = 100;
/// What a context takes when nothing but the size of the weights is known: 1/8 of them. Dense models of 7 to 14 billion
/// parameters at 4 bits have 5–15 % of their weights in the f16 cache of 4,096 tokens.
const CACHE_SHARE: u64 = 8;

/// Why a load by an engine failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum OutsideError {
    /// It does not fit.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The machine takes no load in its thermal state.
    #[error(transparent)]
    Heat(#[from] TooWarm),
    /// The engine could not.
    #[error(transparent)]
    Engine(#[from] AskError),
}

/// What is known of a load before it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) kind: EngineKind,
    pub(super) engine: String,
    pub(super) version: Option<String>,
    pub(super) held: Held,
    /// What the engine gives up by itself for another model.
    pub(super) gives_up: Option<ReplicaMemory>,
    pub(super) holders: Vec<Claim>,
}

/// What was decided and seen of a load, for the profile.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Loaded {
    pub(super) key: LoadKey,
    pub(super) predicted: Footprint,
    pub(super) shrunk: Shrunk,
}

/// Whether an engine at this address takes memory of this machine.
pub(super) fn is_here(base_url: &str) -> bool {
    let host = base_url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    host.is_some_and(|host| {
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    })
}

/// Waits for its turn, lets the engine load, and tells what it took.
pub(super) async fn load(
    known: Known,
    wish: LoadWish,
    call: BoxFuture<'static, Result<(), AskError>>,
    ledger: Ledger,
    profile: ProfileHandle,
) -> Result<Option<Loaded>, OutsideError> {
    TooWarm::check(&ledger.vitals(), true)?;
    // Nothing to judge by: the engine must know.
    let Some(size) = known.held.replica.size else {
        call.await?;
        return Ok(None);
    };
    let margin = Margin::of(&profile.read(Profile::residuals));
    let decide = |pools: &Pools, claims: &[Claim]| {
        let mut pools = pools.clone();
        if let Some(memory) = known.gives_up.filter(|_| known.kind.loads_on_demand()) {
            pools.give_back(memory.device, memory.host);
        }
        decide(&known, &wish, size, &pools, claims, margin, &profile)
    };
    let who = format!("{} on {}", known.held.replica.model, known.engine);
    let (mut reservation, choice) = ledger.admit(&who, &known.holders, decide).await?;
    call.await?;
    let shrunk = reservation.settle().await;
    reservation.hand_over();
    let predicted = predict(&known, &wish, size, choice.trial.offload);
    let key = key(&known, &wish, &Pools::of(&ledger.vitals()), choice.trial.offload);
    Ok(Some(Loaded { key, predicted, shrunk }))
}

fn decide(
    known: &Known,
    wish: &LoadWish,
    size: Bytes,
    pools: &Pools,
    claims: &[Claim],
    margin: Margin,
    profile: &ProfileHandle,
) -> Choice {
    let wanted = Wanted {
        context: wish.context.unwrap_or(0),
        context_is_open: false,
        layers: PARTS,
        experts: false,
        divisible: true,
        // Such an engine decides that by itself.
        offload: None,
    };
    let needs = |trial: Trial| {
        let key = key(known, wish, pools, trial.offload);
        let measured = profile.read(|profile| profile.measured_of(&key, known.version.is_some()));
        measured.unwrap_or_else(|| {
            let predicted = predict(known, wish, size, trial.offload);
            Demand { device: predicted.device.total(), host: predicted.host.total() }
        })
    };
    choose(pools, claims, wanted, margin, needs)
}

/// By the model's own shape where the engine tells it and the wish says for which context, else by its size.
fn predict(known: &Known, wish: &LoadWish, size: Bytes, offload: Offload) -> Footprint {
    let shape = known.held.shape.as_ref();
    match (shape, wish.context) {
        (Some(shape), Some(context)) => {
            let options = Options::new(u64::from(context), wish.slots.unwrap_or(1));
            let whole = footprint(shape, &options).device;
            let cache = [whole.kv, whole.recurrent, whole.compute];
            let cache = Bytes(cache.iter().fold(0, |sum, part| sum.saturating_add(part.0)));
            Footprint { confidence: Confidence::Estimated, ..divided(size, cache, offload) }
        }
        _ => divided(size, Bytes(size.0 / CACHE_SHARE), offload),
    }
}

/// Weights of `size` and a cache, divided as `offload` says.
fn divided(size: Bytes, cache: Bytes, offload: Offload) -> Footprint {
    let gpu_layers = if offload == Offload::None { GpuLayers::None } else { GpuLayers::All };
    let mut footprint = footprint(&Shape::of_size(size), &Options { gpu_layers, ..Options::new(0, 1) });
    let pool = if offload == Offload::None { &mut footprint.host } else { &mut footprint.device };
    pool.kv = cache;
    if let Offload::Layers(parts) = offload {
        let there = |bytes: Bytes| Bytes(bytes.0 / u64::from(PARTS) * u64::from(parts));
        let (weights, kv) = (footprint.device.weights, footprint.device.kv);
        (footprint.device.weights, footprint.device.kv) = (there(weights), there(kv));
        footprint.host.weights.0 += weights.0 - footprint.device.weights.0;
        footprint.host.kv.0 += kv.0 - footprint.device.kv.0;
    }
    footprint.confidence = Confidence::Guessed;
    footprint
}

fn key(known: &Known, wish: &LoadWish, pools: &Pools, offload: Offload) -> LoadKey {
    let replica = &known.held.replica;
    let device = pools.devices.iter().max_by_key(|device| device.memory.total);
    let device = device.filter(|_| offload != Offload::None);
    LoadKey {
        model: replica.digest.as_ref().map_or_else(|| replica.model.to_string(), |digest| digest.to_string()),
        build: format!("{} {}", known.kind.word(), known.version.as_deref().unwrap_or("?")),
        device: device.map_or_else(|| RAM.to_owned(), |device| format!("{} {}", device.name, device.id)),
        options: LoadOptions {
            context: wish.context.unwrap_or(0),
            slots: wish.slots.unwrap_or(0),
            cache: wish.cache_type.clone().unwrap_or_default(),
            ubatch: 0,
            offload,
        },
    }
}

/// Keeps what the load took: by the engine's own word where it has one, else by how far free memory shrank.
pub(super) fn keep(loaded: Loaded, memory: Option<ReplicaMemory>, profile: &ProfileHandle) {
    let positive = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok()).map(Bytes);
    let measured = match memory {
        Some(memory) => {
            Some(Measured { device: memory.device, host: memory.host, source: MeasuredBy::EngineLog })
        }
        None => positive(loaded.shrunk.device)
            .zip(positive(loaded.shrunk.host))
            .map(|(device, host)| Measured { device, host, source: MeasuredBy::FreeMemory }),
    };
    profile.change(|profile, at| profile.keep_footprint(loaded.key, loaded.predicted, measured, at));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_engines_of_this_machine_take_its_memory() {
        for here in ["http://127.0.0.1:11434", "http://localhost:1", "http://[::1]:8080/api"] {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in ["http://10.0.0.5:11434", "http://ollama.lan:11434", "", "nonsense"] {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn a_model_known_by_its_size_is_divided_without_losing_a_byte_of_it() {
        let size = Bytes(8_000_000_000);
        let whole = divided(size, Bytes(size.0 / CACHE_SHARE), Offload::Full);
        assert_eq!((whole.device.weights, whole.device.kv), (size, Bytes(1_000_000_000)));
        assert_eq!(whole.confidence, Confidence::Guessed);
        let half = divided(size, Bytes(size.0 / CACHE_SHARE), Offload::Layers(50));
        assert_eq!(half.device.weights.0 + half.host.weights.0, size.0);
        assert_eq!(half.device.weights, Bytes(4_000_000_000));
        let none = divided(size, Bytes(size.0 / CACHE_SHARE), Offload::None);
        assert_eq!((none.device.total(), none.host.weights), (Bytes(0), size));
    }
}
