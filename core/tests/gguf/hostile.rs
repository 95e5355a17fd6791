//! Files that lie: refused with an error or read, never a panic and never more memory than the bytes justify.

use crate::small;
use crate::writer::{Gguf, Meta};
use mesh_core::gguf::{GgufError, Header, KEPT_LIMIT, Outcome, STRING_LIMIT, Value, join, read};
use mesh_core::memory::{Options, Shape, footprint};
use proptest::prelude::*;

/// Bytes that a header holds in memory, without what the allocator rounds up.
fn held(header: &Header) -> usize {
    let value = |value: &Value| match value {
        Value::Text(text) => text.capacity(),
        Value::Array(array) => array.items.as_ref().map_or(0, |items| items.capacity() * size_of::<Value>()),
        Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::Bool(_) => 0,
    };
    let entries: usize =
        header.metadata.iter().map(|(key, entry)| key.capacity() + size_of::<Value>() + value(entry)).sum();
    let tensor = size_of::<mesh_core::gguf::TensorInfo>();
    let tensors: usize =
        header.tensors.iter().map(|tensor| tensor.name.capacity() + 8 * tensor.dims.capacity()).sum();
    entries + tensors + tensor * header.tensors.capacity()
}

/// Reads `bytes` in every way and uses what comes of it.
fn survive(bytes: &[u8]) {
    for size in [None, Some(bytes.len() as u64), Some(0), Some(u64::MAX)] {
        match read(bytes, size) {
            Err(error) => assert!(error.to_string().len() < 2000, "an error for people: {error}"),
            Ok(Outcome::NeedMore { at_least }) => assert!(at_least > bytes.len() as u64),
            Ok(Outcome::Complete(header)) => {
                // A byte of an array becomes a value of 32 or 40 bytes; a vector may hold twice what it needs.
                let limit = 4096 + 96 * bytes.len();
                assert!(held(&header) <= limit, "{} bytes hold {}", bytes.len(), held(&header));
                let _ = (header.weight_bytes(), header.parameters(), header.split());
                if let Ok(shape) = Shape::from_header(&header) {
                    let _ = footprint(&shape, &Options::new(4096, 2)).device.total();
                }
                let _ = join(vec![header.clone(), header]);
            }
        }
    }
}

#[test]
fn what_is_kept_of_metadata_is_bounded_over_all_entries() {
    // 4096 bytes of the file each, and 128 KiB in memory.
    let mut list = 0_u32.to_le_bytes().to_vec();
    list.extend(4096_u64.to_le_bytes());
    list.resize(list.len() + 4096, 7);
    let text = "x".repeat(usize::try_from(STRING_LIMIT).expect("it fits"));
    for (value, too_many) in [(Meta::Raw(9, list), 512), (Meta::Text(text), 4)] {
        let outcome = |count: u32| {
            let fill = |file: Gguf, n: u32| file.entry(&format!("k{n}"), value.clone());
            read(&(0..count).fold(Gguf::new(), fill).file(), None)
        };
        assert!(matches!(outcome(too_many - 1), Ok(Outcome::Complete(_))), "{too_many} less one are read");
        match outcome(too_many) {
            Err(GgufError::TooMuch { what, found, limit: KEPT_LIMIT }) => {
                assert!(what == "metadata bytes" && found > KEPT_LIMIT, "{what}: {found}");
            }
            other => panic!("{too_many} are too many, and not {:?}", other.map(drop)),
        }
    }
}

prop_compose! {
    /// A text of 0 to 12 letters, sometimes a known key.
    fn any_key()(text in prop_oneof![
        "[a-z._]{0,12}",
        Just("general.architecture".to_owned()),
        Just("general.alignment".to_owned()),
        Just("llama.block_count".to_owned()),
        Just("llama.embedding_length".to_owned()),
        Just("split.count".to_owned()),
    ]) -> String { text }
}

fn any_value() -> impl Strategy<Value = Meta> {
    prop_oneof![
        any::<u32>().prop_map(Meta::U32),
        any::<u64>().prop_map(Meta::U64),
        Just(Meta::U32(64)),
        Just(Meta::Text("llama".into())),
        prop::collection::vec(any::<u32>(), 0..20).prop_map(Meta::U32s),
        prop::collection::vec("[a-z]{0,4}", 0..20).prop_map(Meta::Texts),
        (0..15_u32, prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, bytes)| Meta::Raw(kind, bytes)),
    ]
}

fn any_file() -> impl Strategy<Value = Vec<u8>> {
    let dim = || prop_oneof![0..300_u64, any::<u64>()];
    let tensor = ("[a-z.]{0,9}", prop::collection::vec(dim(), 0..6), 0..50_u32, dim(), 0..1000_u64);
    let tensors = prop::collection::vec(tensor, 0..6);
    (prop::collection::vec((any_key(), any_value()), 0..8), tensors).prop_map(|(entries, tensors)| {
        let mut file = Gguf::new();
        for (key, value) in entries {
            file = file.entry(&key, value);
        }
        for (name, dims, kind, offset, bytes) in tensors {
            file = if offset % 2 == 0 {
                file.tensor(&name, &dims, kind, bytes)
            } else {
                file.tensor_at(&name, &dims, kind, offset)
            };
        }
        file.file()
    })
}

proptest! {
    #[test]
    fn changed_bytes_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = small().file();
        for (place, byte) in changes {
            let place = place.index(file.len());
            file[place] = byte;
        }
        survive(&file);
        survive(&file[..cut.index(file.len())]);
    }

    #[test]
    fn huge_numbers_anywhere_do_no_harm(
        place in any::<prop::sample::Index>(),
        number in prop_oneof![Just(u64::MAX), Just(1 << 63), Just(1 << 40), Just((1 << 24) - 1), 0..70_000_u64],
    ) {
        let mut file = small().file();
        let place = place.index(file.len() - 8);
        file[place..place + 8].copy_from_slice(&number.to_le_bytes());
        survive(&file);
    }

    #[test]
    fn files_of_strange_parts_do_no_harm(file in any_file()) {
        survive(&file);
    }

    #[test]
    fn noise_after_the_magic_does_no_harm(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(noise);
        survive(&file);
    }
}
