//! What a request needs of a replica, owned: it may be decided again and again while the request waits.

use mesh_core::id::{ModeName, ModelId};
use mesh_core::mode::Purpose;
use mesh_core::routing::Request;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The needs.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

impl Wanted {
    /// The same as the rules read it.
    #[must_use]
    pub fn request(&self) -> Request<'_> {
        Request {
            models: self.models.iter().map(|(model, mode)| (model, mode.as_ref())).collect(),
            purpose: self.purpose,
            prompt_tokens: self.prompt_tokens,
            mode: self.mode.as_ref(),
            least_context: self.least_context,
        }
    }

    /// Equal for requests that need the same slots.
    #[must_use]
    pub fn class(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (model, _) in &self.models {
            model.as_str().hash(&mut hasher);
        }
        (self.purpose == Purpose::Embed, self.least_context).hash(&mut hasher);
        hasher.finish()
    }
}

/// A number that stands for a name: keys and sessions are compared, never shown.
#[must_use]
pub fn hash_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
