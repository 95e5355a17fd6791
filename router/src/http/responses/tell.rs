//! Answers as OpenAI's responses tell them: items with their own beginning and end, and numbered events.

use crate::http::dialect::pieces::Finish;
use crate::http::dialect::translation::{Answer, Label, Part, Voice};
use serde_json::{Value, json};

/// Answers of `/v1/responses`.
pub struct Items {
    label: Label,
    events: u64,
    /// The item that is open, with where its own text begins in the answer's.
    open: Option<(Item, usize)>,
    done: Vec<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Message,
    Reasoning,
    Call(usize),
}

impl Items {
    /// Answers called so.
    #[must_use]
    pub fn new(label: Label) -> Self {
        Self { label, events: 0, open: None, done: Vec::new() }
    }

    fn event(&mut self, mut data: Value) -> String {
        data["sequence_number"] = self.events.into();
        self.events += 1;
        format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
    }

    fn response(&self, status: &str, output: Value, answer: Option<&Answer>) -> Value {
        let cut = answer.is_some_and(|answer| answer.finish == Finish::Length);
        let usage = answer.map(|answer| {
            let tokens = answer.tokens;
            json!({
                "input_tokens": tokens.prompt, "input_tokens_details": { "cached_tokens": tokens.cached },
                "output_tokens": tokens.answer, "output_tokens_details": { "reasoning_tokens": 0 },
                "total_tokens": tokens.prompt + tokens.answer,
            })
        });
        json!({
            "id": format!("resp_{}", self.label.id), "object": "response",
            "created_at": self.label.at_unix_ms / 1000, "status": status, "model": self.label.model,
            "error": null, "output": output, "parallel_tool_calls": true, "tool_choice": "auto", "tools": [],
            "incomplete_details": cut.then(|| json!({ "reason": "max_output_tokens" })), "usage": usage,
        })
    }

    fn item(&self, at: usize, item: Item, from: usize, answer: &Answer, status: &str) -> Value {
        let id = &self.label.id;
        match item {
            Item::Message => {
                let text = answer.text.get(from..).unwrap_or_default();
                let content = if status == "completed" {
                    json!([{ "type": "output_text", "text": text, "annotations": [], "logprobs": [] }])
                } else {
                    json!([])
                };
                json!({
                    "id": format!("msg_{id}_{at}"), "type": "message", "role": "assistant",
                    "status": status, "content": content,
                })
            }
            Item::Reasoning => {
                let text = answer.thought.get(from..).unwrap_or_default();
                let content = if status == "completed" {
                    json!([{ "type": "reasoning_text", "text": text }])
                } else {
                    json!([])
                };
                json!({
                    "id": format!("rs_{id}_{at}"), "type": "reasoning", "status": status, "summary": [],
                    "content": content,
                })
            }
            Item::Call(call) => {
                let call = &answer.calls[call];
                json!({
                    "id": format!("fc_{id}_{at}"), "type": "function_call", "status": status,
                    "call_id": call.id, "name": call.name,
                    "arguments": if status == "completed" { call.arguments.as_str() } else { "" },
                })
            }
        }
    }

    fn close(&mut self, answer: &Answer) -> String {
        let Some((kind, from)) = self.open.take() else { return String::new() };
        let at = self.done.len();
        let item = self.item(at, kind, from, answer, "completed");
        let mut out = String::new();
        let id = item["id"].clone();
        match kind {
            Item::Message => {
                let part = item["content"][0].clone();
                out += &self.event(json!({
                    "type": "response.output_text.done", "item_id": id, "output_index": at, "content_index": 0,
                    "text": part["text"], "logprobs": [],
                }));
                out += &self.event(json!({
                    "type": "response.content_part.done", "item_id": id, "output_index": at,
                    "content_index": 0, "part": part,
                }));
            }
            Item::Reasoning => {
                out += &self.event(json!({
                    "type": "response.reasoning_text.done", "item_id": id, "output_index": at,
                    "content_index": 0, "text": item["content"][0]["text"],
                }));
            }
            Item::Call(_) => {
                out += &self.event(json!({
                    "type": "response.function_call_arguments.done", "item_id": id, "output_index": at,
                    "name": item["name"], "arguments": item["arguments"],
                }));
            }
        }
        out += &self.event(json!({ "type": "response.output_item.done", "output_index": at, "item": item }));
        self.done.push(item);
        out
    }

    /// Opens an item of this kind unless it is open; its id.
    fn open(&mut self, kind: Item, from: usize, answer: &Answer, out: &mut String) -> Value {
        let at = self.done.len();
        if let Some((open, from)) = self.open
            && open == kind
        {
            return self.item(at, kind, from, answer, "in_progress")["id"].clone();
        }
        out.push_str(&self.close(answer));
        let at = self.done.len();
        let item = self.item(at, kind, from, answer, "in_progress");
        let id = item["id"].clone();
        out.push_str(
            &self.event(json!({ "type": "response.output_item.added", "output_index": at, "item": item })),
        );
        if kind == Item::Message {
            out.push_str(&self.event(json!({
                "type": "response.content_part.added", "item_id": id, "output_index": at, "content_index": 0,
                "part": { "type": "output_text", "text": "", "annotations": [], "logprobs": [] },
            })));
        }
        self.open = Some((kind, from));
        id
    }
}

impl Voice for Items {
    fn stream_type(&self) -> &'static str {
        "text/event-stream"
    }

    fn begin(&mut self) -> String {
        let response = self.response("in_progress", json!([]), None);
        self.event(json!({ "type": "response.created", "response": response }))
            + &self.event(json!({ "type": "response.in_progress", "response": response }))
    }

    fn part(&mut self, part: Part<'_>, answer: &Answer) -> String {
        let mut out = String::new();
        let (name, id, delta) = match part {
            Part::Text(text) => {
                let id = self.open(Item::Message, answer.text.len() - text.len(), answer, &mut out);
                ("response.output_text.delta", id, text)
            }
            Part::Thought(text) => {
                let id = self.open(Item::Reasoning, answer.thought.len() - text.len(), answer, &mut out);
                ("response.reasoning_text.delta", id, text)
            }
            Part::CallBegins(at) => {
                self.open(Item::Call(at), 0, answer, &mut out);
                return out;
            }
            // Engines tell their calls one after the other, so the one that is open is meant.
            Part::Arguments(at, text) => {
                let id = self.open(Item::Call(at), 0, answer, &mut out);
                ("response.function_call_arguments.delta", id, text)
            }
        };
        let at = self.done.len();
        let mut data = json!({ "type": name, "item_id": id, "output_index": at, "delta": delta });
        if !matches!(part, Part::Arguments(..)) {
            data["content_index"] = 0.into();
        }
        if matches!(part, Part::Text(_)) {
            data["logprobs"] = json!([]);
        }
        out + &self.event(data)
    }

    fn end(&mut self, answer: &Answer) -> String {
        let mut out = self.close(answer);
        let (name, status) = match answer.finish {
            Finish::Length => ("response.incomplete", "incomplete"),
            Finish::Stop | Finish::Tools | Finish::Filter => ("response.completed", "completed"),
        };
        let output = std::mem::take(&mut self.done).into();
        let response = self.response(status, output, Some(answer));
        out += &self.event(json!({ "type": name, "response": response }));
        out
    }

    fn whole(&mut self, answer: &Answer) -> Value {
        let mut items = Vec::new();
        if !answer.thought.is_empty() {
            items.push(Item::Reasoning);
        }
        if !answer.text.is_empty() || answer.calls.is_empty() {
            items.push(Item::Message);
        }
        items.extend((0..answer.calls.len()).map(Item::Call));
        let output: Vec<Value> = items
            .into_iter()
            .enumerate()
            .map(|(at, item)| self.item(at, item, 0, answer, "completed"))
            .collect();
        let status = if answer.finish == Finish::Length { "incomplete" } else { "completed" };
        self.response(status, output.into(), Some(answer))
    }
}
