//! Reads the header of a GGUF file: metadata and the list of tensors, never the weights.
//!
//! Works on the first bytes of a file, of an HTTP range or of what a peer sent: [`read`] says how many bytes it
//! needs to get further. Everything in a header is a claim of a stranger, so every count, length and product is
//! checked, and nothing is allocated for a number alone.
//!
//! The layout is that of the format's specification (versions 2 and 3, little-endian):
//!
//! ```text
//! "GGUF" version:u32 tensors:u64 entries:u64
//! entry  = key:string type:u32 value            (× entries)
//! tensor = name:string dims:u32 dim:u64… type:u32 offset:u64   (× tensors)
//! padding to `general.alignment`, then the tensors' data
//! string = length:u64 bytes
//! ```

mod cursor;
mod split;
mod tensors;
mod value;

pub use split::{Split, join};
pub use tensors::{Block, TensorInfo, TensorType};
pub use value::{Array, Value};

use cursor::{Cursor, Stop};
use std::collections::{BTreeMap, BTreeSet};

/// The longest string. Chat templates have some 20 KB; the longest token list is an array, not a string.
pub const STRING_LIMIT: u64 = 16 << 20;
/// The longest key, as the specification has it.
pub const KEY_LIMIT: u64 = 65_535;
/// The most metadata entries. Files in the wild have under 100.
pub const ENTRY_LIMIT: u64 = 1 << 16;
/// The most tensors. The largest models have some 3,000 in one file.
pub const TENSOR_LIMIT: u64 = 1 << 18;
/// The most entries of one array. Vocabularies have up to 256 Ki; merges twice as many.
pub const ARRAY_LIMIT: u64 = 1 << 24;
/// The most bytes of metadata that are kept, over all strings: 20 templates of the longest kind seen.
pub const KEPT_LIMIT: u64 = 64 << 20;
/// Tensors have at most four dimensions in the library that reads them.
pub const DIMENSION_LIMIT: u32 = 4;
/// Alignments are powers of two; files in the wild have 32 or 64.
pub const ALIGNMENT_LIMIT: u64 = 4096;
/// What `general.alignment` is when it is not there.
const DEFAULT_ALIGNMENT: u64 = 32;

/// Architectures under other names: what writes them, and what llama.cpp calls them.
const ALIASES: [(&str, &str); 3] =
    [("gptoss", "gpt-oss"), ("qwen3-next", "qwen3next"), ("nemotronh", "nemotron_h")];

/// Why bytes are no header.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GgufError {
    /// The file begins with something else.
    #[error("no GGUF file: it begins with {found:?} and not with \"GGUF\"")]
    Magic {
        /// Its first four bytes as text.
        found: String,
    },
    /// Written on a big-endian machine.
    #[error("a big-endian GGUF file: only little-endian ones are read")]
    BigEndian,
    /// A version that this reader does not know.
    #[error("GGUF version {found}: versions 2 and 3 are read")]
    Version {
        /// What the file says.
        found: u32,
    },
    /// A count, a length or a product is over its limit.
    #[error("{what}: {found} is over the limit of {limit}")]
    TooMuch {
        /// Of what.
        what: String,
        /// What the file says.
        found: u64,
        /// What is accepted.
        limit: u64,
    },
    /// A text is no UTF-8.
    #[error("{what} is no UTF-8 text")]
    Text {
        /// Which.
        what: String,
    },
    /// A metadata type that does not exist.
    #[error("{key}: value type {found} does not exist")]
    ValueType {
        /// The entry.
        key: String,
        /// What the file says.
        found: u32,
    },
    /// A key or a tensor is there twice.
    #[error("{what} `{name}` is there twice")]
    Twice {
        /// A key or a tensor.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// `general.alignment` is no power of two up to its limit.
    #[error("general.alignment is {found}: it must be a power of two up to {ALIGNMENT_LIMIT}")]
    Alignment {
        /// What the file says: 64 characters at most.
        found: String,
    },
    /// A tensor with a dimension of zero, or with a first dimension that its type cannot have.
    #[error("tensor `{name}`: dimensions {dims:?} do not fit type {kind}")]
    Dimensions {
        /// The tensor.
        name: String,
        /// Its dimensions.
        dims: Vec<u64>,
        /// Its type.
        kind: String,
    },
    /// The size of a tensor or the place of its end overflows.
    #[error("tensor `{name}`: dimensions {dims:?} at offset {offset} overflow")]
    Overflow {
        /// The tensor.
        name: String,
        /// Its dimensions.
        dims: Vec<u64>,
        /// Where it begins in the data.
        offset: u64,
    },
    /// A tensor's offset is not aligned.
    #[error("tensor `{name}`: offset {offset} is not aligned to {alignment}")]
    Unaligned {
        /// The tensor.
        name: String,
        /// Where it begins in the data.
        offset: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// Two tensors share bytes.
    #[error("tensor `{second}` at {offset} begins before the end {end} of `{first}`")]
    Overlap {
        /// The earlier one.
        first: String,
        /// The later one.
        second: String,
        /// Where the later one begins.
        offset: u64,
        /// Where the earlier one ends.
        end: u64,
    },
    /// A tensor reaches beyond the end of the file.
    #[error("tensor `{name}` ends at byte {end} of a file of {size} bytes: the file is cut short")]
    BeyondTheFile {
        /// The tensor.
        name: String,
        /// Where it ends.
        end: u64,
        /// The file's length.
        size: u64,
    },
    /// The file is shorter than its header.
    #[error("the file of {size} bytes ends within its header, which needs {needed} at least")]
    CutShort {
        /// The file's length.
        size: u64,
        /// What the header needs.
        needed: u64,
    },
    /// The parts of a split model do not belong together.
    #[error("split model: {why}")]
    Split {
        /// What does not fit.
        why: String,
    },
}

/// What the bytes are.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A whole header.
    Complete(Header),
    /// The beginning of one. With `at_least` bytes from the file's beginning reading gets further.
    NeedMore {
        /// More than there were.
        at_least: u64,
    },
}

/// The header of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// The format's version: 2 or 3.
    pub version: u32,
    /// Everything that is known of the model.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors in the file's order.
    pub tensors: Vec<TensorInfo>,
    /// What the tensors' offsets are multiples of, in bytes.
    pub alignment: u64,
    /// Where the tensors' data begins, in bytes from the file's beginning.
    pub data_offset: u64,
    /// Tensor types that are not in the table; their sizes come from the offsets.
    pub unknown_types: BTreeSet<u32>,
    /// Whether the size of every tensor is known.
    pub sizes_complete: bool,
}

/// Reads a header from the first `bytes` of a file of `file_size` bytes.
///
/// # Errors
/// [`GgufError`] when no continuation of these bytes could be a header.
pub fn read(bytes: &[u8], file_size: Option<u64>) -> Result<Outcome, GgufError> {
    let mut cursor = Cursor::new(bytes);
    match header(&mut cursor, file_size) {
        Ok(header) => Ok(Outcome::Complete(header)),
        Err(Stop::Error(error)) => Err(error),
        Err(Stop::NeedMore(at_least)) => match file_size {
            Some(size) if at_least > size => Err(GgufError::CutShort { size, needed: at_least }),
            Some(_) | None => Ok(Outcome::NeedMore { at_least }),
        },
    }
}

fn header(cursor: &mut Cursor<'_>, file_size: Option<u64>) -> Result<Header, Stop> {
    let magic = cursor.take(4)?;
    if magic != b"GGUF" {
        return Err(GgufError::Magic { found: String::from_utf8_lossy(magic).into_owned() }.into());
    }
    let version = cursor.u32()?;
    match version {
        2 | 3 => {}
        other if matches!(other.swap_bytes(), 1..=3) => return Err(GgufError::BigEndian.into()),
        found => return Err(GgufError::Version { found }.into()),
    }
    let tensor_count = cursor.bounded_count("tensor count", TENSOR_LIMIT)?;
    let entry_count = cursor.bounded_count("metadata count", ENTRY_LIMIT)?;
    let metadata = metadata(cursor, entry_count)?;
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(value) => value
            .number()
            .filter(|number| number.is_power_of_two() && *number <= ALIGNMENT_LIMIT)
            .ok_or_else(|| GgufError::Alignment { found: shown(&value.to_string()) })?,
    };
    let listed = tensors::listed(cursor, tensor_count)?;
    let data_offset = cursor.position().next_multiple_of(alignment);
    let table = tensors::sized(listed, alignment, data_offset, file_size)?;
    Ok(Header {
        version,
        metadata,
        tensors: table.tensors,
        alignment,
        data_offset,
        unknown_types: table.unknown_types,
        sizes_complete: table.sizes_complete,
    })
}

fn metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<BTreeMap<String, Value>, Stop> {
    let mut entries = BTreeMap::new();
    let mut kept = 0_u64;
    for number in 0..count {
        let key = cursor.text(&format!("key {number}"), KEY_LIMIT)?.to_owned();
        let value = value::read(cursor, &key)?;
        kept = kept.saturating_add(key.len() as u64).saturating_add(value.kept_bytes());
        if kept > KEPT_LIMIT {
            return Err(
                GgufError::TooMuch { what: "metadata bytes".into(), found: kept, limit: KEPT_LIMIT }.into()
            );
        }
        if entries.insert(key.clone(), value).is_some() {
            return Err(GgufError::Twice { what: "key", name: shown(&key) }.into());
        }
    }
    Ok(entries)
}

/// A name for an error message: 64 characters at most.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}

impl Header {
    /// The architecture as llama.cpp calls it: `gptoss` of Ollama's files is `gpt-oss`.
    #[must_use]
    pub fn architecture(&self) -> Option<&str> {
        let written = self.text("general.architecture")?;
        Some(ALIASES.iter().find(|(alias, _)| *alias == written).map_or(written, |(_, name)| name))
    }

    /// The value of `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The value of `key` as a non-negative whole number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.value(key)?.number()
    }

    /// The value of `key` as a number.
    #[must_use]
    pub fn float(&self, key: &str) -> Option<f64> {
        self.value(key)?.float()
    }

    /// The value of `key` as a text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.value(key)? {
            Value::Text(text) => Some(text),
            Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::Bool(_) | Value::Array(_) => {
                None
            }
        }
    }

    /// The value of `key` as a truth value.
    #[must_use]
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            Value::Bool(flag) => Some(*flag),
            Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::Text(_) | Value::Array(_) => {
                None
            }
        }
    }

    /// The value of `key` of this file's architecture: `block_count` is `llama.block_count`.
    #[must_use]
    pub fn arch(&self, key: &str) -> Option<&Value> {
        let architecture = self.text("general.architecture")?;
        self.value(&format!("{architecture}.{key}"))
    }

    /// [`Header::arch`] as a non-negative whole number.
    #[must_use]
    pub fn arch_number(&self, key: &str) -> Option<u64> {
        self.arch(key)?.number()
    }

    /// Which part of a split model this file is, where it is one.
    #[must_use]
    pub fn split(&self) -> Option<Split> {
        Split::of(self)
    }

    /// All parameters: the elements of all tensors.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.elements()))
    }

    /// Parameters that one token uses, of a sparse model: `expert_used_count` of `expert_count` experts, and all else but the
    /// input embeddings, of which one row is read, where the output has weights of its own (as OpenAI counts those of gpt-oss).
    /// `None` for a dense model.
    #[must_use]
    pub fn active_parameters(&self) -> Option<u64> {
        let (all, used) = (self.arch_number("expert_count")?, self.arch_number("expert_used_count")?);
        if used == 0 || used >= all {
            return None;
        }
        let is_untied = self.tensors.iter().any(|tensor| tensor.name == "output.weight");
        let active = |tensor: &TensorInfo| {
            let part = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
            if part.is_some_and(|(_, part)| is_expert(part)) {
                return u64::try_from(u128::from(tensor.elements()) * u128::from(used) / u128::from(all))
                    .unwrap_or(u64::MAX);
            }
            if is_untied && tensor.name == "token_embd.weight" { 0 } else { tensor.elements() }
        };
        Some(self.tensors.iter().map(active).fold(0, u64::saturating_add))
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.bytes))
    }
}

/// Whether a part of a layer is its experts, which `--cpu-moe` keeps on the host: `ffn_(up|down|gate|gate_up)_(ch|)exps`.
pub(crate) fn is_expert(part: &str) -> bool {
    let Some(kind) = part.strip_prefix("ffn_") else { return false };
    ["up_", "down_", "gate_up_", "gate_"]
        .iter()
        .filter_map(|prefix| kind.strip_prefix(prefix))
        .any(|rest| rest.starts_with("exps") || rest.starts_with("chexps"))
}
