//! Golden bytes: each was confirmed by running llama.cpp on a file of this shape, or is a published figure.

use super::*;
use crate::gguf::{Array, Header, TensorInfo, TensorType, Value};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A header with these keys of `architecture` and no tensors.
fn header(architecture: &str, keys: &[(&str, u64)]) -> Header {
    let mut metadata =
        BTreeMap::from([("general.architecture".to_owned(), Value::Text(architecture.into()))]);
    for (key, value) in keys {
        metadata.insert(format!("{architecture}.{key}"), Value::Unsigned(*value));
    }
    Header {
        version: 3,
        metadata,
        tensors: Vec::new(),
        alignment: 32,
        data_offset: 0,
        unknown_types: std::collections::BTreeSet::new(),
        sizes_complete: true,
    }
}

fn list(values: impl IntoIterator<Item = u64>) -> Value {
    let items: Vec<Value> = values.into_iter().map(Value::Unsigned).collect();
    Value::Array(Array { length: items.len() as u64, items: Some(items) })
}

fn shape(header: &Header) -> Shape {
    Shape::from_header(header).expect("a model")
}

/// layers, embedding, heads, heads of keys and values, size of a head
fn plain(architecture: &str, [layers, embedding, heads, kv_heads, head]: [u64; 5]) -> Shape {
    shape(&header(
        architecture,
        &[
            ("block_count", layers),
            ("embedding_length", embedding),
            ("attention.head_count", heads),
            ("attention.head_count_kv", kv_heads),
            ("attention.key_length", head),
            ("attention.value_length", head),
        ],
    ))
}

fn windowed(architecture: &str, numbers: [u64; 5], window: u64) -> Shape {
    let [layers, embedding, heads, kv_heads, head] = numbers;
    shape(&header(
        architecture,
        &[
            ("block_count", layers),
            ("embedding_length", embedding),
            ("attention.head_count", heads),
            ("attention.head_count_kv", kv_heads),
            ("attention.key_length", head),
            ("attention.value_length", head),
            ("attention.sliding_window", window),
        ],
    ))
}

fn deepseek_v3(mla: bool) -> Shape {
    let mut keys = vec![("block_count", 61), ("embedding_length", 7168), ("attention.head_count", 128)];
    if mla {
        keys.extend([
            ("attention.head_count_kv", 1),
            ("attention.key_length", 576),
            ("attention.value_length", 512),
            ("attention.key_length_mla", 192),
            ("attention.value_length_mla", 128),
            ("attention.kv_lora_rank", 512),
        ]);
    } else {
        keys.extend([
            ("attention.head_count_kv", 128),
            ("attention.key_length", 192),
            ("attention.value_length", 128),
        ]);
    }
    shape(&header("deepseek2", &keys))
}

fn options(context: u64, slots: u32, unified: bool, cache: CacheType, ubatch: u32) -> Options {
    let usual = Options::new(1, slots);
    Options { context, unified, ubatch, cache_k: cache, cache_v: cache, ..usual }
}

fn kv(shape: &Shape, options: &Options) -> u64 {
    let footprint = footprint(shape, options);
    assert_eq!(footprint.host.kv, Bytes(0), "all layers are on the device");
    footprint.device.kv.0
}

#[test]
fn caches_are_what_llama_cpp_allocates_to_the_byte() {
    use CacheType::{F16, Q8_0};
    let llama_8b = plain("llama", [32, 4096, 32, 8, 128]);
    let qwen3_30b = plain("qwen3moe", [48, 2048, 32, 4, 128]);
    let gpt_oss = windowed("gpt-oss", [24, 2880, 64, 8, 64], 128);
    let gemma3 = windowed("gemma3", [62, 5376, 32, 16, 128], 1024);
    let nemo = plain("llama", [40, 5120, 32, 8, 128]);
    let deepseek = deepseek_v3(true);
    for (name, shape, context, slots, unified, cache, ubatch, bytes) in [
        ("Llama-3.1-8B", &llama_8b, 32_768, 1, true, F16, 512, 4_294_967_296_u64),
        ("Llama-3.1-8B", &llama_8b, 32_768, 1, true, Q8_0, 512, 2_281_701_376),
        ("Qwen3-30B-A3B", &qwen3_30b, 32_768, 1, true, F16, 512, 3_221_225_472),
        ("Qwen3-30B-A3B", &qwen3_30b, 32_768, 1, true, Q8_0, 512, 1_711_276_032),
        ("gpt-oss-20b", &gpt_oss, 4096, 1, true, F16, 512, 119_537_664),
        ("gpt-oss-20b", &gpt_oss, 32_768, 1, true, F16, 512, 824_180_736),
        ("gpt-oss-20b", &gpt_oss, 32_768, 4, true, F16, 512, 830_472_192),
        ("gpt-oss-20b", &gpt_oss, 32_768, 4, false, F16, 512, 880_803_840),
        ("gpt-oss-20b", &gpt_oss, 32_768, 1, true, F16, 2048, 861_929_472),
        ("DeepSeek-V3.1", &deepseek, 32_768, 1, true, F16, 512, 2_302_672_896),
        ("DeepSeek-V3.1", &deepseek, 32_768, 1, true, Q8_0, 512, 1_223_294_976),
        ("gemma-3-27b", &gemma3, 32_768, 1, true, F16, 512, 3_338_665_984),
        ("gemma-3-27b", &gemma3, 32_768, 4, true, F16, 512, 4_647_288_832),
        ("gemma-3-27b", &gemma3, 32_768, 4, false, F16, 512, 5_301_600_256),
        ("gemma-3-27b", &gemma3, 32_768, 1, true, F16, 2048, 3_992_977_408),
        ("Mistral-Nemo", &nemo, 32_768, 1, true, F16, 512, 5_368_709_120),
    ] {
        let how = options(context, slots, unified, cache, ubatch);
        assert_eq!(
            kv(shape, &how),
            bytes,
            "{name} {context}/{slots} unified {unified} {cache:?} ubatch {ubatch}"
        );
    }
}

#[test]
fn a_context_is_padded_before_it_is_shared_out_and_after() {
    let model = plain("llama", [1, 64, 1, 1, 64]);
    let cells = |context, slots, unified| {
        kv(&model, &options(context, slots, unified, CacheType::F16, 512)) / (2 * 2 * 64)
    };
    assert_eq!((cells(1, 1, true), cells(257, 1, true), cells(512, 4, true)), (256, 512, 512));
    assert_eq!(cells(512, 2, false), 2 * 256);
    assert_eq!(cells(513, 2, false), 2 * 512, "768 / 2 = 384, which takes 512");
    assert_eq!(cells(1024, 3, false), 3 * 512, "341 takes 512");
}

#[test]
fn a_token_costs_what_is_published() {
    for (name, shape, bytes) in [
        ("Llama-3.1-8B", plain("llama", [32, 4096, 32, 8, 128]), 131_072_u64),
        ("Llama-3.1-70B", plain("llama", [80, 8192, 64, 8, 128]), 327_680),
        ("Qwen2.5-Coder-7B", plain("qwen2", [28, 3584, 28, 4, 128]), 57_344),
        ("Qwen2.5-32B", plain("qwen2", [64, 5120, 40, 8, 128]), 262_144),
        ("Qwen3-30B-A3B", plain("qwen3moe", [48, 2048, 32, 4, 128]), 98_304),
        ("CodeLlama-34B", plain("llama", [48, 8192, 64, 8, 128]), 196_608),
        ("DeepSeek-Coder-33B", plain("llama", [62, 7168, 56, 8, 128]), 253_952),
        ("Mistral-Nemo-12B", plain("llama", [40, 5120, 32, 8, 128]), 163_840),
        ("StarCoder2-15B", plain("starcoder2", [40, 6144, 48, 4, 128]), 81_920),
        ("MiniMax-M2.1", plain("minimax-m2", [62, 3072, 48, 8, 128]), 253_952),
        ("DeepSeek-V3.1", deepseek_v3(true), 70_272),
        ("DeepSeek-V3.1, an old file", deepseek_v3(false), 4_997_120),
    ] {
        let of = |context| kv(&shape, &options(context, 1, true, CacheType::F16, 512));
        assert_eq!(of(65_536) - of(32_768), bytes * 32_768, "{name}");
        assert_eq!(of(32_768), bytes * 32_768, "{name}");
    }
    // Half the layers see a window only: the rest is a constant.
    for (name, shape, each, constant) in [
        ("gpt-oss-20b", windowed("gpt-oss", [24, 2880, 64, 8, 64], 128), 24_576_u64, 18 << 20),
        ("gpt-oss-120b", windowed("gpt-oss", [36, 2880, 64, 8, 64], 128), 36_864, 27 << 20),
        ("gemma-3-27b", windowed("gemma3", [62, 5376, 32, 16, 128], 1024), 81_920, 624 << 20),
    ] {
        assert_eq!(
            kv(&shape, &options(32_768, 1, true, CacheType::F16, 512)),
            each * 32_768 + constant,
            "{name}"
        );
    }
}

fn nemotron_nano() -> Shape {
    let mut header = header(
        "nemotron_h_moe",
        &[
            ("block_count", 52),
            ("embedding_length", 2688),
            ("attention.head_count", 32),
            ("attention.key_length", 128),
            ("attention.value_length", 128),
            ("ssm.conv_kernel", 4),
            ("ssm.inner_size", 4096),
            ("ssm.state_size", 128),
            ("ssm.group_count", 8),
        ],
    );
    // 6 layers with attention; of the other 46 every second one is recurrent and the rest are experts.
    let attention = [5, 12, 19, 26, 33, 42];
    let (mut heads, mut feed, mut others) = (Vec::new(), Vec::new(), 0);
    for layer in 0..52 {
        let has_attention = attention.contains(&layer);
        others += u64::from(!has_attention);
        heads.push(if has_attention { 2 } else { 0 });
        feed.push(if has_attention || others % 2 == 1 { 0 } else { 1856 });
    }
    header.metadata.insert("nemotron_h_moe.attention.head_count_kv".into(), list(heads));
    header.metadata.insert("nemotron_h_moe.feed_forward_length".into(), list(feed));
    shape(&header)
}

#[test]
fn recurrent_layers_keep_a_state_for_each_slot_whatever_the_context() {
    let next = shape(&header(
        "qwen3next",
        &[
            ("block_count", 48),
            ("embedding_length", 2048),
            ("attention.head_count", 16),
            ("attention.head_count_kv", 2),
            ("attention.key_length", 256),
            ("attention.value_length", 256),
            ("ssm.conv_kernel", 4),
            ("ssm.inner_size", 4096),
            ("ssm.state_size", 128),
            ("ssm.group_count", 16),
        ],
    ));
    for context in [4096, 32_768] {
        let footprint = footprint(&next, &options(context, 1, true, CacheType::F16, 512));
        assert_eq!(footprint.device.kv.0, 24_576 * context);
        assert_eq!(footprint.device.recurrent.0, 36 * 548_864 * 4, "75.4 MiB");
    }
    let four = footprint(&next, &options(32_768, 4, true, CacheType::Q8_0, 512));
    assert_eq!(four.device.recurrent.0, 4 * 36 * 548_864 * 4, "always in 32-bit floats");
    let nano = nemotron_nano();
    let recurrent = nano.layers.iter().filter(|layer| layer.state_floats > 0).count();
    let footprint = footprint(&nano, &options(32_768, 1, true, CacheType::F16, 512));
    assert_eq!(footprint.device.kv.0, 6144 * 32_768);
    assert_eq!((recurrent, footprint.device.recurrent.0), (23, 23 * 542_720 * 4), "47.6 MiB");
}

#[test]
fn the_compute_bound_covers_what_was_measured() {
    let with = |mut shape: Shape, vocabulary, feed_forward| {
        shape.vocabulary = vocabulary;
        shape.widest_feed_forward = feed_forward;
        shape
    };
    let models = [
        (with(plain("llama", [32, 4096, 32, 8, 128]), 128_256, 14_336), [295, 331, 1322, 2164]),
        (with(plain("qwen3moe", [48, 2048, 32, 4, 128]), 151_936, 8 * 768), [321, 349, 1395, 2150]),
        (with(windowed("gpt-oss", [24, 2880, 64, 8, 64], 128), 201_088, 4 * 2880), [426, 454, 1821, 4210]),
        (with(windowed("gemma3", [62, 5376, 32, 16, 128], 1024), 262_144, 21_504), [570, 609, 2440, 2192]),
        (with(plain("llama", [40, 5120, 32, 8, 128]), 131_072, 14_336), [310, 348, 1392, 2174]),
    ];
    for (shape, measured) in models {
        let bound = |context, ubatch, flash_attention| {
            let how = options(context, 1, true, CacheType::F16, ubatch);
            footprint(&shape, &Options { flash_attention, ..how }).device.compute.0 >> 20
        };
        let bounds = [
            bound(4096, 512, true),
            bound(32_768, 512, true),
            bound(32_768, 2048, true),
            bound(32_768, 512, false),
        ];
        for (bound, measured) in bounds.into_iter().zip(measured) {
            assert!(bound >= measured, "{}: bound {bound} MiB, measured {measured}", shape.architecture);
            assert!(
                bound * 100 <= measured * 165,
                "{}: bound {bound} MiB, measured {measured}",
                shape.architecture
            );
        }
    }
}

fn tensor(name: &str, bytes: u64) -> TensorInfo {
    TensorInfo { name: name.into(), dims: vec![bytes], kind: TensorType(24), offset: 0, bytes }
}

/// Two layers of 100 dense and 1000 expert bytes, embeddings of 10, an output of 7 with a norm of 1.
fn small(tied: bool) -> Shape {
    let mut header = header(
        "qwen3moe",
        &[
            ("block_count", 2),
            ("embedding_length", 64),
            ("attention.head_count", 1),
            ("context_length", 4096),
        ],
    );
    header.tensors.extend([tensor("token_embd.weight", 10), tensor("output_norm.weight", 1)]);
    if !tied {
        header.tensors.push(tensor("output.weight", 7));
    }
    for layer in 0..2 {
        header.tensors.push(tensor(&format!("blk.{layer}.attn_q.weight"), 100));
        for part in ["up", "down"] {
            header.tensors.push(tensor(&format!("blk.{layer}.ffn_{part}_exps.weight"), 500));
        }
    }
    shape(&header)
}

#[test]
fn layers_go_to_the_device_from_the_end_and_embeddings_never() {
    let weights = |tied, gpu_layers, cpu_moe| {
        let how = Options { gpu_layers, cpu_moe, ..Options::new(256, 1) };
        let footprint = footprint(&small(tied), &how);
        (footprint.device.weights.0, footprint.host.weights.0)
    };
    let none = CpuMoe::None;
    assert_eq!(weights(false, GpuLayers::None, none), (0, 2218));
    assert_eq!(weights(false, GpuLayers::Last(1), none), (8, 2210), "the output goes first");
    assert_eq!(weights(false, GpuLayers::Last(2), none), (1108, 1110));
    assert_eq!(weights(false, GpuLayers::Last(3), none), (2208, 10));
    assert_eq!(weights(false, GpuLayers::Last(99), none), (2208, 10));
    assert_eq!(weights(false, GpuLayers::All, none), (2208, 10));
    assert_eq!(weights(true, GpuLayers::All, none), (2211, 10), "a tied output is there twice");
    assert_eq!(weights(true, GpuLayers::None, none), (0, 2211));
    assert_eq!(weights(false, GpuLayers::All, CpuMoe::All), (208, 2010));
    assert_eq!(weights(false, GpuLayers::All, CpuMoe::First(1)), (1208, 1010));
    assert_eq!(weights(false, GpuLayers::None, CpuMoe::All), (0, 2218));
}

#[test]
fn without_offload_nothing_is_on_the_device() {
    let footprint =
        footprint(&small(false), &Options { gpu_layers: GpuLayers::None, ..Options::new(4096, 2) });
    assert_eq!(footprint.device, Parts::default());
    assert!(footprint.host.kv.0 > 0 && footprint.host.compute.0 > 0);
}

#[test]
fn a_host_that_computes_layers_takes_buffers_for_them_and_one_that_only_feeds_a_device_does_not() {
    let model = plain("llama", [4, 4096, 32, 8, 128]);
    let computes = |gpu_layers, kv_on_host| {
        let how = Options { gpu_layers, kv_on_host, ..Options::new(4096, 1) };
        footprint(&model, &how).host.compute
    };
    let all = computes(GpuLayers::None, false);
    assert!(computes(GpuLayers::All, false) < all);
    assert_eq!(computes(GpuLayers::Last(1), false), all, "the output alone is on the device");
    assert_eq!(computes(GpuLayers::Last(4), false), all, "one layer is on the host");
    assert_eq!(computes(GpuLayers::All, true), all, "attention is computed where its cache is");
}

#[test]
fn every_slot_saves_as_many_states_as_it_may() {
    // 12 layers with a window: 18 MiB for each slot, whatever the context.
    let gpt_oss = windowed("gpt-oss", [24, 2880, 64, 8, 64], 128);
    let overhead = |slots, checkpoints| {
        let how = Options { checkpoints, ..Options::new(32_768, slots) };
        footprint(&gpt_oss, &how).host.overhead.0
    };
    assert_eq!(overhead(4, 0), HOST_OVERHEAD.0);
    assert_eq!(overhead(1, 1), HOST_OVERHEAD.0 + (18 << 20));
    assert_eq!(overhead(4, 3), HOST_OVERHEAD.0 + 4 * 3 * (18 << 20));
}

#[test]
fn projectors_drafts_and_saved_prompts_are_counted() {
    let plain = Options::new(4096, 2);
    let (base, shape) = (footprint(&small(false), &plain), small(false));
    let with = |change: fn(&mut Options)| {
        let mut how = plain.clone();
        change(&mut how);
        footprint(&shape, &how)
    };
    let seen = with(|how| how.projector = Some(Bytes(5)));
    assert_eq!(seen.device.total().0, base.device.total().0 + 5 + PROJECTOR_HEADROOM.0);
    let saved = with(|how| how.prompt_cache = Bytes(8 << 30));
    assert_eq!(saved.host.total().0, base.host.total().0 + (8 << 30));
    let drafted = with(|how| how.draft = Some(Box::new((small(false), Options::new(4096, 1)))));
    assert_eq!(drafted.device.weights.0, 2 * base.device.weights.0);
    assert!(drafted.device.kv > base.device.kv);
    assert_eq!(drafted.device.overhead, base.device.overhead, "one process has one base");
    assert_eq!(drafted.host.overhead, base.host.overhead, "one process has one base");
}

#[test]
fn layers_for_further_tokens_count_only_when_they_are_used() {
    let mut keys = header(
        "glm4moe",
        &[
            ("block_count", 3),
            ("embedding_length", 64),
            ("attention.head_count", 1),
            ("nextn_predict_layers", 1),
        ],
    );
    keys.tensors.push(tensor("blk.2.attn_q.weight", 9));
    let shape = shape(&keys);
    let kv = |mtp| footprint(&shape, &Options { mtp, ..Options::new(1024, 1) }).device.kv.0;
    assert_eq!((kv(false), kv(true)), (2 * 1024 * 256, 3 * 1024 * 256));
    assert_eq!(
        footprint(&shape, &Options::new(1024, 1)).device.weights,
        Bytes(9),
        "they are loaded all the same"
    );
}

#[test]
fn an_unknown_architecture_is_estimated_and_says_so() {
    let strange = plain("of-tomorrow", [2, 64, 2, 2, 32]);
    let footprint = footprint(&strange, &Options::new(1024, 1));
    assert_eq!(footprint.confidence, Confidence::Estimated);
    assert_eq!(footprint.notes, ["architecture `of-tomorrow` is counted as a plain transformer"]);
    assert_eq!(Shape::of_size(Bytes(9)).confidence(), Confidence::Guessed);
    assert_eq!(Shape::from_header(&header("clip", &[])), Err(ShapeError::Missing("block_count".into())));
    let absurd = header("llama", &[("block_count", 1 << 40), ("embedding_length", 1)]);
    assert!(
        matches!(Shape::from_header(&absurd), Err(ShapeError::TooMuch { found, .. }) if found == 1 << 40)
    );
}

#[test]
fn the_largest_context_is_the_last_that_fits() {
    let shape = small(false);
    let how = Options::new(256, 2);
    let free = |context| footprint(&shape, &Options { context, ..how.clone() });
    let exactly = free(2048);
    let largest = |device, host| largest_context(&shape, &how, device, host);
    assert_eq!(largest(exactly.device.total(), exactly.host.total()), Some(2048));
    assert_eq!(largest(Bytes(exactly.device.total().0 - 1), exactly.host.total()), Some(1536));
    assert_eq!(largest(Bytes(u64::MAX), Bytes(u64::MAX)), Some(2 * 4096), "no longer than trained");
    assert_eq!(largest(Bytes(0), Bytes(0)), None);
}

prop_compose! {
    fn any_shape()(
        architecture in prop::sample::select(vec!["llama", "gpt-oss", "gemma3", "qwen3next", "falcon-h1", "deepseek2", "x"]),
        numbers in prop::collection::vec(prop_oneof![0..5_u64, 0..100_000_u64, Just(u64::MAX)], 14),
        layers in prop_oneof![0..4_u64, 0..200_u64],
    ) -> Shape {
        let names = [
            "embedding_length", "attention.head_count", "attention.head_count_kv", "attention.key_length",
            "attention.value_length", "attention.sliding_window", "attention.sliding_window_pattern",
            "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.group_count", "full_attention_interval",
            "feed_forward_length", "nextn_predict_layers",
        ];
        let mut keys: Vec<(&str, u64)> = names.into_iter().zip(numbers).collect();
        keys.push(("block_count", layers));
        let mut header = header(architecture, &keys);
        header.tensors.extend([tensor("token_embd.weight", 1000), tensor("blk.0.attn_q.weight", 77)]);
        header.tensors.push(tensor("blk.1.ffn_up_exps.weight", 500));
        shape(&header)
    }
}

proptest! {
    #[test]
    fn no_numbers_of_a_stranger_break_the_arithmetic(
        shape in any_shape(),
        context in any::<u64>(),
        slots in any::<u32>(),
        ubatch in any::<u32>(),
        layers in any::<u32>(),
    ) {
        let how = Options { context, slots, ubatch, gpu_layers: GpuLayers::Last(layers), ..Options::new(1, 1) };
        let _ = footprint(&shape, &how).device.total();
        let _ = largest_context(&shape, &how, Bytes(1 << 34), Bytes(1 << 34));
    }

    #[test]
    fn more_context_or_slots_never_take_less(shape in any_shape(), context in 1..200_000_u64, slots in 1..64_u32) {
        let total = |context, slots: u32| {
            let how = Options { context, slots, unified: true, ..Options::new(1, 1) };
            let footprint = footprint(&shape, &how);
            (footprint.device.total(), footprint.host.total())
        };
        let base = total(context, slots);
        let (longer, wider) = (total(context + 256, slots), total(context, slots + 1));
        prop_assert!(longer.0 >= base.0 && longer.1 >= base.1);
        prop_assert!(wider.0 >= base.0 && wider.1 >= base.1);
    }

    #[test]
    fn where_layers_go_does_not_change_how_much_they_are(shape in any_shape(), layers in 0..300_u32, experts in 0..9_u32) {
        let weights = |gpu_layers, cpu_moe| {
            let footprint = footprint(&shape, &Options { gpu_layers, cpu_moe, ..Options::new(256, 1) });
            footprint.device.weights.0 + footprint.host.weights.0
        };
        let whole = weights(GpuLayers::None, CpuMoe::None);
        prop_assert_eq!(whole, shape.weights().0);
        let second_embeddings = if shape.tied && layers > 0 { shape.embeddings } else { 0 };
        prop_assert_eq!(weights(GpuLayers::Last(layers), CpuMoe::First(experts)), whole + second_embeddings);
    }

    #[test]
    fn a_quantised_cache_is_smaller(layers in 1..90_u64, heads in 1..33_u64, context in 1..100_000_u64) {
        // Of heads that divide into blocks; a row of one element takes a whole block.
        let shape = plain("llama", [layers, 4096, 32, heads, 64]);
        let kv = |cache| footprint(&shape, &options(context, 1, true, cache, 512)).device.kv;
        prop_assert!(kv(CacheType::Q8_0) <= kv(CacheType::F32));
        prop_assert!(kv(CacheType::Q4_0) <= kv(CacheType::Q8_0));
    }
}
