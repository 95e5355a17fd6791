//! What of a request's body decides where it is cheap to serve: the starts of its prompt as hashes, and what it needs
//! of a model. One pass over the raw bytes; nothing is parsed into values, changed or kept.
//!
//! Engines put tools and system prompt before the messages, whatever their order in the body, so they are hashed first.
//! A start ends with a message, and at every 2 KB of a longer one: a conversation that goes on, and another one with the
//! same system prompt, have starts in common.

use memchr::memchr2;
use memchr::memmem;
use mesh_core::prefix::Block;
use mesh_core::routing::Needs;
use std::ops::Range;
use std::sync::Arc;
use twox_hash::XxHash3_64;

/// A start ends here even within a message: some 500 tokens, about what engines compare at once.
const BLOCK: usize = 2_048;
/// A shorter message gets no start of its own; the next one takes it along.
const LEAST_BLOCK: usize = 256;
/// The most starts of one prompt: 2 MB of long messages, beyond every context of today.
const BLOCKS: usize = 1_024;
/// Bytes of one token: English and code are near four. Only for comparing machines.
const BYTES_PER_TOKEN: usize = 4;

/// What one pass over a body has found.
#[derive(Debug, Clone, Default)]
pub struct PromptPrefix {
    /// The starts of the prompt.
    pub blocks: Arc<[Block]>,
    /// What the model must be able to do.
    pub needs: Needs,
}

impl PromptPrefix {
    /// Reads `body`, a JSON object. What is no JSON gives fewer starts, never an error: others judge the body.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        let mut parts = Parts::default();
        parts.find(body);
        let mut chain = Chain::default();
        for part in [&parts.tools, &parts.system, &parts.messages] {
            for range in part {
                chain.add(&body[range.clone()]);
            }
        }
        chain.end();
        let messages = parts.messages.first().zip(parts.messages.last());
        let text = messages.map_or(&[][..], |(first, last)| &body[first.start..last.end]);
        let is_there = |what: &[u8]| memmem::find(text, what).is_some();
        let vision = is_there(b"\"image_url\"") || is_there(b"\"input_image\"");
        let needs = Needs { tools: !parts.tools.is_empty(), vision, fim: parts.has_suffix };
        Self { blocks: chain.blocks.into(), needs }
    }
}

/// Where the parts of a prompt stand in a body.
#[derive(Default)]
struct Parts {
    tools: Vec<Range<usize>>,
    system: Vec<Range<usize>>,
    /// Each message, or the whole prompt.
    messages: Vec<Range<usize>>,
    has_suffix: bool,
}

impl Parts {
    /// Goes through the object's own fields.
    fn find(&mut self, body: &[u8]) {
        let Some(open) = skip_space(body, 0).filter(|at| body[*at] == b'{') else { return };
        let mut at = open + 1;
        while let Some((name, value)) = field(body, at) {
            match &body[name] {
                b"\"messages\"" | b"\"input\"" => self.messages = elements(body, value.clone()),
                b"\"prompt\"" => self.messages = vec![value.clone()],
                b"\"tools\"" => self.tools = elements(body, value.clone()),
                b"\"system\"" => self.system = vec![value.clone()],
                b"\"suffix\"" => self.has_suffix = &body[value.clone()] != b"null",
                _ => {}
            }
            match skip_space(body, value.end) {
                Some(comma) if body[comma] == b',' => at = comma + 1,
                _ => return,
            }
        }
    }
}

/// The name (with its quotes) and the value of the field that starts at `at`.
fn field(body: &[u8], at: usize) -> Option<(Range<usize>, Range<usize>)> {
    let name = skip_space(body, at).filter(|at| body[*at] == b'"')?;
    let name = name..string_end(body, name)?;
    let colon = skip_space(body, name.end).filter(|at| body[*at] == b':')?;
    let value = skip_space(body, colon + 1)?;
    Some((name, value..value_end(body, value)?))
}

/// The elements of an array; anything else is its own only element.
fn elements(body: &[u8], value: Range<usize>) -> Vec<Range<usize>> {
    if body[value.start] != b'[' {
        return vec![value];
    }
    let (mut found, mut at) = (Vec::new(), value.start + 1);
    while let Some(start) = skip_space(body, at).filter(|start| *start < value.end - 1) {
        let Some(end) = value_end(body, start) else { break };
        if found.len() == BLOCKS {
            break;
        }
        found.push(start..end);
        match skip_space(body, end) {
            Some(comma) if body[comma] == b',' => at = comma + 1,
            _ => break,
        }
    }
    found
}

fn skip_space(body: &[u8], at: usize) -> Option<usize> {
    let rest = body.get(at..)?;
    rest.iter().position(|byte| !byte.is_ascii_whitespace()).map(|skipped| at + skipped)
}

/// The end of the string whose quote is at `start`.
fn string_end(body: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr2(b'"', b'\\', body.get(at..)?)?;
        if body[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The end of the value at `start`. Depth is counted, not recursed into.
fn value_end(body: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut depth) = (start, 0_usize);
    loop {
        match body.get(at)? {
            b'"' => at = string_end(body, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            _ if depth > 0 => {
                at += 1;
                continue;
            }
            // A number or a word.
            _ => {
                let stop = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                return body[at..]
                    .iter()
                    .position(stop)
                    .filter(|length| *length > 0)
                    .map(|length| at + length);
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Chains hashes: each block's seed is the hash of all before it.
#[derive(Default)]
struct Chain {
    blocks: Vec<Block>,
    hash: u64,
    /// Bytes so far, those of `open` included.
    bytes: usize,
    /// Bytes hashed since the last start ended.
    open: usize,
}

impl Chain {
    fn add(&mut self, mut message: &[u8]) {
        // A start ends at the same places whatever comes after it.
        while self.open + message.len() >= BLOCK {
            let (first, rest) = message.split_at(BLOCK - self.open);
            self.take(first);
            self.end();
            message = rest;
        }
        self.take(message);
        if self.open >= LEAST_BLOCK {
            self.end();
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.hash = XxHash3_64::oneshot_with_seed(self.hash, bytes);
            self.bytes += bytes.len();
            self.open += bytes.len();
        }
    }

    fn end(&mut self) {
        if self.open > 0 && self.blocks.len() < BLOCKS {
            let tokens = u32::try_from(self.bytes / BYTES_PER_TOKEN).unwrap_or(u32::MAX);
            self.blocks.push(Block { hash: self.hash, tokens });
        }
        self.open = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(body: &Value) -> PromptPrefix {
        PromptPrefix::read(body.to_string().as_bytes())
    }

    fn message(role: &str, letter: &str, length: usize) -> Value {
        json!({"role": role, "content": letter.repeat(length)})
    }

    fn common(a: &PromptPrefix, b: &PromptPrefix) -> usize {
        a.blocks.iter().zip(b.blocks.iter()).take_while(|(a, b)| a == b).count()
    }

    #[test]
    fn a_conversation_that_goes_on_has_the_starts_of_before() {
        let before =
            json!({"model": "m", "messages": [message("system", "s", 5_000), message("user", "u", 400)]});
        let mut after = before.clone();
        let messages = after["messages"].as_array_mut().expect("an array");
        messages.extend([message("assistant", "a", 300), message("user", "v", 300)]);
        let (before, after) = (read(&before), read(&after));
        assert_eq!(before.blocks.len(), 4, "two whole blocks, the rest of the system prompt, the question");
        assert_eq!(common(&before, &after), 4);
        assert_eq!(after.blocks.len(), 6);
        let tokens: Vec<u32> = before.blocks.iter().map(|block| block.tokens).collect();
        assert!(tokens.is_sorted() && (1_300..1_400).contains(&tokens[3]), "{tokens:?}");
    }

    #[test]
    fn another_question_under_the_same_system_prompt_shares_only_that() {
        let ask = |letter| json!({"messages": [message("system", "s", 5_000), message("user", letter, 400)]});
        assert_eq!(common(&read(&ask("u")), &read(&ask("v"))), 3);
    }

    #[test]
    fn tools_come_first_wherever_they_stand_and_other_fields_change_nothing() {
        let (tools, messages) = (json!([{"name": "t".repeat(300)}]), json!([message("user", "u", 400)]));
        let one = json!({"model": "a", "messages": messages, "tools": tools, "temperature": 0.5});
        let other = json!({"tools": tools, "stream": true, "messages": messages, "model": "b"});
        assert_eq!(read(&one).blocks, read(&other).blocks);
        assert_eq!(read(&one).blocks.len(), 2);
        let without = json!({"messages": messages});
        assert_eq!(common(&read(&one), &read(&without)), 0, "the engine's prompt starts with them");
    }

    #[test]
    fn the_whitespace_between_messages_does_not_count_and_that_in_them_does() {
        let compact = br#"{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"}]}"#;
        let loose = b"{ \"messages\" : [ {\"role\":\"user\",\"content\":\"a\"} ,\n {\"role\":\"user\",\"content\":\"b\"} ] }";
        assert_eq!(PromptPrefix::read(compact).blocks, PromptPrefix::read(loose).blocks);
        let inner = br#"{"messages":[{"role":"user", "content":"a"},{"role":"user","content":"b"}]}"#;
        assert_ne!(PromptPrefix::read(compact).blocks, PromptPrefix::read(inner).blocks);
    }

    #[test]
    fn what_a_request_needs_is_seen() {
        let needs = |body: Value| read(&body).needs;
        assert_eq!(needs(json!({"messages": [message("user", "u", 9)]})), Needs::default());
        assert_eq!(needs(json!({"messages": [], "tools": []})), Needs::default(), "no tool at all");
        assert!(needs(json!({"messages": [], "tools": [{"type": "function"}]})).tools);
        assert!(needs(json!({"prompt": "a", "suffix": "b"})).fim);
        assert!(!needs(json!({"prompt": "a", "suffix": null})).fim);
        let image =
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]);
        assert!(needs(json!({"messages": image})).vision);
        let quoted = json!([{"role": "user", "content": "what is \"image_url\" in JSON?"}]);
        assert!(!needs(json!({"messages": quoted})).vision, "a word in a text is no image");
    }

    #[test]
    fn a_body_cut_anywhere_or_broken_is_read_without_a_panic() {
        let body = json!({
            "model": "m", "messages": [message("system", "\"\\s", 900), {"content": [1, {"a": [null, true]}]}],
            "tools": [{"a": {}}], "prompt": "x", "suffix": "y"
        })
        .to_string();
        for cut in 0..=body.len() {
            drop(PromptPrefix::read(&body.as_bytes()[..cut]));
        }
        for broken in [
            "",
            "{",
            "[]",
            "{\"messages\":",
            "{\"messages\":}",
            "{\"messages\":[}",
            "{\"messages\":[,]}",
            "{\"a\":1}}}",
            "\"",
            "{\"a\\",
        ] {
            assert!(PromptPrefix::read(broken.as_bytes()).blocks.is_empty(), "{broken}");
        }
        let deep = format!("{{\"messages\":{}", "[".repeat(1_000_000));
        drop(PromptPrefix::read(deep.as_bytes()));
    }

    #[test]
    fn a_million_messages_give_no_more_starts_than_the_bound() {
        let body = format!(
            "{{\"messages\":[{}]}}",
            vec!["\"".to_owned() + &"x".repeat(300) + "\""; 5_000].join(",")
        );
        assert_eq!(PromptPrefix::read(body.as_bytes()).blocks.len(), BLOCKS);
        let long = json!({"prompt": "x".repeat(4 << 20)}).to_string();
        assert_eq!(PromptPrefix::read(long.as_bytes()).blocks.len(), BLOCKS);
    }
}
