//! Which replica holds which start of a prompt in its cache, as far as the router can know: one table for all models,
//! from the hash of a start of a prompt to the caches that have read it.
//!
//! The shell hashes ([`Block`]), for it has the bytes; here there are only numbers. A start is marked once the first
//! token of an answer shows that it was read. A belief ends when the model is loaded anew (its cache has another
//! [`CacheId`] then), when more was written to that cache since than it can hold, or after [`LIFE`]; and how often the
//! engine's own `cached_tokens` bore a cache's beliefs out decides how far they are trusted
//! ([`crate::routing::Load`]).
//!
//! The table is set-associative like a processor's cache: a hash may stand in one of eight places, and the one that was
//! not used for longest gives way. So it is bounded in bytes, needs no list of uses, and no order of iteration matters.

use crate::units::Moment;
use std::time::Duration;

/// A belief that was not renewed for this long is dropped: by then an idle model may have been unloaded and loaded.
pub const LIFE: Duration = Duration::from_secs(30 * 60);
/// The most bytes of the table: 64 Ki starts of 2 KB, some 30 million tokens, more than a small mesh can cache.
pub const BYTES: usize = 8 << 20;
/// Places for one hash.
const WAYS: usize = 8;
/// Caches remembered for one start; the system prompt of a coding agent is in every cache of a small mesh.
const HOLDERS: usize = 6;
/// Sets at the beginning: 512 starts, 45 KB. A router whose requests have one place to go to never needs more.
const FIRST_SETS: usize = 64;
/// Tokens for one step of a cache's clock, so that 32 bits last for 68 billion tokens.
const CLOCK_STEP: u64 = 16;

/// A start of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Of all bytes up to the end of this block.
    pub hash: u64,
    /// Estimated tokens up to there.
    pub tokens: u32,
}

/// One cache: a replica's since it was loaded last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct CacheId {
    /// The upper half of the replica's key, so that caches and replicas are in the same order.
    pub replica: u32,
    /// The number of its latest load.
    pub load: u32,
}

/// How much was written to a cache when a start was marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Clock(u32);

impl Clock {
    /// After `tokens` were written since the cache is watched.
    #[must_use]
    pub fn at(tokens: u64) -> Self {
        Self(u32::try_from(tokens / CLOCK_STEP).unwrap_or(u32::MAX))
    }

    /// Tokens written since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        u64::from(self.0.saturating_sub(earlier.0)) * CLOCK_STEP
    }
}

/// What a cache is believed to hold of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which cache.
    pub cache: CacheId,
    /// Tokens of the longest start that it has read.
    pub tokens: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Holder {
    cache: CacheId,
    clock: Clock,
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// 0 = free.
    hash: u64,
    /// Seconds of the caller's clock.
    used: u32,
    /// The latest first; `replica` 0 and `load` 0 = free.
    holders: [Holder; HOLDERS],
}

type Set = [Entry; WAYS];

/// The table.
#[derive(Debug, Clone, Default)]
pub struct PrefixTable {
    sets: Vec<Set>,
}

impl PrefixTable {
    /// Bytes that the table takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.sets.len() * size_of::<Set>()
    }

    /// `cache` has read every start in `chain`.
    pub fn mark(&mut self, chain: &[Block], cache: CacheId, clock: Clock, now: Moment) {
        if self.sets.is_empty() && !chain.is_empty() {
            self.sets = vec![Set::default(); FIRST_SETS];
        }
        let second = seconds(now);
        for block in chain {
            let hash = block.hash.max(1);
            if self.place(hash, second).is_none_or(|(_, is_lost)| is_lost) {
                self.grow();
            }
            let Some((entry, _)) = self.place(hash, second) else { return };
            if entry.hash != hash {
                *entry = Entry { hash, ..Entry::default() };
            }
            entry.used = second;
            let at = entry.holders.iter().position(|holder| holder.cache.replica == cache.replica);
            entry.holders[..=at.unwrap_or(HOLDERS - 1)].rotate_right(1);
            entry.holders[0] = Holder { cache, clock };
        }
    }

    /// What each cache holds of `chain`, sorted by cache. `still` says whether a cache can still have what it read at
    /// that clock.
    #[must_use]
    pub fn held(&self, chain: &[Block], now: Moment, still: impl Fn(CacheId, Clock) -> bool) -> Vec<Held> {
        let second = seconds(now);
        let known =
            chain.iter().map_while(|block| Some((self.find(block.hash.max(1), second)?, block.tokens)));
        let mut starts = Vec::with_capacity(chain.len());
        starts.extend(known);
        let mut held = Vec::<Held>::new();
        // The longest first: a cache that is found has nothing more to tell.
        for (entry, tokens) in starts.into_iter().rev() {
            for holder in entry.holders.iter().filter(|holder| holder.cache != CacheId::default()) {
                if let Err(at) = held.binary_search_by(|known| known.cache.cmp(&holder.cache))
                    && still(holder.cache, holder.clock)
                {
                    held.insert(at, Held { cache: holder.cache, tokens });
                }
            }
        }
        held
    }

    fn set(&self, hash: u64) -> usize {
        // The number of sets is a power of two.
        usize::try_from(hash >> 32).unwrap_or(0) & (self.sets.len() - 1)
    }

    fn find(&self, hash: u64, second: u32) -> Option<&Entry> {
        if self.sets.is_empty() {
            return None;
        }
        let entry = self.sets[self.set(hash)].iter().find(|entry| entry.hash == hash)?;
        is_alive(entry, second).then_some(entry)
    }

    /// The place for `hash`, and whether another one that is still alive would lose it.
    fn place(&mut self, hash: u64, second: u32) -> Option<(&mut Entry, bool)> {
        if self.sets.is_empty() {
            return None;
        }
        let set = self.set(hash);
        let set = &mut self.sets[set];
        let at = set.iter().position(|entry| entry.hash == hash).or_else(|| {
            let oldest = set.iter().enumerate().min_by_key(|(_, entry)| (entry.hash != 0, entry.used));
            oldest.map(|(at, _)| at)
        })?;
        let entry = &mut set[at];
        let is_lost = entry.hash != 0 && entry.hash != hash && is_alive(entry, second);
        Some((entry, is_lost))
    }

    /// Twice the room, as long as the bound allows.
    fn grow(&mut self) {
        let sets = self.sets.len() * 2;
        if sets == 0 || sets * size_of::<Set>() > BYTES {
            return;
        }
        let old = std::mem::replace(&mut self.sets, vec![Set::default(); sets]);
        for entry in old.into_iter().flatten().filter(|entry| entry.hash != 0) {
            // Each old set spreads over two new ones, so there is room.
            if let Some((place, _)) = self.place(entry.hash, entry.used) {
                *place = entry;
            }
        }
    }
}

fn seconds(now: Moment) -> u32 {
    u32::try_from(now.0 / 1_000_000).unwrap_or(u32::MAX)
}

fn is_alive(entry: &Entry, second: u32) -> bool {
    u64::from(second.saturating_sub(entry.used)) < LIFE.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const NOW: Moment = Moment(5_000_000);

    fn chain(name: u64, blocks: u32) -> Vec<Block> {
        let hash = |at: u32| (name << 8 | u64::from(at)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (1..=blocks).map(|at| Block { hash: hash(at), tokens: at * 512 }).collect()
    }

    fn cache(replica: u32) -> CacheId {
        CacheId { replica, load: 1 }
    }

    fn held(table: &PrefixTable, chain: &[Block], now: Moment) -> Vec<Held> {
        table.held(chain, now, |_, _| true)
    }

    fn tokens(held: &[Held]) -> Vec<(u32, u32)> {
        held.iter().map(|held| (held.cache.replica, held.tokens)).collect()
    }

    #[test]
    fn the_longest_start_that_a_cache_has_read_counts() {
        let mut table = PrefixTable::default();
        let long = chain(1, 10);
        assert!(held(&table, &long, NOW).is_empty());
        table.mark(&long[..7], cache(2), Clock::at(0), NOW);
        table.mark(&long[..3], cache(1), Clock::at(0), NOW);
        assert_eq!(tokens(&held(&table, &long, NOW)), [(1, 3 * 512), (2, 7 * 512)]);
        assert!(held(&table, &chain(2, 10), NOW).is_empty(), "another prompt");
    }

    #[test]
    fn a_model_that_was_loaded_anew_is_another_cache() {
        let mut table = PrefixTable::default();
        table.mark(&chain(1, 2), cache(1), Clock::at(0), NOW);
        let again = CacheId { replica: 1, load: 2 };
        assert!(held(&table, &chain(1, 2), NOW).iter().all(|held| held.cache != again));
        table.mark(&chain(1, 1), again, Clock::at(0), NOW);
        let held = held(&table, &chain(1, 1), NOW);
        assert_eq!(
            held.iter().map(|held| held.cache).collect::<Vec<_>>(),
            [again],
            "in place of the old one"
        );
    }

    #[test]
    fn what_was_not_used_for_half_an_hour_is_not_believed() {
        let mut table = PrefixTable::default();
        table.mark(&chain(1, 2), cache(1), Clock::at(0), NOW);
        assert_eq!(held(&table, &chain(1, 2), NOW.plus(LIFE - Duration::from_secs(1))).len(), 1);
        assert!(held(&table, &chain(1, 2), NOW.plus(LIFE)).is_empty());
    }

    #[test]
    fn of_many_holders_the_latest_are_remembered() {
        let mut table = PrefixTable::default();
        for replica in 1..=20 {
            table.mark(&chain(1, 1), cache(replica), Clock::at(0), NOW);
        }
        let replicas: Vec<u32> = held(&table, &chain(1, 1), NOW).iter().map(|h| h.cache.replica).collect();
        assert_eq!(replicas, [15, 16, 17, 18, 19, 20]);
    }

    #[test]
    fn a_start_that_a_cache_can_no_longer_have_leaves_the_shorter_one_that_it_can() {
        let mut table = PrefixTable::default();
        table.mark(&chain(1, 6), cache(1), Clock::at(1_000), NOW);
        table.mark(&chain(1, 2), cache(1), Clock::at(9_000), NOW);
        let still = |_, clock: Clock| Clock::at(10_000).since(clock) < 4_000;
        assert_eq!(tokens(&table.held(&chain(1, 6), NOW, still)), [(1, 2 * 512)]);
    }

    #[test]
    fn the_clock_counts_what_was_written_since() {
        assert_eq!(Clock::at(1_600).since(Clock::at(160)), 1_440);
        assert_eq!(Clock::at(0).since(Clock::at(160)), 0);
    }

    #[test]
    fn a_flood_of_prompts_fills_no_more_than_the_bound_and_the_latest_is_found() {
        let mut table = PrefixTable::default();
        for name in 0..4_000 {
            table.mark(&chain(name, 50), cache(1), Clock::at(0), Moment(name * 1_000_000));
        }
        assert!((BYTES / 4..=BYTES).contains(&table.bytes()), "{}", table.bytes());
        assert_eq!(tokens(&held(&table, &chain(3_999, 50), Moment(3_999_000_000))), [(1, 50 * 512)]);
    }

    proptest! {
        /// Against a map without bounds: nothing is believed that was not marked.
        #[test]
        fn nothing_is_held_that_was_never_marked(
            marks in proptest::collection::vec((0u64..40, 1u32..30, 1u32..6), 0..200),
            asked in (0u64..40, 1u32..40),
        ) {
            let (mut table, mut truth) = (PrefixTable::default(), BTreeMap::new());
            for (name, blocks, replica) in marks {
                table.mark(&chain(name, blocks), cache(replica), Clock::at(0), NOW);
                let longest = truth.entry((name, replica)).or_insert(0);
                *longest = blocks.max(*longest);
            }
            let held = held(&table, &chain(asked.0, asked.1), NOW);
            prop_assert!(held.windows(2).all(|pair| pair[0].cache < pair[1].cache));
            for held in &held {
                let longest = truth.get(&(asked.0, held.cache.replica)).copied().unwrap_or(0);
                prop_assert!(held.tokens <= longest.min(asked.1) * 512);
            }
            let known = truth.keys().filter(|(name, _)| *name == asked.0).count();
            prop_assert_eq!(held.len(), known, "a few marks fit, so all are found");
        }
    }
}
