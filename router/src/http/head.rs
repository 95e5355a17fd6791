//! The few fields of a request body that routing needs, and the splices that are made in it. The body itself
//! is never re-serialised: what the client wrote is what the engine reads, byte for byte, but for the value of
//! `model` and, on streams that lack it, `stream_options.include_usage`.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::ops::Range;

/// Fields of interest, borrowed from the body. Unknown fields are skipped, not copied.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    model: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    stream: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    stream_options: Option<&'a RawValue>,
}

/// A field that is there, even as null: serde alone would read a null as an absent field.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// What a body says and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What the client asked for.
    pub model: String,
    /// Whether the answer is to be a stream.
    pub stream: bool,
    /// Whether the client wants the usage frame of its stream.
    pub wants_usage: bool,
    model_at: Range<usize>,
    usage: UsageSplice,
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
}

impl Head {
    /// Reads the head of a request. Embeddings never stream, whatever the client says: `may_stream`.
    ///
    /// # Errors
    /// [`HeadError`] when the body is no JSON object or lacks a usable `model`.
    pub fn read(body: &[u8], may_stream: bool) -> Result<Self, HeadError> {
        let fields: Fields<'_> = serde_json::from_slice(body).map_err(|error| not_json(&error))?;
        // serde reads an array into a struct too, field by field.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(HeadError::NotJson { what: "not an object", line: 1, column: 1 });
        }
        let raw_model = fields.model.ok_or(HeadError::Missing("model"))?;
        let model: Cow<'_, str> =
            serde_json::from_str(raw_model.get()).map_err(|_| HeadError::WrongType("model", "a string"))?;
        let stream = match fields.stream.map(RawValue::get) {
            None | Some("null" | "false") => false,
            Some("true") => may_stream,
            Some(_) => return Err(HeadError::WrongType("stream", "true or false")),
        };
        let (wants_usage, usage) = usage_splice(body, stream, fields.stream_options)?;
        Ok(Self {
            model: model.into_owned(),
            stream,
            wants_usage,
            model_at: span(body, raw_model.get()),
            usage,
        })
    }

    /// The body with the engine's name for the model, and with usage asked for.
    #[must_use]
    pub fn splice(&self, body: &Bytes, model: &str) -> Bytes {
        let name = serde_json::to_string(model).expect("a string is valid JSON");
        let mut edits: Vec<(Range<usize>, Cow<'_, str>)> = vec![(self.model_at.clone(), name.into())];
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
        edits.sort_by_key(|(range, _)| range.start);
        let mut out = BytesMut::with_capacity(body.len() + 64 + model.len());
        let mut copied = 0;
        for (range, text) in edits {
            out.extend_from_slice(&body[copied..range.start]);
            out.extend_from_slice(text.as_bytes());
            copied = range.end;
        }
        out.extend_from_slice(&body[copied..]);
        out.freeze()
    }
}

fn usage_splice(
    body: &[u8],
    stream: bool,
    options: Option<&RawValue>,
) -> Result<(bool, UsageSplice), HeadError> {
    #[derive(Deserialize)]
    struct Options<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        include_usage: Option<&'a RawValue>,
    }
    const FLAG: HeadError = HeadError::WrongType("stream_options.include_usage", "true or false");
    const OBJECT: HeadError = HeadError::WrongType("stream_options", "an object");
    if !stream {
        return Ok((true, UsageSplice::None));
    }
    let Some(raw) = options.map(RawValue::get) else {
        // `Fields` was read from an object, so the first brace is its own.
        let brace = body.iter().position(|&byte| byte == b'{').ok_or(OBJECT)?;
        return Ok((false, UsageSplice::WholeField(brace + 1)));
    };
    let at = span(body, raw);
    if raw == "null" {
        return Ok((false, UsageSplice::Replace(at)));
    }
    if !raw.starts_with('{') {
        return Err(OBJECT);
    }
    let parsed: Options<'_> = serde_json::from_str(raw).map_err(|_| FLAG)?;
    Ok(match parsed.include_usage.map(RawValue::get) {
        Some("true") => (true, UsageSplice::None),
        Some(other @ ("false" | "null")) => (false, UsageSplice::Flag(span(body, other))),
        Some(_) => return Err(FLAG),
        None => {
            let comma = !raw[1..].trim_start().starts_with('}');
            (false, UsageSplice::InObject { at: at.start + 1, comma })
        }
    })
}

/// Where `part`, which was borrowed from `body`, stands in it.
fn span(body: &[u8], part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize) - (body.as_ptr() as usize);
    start..start + part.len()
}

fn not_json(error: &serde_json::Error) -> HeadError {
    // The library's own text may quote the body.
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Syntax => "syntax error",
        serde_json::error::Category::Data => "wrong type or a field given twice",
        serde_json::error::Category::Io => "unreadable",
    };
    HeadError::NotJson { what, line: error.line(), column: error.column() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spliced(body: &str, model: &str) -> String {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let head = Head::read(&bytes, true).expect("valid");
        String::from_utf8(head.splice(&bytes, model).to_vec()).expect("still text")
    }

    #[test]
    fn only_the_model_s_value_changes() {
        let body = "{ \"messages\" : [{\"role\":\"user\",\"content\":\"é \\u00e9 {\\\"model\\\":1}\"}],\n\t\"model\": \"mesh/code\" , \"x\":1e400 }";
        assert_eq!(spliced(body, "tiny"), body.replace("\"mesh/code\"", "\"tiny\""));
    }

    #[test]
    fn a_stream_gets_its_usage_asked_for_in_each_spelling() {
        for (body, wanted) in [
            (
                r#"{"model":"m","stream":true}"#,
                r#"{"stream_options":{"include_usage":true},"model":"t","stream":true}"#,
            ),
            (
                r#"{"model":"m","stream":true,"stream_options":null}"#,
                r#"{"model":"t","stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"model":"m","stream_options":{ },"stream":true}"#,
                r#"{"model":"t","stream_options":{"include_usage":true },"stream":true}"#,
            ),
            (
                r#"{"model":"m","stream_options":{"a":1},"stream":true}"#,
                r#"{"model":"t","stream_options":{"include_usage":true,"a":1},"stream":true}"#,
            ),
            (
                r#"{"model":"m","stream_options":{"include_usage":false,"x":1},"stream":true}"#,
                r#"{"model":"t","stream_options":{"include_usage":true,"x":1},"stream":true}"#,
            ),
        ] {
            let head = Head::read(body.as_bytes(), true).expect("valid");
            assert!(!head.wants_usage, "{body}");
            assert_eq!(spliced(body, "t"), wanted);
        }
    }

    #[test]
    fn a_client_that_asks_for_usage_gets_its_body_unchanged() {
        let body = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
        assert!(Head::read(body.as_bytes(), true).expect("valid").wants_usage);
        assert_eq!(spliced(body, "m"), body);
    }

    #[test]
    fn a_model_name_with_escapes_is_understood() {
        let body = r#"{"model":"mesh\/code"}"#;
        assert_eq!(Head::read(body.as_bytes(), true).expect("valid").model, "mesh/code");
        assert_eq!(spliced(body, "a\"b"), r#"{"model":"a\"b"}"#);
    }

    #[test]
    fn errors_say_where_and_never_what_the_body_says() {
        for (body, error) in [
            ("", "the body is not a JSON object: it ends too early at line 1, column 0"),
            ("[\"m\"]", "the body is not a JSON object: not an object at line 1, column 1"),
            (r#"{"a":1}"#, "`model` is missing"),
            (r#"{"model":7}"#, "`model` must be a string"),
            (r#"{"model":"m","stream":"yes"}"#, "`stream` must be true or false"),
            (r#"{"model":"m","stream":true,"stream_options":[]}"#, "`stream_options` must be an object"),
        ] {
            assert_eq!(Head::read(body.as_bytes(), true).expect_err(body).to_string(), error, "{body}");
        }
        let leaky =
            Head::read(br#"{"model":"m","model":"secret prompt","x":secret}"#, true).expect_err("twice");
        assert!(!leaky.to_string().contains("secret"), "{leaky}");
    }
}
