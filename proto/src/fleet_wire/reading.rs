//! Readings: a value, or the reason why there is none.

use super::{WireError, bounded, shorten, text};
use crate::v1;
use mesh_core::machine::{Capacity, Power, Reading, Swap, Temperature, ThrottleCause};
use mesh_core::units::{Bytes, Celsius};

/// `Reading` and its wire form differ only in the type of the value.
macro_rules! reading {
    ($to:ident, $from:ident, $rust:ty, $message:ident, $module:ident, $into:expr, $out:expr) => {
        pub(super) fn $to(reading: &Reading<$rust>) -> Option<v1::$message> {
            use v1::$module::Reading as Wire;
            let wire = match reading {
                Reading::Known(value) => Wire::Known($into(value)),
                Reading::Unknown(reason) => Wire::Unknown(shorten(reason.clone())),
            };
            Some(v1::$message { reading: Some(wire) })
        }

        pub(super) fn $from(
            field: &'static str,
            wire: Option<v1::$message>,
        ) -> Result<Reading<$rust>, WireError> {
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
    number_to_wire,
    number_from_wire,
    f32,
    NumberReading,
    number_reading,
    |v: &f32| f64::from(*v),
    |_, v| Ok(v as f32)
);
reading!(count_to_wire, count_from_wire, u64, CountReading, count_reading, |v: &u64| *v, |_, v| Ok(v));
reading!(
    small_to_wire,
    small_from_wire,
    u32,
    CountReading,
    count_reading,
    |v: &u32| u64::from(*v),
    |_, v: u64| Ok(u32::try_from(v).unwrap_or(u32::MAX))
);
reading!(bytes_to_wire, bytes_from_wire, Bytes, CountReading, count_reading, |v: &Bytes| v.0, |_, v| Ok(
    Bytes(v)
));
reading!(flag_to_wire, flag_from_wire, bool, FlagReading, flag_reading, |v: &bool| *v, |_, v| Ok(v));
reading!(
    capacity_reading_to_wire,
    capacity_reading_from_wire,
    Capacity,
    CapacityReading,
    capacity_reading,
    capacity_to_wire,
    |_, v| Ok(capacity_from_wire(v))
);
reading!(
    temperatures_to_wire,
    temperatures_from_wire,
    Vec<Temperature>,
    TemperaturesReading,
    temperatures_reading,
    |sensors: &Vec<Temperature>| temperature_list_to_wire(sensors),
    temperature_list_from_wire
);
reading!(
    throttle_to_wire,
    throttle_from_wire,
    Vec<ThrottleCause>,
    WordsReading,
    words_reading,
    |causes: &Vec<ThrottleCause>| v1::Words { words: causes.iter().map(|c| c.word().into()).collect() },
    |field, words: v1::Words| {
        // A newer agent may know causes that this router does not: the others still hold.
        let known = bounded(field, words.words)?;
        Ok(known.iter().filter_map(|word| ThrottleCause::from_word(word)).collect())
    }
);
reading!(
    swap_to_wire,
    swap_from_wire,
    Swap,
    SwapReading,
    swap_reading,
    |swap: &Swap| v1::Swap { total: swap.total.0, used: swap.used.0 },
    |_, swap: v1::Swap| Ok(Swap { total: Bytes(swap.total), used: Bytes(swap.used) })
);
reading!(
    power_to_wire,
    power_from_wire,
    Power,
    PowerReading,
    power_reading,
    source_to_wire,
    source_from_wire
);

pub(super) fn capacity_to_wire(capacity: &Capacity) -> v1::Capacity {
    v1::Capacity { total: capacity.total.0, available: capacity.available.0 }
}

pub(super) fn capacity_from_wire(capacity: v1::Capacity) -> Capacity {
    Capacity { total: Bytes(capacity.total), available: Bytes(capacity.available) }
}

pub(super) fn temperature_list_to_wire(sensors: &[Temperature]) -> v1::Temperatures {
    let sensor = |sensor: &Temperature| v1::Temperature {
        sensor: shorten(sensor.sensor.clone()),
        celsius: sensor.value.0,
        limit_celsius: sensor.limit.map(|limit| limit.0),
    };
    v1::Temperatures { sensors: sensors.iter().map(sensor).collect() }
}

pub(super) fn temperature_list_from_wire(
    field: &'static str,
    list: v1::Temperatures,
) -> Result<Vec<Temperature>, WireError> {
    bounded(field, list.sensors)?
        .into_iter()
        .map(|sensor| {
            Ok(Temperature {
                sensor: text(field, sensor.sensor)?,
                value: Celsius(sensor.celsius),
                limit: sensor.limit_celsius.map(Celsius),
            })
        })
        .collect()
}

fn source_to_wire(power: &Power) -> v1::Power {
    match power {
        Power::Mains => v1::Power { source: "mains".into(), battery_percent: None },
        Power::Battery(percent) => v1::Power { source: "battery".into(), battery_percent: *percent },
    }
}

fn source_from_wire(field: &'static str, power: v1::Power) -> Result<Power, WireError> {
    match power.source.as_str() {
        "mains" => Ok(Power::Mains),
        "battery" => Ok(Power::Battery(power.battery_percent)),
        other => Err(super::unknown_word(field, other)),
    }
}
