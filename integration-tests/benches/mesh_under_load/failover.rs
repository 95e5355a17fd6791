//! One of two agents is killed (`kill -9`) under a steady rate: nobody who had no content yet may notice more than
//! a wait.

use crate::asking::{Asker, End, Outcome};
use crate::figures::{Arguments, at, head, judged, spread, told};
use integration_tests::scripted_engine::{Script, ScriptedEngine, Step};
use integration_tests::test_mesh::{TestMesh, machine};
use integration_tests::test_node::EngineSpec;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Tokens of an answer, and before the first one the same pause as between them.
const TOKENS: usize = 20;
/// Between tokens.
const PACE: Duration = Duration::from_millis(20);
/// More than there are answers at once on one engine.
const AT_ONCE: usize = 256;
/// When the agent dies, and how long the rate goes on after that.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(6);

pub(crate) async fn measure(arguments: &Arguments) {
    let (trials, rate) = (arguments.number("--kills", 10), f64::from(arguments.number("--rate", 50)));
    let mesh = TestMesh::automatic().await;
    let slots = u32::try_from(AT_ONCE).expect("few");
    let start = || ScriptedEngine::with_slots("tiny", slots);
    let engines = [start().await, start().await];
    for engine in &engines {
        engine.always(paced());
    }
    let specs = [0, 1].map(|which: usize| [EngineSpec::scripted(&engines[which])]);
    let mut dying = mesh.node_process("dying", &specs[0]).await;
    let _staying = mesh.node_process("staying", &specs[1]).await;
    let asker = Asker::of(&mesh, integration_tests::PATIENCE);
    let body = json!({"model": "tiny", "stream": true, "messages": [{"role": "user", "content": "Yes?"}]})
        .to_string();

    let mut all = Vec::new();
    for _ in 0..trials {
        let asking = asker.keep_asking(rate, BEFORE + AFTER, |_| body.clone());
        let killing = async {
            tokio::time::sleep(BEFORE).await;
            dying.kill();
            Instant::now()
        };
        // All waiting answers go one token further at each tick.
        let ticking = async {
            let mut tick = tokio::time::interval(PACE);
            loop {
                tick.tick().await;
                engines.iter().for_each(|engine| (0..AT_ONCE).for_each(|_| engine.go_on()));
            }
        };
        let (asked, killed) = tokio::select! {
            both = async { tokio::join!(asking, killing) } => both,
            never = ticking => never,
        };
        all.extend(asked.into_iter().map(|(_, outcome)| (killed, outcome)));
        dying.start_again();
        let name = machine("dying");
        // Its old life was noticed long ago: requests went on for seconds.
        mesh.until_serves(&name, &specs[0]).await;
    }

    head(&format!("An agent is killed under {rate} req/s, {trials} times, {} requests", all.len()));
    let count = |wanted: &dyn Fn(&Outcome) -> bool| all.iter().filter(|(_, outcome)| wanted(outcome)).count();
    let empty = count(&|outcome| outcome.end != End::Whole && outcome.first.is_none());
    judged("failed before any content", &empty.to_string(), "0", empty == 0);
    let silent = count(&|outcome| outcome.end == End::Broken && outcome.first.is_some());
    judged("broke off without a word", &silent.to_string(), "0", silent == 0);
    told(
        "broke off with an error that says so",
        &count(&|outcome| outcome.end == End::ToldError).to_string(),
    );
    let mut statuses: Vec<u16> = all.iter().map(|(_, outcome)| outcome.status).collect();
    statuses.sort_unstable();
    statuses.dedup();
    told("statuses", &format!("{statuses:?}"));
    let first = |of: &dyn Fn(&Instant, &Outcome) -> bool| -> Vec<Duration> {
        all.iter()
            .filter(|(killed, outcome)| of(killed, outcome))
            .filter_map(|(_, outcome)| outcome.first)
            .collect()
    };
    told(
        "first content, before the kill",
        &spread(&first(&|killed, outcome| outcome.first.is_some_and(|first| outcome.sent + first < *killed))),
    );
    let caught = first(&|killed, outcome| {
        outcome.sent <= *killed && outcome.first.is_some_and(|first| outcome.sent + first > *killed)
    });
    told("first content, of requests that waited for it at the kill", &spread(&caught));
    let next =
        first(&|killed, outcome| outcome.sent > *killed && outcome.sent < *killed + Duration::from_secs(3));
    told("first content, of requests in the 3 s after it", &spread(&next));
    let worst = at(&[caught, next].concat(), 0.99).as_secs_f64() * 1e3;
    told("first success elsewhere, p99 of both", &format!("{worst:.0} ms"));
}

/// An answer that goes on at each tick.
fn paced() -> Script {
    let send = |delta, finish| {
        let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
        Step::Send(format!(
            "data: {}\n\n",
            json!({"id": "paced", "object": "chat.completion.chunk", "choices": choices})
        ))
    };
    let mut steps = Vec::new();
    for number in 0..TOKENS {
        steps.extend([Step::Wait, send(json!({"content": format!("{number} ")}), json!(null))]);
    }
    steps.extend([send(json!({}), json!("stop")), Step::Send("data: [DONE]\n\n".into())]);
    Script::Answer { status: 200, content_type: "text/event-stream", body: steps }
}
