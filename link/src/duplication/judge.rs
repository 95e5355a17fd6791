//! Whether packets to a peer should be sent twice: a pure answer to counts and a clock.
//!
//! ```text
//!       3 or more lost, and 0.3 % or more         a second        as many are lost as before
//! Once ───────────────────────────────────> Begun ───────> Twice ───────────────────────────> NoHelp
//!  ^                                                         │ a minute                          │ a minute
//!  └─────────────────────────────────────────────────────────┴───────────────────────────────────┘
//! ```
//!
//! While packets are sent twice losses are not seen, so after a minute they are sent once until some are lost; at 1,000
//! packets a second with one in a hundred lost that takes a third of a second.

use std::time::Duration;
use tokio::time::Instant;

/// Losses below this many say nothing of a rate.
const SOME: u64 = 3;

/// The share of packets lost from which on they are sent twice: one token in 300 that comes late is noticed by nobody.
const LOSSY: f64 = 0.003;

/// Packets after which counting begins anew, so that old losses are forgotten: enough to see [`SOME`] at [`LOSSY`].
const WINDOW: u64 = 2000;

/// Sent twice, this share of the losses must be gone. Independent losses would leave the rate's square; what is lost in
/// bursts, or because the link is full, is lost twice as well.
const HELPS: f64 = 0.5;

/// Packets sent twice before it is judged whether it helps.
const ENOUGH: u64 = 300;

/// What was sent once before is known to be lost after this; a round trip and a half by satellite.
const SETTLES: Duration = Duration::from_secs(1);

/// How long an answer stands.
const STANDS: Duration = Duration::from_secs(60);

/// What is thought of one path.
#[derive(Debug)]
pub(super) struct Judge {
    state: State,
    /// Counts and time since which is counted.
    sent: u64,
    lost: u64,
    since: Instant,
    /// The share lost when packets were last sent once.
    before: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Once,
    Begun,
    Twice,
    NoHelp,
}

impl Judge {
    pub(super) fn new(now: Instant) -> Self {
        Self { state: State::Once, sent: 0, lost: 0, since: now, before: 0.0 }
    }

    /// The share of packets that was lost when last they were found to be better sent twice.
    pub(super) fn before(&self) -> f64 {
        self.before
    }

    /// Whether packets should be sent twice, after `sent` and `lost` of them in all.
    pub(super) fn look(&mut self, now: Instant, sent: u64, lost: u64) -> bool {
        if sent < self.sent || lost < self.lost {
            // Another path, which counts from 0.
            (self.sent, self.lost) = (0, 0);
        }
        let (packets, losses) = (sent - self.sent, lost - self.lost);
        let share = losses as f64 / packets.max(1) as f64;
        let since = now.saturating_duration_since(self.since);
        let next = match self.state {
            State::Once if losses >= SOME && share >= LOSSY => State::Begun,
            State::Once if packets >= WINDOW => State::Once,
            State::Begun if since >= SETTLES => State::Twice,
            State::Twice if packets >= ENOUGH && losses >= SOME && share > self.before * HELPS => {
                State::NoHelp
            }
            State::Twice | State::NoHelp if since >= STANDS => State::Once,
            stays @ (State::Once | State::Begun | State::Twice | State::NoHelp) => return stays.is_twice(),
        };
        if next == State::Begun {
            self.before = share;
        }
        (self.state, self.sent, self.lost, self.since) = (next, sent, lost, now);
        next.is_twice()
    }
}

impl State {
    fn is_twice(self) -> bool {
        matches!(self, Self::Begun | Self::Twice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A path that loses so many of a thousand packets, sent once and sent twice; 1,000 packets a second.
    struct Path {
        judge: Judge,
        now: Instant,
        sent: u64,
        lost: u64,
        once: u64,
        twice: u64,
        is_twice: bool,
    }

    impl Path {
        fn losing(once: u64, twice: u64) -> Self {
            let now = Instant::now();
            Self { judge: Judge::new(now), now, sent: 0, lost: 0, once, twice, is_twice: false }
        }

        /// Whether packets are sent twice after each of so many seconds.
        fn seconds(&mut self, seconds: u32) -> Vec<bool> {
            (0..seconds)
                .map(|_| {
                    self.now += SECOND;
                    self.sent += 1000;
                    self.lost += if self.is_twice { self.twice } else { self.once };
                    self.is_twice = self.judge.look(self.now, self.sent, self.lost);
                    self.is_twice
                })
                .collect()
        }
    }

    #[test]
    fn a_path_that_loses_nothing_or_little_is_sent_everything_once() {
        assert!(!Path::losing(0, 0).seconds(300).contains(&true));
        assert!(!Path::losing(2, 0).seconds(300).contains(&true));
    }

    #[test]
    fn a_path_that_loses_one_in_a_hundred_is_sent_small_packets_twice_but_for_a_look_each_minute() {
        let seconds = Path::losing(10, 0).seconds(300);
        assert_eq!(seconds.iter().filter(|twice| !**twice).count(), 4, "{seconds:?}");
        assert!(seconds[0] && seconds[59]);
    }

    #[test]
    fn a_path_that_loses_as_much_of_what_is_sent_twice_is_left_alone_for_a_minute() {
        let seconds = Path::losing(10, 8).seconds(300);
        assert!(seconds.iter().filter(|twice| **twice).count() <= 10, "{seconds:?}");
        assert!(seconds[0] && !seconds[2] && !seconds[60]);
    }

    #[test]
    fn losses_from_before_that_are_known_late_do_not_count_against_it() {
        let mut path = Path::losing(10, 0);
        path.seconds(1);
        path.lost += 10;
        assert!(path.seconds(30).iter().all(|twice| *twice));
    }

    #[test]
    fn half_of_the_losses_gone_is_worth_it() {
        let seconds = Path::losing(10, 5).seconds(30);
        assert!(seconds.iter().all(|twice| *twice), "{seconds:?}");
    }

    #[test]
    fn a_path_that_no_longer_loses_is_sent_packets_once_again() {
        let mut path = Path::losing(10, 0);
        path.seconds(10);
        path.once = 0;
        let seconds = path.seconds(120);
        assert!(!seconds[51..].contains(&true), "{seconds:?}");
    }

    #[test]
    fn a_new_path_counts_from_its_own_beginning() {
        let mut path = Path::losing(2, 0);
        path.seconds(100);
        (path.sent, path.lost) = (0, 0);
        assert!(!path.seconds(100).contains(&true));
    }

    #[test]
    fn old_losses_do_not_add_up_to_a_lossy_path() {
        // One in a thousand for ever is more than three in the end.
        assert!(!Path::losing(1, 0).seconds(1000).contains(&true));
    }
}
