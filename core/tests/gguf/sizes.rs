//! Bytes of tensors: of every type, of unknown types, in any order.

use crate::writer::{Gguf, Meta};
use crate::{complete, refused, small};
use mesh_core::gguf::{GgufError, Outcome, TensorType, Value, read};

/// Number, name, elements and bytes of a block, as `ggml.h` and `ggml-common.h` have them.
pub(crate) const TYPES: [(u32, &str, u64, u64); 35] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 2 + 16),
    (3, "Q4_1", 32, 2 * 2 + 16),
    (6, "Q5_0", 32, 2 + 4 + 16),
    (7, "Q5_1", 32, 2 * 2 + 4 + 16),
    (8, "Q8_0", 32, 2 + 32),
    (9, "Q8_1", 32, 2 * 2 + 32),
    (10, "Q2_K", 256, 16 + 64 + 2 * 2),
    (11, "Q3_K", 256, 32 + 64 + 12 + 2),
    (12, "Q4_K", 256, 2 * 2 + 12 + 128),
    (13, "Q5_K", 256, 2 * 2 + 12 + 32 + 128),
    (14, "Q6_K", 256, 128 + 64 + 16 + 2),
    (15, "Q8_K", 256, 4 + 256 + 16 * 2),
    (16, "IQ2_XXS", 256, 2 + 32 * 2),
    (17, "IQ2_XS", 256, 2 + 32 * 2 + 8),
    (18, "IQ3_XXS", 256, 2 + 96),
    (19, "IQ1_S", 256, 2 + 32 + 8 * 2),
    (20, "IQ4_NL", 32, 2 + 16),
    (21, "IQ3_S", 256, 2 + 64 + 8 + 32 + 4),
    (22, "IQ2_S", 256, 2 + 64 + 8 + 8),
    (23, "IQ4_XS", 256, 2 + 2 + 4 + 128),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 32 + 16 + 8),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 48 + 4 + 2),
    (35, "TQ2_0", 256, 64 + 2),
    (39, "MXFP4", 32, 1 + 16),
    (40, "NVFP4", 64, 4 + 32),
    (41, "Q1_0", 128, 2 + 16),
    (42, "Q2_0", 64, 2 + 16),
];

/// A file with one tensor of two rows of each type.
pub(crate) fn one_of_each() -> Gguf {
    TYPES
        .iter()
        .fold(Gguf::new().text("general.architecture", "llama"), |file, (kind, name, elements, bytes)| {
            file.tensor(name, &[2 * elements, 3], *kind, 6 * bytes)
        })
}

#[test]
fn every_type_has_its_size() {
    let header = complete(&one_of_each().file());
    assert_eq!(header.tensors.len(), TYPES.len());
    for (tensor, (kind, name, elements, bytes)) in header.tensors.iter().zip(TYPES) {
        assert_eq!((tensor.kind, tensor.kind.name()), (TensorType(kind), Some(name)));
        assert_eq!((tensor.elements(), tensor.bytes), (6 * elements, 6 * bytes), "{name}");
    }
    assert_eq!(header.weight_bytes(), TYPES.iter().map(|row| 6 * row.3).sum::<u64>());
    assert_eq!(header.parameters(), TYPES.iter().map(|row| 6 * row.2).sum::<u64>());
    assert!(header.sizes_complete && header.unknown_types.is_empty());
}

#[test]
fn every_number_that_is_no_type_is_unknown_and_no_error() {
    for kind in (0..200).filter(|kind| TYPES.iter().all(|row| row.0 != *kind)).chain([u32::MAX]) {
        let file = small().tensor("strange", &[7, 5], kind, 96).tensor("last", &[8], 0, 32).file();
        let header = complete(&file);
        assert_eq!(header.tensors[3].bytes, 96, "type {kind}: all up to the next tensor");
        assert_eq!(header.unknown_types.iter().copied().collect::<Vec<_>>(), [kind]);
        assert!(header.sizes_complete);
    }
}

#[test]
fn an_unknown_type_that_is_last_has_the_rest_of_the_file() {
    let file = small().tensor("strange", &[7, 5], 99, 100);
    let header = complete(&file.file());
    assert_eq!(header.tensors[3].bytes, 100);
    assert!(header.sizes_complete);
    // Of a download without a length nobody knows where it ends.
    let Ok(Outcome::Complete(header)) = read(&file.header(), None) else { panic!("a whole header") };
    assert_eq!(header.tensors[3].bytes, 0);
    assert!(!header.sizes_complete, "that is said");
}

#[test]
fn tensors_need_not_be_listed_in_the_order_of_their_data() {
    let listed = [("c", 256, 99), ("a", 0, 99), ("d", 320, 0), ("b", 96, 99)];
    let mut file = Gguf::new();
    for (name, offset, kind) in listed {
        file = file.tensor_at(name, &[8], kind, offset);
    }
    file.data = 352;
    let header = complete(&file.file());
    let bytes: Vec<(&str, u64)> =
        header.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.bytes)).collect();
    assert_eq!(bytes, [("c", 64), ("a", 96), ("d", 32), ("b", 160)]);
}

#[test]
fn ollamas_name_of_an_architecture_finds_its_keys() {
    let header =
        complete(&Gguf::new().text("general.architecture", "gptoss").number("gptoss.block_count", 24).file());
    assert_eq!(header.architecture(), Some("gpt-oss"));
    assert_eq!(header.arch_number("block_count"), Some(24), "the keys have the name as it is written");
}

#[test]
fn every_kind_of_number_is_read() {
    let raw = |kind, bytes: &[u8]| Meta::Raw(kind, bytes.to_vec());
    let header = complete(
        &Gguf::new()
            .entry("u8", raw(0, &[200]))
            .entry("i8", raw(1, &[0xfe]))
            .entry("u16", raw(2, &[0x34, 0x12]))
            .entry("i16", raw(3, &[0xff, 0xff]))
            .entry("i32", raw(5, &(-70_000_i32).to_le_bytes()))
            .entry("i64", raw(11, &i64::MIN.to_le_bytes()))
            .entry("f64", raw(12, &0.25_f64.to_le_bytes()))
            .entry("u64", Meta::U64(u64::MAX))
            .entry("f32", Meta::F32(-1.5))
            .entry("bool", raw(7, &[1]))
            .file(),
    );
    for (key, value) in [
        ("u8", Value::Unsigned(200)),
        ("i8", Value::Signed(-2)),
        ("u16", Value::Unsigned(0x1234)),
        ("i16", Value::Signed(-1)),
        ("i32", Value::Signed(-70_000)),
        ("i64", Value::Signed(i64::MIN)),
        ("f64", Value::Float(0.25)),
        ("u64", Value::Unsigned(u64::MAX)),
        ("f32", Value::Float(-1.5)),
        ("bool", Value::Bool(true)),
    ] {
        assert_eq!(header.value(key), Some(&value), "{key}");
    }
    assert_eq!(header.number("i8"), None, "a negative count is no count");
}

#[test]
fn the_data_begins_where_the_alignment_says() {
    for alignment in [1_u32, 32, 64, 4096] {
        let mut file = Gguf::new().number("general.alignment", alignment);
        file.alignment = u64::from(alignment);
        let file = file.tensor("a", &[3], 24, 3).tensor("b", &[8], 0, 32);
        let header = complete(&file.file());
        assert_eq!(header.data_offset, (file.header().len() as u64).next_multiple_of(u64::from(alignment)));
        assert_eq!(header.tensors[1].offset, 3_u64.next_multiple_of(u64::from(alignment)));
    }
    for alignment in [0, 3, 48, 8192, u32::MAX] {
        let file = Gguf::new().number("general.alignment", alignment).file();
        assert_eq!(refused(&file), GgufError::Alignment { found: alignment.to_string() });
    }
}
