//! Whether somebody needs cards read each second, also those that sleep or may fall asleep.
//!
//! An idle laptop's card is left alone so that it can sleep; while a model is being admitted and loaded it is woken
//! anyway, and what it holds must be known to the second.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts those who need it. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Attention {
    holders: Arc<AtomicUsize>,
}

impl Attention {
    /// Cards are read each second until the result is dropped.
    #[must_use]
    pub fn hold(&self) -> Attended {
        self.holders.fetch_add(1, Ordering::Relaxed);
        Attended(self.clone())
    }

    pub(super) fn is_held(&self) -> bool {
        self.holders.load(Ordering::Relaxed) > 0
    }
}

/// One who needs it.
#[derive(Debug)]
pub struct Attended(Attention);

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.holders.fetch_sub(1, Ordering::Relaxed);
    }
}
