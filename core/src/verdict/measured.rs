//! Did a model land where it should, and is it as fast as it was? Both find the silent fallback to the CPU.

use crate::units::{Bytes, human_bytes};
use serde::{Deserialize, Serialize};

/// Below this share of the profile's speed a replica is degraded. Heat and a busy desktop cost up to a third;
/// a fallback to the CPU costs two thirds and more (owner's ladder: 31.4 → 9.0 tokens/s at the first spill).
pub const SLOWEST_SHARE: f64 = 0.5;

/// Less of the predicted device bytes than this is a fallback. Weights and KV are predicted to the byte; the
/// compute buffer is an upper bound up to 65 % too high, which of a whole model is some 10–20 %.
const LEAST_DEVICE_SHARE: f64 = 0.75;

/// Predictions under this cannot be told from the noise of other programs that come and go on the device.
const SMALLEST_VISIBLE: u64 = 256 << 20;

/// What others on the device (a desktop, a browser) may free or take while a model loads.
const NOISE: u64 = 64 << 20;

/// `size_vram` under this share of `size` is a partial fallback, where the whole model was to be on the
/// device. Engines that spill say so in whole layers, each at least some 1–3 %; rounding is far less.
const WHOLE_ON_DEVICE: f64 = 0.98;

/// What a measured speed says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpeedVerdict {
    /// As fast as it was, or faster.
    Good,
    /// Far slower, and why with numbers and a hint: `cpu_fallback: …`.
    Degraded(String),
    /// There is nothing to compare with, and why.
    Unknown(String),
}

/// Compares tokens per second, measured now and kept in the machine's profile for the same model and context.
#[must_use]
pub fn speed_verdict(measured: Option<f64>, profile: Option<f64>) -> SpeedVerdict {
    let positive = |speed: &f64| speed.is_finite() && *speed > 0.0;
    let Some(profile) = profile.filter(positive) else {
        return SpeedVerdict::Unknown("the profile has no speed of this model yet".to_owned());
    };
    let Some(measured) = measured.filter(positive) else {
        return SpeedVerdict::Unknown("no speed could be measured".to_owned());
    };
    if measured >= profile * SLOWEST_SHARE {
        return SpeedVerdict::Good;
    }
    SpeedVerdict::Degraded(format!(
        "cpu_fallback: {measured:.1} tokens/s are {:.0} % of the {profile:.1} in the profile; \
         hint: look for layers on the CPU in the engine's log, for a busy or throttled GPU, then load it again",
        measured / profile * 100.0
    ))
}

/// What was predicted and seen of one load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Placement {
    /// Bytes that were to land on devices, all parts of the footprint together.
    pub predicted_device: Bytes,
    /// By how much the free memory of these devices shrank while it loaded. Signed: others may have freed
    /// some.
    /// `None` = it cannot be read.
    pub measured_delta: Option<i64>,
    /// The model's whole size in memory by the engine's own word (Ollama's `size`).
    pub size: Option<Bytes>,
    /// The part of it on devices by the engine's own word (Ollama's `size_vram`).
    pub size_vram: Option<Bytes>,
    /// Whether the whole model was to be on devices. False for planned partial offload.
    pub whole: bool,
}

/// Where a model landed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlacementVerdict {
    /// Where it was to land.
    Good,
    /// Not all on the device, and why with numbers.
    CpuFallback(String),
    /// It cannot be seen, and why.
    Unknown(String),
}

/// Judges where a model landed: by the engine's own word where it has one, else by the device's memory.
#[must_use]
pub fn placement_verdict(seen: &Placement) -> PlacementVerdict {
    let predicted = seen.predicted_device.0;
    if predicted == 0 {
        return PlacementVerdict::Good;
    }
    if let (Some(size), Some(on_device)) = (seen.size, seen.size_vram)
        && size.0 > 0
    {
        // A part was planned to stay in RAM: then only the plan can be compared with.
        let (least, of) = if seen.whole {
            (size.0 as f64 * WHOLE_ON_DEVICE, "of the model's")
        } else {
            (predicted as f64 * LEAST_DEVICE_SHARE, "of the planned")
        };
        let whole = if seen.whole { size.0 } else { predicted };
        if (on_device.0 as f64) < least {
            return PlacementVerdict::CpuFallback(format!(
                "the engine has {} {of} {} on the device",
                human_bytes(on_device.0),
                human_bytes(whole)
            ));
        }
        return PlacementVerdict::Good;
    }
    let Some(delta) = seen.measured_delta else {
        return PlacementVerdict::Unknown("the device's memory cannot be read".to_owned());
    };
    if predicted < SMALLEST_VISIBLE {
        return PlacementVerdict::Unknown(format!(
            "{} are too few to be seen among what other programs take and free",
            human_bytes(predicted)
        ));
    }
    let least = predicted as f64 * LEAST_DEVICE_SHARE - NOISE as f64;
    if delta as f64 >= least {
        return PlacementVerdict::Good;
    }
    let came = human_bytes(u64::try_from(delta).unwrap_or(0));
    PlacementVerdict::CpuFallback(format!(
        "{} were to land on the device, its memory shrank by {came}",
        human_bytes(predicted)
    ))
}
