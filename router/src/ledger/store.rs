//! The file of the ledger: which tables it has, how it is opened, how records are read and written.
//!
//! Values are JSON, so that a person can read a backup and a later version can add fields. `meta` holds the
//! schema's version; a file of a newer version is left alone.

use super::error::LedgerError;
use super::secret::Sha;
use redb::{Database, ReadableDatabase as _, ReadableTable, ReadableTableMetadata as _, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// The version that this program writes. Raised when an older program would misread the file.
pub(super) const SCHEMA: u64 = 1;

/// The ledger is small; redb's default of 1 GiB would be a strange bound for it.
const CACHE: usize = 8 * 1024 * 1024;

const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");

/// The records of one kind, id or name → JSON, by the name of their table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table(&'static str);

/// [`TokenRecord`]s by id.
pub(super) const TOKENS: Table = Table("tokens");
/// [`KeyRecord`]s by id.
pub(super) const KEYS: Table = Table("keys");
/// [`IdentityRecord`]s by `<role>/<name>`.
pub(super) const IDENTITIES: Table = Table("identities");
/// What operators wish of placement: `plan`, `node/<name>`, `pin/<node>/<model>`.
pub(super) const WISHES: Table = Table("wishes");

impl Table {
    fn definition(self) -> TableDefinition<'static, &'static str, &'static str> {
        TableDefinition::new(self.0)
    }
}

/// A join token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct TokenRecord {
    /// `node` or `operator`.
    pub(super) role: String,
    /// The name it grants; `None` = the one the machine proposes.
    pub(super) name: Option<String>,
    pub(super) secret_sha256: Sha,
    pub(super) created_unix_ms: u64,
    pub(super) expires_unix_ms: u64,
    pub(super) used: Option<Use>,
    pub(super) revoked_unix_ms: Option<u64>,
}

/// Who traded a token, and when.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Use {
    pub(super) by: String,
    pub(super) unix_ms: u64,
}

/// An API key of a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) name: String,
    pub(super) secret_sha256: Sha,
    pub(super) created_unix_ms: u64,
    pub(super) last_used_unix_ms: Option<u64>,
}

/// Which key a name belongs to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct IdentityRecord {
    pub(super) key_sha256: Sha,
    pub(super) joined_unix_ms: u64,
    /// The token it joined with.
    pub(super) token: String,
}

/// The open file. Every call blocks: only the ledger's own thread makes them.
pub(super) struct Store {
    database: Database,
}

impl Store {
    /// Opens or makes the file (0600).
    pub(super) fn open(path: &Path) -> Result<Self, LedgerError> {
        let file =
            private_file(path).map_err(|source| LedgerError::Unwritable { path: path.to_owned(), source })?;
        let database = open_whole(path, file)?;
        let store = Self { database };
        store.agree_on_schema(path)?;
        Ok(store)
    }

    fn agree_on_schema(&self, path: &Path) -> Result<(), LedgerError> {
        const OPERATION: &str = "reading the schema's version";
        let agreed = self.write(OPERATION, |transaction| {
            let mut meta = transaction.open(META)?;
            let found =
                meta.get("schema").map_err(LedgerError::storage(OPERATION))?.map(|version| version.value());
            match found {
                Some(found) if found > SCHEMA => {
                    return Err(LedgerError::Newer { path: path.to_owned(), found, known: SCHEMA });
                }
                Some(_) => {}
                None => drop(meta.insert("schema", SCHEMA).map_err(LedgerError::storage(OPERATION))?),
            }
            // Reading a table that was never written is an error, so all are made now.
            for table in [TOKENS, KEYS, IDENTITIES, WISHES] {
                transaction.open(table.definition())?;
            }
            Ok(())
        });
        if let Err(LedgerError::Storage { source, .. }) = agreed {
            return Err(LedgerError::opening(path, *source));
        }
        agreed
    }

    /// Raises the term and returns it: a number that no earlier start of the router had.
    pub(super) fn raise_term(&self) -> Result<u64, LedgerError> {
        const OPERATION: &str = "raising the term";
        self.write(OPERATION, |transaction| {
            let mut meta = transaction.open(META)?;
            let last = meta.get("term").map_err(LedgerError::storage(OPERATION))?.map(|term| term.value());
            let term = last.unwrap_or(0).saturating_add(1);
            meta.insert("term", term).map_err(LedgerError::storage(OPERATION))?;
            Ok(term)
        })
    }

    /// Runs `work` in one transaction: all of it is on disk afterwards, or nothing when it fails.
    pub(super) fn write<T, E: From<LedgerError>>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let transaction = self.database.begin_write().map_err(LedgerError::storage(operation))?;
        let transaction = Transaction { transaction, operation };
        let result = work(&transaction)?;
        transaction.transaction.commit().map_err(LedgerError::storage(operation))?;
        Ok(result)
    }

    /// All records of `table`, ordered by id.
    pub(super) fn all<R: DeserializeOwned>(
        &self,
        table: Table,
        operation: &'static str,
    ) -> Result<Vec<(String, R)>, LedgerError> {
        let transaction = self.database.begin_read().map_err(LedgerError::storage(operation))?;
        let opened = transaction.open_table(table.definition()).map_err(LedgerError::storage(operation))?;
        records(&opened, table.0, operation)
    }

    /// The record of `table` with this id.
    pub(super) fn one<R: DeserializeOwned>(
        &self,
        table: Table,
        id: &str,
        operation: &'static str,
    ) -> Result<Option<R>, LedgerError> {
        let transaction = self.database.begin_read().map_err(LedgerError::storage(operation))?;
        let opened = transaction.open_table(table.definition()).map_err(LedgerError::storage(operation))?;
        record(&opened, table.0, id, operation)
    }
}

/// A running transaction. Dropping it undoes it.
pub(super) struct Transaction {
    transaction: redb::WriteTransaction,
    operation: &'static str,
}

impl Transaction {
    fn open<'t, V: redb::Value + 'static>(
        &'t self,
        table: TableDefinition<'static, &'static str, V>,
    ) -> Result<redb::Table<'t, &'static str, V>, LedgerError> {
        self.transaction.open_table(table).map_err(LedgerError::storage(self.operation))
    }

    pub(super) fn get<R: DeserializeOwned>(&self, table: Table, id: &str) -> Result<Option<R>, LedgerError> {
        record(&self.open(table.definition())?, table.0, id, self.operation)
    }

    pub(super) fn all<R: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, R)>, LedgerError> {
        records(&self.open(table.definition())?, table.0, self.operation)
    }

    pub(super) fn count(&self, table: Table) -> Result<u64, LedgerError> {
        self.open(table.definition())?.len().map_err(LedgerError::storage(self.operation))
    }

    pub(super) fn put<R: Serialize>(&self, table: Table, id: &str, record: &R) -> Result<(), LedgerError> {
        let json = serde_json::to_string(record).map_err(|source| LedgerError::Record {
            table: table.0,
            id: id.into(),
            source,
        })?;
        self.open(table.definition())?
            .insert(id, json.as_str())
            .map_err(LedgerError::storage(self.operation))?;
        Ok(())
    }

    pub(super) fn remove(&self, table: Table, id: &str) -> Result<(), LedgerError> {
        self.open(table.definition())?.remove(id).map_err(LedgerError::storage(self.operation))?;
        Ok(())
    }
}

fn record<R: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static str>,
    name: &'static str,
    id: &str,
    operation: &'static str,
) -> Result<Option<R>, LedgerError> {
    let found = table.get(id).map_err(LedgerError::storage(operation))?;
    found.map(|json| parsed(name, id, json.value())).transpose()
}

fn records<R: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static str>,
    name: &'static str,
    operation: &'static str,
) -> Result<Vec<(String, R)>, LedgerError> {
    let mut all = Vec::new();
    for entry in table.iter().map_err(LedgerError::storage(operation))? {
        let (id, json) = entry.map_err(LedgerError::storage(operation))?;
        all.push((id.value().to_owned(), parsed(name, id.value(), json.value())?));
    }
    Ok(all)
}

fn parsed<R: DeserializeOwned>(table: &'static str, id: &str, json: &str) -> Result<R, LedgerError> {
    serde_json::from_str(json).map_err(|source| LedgerError::Record { table, id: id.into(), source })
}

/// Opens the database and reads all of it once: a page that a bad disk changed is found now, by its checksum,
/// and not in the middle of somebody's join.
fn open_whole(path: &Path, file: File) -> Result<Database, LedgerError> {
    let opened = std::panic::catch_unwind(|| {
        let mut database = redb::Builder::new().set_cache_size(CACHE).create_file(file)?;
        // False says that it was mended, as after a power cut.
        let _mended = database.check_integrity()?;
        Ok::<_, redb::DatabaseError>(database)
    });
    // redb panics on some damaged pages before it looks at their checksums.
    let damaged =
        |_| LedgerError::Corrupt { path: path.to_owned(), detail: "a page of it is damaged".into() };
    opened.map_err(damaged)?.map_err(|error| LedgerError::opening(path, error))
}

/// Opens or makes `path`, readable and writable by its owner only, whatever the umask or an earlier copy says.
fn private_file(path: &Path) -> std::io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_newer_schema_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("ledger.redb");
        let store = Store::open(&path).expect("a new ledger");
        store
            .write("raising the version", |transaction| {
                transaction.open(META)?.insert("schema", SCHEMA + 1).expect("a write");
                Ok::<_, LedgerError>(())
            })
            .expect("a commit");
        drop(store);
        for _ in 0..2 {
            let error = Store::open(&path).err().expect("a newer schema");
            assert!(
                matches!(error, LedgerError::Newer { found: 2, known: 1, .. }),
                "the version is told: {error}"
            );
        }
    }

    #[test]
    fn a_damaged_record_is_told_by_table_and_id() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("ledger.redb")).expect("a new ledger");
        store
            .write("damaging", |transaction| {
                transaction.open(KEYS.definition())?.insert("abcdefgh", "{\"name\":").expect("a write");
                Ok::<_, LedgerError>(())
            })
            .expect("a commit");
        let error = store.all::<KeyRecord>(KEYS, "listing keys").expect_err("broken JSON");
        assert_eq!(error.to_string(), "record `abcdefgh` of table `keys` in the ledger is damaged");
    }
}
