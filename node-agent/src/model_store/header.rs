//! What the header of a GGUF file says of a model, read from as little of the file as it takes.

use mesh_core::gguf::{self, GgufError, Header, Outcome};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The first read: the metadata of most models without their vocabulary.
const FIRST_READ: u64 = 1 << 20;

/// No header is longer: vocabularies have up to 20 MiB, and this is held in memory while it is read.
const LIMIT: u64 = 256 << 20;

/// Why a file's header could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// The disk failed.
    #[error("reading it: {0}")]
    Read(#[from] io::Error),
    /// It is not what a model's file is.
    #[error("{0}")]
    Gguf(#[from] GgufError),
    /// The header does not end.
    #[error("its header is longer than {} MiB", LIMIT >> 20)]
    TooLong,
}

/// How far a header could be read.
#[derive(Debug)]
pub(super) enum Progress {
    /// All of it.
    Whole(Box<Header>),
    /// This many bytes of the file are needed to get further.
    Needs(u64),
}

/// Reads as much of the header as the first `there` bytes of `file` hold, of which at least `known_need` are
/// needed. `total` is what the file will have in the end, where that is known: a header that promises more is
/// refused at once.
pub(super) fn so_far(
    file: &File,
    there: u64,
    known_need: u64,
    total: Option<u64>,
) -> Result<Progress, HeaderError> {
    let mut want = FIRST_READ.max(known_need);
    loop {
        if known_need > there {
            return Ok(Progress::Needs(known_need));
        }
        let length = want.min(there);
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| HeaderError::TooLong)?];
        file.read_exact_at(&mut bytes, 0)?;
        match gguf::read(&bytes, total)? {
            Outcome::Complete(header) => return Ok(Progress::Whole(Box::new(header))),
            Outcome::NeedMore { at_least } if at_least > LIMIT => return Err(HeaderError::TooLong),
            Outcome::NeedMore { at_least } if at_least.max(length + 1) > there => {
                return Ok(Progress::Needs(at_least.max(length + 1)));
            }
            // Doubled, so that a header of many small strings is not read once for each of them.
            Outcome::NeedMore { at_least } => want = at_least.max(length * 2).min(LIMIT),
        }
    }
}

/// The header of a whole file of `size` bytes.
pub(super) fn whole(file: &File, size: u64) -> Result<Header, HeaderError> {
    match so_far(file, size, 0, Some(size))? {
        Progress::Whole(header) => Ok(*header),
        Progress::Needs(needed) => Err(GgufError::CutShort { size, needed }.into()),
    }
}

/// The least bytes a file with this header has, where all tensors' sizes are known.
pub(super) fn expected_size(header: &Header) -> Option<u64> {
    if !header.sizes_complete || !header.unknown_types.is_empty() {
        return None;
    }
    let end =
        header.tensors.iter().map(|tensor| tensor.offset.saturating_add(tensor.bytes)).max().unwrap_or(0);
    Some(header.data_offset.saturating_add(end))
}

/// Whether it is not a model but the part that turns images or sound into tokens for one.
pub(super) fn is_projector(header: &Header) -> bool {
    matches!(header.text("general.type"), Some("mmproj" | "projector"))
        || header.text("general.architecture") == Some("clip")
}

/// The word for `general.file_type`, from llama.cpp's `llama_ftype`.
pub(super) fn quantisation(header: &Header) -> Option<String> {
    /// Set when the type was guessed.
    const GUESSED: u64 = 1024;
    let word = match header.number("general.file_type")? & !GUESSED {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        39 => "NVFP4",
        _ => return None,
    };
    Some(word.into())
}
