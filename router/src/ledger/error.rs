//! What can go wrong with the ledger, and why a token is refused: each a sentence for a person.

use mesh_core::id::IdError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why the ledger could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process has the file.
    #[error("ledger {} is in use by another router; stop it, or give this one another data folder", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be created, read or written.
    #[error("opening ledger {}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no ledger, or is damaged.
    #[error("ledger {} cannot be read: {detail}; restore it from a backup, or move it away and join again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file was written by a newer modemesh.
    #[error("ledger {} has schema version {found}, newer than {known}: run the modemesh that wrote it, or a later one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u64,
        /// The newest version that this program reads.
        known: u64,
    },
    /// A transaction failed.
    #[error("{operation} in the ledger")]
    Storage {
        /// What was being done.
        operation: &'static str,
        /// The cause.
        source: Box<redb::Error>,
    },
    /// A record is no valid JSON of its kind.
    #[error("record `{id}` of table `{table}` in the ledger is damaged")]
    Record {
        /// The table.
        table: &'static str,
        /// The record's id.
        id: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// The owner of the file has ended.
    #[error("the ledger is closed")]
    Closed,
    /// A token was asked to live too long.
    #[error("a token may live {} at most, {} was asked for", human(*limit), human(*asked))]
    TtlTooLong {
        /// What was asked.
        asked: Duration,
        /// The most there is.
        limit: Duration,
    },
    /// Nobody joins as this role.
    #[error("no token can grant the role {role}; roles are node and operator")]
    RoleNotGranted {
        /// The role asked for.
        role: &'static str,
    },
    /// There are as many records as allowed.
    #[error("there are {limit} {kind}s already, the most there may be; revoke some")]
    TooMany {
        /// `key` or `token`.
        kind: &'static str,
        /// The most there may be.
        limit: u64,
    },
    /// A key's name has characters that it must not have.
    #[error(
        "key name `{name}` is not allowed: 1 to 64 letters, digits, spaces and `- _ . @`, no space first or last"
    )]
    BadKeyName {
        /// The name, shortened to 64 characters.
        name: String,
    },
    /// No record has an id with this prefix.
    #[error("no {kind} has an id that starts with `{prefix}`; {}", known(kind, candidates))]
    Unknown {
        /// `key` or `token`.
        kind: &'static str,
        /// What was typed.
        prefix: String,
        /// The ids there are, a few of them.
        candidates: Vec<String>,
    },
    /// Several records have ids with this prefix.
    #[error("`{prefix}` fits several {kind}s: {}", candidates.join(", "))]
    Ambiguous {
        /// `key` or `token`.
        kind: &'static str,
        /// What was typed.
        prefix: String,
        /// The ids that fit, a few of them.
        candidates: Vec<String>,
    },
    /// The token cannot be revoked because it is no longer open.
    #[error("token {id} is {state} already")]
    NotOpen {
        /// The token.
        id: String,
        /// `used`, `expired` or `revoked`.
        state: &'static str,
    },
}

/// What helps. Which role the token had the refusal does not know.
const NEW_TOKEN: &str =
    "make a new one with `meshctl token create --role node`, or `--role operator` for a person";

/// Why a token gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefusal {
    /// No token has this id; perhaps it ended more than seven days ago.
    #[error("the router knows no such token; {}", NEW_TOKEN)]
    Unknown,
    /// The id is right and the secret is not.
    #[error("the token's secret is wrong; copy the whole token again")]
    WrongSecret,
    /// It was traded before.
    #[error("the token was used by `{by}` already; {}", NEW_TOKEN)]
    Used {
        /// The name that joined with it.
        by: String,
    },
    /// It is too old.
    #[error("the token expired {} ago; {}", human(*ago), NEW_TOKEN)]
    Expired {
        /// How long ago.
        ago: Duration,
    },
    /// An operator took it back.
    #[error("the token was revoked; {}", NEW_TOKEN)]
    Revoked,
    /// The name belongs to another key.
    #[error(
        "the name `{name}` belongs to another machine; choose another name, or make a token for this name with \
         `meshctl token create --role node --name {name}`, which replaces that machine's key"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The proposed name is not allowed.
    #[error("the proposed name is not allowed: {0}")]
    BadName(#[from] IdError),
    /// The ledger failed.
    #[error("the router could not look the token up")]
    Ledger(#[from] LedgerError),
}

impl LedgerError {
    /// Wraps an error of a transaction with what was being done.
    pub(super) fn storage<E: Into<redb::Error>>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Storage { operation, source: Box::new(source.into()) }
    }

    /// An error of opening `path`, in the words of the person who starts a router.
    pub(super) fn opening(path: &Path, error: impl Into<redb::Error>) -> Self {
        let path = path.to_owned();
        #[expect(clippy::wildcard_enum_match_arm, reason = "redb's list of errors is open-ended")]
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::Locked { path },
            // Not the system's refusal but the file's content: no redb file, or one that was cut short.
            redb::Error::Io(source)
                if !matches!(source.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
            {
                Self::Unwritable { path, source }
            }
            other => Self::Corrupt { path, detail: other.to_string() },
        }
    }
}

/// A duration in the unit a person would use: `45 s`, `12 min`, `26 h`, `3 d`.
fn human(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0..120 => format!("{s} s"),
        120..7_200 => format!("{} min", s / 60),
        7_200..172_800 => format!("{} h", s / 3_600),
        _ => format!("{} d", s / 86_400),
    }
}

fn known(kind: &str, candidates: &[String]) -> String {
    if candidates.is_empty() {
        format!("there are no {kind}s")
    } else {
        format!("there are {}", candidates.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_how_long_ago_and_what_to_do() {
        let refusal = TokenRefusal::Expired { ago: Duration::from_secs(3 * 3_600) };
        assert_eq!(refusal.to_string(), format!("the token expired 3 h ago; {NEW_TOKEN}"));
    }

    #[test]
    fn a_ttl_over_the_limit_is_told_with_the_limit() {
        let error = LedgerError::TtlTooLong {
            asked: Duration::from_secs(7 * 86_400),
            limit: Duration::from_secs(86_400),
        };
        assert_eq!(error.to_string(), "a token may live 24 h at most, 7 d was asked for");
    }

    #[test]
    fn an_unknown_id_names_the_ids_there_are() {
        let error = LedgerError::Unknown {
            kind: "token",
            prefix: "zz".into(),
            candidates: vec!["ab".into(), "cd".into()],
        };
        assert_eq!(error.to_string(), "no token has an id that starts with `zz`; there are ab, cd");
    }
}
