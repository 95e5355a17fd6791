//! The API keys as the front door sees them: a snapshot that checks a presented key without any waiting.

use super::secret::{self, Sha};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Uses of a key are told to the ledger at most this often: to a person, a second is now.
const NOTE_EVERY_MS: u64 = 1_000;

/// A key that a client may present, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its id, the middle part of `mk_<id>_<secret>`.
    pub id: Arc<str>,
    /// What the operator calls it: `laptop`.
    pub name: String,
}

/// All valid keys at one moment.
#[derive(Debug, Default)]
pub struct KeyTable {
    keys: HashMap<Arc<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    hash: Sha,
    /// When a use was last told to the ledger, in milliseconds of the Unix time.
    noted_unix_ms: AtomicU64,
}

impl KeyTable {
    /// The key that `presented` is, if it is one: found by its id, its secret compared by hash in constant
    /// time.
    #[must_use]
    pub fn check(&self, presented: &str) -> Option<&Key> {
        let (id, secret) = presented.strip_prefix("mk_")?.split_once('_')?;
        let entry = self.keys.get(id)?;
        secret::fits(secret, &entry.hash).then_some(&entry.key)
    }

    /// Whether the ledger is to be told that the key `id` is used now: once a second at most.
    #[must_use]
    pub(super) fn is_news(&self, id: &str, now_unix_ms: u64) -> bool {
        self.keys.get(id).is_some_and(|entry| {
            let noted = entry.noted_unix_ms.load(Ordering::Relaxed);
            noted.saturating_add(NOTE_EVERY_MS) <= now_unix_ms
                && entry
                    .noted_unix_ms
                    .compare_exchange(noted, now_unix_ms, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
        })
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.keys.contains_key(id)
    }

    pub(super) fn insert(&mut self, key: Key, hash: Sha) {
        let noted_unix_ms = AtomicU64::new(0);
        self.keys.insert(key.id.clone(), Entry { key, hash, noted_unix_ms });
    }
}

/// A key as text, shown once: `mk_<id>_<secret>`.
pub(super) fn written(id: &str, secret: &str) -> String {
    format!("mk_{id}_{secret}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> KeyTable {
        let mut table = KeyTable::default();
        table.insert(Key { id: "abcdefgh".into(), name: "laptop".into() }, secret::hash("s_e-cret"));
        table
    }

    #[test]
    fn a_key_is_found_by_its_id_and_its_secret_may_hold_underscores() {
        let table = table();
        let key = table.check(&written("abcdefgh", "s_e-cret")).expect("the right key");
        assert_eq!(key.name, "laptop");
    }

    #[test]
    fn a_use_is_news_once_a_second_and_of_unknown_keys_never() {
        let table = table();
        let news = |now| table.is_news("abcdefgh", now);
        assert_eq!([5_000, 5_001, 5_999, 6_000, 6_500].map(news), [true, false, false, true, false]);
        assert!(!table.is_news("zzzzzzzz", 9_000));
    }

    #[test]
    fn everything_else_is_no_key() {
        for presented in [
            "",
            "mk_",
            "mk__",
            "mk_abcdefgh",
            "mk_abcdefgh_",
            "mk_abcdefgh_s_e-cre",
            "mk_abcdefgh_s_e-crett",
            "mk_abcdefg_s_e-cret",
            "mk_zzzzzzzz_s_e-cret",
            "MK_abcdefgh_s_e-cret",
            " mk_abcdefgh_s_e-cret",
            "abcdefgh_s_e-cret",
        ] {
            assert!(table().check(presented).is_none(), "{presented:?}");
        }
    }
}
