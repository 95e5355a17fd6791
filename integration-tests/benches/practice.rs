//! Requests as users send them, to programs that record which of their code is busy: `deploy/build-practised.sh` compiles
//! them again with what they recorded.
//!
//! ```text
//! cargo bench -p integration-tests --bench practice -- --programs DIR [--seconds 10]
//! ```
//! `modemesh up` first, then a router with an agent, on one processor and on all: with one the programs have no threads, and
//! another scheduler. Chats are asked in every dialect, whole and as a stream, with short and long prompts, by clients that
//! stay and clients that leave; embeddings, completions in the middle and tools are not. Engines are scripted ones: they
//! answer at once, and a model would only keep the processor from the programs that practise. It ends with an error when a
//! program answered with another status than expected or did not end by itself, since only then its record is whole.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

#[path = "practice/programs.rs"]
mod programs;
#[path = "practice/questions.rs"]
mod questions;

use integration_tests::scripted_engine::{Script, ScriptedEngine};
use programs::{Processors, Programs};
use questions::{Asker, question};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Requests at once.
const ASKERS: usize = 32;

/// Tokens of a long answer. What is done for each token is little and soon as busy as it needs to be to be known for it; with
/// 200 tokens it made all that is done for a request look idle.
const TOKENS: usize = 24;

/// Slots of each engine: nobody waits for one.
const SLOTS: u32 = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    // `cargo test --benches` only wants to know whether it starts.
    let Some(folder) = after("--programs") else { return };
    let seconds = after("--seconds").map_or(10, |text| text.parse().expect("--seconds takes a whole number"));
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(practise(&Programs::of(folder.as_ref()), Duration::from_secs(seconds)));
}

async fn practise(programs: &Programs, time: Duration) {
    let short = ScriptedEngine::with_slots(questions::SHORT, SLOTS).await;
    let long = ScriptedEngine::with_slots(questions::LONG, SLOTS).await;
    let tokens: Vec<String> = (0..TOKENS).map(|number| format!(" word{number}")).collect();
    long.always(Script::whole_stream(&tokens.iter().map(String::as_str).collect::<Vec<_>>()));
    let engines = [short.url.as_str(), long.url.as_str()];

    for processors in [Processors::One, Processors::All] {
        let one = programs.one_machine(&engines, processors).await;
        let asked = ask(&one.url, &one.key, time).await;
        println!("one machine, {processors}: {asked} requests were answered");
        one.end().await;
        let mesh = programs.mesh(&engines, processors).await;
        let asked = ask(&mesh.url, &mesh.key, time).await;
        println!("router and agent, {processors}: {asked} requests were answered");
        mesh.end().await;
    }
}

/// Asks everything again and again; how many requests that were.
async fn ask(url: &str, key: &str, time: Duration) -> usize {
    let (asker, end) = (Asker::new(url, key), Instant::now() + time);
    let asked = Arc::new(AtomicUsize::new(0));
    let mut asking = JoinSet::new();
    for _ in 0..ASKERS {
        let (asker, asked) = (asker.clone(), asked.clone());
        asking.spawn(async move {
            while Instant::now() < end {
                asker.ask(&question(asked.fetch_add(1, Ordering::Relaxed))).await;
            }
        });
    }
    asking.join_all().await;
    asked.load(Ordering::Relaxed)
}
