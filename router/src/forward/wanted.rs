//! What a request needs of a replica, owned: it may be decided again and again while the request waits.

use super::in_flight::Trace;
use super::prompt_prefix::PromptPrefix;
use bytes::Bytes;
use foldhash::quality::RandomState;
use mesh_core::fleet::{FleetView, ReplicaKey};
use mesh_core::id::{ModeName, ModelId};
use mesh_core::mode::Purpose;
use mesh_core::routing::{Policy, Request, Slo};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{LazyLock, OnceLock};

/// Another one in each process, and what comes of it is never shown: two names that are equal by it cannot be looked for
/// beforehand.
static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// The needs.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The models that may answer, best first, with the mode each comes from.
    pub models: Vec<(ModelId, Option<ModeName>)>,
    /// The mode that was asked for; `None` = a model by its name.
    pub mode: Option<ModeName>,
    /// Chat or embeddings.
    pub purpose: Purpose,
    /// A rough count of the prompt's tokens.
    pub prompt_tokens: u64,
    /// Slots with less context than this are useless.
    pub least_context: u32,
    /// Replicas that were tried already.
    pub tried: Vec<ReplicaKey>,
    /// Its tokens are to be counted only: no slot is taken and no prompt read into a cache.
    pub counts_only: bool,
    /// The session's name as a number.
    pub session: Option<u64>,
    /// Times that are asked for.
    pub slo: Slo,
    /// How replicas are compared.
    pub policy: Policy,
    /// The client's body, for [`Wanted::prefix`].
    pub body: Bytes,
    /// The starts of its prompt, read when there is more than one place to go to.
    pub prefix: OnceLock<PromptPrefix>,
}

impl Wanted {
    /// Reads what a choice is made by, where there is a choice. Before any lock: hashing a long prompt takes longer
    /// than deciding.
    pub fn prepare(&self, view: &FleetView) {
        let models = self.models.iter();
        let places: usize = models.filter_map(|(model, _)| view.servings(model)).map(|s| s.open).sum();
        if places >= 2 {
            self.prefix.get_or_init(|| PromptPrefix::read(&self.body));
        }
    }

    /// The same as the rules read it.
    #[must_use]
    pub fn request(&self) -> Request<'_> {
        let models = self.models.iter().map(|(model, mode)| (model, mode.as_ref())).collect();
        let prefix = self.prefix.get();
        Request {
            prompt_tokens: self.prompt_tokens,
            mode: self.mode.as_ref(),
            least_context: self.least_context,
            tried: &self.tried,
            needs: prefix.map(|prefix| prefix.needs).unwrap_or_default(),
            prefix: prefix.map_or(&[], |prefix| &prefix.blocks),
            session: self.session,
            slo: self.slo,
            policy: self.policy,
            ..Request::new(models, self.purpose)
        }
    }

    /// What the routing of later requests learns from this one.
    #[must_use]
    pub fn trace(&self) -> Trace {
        Trace {
            mode: self.mode.clone(),
            prefix: self.prefix.get().map(|prefix| prefix.blocks.clone()).unwrap_or_default(),
            session: self.session,
            weightless: self.counts_only,
        }
    }

    /// Equal for requests that need the same slots. What is not read of a prompt keeps it from no slot either.
    #[must_use]
    pub fn class(&self) -> u64 {
        let mut hasher = SEED.build_hasher();
        for (model, _) in &self.models {
            model.as_str().hash(&mut hasher);
        }
        let needs = self.prefix.get().map(|prefix| prefix.needs).unwrap_or_default();
        (needs.tools, needs.vision, needs.fim).hash(&mut hasher);
        (self.purpose == Purpose::Embed, self.least_context).hash(&mut hasher);
        self.tried.iter().for_each(|replica| replica.number().hash(&mut hasher));
        hasher.finish()
    }
}

/// A number that stands for a name: keys and sessions are compared, never shown.
#[must_use]
pub fn hash_of<T: Hash + ?Sized>(name: &T) -> u64 {
    SEED.hash_one(name)
}
