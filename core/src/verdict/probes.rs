//! The fixed prompts of the truth check after a load, chosen by what the model can do.

use super::Expectation;
use crate::machine::Abilities;
use serde::Serialize;

/// What is sent. Always greedy (temperature 0), with a fixed seed, without a system prompt and without tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeInput {
    /// One message of a user.
    Chat(&'static str),
    /// A text to go on with, without a chat template.
    Complete(&'static str),
    /// A hole to fill.
    Fill {
        /// What stands before it.
        prefix: &'static str,
        /// What stands after it.
        suffix: &'static str,
    },
}

/// One question of the truth check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// What reports call it.
    pub name: &'static str,
    /// What is sent.
    pub input: ProbeInput,
    /// Tokens the answer may have.
    pub max_tokens: u32,
    /// What an acceptable answer is like.
    pub expectation: Expectation,
    /// Any of these, in any case, makes an answer right. For reports only: a small model may be wrong and
    /// sound.
    pub right: &'static [&'static str],
}

impl Probe {
    /// Whether `text` holds one of the right answers.
    #[must_use]
    pub fn is_right(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        self.right.iter().any(|word| text.contains(word))
    }
}

/// Enough to tell noise from text, on a CPU in some seconds; too few for a sound small model to begin a loop,
/// as greedy ones do within some 50 tokens.
const TOKENS: u32 = 24;

const fn chat(name: &'static str, prompt: &'static str, right: &'static [&'static str]) -> Probe {
    Probe {
        name,
        input: ProbeInput::Chat(prompt),
        max_tokens: TOKENS,
        expectation: Expectation::SENTENCE,
        right,
    }
}

const fn complete(name: &'static str, prompt: &'static str, right: &'static [&'static str]) -> Probe {
    let expectation = Expectation::CONTINUATION;
    Probe { name, input: ProbeInput::Complete(prompt), max_tokens: TOKENS, expectation, right }
}

const fn fill(
    name: &'static str,
    prefix: &'static str,
    suffix: &'static str,
    right: &'static [&'static str],
) -> Probe {
    let input = ProbeInput::Fill { prefix, suffix };
    Probe { name, input, max_tokens: TOKENS, expectation: Expectation::CONTINUATION, right }
}

const CHAT: [Probe; 3] = [
    chat("greeting", "Say hello in one short sentence.", &["hello", "hi"]),
    chat("fact", "What is the capital of France? Answer in one sentence.", &["paris"]),
    chat("counting", "Count from one to five in words.", &["two"]),
];

const COMPLETE: [Probe; 3] = [
    complete("story", "Once upon a time, there was a", &[]),
    complete("fact", "The capital of France is the city of", &["paris"]),
    complete("code", "def add(a, b):\n    \"\"\"Returns the sum of a and b.\"\"\"\n", &["a + b", "a+b"]),
];

const FILL: [Probe; 3] = [
    fill("sum", "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n", &["a + b", "a+b"]),
    fill("loop", "for i in range(10):\n    ", "\nprint(total)\n", &["total"]),
    fill(
        "constructor",
        "class Point:\n    def __init__(self, x, y):\n        ",
        "\n\np = Point(1, 2)\n",
        &["self.x"],
    ),
];

/// The probes for a model with these abilities; `None` = a model that makes no text (embeddings only), which
/// no prompt may condemn.
///
/// A chat model is asked to chat, a model for filling in alone to fill in. A model of which nothing is known
/// may be a base model: it is asked to go on with a text, which every model of text can, and may loop.
#[must_use]
pub fn three_prompts(abilities: &Abilities) -> Option<[Probe; 3]> {
    match (abilities.chat, abilities.fim, abilities.embed) {
        (Some(true), ..) => Some(CHAT),
        (_, Some(true), _) => Some(FILL),
        (_, _, Some(true)) => None,
        (None | Some(false), None | Some(false), None | Some(false)) => Some(COMPLETE),
    }
}
