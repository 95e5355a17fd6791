//! The list of tensors: names, shapes, types, and the bytes each has.

use super::cursor::{Cursor, Stop};
use super::{DIMENSION_LIMIT, GgufError, shown};
use std::collections::BTreeSet;
use std::fmt;

/// The longest name of a tensor; llama.cpp itself keeps 64 bytes.
const NAME_LIMIT: u64 = 1024;

/// A quantised type stores its elements in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Elements of one block.
    pub elements: u64,
    /// Bytes of one block.
    pub bytes: u64,
}

/// The type of a tensor's elements, by its number in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TensorType(pub u32);

/// Number, name, elements and bytes of a block: `ggml_type` and `type_traits` of ggml 0.26.
const TYPES: [(u32, &str, u64, u64); 35] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
];

impl TensorType {
    fn row(self) -> Option<&'static (u32, &'static str, u64, u64)> {
        TYPES.iter().find(|(id, ..)| *id == self.0)
    }

    /// Its name, where it is in the table.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        self.row().map(|row| row.1)
    }

    /// Its block, where it is in the table.
    #[must_use]
    pub fn block(self) -> Option<Block> {
        self.row().map(|&(_, _, elements, bytes)| Block { elements, bytes })
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => out.pad(name),
            None => out.pad(&format!("type {}", self.0)),
        }
    }
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name: `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements by dimension, the innermost first.
    pub dims: Vec<u64>,
    /// Its elements' type.
    pub kind: TensorType,
    /// Where it begins, in bytes from the beginning of the data.
    pub offset: u64,
    /// Its bytes without padding; of an unknown type all up to the next tensor.
    pub bytes: u64,
}

impl TensorInfo {
    /// The product of its dimensions.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.dims.iter().fold(1, |product, &dim| product.saturating_mul(dim))
    }
}

/// The tensors as they are listed, without sizes.
pub(super) fn listed(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<TensorInfo>, Stop> {
    let (mut tensors, mut names) = (Vec::new(), BTreeSet::new());
    for number in 0..count {
        let name = cursor.text(&format!("name of tensor {number}"), NAME_LIMIT)?.to_owned();
        if !names.insert(name.clone()) {
            return Err(GgufError::Twice { what: "tensor", name: shown(&name) }.into());
        }
        let dimensions = cursor.u32()?;
        if dimensions > DIMENSION_LIMIT {
            let what = format!("dimensions of tensor `{}`", shown(&name));
            let (found, limit) = (u64::from(dimensions), u64::from(DIMENSION_LIMIT));
            return Err(GgufError::TooMuch { what, found, limit }.into());
        }
        let dims = (0..dimensions).map(|_| cursor.u64()).collect::<Result<Vec<u64>, Stop>>()?;
        let kind = TensorType(cursor.u32()?);
        let offset = cursor.u64()?;
        tensors.push(TensorInfo { name, dims, kind, offset, bytes: 0 });
    }
    Ok(tensors)
}

pub(super) struct Table {
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) unknown_types: BTreeSet<u32>,
    pub(super) sizes_complete: bool,
}

/// The tensors with their sizes, checked against each other and the file.
pub(super) fn sized(
    mut tensors: Vec<TensorInfo>,
    alignment: u64,
    data_offset: u64,
    file_size: Option<u64>,
) -> Result<Table, GgufError> {
    let mut unknown_types = BTreeSet::new();
    for tensor in &mut tensors {
        if !tensor.offset.is_multiple_of(alignment) {
            let (name, offset) = (shown(&tensor.name), tensor.offset);
            return Err(GgufError::Unaligned { name, offset, alignment });
        }
        match bytes_of(tensor)? {
            Some(bytes) => tensor.bytes = bytes,
            None => {
                unknown_types.insert(tensor.kind.0);
            }
        }
    }
    // Files need not list their tensors in the order of their data.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&at| (tensors[at].offset, tensors[at].bytes));
    let mut sizes_complete = true;
    for (place, &at) in order.iter().enumerate() {
        let next = order.get(place + 1).map(|&next| tensors[next].offset);
        let is_known = tensors[at].kind.block().is_some();
        if !is_known {
            let end = next.or_else(|| file_size.map(|size| size.saturating_sub(data_offset)));
            sizes_complete &= end.is_some();
            tensors[at].bytes = end.map_or(0, |end| end.saturating_sub(tensors[at].offset));
        }
        let tensor = &tensors[at];
        let name = || shown(&tensor.name);
        let end = tensor.offset.checked_add(tensor.bytes).ok_or_else(|| overflow(tensor))?;
        if let Some(offset) = next.filter(|&offset| offset < end) {
            let second = shown(&tensors[order[place + 1]].name);
            return Err(GgufError::Overlap { first: name(), second, offset, end });
        }
        let end_in_file = data_offset.saturating_add(end);
        if let Some(size) = file_size.filter(|&size| end_in_file > size) {
            return Err(GgufError::BeyondTheFile { name: name(), end: end_in_file, size });
        }
    }
    Ok(Table { tensors, unknown_types, sizes_complete })
}

fn overflow(tensor: &TensorInfo) -> GgufError {
    GgufError::Overflow { name: shown(&tensor.name), dims: tensor.dims.clone(), offset: tensor.offset }
}

/// `None` for a type that is not in the table.
fn bytes_of(tensor: &TensorInfo) -> Result<Option<u64>, GgufError> {
    let wrong = || GgufError::Dimensions {
        name: shown(&tensor.name),
        dims: tensor.dims.clone(),
        kind: tensor.kind.to_string(),
    };
    let overflow = || overflow(tensor);
    if tensor.dims.contains(&0) {
        return Err(wrong());
    }
    let elements =
        tensor.dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim)).ok_or_else(overflow)?;
    let Some(block) = tensor.kind.block() else { return Ok(None) };
    // A row is never split within a block.
    if !tensor.dims.first().copied().unwrap_or(1).is_multiple_of(block.elements) {
        return Err(wrong());
    }
    (elements / block.elements).checked_mul(block.bytes).map(Some).ok_or_else(overflow)
}
