//! Headers that claim much and hold little take little memory. Alone in its process: the measure is the whole
//! process's address space, so that memory that is reserved and never touched counts too.
#![cfg(target_os = "linux")]
#![expect(clippy::disallowed_methods, reason = "a test may ask the kernel what this process has taken")]

#[path = "gguf/writer.rs"]
#[expect(dead_code, reason = "the tests beside it use the rest")]
mod writer;

use mesh_core::gguf::read;
use writer::{Gguf, Meta};

/// The address space that this process has (`VmSize`) or the most that it ever had (`VmPeak`), in bytes.
fn taken(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let number = status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().nth(1));
    number.expect("of Linux").parse::<u64>().expect("a number of KiB") << 10
}

/// A value of type `kind` that claims `length` entries and has none.
fn claimed(kind: u32, length: u64) -> Meta {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    Meta::Raw(9, bytes)
}

#[test]
fn nothing_is_allocated_for_a_number_alone() {
    let with = |change: fn(&mut Gguf)| {
        let mut file = Gguf::new().text("general.architecture", "llama");
        change(&mut file);
        file.header()
    };
    // All within the limits, so that the reader must wait for their bytes.
    let mut long_text = 8_u32.to_le_bytes().to_vec();
    long_text.extend((16_u64 << 20).to_le_bytes());
    let files = [
        with(|file| file.tensor_count = Some(1 << 18)),
        with(|file| file.entry_count = Some(1 << 16)),
        Gguf::new().entry("array", claimed(0, 1 << 24)).header(),
        Gguf::new().entry("array", claimed(8, 1 << 24)).header(),
        Gguf::new().entry("array", claimed(9, 1 << 24)).header(),
        Gguf::new().entry("array", claimed(12, 4096)).header(),
        Gguf::new().entry("text", Meta::Raw(8, long_text[4..].to_vec())).header(),
    ];
    // The start of a thread maps more than it keeps; without that room every further byte is a new peak.
    let room = taken("VmPeak") - taken("VmSize");
    let ballast: Vec<u8> = Vec::with_capacity(usize::try_from(room).expect("64 bits"));
    let before = taken("VmPeak");
    for file in files {
        for _ in 0..100 {
            // What comes of it is judged in the tests beside it.
            let _ = read(&file, None);
            let _ = read(&file, Some(1 << 40));
        }
    }
    let grown = taken("VmPeak") - before;
    drop(ballast);
    assert!(grown < 4 << 20, "headers of some 100 bytes made this process {grown} bytes larger");
}
