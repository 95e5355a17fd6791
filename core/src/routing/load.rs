//! What this router itself has done to each replica: the requests that it has there, the tokens of theirs that are not
//! read yet, and what it believes of the caches. Decisions read it; each request changes it three times: when it is
//! sent, at its first content, and when it ends.

use super::{Candidate, Sessions};
use crate::fleet::{ReplicaKey, model_number};
use crate::prefix::{Block, CacheId, Clock, Held, PrefixTable};
use crate::units::Moment;
use std::num::NonZeroU32;
use std::time::Duration;

/// Replicas that are tracked while they are idle; a bound, above the meshes that a decision is measured at.
const TRACKS: usize = 16_384;
/// A replica that had no request for this long has no cache worth tracking.
const TRACK_LIFE: Duration = Duration::from_secs(3600);
/// Cached tokens count less the longer ago they were written, half after this many seconds: ten minutes, in which most
/// conversations have had their next turn.
const FRESH_S: f64 = 600.0;
/// Fewer believed tokens than this prove nothing about a cache: engines compare in blocks of up to this size.
const LEAST_BELIEF: u64 = 64;
/// Weight of one answer in how far a cache is trusted.
const TRUST_WEIGHT: f32 = 0.3;

/// One replica. It fits in one line of a processor's cache, for a decision reads all of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Track {
    key: ReplicaKey,
    /// Requests that it has.
    pub(super) in_flight: u32,
    /// Uncached prompt tokens of those that have no content yet: what stands before a new prompt, and what was sent
    /// since the last heartbeat, of which no report can tell.
    pub(super) unread: u32,
    /// Prompt tokens of all that it has.
    pub(super) active: u32,
    /// The number of the model's latest load.
    load: u32,
    capacity: Option<NonZeroU32>,
    /// Tokens written to the cache since it is watched.
    pub(super) written: u64,
    /// Tokens written of late: see [`FRESH_S`].
    fresh: f32,
    /// The part of what was believed to be cached that was.
    pub(super) trust: f32,
    touched: Moment,
}

impl Track {
    fn new(key: ReplicaKey) -> Self {
        Self {
            key,
            in_flight: 0,
            unread: 0,
            active: 0,
            load: 0,
            capacity: None,
            written: 0,
            fresh: 0.0,
            trust: 1.0,
            touched: Moment::default(),
        }
    }

    /// Tokens that its cache holds and that may still be wanted.
    fn fresh(&self, now: Moment) -> f64 {
        // Hyperbolic: as good as an exponential here, and no call in a loop over ten thousand replicas.
        let seconds = now.0.saturating_sub(self.touched.0) as f64 * 1e-6;
        f64::from(self.fresh) / (1.0 + seconds / FRESH_S)
    }

    /// Tokens of others that `uncached` new ones push out of a cache of `capacity`.
    pub(super) fn evicted(&self, uncached: f64, capacity: Option<NonZeroU32>, load: u32, now: Moment) -> f64 {
        let Some(capacity) = capacity.filter(|_| self.load == load) else { return 0.0 };
        let capacity = f64::from(capacity.get());
        // Freshness only fades, so that most need no division.
        if f64::from(self.fresh) + uncached <= capacity {
            return 0.0;
        }
        (self.fresh(now) + uncached - capacity).clamp(0.0, uncached)
    }
}

/// A prompt has not four billion tokens; one that says so counts as very long.
fn clipped(tokens: u64) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// What must be given back when a request ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stake {
    key: ReplicaKey,
    cache: CacheId,
    model: u64,
    prompt: u64,
    cached: u64,
    believed: u64,
    is_read: bool,
}

impl Stake {
    fn uncached(&self) -> u32 {
        clipped(self.prompt.saturating_sub(self.cached).max(1))
    }
}

/// All that this router has running, and believes of caches and sessions.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// Sorted by key.
    tracks: Vec<Track>,
    prefixes: PrefixTable,
    sessions: Sessions,
    /// Requests sent so far: whose turn it is in round-robin.
    pub(super) turn: u64,
}

impl Load {
    /// A request goes to `candidate`.
    pub fn claim(&mut self, candidate: &Candidate, now: Moment) -> Stake {
        let stake = Stake {
            key: candidate.key,
            cache: candidate.cache,
            model: model_number(&candidate.model),
            prompt: candidate.prompt_tokens,
            cached: candidate.cached_tokens,
            believed: candidate.believed_tokens,
            is_read: false,
        };
        self.turn = self.turn.wrapping_add(1);
        let track = self.track(candidate.key, now);
        if track.load != candidate.cache.load {
            // Loaded anew: whatever it held is gone.
            (track.load, track.written, track.fresh, track.trust) = (candidate.cache.load, 0, 0.0, 1.0);
        }
        track.capacity = candidate.cache_tokens;
        track.in_flight = track.in_flight.saturating_add(1);
        track.unread = track.unread.saturating_add(stake.uncached());
        track.active = track.active.saturating_add(clipped(stake.prompt));
        stake
    }

    /// The request has its first content: its prompt is read, and in that cache now.
    pub fn first_content(&mut self, stake: &mut Stake, chain: &[Block], session: Option<u64>, now: Moment) {
        if std::mem::replace(&mut stake.is_read, true) {
            return;
        }
        let track = self.track(stake.key, now);
        track.unread = track.unread.saturating_sub(stake.uncached());
        if track.load == stake.cache.load {
            let fresh = track.fresh(now) + f64::from(stake.uncached());
            let fresh = track.capacity.map_or(fresh, |capacity| fresh.min(f64::from(capacity.get())));
            track.fresh = fresh as f32;
            track.written = track.written.saturating_add(stake.uncached().into());
            track.touched = now;
            let clock = Clock::at(track.written);
            self.prefixes.mark(chain, stake.cache, clock, now);
        }
        if let Some(session) = session {
            self.sessions.keep(session, stake.model, stake.key, now);
        }
    }

    /// The engine says that it found `cached` of `prompt` tokens in its cache.
    pub fn engine_cached(&mut self, stake: &Stake, cached: u64, prompt: u64) {
        if stake.believed < LEAST_BELIEF || prompt == 0 || stake.prompt == 0 {
            return;
        }
        let Some(track) = self.find_mut(stake.key).filter(|track| track.load == stake.cache.load) else {
            return;
        };
        // Parts, for the router's tokens are estimates.
        let believed = stake.believed as f64 / stake.prompt as f64;
        let found = (cached as f64 / prompt as f64 / believed).min(1.0);
        track.trust += TRUST_WEIGHT * (found as f32 - track.trust);
    }

    /// The request has ended.
    pub fn release(&mut self, stake: &Stake) {
        if let Some(track) = self.find_mut(stake.key) {
            track.in_flight = track.in_flight.saturating_sub(1);
            track.active = track.active.saturating_sub(clipped(stake.prompt));
            if !stake.is_read {
                track.unread = track.unread.saturating_sub(stake.uncached());
            }
        }
    }

    /// Requests on a replica.
    #[must_use]
    pub fn in_flight(&self, key: ReplicaKey) -> u32 {
        self.find(key).map_or(0, |track| track.in_flight)
    }

    /// Requests in all.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.tracks.iter().map(|track| track.in_flight).sum()
    }

    /// What each cache is believed to hold of a prompt, sorted by cache.
    pub(super) fn held(&self, chain: &[Block], now: Moment) -> Vec<Held> {
        if chain.is_empty() {
            return Vec::new();
        }
        let track = |cache: CacheId| {
            let at = self.tracks.partition_point(|track| track.key.upper() < cache.replica);
            self.tracks.get(at).filter(|track| track.key.upper() == cache.replica && track.load == cache.load)
        };
        let still = |cache: CacheId, clock: Clock| {
            track(cache).is_some_and(|track| {
                let since = Clock::at(track.written).since(clock);
                track.capacity.is_none_or(|capacity| since < capacity.get().into())
            })
        };
        self.prefixes.held(chain, now, still)
    }

    /// Where a session's last request of a model was answered.
    pub(super) fn session(&self, session: u64, model: u64, now: Moment) -> Option<ReplicaKey> {
        self.sessions.at(session, model, now)
    }

    /// A reader for replicas that are asked for in the order of their keys.
    pub(super) fn walk(&self) -> Walk<'_> {
        Walk { rest: &self.tracks }
    }

    pub(super) fn find(&self, key: ReplicaKey) -> Option<&Track> {
        self.tracks.binary_search_by_key(&key, |track| track.key).ok().map(|at| &self.tracks[at])
    }

    fn find_mut(&mut self, key: ReplicaKey) -> Option<&mut Track> {
        self.tracks.binary_search_by_key(&key, |track| track.key).ok().map(|at| &mut self.tracks[at])
    }

    fn track(&mut self, key: ReplicaKey, now: Moment) -> &mut Track {
        if self.tracks.len() >= TRACKS && self.find(key).is_none() {
            self.tracks.retain(|track| track.in_flight > 0 || now.since(track.touched) < TRACK_LIFE);
            if self.tracks.len() >= TRACKS {
                self.tracks.retain(|track| track.in_flight > 0);
            }
        }
        let at = match self.tracks.binary_search_by_key(&key, |track| track.key) {
            Ok(at) => at,
            Err(at) => {
                self.tracks.insert(at, Track { touched: now, ..Track::new(key) });
                at
            }
        };
        &mut self.tracks[at]
    }
}

/// Reads tracks in the order of keys: two sorted lists are walked side by side instead of searched.
pub(super) struct Walk<'a> {
    rest: &'a [Track],
}

impl<'a> Walk<'a> {
    /// The track of `key`, which is not below any that was asked for before.
    pub(super) fn find(&mut self, key: ReplicaKey) -> Option<&'a Track> {
        let is_below = |track: Option<&Track>| track.is_some_and(|track| track.key < key);
        // Mostly the very next one.
        if is_below(self.rest.first()) {
            self.rest = &self.rest[1..];
            if is_below(self.rest.first()) {
                self.leap(key);
            }
        }
        self.rest.first().filter(|track| track.key == key)
    }

    /// Steps that double: near keys are found at once, far ones in the logarithm of their distance.
    fn leap(&mut self, key: ReplicaKey) {
        let mut step = 1;
        while self.rest.get(step).is_some_and(|track| track.key <= key) {
            self.rest = &self.rest[step..];
            step *= 2;
        }
        let window = &self.rest[..self.rest.len().min(step)];
        let at = window.partition_point(|track| track.key < key);
        self.rest = &self.rest[at..];
    }
}
