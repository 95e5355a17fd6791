//! Filling in the middle: what comes before and after, out of four dialects and into two.

mod tell;

use super::dialect::passage::{copy, invalid};
use super::reply::ApiError;
use serde_json::{Map, Value};
pub use tell::{Shape, Texts};

/// Fields with the same name and meaning in OpenAI's completions and in llama.cpp's own.
const SAME: [&str; 11] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "repeat_last_n",
    "typical_p",
];

/// A middle to be filled in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Middle {
    /// What comes before.
    pub prefix: Value,
    /// What comes after; null = nothing, it is a plain completion.
    pub suffix: Value,
    /// The most tokens of the answer.
    pub tokens: Option<Value>,
    /// What else was asked, in names that both sides know, and files around in llama.cpp's.
    pub rest: Map<String, Value>,
}

/// Out of OpenAI's or Mistral's completion with a suffix.
///
/// # Errors
/// 400 when the prompt is no text: only a text has a middle.
pub fn of_completion(from: &Map<String, Value>) -> Result<Middle, Box<ApiError>> {
    if !from.get("prompt").is_some_and(Value::is_string) {
        return Err(Box::new(invalid("`prompt` must be a text: only a text has a middle").param("prompt")));
    }
    let mut rest = kept(from);
    // Mistral's name for the seed.
    if let Some(seed) = from.get("random_seed") {
        rest.insert("seed".into(), seed.clone());
    }
    Ok(middle(from, "prompt", "suffix", "max_tokens", rest))
}

/// Out of llama.cpp's infill.
#[must_use]
pub fn of_infill(from: &Map<String, Value>) -> Middle {
    middle(from, "input_prefix", "input_suffix", "n_predict", kept(from))
}

/// Out of llama.cpp's own completion, which has no suffix.
#[must_use]
pub fn of_native(from: &Map<String, Value>) -> Middle {
    let mut found = middle(from, "prompt", "", "n_predict", kept(from));
    found.suffix = Value::Null;
    found
}

fn kept(from: &Map<String, Value>) -> Map<String, Value> {
    let mut rest = Map::new();
    copy(from, &mut rest, &SAME);
    rest
}

fn middle(
    from: &Map<String, Value>,
    prefix: &str,
    suffix: &str,
    tokens: &str,
    rest: Map<String, Value>,
) -> Middle {
    let value = |name: &str| from.get(name).cloned().unwrap_or_default();
    // Negative means without a limit, which the other side says by saying nothing. What is no number the engine refuses.
    let unlimited = |tokens: &Value| tokens.is_null() || tokens.as_f64().is_some_and(|tokens| tokens < 0.0);
    let tokens = from.get(tokens).filter(|tokens| !unlimited(tokens));
    Middle { prefix: value(prefix), suffix: value(suffix), tokens: tokens.cloned(), rest }
}

/// Into llama.cpp's infill, the only place where it fills in the middle: its `/v1/completions` ignores a suffix.
#[must_use]
pub fn infill(middle: &Middle) -> Map<String, Value> {
    let mut to = middle.rest.clone();
    to.insert("input_prefix".into(), middle.prefix.clone());
    let suffix = if middle.suffix.is_null() { Value::from("") } else { middle.suffix.clone() };
    to.insert("input_suffix".into(), suffix);
    if let Some(tokens) = &middle.tokens {
        to.insert("n_predict".into(), tokens.clone());
    }
    stop_as_list(&mut to);
    to
}

/// llama.cpp's own paths want a list.
fn stop_as_list(to: &mut Map<String, Value>) {
    if let Some(stop) = to.get_mut("stop").filter(|stop| stop.is_string()) {
        *stop = Value::Array(vec![stop.take()]);
    }
}

/// Into a completion with a suffix.
#[must_use]
pub fn completion(middle: &Middle) -> Map<String, Value> {
    let mut to = middle.rest.clone();
    to.insert("prompt".into(), middle.prefix.clone());
    if !middle.suffix.is_null() {
        to.insert("suffix".into(), middle.suffix.clone());
    }
    if let Some(tokens) = &middle.tokens {
        to.insert("max_tokens".into(), tokens.clone());
    }
    to
}
