//! Which of the ranked replicas a request gets now, if any: the rule that keeps running requests within slots.

use crate::id::ModelId;
use crate::routing::Candidate;
use crate::units::Moment;
use std::time::Duration;

/// An engine that does not tell its slots queues by itself; the router sends it no more than this at once, as many as
/// an agent takes streams. Ollama holds 512 requests and refuses more by itself; vLLM and proxies serve thousands.
pub const UNTOLD_SLOTS: u32 = 8192;

/// Whether a replica may be given the request, apart from its slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fitness {
    /// It may.
    Fit,
    /// It has failed several times, or its machine is silent: only where nobody fit is left.
    Doubtful,
    /// Its engine holds another model that would have to leave; at this moment that changes.
    Held(Moment),
}

/// What the request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The replica at this place of the ranking.
    At(usize),
    /// Nothing now: every replica that may serve it is at its slots, which are this many together.
    Full {
        /// The model of the first of them.
        model: ModelId,
        /// Their slots.
        slots: u32,
    },
    /// Nothing now, although something is free.
    Held {
        /// The model it is held for.
        model: ModelId,
        /// When to look again.
        until: Moment,
    },
}

/// Requests that a replica is given at once.
#[must_use]
pub fn slots_of(candidate: &Candidate) -> u32 {
    // An engine that says 0 still takes one: otherwise it would never get any.
    candidate.slots.map_or(UNTOLD_SLOTS, |slots| slots.max(1))
}

/// Whether a replica has a slot free.
#[must_use]
pub fn has_room(candidate: &Candidate) -> bool {
    candidate.in_flight < slots_of(candidate)
}

/// Picks from `ranked` (best first) for a request that has waited for `waited` at `now`.
///
/// The first with a free slot gets it, unless a better one that is full is predicted to be done sooner with all its
/// waiting: then the request waits for that, but no longer than it would gain.
#[must_use]
pub fn choose(
    ranked: &[Candidate],
    waited: Duration,
    now: Moment,
    fitness: impl Fn(&Candidate) -> Fitness,
) -> Option<Choice> {
    let judged: Vec<Fitness> = ranked.iter().map(fitness).collect();
    let anybody_fit = judged.iter().any(|&fitness| fitness != Fitness::Doubtful);
    let (mut slots, mut full, mut held) = (0_u32, None::<&Candidate>, None::<(&Candidate, Moment)>);
    let mut sooner = None::<f64>;
    for (at, (candidate, &fitness)) in ranked.iter().zip(&judged).enumerate() {
        if fitness == Fitness::Doubtful && anybody_fit {
            continue;
        }
        if let Fitness::Held(until) = fitness {
            let first = held.is_none_or(|(_, other)| until < other);
            held = if first { Some((candidate, until)) } else { held };
            continue;
        }
        if !has_room(candidate) {
            slots = slots.saturating_add(slots_of(candidate));
            full.get_or_insert(candidate);
            if let Some(seconds) = candidate.predicted_s {
                sooner = Some(sooner.map_or(seconds, |other| other.min(seconds)));
            }
            continue;
        }
        let gain = sooner.zip(candidate.predicted_s).map_or(0.0, |(full, free)| (free - full).max(0.0));
        // A day is for ever here; larger numbers would only overflow.
        let gain = Duration::from_secs_f64(gain.min(86_400.0));
        if let Some(better) = full
            && gain > waited
        {
            // Never `now` itself: the caller would look again at once, for ever.
            let until = now.plus(gain.saturating_sub(waited).max(Duration::from_millis(1)));
            return Some(Choice::Held { model: better.model.clone(), until });
        }
        return Some(Choice::At(at));
    }
    match (full, held) {
        (_, Some((candidate, until))) => Some(Choice::Held { model: candidate.model.clone(), until }),
        (Some(candidate), None) => Some(Choice::Full { model: candidate.model.clone(), slots }),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::tests::{machine_id, model_id};

    const NOW: Moment = Moment(1_000_000_000);

    fn candidate(machine: &str, in_flight: u32, slots: Option<u32>, predicted_s: Option<f64>) -> Candidate {
        let named = Candidate::new(machine_id(machine), model_id("m"));
        Candidate { in_flight, slots, predicted_s, ..named }
    }

    fn pick(ranked: &[Candidate], waited_s: u64) -> Option<Choice> {
        choose(ranked, Duration::from_secs(waited_s), NOW, |_| Fitness::Fit)
    }

    fn held(until: Moment) -> Option<Choice> {
        Some(Choice::Held { model: model_id("m"), until })
    }

    #[test]
    fn a_full_replica_is_passed_over_for_one_with_a_free_slot() {
        let ranked = [candidate("a", 2, Some(2), None), candidate("b", 1, Some(2), None)];
        assert_eq!(pick(&ranked, 0), Some(Choice::At(1)));
    }

    #[test]
    fn with_every_slot_taken_the_request_waits_for_all_of_them() {
        let ranked = [candidate("a", 2, Some(2), None), candidate("b", 3, Some(1), None)];
        assert_eq!(pick(&ranked, 0), Some(Choice::Full { model: model_id("m"), slots: 3 }));
        assert_eq!(pick(&[], 0), None);
    }

    #[test]
    fn a_fast_machine_that_is_full_is_waited_for_but_no_longer_than_that_gains() {
        let ranked = [candidate("fast", 2, Some(2), Some(2.0)), candidate("slow", 0, Some(2), Some(22.0))];
        assert_eq!(pick(&ranked, 0), held(NOW.plus(Duration::from_secs(20))));
        assert_eq!(pick(&ranked, 19), held(NOW.plus(Duration::from_secs(1))));
        assert_eq!(pick(&ranked, 20), Some(Choice::At(1)));
    }

    #[test]
    fn an_engine_without_a_count_of_slots_takes_many_but_not_all() {
        assert_eq!(pick(&[candidate("a", UNTOLD_SLOTS - 1, None, None)], 0), Some(Choice::At(0)));
        let full = pick(&[candidate("a", UNTOLD_SLOTS, None, None)], 0);
        assert_eq!(full, Some(Choice::Full { model: model_id("m"), slots: UNTOLD_SLOTS }));
        assert_eq!(pick(&[candidate("a", 0, Some(0), None)], 0), Some(Choice::At(0)));
    }

    #[test]
    fn a_doubtful_replica_with_free_slots_does_not_draw_requests_from_a_full_one_that_works() {
        let ranked = [candidate("a", 2, Some(2), None), candidate("b", 0, Some(2), None)];
        let doubt = |c: &Candidate| {
            if c.machine.as_str() == "b" { Fitness::Doubtful } else { Fitness::Fit }
        };
        let choice = choose(&ranked, Duration::ZERO, NOW, doubt);
        assert_eq!(choice, Some(Choice::Full { model: model_id("m"), slots: 2 }));
        assert_eq!(choose(&ranked[1..], Duration::ZERO, NOW, doubt), Some(Choice::At(0)), "the last one");
    }

    #[test]
    fn a_held_replica_gets_nothing_until_its_moment_while_others_may() {
        let ranked = [candidate("a", 0, Some(2), None), candidate("b", 0, Some(2), None)];
        let until = NOW.plus(Duration::from_secs(3));
        let both = choose(&ranked, Duration::ZERO, NOW, |_| Fitness::Held(until));
        assert_eq!(both, held(until));
        let one = |c: &Candidate| {
            if c.machine.as_str() == "a" { Fitness::Held(until) } else { Fitness::Fit }
        };
        assert_eq!(choose(&ranked, Duration::ZERO, NOW, one), Some(Choice::At(1)));
    }
}
