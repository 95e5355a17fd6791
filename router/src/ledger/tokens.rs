//! Join tokens and the names they granted.

use super::error::{LedgerError, TokenRefusal};
use super::store::{IDENTITIES, IdentityRecord, TOKENS, TokenRecord, Transaction, Use};
use super::{Owner, resolve, secret};
use mesh_core::id::{IdError, MachineId, machine_id_from_hostname};
use mesh_proto::identity::Role;
use std::time::Duration;

/// How long a token lives when nothing else is asked for: long enough to walk to the other machine.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3_600);

/// The longest a token may live. It is a key to the mesh on a piece of paper.
pub const LONGEST_TTL: Duration = Duration::from_secs(24 * 3_600);

/// The most tokens the ledger keeps, ended ones of the last days included.
pub const TOKEN_LIMIT: u64 = 10_000;

/// How long an ended token is still listed.
const KEPT: Duration = Duration::from_secs(7 * 86_400);

/// The longest host name there is (RFC 1035).
const HOSTNAME_LIMIT: usize = 253;

/// What a token granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeemed {
    /// The role of the certificate to make.
    pub role: Role,
    /// The name of the certificate to make.
    pub name: MachineId,
}

/// Where a token is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// It can be traded.
    Open,
    /// It was traded.
    Used,
    /// Its time is over.
    Expired,
    /// An operator took it back.
    Revoked,
}

impl TokenState {
    /// The word shown to operators.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// A token as listed, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id.
    pub id: String,
    /// `node` or `operator`.
    pub role: String,
    /// The name it grants; `None` = the one the machine proposes.
    pub name: Option<String>,
    /// Where it is in its life.
    pub state: TokenState,
    /// When it was made.
    pub created_unix_ms: u64,
    /// Until when it can be traded.
    pub expires_unix_ms: u64,
    /// The name that joined with it.
    pub used_by: Option<String>,
}

impl TokenRecord {
    fn state(&self, now_unix_ms: u64) -> TokenState {
        if self.revoked_unix_ms.is_some() {
            TokenState::Revoked
        } else if self.used.is_some() {
            TokenState::Used
        } else if self.expires_unix_ms <= now_unix_ms {
            TokenState::Expired
        } else {
            TokenState::Open
        }
    }

    fn ended_unix_ms(&self) -> u64 {
        let used = self.used.as_ref().map(|by| by.unix_ms);
        self.revoked_unix_ms.or(used).unwrap_or(self.expires_unix_ms)
    }
}

impl Owner {
    pub(super) fn create_token(
        &mut self,
        role: Role,
        name: Option<MachineId>,
        ttl: Duration,
        now_unix_ms: u64,
    ) -> Result<(String, String), LedgerError> {
        if role == Role::Router {
            return Err(LedgerError::RoleNotGranted { role: role.word() });
        }
        if ttl > LONGEST_TTL {
            return Err(LedgerError::TtlTooLong { asked: ttl, limit: LONGEST_TTL });
        }
        let ttl = if ttl.is_zero() { DEFAULT_TTL } else { ttl };
        let secret = secret::random_secret();
        let record = TokenRecord {
            role: role.word().into(),
            name: name.map(String::from),
            secret_sha256: secret::hash(&secret),
            created_unix_ms: now_unix_ms,
            expires_unix_ms: now_unix_ms.saturating_add(millis(ttl)),
            used: None,
            revoked_unix_ms: None,
        };
        let id = self.store.write("creating a token", |transaction| {
            forget_ended(transaction, now_unix_ms)?;
            if transaction.count(TOKENS)? >= TOKEN_LIMIT {
                return Err(LedgerError::TooMany { kind: "token", limit: TOKEN_LIMIT });
            }
            let mut id = secret::random_id();
            while transaction.get::<TokenRecord>(TOKENS, &id)?.is_some() {
                id = secret::random_id();
            }
            transaction.put(TOKENS, &id, &record)?;
            Ok(id)
        })?;
        Ok((id, secret))
    }

    pub(super) fn redeem(
        &mut self,
        id: &str,
        presented: &str,
        proposed: &str,
        key_sha256: [u8; 32],
        now_unix_ms: u64,
    ) -> Result<Redeemed, TokenRefusal> {
        self.store.write("redeeming a token", |transaction| {
            let mut record: TokenRecord = transaction.get(TOKENS, id)?.ok_or(TokenRefusal::Unknown)?;
            // First, so that without the secret nobody learns what became of a token.
            if !secret::fits(presented, &record.secret_sha256) {
                return Err(TokenRefusal::WrongSecret);
            }
            if record.revoked_unix_ms.is_some() {
                return Err(TokenRefusal::Revoked);
            }
            if let Some(used) = record.used {
                return Err(TokenRefusal::Used { by: used.by });
            }
            if record.expires_unix_ms <= now_unix_ms {
                let ago = Duration::from_millis(now_unix_ms - record.expires_unix_ms);
                return Err(TokenRefusal::Expired { ago });
            }
            // A role that only a later version knows grants nothing here.
            let role = Role::from_word(&record.role).filter(|&role| role != Role::Router);
            let role = role.ok_or(LedgerError::RoleNotGranted { role: "of the token" })?;
            let name = match &record.name {
                Some(bound) => MachineId::new(bound.as_str())?,
                None => proposed_name(proposed)?,
            };
            let identity = identity_id(role, &name);
            let owner: Option<IdentityRecord> = transaction.get(IDENTITIES, &identity)?;
            if record.name.is_none() && owner.is_some_and(|owner| owner.key_sha256 != key_sha256) {
                return Err(TokenRefusal::NameTaken { name: name.into() });
            }
            record.used = Some(Use { by: name.to_string(), unix_ms: now_unix_ms });
            transaction.put(TOKENS, id, &record)?;
            let joined = IdentityRecord { key_sha256, joined_unix_ms: now_unix_ms, token: id.into() };
            transaction.put(IDENTITIES, &identity, &joined)?;
            Ok(Redeemed { role, name })
        })
    }

    pub(super) fn list_tokens(&mut self, now_unix_ms: u64) -> Result<Vec<TokenRow>, LedgerError> {
        let mut rows: Vec<TokenRow> = self
            .store
            .all::<TokenRecord>(TOKENS, "listing tokens")?
            .into_iter()
            .filter(|(_, record)| !is_forgotten(record, now_unix_ms))
            .map(|(id, record)| TokenRow {
                id,
                state: record.state(now_unix_ms),
                role: record.role,
                name: record.name,
                created_unix_ms: record.created_unix_ms,
                expires_unix_ms: record.expires_unix_ms,
                used_by: record.used.map(|by| by.by),
            })
            .collect();
        rows.sort_by(|a, b| (a.created_unix_ms, &a.id).cmp(&(b.created_unix_ms, &b.id)));
        Ok(rows)
    }

    pub(super) fn revoke_token(&mut self, prefix: &str, now_unix_ms: u64) -> Result<String, LedgerError> {
        self.store.write("revoking a token", |transaction| {
            let records = transaction.all::<TokenRecord>(TOKENS)?;
            let id = resolve("token", prefix, records.iter().map(|(id, _)| id.as_str()))?;
            let mut record: TokenRecord = transaction
                .get(TOKENS, &id)?
                .ok_or(LedgerError::NotOpen { id: id.clone(), state: "gone" })?;
            let state = record.state(now_unix_ms);
            if state != TokenState::Open {
                return Err(LedgerError::NotOpen { id, state: state.word() });
            }
            record.revoked_unix_ms = Some(now_unix_ms);
            transaction.put(TOKENS, &id, &record)?;
            Ok(id)
        })
    }

    pub(super) fn key_matches(
        &mut self,
        role: Role,
        name: &MachineId,
        key_sha256: &[u8; 32],
    ) -> Result<bool, LedgerError> {
        let id = identity_id(role, name);
        let record: Option<IdentityRecord> = self.store.one(IDENTITIES, &id, "looking up a node's key")?;
        Ok(record.is_some_and(|record| record.key_sha256 == *key_sha256))
    }
}

fn identity_id(role: Role, name: &MachineId) -> String {
    format!("{}/{name}", role.word())
}

/// The name for a machine that calls itself `proposed`. Host names are cleaned (`MSI_Raider.local` becomes
/// `msi-raider`); what cannot be a host name is refused rather than turned into something else.
fn proposed_name(proposed: &str) -> Result<MachineId, IdError> {
    let like_a_hostname = proposed.len() <= HOSTNAME_LIMIT
        && proposed.starts_with(|c: char| c.is_ascii_alphanumeric())
        && proposed.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if like_a_hostname { Ok(machine_id_from_hostname(proposed)) } else { MachineId::new(proposed) }
}

fn is_forgotten(record: &TokenRecord, now_unix_ms: u64) -> bool {
    record.state(now_unix_ms) != TokenState::Open
        && record.ended_unix_ms().saturating_add(millis(KEPT)) <= now_unix_ms
}

fn forget_ended(transaction: &Transaction, now_unix_ms: u64) -> Result<(), LedgerError> {
    for (id, record) in transaction.all::<TokenRecord>(TOKENS)? {
        if is_forgotten(&record, now_unix_ms) {
            transaction.remove(TOKENS, &id)?;
        }
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_cleaned_and_anything_else_is_refused() {
        for (proposed, name) in
            [("strix-1", "strix-1"), ("MSI_Raider.local", "msi-raider"), ("Zoë".trim_end_matches('ë'), "zo")]
        {
            assert_eq!(proposed_name(proposed).expect(proposed).as_str(), name);
        }
        for bad in ["", "../etc", "a b", "a/b", "-rf", ".", "näme", "a\nb", "spiffe://x", &"a".repeat(254)] {
            assert!(proposed_name(bad).is_err(), "{bad:?}");
        }
    }
}
