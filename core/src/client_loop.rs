//! Notices a client that sends the same refused request again and again, and slows it down. Measured: OpenCode answers
//! a prompt that is too long by compacting and trying again for ever, 120 requests in 200 s, with successful
//! summaries in between; so only a success of the same size breaks the series.

use crate::units::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// Equal refusals within [`WINDOW`] before the client is slowed down. People and well-made clients do not send the
/// same mistake five times in a minute.
const PATIENCE: u32 = 5;
/// Refusals further apart than this have nothing to do with each other.
const WINDOW: Duration = Duration::from_secs(60);
/// The first pause; each refusal after it doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause: a person who has changed something does not want to wait longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Series that are remembered, some 64 bytes each; the one that is quiet for longest is forgotten first.
const REMEMBERED: usize = 4096;

/// Who sends what: a hash of the client's session or key, one of the kind of request, and the size of the body in
/// steps of about a fifth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Habit {
    who: u64,
    kind: u64,
    size: u16,
}

impl Habit {
    /// A request of this `kind` with a body of `bytes` of `who`.
    #[must_use]
    pub fn new(who: u64, kind: u64, bytes: u64) -> Self {
        // Four steps in each doubling.
        let size = ((bytes.max(1) as f64).log2() * 4.0).round();
        Self { who, kind, size: size as u16 }
    }
}

/// What a request was refused for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The kind of the refusal.
    pub code: &'static str,
    /// A hash of what is at fault: two faults of one code are not the same mistake.
    pub what: u64,
}

/// A request that is not even tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loops {
    /// What it was refused for each time.
    pub code: &'static str,
    /// How often in a row.
    pub times: u32,
    /// How long the client is to wait.
    pub pause: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Series {
    fault: Fault,
    times: u32,
    last: Moment,
    paused_until: Moment,
}

/// Series of refusals by habit.
#[derive(Debug, Clone, Default)]
pub struct ClientLoops {
    series: BTreeMap<Habit, Series>,
}

impl ClientLoops {
    /// Whether a request may be tried.
    ///
    /// # Errors
    /// [`Loops`] while its client is to wait.
    pub fn admits(&self, habit: Habit, now: Moment) -> Result<(), Loops> {
        match self.series.get(&habit) {
            Some(series) if series.paused_until > now => Err(Loops {
                code: series.fault.code,
                times: series.times,
                pause: series.paused_until.since(now),
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// A request was tried and refused for its own fault.
    pub fn refused(&mut self, habit: Habit, fault: Fault, now: Moment) {
        let fresh = Series { fault, times: 0, last: now, paused_until: Moment(0) };
        let series = self.series.entry(habit).or_insert(fresh);
        // A pause is no sign of having stopped: the window begins after it.
        let quiet_since = series.last.max(series.paused_until);
        if series.fault != fault || now.since(quiet_since) > WINDOW {
            *series = fresh;
        }
        series.times += 1;
        series.last = now;
        if series.times >= PATIENCE {
            let doublings = (series.times - PATIENCE).min(10);
            series.paused_until = now.plus((FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE));
        }
        while self.series.len() > REMEMBERED {
            let quietest = self.series.iter().min_by_key(|(_, series)| series.last.max(series.paused_until));
            let Some(quietest) = quietest.map(|(habit, _)| *habit) else { break };
            self.series.remove(&quietest);
        }
    }

    /// A request succeeded.
    pub fn succeeded(&mut self, habit: Habit) {
        self.series.remove(&habit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment(1_000_000_000).plus(Duration::from_millis(ms))
    }

    fn fault(code: &'static str) -> Fault {
        Fault { code, what: 0 }
    }

    /// A client that sends `habit` every `every_ms`, for as long as it is refused: how many requests were tried.
    fn tried(loops: &mut ClientLoops, habit: Habit, every_ms: u64, until_ms: u64) -> u32 {
        let (mut now, mut tried) = (0, 0);
        while now < until_ms {
            if loops.admits(habit, at(now)).is_ok() {
                tried += 1;
                loops.refused(habit, fault("context_length_exceeded"), at(now));
            }
            now += every_ms;
        }
        tried
    }

    #[test]
    fn a_client_that_repeats_a_refused_request_120_times_in_200_s_gets_through_a_dozen_times() {
        let tried = tried(&mut ClientLoops::default(), Habit::new(1, 0, 100_000), 1_667, 200_000);
        assert!((8..=13).contains(&tried), "{tried}");
    }

    #[test]
    fn pauses_grow_and_say_what_for() {
        let (mut loops, habit) = (ClientLoops::default(), Habit::new(1, 0, 100_000));
        for _ in 0..4 {
            loops.refused(habit, fault("invalid_request"), at(0));
        }
        assert_eq!(loops.admits(habit, at(0)), Ok(()));
        loops.refused(habit, fault("invalid_request"), at(0));
        let first = Loops { code: "invalid_request", times: 5, pause: Duration::from_secs(2) };
        assert_eq!(loops.admits(habit, at(0)), Err(first));
        assert_eq!(loops.admits(habit, at(2_000)), Ok(()), "then one more is tried");
        loops.refused(habit, fault("invalid_request"), at(2_000));
        let second = Loops { code: "invalid_request", times: 6, pause: Duration::from_secs(4) };
        assert_eq!(loops.admits(habit, at(2_000)), Err(second));
    }

    #[test]
    fn a_success_of_the_same_size_ends_a_series_and_one_of_another_size_does_not() {
        let (mut loops, long, short) =
            (ClientLoops::default(), Habit::new(1, 0, 100_000), Habit::new(1, 0, 9_000));
        for _ in 0..9 {
            loops.refused(long, fault("context_length_exceeded"), at(0));
            loops.succeeded(short);
        }
        assert!(loops.admits(long, at(1)).is_err());
        assert_eq!(loops.admits(short, at(1)), Ok(()));
        assert_eq!(loops.admits(Habit::new(2, 0, 100_000), at(1)), Ok(()), "somebody else");
        loops.succeeded(long);
        assert_eq!(loops.admits(long, at(1)), Ok(()));
    }

    #[test]
    fn another_mistake_or_a_quiet_minute_begins_anew() {
        let (mut loops, habit) = (ClientLoops::default(), Habit::new(1, 0, 500));
        for ms in [0, 1, 2, 3, 61_000, 61_001, 61_002, 61_003] {
            loops.refused(habit, fault("invalid_request"), at(ms));
        }
        loops.refused(habit, fault("unsupported"), at(61_004));
        assert_eq!(loops.admits(habit, at(61_004)), Ok(()));
    }

    #[test]
    fn different_faults_and_different_kinds_of_request_are_no_series() {
        let mut loops = ClientLoops::default();
        for what in 0..20 {
            loops.refused(Habit::new(1, 0, 500), Fault { code: "unsupported", what: what % 3 }, at(what));
            loops.refused(Habit::new(1, what, 500), fault("unsupported"), at(what));
        }
        for kind in 0..20 {
            assert_eq!(loops.admits(Habit::new(1, kind, 500), at(20)), Ok(()));
        }
    }

    #[test]
    fn memory_is_bounded_whoever_comes() {
        let mut loops = ClientLoops::default();
        for who in 0..REMEMBERED as u64 + 100 {
            loops.refused(Habit::new(who, 0, 1), fault("invalid_request"), at(who));
        }
        assert_eq!(loops.series.len(), REMEMBERED);
        assert!(!loops.series.contains_key(&Habit::new(0, 0, 1)), "the oldest went");
    }
}
