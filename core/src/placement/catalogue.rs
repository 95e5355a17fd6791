//! The models that a plan may place, and what each takes.

use crate::fit::{Choice, Demand, Margin, Offload, Pools, Wanted, choose, loaded, plan as plan_shape};
use crate::id::ModelId;
use crate::machine::Digest;
use crate::memory::{CacheType, Confidence, Footprint, Options, Parts, Shape, footprint};
use crate::units::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of a model of which only the file's size is known: a token of its cache takes at most this part of the file. The widest
/// cache among the models measured is that of Llama 3.1 8B with 1/37,500; `docs/memory.md` lists them.
const FILE_PER_TOKEN: u64 = 36_000;
/// Its compute buffers: the widest of those measured with flash attention, rounded up.
const GUESSED_COMPUTE: Bytes = Bytes(1 << 30);

/// What is known of a model's memory.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Its header was read.
    Shape(Arc<Shape>),
    /// Only the size of its file, and what a token takes where somebody wrote that down.
    File {
        /// Bytes of its weights.
        size: Bytes,
        /// Bytes of an f16 cache for one token.
        cache_per_token: Option<Bytes>,
    },
}

/// One model.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownModel {
    /// What decides its memory.
    pub body: Body,
    /// Bytes of its file or files.
    pub size: Bytes,
    /// Bytes of the file that turns images or sound into tokens, where it has one.
    pub projector: Option<Bytes>,
    /// Its quantisation: `Q4_K_M`.
    pub quantisation: Option<String>,
    /// Parameters.
    pub parameters: Option<u64>,
    /// Tokens it was trained for.
    pub trained_context: Option<u32>,
    /// It makes embeddings and no answers.
    pub embeds: bool,
    /// How well it did in examinations, 0 to 1 ([`super::grade`]).
    pub quality: Option<f64>,
    /// Of its file.
    pub digest: Option<Digest>,
    /// An address from which it can be fetched.
    pub url: Option<String>,
}

impl KnownModel {
    /// A model of which a header was read.
    #[must_use]
    pub fn of_shape(shape: Arc<Shape>, size: Bytes) -> Self {
        let trained_context = shape.trained_context.and_then(|tokens| u32::try_from(tokens).ok());
        Self { body: Body::Shape(shape), size, trained_context, ..Self::of_file(size, None) }
    }

    /// A model of which only the size is known.
    #[must_use]
    pub fn of_file(size: Bytes, cache_per_token: Option<Bytes>) -> Self {
        Self {
            body: Body::File { size, cache_per_token },
            size,
            projector: None,
            quantisation: None,
            parameters: None,
            trained_context: None,
            embeds: false,
            quality: None,
            digest: None,
            url: None,
        }
    }
}

/// The part of a model's experts that works on one token where nothing more is known: 8 of 128 in Qwen3, 4 of 32 in
/// gpt-oss, 8 of 256 in DeepSeek and MiniMax, and those that always work.
const WORKING_EXPERTS: u64 = 10;

impl KnownModel {
    /// Bytes of weights that are read for each token of an answer: what its speed is bound by.
    #[must_use]
    pub fn read_for_a_token(&self) -> u64 {
        match &self.body {
            Body::Shape(shape) => {
                let layers = shape.layers.iter().map(|layer| layer.dense + layer.experts / WORKING_EXPERTS);
                let head = if shape.tied { shape.embeddings } else { shape.output };
                layers.fold(head, u64::saturating_add).max(1)
            }
            Body::File { size, .. } => size.0.max(1),
        }
    }
}

/// All models by name.
pub type Catalogue = BTreeMap<ModelId, KnownModel>;

/// How a model would be loaded, before a machine is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Tokens of one request.
    pub context: u32,
    /// Requests at once.
    pub slots: u32,
    /// Type of its KV cache.
    pub cache: CacheType,
}

impl KnownModel {
    /// What it takes at `size` lying like this.
    #[must_use]
    pub fn lying(&self, size: Size, offload: Offload) -> Footprint {
        let options = self.options(size);
        match &self.body {
            Body::Shape(shape) => footprint(shape, &loaded(&options, offload)),
            Body::File { size: file, cache_per_token } => {
                let parts = guessed(*file, *cache_per_token, self.projector, &options);
                let on_device = offload != Offload::None;
                let (device, host) =
                    if on_device { (parts, Parts::default()) } else { (Parts::default(), parts) };
                let notes = vec!["from the file's size alone".into()];
                Footprint { device, host, confidence: Confidence::Guessed, notes }
            }
        }
    }

    fn options(&self, size: Size) -> Options {
        Options {
            cache_k: size.cache,
            cache_v: size.cache,
            projector: self.projector,
            ..Options::launched(u64::from(size.context), size.slots)
        }
    }

    /// The best way to load it at `size` into `pools` as if they were its own, and what that takes.
    #[must_use]
    pub fn way(&self, size: Size, pools: &Pools, margin: Margin) -> (Choice, Footprint) {
        match &self.body {
            Body::Shape(shape) => plan_shape(shape, &self.options(size), false, pools, margin),
            Body::File { .. } => {
                let wanted = Wanted {
                    context: size.context,
                    context_is_open: false,
                    layers: 0,
                    experts: false,
                    divisible: false,
                    offload: None,
                };
                let choice = choose(pools, &[], wanted, margin, |trial| {
                    let footprint = self.lying(size, trial.offload);
                    Demand { device: footprint.device.total(), host: footprint.host.total() }
                });
                let footprint = self.lying(size, choice.trial.offload);
                (choice, footprint)
            }
        }
    }
}

fn guessed(file: Bytes, per_token: Option<Bytes>, projector: Option<Bytes>, options: &Options) -> Parts {
    let token = per_token.map_or(file.0 / FILE_PER_TOKEN, |bytes| bytes.0);
    // `row_bytes` of 32 elements against those of f16: what the type makes of the cache.
    let of_type = options.cache_k.row_bytes(32).saturating_mul(1024) / CacheType::F16.row_bytes(32).max(1);
    let kv = u128::from(token) * u128::from(options.context) * u128::from(of_type) / 1024;
    Parts {
        weights: Bytes(file.0.saturating_add(projector.map_or(0, |bytes| bytes.0))),
        kv: Bytes(u64::try_from(kv).unwrap_or(u64::MAX)),
        recurrent: Bytes(0),
        compute: GUESSED_COMPUTE,
        overhead: Bytes(
            crate::memory::HOST_OVERHEAD
                .0
                .saturating_add(crate::memory::DEVICE_OVERHEAD.0)
                .saturating_add(options.prompt_cache.0),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Capacity, Reading};

    const GIB: u64 = 1 << 30;

    fn ram(gib: u64) -> Pools {
        let capacity = Capacity { total: Bytes(gib * GIB), available: Bytes(gib * GIB) };
        Pools { devices: Vec::new(), ram: Reading::Known(capacity), notes: Vec::new() }
    }

    #[test]
    fn a_file_that_is_larger_than_the_machine_does_not_fit_whatever_its_cache() {
        let model = KnownModel::of_file(Bytes(170_000_000_000), Some(Bytes(70_272)));
        let size = Size { context: 16_384, slots: 1, cache: CacheType::F16 };
        let (choice, footprint) = model.way(size, &ram(128), Margin::Default);
        assert!(!choice.fit.fits && !choice.fit.ever, "{}", choice.fit.why);
        assert_eq!(footprint.host.kv, Bytes(70_272 * 16_384));
        assert_eq!(footprint.confidence, Confidence::Guessed);
    }

    #[test]
    fn a_quantised_cache_takes_less_and_more_slots_more() {
        let model = KnownModel::of_file(Bytes(10 * GIB), None);
        let kv = |slots, cache| {
            let size = Size { context: 8192, slots, cache };
            model.way(size, &ram(64), Margin::Default).1.host.kv.0
        };
        assert_eq!(kv(2, CacheType::F16), 2 * kv(1, CacheType::F16));
        assert_eq!(kv(1, CacheType::Q8_0), kv(1, CacheType::F16) * 544 / 1024);
    }
}
