//! Readings that are taken less often than the rest, because taking them costs the machine something.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Readings of some places, each kept for a while.
#[derive(Debug)]
pub(super) struct Seldom<T> {
    every_s: u64,
    kept: Mutex<BTreeMap<PathBuf, (u64, T)>>,
}

impl<T: Clone> Seldom<T> {
    /// Takes each reading every `every_s` seconds at most.
    pub(super) fn new(every_s: u64) -> Self {
        Self { every_s, kept: Mutex::default() }
    }

    /// What `place` says, read again when the last reading is too old at `unix_s` or was taken after it: the
    /// clock was set back then, and nobody knows how old the reading is.
    pub(super) fn read(&self, place: &Path, unix_s: u64, read: impl FnOnce() -> T) -> T {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((taken, value)) = kept.get(place)
            && unix_s.checked_sub(*taken).is_some_and(|age| age < self.every_s)
        {
            return value.clone();
        }
        let value = read();
        // Places that have gone leave nothing behind.
        kept.retain(|_, (taken, _)| unix_s.abs_diff(*taken) <= 10 * self.every_s);
        kept.insert(place.to_owned(), (unix_s, value.clone()));
        value
    }

    /// The next readings are new ones.
    pub(super) fn forget(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_kept_for_its_time_and_no_longer() {
        let seldom = Seldom::new(10);
        let place = Path::new("/a");
        assert_eq!(seldom.read(place, 100, || 1), 1);
        assert_eq!(seldom.read(place, 109, || 2), 1);
        assert_eq!(seldom.read(Path::new("/b"), 109, || 7), 7);
        assert_eq!(seldom.read(place, 110, || 3), 3);
        assert_eq!(seldom.read(place, 50, || 4), 4, "the clock was set back");
        seldom.forget();
        assert_eq!(seldom.read(place, 50, || 5), 5);
    }
}
