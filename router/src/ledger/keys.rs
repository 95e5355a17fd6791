//! API keys: made, listed, removed, and when each was last used.

use super::error::LedgerError;
use super::key_table::{self, Key, KeyTable};
use super::store::{KEYS, KeyRecord, Store};
use super::{Owner, resolve, secret};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most API keys there may be. All are in memory, and each change publishes the whole table.
pub const KEY_LIMIT: u64 = 10_000;

/// The most characters of a key's name.
const NAME_LIMIT: usize = 64;

/// Last uses are written this often at most: a key in use all day must not wear the disk out.
const WRITE_EVERY_MS: u64 = 60_000;

/// An API key as listed, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Its id.
    pub id: String,
    /// What the operator calls it.
    pub name: String,
    /// When it was made.
    pub created_unix_ms: u64,
    /// When it was last presented, to the second request within a minute not exact.
    pub last_used_unix_ms: Option<u64>,
}

/// Last uses that are not in the file yet.
#[derive(Default)]
pub(super) struct LastUse {
    unwritten: BTreeMap<String, u64>,
    written_unix_ms: u64,
}

impl Owner {
    pub(super) fn create_key(
        &mut self,
        name: &str,
        now_unix_ms: u64,
    ) -> Result<(String, String), LedgerError> {
        check_name(name)?;
        let secret = secret::random_secret();
        let record = KeyRecord {
            name: name.into(),
            secret_sha256: secret::hash(&secret),
            created_unix_ms: now_unix_ms,
            last_used_unix_ms: None,
        };
        let id = self.store.write("creating a key", |transaction| {
            if transaction.count(KEYS)? >= KEY_LIMIT {
                return Err(LedgerError::TooMany { kind: "key", limit: KEY_LIMIT });
            }
            let mut id = secret::random_id();
            while transaction.get::<KeyRecord>(KEYS, &id)?.is_some() {
                id = secret::random_id();
            }
            transaction.put(KEYS, &id, &record)?;
            Ok(id)
        })?;
        self.publish()?;
        let key = key_table::written(&id, &secret);
        Ok((id, key))
    }

    pub(super) fn list_keys(&mut self) -> Result<Vec<KeyRow>, LedgerError> {
        let mut rows: Vec<KeyRow> = self
            .store
            .all::<KeyRecord>(KEYS, "listing keys")?
            .into_iter()
            .map(|(id, record)| KeyRow {
                last_used_unix_ms: self.last_use.unwritten.get(&id).copied().max(record.last_used_unix_ms),
                id,
                name: record.name,
                created_unix_ms: record.created_unix_ms,
            })
            .collect();
        rows.sort_by(|a, b| (a.created_unix_ms, &a.id).cmp(&(b.created_unix_ms, &b.id)));
        Ok(rows)
    }

    pub(super) fn revoke_key(&mut self, prefix: &str) -> Result<String, LedgerError> {
        let id = self.store.write("revoking a key", |transaction| {
            let records = transaction.all::<KeyRecord>(KEYS)?;
            let id = resolve("key", prefix, records.iter().map(|(id, _)| id.as_str()))?;
            transaction.remove(KEYS, &id)?;
            Ok::<_, LedgerError>(id)
        })?;
        self.last_use.unwritten.remove(&id);
        self.publish()?;
        Ok(id)
    }

    pub(super) fn key_used(&mut self, id: String, now_unix_ms: u64) {
        if !self.published.borrow().contains(&id) {
            return;
        }
        self.last_use.unwritten.insert(id, now_unix_ms);
        if self.last_use.written_unix_ms.saturating_add(WRITE_EVERY_MS) <= now_unix_ms {
            self.last_use.written_unix_ms = now_unix_ms;
            self.write_last_use();
        }
    }

    /// Writes what is unwritten. A failure costs only these notes, so it is logged and not returned.
    pub(super) fn write_last_use(&mut self) {
        let unwritten = std::mem::take(&mut self.last_use.unwritten);
        if unwritten.is_empty() {
            return;
        }
        let written = self.store.write("noting when keys were used", |transaction| {
            for (id, unix_ms) in &unwritten {
                if let Some(mut record) = transaction.get::<KeyRecord>(KEYS, id)? {
                    record.last_used_unix_ms = Some(*unix_ms).max(record.last_used_unix_ms);
                    transaction.put(KEYS, id, &record)?;
                }
            }
            Ok::<_, LedgerError>(())
        });
        if let Err(error) = written {
            tracing::warn!(%error, keys = unwritten.len(), "the last uses of keys were not written");
        }
    }

    fn publish(&mut self) -> Result<(), LedgerError> {
        self.published.send_replace(Arc::new(table_of(&self.store)?));
        Ok(())
    }
}

/// All keys in the file, as the front door needs them.
pub(super) fn table_of(store: &Store) -> Result<KeyTable, LedgerError> {
    let mut table = KeyTable::default();
    for (id, record) in store.all::<KeyRecord>(KEYS, "reading keys")? {
        table.insert(Key { id: id.into(), name: record.name }, record.secret_sha256);
    }
    Ok(table)
}

/// A key's name stands in logs, metrics and tables.
fn check_name(name: &str) -> Result<(), LedgerError> {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | ' ');
    let fits = (1..=NAME_LIMIT).contains(&name.chars().count());
    if fits && name.trim() == name && name.chars().all(allowed) {
        return Ok(());
    }
    Err(LedgerError::BadKeyName { name: name.chars().take(NAME_LIMIT).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_name_is_a_short_line_of_text() {
        for good in ["laptop", "Zoë's laptop".replace('\'', "").as_str(), "ci@host.example", "a"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", " a", "a ", "a\nb", "a\u{1b}[31m", "a\"b", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
