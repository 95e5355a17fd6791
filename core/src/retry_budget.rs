//! How many requests may be tried again on another machine. Without a bound, a mesh whose machines all fail would
//! double and triple its own load just then.

use crate::units::Moment;

/// Retries each request pays for: 20 %.
const PER_REQUEST: f64 = 0.2;
/// Retries each second pays for, so that a quiet mesh can retry at all.
const PER_SECOND: f64 = 1.0;
/// What can be saved up: one machine with 32 requests dies, and each of them is tried again at once.
const MOST: f64 = 32.0;

/// A purse of retries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    left: f64,
    filled: Moment,
}

impl RetryBudget {
    /// A full one.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self { left: MOST, filled: now }
    }

    /// A request has come.
    pub fn request(&mut self, now: Moment) {
        self.fill(now);
        self.left = (self.left + PER_REQUEST).min(MOST);
    }

    /// Takes one retry out, or says that there is none.
    pub fn take(&mut self, now: Moment) -> bool {
        self.fill(now);
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }

    fn fill(&mut self, now: Moment) {
        self.left = (self.left + now.since(self.filled).as_secs_f64() * PER_SECOND).min(MOST);
        self.filled = self.filled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn at(ms: u64) -> Moment {
        Moment(1_000_000_000).plus(Duration::from_millis(ms))
    }

    #[test]
    fn a_full_purse_lets_the_requests_of_one_dead_machine_go_on() {
        let mut budget = RetryBudget::new(at(0));
        assert_eq!((0..100).filter(|_| budget.take(at(0))).count(), 32);
        assert!(!budget.take(at(999)));
        assert!(budget.take(at(2_000)), "each second pays for one");
    }

    proptest! {
        #[test]
        fn over_any_time_there_are_no_more_retries_than_a_fifth_and_one_a_second(
            steps in proptest::collection::vec((0..500u64, 0..4u32), 1..200)
        ) {
            let (mut budget, mut now) = (RetryBudget::new(at(0)), 0);
            let (mut requests, mut retries) = (0u32, 0u32);
            for (ms, wanted) in steps {
                now += ms;
                requests += 1;
                budget.request(at(now));
                retries += (0..wanted).map(|_| u32::from(budget.take(at(now)))).sum::<u32>();
                let bound = MOST + f64::from(requests) * PER_REQUEST + now as f64 / 1_000.0 * PER_SECOND;
                prop_assert!(f64::from(retries) <= bound + 1e-6);
            }
        }
    }
}
