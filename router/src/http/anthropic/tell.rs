//! Answers as Anthropic tells them: blocks of text, of thinking and of tool use.

use crate::http::dialect::pieces::{Finish, Tokens};
use crate::http::dialect::translation::{Answer, Label, Part, Voice};
use serde_json::{Value, json};

/// Answers of `/v1/messages`.
pub struct Messages {
    label: Label,
    /// The block that is open: its index and kind.
    open: Option<(usize, Block)>,
    blocks: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
    Tool(usize),
}

impl Messages {
    /// Answers called so.
    #[must_use]
    pub fn new(label: Label) -> Self {
        Self { label, open: None, blocks: 0 }
    }

    fn message(&self, content: Value, reason: Value, usage: Value) -> Value {
        json!({
            "id": format!("msg_{}", self.label.id), "type": "message", "role": "assistant",
            "model": self.label.model, "content": content, "stop_reason": reason, "stop_sequence": null,
            "usage": usage,
        })
    }

    fn close(&mut self) -> String {
        match self.open.take() {
            None => String::new(),
            Some((index, _)) => event(&json!({ "type": "content_block_stop", "index": index })),
        }
    }

    /// The index of the open block of this kind; what has to come before it goes to `out`.
    fn block(&mut self, kind: Block, answer: &Answer, out: &mut String) -> usize {
        if let Some((index, open)) = self.open
            && open == kind
        {
            return index;
        }
        out.push_str(&self.close());
        let index = self.blocks;
        self.blocks += 1;
        let block = match kind {
            Block::Text => json!({ "type": "text", "text": "" }),
            Block::Thinking => json!({ "type": "thinking", "thinking": "", "signature": "" }),
            Block::Tool(at) => {
                let call = &answer.calls[at];
                json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": {} })
            }
        };
        out.push_str(&event(
            &json!({ "type": "content_block_start", "index": index, "content_block": block }),
        ));
        self.open = Some((index, kind));
        index
    }
}

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::Tools => "tool_use",
        Finish::Filter => "refusal",
    }
}

/// Anthropic counts tokens from a cache apart.
fn usage(tokens: Tokens) -> Value {
    json!({
        "input_tokens": tokens.prompt.saturating_sub(tokens.cached),
        "cache_read_input_tokens": tokens.cached, "output_tokens": tokens.answer,
    })
}

impl Voice for Messages {
    fn stream_type(&self) -> &'static str {
        "text/event-stream"
    }

    fn begin(&mut self) -> String {
        // How many tokens the prompt has is told at the end, when the engine has told.
        let message = self.message(json!([]), Value::Null, usage(Tokens::default()));
        event(&json!({ "type": "message_start", "message": message }))
    }

    fn part(&mut self, part: Part<'_>, answer: &Answer) -> String {
        let mut out = String::new();
        let (kind, delta) = match part {
            Part::Text(text) => (Block::Text, json!({ "type": "text_delta", "text": text })),
            Part::Thought(text) => (Block::Thinking, json!({ "type": "thinking_delta", "thinking": text })),
            Part::CallBegins(at) => {
                self.block(Block::Tool(at), answer, &mut out);
                return out;
            }
            Part::Arguments(at, text) => {
                (Block::Tool(at), json!({ "type": "input_json_delta", "partial_json": text }))
            }
        };
        let index = self.block(kind, answer, &mut out);
        out + &event(&json!({ "type": "content_block_delta", "index": index, "delta": delta }))
    }

    fn end(&mut self, answer: &Answer) -> String {
        let delta = json!({
            "type": "message_delta", "usage": usage(answer.tokens),
            "delta": { "stop_reason": reason(answer.finish), "stop_sequence": null },
        });
        self.close() + &event(&delta) + &event(&json!({ "type": "message_stop" }))
    }

    fn whole(&mut self, answer: &Answer) -> Value {
        let mut content = Vec::new();
        if !answer.thought.is_empty() {
            content.push(json!({ "type": "thinking", "thinking": answer.thought, "signature": "" }));
        }
        if !answer.text.is_empty() || answer.calls.is_empty() {
            content.push(json!({ "type": "text", "text": answer.text }));
        }
        for call in &answer.calls {
            content.push(
                json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": call.object() }),
            );
        }
        self.message(content.into(), reason(answer.finish).into(), usage(answer.tokens))
    }
}
