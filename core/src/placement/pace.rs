//! How fast a model would be on a machine: measured there, or taken from what another model was measured at there, or
//! guessed from the kind of its memory. The answer says which.

use super::catalogue::{Catalogue, KnownModel};
use super::offers::Offer;
use super::site::Site;
use crate::fit::Offload;
use crate::profile::SpeedRecord;
use serde::{Deserialize, Serialize};

/// Bytes each second that memory is taken to deliver where nothing was measured. Generating is bound by it: each token reads
/// the working weights once. Of each kind a slower one: a laptop's card has 256 GB/s, a Strix Halo 256 of
/// which 215 are measured, two channels of DDR5 60 to 80 of which a processor gets two thirds.
const CARD: f64 = 2.5e11;
const SHARED: f64 = 2.0e11;
const RAM: f64 = 4.5e10;

/// How a speed is known, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known {
    /// This model was measured on this machine, lying as it would lie.
    Measured,
    /// Another model was, or this one lying otherwise; by the bytes that a token reads.
    Scaled,
    /// By the kind of memory alone.
    Guessed,
}

/// What is predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    /// Seconds for each token of a single answer.
    pub(super) tpot_s: f64,
    /// Prompt tokens each second, where measured.
    pub(super) prefill: Option<f64>,
    pub(super) known: Known,
}

/// How fast `offer` would be.
pub(super) fn of(site: &Site, offer: &Offer, catalogue: &Catalogue) -> Pace {
    let known = catalogue.get(&offer.model);
    if let Some(record) = latest(site, offer, known) {
        let rate = record.decode.filter(|rate| *rate > 0.0);
        if let Some(rate) = rate {
            return Pace { tpot_s: 1.0 / rate, prefill: record.prefill, known: Known::Measured };
        }
    }
    let live = site.held(&offer.model).and(site.paces.get(&offer.model));
    if let Some((pace, tpot_s)) = live.and_then(|pace| Some((pace, pace.tpot_s?))) {
        return Pace { tpot_s, prefill: pace.prefill, known: Known::Measured };
    }
    let reads = known.map_or(offer.needs.total().0.max(1), KnownModel::read_for_a_token) as f64;
    let total = (offer.footprint.device.weights.0 + offer.footprint.host.weights.0).max(1) as f64;
    let on_device = offer.footprint.device.weights.0 as f64 / total;
    // The embeddings of a model that is whole on a processor lie in RAM, and one row of them is read.
    let on_device = if offer.offload == Offload::Full { 1.0 } else { on_device };
    let shares = site
        .pools
        .devices
        .iter()
        .any(|device| device.carve_out.is_some() && offer.gpu.as_ref() == Some(&device.id));
    let device_rate = measured_rate(site, catalogue, |offload| offload == Offload::Full);
    let host_rate = measured_rate(site, catalogue, |offload| offload == Offload::None);
    let device = device_rate.unwrap_or(if shares { SHARED } else { CARD });
    let host = host_rate.unwrap_or(RAM);
    let tpot_s = reads * (on_device / device + (1.0 - on_device) / host);
    let uses_device = on_device > 0.0;
    let uses_host = on_device < 1.0;
    let is_scaled = (!uses_device || device_rate.is_some()) && (!uses_host || host_rate.is_some());
    Pace { tpot_s, prefill: None, known: if is_scaled { Known::Scaled } else { Known::Guessed } }
}

/// The latest measurement of this model lying like this.
fn latest<'a>(site: &'a Site, offer: &Offer, known: Option<&KnownModel>) -> Option<&'a SpeedRecord> {
    let digest = known.and_then(|known| known.digest.as_ref());
    let is_it = |record: &&SpeedRecord| {
        let named = record.model == offer.model.as_str();
        (named || digest.is_some_and(|digest| record.model == digest.as_str()))
            && record.offload == offer.offload
    };
    site.speeds.iter().filter(is_it).max_by_key(|record| record.at)
}

/// Bytes each second that models were seen to read there, of the fastest: a small model is bound by more than memory.
fn measured_rate(site: &Site, catalogue: &Catalogue, lies: impl Fn(Offload) -> bool) -> Option<f64> {
    let bytes = |record: &SpeedRecord| {
        let known = catalogue.iter().find(|(name, known)| {
            let digest = known.digest.as_ref();
            record.model == name.as_str() || digest.is_some_and(|digest| record.model == digest.as_str())
        });
        known.map(|(_, known)| known.read_for_a_token() as f64)
    };
    site.speeds
        .iter()
        .filter(|record| lies(record.offload))
        .filter_map(|record| Some(bytes(record)? * record.decode.filter(|rate| *rate > 0.0)?))
        .max_by(f64::total_cmp)
}
