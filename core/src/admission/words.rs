//! What the queue is told, what it asks for, and what it answers.

use crate::id::ModelId;
use crate::units::Moment;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How urgent a mode's requests are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Somebody is typing: worthless after a few seconds, and only the newest of a session counts.
    Autocomplete,
    /// Somebody waits for a short answer.
    Ask,
    /// An agent or a person works on code.
    #[default]
    Code,
    /// Long thinking that is waited for.
    Architect,
    /// Nobody waits.
    Background,
}

impl Priority {
    /// All of them, most urgent first.
    pub const ALL: [Self; 5] = [Self::Autocomplete, Self::Ask, Self::Code, Self::Architect, Self::Background];

    /// The word used in configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Autocomplete => "autocomplete",
            Self::Ask => "ask",
            Self::Code => "code",
            Self::Architect => "architect",
            Self::Background => "background",
        }
    }

    /// The priority that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.word() == word)
    }

    /// What a mode of this name has unless configured; other names and models asked for by name stand in the middle.
    #[must_use]
    pub fn of_mode(name: &str) -> Self {
        match name {
            "autocomplete" => Self::Autocomplete,
            // `small` writes titles while somebody looks at the screen.
            "ask" | "small" => Self::Ask,
            "architect" => Self::Architect,
            "background" => Self::Background,
            _ => Self::Code,
        }
    }

    /// How long a request waits for a slot unless it says otherwise. A completion is stale when the cursor has moved
    /// on; an agent's own timeouts are minutes.
    #[must_use]
    pub fn patience(self) -> Duration {
        Duration::from_secs(match self {
            Self::Autocomplete => 5,
            Self::Ask => 60,
            Self::Code => 120,
            Self::Architect => 300,
            Self::Background => 900,
        })
    }

    /// Its place in [`Priority::ALL`].
    pub(super) fn tier(self) -> i64 {
        self as i64
    }
}

/// A request's number here. The caller never uses one twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// What is known of a request before it gets a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// How urgent.
    pub priority: Priority,
    /// A hash of the API key.
    pub key: u64,
    /// A hash of the client's session, where it names one.
    pub session: Option<u64>,
    /// After this moment it is not sent to an engine any more.
    pub deadline: Moment,
    /// Bytes of its body, which are kept in memory while it waits.
    pub bytes: u64,
    /// Requests of the same class need the same slots: a hash of models and needs. [`super::Admission::reclassify`]
    /// tells of changes.
    pub class: u64,
}

/// Bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that may wait.
    pub waiting: usize,
    /// Bytes of their bodies together.
    pub bytes: u64,
    /// Requests of one key at once, running and waiting.
    pub per_key: usize,
}

/// What a look for a slot found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A slot, which is taken now.
    Taken(ModelId),
    /// Every replica that can serve is at its slots.
    Full {
        /// What most of those serve.
        model: ModelId,
        /// Their slots together.
        slots: u32,
    },
    /// It is better to wait than to take what is free: at this moment that changes.
    Held {
        /// The model it is held for.
        model: ModelId,
        /// Until then.
        until: Moment,
    },
    /// Nobody can serve it at all now.
    Nobody,
}

/// Where slots are looked for.
pub trait Room {
    /// Looks for a slot for `id`, which has waited for `waited`, and takes it in the same step.
    fn take(&mut self, id: EntryId, waited: Duration) -> Found;
}

/// Why a request gets no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The key has this many requests here already, as many as it may.
    KeyBusy {
        /// Its requests.
        at_once: usize,
    },
    /// As many wait as may.
    QueueFull {
        /// Requests that wait.
        waiting: usize,
    },
    /// It would wait past its deadline.
    TooLate {
        /// Its place among those that wait for the same, from 1.
        position: usize,
        /// How long it would wait.
        predicted: Duration,
        /// How long it may.
        patience: Duration,
    },
    /// It waited until its deadline.
    Expired {
        /// For this long.
        waited: Duration,
    },
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The room has taken a slot for it: go.
    Admit(EntryId),
    /// It ends here.
    Refuse(EntryId, Refused),
    /// Nobody can serve it now; the room knows why.
    NoNode(EntryId),
    /// A newer one of the same session took its place: it ends, whether it waits or runs.
    Supersede(EntryId),
}
