//! How a model of known shape would be loaded on a machine: the question before anything is fetched or started.

use super::{Choice, Demand, Margin, Offload, Pools, Trial, Wanted, choose};
use crate::memory::{CpuMoe, Footprint, GpuLayers, Options, Shape, footprint};

/// The best way to load `shape` with `options` into `pools` as they are now, and what that would take.
/// `options.context` counts all slots; less of it is proposed where `context_is_open`.
#[must_use]
pub fn plan(
    shape: &Shape,
    options: &Options,
    context_is_open: bool,
    pools: &Pools,
    margin: Margin,
) -> (Choice, Footprint) {
    let slots = u64::from(options.slots.max(1));
    let layers = shape.layers.len();
    let wanted = Wanted {
        context: u32::try_from(options.context / slots).unwrap_or(u32::MAX),
        context_is_open,
        layers: u32::try_from(layers + 1).unwrap_or(u32::MAX),
        experts: shape.layers.iter().any(|layer| layer.experts > 0),
        divisible: layers > 1,
        offload: None,
    };
    let slots = options.slots.max(1);
    let predict = |trial: Trial| {
        let context = u64::from(trial.context).saturating_mul(u64::from(slots));
        footprint(shape, &loaded(&Options { context, ..options.clone() }, trial.offload))
    };
    let choice = choose(pools, &[], wanted, margin, |trial| {
        let footprint = predict(trial);
        Demand { device: footprint.device.total(), host: footprint.host.total() }
    });
    let footprint = predict(choice.trial);
    (choice, footprint)
}

/// `options` with the parts of the model where `offload` has them.
#[must_use]
pub fn loaded(options: &Options, offload: Offload) -> Options {
    let (gpu_layers, cpu_moe) = match offload {
        Offload::Full => (GpuLayers::All, CpuMoe::None),
        Offload::ExpertsOfFirst(count) => (GpuLayers::All, CpuMoe::First(count)),
        Offload::Layers(count) => (GpuLayers::Last(count), CpuMoe::None),
        Offload::None => (GpuLayers::None, CpuMoe::None),
    };
    Options { gpu_layers, cpu_moe, ..options.clone() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fit::Device;
    use crate::gguf::{Header, TensorInfo, TensorType, Value};
    use crate::machine::{Capacity, Reading};
    use crate::units::Bytes;

    const GIB: u64 = 1 << 30;

    /// So many layers of 128 MiB, and 256 MiB of output; 4 KiB of cache for each token and layer.
    pub(crate) fn layered(layers: u64, trained: u64) -> Shape {
        let mut header = Header {
            version: 3,
            metadata: [("general.architecture".to_owned(), Value::Text("llama".into()))].into(),
            tensors: Vec::new(),
            alignment: 32,
            data_offset: 0,
            unknown_types: std::collections::BTreeSet::new(),
            sizes_complete: true,
        };
        for (key, value) in [
            ("block_count", layers),
            ("embedding_length", 4096),
            ("context_length", trained),
            ("attention.head_count", 32),
            ("attention.head_count_kv", 8),
        ] {
            header.metadata.insert(format!("llama.{key}"), Value::Unsigned(value));
        }
        let tensor = |name: &str, bytes| TensorInfo {
            name: name.into(),
            dims: vec![bytes],
            kind: TensorType(24),
            offset: 0,
            bytes,
        };
        header.tensors.push(tensor("output.weight", 256 << 20));
        header
            .tensors
            .extend((0..layers).map(|layer| tensor(&format!("blk.{layer}.ffn_up.weight"), 128 << 20)));
        Shape::from_header(&header).expect("a model")
    }

    fn shape() -> Shape {
        layered(32, 131_072)
    }

    fn pools(vram: u64, ram: u64) -> Pools {
        let capacity = |gib| Capacity { total: Bytes(gib * GIB), available: Bytes(gib * GIB) };
        let card = Device {
            id: "0000:01:00.0".into(),
            name: "card".into(),
            memory: capacity(vram),
            carve_out: None,
            holders: Vec::new(),
        };
        let devices = if vram > 0 { vec![card] } else { Vec::new() };
        Pools { devices, ram: Reading::Known(capacity(ram)), notes: Vec::new() }
    }

    fn way(vram: u64, ram: u64, context: u64, open: bool) -> (bool, Offload, u32) {
        let (choice, _) = plan(&shape(), &Options::new(context, 1), open, &pools(vram, ram), Margin::Default);
        (choice.fit.fits, choice.trial.offload, choice.trial.context)
    }

    #[test]
    fn the_whole_model_goes_to_a_card_that_holds_it_and_a_part_to_one_that_does_not() {
        assert_eq!(way(16, 32, 16_384, false), (true, Offload::Full, 16_384));
        let (fits, offload, context) = way(4, 32, 16_384, false);
        assert!(fits && matches!(offload, Offload::Layers(1..=31)) && context == 16_384, "{offload:?}");
        assert_eq!(way(0, 32, 16_384, false), (true, Offload::None, 16_384));
    }

    #[test]
    fn less_context_is_proposed_before_a_refusal_and_only_where_it_is_open() {
        let (fits, offload, context) = way(0, 8, 65_536, true);
        assert!(fits && offload == Offload::None && (2048..65_536).contains(&context), "{context}");
        assert!(!way(0, 8, 65_536, false).0);
        let (choice, _) = plan(&shape(), &Options::new(2048, 1), true, &pools(0, 2), Margin::Default);
        assert!(!choice.fit.fits && choice.fit.why.contains("GiB"), "{}", choice.fit.why);
    }
}
