//! Engines that answer wrongly in every way we could think of. Whatever one does, the client gets an explicit
//! outcome, a broken answer never ends like a whole one, others are served meanwhile, and memory is bounded.

mod cases;

use cases::{Case, Expect};
use futures_util::{StreamExt, stream};
use integration_tests::client::{Answer, Client, Ended, data_of};
use integration_tests::raw_engine::RawEngine;
use integration_tests::resident::Peak;
use integration_tests::scripted_engine::ScriptedEngine;
use integration_tests::soon;
use integration_tests::test_mesh::TestMesh;
use integration_tests::test_node::EngineSpec;
use serde_json::{Value, json};
use tokio::sync::watch;

const CHAT: &str = "/v1/chat/completions";
/// How many wrong engines are asked at once.
const AT_ONCE: usize = 8;
/// More bytes than any whole answer of the table has.
const ENOUGH: usize = 3 << 20;
/// What the router and the agent may hold for all of that: one whole answer of 128 MiB while its buffer is
/// doubled, in the router, and pieces everywhere else.
const MEMORY: u64 = 640 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_an_engine_sends_the_outcome_is_explicit_and_nobody_else_notices() {
    let mesh = TestMesh::start(|config| "3s".clone_into(&mut config.limits.answer_wait)).await;
    let cases = cases::all();
    assert!(cases.len() >= 40);
    let honest = ScriptedEngine::start("honest").await;
    let mut engines = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        engines.push(RawEngine::start(&model(number), case.plan.clone()).await);
    }
    let mut specs = vec![EngineSpec::scripted(&honest)];
    let at = |(number, engine): (usize, &RawEngine)| EngineSpec::At {
        url: engine.url.clone(),
        model: model(number),
    };
    specs.extend(engines.iter().enumerate().map(at));
    let node = mesh.node("a", &specs).await;
    let (client, peak) = (mesh.client(), Peak::watch());

    let (stop, stopped) = watch::channel(false);
    let others = tokio::spawn(honest_traffic(client.clone(), stopped));
    let wrong: Vec<String> = stream::iter(cases.iter().zip(&engines).enumerate())
        .map(|(number, (case, engine))| meets(&client, number, case, engine))
        .buffer_unordered(AT_ONCE)
        .filter_map(async |met| met.err())
        .collect()
        .await;
    stop.send_replace(true);
    mesh.until_idle(&[&node]).await;
    let growth = peak.growth();
    assert!(growth < MEMORY, "{} MiB", growth >> 20);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let served = soon("the others' end", others).await.expect("every honest request was served");
    assert!(served > 10, "others were served meanwhile: {served}");
    node.stop().await;
    mesh.stop().await;
}

fn model(number: usize) -> String {
    format!("wrong-{number}")
}

/// One honest question after another until told to stop; how many.
async fn honest_traffic(client: Client, stopped: watch::Receiver<bool>) -> usize {
    let body = json!({"model": "honest", "messages": [{"role": "user", "content": "Good morning"}]});
    let mut served = 0;
    while !*stopped.borrow() {
        let answer = client.post(CHAT, &body).await;
        assert_eq!(answer.json()["choices"][0]["message"]["content"], "from honest", "{}", answer.text());
        served += 1;
    }
    served
}

async fn meets(client: &Client, number: usize, case: &Case, engine: &RawEngine) -> Result<(), String> {
    let body = json!({
        "model": model(number), "messages": [{"role": "user", "content": "the prompt stays here"}],
        "stream": case.stream, "stream_options": {"include_usage": true},
    });
    let (answer, ended) = client.post_up_to(CHAT, &body, ENOUGH).await;
    let as_expected = match &case.expect {
        Expect::Failed => failed(&answer, ended, &[(503, "all_nodes_failed")]),
        Expect::Late => failed(&answer, ended, &[(504, "answer_too_late"), (503, "all_nodes_failed")]),
        Expect::Cut => cut(&answer, ended),
        Expect::FailedOrCut => cut(&answer, ended) || failed(&answer, ended, &[(503, "all_nodes_failed")]),
        Expect::Same(bytes) => answer.status == 200 && ended == Ended::Cleanly && answer.body == bytes,
        Expect::LeftByClient => match ended {
            Ended::Left => {
                let mut given_up = engine.given_up.clone();
                drop(
                    soon("the engine is left", given_up.wait_for(|&count| count > 0))
                        .await
                        .expect("it lives"),
                );
                true
            }
            Ended::Cleanly | Ended::Broken => cut(&answer, ended),
        },
    };
    let seen = || format!("{}: {} {ended:?} {}", case.name, answer.status, shown(&answer));
    if as_expected { Ok(()) } else { Err(seen()) }
}

/// A whole error, with one of these codes.
fn failed(answer: &Answer, ended: Ended, allowed: &[(u16, &str)]) -> bool {
    let said = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
    let code = said["error"]["code"].as_str().unwrap_or_default();
    ended == Ended::Cleanly && allowed.contains(&(answer.status, code))
}

/// A stream that ends with an error event.
fn cut(answer: &Answer, ended: Ended) -> bool {
    let text = String::from_utf8_lossy(&answer.body);
    let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
    (answer.status, ended) == (200, Ended::Cleanly)
        && data_of(last)["error"]["code"] == "node_failed_mid_stream"
        && !text.contains("[DONE]")
}

/// The begin and the end of an answer.
fn shown(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let ends = |text: &str| text.chars().take(300).collect::<String>();
    let back: String = text.chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect();
    if text.len() < 600 { text.into_owned() } else { format!("{} … {back}", ends(&text)) }
}
