//! The machine while it is tried: what its sensors read, once a second.

use super::Told;
use mesh_core::machine::{Gpu, Vitals};
use mesh_core::trial::{Event, Sample};
use mesh_core::units::Bytes;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// Tells each reading until there are no more.
pub(super) async fn watch_machine(mut vitals: watch::Receiver<Arc<Vitals>>, began: Instant, told: &Told) {
    loop {
        let seen = sample(&vitals.borrow_and_update(), began.elapsed().as_secs_f64());
        told.event(Event::Sample(seen)).await;
        if vitals.changed().await.is_err() {
            return;
        }
    }
}

fn sample(vitals: &Vitals, at_s: f64) -> Sample {
    let gpus = vitals.gpus.known().map(Vec::as_slice).unwrap_or_default();
    let hottest = |values: &mut dyn Iterator<Item = f32>| values.reduce(f32::max);
    let gpu_sensors = || gpus.iter().filter_map(|gpu| gpu.sensors.temperatures.known()).flatten();
    let host_sensors = vitals.temperatures.known().into_iter().flatten();
    let gpu_temperature = hottest(&mut gpu_sensors().map(|sensor| sensor.value.0));
    let temperature = hottest(&mut host_sensors.map(|sensor| sensor.value.0).chain(gpu_temperature));
    let watts: Vec<f32> = gpus.iter().filter_map(|gpu| gpu.sensors.power.known().copied()).collect();
    let slowed: Vec<bool> = gpus
        .iter()
        .filter_map(|gpu| {
            gpu.sensors.throttle.known().map(|causes| causes.iter().any(|cause| cause.is_throttling()))
        })
        .chain(vitals.cpu_throttled.known().copied())
        .collect();
    Sample {
        at_s,
        temperature,
        gpu_temperature,
        watts: (!watts.is_empty()).then(|| watts.iter().sum()),
        vram_used: vram(gpus),
        ram_used: vitals.ram.known().map(|ram| Bytes(ram.total.0.saturating_sub(ram.available.0))),
        throttled: (!slowed.is_empty()).then(|| slowed.contains(&true)),
        thermal: vitals.thermal.state,
        load: vitals.load.known().copied(),
    }
}

/// Graphics memory in use, of all processors that tell.
fn vram(gpus: &[Gpu]) -> Option<Bytes> {
    let used = gpus.iter().filter_map(|gpu| gpu.memory.known());
    used.map(|memory| memory.total.0.saturating_sub(memory.available.0))
        .reduce(u64::saturating_add)
        .map(Bytes)
}
