//! Why a replica was chosen, comes later or cannot serve, in words for people.

use crate::id::ModeName;
use crate::units::human_duration;
use std::fmt;
use std::time::Duration;

/// The reason of a choice or of a rejection. Its text is what `explain`, the response header and the logs show.
#[derive(Debug, Clone, PartialEq)]
pub enum Why {
    /// Nobody else can serve.
    OnlyCandidate,
    /// The model that the mode puts first; others could serve too.
    FirstChoice,
    /// The least predicted seconds of several.
    LeastSeconds {
        /// Its prediction.
        predicted_s: f64,
        /// How many could serve.
        of: usize,
    },
    /// The fewest requests in flight of several.
    LeastInFlight {
        /// Its count.
        in_flight: u32,
        /// How many could serve.
        of: usize,
    },
    /// The least uncached tokens times requests, while not every speed is known.
    LeastUncached {
        /// Tokens of the prompt that its cache does not hold.
        tokens: u64,
        /// Requests it has.
        in_flight: u32,
        /// How many could serve.
        of: usize,
    },
    /// The session's last answer came from there, and no other is clearly better.
    SessionKept {
        /// How many could serve.
        of: usize,
    },
    /// Chosen by chance, so that its speed stays known.
    Explored,
    /// The only one, or the best of those, that meets the time asked for.
    MeetsTarget {
        /// How many meet it.
        meet: usize,
        /// How many could serve.
        of: usize,
    },
    /// Chosen by a policy that compares no times.
    ByPolicy {
        /// Its name in the configuration.
        policy: &'static str,
        /// How many could serve.
        of: usize,
    },
    /// Those before it in the ranking have no free slot.
    FreeSlot,
    /// Comes after a better one.
    Behind(&'static str),
    /// Chosen although suspect: nobody healthy is left.
    LastResort(&'static str),
    /// The mode's own models cannot serve.
    Fallback(ModeName),
    /// Silent for this long.
    Offline(Duration),
    /// Its control stream is there, but requests cannot reach it.
    NoDataPath,
    /// Leaving.
    Draining,
    /// Has none of the models.
    LacksModel,
    /// Has it on disk only.
    NotLoaded,
    /// Is loading it.
    Loading,
    /// Could not load it.
    LoadFailed(String),
    /// The engine does not answer.
    EngineDown {
        /// What is known of it.
        why: String,
        /// Its agent owns it, and starts it again.
        supervised: bool,
    },
    /// Its answers are empty or gibberish.
    Quarantined(String),
    /// It is far slower than it should be: it fell back to the CPU.
    Degraded(String),
    /// The machine is at its thermal limit.
    Hot(String),
    /// The model does not do this.
    Cannot(&'static str),
    /// The context is too small: needed, there.
    ContextTooSmall(u32, u32),
    /// It had its try for this request.
    Tried,
}

impl fmt::Display for Why {
    /// ASCII only: it becomes a header.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyCandidate => write!(out, "only candidate"),
            Self::FirstChoice => write!(out, "the mode's first choice that can serve"),
            Self::LeastSeconds { predicted_s, of } => {
                write!(out, "least predicted time, {predicted_s:.2} s, of {of}")
            }
            Self::LeastInFlight { in_flight, of } => write!(out, "least in flight, {in_flight}, of {of}"),
            Self::LeastUncached { tokens, in_flight, of } => {
                write!(
                    out,
                    "least uncached tokens for its load, {tokens} with {in_flight} in flight, of {of}"
                )
            }
            Self::SessionKept { of } => write!(out, "where the session was answered last, of {of}"),
            Self::Explored => write!(out, "by chance, to learn its speed anew"),
            Self::MeetsTarget { meet, of } => write!(out, "meets the target, as do {meet} of {of}"),
            Self::ByPolicy { policy, of } => write!(out, "by the policy {policy}, of {of}"),
            Self::FreeSlot => write!(out, "the best one with a free slot"),
            Self::Behind(what) => write!(out, "behind: {what}"),
            Self::LastResort(what) => write!(out, "last resort: {what}"),
            Self::Fallback(mode) => write!(out, "fallback to mode {mode}"),
            Self::Offline(silence) => write!(out, "offline, last heard {} ago", human_duration(*silence)),
            Self::NoDataPath => write!(out, "no data link (still connecting, or nothing passes)"),
            Self::Draining => write!(out, "draining"),
            Self::LacksModel => write!(out, "has none of the models"),
            Self::NotLoaded => write!(out, "not loaded"),
            Self::Loading => write!(out, "still loading"),
            Self::LoadFailed(why) => write!(out, "could not be loaded: {}", ascii(why)),
            Self::EngineDown { why, supervised } => {
                let returns = if *supervised { "; its agent brings it back" } else { "" };
                write!(out, "engine down: {}{returns}", ascii(why))
            }
            Self::Quarantined(why) => write!(out, "quarantined: {}", ascii(why)),
            Self::Degraded(why) => write!(out, "degraded: {}", ascii(why)),
            Self::Hot(why) => write!(out, "too hot: {}", ascii(why)),
            Self::Cannot(what) => write!(out, "cannot {what}"),
            Self::Tried => write!(out, "was tried for this request already"),
            Self::ContextTooSmall(needs, has) => write!(out, "context too small: needs {needs}, has {has}"),
        }
    }
}

fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(200).collect()
}
