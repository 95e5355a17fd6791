//! How much memory a model takes under given options, pool by pool, with llama.cpp's semantics.
//!
//! ```text
//! device = weights placed there + KV cache of the layers there + recurrent state + compute buffer + overhead
//! host   = weights kept there + token embeddings (always) + the same for its layers + caches of prompts
//! ```
//! One model of memory serves every engine that runs llama.cpp inside: llama-server, Ollama, Lemonade, LM Studio,
//! LocalAI, KoboldCpp. Sources: llama.cpp's `llama-kv-cache*.cpp`, `llama-memory-recurrent.cpp` and
//! `llama-model.cpp` (ggml 0.26); the compute bound was fitted to measured buffers, see `docs/memory.md`.

mod attention;
mod cache_type;
mod shape;

pub use cache_type::CacheType;
pub use shape::{Known, Layer, Shape, ShapeError};

use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// llama.cpp pads every stream of a KV cache to a multiple of this many cells.
pub const CELL_PADDING: u64 = 256;

/// What a GPU backend takes beside all buffers: its context, kernels and scratch. Ollama reserves 457 MiB.
pub const DEVICE_OVERHEAD: Bytes = Bytes(512 << 20);
/// What the engine's process takes in RAM without any model.
pub const HOST_OVERHEAD: Bytes = Bytes(150 << 20);
/// What a vision projector's work needs beside its weights, which the engine's own fit does not know.
pub const PROJECTOR_HEADROOM: Bytes = Bytes(1 << 30);
/// RAM for prompts that were computed before, in an engine that the mesh starts: an editor's system prompt of 10,000
/// tokens is kept over a change of topic, and a small machine can afford it.
pub const LAUNCHED_PROMPT_CACHE: Bytes = Bytes(512 << 20);
/// Saved states of each slot in an engine that the mesh starts: models with windows or recurrent layers need them to
/// take up a prompt in its middle.
pub const LAUNCHED_CHECKPOINTS: u32 = 4;
/// Part of the compute bound that depends on nothing.
const COMPUTE_BASE: u64 = 16 << 20;

/// How many layers go to the device. The output counts as one more layer after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuLayers {
    /// All on the host.
    None,
    /// Everything but the token embeddings on the device.
    All,
    /// The last so many, the output first.
    Last(u32),
}

/// Whose experts stay on the host although their layer is on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuMoe {
    /// Nobody's.
    None,
    /// Those of every layer.
    All,
    /// Those of the first so many layers.
    First(u32),
}

/// How a model is to be loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Tokens over all slots together.
    pub context: u64,
    /// Requests at once.
    pub slots: u32,
    /// One cache that all slots share, instead of a part for each.
    pub unified: bool,
    /// Tokens computed at once.
    pub ubatch: u32,
    /// Type of the keys.
    pub cache_k: CacheType,
    /// Type of the values.
    pub cache_v: CacheType,
    /// Without it the attention scores of a whole batch are kept.
    pub flash_attention: bool,
    /// Layers with a sliding window get a cache of full length all the same.
    pub swa_full: bool,
    /// What goes to the device.
    pub gpu_layers: GpuLayers,
    /// Experts that do not.
    pub cpu_moe: CpuMoe,
    /// The KV cache stays on the host.
    pub kv_on_host: bool,
    /// Tokens whose logits are computed at once; `None` = the worst case, all of a batch.
    pub outputs: Option<u32>,
    /// RAM for prompts that were computed before (`--cache-ram`).
    pub prompt_cache: Bytes,
    /// Saved states for each slot (`--ctx-checkpoints`).
    pub checkpoints: u32,
    /// Bytes of a vision projector's weights.
    pub projector: Option<Bytes>,
    /// A draft model for speculative decoding, with its own options.
    pub draft: Option<Box<(Shape, Options)>>,
    /// Whether the model's own next-token layers are used for speculative decoding.
    pub mtp: bool,
}

impl Options {
    /// llama.cpp's defaults, with `context` tokens for each of `slots` requests and no caches of prompts.
    #[must_use]
    pub fn new(context_per_slot: u64, slots: u32) -> Self {
        Self {
            context: context_per_slot.saturating_mul(u64::from(slots.max(1))),
            slots: slots.max(1),
            unified: false,
            ubatch: 512,
            cache_k: CacheType::F16,
            cache_v: CacheType::F16,
            flash_attention: true,
            swa_full: false,
            gpu_layers: GpuLayers::All,
            cpu_moe: CpuMoe::None,
            kv_on_host: false,
            outputs: None,
            prompt_cache: Bytes(0),
            checkpoints: 0,
            projector: None,
            draft: None,
            mtp: false,
        }
    }

    /// How agents start engines of their own. Never llama-server's defaults, which are 8 GiB of saved prompts and 32
    /// saved states for each slot.
    #[must_use]
    pub fn launched(context_per_slot: u64, slots: u32) -> Self {
        Self {
            prompt_cache: LAUNCHED_PROMPT_CACHE,
            checkpoints: LAUNCHED_CHECKPOINTS,
            ..Self::new(context_per_slot, slots)
        }
    }
}

/// Bytes in one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parts {
    /// Weights.
    pub weights: Bytes,
    /// Keys and values.
    pub kv: Bytes,
    /// State of recurrent layers.
    pub recurrent: Bytes,
    /// Compute buffers: an upper bound.
    pub compute: Bytes,
    /// Everything else: the backend, the process, caches of prompts.
    pub overhead: Bytes,
}

impl Parts {
    /// All parts together.
    #[must_use]
    pub fn total(&self) -> Bytes {
        let parts = [self.weights, self.kv, self.recurrent, self.compute, self.overhead];
        Bytes(parts.iter().fold(0, |sum, part| sum.saturating_add(part.0)))
    }

    /// The sum part by part.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let sum = |a: Bytes, b: Bytes| Bytes(a.0.saturating_add(b.0));
        Self {
            weights: sum(self.weights, other.weights),
            kv: sum(self.kv, other.kv),
            recurrent: sum(self.recurrent, other.recurrent),
            compute: sum(self.compute, other.compute),
            overhead: sum(self.overhead, other.overhead),
        }
    }
}

/// How far a footprint can be trusted, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Measured on this machine.
    Measured,
    /// The engine's own calculation.
    Oracle,
    /// The formula of this architecture is known.
    Exact,
    /// The architecture is not known, or keys are missing.
    Estimated,
    /// From the file's size alone.
    Guessed,
}

/// What a model takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Footprint {
    /// On graphics processors.
    pub device: Parts,
    /// In RAM.
    pub host: Parts,
    /// How far this can be trusted.
    pub confidence: Confidence,
    /// What was assumed.
    pub notes: Vec<String>,
}

/// What the model of `shape` takes under `options`.
#[must_use]
pub fn footprint(shape: &Shape, options: &Options) -> Footprint {
    let place = Place::new(shape, options);
    let (mut device, mut host) = place.weights(shape);
    for (number, layer) in shape.layers.iter().enumerate() {
        let number = number as u64;
        let is_extra = number >= shape.trunk();
        if is_extra && !options.mtp {
            continue;
        }
        let on_device = place.holds(number) && !options.kv_on_host;
        let pool = if on_device { &mut device } else { &mut host };
        pool.kv.0 = pool.kv.0.saturating_add(attention::layer_bytes(shape, layer, options));
        let rows = u64::from(options.slots.max(1));
        let state = layer.state_floats.saturating_mul(4).saturating_mul(rows);
        let pool = if place.holds(number) { &mut device } else { &mut host };
        pool.recurrent.0 = pool.recurrent.0.saturating_add(state);
    }
    let checkpoint = host_checkpoint(shape, options);
    let saved = u64::from(options.checkpoints).saturating_mul(u64::from(options.slots.max(1)));
    host.overhead = Bytes(
        HOST_OVERHEAD
            .0
            .saturating_add(options.prompt_cache.0)
            .saturating_add(checkpoint.saturating_mul(saved)),
    );
    let bound = compute_bound(shape, options);
    if place.first < place.layers + 1 {
        device.compute = Bytes(bound);
        device.overhead = DEVICE_OVERHEAD;
    }
    // With everything on the device, the host still prepares inputs and masks and keeps the logits.
    host.compute =
        Bytes(if place.first == 0 && !options.kv_on_host { input_bound(shape, options) } else { bound });
    if let Some(projector) = options.projector {
        let pool = if place.first == 0 { &mut device } else { &mut host };
        pool.weights.0 = pool.weights.0.saturating_add(projector.0);
        pool.compute.0 = pool.compute.0.saturating_add(PROJECTOR_HEADROOM.0);
    }
    let mut notes = shape.notes.clone();
    let mut confidence = shape.confidence();
    if let Some((draft, draft_options)) = options.draft.as_deref() {
        // One process: its base is counted once.
        let mut second = footprint(draft, &Options { draft: None, ..draft_options.clone() });
        second.host.overhead.0 = second.host.overhead.0.saturating_sub(HOST_OVERHEAD.0);
        second.device.overhead = Bytes(0);
        device = device.plus(second.device);
        host = host.plus(second.host);
        confidence = confidence.max(second.confidence);
        notes.extend(second.notes.into_iter().map(|note| format!("draft model: {note}")));
    }
    Footprint { device, host, confidence, notes }
}

/// The longest context (a multiple of 256 for each slot, no longer than trained) whose footprint fits into what
/// is free; `None` when not even 256 tokens for each slot do.
#[must_use]
pub fn largest_context(
    shape: &Shape,
    options: &Options,
    device_free: Bytes,
    host_free: Bytes,
) -> Option<u64> {
    let slots = u64::from(options.slots.max(1));
    let fits = |per_slot: u64| {
        let context = per_slot.saturating_mul(slots);
        let needs = footprint(shape, &Options { context, ..options.clone() });
        needs.device.total() <= device_free && needs.host.total() <= host_free
    };
    let most = shape.trained_context.unwrap_or(options.context / slots).max(CELL_PADDING) / CELL_PADDING;
    let (mut good, mut bad) = (0, most + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle * CELL_PADDING) { good = middle } else { bad = middle }
    }
    (good > 0).then_some(good * CELL_PADDING * slots)
}

/// Which layers are on the device.
struct Place {
    /// All layers without the output.
    layers: u64,
    /// The first one on the device; `layers` = the output alone, `layers + 1` = nothing.
    first: u64,
    cpu_moe: CpuMoe,
}

impl Place {
    fn new(shape: &Shape, options: &Options) -> Self {
        let layers = shape.layers.len() as u64;
        let on_device = match options.gpu_layers {
            GpuLayers::None => 0,
            GpuLayers::All => layers + 1,
            GpuLayers::Last(count) => u64::from(count).min(layers + 1),
        };
        Self { layers, first: layers + 1 - on_device, cpu_moe: options.cpu_moe }
    }

    fn holds(&self, layer: u64) -> bool {
        layer >= self.first
    }

    fn expert_stays(&self, layer: u64) -> bool {
        match self.cpu_moe {
            CpuMoe::None => false,
            CpuMoe::All => true,
            CpuMoe::First(count) => layer < u64::from(count),
        }
    }

    /// Weights by pool.
    fn weights(&self, shape: &Shape) -> (Parts, Parts) {
        // The embeddings are looked up by the CPU wherever the rest is.
        let (mut device, mut host) = (0_u64, shape.input);
        let output = if shape.tied { shape.embeddings } else { shape.output };
        if self.holds(self.layers) {
            device = device.saturating_add(output).saturating_add(shape.output_rest);
        } else {
            let there_already = if shape.tied { 0 } else { output };
            host = host.saturating_add(there_already).saturating_add(shape.output_rest);
        }
        for (number, layer) in shape.layers.iter().enumerate() {
            let number = number as u64;
            let (dense, experts) = if self.holds(number) {
                if self.expert_stays(number) { (layer.dense, 0) } else { (layer.dense, layer.experts) }
            } else {
                (0, 0)
            };
            device = device.saturating_add(dense).saturating_add(experts);
            host = host.saturating_add(layer.dense - dense).saturating_add(layer.experts - experts);
        }
        (
            Parts { weights: Bytes(device), ..Parts::default() },
            Parts { weights: Bytes(host), ..Parts::default() },
        )
    }
}

/// Tokens in the largest graph that is computed at once.
fn batch(options: &Options) -> u64 {
    u64::from(options.ubatch.max(1)).min(options.context.max(1))
}

/// An upper bound of the compute buffer, in bytes. Covered every measured buffer with flash attention by 0-65 %.
fn compute_bound(shape: &Shape, options: &Options) -> u64 {
    let tokens = batch(options);
    let outputs = options.outputs.map_or(tokens, u64::from).min(tokens);
    let cells = attention::full_cells(options);
    let product =
        |factors: &[u64]| factors.iter().fold(1_u64, |product, &factor| product.saturating_mul(factor));
    let mut terms = vec![
        product(&[4, outputs, shape.vocabulary]),
        product(&[6, cells, tokens]),
        product(&[8, tokens, shape.widest_feed_forward]),
        product(&[8, tokens, shape.widest_attention]),
        COMPUTE_BASE,
    ];
    if !options.flash_attention {
        terms.push(product(&[4, cells, tokens, shape.most_heads]));
    }
    terms.into_iter().fold(0, u64::saturating_add)
}

/// What the host computes when every layer is on the device: embeddings of a batch, masks, logits of the slots.
fn input_bound(shape: &Shape, options: &Options) -> u64 {
    let tokens = batch(options);
    let product =
        |factors: &[u64]| factors.iter().fold(1_u64, |product, &factor| product.saturating_mul(factor));
    [
        product(&[8, tokens, shape.embedding]),
        product(&[4, attention::full_cells(options), tokens]),
        product(&[4, u64::from(options.slots.max(1)), shape.vocabulary]),
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

/// What is saved for one slot so that a prompt can be taken up again: the state that a plain KV cache does not
/// keep, of windows and recurrent layers.
fn host_checkpoint(shape: &Shape, options: &Options) -> u64 {
    let one =
        Options { slots: 1, context: options.context / u64::from(options.slots.max(1)), ..options.clone() };
    let of_layer = |layer: &Layer| {
        let window = if layer.window.is_some() { attention::layer_bytes(shape, layer, &one) } else { 0 };
        window.saturating_add(layer.state_floats.saturating_mul(4))
    };
    shape.layers.iter().map(of_layer).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests;
