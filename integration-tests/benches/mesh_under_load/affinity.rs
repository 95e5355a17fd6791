//! Conversations on three real engines: how much of each prompt is in the engine's cache already, and how soon the first
//! word comes, when the mesh remembers where they were and when it does not.

use crate::asking::{Asker, End, Outcome};
use crate::figures::{Arguments, at, head, judged, spread, told};
use integration_tests::engine_fixture::{long_winded_model, real_engine};
use integration_tests::test_mesh::TestMesh;
use integration_tests::test_node::EngineSpec;
use router::config::RouterConfig;
use serde_json::{Value, json};
use std::time::Duration;

/// The routing policies that are compared, the reference last.
const POLICIES: [&str; 2] = ["seconds", "round-robin"];
const MODEL: &str = "long-winded";

/// Cached share and times to the first content.
struct Measured {
    cached: f64,
    first: Vec<Duration>,
    failed: usize,
}

pub(crate) async fn measure(arguments: &Arguments) {
    if !real_engine().await {
        return;
    }
    let (sessions, turns) =
        (arguments.number("--sessions", 6) as usize, arguments.number("--turns", 8) as usize);
    head(&format!("{sessions} conversations of {turns} turns on three engines with two slots each"));
    let models = tempfile::tempdir().expect("a temporary folder");
    let file = long_winded_model(models.path());
    let mut results = Vec::new();
    for policy in POLICIES {
        let mut known = true;
        let mesh = TestMesh::start(|config| known = set_policy(config, policy)).await;
        if !known {
            told(&format!("`{policy}`"), "this version has no routing.policy; its only policy is measured");
        }
        let mut nodes = Vec::new();
        for name in ["a", "b", "c"] {
            nodes.push(mesh.node(name, &[EngineSpec::real(file.clone(), MODEL, 8192, 2)]).await);
        }
        let measured = converse(&Asker::of(&mesh, integration_tests::PATIENCE), sessions, turns).await;
        told(&format!("`{policy}`: first content"), &spread(&measured.first));
        told(
            &format!("`{policy}`: share of prompt tokens from the cache"),
            &format!("{:.0} %", 100.0 * measured.cached),
        );
        told(&format!("`{policy}`: failed"), &measured.failed.to_string());
        results.push(measured);
        for node in nodes {
            node.stop().await;
        }
        mesh.stop().await;
        if !known {
            return;
        }
    }
    let [ours, reference] = results.as_slice() else { return };
    let (cached, soon) = (ours.cached > reference.cached, at(&ours.first, 0.5) <= at(&reference.first, 0.5));
    judged(
        "more cached than with round-robin",
        &format!("{:+.0} points", 100.0 * (ours.cached - reference.cached)),
        "> 0",
        cached,
    );
    let ratio = at(&ours.first, 0.5).as_secs_f64() / at(&reference.first, 0.5).as_secs_f64();
    judged("median first content ÷ round-robin's", &format!("{ratio:.2}"), "≤ 1", soon);
}

/// Sets `routing.policy`. False where there is no such setting.
fn set_policy(config: &mut RouterConfig, policy: &str) -> bool {
    let mut value = serde_json::to_value(&*config).expect("it is data");
    let Some(set) = value.pointer_mut("/routing/policy") else { return false };
    *set = json!(policy);
    *config = serde_json::from_value(value).expect("a known policy");
    true
}

/// All conversations take their turns one after the other, two of them at once.
async fn converse(asker: &Asker, sessions: usize, turns: usize) -> Measured {
    let mut talks: Vec<Vec<Value>> = (0..sessions).map(|session| vec![opening(session)]).collect();
    let (mut cached, mut prompts) = (0.0, 0.0);
    let mut measured = Measured { cached: 0.0, first: Vec::new(), failed: 0 };
    for turn in 0..turns {
        for pair in talks.chunks_mut(2) {
            for talk in pair.iter_mut() {
                talk.push(json!({"role": "user", "content": format!("Turn {turn}: and then what happened to them there?")}));
            }
            let asking = pair.iter().map(|talk| asker.ask(request(talk)));
            for outcome in futures_util::future::join_all(asking).await {
                if outcome.end != End::Whole {
                    measured.failed += 1;
                }
                // Nothing can be cached the first time.
                if turn > 0 {
                    measured.first.extend(outcome.first);
                    let (hit, all) = tokens(&outcome);
                    cached += hit;
                    prompts += all;
                }
            }
            for talk in pair.iter_mut() {
                // Always the same, so that prompts are the same under every policy.
                talk.push(
                    json!({"role": "assistant", "content": "They went on, and nobody knew why they did."}),
                );
            }
        }
    }
    measured.cached = if prompts > 0.0 { cached / prompts } else { 0.0 };
    measured
}

/// Long enough that reading it takes longer than everything else.
fn opening(session: usize) -> Value {
    let story: String =
        (0..80).map(|line| format!("{session}.{line}: once there was a house by the sea. ")).collect();
    json!({"role": "system", "content": story})
}

fn request(talk: &[Value]) -> String {
    json!({"model": MODEL, "messages": talk, "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 4})
        .to_string()
}

/// Prompt tokens from the cache, and all of them, by the engine's own count.
fn tokens(outcome: &Outcome) -> (f64, f64) {
    let number = |path: &str| outcome.usage.pointer(path).and_then(Value::as_f64);
    let all = number("/usage/prompt_tokens").unwrap_or_default();
    let hit = number("/usage/prompt_tokens_details/cached_tokens").or(number("/timings/cache_n"));
    (hit.unwrap_or_default(), all)
}
