//! Records, rungs and cells as tests need them.

use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::ladder::{
    Answered, Cell, ModeGoal, Record, Rung, Sampling, Schema, Settings, Shape, Shortage,
};
use mesh_core::profile::{HardwareFacts, SoftwareFacts};
use mesh_core::routing::Slo;
use mesh_core::trial::{Ended, Prefix, Run, Sample, SpeedWork};
use mesh_core::units::{Bytes, Celsius};
use mesh_core::verdict::Expectation;

pub(crate) const GOOD: &str = "The sky is blue because air scatters short waves more than long ones.";

pub(crate) fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("a name")
}

pub(crate) fn mode(name: &str) -> ModeName {
    ModeName::new(name).expect("a name")
}

pub(crate) fn record(rungs: Vec<Rung>) -> Record {
    Record {
        schema: Schema,
        id: "climb-1".into(),
        node: MachineId::new("msi-raider").expect("a name"),
        meshctl: "0.1.0".into(),
        started_unix_ms: 1,
        ended_unix_ms: None,
        imported: None,
        hardware: HardwareFacts::default(),
        software: SoftwareFacts::default(),
        settings: Settings {
            models: Vec::new(),
            matrix: vec![Shape { prompt: 512, output: 128 }],
            streams: vec![1],
            repetitions: 5,
            seed: 1,
            prefix: Prefix::Cold,
            prompts: "v1".into(),
            soak_s: None,
            success_threshold: 0.8,
            idle_below: Some(Celsius(65.0)),
            sustained_below: Some(Celsius(85.0)),
            sampling: Sampling::default(),
        },
        modes: Vec::new(),
        rungs,
        stopped: None,
    }
}

/// A rung of so many gigabytes (10⁹).
pub(crate) fn rung(name: &str, gigabytes: f64) -> Rung {
    Rung { size: Some(Bytes((gigabytes * 1e9) as u64)), ..Rung::new(model(name), name) }
}

/// A rung with five runs at this rate, and five good answers.
pub(crate) fn measured(name: &str, gigabytes: f64, rate: f64) -> Rung {
    let runs = (0..5).map(|at| run(at, rate)).collect();
    let answers = (0..5).map(|_| answered(GOOD, 1.0)).collect();
    Rung { cells: vec![cell(1, runs)], answers, ..rung(name, gigabytes) }
}

/// A run of 101 tokens at `rate`, half a second to the first.
pub(crate) fn run(repetition: u32, rate: f64) -> Run {
    Run {
        repetition,
        at_s: f64::from(repetition) * 1000.0,
        ttft_s: Some(0.5),
        total_s: 0.5 + 100.0 / rate,
        prompt_tokens: Some(500),
        output_tokens: Some(101),
        ..Run::default()
    }
}

pub(crate) fn cell(streams: u32, runs: Vec<Run>) -> Cell {
    let work = SpeedWork {
        prompt_tokens: 512,
        output_tokens: 128,
        streams,
        repetitions: 5,
        seed: 1,
        prefix: Prefix::Cold,
        soak_s: None,
    };
    let ended = Some(Ended { seconds: 100.0, others: 0 });
    Cell { work, runs, samples: Vec::new(), ended, marks: Vec::new() }
}

pub(crate) fn sample(at_s: f64, temperature: f32, throttled: bool) -> Sample {
    Sample { at_s, temperature: Some(temperature), throttled: Some(throttled), ..Sample::default() }
}

pub(crate) fn answered(text: &str, total_s: f64) -> Answered {
    let run = Run {
        text: text.into(),
        total_s,
        output_tokens: Some(20),
        finish_reason: Some("stop".into()),
        ..Run::default()
    };
    Answered { question: "q".into(), expected: Expectation::WHOLE, run }
}

/// A mode that wants so many tokens each second.
pub(crate) fn goal(name: &str, least: f64) -> ModeGoal {
    ModeGoal::new(mode(name), Slo { ttft_s: None, tpot_s: Some(1.0 / least) })
}

pub(crate) fn gib(n: u64) -> Bytes {
    Bytes(n << 30)
}

pub(crate) fn missing_vram(n: u64) -> Option<Shortage> {
    Some(Shortage { vram: gib(n), ..Shortage::default() })
}
