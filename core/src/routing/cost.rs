//! What a request costs on a replica, in seconds of that machine: its own time, and what it takes from others.
//!
//! ```text
//! u    = max(1, prompt - cached)
//! step = a + c * min(out + 1, slots)
//! wait = max(0, out + 1 - slots) * answer * step / slots
//! cost = (rtt + load + (unread + u)/P + wait + answer * step         its own time
//!         + evicted/P + out * u/P                                     what it takes from others
//!         + 0.15 k/(1-k)) * bias * heat                               pressure on the KV cache
//! ```
//! `out` are requests in flight there, `P` prompt tokens each second, `unread` uncached tokens sent before this request.
//! Both externalities have weight 1: in a simulation with four unequal machines the optimum is flat around it.

use super::Term;
use super::load::Track;
use crate::fleet::{Floor, Rates, Serving, kv_pressure};
use crate::speed::Predicted;
use crate::units::Moment;

/// The parts of a cost, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    rtt: f64,
    load: f64,
    prefill: f64,
    wait: f64,
    decode: f64,
    eviction: f64,
    interference: f64,
    kv: f64,
    bias: f64,
    heat: f64,
    /// Seconds for each token of the answer.
    step: f64,
}

/// What candidates are compared by: [`Cost::total`] with few steps, for it is computed for many replicas.
pub(super) fn total(
    serving: &Serving,
    floor: &Floor,
    track: Option<&Track>,
    uncached: f64,
    answer: f64,
    now: Moment,
) -> f64 {
    let Some(track) = track else { return floor.cost(uncached, answer) };
    let evicted = track.evicted(uncached, serving.cache_tokens, serving.load, now);
    let line = Line { slots: serving.slots, out: track.in_flight, unread: track.unread, evicted };
    line.cost(floor, uncached, answer)
}

/// What stands before a request on a replica, and what it pushes out.
pub(super) struct Line {
    pub(super) slots: u32,
    pub(super) out: u32,
    pub(super) unread: u32,
    pub(super) evicted: f64,
}

impl Line {
    /// Never below the floor's own cost, and never falling with more evicted, not even by rounding: each step grows.
    pub(super) fn cost(&self, floor: &Floor, uncached: f64, answer: f64) -> f64 {
        let (out, slots) = (f64::from(self.out), f64::from(self.slots));
        let step = f64::from(floor.base) + f64::from(floor.each) * (out + 1.0).min(slots);
        let over = out + 1.0 - slots;
        let turns = if over > 0.0 { 1.0 + over / slots } else { 1.0 };
        let tokens = f64::from(self.unread) + self.evicted + uncached * (1.0 + out);
        (floor.fixed + tokens * f64::from(floor.prompt) + answer * step * turns) * floor.factor
    }
}

impl Cost {
    /// Of a request with `uncached` prompt tokens and an answer of `answer` tokens.
    pub(super) fn of(
        serving: &Serving,
        rates: &Rates,
        track: Option<&Track>,
        uncached: f64,
        answer: f64,
        now: Moment,
    ) -> Self {
        let out = track.map_or(0, |track| track.in_flight);
        let slots = f64::from(serving.slots);
        let streams = f64::from(out) + 1.0;
        let (base, each, prefill_s) =
            (f64::from(rates.decode.0), f64::from(rates.decode.1), f64::from(rates.prefill_s));
        let step = base + each * streams.min(slots);
        let unread = track.map_or(0.0, |track| f64::from(track.unread));
        let evicted =
            track.map_or(0.0, |track| track.evicted(uncached, serving.cache_tokens, serving.load, now));
        Self {
            rtt: f64::from(serving.rtt_s),
            load: f64::from(serving.load_s),
            prefill: (unread + uncached) * prefill_s,
            wait: (streams - slots).max(0.0) * answer * step / slots,
            decode: answer * step,
            eviction: evicted * prefill_s,
            interference: f64::from(out) * uncached * prefill_s,
            kv: kv_pressure(serving.kv_used),
            bias: f64::from(rates.bias),
            heat: f64::from(serving.heat),
            step,
        }
    }

    fn sum(&self) -> f64 {
        self.ttft() + self.decode + self.eviction + self.interference + self.kv
    }

    fn ttft(&self) -> f64 {
        self.rtt + self.load + self.prefill + self.wait
    }

    /// What candidates are compared by.
    pub(super) fn total(&self) -> f64 {
        self.sum() * self.bias * self.heat
    }

    /// What will be compared with what the request takes: before the bias.
    pub(super) fn predicted(&self) -> Predicted {
        Predicted { ttft_s: self.ttft(), token_s: self.step }
    }

    /// Seconds to the first content, as they are promised.
    pub(super) fn ttft_s(&self) -> f64 {
        self.ttft() * self.bias
    }

    /// Seconds to the end of a typical answer, as they are promised.
    pub(super) fn answer_s(&self) -> f64 {
        (self.ttft() + self.decode) * self.bias
    }

    /// Seconds for each token of the answer, as they are promised.
    pub(super) fn token_s(&self) -> f64 {
        self.step * self.bias
    }

    /// The parts that are not zero; they add up to [`Cost::total`].
    pub(super) fn terms(&self) -> Vec<Term> {
        let sum = self.sum();
        let all = [
            ("rtt", self.rtt),
            ("load", self.load),
            ("prefill", self.prefill),
            ("wait", self.wait),
            ("decode", self.decode),
            ("eviction", self.eviction),
            ("interference", self.interference),
            ("kv", self.kv),
            ("bias", sum * (self.bias - 1.0)),
            ("heat", sum * self.bias * (self.heat - 1.0)),
        ];
        let is_there = |term: &Term| term.1 != 0.0;
        let mut terms = Vec::with_capacity(all.iter().filter(|term| is_there(term)).count());
        terms.extend(all.into_iter().filter(is_there));
        terms
    }
}
