//! The sections of the profile that are seen anew: hardware, software, engines, models.

use super::ProfileHandle;
use mesh_core::machine::{Engine, Hardware, Reading, Store, Vitals};
use mesh_core::profile::{EngineFacts, GpuFacts, HardwareFacts, ModelFacts, SoftwareFacts};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long changes are gathered: engines that start change each second.
const SETTLES: Duration = Duration::from_secs(2);

/// What the machine is seen to be.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What does not change.
    pub hardware: Arc<Hardware>,
    /// The vitals, for the graphics processors.
    pub vitals: watch::Receiver<Arc<Vitals>>,
    /// The engines.
    pub engines: watch::Receiver<Arc<Vec<Engine>>>,
    /// The models on disk.
    pub store: watch::Receiver<Arc<Store>>,
}

/// Keeps these sections of the profile what they are, until `stop`.
pub async fn describe(profile: ProfileHandle, mut seen: Seen, stop: CancellationToken) {
    loop {
        let engines = seen.engines.borrow_and_update().clone();
        let store = seen.store.borrow_and_update().clone();
        let vitals = seen.vitals.borrow().clone();
        let (hardware, software) = (hardware(&seen.hardware, &vitals), software(&seen.hardware, &vitals));
        profile.change(|profile, _| {
            profile.describe(hardware, software, engine_facts(&engines), model_facts(&engines, &store));
        });
        // Graphics processors change only with drivers and plugs: they are taken in with the next other change.
        tokio::select! {
            () = stop.cancelled() => return,
            () = next(&mut seen.engines) => {}
            () = next(&mut seen.store) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SETTLES) => {}
        }
    }
}

async fn next<T>(section: &mut watch::Receiver<T>) {
    if section.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn hardware(hardware: &Hardware, vitals: &Vitals) -> HardwareFacts {
    let gpus = vitals.gpus.known().into_iter().flatten();
    let gpus = gpus.map(|gpu| GpuFacts {
        id: gpu.id.clone(),
        name: gpu.name.clone(),
        vendor: gpu.vendor,
        memory: gpu.memory.known().map(|memory| memory.total),
        shares_ram: gpu.pool.shares_ram(),
    });
    HardwareFacts {
        hostname: hardware.hostname.clone(),
        cpu: hardware.cpu.known().cloned(),
        cpu_threads: hardware.cpu_threads,
        ram: vitals.ram.known().map(|ram| ram.total),
        gpus: gpus.collect(),
    }
}

fn software(hardware: &Hardware, vitals: &Vitals) -> SoftwareFacts {
    let gpus = vitals.gpus.known().into_iter().flatten();
    let mut drivers: Vec<String> = gpus.filter_map(|gpu| gpu.driver.known().cloned()).collect();
    drivers.sort();
    drivers.dedup();
    SoftwareFacts {
        system: match &hardware.system {
            Reading::Known(system) => Some(system.clone()),
            Reading::Unknown(_) => None,
        },
        agent: hardware.agent_version.clone(),
        drivers,
    }
}

fn engine_facts(engines: &[Engine]) -> Vec<EngineFacts> {
    let facts = engines.iter().map(|engine| EngineFacts {
        name: engine.name.clone(),
        kind: engine.kind.word().to_owned(),
        version: engine.version.clone(),
        supervised: engine.supervised,
    });
    facts.collect()
}

/// Each name once: what the store knows of it, else what an engine says.
fn model_facts(engines: &[Engine], store: &Store) -> Vec<ModelFacts> {
    let mut facts = BTreeMap::new();
    for replica in engines.iter().flat_map(|engine| &engine.replicas) {
        let fact = ModelFacts {
            model: replica.model.clone(),
            digest: replica.digest.clone(),
            architecture: None,
            size: replica.size,
        };
        facts.insert(replica.model.clone(), fact);
    }
    for stored in &store.models {
        let fact = ModelFacts {
            model: stored.model.clone(),
            digest: stored.digest.clone(),
            architecture: stored.architecture.clone(),
            size: Some(stored.size),
        };
        facts.insert(stored.model.clone(), fact);
    }
    facts.into_values().collect()
}
