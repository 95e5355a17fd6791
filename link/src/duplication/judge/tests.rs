//! The judge beside paths that lose by chance, the same ones in each run.

use super::*;

const LOOK: Duration = Duration::from_millis(250);
const MINUTE: u64 = 60;

/// A path that loses so many of 10,000 packets, sent once and sent twice.
struct Path {
    judge: Judge,
    now: Instant,
    counts: Counts,
    once: u64,
    twice: u64,
    /// Lost so many at once.
    burst: u64,
    per_second: u64,
    /// Of ten packets so many are copied while the judge says so.
    copied: u64,
    is_twice: bool,
    dice: u64,
}

impl Path {
    fn losing(once: u64, twice: u64) -> Self {
        let now = Instant::now();
        let judge = Judge::new(now, Counts::default());
        let (counts, is_twice, dice) = (Counts::default(), false, 7);
        Self { judge, now, counts, once, twice, burst: 1, per_second: 1000, copied: 10, is_twice, dice }
    }

    fn die(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice
    }

    /// The share of so many seconds in which packets are sent twice.
    fn seconds(&mut self, seconds: u64) -> f64 {
        let looks = seconds * 4;
        let mut twice = 0;
        for _ in 0..looks {
            self.now += LOOK;
            for _ in 0..self.per_second / 4 {
                self.counts.sent += 1;
                self.counts.copied += u64::from(self.is_twice && self.die() % 10 < self.copied);
                let of = if self.is_twice { self.twice } else { self.once };
                if self.die() % (10_000 * self.burst) < of {
                    self.counts.lost += self.burst;
                }
            }
            self.is_twice = self.judge.look(self.now, self.counts);
            twice += u64::from(self.is_twice);
        }
        twice as f64 / looks as f64
    }
}

#[test]
fn a_path_that_loses_little_is_hardly_ever_sent_packets_twice() {
    for (per_second, lost, most) in [(1000, 0, 0.0), (1000, 10, 0.1), (100, 10, 0.1), (20, 10, 0.1)] {
        let share = Path { per_second, ..Path::losing(lost, 0) }.seconds(60 * MINUTE);
        assert!(share <= most, "{per_second} packets/s, {lost} of 10,000 lost: {share} of the time");
    }
}

#[test]
fn a_path_that_loses_one_in_a_hundred_is_sent_small_packets_twice_nearly_always() {
    for (per_second, least) in [(1000, 0.98), (100, 0.95), (20, 0.85)] {
        let share = Path { per_second, ..Path::losing(100, 1) }.seconds(60 * MINUTE);
        assert!(share >= least, "{per_second} packets/s: {share} of the time");
    }
}

#[test]
fn a_path_is_known_to_be_lossy_within_a_thousand_packets_however_long_it_was_clean() {
    let mut path = Path::losing(0, 0);
    path.seconds(60 * MINUTE);
    path.once = 200;
    path.seconds(1);
    assert!(path.is_twice);
}

#[test]
fn where_copies_do_not_help_none_are_sent_after_some_seconds() {
    for burst in [1, 5, 20] {
        let share = Path { burst, ..Path::losing(100, 100) }.seconds(60 * MINUTE);
        assert!(share <= 0.15, "bursts of {burst}: {share} of the time");
    }
}

#[test]
fn of_a_path_that_loses_much_a_tenth_of_the_losses_may_stay() {
    let share = Path::losing(1000, 100).seconds(60 * MINUTE);
    assert!(share >= 0.95, "{share} of the time");
}

#[test]
fn what_large_sends_lose_says_nothing_against_copies() {
    // A third is copied, and the rest goes on being lost.
    let share = Path { copied: 3, ..Path::losing(100, 70) }.seconds(10 * MINUTE);
    assert!(share >= 0.9, "{share} of the time");
}

#[test]
fn losses_from_before_that_are_known_late_do_not_count_against_copies() {
    let mut path = Path::losing(100, 0);
    while !path.is_twice {
        path.seconds(1);
    }
    path.counts.lost += 40;
    assert!(path.seconds(30) > 0.99);
}

#[test]
fn a_path_that_no_longer_loses_is_sent_packets_once_again() {
    let mut path = Path::losing(100, 1);
    path.seconds(30 * MINUTE);
    path.once = 0;
    path.twice = 0;
    path.seconds(9 * MINUTE);
    assert!(path.seconds(60 * MINUTE) < 0.001);
}

#[test]
fn an_outage_makes_no_lossy_path() {
    let mut path = Path { per_second: 20, ..Path::losing(0, 0) };
    path.seconds(MINUTE);
    // All that was under way, and a probe.
    path.counts.sent += 3;
    path.counts.lost += 8;
    assert!(path.seconds(MINUTE) < 0.001);
}

#[test]
fn what_was_lost_before_a_judge_came_is_nothing_to_it() {
    let behind = Counts { sent: 100_000, lost: 5000, copied: 0 };
    let mut path = Path::losing(0, 0);
    (path.judge, path.counts) = (Judge::new(path.now, behind), behind);
    assert!(path.seconds(MINUTE) < 0.001);
}
