//! Reports and directives: wire messages ↔ words of the core. Every refusal names its field.
//!
//! A report is a claim of another machine, so every list and text in it is bounded here.

use crate::v1;
use mesh_core::id::{IdError, ModelId};
use mesh_core::machine::{
    Abilities, Capacity, Directive, Engine, EngineKind, EngineState, Gpu, Hardware, Reading, Replica,
    ReplicaState, Report, Temperature, Vitals,
};
use mesh_core::units::{Bytes, Celsius};

/// The most engines, replicas of one engine, GPUs or sensors a report may list.
const LIST_LIMIT: usize = 2_000;
/// The most bytes of a text that is only shown to people.
const TEXT_LIMIT: usize = 1_000;

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
    })
}

/// A directive as a wire message.
#[must_use]
pub fn directive_to_wire(directive: &Directive) -> v1::Directive {
    use v1::directive::Wish;
    let wish = match directive {
        Directive::Load(model) => Wish::Load(model.to_string()),
        Directive::Unload(model) => Wish::Unload(model.to_string()),
    };
    v1::Directive { wish: Some(wish) }
}

/// A wire message as a directive.
///
/// # Errors
/// [`WireError`] when the wish is missing or names no valid model.
pub fn directive_from_wire(directive: v1::Directive) -> Result<Directive, WireError> {
    use v1::directive::Wish;
    match directive.wish.ok_or(WireError::Missing("directive.wish"))? {
        Wish::Load(name) => Ok(Directive::Load(model("directive.load", name)?)),
        Wish::Unload(name) => Ok(Directive::Unload(model("directive.unload", name)?)),
    }
}

/// `Reading` and its wire form differ only in the type of the value.
macro_rules! reading {
    ($to:ident, $from:ident, $rust:ty, $message:ident, $module:ident, $into:expr, $out:expr) => {
        fn $to(reading: &Reading<$rust>) -> Option<v1::$message> {
            use v1::$module::Reading as Wire;
            let wire = match reading {
                Reading::Known(value) => Wire::Known($into(value)),
                Reading::Unknown(reason) => Wire::Unknown(shorten(reason.clone())),
            };
            Some(v1::$message { reading: Some(wire) })
        }

        fn $from(field: &'static str, wire: Option<v1::$message>) -> Result<Reading<$rust>, WireError> {
            use v1::$module::Reading as Wire;
            match wire.and_then(|message| message.reading).ok_or(WireError::Missing(field))? {
                Wire::Known(value) => Ok(Reading::Known($out(field, value)?)),
                Wire::Unknown(reason) => Ok(Reading::Unknown(text(field, reason)?)),
            }
        }
    };
}

reading!(
    text_to_wire,
    text_from_wire,
    String,
    TextReading,
    text_reading,
    |v: &String| shorten(v.clone()),
    text
);
reading!(
    load_to_wire,
    load_from_wire,
    f32,
    NumberReading,
    number_reading,
    |v: &f32| f64::from(*v),
    |_, v| Ok(v as f32)
);
reading!(count_to_wire, count_from_wire, u64, CountReading, count_reading, |v: &u64| *v, |_, v| Ok(v));
reading!(
    capacity_reading_to_wire,
    capacity_reading_from_wire,
    Capacity,
    CapacityReading,
    capacity_reading,
    capacity_to_wire,
    |_, v| Ok(capacity_from_wire(v))
);

fn capacity_to_wire(capacity: &Capacity) -> v1::Capacity {
    v1::Capacity { total: capacity.total.0, available: capacity.available.0 }
}

fn capacity_from_wire(capacity: v1::Capacity) -> Capacity {
    Capacity { total: Bytes(capacity.total), available: Bytes(capacity.available) }
}

fn hardware_to_wire(hardware: &Hardware) -> v1::Hardware {
    v1::Hardware {
        hostname: shorten(hardware.hostname.clone()),
        cpu: text_to_wire(&hardware.cpu),
        cpu_threads: hardware.cpu_threads,
        system: text_to_wire(&hardware.system),
        agent_version: hardware.agent_version.clone(),
    }
}

fn hardware_from_wire(hardware: v1::Hardware) -> Result<Hardware, WireError> {
    Ok(Hardware {
        hostname: text("hardware.hostname", hardware.hostname)?,
        cpu: text_from_wire("hardware.cpu", hardware.cpu)?,
        cpu_threads: hardware.cpu_threads,
        system: text_from_wire("hardware.system", hardware.system)?,
        agent_version: text("hardware.agent_version", hardware.agent_version)?,
    })
}

fn vitals_to_wire(vitals: &Vitals) -> v1::Vitals {
    use v1::vitals::{GpuReading, TemperatureReading};
    let gpus = match &vitals.gpus {
        Reading::Known(gpus) => GpuReading::Gpus(v1::Gpus {
            gpus: gpus
                .iter()
                .map(|gpu| v1::Gpu {
                    name: shorten(gpu.name.clone()),
                    memory: capacity_reading_to_wire(&gpu.memory),
                })
                .collect(),
        }),
        Reading::Unknown(reason) => GpuReading::GpusUnknown(shorten(reason.clone())),
    };
    let temperatures = match &vitals.temperatures {
        Reading::Known(sensors) => TemperatureReading::Temperatures(v1::Temperatures {
            sensors: sensors
                .iter()
                .map(|sensor| v1::Temperature {
                    sensor: shorten(sensor.sensor.clone()),
                    celsius: sensor.value.0,
                    limit_celsius: sensor.limit.map(|limit| limit.0),
                })
                .collect(),
        }),
        Reading::Unknown(reason) => TemperatureReading::TemperaturesUnknown(shorten(reason.clone())),
    };
    v1::Vitals {
        ram: capacity_reading_to_wire(&vitals.ram),
        disk: capacity_reading_to_wire(&vitals.disk),
        gpu_reading: Some(gpus),
        temperature_reading: Some(temperatures),
        load: load_to_wire(&vitals.load),
        uptime_s: count_to_wire(&vitals.uptime_s),
    }
}

fn vitals_from_wire(vitals: v1::Vitals) -> Result<Vitals, WireError> {
    use v1::vitals::{GpuReading, TemperatureReading};
    let gpus = match vitals.gpu_reading.ok_or(WireError::Missing("vitals.gpus"))? {
        GpuReading::Gpus(list) => Reading::Known(
            bounded("vitals.gpus", list.gpus)?
                .into_iter()
                .map(|gpu| {
                    Ok(Gpu {
                        name: text("vitals.gpus.name", gpu.name)?,
                        memory: capacity_reading_from_wire("vitals.gpus.memory", gpu.memory)?,
                    })
                })
                .collect::<Result<_, WireError>>()?,
        ),
        GpuReading::GpusUnknown(reason) => Reading::Unknown(text("vitals.gpus_unknown", reason)?),
    };
    let temperatures = match vitals.temperature_reading.ok_or(WireError::Missing("vitals.temperatures"))? {
        TemperatureReading::Temperatures(list) => Reading::Known(
            bounded("vitals.temperatures", list.sensors)?
                .into_iter()
                .map(|sensor| {
                    Ok(Temperature {
                        sensor: text("vitals.temperatures.sensor", sensor.sensor)?,
                        value: Celsius(sensor.celsius),
                        limit: sensor.limit_celsius.map(Celsius),
                    })
                })
                .collect::<Result<_, WireError>>()?,
        ),
        TemperatureReading::TemperaturesUnknown(reason) => {
            Reading::Unknown(text("vitals.temperatures_unknown", reason)?)
        }
    };
    Ok(Vitals {
        ram: capacity_reading_from_wire("vitals.ram", vitals.ram)?,
        disk: capacity_reading_from_wire("vitals.disk", vitals.disk)?,
        gpus,
        temperatures,
        load: load_from_wire("vitals.load", vitals.load)?,
        uptime_s: count_from_wire("vitals.uptime_s", vitals.uptime_s)?,
    })
}

fn engine_to_wire(engine: &Engine) -> v1::Engine {
    let (state, down_reason) = match &engine.state {
        EngineState::Up => ("up", String::new()),
        EngineState::Starting => ("starting", String::new()),
        EngineState::Down(reason) => ("down", shorten(reason.clone())),
    };
    v1::Engine {
        name: engine.name.clone(),
        kind: engine.kind.word().into(),
        version: engine.version.clone().map(shorten),
        state: state.into(),
        down_reason,
        supervised: engine.supervised,
        replicas: engine.replicas.iter().map(replica_to_wire).collect(),
    }
}

fn engine_from_wire(engine: v1::Engine) -> Result<Engine, WireError> {
    let unknown = |field, word: &str| WireError::UnknownWord { field, word: word.chars().take(32).collect() };
    let state = match engine.state.as_str() {
        "up" => EngineState::Up,
        "starting" => EngineState::Starting,
        "down" => EngineState::Down(text("engine.down_reason", engine.down_reason)?),
        other => return Err(unknown("engine.state", other)),
    };
    Ok(Engine {
        name: text("engine.name", engine.name)?,
        kind: EngineKind::from_word(&engine.kind).ok_or_else(|| unknown("engine.kind", &engine.kind))?,
        version: engine.version.map(|version| text("engine.version", version)).transpose()?,
        state,
        supervised: engine.supervised,
        replicas: bounded("engine.replicas", engine.replicas)?
            .into_iter()
            .map(replica_from_wire)
            .collect::<Result<_, _>>()?,
    })
}

fn replica_to_wire(replica: &Replica) -> v1::Replica {
    let failure =
        if let ReplicaState::Failed(why) = &replica.state { shorten(why.clone()) } else { String::new() };
    v1::Replica {
        model: replica.model.to_string(),
        state: replica.state.word().into(),
        failure,
        slots: replica.slots,
        busy: replica.busy,
        context: replica.context,
        trained_context: replica.trained_context,
        parameters: replica.parameters,
        size: replica.size.map(|size| size.0),
        chat: replica.abilities.chat,
        embed: replica.abilities.embed,
        tools: replica.abilities.tools,
        vision: replica.abilities.vision,
        fim: replica.abilities.fim,
    }
}

fn replica_from_wire(replica: v1::Replica) -> Result<Replica, WireError> {
    let state = match replica.state.as_str() {
        "available" => ReplicaState::Available,
        "loading" => ReplicaState::Loading,
        "loaded" => ReplicaState::Loaded,
        "failed" => ReplicaState::Failed(text("replica.failure", replica.failure)?),
        other => {
            let word = other.chars().take(32).collect();
            return Err(WireError::UnknownWord { field: "replica.state", word });
        }
    };
    Ok(Replica {
        model: model("replica.model", replica.model)?,
        state,
        slots: replica.slots,
        busy: replica.busy,
        context: replica.context,
        trained_context: replica.trained_context,
        parameters: replica.parameters,
        size: replica.size.map(Bytes),
        abilities: Abilities {
            chat: replica.chat,
            embed: replica.embed,
            tools: replica.tools,
            vision: replica.vision,
            fim: replica.fim,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_report() -> Report {
        let capacity = Capacity { total: Bytes(10), available: Bytes(4) };
        Report {
            hardware: Some(Hardware {
                hostname: "strix-1".into(),
                cpu: Reading::Known("Ryzen".into()),
                cpu_threads: 32,
                system: Reading::unknown("no /proc"),
                agent_version: "0.1.0".into(),
            }),
            vitals: Some(Vitals {
                ram: Reading::Known(capacity),
                disk: Reading::unknown("no model folder"),
                gpus: Reading::Known(vec![Gpu { name: "8060S".into(), memory: Reading::Known(capacity) }]),
                temperatures: Reading::Known(vec![Temperature {
                    sensor: "k10temp Tctl".into(),
                    value: Celsius(62.0),
                    limit: Some(Celsius(100.0)),
                }]),
                load: Reading::Known(0.5),
                uptime_s: Reading::Known(60),
            }),
            engines: Some(vec![Engine {
                name: "llama-server-1".into(),
                kind: EngineKind::LlamaServer,
                version: None,
                state: EngineState::Down("connection refused".into()),
                supervised: true,
                replicas: vec![Replica {
                    slots: Some(2),
                    context: Some(1024),
                    abilities: Abilities { chat: Some(true), fim: Some(false), ..Abilities::default() },
                    ..Replica::new(
                        ModelId::new("tiny").expect("valid"),
                        ReplicaState::Failed("bad magic".into()),
                    )
                }],
            }]),
            draining: Some(false),
        }
    }

    #[test]
    fn reports_and_directives_survive_the_wire() {
        assert_eq!(report_from_wire(report_to_wire(&full_report())), Ok(full_report()));
        assert_eq!(report_from_wire(report_to_wire(&Report::default())), Ok(Report::default()));
        let name = ModelId::new("tiny").expect("valid");
        for wish in [Directive::Load(name.clone()), Directive::Unload(name)] {
            assert_eq!(directive_from_wire(directive_to_wire(&wish)), Ok(wish));
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
    }

    #[test]
    fn a_report_of_a_million_replicas_is_refused() {
        let mut wire = report_to_wire(&full_report());
        let engine = &mut wire.engines.as_mut().expect("there").engines[0];
        engine.replicas = vec![engine.replicas[0].clone(); LIST_LIMIT + 1];
        assert!(matches!(report_from_wire(wire), Err(WireError::TooMany { field: "engine.replicas", .. })));
    }
}
