//! Tests of the thermal states.

use super::*;
use proptest::prelude::*;

fn at(seconds: f64) -> Moment {
    Moment(7_000_000_000).plus(Duration::from_secs_f64(seconds))
}

fn temperature(sensor: &str, value: f32, limit: Option<f32>) -> Temperature {
    Temperature { sensor: sensor.into(), value: Celsius(value), limit: limit.map(Celsius) }
}

fn readings(sensors: Vec<Temperature>) -> Readings {
    Readings { sensors, throttle: vec![], cpu_throttled: false, power: Reading::Known(Power::Mains) }
}

/// One CPU sensor with a limit of 100 °C.
fn cpu(value: f32) -> Readings {
    readings(vec![temperature("k10temp Tctl", value, Some(100.0))])
}

fn throttled(cause: ThrottleCause) -> Readings {
    Readings { throttle: vec![cause], ..cpu(50.0) }
}

/// A watch with a clock: each call observes once a second.
struct Bench {
    watch: Watch,
    second: u32,
}

impl Bench {
    fn new() -> Self {
        Self::with(Policy::default())
    }

    fn with(policy: Policy) -> Self {
        Self { watch: Watch::new(policy, at(0.0)), second: 0 }
    }

    /// Observes `readings` for so many seconds; the state at the end.
    fn run(&mut self, seconds: u32, readings: &Readings) -> ThermalState {
        for _ in 0..seconds {
            self.watch.observe(readings, at(self.second.into()));
            self.second += 1;
        }
        self.watch.thermal().state
    }

    fn why(&self) -> &str {
        &self.watch.thermal().why
    }
}

#[test]
fn a_cool_machine_is_ok_and_says_by_how_much() {
    let mut bench = Bench::new();
    assert_eq!(bench.watch.thermal().state, ThermalState::Unknown);
    assert_eq!(bench.run(1, &cpu(62.0)), ThermalState::Ok);
    assert_eq!(bench.why(), "k10temp Tctl 62 °C of 100 °C");
}

#[test]
fn half_a_minute_over_the_goal_is_warm_and_less_is_not() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(30, &cpu(72.0)), ThermalState::Ok);
    assert_eq!(bench.run(1, &cpu(72.0)), ThermalState::Warm);
    assert_eq!(bench.why(), "k10temp Tctl 72 °C of 100 °C; over the goal of 70 °C");
}
