//! Reading the head of a request body: the scan of `router::http::head` beside `serde_json::Value` and a struct
//! that borrows, in one run.
//!
//! ```text
//! cargo bench -p router --bench head
//! ```

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use bytes::Bytes;
use criterion::Criterion;
use router::http::head::Head;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Duration;
use tokio::time::Instant;

/// Code as it stands in prompts: quotes, line ends and indentation become escapes.
const CODE: &str = "fn greet(name: &str) -> Result<String, Error> {\n\tlet text = format!(\"hello, {name}\\n\");\n\tif text.is_empty() {\n\t\treturn Err(Error::new(\"nothing to say\"));\n\t}\n\tOk(text)\n}\n\n";

#[derive(Deserialize)]
struct Borrowed<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    stream: Option<&'a RawValue>,
    #[serde(borrow)]
    stream_options: Option<&'a RawValue>,
}

/// A chat of about `size` bytes with its `model` at the end, where a reader that stops early gains nothing.
fn body(size: usize) -> Bytes {
    let mut code = CODE.repeat(size / CODE.len() + 1);
    let chat = |code: &str| {
        json!({
            "messages": [{"role": "system", "content": "You write code."}, {"role": "user", "content": code}],
            "temperature": 0.2, "max_tokens": 512, "stream": true,
            "stream_options": {"include_usage": true}, "model": "mesh/code",
        })
        .to_string()
    };
    while chat(&code).len() > size {
        code.pop();
    }
    Bytes::from(chat(&code))
}

fn scan(body: &Bytes) -> usize {
    Head::read(body, true).expect("valid").model.len()
}

fn value(body: &Bytes) -> usize {
    serde_json::from_slice::<Value>(body).expect("valid")["model"].as_str().map_or(0, str::len)
}

fn borrowed(body: &Bytes) -> usize {
    let fields: Borrowed<'_> = serde_json::from_slice(body).expect("valid");
    [fields.model, fields.stream, fields.stream_options]
        .into_iter()
        .flatten()
        .map(|raw| raw.get().len())
        .sum()
}

fn splice(body: &Bytes) -> usize {
    Head::read(body, true).expect("valid").splice(body, "qwen3-coder:30b").len()
}

type Reader = (&'static str, fn(&Bytes) -> usize);
const READERS: [Reader; 4] =
    [("scan", scan), ("scan and splice", splice), ("borrowed struct", borrowed), ("Value", value)];

/// The best of many rounds in seconds, all readers taking turns: what else the machine does hits all alike.
fn best(body: &Bytes) -> [f64; READERS.len()] {
    let repeats = (2_000_000 / body.len()).max(1);
    let mut best = [f64::INFINITY; READERS.len()];
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        for ((_, read), best) in READERS.iter().zip(&mut best) {
            let from = Instant::now();
            for _ in 0..repeats {
                black_box(read(black_box(body)));
            }
            *best = best.min(from.elapsed().as_secs_f64() / repeats as f64);
        }
    }
    best
}

fn main() {
    let mut criterion = Criterion::default()
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500))
        .configure_from_args();
    for size in [1 << 10, 10 << 10, 100 << 10] {
        let body = body(size);
        let mut group = criterion.benchmark_group(format!("head of {} KB", size >> 10));
        for (name, read) in READERS {
            group.bench_function(name, |bencher| bencher.iter(|| read(black_box(&body))));
        }
        group.finish();
    }
    criterion.final_summary();
    for size in [1 << 10, 10 << 10, 100 << 10] {
        let times = best(&body(size));
        for ((name, _), time) in READERS.iter().zip(times) {
            println!(
                "{:>4} KB  {name:<16} {:>8.2} us  {:>5.2} of Value",
                size >> 10,
                time * 1e6,
                time / times[3]
            );
        }
    }
}
