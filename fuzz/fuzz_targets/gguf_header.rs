//! Any bytes as a GGUF file: read in every way, judged by the reader's promises, and counted as a model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_core::gguf::{Outcome, join, read};
use mesh_core::memory::{Options, Shape, footprint, largest_context};
use mesh_core::units::Bytes;

fuzz_target!(|bytes: &[u8]| {
    let length = bytes.len() as u64;
    for size in [None, Some(length), Some(0), Some(u64::MAX)] {
        match read(bytes, size) {
            Err(error) => assert!(error.to_string().len() < 2000, "an error for people"),
            Ok(Outcome::NeedMore { at_least }) => {
                assert!(at_least > length, "more is needed than there is");
                // What is a beginning stays one when less of it is there.
                assert!(matches!(read(&bytes[..bytes.len() / 2], None), Ok(Outcome::NeedMore { .. })));
            }
            Ok(Outcome::Complete(header)) => {
                let _ = (header.weight_bytes(), header.parameters(), header.split());
                if let Ok(shape) = Shape::from_header(&header) {
                    let options = Options::new(4096, 2);
                    let _ = footprint(&shape, &options).device.total();
                    let _ = largest_context(&shape, &options, Bytes(1 << 34), Bytes(1 << 34));
                }
                let _ = join(vec![header.clone(), header]);
            }
        }
    }
});
