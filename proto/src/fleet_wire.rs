//! Reports and directives: wire messages ↔ words of the core. Every refusal names its field.
//!
//! A report is a claim of another machine, so every list and text in it is bounded here.

mod engine;
mod gpu;
mod reading;
mod store;
mod vitals;
mod wish;

pub use store::transfer_to_wire;
pub use wish::{directive_from_wire, directive_to_wire};

use crate::v1;
use engine::{engine_from_wire, engine_to_wire};
use mesh_core::id::{IdError, ModelId};
use mesh_core::machine::{DigestError, EngineKind, Hardware, Launch, Report};
use reading::{text_from_wire, text_to_wire};
use std::sync::Arc;
use store::{store_from_wire, store_to_wire};
use vitals::{vitals_from_wire, vitals_to_wire};

/// The most engines, replicas of one engine, GPUs or sensors a report may list.
const LIST_LIMIT: usize = 2_000;
/// The most bytes of a text that is only shown to people.
const TEXT_LIMIT: usize = 1_000;
/// The most bytes of a machine profile: some 500 models with all their measurements.
pub const PROFILE_LIMIT: usize = 1 << 20;

/// Why a message is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field holds a word that this version does not know.
    #[error("{field} holds unknown word `{word}`")]
    UnknownWord {
        /// Which field.
        field: &'static str,
        /// The word, shortened.
        word: String,
    },
    /// A name is against its grammar.
    #[error("{field}: {source}")]
    BadName {
        /// Which field.
        field: &'static str,
        /// Why.
        source: IdError,
    },
    /// A field that must hold a SHA-256 does not.
    #[error("{field}: {source}")]
    BadDigest {
        /// Which field.
        field: &'static str,
        /// Why.
        source: DigestError,
    },
    /// A list or text is longer than the limit.
    #[error("{field} has {length} entries or bytes, more than {limit}")]
    TooMany {
        /// Which field.
        field: &'static str,
        /// How many there are.
        length: usize,
        /// How many there may be.
        limit: usize,
    },
}

fn bounded<T>(field: &'static str, list: Vec<T>) -> Result<Vec<T>, WireError> {
    if list.len() > LIST_LIMIT {
        return Err(WireError::TooMany { field, length: list.len(), limit: LIST_LIMIT });
    }
    Ok(list)
}

fn text(field: &'static str, value: String) -> Result<String, WireError> {
    if value.len() > TEXT_LIMIT {
        return Err(WireError::TooMany { field, length: value.len(), limit: TEXT_LIMIT });
    }
    Ok(value)
}

fn model(field: &'static str, name: String) -> Result<ModelId, WireError> {
    ModelId::new(name).map_err(|source| WireError::BadName { field, source })
}

fn shorten(mut reason: String) -> String {
    let mut end = reason.len().min(TEXT_LIMIT);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}

/// A report as a wire message.
#[must_use]
pub fn report_to_wire(report: &Report) -> v1::Report {
    v1::Report {
        hardware: report.hardware.as_ref().map(hardware_to_wire),
        vitals: report.vitals.as_ref().map(vitals_to_wire),
        engines: report
            .engines
            .as_ref()
            .map(|engines| v1::Engines { engines: engines.iter().map(engine_to_wire).collect() }),
        draining: report.draining,
        store: report.store.as_ref().map(store_to_wire),
        profile_json: report.profile.as_deref().map(ToOwned::to_owned),
    }
}

/// A wire message as a report.
///
/// # Errors
/// [`WireError`] names the first field that is missing, unknown or too long.
pub fn report_from_wire(report: v1::Report) -> Result<Report, WireError> {
    Ok(Report {
        hardware: report.hardware.map(hardware_from_wire).transpose()?,
        vitals: report.vitals.map(vitals_from_wire).transpose()?,
        engines: report
            .engines
            .map(|list| {
                // A newer agent may know kinds of engine that this router does not: the others still serve.
                let known = |engine: &v1::Engine| EngineKind::from_word(&engine.kind).is_some();
                bounded("engines", list.engines)?.into_iter().filter(known).map(engine_from_wire).collect()
            })
            .transpose()?,
        draining: report.draining,
        store: report.store.map(store_from_wire).transpose()?,
        profile: report.profile_json.map(profile).transpose()?,
    })
}

fn profile(json: String) -> Result<Arc<str>, WireError> {
    if json.len() > PROFILE_LIMIT {
        return Err(WireError::TooMany { field: "profile_json", length: json.len(), limit: PROFILE_LIMIT });
    }
    Ok(json.into())
}

fn unknown_word(field: &'static str, word: &str) -> WireError {
    WireError::UnknownWord { field, word: word.chars().take(32).collect() }
}

fn hardware_to_wire(hardware: &Hardware) -> v1::Hardware {
    v1::Hardware {
        hostname: shorten(hardware.hostname.clone()),
        cpu: text_to_wire(&hardware.cpu),
        cpu_threads: hardware.cpu_threads,
        system: text_to_wire(&hardware.system),
        agent_version: hardware.agent_version.clone(),
        launch: hardware.launch.as_ref().map(|launch| v1::Launch {
            program: shorten(launch.program.clone()),
            uses_gpu: launch.uses_gpu,
            context: launch.context,
            slots: launch.slots,
        }),
    }
}

fn hardware_from_wire(hardware: v1::Hardware) -> Result<Hardware, WireError> {
    Ok(Hardware {
        hostname: text("hardware.hostname", hardware.hostname)?,
        cpu: text_from_wire("hardware.cpu", hardware.cpu)?,
        cpu_threads: hardware.cpu_threads,
        system: text_from_wire("hardware.system", hardware.system)?,
        agent_version: text("hardware.agent_version", hardware.agent_version)?,
        launch: hardware.launch.map(launch_from_wire).transpose()?,
    })
}

fn launch_from_wire(launch: v1::Launch) -> Result<Launch, WireError> {
    Ok(Launch {
        program: text("hardware.launch.program", launch.program)?,
        uses_gpu: launch.uses_gpu,
        context: launch.context,
        slots: launch.slots,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::fit::Offload;
    use mesh_core::machine::{
        Abilities, Capabilities, Capacity, Digest, Directive, Engine, EngineState, Gpu, GpuFault, GpuProcess,
        GpuSensors, GpuState, GpuVendor, HostMemory, LoadWish, Pool, Power, PullSource, PullWish, Reading,
        Replica, ReplicaHealth, ReplicaMemory, ReplicaState, Store, StoreRefusal, StoredModel, Swap,
        Temperature, Thermal, ThermalState, ThrottleCause, Transfer, TransferKind, TransferState,
        UnifiedLimit, Vitals,
    };
    use mesh_core::memory::CacheType;
    use mesh_core::units::{Bytes, Celsius};

    fn sensor(name: &str) -> Temperature {
        Temperature { sensor: name.into(), value: Celsius(62.0), limit: Some(Celsius(100.0)) }
    }

    fn unified_gpu(capacity: Capacity) -> Gpu {
        Gpu {
            memory: Reading::Known(capacity),
            pool: Pool::Unified { carve_out: capacity, gtt: capacity, limited_by: UnifiedLimit::Ram },
            sensors: GpuSensors {
                busy: Reading::Known(97),
                power: Reading::Known(119.5),
                temperatures: Reading::Known(vec![sensor("edge")]),
                throttle: Reading::Known(vec![ThrottleCause::HardwareThermal]),
                ..GpuSensors::unknown("no such file")
            },
            processes: Reading::Known(vec![GpuProcess {
                pid: 7,
                name: "llama-server".into(),
                memory: Reading::Known(Bytes(5)),
            }]),
            ..Gpu::unknown("0000:c5:00.0", "8060S", GpuVendor::Amd, "test")
        }
    }

    fn broken_gpu() -> Gpu {
        Gpu {
            state: GpuState::Broken(GpuFault::NeedsReboot, "driver 1, library 2".into()),
            pool: Pool::Discrete { reserved: Some(Bytes(1)) },
            ..Gpu::unknown("0000:01:00.0", "RTX 4070", GpuVendor::Nvidia, "broken")
        }
    }

    fn engine() -> Engine {
        let tiny = ModelId::new("tiny").expect("valid");
        Engine {
            state: EngineState::Down("connection refused".into()),
            capabilities: Capabilities { can_load: true, abort_safe: true, ..Capabilities::default() },
            queued: Some(3),
            replicas: vec![Replica {
                slots: Some(2),
                context: Some(1024),
                abilities: Abilities { chat: Some(true), fim: Some(false), ..Abilities::default() },
                digest: Some(digest()),
                cache_type: Some(CacheType::Q8_0),
                offload: Some(Offload::Layers(20)),
                memory: Some(ReplicaMemory { device: Bytes(1), host: Bytes(2), measured: true }),
                health: ReplicaHealth::Quarantined("empty answers".into()),
                ..Replica::new(tiny, ReplicaState::Failed("bad magic".into()))
            }],
            ..Engine::new("llama-server-1", EngineKind::LlamaServer, true)
        }
    }

    fn digest() -> Digest {
        Digest::new(&"ab".repeat(32)).expect("valid")
    }

    fn store() -> Store {
        let model = ModelId::new("tiny").expect("valid");
        let transfer = Transfer {
            model: model.clone(),
            kind: TransferKind::Copy,
            source: "strix-2".into(),
            state: TransferState::Failed("the disk is full".into()),
            done: Bytes(5),
            total: Some(Bytes(10)),
            rate: None,
        };
        let refusal = StoreRefusal { model: model.clone(), reason: "an engine needs it".into(), at_ms: 7 };
        let stored = StoredModel {
            served_as: Some(model.clone()),
            model,
            digest: Some(digest()),
            size: Bytes(10),
            architecture: Some("llama".into()),
            quantisation: Some("Q8_0".into()),
            parameters: Some(3),
            active_parameters: Some(1),
            trained_context: None,
            projector: Some(Bytes(7)),
            broken: None,
        };
        Store { models: vec![stored], transfers: vec![transfer], refusals: vec![refusal] }
    }

    fn full_report() -> Report {
        let capacity = Capacity { total: Bytes(10), available: Bytes(4) };
        Report {
            hardware: Some(Hardware {
                hostname: "strix-1".into(),
                cpu: Reading::Known("Ryzen".into()),
                cpu_threads: 32,
                system: Reading::unknown("no /proc"),
                agent_version: "0.1.0".into(),
                launch: Some(Launch {
                    program: "llama-server".into(),
                    uses_gpu: true,
                    context: 16_384,
                    slots: 2,
                }),
            }),
            vitals: Some(Vitals {
                as_of: 1_790_000_000,
                ram: Reading::Known(capacity),
                memory: HostMemory {
                    mem_available: Reading::Known(Bytes(4)),
                    swap: Reading::Known(Swap { total: Bytes(8), used: Bytes(1) }),
                    pressure: Reading::Known(0.5),
                    ..HostMemory::unknown("no such file")
                },
                gpus: Reading::Known(vec![unified_gpu(capacity), broken_gpu()]),
                temperatures: Reading::Known(vec![sensor("k10temp Tctl")]),
                cpu_throttled: Reading::Known(false),
                thermal: Thermal { state: ThermalState::Warm, why: "k10temp Tctl 72 of 100".into() },
                power: Reading::Known(Power::Battery(Some(80))),
                load: Reading::Known(0.5),
                uptime_s: Reading::Known(60),
                ..Vitals::unknown("no model folder")
            }),
            engines: Some(vec![engine()]),
            store: Some(store()),
            profile: Some("{}".into()),
            draining: Some(false),
        }
    }

    #[test]
    fn reports_and_directives_survive_the_wire() {
        assert_eq!(report_from_wire(report_to_wire(&full_report())), Ok(full_report()));
        assert_eq!(report_from_wire(report_to_wire(&Report::default())), Ok(Report::default()));
        let name = ModelId::new("tiny").expect("valid");
        let load = LoadWish {
            context: Some(8192),
            slots: Some(2),
            cache_type: Some("q8_0".into()),
            offload: Some(Offload::ExpertsOfFirst(12)),
            ..LoadWish::from(name.clone())
        };
        let pull =
            |source| PullWish { model: name.clone(), source, digest: Some(digest()), size: Some(Bytes(10)) };
        for wish in [
            Directive::Load(name.clone().into()),
            Directive::Load(load),
            Directive::Unload(name.clone()),
            Directive::Pull(pull(PullSource::Engine)),
            Directive::Pull(pull(PullSource::Url("http://127.0.0.1/tiny.gguf".into()))),
            Directive::Pull(PullWish { digest: None, size: None, ..pull(PullSource::Mesh) }),
            Directive::CancelPull(name.clone()),
            Directive::Delete(name.clone()),
        ] {
            let wire = directive_to_wire(&wish, 7);
            assert_eq!((wire.term, directive_from_wire(wire)), (7, Ok(wish)));
        }
    }

    #[test]
    fn a_refusal_names_the_field() {
        let mut wire = report_to_wire(&full_report());
        wire.engines.as_mut().expect("there").engines[0].state = "dreaming".into();
        assert_eq!(
            report_from_wire(wire).map_err(|e| e.to_string()),
            Err("engine.state holds unknown word `dreaming`".into())
        );
        let mut wire = report_to_wire(&full_report());
        wire.engines.as_mut().expect("there").engines[0].kind = "of-tomorrow".into();
        assert_eq!(report_from_wire(wire).map(|report| report.engines), Ok(Some(vec![])));
        let mut wire = report_to_wire(&full_report());
        wire.engines.as_mut().expect("there").engines[0].replicas[0].model = "../x".into();
        assert!(report_from_wire(wire).expect_err("a path").to_string().starts_with("replica.model: "));
        let mut wire = report_to_wire(&full_report());
        wire.vitals.as_mut().expect("there").ram = None;
        assert_eq!(report_from_wire(wire), Err(WireError::Missing("vitals.ram")));
        let mut wire = report_to_wire(&full_report());
        wire.profile_json = Some("x".repeat(PROFILE_LIMIT + 1));
        assert!(matches!(report_from_wire(wire), Err(WireError::TooMany { field: "profile_json", .. })));
        let mut wire = report_to_wire(&full_report());
        wire.store.as_mut().expect("there").models[0].digest = "../x".into();
        assert!(
            report_from_wire(wire).expect_err("no digest").to_string().starts_with("store.models.digest")
        );
    }

    #[test]
    fn a_report_of_a_million_replicas_is_refused() {
        let mut wire = report_to_wire(&full_report());
        let engine = &mut wire.engines.as_mut().expect("there").engines[0];
        engine.replicas = vec![engine.replicas[0].clone(); LIST_LIMIT + 1];
        assert!(matches!(report_from_wire(wire), Err(WireError::TooMany { field: "engine.replicas", .. })));
    }
}
