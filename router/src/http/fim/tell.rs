//! Texts in the middle as three kinds of client read them: OpenAI's completions, Mistral's FIM, and llama.cpp's own.

use crate::http::dialect::pieces::{Finish, Tokens};
use crate::http::dialect::translation::{Answer, Label, Part, Voice};
use serde_json::{Value, json};

/// Who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `choices[0].text`
    Completion,
    /// `choices[0].delta.content`, or in a whole answer `choices[0].message.content`
    Fim,
    /// `content` and `stop`
    Llama,
}

/// Answers that are a text and nothing else.
pub struct Texts {
    label: Label,
    shape: Shape,
    usage_frame: bool,
}

impl Texts {
    /// In this shape, with a usage frame in streams for clients that asked for it.
    #[must_use]
    pub fn new(label: Label, shape: Shape, usage_frame: bool) -> Self {
        Self { label, shape, usage_frame }
    }

    fn object(&self, choices: Value, streamed: bool) -> Value {
        let object = match (self.shape, streamed) {
            (Shape::Completion, _) => "text_completion",
            (Shape::Fim | Shape::Llama, true) => "chat.completion.chunk",
            (Shape::Fim | Shape::Llama, false) => "chat.completion",
        };
        json!({
            "id": format!("cmpl-{}", self.label.id), "object": object, "model": self.label.model,
            "created": self.label.at_unix_ms / 1000, "choices": choices,
        })
    }

    fn choice(&self, text: &str, reason: Value, streamed: bool) -> Value {
        match (self.shape, streamed) {
            (Shape::Completion, _) => {
                json!([{ "index": 0, "text": text, "logprobs": null, "finish_reason": reason }])
            }
            (Shape::Fim | Shape::Llama, true) => {
                json!([{ "index": 0, "delta": { "role": "assistant", "content": text }, "finish_reason": reason }])
            }
            (Shape::Fim | Shape::Llama, false) => {
                json!([{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": reason }])
            }
        }
    }

    fn llama(&self, text: &str, answer: Option<&Answer>) -> Value {
        let Some(answer) = answer else { return json!({ "index": 0, "content": text, "stop": false }) };
        let stop_type = if answer.finish == Finish::Length { "limit" } else { "eos" };
        json!({
            "index": 0, "content": text, "stop": true, "model": self.label.model, "stop_type": stop_type,
            "tokens_evaluated": answer.tokens.prompt, "tokens_predicted": answer.tokens.answer,
        })
    }
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Filter => "content_filter",
        Finish::Stop | Finish::Tools => "stop",
    }
}

fn usage(tokens: Tokens) -> Value {
    json!({
        "prompt_tokens": tokens.prompt, "completion_tokens": tokens.answer,
        "total_tokens": tokens.prompt + tokens.answer,
        "prompt_tokens_details": { "cached_tokens": tokens.cached },
    })
}

impl Voice for Texts {
    fn stream_type(&self) -> &'static str {
        "text/event-stream"
    }

    fn begin(&mut self) -> String {
        String::new()
    }

    fn part(&mut self, part: Part<'_>, _: &Answer) -> String {
        let Part::Text(text) = part else { return String::new() };
        let frame = match self.shape {
            Shape::Llama => self.llama(text, None),
            Shape::Completion | Shape::Fim => self.object(self.choice(text, Value::Null, true), true),
        };
        format!("data: {frame}\n\n")
    }

    fn end(&mut self, answer: &Answer) -> String {
        if self.shape == Shape::Llama {
            return format!("data: {}\n\n", self.llama("", Some(answer)));
        }
        let mut last = self.object(self.choice("", reason(answer.finish).into(), true), true);
        if self.shape == Shape::Fim {
            // Mistral's last frame has it.
            last["usage"] = usage(answer.tokens);
        }
        let mut out = format!("data: {last}\n\n");
        if self.usage_frame && self.shape == Shape::Completion {
            let mut frame = self.object(json!([]), true);
            frame["usage"] = usage(answer.tokens);
            out += &format!("data: {frame}\n\n");
        }
        out + "data: [DONE]\n\n"
    }

    fn whole(&mut self, answer: &Answer) -> Value {
        if self.shape == Shape::Llama {
            return self.llama(&answer.text, Some(answer));
        }
        let mut whole = self.object(self.choice(&answer.text, reason(answer.finish).into(), false), false);
        whole["usage"] = usage(answer.tokens);
        whole
    }
}
