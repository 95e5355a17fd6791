//! The screens about single machines, pinned: a laptop with an RTX card, an AMD box with one pool, and one that has
//! not said much.

use super::fit::{Answer, Page, Verdict};
use super::paint::Look;
use mesh_core::fit::{Margin, Pools, plan};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::*;
use mesh_core::memory::{CacheType, Known, Layer, Options, Shape};
use mesh_core::strategy::Pin;
use mesh_core::units::{Bytes, Celsius};
use mesh_proto::v1::MachineReport;
use std::collections::BTreeSet;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const PIPE: Look = Look { width: None, color: false, unicode: true };

fn of(total: u64, available: u64) -> Reading<Capacity> {
    Reading::Known(Capacity { total: Bytes(total * GIB), available: Bytes(available * GIB) })
}

fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("a good name")
}

fn sensor(name: &str, value: f32, limit: Option<f32>) -> Temperature {
    Temperature { sensor: name.into(), value: Celsius(value), limit: limit.map(Celsius) }
}

fn hardware(host: &str, uses_gpu: bool) -> Hardware {
    Hardware {
        hostname: host.into(),
        cpu: Reading::Known("AMD Ryzen 9 8945HS".into()),
        cpu_threads: 16,
        system: Reading::Known("Linux 6.17.1".into()),
        agent_version: "0.1.0".into(),
        launch: Some(Launch {
            program: if uses_gpu { "llama-server" } else { "bundled" }.into(),
            uses_gpu,
            context: 16_384,
            slots: 2,
        }),
    }
}

fn laptop() -> Report {
    let sensors = GpuSensors {
        busy: Reading::Known(93),
        power: Reading::Known(88.4),
        power_cap: Reading::Known(140.0),
        clock: Reading::Known(2310),
        fan: Reading::unknown("not supported"),
        temperatures: Reading::Known(vec![sensor("gpu", 71.0, Some(87.0))]),
        throttle: Reading::Known(vec![ThrottleCause::SoftwareThermal]),
        ..GpuSensors::unknown("not supported")
    };
    let gpu = Gpu {
        state: GpuState::Ready,
        driver: Reading::Known("580.95.05".into()),
        memory: of(8, 1),
        pool: Pool::Discrete { reserved: Some(Bytes(380 * MIB)) },
        sensors,
        processes: Reading::Known(vec![GpuProcess {
            pid: 4242,
            name: "llama-server".into(),
            memory: Reading::Known(Bytes(6 * GIB)),
        }]),
        ..Gpu::unknown("0000:01:00.0", "NVIDIA GeForce RTX 4070 Laptop GPU", GpuVendor::Nvidia, "test")
    };
    let vitals = Vitals {
        ram: of(32, 21),
        memory: HostMemory {
            mem_available: Reading::Known(Bytes(21 * GIB)),
            swap: Reading::Known(Swap { total: Bytes(8 * GIB), used: Bytes(0) }),
            pressure: Reading::Known(0.0),
            ..HostMemory::unknown("no such file")
        },
        disk: of(900, 412),
        gpus: Reading::Known(vec![gpu]),
        temperatures: Reading::Known(vec![sensor("k10temp Tctl", 66.0, Some(100.0))]),
        thermal: Thermal { state: ThermalState::Derated, why: "gpu slowed by its temperature".into() },
        power: Reading::Known(Power::Battery(Some(81))),
        load: Reading::Known(1.5),
        uptime_s: Reading::Known(93_000),
        ..Vitals::unknown("test")
    };
    let loaded = Replica {
        slots: Some(2),
        busy: Some(1),
        context: Some(16_384),
        memory: Some(ReplicaMemory { device: Bytes(6 * GIB), host: Bytes(700 * MIB), measured: true }),
        health: ReplicaHealth::Degraded("cpu_fallback: 4 tokens/s of 41".into()),
        ..Replica::new(model("qwen3-8b-q4_k_m"), ReplicaState::Loaded)
    };
    let failed =
        Replica::new(model("gemma3-12b"), ReplicaState::Failed("does not fit: needs 9.1 GiB".into()));
    let engine = |name: &str, replica| Engine {
        version: Some("b11549".into()),
        state: EngineState::Up,
        replicas: vec![replica],
        ..Engine::new(name, EngineKind::LlamaServer, true)
    };
    Report {
        hardware: Some(hardware("msi", true)),
        vitals: Some(vitals),
        engines: Some(vec![engine("qwen3-8b-q4_k_m", loaded), engine("gemma3-12b", failed)]),
        store: Some(store()),
        profile: Some("{}".into()),
        draining: Some(false),
    }
}

fn store() -> Store {
    let stored = |name: &str, size: u64, broken: Option<&str>| StoredModel {
        model: model(name),
        digest: Some(Digest::new(&"0f".repeat(32)).expect("a digest")),
        size: Bytes(size),
        architecture: Some("qwen3".into()),
        quantisation: Some("Q4_K_M".into()),
        parameters: Some(8_190_735_360),
        active_parameters: None,
        trained_context: Some(40_960),
        projector: None,
        broken: broken.map(str::to_owned),
        served_as: None,
    };
    let transfer = |name: &str, state, done: u64, rate| Transfer {
        model: model(name),
        kind: TransferKind::Copy,
        source: "strix-1".into(),
        state,
        done: Bytes(done),
        total: Some(Bytes(17 * GIB)),
        rate,
    };
    Store {
        models: vec![
            stored("qwen3-8b-q4_k_m", 4_700 * MIB, None),
            stored("half", 12 * MIB, Some("the file of 12582912 bytes ends within its header")),
        ],
        transfers: vec![
            transfer("qwen3-30b-a3b", TransferState::Running, 3 * GIB, Some(Bytes(110 * MIB))),
            transfer("gpt-oss-20b", TransferState::Failed("the disk is full".into()), GIB, None),
        ],
        refusals: vec![],
    }
}

/// An AMD box whose graphics memory is a part of its RAM.
fn strix() -> Report {
    let carve_out = Capacity { total: Bytes(512 * MIB), available: Bytes(300 * MIB) };
    let gtt = Capacity { total: Bytes(110 * GIB), available: Bytes(104 * GIB) };
    let gpu = Gpu {
        state: GpuState::Ready,
        driver: Reading::Known("amdgpu".into()),
        memory: of(110, 104),
        pool: Pool::Unified { carve_out, gtt, limited_by: UnifiedLimit::Driver },
        ..Gpu::unknown("0000:c5:00.0", "Radeon 8060S", GpuVendor::Amd, "no such file")
    };
    let vitals = Vitals {
        ram: of(124, 117),
        gpus: Reading::Known(vec![gpu]),
        power: Reading::Known(Power::Mains),
        ..Vitals::unknown("no such file")
    };
    Report { hardware: Some(hardware("strix-1", true)), vitals: Some(vitals), ..Report::default() }
}

/// A small machine without a graphics processor.
fn small() -> Report {
    let vitals = Vitals { ram: of(8, 6), gpus: Reading::Known(vec![]), ..Vitals::unknown("no such file") };
    Report { hardware: Some(hardware("nuc", false)), vitals: Some(vitals), ..Report::default() }
}

fn machine(name: &str, state: &str) -> MachineReport {
    MachineReport {
        node: name.into(),
        state: state.into(),
        last_heard_ms: 400,
        data_path: "quic".into(),
        ..MachineReport::default()
    }
}

#[test]
fn a_machine_shows_all_that_it_says() {
    let page = super::node::page(&machine("msi", "ready"), &laptop(), PIPE);
    insta::assert_snapshot!(page);
}

#[test]
fn a_machine_with_one_pool_and_many_unknowns_says_so() {
    let away = MachineReport { reason: "last heard 3 min ago".into(), ..machine("strix-1", "offline") };
    insta::assert_snapshot!(super::node::page(&away, &strix(), PIPE));
}

#[test]
fn models_are_listed_with_what_is_on_its_way() {
    let machines = [("msi".to_owned(), laptop()), ("nuc".to_owned(), small())];
    let pins = BTreeSet::new();
    insta::assert_snapshot!(super::models::list(&machines, &pins, PIPE));
    let narrow = super::models::list(&machines, &pins, Look { width: Some(60), ..PIPE });
    assert!(
        narrow.lines().filter(|line| !line.starts_with('#')).all(|line| line.chars().count() <= 60),
        "{narrow}"
    );
    let pin = Pin {
        model: ModelId::new("qwen3-8b-q4_k_m").expect("valid"),
        machine: MachineId::new("msi").expect("valid"),
    };
    let pinned = super::models::list(&machines, &BTreeSet::from([pin]), PIPE);
    assert_eq!(pinned.matches(", pinned").count(), 1, "{pinned}");
    assert!(pinned.contains("  msi   loaded, pinned  4.6 GiB"), "{pinned}");
    let none = super::models::list(&[("nuc".to_owned(), small())], &BTreeSet::new(), PIPE);
    assert!(none.contains("meshctl model pull"), "{none}");
}

#[test]
fn a_file_that_an_engine_serves_under_another_name_is_listed_once_under_that_one() {
    let mut report = laptop();
    let store = report.store.as_mut().expect("the laptop has one");
    let file = store.models[0].model.clone();
    store.models[0] =
        StoredModel { model: model("file-of-it"), served_as: Some(file.clone()), ..store.models[0].clone() };
    let list = super::models::list(&[("msi".to_owned(), report.clone())], &BTreeSet::new(), PIPE);
    assert!(!list.contains("file-of-it"), "{list}");
    let lines: Vec<&str> = list.lines().filter(|line| line.starts_with(file.as_str())).collect();
    assert!(lines.len() == 1 && lines[0].contains("Q4_K_M"), "with what its file says: {list}");
    let page = super::node::page(&machine("msi", "ready"), &report, PIPE);
    assert!(page.contains(&format!("file-of-it (as {file})")), "{page}");
}

/// Qwen3-30B-A3B Q4_K_M, roughly: 48 layers with experts.
fn shape() -> Shape {
    let layer = Layer {
        dense: 25 * MIB,
        experts: 340 * MIB,
        kv_heads: 4,
        head_k: 128,
        head_v: 128,
        window: None,
        state_floats: 0,
    };
    Shape {
        architecture: "qwen3moe".into(),
        layers: vec![layer; 48],
        nextn: 0,
        trained_context: Some(40_960),
        embedding: 2048,
        vocabulary: 151_936,
        most_heads: 32,
        widest_attention: 4096,
        widest_feed_forward: 6144,
        input: 170 * MIB,
        embeddings: 170 * MIB,
        tied: false,
        output: 250 * MIB,
        output_rest: MIB,
        mla: false,
        known: Known::Exactly,
        notes: vec![],
    }
}

fn verdict(name: &str, report: &Report, shape: &Shape) -> Verdict {
    let pools = Pools::of(report.vitals.as_ref().expect("it has some"));
    let (choice, footprint) = plan(shape, &Options::launched(16_384, 2), true, &pools, Margin::Default);
    let device = pools.devices.iter().find(|device| Some(&device.id) == choice.fit.gpu.as_ref());
    Verdict {
        node: name.into(),
        answer: if choice.fit.fits { Answer::Yes } else { Answer::No },
        device: device.map(|device| device.name.clone()),
        slots: 2,
        choice: Some(choice),
        footprint: Some(footprint),
        notes: vec![],
    }
}

#[test]
fn where_a_model_fits_is_told_with_its_numbers() {
    let shape = shape();
    let mut roomy = laptop();
    if let Some(Reading::Known(gpus)) = roomy.vitals.as_mut().map(|vitals| &mut vitals.gpus) {
        gpus[0].memory = of(8, 7);
    }
    let page = Page {
        model: "qwen3-30b-a3b".into(),
        shape: &shape,
        cache: CacheType::F16,
        machines: vec![
            verdict("msi", &roomy, &shape),
            verdict("strix-1", &strix(), &shape),
            verdict("nuc", &small(), &shape),
            Verdict::unknown("bee", "it is offline"),
        ],
    };
    insta::assert_snapshot!(page.text(PIPE));
    let json = serde_json::to_value(page.document()).expect("JSON");
    assert_eq!(json["cache_bytes_for_a_token"], 98_304);
    assert_eq!(json["machines"][1]["offload"], "full");
    assert_eq!(
        (json["machines"][2]["fits"].as_str(), json["machines"][3]["fits"].as_str()),
        (Some("no"), Some("unknown"))
    );
    assert!(json["machines"][2]["in_ram"]["missing"].as_u64().expect("a number") > 0);
}
