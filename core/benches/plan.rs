//! How long a whole plan takes: from machines, models and wishes to placements with reasons.

use criterion::{Criterion, criterion_group, criterion_main};
use mesh_core::fit::{Device, Margin, Pools};
use mesh_core::gguf::{Header, TensorInfo, TensorType, Value};
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::machine::{Capacity, Digest, Reading};
use mesh_core::memory::{CacheType, Shape};
use mesh_core::placement::{Catalogue, KnownModel, Site, Standing, Stored, World, plan};
use mesh_core::strategy::{Residency, Wish, Wishes};
use mesh_core::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const GIB: u64 = 1 << 30;

/// A model of `layers` layers and that many GiB; every third has experts.
fn model(number: usize) -> (ModelId, KnownModel) {
    let gib = [1, 2, 4, 5, 8, 9, 12, 17, 20, 30, 40, 60][number % 12] as u64;
    let layers = 16 + 6 * (number as u64 % 9);
    let architecture = if number.is_multiple_of(3) { "qwen3moe" } else { "llama" };
    let mut metadata =
        BTreeMap::from([("general.architecture".to_owned(), Value::Text(architecture.into()))]);
    for (key, value) in [
        ("block_count", layers),
        ("embedding_length", 4096),
        ("context_length", 131_072),
        ("feed_forward_length", 14_336),
        ("attention.head_count", 32),
        ("attention.head_count_kv", 8),
        ("attention.key_length", 128),
        ("attention.value_length", 128),
        ("vocab_size", 128_000),
    ] {
        metadata.insert(format!("{architecture}.{key}"), Value::Unsigned(value));
    }
    let bytes = gib * GIB / (layers + 2);
    let tensor =
        |name: String| TensorInfo { name, dims: vec![bytes], kind: TensorType(24), offset: 0, bytes };
    let mut tensors = vec![tensor("token_embd.weight".into()), tensor("output.weight".into())];
    let part = if number.is_multiple_of(3) { "ffn_up_exps" } else { "ffn_up" };
    tensors.extend((0..layers).map(|layer| tensor(format!("blk.{layer}.{part}.weight"))));
    let header = Header {
        version: 3,
        metadata,
        tensors,
        alignment: 32,
        data_offset: 0,
        unknown_types: BTreeSet::new(),
        sizes_complete: true,
    };
    let shape = Arc::new(Shape::from_header(&header).expect("a model"));
    let known = KnownModel {
        digest: Some(Digest::new(&format!("{number:064x}")).expect("64 digits")),
        parameters: Some(gib * 1_000_000_000),
        ..KnownModel::of_shape(shape, Bytes(gib * GIB))
    };
    (ModelId::new(format!("model-{number}")).expect("valid"), known)
}

fn site(number: usize, models: &[ModelId]) -> Site {
    let full = |gib: u64| Capacity { total: Bytes(gib * GIB), available: Bytes(gib * GIB) };
    let (ram, vram, shared) =
        [(32, 8, false), (32, 16, false), (121, 120, true), (31, 0, false), (62, 24, false)][number % 5];
    let card = Device {
        id: "0000:01:00.0".into(),
        name: "card".into(),
        memory: full(vram),
        carve_out: shared.then(|| full(0)),
        holders: Vec::new(),
    };
    let stored = models
        .iter()
        .enumerate()
        .filter(|(at, _)| (at * 7 + number).is_multiple_of(3))
        .map(|(_, model)| (model.clone(), Stored { size: None, broken: None, can_size: true }));
    Site {
        machine: MachineId::new(format!("machine-{number:05}")).expect("valid"),
        standing: Standing::Open,
        is_lost: false,
        pools: Pools {
            devices: if vram > 0 { vec![card] } else { Vec::new() },
            ram: Reading::Known(full(ram)),
            notes: Vec::new(),
        },
        reserved: (Bytes(0), Bytes(0)),
        margin: Margin::Default,
        labels: BTreeSet::new(),
        launches: true,
        disk_free: Some(Bytes(1000 * GIB)),
        stored: stored.collect(),
        held: Vec::new(),
        paces: BTreeMap::new(),
        footprints: Vec::new(),
        speeds: Vec::new(),
    }
}

fn world(machines: usize, models: usize) -> World {
    let catalogue: Catalogue = (0..models).map(model).collect();
    let names: Vec<ModelId> = (0..models).map(|number| model(number).0).collect();
    World { sites: (0..machines).map(|number| site(number, &names)).collect(), catalogue, ..World::default() }
}

fn wishes(count: usize, listed: usize, models: usize) -> Wishes {
    let modes = (0..count).map(|number| {
        let names = (0..listed).map(|at| model((number * 5 + at * 3) % models).0).collect();
        let mode = ModeName::new(format!("mode-{number}")).expect("valid");
        Wish {
            context: 32_768,
            least_context: 8192,
            cache_types: vec![CacheType::F16, CacheType::Q8_0],
            copies: 1 + (number as u32 % 3) / 2,
            residency: if number % 2 == 0 { Residency::Pinned } else { Residency::Warm },
            ..Wish::new(mode, names)
        }
    });
    Wishes { modes: modes.collect(), ..Wishes::default() }
}

fn plans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group.sample_size(10).measurement_time(Duration::from_secs(4));
    let home = world(10, 40);
    let listed = wishes(8, 5, 40);
    group.bench_function("10 machines, 40 models, 8 modes of 5", |bench| {
        bench.iter(|| plan(black_box(&home), &listed))
    });
    let auto = wishes(8, 0, 40);
    group.bench_function("10 machines, 40 models, 8 modes of all", |bench| {
        bench.iter(|| plan(black_box(&home), &auto))
    });
    let large = world(10_000, 40);
    let many = wishes(1000, 3, 40);
    group.bench_function("10,000 machines, 1,000 modes", |bench| {
        bench.iter(|| plan(black_box(&large), &many))
    });
    group.finish();
}

criterion_group!(benches, plans);
criterion_main!(benches);
