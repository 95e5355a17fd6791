//! The best way to load a model that the machine can hold now.
//!
//! Tried in this order, the first that fits is taken: whole on one graphics processor; experts of the first layers
//! in RAM; some layers in RAM; all in RAM; and the same again with a shorter context where the wish left that open.

use super::{Claim, Demand, Fit, Margin, Pools, fit};
use serde::{Deserialize, Serialize};

/// The shortest context that is proposed, in tokens: an editor's system prompt alone takes a thousand.
pub const SHORTEST_CONTEXT: u32 = 2048;
/// Contexts are padded to this many tokens by llama.cpp (`llama-context.cpp`), so nothing between is proposed.
const CONTEXT_STEP: u32 = 256;

/// Which part of a model lies on the graphics processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// All of it.
    Full,
    /// All but the experts of the first layers, this many.
    ExpertsOfFirst(u32),
    /// The last layers, this many of them; the output head is one of them.
    Layers(u32),
    /// Nothing.
    None,
}

impl Offload {
    /// As words of the wire: `full`, `layers 20`, `experts 12`, `none`.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Full => "full".into(),
            Self::ExpertsOfFirst(count) => format!("experts {count}"),
            Self::Layers(count) => format!("layers {count}"),
            Self::None => "none".into(),
        }
    }

    /// The offload that `words` tell.
    #[must_use]
    pub fn from_words(words: &str) -> Option<Self> {
        match words.split_once(' ') {
            Some(("experts", count)) => count.parse().ok().map(Self::ExpertsOfFirst),
            Some(("layers", count)) => count.parse().ok().map(Self::Layers),
            Some(_) => None,
            None => match words {
                "full" => Some(Self::Full),
                "none" => Some(Self::None),
                _ => None,
            },
        }
    }
}

/// One way to load a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// Where it lies.
    pub offload: Offload,
    /// Tokens of one request.
    pub context: u32,
}

/// What is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Tokens of one request.
    pub context: u32,
    /// Whether fewer would do.
    pub context_is_open: bool,
    /// Layers that can lie on a graphics processor, the output head included; 0 = not known: all or nothing.
    pub layers: u32,
    /// Whether its layers have experts that can lie in RAM.
    pub experts: bool,
    /// Whether its layers may be divided between graphics processor and RAM.
    pub divisible: bool,
    /// It is to lie like this and not otherwise; `None` = the best way is taken.
    pub offload: Option<Offload>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// How to load it; of a load that does not fit, the way that misses least.
    pub trial: Trial,
    /// What that needs.
    pub demand: Demand,
    /// Whether it fits, with the numbers.
    pub fit: Fit,
}

/// The first way that fits, else the reason why none does. `needs` tells what a way takes; it must not take less
/// for a longer context or, on the device, for more layers.
#[must_use]
pub fn choose(
    pools: &Pools,
    claims: &[Claim],
    wanted: Wanted,
    margin: Margin,
    needs: impl Fn(Trial) -> Demand,
) -> Choice {
    let judged = |trial: Trial| {
        let demand = needs(trial);
        Choice { trial, demand, fit: fit(pools, claims, demand, margin) }
    };
    let at = |context: u32| {
        // RAM is left out of the search: what helps the device costs RAM, and only the answer is judged whole.
        let enough = |offload| judged(Trial { offload, context }).fit.device.missing().0 == 0;
        let ways = ways(pools, wanted, enough);
        let mut best: Option<Choice> = None;
        for offload in ways {
            let choice = judged(Trial { offload, context });
            if choice.fit.fits {
                return choice;
            }
            // The way that misses least is the one to tell about; full offload first among equals.
            if best.as_ref().is_none_or(|best| missing(&choice.fit) < missing(&best.fit)) {
                best = Some(choice);
            }
        }
        best.unwrap_or_else(|| judged(Trial { offload: Offload::None, context }))
    };
    let whole = at(wanted.context);
    if whole.fit.fits || !wanted.context_is_open || wanted.context <= SHORTEST_CONTEXT {
        return whole;
    }
    // Longer contexts never need less, so the longest that fits is found by halving.
    let step = |steps: u32| SHORTEST_CONTEXT + steps * CONTEXT_STEP;
    let shortest = at(SHORTEST_CONTEXT);
    if !shortest.fit.fits {
        return shortest;
    }
    let (mut best, mut low, mut high) = (shortest, 0, (wanted.context - SHORTEST_CONTEXT) / CONTEXT_STEP);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let choice = at(step(middle));
        if choice.fit.fits {
            (best, low) = (choice, middle);
        } else {
            high = middle - 1;
        }
    }
    best
}

fn missing(fit: &Fit) -> u64 {
    fit.device.missing().0.max(fit.host.missing().0)
}

/// The ways to try on this machine, best first. Of divided ones those with the fewest parts in RAM for which the
/// device is `enough`.
fn ways(pools: &Pools, wanted: Wanted, enough: impl Fn(Offload) -> bool) -> Vec<Offload> {
    if let Some(only) = wanted.offload {
        return vec![only];
    }
    if pools.devices.is_empty() {
        return vec![Offload::None];
    }
    let mut ways = vec![Offload::Full];
    if wanted.divisible && wanted.layers > 1 {
        let inner = wanted.layers - 1;
        if wanted.experts {
            ways.push(Offload::ExpertsOfFirst(first(1, inner, |n| enough(Offload::ExpertsOfFirst(n)))));
        }
        let kept = first(1, inner, |n| enough(Offload::Layers(wanted.layers - n)));
        ways.push(Offload::Layers(wanted.layers - kept));
    }
    ways.push(Offload::None);
    ways
}

/// The smallest number of `low..=high` that is good, or `high`; what is good stays good upwards.
fn first(mut low: u32, mut high: u32, good: impl Fn(u32) -> bool) -> u32 {
    while low < high {
        let middle = low + (high - low) / 2;
        if good(middle) { high = middle } else { low = middle + 1 }
    }
    low
}
