//! An engine's answer, told in another dialect: frames in, frames out, or a whole answer in, a whole one out.
//!
//! ```text
//! engine's frames ─► pieces ─► Answer so far ─► Voice (Ollama, Anthropic, responses, texts) ─► client's frames
//! ```

use super::pieces::{CallPart, Finish, NoAnswer, Piece, Source, Tokens};
use bytes::Bytes;
use serde_json::Value;

/// The most bytes of texts and arguments that are held for the end of an answer: a context of a million tokens is
/// 4 MB.
const HELD_LIMIT: usize = 16 << 20;
/// The most tools that one answer may call.
const CALL_LIMIT: usize = 256;

/// What an answer is called towards the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The model that answers.
    pub model: String,
    /// The request's id.
    pub id: String,
    /// When it came in, in milliseconds since 1970.
    pub at_unix_ms: u64,
}

/// An answer, or as much of it as there is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// What was thought before it.
    pub thought: String,
    /// Tools to be called.
    pub calls: Vec<Call>,
    /// Why it ended.
    pub finish: Finish,
    /// What it took.
    pub tokens: Tokens,
}

/// A tool to be called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Call {
    index: u64,
    /// Its id.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments: JSON, if the model can.
    pub arguments: String,
}

impl Call {
    /// The arguments as an object; a text that is none is kept under `arguments`, so that nothing is lost.
    #[must_use]
    pub fn object(&self) -> Value {
        match serde_json::from_str::<Value>(&self.arguments) {
            Ok(object @ Value::Object(_)) => object,
            _ if self.arguments.trim().is_empty() => Value::Object(serde_json::Map::new()),
            _ => serde_json::json!({ "arguments": self.arguments }),
        }
    }
}

/// What is new in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Text of the answer.
    Text(&'a str),
    /// Text of the thinking.
    Thought(&'a str),
    /// A call begins: its place among the calls.
    CallBegins(usize),
    /// More arguments of the last call that began, or of an earlier one.
    Arguments(usize, &'a str),
}

/// A dialect as the mesh itself speaks it.
pub trait Voice: Send {
    /// The media type of its streams.
    fn stream_type(&self) -> &'static str;
    /// What comes before all.
    fn begin(&mut self) -> String;
    /// What is new; `answer` is all there is so far, with it.
    fn part(&mut self, part: Part<'_>, answer: &Answer) -> String;
    /// What comes after all.
    fn end(&mut self, answer: &Answer) -> String;
    /// The answer in one piece.
    fn whole(&mut self, answer: &Answer) -> Value;
}

/// One answer on its way from one dialect to another.
pub struct Translation {
    source: Source,
    voice: Box<dyn Voice>,
    answer: Answer,
    finished: bool,
    begun: bool,
    ended: bool,
}

impl Translation {
    /// From what `source` says to what `voice` speaks.
    #[must_use]
    pub fn new(source: Source, voice: Box<dyn Voice>) -> Self {
        Self { source, voice, answer: Answer::default(), finished: false, begun: false, ended: false }
    }

    /// The media type of the client's stream.
    #[must_use]
    pub fn stream_type(&self) -> &'static str {
        self.voice.stream_type()
    }

    /// Whole frames of the engine's stream, told to the client.
    ///
    /// # Errors
    /// [`NoAnswer`] when one of them is no part of an answer, or more has to be held than fits.
    pub fn frames(&mut self, frames: &[u8]) -> Result<Bytes, NoAnswer> {
        let mut out = String::new();
        for line in frames.split(|&byte| byte == b'\n') {
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let data = data.trim_ascii();
            if data.is_empty() || self.ended {
                continue;
            }
            if data == b"[DONE]" {
                self.end(&mut out);
                continue;
            }
            self.tell(data, &mut out)?;
            if self.source == Source::Llama && self.finished {
                self.end(&mut out);
            }
        }
        Ok(out.into())
    }

    /// A whole answer of the engine for a client that asked for a stream.
    ///
    /// # Errors
    /// [`NoAnswer`] when it is none.
    pub fn whole_as_stream(&mut self, body: &[u8]) -> Result<Bytes, NoAnswer> {
        let mut out = String::new();
        self.tell(body, &mut out)?;
        self.end(&mut out);
        Ok(out.into())
    }

    /// A whole answer of the engine as a whole answer.
    ///
    /// # Errors
    /// [`NoAnswer`] when it is none.
    pub fn whole(&mut self, body: &[u8]) -> Result<Bytes, NoAnswer> {
        for piece in self.source.pieces(body)? {
            self.take(piece, &mut |_, _| ())?;
        }
        self.settle();
        Ok(self.voice.whole(&self.answer).to_string().into())
    }

    fn tell(&mut self, json: &[u8], out: &mut String) -> Result<(), NoAnswer> {
        let pieces = self.source.pieces(json)?;
        if !self.begun {
            self.begun = true;
            out.push_str(&self.voice.begin());
        }
        // Out of `self` for as long as both it and the rest are borrowed.
        let mut voice = std::mem::replace(&mut self.voice, Box::new(Mute));
        let mut told = Ok(());
        for piece in pieces {
            told = self.take(piece, &mut |part, answer| out.push_str(&voice.part(part, answer)));
            if told.is_err() {
                break;
            }
        }
        self.voice = voice;
        told
    }

    fn take(&mut self, piece: Piece, tell: &mut dyn FnMut(Part<'_>, &Answer)) -> Result<(), NoAnswer> {
        match piece {
            Piece::Text(text) => {
                self.answer.text.push_str(&text);
                tell(Part::Text(&text), &self.answer);
            }
            Piece::Thought(text) => {
                self.answer.thought.push_str(&text);
                tell(Part::Thought(&text), &self.answer);
            }
            Piece::Call(part) => {
                let at = self.call(&part, tell)?;
                if !part.arguments.is_empty() {
                    self.answer.calls[at].arguments.push_str(&part.arguments);
                    tell(Part::Arguments(at, &part.arguments), &self.answer);
                }
            }
            Piece::Finish(finish) => {
                self.answer.finish = finish;
                self.finished = true;
            }
            Piece::Tokens(tokens) => self.answer.tokens = tokens,
        }
        let arguments: usize = self.answer.calls.iter().map(|call| call.arguments.len()).sum();
        let held = self.answer.text.len() + self.answer.thought.len() + arguments;
        if held > HELD_LIMIT { Err(NoAnswer) } else { Ok(()) }
    }

    /// The place of a call, which begins if it is new.
    fn call(&mut self, part: &CallPart, tell: &mut dyn FnMut(Part<'_>, &Answer)) -> Result<usize, NoAnswer> {
        if let Some(at) = self.answer.calls.iter().position(|call| call.index == part.index) {
            return Ok(at);
        }
        let at = self.answer.calls.len();
        if at == CALL_LIMIT {
            return Err(NoAnswer);
        }
        self.answer.calls.push(Call {
            index: part.index,
            id: part.id.clone().unwrap_or_else(|| format!("call_{at}")),
            name: part.name.clone().unwrap_or_default(),
            arguments: String::new(),
        });
        tell(Part::CallBegins(at), &self.answer);
        Ok(at)
    }

    /// Some engines say `stop` although tools are to be called.
    fn settle(&mut self) {
        if self.answer.finish == Finish::Stop && !self.answer.calls.is_empty() {
            self.answer.finish = Finish::Tools;
        }
    }

    fn end(&mut self, out: &mut String) {
        if self.ended {
            return;
        }
        self.ended = true;
        self.settle();
        if !self.begun {
            self.begun = true;
            out.push_str(&self.voice.begin());
        }
        out.push_str(&self.voice.end(&self.answer));
    }
}

/// Stands in for a voice while that is in use.
struct Mute;

impl Voice for Mute {
    fn stream_type(&self) -> &'static str {
        ""
    }
    fn begin(&mut self) -> String {
        String::new()
    }
    fn part(&mut self, _: Part<'_>, _: &Answer) -> String {
        String::new()
    }
    fn end(&mut self, _: &Answer) -> String {
        String::new()
    }
    fn whole(&mut self, _: &Answer) -> Value {
        Value::Null
    }
}
