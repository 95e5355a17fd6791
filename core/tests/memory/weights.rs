//! Weights to the byte, and the compute bound against every buffer that was measured.

use crate::models::{Published, published};
use mesh_core::memory::{Confidence, CpuMoe, GpuLayers, Options, Shape, footprint};
use mesh_core::units::Bytes;

fn model(name: &str) -> Published {
    published().into_iter().find(|model| model.name == name).expect("a published model")
}

fn shape(name: &str) -> Shape {
    Shape::from_header(&model(name).header).expect("a model")
}

#[test]
fn weights_are_what_is_published_to_the_byte() {
    for (name, parameters, bytes) in [
        ("Llama-3.1-8B", 8_030_261_312_u64, 4_912_898_304_u64),
        ("Llama-3.1-70B", 70_553_706_560, 42_512_531_712),
        ("Qwen3-30B-A3B", 30_532_122_624, 18_550_716_416),
        ("gpt-oss-20b", 20_914_757_184, 12_096_558_336),
        ("CodeLlama-34B", 33_743_970_304, 20_219_150_336),
        ("DeepSeek-Coder-33B", 33_342_991_360, 19_939_340_288),
        ("Mistral-Nemo-12B", 12_247_782_400, 7_469_322_240),
        ("StarCoder2-15B", 15_957_889_024, 9_063_645_184),
    ] {
        let header = model(name).header;
        assert_eq!((header.parameters(), header.weight_bytes()), (parameters, bytes), "{name}");
        assert_eq!(shape(name).weights(), Bytes(bytes), "{name}: the shape forgets nothing");
        assert_eq!(shape(name).confidence(), Confidence::Exact, "{name}");
    }
}

#[test]
fn a_sparse_model_uses_as_many_parameters_for_a_token_as_its_makers_say() {
    // OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card" (2025), table 1: 3.61 and 5.13 billion.
    let active = |name: &str| model(name).header.active_parameters();
    let billions = |name: &str| active(name).map(|count| (count as f64 / 1e7).round() / 100.0);
    assert_eq!((billions("gpt-oss-20b"), billions("gpt-oss-120b")), (Some(3.61), Some(5.13)));
    // Qwen says 3.3 with the input embeddings, which are 0.31.
    assert_eq!(billions("Qwen3-30B-A3B"), Some(3.04));
    assert_eq!(active("Llama-3.1-8B"), None, "dense");
}

#[test]
fn minimax_has_its_norms_beside_the_published_sum() {
    // The published sum counts matrices only: norms and the routers' biases are 844,288 numbers more.
    let header = model("MiniMax-M2.1").header;
    let small = 62 * (2 * 3072 + 48 * 128 + 8 * 128 + 256) + 3072;
    assert_eq!(small, 844_288);
    assert_eq!(header.parameters(), 228_688_920_576 + small);
    assert_eq!(header.weight_bytes(), 138_330_719_232 + 4 * small);
}

#[test]
fn experts_are_most_of_a_mixture_and_can_stay_on_the_host() {
    for (name, experts) in [("Qwen3-30B-A3B", 17_553_162_240_u64), ("gpt-oss-20b", 10_178_887_680)] {
        let shape = shape(name);
        let whole: u64 = shape.layers.iter().map(|layer| layer.experts).sum();
        // Of gpt-oss the regular expression takes the experts' biases too.
        assert_eq!(whole, experts, "{name}");
        let on = |cpu_moe| footprint(&shape, &Options { cpu_moe, ..Options::new(4096, 1) });
        let (all, none) = (on(CpuMoe::None), on(CpuMoe::All));
        assert_eq!(all.device.weights.0 - none.device.weights.0, experts, "{name}");
        assert_eq!(none.host.weights.0 - all.host.weights.0, experts, "{name}");
    }
}

#[test]
fn a_tied_output_is_there_twice_when_it_is_on_the_device() {
    let (gemma, bytes) = (shape("gemma-3-27b"), model("gemma-3-27b").header.weight_bytes());
    let embeddings = 5376 * 262_144 / 256 * 210;
    let all = footprint(&gemma, &Options::new(4096, 1));
    assert_eq!(all.device.weights.0 + all.host.weights.0, bytes + embeddings);
    let none = footprint(&gemma, &Options { gpu_layers: GpuLayers::None, ..Options::new(4096, 1) });
    assert_eq!(none.host.weights.0, bytes);
}

/// MiB of the compute buffer, measured with llama.cpp's CPU backend on files of these shapes: 4k, 32k, 32k with 4
/// outputs, 32k with batches of 2048, 32k without flash attention.
const MEASURED: [(&str, [u64; 5]); 6] = [
    ("Llama-3.1-8B", [295, 331, 156, 1322, 2164]),
    ("Qwen3-30B-A3B", [321, 349, 120, 1395, 2150]),
    ("gpt-oss-20b", [426, 454, 129, 1821, 4210]),
    ("DeepSeek-V3.1", [410, 438, 438, 1752, 8662]),
    ("gemma-3-27b", [570, 609, 215, 2440, 2192]),
    ("Mistral-Nemo-12B", [310, 348, 166, 1392, 2174]),
];

#[test]
fn the_compute_bound_covers_every_measured_buffer_and_wastes_little() {
    for (name, measured) in MEASURED {
        let shape = shape(name);
        let bound = |context, ubatch, outputs, flash_attention| {
            let how = Options { ubatch, outputs, flash_attention, unified: true, ..Options::new(context, 1) };
            footprint(&shape, &how).device.compute.0 >> 20
        };
        let bounds = [
            bound(4096, 512, None, true),
            bound(32_768, 512, None, true),
            bound(32_768, 512, Some(4), true),
            bound(32_768, 2048, None, true),
            bound(32_768, 512, None, false),
        ];
        for (bound, measured) in bounds.into_iter().zip(measured) {
            assert!(bound >= measured, "{name}: bound {bound} MiB, measured {measured} MiB");
            assert!(bound * 100 <= measured * 166, "{name}: bound {bound} MiB, measured {measured} MiB");
        }
    }
}
