//! Metadata values. Arrays of texts (vocabularies) and long arrays are passed over: only their length is kept.

use super::cursor::{Cursor, Stop};
use super::{ARRAY_LIMIT, GgufError, STRING_LIMIT, shown};
use std::fmt;

/// Arrays up to this length are kept: one entry for each layer of the deepest model, with room.
const KEPT_ITEMS: u64 = 4096;
/// Arrays of arrays of arrays are not in any file; deeper ones are an attack on the stack.
const DEPTH_LIMIT: u32 = 3;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `u8` to `u64`.
    Unsigned(u64),
    /// `i8` to `i64`.
    Signed(i64),
    /// `f32` or `f64`.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list.
    Array(Array),
}

/// A list of values.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// How many entries it has in the file.
    pub length: u64,
    /// The entries, where they are numbers or truth values and no more than 4096.
    pub items: Option<Vec<Value>>,
}

impl Value {
    /// As a non-negative whole number.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            Self::Float(_) | Self::Bool(_) | Self::Text(_) | Self::Array(_) => None,
        }
    }

    /// As a number.
    #[must_use]
    pub fn float(&self) -> Option<f64> {
        match self {
            Self::Unsigned(value) => Some(*value as f64),
            Self::Signed(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Bool(_) | Self::Text(_) | Self::Array(_) => None,
        }
    }

    /// Memory that it takes here, roughly.
    pub(super) fn kept_bytes(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Array(array) => array.items.as_ref().map_or(0, |items| 32 * items.len() as u64),
            Self::Unsigned(_) | Self::Signed(_) | Self::Float(_) | Self::Bool(_) => 16,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => write!(out, "{value}"),
            Self::Signed(value) => write!(out, "{value}"),
            Self::Float(value) => write!(out, "{value}"),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Text(value) => write!(out, "{value:?}"),
            Self::Array(array) => write!(out, "a list of {}", array.length),
        }
    }
}

/// The format's value types.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, Stop> {
        const ALL: [Kind; 13] = [
            Kind::U8,
            Kind::I8,
            Kind::U16,
            Kind::I16,
            Kind::U32,
            Kind::I32,
            Kind::F32,
            Kind::Bool,
            Kind::Text,
            Kind::Array,
            Kind::U64,
            Kind::I64,
            Kind::F64,
        ];
        let found = cursor.u32()?;
        let known = usize::try_from(found).ok().and_then(|id| ALL.get(id)).copied();
        known.ok_or_else(|| GgufError::ValueType { key: shown(key), found }.into())
    }

    /// Bytes of a value of fixed size.
    fn size(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::Array => None,
        }
    }
}

pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, Stop> {
    let kind = Kind::read(cursor, key)?;
    value(cursor, key, kind, 0)
}

fn value(cursor: &mut Cursor<'_>, key: &str, kind: Kind, depth: u32) -> Result<Value, Stop> {
    match kind {
        Kind::Text => {
            let bytes = cursor.string(&shown(key), STRING_LIMIT)?;
            // Some tools write names in other encodings; a header is not refused for them.
            Ok(Value::Text(String::from_utf8_lossy(bytes).into_owned()))
        }
        Kind::Array => array(cursor, key, depth + 1).map(Value::Array),
        Kind::U8
        | Kind::I8
        | Kind::U16
        | Kind::I16
        | Kind::U32
        | Kind::I32
        | Kind::F32
        | Kind::Bool
        | Kind::U64
        | Kind::I64
        | Kind::F64 => {
            let bytes = cursor.take(kind.size().unwrap_or(0))?;
            Ok(scalar(kind, bytes))
        }
    }
}

/// A little-endian value of fixed size.
fn scalar(kind: Kind, bytes: &[u8]) -> Value {
    let raw = bytes.iter().rev().fold(0_u64, |value, &byte| (value << 8) | u64::from(byte));
    match kind {
        Kind::Bool => Value::Bool(raw != 0),
        Kind::I8 => Value::Signed(i64::from(raw as u8 as i8)),
        Kind::I16 => Value::Signed(i64::from(raw as u16 as i16)),
        Kind::I32 => Value::Signed(i64::from(raw as u32 as i32)),
        Kind::I64 => Value::Signed(raw as i64),
        Kind::F32 => Value::Float(f64::from(f32::from_bits(raw as u32))),
        Kind::F64 => Value::Float(f64::from_bits(raw)),
        Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 | Kind::Text | Kind::Array => Value::Unsigned(raw),
    }
}

fn array(cursor: &mut Cursor<'_>, key: &str, depth: u32) -> Result<Array, Stop> {
    if depth > DEPTH_LIMIT {
        let (found, limit) = (u64::from(depth), u64::from(DEPTH_LIMIT));
        return Err(
            GgufError::TooMuch { what: format!("{}: nested arrays", shown(key)), found, limit }.into()
        );
    }
    let kind = Kind::read(cursor, key)?;
    let length = cursor.bounded_count(&format!("length of {}", shown(key)), ARRAY_LIMIT)?;
    match kind.size() {
        Some(size) if length <= KEPT_ITEMS => {
            let bytes = cursor.take(length * size)?;
            let size = usize::try_from(size).unwrap_or(1);
            let items = bytes.chunks_exact(size).map(|bytes| scalar(kind, bytes)).collect();
            Ok(Array { length, items: Some(items) })
        }
        Some(size) => {
            cursor.skip(length * size)?;
            Ok(Array { length, items: None })
        }
        None => {
            for _ in 0..length {
                if kind == Kind::Text {
                    cursor.string(&shown(key), STRING_LIMIT)?;
                } else {
                    array(cursor, key, depth + 1)?;
                }
            }
            Ok(Array { length, items: None })
        }
    }
}
