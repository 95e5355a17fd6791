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

#[test]
fn a_short_peak_over_the_goal_changes_nothing() {
    let mut bench = Bench::new();
    bench.run(20, &cpu(60.0));
    assert_eq!(bench.run(20, &cpu(78.0)), ThermalState::Ok);
    bench.run(20, &cpu(60.0));
    assert_eq!(bench.run(20, &cpu(78.0)), ThermalState::Ok, "two short peaks are no long one");
}

#[test]
fn little_headroom_derates_and_less_is_hot() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(1, &cpu(88.6)), ThermalState::Derated);
    assert_eq!(bench.why(), "k10temp Tctl 89 °C of 100 °C; less than 12 °C below its limit");
    assert_eq!(Bench::new().run(1, &cpu(87.5)), ThermalState::Ok);
    let mut bench = Bench::new();
    assert_eq!(bench.run(1, &cpu(95.6)), ThermalState::Hot);
    assert_eq!(bench.why(), "k10temp Tctl 96 °C of 100 °C; less than 5 °C below its limit");
}

#[test]
fn a_peak_of_one_second_is_smoothed_away() {
    let mut bench = Bench::new();
    bench.run(30, &cpu(60.0));
    assert_eq!(bench.run(1, &cpu(99.0)), ThermalState::Ok);
    assert_eq!(bench.run(30, &cpu(60.0)), ThermalState::Ok);
    assert_eq!(bench.run(60, &cpu(99.0)), ThermalState::Hot, "but not a minute of it");
}

#[test]
fn the_goal_is_never_a_limit() {
    let no_limit = |value| readings(vec![temperature("acpitz", value, None)]);
    let mut bench = Bench::new();
    assert_eq!(bench.run(300, &no_limit(110.0)), ThermalState::Warm);
    assert_eq!(bench.why(), "acpitz 110 °C, no limit reported; over the goal of 70 °C");
    let slowed = Readings { throttle: vec![ThrottleCause::SoftwareThermal], ..no_limit(60.0) };
    assert_eq!(bench.run(10, &slowed), ThermalState::Derated, "what the hardware says still counts");
}

#[test]
fn each_sensor_is_held_against_its_own_limit() {
    let both = readings(vec![
        temperature("k10temp Tctl", 69.0, Some(100.0)),
        temperature("nvidia GPU", 66.0, Some(75.0)),
    ]);
    let mut bench = Bench::new();
    assert_eq!(bench.run(1, &both), ThermalState::Derated);
    assert_eq!(bench.why(), "nvidia GPU 66 °C of 75 °C; less than 12 °C below its limit");
}

#[test]
fn a_state_is_left_only_after_a_minute_well_below_what_led_there() {
    let mut bench = Bench::new();
    bench.run(1, &cpu(96.0));
    assert_eq!(bench.run(300, &cpu(91.0)), ThermalState::Hot, "9 °C of headroom are not 10");
    assert_eq!(bench.why(), "k10temp Tctl 91 °C of 100 °C; cooling, until below 90 °C for 60 s");
    // Smoothing takes some seconds to come below 90 °C.
    let started = bench.second;
    while bench.run(1, &cpu(85.0)) == ThermalState::Hot {}
    assert!((60..75).contains(&(bench.second - started)), "{} s", bench.second - started);
    assert_eq!(bench.watch.thermal().state, ThermalState::Derated, "15 °C of headroom are not 17");
    while bench.run(1, &cpu(68.0)) == ThermalState::Derated {}
    assert_eq!(bench.watch.thermal().state, ThermalState::Warm, "68 °C are not 65");
    bench.run(100, &cpu(60.0));
    assert_eq!(bench.watch.thermal().state, ThermalState::Ok);
}

#[test]
fn a_relapse_starts_the_minute_anew() {
    let mut bench = Bench::new();
    bench.run(1, &cpu(96.0));
    bench.run(50, &cpu(60.0));
    bench.run(1, &cpu(124.0));
    assert_eq!(bench.watch.thermal().state, ThermalState::Hot);
    bench.run(20, &cpu(124.0));
    bench.run(20, &cpu(60.0));
    assert_eq!(bench.run(40, &cpu(60.0)), ThermalState::Hot);
    assert_ne!(bench.run(60, &cpu(60.0)), ThermalState::Hot);
}

#[test]
fn a_machine_that_slows_itself_down_is_derated_after_five_seconds() {
    let mut bench = Bench::new();
    let slowed = throttled(ThrottleCause::SoftwareThermal);
    assert_eq!(bench.run(5, &slowed), ThermalState::Ok);
    assert_eq!(bench.run(1, &slowed), ThermalState::Derated);
    assert_eq!(bench.why(), "slowed down: software-thermal");
    assert_eq!(bench.run(60, &cpu(40.0)), ThermalState::Derated, "a minute after the bit is gone");
    assert_eq!(bench.why(), "was slowed down less than 60 s ago");
    assert_eq!(bench.run(1, &cpu(40.0)), ThermalState::Ok);
    let mut bench = Bench::new();
    assert_eq!(bench.run(6, &Readings { cpu_throttled: true, ..cpu(50.0) }), ThermalState::Derated);
    assert_eq!(bench.why(), "slowed down: processor");
}

#[test]
fn hardware_that_protects_itself_makes_hot_at_once_whatever_the_thermometer_says() {
    for cause in [ThrottleCause::HardwareSlowdown, ThrottleCause::HardwareThermal, ThrottleCause::PowerBrake]
    {
        let mut bench = Bench::new();
        bench.run(10, &cpu(40.0));
        assert_eq!(bench.run(1, &throttled(cause)), ThermalState::Hot);
        assert_eq!(bench.why(), format!("slowed down: {}", cause.word()));
        assert_eq!(bench.run(60, &cpu(40.0)), ThermalState::Hot);
        assert_eq!(bench.run(1, &cpu(40.0)), ThermalState::Ok);
    }
}

#[test]
fn a_reached_power_cap_and_idling_are_normal() {
    let normal = Readings { throttle: vec![ThrottleCause::PowerCap, ThrottleCause::Idle], ..cpu(50.0) };
    assert_eq!(Bench::new().run(300, &normal), ThermalState::Ok);
}

#[test]
fn a_machine_on_battery_is_derated_unless_allowed() {
    let battery = Readings { power: Reading::Known(Power::Battery(Some(80))), ..cpu(40.0) };
    let mut bench = Bench::new();
    assert_eq!(bench.run(1, &battery), ThermalState::Derated);
    assert_eq!(bench.why(), "on battery, 80 % left");
    assert_eq!(bench.run(60, &cpu(40.0)), ThermalState::Derated);
    assert_eq!(bench.run(1, &cpu(40.0)), ThermalState::Ok);
    let mut allowed = Bench::with(Policy { battery_allowed: true, ..Policy::default() });
    assert_eq!(allowed.run(300, &battery), ThermalState::Ok);
    let unknown = Readings { power: Reading::unknown("no power_supply"), ..cpu(40.0) };
    assert_eq!(Bench::new().run(1, &unknown), ThermalState::Ok);
}

#[test]
fn without_a_sensor_nothing_is_known_but_throttling_and_battery_still_count() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(300, &readings(vec![])), ThermalState::Unknown);
    assert_eq!(bench.why(), "no temperature sensor can be read");
    let braked = Readings { throttle: vec![ThrottleCause::PowerBrake], ..readings(vec![]) };
    assert_eq!(bench.run(1, &braked), ThermalState::Hot);
}

#[test]
fn a_sensor_that_disappears_neither_cools_nor_stays_hot_for_ever() {
    let mut bench = Bench::new();
    bench.run(10, &cpu(97.0));
    assert_eq!(bench.run(1, &readings(vec![])), ThermalState::Hot);
    assert_eq!(
        bench.why(),
        "k10temp Tctl 97 °C of 100 °C; less than 5 °C below its limit, cannot be read now"
    );
    assert_eq!(bench.run(58, &readings(vec![])), ThermalState::Hot);
    assert_eq!(bench.run(1, &readings(vec![])), ThermalState::Unknown);
    assert_eq!(bench.why(), "k10temp Tctl can no longer be read, and no other sensor is there");
    assert_eq!(bench.run(1, &cpu(50.0)), ThermalState::Ok, "back after a minute, it starts anew");
}

#[test]
fn values_that_no_chip_can_have_are_not_read() {
    for absurd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, 127.0, 128.0, 255.0, -128.0, -273.15] {
        assert_eq!(Bench::new().run(100, &cpu(absurd)), ThermalState::Unknown, "{absurd}");
        let mut bench = Bench::new();
        bench.run(10, &cpu(50.0));
        assert_eq!(bench.run(10, &cpu(absurd)), ThermalState::Ok, "{absurd} is not taken for heat");
    }
    for limit in [f32::NAN, 0.0, -273.15, 65_261.85] {
        let odd = readings(vec![temperature("nvme Composite", 60.0, Some(limit))]);
        let mut bench = Bench::new();
        assert_eq!(bench.run(1, &odd), ThermalState::Ok, "{limit}");
        assert_eq!(bench.why(), "nvme Composite 60 °C, no limit reported");
    }
}

#[test]
fn a_sleep_of_minutes_starts_smoothing_and_waiting_anew() {
    let mut bench = Bench::new();
    bench.run(25, &cpu(75.0));
    bench.second += 600;
    assert_eq!(bench.run(20, &cpu(75.0)), ThermalState::Ok, "25 s before and 20 s after are not 30 s");
    let mut bench = Bench::new();
    bench.run(25, &cpu(40.0));
    bench.second += 600;
    assert_eq!(bench.run(1, &cpu(97.0)), ThermalState::Hot, "the first value counts whole");
    bench.run(30, &cpu(40.0));
    bench.second += 600;
    assert_eq!(bench.run(59, &cpu(40.0)), ThermalState::Hot, "nobody saw it cool while it slept");
    assert_ne!(bench.run(2, &cpu(40.0)), ThermalState::Hot);
}

#[test]
fn a_resume_that_is_told_counts_like_a_gap() {
    let mut bench = Bench::new();
    bench.run(25, &cpu(75.0));
    bench.watch.resumed(at(bench.second.into()));
    assert_eq!(bench.run(20, &cpu(75.0)), ThermalState::Ok);
}

#[test]
fn a_sleep_starts_the_waits_for_slowness_and_battery_anew() {
    let battery = Readings { power: Reading::Known(Power::Battery(None)), ..cpu(40.0) };
    let slowed = throttled(ThrottleCause::SoftwareThermal);
    for (pressing, state) in [
        (&slowed, ThermalState::Derated),
        (&throttled(ThrottleCause::HardwareSlowdown), ThermalState::Hot),
        (&battery, ThermalState::Derated),
    ] {
        let mut bench = Bench::new();
        assert_eq!(bench.run(10, pressing), state);
        bench.run(30, &cpu(40.0));
        bench.second += 600;
        assert_eq!(bench.run(60, &cpu(40.0)), state, "nobody saw it calm while it slept");
        assert_eq!(bench.run(1, &cpu(40.0)), ThermalState::Ok);
    }
    let mut bench = Bench::new();
    bench.run(4, &slowed);
    bench.second += 600;
    assert_eq!(bench.run(5, &slowed), ThermalState::Ok, "4 s before and 4 s after are not 5 s");
    assert_eq!(bench.run(1, &slowed), ThermalState::Derated);
}

#[test]
fn a_clock_that_jumps_back_does_not_stop_the_watch() {
    let mut watch = Watch::new(Policy::default(), at(5_000.0));
    watch.observe(&cpu(96.0), at(5_000.0));
    assert_eq!(watch.thermal().state, ThermalState::Hot);
    for second in 0..62 {
        watch.observe(&cpu(50.0), at(second.into()));
    }
    assert_eq!(watch.thermal().state, ThermalState::Ok);
    assert!(watch.since() <= at(62.0));
}

#[test]
fn models_are_unloaded_after_two_hot_minutes() {
    let mut bench = Bench::new();
    bench.run(120, &cpu(97.0));
    assert!(!bench.watch.wants_unload(at(119.0)));
    assert!(bench.watch.wants_unload(at(120.0)));
    assert_eq!(bench.watch.since(), at(0.0));
}

#[test]
fn two_readings_with_one_name_count_as_the_hotter() {
    let twice = readings(vec![temperature("x", 96.0, None), temperature("x", 40.0, Some(100.0))]);
    assert_eq!(Bench::new().run(1, &twice), ThermalState::Hot);
}

#[test]
fn of_two_limits_of_one_sensor_the_lower_counts() {
    for (first, second) in [(100.0, 95.0), (95.0, 100.0)] {
        let twice = readings(vec![temperature("x", 91.0, Some(first)), temperature("x", 40.0, Some(second))]);
        let mut bench = Bench::new();
        assert_eq!(bench.run(1, &twice), ThermalState::Hot, "9 °C below the other one");
        assert_eq!(bench.why(), "x 91 °C of 95 °C; less than 5 °C below its limit");
    }
}

#[test]
fn a_driver_that_invents_sensors_cannot_fill_the_memory() {
    let mut bench = Bench::new();
    for round in 0..10 {
        let many = (0..200).map(|n| temperature(&format!("s{round}-{n}"), 50.0, None)).collect();
        bench.run(1, &readings(many));
        assert!(bench.watch.sensors.len() <= MAX_SENSORS);
    }
    bench.run(61, &readings(vec![]));
    assert_eq!(bench.run(1, &cpu(97.0)), ThermalState::Hot, "the dead make room for the living");
}

#[test]
fn states_say_what_they_allow() {
    let words = ThermalState::ALL.map(|state| {
        (state.word(), state.admits_load(), state.slots_allowed(Some(4)), state.slots_allowed(None))
    });
    assert_eq!(
        words,
        [
            ("unknown", true, Some(4), None),
            ("ok", true, Some(4), None),
            ("warm", true, Some(4), None),
            ("derated", false, Some(1), Some(1)),
            ("hot", false, Some(0), Some(0)),
        ]
    );
    assert_eq!(ThermalState::Derated.slots_allowed(Some(0)), Some(0));
    assert!(ThermalState::ALL.windows(2).all(|pair| pair[0].routing_factor() <= pair[1].routing_factor()));
    assert!(ThermalState::ALL.iter().all(|state| state.routing_factor() >= 1.0));
}

#[test]
fn readings_are_gathered_from_all_cards() {
    use crate::machine::{Gpu, GpuVendor};
    let card = |celsius, cause| {
        let mut gpu = Gpu::unknown("0000:01:00.0", "RTX", GpuVendor::Nvidia, "test");
        gpu.sensors.temperatures = Reading::Known(vec![temperature("nvidia GPU", celsius, Some(87.0))]);
        gpu.sensors.throttle = Reading::Known(vec![cause]);
        gpu
    };
    let vitals = Vitals {
        gpus: Reading::Known(vec![card(50.0, ThrottleCause::Idle), card(70.0, ThrottleCause::PowerCap)]),
        temperatures: Reading::Known(vec![temperature("k10temp Tctl", 45.0, None)]),
        cpu_throttled: Reading::Known(true),
        ..Vitals::unknown("test")
    };
    let found = Readings::of(&vitals);
    let names: Vec<&str> = found.sensors.iter().map(|sensor| sensor.sensor.as_str()).collect();
    assert_eq!(names, ["k10temp Tctl", "GPU 0 nvidia GPU", "GPU 1 nvidia GPU"]);
    assert_eq!(found.throttle, [ThrottleCause::Idle, ThrottleCause::PowerCap]);
    assert!(found.cpu_throttled);
}

proptest! {
    #[test]
    fn hot_is_never_left_within_a_minute_of_the_last_hot_reading(
        values in prop::collection::vec((20.0_f32..124.0, any::<bool>(), 0_u32..3), 1..300),
    ) {
        let mut watch = Watch::new(Policy::default(), at(0.0));
        let (mut now, mut hot_until) = (0.0, 0.0);
        let mut was_hot = false;
        for (value, braked, step) in values {
            now += f64::from(step) + 0.5;
            let mut seen = cpu(value);
            if braked && value > 110.0 {
                seen.throttle.push(ThrottleCause::HardwareSlowdown);
                hot_until = now + 60.0;
            }
            let state = watch.observe(&seen, at(now)).state;
            if !was_hot && state == ThermalState::Hot {
                hot_until = now + 60.0;
            }
            was_hot = state == ThermalState::Hot;
            prop_assert!(was_hot || now >= hot_until, "left {} s too early", hot_until - now);
        }
    }

    #[test]
    fn more_heat_never_makes_a_lower_state(cool in 20.0_f32..120.0, more in 0.0_f32..4.0, seconds in 1_u32..200) {
        let cooler = Bench::new().run(seconds, &cpu(cool));
        prop_assert!(Bench::new().run(seconds, &cpu(cool + more)) >= cooler);
    }

    #[test]
    fn noise_within_the_hysteresis_changes_the_state_once_at_most(
        middle in 40.0_f32..100.0,
        noise in prop::collection::vec(-2.4_f32..2.4, 100..400),
    ) {
        let mut bench = Bench::new();
        bench.run(100, &cpu(middle));
        let mut states = vec![bench.watch.thermal().state];
        for offset in noise {
            bench.run(1, &cpu(middle + offset));
            states.push(bench.watch.thermal().state);
        }
        states.dedup();
        prop_assert!(states.len() <= 2 && states.is_sorted(), "{states:?}");
    }

    #[test]
    fn whatever_is_read_the_reason_is_one_line(values in prop::collection::vec(any::<f32>(), 0..20)) {
        let mut bench = Bench::new();
        for value in values {
            bench.run(1, &cpu(value));
            prop_assert!(!bench.why().is_empty() && !bench.why().contains('\n'));
        }
    }
}
