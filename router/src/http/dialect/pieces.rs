//! What an engine says, taken out of its dialect: texts, thoughts, parts of tool calls, the reason for its end, and
//! the tokens. Read from OpenAI's chats and completions and from llama.cpp's own answers, whole or in frames.

use crate::forward::stream_guard::tokens;
use serde_json::Value;

/// A part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Of the answer.
    Text(String),
    /// Of what was thought before it.
    Thought(String),
    /// Of a call of a tool.
    Call(CallPart),
    /// Why it ended.
    Finish(Finish),
    /// What it took.
    Tokens(Tokens),
}

/// Part of a call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallPart {
    /// Which of the answer's calls.
    pub index: u64,
    /// Its id, in its first part.
    pub id: Option<String>,
    /// The tool's name, in its first part.
    pub name: Option<String>,
    /// More of the arguments' JSON.
    pub arguments: String,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Finish {
    /// It was complete, or met a stop text.
    #[default]
    Stop,
    /// It met the limit of tokens or the context's end.
    Length,
    /// Tools are to be called.
    Tools,
    /// It was cut by a filter.
    Filter,
}

/// Tokens and times of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tokens {
    /// Of the prompt, those from a cache included.
    pub prompt: u64,
    /// Of the answer.
    pub answer: u64,
    /// Of the prompt, from a cache.
    pub cached: u64,
    /// Seconds over the prompt, where the engine tells.
    pub prefill_s: Option<f64>,
    /// Seconds over the answer, where the engine tells.
    pub decode_s: Option<f64>,
}

/// In which dialect the engine answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/infill` and `/completion` of llama.cpp
    Llama,
}

/// The engine's answer is none of its dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine sent something that is no part of an answer")]
pub struct NoAnswer;

impl Source {
    /// The pieces of one frame or of a whole answer.
    ///
    /// # Errors
    /// [`NoAnswer`] when it is neither.
    pub fn pieces(self, json: &[u8]) -> Result<Vec<Piece>, NoAnswer> {
        let value: Value = serde_json::from_slice(json).map_err(|_| NoAnswer)?;
        let mut pieces = Vec::new();
        match self {
            Self::Chat => {
                // Of several answers only the first has a place in the other dialects.
                if let Some(choice) = first_choice(&value)? {
                    let delta = choice.get("delta").or_else(|| choice.get("message")).unwrap_or(&Value::Null);
                    for name in ["reasoning_content", "reasoning"] {
                        if let Some(text) = filled(&delta[name]) {
                            pieces.push(Piece::Thought(text));
                            break;
                        }
                    }
                    pieces.extend(filled(&delta["content"]).map(Piece::Text));
                    pieces.extend(filled(&delta["refusal"]).map(Piece::Text));
                    for (at, call) in delta["tool_calls"].as_array().into_iter().flatten().enumerate() {
                        pieces.push(Piece::Call(call_part(call, at as u64)));
                    }
                    pieces.extend(choice["finish_reason"].as_str().map(|why| Piece::Finish(finish(why))));
                }
                pieces.extend(usage(&value).map(Piece::Tokens));
            }
            Self::Completions => {
                if let Some(choice) = first_choice(&value)? {
                    pieces.extend(filled(&choice["text"]).map(Piece::Text));
                    pieces.extend(choice["finish_reason"].as_str().map(|why| Piece::Finish(finish(why))));
                }
                pieces.extend(usage(&value).map(Piece::Tokens));
            }
            Self::Llama => {
                let content = value.get("content").ok_or(NoAnswer)?;
                pieces.extend(filled(content).map(Piece::Text));
                if value["stop"] == true {
                    let why = if value["stop_type"] == "limit" { Finish::Length } else { Finish::Stop };
                    pieces.push(Piece::Finish(why));
                    pieces.push(Piece::Tokens(with_times(
                        Tokens {
                            prompt: tokens(value["tokens_evaluated"].as_u64().unwrap_or(0)),
                            answer: tokens(value["tokens_predicted"].as_u64().unwrap_or(0)),
                            cached: tokens(value["timings"]["cache_n"].as_u64().unwrap_or(0)),
                            ..Tokens::default()
                        },
                        &value["timings"],
                    )));
                }
            }
        }
        Ok(pieces)
    }
}

fn first_choice(value: &Value) -> Result<Option<&Value>, NoAnswer> {
    Ok(value["choices"].as_array().ok_or(NoAnswer)?.first())
}

fn filled(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn call_part(call: &Value, at: u64) -> CallPart {
    let function = &call["function"];
    let arguments = match &function["arguments"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        // Some engines send the object itself.
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    };
    CallPart {
        index: call["index"].as_u64().unwrap_or(at),
        id: filled(&call["id"]),
        name: filled(&function["name"]),
        arguments,
    }
}

fn finish(why: &str) -> Finish {
    match why {
        "length" => Finish::Length,
        "tool_calls" | "function_call" => Finish::Tools,
        "content_filter" => Finish::Filter,
        _ => Finish::Stop,
    }
}

fn usage(value: &Value) -> Option<Tokens> {
    let usage = &value["usage"];
    if !usage.is_object() {
        return None;
    }
    let told = Tokens {
        prompt: tokens(usage["prompt_tokens"].as_u64().unwrap_or(0)),
        answer: tokens(usage["completion_tokens"].as_u64().unwrap_or(0)),
        cached: tokens(usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)),
        ..Tokens::default()
    };
    Some(with_times(told, &value["timings"]))
}

fn with_times(tokens: Tokens, timings: &Value) -> Tokens {
    let seconds = |name: &str| timings[name].as_f64().map(|ms| ms / 1000.0);
    Tokens { prefill_s: seconds("prompt_ms"), decode_s: seconds("predicted_ms"), ..tokens }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: Source, json: &str) -> Vec<Piece> {
        source.pieces(json.as_bytes()).expect("an answer")
    }

    #[test]
    fn frames_of_a_chat_become_text_thought_call_and_tokens() {
        let frame =
            r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}]}"#;
        assert_eq!(of(Source::Chat, frame), []);
        let frame =
            r#"{"choices":[{"finish_reason":null,"delta":{"reasoning_content":"hm","content":"It"}}]}"#;
        assert_eq!(of(Source::Chat, frame), [Piece::Thought("hm".into()), Piece::Text("It".into())]);
        let frame = r#"{"choices":[{"finish_reason":"tool_calls","delta":{"tool_calls":[{"index":1,"id":"c1","function":{"name":"f","arguments":"{\"a"}}]}}]}"#;
        let part =
            CallPart { index: 1, id: Some("c1".into()), name: Some("f".into()), arguments: "{\"a".into() };
        assert_eq!(of(Source::Chat, frame), [Piece::Call(part), Piece::Finish(Finish::Tools)]);
        let frame = r#"{"choices":[],"usage":{"completion_tokens":6,"prompt_tokens":19,"prompt_tokens_details":{"cached_tokens":18}},"timings":{"prompt_ms":10.0,"predicted_ms":600.0}}"#;
        let tokens = Tokens { prompt: 19, answer: 6, cached: 18, prefill_s: Some(0.01), decode_s: Some(0.6) };
        assert_eq!(of(Source::Chat, frame), [Piece::Tokens(tokens)]);
    }

    #[test]
    fn what_is_no_answer_is_an_error_and_never_an_empty_answer() {
        for json in ["{}", "[]", "null", "{\"choices\":3}", "{\"choices\":[", "\u{0}", "{\"error\":\"x\"}"] {
            for source in [Source::Chat, Source::Completions, Source::Llama] {
                assert_eq!(source.pieces(json.as_bytes()), Err(NoAnswer), "{json}");
            }
        }
        let deep = "[".repeat(100_000);
        assert_eq!(Source::Chat.pieces(deep.as_bytes()), Err(NoAnswer));
    }

    #[test]
    fn a_last_frame_of_llama_cpp_has_its_reason_and_its_tokens() {
        let frame = r#"{"content":"x","stop":true,"stop_type":"limit","tokens_evaluated":17,"tokens_predicted":8,"timings":{"cache_n":2,"prompt_ms":200.0,"predicted_ms":28.0}}"#;
        let pieces = of(Source::Llama, frame);
        assert_eq!(pieces[..2], [Piece::Text("x".into()), Piece::Finish(Finish::Length)]);
        assert!(matches!(pieces[2], Piece::Tokens(Tokens { prompt: 17, answer: 8, cached: 2, .. })));
    }
}
