//! The replicas that can serve, as they are found: the best of them in their order, and how many there are of those
//! that the best is compared with.

use super::LISTED;
use super::load::Track;
use crate::fleet::Serving;
use std::cmp::Ordering;

/// A replica that can serve. Lower groups come first, whatever the cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scored<'a> {
    pub(super) serving: &'a Serving,
    pub(super) track: Option<&'a Track>,
    pub(super) group: u32,
    pub(super) cost: f64,
    /// Breaks ties.
    pub(super) roll: u32,
    /// Tokens of the prompt that its cache holds.
    pub(super) cached: f64,
    /// The same before experience takes off.
    pub(super) believed: u32,
    /// Where its model stands in the request's order.
    pub(super) preference: u16,
}

impl Scored<'_> {
    /// Doubted, which model, and within it: misses the target, awaits its first answer.
    pub(super) fn group(is_doubted: bool, preference: u16, misses: bool, awaits: bool) -> u32 {
        u32::from(is_doubted) << 31 | u32::from(preference) << 2 | u32::from(misses) << 1 | u32::from(awaits)
    }

    /// The same without what stands within one model.
    pub(super) fn model_group(&self) -> u32 {
        self.group >> 2
    }

    pub(super) fn misses_target(&self) -> bool {
        self.group & 2 != 0
    }

    pub(super) fn awaits_first_answer(&self) -> bool {
        self.group & 1 != 0
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.group >> 31 != 0
    }

    /// Requests that it has from this router.
    pub(super) fn in_flight(&self) -> u32 {
        self.track.map_or(0, |track| track.in_flight)
    }

    pub(super) fn order(&self, other: &Self) -> Ordering {
        self.group
            .cmp(&other.group)
            .then_with(|| self.cost.total_cmp(&other.cost))
            .then_with(|| self.roll.cmp(&other.roll))
    }
}

/// The best [`LISTED`] in their order; of equal ones the one found first.
pub(super) struct Best<'a> {
    ranked: Vec<Scored<'a>>,
}

impl<'a> Best<'a> {
    /// Of up to `known` replicas.
    pub(super) fn of(known: usize) -> Self {
        Self { ranked: Vec::with_capacity(LISTED.min(known) + 1) }
    }

    pub(super) fn into_ranked(self) -> Vec<Scored<'a>> {
        self.ranked
    }

    /// The one that has to be beaten, once the list is full.
    pub(super) fn last(&self) -> Option<&Scored<'a>> {
        self.ranked.get(LISTED - 1)
    }

    pub(super) fn offer(&mut self, one: Scored<'a>) {
        if self.last().is_some_and(|last| last.order(&one).is_le()) {
            return;
        }
        let at = self.ranked.partition_point(|better| better.order(&one).is_le());
        self.ranked.insert(at, one);
        self.ranked.truncate(LISTED);
    }
}

/// How many there are of the first model and health that can serve: only they are compared by cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rivals {
    model_group: u32,
    pub(super) of: usize,
    /// Those of them that meet the target.
    pub(super) meet: usize,
}

impl Default for Rivals {
    fn default() -> Self {
        Self { model_group: u32::MAX, of: 0, meet: 0 }
    }
}

impl Rivals {
    /// Counts `of` replicas of one group.
    pub(super) fn count(&mut self, model_group: u32, of: usize, meet: usize) {
        match model_group.cmp(&self.model_group) {
            _ if of == 0 => {}
            Ordering::Greater => {}
            Ordering::Equal => {
                self.of += of;
                self.meet += meet;
            }
            Ordering::Less => *self = Self { model_group, of, meet },
        }
    }
}
