//! Bytes of one layer's KV cache.

use super::shape::{Layer, Shape};
use super::{CELL_PADDING, Options};

/// Cells of a layer that sees the whole context, over all streams.
pub(super) fn full_cells(options: &Options) -> u64 {
    let (streams, per_stream) = streams(options);
    streams.saturating_mul(padded(per_stream))
}

/// (streams, context of each). A unified cache is one stream that all slots share.
fn streams(options: &Options) -> (u64, u64) {
    let slots = u64::from(options.slots.max(1));
    // llama.cpp pads the whole before it shares it out, and each share again.
    let context = padded(options.context);
    if options.unified { (1, context) } else { (slots, context / slots) }
}

fn padded(cells: u64) -> u64 {
    cells.max(1).checked_next_multiple_of(CELL_PADDING).unwrap_or(u64::MAX)
}

/// Keys and values of one layer.
pub(super) fn layer_bytes(shape: &Shape, layer: &Layer, options: &Options) -> u64 {
    if layer.kv_heads == 0 {
        return 0;
    }
    let cells = match layer.window.filter(|_| !options.swa_full) {
        None => full_cells(options),
        Some(window) => {
            let (streams, per_stream) = streams(options);
            // Slots that share a stream need a window each; a batch is written before it is cut off.
            let sharing = if options.unified { u64::from(options.slots.max(1)) } else { 1 };
            let needed = window.saturating_mul(sharing).saturating_add(u64::from(options.ubatch));
            streams.saturating_mul(padded(needed.min(padded(per_stream))))
        }
    };
    let keys = options.cache_k.row_bytes(layer.kv_heads.saturating_mul(layer.head_k));
    // Multi-head latent attention makes the values from the keys.
    let values =
        if shape.mla { 0 } else { options.cache_v.row_bytes(layer.kv_heads.saturating_mul(layer.head_v)) };
    cells.saturating_mul(keys.saturating_add(values))
}
