//! Command line, percentiles, and one form for all figures.

use std::time::Duration;

/// What was said on the command line.
pub(crate) struct Arguments(Vec<String>);

impl Arguments {
    pub(crate) fn of_this_process() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    pub(crate) fn is_bench(&self) -> bool {
        self.0.iter().any(|argument| argument == "--bench")
    }

    /// Whether this part is wanted: it is named, or none is.
    pub(crate) fn wants(&self, part: &str) -> bool {
        let mut after_flag = false;
        let mut named = self.0.iter().filter(|argument| {
            let is_value = std::mem::replace(
                &mut after_flag,
                argument.starts_with("--") && argument.as_str() != "--bench",
            );
            !is_value && !argument.starts_with("--")
        });
        let first = named.next();
        first.is_none_or(|name| name == part) || named.any(|name| name == part)
    }

    /// The number after `--name`.
    pub(crate) fn number(&self, name: &str, default: u32) -> u32 {
        let at = self.0.iter().position(|argument| argument == name);
        at.and_then(|at| self.0.get(at + 1)?.parse().ok()).unwrap_or(default)
    }
}

/// The value below which `share` of them are; zero for none.
pub(crate) fn at(times: &[Duration], share: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).ceil() as usize).copied().unwrap_or_default()
}

pub(crate) fn head(title: &str) {
    println!("\n## {title}\n\n| figure | measured | goal | |\n|---|---|---|---|");
}

/// A figure with a goal.
pub(crate) fn judged(what: &str, measured: &str, goal: &str, passed: bool) {
    println!("| {what} | {measured} | {goal} | {} |", if passed { "pass" } else { "MISS" });
}

/// A figure without one.
pub(crate) fn told(what: &str, measured: &str) {
    println!("| {what} | {measured} | | |");
}

/// p50, p99 and maximum, in ms.
pub(crate) fn spread(times: &[Duration]) -> String {
    let ms = |share| at(times, share).as_secs_f64() * 1e3;
    format!("p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms, {} times", ms(0.5), ms(0.99), ms(1.0), times.len())
}
