//! Small hostile files in `core/tests/corpus/gguf`, named by what is wrong with them, and what each is answered.
//! The same files are the seeds of `fuzz/`. `UPDATE_CORPUS=1 cargo test -p mesh-core --test gguf corpus` writes
//! both the files and `expected.txt`; the files are replayed from the disk, so that one that a fuzzer found can
//! be put beside them.
#![expect(clippy::disallowed_methods, reason = "a test may read and write the repository's files")]

use crate::small;
use crate::writer::{Gguf, Meta, string};
use mesh_core::gguf::{Outcome, read};
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/gguf")
}

/// The claim of an array: the type and the number of its entries.
fn claim(kind: u32, length: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &length.to_le_bytes()].concat()
}

/// A model with one entry more.
fn with(key: &str, value: Meta) -> Vec<u8> {
    small().entry(key, value).file()
}

/// A model with one tensor more, of 32 bytes.
fn and_tensor(name: &str, dims: &[u64], kind: u32) -> Vec<u8> {
    small().tensor(name, dims, kind, 32).file()
}

fn changed(change: fn(&mut Gguf)) -> Vec<u8> {
    let mut file = small();
    change(&mut file);
    file.file()
}

/// Replaces the first `from` by as many bytes.
fn patched(mut file: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = file.windows(from.len()).position(|window| window == from).expect("the text is there");
    file[at..at + to.len()].copy_from_slice(to);
    file
}

/// What is wrong, and the file.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let whole = small().file();
    let header = small().header();
    let nested = |depth: usize| [claim(9, 1).repeat(depth), claim(0, 0)].concat();
    let long_key = |length: usize| Gguf::new().entry(&"k".repeat(length), Meta::Bool(true)).file();
    let raw_key = |length: u64| {
        [&Gguf { entry_count: Some(1), ..Gguf::new() }.header(), &length.to_le_bytes()[..]].concat()
    };
    let mut bad_text = Vec::new();
    string(&mut bad_text, &[0xff, 0xfe, b'!']);
    vec![
        ("good-small", whole.clone()),
        ("good-no-tensors", Gguf::new().text("general.architecture", "llama").file()),
        ("good-no-metadata", Gguf::new().tensor("a", &[8], 0, 32).file()),
        ("good-version-2", changed(|file| file.version = 2)),
        ("good-unknown-type", and_tensor("strange", &[7, 5], 137)),
        ("good-no-dimensions", and_tensor("scalar", &[], 0)),
        ("good-text-of-another-encoding", with("general.name", Meta::Raw(8, bad_text))),
        ("good-padding-after-the-data", [whole.clone(), vec![0; 100]].concat()),
        ("empty", Vec::new()),
        ("magic-alone", b"GGUF".to_vec()),
        ("magic-of-an-older-format", [b"ggjt", &whole[4..]].concat()),
        ("magic-of-a-web-page", b"<!DOCTYPE html><html><body>Sign in".to_vec()),
        ("version-0", changed(|file| file.version = 0)),
        ("version-1", changed(|file| file.version = 1)),
        ("version-4", changed(|file| file.version = 4)),
        ("version-huge", changed(|file| file.version = u32::MAX)),
        ("big-endian", changed(|file| file.version = 3_u32.swap_bytes())),
        ("tensor-count-over-the-limit", changed(|file| file.tensor_count = Some((1 << 18) + 1))),
        ("tensor-count-huge", changed(|file| file.tensor_count = Some(u64::MAX))),
        ("tensor-count-of-one-more", changed(|file| file.tensor_count = Some(4))),
        ("metadata-count-over-the-limit", changed(|file| file.entry_count = Some((1 << 16) + 1))),
        ("metadata-count-of-one-more", changed(|file| file.entry_count = Some(11))),
        ("metadata-count-of-one-less", changed(|file| file.entry_count = Some(9))),
        ("key-too-long", long_key(65_536)),
        ("key-length-huge", raw_key(u64::MAX)),
        ("key-no-utf-8", patched(whole.clone(), b"llama.block_count", b"llama.\xff\xffock_count")),
        ("key-twice", with("llama.block_count", Meta::U32(2))),
        ("value-type-unknown", with("strange", Meta::Raw(13, vec![0; 8]))),
        ("value-type-huge", with("strange", Meta::Raw(u32::MAX, vec![0; 8]))),
        (
            "text-length-over-the-limit",
            with("text", Meta::Raw(8, ((16_u64 << 20) + 1).to_le_bytes().to_vec())),
        ),
        ("text-length-huge", with("text", Meta::Raw(8, u64::MAX.to_le_bytes().to_vec()))),
        ("text-longer-than-the-file", with("text", Meta::Raw(8, (1_u64 << 20).to_le_bytes().to_vec()))),
        ("array-of-an-unknown-type", with("array", Meta::Raw(9, claim(99, 1)))),
        ("array-length-over-the-limit", with("array", Meta::Raw(9, claim(0, (1 << 24) + 1)))),
        ("array-length-huge", with("array", Meta::Raw(9, claim(12, u64::MAX)))),
        ("array-length-times-size-overflows", with("array", Meta::Raw(9, claim(12, 1 << 61)))),
        ("array-longer-than-the-file", with("array", Meta::Raw(9, claim(12, 1 << 20)))),
        ("arrays-nested-too-deep", with("array", Meta::Raw(9, nested(3)))),
        ("arrays-nested-to-break-the-stack", with("array", Meta::Raw(9, nested(1000)))),
        ("alignment-0", with("general.alignment", Meta::U32(0))),
        ("alignment-no-power-of-two", with("general.alignment", Meta::U32(48))),
        ("alignment-over-the-limit", with("general.alignment", Meta::U32(8192))),
        ("alignment-a-text", with("general.alignment", Meta::Text("32".into()))),
        ("alignment-negative", with("general.alignment", Meta::Raw(5, (-32_i32).to_le_bytes().to_vec()))),
        ("tensor-name-too-long", and_tensor(&"n".repeat(1025), &[8], 0)),
        ("tensor-name-no-utf-8", patched(whole.clone(), b"token_embd", b"token_\xff\xff\xff\xff")),
        ("tensor-twice", and_tensor("output_norm.weight", &[8], 0)),
        ("tensor-dimensions-5", and_tensor("deep", &[2, 2, 2, 1, 1], 0)),
        ("tensor-dimensions-huge", {
            let name = b"output_norm.weight";
            patched(whole.clone(), &[&name[..], &[1, 0, 0, 0]].concat(), &[&name[..], &[0xff; 4]].concat())
        }),
        ("tensor-dimension-0", and_tensor("nothing", &[8, 0], 0)),
        ("tensor-dimensions-overflow", and_tensor("vast", &[1 << 40, 1 << 40], 0)),
        ("tensor-bytes-overflow", and_tensor("vast", &[1 << 32, 1 << 31], 0)),
        ("tensor-unknown-type-overflows", and_tensor("vast", &[u64::MAX, 3], 137)),
        ("tensor-row-within-a-block", and_tensor("split", &[40, 2], 8)),
        ("tensor-offset-unaligned", small().tensor_at("odd", &[8], 0, 5001).file()),
        ("tensor-offset-huge", small().tensor_at("far", &[8], 0, u64::MAX - 31).file()),
        ("tensors-overlap", small().tensor_at("over", &[8], 0, 384).file()),
        ("tensors-at-one-place", small().tensor_at("same", &[64], 0, 4736).file()),
        ("tensor-beyond-the-file", small().tensor_at("beyond", &[1 << 20], 0, 4992).file()),
        ("cut-in-the-head", header[..20].to_vec()),
        ("cut-in-the-metadata", header[..200].to_vec()),
        ("cut-in-the-tensors", header[..header.len() - 1].to_vec()),
        ("cut-before-the-data", header.clone()),
        ("cut-in-the-data", whole[..whole.len() - 1].to_vec()),
    ]
}

/// What the reader answers, in one line.
fn answer(file: &[u8]) -> String {
    match read(file, Some(file.len() as u64)) {
        Ok(Outcome::Complete(header)) => {
            let unknown = if header.unknown_types.is_empty() { "" } else { ", types unknown" };
            let (entries, tensors) = (header.metadata.len(), header.tensors.len());
            format!("ok: {entries} entries, {tensors} tensors of {} bytes{unknown}", header.weight_bytes())
        }
        Ok(Outcome::NeedMore { at_least }) => format!("ok so far: {at_least} bytes are needed"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_file_of_the_corpus_is_answered_as_before() {
    let folder = folder();
    let is_update = std::env::var("UPDATE_CORPUS").is_ok_and(|value| value == "1");
    if is_update {
        std::fs::create_dir_all(&folder).expect("a folder");
        for (name, file) in files() {
            std::fs::write(folder.join(format!("{name}.gguf")), file).expect("a file");
        }
    }
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(".gguf").map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.len() >= 25, "the corpus has {} files", names.len());
    let mut answers = String::new();
    for name in names {
        let file = std::fs::read(folder.join(format!("{name}.gguf"))).expect("a file");
        assert!(file.len() < 100_000, "{name} is small");
        writeln!(answers, "{name}: {}", answer(&file)).expect("a text");
    }
    let table = folder.join("expected.txt");
    if is_update {
        std::fs::write(&table, &answers).expect("a file");
    }
    let expected = std::fs::read_to_string(&table).expect("UPDATE_CORPUS=1 writes it");
    assert_eq!(expected.lines().collect::<Vec<_>>(), answers.lines().collect::<Vec<_>>());
}

#[test]
fn the_corpus_on_the_disk_is_what_the_writer_writes() {
    for (name, file) in files() {
        let there = std::fs::read(folder().join(format!("{name}.gguf"))).expect("UPDATE_CORPUS=1 writes it");
        assert_eq!(there, file, "{name}");
        let is_good = answer(&file).starts_with("ok: ");
        assert_eq!(is_good, name.starts_with("good-"), "{name}: {}", answer(&file));
    }
}
