//! The table of published models in `docs/memory.md`: calculated here, and pinned by what the page says.
//! `UPDATE_DOCS=1 cargo test -p mesh-core --test memory page` writes it.
#![expect(clippy::disallowed_methods, reason = "a test may read and write the repository's files")]

use crate::models::{Published, published};
use mesh_core::memory::{Options, Shape, footprint, largest_context};
use mesh_core::units::Bytes;
use std::fmt::Write;

const BEGIN: &str = "<!-- published models: written by core/tests/memory -->";
const END: &str = "<!-- end of published models -->";
/// RAM that a machine with one pool keeps for its system.
const KEPT_FOR_THE_SYSTEM: u64 = 8 << 30;

fn options(context: u64) -> Options {
    Options { unified: true, ..Options::new(context, 1) }
}

/// Bytes of a further token, and of what does not depend on the context.
fn caches(shape: &Shape) -> (u64, u64) {
    let of = |context| {
        let footprint = footprint(shape, &options(context));
        footprint.device.kv.0 + footprint.device.recurrent.0
    };
    let token = (of(65_536) - of(32_768)) / 32_768;
    (token, of(32_768) - 32_768 * token)
}

/// `yes`, the longest context that fits, or `no`.
fn fits(shape: &Shape, device: u64, host: u64) -> String {
    match largest_context(shape, &options(32_768), Bytes(device), Bytes(host)) {
        Some(32_768) => "yes".into(),
        Some(context) => format!("{context} tokens"),
        None => "no".into(),
    }
}

/// In one pool the weights are there once: what the host holds comes out of the same memory.
fn fits_unified(shape: &Shape, pool: u64) -> String {
    let needs = footprint(shape, &options(32_768));
    let host = needs.host.total().0 + KEPT_FOR_THE_SYSTEM;
    fits(shape, pool.saturating_sub(host), u64::MAX)
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

fn row(model: &Published) -> String {
    let shape = Shape::from_header(&model.header).expect("a model");
    let needs = footprint(&shape, &options(32_768));
    let (token, constant) = caches(&shape);
    let constant = if constant == 0 { String::new() } else { format!(" + {}", Bytes(constant)) };
    let cache = Bytes(needs.device.kv.0 + needs.device.recurrent.0);
    let (weights, rest) = if model.quantisation.is_empty() {
        ("not known here".to_owned(), "– | – | – | –".to_owned())
    } else {
        (
            format!("{} {}", model.quantisation, grouped(model.header.weight_bytes())),
            format!(
                "{} | {} | {} | {}",
                needs.device.total(),
                fits(&shape, 16 << 30, u64::MAX),
                fits(&shape, 24 << 30, u64::MAX),
                fits_unified(&shape, 128 << 30)
            ),
        )
    };
    let compute = needs.device.compute;
    format!("| {} | {weights} | {}{constant} | {cache} | {compute} | {rest} |", model.name, grouped(token))
}

#[test]
fn the_page_says_what_is_calculated() {
    let mut table = String::from(
        "| model | weights, bytes | cache: bytes for a token | cache at 32k | compute, at most | on the device | 16 GiB | 24 GiB | 128 GiB shared |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for model in published() {
        writeln!(table, "{}", row(&model)).expect("a text");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/memory.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let (before, rest) = page.split_once(BEGIN).expect("the block's begin");
    let (there, after) = rest.split_once(END).expect("the block's end");
    if std::env::var("UPDATE_DOCS").is_ok_and(|value| value == "1") {
        std::fs::write(path, format!("{before}{BEGIN}\n{table}{END}{after}")).expect("the page");
        return;
    }
    let lines = |text: &str| text.trim().lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(there), lines(&table), "UPDATE_DOCS=1 writes the page anew");
}
