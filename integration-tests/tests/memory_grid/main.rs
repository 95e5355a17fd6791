//! The estimate of memory against the real engine: tiny models over a grid of contexts, slots, unified and split
//! caches and cache types, all layers on the host.
//!
//! llama.cpp's log prints buffers in MiB with two decimals (compute: four) and the numbers of cells, layers, slots
//! and streams whole. So the numbers are compared exactly, and bytes at the log's resolution.
//! `UPDATE_DOCS=1` writes the table into `docs/memory.md`. Compute buffers are measured, not pinned: another
//! version of the engine has others, and must stay below the bound.

mod synthetic;
#[path = "../../../core/tests/gguf/writer.rs"]
#[expect(dead_code, reason = "the core's tests use the rest")]
mod writer;

use integration_tests::engine_fixture::{
    embedding_model, engine_folder, random_model, real_engine, trained_model,
};
use mesh_core::gguf::{Outcome, read};
use mesh_core::memory::{CacheType, Footprint, GpuLayers, Layer, Options, Shape, footprint};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MIB: f64 = 1_048_576.0;
/// Half of the last digit that the log prints, and a hair for its binary fractions.
const RESOLUTION: f64 = 0.005 + 1e-9;
/// How far the compute bound may lie above what was measured: a constant in MiB, which is what tiny models see of it, and
/// the factor that was found over published models.
const SLACK: (f64, f64) = (40.0, 1.65);

struct Model {
    name: &'static str,
    file: PathBuf,
    shape: Shape,
    weights: u64,
    /// A quantised cache needs heads of whole blocks.
    types: &'static [CacheType],
}

const EVERY: &[CacheType] = &[CacheType::F16, CacheType::F32, CacheType::Q8_0, CacheType::Q4_0];
const WHOLE: &[CacheType] = &[CacheType::F16, CacheType::F32];

fn model(name: &'static str, file: PathBuf, types: &'static [CacheType]) -> Model {
    let bytes = std::fs::read(&file).expect("a model");
    let header = match read(&bytes, Some(bytes.len() as u64)).expect("a good file") {
        Outcome::Complete(header) => header,
        Outcome::NeedMore { at_least } => panic!("{name}: {at_least} bytes of a whole file"),
    };
    let shape = Shape::from_header(&header).expect("a language model");
    Model { name, file, shape, weights: header.weight_bytes(), types }
}

fn models(folder: &Path) -> Vec<Model> {
    let made = |name: &'static str, bytes: Vec<u8>, types| {
        let file = folder.join(format!("{name}.gguf"));
        std::fs::write(&file, bytes).expect("a folder of the test");
        model(name, file, types)
    };
    vec![
        model("tiny-trained-1.4M-q8_0", trained_model(), EVERY),
        model("tiny-random-1.4M-q8_0", random_model(), EVERY),
        model("tiny-random-0.2M-f16", embedding_model(), WHOLE),
        made("windows-as-gemma3", synthetic::gemma3(), EVERY),
        made("windows-and-experts-as-gpt-oss", synthetic::gpt_oss(), EVERY),
        made("states-as-mamba", synthetic::mamba(), &[CacheType::F16]),
        made("states-and-attention-as-nemotron-h", synthetic::nemotron_h(), EVERY),
    ]
}

fn grid(model: &Model) -> Vec<Options> {
    let mut loads = Vec::new();
    for &cache in model.types {
        for slots in [1, 2, 4] {
            // One slot has nothing to share.
            for unified in [true, false].into_iter().take(if slots == 1 { 1 } else { 2 }) {
                for (context, ubatch) in [(256, 512), (700, 512), (2048, 512), (2048, 128), (8192, 512)] {
                    let flash_attention = true;
                    let how = Options { context, unified, ubatch, flash_attention, ..Options::new(1, slots) };
                    let gpu_layers = GpuLayers::None;
                    loads.push(Options { cache_k: cache, cache_v: cache, gpu_layers, ..how });
                }
            }
        }
    }
    // Keys and values of two types, and scores that are kept.
    let plain = loads[0].clone();
    if model.types.len() > 2 {
        loads.push(Options { context: 2048, cache_k: CacheType::Q8_0, ..plain.clone() });
    }
    for context in [512, 2048] {
        loads.push(Options { context, slots: 2, flash_attention: false, ..plain.clone() });
    }
    loads
}

fn asked(model: &Model, how: &Options) -> Value {
    json!({
        "model": model.file,
        "context": how.context,
        "slots": how.slots,
        "unified": how.unified,
        "ubatch": how.ubatch,
        "flash": how.flash_attention,
        "k": how.cache_k.word(),
        "v": how.cache_v.word(),
    })
}

/// What the engine says of each load: on each processor a script of its own tries its share of them.
fn measured(loads: &[Value]) -> Vec<Value> {
    let scripts = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let shares = loads.chunks(loads.len().div_ceil(scripts));
        let running: Vec<_> = shares.map(|share| scope.spawn(|| measured_by_one(share))).collect();
        running.into_iter().flat_map(|script| script.join().expect("the engine's python")).collect()
    })
}

fn measured_by_one(loads: &[Value]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/memory_grid/grid.py");
    let mut child = Command::new(engine_folder().join("venv/bin/python"))
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the engine's python");
    let mut input = child.stdin.take().expect("a pipe");
    for load in loads {
        writeln!(input, "{load}").expect("the script reads");
    }
    drop(input);
    let output = child.wait_with_output().expect("the script ends");
    let text = String::from_utf8(output.stdout).expect("a text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} in {value}"))
}

fn mib(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"))
}

fn sum(values: &Value, key: &str) -> f64 {
    values.as_array().expect("a list").iter().map(|value| mib(value, key)).sum()
}

/// What the log's whole numbers mean in bytes: cells × streams × the row of each layer's keys and values.
fn cache_bytes(model: &Model, how: &Options, seen: &Value) -> u64 {
    let row = |layer: &&Layer| {
        how.cache_k.row_bytes(layer.kv_heads * layer.head_k)
            + how.cache_v.row_bytes(layer.kv_heads * layer.head_v)
    };
    let with_attention: Vec<&Layer> = model.shape.layers.iter().filter(|layer| layer.kv_heads > 0).collect();
    let caches = seen["caches"].as_array().expect("a list");
    // The engine has one cache for layers that see everything and a second one for those with windows.
    let all_alike = caches.len() == 1;
    let of = |cache: (usize, &Value)| {
        let (place, cache) = cache;
        let belongs = |layer: &&&Layer| all_alike || layer.window.is_some() == (place == 1);
        let layers: Vec<&&Layer> = with_attention.iter().filter(belongs).collect();
        assert_eq!(number(cache, "layers"), layers.len() as u64, "{}: {cache}", model.name);
        assert_eq!(cache["k_type"], how.cache_k.word());
        let cells = number(cache, "cells") * number(cache, "streams");
        cells * layers.into_iter().copied().map(|layer| row(&layer)).sum::<u64>()
    };
    caches.iter().enumerate().map(of).sum()
}

/// What was seen of one model with one cache type.
#[derive(Default)]
struct Seen {
    loads: u32,
    cache: (u64, u64),
    compute: Vec<(f64, f64)>,
}

fn compare(model: &Model, how: &Options, seen: &Value) -> (Footprint, f64) {
    let what = asked(model, how);
    assert!(seen["error"].is_null(), "{what}\n{}", seen["error"].as_str().unwrap_or_default());
    let needs = footprint(&model.shape, how);
    let about = |a: f64, b: u64, parts: f64, part: &str| {
        let ours = b as f64 / MIB;
        assert!((a - ours).abs() <= RESOLUTION * parts, "{part}: the engine {a} MiB, we {ours} MiB: {what}");
    };
    assert_eq!(needs.host.weights.0, model.weights);
    // Tensors are padded to 32 bytes in a buffer, these here are multiples of that; two buffers at most.
    about(mib(seen, "model"), model.weights, 2.0, "weights");
    assert_eq!(needs.host.kv.0, cache_bytes(model, how, seen), "cache: {what}");
    let caches = seen["caches"].as_array().map_or(0, Vec::len).max(1) as f64;
    about(sum(&seen["caches"], "mib"), needs.host.kv.0, caches, "cache");
    about(sum(&seen["states"], "mib"), needs.host.recurrent.0, 1.0, "states");
    // The line counts all layers, also those without a state; its size does not.
    for state in seen["states"].as_array().into_iter().flatten() {
        assert_eq!(number(state, "cells"), u64::from(how.slots), "{what}");
    }
    let is_recurrent = model.shape.layers.iter().any(|layer| layer.state_floats > 0);
    assert_eq!(seen["states"].as_array().map_or(0, Vec::len), usize::from(is_recurrent), "{what}");
    let compute = mib(seen, "compute") + mib(seen, "output");
    let bound = needs.host.compute.0 as f64 / MIB;
    assert!(bound >= compute, "compute: the engine {compute} MiB, our bound {bound} MiB: {what}");
    let most = SLACK.0 + SLACK.1 * compute;
    assert!(bound <= most, "compute: the engine {compute} MiB, our bound {bound} MiB is over {most}: {what}");
    (needs, compute)
}

#[tokio::test]
async fn the_estimate_is_what_the_engine_allocates() {
    if !real_engine().await {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let models = models(folder.path());
    let loads: Vec<(&Model, Options)> =
        models.iter().flat_map(|model| grid(model).into_iter().map(move |how| (model, how))).collect();
    let answers = measured(&loads.iter().map(|(model, how)| asked(model, how)).collect::<Vec<_>>());
    assert_eq!(answers.len(), loads.len(), "the script answered every load");
    let mut rows: BTreeMap<(usize, CacheType), Seen> = BTreeMap::new();
    for ((model, how), answer) in loads.iter().zip(&answers) {
        let (needs, compute) = compare(model, how, answer);
        if how.cache_k != how.cache_v || !how.flash_attention {
            continue;
        }
        let place = models.iter().position(|other| other.name == model.name).unwrap_or(0);
        let row = rows.entry((place, how.cache_k)).or_default();
        let cache = needs.host.kv.0 + needs.host.recurrent.0;
        row.cache =
            if row.loads == 0 { (cache, cache) } else { (row.cache.0.min(cache), row.cache.1.max(cache)) };
        row.loads += 1;
        row.compute.push((compute, needs.host.compute.0 as f64 / MIB));
    }
    if std::env::var("UPDATE_DOCS").is_ok_and(|value| value == "1") {
        update_the_page(&models, &rows);
    }
}

fn update_the_page(models: &[Model], rows: &BTreeMap<(usize, CacheType), Seen>) {
    const BEGIN: &str = "<!-- measured grid: written by integration-tests/tests/memory_grid -->";
    const END: &str = "<!-- end of measured grid -->";
    let mut table = String::from(
        "| model | cache type | loads | weights, bytes | cache and states, bytes | compute: engine, MiB | our bound, MiB |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for ((place, cache), seen) in rows {
        let model = &models[*place];
        let range = |pick: fn(&(f64, f64)) -> f64| {
            let values = || seen.compute.iter().map(pick);
            let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max));
            format!("{low:.1}–{high:.1}")
        };
        let (least, most) = seen.cache;
        let caches = if least == most { least.to_string() } else { format!("{least}–{most}") };
        writeln!(
            table,
            "| {} | {} | {} | {} | {caches} | {} | {} |",
            model.name,
            cache.word(),
            seen.loads,
            model.weights,
            range(|pair| pair.0),
            range(|pair| pair.1)
        )
        .expect("a text");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/memory.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let (before, rest) = page.split_once(BEGIN).expect("the block's begin");
    let (_, after) = rest.split_once(END).expect("the block's end");
    std::fs::write(path, format!("{before}{BEGIN}\n{table}{END}{after}")).expect("the page");
}
