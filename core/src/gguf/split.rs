//! Models in several files: each part is a GGUF file of its own with some of the tensors.

use super::{GgufError, Header};
use std::collections::BTreeSet;

/// The most parts of a model; the largest ones published have under 50.
const PART_LIMIT: u64 = 1024;

/// Which part of a split model a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// From 0.
    pub number: u32,
    /// All parts.
    pub count: u32,
    /// Tensors of all parts together.
    pub tensors: u64,
}

impl Split {
    pub(super) fn of(header: &Header) -> Option<Self> {
        let small = |key| header.number(key).and_then(|value| u32::try_from(value).ok());
        let count = small("split.count").filter(|&count| count > 1)?;
        Some(Self {
            number: small("split.no")?,
            count,
            tensors: header.number("split.tensors.count").unwrap_or_default(),
        })
    }
}

/// Joins the headers of a split model, in any order, into one: the metadata of part 0 and all tensors. A single
/// header that is no part is returned as it is. Offsets stay relative to each tensor's own file.
///
/// # Errors
/// [`GgufError::Split`] when parts are missing, doubled or of different models.
pub fn join(mut parts: Vec<Header>) -> Result<Header, GgufError> {
    let wrong = |why: String| GgufError::Split { why };
    if parts.len() as u64 > PART_LIMIT {
        return Err(wrong(format!("{} parts are over the limit of {PART_LIMIT}", parts.len())));
    }
    if parts.len() == 1 && parts[0].split().is_none() {
        return Ok(parts.remove(0));
    }
    let mut numbered = Vec::new();
    for part in parts {
        let split = part.split().ok_or_else(|| wrong("a file is no part of a split model".into()))?;
        numbered.push((split, part));
    }
    numbered.sort_by_key(|(split, _)| split.number);
    let Some(&(first, _)) = numbered.first() else { return Err(wrong("there are no parts".into())) };
    if numbered.len() as u64 != u64::from(first.count) {
        return Err(wrong(format!("{} of {} parts are there", numbered.len(), first.count)));
    }
    for (expected, (split, _)) in numbered.iter().enumerate() {
        if split.count != first.count || split.tensors != first.tensors {
            return Err(wrong(format!(
                "part {} is of a model with {} parts and {} tensors, part 0 of one with {} and {}",
                split.number, split.count, split.tensors, first.count, first.tensors
            )));
        }
        if u64::from(split.number) != expected as u64 {
            return Err(wrong(format!("part {expected} is missing or there twice")));
        }
    }
    let mut headers = numbered.into_iter().map(|(_, header)| header);
    let Some(mut whole) = headers.next() else { return Err(wrong("there are no parts".into())) };
    let mut names: BTreeSet<String> = whole.tensors.iter().map(|tensor| tensor.name.clone()).collect();
    for part in headers {
        for tensor in part.tensors {
            if !names.insert(tensor.name.clone()) {
                return Err(GgufError::Twice { what: "tensor", name: super::shown(&tensor.name) });
            }
            whole.tensors.push(tensor);
        }
        whole.unknown_types.extend(part.unknown_types);
        whole.sizes_complete &= part.sizes_complete;
    }
    // Old files lack the count.
    if first.tensors != 0 && whole.tensors.len() as u64 != first.tensors {
        let found = whole.tensors.len();
        return Err(wrong(format!("its parts have {found} tensors, and it says {}", first.tensors)));
    }
    Ok(whole)
}
