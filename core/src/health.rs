//! Silence and failure: who is alive, and which replica is left alone for a while.

use crate::units::Moment;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Silent for this long = suspect: no new requests while anybody else can serve. Two and a half heartbeats.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(2_500);
/// Silent for this long = offline.
pub const OFFLINE_AFTER: Duration = Duration::from_secs(5);

/// What is believed of a machine.
///
/// ```text
///          silent 2.5 s, failed request, link lost           silent 5 s
/// Alive ───────────────────────────────────────────► Suspect ──────────► Offline
///   ▲────────────────── heard again ────────────────────┴───────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// Heard of lately.
    Alive,
    /// Silent for a moment, or a request to it has just failed.
    Suspect,
    /// Silent for long.
    Offline,
}

/// The signs of life of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    heard: Moment,
    /// The control stream is gone, or a request could not reach the machine, since this moment.
    lost: Option<Moment>,
}

impl Pulse {
    /// First heard of at `now`.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self { heard: now, lost: None }
    }

    /// A message came.
    pub fn heard(&mut self, now: Moment) {
        *self = Self::new(now);
    }

    /// The connection broke, or a request could not reach the machine.
    pub fn lost(&mut self, now: Moment) {
        self.lost.get_or_insert(now);
    }

    /// When the last message came.
    #[must_use]
    pub fn last_heard(&self) -> Moment {
        self.heard
    }

    /// What to believe at `now`.
    #[must_use]
    pub fn liveness(&self, now: Moment) -> Liveness {
        let silence = now.since(self.heard);
        if silence >= OFFLINE_AFTER {
            Liveness::Offline
        } else if silence >= SUSPECT_AFTER || self.lost.is_some() {
            Liveness::Suspect
        } else {
            Liveness::Alive
        }
    }

    /// When [`Pulse::liveness`] will next change if nothing more is heard.
    #[must_use]
    pub fn next_change(&self, now: Moment) -> Option<Moment> {
        [self.heard.plus(SUSPECT_AFTER), self.heard.plus(OFFLINE_AFTER)].into_iter().find(|&at| at > now)
    }
}

/// Consecutive failures of one replica. After three it is left alone for a growing while; then the router asks it for
/// one token before users' requests go there again, and a success forgives all. Three and 5 s are Envoy's outlier
/// defaults scaled to a home mesh; five minutes is long enough for a person to notice.
///
/// ```text
///         3 failures in a row          the pause is over
/// Closed ────────────────────► Open ───────────────────► Half open
///   ▲                           ▲──── one more failure ──────┤
///   └──────────────────────── a success ─────────────────────┘
/// ```
/// Until it is closed, requests go there only where nobody else can serve: the last replica is never shut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Breaker {
    failures: u32,
    closed_again: Moment,
    /// It asked to be left alone until this moment, which is no failure.
    busy_until: Moment,
}

impl Breaker {
    const TRIPS_AT: u32 = 3;
    const FIRST_PAUSE: Duration = Duration::from_secs(5);
    const LONGEST_PAUSE: Duration = Duration::from_secs(300);
    /// No engine may keep itself out for longer: a wrong `Retry-After` of a day must not cost a day.
    const LONGEST_REST: Duration = Duration::from_secs(60);

    /// A request failed through the replica's fault.
    pub fn failed(&mut self, now: Moment) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= Self::TRIPS_AT {
            let doublings = (self.failures - Self::TRIPS_AT).min(10);
            self.closed_again = now.plus((Self::FIRST_PAUSE * (1 << doublings)).min(Self::LONGEST_PAUSE));
        }
    }

    /// A request succeeded.
    pub fn succeeded(&mut self) {
        // A rest that it asked for is no failure: an answer that was under way does not end it.
        *self = Self { busy_until: self.busy_until, ..Self::default() };
    }

    /// The replica takes no more requests and said for how long. That is no failure.
    pub fn asked_for_rest(&mut self, rest: Duration, now: Moment) {
        self.busy_until = self.busy_until.max(now.plus(rest.min(Self::LONGEST_REST)));
    }

    /// How long the replica is still to be left alone, with the failures that led there. Zero and some failures =
    /// half open: it has rested, and nobody knows yet whether that helped.
    #[must_use]
    pub fn open_for(&self, now: Moment) -> Option<(Duration, u32)> {
        let left = self.closed_again.max(self.busy_until).since(now);
        (left > Duration::ZERO || self.failures >= Self::TRIPS_AT).then_some((left, self.failures))
    }

    /// When [`Breaker::open_for`] changes by time alone.
    #[must_use]
    pub fn next_change(&self, now: Moment) -> Option<Moment> {
        Some(self.closed_again.max(self.busy_until)).filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment(1_000_000).plus(Duration::from_millis(ms))
    }

    #[test]
    fn silence_makes_suspect_then_offline_and_a_word_heals() {
        let mut pulse = Pulse::new(at(0));
        assert_eq!(pulse.liveness(at(2_499)), Liveness::Alive);
        assert_eq!(pulse.liveness(at(2_500)), Liveness::Suspect);
        assert_eq!(pulse.liveness(at(5_000)), Liveness::Offline);
        assert_eq!(pulse.next_change(at(0)), Some(at(2_500)));
        assert_eq!(pulse.next_change(at(2_500)), Some(at(5_000)));
        assert_eq!(pulse.next_change(at(5_000)), None);
        pulse.heard(at(6_000));
        assert_eq!(pulse.liveness(at(6_000)), Liveness::Alive);
    }

    #[test]
    fn a_lost_connection_makes_suspect_at_once() {
        let mut pulse = Pulse::new(at(0));
        pulse.lost(at(10));
        assert_eq!(pulse.liveness(at(10)), Liveness::Suspect);
        pulse.heard(at(20));
        assert_eq!(pulse.liveness(at(20)), Liveness::Alive);
    }

    #[test]
    fn three_failures_open_the_breaker_and_each_more_doubles_the_pause() {
        let mut breaker = Breaker::default();
        breaker.failed(at(0));
        breaker.failed(at(0));
        assert_eq!(breaker.open_for(at(0)), None);
        breaker.failed(at(0));
        assert_eq!(breaker.open_for(at(0)), Some((Duration::from_secs(5), 3)));
        breaker.failed(at(0));
        assert_eq!(breaker.open_for(at(0)), Some((Duration::from_secs(10), 4)));
        for _ in 0..100 {
            breaker.failed(at(0));
        }
        assert_eq!(breaker.open_for(at(0)).map(|open| open.0), Some(Duration::from_secs(300)));
        breaker.succeeded();
        assert_eq!(breaker.open_for(at(0)), None);
    }

    #[test]
    fn after_its_pause_a_breaker_is_half_open_until_a_success_closes_it() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            breaker.failed(at(0));
        }
        assert_eq!(breaker.next_change(at(0)), Some(at(5_000)));
        assert_eq!(breaker.open_for(at(5_000)), Some((Duration::ZERO, 3)));
        assert_eq!(breaker.next_change(at(5_000)), None);
        breaker.failed(at(6_000));
        assert_eq!(breaker.open_for(at(6_000)), Some((Duration::from_secs(10), 4)));
        breaker.succeeded();
        assert_eq!(breaker.open_for(at(6_000)), None);
    }

    #[test]
    fn who_asks_for_rest_gets_it_for_a_bounded_time_and_without_blame() {
        let mut breaker = Breaker::default();
        breaker.asked_for_rest(Duration::from_secs(7), at(0));
        assert_eq!(breaker.open_for(at(0)), Some((Duration::from_secs(7), 0)));
        assert_eq!(breaker.open_for(at(7_000)), None);
        breaker.asked_for_rest(Duration::from_secs(86_400), at(8_000));
        assert_eq!(breaker.open_for(at(8_000)), Some((Duration::from_secs(60), 0)));
    }
}
