//! Whose turn it is beside urgency. A flood of urgent requests keeps the others waiting, but not out: one slot in eight
//! goes to the tier that had its turn longest ago. And how fast each tier gets on, for telling newcomers at once what
//! they would wait.

use super::Priority;
use crate::units::Moment;

/// One slot in so many that come free goes by turns and not by urgency.
const BY_TURNS: u64 = 8;
/// Weight of a new measurement of a tier's pace: about its last ten turns count.
const PACE_WEIGHT: f64 = 0.2;

const TIERS: usize = Priority::ALL.len();

/// The turns of all tiers.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    /// Slots that were given to requests that waited.
    given: u64,
    tiers: [Tier; TIERS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Tier {
    waiting: usize,
    /// Its last turn, as the number of a slot.
    last: u64,
    /// The same as a time, since it waits without a break.
    at: Option<Moment>,
    /// Seconds from one turn to the next, as long as some of it wait.
    pace: Option<f64>,
}

impl Turns {
    /// One of this tier waits from now on.
    pub(super) fn joined(&mut self, tier: Priority) {
        self.tiers[tier as usize].waiting += 1;
    }

    /// One of this tier waits no longer; `served` = it has a slot now.
    pub(super) fn left(&mut self, tier: Priority, served: bool, now: Moment) {
        let own = &mut self.tiers[tier as usize];
        own.waiting = own.waiting.saturating_sub(1);
        if served {
            self.given += 1;
            own.last = self.given;
            if let Some(at) = own.at.replace(now) {
                let seconds = now.since(at).as_secs_f64();
                own.pace = Some(own.pace.map_or(seconds, |pace| pace + PACE_WEIGHT * (seconds - pace)));
            }
        }
        if own.waiting == 0 {
            // A pace is that of a line; the next line may be another.
            (own.at, own.pace) = (None, None);
        }
    }

    /// The tier that goes first whatever is urgent, when its turn has come.
    pub(super) fn due(&self) -> Option<Priority> {
        let tiers = Priority::ALL.into_iter().filter(|tier| self.tiers[*tier as usize].waiting > 0);
        let due = tiers.min_by_key(|tier| self.tiers[*tier as usize].last);
        due.filter(|_| (self.given + 1).is_multiple_of(BY_TURNS))
    }

    /// Seconds that a newcomer would wait behind `ahead` others of its tier, once the tier's pace is known.
    pub(super) fn predicted(&self, tier: Priority, ahead: usize) -> Option<f64> {
        self.tiers[tier as usize].pace.map(|pace| (ahead + 1) as f64 * pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Moment {
        Moment(0).plus(Duration::from_secs(seconds))
    }

    #[test]
    fn one_slot_in_eight_goes_to_the_tier_that_waits_longest_for_its_turn() {
        let mut turns = Turns::default();
        for tier in [Priority::Ask, Priority::Code, Priority::Background] {
            (0..100).for_each(|_| turns.joined(tier));
        }
        let mut by_turns = Vec::new();
        for slot in 0..40 {
            let due = turns.due();
            by_turns.extend(due);
            turns.left(due.unwrap_or(Priority::Ask), true, at(slot));
        }
        use Priority::{Background, Code};
        assert_eq!(by_turns, [Code, Background, Code, Background, Code]);
    }

    #[test]
    fn a_pace_is_known_while_some_wait_and_forgotten_with_the_line() {
        let mut turns = Turns::default();
        (0..4).for_each(|_| turns.joined(Priority::Code));
        assert_eq!(turns.predicted(Priority::Code, 0), None);
        turns.left(Priority::Code, true, at(10));
        assert_eq!(turns.predicted(Priority::Code, 0), None, "one turn tells no pace");
        turns.left(Priority::Code, true, at(12));
        assert_eq!(turns.predicted(Priority::Code, 4), Some(10.0));
        assert_eq!(turns.predicted(Priority::Ask, 4), None);
        turns.left(Priority::Code, false, at(13));
        assert_eq!(turns.predicted(Priority::Code, 4), Some(10.0), "who gives up is no turn");
        turns.left(Priority::Code, true, at(14));
        assert_eq!(turns.predicted(Priority::Code, 4), None);
    }
}
