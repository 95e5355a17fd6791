//! The same files read by an independent reader, `gguf-rs-lib`.
#![expect(clippy::disallowed_methods, reason = "a test may read the repository's files")]

use crate::sizes::one_of_each;
use crate::writer::{Gguf, Meta};
use crate::{complete, small};
use gguf_rs_lib::format::metadata::MetadataValue;
use gguf_rs_lib::prelude::GGUFFileReader;
use mesh_core::gguf::{Header, Value};
use std::io::Cursor;

fn both_agree(name: &str, file: &[u8]) -> Header {
    let ours = complete(file);
    let theirs = GGUFFileReader::new(Cursor::new(file)).expect("the other reader takes it");
    assert_eq!(theirs.header().version, ours.version, "{name}");
    assert_eq!((theirs.tensor_alignment(), theirs.tensor_data_offset()), (ours.alignment, ours.data_offset));
    assert_eq!(theirs.tensor_infos().len(), ours.tensors.len(), "{name}");
    for (a, b) in ours.tensors.iter().zip(theirs.tensor_infos()) {
        let name = format!("{name}: {}", a.name);
        assert_eq!(a.name, b.name(), "{name}");
        assert_eq!(a.dims, b.shape().dims(), "{name}");
        assert_eq!(a.kind.0, b.tensor_type() as u32, "{name}");
        assert_eq!(a.offset, b.data_offset(), "{name}");
        assert_eq!(a.elements(), b.element_count(), "{name}");
        assert_eq!(a.bytes, b.checked_expected_data_size().expect("a size"), "{name}");
    }
    assert_eq!(theirs.metadata().len(), ours.metadata.len(), "{name}");
    for (key, value) in theirs.metadata().iter() {
        same(key, value, ours.value(key));
    }
    ours
}

fn same(key: &str, theirs: &MetadataValue, ours: Option<&Value>) {
    let ours = ours.unwrap_or_else(|| panic!("{key} is there"));
    match (theirs, ours) {
        (MetadataValue::String(a), Value::Text(b)) => assert_eq!(a, b, "{key}"),
        (MetadataValue::Bool(a), Value::Bool(b)) => assert_eq!(a, b, "{key}"),
        (MetadataValue::Array(a), Value::Array(b)) => {
            assert_eq!(a.length, b.length, "{key}");
            for (a, b) in a.values.iter().zip(b.items.iter().flatten()) {
                same(key, a, Some(b));
            }
        }
        (MetadataValue::F32(a), Value::Float(b)) => assert_eq!(f64::from(*a), *b, "{key}"),
        (MetadataValue::F64(a), Value::Float(b)) => assert_eq!(a, b, "{key}"),
        (number, Value::Unsigned(b)) => assert_eq!(number.as_u64(), Some(*b), "{key}"),
        (number, Value::Signed(b)) => assert_eq!(number.as_i64(), Some(*b), "{key}"),
        (a, b) => panic!("{key}: {a:?} and {b:?}"),
    }
}

/// A file of this repository.
fn repository(path: &str) -> Vec<u8> {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn real_files_are_read_alike() {
    for (path, parameters, bytes) in [
        ("node-agent/assets/models/tiny-trained-1.4M-q8_0.gguf", 1_377_600_u64, 1_467_648_u64),
        ("modemesh/assets/models/tiny-random-1.4M-q8_0.gguf", 1_574_208, 1_676_544),
        ("modemesh/assets/models/tiny-random-0.2M-f16.gguf", 205_120, 410_880),
    ] {
        let file = repository(path);
        let header = both_agree(path, &file);
        assert_eq!((header.parameters(), header.weight_bytes()), (parameters, bytes), "{path}");
        assert_eq!(header.arch_number("context_length"), Some(2048), "{path}");
    }
}

#[test]
fn files_with_every_type_are_read_alike() {
    both_agree("small", &small().file());
    both_agree("no tensors", &Gguf::new().text("general.architecture", "llama").file());
    both_agree("every type", &one_of_each().file());
}

#[test]
fn files_of_every_alignment_are_read_alike() {
    for alignment in [32, 64, 4096] {
        let mut file = Gguf::new().number("general.alignment", alignment);
        file.alignment = u64::from(alignment);
        let file = file
            .entry("an.array", Meta::F32s(vec![1.0, 2.5]))
            .tensor("a", &[5], 0, 20)
            .tensor("b", &[32, 3, 2], 39, 102)
            .tensor("c", &[64, 1, 1, 2], 40, 72);
        both_agree(&format!("alignment {alignment}"), &file.file());
    }
}

#[test]
fn version_2_differs_by_its_number_alone() {
    // The other reader takes version 3 only.
    let mut file = small();
    file.version = 2;
    let old = complete(&file.file());
    assert_eq!(Header { version: 3, ..old }, complete(&small().file()));
}
