//! The few fields of a request body that routing needs, and the splices that are made in it. The body itself
//! is never re-serialised: what the client wrote is what the engine reads, byte for byte, but for the value of
//! `model`, on streams that lack it `stream_options.include_usage`, and limits of the answer that are over what
//! the context or the mode leaves.
//!
//! One scan ([`scan`]) checks the whole body and finds the fields; what it steps over is not decoded. A body that
//! an engine might read differently is refused: a field given twice, or in another spelling that readers
//! without regard for case take for the same.

pub(crate) mod scan;

use bytes::{Bytes, BytesMut};
pub use scan::Unsound;
use scan::{Fault, Field, Met};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::ops::Range;

/// Fields of which a second one, or one in another spelling, is refused.
const NAMES: [&str; 15] = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n_predict",
    "n",
    "tools",
    "suffix",
    "messages",
    "prompt",
    "input",
    "system",
    "instructions",
];
/// Where the limits of the answer stand in [`NAMES`].
const LIMITS: Range<usize> = 3..7;
/// Where `messages` and `input` stand in [`NAMES`].
const MESSAGES: usize = 10;
const INPUT: usize = 12;

/// What a body says and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What the client asked for.
    pub model: String,
    /// Whether the answer is to be a stream.
    pub stream: bool,
    /// Whether the client wants the usage frame of its stream.
    pub wants_usage: bool,
    /// How many answers it wants at once: `n`, 1 where it does not say.
    pub choices: u64,
    /// Whether it brings tools.
    pub tools: bool,
    /// Whether it wants a middle filled in.
    pub suffix: bool,
    /// Where the bytes of the prompt stand: the value of `messages`, else of `prompt`, else of `input`.
    pub prompt: Option<Range<usize>>,
    /// What makes its `messages` none that a chat can begin with; [`Unsound::Missing`] also where none belong.
    pub unsound: Option<Unsound>,
    /// The same of the items of its `input`.
    pub items: Option<Unsound>,
    /// Where the value of `tools` stands.
    pub tools_at: Option<Range<usize>>,
    /// Where the value of `system` stands: Anthropic's, and Ollama's for completions.
    pub system: Option<Range<usize>>,
    /// Where the value of `instructions` stands: that of OpenAI's responses.
    pub instructions: Option<Range<usize>>,
    limits: [Option<Limit>; LIMITS.end - LIMITS.start],
    model_at: Range<usize>,
    first_field: usize,
    usage: UsageSplice,
}

/// A limit of the answer that the client gave.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    at: Range<usize>,
    tokens: Tokens,
}

/// What a limit of the answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tokens {
    /// This many.
    AtMost(u64),
    /// Null or a negative number.
    Endless,
    /// No number: the engine will refuse it in its own words.
    Nonsense,
}

/// The most tokens that an answer may have, towards the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    /// Tokens.
    pub tokens: u32,
    /// The field that is added where the client gave no limit; `None` = then none is added.
    pub add: Option<&'static str>,
}

/// What must be inserted so that the engine sends a usage frame.
#[derive(Debug, Clone, PartialEq, Eq)]
enum UsageSplice {
    /// Nothing: it is asked for, or the answer is no stream.
    None,
    /// `"stream_options":{"include_usage":true},` right after the body's opening brace.
    WholeField(usize),
    /// The same in place of a null.
    Replace(Range<usize>),
    /// `true` in place of the client's own value.
    Flag(Range<usize>),
    /// `"include_usage":true` (and a comma before others) right after the brace of `stream_options`.
    InObject { at: usize, comma: bool },
}

/// Why a body cannot be routed. Nothing of the body is in the text, for it may be a prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// No JSON, or no object.
    #[error("the body is not a JSON object: {what} at line {line}, column {column}")]
    NotJson {
        /// What kind of mistake.
        what: &'static str,
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// A field is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A field has another type.
    #[error("`{0}` must be {1}")]
    WrongType(&'static str, &'static str),
    /// A field is given twice.
    #[error("`{0}` is given twice: some engines would read the first one, others the last")]
    Twice(&'static str),
    /// A field's name differs from one that is read here in case only.
    #[error("`{0}` must be written exactly so: some engines would read another spelling of it, others not")]
    Spelling(&'static str),
}

/// What stops a scan.
enum Stop {
    Met(Met),
    /// A field of [`NAMES`] for the second time.
    Twice(&'static str),
    Spelling(&'static str),
}

impl From<Met> for Stop {
    fn from(met: Met) -> Self {
        Self::Met(met)
    }
}

impl HeadError {
    /// The field that it is about.
    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::NotJson { .. } => None,
            Self::Missing(field) | Self::WrongType(field, _) | Self::Twice(field) | Self::Spelling(field) => {
                Some(field)
            }
        }
    }
}

impl Head {
    /// Reads the head of a request. Embeddings never stream, whatever the client says: `may_stream`.
    ///
    /// # Errors
    /// [`HeadError`] when the body is no JSON object, could be read in two ways, or lacks a usable `model`.
    pub fn read(body: &[u8], may_stream: bool) -> Result<Self, HeadError> {
        let mut found: [Option<Range<usize>>; NAMES.len()] = [const { None }; NAMES.len()];
        let (mut unsound, mut items) = (Some(Unsound::Missing), Some(Unsound::Missing));
        let mut first_field = None;
        let whole = scan::fields(body, |field| {
            first_field.get_or_insert(field.key.start);
            let Some(name) = known(body, &field)? else { return Ok(()) };
            if found[name].is_some() {
                return Err(Stop::Twice(NAMES[name]));
            }
            match name {
                MESSAGES => unsound = field.unsound,
                INPUT => items = field.unsound,
                _ => {}
            }
            found[name] = Some(field.value);
            Ok(())
        })
        .map_err(|stop| refused(body, stop))?;
        let text = |at: &Range<usize>| &whole[at.clone()];
        let [
            model,
            stream,
            options,
            max,
            max_completion,
            max_output,
            predict,
            n,
            tools,
            suffix,
            messages,
            prompt,
            input,
            system,
            instructions,
        ] = found;
        let model_at = model.ok_or(HeadError::Missing("model"))?;
        let model = unquoted(text(&model_at)).ok_or(HeadError::WrongType("model", "a string"))?.into_owned();
        let stream = match stream.as_ref().map(text) {
            None | Some("null" | "false") => false,
            Some("true") => may_stream,
            Some(_) => return Err(HeadError::WrongType("stream", "true or false")),
        };
        let first_field = first_field.unwrap_or(model_at.start);
        let (wants_usage, usage) = match options {
            _ if !stream => (true, UsageSplice::None),
            None => (false, UsageSplice::WholeField(first_field)),
            Some(at) => usage_splice(text(&at), at)?,
        };
        let limit = |at: Option<Range<usize>>| at.map(|at| Limit { tokens: Tokens::read(text(&at)), at });
        Ok(Self {
            model,
            stream,
            wants_usage,
            choices: n.and_then(|at| text(&at).parse().ok()).unwrap_or(1),
            tools: tools.as_ref().is_some_and(|at| is_filled(text(at))),
            suffix: suffix.as_ref().is_some_and(|at| is_filled(text(at))),
            prompt: messages.or(prompt).or(input),
            unsound,
            items,
            tools_at: tools,
            system,
            instructions,
            limits: [max, max_completion, max_output, predict].map(limit),
            model_at,
            first_field,
            usage,
        })
    }

    /// The most tokens of the answer that the client allows, where it says.
    #[must_use]
    pub fn max_tokens(&self) -> Option<u64> {
        let tokens = self.limits.iter().flatten().filter_map(|limit| match limit.tokens {
            Tokens::AtMost(tokens) => Some(tokens),
            Tokens::Endless | Tokens::Nonsense => None,
        });
        tokens.min()
    }

    /// Whether the request is changed by `cap`.
    #[must_use]
    pub fn is_over(&self, cap: Cap) -> bool {
        let mut edits = Vec::new();
        self.cap_edits(cap, &mut edits);
        !edits.is_empty()
    }

    /// Whether the prompt seems to hold pictures or sounds, whose tokens cannot be told from their bytes. A
    /// prompt that only speaks of such fields in a text does not count.
    #[must_use]
    pub fn has_media(&self, body: &[u8]) -> bool {
        const FIELDS: [&[u8]; 4] = [b"image", b"input_image", b"input_audio", b"video"];
        let Some(prompt) = self.prompt.as_ref().and_then(|at| body.get(at.clone())) else { return false };
        // Inside a text the quote has a backslash before it.
        memchr::memchr_iter(b'"', prompt).any(|at| {
            (at == 0 || prompt[at - 1] != b'\\')
                && FIELDS.iter().any(|field| prompt[at + 1..].starts_with(field))
        })
    }

    /// The body with the engine's name for the model, and with usage asked for.
    #[must_use]
    pub fn splice(&self, body: &Bytes, model: &str) -> Bytes {
        self.splice_capped(body, model, None)
    }

    /// The same, with limits of the answer that are over `cap` lowered to it.
    #[must_use]
    pub fn splice_capped(&self, body: &Bytes, model: &str, cap: Option<Cap>) -> Bytes {
        let name = serde_json::to_string(model).expect("a string is valid JSON");
        let mut edits: Vec<Edit> = vec![(self.model_at.clone(), name.into())];
        match &self.usage {
            UsageSplice::None => {}
            UsageSplice::WholeField(at) => {
                edits.push((*at..*at, r#""stream_options":{"include_usage":true},"#.into()));
            }
            UsageSplice::Replace(at) => edits.push((at.clone(), r#"{"include_usage":true}"#.into())),
            UsageSplice::Flag(at) => edits.push((at.clone(), "true".into())),
            UsageSplice::InObject { at, comma } => {
                let text = if *comma { r#""include_usage":true,"# } else { r#""include_usage":true"# };
                edits.push((*at..*at, text.into()));
            }
        }
        if let Some(cap) = cap {
            self.cap_edits(cap, &mut edits);
        }
        replace(body, edits)
    }

    fn cap_edits(&self, cap: Cap, edits: &mut Vec<Edit>) {
        let (mut bounded, mut endless) = (false, None);
        for limit in self.limits.iter().flatten() {
            match limit.tokens {
                Tokens::AtMost(tokens) => {
                    bounded = true;
                    if tokens > u64::from(cap.tokens) {
                        edits.push((limit.at.clone(), cap.tokens.to_string().into()));
                    }
                }
                Tokens::Endless => endless = Some(limit),
                Tokens::Nonsense => return,
            }
        }
        match (cap.add, endless) {
            (Some(_), Some(limit)) if !bounded => {
                edits.push((limit.at.clone(), cap.tokens.to_string().into()))
            }
            (Some(name), None) if !bounded => {
                edits
                    .push((self.first_field..self.first_field, format!("\"{name}\":{},", cap.tokens).into()));
            }
            _ => {}
        }
    }
}

/// A piece of a body and what takes its place.
pub type Edit = (Range<usize>, Cow<'static, str>);

/// `body` with new texts in some places, which do not overlap.
#[must_use]
pub fn replace(body: &[u8], mut edits: Vec<Edit>) -> Bytes {
    edits.sort_by_key(|(range, _)| range.start);
    let added: usize = edits.iter().map(|(_, text)| text.len()).sum();
    let mut out = BytesMut::with_capacity(body.len() + added);
    let mut copied = 0;
    for (range, text) in edits {
        out.extend_from_slice(&body[copied..range.start]);
        out.extend_from_slice(text.as_bytes());
        copied = range.end;
    }
    out.extend_from_slice(&body[copied..]);
    out.freeze()
}

impl Tokens {
    fn read(value: &str) -> Self {
        if let Ok(tokens) = value.parse() {
            return Self::AtMost(tokens);
        }
        match value.parse::<f64>() {
            _ if value == "null" => Self::Endless,
            Ok(number) if number < 0.0 => Self::Endless,
            // Saturates; engines cut fractions too.
            Ok(number) => Self::AtMost(number as u64),
            Err(_) => Self::Nonsense,
        }
    }
}

/// Which of [`NAMES`] a field is.
fn known(body: &[u8], field: &Field) -> Result<Option<usize>, Stop> {
    let raw = &body[field.key.clone()];
    let plain = &raw[1..raw.len() - 1];
    let name: Cow<'_, [u8]> = if field.escaped {
        let text = std::str::from_utf8(raw).expect("the scan checked it");
        // Half a surrogate pair: no reader agrees with another on what that is.
        let name: String =
            serde_json::from_str(text).map_err(|_| Stop::Met((Fault::Syntax, field.key.end)))?;
        name.into_bytes().into()
    } else {
        plain.into()
    };
    let at = match &*name {
        b"model" => 0,
        b"stream" => 1,
        b"stream_options" => 2,
        b"max_tokens" => 3,
        b"max_completion_tokens" => 4,
        b"max_output_tokens" => 5,
        b"n_predict" => 6,
        b"n" => 7,
        b"tools" => 8,
        b"suffix" => 9,
        b"messages" => 10,
        b"prompt" => 11,
        b"input" => 12,
        b"system" => 13,
        b"instructions" => 14,
        // Ollama's reader (Go) takes `Model` for `model`, and by Unicode's folding also U+017F for s and U+212A
        // for k.
        other => {
            let lower = |c: char| match c {
                '\u{17f}' => 's',
                '\u{212a}' => 'k',
                other => other.to_ascii_lowercase(),
            };
            let other = std::str::from_utf8(other).expect("the scan checked it");
            let same = |wanted: &&&str| wanted.chars().eq(other.chars().map(lower));
            return match NAMES.iter().find(same) {
                Some(wanted) => Err(Stop::Spelling(wanted)),
                None => Ok(None),
            };
        }
    };
    Ok(Some(at))
}

/// Why a scan ended early, in words for the client. Only here the body is read a second time, by a reader that
/// counts lines.
fn refused(body: &[u8], stop: Stop) -> HeadError {
    let (what, at) = match stop {
        Stop::Spelling(name) => return HeadError::Spelling(name),
        Stop::Twice(name) => return HeadError::Twice(name),
        Stop::Met((Fault::Depth, at)) => ("nested too deeply", at),
        Stop::Met((Fault::Encoding, at)) => ("no UTF-8", at),
        Stop::Met((Fault::Syntax, at)) => ("syntax error", at),
    };
    if let (Stop::Met((Fault::Syntax, _)), Err(error)) = (&stop, serde_json::from_slice::<IgnoredAny>(body)) {
        return not_json(&error);
    }
    if !body.trim_ascii_start().starts_with(b"{") {
        return HeadError::NotJson { what: "not an object", line: 1, column: 1 };
    }
    let before = &body[..at.min(body.len())];
    let line_start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    HeadError::NotJson { what, line, column: before.len() - line_start + 1 }
}

/// The text of a JSON string.
fn unquoted(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(inner.into()) }
}

/// Whether a value is there and not empty.
fn is_filled(raw: &str) -> bool {
    raw != "null" && raw != "\"\"" && raw.strip_prefix('[').is_none_or(|rest| rest.trim_start() != "]")
}

fn usage_splice(raw: &str, at: Range<usize>) -> Result<(bool, UsageSplice), HeadError> {
    #[derive(Deserialize)]
    struct Options<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        include_usage: Option<&'a RawValue>,
    }
    const FLAG: HeadError = HeadError::WrongType("stream_options.include_usage", "true or false");
    const OBJECT: HeadError = HeadError::WrongType("stream_options", "an object");
    if raw == "null" {
        return Ok((false, UsageSplice::Replace(at)));
    }
    if !raw.starts_with('{') {
        return Err(OBJECT);
    }
    let parsed: Options<'_> = serde_json::from_str(raw).map_err(|_| FLAG)?;
    Ok(match parsed.include_usage.map(RawValue::get) {
        Some("true") => (true, UsageSplice::None),
        Some(other @ ("false" | "null")) => {
            let from = at.start + (other.as_ptr() as usize - raw.as_ptr() as usize);
            (false, UsageSplice::Flag(from..from + other.len()))
        }
        Some(_) => return Err(FLAG),
        None => {
            let comma = !raw[1..].trim_start().starts_with('}');
            (false, UsageSplice::InObject { at: at.start + 1, comma })
        }
    })
}

/// A field that is there, even as null: serde alone would read a null as an absent field.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

fn not_json(error: &serde_json::Error) -> HeadError {
    // The library's own text may quote the body.
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Syntax => "syntax error",
        serde_json::error::Category::Data => "wrong type",
        serde_json::error::Category::Io => "unreadable",
    };
    HeadError::NotJson { what, line: error.line(), column: error.column() }
}

#[cfg(test)]
#[path = "head/tests.rs"]
mod tests;
