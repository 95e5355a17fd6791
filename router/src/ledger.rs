//! What the router must not forget: join tokens, the key that each joined name belongs to, API keys, what operators wish
//! of placement, and how often it has been started (the term).
//!
//! One redb file, one thread that owns it (redb blocks), and cheap handles. Secrets are never in the file,
//! only their SHA-256. The request path does not come here: it checks keys against the [`KeyTable`] snapshot.
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | thread `ledger` | jobs of the handles, one after another | replies, a new `KeyTable` after each change | the last handle is dropped, or [`LedgerHandle::close`] |
//!
//! ```text
//! token:  open ──redeem──► used      ┐
//!         open ──time────► expired   ├─ seven days ─► forgotten
//!         open ──revoke──► revoked   ┘
//! ```

mod error;
mod key_table;
mod keys;
mod secret;
mod store;
mod tokens;
mod wishes;

pub use error::{LedgerError, TokenRefusal};
pub use key_table::{Key, KeyTable};
pub use keys::{KEY_LIMIT, KeyRow};
pub use tokens::{DEFAULT_TTL, LONGEST_TTL, Redeemed, TOKEN_LIMIT, TokenRow, TokenState};
pub use wishes::{MODE_LIMIT, NodeWish, OperatorWishes, PIN_LIMIT};

use mesh_core::id::{MachineId, ModeName};
use mesh_core::strategy::Pin;
use mesh_proto::identity::Role;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::sync::{mpsc, oneshot, watch};

/// Jobs that may wait for the ledger's thread. Operators and joining machines wait their turn; only
/// [`LedgerHandle::key_used`] is dropped when there is no room.
const WAITING_JOBS: usize = 256;

type Job = Box<dyn FnOnce(&mut Owner) + Send>;

/// The router's ledger.
pub struct Ledger;

impl Ledger {
    /// Opens the ledger in the file `path`, or makes it, and starts the thread that owns it.
    ///
    /// # Errors
    /// [`LedgerError`] when another router has the file, when it cannot be read or written, or when a newer
    /// modemesh wrote it.
    pub fn open(path: &Path) -> Result<LedgerHandle, LedgerError> {
        let owner = Owner::open(path)?;
        let (keys, wishes, term) = (owner.published.subscribe(), owner.wishes.subscribe(), owner.term);
        let (jobs, waiting) = mpsc::channel(WAITING_JOBS);
        std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || own(owner, waiting))
            .map_err(|source| LedgerError::Unwritable { path: path.to_owned(), source })?;
        Ok(LedgerHandle { jobs, keys, wishes, term })
    }
}

/// A way to the ledger. Clones share it; the file is closed when the last one is dropped.
#[derive(Clone)]
pub struct LedgerHandle {
    jobs: mpsc::Sender<Job>,
    keys: watch::Receiver<Arc<KeyTable>>,
    wishes: watch::Receiver<Arc<OperatorWishes>>,
    term: u64,
}

impl LedgerHandle {
    /// The number of this start of the router: higher than that of every start before it.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// What operators wish of placement, and every later change of it.
    #[must_use]
    pub fn wishes(&self) -> watch::Receiver<Arc<OperatorWishes>> {
        self.wishes.clone()
    }

    /// Keeps which strategy was applied, and whether the mesh follows its plan.
    ///
    /// # Errors
    /// [`LedgerError`] when the file fails.
    pub async fn set_plan(&self, strategy: Option<String>, follows: Option<bool>) -> Result<(), LedgerError> {
        self.ask(move |owner| owner.set_plan(strategy, follows)).await?
    }

    /// Keeps what an operator said of a machine.
    ///
    /// # Errors
    /// [`LedgerError`] when the file fails.
    pub async fn set_node(&self, name: &MachineId, wish: NodeWish) -> Result<(), LedgerError> {
        let name = name.clone();
        self.ask(move |owner| owner.set_node(name, wish)).await?
    }

    /// Keeps words for settings of a mode of this strategy (`none` = of the configuration); `None` takes one back.
    ///
    /// # Errors
    /// [`LedgerError::TooMany`] at [`MODE_LIMIT`], or when the file fails.
    pub async fn set_mode(
        &self,
        strategy: String,
        mode: ModeName,
        settings: BTreeMap<String, Option<String>>,
    ) -> Result<(), LedgerError> {
        self.ask(move |owner| owner.set_mode(strategy, mode, settings)).await?
    }

    /// Pins a model to a machine, or lets it go; returns whether it was so before.
    ///
    /// # Errors
    /// [`LedgerError::TooMany`] at [`PIN_LIMIT`].
    pub async fn set_pin(&self, pin: Pin, pinned: bool) -> Result<bool, LedgerError> {
        self.ask(move |owner| owner.set_pin(pin, pinned)).await?
    }

    /// The names of all machines that ever joined.
    ///
    /// # Errors
    /// [`LedgerError`] when the file fails.
    pub async fn node_names(&self) -> Result<BTreeSet<MachineId>, LedgerError> {
        self.ask(Owner::node_names).await?
    }

    /// Makes a join token and returns its id and its secret; the secret is not kept. A zero `ttl` means
    /// [`DEFAULT_TTL`].
    ///
    /// # Errors
    /// [`LedgerError::TtlTooLong`] over [`LONGEST_TTL`], [`LedgerError::RoleNotGranted`] for routers,
    /// [`LedgerError::TooMany`] at [`TOKEN_LIMIT`].
    pub async fn create_token(
        &self,
        role: Role,
        name: Option<MachineId>,
        ttl: Duration,
        now_unix_ms: u64,
    ) -> Result<(String, String), LedgerError> {
        self.ask(move |owner| owner.create_token(role, name, ttl, now_unix_ms)).await?
    }

    /// Trades a token for a name, once. `key_sha256` is the SHA-256 of the joining machine's public key
    /// (SPKI, DER); the name belongs to that key from now on. A refused token stays as it was.
    ///
    /// # Errors
    /// [`TokenRefusal`] says why, for the person at the machine that wants to join.
    pub async fn redeem(
        &self,
        id: &str,
        secret: &str,
        proposed: &str,
        key_sha256: [u8; 32],
        now_unix_ms: u64,
    ) -> Result<Redeemed, TokenRefusal> {
        let (id, secret, proposed) = (id.to_owned(), secret.to_owned(), proposed.to_owned());
        self.ask(move |owner| owner.redeem(&id, &secret, &proposed, key_sha256, now_unix_ms)).await?
    }

    /// The tokens of the last seven days, oldest first.
    ///
    /// # Errors
    /// [`LedgerError`] when the file fails.
    pub async fn list_tokens(&self, now_unix_ms: u64) -> Result<Vec<TokenRow>, LedgerError> {
        self.ask(move |owner| owner.list_tokens(now_unix_ms)).await?
    }

    /// Revokes the open token whose id starts with `prefix` and returns its whole id.
    ///
    /// # Errors
    /// [`LedgerError::Unknown`] and [`LedgerError::Ambiguous`] name the ids there are,
    /// [`LedgerError::NotOpen`] says what became of the token.
    pub async fn revoke_token(&self, prefix: &str, now_unix_ms: u64) -> Result<String, LedgerError> {
        let prefix = prefix.to_owned();
        self.ask(move |owner| owner.revoke_token(&prefix, now_unix_ms)).await?
    }

    /// Whether the node `name` joined with the key of which `key_sha256` is the hash. False for unknown
    /// names, for keys that were replaced by a later join, and when the ledger fails.
    pub async fn node_key_matches(&self, name: &MachineId, key_sha256: [u8; 32]) -> bool {
        let name = name.clone();
        let matches = self.ask(move |owner| owner.key_matches(Role::Node, &name, &key_sha256)).await;
        match matches.and_then(|inner| inner) {
            Ok(matches) => matches,
            Err(error) => {
                tracing::error!(%error, "the key of a node could not be looked up");
                false
            }
        }
    }

    /// Makes an API key and returns its id and the key itself, `mk_<id>_<secret>`, which is not kept.
    ///
    /// # Errors
    /// [`LedgerError::BadKeyName`], or [`LedgerError::TooMany`] at [`KEY_LIMIT`].
    pub async fn create_key(&self, name: &str, now_unix_ms: u64) -> Result<(String, String), LedgerError> {
        let name = name.to_owned();
        self.ask(move |owner| owner.create_key(&name, now_unix_ms)).await?
    }

    /// All API keys, oldest first.
    ///
    /// # Errors
    /// [`LedgerError`] when the file fails.
    pub async fn list_keys(&self) -> Result<Vec<KeyRow>, LedgerError> {
        self.ask(|owner| owner.list_keys()).await?
    }

    /// Removes the API key whose id starts with `prefix` and returns its whole id. It is refused from now on.
    ///
    /// # Errors
    /// [`LedgerError::Unknown`] and [`LedgerError::Ambiguous`] name the ids there are.
    pub async fn revoke_key(&self, prefix: &str) -> Result<String, LedgerError> {
        let prefix = prefix.to_owned();
        self.ask(move |owner| owner.revoke_key(&prefix)).await?
    }

    /// Notes that a key was used. Never waits: a note that finds no room is dropped. The file is written
    /// once a minute at most.
    pub fn key_used(&self, id: &str, now_unix_ms: u64) {
        // A message wakes the ledger's thread, which costs more than the rest of checking a key.
        if !self.keys.borrow().is_news(id, now_unix_ms) {
            return;
        }
        let id = id.to_owned();
        let note: Job = Box::new(move |owner| owner.key_used(id, now_unix_ms));
        if self.jobs.try_send(note).is_err() {
            tracing::debug!("the ledger is busy or closed; a key's last use was not noted");
        }
    }

    /// The id of the key that `presented` is, if it is one now.
    #[must_use]
    pub fn check(&self, presented: &str) -> Option<Arc<str>> {
        self.keys.borrow().check(presented).map(|key| key.id.clone())
    }

    /// The API keys that are valid now, and every later set of them.
    #[must_use]
    pub fn keys(&self) -> watch::Receiver<Arc<KeyTable>> {
        self.keys.clone()
    }

    /// Closes the file and returns when it can be opened again. Other handles get [`LedgerError::Closed`].
    pub async fn close(self) {
        let (done, closed) = oneshot::channel::<()>();
        let last: Job = Box::new(move |owner| owner.closing = Some(done));
        if self.jobs.send(last).await.is_ok() {
            // Resolves, always with an error, when the thread has dropped the file and then the sender.
            drop(closed.await);
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Owner) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |owner| {
            // Nobody may wait for the answer any more; the work itself stands.
            drop(reply.send(work(owner)));
        });
        self.jobs.send(job).await.map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)
    }
}

/// The one owner of the file. Its thread runs the jobs one after another, so none sees another half done.
struct Owner {
    store: Store,
    last_use: keys::LastUse,
    published: watch::Sender<Arc<KeyTable>>,
    wishes: watch::Sender<Arc<OperatorWishes>>,
    term: u64,
    closing: Option<oneshot::Sender<()>>,
}

impl Owner {
    fn open(path: &Path) -> Result<Self, LedgerError> {
        let store = Store::open(path)?;
        let table = keys::table_of(&store)?;
        let wishes = wishes::all(&store)?;
        let term = store.raise_term()?;
        Ok(Self {
            store,
            last_use: keys::LastUse::default(),
            published: watch::Sender::new(Arc::new(table)),
            wishes: watch::Sender::new(Arc::new(wishes)),
            term,
            closing: None,
        })
    }
}

fn own(mut owner: Owner, mut waiting: mpsc::Receiver<Job>) {
    while owner.closing.is_none() {
        let Some(job) = waiting.blocking_recv() else { break };
        job(&mut owner);
    }
    owner.write_last_use();
    let closing = owner.closing.take();
    drop(owner);
    drop(waiting);
    drop(closing);
}

/// The one id among `ids` that starts with `prefix`.
fn resolve<'a>(
    kind: &'static str,
    prefix: &str,
    ids: impl Iterator<Item = &'a str> + Clone,
) -> Result<String, LedgerError> {
    /// Ids named in an error; more would not be read.
    const NAMED: usize = 8;
    let named =
        |ids: &mut dyn Iterator<Item = &'a str>| ids.take(NAMED).map(str::to_owned).collect::<Vec<_>>();
    // An empty prefix fits everything, and nobody means that.
    let fitting = ids.clone().filter(|id| !prefix.is_empty() && id.starts_with(prefix));
    let mut candidates = named(&mut fitting.clone());
    if let Some(whole) = candidates.iter().find(|id| *id == prefix) {
        return Ok(whole.clone());
    }
    let prefix = prefix.chars().take(32).collect();
    match candidates.len() {
        0 => Err(LedgerError::Unknown { kind, prefix, candidates: named(&mut ids.clone()) }),
        1 => Ok(candidates.remove(0)),
        _ => Err(LedgerError::Ambiguous { kind, prefix, candidates }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_finds_its_id_only_when_it_fits_one() {
        let ids = ["abcd2345", "abxy2345", "zzzz2345"];
        let find = |prefix: &str| resolve("key", prefix, ids.into_iter());
        assert_eq!(find("z").expect("one fits"), "zzzz2345");
        assert_eq!(find("abcd2345").expect("the whole id"), "abcd2345");
        assert_eq!(
            find("ab").expect_err("two fit").to_string(),
            "`ab` fits several keys: abcd2345, abxy2345"
        );
        for unknown in ["", "q", "abcd23456"] {
            assert!(matches!(find(unknown), Err(LedgerError::Unknown { .. })), "{unknown:?}");
        }
    }
}
