//! Climbs as reports need them: the one that the mesh's owner did by hand, and two machines with everything that a climb can
//! hold. The figures of those two are made up.

use mesh_core::fit::Offload;
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::ladder::{
    Answered, Cell, CloudPrice, MachinePrice, Mark, ModeGoal, Outcome, Prices, Record, Rung, Sampling,
    Schema, Settings, Shape, StopRule, Stopped,
};
use mesh_core::machine::GpuVendor;
use mesh_core::profile::{GpuFacts, HardwareFacts, SoftwareFacts};
use mesh_core::routing::Slo;
use mesh_core::trial::{Ended, Prefix, Run, Sample, SpeedWork, Subject};
use mesh_core::units::{Bytes, Celsius};
use mesh_core::verdict::Expectation;
use std::collections::BTreeMap;

/// The owner's notes: model, gigabytes, tokens each second, seconds of an answer, good answers of five.
const NOTES: [(&str, &str, f64, f64, f64, usize); 5] = [
    ("llama3.2:1b", "1b", 1.3, 83.01, 1.12, 5),
    ("llama3.2:3b", "3b", 2.0, 54.67, 1.61, 5),
    ("llama3:8b", "8b", 4.7, 31.37, 2.89, 5),
    ("codellama:13b", "13b", 7.4, 8.96, 10.32, 5),
    ("gpt-oss:20b", "20b", 13.0, 0.52, 7.69, 1),
];

pub(super) fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("a name")
}

fn settings(matrix: Vec<Shape>, streams: Vec<u32>) -> Settings {
    Settings {
        models: Vec::new(),
        matrix,
        streams,
        repetitions: 5,
        seed: 1,
        prefix: Prefix::Cold,
        prompts: "v1".into(),
        soak_s: None,
        success_threshold: 0.8,
        idle_below: Some(Celsius(65.0)),
        sustained_below: Some(Celsius(85.0)),
        sampling: Sampling { temperature: Some(0.0), top_p: None, max_tokens: Some(300) },
    }
}

fn answered(at: usize, is_good: bool, seconds: f64, rate: Option<f64>) -> Answered {
    let text =
        if is_good { "The sky is blue because air scatters short waves more than long ones." } else { "" };
    let run = Run {
        id: format!("q{at}"),
        text: text.into(),
        total_s: seconds,
        output_tokens: Some(20),
        engine_decode: rate,
        finish_reason: Some("stop".into()),
        ..Run::default()
    };
    Answered { question: run.id.clone(), expected: Expectation::WHOLE, run }
}

/// The climb that the owner did by hand: five prompts a rung, of which he noted one rate. What he did not write down is not
/// there.
pub(super) fn owners() -> Record {
    let rungs = NOTES.map(|(name, label, gigabytes, rate, seconds, good)| Rung {
        size: Some(Bytes((gigabytes * 1e9) as u64)),
        answers: (0..5).map(|at| answered(at, at < good, seconds, (at == 0).then_some(rate))).collect(),
        specialty: (name == "codellama:13b").then(|| "code".to_owned()),
        subject: Some(Subject { build: "ollama".into(), ..Subject::default() }),
        ..Rung::new(model(name), label)
    });
    Record {
        schema: Schema,
        id: "20261121-120411-007".into(),
        node: MachineId::new("msi-raider").expect("a name"),
        meshctl: "0.1.0".into(),
        started_unix_ms: 1_795_262_651_007,
        ended_unix_ms: Some(1_795_263_000_000),
        imported: None,
        hardware: HardwareFacts {
            hostname: "raider".into(),
            cpu: Some("i9-14900HX".into()),
            cpu_threads: 32,
            ram: Some(Bytes(32 << 30)),
            gpus: vec![gpu("RTX 4070 Laptop", GpuVendor::Nvidia, 8, false)],
        },
        software: SoftwareFacts::default(),
        settings: Settings {
            prompts: "owner-5".into(),
            sampling: Sampling::default(),
            idle_below: None,
            sustained_below: None,
            ..settings(vec![Shape { prompt: 512, output: 128 }], vec![1])
        },
        modes: Vec::new(),
        rungs: rungs.into(),
        stopped: Some(Stopped {
            rule: StopRule::Success,
            why: "1 of 5 answers of gpt-oss:20b were good, 80 % are wanted".into(),
        }),
    }
}

fn gpu(name: &str, vendor: GpuVendor, gib: u64, shares_ram: bool) -> GpuFacts {
    GpuFacts { id: "gpu0".into(), name: name.into(), vendor, memory: Some(Bytes(gib << 30)), shares_ram }
}

/// Name, label, billions of parameters in all and at once, gigabytes, tokens each second, prompt tokens each second.
type Made = (&'static str, &'static str, f64, f64, f64, f64, f64);

const UNIFIED: [Made; 4] = [
    ("gemma3:4b", "4b", 4.3, 4.3, 3.3, 61.0, 1120.0),
    ("gemma3:12b", "12b", 12.2, 12.2, 8.1, 24.3, 402.0),
    ("qwen3-coder:30b", "30b", 30.5, 3.3, 18.6, 52.7, 655.0),
    ("llama3.3:70b", "70b", 70.6, 70.6, 42.5, 4.9, 71.0),
];
const CARD: [Made; 3] = [
    ("gemma3:4b", "4b", 4.3, 4.3, 3.3, 118.0, 3900.0),
    ("gemma3:12b", "12b", 12.2, 12.2, 8.1, 46.0, 1650.0),
    ("qwen3:32b", "32b", 32.8, 32.8, 20.2, 6.1, 190.0),
];

/// Two machines, one with much slow memory and one with a small fast card that becomes hot. Figures are made up.
pub(super) fn two_machines() -> Vec<Record> {
    vec![unified(), card()]
}

fn unified() -> Record {
    let rungs = UNIFIED
        .iter()
        .enumerate()
        .map(|(at, made)| rung(at, made, "llama-server b11549", Offload::Full, 46.0));
    Record {
        id: "20261121-130000-000".into(),
        node: MachineId::new("example-unified").expect("a name"),
        hardware: HardwareFacts {
            hostname: "unified".into(),
            cpu: Some("Ryzen AI Max+ 395".into()),
            cpu_threads: 32,
            ram: Some(Bytes(128 << 30)),
            gpus: vec![gpu("Radeon 8060S", GpuVendor::Amd, 96, true)],
        },
        rungs: rungs.collect(),
        stopped: None,
        ..machine()
    }
}

fn card() -> Record {
    let offload = |at| if at == 2 { Offload::Layers(44) } else { Offload::Full };
    let rungs =
        CARD.iter().enumerate().map(|(at, made)| rung(at, made, "llama-server b11549", offload(at), 58.0));
    let mut rungs: Vec<Rung> = rungs.collect();
    rungs.push(Rung {
        size: Some(Bytes(42_500_000_000)),
        outcome: Outcome::Skipped("does not fit: needs 44 GiB, 38 GiB are free".into()),
        ..Rung::new(model("llama3.3:70b"), "70b")
    });
    Record {
        id: "20261121-150000-000".into(),
        node: MachineId::new("example-card").expect("a name"),
        started_unix_ms: 1_795_273_200_000,
        ended_unix_ms: Some(1_795_276_800_000),
        hardware: HardwareFacts {
            hostname: "card".into(),
            cpu: Some("Ryzen 7 7700".into()),
            cpu_threads: 16,
            ram: Some(Bytes(32 << 30)),
            gpus: vec![gpu("RTX 5070 Ti", GpuVendor::Nvidia, 16, false)],
        },
        software: SoftwareFacts { drivers: vec!["nvidia 580.95".into()], ..machine().software },
        rungs,
        stopped: Some(Stopped {
            rule: StopRule::DoesNotFit,
            why: "llama3.3:70b has no room, and nothing smaller is left".into(),
        }),
        ..machine()
    }
}

fn machine() -> Record {
    let goal = |name: &str, ttft: f64, rate: f64, context: u32| {
        let slo = Slo { ttft_s: Some(ttft), tpot_s: Some(1.0 / rate) };
        ModeGoal { context: Some(context), ..ModeGoal::new(ModeName::new(name).expect("a name"), slo) }
    };
    let shapes = [(512, 128), (4096, 512), (16_384, 1024)];
    Record {
        meshctl: "0.1.0".into(),
        started_unix_ms: 1_795_266_000_000,
        ended_unix_ms: Some(1_795_271_400_000),
        software: SoftwareFacts {
            system: Some("Linux 6.17".into()),
            agent: "0.1.0".into(),
            drivers: vec!["amdgpu 6.17".into()],
        },
        settings: settings(shapes.map(|(prompt, output)| Shape { prompt, output }).into(), vec![1, 2]),
        modes: vec![
            goal("ask", 2.0, 20.0, 4096),
            goal("code", 5.0, 30.0, 16_384),
            goal("architect", 15.0, 4.0, 16_384),
            goal("autocomplete", 0.3, 100.0, 4096),
        ],
        ..owners()
    }
}

fn rung(at: usize, made: &Made, build: &str, offload: Offload, idle: f32) -> Rung {
    let (name, label, all, active, gigabytes, rate, prefill) = *made;
    let size = Bytes((gigabytes * 1e9) as u64);
    let works = [(512, 128, 1), (4096, 512, 1), (16_384, 1024, 1), (512, 128, 2)];
    let last = at == 2 && idle > 50.0;
    let cells = works.iter().enumerate().map(|(work, (prompt, output, streams))| {
        let rate = rate * (1.0 - f64::from(*prompt) / 100_000.0) / f64::from(*streams).sqrt();
        let is_hot = last && work == 2;
        let first = idle + 4.0 * at as f32 + 3.0 * work as f32;
        cell((*prompt, *output, *streams), (rate, prefill / f64::from(*streams)), first, is_hot)
    });
    Rung {
        parameters: Some((all * 1e9) as u64),
        active_parameters: (active < all).then_some((active * 1e9) as u64),
        quantisation: Some("Q4_K_M".into()),
        size: Some(size),
        digest: Some(format!("{at:064x}")),
        specialty: name.contains("coder").then(|| "code".to_owned()),
        load_s: Some(gigabytes / 2.1),
        subject: Some(Subject {
            build: build.into(),
            device: "gpu0".into(),
            offload: Some(offload),
            context: Some(17_408),
            slots: Some(2),
            ..Subject::default()
        }),
        before: Sample { vram_used: Some(Bytes(1 << 30)), temperature: Some(idle), ..Sample::default() },
        after: Sample {
            vram_used: Some(Bytes(size.0 + (2 << 30))),
            temperature: Some(idle),
            ..Sample::default()
        },
        cells: cells.collect(),
        answers: (0..5).map(|number| answered(number, at < 3 || number > 0, 60.0 / rate, None)).collect(),
        ..Rung::new(model(name), label)
    }
}

fn cell(
    (prompt, output, streams): (u32, u32, u32),
    (rate, prefill): (f64, f64),
    first: f32,
    is_hot: bool,
) -> Cell {
    let work = SpeedWork {
        prompt_tokens: prompt,
        output_tokens: output,
        streams,
        repetitions: 5,
        seed: 1,
        prefix: Prefix::Cold,
        soak_s: None,
    };
    let ttft = f64::from(prompt) / prefill;
    let length = ttft + f64::from(output) / rate;
    let run = |repetition: u32, stream: u32| {
        // A spread of two percent, without dice.
        let off = 1.0 + 0.01 * (f64::from(repetition) - 2.0);
        Run {
            repetition,
            stream,
            at_s: f64::from(repetition) * length * 1.05,
            ttft_s: Some(ttft * off),
            total_s: length * off,
            prompt_tokens: Some(prompt),
            output_tokens: Some(output),
            engine_decode: Some(rate / off),
            engine_prefill: Some(prefill / off),
            ..Run::default()
        }
    };
    let seconds = length * 5.3;
    let looks = 24;
    let samples = (0..=looks).map(|at| {
        let share = at as f32 / looks as f32;
        let rise = if is_hot { 18.0 } else { 9.0 };
        Sample {
            at_s: seconds * f64::from(share),
            temperature: Some(first + rise * (1.0 - (-3.0 * share).exp())),
            watts: Some(if is_hot { 210.0 } else { 120.0 }),
            throttled: Some(is_hot && share > 0.55),
            ..Sample::default()
        }
    });
    Cell {
        work,
        runs: (0..5).flat_map(|repetition| (0..streams).map(move |stream| run(repetition, stream))).collect(),
        samples: samples.collect(),
        ended: Some(Ended { seconds, others: 0 }),
        marks: if is_hot { vec![Mark::Throttled] } else { Vec::new() },
    }
}

pub(super) fn prices() -> Prices {
    Prices {
        currency: "€".into(),
        per_kwh: Some(0.3),
        machine: Some(MachinePrice { price: 2000.0, years: 4.0, hours_per_day: 4.0 }),
        machines: BTreeMap::from([(
            MachineId::new("example-card").expect("a name"),
            MachinePrice { price: 1200.0, years: 4.0, hours_per_day: 4.0 },
        )]),
        cloud: vec![CloudPrice {
            model: "EXAMPLE large model".into(),
            per_million: 15.0,
            as_of: "2000-01-01".into(),
            source: "EXAMPLE, no price list".into(),
        }],
    }
}
