//! How candidates are compared: in seconds, or by one of the known policies that the mesh is measured against.

use super::best::Scored;
use super::scan::Scan;
use crate::fleet::mixed;
use serde::{Deserialize, Serialize};

/// SGLang's router takes the longest match where at least this part of the prompt is cached (`cache-threshold`) …
const CACHE_AWARE_MATCH: f64 = 0.3;
/// … unless the loads differ by more requests than this (`balance-abs-threshold`) …
const CACHE_AWARE_APART: u32 = 64;
/// … and by more than this factor (`balance-rel-threshold`).
const CACHE_AWARE_FACTOR: f64 = 1.5;
/// Dynamo counts in KV blocks of this many tokens.
const DYNAMO_BLOCK: f64 = 16.0;
/// Its `overlap-score-weight`: how much a block to be read weighs against one that is held.
const DYNAMO_OVERLAP: f64 = 1.0;

/// How candidates are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// In seconds of each machine's own measured speed; by LMetric until every speed is known.
    #[default]
    Seconds,
    /// Uncached tokens times requests.
    Lmetric,
    /// By dice.
    Random,
    /// In turn.
    RoundRobin,
    /// Fewest requests in flight.
    LeastOutstanding,
    /// The less busy of two drawn by dice.
    PowerOfTwo,
    /// A session stays where its name falls.
    SessionSticky,
    /// SGLang's: the longest cached start, until loads differ too much.
    CacheAware,
    /// NVIDIA Dynamo's: a linear sum of blocks to read and blocks held.
    Dynamo,
}

impl Policy {
    /// All policies.
    pub const ALL: [Self; 9] = [
        Self::Seconds,
        Self::Lmetric,
        Self::Random,
        Self::RoundRobin,
        Self::LeastOutstanding,
        Self::PowerOfTwo,
        Self::SessionSticky,
        Self::CacheAware,
        Self::Dynamo,
    ];

    /// The word in the configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Lmetric => "lmetric",
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::LeastOutstanding => "least-outstanding",
            Self::PowerOfTwo => "power-of-two",
            Self::SessionSticky => "session-sticky",
            Self::CacheAware => "cache-aware",
            Self::Dynamo => "dynamo",
        }
    }

    /// The policy that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.word() == word)
    }

    /// Whether it reads what caches hold.
    #[must_use]
    pub fn reads_prefixes(self) -> bool {
        matches!(self, Self::Seconds | Self::Lmetric | Self::CacheAware | Self::Dynamo)
    }

    /// Whether costs are compared that sessions and targets can be weighed against.
    pub(super) fn weighs(self) -> bool {
        matches!(self, Self::Seconds | Self::Lmetric)
    }

    /// Gives every candidate the cost that this policy sees. Ties are broken by their dice.
    pub(super) fn score(self, scored: &mut [Scored<'_>], scan: &Scan<'_>) {
        match self {
            // Done while scanning.
            Self::Seconds | Self::Lmetric => {}
            Self::Random => scored.iter_mut().for_each(|one| one.cost = 0.0),
            Self::RoundRobin => {
                let of = scored.len() as u64;
                for (at, one) in scored.iter_mut().enumerate() {
                    one.cost = ((at as u64 + of - scan.load.turn % of.max(1)) % of.max(1)) as f64;
                }
            }
            Self::LeastOutstanding => scored.iter_mut().for_each(|one| one.cost = f64::from(one.in_flight())),
            Self::PowerOfTwo => {
                let of = scored.len();
                for one in scored.iter_mut() {
                    one.cost = f64::from(u32::MAX);
                }
                for draw in [mixed(scan.dice), mixed(scan.dice ^ 1)] {
                    // Two of the first group: the others are not to be drawn while it can serve.
                    let best = scored.iter().map(|one| one.group).min().unwrap_or(0);
                    let first = scored.iter().filter(|one| one.group == best).count().max(1);
                    let pick = usize::try_from(draw % first as u64).unwrap_or(0).min(of.saturating_sub(1));
                    if let Some(one) = scored.iter_mut().filter(|one| one.group == best).nth(pick) {
                        one.cost = f64::from(one.in_flight());
                    }
                }
            }
            Self::SessionSticky => {
                let name =
                    scan.request.session.or_else(|| scan.request.prefix.first().map(|block| block.hash));
                for one in scored.iter_mut() {
                    // The highest draw wins, so that a machine that leaves moves only its own sessions.
                    let draw =
                        name.map_or(u64::from(one.roll), |name| mixed(name ^ one.serving.key.number()));
                    one.cost = -(draw as f64);
                }
            }
            Self::CacheAware => {
                let (least, most) = scored.iter().fold((u32::MAX, 0), |(least, most), one| {
                    (least.min(one.in_flight()), most.max(one.in_flight()))
                });
                let apart = most.saturating_sub(least) > CACHE_AWARE_APART
                    && f64::from(most) > CACHE_AWARE_FACTOR * f64::from(least);
                let prompt = scan.request.prompt_tokens.max(1) as f64;
                let longest = scored.iter().map(|one| one.cached).fold(0.0, f64::max);
                for one in scored.iter_mut() {
                    one.cost = if apart {
                        f64::from(one.in_flight())
                    } else if longest / prompt > CACHE_AWARE_MATCH {
                        -one.cached
                    } else {
                        // The smallest tree: the cache that has been given least.
                        one.track.map_or(0.0, |track| track.written as f64)
                    };
                }
            }
            Self::Dynamo => {
                for one in scored.iter_mut() {
                    // Uncached prompt tokens that wait there, and prompt tokens of all requests there.
                    let (unread, active) = one
                        .track
                        .map_or((0.0, 0.0), |track| (f64::from(track.unread), f64::from(track.active)));
                    let uncached = scan.request.prompt_tokens as f64 - one.cached;
                    one.cost = DYNAMO_OVERLAP * (unread + uncached) / DYNAMO_BLOCK + active / DYNAMO_BLOCK;
                }
            }
        }
    }
}
