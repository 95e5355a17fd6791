//! How long a decision takes: at ten machines (at most 5 µs) and at ten thousand replicas of one model (at most 100 µs),
//! with a hashed prompt and every speed known: with as many requests as machines, each where it was decided to go, and
//! (`busy`) with one more on every replica. Processor time, not time on the wall.
//!
//! `cargo bench -p mesh-core --bench decide`

#[path = "measure/cpu_time.rs"]
mod cpu_time;

use cpu_time::CpuTime;
use criterion::{Criterion, criterion_group, criterion_main};
use mesh_core::fleet::{DataPath, Fleet, FleetView, Outcome};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Engine, EngineKind, EngineState, Replica, ReplicaState, Report};
use mesh_core::mode::Purpose;
use mesh_core::prefix::Block;
use mesh_core::routing::{Candidate, Load, Request, decide};
use mesh_core::speed::{Lesson, Timing};
use mesh_core::units::Moment;
use std::hint::black_box;

const NOW: Moment = Moment(60_000_000);

fn model() -> ModelId {
    ModelId::new("qwen3-coder:30b").expect("valid")
}

/// As many machines of different speeds, each with the model and a small one beside it.
fn fleet(machines: u32) -> FleetView {
    let mut fleet = Fleet::default();
    for at in 0..machines {
        let id = MachineId::new(format!("machine-{at}")).expect("valid");
        let replica = |model: ModelId| Replica {
            slots: Some(4),
            context: Some(32_768),
            ..Replica::new(model, ReplicaState::Loaded)
        };
        let small = ModelId::new("qwen3:1.7b").expect("valid");
        let engine = Engine {
            state: EngineState::Up,
            replicas: vec![replica(model()), replica(small)],
            ..Engine::new("llama-server-1", EngineKind::LlamaServer, true)
        };
        fleet.attached(&id, NOW);
        fleet.linked(&id, Some(DataPath::Quic));
        fleet.apply(&id, Report { engines: Some(vec![engine]), ..Report::default() }, NOW);
        let slowness = f64::from(at % 7 + 1);
        let lesson = Lesson {
            timing: Some(Timing {
                prefill_tokens: 1_000,
                prefill_s: slowness,
                decode_tokens: 200,
                decode_s: 2.0 * slowness,
                cached_tokens: Some(0),
            }),
            streams: 1.0,
            completion_tokens: Some(200),
            rtt_s: Some(0.001),
            ..Lesson::default()
        };
        fleet.observe(&id, &model(), &Outcome::Answered(Some(Box::new(lesson))), NOW);
    }
    fleet.view(NOW)
}

fn decision(criterion: &mut Criterion<CpuTime>) {
    let model = model();
    let prefix: Vec<Block> = (1..=50)
        .map(|at: u32| Block { hash: u64::from(at).wrapping_mul(0x9e37_79b9_7f4a_7c15), tokens: at * 512 })
        .collect();
    for machines in [10, 10_000] {
        let view = fleet(machines);
        let request = Request {
            prompt_tokens: 25_600,
            prefix: &prefix,
            session: Some(1),
            ..Request::new(vec![(&model, None)], Purpose::Chat)
        };
        let mut load = Load::default();
        for dice in 0..u64::from(machines) {
            let decision = decide(&view, &load, &request, NOW, dice).expect("all can serve");
            let mut stake = load.claim(&decision.ranked[0], NOW);
            load.first_content(&mut stake, &prefix, Some(dice), NOW);
        }
        let mut measure = |name: &str, load: &Load| {
            let mut dice = 0;
            criterion.bench_function(&format!("decide/{machines}{name}"), |bencher| {
                bencher.iter(|| {
                    dice += 1;
                    black_box(decide(&view, load, black_box(&request), NOW, dice))
                });
            });
        };
        measure("", &load);
        for serving in &view.servings(&model).expect("all have it").list {
            let machine = view.machines[serving.machine as usize].id.clone();
            load.claim(
                &Candidate {
                    cache: serving.cache(),
                    cache_tokens: serving.cache_tokens,
                    prompt_tokens: 2_000,
                    ..Candidate::new(machine, model.clone())
                },
                NOW,
            );
        }
        measure("/busy", &load);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = decision
}
criterion_main!(benches);
