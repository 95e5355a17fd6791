//! A header that is not all there yet: how much more it needs is said honestly.

use crate::writer::{Gguf, Meta};
use crate::{complete, small};
use mesh_core::gguf::{GgufError, Outcome, read};

#[test]
fn every_beginning_of_a_file_says_how_much_more_it_needs() {
    let (file, needed) = (small().file(), small().header().len());
    let mut before = 0;
    for length in 0..file.len() {
        match read(&file[..length], None) {
            Ok(Outcome::NeedMore { at_least }) => {
                assert!(length < needed, "the header is there with {length} bytes of {needed}");
                assert!(at_least > length as u64, "{length} bytes are there, {at_least} are asked for");
                assert!(at_least <= needed as u64, "{at_least} are asked for, the header has {needed}");
                assert!(at_least >= before, "{before} were asked for, and with more bytes {at_least}");
                before = at_least;
                let more = &file[..usize::try_from(at_least).expect("a small file")];
                if let Ok(Outcome::NeedMore { at_least: further }) = read(more, None) {
                    assert!(further > at_least, "{at_least} bytes got no further");
                }
            }
            Ok(Outcome::Complete(header)) => {
                assert!(length >= needed, "the header has {needed} bytes, {length} are there");
                assert_eq!(header, complete(&file), "the data says nothing");
            }
            Err(error) => panic!("{length} bytes: {error}"),
        }
    }
}

#[test]
fn a_file_that_ends_within_its_header_is_cut_short() {
    let (file, needed) = (small().file(), small().header().len());
    for length in 0..file.len() {
        let size = length as u64;
        match read(&file[..length], Some(size)) {
            Err(GgufError::CutShort { size: said, needed: more }) => {
                assert!(length < needed && said == size && more > size, "{length} bytes: needs {more}");
            }
            Err(GgufError::BeyondTheFile { end, size: said, .. }) => {
                assert!(length >= needed && said == size && end > size, "{length} bytes: ends at {end}");
            }
            other => panic!("{length} bytes: {other:?}"),
        }
    }
    assert_eq!(complete(&file).tensors.len(), 3, "the whole file is good");
}

#[test]
fn a_download_that_is_asked_for_what_it_needs_ends_with_a_header() {
    let file = small().file();
    let (mut have, mut rounds) = (0, 0);
    let header = loop {
        match read(&file[..have], Some(file.len() as u64)).expect("a good file") {
            Outcome::Complete(header) => break header,
            Outcome::NeedMore { at_least } => have = usize::try_from(at_least).expect("a small file"),
        }
        rounds += 1;
        assert!(rounds < file.len(), "every round gets further");
    };
    assert_eq!(header, complete(&file));
}

#[test]
fn long_arrays_are_passed_over_and_short_ones_kept() {
    let tokens: Vec<String> = (0..5000).map(|number| format!("token {number}")).collect();
    let file = Gguf::new()
        .text("general.architecture", "llama")
        .entry("tokenizer.ggml.tokens", Meta::Texts(tokens))
        .entry("short", Meta::U32s((0..4096).collect()))
        .entry("long", Meta::U32s((0..4097).collect()))
        .entry("after", Meta::U32(7))
        .file();
    let header = complete(&file);
    let array = |key| match header.value(key) {
        Some(mesh_core::gguf::Value::Array(array)) => (array.length, array.items.as_ref().map(Vec::len)),
        other => panic!("{key}: {other:?}"),
    };
    assert_eq!(array("tokenizer.ggml.tokens"), (5000, None));
    assert_eq!(array("short"), (4096, Some(4096)));
    assert_eq!(array("long"), (4097, None));
    assert_eq!(header.number("after"), Some(7), "what follows is read");
}

#[test]
fn nested_arrays_are_passed_over() {
    // Two arrays of two bytes each, then the next entry.
    let mut nested = 9_u32.to_le_bytes().to_vec();
    nested.extend(2_u64.to_le_bytes());
    for inner in [[1, 2], [3, 4]] {
        nested.extend(0_u32.to_le_bytes());
        nested.extend(2_u64.to_le_bytes());
        nested.extend(inner);
    }
    let header =
        complete(&Gguf::new().entry("nested", Meta::Raw(9, nested)).entry("after", Meta::U32(7)).file());
    assert_eq!(header.number("after"), Some(7));
}
