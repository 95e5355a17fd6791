//! The policies compared on four unequal machines: the real `decide`, `Load` and `Fleet` in a simulated world of
//! engines with slots, caches and different speeds. No real time passes; everything follows from the seeds.

#[path = "policies/world.rs"]
mod world;

use mesh_core::routing::Policy;
use world::{Result, Trace, run};

/// Over a few seeds, so that no single draw decides.
fn over_seeds(policy: Policy, trace: Trace) -> Result {
    let results: Vec<Result> = (1..=3).map(|seed| run(policy, trace, seed)).collect();
    let mean = |of: fn(&Result) -> f64| results.iter().map(of).sum::<f64>() / results.len() as f64;
    Result {
        ttft_p50: mean(|r| r.ttft_p50),
        ttft_p95: mean(|r| r.ttft_p95),
        total: mean(|r| r.total),
        cached: mean(|r| r.cached),
    }
}

#[expect(clippy::print_stdout, reason = "the comparison itself is of interest: --nocapture shows it")]
fn table(trace: Trace) -> Vec<(Policy, Result)> {
    let rows: Vec<_> = Policy::ALL.into_iter().map(|policy| (policy, over_seeds(policy, trace))).collect();
    let mut text = format!("{trace:?}\n");
    for (policy, result) in &rows {
        text.push_str(&format!(
            "{:<18} TTFT p50 {:>6.2} s   p95 {:>6.2} s   mean to the end {:>6.2} s   cached {:>3.0} %\n",
            policy.word(),
            result.ttft_p50,
            result.ttft_p95,
            result.total,
            result.cached * 100.0
        ));
    }
    println!("{text}");
    rows
}

fn of(rows: &[(Policy, Result)], policy: Policy) -> Result {
    rows.iter().find(|row| row.0 == policy).expect("all policies ran").1
}

#[test]
fn without_reuse_seconds_beat_every_other_policy_in_the_slowest_twentieth() {
    let rows = table(Trace::Separate);
    let seconds = of(&rows, Policy::Seconds);
    for (policy, result) in rows.iter().filter(|row| row.0 != Policy::Seconds) {
        assert!(seconds.ttft_p95 < result.ttft_p95, "{}: {result:?}, seconds: {seconds:?}", policy.word());
    }
    let least = of(&rows, Policy::LeastOutstanding);
    assert!(seconds.ttft_p95 < 0.7 * least.ttft_p95, "{seconds:?} against {least:?}");
}

#[test]
fn on_agents_that_repeat_their_prompts_seconds_beat_counting_requests() {
    let rows = table(Trace::Agents);
    let (seconds, least) = (of(&rows, Policy::Seconds), of(&rows, Policy::LeastOutstanding));
    assert!(seconds.ttft_p50 < 0.8 * least.ttft_p50, "{seconds:?} against {least:?}");
    assert!(seconds.ttft_p95 < 0.8 * least.ttft_p95, "{seconds:?} against {least:?}");
    assert!(seconds.cached > least.cached, "{seconds:?} against {least:?}");
    assert!(seconds.total < 0.8 * least.total, "{seconds:?} against {least:?}");
}
