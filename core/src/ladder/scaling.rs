//! What a larger model costs: the step from each rung to the next, and whether its size explains it.
//!
//! One request at a time reads all active weights for each token, so while memory bandwidth is the bound,
//! tokens each second × bytes for each token stays what it is. Where it collapses something else happened: layers in
//! RAM, a slower kernel, a processor that is held down. Where two sizes are the same, or two medians differ by no more than chance
//! explains, size explains nothing.

use super::figures::{Figure, finite};
use super::goals::{Climbed, number};
use crate::fit::Offload;
use crate::id::ModelId;
use crate::statistics::Z95;
use serde::Serialize;

/// Rate × bytes may fall to this part from one rung to the next and still be one bandwidth: quantisations and layer sizes
/// differ in how well kernels read them.
const SAME_BANDWIDTH: f64 = 0.7;

/// Sizes that differ by less than this part of the smaller one are the same: files of one model in one quantisation differ by
/// as much, by what else is in them.
const SAME_SIZE: f64 = 0.05;

/// √(π/2): by so much the standard error of a median of many normal values is larger than that of their mean, σ / √n.
/// H. Cramér, "Mathematical Methods of Statistics", 1946, 28.5.
const MEDIAN: f64 = 1.253_314_137_315_500_3;

/// From one rung to the next that was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// The smaller model.
    pub from: ModelId,
    /// The larger one.
    pub to: ModelId,
    /// Change of tokens each second as a part: −0.34 = a third fewer.
    pub change: f64,
    /// What explains it.
    pub cause: Cause,
    /// In words, with the figures.
    pub why: String,
}

/// What explains a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The bytes for each token: memory bandwidth is the bound.
    Size,
    /// Nothing has to: chance makes such a difference of two medians.
    Noise,
    /// Not the bytes, which are the same.
    SameSize,
    /// More than the bytes: probably a part of the model is in RAM.
    BeyondSize,
    /// Sizes are not known.
    Unknown,
}

/// Steps between rungs that were measured.
pub(super) fn steps(climbed: &[Climbed<'_>]) -> Vec<Step> {
    let measured: Vec<(&Climbed<'_>, f64)> =
        climbed.iter().filter_map(|rung| Some((rung, rung.rate()?))).collect();
    let pairs = measured.windows(2).filter_map(|pair| <&[_; 2]>::try_from(pair).ok());
    pairs.filter_map(|[from, to]| step(*from, *to)).collect()
}

fn step((from, old): (&Climbed<'_>, f64), (to, new): (&Climbed<'_>, f64)) -> Option<Step> {
    let change = finite(new / old - 1.0)?;
    let seen = format!("{} → {} tok/s ({:+.0} %)", number(old), number(new), change * 100.0);
    if let Some(chance) = chance(from, to).filter(|chance| (new - old).abs() <= *chance) {
        let chance = number(chance);
        let why = format!("{seen}, no more than the ± {chance} tok/s (95 %) of two such medians: noise");
        let (from, to) = (from.rung.model.clone(), to.rung.model.clone());
        return Some(Step { from, to, change, cause: Cause::Noise, why });
    }
    let (cause, said) = match (bandwidth(from), bandwidth(to)) {
        (Some(before), Some(after)) if after >= before * SAME_BANDWIDTH && is_same_size(from, to) => {
            let bytes = |rung: &Climbed<'_>| number(rung.traffic().unwrap_or_default() / 1e9);
            let sizes = format!("{} and {} GB for each token", bytes(from), bytes(to));
            (
                Cause::SameSize,
                format!("both have the same size ({sizes}): something else makes the difference"),
            )
        }
        (Some(before), Some(after))
            if after > before / SAME_BANDWIDTH && change > 0.0 && is_larger(from, to) =>
        {
            let rose = format!("rate × bytes rises {} → {} GB/s", number(before / 1e9), number(after / 1e9));
            (Cause::Unknown, format!("faster although it is larger: {rose}; its size does not explain that"))
        }
        (Some(before), Some(after)) if after >= before * SAME_BANDWIDTH => {
            let kept = format!("rate × bytes goes {} → {} GB/s", number(before / 1e9), number(after / 1e9));
            (Cause::Size, format!("its size explains that: {kept}{}", sparse(to)))
        }
        (Some(before), Some(after)) => {
            let fell = format!("rate × bytes falls {} → {} GB/s", number(before / 1e9), number(after / 1e9));
            let than = if change > 0.0 {
                "less than its fewer bytes would give"
            } else {
                "more than its size explains"
            };
            (Cause::BeyondSize, format!("{than}: {fell}{}; {}", sparse(to), suspect(to)))
        }
        _ => (Cause::Unknown, "sizes are not known, so nothing explains it".into()),
    };
    let why = format!("{seen}, {said}");
    Some(Step { from: from.rung.model.clone(), to: to.rung.model.clone(), change, cause, why })
}

/// How far two medians of the same rate lie apart by chance, in 95 of 100 cases: 1.96 standard errors of their difference. More
/// runs make it smaller. `None` where one was measured once: nothing is known of its chance.
fn chance(from: &Climbed<'_>, to: &Climbed<'_>) -> Option<f64> {
    let error =
        |figure: Figure| Some(MEDIAN * figure.sd.filter(|_| figure.n > 1)? / (figure.n as f64).sqrt());
    finite(Z95 * error(from.summary.decode?)?.hypot(error(to.summary.decode?)?))
}

/// The second reads more bytes for each token.
fn is_larger(from: &Climbed<'_>, to: &Climbed<'_>) -> bool {
    from.traffic().zip(to.traffic()).is_some_and(|(one, other)| other > one)
}

/// Both read about as many bytes for each token.
fn is_same_size(from: &Climbed<'_>, to: &Climbed<'_>) -> bool {
    let Some((one, other)) = from.traffic().zip(to.traffic()) else { return false };
    (one - other).abs() <= one.min(other) * SAME_SIZE
}

/// Bytes of weights read each second: the bandwidth that the machine shows for this model.
pub(super) fn bandwidth(climbed: &Climbed<'_>) -> Option<f64> {
    finite(climbed.rate()? * climbed.traffic()?).filter(|bytes| *bytes > 0.0)
}

fn sparse(climbed: &Climbed<'_>) -> String {
    match (climbed.rung.active_parameters, climbed.rung.parameters) {
        (Some(active), Some(all)) if active < all => {
            format!(" (sparse: {} of {} B parameters for each token)", billions(active), billions(all))
        }
        _ => String::new(),
    }
}

fn billions(parameters: u64) -> String {
    format!("{:.1}", parameters as f64 / 1e9)
}

/// Why a rung is slower than its bytes say.
fn suspect(climbed: &Climbed<'_>) -> String {
    let offload = climbed.rung.subject.as_ref().and_then(|subject| subject.offload);
    let slowed = climbed.summary.throttled_s.filter(|seconds| *seconds > 0.0);
    let slowed = slowed.map(|seconds| format!(", and it was slowed down for {} s", number(seconds)));
    let placed = match offload {
        Some(Offload::Full) => "all of it is on the device, so it is no spill into RAM".into(),
        Some(Offload::None) => "all of it is in RAM".into(),
        Some(Offload::Layers(layers)) => {
            format!("only {layers} layers are on the device, the rest is in RAM")
        }
        Some(Offload::ExpertsOfFirst(layers)) => format!("the experts of {layers} layers are in RAM"),
        None => "it probably spills into RAM".into(),
    };
    placed + &slowed.unwrap_or_default()
}

/// The whole ladder in a sentence or two.
pub(super) fn pattern(climbed: &[Climbed<'_>], steps: &[Step]) -> String {
    let Some(last) = steps.last() else { return "fewer than two rungs were measured: no pattern".into() };
    let broken: Vec<&Step> = steps.iter().filter(|step| step.cause == Cause::BeyondSize).collect();
    let place = |model: &ModelId| climbed.iter().position(|rung| rung.rung.model == *model);
    let until = broken.first().and_then(|step| place(&step.to)).unwrap_or(climbed.len());
    let bound: Vec<f64> = climbed[..until].iter().filter_map(bandwidth).collect();
    let low = bound.iter().copied().fold(f64::INFINITY, f64::min);
    let high = bound.iter().copied().fold(0.0, f64::max);
    let mut said = Vec::new();
    let mut explained = steps.iter().take_while(|step| step.cause != Cause::BeyondSize);
    let is_bound = explained.any(|step| step.cause == Cause::Size);
    if bound.len() > 1 && is_bound {
        let to = broken.first().map_or(&last.to, |step| &step.from);
        said.push(format!(
            "up to {to} memory bandwidth is the bound: rate × bytes stays within {}–{} GB/s",
            number(low / 1e9),
            number(high / 1e9)
        ));
    }
    said.extend(broken.iter().map(|step| format!("{}: {}", step.to, step.why)));
    if !said.is_empty() {
        return said.join("; ");
    }
    let unknown = steps.iter().all(|step| step.cause == Cause::Unknown);
    if unknown {
        "sizes are not known: no pattern".into()
    } else {
        "no step that size explains: no pattern".into()
    }
}
