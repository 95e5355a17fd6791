//! Whether packets to a peer should be sent twice: an answer to counts and to the time that is told.
//!
//! ```text
//!           alarm            a second         alarm, and over half is still lost
//!   Once ──────────> Begun ───────────> Twice ──────────────────────────────────> NoHelp
//!    ^                                    │ minutes                                  │ a minute
//!    └────────────────────────────────────┴──────────────────────────────────────────┘
//! ```
//! While packets are sent twice losses are hardly seen, so from time to time they are sent once until the alarm comes back: after
//! a minute at first, and after up to eight where it came back each time.
//!
//! The alarm is Page's cumulative sum (Biometrika 41, 1954) of the evidence for a path that loses 1 % against one that loses
//! 0.1 %: a loss adds ln 10, a packet takes off the difference of the two rates, and below 0 it stays at 0. So it comes at 0.4 %
//! and more, after some 700 packets at 1 %, and neither for losses long ago nor for three by chance.

use std::time::Duration;
use tokio::time::Instant;

/// What one loss adds to the evidence: ln(1 % ÷ 0.1 %).
const LOSS: f64 = std::f64::consts::LN_10;

/// What one packet takes off: 1 % − 0.1 %.
const PACKET: f64 = 0.009;

/// The evidence at which a path is called lossy: four losses at once. Less is met by chance within minutes.
const ALARM: f64 = 4.0 * LOSS;

/// Of one look no more losses count than this share of its packets, or two: what is lost beyond that is lost to an
/// outage, where nothing passes, a second packet neither.
const OUTAGE: f64 = 0.3;

/// Sent twice, this share of the losses must be gone. Independent losses would leave the rate's square; what is lost in
/// bursts, or because the link is full, is lost twice as well.
const HELPS: f64 = 0.5;

/// The share of packets that must have been copied for a look to tell whether copies help: large sends are never copied, and
/// go on being lost.
const COPIED: f64 = 0.5;

/// What was sent once before is known to be lost after this; a round trip and a half by satellite.
const SETTLES: Duration = Duration::from_secs(1);

/// How long an answer stands at first, and at most.
const STANDS: Duration = Duration::from_secs(60);
const STANDS_AT_MOST: Duration = Duration::from_secs(480);

/// What is counted of a path, since it is counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    /// Packets sent, copies left out.
    pub(super) sent: u64,
    /// Packets that QUIC takes for lost: no copy came either.
    pub(super) lost: u64,
    /// Packets that were copied.
    pub(super) copied: u64,
}

/// What is thought of one path.
#[derive(Debug)]
pub(super) struct Judge {
    state: State,
    since: Instant,
    last: Counts,
    evidence: f64,
    /// Packets and losses since the evidence was 0.
    packets: f64,
    losses: f64,
    /// The share lost when the path was last called lossy.
    before: f64,
    stands: Duration,
    /// Packets were sent twice until now, and nothing speaks against it yet.
    again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Once,
    Begun,
    Twice,
    NoHelp,
}

impl Judge {
    /// A judge of a path that has `counts` behind it.
    pub(super) fn new(now: Instant, counts: Counts) -> Self {
        Self {
            state: State::Once,
            since: now,
            last: counts,
            evidence: 0.0,
            packets: 0.0,
            losses: 0.0,
            before: 0.0,
            stands: STANDS,
            again: false,
        }
    }

    /// The share of packets that was lost when the path was last called lossy.
    pub(super) fn before(&self) -> f64 {
        self.before
    }

    /// Whether packets should be sent twice from `now` on.
    pub(super) fn look(&mut self, now: Instant, counts: Counts) -> bool {
        let since = now.saturating_duration_since(self.since);
        let alarm = self.weigh(counts);
        match self.state {
            State::Once if alarm => {
                self.before = self.share();
                self.stands = if self.again { (self.stands * 2).min(STANDS_AT_MOST) } else { STANDS };
                self.enter(State::Begun, now);
            }
            State::Begun if since >= SETTLES => self.enter(State::Twice, now),
            State::Twice if alarm && self.share() > self.before * HELPS => {
                self.again = false;
                self.enter(State::NoHelp, now);
            }
            // It loses much and copies help: only less than all.
            State::Twice if alarm => self.forget(),
            State::Twice if since >= self.stands => {
                self.enter(State::Once, now);
                self.again = true;
                self.evidence = ALARM / 2.0;
            }
            State::NoHelp if since >= STANDS => self.enter(State::Once, now),
            State::Once | State::Begun | State::Twice | State::NoHelp => {}
        }
        matches!(self.state, State::Begun | State::Twice)
    }

    /// Adds what happened since the last look to the evidence; whether it is enough.
    fn weigh(&mut self, counts: Counts) -> bool {
        let packets = counts.sent.saturating_sub(self.last.sent) as f64;
        let lost = counts.lost.saturating_sub(self.last.lost) as f64;
        let copied = counts.copied.saturating_sub(self.last.copied) as f64;
        self.last = counts;
        let tells = self.state != State::Twice || copied >= packets * COPIED;
        if tells {
            let lost = lost.min((packets * OUTAGE).max(2.0));
            self.evidence += lost * LOSS - packets * PACKET;
            (self.packets, self.losses) = (self.packets + packets, self.losses + lost);
        }
        if self.evidence <= 0.0 {
            self.forget();
            self.again = false;
        }
        self.evidence >= ALARM
    }

    fn share(&self) -> f64 {
        self.losses / self.packets.max(1.0)
    }

    fn forget(&mut self) {
        (self.evidence, self.packets, self.losses) = (0.0, 0.0, 0.0);
    }

    fn enter(&mut self, state: State, now: Instant) {
        self.forget();
        (self.state, self.since) = (state, now);
    }
}

#[cfg(test)]
#[path = "judge/tests.rs"]
mod tests;
