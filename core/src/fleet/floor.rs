//! What a decision reads of every replica: whether it takes a request without a doubt, and the least that the request
//! can cost there. Nearly all are passed over by these few bytes; the others are looked at in full.

use super::{ReplicaKey, Serving};
use crate::machine::Abilities;
use std::num::NonZeroU16;

/// Seconds of pressure at a half-full KV cache; it grows without bound towards a full one.
const KV_WEIGHT: f64 = 0.15;
/// A cache that says it is full is taken as this full.
const KV_FULL: f64 = 0.99;

/// What a replica does without a doubt, or what a request asks for, as bits. A replica that takes no requests, or that
/// is asked only when nobody else can, does nothing without a doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sure(u8);

impl Sure {
    const CHAT: u8 = 1;
    const EMBED: u8 = 2;
    const TOOLS: u8 = 4;
    const VISION: u8 = 8;
    const FIM: u8 = 16;

    /// As bits.
    #[must_use]
    pub fn new(chat: bool, embed: bool, tools: bool, vision: bool, fim: bool) -> Self {
        let bits = [
            (chat, Self::CHAT),
            (embed, Self::EMBED),
            (tools, Self::TOOLS),
            (vision, Self::VISION),
            (fim, Self::FIM),
        ];
        Self(bits.into_iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, bit)| all | bit))
    }

    /// All that is not known to be missing.
    #[must_use]
    pub fn of(able: &Abilities) -> Self {
        let can = |ability: Option<bool>| ability != Some(false);
        Self::new(can(able.chat), can(able.embed), can(able.tools), can(able.vision), can(able.fim))
    }

    /// Whether all that is `asked` for is there.
    #[must_use]
    pub fn covers(self, asked: Self) -> bool {
        asked.0 & !self.0 == 0
    }
}

/// The least that a request costs on a replica: what it costs while the replica has no other and holds none of the
/// prompt. In the unit by which the replicas of its model are compared: seconds, or tokens by LMetric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Floor {
    /// The replica's number.
    pub(crate) key: ReplicaKey,
    /// Whatever the request is.
    pub(crate) fixed: f64,
    /// How much longer all of it takes.
    pub(crate) factor: f64,
    /// For each token of the prompt.
    pub(crate) prompt: f32,
    /// For each token of the answer: `base + each * streams`.
    pub(crate) base: f32,
    /// The same.
    pub(crate) each: f32,
    /// Tokens that one request may hold; where that is not known, any number.
    pub(crate) context: u32,
    /// Requests that it serves at once, `None` = more than fit here.
    pub(crate) slots: Option<NonZeroU16>,
    /// By its own words.
    tells_slots: bool,
    /// What the replica does without a doubt.
    pub(crate) sure: Sure,
}

impl Floor {
    pub(super) fn of(serving: &Serving, by_seconds: bool) -> Self {
        let heat = f64::from(serving.heat);
        let (fixed, factor, prompt, (base, each)) = match &serving.rates {
            Some(rates) if by_seconds => (
                f64::from(serving.rtt_s) + f64::from(serving.load_s) + kv_pressure(serving.kv_used),
                f64::from(rates.bias) * heat,
                rates.prefill_s,
                rates.decode,
            ),
            _ => (0.0, heat, 1.0, (0.0, 0.0)),
        };
        Self {
            key: serving.key,
            fixed,
            factor,
            prompt,
            base,
            each,
            context: serving.context.unwrap_or(u32::MAX),
            slots: u16::try_from(serving.slots).ok().and_then(NonZeroU16::new),
            tells_slots: serving.told_slots.is_some(),
            sure: serving.sure,
        }
    }

    /// Whether so many requests surely leave no free slot.
    pub(crate) fn is_full(&self, in_flight: u32) -> bool {
        self.tells_slots && self.slots.is_some_and(|slots| in_flight >= slots.get().into())
    }

    /// For a prompt and an answer of so many tokens.
    pub(crate) fn cost(&self, prompt: f64, answer: f64) -> f64 {
        let step = f64::from(self.base) + f64::from(self.each);
        (self.fixed + prompt * f64::from(self.prompt) + answer * step) * self.factor
    }
}

/// Seconds that a request costs by filling a KV cache that is this full, 0 to 1; 0 where the engine does not tell.
pub(crate) fn kv_pressure(used: Option<f32>) -> f64 {
    let Some(used) = used else { return 0.0 };
    let used = f64::from(used).clamp(0.0, KV_FULL);
    KV_WEIGHT * used / (1.0 - used)
}
