//! What an engine process said last, bounded, and never anything that could be about a request.
//!
//! While it starts, no request has reached it and every line may be kept. Once it serves, only lines that tell
//! of a broken machine are.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Lines that are kept.
const KEPT_LINES: usize = 40;
/// Characters of a line that are kept.
pub(super) const LINE_LIMIT: usize = 300;
/// Lines in the reason for a failure.
const REASON_LINES: usize = 3;

/// What a child said last.
#[derive(Default)]
pub(super) struct LastWords(Mutex<Words>);

#[derive(Default)]
struct Words {
    lines: VecDeque<String>,
    serving: bool,
}

impl LastWords {
    fn lock(&self) -> std::sync::MutexGuard<'_, Words> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the child serves requests, and its words may be about them. What it said while it started
    /// explains no later end.
    pub(super) fn serving(&self) {
        let mut words = self.lock();
        words.serving = true;
        words.lines.clear();
    }

    /// Whether it serves requests already.
    pub(super) fn serves(&self) -> bool {
        self.lock().serving
    }

    /// Takes in one line.
    pub(super) fn hear(&self, line: &str) {
        let line = line.trim();
        let mut words = self.lock();
        if line.is_empty() || is_news(line) || (words.serving && !tells_of_the_machine(line)) {
            return;
        }
        if words.lines.len() >= KEPT_LINES {
            words.lines.pop_front();
        }
        words.lines.push_back(line.chars().filter(|c| !c.is_control()).take(LINE_LIMIT).collect());
    }

    /// The first errors where there are some, because the others follow from them; else the last lines.
    pub(super) fn reason(&self) -> String {
        let words = self.lock();
        let errors: Vec<&str> =
            words.lines.iter().filter_map(|line| error_of(line)).take(REASON_LINES).collect();
        if !errors.is_empty() {
            return errors.join("; ");
        }
        let skip = words.lines.len().saturating_sub(REASON_LINES);
        words.lines.iter().skip(skip).map(String::as_str).collect::<Vec<_>>().join("; ")
    }
}

/// Whether a line of a serving engine is about the machine and can hold no prompt.
pub(super) fn tells_of_the_machine(line: &str) -> bool {
    const ABOUT_THE_MACHINE: [&str; 7] = [
        "out of memory",
        "GGML_ASSERT",
        "CUDA error",
        "HIP error",
        "ggml_vulkan: ",
        "terminate called",
        "Segmentation fault",
    ];
    ABOUT_THE_MACHINE.iter().any(|start| line.starts_with(start))
        || ["CUDA error", "cudaMalloc failed", "GGML_ASSERT("].iter().any(|part| {
            // llama.cpp's log puts time and level in front.
            error_of(line).is_some_and(|text| text.contains(part)) && !line.contains('{')
        })
}

/// Whether a line is at llama.cpp's level of news, which explains no end: `0.00.003.519 I text`.
fn is_news(line: &str) -> bool {
    line.split_once(" I ").is_some_and(|(stamp, _)| is_stamp(stamp))
}

fn is_stamp(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// The text of a line at error level: llama.cpp writes `0.00.003.519 E text`.
fn error_of(line: &str) -> Option<&str> {
    let (stamp, text) = line.split_once(" E ")?;
    is_stamp(stamp).then(|| text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_errors_are_the_reason() {
        let words = LastWords::default();
        for line in ["loading", "0.00.003 E not a GGUF file", "0.00.004 E giving up", "Traceback", "bye"] {
            words.hear(line);
        }
        assert_eq!(words.reason(), "not a GGUF file; giving up");
        let words = LastWords::default();
        ["a", "b", "c", "d"].into_iter().for_each(|line| words.hear(line));
        assert_eq!(words.reason(), "b; c; d");
    }

    #[test]
    fn words_are_bounded_and_what_is_said_while_serving_is_not_kept() {
        let words = LastWords::default();
        (0..1000).for_each(|n| words.hear(&format!("{n}{}", "x".repeat(9999))));
        assert_eq!(words.lock().lines.len(), KEPT_LINES);
        assert!(words.lock().lines.iter().all(|line| line.chars().count() <= LINE_LIMIT));
        let words = LastWords::default();
        words.hear("0.00.100 E a sensor is missing");
        words.serving();
        words.hear("0.01.000 E got exception: {\"message\":\"the prompt of a person\"}");
        words.hear("0.01.001 E CUDA error: out of memory");
        assert_eq!(words.reason(), "CUDA error: out of memory");
    }
}
