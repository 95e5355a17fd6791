//! Laws and examples of what is learned of speeds.

use super::*;
use proptest::prelude::*;

const NOW: Moment = Moment(1_000_000);

fn timing(prefill_tokens: u64, prefill_s: f64, decode_tokens: u64, decode_s: f64) -> Timing {
    Timing { prefill_tokens, prefill_s, decode_tokens, decode_s, cached_tokens: None }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * b.abs().max(1e-6)
}

#[test]
fn nothing_is_known_before_a_measurement() {
    let speed = Speed::default();
    assert_eq!((speed.prefill(), speed.decode_line(), speed.load_s()), (None, None, None));
    assert!(close(speed.bias(), 1.0));
}

#[test]
fn the_first_request_alone_gives_both_speeds() {
    let mut speed = Speed::default();
    speed.observe(timing(1_000, 2.0, 100, 4.0), 1.0);
    assert!(close(speed.prefill().expect("measured"), 500.0));
    let (a, c) = speed.decode_line().expect("measured");
    assert!(close(a + c, 0.04), "{a} {c}");
    assert!(close(c, 0.004), "one more stream is taken to cost a tenth until it is seen");
}

#[test]
fn a_cached_prompt_does_not_pass_for_a_fast_machine() {
    let mut speed = Speed::default();
    speed.observe(timing(1, 0.000_001, 0, 0.0), 1.0);
    assert_eq!(speed.prefill(), None);
}

#[test]
fn the_line_is_found_from_requests_at_different_concurrency() {
    let mut speed = Speed::default();
    for round in 0..60 {
        let n = f64::from(round % 8 + 1);
        speed.observe(timing(0, 0.0, 200, 200.0 * (0.02 + 0.005 * n)), n);
    }
    let (a, c) = speed.decode_line().expect("measured");
    assert!((a - 0.02).abs() < 0.001 && (c - 0.005).abs() < 0.0003, "{a} {c}");
}

#[test]
fn one_outlier_moves_a_speed_less_than_a_lasting_change_does() {
    let settled = || {
        let mut speed = Speed::default();
        for _ in 0..20 {
            speed.observe(timing(2_000, 2.0, 100, 2.0), 1.0);
        }
        speed
    };
    let mut hiccup = settled();
    hiccup.observe(timing(2_000, 200.0, 100, 200.0), 1.0);
    assert!(hiccup.prefill().expect("known") > 600.0, "{:?}", hiccup.prefill());
    let mut slower = settled();
    for _ in 0..20 {
        slower.observe(timing(2_000, 20.0, 100, 20.0), 1.0);
    }
    let rate = slower.prefill().expect("known");
    assert!((99.0..150.0).contains(&rate), "{rate}");
}

#[test]
fn a_short_prompt_hardly_moves_what_long_ones_have_told() {
    let mut speed = Speed::default();
    speed.observe(timing(8_000, 8.0, 0, 0.0), 1.0);
    speed.observe(timing(10, 0.1, 0, 0.0), 1.0);
    assert!(speed.prefill().expect("known") > 980.0, "{:?}", speed.prefill());
}

#[test]
fn a_seed_gives_way_to_what_is_measured() {
    let mut speed = Speed::seed(Some(1_000.0), Some(50.0));
    assert!(close(speed.prefill().expect("seeded"), 1_000.0));
    for _ in 0..20 {
        speed.observe(timing(2_000, 4.0, 100, 4.0), 1.0);
    }
    assert!((speed.prefill().expect("known") - 500.0).abs() < 30.0);
    let (a, c) = speed.decode_line().expect("known");
    assert!((a + c - 0.04).abs() < 0.003, "{a} {c}");
    assert_eq!(Speed::seed(Some(f64::NAN), Some(0.0)), Speed::default());
}

fn lesson() -> Lesson {
    Lesson {
        streams: 1.0,
        ttft_s: Some(2.0),
        total_s: 6.0,
        prompt_tokens: Some(1_000),
        completion_tokens: Some(100),
        ..Lesson::default()
    }
}

#[test]
fn an_engine_without_timings_is_measured_by_the_router_s_clock() {
    let mut speed = Speed::default();
    speed.learn(&lesson(), NOW);
    assert!(close(speed.prefill().expect("measured"), 500.0));
    assert_eq!(speed.measured_at(), Some(NOW));
    let mut whole = Speed::default();
    whole.learn(&Lesson { whole: true, ttft_s: Some(6.0), ..lesson() }, NOW);
    assert!(close(whole.prefill().expect("split"), 1_000.0 / 3.0), "{:?}", whole.prefill());
}

#[test]
fn a_cold_start_tells_the_seconds_of_a_load_and_nothing_of_the_bias() {
    let mut speed = Speed::default();
    let predicted = Some(Predicted { ttft_s: 0.1, token_s: 0.01 });
    let told = Some(timing(1_000, 2.0, 100, 4.0));
    speed.learn(&Lesson { cold: true, ttft_s: Some(32.0), timing: told, predicted, ..lesson() }, NOW);
    assert!(close(speed.load_s().expect("seen"), 30.0));
    assert!(close(speed.bias(), 1.0));
}

#[test]
fn a_machine_that_takes_longer_than_predicted_gets_a_bias_within_its_bounds() {
    let mut speed = Speed::default();
    let predicted = Some(Predicted { ttft_s: 1.0, token_s: 0.02 });
    for _ in 0..30 {
        speed.learn(&Lesson { predicted, ..lesson() }, NOW);
    }
    assert!((speed.bias() - 2.0).abs() < 0.01, "{}", speed.bias());
    for _ in 0..30 {
        speed.learn(&Lesson { predicted, total_s: 6_000.0, ..lesson() }, NOW);
    }
    assert!(close(speed.bias(), 3.0));
    for _ in 0..30 {
        speed.learn(&Lesson { predicted, total_s: 1e-9, ..lesson() }, NOW);
    }
    assert!(close(speed.bias(), 0.5));
}

proptest! {
    #[test]
    fn whatever_comes_in_speeds_stay_finite_and_positive(
        list in proptest::collection::vec(
            (any::<u32>(), any::<f64>(), any::<u32>(), any::<f64>(), any::<f64>(), any::<f64>()), 0..30)
    ) {
        let mut speed = Speed::default();
        for (p, ps, d, ds, streams, seconds) in list {
            speed.learn(&Lesson {
                timing: Some(timing(p.into(), ps, d.into(), ds)),
                streams,
                ttft_s: Some(seconds),
                total_s: seconds,
                completion_tokens: Some(d.into()),
                prompt_tokens: Some(p.into()),
                cold: p % 2 == 0,
                whole: d % 2 == 0,
                predicted: Some(Predicted { ttft_s: ps, token_s: ds }),
                ..Lesson::default()
            }, NOW);
        }
        if let Some(rate) = speed.prefill() {
            prop_assert!(rate.is_finite() && rate > 0.0, "{rate}");
        }
        if let Some((a, c)) = speed.decode_line() {
            prop_assert!(a.is_finite() && c.is_finite() && a >= 0.0 && c >= 0.0 && a + c > 0.0, "{a} {c}");
        }
        prop_assert!((BIAS.0..=BIAS.1).contains(&speed.bias()));
        if let Some(load_s) = speed.load_s() {
            prop_assert!((0.0..=LONGEST_LOAD).contains(&load_s));
        }
    }

    #[test]
    fn on_a_steady_machine_the_fit_finds_its_speeds(
        rate in 20.0f64..10_000.0, a in 0.001f64..0.2, c in 0.0f64..0.02, noise in proptest::collection::vec(0.9f64..1.1, 80)
    ) {
        let mut speed = Speed::default();
        for (at, noise) in noise.iter().enumerate() {
            let n = (at % 6 + 1) as f64;
            speed.observe(timing(1_000, 1_000.0 / rate * noise, 100, 100.0 * (a + c * n) * noise), n);
        }
        let found = speed.prefill().expect("measured");
        prop_assert!((found / rate - 1.0).abs() < 0.1, "{found} for {rate}");
        let (fa, fc) = speed.decode_line().expect("measured");
        for n in 1..=6 {
            let (said, is) = (fa + fc * f64::from(n), a + c * f64::from(n));
            prop_assert!((said / is - 1.0).abs() < 0.15, "{said} for {is} at {n}");
        }
    }
}
