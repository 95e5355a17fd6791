//! What published models take: weights to the byte, caches and bounds, and the tables of `docs/memory.md`.

mod models;
mod page;
mod weights;
#[path = "../gguf/writer.rs"]
#[expect(dead_code, reason = "the tests of the reader use the rest")]
mod writer;
