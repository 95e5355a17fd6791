//! With how much context, how many slots and which caches an engine of our own is started.

use mesh_core::memory::{CacheType, CpuMoe, GpuLayers, Options};
use mesh_core::units::Bytes;

/// How large a model is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizing {
    /// Tokens one request may hold.
    pub context: u32,
    /// Requests at once.
    pub slots: u32,
    /// Type of keys and values.
    pub cache: CacheType,
    /// Tokens computed at once.
    pub ubatch: u32,
    /// Layers on graphics processors, the output among them; `None` = all.
    pub gpu_layers: Option<u32>,
    /// Layers whose experts stay in RAM, from the first; `None` = none.
    pub cpu_moe: Option<u32>,
    /// RAM for saved prompts.
    pub prompt_cache: Bytes,
    /// Saved states of each slot.
    pub checkpoints: u32,
    /// Read the file past the page cache: where RAM and graphics memory are one, it would hold the weights twice.
    pub direct_io: bool,
}

impl Sizing {
    /// The usual sizes around `context` tokens for each of `slots` requests.
    #[must_use]
    pub fn default_for(context: u32, slots: u32) -> Self {
        let (context, slots) = (context.max(1), slots.max(1));
        let options = Options::launched(u64::from(context), slots);
        Self {
            context,
            slots,
            cache: options.cache_k,
            ubatch: options.ubatch,
            gpu_layers: None,
            cpu_moe: None,
            prompt_cache: options.prompt_cache,
            checkpoints: options.checkpoints,
            direct_io: false,
        }
    }

    /// Tokens over all slots: what llama.cpp is told, because it shares its context between them.
    #[must_use]
    pub fn total_context(&self) -> u64 {
        u64::from(self.context) * u64::from(self.slots)
    }

    /// The same in the words of the memory's arithmetic.
    #[must_use]
    pub fn options(&self) -> Options {
        Options {
            cache_k: self.cache,
            cache_v: self.cache,
            ubatch: self.ubatch,
            gpu_layers: self.gpu_layers.map_or(GpuLayers::All, |count| {
                if count == 0 { GpuLayers::None } else { GpuLayers::Last(count) }
            }),
            cpu_moe: self.cpu_moe.map_or(CpuMoe::None, CpuMoe::First),
            prompt_cache: self.prompt_cache,
            checkpoints: self.checkpoints,
            ..Options::new(u64::from(self.context), self.slots)
        }
    }
}
